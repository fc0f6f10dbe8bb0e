//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

const (
	sysClone3     = 435
	sysCloseRange = 436
	sysOpenat2    = 437

	sysOpenTree     = 428
	sysMountSetattr = 442

	cloneVM           = 0x100
	cloneFS           = 0x200
	cloneFiles        = 0x400
	cloneSighand      = 0x800
	clonePidfd        = 0x1000
	cloneVfork        = 0x4000
	cloneParent       = 0x8000
	cloneThread       = 0x10000
	cloneNewNS        = 0x20000
	cloneSysvsem      = 0x40000
	cloneSetTLS       = 0x80000
	cloneNewUser      = 0x10000000
	cloneNewNet       = 0x40000000
	cloneClearSighand = 0x100000000
	cloneIntoCgroup   = 0x200000000

	sigKill = 9
	sigChld = 17

	pollIn = 1

	wNoHang = 1
	wAll    = 0x40000000
)

// serve is the launcher: a process of one thread that takes requests, clones
// inits and reaps them, until the host is gone.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func serve(w *world) {
	// Nothing but the control socket may live on: the Go runtime had an epoll
	// and an eventfd, and the host's parent may have leaked more.
	call(sysCloseRange, ControlFD+1, 0xffffffff, 0, 0, 0, 0)
	called(nameLauncher)
	w.plain()
	w.mask = 1 << (sigChld - 1)
	fd, errno := call(syscall.SYS_SIGNALFD4, ^uintptr(0), w.base()+unsafe.Offsetof(w.mask), 8, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0, 0)
	if errno != 0 || fd != signalFD {
		w.say(ControlFD, AnsReady, 0, PhasePrepare, 1, uint32(errno))
		exit(1)
	}
	// Hold the numbers below FirstTransient, so that what a request brings lies
	// above and is closed by one call.
	for i := uintptr(FirstHeld); i < FirstTransient; i++ {
		call(syscall.SYS_DUP3, 0, i, syscall.O_CLOEXEC, 0, 0, 0)
	}
	if w.user && !w.ownNamespace() {
		exit(1)
	}
	// Mounts that appear on the host appear here, and an unmount there is not
	// held up: a slave, not private. "/" and a NUL.
	w.path[0], w.path[1] = '/', 0
	const msRec, msSlave = 0x4000, 1 << 19
	if _, errno = call(syscall.SYS_MOUNT, 0, w.base()+unsafe.Offsetof(w.path), 0, msRec|msSlave, 0, 0); errno != 0 {
		w.say(ControlFD, AnsReady, 0, PhasePrepare, 4, uint32(errno))
		exit(1)
	}
	w.answer = Answer{Op: AnsReady}
	pid, _ := call(syscall.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	w.answer.PID = uint32(pid)
	if !w.send(ControlFD, -1) {
		exit(1)
	}
	for {
		w.poll[0] = pollfd{fd: ControlFD, events: pollIn}
		w.poll[1] = pollfd{fd: signalFD, events: pollIn}
		timeout := uintptr(0)
		if w.spare.pid != 0 {
			w.time[0], w.time[1] = spareSeconds, 0
			timeout = w.base() + unsafe.Offsetof(w.time)
		} else if w.spare.asked >= 2 {
			w.time[0], w.time[1] = 0, w.spare.after
			timeout = w.base() + unsafe.Offsetof(w.time)
		}
		n, errno := call(syscall.SYS_PPOLL, w.base()+unsafe.Offsetof(w.poll), 2, timeout, 0, 8, 0)
		if errno != 0 && errno != eintr {
			w.leave()
		}
		if n == 0 && errno == 0 && w.spare.pid != 0 {
			w.dropSpare() // nobody has come for it
			w.spare.asked = 0
		} else if n == 0 && errno == 0 {
			w.prepareSpare()
		}
		control, signal := w.poll[0].revents, w.poll[1].revents
		if signal != 0 {
			call(syscall.SYS_READ, signalFD, w.base()+unsafe.Offsetof(w.info), unsafe.Sizeof(w.info), 0, 0, 0)
			w.reap()
		}
		if control != 0 && !w.serveOne() {
			w.leave()
		}
	}
}

const (
	// spareSeconds is how long a spare init waits in a program that starts nothing.
	spareSeconds = 10
	// spareAfter is how many nanoseconds without a request pass before one is made:
	// until then the init that was asked for last makes its mounts, and the kernel
	// has one lock for both.
	spareAfter = 7e5
	// spareLinks is the same where links are made for it meanwhile: these and a new
	// network namespace want one lock too.
	spareLinks = 2e6
)

// prepareSpare clones an init ahead, while nobody waits: making a network
// namespace is the longest part of a start. A program that has started one
// container alone gets none.
//
//go:norace
//go:nocheckptr
func (w *world) prepareSpare() {
	if w.spare.pid != 0 || w.spare.asked < 2 {
		return
	}
	w.sock = 0 // comes with the word to begin
	pid, errno := w.cloneInit(w.spare.want, w.spare.wantGroup)
	if errno != 0 {
		w.spare.asked = 0 // not again before somebody else was served
		return
	}
	call(syscall.SYS_DUP3, uintptr(w.pair[0]), spareChannel, syscall.O_CLOEXEC, 0, 0, 0)
	call(syscall.SYS_DUP3, uintptr(w.pidfd), sparePidfd, syscall.O_CLOEXEC, 0, 0, 0)
	call(sysCloseRange, FirstTransient, 0xffffffff, 0, 0, 0, 0)
	w.spare.pid, w.spare.flags, w.spare.group = pid, w.spare.want, w.spare.wantGroup
}

// releaseSpare forgets the spare; what was its own numbers' is held again.
//
//go:norace
//go:nocheckptr
func (w *world) releaseSpare() {
	w.spare.pid = 0
	call(syscall.SYS_DUP3, 0, spareChannel, syscall.O_CLOEXEC, 0, 0, 0)
	call(syscall.SYS_DUP3, 0, sparePidfd, syscall.O_CLOEXEC, 0, 0, 0)
}

// dropSpare ends the spare.
//
//go:norace
//go:nocheckptr
func (w *world) dropSpare() {
	if pid := w.spare.pid; pid != 0 {
		w.releaseSpare()
		w.discard(pid)
	}
}

// cloneInit clones an init, which then waits at its end of w.pair; w.pidfd is
// its own.
//
//go:norace
//go:nocheckptr
func (w *world) cloneInit(flags uint64, group uint32) (uintptr, uintptr) {
	if _, errno := call(syscall.SYS_SOCKETPAIR, 1, 5|syscall.O_CLOEXEC, 0, w.base()+unsafe.Offsetof(w.pair), 0, 0); errno != 0 {
		return 0, errno
	}
	w.clone = cloneArgs{
		flags:      flags | clonePidfd | cloneClearSighand,
		pidfd:      uint64(w.base() + unsafe.Offsetof(w.pidfd)),
		exitSignal: sigChld,
	}
	if group != 0 {
		w.clone.flags |= cloneIntoCgroup
		w.clone.cgroup = uint64(group)
	}
	pid, errno := call(sysClone3, w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), 0, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	if pid == 0 {
		w.begin()
	}
	call(syscall.SYS_CLOSE, uintptr(w.pair[1]), 0, 0, 0, 0, 0)
	return pid, 0
}

// plain leaves behind what a process inherits from the host program and a job
// must not: signals that are ignored (CLONE_CLEAR_SIGHAND resets handlers
// alone), a priority above the ordinary, an I/O priority, a personality.
//
//go:norace
//go:nocheckptr
func (w *world) plain() {
	w.action = [4]uint64{} // SIG_DFL
	for sig := uintptr(1); sig <= 64; sig++ {
		// SIGKILL and SIGSTOP answer EINVAL: nothing can be set there.
		call(syscall.SYS_RT_SIGACTION, sig, w.base()+unsafe.Offsetof(w.action), 0, 8, 0, 0)
	}
	// The system call answers 20 less the nice value.
	if r, errno := call(syscall.SYS_GETPRIORITY, 0, 0, 0, 0, 0, 0); errno == 0 && r > 20 {
		call(syscall.SYS_SETPRIORITY, 0, 0, 0, 0, 0, 0) // lowering it is always allowed
	}
	const whoProcess = 1
	call(syscall.SYS_IOPRIO_SET, whoProcess, 0, 0, 0, 0, 0) // so is the ordinary class
	call(syscall.SYS_PERSONALITY, 0, 0, 0, 0, 0, 0)
}

// ownNamespace waits until the host has written the launcher's id maps, and
// becomes root of its user namespace.
//
//go:norace
//go:nocheckptr
func (w *world) ownNamespace() bool {
	pid, _ := call(syscall.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	w.answer = Answer{Op: AnsMaps, PID: uint32(pid)}
	if !w.send(ControlFD, -1) {
		return false
	}
	_, mapped, ok := w.receive(ControlFD)
	if !ok || mapped != 0 || w.head.Op != OpGo {
		return false
	}
	if _, errno := call(syscall.SYS_SETRESGID, 0, 0, 0, 0, 0, 0); errno != 0 {
		return w.say(ControlFD, AnsReady, 0, PhasePrepare, 2, uint32(errno)) && false
	}
	if _, errno := call(syscall.SYS_SETRESUID, 0, 0, 0, 0, 0, 0); errno != 0 {
		return w.say(ControlFD, AnsReady, 0, PhasePrepare, 3, uint32(errno)) && false
	}
	return true
}

// serveOne takes one request; false means that the host is gone.
//
//go:norace
//go:nocheckptr
func (w *world) serveOne() bool {
	plans, mapped, ok := w.receive(ControlFD)
	if !ok {
		return false
	}
	switch w.head.Op {
	case OpSpawn:
		w.spawn(plans)
	case OpHold:
		w.hold(plans)
	}
	w.release()
	w.unmap(mapped)
	// The request's descriptors and what its plans opened.
	call(sysCloseRange, FirstTransient, 0xffffffff, 0, 0, 0, 0)
	return true
}

// hold keeps the request's descriptors, locks, for the launcher's life, at the
// numbers from Register on, and its plan for the launcher's end.
//
//go:norace
//go:nocheckptr
func (w *world) hold(plans uintptr) {
	errno := uintptr(einval)
	at := uintptr(w.head.Register)
	if w.nheld < MaxHeld && at >= FirstHeld && at+w.nfds <= FirstTransient {
		errno = 0
		for i := uintptr(0); i < w.nfds && errno == 0; i++ {
			_, errno = call(syscall.SYS_DUP3, uintptr(w.fds[i%MaxRequestFDs]), at+i, syscall.O_CLOEXEC, 0, 0, 0)
		}
	}
	var kept uintptr
	size := uintptr(w.head.Size)
	if errno == 0 && size != 0 {
		kept, errno = w.keep(plans, size)
	}
	if errno == 0 {
		w.held[w.nheld%MaxHeld] = kid{id: w.head.Flags, teardown: kept, size: size}
		w.nheld++
	}
	w.say(ControlFD, AnsHeld, w.head.ID, 0, 0, uint32(errno))
}

// roomForKept is how far behind the world plans are kept.
const roomForKept = 8 << 20

// keep copies a plan to a mapping of its own.
//
//go:norace
//go:nocheckptr
func (w *world) keep(plan, size uintptr) (uintptr, uintptr) {
	addr, errno := call(syscall.SYS_MMAP, w.room, size, 3, 0x22, ^uintptr(0), 0)
	if errno != 0 {
		return 0, errno
	}
	if w.room != 0 {
		w.room = (addr + size + 4095) &^ 4095
		if w.room > w.base()+roomForKept {
			w.room = w.base() + worldSize // what was there may be gone
		}
	}
	for i := uintptr(0); i < size; i += 8 {
		store64(addr+i, load64(plan+i))
	}
	return addr, 0
}

// spawn runs the prepare plan, clones init and runs the parent plan.
//
//go:norace
//go:nocheckptr
func (w *world) spawn(plans uintptr) {
	h := w.head // on the stack: the init that is forked below keeps it
	prepare, parent, teardown, stepIn := uintptr(h.Prepare), uintptr(h.Parent), uintptr(h.Teardown), uintptr(h.StepIn)
	if prepare+parent+teardown+stepIn != uintptr(h.Size) || w.nfds <= w.first || !w.load() || h.ProcReg >= regCount {
		w.say(ControlFD, AnsSpawned, h.ID, PhaseClone, 0, einval)
		return
	}
	sock := uintptr(w.fds[w.first%MaxRequestFDs])
	slot := w.freeKid()
	if slot >= MaxKids {
		w.say(ControlFD, AnsSpawned, h.ID, PhaseClone, 0, eagain)
		return
	}
	if prepare != 0 && !w.run(plans, prepare) {
		w.say(ControlFD, AnsSpawned, h.ID, PhasePrepare, uint32(w.step), uint32(w.errno))
		return
	}
	w.began, w.done = 0, 0
	if w.traced != 0 {
		w.began = w.now()
	}
	if stepIn == 0 {
		w.expect(h.Clone, h.Cgroup)
		w.spare.after = spareAfter
		if h.Flags&FlagLinks != 0 {
			w.spare.after = spareLinks
		}
	}
	kept := uintptr(0)
	if teardown != 0 {
		addr, errno := w.keep(plans+prepare+parent, teardown)
		if errno != 0 {
			w.say(ControlFD, AnsSpawned, h.ID, PhaseClone, 2, uint32(errno))
			return
		}
		kept = addr
	}
	if stepIn == 0 && w.adopt(plans, prepare, parent, sock, slot, kept, teardown, h) {
		return
	}
	w.sock = sock
	var pid, errno uintptr
	phase, step := uint32(PhaseClone), uint32(3)
	if stepIn != 0 {
		pid, phase, step, errno = w.stepIn(plans+prepare+parent+teardown, stepIn, h.Clone, h.Cgroup)
	} else {
		pid, errno = w.cloneInit(h.Clone, h.Cgroup)
	}
	if errno != 0 {
		w.drop(kept, teardown)
		w.say(ControlFD, AnsSpawned, h.ID, phase, step, uint32(errno))
		return
	}
	pidfd := w.pidfd
	w.take(slot, kid{pid: uint32(pid), id: h.ID, teardown: kept, size: teardown})
	if phase, step, errno := w.settleIn(plans+prepare, parent, pid, uintptr(h.ProcReg)); errno != 0 {
		w.discard(pid)
		w.say(ControlFD, AnsSpawned, h.ID, phase, step, errno)
		return
	}
	w.settled()
	// Init first: its part is the longer one.
	w.tellBegin(uintptr(w.pair[0]), 0)
	w.answer = Answer{Op: AnsSpawned, ID: h.ID, PID: uint32(pid), User: w.began, Time: w.done}
	w.send(ControlFD, pidfd) // where the host is gone, the loop will see it
}

// settled takes the time before init begins, where it is asked for.
//
//go:norace
//go:nocheckptr
func (w *world) settled() {
	if w.traced != 0 {
		w.done = w.now()
	}
}

// expect counts how often in a row the same namespaces were asked for; a spare with
// others is of no use any more.
//
//go:norace
//go:nocheckptr
func (w *world) expect(flags uint64, group uint32) {
	if flags != w.spare.want || group != w.spare.wantGroup {
		w.spare.want, w.spare.wantGroup, w.spare.asked = flags, group, 0
		w.dropSpare()
	}
	if w.spare.asked < 2 {
		w.spare.asked++
	}
}

// adopt gives the container the spare init, if there is one; false: it has to be
// cloned.
//
//go:norace
//go:nocheckptr
func (w *world) adopt(plans, prepare, parent, sock, slot, kept, teardown uintptr, h Header) bool {
	pid := w.spare.pid
	if pid == 0 || w.spare.flags != h.Clone || w.spare.group != h.Cgroup || !w.collectRegisters(plans, prepare, sock) {
		return false
	}
	_, _, errno := w.settleIn(plans+prepare, parent, pid, uintptr(h.ProcReg))
	w.settled()
	if errno != 0 || !w.tellBegin(spareChannel, w.npass) {
		w.dropSpare() // it may have died; what is wrong with the plan, a new one meets too
		return false
	}
	w.take(slot, kid{pid: uint32(pid), id: h.ID, teardown: kept, size: teardown})
	w.answer = Answer{Op: AnsSpawned, ID: h.ID, PID: uint32(pid), User: w.began, Time: w.done}
	w.send(ControlFD, sparePidfd)
	w.releaseSpare()
	return true
}

// collectRegisters lists what the prepare plan has opened, for an init that is no
// copy of the launcher as it is now: the socket first.
//
//go:norace
//go:nocheckptr
func (w *world) collectRegisters(plan, size, sock uintptr) bool {
	w.npass = 1
	w.pass[0], w.passReg[0] = int32(sock), 0
	if size == 0 {
		return true
	}
	steps := uintptr(load32(plan + 8))
	for i := uintptr(0); i < steps; i++ {
		dst := int16(load16(plan + planHeader + planStep*i + 4))
		if dst < 0 || dst >= regCount || w.reg[dst] < 0 {
			continue
		}
		if w.npass >= MaxFDs {
			return false
		}
		w.pass[w.npass%MaxFDs], w.passReg[w.npass%MaxFDs] = int32(w.reg[dst]), uint32(dst)
		w.npass++
	}
	return true
}

// settleIn runs the parent plan on an init that waits.
//
//go:norace
//go:nocheckptr
func (w *world) settleIn(plan, size, pid, procReg uintptr) (phase, step, errno uint32) {
	if size == 0 {
		return 0, 0, 0
	}
	w.procPath(pid)
	fd, e := call(syscall.SYS_OPENAT, ^uintptr(99), w.base()+unsafe.Offsetof(w.path), syscall.O_DIRECTORY|0x200000|syscall.O_CLOEXEC, 0, 0, 0)
	if e != 0 {
		return PhaseClone, 4, uint32(e)
	}
	w.reg[procReg%regCount] = int64(fd)
	if !w.run(plan, size) {
		return PhaseParent, uint32(w.step), uint32(w.errno)
	}
	return 0, 0, 0
}

// discard ends an init that has not begun and forgets it; its teardown is run.
//
//go:norace
//go:nocheckptr
func (w *world) discard(pid uintptr) {
	call(syscall.SYS_KILL, pid, sigKill, 0, 0, 0, 0)
	for {
		_, errno := call(syscall.SYS_WAIT4, pid, w.base()+unsafe.Offsetof(w.status), wAll, 0, 0, 0)
		if errno != eintr {
			break
		}
	}
	w.settle(pid, false)
}

// procPath writes "/proc/<pid>" to w.path.
//
//go:norace
//go:nocheckptr
func (w *world) procPath(pid uintptr) {
	w.path[0], w.path[1], w.path[2], w.path[3], w.path[4], w.path[5] = '/', 'p', 'r', 'o', 'c', '/'
	n := uintptr(1)
	for v := pid; v >= 10; v /= 10 {
		n++
	}
	w.path[(6+n)%64] = 0
	for i := n; i > 0; i-- {
		w.path[(5+i)%64] = byte('0' + pid%10)
		pid /= 10
	}
}

//go:norace
//go:nocheckptr
func (w *world) freeKid() uintptr {
	i := uintptr(0)
	for i < w.top && w.kids[i%MaxKids].pid != 0 {
		i++
	}
	return i // MaxKids: all are taken
}

// take puts a kid into a free slot.
//
//go:norace
//go:nocheckptr
func (w *world) take(slot uintptr, k kid) {
	w.kids[slot%MaxKids] = k
	if slot >= w.top {
		w.top = slot + 1
	}
}

//go:norace
//go:nocheckptr
func (w *world) drop(addr, size uintptr) {
	if addr != 0 {
		call(syscall.SYS_MUNMAP, addr, size, 0, 0, 0, 0)
	}
}

// reap collects every init that ended, runs its teardown and tells the host.
//
//go:norace
//go:nocheckptr
func (w *world) reap() {
	for {
		pid, errno := call(syscall.SYS_WAIT4, ^uintptr(0), w.base()+unsafe.Offsetof(w.status), wNoHang|wAll, w.base()+unsafe.Offsetof(w.rusage), 0, 0)
		if errno == eintr {
			continue
		}
		if errno != 0 || pid == 0 {
			return
		}
		if pid == w.spare.pid {
			w.releaseSpare()
			continue
		}
		w.settle(pid, true)
	}
}

// settle forgets the init, runs what was kept for its end, and tells the host.
//
//go:norace
//go:nocheckptr
func (w *world) settle(pid uintptr, tell bool) {
	for i := uintptr(0); i < w.top; i++ {
		k := w.kids[i%MaxKids]
		if k.pid != uint32(pid) {
			continue
		}
		w.kids[i%MaxKids] = kid{}
		for w.top > 0 && w.kids[(w.top-1)%MaxKids].pid == 0 {
			w.top--
		}
		w.answer = Answer{Op: AnsGone, ID: k.id, PID: k.pid, Status: uint32(w.status)}
		if k.teardown != 0 {
			if !w.run(k.teardown, k.size) {
				w.answer.Step, w.answer.Errno = uint32(w.step), uint32(w.errno)
			}
			w.drop(k.teardown, k.size)
		}
		w.answer.Time = w.now()
		if tell && !w.hostEnd {
			w.send(ControlFD, -1)
		}
		return
	}
}

// leave ends the launcher after its host: every init is killed and reaped
// first, so that at most one zombie is handed to the machine's PID 1.
//
//go:norace
//go:nocheckptr
func (w *world) leave() {
	w.hostEnd = true
	w.dropSpare()
	for i := uintptr(0); i < w.top; i++ {
		if pid := w.kids[i%MaxKids].pid; pid != 0 {
			call(syscall.SYS_KILL, uintptr(pid), sigKill, 0, 0, 0, 0)
		}
	}
	w.hung = !w.reapAll()
	// What was held, the last first: control groups, and then the owner file that
	// names them, the state directory. A failure has nobody left to hear it: then the
	// owner file stays, for Prune.
	whole := true
	for i := w.nheld; i > 0; i-- {
		k := w.held[(i-1)%MaxHeld]
		state := k.id&FlagState != 0
		if k.teardown == 0 || state && !whole || k.id&FlagLast != 0 {
			continue
		}
		if !w.run(k.teardown, k.size) && !state {
			whole = false
		}
	}
	for i := uintptr(0); i < w.nheld; i++ {
		if k := w.held[i%MaxHeld]; k.id&FlagLast != 0 {
			w.run(k.teardown, k.size)
		}
	}
	exit(0)
}

// leaveSeconds is how long the launcher waits for its inits after its host: one
// that does not end holds a process that hangs in the kernel, perhaps for good.
const leaveSeconds = 10

// reapAll waits until every init has ended; false: some have not in time.
//
//go:norace
//go:nocheckptr
func (w *world) reapAll() bool {
	end := w.now() + leaveSeconds*1e9
	for {
		pid, errno := call(syscall.SYS_WAIT4, ^uintptr(0), w.base()+unsafe.Offsetof(w.status), wNoHang|wAll, 0, 0, 0)
		switch {
		case errno == eintr:
			continue
		case errno != 0:
			return true
		case pid != 0:
			w.settle(pid, false)
			continue
		}
		left := end - w.now()
		if left <= 0 {
			return false
		}
		w.time[0], w.time[1] = left/1e9, left%1e9
		w.poll[0] = pollfd{fd: signalFD, events: pollIn}
		call(syscall.SYS_PPOLL, w.base()+unsafe.Offsetof(w.poll), 1, w.base()+unsafe.Offsetof(w.time), 0, 8, 0)
		call(syscall.SYS_READ, signalFD, w.base()+unsafe.Offsetof(w.info), unsafe.Sizeof(w.info), 0, 0, 0)
	}
}
