package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// left is what there still is of a container whose init was killed and does not
// end.
func (r *running) left() *LeftError {
	e := &LeftError{ID: r.c.spec.ID}
	if pid := r.init.PID(); pid > 0 {
		e.Processes = leftBelow(pid, nil)
	}
	if r.groups != nil && r.groups.all != nil {
		e.Groups = r.groups.all.Paths()
	}
	return e
}

// maxLeft is how many processes are looked at: of a thousand, the first tell enough.
const maxLeft = 32

// leftBelow describes a process and those below it: what its parent left behind is
// init's, who is PID 1 to them. All of it may end while it is looked at, and much
// of it an ordinary user may not read.
func leftBelow(pid int, list []LeftProcess) []LeftProcess {
	if len(list) == maxLeft {
		return list
	}
	p, ok := lookLeft(pid)
	if !ok {
		return list
	}
	list = append(list, p)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return list
	}
	for _, name := range tasks {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread is gone
		}
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				list = leftBelow(n, list)
			}
		}
	}
	return list
}

// lookLeft describes one process; false: it is gone.
func lookLeft(pid int) (LeftProcess, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	// The name may hold anything, brackets and newlines too: proc_pid_stat(5).
	from, to := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if err != nil || from < 0 || to < from || to+2 >= len(stat) {
		return LeftProcess{}, false
	}
	p := LeftProcess{PID: pid, Name: string(stat[from+1 : to]), State: string(stat[to+2])}
	// The first thread may have ended while another one hangs.
	threads, err := filepath.Glob(dir + "/task/*")
	for n := 0; err == nil && p.State != "D" && n < min(len(threads), maxLeft); n++ {
		if text, err := os.ReadFile(threads[n] + "/stat"); err == nil && bytes.Contains(text, []byte(") D ")) {
			p.State, dir = "D", threads[n]
		}
	}
	if where, err := os.ReadFile(dir + "/wchan"); err == nil && string(where) != "0" {
		p.Where = string(where)
	}
	return p, true
}

// overdue is called when the container was killed, or its main job ended, and it had
// its time to end.
func (r *running) overdue() {
	select {
	case <-r.init.Empty(): // it did; somebody is slow to take its output
	default:
		r.giveUp()
	}
}

// giveUp has whoever waits for a job hear that it does not end.
func (r *running) giveUp() {
	r.hangs.CompareAndSwap(nil, r.left()) // the first is what the Results say
	r.init.Abandon()
}

// leftovers are this program's containers of which Close, or a failed Start, left
// something behind.
var leftovers struct {
	sync.Mutex
	list []*running
}

func (r *running) keepLeft() {
	leftovers.Lock()
	defer leftovers.Unlock()
	if !slices.Contains(leftovers.list, r) {
		leftovers.list = append(leftovers.list, r)
	}
}

func (r *running) forgetLeft() {
	leftovers.Lock()
	defer leftovers.Unlock()
	leftovers.list = slices.DeleteFunc(leftovers.list, func(o *running) bool { return o == r })
}

// laterTimeout bounds each further try to remove what was killed long ago.
const laterTimeout = 2 * time.Second

// pruneOwn tries again to remove what containers of this program left.
func pruneOwn(ctx context.Context, report *PruneReport) error {
	leftovers.Lock()
	list := slices.Clone(leftovers.list)
	leftovers.Unlock()
	ctx, cancel := context.WithTimeout(ctx, laterTimeout) // for all of them
	defer cancel()
	var errs []error
	for _, r := range list {
		paths := r.left().Groups
		if err := r.release(ctx); err != nil {
			errs = append(errs, err)
			report.Kept = append(report.Kept, Kept{Path: "container " + r.c.spec.ID, Reason: err.Error()})
			continue
		}
		report.Removed = append(append(report.Removed, "container "+r.c.spec.ID), paths...)
	}
	return errors.Join(errs...)
}

// leftAmong describes processes.
func leftAmong(pids []int) (list []LeftProcess) {
	for _, pid := range pids[:min(len(pids), maxLeft)] {
		if p, ok := lookLeft(pid); ok {
			list = append(list, p)
		}
	}
	return list
}

// groupProcesses lists the processes of a control group and of those below it, as
// far as they can be read.
func groupProcesses(folder string) (pids []int) {
	_ = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // gone meanwhile
		}
		text, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for _, f := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// release gives back all that the container holds, once. What it could not remove
// stays, with all that belongs to it, and is tried again when it is called again.
func (r *running) release(ctx context.Context) error {
	r.releasing.Lock()
	defer r.releasing.Unlock()
	if r.released {
		return r.closeErr
	}
	heard := r.listening.closeAll()
	err := r.tryRelease(ctx)
	if heard != nil {
		err = errors.Join(err, heard)
	}
	if err != nil {
		counters.cleanupFailures.Add(1)
		r.c.journal().add(slog.LevelError, "cleanup failed", slog.Any("err", err))
	}
	var left *LeftError
	if errors.As(err, &left) {
		r.keepLeft()
	} else {
		r.released, r.closeErr = true, err
		r.forgetLeft()
	}
	return err
}

// patience is how long a release may wait for init: the processes were killed when
// it was first tried.
func (r *running) patience() time.Duration {
	if r.tried {
		return laterTimeout
	}
	return closeTimeout
}

func (r *running) tryRelease(ctx context.Context) error {
	fail := func(errs ...error) error {
		if err := errors.Join(errs...); err != nil {
			return &StartError{Phase: PhaseTeardown, Op: "close", Err: err}
		}
		return nil
	}
	for _, t := range []*time.Timer{r.timer, r.slow.Load()} {
		if t != nil {
			t.Stop()
		}
	}
	if !r.ended {
		if err := r.endInit(ctx); err != nil {
			return fail(err)
		}
	}
	r.closeTerminals()
	err := r.removeGroups()
	var left *LeftError
	if errors.As(err, &left) {
		return fail(err)
	}
	// Nobody is left who has these ids, or writes.
	r.closeUpper()
	errs := []error{r.releaseErr, err, r.releaseBudgets(), r.disconnect()}
	errs = append(errs, r.ids.giveBack())
	if r.launcher != nil {
		r.launcher.Release()
	}
	return fail(errs...)
}

// endInit kills init and waits for its end. A container whose init does not end
// keeps its ids, groups and budgets.
func (r *running) endInit(ctx context.Context) error {
	r.thaw()
	if r.groups != nil && r.groups.all != nil {
		r.groups.all.Uncap()
	}
	if r.init != nil {
		wait, cancel := context.WithTimeoutCause(ctx, r.patience(), errSlow)
		err := r.init.Close(wait)
		if err != nil && wait.Err() != nil && !r.tried && r.groups != nil && r.groups.all != nil {
			// On v1 what somebody has frozen does not take the signal.
			last, stop := context.WithTimeout(context.Background(), lastly)
			if r.groups.all.Kill(last) == nil {
				err = r.init.Close(last)
			}
			stop()
		}
		timedOut := err != nil && wait.Err() != nil
		cancel()
		r.tried = true
		if timedOut {
			left := r.left()
			r.giveUp()
			r.closeGroups()
			return left
		}
		r.releaseErr = err
	}
	r.ended = true
	r.killGroup()
	r.keepStats()
	return nil
}

// errSlow is the cause of a context that waits for the end of what was killed.
var errSlow = errors.New("killed, and not ended within 10 s")
