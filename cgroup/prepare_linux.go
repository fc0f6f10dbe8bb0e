package cgroup

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostLeaf is where Prepare puts a host program.
const hostLeaf = "inlay-host"

// Prepare makes this process's own group of v2 one below which groups can be
// made, where it may write to it: it moves all processes of the group, this one
// among them, into a group "inlay-host" below (a group with limits below it may
// have no processes itself, cgroups(7)) and enables the controllers that it has.
// It is for a program that is alone in a container or in a service with
// Delegate=yes. A second call, and one on v1, does nothing.
//
// restore undoes it, once no group of ours is left; it is never nil.
func Prepare() (restore func() error, err error) {
	nothing := func() error { return nil }
	hs, err := hierarchies()
	if err != nil {
		return nothing, &Error{Op: "read", Path: "/proc/self/cgroup", Err: err}
	}
	for _, h := range hs {
		if !h.unified {
			continue
		}
		dir := filepath.Join(h.mount, h.own)
		controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return nothing, &Error{Op: "read", Path: dir, Err: err}
		}
		if path.Base(h.own) == hostLeaf || holds(dir) == nil || len(hs) > 1 && len(strings.TrimSpace(string(controllers))) == 0 {
			return nothing, nil
		}
		g, err := openTop([]hierarchy{h}, func(h hierarchy) string { return h.own })
		if err != nil {
			return nothing, err
		}
		if err := g.moveDown(); err != nil {
			return nothing, errors.Join(err, g.moveUp(), g.Close())
		}
		return func() error { return errors.Join(g.moveUp(), g.Close()) }, nil
	}
	return nothing, nil
}

// moveDown moves the group's processes into the leaf, and enables controllers.
func (g *Group) moveDown() error {
	p := &g.t.places[g.t.unified]
	leaf := &Group{t: g.t, rel: hostLeaf, parent: g}
	if err := leaf.make(1 << g.t.unified); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := g.move(".", hostLeaf); err != nil {
		return err
	}
	for _, c := range p.controllers {
		if err := p.write("cgroup.subtree_control", "+"+c); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
			// A controller that does not take part is no hindrance; a group that may
			// not have groups is.
			return &Error{Op: "write", Path: filepath.Join(p.path, "cgroup.subtree_control"), Err: err, Remedy: remedy(err)}
		}
	}
	return nil
}

// moveUp undoes moveDown.
func (g *Group) moveUp() error {
	p := &g.t.places[g.t.unified]
	var errs []error
	for _, c := range p.controllers {
		if err := p.write("cgroup.subtree_control", "-"+c); err != nil {
			errs = append(errs, &Error{Op: "write", Path: filepath.Join(p.path, "cgroup.subtree_control"), Err: err, Remedy: "groups are left below"})
		}
	}
	return errors.Join(append(errs, g.move(hostLeaf, "."), p.remove(context.Background(), hostLeaf))...)
}

// move moves the processes of one group into another, until none is left: those
// that are forked meanwhile are found by the next look.
func (g *Group) move(from, to string) error {
	p := &g.t.places[g.t.unified]
	for range 100 {
		text, err := os.ReadFile(filepath.Join(p.path, from, "cgroup.procs"))
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &Error{Op: "read", Path: filepath.Join(p.path, from, "cgroup.procs"), Err: err}
		}
		pids := strings.Fields(string(text))
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if n, err := strconv.Atoi(pid); err != nil || n == 0 {
				return &Error{Op: "move", Path: filepath.Join(p.path, from), Err: unix.ESRCH, Remedy: "a process of another PID namespace is in the group"}
			}
			file := path.Join(to, "cgroup.procs")
			if err := p.write(file, pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return &Error{Op: "write", Path: filepath.Join(p.path, file), Err: err, Remedy: remedy(err)}
			}
		}
	}
	return &Error{Op: "move", Path: filepath.Join(p.path, from), Err: unix.EBUSY, Remedy: "something forks there without end"}
}
