package launcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/rawproc"
)

// Request is what it takes to make an init.
type Request struct {
	Clone uint64 // clone flags: the new namespaces
	// Plans are encoded, one after the other: of prepare, parent and teardown.
	// These are their sizes; 0 where there is nothing to do.
	Plans                     []byte
	Prepare, Parent, Teardown int
	// StepIn is the size of the step-in plan, the last of Plans.
	StepIn  int
	FDs     []int // for the launcher's plans: registers 1, 2, …
	ProcReg int   // the register that gets a descriptor of /proc/<init>
	// Cgroup is where init is born: what HoldGroups returned, 0 where the launcher is.
	Cgroup uint32
	// Trace is a file that the timed plans are written back to, as Plans has them,
	// before Spawned; 0: none.
	Trace int
	// Links tells that links are made for init's network namespace while it makes its
	// mounts: what the launcher does ahead waits for them, which want the same lock of
	// the kernel's.
	Links bool
	// OnEmpty is called once, when nothing but init is left in the container, or
	// init is gone. Like all such calls it must not block.
	OnEmpty func()
	// SharedPID tells that init's PID namespace is not the container's own.
	SharedPID bool
}

// PlanError is a step that failed in one of the raw processes.
type PlanError struct {
	Phase int // rawproc.PhasePrepare …
	Step  int // from 1; of rawproc.PhaseClone: which of the launcher's own calls
	Errno syscall.Errno
}

// Error names the phase and the step by number: the text of the plan is the
// caller's.
func (e *PlanError) Error() string {
	return fmt.Sprintf("phase %d, step %d: %v", e.Phase, e.Step, e.Errno)
}

// Unwrap returns the errno.
func (e *PlanError) Unwrap() error { return e.Errno }

// Init is the PID 1 of one container.
type Init struct {
	l    *Launcher
	id   uint32
	sock int

	sendMu sync.Mutex

	ready chan struct{} // the launcher answered
	setup chan struct{} // the child plan was done, or failed
	empty chan struct{} // nothing but init is left in the container
	gone  chan struct{} // init was reaped, or died with its launcher
	ended chan struct{} // the socket's end was read
	done  chan struct{} // both: nothing more will be heard

	mu       sync.Mutex
	err      error // of ready or setup
	isSetUp  bool
	pid      int
	pidfd    int
	status   syscall.WaitStatus
	teardown error
	jobs     map[uint32]*Job
	nextJob  uint32
	opens    map[uint32]chan opened
	closed   bool
	onEmpty  func()
	skew     int64    // nanoseconds that init's CLOCK_MONOTONIC is ahead of this program's
	after    []func() // to be called when mu is free

	abandoned   bool          // nobody waits for its jobs any more
	settling    time.Duration // of a traced one: from its prepare plan's end until it could begin
	hasTeardown bool
	sharedPID   bool
	orphan      bool // its launcher is dead
}

type opened struct {
	fd  int
	err error
}

// JobRequest is what it takes to start a job.
type JobRequest struct {
	Plan []byte
	FDs  []int // registers 0, 1, …
	// Cgroup is which of FDs, from 1, is a folder of cgroup v2 that the job is born
	// in; 0: where init is.
	Cgroup int
	Trace  int  // as Request.Trace, before Started
	Main   bool // its end is the end of everything in the container
	Finish bool // and of init
	// OnExit is called once when Exited is closed, perhaps before Start has returned;
	// it must not block.
	OnExit func(*Job)
}

// Job is one started, or starting, program.
type Job struct {
	init    *Init
	id      uint32
	Started chan struct{} // execve succeeded or failed
	Exited  chan struct{} // its end was reported, or init is gone

	mu    sync.Mutex
	err   error
	pid   int
	host  int // pid, as the host has it
	pidfd int
	begun int64 // CLOCK_MONOTONIC: the request was taken
	start int64 // execve was done
	exit  *Exit
	// unwanted tells that who asked for it waits no longer: if it begins yet, it is killed.
	unwanted bool

	onExit func(*Job)
	guard  *time.Timer // runs when the job's end is known and not yet reported
}

// Exit is how a job ended.
type Exit struct {
	Status syscall.WaitStatus
	Time   int64 // CLOCK_MONOTONIC
	User   time.Duration
	System time.Duration
	MaxRSS int64 // KiB
	In     int64 // blocks of 512 bytes
	Out    int64
	MinFlt int64
	MajFlt int64
	Vol    int64
	Forced int64
}

// Spawn asks the launcher for an init; it does not wait. Init itself then waits
// for Setup. The caller keeps the launcher acquired until Close.
func (l *Launcher) Spawn(ctx context.Context, r *Request) (*Init, error) {
	host, peer, err := socketpair()
	if err != nil {
		return nil, err
	}
	i := &Init{
		l: l, sock: host, pidfd: -1, jobs: map[uint32]*Job{}, opens: map[uint32]chan opened{},
		ready: make(chan struct{}), setup: make(chan struct{}), empty: make(chan struct{}),
		onEmpty: r.OnEmpty, hasTeardown: r.Teardown > 0, sharedPID: r.SharedPID,
		gone: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}),
	}
	l.mu.Lock()
	l.nextID++
	i.id = l.nextID
	l.inits[i.id] = i
	poll := l.poll
	dead := l.isDead
	l.mu.Unlock()
	if dead {
		err = ErrDied
	} else {
		err = poll.add(host, i.answers)
	}
	if err == nil {
		h := rawproc.Header{
			Op: rawproc.OpSpawn, ID: i.id, Clone: r.Clone, Prepare: uint32(r.Prepare), Parent: uint32(r.Parent),
			Teardown: uint32(r.Teardown), ProcReg: uint32(r.ProcReg), Cgroup: r.Cgroup, StepIn: uint32(r.StepIn),
		}
		if r.Links {
			h.Flags |= rawproc.FlagLinks
		}
		fds := traced(&h, append([]int{peer}, r.FDs...), r.Trace)
		err = l.request(ctx, h, r.Plans, fds)
	}
	_ = unix.Close(peer)
	if err != nil {
		i.forget()
		return nil, err
	}
	return i, nil
}

// traced adds the file that plans are written back to, if there is one.
func traced(h *rawproc.Header, fds []int, file int) []int {
	if file == 0 {
		return fds
	}
	h.Flags |= rawproc.FlagTrace
	return append(slices.Clip(fds), file)
}

// Given are descriptors that init gets with its plan, for the registers from First on.
type Given struct {
	First int
	FDs   []int
}

// Setup sends init its plan, encoded, in two halves of which the first has shape
// bytes; it does not wait. quiet: a job follows at once, and of the plan only a
// failure is heard of. The registers of keep, at most rawproc.MaxKept, hold folders in
// which OpenIn opens files later. trace is as Request.Trace, before Ready or the job's
// start.
func (i *Init) Setup(ctx context.Context, plans []byte, shape int, quiet bool, keep []int, given Given, trace int) error {
	h := rawproc.Header{
		Op: rawproc.OpSetup, ID: i.id, Prepare: uint32(shape), Parent: uint32(len(plans) - shape), Clone: rawproc.Kept(keep), Register: uint32(given.First),
	}
	if quiet {
		h.Flags = rawproc.FlagQuiet
	}
	fds := traced(&h, given.FDs, trace)
	err := i.request(ctx, h, plans, fds)
	if errors.Is(err, unix.EPIPE) {
		return nil // it ended early: the launcher's answer says why
	}
	return err
}

// forget takes an init off the books whose spawn was not even asked for, or
// whose answer nobody waits for.
func (i *Init) forget() {
	i.l.mu.Lock()
	delete(i.l.inits, i.id)
	poll := i.l.poll
	i.l.mu.Unlock()
	// Nobody may be sending, reading or watching when the numbers become free.
	i.sendMu.Lock()
	defer i.sendMu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return
	}
	i.closed = true
	poll.remove(i.sock)
	_ = unix.Close(i.sock)
	if i.pidfd >= 0 {
		poll.remove(i.pidfd)
		_ = unix.Close(i.pidfd)
	}
}

func (i *Init) request(ctx context.Context, h rawproc.Header, plans []byte, fds []int) error {
	i.sendMu.Lock()
	defer i.sendMu.Unlock()
	i.mu.Lock()
	closed := i.closed
	i.mu.Unlock()
	if closed {
		return unix.EPIPE
	}
	return send(ctx, i.sock, h, plans, fds)
}

// spawned takes the launcher's answer.
func (i *Init) spawned(a rawproc.Answer, pidfd int) {
	i.mu.Lock()
	if i.closed || isClosed(i.ready) { // nobody waits for it
		if pidfd >= 0 {
			_ = unix.Close(pidfd)
		}
		i.mu.Unlock()
		return
	}
	switch {
	case a.Errno != 0:
		i.err = &PlanError{int(a.Phase), int(a.Step), syscall.Errno(a.Errno)}
	case pidfd < 0:
		// It was sent, and there was no room for it here. Init ends with its socket.
		i.err = &PlanError{rawproc.PhaseClone, 0, unix.EMFILE}
	}
	i.pid, i.pidfd = int(a.PID), pidfd
	i.settling = time.Duration(a.Time - a.User)
	close(i.ready)
	switch {
	case i.err != nil:
		i.goes()
	case !i.hasTeardown:
		// Its own end is heard of sooner than the launcher's word of it. Where that
		// cannot be watched, the word will do.
		_ = i.l.watch().add(pidfd, i.ending)
	}
	i.unlock()
}

// ending is called by the poller when init has ended. What is left is a zombie
// that the launcher is about to reap, or the machine's first process.
func (i *Init) ending() {
	i.mu.Lock()
	defer i.unlock()
	// The poller may have fetched the event of a descriptor that was closed since,
	// and whose number is another's by now.
	if i.closed || !readable(i.pidfd) {
		return
	}
	i.l.watch().remove(i.pidfd)
	if i.orphan || len(i.jobs) == 0 && i.isSetUp { // else its status is wanted, which the launcher has
		i.goes()
	}
}

// readable tells whether a pidfd's process has ended.
func readable(pidfd int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 1
		}
	}
}

func (i *Init) goneAnswer(a rawproc.Answer) {
	i.mu.Lock()
	i.status = syscall.WaitStatus(a.Status)
	if a.Errno != 0 {
		i.teardown = &PlanError{0, int(a.Step), syscall.Errno(a.Errno)}
	}
	i.mu.Unlock()
	i.markGone()
}

// orphaned is called when the launcher died: init dies too, and nobody reports.
func (i *Init) orphaned() {
	i.mu.Lock()
	select {
	case <-i.ready:
	default:
		i.err = ErrDied
		close(i.ready)
	}
	if i.pidfd < 0 || i.closed {
		i.goes()
		i.unlock()
		return
	}
	i.orphan = true
	_ = unix.PidfdSendSignal(i.pidfd, unix.SIGKILL, nil, 0) // it may be dead already
	i.l.watch().remove(i.pidfd)                             // it may be watched, or not any more
	if err := i.l.watch().add(i.pidfd, i.ending); err != nil {
		i.goes()
	}
	i.unlock()
	time.AfterFunc(orphanTime, func() {
		select {
		case <-i.empty:
		default:
			i.Abandon()
		}
	})
}

// orphanTime is how long init's end is waited for after its launcher's.
const orphanTime = 10 * time.Second

func (i *Init) markGone() {
	i.mu.Lock()
	defer i.unlock()
	i.goes()
}

// goes, with mu held, notes that init is gone.
func (i *Init) goes() {
	if !isClosed(i.ready) {
		i.err = fmt.Errorf("init ended early: %s", statusText(i.status))
		close(i.ready)
	}
	select {
	case <-i.gone:
	default:
		close(i.gone)
	}
	i.finish()
}

// unlock releases mu and makes the calls that waited for it.
func (i *Init) unlock() {
	after := i.after
	i.after = nil
	i.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// emptied, with mu held, marks the container empty.
func (i *Init) emptied() {
	select {
	case <-i.empty:
	default:
		close(i.empty)
		if i.onEmpty != nil {
			i.after = append(i.after, i.onEmpty)
		}
	}
}

// finish, with mu held, ends what waits for an init that says no more.
func (i *Init) finish() {
	select {
	case <-i.gone:
	default:
		return
	}
	select {
	case <-i.ended:
	default:
		if i.pidfd >= 0 {
			return // what is in the socket is still to be read
		}
	}
	select {
	case <-i.done:
		return
	default:
	}
	i.lose(fmt.Errorf("init ended early: %s", statusText(i.status)))
	close(i.done)
}

// lose, with mu held, ends everything that waits for init's word: it will not come.
func (i *Init) lose(why error) {
	for _, j := range i.jobs {
		j.lost(why)
	}
	i.jobs = map[uint32]*Job{}
	for _, c := range i.opens {
		c <- opened{-1, unix.ESRCH}
	}
	i.opens = map[uint32]chan opened{}
	if i.err == nil && !i.isSetUp {
		i.err = why
	}
	shut(i.setup)
	i.emptied()
}

// ErrAbandoned is what jobs end with that have not begun when Abandon is called.
var ErrAbandoned = errors.New("it does not end: one of its processes hangs in the kernel")

// Abandon has nobody wait any more for init's jobs, which were killed and do not
// end: they are lost, as if init were gone. It may still go later: Done tells, and
// Close can be called again.
func (i *Init) Abandon() {
	i.mu.Lock()
	defer i.unlock()
	select {
	case <-i.done:
		return
	default:
	}
	i.abandoned = true
	i.lose(ErrAbandoned)
}

// Abandoned tells whether it was called.
func (i *Init) Abandoned() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.abandoned
}

// Abandon is Init.Abandon for one job alone.
func (j *Job) Abandon() {
	i := j.init
	i.mu.Lock()
	defer i.unlock()
	if i.jobs[j.id] == j {
		delete(i.jobs, j.id)
		j.lost(ErrAbandoned)
	}
}

func statusText(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + unix.SignalName(s.Signal())
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

func shut(c chan struct{}) {
	if !isClosed(c) {
		close(c)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// answers reads what init says; on the poller's goroutine.
func (i *Init) answers() {
	for i.readOne() {
	}
}

// readOne takes one answer; false: there is none. With mu held all the time: the
// socket may be closed by another goroutine, and its number be another's.
func (i *Init) readOne() bool {
	i.mu.Lock()
	defer i.unlock()
	if i.closed {
		return false
	}
	a, fd, err := receive(i.sock)
	if errors.Is(err, errNothing) {
		return false
	}
	if err != nil {
		if !errors.Is(err, errEnd) && i.pidfd >= 0 {
			// It talks nonsense, and nobody listens any more.
			_ = unix.PidfdSendSignal(i.pidfd, unix.SIGKILL, nil, 0)
		}
		i.l.watch().remove(i.sock)
		shut(i.ended)
		i.finish()
		return false
	}
	i.answer(a, fd)
	return true
}

// answer, with mu held, takes init's word; what it said before, or says out of
// turn, is not listened to.
func (i *Init) answer(a rawproc.Answer, fd int) {
	j := i.jobs[a.ID]
	switch {
	case a.Op == rawproc.AnsSetup && !isClosed(i.setup):
		if a.Errno != 0 {
			i.err = &PlanError{int(a.Phase), int(a.Step), syscall.Errno(a.Errno)}
		}
		i.isSetUp = a.Errno == 0
		shut(i.setup)
	case a.Op == rawproc.AnsStarted && j != nil && !isClosed(j.Started):
		i.isSetUp = true
		shut(i.setup)
		if a.Errno != 0 {
			delete(i.jobs, a.ID)
		}
		j.started(a, fd)
		return
	case a.Op == rawproc.AnsExited && j != nil && isClosed(j.Started):
		delete(i.jobs, a.ID)
		j.exited(a)
	case a.Op == rawproc.AnsEmpty:
		i.emptied()
	case a.Op == rawproc.AnsOpened && i.opens[a.ID] != nil:
		c := i.opens[a.ID]
		delete(i.opens, a.ID)
		switch {
		case a.Errno != 0 && a.Step != 0:
			c <- opened{-1, &PlanError{int(a.Phase), int(a.Step), syscall.Errno(a.Errno)}}
		case a.Errno != 0:
			c <- opened{-1, syscall.Errno(a.Errno)}
		case fd < 0:
			c <- opened{-1, unix.EMFILE} // it was sent, and there was no room for it here
		default:
			c <- opened{fd, nil}
			return
		}
	}
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// Ready waits until init exists and, unless the request was quiet, its child
// plan is done.
func (i *Init) Ready(ctx context.Context) error {
	for _, c := range []chan struct{}{i.ready, i.setup} {
		select {
		case <-c:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		i.mu.Lock()
		err := i.err
		i.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// Spawned waits until the launcher answered.
func (i *Init) Spawned(ctx context.Context) error {
	select {
	case <-i.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// Settling is how long it took, after the prepare plan of a traced request, until
// init was there and could begin: the clone, or taking one that was made ahead, and
// the parent plan. 0 before Spawned.
func (i *Init) Settling() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.settling
}

// PID is init's process id on the host; 0 before Spawned.
func (i *Init) PID() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.pid
}

// Start asks init for a job; it does not wait.
func (i *Init) Start(ctx context.Context, r *JobRequest) (*Job, error) {
	j := &Job{init: i, pidfd: -1, onExit: r.OnExit, Started: make(chan struct{}), Exited: make(chan struct{})}
	i.mu.Lock()
	select {
	case <-i.done:
		err := i.err
		i.mu.Unlock()
		var failed *PlanError
		if errors.As(err, &failed) || errors.Is(err, ErrDied) {
			return nil, err // it never was
		}
		return nil, unix.ESRCH
	default:
	}
	if i.abandoned {
		i.mu.Unlock()
		return nil, unix.ESRCH
	}
	i.nextJob++
	j.id = i.nextJob
	i.jobs[j.id] = j
	i.mu.Unlock()
	h := rawproc.Header{Op: rawproc.OpJob, ID: j.id, Cgroup: uint32(r.Cgroup)}
	if r.Main {
		h.Flags |= rawproc.FlagMain
	}
	if r.Finish {
		h.Flags |= rawproc.FlagFinish
	}
	if i.sharedPID {
		h.Flags |= rawproc.FlagShared
	}
	fds := traced(&h, r.FDs, r.Trace)
	err := i.request(ctx, h, r.Plan, fds)
	if err != nil && !errors.Is(err, unix.EPIPE) {
		i.mu.Lock()
		delete(i.jobs, j.id)
		i.mu.Unlock()
		return nil, err
	}
	return j, nil // EPIPE: init ended early, and the job will be lost
}

// Drop tells that nobody waits for the job's start any more: it is killed, now or when
// it begins, which may be much later where init hangs or its group is frozen.
func (j *Job) Drop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unwanted = true
	if j.pidfd >= 0 {
		_ = unix.PidfdSendSignal(j.pidfd, unix.SIGKILL, nil, 0) // it has ended: then that is that
	}
}

// started takes init's word of the job's execve. With init's mu held.
func (j *Job) started(a rawproc.Answer, pidfd int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pid, j.host, j.pidfd, j.start, j.begun = int(a.PID), int(a.HostPID), pidfd, a.Time-j.init.skew, a.User-j.init.skew
	if a.Errno != 0 {
		j.err = &PlanError{int(a.Phase), int(a.Step), syscall.Errno(a.Errno)}
		close(j.Started)
		j.unwatch()
		j.end()
		return
	}
	// Init may be hindered from telling that the job ended: its own pidfd tells too.
	err := unix.EMFILE // it was sent, and there was no room for it here
	if j.unwanted {
		err = unix.ECANCELED
	} else if pidfd >= 0 {
		if j.init.l.watch().add(pidfd, j.ending) == nil {
			close(j.Started)
			return
		}
		err = unix.ENOMEM
	}
	// A job that cannot be watched is not to run: its end is told by init, and
	// nobody hears of it.
	j.err = &PlanError{rawproc.PhaseExec, 0, err}
	close(j.Started)
	delete(j.init.jobs, j.id)
	j.unwatch()
	j.end()
	j.init.after = append(j.init.after, func() {
		ctx, cancel := context.WithTimeout(context.Background(), lostTime)
		defer cancel()
		if j.SignalGroup(ctx, unix.SIGKILL) != nil {
			_ = j.init.Kill() // it is gone already, or goes now
		}
	})
}

// How long init's report may come after the job's end: then it is looked what holds
// it back. A tracer is killed; init itself is, whose end is the report, where it was
// hindered at two looks in a row, or has had all the time that a busy machine may take.
const (
	reportTime = 100 * time.Millisecond
	lostTime   = time.Second
	busyTime   = 30 * time.Second
)

// ending is called by the poller when the job has ended.
func (j *Job) ending() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.guard != nil || j.pidfd < 0 || !readable(j.pidfd) { // see Init.ending
		return
	}
	j.init.l.watch().remove(j.pidfd)
	begun, before := time.Now(), false
	j.guard = time.AfterFunc(reportTime, func() {
		hindered := j.hindered()
		j.mu.Lock()
		defer j.mu.Unlock()
		switch {
		case j.pidfd < 0: // it has come
		case hindered && before || time.Since(begun) > busyTime:
			_ = j.init.Kill() // dead already: that is the report
		default:
			before = hindered
			j.guard.Reset(lostTime)
		}
	})
}

// hindered tells whether init is kept from reporting the job's end by something else
// than a busy machine: a tracer of the job, which is killed, since the kernel tells
// nobody else of the end of a traced process before its tracer has waited for it or
// is gone; or by hanging or being stopped itself. Where /proc does not tell, it is.
func (j *Job) hindered() bool {
	j.mu.Lock()
	if j.pidfd < 0 {
		j.mu.Unlock()
		return false
	}
	pid := procField(fmt.Sprintf("/proc/self/fdinfo/%d", j.pidfd), "Pid")
	j.mu.Unlock()
	if len(pid) != 1 {
		return true
	}
	if pid[0] == "-1" {
		return false // init has reaped it: its word is on the way
	}
	status := fmt.Sprintf("/proc/%d/status", j.init.PID())
	tracer, state := procField("/proc/"+pid[0]+"/status", "TracerPid"), procField(status, "State")
	if len(tracer) != 1 || len(state) == 0 {
		return true
	}
	if tracer[0] == "0" {
		return state[0] != "R" && state[0] != "S"
	}
	// Its id in each PID namespace, from the host's on: a tracer outside the
	// container is the administrator's.
	ids, depth := procField("/proc/"+tracer[0]+"/status", "NSpid"), len(procField(status, "NSpid"))
	if depth < 2 || len(ids) < depth {
		return true
	}
	inside, err := strconv.ParseUint(ids[depth-1], 10, 31)
	if err != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), lostTime)
	defer cancel()
	// A failure is answered by the end of init.
	_ = j.init.request(ctx, rawproc.Header{Op: rawproc.OpKill, Register: uint32(inside)}, nil, nil)
	return true
}

// procField reads the values of one line of a file like /proc/PID/status.
func procField(path, name string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Fields(v)
		}
	}
	return nil
}

// exited takes init's report. With init's mu held.
func (j *Job) exited(a rawproc.Answer) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.exit = &Exit{
		Status: syscall.WaitStatus(a.Status), Time: a.Time - j.init.skew, User: time.Duration(a.User), System: time.Duration(a.System),
		MaxRSS: a.MaxRSS, In: a.In, Out: a.Out, MinFlt: a.MinFlt, MajFlt: a.MajFlt, Vol: a.Vol, Forced: a.Forced,
	}
	j.unwatch()
	j.end()
}

// lost ends a job of which init will say no more. With init's mu held.
func (j *Job) lost(why error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case <-j.Started:
	default:
		j.err = j.init.err
		if j.err == nil {
			j.err = why
		}
		close(j.Started)
	}
	j.unwatch()
	j.end()
}

// end closes Exited, with both mutexes held.
func (j *Job) end() {
	close(j.Exited)
	if j.onExit != nil {
		j.init.after = append(j.init.after, func() { j.onExit(j) })
	}
}

func (j *Job) unwatch() {
	if j.guard != nil {
		j.guard.Stop()
	}
	if j.pidfd >= 0 {
		j.init.l.watch().remove(j.pidfd)
		_ = unix.Close(j.pidfd)
		j.pidfd = -1
	}
}

// Err is what Started found: nil, or why the program does not run.
func (j *Job) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Exit is how the job ended; nil if it is not known.
func (j *Job) Exit() *Exit {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.exit
}

// Times are CLOCK_MONOTONIC before the job's fork and after its execve.
func (j *Job) Times() (begun, start int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.begun, j.start
}

// PID is the job's id in its container's PID namespace.
func (j *Job) PID() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.pid
}

// HostPID is the job's id in this program's PID namespace, of which it may be
// another's by now; 0: it is not known.
func (j *Job) HostPID() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.host
}

// Signal sends a signal to the job's first process.
func (j *Job) Signal(sig syscall.Signal) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pidfd < 0 {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(j.pidfd, sig, nil, 0)
}

// SignalGroup has init signal the job's process group.
func (j *Job) SignalGroup(ctx context.Context, sig syscall.Signal) error {
	return j.init.request(ctx, rawproc.Header{Op: rawproc.OpSignal, ID: j.id, Signal: uint32(sig)}, nil, nil)
}

// Kill kills init and with it everything in its PID namespace.
func (i *Init) Kill() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pidfd < 0 || i.closed {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(i.pidfd, unix.SIGKILL, nil, 0)
}

// KillAll has init kill everything else; Empty tells when it is done.
func (i *Init) KillAll(ctx context.Context) error {
	h := rawproc.Header{Op: rawproc.OpKillAll}
	if i.sharedPID {
		h.Flags = rawproc.FlagShared
	}
	return i.request(ctx, h, nil, nil)
}

// Empty is closed when nothing but init is left.
func (i *Init) Empty() <-chan struct{} { return i.empty }

// Done is closed when init is gone and has said its last.
func (i *Init) Done() <-chan struct{} { return i.done }

// Ended tells whether init's process has ended, heard of or not.
func (i *Init) Ended() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.pidfd < 0 || i.closed || readable(i.pidfd)
}

// Status says how init ended, after Done.
func (i *Init) Status() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return statusText(i.status)
}

// Open opens a file below the container's root for reading; with path set, as
// O_PATH. The caller owns the descriptor and must look what it is.
func (i *Init) Open(ctx context.Context, path string, opath bool) (int, error) {
	if opath {
		return i.open(ctx, 0, path, rawproc.FlagPath)
	}
	return i.open(ctx, 0, path, 0)
}

// OpenLink is Open as O_PATH of what the path itself names, be it a link.
func (i *Init) OpenLink(ctx context.Context, path string) (int, error) {
	return i.open(ctx, 0, path, rawproc.FlagPath|rawproc.FlagLink)
}

// OpenIn is OpenLink, or with read set Open, in a folder that Setup had init keep:
// the n-th, from 1.
func (i *Init) OpenIn(ctx context.Context, n int, path string, read bool) (int, error) {
	if read {
		return i.open(ctx, n, path, rawproc.FlagLink)
	}
	return i.open(ctx, n, path, rawproc.FlagPath|rawproc.FlagLink)
}

// OpenTerminal opens a new terminal of the container's: its master. The caller owns
// the descriptor and must look what it is.
func (i *Init) OpenTerminal(ctx context.Context) (int, error) {
	return i.open(ctx, 0, "/dev/pts/ptmx", rawproc.FlagWrite)
}

// OpenNamespace opens one of init's own namespaces by the name of its file in
// /proc/PID/ns. The caller owns the descriptor and must look what it is.
func (i *Init) OpenNamespace(ctx context.Context, file string) (int, error) {
	return i.open(ctx, 0, "/proc/self/ns/"+file, rawproc.FlagNamespace)
}

// Network opens init's network namespace, after Spawned, from the host's side: init
// answers when its plan is done. The caller closes the file.
func (i *Init) Network() (*os.File, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pidfd < 0 || i.closed {
		return nil, unix.ESRCH
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", i.pid))
	if err != nil {
		return nil, err
	}
	// The number was init's own if init is there still: it is not reaped before.
	if err := unix.PidfdSendSignal(i.pidfd, 0, nil, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Skew says by how many nanoseconds the init's CLOCK_MONOTONIC is ahead of this
// program's, before the first job: init is in a time namespace.
func (i *Init) Skew(ns int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.skew = ns
}

// OpenTree is a copy of the mounts at a path below the container's root, attached
// nowhere, read-only unless it is wanted as it is. It may be attached in any mount
// namespace.
func (i *Init) OpenTree(ctx context.Context, path string, asIs bool) (int, error) {
	flags := uint32(rawproc.FlagTree)
	if asIs {
		flags |= rawproc.FlagAsIs
	}
	return i.open(ctx, 0, path, flags)
}

func (i *Init) open(ctx context.Context, root int, path string, flags uint32) (int, error) {
	return i.ask(ctx, rawproc.Header{Flags: flags, Register: uint32(root)}, append([]byte(path), 0))
}

// SocketRequest is what it takes to make a socket.
type SocketRequest struct {
	Domain, Type, Protocol int
	Options                uint32 // rawproc.SocketReuse …
	Backlog                int    // it listens; 0: it is connected
	// Address is a struct sockaddr, or with Path set a path below the container's root.
	Address []byte
	Path    bool
}

// Socket makes a socket in init's network namespace, by init and with its rights. It
// does not block; a connection may still be under way. The caller owns the descriptor
// and must look what it is. What init could not do is a *PlanError, whose Step is
// rawproc.SocketMade and so on.
func (i *Init) Socket(ctx context.Context, r *SocketRequest) (int, error) {
	h := rawproc.Header{
		Flags: rawproc.FlagSocket, Prepare: uint32(r.Domain), Parent: uint32(r.Type), Teardown: uint32(r.Protocol), Signal: uint32(r.Backlog), StepIn: r.Options,
	}
	body := r.Address
	if r.Path {
		h.Flags |= rawproc.FlagPath
		body = append(slices.Clip(body), 0)
		if at := bytes.LastIndexByte(body, '/'); at >= 0 && r.Backlog > 0 {
			// "/a/b" as "/a/", "b".
			body = slices.Insert(body, at+1, 0)
			h.Register = uint32(at + 2)
		}
	}
	return i.ask(ctx, h, body)
}

// ask sends a request that is answered by a descriptor.
func (i *Init) ask(ctx context.Context, h rawproc.Header, body []byte) (int, error) {
	c := make(chan opened, 1)
	i.mu.Lock()
	select {
	case <-i.done:
		i.mu.Unlock()
		return -1, unix.ESRCH
	default:
	}
	if i.abandoned {
		i.mu.Unlock()
		return -1, unix.ESRCH
	}
	i.nextJob++
	id := i.nextJob
	i.opens[id] = c
	i.mu.Unlock()
	h.Op, h.ID = rawproc.OpOpen, id
	if err := i.request(ctx, h, body, nil); err != nil {
		i.mu.Lock()
		delete(i.opens, id)
		i.mu.Unlock()
		if errors.Is(err, unix.EPIPE) {
			err = unix.ESRCH // it ended a moment ago
		}
		return -1, err
	}
	select {
	case o := <-c:
		return o.fd, o.err
	case <-ctx.Done():
		i.mu.Lock()
		_, waiting := i.opens[id]
		delete(i.opens, id)
		i.mu.Unlock()
		if !waiting {
			if o := <-c; o.fd >= 0 {
				_ = unix.Close(o.fd)
			}
		}
		return -1, context.Cause(ctx)
	}
}

// Close kills init, waits until it is gone and forgets it. It returns what the
// teardown plan could not do, or the context's end: then it may be called again.
func (i *Init) Close(ctx context.Context) error {
	select {
	case <-i.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := i.Kill(); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill init: %w", err)
	}
	select {
	case <-i.done:
	case <-ctx.Done():
		select {
		case <-i.done: // both
		default:
			return context.Cause(ctx)
		}
	}
	i.forget()
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.teardown
}
