package quota

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
)

// Budget is the limit of one folder.
type Budget struct {
	dir    *os.File
	id     uint32
	own    bool    // the folder's project was there before
	before fsxattr // the folder's own, to be restored
	limits dqblk   // of the project, as they were
	key    [2]uint64
}

// claimed are the folders that have a budget now, by device and inode.
var claimed struct {
	sync.Mutex
	by map[[2]uint64]bool
}

// From include/uapi/linux/fs.h and quota.h, which x/sys does not have.
const (
	getXattr, setXattr = 0x801c581f, 0x401c5820 // FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
	inherit            = 0x200                  // FS_XFLAG_PROJINHERIT
	project            = 2                      // PRJQUOTA
	getQuota           = 0x800007<<8 | project
	setQuota           = 0x800008<<8 | project
	getState           = ('X'<<8+8)<<8 | project // Q_XGETQSTATV
	enforced           = 1 << 5                  // FS_QUOTA_PDQ_ENFD
	blockLimits        = 1                       // QIF_BLIMITS
	inodeLimits        = 4                       // QIF_ILIMITS
	blockSize          = 1024                    // QIF_DQBLKSIZE
)

type fsxattr struct {
	flags, extent, extents, project, cow uint32
	_                                    [8]byte
}

type dqblk struct {
	blockHard, blockSoft, space  uint64
	inodeHard, inodeSoft, inodes uint64
	blockTime, inodeTime         uint64
	valid                        uint32
	_                            uint32
}

// state is struct fs_quota_statv, of which only the flags matter.
type state struct {
	version int8
	_       uint8
	flags   uint16
	_       [156]byte
}

const remedy = "a folder on ext4 (made with -O quota,project) or XFS, mounted with prjquota"

// Check tells whether a folder could have a budget, and changes nothing.
func Check(path string) error {
	b, err := look(path)
	if err != nil {
		return err
	}
	return b.dir.Close()
}

// Claim gives a folder a budget: size bytes and inodes files and folders at most,
// what is in it included; 0 leaves one of them open. It must be empty, or have a
// project of its own already, which all in it has and all folders hand on (chattr -p
// and +P), or what was in it before would not count. Needs root, and Linux 5.14.
func Claim(path string, size, inodes int64) (_ *Budget, err error) {
	b, err := look(path)
	if err != nil {
		return nil, err
	}
	claimed.Lock()
	defer claimed.Unlock()
	if claimed.by[b.key] {
		return nil, errors.Join(&Error{
			Op: "claim", Path: path, Err: fmt.Errorf("another container has it with a budget: %w", unix.EBUSY), Remedy: "one folder for each",
		}, b.dir.Close())
	}
	if b.own {
		b.id = b.before.project
		err = b.get(b.id, &b.limits)
	} else {
		err = b.tag()
	}
	if err == nil {
		err = b.limit(size, inodes)
	}
	if err != nil {
		return nil, errors.Join(&Error{Op: "set the quota of", Path: path, Err: err, Remedy: "root of the host may set quotas"}, b.untag(), b.dir.Close())
	}
	if claimed.by == nil {
		claimed.by = map[[2]uint64]bool{}
	}
	claimed.by[b.key] = true
	return b, nil
}

// look opens a folder and finds out whether it can have a budget.
func look(path string) (_ *Budget, err error) {
	fail := func(op string, err error, remedy string) (*Budget, error) {
		return nil, &Error{Op: op, Path: path, Err: err, Remedy: remedy}
	}
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open", err, "a budget is for a folder")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.Close())
		}
	}()
	b := &Budget{dir: dir}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return fail("stat", err, "")
	}
	b.key = [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // 32 bits elsewhere
	s := state{version: 1}
	switch err := b.call(getState, 0, unsafe.Pointer(&s)); {
	case errors.Is(err, unix.ENOSYS) && !hasCall():
		return fail("quotactl_fd", err, "Linux 5.14 or later")
	case err != nil:
		return fail("quotactl_fd", fmt.Errorf("the file system has no project quotas: %w", err), remedy)
	case s.flags&enforced == 0:
		return fail("quotactl_fd", fmt.Errorf("project quotas are not enforced: %w", errors.ErrUnsupported), remedy)
	}
	if err := b.ioctl(getXattr, &b.before); err != nil {
		return fail("FS_IOC_FSGETXATTR", err, remedy)
	}
	if b.own, err = b.hasOwnProject(path); err != nil {
		return fail("FS_IOC_FSGETXATTR", err, "")
	}
	if !b.own {
		switch _, err := dir.Readdirnames(1); {
		case err == nil:
			return fail("read", fmt.Errorf("it is not empty: %w", unix.ENOTEMPTY), "an empty folder, or one that has a project of its own: chattr -R -p ID "+path+"; find "+path+" -type d -exec chattr +P {} +")
		case !errors.Is(err, io.EOF):
			return fail("read", err, "")
		}
	}
	return b, nil
}

// Release takes the limit off again. Files keep the project's number, which
// nothing counts any more.
func (b *Budget) Release() error {
	claimed.Lock()
	defer claimed.Unlock()
	delete(claimed.by, b.key)
	b.limits.valid = blockLimits | inodeLimits // of a project that was made for it: none
	err := fault.At("quota", b.dir.Name())
	if err == nil {
		err = b.set(b.id, &b.limits)
	}
	if err = errors.Join(err, b.untag(), b.dir.Close()); err != nil {
		return &Error{Op: "release", Path: b.dir.Name(), Err: err}
	}
	return nil
}

// hasCall tells whether this kernel has quotactl_fd(2) at all: file systems without
// quotas answer as if it had not.
func hasCall() bool {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, ^uintptr(0), getState, 0, 0, 0, 0)
	return errno != unix.ENOSYS
}

// hasOwnProject tells whether the folder's project is not its parent's too.
func (b *Budget) hasOwnProject(path string) (bool, error) {
	if b.before.project == 0 || b.before.flags&inherit == 0 {
		return false, nil
	}
	parent, err := os.Open(filepath.Join(path, ".."))
	if err != nil {
		return false, err
	}
	defer parent.Close() //nolint:errcheck // a folder
	var above fsxattr
	if err := (&Budget{dir: parent}).ioctl(getXattr, &above); err != nil {
		return false, err
	}
	return above.project != b.before.project, nil
}

// tag gives the folder a project that nothing has.
func (b *Budget) tag() error {
	for range 100 {
		id := 1<<24 + rand.Uint32N(1<<30) //nolint:gosec // a number, no secret
		var d dqblk
		err := b.get(id, &d)
		if errors.Is(err, unix.ENOENT) { // XFS: nobody has it
			err = nil
		}
		if err != nil {
			return err
		}
		if d.blockHard|d.blockSoft|d.space|d.inodeHard|d.inodeSoft|d.inodes != 0 {
			continue
		}
		b.id = id
		x := b.before
		x.project, x.flags = id, x.flags|inherit
		return b.ioctl(setXattr, &x)
	}
	return unix.EBUSY
}

func (b *Budget) untag() error {
	if b.own || b.id == 0 {
		return nil
	}
	return b.ioctl(setXattr, &b.before)
}

// limit sets the limits; the folder itself, where it was empty, is not the job's.
func (b *Budget) limit(size, inodes int64) error {
	if err := fault.At("quota", b.dir.Name()); err != nil {
		return err
	}
	d := dqblk{valid: blockLimits | inodeLimits}
	var now dqblk
	if !b.own {
		if err := b.get(b.id, &now); err != nil {
			return err
		}
	}
	if size > 0 {
		d.blockHard = (uint64(size) + now.space + blockSize - 1) / blockSize
	}
	if inodes > 0 {
		d.inodeHard = uint64(inodes) + now.inodes
	}
	return b.set(b.id, &d)
}

func (b *Budget) get(id uint32, d *dqblk) error {
	return b.call(getQuota, id, unsafe.Pointer(d))
}

func (b *Budget) set(id uint32, d *dqblk) error {
	return b.call(setQuota, id, unsafe.Pointer(d))
}

func (b *Budget) call(cmd int, id uint32, data unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, b.dir.Fd(), uintptr(cmd), uintptr(id), uintptr(data), 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return errno
	}
	return nil
}

func (b *Budget) ioctl(request uintptr, x *fsxattr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, b.dir.Fd(), request, uintptr(unsafe.Pointer(x)))
	runtime.KeepAlive(b)
	if errno != 0 {
		return errno
	}
	return nil
}
