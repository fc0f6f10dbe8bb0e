//go:build !linux

package container

import "context"

// Prune returns an error that matches errors.ErrUnsupported.
func Prune(context.Context) (*PruneReport, error) { return nil, errPlatform }
