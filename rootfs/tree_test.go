package rootfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/rootfs"
)

// whole tells whether a tree is what init relies on: names that are clean, each once,
// after their folder, through folders alone; contents one after the other.
func whole(t testing.TB, tree *rootfs.Tree, contents int) {
	t.Helper()
	kinds := map[string]byte{}
	require.Equal(t, ".", tree.Entries[0].Path)
	require.EqualValues(t, 'd', tree.Entries[0].Kind)
	for i, e := range tree.Entries {
		require.NotContains(t, kinds, e.Path)
		kinds[e.Path] = e.Kind
		require.LessOrEqual(t, e.Mode, uint32(0o7777))
		switch e.Kind {
		case 'd', 'p':
		case 'f':
			require.GreaterOrEqual(t, e.Offset, int64(0))
			require.GreaterOrEqual(t, e.Size, int64(0))
			require.LessOrEqual(t, e.Offset+e.Size, int64(contents))
		case 'l':
			require.NotEmpty(t, e.Link)
			require.NotContains(t, e.Link, "\x00")
		case 'h':
			require.Contains(t, kinds, e.Link)
			require.NotEqual(t, byte('d'), kinds[e.Link])
			require.NotEqual(t, byte('h'), kinds[e.Link])
		default:
			t.Fatalf("kind %q", e.Kind)
		}
		if i == 0 {
			continue
		}
		require.Equal(t, e.Path, path.Clean(e.Path))
		require.False(t, path.IsAbs(e.Path) || strings.HasPrefix(e.Path, "../") || e.Path == ".." || strings.Contains(e.Path, "\x00"), "%q", e.Path)
		require.EqualValues(t, 'd', kinds[path.Dir(e.Path)], "%q", e.Path)
	}
	require.EqualValues(t, contents, tree.Contents)
}

func read(t testing.TB, root rootfs.Root) (map[string]rootfs.TreeEntry, string, error) {
	t.Helper()
	require.NoError(t, root.Validate())
	var b bytes.Buffer
	tree, err := root.Read(t.Context(), &b)
	if err != nil {
		require.Nil(t, tree)
		var source *rootfs.SourceError
		require.ErrorAs(t, err, &source)
		return nil, "", err
	}
	whole(t, tree, b.Len())
	again, err := root.Read(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, tree, again)
	m := map[string]rootfs.TreeEntry{}
	for _, e := range tree.Entries {
		m[e.Path] = e
	}
	return m, b.String(), nil
}

//go:embed tree_test.go
var embedded embed.FS

func TestReadEmbedded(t *testing.T) {
	m, contents, err := read(t, rootfs.FS(embedded, rootfs.Executable("*_test.go")))
	require.NoError(t, err)
	e := m["tree_test.go"]
	require.Equal(t, uint32(0o555), e.Mode)
	require.Contains(t, contents[e.Offset:e.Offset+e.Size], "func TestReadEmbedded")
	require.Equal(t, uint32(0o1777), m["tmp"].Mode)
	require.Len(t, m, 6)
}

func TestReadDirFS(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/b/f"), []byte("text"), 0o640))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "a/passwd")))
	require.NoError(t, os.Symlink("..", filepath.Join(dir, "a/loop")))
	m, contents, err := read(t, rootfs.FS(os.DirFS(dir)))
	require.NoError(t, err)
	require.Equal(t, "text", contents)
	require.Equal(t, uint32(0o750), m["a/b"].Mode)
	require.Equal(t, uint32(0o640), m["a/b/f"].Mode)
	require.NotZero(t, m["a/b/f"].Sec)
	require.Equal(t, "/etc/passwd", m["a/passwd"].Link)
	require.Equal(t, "..", m["a/loop"].Link)
}

// odd is a file system that does what none should.
type odd struct {
	name string // of what is in its root
	mode fs.FileMode
	size int64
	read func(b []byte) (int, error)
	list func(n int) ([]fs.DirEntry, error)
	fail error
	info error
	none bool
}

func (o odd) Open(name string) (fs.File, error) {
	if o.none {
		return nil, nil
	}
	if name != "." && o.fail != nil {
		return nil, o.fail
	}
	return &oddFile{o, name, false}, nil
}

type oddFile struct {
	odd
	at   string
	done bool
}

func (f *oddFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *oddFile) Close() error               { return nil }
func (f *oddFile) Read(b []byte) (int, error) { return f.read(b) }
func (f *oddFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if f.list != nil {
		return f.list(n)
	}
	if f.done {
		return nil, io.EOF
	}
	f.done = true
	return []fs.DirEntry{f}, nil
}
func (f *oddFile) Name() string               { return f.name }
func (f *oddFile) Size() int64                { return f.size }
func (f *oddFile) Mode() fs.FileMode          { return f.mode }
func (f *oddFile) Type() fs.FileMode          { return f.mode.Type() }
func (f *oddFile) ModTime() time.Time         { return time.Time{} }
func (f *oddFile) IsDir() bool                { return f.mode.IsDir() }
func (f *oddFile) Sys() any                   { return nil }
func (f *oddFile) Info() (fs.FileInfo, error) { return f, f.info }

func TestReadOddFileSystems(t *testing.T) {
	broken := errors.New("broken")
	endless := func(b []byte) (int, error) { return len(b), nil }
	endlessList := func(n int) ([]fs.DirEntry, error) {
		out := make([]fs.DirEntry, n)
		for i := range out {
			out[i] = &oddFile{odd: odd{name: fmt.Sprint("f", i)}}
		}
		return out, nil
	}
	for name, tt := range map[string]struct {
		files fs.FS
		want  error
	}{
		"dot dot":            {odd{name: ".."}, rootfs.ErrSourceEntry},
		"dot":                {odd{name: "."}, rootfs.ErrSourceEntry},
		"no name":            {odd{name: ""}, rootfs.ErrSourceEntry},
		"a path as a name":   {odd{name: "a/../../b"}, rootfs.ErrSourceEntry},
		"absolute":           {odd{name: "/etc"}, rootfs.ErrSourceEntry},
		"NUL":                {odd{name: "a\x00b"}, rootfs.ErrSourceEntry},
		"a long name":        {odd{name: strings.Repeat("x", 256)}, rootfs.ErrSourceEntry},
		"proc":               {odd{name: "proc", read: bytes.NewReader(nil).Read}, rootfs.ErrSourceEntry},
		"folders for ever":   {odd{name: "d", mode: fs.ModeDir}, rootfs.ErrSourceSize},
		"deeper than a path": {odd{name: strings.Repeat("d", 200), mode: fs.ModeDir}, rootfs.ErrSourceEntry},
		"no end":             {odd{name: "f", read: endless}, rootfs.ErrSourceSize},
		"huge":               {odd{name: "f", size: 1 << 60}, rootfs.ErrSourceSize},
		"a list without end": {odd{list: endlessList}, rootfs.ErrSourceSize},
		"an idle list":       {odd{list: func(int) ([]fs.DirEntry, error) { return nil, nil }}, io.ErrNoProgress},
		"nil in a list":      {odd{list: func(int) ([]fs.DirEntry, error) { return []fs.DirEntry{nil}, io.EOF }}, rootfs.ErrSourceEntry},
		"a broken list":      {odd{list: func(int) ([]fs.DirEntry, error) { return nil, broken }}, broken},
		"listed twice": {odd{read: bytes.NewReader(nil).Read, list: func(int) ([]fs.DirEntry, error) {
			f := &oddFile{odd: odd{name: "f"}}
			return []fs.DirEntry{f, f}, io.EOF
		}}, rootfs.ErrSourceEntry},
		"an idle file":      {odd{name: "f", read: func([]byte) (int, error) { return 0, nil }}, io.ErrNoProgress},
		"more than asked":   {odd{name: "f", read: func(b []byte) (int, error) { return len(b) + 1, nil }}, rootfs.ErrSourceEntry},
		"less than nothing": {odd{name: "f", read: func([]byte) (int, error) { return -1, nil }}, rootfs.ErrSourceEntry},
		"broken in between": {odd{name: "f", read: func() func(b []byte) (int, error) {
			return io.MultiReader(strings.NewReader("some"), iotestErr{broken}).Read
		}()}, broken},
		"does not open":       {odd{name: "f", fail: broken}, broken},
		"opens to nothing":    {odd{none: true}, rootfs.ErrSourceEntry},
		"no information":      {odd{name: "f", info: fs.ErrPermission}, fs.ErrPermission},
		"a device":            {odd{name: "f", mode: fs.ModeDevice | fs.ModeCharDevice}, rootfs.ErrSourceEntry},
		"a socket":            {odd{name: "f", mode: fs.ModeSocket}, rootfs.ErrSourceEntry},
		"a FIFO":              {odd{name: "f", mode: fs.ModeNamedPipe}, rootfs.ErrSourceEntry},
		"a link of who knows": {odd{name: "f", mode: fs.ModeSymlink}, rootfs.ErrSourceEntry},
		"an empty link":       {fstest.MapFS{"l": {Mode: fs.ModeSymlink}}, rootfs.ErrSourceEntry},
		"a link with a NUL":   {fstest.MapFS{"l": {Mode: fs.ModeSymlink, Data: []byte("a\x00b")}}, rootfs.ErrSourceEntry},
		"a long link":         {fstest.MapFS{"l": {Mode: fs.ModeSymlink, Data: bytes.Repeat([]byte("x"), 5000)}}, rootfs.ErrSourceEntry},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := read(t, rootfs.FS(tt.files, rootfs.Size(1<<20), rootfs.Inodes(1000)))
			require.ErrorIs(t, err, tt.want)
		})
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

// Whole pages and all names count, to the last one.
func TestReadBudgets(t *testing.T) {
	files := fstest.MapFS{"a": {Data: []byte("x")}, "b": {Data: make([]byte, 4097)}, "c": {}}
	_, _, err := read(t, rootfs.FS(files, rootfs.Size(3*4096)))
	require.NoError(t, err)
	_, _, err = read(t, rootfs.FS(files, rootfs.Size(3*4096-1)))
	require.ErrorIs(t, err, rootfs.ErrSourceSize)
	require.Contains(t, err.Error(), "rootfs.Size")
	many := fstest.MapFS{}
	for i := range 11 {
		many[fmt.Sprint(i)] = &fstest.MapFile{}
	}
	_, _, err = read(t, rootfs.FS(many, rootfs.Inodes(16)))
	require.NoError(t, err)
	many["one more"] = &fstest.MapFile{}
	_, _, err = read(t, rootfs.FS(many, rootfs.Inodes(16)))
	require.ErrorIs(t, err, rootfs.ErrSourceSize)
}

func TestReadEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	n := 0
	endless := odd{name: "f", read: func(b []byte) (int, error) {
		if n++; n == 3 {
			cancel(why)
		}
		return 1, nil
	}}
	_, err := rootfs.FS(endless).Read(ctx, nil)
	require.ErrorIs(t, err, why)
	require.Equal(t, 3, n)
}

// What is written to says so itself.
func TestReadToFullDisk(t *testing.T) {
	full := errors.New("full")
	r, w := io.Pipe()
	require.NoError(t, r.CloseWithError(full))
	_, err := rootfs.FS(fstest.MapFS{"f": {Data: make([]byte, 1<<20)}}).Read(t.Context(), w)
	require.ErrorIs(t, err, full)
}

func pack(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write(make([]byte, h.Size))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func TestReadTar(t *testing.T) {
	m, contents, err := read(t, rootfs.TarAt(bytes.NewReader(pack(t,
		tar.Header{Name: "x", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "git"}},
		tar.Header{Name: "///abs", Size: 3, Mode: 0o644, Uid: 7, Gid: 8},
		tar.Header{Name: "./d/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 5},
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../out"},
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
		tar.Header{Name: "hl", Typeflag: tar.TypeLink, Linkname: "l"},
		tar.Header{Name: "cont", Typeflag: tar.TypeCont, Size: 2},
		tar.Header{Name: "dev/null", Typeflag: tar.TypeChar},
		tar.Header{Name: "dev/sub/disk", Typeflag: tar.TypeBlock},
		tar.Header{Name: "dev/console", Mode: 0o600},
		tar.Header{Name: "tmp", Typeflag: tar.TypeDir, Mode: 0o1700},
	))))
	require.NoError(t, err)
	require.Len(t, contents, 5)
	require.Equal(t, rootfs.TreeEntry{Path: "abs", Kind: 'f', Mode: 0o644, UID: 7, GID: 8, Size: 3}, m["abs"])
	require.Equal(t, uint32(0o711), m["d"].Mode)
	require.Equal(t, uint32(5), m["d"].UID)
	require.Equal(t, "/etc", m["hl"].Link)
	require.Equal(t, byte('h'), m["l"].Kind)
	require.Equal(t, "hl", m["l"].Link)
	require.Equal(t, uint32(0o1700), m["tmp"].Mode)
	require.NotContains(t, m, "dev/null")
	require.NotContains(t, m, "dev/sub")
	require.Contains(t, m, "dev/console")
}

func TestReadTarRefuses(t *testing.T) {
	gz := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		require.NoError(t, errors.Join(err, w.Close()))
		return b.Bytes()
	}
	file := tar.Header{Name: "f", Size: 600}
	good := pack(t, file)
	broken := gz(good)
	broken[len(broken)-6] ^= 1 // of the checksum
	for name, tt := range map[string]struct {
		archive []byte
		want    error
	}{
		"nothing":               {nil, rootfs.ErrSourceEntry},
		"zeros":                 {make([]byte, 1024), rootfs.ErrSourceEntry},
		"no archive":            {bytes.Repeat([]byte("text"), 300), tar.ErrHeader},
		"cut off":               {good[:700], io.ErrUnexpectedEOF},
		"cut off in a header":   {good[:100], io.ErrUnexpectedEOF},
		"cut off, compressed":   {gz(good)[:30], io.ErrUnexpectedEOF},
		"a checksum":            {broken, gzip.ErrChecksum},
		"zstd":                  {[]byte("\x28\xb5\x2f\xfd......"), errors.ErrUnsupported},
		"xz":                    {[]byte("\xfd7zXZ\x00......"), errors.ErrUnsupported},
		"bzip2":                 {[]byte("BZh91AY......"), errors.ErrUnsupported},
		"zip":                   {[]byte("PK\x03\x04......"), errors.ErrUnsupported},
		"dot dot":               {pack(t, tar.Header{Name: "../x"}), rootfs.ErrSourceEntry},
		"dot dot in between":    {pack(t, tar.Header{Name: "a/b/../../x"}), rootfs.ErrSourceEntry},
		"through a link":        {pack(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, tar.Header{Name: "l/passwd"}), rootfs.ErrSourceEntry},
		"through a file":        {pack(t, file, tar.Header{Name: "f/x"}), rootfs.ErrSourceEntry},
		"a folder over a file":  {pack(t, file, tar.Header{Name: "f/", Typeflag: tar.TypeDir}), rootfs.ErrSourceEntry},
		"a link over a folder":  {pack(t, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "x"}), rootfs.ErrSourceEntry},
		"a file as the root":    {pack(t, tar.Header{Name: "./."}), rootfs.ErrSourceEntry},
		"a hard link outside":   {pack(t, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), rootfs.ErrSourceEntry},
		"a hard link upwards":   {pack(t, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../h"}), rootfs.ErrSourceEntry},
		"a hard link to later":  {pack(t, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "f"}, file), rootfs.ErrSourceEntry},
		"a hard link to itself": {pack(t, file, tar.Header{Name: "f", Typeflag: tar.TypeLink, Linkname: "f"}), rootfs.ErrSourceEntry},
		"a hard link to a link's": {pack(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
			tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "l/passwd"}), rootfs.ErrSourceEntry},
		"a hard link to a folder": {pack(t, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "d"}), rootfs.ErrSourceEntry},
		"a hard link to the root": {pack(t, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "/"}), rootfs.ErrSourceEntry},
		"a device":                {pack(t, tar.Header{Name: "sda", Typeflag: tar.TypeBlock}), rootfs.ErrSourceEntry},
		"a device called dev":     {pack(t, tar.Header{Name: "dev", Typeflag: tar.TypeChar}), rootfs.ErrSourceEntry},
		"proc as a link":          {pack(t, tar.Header{Name: "proc", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}), rootfs.ErrSourceEntry},
		"a long link":             {pack(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x", 4096)}), rootfs.ErrSourceEntry},
		"a long name":             {pack(t, tar.Header{Name: strings.Repeat("x", 256)}), rootfs.ErrSourceEntry},
		"a long path":             {pack(t, tar.Header{Name: strings.Repeat("x/", 2050) + "x"}), rootfs.ErrSourceEntry},
		"an owner that is none":   {pack(t, tar.Header{Name: "f", Uid: 1<<32 - 1}), rootfs.ErrSourceEntry},
		"an odd type":             {pack(t, tar.Header{Name: "f", Typeflag: 'Z'}), rootfs.ErrSourceEntry},
		"too many":                {pack(t, tar.Header{Name: strings.Repeat("d/", 100)}), rootfs.ErrSourceSize},
		"too much":                {pack(t, tar.Header{Name: "f", Size: 70000}), rootfs.ErrSourceSize},
		"a bomb":                  {gz(pack(t, tar.Header{Name: "f", Size: 50 << 20})), rootfs.ErrSourceSize},
		"a bomb behind the end":   {gz(append(pack(t, tar.Header{Name: "f"}), make([]byte, 80<<20)...)), rootfs.ErrSourceSize},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := read(t, rootfs.TarAt(bytes.NewReader(tt.archive), rootfs.Size(65536), rootfs.Inodes(50)))
			require.ErrorIs(t, err, tt.want)
		})
	}
}

// A file with holes counts with them: its name is on the budget before it is unpacked.
func TestReadTarSparse(t *testing.T) {
	sparse := func(size int64) []byte {
		// GNU's old format, which archive/tar reads and does not write: one byte at the
		// end, behind a hole.
		h := tar.Header{Name: "s", Format: tar.FormatGNU}
		h.Size = 1
		b := pack(t, h)
		b[512] = 'E'
		b[156] = 'S'
		copy(b[386:], fmt.Sprintf("%011o\x00%011o\x00", size-1, 1))
		copy(b[483:], fmt.Sprintf("%011o\x00", size))
		copy(b[148:], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	m, contents, err := read(t, rootfs.TarAt(bytes.NewReader(sparse(100000))))
	require.NoError(t, err)
	require.Equal(t, int64(100000), m["s"].Size)
	require.Equal(t, "\x00E", contents[99998:])
	_, _, err = read(t, rootfs.TarAt(bytes.NewReader(sparse(1<<32))))
	require.ErrorIs(t, err, rootfs.ErrSourceSize)
}

// Validate knows what a root may be, and JSON keeps all but what a program has.
func TestMadeRootsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		root  rootfs.Root
		fault string
	}{
		"size":                      {rootfs.Empty(rootfs.Size(0)), "at least 1 byte"},
		"a size below zero":         {rootfs.Empty(rootfs.Size(-5)), "at least 1 byte"},
		"inodes":                    {rootfs.Empty(rootfs.Inodes(15)), "at least 16"},
		"writable":                  {rootfs.Empty(rootfs.Writable()), "ReadOnly"},
		"etc":                       {rootfs.Empty(rootfs.Etc("x")), "rootfs.Host"},
		"executables of empty":      {rootfs.Empty(rootfs.Executable("x")), "rootfs.FS"},
		"owners of empty":           {rootfs.Empty(rootfs.OwnedByRoot()), "rootfs.Tar"},
		"no file system":            {rootfs.FS(nil), "no file system"},
		"a bad pattern":             {rootfs.FS(fstest.MapFS{}, rootfs.Executable("[")), "syntax error"},
		"owners of FS":              {rootfs.FS(fstest.MapFS{}, rootfs.OwnedByRoot()), "rootfs.Tar"},
		"no archive":                {rootfs.Tar(""), "no archive"},
		"no reader":                 {rootfs.TarAt(nil), "no archive"},
		"a relative archive":        {rootfs.Tar("x.tar"), "relative"},
		"an archive upwards":        {rootfs.Tar("/a/../x.tar"), `".."`},
		"an archive with a NUL":     {rootfs.Tar("/a\x00"), "NUL"},
		"executables of an archive": {rootfs.Tar("/a", rootfs.Executable("x")), "rootfs.FS"},
		"the host's, with a size":   {rootfs.Host(rootfs.Size(5)), "rootfs.Overlay"},
		"a folder, read-only":       {rootfs.Dir("/srv", rootfs.ReadOnly()), "rootfs.Empty"},
		"a folder with inodes":      {rootfs.Dir("/srv", rootfs.Inodes(50)), "rootfs.Overlay"},
		"a type":                    {rootfs.Root{Type: "zip"}, "Empty"},
		"empty with a path":         {rootfs.Root{Type: "empty", Path: "/x", Size: 1, Inodes: 16}, "path"},
		"a source of empty":         {rootfs.Root{Type: "empty", Source: rootfs.FS(fstest.MapFS{}).Source, Size: 1, Inodes: 16}, "source"},
		"a source of another":       {rootfs.Root{Type: "tar", Source: rootfs.FS(fstest.MapFS{}).Source, Size: 1, Inodes: 16}, "source"},
		"a path and a reader":       {rootfs.Root{Type: "tar", Source: rootfs.TarAt(strings.NewReader("")).Source, Path: "/x", Size: 1, Inodes: 16}, "a path and a reader"},
	} {
		t.Run(name, func(t *testing.T) { require.ErrorContains(t, tt.root.Validate(), tt.fault) })
	}
}
