package network_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/internal/outside"
	"github.com/inlay-dev/inlay/namespace/network"
)

// beyond stands for the rest of the world: a network namespace beyond the host's own.
type beyond struct{ calls chan func() }

// The addresses on the link between the host and outside, from networks that are for
// documentation.
const (
	hostOut4, hostOut6 = outside.Host4, outside.Host6
	out4, out6         = outside.IPv4, outside.IPv6
)

// newBeyond makes it, with ways to all containers: it is the host that stands between.
func newBeyond(t testing.TB) *beyond {
	t.Helper()
	o := &beyond{calls: make(chan func())}
	ready := make(chan error)
	var h *netlink.Handle
	var ns *os.File
	ended := make(chan struct{})
	network.OffMain(func() { // never unlocked: the thread ends with the goroutine
		defer close(ended)
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		if err == nil {
			h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		}
		ready <- err
		for f := range o.calls {
			f()
		}
	})
	require.NoError(t, <-ready)
	t.Cleanup(func() {
		close(o.calls)
		<-ended
		h.Close()
		require.NoError(t, ns.Close())
		if l, err := netlink.LinkByName("out"); err == nil {
			if err := netlink.LinkDel(l); !errors.Is(err, unix.ENODEV) { // it went with its other end
				require.NoError(t, err)
			}
		}
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = "out", net.FlagUp
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = "up", netlink.NsFd(ns.Fd())
	require.NoError(t, netlink.LinkAdd(v))
	up, err := h.LinkByName("up")
	require.NoError(t, err)
	lo, err := h.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(lo))
	add := func(add func(netlink.Link, *netlink.Addr) error, l netlink.Link, text string) {
		a, err := netlink.ParseAddr(text)
		require.NoError(t, err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		require.NoError(t, add(l, a))
	}
	add(netlink.AddrAdd, v, hostOut4+"/24")
	add(netlink.AddrAdd, v, hostOut6+"/64")
	add(h.AddrAdd, up, out4+"/24")
	add(h.AddrAdd, up, out6+"/64")
	require.NoError(t, h.LinkSetUp(up))
	for to, via := range map[string]string{"10.0.0.0/8": hostOut4, "fd00::/8": hostOut6} {
		_, dst, err := net.ParseCIDR(to)
		require.NoError(t, err)
		require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Dst: dst, Gw: net.ParseIP(via)}))
	}
	return o
}

// do has f called outside.
func (o *beyond) do(f func()) {
	done := make(chan struct{})
	o.calls <- func() { defer close(done); f() }
	<-done
}

// service answers who asks with the address that it sees them by: on TCP and UDP, IPv4
// and IPv6, of one port.
type service struct {
	tcp net.Listener
	udp *net.UDPConn
	wg  sync.WaitGroup
}

func serve(port string) (*service, error) {
	tcp, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return nil, err
	}
	at, err := net.ResolveUDPAddr("udp", ":"+port)
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	udp, err := net.ListenUDP("udp", at)
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	s := &service{tcp: tcp, udp: udp}
	s.wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, outside.Peer(c.RemoteAddr().String())) // who asked sees that it does not come
			_ = c.Close()
		}
	})
	s.wg.Go(func() {
		buf := make([]byte, 100)
		for {
			_, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from)
		}
	})
	return s, nil
}

func (s *service) close() error {
	err := errors.Join(s.tcp.Close(), s.udp.Close())
	s.wg.Wait()
	return err
}

// A question that is expected to be answered waits long for it; one that is not, long
// enough for those that are to be answered many times over.
const (
	patience = 10 * time.Second
	shortly  = 600 * time.Millisecond
)

// ask asks a service: "tcp" or "udp", its address, and "yes" or "no" for whether it is
// expected to answer. The answer is who it saw, or "-".
func ask(proto, address, want string) string {
	wait := patience
	if want != "yes" {
		wait = shortly
	}
	c, err := net.DialTimeout(proto, address, wait)
	if err != nil {
		return "-"
	}
	defer c.Close() //nolint:errcheck // only read
	end := time.Now().Add(wait)
	for time.Now().Before(end) {
		if proto == "udp" { // one may be lost while a neighbour is looked for
			if _, err := c.Write([]byte("?")); err != nil {
				continue
			}
		}
		if err := c.SetReadDeadline(time.Now().Add(min(wait, shortly/2))); err != nil {
			return "-"
		}
		buf := make([]byte, 100)
		if n, err := c.Read(buf); n > 0 {
			return string(buf[:n])
		} else if proto == "tcp" && err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return "-"
		}
	}
	return "-"
}

var serveJob = register("serve", func(args []string) int {
	if _, err := serve(args[0]); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.ReadAll(os.Stdin)
	return 0
})

// askJob asks several services at once.
var askJob = register("ask", func(args []string) int {
	answers := make([]string, len(args)/3)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = ask(args[3*i], args[3*i+1], args[3*i+2]) })
	}
	wg.Wait()
	fmt.Println(strings.Join(answers, "\n"))
	return 0
})

// serving starts a service in a container, on port 7000.
func serving(t testing.TB, c *container.Container) {
	t.Helper()
	in, hold := io.Pipe()
	r, w := io.Pipe()
	p, err := c.Exec(timeout(t), selfJob(t, serveJob, "7000"), container.WithStdin(in), container.WithStdout(w))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, hold.Close())
		<-p.Done()
	})
	word := make([]byte, 6)
	_, err = io.ReadFull(r, word)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(word))
}

// question is one line of who reaches whom: want is who the service sees, "" for a
// service that is not reached.
type question struct{ proto, address, want string }

// check asks all of them at once, from a container or, with nil, from the host.
func check(t testing.TB, from string, c *container.Container, list []question) {
	t.Helper()
	var args []string
	for _, q := range list {
		want := "yes"
		if q.want == "" {
			want = "no"
		}
		args = append(args, q.proto, q.address, want)
	}
	var answers []string
	if c != nil {
		answers = strings.Split(strings.TrimSpace(do(t, c, selfJob(t, askJob, args...))), "\n")
	} else {
		for i := range list {
			answers = append(answers, ask(args[3*i], args[3*i+1], args[3*i+2]))
		}
	}
	compare(t, from, list, answers)
}

func compare(t testing.TB, from string, list []question, answers []string) {
	t.Helper()
	require.Len(t, answers, len(list))
	for i, q := range list {
		want := q.want
		if want == "" {
			want = "-"
		}
		if answers[i] != want {
			t.Errorf("%s asked %s %s: answer %q, want %q", from, q.proto, q.address, answers[i], want)
		}
	}
}

// checkOutside asks from outside.
func checkOutside(t testing.TB, o *beyond, list []question) {
	t.Helper()
	var answers []string
	o.do(func() {
		for _, q := range list {
			want := "yes"
			if q.want == "" {
				want = "no"
			}
			answers = append(answers, ask(q.proto, q.address, want))
		}
	})
	compare(t, "outside", list, answers)
}
