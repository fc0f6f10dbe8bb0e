package rootfs

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Origin has the files that a mount of the type "container" shows; package container
// makes them.
type Origin interface {
	fmt.Stringer
	// OpenTree returns a copy of the mounts at a path, attached nowhere and read-only, or,
	// where the kernel has no mount_setattr(2), to be made so by who attaches it.
	OpenTree(ctx context.Context, path string) (*os.File, error)
}

func (m Mount) validatePart() error {
	switch err := ValidateInside(m.Source); {
	case err != nil:
		return fmt.Errorf("source: %w", err)
	case path.Clean(m.Source) == "/":
		return fmt.Errorf("source \"/\": its processes and devices are in it, choose a folder of it")
	case m.Origin == nil:
		return fmt.Errorf("no container: container.Container.Mount gives one, which JSON does not keep")
	case !m.ReadOnly:
		return fmt.Errorf("a part of another container is read-only")
	case m.Size != 0 || m.Inodes != 0 || m.Mode != 0 || m.Suid || m.NoExec:
		return fmt.Errorf("a part of another container has no size, inodes, mode and flags")
	}
	return nil
}

// part shows what another container has, by a descriptor that came with the plan.
func (b *Build) part(m Mount, i int) {
	at := strings.TrimPrefix(path.Clean(m.Target), "/")
	if b.PartIsFile[i] {
		b.placeholderIn(path.Dir(at), path.Base(at))
	} else {
		b.folder(at)
	}
	if b.Remount {
		b.later[b.Parts[i]] = attrs{plan.ATRecursive, basicAttrs | plan.AttrReadOnly, plan.MSPrivate, m.Source}
	}
	b.attach(b.Child, b.Parts[i], at, mountHint)
}
