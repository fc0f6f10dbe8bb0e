package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/namespace"
)

// fileTimeout bounds the wait for init's answer: it may hang with a file system.
const fileTimeout = 10 * time.Second

// as has f ask init, and makes its error a *fs.PathError.
func (f containerFS) as(op, name string, do func(ctx context.Context, r *running, path string) error) error {
	if !fs.ValidPath(name) || strings.ContainsRune(name, 0) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	r, err := f.c.started()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), fileTimeout)
		defer cancel()
		err = do(ctx, r, "/"+name)
	}
	if errors.Is(err, unix.ESRCH) {
		err = ErrEnded // init is gone
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// Open opens a regular file or a folder.
func (f containerFS) Open(name string) (file fs.File, err error) {
	err = f.as("open", name, func(ctx context.Context, r *running, path string) error {
		fd, info, err := openFile(ctx, r, path)
		if err != nil {
			return err
		}
		// Not shown to anybody: it would look for entries of folders on the host.
		of := os.NewFile(uintptr(fd), path)
		if info.IsDir() {
			file = &folder{f, of, name, info, nil, false}
		} else {
			file = &regular{of, info}
		}
		return nil
	})
	return file, err
}

// openFile opens a path of the container for reading, if it is a file or a folder.
func openFile(ctx context.Context, r *running, name string) (int, *fileInfo, error) {
	// First without touching it: to open some devices does something already.
	look, err := r.init.Open(ctx, name, true)
	if err != nil {
		return -1, nil, err
	}
	seen, err := r.stat(look, name)
	if err = errors.Join(err, unix.Close(look)); err != nil {
		return -1, nil, err
	}
	if err := seen.opens(); err != nil {
		return -1, nil, err
	}
	fd, err := r.init.Open(ctx, name, false)
	if err != nil {
		return -1, nil, err
	}
	// It may have been swapped meanwhile.
	info, err := r.stat(fd, name)
	if err == nil {
		err = info.opens()
	}
	if err != nil {
		return -1, nil, errors.Join(err, unix.Close(fd))
	}
	return fd, info, nil
}

// Stat describes what a name leads to.
func (f containerFS) Stat(name string) (fs.FileInfo, error) {
	return f.info("stat", name, func(ctx context.Context, r *running, p string) (int, error) { return r.init.Open(ctx, p, true) })
}

// Lstat describes what a name is, be it a link.
func (f containerFS) Lstat(name string) (fs.FileInfo, error) {
	return f.info("lstat", name, func(ctx context.Context, r *running, p string) (int, error) { return r.init.OpenLink(ctx, p) })
}

func (f containerFS) info(op, name string, open func(context.Context, *running, string) (int, error)) (info fs.FileInfo, err error) {
	err = f.as(op, name, func(ctx context.Context, r *running, path string) error {
		fd, err := open(ctx, r, path)
		if err != nil {
			return err
		}
		i, err := r.stat(fd, path)
		info = i
		return errors.Join(err, unix.Close(fd))
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ReadLink returns where a link leads, as it says.
func (f containerFS) ReadLink(name string) (to string, err error) {
	err = f.as("readlink", name, func(ctx context.Context, r *running, path string) error {
		fd, err := r.init.OpenLink(ctx, path)
		if err != nil {
			return err
		}
		to, err = linkTarget(fd)
		return errors.Join(err, unix.Close(fd))
	})
	return to, err
}

// linkTarget is where a link leads that is open as O_PATH.
func linkTarget(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if errors.Is(err, unix.ENOENT) {
		err = unix.EINVAL // no link: readlinkat(2) says it by another errno for an empty path
	}
	return string(buf[:max(n, 0)]), err
}

// ReadFile reads a regular file of at most MaxReadFile bytes.
func (f containerFS) ReadFile(name string) (data []byte, err error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read from
	if _, ok := file.(*regular); !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: unix.EISDIR}
	}
	// Whatever its size is said to be: files of /proc say 0, and others grow.
	var b bytes.Buffer
	n, err := b.ReadFrom(io.LimitReader(file, MaxReadFile+1))
	if err == nil && n > MaxReadFile {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("more than %d bytes: %w", MaxReadFile, unix.EFBIG)}
	}
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ReadDir reads a folder, sorted by name.
func (f containerFS) ReadDir(name string) ([]fs.DirEntry, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read from
	d, ok := file.(*folder)
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: unix.ENOTDIR}
	}
	list, err := d.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// fileInfo describes a file of a container.
type fileInfo struct {
	name string
	st   syscall.Stat_t
}

// stat describes what a descriptor is of.
func (r *running) stat(fd int, name string) (*fileInfo, error) {
	i := &fileInfo{name: path.Base(name)}
	if i.name == "/" {
		i.name = "."
	}
	if err := syscall.Fstat(fd, &i.st); err != nil {
		return nil, err
	}
	i.st.Uid, i.st.Gid = r.host.inside(i.st.Uid, i.st.Gid)
	return i, nil
}

// inside are the container's ids for owners, 65534 for those that have none inside.
func (h *host) inside(uid, gid uint32) (inUID, inGID uint32) {
	if len(h.uids) == 0 {
		return uid, gid
	}
	in := func(maps []namespace.IDMap, outer []launcher.IDMap, id uint32) uint32 {
		if in, ok := namespace.ToContainer(hostMaps(maps, outer), id); ok {
			return in
		}
		const overflow = 65534
		return overflow
	}
	return in(h.uids, h.outer, uid), in(h.gids, h.outerGIDs, gid)
}

// opens tells what is not opened.
func (i *fileInfo) opens() error {
	if m := i.Mode(); !m.IsRegular() && !m.IsDir() {
		return fmt.Errorf("neither a regular file nor a folder (%v): %w", m.Type(), errors.ErrUnsupported)
	}
	return nil
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.st.Size }
func (i *fileInfo) ModTime() time.Time { return time.Unix(i.st.Mtim.Unix()) }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) Sys() any           { return &i.st }
func (i *fileInfo) Mode() fs.FileMode {
	mode := fs.FileMode(i.st.Mode & 0o777)
	for bit, m := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if i.st.Mode&bit != 0 {
			mode |= m
		}
	}
	return mode | fileTypes[i.st.Mode>>12&0xf]
}

// fileTypes are the kernel's types of files, by the number that getdents64(2) gives.
var fileTypes = map[uint32]fs.FileMode{
	unix.DT_REG: 0, unix.DT_DIR: fs.ModeDir, unix.DT_LNK: fs.ModeSymlink, unix.DT_FIFO: fs.ModeNamedPipe, unix.DT_SOCK: fs.ModeSocket,
	unix.DT_CHR: fs.ModeDevice | fs.ModeCharDevice, unix.DT_BLK: fs.ModeDevice,
}

// regular is an open regular file.
type regular struct {
	file *os.File
	info *fileInfo
}

func (f *regular) Stat() (fs.FileInfo, error) {
	i := *f.info
	ids := i.st
	if err := fileError("stat", i.name, f.file, func(fd int) error { return syscall.Fstat(fd, &i.st) }); err != nil {
		return nil, err
	}
	i.st.Uid, i.st.Gid = ids.Uid, ids.Gid
	return &i, nil
}

func (f *regular) Read(b []byte) (int, error)               { return f.file.Read(b) }
func (f *regular) ReadAt(b []byte, at int64) (int, error)   { return f.file.ReadAt(b, at) }
func (f *regular) Seek(at int64, whence int) (int64, error) { return f.file.Seek(at, whence) }
func (f *regular) Close() error                             { return f.file.Close() }

// fileError calls with the descriptor of an open file.
func fileError(op, name string, file *os.File, call func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err == nil {
		var inner error
		if err = raw.Control(func(fd uintptr) { inner = call(int(fd)) }); err != nil {
			err = fs.ErrClosed // the one reason that there is
		} else {
			err = inner
		}
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// folder is an open folder.
type folder struct {
	fs    containerFS
	file  *os.File
	name  string
	info  *fileInfo
	ahead []fs.DirEntry // read from the kernel, and not handed out yet
	end   bool
}

func (f *folder) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *folder) Close() error               { return f.file.Close() }
func (f *folder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: f.name, Err: unix.EISDIR}
}

// ReadDir reads the next n entries, or all where n is not positive.
func (f *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	buf := make([]byte, 32<<10)
	for !f.end && (n <= 0 || len(f.ahead) < n) {
		var got int
		err := fileError("readdir", f.name, f.file, func(fd int) (err error) {
			got, err = unix.Getdents(fd, buf)
			return err
		})
		if err != nil {
			return nil, err
		}
		f.end = got == 0
		f.ahead = f.entries(buf[:got], f.ahead)
	}
	if n <= 0 {
		n = len(f.ahead)
	} else if len(f.ahead) == 0 {
		return nil, io.EOF
	}
	out := f.ahead[:min(n, len(f.ahead)):min(n, len(f.ahead))]
	f.ahead = f.ahead[len(out):]
	return out, nil
}

// entries reads what getdents64(2) gave: inode, offset, length, type, name.
func (f *folder) entries(buf []byte, out []fs.DirEntry) []fs.DirEntry {
	const header = 19
	for len(buf) > header {
		size := int(buf[16]) | int(buf[17])<<8
		name, _, _ := bytes.Cut(buf[header:size], []byte{0})
		if n := string(name); n != "." && n != ".." {
			out = append(out, &entry{f.fs, path.Join(f.name, n), n, buf[18]})
		}
		buf = buf[size:]
	}
	return out
}

// entry is one of a folder.
type entry struct {
	fs         containerFS
	path, name string
	kind       byte
}

func (e *entry) Name() string               { return e.name }
func (e *entry) IsDir() bool                { return e.Type().IsDir() }
func (e *entry) Info() (fs.FileInfo, error) { return e.fs.Lstat(e.path) }
func (e *entry) String() string             { return fs.FormatDirEntry(e) }
func (e *entry) Type() fs.FileMode {
	if e.kind == unix.DT_UNKNOWN { // some file systems do not tell
		if i, err := e.Info(); err == nil {
			return i.Mode().Type()
		}
		return fs.ModeIrregular
	}
	return fileTypes[uint32(e.kind)]
}
