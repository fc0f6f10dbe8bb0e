package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

var dialRounds = flag.Int("dials", 2000, "connections of each row, back to back")

// accepts serves as the program at the other end of a connection: it prints its
// address, and closes what it has accepted once the other end does.
func accepts() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is this program's
		os.Exit(0)
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(io.Discard, conn) // until it ends, one way or another
			_ = conn.Close()
		}()
	}
}

// dials compares connecting to a server in a container with connecting to the same
// program on the host's loopback: from the call until there is a connection. Closing it
// is not counted.
func dials() (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ctx := context.Background()
	host, err := startC(exe, "accept")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.close()) }()
	outside, err := host.out.ReadString('\n')
	if err != nil {
		return err
	}
	c, err := container.New(container.WithMounts(rootfs.Bind(exe, "/run/bench", rootfs.ReadOnly())))
	if err == nil {
		err = c.Start(ctx)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	in, hold, err := os.Pipe()
	if err != nil {
		return err
	}
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close(), hold.Close(), out.Close()) }()
	_, err = c.Exec(ctx, container.WithCommand("/run/bench", "accept"), container.WithStdin(in), container.WithStdout(w), container.WithStderr(os.Stderr))
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	buf := make([]byte, 64)
	n, err := out.Read(buf)
	if err != nil {
		return err
	}
	inside := string(buf[:n])
	once := func(dial func(ctx context.Context, network, address string) (net.Conn, error), address string) func() (time.Duration, error) {
		address = address[:len(address)-1]
		return func() (time.Duration, error) {
			begun := time.Now()
			conn, err := dial(ctx, "tcp", address)
			d := time.Since(begun)
			if err == nil {
				err = conn.Close()
			}
			return d, err
		}
	}
	rows := []row{
		{"net.Dial on the host's loopback", once(new(net.Dialer).DialContext, outside)},
		{"c.Dial", once(c.Dial, inside)},
	}
	back, err := interleave(rows, *dialRounds, 0)
	if err != nil {
		return err
	}
	apart, err := interleave(rows, *spaced, 150*time.Millisecond)
	if err != nil {
		return err
	}
	fmt.Printf("%-40s %12s %8s %12s %8s\n", "connections, medians", "µs", "of host", "µs, spaced", "of host")
	for i, r := range rows {
		us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
		fmt.Printf("%-40s %12.1f %8.2f %12.1f %8.2f\n", r.name, us(back[i]), over(back[i], back[0]), us(apart[i]), over(apart[i], apart[0]))
	}
	return nil
}
