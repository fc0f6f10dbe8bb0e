package network

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/netdriver"
)

// Probe is netdriver.Driver's. As root it makes a bridge, a link, rules and a rate in a
// network namespace that goes with its thread; for a user it looks who leads out, since
// the kernel that lets him have containers lets him have the rest.
func (driver) Probe(ctx context.Context, user bool) (string, error) {
	if user {
		return probeUplink()
	}
	var missing []string
	tried := make(chan error, 1)
	offMain(func() { // never unlocked: the thread ends with the goroutine, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			tried <- fail("unshare", "network namespace", err, "give this program CAP_SYS_ADMIN and CAP_NET_ADMIN, or run as a user where pasta is installed")
			return
		}
		var err error
		missing, err = tryLinks()
		tried <- err
	})
	select {
	case err := <-tried:
		if err != nil {
			return "", err
		}
	case <-ctx.Done():
		return "", fail("try", "links", context.Cause(ctx), "")
	}
	if len(missing) > 0 {
		return "there are; without " + strings.Join(missing, ", "), nil
	}
	return "there are, with rates", nil
}

// tryLinks tries what a container on a bridge needs, and tells what rates lack.
func tryLinks() (missing []string, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fail("netlink", "handle", err, remedyNetlink)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bridge"
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, fail("make bridge", attrs.Name, err, remedyNetlink)
	}
	attrs.Name = "veth"
	v := netlink.NewVeth(attrs)
	v.PeerName = "peer"
	if err := h.LinkAdd(v); err != nil {
		return nil, fail("make veth", attrs.Name, err, remedyNetlink)
	}
	if err := tryTable(&nftables.Table{Name: "try", Family: nftables.TableFamilyINet}, func(c *nftables.Conn, t *nftables.Table) {
		priority := *nftables.ChainPriorityNATSource
		ch := c.AddChain(&nftables.Chain{Table: t, Name: "try", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: &priority})
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: join(established(), masquerade())})
	}); err != nil {
		return nil, err
	}
	lack := func(what string, err error) error {
		var e *netdriver.Error
		if errors.As(err, &e) && !e.Limit {
			return err
		}
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s (%v)", what, err))
		}
		return nil
	}
	if err := lack("rates", shape(h, v.Index, attrs.Name, 1_000_000, 0, 1500)); err != nil {
		return nil, err
	}
	attrs.Name = "ifb"
	return missing, lack("rates for who has CAP_NET_ADMIN", h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}))
}

// probeUplink looks who would lead out of a user's annex.
func probeUplink() (string, error) {
	var c annexConfig
	if err := c.chooseUplink(); err != nil {
		return "", err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fail("open", "/dev/net/tun", fmt.Errorf("%w: %w", err, errors.ErrUnsupported), remedyTun)
	}
	if err := unix.Close(fd); err != nil {
		return "", fail("close", "/dev/net/tun", err, "")
	}
	if c.Stack != "" {
		return "there are, and userstack leads out", nil
	}
	return "there are, and " + c.Pasta + " leads out", nil
}
