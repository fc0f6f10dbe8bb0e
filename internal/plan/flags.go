package plan

import (
	"fmt"
	"strings"
)

// Flags and constants of the kernel's interface, with the kernel's values, here
// rather than from x/sys/unix so that plans compile to the same text on any
// operating system. Where arm64 differs (O_DIRECTORY, O_NOFOLLOW), the builder
// translates.
const (
	ORDONLY    = 0
	OWRONLY    = 1
	ORDWR      = 2
	OCREAT     = 0x40
	OEXCL      = 0x80
	ONOCTTY    = 0x100
	ONONBLOCK  = 0x800
	ODIRECTORY = 0x10000
	ONOFOLLOW  = 0x20000
	OCLOEXEC   = 0x80000
	OPATH      = 0x200000

	ATFDCWD        = -100
	ATEmptyPath    = 0x1000
	ATRecursive    = 0x8000
	ATNoFollow     = 0x100
	OpenTreeClone  = 1
	openTreeCloexe = OCLOEXEC

	MoveFromEmpty = 0x4  // MOVE_MOUNT_F_EMPTY_PATH
	MoveToEmpty   = 0x40 // MOVE_MOUNT_T_EMPTY_PATH

	AttrReadOnly   = 0x1
	AttrNoSuid     = 0x2
	AttrNoDev      = 0x4
	AttrNoExec     = 0x8
	AttrIDMap      = 0x100000
	AttrNoSymlinks = 0x200000

	ResolveNoXDev       = 0x1
	ResolveNoMagicLinks = 0x2
	ResolveNoSymlinks   = 0x4
	ResolveBeneath      = 0x8
	ResolveInRoot       = 0x10

	MSRec     = 0x4000
	MSPrivate = 1 << 18
	MSSlave   = 1 << 19

	UmountDetach = 2
)

type flagName struct {
	bit  uint64
	name string
}

var (
	openFlags = []flagName{
		{OWRONLY, "O_WRONLY"},
		{ORDWR, "O_RDWR"},
		{OCREAT, "O_CREAT"},
		{OEXCL, "O_EXCL"},
		{ONOCTTY, "O_NOCTTY"},
		{ONONBLOCK, "O_NONBLOCK"},
		{ODIRECTORY, "O_DIRECTORY"},
		{ONOFOLLOW, "O_NOFOLLOW"},
		{OCLOEXEC, "O_CLOEXEC"},
		{OPATH, "O_PATH"},
	}
	resolveFlags = []flagName{
		{ResolveNoXDev, "RESOLVE_NO_XDEV"},
		{ResolveNoMagicLinks, "RESOLVE_NO_MAGICLINKS"},
		{ResolveNoSymlinks, "RESOLVE_NO_SYMLINKS"},
		{ResolveBeneath, "RESOLVE_BENEATH"},
		{ResolveInRoot, "RESOLVE_IN_ROOT"},
	}
	attrFlags = []flagName{
		{AttrReadOnly, "MOUNT_ATTR_RDONLY"},
		{AttrNoSuid, "MOUNT_ATTR_NOSUID"},
		{AttrNoDev, "MOUNT_ATTR_NODEV"},
		{AttrNoExec, "MOUNT_ATTR_NOEXEC"},
		{AttrIDMap, "MOUNT_ATTR_IDMAP"},
		{AttrNoSymlinks, "MOUNT_ATTR_NOSYMFOLLOW"},
	}
	treeFlags = []flagName{
		{OpenTreeClone, "OPEN_TREE_CLONE"},
		{ATRecursive, "AT_RECURSIVE"},
		{ATEmptyPath, "AT_EMPTY_PATH"},
		{ATNoFollow, "AT_SYMLINK_NOFOLLOW"},
		{OCLOEXEC, "OPEN_TREE_CLOEXEC"},
	}
	moveFlags    = []flagName{{MoveFromEmpty, "MOVE_MOUNT_F_EMPTY_PATH"}, {MoveToEmpty, "MOVE_MOUNT_T_EMPTY_PATH"}}
	mountFlags   = []flagName{{MSRec, "MS_REC"}, {MSPrivate, "MS_PRIVATE"}, {MSSlave, "MS_SLAVE"}}
	unshareFlags = []flagName{
		{0x00020000, "CLONE_NEWNS"},
		{0x02000000, "CLONE_NEWCGROUP"},
		{0x04000000, "CLONE_NEWUTS"},
		{0x08000000, "CLONE_NEWIPC"},
		{0x10000000, "CLONE_NEWUSER"},
		{0x20000000, "CLONE_NEWPID"},
		{0x40000000, "CLONE_NEWNET"},
		{0x00000080, "CLONE_NEWTIME"},
	}
)

// names prints flags by their names, when it is asked to.
func names(table []flagName, v uint64) fmt.Stringer { return flagText{table, v} }

type flagText struct {
	table []flagName
	v     uint64
}

func (t flagText) String() string {
	var out []string
	v := t.v
	for _, f := range t.table {
		if v&f.bit == f.bit {
			out = append(out, f.name)
			v &^= f.bit
		}
	}
	if v != 0 {
		out = append(out, fmt.Sprintf("%#x", v))
	}
	if len(out) == 0 {
		return "0"
	}
	return strings.Join(out, "|")
}
