package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
)

// networks measures what a bridge and a rate add to a launch. It plays the host in a
// network namespace of its own, so that no link of the machine is touched.
func networks() error {
	if os.Geteuid() != 0 {
		fmt.Println("network: needs root, who makes links")
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, fmt.Sprint("-rounds=", *rounds), fmt.Sprint("-spaced=", *spaced), "network-here")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// networkHere is that in the namespace.
func networkHere() (err error) {
	if err := loUp(); err != nil {
		return err
	}
	hold, err := network.Hold(context.Background(), network.Bridge(""))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hold.Close()) }()
	program := container.WithCommand("/bin/true")
	bridge := container.WithNetwork(network.Bridge(""))
	rate := container.WithBandwidth(container.Rate{Egress: 100_000_000, Ingress: 100_000_000})
	port := container.WithNetwork(network.Bridge("", network.Publish(network.Port{Host: 8080, Container: 80})))
	rows := []row{
		{"Run, lo alone", timed(func() error { return run(program) })},
		{"Run, bridge", timed(func() error { return run(program, bridge) })},
		{"Run, bridge and rate", timed(func() error { return run(program, bridge, rate) })},
		{"Run, bridge and port", timed(func() error { return run(program, port) })},
	}
	for _, kind := range kinds() {
		m, err := interleave(rows, kind.n, kind.pause)
		if err != nil {
			return err
		}
		fmt.Printf("network, %s, medians of %d\n", kind.name, kind.n)
		for i, r := range rows {
			fmt.Printf("  %-22s %8.3f ms\n", r.name, float64(m[i])/1e6)
		}
		ratio(m, "bridge and rate to lo alone", 2, 0, 1.5)
	}
	return nil
}

// loUp brings lo up, which a new namespace has down.
func loUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("lo")
	if err == nil {
		ifr.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	}
	return errors.Join(err, unix.Close(fd))
}
