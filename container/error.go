package container

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Conditions that errors.Is finds.
var (
	// ErrStarted is returned by a second Start: a Container is one run.
	ErrStarted = errors.New("inlay: already started")
	// ErrNotStarted is returned by methods that need a started container.
	ErrNotStarted = errors.New("inlay: not started")
	// ErrClosed is returned by methods of a closed container.
	ErrClosed = errors.New("inlay: closed")
	// ErrEnded is returned where the job, or the container, has ended already.
	ErrEnded = errors.New("inlay: already ended")
	// ErrNotFound means that the command is not in the container.
	ErrNotFound = errors.New("command not found")
	// ErrNotExecutable means that the command is there and cannot be executed.
	ErrNotExecutable = errors.New("command not executable")
)

// OptionError says what is wrong with one option. New joins all of them.
type OptionError struct {
	Option string // the option's name: "WithHostname"
	Value  string // as it was given, shortened
	Reason string // what is wrong
	Remedy string // what would be right; may be empty
}

// Error names the option, the value and the reason.
func (e *OptionError) Error() string {
	msg := fmt.Sprintf("inlay: %s(%s): %s", e.Option, e.Value, e.Reason)
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// LimitError says that this host, or this version, cannot enforce a limit that
// was asked for: then it matches errors.ErrUnsupported; wrap the option in
// [Optional] to go on without. Or that the limit is kept and so low that the job
// could not even begin: then it matches the kernel's answer.
type LimitError struct {
	Option string // "WithMemoryLimit"
	Reason string
	Remedy string

	err error // where the limit is kept, and met before the job began
}

// Error names the limit, the reason and the remedy.
func (e *LimitError) Error() string {
	msg := fmt.Sprintf("inlay: %s: %s", e.Option, e.Reason)
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// Unwrap returns errors.ErrUnsupported, or the kernel's answer to a job that met
// the limit before it began.
func (e *LimitError) Unwrap() error {
	if e.err != nil {
		return e.err
	}
	return errors.ErrUnsupported
}

// Phase is the part of a start: which of the container's plans, and so which
// process, met the error.
type Phase string

// The phases, in their order.
const (
	PhasePrepare  Phase = Phase(plan.Prepare)  // host and launcher, before init exists
	PhaseStepIn   Phase = Phase(plan.StepIn)   // the short-lived process that joins namespaces
	PhaseParent   Phase = Phase(plan.Parent)   // the launcher: id maps
	PhaseChild    Phase = Phase(plan.Child)    // init: root, mounts, hostname
	PhaseExec     Phase = Phase(plan.Exec)     // the job, up to its execve
	PhaseTeardown Phase = Phase(plan.Teardown) // the launcher, after the end
)

// StartError reports the first operation of a start that failed. The job has
// not run, and nothing of the container is left.
//
// errors.Is sees the kernel's answer, errors.Is(err, fs.ErrPermission), and for
// commands ErrNotFound and ErrNotExecutable.
type StartError struct {
	Phase  Phase
	Op     string // as its man page is called: "mount"
	Path   string // what it acted upon, as the acting process saw it; may be empty
	Err    error  // a syscall.Errno, or what wraps one
	Remedy string // what the reader can do; empty if nobody knows
}

// Error says what failed, on what, and what can be done.
func (e *StartError) Error() string {
	path := e.Path
	if strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		path = strconv.Quote(path) // a log line stays one line
	}
	what := strings.TrimSpace(e.Op + " " + path)
	msg := fmt.Sprintf("inlay: %s: %s: %v", e.Phase, what, e.Err)
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// Unwrap returns the kernel's answer.
func (e *StartError) Unwrap() error { return e.Err }

// ExitError is a job that did not end well, for those who want an error:
// [Result.Err] makes it.
type ExitError struct {
	Result *Result
}

// Error says how the job ended, as os/exec does: "exit status 1".
func (e *ExitError) Error() string { return e.Result.verdict() }

// ExitCode is the job's exit code; -1 where a signal ended it.
func (e *ExitError) ExitCode() int { return e.Result.ExitCode }

// Unwrap returns what cancelled the job, if that ended it.
func (e *ExitError) Unwrap() error { return e.Result.cause }
