package cgroup

// Mode is the hierarchy that a host has.
type Mode string

// The hierarchies.
const (
	V1          Mode = "v1"
	V2          Mode = "v2"
	Hybrid      Mode = "hybrid" // limits on v1, and a v2 tree without controllers
	Unavailable Mode = "unavailable"
)
