package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Option is one wish about a [Bridge] or [Veth]. Options judge nothing: container.New reports
// what is wrong with them, all at once, as [*container.OptionError]s. Of two for one
// value the later wins; lists grow.
type Option func(*config)

// config is what options leave behind, as container.Network keeps it.
type config struct {
	Bridge    string         `json:"bridge,omitempty"` // or the host's end of a pair
	Pair      bool           `json:"pair,omitempty"`   // without a bridge
	Subnets   []netip.Prefix `json:"subnets,omitempty"`
	Addresses []netip.Addr   `json:"addresses,omitempty"`
	MTU       int            `json:"mtu,omitempty"`
	MAC       string         `json:"mac,omitempty"`
	Routes    []Route        `json:"routes,omitempty"`
	DNS       []netip.Addr   `json:"dns,omitempty"`
	Search    []string       `json:"search,omitempty"`
	Hosts     []hostName     `json:"hosts,omitempty"`
	Ports     []Port         `json:"ports,omitempty"`
	Open      bool           `json:"open,omitempty"`
	Egress    []rule         `json:"egress,omitempty"`
	DenyAll   bool           `json:"deny_all,omitempty"`
	Invalid   []flaw         `json:"invalid,omitempty"`
}

type flaw struct{ Option, Value, Reason string }

// hostName is a line of /etc/hosts.
type hostName struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

// rule lets packets out: to the ports of a network, all of them where there are none.
type rule struct {
	To    netip.Prefix `json:"to"`
	Ports []uint16     `json:"ports,omitempty"`
}

// Route is a way beyond the container's own networks and its gateway.
type Route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via"` // in one of the container's networks
}

// Subnet sets the networks of a bridge that is made, one of IPv4, of IPv6, or one of
// each: the first address of a network is the bridge's own. Without it both are chosen,
// such that nothing else on this host has them. Start refuses it for a bridge that has
// other networks already.
func Subnet(networks ...netip.Prefix) Option {
	networks = slices.Clone(networks)
	return func(c *config) { c.Subnets = append(slices.Clip(c.Subnets), networks...) }
}

// Address gives the container addresses of its choice, at most one of IPv4 and one of
// IPv6, in the bridge's networks; Start reports one that another container has as a
// [*container.StartError] that matches EADDRINUSE. Without it they are chosen.
func Address(addresses ...netip.Addr) Option {
	addresses = slices.Clone(addresses)
	return func(c *config) { c.Addresses = append(slices.Clip(c.Addresses), addresses...) }
}

// MTU is the largest packet of a bridge that is made and of its containers' links, from
// 1280 to 65535 bytes; without it 1500, or what the bridge has. Start refuses it for a
// bridge that has another: packets that are too large for one link would be lost.
func MTU(n int) Option {
	return func(c *config) {
		c.MTU = n
		if n == 0 {
			c.Invalid = append(c.Invalid, flaw{"network.MTU", "0", "from 1280 to 65535 bytes"})
		}
	}
}

// MAC is the hardware address of the container's end; without it the kernel's choice.
func MAC(a net.HardwareAddr) Option {
	return func(c *config) {
		c.MAC = a.String()
		if len(a) == 0 {
			c.Invalid = append(c.Invalid, flaw{"network.MAC", `""`, "no address"})
		}
	}
}

// AddRoute adds a route inside the container; its default routes lead to the bridge.
func AddRoute(to netip.Prefix, via netip.Addr) Option {
	return func(c *config) { c.Routes = append(slices.Clip(c.Routes), Route{to, via}) }
}

// DNS names the servers of the container's resolv.conf, at most three, the C library's
// own bound; without it they are the host's, but for those on its loopback, which the
// container could not reach.
func DNS(servers ...netip.Addr) Option {
	servers = slices.Clone(servers)
	return func(c *config) { c.DNS = append(slices.Clip(c.DNS), servers...) }
}

// SearchDomain names domains that resolv.conf searches names in.
func SearchDomain(domains ...string) Option {
	domains = slices.Clone(domains)
	return func(c *config) { c.Search = append(slices.Clip(c.Search), domains...) }
}

// AddHost adds a name to the container's /etc/hosts.
func AddHost(name string, address netip.Addr) Option {
	return func(c *config) { c.Hosts = append(slices.Clip(c.Hosts), hostName{name, address}) }
}

// Publish lets ports of the host lead to the container's. Without an address in a Port
// that is on the host's loopback alone.
func Publish(ports ...Port) Option {
	ports = slices.Clone(ports)
	return func(c *config) { c.Ports = append(slices.Clip(c.Ports), ports...) }
}

// Open lets the container and others on the bridge that are Open too reach each other.
// Without it the bridge passes nothing between them, whatever they send.
func Open() Option { return func(c *config) { c.Open = true } }

// Allow lets the container reach a network, the host's own bridge included, on these
// ports of TCP and UDP; without a port all that it sends there passes. With one Allow or
// more nothing else is reached: no name server either, if it is not among them. Answers
// to those who reach the container, at published ports, pass in any case.
func Allow(to netip.Prefix, ports ...uint16) Option {
	ports = slices.Clone(ports)
	return func(c *config) { c.Egress = append(slices.Clip(c.Egress), rule{to, ports}) }
}

// DenyAll lets the container reach nobody, the bridge's own address included, but what
// [Allow] names. It can still be reached, at published ports and by the host.
func DenyAll() Option { return func(c *config) { c.DenyAll = true } }

func (r Route) String() string { return fmt.Sprintf("%v via %v", r.To, r.Via) }
