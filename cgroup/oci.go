package cgroup

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// OCI returns the limits as the resources of an OCI runtime configuration
// (config-linux.md). A hierarchy-neutral weight becomes shares, as v1 has them.
// I/O limits are taken where the device is a number like "8:0"; others need the
// host to find it, and are left out, as are swap without a limit of memory and device
// rules that Validate refuses.
func (l Limits) OCI() *specs.LinuxResources {
	r := &specs.LinuxResources{Unified: l.Unified}
	if l.Memory != nil || l.MemorySoft != nil || l.Swap != nil {
		m := &specs.LinuxMemory{Limit: l.Memory, Reservation: l.MemorySoft}
		if l.Memory != nil && l.Swap != nil {
			both := sumOf(*l.Memory, *l.Swap)
			if both == math.MaxInt64 {
				both = -1
			}
			m.Swap = &both
		}
		r.Memory = m
	}
	if l.CPUs != nil || l.CPUWeight != nil || l.CPUSet != nil || l.MemorySet != nil || l.CPUIdle {
		c := &specs.LinuxCPU{}
		if l.CPUs != nil {
			period := uint64(100000)
			if l.CPUPeriod != nil {
				period = uint64(l.CPUPeriod.Microseconds())
			}
			quota := int64(max(math.Round(*l.CPUs*float64(period)), math.Ceil(minCPUs*float64(period))))
			c.Quota, c.Period = &quota, &period
		}
		if l.CPUBurst != nil {
			burst := uint64(l.CPUBurst.Microseconds())
			c.Burst = &burst
		}
		if l.CPUWeight != nil {
			shares := sharesOf(*l.CPUWeight)
			c.Shares = &shares
		}
		if l.CPUIdle {
			idle := int64(1)
			c.Idle = &idle
		}
		if l.CPUSet != nil {
			c.Cpus = *l.CPUSet
		}
		if l.MemorySet != nil {
			c.Mems = *l.MemorySet
		}
		r.CPU = c
	}
	if l.Pids != nil {
		r.Pids = &specs.LinuxPids{Limit: l.Pids}
	}
	for size, n := range l.Hugetlb {
		r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: uint64(n)})
	}
	r.BlockIO = l.ociBlockIO()
	if len(l.DeviceRules) > 0 {
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"})
	}
	for _, rule := range l.DeviceRules {
		if ValidateDeviceRule(rule) == nil {
			r.Devices = append(r.Devices, ociDevice(rule))
		}
	}
	return r
}

func (l Limits) ociBlockIO() *specs.LinuxBlockIO {
	b := &specs.LinuxBlockIO{}
	if l.IOWeight != nil {
		w := uint16(min(1000, max(10, *l.IOWeight)))
		b.Weight = &w
	}
	for _, d := range l.IO {
		x, y, _ := strings.Cut(d.Device, ":")
		major, minor := ociNumber(x), ociNumber(y)
		if major == nil || minor == nil {
			continue
		}
		add := func(list *[]specs.LinuxThrottleDevice, n int64) {
			if n > 0 {
				t := specs.LinuxThrottleDevice{Rate: uint64(n)}
				t.Major, t.Minor = *major, *minor
				*list = append(*list, t)
			}
		}
		add(&b.ThrottleReadBpsDevice, d.ReadBPS)
		add(&b.ThrottleWriteBpsDevice, d.WriteBPS)
		add(&b.ThrottleReadIOPSDevice, d.ReadIOPS)
		add(&b.ThrottleWriteIOPSDevice, d.WriteIOPS)
	}
	if b.Weight == nil && len(b.ThrottleReadBpsDevice)+len(b.ThrottleWriteBpsDevice)+len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) == 0 {
		return nil
	}
	return b
}

func ociDevice(rule string) specs.LinuxDeviceCgroup {
	f := strings.Fields(rule)
	d := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
	major, minor, _ := strings.Cut(f[1], ":")
	d.Major, d.Minor = ociNumber(major), ociNumber(minor)
	return d
}

// ociNumber is one half of a device's number; nil: all ("*"), or none.
func ociNumber(s string) *int64 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return nil
	}
	out := int64(n)
	return &out
}

// FromOCI reads the resources of an OCI runtime configuration. Weights come from
// CPU shares by the kernel's own factor (1024 shares are weight 100); -1 is no
// limit, as OCI has it. What Limits has no field for is an error: kernel memory,
// swappiness, realtime, weights of single disks, network classes, and rules that
// deny single devices.
func FromOCI(r *specs.LinuxResources) (Limits, error) {
	var l Limits
	if r == nil {
		return l, nil
	}
	l.Unified = r.Unified
	set := func(p *int64) *int64 {
		if p == nil || *p < 0 {
			return nil
		}
		n := *p
		return &n
	}
	if m := r.Memory; m != nil {
		l.Memory, l.MemorySoft = set(m.Limit), set(m.Reservation)
		if both := set(m.Swap); both != nil {
			if l.Memory == nil || *both < *l.Memory {
				return l, fmt.Errorf("cgroup: memory.swap %d: the sum of memory and swap, without or below the memory limit", *both)
			}
			swap := *both - *l.Memory
			l.Swap = &swap
		} else if m.Swap != nil && l.Memory != nil {
			swap := math.MaxInt64 - *l.Memory // without, there would be none
			l.Swap = &swap
		}
		if set(m.Kernel) != nil || set(m.KernelTCP) != nil { //nolint:staticcheck // deprecated, and still in old configurations
			return l, fmt.Errorf("cgroup: memory.kernel and memory.kernelTCP have no counterpart")
		}
		if m.Swappiness != nil || m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			return l, fmt.Errorf("cgroup: memory.swappiness and memory.disableOOMKiller have no counterpart")
		}
	}
	if c := r.CPU; c != nil {
		if err := l.fromOCICPU(c); err != nil {
			return l, err
		}
	}
	if r.Pids != nil {
		if l.Pids = set(r.Pids.Limit); l.Pids != nil && *l.Pids == 0 {
			l.Pids = nil
		}
	}
	for _, h := range r.HugepageLimits {
		if l.Hugetlb == nil {
			l.Hugetlb = map[string]int64{}
		}
		l.Hugetlb[h.Pagesize] = int64(min(h.Limit, math.MaxInt64))
	}
	if r.BlockIO != nil {
		if err := l.fromOCIBlockIO(r.BlockIO); err != nil {
			return l, err
		}
	}
	for _, d := range r.Devices {
		rule, err := fromOCIDevice(d)
		if err != nil {
			return l, err
		}
		if rule != "" {
			l.DeviceRules = append(l.DeviceRules, rule)
		}
	}
	if r.Network != nil {
		return l, fmt.Errorf("cgroup: network classes have no counterpart")
	}
	if len(r.Rdma) > 0 {
		l.Unified = maps.Clone(l.Unified)
		if l.Unified == nil {
			l.Unified = map[string]string{}
		}
		if l.Unified["rdma.max"] != "" {
			return l, fmt.Errorf("cgroup: both rdma and unified.rdma.max")
		}
		l.Unified["rdma.max"] = fromOCIRdma(r.Rdma)
	}
	return l, nil
}

// fromOCIRdma is a line for each device.
func fromOCIRdma(devices map[string]specs.LinuxRdma) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		text := name
		if n := devices[name].HcaHandles; n != nil {
			text += fmt.Sprintf(" hca_handle=%d", *n)
		}
		if n := devices[name].HcaObjects; n != nil {
			text += fmt.Sprintf(" hca_object=%d", *n)
		}
		lines = append(lines, text)
	}
	return strings.Join(lines, "\n")
}

func (l *Limits) fromOCICPU(c *specs.LinuxCPU) error {
	if c.RealtimePeriod != nil || c.RealtimeRuntime != nil {
		return fmt.Errorf("cgroup: cpu.realtimePeriod and cpu.realtimeRuntime have no counterpart")
	}
	if c.Quota != nil && *c.Quota > 0 {
		period := uint64(100000)
		if c.Period != nil && *c.Period > 0 {
			period = *c.Period
		}
		cpus := float64(*c.Quota) / float64(period)
		l.CPUs = &cpus
		if period != 100000 {
			d := ociMicroseconds(period)
			l.CPUPeriod = &d
		}
		if c.Burst != nil {
			d := ociMicroseconds(*c.Burst)
			l.CPUBurst = &d
		}
	}
	l.CPUIdle = c.Idle != nil && *c.Idle == 1
	if c.Shares != nil && *c.Shares > 0 && !l.CPUIdle {
		w := weightOf(*c.Shares)
		l.CPUWeight = &w
	}
	if c.Cpus != "" {
		l.CPUSet = &c.Cpus
	}
	if c.Mems != "" {
		l.MemorySet = &c.Mems
	}
	return nil
}

// ociMicroseconds is a time; what is too long for one is the longest, which is
// above every bound.
func ociMicroseconds(n uint64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/uint64(time.Microsecond))) * time.Microsecond
}

func (l *Limits) fromOCIBlockIO(b *specs.LinuxBlockIO) error {
	if len(b.WeightDevice) > 0 || b.LeafWeight != nil {
		return fmt.Errorf("cgroup: blockIO.weightDevice and blockIO.leafWeight have no counterpart")
	}
	if b.Weight != nil && *b.Weight > 0 {
		w := uint64(*b.Weight)
		l.IOWeight = &w
	}
	for _, list := range []struct {
		devices []specs.LinuxThrottleDevice
		set     func(*IOLimit, int64)
	}{
		{b.ThrottleReadBpsDevice, func(d *IOLimit, n int64) { d.ReadBPS = n }},
		{b.ThrottleWriteBpsDevice, func(d *IOLimit, n int64) { d.WriteBPS = n }},
		{b.ThrottleReadIOPSDevice, func(d *IOLimit, n int64) { d.ReadIOPS = n }},
		{b.ThrottleWriteIOPSDevice, func(d *IOLimit, n int64) { d.WriteIOPS = n }},
	} {
		for _, t := range list.devices {
			if t.Major < 0 || t.Minor < 0 {
				return fmt.Errorf("cgroup: blockIO: there is no device %d:%d", t.Major, t.Minor)
			}
			if t.Rate == 0 {
				continue // no limit
			}
			name := fmt.Sprintf("%d:%d", t.Major, t.Minor)
			at := -1
			for i := range l.IO {
				if l.IO[i].Device == name {
					at = i
				}
			}
			if at < 0 {
				l.IO = append(l.IO, IOLimit{Device: name})
				at = len(l.IO) - 1
			}
			list.set(&l.IO[at], int64(min(t.Rate, math.MaxInt64)))
		}
	}
	return nil
}

// fromOCIDevice is a rule; "" for the one that denies all, which every list has.
func fromOCIDevice(d specs.LinuxDeviceCgroup) (string, error) {
	all := d.Major == nil && d.Minor == nil && (d.Type == "" || d.Type == "a")
	if !d.Allow {
		if all {
			return "", nil
		}
		return "", fmt.Errorf("cgroup: a device rule that denies %s devices: rules allow, and the rest is denied", d.Type)
	}
	part := func(n *int64) string {
		if n == nil || *n < 0 {
			return "*"
		}
		return fmt.Sprint(*n)
	}
	kind := d.Type
	if kind == "" {
		kind = "a"
	}
	rule := fmt.Sprintf("%s %s:%s %s", kind, part(d.Major), part(d.Minor), d.Access)
	if err := ValidateDeviceRule(rule); err != nil {
		return "", fmt.Errorf("cgroup: devices: %w", err)
	}
	return rule, nil
}
