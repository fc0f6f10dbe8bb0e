package container_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
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

// FS is a file system by the rules of io/fs, while the container runs and after its
// main job has ended.
func TestFS(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	const script = `cd /tmp; mkdir -p tree/a/b tree/empty; echo one >tree/a/1; echo two >tree/a/b/2; : >tree/nothing; chmod 600 tree/a/1
ln -s a/b tree/link; head -c 100000 /dev/zero >tree/big; echo x >"tree/with
newline"`
	for _, end := range []string{"while it runs", "after the main job"} {
		t.Run(end, func(t *testing.T) {
			var c *container.Container
			if end == "while it runs" {
				c = start(t)
				_ = execOutput(t, c, sh(script))
			} else {
				c = start(t, sh(script))
				res, err := c.Wait(timeout(t))
				require.NoError(t, err)
				require.NoError(t, res.Err())
			}
			files := c.FS()
			tree, err := fs.Sub(files, "tmp/tree")
			require.NoError(t, err)
			require.NoError(t, fstest.TestFS(tree, "a/1", "a/b/2", "nothing", "big", "with\nnewline", "empty", "link"))
			text, err := fs.ReadFile(files, "tmp/tree/link/2")
			require.NoError(t, err)
			require.Equal(t, "two\n", string(text))
			to, err := fs.ReadLink(files, "tmp/tree/link")
			require.NoError(t, err)
			require.Equal(t, "a/b", to)
			_, err = fs.ReadLink(files, "tmp/tree/a")
			require.ErrorIs(t, err, unix.EINVAL)
			info, err := fs.Stat(files, "tmp/tree/a/1")
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), info.Mode())
			require.Equal(t, uint32(0), info.Sys().(*syscall.Stat_t).Uid) //nolint:forcetypeassert // documented
			info, err = fs.Stat(files, ".")
			require.NoError(t, err)
			require.Equal(t, ".", info.Name())
			require.NoError(t, c.Close())
			_, err = files.Open("tmp")
			require.ErrorIs(t, err, container.ErrClosed)
		})
	}
	c, err := container.New()
	require.NoError(t, err)
	_, err = c.FS().Open(".")
	require.ErrorIs(t, err, container.ErrNotStarted)
	require.NoError(t, c.Close())
}

// What a hostile tree has in place of files is refused, and never waited for; links
// lead to places in the container alone.
func TestFSHostile(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	c := start(t, sh(`cd /tmp; mkfifo fifo; ln -s fifo tofifo; ln -s /etc/hostname abs; ln -s ../../../../../../etc/hostname up; ln -s `+secret+` out
ln -s loop loop; ln -s /proc/self/root/etc/hostname magic; ln -s /proc/1/fd/3 fd; ln -s /proc/1/exe exe; truncate -s 10G sparse; truncate -s 8E huge 2>/dev/null; echo end >>sparse
printf x >"$(printf 'bad\377name')"; sleep 1000`), container.WithID("hostile"))
	require.Eventually(t, func() bool {
		_, err := fs.Stat(c.FS(), "tmp/bad")
		list, _ := fs.ReadDir(c.FS(), "tmp")
		return err != nil && len(list) > 10 && hasBad(list)
	}, 30*time.Second, 5*time.Millisecond)
	files := c.FS()
	for name, want := range map[string]error{
		"tmp/fifo": errors.ErrUnsupported, "tmp/tofifo": errors.ErrUnsupported, "dev/null": errors.ErrUnsupported, "dev/ptmx": errors.ErrUnsupported, "dev/tty": errors.ErrUnsupported,
		"tmp/out": fs.ErrNotExist, "tmp/loop": unix.ELOOP, "tmp/magic": unix.ELOOP, "tmp/fd": unix.ELOOP, "tmp/exe": unix.ELOOP, "proc/self/root": unix.ELOOP, "proc/1/cwd/etc": unix.ELOOP,
		"tmp/fifo/x": unix.ENOTDIR, "tmp/sparse/x": unix.ENOTDIR, "no/such": fs.ErrNotExist,
		"/tmp": fs.ErrInvalid, "tmp/": fs.ErrInvalid, "tmp/../etc": fs.ErrInvalid, "": fs.ErrInvalid, "tmp\x00": fs.ErrInvalid, "tmp/bad\xffname": fs.ErrInvalid,
	} {
		_, err := files.Open(name)
		require.ErrorIs(t, err, want, name)
		var e *fs.PathError
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, name, e.Path)
	}
	for _, name := range []string{"tmp/abs", "tmp/up", "etc/hostname"} {
		text, err := fs.ReadFile(files, name)
		require.NoError(t, err, name)
		require.Equal(t, "hostile\n", string(text), name)
	}
	_, err := fs.ReadFile(files, "tmp/sparse")
	require.ErrorIs(t, err, unix.EFBIG)
	f, err := files.Open("tmp/sparse")
	require.NoError(t, err)
	end := make([]byte, 4)
	_, err = f.(io.ReaderAt).ReadAt(end, 10<<30) //nolint:forcetypeassert // documented
	require.NoError(t, err)
	require.Equal(t, "end\n", string(end))
	require.NoError(t, f.Close())
	_, err = f.Stat()
	require.ErrorIs(t, err, fs.ErrClosed)
	// Files of /proc have no size, and more to read.
	text, err := fs.ReadFile(files, "proc/mounts")
	require.NoError(t, err)
	require.Contains(t, string(text), "proc")
	list, err := fs.ReadDir(files, "dev")
	require.NoError(t, err)
	kinds := map[string]fs.FileMode{}
	for _, e := range list {
		i, err := e.Info() // a folder's own list knows no mounts
		require.NoError(t, err)
		kinds[e.Name()] = i.Mode().Type()
	}
	require.Equal(t, fs.ModeDevice|fs.ModeCharDevice, kinds["null"])
	require.Equal(t, fs.ModeSymlink, kinds["fd"])
	require.NoError(t, c.Close())
}

func hasBad(list []fs.DirEntry) bool {
	for _, e := range list {
		if strings.HasPrefix(e.Name(), "bad") {
			return true
		}
	}
	return false
}

// A root of the host's whose names are swapped for links to the outside all the time:
// nothing outside is ever read.
func TestFSSwaps(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	outside := filepath.Join(t.TempDir(), "outside")
	dir := filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"proc", "dev", "tmp", "run", "box"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	require.NoError(t, os.Mkdir(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "box/file"), []byte("inside"), 0o644))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "other")))
	c := start(t, container.WithRoot(rootfs.Dir(dir)))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir+"/box", unix.AT_FDCWD, dir+"/other", unix.RENAME_EXCHANGE) // again, at once
			}
		}
	}()
	seen := map[string]int{}
	for range 1000 {
		text, err := fs.ReadFile(c.FS(), "box/file")
		if err == nil {
			require.Equal(t, "inside", string(text))
			seen["inside"]++
		} else {
			seen["refused"]++
		}
		list, err := fs.ReadDir(c.FS(), "box")
		if err == nil {
			require.Len(t, list, 1)
		}
	}
	close(stop)
	<-stopped
	t.Logf("%v", seen)
	require.Positive(t, seen["inside"])
	require.Positive(t, seen["refused"])
	require.NoError(t, c.Close())
}

// Owners are the container's ids; many goroutines may read at once.
func TestFSOwners(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	containertest.Require(t, containertest.Users)
	c := start(t)
	_ = execOutput(t, c, sh("echo hi >/tmp/mine; chmod 700 /tmp/mine"), container.WithUser(1000, 100))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				info, err := fs.Stat(c.FS(), "tmp/mine")
				if err != nil {
					t.Error(err)
					return
				}
				st, ok := info.Sys().(*syscall.Stat_t)
				if !ok || st.Uid != 1000 || st.Gid != 100 {
					t.Errorf("%v", st)
				}
				if text, err := fs.ReadFile(c.FS(), "tmp/mine"); err != nil || string(text) != "hi\n" {
					t.Errorf("%q, %v", text, err)
				}
			}
		})
	}
	all.Wait()
	info, err := fs.Stat(c.FS(), "usr")
	require.NoError(t, err)
	want, ok := namespace.ToContainer(nil, 0)
	require.False(t, ok)
	require.Zero(t, want)
	st, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	require.Equal(t, uint32(65534), st.Uid, "the host's root is nobody inside")
	require.NoError(t, c.Close())
}
