package network_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
)

func TestBridge(t *testing.T) {
	needHost(t)
	c := start(t, container.WithNetwork(network.Bridge("")))
	require.Len(t, c.Addresses(), 2)
	t.Log(c.Addresses())
	_, err := net.InterfaceByName(network.DefaultBridge)
	require.NoError(t, err)
	t.Log(do(t, c, sh("cat /etc/hosts /etc/resolv.conf /proc/net/dev /proc/net/route /proc/net/if_inet6")))
}
