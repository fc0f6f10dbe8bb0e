package container_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/rootfs"
)

// running starts a container without a main job, closed at the test's end.
func running(t testing.TB, opts ...container.Option) *container.Container {
	t.Helper()
	c, err := container.New(opts...)
	require.NoError(t, err)
	require.NoError(t, c.Start(timeout(t)))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func execute(t testing.TB, c *container.Container, line string) string {
	t.Helper()
	var out bytes.Buffer
	p, err := c.Exec(timeout(t), sh(line), container.WithStdout(&out), container.WithStderr(&out))
	require.NoError(t, err)
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, res.Err(), out.String())
	return out.String()
}

// What one container makes another reads, without a copy: the file itself, read-only, for
// as long as the other lives.
func TestMountOfContainer(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for name, root := range map[string]container.Option{
		"host":  container.WithMounts(rootfs.Tmpfs("/out")),
		"empty": container.Options(container.WithRoot(rootfs.Empty()), usr()),
	} {
		t.Run(name, func(t *testing.T) {
			first := running(t, root)
			execute(t, first, `mkdir -p /out/deep && echo made >/out/deep/f && ln -s /out/deep /out/link && echo '#!/bin/sh
echo ran' >/out/p && chmod 755 /out/p`)
			mounts := container.WithMounts(first.Mount("/out", "/in"), first.Mount("/out/link/f", "/tmp/one"), first.Mount("/out/link", "/deep"))
			second := running(t, mounts)
			text := execute(t, second, `cat /in/deep/f /tmp/one /deep/f; /in/p
				echo x 2>&1 >>/in/deep/f || echo refused; echo x 2>&1 >/tmp/one || echo refused; mkdir /in/new 2>&1 || echo refused; umount /in 2>/dev/null || echo stays`)
			require.True(t, strings.HasPrefix(text, "made\nmade\nmade\nran\n"), text)
			require.Equal(t, 3, strings.Count(text, "refused\n"), text)
			require.GreaterOrEqual(t, strings.Count(text, "Read-only file system"), 2, text) // as root, the file is nobody's as well
			require.Contains(t, text, "stays\n")
			execute(t, first, "echo more >>/out/deep/f")
			require.Equal(t, "made\nmore\n", execute(t, second, "cat /tmp/one"))
			// It outlives where it came from.
			require.NoError(t, first.Close())
			require.Equal(t, "made\nmore\n", execute(t, second, "cat /in/deep/f"))
		})
	}
}

// The files of a job that has ended are there until Close.
func TestMountOfEndedJob(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	first := running(t, container.WithMounts(rootfs.Tmpfs("/out")), sh("echo done >/out/f"))
	_, err := first.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, "done\n", output(t, container.WithMounts(first.Mount("/out/f", "/tmp/f")), sh("cat /tmp/f")))
}

// What is hidden in one container is hidden in the other.
func TestEscapeMountRevealsCovered(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", "secret"), []byte("secret"), 0o644))
	require.NoError(t, os.Chmod(dir, 0o755))
	first := running(t, container.WithMounts(rootfs.Bind(dir, "/data", rootfs.ReadOnly()), rootfs.Tmpfs("/data/sub")))
	text := output(t, container.WithMounts(first.Mount("/data", "/in"), first.Mount("/etc", "/run/etc")),
		sh("ls -A /in/sub; umount /in/sub 2>/dev/null || echo stays; cat /run/etc/shadow 2>/dev/null | wc -c; ls -A /run/etc/ssh 2>/dev/null; true"))
	require.Equal(t, "stays\n0\n", text)
}

func TestMountOfContainerRefused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	never, err := container.New()
	require.NoError(t, err)
	closed, err := container.New()
	require.NoError(t, err)
	require.NoError(t, closed.Start(timeout(t)))
	require.NoError(t, closed.Close())
	killed := running(t)
	require.NoError(t, killed.Kill())
	_, err = killed.Wait(timeout(t))
	require.NoError(t, err)
	first := running(t, container.WithMounts(rootfs.Tmpfs("/out")))
	execute(t, first, `cd /out && mkfifo fifo && ln -s loop loop && ln -s / root && ln -s /dev dev && ln -s /proc/self/root magic && ln -s ../../../../../../out up`)
	for name, tt := range map[string]struct {
		c    *container.Container
		path string
		want error
	}{
		"not started":        {never, "/tmp", container.ErrNotStarted},
		"closed":             {closed, "/tmp", container.ErrClosed},
		"killed":             {killed, "/tmp", container.ErrEnded},
		"not there":          {first, "/out/none", unix.ENOENT},
		"not a folder":       {first, "/etc/passwd/x", unix.ENOTDIR},
		"a loop":             {first, "/out/loop", unix.ELOOP},
		"a magic link":       {first, "/out/magic", unix.ELOOP},
		"a FIFO":             {first, "/out/fifo", errors.ErrUnsupported},
		"a device":           {first, "/dev/null", errors.ErrUnsupported},
		"proc":               {first, "/proc", errors.ErrUnsupported},
		"of proc":            {first, "/proc/self/net", errors.ErrUnsupported},
		"terminals":          {first, "/dev/pts", errors.ErrUnsupported},
		"dev":                {first, "/dev", errors.ErrUnsupported},
		"dev by a link":      {first, "/out/dev", errors.ErrUnsupported},
		"the root by a link": {first, "/out/root", errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			fault := startFault(t, container.WithMounts(tt.c.Mount(tt.path, "/in")))
			require.ErrorIs(t, fault, tt.want)
			require.Equal(t, tt.path, fault.Path)
			require.Equal(t, "open_tree", fault.Op)
			require.Contains(t, fault.Remedy, tt.c.ID())
		})
	}
	// A link that leads up stays inside.
	require.Contains(t, output(t, container.WithMounts(first.Mount("/out/up", "/in")), sh("ls /in")), "fifo")
	require.NoError(t, never.Close())
	// Where it is to be in the other has its own rules.
	fault := startFault(t, container.WithMounts(first.Mount("/out", "/usr/none")))
	require.ErrorIs(t, fault, unix.EROFS)
	fault = startFault(t, container.WithMounts(first.Mount("/out", "/etc/passwd")))
	require.ErrorIs(t, fault, unix.ENOTDIR)
}

func TestMountOfContainerIsNoData(t *testing.T) {
	c, err := container.New(container.WithID("first"))
	require.NoError(t, err)
	for reason, m := range map[string]rootfs.Mount{
		"relative":              c.Mount("x", "/in"),
		`".."`:                  c.Mount("/x/../y", "/in"),
		"empty path":            c.Mount("", "/in"),
		`source "/"`:            c.Mount("//", "/in"),
		`target "/"`:            c.Mount("/x", "/"),
		"target: path":          c.Mount("/x", "in"),
		"NUL":                   c.Mount("/x\x00", "/in"),
		"is read-only":          {Type: "container", Source: "/x", Target: "/in", Origin: c.Mount("/x", "/in").Origin},
		"no container":          {Type: "container", Source: "/x", Target: "/in", ReadOnly: true},
		"has no size":           {Type: "container", Source: "/x", Target: "/in", ReadOnly: true, Size: 5, Origin: c.Mount("/x", "/in").Origin},
		"an origin is":          {Type: "tmpfs", Target: "/in", Size: 5, Inodes: 5, Origin: c.Mount("/x", "/in").Origin},
		"mounted there already": {},
	} {
		mounts := []rootfs.Mount{m}
		if m.Type == "" {
			mounts = []rootfs.Mount{c.Mount("/x", "/in"), rootfs.Tmpfs("/in")}
		}
		_, err := container.New(container.WithMounts(mounts...))
		var fault *container.OptionError
		require.ErrorAs(t, err, &fault, reason)
		require.Contains(t, fault.Reason, reason)
	}
	o := container.WithMounts(c.Mount("/x", "/in"))
	require.Contains(t, o.String(), "container first (created)")
	second, err := container.New(o)
	require.NoError(t, err)
	text, err := json.Marshal(second.Spec())
	require.NoError(t, err)
	var back container.Spec
	require.NoError(t, json.Unmarshal(text, &back))
	_, err = container.FromSpec(back)
	require.ErrorContains(t, err, "JSON does not keep")
}

// Nothing is left where the other container does not start, at whichever step.
func TestMountOfContainerFailures(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	first := running(t, container.WithRoot(rootfs.FS(fstest.MapFS{"out/f": {Data: []byte("x")}})))
	opts := []container.Option{container.WithMounts(first.Mount("/out", "/in"), first.Mount("/out/f", "/f"))}
	defer container.Sabotage(nil)
	for n := 0; ; n++ {
		moves, hit := 0, false
		container.Sabotage(func(p *plan.Plan) {
			for i, s := range p.Steps {
				if s.Op != "move_mount" {
					continue
				}
				if moves++; moves == n+1 {
					p.Steps[i] = broken()
					hit = true
					return
				}
			}
		})
		c, err := container.New(opts...)
		require.NoError(t, err)
		err = c.Start(timeout(t))
		if !hit {
			require.NoError(t, err)
			data, err := fs.ReadFile(c.FS(), "f")
			require.NoError(t, err)
			require.Equal(t, "x", string(data))
			require.NoError(t, c.Close())
			require.Greater(t, n, 3)
			break
		}
		require.ErrorIs(t, err, unix.EBADF)
		require.NoError(t, c.Close())
	}
	container.Sabotage(nil)
	container.Fault(func(op, path string) error {
		if op == "open_tree" && path == "/out/f" {
			return unix.ENOMEM
		}
		return nil
	})
	defer container.Fault(nil)
	fault := startFault(t, opts...)
	require.ErrorIs(t, fault, unix.ENOMEM)
}
