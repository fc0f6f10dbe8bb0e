package rootfs

import "github.com/inlay-dev/inlay/internal/plan"

// madeRoot makes a memory file system the root, and fills it. Nobody else has it yet, and
// no name of the tree leads through a link: so paths are what they say.
func (b *Build) madeRoot() {
	c := b.Shape
	b.rootFS, b.rootM = tmpfs(c, "root", b.Root.Size, b.Root.Inodes, 0o755, basicAttrs)
	c.MoveMount(b.rootM, plan.CWD, "/", 0)
	c.Hint("/", "")
	b.root = b.rootM.At()
	if b.Tree == nil {
		return // it has begun: what it was filled with is not kept
	}
	file := c.Place("file")
	var folders []TreeEntry
	for _, e := range b.Tree.Entries {
		b.fill(e, file)
		if e.Kind == 'd' {
			folders = append(folders, e)
		} else if e.Kind != 'h' {
			b.own(e)
		}
	}
	// When all is in them: what is made in a set-group-ID folder takes its group.
	for _, e := range folders {
		b.own(e)
	}
}

// special are the bits that a mode given to open(2) or mkdir(2) does not carry over, or
// that a change of the owner takes away.
const special = 0o6000

// fill makes one file of the tree.
func (b *Build) fill(e TreeEntry, file plan.Reg) {
	const full = "the root is full: raise it by rootfs.Size and rootfs.Inodes"
	c, at := b.Shape, "/"+e.Path
	switch e.Kind {
	case 'd':
		if e.Path != "." {
			c.Mkdirat(b.root, e.Path, e.Mode&0o1777)
			c.Hint(at, full)
		}
	case 'l':
		c.Symlinkat(e.Link, b.root, e.Path)
		c.Hint(at, full)
	case 'h':
		c.Linkat(b.root, e.Link, b.root, e.Path)
		c.Hint(at, full)
	case 'p':
		c.Mkfifoat(b.root, e.Path, e.Mode&0o777)
		c.Hint(at, full)
	case 'f':
		c.OpenatInto(file, b.root, e.Path, plan.OWRONLY|plan.OCREAT|plan.OEXCL|plan.ONOFOLLOW|plan.OCLOEXEC, e.Mode&0o777)
		c.Hint(at, full)
		c.Sendfile(file, b.Contents, e.Offset, e.Size, at)
		if e.Sec != 0 || e.Nsec != 0 {
			c.Futimens(file.At(), e.Sec, e.Nsec, at)
		}
		c.Close(file)
	}
}

// own gives a file its owner and the bits that only come with that.
func (b *Build) own(e TreeEntry) {
	c, at := b.Shape, "/"+e.Path
	if e.UID != 0 || e.GID != 0 {
		c.Fchownat(b.root, e.Path, e.UID, e.GID)
		c.Hint(at, "its owner must be mapped: see WithIDMaps, or rootfs.OwnedByRoot")
	}
	if e.Kind != 'l' && (e.Mode&special != 0 || e.Path == "." && e.Mode != 0o755) {
		c.Fchmodat(b.root, e.Path, e.Mode)
		c.Hint(at, "")
	}
}
