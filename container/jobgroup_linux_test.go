package container_test

import (
	"context"
	"errors"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// Jobs with the same limits in a row get groups that were made ahead: each a new one,
// in which the limits act, and none is left.
func TestGroupsMadeAhead(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory", "pids")
	c := start(t, selfMount(t))
	ctx := timeout(t)
	seen := map[string]bool{}
	one := func(want string, opts ...container.JobOption) {
		t.Helper()
		p, err := c.Exec(ctx, append(opts, container.WithCommand("/bin/sleep", "100"))...)
		require.NoError(t, err)
		name := container.GroupOf(p)
		require.False(t, seen[name], "%s was another job's", name)
		seen[name] = true
		if want != "" {
			require.Equal(t, want, name)
		}
		require.NoError(t, p.Kill())
		_, err = p.Wait(ctx)
		require.NoError(t, err)
	}
	for range 3 {
		one("", container.WithPidsLimit(5))
	}
	// The fourth's is there, or is being made.
	require.Eventually(t, func() bool { return container.GroupAhead(c) != "" }, 10*time.Second, time.Millisecond)
	one(container.GroupAhead(c), container.WithPidsLimit(5))
	// Others are new, and take their limits with them.
	for range 4 {
		var out strings.Builder
		p, err := c.Exec(ctx, container.WithMemoryLimit(24*container.MiB), consuming(t, "anon", strconv.Itoa(64<<20)), container.WithStdout(&out))
		require.NoError(t, err)
		res, err := p.Wait(ctx)
		require.NoError(t, err)
		require.Equal(t, container.MemoryLimit, res.Status, "%v %s", res, &out)
	}
	require.Eventually(t, func() bool { return container.GroupAhead(c) != "" }, 10*time.Second, time.Millisecond)
	require.NoError(t, c.Update(ctx, container.WithPidsLimit(50)))
	require.Empty(t, container.GroupAhead(c), "what it was made from has changed")
	one("", container.WithPidsLimit(5))
	require.NoError(t, c.Close())
}

// A group that cannot be made ahead is the matter of the job that needs one.
func TestGroupAheadFails(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "pids")
	for _, op := range []string{"mkdir", "write", "open", "chmod"} {
		t.Run(op, func(t *testing.T) {
			containertest.Census(t)
			c := start(t)
			ctx := timeout(t)
			run := func() error {
				p, err := c.Exec(ctx, container.WithPidsLimit(5), container.WithCommand("/bin/true"))
				if err == nil {
					_, err = p.Wait(ctx)
				}
				return err
			}
			require.NoError(t, run())
			failed := make(chan struct{})
			var once sync.Once
			hook := func(o, file string) error {
				for dir := file; dir != "." && dir != "/"; dir = path.Dir(dir) {
					if o == op && path.Base(dir) == "3" {
						once.Do(func() { close(failed) })
						return unix.ENOSPC
					}
				}
				return nil
			}
			container.Fault(hook)
			defer container.Fault(nil)
			require.NoError(t, run()) // and 3 is made behind it
			select {
			case <-failed:
			case <-time.After(20 * time.Second):
				// Where init is who owns groups, nobody needs to be let in.
				require.Equal(t, "chmod", op, "nothing was made ahead")
			}
			require.NoError(t, run())
			container.Fault(nil)
			require.NoError(t, c.Close())
			_, err := c.Exec(ctx, container.WithCommand("/bin/true"))
			require.True(t, errors.Is(err, container.ErrEnded) || errors.Is(err, container.ErrClosed), "%v", err)
		})
	}
}

// A job that nobody waits for any more does not run when the container goes on.
func TestExecWhilePausedIsNotStarted(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "pids")
	c := start(t)
	require.NoError(t, c.Pause(timeout(t)))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Exec(ctx, container.WithCommand("/bin/sleep", "1000"), container.WithPidsLimit(5))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, c.Resume(timeout(t)))
	// It is served after the other, which was asked for first.
	p, err := c.Exec(timeout(t), container.WithCommand("/bin/true"))
	require.NoError(t, err)
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s, err := c.Stats(timeout(t))
		return err == nil && s.Pids.Now == 0
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, c.Close())
}
