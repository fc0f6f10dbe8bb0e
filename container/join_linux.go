package container

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/namespace"
)

// openJoins opens the namespaces that the container joins, in the order of Spec.Join,
// and looks that each is what it is said to be.
func (r *running) openJoins(ctx context.Context) error {
	s := &r.c.spec
	var errs []error
	for i := range s.Join {
		fd, err := s.Join[i].open(ctx)
		if err == nil {
			r.joined = append(r.joined, fd)
			err = s.Join[i].check(fd)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// closeJoins closes what openJoins opened: the launcher has its own.
func (r *running) closeJoins() {
	for _, fd := range r.joined {
		_ = unix.Close(fd)
	}
	r.joined = nil
}

func (j *Join) fail(op string, err error, remedy string) error {
	return &StartError{Phase: PhasePrepare, Op: op, Path: j.what(), Err: err, Remedy: remedy}
}

// open returns a descriptor of the namespace.
func (j *Join) open(ctx context.Context) (int, error) {
	switch {
	case j.of != nil:
		return j.openOf(ctx)
	case j.File != nil:
		fd, err := duplicate(j.File)
		if err != nil {
			return -1, j.fail(j.option(), err, "the file must stay open until Start has returned")
		}
		return fd, nil
	}
	// Looked at before it is opened: a device or a FIFO would notice.
	at, err := unix.Open(j.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		remedy := "a namespace's file must be there: /proc/PID/ns/NAME of a process that runs, or where one was bound"
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			remedy = "the namespaces of a process are shown to whom may trace it: its own user or root"
		}
		return -1, j.fail("open", err, remedy)
	}
	defer unix.Close(at) //nolint:errcheck // nothing to flush
	if err := j.isNamespace(at); err != nil {
		return -1, err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, j.fail("open", err, "")
	}
	return fd, nil
}

// openOf asks the other container's init: nobody can be mistaken for it.
func (j *Join) openOf(ctx context.Context) (int, error) {
	o := j.of
	r, err := o.started()
	if err != nil {
		return -1, j.fail(j.option(), err, "the other container must run")
	}
	if o.spec.joins(j.Kind) == nil && (!o.spec.isNew(j.Kind) || j.Kind == namespace.Time && r.host.noTime) {
		return -1, j.fail(j.option(), fmt.Errorf("it has the host's: %w", unix.EINVAL), fmt.Sprintf("WithHostNamespace(%s)", j.Kind))
	}
	select {
	case <-o.done:
		return -1, j.fail(j.option(), ErrEnded, "the other container must run")
	default:
	}
	fd, err := r.init.OpenNamespace(ctx, j.Kind.File())
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EPIPE) {
		err = ErrEnded
	}
	if err != nil {
		return -1, j.fail(j.option(), err, "the other container must run")
	}
	return fd, nil
}

func (j *Join) isNamespace(fd int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return j.fail("fstatfs", err, "")
	}
	if fs.Type != unix.NSFS_MAGIC {
		return j.fail(j.option(), fmt.Errorf("it is no namespace: %w", unix.EINVAL), "a file such as /proc/PID/ns/"+j.Kind.File())
	}
	return nil
}

// check looks that the descriptor is of a namespace of the kind.
func (j *Join) check(fd int) error {
	if err := j.isNamespace(fd); err != nil {
		return err
	}
	flag, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return j.fail("ioctl", err, "")
	}
	for _, k := range namespace.All() {
		if k.CloneFlag() == uint64(flag) && k != j.Kind {
			return j.fail(j.option(), fmt.Errorf("it is a %s namespace, not %s: %w", k, j.Kind, unix.EINVAL), "give the other kind, or another namespace")
		}
	}
	if j.Kind == namespace.User && sameFile(fd, "/proc/self/ns/user") {
		return j.fail(j.option(), fmt.Errorf("it is this program's own: %w", unix.EINVAL), "WithHostNamespace(user)")
	}
	return nil
}

// sameFile tells whether a descriptor is of the file at a path.
func sameFile(fd int, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(fd, &a) == nil && unix.Stat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// joinedFD is the descriptor of the joined namespace of a kind.
func (r *running) joinedFD(k namespace.Kind) int {
	for i := range r.c.spec.Join {
		if r.c.spec.Join[i].Kind == k {
			return r.joined[i]
		}
	}
	return -1
}

// joinedIDs takes the ids of the user namespace that the container joins.
func (r *running) joinedIDs(h *host, j *Join) error {
	// RLIMIT_NPROC counts those of the others, too.
	h.countsProcesses = false
	if j.of != nil {
		o, err := j.of.started()
		if err != nil {
			return j.fail(j.option(), err, "the other container must run")
		}
		h.uids, h.gids, h.initUID, h.initGID, h.setgroups = o.host.uids, o.host.gids, o.host.initUID, o.host.initGID, o.host.setgroups
		if r.ids = o.ids.share(); o.ids != nil && r.ids == nil {
			return j.fail(j.option(), ErrEnded, "the other container must run")
		}
		return r.checkUser(h, &r.c.spec.Job)
	}
	m, err := readUserMaps(r.joinedFD(namespace.User))
	if err != nil {
		return j.fail(j.option(), err, "its id maps are read from a process in it, which this program must be allowed to look at; WithNamespaceOf knows them")
	}
	h.uids, h.gids, h.setgroups = launcherMaps(m.uids, h.outer), launcherMaps(m.gids, h.outerGIDs), m.setgroups
	if len(h.uids) == 0 || len(h.gids) == 0 {
		return j.fail(j.option(), fmt.Errorf("no id is mapped in it: %w", unix.EINVAL), "its maps must be written, from ids that this program has")
	}
	last := func(maps []namespace.IDMap) uint32 {
		top := maps[len(maps)-1]
		return top.ContainerID + top.Size - 1
	}
	h.initUID, h.initGID = last(h.uids), last(h.gids)
	return r.checkUser(h, &r.c.spec.Job)
}

// userMaps are those of a user namespace, in the ids of this program's own.
type userMaps struct {
	uids, gids []user.IDMap
	setgroups  bool
}

// readUserMaps finds a process in the user namespace, and reads the maps there: the
// namespace itself does not tell them.
func readUserMaps(fd int) (*userMaps, error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range names {
		if !sameFile(fd, dir+"/ns/user") {
			continue
		}
		var m userMaps
		if m.uids, err = user.ParseIDMapFile(dir + "/uid_map"); err != nil {
			continue // it has ended: perhaps there is another
		}
		if m.gids, err = user.ParseIDMapFile(dir + "/gid_map"); err != nil {
			continue
		}
		text, err := os.ReadFile(dir + "/setgroups")
		if err != nil || !sameFile(fd, dir+"/ns/user") {
			continue
		}
		m.setgroups = strings.TrimSpace(string(text)) == "allow"
		return &m, nil
	}
	return nil, fmt.Errorf("no process in it can be seen: %w", unix.ESRCH)
}

// launcherMaps are a namespace's maps in the launcher's ids: as hostMaps, backwards.
func launcherMaps(maps []user.IDMap, outer []launcher.IDMap) []namespace.IDMap {
	if outer == nil {
		outer = []launcher.IDMap{{Inside: 0, Outside: 0, Size: 1<<32 - 1}}
	}
	var out []namespace.IDMap
	for _, m := range maps {
		for _, o := range outer {
			lo, hi := max(m.ParentID, int64(o.Outside)), min(m.ParentID+m.Count, int64(o.Outside)+int64(o.Size))
			if lo < hi {
				out = append(out, namespace.IDMap{ContainerID: uint32(m.ID + lo - m.ParentID), HostID: o.Inside + uint32(lo-int64(o.Outside)), Size: uint32(hi - lo)})
			}
		}
	}
	return out
}

// idRange is a range of ids that containers have which share a user namespace: the last
// gives it back.
type idRange struct {
	first uint32
	state *launcher.State

	mu    sync.Mutex
	users int
}

// share adds a user; nil: the range is not there any more, or never was.
func (i *idRange) share() *idRange {
	if i == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.users == 0 {
		return nil
	}
	i.users++
	return i
}

// giveBack takes a user away.
func (i *idRange) giveBack() error {
	if i == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.users--; i.users > 0 {
		return nil
	}
	return i.state.GiveBack(i.first)
}

// refuseTime looks whether the kernel has time namespaces, where one is asked for.
func (r *running) refuseTime(h *host) error {
	s := &r.c.spec
	if !s.isNew(namespace.Time) {
		return nil
	}
	err := timeNamespaces()
	if err == nil {
		return nil
	}
	option := "WithNamespaces"
	if s.TimeOffsets != nil {
		option = "WithTimeOffsets"
	}
	if s.Job.optional(option) {
		h.noTime = true
		r.drop(option, err.Error())
		return nil
	}
	return &StartError{Phase: PhasePrepare, Op: option, Err: fmt.Errorf("%w: %w", err, errors.ErrUnsupported), Remedy: "a kernel with CONFIG_TIME_NS, or wrap the option in Optional"}
}

// timeNamespaces tells why there are none; nil: there are.
func timeNamespaces() error {
	const file = "/proc/self/ns/time_for_children"
	err := fault.At("stat", file)
	if err == nil {
		_, err = os.Lstat(file)
	}
	if err != nil {
		return fmt.Errorf("this kernel has no time namespaces (Linux 5.6, CONFIG_TIME_NS): %w", bare(err))
	}
	return nil
}

// readSkew tells the launcher's side how far init's CLOCK_MONOTONIC is from this
// program's: what init reports is in its own.
func (r *running) readSkew(ctx context.Context) error {
	s := &r.c.spec
	if !s.newTime(r.host) && s.joins(namespace.Time) == nil || s.newTime(r.host) && s.TimeOffsets == nil {
		return nil
	}
	if err := r.init.Spawned(ctx); err != nil {
		return r.planError(err)
	}
	own, err := monotonicOffset("/proc/self/timens_offsets")
	theirs := int64(0)
	if j := s.joins(namespace.Time); j == nil {
		theirs = int64(s.TimeOffsets.Monotonic)
	} else if err == nil {
		theirs, err = monotonicOffset(fmt.Sprintf("/proc/%d/timens_offsets", r.init.PID()))
	}
	if err != nil {
		if r.init.Ended() || errors.Is(err, errNoOffset) {
			return nil // its plan has failed, as the answer will say
		}
		return &StartError{Phase: PhaseStepIn, Op: "read", Path: "timens_offsets", Err: bare(err), Remedy: "/proc must show this program's own children"}
	}
	r.init.Skew(theirs - own)
	return nil
}

// errNoOffset is what a process that is ending shows.
var errNoOffset = errors.New("no line for CLOCK_MONOTONIC")

// monotonicOffset reads the offset of CLOCK_MONOTONIC, in nanoseconds, from a file
// timens_offsets of proc(5).
func monotonicOffset(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		word := strings.Fields(lines.Text())
		if len(word) != 3 || word[0] != "monotonic" && word[0] != strconv.Itoa(unix.CLOCK_MONOTONIC) {
			continue
		}
		sec, err := strconv.ParseInt(word[1], 10, 64)
		nsec, err2 := strconv.ParseInt(word[2], 10, 64)
		return sec*1e9 + nsec, errors.Join(err, err2)
	}
	return 0, cmp.Or(lines.Err(), errNoOffset)
}

// lookSharedPID looks whether a container without a PID namespace of its own can be
// ended: only by its control group.
func (r *running) lookSharedPID() error {
	s := &r.c.spec
	if s.isNew(namespace.PID) {
		return nil
	}
	what := s.notNew(namespace.PID)
	refuse := func(err error, remedy string) error {
		return &StartError{Phase: PhasePrepare, Op: what, Err: fmt.Errorf("nothing there ends with the container's first process: %w", err), Remedy: remedy}
	}
	if r.launcher.User && s.joins(namespace.PID) == nil {
		return refuse(unix.EPERM, "the kernel gives a /proc of the host's PID namespace to root alone: leave PID new, or run as root")
	}
	if r.groups == nil {
		return refuse(fmt.Errorf("there are no control groups here (%w): %w", r.noGroups, errors.ErrUnsupported), r.noGroupsRemedy)
	}
	for _, p := range r.groups.home.base.Paths() {
		// A group's own file: the root of a hierarchy has none.
		file := filepath.Join(p, "cgroup.kill")
		if _, err := os.Stat(file); err == nil && fault.At("stat", file) == nil {
			r.host.killFile = filepath.Join(p, s.ID, "cgroup.kill")
			return nil
		}
	}
	return refuse(fmt.Errorf("its control group has no cgroup.kill: %w", errors.ErrUnsupported), "Linux 5.14 and cgroup v2, in hybrid mode at least")
}

// checkSharedPID refuses a job that could end its init, which is PID 1, whom no signal
// from inside reaches, in a namespace of its own alone.
func (r *running) checkSharedPID(j *Job) error {
	s := &r.c.spec
	if s.isNew(namespace.PID) || j.uid() != r.host.initUID || len(j.Command) == 0 {
		return nil
	}
	return &StartError{
		Phase: PhasePrepare, Op: s.notNew(namespace.PID), Err: fmt.Errorf("the job would have init's id, and could kill it: %w", unix.EPERM),
		Remedy: "another user (WithUser), or more than one id (see container.Probe), or a PID namespace of its own",
	}
}

// emptied has a function called when nothing of the container is left but init, or
// init is gone: with it all else, where the PID namespace is its own; else that is
// killed first.
func (r *running) emptied(call func()) func() {
	if r.c.spec.isNew(namespace.PID) {
		return call
	}
	return func() {
		go func() { // not here: the poller's goroutine serves every container
			r.killShared()
			call()
		}()
	}
}

// killShared kills all jobs of a container whose PID namespace is not its own, once it
// has started and unless it is being released, which does the same.
func (r *running) killShared() {
	<-r.started
	r.releasing.Lock()
	defer r.releasing.Unlock()
	if !r.ended {
		r.killGroup()
	}
}

func (r *running) killGroup() {
	if r.c.spec.isNew(namespace.PID) || r.groups == nil || r.groups.all == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = r.groups.all.Kill(ctx) // what is left, Close tells of
}
