package network_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
	"github.com/inlay-dev/inlay/rootfs"
)

// A bridge is there as long as somebody uses it.
func TestBridge(t *testing.T) {
	needHost(t)
	before := state(t)
	hold, err := network.Hold(timeout(t), network.Bridge(""))
	require.NoError(t, err)
	held := state(t)
	c := start(t, container.WithNetwork(network.Bridge("")))
	require.Equal(t, "10.224.0.2/20 fd69:6e6c:6179::2/64", fmt.Sprint(c.Addresses()[0], c.Addresses()[1]))
	require.NoError(t, c.Close())
	asBefore(t, held)
	require.NoError(t, hold.Close())
	require.NoError(t, hold.Close())
	require.Equal(t, before, state(t), "the last one waits for what is removed")
	c = start(t, container.WithNetwork(network.Bridge("")))
	require.NoError(t, c.Close())
	require.Equal(t, before, state(t))
	_, err = network.Hold(timeout(t), network.Bridge("a/b"))
	var e *container.OptionError
	require.ErrorAs(t, err, &e)
	hold, err = network.Hold(timeout(t), network.None())
	require.NoError(t, err)
	require.NoError(t, hold.Close())
	require.Equal(t, before, state(t))
}

// Names are those of the options, in each kind of root, and none of a root's own files
// is changed.
func TestNames(t *testing.T) {
	needHost(t)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, d := range []string{"etc", "usr", "proc", "dev", "run", "tmp"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	for name, to := range map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf"} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/hosts"), []byte("of the image\n"), 0o644))
	usr := container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()))
	n := container.WithNetwork(network.Bridge("", network.DNS(netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("fd00::53")), network.SearchDomain("a.example", "b.example"), network.AddHost("db", netip.MustParseAddr("10.9.9.9"))))
	for name, root := range map[string]container.Option{
		"host":     container.Options(),
		"dir":      container.Options(container.WithRoot(rootfs.Dir(dir)), usr),
		"writable": container.Options(container.WithRoot(rootfs.Dir(dir, rootfs.Writable(), rootfs.IDMapped())), usr),
		"overlay":  container.Options(container.WithRoot(rootfs.Overlay(dir)), usr),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := container.Run(timeout(t), root, container.WithCommand("true")); errors.Is(err, errors.ErrUnsupported) {
				require.ErrorContains(t, err, "rootfs.Upper")
				t.Skip("needs Linux 6.6: user attributes in memory file systems")
			}
			c := start(t, n, root, container.WithHostname("me"))
			v4, v6 := addresses(t, c)
			require.Equal(t, "nameserver 10.1.1.1\nnameserver fd00::53\nsearch a.example b.example\n", do(t, c, sh("cat /etc/resolv.conf")))
			require.Equal(t, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"+v4+"\tme\n"+v6+"\tme\n10.9.9.9\tdb\n", do(t, c, sh("cat /etc/hosts")))
			require.Equal(t, "refused\n", do(t, c, sh("echo x 2>/dev/null >/etc/hosts || echo refused")))
		})
	}
	text, err := os.ReadFile(filepath.Join(dir, "etc/hosts"))
	require.NoError(t, err)
	require.Equal(t, "of the image\n", string(text))
}

// A container in another's network has its links, addresses and names.
func TestOf(t *testing.T) {
	needHost(t)
	c := start(t, container.WithNetwork(network.Bridge("", network.AddHost("db", netip.MustParseAddr("10.9.9.9")))))
	d := start(t, container.WithNetwork(network.Of(c)))
	require.Nil(t, d.Addresses())
	serving(t, c)
	check(t, "the other", d, []question{{"tcp", at("127.0.0.1", "7000"), "127.0.0.1"}})
	require.Contains(t, do(t, d, sh("cat /etc/hosts")), "10.9.9.9\tdb\n")
	h := start(t, container.WithNetwork(network.Host()))
	require.Contains(t, do(t, h, sh("cat /proc/net/dev")), network.DefaultBridge)
	j := start(t, container.WithNetwork(network.Join(fmt.Sprintf("/proc/%d/ns/net", c.PID()))))
	check(t, "joined", j, []question{{"tcp", at("127.0.0.1", "7000"), "127.0.0.1"}})
}

// An address, a port or a name that others have is refused, and nothing is taken from
// those who have it.
func TestTaken(t *testing.T) {
	needHost(t)
	mine := netip.MustParseAddr("10.50.0.77")
	subnet := network.Subnet(netip.MustParsePrefix("10.50.0.0/24"), netip.MustParsePrefix("fd50::/64"))
	mac := net.HardwareAddr{2, 1, 2, 3, 4, 5}
	c := start(t, container.WithNetwork(network.Bridge("taken", subnet, network.Address(mine, netip.MustParseAddr("fd50::abcd:1")), network.Publish(network.Port{Host: 8300, Container: 7000}), network.MAC(mac), network.MTU(1400))))
	require.Equal(t, "10.50.0.77/24 fd50::abcd:1/64", fmt.Sprint(c.Addresses()[0], c.Addresses()[1]))
	require.Contains(t, do(t, c, sh("cat /proc/net/dev")), "eth0")
	for _, tt := range []struct {
		name string
		opts []network.Option
		is   error
		op   string
	}{
		{"address", []network.Option{network.Address(mine)}, unix.EADDRINUSE, "take address"},
		{"address of IPv6", []network.Option{network.Address(netip.MustParseAddr("fd50::abcd:1"))}, unix.EADDRINUSE, "take address"},
		{"the bridge's address", []network.Option{network.Address(netip.MustParseAddr("10.50.0.1"))}, unix.EADDRINUSE, "network.Address"},
		{"the last address", []network.Option{network.Address(netip.MustParseAddr("10.50.0.255"))}, unix.EADDRINUSE, "network.Address"},
		{"address elsewhere", []network.Option{network.Address(netip.MustParseAddr("10.51.0.2"))}, unix.EADDRNOTAVAIL, "network.Address"},
		{"port", []network.Option{network.Publish(network.Port{Host: 8300, Container: 1})}, unix.EADDRINUSE, "bind"},
		{"port of no address", []network.Option{network.Publish(network.Port{Address: netip.MustParseAddr("192.0.2.99"), Host: 8301, Container: 1})}, unix.EADDRNOTAVAIL, "bind"},
		{"subnet", []network.Option{network.Subnet(netip.MustParsePrefix("10.60.0.0/24"))}, unix.EEXIST, "network.Subnet"},
		{"MTU", []network.Option{network.MTU(1500)}, unix.EEXIST, "network.MTU"},
		{"route", []network.Option{network.AddRoute(netip.MustParsePrefix("10.70.0.0/16"), netip.MustParseAddr("10.80.0.1"))}, unix.ENETUNREACH, "route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := state(t)
			_, err := container.Run(timeout(t), container.WithCommand("true"), container.WithNetwork(network.Bridge("taken", tt.opts...)))
			var e *container.StartError
			require.ErrorAs(t, err, &e)
			require.ErrorIs(t, err, tt.is, "%v", err)
			require.Equal(t, tt.op, e.Op, "%v", err)
			require.NotEmpty(t, e.Remedy)
			asBefore(t, before)
		})
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "another"
	require.NoError(t, netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}))
	_, err := container.Run(timeout(t), container.WithCommand("true"), container.WithNetwork(network.Bridge("another")))
	require.ErrorIs(t, err, unix.EEXIST, "no bridge")
	require.NoError(t, netlink.LinkDel(&netlink.Ifb{LinkAttrs: attrs}))
	serving(t, c)
	check(t, "host", nil, []question{{"tcp", at("127.0.0.1", "8300"), "10.50.0.1"}})
}

// Somebody else's bridge is used as it is, and stays.
func TestForeignBridge(t *testing.T) {
	needHost(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "theirs"
	br := &netlink.Bridge{LinkAttrs: attrs}
	require.NoError(t, netlink.LinkAdd(br))
	defer func() { require.NoError(t, netlink.LinkDel(br)) }()
	_, err := container.Run(timeout(t), container.WithCommand("true"), container.WithNetwork(network.Bridge("theirs")))
	require.ErrorIs(t, err, unix.EADDRNOTAVAIL)
	a, err := netlink.ParseAddr("10.90.0.200/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(br, a))
	require.NoError(t, netlink.LinkSetUp(br))
	before := state(t)
	here, err := serve("7001")
	require.NoError(t, err)
	c := start(t, container.WithNetwork(network.Bridge("theirs")))
	require.Len(t, c.Addresses(), 1)
	check(t, "on theirs", c, []question{{"tcp", at("10.90.0.200", "7001"), c.Addresses()[0].Addr().String()}})
	require.NoError(t, c.Close())
	require.NoError(t, here.close())
	asBefore(t, before)
}

// To look what this host allows changes none of its rules, a bridge in use or not.
func TestProbeLeavesRules(t *testing.T) {
	needHost(t)
	bridge := container.WithNetwork(network.Bridge(""))
	c := start(t, bridge)
	before := state(t)
	report, err := container.Probe(timeout(t), bridge)
	require.NoError(t, err)
	require.NoError(t, report.Err())
	asBefore(t, before)
	require.NoError(t, c.Close())
}
