package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
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
	"github.com/inlay-dev/inlay/internal/netdriver"
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
	spec     *Spec // the container's, with the main job's user looked up
	launcher *launcher.Launcher
	state    *launcher.State
	ids      *idRange // nil: none was taken
	joined   []int    // namespaces to join, until init is asked for
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
	upper    *os.File // of the overlay, held and locked; nil: there is none
	nodes    map[string]rootfs.Node
	given    []*os.File     // what init gets with its plan, until it has it
	network  netdriver.Link // nil: lo alone, the host's, or one that is joined
	annex    bool           // that is in a user's network namespace
	// Why there are none, for jobs of Exec that need one.
	noGroups       error
	noGroupsRemedy string
	tasks          int          // how many groups of v1 the main job entered
	maxMemory      atomic.Int64 // the largest memory limit that there was; 0: none from the beginning
	cpuset         atomic.Bool  // the container's groups have, or were given, processors of their own
	pausing        sync.Mutex   // one at a time: Pause, Resume, Update
	paused         atomic.Bool

	listening listeners // of Listen

	releasing  sync.Mutex // one release at a time, and what it has done so far
	tried      bool       // init's end was waited for
	ended      bool       // init is gone
	released   bool       // all of it
	releaseErr error
	closeErr   error
	hangs      atomic.Pointer[LeftError]  // what was left when the end was given up on
	slow       atomic.Pointer[time.Timer] // of killInit, until it is

	cancel  context.CancelCauseFunc // ends a start that is under way
	started chan struct{}           // closed when start has returned

	mu        sync.Mutex
	terminals []*os.File // that nobody here closes before the container
	killed    Status     // why init was killed, which ends all jobs; 0: it was not
	told      int        // how many of Dropped are logged

	spawned, setUp *tracing // until start is over; nil: no times are wanted
}

// Start makes the container and starts its main job, and returns when the job's
// program has begun (its execve(2) has succeeded) or, without a main job, when
// init is ready for Exec. The context bounds the start, not the job's life.
//
// An error is a [*StartError], a [*LimitError] or joins several; then the job has
// not run and nothing of the container is left, unless it is a [*LeftError] as
// well: that is as Close's. A second Start returns ErrStarted.
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
	r := &running{c: c, spec: &c.spec, once: once, begun: begun, cancel: cancel, started: make(chan struct{})}
	c.run = r
	c.mu.Unlock()

	defer r.closeJoins()

	defer cancel(nil)
	defer close(r.started)
	c.journal().starting(&c.spec)
	if err := r.start(ctx, once); err != nil {
		c.journal().notStarted(err)
		countFailure(err)
		err = errors.Join(err, r.release(context.Background()))
		r.keepTrace(ctx, true)
		c.finish(err)
		c.mu.Lock()
		c.state = StateClosed
		c.mu.Unlock()
		c.events.add(Event{Kind: EventClosed})
		c.journal().flush()
		return err
	}
	r.keepTrace(ctx, false)
	if r.main == nil {
		c.events.add(Event{Kind: EventStarted, SetupTime: time.Since(begun)})
	}
	r.plans, r.host.tree = nil, nil // a thousand resident containers have no use for them
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
	if err := ctx.Err(); err != nil {
		return &StartError{Phase: PhasePrepare, Op: "start", Err: context.Cause(ctx)}
	}
	l, err := launcher.Acquire(ctx)
	if err != nil {
		return launcherError(err)
	}
	r.launcher = l
	defer r.closeGiven()
	if err := r.look(ctx); err != nil {
		return err
	}
	s := r.spec
	r.plans = compileLauncher(s, r.host, r.builder())
	req := &launcher.Request{Links: r.network != nil}
	if r.groups != nil {
		req.Cgroup = r.groups.home.born
	}
	hasMain := len(s.Job.Command) > 0
	req.OnEmpty = r.emptied(r.c.ended)
	if hasMain {
		r.main = newProcess(r, &s.Job)
		r.main.beMain()
		req.OnEmpty = r.emptied(r.main.part)
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
	// While init makes its mounts.
	if err := r.connect(ctx); err != nil {
		return err
	}
	r.tellDropped()
	if err := r.readSkew(ctx); err != nil {
		return err
	}
	if hasMain {
		if err := r.settleMain(ctx); err != nil {
			return err
		}
		job, err := r.main.prepare(ctx, r.begun)
		if err != nil {
			return err
		}
		defer r.main.closePassed()
		job.Main, job.Finish = true, once
		if err := r.main.launch(ctx, r.init, job); err != nil {
			return r.main.startError(ctx, r, err)
		}
		if !once {
			// Init may be heard sooner than the launcher, who tells its PID. A launcher
			// that died meanwhile is for Wait to tell.
			_ = r.init.Spawned(ctx)
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
func (r *running) spawn(ctx context.Context, req *launcher.Request) (err error) {
	req.Clone, req.ProcReg = r.plans.clone, r.plans.procReg
	list := []*plan.Plan{r.plans.prepare, r.plans.parent}
	for _, p := range []*plan.Plan{r.plans.teardown, r.plans.stepIn} {
		if p != nil {
			list = append(list, p)
		}
	}
	traced := list
	if r.spec.joins(namespace.Time) != nil {
		traced = list[:len(list)-1] // the step-in process enters another clock on its way
	}
	if r.spawned, err = r.trace(traced...); err != nil {
		return err
	}
	req.FDs, req.SharedPID, req.Trace = r.joined, r.plans.teardown != nil, r.spawned.descriptor()
	return withEncoded(r.host.arch, func(buf []byte, sizes []int) (err error) {
		r.spawned.encoded(sizes)
		req.Plans, req.Prepare, req.Parent = buf, sizes[0], sizes[1]
		if sizes = sizes[2:]; r.plans.teardown != nil {
			req.Teardown, sizes = sizes[0], sizes[1:]
		}
		if r.plans.stepIn != nil {
			req.StepIn = sizes[0]
		}
		if r.init, err = r.launcher.Spawn(ctx, req); err != nil {
			return launcherError(err)
		}
		return nil
	}, list...)
}

// setup sends init its plan; quiet if a job follows at once: then only a failure
// is heard of.
func (r *running) setup(ctx context.Context, quiet bool) (err error) {
	if r.setUp, err = r.trace(r.plans.shape, r.plans.child); err != nil {
		return err
	}
	return withEncoded(r.host.arch, func(buf []byte, sizes []int) error {
		r.setUp.encoded(sizes)
		given := launcher.Given{First: r.plans.given, FDs: descriptors(r.given)}
		if err := r.init.Setup(ctx, buf, sizes[0], quiet, r.plans.kept, given, r.setUp.descriptor()); err != nil {
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
	h.landlock, _ = security.LandlockABI() // why there is none is asked where it is wanted
	if err := s.checkSeccomp(&s.Job, h.arch); err != nil {
		return err
	}
	if err := s.checkLandlock(&s.Job, h, r.drop); err != nil {
		return err
	}
	if err := r.refuseTime(h); err != nil {
		return err
	}
	if err := r.openJoins(ctx); err != nil {
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
	if err := r.lookDevices(); err != nil {
		return err
	}
	if err := r.openGroups(ctx); err != nil {
		return err
	}
	if s, err = r.settleAhead(); err != nil {
		return err
	}
	if err := r.lookSharedPID(); err != nil {
		return err
	}
	if err := r.chooseIDs(h); err != nil {
		return err
	}
	if err := r.checkSharedPID(&s.Job); err != nil {
		return err
	}
	if !s.Job.named() { // as for binds
		if err := checkDevices(s, h); err != nil {
			return err
		}
	}
	if err := r.openNetwork(ctx); err != nil {
		return err
	}
	if err := lookFiles(s, h); err != nil {
		return err
	}
	if !s.Job.named() { // else that is settled when the root is there
		if err := checkBinds(s, h); err != nil {
			return err
		}
	}
	if err := r.readRoot(ctx); err != nil {
		return err
	}
	if err := r.openParts(ctx); err != nil {
		return err
	}
	if err := r.openUpper(); err != nil {
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
	h.remount = !settable()
	root := s.root()
	if root.Type == "host" {
		m, err := rootfs.Look(root.EtcNames)
		if err != nil {
			return &StartError{Phase: PhasePrepare, Op: "look", Path: "/usr", Err: err}
		}
		h.machine = m
	} else {
		h.machine = rootfs.LookProc()
	}
	if root.Type == "dir" && root.Writable {
		if err := checkDir(root, h); err != nil {
			return err
		}
	}
	if err := lookLayers(s, h); err != nil {
		return err
	}
	if s.hostNames() {
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
		if m.Type == "sysfs" {
			h.sysMasked = rootfs.SysMasked()
		}
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

// checkDir looks whether the container's users can write to a folder as its root.
func checkDir(root rootfs.Root, h *host) error {
	st, err := statFolder("WithRoot", root.Path)
	if err != nil || len(h.uids) == 0 || root.IDMapped && h.canMap() {
		return err
	}
	if uid := owner(st).Uid; !namespace.Mapped(hostMaps(h.uids, h.outer), uid) && st.Mode().Perm()&0o002 == 0 {
		return &StartError{
			Phase: PhasePrepare, Op: "check", Path: root.Path, Err: unix.EOVERFLOW,
			Remedy: fmt.Sprintf("its owner, uid %d, is nobody inside the container, whose users could not write there: set WithIDMaps, chown the folder, or make it rootfs.IDMapped", uid),
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
	s, l := r.spec, r.launcher
	const initID = launcher.RangeSize - 1
	h.setgroups = true
	h.countsProcesses = true
	if l.User {
		h.outer, h.outerGIDs = l.UIDs, l.GIDs
	}
	switch j := s.joins(namespace.User); {
	case j != nil:
		if err := r.joinedIDs(h, j); err != nil {
			return err
		}
	case s.hostUser():
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
		first, err := r.takeRange()
		if err != nil {
			return err
		}
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

// takeRange takes a range of ids that no other container has, and returns its first.
func (r *running) takeRange() (uint32, error) {
	first, err := r.state.TakeRange()
	if err != nil {
		return 0, &StartError{Phase: PhasePrepare, Op: "id range", Path: r.state.Path, Err: err}
	}
	r.ids = &idRange{first: first, state: r.state, users: 1}
	return first, nil
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
	s, l := r.spec, r.launcher
	h.uids, h.gids = s.UIDMaps, s.GIDMaps
	h.initUID, h.initGID = s.Job.uid(), s.Job.gid()
	if s.Job.named() { // whoever that is
		h.initUID, h.initGID = h.uids[0].ContainerID, h.gids[0].ContainerID
	}
	if l.User {
		h.setgroups = !l.SingleID()
		h.countsProcesses = l.CountsProcesses()
		return r.checkUser(h, nil)
	}
	first, err := r.takeRange()
	if err != nil {
		return err
	}
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
	if j == nil || len(h.uids) == 0 || j.named() { // not looked up yet
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
	if own := !r.launcher.User || r.c.spec.UIDMaps == nil; own && h.initUID != 0 {
		if h.initUID == j.uid() {
			return refuse("user", j.uid(), "init's own")
		}
		if slices.Contains(append([]uint32{j.gid()}, j.Groups...), h.initGID) {
			return refuse("group", h.initGID, "init's own")
		}
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
	if d := (Dropped{option, reason}); !slices.Contains(r.c.dropped, d) {
		r.c.dropped = append(r.c.dropped, d)
	}
}

// tellDropped logs what the container runs without, each once.
func (r *running) tellDropped() {
	list := r.c.Dropped()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range list[min(r.told, len(list)):] {
		r.c.journal().add(slog.LevelWarn, "running without", slog.String("option", d.Option), slog.String("reason", d.Reason))
	}
	r.told = max(r.told, len(list))
}

// undrop takes back what drop noted.
func (r *running) undrop(option string) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.dropped = slices.DeleteFunc(r.c.dropped, func(d Dropped) bool { return d.Option == option && !r.c.spec.Job.optional(option) })
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
		plans = compile(r.spec, r.host, plan.NewBuilder)
	}
	switch e.Phase {
	case rawproc.PhasePrepare:
		return stepError(plans.prepare, e)
	case rawproc.PhaseStepIn:
		if e.Step == 0 {
			return &StartError{Phase: PhaseStepIn, Op: "step in", Err: e.Errno, Remedy: "the process that joins namespaces was killed before it was done: start again"}
		}
		return stepError(plans.stepIn, e)
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
	phase, remedy := PhaseParent, cloneRemedy(e.Errno)
	if plans.stepIn != nil {
		phase = PhaseStepIn
		if e.Errno == unix.ENOMEM {
			remedy = "no memory, or the PID namespace's first process has ended"
		}
	}
	return &StartError{Phase: phase, Op: op, Err: e.Errno, Remedy: remedy}
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
	r.because(why)
	_ = r.init.Kill() // dead already: then that is that
	t := time.AfterFunc(closeTimeout, r.overdue)
	if !r.slow.CompareAndSwap(nil, t) {
		t.Stop() // one is enough
	}
}

// because notes why init is killed; the first reason stays.
func (r *running) because(why Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.killed == 0 {
		r.killed = why
	}
}

// verdict is how a container without a main job ended.
func (r *running) verdict() Status {
	if why := r.why(); why != 0 {
		return why
	}
	return Killed
}

// why tells why init was killed, if it was.
func (r *running) why() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.killed
}

// closeTimeout bounds Close. Tests shorten it.
var closeTimeout = 10 * time.Second

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
		if err == nil && c.run.main == nil {
			countEnd(c.run.verdict())
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
// container without a main job ends when it is closed or killed. A job that was
// killed and hangs in the kernel, or left such a process behind, is given up on
// after ten seconds: Result.Reason names it.
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
	return &Result{Container: c.ID(), Labels: c.spec.Labels, Status: r.verdict(), ExitCode: -1, Signal: syscall.SIGKILL, Started: r.begun, Finished: time.Now(), Dropped: c.Dropped()}, nil
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
//
// A process that hangs in the kernel outlives SIGKILL: then the error is a
// [*LeftError], and the container keeps its ids, control groups and budgets, two
// descriptors and a goroutine that all such containers share. Close can be called
// again, and [Prune] tries it for all of them.
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
		c.journal().flush()
		return nil
	}
	closed := c.state == StateClosed
	c.mu.Unlock()
	if closed {
		defer c.journal().flush()
		return r.release(context.Background())
	}
	// A start that is under way in another goroutine gives up first.
	r.cancel(ErrClosed)
	<-r.started
	c.mu.Lock()
	c.state = StateClosed
	c.mu.Unlock()
	if r.main != nil {
		r.main.note(Killed)
	}
	r.because(Killed)
	err := r.release(context.Background())
	if r.main != nil && r.main.begun() {
		<-r.main.done // all has ended: the last output is being copied
	}
	c.finish(nil)
	c.events.add(Event{Kind: EventClosed})
	c.journal().flush()
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
	s := c.spec
	if chosen {
		s = *r.spec
	}
	unknown := s.Job.standIns()
	h, err := withTree(&s, h)
	if err != nil {
		return err
	}
	p := compile(&s, h, plan.NewBuilder)
	var b bytes.Buffer
	list := []*plan.Plan{p.prepare, p.parent, p.shape, p.child}
	if p.stepIn == nil {
		fmt.Fprintf(&b, "%-14s%s\n", "launcher", cloneText(&s))
	} else {
		// The launcher has a child make init.
		if err := errors.Join(p.prepare.Explain(&b), p.stepIn.Explain(&b)); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%-14s%s\n", "step-in", siblingText(&s))
		list = list[1:]
	}
	for _, p := range list {
		if err := p.Explain(&b); err != nil {
			return err
		}
	}
	if len(c.spec.Job.Command) > 0 {
		io := stdio{count: 3 + len(c.spec.Job.ExtraFiles), terminal: c.spec.Job.Terminal != nil, cpuset: c.spec.Job.Limits.CPUSet != nil}
		if chosen {
			io.tasks = r.tasks
		}
		if err := compileJob(&s, &s.Job, h, io, plan.NewBuilder).Explain(&b); err != nil {
			return err
		}
	}
	if p.teardown != nil {
		if err := p.teardown.Explain(&b); err != nil {
			return err
		}
	}
	text := unknown.Replace(b.String())
	if !chosen {
		text = strings.ReplaceAll(text, fmt.Sprintf("0 %d %d", launcher.FirstID, launcher.RangeSize), fmt.Sprintf("0 <range> %d", launcher.RangeSize))
	}
	_, err = io.WriteString(w, text)
	return err
}

// cloneText is the launcher's own call, which no plan has.
func cloneText(s *Spec) string {
	return "clone3({flags=" + cloneFlagNames(s.newNamespaces()) + "|CLONE_PIDFD|CLONE_CLEAR_SIGHAND})"
}

// siblingText is the same of the process that joins namespaces.
func siblingText(s *Spec) string {
	return strings.Replace(cloneText(s), "})", "|CLONE_PARENT})", 1)
}

func cloneFlagNames(kinds []namespace.Kind) string {
	text := ""
	for _, k := range kinds {
		if k == namespace.Cgroup || k == namespace.Time {
			continue
		}
		if text != "" {
			text += "|"
		}
		text += map[namespace.Kind]string{
			namespace.PID: "CLONE_NEWPID", namespace.Mount: "CLONE_NEWNS", namespace.UTS: "CLONE_NEWUTS", namespace.IPC: "CLONE_NEWIPC",
			namespace.Network: "CLONE_NEWNET", namespace.User: "CLONE_NEWUSER",
		}[k]
	}
	return text
}

// explainHost is this host before a start: the range of ids is not taken yet.
func explainHost(s *Spec) (*host, error) {
	h := &host{arch: launcher.Arch, seccomp: true, setgroups: true, countsProcesses: true, sourceIsDir: map[string]bool{}}
	h.landlock, _ = security.LandlockABI() // 0 where there is none
	if err := h.lookLimits(); err != nil {
		return nil, err
	}
	switch {
	case s.hostUser():
		h.countsProcesses = false
	case s.UIDMaps != nil:
		h.uids, h.gids, h.initUID, h.initGID = s.UIDMaps, s.GIDMaps, launcher.RangeSize-1, launcher.RangeSize-1
	default:
		h.uids = []namespace.IDMap{{ContainerID: 0, HostID: launcher.FirstID, Size: launcher.RangeSize}}
		h.gids, h.initUID, h.initGID = h.uids, launcher.RangeSize-1, launcher.RangeSize-1
	}
	h.noTime = timeNamespaces() != nil
	h.killFile = "<group>/cgroup.kill"
	h.nodes = nodes(s)
	return h, lookFiles(s, h)
}

// begin starts a container that nobody else sees, and returns its main job.
func (c *Container) begin(ctx context.Context) (*Process, error) {
	if err := c.start(ctx, true); err != nil {
		return nil, err
	}
	return c.run.main, nil
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
			return &Result{Container: c.ID(), Labels: c.spec.Labels, Status: Canceled, ExitCode: -1, Signal: syscall.SIGKILL, Started: now, Finished: now, cause: context.Cause(ctx)}, nil
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
