package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// hostileRoot makes a root for rootfs.Dir, out of busybox.
func hostileRoot(t *testing.T, dir string) {
	t.Helper()
	busybox, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		containertest.Require(t, containertest.Program("busybox"))
		require.NoError(t, err)
	}
	for _, d := range []string{"", "bin", "proc", "dev", "tmp", "run", "etc", "work"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755))
}

// outsideText is all that lies in a folder.
func outsideText(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Mode(), info.Size())
		return nil
	}))
	return b.String()
}

// A root that somebody prepared: its own folders are links that lead out. Nothing
// outside is touched; what was asked for lands inside, or Start says what is
// wrong.
func TestHostileRoot(t *testing.T) {
	containertest.Census(t)
	base := t.TempDir()
	for _, d := range []string{filepath.Dir(base), base} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	outside := filepath.Join(base, "outside")
	require.NoError(t, os.Mkdir(outside, 0o777))
	require.NoError(t, os.Chmod(outside, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "kept"), []byte("kept"), 0o666))
	before := outsideText(t, outside)
	top, err := os.ReadDir("/")
	require.NoError(t, err)
	fresh := fmt.Sprintf("inlay-new-%d", os.Getpid()) // that nobody has
	ids := container.WithIDMaps(hostIDs())            // the worst case: the job's root is this user
	n := 0
	for _, name := range []string{"proc", "dev", "tmp", "run", "etc", "work"} {
		for _, target := range []string{"/", "..", "../../..", "/proc/self/fd", "/proc/1/root", "/proc/self/cwd/..", outside, "../outside", "../../../../../../../.." + outside, name} {
			for _, writable := range []bool{false, true} {
				n++
				dir := filepath.Join(base, fmt.Sprintf("root%d", n))
				hostileRoot(t, dir)
				require.NoError(t, os.Remove(filepath.Join(dir, name)))
				require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
				root := rootfs.Dir(dir)
				if writable {
					root = rootfs.Dir(dir, rootfs.Writable())
				}
				for what, opts := range map[string][]container.Option{
					"nothing": nil,
					"file":    {container.WithFile("/"+name+"/"+fresh+"/file", []byte("x"), 0o644)},
					"file 2":  {container.WithFile("/"+name+"/kept", []byte("x"), 0o644)},
					"bind":    {container.WithMounts(rootfs.Bind("/usr", "/"+name+"/usr", rootfs.ReadOnly()))},
					"bind 2":  {container.WithMounts(rootfs.Bind("/etc/passwd", "/"+name+"/kept"))},
					"tmpfs":   {container.WithMounts(rootfs.Tmpfs("/" + name + "/" + fresh + "t"))},
				} {
					res, err := container.Run(timeout(t), append(opts, ids, container.WithRoot(root), container.WithCommand("/bin/busybox", "true"))...)
					label := fmt.Sprintf("%s → %s, %s, writable %v", name, target, what, writable)
					if err != nil {
						var e *container.StartError
						require.ErrorAs(t, err, &e, label)
						require.Nil(t, res)
					} else {
						require.True(t, res.Success(), "%s: %v", label, res)
					}
					require.Equal(t, before, outsideText(t, outside), label)
					for up := filepath.Dir(dir); ; up = filepath.Dir(up) {
						require.NoDirExists(t, filepath.Join(up, fresh), label)
						require.NoDirExists(t, filepath.Join(up, fresh+"t"), label)
						if up == "/" {
							break
						}
					}
				}
				require.NoError(t, os.RemoveAll(dir))
			}
		}
	}
	after, err := os.ReadDir("/")
	require.NoError(t, err)
	require.Len(t, after, len(top), "something was made in the host's /")
	kept, err := os.ReadFile(filepath.Join(outside, "kept"))
	require.NoError(t, err)
	require.Equal(t, "kept", string(kept))
}

// hostIDs map root inside to this user.
func hostIDs() (uids, gids []namespace.IDMap) {
	// As root the host's ids, else the launcher's, where this user is 0: both 0.
	one := []namespace.IDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	return one, one
}

// A name that changes between a folder and a link that leads out, all the time,
// is never followed out.
func TestHostileRootChanges(t *testing.T) {
	containertest.Census(t)
	base := t.TempDir()
	for _, d := range []string{filepath.Dir(base), base} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	outside := filepath.Join(base, "outside")
	require.NoError(t, os.Mkdir(outside, 0o777))
	dir := filepath.Join(base, "root")
	hostileRoot(t, dir)
	a, b := filepath.Join(dir, "work"), filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(outside, b))
	before := outsideText(t, outside)
	var stop atomic.Bool
	var swaps int
	swapped := make(chan error, 1)
	go func() {
		for !stop.Load() {
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				swapped <- err
				return
			}
			swaps++
		}
		swapped <- nil
	}()
	inside, refused := 0, 0
	for i := range 100 {
		name := fmt.Sprintf("%d", i)
		opts := []container.Option{container.WithFile("/work/f"+name, []byte("x"), 0o644)}
		if i%2 == 0 {
			opts = []container.Option{container.WithMounts(rootfs.Tmpfs("/work/t" + name)), container.WithFile("/work/t"+name+"/x", []byte("x"), 0o644)}
		}
		_, err := container.Run(timeout(t), append(opts, container.WithIDMaps(hostIDs()), container.WithRoot(rootfs.Dir(dir, rootfs.Writable())), container.WithCommand("/bin/busybox", "true"))...)
		if err == nil {
			inside++
			continue
		}
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		refused++
	}
	stop.Store(true)
	require.NoError(t, <-swapped)
	t.Logf("%d inside, %d refused, %d changes", inside, refused, swaps)
	require.Positive(t, inside)
	require.Positive(t, refused)
	require.Equal(t, before, outsideText(t, outside))
}

// What a hostile tree has in place of files: neither the start nor its diagnosis
// of a command hangs, and no device of it opens.
func TestHostileFiles(t *testing.T) {
	containertest.Census(t)
	dir := filepath.Join(t.TempDir(), "root")
	for _, d := range []string{filepath.Dir(filepath.Dir(dir)), filepath.Dir(dir)} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	hostileRoot(t, dir)
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o777))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "work/fifo"), 0o777))
	require.NoError(t, os.Symlink("/fifo", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	root := container.WithRoot(rootfs.Dir(dir, rootfs.Writable()))
	opts := container.Options(root, container.WithIDMaps(hostIDs()))
	for _, name := range []string{"/fifo", "/link", "/loop", "/proc/self/fd/0", "/proc/1/exe", "/dev/null", "/dev/stdin"} {
		_, err := container.Run(timeout(t), opts, container.WithCommand(name))
		var e *container.StartError
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, "execve", e.Op, name)
	}
	for _, o := range []container.Option{
		container.WithFile("/fifo", []byte("x"), 0o644), container.WithFile("/link", []byte("x"), 0o644), container.WithFile("/loop/x", nil, 0o644),
		container.WithFile("/fifo/x", nil, 0o644), container.WithMounts(rootfs.Tmpfs("/fifo/x")), container.WithDir("/fifo"), container.WithDir("/loop"), container.WithDir("/proc/1/root"), container.WithDir("/proc/1/cwd"),
	} {
		_, err := container.Run(timeout(t), opts, o, container.WithCommand("/bin/busybox", "true"))
		var e *container.StartError
		require.ErrorAs(t, err, &e, "%v", o)
	}
	res, err := container.Run(timeout(t), opts, container.WithMounts(rootfs.Bind("/etc/passwd", "/work/fifo", rootfs.ReadOnly())), container.WithCommand("/bin/busybox", "grep", "-q", "root", "/work/fifo"))
	require.NoError(t, err)
	require.True(t, res.Success(), "%v", res)
	if os.Geteuid() == 0 {
		require.NoError(t, unix.Mknod(filepath.Join(dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
		require.Equal(t, "denied\n", output(t, opts, container.WithCommand("/bin/busybox", "sh", "-c", "(: </zero) 2>/dev/null || echo denied")))
	}
}
