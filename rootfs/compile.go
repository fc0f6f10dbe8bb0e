package rootfs

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Build is what the plans of one container's files are compiled from.
type Build struct {
	Prepare *plan.Builder // the launcher's part: what init could not open
	// Parent is the launcher's part once init's user namespace is there, and InitProc init's
	// folder in /proc.
	Parent   *plan.Builder
	InitProc plan.Reg
	// Shape and Child are init's part: what is the same for every container of one
	// shape, and then what is this one's own.
	Shape    *plan.Builder
	Child    *plan.Builder
	Machine  *Machine
	Root     Root
	Mounts   []Mount
	Files    []File
	Symlinks []Symlink
	Devices  []Device
	// Nodes tells of each device's source what it is, SysMasked what of sysfs is covered.
	Nodes     map[string]Node
	SysMasked []string
	Identity  Identity
	// SourceIsDir tells of each bind's source what it is.
	SourceIsDir map[string]bool
	// Parts are init's descriptors of those mounts that are parts of other containers, by
	// their place in Mounts; PartIsFile tells which are no folders.
	Parts      map[int]plan.Reg
	PartIsFile map[int]bool
	// NewIPC tells that the container has an IPC namespace of its own.
	NewIPC bool
	// Sysctls are parameters of the container's own namespaces: paths below
	// /proc/sys, and their values.
	Sysctls [][2]string
	// NoUserNamespaces keeps jobs from making user namespaces.
	NoUserNamespaces bool
	// Proc is a /proc that is mounted nowhere yet, of a PID namespace that is not the
	// container's own; nil: init makes one.
	Proc *plan.Reg
	// Tree is what a root that is made is filled with, and Contents init's descriptor of
	// its files.
	Tree     *Tree
	Contents plan.Reg
	// HostRoot tells that one of the container's users may be the host's root.
	HostRoot bool
	// MapRoot names the root's folders whose files are to belong to the container's users.
	MapRoot map[string]bool
	// MapMounts has files of mounts that ask for it do so: there is somebody to map them
	// to.
	MapMounts bool
	// Workspaces tells of each workspace's folder who owns it.
	Workspaces map[string]Owner
	// UID and GID are the main job's.
	UID, GID uint32
	// Remount tells that the kernel has no mount_setattr(2): mounts are changed one by one
	// once they are attached, and none shows other owners.
	Remount bool
	// Kept are, after Compile, the folders that hold what jobs changed: the root's
	// last, where it is an overlay, those of staged workspaces in their order before.
	Kept []plan.Reg

	trees         map[string]plan.Reg // what the launcher copies, by what it is for
	root          plan.Dir
	rootFS, rootM plan.Reg
	dev           plan.Dir
	devM          plan.Reg
	userns        *plan.Reg // init's
	onOldRoot     int       // mounts that lie on the old root
	later         map[plan.Reg]attrs
}

// attrs are what a mount gets once it is attached.
type attrs struct {
	flags, set, propagation uint64
	path                    string
}

// setattr changes a mount that is attached nowhere yet; where the kernel cannot, settle
// does it.
func (b *Build) setattr(c *plan.Builder, m plan.Reg, flags, set, propagation uint64, path string) {
	if b.Remount {
		b.later[m] = attrs{flags, set, propagation, path}
		return
	}
	c.MountSetattr(m, flags, set, propagation, path)
	c.Hint(path, "")
}

// settle changes a mount that has just been attached, if that could not be done before.
func (b *Build) settle(c *plan.Builder, m plan.Reg) {
	if a, ok := b.later[m]; ok {
		delete(b.later, m)
		c.Remount(m, a.flags, a.set, a.propagation, a.path)
		c.Hint(a.path, "without mount_setattr(2), since Linux 5.12, each mount below must be within reach of the container's own ids")
	}
}

// Owner is who owns a folder, and how its mount shows it.
type Owner struct {
	// UIDs and GIDs map the owner to the job's user, in the form of uid_map; empty:
	// nothing needs to be mapped.
	UIDs, GIDs string
	Mode       uint32
	// Which folder it is: the numbers of its file system's device, and its own.
	DevMajor, DevMinor uint32
	Ino                uint64
}

const (
	ebadf  = 9
	eexist = 17

	basicAttrs = plan.AttrNoSuid | plan.AttrNoDev
	resolve    = plan.ResolveInRoot | plan.ResolveNoMagicLinks
)

// devices are the nodes of the minimal /dev, by their numbers in the kernel's
// admin-guide/devices.
var devices = []struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// procFolders are the masked names that are folders.
var procFolders = []string{"acpi", "asound", "scsi"}

// CompilePrepare emits the launcher's steps. They come first, so that the rest
// can be compiled while the launcher is at work.
func (b *Build) CompilePrepare() {
	b.trees, b.later = map[string]plan.Reg{}, map[plan.Reg]attrs{}
	switch b.Root.Type {
	case "host":
		for _, f := range b.Machine.Folders {
			b.tree(f, "/"+f, basicAttrs|plan.AttrReadOnly, "")
		}
		if b.wholeEtc() {
			b.tree("etc", "/etc", basicAttrs|plan.AttrReadOnly, "")
		} else {
			for _, e := range b.Machine.Etc {
				if !slices.Contains(etcOwn, e.Name) {
					b.tree("etc/"+e.Name, "/etc/"+e.Name, basicAttrs|plan.AttrReadOnly, "")
				}
			}
		}
	case "overlay":
		b.prepareOverlay()
	case "empty", "fs", "tar":
	default:
		attrs := uint64(basicAttrs)
		if !b.Root.Writable {
			attrs |= plan.AttrReadOnly
		}
		b.tree("root", b.Root.Path, attrs, "the root given by WithRoot must be a folder that is there")
		b.mapRoot("root", b.Root.Path)
	}
	for _, d := range devices {
		node := b.Prepare.OpenTree(plan.CWD, "/dev/"+d.name, plan.OpenTreeClone, d.name)
		b.Prepare.Hint("/dev/"+d.name, "")
		// Before it is bound: what a container runs on may have put anything there.
		b.Prepare.Verify(node, "/dev/"+d.name, sIFCHR, d.major, d.minor)
		if b.HostRoot {
			// They are his: chmod(2) here would be chmod on the host, and so would be one of
			// a masked file in /proc. A device on a read-only mount can be written to.
			b.setattr(b.Prepare, node, 0, plan.AttrReadOnly, 0, "/dev/"+d.name)
		}
		b.trees["dev/"+d.name] = node
	}
	b.prepareDevices()
	for i, m := range b.Mounts {
		what := fmt.Sprint("mount ", i)
		switch m.Type {
		case "bind":
			b.tree(what, m.Source, m.attrs(), "the source of a bind must be there, and this program must be allowed to reach it")
			if m.IDMapped && b.MapMounts {
				b.idMap(what, m.Source)
			}
		case "workspace":
			b.prepareWorkspace(what, m)
		}
	}
}

// tree has the launcher copy a tree of mounts.
func (b *Build) tree(what, source string, attrs uint64, hint string) {
	p := b.Prepare
	t := p.OpenTree(plan.CWD, source, plan.OpenTreeClone|plan.ATRecursive, "tree of "+source)
	p.Hint(source, hint)
	// Private at once: no mount that is made on the host later may spread here.
	b.setattr(p, t, plan.ATRecursive, attrs, plan.MSPrivate, source)
	b.trees[what] = t
}

// Compile emits init's steps, up to the pivot_root(2).
func (b *Build) Compile() {
	host := b.Root.Type == "host"
	b.stage()
	switch b.Root.Type {
	case "host":
		b.hostRoot()
	case "overlay":
		b.overlayRoot()
	case "empty", "fs", "tar":
		b.madeRoot()
	default:
		b.dirRoot()
	}
	b.devNodes()
	if host {
		b.etcFiles()
	}
	b.proc()
	b.devMounts()
	if host || b.Root.Type == "dir" && !b.Root.Writable || b.Root.ReadOnly {
		b.memory("run", DefaultTmpfsSize/16, 8192, 0o755)
		b.memory("tmp", DefaultTmpfsSize, DefaultTmpfsInodes, 0o1777)
	}
	for i, m := range b.Mounts {
		if m.Type == "container" {
			b.part(m, i)
			continue
		}
		b.mount(m, b.trees[fmt.Sprint("mount ", i)])
	}
	b.showDevices(false)
	for _, f := range b.Files {
		b.file(f)
	}
	for _, l := range b.Symlinks {
		b.symlink(l)
	}
	b.pivot()
	if host || b.Root.ReadOnly {
		// The file system itself, not only this mount: the covers in /etc and /proc
		// are binds of it.
		b.Child.FsconfigReadOnly(b.rootFS, "/")
	}
}

// tmpfs emits a sized memory file system that is attached nowhere yet.
func tmpfs(c *plan.Builder, name string, size, inodes int64, mode uint32, attrs uint64) (fs, mount plan.Reg) {
	fs = c.Fsopen("tmpfs", name+" fs")
	c.FsconfigString(fs, "size", strconv.FormatInt(size, 10))
	c.FsconfigString(fs, "nr_inodes", strconv.FormatInt(inodes, 10))
	if mode != 0o1777 { // tmpfs's own default
		c.FsconfigString(fs, "mode", fmt.Sprintf("%04o", mode))
	}
	c.FsconfigCreate(fs, "tmpfs for "+name)
	return fs, c.Fsmount(fs, attrs, "tmpfs for "+name, name+" mount")
}

// memory attaches a memory file system on a folder that is there.
func (b *Build) memory(name string, size, inodes int64, mode uint32) {
	_, m := tmpfs(b.Child, name, size, inodes, mode, basicAttrs)
	b.attach(b.Child, m, name, b.dirHint(name))
}

// attach puts a mount on a path below the root that exists.
func (b *Build) attach(c *plan.Builder, m plan.Reg, at, hint string) {
	if b.Root.Type == "host" && !strings.Contains(at, "/") && hint == "" {
		// A name in our own memory file system: no link can stand there.
		c.MoveMount(m, b.root, at, 0)
		c.Hint("/"+at, "")
		b.settle(c, m)
		return
	}
	target := c.Openat2(b.root, at, plan.OPATH|plan.OCLOEXEC, 0, resolve, at)
	c.Hint("/"+at, hint)
	c.MoveMount(m, target.At(), "", plan.MoveToEmpty)
	c.Hint("/"+at, "a folder is mounted on a folder, a file on a file")
	b.settle(c, m)
}

// hostRoot makes the root of Host: a memory file system with binds in it.
func (b *Build) hostRoot() {
	c, m := b.Shape, b.Machine
	size := int64(4 << 20)
	for _, f := range b.Files {
		page := c.PageSize()
		size += (int64(len(f.Data)) + page - 1) / page * page
	}
	b.rootFS, b.rootM = tmpfs(c, "root", size, int64(4096+4*len(b.Files)+4*len(b.Mounts)), 0o755, basicAttrs)
	c.MoveMount(b.rootM, plan.CWD, "/", 0)
	c.Hint("/", "")
	b.root = b.rootM.At()
	for _, d := range []string{"etc", "proc", "dev", "tmp", "run", "run/none", "run/etc", "var"} {
		c.Mkdirat(b.root, d, 0o755)
	}
	c.Symlinkat("/tmp", b.root, "var/tmp")
	c.Symlinkat("/run", b.root, "var/run")
	for _, f := range m.Folders {
		if dir := path.Dir(f); dir != "." {
			c.Mkdirat(b.root, dir, 0o755)
			c.Tolerate(eexist)
		}
		c.Mkdirat(b.root, f, 0o755)
		c.MoveMount(b.trees[f], b.root, f, 0)
		c.Hint("/"+f, "")
		b.settle(c, b.trees[f])
	}
	for _, n := range besides {
		if to, ok := m.Links[n]; ok {
			c.Symlinkat(to, b.root, n)
		}
	}
	b.etc()
}

// etc makes the /etc of Host: the host's own, read-only, with what is denied
// covered; or, where names were picked, a new folder with those.
func (b *Build) etc() {
	c := b.Shape
	if b.wholeEtc() {
		c.MoveMount(b.trees["etc"], b.root, "etc", 0)
		c.Hint("/etc", "")
		b.settle(c, b.trees["etc"])
		f := c.Openat(b.root, "run/etc/.denied", plan.OWRONLY|plan.OCREAT|plan.OEXCL|plan.OCLOEXEC, 0, "denied")
		c.Close(f)
	}
	for _, e := range b.Machine.Etc {
		switch {
		case slices.Contains(etcOwn, e.Name):
		case !b.wholeEtc():
			b.placeholder("etc/"+e.Name, e.Folder)
			c.MoveMount(b.trees["etc/"+e.Name], b.root, "etc/"+e.Name, 0)
			c.Hint("/etc/"+e.Name, "")
			b.settle(c, b.trees["etc/"+e.Name])
		case e.Folder:
			b.cover(c, "run/none", e.Name)
		default:
			b.cover(c, "run/etc/.denied", e.Name)
		}
	}
}

func (b *Build) wholeEtc() bool { return b.Machine.HasEtc && b.Root.EtcNames == nil }

// etcFiles writes the files of /etc that are our own: they tell of this one
// container.
func (b *Build) etcFiles() {
	dir := "etc/"
	if b.wholeEtc() {
		dir = "run/etc/"
	}
	for _, f := range etcFiles(b.Identity) {
		if b.wholeEtc() && !slices.ContainsFunc(b.Machine.Etc, func(e EtcEntry) bool { return e.Name == f.Path }) {
			continue // not on this host: nothing to cover
		}
		b.write(b.root, dir+f.Path, f.Data, f.Mode)
		if b.wholeEtc() {
			b.cover(b.Child, dir+f.Path, f.Path)
		}
	}
}

// cover binds a file or folder of the root's own over one in /etc. What covers
// lies in /run, which disappears below the memory file system that comes there.
// The last name of a path is never followed, so a link is covered itself.
func (b *Build) cover(c *plan.Builder, source, name string) {
	t := c.OpenTree(b.root, source, plan.OpenTreeClone, "cover")
	target := "etc/" + name
	if dir := path.Dir(name); dir != "." {
		at := c.Openat2(b.root, "etc/"+dir, plan.OPATH|plan.ODIRECTORY|plan.OCLOEXEC, 0, resolve, "etc/"+dir)
		c.Hint("/etc/"+dir, "")
		c.MoveMount(t, at.At(), path.Base(name), 0)
	} else {
		c.MoveMount(t, b.root, target, 0)
	}
	c.Hint("/"+target, "")
}

// dirRoot makes a folder of the host the root.
func (b *Build) dirRoot() {
	c := b.Shape
	b.rootM = b.trees["root"]
	c.MoveMount(b.rootM, plan.CWD, "/", 0)
	c.Hint("/", "")
	b.settle(c, b.rootM)
	b.root = b.rootM.At()
}

// MountProc emits a /proc of the caller's PID namespace, mounted nowhere yet. Who is
// not in the group gid, in the caller's ids, sees nothing of processes that it could
// not trace: those of others, and init.
func MountProc(c *plan.Builder, gid uint32) plan.Reg {
	const hint = "in a container whose /proc is partly covered the kernel refuses a new one: see container.Probe"
	fs := c.Fsopen("proc", "proc fs")
	c.FsconfigString(fs, "hidepid", "invisible")
	c.FsconfigString(fs, "gid", strconv.FormatUint(uint64(gid), 10))
	c.FsconfigCreate(fs, "proc")
	c.Hint("proc", hint)
	m := c.Fsmount(fs, plan.AttrNoSuid|plan.AttrNoDev|plan.AttrNoExec, "/proc", "proc")
	c.Hint("/proc", hint)
	return m
}

// proc mounts a /proc of the container's own. The old root must still be there:
// in a user namespace the kernel gives a new one only where an old one is whole.
func (b *Build) proc() {
	c := b.Child
	var m plan.Reg
	if b.Proc != nil {
		m = *b.Proc
	} else {
		m = MountProc(c, 0)
	}
	if b.NoUserNamespaces {
		const enoent = 2
		f := c.Openat(m.At(), "sys/user/max_user_namespaces", plan.OWRONLY|plan.OCLOEXEC, 0, "max_user_namespaces")
		c.Tolerate(enoent) // a kernel without such limits
		c.Write(f, []byte("0"), "/proc/sys/user/max_user_namespaces")
		c.Tolerate(ebadf)
		c.Close(f)
		c.Tolerate(ebadf)
	}
	for _, s := range b.Sysctls {
		f := c.Openat(m.At(), "sys/"+s[0], plan.OWRONLY|plan.OCLOEXEC, 0, s[0])
		c.Hint("/proc/sys/"+s[0], "this kernel has no such parameter in the namespace, or does not let its owner set it")
		c.Write(f, []byte(s[1]), "/proc/sys/"+s[0])
		c.Hint("/proc/sys/"+s[0], "see WithSysctl: the kernel refuses the value")
		c.Close(f)
	}
	b.attach(c, m, "proc", b.dirHint("proc"))
	b.maskProc(m.At())
}

func (b *Build) dirHint(name string) string {
	if b.Root.Type == "host" || b.Root.Made() {
		return ""
	}
	return fmt.Sprintf("make the folder %s/%s: something is mounted there", b.Root.Path, name)
}

// maskProc covers what OCI covers. The targets are single names in a /proc that
// was mounted a moment ago and never shown to anybody, so they are what they
// claim to be; the cover of files is a /dev/null whose numbers were checked.
func (b *Build) maskProc(proc plan.Dir) {
	c := b.Child
	for _, n := range b.Machine.Proc {
		var t plan.Reg
		switch {
		case slices.Contains(procReadonly, n):
			t = c.OpenTree(proc, n, plan.OpenTreeClone, "proc/"+n)
			b.setattr(c, t, 0, plan.AttrReadOnly|plan.AttrNoSuid|plan.AttrNoDev|plan.AttrNoExec, 0, "/proc/"+n)
		case slices.Contains(procFolders, n) && b.Root.Type == "host":
			t = c.OpenTree(b.root, "run/none", plan.OpenTreeClone, "mask")
		case slices.Contains(procFolders, n):
			_, t = tmpfs(c, "mask", 4096, 2, 0o555, basicAttrs|plan.AttrReadOnly|plan.AttrNoExec)
		default:
			t = c.OpenTree(b.dev, "null", plan.OpenTreeClone, "mask")
		}
		c.MoveMount(t, proc, n, 0)
		c.Hint("/proc/"+n, "")
		b.settle(c, t)
	}
}

// devNodes makes the minimal /dev: nodes are binds, since nobody may make nodes
// in a user namespace.
func (b *Build) devNodes() {
	c := b.Shape
	if b.Root.Type == "host" {
		// A folder of the root, which becomes read-only with it.
		b.dev = c.Openat(b.root, "dev", plan.OPATH|plan.ODIRECTORY|plan.OCLOEXEC, 0, "dev").At()
	} else {
		_, b.devM = tmpfs(c, "dev", 65536, 64, 0o755, plan.AttrNoSuid|plan.AttrNoExec)
		b.attach(c, b.devM, "dev", b.dirHint("dev"))
		b.dev = b.devM.At()
	}
	for _, d := range devices {
		f := c.Openat(b.dev, d.name, plan.OWRONLY|plan.OCREAT|plan.OEXCL|plan.OCLOEXEC, 0o666, d.name)
		c.Close(f)
		c.MoveMount(b.trees["dev/"+d.name], b.dev, d.name, 0)
		c.Hint("/dev/"+d.name, "")
		b.settle(c, b.trees["dev/"+d.name])
	}
	for _, l := range [][2]string{
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
	} {
		c.Symlinkat(l[0], b.dev, l[1])
	}
	for _, d := range []string{"pts", "shm", "mqueue"} {
		c.Mkdirat(b.dev, d, 0o755)
	}
}

// devMounts puts into /dev what is this container's own: terminals, shared
// memory, message queues.
func (b *Build) devMounts() {
	c, dev := b.Child, b.dev
	fs := c.Fsopen("devpts", "devpts fs")
	c.FsconfigString(fs, "ptmxmode", "0666")
	c.FsconfigString(fs, "mode", "0620")
	// Of the machine's 4,096 (kernel.pty.max): one container is not to take them all.
	c.FsconfigString(fs, "max", "256")
	c.FsconfigCreate(fs, "devpts")
	pts := c.Fsmount(fs, plan.AttrNoSuid|plan.AttrNoExec, "/dev/pts", "devpts")
	c.MoveMount(pts, dev, "pts", 0)
	if b.Root.Type != "host" {
		b.coverNames()
	}
	_, shm := tmpfs(c, "shm", 64<<20, 16384, 0o1777, basicAttrs|plan.AttrNoExec)
	c.MoveMount(shm, dev, "shm", 0)
	if b.Machine.Mqueue && b.NewIPC {
		fs := c.Fsopen("mqueue", "mqueue fs")
		c.FsconfigCreate(fs, "mqueue")
		mq := c.Fsmount(fs, basicAttrs|plan.AttrNoExec, "/dev/mqueue", "mqueue")
		c.MoveMount(mq, dev, "mqueue", 0)
	}
	b.showDevices(true)
	if b.Root.Type != "host" {
		b.setattr(c, b.devM, 0, plan.AttrReadOnly, 0, "/dev")
		b.settle(c, b.devM)
	}
}

// coverNames has the names of the network cover those of the root's own /etc, where it
// has such files: nothing is written to them. What covers lies in a memory file system
// that disappears below /dev/shm, since only of what is attached a single file can be
// copied.
func (b *Build) coverNames() {
	files := b.Identity.covers()
	if len(files) == 0 {
		return
	}
	const enoent, enotdir, einval = 2, 20, 22
	c := b.Child
	size := int64(0)
	for _, f := range files {
		size += int64(len(f.Data)) + c.PageSize()
	}
	_, m := tmpfs(c, "names", size, int64(len(files))+1, 0o755, basicAttrs|plan.AttrNoExec)
	c.MoveMount(m, b.dev, "shm", 0)
	etc := c.Openat2(b.root, "etc", plan.OPATH|plan.ODIRECTORY|plan.OCLOEXEC, 0, resolve, "etc")
	c.Tolerate(enoent, enotdir)
	for _, f := range files {
		b.write(m.At(), f.Path, f.Data, f.Mode)
		t := c.OpenTree(m.At(), f.Path, plan.OpenTreeClone, f.Path)
		c.MountSetattr(t, 0, plan.AttrReadOnly, 0, f.Path)
		c.MoveMount(t, etc.At(), f.Path, 0)
		c.Tolerate(enoent, ebadf, enotdir, einval) // not there, or a folder
	}
}

// attrs are the attributes of the mount and of all below it.
func (m Mount) attrs() uint64 {
	attrs := uint64(basicAttrs)
	if m.Suid {
		attrs &^= plan.AttrNoSuid
	}
	if m.ReadOnly {
		attrs |= plan.AttrReadOnly
	}
	if m.NoExec {
		attrs |= plan.AttrNoExec
	}
	return attrs
}

const mountHint = "the root is read-only there: mount on a folder that exists, or in a memory file system"

// mount makes one of the mounts that were asked for; a bind's tree is there.
func (b *Build) mount(m Mount, tree plan.Reg) {
	at := strings.TrimPrefix(path.Clean(m.Target), "/")
	const hint = mountHint
	if m.Type == "sysfs" {
		b.sysfs(at)
		return
	}
	if m.Type == "tmpfs" {
		b.folder(at)
		_, t := tmpfs(b.Child, at, m.Size, m.Inodes, m.Mode, m.attrs())
		b.attach(b.Child, t, at, hint)
		return
	}
	if m.Type == "workspace" || b.SourceIsDir[m.Source] {
		b.folder(at)
	} else {
		b.folder(path.Dir(at))
		b.placeholderIn(path.Dir(at), path.Base(at))
	}
	b.attach(b.Child, tree, at, hint)
}

// folder makes a folder below the root with all that leads to it, where it is
// not there. Every step is resolved inside the root.
func (b *Build) folder(at string) plan.Dir {
	if at == "." || at == "" {
		return b.root
	}
	parent := b.folder(path.Dir(at))
	c := b.Child
	c.Mkdirat(parent, path.Base(at), 0o755)
	c.Tolerate(eexist)
	c.Hint("/"+at, "it is not in the root, and the root is read-only there")
	fd := c.Openat2(b.root, at, plan.OPATH|plan.ODIRECTORY|plan.OCLOEXEC, 0, resolve, at)
	c.Hint("/"+at, "it must be a folder")
	// Not kept for the next: a mount may come on top meanwhile.
	return fd.At()
}

// placeholder makes what a bind of /etc covers, in a new /etc of our own.
func (b *Build) placeholder(at string, dir bool) {
	if dir {
		b.Shape.Mkdirat(b.root, at, 0o755)
		return
	}
	f := b.Shape.Openat(b.root, at, plan.OWRONLY|plan.OCREAT|plan.OEXCL|plan.OCLOEXEC, 0, "placeholder")
	b.Shape.Close(f)
}

// placeholderIn makes an empty file for a bind to cover, unless one is there.
func (b *Build) placeholderIn(dir, name string) {
	c := b.Child
	d := b.folder(dir)
	f := c.Openat(d, name, plan.OWRONLY|plan.OCREAT|plan.OEXCL|plan.ONOFOLLOW|plan.OCLOEXEC, 0o644, "placeholder")
	c.Tolerate(eexist)
	c.Hint("/"+path.Join(dir, name), "it is not in the root, and the root is read-only there")
	c.Close(f)
	c.Tolerate(ebadf) // it was there
}

// file writes one file; its folder is resolved inside the root, the file itself
// must be new: no link at its place is followed.
func (b *Build) file(f File) {
	at := strings.TrimPrefix(path.Clean(f.Path), "/")
	d := b.folder(path.Dir(at))
	b.write(d, path.Base(at), f.Data, f.Mode)
}

func (b *Build) write(dir plan.Dir, name string, data []byte, mode uint32) {
	c := b.Child
	fd := c.Openat(dir, name, plan.OWRONLY|plan.OCREAT|plan.OEXCL|plan.ONOFOLLOW|plan.OCLOEXEC, mode, name)
	c.Hint(name, "files are written where the root is a memory file system (/tmp, /run, new folders below /), and must be new")
	if len(data) > 0 {
		c.Write(fd, data, name)
	}
	c.Close(fd)
}

// pivot makes the new root the only one.
func (b *Build) pivot() {
	c := b.Child
	c.Fchdir(b.rootM, "/")
	c.PivotRoot(".", ".")
	c.Hint("/", "on a host whose root is an initramfs pivot_root(2) is refused")
	// What the old root has on top of it, the layers of overlays, is met first, and goes
	// one by one: as long as the old root itself is mounted here, ".." leads to it.
	for range 1 + b.onOldRoot {
		c.Umount2(".", plan.UmountDetach)
	}
	c.Chdir("/")
	// The launcher's mounts are slaves of the host's, and so are copies of single
	// files; from here on the host's mounts are no concern of theirs.
	c.Propagation("/", plan.MSRec|plan.MSPrivate)
}
