package rootfs

import (
	"fmt"
	"path"
	"strings"
)

// Symlink is a link that is made in the container before its first job starts.
type Symlink struct {
	Path string `json:"path"`
	// Target is what it says; where it leads is settled inside.
	Target string `json:"target"`
}

// Validate tells what is wrong with the link.
func (l Symlink) Validate() error {
	if err := ValidateInside(l.Path); err != nil {
		return err
	}
	switch {
	case path.Clean(l.Path) == "/" || strings.HasSuffix(l.Path, "/") || strings.HasSuffix(l.Path, "/."):
		return fmt.Errorf("path %q names a folder", l.Path)
	case l.Target == "":
		return fmt.Errorf("empty target")
	case strings.ContainsRune(l.Target, 0):
		return fmt.Errorf("target %q holds a NUL byte", shorten(l.Target))
	case len(l.Target) > 4095:
		return fmt.Errorf("target of %d bytes, at most 4095", len(l.Target))
	}
	return nil
}

// symlink makes one link; its folder is resolved inside the root.
func (b *Build) symlink(l Symlink) {
	at := strings.TrimPrefix(path.Clean(l.Path), "/")
	d := b.folder(path.Dir(at))
	b.Child.Symlinkat(l.Target, d, path.Base(at))
	b.Child.Hint("/"+at, "links are made where the root can be written to, and must be new")
}
