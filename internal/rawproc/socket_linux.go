//go:build amd64 || arm64

package rawproc

import (
	"syscall"
	"unsafe"
)

// socket makes a socket in init's network namespace, binds or connects it as asked,
// and sends it to the host. It never blocks: a connection may be under way when the
// host gets it. Init does that, and not the host with the socket, so that whatever it
// takes is no more than what is allowed inside the container.
//
//go:norace
//go:nocheckptr
func (w *world) socket(address uintptr) {
	const einprogress = 115
	size := uintptr(w.head.Size)
	if size == 0 || w.head.Flags&FlagPath != 0 && (load8(address+size-1) != 0 || uintptr(w.head.Register) >= size) {
		w.say(initSocket, AnsOpened, w.head.ID, PhaseExec, SocketMade, einval)
		return
	}
	step := uint32(SocketMade)
	fd, errno := call(syscall.SYS_SOCKET, uintptr(w.head.Prepare), uintptr(w.head.Parent)|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, uintptr(w.head.Teardown), 0, 0, 0)
	if errno == 0 {
		step = SocketSet
		errno = w.socketOptions(fd)
	}
	switch listening := w.head.Signal != 0; {
	case errno != 0:
	case listening:
		step = SocketBound
		if w.head.Flags&FlagPath != 0 {
			errno = w.bindPath(fd, address)
		} else {
			_, errno = call(syscall.SYS_BIND, fd, address, size, 0, 0, 0)
		}
		if errno == 0 {
			step = SocketListens
			_, errno = call(syscall.SYS_LISTEN, fd, uintptr(w.head.Signal), 0, 0, 0, 0)
		}
	default:
		step = SocketConnected
		if w.head.Flags&FlagPath != 0 {
			errno = w.connectPath(fd, address)
		} else {
			_, errno = call(syscall.SYS_CONNECT, fd, address, size, 0, 0, 0)
		}
		if errno == einprogress {
			errno = 0
		}
	}
	if errno != 0 {
		w.say(initSocket, AnsOpened, w.head.ID, PhaseExec, step, uint32(errno))
		return
	}
	w.answer = Answer{Op: AnsOpened, ID: w.head.ID}
	w.send(initSocket, int32(fd))
}

// socketOptions sets what must be set before a socket has an address.
//
//go:norace
//go:nocheckptr
func (w *world) socketOptions(fd uintptr) (errno uintptr) {
	const v6Only = 26
	for bit := uint32(1); bit <= SocketV6AndV4 && errno == 0; bit <<= 1 {
		level, name := uintptr(solSocket), uintptr(syscall.SO_REUSEADDR)
		store32(w.base()+unsafe.Offsetof(w.byte), 1)
		switch w.head.StepIn & bit {
		case 0:
			continue
		case SocketBroadcast:
			name = syscall.SO_BROADCAST
		case SocketV6Only:
			level, name = syscall.IPPROTO_IPV6, v6Only
		case SocketV6AndV4:
			level, name = syscall.IPPROTO_IPV6, v6Only
			store32(w.base()+unsafe.Offsetof(w.byte), 0)
		}
		_, errno = call(syscall.SYS_SETSOCKOPT, fd, level, name, w.base()+unsafe.Offsetof(w.byte), 4, 0)
	}
	return errno
}

// connectPath connects to what a path below the root leads to. Like open's it is
// resolved without magic links, and what was found is what is connected to, whatever
// the path leads to by then.
//
//go:norace
//go:nocheckptr
func (w *world) connectPath(fd, path uintptr) uintptr {
	file, errno := w.lookup(path, 0)
	if errno != 0 {
		return errno
	}
	const prefix = "/proc/self/fd/"
	n := uintptr(0)
	for ; n < uintptr(len(prefix)); n++ {
		w.address[(2+n)%addressSize] = prefix[n]
	}
	digits := uintptr(1)
	for v := file; v >= 10; v /= 10 {
		digits++
	}
	for i := digits; i > 0; i-- {
		w.address[(2+n+i-1)%addressSize] = byte('0' + file%10)
		file /= 10
	}
	w.address[0], w.address[1] = syscall.AF_UNIX, 0
	w.address[(2+n+digits)%addressSize] = 0
	_, errno = call(syscall.SYS_CONNECT, fd, w.base()+unsafe.Offsetof(w.address), 2+n+digits+1, 0, 0, 0)
	return errno
}

// bindPath makes the file of a socket: of the path, its folder comes first, and what it
// is called there from Register on. The folder is resolved as open does it, and the
// name in it is not followed. All in the container may connect whom the folder lets
// through.
//
//go:norace
//go:nocheckptr
func (w *world) bindPath(fd, path uintptr) uintptr {
	dir, errno := w.lookup(path, syscall.O_DIRECTORY)
	if errno != 0 {
		return errno
	}
	name, size := path+uintptr(w.head.Register), uintptr(w.head.Size)-uintptr(w.head.Register)
	if size > maxName {
		return enametoolong
	}
	w.address[0], w.address[1] = syscall.AF_UNIX, 0
	for i := uintptr(0); i < size; i++ {
		w.address[(2+i)%addressSize] = load8(name + i)
	}
	if _, errno = call(syscall.SYS_FCHDIR, dir, 0, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	mask, _ := call(syscall.SYS_UMASK, 0, 0, 0, 0, 0, 0)
	_, errno = call(syscall.SYS_BIND, fd, w.base()+unsafe.Offsetof(w.address), 2+size, 0, 0, 0)
	call(syscall.SYS_UMASK, mask, 0, 0, 0, 0, 0)
	w.path[0], w.path[1] = '/', 0
	call(syscall.SYS_CHDIR, w.base()+unsafe.Offsetof(w.path), 0, 0, 0, 0, 0) // it was there before
	return errno
}

// lookup opens as O_PATH what a path below the root leads to.
//
//go:norace
//go:nocheckptr
func (w *world) lookup(path uintptr, flags uint64) (fd, errno uintptr) {
	w.path[0], w.path[1] = '/', 0
	root, errno := call(syscall.SYS_OPENAT, ^uintptr(99), w.base()+unsafe.Offsetof(w.path), oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	w.how[0], w.how[1], w.how[2] = oPath|syscall.O_CLOEXEC|flags, 0, inRoot|noMagicLinks
	return call(sysOpenat2, root, path, w.base()+unsafe.Offsetof(w.how), 24, 0, 0)
}

const (
	addressSize  = 112 // more than struct sockaddr_un has
	maxName      = 108 // of its sun_path
	enametoolong = 36
)
