//go:build !linux

package network

import (
	"context"
	"errors"
	"io"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/internal/netdriver"
)

// Begin is netdriver.Driver's.
func (driver) Begin(context.Context, *netdriver.Start) (netdriver.Link, error) {
	return nil, errors.ErrUnsupported
}

// Heir is netdriver.Driver's.
func (driver) Heir(string) ([]string, string, error) { return nil, "", errors.ErrUnsupported }

// Probe is netdriver.Driver's.
func (driver) Probe(context.Context, bool) (string, error) { return "", errors.ErrUnsupported }

// Prune is netdriver.Driver's.
func (driver) Prune(context.Context, string) ([]string, map[string]error) { return nil, nil }

// Hold returns an error that matches errors.ErrUnsupported: it needs Linux.
func Hold(context.Context, container.Network) (io.Closer, error) {
	return nil, errors.ErrUnsupported
}
