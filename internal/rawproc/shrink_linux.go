//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// Every fork of the launcher, an init above all, gets its own page tables for what
// was written to, and the launcher is a copy of a Go process: heap, stacks and
// tables of the runtime, of a C library, of the race detector. The raw code needs
// none of them. So the launcher unmaps all but the program's own segments, which
// hold the code, its constants and the counters of -cover, and its world.
//
// Nothing may refer to what goes. Signals are blocked and have no handlers; the
// thread pointer is the world's; the thread that cloned the launcher had no area of
// rseq(2), no list of robust futexes and no stack for signals: see apart.

// apart is a thread of the calling process that clones the launcher and ends. A
// thread of a C library has an area for rseq(2), which its forks inherit, and the
// kernel ends a process by SIGSEGV that has unmapped it. A new thread has none.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func apart(w *world) {
	w.prepareClone()
	w.forked = int64(cloneCall(w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(begun), w.base(), w.base()))
	for {
		call(syscall.SYS_EXIT, 0, 0, 0, 0, 0, 0) // the thread alone
	}
}

// begun is the launcher's life where it gets rid of the Go runtime's memory.
//
//go:norace
//go:nocheckptr
func begun(w *world) {
	w.shrink()
	serve(w)
}

// mapping is a line of /proc/PID/maps, while it is read.
type mapping struct {
	field        uintptr // which one the next byte belongs to
	value        uintptr
	start, end   uintptr
	major, minor uintptr
	inode        uintptr // 0: of no file
}

// Fields of such a line, proc_pid_maps(5).
const (
	fieldStart = iota
	fieldEnd
	fieldPerms
	fieldOffset
	fieldMajor
	fieldMinor
	fieldInode
	fieldPath
)

// What is done with the mappings.
const (
	passFind  = iota // find the program's file
	passCheck        // look that what is kept is all that the raw code needs
	passUnmap
)

// program is what is known of the program's segments. They are the mappings of its
// file and what lies right behind one of them: memory that begins as zeros.
type program struct {
	major, minor, inode uintptr
	end                 uintptr // of the last segment so far
	has                 uintptr // how many of the needed addresses are in there
	needs               [3]uintptr
}

// shrink unmaps what the launcher does not need. It is done whole or not begun; a
// mapping that the kernel does not give up stays.
//
//go:norace
//go:nocheckptr
func (w *world) shrink() {
	const path = "/proc/self/maps\x00"
	fd, errno := call(syscall.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(unsafe.StringData(path))), syscall.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return
	}
	if w.mappings(fd, passFind) && w.program.inode != 0 && w.mappings(fd, passCheck) && w.program.has == uintptr(len(w.program.needs)) {
		w.mappings(fd, passUnmap)
	}
	call(syscall.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
}

// mappings goes through /proc/self/maps; false: it could not be read. The kernel
// goes on behind the last line, whatever is unmapped meanwhile.
//
//go:norace
//go:nocheckptr
func (w *world) mappings(fd, pass uintptr) bool {
	if _, errno := call(syscall.SYS_LSEEK, fd, 0, 0, 0, 0, 0); errno != 0 {
		return false
	}
	w.program.end, w.program.has = 0, 0
	m := &w.mapping
	*m = mapping{}
	text := w.base() + unsafe.Offsetof(w.buffer)
	for {
		n, errno := call(syscall.SYS_READ, fd, text, bufferSize, 0, 0, 0)
		if errno != 0 || n > bufferSize {
			return false
		}
		if n == 0 {
			return true
		}
		for i := uintptr(0); i < n; i++ {
			c := load8(text + i)
			if c == '\n' {
				w.consider(pass)
				*m = mapping{}
				continue
			}
			m.add(c)
		}
	}
}

// add takes the line's next byte.
//
//go:norace
//go:nocheckptr
func (m *mapping) add(c byte) {
	digit := ^uintptr(0)
	if c >= '0' && c <= '9' {
		digit = uintptr(c - '0')
	} else if c >= 'a' && c <= 'f' {
		digit = uintptr(c-'a') + 10
	}
	switch {
	case m.field == fieldPath || m.field == fieldPerms && c != ' ':
	case digit < 16 && m.field == fieldInode:
		m.value = m.value*10 + digit
	case digit < 16:
		m.value = m.value<<4 + digit
	default: // a separator: '-', ':' or ' '
		switch m.field {
		case fieldStart:
			m.start = m.value
		case fieldEnd:
			m.end = m.value
		case fieldMajor:
			m.major = m.value
		case fieldMinor:
			m.minor = m.value
		case fieldInode:
			m.inode = m.value
		}
		m.value = 0
		m.field++
	}
}

// consider does with a mapping what the pass is for.
//
//go:norace
//go:nocheckptr
func (w *world) consider(pass uintptr) {
	m, p := &w.mapping, &w.program
	if pass == passFind {
		if m.start <= p.needs[0] && p.needs[0] < m.end {
			p.major, p.minor, p.inode = m.major, m.minor, m.inode
		}
		return
	}
	if m.inode == p.inode && m.major == p.major && m.minor == p.minor || m.inode == 0 && m.start == p.end {
		p.end = m.end
		for i := uintptr(0); i < uintptr(len(p.needs)); i++ {
			if m.start <= p.needs[i%3] && p.needs[i%3] < m.end {
				p.has++
			}
		}
		if pass == passUnmap && m.inode == 0 {
			// What began as zeros is zeros again: the raw code has no variable but the
			// counters of -cover, and the runtime's are spread over many page tables.
			const readWrite, privateAnonFixed = 3, 0x32
			call(syscall.SYS_MMAP, m.start, m.end-m.start, readWrite, privateAnonFixed, ^uintptr(0), 0)
		}
		return
	}
	if pass != passUnmap {
		return
	}
	// The kernel may have made one mapping of the world and its neighbours.
	from, to := w.base(), w.base()+worldSize
	if m.end <= from || m.start >= to {
		call(syscall.SYS_MUNMAP, m.start, m.end-m.start, 0, 0, 0, 0)
		return
	}
	if m.start < from {
		call(syscall.SYS_MUNMAP, m.start, from-m.start, 0, 0, 0, 0)
	}
	if m.end > to {
		call(syscall.SYS_MUNMAP, to, m.end-to, 0, 0, 0, 0)
	}
}
