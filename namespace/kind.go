package namespace

import (
	"fmt"
	"slices"
)

// Kind is a kind of namespace, by its name in JSON and in messages.
type Kind string

// The kinds that Linux has, namespaces(7).
const (
	PID     Kind = "pid"
	Mount   Kind = "mount"
	UTS     Kind = "uts"
	IPC     Kind = "ipc"
	Network Kind = "network"
	User    Kind = "user"
	Cgroup  Kind = "cgroup"
	Time    Kind = "time"
)

// All returns every kind, in a fixed order.
func All() []Kind { return []Kind{PID, Mount, UTS, IPC, Network, User, Cgroup, Time} }

// Default returns the kinds that a container has new if nobody says otherwise:
// all but Time.
func Default() []Kind { return []Kind{PID, Mount, UTS, IPC, Network, User, Cgroup} }

// flags by include/uapi/linux/sched.h.
var flags = map[Kind]uint64{
	Mount: 0x00020000, Cgroup: 0x02000000, UTS: 0x04000000, IPC: 0x08000000,
	User: 0x10000000, PID: 0x20000000, Network: 0x40000000, Time: 0x00000080,
}

// Valid tells whether the kind exists.
func (k Kind) Valid() bool { return flags[k] != 0 }

// CloneFlag returns the kind's flag of clone3(2), setns(2) and unshare(2); 0 for
// a kind that does not exist.
func (k Kind) CloneFlag() uint64 { return flags[k] }

// File returns the name of the kind's file in /proc/PID/ns.
func (k Kind) File() string {
	switch k {
	case Mount:
		return "mnt"
	case Network:
		return "net"
	default:
		return string(k)
	}
}

// Parse returns the kind of a name: of Kind's own, or of a file in /proc/PID/ns.
func Parse(name string) (Kind, error) {
	for _, k := range All() {
		if name == string(k) || name == k.File() {
			return k, nil
		}
	}
	return "", fmt.Errorf("namespace %q does not exist: one of %v", name, All())
}

// Without returns the list less some kinds.
func Without(list []Kind, less ...Kind) []Kind {
	return slices.DeleteFunc(slices.Clone(list), func(k Kind) bool { return slices.Contains(less, k) })
}
