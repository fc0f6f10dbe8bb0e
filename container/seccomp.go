package container

import (
	"runtime"

	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/security"
)

// WithSeccomp sets which system calls the job may make: a profile by
// [security.ParseSeccomp], [security.Strict], or [security.Unconfined]. Without it a job has Docker's
// default profile for its capabilities, [security.DefaultSeccomp]; one of Exec has
// the container's own profile, where that was given.
//
// The filter is the last thing that a job gets before its execve(2), which the
// profile has to allow. A call that it answers by a kill ends the job with SIGSYS.
// A profile with SCMP_ACT_NOTIFY is refused: there is nobody to answer.
func WithSeccomp(profile *security.Seccomp) JobOption {
	return newJobOption("WithSeccomp", formatted("%v", profile), func(j *Job) { j.Seccomp = profile })
}

// profile is the job's: its own, the container's, or the default.
func (s *Spec) profile(j *Job) (*security.Seccomp, error) {
	switch {
	case j.Seccomp != nil:
		return j.Seccomp, nil
	case s.Job.Seccomp != nil:
		return s.Job.Seccomp, nil
	}
	if s.UserNamespaceCreation {
		return security.NestingSeccomp(j.Capabilities)
	}
	return security.DefaultSeccomp(j.Capabilities)
}

// filter is the job's profile, compiled.
func (s *Spec) filter(j *Job, arch plan.Arch) (*security.Seccomp, []uint64, error) {
	p, err := s.profile(j)
	if err != nil {
		return nil, nil, err
	}
	program, err := p.Compile(string(arch))
	return p, program, err
}

// checkSeccomp finds what is wrong with a job's filter before its plan is made.
func (s *Spec) checkSeccomp(j *Job, arch plan.Arch) error {
	if _, _, err := s.filter(j, arch); err != nil {
		return &StartError{Phase: PhasePrepare, Op: "seccomp", Err: err, Remedy: "another profile, or security.Unconfined"}
	}
	return nil
}

// validateSeccomp finds what is wrong with the profile that was given.
func (j *Job) validateSeccomp(f *faults) {
	if j.Seccomp == nil {
		return
	}
	if j.Seccomp.Notifies() {
		f.add("WithSeccomp", j.Seccomp.String(), "SCMP_ACT_NOTIFY: there is nobody to answer, in this version")
	}
	if _, err := j.Seccomp.Compile(runtime.GOARCH); err != nil {
		f.add("WithSeccomp", j.Seccomp.String(), err.Error())
	}
}
