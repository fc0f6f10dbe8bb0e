//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// The layout of an encoded plan; internal/plan has the same numbers.
const (
	planMagic   = 0x31504e49
	planVersion = 1
	planHeader  = 32
	planStep    = 80

	numberCheck   = -1
	numberPoke    = -2
	numberSweep   = -3
	numberHolder  = -4
	numberRelease = -5
	numberCopy    = -6
	numberInside  = -7
	numberRemount = -9

	ebadf   = 9
	eintr   = 4
	enoent  = 2
	eagain  = 11
	eacces  = 13
	einval  = 22
	eperm   = 1
	echild  = 10
	enoexec = 8

	ecanceled = 125
)

// run interprets one encoded plan and tells whether all of it was done; w.step
// and w.errno say what was not. The host checked the plan before it left; the
// checks here are the second look, for a message that is not what it should be.
//
// From here on no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func (w *world) run(p, size uintptr) bool {
	w.step, w.errno, w.noted, w.ended, w.times = 0, einval, 0, 0, 0
	if size < planHeader || load32(p) != planMagic || load32(p+4) != planVersion {
		return false
	}
	steps, ndata, nrelocs := uintptr(load32(p+8)), uintptr(load32(p+12)), uintptr(load32(p+16))
	relocs := p + planHeader + planStep*steps
	data := relocs + (4*nrelocs+7)&^7
	if data+ndata != p+size {
		return false
	}
	for i := uintptr(0); i < nrelocs; i++ {
		off := uintptr(load32(relocs + 4*i))
		if off+8 > ndata || load64(data+off) >= uint64(ndata) {
			return false
		}
		store64(data+off, load64(data+off)+uint64(data))
	}
	// A timed plan says where in its data, one further, so that 0 is no place.
	if at := uintptr(load32(p + 20)); at != 0 {
		at--
		if at&7 != 0 || at+8*(steps+1) > ndata {
			return false
		}
		w.times = data + at
	}
	for i := uintptr(0); i < steps; i++ {
		w.step = i + 1
		if w.times != 0 && load8(p+planHeader+planStep*i+14) != 0 {
			store64(w.times+8*i, uint64(w.now()))
		}
		if s := p + planHeader + planStep*i; int32(load32(s)) == numberInside {
			count := uintptr(load64(s + 16))
			if count >= steps-i || !w.inside(p, i+1, count, data, ndata) {
				if load8(s+14) != 0 {
					w.timeEnd()
				}
				return false
			}
			i += count
			continue
		}
		if !w.one(p+planHeader+planStep*i, data, ndata) {
			if load8(p+planHeader+planStep*i+14) != 0 {
				w.timeEnd()
			}
			return false
		}
	}
	w.timeEnd()
	w.errno = 0
	return true
}

// timeEnd takes the time of the end of the last step that was run of a timed plan.
//
//go:norace
//go:nocheckptr
func (w *world) timeEnd() {
	if w.times != 0 {
		store64(w.times+8*w.step, uint64(w.now()))
	}
}

// one does one step.
//
//go:norace
//go:nocheckptr
func (w *world) one(s, data, ndata uintptr) bool {
	nr := int32(load32(s))
	dst := int16(load16(s + 4))
	a0, ok0 := w.arg(s, 0, data, ndata)
	a1, ok1 := w.arg(s, 1, data, ndata)
	a2, ok2 := w.arg(s, 2, data, ndata)
	a3, ok3 := w.arg(s, 3, data, ndata)
	a4, ok4 := w.arg(s, 4, data, ndata)
	a5, ok5 := w.arg(s, 5, data, ndata)
	if !ok0 || !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || dst >= regCount {
		w.errno = einval
		return false
	}
	if nr == numberSweep {
		return w.removeGroups(a0, a1)
	}
	if nr == numberHolder || nr == numberRelease {
		return w.namespace(nr, dst)
	}
	if nr == numberCopy {
		return w.copyBytes(a0, a1, a2, a3, a4)
	}
	if nr == numberRemount {
		return w.remount(a0, a1, a2, a3)
	}
	if nr < 0 { // check, poke
		if ndata < 8 || a0 < data || a0-data > ndata-8 {
			w.errno = einval
			return false
		}
		if nr == numberPoke {
			store64(a0, uint64(a1))
			return true
		}
		w.errno = a3
		return uintptr(load64(a0))&a1 == a2
	}
	r, errno := call(uintptr(nr), a0, a1, a2, a3, a4, a5)
	for errno == eintr {
		r, errno = call(uintptr(nr), a0, a1, a2, a3, a4, a5)
	}
	if errno != 0 {
		n := uintptr(load16(s + 6))
		if n > 4 {
			n = 4
		}
		for j := uintptr(0); j < n; j++ {
			if uintptr(load32(s+64+4*j)) == errno {
				if errno == eacces { // of an execve, the one call that may be answered so
					w.noted, w.ended = errno, w.step
				}
				if dst >= 0 {
					w.reg[dst] = -int64(errno)
				}
				return true
			}
		}
		w.errno = errno
		return false
	}
	if dst >= 0 {
		w.reg[dst] = int64(r)
	}
	if nr == syscall.SYS_CLOSE && load8(s+8) == 2 {
		w.reg[load64(s+16)%regCount] = -ebadf // not to be handed on
	}
	return true
}

// arg is the step's argument j.
//
//go:norace
//go:nocheckptr
func (w *world) arg(s, j, data, ndata uintptr) (uintptr, bool) {
	v := uintptr(load64(s + 16 + 8*j))
	switch load8(s + 8 + j) {
	case 0:
		return v, true
	case 1:
		return data + v, v < ndata
	case 2:
		if v >= regCount {
			return 0, false
		}
		return uintptr(w.reg[v]), true
	}
	return 0, false
}

// address of a field, for the kernel.
//
//go:norace
//go:nocheckptr
func (w *world) base() uintptr { return uintptr(unsafe.Pointer(w)) }
