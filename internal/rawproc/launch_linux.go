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

// worldSize is the mapping that a world lies in.
const worldSize = (unsafe.Sizeof(world{}) + 4095) &^ 4095

const (
	// behindProgram is farther than a C library's heap begins behind the variables of
	// an ordinary program: 32 MiB at the most, and the Go runtime's variables are as much.
	behindProgram = 96 << 20
	tableSpan     = 2 << 20 // what one page table maps, with pages of 4 KiB
)

// Of what kinds the program's memory is that the raw code needs, beside its code:
// one variable each, to look that they are still there.
var (
	inData = uintptr(1)
	inBSS  uintptr
)

// Launch forks the calling process once and lets the fork serve as launcher on
// descriptor 3, a SOCK_SEQPACKET socket. The fork is the child of the caller's
// parent (CLONE_PARENT): the caller, a Go process, is needed no longer and
// should exit. user asks for a user namespace of its own. The fork unmaps all that
// it does not need, unless whole is set, or where it cannot.
//
// The caller must be locked to its thread. It returns the fork's process id.
func Launch(user, whole bool) (int, error) {
	const readWrite, privateAnon = 3, 0x22
	// Near the program's variables, where it shares page tables with them. The kernel
	// takes another place where that is not free.
	near := uintptr(0)
	if !whole {
		near = (uintptr(unsafe.Pointer(&inBSS)) + behindProgram) &^ (tableSpan - 1)
	}
	base, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, near, worldSize, readWrite, privateAnon, ^uintptr(0), 0)
	if errno != 0 {
		return 0, errno
	}
	w := (*world)(at(base))
	for i := range w.tls {
		w.tls[i] = base
	}
	w.user = user
	if !whole {
		w.room = base + worldSize
	}
	w.program.needs = [3]uintptr{entry(serve), uintptr(unsafe.Pointer(&inData)), uintptr(unsafe.Pointer(&inBSS))}
	// The fork has no Go runtime to handle a signal.
	w.mask = ^uint64(0)
	if _, _, errno = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, base+unsafe.Offsetof(w.mask), 0, 8, 0, 0); errno != 0 {
		return 0, errno
	}
	const eagain = -int64(syscall.EAGAIN)
	r := eagain
	if !whole {
		r = w.launchApart()
	}
	if r == eagain { // there may be no room for a thread
		w.prepareClone()
		r = int64(cloneCall(base+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(serve), base, base))
	}
	if r < 0 {
		return 0, syscall.Errno(-r)
	}
	return int(r), nil
}

// launchApart has the launcher cloned by a thread, and waits for that: CLONE_VFORK.
//
//go:norace
//go:nocheckptr
func (w *world) launchApart() int64 {
	w.clone = cloneArgs{
		flags:     cloneVM | cloneFS | cloneFiles | cloneSighand | cloneThread | cloneSysvsem | cloneSetTLS | cloneVfork,
		stack:     uint64(w.base() + unsafe.Offsetof(w.vstack)),
		stackSize: stackSize,
		tls:       w.threadPointer(),
	}
	if r := int64(cloneCall(w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(apart), w.base(), w.base())); r < 0 {
		return -int64(syscall.EAGAIN) // whatever it was: then without
	}
	return w.forked
}

// prepareClone says how the launcher is cloned.
//
//go:norace
//go:nocheckptr
func (w *world) prepareClone() {
	w.clone = cloneArgs{
		flags:     cloneParent | cloneClearSighand | cloneSetTLS | cloneNewNS,
		stack:     uint64(w.base() + unsafe.Offsetof(w.stack)),
		stackSize: stackSize,
		tls:       w.threadPointer(),
	}
	if w.user {
		w.clone.flags |= cloneNewUser
	}
}

// threadPointer is the middle of w.tls.
//
//go:norace
//go:nocheckptr
func (w *world) threadPointer() uint64 {
	return uint64(w.base() + unsafe.Offsetof(w.tls) + unsafe.Sizeof(w.tls)/2)
}
