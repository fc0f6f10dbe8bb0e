package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
)

// locks is the lock file of this network namespace, net-INODE in the state directory.
// Its bytes are locked by fcntl(2), F_OFD_SETLK, and the kernel drops a lock with its
// holder:
//
//   - byte 0, by whoever makes or removes what several have: bridges, their tables,
//     the file itself.
//   - of each bridge, from base(name) on, byte 0, shared by each program that uses it,
//     and byte n by the program whose container has the n-th address. The lock also
//     tells whose the links and tables are that have the same number in their names.
type locks struct {
	file *os.File
	mu   sync.Mutex // what byte 0 is for other programs
}

// slot is a bridge's part of the lock file, and of the names of its links: two bridges
// may share one, and then do not have the same addresses.
func slot(bridge string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(bridge)) // never fails
	return h.Sum32() & 0xfffff
}

func base(slot uint32) int64 { return (int64(slot) + 1) << 32 }

// lockPath is the file for the network namespace of the calling thread.
func lockPath(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: "/proc/thread-self/ns/net", Err: err}
	}
	return filepath.Join(dir, fmt.Sprintf("net-%d", st.Ino)), nil
}

// openLocks opens the lock file, made if needed, and returns with byte 0 locked.
func openLocks(ctx context.Context, dir string) (*locks, error) {
	if err := fault.At("open locks", dir); err != nil {
		return nil, err
	}
	path, err := lockPath(dir)
	if err != nil {
		return nil, err
	}
	for range 100 {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.ENOENT) {
			continue // the folder went with its last user
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		l := &locks{file: os.NewFile(uintptr(fd), path)}
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0) {
			err = fmt.Errorf("it belongs to uid %d with mode %#o: %w", st.Uid, st.Mode&0o7777, unix.EPERM)
		}
		if err == nil {
			err = l.lock(ctx)
		}
		if err == nil {
			err = unix.Fstat(fd, &st)
		}
		if err != nil {
			return nil, errors.Join(&os.PathError{Op: "lock", Path: path, Err: err}, l.file.Close())
		}
		if st.Nlink > 0 {
			return l, nil
		}
		if err := l.file.Close(); err != nil { // its last user has removed it
			return nil, err
		}
	}
	return nil, &os.PathError{Op: "open", Path: path, Err: unix.EBUSY}
}

func (l *locks) set(typ int16, start, length int64) error {
	lock := unix.Flock_t{Type: typ, Start: start, Len: length}
	err := unix.FcntlFlock(l.file.Fd(), unix.F_OFD_SETLK, &lock)
	return os.NewSyscallError("fcntl", err)
}

// heldByOthers tells whether another program holds a lock in a range; 0 is up to the end.
func (l *locks) heldByOthers(start, length int64) (bool, error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: length}
	if err := unix.FcntlFlock(l.file.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, os.NewSyscallError("fcntl", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// taken tells that a lock is another's.
func taken(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) }

// lock takes byte 0. Its holders do a few calls each; one that was stopped in them is
// waited for until the context ends.
func (l *locks) lock(ctx context.Context) error {
	l.mu.Lock()
	for {
		err := l.set(unix.F_WRLCK, 0, 1)
		if !taken(err) {
			if err != nil {
				l.mu.Unlock()
			}
			return err
		}
		select {
		case <-time.After(time.Millisecond): // nothing tells when a lock is free
		case <-ctx.Done():
			l.mu.Unlock()
			return context.Cause(ctx)
		}
	}
}

func (l *locks) unlock() error {
	defer l.mu.Unlock()
	return l.set(unix.F_UNLCK, 0, 1)
}

// close closes the file, and removes it where nobody else has a lock in it. With byte 0
// locked, which ends with it.
func (l *locks) close() error {
	defer l.mu.Unlock()
	others, err := l.heldByOthers(1, 0)
	if err == nil && !others {
		err = os.Remove(l.file.Name())
		// What the state directory has else is the launcher's, who removes it.
		if e := os.Remove(filepath.Dir(l.file.Name())); err == nil && e != nil && !errors.Is(e, unix.ENOTEMPTY) && !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
	}
	return errors.Join(err, l.file.Close())
}

// lockFiles are those of all network namespaces.
func lockFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "net-") {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, err
}
