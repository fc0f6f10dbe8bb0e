package namespace

import (
	"fmt"
	"math"
	"time"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Joinable tells why no container can join a namespace of a kind; nil where it can.
func Joinable(k Kind) error {
	switch k {
	case PID, UTS, IPC, Network, User, Time:
		return nil
	case Mount:
		return fmt.Errorf("a container's root is made in a mount namespace of its own: bind what it shall see of another's files")
	case Cgroup:
		return fmt.Errorf("a job sees paths from the group that it is in, where the kernel would not take it in another's view: WithHostNamespace shows the host's")
	default:
		return fmt.Errorf("no such kind: one of %v", All())
	}
}

// Join emits setns(2) into a namespace of the kind, for a process of the launcher's:
// it has power over what its own user namespace owns and what is below.
func Join(b *plan.Builder, k Kind, fd plan.Reg, what string) {
	b.Setns(fd, k.CloneFlag(), what)
	remedy := "it is owned by a user namespace that this program has no power over; for the host's own, WithHostNamespace"
	switch k {
	case PID:
		remedy += "; and a PID namespace must be below this program's own"
	case User:
		remedy = "it must be below this program's own user namespace, and not that itself; for the host's own, WithHostNamespace"
	case Mount, UTS, IPC, Network, Cgroup, Time:
	}
	b.Hint("", remedy)
}

// TimeOffsets shift the clocks of a time namespace against those of the machine's
// first one, time_namespaces(7); CLOCK_REALTIME has no offset. Zero is no shift.
type TimeOffsets struct {
	Monotonic time.Duration `json:"monotonic_ns"` // of CLOCK_MONOTONIC and its kin
	Boottime  time.Duration `json:"boottime_ns"`  // of CLOCK_BOOTTIME, which /proc/uptime shows
}

// maxOffset is the kernel's bound of a clock with its offset, half of what an int64 of
// nanoseconds holds (kernel/time/namespace.c).
const maxOffset = math.MaxInt64 / 2 * time.Nanosecond

// Validate tells what is wrong with offsets whatever the host's clocks say: one of
// more than about 146 years.
func (o TimeOffsets) Validate() error {
	for _, d := range []time.Duration{o.Monotonic, o.Boottime} {
		if d > maxOffset || d < -maxOffset {
			return fmt.Errorf("%v is more than the kernel's %v", d, maxOffset.Truncate(time.Hour))
		}
	}
	return nil
}

// text is the content of /proc/PID/timens_offsets: whole seconds, and nanoseconds that
// are never below zero.
func (o TimeOffsets) text() string {
	line := func(clock string, d time.Duration) string {
		sec := d / time.Second
		if d%time.Second < 0 {
			sec--
		}
		return fmt.Sprintf("%s %d %d\n", clock, sec, d-sec*time.Second)
	}
	return line("monotonic", o.Monotonic) + line("boottime", o.Boottime)
}

// NewTime emits what makes a time namespace for the caller's children; its offsets can
// be set until the first process is in it. nil leaves the clocks as they are.
func NewTime(b *plan.Builder, o *TimeOffsets) {
	b.Unshare(Time.CloneFlag())
	b.Hint("time namespace", "see container.Probe: time namespaces")
	if o == nil {
		return
	}
	const file = "/proc/self/timens_offsets"
	f := b.Openat(plan.CWD, file, plan.OWRONLY|plan.OCLOEXEC, 0, "timens_offsets")
	b.Write(f, []byte(o.text()), file)
	b.Hint(file, "see WithTimeOffsets: no clock may be before zero, or beyond the kernel's bound")
	b.Close(f)
}
