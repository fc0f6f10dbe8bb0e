package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

const (
	// groupPrefix begins the name of every control group that a host program makes.
	groupPrefix = "inlay-"
	// initGroup is where the inits of all containers are, who are nobody's job. A
	// container's ID begins with a letter or a digit.
	initGroup = ".init"
)

// home is where one host program has its groups, below one parent:
// inlay-PID-N/{.init, ID/{1, 2, …}}. It is made with the first container and
// removed by the launcher at its end, or by the host where that died first.
type home struct {
	top   *cgroup.Group
	scope string // the folder of top, where it is a scope of systemd's
	base  *cgroup.Group
	state *launcher.State // names the groups
	born  uint32          // what stands for .init in the launcher's requests

	mu    sync.Mutex
	users int
	dead  bool // its launcher died
}

// homes are those of the running launcher.
var homes struct {
	sync.Mutex
	launcher *launcher.Launcher
	byParent map[string]*home
	whyNot   map[string]error
}

// groups are the control groups of one container. Jobs with limits of their own,
// and the main job, have a group each below it; a container that ends with its
// main job, as Run's does, has one for both.
type groups struct {
	home *home
	all  *cgroup.Group
	main *cgroup.Group
	uid  int // who clones jobs into them; -1 for everybody, -2: no need to say

	mu     sync.Mutex
	shared *jobGroup             // for jobs without limits of their own; nil: none yet
	live   map[*Process]struct{} // whose figures are still to be read
	last   int                   // the number of the last job
	seen   atomic.Int64          // how many were killed in shared for want of memory, when last looked at
	oom    int                   // watched for want of memory, on v1; -1: it is not
	closed bool                  // nobody needs them any more but to remove them
	// ahead is a group that the next job with limits of its own may have; making:
	// there will be one; lastLimits are those of the last such job.
	ahead      *jobGroup
	making     bool
	updates    int // of what they are made from
	lastLimits *cgroup.Limits
	chores     []func()       // see later; the first is being done
	leaving    sync.WaitGroup // until they are done
}

// openHome finds or makes the place for groups. The error says why there is none.
func (r *running) openHome(ctx context.Context, parent string) (*home, error) {
	homes.Lock()
	defer homes.Unlock()
	if homes.launcher != r.launcher {
		homes.launcher, homes.byParent, homes.whyNot = r.launcher, map[string]*home{}, map[string]error{}
	}
	if h := homes.byParent[parent]; h != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.dead {
			return nil, launcher.ErrDied
		}
		h.users++
		return h, nil
	}
	if err := homes.whyNot[parent]; err != nil {
		return nil, err
	}
	h, err := r.makeHome(ctx, parent)
	if err != nil {
		if !errors.Is(err, launcher.ErrDied) && ctx.Err() == nil {
			homes.whyNot[parent] = err
		}
		return nil, err
	}
	homes.byParent[parent] = h
	return h, nil
}

func (r *running) makeHome(ctx context.Context, parent string) (_ *home, err error) {
	h := &home{users: 1, state: r.state}
	if parent == "" {
		h.top, h.scope, err = r.ownTop(ctx)
	} else {
		h.top, err = cgroup.Open(parent)
	}
	if err != nil {
		return nil, err
	}
	h.state.Retain()
	defer func() {
		if err != nil {
			err = errors.Join(err, h.remove())
		}
	}()
	if h.scope != "" {
		if err := r.state.Record(groupLine + h.scope); err != nil {
			return nil, err
		}
	}
	name := ""
	for n := 0; ; n++ {
		name = groupPrefix + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(n)
		taken := slices.ContainsFunc(h.top.Paths(), func(p string) bool {
			_, err := os.Lstat(filepath.Join(p, name))
			return err == nil
		})
		if !taken {
			break
		}
	}
	var folders [][2]string
	for _, p := range h.top.Paths() {
		folders = append(folders, [2]string{p, name})
		if err := r.state.Record(groupLine + filepath.Join(p, name)); err != nil {
			return nil, err
		}
	}
	if h.base, err = h.top.Create(name, cgroup.Limits{}); err != nil {
		return nil, err
	}
	// Inits have ids of their own, and clone jobs from .init into ID/N: the kernel
	// asks for the right to write to the group that is above both.
	if err := h.base.Let(-1); err != nil {
		return nil, err
	}
	inits, err := h.base.Create(initGroup, cgroup.Limits{})
	if err != nil {
		return nil, err
	}
	e, err := inits.Enter()
	if err != nil {
		return nil, err
	}
	defer e.Close()
	h.born, err = r.launcher.HoldGroups(ctx, e.Dir, folders, h.orphaned)
	return h, err
}

// ownTop is the group below which groups are made where no other was named. The
// launcher goes into systemd's scope, since who clones a process into a group must
// be allowed to write to a group that is above both.
func (r *running) ownTop(ctx context.Context) (top *cgroup.Group, scope string, err error) {
	top, scopeErr := cgroup.Scope(ctx, groupPrefix+strconv.Itoa(os.Getpid()), r.launcher.PID())
	if scopeErr == nil {
		return top, top.Paths()[0], nil
	}
	if ctx.Err() != nil {
		return nil, "", scopeErr
	}
	top, err = cgroup.Nearest()
	if err != nil && !errors.Is(scopeErr, cgroup.ErrNoManager) {
		err = errors.Join(scopeErr, err) // the way to a group that needs the least comes first
	}
	return top, "", err
}

// groupLine begins the lines of an owner file that name groups.
const groupLine = "cgroup "

// orphaned is called when the launcher died: nobody else removes the groups now.
func (h *home) orphaned() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead = true
	if h.users == 0 {
		_ = h.remove() // nobody to tell; Prune finds it by the owner file
	}
}

// leave is called once for each openHome.
func (h *home) leave() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users--
	if h.dead && h.users == 0 {
		return h.remove()
	}
	return nil
}

func (h *home) remove() error {
	var errs []error
	if h.base != nil {
		errs = append(errs, h.base.Delete(context.Background()))
	}
	if h.scope != "" && h.dead {
		// Systemd sees its end and removes it, but gives up on what it meets half gone.
		errs = append(errs, cgroup.RemoveLeftover(context.Background(), h.scope, groupPrefix))
	}
	if errors.Join(errs...) == nil {
		h.state.Release()
	}
	return errors.Join(append(errs, h.top.Close())...)
}

// limits are the container's, with the defaults of those that were not given.
func (s *Spec) limits() cgroup.Limits {
	l := s.Job.Limits
	l.OOMGroup = s.Job.OOMGroup == nil || *s.Job.OOMGroup
	if l.Pids == nil {
		pids := int64(defaultPids)
		l.Pids = &pids
	}
	return l
}

// openGroups looks what groups can do for this container before anything is
// made: a limit that cannot be kept is an error, or left out where it was
// optional.
func (r *running) openGroups(ctx context.Context) error {
	s := &r.c.spec
	parent := ""
	if s.CgroupParent != nil {
		parent = *s.CgroupParent
	}
	h, err := r.openHome(ctx, parent)
	if err != nil && parent != "" && s.Job.optional("WithCgroupParent") {
		r.drop("WithCgroupParent", err.Error())
		h, err = r.openHome(ctx, "")
	}
	if err != nil {
		if errors.Is(err, launcher.ErrDied) {
			return launcherError(err)
		}
		if ctx.Err() != nil { // whatever the host lacks besides, this is why the start ends
			return launcherError(context.Cause(ctx))
		}
		return r.withoutGroups(err)
	}
	r.limits = s.limits()
	r.limits.DeviceRules = append(slices.Clip(r.limits.DeviceRules), s.deviceRules(r.nodes)...)
	if err := r.dropLimits(h, &s.Job, &r.limits); err != nil {
		return errors.Join(err, h.leave())
	}
	r.groups = &groups{home: h, oom: -1}
	r.host.pidsByGroup = r.limits.Pids != nil
	r.cpuset.Store(r.limits.CPUSet != nil)
	return nil
}

// foreseeTop opens the group that tells what limits ownTop's can keep.
func foreseeTop(ctx context.Context) (*cgroup.Group, error) {
	if top, err := cgroup.ScopeParent(ctx); err == nil {
		return top, nil
	}
	return cgroup.Nearest()
}

// refuseLimits tells which limits this host cannot keep, and makes nothing.
func (r *running) refuseLimits() error {
	s := &r.c.spec
	var top *cgroup.Group
	var err error
	if s.CgroupParent == nil {
		top, err = foreseeTop(context.Background())
	} else {
		top, err = cgroup.Open(*s.CgroupParent)
	}
	if err != nil {
		err = r.withoutGroups(err)
		r.undrop("WithResources") // a default, which the finding on groups tells of
		return err
	}
	l := s.limits()
	l.DeviceRules = append(slices.Clip(l.DeviceRules), s.deviceRules(nodes(s))...)
	return errors.Join(r.dropLimits(&home{top: top}, &s.Job, &l), top.Close())
}

// dropLimits takes the limits away that this host cannot keep, and says so, where
// the request allows it.
func (r *running) dropLimits(h *home, j *Job, l *cgroup.Limits) error {
	var errs []error
	for _, e := range h.top.Missing(l) {
		option := limitOption[e.Field]
		if r.narrows(e.Field, j) {
			errs = append(errs, &LimitError{Option: "WithDevice", Reason: e.Reason, Remedy: e.Remedy})
			continue
		}
		switch {
		case j.optional(option) || j.optional("WithResources") || e.Field == "Pids" && j.Limits.Pids == nil:
			r.drop(option, e.Reason)
			l.Clear(e.Field)
		case e.Field == "OOMGroup": // a default; without a controller of memory there is nothing to it
			l.Clear(e.Field)
		default:
			errs = append(errs, &LimitError{Option: option, Reason: e.Reason, Remedy: e.Remedy})
		}
	}
	return errors.Join(errs...)
}

// narrows tells that a limit of the container keeps its jobs from doing all with a
// device: without it they could do more than was asked for, so it is never optional.
func (r *running) narrows(field string, j *Job) bool {
	return field == "DeviceRules" && j == &r.c.spec.Job && slices.ContainsFunc(r.c.spec.Devices, rootfs.Device.Narrowed)
}

// withoutGroups is a start where there can be no groups.
func (r *running) withoutGroups(why error) error {
	s := &r.c.spec
	remedy := "see container.Probe"
	var e *cgroup.Error
	if errors.As(why, &e) {
		remedy, why = e.Remedy, fmt.Errorf("%s %s: %w", e.Op, e.Path, e.Err)
	}
	if err := r.withoutGroupsFor(&s.Job, why, remedy); err != nil {
		return err
	}
	if slices.ContainsFunc(s.Devices, rootfs.Device.Narrowed) {
		return &LimitError{Option: "WithDevice", Reason: "there are no control groups here: " + why.Error(), Remedy: remedy}
	}
	if s.CgroupParent != nil && !s.Job.optional("WithCgroupParent") {
		return &LimitError{Option: "WithCgroupParent", Reason: why.Error(), Remedy: remedy}
	}
	r.noGroups, r.noGroupsRemedy = why, remedy
	r.drop("WithResources", "no control groups: figures are those of the first process, and limits cannot be kept: "+why.Error())
	return nil
}

func (r *running) withoutGroupsFor(j *Job, why error, remedy string) error {
	var errs []error
	for _, option := range j.groupLimits() {
		if j.optional(option) {
			r.drop(option, why.Error())
			continue
		}
		errs = append(errs, &LimitError{Option: option, Reason: "there are no control groups here: " + why.Error(), Remedy: remedy})
	}
	return errors.Join(errs...)
}

// groupLimits names the limits of a job that only a group can keep.
func (j *Job) groupLimits() []string {
	var out []string
	for _, f := range j.Limits.Fields() {
		if o := limitOption[f]; !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	if j.CPUTimeLimit != nil {
		out = append(out, "WithCPUTimeLimit")
	}
	if j.IdleLimit != nil {
		out = append(out, "WithIdleLimit")
	}
	return out
}

// makeGroups makes the container's groups, while the launcher makes init.
func (r *running) makeGroups(once bool) error {
	g := r.groups
	if g == nil {
		return nil
	}
	g.uid = r.cloner()
	var err error
	if g.all, err = r.create(g.home.base, r.c.spec.ID, r.limits, &r.c.spec.Job); err != nil {
		return err
	}
	if r.main != nil {
		g.main = g.all
		if !once {
			g.last = 1
			if g.main, err = g.all.Create("1", cgroup.Limits{OOMGroup: r.limits.OOMGroup}); err != nil {
				return groupError(err)
			}
		}
		if g.uid > -2 {
			if err := g.main.Let(g.uid); err != nil {
				return groupError(err)
			}
		}
		r.main.group = g.main
		g.live = map[*Process]struct{}{r.main: {}}
	}
	if r.limits.Memory != nil {
		r.maxMemory.Store(*r.limits.Memory)
	}
	if r.limits.Memory != nil && r.limits.OOMGroup {
		return r.watchOOM(g.all, &g.oom, r.outOfMemory)
	}
	return nil
}

// create makes a group; a limit that the kernel turns out not to have is left out
// where the request allows it.
func (r *running) create(in *cgroup.Group, name string, l cgroup.Limits, j *Job) (*cgroup.Group, error) {
	for {
		g, err := in.Create(name, l)
		var missing *cgroup.LimitError
		if !errors.As(err, &missing) || len(l.Fields()) == 0 {
			return g, groupError(err)
		}
		if r.narrows(missing.Field, j) {
			return nil, &LimitError{Option: "WithDevice", Reason: missing.Reason, Remedy: missing.Remedy}
		}
		if option := limitOption[missing.Field]; j.optional(option) || j.optional("WithResources") {
			r.drop(option, missing.Reason)
			l.Clear(missing.Field)
			continue
		}
		return nil, groupError(err)
	}
}

// groupError turns what package cgroup says into errors of this one.
func groupError(err error) error {
	if err == nil {
		return nil
	}
	var missing *cgroup.LimitError
	if errors.As(err, &missing) {
		return &LimitError{Option: limitOption[missing.Field], Reason: missing.Reason, Remedy: missing.Remedy}
	}
	var e *cgroup.Error
	if errors.As(err, &e) {
		return &StartError{Phase: PhasePrepare, Op: e.Op, Path: e.Path, Err: e.Err, Remedy: e.Remedy}
	}
	return &StartError{Phase: PhasePrepare, Op: "cgroup", Err: err}
}

// cloner is the host's id of the init that clones jobs into groups: -2 where it
// is the groups' owner anyway, -1 where the host cannot give them away.
func (r *running) cloner() int {
	h := r.host
	if len(h.uids) == 0 || h.initUID == 0 && r.launcher.User {
		return -2
	}
	if r.launcher.User {
		return -1
	}
	uid, _ := namespace.ToHost(h.uids, h.initUID)
	return int(uid)
}

// enter opens the group that a job is born in; nil: there is none.
func (r *running) enter(p *Process) (*cgroup.Entry, error) {
	switch {
	case p.group == nil:
		return nil, nil
	case p.shared:
		return r.groups.shared.entry, nil
	case p.made != nil:
		e := p.made.entry
		if e == nil {
			return nil, &StartError{Phase: PhasePrepare, Op: "open", Path: p.group.Path(), Err: unix.EBADF}
		}
		p.made.entry = nil // prepare's to close
		return e, nil
	}
	e, err := p.group.Enter()
	return e, groupError(err)
}

// jobGroup makes the group of a job that Exec starts: its own where it has limits
// of its own, else one for all that have none.
func (r *running) jobGroup(p *Process) error {
	g := r.groups
	j := p.spec
	own := len(j.groupLimits()) > 0
	if g == nil {
		if own {
			return r.withoutGroupsFor(j, r.noGroups, r.noGroupsRemedy)
		}
		return nil
	}
	l := j.Limits
	l.OOMGroup = j.OOMGroup == nil || *j.OOMGroup
	if err := r.dropLimits(g.home, j, &l); err != nil {
		return err
	}
	g.mu.Lock()
	if g.live == nil {
		g.live = map[*Process]struct{}{}
	}
	g.live[p] = struct{}{}
	g.mu.Unlock()
	if own {
		m, err := r.ownGroup(l, j)
		if err != nil {
			return err
		}
		p.made, p.group = m, m.group
		m.owner.Store(p)
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shared != nil {
		p.group, p.shared, p.oomBefore = g.shared.group, true, g.seen.Load()
		return nil
	}
	made, err := r.makeJobGroup("shared", cgroup.Limits{}, r.creator(j))
	if err != nil {
		return err
	}
	g.shared = made
	p.group, p.shared = made.group, true
	return nil
}

// watchOOM has a function called when the group runs out of memory on v1; v2
// ends the group itself.
func (r *running) watchOOM(g *cgroup.Group, fd *int, call func()) error {
	event, err := g.OOM()
	if err != nil {
		return groupError(err)
	}
	if event < 0 {
		return nil
	}
	*fd = event
	err = r.launcher.Watch(event, func() {
		var count [8]byte
		if n, err := unix.Read(event, count[:]); err != nil || n != 8 {
			return
		}
		// Not here: the poller's goroutine serves every container.
		go call()
	})
	if err != nil {
		return &StartError{Phase: PhasePrepare, Op: "watch", Path: "memory.oom_control", Err: err}
	}
	return nil
}

// unwatchOOM ends what watchOOM began.
func (r *running) unwatchOOM(fd *int) {
	if *fd >= 0 {
		r.launcher.Unwatch(*fd)
		_ = unix.Close(*fd) // an eventfd
		*fd = -1
	}
}

// outOfMemory ends the container on v1, as memory.oom.group does on v2.
func (r *running) outOfMemory() {
	if r.main != nil {
		r.main.killing(MemoryLimit)
		return
	}
	// Without a main job there is nobody whose end is everybody's.
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = r.groups.all.Kill(ctx) // Close tries again
}

// removeGroups removes all of the container's groups; all of its processes have
// ended.
func (r *running) removeGroups() error {
	g := r.groups
	if g == nil {
		return nil
	}
	r.closeGroups()
	if g.all != nil {
		if err := g.all.Delete(context.Background()); err != nil {
			if pids, e := g.all.Processes(); e == nil && len(pids) > 0 {
				// Somebody put them there: init's end was that of all the container's own.
				return &LeftError{ID: r.c.spec.ID, Processes: leftAmong(pids), Groups: g.all.Paths()}
			}
			return errors.Join(err, g.home.leave())
		}
	}
	return g.home.leave()
}

// closeGroups gives back what jobs needed of the groups; nobody starts any more.
func (r *running) closeGroups() {
	g := r.groups
	if g == nil {
		return
	}
	g.mu.Lock()
	closed := g.closed
	g.closed = true
	g.mu.Unlock()
	if closed {
		return
	}
	g.leaving.Wait()
	r.unwatchOOM(&g.oom)
	_ = r.dropAhead() // its folder goes with the container's
	g.mu.Lock()
	if g.shared != nil {
		r.closeJobGroup(g.shared)
	}
	live := slices.Collect(maps.Keys(g.live))
	g.mu.Unlock()
	for _, p := range live {
		p.keepEnding()
	}
}

// pruneGroup removes what a line of an owner file names.
func pruneGroup(ctx context.Context) func(line string) (string, error) {
	return func(line string) (string, error) {
		folder, ok := strings.CutPrefix(line, groupLine)
		if !ok {
			return "", nil
		}
		if _, err := os.Lstat(folder); errors.Is(err, os.ErrNotExist) {
			return "", nil
		}
		wait, cancel := context.WithTimeoutCause(ctx, laterTimeout, unix.EBUSY)
		defer cancel()
		err := cgroup.RemoveLeftover(wait, folder, groupPrefix)
		if err != nil {
			if list := leftAmong(groupProcesses(folder)); len(list) > 0 {
				err = fmt.Errorf("%w: %s", err, leftText(list))
			}
		}
		return folder, err
	}
}
