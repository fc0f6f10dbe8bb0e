// Package network connects containers: to nothing but their own lo, which holds
// without it, to a bridge of the host, or as the host or another container is.
//
//	container.Run(ctx,
//		container.WithCommand("curl", "-s", "http://10.0.0.7/"),
//		container.WithNetwork(network.Bridge("", network.Allow(netip.MustParsePrefix("10.0.0.7/32"), 80))),
//		container.WithBandwidth(container.Rate{Egress: 20_000_000, Ingress: 20_000_000}),
//	)
//
// A bridge is made by the first container that wants it and removed with the last, in
// the network namespace of the host program; [Hold] keeps it between them. Each
// container has a veth pair, an address of IPv4 and one of IPv6 that no other has,
// whichever program started it, and rules in tables of nftables of its own. Containers
// of one bridge do not reach each other, the host at the bridge's address alone, and
// what is outside by address translation; nobody outside reaches them but at published
// ports.
//
// A host program that is killed leaves nothing: its launcher's last act is to execute the
// program's binary once more, which removes links and tables in this package's init;
// os.Args[0] is "inlay-heir".
//
// A user without power over the host's network has the same: bridges, rules and rates are
// made in a network namespace of his own, for all containers of one program, and the
// program pasta (the package passt) carries what leaves it to sockets of the user's own;
// where pasta is not installed, so does package userstack, if it is imported. What is
// different then: the host at the bridge's address is that namespace, in which nobody
// serves, so containers reach nothing of the host's, by none of the addresses that it has
// when the first container starts; published ports are served by a proxy, so containers
// see the bridge's address for whoever asks, and ports below 1024 are root's; containers
// of two programs are on different bridges, whatever their names are.
//
// Importing the package links netlink and nftables; package container alone does not.
package network
