package container_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// said is what a script said, with the host's programs.
func said(t *testing.T, script string, opts ...container.Option) string {
	t.Helper()
	var out strings.Builder
	opts = append(opts, container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly())), container.WithCommand("/bin/sh", "-c", script), container.WithStdout(&out), container.WithStderr(&out))
	res, err := container.Run(timeout(t), opts...)
	require.NoError(t, err)
	require.True(t, res.Success(), "%v\n%s", res, out.String())
	return out.String()
}

// baseRoot is a folder that can be a root once /usr is mounted in it, with files of
// the test's user.
func baseRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, d := range []string{"usr", "etc", "data/sub"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, n := range []string{"bin", "sbin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + n); err == nil {
			require.NoError(t, os.Symlink(to, filepath.Join(dir, n)))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/motd"), []byte("as it was\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data/a"), []byte("a"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data/sub/b"), []byte("b"), 0o644))
	return dir
}

// needIDMaps skips where the kernel shows no mount with other owners, and looks that this
// is refused there. A user needs none.
func needIDMaps(t *testing.T) {
	t.Helper()
	needContainers(t)
	if os.Geteuid() != 0 {
		return
	}
	_, err := container.Run(timeout(t), container.WithMounts(rootfs.Workspace(workFolder(t), "/work")), container.WithCommand("true"))
	if errors.Is(err, unix.ENOSYS) {
		require.ErrorContains(t, err, "since Linux 5.12")
		t.Skip("needs Linux 5.12: mounts with other owners")
	}
}

// needUpper skips where the kernel has no overlays in user namespaces, with an upper on a
// disk, and looks that they are refused there.
func needUpper(t *testing.T) {
	t.Helper()
	needIDMaps(t)
	upper, err := os.MkdirTemp("/var/tmp", "inlay-test-") //nolint:usetesting // TMPDIR may be in memory
	require.NoError(t, err)
	defer os.RemoveAll(upper) //nolint:errcheck // the test's own makes sure
	_, err = container.Run(timeout(t), container.WithRoot(rootfs.Overlay(baseRoot(t), rootfs.Upper(upper))), container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly())), container.WithCommand("/bin/true"))
	if errors.Is(err, unix.EPERM) {
		require.ErrorContains(t, err, "takes Linux 5.11")
		t.Skip("needs Linux 5.11: overlays in user namespaces")
	}
}

// needOverlay skips where the kernel has no overlays with an upper in memory, and
// looks that they are refused there.
func needOverlay(t *testing.T) {
	t.Helper()
	needContainers(t)
	_, err := container.Run(timeout(t), container.WithRoot(rootfs.Overlay(baseRoot(t))), container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly())), container.WithCommand("/bin/true"))
	if errors.Is(err, errors.ErrUnsupported) {
		require.ErrorContains(t, err, "rootfs.Upper")
		_, err := container.Run(timeout(t), container.WithMounts(rootfs.Workspace(workFolder(t), "/work", rootfs.Staged())), container.WithCommand("/bin/true"))
		require.ErrorIs(t, err, errors.ErrUnsupported)
		t.Skip("needs Linux 6.6: user attributes in memory file systems")
	}
	require.NoError(t, err)
}

// tree is all that a folder holds, to see that it is as before.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintln(&b, rel, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim)
		return nil
	}))
	return b.String()
}

func TestOverlayIsDisposable(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	dir := baseRoot(t)
	before := tree(t, dir)
	root := container.WithRoot(rootfs.Overlay(dir))
	out := said(t, `cat /etc/motd; echo new >/etc/motd; rm -r /data/sub; mkdir /data/sub; echo c >/data/sub/c; rm /data/a; cat /etc/motd; ls /data /data/sub; id -u; stat -c %u:%a /etc/motd; echo x >/tmp/y; ls -d /proc/1`, root)
	require.Equal(t, "as it was\nnew\n/data:\nsub\n\n/data/sub:\nc\n0\n0:600\n/proc/1\n", out)
	require.Equal(t, before, tree(t, dir), "and nothing of that is on the disk")
	require.Equal(t, "as it was\n", said(t, "cat /etc/motd", root))
}

func TestOverlayIsLimited(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	root := container.WithRoot(rootfs.Overlay(baseRoot(t), rootfs.Size(1<<20), rootfs.Inodes(64)))
	out := said(t, `dd if=/dev/zero of=/big bs=65536 count=32 2>&1 | grep -o "No space" ; i=0; while touch /data/$i 2>/dev/null; do i=$((i+1)); done; echo $i`, root)
	lines := strings.Fields(out)
	require.Contains(t, out, "No space")
	n := lines[len(lines)-1]
	require.Len(t, n, 2, "about fifty: %s", out)
}

func TestOverlayIsKept(t *testing.T) {
	containertest.Census(t)
	needUpper(t)
	dir := baseRoot(t)
	upper, err := os.MkdirTemp("/var/tmp", "inlay-test-") //nolint:usetesting // TMPDIR may be in memory
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(upper)) })
	root := container.WithRoot(rootfs.Overlay(dir, rootfs.Upper(upper)))
	before := tree(t, dir)
	said(t, "echo kept >/data/new; rm /data/a; echo other >/etc/motd", root)
	require.Equal(t, "new\nsub\nother\n", said(t, "ls /data; cat /etc/motd", root), "by another container with other ids")
	require.Equal(t, before, tree(t, dir))
	// Two at once would spoil it.
	c := start(t, root)
	_, err = container.Run(timeout(t), root, container.WithCommand("/bin/ls"))
	var se *container.StartError
	require.ErrorAs(t, err, &se)
	require.ErrorIs(t, err, unix.EWOULDBLOCK)
	require.NoError(t, c.Close())
	require.NoError(t, os.Chmod(upper, 0o755))
	_, err = container.Run(timeout(t), root, container.WithCommand("/bin/ls"))
	require.ErrorIs(t, err, unix.EACCES)
}

func TestOverlayOfSeveralFolders(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	dir, top := baseRoot(t), t.TempDir()
	require.NoError(t, os.Chmod(top, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(top, "data"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(top, "data/a"), []byte("above\n"), 0o644))
	out := said(t, "cat /data/a; ls /data", container.WithRoot(rootfs.Overlay(top, rootfs.Below(dir))))
	require.Equal(t, "above\na\nsub\n", out)
}

func TestWorkspaceKeepsItsOwner(t *testing.T) {
	containertest.Census(t)
	needIDMaps(t)
	for _, as := range []struct{ owner, user int }{{0, 0}, {1234, 0}, {1234, 77}} {
		if os.Getuid() != 0 && (as.owner != 0 || as.user != 0) {
			continue
		}
		ws := workFolder(t)
		require.NoError(t, os.WriteFile(filepath.Join(ws, "old"), []byte("1"), 0o600))
		if os.Getuid() == 0 {
			require.NoError(t, os.Chown(ws, as.owner, as.owner))
			require.NoError(t, os.Chown(filepath.Join(ws, "old"), as.owner, as.owner))
		}
		out := said(t, "cd /work && cat old && echo 2 >new && echo 3 >>old && stat -c %u old new", container.WithMounts(rootfs.Workspace(ws, "/work")),
			container.WithUser(uint32(as.user), uint32(as.user)))
		u := map[int]string{0: "0", 77: "77"}[as.user]
		require.Equal(t, "1"+u+"\n"+u+"\n", out)
		owner := as.owner
		if os.Getuid() != 0 {
			owner = os.Getuid()
		}
		for _, n := range []string{"old", "new"} {
			var st unix.Stat_t
			require.NoError(t, unix.Stat(filepath.Join(ws, n), &st))
			require.EqualValues(t, owner, st.Uid, n)
		}
	}
}

func changes(t *testing.T, c *container.Container) (list []string) {
	t.Helper()
	for ch, err := range c.Changes() {
		require.NoError(t, err)
		list = append(list, ch.String())
	}
	return list
}

const changing = `cd $0; echo new >new; rm sub/b; mkdir dir; echo x >dir/x; chmod 0700 dir; echo aa >a; ln -s a link; mkdir made; rmdir made; rm -r gone; mkdir again.d; mv again.d/.. . 2>/dev/null
rm -r again; mkdir again; echo 2 >again/2; echo 1 >again/1; rm kind; mkdir kind; mv old moved; chmod 600 mode`

// changed is a folder for that script.
func changed(t *testing.T, dir string) {
	t.Helper()
	for name, text := range map[string]string{"a": "a", "sub/b": "b", "sub/c": "c", "gone/x/y": "", "again/1": "", "again/3": "", "kind": "", "old": "moved", "mode": "", "as is": ""} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

func TestChanges(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	want := []string{"C /a", "C /again/1", "A /again/2", "D /again/3", "A /again.d", "A /dir", "A /dir/x", "D /gone", "C /kind", "A /link", "C /mode", "A /moved", "A /new", "D /old", "D /sub/b"}
	in := func(dir string) (list []string) {
		for _, w := range want {
			list = append(list, w[:2]+filepath.Join(dir, w[2:]))
		}
		return list
	}
	t.Run("root", func(t *testing.T) {
		dir := baseRoot(t)
		require.NoError(t, os.Mkdir(filepath.Join(dir, "files"), 0o755))
		changed(t, filepath.Join(dir, "files"))
		c := start(t, container.WithRoot(rootfs.Overlay(dir)), container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()), rootfs.Tmpfs("/mnt/x")),
			container.WithFile("/etc/own", nil, 0o644), container.WithCommand("/bin/sh", "-c", changing, "/files"))
		_, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.ElementsMatch(t, in("/files"), changes(t, c))
		require.ErrorIs(t, c.Commit(timeout(t)), errors.ErrUnsupported)
		require.NoError(t, c.Close())
	})
	t.Run("workspace", func(t *testing.T) {
		ws, other := workFolder(t), workFolder(t)
		changed(t, ws)
		changed(t, other)
		before, before2 := tree(t, ws), tree(t, other)
		c := start(t, container.WithMounts(rootfs.Workspace(ws, "/work", rootfs.Staged()), rootfs.Workspace(other, "/tmp/b", rootfs.Staged())),
			container.WithCommand("/bin/sh", "-c", changing+"; echo 1 >/tmp/b/one", "/work"))
		_, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.ElementsMatch(t, append(in("/work"), "A /tmp/b/one"), changes(t, c))
		require.Equal(t, before, tree(t, ws))
		require.NoError(t, c.Commit(timeout(t), "/work"))
		require.Equal(t, before2, tree(t, other))
		var names []string
		for l := range strings.Lines(tree(t, ws)) {
			names = append(names, strings.Fields(l)[0])
		}
		require.Equal(t, []string{".", "a", "again", "again/1", "again/2", "again.d", "as", "dir", "dir/x", "kind", "link", "mode", "moved", "new", "sub", "sub/c"}, names)
		for name, text := range map[string]string{"a": "aa\n", "moved": "moved", "new": "new\n", "dir/x": "x\n", "again/1": "1\n", "again/2": "2\n"} {
			got, err := os.ReadFile(filepath.Join(ws, name))
			require.NoError(t, err)
			require.Equal(t, text, string(got), name)
		}
		to, err := os.Readlink(filepath.Join(ws, "link"))
		require.NoError(t, err)
		require.Equal(t, "a", to)
		for name, mode := range map[string]uint32{"dir": 0o700, "mode": 0o600, "a": 0o644} {
			var st unix.Stat_t
			require.NoError(t, unix.Stat(filepath.Join(ws, name), &st))
			require.Equal(t, mode, st.Mode&0o7777, name)
			require.EqualValues(t, os.Getuid(), st.Uid, name)
		}
		require.NoError(t, c.Commit(timeout(t)), "again, and the other")
		require.FileExists(t, filepath.Join(other, "one"))
		var oe *container.OptionError
		require.ErrorAs(t, c.Commit(timeout(t), "/none"), &oe)
		require.NoError(t, c.Discard())
		require.ErrorIs(t, c.Commit(timeout(t)), container.ErrClosed)
	})
	t.Run("none", func(t *testing.T) {
		c := start(t)
		for _, err := range c.Changes() {
			require.ErrorIs(t, err, errors.ErrUnsupported)
		}
		require.NoError(t, c.Close())
		for _, err := range c.Changes() {
			require.ErrorIs(t, err, container.ErrClosed)
		}
	})
}

// workFolder is a folder that can be a workspace: of root's where nobody else can enter.
func workFolder(t *testing.T) string {
	t.Helper()
	ws := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(ws), 0o700))
	require.NoError(t, os.Chmod(ws, 0o700))
	return ws
}

// A folder of root's that others may reach is no workspace: a job could leave a
// set-user-ID program there, whatever the folder's own mode.
func TestWorkspaceOfRootIsClosed(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	needIDMaps(t)
	ws := workFolder(t)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(ws, link))
	run := func(path string, opts ...rootfs.MountOption) error {
		_, err := container.Run(timeout(t), container.WithMounts(rootfs.Workspace(path, "/work", opts...)), container.WithCommand("/bin/true"))
		return err
	}
	require.NoError(t, run(ws))
	require.NoError(t, run(link))
	for _, as := range [][2]int{{0, 0}, {1234, 0}, {0, 1234}} {
		require.NoError(t, os.Chown(ws, as[0], as[1]))
		require.NoError(t, os.Chmod(filepath.Dir(ws), 0o755))
		require.ErrorIs(t, run(ws), unix.EACCES, "%v", as)
		require.ErrorIs(t, run(link), unix.EACCES, "%v", as)
		require.NoError(t, run(ws, rootfs.ReadOnly()))
		require.NoError(t, os.Chmod(filepath.Dir(ws), 0o700))
		require.NoError(t, run(ws))
	}
	require.NoError(t, os.Chown(ws, 1234, 1234))
	require.NoError(t, os.Chmod(filepath.Dir(ws), 0o755))
	require.NoError(t, run(ws))
}

// What is committed goes to the folder that the container had, and nowhere else.
func TestCommitIntoTheSameFolder(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	base := t.TempDir()
	ws, other := filepath.Join(base, "ws"), filepath.Join(base, "other")
	require.NoError(t, os.Mkdir(ws, 0o700))
	require.NoError(t, os.Mkdir(other, 0o700))
	c := start(t, container.WithMounts(rootfs.Workspace(ws, "/work", rootfs.Staged())), sh("echo 1 >/work/new"))
	_, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, os.Rename(ws, ws+".moved"))
	require.NoError(t, os.Symlink(other, ws))
	require.ErrorIs(t, c.Commit(timeout(t)), unix.ESTALE)
	for _, err := range c.Changes() {
		require.ErrorIs(t, err, unix.ESTALE)
	}
	list, err := os.ReadDir(other)
	require.NoError(t, err)
	require.Empty(t, list)
	require.NoError(t, os.Remove(ws))
	require.NoError(t, os.Rename(ws+".moved", ws))
	require.NoError(t, c.Commit(timeout(t)))
	require.FileExists(t, filepath.Join(ws, "new"))
}

// The container's own files are no changes; links stay links; folders without the right
// to write are no obstacle; and no more is written than the workspace may hold.
func TestCommitIsWhole(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	ws := workFolder(t)
	require.NoError(t, os.MkdirAll(filepath.Join(ws, "ro/sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(ws, "ro/sub/old"), nil, 0o444))
	require.NoError(t, os.MkdirAll(filepath.Join(ws, "cache/deep"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(ws, "cache/deep/f"), nil, 0o444))
	for _, d := range []string{"ro/sub", "ro", "cache/deep", "cache"} {
		require.NoError(t, os.Chmod(filepath.Join(ws, d), 0o555))
	}
	t.Cleanup(func() { require.NoError(t, os.Chmod(filepath.Join(ws, "ro"), 0o755)) })
	t.Cleanup(func() { require.NoError(t, os.Chmod(filepath.Join(ws, "ro/sub"), 0o755)) })
	c := start(t, container.WithMounts(rootfs.Workspace(ws, "/work", rootfs.Staged(), rootfs.Size(2<<20)), rootfs.Tmpfs("/work/mnt")), container.WithFile("/work/.own", []byte("secret"), 0o600),
		sh(`cd /work; chmod +w ro ro/sub; echo 1 >ro/sub/new; rm ro/sub/old; chmod -w ro/sub; chmod -w ro; chmod -R u+w cache; rm -r cache
dd if=/dev/zero of=one bs=65536 count=16 2>/dev/null; for i in 1 2 3 4 5 6 7 8; do ln one link$i; done`))
	_, err := c.Wait(timeout(t))
	require.NoError(t, err)
	for _, l := range changes(t, c) {
		require.NotContains(t, l, ".own")
		require.NotContains(t, l, "mnt")
	}
	require.NoError(t, c.Commit(timeout(t)))
	require.NoFileExists(t, filepath.Join(ws, ".own"))
	require.NoDirExists(t, filepath.Join(ws, "mnt"))
	require.NoDirExists(t, filepath.Join(ws, "cache"))
	require.FileExists(t, filepath.Join(ws, "ro/sub/new"))
	require.NoFileExists(t, filepath.Join(ws, "ro/sub/old"))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(ws, "link8"), &st))
	require.EqualValues(t, 9, st.Nlink)
	for _, d := range []string{"ro", "ro/sub"} {
		require.NoError(t, unix.Stat(filepath.Join(ws, d), &st))
		require.EqualValues(t, 0o555, st.Mode&0o7777, d)
	}
	left, err := filepath.Glob(filepath.Join(ws, ".inlay-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.Commit(canceled), context.Canceled)
}

// Jobs at work are no reason to fail.
func TestCommitWhileJobsWork(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	ws := workFolder(t)
	c := start(t, container.WithMounts(rootfs.Workspace(ws, "/work", rootfs.Staged())),
		sh(`cd /work; while :; do mkdir -p d/e; echo 1 >d/e/f; ln -s d l; rm -r d l; echo 2 >d; rm d; done`))
	for range 50 {
		require.NoError(t, c.Commit(timeout(t)))
		for _, err := range c.Changes() {
			require.NoError(t, err)
		}
	}
}

func TestCommitOfOddFiles(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	ws := workFolder(t)
	c := start(t, container.WithMounts(rootfs.Workspace(ws, "/work", rootfs.Staged())),
		sh(`cd /work; mkfifo fifo; dd if=/dev/zero of=sparse bs=1 count=1 seek=1G 2>/dev/null; echo x >suid; chmod 6755 suid; echo 1 >"$(printf 'new\nline\377')"; ln -s /etc/passwd out; ln -s ../../.. up; mkdir ro; echo 1 >ro/f; chmod 500 ro`))
	_, err := c.Wait(timeout(t))
	require.NoError(t, err)
	err = c.Commit(timeout(t))
	var ce *container.CommitError
	require.ErrorAs(t, err, &ce)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Equal(t, "/work/fifo", ce.Path)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(ws, "sparse"), &st))
	require.EqualValues(t, 1<<30+1, st.Size)
	require.Less(t, st.Blocks, int64(1000), "its holes stay holes")
	require.NoError(t, unix.Stat(filepath.Join(ws, "suid"), &st))
	require.EqualValues(t, 0o755, st.Mode&0o7777)
	require.FileExists(t, filepath.Join(ws, "new\nline\377"))
	to, err := os.Readlink(filepath.Join(ws, "out"))
	require.NoError(t, err)
	require.Equal(t, "/etc/passwd", to, "a link is a link")
	require.FileExists(t, filepath.Join(ws, "ro/f"))
	require.NoError(t, os.Chmod(filepath.Join(ws, "ro"), 0o700))
}
