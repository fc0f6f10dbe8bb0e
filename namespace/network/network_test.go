package network_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/namespace/network"
)

// What is wrong with a network is said by New, whatever the host is.
func TestRefuses(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	bridge := func(opts ...network.Option) container.Option {
		return container.WithNetwork(network.Bridge("", opts...))
	}
	rate := container.WithBandwidth(container.Rate{Egress: 1e6})
	for _, tt := range []struct {
		name   string
		opts   []container.Option
		option string
		reason string
	}{
		{"rate on lo alone", []container.Option{rate}, "WithBandwidth", "no network but lo"},
		{"rate without a network", []container.Option{container.WithNetwork(network.None()), rate}, "WithBandwidth", "no network but lo"},
		{"rate on the host's", []container.Option{container.WithNetwork(network.Host()), rate}, "WithBandwidth", "not the container's own"},
		{"rate on a joined one", []container.Option{container.WithNetwork(network.Join("/proc/1/ns/net")), rate}, "WithBandwidth", "not the container's own"},
		{"a pair's name", []container.Option{container.WithNetwork(network.Veth(""))}, "network.Veth", "from 1 to 15 bytes"},
		{"open pair", []container.Option{container.WithNetwork(network.Veth("x", network.Open()))}, "network.Open", "nobody beside"},
		{"no rate", []container.Option{bridge(), container.WithBandwidth(container.Rate{})}, "WithBandwidth", "no rate"},
		{"rate too low", []container.Option{bridge(), container.WithBandwidth(container.Rate{Ingress: 7999})}, "WithBandwidth", "7999 bit/s"},
		{"rate too high", []container.Option{bridge(), container.WithBandwidth(container.Rate{Ingress: 1e12})}, "WithBandwidth", "1000000000000 bit/s"},
		{"burst", []container.Option{bridge(), container.WithBandwidth(container.Rate{Ingress: 1e9, Burst: 1 << 31})}, "WithBandwidth", "burst"},
		{"burst of minutes", []container.Option{bridge(), container.WithBandwidth(container.Rate{Ingress: 8000, Burst: 1 << 20})}, "WithBandwidth", "burst"},
		{"few packets", []container.Option{bridge(), container.WithBandwidth(container.Rate{EgressPackets: 9})}, "WithBandwidth", "9 packets a second"},
		{"too many packets", []container.Option{bridge(), container.WithBandwidth(container.Rate{IngressPackets: 1e9})}, "WithBandwidth", "1000000000 packets a second"},
		{"another kind", []container.Option{container.WithNetwork(container.Network{Kind: "slirp"})}, "WithNetwork", "no such kind"},
		{"no config", []container.Option{container.WithNetwork(container.Network{Kind: "bridge", Config: []byte(`{"x":1}`)})}, "WithNetwork", "no JSON"},
		{"the host's namespace too", []container.Option{bridge(), container.WithHostNamespace(namespace.Network)}, "WithNetwork", "not new"},
		{"long name", []container.Option{container.WithNetwork(network.Bridge("sixteen-letters-"))}, "network.Bridge", "15 bytes"},
		{"path as name", []container.Option{container.WithNetwork(network.Bridge("a/b"))}, "network.Bridge", "character"},
		{"subnet with bits", []container.Option{bridge(network.Subnet(prefix("10.0.0.1/24")))}, "network.Subnet", "bits beyond"},
		{"two subnets", []container.Option{bridge(network.Subnet(prefix("10.0.0.0/24"), prefix("10.0.1.0/24")))}, "network.Subnet", "one kind"},
		{"small subnet", []container.Option{bridge(network.Subnet(prefix("10.0.0.0/31")))}, "network.Subnet", "too small"},
		{"subnet that is none", []container.Option{bridge(network.Subnet(netip.Prefix{}))}, "network.Subnet", "not a network"},
		{"address outside", []container.Option{bridge(network.Subnet(prefix("10.0.0.0/24")), network.Address(addr("10.0.1.2")))}, "network.Address", "outside"},
		{"address that is none", []container.Option{bridge(network.Address(netip.Addr{}))}, "network.Address", "an address"},
		{"group address", []container.Option{bridge(network.Address(addr("224.0.0.1")))}, "network.Address", "no address of a host"},
		{"MTU", []container.Option{bridge(network.MTU(68))}, "network.MTU", "1280"},
		{"MTU of zero", []container.Option{bridge(network.MTU(0))}, "network.MTU", "1280"},
		{"MAC", []container.Option{bridge(network.MAC(net.HardwareAddr{1, 2, 3, 4, 5, 6}))}, "network.MAC", "group"},
		{"short MAC", []container.Option{bridge(network.MAC(net.HardwareAddr{2, 2}))}, "network.MAC", "six bytes"},
		{"route", []container.Option{bridge(network.AddRoute(prefix("10.0.0.0/8"), addr("fd00::1")))}, "network.AddRoute", "same kind"},
		{"servers", []container.Option{bridge(network.DNS(addr("1.1.1.1"), addr("1.1.1.2"), addr("1.1.1.3"), addr("1.1.1.4")))}, "network.DNS", "4 servers"},
		{"search", []container.Option{bridge(network.SearchDomain("a b"))}, "network.SearchDomain", "character"},
		{"host", []container.Option{bridge(network.AddHost("a\nb", addr("1.1.1.1")))}, "network.AddHost", "character"},
		{"port twice", []container.Option{bridge(network.Publish(network.Port{Host: 80, Container: 80}, network.Port{Host: 79, Container: 1, Count: 2}))}, "network.Publish", "same port"},
		{"port on all twice", []container.Option{bridge(network.Publish(network.Port{Host: 80, Container: 80}, network.Port{Address: addr("0.0.0.0"), Host: 80, Container: 81}))}, "network.Publish", "same port"},
		{"port of zero", []container.Option{bridge(network.Publish(network.Port{Container: 80}))}, "network.Publish", "no port"},
		{"loopback of IPv6", []container.Option{bridge(network.Publish(network.Port{Address: addr("::1"), Host: 80, Container: 80}))}, "network.Publish", "127.0.0.1 can"},
		{"protocol", []container.Option{bridge(network.Publish(network.Port{Protocol: "sctp", Host: 80, Container: 80}))}, "network.Publish", "tcp or udp"},
		{"rule", []container.Option{bridge(network.Allow(netip.Prefix{}))}, "network.Allow", "not a network"},
		{"rule's port", []container.Option{bridge(network.Allow(prefix("10.0.0.0/8"), 0))}, "network.Allow", "no port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := container.New(append([]container.Option{container.WithCommand("true")}, tt.opts...)...)
			var e *container.OptionError
			require.ErrorAs(t, err, &e)
			require.Equal(t, tt.option, e.Option, "%v", err)
			require.Contains(t, e.Reason, tt.reason)
		})
	}
	_, err := container.New(bridge(network.MTU(1), network.AddHost("", addr("1.1.1.1"))), container.WithBandwidth(container.Rate{}))
	require.Equal(t, 3, strings.Count(err.Error(), "inlay:"), "all at once: %v", err)
}

// A network is data: it survives its way through JSON, and the last of several counts.
func TestRoundTrip(t *testing.T) {
	c, err := container.New(container.WithNetwork(network.Host()), container.WithNetwork(network.Bridge("b", network.DenyAll(), network.Allow(netip.MustParsePrefix("10.0.0.0/8"), 53),
		network.Publish(network.Port{Host: 1, Container: 2}), network.AddHost("db", netip.MustParseAddr("10.0.0.7")))), container.WithBandwidth(container.Rate{Egress: 1e6}))
	require.NoError(t, err)
	require.Empty(t, c.Spec().HostNamespaces)
	text, err := json.Marshal(c.Spec())
	require.NoError(t, err)
	var s container.Spec
	require.NoError(t, json.Unmarshal(text, &s))
	d, err := container.FromSpec(s)
	require.NoError(t, err)
	require.Equal(t, c.Spec().Network, d.Spec().Network)
	require.Equal(t, c.Spec().Bandwidth, d.Spec().Bandwidth)
	c, err = container.New(container.WithNetwork(network.Bridge("")), container.WithNetwork(network.None()))
	require.NoError(t, err)
	require.Nil(t, c.Spec().Network)
	c, err = container.New(container.WithNetwork(network.Bridge("")), container.WithNetwork(network.Host()))
	require.NoError(t, err)
	require.Equal(t, []namespace.Kind{namespace.Network}, c.Spec().HostNamespaces)
	require.Nil(t, c.Spec().Network)
}

func TestParsePort(t *testing.T) {
	for text, want := range map[string]network.Port{
		"8080:80":                   {Host: 8080, Container: 80},
		"8080:80/udp":               {Protocol: "udp", Host: 8080, Container: 80},
		"0.0.0.0:1-3:11-13":         {Address: netip.MustParseAddr("0.0.0.0"), Host: 1, Container: 11, Count: 3},
		"[2001:db8::1]:8080:80/tcp": {Protocol: "tcp", Address: netip.MustParseAddr("2001:db8::1"), Host: 8080, Container: 80},
		"65535:65535":               {Host: 65535, Container: 65535},
	} {
		p, err := network.ParsePort(text)
		require.NoError(t, err, text)
		require.Equal(t, want, p, text)
		again, err := network.ParsePort(p.String())
		require.NoError(t, err)
		require.Equal(t, p, again)
	}
	for _, text := range []string{"", "80", ":80", "80:", "0:80", "80:0", "1-2:3", "3-1:3-1", "65536:1", "x:1:2", "1:2/sctp", "65535-65536:1-2", "[::1]:1:2", "-1:1"} {
		_, err := network.ParsePort(text)
		require.Error(t, err, text)
	}
}

func FuzzParsePort(f *testing.F) {
	f.Add("[2001:db8::1]:8080-8081:80-81/udp")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := network.ParsePort(text)
		if err != nil {
			return
		}
		again, err := network.ParsePort(p.String())
		require.NoError(t, err, "%v", p)
		require.Equal(t, p, again)
		_, err = container.New(container.WithNetwork(network.Bridge("", network.Publish(p))))
		require.NoError(t, err)
	})
}

// Whatever a config is, it is taken or refused by name.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"bridge":"b","subnets":["10.0.0.0/24"],"ports":[{"host":1,"container":2}],"egress":[{"to":"10.0.0.0/8"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := container.FromSpec(container.Spec{Network: &container.Network{Kind: "bridge", Config: text}})
		var e *container.OptionError
		require.True(t, err == nil || errors.As(err, &e))
	})
}
