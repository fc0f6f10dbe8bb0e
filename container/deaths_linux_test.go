package container_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// deathWay is something that a host program does with a container again and again, until
// it fails. It fails once one of the processes that it needs was killed.
type deathWay struct {
	opts []container.Option
	do   func(ctx context.Context, c *container.Container) error
}

// manyFiles fills a folder with what a copy takes a while for.
func manyFiles(t *testing.T, dir string) string {
	t.Helper()
	for _, n := range []string{"a", "b", "c/d", "c/e/f"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, n), 0o755))
		for i := range 20 {
			name := filepath.Join(dir, n, "f"+string(rune('a'+i)))
			require.NoError(t, os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, 1000*i), 0o644))
		}
		require.NoError(t, os.Symlink("fa", filepath.Join(dir, n, "link")))
	}
	return dir
}

func deathWays(t *testing.T, to string) map[string]deathWay {
	t.Helper()
	work := container.WithMounts(rootfs.Tmpfs("/work"))
	from := manyFiles(t, t.TempDir())
	_, users := userRoot(t, "me:x:0:0::/usr:\n", "mine:x:0:\n")
	sleep := container.WithCommand("/bin/sleep", "1000")
	run := func(ctx context.Context, opts ...container.Option) error {
		_, err := container.Run(ctx, opts...)
		return err
	}
	job := func(ctx context.Context, c *container.Container, opts ...container.JobOption) error {
		p, err := c.Exec(ctx, opts...)
		if err == nil {
			_, err = p.Wait(ctx)
		}
		return err
	}
	ways := map[string]deathWay{
		"copies in and out": {[]container.Option{work, sleep}, func(ctx context.Context, c *container.Container) error {
			_, err := c.CopyIn(ctx, from, "/work/in")
			if err == nil {
				_, err = c.CopyOut(ctx, "/work/in", filepath.Join(to, "out"))
			}
			return err
		}},
		"archives in and out": {[]container.Option{work, sleep, container.WithMounts(rootfs.Bind(from, "/data", rootfs.ReadOnly()))}, func(ctx context.Context, c *container.Container) error {
			var tar bytes.Buffer
			if _, err := c.TarOut(ctx, &tar, "/data"); err != nil {
				return err
			}
			_, err := c.TarIn(ctx, &tar, "/work")
			return err
		}},
		"reads": {[]container.Option{sleep}, func(_ context.Context, c *container.Container) error {
			return fs.WalkDir(c.FS(), "etc", func(name string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					_, err = fs.ReadFile(c.FS(), name)
				}
				if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
					return nil // the host's, as it happens to be
				}
				return err
			})
		}},
		"joined namespaces": {[]container.Option{sleep}, func(ctx context.Context, c *container.Container) error {
			return run(ctx, container.WithNamespaceOf(c, namespace.IPC, namespace.UTS, namespace.Network), container.WithCommand("/bin/true"))
		}},
		"a part of another": {[]container.Option{work, sleep}, func(ctx context.Context, c *container.Container) error {
			return run(ctx, container.WithMounts(c.Mount("/work", "/in")), container.WithCommand("/bin/true"))
		}},
		"terminals": {[]container.Option{sleep}, func(ctx context.Context, c *container.Container) error {
			return job(ctx, c, container.WithCommand("/bin/echo", "hello"), container.WithTerminal(24, 80), container.WithStdout(io.Discard), container.WithStdin(strings.NewReader("")))
		}},
		"connections": {[]container.Option{sleep}, func(ctx context.Context, c *container.Container) error {
			l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			conn, err := c.Dial(ctx, "tcp", l.Addr().String())
			if err != nil {
				return errors.Join(err, l.Close())
			}
			accepted, err := l.Accept()
			if err == nil {
				err = accepted.Close()
			}
			return errors.Join(err, conn.Close(), l.Close())
		}},
		"users by name": {[]container.Option{users, sleep}, func(ctx context.Context, c *container.Container) error {
			return job(ctx, c, container.WithCommand("/bin/true"), container.WithUser("me:mine"))
		}},
		"filled roots": {[]container.Option{sleep}, func(ctx context.Context, _ *container.Container) error {
			root := rootfs.FS(fstest.MapFS{"data/f": {Data: bytes.Repeat([]byte("x"), 100_000)}})
			return run(ctx, container.WithRoot(root), usr(), container.WithCommand("/bin/true"))
		}},
	}
	if _, err := os.Stat("/proc/self/ns/time_for_children"); err == nil {
		ways["shifted clocks"] = deathWay{[]container.Option{sleep}, func(ctx context.Context, _ *container.Container) error {
			return run(ctx, container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: time.Hour, Boottime: time.Hour}), container.WithCommand("/bin/true"))
		}}
	}
	return ways
}

// Whoever dies while the host program is busy with a container, and whenever: the call
// comes back with an error, and nothing is left, neither of the container nor of a file that
// was half written.
func TestDeathsOnEveryWay(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	to := workFolder(t)
	for name, way := range deathWays(t, to) {
		t.Run(name, func(t *testing.T) { deaths(t, to, way) })
	}
}

// The same of what is written into a user's own folder.
func TestDeathsOfStagedWorkspaces(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	ws := workFolder(t)
	deaths(t, ws, deathWay{
		[]container.Option{
			container.WithRoot(rootfs.Overlay(baseRoot(t))), container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()), rootfs.Workspace(ws, "/work", rootfs.Staged())),
			sh(`cd /work; while :; do mkdir -p d/e; echo 1 >d/e/f; ln -s d l; rm -r d l; echo 2 >d; rm d; done`),
		},
		func(ctx context.Context, c *container.Container) error {
			for _, err := range c.Changes() {
				if err != nil {
					return err
				}
			}
			return c.Commit(ctx)
		},
	})
}

func deaths(t *testing.T, folder string, way deathWay) {
	t.Helper()
	for round := range rounds() {
		c := start(t, way.opts...)
		victim, err := unix.PidfdOpen(c.PID(), 0)
		require.NoError(t, err, "round %d, %d", round, c.PID())
		var kill func() error
		switch round % 3 {
		case 0:
			kill = c.Kill
		case 1:
			kill = func() error { return unix.PidfdSendSignal(victim, unix.SIGKILL, nil, 0) }
		case 2:
			launcher := launcherPID(t)
			kill = func() error { return unix.Kill(launcher, unix.SIGKILL) }
		}
		ctx := timeout(t)
		if round == 0 {
			require.NoError(t, way.do(ctx, c), "nobody has died")
		}
		done := make(chan error, 1)
		go func() {
			var err error
			for err == nil {
				if err = way.do(ctx, c); err == nil {
					err = c.Signal(unix.Signal(0)) // what an ended job left can be read and copied
				}
			}
			done <- err
		}()
		<-time.After(rand.N(20 * time.Millisecond)) // at any moment
		require.NoError(t, kill())
		err = <-done
		require.Error(t, err)
		require.NoError(t, ctx.Err(), "it came back by itself: %v", err)
		require.NoError(t, c.Close())
		require.NoError(t, unix.Close(victim))
		left, err := filepath.Glob(filepath.Join(folder, ".inlay-*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}
