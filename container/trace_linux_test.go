package container_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// withoutTimes are the lines of a trace as Explain has them.
func withoutTimes(steps []container.StepTime) (out []string) {
	for _, s := range steps {
		line := s.String()
		out = append(out, line[:strings.LastIndex(line, " <")])
	}
	return out
}

func explained(t *testing.T, c *container.Container) []string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, c.Explain(&b))
	return lines(b.String())
}

// checkTrace looks whether the trace is the plan, and its times can be those of a
// start that took so long.
func checkTrace(t *testing.T, c *container.Container, took time.Duration) {
	t.Helper()
	trace := c.Trace()
	require.Equal(t, explained(t, c), withoutTimes(trace))
	var sum time.Duration
	for _, s := range trace {
		require.Positive(t, s.Time, "%v", s)
		sum += s.Time
	}
	require.LessOrEqual(t, sum, took)
	phases := map[container.Phase]int{}
	for _, s := range trace {
		phases[s.Phase]++
	}
	require.Equal(t, 1, phases["launcher"])
	for _, p := range []container.Phase{container.PhasePrepare, container.PhaseChild, container.PhaseExec} {
		require.Positive(t, phases[p], "%s", p)
	}
}

// A trace is the plan with a time for each step; together they are less than the
// start took. The launcher's inits made ahead and its larger messages are no
// exception.
func TestTrace(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for _, tt := range []struct {
		name string
		opts []container.Option
	}{
		{"default", nil},
		{"everything", []container.Option{
			container.WithHostname("box"), container.WithMounts(rootfs.Tmpfs("/t"), rootfs.Bind("/usr/share", "/share", rootfs.ReadOnly())),
			container.WithNoNewPrivileges(false), container.WithSysctl("net.ipv4.ip_forward", "1"),
		}},
		{"a plan too large for a message", []container.Option{container.WithFile("/work/x", make([]byte, 200<<10), 0o644)}},
		{"a strict filter", []container.Option{container.WithSeccomp(security.Strict())}},
		{"no filter", []container.Option{container.WithSeccomp(security.Unconfined())}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "no filter" {
				containertest.Require(t, containertest.Users) // a job with init's id has one all the same
			}
			for range 4 { // the last ones get an init that was made ahead
				c, err := container.New(append(tt.opts, container.WithCommand("/usr/bin/true"), container.WithTrace())...)
				require.NoError(t, err)
				require.Nil(t, c.Trace())
				begun := time.Now()
				require.NoError(t, c.Start(timeout(t)))
				took := time.Since(begun)
				checkTrace(t, c, took)
				res, err := c.Wait(timeout(t))
				require.NoError(t, err)
				require.True(t, res.Success(), "%v", res)
				require.NoError(t, c.Close())
				require.NotEmpty(t, c.Trace(), "it stays")
			}
		})
	}
}

// An init that was made ahead is traced as well: its clone is how long it took to
// take it.
func TestTraceOfSpare(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	pid := awaitSpare(t)
	c, err := container.New(container.WithCommand("/usr/bin/true"), container.WithTrace())
	require.NoError(t, err)
	begun := time.Now()
	require.NoError(t, c.Start(timeout(t)))
	took := time.Since(begun)
	require.Equal(t, pid, c.PID(), "it was not used")
	checkTrace(t, c, took)
	require.NoError(t, c.Close())
}

// The process that joins namespaces and sets clocks is traced as well, and clocks that
// are shifted do not show.
func TestTraceOfStepIn(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	other := start(t)
	for _, tt := range []struct {
		name string
		opt  container.Option
		call string
	}{
		{"clocks", container.Options(container.WithNamespaces(append(namespace.Default(), namespace.Time)...), container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: 100 * time.Hour, Boottime: 100 * time.Hour})), "unshare(CLONE_NEWTIME)"},
		{"network", container.WithNamespaceOf(other, namespace.Network), "setns("},
		{"processes", container.WithNamespaceOf(other, namespace.PID), "clone3("},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := container.New(container.WithCommand("/usr/bin/true"), tt.opt, container.WithTrace())
			require.NoError(t, err)
			begun := time.Now()
			err = c.Start(timeout(t))
			took := time.Since(begun)
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skipf("needs cgroups, or a kernel that has it: %v", err)
			}
			require.NoError(t, err)
			all := slices.DeleteFunc(explained(t, c), func(line string) bool { return strings.HasPrefix(line, "teardown ") })
			trace := c.Trace()
			require.Equal(t, all, withoutTimes(trace))
			var sum time.Duration
			joined := false
			for _, s := range trace {
				require.Positive(t, s.Time, "%v", s)
				sum += s.Time
				joined = joined || s.Phase == container.PhaseStepIn && strings.HasPrefix(s.Call, tt.call)
			}
			require.True(t, joined, "%v", trace)
			require.LessOrEqual(t, sum, took)
			require.NoError(t, c.Close())
		})
	}
}

// Who enters another's clock has none to go by: the trace is without its steps.
func TestTraceOfJoinedClock(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	const shift = 100 * time.Hour
	other := start(t, container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: shift}))
	c := start(t, container.WithTrace(), container.WithNamespaceOf(other, namespace.Time, namespace.IPC), container.WithCommand("/usr/bin/true"))
	phases := map[container.Phase]int{}
	for _, s := range c.Trace() {
		require.Positive(t, s.Time, "%v", s)
		require.Less(t, s.Time, shift/2, "%v", s)
		phases[s.Phase]++
	}
	require.Equal(t, 1, phases[container.PhaseStepIn], "the clone of init")
	require.Positive(t, phases[container.PhaseChild])
}

// A command that is looked up ends the trace where it was found.
func TestTraceEndsWithTheProgram(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, container.WithCommand("true"), container.WithEnv("PATH=/none:/usr/bin:/bin"), container.WithTrace())
	all, trace := explained(t, c), c.Trace()
	require.Equal(t, all[:len(all)-1], withoutTimes(trace))
	require.Contains(t, trace[len(trace)-1].Call, `execve("/usr/bin/true"`)
}

// Without a main job the trace ends with init's; a job of Exec has its own.
func TestTraceOfExec(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, container.WithTrace())
	trace := c.Trace()
	require.Equal(t, explained(t, c), withoutTimes(trace))
	require.Equal(t, container.PhaseChild, trace[len(trace)-1].Phase)
	begun := time.Now()
	p, err := c.Exec(timeout(t), container.WithCommand("/usr/bin/true"), container.WithDir("/tmp"))
	took := time.Since(begun)
	require.NoError(t, err)
	steps := p.Trace()
	require.NotEmpty(t, steps)
	var sum time.Duration
	for i, s := range steps {
		require.Equal(t, container.PhaseExec, s.Phase)
		require.Equal(t, i+1, s.Step)
		require.Positive(t, s.Time)
		sum += s.Time
	}
	require.LessOrEqual(t, sum, took)
	require.Contains(t, fmt.Sprint(steps), `chdir("/tmp")`)
	require.Equal(t, trace, c.Trace(), "a job of Exec is none of the start's")
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
}

// Nobody is killed for looking at the clock: where the profile does not allow that,
// its step has the time of all that follow.
func TestTraceWithoutAClock(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	profile, err := security.NewSeccomp(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"clock_gettime"}, Action: specs.ActKillProcess}}})
	require.NoError(t, err)
	c := start(t, container.WithCommand("/usr/bin/true"), container.WithSeccomp(profile), container.WithTrace())
	trace := c.Trace()
	require.Equal(t, explained(t, c), withoutTimes(trace))
	last := len(trace) - 1
	require.Contains(t, trace[last].Call, "execve(")
	require.Zero(t, trace[last].Time)
	require.Contains(t, trace[last-1].Call, "seccomp(")
	for _, s := range trace[:last] {
		require.Positive(t, s.Time, "%v", s)
	}
	res, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.True(t, res.Success(), "%v", res)
}

// A start that failed is traced up to the step that did.
func TestTraceOfFailure(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for _, tt := range []struct {
		name, last string
		opt        container.Option
	}{
		{"exec", `execve("/none/such"`, container.WithCommand("/none/such")},
		{"child", `mkdirat(`, container.Options(container.WithCommand("/usr/bin/true"), container.WithMounts(rootfs.Tmpfs("/usr/none/such")))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := container.New(tt.opt, container.WithTrace())
			require.NoError(t, err)
			err = c.Start(timeout(t))
			var failed *container.StartError
			require.ErrorAs(t, err, &failed)
			trace := c.Trace()
			require.NotEmpty(t, trace)
			got := withoutTimes(trace)
			require.Equal(t, explained(t, c)[:len(got)], got)
			last := trace[len(trace)-1]
			require.Equal(t, failed.Phase, last.Phase, "%v", err)
			require.Contains(t, last.Call, tt.last)
			for _, s := range trace {
				require.Positive(t, s.Time, "%v", s)
			}
		})
	}
}

// Without a descriptor for it a traced start fails, or is not traced, and keeps none.
func TestTraceWithoutDescriptors(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	start(t) // the launcher and its poller are there
	var lim unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &lim))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)) }()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	failed, worked := 0, 0
	for n := 3; n < 2*len(entries)+60 && worked < 3; n++ {
		low := lim
		low.Cur = uint64(n)
		c, err := container.New(container.WithCommand("/usr/bin/true"), container.WithTrace())
		require.NoError(t, err)
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
		err = c.Start(timeout(t))
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &lim))
		if err != nil {
			require.ErrorIs(t, err, unix.EMFILE, "limit %d", n)
			failed++
		} else {
			require.NotEmpty(t, c.Trace(), "limit %d", n)
			worked++
		}
		require.NoError(t, c.Close())
	}
	require.Equal(t, 3, worked)
	require.Positive(t, failed)
}

// Without the option there is no trace.
func TestTraceNone(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, container.WithCommand("/usr/bin/true"), container.WithHostNamespace(namespace.UTS))
	require.Nil(t, c.Trace())
}
