//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

const (
	ebusy     = 16
	removeDir = 0x200
	dtDir     = 4
)

// removeGroups removes a control group's folder and all below it: name in the
// folder parent. What the kernel has not let go yet, since its last process has
// only just ended, is tried again for two seconds: not so where a process hangs.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func (w *world) removeGroups(parent, name uintptr) bool {
	top, errno := call(syscall.SYS_OPENAT, ^uintptr(99), parent, 0x200000|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		w.errno = errno
		return errno == enoent
	}
	done, tries := false, 2000
	if w.hung {
		tries = 20 // long enough has been waited for already
	}
	for try := 0; try < tries; try++ {
		done, errno = w.removeDeepest(top, name)
		if done || errno != 0 && errno != ebusy {
			break
		}
		if errno == ebusy {
			w.time[0], w.time[1] = 0, 1e6
			call(syscall.SYS_PPOLL, 0, 0, w.base()+unsafe.Offsetof(w.time), 0, 8, 0)
		} else {
			try--
		}
	}
	call(syscall.SYS_CLOSE, top, 0, 0, 0, 0, 0)
	w.errno = errno
	return done
}

// removeDeepest goes down to a folder that has none in it, and removes that;
// done: it was the first.
//
//go:norace
//go:nocheckptr
func (w *world) removeDeepest(top, name uintptr) (done bool, errno uintptr) {
	at, first := top, true
	fd, errno := call(syscall.SYS_OPENAT, top, name, syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return errno == enoent, errno
	}
	for errno == 0 && w.firstFolder(fd) {
		if !first {
			call(syscall.SYS_CLOSE, at, 0, 0, 0, 0, 0)
		}
		at, first, name = fd, false, w.base()+unsafe.Offsetof(w.sweep)
		fd, errno = call(syscall.SYS_OPENAT, at, name, syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0, 0, 0)
	}
	if errno == 0 {
		call(syscall.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
		_, errno = call(syscall.SYS_UNLINKAT, at, name, removeDir, 0, 0, 0)
	}
	if errno == enoent {
		errno = 0 // somebody was quicker
	}
	if !first {
		call(syscall.SYS_CLOSE, at, 0, 0, 0, 0, 0)
	}
	return first && errno == 0, errno
}

// firstFolder copies the name of the first folder in a folder to w.sweep.
//
//go:norace
//go:nocheckptr
func (w *world) firstFolder(fd uintptr) bool {
	size := unsafe.Sizeof(w.listing)
	for {
		n, errno := call(syscall.SYS_GETDENTS64, fd, w.base()+unsafe.Offsetof(w.listing), size, 0, 0, 0)
		if errno != 0 || n == 0 {
			return false
		}
		// struct linux_dirent64: length at 16, type at 18, name at 19.
		for d := w.base() + unsafe.Offsetof(w.listing); d < w.base()+unsafe.Offsetof(w.listing)+n; d += uintptr(load16(d + 16)) {
			if load8(d+18) != dtDir || load8(d+19) == '.' && (load8(d+20) == 0 || load8(d+20) == '.' && load8(d+21) == 0) {
				continue
			}
			for i := uintptr(0); i < uintptr(len(w.sweep)); i++ {
				w.sweep[i] = load8(d + 19 + i)
				if w.sweep[i] == 0 {
					return true
				}
			}
			return false
		}
	}
}
