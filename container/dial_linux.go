package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

func (c *Container) dial(ctx context.Context, network, address string) (net.Conn, error) {
	list, err := endpoints(network, address, false)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	var first error
	for _, e := range list {
		conn, err := c.connect(ctx, &e)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = &net.OpError{Op: "dial", Net: network, Addr: e.addr, Err: err}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// connect has init connect to an address, and waits until it is.
func (c *Container) connect(ctx context.Context, e *endpoint) (net.Conn, error) {
	// Who connects to a port of lo that is free may be given this very port, and then be
	// connected to itself: another try gets another.
	const tries = 3
	for try := 1; ; try++ {
		fd, err := c.socket(ctx, e)
		if err != nil {
			return nil, err
		}
		conn, err := connection(ctx, fd)
		if err != nil {
			return nil, err
		}
		if e.Type != unix.SOCK_STREAM || e.Domain == unix.AF_UNIX || conn.LocalAddr().String() != conn.RemoteAddr().String() {
			return conn, nil
		}
		if err := conn.Close(); err != nil {
			return nil, err
		}
		if try == tries {
			return nil, os.NewSyscallError("connect", unix.ECONNREFUSED)
		}
	}
}

// connection takes a socket over, once it is connected.
func connection(ctx context.Context, fd int) (net.Conn, error) {
	// Over lo it mostly is by now. A file that blocks is nothing for Go's poller, which
	// has the connection's own descriptor soon.
	done, err := isConnected(fd)
	if done && err == nil {
		err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, false))
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was sent over it
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "socket")
	if !done {
		if err := established(ctx, file); err != nil {
			_ = file.Close() // the same
			return nil, err
		}
	}
	conn, err := net.FileConn(file)
	if cerr := file.Close(); err == nil && cerr != nil {
		return nil, errors.Join(cerr, conn.Close())
	}
	return conn, err
}

func (c *Container) listen(ctx context.Context, network, address string) (net.Listener, error) {
	list, err := endpoints(network, address, true)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	for i, e := range list {
		l, err := c.bind(ctx, &e)
		if err == nil {
			return l, nil
		}
		if i == len(list)-1 || !missing(err) {
			return nil, &net.OpError{Op: "listen", Net: network, Addr: e.addr, Err: err}
		}
	}
	return nil, &net.OpError{Op: "listen", Net: network, Err: errors.New("inlay: bug: no address")}
}

// bind has init listen at an address.
func (c *Container) bind(ctx context.Context, e *endpoint) (net.Listener, error) {
	fd, err := c.socket(ctx, e)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "socket")
	l, err := net.FileListener(file)
	if cerr := file.Close(); err == nil && cerr != nil {
		err = errors.Join(cerr, l.Close())
	}
	if err != nil {
		return nil, err
	}
	r, err := c.started()
	if err == nil {
		err = r.listening.add(l)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	switch l := l.(type) {
	case *net.TCPListener:
		return &tcpListener{l, &r.listening}, nil
	case *net.UnixListener:
		u := &unixListener{l, &r.listening, l.Addr()}
		if e.Path {
			u.addr = e.addr // it was bound by its last name, in its folder
		}
		return u, nil
	}
	return nil, errors.Join(fmt.Errorf("inlay: bug: a listener of type %T", l), l.Close())
}

// socket is a socket that init has made, and connected or bound.
func (c *Container) socket(ctx context.Context, e *endpoint) (int, error) {
	r, err := c.started()
	if err != nil {
		return -1, err
	}
	if ctx.Err() != nil {
		return -1, contextError(ctx)
	}
	if r.init == nil {
		return -1, ErrClosed // its start has failed
	}
	fd, err := r.init.Socket(ctx, &e.SocketRequest)
	var failed *launcher.PlanError
	switch {
	case err == nil:
	case errors.As(err, &failed):
		return -1, os.NewSyscallError(socketCalls[failed.Step], failed.Errno)
	case ctx.Err() != nil:
		return -1, contextError(ctx)
	default:
		return -1, ended(err)
	}
	if err := verify(fd, &e.SocketRequest); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// socketCalls are the steps of making a socket, by their calls.
var socketCalls = map[int]string{
	rawproc.SocketMade: "socket", rawproc.SocketSet: "setsockopt", rawproc.SocketBound: "bind", rawproc.SocketListens: "listen", rawproc.SocketConnected: "connect",
}

// verify looks whether a descriptor is the socket that was asked for.
func verify(fd int, r *launcher.SocketRequest) error {
	accepts := 0
	if r.Backlog > 0 {
		accepts = 1
	}
	for _, want := range []struct {
		name  string
		opt   int
		value int
	}{
		{"SO_DOMAIN", unix.SO_DOMAIN, r.Domain},
		{"SO_TYPE", unix.SO_TYPE, r.Type},
		{"SO_PROTOCOL", unix.SO_PROTOCOL, r.Protocol},
		{"SO_ACCEPTCONN", unix.SO_ACCEPTCONN, accepts},
	} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want.opt)
		if err != nil {
			return fmt.Errorf("inlay: bug: init sent no socket: %s: %w", want.name, err)
		}
		if got != want.value {
			return fmt.Errorf("inlay: bug: init sent another socket: %s is %d, not %d", want.name, got, want.value)
		}
	}
	return nil
}

// established waits until a socket is connected that was not a moment ago.
func established(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	look := func(fd uintptr) bool {
		var done bool
		done, inner = isConnected(int(fd))
		return done
	}
	stop := context.AfterFunc(ctx, func() {
		_ = file.SetWriteDeadline(time.Unix(1, 0)) // it is closed: nobody waits
	})
	defer stop()
	if err := raw.Write(look); err != nil {
		if ctx.Err() != nil {
			return contextError(ctx)
		}
		return err
	}
	return inner
}

// isConnected tells whether a socket is connected, or why it will not be; neither: it
// is under way.
func isConnected(fd int) (bool, error) {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, os.NewSyscallError("getsockopt", err)
	}
	if errno != 0 {
		return true, os.NewSyscallError("connect", syscall.Errno(errno))
	}
	_, err = unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return false, nil
	}
	return true, os.NewSyscallError("getpeername", err)
}

// dialError is the end of a context, as net has it.
type dialError struct{ err, cause error }

func contextError(ctx context.Context) error { return &dialError{ctx.Err(), context.Cause(ctx)} }

func (e *dialError) Error() string   { return e.cause.Error() }
func (e *dialError) Unwrap() []error { return []error{e.err, e.cause} }
func (e *dialError) Timeout() bool   { return errors.Is(e.err, context.DeadlineExceeded) }
func (e *dialError) Temporary() bool { return e.Timeout() }

// Is tells a deadline as net tells it.
func (e *dialError) Is(target error) bool { return target == os.ErrDeadlineExceeded && e.Timeout() }

// listeners are those that are closed with their container.
type listeners struct {
	mu     sync.Mutex
	open   map[net.Listener]struct{}
	closed bool
}

func (s *listeners) add(l net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.open == nil {
		s.open = map[net.Listener]struct{}{}
	}
	s.open[l] = struct{}{}
	return nil
}

// close closes a listener, and the second time tells that it is.
func (s *listeners) close(l net.Listener) error {
	s.mu.Lock()
	delete(s.open, l)
	s.mu.Unlock()
	return l.Close()
}

// closeAll closes all that are open, and lets none be added.
func (s *listeners) closeAll() (err error) {
	s.mu.Lock()
	open := s.open
	s.open, s.closed = nil, true
	s.mu.Unlock()
	for l := range open {
		if e := l.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// tcpListener is closed with its container.
type tcpListener struct {
	*net.TCPListener
	of *listeners
}

func (l *tcpListener) Close() error { return l.of.close(l.TCPListener) }

// unixListener is closed with its container, and knows its path.
type unixListener struct {
	*net.UnixListener
	of   *listeners
	addr net.Addr
}

func (l *unixListener) Close() error   { return l.of.close(l.UnixListener) }
func (l *unixListener) Addr() net.Addr { return l.addr }

func (l *unixListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &unixConn{conn, l.addr}, nil
}

// unixConn was accepted, and knows its listener's path.
type unixConn struct {
	*net.UnixConn
	local net.Addr
}

func (c *unixConn) LocalAddr() net.Addr { return c.local }
