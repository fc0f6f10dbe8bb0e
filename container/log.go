package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// WithLogger has the container tell a logger what happens to it. Without it, and
// with nil, nothing is logged.
//
//	Debug  container starting    program: the command's name, without its arguments; root
//	Debug  container paused, container resumed, limits changed, container closed
//	Info   container started     pid: the main job's, inside; setup_time
//	Info   job started           pid: of a job of Exec
//	Info   job ended             pid, result: see Result.LogValue; Error where the status is Lost
//	Warn   limit met             pid, status: of Status, like memory_limit
//	Warn   running without       option, reason: each of Dropped
//	Error  container not started err, phase
//	Error  job not started       err: of Exec
//	Error  cleanup failed        err: what Close, or a failed Start, has left
//
// Each record has the attribute container, the ID, and where there are labels the
// group labels. Nothing of a job's environment, arguments, input or output is in
// any.
//
// The logger is called by a goroutine that there is only while there is something
// to write: a handler that blocks holds up neither a job nor a caller, and one that
// panics is as one that returns an error. What more
// than 1,024 records wait behind is left out, and a record says how many. Close,
// and a Start that fails, wait until all is written, one second at most.
func WithLogger(l *slog.Logger) Option {
	shown := "nil"
	if l != nil {
		shown = fmt.Sprintf("%T", l.Handler())
	}
	return newOption("WithLogger", shown, func(s *Spec) { s.Logger = l })
}

const (
	maxRecords = 1024
	// logPatience is how long Close waits for a handler.
	logPatience = time.Second
)

// journal hands a container's records to a handler, in their order.
type journal struct {
	handler slog.Handler // nil: nobody listens

	mu    sync.Mutex
	queue []slog.Record
	lost  int
	done  chan struct{} // closed when all is written; nil: it is
}

// newJournal is the container's: its ID and labels are in every record.
func newJournal(s *Spec) *journal {
	if s.Logger == nil {
		return &journal{}
	}
	l := s.Logger.With(slog.String("container", s.ID))
	if len(s.Labels) > 0 {
		var labels []slog.Attr
		for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
			labels = append(labels, slog.String(k, s.Labels[k]))
		}
		l = slog.New(l.Handler().WithAttrs([]slog.Attr{slog.GroupAttrs("labels", labels...)}))
	}
	return &journal{handler: l.Handler()}
}

func (j *journal) add(level slog.Level, message string, attrs ...slog.Attr) {
	if j.handler == nil {
		return
	}
	r := slog.NewRecord(time.Now(), level, message, 0)
	r.AddAttrs(attrs...)
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.queue) >= maxRecords {
		j.lost++
		return
	}
	j.queue = append(j.queue, r)
	if j.done == nil {
		j.done = make(chan struct{})
		go j.write()
	}
}

// write hands over what there is, and ends.
func (j *journal) write() {
	handle := func(r slog.Record) {
		// A handler's panic would be the end of the program here, and of all containers,
		// where nobody who called could have caught it.
		defer func() { _ = recover() }()
		ctx := context.Background()
		if j.handler.Enabled(ctx, r.Level) {
			_ = j.handler.Handle(ctx, r) // as log/slog itself: there is nobody to tell
		}
	}
	for {
		j.mu.Lock()
		list, lost := j.queue, j.lost
		j.queue, j.lost = nil, 0
		if len(list) == 0 {
			close(j.done)
			j.done = nil
			j.mu.Unlock()
			return
		}
		j.mu.Unlock()
		for _, r := range list {
			handle(r)
		}
		if lost > 0 {
			r := slog.NewRecord(time.Now(), slog.LevelWarn, "records left out", 0)
			r.AddAttrs(slog.Int("records", lost))
			handle(r)
		}
	}
}

// flush waits until all is written, or has been waited for long enough.
func (j *journal) flush() {
	j.mu.Lock()
	done := j.done
	j.mu.Unlock()
	if done == nil {
		return
	}
	t := time.NewTimer(logPatience)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// event writes what happened to the journal.
func (j *journal) event(e Event) {
	if j.handler == nil {
		return
	}
	pid := slog.Int("pid", e.PID)
	switch e.Kind {
	case EventStarted:
		j.add(slog.LevelInfo, "container started", pid, slog.Duration("setup_time", e.SetupTime))
	case EventExec:
		j.add(slog.LevelInfo, "job started", pid)
	case EventPaused:
		j.add(slog.LevelDebug, "container paused")
	case EventResumed:
		j.add(slog.LevelDebug, "container resumed")
	case EventUpdated:
		j.add(slog.LevelDebug, "limits changed")
	case EventOOM:
		j.add(slog.LevelWarn, "limit met", pid, slog.String("status", MemoryLimit.String()))
	case EventLimit:
		j.add(slog.LevelWarn, "limit met", pid, slog.String("status", e.Status.String()))
	case EventExited:
		level := slog.LevelInfo
		if e.Result != nil && e.Result.Status == Lost {
			level = slog.LevelError
		}
		j.add(level, "job ended", pid, slog.Any("result", e.Result))
	case EventClosed:
		j.add(slog.LevelDebug, "container closed")
	}
}

// starting writes that Start begins.
func (j *journal) starting(s *Spec) {
	if j.handler == nil {
		return
	}
	var attrs []slog.Attr
	if len(s.Job.Command) > 0 {
		attrs = append(attrs, slog.String("program", s.Job.program()))
	}
	j.add(slog.LevelDebug, "container starting", append(attrs, slog.String("root", s.root().Type))...)
}

// LogValue makes of a Result a group of its main figures: status, exit_code or
// signal, reason, wall_time, cpu_time, setup_time, memory_peak in bytes, and
// stdout_bytes, stderr_bytes and truncated where there was output.
func (r *Result) LogValue() slog.Value {
	if r == nil {
		return slog.StringValue("<no result>")
	}
	attrs := []slog.Attr{slog.String("status", r.Status.String())}
	if r.Signal != 0 {
		attrs = append(attrs, slog.String("signal", r.Signal.String()))
	} else {
		attrs = append(attrs, slog.Int("exit_code", r.ExitCode))
	}
	if r.Reason != "" {
		attrs = append(attrs, slog.String("reason", r.Reason))
	}
	attrs = append(attrs, slog.Duration("wall_time", r.WallTime), slog.Duration("cpu_time", r.CPUTime()),
		slog.Duration("setup_time", r.SetupTime), slog.Int64("memory_peak", r.MemoryPeak))
	if r.StdoutBytes+r.StderrBytes > 0 || r.Truncated {
		attrs = append(attrs, slog.Int64("stdout_bytes", r.StdoutBytes), slog.Int64("stderr_bytes", r.StderrBytes), slog.Bool("truncated", r.Truncated))
	}
	return slog.GroupValue(attrs...)
}

// notStarted writes why Start failed.
func (j *journal) notStarted(err error) {
	attrs := []slog.Attr{slog.Any("err", err)}
	var e *StartError
	if errors.As(err, &e) {
		attrs = append(attrs, slog.String("phase", string(e.Phase)))
	}
	j.add(slog.LevelError, "container not started", attrs...)
}
