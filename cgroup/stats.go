package cgroup

import "time"

// Absent stands in a figure of Stats that the host cannot give: never zero.
const Absent = -1

// Stats are the figures of a group with all below it, those that have ended
// included. A figure that the host cannot give is [Absent]. Sizes are bytes.
type Stats struct {
	Time   time.Time   `json:"time"`
	CPU    CPUStats    `json:"cpu"`
	Memory MemoryStats `json:"memory"`
	Pids   PidsStats   `json:"pids"`
	IO     []IOStats   `json:"io,omitempty"` // by device; nil: none was used, or no controller tells
}

// CPUStats are the figures of processor time.
type CPUStats struct {
	Total     time.Duration `json:"total_ns"`
	User      time.Duration `json:"user_ns"`   // user and system are shares of the total by what the timer saw
	System    time.Duration `json:"system_ns"` // (cputime_adjust of the kernel)
	Periods   int64         `json:"periods"`   // of the limit, in which something ran
	Throttled int64         `json:"throttled"` // of these, in which it was used up
	// ThrottledTime is how long processors were held back.
	ThrottledTime time.Duration `json:"throttled_ns"`
	// Pressure is how long something waited for a processor (PSI, "some"); Linux
	// 4.20, only on v2.
	Pressure time.Duration `json:"pressure_ns"`
}

// MemoryStats are the figures of memory.
type MemoryStats struct {
	Now    int64  `json:"now"`
	Peak   int64  `json:"peak"`
	Source string `json:"source,omitempty"` // of the peak: "memory.peak" or "memory.max_usage_in_bytes"
	Anon   int64  `json:"anon"`
	File   int64  `json:"file"` // page cache, shmem included
	Shmem  int64  `json:"shmem"`
	Kernel int64  `json:"kernel"`
	Swap   int64  `json:"swap"`
	// Faults and MajorFaults count page faults.
	Faults      int64 `json:"faults"`
	MajorFaults int64 `json:"major_faults"`
	// OOMKills counts processes that the kernel killed for want of memory.
	OOMKills int64 `json:"oom_kills"`
	// LimitHits is how often the limit was met, and memory taken back or refused.
	LimitHits int64         `json:"limit_hits"`
	Pressure  time.Duration `json:"pressure_ns"`

	ooms int64 // how often a limit could not be kept but by a kill
}

// PidsStats count processes and threads.
type PidsStats struct {
	Now  int64 `json:"now"`
	Peak int64 `json:"peak"` // pids.peak, Linux 6.1
	// LimitHits is how often a fork was refused.
	LimitHits int64 `json:"limit_hits"`
}

// IOStats are the figures of one block device.
type IOStats struct {
	Device     string `json:"device"` // "8:0"
	ReadBytes  int64  `json:"read_bytes"`
	WriteBytes int64  `json:"write_bytes"`
	Reads      int64  `json:"reads"`
	Writes     int64  `json:"writes"`
}
