//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// stepIn makes an init whose namespaces are not all new: a child of the launcher
// joins what exists and sets the clocks of a time namespace, which both hold for its
// children alone or cannot be undone, clones init as its sibling, and ends. It shares
// the launcher's descriptors, so those that it opens and init's pidfd are there, and
// no memory: setns(2) to a time namespace wants an address space of its own.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func (w *world) stepIn(plan, size uintptr, flags uint64, group uint32) (pid uintptr, phase, step uint32, errno uintptr) {
	if _, errno := call(syscall.SYS_SOCKETPAIR, 1, 5|syscall.O_CLOEXEC, 0, w.base()+unsafe.Offsetof(w.pair), 0, 0); errno != 0 {
		return 0, PhaseClone, 3, errno
	}
	w.clone = cloneArgs{
		flags:      cloneFiles | cloneClearSighand | clonePidfd,
		pidfd:      uint64(w.base() + unsafe.Offsetof(w.pidfd)),
		exitSignal: sigChld,
	}
	child, errno := call(sysClone3, w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), 0, 0, 0, 0)
	if errno != 0 {
		return 0, PhaseClone, 6, errno
	}
	if child == 0 {
		w.stepOver(plan, size, flags, group)
	}
	w.awaitStep(child)
	call(syscall.SYS_CLOSE, uintptr(w.pair[1]), 0, 0, 0, 0, 0)
	// What it had to say was said before its end.
	const dontWait = 0x40
	n, errno := call(syscall.SYS_RECVFROM, uintptr(w.pair[0]), w.base()+unsafe.Offsetof(w.answer), AnswerSize, dontWait, 0, 0)
	if errno != 0 || n != AnswerSize {
		return 0, PhaseStepIn, 0, echild // killed; an init that it had made ends with its channel
	}
	if w.answer.Errno != 0 {
		return 0, w.answer.Phase, w.answer.Step, uintptr(w.answer.Errno)
	}
	w.pidfd = int32(w.answer.Status)
	return uintptr(w.answer.PID), 0, 0, 0
}

// stepSeconds is how long the launcher waits for the child, who takes less than a
// thousandth of that: in a joined PID namespace somebody may stop its own child.
const stepSeconds = 5

// awaitStep waits for the end of the child.
//
//go:norace
//go:nocheckptr
func (w *world) awaitStep(child uintptr) {
	w.poll[0] = pollfd{fd: w.pidfd, events: pollIn}
	w.time[0], w.time[1] = stepSeconds, 0
	n, errno := call(syscall.SYS_PPOLL, w.base()+unsafe.Offsetof(w.poll), 1, w.base()+unsafe.Offsetof(w.time), 0, 8, 0)
	for errno == eintr { // the kernel has taken off what has passed
		n, errno = call(syscall.SYS_PPOLL, w.base()+unsafe.Offsetof(w.poll), 1, w.base()+unsafe.Offsetof(w.time), 0, 8, 0)
	}
	if n != 1 || errno != 0 {
		call(syscall.SYS_KILL, child, sigKill, 0, 0, 0, 0)
	}
	for {
		_, errno := call(syscall.SYS_WAIT4, child, w.base()+unsafe.Offsetof(w.status), wAll, 0, 0, 0)
		if errno != eintr {
			break
		}
	}
}

// dieWith has the process end with its parent.
//
//go:norace
//go:nocheckptr
func dieWith() {
	const setDeathSignal = 1
	call(syscall.SYS_PRCTL, setDeathSignal, sigKill, 0, 0, 0, 0)
}

// stepOver is the child's life.
//
//go:norace
//go:nocheckptr
func (w *world) stepOver(plan, size uintptr, flags uint64, group uint32) {
	called(nameStepIn)
	dieWith()
	channel := uintptr(w.pair[1])
	ok := w.run(plan, size)
	if w.traced != 0 {
		// What the launcher has of this plan has no times.
		call(syscall.SYS_PWRITE64, w.traceFile, plan, size, plan-w.traced, 0, 0)
		w.traced = 0
	}
	if !ok {
		w.say(channel, AnsSpawned, 0, PhaseStepIn, uint32(w.step), uint32(w.errno))
		exit(1)
	}
	// With CLONE_PARENT the signal at its end is this process's own, SIGCHLD.
	w.clone = cloneArgs{
		flags: flags | clonePidfd | cloneClearSighand | cloneParent,
		pidfd: uint64(w.base() + unsafe.Offsetof(w.pidfd)),
	}
	if group != 0 {
		w.clone.flags |= cloneIntoCgroup
		w.clone.cgroup = uint64(group)
	}
	pid, errno := call(sysClone3, w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), 0, 0, 0, 0)
	if errno != 0 {
		w.say(channel, AnsSpawned, 0, PhaseClone, 5, uint32(errno))
		exit(1)
	}
	if pid == 0 {
		w.begin()
	}
	w.answer = Answer{Op: AnsSpawned, PID: uint32(pid), Status: uint32(w.pidfd)}
	w.send(channel, -1)
	exit(0)
}

// inside has a child do steps of a plan: setns(2) to a PID namespace holds for
// children alone, and a /proc is of the namespace of who mounts it. The child shares
// memory and descriptors, and is gone when the next step begins.
//
//go:norace
//go:nocheckptr
func (w *world) inside(plan, from, count, data, ndata uintptr) bool {
	w.plan, w.inFrom, w.inCount, w.inData, w.inSize = plan, from, count, data, ndata
	w.jobErr = echild // until it has done all
	w.clone = cloneArgs{
		flags:      cloneVM | cloneVfork | cloneFiles,
		exitSignal: sigChld,
		stack:      uint64(w.base() + unsafe.Offsetof(w.vstack)),
		stackSize:  stackSize,
	}
	r := int64(cloneCall(w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(within), w.base(), w.base()))
	if r < 0 {
		w.errno = uintptr(-r)
		return false
	}
	for {
		// Its end, not only that of its memory's use: who shares memory may not enter a
		// time namespace.
		_, errno := call(syscall.SYS_WAIT4, uintptr(r), w.base()+unsafe.Offsetof(w.status), wAll, 0, 0, 0)
		if errno != eintr {
			break
		}
	}
	w.errno = uintptr(w.jobErr)
	return w.errno == 0
}

// within is the life of that child.
//
//go:norace
//go:nocheckptr
func within(w *world) {
	dieWith()
	for i := w.inFrom; i < w.inFrom+w.inCount; i++ {
		w.step = i + 1
		if w.times != 0 && load8(w.plan+planHeader+planStep*i+14) != 0 {
			store64(w.times+8*i, uint64(w.now()))
		}
		if !w.one(w.plan+planHeader+planStep*i, w.inData, w.inSize) {
			w.jobErr = uint32(w.errno)
			exit(1)
		}
	}
	w.jobErr = 0
	exit(0)
}
