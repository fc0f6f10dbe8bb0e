package container

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
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

// WithCPUTimeLimit ends the job after it used d of processor time, with all its
// processes. Not in this version: Start refuses it.
func WithCPUTimeLimit(d time.Duration) JobOption {
	return newJobOption("WithCPUTimeLimit", d, func(j *Job) { j.CPUTimeLimit = &d })
}

// WithIdleLimit ends the job when it used no processor and wrote nothing for d.
// Not in this version: Start refuses it.
func WithIdleLimit(d time.Duration) JobOption {
	return newJobOption("WithIdleLimit", d, func(j *Job) { j.IdleLimit = &d })
}

// WithOutputLimit ends the job when it wrote more than n bytes to stdout and
// stderr together. Not in this version: Start refuses it.
func WithOutputLimit(n int64) JobOption {
	return newJobOption("WithOutputLimit", n, func(j *Job) { j.OutputLimit = &n })
}

// WithMemoryLimit caps the memory of all processes together, their page cache
// included, at n bytes; the least is 1 MiB. Not in this version: Start refuses
// it with a [*LimitError].
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

// WithSwapLimit caps swap alone at n bytes; 0 is none. (Docker's --memory-swap is
// the sum of both.) Not in this version: Start refuses it.
func WithSwapLimit(n int64) JobOption {
	return newJobOption("WithSwapLimit", n, func(j *Job) { j.Limits.Swap = &n })
}

// WithCPULimit caps processor time at cpus processors: 0.5 is half of one. 0.01
// to 8192. Not in this version: Start refuses it.
func WithCPULimit(cpus float64) JobOption {
	return newJobOption("WithCPULimit", cpus, func(j *Job) { j.Limits.CPUs = &cpus })
}

// WithCPUWeight sets the share of processor time against siblings, 1 to 10000,
// 100 without. Not in this version: Start refuses it.
func WithCPUWeight(n uint64) JobOption {
	return newJobOption("WithCPUWeight", n, func(j *Job) { j.Limits.CPUWeight = &n })
}

// WithCPUSet names the processors that may be used: "0-2,7". Not in this
// version: Start refuses it.
func WithCPUSet(cpus string) JobOption {
	return newJobOption("WithCPUSet", fmt.Sprintf("%q", cpus), func(j *Job) { j.Limits.CPUSet = &cpus })
}

// WithPidsLimit caps the number of processes and threads. Not in this version:
// Start refuses it; WithRlimit("nproc", …) is there.
func WithPidsLimit(n int64) JobOption {
	return newJobOption("WithPidsLimit", n, func(j *Job) { j.Limits.Pids = &n })
}

// WithIOLimit caps reading and writing of a block device. Not in this version:
// Start refuses it.
func WithIOLimit(limit cgroup.IOLimit) JobOption {
	return newJobOption("WithIOLimit", fmt.Sprintf("%+v", limit), func(j *Job) {
		j.Limits.IO = append(slices.Clip(j.Limits.IO), limit)
	})
}

// WithIOWeight sets the share of disk time against siblings, 1 to 10000. Not in
// this version: Start refuses it.
func WithIOWeight(n uint64) JobOption {
	return newJobOption("WithIOWeight", n, func(j *Job) { j.Limits.IOWeight = &n })
}

// WithDeviceRules allows devices, in the form of Docker's --device-cgroup-rule:
// "c 1:3 rwm". Not in this version: Start refuses it.
func WithDeviceRules(rules ...string) JobOption {
	rules = slices.Clone(rules)
	return newJobOption("WithDeviceRules", quoted(rules), func(j *Job) {
		j.Limits.DeviceRules = append(slices.Clip(j.Limits.DeviceRules), rules...)
	})
}

// WithResources sets all cgroup limits at once, in place of those before. Not in
// this version: Start refuses any that is set.
func WithResources(limits cgroup.Limits) JobOption {
	return newJobOption("WithResources", fmt.Sprintf("%+v", limits), func(j *Job) { j.Limits = limits })
}

// WithCgroupParent sets the group that the container's lies in. Not in this
// version: Start refuses it.
func WithCgroupParent(path string) Option {
	return newOption("WithCgroupParent", fmt.Sprintf("%q", path), func(s *Spec) { s.CgroupParent = &path })
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
