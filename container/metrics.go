package container

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/inlay-dev/inlay/internal/launcher"
)

// Counters is what the containers of this program came to since it began: those of
// [Run] and [Cmd] included. All but Running only grow.
type Counters struct {
	// Started are the containers whose Start succeeded; Running are those of them
	// whose main job has not ended or, without one, that are not closed or killed.
	Started uint64 `json:"started"`
	Running int64  `json:"running"`
	// StartFailures are the containers whose Start failed, by the phase of the
	// StartError; what was refused before the launcher was asked, as by a LimitError,
	// is in PhasePrepare. Each Phase has an entry.
	StartFailures map[Phase]uint64 `json:"start_failures"`
	// Ends are the containers that have ended, by the Status of the main job, or of
	// the container where it has none. Each Status has an entry.
	Ends map[Status]uint64 `json:"ends"`

	// Execs are the jobs of Exec that have begun, ExecFailures those that could not,
	// wrong requests apart, and ExecEnds those that have ended, by Status.
	Execs        uint64            `json:"execs"`
	ExecFailures uint64            `json:"exec_failures"`
	ExecEnds     map[Status]uint64 `json:"exec_ends"`

	// OutOfMemory counts EventOOM: want of memory under a limit of a container's own.
	OutOfMemory uint64 `json:"out_of_memory"`

	// CPUTime and WallTime are of all jobs that have ended, as in their Results.
	CPUTime  time.Duration `json:"cpu_time_ns"`
	WallTime time.Duration `json:"wall_time_ns"`

	// SetupTime is what Start took, of those that succeeded.
	SetupTime Histogram `json:"setup_time"`

	// CleanupFailures are the times that a container could not be removed whole.
	CleanupFailures uint64 `json:"cleanup_failures"`

	// Launchers are the launcher processes that were started: one, unless some ended
	// before this program, which are LauncherDeaths.
	Launchers      uint64 `json:"launchers"`
	LauncherDeaths uint64 `json:"launcher_deaths"`
}

// Histogram tells how long something took.
type Histogram struct {
	Count uint64        `json:"count"`
	Sum   time.Duration `json:"sum_ns"`
	// Buckets are in rising order; the counts are of all that took no longer. What took
	// longer than the last is in Count alone.
	Buckets []Bucket `json:"buckets"`
}

// Bucket counts what took at most UpTo.
type Bucket struct {
	UpTo  time.Duration `json:"up_to_ns"`
	Count uint64        `json:"count"`
}

// setupBounds are the buckets of SetupTime.
var setupBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second,
}

// phases are all that a start can fail in.
var phases = [...]Phase{PhasePrepare, PhaseStepIn, PhaseParent, PhaseChild, PhaseExec, PhaseTeardown}

// counters are the program's. Each is counted by itself.
var counters struct {
	started, execs, execFailures, outOfMemory, cleanupFailures atomic.Uint64

	running           atomic.Int64
	cpuTime, wallTime atomic.Int64
	startFailures     [len(phases)]atomic.Uint64
	ends, execEnds    [len(statusNames)]atomic.Uint64
	setupSum          atomic.Int64
	setup             [len(setupBounds) + 1]atomic.Uint64 // each alone; the last is of what took longer
}

// Metrics returns the counters of this program, for its own metrics: the modules otel
// and prometheus below this one export them. It may be called at any time from any
// goroutine, and costs some atomic loads and four small maps, which are the caller's.
// Counters that belong together are read one after another: while containers start
// and end, a sum may be off by those.
func Metrics() Counters {
	c := &counters
	m := Counters{
		Started: c.started.Load(), Running: c.running.Load(), Execs: c.execs.Load(), ExecFailures: c.execFailures.Load(),
		OutOfMemory: c.outOfMemory.Load(), CleanupFailures: c.cleanupFailures.Load(),
		CPUTime: time.Duration(c.cpuTime.Load()), WallTime: time.Duration(c.wallTime.Load()),
		StartFailures: map[Phase]uint64{}, Ends: map[Status]uint64{}, ExecEnds: map[Status]uint64{},
		SetupTime: Histogram{Sum: time.Duration(c.setupSum.Load())},
	}
	for i, p := range phases {
		m.StartFailures[p] = c.startFailures[i].Load()
	}
	for i := range statusNames {
		m.Ends[Status(i)], m.ExecEnds[Status(i)] = c.ends[i].Load(), c.execEnds[i].Load()
	}
	for i := range c.setup {
		m.SetupTime.Count += c.setup[i].Load()
		if i < len(setupBounds) {
			m.SetupTime.Buckets = append(m.SetupTime.Buckets, Bucket{setupBounds[i], m.SetupTime.Count})
		}
	}
	m.Launchers, m.LauncherDeaths = launcher.Counts()
	return m
}

// countEvent counts what happened to a container.
func countEvent(e Event) {
	switch e.Kind {
	case EventStarted:
		counters.started.Add(1)
		counters.running.Add(1)
		i := 0
		for i < len(setupBounds) && e.SetupTime > setupBounds[i] {
			i++
		}
		counters.setup[i].Add(1)
		counters.setupSum.Add(int64(e.SetupTime))
	case EventExec:
		counters.execs.Add(1)
	case EventOOM:
		counters.outOfMemory.Add(1)
	case EventPaused, EventResumed, EventUpdated, EventLimit, EventExited, EventClosed: // in the ends, or nobody's concern
	}
}

// countJob counts the end of a job.
func countJob(r *Result, isMain bool) {
	counters.cpuTime.Add(int64(r.CPUTime()))
	counters.wallTime.Add(int64(r.WallTime))
	if isMain {
		countEnd(r.Status)
	} else {
		counters.execEnds[r.Status].Add(1)
	}
}

// countEnd counts the end of a container.
func countEnd(s Status) {
	counters.running.Add(-1)
	counters.ends[s].Add(1)
}

// countFailure counts a start that failed.
func countFailure(err error) {
	at := PhasePrepare
	var e *StartError
	if errors.As(err, &e) {
		at = e.Phase
	}
	for i, p := range phases {
		if p == at {
			counters.startFailures[i].Add(1)
		}
	}
}
