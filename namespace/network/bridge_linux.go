package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/netdriver"
)

// bridge is a bridge that this program uses.
type bridge struct {
	name   string
	slot   uint32
	locks  *locks
	h      *netlink.Handle // in the host's network namespace
	index  int
	mtu    int
	own    bool         // inlay's, by its address
	pair   bool         // no bridge: the host's end of one container's link
	v4, v6 netip.Prefix // the bridge's own address with its network; zero: none of that kind

	mu    sync.Mutex
	taken map[uint32]bool
	next  uint32

	// Guarded by bridges.
	users   int
	pending []*link       // to be removed
	worker  chan struct{} // closed when none is; nil: nobody is at work
	hurry   chan struct{} // tells it that somebody waits
	active  int           // how many starts and ends there were
	err     error         // what could not be removed
}

// bridges are those in use, by name.
var bridges = struct {
	sync.Mutex
	m map[string]*bridge
}{m: map[string]*bridge{}}

// onHost runs f on a thread in the program's own network namespace, whichever the
// caller's is locked to.
func onHost(f func() error) error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return <-c
}

// ownMAC is the address that tells a bridge of inlay's: it is set in the call that makes
// it, so that there is no moment at which a killed program would leave one that nobody
// knows. 02 is for addresses of one's own choice.
func ownMAC(name string) net.HardwareAddr {
	h := fnv.New32a()
	_, _ = h.Write([]byte("bridge " + name)) // never fails
	s := h.Sum(nil)
	return net.HardwareAddr{0x02, 'i', 'n', s[0], s[1], s[2]}
}

func fail(op, path string, err error, remedy string) error {
	var e *netdriver.Error
	if errors.As(err, &e) {
		return err
	}
	return &netdriver.Error{Op: op, Path: path, Err: err, Remedy: remedy}
}

const remedyNetlink = "the kernel must have bridge, veth and nf_tables (modules are not loaded from inside a container), and this program CAP_NET_ADMIN"

// useBridge opens a bridge, made if needed, for one user more.
func useBridge(ctx context.Context, c *config, stateDir string) (*bridge, error) {
	bridges.Lock()
	defer bridges.Unlock()
	b := bridges.m[c.Bridge]
	if b != nil && (b.pair || c.Pair) {
		return nil, b.inUse()
	}
	if b == nil {
		b = &bridge{name: c.Bridge, slot: slot(c.Bridge), taken: map[uint32]bool{}, next: firstAddress, pair: c.Pair}
		if err := onHost(func() error { return b.open(ctx, c, stateDir) }); err != nil {
			return nil, err
		}
		bridges.m[c.Bridge] = b
	}
	b.users++
	b.active++
	return b, nil
}

// inUse refuses a name that somebody else's link has.
func (b *bridge) inUse() error {
	return fail("network.Veth", b.name, fmt.Errorf("there is a link of that name: %w", unix.EEXIST), "name another")
}

// check looks whether the bridge has what was asked for.
func (b *bridge) check(c *config) error {
	if c.MTU != 0 && c.MTU != b.mtu {
		return fail("network.MTU", b.name, fmt.Errorf("it has %d, not %d: %w", b.mtu, c.MTU, unix.EEXIST), "leave the option out, or name another bridge")
	}
	for _, n := range c.Subnets {
		if have := b.of(n.Addr()); have.Masked() != n {
			return fail("network.Subnet", b.name, fmt.Errorf("it has the network %v, not %v: %w", have.Masked(), n, unix.EEXIST), "leave the option out, or name another bridge")
		}
	}
	return nil
}

// of is the bridge's network of the kind that an address is of.
func (b *bridge) of(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return b.v4
	}
	return b.v6
}

// leave gives one use back; the last removes the bridge. The link that goes with it, if
// there is one, is left to a goroutine of the bridge's; who is the last waits for it.
func (b *bridge) leave(l *link) error {
	bridges.Lock()
	if l != nil && l.index != 0 {
		b.pending = append(b.pending, l)
		b.active++
		if b.worker == nil {
			b.worker, b.hurry = make(chan struct{}), make(chan struct{}, 1)
			go b.work()
		}
	}
	b.users--
	last, worker := b.users == 0, b.worker
	if last && worker != nil {
		select {
		case b.hurry <- struct{}{}:
		default: // it knows
		}
	}
	bridges.Unlock()
	if !last {
		return nil
	}
	if worker != nil {
		<-worker
	}
	bridges.Lock()
	defer bridges.Unlock()
	if b.users > 0 || b.worker != nil || bridges.m[b.name] != b {
		return nil // somebody else is the last
	}
	delete(bridges.m, b.name)
	err := b.err
	b.err = nil
	return errors.Join(err, onHost(b.close))
}

// When links are removed: the kernel takes tens of milliseconds for it, in which no other
// link can be made on the whole machine, but removes the pairs of all namespaces that end
// together at once. So they are kept for a while, by a socket in the namespace, until no
// container starts or ends, or they are many or old.
const (
	quietTime = 50 * time.Millisecond
	oldTime   = 500 * time.Millisecond
	many      = 64
)

// work removes links until there are none.
func (b *bridge) work() {
	begun := time.Now()
	for {
		bridges.Lock()
		seen, wait := b.active, b.users > 0 && len(b.pending) < many && time.Since(begun) < oldTime
		if len(b.pending) == 0 {
			close(b.worker)
			b.worker = nil
			bridges.Unlock()
			return
		}
		bridges.Unlock()
		if wait {
			select {
			case <-time.After(quietTime):
			case <-b.hurry:
			}
		}
		bridges.Lock()
		if wait && b.active != seen && b.users > 0 {
			bridges.Unlock()
			continue
		}
		list := b.pending
		b.pending = nil
		bridges.Unlock()
		b.removeLinks(list)
		begun = time.Now()
	}
}

// removeLinks removes links, and gives back what they had.
func (b *bridge) removeLinks(list []*link) {
	for _, l := range list {
		if l.h != nil {
			l.h.Close() // nothing else keeps the namespace of a container that has ended
		}
	}
	for _, l := range list {
		err := b.h.LinkDel(linkAt(l.index, l.name))
		if errors.Is(err, unix.ENODEV) {
			err = nil
		}
		if err != nil {
			err = fail("remove", l.name, err, "")
		} else {
			err = l.giveBack()
		}
		if err != nil {
			bridges.Lock()
			b.err = errors.Join(b.err, err)
			bridges.Unlock()
		}
	}
}

// open finds or makes the bridge.
func (b *bridge) open(ctx context.Context, c *config, stateDir string) (err error) {
	if b.locks, err = openLocks(ctx, stateDir); err != nil {
		return fail("lock", stateDir, err, "the state directory must be writable, and another program that holds the lock run")
	}
	holdRules()
	locked := true
	defer func() {
		if err == nil {
			return
		}
		if !locked {
			err = errors.Join(err, b.locks.lock(context.Background()))
		}
		err = errors.Join(err, b.shut())
	}()
	if err := fault.At("netlink", b.name); err != nil {
		return fail("netlink", b.name, err, "")
	}
	if b.h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fail("netlink", b.name, err, remedyNetlink)
	}
	if err := b.h.SetStrictCheck(true); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return fail("netlink", b.name, err, "")
	}
	// What killed programs left, before this one has a lock: what cannot be removed now
	// is in nobody's way, and is told by Prune.
	p := &pruning{l: b.locks, h: b.h, kept: map[string]error{}}
	if err := errors.Join(p.links(), p.tables()); err != nil {
		return fail("prune", b.name, err, remedyNetlink)
	}
	others, err := b.locks.heldByOthers(base(b.slot), 1)
	if err != nil {
		return fail("lock", b.name, err, "")
	}
	if b.pair && others {
		return b.inUse()
	}
	if err := b.locks.set(unix.F_RDLCK, base(b.slot), 1); err != nil {
		return fail("lock", b.name, err, "")
	}
	if err := b.find(c); err != nil {
		return err
	}
	if !others {
		// Nobody has used it: it is new, or a killed program's.
		if err := b.prepare(); err != nil {
			return err
		}
	}
	locked = false
	if err := b.locks.unlock(); err != nil {
		return fail("lock", b.name, err, "")
	}
	return nil
}

// find looks for the bridge, and makes one where there is none.
func (b *bridge) find(c *config) error {
	l, err := b.h.LinkByName(b.name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		if b.pair {
			b.mtu = cmp.Or(c.MTU, 1500)
			return b.choose(c)
		}
		return b.make(c)
	}
	if err != nil {
		return fail("look for", b.name, err, remedyNetlink)
	}
	if b.pair {
		return b.inUse()
	}
	if l.Type() != "bridge" {
		return fail("network.Bridge", b.name, fmt.Errorf("it is a %s: %w", l.Type(), unix.EEXIST), "name another")
	}
	b.index, b.mtu, b.own = l.Attrs().Index, l.Attrs().MTU, bytes.Equal(l.Attrs().HardwareAddr, ownMAC(b.name))
	addrs, err := b.h.AddrList(l, unix.AF_UNSPEC)
	if err != nil {
		return fail("look at", b.name, err, "")
	}
	for _, a := range addrs {
		p, ok := prefixOf(a.IPNet)
		switch {
		case !ok || p.Addr().IsLinkLocalUnicast():
		case p.Addr().Is4() && !b.v4.IsValid():
			b.v4 = p
		case p.Addr().Is6() && !b.v6.IsValid():
			b.v6 = p
		}
	}
	if !b.own && !b.v4.IsValid() && !b.v6.IsValid() {
		return fail("network.Bridge", b.name, fmt.Errorf("it is somebody else's and has no address: %w", unix.EADDRNOTAVAIL), "give it one: ip address add")
	}
	if b.own && !b.v4.IsValid() && !b.v6.IsValid() {
		return b.address(c) // who made it was killed before it had one
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	a = a.Unmap()
	return netip.PrefixFrom(a, ones), ok && ones > 0 && ones < a.BitLen()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// make makes the bridge.
func (b *bridge) make(c *config) error {
	if err := fault.At("make bridge", b.name); err != nil {
		return fail("make bridge", b.name, err, "")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU, attrs.Flags = b.name, ownMAC(b.name), cmp.Or(c.MTU, 1500), net.FlagUp
	l := &netlink.Bridge{LinkAttrs: attrs}
	if err := b.h.LinkAdd(l); err != nil {
		return fail("make bridge", b.name, err, remedyNetlink)
	}
	b.index, b.mtu, b.own = l.Index, attrs.MTU, true
	return b.address(c)
}

// choose says which networks the bridge has.
func (b *bridge) choose(c *config) error {
	networks := c.Subnets
	if len(networks) == 0 {
		var err error
		if networks, err = b.freeNetworks(); err != nil {
			return err
		}
	}
	for _, n := range networks {
		own := netip.PrefixFrom(n.Addr().Next(), n.Bits())
		if own.Addr().Is4() {
			b.v4 = own
		} else {
			b.v6 = own
		}
	}
	return nil
}

// address gives the bridge its networks.
func (b *bridge) address(c *config) error {
	if err := b.choose(c); err != nil {
		return err
	}
	return b.setAddresses()
}

// setAddresses gives it the first address of each.
func (b *bridge) setAddresses() error {
	if err := fault.At("address", b.name); err != nil {
		return fail("address", b.name, err, "")
	}
	for _, own := range []netip.Prefix{b.v4, b.v6} {
		if !own.IsValid() {
			continue
		}
		// No other host has it: nobody has to be asked before it is used.
		a := &netlink.Addr{IPNet: ipNet(own), Flags: unix.IFA_F_NODAD}
		if own.Addr().Is4() {
			a.Flags = 0
		}
		if err := b.h.AddrAdd(b.link(), a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fail("address", own.String(), err, "IPv6 must be enabled on this host where a network of it is asked for")
		}
	}
	return nil
}

// link is the bridge for calls that want its index alone.
func (b *bridge) link() netlink.Link { return linkAt(b.index, b.name) }

func linkAt(index int, name string) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index, Name: name}}
}

// The networks that bridges get: 512 of 4,096 addresses in a part of 10.0.0.0/8 that
// others seldom use, and of IPv6 in a unique local one ("inlay" in ASCII), RFC 4193.
var pool = struct {
	v4       netip.Prefix
	bits     int
	networks int
}{netip.MustParsePrefix("10.224.0.0/11"), 20, 512}

func poolNetworks(k int) (v4, v6 netip.Prefix) {
	a := pool.v4.Addr().As4()
	n := (uint32(a[0])<<24 | uint32(a[1])<<16) + uint32(k)<<(32-pool.bits)
	v4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), pool.bits)
	v6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 'i', 'n', 'l', 'a', 'y', byte(k >> 8), byte(k)}), 64)
	return v4, v6
}

// freeNetworks finds networks that nothing on this host has: no address, and no route
// but those that lead everywhere.
func (b *bridge) freeNetworks() ([]netip.Prefix, error) {
	var have []netip.Prefix
	addrs, err := b.h.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fail("list addresses", b.name, err, "")
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			have = append(have, p.Masked())
		}
	}
	routes, err := b.h.RouteList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fail("list routes", b.name, err, "")
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 {
			have = append(have, p.Masked())
		}
	}
	free := func(n netip.Prefix) bool {
		for _, h := range have {
			if h.Overlaps(n) {
				return false
			}
		}
		return true
	}
	first := 0
	if b.name != DefaultBridge {
		first = int(b.slot) % pool.networks
	}
	for i := range pool.networks {
		v4, v6 := poolNetworks((first + i) % pool.networks)
		switch {
		case !free(v4) || !free(v6):
		case hasIPv6():
			return []netip.Prefix{v4, v6}, nil
		default:
			return []netip.Prefix{v4}, nil
		}
	}
	return nil, fail("network.Bridge", b.name, fmt.Errorf("this host has addresses or routes in all of %v: %w", pool.v4, unix.EADDRNOTAVAIL), "choose one by network.Subnet")
}

// hasIPv6 tells whether new links have IPv6 in the calling thread's network namespace.
func hasIPv6() bool {
	for _, name := range []string{"all", "default"} {
		text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
		if err != nil || strings.TrimSpace(string(text)) != "0" {
			return false
		}
	}
	return true
}

// prepare removes what a killed program left of the bridge, and sets up what its
// containers share.
func (b *bridge) prepare() error {
	if err := b.forwarding(); err != nil {
		return err
	}
	return b.makeTable()
}

// forwarding has the host forward packets. The sysctls are the whole host's, and stay.
func (b *bridge) forwarding() error {
	if err := fault.At("sysctl", b.name); err != nil {
		return fail("sysctl", b.name, err, "")
	}
	if b.v6.IsValid() {
		// A host that forwards does not listen to router advertisements any more, and
		// would lose its own way out, but for accept_ra 2 (ip-sysctl.rst).
		on, err := sysctl("net/ipv6/conf/all/forwarding")
		if err != nil {
			return err
		}
		if on == "0" {
			files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
			if err != nil {
				return fail("sysctl", "accept_ra", err, "")
			}
			for _, f := range files {
				name := strings.TrimPrefix(f, "/proc/sys/")
				if v, err := sysctl(name); err == nil && v == "1" && !strings.Contains(name, "/"+b.name+"/") {
					if err := setSysctl(name, "2"); err != nil && !errors.Is(err, os.ErrNotExist) {
						return err
					}
				}
			}
			if err := setSysctl("net/ipv6/conf/all/forwarding", "1"); err != nil {
				return err
			}
		}
	}
	if b.v4.IsValid() {
		on, err := sysctl("net/ipv4/ip_forward")
		if err != nil || on == "1" {
			return err
		}
		return setSysctl("net/ipv4/ip_forward", "1")
	}
	return nil
}

func sysctl(name string) (string, error) {
	text, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return "", fail("sysctl", name, err, "/proc/sys must be there")
	}
	return strings.TrimSpace(string(text)), nil
}

func setSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fail("sysctl", name, err, "/proc/sys must be writable, or "+strings.ReplaceAll(name, "/", ".")+" be "+value+" already")
	}
	return nil
}

// close leaves the bridge, and removes it where it is inlay's and nobody uses it.
func (b *bridge) close() error {
	if err := b.locks.lock(context.Background()); err != nil {
		b.h.Close()
		return errors.Join(fail("lock", b.name, err, ""), releaseRules(), b.locks.close())
	}
	return b.shut()
}

// shut is close with byte 0 locked.
func (b *bridge) shut() error {
	others, err := b.locks.heldByOthers(base(b.slot), 1)
	if err == nil && !others && b.h != nil {
		err = b.remove()
	}
	if b.h != nil {
		b.h.Close()
	}
	return errors.Join(err, releaseRules(), b.locks.set(unix.F_UNLCK, base(b.slot), 1<<32), b.locks.close())
}

// remove takes the bridge away, or of somebody else's what belongs to its containers.
func (b *bridge) remove() error {
	err := deleteTable(tableName(b.name))
	if b.own && b.index != 0 {
		if e := b.h.LinkDel(b.link()); e != nil && !errors.Is(e, unix.ENODEV) {
			err = errors.Join(err, fail("remove bridge", b.name, e, ""))
		}
	}
	return err
}

// firstAddress is the number of the first container's: 1 is the bridge's own.
const (
	firstAddress = 2
	maxAddress   = 1<<24 - 1
)

// take takes a number that no other container has, in both networks: n where it is not 0.
func (b *bridge) take(n uint32) (uint32, error) {
	if err := fault.At("take address", b.name); err != nil {
		return 0, fail("take address", b.name, err, "")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n != 0 {
		ok, err := b.try(n)
		if err == nil && !ok {
			err = unix.EADDRINUSE
		}
		return n, err
	}
	last := b.last()
	for range last {
		n := b.next
		if b.next++; b.next > last {
			b.next = firstAddress
		}
		if n < firstAddress || n > last || b.gateway(n) {
			continue
		}
		ok, err := b.try(n)
		if err != nil || ok {
			return n, err
		}
	}
	return 0, fmt.Errorf("all %d addresses are taken: %w", last-1, unix.EADDRNOTAVAIL)
}

// try takes a number, with mu held.
func (b *bridge) try(n uint32) (bool, error) {
	if b.taken[n] {
		return false, nil
	}
	switch err := b.locks.set(unix.F_WRLCK, base(b.slot)+int64(n), 1); {
	case taken(err):
		return false, nil
	case err != nil:
		return false, err
	}
	b.taken[n] = true
	return true, nil
}

// last is the largest number that has an address in each of the networks.
func (b *bridge) last() uint32 {
	last := uint32(maxAddress)
	for _, p := range []netip.Prefix{b.v4, b.v6} {
		if bits := p.Addr().BitLen() - p.Bits(); p.IsValid() && bits < 24 {
			last = min(last, 1<<bits-2) // the last is for all of them (broadcast)
		}
	}
	return last
}

// gateway tells whether a number is the bridge's own address.
func (b *bridge) gateway(n uint32) bool {
	return b.v4.IsValid() && nth(b.v4, n) == b.v4.Addr() || b.v6.IsValid() && nth(b.v6, n) == b.v6.Addr()
}

func (b *bridge) giveBack(n uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.taken, n)
	return b.locks.set(unix.F_UNLCK, base(b.slot)+int64(n), 1)
}

// nth is the n-th address of a network.
func nth(p netip.Prefix, n uint32) netip.Addr {
	a := p.Masked().Addr().AsSlice()
	for i := len(a) - 1; n > 0; i-- {
		n += uint32(a[i])
		a[i] = byte(n)
		n >>= 8
	}
	out, _ := netip.AddrFromSlice(a) // of 4 or 16 bytes, as before
	return out
}

// number is which address of its network it is; false: too large to have one.
func number(p netip.Prefix, a netip.Addr) (uint32, bool) {
	first, at := p.Masked().Addr().AsSlice(), a.AsSlice()
	n := uint64(0)
	for i := range at {
		if n >= 1<<32 {
			return 0, false
		}
		n = n<<8 | uint64(at[i]^first[i])
	}
	return uint32(n), n <= maxAddress
}
