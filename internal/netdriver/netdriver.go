// Package netdriver is the seam between package container and package
// namespace/network, which imports it: what is connected needs netlink and
// nftables, and a program whose containers have no network links neither.
package netdriver

import (
	"context"
	"net/netip"
	"os"
	"sync/atomic"
)

// Rate bounds what passes, in bits and in packets a second; 0: no bound. Burst is in
// bytes, 0 is chosen by the driver.
type Rate struct{ Egress, Ingress, Burst, EgressPackets, IngressPackets uint64 }

// Counter is what has passed in one direction, and what was dropped of it.
type Counter struct{ Bytes, Packets, Dropped uint64 }

// Counters are those of both directions, as the container sees them.
type Counters struct{ Egress, Ingress Counter }

// Fault is what is wrong with one option of a network, whatever the host is.
type Fault struct{ Option, Value, Reason, Remedy string }

// Error is what a driver could not do.
type Error struct {
	Op, Path string
	Err      error
	Remedy   string
	// Limit tells that it is the bandwidth that cannot be kept here.
	Limit bool
}

// Error names the operation, and what it acted upon.
func (e *Error) Error() string { return e.Op + " " + e.Path + ": " + e.Err.Error() }

// Unwrap returns the kernel's answer.
func (e *Error) Unwrap() error { return e.Err }

// Start is a container that is about to be started.
type Start struct {
	Kind   string
	Config []byte // what Check has found no fault with
	// Hostname is the container's own.
	Hostname string
	// StateDir is where the locks lie, the same for all programs of a user.
	StateDir string
	// Userns is the user namespace above the container's, where this program has power
	// over links by that alone; nil: it has it over the host's. The file stays the
	// caller's.
	Userns *os.File `json:"-"`
	// Rate is nil for none.
	Rate *Rate
	// NetAdmin tells that a job may change the container's own links, RawPackets
	// that it may send what it likes.
	NetAdmin, RawPackets bool
}

// Link is one container's connection.
type Link interface {
	// Files are the contents of resolv.conf and hosts.
	Files() (resolv, hosts []byte)
	// Addresses are the container's own.
	Addresses() []netip.Prefix
	// Connect makes what init's network namespace is connected by. The file stays
	// the caller's.
	Connect(ctx context.Context, ns *os.File) error
	// SetRate changes the rate; a zero Rate takes it away.
	SetRate(r Rate) error
	// ShapedInside tells that who has CAP_NET_ADMIN over the container's network
	// namespace could take the rate away.
	ShapedInside() bool
	// Counters reads what has passed.
	Counters() (Counters, error)
	// Close removes all of it, also what Connect left half done.
	Close() error
}

// Driver makes connections.
type Driver interface {
	// Check tells what is wrong with a config.
	Check(kind string, config []byte) []Fault
	// Begin takes what a container needs before it is made: its addresses.
	Begin(ctx context.Context, s *Start) (Link, error)
	// Probe tries what a bridged container needs, in a network namespace of its own:
	// what there is, in words, or an *Error that says what is missing. user: the
	// launcher has a user namespace, and links are made in it.
	Probe(ctx context.Context, user bool) (string, error)
	// Heir is a process of this program that removes what it left on the host's network,
	// after its end: its arguments, the name first, and a file that is there for as long
	// as there may be something.
	Heir(stateDir string) (args []string, file string, err error)
	// Prune removes what programs that were killed left behind, and tells what it
	// could not remove.
	Prune(ctx context.Context, stateDir string) (removed []string, kept map[string]error)
}

var registered atomic.Pointer[Driver]

// Register names the driver of this program: namespace/network's init does.
func Register(d Driver) { registered.Store(&d) }

// Registered returns it; nil: namespace/network is not linked.
func Registered() Driver {
	if d := registered.Load(); d != nil {
		return *d
	}
	return nil
}

// Stack is this program as a user-space network stack, for users where pasta is not
// installed: it is executed with Name as its os.Args[0] and with a tun device as
// descriptor 3, and serves it for as long as its parent lives.
type Stack struct {
	Name string
	// Preferred is before pasta too.
	Preferred bool
}

var stack atomic.Pointer[Stack]

// RegisterStack names the stack of this program: namespace/network/userstack does.
func RegisterStack(s Stack) { stack.Store(&s) }

// RegisteredStack returns it; the zero Stack: there is none.
func RegisteredStack() Stack {
	if s := stack.Load(); s != nil {
		return *s
	}
	return Stack{}
}
