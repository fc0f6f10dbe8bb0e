package container

import (
	"context"
	"net"
)

// Dial connects to a server in the container, over its own network namespace: no
// interface leads there, and none is needed. It is made for http.Transport's
// DialContext, and differs from net.Dialer's in where addresses are looked for:
//
//   - tcp, tcp4, tcp6, udp, udp4 and udp6 take literal addresses, "localhost" or no host
//     at all, which is the same and leads to 127.0.0.1 and then to ::1. Other names are
//     refused with a *net.DNSError: neither the host's resolver nor a file that a job
//     may write decides where a connection goes. Ports are numbers.
//   - unix, unixgram and unixpacket take a path of the container, beginning with a slash,
//     that is resolved inside it whatever its links say, or an abstract name, "@name".
//
// The container's init connects, with its rights, and hands the connection over: nothing
// can be reached that is not reached from inside, and who asks for credentials (unix(7))
// sees init. Where the container has the host's network namespace, or another's, it is
// that which addresses belong to.
//
// The connection is a *net.TCPConn, *net.UDPConn or *net.UnixConn of this program. It is
// not closed with the container: what a job has sent before its end can still be read,
// and then reading ends, or fails with ECONNRESET, as the other side is gone. Like every
// open socket it keeps its network namespace, with nobody in it, until it is closed.
//
// The context bounds the connecting alone. Errors are *net.OpErrors around ErrNotStarted,
// ErrClosed, ErrEnded where the container is gone, the kernel's answer (ECONNREFUSED
// where nobody listens), or the context's: of a deadline that matches
// os.ErrDeadlineExceeded too. It may be called by many goroutines.
func (c *Container) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return c.dial(ctx, network, address)
}

// Listen listens in the container's network namespace for this program: jobs connect to
// it as to a server beside them, over lo or a socket's file, and no interface is needed.
//
// Networks are tcp, tcp4, tcp6, unix and unixpacket, addresses those of
// [Container.Dial]; no host means all addresses of the container, IPv6 and IPv4, and
// port 0 one that is free, which Addr tells. Ports below 1024 are open to this program
// where the network namespace is the container's own. Init makes a socket's file, in a
// folder that must be there; all users of the container may connect who get into the
// folder. The file stays when the listener is closed, and is removed by who made the
// folder, or with the container.
//
// Who connects is as strange to this program as the job is: what it sends is not to be
// believed, and neither its address.
//
// Close of the container closes the listener: Accept then returns net.ErrClosed.
// Accepted connections are as those of Dial. The context bounds the call alone; errors
// are as Dial's.
func (c *Container) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return c.listen(ctx, network, address)
}
