package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/netdriver"
)

// A user has no power over the host's links, but has it over those of a network
// namespace that belongs to the launcher's user namespace: the annex. It stands for the
// host: bridges, veths, rules and rates are made in it as root makes them on the host,
// by the same code, and what leaves it goes to an uplink: pasta(1) or a stack that is in
// the program, which send it on by sockets of the user's own. Containers' user namespaces are below the launcher's, so
// the annex has power over their links too.
//
// There is one for all containers of a program, while one uses it:
//
//	host program ── inlay-network ──┬── inlay-bridge   in the annex: serve
//	                                └── pasta          the uplink
//
// inlay-network stays outside, as pasta's parent, whom the kernel has killed with it. It
// ends, and both others before it, when the control socket does: with the host program.
type annex struct {
	userns  uint64 // the inode of the launcher's user namespace
	control *net.UnixConn
	cmd     *exec.Cmd
	ended   chan struct{}
	users   int // guarded by annexes
}

var annexes = struct {
	sync.Mutex
	m map[uint64]*annex
}{m: map[uint64]*annex{}}

// The processes' os.Args[0], and the descriptors that they begin with.
const (
	parentName  = "inlay-network"
	bridgeName  = "inlay-bridge"
	controlFD   = 3
	usernsFD    = 4
	maxMessage  = 256 << 10
	filesAtOnce = 100 // of the 253 that one message can carry
)

// annexConfig is their os.Args[1].
type annexConfig struct {
	// Pasta is the program's path; or Stack is the name of a stack that is in this one.
	Pasta string `json:"pasta,omitempty"`
	Stack string `json:"stack,omitempty"`
	// Tap is the descriptor of a socket that the stack's device is wanted on.
	Tap int `json:"tap,omitempty"`
	// IPv6 tells that the host has a way out by it; pasta finds out by itself.
	IPv6 bool `json:"ipv6,omitempty"`
	// Taken are the host's own addresses, which containers are kept from.
	Taken []netip.Addr `json:"taken,omitempty"`
}

// A message asks or answers; descriptors go with it.
type message struct {
	Op    string           `json:"op,omitempty"`
	Start *netdriver.Start `json:"start,omitempty"`
	Rate  *netdriver.Rate  `json:"rate,omitempty"`
	Ports []Port           `json:"ports,omitempty"`
	Error *remoteError     `json:"error,omitempty"`

	Addresses []netip.Prefix      `json:"addresses,omitempty"`
	Resolv    []byte              `json:"resolv,omitempty"`
	Hosts     []byte              `json:"hosts,omitempty"`
	Inside    bool                `json:"inside,omitempty"` // Link.ShapedInside
	Counters  *netdriver.Counters `json:"counters,omitempty"`
}

// What a message can ask for.
const (
	opLink     = "link" // with one end of a socket that the link is asked for by
	opBegin    = "begin"
	opHold     = "hold"
	opPorts    = "ports"
	opConnect  = "connect"
	opRate     = "rate"
	opCounters = "counters"
	opClose    = "close"
	opReady    = "ready"
)

// remoteError is a netdriver.Error on its way.
type remoteError struct {
	Op, Path, Text, Remedy string
	Errno                  syscall.Errno
	Unsupported, Limit     bool
}

func toRemote(err error) *remoteError {
	if err == nil {
		return nil
	}
	r := &remoteError{Op: "network", Text: err.Error(), Unsupported: errors.Is(err, errors.ErrUnsupported)}
	var e *netdriver.Error
	if errors.As(err, &e) {
		r.Op, r.Path, r.Text, r.Remedy, r.Limit = e.Op, e.Path, e.Err.Error(), e.Remedy, e.Limit
	}
	errors.As(err, &r.Errno)
	return r
}

func (r *remoteError) error() error {
	if r == nil {
		return nil
	}
	return &netdriver.Error{Op: r.Op, Path: r.Path, Err: r, Remedy: r.Remedy, Limit: r.Limit}
}

// Error is the text that it had.
func (r *remoteError) Error() string { return r.Text }

// Is sees the kernel's answer.
func (r *remoteError) Is(target error) bool {
	return r.Unsupported && target == errors.ErrUnsupported || r.Errno != 0 && errors.Is(r.Errno, target)
}

// useAnnex returns the annex in a user namespace, made if needed, for one user more.
func useAnnex(ctx context.Context, userns *os.File) (*annex, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(userns.Fd()), &st); err != nil {
		return nil, fail("stat", userns.Name(), err, "")
	}
	annexes.Lock()
	defer annexes.Unlock()
	if a := annexes.m[st.Ino]; a != nil && !isClosed(a.ended) {
		a.users++
		return a, nil
	}
	var a *annex
	err := onHost(func() (err error) {
		a, err = startAnnex(ctx, userns)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.userns, a.users = st.Ino, 1
	annexes.m[st.Ino] = a
	return a, nil
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// leave gives one use back; the last ends the annex, and with it all that is in it.
func (a *annex) leave() error {
	annexes.Lock()
	defer annexes.Unlock()
	if a.users--; a.users > 0 {
		return nil
	}
	if annexes.m[a.userns] == a {
		delete(annexes.m, a.userns)
	}
	return a.end()
}

// end ends its processes.
func (a *annex) end() error {
	err := a.control.Close()
	<-a.ended
	return err
}

// startAnnex starts its processes and waits until there is a way out.
func startAnnex(ctx context.Context, userns *os.File) (*annex, error) {
	c := annexConfig{}
	var err error
	if err := c.chooseUplink(); err != nil {
		return nil, err
	}
	if c.Taken, err = ownAddresses(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(&c)
	if err != nil {
		return nil, fail("encode", "the network's config", err, "")
	}
	own, peer, err := messagePair()
	if err != nil {
		return nil, err
	}
	a := &annex{control: own, ended: make(chan struct{})}
	a.cmd = reexec.Command(parentName, string(text))
	a.cmd.ExtraFiles = []*os.File{peer, userns}
	a.cmd.Dir = "/"
	a.cmd.Env = childEnv()
	// As the launcher: Ctrl-C is the host's alone, and a thread that ends does not end it.
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := a.cmd.Start(); err != nil {
		return nil, fail("execute", a.cmd.Path, errors.Join(err, own.Close(), peer.Close()), "")
	}
	if err := peer.Close(); err != nil {
		return nil, fail("close", "control socket", errors.Join(err, own.Close(), a.cmd.Wait()), "")
	}
	go func() {
		defer close(a.ended)
		_ = a.cmd.Wait() // what ended it was said on the socket
	}()
	m, _, err := ask(ctx, own, nil)
	if err == nil && m.Error != nil {
		err = m.Error.error()
	}
	if err == nil && m.Op != opReady {
		err = fail("start", parentName, fmt.Errorf("inlay: bug: it began with %q", m.Op), "please report it")
	}
	if err != nil {
		return nil, errors.Join(err, a.end())
	}
	return a, nil
}

// childEnv is what the Go runtime and a dynamic loader need to start.
func childEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "LD_LIBRARY_PATH=") || strings.HasPrefix(kv, "GOCOVERDIR=") {
			env = append(env, kv)
		}
	}
	return env
}

// ownAddresses are the host's, loopback's left out.
func ownAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fail("list addresses", "", err, "")
	}
	var out []netip.Addr
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); ok && ip.IsGlobalUnicast() {
			out = append(out, ip)
		}
	}
	return out, nil
}

// messagePair makes a socket that keeps messages apart.
func messagePair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fail("socketpair", "", err, "")
	}
	peer := os.NewFile(uintptr(fds[1]), "network socket")
	c, err := messageConn(os.NewFile(uintptr(fds[0]), "network socket"))
	if err != nil {
		return nil, nil, errors.Join(err, peer.Close())
	}
	return c, peer, nil
}

// messageConn takes a file for messages; it is closed.
func messageConn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, fail("open", f.Name(), err, "")
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fail("open", f.Name(), errors.Join(unix.EPROTOTYPE, c.Close()), "")
	}
	return u, nil
}

// put sends a message with descriptors, which stay the caller's.
func put(c *net.UnixConn, m *message, files ...*os.File) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return unix.EMSGSIZE
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	// A blocking write of one message would want a buffer for all of it.
	if err := c.SetWriteBuffer(2 * maxMessage); err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix(text, rights, nil)
	return err
}

// get receives one; its files are the caller's.
func get(c *net.UnixConn) (*message, []*os.File, error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*filesAtOnce*2))
	n, on, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	var files []*os.File
	list, err := unix.ParseSocketControlMessage(oob[:on])
	for i := range list {
		fds, e := unix.ParseUnixRights(&list[i])
		err = errors.Join(err, e)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	m := &message{}
	switch {
	case err != nil:
	case n == 0:
		err = unix.ECONNRESET // its end; no message is empty
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = unix.EMSGSIZE
	default:
		err = json.Unmarshal(buf[:n], m)
	}
	if err != nil {
		return nil, nil, errors.Join(err, closeFiles(files))
	}
	return m, files, nil
}

func closeFiles(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// ask sends a message, if there is one, and waits for the answer, which must not be late
// for the context.
func ask(ctx context.Context, c *net.UnixConn, m *message, files ...*os.File) (*message, []*os.File, error) {
	past := time.Unix(1, 0)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(past) }) // a closed one answers by itself
	defer stop()
	if m != nil {
		if err := put(c, m, files...); err != nil {
			return nil, nil, lost(ctx, err)
		}
	}
	answer, got, err := get(c)
	if err != nil {
		return nil, nil, lost(ctx, err)
	}
	return answer, got, nil
}

func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fail("wait for", bridgeName, context.Cause(ctx), "")
	}
	return fail("reach", bridgeName, err, "it, or the uplink, was killed or has crashed: containers that are started anew get another")
}

// annexLink is a container's link in the annex.
type annexLink struct {
	a      *annex
	c      *config
	ports  []*os.File // that wait to be handed over
	begun  message
	mu     sync.Mutex
	conn   *net.UnixConn
	closed bool
	last   netdriver.Counters
	inside bool
}

// beginInAnnex is Begin for a user.
func beginInAnnex(ctx context.Context, s *netdriver.Start) (netdriver.Link, error) {
	c, err := parse(s.Config)
	if err != nil {
		return nil, fail("network.Bridge", s.Kind, err, "")
	}
	l := &annexLink{c: c}
	if err := l.begin(ctx, s); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *annexLink) begin(ctx context.Context, s *netdriver.Start) error {
	if err := onHost(l.listen); err != nil {
		return err
	}
	if err := l.open(ctx, s.Userns); err != nil {
		return err
	}
	there := *s
	there.Userns = nil
	// The ports are the host's, and served by a proxy.
	c := *l.c
	c.Ports = nil
	var err error
	if there.Config, err = json.Marshal(&c); err != nil {
		return fail("encode", s.Kind, err, "")
	}
	m, err := l.call(ctx, &message{Op: opBegin, Start: &there})
	if err != nil {
		return err
	}
	l.begun, l.inside = *m, m.Inside
	return nil
}

// open enters the annex with a socket of its own.
func (l *annexLink) open(ctx context.Context, userns *os.File) error {
	a, err := useAnnex(ctx, userns)
	if err != nil {
		return err
	}
	l.a = a
	own, peer, err := messagePair()
	if err != nil {
		return err
	}
	l.conn = own
	err = put(a.control, &message{Op: opLink}, peer)
	if err = errors.Join(err, peer.Close()); err != nil {
		return lost(ctx, err)
	}
	return nil
}

// call asks for one thing, with mu held or before anybody else has the link.
func (l *annexLink) call(ctx context.Context, m *message, files ...*os.File) (*message, error) {
	if l.conn == nil {
		return nil, fail(m.Op, bridgeName, unix.ENODEV, "")
	}
	answer, got, err := ask(ctx, l.conn, m, files...)
	if err == nil {
		err = closeFiles(got)
	}
	if err != nil {
		return nil, err
	}
	return answer, answer.Error.error()
}

// listen takes the host's ports.
func (l *annexLink) listen() error {
	for _, p := range l.c.Ports {
		for i := range max(p.Count, 1) {
			fd, err := listenAt(p.address(), p.Host+i, p.udp())
			if err != nil {
				remedy := "another container or program of this host has the port, or the host not that address"
				if errors.Is(err, unix.EACCES) {
					remedy = "ports below the sysctl net.ipv4.ip_unprivileged_port_start are root's"
				}
				return fail("bind", p.String(), err, remedy)
			}
			l.ports = append(l.ports, os.NewFile(uintptr(fd), p.String()))
		}
	}
	return nil
}

// listenAt is bind for a socket that is used: connections that come before the container
// is there wait for it.
func listenAt(a netip.Addr, port uint16, udp bool) (int, error) {
	fd, err := bind(a, port, udp, func(fd int) error {
		if err := unix.SetNonblock(fd, true); err != nil || udp {
			return os.NewSyscallError("fcntl", err)
		}
		// Connections of a container before may linger; who listens keeps others out.
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	})
	if err != nil || udp {
		return fd, err
	}
	if err := unix.Listen(fd, 128); err != nil {
		return -1, errors.Join(os.NewSyscallError("listen", err), unix.Close(fd))
	}
	return fd, nil
}

// Files is netdriver.Link's.
func (l *annexLink) Files() (resolv, hosts []byte) { return l.begun.Resolv, l.begun.Hosts }

// Addresses is netdriver.Link's.
func (l *annexLink) Addresses() []netip.Prefix { return l.begun.Addresses }

// ShapedInside is netdriver.Link's.
func (l *annexLink) ShapedInside() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inside
}

// Connect is netdriver.Link's.
func (l *annexLink) Connect(ctx context.Context, ns *os.File) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fail("connect", bridgeName, unix.ESRCH, "")
	}
	var list []Port // one for each socket
	for _, p := range l.c.Ports {
		for i := range max(p.Count, 1) {
			list = append(list, Port{Protocol: p.Protocol, Address: p.Address, Host: p.Host + i, Container: p.Container + i})
		}
	}
	for first := 0; first < len(list); first += filesAtOnce {
		last := min(first+filesAtOnce, len(list))
		if _, err := l.call(ctx, &message{Op: opPorts, Ports: list[first:last]}, l.ports[first:last]...); err != nil {
			return err
		}
	}
	err := closeFiles(l.ports)
	l.ports = nil
	if err != nil {
		return fail("close", "ports", err, "")
	}
	_, err = l.call(ctx, &message{Op: opConnect}, ns)
	return err
}

// SetRate is netdriver.Link's.
func (l *annexLink) SetRate(r netdriver.Rate) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := l.call(context.Background(), &message{Op: opRate, Rate: &r})
	if m != nil {
		l.inside = m.Inside
	}
	return err
}

// Counters is netdriver.Link's. After Close they are the last ones.
func (l *annexLink) Counters() (netdriver.Counters, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.last, nil
	}
	m, err := l.call(context.Background(), &message{Op: opCounters})
	if err == nil && m.Counters != nil {
		l.last = *m.Counters
	}
	return l.last, err
}

// Close is netdriver.Link's. Where the annex is gone, so is all that was in it.
func (l *annexLink) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	errs := []error{closeFiles(l.ports)}
	if l.conn != nil {
		// After a call that was given up its answer may come first.
		m := &message{}
		err := errors.Join(l.conn.SetDeadline(time.Time{}), put(l.conn, &message{Op: opClose}))
		for err == nil && m.Op != opClose {
			var files []*os.File
			if m, files, err = get(l.conn); err == nil {
				err = closeFiles(files)
			}
		}
		if err == nil {
			errs = append(errs, m.Error.error())
			if m.Counters != nil {
				l.last = *m.Counters
			}
		}
		errs = append(errs, l.conn.Close())
	}
	if l.a != nil {
		errs = append(errs, l.a.leave())
	}
	return errors.Join(errs...)
}

// holdInAnnex is Hold for a user.
func holdInAnnex(ctx context.Context, c *config, userns *os.File, stateDir string) (*annexLink, error) {
	l := &annexLink{c: &config{}}
	err := l.open(ctx, userns)
	if err == nil {
		var text []byte
		if text, err = json.Marshal(c); err == nil {
			_, err = l.call(ctx, &message{Op: opHold, Start: &netdriver.Start{Kind: "bridge", Config: text, StateDir: stateDir}})
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
