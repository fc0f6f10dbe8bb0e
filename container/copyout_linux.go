package container

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
)

func (j *copying) copyOut(src, dst string) (err error) {
	j.at = src
	to, top, contents, err := target(dst, src, func(p string) (bool, error) {
		st, err := os.Stat(p)
		if err != nil {
			return false, bare(err)
		}
		return st.IsDir(), nil
	})
	if err != nil {
		return err
	}
	base, err := retry(func() (int, error) { return unix.Open(to, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	out := &hostTree{copying: j, dirs: []hostDir{{fd: base, was: true}}, temp: tempName()}
	defer func() { err = errors.Join(err, out.close()) }()
	return j.readContainer(src, top, contents, out)
}

// readContainer walks through a file or a folder of the container.
func (j *copying) readContainer(src, top string, contents bool, to sink) (err error) {
	r, err := j.running()
	if err != nil {
		return err
	}
	from, name, inner := split(src)
	dir, err := r.init.Open(j.ctx, from, true)
	if err != nil {
		return ended(err)
	}
	defer func() { err = errors.Join(err, unix.Close(dir)) }()
	files, err := r.openSource(j.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.close()) }()
	w := &walker{copying: j, src: files, to: to, shown: shownBelow(path.Join(from, name), top, contents)}
	if inner && !contents { // "/dir/." to a name of its own
		inner = false
	}
	return w.walk(dir, name, top, inner)
}

// shownBelow is how an entry is called where it was copied from.
func shownBelow(src, top string, contents bool) func(rel string) string {
	return func(rel string) string {
		if contents {
			return path.Join(src, rel)
		}
		return src + strings.TrimPrefix(rel, top)
	}
}

// target says where a copy goes: into which folder, under which name, or whether it is
// only what is in src that goes there. stat tells whether a path is a folder.
func target(dst, src string, stat func(string) (bool, error)) (dir, top string, contents bool, err error) {
	_, name, contents := split(src)
	if src == "" || dst == "" || strings.ContainsRune(src+dst, 0) {
		return "", "", false, unix.EINVAL
	}
	isDir, err := stat(dst)
	switch {
	case err == nil && isDir:
		return dst, name, contents, nil
	case err != nil && !errors.Is(err, unix.ENOENT):
		return "", "", false, fmt.Errorf("%s: %w", dst, err)
	case strings.HasSuffix(dst, "/"):
		return "", "", false, fmt.Errorf("%s: no such folder: %w", dst, unix.ENOENT)
	}
	dir, top = filepath.Dir(dst), filepath.Base(dst)
	if top == "." || top == ".." {
		return "", "", false, fmt.Errorf("%s: no such folder: %w", dst, unix.ENOENT)
	}
	return dir, top, false, nil
}

// tempName is a name that nothing has.
func tempName() string {
	b := make([]byte, 9)
	if _, err := rand.Read(b); err != nil {
		panic("inlay: bug: " + err.Error()) // crypto/rand never fails
	}
	return ".inlay-" + hex.EncodeToString(b)
}

// hostTree is a folder of the host as a sink. It is written to by descriptors of folders
// and single names, and through no link.
type hostTree struct {
	*copying
	dirs []hostDir // from the one that is copied into down
	temp string
	buf  []byte
}

type hostDir struct {
	fd  int
	was bool // there before: it stays as it is
}

func (h *hostTree) close() (err error) {
	for _, d := range h.dirs {
		err = errors.Join(err, unix.Close(d.fd))
	}
	h.dirs = nil
	return err
}

func (h *hostTree) dir() int { return h.dirs[len(h.dirs)-1].fd }

// at2 is an operation of the host's that tests let fail.
func at2(op, rel string, call func() error) error {
	if err := fault.At(op, rel); err != nil {
		return err
	}
	_, err := retry(func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (h *hostTree) folder(e *item) error {
	err := at2("mkdirat", e.rel, func() error { return unix.Mkdirat(h.dir(), e.name, 0o700) })
	was := errors.Is(err, unix.EEXIST)
	if err != nil && !was {
		return err
	}
	if err = fault.At("openat", e.rel); err == nil {
		var fd int
		fd, err = retry(func() (int, error) {
			return unix.Openat(h.dir(), e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if err == nil {
			h.dirs = append(h.dirs, hostDir{fd, was})
			return nil
		}
	}
	return fmt.Errorf("the folder %s: %w", e.rel, err)
}

func (h *hostTree) leave(e *item) error {
	d := h.dirs[len(h.dirs)-1]
	h.dirs = h.dirs[:len(h.dirs)-1]
	var err error
	if !d.was {
		err = h.finish(d.fd, e)
	}
	if err = errors.Join(err, unix.Close(d.fd)); err == nil {
		h.whole(0)
	}
	return err
}

// finish gives an open file its mode and time.
func (h *hostTree) finish(fd int, e *item) error {
	err := at2("fchmod", e.rel, func() error { return unix.Fchmod(fd, e.mode()) })
	if err != nil {
		return err
	}
	return at2("utimensat", e.rel, func() error { return futimens(fd, e) })
}

func futimens(fd int, e *item) error {
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, e.st.Mtim}
	return unix.UtimesNanoAt(fd, "", times[:], unix.AT_EMPTY_PATH)
}

// place has make put something under a name that is free, and where the item's own is
// not, replaces what has it when the new one is whole.
func (h *hostTree) place(e *item, create func(name string) error) error {
	err := at2("create", e.rel, func() error { return create(e.name) })
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err = at2("create", e.rel, func() error { return create(h.temp) }); err != nil {
		return err
	}
	err = at2("renameat", e.rel, func() error { return unix.Renameat(h.dir(), h.temp, h.dir(), e.name) })
	// Of two names of one file, rename(2) leaves both.
	if gone := unix.Unlinkat(h.dir(), h.temp, 0); !errors.Is(gone, unix.ENOENT) {
		err = errors.Join(err, gone)
	}
	return err
}

func (h *hostTree) link(e *item, to string) error {
	err := h.place(e, func(name string) error { return unix.Symlinkat(to, h.dir(), name) })
	if err == nil {
		h.whole(0)
	}
	return err
}

func (h *hostTree) hard(e *item, first string) error {
	fd, name, err := h.folderOf(first)
	if err != nil {
		return err
	}
	err = h.place(e, func(to string) error { return unix.Linkat(fd, name, h.dir(), to, 0) })
	if err = errors.Join(err, unix.Close(fd)); err == nil {
		h.whole(0)
	}
	return err
}

// folderOf opens the folder that something was copied to.
func (h *hostTree) folderOf(rel string) (fd int, name string, err error) {
	dir, name := path.Split(rel)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath}
	fd, err = retry(func() (int, error) { return unix.Openat2(h.dirs[0].fd, "./"+dir, how) })
	return fd, name, err
}

func (h *hostTree) file(e *item) (err error) {
	defer func() { err = errors.Join(err, unix.Close(e.fd)) }()
	var n int64
	err = h.place(e, func(name string) (err error) {
		n, err = h.write(e, name)
		return err
	})
	if err == nil {
		h.whole(n)
	}
	return err
}

// write copies a file to a new name; what was begun and not finished is removed.
func (h *hostTree) write(e *item, name string) (n int64, err error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	to, err := unix.Openat(h.dir(), name, flags, 0o600)
	if err != nil {
		return 0, err
	}
	n, err = h.fill(to, e)
	if err == nil {
		err = h.finish(to, e)
	}
	if cerr := at2("close", e.rel, func() error { return nil }); cerr != nil {
		err = errors.Join(err, cerr)
	}
	if err = errors.Join(err, unix.Close(to)); err != nil {
		err = errors.Join(err, unix.Unlinkat(h.dir(), name, 0))
	}
	return n, err
}

// fill copies the data of a file.
func (h *hostTree) fill(to int, e *item) (n int64, err error) {
	const small, most = 64 << 10, 8 << 20
	if h.buf == nil {
		h.buf = make([]byte, small)
	}
	err = e.pieces(most, func(at, size int64) error {
		if h.ctx.Err() != nil {
			return context.Cause(h.ctx)
		}
		if err := h.bytes(size); err != nil {
			return err
		}
		if err := fault.At("write", e.rel); err != nil {
			return err
		}
		done, err := copyRange(e.fd, to, at, size, h.buf)
		n += done
		return err
	})
	if err == nil && e.sparse() {
		err = at2("ftruncate", e.rel, func() error { return unix.Ftruncate(to, e.st.Size) })
	}
	return n, err
}

// copyRange copies n bytes from an offset to the same one, less where the file ends.
func copyRange(from, to int, at, n int64, buf []byte) (done int64, err error) {
	kernel := n > int64(len(buf))
	for done < n {
		var got int
		pos := at + done
		if kernel {
			in, out := pos, pos
			got, err = retry(func() (int, error) { return unix.CopyFileRange(from, &in, to, &out, int(n-done), 0) })
			if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.EFBIG) && !errors.Is(err, unix.EIO) || err == nil && got == 0 {
				// Not for these two file systems: sendfile(2) is, mostly.
				if _, err = unix.Seek(to, pos, unix.SEEK_SET); err != nil {
					return done, err
				}
				got, err = retry(func() (int, error) { return unix.Sendfile(to, from, &in, int(n-done)) })
				if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
					kernel = false
					continue
				}
			}
		} else {
			got, err = retry(func() (int, error) { return unix.Pread(from, buf[:min(int64(len(buf)), n-done)], pos) })
			if err == nil && got > 0 {
				got, err = retry(func() (int, error) { return unix.Pwrite(to, buf[:got], pos) })
			}
		}
		if err != nil {
			return done, err
		}
		if got == 0 {
			return done, nil // it has become shorter
		}
		done += int64(got)
	}
	return done, nil
}
