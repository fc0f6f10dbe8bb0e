//go:build !linux

package container

import (
	"context"
	"net"
)

func (c *Container) dial(_ context.Context, network, _ string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: network, Err: errPlatform}
}

func (c *Container) listen(_ context.Context, network, _ string) (net.Listener, error) {
	return nil, &net.OpError{Op: "listen", Net: network, Err: errPlatform}
}
