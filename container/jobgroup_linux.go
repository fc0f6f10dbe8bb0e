package container

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"sync/atomic"

	"github.com/inlay-dev/inlay/cgroup"
)

// jobGroup is a group that jobs of Exec are born in, with all that their launch needs of
// it: of one job's own, or the one that all without limits of their own share.
type jobGroup struct {
	group  *cgroup.Group
	limits cgroup.Limits
	entry  *cgroup.Entry // open until the job was born in it; of the shared one, as long as the container
	oom    int           // watched for want of memory, on v1; -1: it is not
	owner  atomic.Pointer[Process]
}

// createGroup makes a group below another: (*cgroup.Group).Create, or with what may be
// left out of its limits.
type createGroup func(in *cgroup.Group, name string, l cgroup.Limits) (*cgroup.Group, error)

// makeJobGroup makes one.
func (r *running) makeJobGroup(name string, l cgroup.Limits, create createGroup) (made *jobGroup, err error) {
	g := r.groups
	m := &jobGroup{limits: l, oom: -1}
	if m.group, err = create(g.all, name, l); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			made, err = nil, errors.Join(err, r.removeJobGroup(m))
		}
	}()
	if g.uid > -2 {
		if err := m.group.Let(g.uid); err != nil {
			return nil, groupError(err)
		}
	}
	if m.entry, err = m.group.Enter(); err != nil {
		return nil, groupError(err)
	}
	if l.Memory != nil && l.OOMGroup {
		return m, r.watchOOM(m.group, &m.oom, func() {
			if p := m.owner.Load(); p != nil {
				p.killing(MemoryLimit)
			}
		})
	}
	return m, nil
}

func (r *running) closeJobGroup(m *jobGroup) {
	r.unwatchOOM(&m.oom)
	if m.entry != nil {
		m.entry.Close()
		m.entry = nil
	}
}

func (r *running) removeJobGroup(m *jobGroup) error {
	r.closeJobGroup(m)
	return m.group.Delete(context.Background())
}

// ownGroup is a new group for a job with limits of its own: the one that was made
// ahead where it has these limits.
func (r *running) ownGroup(l cgroup.Limits, j *Job) (*jobGroup, error) {
	g := r.groups
	g.mu.Lock()
	ahead := g.ahead
	if ahead != nil && reflect.DeepEqual(ahead.limits, l) {
		g.ahead = nil
		g.mu.Unlock()
		return ahead, nil
	}
	g.last++
	number := g.last
	g.mu.Unlock()
	return r.makeJobGroup(strconv.Itoa(number), l, r.creator(j))
}

// creator is how a group is made for a job, with what its request allows to be left out.
func (r *running) creator(j *Job) createGroup {
	return func(in *cgroup.Group, name string, l cgroup.Limits) (*cgroup.Group, error) {
		return r.create(in, name, l, j)
	}
}

// makeAhead makes the group of the next job while this one runs, once two in a row
// had the same limits: as a rule the third has them as well. Nobody has been in it,
// so that no job can tell it from one that was made for it.
func (r *running) makeAhead(l cgroup.Limits) {
	g := r.groups
	g.mu.Lock()
	defer g.mu.Unlock()
	again := g.lastLimits != nil && reflect.DeepEqual(*g.lastLimits, l)
	g.lastLimits = &l
	stale := g.ahead
	if !again || g.making || g.closed || stale != nil && reflect.DeepEqual(stale.limits, l) {
		return
	}
	g.making, g.ahead = true, nil
	made := g.updates
	g.last++
	number := g.last
	g.later(func() {
		if stale != nil {
			_ = r.removeJobGroup(stale) // else its folder goes with the container's
		}
		// An error is the next job's, which then makes a group itself.
		m, _ := r.makeJobGroup(strconv.Itoa(number), l, (*cgroup.Group).Create)
		g.mu.Lock()
		if g.making = false; g.updates == made {
			g.ahead, m = m, nil
		}
		g.mu.Unlock()
		if m != nil { // what it was made from has changed meanwhile
			_ = r.removeJobGroup(m) // else its folder goes with the container's
		}
	})
}

// later has something done that nobody waits for but the container's end, one thing
// after another: each is mostly the kernel's work, and two would keep the processors
// from a job that ends meanwhile. With mu held, so that closeGroups, which nothing is
// begun after, waits for all that was.
func (g *groups) later(do func()) {
	g.chores = append(g.chores, do)
	if len(g.chores) > 1 {
		return
	}
	g.leaving.Add(1)
	go func() {
		defer g.leaving.Done()
		for {
			g.mu.Lock()
			do := g.chores[0]
			g.mu.Unlock()
			do()
			g.mu.Lock()
			g.chores = g.chores[1:]
			last := len(g.chores) == 0
			g.mu.Unlock()
			if last {
				return
			}
		}
	}()
}

// dropAhead removes the group made ahead: what it was made from has changed.
func (r *running) dropAhead() error {
	g := r.groups
	g.mu.Lock()
	m := g.ahead
	g.ahead, g.lastLimits = nil, nil
	g.updates++
	g.mu.Unlock()
	if m == nil {
		return nil
	}
	return r.removeJobGroup(m)
}
