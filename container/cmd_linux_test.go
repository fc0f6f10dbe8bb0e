package container_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// cmd is what exec.Cmd and container.Cmd have in common, and pointers to their
// fields.
type cmd struct {
	methods
	of             any
	Path, Dir      *string
	Args, Env      *[]string
	Stdin          *io.Reader
	Stdout, Stderr *io.Writer
	ExtraFiles     *[]*os.File
	Err            *error
	Cancel         *func() error
	WaitDelay      *time.Duration
}

type methods interface {
	Run() error
	Start() error
	Wait() error
	Output() ([]byte, error)
	CombinedOutput() ([]byte, error)
	StdinPipe() (io.WriteCloser, error)
	StdoutPipe() (io.ReadCloser, error)
	StderrPipe() (io.ReadCloser, error)
	Environ() []string
	String() string
}

func execCmd(c *exec.Cmd) cmd {
	return cmd{c, c, &c.Path, &c.Dir, &c.Args, &c.Env, &c.Stdin, &c.Stdout, &c.Stderr, &c.ExtraFiles, &c.Err, &c.Cancel, &c.WaitDelay}
}

func containerCmd(c *container.Cmd) cmd {
	return cmd{c, c, &c.Path, &c.Dir, &c.Args, &c.Env, &c.Stdin, &c.Stdout, &c.Stderr, &c.ExtraFiles, &c.Err, &c.Cancel, &c.WaitDelay}
}

func (c cmd) signal(sig os.Signal) error {
	if c, ok := c.of.(*container.Cmd); ok {
		return c.Process.Signal(sig)
	}
	return c.of.(*exec.Cmd).Process.Signal(sig)
}

func (c cmd) kill() error {
	if c, ok := c.of.(*container.Cmd); ok {
		return c.Process.Kill()
	}
	return c.of.(*exec.Cmd).Process.Kill()
}

// exitCode is as ProcessState and Result have it.
func (c cmd) exitCode() int {
	if c, ok := c.of.(*container.Cmd); ok {
		return c.Result.ExitCode
	}
	return c.of.(*exec.Cmd).ProcessState.ExitCode()
}

// exitError is the code and the Stderr of an *ExitError that is not wrapped.
func exitError(t *testing.T, err error) (int, []byte) {
	t.Helper()
	switch e := err.(type) { //nolint:errorlint // as programs do with os/exec
	case *exec.ExitError:
		return e.ExitCode(), e.Stderr
	case *container.ExitError:
		return e.ExitCode(), e.Stderr
	}
	require.Fail(t, "no *ExitError", "%T: %v", err, err)
	return 0, nil
}

// maker makes commands of one kind.
type maker struct {
	t    *testing.T
	kind string
	self string // the test binary's path
	make func(ctx context.Context, name string, args ...string) cmd
}

// in is the maker for a subtest.
func (m maker) in(t *testing.T) maker {
	t.Helper()
	m.t = t
	return m
}

func (m maker) Command(name string, args ...string) cmd { return m.make(nil, name, args...) }

func (m maker) Context(ctx context.Context, name string, args ...string) cmd {
	return m.make(ctx, name, args...)
}

func (m maker) sh(line string) cmd { return m.Command("sh", "-c", line) }

// job is the test binary, as a job that a test registered.
func (m maker) job(ctx context.Context, name string, args ...string) cmd {
	m.t.Helper()
	selfJob(m.t, name) // used
	c := m.make(ctx, m.self, append([]string{name}, args...)...)
	*c.Env = []string{jobEnv, "GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0"}
	return c
}

// twins runs a test with os/exec, with Command and with Container.Command: what it
// asserts is what they have in common.
func twins(t *testing.T, test func(m maker)) {
	t.Helper()
	t.Run("os-exec", func(t *testing.T) {
		containertest.Census(t)
		exe, err := os.Executable()
		require.NoError(t, err)
		test(maker{t, "os-exec", exe, func(ctx context.Context, name string, args ...string) cmd {
			if ctx == nil {
				return execCmd(exec.Command(name, args...)) //nolint:noctx // the twin
			}
			return execCmd(exec.CommandContext(ctx, name, args...))
		}})
	})
	t.Run("Command", func(t *testing.T) {
		containertest.Census(t)
		test(maker{t, "Command", "/run/test", func(ctx context.Context, name string, args ...string) cmd {
			c := container.Command(name, args...)
			if ctx != nil {
				c = container.CommandContext(ctx, name, args...)
			}
			c.Options = append(c.Options, selfMount(t))
			return containerCmd(c)
		}})
	})
	t.Run("Container.Command", func(t *testing.T) {
		containertest.Census(t)
		in := start(t, selfMount(t))
		test(maker{t, "Container.Command", "/run/test", func(ctx context.Context, name string, args ...string) cmd {
			if ctx == nil {
				return containerCmd(in.Command(name, args...))
			}
			return containerCmd(in.CommandContext(ctx, name, args...))
		}})
	})
}

func TestCmdOutput(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		out, err := m.Command("echo", "foo bar", "baz").Output()
		require.NoError(t, err)
		require.Equal(t, "foo bar baz\n", string(out))

		c := m.Command("cat")
		*c.Stdin = strings.NewReader("Input string\nLine 2")
		out, err = c.Output()
		require.NoError(t, err)
		require.Equal(t, "Input string\nLine 2", string(out))

		out, err = m.sh("cat /bogus/file /proc/self/comm").CombinedOutput()
		code, _ := exitError(t, err)
		require.Equal(t, 1, code)
		first, rest, _ := strings.Cut(string(out), "\n")
		require.Contains(t, first, "/bogus/file")
		require.Equal(t, "cat\n", rest)

		// Neither given: an empty input, and output that goes nowhere.
		require.NoError(t, m.sh("cat; echo gone; echo gone >&2").Run())
	})
}

func TestCmdExit(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		for _, want := range []int{0, 1, 42, 255} {
			c := m.sh(fmt.Sprintf("exit %d", want))
			err := c.Run()
			require.Equal(t, want, c.exitCode())
			if want == 0 {
				require.NoError(t, err)
				continue
			}
			code, errs := exitError(t, err)
			require.Equal(t, want, code)
			require.Nil(t, errs)
			require.EqualError(t, err, fmt.Sprintf("exit status %d", want))
		}
		c := m.sh("kill -9 $$")
		err := c.Run()
		code, _ := exitError(t, err)
		require.Equal(t, -1, code)
		require.EqualError(t, err, "signal: killed")
	})
}

func TestCmdNotFound(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		c := m.Command("makemeasandwich", "-lettuce")
		require.Equal(t, "makemeasandwich -lettuce", c.String())
		for _, pipe := range []func() error{
			func() error { _, err := c.StdinPipe(); return err },
			func() error { _, err := c.StdoutPipe(); return err },
			func() error { _, err := c.StderrPipe(); return err },
		} {
			require.NoError(t, pipe()) // the census finds what stays open
		}
		err := c.Run()
		require.ErrorIs(t, err, exec.ErrNotFound)
		require.EqualError(t, c.Start(), "exec: already started")
		require.EqualError(t, c.Wait(), "exec: not started")
		require.ErrorIs(t, m.Command("/no-exist-executable").Run(), fs.ErrNotExist)
		require.ErrorIs(t, m.Command("/etc/passwd").Run(), fs.ErrPermission)
	})
}

func TestCmdWrongUse(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		c := m.Command("cat")
		require.EqualError(t, c.Wait(), "exec: not started")
		in, err := c.StdinPipe()
		require.NoError(t, err)
		_, err = c.StdinPipe()
		require.EqualError(t, err, "exec: Stdin already set")
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		_, err = c.StdoutPipe()
		require.EqualError(t, err, "exec: Stdout already set")
		_, err = c.Output()
		require.EqualError(t, err, "exec: Stdout already set")
		_, err = c.CombinedOutput()
		require.EqualError(t, err, "exec: Stdout already set")
		require.NoError(t, c.Start())
		_, err = c.StderrPipe()
		require.EqualError(t, err, "exec: StderrPipe after process started")
		*c.Stdin, *c.Stdout = nil, nil
		_, err = c.StdinPipe()
		require.EqualError(t, err, "exec: StdinPipe after process started")
		_, err = c.StdoutPipe()
		require.EqualError(t, err, "exec: StdoutPipe after process started")
		// A second Start leaves the first's pipes alone.
		require.EqualError(t, c.Start(), "exec: already started")
		_, err = io.WriteString(in, "Hello, pipe!\n")
		require.NoError(t, err)
		require.NoError(t, in.Close())
		got, err := io.ReadAll(out)
		require.NoError(t, err)
		require.Equal(t, "Hello, pipe!\n", string(got))
		require.NoError(t, c.Wait())
		require.EqualError(t, c.Wait(), "exec: Wait was already called")

		c = m.Command("true")
		*c.Stderr = io.Discard
		_, err = c.StderrPipe()
		require.EqualError(t, err, "exec: Stderr already set")
		_, err = c.CombinedOutput()
		require.EqualError(t, err, "exec: Stderr already set")

		c = m.Command("")
		*c.Err = nil // os/exec has looked for it
		require.EqualError(t, c.Start(), "exec: no command")
		c = m.Command("true")
		*c.Err = fs.ErrClosed
		require.Equal(t, fs.ErrClosed, c.Run())
		c = m.Command("true")
		*c.Cancel = func() error { return nil }
		require.EqualError(t, c.Run(), "exec: command with a non-nil Cancel was not created with CommandContext")
	})
}

var argv = register("argv", func([]string) int {
	fmt.Printf("%q", os.Args)
	return 0
})

func TestCmdPathAndArgs(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		for _, name := range []string{"another", ""} {
			c := m.job(nil, argv, "x") //nolint:staticcheck // nil: none
			*c.Args = []string{name, argv, "y"}
			got, err := c.Output()
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%q", *c.Args), string(got))
		}
		c := m.Command("/bin/cat", "x")
		*c.Args = nil // cat without arguments
		require.NoError(t, c.Run())
		c = m.Command("/bin/echo", "a", "b c")
		require.Equal(t, "/bin/echo a b c", c.String())
		done := make(chan error, 1)
		go func() { done <- c.Run() }()
		_ = c.String() // while it runs: the race detector looks
		require.NoError(t, <-done)
		c = m.Command("/bin/sh\x00x")
		require.Error(t, c.Run())
		c = m.Command("sh", "x\x00x")
		require.Error(t, c.Run())

		dir := "/bin" // a link, on many machines
		c = m.sh("echo $PWD; ls -d sh")
		*c.Dir = dir
		require.Contains(t, c.Environ(), "PWD="+dir)
		out, err := c.Output()
		require.NoError(t, err)
		require.Equal(t, dir+"\nsh\n", string(out))
		c = m.Command("./cat")
		*c.Dir, *c.Stdin = "/bin", strings.NewReader("relative to Dir")
		out, err = c.Output()
		require.NoError(t, err)
		require.Equal(t, "relative to Dir", string(out))
		c = m.Command("true")
		*c.Dir = "/no/such/dir"
		require.ErrorIs(t, c.Run(), fs.ErrNotExist)
	})
}

func TestCmdEnv(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		c := m.Command("env")
		*c.Env = []string{"FOO=bad", "BAR=x=y", "FOO=good"}
		*c.Dir = "/tmp" // no PWD: Env is all
		out, err := c.Output()
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"FOO=good", "BAR=x=y"}, lines(string(out)))
		require.ElementsMatch(t, []string{"FOO=good", "BAR=x=y"}, c.Environ())

		c = m.Command("env")
		*c.Env = []string{}
		out, err = c.Output()
		require.NoError(t, err)
		require.Empty(t, out)

		c = m.sh("echo $FOO")
		*c.Env = append(c.Environ(), "FOO=bad", "FOO=good")
		out, err = c.Output()
		require.NoError(t, err)
		require.Equal(t, "good\n", string(out))

		c = m.Command("env")
		*c.Env = append(c.Environ(), "FOO=foo\x00BAR=bar")
		require.ErrorContains(t, c.Run(), "NUL")

		c = m.Command("env")
		want := c.Environ()
		out, err = c.Output()
		require.NoError(t, err)
		require.Subset(t, lines(string(out)), want)
	})
}

func TestCmdPipes(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		c := m.sh(`while read -r line; do case $line in O:*) echo "$line";; *) echo "$line" >&2;; esac; done`)
		in, err := c.StdinPipe()
		require.NoError(t, err)
		_, isFile := in.(interface{ Fd() uintptr })
		require.True(t, isFile)
		outPipe, err := c.StdoutPipe()
		require.NoError(t, err)
		errPipe, err := c.StderrPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		out, errs := bufio.NewReader(outPipe), bufio.NewReader(errPipe)
		for _, line := range []string{"O:I am output\n", "E:I am error\n", "O:I am output2\n"} {
			_, err := io.WriteString(in, line)
			require.NoError(t, err)
			r := out
			if line[0] == 'E' {
				r = errs
			}
			got, err := r.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, line, got)
		}
		require.NoError(t, in.Close())
		require.NoError(t, c.Wait())
		_, err = outPipe.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrClosed)
		_, err = errPipe.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrClosed)
	})
}

// What was written before the job's end is there after it.
func TestCmdPipeKeepsOutput(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		c := m.sh("head -c 60000 /dev/zero; kill -9 $$")
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		errs, err := c.StderrPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		_, err = io.Copy(io.Discard, errs) // its end is the job's
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, out)
		require.NoError(t, err)
		require.EqualValues(t, 60000, n)
		require.EqualError(t, c.Wait(), "signal: killed")
	})
}

func TestCmdStdinPipeClosed(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		// By the caller, while Wait does it too.
		c := m.sh(`[ "$(cat)" = "Some test string." ]`)
		in, err := c.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := io.WriteString(in, "Some test string.")
			errNil(t, err)
			if err := in.Close(); !errors.Is(err, os.ErrClosed) {
				errNil(t, err)
			}
		})
		require.NoError(t, c.Wait())
		wg.Wait()

		// While the job is killed.
		c = m.sh(`[ "$(cat)" = "Some test string." ]`)
		in, err = c.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		wg.Go(func() { _ = c.kill() }) // perhaps it is gone already
		wg.Go(func() {
			_, _ = io.WriteString(in, "unexpected string")
			if err := in.Close(); !errors.Is(err, os.ErrClosed) {
				errNil(t, err)
			}
		})
		require.Error(t, c.Wait())
		wg.Wait()

		// By Wait: the job does not read.
		c = m.Command("true")
		in, err = c.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, c.Run())
		_, err = io.WriteString(in, "x")
		require.ErrorIs(t, err, os.ErrClosed)
	})
}

// A job need not read its input; a reader or a writer that fails is told of.
func TestCmdCopying(t *testing.T) {
	bad := errors.New("bad")
	twins(t, func(m maker) {
		t := m.t
		for _, r := range []io.Reader{strings.NewReader(strings.Repeat("x", 10<<20)), endless{}} {
			c := m.Command("echo", "foo")
			*c.Stdin = r
			out, err := c.Output()
			require.NoError(t, err)
			require.Equal(t, "foo\n", string(out))
		}
		c := m.Command("cat")
		*c.Stdin = io.MultiReader(strings.NewReader("before"), iotest.ErrReader(bad))
		out, err := c.Output()
		require.ErrorIs(t, err, bad)
		require.Equal(t, "before", string(out))
		c = m.sh("cat; exit 3")
		*c.Stdin = iotest.ErrReader(bad)
		require.EqualError(t, c.Run(), "exit status 3")

		c = m.Command("echo", "foo")
		*c.Stdout = failing{}
		require.ErrorIs(t, c.Run(), errFull)
		c = m.Command("yes")
		*c.Stdout = failing{}
		exitError(t, c.Run())

		// A Read that is under way ends before Wait does: the race detector looks.
		c = m.Command("true")
		*c.WaitDelay = time.Hour
		begun, ended, read := make(chan struct{}), make(chan struct{}), false
		*c.Stdin = readerFunc(func([]byte) (int, error) {
			close(begun)
			<-ended
			read = true
			return 0, io.EOF
		})
		o, err := c.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		_, err = io.Copy(io.Discard, o) // to the end of the job
		require.NoError(t, err)
		<-begun
		time.AfterFunc(time.Millisecond, func() { close(ended) })
		require.NoError(t, c.Wait())
		require.True(t, read)
	})
}

// uncomparable is a writer that has no ==.
type uncomparable struct {
	to *bytes.Buffer
	_  []int
}

func (u uncomparable) Write(b []byte) (int, error) { return u.to.Write(b) }

func TestCmdWriters(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		var want strings.Builder
		for i := 1; i < 10; i++ {
			fmt.Fprintf(&want, "o%d\ne%d\n", i, i)
		}
		const both = "for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done"
		out, err := m.sh(both).CombinedOutput()
		require.NoError(t, err)
		require.Equal(t, want.String(), string(out))

		c := m.sh("echo out; echo err >&2")
		var o, e bytes.Buffer
		*c.Stdout, *c.Stderr = uncomparable{to: &o}, uncomparable{to: &e}
		require.NoError(t, c.Run())
		require.Equal(t, "out\nerr\n", o.String()+e.String())

		name := filepath.Join(t.TempDir(), "file")
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		require.NoError(t, err)
		c = m.sh(both)
		*c.Stdout, *c.Stderr = f, f
		require.NoError(t, c.Run())
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		c = m.Command("cat")
		*c.Stdin = f
		out, err = c.Output()
		require.NoError(t, err)
		require.Equal(t, want.String(), string(out))
		require.NoError(t, f.Close())
		require.Error(t, c.Start())
	})
}

// What Output keeps of stderr, and when.
func TestCmdOutputStderr(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		_, err := m.sh("echo some stderr text >&2; exit 1").Output()
		code, errs := exitError(t, err)
		require.Equal(t, 1, code)
		require.Equal(t, "some stderr text\n", string(errs))

		c := m.sh("echo text >&2; exit 1")
		var own bytes.Buffer
		*c.Stderr = &own
		_, err = c.Output()
		_, errs = exitError(t, err)
		require.Nil(t, errs)
		require.Equal(t, "text\n", own.String())

		const size = 32 << 10
		for _, n := range []int{size, size + 1, 2 * size, 2*size + 1, 3 * size, 10 * size, 1 << 20} {
			var text strings.Builder
			for i := 0; text.Len() < n; i++ {
				fmt.Fprintf(&text, "%7d\n", i)
			}
			all := text.String()[:n]
			c := m.sh("cat >&2; exit 1")
			*c.Stdin = strings.NewReader(all)
			_, err := c.Output()
			_, errs := exitError(t, err)
			want := all
			if left := n - 2*size; left > 0 {
				want = all[:size] + fmt.Sprintf("\n... omitting %d bytes ...\n", left) + all[n-size:]
			}
			require.Equal(t, want, string(errs), "%d bytes", n)
		}
	})
}

func TestCmdExtraFiles(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		var files []*os.File
		for _, text := range []string{"Hello, fd 3!", "Hello, fd 4!"} {
			r, w, err := os.Pipe()
			require.NoError(t, err)
			_, err = io.WriteString(w, text)
			require.NoError(t, err)
			require.NoError(t, w.Close())
			defer r.Close() //nolint:errcheck // only read
			files = append(files, r)
		}
		c := m.sh("cat <&3; echo; cat <&4; [ ! -e /proc/self/fd/5 ]")
		*c.ExtraFiles = files
		out, err := c.Output()
		require.NoError(t, err)
		require.Equal(t, "Hello, fd 3!\nHello, fd 4!", string(out))
	})
}

// A job that stands still has not ended.
func TestCmdStopped(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		c := m.Command("cat")
		in, err := c.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		require.NoError(t, c.signal(syscall.SIGSTOP))
		done := make(chan error, 1)
		go func() { done <- c.Wait() }()
		require.NoError(t, c.signal(syscall.SIGCONT))
		require.NoError(t, in.Close())
		require.NoError(t, <-done)
		require.ErrorIs(t, c.signal(syscall.SIGCONT), os.ErrProcessDone)
	})
}

func TestCmdContext(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		t.Run("before Start", func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errors.New("enough"))
			c := m.Context(ctx, "true")
			_, err := c.StdoutPipe()
			require.NoError(t, err)
			require.Equal(t, context.Canceled, c.Run())
		})
		t.Run("while it runs", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := m.Context(ctx, "cat")
			in, err := c.StdinPipe()
			require.NoError(t, err)
			out, err := c.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, c.Start())
			_, err = io.WriteString(in, "O:hi\n")
			require.NoError(t, err)
			got := make([]byte, 5)
			_, err = io.ReadFull(out, got)
			require.NoError(t, err)
			require.Equal(t, "O:hi\n", string(got))
			cancel()
			rest, err := io.ReadAll(out) // to the end of the job
			require.NoError(t, err)
			require.Empty(t, rest)
			code, _ := exitError(t, c.Wait())
			require.Equal(t, -1, code)
		})
		t.Run("by a deadline", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			err := m.Context(ctx, "sleep", "1000").Run()
			require.Error(t, err) // the start may have taken that long
			require.Error(t, ctx.Err())
		})
		t.Run("after the end", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := m.Context(ctx, "true")
			called := false
			*c.Cancel = func() error { called = true; return errFull }
			require.NoError(t, c.Run())
			cancel()
			require.False(t, called)
		})
		t.Run("nil", func(t *testing.T) {
			for _, f := range []func(){
				func() { exec.CommandContext(nil, "true") },      //nolint:staticcheck // that is the test
				func() { container.CommandContext(nil, "true") }, //nolint:staticcheck // that is the test
			} {
				require.PanicsWithValue(t, "nil Context", f)
			}
		})
	})
}

var interruptible = register("interruptible", func(args []string) int {
	signals := make(chan os.Signal, 1)
	switch args[0] {
	case "exit":
		signal.Notify(signals, os.Interrupt)
	case "ignore":
		signal.Ignore(os.Interrupt)
	}
	if err := os.Stdout.Close(); err != nil { // now it listens
		return 99
	}
	select {
	case <-signals:
		return 0
	case <-time.After(10 * time.Minute): // or Go would see that nobody can wake it
		return 98
	}
})

// hang starts a job that stays, and returns when it listens to SIGINT: it exits
// with code 0 then, ignores it or has it do what it does. Its stderr is copied.
func (m maker) hang(ctx context.Context, what string, waitDelay time.Duration, cancel func(c cmd) func() error) cmd {
	m.t.Helper()
	c := m.job(ctx, interruptible, what)
	*c.Stdin, *c.Stderr, *c.WaitDelay = endless{}, &bytes.Buffer{}, waitDelay
	*c.Cancel = cancel(c)
	out, err := c.StdoutPipe()
	require.NoError(m.t, err)
	require.NoError(m.t, c.Start())
	_, err = io.Copy(io.Discard, out)
	require.NoError(m.t, err)
	return c
}

func interrupting(c cmd) func() error { return func() error { return c.signal(os.Interrupt) } }

func TestCmdWaitInterrupt(t *testing.T) {
	const tooLong = 10 * time.Minute
	twins(t, func(m maker) {
		t := m.t
		t.Run("no Cancel, a long WaitDelay", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := m.in(t).hang(ctx, "exit", tooLong, func(cmd) func() error { return nil })
			cancel()
			require.NoError(t, c.signal(os.Interrupt), "it runs on")
			require.NoError(t, c.Wait())
			require.Equal(t, 0, c.exitCode())
		})
		t.Run("no Cancel, a short WaitDelay", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := m.in(t).hang(ctx, "exit", time.Millisecond, func(cmd) func() error { return nil })
			cancel()
			exitError(t, c.Wait())
			require.Equal(t, -1, c.exitCode())
		})
		t.Run("no Cancel, no WaitDelay", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := m.in(t).hang(ctx, "exit", 0, func(cmd) func() error { return nil })
			cancel()
			require.NoError(t, c.signal(os.Interrupt), "it runs on")
			require.NoError(t, c.Wait())
		})
		t.Run("SIGINT ignored", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := m.in(t).hang(ctx, "ignore", 10*time.Millisecond, interrupting)
			cancel()
			exitError(t, c.Wait())
			require.Equal(t, -1, c.exitCode())
		})
		t.Run("SIGINT handled", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := m.in(t).hang(ctx, "exit", 0, interrupting)
			cancel()
			require.Equal(t, context.Canceled, c.Wait())
			require.Equal(t, 0, c.exitCode())
		})
		t.Run("SIGQUIT", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := m.in(t).hang(ctx, "quit", 0, func(c cmd) func() error { return func() error { return c.signal(syscall.SIGQUIT) } })
			cancel()
			code, _ := exitError(t, c.Wait())
			require.Equal(t, 2, code) // Go's handler
			require.Contains(t, fmt.Sprint(*c.Stderr), "\n\ngoroutine ")
		})
	})
}

func TestCmdCancelErrors(t *testing.T) {
	odd := errors.New("arbitrary error")
	done := fmt.Errorf("%w: stdout closed", os.ErrProcessDone)
	for _, tt := range []struct {
		name      string
		command   []string
		cancel    error
		close     bool // stdin: its end is the job's
		waitDelay time.Duration
		code      int
		matches   error
	}{
		{"success after error", []string{"cat"}, odd, true, 0, 0, odd},
		{"success after ErrProcessDone", []string{"cat"}, done, true, 0, 0, nil},
		{"success after success", []string{"cat"}, nil, true, 0, 0, context.Canceled},
		{"killed after error", []string{"cat"}, odd, false, time.Millisecond, -1, nil},
		{"killed after spurious ErrProcessDone", []string{"cat"}, done, false, time.Millisecond, -1, nil},
		{"nonzero exit after error", []string{"sh", "-c", "cat; exit 1"}, odd, true, 0, 1, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			twins(t, func(m maker) {
				t := m.t
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				c := m.Context(ctx, tt.command[0], tt.command[1:]...)
				in, err := c.StdinPipe()
				require.NoError(t, err)
				called := make(chan struct{})
				*c.WaitDelay = tt.waitDelay
				*c.Cancel = func() error {
					defer close(called)
					if tt.close {
						errNil(t, in.Close())
					}
					return tt.cancel
				}
				require.NoError(t, c.Start())
				cancel()
				<-called
				err = c.Wait()
				require.Equal(t, tt.code, c.exitCode())
				switch {
				case tt.code != 0:
					exitError(t, err)
				case tt.matches == nil:
					require.NoError(t, err)
				default:
					require.ErrorIs(t, err, tt.matches)
				}
				if tt.cancel == odd && tt.code == 0 { //nolint:errorlint // the very one
					require.EqualError(t, err, "exec: canceling Cmd: arbitrary error")
				}
			})
		})
	}
}

// What a job leaves behind holds its stderr open. With Command it ends with the
// job; otherwise it is given up on.
func TestCmdWaitDelay(t *testing.T) {
	for _, delay := range []time.Duration{time.Millisecond, 0, 10 * time.Minute} {
		t.Run(delay.String(), func(t *testing.T) {
			twins(t, func(m maker) {
				t := m.t
				if delay != time.Millisecond && m.kind == "os-exec" || delay > time.Second && m.kind == "Container.Command" {
					return // would wait for long, as it should
				}
				r, w, err := os.Pipe()
				require.NoError(t, err)
				c := m.sh("cat <&3 >/dev/null & echo hi")
				*c.ExtraFiles, *c.Stderr, *c.WaitDelay = []*os.File{r}, &bytes.Buffer{}, delay
				out, err := c.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, c.Start())
				got, err := io.ReadAll(out)
				require.NoError(t, err)
				require.Equal(t, "hi\n", string(got))
				err = c.Wait()
				require.Equal(t, 0, c.exitCode())
				if m.kind != "Command" || err != nil && delay == time.Millisecond {
					require.Equal(t, exec.ErrWaitDelay, err) // a container's end may take a millisecond
				} else {
					require.NoError(t, err)
				}
				require.NoError(t, r.Close())
				require.NoError(t, w.Close()) // ends what was left
			})
		})
	}
}

// A WaitDelay is longer than the second that output has without one, if it says so.
func TestCmdLongWaitDelay(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		c := m.sh("(sleep 2; echo late) & echo hi")
		*c.WaitDelay = time.Hour
		out, err := c.Output()
		require.NoError(t, err)
		if m.kind == "Command" {
			require.Equal(t, "hi\n", string(out), "what was left ends with the job")
		} else {
			require.Equal(t, "hi\nlate\n", string(out))
		}
	})
}

func TestCmdConcurrent(t *testing.T) {
	twins(t, func(m maker) {
		t := m.t
		ctx, cancel := context.WithCancel(t.Context())
		var hangs, exits sync.WaitGroup
		for range 4 {
			hangs.Go(func() {
				c := m.Context(ctx, "cat")
				in, err := c.StdinPipe()
				if !errNil(t, err) {
					return
				}
				*c.Cancel = in.Close
				if err := c.Start(); err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				_ = c.Wait() // the context's error, or none if it was quicker
			})
			exits.Go(func() { errNil(t, m.Context(ctx, "true").Run()) })
		}
		exits.Wait()
		cancel()
		hangs.Wait()
	})
}

// What a container's Cmd has more than os/exec's.
func TestCmdOfContainer(t *testing.T) {
	containertest.Census(t)
	t.Run("options after fields", func(t *testing.T) {
		c := container.Command("sh", "-c", `echo "$0 $A $B $(pwd)"`)
		c.Env, c.Dir = []string{"A=field", "B=field"}, "/"
		c.Options = []container.Option{container.WithArgs("arg"), container.WithEnv("B=option"), container.WithDir("/tmp"), nil}
		out, err := c.Output()
		require.NoError(t, err)
		require.Equal(t, "arg field option /tmp\n", string(out))
		require.Equal(t, container.Exited, c.Result.Status)
		require.EqualValues(t, len(out), c.Result.StdoutBytes)

		c = container.Command("false", "x")
		c.Options = []container.Option{container.WithCommand("true"), container.WithHostname("box")}
		require.NoError(t, c.Run())
	})
	t.Run("the default environment", func(t *testing.T) {
		t.Setenv("SECRET", "of the host")
		c := container.Command("env")
		out, err := c.Output()
		require.NoError(t, err)
		require.ElementsMatch(t, c.Environ(), lines(string(out)))
		require.Len(t, c.Environ(), 4)
	})
	t.Run("limits", func(t *testing.T) {
		c := container.Command("yes")
		c.Options = []container.Option{container.WithOutputLimit(1000)}
		out, err := c.Output()
		require.EqualError(t, err, "output limit")
		require.Len(t, out, 1000)
		require.Equal(t, container.OutputLimit, c.Result.Status)
		c = container.Command("sleep", "1000")
		c.Options = []container.Option{container.WithTimeLimit(20 * time.Millisecond)}
		require.EqualError(t, c.Run(), "time limit")
		require.Equal(t, container.TimeLimit, c.Result.Status)
	})
	t.Run("faults of a request", func(t *testing.T) {
		c := container.Command("true")
		c.Dir, c.Env, c.Options = "tmp", []string{"HOME"}, []container.Option{container.WithMemoryLimit(-1)}
		err := c.Run()
		for _, part := range []string{`WithDir("tmp"): path "tmp" is relative: inside a container it begins with /`, "WithEnv", "WithMemoryLimit"} {
			require.ErrorContains(t, err, part)
		}
		var fault *container.OptionError
		require.ErrorAs(t, err, &fault)
		require.Nil(t, c.Process)
		c = container.Command("true")
		c.Options = []container.Option{container.WithResources(cgroup.Limits{Hugetlb: map[string]int64{"3KB": 0}})}
		require.ErrorIs(t, c.Run(), errors.ErrUnsupported)
	})
	t.Run("verdict of a context", func(t *testing.T) {
		cause := errors.New("enough")
		for name, command := range commands(start(t)) {
			ctx, cancel := context.WithCancelCause(t.Context())
			c := command(ctx, "sleep", "1000")
			require.NoError(t, c.Start(), name)
			cancel(cause)
			err := c.Wait()
			exitError(t, err)
			require.EqualError(t, err, "canceled: context canceled: enough")
			require.ErrorIs(t, err, cause)
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, container.Canceled, c.Result.Status)
			require.ErrorIs(t, c.Cancel(), os.ErrProcessDone)

			// The end that came first counts, though nobody had waited for it.
			ctx, cancel = context.WithCancelCause(t.Context())
			c = command(ctx, "true")
			require.NoError(t, c.Start(), name)
			<-c.Process.Done()
			cancel(cause)
			require.NoError(t, c.Wait())

			// A context bounds the start as well.
			ctx, cancel = context.WithCancelCause(t.Context())
			c = command(ctx, "cat")
			c.Stdin = readerFunc(func([]byte) (int, error) { return 0, io.EOF })
			cancel(cause)
			require.Equal(t, context.Canceled, c.Start(), name)
		}
	})
	t.Run("an input that blocks", func(t *testing.T) {
		r, w := io.Pipe()
		for name, command := range commands(start(t)) {
			c := command(t.Context(), "true")
			c.Stdin, c.WaitDelay = r, time.Millisecond
			require.NoError(t, c.Run(), name)
		}
		require.NoError(t, w.Close()) // ends both reads
	})
	t.Run("Process", func(t *testing.T) {
		for name, command := range commands(start(t)) {
			c := command(t.Context(), "sleep", "1000")
			require.NoError(t, c.Start(), name)
			require.Positive(t, c.Process.PID())
			require.NoError(t, c.Process.Kill())
			require.EqualError(t, c.Wait(), "killed")
			require.Equal(t, container.Killed, c.Result.Status)
			require.ErrorIs(t, c.Process.Signal(os.Interrupt), os.ErrProcessDone)
			res, err := c.Process.Wait(timeout(t))
			require.NoError(t, err)
			require.Same(t, c.Result, res)
		}
	})
}

// commands makes Cmds of both kinds.
func commands(in *container.Container) map[string]func(context.Context, string, ...string) *container.Cmd {
	return map[string]func(context.Context, string, ...string) *container.Cmd{
		"CommandContext": container.CommandContext, "Container.CommandContext": in.CommandContext,
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestContainerCommand(t *testing.T) {
	containertest.Census(t)
	c := start(t)
	// Files and processes are shared.
	require.NoError(t, c.Command("sh", "-c", "echo shared >/tmp/x").Run())
	out, err := c.Command("cat", "/tmp/x").Output()
	require.NoError(t, err)
	require.Equal(t, "shared\n", string(out))

	// A job's options are taken, a container's refused, each by its name.
	limited := c.Command("sleep", "1000")
	limited.Options = []container.Option{container.Options(container.WithTimeLimit(20 * time.Millisecond)), container.Optional(container.WithUmask(0))}
	require.EqualError(t, limited.Run(), "time limit")
	refused := c.Command("true")
	refused.Options = []container.Option{
		container.WithUmask(0),
		container.Options(container.WithHostname("box"), container.Optional(container.WithID("x")), container.WithUmask(0)),
	}
	err = refused.Run()
	require.EqualError(t, err, "inlay: WithHostname(): not an option of a single job (give it to New)\ninlay: WithID(): not an option of a single job (give it to New)")
	var fault *container.OptionError
	require.ErrorAs(t, err, &fault)
	relative := c.Command("true")
	relative.Dir = "tmp"
	require.ErrorAs(t, relative.Run(), &fault)
	require.Equal(t, "WithDir", fault.Option)

	require.ErrorIs(t, c.Command("nosuch").Run(), container.ErrNotFound)
	unstarted, err := container.New()
	require.NoError(t, err)
	require.ErrorIs(t, unstarted.Command("true").Run(), container.ErrNotStarted)
	require.NoError(t, unstarted.Close())

	// The container's end is the job's.
	long := c.Command("sleep", "1000")
	require.NoError(t, long.Start())
	require.NoError(t, c.Close())
	code, _ := exitError(t, long.Wait())
	require.Equal(t, -1, code)
	require.ErrorIs(t, c.Command("true").Run(), container.ErrClosed)
}
