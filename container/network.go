package container

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/internal/netdriver"
	"github.com/inlay-dev/inlay/namespace"
)

// Network says how a container is connected. Package namespace/network makes them:
// network.None(), Host, Join, Of, Bridge and Veth. It is plain data.
type Network struct {
	// Kind is "none", "host", "path", "container", or what a driver of
	// namespace/network is for: "bridge", "veth".
	Kind string `json:"kind"`
	// Path is of the namespace to join, for "path".
	Path string `json:"path,omitempty"`
	// Config is the driver's own.
	Config json.RawMessage `json:"config,omitempty"`
	// Of is whose namespace is joined, for "container".
	Of *Container `json:"-"`
}

// String is the kind, and what belongs to it.
func (n Network) String() string {
	switch {
	case n.Of != nil:
		return n.Kind + " " + n.Of.ID()
	case n.Path != "":
		return n.Kind + " " + n.Path
	case n.Config != nil:
		return n.Kind + " " + string(n.Config)
	}
	return n.Kind
}

// Rate bounds the traffic of a container; see [WithBandwidth].
type Rate struct {
	// Egress is what the container sends, Ingress what it receives, in bits a second; 0
	// leaves a direction without a bound.
	Egress  uint64 `json:"egress,omitempty"`
	Ingress uint64 `json:"ingress,omitempty"`
	// Burst is how many bytes may pass at once after a pause; 0 chooses what a
	// machine that is busy needs to keep the rate: 25 ms of it, and at least four
	// packets.
	Burst uint64 `json:"burst,omitempty"`
	// EgressPackets and IngressPackets bound the packets a second, from 10 to
	// 100,000,000, whatever their size; 0: no bound. What a packet is the host's end of
	// the link says, as in Stats: data of TCP that the kernel carries in one piece, up to
	// 64 KiB, is one.
	EgressPackets  uint64 `json:"egress_packets,omitempty"`
	IngressPackets uint64 `json:"ingress_packets,omitempty"`
}

// String has all that is bounded, for people.
func (r Rate) String() string {
	text := fmt.Sprintf("egress %d, ingress %d bit/s, burst %d", r.Egress, r.Ingress, r.Burst)
	if r.EgressPackets != 0 || r.IngressPackets != 0 {
		text += fmt.Sprintf(", egress %d, ingress %d packets/s", r.EgressPackets, r.IngressPackets)
	}
	return text
}

const (
	minRate = 8_000           // bit/s
	maxRate = 400_000_000_000 // bit/s
	maxPart = 1 << 30         // of a burst, in bytes

	minPackets = 10          // a second
	maxPackets = 100_000_000 // a second

	maxBurstTime = 60 // seconds
)

// WithNetwork connects the container as package namespace/network says: to nothing
// but its own lo (network.None, as without this option), to a bridge of the host, or
// as the host or another container is. Of several the last holds, and it takes the
// place of WithHostNamespace and the joins of the kind Network before it.
//
// New reports what is wrong with it as [*OptionError]s, each naming the option of
// namespace/network. Start reports what this host or user cannot have as a
// [*StartError] that matches errors.ErrUnsupported: bridges are made by who has
// CAP_NET_ADMIN and CAP_SYS_ADMIN, as root of the machine or of a user namespace that owns
// the network namespace, and by users where pasta is installed; in [Optional] the
// container then has lo alone.
func WithNetwork(n Network) Option {
	return newOption("WithNetwork", n, func(s *Spec) {
		s.Network = nil
		s.HostNamespaces = namespace.Without(s.HostNamespaces, namespace.Network)
		s.Join = slices.DeleteFunc(slices.Clone(s.Join), func(j Join) bool { return j.Kind == namespace.Network })
		switch n.Kind {
		case "none":
		case "host":
			WithHostNamespace(namespace.Network).applyContainer(s)
		case "path":
			WithJoinNamespace(namespace.Network, n.Path).applyContainer(s)
		case "container":
			WithNamespaceOf(n.Of, namespace.Network).applyContainer(s)
		default:
			n.Of = nil
			s.Network = &n
		}
	})
}

// WithBandwidth bounds what the container sends and receives over its network: bits a
// second as the link counts them, headers included, from 8 kbit/s to 400 Gbit/s. What
// exceeds it waits in a queue of about a tenth of a second, and is dropped beyond it.
// Without the option there is no bound.
//
// The kernel's token bucket (tc-tbf(8)) shapes what is sent on the container's own
// link, where a full queue makes the sender wait, and what is received on the host's
// end of it. Jobs cannot remove it without CAP_NET_ADMIN; where a container has that,
// the host's end shapes both directions, by an ifb device (which Linux must have), and
// a later job with that capability is refused. [Container.Update] changes the rate.
//
// Packets beyond a rate of packets are dropped, by nftables on the host's end, where
// nothing inside reaches; 25 ms of the rate, and at least 10, may come at once.
//
// New refuses it as an [*OptionError] without a network, on the host's, and on one that
// is joined: the rate of another container is its own. Start reports a host that cannot
// shape as a [*LimitError], and Optional goes on without.
func WithBandwidth(r Rate) Option {
	return newOption("WithBandwidth", r, func(s *Spec) { s.Bandwidth = &r })
}

// Addresses are the container's own in its network, from Start on; nil on lo alone, and
// in the host's or a joined namespace.
func (c *Container) Addresses() []netip.Prefix {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.addresses)
}

// Stats are the figures of a container or of a job: see [cgroup.Stats]. A figure
// that this host cannot give is [Absent].
type Stats struct {
	cgroup.Stats
	// Network counts what passed on the container's link; nil where it has none of its
	// own, and for jobs.
	Network *NetworkStats `json:"network,omitempty"`
}

// NetworkStats are the figures of a container's link, lo not included.
type NetworkStats struct {
	Egress  NetworkCounter `json:"egress"`  // what the container sent
	Ingress NetworkCounter `json:"ingress"` // what it received
}

// NetworkCounter counts one direction.
type NetworkCounter struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	// Dropped are packets that did not fit into the queue of [WithBandwidth], or were
	// lost on the link otherwise.
	Dropped uint64 `json:"dropped"`
}

// validateNetwork looks at the network and its rate.
func (s *Spec) validateNetwork(f *faults) {
	if n := s.Network; n != nil {
		d := netdriver.Registered()
		switch {
		case n.Kind != "bridge" && n.Kind != "veth":
			f.add("WithNetwork", fmt.Sprintf("%q", shorten(n.Kind)), "no such kind of network", "use the functions of package namespace/network")
		case d == nil:
			f.add("WithNetwork", n.Kind, "its driver is not in this program", "import github.com/inlay-dev/inlay/namespace/network")
		case !s.isNew(namespace.Network):
			f.add("WithNetwork", n.Kind, fmt.Sprintf("the network namespace is not new (%s)", s.notNew(namespace.Network)), "leave one of them out")
		default:
			for _, e := range d.Check(n.Kind, n.Config) {
				f.add(e.Option, e.Value, e.Reason, e.Remedy)
			}
		}
	}
	if s.Bandwidth == nil {
		return
	}
	switch {
	case s.Network != nil:
	case s.isNew(namespace.Network):
		f.add("WithBandwidth", s.Bandwidth, "the container has no network but lo", "add WithNetwork(network.Bridge(\"\"))")
	default:
		f.add("WithBandwidth", s.Bandwidth, fmt.Sprintf("the network is not the container's own (%s)", s.notNew(namespace.Network)), "give the container a link of its own: WithNetwork(network.Bridge(\"\"))")
	}
	s.Bandwidth.validate(f)
}

func (r *Rate) validate(f *faults) {
	if r.Egress == 0 && r.Ingress == 0 && r.EgressPackets == 0 && r.IngressPackets == 0 {
		f.add("WithBandwidth", r, "no rate: 0 leaves a direction without a bound", "leave the option out, or name a rate in bits a second")
	}
	for _, n := range []uint64{r.Egress, r.Ingress} {
		if n != 0 && (n < minRate || n > maxRate) {
			f.add("WithBandwidth", r, fmt.Sprintf("%d bit/s: from %d to %d are possible", n, uint64(minRate), uint64(maxRate)))
		}
	}
	for _, n := range []uint64{r.EgressPackets, r.IngressPackets} {
		if n != 0 && (n < minPackets || n > maxPackets) {
			f.add("WithBandwidth", r, fmt.Sprintf("%d packets a second: from %d to %d are possible", n, minPackets, maxPackets))
		}
	}
	for _, n := range []uint64{r.Egress, r.Ingress} {
		// The kernel has it as a time, of which 32 bits hold 274 s.
		if r.Burst > maxPart || n != 0 && r.Burst > n/8*maxBurstTime {
			f.add("WithBandwidth", r, fmt.Sprintf("a burst of %d bytes: at most %d, and what passes in %d s", r.Burst, uint64(maxPart), uint64(maxBurstTime)))
			break
		}
	}
}
