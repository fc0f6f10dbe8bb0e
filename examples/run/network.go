package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
)

// networkFlags adds the flags of a container's own network: those that need a bridge ask
// for it by themselves. What it returns gives the options; mode is --network's value.
func networkFlags(f *flag.FlagSet, mode *string) func() ([]container.Option, error) {
	var opts []network.Option
	var rate container.Rate
	f.Func("publish", "let what comes to `[ADDR:]PORT[-LAST]:PORT[-LAST][/udp]` of the host, on 127.0.0.1 without ADDR, go to a port of the container; repeatable", func(v string) error {
		p, err := network.ParsePort(v)
		opts = append(opts, network.Publish(p))
		return err
	})
	f.Func("p", "as --publish", func(v string) error { return f.Set("publish", v) })
	f.Func("dns", "ask the name server `ADDR`; repeatable", func(v string) error {
		a, err := netip.ParseAddr(v)
		opts = append(opts, network.DNS(a))
		return err
	})
	f.Func("add-host", "know `NAME:ADDR` by /etc/hosts; repeatable", func(v string) error {
		name, text, ok := strings.Cut(v, ":")
		if !ok {
			return errors.New("not NAME:ADDR")
		}
		a, err := netip.ParseAddr(text)
		opts = append(opts, network.AddHost(name, a))
		return err
	})
	for name, set := range map[string]func(uint64){
		"bandwidth": func(n uint64) { rate.Egress, rate.Ingress = n, n },
		"egress":    func(n uint64) { rate.Egress = n },
		"ingress":   func(n uint64) { rate.Ingress = n },
	} {
		what := map[string]string{"bandwidth": "send and receive", "egress": "send", "ingress": "receive"}[name]
		f.Func(name, what+" at most `RATE` over the network, as 20mbit or 1gbit, tc(8)", func(v string) error {
			n, err := bits(v)
			set(n)
			return err
		})
	}
	return func() ([]container.Option, error) {
		var out []container.Option
		switch {
		case *mode == "bridge", *mode == "" && len(opts) > 0:
			out = append(out, container.WithNetwork(network.Bridge("", opts...)))
		case len(opts) > 0:
			return nil, fmt.Errorf("--network %s beside --publish, --dns or --add-host: they are a bridge's", *mode)
		}
		if rate != (container.Rate{}) {
			out = append(out, container.WithBandwidth(rate))
		}
		return out, nil
	}
}

// bits reads a rate as tc(8) writes it: bits a second, with k, m, g or t and "bit", of
// 1000 each, or with ki, mi, gi, ti of 1024; "bps" is bytes.
func bits(text string) (uint64, error) {
	digits := strings.TrimRight(strings.ToLower(text), "abcdefghijklmnopqrstuvwxyz")
	unit := strings.ToLower(text)[len(digits):]
	n, err := strconv.ParseFloat(digits, 64)
	factor := 1.0
	if rest, ok := strings.CutSuffix(unit, "bps"); ok {
		unit, factor = rest, 8
	} else {
		unit = strings.TrimSuffix(unit, "bit")
	}
	power, known := map[string]float64{"": 0, "k": 1, "m": 2, "g": 3, "t": 4}[strings.TrimSuffix(unit, "i")]
	if strings.HasSuffix(unit, "i") {
		factor *= math.Pow(1024, power)
	} else {
		factor *= math.Pow(1000, power)
	}
	if n *= factor; err != nil || !known || unit == "i" || n < 1 || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is no rate: 20mbit, 1gbit, 500kbit or 1.5mbps are", text)
	}
	return uint64(n), nil
}
