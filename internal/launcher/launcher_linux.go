package launcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher/boot"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

// Launcher is the running launcher of this program.
type Launcher struct {
	// User tells that the launcher has a user namespace of its own, with these
	// id maps; containers nest below it. Without, it has the host's.
	User bool
	UIDs []IDMap
	GIDs []IDMap
	// MapsNote says why the maps hold a single id, where they do.
	MapsNote string

	pid   int
	pidfd int
	sock  int

	sendMu sync.Mutex // one request at a time: it may be several messages

	mu     sync.Mutex
	poll   *poller
	users  int // who keeps the poller running
	inits  map[uint32]*Init
	nextID uint32
	held   map[uint32]chan error
	states map[string]*State
	groups uint32   // how many control groups the launcher holds
	heir   bool     // Bequeath was called
	atEnd  []func() // to be called when it died
	isDead bool
}

// Error is an operation of starting or reaching the launcher that failed.
type Error struct {
	Op     string
	Path   string
	Err    error
	Remedy string
}

// Error says what was tried, and the remedy where there is one.
func (e *Error) Error() string {
	msg := strings.TrimSpace(e.Op+" "+e.Path) + ": " + e.Err.Error()
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// Unwrap returns the kernel's answer.
func (e *Error) Unwrap() error { return e.Err }

// ErrNoTurn means that the program ran as itself where the launcher should have
// begun.
var ErrNoTurn = errors.New("the launcher did not begin")

// ErrDied means that the launcher ended while it was needed.
var ErrDied = errors.New("the launcher died")

var (
	currentMu sync.Mutex
	current   *Launcher
)

// Acquire returns the launcher of this program and keeps it watched until
// Release. It starts one where none runs. For concurrent use.
func Acquire(ctx context.Context) (*Launcher, error) {
	currentMu.Lock()
	defer currentMu.Unlock()
	if current != nil {
		if err := current.retain(); err == nil {
			return current, nil
		}
		current.died()
		current = nil
	}
	type result struct {
		l   *Launcher
		err error
	}
	// A fresh goroutine: the caller's may be locked to a thread that is in
	// another namespace.
	c := make(chan result, 1)
	go func() {
		l, err := start(ctx)
		c <- result{l, err}
	}()
	r := <-c
	if r.err != nil {
		return nil, r.err
	}
	if err := r.l.retain(); err != nil {
		r.l.died()
		return nil, err
	}
	current = r.l
	counts.started.Add(1)
	return current, nil
}

// retain starts the poller for the first user.
func (l *Launcher) retain() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isDead {
		return ErrDied
	}
	if l.users == 0 {
		// Nobody watched meanwhile: is it still there?
		// What it has said meanwhile waits to be read: only its end counts. A child
		// that it was about to make may hold the socket a moment longer.
		ends := []unix.PollFd{{Fd: int32(l.sock), Events: unix.POLLRDHUP}, {Fd: int32(l.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(ends, 0)
		for errors.Is(err, unix.EINTR) { // even without a wait: a signal was pending
			n, err = unix.Poll(ends, 0)
		}
		if err != nil || n != 0 {
			return ErrDied
		}
	}
	if l.users == 0 {
		p, err := newPoller()
		if err != nil {
			return err
		}
		if err := p.add(l.sock, l.answers); err != nil {
			p.close()
			return err
		}
		l.poll = p
	}
	l.users++
	return nil
}

// Release undoes one Acquire. After the last the program has no goroutine of
// ours; the launcher itself stays, for the next.
func (l *Launcher) Release() {
	l.mu.Lock()
	l.users--
	var p *poller
	if l.users == 0 {
		p, l.poll = l.poll, nil
	}
	l.mu.Unlock()
	if p != nil {
		p.close()
		<-p.done
	}
}

// reapChild waits for a child of ours by its pid; a host that waits for any
// child may have taken it.
func reapChild(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// PID is the launcher's process id.
func (l *Launcher) PID() int { return l.pid }

// Userns opens the launcher's user namespace. The caller closes the file.
func (l *Launcher) Userns() (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", l.pid))
	if err != nil {
		return nil, err
	}
	// The number was the launcher's own if it is there still: it is not reaped before.
	if err := unix.PidfdSendSignal(l.pidfd, 0, nil, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// NeedsUser tells that the launcher needs a user namespace of its own: this
// process lacks CAP_SYS_ADMIN, or is in a user namespace without the ids that
// containers of root get.
func NeedsUser() bool { return !capable(unix.CAP_SYS_ADMIN) || !rangeIsOurs(FirstID) }

// OwnsNetwork tells that this process has power over its network namespace: as root of
// the machine, or of the user namespace that the network namespace belongs to.
func OwnsNetwork() bool {
	if !capable(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN) {
		return false
	}
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // only asked
	owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return false // of a user namespace above this process's
	}
	var its, own unix.Stat_t
	err = errors.Join(unix.Fstat(owner, &its), unix.Close(owner), unix.Stat("/proc/self/ns/user", &own))
	return err == nil && its.Ino == own.Ino
}

// capable tells whether this process has all of the capabilities, in its own
// user namespace.
func capable(caps ...uint) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.Geteuid() == 0
	}
	for _, c := range caps {
		if data[0].Effective&(1<<c) == 0 {
			return false
		}
	}
	return true
}

// minFiles is how many descriptors a launcher and an init need for a container
// without mounts and files of its own.
const minFiles = 100

// whole is set by KeepWhole.
var whole atomic.Bool

// KeepWhole has a launcher that starts from now on keep the memory of the Go runtime
// that it was forked from, which it would unmap: for the bench to compare.
func KeepWhole() { whole.Store(true) }

func start(ctx context.Context) (*Launcher, error) {
	if !rawproc.Supported {
		return nil, &Error{Op: "start the launcher", Err: fmt.Errorf("this architecture is not supported in this version: %w", errors.ErrUnsupported), Remedy: "run on linux/amd64 or linux/arm64"}
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil && files.Max < minFiles {
		return nil, &Error{
			Op: "start the launcher", Err: fmt.Errorf("the hard limit of open files is %d: %w", files.Max, unix.EMFILE),
			Remedy: fmt.Sprintf("raise it to %d at least: ulimit -Hn, or LimitNOFILE= of the service", minFiles),
		}
	}
	// What is written below /proc/PID would be another process's.
	if self, err := os.Readlink("/proc/self"); err == nil && self != strconv.Itoa(os.Getpid()) {
		return nil, &Error{
			Op: "start the launcher", Path: "/proc", Err: fmt.Errorf("this process is %s there, not %d: %w", self, os.Getpid(), unix.EXDEV),
			Remedy: "it is of another PID namespace: have the outer container mount a /proc of its own",
		}
	}
	host, peer, err := socketpair()
	if err != nil {
		return nil, err
	}
	peerFile := os.NewFile(uintptr(peer), "launcher socket")
	user := NeedsUser()
	arg := boot.ArgRoot
	if user {
		arg = boot.ArgUser
	}
	form := boot.ArgSmall
	if whole.Load() {
		form = boot.ArgWhole
	}
	cmd := reexec.Command(boot.Name, arg, form)
	cmd.ExtraFiles = []*os.File{peerFile}
	cmd.Dir = "/"
	cmd.Env = launcherEnv()
	// Pdeathsig belongs to a thread, which may end at any time: liveness is the
	// socket's end. A session of its own: Ctrl-C is the host's alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	l := &Launcher{
		User: user, sock: host, pidfd: -1, inits: map[uint32]*Init{}, held: map[uint32]chan error{},
		states: map[string]*State{},
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(&Error{Op: "execute", Path: cmd.Path, Err: err}, peerFile.Close(), unix.Close(host))
	}
	_ = peerFile.Close() // the launcher has its own
	err = l.greet(ctx, cmd)
	if err != nil {
		// Whatever runs there is ours and of no use. A boot process that has
		// done its part is gone already.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if l.pid != 0 {
			_ = unix.Kill(l.pid, unix.SIGKILL) // our unreaped child: the number is still its own
			reapChild(l.pid)
		}
		if l.pidfd >= 0 {
			_ = unix.Close(l.pidfd)
		}
		return nil, errors.Join(err, unix.Close(host))
	}
	// The boot process has exited or is about to.
	_ = cmd.Wait() // its status was read where it mattered
	return l, nil
}

// launcherEnv is what the Go runtime and a dynamic loader need to start;
// nothing of it reaches a job.
func launcherEnv() []string {
	env := []string{"GOMAXPROCS=1", "GOGC=off"}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "LD_LIBRARY_PATH=") {
			env = append(env, kv)
		}
	}
	return env
}

// turn is how long a launcher may sleep before its first word; a busy machine
// gets more, since then it is runnable and not asleep.
const (
	turn      = 700 * time.Millisecond
	deepSleep = 200 * time.Millisecond
	turnMax   = 20 * time.Second
)

// maxPID is the kernel's PID_MAX_LIMIT.
const maxPID = 4 << 20

// greet waits for the launcher's first words.
func (l *Launcher) greet(ctx context.Context, cmd *exec.Cmd) error {
	begun := time.Now()
	var booting sleeper
	for {
		a, fd, err := receive(l.sock)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err == nil && (a.Op == rawproc.AnsMaps || a.Op == rawproc.AnsReady && a.Errno == 0) && (a.PID == 0 || a.PID > maxPID) {
			return fmt.Errorf("inlay: bug: the launcher is process %d", a.PID) // which would stand for many to kill(2)
		}
		switch {
		case err == nil && a.Op == rawproc.AnsMaps:
			l.pid = int(a.PID)
			if err := l.writeMaps(ctx); err != nil {
				return err
			}
			if err := send(ctx, l.sock, rawproc.Header{Op: rawproc.OpGo}, nil, nil); err != nil {
				return &Error{Op: "reach the launcher", Err: err}
			}
			continue
		case err == nil && a.Op == rawproc.AnsReady && a.Errno != 0:
			return readyError(a)
		case err == nil && a.Op == rawproc.AnsReady:
			l.pid = int(a.PID)
			l.pidfd, err = unix.PidfdOpen(l.pid, 0)
			if err != nil {
				return &Error{Op: "pidfd_open", Err: err, Remedy: "inlay needs Linux 5.10 or later"}
			}
			return nil
		case err == nil:
			return fmt.Errorf("inlay: bug: the launcher began with message %d", a.Op)
		case errors.Is(err, errEnd):
			return bootError(cmd, cmd.Wait())
		case !errors.Is(err, errNothing):
			return err
		}
		if err := ctx.Err(); err != nil {
			return &Error{Op: "start the launcher", Err: context.Cause(ctx)}
		}
		if waited := time.Since(begun); waited > turn && (waited > turnMax || booting.asleep(cmd.Process.Pid)) && l.pid == 0 {
			return noTurn(errors.New("it answered nothing"))
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(l.sock), Events: unix.POLLIN}}, 20); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
	}
}

func noTurn(why error) error {
	return &Error{
		Op: "start the launcher", Err: fmt.Errorf("%w: %w", ErrNoTurn, why),
		Remedy: "the program's own binary is executed once more as " + boot.Name +
			", and a package whose init ran first exited, waited or took over: " +
			"it must not do so when os.Args[0] is " + strconv.Quote(boot.Name) +
			"; nor can a program run that is built with -race and with -coverpkg for internal/rawproc",
	}
}

// bootError reads the errno that the boot process left as its exit code.
func bootError(cmd *exec.Cmd, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() <= 0 {
		return noTurn(fmt.Errorf("it ended: %v", cmd.ProcessState))
	}
	errno := syscall.Errno(exit.ExitCode())
	if errno == 1 || errno == 28 || errno == 22 || errno == 38 || errno == 12 || errno == 11 || errno == 87 {
		return &Error{Op: "clone3", Path: "(launcher)", Err: errno, Remedy: cloneRemedy(errno)}
	}
	return noTurn(fmt.Errorf("it ended: %v", cmd.ProcessState))
}

func cloneRemedy(errno syscall.Errno) string {
	switch errno {
	case unix.EPERM:
		return "making user namespaces is refused here: see container.Probe for the setting to change"
	case unix.ENOSPC, unix.EUSERS:
		return "the limit of user namespaces is reached: raise the sysctl user.max_user_namespaces"
	case unix.ENOSYS:
		return "inlay needs clone3(2), Linux 5.10 or later; a seccomp profile of an outer container may hide it"
	}
	return ""
}

// readyError reads the step that failed in the launcher's beginning.
func readyError(a rawproc.Answer) error {
	errno := syscall.Errno(a.Errno)
	switch a.Step {
	case 2:
		return &Error{Op: "setresgid", Path: "0", Err: errno, Remedy: "the launcher's group map does not hold 0"}
	case 3:
		return &Error{Op: "setresuid", Path: "0", Err: errno, Remedy: "the launcher's id map does not hold 0"}
	case 4:
		return &Error{
			Op: "mount", Path: "/", Err: errno,
			Remedy: "a user namespace was made, but it has no power: AppArmor restricts it; see container.Probe for the profile to install",
		}
	}
	return &Error{Op: "signalfd", Err: errno}
}

// sleeper looks whether a process waits for something, and not for a processor, a disk
// or its tracer.
type sleeper struct {
	seen  string // its threads' figures, when last looked at
	since time.Time
}

// asleep tells whether all of its threads have slept, and had slept before, with nothing
// done in between.
func (s *sleeper) asleep(pid int) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return true
	}
	seen := ""
	for _, t := range tasks {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, t.Name()))
		if err != nil {
			continue
		}
		// A zombie has handed over to the launcher; where nobody has, the socket ends.
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) && stat[i+2] != 'S' {
			*s = sleeper{}
			return false
		}
		seen += string(stat)
	}
	if seen != s.seen || s.since.IsZero() {
		*s = sleeper{seen, time.Now()}
	}
	return time.Since(s.since) > deepSleep
}

// watch is the poller; nil while nobody uses the launcher.
func (l *Launcher) watch() *poller {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.poll
}

// Watch calls a function whenever fd can be read, while the launcher is acquired;
// it must not block. Unwatch ends it, and comes before the descriptor's close.
func (l *Launcher) Watch(fd int, call func()) error { return l.watch().add(fd, call) }

// Unwatch ends what Watch began.
func (l *Launcher) Unwatch(fd int) { l.watch().remove(fd) }

// answers reads what the launcher says; on the poller's goroutine.
func (l *Launcher) answers() {
	for {
		a, fd, err := receive(l.sock)
		if errors.Is(err, errNothing) {
			return
		}
		if err != nil {
			l.died()
			return
		}
		l.mu.Lock()
		i := l.inits[a.ID]
		held := l.held[a.ID]
		if a.Op == rawproc.AnsHeld {
			delete(l.held, a.ID)
		}
		l.mu.Unlock()
		switch {
		case a.Op == rawproc.AnsHeld && held != nil:
			if a.Errno != 0 {
				held <- syscall.Errno(a.Errno)
			} else {
				held <- nil
			}
		case a.Op == rawproc.AnsSpawned && i != nil:
			i.spawned(a, fd)
			fd = -1
		case a.Op == rawproc.AnsGone && i != nil:
			i.goneAnswer(a)
		}
		if fd >= 0 {
			_ = unix.Close(fd) // nobody waits for it
		}
	}
}

// died cleans up behind a launcher that ended, or that is of no use any more:
// its inits die with it, by PR_SET_PDEATHSIG; here they are killed once more and
// waited for. What the launcher would have removed at its end is removed here.
func (l *Launcher) died() {
	l.mu.Lock()
	if l.isDead {
		l.mu.Unlock()
		return
	}
	l.isDead = true
	counts.died.Add(1)
	poll := l.poll
	inits := make([]*Init, 0, len(l.inits))
	for _, i := range l.inits {
		inits = append(inits, i)
	}
	held := l.held
	l.held = map[uint32]chan error{}
	states, atEnd := l.states, l.atEnd
	l.states, l.atEnd = map[string]*State{}, nil
	l.mu.Unlock()
	poll.remove(l.sock)
	_ = unix.PidfdSendSignal(l.pidfd, unix.SIGKILL, nil, 0) // it is gone, or about to go
	reapChild(l.pid)
	_ = unix.Close(l.pidfd)
	l.sendMu.Lock()
	_ = unix.Close(l.sock)
	l.sock = -1
	l.sendMu.Unlock()
	for _, s := range states {
		s.remove()
	}
	for _, c := range held {
		c <- ErrDied
	}
	for _, i := range inits {
		i.orphaned()
	}
	for _, f := range atEnd {
		f()
	}
}

// request sends to the launcher; a failed write means that it died.
func (l *Launcher) request(ctx context.Context, h rawproc.Header, plans []byte, fds []int) error {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	if l.sock < 0 {
		return ErrDied
	}
	if err := send(ctx, l.sock, h, plans, fds); err != nil {
		if errors.Is(err, unix.EPIPE) {
			return fmt.Errorf("%w: %w", ErrDied, err)
		}
		return err
	}
	return nil
}

// CountsProcesses tells whether RLIMIT_NPROC counts the processes of one user
// namespace alone, as since Linux 5.14, and not all of the user's.
func (l *Launcher) CountsProcesses() bool { return countsProcesses() }
