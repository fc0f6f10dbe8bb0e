package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
)

// Process is one job of a container: what Exec started. All methods may be
// called from many goroutines at once.
type Process struct {
	r      *running
	spec   *Job
	isMain bool
	plan   *plan.Plan // kept where a test has changed it
	io     stdio
	start0 time.Time // when it was asked for
	done   chan struct{}

	group  *cgroup.Group // nil: there is none
	shared bool          // with other jobs
	made   *jobGroup     // nil: it has none of its own, or is the main job
	entry  *cgroup.Entry
	// oomBefore is how many processes were killed for want of memory in the group
	// before the job began.
	oomBefore int64
	end       *ending       // nil: not read yet
	last      *cgroup.Stats // at the end
	anon      int64         // the largest samples
	peak      int64
	watch     watch
	written   atomic.Int64 // bytes of output
	refused   string       // the call that a filter ended the job for

	passed   []int // descriptors for the job, closed here once they are sent
	streams  []*stream
	terminal *os.File // the master; nil: it has none

	mu        sync.Mutex
	job       *launcher.Job
	pending   int // what Done still waits for
	causes    []Status
	times     []time.Time
	canceling error
	timer     *time.Timer
	drain     *time.Timer
	hang      *time.Timer // since it was killed, or the main job ended
	left      *LeftError  // of a job that was given up on
	aborted   bool        // its start failed
	announced bool        // that it began was told, or will not be
	early     []Event     // what happened before that
	trace     []StepTime
	res       *Result
	err       error
}

// stream is one pipe between the job and a reader or writer of the host's.
type stream struct {
	name string
	in   io.Reader // stdin
	out  io.Writer // stdout, stderr
	end  *os.File
	tty  bool // end is a terminal's master, of two streams or the caller's as well
	n    atomic.Int64
	cut  atomic.Bool

	mu   sync.Mutex // held while out is written to
	err  error
	over bool // nothing is written to out any more
}

// close closes the host's end on a goroutine of its own: the kernel takes the pipe's
// lock for it, which a process that is in the middle of a splice(2) holds, perhaps for
// as long as it lives. Nobody who serves others may wait for that.
func (s *stream) close() {
	if s.tty {
		s.hush()
		return
	}
	go func() { _ = s.end.Close() }() // a pipe: nothing to flush
}

// finish tells whether this is the first to end the stream. Where somebody writes what
// was read, and did not ask for it himself, it is not ended.
func (s *stream) finish(wait bool) bool {
	if wait {
		s.mu.Lock()
	} else if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	first := !s.over
	s.over = true
	return first
}

func newProcess(r *running, j *Job) *Process {
	// Its end, and launch: what fails before is no end.
	return &Process{r: r, spec: j, done: make(chan struct{}), pending: 2}
}

// beMain makes the process one whose end is everybody's: Done waits for that too.
func (p *Process) beMain() {
	p.isMain = true
	p.pending++
}

// prepare opens the job's descriptors and makes its plan.
func (p *Process) prepare(ctx context.Context, begun time.Time) (req *launcher.JobRequest, err error) {
	p.start0 = begun
	defer func() {
		if err != nil {
			p.abort()
		}
	}()
	if len(candidates(p.spec.program(), environment(p.spec))) == 0 {
		return nil, &StartError{
			Phase: PhaseExec, Op: "execve", Path: p.spec.program(), Err: fmt.Errorf("%w: %w", ErrNotFound, unix.ENOENT),
			Remedy: "the PATH of the job's environment names no absolute folder",
		}
	}
	io, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	p.io = io
	if p.entry, err = p.r.enter(p); err != nil {
		return nil, err
	}
	fds, group := p.passed, 0
	if p.entry != nil {
		p.io.tasks = len(p.entry.Tasks)
		if p.isMain {
			p.r.tasks = p.io.tasks
		}
		fds = append(slices.Clip(fds), p.entry.Tasks...)
		if p.entry.Dir >= 0 {
			fds = append(fds, p.entry.Dir)
			group = len(fds)
		}
	}
	p.mu.Lock()
	for _, s := range p.streams {
		if s.out != nil {
			p.pending++
		}
	}
	p.mu.Unlock()
	return &launcher.JobRequest{FDs: fds, Cgroup: group, OnExit: p.exited}, nil
}

// abort closes what prepare opened, for a job that will not be.
func (p *Process) abort() {
	p.closePassed()
	p.mu.Lock()
	streams := p.streams
	p.streams = nil
	p.aborted = true // nobody waits for its end
	p.tellEarly()
	if p.hang != nil {
		p.hang.Stop()
	}
	p.mu.Unlock()
	for _, s := range streams {
		_ = s.end.Close() // a pipe: nothing to flush
	}
	if p.terminal != nil {
		_ = p.terminal.Close() // closed already, if it was a stream's
	}
}

// closePassed closes the job's ends: from now on they are its own alone.
func (p *Process) closePassed() {
	for _, fd := range p.passed {
		_ = unix.Close(fd)
	}
	p.passed = nil
	if p.entry != nil {
		if !p.shared {
			p.entry.Close()
		}
		p.entry = nil
	}
}

// open makes the job's descriptors: pipes, /dev/null, and duplicates of files.
func (p *Process) open(ctx context.Context) (stdio, error) {
	j := p.spec
	out := stdio{count: 3 + len(j.ExtraFiles)}
	add := func(fd int, chown bool) {
		p.passed = append(p.passed, fd)
		out.chown = append(out.chown, chown)
	}
	fail := func(option string, err error) error {
		return &StartError{Phase: PhasePrepare, Op: option, Err: err}
	}
	names := []string{"stdin", "stdout", "stderr"}
	if j.Terminal != nil {
		fd, err := p.openTerminal(ctx)
		if err != nil {
			return out, err
		}
		out.terminal = true
		add(fd, false)
		names = nil
	}
	for i, name := range names {
		var given any
		switch i {
		case 0:
			given = j.Stdin
		case 1:
			given = j.Stdout
		case 2:
			given = j.Stderr
		}
		option := []string{"WithStdin", "WithStdout", "WithStderr"}[i]
		f, isFile := given.(*os.File)
		switch {
		case absent(given):
			mode := unix.O_WRONLY
			if i == 0 {
				mode = unix.O_RDONLY
			}
			fd, err := unix.Open("/dev/null", mode|unix.O_CLOEXEC, 0)
			if err != nil {
				return out, fail(option, err)
			}
			add(fd, false)
		case i == 2 && (same(j.Stdout, j.Stderr) || sameRegular(j.Stdout, j.Stderr) && p.throughPipe(j.Stderr, i)):
			fd, err := unix.FcntlInt(uintptr(p.passed[1]), unix.F_DUPFD_CLOEXEC, 3)
			if err != nil {
				return out, fail(option, err)
			}
			add(fd, false)
		case isFile && !p.throughPipe(f, i):
			fd, err := duplicate(f)
			if err != nil {
				return out, fail(option, err)
			}
			chown := false
			if isPipe(fd) && p.initMayOwn(fd) {
				// As a pipe of ours: so that /dev/stdin can be opened again.
				if chown, err = p.own(fd); err != nil && !errors.Is(err, unix.EPERM) {
					return out, fail(option, errors.Join(err, unix.Close(fd)))
				}
			}
			add(fd, chown)
		default:
			fd, chown, err := p.pipe(name, given)
			if err != nil {
				return out, fail(option, err)
			}
			add(fd, chown)
		}
	}
	for _, f := range j.ExtraFiles {
		fd, err := duplicate(f)
		if err != nil {
			return out, fail("WithExtraFiles", err)
		}
		add(fd, false)
	}
	return out, nil
}

// throughPipe tells that a file is copied from or to, and not given to the job
// itself: a regular file that a job with the host user's own id could open again
// through /proc/self/fd for writing, where it was given for reading; or one that
// the job could not open again at all, which is what /dev/stderr in a shell does.
func (p *Process) throughPipe(given any, i int) bool {
	f, ok := given.(*os.File)
	if !ok {
		return true
	}
	j, h := p.spec, p.r.host
	if i > 0 && j.OutputLimit != nil {
		return true // else nobody counts
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || j.uid() == h.initUID {
		return true
	}
	want := uint32(mayWrite)
	if i == 0 {
		want = mayRead
	}
	uid, gid := hostIDs(h, j.uid(), j.gid())
	return permission(sys, uid, gid, j, h)&want == 0
}

// sameRegular tells that both are the same regular file (>file 2>&1): through
// two pipes its order would be lost.
func sameRegular(a, b io.Writer) bool {
	f, isFile := a.(*os.File)
	g, alsoFile := b.(*os.File)
	if !isFile || !alsoFile || f == nil || g == nil {
		return false
	}
	st, err := f.Stat()
	st2, err2 := g.Stat()
	return err == nil && err2 == nil && st.Mode().IsRegular() && os.SameFile(st, st2)
}

// limitedPipe is how large the pipe of output that has a limit is, and how much is
// read of it at once: twice that of stdout and of stderr is 64 KiB.
const limitedPipe = 16 << 10

// isPipe tells whether the descriptor is a pipe that has no name.
func isPipe(fd int) bool {
	const pipefs = 0x50495045
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == pipefs
}

// duplicate returns a descriptor of ours for the file. Like os/exec it sets the
// file to blocking mode: the job shares it.
func duplicate(f *os.File) (int, error) {
	fd := f.Fd()
	if fd == ^uintptr(0) {
		return -1, os.ErrClosed
	}
	n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return n, nil
}

// pipe makes a pipe for a reader or writer; it returns the job's end. The pipe
// belongs to the job's user, so that /dev/stdin and its like can be opened again.
func (p *Process) pipe(name string, given any) (int, bool, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return -1, false, os.NewSyscallError("pipe2", err)
	}
	s := &stream{name: name}
	jobs, ours := ends[1], ends[0]
	if r, ok := given.(io.Reader); ok && name == "stdin" {
		s.in = r
		jobs, ours = ends[0], ends[1]
	} else if w, ok := given.(io.Writer); ok {
		s.out = w
	}
	if s.out != nil && p.spec.OutputLimit != nil {
		// What is in the pipe when the limit is met has been written already.
		if _, err := unix.FcntlInt(uintptr(ours), unix.F_SETPIPE_SZ, limitedPipe); err != nil {
			return -1, false, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(ends[0]), unix.Close(ends[1]))
		}
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		return -1, false, errors.Join(err, unix.Close(ends[0]), unix.Close(ends[1]))
	}
	s.end = os.NewFile(uintptr(ours), name)
	p.streams = append(p.streams, s)
	chown, err := p.own(jobs)
	if err != nil {
		return -1, false, errors.Join(err, unix.Close(jobs))
	}
	return jobs, chown, nil
}

// initMayOwn tells whether init could give a pipe away, where that is its part: one that
// another user of the host made has no owner inside.
func (p *Process) initMayOwn(fd int) bool {
	h := p.r.host
	if !p.r.launcher.User {
		return true
	}
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && namespace.Mapped(hostMaps(h.uids, h.outer), st.Uid) && namespace.Mapped(hostMaps(h.gids, h.outerGIDs), st.Gid)
}

// own gives a pipe to the job's user; true means that init must do it.
func (p *Process) own(fd int) (bool, error) {
	h := p.r.host
	uid, gid := p.spec.uid(), p.spec.gid()
	if p.r.launcher.User {
		return uid != 0 || gid != 0, nil // 0 is the host's user itself
	}
	if len(h.uids) > 0 {
		uid, _ = namespace.ToHost(h.uids, uid)
		gid, _ = namespace.ToHost(h.gids, gid)
	}
	return false, os.NewSyscallError("fchown", unix.Fchown(fd, int(uid), int(gid)))
}

// launch asks init for the job and waits until its program has begun.
func (p *Process) launch(ctx context.Context, init *launcher.Init, req *launcher.JobRequest) error {
	p.io.cpuset = p.r.cpuset.Load() || p.spec.Limits.CPUSet != nil
	compiled := compileJob(&p.r.c.spec, p.spec, p.r.host, p.io, p.r.builder())
	if sabotage != nil {
		p.plan = compiled
	}
	trace, err := p.r.trace(compiled)
	if err != nil {
		p.closePassed()
		p.abort()
		return err
	}
	defer p.keepTrace(trace)
	var job *launcher.Job
	err = withEncoded(p.r.host.arch, func(buf []byte, sizes []int) (err error) {
		trace.encoded(sizes)
		req.Plan, req.Trace = buf, trace.descriptor()
		job, err = init.Start(ctx, req)
		return err
	}, compiled)
	p.closePassed()
	if err != nil {
		p.abort()
		return err
	}
	p.mu.Lock()
	p.job = job
	p.mu.Unlock()
	select {
	case <-job.Started:
		err = job.Err()
	case <-ctx.Done():
		err = context.Cause(ctx)
		job.Drop() // init may hang in its vfork
	}
	if err != nil {
		p.abort()
		return err
	}
	for _, s := range p.streams {
		if s.in != nil {
			go s.feed()
		} else {
			go p.copy(s)
		}
	}
	if d := p.spec.TimeLimit; d != nil {
		_, start := job.Times()
		t := time.AfterFunc(*d-time.Duration(monotonic()-start), func() { p.killing(TimeLimit) })
		p.mu.Lock()
		p.timer = t
		p.mu.Unlock()
	}
	p.watching()
	p.announce()
	p.part()
	return nil
}

// announce tells that the job has begun, and what happened to it meanwhile.
func (p *Process) announce() {
	e := Event{Kind: EventExec, PID: p.PID()}
	if p.isMain {
		e.Kind, e.SetupTime = EventStarted, time.Since(p.start0)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.r.c.events.add(e)
	p.tellEarly()
}

// tell adds an event of the job's, once it is told that the job has begun. Called with
// the lock.
func (p *Process) tell(e Event) {
	if p.announced {
		p.r.c.events.add(e)
		return
	}
	e.Time = time.Now()
	p.early = append(p.early, e)
}

// tellEarly adds what waited for that. Called with the lock.
func (p *Process) tellEarly() {
	p.announced = true
	for _, e := range p.early {
		p.r.c.events.add(e)
	}
	p.early = nil
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("inlay: bug: " + err.Error()) // it exists on every Linux
	}
	return ts.Nano()
}

// feed copies the host's reader to the job's stdin. Nobody waits for it: a
// reader may block for ever.
func (s *stream) feed() {
	// A job that does not read its input is no error, as in os/exec, and a reader
	// that fails looks like the input's end: the job has begun by now.
	if s.tty {
		s.typeIn()
		return
	}
	_, _ = io.Copy(s.end, s.in)
	_ = s.end.Close()
}

// copy takes the job's output to the host's writer.
func (p *Process) copy(s *stream) {
	var buf []byte
	if p.spec.OutputLimit != nil {
		buf = make([]byte, limitedPipe)
	}
	_, err := io.CopyBuffer(countingWriter{p, s}, s.reader(), buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = p.copyRest(s)
	}
	if s.finish(true) {
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
			s.cut.Store(true)
		} else if errors.Is(err, errOutput) {
			p.killing(OutputLimit)
		} else if err != nil {
			s.err = err
		}
		p.part()
	}
	// The job gets SIGPIPE if it writes on, as with os/exec. Last: see stream.close.
	_ = s.end.Close()
}

// copyRest takes what is in the pipe at the deadline: where the writer is slow, or the
// machine so busy that nobody came to read it, that is output of the job's.
func (p *Process) copyRest(s *stream) error {
	raw, err := s.end.SyscallConn()
	if err != nil {
		return err
	}
	var rest []byte
	cut := os.ErrDeadlineExceeded
	err = raw.Control(func(fd uintptr) {
		n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // FIONREAD
		if err == nil && n > 0 {
			rest = make([]byte, n)
			n, err = unix.Read(int(fd), rest) // it does not block
		}
		rest = rest[:max(n, 0)]
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if err != nil {
			cut = err
		} else if _, err = unix.Poll(poll, 0); err == nil && poll[0].Revents == unix.POLLHUP {
			cut = nil // that was all of it: nobody holds the pipe
		}
	})
	if err == nil {
		_, err = countingWriter{p, s}.Write(rest)
	}
	return cmp.Or(err, cut)
}

// countingWriter counts what it hands on, and ends where the limit is: what was
// written up to it is delivered.
type countingWriter struct {
	p *Process
	s *stream
}

var errOutput = errors.New("the limit of output is exceeded")

func (c countingWriter) Write(b []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.over {
		return 0, os.ErrClosed // the Result was told without it
	}
	over := int64(0)
	if limit := c.p.spec.OutputLimit; limit != nil {
		// Both streams count together: what is over is the later one's.
		over = min(int64(len(b)), max(0, c.p.written.Add(int64(len(b)))-*limit))
	} else {
		c.p.written.Add(int64(len(b)))
	}
	n, err := c.s.out.Write(b[:int64(len(b))-over])
	c.s.n.Add(int64(n))
	if err == nil && over > 0 {
		err = errOutput
	}
	return n, err
}

// onlyReader hides the file's WriteTo, so that every write is counted.
type onlyReader struct{ io.Reader }

// lastly is how long killing a group may take before its first process is killed
// by itself.
const lastly = time.Second

// exited is called by the poller when the job has ended.
func (p *Process) exited(job *launcher.Job) {
	p.mu.Lock()
	if p.isMain && p.r.groups != nil {
		p.r.groups.all.Uncap() // what the job leaves behind is about to be killed
	}
	if p.res == nil && len(p.streams) > 0 {
		p.drain = time.AfterFunc(cmp.Or(p.spec.waitDelay, drainTime), p.giveUp)
	}
	if e := job.Exit(); p.res == nil && e != nil && e.Status.Signaled() && e.Status.Signal() == unix.SIGSYS {
		p.pending++
		go p.nameRefused(job, p.start0)
	}
	if p.isMain {
		p.overdue() // init has everything else to kill
		if !p.r.c.spec.isNew(namespace.PID) {
			go p.r.killShared() // and may not
		}
	}
	p.mu.Unlock()
	p.part()
}

// overdue gives up on the end of what was killed, in time. With mu held.
func (p *Process) overdue() {
	if p.hang != nil || p.res != nil || p.aborted {
		return
	}
	p.hang = time.AfterFunc(closeTimeout, func() {
		if p.isMain {
			p.r.overdue()
			return
		}
		select {
		case <-p.job.Exited:
			return
		default:
		}
		left := p.r.left()
		p.mu.Lock()
		p.left = left
		p.mu.Unlock()
		p.job.Abandon()
	})
}

// hung is what was left when the job was given up on; nil: it was not. With mu held.
func (p *Process) hung() *LeftError {
	if p.left != nil {
		return p.left
	}
	return p.r.hangs.Load()
}

// giveUp ends the reading of pipes that somebody still holds. What is in them
// is read yet; a writer that is slow gets the time it takes.
func (p *Process) giveUp() {
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	for _, s := range streams {
		if s.out != nil {
			_ = s.end.SetReadDeadline(time.Unix(1, 0)) // closed already: then it has ended
		} else {
			s.close()
		}
	}
	// A read that waits for the pipe's lock ends with no deadline: see stream.close.
	time.AfterFunc(drainTime, func() {
		for _, s := range streams {
			if s.out != nil && s.finish(false) {
				s.cut.Store(true)
				p.part()
			}
		}
	})
}

// part is called when one of the things that Done waits for is over.
func (p *Process) part() {
	p.mu.Lock()
	p.pending--
	last := p.pending == 0
	if last {
		p.unwatch()
		for _, t := range []*time.Timer{p.drain, p.timer, p.hang} {
			if t != nil {
				t.Stop()
			}
		}
		for _, s := range p.streams {
			if s.in != nil {
				s.close() // ends a feed that waits for the job to read
			}
		}
		p.conclude()
	}
	p.mu.Unlock()
	if last {
		countJob(p.res, p.isMain)
		p.r.c.events.add(Event{Kind: EventExited, PID: p.PID(), Result: p.res})
		if p.made != nil {
			// Not on the poller's goroutine, which every container's events wait for.
			g := p.r.groups
			g.mu.Lock()
			g.later(func() { _ = p.leaveGroup() }) // what is left of it goes with the container
			g.mu.Unlock()
			close(p.done)
			return
		}
		_ = p.leaveGroup() // it has none to remove
		close(p.done)
		if p.isMain {
			p.r.c.finish(nil)
		}
	}
}

// leaveGroup removes a group that was this job's alone, unless processes that it
// left behind are in it: then it goes with the container.
func (p *Process) leaveGroup() error {
	if g := p.r.groups; g != nil {
		g.mu.Lock()
		delete(g.live, p)
		g.mu.Unlock()
	}
	if p.made == nil {
		return nil
	}
	p.r.closeJobGroup(p.made)
	if some, err := p.group.Populated(); some || err != nil {
		return err
	}
	return p.group.Delete(context.Background())
}

// conclude makes the Result. With mu held.
func (p *Process) conclude() {
	e := p.job.Exit()
	_, start := p.job.Times()
	res := &Result{Container: p.r.c.ID(), Labels: p.r.c.spec.Labels, ExitCode: -1, MemorySource: "ru_maxrss", PidsPeak: -1, Dropped: p.r.c.Dropped()}
	now, mono := time.Now(), monotonic()
	res.Started = now.Add(-time.Duration(mono - start))
	res.SetupTime = max(0, res.Started.Sub(p.start0))
	res.Finished = now
	for i, c := range p.causes {
		res.Causes = append(res.Causes, Cause{c, p.times[i].Sub(res.Started)})
	}
	if e == nil {
		res.Status, res.Signal = Lost, unix.SIGKILL
		res.Reason = "init ended before it could report: " + p.r.init.Status()
		if left := p.hung(); left != nil {
			res.Reason = left.Error()
		} else if p.r.init.Abandoned() {
			res.Reason = launcher.ErrAbandoned.Error()
		} else if why := p.r.why(); why != 0 {
			res.Status, res.Reason = why, "" // with the container
		}
	} else {
		if left := p.hung(); left != nil && p.isMain {
			res.Reason = left.Error() // of another process than the first
		}
		res.Finished = now.Add(-time.Duration(mono - e.Time))
		res.WallTime = time.Duration(e.Time - start)
		res.UserTime, res.SystemTime = e.User, e.System
		res.MemoryPeak = e.MaxRSS << 10
		res.ReadBytes, res.WriteBytes = e.In<<9, e.Out<<9
		res.MinorFaults, res.MajorFaults = e.MinFlt, e.MajFlt
		res.VoluntarySwitches, res.InvoluntarySwitches = e.Vol, e.Forced
		if e.Status.Signaled() {
			res.Status, res.Signal, res.CoreDumped = Signaled, e.Status.Signal(), e.Status.CoreDump()
			if res.Signal == unix.SIGSYS {
				res.Status, res.Syscall = SyscallRefused, p.refused
			}
		} else {
			res.Status, res.ExitCode = Exited, e.Status.ExitStatus()
		}
	}
	p.account(res)
	// Ours is the verdict only where our SIGKILL was the end, or where the
	// container was taken from below the job; a job that ended by itself a moment
	// before keeps its own.
	if len(p.causes) > 0 && (res.Signal == unix.SIGKILL || p.causes[0] == Canceled || p.causes[0] == OutputLimit) {
		res.Status = p.causes[0]
	}
	if d := p.spec.CPUTimeLimit; d != nil && len(res.Causes) == 0 && res.CPUTime() >= *d && (res.Signal == unix.SIGKILL || res.Signal == unix.SIGXCPU) {
		// The backstop, RLIMIT_CPU, was quicker. An OOM kill that account found has
		// put its cause here already: that one the kernel counted, this is inferred.
		res.Status = CPUTimeLimit
		res.Causes = append(res.Causes, Cause{CPUTimeLimit, res.Finished.Sub(res.Started)})
	}
	if res.Status == Canceled {
		res.cause = p.canceling
	}
	for _, s := range p.streams {
		switch s.name {
		case "stdout":
			res.StdoutBytes = s.n.Load()
		case "stderr":
			res.StderrBytes = s.n.Load()
		}
		res.Truncated = res.Truncated || s.cut.Load()
		if s.err != nil {
			p.err = errors.Join(p.err, fmt.Errorf("inlay: copy %s: %w", s.name, s.err))
		}
	}
	p.res = res
}

// note records why the job is about to end; false if it has ended already.
func (p *Process) note(why Status) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.res != nil {
		return false
	}
	if len(p.causes) == 0 && why != MemoryLimit {
		// The order is that of the kernel's own events.
		if kills, own := p.oomKills(); kills > p.oomBefore && own && (p.spec.OOMGroup == nil || *p.spec.OOMGroup) {
			p.causes = append(p.causes, MemoryLimit)
			p.times = append(p.times, time.Now())
		}
	}
	p.causes = append(p.causes, why)
	p.times = append(p.times, time.Now())
	switch why {
	case MemoryLimit:
		p.tell(Event{Kind: EventOOM, PID: p.pid()})
	case TimeLimit, CPUTimeLimit, OutputLimit, IdleLimit:
		p.tell(Event{Kind: EventLimit, PID: p.pid(), Status: why})
	case Exited, Signaled, SyscallRefused, Canceled, Killed, Lost: // no limits
	}
	return true
}

// killing records why and kills the job.
func (p *Process) killing(why Status) {
	if !p.note(why) {
		return
	}
	p.mu.Lock()
	job := p.job
	if job != nil {
		p.overdue()
	}
	p.mu.Unlock()
	p.kill(job)
}

func (p *Process) kill(job *launcher.Job) {
	if job == nil {
		return
	}
	if p.r.isPaused() {
		_ = job.Signal(unix.SIGKILL) // before it can go on
		p.r.thaw()
	}
	switch {
	case p.group != nil && !p.shared:
		_ = job.Signal(unix.SIGKILL)
		p.group.Uncap()
		if p.isMain {
			p.r.groups.all.Uncap()
		}
		// All of it at once, wherever it went.
		ctx, cancel := context.WithTimeout(context.Background(), lastly)
		defer cancel()
		if p.group.Kill(ctx) == nil {
			return
		}
	case !p.isMain:
		// What shares its process group goes with it. Init does this; where it
		// hangs, the signal below still ends the job itself.
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		_ = job.SignalGroup(ctx, unix.SIGKILL)
		cancel()
	}
	_ = job.Signal(unix.SIGKILL) // gone already: then that is that
}

// canceled keeps what ended the context.
func (p *Process) canceled(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.canceling = cause
}

// cancel kills the job since a context has ended; ErrEnded if it was quicker.
func (p *Process) cancel(cause error) error {
	p.mu.Lock()
	job := p.job
	p.mu.Unlock()
	select {
	case <-job.Exited:
		return ErrEnded
	default:
	}
	p.canceled(cause)
	p.killing(Canceled)
	return nil
}

// begun tells whether the job's program has begun, so that its end will be told. Of a
// start that gave up just then it is not: its program may have begun as well.
func (p *Process) begun() bool {
	p.mu.Lock()
	job, aborted := p.job, p.aborted
	p.mu.Unlock()
	if job == nil || aborted {
		return false
	}
	select {
	case <-job.Started:
		return job.Err() == nil
	default:
		return false
	}
}

// stop asks the job to end, and kills it after the grace.
func (p *Process) stop(ctx context.Context, why Status) error {
	s := &p.r.c.spec
	sig, grace := unix.SIGTERM, 10*time.Second
	if s.StopSignal != nil {
		sig = syscall.Signal(*s.StopSignal)
	}
	if s.StopGrace != nil {
		grace = *s.StopGrace
	}
	if why == Canceled {
		p.note(why)
	}
	if grace > 0 {
		if err := p.Signal(sig); err != nil && !errors.Is(err, ErrEnded) {
			return err
		}
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-p.done:
			return nil
		case <-t.C:
		case <-ctx.Done():
		}
	}
	p.killing(why)
	<-p.done // given up on, if need be
	p.mu.Lock()
	defer p.mu.Unlock()
	if left := p.hung(); left != nil {
		return left
	}
	return nil
}

func (p *Process) result() (*Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.res, p.err
}

// PID is the job's process id inside the container.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid()
}

// pid is PID, with mu held.
func (p *Process) pid() int {
	if p.job == nil {
		return 0
	}
	return p.job.PID()
}

// Done is closed when the job has ended and its output is copied.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the job and the last of its output; any number of
// callers get the same Result. As [Container.Wait] it gives up on a job that was
// killed and hangs in the kernel. Output that a descendant of the job holds back is
// given up on after a second: Result.Truncated says so. When the context ends
// first, Wait returns its error and kills nothing.
func (p *Process) Wait(ctx context.Context) (*Result, error) {
	select {
	case <-p.done:
		return p.result()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Signal sends a signal to the job's first process; ErrEnded if that has ended.
func (p *Process) Signal(sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if !ok || n < 0 || n > maxSignal {
		return fmt.Errorf("inlay: signal %v: %w", sig, errors.ErrUnsupported)
	}
	p.mu.Lock()
	job := p.job
	p.mu.Unlock()
	if job == nil {
		return ErrNotStarted
	}
	if err := job.Signal(n); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return ErrEnded
		}
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

// Kill ends the job and its process group at once; its Status is Killed. It is
// no error if it has ended.
func (p *Process) Kill() error {
	p.killing(Killed)
	return nil
}

// Exec starts a further job in a running container and returns when its program
// has begun. It shares the container's files, processes, IPC and network with the
// jobs before it and beside it. The context bounds the start alone.
//
// Errors are as those of [Container.Start]; New's faults are reported as
// [*OptionError]s. When the main job ends, every other job is killed.
func (c *Container) Exec(ctx context.Context, opts ...JobOption) (*Process, error) {
	r, err := c.started()
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	j := &Job{}
	for _, o := range present(opts) {
		o.applyJob(j)
	}
	var f faults
	if len(j.Command) == 0 {
		f.add("WithCommand", "", "missing: Exec needs a command")
	}
	j.validate(&f)
	if c.spec.hostUser() {
		for _, name := range j.Capabilities {
			if name == "CAP_SYS_PTRACE" {
				f.add("WithCapabilities", name, "refused together with WithHostNamespace(user): the job could take init over")
			}
		}
	}
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	p, err := r.exec(ctx, j, begun)
	if err != nil {
		counters.execFailures.Add(1)
		c.journal().add(slog.LevelError, "job not started", slog.Any("err", err))
	}
	return p, err
}

// exec starts a further job.
func (r *running) exec(ctx context.Context, j *Job, begun time.Time) (*Process, error) {
	if err := r.settle(ctx, j); err != nil {
		return nil, err
	}
	if err := r.checkSharedPID(j); err != nil {
		return nil, err
	}
	if err := r.refuseNetAdmin(j); err != nil {
		return nil, err
	}
	if err := r.c.spec.checkSeccomp(j, r.host.arch); err != nil {
		return nil, err
	}
	if err := r.c.spec.checkLandlock(j, r.host, r.drop); err != nil {
		return nil, err
	}
	p := newProcess(r, j)
	if err := r.jobGroup(p); err != nil {
		return nil, errors.Join(err, p.leaveGroup())
	}
	r.tellDropped()
	req, err := p.prepare(ctx, begun)
	if err != nil {
		return nil, errors.Join(err, p.leaveGroup())
	}
	if err := p.launch(ctx, r.init, req); err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = ErrEnded
		} else {
			err = p.startError(ctx, r, err) // reads the group's figures
		}
		if leaveErr := p.leaveGroup(); leaveErr != nil {
			err = errors.Join(err, leaveErr)
		}
		return nil, err
	}
	if p.made != nil {
		r.makeAhead(p.made.limits)
	}
	return p, nil
}
