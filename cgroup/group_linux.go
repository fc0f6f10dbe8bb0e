package cgroup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
)

// place is where groups are made in one hierarchy.
type place struct {
	hierarchy
	*folder
	path   string // its full path
	masked bool   // the umask takes away what the owner of a group needs
}

// tree is what a group and all groups made below it have in common.
type tree struct {
	places  []place
	unified int               // the index of v2's; -1: there is none
	lacks   map[string]string // controllers that are out of reach, and why
}

// Group is one control group: a folder of the same name in every hierarchy that
// it needs. Methods may be called from many goroutines at once.
type Group struct {
	t      *tree
	rel    string // below the top; "." is the top itself
	parent *Group // nil: the top

	mu sync.Mutex
	in uint64 // the places in which its folder is there
	// limited are those of them in which it has limits: whatever enters a group
	// below it has to enter these.
	limited uint64
	on      string // of v2: " memory pids": enabled for what is below
}

// Open returns an existing group by its path below the hierarchies' roots, as in
// /proc/PID/cgroup: "/judge". In a hierarchy where it is missing it has no limits
// to set. Close gives the descriptors back.
func Open(name string) (*Group, error) {
	if err := ValidatePath(name); err != nil {
		return nil, &Error{Op: "open", Path: name, Err: fmt.Errorf("%w: %w", err, unix.EINVAL)}
	}
	hs, err := hierarchies()
	if err != nil {
		return nil, &Error{Op: "read", Path: "/proc/self/cgroup", Err: err}
	}
	return openTop(hs, func(hierarchy) string { return name })
}

// Nearest opens the group below which this process can make groups: on v1 its
// own; on v2 the nearest of its own and those above that it may write to and that
// may hold groups, which one with processes of its own may not (cgroups(7), "no
// internal processes"). Where there is none, the error says why and what to do.
func Nearest() (*Group, error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, &Error{Op: "read", Path: "/proc/self/cgroup", Err: err}
	}
	return openTop(hs, func(h hierarchy) string {
		if h.unified {
			return h.nearest()
		}
		return h.own
	})
}

// nearest looks for the parent on v2; "" if there is none.
func (h hierarchy) nearest() string {
	for at := h.own; ; at = path.Dir(at) {
		if holds(filepath.Join(h.mount, at)) == nil {
			return at
		}
		if at == "/" {
			return ""
		}
	}
}

// holds tells whether this process may make groups with limits below a group of v2.
func holds(dir string) error {
	for _, name := range []string{".", "cgroup.procs", "cgroup.subtree_control"} {
		if err := unix.Faccessat(unix.AT_FDCWD, filepath.Join(dir, name), unix.W_OK, unix.AT_EACCESS); err != nil {
			return err
		}
	}
	// Only the root of all has no type, and may have processes.
	kind, err := os.ReadFile(filepath.Join(dir, "cgroup.type"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case string(bytes.TrimSpace(kind)) != "domain":
		return fmt.Errorf("a group of type %s: %w", bytes.TrimSpace(kind), unix.EOPNOTSUPP)
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	if len(procs) > 0 {
		return fmt.Errorf("it has processes of its own: %w", unix.EBUSY)
	}
	return nil
}

// openTop opens the top group of a tree. at tells where in each hierarchy.
func openTop(hs []hierarchy, at func(hierarchy) string) (*Group, error) {
	t := &tree{unified: -1, lacks: map[string]string{}}
	top := &Group{t: t, rel: "."}
	masked := umask()&0o700 != 0
	var firstErr error
	for _, h := range hs {
		dir := filepath.Join(h.mount, at(h))
		names := h.controllers
		if at(h) == "" {
			t.lacks[""] = "of the groups of v2 from " + filepath.Join(h.mount, h.own) + " on upwards, none is this user's to make groups in"
			own := filepath.Join(h.mount, h.own)
			if err := holds(own); firstErr == nil && errors.Is(err, unix.EROFS) {
				firstErr = &Error{Op: "open", Path: own, Err: err, Remedy: remedy(err)}
			}
			continue
		}
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			if err = unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK, unix.AT_EACCESS); err != nil {
				_ = unix.Close(fd) // EROFS or EACCES: the remedies differ
			}
		}
		if err != nil {
			if firstErr == nil {
				firstErr = &Error{Op: "open", Path: dir, Err: err, Remedy: remedy(err)}
			}
			for _, c := range names {
				t.lacks[c] = fmt.Sprintf("%s: %v", dir, err)
			}
			if h.unified {
				t.lacks[""] = fmt.Sprintf("%s: %v", dir, err)
			}
			continue
		}
		if h.unified {
			t.unified = len(t.places)
			if text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers")); err == nil {
				h.controllers = strings.Fields(string(text))
			}
		}
		t.places = append(t.places, place{h, newFolder(fd), dir, masked})
		top.in |= 1 << (len(t.places) - 1)
	}
	if len(t.places) == 0 {
		if firstErr == nil {
			firstErr = &Error{Op: "find", Path: "/sys/fs/cgroup", Err: errNone, Remedy: "mount a hierarchy, or show the host's to this container"}
			if why := t.lacks[""]; why != "" {
				firstErr = &Error{Op: "find", Path: "/sys/fs/cgroup", Err: fmt.Errorf("%s: %w", why, unix.EACCES), Remedy: delegateRemedy}
			}
		}
		return nil, firstErr
	}
	return top, nil
}

// umask is this process's: umask(2) can only change it.
func umask() int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), "\nUmask:")
	line, _, _ := strings.Cut(after, "\n")
	mask, err := strconv.ParseInt(strings.TrimSpace(line), 8, 32)
	if err != nil {
		return 0 // before Linux 4.7
	}
	return int(mask)
}

const delegateRemedy = "give this user a group of its own: systemd-run --user --scope -p Delegate=yes PROGRAM, Delegate=yes in the service's unit, " +
	"or chown of a group's folder, cgroup.procs and cgroup.subtree_control; a program that is alone in its group can call cgroup.Prepare"

func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "the hierarchy is mounted read-only, as docker does: docker run --security-opt writable-cgroups=true, or -v /sys/fs/cgroup:/sys/fs/cgroup:rw with --cgroupns=host"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return delegateRemedy
	}
	return ""
}

// Close gives back the descriptors of the group and of all that were made below
// it, none of which can be used any more; the groups stay. It belongs to what Open and Nearest returned.
func (g *Group) Close() error {
	var errs []error
	for n := range g.t.places {
		errs = append(errs, g.t.places[n].close())
	}
	return errors.Join(errs...)
}

// Path is the group's name below the top.
func (g *Group) Path() string { return g.rel }

// Paths are the group's folders, one for each hierarchy in which it is.
func (g *Group) Paths() []string {
	var out []string
	g.each(func(_ int, p *place) { out = append(out, filepath.Join(p.path, g.rel)) })
	return out
}

func (g *Group) each(f func(n int, p *place)) {
	g.mu.Lock()
	in := g.in
	g.mu.Unlock()
	for n := range g.t.places {
		if in&(1<<n) != 0 {
			f(n, &g.t.places[n])
		}
	}
}

// find is the place that has the controller; nil: none has.
func (t *tree) find(controller string) (int, *place) {
	for n := range t.places {
		if slices.Contains(t.places[n].controllers, controller) {
			return n, &t.places[n]
		}
	}
	return -1, nil
}

// account are the controllers that every group has, for its figures, as far as
// there are any.
var account = []string{controllerMemory, controllerAccount, controllerPids}

// needs are the places of a group with these settings, and what it needs of v2.
func (t *tree) needs(settings []setting) (places uint64, enable []string) {
	add := func(controller string) {
		n, _ := t.find(controller)
		switch {
		case n < 0:
		case n == t.unified:
			if !slices.Contains(enable, controller) {
				enable = append(enable, controller)
			}
		default:
			places |= 1 << n
		}
	}
	for _, c := range account {
		add(c)
	}
	for _, s := range settings {
		add(s.controller)
	}
	if t.unified >= 0 {
		places |= 1 << t.unified
	} else {
		add(controllerFreezer) // else v2 freezes
	}
	return places, enable
}

// Has tells whether groups below this one can have a controller: "memory", "io".
func (g *Group) Has(controller string) bool {
	n, _ := g.t.find(controller)
	return n >= 0
}

// limitedBy are the places in which settings are.
func (t *tree) limitedBy(settings []setting) (places uint64) {
	for _, s := range settings {
		if n, _ := t.find(s.controller); n >= 0 {
			places |= 1 << n
		}
	}
	return places
}

// Missing tells which of the limits cannot be kept in groups below this one, as
// far as that is known beforehand.
func (g *Group) Missing(l *Limits) []*LimitError {
	var out []*LimitError
	seen := map[string]bool{}
	add := func(field, controller string) {
		if controller == "" || seen[field] {
			return
		}
		if n, _ := g.t.find(controller); n >= 0 {
			return
		}
		seen[field] = true
		out = append(out, g.t.missing(field, controller))
	}
	for _, s := range l.all(g.t) {
		if !s.weak {
			add(s.field, s.controller)
		}
	}
	if len(l.DeviceRules) > 0 {
		switch n, _ := g.t.find(controllerDevices); {
		case n >= 0:
		case g.t.unified >= 0: // by a program, which may turn out to be refused
		default:
			add("DeviceRules", controllerDevices)
		}
	}
	if n, _ := g.t.find(controllerMemory); l.Swap != nil && l.Memory == nil && n >= 0 && n != g.t.unified {
		out = append(out, &LimitError{
			Field: "Swap", Controller: controllerMemory, Reason: "cgroup v1 limits the sum of memory and swap, so that swap alone has no limit",
			Remedy: "set a limit of memory as well",
		})
	}
	if len(l.Unified) > 0 && g.t.unified < 0 {
		out = append(out, &LimitError{Field: "Unified", Reason: "these are files of cgroup v2, which is not mounted", Remedy: "take the limits that have a field, or a host with cgroup v2"})
	}
	return out
}

// missing says why a controller is out of reach.
func (t *tree) missing(field, controller string) *LimitError {
	e := &LimitError{Field: field, Controller: controller}
	switch {
	case t.lacks[controller] != "":
		e.Reason = "the controller " + controller + " is out of reach: " + t.lacks[controller]
		e.Remedy = delegateRemedy
	case t.unified >= 0:
		e.Reason = fmt.Sprintf("the controller %s is not in %s/cgroup.controllers", controller, t.places[t.unified].path)
		e.Remedy = "have it delegated: a drop-in with [Service] Delegate=cpu cpuset io memory pids for user@.service, or for this program's own service"
	case t.lacks[""] != "":
		e.Reason, e.Remedy = "the controller "+controller+" is out of reach: "+t.lacks[""], delegateRemedy
	default:
		e.Reason = "this kernel, or this machine's set-up, has no controller " + controller
		e.Remedy = "see /proc/cgroups; a kernel parameter like cgroup_enable=memory may turn it on"
	}
	return e
}

// all are the settings for a tree: of a hybrid host each limit goes where its
// controller is.
func (l *Limits) all(t *tree) []setting {
	v1, v2 := false, t.unified >= 0
	for n := range t.places {
		v1 = v1 || n != t.unified
	}
	switch {
	case !v1:
		return l.settings(true)
	case !v2 || len(t.places[t.unified].controllers) == 0 && len(l.Unified) == 0:
		return l.settings(false)
	}
	on2 := func(s setting) bool {
		n, _ := t.find(s.controller)
		return n == t.unified || s.controller == ""
	}
	list := slices.DeleteFunc(l.settings(false), on2)
	return append(list, slices.DeleteFunc(l.settings(true), func(s setting) bool { return !on2(s) && s.field != "Unified" })...)
}

// Create makes a group below this one and sets its limits. The name must be new:
// a group that is there already is never taken. On any failure nothing is left.
// What cannot be kept here is a [*LimitError], several of them joined.
func (g *Group) Create(name string, l Limits) (*Group, error) {
	if name == "" || name == "." || name == ".." || len(name) > 200 || strings.ContainsAny(name, "/\x00\n") {
		return nil, &Error{Op: "mkdir", Path: name, Err: unix.EINVAL, Remedy: "a name of one part"}
	}
	var errs []error
	for _, e := range g.Missing(&l) {
		errs = append(errs, e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	l, err := l.resolved()
	if err != nil {
		return nil, err
	}
	c := &Group{t: g.t, rel: path.Join(g.rel, name), parent: g}
	settings := l.all(g.t)
	places, enable := g.t.needs(settings)
	if len(l.DeviceRules) > 0 {
		if n, _ := g.t.find(controllerDevices); n >= 0 {
			places |= 1 << n
		}
	}
	if err := g.enable(enable); err != nil {
		return nil, err
	}
	if err := c.make(places); err != nil {
		return nil, errors.Join(err, c.remove(context.Background()))
	}
	if err := c.write(settings); err != nil {
		return nil, errors.Join(err, c.remove(context.Background()))
	}
	c.limited = g.t.limitedBy(settings)
	if n, _ := g.t.find(controllerDevices); n >= 0 && len(l.DeviceRules) > 0 {
		c.limited |= 1 << n
	}
	if err := c.setDevices(l.DeviceRules); err != nil {
		return nil, errors.Join(err, c.remove(context.Background()))
	}
	return c, nil
}

// make makes the group's folder in each of the places. Groups above it, up to
// the top, are made there too where they were not needed before.
func (g *Group) make(places uint64) error {
	for n := range g.t.places {
		if places&(1<<n) == 0 {
			continue
		}
		p := &g.t.places[n]
		var err error
		if g.parent != nil && g.parent.rel != "." {
			// Asked even where the folder is there already: another goroutine may just
			// have made it, without processors and nodes yet.
			err = g.parent.makeIn(n)
		}
		if err == nil {
			err = p.mkdir(g.rel)
		}
		if err != nil {
			return &Error{Op: "mkdir", Path: filepath.Join(p.path, g.rel), Err: err, Remedy: mkdirRemedy(err)}
		}
		g.mu.Lock()
		g.in |= 1 << n
		g.mu.Unlock()
		if err := p.fillCPUSet(g.rel); err != nil {
			return err
		}
	}
	return nil
}

func (p *place) mkdir(rel string) error {
	if err := fault.At("mkdir", rel); err != nil {
		return err
	}
	err := p.at(func(dir int) error { return unix.Mkdirat(dir, rel, 0o755) })
	if err == nil && p.masked {
		err = p.at(func(dir int) error { return unix.Fchmodat(dir, rel, 0o755, 0) })
	}
	return err
}

// makeIn makes the group's folder in one more place.
func (g *Group) makeIn(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in&(1<<n) != 0 {
		return nil
	}
	p := &g.t.places[n]
	if g.parent != nil && g.parent.rel != "." {
		if err := g.parent.makeIn(n); err != nil {
			return err
		}
	}
	if err := p.mkdir(g.rel); err != nil {
		return err
	}
	g.in |= 1 << n
	return p.fillCPUSet(g.rel)
}

func mkdirRemedy(err error) string {
	switch {
	case errors.Is(err, unix.EEXIST):
		return "another container has this ID, or one was left by a killed program: container.Prune removes those"
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOSPC):
		return "a limit of groups is reached: cgroup.max.descendants, or the kernel's own"
	}
	return remedy(err)
}

// fillCPUSet gives a new group of cpuset on v1 its parent's processors and nodes:
// without them nothing can enter it.
func (p *place) fillCPUSet(rel string) error {
	if p.unified || !slices.Contains(p.controllers, controllerCPUSet) {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		var buf [4096]byte
		n, err := p.read(path.Dir(rel), file, buf[:])
		if err == nil {
			err = p.write(path.Join(rel, file), strings.TrimSpace(string(buf[:n])))
		}
		if err != nil {
			return &Error{Op: "write", Path: filepath.Join(p.path, rel, file), Err: err}
		}
	}
	return nil
}

// enable lets groups below this one have controllers of v2.
func (g *Group) enable(controllers []string) error {
	if len(controllers) == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	text := ""
	for _, c := range controllers {
		if !strings.Contains(g.on+" ", " "+c+" ") {
			text += " +" + c
		}
	}
	if text == "" {
		return nil
	}
	if g.parent != nil {
		if err := g.parent.enable(controllers); err != nil {
			return err
		}
	}
	p := &g.t.places[g.t.unified]
	file := path.Join(g.rel, "cgroup.subtree_control")
	if g.parent == nil {
		// The top is not ours: nothing is written where nothing has to be.
		var buf [512]byte
		if n, err := p.read(g.rel, "cgroup.subtree_control", buf[:]); err == nil {
			have, text2 := strings.Fields(string(buf[:n])), ""
			for _, c := range controllers {
				if !slices.Contains(have, c) {
					text2 += " +" + c
				}
			}
			if text2 == "" {
				g.on += strings.ReplaceAll(text, "+", "")
				return nil
			}
		}
	}
	if err := p.write(file, text[1:]); err != nil {
		e := &Error{Op: "write", Path: filepath.Join(p.path, file), Err: err, Remedy: remedy(err)}
		if errors.Is(err, unix.EBUSY) {
			e.Remedy = "the group has processes of its own: cgroup.Prepare moves this program's into a group below"
		}
		return e
	}
	g.on += strings.ReplaceAll(text, "+", "")
	return nil
}

// write writes settings; a file that is not there is a limit that this kernel
// does not have.
func (g *Group) write(settings []setting) error {
	var errs []error
	for _, s := range settings {
		_, p := g.t.find(s.controller)
		if s.controller == "" && g.t.unified >= 0 {
			p = &g.t.places[g.t.unified]
		}
		if p == nil {
			if !s.weak {
				errs = append(errs, g.t.missing(s.field, s.controller))
			}
			continue
		}
		err := p.write(path.Join(g.rel, s.file), s.value)
		if missingFile(err) && s.other != "" {
			err = p.write(path.Join(g.rel, s.other), s.otherValue)
		}
		switch {
		case err == nil, s.weak && missingFile(err):
		case missingFile(err) && !p.has(g.rel):
			return &Error{Op: "write", Path: filepath.Join(p.path, g.rel), Err: err, Remedy: "somebody removed the group"}
		case missingFile(err):
			errs = append(errs, &LimitError{Field: s.field, Controller: s.controller, Reason: "this kernel has no " + s.file, Remedy: "it takes a newer kernel, or one that was built with it", Err: err})
		default:
			errs = append(errs, &Error{Op: "write", Path: filepath.Join(p.path, g.rel, s.file) + " " + s.value, Err: err, Remedy: writeRemedy(s, err)})
		}
	}
	return errors.Join(errs...)
}

// missingFile tells that a file of a group is not there. To make one is what
// openat was not asked for, but some kernels answer so.
func missingFile(err error) bool { return errors.Is(err, unix.ENOENT) }

// removed tells that a group is not there, or was removed, systemd's empty scope by
// itself, since its file was opened: ENODEV.
func removed(err error) bool { return missingFile(err) || errors.Is(err, unix.ENODEV) }

func writeRemedy(s setting, err error) string {
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "no such device, or a partition: name the whole disk"
	case errors.Is(err, unix.EBUSY) && s.field == "Memory":
		return "more is in use, and it cannot be taken back"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return "the kernel does not take the value; a group above may allow less"
	}
	return ""
}

// write writes a file of a group by its path below the top.
func (p *place) write(rel, value string) error {
	if err := fault.At("write", rel); err != nil {
		return err
	}
	fd, err := p.openat(rel, unix.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value))
	for errors.Is(err, unix.EINTR) {
		_, err = unix.Write(fd, []byte(value))
	}
	_ = unix.Close(fd) // written already, or not
	return err
}

// Update changes limits of a group that is in use: the fields that are set in l.
// A memory limit below what is in use takes memory back first, and is an error
// where that does not succeed; then the limit before stays. Memory alone leaves
// the swap that a group with a memory limit may use as it is.
func (g *Group) Update(ctx context.Context, l Limits) error {
	l = g.withSwap(l)
	var errs []error
	for _, e := range g.Missing(&l) {
		errs = append(errs, e)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	l, err := l.resolved()
	if err != nil {
		return err
	}
	settings := l.all(g.t)
	_, enable := g.t.needs(settings)
	if g.parent != nil {
		if err := g.parent.enable(enable); err != nil {
			return err
		}
	}
	if l.Memory != nil {
		if settings, err = g.lowerMemory(ctx, *l.Memory, settings); err != nil {
			return err
		}
	}
	places := g.t.limitedBy(settings)
	for n := range g.t.places {
		if places&(1<<n) != 0 {
			if err := g.joinPlace(n); err != nil {
				return err
			}
		}
	}
	if err := g.write(settings); err != nil {
		return err
	}
	g.mu.Lock()
	g.limited |= places
	g.mu.Unlock()
	return nil
}

// withSwap completes limits of memory alone, or of swap alone, by what the group
// has: v1 knows the sum only, and a new group's memory limit means no swap.
func (g *Group) withSwap(l Limits) Limits {
	n, p := g.t.find(controllerMemory)
	if p == nil || (l.Memory == nil) == (l.Swap == nil) {
		return l
	}
	limitFile, swapFile := "memory.max", "memory.swap.max"
	if n != g.t.unified {
		limitFile, swapFile = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	}
	limit, err := g.number(p, limitFile)
	swap, swapErr := g.number(p, swapFile)
	if err != nil || swapErr != nil || limit < 0 || limit > noLimit {
		return l // without a limit before, or without a count of swap, it is as in Create
	}
	switch {
	case l.Memory == nil:
		if n != g.t.unified {
			l.Memory = &limit
		}
		return l
	case swap < 0 || swap > noLimit:
		swap = math.MaxInt64 // the kernel's word for it is less
	case n != g.t.unified:
		swap -= limit
	}
	l.Swap = &swap
	return l
}

// noLimit is what no limit of memory that somebody meant is above: v1 says
// 9223372036854771712 for none, by the size of a page.
const noLimit = math.MaxInt64 - 1<<20

// joinPlace makes the group in one more hierarchy of v1 and moves its processes
// there, by their threads' common way in: it is not made for speed.
func (g *Group) joinPlace(n int) error {
	g.mu.Lock()
	there := g.in&(1<<n) != 0
	g.mu.Unlock()
	if there {
		return nil
	}
	p := &g.t.places[n]
	if err := g.makeIn(n); err != nil {
		return &Error{Op: "mkdir", Path: filepath.Join(p.path, g.rel), Err: err, Remedy: mkdirRemedy(err)}
	}
	moved := map[int]bool{}
	for more := true; more; {
		more = false
		list, err := g.Processes()
		if err != nil {
			return err
		}
		for _, pid := range list {
			if moved[pid] {
				continue
			}
			moved[pid], more = true, true // a child of it is born where it is
			if err := p.write(path.Join(g.rel, "cgroup.procs"), fmt.Sprint(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
				return &Error{Op: "write", Path: filepath.Join(p.path, g.rel, "cgroup.procs"), Err: err, Remedy: remedy(err)}
			}
		}
	}
	return nil
}

// lowerMemory makes room for a lower limit. On v1 the kernel does so itself, and
// refuses; on v2 it would kill. It returns the settings in the order in which
// they can be written.
func (g *Group) lowerMemory(ctx context.Context, limit int64, settings []setting) ([]setting, error) {
	n, p := g.t.find(controllerMemory)
	if p == nil {
		return settings, nil
	}
	if n != g.t.unified {
		// The sum of memory and swap may not be below memory alone: whichever way
		// it goes, one of the orders is refused.
		old, err := g.number(p, "memory.memsw.limit_in_bytes")
		if err == nil && old > limit {
			slices.SortStableFunc(settings, func(a, b setting) int { return strings.Compare(a.file, b.file) }) // limit, then memsw
		} else {
			slices.SortStableFunc(settings, func(a, b setting) int { return strings.Compare(b.file, a.file) })
		}
		return settings, nil
	}
	high := path.Join(g.rel, "memory.high")
	var buf [32]byte
	size, err := p.read(g.rel, "memory.high", buf[:])
	if err != nil {
		return nil, &Error{Op: "read", Path: filepath.Join(p.path, high), Err: err}
	}
	old := strings.TrimSpace(string(buf[:size]))
	restore := func() error {
		if err := p.write(high, old); err != nil {
			return &Error{Op: "write", Path: filepath.Join(p.path, high), Err: err}
		}
		return nil
	}
	// Writing memory.high takes memory back, and gives up after a while.
	if err := p.write(high, fmt.Sprint(limit)); err != nil {
		return nil, &Error{Op: "write", Path: filepath.Join(p.path, high), Err: err}
	}
	used, err := g.number(p, "memory.current")
	for try := 0; err == nil && used > limit && try < 20 && ctx.Err() == nil; try++ {
		<-time.After(time.Millisecond) // what is charged ahead per processor is given back soon
		if err = p.write(high, fmt.Sprint(limit)); err == nil {
			used, err = g.number(p, "memory.current")
		}
	}
	if err == nil && used > limit {
		err = &Error{Op: "write", Path: filepath.Join(p.path, g.rel, "memory.max"), Err: fmt.Errorf("%d bytes are in use and cannot be taken back: %w", used, unix.EBUSY)}
	}
	if err := errors.Join(err, restore()); err != nil {
		return nil, err
	}
	return settings, nil
}

// Missing folders and what has just ended are tried again for this long.
const settle = 2 * time.Second

// Delete removes the group and all below it, in every hierarchy. Processes must
// have ended; what the kernel has not let go yet is tried again until ctx ends,
// at most two seconds.
func (g *Group) Delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	wait := 100 * time.Microsecond
	for {
		err := g.remove(ctx)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
			wait = min(2*wait, 20*time.Millisecond)
		}
	}
}

// remove tries once.
func (g *Group) remove(ctx context.Context) error {
	var errs []error
	g.each(func(n int, p *place) {
		if err := p.remove(ctx, g.rel); err != nil {
			errs = append(errs, err)
			return
		}
		g.mu.Lock()
		g.in &^= 1 << n
		g.mu.Unlock()
	})
	return errors.Join(errs...)
}

// remove removes a folder and those below it; one that cannot be removed keeps
// those above it alone.
func (p *place) remove(ctx context.Context, rel string) error {
	err := p.rmdir(rel)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		some := false
		rmdir := func(dir int, name string) bool {
			some = true
			err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
			return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY)
		}
		if visitErr := p.visit(ctx, rel, rmdir, func(dir int, name string) { rmdir(dir, name) }); visitErr != nil {
			return &Error{Op: "rmdir", Path: filepath.Join(p.path, rel), Err: fmt.Errorf("%w, and what is below: %w", err, visitErr)}
		}
		if some {
			err = p.rmdir(rel)
		}
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &Error{Op: "rmdir", Path: filepath.Join(p.path, rel), Err: err}
}

// visit calls into for every folder below one, with the folder above it and its
// name, and goes into it where that says so; and out when it is through with that
// folder. A job that was given a hierarchy may have nested them deeper than a path is
// long, or than there are descriptors: one is open at a time.
func (p *place) visit(ctx context.Context, rel string, into func(dir int, name string) bool, out func(dir int, name string)) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at, err := p.openat(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil // gone meanwhile
		}
		return err
	}
	defer func() { _ = unix.Close(at) }() // a folder
	names, err := below(at)
	if err != nil {
		return err
	}
	levels := [][]string{names} // the names that are left to visit, the one that was entered first
	for ctx.Err() == nil {
		last := len(levels) - 1
		if len(levels[last]) == 0 {
			if last == 0 {
				return nil
			}
			up, err := unix.Openat(at, "..", flags, 0)
			if err != nil {
				return err
			}
			_ = unix.Close(at)
			at, levels = up, levels[:last]
			out(at, levels[last-1][0])
			levels[last-1] = levels[last-1][1:]
			continue
		}
		name := levels[last][0]
		if into(at, name) {
			if down, err := unix.Openat(at, name, flags, 0); err == nil {
				if names, err := below(down); err == nil && len(names) > 0 {
					_ = unix.Close(at)
					at, levels = down, append(levels, names)
					continue
				}
				_ = unix.Close(down)
			}
		}
		levels[last] = levels[last][1:]
	}
	return context.Cause(ctx)
}

// below lists the groups below a group.
func (p *place) below(rel string) ([]string, error) {
	fd, err := p.openat(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return below(fd)
}

// below lists the groups in a folder. os.ReadDir takes three times as long, and
// most of the entries are files.
func below(fd int) ([]string, error) {
	var out []string
	var buf [4096]byte
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			return out, err
		}
		// Each is a struct linux_dirent64, see getdents64(2): its length at 16, its type at 18, its name at 19.
		for d := buf[:n]; len(d) > 19; d = d[binary.NativeEndian.Uint16(d[16:]):] {
			name, _, _ := bytes.Cut(d[19:], []byte{0})
			if d[18] == unix.DT_DIR && string(name) != "." && string(name) != ".." {
				out = append(out, string(name))
			}
		}
	}
}
