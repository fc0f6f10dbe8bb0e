//go:build !linux

package container

import (
	"context"
	"errors"
	"os"
)

// OpenTree says that there are no containers here.
func (o origin) OpenTree(context.Context, string) (*os.File, error) {
	return nil, errors.ErrUnsupported
}
