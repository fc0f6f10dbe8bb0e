package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/rootfs"
)

// broken is a step that fails with EBADF wherever it is run.
func broken() plan.Step {
	b := plan.NewBuilder(plan.Exec, launcher.Arch, &plan.Registers{})
	b.Close(b.Register("none"))
	s := b.Plan().Steps[0]
	s.Args[0] = plan.Imm(-1)
	s.Op = "broken"
	return s
}

// An error at each step of each plan is reported as that step's, and nothing is
// left; afterwards the next container starts.
func TestFailureAtEachStep(t *testing.T) {
	failEachStep(t, []int{0, 1, 2, 3, 4},
		container.WithCommand("/usr/bin/true"), container.WithFile("/work/x", []byte("x"), 0o644),
		container.WithMounts(rootfs.Tmpfs("/t"), rootfs.Bind("/usr", "/mnt/usr", rootfs.ReadOnly())))
}

// The same where the start waits for init's answers: for a terminal, and for a user's name.
func TestFailureAtEachStepOfTerminals(t *testing.T) {
	_, root := userRoot(t, "me:x:0:0::/usr:\n", "mine:x:0:\n")
	failEachStep(t, []int{0, 1, 2, 3, 4}, container.WithCommand("/usr/bin/true"), root, container.WithUser("me:mine"), container.WithTerminal(0, 0), container.WithStdin(strings.NewReader("")))
}

// The same of the steps that make overlays and map owners.
func TestFailureAtEachStepOfLayers(t *testing.T) {
	needOverlay(t)
	dir, work, staged := baseRoot(t), workFolder(t), workFolder(t)
	for _, d := range []string{dir, work, staged} {
		if os.Getuid() == 0 {
			require.NoError(t, os.Chown(d, 1234, 1234))
		}
	}
	failEachStep(t, []int{0, 1, 2}, container.WithCommand("/usr/bin/true"), container.WithRoot(rootfs.Overlay(dir)),
		container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()), rootfs.Workspace(work, "/work"), rootfs.Workspace(staged, "/staged", rootfs.Staged())))
}

func failEachStep(t *testing.T, plans []int, opts ...container.Option) {
	t.Helper()
	needContainers(t)
	c, err := container.New(container.WithCommand("true"))
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, c.Explain(&text))
	containertest.Census(t)
	defer container.Sabotage(nil)
	total := 0
	for _, which := range plans { // prepare, parent, shape, child, exec
		for step := 0; ; step += stride() {
			n, steps := -1, 0
			var phase plan.Phase
			container.Sabotage(func(p *plan.Plan) {
				n++
				// Exec is encoded after the others; a container has five plans.
				if n != which {
					return
				}
				phase, steps = p.Phase, len(p.Steps)
				if step < len(p.Steps) {
					p.Steps[step] = broken()
				}
			})
			res, err := container.Run(timeout(t), opts...)
			if step >= steps {
				require.NoError(t, err)
				require.True(t, res.Success())
				break
			}
			total++
			var e *container.StartError
			require.ErrorAs(t, err, &e, "%s, step %d", phase, step+1)
			require.Equal(t, string(phase), string(e.Phase), "%v", err)
			require.Equal(t, "broken", e.Op, "%s, step %d", phase, step+1)
			require.ErrorIs(t, err, unix.EBADF)
			require.Nil(t, res)
		}
	}
	require.Greater(t, total, 20)
}

// Every host-side operation that needs a descriptor fails in turn: the limit of
// open files is raised one by one.
func TestNoMoreDescriptors(t *testing.T) {
	containertest.Census(t)
	var lim unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &lim))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)) }()
	// A keeper, so that the launcher and its poller exist.
	keep := start(t)
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	last := 0
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		require.NoError(t, err)
		last = max(last, n)
	}
	failed, worked := 0, 0
	for n := 3; n < last+30 && worked < 3; n++ {
		low := lim
		low.Cur = uint64(n)
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
		res, err := container.Run(context.Background(), container.WithCommand("true"), container.WithStdin(strings.NewReader("x")), container.WithStdout(io.Discard), container.WithStderr(&bytes.Buffer{}))
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &lim))
		if err != nil {
			require.ErrorIs(t, err, unix.EMFILE, "limit %d: %v", n, err)
			failed++
			continue
		}
		require.True(t, res.Success(), "limit %d: %v", n, res)
		worked++
	}
	require.Greater(t, failed, 5)
	require.Equal(t, 3, worked)
	require.NoError(t, keep.Close())
}

func TestStartRefuses(t *testing.T) {
	containertest.Census(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o644))
	foreign := filepath.Join(dir, "foreign")
	require.NoError(t, os.Mkdir(foreign, 0o777))
	require.NoError(t, os.Chmod(foreign, 0o777))
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.Mkdir(empty, 0o755))
	closed, secret := filepath.Join(dir, "closed"), filepath.Join(dir, "secret")
	require.NoError(t, os.Mkdir(closed, 0o700))
	require.NoError(t, os.WriteFile(secret, []byte("x"), 0o600))
	cmd := container.WithCommand("true")
	for _, tt := range []struct {
		name   string
		opts   []container.Option
		op     string
		is     error
		remedy string
	}{
		{"missing root", []container.Option{cmd, container.WithRoot(rootfs.Dir("/nosuch"))}, "stat", os.ErrNotExist, "WithRoot"},
		{"root that is a file", []container.Option{cmd, container.WithRoot(rootfs.Dir(file))}, "stat", unix.ENOTDIR, "WithRoot"},
		{"root without /proc", []container.Option{cmd, container.WithRoot(rootfs.Dir(empty))}, "openat2", os.ErrNotExist, "make the folder"},
		{"missing source of a bind", []container.Option{cmd, container.WithMounts(rootfs.Bind("/nosuch", "/x"))}, "stat", os.ErrNotExist, "source"},
		{"mount in the read-only /usr", []container.Option{cmd, container.WithMounts(rootfs.Tmpfs("/usr/nosuch"))}, "mkdirat", unix.EROFS, "read-only"},
		{"file in the read-only /usr", []container.Option{cmd, container.WithFile("/usr/nosuch", nil, 0o644)}, "openat", unix.EROFS, "must be new"},
		{"file that is there", []container.Option{cmd, container.WithFile("/etc/passwd", nil, 0o644)}, "openat", os.ErrExist, "must be new"},
		{"file below a file", []container.Option{cmd, container.WithFile("/usr/bin/env/x", nil, 0o644)}, "openat2", unix.ENOTDIR, "must be a folder"},
		{"more than the root holds", []container.Option{cmd, container.WithMounts(rootfs.Tmpfs("/s", rootfs.Size(8192))), container.WithFile("/s/x", make([]byte, 20000), 0o644)}, "check", unix.ENOSPC, ""},
		{"no such folder", []container.Option{cmd, container.WithDir("/nosuch")}, "chdir", os.ErrNotExist, "working folder"},
		{"folder that is a file", []container.Option{cmd, container.WithDir("/etc/passwd")}, "chdir", unix.ENOTDIR, "working folder"},
		{"rlimit above the host's", []container.Option{cmd, container.WithRlimit("nofile", 1, 1<<40)}, "prlimit64", os.ErrPermission, "only be lowered"},
		{"state folder of others", []container.Option{cmd, container.WithStateDir(foreign)}, "state directory", os.ErrPermission, "WithStateDir"},
		{"state folder that is a file", []container.Option{cmd, container.WithStateDir(file)}, "state directory", unix.ENOTDIR, "WithStateDir"},
		{"state folder below nothing", []container.Option{cmd, container.WithStateDir("/nosuch/x")}, "state directory", os.ErrNotExist, "WithStateDir"},
		{"PATH without folders", []container.Option{container.WithCommand("true"), container.WithEnv("PATH=")}, "execve", container.ErrNotFound, "absolute"},
		{"PATH of relative folders", []container.Option{container.WithCommand("true"), container.WithEnv("PATH=usr/bin:.")}, "execve", container.ErrNotFound, "absolute"},
		{"folder that the job cannot enter", []container.Option{cmd, container.WithUser(1000, 1000), container.WithMounts(rootfs.Bind(closed, "/x", rootfs.ReadOnly()))}, "bind", os.ErrPermission, "WithIDMaps"},
		{"folder that the job cannot change", []container.Option{cmd, container.WithUser(1000, 1000), container.WithMounts(rootfs.Bind(empty, "/x"))}, "bind", os.ErrPermission, "rootfs.ReadOnly"},
		{"file that the job cannot read", []container.Option{cmd, container.WithUser(1000, 1000), container.WithMounts(rootfs.Bind(secret, "/x", rootfs.ReadOnly()))}, "bind", os.ErrPermission, "WithIDMaps"},
		{"file over a folder", []container.Option{cmd, container.WithMounts(rootfs.Bind(file, "/tmp", rootfs.ReadOnly()))}, "move_mount", unix.EINVAL, "folder"},
		{"folder over a file", []container.Option{cmd, container.WithMounts(rootfs.Bind("/usr/share", "/usr/bin/env", rootfs.ReadOnly()))}, "openat2", unix.ENOTDIR, "folder"},
		{"command not there", []container.Option{container.WithCommand("nosuch")}, "execve", container.ErrNotFound, ""},
		{"path not there", []container.Option{container.WithCommand("/nosuch")}, "execve", container.ErrNotFound, ""},
		{"command is a folder", []container.Option{container.WithCommand("/usr")}, "execve", container.ErrNotExecutable, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "rlimit above the host's" && os.Geteuid() == 0 {
				// CAP_SYS_RESOURCE of the container's own namespace does not count.
				t.Log("as root too")
			}
			if tt.op == "bind" {
				containertest.Require(t, containertest.Users)
			}
			res, err := container.Run(timeout(t), tt.opts...)
			require.Nil(t, res)
			var e *container.StartError
			require.ErrorAs(t, err, &e)
			require.Equal(t, tt.op, e.Op, "%v", err)
			require.ErrorIs(t, err, tt.is)
			require.Contains(t, e.Remedy, tt.remedy, "%v", err)
		})
	}
}

// What is wrong with a command is said in words.
func TestCommandDiagnosis(t *testing.T) {
	containertest.Census(t)
	elf := make([]byte, 64)
	copy(elf, "\x7fELF\x02\x01\x01")
	elf[16], elf[18], elf[20], elf[52], elf[54] = 2, 21, 1, 64, 56 // 64-bit PowerPC
	exe, err := os.ReadFile("/usr/bin/env")
	require.NoError(t, err)
	interpreter := map[string]string{"amd64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}[runtime.GOARCH]
	missing := strings.Replace(interpreter, "/ld-", "/no-", 1)
	noInterp := bytes.Replace(exe, []byte(interpreter+"\x00"), []byte(missing+"\x00"), 1)
	for _, tt := range []struct {
		name string
		file []byte
		mode os.FileMode
		want string
	}{
		{"interpreter of a script", []byte("#!/usr/bin/nosuch -x\n"), 0o755, "its interpreter /usr/bin/nosuch (from #!) is not in the container"},
		{"CRLF", []byte("#!/bin/sh\r\necho\r\n"), 0o755, "carriage return"},
		{"architecture", elf, 0o755, "another architecture (EM_PPC64)"},
		{"interpreter of a program", noInterp, 0o755, "its interpreter " + missing + " (PT_INTERP) is not in the container"},
		{"no x bit", []byte("#!/bin/sh\n"), 0o644, "no execute permission"},
		{"empty", nil, 0o755, "empty"},
		{"text", []byte("echo\n"), 0o755, "neither an ELF program nor a script"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if bytes.Equal(tt.file, exe) {
				t.Skip("needs a dynamic /usr/bin/env of glibc")
			}
			_, err := container.Run(timeout(t), container.WithFile("/work/x", tt.file, tt.mode), container.WithCommand("/work/x"))
			require.ErrorIs(t, err, container.ErrNotExecutable)
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, "/work/x")
		})
	}
	_, err = container.Run(timeout(t), container.WithMounts(rootfs.Tmpfs("/n", rootfs.NoExec())), container.WithFile("/n/x", []byte("#!/bin/sh\n"), 0o755), container.WithCommand("/n/x"))
	require.ErrorContains(t, err, "noexec")
	_, err = container.Run(timeout(t), container.WithFile("/work/x", []byte("echo\n"), 0o644), container.WithCommand("x"), container.WithEnv("PATH=/nosuch:/work"))
	require.ErrorContains(t, err, "/work/x")
	require.ErrorIs(t, err, container.ErrNotExecutable)
}

// launcherPID is the launcher of this test binary.
func launcherPID(t *testing.T) int {
	t.Helper()
	l, err := launcher.Acquire(timeout(t))
	require.NoError(t, err)
	defer l.Release()
	return l.PID()
}

// The launcher dies: every container ends as Lost, and the next start makes a
// new launcher.
func TestLauncherDies(t *testing.T) {
	containertest.Census(t)
	for range rounds() {
		c := start(t, container.WithCommand("sleep", "1000"))
		idle := start(t)
		require.NoError(t, unix.Kill(launcherPID(t), unix.SIGKILL))
		res, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.Lost, res.Status)
		require.NotEmpty(t, res.Reason)
		_, err = idle.Wait(timeout(t))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, idle.Close())
		require.Equal(t, "alive\n", output(t, sh("echo alive")))
	}
}

// rounds is how often a random test is repeated: 10 times, 50 in CI, 300 to soak.
func rounds() int {
	switch {
	case os.Getenv("INLAY_SOAK") != "":
		return 300
	case os.Getenv("INLAY_CI") != "":
		return 50
	}
	return 10
}

// Init dies at any moment of a start.
func TestInitDies(t *testing.T) {
	containertest.Census(t)
	for range rounds() {
		c := start(t, container.WithCommand("sleep", "1000"))
		require.NoError(t, unix.Kill(c.PID(), unix.SIGKILL))
		res, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.Lost, res.Status)
		require.Contains(t, res.Reason, "SIGKILL")
		require.NoError(t, c.Close())
	}
}

// The launcher is killed while many containers start, run and end.
func TestLauncherDiesAtAnyMoment(t *testing.T) {
	containertest.Census(t)
	for round := range rounds() {
		pid := launcherPID(t)
		results := make(chan error, 8)
		for i := range 8 {
			go func() {
				// Each ends by itself, one way or the other.
				res, err := container.Run(context.Background(), sh("exit "+strconv.Itoa(i)))
				if err == nil && res.Status != container.Lost && res.ExitCode != i {
					err = errors.New("wrong result: " + res.String())
				}
				results <- err
			}()
		}
		for range round % 8 {
			if err := <-results; err != nil {
				require.ErrorIs(t, err, launcher.ErrDied)
			}
		}
		// It may be the one that was killed in the round before, and just ended.
		if err := unix.Kill(pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			require.NoError(t, err)
		}
		for range 8 - round%8 {
			err := <-results
			var e *container.StartError
			require.True(t, err == nil || errors.As(err, &e), "%v", err)
		}
	}
}

var hostJob = register("host", func(args []string) int {
	// A host program of its own: it starts containers and waits to be killed.
	for n := range 3 {
		opts := []container.Option{container.WithCommand("sleep", "1000")}
		switch n {
		case 1:
			opts = append(opts, container.WithMounts(rootfs.Workspace(args[0], "/work")))
		case 2:
			opts = append(opts, container.WithMounts(rootfs.Workspace(args[0], "/work", rootfs.Staged())))
		}
		c, err := container.New(opts...)
		if err == nil {
			err = c.Start(context.Background())
		}
		if errors.Is(err, errors.ErrUnsupported) && n > 0 { // before Linux 5.12, and 6.6
			if c, err = container.New(opts[0]); err == nil {
				err = c.Start(context.Background())
			}
		}
		if err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			return 1
		}
	}
	_, _ = os.Stdout.WriteString("up\n")
	if len(args) > 1 {
		return 0 // it ends without closing anything
	}
	select {}
})

// hostProgram runs the test binary as a host program on the machine itself.
func hostProgram(t *testing.T, args ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	if len(args) == 0 {
		args = []string{workFolder(t)}
	}
	jobUsed[hostJob] = true
	cmd := exec.Command(exe, append([]string{hostJob}, args...)...)
	cmd.Env = append(os.Environ(), jobEnv)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // gone already, unless the test failed
		_ = cmd.Wait()
	})
	return cmd, out
}

// The host is killed, or exits, at a random moment: its launcher and every init
// and job are gone within a second, and so are its files.
func TestHostDies(t *testing.T) {
	containertest.Census(t)
	folder := workFolder(t)
	_, err := container.Prune(timeout(t)) // what an earlier run left that was killed
	require.NoError(t, err)
	for round := range rounds() {
		args := []string{folder}
		if round%5 == 4 {
			args = append(args, "exit")
		}
		cmd, out := hostProgram(t, args...)
		var tree []int
		buf := make([]byte, 3)
		if round%2 == 0 {
			_, err := io.ReadFull(out, buf)
			require.NoError(t, err)
			tree = pidfdsBelow(t, cmd.Process.Pid)
			if len(args) == 1 {
				require.GreaterOrEqual(t, len(tree), 7, "a launcher, three inits, three jobs")
			}
		} else {
			for len(tree) < round%6 && syscall.Kill(cmd.Process.Pid, 0) == nil {
				closeAll(tree)
				tree = pidfdsBelow(t, cmd.Process.Pid)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: that is what it says
		for _, fd := range tree {
			require.True(t, endsWithin(t, fd, time.Second), "a process lives a second after its host")
		}
		closeAll(tree)
		if len(tree) > 0 && round%2 == 0 {
			left, err := filepath.Glob(fmt.Sprintf("%s/owner-%d-*", launcher.DefaultStateDir(), cmd.Process.Pid))
			require.NoError(t, err)
			require.Empty(t, left)
			require.Empty(t, groupsOfHost(cmd.Process.Pid))
		}
	}
}

// groupsOfHost are the control groups of a host program.
func groupsOfHost(pid int) (out []string) {
	want := fmt.Sprintf("inlay-%d-", pid)
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir // gone meanwhile, or not ours to read
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), want) {
			out = append(out, path)
			return fs.SkipDir
		}
		return nil
	})
	return out
}

// endsWithin waits for the end of a process by its pidfd.
func endsWithin(t *testing.T, pidfd int, bound time.Duration) bool {
	t.Helper()
	for until := time.Now().Add(bound); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(time.Until(until), 0)/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			require.NoError(t, err)
			return n == 1
		}
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// pidfdsBelow opens a pidfd of every process below one.
func pidfdsBelow(t *testing.T, pid int) []int {
	t.Helper()
	var out []int
	for _, child := range childrenOf(pid) {
		if fd, err := unix.PidfdOpen(child, 0); err == nil {
			out = append(out, fd)
		}
		out = append(out, pidfdsBelow(t, child)...)
	}
	return out
}

func childrenOf(pid int) (out []int) {
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	if err != nil {
		return nil
	}
	for _, f := range tasks {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, w := range strings.Fields(string(text)) {
			n, err := strconv.Atoi(w)
			if err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// A host that was killed together with its launcher leaves an owner file and its
// control groups; Prune takes them away, and only them.
func TestPrune(t *testing.T) {
	containertest.Census(t)
	_, err := container.Prune(timeout(t))
	require.NoError(t, err)
	cmd, out := hostProgram(t)
	buf := make([]byte, 3)
	_, err = io.ReadFull(out, buf)
	require.NoError(t, err)
	tree := pidfdsBelow(t, cmd.Process.Pid)
	kids := childrenOf(cmd.Process.Pid)
	require.NotEmpty(t, kids)
	report, err := container.Prune(timeout(t))
	require.NoError(t, err)
	own := func(names []string, what string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.Contains(n, what+strconv.Itoa(cmd.Process.Pid)+"-") })
	}
	require.Empty(t, own(report.Removed, ""), "its owner lives")
	groups := groupsOfHost(cmd.Process.Pid)
	if containertest.Groups(t) != nil {
		require.NotEmpty(t, groups)
	}
	require.NoError(t, unix.Kill(kids[0], unix.SIGSTOP)) // so that it cannot clean up
	require.NoError(t, cmd.Process.Kill())
	require.NoError(t, unix.Kill(kids[0], unix.SIGKILL))
	_ = cmd.Wait() // killed
	for _, fd := range tree {
		require.True(t, endsWithin(t, fd, time.Second))
	}
	closeAll(tree)
	report, err = container.Prune(timeout(t))
	require.NoError(t, err)
	// Other programs, tests of other packages too, may leave something as well.
	left := own(report.Removed, "owner-")
	require.Len(t, left, 1)
	require.NoFileExists(t, left[0])
	if os.Getenv("INLAY_VM_SYSTEMD") == "" {
		require.ElementsMatch(t, groups, own(report.Removed, "inlay-"))
	} // else systemd may have been quicker
	require.Empty(t, groupsOfHost(cmd.Process.Pid))
}

// os/exec beside containers is not disturbed, and no thread of this program
// ever is in a foreign namespace (the census looks).
func TestBesideOSExec(t *testing.T) {
	containertest.Census(t)
	n := 100
	if os.Getenv("INLAY_CI") != "" {
		n = 500
	}
	errs := make(chan error, 2*n)
	limit := make(chan struct{}, 8)
	for i := range n {
		go func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			err := exec.Command("sh", "-c", "exit 3").Run()
			var e *exec.ExitError
			if !errors.As(err, &e) || e.ExitCode() != 3 {
				errs <- errors.New("os/exec: " + err.Error())
				return
			}
			errs <- nil
		}()
		go func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			res, err := container.Run(context.Background(), sh("exit "+strconv.Itoa(i%256)))
			if err == nil && res.ExitCode != i%256 {
				err = errors.New(res.String())
			}
			errs <- err
		}()
	}
	for range 2 * n {
		require.NoError(t, <-errs)
	}
}

// Writing a program and running it at once never meets ETXTBSY, whoever forks
// meanwhile: init writes, and nothing of it is open in this program.
func TestNoTextBusy(t *testing.T) {
	containertest.Census(t)
	n := 25
	if os.Getenv("INLAY_CI") != "" {
		n = 250
	}
	program, err := os.ReadFile("/bin/sh")
	require.NoError(t, err)
	errs := make(chan error, 8)
	for range 8 {
		go func() {
			for range n {
				res, err := container.Run(context.Background(), container.WithFile("/work/sh", program, 0o755), container.WithCommand("/work/sh", "-c", "exit 0"))
				if err == nil {
					err = res.Err()
				}
				if err == nil {
					err = exec.Command("true").Run()
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 8 {
		require.NoError(t, <-errs)
	}
}
