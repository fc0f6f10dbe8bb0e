package container_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// screen keeps what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed when there is more
	end  error
}

func newScreen() *screen { return &screen{more: make(chan struct{})} }

// Write shows more.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(b)
	close(s.more)
	s.more = make(chan struct{})
	return len(b), nil
}

// watch shows all that a terminal's master gives.
func watch(master *os.File) *screen {
	s := newScreen()
	go func() {
		_, err := io.Copy(s, struct{ io.Reader }{master})
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end = err
		close(s.more)
		s.more = make(chan struct{})
	}()
	return s
}

// await waits for a text, and takes it and all before it off the screen.
func (s *screen) await(t *testing.T, text string) {
	t.Helper()
	done := timeout(t).Done()
	for {
		s.mu.Lock()
		seen, more, end := s.text.String(), s.more, s.end
		if i := strings.Index(seen, text); i >= 0 {
			s.text.Next(i + len(text))
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		require.NoError(t, end, "%q is not in %q", text, seen)
		select {
		case <-more:
		case <-done:
			require.FailNow(t, "timeout", "%q is not in %q", text, seen)
		}
	}
}

// awaitEnd waits for the error that ended the reading.
func (s *screen) awaitEnd(t *testing.T) error {
	t.Helper()
	done := timeout(t).Done()
	for {
		s.mu.Lock()
		end, more := s.end, s.more
		s.mu.Unlock()
		if end != nil {
			return end
		}
		select {
		case <-more:
		case <-done:
			require.FailNow(t, "the terminal does not end")
		}
	}
}

func typed(t *testing.T, master io.Writer, text string) {
	t.Helper()
	_, err := io.WriteString(master, text)
	require.NoError(t, err)
}

// terminalJob tells what a job sees of its terminal.
var terminalJob = register("terminal", func([]string) int {
	var st [3]unix.Stat_t
	for fd := range st {
		if err := unix.Fstat(fd, &st[fd]); err != nil {
			fmt.Println("fstat", err)
			return 1
		}
	}
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		fmt.Println("size", err)
		return 1
	}
	name, _ := os.Readlink("/proc/self/fd/0")
	foreground, _ := unix.IoctlGetInt(1, unix.TIOCGPGRP)
	session, _ := unix.IoctlGetInt(1, unix.TIOCGSID)
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		fmt.Println("/dev/tty", err)
		return 1
	}
	again, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
	if err != nil {
		fmt.Println("/dev/stdout", err)
		return 1
	}
	_, err = fmt.Fprintln(tty, "one terminal:", st[0].Rdev == st[1].Rdev && st[1].Rdev == st[2].Rdev && name == "/dev/pts/0",
		"major:", unix.Major(st[0].Rdev), "mode:", strconv.FormatUint(uint64(st[0].Mode), 8), "owner:", st[0].Uid == uint32(os.Getuid()))
	_, err2 := fmt.Fprintln(again, "size:", size.Row, size.Col, "leader:", foreground == os.Getpid() && session == os.Getpid(), "TERM:", os.Getenv("TERM"))
	if err := errors.Join(err, err2); err != nil {
		return 1
	}
	return 0
})

func TestTerminal(t *testing.T) {
	needContainers(t)
	for name, user := range map[string]container.JobOption{"root": container.WithUser(0, 0), "user": container.WithUser(1000, 1000)} {
		t.Run(name, func(t *testing.T) {
			if name == "user" {
				containertest.Require(t, containertest.Users)
			}
			var out bytes.Buffer
			res, err := container.Run(timeout(t), self(t, terminalJob), user, container.WithTerminal(0, 0), container.WithStdout(&out))
			require.NoError(t, err)
			require.NoError(t, res.Err(), "%s", out.String())
			require.Contains(t, out.String(), "one terminal: true major: 136 mode: 20620 owner: true\r\n")
			require.Contains(t, out.String(), "size: 24 80 leader: true TERM: xterm\r\n")
			require.EqualValues(t, out.Len(), res.StdoutBytes)
			require.False(t, res.Truncated)
		})
	}
}

// Extra files come after the terminal, and nothing else is open.
func TestTerminalExtraFiles(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	a, b := pipeWith(t, "a"), pipeWith(t, "b")
	defer a.Close() //nolint:errcheck // only read from
	defer b.Close() //nolint:errcheck // only read from
	text := terminalOutput(t, container.WithTerminal(7, 200), container.WithExtraFiles(a, b), container.WithEnv("TERM=vt100"),
		sh(`stty size; cat <&3; cat <&4; for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do [ -e /proc/$$/fd/$fd ] && echo -n "$fd "; done; echo $TERM`))
	require.Equal(t, "7 200\r\nab0 1 2 3 4 vt100\r\n", text)
}

// pipeWith is a pipe from which a text can be read.
func pipeWith(t *testing.T, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	typed(t, w, text)
	require.NoError(t, w.Close())
	return r
}

// terminalOutput is what a job with a terminal writes.
func terminalOutput(t *testing.T, opts ...container.Option) string {
	t.Helper()
	var out bytes.Buffer
	res, err := container.Run(timeout(t), append(opts, container.WithStdout(&out))...)
	require.NoError(t, err)
	require.NoError(t, res.Err(), "%s", out.String())
	return out.String()
}

// A person at a shell: lines, ^C, ^Z, fg, ^D.
func TestTerminalJobControl(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	c, err := container.New(container.WithCommand("/bin/sh", "-i"), container.WithTerminal(24, 80), container.WithEnv("PS1=ready> ", "ENV="))
	require.NoError(t, err)
	require.Nil(t, c.Terminal())
	require.ErrorIs(t, c.Resize(1, 1), container.ErrNotStarted)
	require.NoError(t, c.Start(timeout(t)))
	master := c.Terminal()
	s := watch(master)
	s.await(t, "ready> ")
	typed(t, master, "echo one$((1+1))\n")
	s.await(t, "one2\r\n")
	s.await(t, "ready> ")

	// A shell that edits lines itself leaves the terminal to the program a moment later:
	// what is typed before is not echoed by the terminal.
	const cat = "sh -c 'echo u\"\"p; exec cat'"
	typed(t, master, cat+"\n")
	s.await(t, "up\r\n")
	typed(t, master, "echoed\n")
	s.await(t, "echoed\r\nechoed\r\n") // once as typed, once by cat
	typed(t, master, "\x03")
	s.await(t, "ready> ")
	typed(t, master, "echo status $?\n")
	s.await(t, "status 130\r\n")
	s.await(t, "ready> ")

	typed(t, master, cat+"\n")
	s.await(t, "up\r\n")
	typed(t, master, "a\n")
	s.await(t, "a\r\na\r\n")
	typed(t, master, "\x1a")
	s.await(t, "Stopped")
	s.await(t, "ready> ")
	typed(t, master, "jobs\n")
	s.await(t, "Stopped")
	s.await(t, "ready> ")
	typed(t, master, "fg\n")
	s.await(t, "fg\r\n")
	s.await(t, "\r\n") // its name
	typed(t, master, "b\n")
	s.await(t, "b\r\nb\r\n")
	typed(t, master, "\x04")
	s.await(t, "ready> ")

	require.NoError(t, c.Resize(30, 100))
	typed(t, master, "stty size\n")
	s.await(t, "30 100\r\n")
	s.await(t, "ready> ")
	typed(t, master, "exit 3\n")
	res, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, 3, res.ExitCode)
	require.ErrorIs(t, s.awaitEnd(t), syscall.EIO)
	require.ErrorIs(t, c.Resize(1, 1), container.ErrEnded)
	require.NoError(t, c.Close())
	require.ErrorIs(t, master.Close(), os.ErrClosed)
}

// resizeJob tells every size that it is told of.
var resizeJob = register("sizes", func([]string) int {
	changed := make(chan os.Signal, 8)
	signal.Notify(changed, unix.SIGWINCH)
	for {
		size, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Printf("[%d %d]", size.Row, size.Col)
		if size.Row == 1 {
			return 0
		}
		<-changed
	}
})

func TestTerminalResize(t *testing.T) {
	needContainers(t)
	c := start(t, selfMount(t))
	p, err := c.Exec(timeout(t), selfJob(t, resizeJob), container.WithTerminal(0, 7))
	require.NoError(t, err)
	s := watch(p.Terminal())
	s.await(t, "[24 7]")
	for _, size := range [][2]int{{50, 132}, {65535, 65535}, {50, 0}} {
		require.NoError(t, p.Resize(size[0], size[1]))
		if size[1] == 0 {
			size[1] = 80
		}
		s.await(t, fmt.Sprintf("[%d %d]", size[0], size[1]))
	}
	for _, size := range [][2]int{{-1, 5}, {5, -1}, {65536, 5}, {5, 65536}} {
		var fault *container.OptionError
		require.ErrorAs(t, p.Resize(size[0], size[1]), &fault)
		require.Equal(t, "Resize", fault.Option)
	}
	require.NoError(t, p.Resize(1, 1))
	s.await(t, "[1 1]")
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, res.Err())
	require.ErrorIs(t, p.Resize(1, 1), container.ErrEnded)
	require.NoError(t, p.Terminal().Close())

	p, err = c.Exec(timeout(t), container.WithCommand("sleep", "1000"))
	require.NoError(t, err)
	require.Nil(t, p.Terminal())
	require.ErrorIs(t, p.Resize(1, 1), errors.ErrUnsupported)
	require.NoError(t, p.Kill())
	p, err = c.Exec(timeout(t), container.WithCommand("sleep", "1000"), container.WithTerminal(1, 1))
	require.NoError(t, err)
	require.NoError(t, p.Terminal().Close()) // hangs up
	require.ErrorIs(t, p.Resize(1, 1), container.ErrEnded)
	res, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, syscall.SIGHUP, res.Signal)
}

// What was written before the end is not lost, however soon the end comes, and however
// much it is.
func TestTerminalOutput(t *testing.T) {
	needContainers(t)
	c := start(t)
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		var out bytes.Buffer
		p, err := c.Exec(timeout(t), container.WithCommand("echo", "hi"), container.WithTerminal(0, 0), container.WithStdout(&out))
		require.NoError(t, err)
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, "hi\r\n", out.String(), "%v", res)
	}
	text := terminalOutput(t, container.WithTerminal(0, 0), sh("seq 100000"))
	require.Len(t, text, 588895+100000) // a carriage return a line
	require.True(t, strings.HasSuffix(text, "\r\n99999\r\n100000\r\n"))
}

// What is given as input is typed, and its end as well.
func TestTerminalInput(t *testing.T) {
	needContainers(t)
	for name, tt := range map[string]struct{ in, out string }{
		"nothing":        {"", ""},
		"lines":          {"a\nb\n", "a\nb\n"},
		"no last line":   {"a\nb", "a\nb"},
		"the line alone": {"b", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			ready := newScreen()
			in, keys := io.Pipe()
			p, err := start(t).Exec(timeout(t), container.WithTerminal(0, 0), sh("stty -echo -onlcr; printf 'ready\\r\\n'; cat"), container.WithStdin(in),
				container.WithStdout(io.MultiWriter(&out, ready)))
			require.NoError(t, err)
			ready.await(t, "ready\r\n") // else the echo would be mixed into the rest
			typed(t, keys, tt.in)
			require.NoError(t, keys.Close())
			res, err := p.Wait(timeout(t))
			require.NoError(t, err)
			require.NoError(t, res.Err())
			require.Equal(t, "ready\r\n"+tt.out, out.String())
		})
	}
	t.Run("unset", func(t *testing.T) {
		res, err := container.Run(timeout(t), container.WithTerminal(0, 0), sh("cat; seq 100000"))
		require.NoError(t, err)
		require.NoError(t, res.Err())
		require.EqualValues(t, 588895+100000, res.StdoutBytes)
	})
	t.Run("a file", func(t *testing.T) {
		in := pipeWith(t, "secret\n")
		out, err := os.CreateTemp(t.TempDir(), "")
		require.NoError(t, err)
		_, err = container.Run(timeout(t), container.WithTerminal(0, 0), sh("read x; echo got $x"), container.WithStdin(in), container.WithStdout(out), container.WithStderr(out))
		require.NoError(t, err)
		text, err := os.ReadFile(out.Name())
		require.NoError(t, err)
		require.Equal(t, "secret\r\ngot secret\r\n", string(text))
		require.NoError(t, errors.Join(in.Close(), out.Close()))
	})
	t.Run("more than the job reads", func(t *testing.T) {
		c := start(t)
		p, err := c.Exec(timeout(t), container.WithTerminal(0, 0), container.WithCommand("sleep", "0.1"), container.WithStdin(typing{}), container.WithStdout(io.Discard))
		require.NoError(t, err)
		_, err = p.Wait(timeout(t))
		require.NoError(t, err)
	})
}

// typing is a reader of lines that never ends.
type typing struct{}

func (typing) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = "y\n"[i%2]
	}
	return len(b), nil
}

// A process that keeps the terminal open, and cannot be hung up, holds nobody up.
var keepTerminal = register("keep terminal", func(args []string) int {
	if len(args) > 0 {
		fmt.Println("kept")
		_ = unix.Pause() // until it is killed
		return 0
	}
	signal.Ignore(unix.SIGHUP) // which giving it up brings
	if err := unix.IoctlSetInt(0, unix.TIOCNOTTY, 0); err != nil {
		fmt.Println(err)
		return 1
	}
	child, err := os.StartProcess("/proc/self/exe", []string{"test", "keep terminal", "on"}, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err == nil {
		err = child.Release()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
})

func TestTerminalKept(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	c := start(t, selfMount(t))
	var out bytes.Buffer
	p, err := c.Exec(timeout(t), selfJob(t, keepTerminal), container.WithTerminal(0, 0), container.WithStdout(&out))
	require.NoError(t, err)
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, res.Err())
	require.True(t, res.Truncated)

	// Where the caller reads, nothing is waited for.
	p, err = c.Exec(timeout(t), selfJob(t, keepTerminal), container.WithTerminal(0, 0))
	require.NoError(t, err)
	res, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.False(t, res.Truncated)
	s := watch(p.Terminal())
	s.await(t, "kept\r\n")

	// A background process of the same session as well.
	p, err = c.Exec(timeout(t), sh("trap '' HUP; sleep 1000 & echo begun"), container.WithTerminal(0, 0), container.WithStdout(&out))
	require.NoError(t, err)
	res, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, res.Err())
	require.True(t, res.Truncated)
	require.True(t, strings.HasSuffix(out.String(), "begun\r\n"))

	require.NoError(t, c.Close())
	require.Error(t, s.awaitEnd(t))
}

// A job whose terminal nobody reads is held up, and nobody else.
func TestTerminalUnread(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	c := start(t)
	p, err := c.Exec(timeout(t), sh("yes"), container.WithTerminal(0, 0))
	require.NoError(t, err)
	require.NoError(t, p.Kill())
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Killed, res.Status)
	require.NoError(t, c.Close())
}

func TestTerminalOutputLimit(t *testing.T) {
	needContainers(t)
	var out bytes.Buffer
	res, err := container.Run(timeout(t), container.WithTerminal(0, 0), sh("yes"), container.WithOutputLimit(1000), container.WithStdout(&out))
	require.NoError(t, err)
	require.Equal(t, container.OutputLimit, res.Status)
	require.Equal(t, 1000, out.Len())
	require.True(t, strings.HasPrefix(out.String(), "y\r\ny\r\n")) // the terminal's bytes are what counts
}

// No words are put into the mouth of whoever has the terminal, not even with all
// capabilities.
var tiocstiJob = register("tiocsti", func([]string) int {
	b := byte('x')
	for _, request := range []uintptr{unix.TIOCSTI, 1<<32 | unix.TIOCSTI, 0x541c /* TIOCLINUX */} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, request, uintptr(ptr(&b)))
		fmt.Println(request, errors.Is(errno, unix.EPERM))
	}
	return 0
})

func TestTerminalNoInjection(t *testing.T) {
	needContainers(t)
	for name, opt := range map[string]container.Option{"default": container.JobOptions(), "CAP_SYS_ADMIN": container.WithCapabilities("sys_admin")} {
		t.Run(name, func(t *testing.T) {
			text := terminalOutput(t, self(t, tiocstiJob), opt, container.WithTerminal(0, 0))
			require.Equal(t, 3, strings.Count(text, "true"), "%s", text)
		})
	}
}

// What a job has put in the place of the container's terminals is not taken for one.
func TestTerminalReplaced(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	for _, place := range []string{
		"mount -t tmpfs none /dev/pts && echo x >/dev/pts/ptmx",
		"mount -t tmpfs none /dev/pts && mkfifo /dev/pts/ptmx",
		"mount -t tmpfs none /dev/pts && mkdir /dev/pts/ptmx",
		"mount -t tmpfs none /dev/pts && ln -s /dev/zero /dev/pts/ptmx",
		"mount -t tmpfs none /dev/pts && ln -s /proc/1/fd/0 /dev/pts/ptmx",
		"mount -t tmpfs none /dev/pts && ln -s ptmx /dev/pts/ptmx",
		"mount -t tmpfs none /dev/pts",
		"mount --bind /dev/null /dev/pts/ptmx",
		"umount /dev/pts",
	} {
		t.Run(place, func(t *testing.T) {
			c := start(t)
			_ = execOutput(t, c, sh(place), container.WithCapabilities("sys_admin", "dac_override"))
			_, err := c.Exec(timeout(t), container.WithTerminal(0, 0), container.WithCommand("true"))
			var e *container.StartError
			require.ErrorAs(t, err, &e)
			require.Equal(t, "/dev/pts/ptmx", e.Path)
			require.NoError(t, c.Close())
		})
	}
}

// A start that fails leaves no terminal.
func TestTerminalNotStarted(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	_, err := container.Run(timeout(t), container.WithTerminal(0, 0), container.WithCommand("/nowhere"), container.WithStdin(strings.NewReader("x")))
	require.ErrorIs(t, err, container.ErrNotFound)
	_, err = container.Run(timeout(t), container.WithTerminal(0, 0), container.WithCommand("true"), container.WithFile("/usr/x", nil, 0o600))
	var e *container.StartError
	require.ErrorAs(t, err, &e)
	require.Equal(t, container.PhaseChild, e.Phase)
	c := start(t)
	_, err = c.Exec(timeout(t), container.WithTerminal(0, 0), container.WithCommand("/nowhere"))
	require.ErrorIs(t, err, container.ErrNotFound)
	require.NoError(t, c.Close())
	_, err = c.Exec(timeout(t), container.WithTerminal(0, 0), container.WithCommand("true"))
	require.ErrorIs(t, err, container.ErrClosed)
}

// os/exec's twin takes it as one of its options.
func TestTerminalCmd(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	cmd := container.Command("sh", "-c", "tty; tty >&2")
	cmd.Options = []container.Option{container.WithTerminal(0, 0)}
	text, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "/dev/pts/0\r\n/dev/pts/0\r\n", string(text))

	cmd = container.Command("sh", "-c", "tty; tty >&2")
	cmd.Options = []container.Option{container.WithTerminal(0, 0)}
	text, err = cmd.CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "/dev/pts/0\r\n/dev/pts/0\r\n", string(text))

	c := start(t)
	cmd = c.Command("sh", "-c", "cat; seq 100000")
	cmd.Options = []container.Option{container.WithTerminal(0, 0)}
	require.NoError(t, cmd.Run())

	cmd = c.Command("sh", "-c", "read x; echo got $x")
	cmd.Options = []container.Option{container.WithTerminal(0, 0)}
	require.NoError(t, cmd.Start())
	s := watch(cmd.Process.Terminal())
	typed(t, cmd.Process.Terminal(), "it\n")
	s.await(t, "got it\r\n")
	require.NoError(t, cmd.Wait())
	require.NoError(t, c.Close())
}

// Many at once, each with its own.
func TestTerminalMany(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	c := start(t)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			var out bytes.Buffer
			p, err := c.Exec(timeout(t), sh(fmt.Sprintf("stty size; echo %d; head -c 100000 /dev/zero | tr '\\0' x", i)), container.WithTerminal(i+10, i+20), container.WithStdout(&out))
			if err == nil {
				_, err = p.Wait(timeout(t))
			}
			if want := fmt.Sprintf("%d %d\r\n%d\r\n", i+10, i+20, i) + strings.Repeat("x", 100000); err != nil || out.String() != want {
				t.Errorf("%d: %v, %.40q", i, err, out.String())
			}
		})
	}
	all.Wait()
	require.NoError(t, c.Close())
}

// Probe has nothing against one.
func TestTerminalProbe(t *testing.T) {
	needContainers(t)
	report, err := container.Probe(timeout(t), container.WithCommand("true"), container.WithTerminal(0, 0), container.WithUser("root"))
	require.NoError(t, err)
	require.True(t, report.OK(), "%v", report)
}
