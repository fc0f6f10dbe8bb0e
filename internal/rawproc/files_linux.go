//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// lend clones a process that opens and writes the container's files for the host,
// which speaks with it over the socket that came along. It is a copy of init, with
// init's id and rights, in init's group, and as closed to every job; what hangs with a
// file system is this process, and not init.
//
//go:norace
//go:nocheckptr
func (w *world) lend() {
	if w.nfds != 1 || w.first != 0 {
		return // the host sees its end closed
	}
	w.sock = uintptr(w.fds[0])
	w.clone = cloneArgs{
		flags:      clonePidfd,
		pidfd:      uint64(w.base() + unsafe.Offsetof(w.pidfd)),
		exitSignal: sigChld,
		stack:      uint64(w.base() + unsafe.Offsetof(w.vstack)),
		stackSize:  stackSize,
	}
	r := int64(cloneCall(w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(handle), w.base(), w.base()))
	if r < 0 {
		w.say(w.sock, AnsFiles, 0, PhaseClone, 0, uint32(-r))
		return
	}
	for i := uintptr(0); i < maxLent; i++ {
		if w.lent[i] == 0 {
			w.lent[i] = uint32(r)
			break
		}
	}
	w.answer = Answer{Op: AnsFiles, PID: uint32(r)}
	w.send(w.sock, w.pidfd)
}

// maxLent is how many of these processes init knows by their ids.
const maxLent = 64

// handle is that process's life: it runs plans, and answers each with the registers
// that were asked for, until its socket ends. Of descriptors it keeps filesKept alone from
// one plan to the next.
//
//go:norace
//go:nocheckptr
func handle(w *world) {
	call(syscall.SYS_DUP3, w.sock, initSocket, syscall.O_CLOEXEC, 0, 0, 0)
	// Its number is never free for a descriptor that comes with a request.
	call(syscall.SYS_DUP3, initSocket, filesKept, syscall.O_CLOEXEC, 0, 0, 0)
	call(sysCloseRange, filesKept+1, 0xffffffff, 0, 0, 0, 0)
	called(nameFiles)
	// Init's end is its end in a PID namespace that is not the container's own, too.
	const setPdeathsig = 1
	call(syscall.SYS_PRCTL, setPdeathsig, sigKill, 0, 0, 0, 0)
	failed := false
	for {
		plans, mapped, ok := w.receive(initSocket)
		if !ok {
			exit(0)
		}
		switch id := w.head.ID; {
		case failed && w.head.Flags&FlagChain != 0:
			w.say(initSocket, AnsRan, id, PhaseExec, 0, ecanceled)
		case w.head.Op != OpRun || !w.load():
			failed = true
			w.say(initSocket, AnsRan, id, PhaseExec, 0, einval)
		case !w.run(plans, uintptr(w.head.Size)):
			failed = true
			w.say(initSocket, AnsRan, id, PhaseExec, uint32(w.step), uint32(w.errno))
		default:
			failed = false
			w.answer = Answer{Op: AnsRan, ID: id}
			w.sendRegisters(initSocket, uintptr(w.head.Prepare), uintptr(w.head.Parent))
		}
		w.unmap(mapped)
		call(sysCloseRange, filesKept+1, 0xffffffff, 0, 0, 0, 0)
	}
}

// sendRegisters sends w.answer, n registers from the first on, and as descriptors those
// of them that are not negative.
//
//go:norace
//go:nocheckptr
func (w *world) sendRegisters(sock, first, n uintptr) {
	if n > MaxFDs || first+n > regCount {
		w.say(sock, AnsRan, w.answer.ID, PhaseExec, 0, einval)
		return
	}
	w.iovs[0] = iovec{w.base() + unsafe.Offsetof(w.answer), AnswerSize}
	w.iovs[1] = iovec{w.base() + unsafe.Offsetof(w.reg) + 8*first, 8 * n}
	w.msg = msghdr{iov: w.base() + unsafe.Offsetof(w.iovs), iovlen: 2}
	c, open := w.base()+unsafe.Offsetof(w.control), uintptr(0)
	for i := uintptr(0); i < n; i++ {
		if r := w.reg[(first+i)%regCount]; r >= 0 {
			store32(c+16+4*open, uint32(r))
			open++
		}
	}
	if open > 0 {
		w.msg.control, w.msg.controllen = c, uint64(16+(4*open+7)&^7)
		store64(c, uint64(16+4*open))
		store64(c+8, solSocket|scmRights<<32)
	}
	w.sendAnswer(sock)
}

// copyBytes copies n bytes within the kernel, from one descriptor's offset to another's,
// less where the first one ends before.
//
//go:norace
//go:nocheckptr
func (w *world) copyBytes(in, inAt, out, outAt, n uintptr) bool {
	const most, exdev, enosys, eopnotsupp = 1 << 30, 18, 38, 95
	w.offsets[0], w.offsets[1] = int64(inAt), int64(outAt)
	from, to := w.base()+unsafe.Offsetof(w.offsets), w.base()+unsafe.Offsetof(w.offsets)+8
	shared := true // copy_file_range(2) may share blocks, and is not for every two file systems
	for n > 0 {
		part := n
		if part > most {
			part = most
		}
		var r uintptr
		if shared {
			r, w.errno = call(sysCopyFileRange, in, from, out, to, part, 0)
			if r == 0 && w.errno == 0 || w.errno == exdev || w.errno == enosys || w.errno == eopnotsupp || w.errno == einval || w.errno == eperm {
				shared = false
				if _, w.errno = call(syscall.SYS_LSEEK, out, uintptr(w.offsets[1]), 0, 0, 0, 0); w.errno != 0 {
					return false
				}
				continue
			}
		} else if r, w.errno = call(syscall.SYS_SENDFILE, out, in, from, part, 0, 0); r == 0 && w.errno == 0 {
			return true // its end
		}
		switch w.errno {
		case 0:
			n -= r
		case eintr:
		default:
			return false
		}
	}
	return true
}
