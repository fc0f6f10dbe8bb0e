package network_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
)

// addresses are a container's, of IPv4 and IPv6.
func addresses(t testing.TB, c *container.Container) (v4, v6 string) {
	t.Helper()
	list := c.Addresses()
	require.Len(t, list, 2)
	require.True(t, list[0].Addr().Is4())
	require.True(t, list[1].Addr().Is6())
	return list[0].Addr().String(), list[1].Addr().String()
}

func at(address, port string) string { return net.JoinHostPort(address, port) }

// both asks a service of both protocols.
func both(address, port, want string) []question {
	return []question{{"tcp", at(address, port), want}, {"udp", at(address, port), want}}
}

func all(lists ...[]question) (out []question) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// Who reaches whom is what the options say: containers, the host and outside in all
// pairs, by TCP and UDP, IPv4 and IPv6.
func TestReach(t *testing.T) {
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

	publish := func(text ...string) network.Option {
		var ports []network.Port
		for _, s := range text {
			p, err := network.ParsePort(s)
			require.NoError(t, err)
			ports = append(ports, p)
		}
		return network.Publish(ports...)
	}
	a := start(t, container.WithNetwork(network.Bridge("", publish("8000:7000", "8000:7000/udp", "0.0.0.0:8010:7000", "0.0.0.0:8010:7000/udp", "[::]:8010:7000", "[::]:8010:7000/udp", "192.0.2.1:7099-7101:6999-7001", "192.0.2.1:6999-7000:6999-7000"))))
	b := start(t, container.WithNetwork(network.Bridge("")))
	open1 := start(t, container.WithNetwork(network.Bridge("", network.Open())))
	open2 := start(t, container.WithNetwork(network.Bridge("", network.Open())))
	denied := start(t, container.WithNetwork(network.Bridge("", network.DenyAll(), publish("8020:7000"))))
	one := start(t, container.WithNetwork(network.Bridge("", network.Allow(netip.MustParsePrefix(out4+"/32"), 7002), network.Allow(netip.MustParsePrefix("2001:db8::/64")))))
	elsewhere := start(t, container.WithNetwork(network.Bridge("other")))
	for _, c := range []*container.Container{a, b, open1, open2, denied, one, elsewhere} {
		serving(t, c)
	}
	of := func(c *container.Container) (string, string) { return addresses(t, c) }
	a4, a6 := of(a)
	b4, b6 := of(b)
	o14, o16 := of(open1)
	o24, o26 := of(open2)
	d4, d6 := of(denied)
	e4, e6 := of(elsewhere)
	n4, n6 := a.Addresses()[0].Masked().Addr().Next().String(), a.Addresses()[1].Masked().Addr().Next().String()

	t.Run("a container", func(t *testing.T) {
		check(t, "a", a, all(
			both("127.0.0.1", "7000", "127.0.0.1"), both("::1", "7000", "::1"),
			both(n4, "7001", a4), both(n6, "7001", a6),
			// The host's other addresses are not for it.
			both(hostOut4, "7001", ""), both(hostOut6, "7001", ""),
			both(b4, "7000", ""), both(b6, "7000", ""), both(o14, "7000", ""), both(o16, "7000", ""), both(e4, "7000", ""), both(e6, "7000", ""),
			both(out4, "7002", hostOut4), both(out6, "7002", hostOut6)))
		check(t, "elsewhere", elsewhere, all(both(a4, "7000", ""), both(a6, "7000", ""), both(n4, "7001", ""), both(out4, "7002", hostOut4), both(out6, "7002", hostOut6)))
	})
	t.Run("open", func(t *testing.T) {
		check(t, "open1", open1, all(both(o24, "7000", o14), both(o26, "7000", o16), both(a4, "7000", ""), both(a6, "7000", ""), both(out4, "7002", hostOut4)))
		check(t, "open2", open2, all(both(o14, "7000", o24), both(o16, "7000", o26), both(d4, "7000", ""), both(d6, "7000", "")))
	})
	t.Run("egress", func(t *testing.T) {
		check(t, "denied", denied, all(both(n4, "7001", ""), both(n6, "7001", ""), both(out4, "7002", ""), both(out6, "7002", ""), both(a4, "7000", "")))
		check(t, "one", one, all(both(n4, "7001", ""), both(n6, "7001", ""), both(out4, "7002", hostOut4), both(out4, "7003", ""), both(hostOut4, "7001", ""), both(out6, "7002", hostOut6), both(hostOut6, "7001", "")))
	})
	t.Run("the host", func(t *testing.T) {
		check(t, "host", nil, all(
			both(a4, "7000", n4), both(a6, "7000", n6), both(d4, "7000", n4), both(d6, "7000", n6),
			both("127.0.0.1", "8000", n4), both("127.0.0.1", "8010", n4),
			[]question{{"tcp", at("127.0.0.1", "8020"), n4}, {"tcp", at(hostOut4, "7000"), hostOut4}}))
	})
	t.Run("outside", func(t *testing.T) {
		checkOutside(t, o, all(
			both(hostOut4, "7001", out4)[1:], both(hostOut6, "7001", out6),
			both(hostOut4, "8010", out4), both(hostOut6, "8010", out6), []question{{"tcp", at(hostOut4, "7000"), out4}, {"tcp", at(hostOut4, "7100"), out4}},
			both(hostOut4, "8000", ""), both(hostOut4, "8020", ""),
			both(a4, "7000", ""), both(a6, "7000", ""), both(b4, "7000", ""), both(o16, "7000", "")))
	})
}
