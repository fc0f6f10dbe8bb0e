package container

import (
	"fmt"
	"slices"
	"time"
)

// WithTrace has the time of each step of the start taken, for [Container.Trace], and
// of each job of Exec, for [Process.Trace]. Without it no time is taken, and a start
// is as quick as it can be; with it each step costs a system call more, and the
// start some messages and files more.
func WithTrace() Option {
	return newOption("WithTrace", "", func(s *Spec) { s.Trace = true })
}

// StepTime is a step of a start, and how long it took.
type StepTime struct {
	// Phase is the plan that the step is of; "launcher" for the clone of init, or
	// the taking of one that was made ahead, which is no plan's.
	Phase Phase `json:"phase"`
	// Step is its number, as Explain has it; 0 for the clone.
	Step int `json:"step,omitempty"`
	// Call is the system call in strace's manner, as Explain has it.
	Call string `json:"call"`
	// Time is how long it took, its entry to the kernel and return included, and the
	// taking of the time. It is 0 where it could not be taken: after a seccomp profile
	// that does not allow clock_gettime(2); the profile's own step then has the time
	// of all that follow.
	Time time.Duration `json:"time_ns"`
}

// String is the line of Explain, with the seconds in the manner of strace -T.
func (s StepTime) String() string {
	at := fmt.Sprintf("%-8s %3d  ", s.Phase, s.Step)
	if s.Step == 0 {
		at = fmt.Sprintf("%-14s", s.Phase)
	}
	return fmt.Sprintf("%s%s <%.6f>", at, s.Call, s.Time.Seconds())
}

// Trace returns what was done to start the container, step by step in the order of
// Explain, and how long each took: up to the job's execve(2) or, of a start that
// failed, up to the step that did. It is nil before Start has returned, without
// [WithTrace], and where not all of it came back, for want of memory.
//
// The steps are the launcher's, init's and the job's; what lies between them, the
// host program's own part and waiting for one another, is in none: their sum is less
// than Start took.
func (c *Container) Trace() []StepTime {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.trace)
}
