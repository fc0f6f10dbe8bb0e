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
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
)

// An error at each step of the step-in plan, and of what comes before and after it, is
// reported as that step's, and nothing is left.
func TestStepInFailsAtEachStep(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	other := startOther(t)
	defer container.Sabotage(nil)
	kinds := []namespace.Kind{namespace.IPC, namespace.UTS, namespace.Network}
	if os.Geteuid() == 0 && canKill(t) {
		kinds = append(kinds, namespace.PID)
	}
	offsets := container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: time.Hour})
	for _, tt := range []struct {
		name string
		opt  container.Option
	}{
		{"clocks", container.Options(container.WithNamespaceOf(other.Container, kinds...), offsets)},
		{"user", container.WithNamespaceOf(other.Container, append(kinds, namespace.User, namespace.Time)...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := map[plan.Phase]int{}
			// The teardown's failure is Close's, not Start's.
			for _, which := range []plan.Phase{plan.Prepare, plan.StepIn, plan.Parent, plan.Child} {
				for step := 0; ; step++ {
					steps := 0
					container.Sabotage(func(p *plan.Plan) {
						if p.Phase == which && steps == 0 {
							steps = len(p.Steps)
							if step < steps {
								p.Steps[step] = broken()
							}
						}
					})
					res, err := container.Run(timeout(t), tt.opt, container.WithCommand("true"))
					if step >= steps {
						require.NoError(t, err)
						require.True(t, res.Success())
						break
					}
					seen[which]++
					var e *container.StartError
					require.ErrorAs(t, err, &e, "%s, step %d", which, step+1)
					require.Equal(t, string(which), string(e.Phase), "%v", err)
					require.Equal(t, "broken", e.Op, "%s, step %d", which, step+1)
					require.ErrorIs(t, err, unix.EBADF)
					require.Nil(t, res)
					if which != plan.StepIn {
						step += 7 // each is tried elsewhere
					}
				}
			}
			require.GreaterOrEqual(t, seen[plan.StepIn], len(kinds)+2)
			require.NotZero(t, seen[plan.Prepare])
			require.NotZero(t, seen[plan.Child])
			require.Equal(t, "alive\n", output(t, tt.opt, sh("echo alive")))
		})
	}
}

// A launcher whose teardown plan fails says so when the container is closed.
func TestStepInTeardownFails(t *testing.T) {
	containertest.Census(t)
	needKill(t)
	needInit(t)
	other := startOther(t)
	defer container.Sabotage(nil)
	container.Sabotage(func(p *plan.Plan) {
		if p.Phase == plan.Teardown {
			p.Steps[0] = broken()
		}
	})
	c, err := container.New(container.WithNamespaceOf(other.Container, namespace.PID))
	require.NoError(t, err)
	require.NoError(t, c.Start(timeout(t)))
	pid := lines(execOutput(t, c, sh(leaveBehind)))[0]
	require.Error(t, c.Close())
	// What it was to kill, the host has killed.
	require.Regexp(t, "gone|zombie|dead", execOutput(t, other.Container, sh(`grep '^State:' /proc/$1/status 2>/dev/null || echo gone`, pid)))
}

// stuckStep makes the step-in process of the next container wait, and returns its process
// id once it does; let ends the waiting.
func stuckStep(t *testing.T) (await func() int, let func()) {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o666))
	require.NoError(t, os.Chmod(filepath.Dir(fifo), 0o755))
	container.Sabotage(func(p *plan.Plan) {
		if p.Phase == plan.StepIn {
			b := plan.NewBuilder(plan.StepIn, plan.AMD64, &plan.Registers{})
			for range 60 {
				b.Register("not to be overwritten")
			}
			b.Openat(plan.CWD, fifo, plan.ORDONLY|plan.OCLOEXEC, 0, "fifo")
			*p = *b.Plan()
		}
	})
	pid := launcherPID(t)
	await = func() int {
		for ctx := timeout(t); ; require.NoError(t, ctx.Err()) {
			for _, child := range childrenOf(pid) {
				name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child))
				if err != nil || string(name) != "inlay-step-in\n" {
					continue
				}
				where, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
				if err == nil && strings.Contains(string(where), ") S ") {
					return child
				}
			}
		}
	}
	let = func() {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	return await, let
}

// The process that joins namespaces is killed: the start says so, and the next works.
func TestStepInDies(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	defer container.Sabotage(nil)
	other := startOther(t)
	join := container.WithNamespaceOf(other.Container, namespace.Network)
	for range rounds() {
		await, _ := stuckStep(t)
		result := make(chan error, 1)
		go func() {
			_, err := container.Run(context.Background(), join, container.WithCommand("true"))
			result <- err
		}()
		require.NoError(t, unix.Kill(await(), unix.SIGKILL))
		var e *container.StartError
		require.ErrorAs(t, <-result, &e)
		require.Equal(t, container.PhaseStepIn, e.Phase)
		require.Contains(t, e.Remedy, "killed before it was done")
		container.Sabotage(nil)
		require.Equal(t, "alive\n", output(t, join, sh("echo alive")))
	}
	// Stopped, it holds nobody up for long.
	await, _ := stuckStep(t)
	result := make(chan error, 1)
	go func() {
		_, err := container.Run(context.Background(), join, container.WithCommand("true"))
		result <- err
	}()
	require.NoError(t, unix.Kill(await(), unix.SIGSTOP))
	require.ErrorContains(t, <-result, "killed before it was done")
	// Left alone it goes on.
	await, let := stuckStep(t)
	go func() {
		_, err := container.Run(context.Background(), join, container.WithCommand("true"))
		result <- err
	}()
	await()
	let()
	require.NoError(t, <-result)
}

// The launcher is killed while its child joins namespaces: that goes with it.
func TestStepInLauncherDies(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	defer container.Sabotage(nil)
	for range rounds() {
		other := startOther(t)
		await, _ := stuckStep(t)
		result := make(chan error, 1)
		go func() {
			_, err := container.Run(context.Background(), container.WithNamespaceOf(other.Container, namespace.Network), container.WithCommand("true"))
			result <- err
		}()
		fd, err := unix.PidfdOpen(await(), 0)
		require.NoError(t, err)
		require.NoError(t, unix.Kill(launcherPID(t), unix.SIGKILL))
		require.ErrorIs(t, <-result, launcher.ErrDied)
		require.True(t, endsWithin(t, fd, time.Minute))
		require.NoError(t, unix.Close(fd))
		require.NoError(t, other.Close())
		container.Sabotage(nil)
		require.Equal(t, "alive\n", output(t, sh("echo alive")))
	}
}

// Whatever dies at whatever moment, each start has its result, and nothing is left.
func TestStepInDiesAtAnyMoment(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	other := startOther(t)
	kinds := []namespace.Kind{namespace.Network, namespace.IPC, namespace.User}
	pid := launcherPID(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, child := range childrenOf(pid) {
				if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); err == nil && string(name) == "inlay-step-in\n" {
					_ = unix.Kill(child, unix.SIGKILL) // it may have ended
				}
			}
		}
	}()
	failed := 0
	for range 10 * rounds() {
		res, err := container.Run(timeout(t), container.WithNamespaceOf(other.Container, kinds...), sh("exit 7"))
		var e *container.StartError
		switch {
		case err != nil:
			require.ErrorAs(t, err, &e)
			failed++
		case res.Status != container.Lost:
			require.Equal(t, 7, res.ExitCode)
		}
	}
	close(stop)
	<-stopped
	t.Logf("%d of %d starts failed", failed, 10*rounds())
	require.Equal(t, "alive\n", output(t, container.WithNamespaceOf(other.Container, kinds...), sh("echo alive")))
}

// An init made ahead is for others, and stays for them.
func TestStepInLeavesTheSpare(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	other := startOther(t)
	pid := awaitSpare(t)
	c := start(t, container.WithNamespaceOf(other.Container, namespace.Network))
	require.NotEqual(t, pid, c.PID())
	require.Equal(t, pid, start(t).PID())
}

// The step-in plan is explained where it is run.
func TestStepInExplained(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	other := start(t)
	c := start(t, container.WithNamespaceOf(other, namespace.Network), container.WithTimeOffsets(namespace.TimeOffsets{Boottime: time.Second}))
	var b bytes.Buffer
	require.NoError(t, c.Explain(&b))
	text := b.String()
	last := -1
	for _, want := range []string{
		"prepare ", "setns(<network of container " + other.ID() + ">, CLONE_NEWNET)", "unshare(CLONE_NEWTIME)", `write(<timens_offsets>, "monotonic 0 0\nboottime 1 0\n"`,
		"step-in       clone3({flags=", "|CLONE_PARENT})", "parent ", "child ",
	} {
		at := strings.Index(text, want)
		require.Greater(t, at, last, "%s\n%s", want, text)
		last = at
	}
	require.NotContains(t, text, "CLONE_NEWNET|")
	require.NotContains(t, text, "LinkUp")
	require.NotContains(t, text, "SIOCSIFFLAGS")
}

var joiningHost = register("joining host", func(args []string) int {
	// A host program of its own, whose containers share namespaces of one of them.
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	var kinds []namespace.Kind
	for _, a := range args {
		kinds = append(kinds, namespace.Kind(a))
	}
	other, err := container.New(container.WithCommand("sleep", "1000"))
	if err != nil {
		return fail(err)
	}
	if err := other.Start(ctx); err != nil {
		return fail(err)
	}
	for range 2 {
		opt := container.WithNamespaceOf(other, kinds...)
		if args[0] == "hosts" {
			opt = container.WithHostNamespace(namespace.PID)
		}
		c, err := container.New(opt)
		if err == nil {
			err = c.Start(ctx)
		}
		if err != nil {
			return fail(err)
		}
		p, err := c.Exec(ctx, sh(leaveBehind))
		if err != nil {
			return fail(err)
		}
		if res, err := p.Wait(ctx); err != nil || !res.Success() {
			return fail(errors.Join(err, res.Err()))
		}
	}
	fmt.Println("up")
	select {}
})

// The host is killed: what was left behind in joined namespaces is gone as well.
func TestStepInHostDies(t *testing.T) {
	containertest.Census(t)
	needKill(t)
	needInit(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	jobUsed[joiningHost] = true
	for range rounds() {
		cmd := exec.Command(exe, joiningHost, "pid", "network")
		cmd.Env = append(os.Environ(), jobEnv)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = io.ReadFull(out, make([]byte, 3))
		require.NoError(t, err)
		tree := pidfdsBelow(t, cmd.Process.Pid)
		require.GreaterOrEqual(t, len(tree), 7, "a launcher, three inits, a job, and two left behind")
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		for _, fd := range tree {
			require.True(t, endsWithin(t, fd, time.Minute))
		}
		closeAll(tree)
	}
}

// Host and launcher are killed at once: inits and their jobs end, and Prune ends what
// those have left in joined namespaces.
func TestStepInAllDie(t *testing.T) {
	containertest.Census(t)
	needKill(t)
	needInit(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	jobUsed[joiningHost] = true
	cmd := exec.Command(exe, joiningHost, "pid")
	if os.Geteuid() == 0 {
		cmd = exec.Command(exe, joiningHost, "hosts")
	}
	cmd.Env = append(os.Environ(), jobEnv)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, 3))
	require.NoError(t, err)
	tree := pidfdsBelow(t, cmd.Process.Pid)
	defer closeAll(tree)
	kids := childrenOf(cmd.Process.Pid)
	require.Len(t, kids, 1)
	require.NoError(t, unix.Kill(kids[0], unix.SIGSTOP))
	require.NoError(t, cmd.Process.Kill())
	require.NoError(t, unix.Kill(kids[0], unix.SIGKILL))
	_ = cmd.Wait() // killed
	require.True(t, endsWithin(t, tree[0], time.Minute), "the launcher, who holds its owner file's lock")
	_, err = container.Prune(timeout(t))
	require.NoError(t, err)
	for _, fd := range tree {
		require.True(t, endsWithin(t, fd, time.Minute))
	}
}

// peep tries to see the memory and the files of whatever appears that is inlay's own,
// and says what it got: what the kernel shows to whom may trace.
var peep = register("peep", func([]string) int {
	fmt.Println("up")
	for {
		dirs, err := os.ReadDir("/proc")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		for _, d := range dirs {
			dir := "/proc/" + d.Name()
			comm, err := os.ReadFile(dir + "/comm")
			if err != nil || !strings.HasPrefix(string(comm), "inlay") {
				continue
			}
			// A job has the name until its execve(2) is done, and memory of its own a moment
			// before that; of one that is ending it is gone.
			if maps, err := os.ReadFile(dir + "/maps"); err == nil && strings.Contains(string(maps), ".test") {
				fmt.Printf("memory of %s", comm)
			}
			fds, _ := os.ReadDir(dir + "/fd") // mostly refused
			for _, fd := range fds {
				link, err := os.Readlink(dir + "/fd/" + fd.Name())
				if err == nil && strings.HasPrefix(link, "/") && link != "/dev/null" {
					fmt.Printf("file %s of %s", link, comm)
				}
			}
		}
	}
})

// A job that may trace everything in its user namespace, and sees the inits that come
// into it and its PID namespace, gets at none of them: they begin as the launcher's
// own forks (CVE-2016-9962).
func TestEscapeStepIn(t *testing.T) {
	containertest.Census(t)
	needKill(t)
	needInit(t)
	other := start(t, selfMount(t))
	var out safeBuffer
	p, err := other.Exec(timeout(t), selfJob(t, peep), container.WithCapabilities("CAP_SYS_PTRACE"), container.WithStdout(&out))
	require.NoError(t, err)
	for ctx := timeout(t); out.String() == ""; require.NoError(t, ctx.Err()) {
		require.Equal(t, "alive\n", output(t, sh("echo alive")))
	}
	for range 2 * rounds() {
		require.Equal(t, "alive\n", output(t, container.WithNamespaceOf(other, namespace.User, namespace.PID), sh("echo alive")))
	}
	require.NoError(t, p.Kill())
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, "up\n", out.String())
}
