package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal returns the master of the job's terminal, nil if it has none. What is read
// from it the job has written, and what is written to it is typed; the end of output is
// the errno EIO. With [WithStdout] inlay reads it, with [WithStdin] it writes to it.
//
// It has deadlines. To make ioctls use SyscallConn: Fd would take the deadlines away,
// with which Wait gives up on what holds the output back.
//
// With WithStdout it is closed when the output has ended. Without, it is open until the
// caller closes it (which hangs the job up, SIGHUP), and at the latest until the
// container is closed, so that the last output can be read.
func (p *Process) Terminal() *os.File { return p.terminal }

// Terminal is [Process.Terminal] of the main job, from Start on.
func (c *Container) Terminal() *os.File {
	r, err := c.started()
	if err != nil || r.main == nil {
		return nil
	}
	return r.main.terminal
}

// Resize changes the size of the job's terminal, of which its foreground processes hear
// by SIGWINCH: rows and cols are as for [WithTerminal], and another size is an
// [*OptionError]. It returns ErrEnded where the job has ended or the terminal is closed, and an
// error that matches errors.ErrUnsupported where it has none.
func (p *Process) Resize(rows, cols int) error {
	size := TerminalSize{rows, cols}
	if reason := size.check(); reason != "" {
		return &OptionError{Option: "Resize", Value: fmt.Sprintf("%d, %d", rows, cols), Reason: reason}
	}
	if p.terminal == nil {
		return fmt.Errorf("inlay: the job has no terminal (see WithTerminal): %w", errors.ErrUnsupported)
	}
	select {
	case <-p.done:
		return ErrEnded
	default:
	}
	raw, err := p.terminal.SyscallConn()
	if err != nil {
		return ErrEnded
	}
	var inner error
	if raw.Control(func(fd uintptr) { inner = size.set(int(fd)) }) != nil {
		return ErrEnded
	}
	return inner
}

// Resize is [Process.Resize] of the main job.
func (c *Container) Resize(rows, cols int) error {
	r, err := c.started()
	if err != nil {
		return err
	}
	if r.main == nil {
		return fmt.Errorf("inlay: the container has no main job: %w", ErrEnded)
	}
	return r.main.Resize(rows, cols)
}

func (s TerminalSize) set(fd int) error {
	size := unix.Winsize{Row: uint16(cmp.Or(s.Rows, defaultRows)), Col: uint16(cmp.Or(s.Cols, defaultCols))}
	return os.NewSyscallError("ioctl TIOCSWINSZ", unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &size))
}

// openTerminal has init make a terminal, and returns a descriptor of its master for
// the job, which opens the slave by it.
func (p *Process) openTerminal(ctx context.Context) (fd int, err error) {
	fail := func(err error) (int, error) {
		e := &StartError{Phase: PhasePrepare, Op: "open", Path: "/dev/pts/ptmx", Err: err}
		if errors.Is(err, unix.ENOSPC) {
			e.Remedy = "the machine has as many terminals as it may: see the sysctl kernel.pty.max"
		}
		return -1, e
	}
	ours, err := p.r.init.OpenTerminal(ctx)
	if errors.Is(err, unix.ESRCH) {
		return -1, p.r.gone(ctx)
	}
	if err != nil {
		return fail(err)
	}
	master := os.NewFile(uintptr(ours), "terminal") // non-blocking, so it has deadlines
	err = readyTerminal(ours, *p.spec.Terminal)
	if err == nil {
		fd, err = unix.FcntlInt(uintptr(ours), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err != nil {
		return fail(errors.Join(err, master.Close()))
	}
	p.terminal = master
	if in := p.spec.Stdin; !absent(in) {
		p.streams = append(p.streams, &stream{name: "stdin", in: in, end: master, tty: true})
	}
	if out := p.spec.Stdout; !absent(out) {
		p.streams = append(p.streams, &stream{name: "stdout", out: out, end: master, tty: true})
	} else {
		p.r.keepTerminal(master)
	}
	return fd, nil
}

// readyTerminal looks whether it is one, and makes it ready for use.
func readyTerminal(fd int, size TerminalSize) error {
	// A job with CAP_SYS_ADMIN could have mounted anything there.
	const devpts = 0x1cd1
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &fs)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || fs.Type != devpts || st.Rdev != unix.Mkdev(5, 2) {
		return fmt.Errorf("not a terminal: %w", unix.ENOTTY)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("ioctl TIOCSPTLCK", err)
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Iflag |= unix.IUTF8 // so that a backspace takes a whole character
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err != nil {
		return os.NewSyscallError("ioctl TCSETS", err)
	}
	return size.set(fd)
}

// keepTerminal has a master closed with the container, unless the caller does it.
func (r *running) keepTerminal(master *os.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.terminals = slices.DeleteFunc(r.terminals, func(f *os.File) bool {
		raw, err := f.SyscallConn()
		return err != nil || raw.Control(func(uintptr) {}) != nil // closed
	})
	r.terminals = append(r.terminals, master)
}

func (r *running) closeTerminals() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.terminals {
		_ = f.Close() // closed already: then that is that
	}
	r.terminals = nil
}

// hush ends what waits for a terminal to take more input. The terminal itself stays: its
// output may still be read.
func (s *stream) hush() { _ = s.end.SetWriteDeadline(time.Unix(1, 0)) } // closed already: then nobody waits

// typeIn types what the reader gives, and then end-of-file.
func (s *stream) typeIn() {
	t := &typist{to: s.end}
	// As with a pipe: nobody is told of what was not read or could not be typed.
	if _, err := io.Copy(t, s.in); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		return
	}
	var eof byte
	raw, err := s.end.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS); err == nil {
				eof = t.Cc[unix.VEOF]
			}
		})
	}
	if err != nil || eof == 0 {
		return // closed, or the job wants no such character
	}
	end := []byte{eof}
	if t.open {
		end = append(end, eof) // the first one ends the line that has been begun
	}
	_, _ = t.Write(end)
}

// typist writes to a terminal, and hides the file's ReadFrom.
type typist struct {
	to   *os.File
	open bool // what was typed last is no whole line
}

func (t *typist) Write(b []byte) (int, error) {
	n, err := t.to.Write(b)
	if n > 0 {
		t.open = b[n-1] != '\n'
	}
	return n, err
}

// reader is where the job's output comes from.
func (s *stream) reader() io.Reader {
	if s.tty {
		return terminalReader{s.end}
	}
	return onlyReader{s.end}
}

// terminalReader knows how a master says that nobody has the slave open any more.
type terminalReader struct{ f *os.File }

func (t terminalReader) Read(b []byte) (int, error) {
	n, err := t.f.Read(b)
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}
