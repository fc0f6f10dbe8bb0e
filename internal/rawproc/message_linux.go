//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

const (
	msgCmsgCloexec = 0x40000000
	msgNoSignal    = 0x4000
	solSocket      = 1
	scmRights      = 1
	scmCredentials = 2
	etoomanyrefs   = 109
)

// receive takes one request from the socket: its header into w.head, its
// descriptors into w.fds, and returns where its plans lie. ok is false at the
// end of the connection. mapped, if not 0, must be unmapped with size bytes.
//
//go:norace
//go:nocheckptr
func (w *world) receive(sock uintptr) (plans, mapped uintptr, ok bool) {
	w.nfds, w.first, w.traced = 0, 0, 0
	n, ok := w.receiveOne(sock)
	if !ok || n < HeaderSize {
		return 0, 0, false
	}
	w.head = *(*Header)(at(w.base() + unsafe.Offsetof(w.buffer)))
	plans = w.base() + unsafe.Offsetof(w.buffer) + HeaderSize
	size := n - HeaderSize
	// Descriptors above what one message carries come in messages of their own,
	// which overwrite the buffer: such requests bring their plans in a memfd.
	for w.nfds < uintptr(w.head.FDs) {
		if _, ok := w.receiveOne(sock); !ok {
			return 0, 0, false
		}
	}
	if w.head.Flags&FlagTrace != 0 {
		if w.nfds == 0 {
			return 0, 0, false
		}
		w.nfds-- // no step's
		w.traceFile = uintptr(w.fds[w.nfds%MaxRequestFDs])
	}
	if w.head.Flags&FlagMemfd != 0 {
		if w.nfds == 0 {
			return 0, 0, false
		}
		w.first = 1
		const getSeals, needed = 1034, 2 | 4 | 8 // F_SEAL_SHRINK, GROW, WRITE
		seals, errno := call(syscall.SYS_FCNTL, uintptr(w.fds[0]), getSeals, 0, 0, 0, 0)
		if errno != 0 || seals&needed != needed {
			return 0, 0, false
		}
		// What is mapped beyond the file's end is a SIGBUS.
		const seekEnd = 2
		end, errno := call(syscall.SYS_LSEEK, uintptr(w.fds[0]), 0, seekEnd, 0, 0, 0)
		if errno != 0 || uint64(end) < w.head.Size {
			return 0, 0, false
		}
		// Private and writable: relocations are applied in place.
		addr, errno := call(syscall.SYS_MMAP, 0, uintptr(w.head.Size), 3, 2, uintptr(w.fds[0]), 0)
		if errno != 0 {
			return 0, 0, false
		}
		call(syscall.SYS_CLOSE, uintptr(w.fds[0]), 0, 0, 0, 0, 0)
		w.trace(addr)
		return addr, addr, true
	}
	if uintptr(w.head.Size) != size {
		return 0, 0, false
	}
	w.trace(plans)
	return plans, 0, true
}

// trace notes that the plans are to be written back, if they are.
//
//go:norace
//go:nocheckptr
func (w *world) trace(plans uintptr) {
	if w.head.Flags&FlagTrace != 0 {
		w.traced = plans
	}
}

// writeBack writes the plans back, once, if they are to be. It cannot fail but for
// want of memory: then times are missing, which whoever reads them sees.
//
//go:norace
//go:nocheckptr
func (w *world) writeBack() {
	if w.traced != 0 {
		size, stepIn := uintptr(w.head.Size), uintptr(w.head.StepIn)
		if stepIn <= size { // the last of them, and written by who ran it
			call(syscall.SYS_PWRITE64, w.traceFile, w.traced, size-stepIn, 0, 0, 0)
		}
		w.traced = 0
	}
}

// load puts the descriptors of the request into their registers.
//
//go:norace
//go:nocheckptr
func (w *world) load() bool {
	r := uintptr(w.head.Register)
	if w.nfds < w.first || r+w.nfds-w.first > regCount {
		return false
	}
	for i := w.first; i < w.nfds && i < MaxRequestFDs; i++ {
		w.reg[(r+i-w.first)%regCount] = int64(w.fds[i])
	}
	return true
}

//go:norace
//go:nocheckptr
func (w *world) unmap(mapped uintptr) {
	if mapped != 0 {
		call(syscall.SYS_MUNMAP, mapped, uintptr(w.head.Size), 0, 0, 0, 0)
	}
}

// receiveOne is one recvmsg(2); it adds the descriptors that came to w.fds.
//
//go:norace
//go:nocheckptr
func (w *world) receiveOne(sock uintptr) (uintptr, bool) {
	w.iov.base, w.iov.len = w.base()+unsafe.Offsetof(w.buffer), bufferSize
	w.msg = msghdr{
		iov: w.base() + unsafe.Offsetof(w.iov), iovlen: 1,
		control: w.base() + unsafe.Offsetof(w.control), controllen: uint64(unsafe.Sizeof(w.control)),
	}
	n, errno := call(syscall.SYS_RECVMSG, sock, w.base()+unsafe.Offsetof(w.msg), msgCmsgCloexec, 0, 0, 0)
	for errno == eintr {
		n, errno = call(syscall.SYS_RECVMSG, sock, w.base()+unsafe.Offsetof(w.msg), msgCmsgCloexec, 0, 0, 0)
	}
	if errno != 0 || n == 0 {
		return 0, false
	}
	const msgTrunc, msgCtrunc = 0x20, 0x8
	if w.msg.flags&(msgTrunc|msgCtrunc) != 0 {
		return 0, false
	}
	c := w.msg.control
	end := c + uintptr(w.msg.controllen)
	for c+16 <= end {
		l := uintptr(load64(c))
		if l < 16 || c+l > end {
			break
		}
		if load32(c+8) == solSocket && load32(c+12) == scmRights {
			for f := c + 16; f+4 <= c+l; f += 4 {
				if w.nfds >= MaxRequestFDs {
					return 0, false
				}
				w.fds[w.nfds%MaxRequestFDs] = int32(load32(f))
				w.nfds++
			}
		}
		c += (l + 7) &^ 7
	}
	return n, true
}

// send sends w.answer, with a descriptor where fd is not negative.
//
//go:norace
//go:nocheckptr
func (w *world) send(sock uintptr, fd int32) bool {
	w.iov.base, w.iov.len = w.base()+unsafe.Offsetof(w.answer), AnswerSize
	w.msg = msghdr{iov: w.base() + unsafe.Offsetof(w.iov), iovlen: 1}
	if fd >= 0 {
		c := w.base() + unsafe.Offsetof(w.control)
		w.msg.control, w.msg.controllen = c, 24
		store64(c, 20)
		store64(c+8, solSocket|scmRights<<32)
		store64(c+16, uint64(uint32(fd)))
	}
	return w.sendAnswer(sock) == 0
}

// sendStarted sends w.answer with a job's pidfd and, since only the kernel can
// translate it for the host, the job's id: SCM_CREDENTIALS of unix(7) carries any
// process's where the sender has CAP_SYS_ADMIN over its PID namespace.
//
//go:norace
//go:nocheckptr
func (w *world) sendStarted(sock uintptr, pidfd int32, pid uint32) bool {
	uid, _ := call(syscall.SYS_GETUID, 0, 0, 0, 0, 0, 0)
	gid, _ := call(syscall.SYS_GETGID, 0, 0, 0, 0, 0, 0)
	w.iov.base, w.iov.len = w.base()+unsafe.Offsetof(w.answer), AnswerSize
	c := w.base() + unsafe.Offsetof(w.control)
	w.msg = msghdr{iov: w.base() + unsafe.Offsetof(w.iov), iovlen: 1, control: c, controllen: 32}
	store64(c, 28)
	store64(c+8, solSocket|scmCredentials<<32)
	store64(c+16, uint64(pid)|uint64(uid)<<32)
	store64(c+24, uint64(uint32(gid)))
	if pidfd >= 0 {
		w.msg.controllen = 56
		store64(c+32, 20)
		store64(c+40, solSocket|scmRights<<32)
		store64(c+48, uint64(uint32(pidfd)))
	}
	if errno := w.sendAnswer(sock); errno != eperm {
		return errno == 0
	}
	return w.send(sock, pidfd) // the host can do without
}

// sendAnswer is sendmsg(2) of w.msg.
//
//go:norace
//go:nocheckptr
func (w *world) sendAnswer(sock uintptr) uintptr {
	w.writeBack()
	for {
		_, errno := call(syscall.SYS_SENDMSG, sock, w.base()+unsafe.Offsetof(w.msg), msgNoSignal, 0, 0, 0)
		switch errno {
		case 0:
			return 0
		case eintr:
		case etoomanyrefs:
			// Too many descriptors of this user are in flight: wait for the
			// host to take some, unless it is gone.
			w.poll[0] = pollfd{fd: int32(sock), events: 0}
			w.time[0], w.time[1] = 0, 1e6
			call(syscall.SYS_PPOLL, w.base()+unsafe.Offsetof(w.poll), 1, w.base()+unsafe.Offsetof(w.time), 0, 8, 0)
		default:
			return errno
		}
	}
}

// tellBegin tells an init that it may begin, with the first n descriptors of
// w.pass and the registers that they are for.
//
//go:norace
//go:nocheckptr
func (w *world) tellBegin(channel, n uintptr) bool {
	w.goHead = Header{Op: OpGo, FDs: uint32(n), Size: uint64(4 * n)}
	w.iovs[0] = iovec{w.base() + unsafe.Offsetof(w.goHead), HeaderSize}
	w.iovs[1] = iovec{w.base() + unsafe.Offsetof(w.passReg), 4 * n}
	w.msg = msghdr{iov: w.base() + unsafe.Offsetof(w.iovs), iovlen: 2}
	if n > 0 {
		c := w.base() + unsafe.Offsetof(w.control)
		w.msg.control, w.msg.controllen = c, uint64(16+(4*n+7)&^7)
		store64(c, uint64(16+4*n))
		store64(c+8, solSocket|scmRights<<32)
		for i := uintptr(0); i < n && i < MaxFDs; i++ {
			store32(c+16+4*i, uint32(w.pass[i]))
		}
	}
	for {
		_, errno := call(syscall.SYS_SENDMSG, channel, w.base()+unsafe.Offsetof(w.msg), msgNoSignal, 0, 0, 0)
		if errno != eintr {
			return errno == 0
		}
	}
}

// say sends an answer that has no descriptor and no figures.
//
//go:norace
//go:nocheckptr
func (w *world) say(sock uintptr, op, id, phase, step, errno uint32) bool {
	w.answer = Answer{Op: op, ID: id, Phase: phase, Step: step, Errno: errno}
	return w.send(sock, -1)
}
