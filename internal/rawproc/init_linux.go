//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// begin is init's life, from the clone on: it waits until it may begin, its id
// maps written, takes the child plan, and then requests for jobs until its socket
// or its launcher ends.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func (w *world) begin() {
	// What lives as long as the launcher is not init's: its control socket,
	// its locks.
	call(sysCloseRange, ControlFD, FirstTransient-1, 0, 0, 0, 0)
	call(syscall.SYS_CLOSE, uintptr(w.pair[0]), 0, 0, 0, 0, 0)
	sock := w.sock
	if sock == 0 {
		called(nameSpare)
	}
	regs, _, ok := w.receive(uintptr(w.pair[1]))
	if !ok || w.head.Op != OpGo || uintptr(w.head.Size) != 4*w.nfds {
		exit(1)
	}
	// A spare is no copy of what its launcher has prepared since.
	for i := uintptr(0); i < w.nfds && i < MaxFDs; i++ {
		w.reg[uintptr(load32(regs+4*i))%regCount] = int64(w.fds[i])
		sock = uintptr(w.fds[0])
	}
	if !w.setup(sock) {
		exit(1)
	}
	w.mask = 1 << (sigChld - 1)
	for {
		w.poll[0] = pollfd{fd: initSocket, events: pollIn}
		w.poll[1] = pollfd{fd: initSignal, events: pollIn}
		call(syscall.SYS_PPOLL, w.base()+unsafe.Offsetof(w.poll), 2, 0, 0, 8, 0)
		socket, signal := w.poll[0].revents, w.poll[1].revents
		if signal != 0 {
			call(syscall.SYS_READ, initSignal, w.base()+unsafe.Offsetof(w.info), unsafe.Sizeof(w.info), 0, 0, 0)
			w.collect(wNoHang)
		}
		if socket != 0 && !w.request() {
			exit(0) // PID 1's end is everybody's
		}
	}
}

// setup runs the child plan and then closes every descriptor but the socket
// and the signalfd.
//
//go:norace
//go:nocheckptr
func (w *world) setup(sock uintptr) bool {
	plans, mapped, ok := w.receive(sock)
	if !ok || w.head.Op != OpSetup || !w.load() {
		return false
	}
	shape, own := uintptr(w.head.Prepare), uintptr(w.head.Parent)
	if shape+own != uintptr(w.head.Size) {
		w.say(sock, AnsSetup, w.head.ID, PhaseChild, 0, einval)
		return false
	}
	// The two halves do not know that the same process runs them.
	if !w.run(plans, shape) {
		w.say(sock, AnsSetup, w.head.ID, PhaseShape, uint32(w.step), uint32(w.errno))
		return false
	}
	if !w.run(plans+shape, own) {
		w.say(sock, AnsSetup, w.head.ID, PhaseChild, uint32(w.step), uint32(w.errno))
		return false
	}
	w.writeBack() // what it goes to is closed below
	w.unmap(mapped)
	if errno := w.keepFolders(); errno != 0 {
		w.say(sock, AnsSetup, w.head.ID, PhaseChild, 0, uint32(errno))
		return false
	}
	if sock != initSocket {
		call(syscall.SYS_DUP3, sock, initSocket, syscall.O_CLOEXEC, 0, 0, 0)
	}
	call(sysCloseRange, initSocket+1, keptAt-1, 0, 0, 0, 0)
	called(nameInit)
	w.mask = 1 << (sigChld - 1)
	fd, errno := call(syscall.SYS_SIGNALFD4, ^uintptr(0), w.base()+unsafe.Offsetof(w.mask), 8, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0, 0)
	if errno != 0 || fd != initSignal {
		w.say(initSocket, AnsSetup, w.head.ID, PhaseChild, 0, uint32(errno))
		return false
	}
	for i := uintptr(0); i < w.kept; i++ {
		call(syscall.SYS_DUP3, uintptr(w.fds[i%MaxKept]), initKept+i, syscall.O_CLOEXEC, 0, 0, 0)
	}
	call(sysCloseRange, initKept+w.kept, 0xffffffff, 0, 0, 0, 0)
	if w.head.Flags&FlagQuiet == 0 {
		w.say(initSocket, AnsSetup, w.head.ID, 0, 0, 0)
	}
	return true
}

// request serves one request of the host; false means that the host is gone.
//
//go:norace
//go:nocheckptr
func (w *world) request() bool {
	plans, mapped, ok := w.receive(initSocket)
	if !ok {
		return false
	}
	switch w.head.Op {
	case OpJob:
		w.start(plans)
	case OpSignal:
		w.signal()
	case OpOpen:
		if w.head.Flags&FlagSocket != 0 {
			w.socket(plans)
		} else {
			w.open(plans)
		}
	case OpFiles:
		w.lend()
	case OpKillAll:
		w.empty(w.head.Flags)
	case OpKill:
		if w.head.Register > 1 {
			call(syscall.SYS_KILL, uintptr(w.head.Register), sigKill, 0, 0, 0, 0)
		}
	}
	w.unmap(mapped)
	call(sysCloseRange, initKept+w.kept, 0xffffffff, 0, 0, 0, 0)
	return true
}

// keepFolders duplicates the descriptors that the host wants files opened below,
// besides the root, to where they are not in the way; w.fds has their numbers.
//
//go:norace
//go:nocheckptr
func (w *world) keepFolders() uintptr {
	w.kept = 0
	for list := w.head.Clone; list != 0 && w.kept < MaxKept; list >>= keptBits {
		reg := uintptr(list&(1<<keptBits-1)) - 1
		fd, errno := call(syscall.SYS_FCNTL, uintptr(w.reg[reg%regCount]), 1030, keptAt, 0, 0, 0) // F_DUPFD_CLOEXEC
		if errno != 0 {
			return errno
		}
		w.fds[w.kept%MaxKept] = int32(fd)
		w.kept++
	}
	return 0
}

// start vforks a job.
//
//go:norace
//go:nocheckptr
func (w *world) start(plans uintptr) {
	id, flags := w.head.ID, w.head.Flags
	slot := uintptr(0)
	for slot < MaxJobs && w.jobs[slot].pid != 0 {
		slot++
	}
	if slot >= MaxJobs || !w.load() {
		w.say(initSocket, AnsStarted, id, PhaseExec, 0, eagain)
		return
	}
	w.plan, w.planSize = plans, uintptr(w.head.Size)
	w.jobErr, w.jobStep = 0, 0
	w.clone = cloneArgs{
		flags:      cloneVM | cloneVfork | clonePidfd,
		pidfd:      uint64(w.base() + unsafe.Offsetof(w.pidfd)),
		exitSignal: sigChld,
		stack:      uint64(w.base() + unsafe.Offsetof(w.vstack)),
		stackSize:  stackSize,
	}
	if group := uintptr(w.head.Cgroup); group != 0 {
		if group > w.nfds-w.first {
			w.say(initSocket, AnsStarted, id, PhaseExec, 0, einval)
			return
		}
		w.clone.flags |= cloneIntoCgroup
		w.clone.cgroup = uint64(w.fds[(w.first+group-1)%MaxRequestFDs])
	}
	begun := w.now()
	r := int64(cloneCall(w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(execute), w.base(), w.base()))
	if r < 0 {
		w.say(initSocket, AnsStarted, id, PhaseExec, 0, uint32(-r))
		return
	}
	if w.jobErr != 0 {
		// It never became the job: reap it here and say why.
		for {
			_, errno := call(syscall.SYS_WAIT4, uintptr(r), w.base()+unsafe.Offsetof(w.status), wAll, 0, 0, 0)
			if errno != eintr {
				break
			}
		}
		w.say(initSocket, AnsStarted, id, PhaseExec, w.jobStep, w.jobErr)
		return
	}
	w.timeEnd() // of the execve: the job's run left the rest in the memory of both
	w.jobs[slot%MaxJobs] = job{pid: uint32(r), id: id, flags: flags}
	w.answer = Answer{Op: AnsStarted, ID: id, PID: uint32(r), Time: w.now(), User: begun}
	w.sendStarted(initSocket, w.pidfd, uint32(r))
}

// execute is the job before its execve: a process that shares init's memory,
// on a stack of its own. It ends by becoming the job or by leaving the errno.
//
//go:norace
//go:nocheckptr
func execute(w *world) {
	if w.run(w.plan, w.planSize) {
		// Every execve of the plan was answered with an errno that lets the
		// next one try.
		w.errno = enoent
		if w.noted != 0 {
			w.errno, w.step = w.noted, w.ended
		}
	}
	w.jobStep, w.jobErr = uint32(w.step), uint32(w.errno)
	exit(127)
}

// collect reaps what has ended; for jobs it tells the host.
//
//go:norace
//go:nocheckptr
func (w *world) collect(options uintptr) bool {
	for {
		pid, errno := call(syscall.SYS_WAIT4, ^uintptr(0), w.base()+unsafe.Offsetof(w.status), options|wAll, w.base()+unsafe.Offsetof(w.rusage), 0, 0)
		if errno == eintr {
			continue
		}
		if errno != 0 {
			return true
		}
		if pid == 0 {
			return false
		}
		if flags := w.gone(uint32(pid)); flags&FlagMain != 0 {
			w.empty(flags)
		}
		options |= wNoHang
	}
}

// gone takes note of a child that was reaped: a job's end is reported, and its flags
// are the result; orphans are forgotten.
//
//go:norace
//go:nocheckptr
func (w *world) gone(pid uint32) uint32 {
	for i := uintptr(0); i < maxLent; i++ {
		if w.lent[i] == pid {
			w.lent[i] = 0
		}
	}
	for i := uintptr(0); i < MaxJobs; i++ {
		if w.jobs[i].pid == pid {
			flags := w.jobs[i].flags
			w.report(i)
			return flags
		}
	}
	return 0
}

// report tells the host how a job ended.
//
//go:norace
//go:nocheckptr
func (w *world) report(i uintptr) {
	r := &w.rusage
	w.answer = Answer{
		Op: AnsExited, ID: w.jobs[i%MaxJobs].id, PID: w.jobs[i%MaxJobs].pid, Status: uint32(w.status), Time: w.now(),
		User: r[0]*1e9 + r[1]*1e3, System: r[2]*1e9 + r[3]*1e3, MaxRSS: r[4],
		MinFlt: r[8], MajFlt: r[9], In: r[11], Out: r[12], Vol: r[16], Forced: r[17],
	}
	w.jobs[i%MaxJobs] = job{}
	w.send(initSocket, -1)
}

// empty kills everything but init and tells when it is gone.
//
//go:norace
//go:nocheckptr
func (w *world) empty(flags uint32) {
	for {
		if flags&FlagShared == 0 { // else it would be others' processes as well
			call(syscall.SYS_KILL, ^uintptr(0), sigKill, 0, 0, 0, 0)
		}
		// In no group that the host kills, and a copy may take long.
		for i := uintptr(0); i < maxLent; i++ {
			if pid := w.lent[i]; pid != 0 {
				call(syscall.SYS_KILL, uintptr(pid), sigKill, 0, 0, 0, 0)
			}
		}
		if w.drain() {
			break
		}
	}
	if flags&FlagFinish != 0 {
		exit(0) // which says it too
	}
	w.say(initSocket, AnsEmpty, 0, 0, 0, 0)
}

// drain waits for one child and takes what else has ended; true when no child
// is left. Jobs that Exec had started end here too, and are reported.
//
//go:norace
//go:nocheckptr
func (w *world) drain() bool {
	options := uintptr(wAll)
	for {
		pid, errno := call(syscall.SYS_WAIT4, ^uintptr(0), w.base()+unsafe.Offsetof(w.status), options, w.base()+unsafe.Offsetof(w.rusage), 0, 0)
		if errno == eintr {
			continue
		}
		if errno != 0 {
			return true
		}
		if pid == 0 {
			return false
		}
		w.gone(uint32(pid))
		options |= wNoHang
	}
}

// signal sends a signal to the process group of a job.
//
//go:norace
//go:nocheckptr
func (w *world) signal() {
	for i := uintptr(0); i < MaxJobs; i++ {
		if w.jobs[i].pid != 0 && w.jobs[i].id == w.head.ID {
			call(syscall.SYS_KILL, ^uintptr(w.jobs[i].pid)+1, uintptr(w.head.Signal), 0, 0, 0, 0)
		}
	}
}

// Flags of open(2) and openat2(2).
const oPath, inRoot, noMagicLinks = 0x200000, 0x10, 0x2

// open opens a file below the root for the host to read. No magic link leads
// out, a FIFO does not block, a terminal does not become ours.
//
//go:norace
//go:nocheckptr
func (w *world) open(path uintptr) {
	if w.head.Size == 0 || load8(path+uintptr(w.head.Size)-1) != 0 {
		w.say(initSocket, AnsOpened, w.head.ID, PhaseExec, 0, einval)
		return
	}
	w.how[0], w.how[1], w.how[2] = syscall.O_NONBLOCK|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0, inRoot|noMagicLinks
	if w.head.Flags&(FlagPath|FlagTree) != 0 {
		w.how[0] = oPath | syscall.O_CLOEXEC
	}
	if w.head.Flags&FlagWrite != 0 {
		w.how[0] |= syscall.O_RDWR
	}
	if w.head.Flags&FlagLink != 0 {
		w.how[0] |= syscall.O_NOFOLLOW
	}
	if w.head.Flags&FlagNamespace != 0 {
		// No link that is resolved inside a root leads to a namespace. A job that may
		// mount can have put something else here: the host looks what it is.
		fd, errno := call(syscall.SYS_OPENAT, ^uintptr(99), path, syscall.O_NONBLOCK|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0, 0, 0)
		w.answer = Answer{Op: AnsOpened, ID: w.head.ID, Phase: PhaseExec, Errno: uint32(errno)}
		if errno != 0 {
			fd = ^uintptr(0)
		}
		w.send(initSocket, int32(fd))
		return
	}
	var root, errno uintptr
	if n := uintptr(w.head.Register); n > w.kept {
		errno = einval
	} else if n != 0 {
		root = initKept + n - 1
	} else {
		w.path[0], w.path[1] = '/', 0
		root, errno = call(syscall.SYS_OPENAT, ^uintptr(99), w.base()+unsafe.Offsetof(w.path), oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0, 0, 0)
	}
	if errno == 0 {
		var fd uintptr
		fd, errno = call(sysOpenat2, root, path, w.base()+unsafe.Offsetof(w.how), 24, 0, 0)
		if errno == 0 && w.head.Flags&FlagTree != 0 {
			fd, errno = w.tree(fd)
		}
		if errno == 0 {
			w.answer = Answer{Op: AnsOpened, ID: w.head.ID}
			w.send(initSocket, int32(fd))
			return
		}
	}
	w.say(initSocket, AnsOpened, w.head.ID, PhaseExec, 0, uint32(errno))
}

// tree copies the mount of what was opened, with all below it, for another container:
// only who is in this mount namespace may. Read-only from the beginning, in private; the
// covers of what is hidden here come along.
//
//go:norace
//go:nocheckptr
func (w *world) tree(fd uintptr) (uintptr, uintptr) {
	const (
		emptyPath, recursive       = 0x1000, 0x8000
		clone                      = 1
		readOnly, noSuid, noDevice = 0x1, 0x2, 0x4
		private                    = 1 << 18
	)
	w.path[0] = 0
	empty := w.base() + unsafe.Offsetof(w.path)
	tree, errno := call(sysOpenTree, fd, empty, clone|emptyPath|recursive|syscall.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	if w.head.Flags&FlagAsIs != 0 {
		return tree, 0
	}
	w.attr = [4]uint64{readOnly | noSuid | noDevice, 0, private, 0}
	_, errno = call(sysMountSetattr, tree, empty, emptyPath|recursive, w.base()+unsafe.Offsetof(w.attr), unsafe.Sizeof(w.attr), 0)
	return tree, errno
}
