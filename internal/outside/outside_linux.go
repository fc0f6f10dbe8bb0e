package outside

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of the host's way out, and of what is there.
const (
	Host4 = "192.0.2.1"
	Host6 = "2001:db8::1"
	IPv4  = "192.0.2.2"
	IPv6  = "2001:db8::2"
)

// Make makes that namespace and connects it with the caller's by a link called out. There
// it calls serve, which leaves goroutines that serve, before it returns, and then after,
// which may stay. Both are called on a thread that is in the namespace as long as the
// program. It takes root of a user namespace with a network namespace.
func Make(serve func() error, after func()) error {
	ready := make(chan error)
	ns := make(chan *os.File, 1)
	connected := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			var f *os.File
			f, err = os.Open("/proc/thread-self/ns/net")
			ns <- f
		}
		ready <- err
		<-connected
		if err = link("up", IPv4, IPv6, ""); err == nil {
			err = serve()
		}
		ready <- err
		if err != nil {
			return // the thread ends, and the namespace with it
		}
		after()
		select {}
	}()
	if err := <-ready; err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "out"
	v := netlink.NewVeth(attrs)
	f := <-ns
	v.PeerName, v.PeerNamespace = "up", netlink.NsFd(f.Fd())
	if err := errors.Join(netlink.LinkAdd(v), f.Close()); err != nil {
		return err
	}
	close(connected)
	if err := <-ready; err != nil {
		return err
	}
	return link("out", Host4, Host6, IPv4+" "+IPv6)
}

// link gives a link its addresses, brings it and lo up, and makes a way out.
func link(name, v4, v6, via string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, a := range []*netlink.Addr{
		{IPNet: &net.IPNet{IP: net.ParseIP(v4), Mask: net.CIDRMask(24, 32)}},
		{IPNet: &net.IPNet{IP: net.ParseIP(v6), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD},
	} {
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(l)); err != nil {
		return err
	}
	for _, gw := range strings.Fields(via) {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gw)}); err != nil {
			return err
		}
	}
	return nil
}

// Serve has f serve each connection to a TCP port, until it returns, on goroutines.
func Serve(port string, f func(net.Conn)) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				f(c)
				_ = c.Close() // the other side has closed it, or sees what is missing
			}()
		}
	}()
	return nil
}

// Pace is how fast bytes come, in bits a second, once the connection has settled.
func Pace(c net.Conn) (float64, error) {
	buf := make([]byte, 64<<10)
	count := func(d time.Duration) (n float64, err error) {
		for end := time.Now().Add(d); err == nil && time.Now().Before(end); {
			var k int
			k, err = c.Read(buf)
			n += float64(k)
		}
		return n, err
	}
	if _, err := count(500 * time.Millisecond); err != nil {
		return 0, err
	}
	from := time.Now()
	n, err := count(2 * time.Second)
	return n * 8 / time.Since(from).Seconds(), err
}

// Spill sends until nobody reads.
func Spill(c net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// Peer is the address alone of who is at the other end, IPv4 as such.
func Peer(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return strings.TrimPrefix(h, "::ffff:")
}
