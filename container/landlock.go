package container

import (
	"errors"
	"fmt"
	"strings"

	"github.com/inlay-dev/inlay/security"
)

// WithLandlock restricts, by Landlock, what the job may do with files, TCP ports,
// signals and abstract sockets, within what the container has: [security.AllowRead],
// [security.AllowWrite], [security.AllowBind], [security.AllowConnect],
// [security.ScopeSignals] and [security.ScopeAbstractSockets]. What no rule speaks of is
// as without it. Given twice, the rules add up; a job of Exec has the container's,
// where it has none of its own.
//
// The rules hold for the job's own program too: it and its libraries must be
// among the paths, if there are paths.
//
// Start answers a StartError where the kernel does not keep all of the rules; in [Optional],
// it goes on with those that it does keep, and [Container.Dropped] says what is missing.
func WithLandlock(rules ...security.LandlockRule) JobOption {
	return newJobOption("WithLandlock", security.NewLandlock(rules...), func(j *Job) {
		l := security.Landlock{}
		if j.Landlock != nil {
			l = *j.Landlock
		}
		for _, r := range rules {
			if r != nil {
				r(&l)
			}
		}
		j.Landlock = &l
	})
}

func (j *Job) validateLandlock(f *faults) {
	if j.Landlock == nil {
		return
	}
	if err := j.Landlock.Validate(); err != nil {
		f.add("WithLandlock", j.Landlock.String(), err.Error())
	}
}

// landlock is the job's rules: its own, or the container's.
func (s *Spec) landlock(j *Job) *security.Landlock {
	if j.Landlock != nil {
		return j.Landlock
	}
	return s.Job.Landlock
}

// checkLandlock finds out whether this kernel keeps the rules; what it does not, and
// need not, is given to drop.
func (s *Spec) checkLandlock(j *Job, h *host, drop func(option, reason string)) error {
	l := s.landlock(j)
	if l == nil {
		return nil
	}
	missing := l.Missing(h.landlock)
	if len(missing) == 0 {
		return nil
	}
	_, err := security.LandlockABI()
	reason := "this kernel's Landlock does not keep " + strings.Join(missing, ", ")
	if err != nil {
		reason = "there is no Landlock here: " + err.Error()
	}
	if j.optional("WithLandlock") || s.Job.optional("WithLandlock") {
		drop("WithLandlock", reason)
		return nil
	}
	return &StartError{
		Phase: PhasePrepare, Op: "landlock", Err: fmt.Errorf("%s: %w", reason, errors.Join(errors.ErrUnsupported, err)),
		Remedy: "a newer kernel, started with lsm=…,landlock, or container.Optional(container.WithLandlock(…)) to do without",
	}
}
