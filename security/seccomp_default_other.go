//go:build !linux

package security

import (
	"errors"
	"fmt"
)

// DefaultSeccomp returns an error that matches errors.ErrUnsupported: seccomp is
// Linux's.
func DefaultSeccomp([]string) (*Seccomp, error) {
	return nil, fmt.Errorf("the default seccomp profile: %w", errors.ErrUnsupported)
}

// NestingSeccomp returns an error that matches errors.ErrUnsupported.
func NestingSeccomp(capabilities []string) (*Seccomp, error) { return DefaultSeccomp(capabilities) }
