package network

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// proxy serves a published port of a user's container: it listens on the host's socket
// and speaks to the container from the annex, by the bridge's address.
type proxy struct {
	to  netip.AddrPort
	tcp net.Listener
	udp *net.UDPConn

	mu     sync.Mutex
	open   map[io.Closer]bool
	peers  map[netip.AddrPort]*net.UDPConn // who asked by UDP, and how the container knows him
	closed bool
	wg     sync.WaitGroup
}

const (
	// idle is how long the container may answer a UDP packet, or its sender go on, after
	// the last: what the kernel's connection tracking gives a stream,
	// nf_conntrack_udp_timeout_stream.
	idle = 120 * time.Second
	// maxPeers bounds those who have asked by UDP on one port: each costs a socket.
	maxPeers = 1024
)

// newProxy takes a copy of the socket.
func newProxy(p Port, f *os.File, addresses []netip.Prefix) (*proxy, error) {
	x := &proxy{open: map[io.Closer]bool{}, peers: map[netip.AddrPort]*net.UDPConn{}}
	for _, a := range addresses {
		if a.Addr().Is6() == p.address().Is6() {
			x.to = netip.AddrPortFrom(a.Addr(), p.Container)
		}
	}
	if !x.to.IsValid() {
		return nil, fail("network.Publish", p.String(), os.ErrInvalid, "give the bridge a network of that kind")
	}
	if !p.udp() {
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fail("listen", p.String(), err, "")
		}
		x.tcp = l
		return x, nil
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fail("listen", p.String(), err, "")
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return nil, fail("listen", p.String(), errors.Join(os.ErrInvalid, c.Close()), "")
	}
	x.udp = udp
	return x, nil
}

// start begins to serve.
func (x *proxy) start() {
	if x.tcp != nil {
		x.wg.Go(x.accept)
	} else {
		x.wg.Go(x.receive)
	}
}

// keep has close close it too; false: it is closed already.
func (x *proxy) keep(c io.Closer) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	x.open[c] = true
	return true
}

func (x *proxy) forget(c io.Closer) {
	x.mu.Lock()
	delete(x.open, c)
	x.mu.Unlock()
	_ = c.Close() // only read, or what was written was not read
}

// accept serves TCP.
func (x *proxy) accept() {
	for {
		c, err := x.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptor was free, or who asked is gone
			if !x.wait() {
				return
			}
			continue
		}
		if !x.keep(c) {
			_ = c.Close()
			return
		}
		x.wg.Go(func() { x.pass(c) })
	}
}

// wait waits a moment for descriptors; false: it was closed.
func (x *proxy) wait() bool {
	<-time.After(10 * time.Millisecond) // nothing tells when there is one
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.closed
}

// pass passes a connection's bytes both ways, and its ends.
func (x *proxy) pass(c net.Conn) {
	defer x.forget(c)
	out := c.(*net.TCPConn) //nolint:forcetypeassert // a TCP listener's
	d := net.Dialer{Timeout: idle}
	got, err := d.Dial("tcp", x.to.String())
	if err != nil {
		_ = out.SetLinger(0) // refused, as far as it can be told
		return
	}
	in := got.(*net.TCPConn) //nolint:forcetypeassert // as asked for
	if !x.keep(in) {
		_ = in.Close()
		return
	}
	defer x.forget(in)
	var wg sync.WaitGroup
	one := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			// One side broke off: the other hears of it.
			_, _ = to.SetLinger(0), from.SetLinger(0)
			_, _ = to.Close(), from.Close()
			return
		}
		_ = to.CloseWrite() // it may be gone
	}
	wg.Go(func() { one(in, out) })
	one(out, in)
	wg.Wait()
}

// receive serves UDP.
func (x *proxy) receive() {
	buf := make([]byte, 65536)
	for {
		n, from, err := x.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an answer could not be delivered, and the kernel tells it here
		}
		c := x.peer(from)
		if c == nil {
			continue // a packet may be lost
		}
		_ = c.SetReadDeadline(time.Now().Add(idle)) // a closed one is replaced by the next packet
		_, _ = c.Write(buf[:n])                     // nobody listens there: it is lost, as it would be
	}
}

// peer is the socket by which the container knows who asked.
func (x *proxy) peer(from netip.AddrPort) *net.UDPConn {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.peers[from]; c != nil || x.closed || len(x.peers) >= maxPeers {
		return c
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(x.to))
	if err != nil {
		return nil
	}
	x.peers[from], x.open[c] = c, true
	_ = c.SetReadDeadline(time.Now().Add(idle)) // it was just made
	x.wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
				break
			}
			if err != nil {
				continue // nobody listens in the container, yet
			}
			_ = c.SetReadDeadline(time.Now().Add(idle))
			_, _ = x.udp.WriteToUDPAddrPort(buf[:n], from) // lost, as any packet may be
		}
		x.mu.Lock()
		delete(x.peers, from)
		x.mu.Unlock()
		x.forget(c)
	})
	return c
}

// close ends it and all connections.
func (x *proxy) close() error {
	x.mu.Lock()
	x.closed = true
	for c := range x.open {
		_ = c.Close() // what was under way is lost with the container
	}
	x.mu.Unlock()
	var err error
	if x.tcp != nil {
		err = x.tcp.Close()
	} else {
		err = x.udp.Close()
	}
	x.wg.Wait()
	return err
}
