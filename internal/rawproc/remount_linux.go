//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

const (
	enotdir   = 20
	eloop     = 40
	enametoo  = 36
	treeAll   = 0x8000 // AT_RECURSIVE
	keepFlags = msReadOnly | msNoSuid | msNoDev | msNoExec | msNoSymlinks

	msReadOnly   = 0x1
	msNoSuid     = 0x2
	msNoDev      = 0x4
	msNoExec     = 0x8
	msNoSymlinks = 0x100
	msRemount    = 0x20
	msBind       = 0x1000
	msRec        = 0x4000
)

// mounts is where remount reads and writes texts.
type mounts struct {
	file   uintptr
	n, at  uintptr // of read: how much there is, and where the reader is
	top    uintptr // the length of the tree's own mount point
	length uintptr // and of the line's
	flags  uintptr // the line's, by its options
	id     uint64  // the line's
	proc   [40]byte
	stat   [256]byte
	statfs [120]byte
	how    [3]uint64
	read   [4096]byte
	tree   [4096]byte // the tree's own mount point
	point  [4096]byte // the line's
}

// remount does what mount_setattr(2) does, which Linux 5.10 does not have: a mount that
// is attached in the caller's mount namespace gets flags, and so does with AT_RECURSIVE
// each mount below it, which keeps those that it has: the kernel refuses to take away
// what is locked. Its time stamps' flags stay, since no other are named. The
// propagation changes first, so that nothing comes to it while it is read what there is.
//
// A mount that another one covers is left as it is: no path leads to it, and who may
// uncover it may remount it as well.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func (w *world) remount(fd, how, set, propagation uintptr) bool {
	m := &w.mounts
	if set&^(msReadOnly|msNoSuid|msNoDev|msNoExec) != 0 {
		w.errno = einval // without a twin among mount(2)'s flags
		return false
	}
	id, errno := w.mountID(fd)
	if w.errno = errno; errno != 0 {
		return false
	}
	if propagation != 0 {
		if how&treeAll != 0 {
			propagation |= msRec
		}
		if w.errno = w.mountAt(fd, propagation); w.errno != 0 {
			return false
		}
	}
	if w.errno = w.openMounts(); w.errno != 0 {
		return false
	}
	found := false
	for !found && w.nextMount() {
		found = m.id == id
	}
	if w.errno == 0 && !found {
		w.errno = einval // as the kernel says of one that is attached elsewhere, or nowhere
	}
	if w.errno == 0 {
		m.top = m.length
		for i := uintptr(0); i <= m.top; i++ {
			m.tree[i] = m.point[i]
		}
		w.errno = w.mountAt(fd, msRemount|msBind|m.flags|set)
	}
	if w.errno == 0 && how&treeAll != 0 {
		if _, w.errno = call(syscall.SYS_LSEEK, m.file, 0, 0, 0, 0, 0); w.errno == 0 {
			m.n, m.at = 0, 0
			for w.errno == 0 && w.nextMount() {
				if name := w.below(); name != 0 {
					w.errno = w.remountBelow(fd, name, set)
				}
			}
		}
	}
	call(syscall.SYS_CLOSE, m.file, 0, 0, 0, 0, 0)
	return w.errno == 0
}

// below is where in the line's mount point the name relative to the tree's begins; 0:
// it is not below.
//
//go:norace
//go:nocheckptr
func (w *world) below() uintptr {
	m := &w.mounts
	at := m.top
	if at == 1 { // the root: "/" itself is the separator
		at = 0
	}
	if m.length <= at+1 || m.point[at] != '/' {
		return 0
	}
	for i := uintptr(0); i < at; i++ {
		if m.point[i] != m.tree[i] {
			return 0
		}
	}
	return at + 1
}

// remountBelow gives flags to the line's mount, if the name leads to it.
//
//go:norace
//go:nocheckptr
func (w *world) remountBelow(tree, name, set uintptr) uintptr {
	const oPath, noMagicLinks, noSymlinks, beneath = 0x200000, 2, 4, 8
	m := &w.mounts
	// No link, which somebody may just have put there, leads anywhere.
	m.how[0], m.how[1], m.how[2] = oPath|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0, noMagicLinks|noSymlinks|beneath
	fd, errno := call(sysOpenat2, tree, uintptr(unsafe.Pointer(&m.point))+name, uintptr(unsafe.Pointer(&m.how)), 24, 0, 0)
	if errno == enoent || errno == enotdir || errno == eloop {
		return 0 // covered, by something that has no such name
	}
	if errno != 0 {
		return errno
	}
	flags := m.flags
	id, failed := w.mountID(fd)
	switch {
	case failed != 0:
		// A user's FUSE says nothing to others. Its flags are to be had, and if it is
		// not the root of a mount, that refuses.
		var sure bool
		if flags, sure = w.flagsOf(fd); !sure {
			errno = failed
		} else if errno = w.mountAt(fd, msRemount|msBind|flags|set); errno == einval {
			errno = 0
		}
	case id == m.id:
		errno = w.mountAt(fd, msRemount|msBind|flags|set)
	}
	call(syscall.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
	return errno
}

// mountID is the number that mountinfo has for the mount of an open file.
//
//go:norace
//go:nocheckptr
func (w *world) mountID(fd uintptr) (uint64, uintptr) {
	const emptyPath, dontSync, mountID, at, eopnotsupp = 0x1000, 0x4000, 0x1000, 144, 95 // stx_mnt_id
	m := &w.mounts
	m.proc[0] = 0
	_, errno := call(sysStatx, fd, uintptr(unsafe.Pointer(&m.proc)), emptyPath|dontSync, mountID, uintptr(unsafe.Pointer(&m.stat)), 0)
	stat := uintptr(unsafe.Pointer(&m.stat))
	if errno == 0 && load32(stat)&mountID == 0 {
		errno = eopnotsupp // before Linux 5.8
	}
	return load64(stat + at), errno
}

// flagsOf are the flags of the mount of an open file, and of its file system.
//
//go:norace
//go:nocheckptr
func (w *world) flagsOf(fd uintptr) (uintptr, bool) {
	const at, noSymlinks = 80, 0x2000 // f_flags, ST_NOSYMFOLLOW
	m := &w.mounts
	_, errno := call(syscall.SYS_FSTATFS, fd, uintptr(unsafe.Pointer(&m.statfs)), 0, 0, 0, 0)
	have := uintptr(load64(uintptr(unsafe.Pointer(&m.statfs)) + at))
	flags := have & keepFlags &^ msNoSymlinks
	if have&noSymlinks != 0 {
		flags |= msNoSymlinks
	}
	return flags, errno == 0
}

// mountAt is mount(2) on what an open file is, with nothing but flags.
//
//go:norace
//go:nocheckptr
func (w *world) mountAt(fd, flags uintptr) uintptr {
	m := &w.mounts
	n := w.mountsPath("/proc/self/fd/\x00")
	digits := uintptr(1)
	for v := fd; v >= 10; v /= 10 {
		digits++
	}
	for i := digits; i > 0; i-- {
		m.proc[n+i-1] = byte('0' + fd%10)
		fd /= 10
	}
	m.proc[n+digits] = 0
	_, errno := call(syscall.SYS_MOUNT, 0, uintptr(unsafe.Pointer(&m.proc)), 0, flags, 0, 0)
	return errno
}

// openMounts begins to read mountinfo.
//
//go:norace
//go:nocheckptr
func (w *world) openMounts() uintptr {
	m := &w.mounts
	w.mountsPath("/proc/self/mountinfo\x00")
	fd, errno := call(syscall.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(&m.proc)), syscall.O_CLOEXEC, 0, 0, 0)
	m.file, m.n, m.at = fd, 0, 0
	return errno
}

// mountsPath copies a constant to m.proc, and returns its length without the NUL.
//
//go:norace
//go:nocheckptr
func (w *world) mountsPath(path string) uintptr {
	text := uintptr(unsafe.Pointer(unsafe.StringData(path)))
	for i := uintptr(0); ; i++ {
		w.mounts.proc[i] = load8(text + i)
		if w.mounts.proc[i] == 0 {
			return i
		}
	}
}

// nextMount reads a line of mountinfo: number, mount point and flags. It tells whether
// there was one; w.errno is why not, or 0 at the end.
//
//	36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda rw
//
//go:norace
//go:nocheckptr
func (w *world) nextMount() bool {
	const fieldPoint, fieldOptions = 4, 5
	m := &w.mounts
	m.id, m.length, m.flags, w.errno = 0, 0, 0, 0
	field, option := 0, uint64(0)
	for {
		c, ok := w.nextByte()
		if !ok {
			return false
		}
		switch {
		case c == '\n':
			m.point[m.length] = 0
			return true
		case field == fieldOptions && (c == ' ' || c == ','):
			m.flags |= mountOption(option)
			option = 0
			if c == ' ' {
				field++
			}
		case c == ' ':
			field++
		case field == 0:
			m.id = m.id*10 + uint64(c-'0')
		case field == fieldPoint:
			if c == '\\' { // and three octal digits
				c = 0
				for i := 0; i < 3; i++ {
					d, ok := w.nextByte()
					if !ok {
						return false
					}
					c = c<<3 | (d - '0')
				}
			}
			if m.length == uintptr(len(m.point))-1 {
				w.errno = enametoo
				return false
			}
			m.point[m.length] = c
			m.length++
		case field == fieldOptions:
			option = option<<8 | uint64(c) // the last eight letters
		}
	}
}

// mountOption is the flag of an option, by its last eight letters.
//
//go:norace
//go:nocheckptr
func mountOption(last uint64) uintptr {
	switch last {
	case 'r'<<8 | 'o':
		return msReadOnly
	case 'n'<<40 | 'o'<<32 | 's'<<24 | 'u'<<16 | 'i'<<8 | 'd':
		return msNoSuid
	case 'n'<<32 | 'o'<<24 | 'd'<<16 | 'e'<<8 | 'v':
		return msNoDev
	case 'n'<<40 | 'o'<<32 | 'e'<<24 | 'x'<<16 | 'e'<<8 | 'c':
		return msNoExec
	case 'y'<<56 | 'm'<<48 | 'f'<<40 | 'o'<<32 | 'l'<<24 | 'l'<<16 | 'o'<<8 | 'w': // nosymfollow
		return msNoSymlinks
	}
	return 0
}

// nextByte is the next one of mountinfo.
//
//go:norace
//go:nocheckptr
func (w *world) nextByte() (byte, bool) {
	m := &w.mounts
	if m.at == m.n {
		n, errno := call(syscall.SYS_READ, m.file, uintptr(unsafe.Pointer(&m.read)), uintptr(len(m.read)), 0, 0, 0)
		for errno == eintr {
			n, errno = call(syscall.SYS_READ, m.file, uintptr(unsafe.Pointer(&m.read)), uintptr(len(m.read)), 0, 0, 0)
		}
		if w.errno = errno; errno != 0 || n == 0 {
			return 0, false
		}
		m.n, m.at = n, 0
	}
	c := m.read[m.at]
	m.at++
	return c, true
}
