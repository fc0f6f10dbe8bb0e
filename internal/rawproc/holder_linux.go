//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// A mount shows files with other owners by the map of a user namespace,
// mount_setattr(2): the map of the owner of one folder to the one who may write to
// it is no container's own, so a process holds a namespace of that map until the
// mount has it.

// namespace does a plan's step on the holder: clones it, with a descriptor of its
// /proc/PID as the result, or ends it.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func (w *world) namespace(nr int32, dst int16) bool {
	w.release()
	if nr == numberRelease {
		return true
	}
	self, _ := call(syscall.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	w.clone = cloneArgs{flags: cloneNewUser | cloneClearSighand, exitSignal: sigChld}
	pid, errno := call(sysClone3, w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), 0, 0, 0, 0)
	if errno != 0 {
		w.errno = errno
		return false
	}
	if pid == 0 {
		w.stay(self)
	}
	w.holder = pid
	w.procPath(pid)
	fd, errno := call(syscall.SYS_OPENAT, ^uintptr(99), w.base()+unsafe.Offsetof(w.path), syscall.O_DIRECTORY|0x200000|syscall.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		w.errno = errno
		return false
	}
	if dst >= 0 {
		w.reg[dst] = int64(fd)
	}
	return true
}

// stay is the holder's life.
//
//go:norace
//go:nocheckptr
func (w *world) stay(launcher uintptr) {
	call(syscall.SYS_PRCTL, 1, sigKill, 0, 0, 0, 0) // PR_SET_PDEATHSIG
	if parent, _ := call(syscall.SYS_GETPPID, 0, 0, 0, 0, 0, 0); parent != launcher {
		exit(0) // the launcher died before that
	}
	for {
		call(syscall.SYS_PPOLL, 0, 0, 0, 0, 8, 0)
	}
}

// release ends the holder, if there is one.
//
//go:norace
//go:nocheckptr
func (w *world) release() {
	if w.holder == 0 {
		return
	}
	call(syscall.SYS_KILL, w.holder, sigKill, 0, 0, 0, 0)
	for {
		_, errno := call(syscall.SYS_WAIT4, w.holder, w.base()+unsafe.Offsetof(w.status), wAll, 0, 0, 0)
		if errno != eintr {
			break
		}
	}
	w.holder = 0
}
