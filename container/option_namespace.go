package container

import (
	"fmt"
	"os"
	"slices"

	"github.com/inlay-dev/inlay/namespace"
)

// WithNamespaces names the kinds that are new; of PID, UTS, IPC, Network and
// Time those that are not named are the host's. User, Cgroup and Mount are the
// safe base: they are new in any case, unless [WithHostNamespace] names them.
// Without this option all but Time are new.
//
// Time gives the container clocks of its own, which [WithTimeOffsets] shifts. PID,
// where it is left out, is as in WithHostNamespace.
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
//   - PID: the host's processes are seen by the container's root, and can be signalled
//     where ids are shared. Nothing ends with its first process then: Start wants a
//     control group to kill by (cgroup.kill, Linux 5.14), and root, since the kernel
//     gives a /proc to whom the namespace belongs.
//   - Mount is refused by New: a container without it has no root of its own.
func WithHostNamespace(kind namespace.Kind) Option {
	return newOption("WithHostNamespace", kind, func(s *Spec) {
		if !slices.Contains(s.HostNamespaces, kind) {
			s.HostNamespaces = append(slices.Clip(s.HostNamespaces), kind)
		}
	})
}

// WithJoinNamespace puts the container into a namespace that exists, named by a path:
// /proc/PID/ns/net, or where somebody has bound such a file (ip-netns(8)). All kinds
// but Mount and Cgroup can be joined, each by one option; the others stay new.
//   - Network: its interfaces and what listens there, lo included. Names are looked up
//     as on the host.
//   - IPC: its System V shared memory, semaphores and message queues; not /dev/shm.
//   - UTS: its hostname, so WithHostname is refused.
//   - User: its ids; init takes the last one for itself. The maps are read from a
//     process in it, which this program must be allowed to look at.
//   - PID: its processes are seen by root's jobs, and can be signalled by those with
//     the same ids on the host: where User is joined too, and among an unprivileged
//     user's containers, who all have that user's. The container then ends with that namespace's first process; its own
//     first process is not PID 1, so Start wants a control group to kill by
//     (cgroup.kill, Linux 5.14).
//   - Time: its clocks.
//
// Where User is joined by a path or a file, the container that it is from has to outlive
// this one: its ids are given to others after its Close.
//
// Sysctls of a joined namespace are not set: New refuses WithSysctl for them. What a
// joined namespace's owner may do, a job may not, unless User is joined as well.
//
// New reports a kind that cannot be joined, or that another option names. Start opens
// the path in this program, and reports what is no namespace of that kind as a
// [*StartError]; so it does where the kernel refuses: as root all may be joined, an
// unprivileged user's containers can join what belongs to others of this program.
// Optional does not help: there is nothing to go on with. See setns(2).
func WithJoinNamespace(kind namespace.Kind, path string) Option {
	return newOption("WithJoinNamespace", formatted("%s, %q", kind, path), func(s *Spec) {
		if path == "" {
			s.faults = append(s.faults, &OptionError{Option: "WithJoinNamespace", Value: fmt.Sprintf("%s, %q", kind, path), Reason: "no path"})
			return
		}
		s.Join = append(slices.Clip(s.Join), Join{Kind: kind, Path: path})
	})
}

// WithJoinNamespaceFile is [WithJoinNamespace] by an open file, which the caller keeps
// open until Start has returned, and closes.
func WithJoinNamespaceFile(kind namespace.Kind, file *os.File) Option {
	return newOption("WithJoinNamespaceFile", kind, func(s *Spec) {
		s.Join = append(slices.Clip(s.Join), Join{Kind: kind, File: file})
	})
}

// WithNamespaceOf is [WithJoinNamespace] for another container of this program, which
// must run when this one starts: namespaces of its init, whatever has become of its
// process id. What the other has from the host, WithHostNamespace is for: Start
// refuses it. Names are looked up, and the own name is, as in the other.
//
// A network or IPC namespace lives as long as somebody is in it, a PID namespace as
// long as the other container. With User the two share their ids, and with PID as well
// each can do to the other's processes what its users can: with CAP_KILL or
// CAP_SYS_PTRACE end the other's init, or hold back its end. Share both among those who
// trust each other.
func WithNamespaceOf(c *Container, kinds ...namespace.Kind) Option {
	kinds = slices.Clone(kinds)
	return newOption("WithNamespaceOf", kinds, func(s *Spec) {
		if c == nil || len(kinds) == 0 {
			s.faults = append(s.faults, &OptionError{Option: "WithNamespaceOf", Value: fmt.Sprint(kinds), Reason: "a container and at least one kind are needed"})
			return
		}
		for _, k := range kinds {
			s.Join = append(slices.Clip(s.Join), Join{Kind: k, Container: c.ID(), of: c})
		}
	})
}

// WithTimeOffsets gives the container a time namespace whose CLOCK_MONOTONIC and
// CLOCK_BOOTTIME (/proc/uptime) are shifted against the machine's, time_namespaces(7).
// The date is not: CLOCK_REALTIME has no namespace. Without it both are the host's. The
// figures of a Result are not shifted.
//
// New refuses more than about 146 years. Start reports an offset that would put a clock
// before zero as a [*StartError] (ERANGE), and a kernel without time namespaces (Linux
// 5.6, CONFIG_TIME_NS) as one that matches errors.ErrUnsupported; Optional goes on
// without.
func WithTimeOffsets(o namespace.TimeOffsets) Option {
	return newOption("WithTimeOffsets", formatted("%v, %v", o.Monotonic, o.Boottime), func(s *Spec) { s.TimeOffsets = &o })
}

// WithSysctl sets a kernel parameter of one of the container's new namespaces,
// by its name with dots ("net.ipv4.ip_unprivileged_port_start"), before the first job
// starts; of two values for one name the later wins. [namespace.SysctlKind] tells which
// namespace it is of: net.*, those of System V and POSIX IPC, and user.max_*.
//
// New refuses a parameter that is the whole machine's, that is of a namespace which
// the container does not have new, or that another option is for. Start refuses what
// this kernel does not have, or does not let a user namespace's owner set (those of IPC
// before Linux 6.1), as a [*StartError] that names it.
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
// together with a UTS namespace that is not new.
func WithHostname(name string) Option {
	return newOption("WithHostname", formatted("%q", name), func(s *Spec) { s.Hostname = &name })
}

// WithDomainname sets the NIS domain name that the container has, setdomainname(2): 1 to
// 64 bytes of what a hostname may have. Without it, it is the host's. New refuses it
// together with a UTS namespace that is not new.
func WithDomainname(name string) Option {
	return newOption("WithDomainname", formatted("%q", name), func(s *Spec) { s.Domainname = &name })
}

// WithUserNamespaceCreation lets jobs make user namespaces, and in them namespaces of
// all other kinds and mounts: for browsers, build tools and sandboxes inside the
// container. Off without it, twice over: the default seccomp profile refuses the calls,
// and the container's own limit of user namespaces is 0 (user.max_user_namespaces,
// namespaces(7)), which a profile that allows them meets as ENOSPC.
//
// A job of user 0 needs CAP_SETFCAP, by WithCapabilities, to map its own id into the new
// namespace, user_namespaces(7); one of another user needs nothing.
//
// It widens what a job can reach of the kernel by much: most ways out of user
// namespaces that became known began with making one. A profile by WithSeccomp has
// to allow the calls itself; [security.Strict] does not. With WithHostNamespace(user)
// or a joined one the limit is that namespace's, and the profile alone stands in the way.
func WithUserNamespaceCreation(on bool) Option {
	return newOption("WithUserNamespaceCreation", on, func(s *Spec) { s.UserNamespaceCreation = on })
}
