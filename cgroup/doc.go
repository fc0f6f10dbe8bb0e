// Package cgroup makes, limits, measures and ends control groups, cgroups(7), by
// one interface over v1, v2 and both at once: each limit goes to the hierarchy
// that has its controller, and one that this host cannot keep is a [*LimitError].
//
// It is usable alone: [Nearest] or [Open] a group, [Group.Create] one below it,
// start processes in it by [Group.Enter], read [Group.Stats], and [Group.Kill]
// and [Group.Delete] it.
package cgroup
