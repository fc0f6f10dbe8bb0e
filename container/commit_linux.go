package container

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/rootfs"
)

// Commit writes what jobs changed in staged workspaces to the workspaces' folders: in
// those mounted at targets, or in all of them where none is named. New files and
// folders belong to the folder's owner, with their mode (without set-user-ID and
// set-group-ID bits) and files with their times; a changed file takes the place of the
// old one in one step. Hard links among the changes stay links.
//
// It may be called while jobs run, whose last changes it may miss or find half done
// (see [Container.Pause]), more than once, and until Close; what is not committed by
// then is gone. The container's changes win over what happened in the folder meanwhile.
// What is mounted below the folder is left alone.
//
// An error is a [*CommitError] with how many changes were written; those stay. It is
// the kernel's answer; EFBIG where more would be written than the workspace's Size; the
// context's. FIFOs, sockets and devices, what lies where something is mounted (EXDEV)
// and folders so deep that they cannot be named are left out, and told of in joined
// errors once all else is written. ESTALE: another folder is at the path now. Targets
// that are no staged workspace are reported as [*OptionError] before anything is
// written.
func (c *Container) Commit(ctx context.Context, targets ...string) error {
	stages, err := c.stages()
	if err != nil {
		return err
	}
	stages = slices.DeleteFunc(stages, func(s *stage) bool { return s.source == "" })
	var f faults
	for _, t := range targets {
		if !slices.ContainsFunc(stages, func(s *stage) bool { return s.target == path.Clean(t) }) {
			f.add("Commit", fmt.Sprintf("%q", shorten(t)), "no staged workspace is there", "rootfs.Workspace with rootfs.Staged makes one")
		}
	}
	if err := errors.Join(f...); err != nil {
		return err
	}
	if len(stages) == 0 {
		return errNoChanges
	}
	w := &commit{}
	for _, s := range stages {
		if len(targets) > 0 && !slices.ContainsFunc(targets, func(t string) bool { return path.Clean(t) == s.target }) {
			continue
		}
		if err := w.stage(ctx, s); err != nil {
			return err
		}
	}
	return errors.Join(w.left...)
}

// Discard ends the container and drops what its jobs changed in overlays and staged
// workspaces: it is Close, for those who say which of the two they mean, and Commit
// can no longer be called.
func (c *Container) Discard() error { return c.Close() }

// commit is one call of Commit.
type commit struct {
	applied int
	left    []error
}

func (w *commit) fail(s *stage, rel string, err error) error {
	return &CommitError{Path: s.inside(rel), Applied: w.applied, Err: err}
}

// writing is a workspace's folder that changes are written to. Between two calls its
// owner can put anything at any name in it: what root gives away it has open.
type writing struct {
	*stage
	ctx   context.Context
	to    *hostFolder
	uid   int
	gid   int
	left  int64                  // bytes that may be written yet
	modes map[string]fs.FileMode // of folders, in the end
	links map[uint64]string      // where a file with several names was written
	here  string                 // the folder that was looked at last
	buf   []byte
}

func (w *commit) stage(ctx context.Context, s *stage) (err error) {
	to, err := openHostFolder(s.source)
	if err != nil {
		return w.fail(s, ".", err)
	}
	defer to.Close() //nolint:errcheck // a folder
	st, err := s.same(to)
	if err != nil {
		return w.fail(s, ".", err)
	}
	// Listed whole before the first is written: what is beneath decides what is a change.
	var list []string
	var kinds []rootfs.Change
	_, err = s.each(func(ch rootfs.Change, rel string) bool {
		list, kinds = append(list, rel), append(kinds, ch)
		return ctx.Err() == nil
	})
	if err == nil {
		err = context.Cause(ctx)
	}
	if len(s.missed) > 0 {
		w.left, err = append(w.left, s.missed...), nil
	}
	if err != nil {
		return w.fail(s, ".", err)
	}
	size := s.size
	if size == 0 {
		size = rootfs.DefaultTmpfsSize
	}
	own := owner(st)
	d := &writing{
		stage: s, ctx: ctx, to: to, uid: int(own.Uid), gid: int(own.Gid), left: size, modes: map[string]fs.FileMode{}, links: map[uint64]string{}, here: "?",
	}
	defer func() { err = errors.Join(err, w.finish(d)) }()
	for i, rel := range list {
		err := context.Cause(ctx)
		if err == nil {
			err = d.apply(rel, kinds[i])
		}
		switch {
		case errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.EXDEV):
			w.left = append(w.left, w.fail(s, rel, err))
		case err != nil:
			return w.fail(s, rel, err)
		default:
			w.applied++
		}
	}
	return nil
}

// finish gives folders the modes that they have inside, the innermost first.
func (w *commit) finish(d *writing) error {
	var errs []error
	for _, rel := range slices.Backward(slices.Sorted(maps.Keys(d.modes))) {
		err := d.folder(rel, func(f *os.File) error {
			st, err := f.Stat()
			if err == nil && owner(st).Uid != uint32(d.uid) {
				err = errOther
			}
			if err != nil {
				return err
			}
			return f.Chmod(d.modes[rel])
		})
		if err != nil && !vanished(err) {
			errs = append(errs, w.fail(d.stage, rel, err))
		}
	}
	return errors.Join(errs...)
}

var errOther = fmt.Errorf("somebody put another folder there: %w", unix.ESTALE)

// folder opens a folder, on this mount, and has something done to it.
func (d *writing) folder(rel string, do func(f *os.File) error) error {
	f, err := d.to.OpenFile(rel, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // a folder
	other, err := d.to.elsewhere(f)
	if err == nil && other {
		err = fmt.Errorf("something is mounted there: %w", unix.EXDEV)
	}
	if err != nil {
		return err
	}
	return do(f)
}

// enter sees to it that a folder can be written to, until the end.
func (d *writing) enter(rel string) error {
	if rel == d.here {
		return nil
	}
	st, err := d.to.Lstat(rel)
	if err != nil {
		return err
	}
	if st.IsDir() && st.Mode().Perm()&0o700 != 0o700 && os.Geteuid() != 0 {
		if err := d.to.Chmod(rel, st.Mode().Perm()|0o700); err != nil { // its owner's own right
			return err
		}
		if _, known := d.modes[rel]; !known {
			d.modes[rel] = st.Mode().Perm()
		}
	}
	if err := d.folder(rel, func(*os.File) error { return nil }); err != nil {
		return err
	}
	d.here = rel
	return nil
}

// apply writes one change.
func (d *writing) apply(rel string, ch rootfs.Change) error {
	err := d.enter(path.Dir(rel))
	if err != nil {
		if ch.Kind == rootfs.Removed && vanished(err) {
			return nil
		}
		return err
	}
	switch {
	case ch.Kind == rootfs.Removed:
		return d.remove(rel)
	case ch.Mode.IsDir():
		return d.mkdir(rel, ch.Mode.Perm())
	}
	err = d.write(rel)
	if d.gone(err) {
		return nil // inside, meanwhile: a job is at work
	}
	return err
}

// goneError is that of a file of the container.
type goneError struct{ error }

func (e goneError) Unwrap() error { return e.error }

func (d *writing) gone(err error) bool {
	var g goneError
	return errors.As(err, &g) && vanished(g.error)
}

// mkdir makes a folder, or makes what is there one.
func (d *writing) mkdir(rel string, mode fs.FileMode) error {
	err := d.to.Mkdir(rel, 0o700)
	made := err == nil
	if errors.Is(err, fs.ErrExist) {
		if st, e := d.to.Lstat(rel); e == nil && st.IsDir() {
			err = nil
		} else if err = d.remove(rel); err == nil {
			err = d.to.Mkdir(rel, 0o700)
			made = err == nil
		}
	}
	if err != nil {
		return err
	}
	d.modes[rel] = mode
	if !made || os.Geteuid() != 0 {
		return nil
	}
	return d.folder(rel, func(f *os.File) error {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if _, err := f.Readdirnames(1); owner(st).Uid != 0 || !errors.Is(err, io.EOF) {
			return errOther
		}
		return f.Chown(d.uid, d.gid)
	})
}

// remove removes a file, or a folder with all in it, and stops where something is
// mounted.
func (d *writing) remove(rel string) error {
	st, err := d.to.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.IsDir() {
		if err := d.empty(rel, st.Mode().Perm()); err != nil {
			return err
		}
		delete(d.modes, rel)
	}
	err = d.to.Remove(rel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("something is mounted there: %w", unix.EXDEV)
	}
	return err
}

func (d *writing) empty(rel string, mode fs.FileMode) error {
	if mode&0o700 != 0o700 && os.Geteuid() != 0 {
		if err := d.to.Chmod(rel, 0o700); err != nil {
			return err
		}
	}
	var names []string
	if err := d.folder(rel, func(f *os.File) (err error) {
		names, err = f.Readdirnames(-1)
		return err
	}); err != nil {
		return err
	}
	for _, n := range names {
		if err := context.Cause(d.ctx); err != nil {
			return err
		}
		if err := d.remove(path.Join(rel, n)); err != nil {
			return err
		}
	}
	return nil
}

// write puts a file or link of the stage in the place of what is there. It is made
// under a name of its own, and takes the other in one step.
func (d *writing) write(rel string) (err error) {
	tmp := path.Join(path.Dir(rel), ".inlay-"+rand.Text())
	renamed := false
	defer func() {
		if renamed {
			return
		}
		if e := d.to.Remove(tmp); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	ino, err := d.copyTo(tmp, rel)
	if err != nil {
		return err
	}
	if st, err := d.to.Lstat(rel); err == nil && st.IsDir() {
		if err := d.remove(rel); err != nil {
			return err
		}
	}
	if err := d.to.Rename(tmp, rel); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("something is mounted there: %w", unix.EXDEV)
		}
		return err
	}
	renamed = true
	if ino != 0 {
		d.links[ino] = rel
	}
	return nil
}

// copyTo writes a new file with what a file or link of the stage holds. The number is
// that of a file with several names, which has been written for the first time.
func (d *writing) copyTo(name, rel string) (ino uint64, err error) {
	fd, info, err := d.open(rel, false)
	if err != nil {
		return 0, goneError{err}
	}
	mode := info.Mode()
	to := ""
	if mode&fs.ModeSymlink != 0 {
		to, err = linkTarget(fd)
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return 0, err
	}
	if mode&fs.ModeSymlink != 0 {
		return 0, d.to.Symlink(to, name)
	}
	if whiteout(info) || mode.IsDir() {
		return 0, goneError{unix.ENOENT} // it became that meanwhile: the next Commit sees it
	}
	if !mode.IsRegular() {
		return 0, fmt.Errorf("a %v is not committed: %w", mode.Type(), errors.ErrUnsupported)
	}
	if first, there := d.links[info.st.Ino]; there && info.st.Nlink > 1 {
		if d.to.Link(first, name) == nil {
			return 0, nil // else it is copied once more
		}
	}
	if fd, info, err = d.open(rel, true); err != nil {
		return 0, goneError{err}
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if !info.Mode().IsRegular() {
		return 0, goneError{unix.ENOENT} // swapped between the two opens
	}
	e := &item{rel: rel, fd: fd}
	if err := unix.Fstat(fd, &e.st); err != nil {
		return 0, err
	}
	f, err := d.to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	err = d.fill(f, e)
	if err == nil && os.Geteuid() == 0 {
		err = f.Chown(d.uid, d.gid)
	}
	if err == nil {
		err = f.Chmod(info.Mode().Perm())
	}
	if err == nil {
		err = futimens(int(f.Fd()), e)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	if info.st.Nlink > 1 {
		ino = info.st.Ino
	}
	return ino, nil
}

// fill copies the data of a file, without the holes, as far as the workspace's size goes.
func (d *writing) fill(to *os.File, e *item) error {
	const small, most = 64 << 10, 1 << 20
	if d.buf == nil {
		d.buf = make([]byte, small)
	}
	err := e.pieces(most, func(at, n int64) error {
		if err := context.Cause(d.ctx); err != nil {
			return err
		}
		if d.left -= n; d.left < 0 {
			return fmt.Errorf("more than the workspace's size: %w", unix.EFBIG)
		}
		_, err := copyRange(e.fd, int(to.Fd()), at, n, d.buf)
		return err
	})
	if err != nil {
		return err
	}
	return to.Truncate(e.st.Size)
}
