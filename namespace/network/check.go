package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/inlay-dev/inlay/internal/netdriver"
)

func init() { netdriver.Register(driver{}) }

// driver makes bridges and links to them; see netdriver.Driver.
type driver struct{}

// maxName is the kernel's IFNAMSIZ less its NUL.
const maxName = 15

// What one container may ask for: more is a mistake.
const (
	maxServers = 3 // the C library's MAXNS
	maxList    = 1024
)

func parse(text []byte) (*config, error) {
	c := &config{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, err
	}
	return c, nil
}

// Check is netdriver.Driver's.
func (driver) Check(kind string, text []byte) []netdriver.Fault {
	var out []netdriver.Fault
	add := func(option string, value any, reason string, remedy ...string) {
		out = append(out, netdriver.Fault{Option: option, Value: fmt.Sprint(value), Reason: reason, Remedy: strings.Join(remedy, " ")})
	}
	c, err := parse(text)
	if err != nil {
		add("WithNetwork", kind, "its config is no JSON of a network: "+err.Error())
		return out
	}
	for _, e := range c.Invalid {
		add(e.Option, e.Value, e.Reason)
	}
	if c.Pair != (kind == "veth") {
		add("WithNetwork", kind, "its config is that of another kind")
	}
	maker := "network.Bridge"
	if c.Pair {
		maker = "network.Veth"
		if c.Open {
			add("network.Open", true, "a pair has nobody beside it", "leave it out, or use network.Bridge")
		}
	}
	if why := checkName(c.Bridge); why != "" {
		add(maker, fmt.Sprintf("%q", c.Bridge), why)
	}
	c.checkAddresses(add)
	c.checkNames(add)
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		add("network.MTU", c.MTU, "from 1280 to 65535 bytes")
	}
	if c.MAC != "" {
		switch a, err := net.ParseMAC(c.MAC); {
		case err != nil || len(a) != 6:
			add("network.MAC", fmt.Sprintf("%q", c.MAC), "not six bytes")
		case a[0]&1 != 0:
			add("network.MAC", c.MAC, "a group's address", "its first byte must be even")
		}
	}
	for i, p := range c.Ports {
		if why := p.check(); why != "" {
			add("network.Publish", p, why)
			continue
		}
		for _, o := range c.Ports[:i] {
			if o.check() == "" && p.overlaps(o) {
				add("network.Publish", p, fmt.Sprintf("the same port as %v", o))
			}
		}
	}
	if n := len(c.Ports) + len(c.Egress) + len(c.Hosts) + len(c.Routes) + len(c.Search); n > maxList {
		add(maker, c.Bridge, fmt.Sprintf("%d ports, rules, names and routes: at most %d", n, maxList))
	}
	for _, r := range c.Egress {
		switch {
		case !plain(r.To):
			add("network.Allow", r.To, "not a network")
		case len(r.Ports) > maxList:
			add("network.Allow", r.To, fmt.Sprintf("%d ports, at most %d", len(r.Ports), maxList))
		}
		for _, p := range r.Ports {
			if p == 0 {
				add("network.Allow", r.To, "0 is no port", "without a port all pass")
			}
		}
	}
	return out
}

type adder func(option string, value any, reason string, remedy ...string)

func (c *config) checkAddresses(add adder) {
	for i, n := range c.Subnets {
		switch {
		case !plain(n):
			add("network.Subnet", n, "not a network")
		case n != n.Masked():
			add("network.Subnet", n, "bits beyond its length are set", n.Masked().String())
		case n.Addr().BitLen()-n.Bits() < 2:
			add("network.Subnet", n, "too small: the bridge and one container must fit in")
		case n.Addr().Is6() && n.Bits() < 48:
			add("network.Subnet", n, "too large: from /48 on")
		case n.Addr().IsLoopback() || n.Addr().IsMulticast() || n.Addr().IsLinkLocalUnicast():
			add("network.Subnet", n, "no network of hosts")
		}
		for _, o := range c.Subnets[:i] {
			if o.Addr().Is4() == n.Addr().Is4() {
				add("network.Subnet", n, fmt.Sprintf("two networks of one kind, with %v", o))
			}
		}
	}
	for i, a := range c.Addresses {
		switch {
		case !a.IsValid() || a.Zone() != "" || a.Is4In6():
			add("network.Address", a, "an address without a zone, and IPv4 as such")
		case a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified():
			add("network.Address", a, "no address of a host")
		}
		for _, o := range c.Addresses[:i] {
			if o.Is4() == a.Is4() {
				add("network.Address", a, fmt.Sprintf("two addresses of one kind, with %v", o))
			}
		}
		for _, n := range c.Subnets {
			if n.Addr().Is4() == a.Is4() && plain(n) && !n.Contains(a) {
				add("network.Address", a, fmt.Sprintf("outside of %v", n))
			}
		}
	}
	for _, r := range c.Routes {
		switch {
		case !plain(r.To):
			add("network.AddRoute", r, "not to a network")
		case !r.Via.IsValid() || r.Via.Is4() != r.To.Addr().Is4():
			add("network.AddRoute", r, "the way must be an address of the same kind")
		}
	}
}

// plain tells whether it is a network of IPv4 or IPv6 proper.
func plain(n netip.Prefix) bool {
	return n.IsValid() && n.Addr().Zone() == "" && !n.Addr().Is4In6()
}

func (c *config) checkNames(add adder) {
	if len(c.DNS) > maxServers {
		add("network.DNS", c.DNS, fmt.Sprintf("%d servers: programs look at %d", len(c.DNS), maxServers))
	}
	for _, a := range c.DNS {
		if !a.IsValid() {
			add("network.DNS", a, "not an address")
		}
	}
	for _, name := range c.Search {
		if why := checkHost(name); why != "" {
			add("network.SearchDomain", fmt.Sprintf("%q", name), why)
		}
	}
	for _, h := range c.Hosts {
		if why := checkHost(h.Name); why != "" {
			add("network.AddHost", fmt.Sprintf("%q", h.Name), why)
		}
		if !h.Address.IsValid() || h.Address.Is4In6() {
			add("network.AddHost", fmt.Sprintf("%q", h.Name), "not an address")
		}
	}
}

// checkHost tells what is wrong with a name of a host or domain.
func checkHost(name string) string {
	if name == "" || len(name) > 253 {
		return "from 1 to 253 bytes"
	}
	for i := range len(name) {
		c := name[i]
		if alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'; !alnum && c != '-' && c != '.' && c != '_' {
			return fmt.Sprintf("character %q: letters, digits, '-', '.' and '_' are allowed", c)
		}
	}
	return ""
}

// checkName tells what is wrong with the name of a link, as the kernel would.
func checkName(name string) string {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Sprintf("from 1 to %d bytes", maxName)
	case name == "." || name == ".." || name == "all" || name == "default" || name == "lo":
		return "no name for a link"
	}
	for i := range len(name) {
		c := name[i]
		if alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'; !alnum && c != '-' && c != '_' && c != '.' {
			return fmt.Sprintf("character %q: letters, digits, '-', '.' and '_' are allowed", c)
		}
	}
	return ""
}

// overlaps tells whether two would take the same port of the host.
func (p Port) overlaps(o Port) bool {
	a, b := p.address(), o.address()
	if p.udp() != o.udp() || a.Is4() != b.Is4() || a != b && !a.IsUnspecified() && !b.IsUnspecified() {
		return false
	}
	return int(p.Host) < int(o.Host)+int(max(o.Count, 1)) && int(o.Host) < int(p.Host)+int(max(p.Count, 1))
}
