package cgroup

import (
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MinMemory is the least memory limit, in bytes.
const MinMemory = 1 << 20

// Limits are the resources that a container or a job may use. A nil field is no
// limit.
type Limits struct {
	// Memory is the hard limit in bytes, page cache included; at least MinMemory.
	Memory *int64 `json:"memory,omitempty"`
	// MemorySoft is how many bytes the kernel leaves alone while the machine is
	// short of memory: memory.low of v2, memory.soft_limit_in_bytes of v1; Docker's
	// --memory-reservation.
	MemorySoft *int64 `json:"memory_soft,omitempty"`
	// Swap is the limit of swap alone, in bytes; 0 is none. Without it a group that
	// has a memory limit gets no swap, where the kernel can tell them apart. v1
	// limits the sum of both, and so needs Memory as well.
	Swap *int64 `json:"swap,omitempty"`
	// OOMGroup tells that one process killed for want of memory is the end of all:
	// memory.oom.group of v2. On v1 it is the caller's to watch for ([Group.OOM]).
	OOMGroup bool `json:"oom_group,omitempty"`
	// Hugetlb limits huge pages, in bytes by page size: "2MB", "1GB".
	Hugetlb map[string]int64 `json:"hugetlb,omitempty"`
	// CPUs is how many processors' time may be used: 0.5 is half of one.
	CPUs *float64 `json:"cpus,omitempty"`
	// CPUPeriod is the time over which CPUs is kept, 1 ms to 1 s; 100 ms without.
	CPUPeriod *time.Duration `json:"cpu_period_ns,omitempty"`
	// CPUBurst is how much time may be saved up and used above CPUs (Linux 5.14).
	CPUBurst *time.Duration `json:"cpu_burst_ns,omitempty"`
	// CPUWeight is the share against siblings, 1 to 10000; 100 without.
	CPUWeight *uint64 `json:"cpu_weight,omitempty"`
	// CPUIdle gives the processor to everybody else first: SCHED_IDLE for the
	// group (Linux 5.15).
	CPUIdle bool `json:"cpu_idle,omitempty"`
	// CPUSet names the processors, as cpuset(7) does: "0-2,7".
	CPUSet *string `json:"cpu_set,omitempty"`
	// MemorySet names the memory nodes, in the same form. On v2, kernels before Linux 6.4
	// (and their stable versions without its fix) keep who is cloned into a group to his
	// parent's nodes until the set changes.
	MemorySet *string `json:"memory_set,omitempty"`
	// Pids is how many processes and threads may be at once.
	Pids *int64 `json:"pids,omitempty"`
	// IO limits devices.
	IO []IOLimit `json:"io,omitempty"`
	// IOWeight is the share against siblings, 1 to 10000.
	IOWeight *uint64 `json:"io_weight,omitempty"`
	// DeviceRules are as Docker's --device-cgroup-rule: "c 1:3 mr".
	DeviceRules []string `json:"device_rules,omitempty"`
	// Unified sets files of cgroup v2 by name that have no field here: "rdma.max",
	// "misc.max". They are written after all others, line by line. v1 has none of
	// them.
	Unified map[string]string `json:"unified,omitempty"`
}

// IOLimit limits one block device; 0 is no limit.
type IOLimit struct {
	// Device is "8:0", "/dev/sda", or any path: the device of its file system.
	Device    string `json:"device"`
	ReadBPS   int64  `json:"read_bps,omitempty"` // bytes a second
	WriteBPS  int64  `json:"write_bps,omitempty"`
	ReadIOPS  int64  `json:"read_iops,omitempty"` // operations a second
	WriteIOPS int64  `json:"write_iops,omitempty"`
}

// minCPUs is the least number of processors: of the usual period it is the least
// quota that the kernel keeps.
const (
	minCPUs  = 0.01
	minQuota = time.Millisecond
)

// ValidateCPUs tells what is wrong with a number of processors.
func ValidateCPUs(n float64) error {
	if math.IsNaN(n) || math.IsInf(n, 0) || n < minCPUs || n > 8192 {
		return fmt.Errorf("not between 0.01 and 8192")
	}
	return nil
}

// ValidateWeight tells what is wrong with a weight.
func ValidateWeight(n uint64) error {
	if n < 1 || n > 10000 {
		return fmt.Errorf("not between 1 and 10000")
	}
	return nil
}

// ValidateCPUSet tells what is wrong with a list of processors.
func ValidateCPUSet(s string) error {
	if s == "" {
		return fmt.Errorf("empty")
	}
	for _, part := range strings.Split(s, ",") {
		var a, b int
		lo, hi, ranged := strings.Cut(part, "-")
		if _, err := fmt.Sscanf(lo+" ", "%d ", &a); err != nil || fmt.Sprint(a) != lo || a < 0 || a > 8191 {
			return fmt.Errorf("%q is not a list like 0-2,7", s)
		}
		if b = a; ranged {
			if _, err := fmt.Sscanf(hi+" ", "%d ", &b); err != nil || fmt.Sprint(b) != hi || b < a || b > 8191 {
				return fmt.Errorf("%q is not a list like 0-2,7", s)
			}
		}
	}
	return nil
}

// Validate tells what is wrong with the limit.
func (l IOLimit) Validate() error {
	if l.Device == "" || strings.ContainsAny(l.Device, "\x00\n") {
		return fmt.Errorf("device %q: a number like 8:0 or a path", l.Device)
	}
	for _, n := range []int64{l.ReadBPS, l.WriteBPS, l.ReadIOPS, l.WriteIOPS} {
		if n < 0 {
			return fmt.Errorf("%d is below zero", n)
		}
	}
	if max(l.ReadBPS, l.WriteBPS, l.ReadIOPS, l.WriteIOPS) == 0 {
		return fmt.Errorf("no limit of %s is given", l.Device)
	}
	return nil
}

// ValidateDeviceRule tells what is wrong with a rule of Docker's form.
func ValidateDeviceRule(rule string) error {
	f := strings.Fields(rule)
	if len(f) == 3 && strings.Contains("abc", f[0]) && len(f[0]) == 1 && strings.Trim(f[2], "rwm") == "" {
		major, minor, ok := strings.Cut(f[1], ":")
		if ok && deviceNumber(major) && deviceNumber(minor) {
			return nil
		}
	}
	return fmt.Errorf("%q is not like \"c 1:3 rwm\"", rule)
}

func deviceNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return s == "*" || err == nil
}

// ValidatePath tells what is wrong with the path of a parent group.
func ValidatePath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsAny(p, "\x00\n") {
		return fmt.Errorf("not a clean absolute path below the hierarchy's root")
	}
	return nil
}

// clone copies the limits: what a Limits refers to is never changed in place.
func (l Limits) clone() Limits {
	l.IO = slices.Clone(l.IO)
	l.DeviceRules = slices.Clone(l.DeviceRules)
	l.Unified, l.Hugetlb = maps.Clone(l.Unified), maps.Clone(l.Hugetlb)
	return l
}

// Validate reports every fault of the limits, each under the name of its field.
func (l *Limits) Validate(report func(field string, value any, err error)) {
	check := func(field string, value any, err error) {
		if err != nil {
			report(field, value, err)
		}
	}
	if l.Memory != nil && *l.Memory < MinMemory {
		report("Memory", *l.Memory, fmt.Errorf("below %d bytes", int64(MinMemory)))
	}
	if l.Swap != nil && *l.Swap < 0 {
		report("Swap", *l.Swap, fmt.Errorf("below zero: 0 is no swap"))
	}
	if l.CPUs != nil {
		check("CPUs", *l.CPUs, ValidateCPUs(*l.CPUs))
	}
	if l.MemorySoft != nil && *l.MemorySoft < 0 {
		report("MemorySoft", *l.MemorySoft, fmt.Errorf("below zero"))
	}
	for size, n := range l.Hugetlb {
		if n < 0 || size == "" || strings.Trim(size, "0123456789KMGB") != "" {
			report("Hugetlb", fmt.Sprintf("%s: %d", size, n), fmt.Errorf("not a size like 2MB and bytes"))
		}
	}
	if p := l.CPUPeriod; p != nil && (*p < time.Millisecond || *p > time.Second) {
		report("CPUPeriod", *p, fmt.Errorf("not between 1ms and 1s"))
	} else if p != nil && l.CPUs != nil && *l.CPUs*float64(*p) < float64(minQuota) {
		report("CPUPeriod", *p, fmt.Errorf("too short for %v processors: the kernel keeps no share below 1ms of a period", *l.CPUs))
	}
	if (l.CPUPeriod != nil || l.CPUBurst != nil) && l.CPUs == nil {
		report("CPUPeriod", "", fmt.Errorf("a period or a burst needs a limit of processors"))
	}
	if l.CPUBurst != nil && *l.CPUBurst < 0 {
		report("CPUBurst", *l.CPUBurst, fmt.Errorf("below zero"))
	}
	if l.CPUIdle && l.CPUWeight != nil {
		report("CPUIdle", true, fmt.Errorf("an idle group has no weight"))
	}
	if l.MemorySet != nil {
		check("MemorySet", *l.MemorySet, ValidateCPUSet(*l.MemorySet))
	}
	if l.CPUWeight != nil {
		check("CPUWeight", *l.CPUWeight, ValidateWeight(*l.CPUWeight))
	}
	if l.CPUSet != nil {
		check("CPUSet", *l.CPUSet, ValidateCPUSet(*l.CPUSet))
	}
	if l.Pids != nil && *l.Pids < 1 {
		report("Pids", *l.Pids, fmt.Errorf("below 1"))
	}
	for _, d := range l.IO {
		check("IO", fmt.Sprintf("%+v", d), d.Validate())
	}
	if l.IOWeight != nil {
		check("IOWeight", *l.IOWeight, ValidateWeight(*l.IOWeight))
	}
	for _, r := range l.DeviceRules {
		check("DeviceRules", r, ValidateDeviceRule(r))
	}
	for name := range l.Unified {
		if name == "" || strings.ContainsAny(name, "/\x00\n") {
			report("Unified", name, fmt.Errorf("not the name of a file"))
		}
	}
}

// fields are the names of Limits' fields that a host may be unable to keep, with
// what tells whether one is set and what takes it away.
var fields = []struct {
	name  string
	set   func(*Limits) bool
	clear func(*Limits)
}{
	{"Memory", func(l *Limits) bool { return l.Memory != nil }, func(l *Limits) { l.Memory = nil }},
	{"MemorySoft", func(l *Limits) bool { return l.MemorySoft != nil }, func(l *Limits) { l.MemorySoft = nil }},
	{"Swap", func(l *Limits) bool { return l.Swap != nil }, func(l *Limits) { l.Swap = nil }},
	{"OOMGroup", func(*Limits) bool { return false }, func(l *Limits) { l.OOMGroup = false }},
	{"Hugetlb", func(l *Limits) bool { return len(l.Hugetlb) > 0 }, func(l *Limits) { l.Hugetlb = nil }},
	{"CPUs", func(l *Limits) bool { return l.CPUs != nil }, func(l *Limits) { l.CPUs, l.CPUPeriod = nil, nil }},
	{"CPUBurst", func(l *Limits) bool { return l.CPUBurst != nil }, func(l *Limits) { l.CPUBurst = nil }},
	{"CPUWeight", func(l *Limits) bool { return l.CPUWeight != nil }, func(l *Limits) { l.CPUWeight = nil }},
	{"CPUIdle", func(l *Limits) bool { return l.CPUIdle }, func(l *Limits) { l.CPUIdle = false }},
	{"CPUSet", func(l *Limits) bool { return l.CPUSet != nil }, func(l *Limits) { l.CPUSet = nil }},
	{"MemorySet", func(l *Limits) bool { return l.MemorySet != nil }, func(l *Limits) { l.MemorySet = nil }},
	{"Pids", func(l *Limits) bool { return l.Pids != nil }, func(l *Limits) { l.Pids = nil }},
	{"IO", func(l *Limits) bool { return len(l.IO) > 0 }, func(l *Limits) { l.IO = nil }},
	{"IOWeight", func(l *Limits) bool { return l.IOWeight != nil }, func(l *Limits) { l.IOWeight = nil }},
	{"DeviceRules", func(l *Limits) bool { return len(l.DeviceRules) > 0 }, func(l *Limits) { l.DeviceRules = nil }},
	{"Unified", func(l *Limits) bool { return len(l.Unified) > 0 }, func(l *Limits) { l.Unified = nil }},
}

// Fields names the limits that are set. OOMGroup is no limit.
func (l *Limits) Fields() []string {
	var out []string
	for _, f := range fields {
		if f.set(l) {
			out = append(out, f.name)
		}
	}
	return out
}

// Clear takes the limit of that field away.
func (l *Limits) Clear(field string) {
	for _, f := range fields {
		if f.name == field {
			f.clear(l)
		}
	}
}
