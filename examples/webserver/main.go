// Command webserver runs an HTTP server in a container, published on the host's
// loopback and bounded to a rate, and prints what a client of it measured.
//
//	sudo go run ./examples/webserver
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
	"github.com/inlay-dev/inlay/rootfs"
)

// What the server answers with, the port that it has on the host, and its rate.
const (
	size = 5_000_000
	port = 18080
	rate = 20_000_000 // bit/s
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		fmt.Fprintln(os.Stderr, serve())
		os.Exit(1)
	}
	if err := show(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve is the job: this program again, in the container.
func serve() error {
	// A client that goes away is its own business.
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "hello, %s\n", r.RemoteAddr)
	})
	http.HandleFunc("/data", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, size))
	})
	return http.ListenAndServe(":80", nil)
}

// show is the host program.
func show(ctx context.Context, out io.Writer) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	c, err := container.New(
		container.WithMounts(rootfs.Bind(exe, "/run/webserver", rootfs.ReadOnly())),
		container.WithCommand("/run/webserver", "serve"),
		container.WithStderr(os.Stderr),
		// It answers who asks at the port, and reaches nobody.
		container.WithNetwork(network.Bridge("", network.DenyAll(), network.Publish(network.Port{Host: port, Container: 80}))),
		container.WithBandwidth(container.Rate{Egress: rate, Ingress: rate}),
		container.WithSysctl("net.ipv4.ip_unprivileged_port_start", "80"),
	)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(ctx); err != nil {
		return err
	}
	say := func(format string, args ...any) {
		_, e := fmt.Fprintf(out, format, args...)
		err = errors.Join(err, e)
	}
	say("the container has %v\n", c.Addresses())
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	at := fmt.Sprintf("http://127.0.0.1:%d", port)
	text, _, err := get(ctx, c, client, at+"/")
	if err != nil {
		return err
	}
	say("%s says: %s", at, text)
	data, took, err := get(ctx, c, client, at+"/data")
	if err != nil {
		return err
	}
	say("%d bytes in %.2f s: %.1f Mbit/s of %d\n", len(data), took.Seconds(), float64(len(data))*8/1e6/took.Seconds(), rate/1_000_000)
	if s, e := c.Stats(ctx); e == nil { // without control groups there are none
		say("on the link: %d bytes out in %d packets, %d in, %d dropped\n", s.Network.Egress.Bytes, s.Network.Egress.Packets, s.Network.Ingress.Bytes, s.Network.Egress.Dropped+s.Network.Ingress.Dropped)
	}
	return err
}

// get asks until the server is there, which takes it a moment.
func get(ctx context.Context, c *container.Container, client http.Client, url string) ([]byte, time.Duration, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return nil, 0, err
		}
		begun := time.Now()
		res, err := client.Do(req)
		if err == nil {
			data, err := io.ReadAll(res.Body)
			return data, time.Since(begun), errors.Join(err, res.Body.Close())
		}
		select {
		case <-c.Done():
			return nil, 0, errors.Join(err, errors.New("the server has ended"))
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
