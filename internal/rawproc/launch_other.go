//go:build !linux || !(amd64 || arm64)

package rawproc

import "errors"

// Supported tells whether this package has code for the architecture.
const Supported = false

// Launch is not there for this architecture yet.
func Launch(_, _ bool) (int, error) { return 0, errors.ErrUnsupported }

// Enter is not there for this architecture yet.
func Enter(int, string, []string, []string) (int, error) { return 0, errors.ErrUnsupported }
