package container

import (
	"math"
	"runtime"
	"time"
)

// watch is what a job is looked at for while it runs: processor time, idleness,
// and memory, of which no kernel counts all peaks. Wall time has a timer of its
// own, and output is counted as it comes.
type watch struct {
	timer  *time.Timer
	cpu    time.Duration // at the last look
	output int64
	active time.Time     // when something was used or written last
	sample time.Duration // until the next look for memory alone
}

const (
	// firstSample is when memory is looked at first: twice as late each time, and
	// ever more seldom while nothing runs.
	firstSample = 10 * time.Millisecond
	busySample  = time.Second
	idleSample  = 30 * time.Second
	// soonest bounds how often a budget of processor time is looked at.
	soonest = 500 * time.Microsecond
	// idleShare: who uses less than a thousandth of a processor is idle.
	idleShare = 1000
)

// watching begins it, when the job's program has begun.
func (p *Process) watching() {
	if p.group == nil || p.shared {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.res != nil {
		return
	}
	p.watch.active, p.watch.sample = time.Now(), firstSample
	p.watch.timer = time.AfterFunc(p.nextLook(0, 0), p.look)
}

// look is one look; on a goroutine of its timer.
func (p *Process) look() {
	cpu := p.group.CPUTime()
	now, anon := p.group.MemoryNow()
	p.mu.Lock()
	if p.res != nil || p.watch.timer == nil {
		p.mu.Unlock()
		return
	}
	p.peak, p.anon = max(p.peak, now), max(p.anon, anon)
	w := &p.watch
	output := p.written.Load()
	at := time.Now()
	since := at.Sub(w.active)
	used := cpu - w.cpu
	if used > since/idleShare || output != w.output || p.r.isPaused() {
		w.cpu, w.output, w.active, since = cpu, output, at, 0
		w.sample = min(2*w.sample, busySample)
	} else {
		w.sample = min(2*w.sample, idleSample)
	}
	over := Status(-1)
	if d := p.spec.CPUTimeLimit; d != nil && cpu >= *d {
		over = CPUTimeLimit
	} else if d := p.spec.IdleLimit; d != nil && since >= *d {
		over = IdleLimit
	}
	if over < 0 {
		w.timer.Reset(p.nextLook(cpu, since))
	}
	p.mu.Unlock()
	if over >= 0 {
		p.killing(over)
	}
}

// nextLook is how long nothing can happen that has to be seen. With mu held.
func (p *Process) nextLook(cpu, idle time.Duration) time.Duration {
	next := p.watch.sample
	if d := p.spec.CPUTimeLimit; d != nil {
		// All processors may work on it at once.
		parallel := float64(runtime.NumCPU())
		if n := p.spec.Limits.CPUs; n != nil {
			parallel = min(parallel, math.Ceil(*n))
		}
		next = min(next, max(soonest, time.Duration(float64(*d-cpu)/parallel)))
	}
	if d := p.spec.IdleLimit; d != nil {
		next = min(next, max(soonest, *d/8, min(*d-idle, *d/4)))
	}
	return next
}

// unwatch ends it. With mu held.
func (p *Process) unwatch() {
	if p.watch.timer != nil {
		p.watch.timer.Stop()
		p.watch.timer = nil
	}
}
