package cgroup

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The controllers that limits need, by their names in cgroup.controllers and
// /proc/self/cgroup. Accounting of processor time is cpuacct's on v1, and there
// without any controller on v2.
const (
	controllerMemory  = "memory"
	controllerCPU     = "cpu"
	controllerAccount = "cpuacct"
	controllerCPUSet  = "cpuset"
	controllerPids    = "pids"
	controllerIO      = "io" // blkio on v1
	controllerDevices = "devices"
	controllerHugetlb = "hugetlb"
	controllerFreezer = "freezer"
)

// setting is one file to write for one field of the limits.
type setting struct {
	field      string
	controller string
	file       string
	value      string
	// weak: the field's limit is kept without it, on a host that lacks the file.
	weak bool
	// other is what is written in place of file where that is missing.
	other, otherValue string
}

const defaultPeriod = 100000 // microseconds

// settings are what sets the limits on one kind of hierarchy, in the order of
// writing. Devices' IO names are numbers by now.
func (l *Limits) settings(v2 bool) []setting {
	s := append(make([]setting, 0, 8), l.memorySettings(v2)...)
	s = append(s, l.cpuSettings(v2)...)
	if l.Pids != nil {
		s = append(s, setting{field: "Pids", controller: controllerPids, file: "pids.max", value: strconv.FormatInt(*l.Pids, 10)})
	}
	s = append(s, l.ioSettings(v2)...)
	sizes := make([]string, 0, len(l.Hugetlb))
	for size := range l.Hugetlb {
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	for _, size := range sizes {
		file := "hugetlb." + size + ".limit_in_bytes"
		if v2 {
			file = "hugetlb." + size + ".max"
		}
		s = append(s, setting{field: "Hugetlb", controller: controllerHugetlb, file: file, value: strconv.FormatInt(l.Hugetlb[size], 10)})
	}
	if v2 {
		names := make([]string, 0, len(l.Unified))
		for name := range l.Unified {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			// Files that have a line for each device take one at a time.
			for line := range strings.Lines(l.Unified[name]) {
				s = append(s, setting{field: "Unified", controller: unifiedController(name), file: name, value: strings.TrimSuffix(line, "\n")})
			}
		}
	}
	return s
}

// unifiedController is the controller that a file of v2 belongs to; "" for
// cgroup's own.
func unifiedController(file string) string {
	for i := range len(file) {
		if file[i] == '.' {
			if file[:i] == "cgroup" {
				return ""
			}
			return file[:i]
		}
	}
	return ""
}

func (l *Limits) memorySettings(v2 bool) (s []setting) {
	bytes := func(n int64) string { return strconv.FormatInt(n, 10) }
	switch {
	case v2:
		if l.Memory != nil {
			s = append(s, setting{field: "Memory", controller: controllerMemory, file: "memory.max", value: bytes(*l.Memory)})
		}
		if l.MemorySoft != nil {
			s = append(s, setting{field: "MemorySoft", controller: controllerMemory, file: "memory.low", value: bytes(*l.MemorySoft)})
		}
		switch {
		case l.Swap != nil:
			s = append(s, setting{field: "Swap", controller: controllerMemory, file: "memory.swap.max", value: bytes(*l.Swap), weak: *l.Swap == 0 && !hasSwap()})
		case l.Memory != nil:
			s = append(s, setting{field: "Swap", controller: controllerMemory, file: "memory.swap.max", value: "0", weak: true})
		}
		if l.OOMGroup {
			s = append(s, setting{field: "OOMGroup", controller: controllerMemory, file: "memory.oom.group", value: "1"})
		}
	default:
		if l.Memory != nil {
			s = append(s, setting{field: "Memory", controller: controllerMemory, file: "memory.limit_in_bytes", value: bytes(*l.Memory)})
		}
		if l.MemorySoft != nil {
			s = append(s, setting{field: "MemorySoft", controller: controllerMemory, file: "memory.soft_limit_in_bytes", value: bytes(*l.MemorySoft)})
		}
		// v1 limits the sum.
		switch {
		case l.Memory != nil && l.Swap != nil:
			s = append(s, setting{field: "Swap", controller: controllerMemory, file: "memory.memsw.limit_in_bytes", value: bytes(sumOf(*l.Memory, *l.Swap)), weak: *l.Swap == 0 && !hasSwap()})
		case l.Memory != nil && hasSwap():
			s = append(s, setting{field: "Swap", controller: controllerMemory, file: "memory.memsw.limit_in_bytes", value: bytes(*l.Memory), weak: true})
		}
	}
	return s
}

func (l *Limits) cpuSettings(v2 bool) (s []setting) {
	period := int64(defaultPeriod)
	if l.CPUPeriod != nil {
		period = l.CPUPeriod.Microseconds()
	}
	if l.CPUs != nil {
		quota := strconv.FormatInt(max(1000, int64(math.Round(*l.CPUs*float64(period)))), 10)
		p := strconv.FormatInt(period, 10)
		if v2 {
			s = append(s, setting{field: "CPUs", controller: controllerCPU, file: "cpu.max", value: quota + " " + p})
		} else {
			if period != defaultPeriod {
				s = append(s, setting{field: "CPUs", controller: controllerCPU, file: "cpu.cfs_period_us", value: p})
			}
			s = append(s, setting{field: "CPUs", controller: controllerCPU, file: "cpu.cfs_quota_us", value: quota})
		}
	}
	if l.CPUBurst != nil {
		file := "cpu.cfs_burst_us"
		if v2 {
			file = "cpu.max.burst"
		}
		s = append(s, setting{field: "CPUBurst", controller: controllerCPU, file: file, value: strconv.FormatInt(l.CPUBurst.Microseconds(), 10)})
	}
	if l.CPUWeight != nil {
		if v2 {
			s = append(s, setting{field: "CPUWeight", controller: controllerCPU, file: "cpu.weight", value: strconv.FormatUint(*l.CPUWeight, 10)})
		} else {
			s = append(s, setting{field: "CPUWeight", controller: controllerCPU, file: "cpu.shares", value: strconv.FormatUint(sharesOf(*l.CPUWeight), 10)})
		}
	}
	if l.CPUIdle {
		s = append(s, setting{field: "CPUIdle", controller: controllerCPU, file: "cpu.idle", value: "1"})
	}
	// Nodes before processors: v1 takes neither away from a group that has tasks.
	if l.MemorySet != nil {
		s = append(s, setting{field: "MemorySet", controller: controllerCPUSet, file: "cpuset.mems", value: *l.MemorySet})
	}
	if l.CPUSet != nil {
		s = append(s, setting{field: "CPUSet", controller: controllerCPUSet, file: "cpuset.cpus", value: *l.CPUSet})
	}
	return s
}

func (l *Limits) ioSettings(v2 bool) (s []setting) {
	for _, d := range l.IO {
		if v2 {
			part := func(name string, n int64) string {
				if n == 0 {
					return ""
				}
				return fmt.Sprintf(" %s=%d", name, n)
			}
			s = append(s, setting{field: "IO", controller: controllerIO, file: "io.max", value: d.Device + part("rbps", d.ReadBPS) + part("wbps", d.WriteBPS) +
				part("riops", d.ReadIOPS) + part("wiops", d.WriteIOPS)})
			continue
		}
		for _, f := range []struct {
			file string
			n    int64
		}{
			{"blkio.throttle.read_bps_device", d.ReadBPS},
			{"blkio.throttle.write_bps_device", d.WriteBPS},
			{"blkio.throttle.read_iops_device", d.ReadIOPS},
			{"blkio.throttle.write_iops_device", d.WriteIOPS},
		} {
			if f.n != 0 {
				s = append(s, setting{field: "IO", controller: controllerIO, file: f.file, value: fmt.Sprintf("%s %d", d.Device, f.n)})
			}
		}
	}
	if l.IOWeight != nil {
		bfq := strconv.FormatUint(bfqWeight(*l.IOWeight), 10)
		if v2 {
			s = append(s, setting{
				field: "IOWeight", controller: controllerIO, file: "io.weight", value: "default " + strconv.FormatUint(*l.IOWeight, 10),
				other: "io.bfq.weight", otherValue: bfq,
			})
		} else {
			s = append(s, setting{field: "IOWeight", controller: controllerIO, file: "blkio.bfq.weight", value: bfq, other: "blkio.weight", otherValue: bfq})
		}
	}
	return s
}

// bfqWeight is a weight of 1 to 10000 as the scheduler bfq takes it, 1 to 1000.
func bfqWeight(w uint64) uint64 { return min(1000, w) }
