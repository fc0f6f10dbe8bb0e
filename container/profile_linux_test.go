package container_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// Under each profile an ordinary program runs, and what the profile is for bites.
func TestProfiles(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory", "cpu", "pids")
	run := func(t *testing.T, opts ...container.Option) *container.Result {
		t.Helper()
		res, err := container.Run(timeout(t), append(opts, container.WithStdout(io.Discard), container.WithStderr(io.Discard))...)
		require.NoError(t, err)
		return res
	}
	for _, p := range []container.Option{container.ProfileJudge(), container.ProfileJob(), container.ProfileAgent(), container.ProfileService()} {
		res := run(t, p, sh("echo $((6*7)); ls /usr | wc -l"))
		require.True(t, res.Success(), "%v: %v", p, res)
		require.Empty(t, res.Dropped)
	}
	hog := sh("dd if=/dev/zero of=/dev/null bs=400000000 count=1")
	require.Equal(t, container.MemoryLimit, run(t, container.ProfileJudge(), hog).Status)
	require.Equal(t, container.TimeLimit, run(t, container.ProfileJudge(), container.WithTimeLimit(30*time.Millisecond), sh("sleep 100")).Status)
	require.False(t, run(t, container.ProfileJudge(), sh("mkdir /tmp/a && chmod 4755 /tmp/a && mount -t tmpfs none /tmp/a")).Success())
	require.Equal(t, container.OutputLimit, run(t, container.ProfileAgent(), sh("yes")).Status)
	require.Equal(t, container.IdleLimit, run(t, container.ProfileJob(), container.WithIdleLimit(50*time.Millisecond), sh("sleep 100")).Status)
	t.Run("a job of Exec", func(t *testing.T) {
		c := start(t)
		p, err := c.Exec(timeout(t), container.ProfileAgent(), sh("yes"), container.WithStdout(io.Discard))
		require.NoError(t, err)
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.OutputLimit, res.Status)
	})
	t.Run("a service ends by itself", func(t *testing.T) {
		ctx, cancel := context.WithCancel(timeout(t))
		defer cancel()
		w := onWrite(cancel) // the trap is set
		res, err := container.Run(ctx, container.ProfileService(), sh(`trap "exit 7" TERM; echo; while :; do sleep 0.01; done`), container.WithStdout(w))
		require.NoError(t, err)
		require.Equal(t, container.Canceled, res.Status)
		require.Equal(t, 7, res.ExitCode)
	})
}
