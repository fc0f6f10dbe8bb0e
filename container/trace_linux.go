package container

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/plan"
)

// tracing is where the process that runs a request's plans writes them back to, with
// the times of their steps in them.
type tracing struct {
	file  int // a memfd; no job ever has it
	plans []*plan.Plan
	sizes []int
}

// trace makes one for plans that are about to be encoded; nil: no times are wanted.
func (r *running) trace(plans ...*plan.Plan) (*tracing, error) {
	if !r.c.spec.Trace {
		return nil, nil
	}
	file, err := unix.MemfdCreate("inlay-trace", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, &StartError{Phase: PhasePrepare, Op: "memfd_create", Err: err, Remedy: "leave WithTrace out"}
	}
	for _, p := range plans {
		p.Timed = true
	}
	return &tracing{file: file, plans: plans}, nil
}

// descriptor is 0 for none: it is never the host program's stdin.
func (t *tracing) descriptor() int {
	if t == nil {
		return 0
	}
	return t.file
}

// encoded notes how large the plans are that were sent.
func (t *tracing) encoded(sizes []int) {
	if t != nil {
		t.sizes = slices.Clone(sizes)
	}
}

// read takes the steps of the plans by their phases, and closes the file.
func (t *tracing) read() (map[plan.Phase][]StepTime, error) {
	defer unix.Close(t.file) //nolint:errcheck // a memfd has nothing to flush
	out := map[plan.Phase][]StepTime{}
	at := int64(0)
	for i, p := range t.plans {
		size := 0
		if i < len(t.sizes) {
			size = t.sizes[i]
		}
		buf := make([]byte, size)
		for have := 0; have < size; {
			n, err := unix.Pread(t.file, buf[have:], at+int64(have))
			if err == nil && n == 0 {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return nil, fmt.Errorf("a trace of %d bytes: %w", size, err)
			}
			have += n
		}
		at += int64(size)
		steps, err := stepTimes(p, buf)
		if err != nil {
			return nil, err
		}
		out[p.Phase] = append(out[p.Phase], steps...) // of a child plan the two halves
	}
	return out, nil
}

// stepTimes are the steps of a plan that were run.
func stepTimes(p *plan.Plan, encoded []byte) ([]StepTime, error) {
	if len(encoded) == 0 { // it has no step, and was not sent
		return nil, nil
	}
	times, err := p.Times(encoded)
	if err != nil {
		return nil, err
	}
	last := len(p.Steps)
	for last > 0 && times[last] == 0 {
		last--
	}
	steps := make([]StepTime, last)
	end := times[last]
	for i := last - 1; i >= 0; i-- {
		steps[i] = StepTime{Phase: Phase(p.Phase), Step: i + 1, Call: p.Steps[i].Label}
		if times[i] != 0 {
			steps[i].Time = time.Duration(end - times[i])
			end = times[i]
		}
	}
	return steps, nil
}

// builder makes plans with labels where they are wanted later.
func (r *running) builder() newBuilder {
	if r.c.spec.Trace {
		return plan.NewBuilder
	}
	return plan.NewSilentBuilder
}

// keepTrace puts together what came back, when the start is over. Of one that failed
// there is what was begun.
func (r *running) keepTrace(ctx context.Context, failed bool) {
	if r.spawned == nil {
		return
	}
	if r.init != nil {
		// The launcher may be slower than the job. An error is told by who needs it.
		_ = r.init.Spawned(ctx)
	}
	missing := false
	take := func(t *tracing) map[plan.Phase][]StepTime {
		if t == nil {
			return nil
		}
		parts, err := t.read()
		missing = missing || err != nil
		return parts
	}
	launcher, init := take(r.spawned), take(r.setUp)
	r.spawned, r.setUp = nil, nil
	var clone []StepTime
	if r.init != nil && r.init.Settling() > 0 {
		s := StepTime{Phase: "launcher", Call: cloneText(r.spec), Time: r.init.Settling()}
		if r.plans.stepIn != nil {
			s.Phase, s.Call = PhaseStepIn, siblingText(r.spec)
		}
		for _, other := range slices.Concat(launcher[plan.StepIn], launcher[plan.Parent]) {
			s.Time -= other.Time
		}
		clone = []StepTime{s}
	}
	// As Explain has it.
	all := slices.Concat(clone, launcher[plan.Prepare], launcher[plan.Parent], init[plan.Child])
	if r.plans.stepIn != nil {
		all = slices.Concat(launcher[plan.Prepare], launcher[plan.StepIn], clone, launcher[plan.Parent], init[plan.Child])
	}
	if r.main != nil {
		job := r.main.Trace()
		missing = missing || job == nil
		all = append(all, job...)
	}
	if missing && !failed {
		return
	}
	r.c.mu.Lock()
	r.c.trace = all
	r.c.mu.Unlock()
}

// keepTrace takes what came back of a job's plan.
func (p *Process) keepTrace(t *tracing) {
	if t == nil {
		return
	}
	if parts, err := t.read(); err == nil { // else it is not there
		p.mu.Lock()
		p.trace = parts[plan.Exec]
		p.mu.Unlock()
	}
}

// Trace returns the steps that the job's process took up to its program, and how long
// each took, in a container with [WithTrace]; nil without. See [Container.Trace].
func (p *Process) Trace() []StepTime {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.trace)
}
