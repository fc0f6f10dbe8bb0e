package network

import (
	"encoding/json"

	"github.com/inlay-dev/inlay/container"
)

// None is lo alone, as without [container.WithNetwork].
func None() container.Network { return container.Network{Kind: "none"} }

// Host leaves the container in the host's network namespace: with its interfaces, its
// loopback services and abstract sockets, and with the names that it looks up.
func Host() container.Network { return container.Network{Kind: "host"} }

// Join puts the container into a network namespace that exists, named by a path:
// /proc/PID/ns/net, or where somebody has bound such a file (ip-netns(8)). See
// [container.WithJoinNamespace].
func Join(path string) container.Network { return container.Network{Kind: "path", Path: path} }

// Of puts the container into the network namespace of another one of this program,
// which must run when this one starts: they share lo, addresses, ports and bandwidth.
func Of(c *container.Container) container.Network {
	return container.Network{Kind: "container", Of: c}
}

// DefaultBridge is the bridge that "" stands for.
const DefaultBridge = "inlay0"

// Bridge connects the container to a bridge of the host (of a user's: see the package's
// comment) by a veth pair; inside it is
// eth0. "" is [DefaultBridge]. A bridge that is not there is made, and removed with its
// last container; one of somebody else's must have an address, and stays.
//
// An empty option list gives addresses from the bridge's own networks, the bridge as
// the gateway, and translation of what goes out; see the package's comment for who
// reaches whom. For that the host forwards packets: Start sets the sysctls
// net.ipv4.ip_forward and net.ipv6.conf.all.forwarding where they are 0, and leaves
// them; interfaces that learn routes from others go on with it (accept_ra 2). A host
// whose own firewall drops what is forwarded has to let the bridge pass.
func Bridge(name string, opts ...Option) container.Network {
	if name == "" {
		name = DefaultBridge
	}
	return connected("bridge", &config{Bridge: name}, opts)
}

// Veth connects the container to the host alone, by a veth pair without a bridge: the
// host's end is called name, which must be free, and has the first address of a network
// of its own. Inside it is eth0. All else is as with [Bridge]: addresses, the way out,
// published ports, egress rules and bandwidth; there is nobody beside it for [Open].
func Veth(name string, opts ...Option) container.Network {
	return connected("veth", &config{Bridge: name, Pair: true}, opts)
}

func connected(kind string, c *config, opts []Option) container.Network {
	name := c.Bridge
	for _, o := range opts {
		if o != nil {
			o(c)
		}
	}
	text, err := json.Marshal(c)
	if err != nil {
		// Nothing in a config can fail but an address with a zone of odd bytes.
		text, _ = json.Marshal(&config{Bridge: name, Pair: c.Pair, Invalid: []flaw{{"Bridge", name, err.Error()}}})
	}
	return container.Network{Kind: kind, Config: text}
}

// String is for messages.
func (c *config) String() string {
	if c.Pair {
		return "veth " + c.Bridge
	}
	return "bridge " + c.Bridge
}
