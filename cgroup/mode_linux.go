package cgroup

import "github.com/containerd/cgroups/v3"

// Detect tells which hierarchy is mounted at /sys/fs/cgroup.
func Detect() Mode {
	switch cgroups.Mode() {
	case cgroups.Legacy:
		return V1
	case cgroups.Hybrid:
		return Hybrid
	case cgroups.Unified:
		return V2
	default:
		return Unavailable
	}
}
