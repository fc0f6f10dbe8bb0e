package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// lookLayers finds out who owns what the root and the workspaces are made of, and
// whether jobs can change it as was asked for.
func lookLayers(s *Spec, h *host) error {
	root := s.root()
	h.mapRoot = map[string]bool{}
	var folders []string
	switch {
	case root.Type == "overlay":
		folders = append([]string{root.Path}, root.Below...)
		if root.Upper != "" {
			folders = append(folders, root.Upper)
		}
	case root.Type == "dir" && (!root.Writable || root.IDMapped):
		folders = []string{root.Path}
	}
	for _, p := range folders {
		if err := h.lookFolder(p); err != nil {
			return err
		}
	}
	if root.Type == "overlay" && root.Upper == "" {
		if err := memoryKeepsMarks(); err != nil {
			return &StartError{
				Phase: PhasePrepare, Op: "WithRoot", Path: root.Path, Err: err,
				Remedy: "Linux 6.6, or a folder on a disk for what is changed: rootfs.Upper",
			}
		}
	}
	h.workspaces = map[string]rootfs.Owner{}
	for _, m := range s.Mounts {
		if m.Type != "workspace" {
			continue
		}
		if err := h.lookWorkspace(s, m); err != nil {
			return err
		}
	}
	return nil
}

// canMap tells that mounts can show other owners: of the host's root, in a user
// namespace.
func (h *host) canMap() bool { return len(h.uids) > 0 && h.outer == nil }

// lookFolder looks at a folder that a root is made of, and decides whether it has to
// be mapped.
func (h *host) lookFolder(dir string) error {
	st, err := statFolder("WithRoot", dir)
	if err != nil {
		return err
	}
	top, err := os.Stat("/")
	if err != nil {
		return &StartError{Phase: PhasePrepare, Op: "stat", Path: "/", Err: bare(err)}
	}
	// What the host's own root keeps from others, a job does not get with it.
	own := os.SameFile(st, top)
	if h.canMap() && !own && !namespace.Mapped(h.uids, owner(st).Uid) {
		h.mapRoot[dir] = true
	}
	return nil
}

func statFolder(option, dir string) (os.FileInfo, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, &StartError{Phase: PhasePrepare, Op: "stat", Path: dir, Err: bare(err), Remedy: option + " needs a folder that is there"}
	}
	if !st.IsDir() {
		return nil, &StartError{Phase: PhasePrepare, Op: "stat", Path: dir, Err: unix.ENOTDIR, Remedy: option + " needs a folder"}
	}
	return st, nil
}

func owner(st os.FileInfo) *syscall.Stat_t {
	return st.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // what Linux returns
}

// lookWorkspace decides how a folder becomes the job's user's.
func (h *host) lookWorkspace(s *Spec, m rootfs.Mount) error {
	st, err := statFolder("rootfs.Workspace", m.Source)
	if err != nil {
		return err
	}
	refuse := func(err error, remedy string) error {
		return &StartError{Phase: PhasePrepare, Op: "workspace", Path: m.Source, Err: err, Remedy: remedy}
	}
	if m.Staged {
		if err := memoryKeepsMarks(); err != nil {
			return refuse(err, "Linux 6.6, or a workspace without rootfs.Staged")
		}
	}
	own := owner(st)
	o := rootfs.Owner{Mode: uint32(st.Mode().Perm()), DevMajor: unix.Major(own.Dev), DevMinor: unix.Minor(own.Dev), Ino: own.Ino}
	uid, gid := hostIDs(h, s.Job.uid(), s.Job.gid())
	if h.outer == nil && (own.Uid == 0 || own.Gid == 0) && !m.ReadOnly && !m.Staged {
		// The folder is the job's, which can open it to everybody; not so the one above.
		real, err := filepath.EvalSymlinks(m.Source)
		if err != nil {
			return refuse(bare(err), "")
		}
		above, err := statFolder("rootfs.Workspace", filepath.Dir(real))
		if err != nil {
			return err
		}
		if owner(above).Uid != 0 || above.Mode().Perm()&0o011 != 0 {
			return refuse(fmt.Errorf("it belongs to root, and others may enter the folder above it: a job could leave a set-user-ID program of root's there: %w", unix.EACCES),
				"chown it to an ordinary user and group, put it in a folder of root's with mode 0700, or rootfs.Staged")
		}
	}
	switch {
	case own.Uid == uid:
	case h.outer != nil:
		return refuse(fmt.Errorf("it belongs to uid %d, the job's user is %d on this host: %w", own.Uid, uid, unix.EACCES),
			"a user's own folders are workspaces of jobs of user 0, WithUser's default")
	default:
		o.UIDs, o.GIDs = fmt.Sprintf("%d %d 1\n", own.Uid, uid), fmt.Sprintf("%d %d 1\n", own.Gid, gid)
	}
	h.workspaces[m.Source] = o
	return nil
}

// memoryKeepsMarks tells why a memory file system cannot be an overlay's upper
// layer: the marks of what was removed are user.* extended attributes. A memfd is a
// file of such a file system.
func memoryKeepsMarks() error {
	fd, err := unix.MemfdCreate("inlay", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	err = unix.Fsetxattr(fd, "user.inlay", []byte("y"), 0)
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("memory file systems keep no user.* extended attributes: %w", errors.ErrUnsupported)
	}
	return err
}

// openUpper takes the folder that keeps the changes of an overlay for this
// container alone.
func (r *running) openUpper() error {
	root := r.c.spec.root()
	if root.Upper == "" {
		return nil
	}
	refuse := func(op string, err error, remedy string) error {
		return &StartError{Phase: PhasePrepare, Op: op, Path: root.Upper, Err: bare(err), Remedy: remedy}
	}
	f, err := os.OpenFile(root.Upper, unix.O_DIRECTORY|os.O_RDONLY, 0)
	if err != nil {
		return refuse("open", err, "rootfs.Upper needs a folder that is there")
	}
	r.upper = f
	st, err := f.Stat()
	if err != nil {
		return refuse("stat", err, "")
	}
	if st.Mode().Perm()&0o077 != 0 {
		return refuse("check", unix.EACCES, "chmod 0700: the files in it have the ids of the container's users, root's among them")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return refuse("flock", err, "another container has the same rootfs.Upper")
	}
	const mark = "user.inlay"
	err = unix.Fsetxattr(int(f.Fd()), mark, []byte("y"), 0)
	if err == nil {
		err = unix.Fremovexattr(int(f.Fd()), mark)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return refuse("setxattr", err, "rootfs.Upper needs a disk that keeps user.* extended attributes: ext4, XFS, Btrfs; a memory file system does from Linux 6.6 on")
	}
	if err != nil {
		return refuse("setxattr", err, "")
	}
	return nil
}

// closeUpper gives the folder back.
func (r *running) closeUpper() {
	if r.upper != nil {
		_ = r.upper.Close() // a folder: nothing to flush
		r.upper = nil
	}
}
