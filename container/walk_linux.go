package container

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/plan"
)

// opener opens what a walk comes by: in the container, or on the host. Requests are
// answered in their order.
type opener interface {
	ask(dir int, asked []asked) error
	take() ([]reply, error)
	close() error
}

// asked is a name in a folder that is to be opened, and how.
type asked struct {
	name  string
	flags uint64
	// mounts lets it be something that is mounted here.
	mounts bool
}

// reply is what came of it.
type reply struct {
	fd  int
	err error
}

const (
	lookAt     = plan.OPATH | plan.ONOFOLLOW | plan.OCLOEXEC
	readFile   = plan.ORDONLY | plan.ONOFOLLOW | plan.ONONBLOCK | plan.ONOCTTY | plan.OCLOEXEC
	readFolder = readFile | plan.ODIRECTORY
	beneath    = plan.ResolveBeneath | plan.ResolveNoSymlinks | plan.ResolveNoMagicLinks
)

// sink takes what a walk finds. A folder's entries come between its folder and leave.
type sink interface {
	folder(e *item) error
	leave(e *item) error
	file(e *item) error // owns the item's descriptor from then on
	link(e *item, target string) error
	hard(e *item, first string) error // another name of a file that came before
}

// item is an entry of the tree.
type item struct {
	rel  string // its path below where it is copied to
	name string // the last of it
	fd   int
	st   unix.Stat_t
	made *madeFolder // of a folder, where the sink wants to know
}

// mode is what is copied of its mode: no set-ID bits, the sticky bit of folders alone.
func (e *item) mode() uint32 {
	if e.isDir() {
		return e.st.Mode & 0o1777
	}
	return e.st.Mode & 0o777
}

func (e *item) isDir() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFDIR }

// sparse tells that it takes less room than it is long.
func (e *item) sparse() bool { return e.st.Blocks*512 < e.st.Size }

// walker goes through a tree that may be hostile, by descriptors of folders: no name
// is looked up twice, and no link followed.
type walker struct {
	*copying
	src   opener
	to    sink
	shown func(rel string) string
	seen  map[inode]string // files that have other names
	names int              // bytes of those in seen
	// mounted are files and links of the folder that is being copied on which something
	// is mounted.
	mounted []string
}

type inode struct{ dev, ino uint64 }

// maxNames is how many bytes of names this program keeps for one copy: a tree of long
// names costs whoever made it next to nothing.
const maxNames = 64 << 20

// walk copies a name of a folder, or what is in the folder itself, as the name top.
func (w *walker) walk(dir int, name, top string, contents bool) error {
	w.seen = map[inode]string{}
	if contents {
		fd, err := w.open(dir, asked{name: name, flags: readFolder, mounts: true})
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil {
			if kind := kernelsOwn(fd); kind != "" {
				err = fmt.Errorf("in %s: %w", kind, errors.ErrUnsupported)
			} else {
				err = w.inside(fd, "", st.Dev, 0)
			}
		}
		return errors.Join(err, unix.Close(fd))
	}
	if err := w.entry(); err != nil {
		return err
	}
	fd, st, err := w.look(dir, name)
	if err != nil {
		return err
	}
	kind := kernelsOwn(fd)
	if err := unix.Close(fd); err != nil {
		return err
	}
	if kind != "" {
		return fmt.Errorf("in %s: %w", kind, errors.ErrUnsupported)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
	default:
		return fmt.Errorf("neither a file nor a folder nor a link: %w", errors.ErrUnsupported)
	}
	met := w.report.Skipped
	if err := w.looked(dir, name, top, st.Dev, 0); err != nil {
		return err
	}
	if w.report.Skipped > met && w.report.Entries == 0 {
		return unix.ENOENT // it went away
	}
	return nil
}

// open opens one name.
func (w *walker) open(dir int, a asked) (int, error) {
	if err := w.src.ask(dir, []asked{a}); err != nil {
		return -1, err
	}
	list, err := w.src.take()
	if err != nil {
		return -1, err
	}
	if len(list) != 1 {
		for _, f := range list {
			if f.fd >= 0 {
				_ = unix.Close(f.fd) // only read from
			}
		}
		return -1, errors.New("inlay: bug: the answer to another question")
	}
	return list[0].fd, list[0].err
}

// look opens a name without touching what it is of.
func (w *walker) look(dir int, name string) (int, *unix.Stat_t, error) {
	fd, err := w.open(dir, asked{name: name, flags: lookAt, mounts: true})
	if err != nil {
		return -1, nil, err
	}
	st := new(unix.Stat_t)
	if err := unix.Fstat(fd, st); err != nil {
		return -1, nil, errors.Join(err, unix.Close(fd))
	}
	return fd, st, nil
}

// batch is how many files are opened at once.
const batch = 32

// inside copies the entries of an open folder.
func (w *walker) inside(fd int, rel string, dev uint64, depth int) error {
	if depth > MaxCopyDepth {
		return fmt.Errorf("more than %d folders in one another: %w", MaxCopyDepth, ErrBudget)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, buf) })
		if err == nil {
			err = fault.At("getdents", rel)
		}
		if errors.Is(err, unix.ENOENT) { // it was removed meanwhile
			n, err = 0, nil
		}
		if n == 0 || err != nil {
			return err
		}
		var files []asked
		var folders []asked
		var others []string
		for name, kind := range dirents(buf[:n]) {
			w.at = w.shown(join(rel, name))
			if err := w.entry(); err != nil {
				return err
			}
			switch kind {
			case unix.DT_REG:
				files = append(files, asked{name: name, flags: readFile})
			case unix.DT_LNK:
				files = append(files, asked{name: name, flags: lookAt})
			case unix.DT_DIR:
				folders = append(folders, asked{name: name, flags: readFolder, mounts: true})
			default:
				others = append(others, name)
			}
		}
		w.mounted = nil
		if err := w.batches(fd, files, rel, dev, depth); err != nil {
			return err
		}
		others = append(others, w.mounted...)
		for _, name := range others {
			if err := w.looked(fd, name, join(rel, name), dev, depth); err != nil {
				return err
			}
		}
		if err := w.folders(fd, folders, rel, dev, depth); err != nil {
			return err
		}
	}
}

// folders copies folders, which are opened some at once, but far down, where each waits
// for all below it.
func (w *walker) folders(dir int, names []asked, rel string, dev uint64, depth int) error {
	const far, some = 16, 8
	n := some
	if depth > far {
		n = 1
	}
	for part := range slices.Chunk(names, n) {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if err := w.src.ask(dir, part); err != nil {
			return err
		}
		list, err := w.src.take()
		if err != nil {
			return err
		}
		if err := w.batch(part, list, rel, dev, depth); err != nil {
			return err
		}
	}
	return nil
}

// batches copies files and links, and has the next ones opened meanwhile.
func (w *walker) batches(dir int, files []asked, rel string, dev uint64, depth int) error {
	var now []asked
	for len(files) > 0 || len(now) > 0 {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		next := files[:min(batch, len(files))]
		files = files[len(next):]
		if len(next) > 0 {
			if err := w.src.ask(dir, next); err != nil {
				return err
			}
		}
		if len(now) > 0 {
			list, err := w.src.take()
			if err != nil {
				return err
			}
			if err := w.batch(now, list, rel, dev, depth); err != nil {
				return err
			}
		}
		now = next
	}
	return nil
}

func (w *walker) batch(names []asked, list []reply, rel string, dev uint64, depth int) (err error) {
	for i, f := range list {
		if err != nil {
			if f.fd >= 0 {
				_ = unix.Close(f.fd) // only read from
			}
			continue
		}
		err = w.opened(names[i], f, join(rel, names[i].name), dev, depth)
	}
	return err
}

// opened copies what was opened for a name that a folder has.
func (w *walker) opened(a asked, f reply, rel string, dev uint64, depth int) error {
	w.at = w.shown(rel)
	if errors.Is(f.err, unix.EXDEV) && !a.mounts {
		// It is mounted there, and may be anything, whatever the folder says. Not now:
		// the next answer is that of the next batch.
		w.mounted = append(w.mounted, a.name)
		return nil
	}
	if f.err != nil {
		return w.missed(rel, f.err)
	}
	e := &item{rel: rel, name: a.name, fd: f.fd}
	err := unix.Fstat(f.fd, &e.st)
	if err != nil {
		return errors.Join(err, unix.Close(f.fd))
	}
	want := uint32(unix.S_IFREG)
	switch a.flags {
	case lookAt:
		want = unix.S_IFLNK
	case readFolder:
		want = unix.S_IFDIR
	}
	if e.st.Mode&unix.S_IFMT != want {
		w.skip(w.at, "it became something else meanwhile")
		return unix.Close(f.fd)
	}
	switch want {
	case unix.S_IFLNK:
		return w.linked(e)
	case unix.S_IFDIR:
		return w.entered(e, dev, depth)
	}
	return w.regular(e)
}

// entered copies an open folder, unless it is of another file system than the one above
// it and that is the kernel's.
func (w *walker) entered(e *item, dev uint64, depth int) (err error) {
	defer func() { err = errors.Join(err, unix.Close(e.fd)) }()
	if e.st.Dev != dev {
		if kind := kernelsOwn(e.fd); kind != "" {
			w.skip(w.at, kind)
			return nil
		}
	}
	if err := w.to.folder(e); err != nil {
		return err
	}
	if err := w.inside(e.fd, e.rel, e.st.Dev, depth+1); err != nil {
		return err
	}
	w.at = w.shown(e.rel)
	return w.to.leave(e)
}

// missed deals with a name that does not open.
func (w *walker) missed(rel string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		w.skip(w.shown(rel), "it went away meanwhile")
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOTDIR):
		w.skip(w.shown(rel), "it became something else meanwhile")
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("somebody holds a lease on it (fcntl(2)): %w", err)
	default:
		return err
	}
	return nil
}

// looked copies what a name is of, having looked at it first: to open some devices
// does something already.
func (w *walker) looked(dir int, name, rel string, dev uint64, depth int) error {
	w.at = w.shown(rel)
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	fd, st, err := w.look(dir, name)
	if err != nil {
		return w.missed(rel, err)
	}
	e := &item{rel: rel, name: path.Base(rel), fd: fd, st: *st}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return w.linked(e)
	}
	kind := ""
	if st.Dev != dev {
		kind = kernelsOwn(fd)
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	if kind != "" {
		w.skip(w.at, kind)
		return nil
	}
	flags := uint64(readFile)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		flags = readFolder
	default:
		w.skip(w.at, specials[st.Mode&unix.S_IFMT])
		return nil
	}
	if e.fd, err = w.open(dir, asked{name: name, flags: flags, mounts: true}); err != nil {
		return w.missed(rel, err)
	}
	if err = unix.Fstat(e.fd, &e.st); err != nil {
		return errors.Join(err, unix.Close(e.fd))
	}
	if e.st.Dev != st.Dev || e.st.Ino != st.Ino {
		w.skip(w.at, "it became something else meanwhile")
		return unix.Close(e.fd)
	}
	if e.isDir() {
		return w.entered(e, dev, depth)
	}
	return w.regular(e)
}

var specials = map[uint32]string{
	unix.S_IFIFO: "a FIFO", unix.S_IFSOCK: "a socket", unix.S_IFCHR: "a device", unix.S_IFBLK: "a device",
}

func (w *walker) linked(e *item) error {
	to, err := linkTarget(e.fd)
	if err = errors.Join(err, unix.Close(e.fd)); err != nil {
		return err
	}
	return w.to.link(e, to)
}

func (w *walker) regular(e *item) error {
	key := inode{e.st.Dev, e.st.Ino}
	if e.st.Nlink > 1 {
		if first, ok := w.seen[key]; ok {
			if err := unix.Close(e.fd); err != nil {
				return err
			}
			return w.to.hard(e, first)
		}
	}
	if err := w.to.file(e); err != nil {
		return err
	}
	if e.st.Nlink > 1 && w.names < maxNames { // else a further name is a file of its own
		w.seen[key] = e.rel
		w.names += len(e.rel)
	}
	return nil
}

// pieces calls for each run of data of a file, as long as it was found to be, none of
// them longer than most.
func (e *item) pieces(most int64, do func(at, n int64) error) error {
	at := int64(0)
	for at < e.st.Size {
		end := e.st.Size
		if e.sparse() {
			from, err := unix.Seek(e.fd, at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return nil // holes, up to its end
			}
			var to int64
			if err == nil {
				to, err = unix.Seek(e.fd, from, unix.SEEK_HOLE)
			}
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENXIO) {
				return err
			}
			if err == nil {
				at, end = from, min(max(to, from+1), e.st.Size) // a hole may come meanwhile
			}
		}
		for at < end {
			n := min(end-at, most)
			if err := do(at, n); err != nil {
				return err
			}
			at += n
		}
	}
	return nil
}

// kernelsOwn names a file system whose files are the kernel's, and no data. One that
// does not say what it is is none of them.
func kernelsOwn(fd int) string {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return ""
	}
	const mqueue = 0x19800202
	name := map[int64]string{
		unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs", unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2",
		unix.DEVPTS_SUPER_MAGIC: "devpts", unix.DEBUGFS_MAGIC: "debugfs", unix.TRACEFS_MAGIC: "tracefs", unix.SECURITYFS_MAGIC: "securityfs",
		unix.BPF_FS_MAGIC: "bpf", unix.PSTOREFS_MAGIC: "pstore", unix.BINFMTFS_MAGIC: "binfmt_misc", unix.SELINUX_MAGIC: "selinuxfs", mqueue: "mqueue",
	}[fs.Type]
	if name == "" {
		return ""
	}
	return "a file system of the kernel's own (" + name + ")"
}

// dirents are the names and kinds that getdents64(2) gave.
func dirents(buf []byte) func(yield func(string, byte) bool) {
	const header = 19 // inode, offset, length, type
	return func(yield func(string, byte) bool) {
		for len(buf) > header {
			size := int(buf[16]) | int(buf[17])<<8
			name := string(buf[header:size])
			if i := strings.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			if name != "." && name != ".." && !yield(name, buf[18]) {
				return
			}
			buf = buf[size:]
		}
	}
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// retry makes a system call until no signal of the Go runtime's interrupts it.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}
