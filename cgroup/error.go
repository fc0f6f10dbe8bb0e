package cgroup

import (
	"errors"
	"fmt"
)

// Error is an operation on a group that failed.
type Error struct {
	Op     string // "mkdir", "write"
	Path   string
	Err    error
	Remedy string
}

// Error says what failed, where, and what can be done.
func (e *Error) Error() string {
	msg := fmt.Sprintf("cgroup: %s %s: %v", e.Op, e.Path, e.Err)
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// Unwrap returns the kernel's answer.
func (e *Error) Unwrap() error { return e.Err }

// LimitError is a limit that cannot be kept here: its controller is missing, was
// not delegated, or lacks the file. It matches errors.ErrUnsupported.
type LimitError struct {
	Field      string // of Limits
	Controller string
	Reason     string
	Remedy     string
	Err        error // the kernel's answer, where one was asked for; may be nil
}

// Error names the field, the reason and the remedy.
func (e *LimitError) Error() string {
	msg := fmt.Sprintf("cgroup: %s: %s", e.Field, e.Reason)
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// Unwrap returns errors.ErrUnsupported and the kernel's answer.
func (e *LimitError) Unwrap() []error {
	if e.Err == nil {
		return []error{errors.ErrUnsupported}
	}
	return []error{errors.ErrUnsupported, e.Err}
}
