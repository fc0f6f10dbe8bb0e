package container

import (
	"time"

	"github.com/inlay-dev/inlay/security"
)

// ProfileJudge is for a stranger's program that is measured: a submission to a
// contest, or a course. It has one processor, 256 MiB with as much of it for its
// stack, 64 processes, 10 s of processor time in at most 30 s, and 64 MiB of output,
// and of the system calls those that computing needs ([security.Strict]).
//
// Like all profiles it is a bundle of options that could be written out: printing it
// does so. An option that comes after it wins over it. A host that cannot keep one of
// the limits refuses it at Start, as ever; with [Optional] around the profile the
// start goes on without those, and names them.
func ProfileJudge() JobOption {
	return newProfile("ProfileJudge",
		WithSeccomp(security.Strict()),
		WithMemoryLimit(256*MiB),
		WithStackLimit(256*MiB),
		WithCPULimit(1),
		WithPidsLimit(64),
		WithCPUTimeLimit(10*time.Second),
		WithTimeLimit(30*time.Second),
		WithOutputLimit(64*MiB),
	)
}

// ProfileJob is for a step of a build, a conversion, a batch: two processors, 2 GiB,
// 1,024 processes, an hour, of which it may be idle for ten minutes, and 256 MiB of
// output. See [ProfileJudge] for what a profile is.
func ProfileJob() JobOption {
	return newProfile("ProfileJob",
		WithMemoryLimit(2*GiB),
		WithCPULimit(2),
		WithPidsLimit(1024),
		WithTimeLimit(time.Hour),
		WithIdleLimit(10*time.Minute),
		WithOutputLimit(256*MiB),
	)
}

// ProfileAgent is for code that a model wrote, whose output somebody reads: one
// processor, 1 GiB, 256 processes, two minutes and 1 MiB of output. See
// [ProfileJudge] for what a profile is.
func ProfileAgent() JobOption {
	return newProfile("ProfileAgent",
		WithMemoryLimit(GiB),
		WithCPULimit(1),
		WithPidsLimit(256),
		WithTimeLimit(2*time.Minute),
		WithOutputLimit(MiB),
	)
}

// ProfileService is for what runs until it is stopped: one processor, 512 MiB, 256
// processes, and 30 s to end when it is asked to, by Stop or by the end of [Run]'s
// context. See [ProfileJudge] for what a profile is.
func ProfileService() Option {
	return serviceProfile{"ProfileService", bundle[Option]{
		WithMemoryLimit(512 * MiB),
		WithCPULimit(1),
		WithPidsLimit(256),
		WithStopGrace(30 * time.Second),
		WithStopOnCancel(),
	}}
}

// jobProfile is a bundle with a name.
type jobProfile struct {
	name string
	jobBundle
}

func newProfile(name string, opts ...JobOption) JobOption { return jobProfile{name, jobBundle{opts}} }

func (p jobProfile) String() string { return p.name + "(" + p.jobBundle.String() + ")" }

// serviceProfile is a jobProfile with options that are a container's alone.
type serviceProfile struct {
	name string
	bundle[Option]
}

func (p serviceProfile) String() string { return p.name + "(" + p.bundle.String() + ")" }
