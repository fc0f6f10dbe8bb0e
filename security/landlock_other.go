//go:build !linux

package security

import (
	"errors"
	"fmt"
)

// LandlockABI returns the version of Landlock's ABI: here there is none.
func LandlockABI() (int, error) { return 0, fmt.Errorf("landlock: %w", errors.ErrUnsupported) }
