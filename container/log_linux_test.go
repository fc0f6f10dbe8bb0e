package container_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// logged is a logger whose lines can be compared: without times, sizes and pids
// that differ from run to run.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// lines are those written so far, but for what this host has not.
func (l *logged) lines() (out []string) {
	for _, line := range lines(l.String()) {
		if !strings.Contains(line, `msg="running without"`) {
			out = append(out, line)
		}
	}
	return out
}

func (l *logged) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch {
		case a.Key == slog.TimeKey:
			return slog.Attr{}
		case a.Value.Kind() == slog.KindDuration, a.Key == "memory_peak":
			return slog.String(a.Key, "*")
		}
		return a
	}}))
}

// What a logger is told of one run, line by line.
func TestLogger(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	var l logged
	res, err := container.Run(timeout(t), sh("echo out; exit 3", "an argument"), container.WithID("box"), container.WithLabels(map[string]string{"b": "x y", "a": "1"}),
		container.WithEnv("SECRET=hunter2"), container.WithStdout(io.Discard), container.WithLogger(l.logger(slog.LevelDebug)))
	require.NoError(t, err)
	const who = ` container=box labels.a=1 labels.b="x y"`
	require.Equal(t, []string{
		`level=DEBUG msg="container starting"` + who + ` program=/bin/sh root=host`,
		`level=INFO msg="container started"` + who + ` pid=2 setup_time=*`,
		`level=INFO msg="job ended"` + who + ` pid=2 result.status=exited result.exit_code=3 result.wall_time=* result.cpu_time=* result.setup_time=* result.memory_peak=* result.stdout_bytes=4 result.stderr_bytes=0 result.truncated=false`,
		`level=DEBUG msg="container closed"` + who,
	}, l.lines(), "%s", l.String())
	require.Equal(t, "box", res.Container)
	require.Equal(t, map[string]string{"a": "1", "b": "x y"}, res.Labels)
	require.NotContains(t, l.String(), "hunter2")
	require.NotContains(t, l.String(), "argument")
}

// A limit, jobs of Exec and what fails each have their level.
func TestLoggerLevels(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	t.Run("a limit", func(t *testing.T) {
		var l logged
		_, err := container.Run(timeout(t), sh("sleep 100"), container.WithID("box"), container.WithTimeLimit(50*time.Millisecond), container.WithLogger(l.logger(slog.LevelWarn)))
		require.NoError(t, err)
		require.Equal(t, []string{`level=WARN msg="limit met" container=box pid=2 status=time_limit`}, l.lines())
	})
	t.Run("not started", func(t *testing.T) {
		var l logged
		_, err := container.Run(timeout(t), container.WithCommand("/none/such"), container.WithEnv("SECRET=hunter2"), container.WithID("box"), container.WithLogger(l.logger(slog.LevelWarn)))
		require.ErrorIs(t, err, container.ErrNotFound)
		require.Len(t, l.lines(), 1)
		require.Contains(t, l.String(), `level=ERROR msg="container not started" container=box err="inlay: exec: execve /none/such: `)
		require.Contains(t, l.String(), ` phase=exec`)
		require.NotContains(t, l.String(), "hunter2")
	})
	t.Run("jobs of Exec", func(t *testing.T) {
		var l logged
		c := start(t, container.WithID("box"), container.WithLogger(l.logger(slog.LevelInfo)))
		p, err := c.Exec(timeout(t), sh("true"))
		require.NoError(t, err)
		_, err = p.Wait(timeout(t))
		require.NoError(t, err)
		_, err = c.Exec(timeout(t), container.WithCommand("/none/such"), container.WithEnv("SECRET=hunter2"))
		require.ErrorIs(t, err, container.ErrNotFound)
		require.NoError(t, c.Close())
		got := l.lines()
		require.Len(t, got, 4, "%s", l.String())
		require.Equal(t, `level=INFO msg="container started" container=box pid=0 setup_time=*`, got[0])
		require.Equal(t, `level=INFO msg="job started" container=box pid=2`, got[1])
		require.Contains(t, got[2], `level=INFO msg="job ended" container=box pid=2 result.status=exited result.exit_code=0`)
		require.Contains(t, got[3], `level=ERROR msg="job not started" container=box err="inlay: exec: execve /none/such`)
		require.NotContains(t, l.String(), "hunter2")
	})
	t.Run("what it runs without", func(t *testing.T) {
		var l logged
		res, err := container.Run(timeout(t), sh("true"), container.Optional(container.WithResources(cgroup.Limits{Unified: map[string]string{"inlay.none": "1"}})), container.WithID("box"), container.WithLogger(l.logger(slog.LevelWarn)))
		require.NoError(t, err)
		require.NotEmpty(t, res.Dropped)
		got := lines(l.String())
		require.Len(t, got, len(res.Dropped))
		for i, d := range res.Dropped {
			require.Equal(t, fmt.Sprintf(`level=WARN msg="running without" container=box option=%s reason=%q`, d.Option, d.Reason), got[i])
		}
	})
}

// What Close could not remove is told, and a Close that removes it is not.
func TestLoggerCleanup(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	defer container.CloseTimeout(time.Second)()
	var l logged
	d := newDeafDisk(t)
	c := startHung(t, d, reads(), container.WithID("box"), container.WithLogger(l.logger(slog.LevelError)))
	before := container.Metrics().CleanupFailures
	var left *container.LeftError
	require.ErrorAs(t, c.Close(), &left)
	require.Equal(t, before+1, container.Metrics().CleanupFailures)
	got := l.lines()
	require.Contains(t, got[0], `level=ERROR msg="cleanup failed" container=box err="inlay: teardown: close: container box was killed and does not end`, "%s", l.String())
	d.release()
	require.NoError(t, c.Close())
	require.Len(t, l.lines(), len(got))
}

// stuck is a handler that blocks until it is told to go on.
type stuck struct {
	slog.Handler
	on chan struct{}
}

func (s stuck) Handle(ctx context.Context, r slog.Record) error {
	<-s.on
	return s.Handler.Handle(ctx, r)
}

func (s stuck) WithAttrs(a []slog.Attr) slog.Handler { return stuck{s.Handler.WithAttrs(a), s.on} }

// A handler that blocks holds up neither a job nor Run; what it was to be told comes
// when it goes on.
func TestLoggerBlocks(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	var l logged
	on := make(chan struct{})
	res, err := container.Run(timeout(t), sh("true"), container.WithID("box"), container.WithLogger(slog.New(stuck{l.logger(slog.LevelDebug).Handler(), on})))
	require.NoError(t, err)
	require.True(t, res.Success())
	require.Empty(t, l.String())
	close(on)
	require.Eventually(t, func() bool { return strings.Contains(l.String(), "container closed") }, 30*time.Second, time.Millisecond)
	got := l.lines()
	require.Len(t, got, 4)
	require.Contains(t, got[0], "container starting")
}

// Without a logger, and with none, nothing is written and nothing breaks.
func TestLoggerNone(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	res, err := container.Run(timeout(t), sh("true"), container.WithLogger(nil))
	require.NoError(t, err)
	require.True(t, res.Success())
}

// Events of many containers can be told apart.
func TestEventsSayWhose(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, sh("true"), container.WithID("box"), container.WithLabel("k", "v"))
	_, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	n := 0
	for e := range c.Events(timeout(t)) {
		require.Equal(t, "box", e.Container)
		require.Equal(t, map[string]string{"k": "v"}, e.Labels)
		if e.Kind == container.EventStarted {
			require.Positive(t, e.SetupTime)
		}
		if e.Result != nil {
			require.Equal(t, "box", e.Result.Container)
		}
		n++
	}
	require.GreaterOrEqual(t, n, 3)
}
