package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// readRoot reads what the root is filled with. The contents of files wait in memory for
// init, who alone ever has descriptors to write the container's files: those of this
// program could be inherited by what it starts meanwhile, and a program that is open for
// writing cannot be executed (ETXTBSY).
func (r *running) readRoot(ctx context.Context) error {
	root := r.c.spec.root()
	if !root.Made() {
		return nil
	}
	err := fault.At("memfd_create", "root")
	fd := -1
	if err == nil {
		fd, err = unix.MemfdCreate("inlay-root", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return &StartError{Phase: PhasePrepare, Op: "memfd_create", Path: "/", Err: bare(err)}
	}
	contents := os.NewFile(uintptr(fd), "contents")
	r.given = append(r.given, contents)
	tree, err := readTree(ctx, root, contents)
	if err != nil {
		return err
	}
	if err := checkOwners(tree, r.host); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return &StartError{Phase: PhasePrepare, Op: "fcntl", Path: "F_ADD_SEALS", Err: err}
	}
	r.host.tree = tree
	return nil
}

// readTree reads a root's source; contents may be nil.
func readTree(ctx context.Context, root rootfs.Root, contents io.Writer) (*rootfs.Tree, error) {
	tree, err := root.Read(ctx, contents)
	if err == nil {
		return tree, nil
	}
	out := &StartError{Phase: PhasePrepare, Op: "read", Path: "/", Err: err}
	var source *rootfs.SourceError
	switch {
	case errors.As(err, &source):
		out.Path, out.Err, out.Remedy = "/"+source.Path, &rootfs.SourceError{Err: source.Err}, source.Remedy
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		out.Remedy = "its files wait in this program's memory until they are written"
	}
	return nil, out
}

// checkOwners looks whether the container has the ids of all that its root is filled with.
func checkOwners(tree *rootfs.Tree, h *host) error {
	if len(h.uids) == 0 {
		return nil
	}
	for _, e := range tree.Entries {
		if namespaceHas(h, e.UID, e.GID) {
			continue
		}
		return &StartError{
			Phase: PhasePrepare, Op: "chown", Path: "/" + e.Path, Err: fmt.Errorf("the container has no user %d and group %d: %w", e.UID, e.GID, unix.EOVERFLOW),
			Remedy: "rootfs.OwnedByRoot gives all files to root; WithIDMaps, or a range in /etc/subuid and /etc/subgid, gives the container more ids",
		}
	}
	return nil
}

func namespaceHas(h *host, uid, gid uint32) bool {
	_, user := namespace.ToHost(h.uids, uid)
	_, group := namespace.ToHost(h.gids, gid)
	return user && group
}

// withTree is the host with the tree of a root that is made, without its contents, for
// Explain.
func withTree(s *Spec, h *host) (*host, error) {
	if root := s.root(); root.Made() && h.tree == nil {
		tree, err := readTree(context.Background(), root, nil)
		if err != nil {
			return nil, err
		}
		with := *h
		with.tree = tree
		return &with, nil
	}
	return h, nil
}

// closeGiven closes what init has by now, or does not need any more.
func (r *running) closeGiven() {
	for _, f := range r.given {
		_ = f.Close() // memory, and mounts: nothing to flush
	}
	r.given = nil
}

func descriptors(files []*os.File) []int {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	return fds
}
