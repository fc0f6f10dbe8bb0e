package container_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// listing describes a tree in words: type, mode, time, content.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		text := fmt.Sprint(info.Mode())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if len(data) > 100 {
				data = fmt.Appendf(nil, "%d bytes, %x", len(data), sha256.Sum256(data))
			}
			text += fmt.Sprintf(" %q %v", data, info.ModTime().UTC())
		case info.Mode().Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			text = "-> " + to
		case info.IsDir() && rel != ".":
			text += fmt.Sprint(" ", info.ModTime().UTC())
		}
		out[rel] = text
		return nil
	}))
	return out
}

// sampleTree makes a tree of everything that is copied.
func sampleTree(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"a/b/c", "empty", "closed"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for name, text := range map[string]string{
		"a/one": "one", "a/b/two": "two", "a/b/c/three": "three", "nothing": "", "with\nnewline": "x", "bad\xffutf8": "y", "closed/in": "in", "-rf": "z",
		"large": strings.Repeat("0123456789abcdef", 400_000),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		when := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), when, when))
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "a/one"), 0o4751))
	require.NoError(t, os.Chmod(filepath.Join(dir, "nothing"), 0o400))
	require.NoError(t, os.Symlink("a/b", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("/etc/shadow", filepath.Join(dir, "out")))
	require.NoError(t, os.Symlink("../../../../../../etc", filepath.Join(dir, "up")))
	require.NoError(t, os.Link(filepath.Join(dir, "a/one"), filepath.Join(dir, "again")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "closed"), 0o555))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "closed"), 0o755) })
	when := time.Date(2002, 2, 3, 4, 5, 6, 0, time.UTC)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "a"), when, when))
}

// withoutSetID is the listing of a copy: set-ID bits are gone.
func withoutSetID(list map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range list {
		if strings.HasPrefix(v, "u") {
			v = "-" + v[1:]
		}
		out[k] = v
	}
	return out
}

// A tree that goes in and comes out again is the same, while the container runs and
// after its main job, as a folder, as what is in one, and as an archive.
func TestCopyRoundTrip(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	src := filepath.Join(t.TempDir(), "src")
	require.NoError(t, os.Mkdir(src, 0o755))
	sampleTree(t, src)
	want := withoutSetID(listing(t, src))
	for _, end := range []string{"while it runs", "after the main job"} {
		t.Run(end, func(t *testing.T) {
			var c *container.Container
			if end == "while it runs" {
				c = start(t)
			} else {
				c = start(t, container.WithCommand("true"))
				_, err := c.Wait(timeout(t))
				require.NoError(t, err)
			}
			ctx, to := timeout(t), t.TempDir()
			in, err := c.CopyIn(ctx, src, "/tmp")
			require.NoError(t, err)
			require.EqualValues(t, len(want), in.Entries)
			require.Zero(t, in.Skipped, "%v", in.Left)
			out, err := c.CopyOut(ctx, "/tmp/src", to)
			require.NoError(t, err)
			require.Equal(t, in, out)
			require.Equal(t, want, listing(t, to+"/src"))
			// Hard links stay such.
			one, err := os.Stat(to + "/src/a/one")
			require.NoError(t, err)
			again, err := os.Stat(to + "/src/again")
			require.NoError(t, err)
			require.True(t, os.SameFile(one, again))
			// To a name of its own, and what is in it to a folder that is there: again.
			_, err = c.CopyOut(ctx, "/tmp/src/.", to+"/named")
			require.NoError(t, err)
			require.Equal(t, want, listing(t, to+"/named"))
			var archive bytes.Buffer
			report, err := c.TarOut(ctx, &archive, "/tmp/src")
			require.NoError(t, err)
			require.Equal(t, in, report)
			report, err = c.TarIn(ctx, bytes.NewReader(archive.Bytes()), "/run")
			require.NoError(t, err)
			require.Equal(t, in, report)
			_, err = c.CopyOut(ctx, "/run/src", to+"/untarred")
			require.NoError(t, err)
			require.Equal(t, seconds(want), seconds(listing(t, to+"/untarred")))
			merged := untimedFolders(want)
			merged["closed"] = "drwxr-xr-x"
			require.NoError(t, os.Chmod(to+"/named/closed", 0o755)) // else only root could write there
			for range 2 {
				_, err = c.CopyIn(ctx, src+"/.", "/tmp/src")
				require.NoError(t, err)
				_, err = c.CopyOut(ctx, "tmp/src/.", to+"/named")
				require.NoError(t, err)
				// Folders that are there are not touched, but by what is made in them.
				require.Equal(t, merged, untimedFolders(listing(t, to+"/named")))
			}
			require.NoError(t, os.Chmod(to+"/src/closed", 0o755))
			require.NoError(t, os.Chmod(to+"/untarred/closed", 0o755))
			require.NoError(t, c.Close())
		})
	}
}

// untimedFolders is a listing without the times of folders.
func untimedFolders(list map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range list {
		if strings.HasPrefix(v, "d") {
			v, _, _ = strings.Cut(v, " ")
		}
		out[k] = v
	}
	return out
}

// seconds is a listing without fractions of a second, which an archive has not.
func seconds(list map[string]string) map[string]string {
	fraction := regexp.MustCompile(`\.[0-9]+ \+0000 UTC$`)
	out := map[string]string{}
	for k, v := range list {
		out[k] = fraction.ReplaceAllString(v, " +0000 UTC")
	}
	return out
}

// Where a copy goes is as cp -a and docker cp have it, in both directions.
func TestCopyDestination(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	src := t.TempDir()
	require.NoError(t, os.MkdirAll(src+"/d/e", 0o755))
	require.NoError(t, os.WriteFile(src+"/f", []byte("f"), 0o644))
	require.NoError(t, os.WriteFile(src+"/d/e/g", []byte("g"), 0o644))
	require.NoError(t, os.Symlink("../src/d", src+"/link"))
	for _, tt := range []struct {
		name, src, dst string // dst below a folder that has the folder "is" and the file "file"
		want           string // the file that comes of it, below the same; "": an error
		err            error
	}{
		{name: "a file to a name", src: "f", dst: "new", want: "new"},
		{name: "a file to a folder", src: "f", dst: "is", want: "is/f"},
		{name: "a file to a folder with a slash", src: "f", dst: "is/", want: "is/f"},
		{name: "a file over a file", src: "f", dst: "file", want: "file"},
		{name: "a file to a folder that is not there", src: "f", dst: "new/", err: fs.ErrNotExist},
		{name: "a file below a folder that is not there", src: "f", dst: "no/new", err: fs.ErrNotExist},
		{name: "a file below a file", src: "f", dst: "file/new", err: unix.ENOTDIR},
		{name: "a folder to a name", src: "d", dst: "new", want: "new/e/g"},
		{name: "a folder with a slash to a name", src: "d/", dst: "new", want: "new/e/g"},
		{name: "a folder to a folder", src: "d", dst: "is", want: "is/d/e/g"},
		{name: "what is in a folder to a folder", src: "d/.", dst: "is", want: "is/e/g"},
		{name: "what is in a folder to a name", src: "d/.", dst: "new", want: "new/e/g"},
		{name: "a folder over a file", src: "d", dst: "file", err: unix.ENOTDIR},
		{name: "nothing", src: "no", dst: "new", err: fs.ErrNotExist},
		{name: "no name", src: "f", dst: "", err: unix.EINVAL},
		{name: "a link", src: "link", dst: "new", want: "new/e/g"},
		{name: "a NUL byte", src: "f", dst: "x\x00", err: unix.EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_ = execOutput(t, c, sh("rm -rf /tmp/t /tmp/src; mkdir -p /tmp/t/is; echo old >/tmp/t/file"))
			_, err := c.CopyIn(timeout(t), src, "/tmp/src")
			require.NoError(t, err)
			host := t.TempDir()
			require.NoError(t, os.Mkdir(host+"/is", 0o755))
			require.NoError(t, os.WriteFile(host+"/file", []byte("old"), 0o644))
			to := func(dir string) string {
				if tt.dst == "" {
					return ""
				}
				return dir + "/" + tt.dst
			}
			_, in := c.CopyIn(timeout(t), src+"/"+tt.src, to("/tmp/t"))
			_, out := c.CopyOut(timeout(t), "/tmp/src/"+tt.src, to(host))
			if tt.want == "" {
				for _, err := range []error{in, out} {
					var e *container.CopyError
					require.ErrorAs(t, err, &e)
					require.ErrorIs(t, err, tt.err)
					require.Zero(t, e.Report.Bytes)
				}
				text, err := os.ReadFile(host + "/file")
				require.NoError(t, err)
				require.Equal(t, "old", string(text))
				return
			}
			require.NoError(t, in)
			require.NoError(t, out)
			if tt.src == "link" { // itself, and not what it leads to
				to, err := os.Readlink(host + "/new")
				require.NoError(t, err)
				require.Equal(t, "../src/d", to)
				to, err = fs.ReadLink(c.FS(), "tmp/t/new")
				require.NoError(t, err)
				require.Equal(t, "../src/d", to)
				return
			}
			last := tt.want[len(tt.want)-1:]
			if last == "e" || last == "w" {
				last = "f"
			}
			text, err := os.ReadFile(host + "/" + tt.want)
			require.NoError(t, err)
			require.Equal(t, last, string(text))
			text, err = fs.ReadFile(c.FS(), "tmp/t/"+tt.want)
			require.NoError(t, err)
			require.Equal(t, last, string(text))
		})
	}
	require.NoError(t, c.Close())
}

// A folder in the place of a file, and the reverse, are errors; nothing of either is lost.
func TestCopyOverOthers(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, sh("mkdir -p /tmp/a/x /tmp/b; echo a >/tmp/a/x/f; echo b >/tmp/b/x; sleep 1000"))
	require.Eventually(t, func() bool { _, err := fs.Stat(c.FS(), "tmp/b/x"); return err == nil }, 30*time.Second, time.Millisecond)
	host := t.TempDir()
	_, err := c.CopyOut(timeout(t), "/tmp/a/.", host)
	require.NoError(t, err)
	_, err = c.CopyOut(timeout(t), "/tmp/b/.", host)
	require.ErrorIs(t, err, unix.EISDIR)
	_, err = c.CopyIn(timeout(t), host+"/.", "/tmp/b")
	require.ErrorIs(t, err, unix.ENOTDIR)
	_, err = c.CopyOut(timeout(t), "/tmp/b", host+"/other")
	require.NoError(t, err)
	_, err = c.CopyIn(timeout(t), host+"/other/.", "/tmp/a")
	require.ErrorIs(t, err, unix.EISDIR)
	require.Equal(t, "a\nb\nx\nx\nf\n", execOutput(t, c, sh("cat /tmp/a/x/f /tmp/b/x; cd /tmp; ls -A a b | grep -v :$ | grep .; ls -A a/x")))
	list, err := os.ReadDir(host)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.NoError(t, c.Close())
}

// What comes in belongs to the job's user, what comes out to the caller, and an
// archive has the container's ids.
func TestCopyOwners(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	containertest.Require(t, containertest.Users)
	c := start(t, container.WithUser(1000, 100))
	src := t.TempDir() + "/src"
	require.NoError(t, os.Mkdir(src, 0o755))
	sampleTree(t, src)
	_, err := c.CopyIn(timeout(t), src, "/tmp")
	require.NoError(t, err)
	require.Equal(t, "1000:100\n", execOutput(t, c, sh("find /tmp/src | while read -r f; do stat -c %u:%g \"$f\" 2>/dev/null; done | sort -u")))
	require.Equal(t, "in", execOutput(t, c, sh("cat /tmp/src/closed/in; rm -rf /tmp/src/a; chmod 777 /tmp/src"), container.WithUser(1000, 100)))
	_ = execOutput(t, c, sh("echo mine >/tmp/src/root; chmod 600 /tmp/src/root; mkdir -m 700 /tmp/src/locked; echo x >/tmp/src/locked/x"), container.WithUser(7, 8))
	to := t.TempDir()
	_, err = c.CopyOut(timeout(t), "/tmp/src", to)
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(to, func(p string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		require.EqualValues(t, os.Geteuid(), info.Sys().(*syscall.Stat_t).Uid, p) //nolint:forcetypeassert // of package os
		return nil
	}))
	text, err := os.ReadFile(to + "/src/locked/x")
	require.NoError(t, err)
	require.Equal(t, "x\n", string(text))
	var archive bytes.Buffer
	_, err = c.TarOut(timeout(t), &archive, "/tmp/src")
	require.NoError(t, err)
	owners := map[string]string{}
	for r := tar.NewReader(&archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		owners[h.Name] = fmt.Sprint(h.Uid, ":", h.Gid)
		require.Zero(t, h.Mode&0o6000)
	}
	require.Equal(t, "1000:100", owners["src/nothing"])
	require.Equal(t, "7:8", owners["src/locked/x"])
	require.NoError(t, os.Chmod(to+"/src/closed", 0o755))
	require.NoError(t, c.Close())
	for name, opts := range map[string][]container.Option{"without a main job": nil, "with one": {container.WithCommand("sleep", "1000")}} {
		c = start(t, append(opts, container.WithUser("nobody"))...)
		_, err = c.CopyIn(timeout(t), src+"/-rf", "/tmp/f")
		require.NoError(t, err)
		info, err := fs.Stat(c.FS(), "tmp/f")
		require.NoError(t, err)
		require.EqualValues(t, 65534, info.Sys().(*syscall.Stat_t).Uid, name) //nolint:forcetypeassert // documented
		require.NoError(t, c.Close())
	}
}

// Copying a program in and running it at once never meets ETXTBSY, whoever forks
// meanwhile: no file of the container is open for writing in this program.
func TestCopyNoTextBusy(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	n := 20
	if os.Getenv("INLAY_CI") != "" {
		n = 200
	}
	program, err := os.ReadFile("/bin/sh")
	require.NoError(t, err)
	src := filepath.Join(t.TempDir(), "prog")
	// As a small file is, and as a large one.
	require.NoError(t, os.WriteFile(src, program, 0o755))
	large := filepath.Join(t.TempDir(), "prog")
	require.NoError(t, os.WriteFile(large, append(program, make([]byte, 9<<20)...), 0o755))
	c := start(t, container.WithMounts(rootfs.Tmpfs("/bin2")))
	_ = execOutput(t, c, sh("cd /bin2; mkdir 0 1 2 3"))
	stop := make(chan struct{})
	var forks sync.WaitGroup
	for range 4 {
		forks.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if err := exec.Command("true").Run(); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for i := range n {
		from, name := src, fmt.Sprintf("/bin2/%d/sh", i%4) // busybox goes by its name
		if i%5 == 4 {
			from = large
		}
		_, err := c.CopyIn(timeout(t), from, name)
		if err == nil {
			var p *container.Process
			if p, err = c.Exec(timeout(t), container.WithCommand(name, "-c", "exit 7")); err == nil {
				var res *container.Result
				if res, err = p.Wait(timeout(t)); err == nil && res.ExitCode != 7 {
					err = res.Err()
				}
			}
		}
		if err != nil {
			t.Error(i, err)
			break
		}
	}
	close(stop)
	forks.Wait()
	require.NoError(t, c.Close())
}

// Sparse files stay sparse, and their holes count for nothing.
func TestCopySparse(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, sh("cd /tmp; truncate -s 40G s; printf abc | dd of=s bs=1 seek=1G conv=notrunc 2>/dev/null; truncate -s 5G hole; printf end >>hole; mkdir d; mv s hole d; sleep 1000"))
	require.Eventually(t, func() bool { _, err := fs.Stat(c.FS(), "tmp/d/hole"); return err == nil }, 30*time.Second, time.Millisecond)
	to := t.TempDir()
	report, err := c.CopyOut(timeout(t), "/tmp/d", to, container.WithMaxBytes(1<<20))
	require.NoError(t, err)
	require.Less(t, report.Bytes, int64(1<<20))
	for range 2 {
		for name, want := range map[string]struct {
			at, size int64
			text     string
		}{"s": {1 << 30, 40 << 30, "abc"}, "hole": {5 << 30, 5<<30 + 3, "end"}} {
			f, err := os.Open(to + "/d/" + name)
			require.NoError(t, err)
			var st unix.Stat_t
			require.NoError(t, unix.Fstat(int(f.Fd()), &st))
			require.Equal(t, want.size, st.Size)
			require.Less(t, st.Blocks*512, int64(1<<20))
			text := make([]byte, 3)
			_, err = f.ReadAt(text, want.at)
			require.NoError(t, err)
			require.Equal(t, want.text, string(text))
			require.NoError(t, f.Close())
		}
		// In, and out again.
		_, err = c.CopyIn(timeout(t), to+"/d/.", "/run", container.WithMaxBytes(1<<20))
		require.NoError(t, err)
		require.NoError(t, os.RemoveAll(to+"/d"))
		_, err = c.CopyOut(timeout(t), "/run/.", to+"/d", container.WithMaxBytes(1<<20))
		require.NoError(t, err)
	}
	_, err = c.TarOut(timeout(t), io.Discard, "/tmp/d", container.WithMaxBytes(1<<30))
	require.ErrorIs(t, err, container.ErrBudget)
	require.NoError(t, c.Close())
}

func TestCopyBudgets(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	_ = execOutput(t, c, sh("mkdir /tmp/t; cd /tmp/t; for i in 1 2 3 4 5 6 7 8 9; do head -c 1000 /dev/zero >$i; done; mkfifo p; cd /tmp; i=0; while [ $i -lt 300 ]; do mkdir d; cd -P d || exit 1; i=$((i+1)); done"))
	host := t.TempDir()
	for _, tt := range []struct {
		name string
		opt  container.CopyOption
		most int64
	}{
		{"bytes", container.WithMaxBytes(5500), 5}, {"entries", container.WithMaxEntries(4), 4}, {"one byte less", container.WithMaxBytes(8999), 8}, {"one entry less", container.WithMaxEntries(10), 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, in := c.CopyIn(timeout(t), host, "/tmp/none", tt.opt)
			require.NoError(t, in)
			report, err := c.CopyOut(timeout(t), "/tmp/t", t.TempDir(), tt.opt)
			require.ErrorIs(t, err, container.ErrBudget)
			var e *container.CopyError
			require.ErrorAs(t, err, &e)
			require.Equal(t, report, e.Report)
			require.LessOrEqual(t, report.Entries, tt.most)
			require.Equal(t, report.Bytes, 1000*report.Entries)
			report, err = c.TarOut(timeout(t), io.Discard, "/tmp/t", tt.opt)
			require.ErrorIs(t, err, container.ErrBudget)
			require.LessOrEqual(t, report.Entries, tt.most+1) // a folder comes first
		})
	}
	report, err := c.CopyOut(timeout(t), "/tmp/t", t.TempDir(), container.WithMaxBytes(9000), container.WithMaxEntries(11))
	require.NoError(t, err)
	require.EqualValues(t, 10, report.Entries)
	require.EqualValues(t, 9000, report.Bytes)
	require.Equal(t, []container.SkippedEntry{{Path: "/tmp/t/p", Reason: "a FIFO"}}, report.Left)
	_, err = c.TarOut(timeout(t), io.Discard, "/tmp/d")
	require.ErrorIs(t, err, container.ErrBudget)
	require.ErrorContains(t, err, "256")
	for _, opt := range []container.CopyOption{container.WithMaxBytes(0), container.WithMaxEntries(-1), container.WithMaxBytes(-1), container.WithMaxEntries(0)} {
		var e *container.OptionError
		_, err = c.CopyOut(timeout(t), "/tmp/t", host, opt)
		require.ErrorAs(t, err, &e)
		require.Equal(t, "not above zero", e.Reason)
	}
	_ = execOutput(t, c, sh("rm -rf /tmp/d"))
	require.NoError(t, c.Close())
}

// A file system that gets full: the error says so and what is there, which is whole.
func TestCopyToFullDisk(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, container.WithMounts(rootfs.Tmpfs("/small", rootfs.Size(1<<20)), rootfs.Tmpfs("/large", rootfs.Size(64<<20))))
	src := t.TempDir() + "/src"
	require.NoError(t, os.Mkdir(src, 0o755))
	text := bytes.Repeat([]byte("0123456789"), 30_000)
	for i := range 6 {
		require.NoError(t, os.WriteFile(fmt.Sprint(src, "/f", i), text, 0o644))
	}
	large := filepath.Join(t.TempDir(), "f0") // in pieces, in the place of a whole one
	require.NoError(t, os.WriteFile(large, bytes.Repeat(text, 40), 0o644))
	whole := func(dir string, report container.CopyReport) {
		t.Helper()
		require.EqualValues(t, 3, report.Entries)
		require.EqualValues(t, 3*len(text), report.Bytes)
		list, err := fs.ReadDir(c.FS(), dir)
		require.NoError(t, err)
		require.Len(t, list, 3)
		for _, e := range list {
			got, err := fs.ReadFile(c.FS(), dir+"/"+e.Name())
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(text), sha256.Sum256(got), e.Name())
		}
	}
	report, err := c.CopyIn(timeout(t), src+"/.", "/small")
	require.ErrorIs(t, err, unix.ENOSPC)
	var e *container.CopyError
	require.ErrorAs(t, err, &e)
	require.Equal(t, "CopyIn", e.Op)
	require.Contains(t, e.Path, src)
	whole("small", report)
	// What a file that does not fit was to replace stays.
	name := ""
	list, err := fs.ReadDir(c.FS(), "small")
	require.NoError(t, err)
	name = list[0].Name()
	_, err = c.CopyIn(timeout(t), large, "/small/"+name)
	require.ErrorIs(t, err, unix.ENOSPC)
	whole("small", report)
	_ = execOutput(t, c, sh("rm /small/*"))
	var archive bytes.Buffer
	_, err = c.CopyIn(timeout(t), src, "/large")
	require.NoError(t, err)
	_, err = c.TarOut(timeout(t), &archive, "/large/src/.")
	require.NoError(t, err)
	report, err = c.TarIn(timeout(t), &archive, "/small")
	require.ErrorIs(t, err, unix.ENOSPC)
	whole("small", report)

	t.Run("on the host", func(t *testing.T) {
		containertest.Require(t, containertest.Root)
		to := t.TempDir()
		require.NoError(t, unix.Mount("none", to, "tmpfs", 0, "size=1m"))
		defer func() { require.NoError(t, unix.Unmount(to, 0)) }()
		report, err := c.CopyOut(timeout(t), "/large/src/.", to)
		require.ErrorIs(t, err, unix.ENOSPC)
		require.EqualValues(t, 3, report.Entries)
		list, err := os.ReadDir(to)
		require.NoError(t, err)
		require.Len(t, list, 3)
		for _, e := range list {
			got, err := os.ReadFile(to + "/" + e.Name())
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(text), sha256.Sum256(got))
		}
	})
	require.NoError(t, c.Close())
}

// hook is a writer or reader that something happens in, once.
type hook struct {
	io.Writer
	io.Reader
	once sync.Once
	do   func()
	min  int // bytes before
	n    int
}

func (h *hook) Write(b []byte) (int, error) {
	if h.n += len(b); h.n >= h.min {
		h.once.Do(h.do)
	}
	return h.Writer.Write(b)
}

func (h *hook) Read(b []byte) (int, error) {
	n, err := h.Reader.Read(b)
	if h.n += n; h.n >= h.min {
		h.once.Do(h.do)
	}
	return n, err
}

// archiveOf is a tar archive of n files of 100,000 bytes, and one of 20 MB.
func archiveOf(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range n {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprint("f", i), Mode: 0o644, Size: 100_000, Typeflag: tar.TypeReg}))
		_, err := w.Write(make([]byte, 100_000))
		require.NoError(t, err)
	}
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "large", Mode: 0o644, Size: 20_000_000, Typeflag: tar.TypeReg}))
	_, err := w.Write(make([]byte, 20_000_000))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// A copy ends with its context, with an error that says what there is, and leaves
// nothing that is not whole.
func TestCopyContext(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	archive := archiveOf(t, 200)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(timeout(t))
	cancel(why)
	for _, err := range copyAll(ctx, t, c) {
		require.ErrorIs(t, err, why)
	}
	for name, min := range map[string]int{"between files": 3_000_000, "in a large one": 25_000_000} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(timeout(t))
			_ = execOutput(t, c, sh("rm -rf /tmp/t; mkdir /tmp/t"))
			report, err := c.TarIn(ctx, &hook{Reader: bytes.NewReader(archive), min: min, do: func() { cancel(why) }}, "/tmp/t")
			require.ErrorIs(t, err, why)
			require.Equal(t, int64(100_000)*report.Entries, report.Bytes)
			list, err := fs.ReadDir(c.FS(), "tmp/t")
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(list), int(report.Entries))
			for _, e := range list {
				info, err := e.Info()
				require.NoError(t, err)
				require.EqualValues(t, 100_000, info.Size(), e.Name())
				require.True(t, strings.HasPrefix(e.Name(), "f"), e.Name())
			}
		})
	}
	_, err := c.TarIn(timeout(t), bytes.NewReader(archive), "/tmp/t")
	require.NoError(t, err)
	ctx, cancel = context.WithCancelCause(timeout(t))
	_, err = c.TarOut(ctx, &hook{Writer: io.Discard, min: 3_000_000, do: func() { cancel(why) }}, "/tmp/t")
	require.ErrorIs(t, err, why)
	require.NoError(t, c.Close())
}

// copyAll tries all four, of and to things that are there.
func copyAll(ctx context.Context, t testing.TB, c *container.Container) map[string]error {
	t.Helper()
	src := t.TempDir()
	out := map[string]error{}
	_, out["CopyIn"] = c.CopyIn(ctx, src, "/tmp/in")
	_, out["CopyOut"] = c.CopyOut(ctx, "/etc/hostname", src)
	_, out["TarIn"] = c.TarIn(ctx, bytes.NewReader(archiveOf(t, 1)), "/tmp")
	_, out["TarOut"] = c.TarOut(ctx, io.Discard, "/etc/hostname")
	for op, err := range out {
		if err != nil {
			var e *container.CopyError
			require.ErrorAs(t, err, &e)
			require.Equal(t, op, e.Op)
		}
	}
	return out
}

// A copy out goes on where the main job ends meanwhile, and everything in the container
// is killed; one into it says that. Where the container is closed both do. Without a
// container there is nothing to copy.
func TestCopyEnds(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	archive := archiveOf(t, 200)
	main := container.WithCommand("sleep", "1000")
	kill := func(c *container.Container) func() {
		return func() {
			require.NoError(t, c.Kill())
			<-c.Done()
		}
	}
	c := start(t, main)
	_, err := c.TarIn(timeout(t), bytes.NewReader(archive), "/tmp")
	require.NoError(t, err)
	report, err := c.TarOut(timeout(t), &hook{Writer: io.Discard, min: 3_000_000, do: kill(c)}, "/tmp/.")
	require.NoError(t, err)
	require.EqualValues(t, 201, report.Entries)
	_, err = c.TarOut(timeout(t), &hook{Writer: io.Discard, min: 3_000_000, do: func() { require.NoError(t, c.Close()) }}, "/tmp/.")
	require.ErrorIs(t, err, container.ErrEnded)

	c = start(t, main)
	report, err = c.TarIn(timeout(t), &hook{Reader: bytes.NewReader(archive), min: 25_000_000, do: kill(c)}, "/tmp")
	require.ErrorIs(t, err, container.ErrEnded)
	require.Equal(t, int64(100_000)*report.Entries, report.Bytes)
	list, err := fs.ReadDir(c.FS(), "tmp")
	require.NoError(t, err)
	for _, e := range list {
		require.True(t, strings.HasPrefix(e.Name(), "f"), e.Name())
	}
	for op, err := range copyAll(timeout(t), t, c) {
		require.NoError(t, err, op)
	}
	_, err = c.TarIn(timeout(t), &hook{Reader: bytes.NewReader(archive), min: 25_000_000, do: func() { require.NoError(t, c.Close()) }}, "/tmp")
	require.ErrorIs(t, err, container.ErrEnded)
	for op, err := range copyAll(timeout(t), t, c) {
		require.ErrorIs(t, err, container.ErrClosed, op)
	}

	_, err = c.CopyIn(timeout(t), "", "/tmp")
	require.Error(t, err)
	c, err = container.New()
	require.NoError(t, err)
	for op, err := range copyAll(timeout(t), t, c) {
		require.ErrorIs(t, err, container.ErrNotStarted, op)
	}
	require.NoError(t, c.Close())
}

// A paused container is copied from and to as well.
func TestCopyPaused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	if !groupsOf(t, "pids") {
		t.Skip("needs cgroups that this user may make")
	}
	c := start(t, container.WithCommand("sleep", "1000"))
	require.NoError(t, c.Pause(timeout(t)))
	for op, err := range copyAll(timeout(t), t, c) {
		require.NoError(t, err, op)
	}
	require.NoError(t, c.Close())
}

// Files on which something is mounted, in a folder of many, are copied as what shows
// there, and nothing is left out without a word.
func TestCopyOutOfMountedFiles(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	src, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.WriteFile(other, []byte("another"), 0o644))
	mounts := []rootfs.Mount{rootfs.Bind(src, "/data", rootfs.ReadOnly())}
	want := map[string]string{}
	for i := range 300 {
		name := fmt.Sprintf("f%03d", i)
		require.NoError(t, os.WriteFile(filepath.Join(src, name), []byte(name), 0o644))
		if want[name] = name; i%7 == 3 {
			want[name] = "another"
			mounts = append(mounts, rootfs.Bind(other, "/data/"+name, rootfs.ReadOnly()))
		}
	}
	for _, d := range []string{src, filepath.Dir(other)} {
		require.NoError(t, os.Chmod(filepath.Dir(d), 0o755))
		require.NoError(t, os.Chmod(d, 0o755))
	}
	c := start(t, container.WithMounts(mounts...))
	to := filepath.Join(t.TempDir(), "data")
	report, err := c.CopyOut(timeout(t), "/data", to)
	require.NoError(t, err)
	require.Zero(t, report.Skipped, "%v", report.Left)
	got := map[string]string{}
	for name := range want {
		text, err := os.ReadFile(filepath.Join(to, name))
		require.NoError(t, err)
		got[name] = string(text)
	}
	require.Equal(t, want, got)
}

// What is skipped of an archive counts, and ends with the context.
func TestTarInSkippedCounts(t *testing.T) {
	needContainers(t)
	c := start(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "odd", Typeflag: 'Z', Size: 1 << 20}))
	_, err := w.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	_, err = c.TarIn(timeout(t), bytes.NewReader(b.Bytes()), "/tmp", container.WithMaxBytes(1<<19))
	require.ErrorIs(t, err, container.ErrBudget)
}
