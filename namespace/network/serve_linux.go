package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/netdriver"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

func init() {
	if len(os.Args) != 2 || os.Args[0] != parentName && os.Args[0] != bridgeName {
		return
	}
	// Somebody else's program of that name has no such descriptor.
	if kind, err := unix.GetsockoptInt(controlFD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		return
	}
	err := showName()
	var c annexConfig
	if err == nil {
		err = json.Unmarshal([]byte(os.Args[1]), &c)
	}
	if err == nil && os.Args[0] == parentName {
		err = parent(&c)
	} else if err == nil {
		err = serveAnnex(&c)
	}
	if err != nil {
		tell(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// showName has ps show os.Args[0], instead of "exe".
func showName() error {
	name, err := unix.BytePtrFromString(os.Args[0])
	if err != nil {
		return err
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0))
}

// tell reports an error to the host program, if that is there.
func tell(err error) {
	f, e := unix.FcntlInt(controlFD, unix.F_DUPFD_CLOEXEC, 0)
	if e != nil {
		return
	}
	c, e := messageConn(os.NewFile(uintptr(f), "control"))
	if e != nil {
		return
	}
	_ = put(c, &message{Error: toRemote(err)}) // nobody is left to hear of it
	_ = c.Close()
}

// parent is inlay-network's life: it starts the two others, and ends them when one of
// them ends, or the host program.
func parent(c *annexConfig) error {
	// They are killed when the thread ends that made them; the main one has the process's
	// life, and init runs on it.
	runtime.LockOSThread()
	unix.CloseOnExec(usernsFD)
	tap, peer, err := messagePair()
	if err != nil {
		return err
	}
	there := *c
	// A descriptor that is not closed on exec, of a process that executes nothing yet.
	if there.Tap, err = unix.Dup(int(peer.Fd())); err != nil {
		return fail("dup", "socket", err, "")
	}
	text, err := json.Marshal(&there)
	if err != nil {
		return fail("encode", "the network's config", err, "")
	}
	pid, err := rawproc.Enter(usernsFD, "/proc/self/exe", []string{bridgeName, string(text)}, os.Environ())
	if err != nil {
		return fail("clone3", bridgeName, err, "")
	}
	if err := errors.Join(peer.Close(), unix.Close(there.Tap)); err != nil {
		return fail("close", "socket", err, "")
	}
	unix.CloseOnExec(controlFD)
	var ended sync.WaitGroup
	over := make(chan error, 2)
	ended.Go(func() {
		var status syscall.WaitStatus
		_, err := unix.Wait4(pid, (*unix.WaitStatus)(&status), 0, nil)
		for errors.Is(err, unix.EINTR) {
			_, err = unix.Wait4(pid, (*unix.WaitStatus)(&status), 0, nil)
		}
		switch {
		case err != nil:
		case status.Signaled():
			err = fmt.Errorf("it was killed by signal %d", status.Signal())
		case status.ExitStatus() > 1:
			err = syscall.Errno(status.ExitStatus()) //nolint:gosec // what Enter left
		}
		if err != nil {
			err = fail("enter", bridgeName, err, "the launcher's user namespace must be there")
		}
		over <- err
	})
	said := &tail{}
	up, err := c.command(pid, tap)
	if err != nil {
		return errors.Join(err, endChildren(pid, nil, &ended))
	}
	up.Stdout, up.Stderr = said, said
	up.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := up.Start(); err != nil {
		return errors.Join(fail("execute", up.Path, err, ""), endChildren(pid, nil, &ended))
	}
	ended.Go(func() {
		err := up.Wait()
		over <- uplinkError(filepath.Base(up.Args[0]), err, said.b.String())
	})
	gone := make(chan error, 1)
	go func() { gone <- hangUp(controlFD) }()
	select {
	case err = <-over:
	case err = <-gone:
		select { // inlay-bridge hears of it too, and takes away what it has on disk
		case e := <-over:
			err = errors.Join(err, e)
		case <-time.After(grace):
		}
	}
	return errors.Join(err, tap.Close(), closeFiles(up.ExtraFiles), endChildren(pid, up.Process, &ended))
}

// grace is how long inlay-bridge may take to end.
const grace = 5 * time.Second

// hangUp waits for the end of a socket's other side.
func hangUp(fd int) error {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}} //nolint:gosec // a descriptor
		if n, err := unix.Poll(p, -1); n > 0 {
			return nil
		} else if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
	}
}

// endChildren kills and reaps.
func endChildren(pid int, uplink *os.Process, ended *sync.WaitGroup) error {
	var errs []error
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		errs = append(errs, err)
	}
	if uplink != nil {
		if err := uplink.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	ended.Wait()
	return errors.Join(errs...)
}

// serveAnnex is inlay-bridge's life.
func serveAnnex(c *annexConfig) error {
	// The descriptor itself stays, to tell what goes wrong and to see the end.
	own, err := unix.FcntlInt(controlFD, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fail("dup", "control", err, "")
	}
	control, err := messageConn(os.NewFile(uintptr(own), "control"))
	if err != nil {
		return err
	}
	gone := make(chan error, 1)
	go func() { gone <- hangUp(controlFD) }()
	if c.Pasta != "" {
		slowSender()
	}
	unix.CloseOnExec(c.Tap)
	if c.Stack != "" {
		f, err := c.makeTun()
		if err != nil {
			return err
		}
		tap, err := messageConn(os.NewFile(uintptr(c.Tap), "socket"))
		if err == nil {
			err = errors.Join(put(tap, &message{Op: opReady}, f), tap.Close())
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return fail("pass", f.Name(), err, "")
		}
	}
	if err := prepareAnnex(c, gone); err != nil {
		return err
	}
	if err := put(control, &message{Op: opReady}); err != nil {
		return nil //nolint:nilerr // the host program is gone
	}
	var links sync.WaitGroup
	defer links.Wait() // their sockets end as well
	for {
		m, files, err := get(control)
		if err != nil {
			return nil //nolint:nilerr // the host program is gone, or wants no more
		}
		if m.Op != opLink || len(files) != 1 {
			return errors.Join(fmt.Errorf("inlay: bug: %q with %d files", m.Op, len(files)), closeFiles(files))
		}
		conn, err := messageConn(files[0])
		if err != nil {
			return err
		}
		links.Go((&served{conn: conn}).serve)
	}
}

// prepareAnnex brings lo up, takes the host's addresses, so that nothing which goes there
// leaves the annex, and waits for the way out.
func prepareAnnex(c *annexConfig, gone <-chan error) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fail("look for", "lo", err, "")
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fail("up", "lo", err, "")
	}
	for _, a := range c.Taken {
		n := netip.PrefixFrom(a, a.BitLen())
		own := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Bits())}}
		if a.Is6() {
			own.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(lo, own); err != nil && (a.Is4() || hasIPv6()) {
			return fail("address", a.String(), err, "")
		}
	}
	routes, done := make(chan netlink.RouteUpdate, 64), make(chan struct{})
	if err := netlink.RouteSubscribe(routes, done); err != nil {
		return fail("netlink", "routes", err, "")
	}
	defer func() {
		close(done)
		go func() { // the library's goroutine may be about to send
			for range routes {
			}
		}()
	}()
	for {
		ready, err := hasWayOut()
		if ready || err != nil {
			return err
		}
		select {
		case _, ok := <-routes:
			if !ok {
				return fail("netlink", "routes", unix.EIO, "")
			}
		case err := <-gone:
			return err // nobody waits for it any more
		}
	}
}

// hasWayOut tells whether the uplink has been set up: its default route comes last.
func hasWayOut() (bool, error) {
	link, err := netlink.LinkByName(uplink)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, fail("look for", uplink, err, "")
	}
	list, err := netlink.RouteList(link, unix.AF_UNSPEC)
	if err != nil {
		return false, fail("list routes", uplink, err, "")
	}
	for _, r := range list {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			return true, nil
		}
	}
	return false, nil
}

// served is one link in the annex, or a bridge that is held.
type served struct {
	conn  *net.UnixConn
	link  netdriver.Link
	held  *bridge
	ports []*proxy
}

// serve answers one question after another, until the other side is closed.
func (s *served) serve() {
	for {
		m, files, err := get(s.conn)
		if err != nil {
			break
		}
		answer := &message{Op: m.Op}
		answer.Error = toRemote(s.do(m, &files, answer))
		if err := errors.Join(closeFiles(files), put(s.conn, answer)); err != nil {
			break
		}
	}
	_ = s.close(&message{}) // nobody is left to hear of it
	_ = s.conn.Close()
}

// do does what is asked for, and takes the files that it keeps.
func (s *served) do(m *message, files *[]*os.File, answer *message) error {
	ctx := context.Background()
	switch {
	case m.Op == opBegin && s.link == nil && m.Start != nil:
		l, err := driver{}.Begin(ctx, m.Start)
		if err != nil {
			return err
		}
		s.link = l
		answer.Addresses, answer.Inside = l.Addresses(), l.ShapedInside()
		answer.Resolv, answer.Hosts = l.Files()
		return nil
	case m.Op == opHold && s.held == nil && m.Start != nil:
		c, err := parse(m.Start.Config)
		if err != nil {
			return err
		}
		s.held, err = holdBridge(ctx, c, m.Start.StateDir)
		return err
	case m.Op == opClose:
		return s.close(answer)
	case s.link == nil:
		return fmt.Errorf("inlay: bug: %q for no link", m.Op)
	case m.Op == opPorts && len(*files) == len(m.Ports):
		for i, p := range m.Ports {
			x, err := newProxy(p, (*files)[i], s.link.Addresses())
			if err != nil {
				return err
			}
			s.ports = append(s.ports, x)
		}
		return nil
	case m.Op == opConnect && len(*files) == 1:
		if err := s.link.Connect(ctx, (*files)[0]); err != nil {
			return err
		}
		for _, p := range s.ports {
			p.start()
		}
		return nil
	case m.Op == opRate && m.Rate != nil:
		err := s.link.SetRate(*m.Rate)
		answer.Inside = s.link.ShapedInside()
		return err
	case m.Op == opCounters:
		n, err := s.link.Counters()
		answer.Counters = &n
		return err
	}
	return fmt.Errorf("inlay: bug: %q with %d files", m.Op, len(*files))
}

// close takes everything away, once.
func (s *served) close(answer *message) error {
	var errs []error
	for _, p := range s.ports {
		errs = append(errs, p.close())
	}
	s.ports = nil
	if s.link != nil {
		if n, err := s.link.Counters(); err == nil {
			answer.Counters = &n
		}
		errs = append(errs, s.link.Close())
	}
	if s.held != nil {
		errs = append(errs, s.held.leave(nil))
	}
	s.link, s.held = nil, nil
	return errors.Join(errs...)
}
