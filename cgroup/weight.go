package cgroup

import "math"

// sharesOf is cpu.shares of v1 for a weight: the kernel's own factor, by which
// the default of one is the default of the other (sched_weight_from_cgroup).
func sharesOf(weight uint64) uint64 { return max(2, (weight*1024+50)/100) }

func weightOf(shares uint64) uint64 { return min(10000, max(1, (shares*100+512)/1024)) }

// sumOf adds two sizes and stays below overflow.
func sumOf(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
