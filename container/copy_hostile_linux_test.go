package container_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// copiedTree makes what copies must get by with below /tmp/t, says so, and goes on to
// change it.
const copiedTreeName = "copied tree"

var copiedTree = register(copiedTreeName, func([]string) int {
	err := os.Mkdir("/tmp/t", 0o755)
	step := func(e error) { err = errors.Join(err, e) }
	step(os.Chdir("/tmp/t"))
	step(unix.Mkfifo("fifo", 0o666))
	l, e := net.Listen("unix", "socket")
	step(e)
	for _, to := range []string{"/etc/shadow", "../../../../../../../etc", "/proc/1/root", "/proc/self/fd/0", "fifo", "loop", ".", ""} {
		if to != "" {
			step(os.Symlink(to, "to"+strings.ReplaceAll(to, "/", "_")))
		}
	}
	step(os.Symlink(strings.Repeat("x", 4095), "long"))
	for _, name := range []string{"a\nb", "bad\xff\xfe", "\x1b[31m", "-rf", " ", "*", strings.Repeat("n", 255), "ünï", "\\", "..."} {
		step(os.WriteFile(name, []byte(name), 0o600))
	}
	step(os.WriteFile("setuid", nil, 0o755))
	step(os.Chmod("setuid", 0o755|os.ModeSetuid|os.ModeSetgid))
	step(os.WriteFile("closed", []byte("closed"), 0))
	step(os.Mkdir("box", 0))
	step(os.WriteFile("grows", nil, 0o644))
	leased, e := os.OpenFile("/tmp/leased", os.O_RDWR|os.O_CREATE, 0o600)
	step(e)
	if e == nil {
		_, e = unix.FcntlInt(leased.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
		step(e)
	}
	grows, e := os.OpenFile("grows", os.O_WRONLY|os.O_APPEND, 0)
	step(e)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer l.Close() //nolint:errcheck // nobody connects
	fmt.Println("ready")
	// Swaps and growth, for as long as it lives; what fails is tried again at once.
	for i := 0; ; i++ {
		_, _ = grows.WriteString("growing\n")
		_ = os.WriteFile("swap", []byte("inside"), 0o644)
		_ = os.Remove("swap")
		_ = unix.Mkfifo("swap", 0o666)
		_ = os.Remove("swap")
		_ = os.Symlink("/etc/passwd", "swap")
		_ = os.Remove("swap")
		_ = os.Mkdir("swap", 0o755)
		_ = os.Remove("swap")
		if i > 1<<20 {
			_ = grows.Truncate(0)
		}
	}
})

// What a hostile job has made is copied or left out, and never waited for or followed.
func TestCopyHostile(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	out, in, err := os.Pipe()
	require.NoError(t, err)
	c := start(t, self(t, copiedTree), container.WithStdout(in), container.WithStderr(in))
	require.NoError(t, in.Close())
	said := make([]byte, 100)
	n, err := out.Read(said)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(said[:n]))
	secret, err := os.ReadFile("/etc/passwd")
	require.NoError(t, err)
	for i := range 20 {
		to := t.TempDir()
		report, err := c.CopyOut(timeout(t), "/tmp/t", to)
		require.NoError(t, err)
		kinds := map[string]fs.FileMode{}
		require.NoError(t, filepath.WalkDir(to+"/t", func(p string, e fs.DirEntry, err error) error {
			if filepath.Base(p) == "box" && os.Geteuid() != 0 {
				require.NoError(t, os.Chmod(p, 0o700))
				return fs.SkipDir
			}
			require.NoError(t, err)
			info, err := e.Info()
			require.NoError(t, err)
			kinds[e.Name()] = info.Mode()
			require.Zero(t, info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket), p)
			if info.Mode().IsRegular() && info.Mode().Perm() != 0 {
				text, err := os.ReadFile(p)
				require.NoError(t, err)
				require.NotEqual(t, string(secret), string(text), p)
			}
			return nil
		}))
		for _, name := range []string{"a\nb", "bad\xff\xfe", "\x1b[31m", "-rf", " ", "*", strings.Repeat("n", 255), "ünï", "\\", "...", "setuid", "closed", "grows"} {
			require.True(t, kinds[name].IsRegular(), "%q", name)
			require.Contains(t, kinds, name)
		}
		for _, name := range []string{"to_etc_shadow", "to..", "toloop", "tofifo", "long", "to_proc_1_root"} {
			if name != "to.." {
				require.Equal(t, fs.ModeSymlink, kinds[name].Type(), name)
			}
		}
		require.NotContains(t, kinds, "fifo")
		require.NotContains(t, kinds, "socket")
		require.GreaterOrEqual(t, report.Skipped, int64(2))
		reasons := map[string]string{}
		for _, l := range report.Left {
			reasons[l.Path] = l.Reason
		}
		require.Equal(t, "a FIFO", reasons["/tmp/t/fifo"])
		require.Equal(t, "a socket", reasons["/tmp/t/socket"])
		var archive bytes.Buffer
		_, err = c.TarOut(timeout(t), &archive, "/tmp/t")
		require.NoError(t, err)
		found := map[string]bool{}
		for r := tar.NewReader(&archive); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			require.Contains(t, []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink}, h.Typeflag)
			found[h.Name] = true
		}
		require.True(t, found["t/bad\xff\xfe"])
		require.True(t, found["t/a\nb"])
		if i == 0 { // what came out goes in again
			_ = os.Chmod(to+"/t/closed", 0o600)
			_ = os.Chmod(to+"/t/box", 0o700)
			_, err = c.CopyIn(timeout(t), to+"/t", "/run/again")
			require.NoError(t, err)
		}
	}
	// A lease would hold up whoever opens the file for reading.
	_, err = c.CopyOut(timeout(t), "/tmp/leased", t.TempDir())
	require.ErrorIs(t, err, unix.EAGAIN)
	for name, want := range map[string]error{
		"/tmp/t/fifo": errors.ErrUnsupported, "/tmp/t/socket": errors.ErrUnsupported, "/dev/null": errors.ErrUnsupported,
		"/proc/mounts": errors.ErrUnsupported, "/proc/.": errors.ErrUnsupported, "/proc": errors.ErrUnsupported, "/tmp/t/toloop/x": fs.ErrNotExist, "/proc/1/root/etc": unix.ELOOP, "/proc/self/root/.": unix.ELOOP,
		"": unix.EINVAL, "/tmp\x00": unix.EINVAL, "/no": fs.ErrNotExist, "/tmp/t/setuid/x": unix.ENOTDIR, "/tmp/t/setuid/.": unix.ENOTDIR,
	} {
		to := t.TempDir()
		_, err := c.CopyOut(timeout(t), name, to)
		require.ErrorIs(t, err, want, name)
		_, err = c.TarOut(timeout(t), io.Discard, name)
		require.ErrorIs(t, err, want, name)
		list, err := os.ReadDir(to)
		require.NoError(t, err)
		require.Empty(t, list, name)
	}
	require.NoError(t, c.Close())
	require.NoError(t, out.Close())
}

// boxRoot is a root of the host's with a folder tree/box, and beside it tree/other, a
// link to a folder outside; a goroutine swaps the two all the time.
func boxRoot(t *testing.T) (root, outside string, swap func() (stop func())) {
	t.Helper()
	outside = filepath.Join(t.TempDir(), "outside")
	root = filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"proc", "dev", "tmp", "run", "tree/box/deep", "usr"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for d := root; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	require.NoError(t, os.MkdirAll(outside+"/deep", 0o755))
	for _, d := range []string{"", "/deep"} {
		require.NoError(t, os.WriteFile(outside+d+"/file", []byte("outside"), 0o644))
		require.NoError(t, os.WriteFile(root+"/tree/box"+d+"/file", []byte("inside"), 0o644))
	}
	require.NoError(t, os.Symlink(outside, root+"/tree/other"))
	return root, outside, func() func() {
		quit, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-quit:
					return
				default:
					_ = unix.Renameat2(unix.AT_FDCWD, root+"/tree/box", unix.AT_FDCWD, root+"/tree/other", unix.RENAME_EXCHANGE) // again, at once
				}
			}
		}()
		return func() { close(quit); <-done }
	}
}

// fastDir is a folder in memory, where there is one.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "inlay-test") //nolint:usetesting // in memory
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// Names that are swapped for links to the outside while they are copied: nothing outside
// is ever copied.
func TestCopyOutSwaps(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	root, _, swap := boxRoot(t)
	c := start(t, container.WithRoot(rootfs.Dir(root)))
	stop := swap()
	defer stop()
	seen := map[string]int{}
	to := fastDir(t)
	for i := range often(1000) {
		src := "/tree"
		if i%4 == 3 {
			src = "/tree/box/." // the name itself leads to where it may
		}
		dst := filepath.Join(to, fmt.Sprint(i))
		_, err := c.CopyOut(timeout(t), src, dst)
		if err != nil {
			// A link to nowhere inside, or no folder any more.
			require.ErrorIs(t, err, fs.ErrNotExist)
			seen["refused"]++
			continue
		}
		require.NoError(t, filepath.WalkDir(dst, func(p string, e fs.DirEntry, err error) error {
			require.NoError(t, err)
			seen[e.Type().String()]++
			if e.Type().IsRegular() {
				text, err := os.ReadFile(p)
				require.NoError(t, err)
				require.Equal(t, "inside", string(text))
				seen["inside"]++
			}
			return nil
		}))
		require.NoError(t, os.RemoveAll(dst))
	}
	t.Logf("%v", seen)
	require.Positive(t, seen["inside"])
	require.Positive(t, seen["refused"])
	require.NoError(t, c.Close())
}

// swapper swaps a folder for a link all the time.
const swapperName = "swapper"

var swapper = register(swapperName, func([]string) int {
	if err := joinErrors(os.MkdirAll("/tmp/t/box", 0o755), os.Mkdir("/dev/shm/other", 0o755), os.Symlink("/dev/shm/other", "/tmp/t/link")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	for {
		_ = unix.Renameat2(unix.AT_FDCWD, "/tmp/t/box", unix.AT_FDCWD, "/tmp/t/link", unix.RENAME_EXCHANGE) // again, at once
	}
})

// The same against what is written to: nothing outside of it is ever changed.
func TestCopyInSwaps(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	out, in, err := os.Pipe()
	require.NoError(t, err)
	c := start(t, self(t, swapper), container.WithStdout(in))
	require.NoError(t, in.Close())
	_, err = out.Read(make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, out.Close())
	src := t.TempDir()
	require.NoError(t, os.Mkdir(src+"/box", 0o755))
	require.NoError(t, os.WriteFile(src+"/box/file", []byte("x"), 0o644))
	seen := map[string]int{}
	for range often(1000) {
		_, err := c.CopyIn(timeout(t), src+"/.", "/tmp/t")
		switch {
		case err == nil:
			seen["copied"]++
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, fs.ErrNotExist):
			seen["refused"]++
		default:
			require.NoError(t, err)
		}
	}
	t.Logf("%v", seen)
	require.Positive(t, seen["copied"])
	require.Positive(t, seen["refused"])
	list, err := fs.ReadDir(c.FS(), "dev/shm/other")
	require.NoError(t, err)
	require.Empty(t, list)
	require.NoError(t, c.Close())
}

// Links that are there already are never written through: a link in the place of a
// folder is an error, one in the place of a file is replaced.
func TestCopyOutOverLinks(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	_ = execOutput(t, c, sh("mkdir -p /tmp/t/d; echo new >/tmp/t/d/f; echo new >/tmp/t/f; ln -s new /tmp/t/l"))
	outside, to := t.TempDir(), t.TempDir()
	for _, name := range []string{"f", "d/f"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(outside, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(outside, name), []byte("old"), 0o644))
	}
	require.NoError(t, os.Symlink(outside+"/d", to+"/d"))
	_, err := c.CopyOut(timeout(t), "/tmp/t/.", to)
	require.ErrorIs(t, err, unix.ENOTDIR)
	require.NoError(t, os.Remove(to+"/d"))
	for _, name := range []string{"f", "l"} {
		_ = os.Remove(filepath.Join(to, name)) // it may be there by now
		require.NoError(t, os.Symlink(outside+"/f", filepath.Join(to, name)))
	}
	_, err = c.CopyOut(timeout(t), "/tmp/t/.", to)
	require.NoError(t, err)
	for name, want := range map[string]string{outside + "/f": "old", outside + "/d/f": "old", to + "/f": "new\n", to + "/d/f": "new\n"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, want, string(text), name)
	}
	link, err := os.Readlink(to + "/l")
	require.NoError(t, err)
	require.Equal(t, "new", link)
	require.NoError(t, c.Close())
}

// entries makes an archive.
func entries(t testing.TB, list ...*tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range list {
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = 1
		}
		require.NoError(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write(make([]byte, h.Size))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return &b
}

// An archive that tries to get out of its folder does not.
func TestTarInHostile(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	file := func(name string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o7777, Uid: 12345, Gid: 54321}
	}
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	folder := func(name string, mode int64) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}
	}
	for _, tt := range []struct {
		name    string
		list    []*tar.Header
		err     error
		want    string // what find says, below the folder
		skipped int64
	}{
		{name: "absolute names", list: []*tar.Header{file("/run/x"), file("//y")}, want: "run run/x y"},
		{name: "dots", list: []*tar.Header{file("./a/./b"), folder("./", 0o777), folder(".", 0)}, want: "a a/b"},
		{name: "two dots", list: []*tar.Header{file("../x")}, err: unix.EINVAL},
		{name: "two dots within", list: []*tar.Header{file("a/../b")}, err: unix.EINVAL},
		{name: "two dots in the end", list: []*tar.Header{folder("a/..", 0o755)}, err: unix.EINVAL},
		{name: "no name", list: []*tar.Header{file(".")}, err: unix.EINVAL},
		{name: "through a link", list: []*tar.Header{link("l", "/run"), file("l/x")}, err: unix.ELOOP, want: "l"},
		{name: "through a link within", list: []*tar.Header{folder("d", 0o755), link("l", "d"), file("l/x")}, err: unix.ELOOP, want: "d l"},
		{name: "a folder over a link", list: []*tar.Header{link("l", "/run"), folder("l", 0o755), file("l/x")}, err: unix.ELOOP, want: "l"},
		{name: "over a link", list: []*tar.Header{link("l", "/run/x"), file("l")}, want: "l"},
		{name: "a hard link to the outside", list: []*tar.Header{hard("l", "../../etc/passwd")}, err: unix.EINVAL},
		{name: "a hard link to an absolute name", list: []*tar.Header{hard("l", "/etc/hostname")}, err: fs.ErrNotExist},
		{name: "a hard link through a link", list: []*tar.Header{link("e", "/etc"), hard("l", "e/hostname")}, err: unix.ELOOP, want: "e"},
		{name: "a hard link to a link", list: []*tar.Header{link("e", "/run/x"), hard("l", "e"), file("l")}, want: "e l"},
		{name: "a hard link to itself", list: []*tar.Header{file("a"), hard("a", "a")}, want: "a"},
		{name: "a hard link to the folder", list: []*tar.Header{hard("a", "/")}, err: unix.EINVAL},
		{name: "a hard link to a folder", list: []*tar.Header{folder("d", 0o755), hard("a", "d")}, err: unix.EPERM, want: "d"},
		{name: "a file over a folder", list: []*tar.Header{file("d/x"), file("d")}, err: unix.EISDIR},
		{name: "a folder over a file", list: []*tar.Header{file("d"), file("d/x")}, err: unix.ENOTDIR, want: "d"},
		{name: "twice", list: []*tar.Header{file("a"), link("a", "x"), file("a")}, want: "a"},
		{name: "devices", list: []*tar.Header{
			{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}, {Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}, {Typeflag: tar.TypeFifo, Name: "d/fifo"}, file("f"),
		}, want: "f", skipped: 3},
		{name: "a long name", list: []*tar.Header{file(strings.Repeat("n", 256))}, err: unix.ENAMETOOLONG},
		{name: "deep", list: []*tar.Header{file(strings.Repeat("d/", 300) + "x")}, err: container.ErrBudget},
		{name: "a closed folder", list: []*tar.Header{folder("d", 0), file("d/x"), folder("e/f", 0o555), folder("e", 0o500)}, want: "d e e/f"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_ = execOutput(t, c, sh("chmod -R u+rwx /tmp/t 2>/dev/null; rm -rf /tmp/t; mkdir /tmp/t"))
			report, err := c.TarIn(timeout(t), entries(t, tt.list...), "/tmp/t")
			if tt.err != nil {
				var e *container.CopyError
				require.ErrorAs(t, err, &e)
			}
			require.ErrorIs(t, err, tt.err)
			require.Equal(t, tt.skipped, report.Skipped)
			got := strings.Fields(execOutput(t, c, sh("cd /tmp/t && find . 2>/dev/null | sort | sed -n 's,^./,,p'")))
			require.Equal(t, tt.want, strings.Join(got, " "))
			// Of the job's user, without set-ID bits, and nothing outside.
			require.Empty(t, execOutput(t, c, sh("exec 2>/dev/null; find /tmp/t -perm -2000 -o -perm -4000 -o ! -user 0; ls -A /run; ls -A /tmp | grep -v '^t$'; true")))
		})
	}
	// Modes are as the archive says, whatever came first.
	require.Equal(t, "0\n555\n500\n", execOutput(t, c, sh("cd /tmp/t; stat -c %a d e/f e")))
	for name, text := range map[string]string{"no archive": "hello", "an end too soon": entries(t, &tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 10_000}).String()[:2000]} {
		_, err := c.TarIn(timeout(t), strings.NewReader(text), "/tmp/t")
		require.Error(t, err, name)
		require.True(t, errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
	}
	for name, want := range map[string]error{"/no": fs.ErrNotExist, "/etc/hostname": unix.ENOTDIR, "": unix.EINVAL, "/usr": unix.EROFS, "/tmp/\x00": unix.EINVAL} {
		_, err := c.TarIn(timeout(t), entries(t, file("a")), name)
		require.ErrorIs(t, err, want, name)
	}
	// A bomb: a sparse file of an exabyte in one header.
	bomb := entries(t, &tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 100_000})
	_, err := c.TarIn(timeout(t), bomb, "/tmp/t", container.WithMaxBytes(99_999))
	require.ErrorIs(t, err, container.ErrBudget)
	require.NoError(t, c.Close())
}

// Many entries.
func TestCopyMany(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	n := often(20_000)
	if os.Getenv("INLAY_SOAK") != "" {
		n = 999_000
	}
	c := start(t, container.WithMounts(rootfs.Tmpfs("/many", rootfs.Size(4<<30))))
	r, w := io.Pipe()
	go func() {
		out := tar.NewWriter(w)
		var err error
		for i := 0; i < n && err == nil; i++ {
			err = out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%d", i%3, i), Mode: 0o644})
		}
		w.CloseWithError(errors.Join(err, out.Close()))
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	report, err := c.TarIn(ctx, r, "/many")
	require.NoError(t, err)
	require.EqualValues(t, n, report.Entries)
	report, err = c.TarOut(ctx, io.Discard, "/many/.")
	require.NoError(t, err)
	require.EqualValues(t, n+3, report.Entries)
	require.NoError(t, c.Close())
}

// Whichever of the host's operations fails, the error says so, nothing that is not whole
// is left, and the next copy works.
func TestCopyFailures(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	defer container.Fault(nil)
	c := start(t)
	src := t.TempDir() + "/src"
	require.NoError(t, os.Mkdir(src, 0o755))
	sampleTree(t, src)
	require.NoError(t, os.Truncate(src+"/large", 1<<24))
	_, err := c.CopyIn(timeout(t), src, "/tmp/kept")
	require.NoError(t, err)
	var archive bytes.Buffer
	_, err = c.TarOut(timeout(t), &archive, "/tmp/kept")
	require.NoError(t, err)
	boom := errors.New("boom")
	total := 0
	for name, copy := range map[string]func(to string) (container.CopyReport, error){
		"CopyOut": func(to string) (container.CopyReport, error) { return c.CopyOut(timeout(t), "/tmp/kept/.", to) },
		"CopyIn":  func(string) (container.CopyReport, error) { return c.CopyIn(timeout(t), src+"/.", "/tmp/in") },
		"TarOut":  func(string) (container.CopyReport, error) { return c.TarOut(timeout(t), io.Discard, "/tmp/kept") },
		"TarIn": func(string) (container.CopyReport, error) {
			return c.TarIn(timeout(t), bytes.NewReader(archive.Bytes()), "/tmp/in")
		},
	} {
		for k := 0; ; k += stride() {
			to := t.TempDir()
			_ = execOutput(t, c, sh("chmod -R u+rwx /tmp/in 2>/dev/null; rm -rf /tmp/in; mkdir /tmp/in"))
			var mu sync.Mutex
			n, what := 0, ""
			container.Fault(func(op, path string) error {
				mu.Lock()
				defer mu.Unlock()
				if n++; n == k+1 {
					what = op
					return boom
				}
				return nil
			})
			_, err := copy(to)
			container.Fault(nil)
			if what == "" {
				require.NoError(t, err)
				t.Logf("%s: %d operations", name, k)
				_ = os.Chmod(to+"/closed", 0o755)
				break
			}
			total++
			var e *container.CopyError
			require.ErrorAs(t, err, &e, "%s, %s", name, what)
			require.ErrorIs(t, err, boom)
			require.Equal(t, name, e.Op)
			require.NoError(t, filepath.WalkDir(to, func(p string, d fs.DirEntry, err error) error {
				require.NoError(t, err)
				require.False(t, strings.HasPrefix(d.Name(), ".inlay"), p)
				return nil
			}))
			require.Empty(t, execOutput(t, c, sh("find /tmp/in -name '.inlay*'")))
			_ = os.Chmod(to+"/closed", 0o755)
		}
	}
	require.Greater(t, total, 50/stride())
	require.NoError(t, c.Close())
}

// The same for the steps of the plans that are run inside.
func TestCopyInFailures(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	defer container.Sabotage(nil)
	c := start(t)
	src := t.TempDir() + "/src"
	require.NoError(t, os.Mkdir(src, 0o755))
	sampleTree(t, src)
	require.NoError(t, os.Truncate(src+"/large", 1<<24))
	total := 0
	for which := 0; ; which++ {
		plans := 0
		for step := 0; ; step += stride() {
			_ = execOutput(t, c, sh("chmod -R u+rwx /tmp/in 2>/dev/null; rm -rf /tmp/in; mkdir /tmp/in"))
			steps := 0
			plans = 0
			container.Sabotage(func(p *plan.Plan) {
				if plans++; plans != which+1 {
					return
				}
				if steps = len(p.Steps); step < steps {
					p.Steps[step] = broken()
				}
			})
			report, err := c.CopyIn(timeout(t), src+"/.", "/tmp/in")
			container.Sabotage(nil)
			if step >= steps {
				require.NoError(t, err)
				break
			}
			total++
			var e *container.CopyError
			require.ErrorAs(t, err, &e, "plan %d, step %d", which, step)
			require.ErrorIs(t, err, unix.EBADF)
			require.Equal(t, report, e.Report)
			require.Empty(t, execOutput(t, c, sh("find /tmp/in -name '.inlay*'")), "plan %d, step %d: %v", which, step, err)
		}
		if which >= plans {
			break
		}
	}
	require.Greater(t, total, 60/stride())
	require.NoError(t, c.Close())
}

// The process that copies is as closed to a job as init is.
func TestCopyProcessIsClosed(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for name, opts := range map[string][]container.JobOption{"no capabilities": nil, "all of them": {container.WithCapabilities(security.AllCapabilities()...), container.WithSeccomp(security.Unconfined())}} {
		t.Run(name, func(t *testing.T) {
			c, err := container.New()
			require.NoError(t, err)
			defer func() { require.NoError(t, c.Close()) }()
			require.NoError(t, c.Start(timeout(t)))
			said := ""
			_, err = c.TarIn(timeout(t), &hook{Reader: bytes.NewReader(archiveOf(t, 20)), min: 3_000_000, do: func() {
				var out bytes.Buffer
				p, err := c.Exec(timeout(t), append(opts, container.WithStdout(&out), container.WithStderr(&out), sh(`for p in /proc/[0-9]*; do
read -r name <$p/comm; [ "$name" = inlay-files ] || continue; echo found
for f in environ mem maps; do head -c 1 $p/$f >/dev/null 2>&1 && echo read $f; done
for f in fd/3 exe root cwd; do readlink $p/$f; done; ls $p/fd; true; done 2>/dev/null`))...)
				if err != nil && errors.Is(err, errors.ErrUnsupported) {
					said = "found\n" // one id: such a job is refused
					return
				}
				require.NoError(t, err)
				_, err = p.Wait(timeout(t))
				require.NoError(t, err)
				said = out.String()
			}}, "/tmp")
			require.NoError(t, err)
			require.Equal(t, "found\n", said)
		})
	}
}

// Whatever an archive holds, it is unpacked or refused, and nothing but its folder has
// changed.
func FuzzTarIn(f *testing.F) {
	for _, list := range [][]*tar.Header{
		{{Typeflag: tar.TypeReg, Name: "a", Mode: 0o644}, {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}},
		{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/run"}, {Typeflag: tar.TypeReg, Name: "l/x"}},
		{{Typeflag: tar.TypeDir, Name: "d/e/"}, {Typeflag: tar.TypeReg, Name: "d/e/../../../x"}},
		{{Typeflag: tar.TypeReg, Name: strings.Repeat("long/", 60) + "name\n", PAXRecords: map[string]string{"comment": "x"}}},
	} {
		f.Add(entries(f, list...).Bytes())
	}
	c := start(f)
	f.Fuzz(func(t *testing.T, archive []byte) {
		p, err := c.Exec(t.Context(), sh("chmod -R u+rwx /tmp/t 2>/dev/null; rm -rf /tmp/t && mkdir /tmp/t"))
		require.NoError(t, err)
		_, err = p.Wait(t.Context())
		require.NoError(t, err)
		_, err = c.TarIn(t.Context(), bytes.NewReader(archive), "/tmp/t", container.WithMaxBytes(1<<20), container.WithMaxEntries(1000))
		if err != nil {
			var e *container.CopyError
			require.ErrorAs(t, err, &e)
		}
		for dir, want := range map[string]int{"tmp": 1, "run": 0, "dev/shm": 0} {
			list, err := fs.ReadDir(c.FS(), dir)
			require.NoError(t, err)
			require.Len(t, list, want, dir)
		}
		require.NoError(t, fs.WalkDir(c.FS(), "tmp/t", func(p string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrInvalid) {
				return nil // a name that is no UTF-8
			}
			require.NoError(t, err)
			require.False(t, strings.HasPrefix(e.Name(), ".inlay"), p)
			return nil
		}))
	})
}
