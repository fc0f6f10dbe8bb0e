package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// desk is a person's terminal with a program in front.
type desk struct {
	cmd    *exec.Cmd
	screen *os.File // the master
	before *unix.Termios
	slave  *os.File // kept, to see what the program leaves
	seen   string
}

// sit runs the program as the leader of a session with a terminal.
func sit(t *testing.T, cmd *exec.Cmd) *desk {
	t.Helper()
	master, name, err := console.NewPty()
	require.NoError(t, err)
	require.NoError(t, master.Resize(console.WinSize{Height: 33, Width: 99}))
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, slave.Close()) })
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(fd, true))
	require.NoError(t, master.Close())
	d := &desk{cmd: cmd, slave: slave, screen: os.NewFile(uintptr(fd), "screen")}
	t.Cleanup(func() { _ = d.screen.Close() }) // a test may have closed it
	d.before = d.settings(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	return d
}

func (d *desk) settings(t *testing.T) *unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(d.slave.Fd()), unix.TCGETS)
	require.NoError(t, err)
	return s
}

// await reads until the text is there.
func (d *desk) await(t *testing.T, text string) {
	t.Helper()
	buf := make([]byte, 4096)
	require.NoError(t, d.screen.SetReadDeadline(time.Now().Add(time.Minute)))
	for {
		if i := strings.Index(d.seen, text); i >= 0 {
			d.seen = d.seen[i+len(text):]
			return
		}
		n, err := d.screen.Read(buf)
		require.NoError(t, err, "%q is not in %q", text, d.seen)
		d.seen += string(buf[:n])
	}
}

func (d *desk) types(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(d.screen, text)
	require.NoError(t, err)
}

// leaves waits for the program's end; the terminal is what it was before.
func (d *desk) leaves(t *testing.T, code int) {
	t.Helper()
	var exit *exec.ExitError
	if err := d.cmd.Wait(); err != nil {
		require.ErrorAs(t, err, &exit)
	}
	require.Equal(t, code, d.cmd.ProcessState.ExitCode(), "%v %q", d.cmd.ProcessState, d.seen)
	require.Equal(t, d.before, d.settings(t))
}

// shell is the program with a shell that waits for what is typed.
func shell(t *testing.T, args ...string) *desk {
	t.Helper()
	d := sit(t, command(t, append(args, "--env", "PS1=ready> ", "--env", "ENV=", "--", "sh", "-i")...))
	d.await(t, "ready> ")
	return d
}

func TestTerminal(t *testing.T) {
	needContainers(t)
	d := shell(t, "-it")
	require.NotEqual(t, d.before, d.settings(t))
	d.types(t, "tty; stty size\r")
	d.await(t, "/dev/pts/0\r\n")
	d.await(t, "33 99\r\n")
	d.await(t, "ready> ")
	d.types(t, "sh -c 'echo u\"\"p; exec cat'\r")
	d.await(t, "up\r\n")
	d.types(t, "it runs\r")
	d.await(t, "it runs\r\nit runs\r\n")
	d.types(t, "\x03") // the job's, not this program's
	d.await(t, "ready> ")

	raw, err := d.screen.SyscallConn()
	require.NoError(t, err)
	d.types(t, "while [ \"$(stty size)\" = '33 99' ]; do :; done; stty size\r")
	d.await(t, "\r\n")
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 11, Col: 222})
	}))
	require.NoError(t, err)
	d.await(t, "11 222\r\n")
	d.await(t, "ready> ")
	d.types(t, "exit 7\r")
	d.leaves(t, 7)
}

// However the program ends, the terminal is what it was.
func TestTerminalRestored(t *testing.T) {
	needContainers(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			d := shell(t, "-it")
			all := descendants(t, d.cmd.Process.Pid)
			require.NotEqual(t, d.before, d.settings(t))
			require.NoError(t, d.cmd.Process.Signal(sig))
			d.leaves(t, 137)
			for pid, fd := range all {
				gone(t, pid, fd)
			}
		})
	}
	t.Run("long flags", func(t *testing.T) {
		d := shell(t, "--interactive", "--tty")
		d.types(t, "exit 3\r")
		d.leaves(t, 3)
	})
	t.Run("hung up", func(t *testing.T) {
		d := shell(t, "-i", "-t")
		all := descendants(t, d.cmd.Process.Pid)
		require.NoError(t, d.screen.Close())
		_ = d.cmd.Wait() // it has nobody to tell
		for pid, fd := range all {
			gone(t, pid, fd)
		}
	})
	t.Run("not found", func(t *testing.T) {
		d := sit(t, command(t, "-it", "--", "no-such-command"))
		d.await(t, "command not found")
		d.leaves(t, 127)
	})
	t.Run("no such root", func(t *testing.T) {
		d := sit(t, command(t, "-it", "--rootfs", "/no/such", "--", "true"))
		d.await(t, "no such file")
		d.leaves(t, 125)
	})
	t.Run("time limit", func(t *testing.T) {
		d := sit(t, command(t, "-it", "--time-limit", "50ms", "--", "sleep", "1000"))
		d.await(t, "time limit")
		d.leaves(t, 137)
	})
	for _, way := range []string{"panic", "second"} {
		t.Run(way, func(t *testing.T) {
			exe, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.CommandContext(t.Context(), exe)
			cmd.Env = append(os.Environ(), badEndEnv+"="+way)
			d := sit(t, cmd)
			d.await(t, "raw")
			if way == "panic" {
				d.leaves(t, 2)
				return
			}
			for range 2 {
				d.await(t, "next")
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			}
			d.leaves(t, 128+int(syscall.SIGTERM))
		})
	}
}

const badEndEnv = "INLAY_RUN_BAD_END"

// badEnd ends in a way that cannot be asked of the program itself.
func badEnd(way string) {
	own := ownTerminal()
	defer own.onSignals(func() { print("next") })() // and does not end
	if err := own.raw(); err != nil {
		panic(err)
	}
	defer own.restore() //nolint:errcheck // the test looks
	print("raw")
	if way == "panic" {
		panic("a bug")
	}
	print("next")
	select {}
}

// Without a terminal of its own it goes all the same.
func TestTerminalOfTheJobAlone(t *testing.T) {
	needContainers(t)
	cmd := command(t, "-t", "--", "sh", "-c", "tty; stty size; tty >&2")
	require.Equal(t, outcome{0, "/dev/pts/0\r\n24 80\r\n/dev/pts/0\r\n", ""}, finish(t, cmd))
	cmd = command(t, "-it", "--", "sh", "-c", "stty -echo; echo ready; cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	first := make([]byte, len("ready\r\n"))
	_, err = io.ReadFull(out, first)
	require.NoError(t, err)
	_, err = io.WriteString(in, "hello\n")
	require.NoError(t, errors.Join(err, in.Close()))
	rest, err := io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	require.Equal(t, "ready\r\nhello\r\n", string(bytes.Join([][]byte{first, rest}, nil)))
	o := do(t, "--stats", "-t", "--", "true")
	require.Equal(t, 125, o.code)
	require.Contains(t, o.stderr, "--stats and -t")
}
