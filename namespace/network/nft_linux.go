package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A bridge's table has the rules for all of its containers; a container that publishes
// ports, or that may not reach everything, has one more of its own. So each goes with
// one message, and who has the lock on the name may replace it.
func tableName(bridge string) string { return "inlay-" + bridge }

func ownTableName(bridge string, n uint32) string { return fmt.Sprintf("inlay-%s/%x", bridge, n) }

// guardTable is the one on the host's end of a container's link.
func guardTable(bridge string, n uint32) *nftables.Table {
	return &nftables.Table{Name: ownTableName(bridge, n), Family: nftables.TableFamilyNetdev}
}

// Names of the sets of addresses that have Open.
const (
	open4 = "open4"
	open6 = "open6"
)

// makeTable makes the table of the bridge.
func (b *bridge) makeTable() error {
	return replaceTable(&nftables.Table{Name: tableName(b.name), Family: nftables.TableFamilyINet}, func(c *nftables.Conn, t *nftables.Table) {
		in, out := iif(b.name), oif(b.name)
		chain := func(name string, hook *nftables.ChainHook, priority nftables.ChainPriority, typ nftables.ChainType) *nftables.Chain {
			return c.AddChain(&nftables.Chain{Table: t, Name: name, Type: typ, Hooknum: hook, Priority: &priority})
		}
		add := func(ch *nftables.Chain, parts ...[]expr.Any) {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: join(parts...)})
		}
		sets := map[bool]*nftables.Set{
			false: {Table: t, Name: open4, KeyType: nftables.TypeIPAddr},
			true:  {Table: t, Name: open6, KeyType: nftables.TypeIP6Addr},
		}
		for _, s := range sets {
			_ = c.AddSet(s, nil) // queued: Flush tells what was wrong
		}
		forward := chain("forward", nftables.ChainHookForward, *nftables.ChainPriorityFilter, nftables.ChainTypeFilter)
		input := chain("input", nftables.ChainHookInput, *nftables.ChainPriorityFilter, nftables.ChainTypeFilter)
		nat := chain("postrouting", nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, nftables.ChainTypeNAT)
		add(forward, in, established(), accept())
		add(forward, out, established(), accept())
		add(input, in, established(), accept())
		add(input, in, neighbours(), accept())
		// br_netfilter sends here what the bridge itself passes, where it is on; what it
		// does not pass, to isolated ports, does not come here.
		add(forward, in, out, neighbours(), accept())
		for _, own := range []netip.Prefix{b.v4, b.v6} {
			if !own.IsValid() {
				continue
			}
			n, six := own.Masked(), own.Addr().Is6()
			add(forward, in, out, family(six), member(sets[six], source(six)), member(sets[six], destination(six)), accept())
			// Nobody sends with an address from elsewhere, a link-local one included.
			add(forward, in, family(six), address(source(six), n, false), drop())
			add(input, in, family(six), address(source(six), n, true), address(destination(six), netip.PrefixFrom(own.Addr(), own.Addr().BitLen()), true), accept())
			add(nat, family(six), address(source(six), n, true), notOif(b.name), masquerade())
		}
		// What reaches a published port of the host's loopback has a source that no
		// container could answer.
		add(nat, out, family(false), address(source(false), netip.MustParsePrefix("127.0.0.0/8"), true), masquerade())
		add(forward, in, out, drop())
		add(forward, out, published(), accept())
		add(forward, out, drop())
		add(input, in, drop())
	})
}

// setOpen adds a container's addresses to those that reach each other, or takes them away.
func (l *link) setOpen(on bool) error {
	return transact(tableName(l.b.name), func(c *nftables.Conn) {
		t := &nftables.Table{Name: tableName(l.b.name), Family: nftables.TableFamilyINet}
		for _, p := range l.addresses {
			s := &nftables.Set{Table: t, Name: open4, KeyType: nftables.TypeIPAddr}
			if p.Addr().Is6() {
				s = &nftables.Set{Table: t, Name: open6, KeyType: nftables.TypeIP6Addr}
			}
			e := []nftables.SetElement{{Key: p.Addr().AsSlice()}}
			if on {
				_ = c.SetAddElements(s, e) // queued: Flush tells what was wrong
			} else {
				_ = c.SetDeleteElements(s, e)
			}
		}
	})
}

// makeOwnTable makes the table of a container that publishes ports or may not reach
// everything.
func (l *link) makeOwnTable() error {
	return replaceTable(&nftables.Table{Name: ownTableName(l.b.name, l.n), Family: nftables.TableFamilyINet}, func(c *nftables.Conn, t *nftables.Table) {
		if l.restricted() {
			l.egressRules(c, t)
		}
		if len(l.c.Ports) > 0 {
			l.portRules(c, t)
		}
	})
}

// restricted tells that the container may not reach everything.
func (l *link) restricted() bool { return l.c.DenyAll || len(l.c.Egress) > 0 }

func (l *link) egressRules(c *nftables.Conn, t *nftables.Table) {
	// Before the bridge's own table, which still says where a packet may come from.
	before := *nftables.ChainPriorityFilter - 10
	out := c.AddChain(&nftables.Chain{Table: t, Name: "out"})
	add := func(parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: join(parts...)})
	}
	add(established(), accept())
	add(neighbours(), accept())
	for _, r := range l.c.Egress {
		six := r.To.Addr().Is6()
		if len(r.Ports) == 0 {
			add(family(six), address(destination(six), r.To.Masked(), true), accept())
		}
		for _, p := range r.Ports {
			for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				add(family(six), address(destination(six), r.To.Masked(), true), port(proto, p, p), accept())
			}
		}
	}
	add(drop())
	for name, hook := range map[string]*nftables.ChainHook{"forward": nftables.ChainHookForward, "input": nftables.ChainHookInput} {
		ch := c.AddChain(&nftables.Chain{Table: t, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &before})
		for _, p := range l.addresses {
			six := p.Addr().Is6()
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: join(iif(l.b.name), family(six), address(source(six), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), true), jump(out.Name))})
		}
	}
}

func (l *link) portRules(c *nftables.Conn, t *nftables.Table) {
	priority := *nftables.ChainPriorityNATDest
	prerouting := c.AddChain(&nftables.Chain{Table: t, Name: "prerouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: &priority})
	output := c.AddChain(&nftables.Chain{Table: t, Name: "output", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: &priority})
	for _, p := range l.c.Ports {
		at, proto := p.address(), byte(unix.IPPROTO_TCP)
		six := at.Is6()
		if p.udp() {
			proto = unix.IPPROTO_UDP
		}
		to := l.address(six)
		where := address(destination(six), netip.PrefixFrom(at, at.BitLen()), true)
		if at.IsUnspecified() {
			where = local()
		}
		for _, ch := range []*nftables.Chain{prerouting, output} {
			if ch == prerouting && at.IsLoopback() {
				continue // nothing comes from outside to there
			}
			add := func(first, last, inside uint16) {
				c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: join(family(six), where, port(proto, first, last), dnat(to, inside))})
			}
			if p.Host == p.Container {
				add(p.Host, p.Host+max(p.Count, 1)-1, 0)
				continue
			}
			for i := range max(p.Count, 1) {
				add(p.Host+i, p.Host+i, p.Container+i)
			}
		}
	}
}

// makeGuard makes the table by which a container that could send what it likes sends
// with its own addresses alone: on the host's end of its link, before the bridge.
func (l *link) makeGuard() error {
	return replaceTable(guardTable(l.b.name, l.n), func(c *nftables.Conn, t *nftables.Table) {
		first := nftables.ChainPriority(-100)
		ch := c.AddChain(&nftables.Chain{Table: t, Name: "guard", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress, Priority: &first, Device: l.name})
		add := func(parts ...[]expr.Any) {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: join(parts...)})
		}
		exactly := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
		for _, p := range l.addresses {
			six := p.Addr().Is6()
			add(ether(six), address(source(six), exactly(p.Addr()), true), accept())
			if six {
				// Asking for neighbours, by the link's own address or none yet.
				add(ether(six), address(source(six), netip.MustParsePrefix("fe80::/10"), true), neighbours(), accept())
				add(ether(six), address(source(six), netip.MustParsePrefix("::/128"), true), neighbours(), accept())
				continue
			}
			for _, a := range []netip.Addr{p.Addr(), netip.IPv4Unspecified()} {
				add(etherType(unix.ETH_P_ARP), bytesAre(expr.PayloadBaseNetworkHeader, 14, a.AsSlice()), accept())
			}
		}
		add(drop())
	})
}

// join is one rule of several parts.
func join(parts ...[]expr.Any) (out []expr.Any) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// ifName is a link's name as the kernel compares it.
func ifName(name string) []byte {
	b := make([]byte, 16)
	copy(b, name)
	return b
}

func meta(key expr.MetaKey, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

func iif(name string) []expr.Any { return meta(expr.MetaKeyIIFNAME, expr.CmpOpEq, ifName(name)) }
func oif(name string) []expr.Any { return meta(expr.MetaKeyOIFNAME, expr.CmpOpEq, ifName(name)) }

func notOif(name string) []expr.Any { return meta(expr.MetaKeyOIFNAME, expr.CmpOpNeq, ifName(name)) }

func family(six bool) []expr.Any {
	if six {
		return meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV6})
	}
	return meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4})
}

// etherType is the protocol of a frame, where there is no family of IP yet.
func etherType(typ uint16) []expr.Any {
	return meta(expr.MetaKeyPROTOCOL, expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, typ))
}

func ether(six bool) []expr.Any {
	if six {
		return etherType(unix.ETH_P_IPV6)
	}
	return etherType(unix.ETH_P_IP)
}

// field is an address in a header.
type field struct{ offset, size uint32 }

func source(six bool) field {
	if six {
		return field{8, net.IPv6len}
	}
	return field{12, net.IPv4len}
}

func destination(six bool) field {
	if six {
		return field{24, net.IPv6len}
	}
	return field{16, net.IPv4len}
}

func (f field) load() expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.size}
}

// address matches one in a network, or one that is not.
func address(f field, n netip.Prefix, in bool) []expr.Any {
	op := expr.CmpOpEq
	if !in {
		op = expr.CmpOpNeq
	}
	mask := net.CIDRMask(n.Bits(), n.Addr().BitLen())
	return []expr.Any{
		f.load(),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		&expr.Cmp{Op: op, Register: 1, Data: n.Masked().Addr().AsSlice()},
	}
}

func member(s *nftables.Set, f field) []expr.Any {
	return []expr.Any{f.load(), &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

func bytesAre(base expr.PayloadBase, offset uint32, want []byte) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(want))}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want}}
}

// port matches destination ports of a protocol.
func port(proto byte, first, last uint16) []expr.Any {
	out := meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{proto})
	out = append(out, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
	if first == last {
		return append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, first)})
	}
	return append(out, &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binary.BigEndian.AppendUint16(nil, first), ToData: binary.BigEndian.AppendUint16(nil, last)})
}

// bits matches a word of conntrack that has one of the bits.
func bits(key expr.CtKey, mask uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: key},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// established matches what belongs to what was let through.
func established() []expr.Any {
	return bits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// published matches what dnat has sent here: IPS_DST_NAT of nf_conntrack_common.h.
func published() []expr.Any { return bits(expr.CtKeySTATUS, 1<<5) }

// neighbours matches IPv6's own ARP, of ICMPv6 (RFC 4861): solicitations 135 and
// advertisements 136.
func neighbours() []expr.Any {
	out := meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_ICMPV6})
	return append(out,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{135}, ToData: []byte{136}})
}

// local matches what goes to an address of the host's.
func local() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}}
}

func dnat(to netip.Addr, inside uint16) []expr.Any {
	fam := uint32(unix.NFPROTO_IPV4)
	if to.Is6() {
		fam = unix.NFPROTO_IPV6
	}
	out := []expr.Any{&expr.Immediate{Register: 1, Data: to.AsSlice()}}
	n := &expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: 1}
	if inside != 0 {
		out = append(out, &expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, inside)})
		n.RegProtoMin = 2
	}
	return append(out, n)
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }
func accept() []expr.Any     { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any       { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}
