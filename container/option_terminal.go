package container

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// TerminalSize is how large a terminal is, in characters; 0 stands for 24 rows and for
// 80 columns.
type TerminalSize struct {
	Rows int `json:"rows"`
	Cols int `json:"cols"`
}

// String is "24x80", rows first, as stty(1) has it.
func (s TerminalSize) String() string { return fmt.Sprintf("%dx%d", s.Rows, s.Cols) }

const (
	defaultRows = 24
	defaultCols = 80
)

// WithTerminal gives the job a terminal as its stdin, stdout and stderr, and as the
// controlling terminal of its session: a pseudo terminal of the container's own
// devpts(5), which the job's user owns. rows and cols are 0 to 65535; 0 stands for 24
// rows and 80 columns. Without it the job has no terminal. TERM is xterm then, unless
// WithEnv says otherwise.
//
// With [WithStdout] all that the job writes is copied to the writer, be it a file; with
// [WithStdin] what the reader gives is typed in, and its end is typed as end-of-file (^D)
// in turn. Without them, the master is the caller's to read from and write to, by
// [Process.Terminal] or [Container.Terminal]: who does not read holds the job up. In
// [Run] and [Cmd.Run] nobody could: there they are, as without a terminal, empty and
// discarded. [Process.Resize] tells the job of another size.
//
// New reports another size; [WithStderr], unless it is WithStdout's writer: a terminal
// has one output; and [WithOutputLimit] without WithStdout, since nobody would count.
//
// The bytes are what the kernel makes of the job's: lines end in CR LF. What is typed
// is echoed until the job turns that off. The output ends when no process has the
// terminal open any more; what a process that the job left behind writes is given up on
// as with a pipe, a second after the job's end: Result.Truncated says so.
//
// See pty(7), tty(4), termios(3).
func WithTerminal(rows, cols int) JobOption {
	return newJobOption("WithTerminal", formatted("%d, %d", rows, cols), func(j *Job) { j.Terminal = &TerminalSize{rows, cols} })
}

// check tells what is wrong with a size; "": nothing.
func (s TerminalSize) check() string {
	if min(s.Rows, s.Cols) < 0 || max(s.Rows, s.Cols) > math.MaxUint16 {
		return "rows and columns are 0 to 65535"
	}
	return ""
}

// validateTerminal finds what a terminal cannot be had with.
func (j *Job) validateTerminal(f *faults) {
	t := j.Terminal
	if t == nil {
		return
	}
	shown := fmt.Sprintf("%d, %d", t.Rows, t.Cols)
	if reason := t.check(); reason != "" {
		f.add("WithTerminal", shown, reason)
	}
	if !absent(j.Stderr) && !same(j.Stdout, j.Stderr) {
		f.add("WithTerminal", shown, "WithStderr asks for a separate standard error, and a terminal has one output", "leave one of them out, or give WithStderr the writer of WithStdout")
	}
	if j.OutputLimit != nil && absent(j.Stdout) {
		f.add("WithTerminal", shown, "with WithOutputLimit and no WithStdout nobody counts the output", "add WithStdout, io.Discard at the least")
	}
}

// unseenTerminal is for jobs whose terminal nobody but inlay sees.
func unseenTerminal() JobOption {
	return newJobOption("WithTerminal", "unseen", func(j *Job) {
		if j.Terminal == nil {
			return
		}
		if absent(j.Stdin) {
			j.Stdin = strings.NewReader("")
		}
		if absent(j.Stdout) {
			j.Stdout = io.Discard
		}
	})
}
