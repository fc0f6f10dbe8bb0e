//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// Supported tells whether this package has code for the architecture.
const Supported = true

// cloneCall is clone3(2) whose child calls fn(arg) on its own stack.
//
//go:noescape
func cloneCall(args, size, fn, arg, gp uintptr) (r uintptr)

// entry is the address of a function's code.
//
//go:norace
//go:nocheckptr
func entry(f func(*world)) uintptr {
	return **(**uintptr)(unsafe.Pointer(&f))
}

// Launch forks the calling process once and lets the fork serve as launcher on
// descriptor 3, a SOCK_SEQPACKET socket. The fork is the child of the caller's
// parent (CLONE_PARENT): the caller, a Go process, is needed no longer and
// should exit. user asks for a user namespace of its own.
//
// The caller must be locked to its thread. It returns the fork's process id.
func Launch(user bool) (int, error) {
	size := (unsafe.Sizeof(world{}) + 4095) &^ 4095
	const readWrite, privateAnon = 3, 0x22
	base, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, 0, size, readWrite, privateAnon, ^uintptr(0), 0)
	if errno != 0 {
		return 0, errno
	}
	w := (*world)(at(base))
	for i := range w.tls {
		w.tls[i] = base
	}
	w.user = user
	// The fork has no Go runtime to handle a signal.
	w.mask = ^uint64(0)
	if _, _, errno = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, base+unsafe.Offsetof(w.mask), 0, 8, 0, 0); errno != 0 {
		return 0, errno
	}
	flags := uint64(cloneParent | cloneClearSighand | cloneSetTLS | cloneNewNS)
	if user {
		flags |= cloneNewUser
	}
	w.clone = cloneArgs{
		flags:     flags,
		stack:     uint64(base + unsafe.Offsetof(w.stack)),
		stackSize: stackSize,
		tls:       uint64(base + unsafe.Offsetof(w.tls) + unsafe.Sizeof(w.tls)/2),
	}
	r := int64(cloneCall(base+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(serve), base, base))
	if r < 0 {
		return 0, syscall.Errno(-r)
	}
	return int(r), nil
}
