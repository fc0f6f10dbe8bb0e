package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/security"
)

// hostileJob is selfJob without a seccomp profile: what it tries has to meet the
// other layers. Under the race detector it does not linger for a second after its
// end.
func hostileJob(t testing.TB, name string, args ...string) container.JobOption {
	t.Helper()
	return container.JobOptions(selfJob(t, name, args...), container.WithSeccomp(security.Unconfined()), container.WithEnv(noLinger))
}

func hostileSelf(t testing.TB, name string, args ...string) container.Option {
	t.Helper()
	return container.Options(selfMount(t), hostileJob(t, name, args...))
}

const noLinger = "GORACE=atexit_sleep_ms=0"

// safeBuffer may be read while a job writes to it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var stopJobs = register("stop jobs", func([]string) int {
	self := os.Getpid()
	fmt.Println("up")
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return 98
		}
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil && pid > 1 && pid != self {
				_ = unix.Kill(pid, unix.SIGSTOP) // gone, or not ours
			}
		}
	}
})

// A job that stops others, even on their way to execve, where init waits for
// them, holds up its own container alone, and nothing for good: Exec ends with
// its context, Close in its time.
func TestHostileStopsOthers(t *testing.T) {
	containertest.Census(t)
	c, err := container.New(selfMount(t))
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // closed below
	require.NoError(t, c.Start(timeout(t)))
	up := make(chan struct{})
	var once sync.Once
	hostile, err := c.Exec(timeout(t), hostileJob(t, stopJobs), container.WithStdout(onWrite(func() { once.Do(func() { close(up) }) })))
	require.NoError(t, err)
	<-up
	held := false
	for i := 0; i < 100 && !held; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		begun := time.Now()
		_, err := c.Exec(ctx, container.WithCommand("/usr/bin/sleep", "1000"))
		require.Less(t, time.Since(begun), 5*time.Second)
		if held = err != nil; held {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		cancel()
	}
	t.Log("a job was stopped before its execve:", held)
	require.Equal(t, "alive\n", output(t, sh("echo alive")), "another container")
	begun := time.Now()
	require.NoError(t, c.Close())
	require.Less(t, time.Since(begun), 5*time.Second)
	<-hostile.Done()
}

var forge = register(forgeName, func(args []string) int {
	code, err := strconv.Atoi(args[1])
	if err != nil {
		return 99
	}
	pid := os.Getpid()
	switch args[0] {
	case "exit":
	case "siginfo":
		// "Process pid exited with 0", as only the kernel may say it.
		info := [16]uint64{uint64(unix.SIGCHLD), uint64(cldExited), uint64(uint32(pid))}
		for range 1000 {
			if err := errnoOf(unix.RawSyscall(unix.SYS_RT_SIGQUEUEINFO, 1, uintptr(unix.SIGCHLD), uintptr(ptr(&info)))); !errors.Is(err, unix.EPERM) {
				fmt.Println("forged:", err)
				return 98
			}
			_ = queue(1, unix.SIGCHLD, siQueue) // allowed to who shares init's id
			_ = unix.Kill(1, unix.SIGCHLD)
			_ = unix.Tgkill(1, 1, unix.SIGCHLD)
		}
	case "double fork":
		// Orphans of init end with other codes before the job does.
		for i := range 30 {
			if err := exec.Command("/bin/sh", "-c", fmt.Sprintf("(exit %d) & (setsid sh -c 'exit %d' &) & exit 0", i, i+100)).Run(); err != nil {
				fmt.Println(err)
				return 98
			}
		}
	case "children stay":
		for range 5 {
			cmd := exec.Command("/usr/bin/setsid", "/bin/sh", "-c", "trap '' TERM HUP; sleep 1000; exit 77")
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Start(); err != nil {
				fmt.Println(err)
				return 98
			}
		}
	case "first thread":
		// The first thread ends; the process does with the last one.
		firstThreadEnds(func() {
			for !strings.HasPrefix(statusField(fmt.Sprintf("/proc/%d/task/%d/status", pid, pid), "State"), "Z") {
			}
			os.Exit(code)
		})
	case "traced":
		// A child traces the job and does not wait for it: nobody else is told of its
		// end while the child lives.
		cmd := exec.Command("/proc/self/exe", forgeName, "tracer", strconv.Itoa(pid))
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			_, err = io.ReadFull(out, make([]byte, 6))
		}
		if err != nil {
			return 98
		}
	case "tracer":
		runtime.LockOSThread()
		if err := unix.PtraceSeize(code); err != nil {
			fmt.Println(err)
			return 98
		}
		fmt.Println("traces")
		select {}
	case "program":
		err := unix.Exec("/bin/sh", []string{"sh", "-c", "exit " + args[1]}, os.Environ())
		fmt.Println(err)
		return 98
	}
	return code
})

const forgeName = "forge"

// firstThreadEnds ends the process's first thread and has another one go on.
func firstThreadEnds(rest func()) {
	next := make(chan struct{})
	for {
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() != os.Getpid() {
				next <- struct{}{}
				select {}
			}
			go rest()
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
		}()
		<-next // not that one: try another thread
	}
}

// A job's verdict is its own exit, whatever it makes init believe.
func TestHostileVerdict(t *testing.T) {
	containertest.Census(t)
	hosts := []container.Option{}
	if os.Geteuid() == 0 {
		hosts = append(hosts, container.WithHostNamespace(namespace.User)) // init's own id
	}
	for i, how := range []string{"exit", "siginfo", "double fork", "children stay", "first thread", "program", "traced"} {
		t.Run(how, func(t *testing.T) {
			for _, opts := range [][]container.Option{nil, hosts} {
				code := 40 + i
				var out bytes.Buffer
				begun := time.Now()
				res, err := container.Run(timeout(t), container.Options(opts...), hostileSelf(t, forge, how, strconv.Itoa(code)), container.WithStdout(&out))
				require.NoError(t, err)
				require.Equal(t, container.Exited, res.Status, "%v %s", res, out.String())
				require.Equal(t, code, res.ExitCode, "%v %s", res, out.String())
				require.Less(t, time.Since(begun), 10*time.Second)
				c := start(t, append(opts, selfMount(t))...)
				require.Equal(t, code, execCode(t, c, hostileJob(t, forge, how, strconv.Itoa(code))))
				require.Equal(t, 3, execCode(t, c, sh("exit 3")))
			}
		})
	}
}

var flood = register("flood", func(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 99
	}
	fmt.Println("up")
	for range n {
		_ = unix.Kill(1, unix.SIGCHLD) // EPERM, unless it shares init's id
		_ = unix.Tgkill(1, 1, unix.SIGCHLD)
		_ = queue(1, unix.SIGCHLD, siQueue)
		_ = queue(1, 34, siQueue) // a queue of these grows, up to RLIMIT_SIGPENDING
		_ = queue(1, 64, siQueue)
	}
	return 9
})

// A flood of signals to init neither loses an end nor changes one.
func TestHostileSignalFlood(t *testing.T) {
	containertest.Census(t)
	opts := []container.Option{selfMount(t)}
	if os.Geteuid() == 0 {
		opts = append(opts, container.WithHostNamespace(namespace.User)) // init's own id: the signals arrive
	}
	c := start(t, opts...)
	var floods []*container.Process
	for range 2 {
		up := make(chan struct{})
		var once sync.Once
		p, err := c.Exec(timeout(t), hostileJob(t, flood, "50000"), container.WithStdout(onWrite(func() { once.Do(func() { close(up) }) })))
		require.NoError(t, err)
		<-up
		floods = append(floods, p)
	}
	for i := range 50 {
		require.Equal(t, i, execCode(t, c, sh(fmt.Sprintf("exit %d", i))))
	}
	for _, p := range floods {
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.Exited, res.Status)
		require.Equal(t, 9, res.ExitCode)
	}
	res, err := container.Run(timeout(t), container.Options(opts...), container.Options(hostileJob(t, flood, "20000")))
	require.NoError(t, err)
	require.Equal(t, container.Exited, res.Status)
	require.Equal(t, 9, res.ExitCode)
}

var listFiles = register("list files", func([]string) int {
	for fd := range 4096 {
		buf := make([]byte, 4096)
		if n, err := unix.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd), buf); err == nil {
			fmt.Println(fd, string(buf[:n]))
		}
	}
	fmt.Println("end")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
})

// Containers of one program that start and run at the same time see nothing of
// each other's descriptors, and hold none of them open.
func TestHostileDescriptors(t *testing.T) {
	containertest.Census(t)
	const n = 32
	type one struct {
		c    *container.Container
		feed *io.PipeWriter
		out  bytes.Buffer
		end  chan struct{}
		err  error
	}
	list := make([]*one, n)
	var wg sync.WaitGroup
	for i := range list {
		in, feed := io.Pipe()
		o := &one{feed: feed, end: make(chan struct{})}
		list[i] = o
		var once sync.Once
		var err error
		o.c, err = container.New(hostileSelf(t, listFiles), container.WithStdin(in), container.WithStderr(io.Discard),
			container.WithStdout(io.MultiWriter(&o.out, onWrite(func() {
				if bytes.HasSuffix(o.out.Bytes(), []byte("end\n")) {
					once.Do(func() { close(o.end) })
				}
			}))))
		require.NoError(t, err)
		defer o.c.Close() //nolint:errcheck // closed below
		ctx := timeout(t)
		wg.Go(func() { o.err = o.c.Start(ctx) })
	}
	wg.Wait()
	seen := map[string]int{}
	for i, o := range list {
		require.NoError(t, o.err)
		select {
		case <-o.end:
		case <-timeout(t).Done():
			require.FailNow(t, "no list of descriptors")
		}
		files := lines(o.out.String())
		require.Len(t, files, 4, "%v: three pipes and the end", files)
		for fd, l := range files[:3] {
			number, to, _ := strings.Cut(l, " ")
			require.Equal(t, strconv.Itoa(fd), number)
			require.Regexp(t, `^pipe:\[\d+\]$`, to)
			other, there := seen[to]
			require.False(t, there, "%s is in containers %d and %d", to, i, other)
			seen[to] = i
		}
		if os.Geteuid() == 0 {
			initHolds(t, o.c.PID())
		}
	}
	// All of them run: a short job's pipe has nobody else who holds it.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close() //nolint:errcheck // only read
	res, err := container.Run(timeout(t), sh("echo short"), container.WithStdout(w))
	require.NoError(t, err)
	require.True(t, res.Success())
	require.NoError(t, w.Close())
	require.NoError(t, r.SetReadDeadline(time.Now().Add(10*time.Second)))
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "short\n", string(text))
	for _, o := range list {
		require.Equal(t, container.StateRunning, o.c.State())
		require.NoError(t, o.feed.Close())
	}
	for _, o := range list {
		res, err := o.c.Wait(timeout(t)) // its input ended, though the others still ran
		require.NoError(t, err)
		require.True(t, res.Success(), "%v", res)
		require.NoError(t, o.c.Close())
	}
}

// initHolds checks that init has its socket, its signalfd and three times
// /dev/null.
func initHolds(t *testing.T, pid int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var got []string
	for _, e := range entries {
		to, err := os.Readlink(dir + e.Name())
		require.NoError(t, err)
		kind, _, _ := strings.Cut(to, ":[")
		got = append(got, e.Name()+" "+strings.TrimSuffix(to, to[len(kind):]))
	}
	require.Equal(t, []string{"0 /dev/null", "1 /dev/null", "2 /dev/null", "3 socket", "4 anon_inode"}, got)
}
