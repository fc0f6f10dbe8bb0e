package cgroup

import (
	"errors"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// folder is where the top group is in one hierarchy. Every call goes relative to
// its descriptor; close waits for those under way, so that none meets a number that
// has become another file's.
type folder struct {
	mu sync.RWMutex
	fd int // O_PATH; -1: closed
}

func newFolder(fd int) *folder { return &folder{fd: fd} }

// at makes a call with the descriptor, again where a signal came between.
func (f *folder) at(call func(fd int) error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	err := call(f.fd)
	for errors.Is(err, unix.EINTR) {
		err = call(f.fd)
	}
	return err
}

// openat opens what is below the folder.
func (f *folder) openat(rel string, flags int) (fd int, err error) {
	err = f.at(func(dir int) (err error) {
		fd, err = unix.Openat(dir, rel, flags|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// read reads a file of a group into buf, without memory of its own: figures are read
// often. The kernel gives a file that one function prints, as all but the lists of
// processes are, whole in one read.
func (f *folder) read(rel, name string, buf []byte) (n int, err error) {
	var at [512]byte
	if len(rel)+1+len(name) >= len(at) {
		return 0, unix.ENAMETOOLONG
	}
	end := copy(at[:], rel)
	at[end] = '/'
	copy(at[end+1:], name)
	var fd uintptr
	err = f.at(func(dir int) error {
		var errno unix.Errno
		fd, _, errno = unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&at[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	n, err = unix.Read(int(fd), buf)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(int(fd), buf)
	}
	_ = unix.Close(int(fd)) // read only
	return max(0, n), err
}

// rmdir removes an empty folder.
func (f *folder) rmdir(rel string) error {
	return f.at(func(dir int) error { return unix.Unlinkat(dir, rel, unix.AT_REMOVEDIR) })
}

// has tells whether it is there.
func (f *folder) has(rel string) bool {
	return f.at(func(dir int) error { return unix.Faccessat(dir, rel, unix.F_OK, 0) }) == nil
}

// leaf tells whether no group is below one: a folder's links are its own two and
// one for each folder in it.
func (f *folder) leaf(rel string) bool {
	var st unix.Stat_t
	err := f.at(func(dir int) error { return unix.Fstatat(dir, rel, &st, 0) })
	return err != nil || st.Nlink <= 2
}

func (f *folder) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fd := f.fd
	f.fd = -1
	return unix.Close(fd)
}
