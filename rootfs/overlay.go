package rootfs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Overlay is a folder of the host that jobs may change without changing it: what
// they write goes to memory, [DefaultTmpfsSize] bytes and [DefaultTmpfsInodes] files
// at most unless [Size] and [Inodes] say otherwise, counts as the container's memory
// and is gone at Close; or to the folder that [Upper] names. container.Changes lists
// it. Below puts further folders beneath the first.
//
// The folders may have any owner, as for [Dir]. What is mounted below them does not
// show. /proc, /dev, /tmp and /run are made where they are missing; /tmp and /run
// are part of the overlay.
//
// It needs Linux 5.11 in a user namespace, for a disposable upper Linux 6.6 (memory
// file systems that keep the marks of what was removed); Start refuses with what is
// missing.
func Overlay(folder string, opts ...RootOption) Root {
	r := Root{Type: "overlay", Path: folder}
	for _, o := range opts {
		o.applyRoot(&r)
	}
	return r
}

// Below puts folders of the host beneath the folder of an [Overlay], the first
// uppermost.
func Below(folders ...string) RootOption {
	return rootFunc(func(r *Root) { r.Below = append(r.Below, folders...) })
}

// Upper keeps what jobs change in an [Overlay]: in the folder dir, which must be
// there, on a disk that takes user.* extended attributes (a memory file system does
// since Linux 6.6), with no permissions for others than its owner (mode 0700): the
// ids in it are those of the container's users, as with [IDMapped]. Its folders
// upper and work are the overlay file system's own form; two containers at once
// must not have the same.
func Upper(dir string) RootOption { return rootFunc(func(r *Root) { r.Upper = dir }) }

func (r Root) validateOverlay() error {
	switch {
	case r.Writable:
		return fmt.Errorf("rootfs.Writable is for rootfs.Dir: an overlay is writable, and its folders never change")
	case r.IDMapped:
		return fmt.Errorf("rootfs.IDMapped is for rootfs.Dir: an overlay's folders are mapped without it")
	case r.EtcNames != nil:
		return fmt.Errorf("rootfs.Etc is for rootfs.Host")
	case r.Upper != "" && (r.Size != 0 || r.Inodes != 0):
		return fmt.Errorf("rootfs.Upper and a size: the size is of what is kept in memory")
	case r.Size < 0:
		return fmt.Errorf("size %d: at least 1 byte", r.Size)
	case r.Inodes < 0 || r.Inodes > 0 && r.Inodes < minUpperInodes:
		return fmt.Errorf("%d inodes: at least %d", r.Inodes, minUpperInodes)
	case len(r.Below) > maxLowers-1:
		return fmt.Errorf("%d folders, at most %d", len(r.Below)+1, maxLowers)
	}
	var seen []string
	for _, p := range slices.Concat([]string{r.Path}, r.Below) {
		if err := validateHostPath(p); err != nil {
			return err
		}
		if slices.Contains(seen, p) {
			return fmt.Errorf("folder %q twice", p)
		}
		seen = append(seen, p)
	}
	if r.Upper == "" {
		return nil
	}
	if err := validateHostPath(r.Upper); err != nil {
		return fmt.Errorf("rootfs.Upper: %w", err)
	}
	for _, p := range seen {
		if within(r.Upper, p) || within(p, r.Upper) {
			return fmt.Errorf("rootfs.Upper: %q and the folder %q lie one in the other", r.Upper, p)
		}
	}
	return nil
}

// within tells whether path p is dir, or below it.
func within(p, dir string) bool {
	return strings.HasPrefix(strings.TrimRight(p, "/")+"/", strings.TrimRight(dir, "/")+"/")
}

const (
	// maxLowers is how many folders an overlay has at most; the kernel takes 500.
	maxLowers = 64
	// minUpperInodes are needed for the overlay's own folders.
	minUpperInodes = 8
)

// Workspace shows a folder of the host at target, for jobs to work in: writable, and
// whoever owns the folder, the job's user owns it inside, and what he makes there
// belongs to the folder's owner on the host, set-user-ID programs included. The same
// is so of the folder's group. Files of other owners are nobody's inside; they can be
// used as far as their mode lets that group, or everybody. Without [Staged] what is mounted
// below the folder shows as well, without devices and set-user-ID programs.
//
// As root it takes a file system that the kernel can map (see [IDMapped]). A folder
// that belongs to the host's root, or to the group 0, Start refuses unless the folder
// above it belongs to root and lets nobody else in (mode 0700), the workspace is Staged
// or ReadOnly: a job could leave a set-user-ID program of root's there, and it can open
// the folder itself to everybody. A user's own folders
// are mapped to root inside already: jobs of other users (container.WithUser) are
// refused.
func Workspace(dir, target string, opts ...MountOption) Mount {
	m := Mount{Type: "workspace", Source: dir, Target: target}
	for _, o := range opts {
		o.applyMount(&m)
	}
	return m
}

// Staged has a [Workspace] keep what jobs change apart from the folder, in memory as
// an [Overlay] does, until container.Commit writes it there. A container can have
// four of them.
func Staged() MountOption { return mountFunc(func(m *Mount) { m.Staged = true }) }

// MaxStaged is how many staged workspaces a container can have.
const MaxStaged = 4

func (m Mount) validateWorkspace() error {
	if err := validateHostPath(m.Source); err != nil {
		return fmt.Errorf("folder: %w", err)
	}
	switch {
	case m.IDMapped:
		return fmt.Errorf("rootfs.IDMapped is for rootfs.Bind: a workspace belongs to the job's user")
	case m.Suid:
		return fmt.Errorf("rootfs.Suid is for rootfs.Bind")
	case m.Mode != 0:
		return fmt.Errorf("a mode is for a tmpfs, not for a workspace")
	case m.Staged && m.ReadOnly:
		return fmt.Errorf("rootfs.Staged of what is read-only")
	case m.Size < 0:
		return fmt.Errorf("size %d: at least 1 byte", m.Size)
	case m.Staged && m.Inodes != 0 && m.Inodes < minUpperInodes:
		return fmt.Errorf("%d inodes: at least %d", m.Inodes, minUpperInodes)
	case m.Inodes < 0:
		return fmt.Errorf("%d inodes: at least 1", m.Inodes)
	case !m.Staged && (m.Size != 0 || m.Inodes != 0):
		return fmt.Errorf("a size or inodes are of a staged workspace, or of a bind")
	}
	return nil
}

// prepareOverlay has the launcher copy the overlay's folders.
func (b *Build) prepareOverlay() {
	for i, p := range b.lowers() {
		what := fmt.Sprint("lower ", i)
		b.tree(what, p, basicAttrs|plan.AttrReadOnly, "the folders of an overlay must be there")
		b.mapRoot(what, p)
	}
	if b.Root.Upper != "" {
		b.tree("upper", b.Root.Upper, basicAttrs, "the folder of rootfs.Upper must be there")
		if b.MapRoot[b.Root.Upper] {
			b.idMap("upper", b.Root.Upper)
		}
	}
}

func (b *Build) lowers() []string {
	return append([]string{b.Root.Path}, b.Root.Below...)
}

const (
	eperm      = 1
	einval     = 22
	eopnotsupp = 95
)

// mapRoot maps a tree of the root; where that is only for the better, a file system
// that cannot be mapped is no fault.
func (b *Build) mapRoot(what, source string) {
	if !b.MapRoot[source] || b.Remount && !b.Root.IDMapped {
		return
	}
	b.idMap(what, source)
	if !b.Root.IDMapped {
		b.Parent.Tolerate(eperm, einval, eopnotsupp)
	}
}

// idMap has the files of a tree belong to the container's users, whose ids they have
// on the disk.
func (b *Build) idMap(what, source string) {
	if b.userns == nil {
		ns := b.Parent.Openat(b.InitProc.At(), "ns/user", plan.OCLOEXEC, 0, "user namespace of init")
		b.Parent.Hint("/proc/<init>/ns/user", "")
		b.userns = &ns
	}
	b.Parent.IDMap(b.trees[what], *b.userns, plan.ATRecursive, source)
	b.Parent.Hint(source, idMapHint)
}

const idMapHint = "the file system, or one mounted below, cannot show its files with other owners (mount_setattr(2), MOUNT_ATTR_IDMAP, since Linux 5.12)"

// prepareWorkspace has the launcher copy a workspace's folder, with its owner the
// job's user.
func (b *Build) prepareWorkspace(what string, m Mount) {
	attrs := m.attrs()
	if m.Staged {
		attrs |= plan.AttrReadOnly
	}
	b.tree(what, m.Source, attrs, "the folder of a workspace must be there, and this program must be allowed to reach it")
	o := b.Workspaces[m.Source]
	// Whose it is was seen of this one.
	b.Prepare.VerifyFolder(b.trees[what], m.Source, o.DevMajor, o.DevMinor, o.Ino)
	b.Prepare.Hint(m.Source, "another folder is at that path than a moment ago")
	if o.UIDs != "" {
		ns := b.Prepare.UserNamespace(o.UIDs, o.GIDs, "owner of "+m.Source)
		b.Prepare.IDMap(b.trees[what], ns, plan.ATRecursive, m.Source)
		b.Prepare.Hint(m.Source, idMapHint)
		b.Prepare.Close(ns)
	}
}

// overlayRoot makes an overlay the root, with the folders that are mounted on.
func (b *Build) overlayRoot() {
	c := b.Shape
	o := layers{name: "the root", size: b.Root.Size, inodes: b.Root.Inodes, mode: 0o755, attrs: basicAttrs}
	for i := range b.lowers() {
		o.lowers = append(o.lowers, b.trees[fmt.Sprint("lower ", i)])
	}
	if b.Root.Upper != "" {
		t := b.trees["upper"]
		o.upper = &t
	}
	b.rootM = b.overlay(o)
	c.MoveMount(b.rootM, plan.CWD, "/", 0)
	c.Hint("/", "")
	b.root = b.rootM.At()
	for _, d := range []struct {
		name string
		mode uint32
	}{{"proc", 0o555}, {"dev", 0o755}, {"run", 0o755}, {"tmp", 0o1777}} {
		c.Mkdirat(b.root, d.name, d.mode)
		c.Tolerate(eexist)
	}
}

// stage makes the overlays of staged workspaces, before anything else is the root:
// what an overlay is made of lies on the old one.
func (b *Build) stage() {
	for i, m := range b.Mounts {
		if m.Type != "workspace" || !m.Staged {
			continue
		}
		what := fmt.Sprint("mount ", i)
		b.trees[what] = b.overlay(layers{
			name: m.Source, lowers: []plan.Reg{b.trees[what]}, size: m.Size, inodes: m.Inodes,
			mode: b.Workspaces[m.Source].Mode, uid: b.UID, gid: b.GID, attrs: m.attrs(),
		})
	}
}

// layers are what an overlay is made of.
type layers struct {
	name         string
	lowers       []plan.Reg
	upper        *plan.Reg // nil: in memory
	size, inodes int64     // of that
	mode         uint32    // of the overlay's own folder
	uid, gid     uint32
	attrs        uint64
}

// overlay makes one, attached nowhere yet. The kernel wants its parts attached, and
// finds them by paths: they lie on the old root, and pivot takes them off before it.
func (b *Build) overlay(o layers) plan.Reg {
	c := b.Shape
	if o.size == 0 {
		o.size = DefaultTmpfsSize
	}
	if o.inodes == 0 {
		o.inodes = DefaultTmpfsInodes
	}
	if o.upper != nil {
		o.size, o.inodes = 65536, int64(len(o.lowers))+8
	}
	_, s := tmpfs(c, "layers of "+o.name, o.size, o.inodes, 0o755, basicAttrs)
	c.MoveMount(s, plan.CWD, "/", 0)
	c.Hint("/", "")
	b.onOldRoot++
	var names []string
	for i, l := range o.lowers {
		n := strconv.Itoa(i)
		c.Mkdirat(s.At(), n, 0o755)
		c.MoveMount(l, s.At(), n, 0)
		c.Hint(o.name, "")
		b.settle(c, l)
		names = append(names, n)
	}
	in := ""
	if o.upper != nil {
		in = "kept/"
		c.Mkdirat(s.At(), "kept", 0o755)
		c.MoveMount(*o.upper, s.At(), "kept", 0)
		c.Hint(o.name, "")
		b.settle(c, *o.upper)
	}
	for _, d := range []string{"upper", "work"} {
		c.Mkdirat(s.At(), in+d, o.mode)
		if o.upper != nil {
			c.Tolerate(eexist)
		}
		c.Hint(o.name, "the folder of rootfs.Upper must belong to this program's user and be writable")
	}
	upper := c.Openat(s.At(), in+"upper", plan.ODIRECTORY|plan.OCLOEXEC, 0, "changes of "+o.name)
	if o.uid|o.gid != 0 {
		c.Fchown(upper, o.uid, o.gid)
	}
	c.Fchdir(s, o.name)
	fs := c.Fsopen("overlay", "overlay fs")
	c.Hint("overlay", "this kernel has no overlay file system: load the module overlay")
	c.FsconfigString(fs, "lowerdir", strings.Join(names, ":"))
	c.FsconfigString(fs, "upperdir", in+"upper")
	c.FsconfigString(fs, "workdir", in+"work")
	c.FsconfigFlag(fs, "userxattr")
	c.Hint("overlay", overlayHint)
	c.FsconfigCreate(fs, "overlay of "+o.name)
	c.Hint("overlay of "+o.name, overlayHint)
	b.Kept = append(b.Kept, upper)
	return c.Fsmount(fs, o.attrs, "overlay of "+o.name, "overlay of "+o.name)
}

const overlayHint = "an overlay in a user namespace takes Linux 5.11, over folders with mapped owners 5.19, and folders of which none is an overlay in an overlay"
