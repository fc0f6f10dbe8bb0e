package container

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Status says why a job ended.
type Status int

// The reasons. Exited and Signaled are the job's own doing.
const (
	Exited         Status = iota // it ended by itself, with ExitCode
	Signaled                     // a signal ended it that inlay did not send
	MemoryLimit                  // out of memory under WithMemoryLimit
	TimeLimit                    // WithTimeLimit passed
	CPUTimeLimit                 // WithCPUTimeLimit was used up
	OutputLimit                  // WithOutputLimit was exceeded
	IdleLimit                    // WithIdleLimit passed
	SyscallRefused               // SIGSYS ended it: a seccomp filter's kill
	Canceled                     // the context of Run ended
	Killed                       // Kill, Stop or Close ended it
	Lost                         // init ended before it could report: see Result.Reason
)

var statusNames = [...]string{
	"exited", "signaled", "memory_limit", "time_limit", "cpu_time_limit", "output_limit", "idle_limit",
	"syscall_refused", "canceled", "killed", "lost",
}

// String returns the status's name, as it is in JSON.
func (s Status) String() string {
	if s < 0 || int(s) >= len(statusNames) {
		return fmt.Sprintf("Status(%d)", int(s))
	}
	return statusNames[s]
}

// MarshalText returns the name.
func (s Status) MarshalText() ([]byte, error) {
	if s < 0 || int(s) >= len(statusNames) {
		return nil, fmt.Errorf("inlay: status %d does not exist", int(s))
	}
	return []byte(s.String()), nil
}

// UnmarshalText reads a name.
func (s *Status) UnmarshalText(b []byte) error {
	for i, n := range statusNames {
		if n == string(b) {
			*s = Status(i)
			return nil
		}
	}
	return fmt.Errorf("inlay: status %q does not exist", b)
}

// Result is what a job did and why it ended. It is never changed after Wait
// returned it.
type Result struct {
	Container string            // the container's ID
	Labels    map[string]string // of WithLabel; not to be changed

	Status   Status         // why it ended
	ExitCode int            // 0 to 255; -1 where it did not exit by itself
	Signal   syscall.Signal // the signal that ended it, 1 to 64; 0 for none
	// CoreDumped tells that the kernel wrote, or piped, a core dump.
	CoreDumped bool
	// Reason says more in words where Status alone does not: for Lost, and where a
	// process was killed and did not end.
	Reason string
	// Syscall is, for SyscallRefused, the name of the call that the seccomp filter
	// ended the job for ("mkdir"; "i386:5" and "x32:39" for foreign entries), where the
	// kernel tells: in its log (an audit record of type 1326), if it has CONFIG_AUDIT,
	// if no auditd takes the records, if there were no more than some ten in five
	// seconds (the sysctl kernel.printk_ratelimit_burst), and if this program may read
	// /dev/kmsg. It is "" elsewhere, and for a job that sent itself SIGSYS.
	Syscall string
	// Causes are the limits and requests that met the job, in the order in which
	// they did; the first is in Status.
	Causes []Cause

	// WallTime is from the job's execve(2) to its end; SetupTime what Start took
	// before. UserTime and SystemTime are of all its processes, those that nobody
	// waited for included: the control group's. Without one, or for a job of Exec
	// that has no limits of its own, they are of the first process and of its
	// children that it waited for, by wait4(2).
	WallTime   time.Duration
	SetupTime  time.Duration
	UserTime   time.Duration
	SystemTime time.Duration

	// MemoryPeak is the most memory that the job had at once, in bytes, its page
	// cache included; MemorySource names the counter: "memory.peak" of v2 (Linux
	// 5.19), "memory.max_usage_in_bytes" of v1. The kernel charges ahead, up to 64
	// pages for each processor. Where there is neither it is the larger of the
	// "largest sample" and "ru_maxrss", getrusage(2): the resident size of one of
	// its processes, at least what init has, some hundred KiB.
	MemoryPeak   int64
	MemorySource string

	// AnonPeak is memory that is no file's: anonymous and shared (tmpfs, shmem)
	// together, in bytes, at most MemoryPeak; what was written to files and lies in
	// the page cache is not in it. No kernel counts its peak: AnonSource is
	// "largest sample", or "ru_maxrss" where one process's was larger, which then
	// includes the files that it had mapped. Empty: not known.
	AnonPeak   int64
	AnonSource string
	// PidsPeak is how many processes and threads there were at most; -1 where the
	// host cannot tell (before Linux 6.1).
	PidsPeak int64
	// ThrottledTime is how long WithCPULimit held processors back.
	ThrottledTime time.Duration

	ReadBytes, WriteBytes int64 // to block devices
	MinorFaults           int64
	MajorFaults           int64
	VoluntarySwitches     int64 // context switches: it waited
	InvoluntarySwitches   int64 // context switches: others had the processor

	StdoutBytes, StderrBytes int64 // copied to writers; 0 for an *os.File
	// Truncated tells that output was given up on: a process that outlived the
	// job held a pipe open.
	Truncated bool

	Started, Finished time.Time

	// Notes are things that a reader of the verdict may want to know, and that are
	// none themselves: that the limit of processes was met, for one.
	Notes []string

	// Dropped are the protections and limits that the job ran without: defaults
	// that this host does not have, and options wrapped in Optional.
	Dropped []Dropped

	cause error // of Canceled
}

// Cause is one limit or request that met a job.
type Cause struct {
	Status Status        `json:"status"`
	After  time.Duration `json:"after_ns"` // since the job's start
}

// Dropped is something that a container runs without.
type Dropped struct {
	Option string `json:"option"` // the option, or the one that would set the default
	Reason string `json:"reason"`
}

// CPUTime is user and system time together.
func (r *Result) CPUTime() time.Duration { return r.UserTime + r.SystemTime }

// Success tells whether the job exited by itself with code 0.
func (r *Result) Success() bool { return r.Status == Exited && r.ExitCode == 0 }

// Err returns nil for a job that exited with code 0, else an [*ExitError]. Where
// a context ended the job, it matches context.Cause of it.
func (r *Result) Err() error {
	if r.Success() {
		return nil
	}
	return &ExitError{Result: r}
}

// ShellCode is the exit code of the shell's convention: the job's own, or 128
// and the signal's number.
func (r *Result) ShellCode() int {
	if r.Signal != 0 {
		return 128 + int(r.Signal)
	}
	if r.ExitCode < 0 {
		return 125
	}
	return r.ExitCode
}

func (r *Result) verdict() string {
	switch r.Status {
	case Exited:
		return fmt.Sprintf("exit status %d", r.ExitCode)
	case Signaled:
		s := "signal: " + r.Signal.String()
		if r.CoreDumped {
			s += " (core dumped)"
		}
		return s
	default:
		s := strings.ReplaceAll(r.Status.String(), "_", " ")
		switch {
		case r.cause != nil:
			s += ": " + r.cause.Error()
		case r.Reason != "":
			s += ": " + r.Reason
		case r.Syscall != "":
			s += ": " + r.Syscall
		}
		return s
	}
}

// String is one line for a log: the verdict and the main figures.
func (r *Result) String() string {
	if r == nil {
		return "<no result>"
	}
	return fmt.Sprintf("%s, %v wall, %v cpu, %.1f MiB peak", r.verdict(),
		r.WallTime.Round(100*time.Microsecond), r.CPUTime().Round(100*time.Microsecond), float64(r.MemoryPeak)/float64(MiB))
}

// resultJSON has the stable names.
type resultJSON struct {
	Container string            `json:"container,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`

	Status              Status    `json:"status"`
	ExitCode            int       `json:"exit_code"`
	Signal              int       `json:"signal"`
	CoreDumped          bool      `json:"core_dumped"`
	Reason              string    `json:"reason,omitempty"`
	Syscall             string    `json:"syscall,omitempty"`
	Causes              []Cause   `json:"causes,omitempty"`
	Notes               []string  `json:"notes,omitempty"`
	WallTime            int64     `json:"wall_time_ns"`
	CPUTime             int64     `json:"cpu_time_ns"`
	UserTime            int64     `json:"user_time_ns"`
	SystemTime          int64     `json:"system_time_ns"`
	SetupTime           int64     `json:"setup_time_ns"`
	MemoryPeak          int64     `json:"memory_peak"`
	MemorySource        string    `json:"memory_source"`
	AnonPeak            int64     `json:"anon_peak"`
	AnonSource          string    `json:"anon_source,omitempty"`
	PidsPeak            int64     `json:"pids_peak"`
	ThrottledTime       int64     `json:"throttled_time_ns"`
	ReadBytes           int64     `json:"read_bytes"`
	WriteBytes          int64     `json:"write_bytes"`
	MinorFaults         int64     `json:"minor_faults"`
	MajorFaults         int64     `json:"major_faults"`
	VoluntarySwitches   int64     `json:"voluntary_switches"`
	InvoluntarySwitches int64     `json:"involuntary_switches"`
	StdoutBytes         int64     `json:"stdout_bytes"`
	StderrBytes         int64     `json:"stderr_bytes"`
	Truncated           bool      `json:"truncated"`
	Started             time.Time `json:"started"`
	Finished            time.Time `json:"finished"`
	Dropped             []Dropped `json:"dropped,omitempty"`
}

// MarshalJSON writes the result with names that stay: status, exit_code, signal,
// wall_time_ns, memory_peak and so on; times in nanoseconds, sizes in bytes.
func (r *Result) MarshalJSON() ([]byte, error) {
	return json.Marshal(resultJSON{
		r.Container, r.Labels, r.Status, r.ExitCode, int(r.Signal), r.CoreDumped, r.Reason, r.Syscall, r.Causes, r.Notes, int64(r.WallTime), int64(r.CPUTime()), int64(r.UserTime),
		int64(r.SystemTime), int64(r.SetupTime), r.MemoryPeak, r.MemorySource, r.AnonPeak, r.AnonSource, r.PidsPeak, int64(r.ThrottledTime), r.ReadBytes, r.WriteBytes, r.MinorFaults, r.MajorFaults,
		r.VoluntarySwitches, r.InvoluntarySwitches, r.StdoutBytes, r.StderrBytes, r.Truncated, r.Started, r.Finished, r.Dropped,
	})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Result) UnmarshalJSON(b []byte) error {
	var j resultJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*r = Result{
		Container: j.Container, Labels: j.Labels, Status: j.Status, ExitCode: j.ExitCode, Signal: syscall.Signal(j.Signal), CoreDumped: j.CoreDumped, Reason: j.Reason, Syscall: j.Syscall, Causes: j.Causes, Notes: j.Notes,
		WallTime: time.Duration(j.WallTime), SetupTime: time.Duration(j.SetupTime), UserTime: time.Duration(j.UserTime),
		SystemTime: time.Duration(j.SystemTime), MemoryPeak: j.MemoryPeak, MemorySource: j.MemorySource, AnonPeak: j.AnonPeak, AnonSource: j.AnonSource,
		PidsPeak: j.PidsPeak, ThrottledTime: time.Duration(j.ThrottledTime), ReadBytes: j.ReadBytes,
		WriteBytes: j.WriteBytes, MinorFaults: j.MinorFaults, MajorFaults: j.MajorFaults, VoluntarySwitches: j.VoluntarySwitches,
		InvoluntarySwitches: j.InvoluntarySwitches, StdoutBytes: j.StdoutBytes, StderrBytes: j.StderrBytes, Truncated: j.Truncated,
		Started: j.Started, Finished: j.Finished, Dropped: j.Dropped,
	}
	return nil
}
