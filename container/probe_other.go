//go:build !linux

package container

import "context"

// Probe returns an error that matches errors.ErrUnsupported.
func Probe(context.Context, ...Option) (*Report, error) { return nil, errPlatform }
