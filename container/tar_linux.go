package container

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
)

func (j *copying) tarOut(w io.Writer, src string) error {
	j.at = src
	if src == "" || strings.ContainsRune(src, 0) {
		return unix.EINVAL
	}
	r, err := j.running()
	if err != nil {
		return err
	}
	_, top, contents := split(src)
	if contents {
		top = ""
	}
	buffered := bufio.NewWriterSize(w, 256<<10)
	out := &tarTree{copying: j, host: r.host, out: tar.NewWriter(buffered)}
	if err := j.readContainer(src, top, contents, out); err != nil {
		return err
	}
	if err := out.out.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// tarTree is an archive as a sink.
type tarTree struct {
	*copying
	host *host
	out  *tar.Writer
	buf  []byte
}

func (t *tarTree) header(e *item, kind byte, name string) *tar.Header {
	uid, gid := t.host.inside(e.st.Uid, e.st.Gid)
	return &tar.Header{
		Typeflag: kind, Name: name, Mode: int64(e.mode()), Uid: int(uid), Gid: int(gid),
		ModTime: time.Unix(e.st.Mtim.Sec, 0), // else it were rounded, into the future
	}
}

func (t *tarTree) write(h *tar.Header) error {
	if err := t.out.WriteHeader(h); err != nil {
		return err
	}
	t.whole(0)
	return nil
}

func (t *tarTree) folder(e *item) error { return t.write(t.header(e, tar.TypeDir, e.rel+"/")) }

func (t *tarTree) leave(*item) error { return nil }

func (t *tarTree) link(e *item, to string) error {
	h := t.header(e, tar.TypeSymlink, e.rel)
	h.Linkname = to
	return t.write(h)
}

func (t *tarTree) hard(e *item, first string) error {
	h := t.header(e, tar.TypeLink, e.rel)
	h.Linkname = first
	return t.write(h)
}

func (t *tarTree) file(e *item) (err error) {
	defer func() { err = errors.Join(err, unix.Close(e.fd)) }()
	if err := t.bytes(e.st.Size); err != nil {
		return err
	}
	h := t.header(e, tar.TypeReg, e.rel)
	h.Size = e.st.Size
	if err := t.out.WriteHeader(h); err != nil {
		return err
	}
	at := int64(0)
	err = e.pieces(1<<20, func(from, n int64) error {
		if err := t.zeros(from - at); err != nil {
			return err
		}
		at = from + n
		return t.data(e, from, n)
	})
	if err == nil {
		err = t.zeros(e.st.Size - at)
	}
	if err == nil {
		t.whole(e.st.Size)
	}
	return err
}

// buffer is memory to read to.
func (t *tarTree) buffer() []byte {
	if t.buf == nil {
		t.buf = make([]byte, 256<<10)
	}
	return t.buf
}

// zeros writes n of them, for a hole.
func (t *tarTree) zeros(n int64) error {
	if n <= 0 {
		return nil
	}
	buf := t.buffer()
	clear(buf)
	for ; n > 0; n -= int64(len(buf)) {
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		buf = buf[:min(int64(len(buf)), n)]
		if _, err := t.out.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// data writes n bytes from an offset of a file, and zeros where it has become shorter.
func (t *tarTree) data(e *item, from, n int64) error {
	if t.ctx.Err() != nil {
		return context.Cause(t.ctx)
	}
	for n > 0 {
		buf := t.buffer()[:min(int64(len(t.buf)), n)]
		got, err := retry(func() (int, error) { return unix.Pread(e.fd, buf, from) })
		if err == nil {
			err = fault.At("pread", e.rel)
		}
		if err != nil {
			return err
		}
		if got == 0 {
			t.skip(t.at, "it became shorter meanwhile: the rest is zeros")
			return t.zeros(n)
		}
		if _, err := t.out.Write(buf[:got]); err != nil {
			return err
		}
		from, n = from+int64(got), n-int64(got)
	}
	return nil
}

func (j *copying) tarIn(r io.Reader, dir string) (err error) {
	if dir == "" || strings.ContainsRune(dir, 0) {
		return unix.EINVAL
	}
	run, err := j.running()
	if err != nil {
		return err
	}
	isDir, err := run.isFolder(j.ctx, dir)
	if err == nil && !isDir {
		err = unix.ENOTDIR
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	in, err := j.openTree(run, dir)
	if err != nil {
		return err
	}
	u := &unpacking{insideTree: in, tar: tar.NewReader(bufio.NewReaderSize(endingReader{j.ctx, r}, 64<<10)), folders: map[string]*unpackedFolder{}}
	defer func() { err = errors.Join(err, in.close(), u.close()) }()
	for {
		if j.ctx.Err() != nil {
			return context.Cause(j.ctx)
		}
		h, err := u.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		// Whether a name is secure is looked at below.
		if err != nil && (h == nil || !errors.Is(err, tar.ErrInsecurePath)) {
			return fmt.Errorf("the archive: %w", err)
		}
		j.at = h.Name
		if err := u.entry(h); err != nil {
			return err
		}
	}
	j.at = ""
	for _, f := range u.named {
		if err := in.add(f.leave); err != nil {
			return err
		}
	}
	return in.finish()
}

// unpacking is an archive on its way into a container.
type unpacking struct {
	*insideTree
	tar     *tar.Reader
	folders map[string]*unpackedFolder
	named   []*unpackedFolder // by the archive
	buffers []*buffer
	names   int // bytes of those that are kept
}

// endingReader ends with the context: what is skipped of an archive is read as well.
type endingReader struct {
	ctx context.Context
	r   io.Reader
}

func (e endingReader) Read(b []byte) (int, error) {
	if err := context.Cause(e.ctx); err != nil {
		return 0, err
	}
	return e.r.Read(b)
}

type unpackedFolder struct {
	made  *madeFolder
	leave *act // gives it its time, when nothing more is made in it
}

// buffer is a part of an archive, in memory of the kernel's that the process that
// writes can be handed.
type buffer struct {
	fd   int
	mem  []byte
	used int
	refs int // acts that read from it
}

const (
	bufferSize = 4 << 20
	maxBuffers = 4
)

func (u *unpacking) close() (err error) {
	for _, b := range u.buffers {
		err = errors.Join(err, unix.Munmap(b.mem), unix.Close(b.fd))
	}
	u.buffers = nil
	return err
}

// errName is a name that would lead out of the folder.
var errName = fmt.Errorf("a name with ..: %w", unix.EINVAL)

// unpackedName is a name of an archive below the folder it is unpacked to; "" is that.
func unpackedName(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("a name with a NUL byte: %w", unix.EINVAL)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errName
		}
	}
	name = path.Clean("/" + name)[1:]
	if strings.Count(name, "/") >= MaxCopyDepth {
		return "", fmt.Errorf("more than %d folders in one another: %w", MaxCopyDepth, ErrBudget)
	}
	return name, nil
}

func (u *unpacking) entry(h *tar.Header) error {
	if err := u.copying.entry(); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if u.names += len(h.Name) + len(h.Linkname); u.names > 4*maxNames {
		return fmt.Errorf("names of more than %d bytes: %w", 4*maxNames, ErrBudget)
	}
	rel, err := unpackedName(h.Name)
	if err != nil {
		return err
	}
	e := &item{rel: rel}
	e.st.Mode = uint32(h.Mode) & 0o7777
	if h.ModTime.Year() > 1 {
		e.st.Mtim = unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	}
	if h.Typeflag == tar.TypeDir {
		e.st.Mode |= unix.S_IFDIR
		if rel == "" {
			return nil // the folder itself
		}
		return u.makeFolder(e)
	}
	if rel == "" {
		return fmt.Errorf("an entry without a name: %w", unix.EINVAL)
	}
	if u.folders[rel] != nil {
		return unix.EISDIR
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont, tar.TypeSymlink, tar.TypeLink:
		if err := u.parents(rel); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return u.data(e, h.Size)
	case tar.TypeSymlink:
		if strings.ContainsRune(h.Linkname, 0) || h.Linkname == "" {
			return unix.EINVAL
		}
		return u.link(e, h.Linkname)
	case tar.TypeLink:
		first, err := unpackedName(h.Linkname)
		if err != nil {
			return fmt.Errorf("a link to %q: %w", h.Linkname, err)
		}
		if first == "" {
			return unix.EINVAL
		}
		return u.hard(e, first)
	case tar.TypeFifo:
		u.skip(h.Name, "a FIFO")
	case tar.TypeChar, tar.TypeBlock:
		u.skip(h.Name, "a device")
	default:
		u.skip(h.Name, fmt.Sprintf("of type %q", h.Typeflag))
	}
	return u.bytes(max(0, h.Size)) // it is read, too
}

// parents makes the folders that a name needs, and that the archive has not named yet.
func (u *unpacking) parents(rel string) error {
	dir := path.Dir(rel)
	if dir == "." || u.folders[dir] != nil {
		return nil
	}
	if err := u.parents(dir); err != nil {
		return err
	}
	e := &item{rel: dir}
	e.st.Mode = unix.S_IFDIR | 0o755
	a := u.newAct(actFolder, e)
	a.folder = &madeFolder{}
	u.folders[dir] = &unpackedFolder{made: a.folder}
	return u.add(a)
}

// makeFolder makes one that the archive names. One that it has made use of already gets
// its mode in the end.
func (u *unpacking) makeFolder(e *item) error {
	if err := u.parents(e.rel); err != nil {
		return err
	}
	f := u.folders[e.rel]
	was := f != nil
	if !was {
		f = &unpackedFolder{made: &madeFolder{}}
		u.folders[e.rel] = f
	}
	if f.leave == nil {
		u.named = append(u.named, f)
	}
	f.leave = u.newAct(actLeave, e)
	f.leave.folder, f.leave.setMode, f.leave.counts = f.made, was, false
	if was {
		u.whole(0)
		return nil
	}
	a := u.newAct(actFolder, e)
	a.folder, a.counts = f.made, true
	return u.add(a)
}

// data takes a file's from the archive.
func (u *unpacking) data(e *item, size int64) error {
	if err := u.bytes(size); err != nil {
		return err
	}
	const small = 256 << 10
	if size <= small {
		a := u.newAct(actFile, e)
		a.n, a.bytes = size, size
		if err := u.read(a, int(size)); err != nil {
			return err
		}
		return u.add(a)
	}
	if err := u.add(u.newAct(actBegin, e)); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		a := u.newAct(actPiece, e)
		a.at, a.n = at, min(size-at, bufferSize/2)
		if err := u.read(a, int(a.n)); err != nil {
			return err
		}
		if err := u.add(a); err != nil {
			return err
		}
		at += a.n
	}
	a := u.newAct(actEnd, e)
	a.bytes = size
	return u.add(a)
}

// read reads the next bytes of the archive, for an act.
func (u *unpacking) read(a *act, n int) error {
	if n == 0 {
		return nil
	}
	b, err := u.room(n)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(u.tar, b.mem[b.used:b.used+n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("the archive: %w", err)
	}
	a.fd, a.off = b.fd, int64(b.used)
	b.used += n
	b.refs++
	a.then = func() error { b.refs--; return nil }
	return nil
}

// room is a buffer that has room for n bytes: once what was read from one is where it
// belongs, it is free again.
func (u *unpacking) room(n int) (*buffer, error) {
	for {
		for _, b := range u.buffers {
			if b.refs == 0 {
				b.used = 0
			}
		}
		for _, b := range u.buffers {
			if bufferSize-b.used >= n {
				return b, nil
			}
		}
		if len(u.buffers) < maxBuffers {
			b, err := newBuffer()
			if err != nil {
				return nil, err
			}
			u.buffers = append(u.buffers, b)
			return b, nil
		}
		if err := u.flush(); err != nil {
			return nil, err
		}
		if err := u.confirm(); err != nil {
			return nil, err
		}
	}
}

func newBuffer() (*buffer, error) {
	err := fault.At("memfd_create", "")
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("inlay-tar", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	b := &buffer{fd: fd}
	if err = unix.Ftruncate(fd, bufferSize); err == nil {
		b.mem, err = unix.Mmap(fd, 0, bufferSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return b, nil
}
