package container_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// needGroups skips where this host does not let the test limit these by groups.
func needGroups(t testing.TB, controllers ...string) {
	t.Helper()
	needContainers(t)
	if containertest.Groups(t) == nil {
		t.Skip("needs cgroups that it may make")
	}
	for _, c := range controllers {
		if !groupsOf(t, c) {
			t.Skipf("needs cgroups of %s that it may make", c)
		}
	}
}

// ownTop is a group below which the test itself may make some.
func ownTop(t testing.TB) *cgroup.Group {
	t.Helper()
	top, err := cgroup.Nearest()
	if err != nil {
		t.Skipf("needs cgroups that it may make itself: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, top.Close()) })
	return top
}

// consume is what jobs do to meet limits.
const consumeName = "consume"

var _ = register(consumeName, func(args []string) int {
	n := int64(0)
	if len(args) > 1 {
		v, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil && args[0] != "flood" {
			return 2
		}
		n = v
	}
	switch args[0] {
	case "anon":
		touch(n)
	case "anon in a child":
		exe, err := os.Executable()
		if err != nil {
			return 2
		}
		cmd := exec.Command(exe, consumeName, "anon", args[1])
		_ = cmd.Run() // killed
		fmt.Println("survived")
		return 7
	case "shmem":
		return fill("/dev/shm/x", n)
	case "tmpfs":
		return fill("/tmp/x", n)
	case "spin":
		for begin := cpuOfSelf(); cpuOfSelf()-begin < time.Duration(n); {
		}
	case "spin in threads":
		for range 2 {
			go burn()
		}
		select {}
	case "allocate, then spin":
		touch(n)
		burn()
	case "spin, then allocate":
		for begin := cpuOfSelf(); cpuOfSelf()-begin < time.Duration(n); {
		}
		touch(64 << 20)
	case "spin and allocate slowly":
		go burn()
		for range n >> 20 {
			more = append(more, make([]byte, 1<<20))
			for i := 0; i < 1<<20; i += 4096 {
				more[len(more)-1][i] = 1
			}
			for begin := cpuOfSelf(); cpuOfSelf()-begin < time.Millisecond; {
			}
		}
		select {}
	case "orphans":
		return orphans(n)
	case "fork bomb":
		// Bounded from inside as well.
		started := 0
		for range n {
			if exec.Command("/bin/sleep", "1000").Start() != nil {
				break
			}
			started++
		}
		fmt.Println(started)
		<-time.After(time.Hour)
	case "flood":
		return floodOutput(args[1])
	case "direct", "buffered":
		return writeTimed(n, args[0] == "direct")
	case "self kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		<-time.After(time.Hour)
	}
	return 0
})

var (
	kept []byte
	more [][]byte
)

// burn uses a processor for ever.
func burn() {
	for n := 0; n >= 0; n &= 1 << 20 {
		n++
	}
}

// touch takes n bytes and writes to every page of them; not of the Go heap, which takes
// twice as much under the race detector.
func touch(n int64) {
	if n == 0 {
		return
	}
	var err error
	if kept, err = unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	for i := 0; i < len(kept); i += 4096 {
		kept[i] = 1
	}
}

func fill(name string, n int64) int {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Println(err)
		return 3
	}
	block := make([]byte, 1<<20)
	for range n >> 20 {
		if _, err := f.Write(block); err != nil {
			fmt.Println(err)
			return 4
		}
	}
	return 0
}

func cpuOfSelf() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// orphans starts children that burn n nanoseconds each, and waits for none: they
// end before it does, by a pipe that they hold.
func orphans(n int64) int {
	r, w, err := os.Pipe()
	if err != nil {
		return 2
	}
	for range 2 {
		cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("/run/test %s spin %d </dev/null >/dev/null 2>&1 & exit", consumeName, n))
		cmd.ExtraFiles = []*os.File{w}
		if cmd.Start() != nil {
			return 3
		}
	}
	if w.Close() != nil {
		return 4
	}
	_, _ = io.ReadAll(r)
	return 0
}

// floodOutput writes without end, and counts in a file that others see.
func floodOutput(counter string) int {
	f, err := os.OpenFile(counter, os.O_RDWR, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	total, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 3
	}
	block := bytes.Repeat([]byte("x"), 512)
	for sum := uint64(0); ; {
		n, err := unix.Write(1+int(sum/512)%2, block) // stdout and stderr by turns
		if err != nil {
			return 4
		}
		sum += uint64(n)
		binary.NativeEndian.PutUint64(total, sum)
	}
}

// writeTimed writes n bytes to the disk in blocks of 256 KiB and prints how long it
// took.
func writeTimed(n int64, direct bool) int {
	flags := unix.O_CREAT | unix.O_TRUNC | unix.O_WRONLY
	if direct {
		flags |= unix.O_DIRECT
	}
	fd, err := unix.Open("/data/written", flags, 0o600)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	block, err := unix.Mmap(-1, 0, 256<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 3
	}
	begun := time.Now()
	for range n >> 18 {
		if _, err := unix.Write(fd, block); err != nil {
			fmt.Println(err)
			return 4
		}
	}
	if err := unix.Fsync(fd); err != nil {
		fmt.Println(err)
		return 5
	}
	fmt.Println(time.Since(begun).Nanoseconds())
	return 0
}

// consuming is a job of the test binary.
func consuming(t testing.TB, args ...string) container.JobOption {
	t.Helper()
	return selfJob(t, consumeName, args...)
}

// data is a folder on a disk that jobs may write to.
func data(t testing.TB) (container.Option, string) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "inlay-test-") //nolint:usetesting // TMPDIR may be in memory
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o777))
	return container.WithMounts(rootfs.Bind(dir, "/data")), dir
}

// asJob runs a test with the limits on the main job of Run, on that of a
// container that is started, and on a job of Exec.
func asJob(t *testing.T, shared []container.Option, f func(t *testing.T, run func(opts ...container.JobOption) *container.Result)) {
	t.Helper()
	shared = append(shared, selfMount(t))
	t.Run("Run", func(t *testing.T) {
		f(t, func(opts ...container.JobOption) *container.Result {
			t.Helper()
			res, err := container.Run(timeout(t), append(asOptions(opts), shared...)...)
			require.NoError(t, err)
			return res
		})
	})
	t.Run("Start", func(t *testing.T) {
		f(t, func(opts ...container.JobOption) *container.Result {
			t.Helper()
			c := start(t, append(asOptions(opts), shared...)...)
			res, err := c.Wait(timeout(t))
			require.NoError(t, err)
			require.NoError(t, c.Close())
			return res
		})
	})
	t.Run("Exec", func(t *testing.T) {
		c := start(t, shared...)
		f(t, func(opts ...container.JobOption) *container.Result {
			t.Helper()
			p, err := c.Exec(timeout(t), opts...)
			require.NoError(t, err)
			res, err := p.Wait(timeout(t))
			require.NoError(t, err)
			return res
		})
		require.NoError(t, c.Close())
	})
}

// 64 MiB under 32 MiB: what is nobody's to take back is the end of the job; what
// lies in the page cache is taken back.
func TestMemoryLimit(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory")
	bind, _ := data(t)
	const big = "67108864"
	for _, tt := range []struct {
		what   string
		status container.Status
	}{
		{"anon", container.MemoryLimit},
		{"anon in a child", container.MemoryLimit},
		{"shmem", container.MemoryLimit},
		{"tmpfs", container.MemoryLimit},
		{"cache", container.Exited},
	} {
		t.Run(tt.what, func(t *testing.T) {
			var out bytes.Buffer
			asJob(t, []container.Option{bind, container.WithMounts(rootfs.Tmpfs("/tmp", rootfs.Size(128<<20)), rootfs.Tmpfs("/dev/shm", rootfs.Size(128<<20)))},
				func(t *testing.T, run func(...container.JobOption) *container.Result) {
					t.Helper()
					out.Reset()
					job := consuming(t, tt.what, big)
					if tt.what == "cache" { // a small program: what it keeps for itself is looked at
						job = sh("rm -f /data/x; head -c " + big + " /dev/zero >/data/x")
					}
					res := run(job, container.WithMemoryLimit(32<<20), container.WithStdout(&out))
					require.Equal(t, tt.status, res.Status, "%v %v %s", res, res.Notes, out.String())
					require.LessOrEqual(t, res.MemoryPeak, int64(32<<20))
					if slices.Contains([]string{"memory.peak", "memory.max_usage_in_bytes"}, res.MemorySource) { // else it is sampled
						require.Greater(t, res.MemoryPeak, int64(16<<20))
					}
					require.Positive(t, res.MemoryPeak)
					if tt.status == container.MemoryLimit {
						require.Equal(t, syscall.SIGKILL, res.Signal)
						require.Equal(t, container.MemoryLimit, res.Causes[0].Status)
						require.NotContains(t, out.String(), "survived")
						require.Contains(t, res.String(), "memory limit")
					} else {
						require.Zero(t, res.ExitCode, out.String())
						require.Less(t, res.AnonPeak, int64(16<<20), "files written are not the job's memory; init's own counts up to execve")
					}
				})
		})
	}
}

// With the group's end off, a job outlives what its child is killed for.
func TestOOMGroupOff(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory")
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		var out bytes.Buffer
		res := run(consuming(t, "anon in a child", "67108864"), container.WithMemoryLimit(32<<20), container.WithOOMGroup(false), container.WithStdout(&out))
		require.Equal(t, container.Exited, res.Status, "%v", res)
		require.Equal(t, 7, res.ExitCode)
		require.Equal(t, "survived\n", out.String())
		require.Contains(t, strings.Join(res.Notes, "\n"), "1 processes were killed for want of memory")
		res = run(consuming(t, "anon", "67108864"), container.WithMemoryLimit(32<<20), container.WithOOMGroup(false))
		require.Equal(t, container.MemoryLimit, res.Status)
	})
}

// What only looks like want of memory is not called so.
func TestNotOutOfMemory(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory")
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		res := run(consuming(t, "self kill"), container.WithMemoryLimit(64<<20))
		require.Equal(t, container.Signaled, res.Status)
		require.Equal(t, syscall.SIGKILL, res.Signal)
		res = run(sh("exit 137"), container.WithMemoryLimit(64<<20))
		require.Equal(t, container.Exited, res.Status)
		require.Equal(t, 137, res.ExitCode)
	})
}

// A limit of one MiB is enough for a small program.
func TestSmallestMemoryLimit(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory")
	c := start(t)
	for range 3 {
		p, err := c.Exec(timeout(t), container.WithCommand("/bin/true"), container.WithMemoryLimit(cgroup.MinMemory))
		require.NoError(t, err)
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.True(t, res.Success(), "%v", res)
	}
	res, err := container.Run(timeout(t), container.WithCommand("/bin/true"), container.WithMemoryLimit(cgroup.MinMemory))
	require.NoError(t, err)
	require.True(t, res.Success(), "%v", res)
}

func TestPidsLimit(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "pids")
	var out lockedBuffer
	c := start(t, selfMount(t), consuming(t, "fork bomb", "200"), container.WithPidsLimit(32), container.WithStdout(&out))
	require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "\n") }, 20*time.Second, time.Millisecond)
	started, err := strconv.Atoi(strings.TrimSpace(out.String()))
	require.NoError(t, err)
	require.Less(t, started, 32)
	require.Greater(t, started, 10, "the Go runtime has some threads")
	stats, err := c.Stats(timeout(t))
	require.NoError(t, err)
	require.LessOrEqual(t, stats.Pids.Now, int64(32))
	require.Positive(t, stats.Pids.LimitHits)
	require.NoError(t, c.Close())
	res, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Killed, res.Status, "no verdict of its own")
	require.Contains(t, strings.Join(res.Notes, "\n"), "the limit of processes was met")
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A quarter of a processor over forty periods.
func TestCPULimit(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "cpu")
	const wall = 4 * time.Second
	var all sync.WaitGroup
	begun, idle := time.Now(), idleTime(t)
	var shares [2]float64
	for i, how := range []string{"Run", "Exec"} {
		all.Go(func() {
			opts := []container.JobOption{consuming(t, "spin in threads"), container.WithCPULimit(0.25), container.WithTimeLimit(wall)}
			var res *container.Result
			if how == "Run" {
				r, err := container.Run(timeout(t), append(asOptions(opts), selfMount(t))...)
				if err != nil {
					t.Error(err)
					return
				}
				res = r
			} else {
				c := start(t, selfMount(t))
				p, err := c.Exec(timeout(t), opts...)
				if err != nil {
					t.Error(err)
					return
				}
				if res, err = p.Wait(timeout(t)); err != nil {
					t.Error(err)
					return
				}
			}
			share := float64(res.CPUTime()) / float64(res.WallTime)
			shares[i] = share
			t.Logf("%s: %.3f of a processor, throttled for %v: %v", how, share, res.ThrottledTime, res)
			if share > 0.25*1.05+0.005 { // the last period may have begun
				t.Errorf("%s: %.3f of a processor", how, share)
			}
			// On a machine that gives it less the limit has nothing to do.
			if res.Status != container.TimeLimit || share > 0.25*0.9 && res.ThrottledTime <= 0 {
				t.Errorf("%s: %v, throttled for %v", how, res, res.ThrottledTime)
			}
		})
	}
	all.Wait()
	// Where a third of the machine had nothing to do all the time, nothing but the
	// limit held them back.
	free := float64(idleTime(t)-idle) / float64(time.Since(begun)) / float64(runtime.NumCPU())
	t.Logf("%.0f %% of the machine idle", 100*free)
	if free > 1.0/3 {
		for _, share := range shares {
			require.Greater(t, share, 0.25*0.95)
		}
	}
}

// idleTime is how long all processors together had nothing to do: proc_stat(5).
func idleTime(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	require.NoError(t, err)
	f := strings.Fields(strings.SplitN(string(text), "\n", 2)[0])
	require.Greater(t, len(f), 4)
	ticks, err := strconv.ParseInt(f[4], 10, 64)
	require.NoError(t, err)
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

// Two on one processor, with weights 1 and 3.
func TestCPUWeight(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "cpu", "cpuset")
	var used [2]time.Duration
	var all sync.WaitGroup
	var started []*container.Container
	for i, weight := range []uint64{100, 300} {
		started = append(started, start(t, selfMount(t), consuming(t, "spin in threads"), container.WithCPUWeight(weight), container.WithCPUSet("0")))
		_ = i
	}
	before := make([]time.Duration, 2)
	for i, c := range started {
		s, err := c.Stats(timeout(t))
		require.NoError(t, err)
		before[i] = s.CPU.Total
	}
	begun := time.Now()
	// Until both together have used two seconds: however busy the machine is.
	for time.Since(begun) < 30*time.Second {
		sum := time.Duration(0)
		for i, c := range started {
			s, err := c.Stats(timeout(t))
			require.NoError(t, err)
			used[i] = s.CPU.Total - before[i]
			sum += used[i]
		}
		if sum > 3*time.Second {
			break
		}
		<-time.After(10 * time.Millisecond) // how often it is looked at, no more
	}
	all.Wait()
	ratio := float64(used[1]) / float64(used[0])
	t.Logf("%v and %v: %.2f", used[0], used[1], ratio)
	require.InDelta(t, 3, ratio, 0.3)
}

// Five MiB at two MiB a second, past the page cache.
func TestIOLimit(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "io")
	const size = 8 << 20
	for _, tt := range []struct {
		how   string
		limit cgroup.IOLimit
		rate  float64 // bytes a second
		least float64 // of it
	}{
		{"direct", cgroup.IOLimit{WriteBPS: 4 << 20}, 4 << 20, 0.85},
		// Less: what the file system writes itself counts too, and a block may be split.
		{"direct", cgroup.IOLimit{WriteIOPS: 16}, 16 * 256 << 10, 0.4},
		{"buffered", cgroup.IOLimit{WriteBPS: 4 << 20}, 4 << 20, 0.85},
	} {
		if tt.how == "buffered" && !isV2() {
			continue // v1 does not know whose pages it writes back
		}
		// Never faster; slower where the machine has something else to do, so one of
		// three has to be as fast as it may.
		best := 0.0
		for range 3 {
			// A file of its own: writes back to one are charged to who wrote it first.
			bind, dir := data(t)
			tt.limit.Device = dir
			var out bytes.Buffer
			res, err := container.Run(timeout(t), selfMount(t), bind, consuming(t, tt.how, strconv.Itoa(size)), container.WithIOLimit(tt.limit), container.WithStdout(&out))
			require.NoError(t, err)
			if strings.Contains(out.String(), "invalid argument") {
				t.Skip("needs direct writes: the file system of " + dir + " has none")
			}
			require.NoError(t, res.Err(), out.String())
			ns, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
			require.NoError(t, err)
			got := size / (float64(ns) / 1e9)
			t.Logf("%s under %+v: %.2f MiB/s", tt.how, tt.limit, got/(1<<20))
			require.Less(t, got, tt.rate*1.15)
			require.GreaterOrEqual(t, res.WriteBytes, int64(size))
			if best = max(best, got); best > tt.rate*tt.least {
				break
			}
		}
		require.Greater(t, best, tt.rate*tt.least)
	}
}

// What is over the limit of output is little, and what is below is delivered.
func TestOutputLimit(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	bind, dir := data(t)
	for _, limit := range []int64{0, 1, 1000, 100_000, 1 << 20} {
		asJob(t, []container.Option{bind}, func(t *testing.T, run func(...container.JobOption) *container.Result) {
			t.Helper()
			counter := filepath.Join(dir, "counter")
			require.NoError(t, os.WriteFile(counter, make([]byte, 8), 0o666))
			require.NoError(t, os.Chmod(counter, 0o666))
			var out, errs bytes.Buffer
			res := run(consuming(t, "flood", "/data/counter"), container.WithOutputLimit(limit), container.WithStdout(&out), container.WithStderr(&errs))
			require.Equal(t, container.OutputLimit, res.Status, "%v %s", res, errs.String())
			require.Equal(t, limit, int64(out.Len()+errs.Len()))
			require.Equal(t, limit, res.StdoutBytes+res.StderrBytes)
			b, err := os.ReadFile(counter)
			require.NoError(t, err)
			require.LessOrEqual(t, int64(binary.NativeEndian.Uint64(b)), limit+64<<10, "two pipes of 16 KiB and what was read last of each")
		})
	}
	// To one writer there is one pipe.
	counter := filepath.Join(dir, "counter")
	require.NoError(t, os.WriteFile(counter, make([]byte, 8), 0o666))
	var out bytes.Buffer
	res, err := container.Run(timeout(t), selfMount(t), bind, consuming(t, "flood", "/data/counter"), container.WithOutputLimit(5000), container.WithStdout(&out), container.WithStderr(&out))
	require.NoError(t, err)
	require.Equal(t, container.OutputLimit, res.Status)
	require.Equal(t, 5000, out.Len())
	b, err := os.ReadFile(counter)
	require.NoError(t, err)
	require.LessOrEqual(t, binary.NativeEndian.Uint64(b), uint64(5000+64<<10))
	// Exactly at the limit is within it; a file counts as well.
	f, err := os.OpenFile(filepath.Join(dir, "out"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // it is read again by its name
	res, err = container.Run(timeout(t), sh("printf 12345"), container.WithOutputLimit(5), container.WithStdout(f))
	require.NoError(t, err)
	require.True(t, res.Success(), "%v", res)
	res, err = container.Run(timeout(t), sh("printf 123456"), container.WithOutputLimit(5), container.WithStdout(f))
	require.NoError(t, err)
	require.Equal(t, container.OutputLimit, res.Status)
	text, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.Equal(t, "1234512345", string(text))
	// So does what goes to a pipe or to a device of this program's own.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	piped := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(r) // what there is
		piped <- b
	}()
	res, err = container.Run(timeout(t), sh("head -c 1000000 /dev/zero"), container.WithOutputLimit(1000), container.WithStdout(w))
	require.NoError(t, errors.Join(err, w.Close()))
	require.Len(t, <-piped, 1000)
	require.NoError(t, r.Close())
	require.Equal(t, container.OutputLimit, res.Status, "%v", res)
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	require.NoError(t, err)
	res, err = container.Run(timeout(t), sh("head -c 1000000 /dev/zero >&2"), container.WithOutputLimit(1000), container.WithStderr(null))
	require.NoError(t, errors.Join(err, null.Close()))
	require.Equal(t, container.OutputLimit, res.Status, "%v", res)
	require.EqualValues(t, 1000, res.StderrBytes)
}

func TestCPUTimeLimit(t *testing.T) {
	containertest.Census(t)
	needGroups(t)
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		res := run(consuming(t, "spin in threads"), container.WithCPUTimeLimit(200*time.Millisecond), container.WithTimeLimit(30*time.Second))
		require.Equal(t, container.CPUTimeLimit, res.Status, "%v", res)
		require.GreaterOrEqual(t, res.CPUTime(), 200*time.Millisecond)
		require.Equal(t, syscall.SIGKILL, res.Signal)
		// A job that waits uses nothing.
		res = run(sh("sleep 0.3"), container.WithCPUTimeLimit(200*time.Millisecond))
		require.True(t, res.Success(), "%v", res)
		// The whole tree counts, orphans that nobody waits for as well.
		res = run(consuming(t, "orphans", strconv.Itoa(int(time.Second))), container.WithCPUTimeLimit(300*time.Millisecond), container.WithTimeLimit(30*time.Second))
		require.Equal(t, container.CPUTimeLimit, res.Status, "%v", res)
	})
}

func TestIdleLimit(t *testing.T) {
	containertest.Census(t)
	needGroups(t)
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		res := run(sh("sleep 1000"), container.WithIdleLimit(200*time.Millisecond))
		require.Equal(t, container.IdleLimit, res.Status, "%v", res)
		require.GreaterOrEqual(t, res.WallTime, 200*time.Millisecond)
		var out bytes.Buffer
		res = run(sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; echo; done"), container.WithIdleLimit(700*time.Millisecond), container.WithStdout(&out))
		require.True(t, res.Success(), "%v", res)
		res = run(consuming(t, "spin", strconv.Itoa(int(500*time.Millisecond))), container.WithIdleLimit(300*time.Millisecond))
		require.True(t, res.Success(), "%v", res)
	})
}

// Processor time adds up over processes, dead children and orphans.
func TestCPUTimeOfTheTree(t *testing.T) {
	containertest.Census(t)
	needGroups(t)
	res, err := container.Run(timeout(t), selfMount(t), consuming(t, "orphans", strconv.Itoa(int(200*time.Millisecond))))
	require.NoError(t, err)
	require.True(t, res.Success(), "%v", res)
	require.GreaterOrEqual(t, res.CPUTime(), 400*time.Millisecond)
	require.Less(t, res.CPUTime(), 2*time.Second, "and little else")
}

// A job sees itself at the root of every hierarchy; init is in none of its groups.
func TestGroupsFromInside(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		t.Helper()
		for _, l := range lines(run(cat("/proc/self/cgroup"))) {
			require.True(t, strings.HasSuffix(l, ":/"), l)
		}
	})
	needGroups(t, "memory")
	c := start(t)
	s, err := c.Stats(timeout(t))
	require.NoError(t, err)
	require.Zero(t, s.Memory.Now, "init is not charged")
	require.Zero(t, max(0, s.Pids.Now))
	require.LessOrEqual(t, s.CPU.Total, time.Duration(0))
	p, err := c.Exec(timeout(t), container.WithCommand("/bin/true"))
	require.NoError(t, err)
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	s, err = c.Stats(timeout(t))
	require.NoError(t, err)
	require.Positive(t, s.CPU.Total)
}

func TestPauseAndResume(t *testing.T) {
	containertest.Census(t)
	needGroups(t)
	for _, end := range []string{"resume", "kill", "close", "time limit"} {
		t.Run(end, func(t *testing.T) {
			opts := []container.Option{selfMount(t), consuming(t, "spin in threads")}
			if end == "time limit" {
				opts = append(opts, container.WithTimeLimit(500*time.Millisecond))
			}
			c := start(t, opts...)
			ctx := timeout(t)
			require.NoError(t, c.Pause(ctx))
			require.NoError(t, c.Pause(ctx), "a second time is no error")
			require.Equal(t, container.StatePaused, c.State())
			before, err := c.Stats(ctx)
			require.NoError(t, err)
			<-time.After(50 * time.Millisecond) // while nothing happens
			after, err := c.Stats(ctx)
			require.NoError(t, err)
			require.Less(t, after.CPU.Total-before.CPU.Total, 5*time.Millisecond, "of 50: what was used before may be counted late")
			switch end {
			case "resume":
				require.NoError(t, c.Resume(ctx))
				require.Equal(t, container.StateRunning, c.State())
				require.Eventually(t, func() bool {
					s, err := c.Stats(ctx)
					return err == nil && s.CPU.Total > after.CPU.Total
				}, 10*time.Second, time.Millisecond)
			case "kill":
				require.NoError(t, c.Kill())
				res, err := c.Wait(ctx)
				require.NoError(t, err)
				require.Equal(t, container.Killed, res.Status)
			case "time limit":
				res, err := c.Wait(ctx)
				require.NoError(t, err)
				require.Equal(t, container.TimeLimit, res.Status)
			}
			require.NoError(t, c.Close())
		})
	}
}

func TestUpdate(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory", "pids", "cpu")
	ctx := timeout(t)
	var out lockedBuffer
	c := start(t, selfMount(t), sh("x=$(head -c 50000000 /dev/zero | tr '\\0' x); echo ready; sleep 1000; echo $x >/dev/null"), container.WithStdout(&out), container.WithMemoryLimit(512<<20))
	require.Eventually(t, func() bool { return out.String() != "" }, 30*time.Second, time.Millisecond)
	require.ErrorIs(t, c.Update(ctx, container.WithMemoryLimit(8<<20)), unix.EBUSY, "it is in use")
	require.NoError(t, c.Update(ctx, container.WithMemoryLimit(400<<20)))
	require.NoError(t, c.Update(ctx, container.WithPidsLimit(50), container.WithCPULimit(0.5)), "a limit of processors, where there was none")
	var fault *container.OptionError
	require.ErrorAs(t, c.Update(ctx, container.WithHostname("x")), &fault)
	require.ErrorAs(t, c.Update(ctx, container.WithPidsLimit(-1)), &fault)
	p, err := c.Exec(ctx, consuming(t, "spin in threads"), container.WithTimeLimit(time.Second), container.WithPidsLimit(40))
	require.NoError(t, err)
	res, err := p.Wait(ctx)
	require.NoError(t, err)
	require.Less(t, res.CPUTime(), 650*time.Millisecond, "the container's limit holds for what comes later")
	require.NoError(t, c.Close())
}

func TestEvents(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, sh("sleep 1000"))
	ctx := timeout(t)
	var kinds []string
	read := make(chan struct{})
	go func() {
		defer close(read)
		for e := range c.Events(ctx) {
			kinds = append(kinds, string(e.Kind))
		}
	}()
	p, err := c.Exec(ctx, sh("exit 3"))
	require.NoError(t, err)
	_, err = p.Wait(ctx)
	require.NoError(t, err)
	p, err = c.Exec(ctx, sh("sleep 1000"), container.WithTimeLimit(10*time.Millisecond))
	require.NoError(t, err)
	_, err = p.Wait(ctx)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	<-read
	require.Equal(t, []string{"started", "exec", "exited", "exec", "limit", "exited", "exited", "closed"}, kinds)
	// Whoever comes late hears all; whoever stops, stops.
	n := 0
	for e := range c.Events(context.Background()) {
		n++
		if n == 3 {
			require.Equal(t, 3, e.Result.ExitCode)
			break
		}
	}
	require.Equal(t, 3, n)
}

func TestStatsAndWatch(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory", "pids")
	ctx := timeout(t)
	c := start(t, selfMount(t), consuming(t, "spin", strconv.Itoa(int(300*time.Millisecond))))
	var last *container.Stats
	n := 0
	for s, err := range c.Watch(ctx, 20*time.Millisecond) {
		require.NoError(t, err)
		if last != nil {
			require.GreaterOrEqual(t, s.CPU.Total, last.CPU.Total)
		}
		last = s
		n++
	}
	require.Greater(t, n, 2)
	require.GreaterOrEqual(t, last.CPU.Total, 300*time.Millisecond)
	require.NoError(t, c.Close())
	s, err := c.Stats(ctx)
	require.NoError(t, err, "after the end they are the last ones")
	require.GreaterOrEqual(t, s.CPU.Total, last.CPU.Total)
}

// Whichever operation on groups fails, the start says so and leaves nothing.
func TestGroupFaults(t *testing.T) {
	needGroups(t, "memory", "pids", "cpu")
	_ = output(t, sh("true")) // makes what a program has once
	containertest.Census(t)
	var n, failing atomic.Int64
	var what atomic.Value
	hook := func(op, path string) error {
		if n.Add(1) == failing.Load() {
			what.Store(op + " " + path)
			return unix.EIO
		}
		return nil
	}
	container.Fault(hook)
	defer container.Fault(nil)
	limits := []container.Option{container.WithMemoryLimit(64 << 20), container.WithCPULimit(1), container.WithPidsLimit(50)}
	failed := 0
	for once := range 2 {
		for i := int64(1); i < 100; i++ {
			n.Store(0)
			failing.Store(i)
			var err error
			var res *container.Result
			if once == 1 {
				res, err = container.Run(timeout(t), append(limits, sh("true"))...)
			} else {
				var c *container.Container
				c, err = container.New(append(limits, sh("true"))...)
				require.NoError(t, err)
				if err = c.Start(timeout(t)); err == nil {
					res, err = c.Wait(timeout(t))
				}
				require.NoError(t, c.Close())
			}
			if n.Load() < i { // that many there are
				require.NoError(t, err)
				require.True(t, res.Success(), "%v", res)
				break
			}
			if err == nil {
				t.Logf("%v: not needed for the start", what.Load())
				continue
			}
			failed++
			require.ErrorIs(t, err, unix.EIO, "%v", what.Load())
			var e *container.StartError
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Path)
		}
	}
	require.Greater(t, failed, 10)
}

// Jobs are on the processors that were asked for and stay there, whatever they ask for
// themselves: the main job, jobs of Exec, and those that come after Update.
func TestCPUSet(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "cpuset")
	if runtime.NumCPU() < 2 {
		t.Skip("needs another machine: this one has one processor")
	}
	where := func(c *container.Container, opts ...container.JobOption) string {
		t.Helper()
		var out bytes.Buffer
		p, err := c.Exec(timeout(t), append(opts, selfJob(t, widenProcessors), container.WithStdout(&out), container.WithStderr(&out))...)
		require.NoError(t, err)
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.NoError(t, res.Err(), out.String())
		return out.String()
	}
	require.Equal(t, "0\n0\n", output(t, selfMount(t), selfJob(t, widenProcessors), container.WithCPUSet("0")))

	c := running(t, selfMount(t))
	require.Equal(t, "0-1\n0-1\n", where(c))
	if isV2() { // v1 takes no processors away that groups below have
		require.NoError(t, c.Update(timeout(t), container.WithCPUSet("0")))
		require.Equal(t, "0\n0\n", where(c))
		require.NoError(t, c.Update(timeout(t), container.WithCPUSet("0-1")))
		require.Equal(t, "0-1\n0-1\n", where(c))
	}
	require.Equal(t, "1\n1\n", where(c, container.WithCPUSet("1")))
}

func saying(err error) int {
	fmt.Println(err)
	return 1
}

const widenProcessors = "widen processors"

// Prints the processors that it may use, asks for all, and prints them again.
var _ = register(widenProcessors, func([]string) int {
	for range 2 {
		status, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			return saying(err)
		}
		_, list, _ := strings.Cut(string(status), "Cpus_allowed_list:\t")
		list, _, _ = strings.Cut(list, "\n")
		fmt.Println(list)
		runtime.LockOSThread()
		var all unix.CPUSet
		for i := range all {
			all[i] = ^all[i]
		}
		if err := unix.SchedSetaffinity(0, &all); err != nil {
			return saying(err)
		}
	}
	return 0
})
