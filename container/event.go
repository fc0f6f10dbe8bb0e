package container

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"
)

// EventKind says what happened.
type EventKind string

// What happens in a container's life.
const (
	EventStarted EventKind = "started" // the main job's program began, or init is ready for Exec
	EventExec    EventKind = "exec"    // a job of Exec began
	EventPaused  EventKind = "paused"
	EventResumed EventKind = "resumed"
	EventUpdated EventKind = "updated" // limits were changed
	EventOOM     EventKind = "oom"     // a process was killed for want of memory
	EventLimit   EventKind = "limit"   // another limit was met: Status says which
	EventExited  EventKind = "exited"  // a job ended: Result
	EventClosed  EventKind = "closed"  // the last one
)

// Event is one thing that happened.
type Event struct {
	Kind EventKind `json:"kind"`
	Time time.Time `json:"time"`
	// Container is the ID of the container, and Labels are its own, for who reads the
	// events of many. The map is the same in all of them.
	Container string            `json:"container"`
	Labels    map[string]string `json:"labels,omitempty"`
	// PID is the job's inside the container; 0 where it is about no job.
	PID int `json:"pid,omitempty"`
	// Status is the limit of EventLimit.
	Status Status `json:"status"`
	// SetupTime is, of EventStarted, what Start took until then.
	SetupTime time.Duration `json:"setup_time_ns,omitempty"`
	// Result is the end of EventExited.
	Result *Result `json:"result,omitempty"`
}

// maxEvents is how many a container remembers: then the oldest are forgotten.
const maxEvents = 4096

// eventLog is what happened, for any number of readers who come when they like.
type eventLog struct {
	container string
	labels    map[string]string
	journal   *journal

	mu      sync.Mutex
	list    []Event
	dropped int           // how many are forgotten
	more    chan struct{} // closed with the next; nil: nobody waits
	over    bool
}

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Container, e.Labels = l.container, l.labels
	l.journal.event(e)
	countEvent(e)
	if len(l.list) >= maxEvents {
		l.list = slices.Delete(l.list, 0, maxEvents/4)
		l.dropped += maxEvents / 4
	}
	l.list = append(l.list, e)
	l.over = e.Kind == EventClosed
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

// from returns the events from number n on, the number after them, and what is
// closed when there are more; nil where there will be none.
func (l *eventLog) from(n int) ([]Event, int, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = max(n, l.dropped)
	list := slices.Clone(l.list[n-l.dropped:])
	n += len(list)
	if l.over {
		return list, n, nil
	}
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return list, n, l.more
}

// Events yields what happens in the container, from its beginning on, whenever it
// is called; the last is EventClosed. It ends with that, or with the context. A
// reader that is slow holds nobody up, and loses nothing but, after 4,096 events,
// the oldest. For any number of readers at once.
func (c *Container) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		n := 0
		for {
			var list []Event
			var more chan struct{}
			list, n, more = c.events.from(n)
			for _, e := range list {
				if !yield(e) {
					return
				}
			}
			if more == nil {
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}
}
