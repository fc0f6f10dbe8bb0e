//go:build !linux

package container

import (
	"context"
	"iter"

	"github.com/inlay-dev/inlay/rootfs"
)

// Changes yields an error that matches errors.ErrUnsupported.
func (c *Container) Changes() iter.Seq2[rootfs.Change, error] {
	return func(yield func(rootfs.Change, error) bool) { yield(rootfs.Change{}, errPlatform) }
}

// Commit returns an error that matches errors.ErrUnsupported.
func (c *Container) Commit(context.Context, ...string) error { return errPlatform }

// Discard is Close.
func (c *Container) Discard() error { return c.Close() }
