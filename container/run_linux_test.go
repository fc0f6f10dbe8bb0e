package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

func TestExitCodes(t *testing.T) {
	containertest.Census(t)
	for code := range 256 {
		if code > 5 && code < 120 || code > 170 && code < 250 {
			continue
		}
		res, err := container.Run(timeout(t), sh(fmt.Sprintf("exit %d", code)))
		require.NoError(t, err)
		require.Equal(t, container.Exited, res.Status)
		require.Equal(t, code, res.ExitCode)
		require.Zero(t, res.Signal)
	}
}

var raise = register("raise", func(args []string) int {
	var n int
	if _, err := fmt.Sscan(args[0], &n); err != nil {
		return 99
	}
	// The Go runtime handles signals: give each its default back, and die of it
	// on a thread that does not block it.
	var act [4]uint64
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(ptr(&act)), 0, 8, 0, 0)
	_, _, _ = syscall.RawSyscall(unix.SYS_TGKILL, uintptr(os.Getpid()), uintptr(unix.Gettid()), uintptr(n))
	return 100 + n // it did not kill
})

// A signal is told from the exit code that a shell makes of it.
func TestEverySignal(t *testing.T) {
	containertest.Census(t)
	harmless := map[int]bool{17: true, 18: true, 19: true, 20: true, 21: true, 22: true, 23: true, 28: true}
	for n := 1; n <= 64; n++ {
		if harmless[n] || n == 32 || n == 33 {
			continue // ignored or stopping by default; 32 and 33 the C library keeps
		}
		res, err := container.Run(timeout(t), self(t, raise, fmt.Sprint(n)))
		require.NoError(t, err)
		want := container.Signaled
		if syscall.Signal(n) == syscall.SIGSYS {
			want = container.SyscallRefused // as a filter's kill looks
		}
		require.Equal(t, want, res.Status, "signal %d: %v", n, res)
		require.Equal(t, syscall.Signal(n), res.Signal)
		require.Equal(t, -1, res.ExitCode)
		require.Equal(t, 128+n, res.ShellCode())
		res, err = container.Run(timeout(t), sh(fmt.Sprintf("exit %d", 128+n)))
		require.NoError(t, err)
		require.Equal(t, container.Exited, res.Status)
		require.Equal(t, 128+n, res.ExitCode)
	}
}

// The host can send every signal; those two as well that no C program sends.
func TestSignalFromHost(t *testing.T) {
	containertest.Census(t)
	for _, n := range []syscall.Signal{1, 2, 9, 10, 15, 32, 33, 34, 64} {
		c := start(t, container.WithCommand("sleep", "1000"))
		require.NoError(t, c.Signal(n))
		res, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, n, res.Signal)
		require.Equal(t, container.Signaled, res.Status)
		require.ErrorIs(t, c.Signal(n), container.ErrEnded)
		require.ErrorIs(t, c.Signal(n), os.ErrProcessDone)
		require.NoError(t, c.Close())
		require.ErrorIs(t, c.Signal(n), container.ErrClosed)
	}
	c := start(t, container.WithCommand("sleep", "1000"))
	require.ErrorIs(t, c.Signal(badSignal{}), errors.ErrUnsupported)
}

type badSignal struct{}

func (badSignal) String() string { return "bad" }
func (badSignal) Signal()        {}

// start starts a container that is closed when the test ends.
func start(t testing.TB, opts ...container.Option) *container.Container {
	t.Helper()
	c, err := container.New(opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, c.Start(timeout(t)))
	return c
}

func TestStdio(t *testing.T) {
	containertest.Census(t)
	t.Run("reader and writers", func(t *testing.T) {
		var out, errs bytes.Buffer
		res, err := container.Run(timeout(t), sh("cat; echo bad >&2"), container.WithStdin(strings.NewReader("in")), container.WithStdout(&out), container.WithStderr(&errs))
		require.NoError(t, err)
		require.Equal(t, "in", out.String())
		require.Equal(t, "bad\n", errs.String())
		require.EqualValues(t, 2, res.StdoutBytes)
		require.EqualValues(t, 4, res.StderrBytes)
	})
	t.Run("one writer for both keeps the order", func(t *testing.T) {
		got := output(t, sh("for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done"))
		want := ""
		for i := 1; i < 10; i++ {
			want += fmt.Sprintf("o%d\ne%d\n", i, i)
		}
		require.Equal(t, want, got)
	})
	t.Run("nothing given", func(t *testing.T) {
		res, err := container.Run(timeout(t), sh("cat; echo gone; echo gone >&2"))
		require.NoError(t, err)
		require.True(t, res.Success())
	})
	t.Run("files", func(t *testing.T) {
		dir := t.TempDir()
		in := filepath.Join(dir, "in")
		require.NoError(t, os.WriteFile(in, []byte("from a file"), 0o644))
		f, err := os.Open(in)
		require.NoError(t, err)
		defer f.Close() //nolint:errcheck // only read
		o, err := os.OpenFile(filepath.Join(dir, "out"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		require.NoError(t, err)
		defer o.Close() //nolint:errcheck // read below
		res, err := container.Run(timeout(t), container.WithCommand("cat"), container.WithStdin(f), container.WithStdout(o))
		require.NoError(t, err)
		require.True(t, res.Success(), "%v", res)
		got, err := os.ReadFile(o.Name())
		require.NoError(t, err)
		require.Equal(t, "from a file", string(got))
	})
	t.Run("opened again by name", func(t *testing.T) {
		var out, errs bytes.Buffer
		res, err := container.Run(timeout(t), sh("cat /dev/stdin >/dev/stdout; echo x >/dev/stderr"),
			container.WithStdin(strings.NewReader("again")), container.WithStdout(&out), container.WithStderr(&errs))
		require.NoError(t, err)
		require.True(t, res.Success(), "%v %s", res, errs.String())
		require.Equal(t, "again", out.String())
		require.Equal(t, "x\n", errs.String())
	})
	t.Run("input nobody reads", func(t *testing.T) {
		res, err := container.Run(timeout(t), container.WithCommand("true"), container.WithStdin(endless{}))
		require.NoError(t, err)
		require.True(t, res.Success())
	})
	t.Run("a reader that blocks does not hold up Wait", func(t *testing.T) {
		r, w := io.Pipe()
		res, err := container.Run(timeout(t), container.WithCommand("true"), container.WithStdin(r))
		require.NoError(t, err)
		require.True(t, res.Success())
		require.NoError(t, w.Close())
	})
	t.Run("a writer that fails", func(t *testing.T) {
		res, err := container.Run(timeout(t), sh("while echo x; do :; done"), container.WithStdout(failing{}))
		require.ErrorIs(t, err, errFull)
		require.Nil(t, res)
	})
	t.Run("much output", func(t *testing.T) {
		var n counter
		res, err := container.Run(timeout(t), sh("head -c 50000000 /dev/zero"), container.WithStdout(&n))
		require.NoError(t, err)
		require.EqualValues(t, 50000000, n)
		require.EqualValues(t, 50000000, res.StdoutBytes)
	})
	t.Run("closed file", func(t *testing.T) {
		f, err := os.Open("/dev/null")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		_, err = container.Run(timeout(t), container.WithCommand("true"), container.WithStdin(f))
		require.ErrorIs(t, err, os.ErrClosed)
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		require.Equal(t, "WithStdin", e.Op)
	})
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

var errFull = errors.New("full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

type counter int64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

func TestExtraFiles(t *testing.T) {
	containertest.Census(t)
	var files []*os.File
	for i := range 300 {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		_, err = fmt.Fprintf(w, "file %d", i)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		defer r.Close() //nolint:errcheck // only read
		files = append(files, r)
	}
	got := output(t, sh("cat <&3; echo; readlink /proc/self/fd/302 | cut -c1-5; ls /proc/self/fd | wc -l"), container.WithExtraFiles(files...))
	require.Equal(t, []string{"file 0", "pipe:", "304"}, lines(got))
}

func TestJobEnvironment(t *testing.T) {
	containertest.Census(t)
	t.Setenv("SECRET", "host")
	require.ElementsMatch(t, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LANG=C.UTF-8", "TERM=dumb"},
		lines(output(t, container.WithCommand("env"))))
	got := output(t, container.WithCommand("env"), container.WithEnv("A=1", "TERM=x", "A=2", "EMPTY="))
	require.Contains(t, got, "A=2\n")
	require.NotContains(t, got, "A=1")
	require.Contains(t, got, "TERM=x\n")
	require.Contains(t, got, "EMPTY=\n")
	require.Equal(t, "/usr\n", output(t, container.WithCommand("pwd"), container.WithDir("/usr")))
	require.Equal(t, "0022\n0007\n", output(t, sh("umask"))+output(t, sh("umask"), container.WithUmask(7)))
	require.Equal(t, "7\n", output(t, sh("ulimit -n"), container.WithRlimit("nofile", 7, 9)))
}

func TestUser(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Users)
	require.Equal(t, "1000 1001 5 6\n", output(t, sh("echo $(id -u) $(id -g) $(id -G | cut -d' ' -f2-)"), container.WithUser(1000, 1001), container.WithGroups(5, 6)))
	require.Equal(t, "user\n", output(t, container.WithCommand("id", "-un"), container.WithUser(1000, 1000)))
	for _, id := range []uint32{65535, 70000} {
		_, err := container.Run(timeout(t), container.WithCommand("true"), container.WithUser(id, 0))
		var e *container.StartError
		require.ErrorAs(t, err, &e, "%d", id)
		require.Equal(t, "WithUser", e.Op)
		require.NotEmpty(t, e.Remedy)
	}
}

func TestCapabilities(t *testing.T) {
	containertest.Census(t)
	sets := func(opts ...container.Option) string {
		return output(t, append(opts, sh("grep ^Cap /proc/self/status | cut -f2 | tr '\\n' ' '"))...)
	}
	zero := strings.Repeat("0", 16)
	want := func(set string) string { return strings.Repeat(set+" ", 5) }
	require.Equal(t, want(zero), sets())
	netAdmin := "0000000000001000"
	require.Equal(t, want(netAdmin), sets(container.WithCapabilities("CAP_NET_ADMIN")))
	all, err := security.CapabilityBits(security.AllCapabilities())
	require.NoError(t, err)
	require.Equal(t, want(fmt.Sprintf("%016x", all)), sets(container.WithCapabilities(security.AllCapabilities()...)))
	if os.Geteuid() == 0 {
		require.Equal(t, want(zero), sets(container.WithHostNamespace(namespace.User)))
		require.Equal(t, want(netAdmin), sets(container.WithHostNamespace(namespace.User), container.WithCapabilities("net_admin")))
	}
	t.Run("another user", func(t *testing.T) {
		containertest.Require(t, containertest.Users)
		require.Equal(t, want(zero), sets(container.WithUser(5, 5)))
		require.Equal(t, want(netAdmin), sets(container.WithUser(5, 5), container.WithCapabilities("net_admin")))
	})
}

func TestFilesAndMounts(t *testing.T) {
	containertest.Census(t)
	host := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(host), 0o755))
	require.NoError(t, os.Chmod(host, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(host, "a\nb"), []byte("odd"), 0o644))
	big := bytes.Repeat([]byte("0123456789abcdef"), 200<<10/16)
	got := output(t,
		container.WithFile("/work/deep/x.sh", []byte("#!/bin/sh\necho ran\n"), 0o755),
		container.WithFile("/tmp/big", big, 0o600),
		container.WithFiles("/in", fstest.MapFS{"d/one": {Data: []byte("1")}, "two": {Data: []byte("22"), Mode: 0o600}}),
		container.WithMounts(rootfs.Bind(host, "/data"), rootfs.Bind(host, "/ro", rootfs.ReadOnly()), rootfs.Bind(filepath.Join(host, "a\nb"), "/etc-file", rootfs.ReadOnly()),
			rootfs.Tmpfs("/small", rootfs.Size(64<<10), rootfs.Inodes(10), rootfs.Mode(0o700)), rootfs.Tmpfs("/noexec", rootfs.NoExec())),
		sh(`/work/deep/x.sh
			wc -c </tmp/big
			cat /in/d/one /in/two; echo
			stat -c '%a %u' /in/two /small
			cat "/ro/a
b" /etc-file; echo
			echo w >/data/w || echo 'no write'
			(echo w >/ro/w) 2>/dev/null || echo 'read-only'
			dd if=/dev/zero of=/small/f bs=1k count=100 2>/dev/null; stat -c %s /small/f
			rm /small/f; for i in 1 2 3 4 5 6 7 8 9 10 11; do echo >/small/$i; done 2>/dev/null; ls /small | wc -l
			cp /bin/true /noexec/; /noexec/true 2>/dev/null || echo 'noexec'
			(echo x >/work/y) 2>/dev/null || echo 'root read-only'
			(echo x >>/etc/passwd) 2>/dev/null || echo 'etc read-only'
			(: >/etc/shadow) 2>/dev/null || echo 'denied'`),
	)
	require.Equal(t, []string{"ran", "204800", "122", "600 0", "700 0", "oddodd", "read-only", "65536", "9", "noexec", "root read-only", "etc read-only", "denied"}, lines(got))
	w, err := os.ReadFile(filepath.Join(host, "w"))
	require.NoError(t, err)
	require.Equal(t, "w\n", string(w))
}

// A root that somebody made: here the host's own parts under a new folder.
func TestRootDir(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Program("busybox"))
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, d := range []string{"bin", "proc", "dev", "tmp", "run", "work"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	require.NoError(t, err)
	data, err := os.ReadFile(busybox)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755))
	run := func(root rootfs.Root, line string, opts ...container.Option) string {
		return output(t, append(opts, container.WithRoot(root), container.WithCommand("/bin/busybox", "sh", "-c", line))...)
	}
	require.Equal(t, "bin dev proc run tmp work\nread-only\n", run(rootfs.Dir(dir), "echo $(/bin/busybox ls /); (echo x >/work/x) 2>/dev/null || echo read-only; echo x >/tmp/x"))
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if uid != 0 {
		uid, gid = 0, 0 // the user itself, in the launcher's namespace
	} else {
		_, err := container.Run(timeout(t), container.WithCommand("/bin/busybox", "true"), container.WithRoot(rootfs.Dir(dir, rootfs.Writable())))
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		require.Contains(t, e.Remedy, "WithIDMaps")
	}
	one := func(id uint32) []namespace.IDMap { return []namespace.IDMap{{ContainerID: 0, HostID: id, Size: 1}} }
	run(rootfs.Dir(dir, rootfs.Writable()), "echo kept >/work/x", container.WithIDMaps(one(uid), one(gid)))
	got, err := os.ReadFile(filepath.Join(dir, "work/x"))
	require.NoError(t, err)
	require.Equal(t, "kept\n", string(got))
	entries, err := os.ReadDir(filepath.Join(dir, "dev"))
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is made in the folder itself")
}

// A mount below a bind keeps its flags.
func TestBindKeepsFlagsOfSubmounts(t *testing.T) {
	containertest.Census(t)
	got := output(t, container.WithMounts(rootfs.Bind("/proc", "/hostproc", rootfs.ReadOnly())), sh("grep ' /hostproc ' /proc/self/mountinfo"))
	for _, flag := range []string{"ro", "nosuid", "nodev"} {
		require.Contains(t, strings.Split(strings.Fields(got)[5], ","), flag)
	}
}

func TestExec(t *testing.T) {
	containertest.Census(t)
	c := start(t)
	require.Equal(t, container.StateRunning, c.State())
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var out bytes.Buffer
			p, err := c.Exec(timeout(t), sh("read x; echo $x-$1; exit $1", fmt.Sprint(i)), container.WithStdin(strings.NewReader("in\n")), container.WithStdout(&out))
			if !errNil(t, err) {
				return
			}
			res, err := p.Wait(timeout(t))
			if errNil(t, err) && (res.ExitCode != i || out.String() != fmt.Sprintf("in-%d\n", i)) {
				t.Errorf("job %d: %v, %q", i, res, out.String())
			}
		}()
	}
	wg.Wait()
	// Files and processes are shared.
	p, err := c.Exec(timeout(t), sh("echo shared >/tmp/x"))
	require.NoError(t, err)
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	var out bytes.Buffer
	p, err = c.Exec(timeout(t), sh("cat /tmp/x"), container.WithStdout(&out))
	require.NoError(t, err)
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, "shared\n", out.String())
	// A job that is killed takes its process group along, and nobody else.
	long, err := c.Exec(timeout(t), container.WithCommand("sleep", "1000"))
	require.NoError(t, err)
	p, err = c.Exec(timeout(t), sh("sleep 1000 & sleep 1000"))
	require.NoError(t, err)
	require.NoError(t, p.Kill())
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Killed, res.Status)
	select {
	case <-long.Done():
		t.Fatal("the other job ended")
	default:
	}
	p, err = c.Exec(timeout(t), sh("sleep 1000"), container.WithTimeLimit(30*time.Millisecond))
	require.NoError(t, err)
	res, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.TimeLimit, res.Status)
	require.NoError(t, c.Close())
	res, err = long.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, syscall.SIGKILL, res.Signal)
	_, err = c.Exec(timeout(t), container.WithCommand("true"))
	require.ErrorIs(t, err, container.ErrClosed)
	res, err = c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Killed, res.Status)
}

func errNil(t *testing.T, err error) bool {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

func TestExecRefuses(t *testing.T) {
	containertest.Census(t)
	c := start(t)
	_, err := c.Exec(timeout(t))
	var fault *container.OptionError
	require.ErrorAs(t, err, &fault)
	require.Equal(t, "WithCommand", fault.Option)
	_, err = c.Exec(timeout(t), container.WithCommand("nosuch"))
	require.ErrorIs(t, err, container.ErrNotFound)
	require.ErrorIs(t, err, exec.ErrNotFound)
	unknown := container.WithResources(cgroup.Limits{Hugetlb: map[string]int64{"3KB": 0}}) // no machine has such pages
	_, err = c.Exec(timeout(t), container.WithCommand("true"), unknown)
	var limit *container.LimitError
	require.ErrorAs(t, err, &limit)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	p, err := c.Exec(timeout(t), container.WithCommand("true"), container.Optional(unknown))
	require.NoError(t, err)
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.NotEmpty(t, onlyOption(res.Dropped, "WithResources"))
	unstarted, err := container.New()
	require.NoError(t, err)
	_, err = unstarted.Exec(timeout(t), container.WithCommand("true"))
	require.ErrorIs(t, err, container.ErrNotStarted)
	require.NoError(t, unstarted.Close())
}

func onlyOption(list []container.Dropped, option string) (out []container.Dropped) {
	for _, d := range list {
		if d.Option == option {
			out = append(out, d)
		}
	}
	return out
}

func TestTimeLimit(t *testing.T) {
	containertest.Census(t)
	begun := time.Now()
	res, err := container.Run(timeout(t), sh("sleep 1000 & sleep 1000"), container.WithTimeLimit(100*time.Millisecond))
	require.NoError(t, err)
	require.Equal(t, container.TimeLimit, res.Status)
	require.Equal(t, syscall.SIGKILL, res.Signal)
	require.GreaterOrEqual(t, res.WallTime, 100*time.Millisecond)
	require.Less(t, time.Since(begun), 30*time.Second)
	require.Len(t, res.Causes, 1)
	c := start(t, container.WithTimeLimit(50*time.Millisecond)) // no main job
	res, err = c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.TimeLimit, res.Status)
	// One that ends by itself keeps its verdict.
	res, err = container.Run(timeout(t), container.WithCommand("true"), container.WithTimeLimit(time.Minute))
	require.NoError(t, err)
	require.True(t, res.Success())
}

func TestCancel(t *testing.T) {
	containertest.Census(t)
	cause := errors.New("enough")
	for name, opts := range map[string][]container.Option{
		"kill":                {sh("echo up; sleep 1000")},
		"stop":                {sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done"), container.WithStopOnCancel()},
		"stop, then kill":     {sh("trap '' TERM; echo up; while :; do sleep 0.01; done"), container.WithStopOnCancel(), container.WithStopGrace(20 * time.Millisecond)},
		"stop without grace":  {sh("trap '' TERM; echo up; while :; do sleep 0.01; done"), container.WithStopOnCancel(), container.WithStopGrace(0)},
		"another stop signal": {sh("trap 'exit 4' USR1; echo up; while :; do sleep 0.01; done"), container.WithStopOnCancel(), container.WithStopSignal(unix.SIGUSR1)},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(timeout(t))
			defer cancel(nil)
			res, err := container.Run(ctx, append(opts, container.WithStdout(onWrite(func() { cancel(cause) })))...)
			require.NoError(t, err)
			require.Equal(t, container.Canceled, res.Status, "%v", res)
			require.ErrorIs(t, res.Err(), cause)
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	res, err := container.Run(ctx, container.WithCommand("true"))
	require.NoError(t, err)
	require.Equal(t, container.Canceled, res.Status)
	require.ErrorIs(t, res.Err(), cause)
}

type onWrite func()

func (f onWrite) Write(b []byte) (int, error) { f(); return len(b), nil }

func TestStop(t *testing.T) {
	containertest.Census(t)
	ready := func() (container.Option, chan struct{}) {
		c := make(chan struct{})
		var once sync.Once
		return container.WithStdout(onWrite(func() { once.Do(func() { close(c) }) })), c
	}
	out, up := ready()
	c := start(t, sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done"), out)
	<-up
	require.NoError(t, c.Stop(timeout(t)))
	res, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, 3, res.ExitCode)
	require.Equal(t, container.Exited, res.Status)
	require.Equal(t, container.StateStopped, c.State())
	require.NoError(t, c.Stop(timeout(t)), "stopped already")

	out, up = ready()
	c = start(t, sh("trap '' TERM; echo up; while :; do sleep 0.01; done"), out, container.WithStopGrace(20*time.Millisecond))
	<-up
	require.NoError(t, c.Stop(timeout(t)))
	res, err = c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Killed, res.Status)

	c = start(t)
	require.NoError(t, c.Stop(timeout(t)))
	res, err = c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Killed, res.Status)
}

func TestLife(t *testing.T) {
	containertest.Census(t)
	c, err := container.New(sh("exit 5"))
	require.NoError(t, err)
	require.Equal(t, container.StateCreated, c.State())
	_, err = c.Wait(timeout(t))
	require.ErrorIs(t, err, container.ErrNotStarted)
	require.ErrorIs(t, c.Kill(), container.ErrNotStarted)
	require.NoError(t, c.Start(timeout(t)))
	require.ErrorIs(t, c.Start(timeout(t)), container.ErrStarted)
	<-c.Done()
	var results [50]*container.Result
	var wg sync.WaitGroup
	for i := range results {
		wg.Add(1)
		go func() {
			defer wg.Done()
			results[i], _ = c.Wait(timeout(t))
		}()
	}
	wg.Wait()
	for _, r := range results {
		require.Same(t, results[0], r)
	}
	require.Equal(t, 5, results[0].ExitCode)
	for range 3 {
		require.NoError(t, c.Close())
	}
	require.Equal(t, container.StateClosed, c.State())
	res, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.Same(t, results[0], res)
	require.ErrorIs(t, c.Start(timeout(t)), container.ErrClosed)

	c, err = container.New()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Start(timeout(t)), container.ErrClosed)
	<-c.Done()

	// Close of a running one; Wait that gives up kills nothing.
	c = start(t, container.WithCommand("sleep", "1000"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Wait(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, c.Close())
	res, err = c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Killed, res.Status)
}

// Close may come while Start is under way.
func TestCloseDuringStart(t *testing.T) {
	containertest.Census(t)
	var usual time.Duration // of the last start that Close did not end
	for n := range 200 {
		c, err := container.New(container.WithCommand("sleep", "1000"))
		require.NoError(t, err)
		started := make(chan error, 1)
		begun := time.Now()
		var took time.Duration
		go func() {
			err := c.Start(context.Background())
			took = time.Since(begun)
			started <- err
		}()
		// At once, late, and at the very moment at which the job's program begins.
		for n%4 > 0 && time.Since(begun) < usual*time.Duration(90+n%20)/100 {
			runtime.Gosched()
		}
		if n == 0 {
			err = <-started
			started <- err
		}
		require.NoError(t, c.Close())
		if err := <-started; err == nil {
			<-c.Done()
			usual = took
		} else {
			require.ErrorIs(t, err, container.ErrClosed)
		}
	}
}

// Wait does not wait for what outlives the main job, whoever holds its pipes.
func TestMainEndsAll(t *testing.T) {
	containertest.Census(t)
	var out bytes.Buffer
	begun := time.Now()
	res, err := container.Run(timeout(t), sh("(setsid sleep 1000 &) ; sleep 1000 & echo done"), container.WithStdout(&out))
	require.NoError(t, err)
	require.True(t, res.Success())
	require.Equal(t, "done\n", out.String())
	require.False(t, res.Truncated)
	require.Less(t, time.Since(begun), 30*time.Second)
	// In Exec what was started lives on, and its hold on the pipe is given up on.
	c := start(t)
	out.Reset()
	p, err := c.Exec(timeout(t), sh("setsid sleep 1000 & echo done"), container.WithStdout(&out))
	require.NoError(t, err)
	res, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.True(t, res.Truncated)
	require.Equal(t, "done\n", out.String())
}

func TestNamespaceOptions(t *testing.T) {
	containertest.Census(t)
	link := func(kind string, opts ...container.Option) string {
		return strings.TrimSpace(output(t, append(opts, container.WithCommand("readlink", "/proc/self/ns/"+kind))...))
	}
	for _, k := range []namespace.Kind{namespace.UTS, namespace.IPC, namespace.Network, namespace.Cgroup, namespace.User} {
		own, err := os.Readlink("/proc/self/ns/" + k.File())
		require.NoError(t, err)
		require.NotEqual(t, own, link(k.File()), k)
		if k == namespace.User && os.Geteuid() != 0 {
			_, err := container.Run(timeout(t), container.WithCommand("true"), container.WithHostNamespace(k))
			require.ErrorIs(t, err, os.ErrPermission)
			continue
		}
		require.Equal(t, own, link(k.File(), container.WithHostNamespace(k)), k)
	}
	require.Equal(t, "box\n", output(t, container.WithCommand("hostname"), container.WithHostname("box")))
	own, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, own+"\n", output(t, container.WithCommand("hostname"), container.WithNamespaces(namespace.PID, namespace.Network, namespace.IPC)))
}

func TestUnsupportedIsRefused(t *testing.T) {
	containertest.Census(t)
	for option, opt := range map[string]container.Option{
		"WithCgroupParent": container.WithCgroupParent("/x"), "WithResources": container.WithResources(cgroup.Limits{Hugetlb: map[string]int64{"3KB": 0}}),
	} {
		_, err := container.Run(timeout(t), container.WithCommand("true"), opt)
		var limit *container.LimitError
		require.ErrorAs(t, err, &limit, option)
		require.Equal(t, option, limit.Option)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		res, err := container.Run(timeout(t), container.WithCommand("true"), container.Optional(opt))
		require.NoError(t, err)
		require.NotEmpty(t, onlyOption(res.Dropped, option))
	}
}

func TestResultFigures(t *testing.T) {
	containertest.Census(t)
	before := time.Now()
	res, err := container.Run(timeout(t), sh("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"))
	require.NoError(t, err)
	require.Positive(t, res.UserTime)
	require.Positive(t, res.SetupTime)
	// Its group has paid for what became the job too.
	require.LessOrEqual(t, res.CPUTime(), res.SetupTime+res.WallTime+10*time.Millisecond)
	require.Positive(t, res.MemoryPeak)
	if groupsOf(t, "memory") {
		require.Contains(t, []string{"memory.peak", "memory.max_usage_in_bytes", "largest sample", "ru_maxrss"}, res.MemorySource)
	} else {
		require.Equal(t, "ru_maxrss", res.MemorySource)
	}
	require.WithinRange(t, res.Started, before, res.Finished)
	require.WithinRange(t, res.Finished, res.Started, time.Now())
	require.Contains(t, res.String(), "exit status 0, ")
}

// A job of Exec that ends with its container was killed, as the container was.
func TestExecEndsWithTheContainer(t *testing.T) {
	containertest.Census(t)
	for end, status := range map[string]container.Status{"Close": container.Killed, "Kill": container.Killed, "time limit": container.TimeLimit} {
		t.Run(end, func(t *testing.T) {
			var opts []container.Option
			if end == "time limit" {
				opts = append(opts, container.WithTimeLimit(200*time.Millisecond))
			}
			c := start(t, opts...)
			p, err := c.Exec(timeout(t), sh("sleep 1000"))
			require.NoError(t, err)
			switch end {
			case "Close":
				require.NoError(t, c.Close())
			case "Kill":
				require.NoError(t, c.Kill())
			}
			res, err := p.Wait(timeout(t))
			require.NoError(t, err)
			require.Equal(t, status, res.Status, "%v", res)
			require.Empty(t, res.Reason)
			require.NoError(t, c.Close())
		})
	}
}
