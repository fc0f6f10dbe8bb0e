package container

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
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
	// It matches os.ErrProcessDone.
	ErrEnded error = &twinError{"inlay: already ended", os.ErrProcessDone}
	// ErrNotFound means that the command is not in the container. It matches
	// exec.ErrNotFound of os/exec.
	ErrNotFound error = &twinError{"command not found", exec.ErrNotFound}
	// ErrNotExecutable means that the command is there and cannot be executed.
	ErrNotExecutable = errors.New("command not executable")
)

// twinError is a condition that has a name elsewhere too: errors.Is finds both.
type twinError struct {
	text string
	twin error
}

func (e *twinError) Error() string { return e.text }

// Is finds the other name.
func (e *twinError) Is(target error) bool { return target == e.twin }

// OptionError says what is wrong with one option. New joins all of them.
type OptionError struct {
	Option string // the option's name: "WithHostname"
	Value  string // as it was given, shortened
	Reason string // what is wrong
	Remedy string // what would be right; may be empty
}

// Error names the option, the value and the reason.
func (e *OptionError) Error() string {
	msg := fmt.Sprintf("inlay: %s(%s): %s", e.Option, oneLine(e.Value), oneLine(e.Reason))
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
	what := strings.TrimSpace(e.Op + " " + oneLine(e.Path))
	msg := fmt.Sprintf("inlay: %s: %s: %v", e.Phase, what, e.Err)
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// Unwrap returns the kernel's answer.
func (e *StartError) Unwrap() error { return e.Err }

// LeftError is what Close, or a Start that failed, could not remove: processes that
// SIGKILL has not ended, since they hang in the kernel (a disk or a network file
// system that does not answer) or somebody froze them, and what belongs to them.
// Close can be called again, and [Prune] tries it too.
type LeftError struct {
	ID        string        // the container's
	Processes []LeftProcess // as far as the host lets this user see them; at most 32
	Groups    []string      // folders of control groups
}

// LeftProcess is a process that was killed and has not ended.
type LeftProcess struct {
	PID   int    `json:"pid"`             // on the host
	Name  string `json:"name"`            // of the job's own choice
	State string `json:"state"`           // a letter as in proc_pid_stat(5): D waits in the kernel
	Where string `json:"where,omitempty"` // the kernel's function that it waits in; "" where it is not told
}

// Error names the processes and the control groups.
func (e *LeftError) Error() string {
	msg := "container " + e.ID + " was killed and does not end"
	if len(e.Processes) > 0 {
		msg += ": " + leftText(e.Processes)
	}
	if len(e.Groups) > 0 {
		msg += "; left: " + strings.Join(e.Groups, ", ")
	}
	return msg + " (Close again, or container.Prune, when the kernel has let go)"
}

// leftText names processes: those that wait in the kernel first, a few of them.
func leftText(list []LeftProcess) string {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b LeftProcess) int { return rank(a) - rank(b) })
	const most = 4
	var words []string
	for _, p := range list[:min(len(list), most)] {
		word := fmt.Sprintf("process %d (%q) in state %s", p.PID, p.Name, p.State)
		if p.Where != "" {
			word += ", waiting in " + p.Where
		}
		words = append(words, word)
	}
	if more := len(list) - most; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, "; ")
}

func rank(p LeftProcess) int {
	if p.State == "D" {
		return 0
	}
	return 1
}

// ExitError is a job that did not end well, for those who want an error:
// [Result.Err] and [Cmd.Wait] make it.
type ExitError struct {
	Result *Result
	// Stderr is what [Cmd.Output] kept of the job's standard error, where Cmd.Stderr
	// was not set: its first and last 32 KiB, and between them how many bytes were left out.
	Stderr []byte
}

// Error says how the job ended, as os/exec does: "exit status 1".
func (e *ExitError) Error() string { return e.Result.verdict() }

// ExitCode is the job's exit code; -1 where a signal ended it.
func (e *ExitError) ExitCode() int { return e.Result.ExitCode }

// Unwrap returns what cancelled the job, if that ended it.
func (e *ExitError) Unwrap() error { return e.Result.cause }

// oneLine quotes what would break a log's line, or talk to a terminal.
func oneLine(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(s)
	}
	return s
}
