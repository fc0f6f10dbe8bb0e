package containertest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Count is what a process has on the machine: each thing by its name.
type Count struct {
	Processes  map[int]string // descendants, less the launcher itself
	Mounts     map[string]int
	Cgroups    []string
	Links      []string // network interfaces
	Files      []string // in the state directories
	FDs        map[int]string
	State      int // descriptors of this program's own state, whose numbers change with the launcher
	Goroutines []string
	Namespaces []string // of this process's threads, where they differ from its own
}

// scopeNumber is what tells the scope of one launcher of this program from the
// next one's.
var scopeNumber = regexp.MustCompile(`(inlay-\d+)(-\d+)?\.scope$`)

// Take counts now.
func Take() (*Count, error) {
	c := &Count{Mounts: map[string]int{}, FDs: map[int]string{}}
	var err error
	if c.Processes, err = descendants(); err != nil {
		return nil, err
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if !foreignMount(m.Mountpoint) {
			c.Mounts[m.Mountpoint]++
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		c.Links = append(c.Links, l.Name)
	}
	c.Cgroups = cgroups()
	for _, pattern := range []string{"/run/inlay/owner-*", os.TempDir() + "/inlay-*/owner-*", os.Getenv("XDG_RUNTIME_DIR") + "/inlay/owner-*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		// The program's own owner file lives as long as the launcher.
		names = slices.DeleteFunc(names, func(n string) bool {
			return strings.HasPrefix(filepath.Base(n), fmt.Sprintf("owner-%d-", os.Getpid())) || ownerLives(n)
		})
		c.Files = append(c.Files, names...)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, e := range fds {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		switch {
		case err != nil: // the folder's own, closed by now
		case ownState(to):
			c.State++
		default:
			c.FDs[n] = scopeNumber.ReplaceAllString(to, "$1.scope")
		}
	}
	c.Goroutines = goroutines()
	c.Namespaces = foreignThreads()
	return c, nil
}

// foreignMount tells whether a mount is another program's test's, by a folder in its
// path that is named inlay-PID: tests of several packages run at the same time.
func foreignMount(at string) bool {
	for _, name := range strings.Split(at, "/") {
		var pid int
		if n, err := fmt.Sscanf(name, "inlay-%d", &pid); err == nil && n == 1 && name == fmt.Sprintf("inlay-%d", pid) {
			return pid != os.Getpid() && alive(pid)
		}
	}
	return false
}

// ownState tells whether a file is one of the three that a program holds open of
// its state directory.
func ownState(path string) bool {
	dir, name := filepath.Split(path)
	return strings.HasPrefix(name, fmt.Sprintf("owner-%d-", os.Getpid())) || name == "ids" && strings.Contains(dir, "inlay") ||
		name == "inlay" || name == fmt.Sprintf("inlay-%d", os.Geteuid())
}

// ownerLives tells whether the process that an owner file is named after is
// there: other tests may run at the same time.
func ownerLives(path string) bool {
	parts := strings.Split(filepath.Base(path), "-")
	if len(parts) != 3 {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	return err == nil && unix.Kill(pid, 0) != unix.ESRCH
}

// descendants finds the processes below this one. The launcher is left out, which
// stays for the next container, and so is one init that it has ready for it.
func descendants() (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	parent, name := map[int]int{}, map[int]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		i := strings.LastIndexByte(string(stat), ')')
		f := strings.Fields(string(stat[i+1:]))
		if i < 0 || len(f) < 2 {
			continue
		}
		parent[pid], _ = strconv.Atoi(f[1])
		name[pid] = string(stat[:i+1]) + " " + f[0]
	}
	out := map[int]string{}
	self := os.Getpid()
	for pid := range parent {
		for p := parent[pid]; p > 1; p = parent[p] {
			if p == self {
				out[pid] = name[pid]
				break
			}
		}
	}
	for pid := range out {
		if parent[pid] == self && launcher(pid) {
			delete(out, pid)
			for child := range out {
				if parent[child] == pid && strings.HasPrefix(name[child], strconv.Itoa(child)+" (inlay-spare)") {
					delete(out, child)
					break
				}
			}
		}
	}
	return out, nil
}

// launcher tells whether a child of ours is the launcher. It has no arguments left.
func launcher(pid int) bool {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && string(comm) == "inlay-launcher\n"
}

func cgroups() []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir // gone meanwhile, or not ours to read
		}
		if !d.IsDir() || !strings.HasPrefix(d.Name(), "inlay-") {
			return nil
		}
		// A program's own group, with that of its inits, lives as long as its
		// launcher; a container's does not. Under systemd they are in a scope, whose
		// end systemd sees in its own time.
		var pid, n int
		if unit, ok := strings.CutSuffix(d.Name(), ".scope"); ok {
			if k, err := fmt.Sscanf(unit, "inlay-%d", &pid); err == nil && k == 1 && alive(pid) {
				return nil
			}
			found = append(found, path)
			return fs.SkipDir
		}
		if d.Name() == "inlay-host" {
			return nil
		}
		if k, err := fmt.Sscanf(d.Name(), "inlay-%d-%d", &pid, &n); err != nil || k != 2 || !alive(pid) {
			found = append(found, path)
			return nil
		}
		if pid != os.Getpid() {
			return fs.SkipDir // another program's containers come and go
		}
		below, err := os.ReadDir(path)
		for _, e := range below {
			if err == nil && e.IsDir() && e.Name() != ".init" {
				found = append(found, filepath.Join(path, e.Name()))
			}
		}
		return fs.SkipDir
	})
	return found
}

// alive tells whether there is such a process, whoever it belongs to.
func alive(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }

// goroutines are this program's, by their first function, less the test
// machinery's.
func goroutines() []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var out []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(g, "github.com/inlay-dev/inlay/") && !strings.Contains(g, "testing.tRunner") && !strings.Contains(g, "containertest.") {
			lines := strings.Split(g, "\n")
			out = append(out, lines[min(1, len(lines)-1)])
		}
	}
	return out
}

// foreignThreads finds threads of this process in other namespaces than its
// first one.
func foreignThreads() []string {
	var out []string
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return []string{err.Error()}
	}
	for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			continue
		}
		for _, t := range tasks {
			if other, err := os.Readlink("/proc/self/task/" + t.Name() + "/ns/" + kind); err == nil && other != own {
				out = append(out, "thread "+t.Name()+" in "+other)
			}
		}
	}
	return out
}

// kindOf is what a descriptor leads to, without the number that each socket and pipe
// has of its own.
func kindOf(to string) string {
	if kind, _, _ := strings.Cut(to, ":["); kind == "socket" || kind == "pipe" {
		return kind
	}
	return to
}

// Since tells what is there now and was not before.
func (c *Count) Since(before *Count) []string {
	var out []string
	for _, pid := range slices.Sorted(maps.Keys(c.Processes)) {
		if _, there := before.Processes[pid]; !there {
			out = append(out, fmt.Sprintf("process %d %s", pid, c.Processes[pid]))
		}
	}
	for _, at := range slices.Sorted(maps.Keys(c.Mounts)) {
		if c.Mounts[at] > before.Mounts[at] {
			out = append(out, "mount on "+at)
		}
	}
	for _, l := range []struct {
		what        string
		now, before []string
	}{{"cgroup", c.Cgroups, before.Cgroups}, {"link", c.Links, before.Links}, {"file", c.Files, before.Files}, {"namespace:", c.Namespaces, before.Namespaces}} {
		for _, n := range l.now {
			if !slices.Contains(l.before, n) {
				out = append(out, l.what+" "+n)
			}
		}
	}
	// What a new launcher has opened again may have another number.
	gone := map[string]int{}
	for fd, to := range before.FDs {
		if c.FDs[fd] != to {
			gone[kindOf(to)]++
		}
	}
	for _, fd := range slices.Sorted(maps.Keys(c.FDs)) {
		if to := c.FDs[fd]; before.FDs[fd] == "" {
			if kind := kindOf(to); gone[kind] > 0 {
				gone[kind]--
				continue
			}
			out = append(out, fmt.Sprintf("descriptor %d: %s", fd, to))
		}
	}
	if c.State > before.State && before.State > 0 {
		out = append(out, fmt.Sprintf("descriptors of the state directory: %d, before %d", c.State, before.State))
	}
	if len(c.Goroutines) > len(before.Goroutines) {
		out = append(out, fmt.Sprintf("goroutines: %v, before %v", c.Goroutines, before.Goroutines))
	}
	return out
}

// patience is how long what is ending may take to end: systemd is slower.
func patience() time.Duration {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return 10 * time.Second
	}
	return time.Second
}

// Left waits for a time, a second as a rule, until nothing is there that was not before, and
// tells what is: on the processes it waits by their pidfds.
func Left(before *Count) ([]string, error) {
	deadline := time.Now().Add(patience())
	for {
		now, err := Take()
		if err != nil {
			return nil, err
		}
		left := now.Since(before)
		if len(left) == 0 || !time.Now().Before(deadline) {
			return left, nil
		}
		pause := 5 * time.Millisecond
		for pid, name := range now.Processes {
			// A zombie has ended, and is to be reaped: nor has that an event.
			if _, there := before.Processes[pid]; !there && !strings.HasSuffix(name, " Z") {
				awaitEnd(pid, time.Until(deadline))
				pause = 0
			}
		}
		if pause > 0 {
			// A goroutine or a descriptor that is being closed has no event to wait for.
			_, _ = unix.Poll(nil, int(pause/time.Millisecond))
		}
	}
}

func awaitEnd(pid int, patience time.Duration) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer unix.Close(fd) //nolint:errcheck // nothing to flush
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(patience, 0)/time.Millisecond))
}

// Census counts now, and again when the test has ended: what was left behind
// fails it. A first container is run before the count, so that the launcher, which
// stays, is there.
func Census(t testing.TB) {
	t.Helper()
	// Not the remembered answer: the launcher may have died in a test before.
	if err := try(); err != nil {
		t.Skipf("needs %s: %v", Containers, err)
	}
	before, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := Left(before)
		if err != nil {
			t.Error(err)
		}
		for _, l := range left {
			t.Errorf("left behind: %s", l)
		}
	})
}
