//go:build amd64 || arm64

package rawproc

import (
	"encoding/binary"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/plan"
)

// The raw code is run as in a job: by a process that shares this one's memory, on a
// stack of its own, while the thread that made it waits. So fuzzing sees what it
// reaches, and a fault ends that process alone. A seccomp filter answers its system
// calls in the kernel's place, but for those that a test lets through.

const (
	page     = 4096
	areaSize = 16 * page
)

// order is what such a process is to do. Its address stands at the beginning of
// world.info, where nothing looks before the first signal.
type order struct {
	do, plan, size uintptr
	done           uintptr // 1: run said true
	filter         [2]uintptr
	prog           [64]uint64
	mask           uint64
	timer          [4]int64
}

const (
	doRun = iota
	doInit
	doServe
)

// raw is the memory of one such process: each part lies between two pages that
// nobody may touch.
type raw struct {
	w     *world
	order *order
	area  uintptr
}

func newRaw(t testing.TB) *raw {
	t.Helper()
	const none, readWrite, privateAnon = 0, 3, 0x22
	take := func(size uintptr) uintptr {
		size = (size + page - 1) &^ (page - 1)
		at, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, 0, size+2*page, none, privateAnon, ^uintptr(0), 0)
		require.Zero(t, errno)
		_, _, errno = syscall.RawSyscall(syscall.SYS_MPROTECT, at+page, size, readWrite)
		require.Zero(t, errno)
		t.Cleanup(func() {
			_, _, errno := syscall.RawSyscall(syscall.SYS_MUNMAP, at, size+2*page, 0)
			require.Zero(t, errno)
		})
		return at + page
	}
	r := &raw{w: (*world)(at(take(unsafe.Sizeof(world{})))), order: (*order)(at(take(unsafe.Sizeof(order{})))), area: take(areaSize)}
	r.reset()
	return r
}

// reset makes the world as new.
func (r *raw) reset() {
	*r.w = world{}
	for i := range r.w.tls {
		r.w.tls[i] = r.w.base()
	}
	store64(r.w.base()+unsafe.Offsetof(r.w.info), uint64(uintptr(unsafe.Pointer(r.order))))
}

// answers sets the filter: system calls with even and with odd numbers are answered
// by these errnos, 0 is success; those that are listed are made.
func (r *raw) answers(even, odd uint16, made ...uint32) {
	const load, equal, greater, set, ret = 0x20, 0x15, 0x25, 0x45, 0x06
	const errno, allow, argument = 0x00050000, 0x7fff0000, 16
	n := 0
	add := func(code, jt, jf, k uint32) {
		r.order.prog[n] = uint64(code) | uint64(jt)<<16 | uint64(jf)<<24 | uint64(k)<<32
		n++
	}
	add(load, 0, 0, 0)
	for _, nr := range append(made, syscall.SYS_EXIT_GROUP) {
		if nr == syscall.SYS_KILL { // of one process alone, and not the machine's first
			add(equal, 0, 5, nr)
			add(load, 0, 0, argument)
			add(greater, 2, 0, 1<<31-1)
			add(greater, 0, 1, 1)
			add(ret, 0, 0, allow)
			add(ret, 0, 0, errno|uint32(even))
			continue
		}
		add(equal, 0, 1, nr)
		add(ret, 0, 0, allow)
	}
	add(set, 1, 0, 1)
	add(ret, 0, 0, errno|uint32(even))
	add(ret, 0, 0, errno|uint32(odd))
	r.order.filter = [2]uintptr{uintptr(n), uintptr(unsafe.Pointer(&r.order.prog))}
}

// start runs the order to its end and returns how that was.
func (r *raw) start(t testing.TB) syscall.WaitStatus {
	t.Helper()
	w := r.w
	w.clone = cloneArgs{
		flags:     cloneVM | cloneVfork | cloneClearSighand | cloneSetTLS,
		stack:     uint64(w.base() + unsafe.Offsetof(w.stack)),
		stackSize: stackSize,
		tls:       w.threadPointer(),
	}
	w.clone.exitSignal = sigChld
	pid := int64(cloneCall(w.base()+unsafe.Offsetof(w.clone), unsafe.Sizeof(w.clone), entry(obey), w.base(), w.base()))
	require.Positive(t, pid, "clone3: %v", syscall.Errno(-pid))
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(int(pid), &status, syscall.WALL, nil)
		if err != syscall.EINTR {
			require.NoError(t, err)
			return status
		}
	}
}

// obey is the process: no allocation, no locks, no stack growth.
//
//go:norace
//go:nocheckptr
func obey(w *world) {
	o := (*order)(at(uintptr(load64(w.base() + unsafe.Offsetof(w.info)))))
	const noNewPrivs, modeFilter, setMask, seconds = 38, 1, 2, 20
	// What hangs ends by SIGALRM.
	o.mask, o.timer = ^uint64(1<<(syscall.SIGALRM-1)), [4]int64{0, 0, seconds, 0}
	call(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&o.mask)), 0, 8, 0, 0)
	call(syscall.SYS_SETITIMER, 0, uintptr(unsafe.Pointer(&o.timer)), 0, 0, 0, 0)
	call(syscall.SYS_PRCTL, noNewPrivs, 1, 0, 0, 0, 0)
	if o.do == doServe {
		call(syscall.SYS_DUP3, w.sock, ControlFD, 0, 0, 0, 0)
	}
	if _, errno := call(unix.SYS_SECCOMP, modeFilter, 0, uintptr(unsafe.Pointer(&o.filter)), 0, 0, 0); errno != 0 {
		exit(100)
	}
	switch o.do {
	case doRun:
		if w.run(o.plan, o.size) {
			o.done = 1
		}
		exit(0)
	case doInit:
		w.begin()
	case doServe:
		serve(w)
	}
	exit(101)
}

// errnoOf is what answers a call, in a test that lets none through.
func errnoOf(even, odd uint16, nr int32) uint64 {
	if nr%2 == 0 {
		return uint64(even)
	}
	return uint64(odd)
}

// outcome is what is left of a plan that was run.
type outcome struct {
	ok                        bool
	step, errno, noted, ended uint64
	refused                   bool // for its form, not for what a call or a check said
}

// model interprets a plan in the slow and plain way, on a copy of its bytes that
// stands for memory from base on.
func model(b []byte, base uint64, reg []int64, even, odd uint16) (o outcome) {
	le := binary.LittleEndian
	refuse := func() outcome {
		o.errno, o.refused = einval, true
		return o
	}
	if len(b) < planHeader || le.Uint32(b) != planMagic || le.Uint32(b[4:]) != planVersion {
		return refuse()
	}
	steps, ndata, nrelocs := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:])), uint64(le.Uint32(b[16:]))
	relocsAt := planHeader + planStep*steps
	dataAt := relocsAt + (4*nrelocs+7)/8*8
	if dataAt+ndata != uint64(len(b)) {
		return refuse()
	}
	data := b[dataAt:]
	for i := range nrelocs {
		off := uint64(le.Uint32(b[relocsAt+4*i:]))
		if off+8 > ndata || le.Uint64(data[off:]) >= ndata {
			return refuse()
		}
		le.PutUint64(data[off:], le.Uint64(data[off:])+base+dataAt)
	}
	times := uint64(le.Uint32(b[20:]))
	if times != 0 && ((times-1)%8 != 0 || times-1+8*(steps+1) > ndata) {
		return refuse()
	}
	stamp := func(slot uint64) {
		if times != 0 {
			le.PutUint64(data[times-1+8*slot:], clock)
		}
	}
	timed := func(step uint64) bool { return b[planHeader+planStep*step+14] != 0 }
	defer func() {
		if !o.ok && timed(o.step-1) {
			stamp(o.step)
		}
	}()
	for i := range steps {
		o.step = i + 1
		if timed(i) {
			stamp(i)
		}
		s := b[planHeader+planStep*i:]
		nr, dst := int32(le.Uint32(s)), int16(le.Uint16(s[4:]))
		var a [6]uint64
		for j := range a {
			v := le.Uint64(s[16+8*j:])
			switch s[8+j] {
			case 0:
				a[j] = v
			case 1:
				if v >= ndata {
					return refuse()
				}
				a[j] = base + dataAt + v
			case 2:
				if v >= regCount {
					return refuse()
				}
				a[j] = uint64(reg[v])
			default:
				return refuse()
			}
		}
		if dst >= regCount {
			return refuse()
		}
		errno := errnoOf(even, odd, nr)
		switch {
		case nr == numberSweep:
			// Of its calls, these two decide.
			if o.errno = errnoOf(even, odd, unix.SYS_OPENAT); o.errno == 0 {
				if o.errno = errnoOf(even, odd, unix.SYS_UNLINKAT); o.errno == enoent {
					o.errno = 0
				}
			}
			if o.errno != 0 && o.errno != enoent {
				return o
			}
			continue
		case nr == numberRelease:
			continue // there is none
		case nr == numberCopy:
			// All of its calls are even ones; answered with nothing, it is at its end.
			if o.errno = uint64(even); even != 0 && a[4] != 0 {
				return o
			}
			continue
		case nr == numberRemount:
			// The mount's number is not in an answer that the kernel did not give.
			o.errno = einval
			if a[2]&^(msReadOnly|msNoSuid|msNoDev|msNoExec) == 0 {
				if o.errno = errnoOf(even, odd, unix.SYS_STATX); o.errno == 0 {
					o.errno = uint64(unix.EOPNOTSUPP)
				}
			}
			return o
		case nr < 0:
			off := a[0] - (base + dataAt)
			if ndata < 8 || a[0] < base+dataAt || off > ndata-8 {
				return refuse()
			}
			if nr == numberPoke {
				le.PutUint64(data[off:], a[1])
			} else if o.errno = a[3]; le.Uint64(data[off:])&a[1] != a[2] {
				return o
			}
			continue
		case errno == 0:
			if dst >= 0 {
				reg[dst] = 0
			}
			if nr == syscall.SYS_CLOSE && s[8] == 2 {
				reg[le.Uint64(s[16:])] = -ebadf
			}
			continue
		}
		tolerated := false
		for j := range min(4, int(le.Uint16(s[6:]))) {
			tolerated = tolerated || uint64(le.Uint32(s[64+4*j:])) == errno
		}
		if !tolerated {
			o.errno = errno
			return o
		}
		if errno == eacces {
			o.noted, o.ended = errno, o.step
		}
		if dst >= 0 {
			reg[dst] = -int64(errno)
		}
	}
	stamp(steps)
	o.ok, o.errno = true, 0
	return o
}

// clock is what a test's process finds in place of the time: nobody answers it.
const clock = 7e9 + 11

// repair makes a header that fits the length, so that more bytes are plans.
func repair(b []byte) {
	if len(b) < planHeader {
		return
	}
	le := binary.LittleEndian
	rest := uint32(len(b) - planHeader)
	steps := min(le.Uint32(b[8:]), rest/planStep)
	rest -= steps * planStep
	relocs := min(le.Uint32(b[16:]), rest/8)
	le.PutUint32(b, planMagic)
	le.PutUint32(b[4:], planVersion)
	le.PutUint32(b[8:], steps)
	le.PutUint32(b[12:], rest-(4*relocs+7)/8*8)
	le.PutUint32(b[16:], relocs)
	if times, data := 8*(steps+1), le.Uint32(b[12:]); le.Uint32(b[20:]) != 0 && times <= data {
		le.PutUint32(b[20:], data-times+1)
	}
}

// plans are for seeds, and for requests.
func plans(t testing.TB) [][]byte {
	t.Helper()
	encode := func(build func(b *plan.Builder)) []byte {
		b := plan.NewBuilder(plan.Child, plan.Arch(runtime.GOARCH), &plan.Registers{})
		build(b)
		out, err := b.Plan().Encode(plan.Arch(runtime.GOARCH))
		require.NoError(t, err)
		return out
	}
	return [][]byte{
		encode(func(*plan.Builder) {}),
		encode(func(b *plan.Builder) { b.Umask(0) }),
		encode(func(b *plan.Builder) {
			d := b.Openat(plan.CWD, "/x", plan.OCLOEXEC, 0, "x")
			b.Tolerate(2, 13)
			b.Mkdirat(d.At(), "y", 0o755)
			b.Tolerate(1, 2, 17, 38)
			b.Write(d, make([]byte, 4096), "x")
			b.Close(d)
		}),
		encode(func(b *plan.Builder) {
			b.Execve("/bin/true", b.Strings([]string{"true", ""}), b.Strings(nil), 2, 0)
			b.Tolerate(13, 2)
			b.Inside("/")
		}),
		encode(func(b *plan.Builder) {
			b.Plan().Timed = true
			b.Umask(0)
			b.Untimed()
			b.Setresuid(1)
		}),
		encode(func(b *plan.Builder) {
			b.RemoveGroups("/none", "none")
			b.Seccomp([]uint64{1, 2}, 4, "two")
			b.Setresuid(1)
		}),
		encode(func(b *plan.Builder) {
			d := b.Openat(plan.CWD, "/x", plan.OCLOEXEC, 0, "x")
			b.Remount(d, plan.ATRecursive, plan.AttrReadOnly, plan.MSPrivate, "x")
		}),
	}
}

// A plan does what it says, as a plain reading of it does: whatever its bytes are,
// no memory is touched but its own and the registers, and what plan.Validate takes
// is not refused for its form.
func FuzzInterpret(f *testing.F) {
	for _, p := range plans(f) {
		f.Add(p, uint16(0), uint16(0), false)
		f.Add(p, uint16(13), uint16(2), true)
	}
	// A check of the last bytes of the address space.
	word := plans(f)[1]
	binary.LittleEndian.PutUint32(word[planHeader:], ^uint32(0))
	binary.LittleEndian.PutUint64(word[planHeader+16:], ^uint64(0)-3)
	f.Add(word, uint16(0), uint16(0), false)
	r := newRaw(f)
	f.Fuzz(func(t *testing.T, b []byte, even, odd uint16, fit bool) {
		if len(b) > areaSize {
			return
		}
		b = slices.Clone(b)
		if fit {
			repair(b)
		}
		even, odd = even%4096, odd%4096
		if even == eintr || odd == eintr {
			return // a call that is interrupted is made again
		}
		// A step may not end the process as if the plan were done, and a clone3 that is
		// answered with 0 would be the child.
		for at := planHeader; at+planStep <= len(b); at += planStep {
			if nr := int32(binary.LittleEndian.Uint32(b[at:])); nr == syscall.SYS_EXIT_GROUP || nr == numberHolder {
				binary.LittleEndian.PutUint32(b[at:], syscall.SYS_GETPID)
			}
			// Nor go on as a child whose clone3(2) was answered without being done.
			if int32(binary.LittleEndian.Uint32(b[at:])) == numberInside {
				binary.LittleEndian.PutUint32(b[at:], syscall.SYS_GETPID)
			}
		}
		base := r.area + areaSize - uintptr(len(b)) // up to the page that is not there
		memory := unsafe.Slice((*byte)(at(base)), len(b))
		copy(memory, b)
		reg := make([]int64, regCount)
		for i := range reg {
			reg[i] = int64(i) * 0x0101010101
		}
		copy(r.w.reg[:], reg)
		valid := plan.Validate(b)

		*r.order = order{do: doRun, plan: base, size: uintptr(len(b))}
		r.w.time = [2]int64{7, 11}
		r.answers(even, odd)
		status := r.start(t)
		require.True(t, status.Exited(), "%v", status)
		require.Zero(t, status.ExitStatus())

		want := model(b, uint64(base), reg, even, odd)
		got := outcome{r.order.done == 1, uint64(r.w.step), uint64(r.w.errno), uint64(r.w.noted), uint64(r.w.ended), want.refused}
		require.Equal(t, want, got)
		require.Equal(t, reg, r.w.reg[:])
		require.Equal(t, b, memory)
		if valid == nil {
			require.False(t, want.refused, "plan.Validate takes it, step %d refuses it", want.step)
		}
	})
}
