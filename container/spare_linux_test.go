package container_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
)

// spares are the inits that a launcher has ready.
func spares(launcher int) (out []int) {
	for _, pid := range childrenOf(launcher) {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && string(name) == "inlay-spare\n" {
			out = append(out, pid)
		}
	}
	return out
}

// awaitSpare runs containers until the launcher has an init ready, and returns
// its process id.
func awaitSpare(t *testing.T) int {
	t.Helper()
	for ctx := timeout(t); ; require.NoError(t, ctx.Err()) {
		require.Equal(t, "alive\n", output(t, sh("echo alive")))
		if s := spares(launcherPID(t)); len(s) > 0 {
			require.Len(t, s, 1)
			return s[0]
		}
	}
}

// The launcher makes an init ahead, with all its namespaces; a container that
// gets it is like any other.
func TestSpare(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	pid := awaitSpare(t)
	network, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		network = "" // not for this user to read
	}
	c := start(t)
	require.Equal(t, pid, c.PID(), "it was not used")
	var out strings.Builder
	p, err := c.Exec(timeout(t), sh("readlink /proc/self/ns/net; cat /proc/1/comm; cat /proc/self/uid_map; ls /proc/self/fd | wc -l; cat /proc/sys/kernel/hostname"), container.WithStdout(&out))
	require.NoError(t, err)
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	got := lines(out.String())
	if network != "" {
		require.Equal(t, network, got[0])
	}
	require.Equal(t, "inlay-init", got[1])
	require.Equal(t, "4", got[len(got)-2], "stdin, stdout, stderr, and ls's own")
	require.Equal(t, c.ID(), got[len(got)-1])
	// The next one's is another.
	require.NotEqual(t, pid, awaitSpare(t))
}

// Whatever becomes of the init that was made ahead, the next container starts.
func TestSpareDies(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for range rounds() {
		pid := awaitSpare(t)
		fd, err := unix.PidfdOpen(pid, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		require.True(t, endsWithin(t, fd, time.Minute))
		require.Equal(t, "alive\n", output(t, sh("echo alive")))
		require.NoError(t, unix.Close(fd))
	}
	// Stopped, it holds up its own container, which the context ends.
	pid := awaitSpare(t)
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	defer unix.Close(fd) //nolint:errcheck // nothing to flush
	require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
	c, err := container.New(container.WithCommand("true"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Start(ctx), ctx.Err())
	require.True(t, endsWithin(t, fd, time.Minute))
	require.Equal(t, "alive\n", output(t, sh("echo alive")))
}

// A spare is for containers with the same namespaces, goes with its launcher,
// and does not wait for ever.
func TestSpareGoes(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	open := func() int {
		fd, err := unix.PidfdOpen(awaitSpare(t), 0)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
		return fd
	}
	fd := open()
	require.Equal(t, "alive\n", output(t, container.WithHostNamespace(namespace.Network), sh("echo alive")))
	require.True(t, endsWithin(t, fd, time.Minute), "of no use any more")
	cmd, out := hostProgram(t)
	_, err := io.ReadFull(out, make([]byte, 3))
	require.NoError(t, err)
	kids := childrenOf(cmd.Process.Pid)
	require.Len(t, kids, 1)
	var list []int
	for ctx := timeout(t); len(list) == 0; list = spares(kids[0]) {
		require.NoError(t, ctx.Err(), "it has started three containers, and has no init ready")
	}
	other, err := unix.PidfdOpen(list[0], 0)
	require.NoError(t, err)
	require.NoError(t, unix.Kill(kids[0], unix.SIGKILL))
	require.True(t, endsWithin(t, other, time.Minute), "its launcher is dead")
	require.NoError(t, unix.Close(other))
	// Killed before it has seen that its launcher is gone, it leaves its owner file.
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	_, err = container.Prune(timeout(t))
	require.NoError(t, err)
	if os.Getenv("INLAY_CI") != "" {
		require.True(t, endsWithin(t, open(), time.Minute), "nobody has come for it in 10 s")
	}
}
