package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
)

// Entry is what a process enters the group by. Of v2, Dir is what clone3(2) takes
// with CLONE_INTO_CGROUP; -1 where there is none. Of v1, Tasks are open for
// writing: the process writes "0" to each of them. cgroup.procs is not used:
// writing to it waits for the whole machine's threads (Linux 6.0 and later: 7 ms
// where it is done now and then).
type Entry struct {
	Dir   int
	Tasks []int
}

// Close gives the descriptors back.
func (e *Entry) Close() {
	for _, fd := range append(e.Tasks, e.Dir) {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing was written through them by us
		}
	}
	e.Tasks, e.Dir = nil, -1
}

// Enter opens what a process enters the group by; the caller closes it.
func (g *Group) Enter() (*Entry, error) {
	e := &Entry{Dir: -1}
	var err error
	for n := range g.t.places {
		p, at := &g.t.places[n], g.within(n)
		if at == nil {
			continue
		}
		file, flags := path.Join(at.rel, "tasks"), unix.O_WRONLY
		if n == g.t.unified {
			file, flags = at.rel, unix.O_PATH|unix.O_DIRECTORY
		}
		fd, openErr := -1, fault.At("open", file)
		if openErr == nil {
			fd, openErr = p.openat(file, flags)
		}
		switch {
		case openErr != nil:
			err = &Error{Op: "open", Path: filepath.Join(p.path, file), Err: openErr}
		case n == g.t.unified:
			e.Dir = fd
		default:
			e.Tasks = append(e.Tasks, fd)
		}
		if err != nil {
			e.Close()
			return nil, err
		}
	}
	return e, nil
}

// within is the group that has to be entered in one place: this one, or the
// nearest above it that has limits there; nil: none.
func (g *Group) within(n int) *Group {
	for at := g; at != nil && at.parent != nil; at = at.parent {
		at.mu.Lock()
		in, limited := at.in&(1<<n) != 0, at.limited&(1<<n) != 0
		at.mu.Unlock()
		if in && (at == g || limited) {
			return at
		}
	}
	return nil
}

// Let gives a user of the host the right to clone processes into the group, by
// the v2 hierarchy: uid becomes the owner of its cgroup.procs; with -1 everybody
// may write to it, who may also write to that of a group above both.
func (g *Group) Let(uid int) error {
	if g.t.unified < 0 {
		return nil
	}
	p := &g.t.places[g.t.unified]
	file := path.Join(g.rel, "cgroup.procs")
	err := fault.At("chmod", file)
	switch {
	case err != nil:
	case uid < 0:
		err = p.at(func(dir int) error { return unix.Fchmodat(dir, file, 0o666, 0) })
	default:
		err = p.at(func(dir int) error { return unix.Fchownat(dir, file, uid, -1, 0) })
	}
	if err != nil {
		return &Error{Op: "chmod", Path: filepath.Join(p.path, file), Err: err}
	}
	return nil
}

// Add moves a process into the group. It waits for every thread of the machine;
// what starts processes uses Enter.
func (g *Group) Add(pid int) error {
	var err error
	g.each(func(_ int, p *place) {
		file := path.Join(g.rel, "cgroup.procs")
		if err == nil {
			if err = p.write(file, strconv.Itoa(pid)); err != nil {
				err = &Error{Op: "write", Path: filepath.Join(p.path, file), Err: err, Remedy: remedy(err)}
			}
		}
	})
	return err
}

// Processes lists the processes in the group and below it, by their ids as this
// process sees them.
func (g *Group) Processes() ([]int, error) {
	var pids []int
	err := g.walk(func(pid int) { pids = append(pids, pid) })
	return pids, err
}

// walk calls f for every process, of one of the hierarchies.
func (g *Group) walk(f func(pid int)) error {
	n := g.any()
	if n < 0 {
		return nil
	}
	return g.t.places[n].walk(g.rel, f)
}

// any is a place in which the group is: v2's, if there is one.
func (g *Group) any() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if u := g.t.unified; u >= 0 && g.in&(1<<u) != 0 {
		return u
	}
	for n := range g.t.places {
		if g.in&(1<<n) != 0 {
			return n
		}
	}
	return -1
}

func (p *place) walk(rel string, f func(pid int)) error {
	var failed error
	list := func(dir int, name string) bool {
		if failed != nil {
			return false
		}
		failed = processesIn(dir, path.Join(name, "cgroup.procs"), f)
		return failed == nil
	}
	if err := p.at(func(dir int) error { return processesIn(dir, path.Join(rel, "cgroup.procs"), f) }); err != nil {
		return &Error{Op: "read", Path: filepath.Join(p.path, rel, "cgroup.procs"), Err: err}
	}
	if err := errors.Join(p.visit(context.Background(), rel, list, func(int, string) {}), failed); err != nil {
		return &Error{Op: "read", Path: filepath.Join(p.path, rel), Err: err}
	}
	return nil
}

// processesIn calls f for every process of a file cgroup.procs.
func processesIn(dir int, name string, f func(pid int)) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		if removed(err) {
			return nil // removed meanwhile
		}
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	text, err := io.ReadAll(file)
	_ = file.Close() // only read
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	for line := range bytes.Lines(text) {
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 0 {
			f(pid)
		}
	}
	return nil
}

// Populated tells whether a process is in the group or below it.
func (g *Group) Populated() (bool, error) {
	if n := g.any(); n >= 0 && n == g.t.unified {
		v, err := g.event("populated")
		return v == 1, err
	}
	some := false
	err := g.walk(func(int) { some = true })
	return some, err
}

// event reads one line of cgroup.events.
func (g *Group) event(name string) (int64, error) {
	p := &g.t.places[g.t.unified]
	var buf [128]byte
	n, err := p.read(g.rel, "cgroup.events", buf[:])
	if err != nil {
		if removed(err) {
			return 0, nil
		}
		return 0, &Error{Op: "read", Path: filepath.Join(p.path, g.rel, "cgroup.events"), Err: err}
	}
	return field(buf[:n], name), nil
}

// WaitEmpty waits until no process is in the group or below it.
func (g *Group) WaitEmpty(ctx context.Context) error {
	return g.await(ctx, func() (bool, error) {
		some, err := g.Populated()
		return !some, err
	})
}

// await tries until done says so. v1 tells nobody of a change, so it is asked
// again, ever more seldom.
func (g *Group) await(ctx context.Context, done func() (bool, error)) error {
	wait := 50 * time.Microsecond
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
			wait = min(2*wait, 10*time.Millisecond)
		}
	}
}

// Kill sends SIGKILL to every process in the group and below it, also to a frozen
// one, until none is left or ctx ends.
func (g *Group) Kill(ctx context.Context) error {
	if u := g.t.unified; u >= 0 {
		err := g.t.places[u].write(path.Join(g.rel, "cgroup.kill"), "1")
		if err == nil {
			return g.thawedEmpty(ctx)
		}
		if !removed(err) && !errors.Is(err, unix.EOPNOTSUPP) {
			return &Error{Op: "write", Path: filepath.Join(g.t.places[u].path, g.rel, "cgroup.kill"), Err: err}
		}
	}
	// Linux before 5.14, or v1 alone. While it stands still, a bomb does not grow.
	return g.await(ctx, func() (bool, error) {
		frozen := g.freeze(true) == nil
		alone := true
		err := g.walk(func(pid int) {
			alone = false
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended by itself
		})
		if frozen {
			err = errors.Join(err, g.freeze(false)) // v1: a frozen task does not take the signal
		}
		return alone, err
	})
}

// Uncap takes the limit of processor time away, for a group that is about to be
// killed: what is held back for the rest of its period does not die before that.
func (g *Group) Uncap() {
	n, p := g.t.find(controllerCPU)
	g.mu.Lock()
	limited := n >= 0 && g.limited&(1<<n) != 0
	g.mu.Unlock()
	switch {
	case !limited:
	case n == g.t.unified:
		_ = p.write(g.rel+"/cpu.max", "max") // without it, it dies later
	default:
		_ = p.write(g.rel+"/cpu.cfs_quota_us", "-1")
	}
}

// thawedEmpty waits for the end of what was killed. What is frozen on v1 alone
// stays: that freezer is thawed.
func (g *Group) thawedEmpty(ctx context.Context) error {
	if _, p := g.freezerPlace(); p != nil && !p.unified {
		if err := g.freeze(false); err != nil {
			return err
		}
	}
	return g.WaitEmpty(ctx)
}

// freezerPlace is where the group can be frozen; nil: nowhere.
func (g *Group) freezerPlace() (int, *place) {
	if u := g.t.unified; u >= 0 {
		return u, &g.t.places[u]
	}
	n, p := g.t.find(controllerFreezer)
	g.mu.Lock()
	defer g.mu.Unlock()
	if n < 0 || g.in&(1<<n) == 0 {
		return -1, nil
	}
	return n, p
}

// freeze asks for it and does not wait.
func (g *Group) freeze(on bool) error {
	n, p := g.freezerPlace()
	if p == nil {
		return &LimitError{Field: "Freeze", Controller: controllerFreezer, Reason: "the controller freezer is out of reach"}
	}
	file, value := path.Join(g.rel, "cgroup.freeze"), "0"
	if on {
		value = "1"
	}
	if n != g.t.unified {
		file, value = path.Join(g.rel, "freezer.state"), "THAWED"
		if on {
			value = "FROZEN"
		}
	}
	if err := p.write(file, value); err != nil {
		return &Error{Op: "write", Path: filepath.Join(p.path, file), Err: err}
	}
	return nil
}

// Freeze stops every process in the group and below it, and waits until all
// stand still; cgroups(7). Where ctx ends first, they are thawed.
func (g *Group) Freeze(ctx context.Context) error {
	if err := g.freeze(true); err != nil {
		return err
	}
	err := g.await(ctx, func() (bool, error) { return g.Frozen() })
	if err != nil {
		return errors.Join(fmt.Errorf("cgroup: freeze %s: %w", g.rel, err), g.freeze(false))
	}
	return nil
}

// Thaw lets them go on.
func (g *Group) Thaw(ctx context.Context) error {
	if err := g.freeze(false); err != nil {
		return err
	}
	return g.await(ctx, func() (bool, error) {
		f, err := g.Frozen()
		return !f, err
	})
}

// Frozen tells whether all processes of the group stand still.
func (g *Group) Frozen() (bool, error) {
	n, p := g.freezerPlace()
	if p == nil {
		return false, nil
	}
	if n == g.t.unified {
		v, err := g.event("frozen")
		return v == 1, err
	}
	var buf [32]byte
	size, err := p.read(g.rel, "freezer.state", buf[:])
	if err != nil {
		return false, &Error{Op: "read", Path: filepath.Join(p.path, g.rel, "freezer.state"), Err: err}
	}
	return string(bytes.TrimSpace(buf[:size])) == "FROZEN", nil
}

// OOM returns an eventfd(2) that becomes readable when the group runs out of
// memory on v1, where one process's death is not the end of all; -1 where the
// kernel sees to that itself (v2, see Limits.OOMGroup) or the group has no memory
// controller. It becomes readable as well when the group is removed: OOMKills
// tells. The caller closes it.
func (g *Group) OOM() (int, error) {
	n, p := g.t.find(controllerMemory)
	if p == nil || n == g.t.unified {
		return -1, nil
	}
	event, err := -1, fault.At("eventfd", g.rel)
	if err == nil {
		event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err != nil {
		return -1, &Error{Op: "eventfd", Path: filepath.Join(p.path, g.rel), Err: err}
	}
	file := path.Join(g.rel, "memory.oom_control")
	fd, err := p.openat(file, unix.O_RDONLY)
	if err == nil {
		err = p.write(path.Join(g.rel, "cgroup.event_control"), fmt.Sprintf("%d %d", event, fd))
		_ = unix.Close(fd) // the registration is the eventfd's
	}
	if err != nil {
		return -1, errors.Join(&Error{Op: "watch", Path: filepath.Join(p.path, file), Err: err}, unix.Close(event))
	}
	return event, nil
}
