package container

import "fmt"

// CommitError is a change that [Container.Commit] could not write.
type CommitError struct {
	Path    string // of the file, inside the container
	Applied int    // how many changes were written before
	Err     error
}

// Error names the file and says what was written before it.
func (e *CommitError) Error() string {
	return fmt.Sprintf("inlay: commit: %q: %v (%d changes before it are written; Commit can be called again)", e.Path, e.Err, e.Applied)
}

// Unwrap returns the cause: the kernel's answer, or errors.ErrUnsupported of a file
// that is neither a regular one nor a folder nor a link.
func (e *CommitError) Unwrap() error { return e.Err }
