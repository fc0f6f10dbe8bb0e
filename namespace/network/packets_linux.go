package network

import (
	"errors"
	"math"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/netdriver"
)

// packetTable is where the packets of a container's link are counted: on the host's end,
// as the bridge gets and gives them.
func packetTable(bridge string, n uint32) *nftables.Table {
	return &nftables.Table{Name: ownTableName(bridge, n), Family: nftables.TableFamilyBridge}
}

// Chains of that table.
const (
	packetsOut = "egress"
	packetsIn  = "ingress"
)

// limitPackets has packets dropped that come faster; 0: none are.
func (l *link) limitPackets(egress, ingress uint64) error {
	if egress == l.rate.EgressPackets && ingress == l.rate.IngressPackets {
		return nil
	}
	var err error
	if l.tooMany[0], l.tooMany[1], err = l.packetsDropped(); err != nil {
		return err
	}
	t := packetTable(l.b.name, l.n)
	if egress == 0 && ingress == 0 {
		if err := dropTable(t); err != nil {
			return err
		}
		l.counted = false
		return nil
	}
	l.counted = true
	err = replaceTable(t, func(c *nftables.Conn, t *nftables.Table) {
		first := nftables.ChainPriority(-400) // before all that costs
		limit := func(name string, hook *nftables.ChainHook, which []expr.Any, rate uint64) {
			if rate == 0 {
				return
			}
			ch := c.AddChain(&nftables.Chain{Table: t, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &first})
			burst := uint32(min(max(float64(rate)*serviceTime, minBurst), math.MaxUint32))
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: join(which, []expr.Any{
				&expr.Limit{Type: expr.LimitTypePkts, Rate: rate, Unit: expr.LimitTimeSecond, Burst: burst, Over: true},
				&expr.Counter{},
			}, drop())})
		}
		limit(packetsOut, nftables.ChainHookPrerouting, iif(l.name), egress)
		limit(packetsIn, nftables.ChainHookPostrouting, oif(l.name), ingress)
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return &netdriver.Error{Op: "packets", Path: l.name, Err: err, Remedy: "the kernel must have nf_tables for bridges, and nft_limit", Limit: true}
	}
	return err
}

// minBurst is how many packets may come at once, however low the rate.
const minBurst = 10

// packetsDropped is what was too much so far, and how many bytes it had.
func (l *link) packetsDropped() (egress, ingress netdriver.Counter, err error) {
	egress, ingress = l.tooMany[0], l.tooMany[1]
	if !l.counted {
		return egress, ingress, nil
	}
	c, err := nftables.New()
	if err != nil {
		return egress, ingress, fail("count", l.name, err, "")
	}
	t := packetTable(l.b.name, l.n)
	for name, n := range map[string]*netdriver.Counter{packetsOut: &egress, packetsIn: &ingress} {
		rules, err := c.GetRules(t, &nftables.Chain{Table: t, Name: name})
		if errors.Is(err, unix.ENOENT) {
			continue // no bound in this direction
		}
		if err != nil {
			return egress, ingress, fail("count", l.name, err, "")
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if k, ok := e.(*expr.Counter); ok {
					n.Dropped += k.Packets
					n.Bytes += k.Bytes + header*k.Packets
				}
			}
		}
	}
	return egress, ingress, nil
}
