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
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// strangeHost is a host program under strange circumstances, which its first
// argument names: it makes them, and says what came of a container.
const strangeHostName = "strange host"

var strangeHost = register(strangeHostName, func(args []string) int {
	state, err := os.MkdirTemp("", "inlay-test")
	if err != nil {
		fmt.Println(err)
		return 98
	}
	defer os.RemoveAll(state) //nolint:errcheck // the test looks for what is left
	opts := []container.Option{container.WithStateDir(filepath.Join(state, "state")), container.WithStdout(os.Stdout)}
	command := container.WithCommand("/bin/sh", "-c", "awk '/Max processes/ {print $3} /Max open files/ {print $5}' /proc/self/limits; umask; cat /proc/self/uid_map")
	switch args[0] {
	case "plain":
	case "umask":
		unix.Umask(0o777)
		opts = append(opts, container.WithUmask(0o77))
	case "few processes":
		err = unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 200, Max: 200})
	case "few files":
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: 100})
	case "too few files":
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: 40})
	case "no room for state":
		runtime.LockOSThread()
		err = joinErrors(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", state, "tmpfs", 0, "nr_inodes=1"))
	case "no folder":
		err = joinErrors(os.Mkdir(state+"/gone", 0o700), os.Chdir(state+"/gone"), os.Remove(state+"/gone"))
	case "foreign thread":
		// The caller's thread is in namespaces of its own; the launcher and its
		// containers are not below them.
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWUTS | unix.CLONE_NEWNS); err == nil {
			err = joinErrors(unix.Sethostname([]byte("foreign")), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", "/usr", "tmpfs", 0, ""))
		}
		opts = append(opts, container.WithHostNamespace(namespace.UTS))
		command = container.WithCommand("/bin/sh", "-c", "cat /proc/sys/kernel/hostname")
	}
	if err != nil {
		fmt.Println(err)
		return 98
	}
	for range 2 { // the second meets what the first left
		res, err := container.Run(context.Background(), append(opts, command)...)
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			fmt.Println("run:", err)
			return 97
		}
	}
	return 0
})

func joinErrors(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// runStrange runs the strange host, as another program or in other namespaces if
// before says so, and returns the first half of what its jobs wrote.
func runStrange(t *testing.T, how string, before ...string) []string {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	usedMu.Lock()
	jobUsed[strangeHost] = true
	usedMu.Unlock()
	args := append(before, exe, strangeHostName, how)
	cmd := exec.CommandContext(timeout(t), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), jobEnv, noLinger)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	got := lines(string(out))
	require.Zero(t, len(got)%2, "%s", out)
	require.Equal(t, got[:len(got)/2], got[len(got)/2:], "the second container was another")
	return got[:len(got)/2]
}

// refusedStrange runs the strange host, whose container must be refused, and
// returns why.
func refusedStrange(t *testing.T, how string) string {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(timeout(t), exe, strangeHostName, how)
	cmd.Env = append(os.Environ(), jobEnv, noLinger)
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "run: inlay: prepare: ")
	return string(out)
}

// A container starts whatever its host program was left in, or says why not.
func TestStrangeHost(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	t.Run("umask", func(t *testing.T) {
		got := runStrange(t, "umask")
		require.Equal(t, "0077", got[2])
	})
	t.Run("few processes", func(t *testing.T) {
		if !countsProcesses(t) {
			t.Skip("needs Linux 5.14: before, there is no limit of processes by default")
		}
		require.Equal(t, "200", runStrange(t, "few processes")[0])
	})
	t.Run("few files", func(t *testing.T) {
		require.Equal(t, "100", runStrange(t, "few files")[1])
	})
	t.Run("too few files", func(t *testing.T) {
		require.Contains(t, refusedStrange(t, "too few files"), "the hard limit of open files is 40: too many open files (raise it to 100 at least")
	})
	t.Run("no room for state", func(t *testing.T) {
		containertest.Require(t, containertest.Root)
		require.Contains(t, refusedStrange(t, "no room for state"), "state: no space left on device (make it writable for this user, or name another by WithStateDir)")
	})
	t.Run("folder is gone", func(t *testing.T) { runStrange(t, "no folder") })
	t.Run("thread in other namespaces", func(t *testing.T) {
		containertest.Require(t, containertest.Root)
		name, err := os.Hostname()
		require.NoError(t, err)
		require.Equal(t, []string{name}, runStrange(t, "foreign thread"))
	})
	t.Run("root of a user namespace", func(t *testing.T) {
		containertest.Require(t, containertest.Program("unshare"))
		got := runStrange(t, "plain", "unshare", "--user", "--map-root-user")
		require.Equal(t, []string{"0", "0", "1"}, strings.Fields(got[3]), "it has one id to give")
	})
	t.Run("root of a user namespace with a range", func(t *testing.T) {
		containertest.Require(t, containertest.Root)
		exe, err := os.Executable()
		require.NoError(t, err)
		usedMu.Lock()
		jobUsed[strangeHost] = true
		usedMu.Unlock()
		// As in rootless Podman, or LXC.
		cmd := exec.CommandContext(timeout(t), exe, strangeHostName, "plain")
		cmd.Env = append(os.Environ(), jobEnv, noLinger, "TMPDIR="+t.TempDir())
		require.NoError(t, os.Chmod(filepath.Dir(t.TempDir()), 0o777))
		maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 1, HostID: 300000, Size: 65535}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps, GidMappingsEnableSetgroups: true}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, []string{"1", "1", "65535"}, strings.Fields(lines(string(out))[4]), "%s", out)
	})
}

// Pipes that the host program has made serve as well as those that inlay makes:
// /dev/stdin and its like can be opened again.
func TestReopenPipes(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	inR, inW, err := os.Pipe()
	require.NoError(t, err)
	outR, outW, err := os.Pipe()
	require.NoError(t, err)
	_, err = inW.WriteString("through\n")
	require.NoError(t, err)
	require.NoError(t, inW.Close())
	res, err := container.Run(timeout(t), container.WithStdin(inR), container.WithStdout(outW), container.WithStderr(outW),
		sh("cat /dev/stdin >/dev/stdout; echo err >/dev/stderr; cat </proc/self/fd/0"))
	require.NoError(t, err)
	require.NoError(t, outW.Close())
	got, err := io.ReadAll(outR)
	require.NoError(t, err)
	require.Equal(t, "through\nerr\n", string(got))
	require.NoError(t, res.Err())
	require.NoError(t, inR.Close())
	require.NoError(t, outR.Close())
}

// So do regular files that belong to the host's user alone.
func TestReopenFiles(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "in"), []byte("line\n"), 0o600))
	in, err := os.Open(filepath.Join(dir, "in"))
	require.NoError(t, err)
	files := []*os.File{in}
	for _, name := range []string{"out", "err"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		files = append(files, f)
	}
	res, err := container.Run(timeout(t), container.WithStdin(in), container.WithStdout(files[1]), container.WithStderr(files[2]),
		sh("cat /dev/stdin >/dev/stdout; echo err >/dev/stderr"))
	require.NoError(t, err)
	require.NoError(t, res.Err())
	for _, f := range files {
		require.NoError(t, f.Close())
	}
	for name, want := range map[string]string{"in": "line\n", "out": "line\n", "err": "err\n"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want, string(got), name)
	}
}

// >file 2>&1 keeps its order, though the two are two files here.
func TestSameFileTwice(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	path := filepath.Join(t.TempDir(), "out")
	one, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	fd, err := unix.Dup(int(one.Fd()))
	require.NoError(t, err)
	two := os.NewFile(uintptr(fd), "two")
	_, err = container.Run(timeout(t), container.WithStdout(one), container.WithStderr(two), sh("for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done"))
	require.NoError(t, err)
	require.NoError(t, joinErrors(one.Close(), two.Close()))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	var want strings.Builder
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&want, "o%d\ne%d\n", i, i)
	}
	require.Equal(t, want.String(), string(got))
}

// On the host's network a container has the host's names.
func TestHostNetworkNames(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	host := container.WithHostNamespace(namespace.Network)
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Skipf("needs %s: %v", name, err)
		}
		require.Equal(t, string(want), output(t, host, container.WithCommand("cat", name)))
		require.NotEqual(t, string(want), output(t, container.WithCommand("cat", name)), "without, it has its own")
	}
}

// A bind for a job of another user needs a mode for others, or its group.
func TestBindForAnotherUser(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Users)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o757))
	var out bytes.Buffer
	res, err := container.Run(timeout(t), container.WithUser(7, 7), container.WithMounts(rootfs.Bind(dir, "/d")), sh("echo x >/d/f && cat /d/f"), container.WithStdout(&out))
	require.NoError(t, err)
	require.NoError(t, res.Err())
	require.Equal(t, "x\n", out.String())
	// The file belongs to an id of the container, which this program may not remove.
	res, err = container.Run(timeout(t), container.WithUser(7, 7), container.WithMounts(rootfs.Bind(dir, "/d")), sh("rm /d/f"))
	require.NoError(t, err)
	require.NoError(t, res.Err())
}

// Goroutines that end with their thread locked take the thread with them: no
// container ends because the thread is gone that started it, or the launcher.
func TestStartFromEndingThreads(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	n := 20
	if os.Getenv("INLAY_CI") != "" {
		n = 200
	}
	// The launcher too is started from such a thread.
	launcher := launcherPID(t)
	fd, err := unix.PidfdOpen(launcher, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Kill(launcher, unix.SIGKILL))
	require.True(t, endsWithin(t, fd, time.Minute))
	require.NoError(t, unix.Close(fd))
	var list []*container.Container
	for range n {
		made := make(chan *container.Container, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			c, err := container.New(container.WithCommand("sleep", "1000"))
			defer func() { made <- c }()
			if err == nil {
				err = c.Start(context.Background())
			}
			if err != nil {
				t.Error(err)
			}
		}()
		c := <-made
		require.NotNil(t, c)
		defer c.Close() //nolint:errcheck // closed below
		list = append(list, c)
	}
	for _, c := range list {
		require.Equal(t, container.StateRunning, c.State())
		require.Zero(t, execCode(t, c, container.WithCommand("true")))
		require.NoError(t, c.Close())
	}
}

// maskedHost is a host program whose /proc is masked as an application
// container's is.
var maskedHost = register("masked host", func([]string) int {
	runtime.LockOSThread()
	err := joinErrors(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", "/proc/bus", "tmpfs", unix.MS_RDONLY, ""), unix.Mount("/dev/null", "/proc/version", "", unix.MS_BIND, ""))
	if err == nil {
		err = unix.Exec("/proc/self/exe", []string{os.Args[0], maskedRunName}, os.Environ())
	}
	fmt.Println(err)
	return 98
})

const maskedRunName = "masked run"

var _ = register(maskedRunName, func([]string) int {
	_, err := container.Run(context.Background(), container.WithCommand("true"))
	var e *container.StartError
	if !errors.As(err, &e) || !errors.Is(err, os.ErrPermission) {
		fmt.Println("not refused:", err)
		return 97
	}
	fmt.Println("run:", err)
	report, err := container.Probe(context.Background())
	if err != nil {
		fmt.Println(err)
		return 97
	}
	for _, f := range report.Findings {
		if f.Name == "proc" {
			fmt.Println("probe:", f.OK, f.Detail, "|", f.Remedy)
		}
	}
	return 0
})

// In an application container /proc is masked, and the kernel then gives no new
// one to a user namespace: the error says so, and Probe does beforehand.
func TestMaskedProc(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	out := runHost(t, maskedHost)
	require.Regexp(t, `run: inlay: child: \w+ /?proc: operation not permitted \(.*/proc.*Probe`, out)
	require.Regexp(t, `probe: false .*(/proc/bus|/proc/version)`, out)
}
