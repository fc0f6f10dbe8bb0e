package quota

import "fmt"

// Error says why a folder can have no limit.
type Error struct {
	Op, Path string
	Err      error
	Remedy   string
}

// Error says what failed and where.
func (e *Error) Error() string { return fmt.Sprintf("quota: %s %s: %v", e.Op, e.Path, e.Err) }

// Unwrap returns the kernel's answer.
func (e *Error) Unwrap() error { return e.Err }
