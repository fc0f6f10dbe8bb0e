package launcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

// FirstID is the first id that is given to containers of root.
const FirstID = 524288

// State is a state directory in use. It holds two files:
//
//   - ids: byte n stands for the range of 65,536 ids from FirstID+n*65536 on,
//     and is locked (fcntl(2), F_OFD_SETLK) by the program whose container has
//     them. Every user of the directory holds a shared flock(2) on the file, so
//     that whoever gets it exclusively is the last and may remove it.
//   - owner-PID-N: flocked by a program and its launcher together, as the proof
//     that one of them lives.
//
// The launcher holds the same open files, so the locks last until both are gone.
type State struct {
	Path  string
	dir   int
	ids   int
	owner int
	name  string

	mu     sync.Mutex
	users  int // besides the launcher: who still has what the owner file names
	taken  map[uint32]bool
	closed bool
}

// DefaultStateDir is where state lies if nobody says otherwise.
func DefaultStateDir() string {
	if os.Geteuid() == 0 && firstNamespace() {
		return "/run/inlay"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "inlay")
	}
	return filepath.Join(os.TempDir(), "inlay-"+strconv.Itoa(os.Geteuid()))
}

// OpenState returns the launcher's hold on a state directory, made if needed.
func (l *Launcher) OpenState(ctx context.Context, path string) (*State, error) {
	l.mu.Lock()
	s := l.states[path]
	n := len(l.states)
	l.mu.Unlock()
	if s != nil {
		return s, nil
	}
	if n >= rawproc.MaxStates {
		return nil, &Error{Op: "open", Path: path, Err: unix.EMFILE, Remedy: fmt.Sprintf("one program may use %d state directories", rawproc.MaxStates)}
	}
	s, err := openState(path)
	if err != nil {
		return nil, &Error{Op: "state directory", Path: path, Err: err, Remedy: "make it writable for this user, or name another by WithStateDir"}
	}
	if err := l.hold(ctx, s, n); err != nil {
		s.remove()
		return nil, &Error{Op: "state directory", Path: path, Err: err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if other := l.states[path]; other != nil {
		s.remove()
		return other, nil
	}
	l.states[path] = s
	return s, nil
}

// hold hands the locks to the launcher, with what it shall do at its end.
func (l *Launcher) hold(ctx context.Context, s *State, n int) error {
	at := rawproc.FirstHeld + 3*n
	regs := &plan.Registers{}
	for range at {
		regs.New("-")
	}
	b := plan.NewBuilder(plan.Teardown, Arch, regs)
	b.RemoveState(at, at+1, s.name, s.Path)
	return l.keep(ctx, b.Plan(), at, []int{s.dir, s.ids, s.owner}, rawproc.FlagState)
}

// HoldGroups has the launcher remove control groups at its end, each with all
// below it: folder and name. fd is the folder of cgroup v2 in which inits are to
// be born, -1 for none; the number returned stands for it in a Request. What was
// asked for after the launcher died is ErrDied.
func (l *Launcher) HoldGroups(ctx context.Context, fd int, folders [][2]string, atEnd func()) (uint32, error) {
	l.mu.Lock()
	n := l.groups
	l.groups++
	l.mu.Unlock()
	if n >= rawproc.MaxGroups {
		return 0, &Error{Op: "hold", Path: "control groups", Err: unix.EMFILE, Remedy: fmt.Sprintf("one program may use %d parents of groups", rawproc.MaxGroups)}
	}
	b := plan.NewBuilder(plan.Teardown, Arch, &plan.Registers{})
	for _, f := range folders {
		b.RemoveGroups(f[0], f[1])
	}
	at, fds := uint32(0), []int(nil)
	if fd >= 0 {
		at, fds = rawproc.FirstGroup+n, []int{fd}
	}
	if err := l.keep(ctx, b.Plan(), int(max(at, rawproc.FirstGroup)), fds, 0); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isDead {
		return 0, ErrDied
	}
	l.atEnd = append(l.atEnd, atEnd)
	return at, nil
}

// Bequeath has the launcher, at its end and after all else, become this program anew,
// with the arguments that heir returns, the name first, where there is a file at path
// then. It is for what takes more than a few system calls to remove. A launcher has one
// heir: only the first is asked for.
func (l *Launcher) Bequeath(ctx context.Context, heir func() (args []string, path string, err error)) error {
	l.mu.Lock()
	first := !l.heir
	l.heir = true
	l.mu.Unlock()
	if !first {
		return nil
	}
	args, path, err := heir()
	if err == nil {
		b := plan.NewBuilder(plan.Teardown, Arch, &plan.Registers{})
		b.Openat(plan.CWD, path, plan.OPATH|plan.OCLOEXEC, 0, "left")
		env := launcherEnv()
		b.Execve("/proc/self/exe", b.Strings(args), b.Strings(env), len(args), len(env))
		err = l.keep(ctx, b.Plan(), rawproc.FirstHeld, nil, rawproc.FlagLast)
	}
	if err != nil {
		l.mu.Lock()
		l.heir = false
		l.mu.Unlock()
	}
	return err
}

// keep hands descriptors to the launcher, at its numbers from at on, with a plan
// for its end.
func (l *Launcher) keep(ctx context.Context, p *plan.Plan, at int, fds []int, flags uint32) error {
	end, err := p.Encode(Arch)
	if err != nil {
		return err
	}
	c := make(chan error, 1)
	l.mu.Lock()
	if l.isDead { // and has told those who waited
		l.mu.Unlock()
		return ErrDied
	}
	l.nextID++
	id := l.nextID
	l.held[id] = c
	l.mu.Unlock()
	h := rawproc.Header{Op: rawproc.OpHold, ID: id, Register: uint32(at), Flags: flags}
	if err := l.request(ctx, h, end, fds); err != nil {
		return err
	}
	select {
	case err := <-c:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func openState(path string) (*State, error) {
	for range 100 {
		s, err := tryState(path)
		if err == nil || !errors.Is(err, unix.ENOENT) || !errors.Is(err, errRemoved) {
			return s, err
		}
		// The last user removed it between two of our steps.
	}
	return nil, errors.New("it is removed again and again")
}

var errRemoved = errors.New("removed meanwhile")

func tryState(path string) (_ *State, err error) {
	made := os.Mkdir(path, 0o700)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return nil, made
	}
	if made == nil {
		// The program's umask may have taken from the mode. Nobody else can put
		// anything in its place: the folder above is the system's or sticky.
		if err := unix.Fchmodat(unix.AT_FDCWD, path, 0o700, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	s := &State{Path: path, dir: -1, ids: -1, owner: -1, taken: map[uint32]bool{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.dir, err = unix.Open(path, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = errors.Join(errRemoved, err)
		}
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.dir, &st); err != nil {
		return nil, err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("it belongs to uid %d with mode %#o: others could write there: %w", st.Uid, st.Mode&0o7777, unix.EPERM)
	}
	s.ids, err = unix.Openat(s.dir, "ids", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = errors.Join(errRemoved, err)
		}
		return nil, err
	}
	// The last user holds it exclusively only while it removes the file.
	err = unix.Flock(s.ids, unix.LOCK_SH)
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(s.ids, unix.LOCK_SH)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Fstat(s.ids, &st); err != nil {
		return nil, err
	}
	if st.Nlink == 0 {
		return nil, errors.Join(errRemoved, unix.ENOENT)
	}
	if st.Mode&0o777 != 0o600 { // the umask again
		if err := unix.Fchmod(s.ids, 0o600); err != nil {
			return nil, err
		}
	}
	for n := 0; ; n++ {
		s.name = fmt.Sprintf("owner-%d-%d", os.Getpid(), n)
		s.owner, err = unix.Openat(s.dir, s.name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return s, unix.Flock(s.owner, unix.LOCK_EX|unix.LOCK_NB)
	}
}

func (s *State) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, fd := range []int{s.owner, s.ids, s.dir} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Retain keeps the owner file, also after the launcher died, until Release: what
// it names is still there.
func (s *State) Retain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

// Release undoes one Retain.
func (s *State) Release() { s.remove() }

// remove takes the owner file away, the rest if nobody else uses it, and lets go;
// the last who has it does.
func (s *State) remove() {
	s.mu.Lock()
	s.users--
	last := s.users < 0
	s.mu.Unlock()
	if !last {
		return
	}
	_ = unix.Unlinkat(s.dir, s.name, 0)
	if unix.Flock(s.ids, unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = unix.Unlinkat(s.dir, "ids", 0)
		_ = unix.Rmdir(s.Path) // not empty: files of somebody else's
	}
	s.close()
}

// TakeRange finds a range of ids that no other container uses, and keeps it
// until GiveBack.
func (s *State) TakeRange() (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrDied
	}
	foreign, err := subordinateOfOthers()
	if err != nil {
		return 0, err
	}
	const last = (1<<32 - 2 - FirstID) / RangeSize
	for n := uint32(0); n < last; n++ {
		if s.taken[n] {
			continue
		}
		first := FirstID + n*RangeSize
		if overlaps(foreign, first) || !rangeIsOurs(first) {
			continue
		}
		lock := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(n), Len: 1}
		err := unix.FcntlFlock(uintptr(s.ids), unix.F_OFD_SETLK, &lock)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			continue // another program's
		}
		if err != nil {
			return 0, os.NewSyscallError("fcntl", err)
		}
		s.taken[n] = true
		return first, nil
	}
	return 0, errors.New("all ranges of ids are taken")
}

// Record writes a line into the owner file, before what it names is made: for
// those who find the file after its owners were killed.
func (s *State) Record(line string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrDied
	}
	if _, err := unix.Seek(s.owner, 0, unix.SEEK_END); err != nil {
		return err
	}
	_, err := unix.Write(s.owner, []byte(line+"\n"))
	return os.NewSyscallError("write", err)
}

// GiveBack lets others have the range.
func (s *State) GiveBack(first uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil // with the launcher went all locks
	}
	n := (first - FirstID) / RangeSize
	delete(s.taken, n)
	lock := unix.Flock_t{Type: unix.F_UNLCK, Start: int64(n), Len: 1}
	return os.NewSyscallError("fcntl", unix.FcntlFlock(uintptr(s.ids), unix.F_OFD_SETLK, &lock))
}

func overlaps(list []user.SubID, first uint32) bool {
	for _, r := range list {
		if r.Count > 0 && r.SubID < int64(first)+RangeSize && r.SubID > int64(first)-r.Count {
			return true
		}
	}
	return false
}

var subordinates struct {
	sync.Mutex
	stamp string
	list  []user.SubID
}

// subordinateOfOthers is what /etc/subuid and /etc/subgid give away, read again
// when they change.
func subordinateOfOthers() ([]user.SubID, error) {
	stamp := ""
	for _, path := range []string{SubUIDPath, SubGIDPath} {
		if st, err := os.Stat(path); err == nil {
			stamp += fmt.Sprint(st.ModTime().UnixNano(), st.Size(), ";")
		}
	}
	subordinates.Lock()
	defer subordinates.Unlock()
	if subordinates.stamp == stamp {
		return subordinates.list, nil
	}
	var list []user.SubID
	for _, path := range []string{SubUIDPath, SubGIDPath} {
		l, err := user.ParseSubIDFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		list = append(list, l...)
	}
	subordinates.stamp, subordinates.list = stamp, list
	return list, nil
}

// Kept is what PruneState could not remove.
type Kept struct {
	Path string
	Err  error
}

// PruneState removes what programs left in a state directory that were killed
// together with their launcher, and returns the names. clean removes what the
// lines of an owner file name, and tells what that was; where it fails, the file
// stays for the next time.
func PruneState(path string, clean func(line string) (string, error)) (removed []string, kept []Kept, err error) {
	s, err := openExisting(path)
	if err != nil || s == nil {
		return nil, nil, err
	}
	defer s.remove()
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "owner-") || e.Name() == s.name {
			continue
		}
		fd, err := unix.Openat(s.dir, e.Name(), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
			gone, left := cleanAll(fd, clean)
			owner := filepath.Join(path, e.Name())
			if len(left) == 0 {
				if err := unix.Unlinkat(s.dir, e.Name(), 0); err == nil {
					gone = append(gone, owner)
				} else if !errors.Is(err, unix.ENOENT) {
					left = append(left, Kept{owner, os.NewSyscallError("unlinkat", err)})
				}
			}
			removed, kept = append(removed, gone...), append(kept, left...)
		}
		_ = unix.Close(fd)
	}
	return removed, kept, nil
}

// cleanAll has every line of an owner file cleaned up. A line is written before what
// it names is made: what was cut off in writing names nothing, or something else.
func cleanAll(fd int, clean func(line string) (string, error)) (removed []string, kept []Kept) {
	var text []byte
	for buf := make([]byte, 64<<10); ; {
		n, err := unix.Pread(fd, buf, int64(len(text)))
		if err != nil {
			return nil, []Kept{{"owner file", os.NewSyscallError("pread", err)}}
		}
		if n == 0 {
			break
		}
		text = append(text, buf[:n]...)
	}
	for line := range strings.Lines(string(text)) {
		line, whole := strings.CutSuffix(line, "\n")
		if !whole {
			break
		}
		path, err := clean(line)
		switch {
		case err != nil:
			kept = append(kept, Kept{path, err})
		case path != "":
			removed = append(removed, path)
		}
	}
	return removed, kept
}

func openExisting(path string) (*State, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return openState(path)
}
