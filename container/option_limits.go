package container

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/security"
)

// WithTimeLimit ends the job d after it began, by the clock on the wall. Without
// it there is no limit; d must be above zero. The job is killed, and
// [Result.Status] is TimeLimit. Set-up is not counted.
//
// In New it holds for the main job, or from Start on for a container without
// one; in Exec for that job and its process group.
func WithTimeLimit(d time.Duration) JobOption {
	return newJobOption("WithTimeLimit", d, func(j *Job) { j.TimeLimit = &d })
}

// WithCPUTimeLimit ends the job after it used d of processor time, user and
// system together, all its processes counted, also those that nobody waited for.
// It is killed, and [Result.Status] is CPUTimeLimit. d must be above zero.
//
// The control group's clock is read as often as the rest of the budget demands,
// every half millisecond at most, so that up to about a tick of the machine's
// timer (4 ms at 250 Hz) for each processor may be used beyond it. RLIMIT_CPU,
// setrlimit(2), is the backstop of single processes, two seconds later. A host
// without control groups refuses it.
func WithCPUTimeLimit(d time.Duration) JobOption {
	return newJobOption("WithCPUTimeLimit", d, func(j *Job) { j.CPUTimeLimit = &d })
}

// WithIdleLimit ends the job when it used less than a thousandth of a processor,
// and wrote nothing to stdout and stderr, for d: one that hangs. It is killed, and
// [Result.Status] is IdleLimit. Output that goes to an *os.File directly is not
// seen. While the container is paused it does not count. A host without control
// groups refuses it.
func WithIdleLimit(d time.Duration) JobOption {
	return newJobOption("WithIdleLimit", d, func(j *Job) { j.IdleLimit = &d })
}

// WithOutputLimit ends the job when it wrote more than n bytes to stdout and
// stderr together; what it wrote up to n is delivered, and [Result.Status] is
// OutputLimit. 0 allows none. An *os.File is written to through a pipe then, since
// nobody could count else. When it is killed, the job may have written up to
// 64 KiB more.
func WithOutputLimit(n int64) JobOption {
	return newJobOption("WithOutputLimit", n, func(j *Job) { j.OutputLimit = &n })
}

// WithMemoryLimit caps the memory of all processes together at n bytes, at least
// 1 MiB: their anonymous memory, what they put into memory file systems, the page
// cache of files that they use, and what the kernel needs for them. Page cache is
// taken back as the limit is met; where that does not suffice, the job is killed,
// and [Result.Status] is MemoryLimit (see [WithOOMGroup]). Swap is not used, unless
// [WithSwapLimit] allows some.
//
// In New it holds for the container, all jobs together; in Exec for that job. It
// is memory.max of cgroup v2, memory.limit_in_bytes of v1. A host that cannot keep
// it makes Start fail with a [*LimitError]; so with all limits below.
func WithMemoryLimit(n int64) JobOption {
	return newJobOption("WithMemoryLimit", n, func(j *Job) { j.Limits.Memory = &n })
}

// WithOOMGroup tells whether want of memory is the end of the whole job: with it,
// the default, one process that the kernel kills for it takes all others along,
// and the verdict is MemoryLimit. Without, the others live on, and the job's own
// end is its verdict.
func WithOOMGroup(on bool) JobOption {
	return newJobOption("WithOOMGroup", on, func(j *Job) { j.OOMGroup = &on })
}

// WithSwapLimit lets the job have n bytes of swap beside its memory limit; 0, as
// without it where there is a memory limit, is none. (Docker's --memory-swap is
// the sum of both.)
func WithSwapLimit(n int64) JobOption {
	return newJobOption("WithSwapLimit", n, func(j *Job) { j.Limits.Swap = &n })
}

// WithCPULimit caps processor time at cpus processors: 0.5 is half of one. 0.01
// to 8192. It is kept in periods of 100 ms: what has used up its share waits for
// the next (cpu.max of cgroup v2, cpu.cfs_quota_us of v1).
func WithCPULimit(cpus float64) JobOption {
	return newJobOption("WithCPULimit", cpus, func(j *Job) { j.Limits.CPUs = &cpus })
}

// WithCPUWeight sets the share of processor time against other containers of this
// program while there is not enough for all: 1 to 10000, 100 without (cpu.weight
// of cgroup v2; on v1 cpu.shares, of which 1024 are 100). On a v1 host that mounts
// the controllers cpu and cpuacct apart, a container without any option of
// processors is in no group of cpu's: give each a weight there.
func WithCPUWeight(n uint64) JobOption {
	return newJobOption("WithCPUWeight", n, func(j *Job) { j.Limits.CPUWeight = &n })
}

// WithCPUSet names the processors that may be used, as cpuset(7) does: "0-2,7".
func WithCPUSet(cpus string) JobOption {
	return newJobOption("WithCPUSet", formatted("%q", cpus), func(j *Job) { j.Limits.CPUSet = &cpus })
}

// WithPidsLimit caps the number of processes and threads at n, at least 1; 1,024
// without. A fork beyond it fails with EAGAIN, and [Result.Notes] tells; it is no
// verdict of its own.
func WithPidsLimit(n int64) JobOption {
	return newJobOption("WithPidsLimit", n, func(j *Job) { j.Limits.Pids = &n })
}

// WithIOLimit caps reading and writing of one disk, in bytes or operations a
// second; it may be repeated. A partition counts as its disk. On cgroup v2 writes
// through the page cache count when they reach the disk, where the file system
// takes part (ext4, btrfs, xfs); on v1 only direct ones do. A file's pages count
// for the group that wrote the file first, for as long as the kernel remembers
// that (Documentation/admin-guide/cgroup-v2.rst, "Writeback"): a job that writes
// buffered to a file that is there already may be faster.
func WithIOLimit(limit cgroup.IOLimit) JobOption {
	return newJobOption("WithIOLimit", formatted("%+v", limit), func(j *Job) {
		j.Limits.IO = append(slices.Clip(j.Limits.IO), limit)
	})
}

// WithIOWeight sets the share of disk time against other containers, 1 to 10000,
// 100 without. It has an effect where the disk's scheduler is bfq (which takes up
// to 1000), or on v2 where io.cost is set up for it.
func WithIOWeight(n uint64) JobOption {
	return newJobOption("WithIOWeight", n, func(j *Job) { j.Limits.IOWeight = &n })
}

// WithDeviceRules allows devices beside those that every container has, in the form
// of Docker's --device-cgroup-rule: "c 10:200 rwm"; all others are denied. Without
// it, what a job can open is what lies in its /dev. It is kept by the controller
// devices of cgroup v1, by a BPF program on v2, for which this program needs
// CAP_BPF or CAP_SYS_ADMIN.
func WithDeviceRules(rules ...string) JobOption {
	rules = slices.Clone(rules)
	return newJobOption("WithDeviceRules", quoted(rules), func(j *Job) {
		j.Limits.DeviceRules = append(slices.Clip(j.Limits.DeviceRules), rules...)
	})
}

// WithResources sets all limits of control groups at once, in place of those
// before: also those that have no option of their own, like hugetlb, burst, and by
// name any file of cgroup v2.
func WithResources(limits cgroup.Limits) JobOption {
	return newJobOption("WithResources", formatted("%+v", limits), func(j *Job) { j.Limits = limits })
}

// WithCgroupParent names the group below which the container's are made, by its
// path below the hierarchy's root: "/judge". It must be there. Without it they lie
// below this program's own group on v1, and on v2 in the nearest group above that
// this program may write to and that has no processes (see cgroup.Nearest).
func WithCgroupParent(path string) Option {
	return newOption("WithCgroupParent", formatted("%q", path), func(s *Spec) { s.CgroupParent = &path })
}

// WithStopSignal sets the signal by which [Container.Stop] asks the main job to
// end; without it, it is SIGTERM. It must be a syscall.Signal from 1 to 64.
func WithStopSignal(sig os.Signal) Option {
	return newOption("WithStopSignal", sig, func(s *Spec) {
		n := 0
		if v, ok := sig.(syscall.Signal); ok {
			n = int(v)
		}
		s.StopSignal = &n
	})
}

// WithStopGrace sets how long Stop waits before it kills; without it, 10 s. 0
// kills at once.
func WithStopGrace(d time.Duration) Option {
	return newOption("WithStopGrace", d, func(s *Spec) { s.StopGrace = &d })
}

// WithStopOnCancel has the end of [Run]'s context stop the job by its stop
// signal and grace instead of killing it. The status is Canceled either way.
func WithStopOnCancel() Option {
	return newOption("WithStopOnCancel", "", func(s *Spec) { s.StopOnCancel = true })
}

// WithStackLimit caps the stack of every process at n bytes, RLIMIT_STACK of
// setrlimit(2), soft and hard: at least 64 KiB; without, what this program has.
// Arguments and environment together may have a quarter of it.
func WithStackLimit(n int64) JobOption {
	return newJobOption("WithStackLimit", n, func(j *Job) {
		if n < 64*KiB {
			j.faults = append(j.faults, &OptionError{Option: "WithStackLimit", Value: fmt.Sprint(n), Reason: "below 65536 bytes"})
			return
		}
		j.Rlimits = append(slices.Clip(j.Rlimits), security.Rlimit{Name: "stack", Soft: uint64(n), Hard: uint64(n)})
	})
}
