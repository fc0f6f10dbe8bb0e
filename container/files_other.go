//go:build !linux

package container

import "io/fs"

// Open returns an error that matches errors.ErrUnsupported.
func (f containerFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errPlatform}
}
