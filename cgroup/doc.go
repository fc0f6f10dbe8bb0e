// Package cgroup is the vocabulary of resource limits by cgroups(7), and tells
// which hierarchy this host has. Limits are described and checked here; they are
// not enforced in this version: container.Start refuses them by name.
package cgroup
