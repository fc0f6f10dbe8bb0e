package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/rootfs"
)

// errNoChanges is the answer where nothing is told apart.
var errNoChanges = fmt.Errorf("inlay: no rootfs.Overlay and no rootfs.Staged workspace: nothing knows what was changed: %w", errors.ErrUnsupported)

// Changes lists what jobs changed, added and removed in an overlay root and in staged
// workspaces, sorted by path within each folder, a folder before what is in it; a
// removed folder stands for all that was in it. It can be called while jobs run, which
// then change what is being listed, and after the main job has ended, until Close.
//
// What was made for mounts and files of the container's own is no change. An error
// is the last of the list: errors.ErrUnsupported of a container with nothing to tell,
// ErrNotStarted, ErrClosed, ErrEnded, or *fs.PathErrors: of a workspace whose folder is another one now (ESTALE), of
// folders so deep that they cannot be named.
func (c *Container) Changes() iter.Seq2[rootfs.Change, error] {
	return func(yield func(rootfs.Change, error) bool) {
		stages, err := c.stages()
		for _, s := range stages {
			var more bool
			if more, err = s.each(func(ch rootfs.Change, _ string) bool { return yield(ch, nil) }); !more && err == nil {
				return
			}
			if err != nil {
				break
			}
		}
		if err != nil {
			yield(rootfs.Change{}, err)
		}
	}
}

// stage is a place whose changes are kept apart from what they change.
type stage struct {
	r      *running
	kept   int    // which of init's folders has them
	target string // where it is inside
	lowers []string
	source string // a workspace's folder; "" of the root
	folder rootfs.Owner
	size   int64           // of what may be changed; 0: the default
	made   map[string]bool // by the container itself
	missed []error         // what could not be looked at
}

// stages are those of a running container, the root's first.
func (c *Container) stages() ([]*stage, error) {
	r, err := c.started()
	if err != nil {
		return nil, err
	}
	made := map[string]bool{}
	for _, m := range c.spec.Mounts {
		leading(made, m.Target)
	}
	for _, f := range c.spec.Files {
		leading(made, f.Path)
	}
	for _, l := range c.spec.Symlinks {
		leading(made, l.Path)
	}
	var list []*stage
	for i, m := range c.spec.stagedMounts() {
		list = append(list, &stage{
			r: r, kept: i + 1, target: path.Clean(m.Target), lowers: []string{m.Source}, source: m.Source, folder: r.host.workspaces[m.Source], size: m.Size, made: made,
		})
	}
	if root := c.spec.root(); root.Type == "overlay" {
		s := &stage{r: r, kept: len(list) + 1, target: "/", lowers: append([]string{root.Path}, root.Below...), made: maps.Clone(made)}
		for _, d := range []string{"/proc", "/dev", "/run", "/tmp", "/sys"} {
			s.made[d] = true
		}
		list = slices.Insert(list, 0, s)
	}
	if len(list) == 0 {
		return nil, errNoChanges
	}
	return list, nil
}

// leading adds a path and the folders that lead to it.
func leading(made map[string]bool, p string) {
	for d := path.Clean(p); d != "/"; d = path.Dir(d) {
		made[d] = true
	}
}

// each calls with every change and its path below the stage; false: it was told to
// end.
func (s *stage) each(do func(ch rootfs.Change, rel string) bool) (more bool, err error) {
	var lowers []*hostFolder
	defer func() {
		for _, l := range lowers {
			_ = l.Close() // only read from
		}
	}()
	for _, p := range s.lowers {
		l, err := openHostFolder(p)
		if err != nil {
			return false, err
		}
		lowers = append(lowers, l)
		if s.source != "" {
			if _, err := s.same(l); err != nil {
				return false, err
			}
		}
	}
	s.missed = nil
	if more, err := s.walk(".", lowers, false, do); !more || err != nil {
		return more, err
	}
	return true, errors.Join(s.missed...)
}

// same looks whether a workspace's folder is the one that the container has.
func (s *stage) same(l *hostFolder) (os.FileInfo, error) {
	st, err := l.Stat(".")
	if err != nil {
		return nil, err
	}
	if own := owner(st); unix.Major(own.Dev) != s.folder.DevMajor || unix.Minor(own.Dev) != s.folder.DevMinor || own.Ino != s.folder.Ino {
		return nil, &fs.PathError{Op: "stat", Path: s.source, Err: fmt.Errorf("another folder is there now: %w", unix.ESTALE)}
	}
	return st, nil
}

// vanished tells that a path is not what it was a moment ago: a job is at work.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO)
}

// open opens a file of the changes, without following a link: as O_PATH, or to read.
func (s *stage) open(rel string, read bool) (int, *fileInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fileTimeout)
	defer cancel()
	name := "/" + rel
	fd, err := s.r.init.OpenIn(ctx, s.kept, name, read)
	// The mark of something removed is a device, which no mount here lets open. It may
	// be something else again by the time that this is looked at.
	for tries := 0; read && errors.Is(err, unix.EACCES) && tries < 100; tries++ {
		look, info, e := s.open(rel, false)
		if e != nil {
			return -1, nil, e
		}
		if e := unix.Close(look); e != nil {
			return -1, nil, e
		}
		if err = unix.ENOENT; !whiteout(info) {
			fd, err = s.r.init.OpenIn(ctx, s.kept, name, true)
		}
	}
	switch {
	case errors.Is(err, unix.ESRCH):
		err = ErrEnded
	case errors.Is(err, unix.EXDEV):
		err = unix.ENOENT // to remove it, the overlay moves it to its work folder, outside of this one
	}
	if err != nil {
		return -1, nil, &fs.PathError{Op: "open", Path: s.inside(rel), Err: err}
	}
	info, err := s.r.stat(fd, name)
	if err != nil {
		return -1, nil, errors.Join(&fs.PathError{Op: "stat", Path: s.inside(rel), Err: err}, unix.Close(fd))
	}
	return fd, info, nil
}

func (s *stage) inside(rel string) string { return path.Join(s.target, rel) }

// names are what is in a folder of the changes, and whether it hides the one below.
func (s *stage) names(rel string) (list []string, opaque bool, err error) {
	fd, info, err := s.open(rel, true)
	if err != nil {
		return nil, false, err
	}
	d := os.NewFile(uintptr(fd), rel)
	defer d.Close() //nolint:errcheck // only read from
	if !info.IsDir() {
		return nil, false, &fs.PathError{Op: "readdir", Path: s.inside(rel), Err: unix.ENOTDIR}
	}
	opaque, err = isOpaque(fd)
	if errors.Is(err, unix.EACCES) {
		// This user may not read the mark; the folder that jobs see tells the same.
		opaque, err = s.hides(rel)
	}
	if err != nil {
		return nil, false, &fs.PathError{Op: "getxattr", Path: s.inside(rel), Err: err}
	}
	list, err = d.Readdirnames(-1)
	return list, opaque, err
}

// isOpaque tells whether a folder of an overlay hides the one below it.
func isOpaque(fd int) (bool, error) {
	var v [8]byte
	n, err := unix.Fgetxattr(fd, "user.overlay.opaque", v[:])
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err != nil:
		return false, err
	}
	return n == 1 && v[0] == 'y', nil
}

// hides tells the same by what shows inside: something of below does not, and has no
// mark of its own.
func (s *stage) hides(rel string) (bool, error) {
	shown, err := fs.ReadDir(containerFS{s.r.c}, s.inside(rel)[1:])
	if err != nil {
		return false, err
	}
	for _, l := range s.lowers {
		below, err := os.ReadDir(path.Join(l, rel))
		if err != nil {
			continue
		}
		for _, b := range below {
			if !slices.ContainsFunc(shown, func(e fs.DirEntry) bool { return e.Name() == b.Name() }) {
				fd, _, err := s.open(path.Join(rel, b.Name()), false)
				if err != nil {
					return true, nil //nolint:nilerr // it is not there: no mark
				}
				if err := unix.Close(fd); err != nil {
					return false, err
				}
			}
		}
	}
	return false, nil
}

// whiteout tells whether it is the mark of something removed.
func whiteout(i *fileInfo) bool { return i.st.Mode&unix.S_IFMT == unix.S_IFCHR && i.st.Rdev == 0 }

// walk lists the changes in one folder; below are the folders beneath it.
// hidden: what is there does not show, since the folder was made anew.
func (s *stage) walk(rel string, below []*hostFolder, hidden bool, do func(rootfs.Change, string) bool) (bool, error) {
	all, opaque, err := s.names(rel)
	switch {
	case err == nil:
	case rel != "." && vanished(err):
		return true, nil
	case errors.Is(err, unix.ENAMETOOLONG):
		s.missed = append(s.missed, err)
		return true, nil
	default:
		return false, err
	}
	hidden = hidden || opaque
	lower, err := lowerNames(rel, below)
	if err != nil {
		return false, err
	}
	upper := make(map[string]bool, len(all))
	for _, n := range all {
		upper[n] = true
	}
	if hidden {
		for n := range lower {
			if !upper[n] {
				all = append(all, n)
			}
		}
	}
	slices.Sort(all)
	for _, n := range all {
		at := path.Join(rel, n)
		if !upper[n] {
			if !do(rootfs.Change{Path: s.inside(at), Kind: rootfs.Removed}, at) {
				return false, nil
			}
			continue
		}
		fd, info, err := s.open(at, false)
		if vanished(err) {
			continue // meanwhile
		}
		if errors.Is(err, unix.ENAMETOOLONG) {
			s.missed = append(s.missed, err)
			continue
		}
		if err != nil {
			return false, err
		}
		if err := unix.Close(fd); err != nil {
			return false, err
		}
		was, there := lower[n]
		ch := rootfs.Change{Path: s.inside(at), Kind: rootfs.Added, Mode: info.Mode()}
		if info.Mode().IsRegular() {
			ch.Size = info.Size()
		}
		gone := whiteout(info)
		dirs := info.IsDir() && there && was[0].mode.IsDir()
		switch {
		case gone && !there:
			continue // it was made and removed again
		case gone:
			ch = rootfs.Change{Path: s.inside(at), Kind: rootfs.Removed}
		case there:
			ch.Kind = rootfs.Changed
		}
		// A folder is here because of what is in it, too.
		silent := dirs && was[0].mode == info.Mode() || s.made[s.inside(at)]
		if !silent && !do(ch, at) {
			return false, nil
		}
		if info.IsDir() && !gone {
			var next []*hostFolder
			if dirs {
				for _, w := range was {
					next = append(next, w.in)
				}
			}
			if more, err := s.walk(at, next, hidden, do); !more || err != nil {
				return more, err
			}
		}
	}
	return true, nil
}

// found is where a name is beneath a folder.
type found struct {
	in   *hostFolder
	mode fs.FileMode
}

// lowerNames are the names in folders that lie one above the other, each with where it
// is: in all of them as far as it is a folder.
func lowerNames(rel string, below []*hostFolder) (map[string][]found, error) {
	list := map[string][]found{}
	over := map[string]bool{} // nothing below counts
	for _, l := range below {
		d, err := l.Open(rel)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		// What is mounted there the container does not have, nor is it known what lies
		// beneath.
		var names []fs.DirEntry
		other, err := l.elsewhere(d)
		if err == nil && !other {
			names, err = d.ReadDir(-1)
		}
		opaque := false
		if err == nil {
			opaque, err = isOpaque(int(d.Fd()))
		}
		_ = d.Close() // only read from
		if errors.Is(err, unix.ENOTDIR) {
			break
		}
		if err != nil {
			return nil, err
		}
		for _, e := range names {
			if over[e.Name()] {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if !info.IsDir() {
				over[e.Name()] = true
			}
			if st := owner(info); st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 || len(list[e.Name()]) > 0 && !info.IsDir() {
				continue
			}
			list[e.Name()] = append(list[e.Name()], found{l, info.Mode()})
		}
		if opaque {
			break
		}
	}
	return list, nil
}

// hostFolder is a folder of the host that paths are looked up below, and the mount that
// it is on.
type hostFolder struct {
	*os.Root
	mount uint64
}

func openHostFolder(p string) (*hostFolder, error) {
	root, err := os.OpenRoot(p)
	if err != nil {
		return nil, err
	}
	f := &hostFolder{Root: root}
	top, err := root.Open(".")
	if err == nil {
		f.mount, err = mountOf(top)
		err = errors.Join(err, top.Close())
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return f, nil
}

// elsewhere tells whether an open folder is on another mount.
func (f *hostFolder) elsewhere(d *os.File) (bool, error) {
	id, err := mountOf(d)
	return id != f.mount, err
}

// mountOf is the number of the mount that an open file is on.
func mountOf(f *os.File) (uint64, error) {
	var st unix.Statx_t
	err := fileError("statx", f.Name(), f, func(fd int) error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	})
	return st.Mnt_id, err
}
