package container_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
)

// joinable are the kinds that can be joined.
var joinable = []namespace.Kind{namespace.UTS, namespace.IPC, namespace.Network, namespace.User, namespace.Time, namespace.PID}

// namespaceLinks has a job print what it is in; parseLinks reads that.
func namespaceLinks() container.JobOption {
	var files []string
	for _, k := range joinable {
		files = append(files, "/proc/self/ns/"+k.File())
	}
	return sh(`for f; do readlink "$f"; done`, files...) // busybox takes one
}

func parseLinks(text string) map[namespace.Kind]string {
	out := map[namespace.Kind]string{}
	for i, l := range lines(text) {
		out[joinable[i]] = l
	}
	return out
}

// needKill skips where a container without a PID namespace of its own cannot be ended.
func needKill(t testing.TB) {
	t.Helper()
	if !canKill(t) {
		t.Skip("needs cgroup.kill: Linux 5.14, and a control group of v2 to write to")
	}
}

func canKill(t testing.TB) bool {
	t.Helper()
	top := containertest.Groups(t)
	if top == nil {
		return false
	}
	g, err := top.Create(fmt.Sprintf("inlay-%d-%d", os.Getpid(), time.Now().UnixNano()), cgroup.Limits{})
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Delete(t.Context())) }()
	return slices.ContainsFunc(g.Paths(), func(p string) bool {
		_, err := os.Stat(filepath.Join(p, "cgroup.kill"))
		return err == nil
	})
}

// needInit skips where init has its jobs' id, who could end it in another's namespace.
func needInit(t testing.TB) {
	t.Helper()
	containertest.Require(t, containertest.Users)
}

// joined is another container, with a job that runs as long as it does, and that job's
// process on the host, which this user may look at.
type joined struct {
	*container.Container
	job *container.Process
	pid int
}

func startOther(t testing.TB) *joined {
	t.Helper()
	o := &joined{Container: start(t, container.WithTimeOffsets(namespace.TimeOffsets{}))}
	var err error
	o.job, err = o.Exec(timeout(t), container.WithCommand("sleep", "1000"))
	require.NoError(t, err)
	pids := childrenOf(o.PID())
	require.Len(t, pids, 1)
	o.pid = pids[0]
	return o
}

func (o *joined) path(k namespace.Kind) string { return fmt.Sprintf("/proc/%d/ns/%s", o.pid, k.File()) }

// Each kind is joined of another container, by path and by file: a job sees the
// other's, of the main job and of Exec, and all others are its own.
func TestJoin(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	other := startOther(t)
	theirs := parseLinks(execOutput(t, other.Container, namespaceLinks()))
	check := func(t *testing.T, k namespace.Kind, opt container.Option) {
		t.Helper()
		c := start(t, opt)
		for _, text := range []string{execOutput(t, c, namespaceLinks()), output(t, opt, namespaceLinks())} {
			ours := parseLinks(text)
			for _, o := range joinable {
				if o == k {
					require.Equal(t, theirs[o], ours[o], "%s", o)
				} else if o != namespace.Time {
					require.NotEqual(t, theirs[o], ours[o], "%s", o)
				}
			}
		}
	}
	for _, k := range joinable {
		t.Run(string(k), func(t *testing.T) {
			if k == namespace.PID {
				needKill(t)
				needInit(t)
			}
			t.Run("container", func(t *testing.T) { check(t, k, container.WithNamespaceOf(other.Container, k)) })
			t.Run("path", func(t *testing.T) { check(t, k, container.WithJoinNamespace(k, other.path(k))) })
			t.Run("file", func(t *testing.T) {
				f, err := os.Open(other.path(k))
				require.NoError(t, err)
				check(t, k, container.WithJoinNamespaceFile(k, f))
				require.NoError(t, f.Close())
			})
		})
	}
	t.Run("all", func(t *testing.T) {
		needKill(t)
		needInit(t)
		for _, opt := range []container.Option{
			container.WithNamespaceOf(other.Container, joinable...),
			container.Options(container.WithNamespaceOf(other.Container, namespace.User, namespace.PID), container.WithNamespaceOf(other.Container, namespace.UTS, namespace.IPC),
				container.WithJoinNamespace(namespace.Network, other.path(namespace.Network)), container.WithJoinNamespace(namespace.Time, other.path(namespace.Time))),
		} {
			require.Equal(t, theirs, parseLinks(output(t, opt, namespaceLinks())))
		}
	})
	t.Run("of one that has joined it", func(t *testing.T) {
		c := start(t, container.WithNamespaceOf(other.Container, namespace.Network))
		require.Equal(t, theirs[namespace.Network], parseLinks(output(t, container.WithNamespaceOf(c, namespace.Network), namespaceLinks()))[namespace.Network])
	})
	t.Run("user and 1,000 more", func(t *testing.T) {
		needInit(t)
		require.Equal(t, "1000\n", output(t, container.WithNamespaceOf(other.Container, namespace.User), container.WithUser(1000, 1000), sh("id -u")))
	})
}

// A hostname is that of the other's, and its own from then on.
func TestJoinUTS(t *testing.T) {
	containertest.Census(t)
	other := start(t, container.WithHostname("box"))
	require.Equal(t, []string{"box", "box"}, lines(output(t, container.WithNamespaceOf(other, namespace.UTS), cat("/proc/sys/kernel/hostname", "/etc/hostname"))))
}

var shmWrite = register("shm write", func([]string) int {
	id, err := unix.SysvShmGet(4711, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	mem, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	copy(mem, "left here")
	return 0
})

var shmRead = register("shm read", func([]string) int {
	id, err := unix.SysvShmGet(4711, 4096, 0)
	if err != nil {
		fmt.Println(err)
		return 0
	}
	mem, err := unix.SysvShmAttach(id, 0, unix.SHM_RDONLY)
	if err != nil {
		fmt.Println(err)
		return 0
	}
	fmt.Println(string(mem[:9]))
	return 0
})

// Shared memory that one container made is seen by the other, and by no third.
func TestJoinSharedMemory(t *testing.T) {
	containertest.Census(t)
	other := start(t, selfMount(t))
	require.Empty(t, execOutput(t, other, selfJob(t, shmWrite)))
	require.Equal(t, "left here\n", output(t, container.WithNamespaceOf(other, namespace.IPC), self(t, shmRead)))
	require.Equal(t, "no such file or directory\n", output(t, self(t, shmRead)))
}

var echoServer = register("echo server", func([]string) int {
	l, err := net.Listen("tcp", "127.0.0.1:4711")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("up")
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		_, _ = io.Copy(c, c) // the client's end is the end
		_ = c.Close()
	}
})

var echoClient = register("echo client", func([]string) int {
	c, err := net.Dial("tcp", "127.0.0.1:4711")
	if err != nil {
		fmt.Println("refused:", errors.Is(err, unix.ECONNREFUSED))
		return 0
	}
	_, _ = c.Write([]byte("hello"))
	_ = c.(*net.TCPConn).CloseWrite()
	text, err := io.ReadAll(c)
	fmt.Println(string(text), err)
	return 0
})

// A server of one container is reached over lo by the other, and by no third. What the
// namespace's owner alone may do, the guest may not.
func TestJoinNetwork(t *testing.T) {
	containertest.Census(t)
	other := start(t, selfMount(t))
	r, w := io.Pipe()
	p, err := other.Exec(timeout(t), selfJob(t, echoServer), container.WithStdout(w))
	require.NoError(t, err)
	_, err = io.ReadFull(r, make([]byte, 3))
	require.NoError(t, err)
	join := container.WithNamespaceOf(other, namespace.Network)
	require.Equal(t, "hello <nil>\n", output(t, join, self(t, echoClient)))
	require.Equal(t, "refused: true\n", output(t, self(t, echoClient)))
	res, err := container.Run(timeout(t), join, container.WithCapabilities("CAP_NET_ADMIN"), sh("echo 1 >/proc/sys/net/ipv4/ip_forward"))
	require.NoError(t, err)
	require.NotZero(t, res.ExitCode)
	require.NoError(t, p.Kill())
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// The network outlives the container that made it while somebody is in it.
func TestJoinOutlives(t *testing.T) {
	containertest.Census(t)
	other := start(t)
	link := execOutput(t, other, container.WithCommand("readlink", "/proc/self/ns/net"))
	c := start(t, container.WithNamespaceOf(other, namespace.Network, namespace.User))
	require.NoError(t, other.Close())
	require.Equal(t, link, execOutput(t, c, container.WithCommand("readlink", "/proc/self/ns/net")))
	// The range of ids is still its own, and nobody else's.
	ids := func(c *container.Container) string { return execOutput(t, c, cat("/proc/self/uid_map")) }
	if os.Geteuid() == 0 {
		require.NotEqual(t, ids(c), ids(start(t)))
	}
}

// Processes of a joined PID namespace are seen; they can be signalled where the ids are
// shared as well, and not otherwise.
func TestJoinPID(t *testing.T) {
	containertest.Census(t)
	needKill(t)
	needInit(t)
	other := startOther(t)
	victim := strconv.Itoa(other.job.PID())
	look := sh(`cat /proc/$1/comm; kill -TERM $1 2>&1 | grep -o 'ermitted'; readlink /proc/self; [ "$(cat /proc/1/comm)" = inlay-init ] && echo init`, victim)
	if os.Geteuid() == 0 {
		got := lines(output(t, container.WithNamespaceOf(other.Container, namespace.PID), look))
		require.Len(t, got, 4, "%v", got)
		require.Equal(t, []string{"sleep", "ermitted", "init"}, []string{got[0], got[1], got[3]})
		require.NotEqual(t, "1", got[2])
		select {
		case <-other.job.Done():
			t.Fatal("a container with other ids has ended it")
		default:
		}
	}
	// An unprivileged user's containers have the same ids on the host.
	kinds := []namespace.Kind{namespace.PID}
	if os.Geteuid() == 0 {
		kinds = append(kinds, namespace.User)
	}
	got := lines(output(t, container.WithNamespaceOf(other.Container, kinds...), look))
	require.Len(t, got, 3, "%v", got)
	require.Equal(t, []string{"sleep", "init"}, []string{got[0], got[2]})
	require.NotEqual(t, "1", got[1])
	res, err := other.job.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, syscall.SIGTERM, res.Signal)
}

// leaveBehind leaves a process behind that is nobody's child, and prints its id.
const leaveBehind = `(setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!)`

// What a container leaves in a PID namespace that is not its own ends with it, however
// it ends; the others there live on.
func TestJoinPIDEnds(t *testing.T) {
	containertest.Census(t)
	needKill(t)
	needInit(t)
	other := startOther(t)
	join := container.WithNamespaceOf(other.Container, namespace.PID)
	lives := func(pid string) bool {
		// Dead, it may not have been reaped yet by the first process there.
		state := execOutput(t, other.Container, sh(`grep '^State:' /proc/$1/status 2>/dev/null || echo gone`, pid))
		return !strings.Contains(state, "gone") && !strings.Contains(state, "Z (zombie)") && !strings.Contains(state, "X (dead)")
	}
	check := func(t *testing.T, pid string) {
		t.Helper()
		require.False(t, lives(pid), "process %s of the container is left", pid)
		require.True(t, lives(strconv.Itoa(other.job.PID())), "a process of the other has been ended")
	}
	t.Run("main job", func(t *testing.T) {
		check(t, lines(output(t, join, sh(leaveBehind)))[0])
	})
	t.Run("Start, its main job", func(t *testing.T) {
		var out bytes.Buffer
		c := start(t, join, sh(leaveBehind), container.WithStdout(&out))
		res, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.True(t, res.Success())
		check(t, lines(out.String())[0])
	})
	for _, end := range []struct {
		name string
		f    func(c *container.Container) error
	}{
		{"Close", (*container.Container).Close},
		{"Kill", (*container.Container).Kill},
		{"Stop", func(c *container.Container) error { return c.Stop(timeout(t)) }},
		{"init's death", func(c *container.Container) error { return unix.Kill(c.PID(), unix.SIGKILL) }},
	} {
		t.Run(end.name, func(t *testing.T) {
			c := start(t, join)
			pid := lines(execOutput(t, c, sh(leaveBehind)))[0]
			require.True(t, lives(pid))
			require.NoError(t, end.f(c))
			<-c.Done()
			check(t, pid)
			c = start(t, join, container.WithCommand("sleep", "1000"))
			pid = lines(execOutput(t, c, sh(leaveBehind)))[0]
			require.NoError(t, end.f(c))
			_, err := c.Wait(timeout(t))
			if end.name != "Close" {
				require.NoError(t, err)
			}
			check(t, pid)
		})
	}
	t.Run("the launcher's death", func(t *testing.T) {
		c := start(t, join, container.WithCommand("sleep", "1000"))
		execOutput(t, c, sh(leaveBehind))
		fds := pidfdsBelow(t, c.PID())
		defer closeAll(fds)
		require.Len(t, fds, 2)
		require.NoError(t, unix.Kill(launcherPID(t), unix.SIGKILL))
		res, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.Lost, res.Status)
		for _, fd := range fds {
			require.True(t, endsWithin(t, fd, time.Minute))
		}
	})
}

// The container ends with the namespace's first process.
func TestJoinPIDOfTheDead(t *testing.T) {
	containertest.Census(t)
	needKill(t)
	needInit(t)
	other := startOther(t)
	c := start(t, container.WithNamespaceOf(other.Container, namespace.PID), container.WithCommand("sleep", "1000"))
	f, err := os.Open(other.path(namespace.PID))
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // nothing to flush
	require.NoError(t, other.Close())
	res, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.Contains(t, []container.Status{container.Lost, container.Signaled}, res.Status)
	require.NoError(t, c.Close())
	_, err = container.Run(timeout(t), container.WithJoinNamespaceFile(namespace.PID, f), container.WithCommand("true"))
	var e *container.StartError
	require.ErrorAs(t, err, &e)
	require.Equal(t, container.PhaseStepIn, e.Phase, "%v", err)
	require.Contains(t, e.Remedy, "first process has ended", "%v", err)
}

// With the host's PID namespace its processes are seen, and what is left behind ends.
func TestHostPID(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	host := container.WithHostNamespace(namespace.PID)
	if os.Geteuid() != 0 {
		_, err := container.Run(timeout(t), host, container.WithCommand("true"))
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		require.ErrorIs(t, err, unix.EPERM)
		require.Contains(t, e.Remedy, "root")
		return
	}
	needKill(t)
	got := lines(output(t, host, sh("cat /proc/$1/comm; kill -TERM $1 2>&1 | grep -o ermitted; "+leaveBehind, strconv.Itoa(os.Getpid()))))
	comm, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(string(comm)), got[0])
	require.Equal(t, "ermitted", got[1])
	_, err = os.Stat("/proc/" + got[2])
	require.ErrorIs(t, err, os.ErrNotExist)
	// Its /proc is the host's own; the limits of namespaces there are who opens them's.
	before, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	require.NoError(t, err)
	require.Equal(t, "0\n", output(t, host, cat("/proc/sys/user/max_user_namespaces")))
	after, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	require.NoError(t, err)
	require.Equal(t, before, after)
	// Where the job would have init's id it could kill it.
	_, err = container.Run(timeout(t), host, container.WithHostNamespace(namespace.User), container.WithCommand("true"))
	require.ErrorContains(t, err, "could kill it")
	c := start(t, host, container.WithHostNamespace(namespace.User))
	_, err = c.Exec(timeout(t), container.WithCommand("true"))
	require.ErrorContains(t, err, "could kill it")
	require.Equal(t, "1000\n", execOutput(t, c, container.WithUser(1000, 1000), sh("id -u")))
}

// clocks prints CLOCK_MONOTONIC and CLOCK_BOOTTIME in nanoseconds, and /proc/uptime.
var clocks = register("clocks", func([]string) int {
	for _, clock := range []int32{unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME} {
		var ts unix.Timespec
		if err := unix.ClockGettime(clock, &ts); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(ts.Nano())
	}
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(strings.Fields(string(text))[0])
	return 0
})

func hostClock(t testing.TB, clock int32) time.Duration {
	t.Helper()
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(clock, &ts))
	return time.Duration(ts.Nano())
}

// The clocks inside are the host's and the offset, for the main job and for Exec; the
// figures of the Result are not shifted.
func TestTimeOffsets(t *testing.T) {
	needContainers(t)
	for _, o := range []namespace.TimeOffsets{
		{},
		{Monotonic: 100 * 24 * time.Hour, Boottime: 365*24*time.Hour + 1},
		{Monotonic: -1500 * time.Millisecond, Boottime: -time.Second},
		{Monotonic: 1, Boottime: 20 * 365 * 24 * time.Hour},
	} {
		t.Run(fmt.Sprint(o), func(t *testing.T) {
			inside(t, func(t *testing.T, run func(...container.JobOption) string) {
				t.Helper()
				before := []time.Duration{hostClock(t, unix.CLOCK_MONOTONIC), hostClock(t, unix.CLOCK_BOOTTIME)}
				got := lines(run(selfJob(t, clocks)))
				after := []time.Duration{hostClock(t, unix.CLOCK_MONOTONIC), hostClock(t, unix.CLOCK_BOOTTIME)}
				for i, offset := range []time.Duration{o.Monotonic, o.Boottime} {
					n, err := strconv.ParseInt(got[i], 10, 64)
					require.NoError(t, err)
					require.GreaterOrEqual(t, time.Duration(n), before[i]+offset)
					require.LessOrEqual(t, time.Duration(n), after[i]+offset)
				}
				uptime, err := strconv.ParseFloat(got[2], 64)
				require.NoError(t, err)
				const hundredth = 0.02 // it is cut off
				require.GreaterOrEqual(t, uptime, (before[1]+o.Boottime).Seconds()-hundredth)
				require.LessOrEqual(t, uptime, (after[1]+o.Boottime).Seconds()+hundredth)
			}, container.WithTimeOffsets(o))
			before := time.Now()
			res, err := container.Run(timeout(t), container.WithTimeOffsets(o), container.WithCommand("true"))
			require.NoError(t, err)
			require.WithinRange(t, res.Started, before, res.Finished)
			require.WithinRange(t, res.Finished, res.Started, time.Now())
			require.Positive(t, res.SetupTime)
			require.LessOrEqual(t, res.SetupTime, time.Since(before))
			// A limit is met by the time that passes.
			res, err = container.Run(timeout(t), container.WithTimeOffsets(o), container.WithCommand("sleep", "1000"), container.WithTimeLimit(50*time.Millisecond))
			require.NoError(t, err)
			require.Equal(t, container.TimeLimit, res.Status)
			require.GreaterOrEqual(t, res.WallTime, 50*time.Millisecond)
			require.LessOrEqual(t, res.WallTime, time.Since(before))
		})
	}
}

// Clocks that are joined are the other's; the Result's figures are the host's all the same.
func TestJoinTime(t *testing.T) {
	containertest.Census(t)
	const day = 24 * time.Hour
	other := start(t, container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: 3 * day, Boottime: 5 * day}))
	join := container.WithNamespaceOf(other, namespace.Time)
	before := hostClock(t, unix.CLOCK_MONOTONIC)
	n, err := strconv.ParseInt(lines(output(t, join, self(t, clocks)))[0], 10, 64)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Duration(n), before+3*day)
	require.LessOrEqual(t, time.Duration(n), hostClock(t, unix.CLOCK_MONOTONIC)+3*day)
	begun := time.Now()
	res, err := container.Run(timeout(t), join, container.WithCommand("true"))
	require.NoError(t, err)
	require.WithinRange(t, res.Started, begun, res.Finished)
	require.WithinRange(t, res.Finished, res.Started, time.Now())
}

// A kernel without time namespaces, or without cgroup.kill, is told of, and gone on
// without where the request allows it.
func TestJoinLacks(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	defer container.Fault(nil)
	container.Fault(func(op, path string) error {
		if op == "stat" && (strings.HasSuffix(path, "/time_for_children") || strings.HasSuffix(path, "/cgroup.kill")) {
			return unix.ENOENT
		}
		return nil
	})
	clock := container.WithTimeOffsets(namespace.TimeOffsets{Boottime: time.Hour})
	fresh := container.WithNamespaces(append(namespace.Default(), namespace.Time)...)
	for option, opt := range map[string]container.Option{"WithTimeOffsets": clock, "WithNamespaces": fresh} {
		_, err := container.Run(timeout(t), opt, container.WithCommand("true"))
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		require.Equal(t, option, e.Op)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.Contains(t, e.Remedy, "CONFIG_TIME_NS")
		var out strings.Builder
		res, err := container.Run(timeout(t), container.Optional(opt), container.WithCommand("readlink", "/proc/self/ns/time"), container.WithStdout(&out))
		require.NoError(t, err)
		require.True(t, res.Success())
		require.NotEmpty(t, onlyOption(res.Dropped, option))
		own, err := os.Readlink("/proc/self/ns/time")
		require.NoError(t, err)
		require.Equal(t, own, strings.TrimSpace(out.String()))
	}
	report, err := container.Probe(timeout(t), clock)
	require.NoError(t, err)
	require.False(t, report.OK())
	require.ErrorContains(t, report.Err(), "this kernel has no time namespaces")
	require.Contains(t, report.String(), "note  time namespaces: this kernel has no")
	other := start(t)
	_, err = container.Run(timeout(t), container.WithNamespaceOf(other, namespace.PID), container.WithCommand("true"))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "nothing there ends with the container's first process")
}

// What is wrong with a namespace is said when the container starts.
func TestJoinRefused(t *testing.T) {
	containertest.Census(t)
	other := startOther(t)
	dir := t.TempDir()
	file, fifo, link := filepath.Join(dir, "file"), filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	require.NoError(t, os.Symlink("/nosuch", link))
	closed, err := os.Open(other.path(namespace.Network))
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	plain, err := os.Open(file)
	require.NoError(t, err)
	defer plain.Close() //nolint:errcheck // only read
	notStarted, err := container.New()
	require.NoError(t, err)
	gone := start(t)
	require.NoError(t, gone.Close())
	dead := start(t)
	require.NoError(t, dead.Kill())
	<-dead.Done()
	hosts := start(t, container.WithHostNamespace(namespace.Network))
	join, ofFile, of := container.WithJoinNamespace, container.WithJoinNamespaceFile, container.WithNamespaceOf
	tests := []struct {
		name  string
		opt   container.Option
		phase container.Phase
		op    string
		is    error
		text  string // a part of the error
	}{
		{"nothing there", join(namespace.Network, "/nosuch"), container.PhasePrepare, "open", os.ErrNotExist, "/proc/PID/ns/NAME"},
		{"a process that is none", join(namespace.Network, "/proc/4194304/ns/net"), container.PhasePrepare, "open", os.ErrNotExist, "/proc/PID/ns/NAME"},
		{"a link to nothing", join(namespace.IPC, link), container.PhasePrepare, "open", os.ErrNotExist, ""},
		{"below a file", join(namespace.IPC, file+"/x"), container.PhasePrepare, "open", unix.ENOTDIR, ""},
		{"a file", join(namespace.Network, file), container.PhasePrepare, "WithJoinNamespace", unix.EINVAL, "it is no namespace"},
		{"a folder", join(namespace.UTS, dir), container.PhasePrepare, "WithJoinNamespace", unix.EINVAL, "it is no namespace"},
		{"a device", join(namespace.IPC, "/dev/null"), container.PhasePrepare, "WithJoinNamespace", unix.EINVAL, "it is no namespace"},
		{"a FIFO", join(namespace.IPC, fifo), container.PhasePrepare, "WithJoinNamespace", unix.EINVAL, "it is no namespace"},
		{"a terminal", join(namespace.IPC, "/dev/ptmx"), container.PhasePrepare, "WithJoinNamespace", unix.EINVAL, "it is no namespace"},
		{"an open file", ofFile(namespace.Network, plain), container.PhasePrepare, "WithJoinNamespaceFile", unix.EINVAL, "it is no namespace"},
		{"a closed file", ofFile(namespace.Network, closed), container.PhasePrepare, "WithJoinNamespaceFile", os.ErrClosed, "must stay open"},
		{"one not started", of(notStarted, namespace.Network), container.PhasePrepare, "WithNamespaceOf", container.ErrNotStarted, "must run"},
		{"one closed", of(gone, namespace.Network), container.PhasePrepare, "WithNamespaceOf", container.ErrClosed, "must run"},
		{"one ended", of(dead, namespace.Network), container.PhasePrepare, "WithNamespaceOf", container.ErrEnded, "must run"},
		{"the user namespace of one not started", of(notStarted, namespace.User), container.PhasePrepare, "WithNamespaceOf", container.ErrNotStarted, "must run"},
		{"one that has the host's", of(hosts, namespace.Network), container.PhasePrepare, "WithNamespaceOf", unix.EINVAL, "WithHostNamespace(network)"},
		{"one with the host's clocks", of(hosts, namespace.Time), container.PhasePrepare, "WithNamespaceOf", unix.EINVAL, "WithHostNamespace(time)"},
		{"the own user namespace", join(namespace.User, "/proc/self/ns/user"), container.PhasePrepare, "WithJoinNamespace", unix.EINVAL, "it is this program's own"},
		{"a clock before zero", container.WithTimeOffsets(namespace.TimeOffsets{Boottime: -100 * 365 * 24 * time.Hour}), container.PhaseStepIn, "write", unix.ERANGE, "WithTimeOffsets"},
		{"another before zero", container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: -100 * 365 * 24 * time.Hour}), container.PhaseStepIn, "write", unix.ERANGE, "WithTimeOffsets"},
	}
	for i, k := range joinable {
		wrong := joinable[(i+1)%len(joinable)]
		tests = append(tests, struct {
			name  string
			opt   container.Option
			phase container.Phase
			op    string
			is    error
			text  string
		}{"a " + string(wrong) + " namespace", join(k, other.path(wrong)), container.PhasePrepare, "WithJoinNamespace", unix.EINVAL, fmt.Sprintf("it is a %s namespace, not %s", wrong, k)})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, err := container.Run(timeout(t), tt.opt, container.WithCommand("true"))
			require.Nil(t, res)
			var e *container.StartError
			require.ErrorAs(t, err, &e)
			require.Equal(t, tt.phase, e.Phase, "%v", err)
			require.Equal(t, tt.op, e.Op, "%v", err)
			require.ErrorIs(t, err, tt.is)
			require.ErrorContains(t, err, tt.text)
			require.NotContains(t, err.Error(), "bug")
		})
	}
	t.Run("the host's, by an ordinary user", func(t *testing.T) {
		for _, k := range []namespace.Kind{namespace.Network, namespace.UTS, namespace.IPC, namespace.Time} {
			_, err := container.Run(timeout(t), join(k, "/proc/self/ns/"+k.File()), container.WithCommand("true"))
			if os.Geteuid() == 0 {
				require.NoError(t, err, "%s", k)
				continue
			}
			var e *container.StartError
			require.ErrorAs(t, err, &e)
			require.Equal(t, container.PhaseStepIn, e.Phase)
			require.Equal(t, "setns", e.Op)
			require.ErrorIs(t, err, unix.EPERM)
			require.Contains(t, e.Remedy, "WithHostNamespace")
		}
	})
	t.Run("a user that is init's", func(t *testing.T) {
		needInit(t)
		_, err := container.Run(timeout(t), of(other.Container, namespace.User), container.WithUser(65535, 0), container.WithCommand("true"))
		require.ErrorContains(t, err, "init's own")
		_, err = container.Run(timeout(t), of(other.Container, namespace.User), container.WithUser(70000, 0), container.WithCommand("true"))
		require.ErrorContains(t, err, "not mapped")
	})
}
