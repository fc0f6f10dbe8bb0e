package container

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"
)

// Cmd is a program to be run in a container, the twin of os/exec's Cmd: the same
// fields and methods, the same errors for wrong use, so that a program that uses
// [exec.Command] is changed in one place. [Command] gives it a container of its
// own, [Container.Command] makes it a further job of a running one. A Cmd can be
// started once.
//
// It differs where the job is not to have what is the host's:
//
//   - Path stays as it was given, and a name without a slash is looked up in the
//     job's PATH inside its root, when it starts: so Err is never set by Command,
//     and exec.ErrDot does not exist.
//   - Env is the whole environment, as in os/exec; but nil is not the host
//     program's: it is PATH, HOME, LANG and TERM as [WithEnv] has them, and PWD where
//     Dir is set.
//   - Dir is an absolute path inside; "" is /. Any other is an [*OptionError].
//   - There is no SysProcAttr: Options take its place.
//   - A reader in Stdin that blocks, and processes that hold stdout or stderr open
//     after the job of a Container.Command, are given up on after a second where
//     os/exec would wait for ever. With Command they end with the job.
//
// An [*ExitError] says why the job ended: by its exit code, a signal, or a limit.
type Cmd struct {
	// Path is the program, and all that has to be set. Args are its arguments
	// with its own name as the first; empty, they are Path.
	Path string
	Args []string

	Env []string // "KEY=value"; of two for one key the later counts
	Dir string

	// Stdin, Stdout, Stderr and ExtraFiles are as [WithStdin], [WithStdout],
	// [WithStderr] and [WithExtraFiles] take them; nil is empty and discarded. A
	// reader that fails, or a writer, is an error of Wait.
	Stdin      io.Reader
	Stdout     io.Writer
	Stderr     io.Writer
	ExtraFiles []*os.File

	// Options are further wishes, applied after the fields: a later value wins,
	// lists grow. In Container.Command they must be JobOptions; what is none is an
	// [*OptionError] of Start. WithStopOnCancel is Run's: a Cmd has Cancel.
	Options []Option

	// Process is the job, from Start on; Result how it ended, from Wait on.
	Process *Process
	Result  *Result

	Err error // Start returns it; nobody else sets it

	// Cancel is called when the context of CommandContext ends first, and WaitDelay
	// bounds what Wait waits for then, or after the job's end: both as in os/exec,
	// where [exec.ErrWaitDelay] is documented too. CommandContext sets Cancel to
	// kill the job: its Status is Canceled, and the *ExitError matches the
	// context's error and its cause. Without a WaitDelay, output that is held back
	// is given up on after a second, with exec.ErrWaitDelay as well.
	Cancel    func() error
	WaitDelay time.Duration

	container *Container // the one to run in; nil: one of its own
	own       *Container // that, from Start on
	ctx       context.Context
	called    int32      // Start was
	alone     bool       // by Run: nobody sees its terminal
	stdin     *source    // nil: Stdin is a file, or nothing
	jobs      []*os.File // the job's ends of pipes, until Start
	ours      []*os.File // the caller's, until Wait
	canceled  chan error // what the end of the context is for Wait
	unwatch   func() bool
}

// Command returns a Cmd that runs the program in a container of its own, which
// lives from Start to Wait.
func Command(name string, args ...string) *Cmd {
	return &Cmd{Path: name, Args: append([]string{name}, args...)}
}

// CommandContext is Command with a context: when it ends before Start, the job is
// not started, and when it ends before the job, Cancel is called.
func CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	return Command(name, args...).with(ctx)
}

// Command returns a Cmd that runs the program in the container, which must be
// running when it starts: see [Container.Exec].
func (c *Container) Command(name string, args ...string) *Cmd {
	cmd := Command(name, args...)
	cmd.container = c
	return cmd
}

// CommandContext is Command with a context, as the function of that name.
func (c *Container) CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	return c.Command(name, args...).with(ctx)
}

func (c *Cmd) with(ctx context.Context) *Cmd {
	if ctx == nil {
		panic("nil Context") // as os/exec has it
	}
	c.ctx = ctx
	c.Cancel = func() error { return c.Process.cancel(causes(ctx)) }
	return c
}

// causes is why a context ended, in both its names.
func causes(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// String returns Path and the arguments. It is for people: no shell takes it.
func (c *Cmd) String() string {
	return strings.Join(append([]string{c.Path}, c.argv()[1:]...), " ")
}

func (c *Cmd) argv() []string {
	if len(c.Args) == 0 {
		return []string{c.Path}
	}
	return c.Args
}

// Environ returns the environment that the job would have.
func (c *Cmd) Environ() []string {
	s := c.spec()
	return environment(&s.Job)
}

// spec is what was asked for.
func (c *Cmd) spec() Spec {
	j := Job{
		Command: c.argv(), path: c.Path, Env: c.Env, wholeEnv: c.Env != nil, Dir: c.Dir,
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr, ExtraFiles: c.ExtraFiles, waitDelay: c.WaitDelay,
	}
	if c.stdin != nil {
		j.Stdin = c.stdin
	}
	if c.Env == nil && c.Dir != "" {
		j.Env = []string{"PWD=" + c.Dir} // or getcwd(3)'s readers would see a link's target
	}
	s := Spec{Job: j.clone()}
	for _, o := range present(c.Options) {
		o.applyContainer(&s)
	}
	if _, ours := s.Job.Stderr.(*ends); ours && s.Job.Terminal != nil {
		s.Job.Stderr = nil // Output's: it comes through the terminal
	}
	if c.alone {
		unseenTerminal().applyJob(&s.Job)
	}
	return s
}

// Run starts the job and waits for it: see Start and Wait.
func (c *Cmd) Run() error {
	c.alone = true
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Start starts the job and returns when its program has begun. Wait must be called
// afterwards: what the container holds on the host is given back there.
//
// Its errors are those of New and [Container.Start], or of [Container.Exec], and
// os/exec's for wrong use; a command that is not there matches ErrNotFound and
// exec.ErrNotFound.
func (c *Cmd) Start() (err error) {
	if atomic.SwapInt32(&c.called, 1) != 0 {
		return &twinError{"exec: already started", ErrStarted}
	}
	defer func() {
		closeAll(&c.jobs)
		if err != nil {
			closeAll(&c.ours)
		}
	}()
	switch {
	case c.Err != nil:
		return c.Err
	case c.Path == "":
		return errors.New("exec: no command")
	case c.Cancel != nil && c.ctx == nil:
		return errors.New("exec: command with a non-nil Cancel was not created with CommandContext")
	}
	ctx := c.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, isFile := c.Stdin.(*os.File); !isFile && c.Stdin != nil {
		c.stdin = newSource(c.Stdin)
	}
	if c.Process, err = c.begin(ctx, c.spec()); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return err
	}
	if ctx.Done() != nil && (c.Cancel != nil || c.WaitDelay != 0) {
		c.canceled = make(chan error, 1)
		c.unwatch = context.AfterFunc(ctx, func() { c.canceled <- c.cancel() })
	}
	return nil
}

func (c *Cmd) begin(ctx context.Context, s Spec) (*Process, error) {
	if c.container == nil {
		own, err := fromSpec(s)
		if err != nil {
			return nil, err
		}
		c.own = own
		return own.begin(ctx)
	}
	var f faults
	notOfJobs(&f, c.Options)
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	return c.container.Exec(ctx, newJobOption("Cmd", c, func(j *Job) { *j = s.Job }))
}

// notOfJobs finds the options that are no job's.
func notOfJobs(f *faults, opts []Option) {
	for _, o := range present(opts) {
		if _, ok := o.(JobOption); ok {
			continue
		}
		if several, ok := o.(bundle[Option]); ok {
			notOfJobs(f, several)
			continue
		}
		for _, name := range o.names() {
			f.add(name, "", "not an option of a single job", "give it to New")
		}
	}
}

// cancel is called at the end of the context.
func (c *Cmd) cancel() (err error) {
	if c.Cancel != nil {
		switch e := c.Cancel(); {
		case e == nil:
			err = c.ctx.Err()
		case !errors.Is(e, os.ErrProcessDone): // else it ended by itself
			err = fmt.Errorf("exec: canceling Cmd: %w", e)
		}
	}
	if c.WaitDelay == 0 {
		return err
	}
	t := time.NewTimer(c.WaitDelay)
	defer t.Stop()
	select {
	case <-c.Process.Done():
	case <-t.C:
		_ = c.Process.cancel(causes(c.ctx)) // ended already: then it is the pipes that are open
		c.Process.giveUp()
	}
	return err
}

// Wait waits for the end of the job and the last of its output, sets Result, closes
// the pipes of StdinPipe and its like, and the container where it is the Cmd's own.
//
// A job that did not exit with code 0 is an [*ExitError]. Other errors are, in this
// order: the context's, where Cancel was called and the job exited with code 0 all
// the same; exec.ErrWaitDelay, where output was given up on; what copying to or from
// Stdin, Stdout and Stderr met. The container's Close is joined.
func (c *Cmd) Wait() error {
	switch {
	case c.Process == nil:
		return &twinError{"exec: not started", ErrNotStarted}
	case c.Result != nil:
		return errors.New("exec: Wait was already called")
	}
	res, copying := c.Process.Wait(context.Background())
	var canceled, cut, reading error
	if c.unwatch != nil && !c.unwatch() {
		canceled = <-c.canceled
	}
	if res.Truncated {
		cut = exec.ErrWaitDelay
	}
	if c.stdin != nil {
		reading = c.stdin.end(cmp.Or(c.WaitDelay, drainTime))
	}
	err := cmp.Or(res.Err(), canceled, cut, reading, copying)
	if c.own != nil {
		if closing := c.own.Close(); closing != nil {
			err = errors.Join(err, closing)
		}
	}
	closeAll(&c.ours)
	c.Result = res
	return err
}

// Output runs the job and returns its standard output. Where Stderr is not set,
// [ExitError.Stderr] has its ends.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errSet("Stdout")
	}
	var out bytes.Buffer
	c.Stdout = &out
	var errs *ends
	if c.Stderr == nil {
		errs = &ends{}
		c.Stderr = errs
	}
	err := c.Run()
	var exit *ExitError
	if errs != nil && errors.As(err, &exit) {
		exit.Stderr = errs.bytes()
	}
	return out.Bytes(), err
}

// CombinedOutput runs the job and returns its standard output and standard error,
// in their order.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	switch {
	case c.Stdout != nil:
		return nil, errSet("Stdout")
	case c.Stderr != nil:
		return nil, errSet("Stderr")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// StdinPipe returns a pipe to the job's standard input. Wait closes it; whoever
// wants the job to see its end sooner closes it before.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	r, w, err := c.pipe("Stdin", c.Stdin != nil)
	if err != nil {
		return nil, err
	}
	c.Stdin, c.jobs, c.ours = r, append(c.jobs, r), append(c.ours, w)
	return w, nil
}

// StdoutPipe returns a pipe from the job's standard output. Wait closes it, so all
// must be read before; with Run it makes no sense.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	r, w, err := c.pipe("Stdout", c.Stdout != nil)
	if err != nil {
		return nil, err
	}
	c.Stdout, c.jobs, c.ours = w, append(c.jobs, w), append(c.ours, r)
	return r, nil
}

// StderrPipe returns a pipe from the job's standard error, as StdoutPipe does.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	r, w, err := c.pipe("Stderr", c.Stderr != nil)
	if err != nil {
		return nil, err
	}
	c.Stderr, c.jobs, c.ours = w, append(c.jobs, w), append(c.ours, r)
	return r, nil
}

func (c *Cmd) pipe(name string, set bool) (r, w *os.File, err error) {
	switch {
	case set:
		return nil, nil, errSet(name)
	case c.Process != nil:
		return nil, nil, errors.New("exec: " + name + "Pipe after process started")
	}
	return os.Pipe()
}

func errSet(name string) error { return errors.New("exec: " + name + " already set") }

// closeAll closes pipes. Their users may have done so before.
func closeAll(files *[]*os.File) {
	for _, f := range *files {
		_ = f.Close() // a pipe: nothing to flush
	}
	*files = nil
}

// source is a reader in Stdin: it keeps its error, and nobody reads from it any
// more once Wait has returned.
type source struct {
	r    io.Reader
	turn chan struct{} // holds one: who takes it may use the rest
	over bool
	err  error
}

func newSource(r io.Reader) *source {
	s := &source{r: r, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

// Read reads on behalf of the job.
func (s *source) Read(b []byte) (int, error) {
	<-s.turn
	defer func() { s.turn <- struct{}{} }()
	if s.over {
		return 0, io.EOF
	}
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// end ends the reading and returns its error; a Read that is under way may take d.
func (s *source) end(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.turn:
		s.over = true
		err := s.err
		s.turn <- struct{}{}
		return err
	case <-t.C:
		return nil // it blocks, and ends with the next write: the pipe is closed
	}
}

// ends keeps the first and the last 32 KiB of what is written to it.
type ends struct {
	head, tail []byte
	total      int
}

const endSize = 32 << 10

func (e *ends) Write(b []byte) (int, error) {
	e.total += len(b)
	n := min(len(b), endSize-len(e.head))
	e.head = append(e.head, b[:n]...)
	e.tail = append(e.tail, b[n:]...)
	if over := len(e.tail) - endSize; over > endSize { // not with each write
		e.tail = append(e.tail[:0], e.tail[over:]...)
	}
	return len(b), nil
}

func (e *ends) bytes() []byte {
	tail := e.tail[max(0, len(e.tail)-endSize):]
	if left := e.total - len(e.head) - len(tail); left > 0 {
		return fmt.Appendf(e.head, "\n... omitting %d bytes ...\n%s", left, tail)
	}
	return append(e.head, tail...)
}
