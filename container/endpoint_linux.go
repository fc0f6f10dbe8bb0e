package container

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

// endpoint is one address that a socket is connected or bound to.
type endpoint struct {
	launcher.SocketRequest
	addr net.Addr
}

// family is what a network's name says.
type family struct {
	kind, protocol int
	v4, v6, unix   bool
	dialOnly       bool
}

var families = map[string]family{
	"tcp":        {kind: unix.SOCK_STREAM, protocol: unix.IPPROTO_TCP, v4: true, v6: true},
	"tcp4":       {kind: unix.SOCK_STREAM, protocol: unix.IPPROTO_TCP, v4: true},
	"tcp6":       {kind: unix.SOCK_STREAM, protocol: unix.IPPROTO_TCP, v6: true},
	"udp":        {kind: unix.SOCK_DGRAM, protocol: unix.IPPROTO_UDP, v4: true, v6: true, dialOnly: true},
	"udp4":       {kind: unix.SOCK_DGRAM, protocol: unix.IPPROTO_UDP, v4: true, dialOnly: true},
	"udp6":       {kind: unix.SOCK_DGRAM, protocol: unix.IPPROTO_UDP, v6: true, dialOnly: true},
	"unix":       {kind: unix.SOCK_STREAM, unix: true},
	"unixgram":   {kind: unix.SOCK_DGRAM, unix: true, dialOnly: true},
	"unixpacket": {kind: unix.SOCK_SEQPACKET, unix: true},
}

// listenBacklog is cut by the kernel to what the namespace has in net.core.somaxconn.
const listenBacklog = 1<<16 - 1

// endpoints are what an address leads to, one to be tried after the other.
func endpoints(network, address string, listen bool) ([]endpoint, error) {
	f, ok := families[network]
	if !ok || listen && f.dialOnly {
		return nil, net.UnknownNetworkError(network)
	}
	if f.unix {
		e, err := f.path(network, address)
		if err != nil {
			return nil, err
		}
		if listen {
			e.Backlog = listenBacklog
		}
		return []endpoint{e}, nil
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, &net.AddrError{Err: "a port is a number from 0 to 65535", Addr: address}
	}
	ips, err := f.hosts(host, address, listen)
	if err != nil {
		return nil, err
	}
	list := make([]endpoint, len(ips))
	for i, ip := range ips {
		e := &list[i]
		*e = f.internet(netip.AddrPortFrom(ip, uint16(port)))
		if listen {
			e.Backlog, e.Options = listenBacklog, rawproc.SocketReuse
			switch {
			case !ip.Is6():
			case f.v4 && host == "":
				e.Options |= rawproc.SocketV6AndV4
			default:
				e.Options |= rawproc.SocketV6Only
			}
		} else if f.kind == unix.SOCK_DGRAM {
			e.Options = rawproc.SocketBroadcast // as net does it
		}
	}
	return list, nil
}

// hosts are a host's addresses, in the order in which they are tried.
func (f family) hosts(host, address string, listen bool) ([]netip.Addr, error) {
	all := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if host != "" && host != "localhost" {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return nil, &net.DNSError{Err: "only addresses and localhost are known inside a container", Name: host, IsNotFound: true}
		}
		if ip.Zone() != "" {
			return nil, &net.AddrError{Err: "an address with a zone: interfaces inside have other names", Addr: address}
		}
		// As net does it: nothing is connected to no address.
		if all = []netip.Addr{ip.Unmap()}; !listen && ip.IsUnspecified() {
			if all[0] = netip.IPv6Loopback(); ip.Unmap().Is4() || f.v4 {
				all[0] = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
		}
	} else if listen && host == "" {
		// The first is for both, where there is IPv6.
		all = []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()}
	}
	var list []netip.Addr
	for _, ip := range all {
		if ip.Is4() && f.v4 || ip.Is6() && f.v6 {
			list = append(list, ip)
		}
	}
	if len(list) == 0 {
		return nil, &net.AddrError{Err: "no suitable address", Addr: host}
	}
	return list, nil
}

// internet is an endpoint of IPv4 or IPv6.
func (f family) internet(to netip.AddrPort) endpoint {
	e := endpoint{SocketRequest: launcher.SocketRequest{Domain: unix.AF_INET, Type: f.kind, Protocol: f.protocol}}
	if to.Addr().Is6() {
		e.Domain = unix.AF_INET6
	}
	// struct sockaddr_in or sockaddr_in6.
	a := binary.NativeEndian.AppendUint16(nil, uint16(e.Domain))
	a = binary.BigEndian.AppendUint16(a, to.Port())
	if to.Addr().Is6() {
		a = append(a, make([]byte, 4)...)
		a = append(a, to.Addr().AsSlice()...)
		a = append(a, make([]byte, 4)...)
	} else {
		a = append(a, to.Addr().AsSlice()...)
		a = append(a, make([]byte, 8)...)
	}
	e.Address = a
	if f.kind == unix.SOCK_STREAM {
		e.addr = net.TCPAddrFromAddrPort(to)
	} else {
		e.addr = net.UDPAddrFromAddrPort(to)
	}
	return e
}

// maxSunPath is how long struct sockaddr_un takes a name.
const maxSunPath = 108

// path is an endpoint of unix(7).
func (f family) path(network, name string) (endpoint, error) {
	e := endpoint{SocketRequest: launcher.SocketRequest{Domain: unix.AF_UNIX, Type: f.kind}, addr: &net.UnixAddr{Name: name, Net: network}}
	refuse := func(why string) (endpoint, error) {
		return endpoint{}, &net.AddrError{Err: why, Addr: name}
	}
	if abstract, ok := strings.CutPrefix(name, "@"); ok {
		if len(name) > maxSunPath {
			return refuse("more than 108 bytes")
		}
		// A name of no length would be one that the kernel chooses.
		if abstract == "" {
			return refuse("an abstract name without a name")
		}
		e.Address = append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), 0)
		e.Address = append(e.Address, abstract...)
		return e, nil
	}
	switch {
	case !strings.HasPrefix(name, "/"):
		return refuse("a path inside the container begins with a slash")
	case strings.HasSuffix(name, "/"):
		return refuse("a folder")
	case strings.ContainsRune(name, 0):
		return refuse("a path has no zero bytes")
	case len(name) >= unix.PathMax:
		return refuse("more than 4095 bytes")
	}
	e.Address, e.Path = []byte(name), true
	return e, nil
}

// missing tells whether an address was refused since there is no such protocol here.
func missing(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}
