package network_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
)

// A job that may reach one service and nothing else, at 20 Mbit/s.
func Example() { //nolint:testableexamples // needs root, or pasta
	res, err := container.Run(context.Background(),
		container.WithCommand("curl", "-s", "http://10.0.0.7/"),
		container.WithNetwork(network.Bridge("", network.Allow(netip.MustParsePrefix("10.0.0.7/32"), 80))),
		container.WithBandwidth(container.Rate{Egress: 20_000_000, Ingress: 20_000_000}),
	)
	if err != nil {
		log.Fatal(err) // a *StartError where this user can have no bridge
	}
	fmt.Println(res)
}

// What is wrong with a network, New reports.
func ExampleBridge() {
	_, err := container.New(container.WithNetwork(network.Bridge("", network.MTU(100))))
	var wrong *container.OptionError
	fmt.Println(errors.As(err, &wrong), err)
	// Output:
	// true inlay: network.MTU(100): from 1280 to 65535 bytes
}

// Ports are written as docker's --publish has them; without an address they are on the
// host's loopback.
func ExampleParsePort() {
	p, err := network.ParsePort("8080-8082:80-82")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Host, p.Container, p.Count)
	_, err = network.ParsePort("8080:80/icmp")
	fmt.Println(err)
	// Output:
	// 8080 80 3
	// port "8080:80/icmp": the protocol is tcp or udp: [ADDRESS:]HOST[-LAST]:CONTAINER[-LAST][/PROTOCOL] is wanted
}
