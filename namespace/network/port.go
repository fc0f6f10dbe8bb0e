package network

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Port publishes ports of the host: what comes to them goes to the container's.
type Port struct {
	// Protocol is "tcp", which "" stands for, or "udp".
	Protocol string `json:"protocol,omitempty"`
	// Address is the host's own that it holds for: the zero Addr is 127.0.0.1, and
	// 0.0.0.0 and :: are all that the host has of IPv4 and IPv6. ::1 cannot be
	// published: the kernel translates nothing that comes from there.
	Address netip.Addr `json:"address,omitzero"`
	// Host and Container are the first port on either side; Count is how many
	// follow one another, 0 stands for 1.
	Host      uint16 `json:"host"`
	Container uint16 `json:"container"`
	Count     uint16 `json:"count,omitempty"`
}

// ParsePort reads a port as docker's --publish has it: [ADDRESS:]PORT[-LAST]:PORT[-LAST][/PROTOCOL],
// IPv6 in brackets. Without an address it is 127.0.0.1, where docker has all.
func ParsePort(text string) (Port, error) {
	bad := func(why string) (Port, error) {
		return Port{}, fmt.Errorf("port %q: %s: [ADDRESS:]HOST[-LAST]:CONTAINER[-LAST][/PROTOCOL] is wanted", text, why)
	}
	var p Port
	rest, protocol, named := strings.Cut(text, "/")
	if named {
		p.Protocol = protocol
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return bad("one side is missing")
	}
	host, inside := rest[:i], rest[i+1:]
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host[:i], "["), "]"))
		if err != nil {
			return bad("no address")
		}
		p.Address, host = a, host[i+1:]
	}
	first, n, err := span(host)
	if err != nil {
		return bad(err.Error())
	}
	to, m, err := span(inside)
	if err != nil {
		return bad(err.Error())
	}
	if n != m {
		return bad("ranges of different lengths")
	}
	p.Host, p.Container = first, to
	if n > 1 {
		p.Count = n
	}
	if why := p.check(); why != "" {
		return bad(why)
	}
	return p, nil
}

// span reads PORT or PORT-LAST: its first, and how many.
func span(text string) (first, n uint16, err error) {
	lo, hi, ranged := strings.Cut(text, "-")
	a, err := strconv.ParseUint(lo, 10, 16)
	if err != nil || a == 0 {
		return 0, 0, fmt.Errorf("%q is no port", lo)
	}
	b := a
	if ranged {
		if b, err = strconv.ParseUint(hi, 10, 16); err != nil || b < a {
			return 0, 0, fmt.Errorf("%q is no last port", hi)
		}
	}
	return uint16(a), uint16(b - a + 1), nil
}

// String is as ParsePort reads it.
func (p Port) String() string {
	one := func(first uint16) string {
		if p.Count > 1 {
			return fmt.Sprintf("%d-%d", first, int(first)+int(p.Count)-1)
		}
		return strconv.Itoa(int(first))
	}
	text := one(p.Host) + ":" + one(p.Container)
	switch {
	case p.Address.Is6():
		text = "[" + p.Address.String() + "]:" + text
	case p.Address.IsValid():
		text = p.Address.String() + ":" + text
	}
	if p.Protocol != "" {
		text += "/" + p.Protocol
	}
	return text
}

// check tells what is wrong with it; "": nothing.
func (p Port) check() string {
	n := int(max(p.Count, 1))
	switch {
	case p.Protocol != "" && p.Protocol != "tcp" && p.Protocol != "udp":
		return "the protocol is tcp or udp"
	case p.Host == 0 || p.Container == 0:
		return "0 is no port"
	case int(p.Host)+n-1 > 65535 || int(p.Container)+n-1 > 65535:
		return "above 65535"
	case p.Address.Zone() != "" || p.Address.Is4In6():
		return "an address without a zone, and IPv4 as such"
	case p.Address.Is6() && p.Address.IsLoopback():
		return "::1 cannot be published, 127.0.0.1 can"
	case p.Address.IsMulticast():
		return "a multicast address"
	}
	return ""
}

// address is the host's, the default in its place.
func (p Port) address() netip.Addr {
	if !p.Address.IsValid() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return p.Address
}

func (p Port) udp() bool { return p.Protocol == "udp" }
