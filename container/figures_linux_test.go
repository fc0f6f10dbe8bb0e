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
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// holders is a job of several processes: each writes a file, unless it is of 0
// bytes, and touches memory; all hold it at the same time for a while.
var holders = register("holders", func(args []string) int {
	number := func(i int) int64 {
		n, err := strconv.ParseInt(args[i], 10, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	begun := time.Now()
	processes, memory, file := number(0), number(1), number(2)
	exe, err := os.Executable()
	if err != nil {
		return 2
	}
	var all []*exec.Cmd
	var ready []io.Reader
	var held []io.Closer
	for n := processes - 1; n > 0; n-- {
		cmd := exec.Command(exe, "holders", "0", args[1], args[2])
		out, err := cmd.StdoutPipe()
		if err != nil {
			return 3
		}
		in, err := cmd.StdinPipe()
		if err != nil || cmd.Start() != nil {
			return 3
		}
		all, ready, held = append(all, cmd), append(ready, out), append(held, in)
	}
	if file > 0 {
		name := fmt.Sprintf("/data/%d", os.Getpid())
		if err := os.RemoveAll(name); err != nil {
			return 5
		}
		if code := fill(name, file); code != 0 {
			return code
		}
	}
	touch(memory)
	if processes == 0 { // a child: it holds what it has until all do, and longer
		fmt.Println("ready")
		_, _ = io.ReadAll(os.Stdin)
		return 0
	}
	for _, r := range ready {
		if _, err := io.ReadFull(r, make([]byte, len("ready"))); err != nil {
			return 6
		}
	}
	// So that it is seen: how much at once no kernel remembers. It is looked at again
	// after as long as the job has run.
	<-time.After(300*time.Millisecond + 3*time.Since(begun))
	for i, cmd := range all {
		if held[i].Close() != nil || cmd.Wait() != nil {
			return 4
		}
	}
	return 0
})

// Allocators of known size, in one process and in several, with and without files
// written: the peak is theirs, and no file is in the peak of what is no file's.
func TestMemoryFigures(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory")
	slack := func(memory int64) int64 { return 6<<20 + memory/32 } // of a heap, of what the kernel charges ahead and takes back
	for _, processes := range []int64{1, 4} {
		t.Run(fmt.Sprintf("%d processes", processes), func(t *testing.T) {
			asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
				t.Helper()
				measure := func(memory int64) *container.Result {
					res := run(selfJob(t, holders, fmt.Sprint(processes), fmt.Sprint(memory), "0"), container.WithMemoryLimit(1<<30))
					require.True(t, res.Success(), "%v", res)
					require.LessOrEqual(t, res.AnonPeak, res.MemoryPeak)
					return res
				}
				measure(0) // who reads the program first has it charged
				bare := measure(0)
				sources := []string{"memory.peak", "memory.max_usage_in_bytes", "largest sample"}
				if !canKill(t) { // Linux 5.10 has no memory.peak either, and the job may end before a sample
					sources = append(sources, "ru_maxrss")
				}
				require.Contains(t, sources, bare.MemorySource)
				memory := 128 << 20 / processes
				res := measure(memory)
				require.InDelta(t, processes*memory, res.MemoryPeak-bare.MemoryPeak, float64(processes*slack(memory)), "%d bytes each", memory)
				require.GreaterOrEqual(t, res.AnonPeak, processes*memory)
				require.Less(t, res.AnonPeak, processes*(memory+32<<20))
				require.Contains(t, []string{"largest sample", "ru_maxrss"}, res.AnonSource)
			})
		})
	}
	t.Run("and files", func(t *testing.T) {
		bind, _ := data(t)
		asJob(t, []container.Option{bind}, func(t *testing.T, run func(...container.JobOption) *container.Result) {
			t.Helper()
			res := run(selfJob(t, holders, "2", fmt.Sprint(8<<20), fmt.Sprint(48<<20)), container.WithMemoryLimit(1<<30))
			require.True(t, res.Success(), "%v", res)
			require.Greater(t, res.MemoryPeak, int64(2*(8+48)<<20))
			require.Less(t, res.AnonPeak, int64(2*(8+32)<<20))
			require.GreaterOrEqual(t, res.AnonPeak, int64(2*8<<20))
		})
	})
	t.Run("files in memory", func(t *testing.T) {
		asJob(t, []container.Option{container.WithMounts(rootfs.Tmpfs("/m", rootfs.Size(64<<20)))}, func(t *testing.T, run func(...container.JobOption) *container.Result) {
			t.Helper()
			res := run(sh("head -c 40000000 /dev/zero >/m/x; sleep 1; rm /m/x"), container.WithMemoryLimit(256<<20))
			require.True(t, res.Success(), "%v", res)
			require.GreaterOrEqual(t, res.AnonPeak, 40_000_000-untold(t), "it is the job's as much as what it allocates")
			require.Equal(t, "largest sample", res.AnonSource)
		})
	})
}

// untold is what memory.stat may be short of: before Linux 5.14, which has cgroup.kill,
// the kernel tells what it has charged in batches of 32 pages a processor.
func untold(t testing.TB) int64 {
	t.Helper()
	if canKill(t) {
		return 0
	}
	return int64(runtime.NumCPU() * 32 * os.Getpagesize())
}

// What a job leaves in memory is the container's, and not the next job's.
func TestEarlierFilesAreNotTheNextJobs(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory")
	c := start(t)
	one := func(line string) *container.Result {
		p, err := c.Exec(timeout(t), sh(line), container.WithMemoryLimit(64<<20))
		require.NoError(t, err)
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.True(t, res.Success(), "%v", res)
		return res
	}
	require.Greater(t, one("head -c 40000000 /dev/zero >/tmp/x").MemoryPeak, int64(40_000_000))
	require.Less(t, one("true").MemoryPeak, int64(8<<20))
	require.Less(t, one("cat /tmp/x >/dev/null").MemoryPeak, int64(8<<20), "to read it is not to have it")
	s, err := c.Stats(timeout(t))
	require.NoError(t, err)
	require.Greater(t, s.Memory.Now, int64(40_000_000))
	require.GreaterOrEqual(t, s.Memory.Shmem, 40_000_000-untold(t))
	one("rm /tmp/x")
	s, err = c.Stats(timeout(t))
	require.NoError(t, err)
	require.Less(t, s.Memory.Shmem, int64(1<<20))
	require.NoError(t, c.Close())
}

// Where everything is: init in a leaf of its own, the container's jobs below its
// group, by number where they have limits of their own.
func TestWhereTheGroupsAre(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "pids")
	c := start(t, sh("exec sleep 1000"))
	limited, err := c.Exec(timeout(t), sh("exec sleep 1000"), container.WithPidsLimit(5))
	require.NoError(t, err)
	free, err := c.Exec(timeout(t), sh("exec sleep 1000"))
	require.NoError(t, err)
	var found int
	for _, at := range groupsOfHost(os.Getpid()) {
		if _, err := os.Stat(filepath.Join(at, c.ID())); err != nil {
			continue // another parent's, or without a limit here
		}
		found++
		in := func(group string) []string {
			text, err := os.ReadFile(filepath.Join(at, group, "cgroup.procs"))
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			require.NoError(t, err)
			return strings.Fields(string(text))
		}
		if _, err := os.Stat(filepath.Join(at, "cgroup.controllers")); err == nil {
			require.Contains(t, in(".init"), strconv.Itoa(c.PID()))
		} // else it is where the launcher is: in this program's own
		require.Empty(t, in(c.ID()), "no processes beside groups")
		for name, file := range map[string]string{"1": "main", "2": "limited", "shared": "free"} {
			if procs := in(filepath.Join(c.ID(), name)); procs != nil {
				require.Len(t, procs, 1, file)
				require.NotContains(t, procs, strconv.Itoa(c.PID()))
			}
		}
		if isV2() {
			continue
		}
		// Of v1 they are below this program's own group.
		own, err := os.ReadFile("/proc/self/cgroup")
		require.NoError(t, err)
		below := slices.ContainsFunc(lines(string(own)), func(l string) bool {
			part := strings.SplitN(l, ":", 3)
			name := strings.TrimPrefix(part[1], "name=")
			if name == "" {
				name = "unified"
			}
			return filepath.Dir(at) == filepath.Join("/sys/fs/cgroup", name, part[2])
		})
		require.True(t, below, "%s of\n%s", at, own)
	}
	require.Positive(t, found)
	for _, p := range []*container.Process{limited, free} {
		require.NoError(t, p.Kill())
		_, err = p.Wait(timeout(t))
		require.NoError(t, err)
	}
	require.NoError(t, c.Close())
}

// launching is a host program that starts jobs in every way there is, with limits.
var launching = register("launching", func([]string) int {
	fail := func(err error) int {
		fmt.Println(err)
		return 98
	}
	ctx := context.Background()
	limits := container.JobOptions(container.WithMemoryLimit(64<<20), container.WithPidsLimit(50), container.WithCPULimit(1))
	for range 2 { // the second is made ahead
		if _, err := container.Run(ctx, container.WithCommand("true"), limits); err != nil {
			return fail(err)
		}
	}
	c, err := container.New(container.WithCommand("sleep", "1000"), limits)
	if err == nil {
		err = c.Start(ctx)
	}
	if err != nil {
		return fail(err)
	}
	for _, own := range []container.JobOption{nil, limits} {
		p, err := c.Exec(ctx, container.WithCommand("true"), own)
		if err == nil {
			_, err = p.Wait(ctx)
		}
		if err != nil {
			return fail(err)
		}
	}
	if err := c.Close(); err != nil {
		return fail(err)
	}
	return 0
})

// Nothing that a launch does writes to cgroup.procs, which waits for all threads of
// the machine: every process is born in its group, or writes to tasks.
func TestLaunchesNeverWriteToCgroupProcs(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root, containertest.Program("strace"))
	needGroups(t, "memory", "pids", "cpu")
	exe, err := os.Executable()
	require.NoError(t, err)
	usedMu.Lock()
	jobUsed[launching] = true
	usedMu.Unlock()
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.CommandContext(timeout(t), "strace", "-f", "-o", trace, "-s", "4096", "-e", "signal=none", "-e", "trace=open,openat,openat2,creat,clone3,mkdirat", exe, launching)
	cmd.Env = append(os.Environ(), jobEnv, noLinger)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	text, err := os.ReadFile(trace)
	require.NoError(t, err)
	procs, tasks, born, made := 0, 0, 0, 0
	for _, l := range lines(string(text)) {
		writes := strings.Contains(l, "O_WRONLY") || strings.Contains(l, "O_RDWR")
		switch {
		case strings.Contains(l, `/cgroup.procs"`) && writes && !strings.Contains(l, `"inlay-host/`): // once for each launcher, under systemd
			procs++
			t.Log(l)
		case strings.Contains(l, `/tasks"`) && writes:
			tasks++
		case strings.Contains(l, "CLONE_INTO_CGROUP"):
			born++
		case strings.Contains(l, "mkdirat("):
			made++
		}
	}
	t.Logf("%d groups made, %d processes born in theirs, %d times tasks was opened", made, born, tasks)
	require.Zero(t, procs)
	require.GreaterOrEqual(t, made, 6)
	require.GreaterOrEqual(t, born+tasks, 5, "a job at least for each launch")
}

// An idle group runs when nobody else wants to.
func TestCPUIdle(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "cpu", "cpuset")
	_, err := container.Run(timeout(t), sh("true"), container.WithResources(cgroup.Limits{CPUIdle: true}))
	var refused *container.LimitError
	if errors.As(err, &refused) && strings.Contains(refused.Reason, "no cpu.idle") {
		t.Skip("needs Linux 5.15: cpu.idle")
	}
	require.NoError(t, err)
	var list []*container.Container
	one := "0"
	ordinary := uint64(100)
	for _, l := range []cgroup.Limits{{CPUWeight: &ordinary, CPUSet: &one}, {CPUIdle: true, CPUSet: &one}} {
		list = append(list, start(t, selfMount(t), consuming(t, "spin in threads"), container.WithResources(l)))
	}
	used := func(i int) time.Duration {
		s, err := list[i].Stats(timeout(t))
		require.NoError(t, err)
		return s.CPU.Total
	}
	before := [2]time.Duration{used(0), used(1)}
	require.Eventually(t, func() bool { return used(0)-before[0] > time.Second/2 }, time.Minute, 5*time.Millisecond)
	busy, idle := used(0)-before[0], used(1)-before[1]
	t.Logf("%v and %v", busy, idle)
	require.Greater(t, busy, 10*idle)
	for _, c := range list {
		require.NoError(t, c.Close())
	}
}

// Who waits switches of its own accord, who does not is made to.
func TestContextSwitches(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		res := run(sh("for i in 1 2 3 4 5; do sleep 0.01; done"))
		require.GreaterOrEqual(t, res.VoluntarySwitches, int64(5))
		require.Positive(t, res.MinorFaults)
		require.GreaterOrEqual(t, res.MajorFaults, int64(0))
		opts := []container.JobOption{consuming(t, "spin in threads"), container.WithRlimit("cpu", 1, 1)}
		if groupsOf(t, "cpuset") {
			opts = append(opts, container.WithCPUSet("0"))
		}
		res = run(opts...)
		require.Equal(t, container.Signaled, res.Status)
		if groupsOf(t, "cpuset") {
			require.Greater(t, res.InvoluntarySwitches, int64(10), "two threads on one processor")
		}
		require.WithinRange(t, res.Finished, res.Started.Add(res.WallTime-10*time.Millisecond), res.Started.Add(res.WallTime+10*time.Millisecond))
	})
}

// The most processes at once, where the kernel counts them.
func TestPidsPeak(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "pids")
	counts := slices.ContainsFunc(ownGroup(t).Paths(), func(p string) bool {
		_, err := os.Stat(p + "/pids.peak")
		return err == nil
	})
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		res := run(sh("for i in 1 2 3 4; do sleep 0.2 & done; wait"), container.WithPidsLimit(50))
		require.True(t, res.Success(), "%v", res)
		if counts {
			require.EqualValues(t, 5, res.PidsPeak)
		} else {
			require.EqualValues(t, -1, res.PidsPeak)
		}
		require.Empty(t, res.Notes)
	})
}

// ownGroup is a group that the test may look at.
func ownGroup(t *testing.T) *cgroup.Group {
	t.Helper()
	g, err := ownTop(t).Create("inlay-look", cgroup.Limits{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Delete(context.Background())) })
	return g
}

// The backstop of a limit of processor time is set, for the case that nobody looks.
func TestCPUTimeLimitBackstop(t *testing.T) {
	containertest.Census(t)
	needGroups(t)
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		var out bytes.Buffer
		res := run(sh("ulimit -t; ulimit -H -t"), container.WithCPUTimeLimit(1500*time.Millisecond), container.WithStdout(&out))
		require.True(t, res.Success(), "%v", res)
		require.Equal(t, "3\n3\n", out.String())
	})
}

// A reader that comes late, or is slow, holds nobody up: what it loses are the
// oldest events, never the last.
func TestEventsNeverBlock(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "pids")
	ctx := timeout(t)
	c := start(t, sh("sleep 1000"))
	begun, goOn, read := make(chan struct{}), make(chan struct{}), make(chan []container.EventKind)
	go func() {
		var kinds []container.EventKind
		var once sync.Once
		for e := range c.Events(ctx) {
			kinds = append(kinds, e.Kind)
			once.Do(func() { close(begun); <-goOn }) // it takes its time
		}
		read <- kinds
	}()
	<-begun
	for range 5000 {
		require.NoError(t, c.Update(ctx, container.WithPidsLimit(100)))
	}
	require.NoError(t, c.Pause(ctx))
	require.NoError(t, c.Resume(ctx))
	require.NoError(t, c.Close())
	close(goOn)
	kinds := <-read
	require.Equal(t, container.EventStarted, kinds[0])
	require.Equal(t, []container.EventKind{"updated", "paused", "resumed", "exited", "closed"}, kinds[len(kinds)-5:])
	require.Less(t, len(kinds), 5000)
	require.Greater(t, len(kinds), 3000)
	// And who only comes now.
	kinds = nil
	for e := range c.Events(ctx) {
		kinds = append(kinds, e.Kind)
	}
	require.Equal(t, container.EventClosed, kinds[len(kinds)-1])
}

// Want of memory is an event of its own.
func TestEventOfMemory(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory")
	all := func(c *container.Container) (kinds []string) {
		require.NoError(t, c.Close())
		for e := range c.Events(timeout(t)) {
			kinds = append(kinds, string(e.Kind))
		}
		return kinds
	}
	c := start(t, selfMount(t), consuming(t, "anon", "67108864"), container.WithMemoryLimit(32<<20))
	_, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, []string{"started", "oom", "exited", "closed"}, all(c))
	c = start(t, selfMount(t))
	p, err := c.Exec(timeout(t), consuming(t, "anon", "67108864"), container.WithMemoryLimit(32<<20))
	require.NoError(t, err)
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, []string{"started", "exec", "oom", "exited", "closed"}, all(c))
}

// The line for a log says why a job ended, and what it used.
func TestResultLine(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for _, tt := range []struct {
		want string
		opts []container.JobOption
	}{
		{"exit status 3", []container.JobOption{sh("exit 3")}},
		{"signal: killed", []container.JobOption{sh("kill -KILL $$")}},
		{"signal: terminated", []container.JobOption{sh("kill -TERM $$")}},
		{"time limit", []container.JobOption{sh("sleep 1000"), container.WithTimeLimit(20 * time.Millisecond)}},
		{"output limit", []container.JobOption{sh("yes"), container.WithOutputLimit(10), container.WithStdout(io.Discard)}},
	} {
		res, err := container.Run(timeout(t), asOptions(tt.opts)...)
		require.NoError(t, err)
		line := res.String()
		require.Regexp(t, "^"+tt.want+`, [0-9.]+(µs|ms|s) wall, [0-9.]+(µs|ms|s) cpu, [0-9]+\.[0-9] MiB peak$`, line)
	}
}
