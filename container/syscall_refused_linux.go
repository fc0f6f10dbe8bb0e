package container

import (
	"bytes"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/security"
)

// The kernel tells which call a filter killed a process for in one place that
// needs no tracer: its log, as an audit record of type 1326 (AUDIT_SECCOMP), where it
// has CONFIG_AUDIT, no auditd takes the records, and this program may read the log.

// untold counts refusals in a row that the log told nothing of.
var untold atomic.Int32

const (
	// logDelay bounds the wait for a record, which a thread of the kernel's writes; and
	// where none came logTries times in a row.
	logDelay, shortDelay = 50 * time.Millisecond, time.Millisecond
	logTries             = 3
	// initialPIDNamespace is the inode of the machine's own, PROC_PID_INIT_INO.
	initialPIDNamespace = 0xeffffffc
)

// refusedCall is the name of the call that the kernel ended a process for since the
// given time; "" where it does not tell.
func refusedCall(pid int, since time.Time) string {
	if pid <= 0 {
		return ""
	}
	delay := logDelay
	if untold.Load() >= logTries {
		delay = shortDelay // an auditd has them, or somebody sends itself the signal
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil || st.Ino != initialPIDNamespace {
		return "" // the log's numbers are others than ours
	}
	name, found := readLog(pid, since, time.Now().Add(delay))
	if found {
		untold.Store(0)
	} else {
		untold.Add(1)
	}
	return name
}

// readLog reads the kernel's log from its oldest record on, and then waits for what
// is added, until it finds the process or the deadline is over.
func readLog(pid int, since, deadline time.Time) (name string, found bool) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	// The record is the audit system's own: what a program chooses in it (comm, exe) stands
	// in hexadecimal digits wherever it could be taken for another field.
	buf := make([]byte, 8192)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR):
			continue // records were overwritten while we read: the next one is there
		case errors.Is(err, unix.EAGAIN):
			left := time.Until(deadline)
			if left <= 0 {
				return "", false
			}
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
				return "", false
			}
			continue
		case err != nil || n == 0:
			return "", false
		}
		if name, ok := auditedCall(buf[:n], pid, since); ok {
			return name, true
		}
	}
}

// auditedCall takes the call's name from a record, if it is about this process.
func auditedCall(record []byte, pid int, since time.Time) (string, bool) {
	_, text, ok := bytes.Cut(record, []byte("audit: type=1326 audit("))
	if !ok {
		return "", false
	}
	stamp, text, _ := bytes.Cut(text, []byte(":"))
	seconds, err := strconv.ParseFloat(string(stamp), 64)
	// The record's clock is the tick's, so it may be a little behind.
	if err != nil || !(seconds >= float64(since.Add(-20*time.Millisecond).UnixMilli())/1e3) { // nor NaN
		return "", false
	}
	fields := map[string]string{}
	for _, f := range bytes.Fields(text) {
		if k, v, ok := bytes.Cut(f, []byte("=")); ok {
			fields[string(k)] = string(v)
		}
	}
	if fields["pid"] != strconv.Itoa(pid) || fields["sig"] != strconv.Itoa(int(unix.SIGSYS)) {
		return "", false
	}
	arch, err := strconv.ParseUint(fields["arch"], 16, 32)
	number, err2 := strconv.ParseUint(fields["syscall"], 10, 32)
	if err != nil || err2 != nil {
		return "", false
	}
	return security.SyscallName(uint32(arch), uint32(number)), true
}

// nameRefused looks for the call that ended the job, beside the waiting for its
// output.
func (p *Process) nameRefused(job *launcher.Job, started time.Time) {
	name := refusedCall(job.HostPID(), started)
	p.mu.Lock()
	p.refused = name
	p.mu.Unlock()
	p.part()
}
