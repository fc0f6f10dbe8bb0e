package plan

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// Registers hands out the registers of one container: its plans share them.
type Registers struct{ next int }

// New takes the next register; its name stands in Explain for what is not known
// before the start.
func (r *Registers) New(name string) Reg {
	r.next++
	return Reg{r.next - 1, name}
}

// Count is how many were taken.
func (r *Registers) Count() int { return r.next }

// Builder collects the steps of one plan. Its methods never fail: what is
// wrong shows in Encode.
type Builder struct {
	arch  Arch
	regs  *Registers
	p     *Plan
	seen  map[string]uint64
	count *Reg // the register of write counts, once there is one

	labels bool
	// untimed tells that from here on no time can be taken.
	untimed bool

	// Of a silent builder in the pool: the memory of the plan before.
	steps  []Step
	data   []byte
	relocs []uint32
}

// NewBuilder starts the plan of one phase, with labels for Explain.
func NewBuilder(phase Phase, arch Arch, regs *Registers) *Builder {
	return &Builder{arch: arch, regs: regs, p: &Plan{Phase: phase}, seen: map[string]uint64{}, labels: true}
}

// NewSilentBuilder is NewBuilder without labels: a launch needs none, and making
// them is most of the work. The steps are the same. Its memory comes from plans
// that were given back by [Plan.Release].
func NewSilentBuilder(phase Phase, arch Arch, regs *Registers) *Builder {
	b := released.Get().(*Builder) //nolint:forcetypeassert // the pool's own
	b.arch, b.regs, b.count, b.untimed = arch, regs, nil, false
	b.p = &Plan{Phase: phase, Steps: b.steps[:0], data: b.data[:0], relocs: b.relocs[:0], from: b}
	clear(b.seen)
	return b
}

var released = sync.Pool{New: func() any {
	return &Builder{seen: map[string]uint64{}, steps: make([]Step, 0, 128), data: make([]byte, 0, 4096)}
}}

// Release gives the memory of a silent builder's plan back: the plan is empty
// from then on, and its builder must not be used any more.
func (p *Plan) Release() {
	b := p.from
	if b == nil {
		return
	}
	clear(p.Steps) // what their texts belong to need not live on
	b.steps, b.data, b.relocs = p.Steps, p.data, p.relocs
	p.Steps, p.data, p.relocs, p.from = nil, nil, nil, nil
	b.p, b.regs = nil, nil
	released.Put(b)
}

// Plan returns what was built.
func (b *Builder) Plan() *Plan { return b.p }

// Untimed says that before no step that follows can the time be taken: a filter
// forbids the call.
func (b *Builder) Untimed() { b.untimed = true }

// Len is the number of steps so far.
func (b *Builder) Len() int { return len(b.p.Steps) }

// Register takes a new register, for a descriptor that comes with the request.
func (b *Builder) Register(name string) Reg { return b.regs.New(name) }

// place puts bytes into the data, 8-aligned, and returns their offset.
func (b *Builder) place(v []byte) uint64 {
	off := b.align()
	b.p.data = append(b.p.data, v...)
	return off
}

// align ends the data at a multiple of 8, where the next thing goes.
func (b *Builder) align() uint64 {
	for len(b.p.data)%8 != 0 {
		b.p.data = append(b.p.data, 0)
	}
	return uint64(len(b.p.data))
}

func (b *Builder) str(s string) Arg {
	off, ok := b.seen[s]
	if !ok {
		off = b.align()
		b.p.data = append(append(b.p.data, s...), 0)
		b.seen[s] = off
	}
	return Arg{argPtr, off}
}

func (b *Builder) words(v ...uint64) Arg {
	off := b.align()
	for _, w := range v {
		b.p.data = binary.LittleEndian.AppendUint64(b.p.data, w)
	}
	return Arg{argPtr, off}
}

// vector is a NULL-terminated array of string addresses, as execve wants.
func (b *Builder) vector(list []string) Arg {
	offs := make([]uint64, 0, len(list)+1)
	for _, s := range list {
		offs = append(offs, b.str(s).value)
	}
	arg := b.words(append(offs, 0)...)
	for i := range list {
		b.p.relocs = append(b.p.relocs, uint32(arg.value)+uint32(8*i))
	}
	return arg
}

// add appends a step; label is called where labels are wanted.
func (b *Builder) add(call Call, label func() string, path string, args ...Arg) *Step {
	s := Step{Call: call, Dst: -1, Path: path, Op: call.String(), Untimed: b.untimed}
	if b.labels {
		s.Label = label()
	}
	copy(s.Args[:], args)
	b.p.Steps = append(b.p.Steps, s)
	return &b.p.Steps[len(b.p.Steps)-1]
}

// result keeps what the step returns in a new register.
func (b *Builder) result(s *Step, name string) Reg {
	r := b.regs.New(name)
	s.Dst = r.n
	if b.labels {
		s.Label += " = " + r.String()
	}
	return r
}

// Tolerate lets the step before answer with one of these errnos.
func (b *Builder) Tolerate(errnos ...uint32) {
	s := &b.p.Steps[len(b.p.Steps)-1]
	s.Tolerate = append(s.Tolerate, errnos...)
}

// Hint says what the step before is for; it goes into the error where it fails.
func (b *Builder) Hint(path, hint string) {
	s := &b.p.Steps[len(b.p.Steps)-1]
	if path != "" {
		s.Path = path
	}
	s.Hint = hint
}

// PageSize is the size in bytes of a page of memory, the largest of those that
// kernels of the architecture may have.
func (b *Builder) PageSize() int64 {
	if b.arch == ARM64 {
		return 64 << 10 // or 4 KiB, or 16
	}
	return 4 << 10
}

// Dir is a directory descriptor that a path is relative to.
type Dir struct {
	arg Arg
	reg Reg
}

// String is how Explain shows it.
func (d Dir) String() string {
	if d.arg.kind == argReg {
		return d.reg.String()
	}
	if d == Kept {
		return "<kept>"
	}
	return "AT_FDCWD"
}

// CWD is AT_FDCWD.
var CWD = Dir{arg: Imm(ATFDCWD)}

// At makes the register's descriptor a directory that paths are relative to.
func (r Reg) At() Dir { return Dir{r.Arg(), r} }

// String is how Explain shows the register.
func (r Reg) String() string { return "<" + oneLine(r.name) + ">" }

// oneLine quotes what would break a line of Explain: names may hold paths.
func oneLine(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(s)
	}
	return s
}

func (b *Builder) oflags(f uint64) uint64 {
	if b.arch != ARM64 {
		return f
	}
	// include/uapi/asm-generic/fcntl.h against arch/arm64/include/uapi/asm/fcntl.h
	out := f &^ (ODIRECTORY | ONOFOLLOW)
	if f&ODIRECTORY != 0 {
		out |= 0x4000
	}
	if f&ONOFOLLOW != 0 {
		out |= 0x8000
	}
	return out
}

// Openat adds openat(2).
func (b *Builder) Openat(dir Dir, path string, flags uint64, mode uint32, name string) Reg {
	label := func() string {
		if flags&OCREAT == 0 {
			return fmt.Sprintf("openat(%s, %q, %s)", dir, path, names(openFlags, flags))
		}
		return fmt.Sprintf("openat(%s, %q, %s, %#o)", dir, path, names(openFlags, flags), mode)
	}
	return b.result(b.add(callOpenat, label, path, dir.arg, b.str(path), Imm(b.oflags(flags)), Imm(mode)), name)
}

// Openat2 adds openat2(2): every component is resolved by the given rules.
func (b *Builder) Openat2(dir Dir, path string, flags uint64, mode uint32, resolve uint64, name string) Reg {
	m := uint64(0)
	if flags&OCREAT != 0 {
		m = uint64(mode)
	}
	label := func() string {
		shown := ""
		if flags&OCREAT != 0 {
			shown = fmt.Sprintf(", mode=%#o", mode)
		}
		return fmt.Sprintf("openat2(%s, %q, {flags=%s%s, resolve=%s})", dir, path, names(openFlags, flags), shown, names(resolveFlags, resolve))
	}
	how := b.words(b.oflags(flags), m, resolve)
	return b.result(b.add(callOpenat2, label, path, dir.arg, b.str(path), how, Imm(24)), name)
}

// Mkdirat adds mkdirat(2).
func (b *Builder) Mkdirat(dir Dir, path string, mode uint32) {
	b.add(callMkdirat, func() string { return fmt.Sprintf("mkdirat(%s, %q, %#o)", dir, path, mode) }, path, dir.arg, b.str(path), Imm(mode))
}

// Symlinkat adds symlinkat(2).
func (b *Builder) Symlinkat(target string, dir Dir, path string) {
	b.add(callSymlinkat, func() string { return fmt.Sprintf("symlinkat(%q, %s, %q)", target, dir, path) }, path, b.str(target), dir.arg, b.str(path))
}

// Unlinkat adds unlinkat(2).
func (b *Builder) Unlinkat(dir Dir, path string, flags uint64) {
	b.add(callUnlinkat, func() string { return fmt.Sprintf("unlinkat(%s, %q, %#x)", dir, path, flags) }, path, dir.arg, b.str(path), Imm(flags))
}

// Read adds read(2) of up to n bytes that nobody looks at.
func (b *Builder) Read(fd Reg, n int) {
	buf := Arg{argPtr, b.place(make([]byte, max(n, 1)))} // none needs an address as well
	b.add(callRead, func() string { return fmt.Sprintf("read(%s, <%d bytes>, %d)", fd, n, n) }, "", fd.Arg(), buf, Imm(n))
}

// Write adds write(2) of all of data; Explain shows its length only, when it is long.
func (b *Builder) Write(fd Reg, data []byte, path string) {
	// A zero byte more: an empty write needs an address as well.
	arg := Arg{argPtr, b.place(data)}
	b.p.data = append(b.p.data, 0)
	s := b.add(callWrite, func() string {
		shown := fmt.Sprintf("<%d bytes>", len(data))
		if len(data) <= 48 {
			shown = fmt.Sprintf("%q", data)
		}
		return fmt.Sprintf("write(%s, %s, %d) = %d", fd, shown, len(data), len(data))
	}, path, fd.Arg(), arg, Imm(len(data)))
	if len(data) < 4096 {
		return // the kernel's files and one page: all or an error
	}
	// A memory file system that gets full takes a part and says so by the count.
	const enospc = 28
	if b.count == nil {
		r := b.regs.New("count")
		b.count = &r
	}
	s.Dst = b.count.n
	word := b.words(0)
	b.add(callPoke, func() string { return "poke <count>" }, path, word, b.count.Arg())
	b.check(word.value, ^uint64(0), uint64(len(data)), func() string { return fmt.Sprintf("<count> == %d", len(data)) }, path, enospc)
}

// Close adds close(2).
func (b *Builder) Close(fd Reg) {
	b.add(callClose, func() string { return fmt.Sprintf("close(%s)", fd) }, "", fd.Arg())
}

// CloseRange adds close_range(2).
func (b *Builder) CloseRange(first, last uint32) {
	b.add(callCloseRange, func() string { return fmt.Sprintf("close_range(%d, %#x, 0)", first, last) }, "", Imm(first), Imm(last), Imm(0))
}

// Fchmod adds fchmod(2): unlike a mode given to open it does not meet the umask.
func (b *Builder) Fchmod(fd Reg, mode uint32) {
	b.add(callFchmod, func() string { return fmt.Sprintf("fchmod(%s, %#o)", fd, mode) }, "", fd.Arg(), Imm(mode))
}

// Fchown adds fchown(2).
func (b *Builder) Fchown(fd Reg, uid, gid uint32) {
	b.add(callFchown, func() string { return fmt.Sprintf("fchown(%s, %d, %d)", fd, uid, gid) }, "", fd.Arg(), Imm(uid), Imm(gid))
}

// Fchdir adds fchdir(2).
func (b *Builder) Fchdir(fd Reg, path string) {
	b.add(callFchdir, func() string { return fmt.Sprintf("fchdir(%s)", fd) }, path, fd.Arg())
}

// Chdir adds chdir(2).
func (b *Builder) Chdir(path string) {
	b.add(callChdir, func() string { return fmt.Sprintf("chdir(%q)", path) }, path, b.str(path))
}

// Chroot adds chroot(2).
func (b *Builder) Chroot(path string) {
	b.add(callChroot, func() string { return fmt.Sprintf("chroot(%q)", path) }, path, b.str(path))
}

// Dup3 adds dup3(2) to a fixed number.
func (b *Builder) Dup3(from Reg, to int, flags uint64) {
	b.add(callDup3, func() string { return fmt.Sprintf("dup3(%s, %d, %s)", from, to, names(openFlags, flags)) }, "", from.Arg(), Imm(to), Imm(flags))
}

// DupAbove adds fcntl(2) with F_DUPFD_CLOEXEC: the lowest free number from least on.
func (b *Builder) DupAbove(from Reg, least int, name string) Reg {
	const dupfdCloexec = 1030
	return b.result(b.add(callFcntl, func() string { return fmt.Sprintf("fcntl(%s, F_DUPFD_CLOEXEC, %d)", from, least) }, "", from.Arg(), Imm(dupfdCloexec), Imm(least)), name)
}

// Umask adds umask(2).
func (b *Builder) Umask(mask uint32) {
	b.add(callUmask, func() string { return fmt.Sprintf("umask(%#o)", mask) }, "", Imm(mask))
}

// Fsopen adds fsopen(2).
func (b *Builder) Fsopen(fstype, name string) Reg {
	return b.result(b.add(callFsopen, func() string { return fmt.Sprintf("fsopen(%q, FSOPEN_CLOEXEC)", fstype) }, fstype, b.str(fstype), Imm(1)), name)
}

// FsconfigString adds fsconfig(2) with FSCONFIG_SET_STRING.
func (b *Builder) FsconfigString(fs Reg, key, value string) {
	b.add(callFsconfig, func() string { return fmt.Sprintf("fsconfig(%s, FSCONFIG_SET_STRING, %q, %q, 0)", fs, key, value) }, key,
		fs.Arg(), Imm(1), b.str(key), b.str(value), Imm(0))
}

// FsconfigCreate adds fsconfig(2) with FSCONFIG_CMD_CREATE.
func (b *Builder) FsconfigCreate(fs Reg, path string) {
	b.add(callFsconfig, func() string { return fmt.Sprintf("fsconfig(%s, FSCONFIG_CMD_CREATE, NULL, NULL, 0)", fs) }, path, fs.Arg(), Imm(6), Imm(0), Imm(0), Imm(0))
}

// FsconfigReadOnly makes a file system that is mounted already read-only, with
// all its mounts.
func (b *Builder) FsconfigReadOnly(fs Reg, path string) {
	b.FsconfigFlag(fs, "ro")
	b.Hint(path, "")
	b.add(callFsconfig, func() string { return fmt.Sprintf("fsconfig(%s, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0)", fs) }, path, fs.Arg(), Imm(7), Imm(0), Imm(0), Imm(0))
}

// Fsmount adds fsmount(2): a mount that is attached nowhere yet.
func (b *Builder) Fsmount(fs Reg, attrs uint64, path, name string) Reg {
	return b.result(b.add(callFsmount, func() string { return fmt.Sprintf("fsmount(%s, FSMOUNT_CLOEXEC, %s)", fs, names(attrFlags, attrs)) }, path, fs.Arg(), Imm(1), Imm(attrs)), name)
}

// OpenTree adds open_tree(2); with OpenTreeClone the result is a detached copy.
func (b *Builder) OpenTree(dir Dir, path string, flags uint64, name string) Reg {
	flags |= openTreeCloexe
	return b.result(b.add(callOpenTree, func() string { return fmt.Sprintf("open_tree(%s, %q, %s)", dir, path, names(treeFlags, flags)) }, path,
		dir.arg, b.str(path), Imm(flags)), name)
}

// MoveMount adds move_mount(2) of the mount itself; flags may hold MoveToEmpty.
func (b *Builder) MoveMount(mount Reg, dir Dir, path string, flags uint64) {
	flags |= MoveFromEmpty
	b.add(callMoveMount, func() string {
		return fmt.Sprintf("move_mount(%s, \"\", %s, %q, %s)", mount, dir, path, names(moveFlags, flags))
	}, path,
		mount.Arg(), b.str(""), dir.arg, b.str(path), Imm(flags))
}

// MountSetattr adds mount_setattr(2) on the mount itself; propagation is 0 or one
// of MSPrivate and its kin.
func (b *Builder) MountSetattr(mount Reg, flags, set, propagation uint64, path string) {
	flags |= ATEmptyPath
	b.add(callMountSetattr, func() string {
		shown := ""
		if propagation != 0 {
			shown = fmt.Sprintf(", propagation=%s", names(mountFlags, propagation))
		}
		return fmt.Sprintf("mount_setattr(%s, \"\", %s, {attr_set=%s%s})", mount, names(treeFlags, flags), names(attrFlags, set), shown)
	}, path,
		mount.Arg(), b.str(""), Imm(flags), b.words(set, 0, propagation, 0), Imm(32))
}

// Remount does as MountSetattr where the kernel has no mount_setattr(2): by mount(2), on
// a mount that is attached in the caller's mount namespace, and of what is below it on
// all that a path leads to.
func (b *Builder) Remount(mount Reg, flags, set, propagation uint64, path string) {
	b.add(callRemount, func() string {
		shown := ""
		if propagation != 0 {
			shown = fmt.Sprintf(", propagation=%s", names(mountFlags, propagation))
		}
		return fmt.Sprintf("mount(NULL, %s, NULL, MS_REMOUNT|MS_BIND, NULL), %s {attr_set=%s%s}", mount, names(treeFlags, flags), names(attrFlags, set), shown)
	}, path, mount.Arg(), Imm(flags), Imm(set), Imm(propagation))
}

// Propagation adds mount(2) that changes how mounts spread from here.
func (b *Builder) Propagation(path string, flags uint64) {
	b.add(callMount, func() string { return fmt.Sprintf("mount(NULL, %q, NULL, %s, NULL)", path, names(mountFlags, flags)) }, path,
		Imm(0), b.str(path), Imm(0), Imm(flags), Imm(0))
}

// PivotRoot adds pivot_root(2).
func (b *Builder) PivotRoot(newRoot, putOld string) {
	b.add(callPivotRoot, func() string { return fmt.Sprintf("pivot_root(%q, %q)", newRoot, putOld) }, newRoot, b.str(newRoot), b.str(putOld))
}

// Umount2 adds umount2(2).
func (b *Builder) Umount2(path string, flags uint64) {
	b.add(callUmount2, func() string { return fmt.Sprintf("umount2(%q, MNT_DETACH)", path) }, path, b.str(path), Imm(flags))
}

// Sethostname adds sethostname(2).
func (b *Builder) Sethostname(name string) {
	b.add(callSethostname, func() string { return fmt.Sprintf("sethostname(%q, %d)", name, len(name)) }, "", b.str(name), Imm(len(name)))
}

// Setdomainname adds setdomainname(2).
func (b *Builder) Setdomainname(name string) {
	b.add(callSetdomainname, func() string { return fmt.Sprintf("setdomainname(%q, %d)", name, len(name)) }, "", b.str(name), Imm(len(name)))
}

// LinkUp adds what brings a network interface up: a socket and two ioctls'
// worth of one, SIOCSIFFLAGS with IFF_UP (netdevice(7)).
func (b *Builder) LinkUp(link string) {
	const afInet, sockDgram, siocsifflags, iffUp = 2, 2 | OCLOEXEC, 0x8914, 1
	s := b.result(b.add(callSocket, func() string { return "socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, 0)" }, link, Imm(afInet), Imm(sockDgram), Imm(0)), "socket")
	ifreq := make([]byte, 40)
	copy(ifreq[:15], link)
	binary.LittleEndian.PutUint16(ifreq[16:], iffUp)
	b.add(callIoctl, func() string { return fmt.Sprintf("ioctl(%s, SIOCSIFFLAGS, {ifr_name=%q, ifr_flags=IFF_UP})", s, link) }, link,
		s.Arg(), Imm(siocsifflags), Arg{argPtr, b.place(ifreq)})
	b.Close(s)
}

// Setsid adds setsid(2).
func (b *Builder) Setsid() { b.add(callSetsid, func() string { return "setsid()" }, "") }

// OpenSlave adds ioctl(2) with TIOCGPTPEER: the slave of a terminal by its master,
// whatever lies in /dev/pts by now (ioctl_tty(2), Linux 4.13).
func (b *Builder) OpenSlave(master Reg) Reg {
	const tiocgptpeer = 0x5441
	return b.result(b.add(callIoctl, func() string { return fmt.Sprintf("ioctl(%s, TIOCGPTPEER, O_RDWR|O_NOCTTY|O_CLOEXEC)", master) }, "/dev/pts",
		master.Arg(), Imm(tiocgptpeer), Imm(ORDWR|ONOCTTY|OCLOEXEC)), "terminal")
}

// ControlTerminal adds ioctl(2) with TIOCSCTTY: the terminal that fd is becomes that
// of the caller's session.
func (b *Builder) ControlTerminal(fd int) {
	const tiocsctty = 0x540e
	b.add(callIoctl, func() string { return fmt.Sprintf("ioctl(%d, TIOCSCTTY, 0)", fd) }, "/dev/tty", Imm(fd), Imm(tiocsctty), Imm(0))
}

// Prlimit adds prlimit64(2) on the caller itself.
func (b *Builder) Prlimit(resource int, name string, soft, hard uint64) {
	b.add(callPrlimit, func() string { return fmt.Sprintf("prlimit64(0, %s, {%s, %s}, NULL)", name, limit(soft), limit(hard)) }, name,
		Imm(0), Imm(resource), b.words(soft, hard), Imm(0))
}

// limit prints a value of struct rlimit64.
type limit uint64

func (v limit) String() string {
	if uint64(v) == ^uint64(0) {
		return "RLIM64_INFINITY"
	}
	return fmt.Sprint(uint64(v))
}

// Prctl adds prctl(2).
func (b *Builder) Prctl(op int, name string, args ...uint64) {
	list := [6]Arg{Imm(op)}
	for i, a := range args {
		list[i+1] = Imm(a)
	}
	b.add(callPrctl, func() string {
		shown := name
		for _, a := range args {
			shown += fmt.Sprintf(", %d", a)
		}
		return fmt.Sprintf("prctl(%s)", shown)
	}, name, list[:1+len(args)]...)
}

// Seccomp adds seccomp(2) with SECCOMP_SET_MODE_FILTER and a filter of 8-byte
// instructions.
func (b *Builder) Seccomp(filter []uint64, flags uint64, what string) {
	const setModeFilter = 1
	prog := b.words(filter...)
	fprog := b.words(uint64(len(filter)), prog.value)
	b.p.relocs = append(b.p.relocs, uint32(fprog.value)+8)
	b.add(callSeccomp, func() string {
		return fmt.Sprintf("seccomp(SECCOMP_SET_MODE_FILTER, %#x, {len=%d, %s})", flags, len(filter), what)
	}, "seccomp",
		Imm(setModeFilter), Imm(flags), fprog)
}

// LandlockCreateRuleset adds landlock_create_ruleset(2); attr is its structure, in
// little-endian words: files, net, scopes.
func (b *Builder) LandlockCreateRuleset(attr []byte) Reg {
	return b.result(b.add(callLandlockCreateRuleset, func() string {
		w := func(i int) uint64 { return binary.LittleEndian.Uint64(attr[8*i:]) }
		return fmt.Sprintf("landlock_create_ruleset({fs=%#x, net=%#x, scoped=%#x}, %d, 0)", w(0), w(1), w(2), len(attr))
	}, "landlock", Arg{argPtr, b.place(attr)}, Imm(len(attr)), Imm(0)), "ruleset")
}

// LandlockAddPath adds landlock_add_rule(2) for a file, or a folder with all
// below it.
func (b *Builder) LandlockAddPath(ruleset, beneath Reg, rights uint64, path string) {
	// struct landlock_path_beneath_attr is packed: the rights, then the descriptor.
	attr := b.words(rights, 0)
	b.add(callPoke, func() string { return "poke " + beneath.String() }, path, Arg{argPtr, attr.value + 8}, beneath.Arg())
	const pathBeneath = 1
	b.add(callLandlockAddRule, func() string {
		return fmt.Sprintf("landlock_add_rule(%s, LANDLOCK_RULE_PATH_BENEATH, {%#x, %s}, 0)", ruleset, rights, beneath)
	}, path, ruleset.Arg(), Imm(pathBeneath), attr, Imm(0))
}

// LandlockAddPort adds landlock_add_rule(2) for a TCP port.
func (b *Builder) LandlockAddPort(ruleset Reg, port, rights uint64) {
	const netPort = 2
	b.add(callLandlockAddRule, func() string {
		return fmt.Sprintf("landlock_add_rule(%s, LANDLOCK_RULE_NET_PORT, {%#x, %d}, 0)", ruleset, rights, port)
	}, "", ruleset.Arg(), Imm(netPort), b.words(rights, port), Imm(0))
}

// LandlockRestrictSelf adds landlock_restrict_self(2).
func (b *Builder) LandlockRestrictSelf(ruleset Reg) {
	b.add(callLandlockRestrictSelf, func() string { return fmt.Sprintf("landlock_restrict_self(%s, 0)", ruleset) }, "landlock", ruleset.Arg(), Imm(0))
}

// Setgroups adds setgroups(2).
func (b *Builder) Setgroups(groups []uint32) {
	raw := []byte{}
	for _, g := range groups {
		raw = binary.LittleEndian.AppendUint32(raw, g)
	}
	b.add(callSetgroups, func() string {
		return fmt.Sprintf("setgroups(%d, %s)", len(groups), strings.ReplaceAll(fmt.Sprint(groups), " ", ", "))
	}, "", Imm(len(groups)), Arg{argPtr, b.place(append(raw, 0, 0, 0, 0))})
}

// Setresuid adds setresuid(2) with one id for all three.
func (b *Builder) Setresuid(id uint32) {
	b.add(callSetresuid, func() string { return fmt.Sprintf("setresuid(%d, %d, %d)", id, id, id) }, "", Imm(id), Imm(id), Imm(id))
}

// Setresgid adds setresgid(2) with one id for all three.
func (b *Builder) Setresgid(id uint32) {
	b.add(callSetresgid, func() string { return fmt.Sprintf("setresgid(%d, %d, %d)", id, id, id) }, "", Imm(id), Imm(id), Imm(id))
}

// Setfsuid adds setfsuid(2).
func (b *Builder) Setfsuid(id uint32) {
	b.add(callSetfsuid, func() string { return fmt.Sprintf("setfsuid(%d)", id) }, "", Imm(id))
}

// Setfsgid adds setfsgid(2).
func (b *Builder) Setfsgid(id uint32) {
	b.add(callSetfsgid, func() string { return fmt.Sprintf("setfsgid(%d)", id) }, "", Imm(id))
}

// Capset adds capset(2) on the caller, version 3.
func (b *Builder) Capset(effective, permitted, inheritable uint64) {
	const version3 = 0x20080522
	lo, hi := func(v uint64) uint64 { return v & 0xffffffff }, func(v uint64) uint64 { return v >> 32 }
	hdr := b.words(version3)
	data := b.words(lo(effective)|lo(permitted)<<32, lo(inheritable)|hi(effective)<<32, hi(permitted)|hi(inheritable)<<32)
	b.add(callCapset, func() string {
		return fmt.Sprintf("capset({_LINUX_CAPABILITY_VERSION_3, 0}, {effective=%#x, permitted=%#x, inheritable=%#x})", effective, permitted, inheritable)
	}, "", hdr, data)
}

// JoinSessionKeyring adds keyctl(2): a new, empty session keyring.
func (b *Builder) JoinSessionKeyring() {
	b.add(callKeyctl, func() string { return "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)" }, "", Imm(1), Imm(0))
}

// Unshare adds unshare(2).
func (b *Builder) Unshare(flags uint64) {
	b.add(callUnshare, func() string { return fmt.Sprintf("unshare(%s)", names(unshareFlags, flags)) }, "", Imm(flags))
}

// Setns adds setns(2); kind is one of the flags of unshare(2).
func (b *Builder) Setns(fd Reg, kind uint64, path string) {
	b.add(callSetns, func() string { return fmt.Sprintf("setns(%s, %s)", fd, names(unshareFlags, kind)) }, path, fd.Arg(), Imm(kind))
}

// InChild has a child of the caller do the steps that f adds, in the PID namespace that
// setns(2) chose for children; the next step waits for its end. It shares memory and
// descriptors, so what it opens is there; hint is for where there can be none.
func (b *Builder) InChild(hint string, f func()) {
	at := len(b.p.Steps)
	b.add(callInside, func() string { return "" }, "").Hint = hint
	f()
	n := len(b.p.Steps) - at - 1
	b.p.Steps[at].Args[0] = Imm(n)
	if b.labels {
		b.p.Steps[at].Label = fmt.Sprintf("clone3({flags=CLONE_VM|CLONE_VFORK|CLONE_FILES}): the child does the next %d steps", n)
	}
}

// UnblockSignals adds rt_sigprocmask(2) with an empty mask.
func (b *Builder) UnblockSignals() {
	const setmask = 2
	b.add(callSigprocmask, func() string { return "rt_sigprocmask(SIG_SETMASK, [], NULL, 8)" }, "", Imm(setmask), b.words(0), Imm(0), Imm(8))
}

// ResetScheduler adds sched_setscheduler(2) to SCHED_OTHER.
func (b *Builder) ResetScheduler() {
	b.add(callSchedSetscheduler, func() string { return "sched_setscheduler(0, SCHED_OTHER, [0])" }, "", Imm(0), Imm(0), b.words(0))
}

// AllProcessors adds sched_setaffinity(2) to all processors, of which the kernel takes
// those of the caller's group.
func (b *Builder) AllProcessors() {
	mask := make([]uint64, 8192/64) // the most that a kernel is built for
	for i := range mask {
		mask[i] = ^uint64(0)
	}
	b.add(callSchedSetaffinity, func() string { return "sched_setaffinity(0, 1024, <all>)" }, "", Imm(0), Imm(8*len(mask)), b.words(mask...))
}

// Environment is a list of strings placed once for several execve steps.
type Environment struct{ arg Arg }

// Strings places argv or envp.
func (b *Builder) Strings(list []string) Environment { return Environment{b.vector(list)} }

// Execve adds execve(2). A step after it runs only if its errno is tolerated.
func (b *Builder) Execve(path string, argv, envp Environment, argc, envc int) {
	b.add(callExecve, func() string { return fmt.Sprintf("execve(%q, <%d arguments>, <%d variables>)", path, argc, envc) }, path, b.str(path), argv.arg, envp.arg)
}

// Verify is a check that a descriptor is what its path claims: statx(2), then a
// comparison of the file type and, for devices, of the numbers.
func (b *Builder) Verify(fd Reg, path string, mode uint16, major, minor uint32) {
	const sIFMT = 0o170000
	buf := b.statx(fd, path)
	// struct statx: stx_mode is the 16 bits at 28; stx_rdev_major and _minor stand at 128 and 132.
	b.check(buf.value+24, sIFMT<<32, uint64(mode)<<32, func() string { return fmt.Sprintf("stx_mode&S_IFMT == %#o", mode) }, path, estale)
	if major != 0 {
		b.check(buf.value+128, ^uint64(0), uint64(major)|uint64(minor)<<32, func() string { return fmt.Sprintf("stx_rdev == %d:%d", major, minor) }, path, estale)
	}
}

// statx adds statx(2) of a descriptor; the result is where struct statx will be.
func (b *Builder) statx(fd Reg, path string) Arg {
	const emptyPath, basic = ATEmptyPath, 0x7ff
	buf := Arg{argPtr, b.place(make([]byte, 256))}
	b.add(callStatx, func() string { return fmt.Sprintf("statx(%s, \"\", AT_EMPTY_PATH, STATX_BASIC_STATS)", fd) }, path, fd.Arg(), b.str(""), Imm(emptyPath), Imm(basic), buf)
	return buf
}

// VerifyFolder is Verify of a folder: statx(2), then a comparison of which it is.
func (b *Builder) VerifyFolder(fd Reg, path string, major, minor uint32, ino uint64) {
	buf := b.statx(fd, path)
	// struct statx: stx_ino stands at 32, stx_dev_major and _minor at 136 and 140.
	b.check(buf.value+32, ^uint64(0), ino, func() string { return fmt.Sprintf("stx_ino == %d", ino) }, path, estale)
	b.check(buf.value+136, ^uint64(0), uint64(major)|uint64(minor)<<32, func() string { return fmt.Sprintf("stx_dev == %d:%d", major, minor) }, path, estale)
}

// Inside checks that the working directory lies below the root: getcwd(2)
// answers "(unreachable)…" for one that was left outside.
func (b *Builder) Inside(path string) {
	buf := Arg{argPtr, b.place(make([]byte, 4104))}
	b.add(callGetcwd, func() string { return "getcwd(<4096 bytes>)" }, path, buf, Imm(4096))
	b.check(buf.value, 0xff, '/', func() string { return "the path begins with /" }, path, estale)
}

// estale answers a check of what a file is: it is not what it was.
const estale = 116

// check compares eight bytes of the data under a mask; errno is the answer
// where they differ.
func (b *Builder) check(off, mask, want uint64, what func() string, path string, errno uint32) {
	b.add(callCheck, func() string { return "check " + what() }, path, Arg{argPtr, off}, Imm(mask), Imm(want), Imm(errno))
}

// RemoveState is the launcher's last act on a state directory whose descriptors
// it holds at fixed numbers: the owner file goes, and the rest with its last
// user, who alone gets the lock.
func (b *Builder) RemoveState(dir, ids int, owner, path string) {
	const lockExNb, removeDir, enoent, enotempty = 2 | 4, 0x200, 2, 39
	b.add(callUnlinkat, func() string { return fmt.Sprintf("unlinkat(%d, %q, 0)", dir, owner) }, owner, Imm(dir), b.str(owner), Imm(0))
	b.Tolerate(enoent)
	b.add(callFlock, func() string { return fmt.Sprintf("flock(%d, LOCK_EX|LOCK_NB)", ids) }, "ids", Imm(ids), Imm(lockExNb))
	b.add(callUnlinkat, func() string { return fmt.Sprintf("unlinkat(%d, \"ids\", 0)", dir) }, "ids", Imm(dir), b.str("ids"), Imm(0))
	b.Tolerate(enoent)
	b.Unlinkat(CWD, path, removeDir)
	b.Tolerate(enoent, enotempty)
}

// RemoveGroups removes a control group, name in the folder parent, with all groups
// below it. Their processes have ended; one that is gone is no error.
func (b *Builder) RemoveGroups(parent, name string) {
	b.add(callSweep, func() string { return "sweep " + oneLine(parent+"/"+name) }, parent+"/"+name, b.str(parent), b.str(name))
}

// WriteSelf adds write(2) of "0" to a file tasks of cgroup v1: the caller enters
// the group.
func (b *Builder) WriteSelf(fd Reg) {
	b.add(callWrite, func() string { return fmt.Sprintf("write(%s, \"0\", 1) = 1", fd) }, "tasks", fd.Arg(), b.str("0"), Imm(1))
}

// WriteFile adds the steps that write a text to a file that is there; path is what it is
// called where that fails.
func (b *Builder) WriteFile(dir Dir, file, text, path string) {
	fd := b.Openat(dir, file, OWRONLY|OCLOEXEC, 0, file)
	b.Hint(path, "")
	b.Write(fd, []byte(text), path)
	b.Close(fd)
}

// UserNamespace adds the steps that make a user namespace of the given maps, as
// uid_map and gid_map of user_namespaces(7) have them, and open it: a mount takes
// it by IDMap.
func (b *Builder) UserNamespace(uids, gids string, name string) Reg {
	proc := b.result(b.add(callHolder, func() string { return "clone3({flags=CLONE_NEWUSER}), to hold it" }, name), "holder")
	b.WriteFile(proc.At(), "uid_map", uids, name)
	b.WriteFile(proc.At(), "gid_map", gids, name)
	ns := b.Openat(proc.At(), "ns/user", OCLOEXEC, 0, name)
	b.Close(proc)
	b.add(callRelease, func() string { return "kill(<holder>, SIGKILL)" }, name)
	return ns
}

// IDMap adds mount_setattr(2) with MOUNT_ATTR_IDMAP: files on the mount show the
// owners that the user namespace gives to those on the disk.
func (b *Builder) IDMap(mount, userns Reg, flags uint64, path string) {
	flags |= ATEmptyPath
	attr := b.words(AttrIDMap, 0, 0, 0)
	b.add(callPoke, func() string { return "poke " + userns.String() }, path, Arg{argPtr, attr.value + 24}, userns.Arg())
	b.add(callMountSetattr, func() string {
		return fmt.Sprintf("mount_setattr(%s, \"\", %s, {attr_set=%s, userns_fd=%s})", mount, names(treeFlags, flags), names(attrFlags, AttrIDMap), userns)
	}, path, mount.Arg(), b.str(""), Imm(flags), attr, Imm(32))
}

// FsconfigFlag adds fsconfig(2) with FSCONFIG_SET_FLAG.
func (b *Builder) FsconfigFlag(fs Reg, key string) {
	b.add(callFsconfig, func() string { return fmt.Sprintf("fsconfig(%s, FSCONFIG_SET_FLAG, %q, NULL, 0)", fs, key) }, key, fs.Arg(), Imm(0), b.str(key), Imm(0), Imm(0))
}
