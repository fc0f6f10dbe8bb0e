package container_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/rootfs"
)

// tiny is a static program of 200 bytes that writes a word and ends: what runs where
// there is no loader and no library. It is written for amd64.
func tiny(t testing.TB, word string) []byte {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("needs another machine: the program is written for amd64")
	}
	const base, head = 0x400000, 64 + 56
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, 1: write
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 16, 0, 0, 0, // lea rsi, [rip+16]: the word
		0xba, byte(len(word)), 0, 0, 0, // mov edx, its length
		0x0f, 0x05, // syscall
		0xb8, 60, 0, 0, 0, // mov eax, 60: exit
		0x31, 0xff, // xor edi, edi
		0x0f, 0x05, // syscall
	}
	le := binary.LittleEndian
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	size := uint64(head + len(code) + len(word))
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(base + head), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000),
	} {
		require.NoError(t, binary.Write(&b, le, v))
	}
	// The displacement counts from the end of lea, 17 bytes in.
	code[13] = byte(len(code) - 17)
	b.Write(code)
	b.WriteString(word)
	return b.Bytes()
}

// usr are the host's programs in a root that has none.
func usr() container.Option {
	opts := []container.Option{container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()))}
	for _, dir := range []string{"bin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + dir); err == nil {
			opts = append(opts, container.WithSymlink(to, "/"+dir))
		} else if _, err := os.Stat("/" + dir); err == nil {
			opts = append(opts, container.WithMounts(rootfs.Bind("/"+dir, "/"+dir, rootfs.ReadOnly())))
		}
	}
	return container.Options(opts...)
}

func startFault(t testing.TB, opts ...container.Option) *container.StartError {
	t.Helper()
	res, err := container.Run(timeout(t), append([]container.Option{container.WithCommand("/x")}, opts...)...)
	require.Nil(t, res)
	var fault *container.StartError
	require.ErrorAs(t, err, &fault)
	return fault
}

// A static program needs nothing but itself; the root is empty, its own and sized.
func TestRootEmpty(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	require.Equal(t, "hello", output(t, container.WithRoot(rootfs.Empty()), container.WithFile("/hello", tiny(t, "hello"), 0o755), container.WithCommand("/hello")))
	script := `ls -A / | sort | tr '\n' ' '; stat -c %a / /tmp /run; echo x >/new && mkdir /d && cat /new
		head -c 3000000 /dev/zero >/big 2>/dev/null || echo full; mount | grep ' on / '`
	text := output(t, container.WithRoot(rootfs.Empty(rootfs.Size(2<<20))), usr(), sh(script))
	require.Regexp(t, `(?m)^bin dev.* proc run tmp usr `, text)
	require.Contains(t, text, "755\n1777\n755\nx\nfull\n")
	require.Regexp(t, `on / type tmpfs \(rw,nosuid,nodev,.*size=2048k`, text)
	// Another one has nothing of it.
	require.NotContains(t, output(t, container.WithRoot(rootfs.Empty()), usr(), sh("ls /")), "new")
}

func TestRootEmptyReadOnly(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	text := output(t, container.WithRoot(rootfs.Empty(rootfs.ReadOnly())), usr(), container.WithFile("/etc/x", []byte("kept\n"), 0o644),
		sh(`echo x >/new || echo refused; echo x >/etc/x || echo refused; echo x >/tmp/a && echo x >/run/b && echo x >/dev/shm/c && cat /etc/x`))
	require.Equal(t, 2, strings.Count(text, "refused\n"), text)
	require.Contains(t, text, "kept\n")
}

// The number of files is bounded as well.
func TestRootEmptyInodes(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	text := output(t, container.WithRoot(rootfs.Empty(rootfs.Inodes(64))), usr(),
		sh(`i=0; while [ $i -lt 100 ] && touch /tmp/$i 2>/dev/null; do i=$((i+1)); done; echo "made $i"`))
	require.Regexp(t, `made [3-5]\d\n`, text)
}

// All that a file system can hold is copied, as documented.
func TestRootFS(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	when := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	big := bytes.Repeat([]byte("0123456789abcdef"), 300<<10/16)
	files := fstest.MapFS{
		"app/hello":      {Data: tiny(t, "from fs"), Mode: 0o444, ModTime: when},
		"app/data/big":   {Data: big, Mode: 0o640 | fs.ModeSetuid},
		"app/data/empty": {},
		"app/priv":       {Mode: fs.ModeDir | 0o700},
		"link":           {Data: []byte("/app/data"), Mode: fs.ModeSymlink | 0o777},
		"out":            {Data: []byte("../../../../etc"), Mode: fs.ModeSymlink | 0o777},
		"odd \n\"name":   {Data: []byte("odd")},
	}
	root := container.WithRoot(rootfs.FS(files, rootfs.Executable("app/hel*")))
	require.Equal(t, "from fs", output(t, root, container.WithCommand("/app/hello")))
	text := output(t, root, usr(), container.WithEnv("TZ=UTC0"), sh(`stat -c '%n %a %u:%g %s %Y' /app/hello /app/data/big /app/data/empty /app/priv
		cmp /link/big /app/data/big && md5sum </link/big; readlink /out; ls /out/ 2>&1; cat /odd*; echo; /app/hello`))
	require.Contains(t, text, fmt.Sprintf("/app/hello 555 0:0 %d %d\n", len(tiny(t, "from fs")), when.Unix()))
	require.Contains(t, text, fmt.Sprintf("/app/data/big 640 0:0 %d ", len(big)))
	require.Contains(t, text, "/app/data/empty 444 0:0 0 ")
	require.Contains(t, text, "/app/priv 700 0:0 ")
	require.Contains(t, text, "../../../../etc\n")
	require.Regexp(t, `ls: .*No such file`, text) // no /etc here, and not the host's
	require.Contains(t, text, "odd\nfrom fs")
}

// A copy that is executed at once is never busy, whoever forks meanwhile.
func TestRootFSIsNeverBusy(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	files := fstest.MapFS{"p": {Data: tiny(t, "ran"), Mode: 0o755}}
	done := make(chan error, 4)
	for range cap(done) {
		go func() {
			for range 25 {
				var out bytes.Buffer
				res, err := container.Run(t.Context(), container.WithRoot(rootfs.FS(files)), container.WithCommand("/p"), container.WithStdout(&out))
				if err == nil && (res.Err() != nil || out.String() != "ran") {
					err = fmt.Errorf("%v: %q", res, out.String())
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		require.NoError(t, <-done)
	}
}

// member is one of an archive.
type member struct {
	tar.Header
	data string
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		m.Size = int64(len(m.data))
		require.NoError(t, w.WriteHeader(&m.Header))
		_, err := io.WriteString(w, m.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func zipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

func TestRootTar(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	long := strings.Repeat("long/", 50) + strings.Repeat("n", 200)
	plain := archive(t,
		member{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o751}},
		member{Header: tar.Header{Name: "/hello", Typeflag: tar.TypeReg, Mode: 0o755, ModTime: time.Unix(1e9, 0)}, data: string(tiny(t, "from tar"))},
		member{Header: tar.Header{Name: "a/old", Mode: 0o600}, data: "first"},
		member{Header: tar.Header{Name: "a/other", Typeflag: tar.TypeLink, Linkname: "./a/old"}},
		member{Header: tar.Header{Name: "a/old", Mode: 0o644}, data: "second"},
		member{Header: tar.Header{Name: "a/twin", Typeflag: tar.TypeLink, Linkname: "a/old"}},
		member{Header: tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/a/twin"}},
		member{Header: tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o640}},
		member{Header: tar.Header{Name: "dev/kmsg", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 11}},
		member{Header: tar.Header{Name: "sticky", Typeflag: tar.TypeDir, Mode: 0o3777}},
		member{Header: tar.Header{Name: "suid", Mode: 0o4755}, data: "x"},
		member{Header: tar.Header{Name: long, Mode: 0o644}, data: "deep"},
	)
	file := filepath.Join(t.TempDir(), "root.tar")
	require.NoError(t, os.WriteFile(file, plain, 0o644))
	for name, root := range map[string]rootfs.Root{
		"path": rootfs.Tar(file), "reader": rootfs.TarAt(bytes.NewReader(plain)), "gzip": rootfs.TarAt(bytes.NewReader(zipped(t, plain))),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, "from tar", output(t, container.WithRoot(root), container.WithCommand("/hello")))
			text := output(t, container.WithRoot(root), usr(), sh(`stat -c '%n %a %h %F' / /a/old /a/other /link /fifo /sticky /suid; stat -c %Y /hello; cat /a/old /a/other /link; ls /dev/kmsg; cat /`+long))
			for _, want := range []string{
				"/ 751 ", "/a/old 644 2 regular", "/a/other 600 1 regular", "/link 777 1 symbolic", "/fifo 640 1 fifo", "/sticky 3777 ", "/suid 4755 1 regular",
				"1000000000\n", "secondfirstsecond", "No such file", "deep",
			} {
				require.Contains(t, text, want)
			}
		})
	}
}

// Owners are the container's: where it has them they are kept, else it is said so.
func TestRootTarOwners(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	users := archive(t,
		member{Header: tar.Header{Name: "home", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 1000, Gid: 100}},
		member{Header: tar.Header{Name: "home/f", Mode: 0o4750, Uid: 1000, Gid: 100}, data: "x"},
		member{Header: tar.Header{Name: "home/l", Typeflag: tar.TypeSymlink, Linkname: "f", Uid: 1000, Gid: 100}},
	)
	script := sh(`stat -c '%n %u:%g %a' /home /home/f /home/l`)
	text := output(t, container.WithRoot(rootfs.TarAt(bytes.NewReader(users), rootfs.OwnedByRoot())), usr(), script)
	require.Contains(t, text, "/home 0:0 700\n/home/f 0:0 4750\n/home/l 0:0 777\n")
	if _, err := container.Run(timeout(t), container.WithCommand("true"), container.WithUser(1, 1)); err != nil {
		// A single id.
		require.ErrorIs(t, startFault(t, container.WithRoot(rootfs.TarAt(bytes.NewReader(users)))), unix.EOVERFLOW)
		return
	}
	text = output(t, container.WithRoot(rootfs.TarAt(bytes.NewReader(users))), usr(), container.WithUser(1000, 100), script)
	require.Contains(t, text, "/home 1000:100 700\n/home/f 1000:100 4750\n/home/l 1000:100 777\n")
	none := archive(t, member{Header: tar.Header{Name: "f", Uid: 70000}})
	fault := startFault(t, container.WithRoot(rootfs.TarAt(bytes.NewReader(none))))
	require.ErrorIs(t, fault, unix.EOVERFLOW)
	require.Equal(t, "/f", fault.Path)
	require.Contains(t, fault.Remedy, "OwnedByRoot")
}

// Whatever is wrong with what a root is filled from, it is an error of Start that says
// where, and nothing is left.
func TestRootSourceRefused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for name, tt := range map[string]struct {
		root rootfs.Root
		want error
		path string
	}{
		"no archive":   {rootfs.Tar("/no/such/archive"), unix.ENOENT, "/"},
		"a FIFO":       {rootfs.Tar(fifo), rootfs.ErrSourceEntry, "/"},
		"dot dot":      {rootfs.TarAt(bytes.NewReader(archive(t, member{Header: tar.Header{Name: "a/../../x"}}))), rootfs.ErrSourceEntry, "/a/../../x"},
		"too large":    {rootfs.FS(fstest.MapFS{"a/f": {Data: make([]byte, 10000)}}, rootfs.Size(8192)), rootfs.ErrSourceSize, "/a/f"},
		"a device":     {rootfs.FS(fstest.MapFS{"d": {Mode: fs.ModeDevice}}), rootfs.ErrSourceEntry, "/d"},
		"proc a file":  {rootfs.FS(fstest.MapFS{"proc": {Data: []byte("x")}}), rootfs.ErrSourceEntry, "/proc"},
		"no such file": {rootfs.FS(fstest.MapFS{"f": {}}, rootfs.Executable("g")), rootfs.ErrSourceEntry, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			fault := startFault(t, container.WithRoot(tt.root))
			require.ErrorIs(t, fault, tt.want)
			require.Equal(t, tt.path, fault.Path)
			require.Equal(t, container.PhasePrepare, fault.Phase)
			c, err := container.New(container.WithRoot(tt.root), container.WithCommand("/x"))
			require.NoError(t, err)
			require.ErrorIs(t, c.Explain(io.Discard), tt.want)
			require.NoError(t, c.Close())
		})
	}
}

// Explain reads the source again, before the start and after it.
func TestRootExplain(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c, err := container.New(container.WithRoot(rootfs.FS(fstest.MapFS{"some/file": {Data: []byte("1234")}})))
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // closed below
	for range 2 {
		var text strings.Builder
		require.NoError(t, c.Explain(&text))
		require.Contains(t, text.String(), `sendfile(<file>, <contents>, [0], 4) = 4`)
		if c.State() == container.StateCreated {
			require.NoError(t, c.Start(timeout(t)))
		}
	}
	data, err := fs.ReadFile(c.FS(), "some/file")
	require.NoError(t, err)
	require.Equal(t, "1234", string(data))
	require.NoError(t, c.Close())
}

// An error at each step of a filled root is that step's, and nothing is left.
func TestRootFailureAtEachStep(t *testing.T) {
	needContainers(t)
	root := rootfs.TarAt(bytes.NewReader(archive(t,
		member{Header: tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o2755}},
		member{Header: tar.Header{Name: "p", Mode: 0o755, ModTime: time.Unix(5, 0)}, data: string(tiny(t, "p"))},
		member{Header: tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "p"}},
		member{Header: tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "p"}},
		member{Header: tar.Header{Name: "f", Typeflag: tar.TypeFifo}},
	)))
	containertest.Census(t)
	defer container.Sabotage(nil)
	for step := 0; ; step += stride() {
		steps, at := 0, ""
		container.Sabotage(func(p *plan.Plan) {
			if p.Phase == plan.Child && steps == 0 { // shape comes first
				if steps = len(p.Steps); step < steps {
					at = p.Steps[step].Op
					p.Steps[step] = broken()
				}
			}
		})
		res, err := container.Run(timeout(t), container.WithRoot(root), container.WithCommand("/p"))
		if step >= steps {
			require.NoError(t, err)
			require.True(t, res.Success())
			require.Greater(t, steps, 20)
			break
		}
		var e *container.StartError
		require.ErrorAs(t, err, &e, "%d: %s", step+1, at)
		require.ErrorIs(t, err, unix.EBADF, "%d: %s", step+1, at)
		require.Equal(t, "broken", e.Op)
	}
	container.Sabotage(nil)
	container.Fault(func(op, path string) error {
		if op == "memfd_create" {
			return unix.ENFILE
		}
		return nil
	})
	defer container.Fault(nil)
	require.ErrorIs(t, startFault(t, container.WithRoot(root)), unix.ENFILE)
}

// What has no room beside what a root was filled with is named.
func TestRootFull(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	fault := startFault(t, container.WithRoot(rootfs.FS(fstest.MapFS{"f": {Data: make([]byte, 8192)}}, rootfs.Size(8192))), container.WithFile("/over", []byte("x"), 0o644))
	require.ErrorIs(t, fault, unix.ENOSPC)
	require.Contains(t, fault.Path, "over")
}
