package userstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/containers/gvisor-tap-vsock/pkg/services/forwarder"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/inlay-dev/inlay/internal/netdriver"
)

const (
	deviceFD = 3
	mtu      = 1500
	// connecting is how many connections may be on their way out at once; who asks for
	// more is heard when he asks again.
	connecting = 1024
	// patience is how long a connection may take, as Linux has it with tcp_syn_retries 6.
	patience = 127 * time.Second
)

func init() {
	netdriver.RegisterStack(netdriver.Stack{Name: Name})
	if len(os.Args) != 1 || os.Args[0] != Name {
		return
	}
	// Somebody else's program of that name has no such descriptor.
	if _, err := unix.IoctlGetUint32(deviceFD, unix.TUNGETIFF); errors.Is(err, unix.EBADF) || errors.Is(err, unix.ENOTTY) {
		return
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve serves the device until it is gone.
func serve() error {
	// What ps shows, instead of "exe".
	name, err := unix.BytePtrFromString(Name)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := unix.SetNonblock(deviceFD, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	ended := make(chan error, 1)
	device, err := fdbased.New(&fdbased.Options{
		FDs: []int{deviceFD}, MTU: mtu,
		ClosedFunc: func(err tcpip.Error) { ended <- fmt.Errorf("the tun device: %v", err) },
	})
	if err != nil {
		return err
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := configure(s, noEcho(device)); err != nil {
		return err
	}
	f := tcp.NewForwarder(s, 0, connecting, pass)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, f.HandlePacket)
	u := forwarder.UDP(s, map[tcpip.Address]tcpip.Address{}, &sync.Mutex{}, true)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, u.HandlePacket)
	return <-ended
}

// configure has the stack take every packet as its own, and answer as whoever it was for.
func configure(s *stack.Stack, device stack.LinkEndpoint) error {
	const nic = 1
	if err := s.CreateNIC(nic, device); err != nil {
		return fmt.Errorf("the stack's device: %v", err)
	}
	sack, adapt := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	for _, err := range []tcpip.Error{
		s.SetPromiscuousMode(nic, true), s.SetSpoofing(nic, true),
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack), s.SetTransportProtocolOption(tcp.ProtocolNumber, &adapt),
	} {
		if err != nil {
			return fmt.Errorf("the stack's options: %v", err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	return nil
}

// quiet is a device without pings.
type quiet struct{ nested.Endpoint }

// noEcho drops echo requests: the stack would answer them itself, for hosts that may not
// be there.
func noEcho(device stack.LinkEndpoint) stack.LinkEndpoint {
	q := &quiet{}
	q.Init(device, q)
	return q
}

// DeliverNetworkPacket is stack.NetworkDispatcher's.
func (q *quiet) DeliverNetworkPacket(protocol tcpip.NetworkProtocolNumber, p *stack.PacketBuffer) {
	v := p.ToView()
	defer v.Release()
	if !isEcho(v.AsSlice()) {
		q.Endpoint.DeliverNetworkPacket(protocol, p)
	}
}

// isEcho tells whether a packet is an echo request.
func isEcho(b []byte) bool {
	switch header.IPVersion(b) {
	case header.IPv4Version:
		if h := header.IPv4(b); len(b) >= header.IPv4MinimumSize && h.TransportProtocol() == header.ICMPv4ProtocolNumber && h.FragmentOffset() == 0 {
			n := int(h.HeaderLength())
			return len(b) > n && header.ICMPv4Type(b[n]) == header.ICMPv4Echo
		}
	case header.IPv6Version:
		if h := header.IPv6(b); len(b) > header.IPv6MinimumSize && h.TransportProtocol() == header.ICMPv6ProtocolNumber {
			return header.ICMPv6Type(b[header.IPv6MinimumSize]) == header.ICMPv6EchoRequest
		}
	}
	return false
}

// pass connects who asks to whom he asked for: his connection is made once the other is,
// and refused with it.
func pass(r *tcp.ForwarderRequest) {
	to := r.ID()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var d net.Dialer
	got, err := d.DialContext(ctx, "tcp", net.JoinHostPort(to.LocalAddress.String(), fmt.Sprint(to.LocalPort)))
	if err != nil {
		r.Complete(true)
		return
	}
	var q waiter.Queue
	ep, refused := r.CreateEndpoint(&q)
	r.Complete(refused != nil)
	if refused != nil {
		_ = got.Close() // who asked has gone
		return
	}
	ep.SocketOptions().SetKeepAlive(true)
	go join(gonet.NewTCPConn(&q, ep), got.(*net.TCPConn)) //nolint:forcetypeassert // as asked for
}

// half is a connection whose two directions end one by one.
type half interface {
	net.Conn
	CloseWrite() error
}

// join passes bytes both ways, and their ends.
func join(in *gonet.TCPConn, out *net.TCPConn) {
	one := func(to, from half) {
		if _, err := io.Copy(to, from); err != nil {
			// One side broke off: the other hears of it.
			_, _, _ = out.SetLinger(0), to.Close(), from.Close()
			return
		}
		_ = to.CloseWrite() // it may be gone
	}
	var wg sync.WaitGroup
	wg.Go(func() { one(in, out) })
	one(out, in)
	wg.Wait()
	_, _ = in.Close(), out.Close()
}
