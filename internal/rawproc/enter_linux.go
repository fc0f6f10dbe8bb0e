//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// Enter executes a program in a user namespace that exists, with all rights there, and
// in a network namespace of its own that belongs to it. That takes a process with one
// thread, which a Go program is not: so a fork does it. The program keeps descriptors
// that are not closed on exec, and is killed when the calling thread ends.
//
// It returns the process id once the program has begun or could not: then the child's
// exit status is the errno. The caller waits for it.
func Enter(userns int, path string, argv, env []string) (int, error) {
	const readWrite, privateAnon = 3, 0x22
	base, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, 0, worldSize, readWrite, privateAnon, ^uintptr(0), 0)
	if errno != 0 {
		return 0, errno
	}
	w := (*world)(at(base))
	for i := range w.tls {
		w.tls[i] = base
	}
	// Into memory that the fork has and nobody moves: the strings, and their addresses.
	free := uintptr(0)
	list := func(texts []string) uintptr {
		first := free
		free += uintptr(len(texts)+1) * 8
		for i, text := range texts {
			if free+uintptr(len(text))+8 > bufferSize {
				errno = syscall.E2BIG
				return 0
			}
			store64(base+unsafe.Offsetof(w.buffer)+first+uintptr(i)*8, uint64(base+unsafe.Offsetof(w.buffer)+free))
			copy(w.buffer[free:], text)
			free += (uintptr(len(text)) + 8) &^ 7 // a NUL at the least
		}
		return base + unsafe.Offsetof(w.buffer) + first
	}
	w.enter = [4]uintptr{uintptr(userns), list([]string{path}), list(argv), list(env)}
	if errno == 0 {
		w.enter[1] = uintptr(load64(w.enter[1]))
		userns, errno = w.cloneEntered(base)
	}
	_, _, unmap := syscall.RawSyscall(syscall.SYS_MUNMAP, base, worldSize, 0)
	if errno != 0 {
		return 0, errno
	}
	if unmap != 0 {
		return 0, unmap
	}
	return userns, nil
}

// cloneEntered clones with no signal on its way: the fork has no Go runtime to handle one.
//
//go:norace
//go:nocheckptr
func (w *world) cloneEntered(base uintptr) (int, syscall.Errno) {
	w.clone = cloneArgs{
		flags:      cloneClearSighand | cloneSetTLS | cloneVfork,
		exitSignal: sigChld,
		stack:      uint64(base + unsafe.Offsetof(w.stack)),
		stackSize:  stackSize,
		tls:        w.threadPointer(),
	}
	w.mask = ^uint64(0)
	const setMask = 2
	if _, errno := call(syscall.SYS_RT_SIGPROCMASK, setMask, base+unsafe.Offsetof(w.mask), base+unsafe.Offsetof(w.saved), 8, 0, 0); errno != 0 {
		return 0, syscall.Errno(errno)
	}
	r := int64(cloneCall(base+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(entered), base, base))
	call(syscall.SYS_RT_SIGPROCMASK, setMask, base+unsafe.Offsetof(w.saved), 0, 8, 0, 0)
	if r < 0 {
		return 0, syscall.Errno(-r)
	}
	return int(r), 0
}

// entered is the fork's life up to execve.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func entered(w *world) {
	dieWith()
	_, errno := call(sysSetns, w.enter[0], cloneNewUser, 0, 0, 0, 0)
	if errno == 0 {
		_, errno = call(syscall.SYS_UNSHARE, cloneNewNet, 0, 0, 0, 0, 0)
	}
	if errno == 0 {
		// Its change of rights took the signal away where the namespace is not a child's.
		dieWith()
		w.mask = 0
		const setMask = 2
		call(syscall.SYS_RT_SIGPROCMASK, setMask, w.base()+unsafe.Offsetof(w.mask), 0, 8, 0, 0)
		_, errno = call(syscall.SYS_EXECVE, w.enter[1], w.enter[2], w.enter[3], 0, 0, 0)
	}
	exit(errno)
}
