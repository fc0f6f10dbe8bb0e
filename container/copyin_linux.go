package container

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

func (j *copying) copyIn(src, dst string) (err error) {
	j.at = src
	r, err := j.running()
	if err != nil {
		return err
	}
	if src == "" { // not the folder that this program is in
		return unix.EINVAL
	}
	abs, err := filepath.Abs(src)
	if err != nil {
		return err
	}
	if src == "." || len(src) > 1 && src[len(src)-2:] == "/." {
		abs += "/."
	}
	to, top, contents, err := target(dst, abs, func(p string) (bool, error) { return r.isFolder(j.ctx, p) })
	if err != nil {
		return err
	}
	in, err := j.openTree(r, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	from, name, _ := split(abs)
	dir, err := retry(func() (int, error) { return unix.Open(from, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(dir)) }()
	host := &hostFiles{}
	defer func() { err = errors.Join(err, host.close()) }()
	in.shown = shownBelow(path.Join(from, name), top, contents)
	w := &walker{copying: j, src: host, to: in, shown: in.shown}
	if err = w.walk(dir, name, top, contents); err == nil {
		err = in.finish()
	}
	return err
}

// running is the container of a copy, started.
func (j *copying) running() (*running, error) {
	r, err := j.c.started()
	if err != nil {
		return nil, err
	}
	select {
	case <-r.started:
		return r, nil
	case <-j.ctx.Done():
		return nil, context.Cause(j.ctx)
	}
}

// isFolder looks at a path of the container.
func (r *running) isFolder(ctx context.Context, p string) (bool, error) {
	fd, err := r.init.Open(ctx, path.Join("/", p), true)
	if err != nil {
		return false, ended(err)
	}
	var st unix.Stat_t
	err = errors.Join(unix.Fstat(fd, &st), unix.Close(fd))
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// insideTree is a folder of the container as a sink. What is to be done there is kept
// in its order, compiled to plans, and done by a process of the container, which alone
// has the files open; up to three plans are on their way at once. A file or a link is
// made under a name of its own and renamed when it is whole. The plans take it that no
// folder is there yet. Where one is, that plan fails, those behind it are not begun, and
// they are made anew.
type insideTree struct {
	*copying
	r     *running
	files *launcher.Files
	owner Job // whose user the files are to belong to
	base  int // O_PATH: the folder
	temp  string

	waiting []*act // not sent yet
	size    int64
	sent    []*sentActs
	begun   map[string]bool         // folders where something may be that is not whole
	shown   func(rel string) string // how an entry is called where it comes from
}

// act is one thing to be done.
type act struct {
	kind     actKind
	rel      string
	dir      string
	name     string
	fd       int // to read from; -1: none
	off      int64
	at, n    int64
	size     int64 // of a sparse file; -1: as long as its data
	mode     uint32
	time     unix.Timespec
	to       string // where a link leads, or the first name of a file
	bytes    int64  // of the whole file, once it is whole
	folder   *madeFolder
	setMode  bool
	then     func() error // when it is done, or will not be
	counts   bool         // as an entry, when it is done
	creating int          // its step that makes a folder, in the plan sent last
}

type actKind int

const (
	actFolder actKind = iota
	actLeave
	actFile  // all of a file
	actBegin // a large one, in pieces
	actPiece
	actEnd
	actLink
	actHard
)

// madeFolder is a folder that was asked for.
type madeFolder struct {
	was bool // it was there
}

type sentActs struct {
	acts []*act
	ends []int // the last step of each
}

// openTree opens a folder of the container to be written to.
func (j *copying) openTree(r *running, dir string) (t *insideTree, err error) {
	base, err := r.init.Open(j.ctx, path.Join("/", dir), true)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, ended(err))
	}
	t = &insideTree{copying: j, r: r, owner: r.spec.Job.clone(), base: base, temp: tempName(), begun: map[string]bool{}}
	if t.owner.named() { // of a container without a main job
		err = r.settle(j.ctx, &t.owner)
	}
	if err == nil {
		t.files, err = t.start(j.ctx)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(base))
	}
	return t, nil
}

// start makes the process that writes, as the user that the files are to belong to, but
// with init's rights.
func (t *insideTree) start(ctx context.Context) (*launcher.Files, error) {
	files, err := t.r.init.Files(ctx)
	if err != nil {
		return nil, ended(err)
	}
	b := plan.NewSilentBuilder(plan.Exec, launcher.Arch, &plan.Registers{})
	b.Umask(0)
	// A change from root to another user keeps the capabilities about files.
	const setSecurebits, noSetuidFixup = 28, 1 << 2
	b.Prctl(setSecurebits, "PR_SET_SECUREBITS", noSetuidFixup)
	// A change of ids opens the memory where fs.suid_dumpable is set, and has the process
	// outlive init.
	b.Setfsgid(t.owner.gid())
	b.Prctl(prSetDumpable, "PR_SET_DUMPABLE", 0)
	b.Setfsuid(t.owner.uid())
	b.Prctl(prSetDumpable, "PR_SET_DUMPABLE", 0)
	b.Prctl(prSetPdeathsig, "PR_SET_PDEATHSIG", sigkill)
	if err = runPlan(ctx, files, b, nil, 0, 0, false); err == nil {
		_, err = files.Answer(ctx, 0)
	}
	if err != nil {
		return nil, errors.Join(gone(err), files.Close())
	}
	return files, nil
}

// gone says in words for the caller that the process that writes was killed: with the
// container, or with everything else in it as the main job ended.
func gone(err error) error {
	if errors.Is(err, launcher.ErrFilesGone) {
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	return err
}

func (t *insideTree) newAct(kind actKind, e *item) *act {
	dir, name := path.Split(e.rel)
	if dir != "" {
		dir = dir[:len(dir)-1]
	}
	a := &act{kind: kind, rel: e.rel, dir: dir, name: name, fd: -1, mode: e.mode(), time: e.st.Mtim, size: -1}
	a.counts = kind != actFolder && kind != actBegin && kind != actPiece
	return a
}

func (t *insideTree) folder(e *item) error {
	a := t.newAct(actFolder, e)
	a.folder = &madeFolder{}
	e.made = a.folder
	return t.add(a)
}

func (t *insideTree) leave(e *item) error {
	a := t.newAct(actLeave, e)
	a.folder = e.made
	return t.add(a)
}

func (t *insideTree) link(e *item, to string) error {
	a := t.newAct(actLink, e)
	a.to = to
	return t.add(a)
}

func (t *insideTree) hard(e *item, first string) error {
	a := t.newAct(actHard, e)
	a.to = first
	return t.add(a)
}

// What goes in one plan, and what of a file in one piece.
const (
	maxActs   = 64
	wholeFile = 4 << 20
	pieceSize = 8 << 20
)

func (t *insideTree) file(e *item) error {
	closed := func() error { return unix.Close(e.fd) }
	if e.st.Size <= wholeFile && !e.sparse() {
		a := t.newAct(actFile, e)
		a.fd, a.n, a.bytes, a.then = e.fd, e.st.Size, e.st.Size, closed
		if err := t.bytes(a.n); err != nil {
			return errors.Join(err, closed())
		}
		return t.add(a)
	}
	if err := t.add(t.newAct(actBegin, e)); err != nil {
		return errors.Join(err, closed())
	}
	data := int64(0)
	err := e.pieces(pieceSize, func(at, n int64) error {
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		if err := t.bytes(n); err != nil {
			return err
		}
		data += n
		a := t.newAct(actPiece, e)
		a.fd, a.off, a.at, a.n = e.fd, at, at, n
		return t.add(a)
	})
	a := t.newAct(actEnd, e)
	a.bytes, a.then = data, closed
	if e.sparse() {
		a.size = e.st.Size
	}
	if err != nil {
		return errors.Join(err, closed())
	}
	return t.add(a)
}

// add takes an act that is to be done, and sends plans when there is enough to do. The
// act is the tree's from then on.
func (t *insideTree) add(a *act) error {
	t.waiting = append(t.waiting, a)
	t.size += a.n
	if len(t.waiting) < maxActs && t.size < pieceSize {
		return nil
	}
	if err := t.flush(); err != nil {
		return err
	}
	for len(t.sent) >= 3 {
		if err := t.confirm(); err != nil {
			return err
		}
	}
	return nil
}

// finish waits until all is done.
func (t *insideTree) finish() error {
	for {
		if err := t.flush(); err != nil {
			return err
		}
		if len(t.sent) == 0 {
			return nil
		}
		if err := t.confirm(); err != nil {
			return err
		}
	}
}

// flush sends what waits.
func (t *insideTree) flush() error {
	for len(t.waiting) > 0 {
		n := min(len(t.waiting), maxActs)
		acts := t.waiting[:n:n]
		if err := fault.At("run", acts[0].rel); err != nil {
			return err
		}
		s := &sentActs{acts: acts}
		b, fds := t.compile(s)
		if err := runPlan(t.ctx, t.files, b, fds, 0, 0, len(t.sent) > 0); err != nil {
			return gone(err)
		}
		t.sent = append(t.sent, s)
		t.waiting = t.waiting[n:]
	}
	t.waiting, t.size = nil, 0
	return nil
}

// confirm takes the answer to the plan that was sent first.
func (t *insideTree) confirm() error {
	s := t.sent[0]
	_, err := t.files.Answer(t.ctx, 0)
	var failed *launcher.PlanError
	if err != nil && (!errors.As(err, &failed) || failed.Phase != rawproc.PhaseExec) {
		return gone(err)
	}
	done := len(s.acts)
	if failed != nil {
		for done = 0; done < len(s.ends) && s.ends[done] < failed.Step; {
			done++
		}
	}
	for _, a := range s.acts[:done] {
		if err := t.done(a); err != nil {
			return err
		}
	}
	t.sent = t.sent[1:]
	if failed == nil {
		return nil
	}
	if done == len(s.acts) {
		return fmt.Errorf("inlay: bug: step %d of a plan about files: %w", failed.Step, failed.Errno)
	}
	return t.amend(s.acts[done:], failed)
}

func (t *insideTree) done(a *act) error {
	switch a.kind {
	case actBegin:
		t.begun[a.dir] = true
	case actEnd:
		delete(t.begun, a.dir)
	case actFolder, actLeave, actFile, actPiece, actLink, actHard:
	}
	if a.counts {
		t.whole(a.bytes)
	}
	return a.drop()
}

func (a *act) drop() error {
	then := a.then
	if a.then = nil; then == nil {
		return nil
	}
	return then()
}

// amend deals with an act that failed, the first of these, and has it and those behind
// it done in another way, where that is known: something was there already.
func (t *insideTree) amend(rest []*act, failed *launcher.PlanError) error {
	t.begun[rest[0].dir] = true
	// Those behind were not begun.
	for _, s := range t.sent {
		_, err := t.files.Answer(t.ctx, 0)
		var not *launcher.PlanError
		if !errors.As(err, &not) || not.Errno != unix.ECANCELED {
			t.waiting = append(rest, t.waiting...)
			if t.ctx.Err() != nil {
				return context.Cause(t.ctx)
			}
			return gone(errors.Join(err, errors.New("inlay: bug: a plan about files was begun after one that failed")))
		}
		rest = append(rest, s.acts...)
	}
	t.sent = nil
	t.waiting = append(rest[:len(rest):len(rest)], t.waiting...)
	a := rest[0]
	if a.kind == actFolder && !a.folder.was && errors.Is(failed.Errno, unix.EEXIST) && failed.Step == a.creating {
		a.folder.was = true
		return t.flush()
	}
	t.at = a.rel
	if t.shown != nil {
		t.at = t.shown(a.rel)
	}
	return failed.Errno
}

// close gives up what has not been done, and removes what is not whole.
func (t *insideTree) close() error {
	const enough = time.Second
	patient, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), enough)
	defer cancel()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 3*enough)
	defer cancel()
	var errs []error
	for i, s := range t.sent {
		_, err := t.files.Answer(patient, 0)
		failed := errors.As(err, new(*launcher.PlanError))
		if err != nil && !failed {
			// It hangs, or somebody stopped or killed it; then it may be anywhere in these.
			errs = append(errs, t.files.Kill(ctx))
			for _, s := range t.sent[i:] {
				for _, a := range s.acts {
					t.begun[a.dir] = true
				}
			}
			break
		}
		for _, a := range s.acts {
			t.begun[a.dir] = t.begun[a.dir] || failed || a.kind == actBegin
		}
	}
	for dir := range t.begun {
		errs = append(errs, t.remove(ctx, dir))
	}
	for _, s := range t.sent {
		t.waiting = append(t.waiting, s.acts...)
	}
	for _, a := range t.waiting {
		errs = append(errs, a.drop())
	}
	t.sent, t.waiting = nil, nil
	return errors.Join(append(errs, t.files.Close(), unix.Close(t.base))...)
}

// remove takes away what is not whole in a folder, by another process where the one
// that made it is gone. Where the container is gone as well, so is its error known.
func (t *insideTree) remove(ctx context.Context, dir string) error {
	for {
		b := plan.NewSilentBuilder(plan.Exec, launcher.Arch, &plan.Registers{})
		base := b.Register("base")
		b.DropKept()
		at := base
		if dir != "" {
			at = b.Openat2(base.At(), dir, plan.OPATH|plan.ODIRECTORY|plan.OCLOEXEC, 0, beneath, "folder")
			b.Tolerate(uint32(unix.ENOENT), uint32(unix.ENOTDIR), uint32(unix.ELOOP))
		}
		b.Unlinkat(at.At(), t.temp, 0)
		b.Tolerate(uint32(unix.ENOENT), uint32(unix.EBADF))
		err := runPlan(ctx, t.files, b, []int{t.base}, 0, 0, false)
		if err == nil {
			_, err = t.files.Answer(ctx, 0)
		}
		if !errors.Is(err, launcher.ErrFilesGone) {
			return err
		}
		files, serr := t.start(ctx)
		if serr != nil {
			return nil //nolint:nilerr // what ended the copy tells it already
		}
		err = t.files.Close()
		if t.files = files; err != nil {
			return err
		}
	}
}

// compile makes the plan of some acts. Its descriptors are the folder, and the files
// that are read from.
func (t *insideTree) compile(s *sentActs) (*plan.Builder, []int) {
	b := plan.NewSilentBuilder(plan.Exec, launcher.Arch, &plan.Registers{})
	c := &actPlan{Builder: b, tree: t, base: b.Register("base"), from: map[int]plan.Reg{}, dirs: map[string]plan.Reg{}}
	fds := []int{t.base}
	for _, a := range s.acts {
		if _, ok := c.from[a.fd]; a.fd >= 0 && !ok {
			c.from[a.fd] = b.Register("file")
			fds = append(fds, a.fd)
		}
	}
	for _, a := range s.acts {
		c.act(a)
		s.ends = append(s.ends, b.Len())
	}
	return b, fds
}

// actPlan is a plan of acts while it is made.
type actPlan struct {
	*plan.Builder
	tree *insideTree
	base plan.Reg
	from map[int]plan.Reg
	dirs map[string]plan.Reg
}

// dir is a folder below the base, opened once in a plan. No link leads there.
func (c *actPlan) dir(rel string) plan.Dir {
	if rel == "" {
		return c.base.At()
	}
	reg, ok := c.dirs[rel]
	if !ok {
		reg = c.Openat2(c.base.At(), rel, plan.OPATH|plan.ODIRECTORY|plan.OCLOEXEC, 0, beneath, "folder")
		c.dirs[rel] = reg
	}
	return reg.At()
}

const newFile = plan.OWRONLY | plan.OCREAT | plan.OEXCL | plan.ONOFOLLOW | plan.OCLOEXEC

func (c *actPlan) act(a *act) {
	temp := c.tree.temp
	switch a.kind {
	case actFolder:
		if a.folder.was {
			c.dir(a.rel) // it must be one
			return
		}
		c.Mkdirat(c.dir(a.dir), a.name, a.mode)
		a.creating = c.Len()
	case actLeave:
		if a.folder.was {
			return
		}
		fd := c.Openat2(c.base.At(), a.rel, plan.ORDONLY|plan.ODIRECTORY|plan.ONOFOLLOW|plan.OCLOEXEC, 0, beneath, "folder")
		if a.setMode {
			c.Fchmod(fd, a.mode)
		}
		c.Futimens(fd.At(), a.time.Sec, a.time.Nsec, a.rel)
		c.Close(fd)
	case actFile:
		dir := c.dir(a.dir)
		fd := c.Openat(dir, temp, newFile, a.mode, "new")
		if a.n > 0 {
			c.Copy(c.from[a.fd], a.off, fd.At(), 0, a.n, a.rel)
		}
		c.Futimens(fd.At(), a.time.Sec, a.time.Nsec, a.rel)
		c.Close(fd)
		c.Renameat(dir, temp, a.name)
	case actBegin:
		fd := c.Openat(c.dir(a.dir), temp, newFile, a.mode, "new")
		c.Keep(fd)
		c.Close(fd)
	case actPiece:
		c.Copy(c.from[a.fd], a.off, plan.Kept, a.at, a.n, a.rel)
	case actEnd:
		if a.size >= 0 {
			c.Ftruncate(plan.Kept, a.size, a.rel)
		}
		c.Futimens(plan.Kept, a.time.Sec, a.time.Nsec, a.rel)
		c.CloseKept()
		c.Renameat(c.dir(a.dir), temp, a.name)
	case actLink:
		dir := c.dir(a.dir)
		c.Symlinkat(a.to, dir, temp)
		c.Renameat(dir, temp, a.name)
	case actHard:
		dir := c.dir(a.dir)
		from, old := path.Split(a.to)
		c.Linkat(c.dir(path.Clean("/" + from)[1:]), old, dir, temp)
		c.Renameat(dir, temp, a.name)
		// Of two names of one file, rename(2) leaves both.
		c.Unlinkat(dir, temp, 0)
		c.Tolerate(uint32(unix.ENOENT))
	}
}
