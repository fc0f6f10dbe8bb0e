package container

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
)

// ending is what a job's groups say at its end.
type ending struct {
	stats *cgroup.Stats // nil: the group is not the job's alone
	hits  int64         // of the limit of processes
	kills int64         // for want of memory
	own   bool          // for want of what a limit of this container's allows
}

// ending reads it. The groups are there until the container is released.
func (p *Process) ending() *ending {
	e := &ending{}
	if p.shared {
		e.kills, e.own = p.oomKills()
		return e
	}
	s := p.group.Final()
	e.stats, e.hits = s, s.Pids.LimitHits
	if e.hits <= 0 && p.isMain && p.group != p.r.groups.all {
		e.hits = p.r.groups.all.Final().Pids.LimitHits // counted where the limit is, since Linux 6.11
	}
	e.kills, e.own = max(0, s.Memory.OOMKills), s.OwnOOM()
	if e.kills > 0 && !e.own {
		e.kills, e.own = p.oomKills()
	}
	return e
}

// keepEnding reads it before the groups go, for a job whose output is still being
// copied.
func (p *Process) keepEnding() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.res == nil && p.end == nil && p.group != nil {
		p.end = p.ending()
	}
}

// account puts the group's figures in place of the first process's, where the job
// has a group of its own, and tells want of memory. With mu held, after the end.
func (p *Process) account(res *Result) {
	if p.group == nil {
		return
	}
	e := p.end
	if e == nil {
		e = p.ending()
	}
	if e.stats != nil {
		p.last = e.stats
		p.figures(res, e)
	}
	if e.stats != nil || res.Signal == unix.SIGKILL {
		p.memoryVerdict(res, e.kills, e.own)
	}
}

// figures takes those that the host can give.
func (p *Process) figures(res *Result, e *ending) {
	s := e.stats
	if s.CPU.Total >= 0 {
		res.UserTime, res.SystemTime = s.CPU.User, s.CPU.System
	}
	res.AnonPeak, res.AnonSource = max(p.anon, 0), "largest sample"
	if rss := res.MemoryPeak; rss > res.AnonPeak {
		// One process's, files that it had mapped included: the better bound.
		res.AnonPeak, res.AnonSource = rss, "ru_maxrss"
	}
	switch {
	case s.Memory.Peak >= 0:
		res.MemoryPeak, res.MemorySource = s.Memory.Peak, s.Memory.Source
	case max(p.peak, s.Memory.Now) > res.MemoryPeak:
		res.MemoryPeak, res.MemorySource = max(p.peak, s.Memory.Now), "largest sample"
	}
	// A group below the one that has the limit is charged first, and what then is
	// refused was never had.
	if limit := p.r.maxMemory.Load(); limit > 0 {
		res.MemoryPeak = min(res.MemoryPeak, limit)
	}
	if limit := p.spec.Limits.Memory; limit != nil && !p.isMain {
		res.MemoryPeak = min(res.MemoryPeak, *limit)
	}
	res.AnonPeak = min(res.AnonPeak, res.MemoryPeak)
	if s.Memory.Faults >= 0 {
		res.MinorFaults, res.MajorFaults = s.Memory.Faults-s.Memory.MajorFaults, s.Memory.MajorFaults
	}
	if s.IO != nil {
		res.ReadBytes, res.WriteBytes = 0, 0
		for _, d := range s.IO {
			res.ReadBytes += d.ReadBytes
			res.WriteBytes += d.WriteBytes
		}
	}
	res.PidsPeak = s.Pids.Peak
	if s.CPU.ThrottledTime > 0 {
		res.ThrottledTime = s.CPU.ThrottledTime
	}
	if e.hits > 0 {
		res.Notes = append(res.Notes, fmt.Sprintf("the limit of processes was met: %d", e.hits))
	}
}

// oomKills is how many of the job's processes were killed for want of memory, and
// whether a limit of this container's was the reason.
func (p *Process) oomKills() (kills int64, own bool) {
	if p.group == nil {
		return 0, false
	}
	kills, own = p.group.OOMKills()
	if kills > 0 && !own && p.r.groups.all != p.group {
		_, own = p.r.groups.all.OOMKills()
	}
	if p.shared {
		p.r.groups.seen.Store(kills)
	}
	return kills, own
}

// memoryVerdict decides whether the job ran out of memory. The counters are the
// kernel's: a job that kills itself by SIGKILL, or exits with 137, moves none.
func (p *Process) memoryVerdict(res *Result, kills int64, own bool) {
	if kills <= p.oomBefore {
		return
	}
	whole := p.spec.OOMGroup == nil || *p.spec.OOMGroup
	killed := res.Signal == unix.SIGKILL
	switch {
	case len(p.causes) > 0 && p.causes[0] != MemoryLimit:
		// Something else came first: when it did, this had not happened.
		res.Notes = append(res.Notes, "out of memory after that")
	case !own:
		res.Notes = append(res.Notes, "the machine, or a group above the container's, ran out of memory")
	case whole || killed:
		res.Status = MemoryLimit
		if len(p.causes) == 0 {
			p.r.c.events.add(Event{Kind: EventOOM, PID: p.pid()})
			res.Causes = append(res.Causes, Cause{MemoryLimit, res.Finished.Sub(res.Started)})
		}
	default:
		res.Notes = append(res.Notes, fmt.Sprintf("%d processes were killed for want of memory; the job itself lived on", kills))
	}
}
