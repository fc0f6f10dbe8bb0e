//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

const (
	regCount   = 2048
	stackSize  = 64 << 10
	bufferSize = 64 << 10
)

// world is all the memory that the raw code has, in one mapping that the Go
// runtime does not know. It holds no pointers. A fork gets a copy; a job shares
// its init's until execve.
type world struct {
	g       [4096]byte   // a zeroed g: stackguard0 is 0, so no stack check fails
	tls     [512]uintptr // every slot holds &g, whatever offset the build mode reads
	reg     [regCount]int64
	fds     [MaxRequestFDs]int32
	nfds    uintptr
	first   uintptr // the first of fds that belongs to the plans
	kept    uintptr // how many folders init has from initKept on
	sock    uintptr // the socket of the init that is about to be cloned
	pass    [MaxFDs]int32
	passReg [MaxFDs]uint32
	npass   uintptr
	jobs    [MaxJobs]job
	kids    [MaxKids]kid
	top     uintptr // no kid is in this slot or above
	held    [MaxHeld]kid
	nheld   uintptr
	head    Header
	answer  Answer
	msg     msghdr
	iov     iovec
	iovs    [2]iovec
	goHead  Header
	control [1024]byte
	poll    [2]pollfd
	info    [128 * 8]byte // struct signalfd_siginfo
	clone   cloneArgs
	pidfd   int32
	status  int32
	time    [2]int64
	rusage  [18]int64
	mask    uint64
	pair    [2]int32 // from an init to its launcher, until the init has begun
	path    [64]byte
	address [addressSize]byte // struct sockaddr_un
	how     [3]uint64
	offsets [2]int64  // where copyBytes is
	attr    [4]uint64 // struct mount_attr
	listing [4096]byte
	sweep   [264]byte // the name of a group that is about to be removed
	action  [4]uint64 // struct sigaction
	byte    [8]byte
	spare   spare
	lent    [maxLent]uint32 // processes that open files for the host
	holder  uintptr         // a process that holds a user namespace, while a plan needs it
	hostEnd bool
	hung    bool // inits are left whose end was not waited for
	user    bool // the launcher made a user namespace

	// Of the launcher's beginning.
	forked  int64   // its process id, or the negated errno
	room    uintptr // where to map what is kept, so that it shares page tables; 0: anywhere
	program program
	mapping mapping

	// How the last plan ended.
	step  uintptr // the failing step, from 1
	errno uintptr
	noted uintptr // the last tolerated errno that is more telling than ENOENT
	ended uintptr // its step

	// Where the times of a timed plan's steps go; 0: it is not.
	times uintptr
	// The plans that are to be written back, and where to; 0: they are not.
	traced      uintptr
	traceFile   uintptr
	began, done int64 // of a traced spawn: after prepare, and before init begins

	// What entered goes to: a user namespace; the program's path, arguments, environment.
	enter [4]uintptr
	saved uint64 // its caller's signal mask

	// What the next vforked job shall do, and what came of it.
	plan, planSize uintptr
	jobErr         uint32
	jobStep        uint32

	// The steps that a child inside a PID namespace does: see inside.
	inFrom, inCount, inData, inSize uintptr

	mounts mounts // of remount
	buffer [bufferSize]byte
	stack  [stackSize]byte
	_      [64]byte
	vstack [stackSize]byte
	_      [64]byte
}

type job struct {
	pid   uint32
	id    uint32
	flags uint32
	_     uint32
}

type kid struct {
	pid      uint32
	id       uint32  // of what is held: its flags
	teardown uintptr // a mapping of its own
	size     uintptr
}

// spare is an init that was cloned ahead and waits to be told whose it is. Its
// channel and its pidfd have numbers of their own.
type spare struct {
	pid   uintptr // 0: there is none
	flags uint64  // its namespaces
	group uint32  // the group that it was born in
	want  uint64  // the flags that were asked for last
	asked uint32  // how often in a row

	wantGroup uint32 // and the group
	after     int64  // how many nanoseconds without a request pass before one is made
}

type msghdr struct {
	name       uintptr
	namelen    uint64
	iov        uintptr
	iovlen     uint64
	control    uintptr
	controllen uint64
	flags      int64
}

type iovec struct{ base, len uintptr }

type pollfd struct {
	fd      int32
	events  int16
	revents int16
}

// cloneArgs is struct clone_args of clone3(2), version 2.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// at makes a pointer of an address outside the Go heap.
//
//go:norace
//go:nocheckptr
func at(addr uintptr) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&addr))
}

//go:norace
//go:nocheckptr
func load64(addr uintptr) uint64 { return *(*uint64)(at(addr)) }

//go:norace
//go:nocheckptr
func load32(addr uintptr) uint32 { return *(*uint32)(at(addr)) }

//go:norace
//go:nocheckptr
func load16(addr uintptr) uint16 { return *(*uint16)(at(addr)) }

//go:norace
//go:nocheckptr
func load8(addr uintptr) uint8 { return *(*uint8)(at(addr)) }

//go:norace
//go:nocheckptr
func store32(addr uintptr, v uint32) { *(*uint32)(at(addr)) = v }

//go:norace
//go:nocheckptr
func store64(addr uintptr, v uint64) { *(*uint64)(at(addr)) = v }

// call is a system call; the second result is the errno.
//
//go:norace
//go:nocheckptr
func call(nr, a, b, c, d, e, f uintptr) (uintptr, uintptr) {
	r, _, errno := syscall.RawSyscall6(nr, a, b, c, d, e, f)
	return r, uintptr(errno)
}

//go:norace
//go:nocheckptr
func exit(code uintptr) {
	for {
		call(syscall.SYS_EXIT_GROUP, code, 0, 0, 0, 0, 0)
	}
}

// What the processes are called in ps; a job's is its own from its execve on.
const (
	nameLauncher = "inlay-launcher\x00"
	nameSpare    = "inlay-spare\x00"
	nameStepIn   = "inlay-step-in\x00"
	nameInit     = "inlay-init\x00"
	nameFiles    = "inlay-files\x00"
)

// called sets the process's name. A constant lies in the program's read-only
// data, which every fork has.
//
//go:norace
//go:nocheckptr
func called(name string) {
	const setName = 15
	call(syscall.SYS_PRCTL, setName, uintptr(unsafe.Pointer(unsafe.StringData(name))), 0, 0, 0, 0)
}

// now is CLOCK_MONOTONIC in nanoseconds.
//
//go:norace
//go:nocheckptr
func (w *world) now() int64 {
	call(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&w.time)), 0, 0, 0, 0)
	return w.time[0]*1e9 + w.time[1]
}
