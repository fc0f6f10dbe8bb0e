package cgroup

import (
	"context"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RemoveLeftover removes a group's folder by its full path, with all below it,
// after its makers were killed. What is not a group whose name begins with prefix
// is refused; one that is gone is no error. Processes that are still in it are
// killed.
func RemoveLeftover(ctx context.Context, folder, prefix string) error {
	var fs unix.Statfs_t
	folder = filepath.Clean(folder)
	if !strings.HasPrefix(path.Base(folder), prefix) {
		return &Error{Op: "remove", Path: folder, Err: unix.EPERM, Remedy: "its name does not begin with " + prefix}
	}
	if err := unix.Statfs(folder, &fs); err != nil {
		if missingFile(err) {
			return nil
		}
		return &Error{Op: "statfs", Path: folder, Err: err}
	}
	if fs.Type != unix.CGROUP_SUPER_MAGIC && fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return &Error{Op: "remove", Path: folder, Err: unix.EPERM, Remedy: "it is no control group"}
	}
	fd, err := unix.Open(path.Dir(folder), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &Error{Op: "open", Path: path.Dir(folder), Err: err}
	}
	t := &tree{unified: -1, places: []place{{folder: newFolder(fd), path: path.Dir(folder)}}}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		t.unified, t.places[0].unified = 0, true
	}
	top := &Group{t: t, rel: ".", in: 1}
	defer func() { _ = top.Close() }() // a descriptor of a folder
	g := &Group{t: t, rel: path.Base(folder), parent: top, in: 1}
	if err := g.Kill(ctx); err != nil {
		if ctx.Err() != nil {
			err = &Error{Op: "kill", Path: folder, Err: err}
		}
		return err
	}
	return g.Delete(ctx)
}
