package container

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/inlay-dev/inlay/namespace"
)

// WithNamespaces names the kinds that are new; of PID, UTS, IPC, Network and
// Time those that are not named are the host's. User, Cgroup and Mount are the
// safe base: they are new in any case, unless [WithHostNamespace] names them.
// Without this option all but Time are new.
//
// Time is not in this version: Start refuses it.
func WithNamespaces(kinds ...namespace.Kind) Option {
	kinds = slices.Clone(kinds)
	return newOption("WithNamespaces", kinds, func(s *Spec) { s.Namespaces = append([]namespace.Kind{}, kinds...) })
}

// WithHostNamespace leaves the container in the host's namespace of a kind.
// Each opens a door:
//   - Network: the host's interfaces, loopback services and abstract sockets.
//   - IPC: the host's shared memory, semaphores and message queues.
//   - UTS: the host's name is seen.
//   - Cgroup: the host's cgroup paths are seen.
//   - User: the container's ids are the host's; as root, its root is the host's
//     root without capabilities.
//   - PID needs a cgroup to end the container by: not in this version.
//   - Mount is refused by New: a container without it has no root of its own.
func WithHostNamespace(kind namespace.Kind) Option {
	return newOption("WithHostNamespace", kind, func(s *Spec) {
		if !slices.Contains(s.HostNamespaces, kind) {
			s.HostNamespaces = append(slices.Clip(s.HostNamespaces), kind)
		}
	})
}

// WithJoinNamespace puts the container into a namespace that exists, named by a
// path such as /proc/PID/ns/net. Not in this version: Start refuses it.
func WithJoinNamespace(kind namespace.Kind, path string) Option {
	return newOption("WithJoinNamespace", formatted("%s, %q", kind, path), func(s *Spec) {
		s.Join = append(slices.Clip(s.Join), Join{Kind: kind, Path: path})
	})
}

// WithJoinNamespaceFile is [WithJoinNamespace] by an open file. Not in this
// version: Start refuses it.
func WithJoinNamespaceFile(kind namespace.Kind, file *os.File) Option {
	return newOption("WithJoinNamespaceFile", kind, func(s *Spec) {
		s.Join = append(slices.Clip(s.Join), Join{Kind: kind, File: file})
		if file == nil {
			s.faults = append(s.faults, &OptionError{Option: "WithJoinNamespaceFile", Value: string(kind), Reason: "no file"})
		}
	})
}

// WithNamespaceOf shares another container's namespaces of some kinds. Not in
// this version: Start refuses it.
func WithNamespaceOf(c *Container, kinds ...namespace.Kind) Option {
	kinds = slices.Clone(kinds)
	return newOption("WithNamespaceOf", kinds, func(s *Spec) {
		if c == nil || len(kinds) == 0 {
			s.faults = append(s.faults, &OptionError{Option: "WithNamespaceOf", Value: fmt.Sprint(kinds), Reason: "a container and at least one kind are needed"})
			return
		}
		for _, k := range kinds {
			s.Join = append(slices.Clip(s.Join), Join{Kind: k, Path: "container:" + c.ID()})
		}
	})
}

// WithTimeOffsets shifts CLOCK_MONOTONIC and CLOCK_BOOTTIME in a new time
// namespace, time_namespaces(7). Not in this version: Start refuses it.
func WithTimeOffsets(monotonic, boottime time.Duration) Option {
	return newOption("WithTimeOffsets", formatted("%v, %v", monotonic, boottime), func(s *Spec) {
		s.TimeOffsets = &TimeOffsets{monotonic, boottime}
	})
}

// WithSysctl sets a kernel parameter of one of the container's new namespaces,
// by its name with dots ("net.ipv4.ip_forward"). Not in this version: Start
// refuses it.
func WithSysctl(name, value string) Option {
	return newOption("WithSysctl", formatted("%q, %q", name, value), func(s *Spec) {
		m := map[string]string{name: value}
		for k, v := range s.Sysctls {
			if k != name {
				m[k] = v
			}
		}
		s.Sysctls = m
	})
}

// WithIDMaps sets which ids of the host the container's users and groups are,
// user_namespaces(7). Without it they are automatic: as root a range of 65,536
// that no other container uses; for an unprivileged user its own id as 0 and its
// range from /etc/subuid above it, or its own id alone.
//
// For an unprivileged user the host's ids are those of that range: 0 is the
// user, 1 the first of /etc/subuid. New reports ranges that overlap.
func WithIDMaps(uids, gids []namespace.IDMap) Option {
	uids, gids = slices.Clone(uids), slices.Clone(gids)
	return newOption("WithIDMaps", formatted("%v, %v", uids, gids), func(s *Spec) {
		s.UIDMaps, s.GIDMaps = append([]namespace.IDMap{}, uids...), append([]namespace.IDMap{}, gids...)
	})
}

// WithHostname sets the name that the container has for itself: 1 to 64 letters,
// digits, '-', '.' and '_'. Without it, it is the container's ID. New refuses it
// together with the host's UTS namespace.
func WithHostname(name string) Option {
	return newOption("WithHostname", formatted("%q", name), func(s *Spec) { s.Hostname = &name })
}
