package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/internal/launcher"
	_ "github.com/inlay-dev/inlay/internal/launcher/boot" // its init is the launcher
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/internal/quota"
	"github.com/inlay-dev/inlay/internal/rawproc"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// running is what a started container holds on this host.
type running struct {
	c        *Container
	launcher *launcher.Launcher
	state    *launcher.State
	idRange  uint32 // 0: none was taken
	host     *host
	plans    *plans
	init     *launcher.Init
	main     *Process // nil without a command
	begun    time.Time
	once     bool          // Run's: nobody sees the container
	timer    *time.Timer   // of a time limit without a main job
	limits   cgroup.Limits // the container's, as far as this host keeps them
	groups   *groups       // nil: there can be none here
	budgets  []*quota.Budget
	// Why there are none, for jobs of Exec that need one.
	noGroups       error
	noGroupsRemedy string
	tasks          int          // how many groups of v1 the main job entered
	maxMemory      atomic.Int64 // the largest memory limit that there was; 0: none from the beginning
	pausing        sync.Mutex   // one at a time: Pause, Resume, Update
	paused         atomic.Bool

	closeOnce sync.Once
	closeErr  error

	cancel  context.CancelCauseFunc // ends a start that is under way
	started chan struct{}           // closed when start has returned

	mu     sync.Mutex
	killed Status // of a container without a main job
}

// Start makes the container and starts its main job, and returns when the job's
// program has begun (its execve(2) has succeeded) or, without a main job, when
// init is ready for Exec. The context bounds the start, not the job's life.
//
// An error is a [*StartError], a [*LimitError] or joins several; then the job has
// not run and nothing of the container is left. A second Start returns
// ErrStarted.
func (c *Container) Start(ctx context.Context) error { return c.start(ctx, false) }

func (c *Container) start(ctx context.Context, once bool) error {
	begun := time.Now()
	c.mu.Lock()
	switch {
	case c.state == StateClosed:
		c.mu.Unlock()
		return ErrClosed
	case c.state != StateCreated || c.run != nil:
		c.mu.Unlock()
		return ErrStarted
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r := &running{c: c, once: once, begun: begun, cancel: cancel, started: make(chan struct{})}
	c.run = r
	c.mu.Unlock()

	defer cancel(nil)
	defer close(r.started)
	if err := r.start(ctx, once); err != nil {
		err = errors.Join(err, r.release())
		c.finish(err)
		c.mu.Lock()
		c.state = StateClosed
		c.mu.Unlock()
		c.events.add(Event{Kind: EventClosed})
		return err
	}
	if r.main == nil {
		c.events.add(Event{Kind: EventStarted})
	}
	r.plans = nil // a thousand resident containers have no use for them
	c.mu.Lock()
	if c.state == StateCreated {
		c.state = StateRunning
	}
	c.mu.Unlock()
	// It may be over already, before anybody could see it run.
	over := r.init.Done()
	if r.main != nil {
		over = r.main.done
	}
	select {
	case <-over:
		c.finish(nil)
	default:
	}
	return nil
}

func (r *running) start(ctx context.Context, once bool) error {
	if err := r.refuse(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return &StartError{Phase: PhasePrepare, Op: "start", Err: context.Cause(ctx)}
	}
	l, err := launcher.Acquire(ctx)
	if err != nil {
		return launcherError(err)
	}
	r.launcher = l
	if err := r.look(ctx); err != nil {
		return err
	}
	s := &r.c.spec
	r.plans = compileLauncher(s, r.host, plan.NewSilentBuilder)
	req := &launcher.Request{}
	if r.groups != nil {
		req.Cgroup = r.groups.home.born
	}
	hasMain := len(s.Job.Command) > 0
	req.OnEmpty = r.c.ended
	if hasMain {
		r.main = newProcess(r, &s.Job)
		r.main.beMain()
		req.OnEmpty = r.main.part
	}
	if err := r.spawn(ctx, req); err != nil {
		return err
	}
	// While the launcher works: most of its time goes to the network namespace.
	r.plans.finish()
	if err := r.setup(ctx, hasMain); err != nil {
		return err
	}
	if err := r.makeGroups(once); err != nil {
		return err
	}
	if hasMain {
		job, err := r.main.prepare(r.begun)
		if err != nil {
			return err
		}
		defer r.main.closePassed()
		job.Main, job.Finish = true, once
		if err := r.main.launch(ctx, r.init, job); err != nil {
			return r.main.startError(ctx, r, err)
		}
		return nil
	}
	if err := r.init.Ready(ctx); err != nil {
		return r.planError(err)
	}
	if d := s.Job.TimeLimit; d != nil {
		r.timer = time.AfterFunc(*d, func() { r.killInit(TimeLimit) })
	}
	return nil
}

// sabotage lets tests make a step fail.
var sabotage func(*plan.Plan)

// encoded is memory for plans on their way: a launch has no use for it once it
// is sent.
var encoded = sync.Pool{New: func() any { return new([]byte) }}

// withEncoded encodes plans into one buffer and has it used; sizes are theirs.
// Then the plans are given back: where one is needed again, to say which step
// failed, it is compiled again.
func withEncoded(arch plan.Arch, use func(buf []byte, sizes []int) error, plans ...*plan.Plan) error {
	mem := encoded.Get().(*[]byte) //nolint:forcetypeassert // the pool's own
	defer encoded.Put(mem)
	buf := (*mem)[:0]
	sizes := make([]int, len(plans))
	for i, p := range plans {
		if sabotage != nil {
			sabotage(p)
		}
		if len(p.Steps) == 0 && p.Phase != plan.Child {
			continue
		}
		before := len(buf)
		var err error
		if buf, err = p.AppendEncode(buf, arch); err != nil {
			return &StartError{Phase: Phase(p.Phase), Op: "encode", Err: err}
		}
		sizes[i] = len(buf) - before
	}
	if cap(buf) <= 1<<20 {
		*mem = buf // larger ones carry somebody's files
	}
	err := use(buf, sizes)
	if sabotage == nil {
		for _, p := range plans {
			p.Release()
		}
	}
	return err
}

// spawn asks the launcher for init.
func (r *running) spawn(ctx context.Context, req *launcher.Request) error {
	req.Clone, req.ProcReg = r.plans.clone, r.plans.procReg
	return withEncoded(r.host.arch, func(buf []byte, sizes []int) (err error) {
		req.Plans, req.Prepare, req.Parent = buf, sizes[0], sizes[1]
		if r.init, err = r.launcher.Spawn(ctx, req); err != nil {
			return launcherError(err)
		}
		return nil
	}, r.plans.prepare, r.plans.parent)
}

// setup sends init its plan; quiet if a job follows at once: then only a failure
// is heard of.
func (r *running) setup(ctx context.Context, quiet bool) error {
	return withEncoded(r.host.arch, func(buf []byte, sizes []int) error {
		if err := r.init.Setup(ctx, buf, sizes[0], quiet); err != nil {
			return launcherError(err)
		}
		return nil
	}, r.plans.shape, r.plans.child)
}

// look finds out what compiling needs: ids, files, limits.
func (r *running) look(ctx context.Context) error {
	s := &r.c.spec
	h := &host{arch: launcher.Arch, seccomp: true, sourceIsDir: map[string]bool{}}
	r.host = h
	if err := s.checkSeccomp(&s.Job, h.arch); err != nil {
		return err
	}
	dir := s.StateDir
	if dir == "" {
		dir = launcher.DefaultStateDir()
	}
	var err error
	if r.state, err = r.launcher.OpenState(ctx, dir); err != nil {
		return launcherError(err)
	}
	if err := h.lookLimits(); err != nil {
		return err
	}
	if err := r.openGroups(ctx); err != nil {
		return err
	}
	if err := r.chooseIDs(h); err != nil {
		return err
	}
	if err := lookFiles(s, h); err != nil {
		return err
	}
	if err := checkBinds(s, h); err != nil {
		return err
	}
	return r.openBudgets()
}

// lookLimits reads the host program's own limits: no job can have more.
func (h *host) lookLimits() error {
	h.hard = map[string]uint64{}
	for _, l := range slices.Concat(defaultRlimits, []security.Rlimit{{Name: "nproc"}}) {
		var lim unix.Rlimit
		if err := unix.Getrlimit(l.Number(), &lim); err != nil {
			return &StartError{Phase: PhasePrepare, Op: "getrlimit", Err: err}
		}
		h.hard[l.Name] = lim.Max
	}
	return nil
}

// lookFiles reads what the plans need to know of the host's files.
func lookFiles(s *Spec, h *host) error {
	root := s.root()
	if root.Type == "host" {
		m, err := rootfs.Look(root.EtcNames)
		if err != nil {
			return &StartError{Phase: PhasePrepare, Op: "look", Path: "/usr", Err: err}
		}
		h.machine = m
	} else {
		h.machine = rootfs.LookProc()
		if err := checkDir(root, h); err != nil {
			return err
		}
	}
	if !s.isNew(namespace.Network) {
		for _, f := range []struct {
			path string
			to   *[]byte
		}{{"/etc/resolv.conf", &h.resolv}, {"/etc/hosts", &h.hosts}} {
			text, err := os.ReadFile(f.path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return &StartError{Phase: PhasePrepare, Op: "read", Path: f.path, Err: bare(err), Remedy: "a container on the host's network has the host's names"}
			}
			*f.to = text
		}
	}
	for _, m := range s.Mounts {
		if m.Type != "bind" {
			continue
		}
		st, err := os.Stat(m.Source)
		if err != nil {
			return &StartError{Phase: PhasePrepare, Op: "stat", Path: m.Source, Err: bare(err), Remedy: "the source of a bind must be there"}
		}
		h.sourceIsDir[m.Source] = st.IsDir()
	}
	return nil
}

// checkDir looks whether the container can use a folder as its root.
func checkDir(root rootfs.Root, h *host) error {
	st, err := os.Stat(root.Path)
	if err != nil {
		return &StartError{Phase: PhasePrepare, Op: "stat", Path: root.Path, Err: bare(err), Remedy: "WithRoot needs a folder that is there"}
	}
	if !st.IsDir() {
		return &StartError{Phase: PhasePrepare, Op: "stat", Path: root.Path, Err: unix.ENOTDIR, Remedy: "WithRoot needs a folder"}
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !root.Writable || len(h.uids) == 0 {
		return nil
	}
	if !namespace.Mapped(hostMaps(h.uids, h.outer), sys.Uid) && st.Mode().Perm()&0o002 == 0 {
		return &StartError{
			Phase: PhasePrepare, Op: "check", Path: root.Path, Err: unix.EOVERFLOW,
			Remedy: fmt.Sprintf("its owner, uid %d, is nobody inside the container, whose users could not write there: set WithIDMaps, or chown the folder", sys.Uid),
		}
	}
	return nil
}

// hostMaps are the container's maps in the host's ids: an unprivileged user's
// containers nest below the launcher's own namespace.
func hostMaps(maps []namespace.IDMap, outer []launcher.IDMap) []namespace.IDMap {
	if outer == nil {
		return maps
	}
	var out []namespace.IDMap
	for _, m := range maps {
		for _, o := range outer {
			lo, hi := max(m.HostID, o.Inside), min(uint64(m.HostID)+uint64(m.Size), uint64(o.Inside)+uint64(o.Size))
			if uint64(lo) < hi {
				out = append(out, namespace.IDMap{ContainerID: m.ContainerID + (lo - m.HostID), HostID: o.Outside + (lo - o.Inside), Size: uint32(hi - uint64(lo))})
			}
		}
	}
	return out
}

// chooseIDs decides who the container's users are on the host.
func (r *running) chooseIDs(h *host) error {
	s, l := &r.c.spec, r.launcher
	const initID = launcher.RangeSize - 1
	h.setgroups = true
	h.countsProcesses = true
	if l.User {
		h.outer, h.outerGIDs = l.UIDs, l.GIDs
	}
	switch {
	case !s.isNew(namespace.User):
		// Real ids: RLIMIT_NPROC would count the user's other processes too.
		h.countsProcesses = false
		h.setgroups = !l.User
		if l.User {
			return &StartError{
				Phase: PhasePrepare, Op: "WithHostNamespace", Path: string(namespace.User), Err: unix.EPERM,
				Remedy: "without CAP_SYS_ADMIN a container needs a user namespace",
			}
		}
	case s.UIDMaps != nil:
		return r.explicitIDs(h)
	case !l.User:
		first, err := r.state.TakeRange()
		if err != nil {
			return &StartError{Phase: PhasePrepare, Op: "id range", Path: r.state.Path, Err: err}
		}
		r.idRange = first
		h.uids = []namespace.IDMap{{ContainerID: 0, HostID: first, Size: launcher.RangeSize}}
		h.gids = h.uids
		h.initUID, h.initGID = initID, initID
	case !l.SingleID():
		h.uids, h.gids = identity(l.UIDs), identity(l.GIDs)
		h.initUID, h.initGID = initID, initID
	default:
		h.uids = []namespace.IDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		h.gids = h.uids
		h.setgroups = false
	}
	if l.User && s.isNew(namespace.User) {
		h.countsProcesses = l.CountsProcesses()
	}
	if !h.countsProcesses && !h.pidsByGroup && !hasRlimit(&s.Job, "nproc") {
		r.drop("WithRlimit", "no limit on the number of processes: without cgroups, RLIMIT_NPROC would count the host user's other processes")
	}
	return r.checkUser(h, &s.Job)
}

// identity maps the launcher's ids to themselves: line by line, since the kernel
// wants each range inside one of the parent's.
func identity(outer []launcher.IDMap) []namespace.IDMap {
	var out []namespace.IDMap
	for _, m := range outer {
		if m.Inside < launcher.RangeSize {
			out = append(out, namespace.IDMap{ContainerID: m.Inside, HostID: m.Inside, Size: min(m.Size, launcher.RangeSize-m.Inside)})
		}
	}
	return out
}

// explicitIDs takes the maps that were asked for, with one id more for init
// alone where there is one to be had.
func (r *running) explicitIDs(h *host) error {
	s, l := &r.c.spec, r.launcher
	h.uids, h.gids = s.UIDMaps, s.GIDMaps
	h.initUID, h.initGID = s.Job.uid(), s.Job.gid()
	if l.User {
		h.setgroups = !l.SingleID()
		h.countsProcesses = l.CountsProcesses()
		return r.checkUser(h, nil)
	}
	first, err := r.state.TakeRange()
	if err != nil {
		return &StartError{Phase: PhasePrepare, Op: "id range", Path: r.state.Path, Err: err}
	}
	r.idRange = first
	free := func(maps []namespace.IDMap) uint32 {
		id := uint32(launcher.RangeSize - 1)
		for {
			if _, used := namespace.ToHost(maps, id); !used {
				return id
			}
			id++
		}
	}
	h.initUID, h.initGID = free(h.uids), free(h.gids)
	h.uids = append(append([]namespace.IDMap{}, h.uids...), namespace.IDMap{ContainerID: h.initUID, HostID: first, Size: 1})
	h.gids = append(append([]namespace.IDMap{}, h.gids...), namespace.IDMap{ContainerID: h.initGID, HostID: first, Size: 1})
	if err := namespace.ValidateIDMaps(h.uids); err != nil {
		return &StartError{Phase: PhasePrepare, Op: "WithIDMaps", Err: err, Remedy: "the ids from 524288 on are given to containers automatically"}
	}
	return r.checkUser(h, &s.Job)
}

// checkUser looks whether a job's ids are there, and not init's own.
func (r *running) checkUser(h *host, j *Job) error {
	if j == nil || len(h.uids) == 0 {
		return nil
	}
	refuse := func(what string, id uint32, why string) error {
		remedy := "with automatic maps 0 to 65534 are there"
		if !h.setgroups {
			remedy = "only 0 is there: this user has no range in /etc/subuid and /etc/subgid, or newuidmap is missing (see container.Probe)"
		}
		return &StartError{Phase: PhasePrepare, Op: "WithUser", Path: fmt.Sprintf("%s %d", what, id), Err: fmt.Errorf("%s: %w", why, unix.EINVAL), Remedy: remedy}
	}
	for _, g := range append([]uint32{j.gid()}, j.Groups...) {
		if _, ok := namespace.ToHost(h.gids, g); !ok {
			return refuse("group", g, "not mapped")
		}
	}
	if len(j.Groups) > 0 && !h.setgroups {
		return refuse("groups", j.Groups[0], "setgroups(2) is not allowed here")
	}
	if _, ok := namespace.ToHost(h.uids, j.uid()); !ok {
		return refuse("user", j.uid(), "not mapped")
	}
	if h.initUID != 0 && h.initUID == j.uid() && r.c.spec.UIDMaps == nil {
		return refuse("user", j.uid(), "init's own")
	}
	return nil
}

func hasRlimit(j *Job, name string) bool {
	for _, l := range j.Rlimits {
		if l.Name == name {
			return true
		}
	}
	return false
}

func (r *running) drop(option, reason string) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.dropped = append(r.c.dropped, Dropped{option, reason})
}

// undrop takes back what drop noted.
func (r *running) undrop(option string) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.dropped = slices.DeleteFunc(r.c.dropped, func(d Dropped) bool { return d.Option == option && !r.c.spec.Job.optional(option) })
}

// refuse answers what this version does not do yet.
func (r *running) refuse() error {
	s := &r.c.spec
	var errs []error
	lack := func(option, remedy string) {
		const reason = "not in this version"
		if s.Job.optional(option) {
			r.drop(option, reason)
			return
		}
		errs = append(errs, &StartError{Phase: PhasePrepare, Op: option, Err: fmt.Errorf("%s: %w", reason, errors.ErrUnsupported), Remedy: remedy})
	}
	if len(s.Join) > 0 {
		lack("WithJoinNamespace", "")
	}
	if s.isNew(namespace.Time) || s.TimeOffsets != nil {
		lack("WithTimeOffsets", "leave namespace.Time out")
	}
	if len(s.Sysctls) > 0 {
		lack("WithSysctl", "")
	}
	if !s.isNew(namespace.PID) {
		lack("WithHostNamespace", "without a PID namespace a container can only be ended by a cgroup")
	}
	return errors.Join(errs...)
}

// launcherError turns what the launcher's side says into a StartError.
func launcherError(err error) error {
	var e *launcher.Error
	if errors.As(err, &e) {
		return &StartError{Phase: PhasePrepare, Op: e.Op, Path: e.Path, Err: e.Err, Remedy: e.Remedy}
	}
	return &StartError{Phase: PhasePrepare, Op: "reach the launcher", Err: err}
}

// planError turns a failed step into a StartError: the step's own text says
// what it was.
func (r *running) planError(err error) error {
	var e *launcher.PlanError
	if !errors.As(err, &e) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return &StartError{Phase: PhaseChild, Op: "start", Err: err}
		}
		return &StartError{Phase: PhaseChild, Op: "init", Err: err}
	}
	plans := r.plans
	if plans == nil || len(plans.prepare.Steps) == 0 { // given back when it was sent
		plans = compile(&r.c.spec, r.host, plan.NewBuilder)
	}
	switch e.Phase {
	case rawproc.PhasePrepare:
		return stepError(plans.prepare, e)
	case rawproc.PhaseParent:
		return stepError(plans.parent, e)
	case rawproc.PhaseShape:
		return stepError(plans.shape, e)
	case rawproc.PhaseChild:
		return stepError(plans.child, e)
	}
	op := "clone3"
	if e.Step < 3 && e.Errno == unix.EAGAIN {
		op = "spawn"
	}
	return &StartError{Phase: PhaseParent, Op: op, Err: e.Errno, Remedy: cloneRemedy(e.Errno)}
}

func cloneRemedy(errno syscall.Errno) string {
	switch {
	case errors.Is(errno, unix.EPERM):
		return "this program may not make namespaces: see container.Probe"
	case errors.Is(errno, unix.ENOSPC), errors.Is(errno, unix.EUSERS):
		return "a limit of namespaces is reached: see the sysctls user.max_*_namespaces"
	case errors.Is(errno, unix.EAGAIN):
		return "the limit of processes is reached (RLIMIT_NPROC, pids.max), or of containers"
	case errors.Is(errno, unix.EMFILE), errors.Is(errno, unix.ENFILE):
		return "the limit of open files is reached: ulimit -n, fs.file-max"
	case errors.Is(errno, unix.ENOMEM):
		return "no memory, or a PID namespace limit is reached"
	}
	return ""
}

// stepError names the step that failed.
func stepError(p *plan.Plan, e *launcher.PlanError) *StartError {
	out := &StartError{Phase: Phase(p.Phase), Op: "run", Err: e.Errno}
	if e.Step >= 1 && e.Step <= len(p.Steps) {
		s := p.Steps[e.Step-1]
		out.Op, out.Path, out.Remedy = s.Op, s.Path, s.Hint
	}
	return out
}

// bare is the errno under an *fs.PathError: the StartError has path and call.
func bare(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// killInit ends a container that has no main job.
func (r *running) killInit(why Status) {
	r.mu.Lock()
	if r.killed == 0 {
		r.killed = why
	}
	r.mu.Unlock()
	_ = r.init.Kill() // dead already: then that is that
}

// closeTimeout bounds Close.
const closeTimeout = 10 * time.Second

// release gives back all that the container holds.
func (r *running) release() error {
	r.closeOnce.Do(func() { r.closeErr = r.releaseOnce() })
	return r.closeErr
}

func (r *running) releaseOnce() error {
	var errs []error
	if r.timer != nil {
		r.timer.Stop()
	}
	r.thaw()
	if r.groups != nil && r.groups.all != nil {
		r.groups.all.Uncap()
	}
	if r.init != nil {
		ctx, cancel := context.WithTimeoutCause(context.Background(), closeTimeout, errSlow)
		errs = append(errs, r.init.Close(ctx))
		cancel()
	}
	r.keepStats()
	errs = append(errs, r.removeGroups(), r.releaseBudgets())
	if r.idRange != 0 {
		errs = append(errs, r.state.GiveBack(r.idRange))
	}
	if r.launcher != nil {
		r.launcher.Release()
	}
	if err := errors.Join(errs...); err != nil {
		return &StartError{Phase: PhaseTeardown, Op: "close", Err: err}
	}
	return nil
}

var errSlow = errors.New("init did not end within 10 s: one of its processes hangs in the kernel")

// finish closes Done, once.
func (c *Container) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.done:
	default:
		c.doneErr = err
		if c.state == StateRunning || c.state == StateCreated {
			c.state = StateStopped
		}
		close(c.done)
	}
}

// ended closes Done of a container that has begun; one that has not is still in
// Start's hands.
func (c *Container) ended() {
	c.mu.Lock()
	began := c.state == StateRunning || c.state == StateClosed
	c.mu.Unlock()
	if began {
		c.finish(nil)
	}
}

// started returns the running container, or why there is none.
func (c *Container) started() (*running, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case StateClosed:
		return nil, ErrClosed
	case StateCreated:
		return nil, ErrNotStarted
	default:
		return c.run, nil
	}
}

// Wait waits for the end of the main job and the last of its output, and returns
// the Result: the same one to any number of callers, also after Close. A
// container without a main job ends when it is closed or killed.
//
// When the context ends first, Wait returns its error and kills nothing.
func (c *Container) Wait(ctx context.Context) (*Result, error) {
	c.mu.Lock()
	r, state := c.run, c.state
	c.mu.Unlock()
	if r == nil {
		if state == StateClosed {
			return nil, ErrClosed
		}
		return nil, ErrNotStarted
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	err := c.doneErr
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if r.main != nil {
		return r.main.result()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	status := r.killed
	if status == 0 {
		status = Killed
	}
	return &Result{Status: status, ExitCode: -1, Signal: syscall.SIGKILL, Started: r.begun, Finished: time.Now(), Dropped: c.Dropped()}, nil
}

// Signal sends a signal to the main job's first process. It returns ErrEnded
// where that has ended, and an error that matches errors.ErrUnsupported for what
// is no syscall.Signal.
func (c *Container) Signal(sig os.Signal) error {
	r, err := c.started()
	if err != nil {
		return err
	}
	if r.main == nil {
		return fmt.Errorf("inlay: the container has no main job: %w", ErrEnded)
	}
	return r.main.Signal(sig)
}

// Kill ends the container at once: the main job's Status is Killed. The
// container's files stay until Close. It is no error if all has ended.
func (c *Container) Kill() error {
	r, err := c.started()
	if err != nil {
		return err
	}
	if r.main == nil {
		r.killInit(Killed)
		return nil
	}
	return r.main.Kill()
}

// Stop asks the main job to end by the stop signal, waits for the grace, and
// kills what is left; it returns when the container has ended. When the context
// ends first it kills at once. A container without a main job is killed.
func (c *Container) Stop(ctx context.Context) error {
	r, err := c.started()
	if err != nil {
		return err
	}
	if r.main == nil {
		r.killInit(Killed)
		_, err := c.Wait(ctx)
		return err
	}
	return r.main.stop(ctx, Killed)
}

// Close kills what still runs, waits until it is gone and removes everything. It
// may be called at any time and more than once, returns within about ten seconds,
// and tells what it could not remove. The Result of Wait stays.
func (c *Container) Close() error {
	c.mu.Lock()
	r := c.run
	if r == nil { // never started
		if c.state != StateClosed {
			c.state = StateClosed
			c.doneErr = ErrClosed
			close(c.done)
		}
		c.mu.Unlock()
		c.events.add(Event{Kind: EventClosed})
		return nil
	}
	closed := c.state == StateClosed
	c.mu.Unlock()
	if closed {
		return r.release()
	}
	// A start that is under way in another goroutine gives up first.
	r.cancel(ErrClosed)
	<-r.started
	c.mu.Lock()
	c.state = StateClosed
	c.mu.Unlock()
	if r.main != nil {
		r.main.note(Killed)
	} else {
		r.mu.Lock()
		if r.killed == 0 {
			r.killed = Killed
		}
		r.mu.Unlock()
	}
	err := r.release()
	if r.main != nil && r.main.begun() {
		<-r.main.done // all has ended: the last output is being copied
	}
	c.finish(nil)
	c.events.add(Event{Kind: EventClosed})
	return err
}

// PID returns init's process id on the host; 0 before Start.
func (c *Container) PID() int {
	r, err := c.started()
	if err != nil || r.init == nil {
		return 0
	}
	return r.init.PID()
}

// Explain prints what will be done, or was done, to start the container: one
// line for each system call, in strace's manner, with placeholders in <> for
// what is not known yet.
func (c *Container) Explain(w io.Writer) error {
	c.mu.Lock()
	r := c.run
	c.mu.Unlock()
	var h *host
	chosen := false // the ids are known from Start on
	if r != nil {
		select {
		case <-r.started:
			h, chosen = r.host, r.host != nil && r.host.machine != nil
		default:
		}
	}
	if !chosen {
		var err error
		if h, err = explainHost(&c.spec); err != nil {
			return err
		}
	}
	p := compile(&c.spec, h, plan.NewBuilder)
	var b bytes.Buffer
	fmt.Fprintf(&b, "launcher      clone3({flags=%s|CLONE_PIDFD|CLONE_CLEAR_SIGHAND})\n", cloneFlagNames(c.spec.newNamespaces()))
	for _, p := range []*plan.Plan{p.prepare, p.parent, p.shape, p.child} {
		if err := p.Explain(&b); err != nil {
			return err
		}
	}
	if len(c.spec.Job.Command) > 0 {
		io := stdio{count: 3 + len(c.spec.Job.ExtraFiles)}
		if chosen {
			io.tasks = r.tasks
		}
		if err := compileJob(&c.spec, &c.spec.Job, h, io, plan.NewBuilder).Explain(&b); err != nil {
			return err
		}
	}
	text := b.String()
	if !chosen {
		text = strings.ReplaceAll(text, fmt.Sprintf("0 %d %d", launcher.FirstID, launcher.RangeSize), fmt.Sprintf("0 <range> %d", launcher.RangeSize))
	}
	_, err := io.WriteString(w, text)
	return err
}

func cloneFlagNames(kinds []namespace.Kind) string {
	text := ""
	for _, k := range kinds {
		if k == namespace.Cgroup {
			continue
		}
		if text != "" {
			text += "|"
		}
		text += map[namespace.Kind]string{
			namespace.PID: "CLONE_NEWPID", namespace.Mount: "CLONE_NEWNS", namespace.UTS: "CLONE_NEWUTS", namespace.IPC: "CLONE_NEWIPC",
			namespace.Network: "CLONE_NEWNET", namespace.User: "CLONE_NEWUSER", namespace.Time: "CLONE_NEWTIME",
		}[k]
	}
	return text
}

// explainHost is this host before a start: the range of ids is not taken yet.
func explainHost(s *Spec) (*host, error) {
	h := &host{arch: launcher.Arch, seccomp: true, setgroups: true, countsProcesses: true, sourceIsDir: map[string]bool{}}
	if err := h.lookLimits(); err != nil {
		return nil, err
	}
	switch {
	case !s.isNew(namespace.User):
		h.countsProcesses = false
	case s.UIDMaps != nil:
		h.uids, h.gids, h.initUID, h.initGID = s.UIDMaps, s.GIDMaps, launcher.RangeSize-1, launcher.RangeSize-1
	default:
		h.uids = []namespace.IDMap{{ContainerID: 0, HostID: launcher.FirstID, Size: launcher.RangeSize}}
		h.gids, h.initUID, h.initGID = h.uids, launcher.RangeSize-1, launcher.RangeSize-1
	}
	return h, lookFiles(s, h)
}

// runOnce is Run's life of a container.
func (c *Container) runOnce(ctx context.Context) (res *Result, err error) {
	defer func() {
		err = errors.Join(err, c.Close())
		if err != nil {
			res = nil
		}
	}()
	if err := c.start(ctx, true); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			now := time.Now()
			return &Result{Status: Canceled, ExitCode: -1, Signal: syscall.SIGKILL, Started: now, Finished: now, cause: context.Cause(ctx)}, nil
		}
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() {
		m := c.run.main
		m.canceled(context.Cause(ctx))
		if c.spec.StopOnCancel {
			_ = m.stop(context.Background(), Canceled) // what is left, Close ends
			return
		}
		m.killing(Canceled)
	})
	defer stop()
	return c.Wait(context.Background())
}
