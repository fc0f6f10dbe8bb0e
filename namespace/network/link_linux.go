package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/netdriver"
)

// inside is the name of a container's own link.
const inside = "eth0"

// link connects one container; see netdriver.Link.
type link struct {
	b         *bridge
	c         *config
	start     netdriver.Start
	n         uint32
	static    []int64 // bytes of the lock file of addresses that have no number
	addresses []netip.Prefix
	mtu       int
	name, ifb string // on the host
	resolv    []byte
	hosts     []byte

	mu       sync.Mutex
	ports    []int           // sockets that keep the host's ports from others
	h        *netlink.Handle // in the container's network namespace
	index    int             // of the host's end
	ifbIndex int
	before   netdriver.Counter // what the container had sent when the ifb came
	eth      int               // of the container's end
	opened   bool
	own      bool // has a table
	guarded  bool
	counted  bool                 // packets are: there is a table for it
	tooMany  [2]netdriver.Counter // what was dropped with earlier rates of packets: sent, received
	closed   bool
	rate     netdriver.Rate
	last     netdriver.Counters
}

// Begin is netdriver.Driver's.
func (driver) Begin(ctx context.Context, s *netdriver.Start) (netdriver.Link, error) {
	if s.Userns != nil {
		return beginInAnnex(ctx, s)
	}
	c, err := parse(s.Config)
	if err != nil {
		return nil, fail("network.Bridge", s.Kind, err, "")
	}
	b, err := useBridge(ctx, c, s.StateDir)
	if err != nil {
		return nil, err
	}
	l := &link{b: b, c: c, start: *s, mtu: b.mtu}
	if err := l.begin(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *link) begin() error {
	if err := l.b.check(l.c); err != nil {
		return err
	}
	if err := l.takeAddresses(); err != nil {
		return err
	}
	l.name, l.ifb = linkName(l.b.slot, l.n), ifbName(l.b.slot, l.n)
	if l.b.pair {
		l.name = l.b.name
	}
	for _, r := range l.c.Egress {
		if !l.address(r.To.Addr().Is6()).IsValid() {
			return fail("network.Allow", r.To.String(), fmt.Errorf("the container has no address of that kind: %w", unix.EADDRNOTAVAIL), "give the bridge a network of it")
		}
	}
	if err := onHost(l.reservePorts); err != nil {
		return err
	}
	l.resolv, l.hosts = l.files()
	return nil
}

// The names of links on the host tell whose they are: of which bridge, and which number.
func linkName(slot, n uint32) string { return fmt.Sprintf("il%05x-%x", slot, n) }
func ifbName(slot, n uint32) string  { return fmt.Sprintf("if%05x-%x", slot, n) }

// address is the container's own of a kind; the zero Addr: it has none.
func (l *link) address(six bool) netip.Addr {
	for _, p := range l.addresses {
		if p.Addr().Is6() == six {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// takeAddresses takes a number, and what was asked for.
func (l *link) takeAddresses() error {
	want, odd := uint32(0), []netip.Addr{}
	for _, a := range l.c.Addresses {
		p := l.b.of(a)
		if !p.IsValid() || !p.Contains(a) {
			return fail("network.Address", a.String(), fmt.Errorf("outside of the bridge's network %v: %w", p, unix.EADDRNOTAVAIL), "see network.Subnet")
		}
		n, ok := number(p, a)
		switch {
		case a == p.Addr() || ok && n == 0 || a.Is4() && ok && n > l.b.last4():
			return fail("network.Address", a.String(), fmt.Errorf("it is the bridge's, or the network's own: %w", unix.EADDRINUSE), "choose another")
		case ok && want == 0:
			want = n
		case ok && want == n:
		default:
			odd = append(odd, a)
		}
	}
	n, err := l.b.take(want)
	if err != nil {
		what := l.b.name
		if want != 0 {
			what = fmt.Sprint(l.c.Addresses)
		}
		return fail("take address", what, err, "another container has it, or all are taken: see network.Subnet")
	}
	l.n = n
	for _, a := range odd {
		if err := l.takeOdd(a); err != nil {
			return err
		}
	}
	for _, p := range []netip.Prefix{l.b.v4, l.b.v6} {
		if !p.IsValid() {
			continue
		}
		a := nth(p, n)
		for _, w := range l.c.Addresses {
			if w.Is4() == a.Is4() {
				a = w
			}
		}
		l.addresses = append(l.addresses, netip.PrefixFrom(a, p.Bits()))
	}
	return nil
}

// last4 is the largest number of a container in the network of IPv4.
func (b *bridge) last4() uint32 {
	if bits := 32 - b.v4.Bits(); bits < 24 {
		return 1<<bits - 2
	}
	return maxAddress
}

// takeOdd locks an address that is not the one of the container's number: it may be
// that of another number, or have none.
func (l *link) takeOdd(a netip.Addr) error {
	n, ok := number(l.b.of(a), a)
	if ok {
		if _, err := l.b.take(n); err != nil {
			return fail("take address", a.String(), err, "another container has it")
		}
		l.static = append(l.static, int64(n))
		return nil
	}
	// Beyond the numbers: a lock of its own, by a sum of it.
	sum := int64(1 << 31)
	for _, x := range a.AsSlice() {
		sum = 1<<31 | (sum*131+int64(x))&(1<<31-1)
	}
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	ok, err := l.b.try(uint32(sum))
	if err == nil && !ok {
		err = unix.EADDRINUSE
	}
	if err != nil {
		return fail("take address", a.String(), err, "another container has it")
	}
	l.static = append(l.static, sum)
	return nil
}

// Files is netdriver.Link's.
func (l *link) Files() (resolv, hosts []byte) { return l.resolv, l.hosts }

// Addresses is netdriver.Link's.
func (l *link) Addresses() []netip.Prefix { return l.addresses }

// ShapedInside is netdriver.Link's.
func (l *link) ShapedInside() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.start.NetAdmin && l.start.Rate != nil
}

// reservePorts binds the host's ports, so that nobody else has them: another container,
// or a service of the host's that would not be reached any more.
func (l *link) reservePorts() error {
	for _, p := range l.c.Ports {
		a := p.address()
		if !l.address(a.Is6()).IsValid() {
			return fail("network.Publish", p.String(), fmt.Errorf("the container has no address of that kind: %w", unix.EADDRNOTAVAIL), "give the bridge a network of it")
		}
		for i := range max(p.Count, 1) {
			if err := fault.At("bind", p.String()); err != nil {
				return fail("bind", p.String(), err, "")
			}
			fd, err := bind(a, p.Host+i, p.udp(), nil)
			if err != nil {
				return fail("bind", p.String(), err, "another container or program of this host has the port, or the host not that address")
			}
			l.ports = append(l.ports, fd)
		}
	}
	return nil
}

// bind makes a socket of a port of the host's; set, if there is one, is called before it
// is bound.
func bind(a netip.Addr, port uint16, udp bool, set func(fd int) error) (int, error) {
	domain, typ := unix.AF_INET, unix.SOCK_STREAM
	var at unix.Sockaddr
	if udp {
		typ = unix.SOCK_DGRAM
	}
	if a.Is6() {
		domain, at = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
	} else {
		at = &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if a.Is6() {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if err == nil && set != nil {
		err = set(fd)
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, at))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// handleIn opens netlink in another network namespace, on a thread that goes there and
// back; one that cannot come back ends.
func handleIn(ns *os.File) (*netlink.Handle, error) {
	var h *netlink.Handle
	c := make(chan error, 1)
	offMain(func() {
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			c <- err
			return
		}
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			c <- errors.Join(os.NewSyscallError("setns", err), own.Close())
			return
		}
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread()
		}
		c <- errors.Join(err, own.Close())
	})
	return h, <-c
}

// offMain calls f on a goroutine that is locked to its thread, which is not the
// process's first: that one's namespaces are shown as the process's own.
func offMain(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done := make(chan struct{})
			go func() { // on another thread: this one is locked
				runtime.LockOSThread()
				close(done)
				f()
			}()
			<-done
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
}

// Connect is netdriver.Link's.
func (l *link) Connect(ctx context.Context, ns *os.File) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fail("connect", l.name, context.Cause(ctx), "")
	}
	if l.closed {
		return fail("connect", l.name, unix.ESRCH, "")
	}
	if err := l.makeVeth(ns); err != nil {
		return err
	}
	if err := l.configure(); err != nil {
		return err
	}
	if err := onHost(l.makeRules); err != nil {
		return err
	}
	if l.start.Rate != nil {
		return l.setRate(*l.start.Rate)
	}
	return nil
}

// makeVeth makes the pair, the container's end where it belongs.
func (l *link) makeVeth(ns *os.File) error {
	if err := fault.At("make veth", l.name); err != nil {
		return fail("make veth", l.name, err, "")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = l.name, l.mtu, net.FlagUp
	// One queue, not one a CPU: they serve nobody here, and each has folders in /sys.
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	v := netlink.NewVeth(attrs)
	v.PeerNumTxQueues, v.PeerNumRxQueues = 1, 1
	v.PeerName, v.PeerMTU, v.PeerNamespace = inside, uint32(l.mtu), netlink.NsFd(ns.Fd())
	if l.c.MAC != "" {
		mac, err := net.ParseMAC(l.c.MAC)
		if err != nil {
			return fail("network.MAC", l.c.MAC, err, "")
		}
		v.PeerHardwareAddr = mac
	}
	err := l.b.h.LinkAdd(v)
	if errors.Is(err, unix.EEXIST) && !l.b.pair {
		// The kernel removes links a while after the namespace of their other end: the
		// number is ours, so that one is nobody's.
		if err = l.b.h.LinkDel(linkAt(0, l.name)); err == nil || errors.Is(err, unix.ENODEV) {
			err = l.b.h.LinkAdd(v)
		}
	}
	if err != nil {
		return fail("make veth", l.name, err, remedyNetlink)
	}
	l.index = v.Index
	if l.b.pair {
		l.b.index = v.Index
		if err := l.b.setAddresses(); err != nil {
			return err
		}
	} else if err := l.enter(v); err != nil {
		return err
	}
	if err := fault.At("setns", l.name); err != nil {
		return fail("setns", l.name, err, "")
	}
	if l.h, err = handleIn(ns); err != nil {
		return fail("setns", l.name, err, "")
	}
	return nil
}

// enter makes the host's end a port of the bridge.
func (l *link) enter(v *netlink.Veth) error {
	if err := fault.At("enter bridge", l.name); err != nil {
		return fail("enter bridge", l.name, err, "")
	}
	if err := l.b.h.LinkSetMasterByIndex(v, l.b.index); err != nil {
		return fail("enter bridge", l.name, err, "")
	}
	if !l.c.Open {
		if err := fault.At("isolate", l.name); err != nil {
			return fail("isolate", l.name, err, "")
		}
		if err := l.b.h.LinkSetIsolated(v, true); err != nil {
			return fail("isolate", l.name, err, "Linux 4.18")
		}
	}
	return nil
}

// configure gives the container's end its addresses and routes.
func (l *link) configure() error {
	at := func(op string) error {
		if err := fault.At(op, l.name); err != nil {
			return fail(op, inside, err, "")
		}
		return nil
	}
	if err := at("look at"); err != nil {
		return err
	}
	eth, err := l.h.LinkByName(inside)
	if err != nil {
		return fail("look at", inside, err, "")
	}
	l.eth = eth.Attrs().Index
	if err := at("address"); err != nil {
		return err
	}
	for _, p := range l.addresses {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // the lock says that nobody else has it
		}
		if err := l.h.AddrAdd(eth, a); err != nil {
			return fail("address", p.String(), err, "")
		}
	}
	if err := at("up"); err != nil {
		return err
	}
	if err := l.h.LinkSetUp(eth); err != nil {
		return fail("up", inside, err, "")
	}
	if err := at("route"); err != nil {
		return err
	}
	routes := append([]Route{}, l.c.Routes...)
	for _, p := range []netip.Prefix{l.b.v4, l.b.v6} {
		if p.IsValid() {
			all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if p.Addr().Is6() {
				all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			routes = append(routes, Route{To: all, Via: p.Addr()})
		}
	}
	for _, r := range routes {
		dst := ipNet(r.To.Masked())
		if err := l.h.RouteAdd(&netlink.Route{LinkIndex: l.eth, Dst: dst, Gw: r.Via.AsSlice(), Window: sender.window}); err != nil {
			return fail("route", r.String(), err, "the way must be in one of the container's networks")
		}
	}
	return nil
}

// makeRules makes what this container alone has in nftables.
func (l *link) makeRules() error {
	if l.c.Open {
		l.opened = true
		if err := l.setOpen(true); err != nil {
			return err
		}
	}
	if len(l.c.Ports) > 0 || l.restricted() {
		l.own = true
		if err := l.makeOwnTable(); err != nil {
			return err
		}
	}
	for _, p := range l.c.Ports {
		if p.address().IsLoopback() {
			// What comes from 127.0.0.1 may leave by the bridge, translated. What comes in
			// for it is dropped by the bridge's table.
			if err := setSysctl("net/ipv4/conf/"+strings.ReplaceAll(l.b.name, ".", "/")+"/route_localnet", "1"); err != nil {
				return err
			}
			break
		}
	}
	if l.start.NetAdmin || l.start.RawPackets || l.restricted() {
		l.guarded = true
		return l.makeGuard()
	}
	return nil
}

// SetRate is netdriver.Link's.
func (l *link) SetRate(r netdriver.Rate) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.h == nil {
		return fail("shape", l.name, unix.ENODEV, "")
	}
	before := l.rate
	if err := l.setRate(r); err != nil {
		return errors.Join(err, l.setRate(before))
	}
	l.start.Rate = &r
	return nil
}

func (l *link) setRate(r netdriver.Rate) error {
	switch {
	case l.start.NetAdmin && (r.Egress != 0 || l.ifbIndex != 0):
		if err := l.shapeByIFB(r.Egress, r.Burst); err != nil {
			return err
		}
	case l.start.NetAdmin:
	default:
		if err := shape(l.h, l.eth, l.name+" "+inside, r.Egress, r.Burst, l.mtu); err != nil {
			return err
		}
	}
	if err := shape(l.b.h, l.index, l.name, r.Ingress, r.Burst, l.mtu); err != nil {
		return err
	}
	if err := onHost(func() error { return l.limitPackets(r.EgressPackets, r.IngressPackets) }); err != nil {
		return err
	}
	l.rate = r
	return nil
}

// Counters is netdriver.Link's. After Close they are the last ones.
func (l *link) Counters() (netdriver.Counters, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.index == 0 {
		return l.last, nil
	}
	host, err := l.b.h.LinkByIndex(l.index)
	if err != nil {
		return l.last, fail("count", l.name, err, "")
	}
	var c netdriver.Counters
	if s := host.Attrs().Statistics; s != nil {
		c.Egress = netdriver.Counter{Bytes: s.RxBytes, Packets: s.RxPackets, Dropped: s.RxDropped}
		c.Ingress = netdriver.Counter{Bytes: s.TxBytes, Packets: s.TxPackets, Dropped: s.TxDropped}
	}
	in, err := dropped(l.b.h, l.index)
	if err != nil {
		return l.last, fail("count", l.name, err, "")
	}
	out := uint64(0)
	switch {
	case l.ifbIndex != 0:
		if out, err = dropped(l.b.h, l.ifbIndex); err != nil {
			break
		}
		var ifb netlink.Link
		if ifb, err = l.b.h.LinkByIndex(l.ifbIndex); err == nil {
			// What has passed its queue: the pair counts what comes to it.
			s := ifb.Attrs().Statistics
			c.Egress.Bytes, c.Egress.Packets = l.before.Bytes+s.TxBytes, l.before.Packets+s.TxPackets
		}
	case l.h != nil:
		out, err = dropped(l.h, l.eth)
	}
	if err != nil {
		return l.last, fail("count", l.name, err, "")
	}
	if l.counted || l.tooMany != [2]netdriver.Counter{} {
		var e, i netdriver.Counter
		if err := onHost(func() (err error) {
			e, i, err = l.packetsDropped()
			return err
		}); err != nil {
			return l.last, err
		}
		out, in = out+e.Dropped, in+i.Dropped
		// The link's end counts them before they are dropped.
		c.Egress.Bytes, c.Egress.Packets = c.Egress.Bytes-min(c.Egress.Bytes, e.Bytes), c.Egress.Packets-min(c.Egress.Packets, e.Dropped)
	}
	c.Egress.Dropped += out
	c.Ingress.Dropped += in
	l.last = c
	return c, nil
}

// dropped is what the queue of a link has dropped.
func dropped(h *netlink.Handle, index int) (uint64, error) {
	list, err := h.QdiscList(linkAt(index, ""))
	if err != nil {
		return 0, err
	}
	n := uint64(0)
	for _, q := range list {
		if a := q.Attrs(); q.Type() == "tbf" && a.Statistics != nil && a.Statistics.Queue != nil {
			n += uint64(a.Statistics.Queue.Drops)
		}
	}
	return n, nil
}

// Close is netdriver.Link's. The pair itself is removed off its path: see bridge.leave.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	note := func(op, path string, err error) {
		if err != nil {
			errs = append(errs, fail(op, path, err, ""))
		}
	}
	if l.h != nil && l.index == 0 {
		l.h.Close()
	}
	if l.ifbIndex != 0 {
		if err := l.b.h.LinkDel(linkAt(l.ifbIndex, l.ifb)); !errors.Is(err, unix.ENODEV) {
			note("remove", l.ifb, err)
		}
	}
	errs = append(errs, onHost(func() error {
		var errs []error
		if l.opened {
			if err := l.setOpen(false); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, err)
			}
		}
		if l.own {
			errs = append(errs, deleteTable(ownTableName(l.b.name, l.n)))
		}
		if l.guarded {
			errs = append(errs, dropTable(guardTable(l.b.name, l.n)))
		}
		if l.counted {
			errs = append(errs, dropTable(packetTable(l.b.name, l.n)))
		}
		return errors.Join(errs...)
	}))
	for _, fd := range l.ports {
		note("close", l.name, unix.Close(fd))
	}
	if l.index == 0 {
		errs = append(errs, l.giveBack())
	}
	return errors.Join(append(errs, l.b.leave(l))...)
}

// giveBack lets others have the container's addresses, once its link is gone.
func (l *link) giveBack() error {
	var errs []error
	for _, n := range l.static {
		errs = append(errs, l.b.giveBack(uint32(n)))
	}
	if l.n != 0 {
		errs = append(errs, l.b.giveBack(l.n))
	}
	if err := errors.Join(errs...); err != nil {
		return fail("give back", l.name, err, "")
	}
	return nil
}

// files are resolv.conf and hosts.
func (l *link) files() (resolv, hosts []byte) {
	var r, h bytes.Buffer
	servers := l.c.DNS
	search := l.c.Search
	if len(servers) == 0 {
		var domains []string
		servers, domains = l.hostServers()
		if len(search) == 0 {
			search = domains
		}
	}
	for _, a := range servers {
		fmt.Fprintf(&r, "nameserver %s\n", a)
	}
	if len(search) > 0 {
		fmt.Fprintf(&r, "search %s\n", strings.Join(search, " "))
	}
	if r.Len() == 0 {
		r.WriteString("# no name server: see network.DNS\n")
	}
	h.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if name := l.start.Hostname; name != "" && !strings.HasPrefix(name, "localhost") {
		for _, p := range l.addresses {
			fmt.Fprintf(&h, "%s\t%s\n", p.Addr(), name)
		}
	}
	for _, n := range l.c.Hosts {
		fmt.Fprintf(&h, "%s\t%s\n", n.Address, n.Name)
	}
	return r.Bytes(), h.Bytes()
}

// hostServers are the host's name servers and domains, without servers on its loopback:
// systemd-resolved's own file has what those ask.
func (l *link) hostServers() (servers []netip.Addr, search []string) {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			switch {
			case len(f) > 1 && f[0] == "nameserver":
				a, err := netip.ParseAddr(f[1])
				if err == nil && !a.IsLoopback() && l.address(a.Is6()).IsValid() && len(servers) < maxServers {
					servers = append(servers, a)
				}
			case len(f) > 1 && (f[0] == "search" || f[0] == "domain"):
				search = f[1:]
			}
		}
		if len(servers) > 0 {
			break
		}
	}
	return servers, search
}
