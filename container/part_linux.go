package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
)

// OpenTree has init copy the mounts at a path of its own mount namespace: nobody else
// may.
func (o origin) OpenTree(ctx context.Context, name string) (*os.File, error) {
	r, err := o.c.started()
	if err != nil {
		return nil, err
	}
	select {
	case <-r.started:
	default:
		return nil, ErrNotStarted // a start is under way
	}
	if r.spec.root().Upper != "" {
		// The folder is the next container's as soon as this one is closed.
		return nil, fmt.Errorf("a root with rootfs.Upper: %w", errors.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	fd, err := r.init.OpenTree(ctx, name, !settable())
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EPIPE) {
		err = ErrEnded // init is gone
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := r.isFile(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// kernelFiles are file systems that show the kernel, or processes.
var kernelFiles = []int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.NSFS_MAGIC, mqueueMagic}

const mqueueMagic = 0x19800202

// isFile tells whether a copy of mounts is one of files and folders alone. A path may
// have led anywhere in the container.
func (r *running) isFile(ctx context.Context, f *os.File) error {
	fd := int(f.Fd())
	var st unix.Stat_t
	var where unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &where)); err != nil {
		return err
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFDIR {
		return fmt.Errorf("neither a regular file nor a folder: %w", errors.ErrUnsupported)
	}
	for _, magic := range kernelFiles {
		if where.Type == magic {
			return fmt.Errorf("not the container's files, but the kernel's: %w", errors.ErrUnsupported)
		}
	}
	// With the mounts below them, these hold its processes and terminals.
	for _, name := range []string{"/", "/dev"} {
		look, err := r.init.Open(ctx, name, true)
		if err != nil {
			return err
		}
		var other unix.Stat_t
		err = unix.Fstat(look, &other)
		if err = errors.Join(err, unix.Close(look)); err != nil {
			return err
		}
		if other.Dev == st.Dev && other.Ino == st.Ino {
			return fmt.Errorf("it is %s, which holds more than files: %w", name, errors.ErrUnsupported)
		}
	}
	return nil
}

// openParts asks other containers for what is mounted of them.
func (r *running) openParts(ctx context.Context) error {
	r.host.partIsFile = map[int]bool{}
	for i, m := range r.c.spec.Mounts {
		if m.Type != "container" {
			continue
		}
		err := fault.At("open_tree", m.Source)
		var f *os.File
		if err == nil {
			f, err = m.Origin.OpenTree(ctx, m.Source)
		}
		if err != nil {
			return &StartError{
				Phase: PhasePrepare, Op: "open_tree", Path: m.Source, Err: err,
				Remedy: "Container.Mount takes a file or folder of a container that runs: " + m.Origin.String(),
			}
		}
		r.given = append(r.given, f)
		st, err := f.Stat()
		if err != nil {
			return &StartError{Phase: PhasePrepare, Op: "fstat", Path: m.Source, Err: bare(err)}
		}
		r.host.partIsFile[i] = !st.IsDir()
	}
	return nil
}
