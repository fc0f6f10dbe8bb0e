package cgroup

import (
	"fmt"
	"math"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// OCI returns the limits as the resources of an OCI runtime configuration
// (config-linux.md). A hierarchy-neutral weight becomes shares, as v1 has them.
// I/O limits are taken where the device is a number like "8:0"; others need the
// host to find it, and are left out.
func (l Limits) OCI() *specs.LinuxResources {
	r := &specs.LinuxResources{Unified: l.Unified}
	if l.Memory != nil || l.MemorySoft != nil || l.Swap != nil {
		m := &specs.LinuxMemory{Limit: l.Memory, Reservation: l.MemorySoft}
		if l.Memory != nil && l.Swap != nil {
			both := sumOf(*l.Memory, *l.Swap)
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
			quota := int64(math.Round(*l.CPUs * float64(period)))
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
		r.Devices = append(r.Devices, ociDevice(rule))
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
		var major, minor int64
		if _, err := fmt.Sscanf(d.Device, "%d:%d", &major, &minor); err != nil {
			continue
		}
		add := func(list *[]specs.LinuxThrottleDevice, n int64) {
			if n > 0 {
				t := specs.LinuxThrottleDevice{Rate: uint64(n)}
				t.Major, t.Minor = major, minor
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
	part := func(s string) *int64 {
		var n int64
		if _, err := fmt.Sscanf(s, "%d", &n); err != nil {
			return nil // "*": all
		}
		return &n
	}
	major, minor, _ := strings.Cut(f[1], ":")
	d.Major, d.Minor = part(major), part(minor)
	return d
}

// FromOCI reads the resources of an OCI runtime configuration. Weights come from
// CPU shares by the kernel's own factor (1024 shares are weight 100); -1 is no
// limit, as OCI has it. What Limits has no field for is an error: kernel memory,
// swappiness, realtime, network classes, and rules that deny single devices.
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
		l.fromOCIBlockIO(r.BlockIO)
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
	for name, v := range r.Rdma {
		text := name
		if v.HcaHandles != nil {
			text += fmt.Sprintf(" hca_handle=%d", *v.HcaHandles)
		}
		if v.HcaObjects != nil {
			text += fmt.Sprintf(" hca_object=%d", *v.HcaObjects)
		}
		unified := map[string]string{"rdma.max": text}
		for k, v := range l.Unified {
			unified[k] = v
		}
		l.Unified = unified
	}
	return l, nil
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
			d := time.Duration(period) * time.Microsecond
			l.CPUPeriod = &d
		}
		if c.Burst != nil {
			d := time.Duration(*c.Burst) * time.Microsecond
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

func (l *Limits) fromOCIBlockIO(b *specs.LinuxBlockIO) {
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
	return fmt.Sprintf("%s %s:%s %s", kind, part(d.Major), part(d.Minor), d.Access), nil
}
