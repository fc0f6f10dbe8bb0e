package network_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
)

// A pair without a bridge reaches what a bridge does, and is one container's alone.
func TestVeth(t *testing.T) {
	needHost(t)
	o := newBeyond(t)
	var there *service
	var err error
	o.do(func() { there, err = serve("7002") })
	require.NoError(t, err)
	defer func() { require.NoError(t, there.close()) }()
	here, err := serve("7001")
	require.NoError(t, err)
	defer func() { require.NoError(t, here.close()) }()
	with := state(t)
	p, err := network.ParsePort("8000:7000")
	require.NoError(t, err)
	c := start(t, container.WithNetwork(network.Veth("pair0", network.Publish(p))), container.WithBandwidth(container.Rate{Egress: 10e6, Ingress: 10e6, EgressPackets: 1e6}))
	l, err := netlink.LinkByName("pair0")
	require.NoError(t, err)
	require.Equal(t, "veth", l.Type())
	require.Zero(t, l.Attrs().MasterIndex)
	serving(t, c)
	b := start(t, container.WithNetwork(network.Bridge("")))
	serving(t, b)
	v4, v6 := addresses(t, c)
	b4, b6 := addresses(t, b)
	n4, n6 := gateway(c), c.Addresses()[1].Masked().Addr().Next().String()
	check(t, "the pair's", c, all(both(n4, "7001", v4), both(n6, "7001", v6), both(hostOut4, "7001", ""), both(out4, "7002", hostOut4), both(out6, "7002", hostOut6), both(b4, "7000", ""), both(b6, "7000", "")))
	check(t, "the bridge's", b, all(both(v4, "7000", ""), both(v6, "7000", "")))
	check(t, "host", nil, all(both(v4, "7000", n4), both(v6, "7000", n6), []question{{"tcp", at("127.0.0.1", "8000"), n4}}))
	checkOutside(t, o, all(both(v4, "7000", ""), both(hostOut4, "8000", "")))
	require.NoError(t, b.Close())

	full := state(t)
	for _, n := range []container.Network{network.Veth("pair0"), network.Veth("lo2"), network.Bridge("pair0")} {
		if n.String() == network.Veth("lo2").String() {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "lo2"
			require.NoError(t, netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}))
		}
		_, err := container.Run(timeout(t), container.WithCommand("true"), container.WithNetwork(n))
		var e *container.StartError
		require.ErrorAs(t, err, &e, "%v", n)
		require.ErrorIs(t, err, unix.EEXIST, "%v", n)
		require.NotEmpty(t, e.Remedy)
	}
	lo2, err := netlink.LinkByName("lo2")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(lo2))
	asBefore(t, full)
	require.NoError(t, c.Close())
	asBefore(t, with)
}
