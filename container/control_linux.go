package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

var errNoGroup = &LimitError{Option: "WithResources", Reason: "the container has no control group: see Container.Dropped", Remedy: "see container.Probe"}

// Stats reads the container's figures, those of jobs that have ended included:
// all that its jobs used, and nothing of init. After the end they are the last
// ones. The error matches errors.ErrUnsupported where the container has no control
// group.
func (c *Container) Stats(ctx context.Context) (*Stats, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	r := c.run
	last := c.last
	c.mu.Unlock()
	switch {
	case last != nil:
		return last, nil
	case r == nil:
		return nil, ErrNotStarted
	}
	select {
	case <-r.started:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if r.groups == nil || r.groups.all == nil {
		return nil, errNoGroup
	}
	s, err := r.groups.all.Stats()
	if err != nil {
		return nil, groupError(err)
	}
	n, err := r.networkStats()
	if err != nil {
		return nil, err
	}
	return &Stats{Stats: *s, Network: n}, nil
}

// Stats reads the job's figures. For a job of Exec that has no limits of its own
// they are those of all such jobs together. After its end they are the last ones.
func (p *Process) Stats(ctx context.Context) (*Stats, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	if last != nil {
		return &Stats{Stats: *last}, nil
	}
	if p.group == nil {
		return nil, errNoGroup
	}
	s, err := p.group.Stats()
	if err != nil {
		return nil, groupError(err)
	}
	return &Stats{Stats: *s}, nil
}

// keepStats remembers the container's last figures.
func (r *running) keepStats() {
	if r.groups == nil || r.groups.all == nil || r.once {
		return // Run shows no container
	}
	s, err := r.groups.all.Stats()
	if err != nil {
		return // it never began
	}
	n, err := r.networkStats()
	if err != nil {
		n = nil // the link is gone
	}
	r.c.mu.Lock()
	r.c.last = &Stats{Stats: *s, Network: n}
	r.c.mu.Unlock()
}

// Pause stops every process of the container where it is, and returns when all
// stand still; init alone goes on. Wall time limits go on as well, idle limits do
// not. A paused container can be killed, closed and asked for its figures. When
// the context ends first, nothing is paused.
func (c *Container) Pause(ctx context.Context) error {
	return c.pause(ctx, true)
}

// Resume lets them go on.
func (c *Container) Resume(ctx context.Context) error {
	return c.pause(ctx, false)
}

func (c *Container) pause(ctx context.Context, on bool) error {
	r, err := c.started()
	if err != nil {
		return err
	}
	if r.groups == nil {
		return errNoGroup
	}
	r.pausing.Lock()
	defer r.pausing.Unlock()
	if r.isPaused() == on {
		return nil
	}
	kind := EventResumed
	if on {
		kind = EventPaused
		err = r.groups.all.Freeze(ctx)
	} else {
		err = r.groups.all.Thaw(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return groupError(err)
	}
	r.paused.Store(on)
	c.events.add(Event{Kind: kind})
	return nil
}

func (r *running) isPaused() bool { return r.paused.Load() }

// thaw lets a paused container die: v1 does not deliver signals to what is frozen.
func (r *running) thaw() {
	if !r.isPaused() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.groups.all.Thaw(ctx) // whoever waits for the end finds out
}

// changeable are the options that Update takes.
var changeable = []string{
	"WithMemoryLimit", "WithSwapLimit", "WithCPULimit", "WithCPUWeight", "WithCPUSet", "WithPidsLimit", "WithIOLimit", "WithIOWeight", "WithResources",
	"WithBandwidth",
}

// Update changes limits of a running container: WithMemoryLimit, WithSwapLimit,
// WithCPULimit, WithCPUWeight, WithCPUSet, WithPidsLimit, WithIOLimit,
// WithIOWeight, and WithResources for several; WithBandwidth for a container that has
// a link of its own. What is not named stays. Another option is an [*OptionError].
//
// A memory limit below what is in use takes memory back; where that does not
// succeed (nothing to swap to, no page cache to drop), the error matches
// syscall.EBUSY, and the limit before stays. Where a limit cannot be kept here, the
// error is a [*LimitError] and nothing has changed.
func (c *Container) Update(ctx context.Context, opts ...Option) error {
	var s Spec
	var f faults
	for _, o := range present(opts) {
		for _, name := range o.names() {
			if !slices.Contains(changeable, name) {
				f.add(name, "", "cannot be changed while the container runs", fmt.Sprint("Update takes ", changeable))
			}
		}
		o.applyContainer(&s)
	}
	s.Job.validate(&f)
	if s.Bandwidth != nil {
		s.Bandwidth.validate(&f)
		if c.spec.Network == nil {
			f.add("WithBandwidth", s.Bandwidth, "the container has no link of its own", "start it with WithNetwork")
		}
	}
	if len(s.Job.Limits.DeviceRules) > 0 {
		f.add("WithResources", fmt.Sprintf("%q", s.Job.Limits.DeviceRules), "device rules cannot be changed while the container runs")
	}
	if err := errors.Join(f...); err != nil {
		return err
	}
	r, err := c.started()
	if err != nil {
		return err
	}
	if err := r.updateRate(ctx, s.Bandwidth); err != nil {
		return err
	}
	if s.Bandwidth != nil && !slices.ContainsFunc(present(opts), func(o Option) bool { return !slices.Equal(o.names(), []string{"WithBandwidth"}) }) {
		c.events.add(Event{Kind: EventUpdated})
		return nil
	}
	if r.groups == nil {
		return errNoGroup
	}
	l := s.Job.Limits
	if err := r.dropAhead(); err != nil { // it may have taken processors from above
		return groupError(err)
	}
	if l.CPUSet != nil {
		r.cpuset.Store(true)
	}
	if err := r.groups.all.Update(ctx, l); err != nil {
		return groupError(err)
	}
	if l.Memory != nil && r.maxMemory.Load() > 0 {
		r.maxMemory.Store(max(r.maxMemory.Load(), *l.Memory))
	}
	if l.Memory != nil && r.groups.oom < 0 && r.limits.OOMGroup {
		r.pausing.Lock()
		defer r.pausing.Unlock()
		if err := r.watchOOM(r.groups.all, &r.groups.oom, r.outOfMemory); err != nil {
			return err
		}
	}
	c.events.add(Event{Kind: EventUpdated})
	return nil
}
