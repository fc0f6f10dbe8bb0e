package container_test

import (
	"context"
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/security"
)

// counted is what was added to counters since before, and nothing where nothing was.
func counted(before container.Counters) container.Counters {
	now := container.Metrics()
	now.Started -= before.Started
	now.Running -= before.Running
	now.Execs -= before.Execs
	now.ExecFailures -= before.ExecFailures
	now.OutOfMemory -= before.OutOfMemory
	now.CleanupFailures -= before.CleanupFailures
	now.Launchers -= before.Launchers
	now.LauncherDeaths -= before.LauncherDeaths
	now.CPUTime -= before.CPUTime
	now.WallTime -= before.WallTime
	now.SetupTime.Count -= before.SetupTime.Count
	now.SetupTime.Sum -= before.SetupTime.Sum
	for i, b := range before.SetupTime.Buckets {
		now.SetupTime.Buckets[i].Count -= b.Count
	}
	for k, n := range before.StartFailures {
		if now.StartFailures[k] -= n; now.StartFailures[k] == 0 {
			delete(now.StartFailures, k)
		}
	}
	for _, m := range []struct{ now, before map[container.Status]uint64 }{{now.Ends, before.Ends}, {now.ExecEnds, before.ExecEnds}} {
		for k, n := range m.before {
			if m.now[k] -= n; m.now[k] == 0 {
				delete(m.now, k)
			}
		}
	}
	return now
}

// Each status is counted, once, in its place.
func TestMetricsOfEnds(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	killMkdir, err := security.ParseSeccomp([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}`))
	require.NoError(t, err)
	for _, tt := range []struct {
		status container.Status
		opts   container.JobOption
		groups string // the controller that it takes
		end    func(*container.Container) error
	}{
		{container.Exited, sh("exit 3"), "", nil},
		{container.Signaled, sh("kill -9 $$"), "", nil},
		{container.MemoryLimit, container.JobOptions(sh(`x=x; while :; do x="$x$x"; done`), container.WithMemoryLimit(16*container.MiB)), "memory", nil},
		{container.TimeLimit, container.JobOptions(sh("sleep 1000"), container.WithTimeLimit(30*time.Millisecond)), "", nil},
		{container.CPUTimeLimit, container.JobOptions(sh("while :; do :; done"), container.WithCPUTimeLimit(50*time.Millisecond)), "cpu", nil},
		{container.OutputLimit, container.JobOptions(sh("yes"), container.WithOutputLimit(1000), container.WithStdout(io.Discard)), "", nil},
		{container.IdleLimit, container.JobOptions(sh("sleep 1000"), container.WithIdleLimit(50*time.Millisecond)), "cpu", nil},
		{container.SyscallRefused, container.JobOptions(container.WithCommand("mkdir", "/tmp/a"), container.WithSeccomp(killMkdir)), "", nil},
		{container.Killed, sh("sleep 1000"), "", (*container.Container).Kill},
		{container.Lost, sh("sleep 1000"), "", func(c *container.Container) error { return unix.Kill(c.PID(), unix.SIGKILL) }},
	} {
		t.Run(tt.status.String(), func(t *testing.T) {
			if tt.groups != "" {
				needGroups(t, tt.groups)
			}
			output(t, sh("true")) // the launcher is there
			before := container.Metrics()
			c := start(t, tt.opts)
			if tt.end != nil {
				n := counted(before)
				require.EqualValues(t, 1, n.Running)
				require.Empty(t, n.Ends)
				require.NoError(t, tt.end(c))
			}
			res, err := c.Wait(timeout(t))
			require.NoError(t, err)
			require.Equal(t, tt.status, res.Status, "%v", res)
			n := counted(before)
			require.EqualValues(t, 1, n.Started)
			require.Zero(t, n.Running)
			require.Equal(t, map[container.Status]uint64{tt.status: 1}, n.Ends)
			require.Equal(t, res.CPUTime(), n.CPUTime)
			require.Equal(t, res.WallTime, n.WallTime)
			require.EqualValues(t, 1, n.SetupTime.Count)
			require.Positive(t, n.SetupTime.Sum)
			for _, b := range n.SetupTime.Buckets {
				if n.SetupTime.Sum <= b.UpTo {
					require.EqualValues(t, 1, b.Count, "%v", b.UpTo)
				} else {
					require.Zero(t, b.Count, "%v", b.UpTo)
				}
			}
			require.Equal(t, tt.status == container.MemoryLimit, n.OutOfMemory == 1)
			require.Zero(t, n.Launchers+n.Execs+n.ExecFailures+n.CleanupFailures)
			require.Empty(t, n.StartFailures)
			require.NoError(t, c.Close())
			require.Equal(t, n, counted(before), "Close counts nothing of a container that has ended")
		})
	}
	t.Run("canceled", func(t *testing.T) {
		before := container.Metrics()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		res, err := container.Run(ctx, sh("echo; sleep 1000"), container.WithStdout(onWrite(cancel)))
		require.NoError(t, err)
		require.Equal(t, container.Canceled, res.Status)
		require.Equal(t, map[container.Status]uint64{container.Canceled: 1}, counted(before).Ends)
	})
}

// Containers without a main job, jobs of Exec, and starts that fail.
func TestMetricsOfStarts(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	before := container.Metrics()
	c := start(t)
	require.EqualValues(t, 1, counted(before).Running)
	p, err := c.Exec(timeout(t), sh("exit 7"))
	require.NoError(t, err)
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	_, err = c.Exec(timeout(t), container.WithCommand("/none/such"))
	require.ErrorIs(t, err, container.ErrNotFound)
	_, err = c.Exec(timeout(t), container.WithCommand(""))
	require.Error(t, err, "a wrong request is none of the counters'")
	require.NoError(t, c.Close())
	n := counted(before)
	require.EqualValues(t, 1, n.Started)
	require.Zero(t, n.Running)
	require.Equal(t, map[container.Status]uint64{container.Killed: 1}, n.Ends)
	require.EqualValues(t, 1, n.Execs)
	require.EqualValues(t, 1, n.ExecFailures)
	require.Equal(t, map[container.Status]uint64{container.Exited: 1}, n.ExecEnds)

	before = container.Metrics()
	for phase, opt := range map[container.Phase]container.Option{
		container.PhaseExec:    container.WithCommand("/none/such"),
		container.PhasePrepare: container.Options(sh("true"), container.WithUser(4294967294, 0)),
	} {
		_, err := container.Run(timeout(t), opt)
		var failed *container.StartError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, phase, failed.Phase)
	}
	n = counted(before)
	require.Equal(t, map[container.Phase]uint64{container.PhaseExec: 1, container.PhasePrepare: 1}, n.StartFailures)
	require.Zero(t, n.Started)
	require.Empty(t, n.Ends)
}

// A launcher that dies, and its successor, are counted.
func TestMetricsOfLaunchers(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	before := container.Metrics()
	require.Positive(t, before.Launchers)
	require.NoError(t, unix.Kill(launcherPID(t), unix.SIGKILL))
	_, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	output(t, sh("true"))
	n := counted(before)
	require.EqualValues(t, 1, n.Launchers)
	require.EqualValues(t, 1, n.LauncherDeaths)
}

// Every series is there from the beginning, and counting from many goroutines loses
// nothing.
func TestMetricsTogether(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	all := container.Metrics()
	require.Len(t, all.Ends, int(container.Lost)+1)
	require.Len(t, all.ExecEnds, int(container.Lost)+1)
	require.Len(t, all.StartFailures, 6)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 4 {
				_, err := container.Run(timeout(t), sh("exit "+strconv.Itoa(i)))
				if err != nil {
					t.Error(err)
				}
				container.Metrics()
			}
		})
	}
	wg.Wait()
	n := counted(all)
	require.EqualValues(t, 32, n.Started)
	require.Zero(t, n.Running)
	require.Equal(t, map[container.Status]uint64{container.Exited: 32}, n.Ends)
	require.EqualValues(t, 32, n.SetupTime.Count)
}
