package container_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// deafDisk is a FUSE file system whose server takes some requests and never answers
// them: whoever made one hangs in the kernel, in state D, and SIGKILL does not end it,
// as on a disk that is gone. Of its file "silent" reading is never answered, of "wall"
// the look-up, and to make anything is not answered either.
type deafDisk struct {
	dir     string
	file    *os.File
	asked   chan string // the requests that are not answered
	served  chan struct{}
	release func() // all of them fail, and who hung goes on
}

// newDeafDisk mounts one; at the test's end it lets go.
func newDeafDisk(t *testing.T) *deafDisk {
	t.Helper()
	containertest.Require(t, containertest.Root)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("needs FUSE: /dev/fuse: %v", err)
	}
	base := t.TempDir()
	for _, p := range []string{filepath.Dir(base), base} {
		require.NoError(t, os.Chmod(p, 0o755))
	}
	d := &deafDisk{dir: filepath.Join(base, fmt.Sprintf("inlay-%d", os.Getpid())), asked: make(chan string, 100), served: make(chan struct{})}
	require.NoError(t, os.Mkdir(d.dir, 0o755))
	require.NoError(t, unix.Mount("inlay-test", d.dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)))
	// Not before: until it is mounted it cannot be read.
	d.file = os.NewFile(uintptr(fd), "fuse")
	go d.serve()
	d.release = sync.OnceFunc(func() {
		_ = d.file.Close() // ends the connection
		<-d.served
	})
	t.Cleanup(func() {
		d.release()
		require.NoError(t, unix.Unmount(d.dir, unix.MNT_DETACH))
	})
	newLauncher(t)
	return d
}

// newLauncher has the next container start a new launcher: one that runs sees mounts
// that are made now only where the host's mounts are shared, mount_namespaces(7).
func newLauncher(t *testing.T) {
	t.Helper()
	pid := launcherPID(t)
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	require.True(t, endsWithin(t, fd, time.Minute))
	require.NoError(t, unix.Close(fd))
	require.Equal(t, "alive\n", output(t, sh("echo alive")))
}

// Requests of the kernel's include/uapi/linux/fuse.h.
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseMknod       = 8
	fuseMkdir       = 9
	fuseOpen        = 14
	fuseRead        = 15
	fuseStatfs      = 17
	fuseRelease     = 18
	fuseFlush       = 25
	fuseInit        = 26
	fuseCreate      = 35
	fuseInterrupt   = 36
	fuseBatchForget = 42
)

// serve answers until the file is closed.
func (d *deafDisk) serve() {
	defer close(d.served)
	le := binary.LittleEndian
	buf := make([]byte, 1<<20)
	for {
		n, err := d.file.Read(buf)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			continue // a request that was taken back
		}
		if err != nil || n < 40 {
			return
		}
		op, unique, node, body := le.Uint32(buf[4:]), le.Uint64(buf[8:]), le.Uint64(buf[16:]), buf[40:n]
		errno, answer := unix.Errno(0), []byte(nil)
		switch op {
		case fuseForget, fuseBatchForget, fuseInterrupt:
			continue
		case fuseInit:
			answer = make([]byte, 64)
			le.PutUint32(answer[0:], 7)
			le.PutUint32(answer[4:], 31)
			le.PutUint32(answer[20:], 4096) // max_write
		case fuseGetattr:
			answer = append(make([]byte, 16), fuseAttr(node)...)
		case fuseLookup:
			name, _, _ := strings.Cut(string(body), "\x00")
			switch name {
			case "silent":
				answer = append(make([]byte, 40), fuseAttr(2)...)
				le.PutUint64(answer, 2)
			case "wall":
				d.asked <- name
				continue
			default:
				errno = unix.ENOENT
			}
		case fuseOpen:
			answer = make([]byte, 16)
			le.PutUint32(answer[8:], 1) // FOPEN_DIRECT_IO: nothing is read ahead
		case fuseStatfs:
			answer = make([]byte, 80)
		case fuseRelease, fuseFlush:
		case fuseRead, fuseCreate, fuseMknod, fuseMkdir:
			d.asked <- strconv.Itoa(int(op))
			continue
		default:
			errno = unix.ENOSYS
		}
		out := make([]byte, 16, 16+len(answer))
		if errno == 0 {
			out = append(out, answer...)
		}
		le.PutUint32(out, uint32(len(out)))
		le.PutUint32(out[4:], uint32(-int32(errno)))
		le.PutUint64(out[8:], unique)
		_, _ = d.file.Write(out) // ENOENT: who asked is gone
	}
}

// fuseAttr is struct fuse_attr of the root, 1, or of a file.
func fuseAttr(node uint64) []byte {
	le := binary.LittleEndian
	out := make([]byte, 88)
	le.PutUint64(out, node)
	mode := uint32(unix.S_IFDIR | 0o777)
	if node != 1 {
		mode = unix.S_IFREG | 0o666
		le.PutUint64(out[8:], 1<<20)
	}
	le.PutUint32(out[60:], mode)
	le.PutUint32(out[64:], 1)
	return out
}

// mount shows it in the container.
func (d *deafDisk) mount() container.Option {
	return container.WithMounts(rootfs.Bind(d.dir, "/disk"))
}

// await waits until somebody hangs.
func (d *deafDisk) await(t *testing.T) {
	t.Helper()
	select {
	case <-d.asked:
	case <-timeout(t).Done():
		require.FailNow(t, "nobody asked")
	}
}

var readSilent = register("read silent", func([]string) int {
	for range 3 {
		go stay() // a program with threads, of which the first one ends
	}
	go func() {
		runtime.LockOSThread()
		_, _ = os.ReadFile("/disk/silent")
	}()
	return stay()
})

// sendSilent hangs with the lock of its stdout held: whoever reads or closes the pipe
// waits for the disk too.
var sendSilent = register("send silent", func([]string) int {
	f, err := os.Open("/disk/silent")
	if err == nil {
		_, err = unix.Sendfile(1, int(f.Fd()), nil, 1<<16)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
})

// stay is a job's way to wait for its end: the Go runtime takes a select of nothing
// for a mistake where nothing else can happen.
func stay() int {
	for {
		_ = unix.Pause() // a signal, or the end
	}
}

// reads is a job that hangs.
func reads() container.JobOption { return sh("read line </disk/silent") }

// hung are ways in which a container comes to hold a process that hangs: each returns
// what its Close, or what stands for it, said, and the container where there is one.
var hung = []struct {
	name string
	do   func(t *testing.T, d *deafDisk) (*container.Container, error)
}{
	{"main job", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		c := startHung(t, d, reads())
		err := c.Close()
		res, waitErr := c.Wait(timeout(t))
		require.NoError(t, waitErr)
		require.Equal(t, container.Killed, res.Status)
		require.Contains(t, res.Reason, "in state D")
		return c, err
	}},
	{"program with threads", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		c := startHung(t, d, self(t, readSilent))
		return c, c.Close()
	}},
	{"in the middle of a splice to stdout", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		c := startHung(t, d, self(t, sendSilent), container.WithStdout(io.Discard))
		return c, c.Close()
	}},
	{"child of a main job that ends", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		in, feed, err := os.Pipe()
		require.NoError(t, err)
		c := startHung(t, d, sh("(read x </disk/silent) & read line; exit 3"), container.WithStdin(in), container.WithStdout(io.Discard))
		require.NoError(t, errors.Join(feed.Close(), in.Close()))
		res, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.Exited, res.Status)
		require.Equal(t, 3, res.ExitCode, "the verdict is the main job's own")
		require.Contains(t, res.Reason, "in state D")
		return c, c.Close()
	}},
	{"time limit", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		c := startHung(t, d, reads(), container.WithTimeLimit(time.Second))
		res, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.TimeLimit, res.Status)
		require.Contains(t, res.Reason, "in state D")
		return c, c.Close()
	}},
	{"Run", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		ctx, cancel := context.WithCancel(timeout(t))
		go func() {
			<-d.asked
			cancel()
		}()
		res, err := container.Run(ctx, d.mount(), reads(), container.WithStdout(io.Discard))
		require.Nil(t, res)
		return nil, err
	}},
	{"Stop", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		c := startHung(t, d, reads(), container.WithStopGrace(0))
		var left *container.LeftError
		require.ErrorAs(t, c.Stop(timeout(t)), &left)
		return c, c.Close()
	}},
	{"job of Exec", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		c := startHung(t, nil, d.mount())
		p, err := c.Exec(timeout(t), reads(), container.WithStdout(io.Discard))
		require.NoError(t, err)
		d.await(t)
		require.NoError(t, p.Kill())
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.Killed, res.Status)
		require.Contains(t, res.Reason, "in state D")
		require.Equal(t, 7, execCode(t, c, sh("exit 7")), "the container goes on")
		return c, c.Close()
	}},
	{"Kill without a main job", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		c := startHung(t, nil, d.mount())
		_, err := c.Exec(timeout(t), reads(), container.WithStdout(io.Discard))
		require.NoError(t, err)
		d.await(t)
		require.NoError(t, c.Kill())
		res, err := c.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, container.Killed, res.Status)
		return c, c.Close()
	}},
	{"before the execve", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		return cancelStart(t, d, container.WithDir("/disk/wall"))
	}},
	{"init itself", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		return cancelStart(t, d, container.WithFile("/disk/new", []byte("x"), 0o644))
	}},
	{"before the execve of Exec", func(t *testing.T, d *deafDisk) (*container.Container, error) {
		t.Helper()
		c := startHung(t, nil, d.mount())
		ctx, cancel := context.WithCancel(timeout(t))
		go func() {
			<-d.asked
			cancel()
		}()
		_, err := c.Exec(ctx, container.WithCommand("true"), container.WithDir("/disk/wall"))
		require.ErrorIs(t, err, context.Canceled)
		return c, c.Close()
	}},
}

// startHung starts a container on the disk and waits until its job hangs.
func startHung(t *testing.T, d *deafDisk, opts ...container.Option) *container.Container {
	t.Helper()
	if d != nil {
		opts = append(opts, d.mount())
	}
	c, err := container.New(opts...)
	require.NoError(t, err)
	require.NoError(t, c.Start(timeout(t)))
	if d != nil {
		d.await(t)
	}
	return c
}

// cancelStart has a start end by its context while it hangs.
func cancelStart(t *testing.T, d *deafDisk, opt container.Option) (*container.Container, error) {
	t.Helper()
	c, err := container.New(d.mount(), opt, container.WithCommand("true"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(timeout(t))
	go func() {
		<-d.asked
		cancel()
	}()
	err = c.Start(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, waitErr := c.Wait(timeout(t))
	require.ErrorIs(t, waitErr, context.Canceled)
	return c, err
}

// What hangs in the kernel outlives SIGKILL. Nothing waits for it for ever: Close,
// Start, Run, Stop and Wait return and name it, other containers are not concerned, and
// nobody gets its ids. When the kernel has let go, Prune, or Close, removes the rest.
func TestUnkillable(t *testing.T) {
	defer container.CloseTimeout(3 * time.Second)() // TestUnkillableLauncherDies waits the whole time
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	disks := make([]*deafDisk, len(hung))
	for i := range disks {
		disks[i] = newDeafDisk(t)
	}
	before, err := containertest.Take()
	require.NoError(t, err)
	t.Cleanup(func() { // all of it is gone, unless the test failed
		for _, d := range disks {
			d.release()
		}
		if t.Failed() {
			_, err := container.Prune(context.Background())
			t.Log(err)
		}
	})
	containers, lefts := make([]*container.Container, len(hung)), make([]*container.LeftError, len(hung))
	var all sync.WaitGroup
	for i, h := range hung {
		// Each takes the bound of Close, on whatever number of processors.
		all.Go(func() {
			t.Run(h.name, func(t *testing.T) {
				c, err := h.do(t, disks[i])
				containers[i] = c
				lefts[i] = checkLeft(t, c, err)
			})
		})
	}
	all.Wait()
	require.NotContains(t, lefts, (*container.LeftError)(nil))
	// What is kept: of each an init's socket and pidfd, one poller for all, and who reads
	// and who closes a pipe that is locked.
	now, err := containertest.Take()
	require.NoError(t, err)
	require.LessOrEqual(t, kinds(now.FDs, "pidfd")-kinds(before.FDs, "pidfd"), len(hung)+1) // and a new launcher's
	require.LessOrEqual(t, kinds(now.FDs, "socket:")-kinds(before.FDs, "socket:"), len(hung)+1)
	require.LessOrEqual(t, len(now.Goroutines), len(before.Goroutines)+3, "%v", now.Goroutines)
	require.LessOrEqual(t, len(now.FDs), len(before.FDs)+2*len(hung)+20, "%v", now.FDs)
	for _, i := range []int{0, 9} {
		var left *container.LeftError
		require.ErrorAs(t, containers[i].Close(), &left, "a second Close")
	}
	report, err := container.Prune(timeout(t))
	var left *container.LeftError
	require.ErrorAs(t, err, &left)
	for _, l := range lefts {
		require.True(t, slices.ContainsFunc(report.Kept, func(k container.Kept) bool {
			return k.Path == "container "+l.ID && strings.Contains(k.Reason, "in state D")
		}), "%v", report)
		require.NotContains(t, report.Removed, "container "+l.ID)
	}
	for _, d := range disks {
		d.release()
	}
	require.NoError(t, containers[0].Close(), "the kernel has let go")
	want := []string{}
	for _, l := range lefts[1:] {
		want = append(append(want, "container "+l.ID), l.Groups...)
	}
	var removed []string
	for ctx := timeout(t); ; {
		report, err := container.Prune(ctx)
		require.NoError(t, ctx.Err())
		removed = append(removed, report.Removed...)
		if err == nil {
			break
		}
	}
	require.Subset(t, removed, want)
	for i, c := range containers {
		if c != nil {
			require.NoError(t, c.Close(), hung[i].name)
		}
		for _, g := range lefts[i].Groups {
			require.NoDirExists(t, g)
		}
	}
}

// tellsWhere tells whether the kernel says in which function a process waits: before
// Linux 5.16 it finds none where it unwinds stacks by ORC.
var tellsWhere = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/2/wchan") // kthreadd, which waits
	return err != nil || string(text) != "0"
})

// checkLeft checks what is said of a container that hangs.
func checkLeft(t *testing.T, c *container.Container, err error) *container.LeftError {
	t.Helper()
	var left *container.LeftError
	require.ErrorAs(t, err, &left)
	if c != nil {
		require.Equal(t, c.ID(), left.ID)
	}
	waits := slices.IndexFunc(left.Processes, func(p container.LeftProcess) bool { return p.State == "D" && (p.Where != "" || !tellsWhere()) })
	require.GreaterOrEqual(t, waits, 0, "%v", left)
	pid := left.Processes[waits].PID
	require.ErrorContains(t, err, fmt.Sprintf("process %d", pid))
	for _, g := range left.Groups {
		require.DirExists(t, g)
	}
	if containertest.Groups(t) != nil {
		require.NotEmpty(t, left.Groups)
	}
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
	require.NoError(t, err)
	require.NotEqual(t, strings.Fields(string(own)), strings.Fields(output(t, container.WithCommand("cat", "/proc/self/uid_map"))), "its ids are another's now")
	return left
}

// kinds counts descriptors.
func kinds(fds map[int]string, what string) (n int) {
	for _, to := range fds {
		if strings.Contains(to, what) {
			n++
		}
	}
	return n
}

// The same where the launcher dies: the next container has a new one, and Close of
// the old container still is what removes it.
func TestUnkillableLauncherDies(t *testing.T) {
	containertest.Census(t)
	d := newDeafDisk(t)
	c := startHung(t, d, reads())
	require.NoError(t, unix.Kill(launcherPID(t), unix.SIGKILL))
	res, err := c.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Lost, res.Status)
	require.Contains(t, res.Reason, "hangs in the kernel")
	require.Equal(t, "alive\n", output(t, sh("echo alive")))
	var left *container.LeftError
	require.ErrorAs(t, c.Close(), &left)
	d.release()
	for ctx := timeout(t); ; {
		if err = c.Close(); err == nil || ctx.Err() != nil {
			break
		}
	}
	require.NoError(t, err)
}

const hungHostName = "host with a hung job"

var hungHost = register(hungHostName, func(args []string) int {
	c, err := container.New(container.WithMounts(rootfs.Bind(args[0], "/disk")), reads())
	if err == nil {
		err = c.Start(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0 // without closing anything
})

// A host program that dies with such a container: neither it nor its launcher hangs.
// What they could not remove stays named, and Prune of another program removes it when
// the kernel has let go.
func TestUnkillableHostDies(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	_, err := container.Prune(timeout(t))
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	jobUsed[hungHost] = true
	disks := []*deafDisk{newDeafDisk(t), newDeafDisk(t)}
	var hosts, launchers []int
	for i, d := range disks {
		cmd := exec.Command(exe, hungHostName, d.dir)
		cmd.Env = append(os.Environ(), jobEnv, noLinger)
		feed, err := cmd.StdinPipe()
		require.NoError(t, err)
		var out lockedBuffer
		cmd.Stdout = &out
		require.NoError(t, cmd.Start())
		d.await(t)
		kids := childrenOf(cmd.Process.Pid)
		require.Len(t, kids, 1, "the launcher; %s", out.String())
		fd, err := unix.PidfdOpen(kids[0], 0)
		require.NoError(t, err)
		hosts, launchers = append(hosts, cmd.Process.Pid), append(launchers, fd)
		if i == 0 {
			require.NoError(t, cmd.Process.Kill())
		} else {
			require.NoError(t, feed.Close())
		}
		_ = cmd.Wait() // killed, one of them: both have ended
	}
	for _, fd := range launchers {
		require.True(t, endsWithin(t, fd, time.Minute), "the launcher waits for what hangs")
		require.NoError(t, unix.Close(fd))
	}
	groups := append(groupsOfHost(hosts[0]), groupsOfHost(hosts[1])...)
	if containertest.Groups(t) != nil {
		require.NotEmpty(t, groups)
		var kept []string
		for ctx := timeout(t); ; {
			report, err := container.Prune(ctx)
			require.NoError(t, ctx.Err(), "%v", kept)
			for _, k := range report.Kept {
				require.Contains(t, err.Error(), k.Reason)
				if strings.Contains(k.Reason, "in state D") {
					kept = append(kept, k.Path)
				}
			}
			// Another program's Prune may just have an owner file.
			still := append(groupsOfHost(hosts[0]), groupsOfHost(hosts[1])...)
			require.NotEmpty(t, still)
			if !slices.ContainsFunc(still, func(g string) bool { return !slices.Contains(kept, g) }) {
				break
			}
		}
	}
	for _, d := range disks {
		d.release()
	}
	for ctx := timeout(t); ; {
		report, err := container.Prune(ctx)
		require.NoError(t, ctx.Err(), "%v %v", report, err)
		var left []string
		for _, pid := range hosts {
			owners, err := filepath.Glob(fmt.Sprintf("%s/owner-%d-*", launcher.DefaultStateDir(), pid))
			require.NoError(t, err)
			left = append(append(left, owners...), groupsOfHost(pid)...)
		}
		if len(left) == 0 {
			break
		}
	}
}

// A group that somebody has frozen on v1 takes no signal; Close says so, and a second
// one removes it when it is thawed. On v2 what is frozen can be killed.
func TestCloseFrozen(t *testing.T) {
	defer container.CloseTimeout(3 * time.Second)() // TestUnkillableLauncherDies waits the whole time
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	t.Run("v1", func(t *testing.T) {
		const freezer = "/sys/fs/cgroup/freezer"
		if _, err := os.Stat(freezer + "/cgroup.procs"); err != nil {
			t.Skipf("needs cgroup v1 with its freezer: %v", err)
		}
		group := fmt.Sprintf("%s/frozen-test-%d", freezer, os.Getpid())
		require.NoError(t, os.Mkdir(group, 0o755))
		set := func(file, value string) {
			t.Helper()
			require.NoError(t, os.WriteFile(filepath.Join(group, file), []byte(value), 0))
		}
		c := startHung(t, nil, container.WithCommand("sleep", "1000"))
		kids := childrenOf(c.PID())
		require.Len(t, kids, 1)
		set("cgroup.procs", strconv.Itoa(kids[0]))
		set("freezer.state", "FROZEN")
		t.Cleanup(func() {
			require.NoError(t, os.Remove(group))
		})
		left := checkLeft(t, c, c.Close())
		set("freezer.state", "THAWED")
		require.Equal(t, "sleep", left.Processes[1].Name)
		require.NoError(t, closeAtLast(t, c))
	})
	t.Run("v2", func(t *testing.T) {
		c := startHung(t, nil, container.WithCommand("sleep", "1000"))
		var file string
		require.NoError(t, filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
			if err == nil && filepath.Base(path) == "cgroup.freeze" && filepath.Base(filepath.Dir(path)) == c.ID() {
				file = path
			}
			return nil // other groups come and go
		}))
		if file == "" {
			require.NoError(t, c.Close())
			t.Skip("needs cgroup v2: the container has no group there")
		}
		require.NoError(t, os.WriteFile(file, []byte("1"), 0))
		require.NoError(t, c.Close())
	})
}

// closeAtLast closes what the kernel has let go.
func closeAtLast(t *testing.T, c *container.Container) (err error) {
	t.Helper()
	for ctx := timeout(t); ; {
		if err = c.Close(); err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// badNames are names that somebody's script trips over.
var badNames = []string{"line\nbreak", "\n", "\xff\xfe", " ", "-rf", "*", "\x1b[2J", "\\", `"`, strings.Repeat("n", 255)}

// mess fills a folder: so many files, a tree so deep, and of everything else a few.
var mess = register("make a mess", func(args []string) int {
	dir := args[0]
	files, err := strconv.Atoi(args[1])
	if err != nil {
		return 99
	}
	depth, err := strconv.Atoi(args[2])
	if err == nil {
		err = os.Chdir(dir)
	}
	for i := 0; i < files && err == nil; i++ {
		var fd int
		if fd, err = unix.Open(strconv.Itoa(i), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600); err == nil {
			err = unix.Close(fd)
		}
	}
	for i, n := range badNames {
		err = joinErrors(err, os.WriteFile(n, []byte("x"), 0), os.Mkdir("dir"+n[:min(200, len(n))], 0o300), unix.Mkfifo(fmt.Sprint("fifo", i), 0o600),
			unix.Mknod(fmt.Sprint("socket", i), unix.S_IFSOCK|0o600, 0), os.Symlink("/proc/1/root", fmt.Sprint("link", i)), os.Link(n, fmt.Sprint("hard", i)))
	}
	for i := 0; i < depth && err == nil; i++ {
		// Each name is longer than what a path of so many may be.
		err = joinErrors(unix.Mkdir("deep-deep-deep", 0o700), unix.Chdir("deep-deep-deep"))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("made")
	return stay() // in the deepest of them
})

// enoughMemory tells whether the machine has so much to spare.
func enoughMemory(t *testing.T, kib int) bool {
	t.Helper()
	f := strings.Fields(statusField("/proc/meminfo", "MemAvailable"))
	require.NotEmpty(t, f)
	free, err := strconv.Atoi(f[0])
	require.NoError(t, err)
	return free > kib
}

// startMess runs the job that makes a mess until it is made.
func startMess(t *testing.T, opt container.Option, files, depth int) *container.Container {
	t.Helper()
	out, in, err := os.Pipe()
	require.NoError(t, err)
	c, err := container.New(opt, hostileSelf(t, mess, "/mess", strconv.Itoa(files), strconv.Itoa(depth)), container.WithStdout(in), container.WithStderr(in))
	require.NoError(t, err)
	require.NoError(t, c.Start(timeout(t)))
	require.NoError(t, in.Close())
	text := make([]byte, 5)
	_, err = io.ReadFull(out, text)
	require.NoError(t, err)
	if string(text) != "made\n" {
		rest, err := io.ReadAll(out)
		require.NoError(t, err)
		require.FailNow(t, string(text)+string(rest))
	}
	require.NoError(t, out.Close())
	return c
}

// Whatever a job makes in a memory file system goes with the container: a million
// files, a tree of 4,000 levels, names of every kind, FIFOs, sockets.
func TestCloseMess(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	files := 1_000_000
	if testing.Short() || os.Getenv("INLAY_VM") != "" || !enoughMemory(t, 4<<20) {
		files = 100_000
	}
	tmpfs := container.WithMounts(rootfs.Tmpfs("/mess", rootfs.Inodes(int64(files)+10_000), rootfs.Size(64*container.MiB)))
	require.NoError(t, startMess(t, tmpfs, files, 4000).Close())
}

// A writable folder of the host's is the user's own, whatever a job made in it: Close
// takes nothing away, and the user can.
func TestCloseMessInFolder(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	var files unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	depth := int(min(4000, files.Cur-100)) // os.RemoveAll has one open for each
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o777))
	c := startMess(t, container.Options(container.WithIDMaps(hostIDs()), container.WithMounts(rootfs.Bind(dir, "/mess"))), 2000, depth)
	require.NoError(t, c.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2000+6*len(badNames)+1)
	levels := 0
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	for ; err == nil; levels++ {
		var next int
		next, err = unix.Openat(fd, "deep-deep-deep", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	require.ErrorIs(t, err, unix.ENOENT)
	require.Equal(t, depth, levels-1)
	require.NoError(t, os.RemoveAll(dir))
}

// FS_IMMUTABLE_FL and FS_APPEND_FL of ioctl_iflags(2).
const (
	immutable  = 0x10
	appendOnly = 0x20
)

// setFlags sets these two flags of a file, or takes them away; its others stay.
func setFlags(name string, flags int) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	old, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, old&^(immutable|appendOnly)|flags)
	}
	return errors.Join(err, f.Close())
}

var flagFiles = register("flag files", func(args []string) int {
	for name, flags := range map[string]int{"append": appendOnly, "immutable": immutable} {
		name = filepath.Join(args[0], name)
		err := os.WriteFile(name, []byte("x"), 0o600)
		if err == nil {
			err = setFlags(name, flags)
		}
		fmt.Println(answer(err))
	}
	if len(args) > 1 {
		fmt.Println(answer(setFlags(args[0], appendOnly)))
	}
	return 0
})

// Flags that keep a file from being removed are no job's to set, unless it has
// CAP_LINUX_IMMUTABLE over the host; then they hold for the user too, and not Close up.
func TestCloseFlags(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	probe := filepath.Join(dir, "probe")
	require.NoError(t, os.WriteFile(probe, nil, 0o600))
	if err := errors.Join(setFlags(probe, immutable), setFlags(probe, 0)); err != nil {
		t.Skipf("needs a disk that keeps flags of files: %v", err)
	}
	require.NoError(t, os.Chmod(dir, 0o777))
	bind := container.WithMounts(rootfs.Bind(dir, "/d"))
	require.Equal(t, "EPERM\nEPERM\n", output(t, bind, container.WithIDMaps(hostIDs()), hostileSelf(t, flagFiles, "/d"), container.WithCapabilities(security.AllCapabilities()...)))
	for _, n := range []string{"append", "immutable"} {
		require.NoError(t, os.Remove(filepath.Join(dir, n)))
	}
	clearAll := func() {
		for _, n := range []string{"", "append", "immutable"} {
			if err := setFlags(filepath.Join(dir, n), 0); !errors.Is(err, os.ErrNotExist) {
				require.NoError(t, err)
			}
		}
	}
	t.Cleanup(clearAll)
	hosts := container.Options(container.WithHostNamespace(namespace.User), container.WithCapabilities("CAP_LINUX_IMMUTABLE"))
	require.Equal(t, "done\ndone\ndone\n", output(t, bind, hosts, hostileSelf(t, flagFiles, "/d", "folder too")))
	require.ErrorIs(t, os.RemoveAll(dir), unix.EPERM)
	clearAll()
	require.NoError(t, os.RemoveAll(dir))
	// In the container's own memory file system they go with it.
	got := output(t, hosts, hostileSelf(t, flagFiles, "/tmp"))
	require.Contains(t, []string{"done\ndone\n", "ENOTTY\nENOTTY\n"}, got, "since Linux 6.6")
}

const zooName = "zoo"

// zoo starts processes of every kind and stays.
var zoo = register(zooName, func(args []string) int {
	exe := "/proc/self/exe"
	begin := func(attr *syscall.SysProcAttr, name string, args ...string) {
		cmd := exec.Command(name, args...)
		cmd.SysProcAttr = attr
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			fmt.Println(name, args, err)
			os.Exit(1)
		}
	}
	if len(args) > 0 {
		runtime.LockOSThread()
		switch args[0] {
		case "vfork":
			// As in vfork(2), it waits until the child executes something or ends.
			const flags = unix.CLONE_VFORK | uintptr(unix.SIGCHLD)
			if pid, _, _ := unix.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0); pid == 0 {
				for {
					_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0) // for ever
				}
			}
			return 1
		case "tracer":
			begin(&syscall.SysProcAttr{Ptrace: true}, "/bin/sleep", "1000") // stands still at its execve
		case "zombies":
			for range 100 {
				begin(nil, "/bin/true")
			}
		case "leader ended":
			firstThreadEnds(func() { stay() })
		case "nested":
			for i := range 100 {
				if err := os.Mkdir(fmt.Sprint("/tmp/m", i), 0o700); err != nil {
					fmt.Println(err)
				}
				if err := unix.Mount("none", fmt.Sprint("/tmp/m", i), "tmpfs", 0, "size=64k"); err != nil {
					fmt.Println(err)
					return 1
				}
			}
			begin(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC}, "/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1000 & wait; done")
		}
		fmt.Println("up")
		return stay()
	}
	begin(nil, "/bin/sh", "-c", "kill -STOP $$")
	begin(nil, "/bin/sh", "-c", "trap '' HUP INT QUIT TERM USR1 USR2 CHLD TSTP; sleep 1000; sleep 1000")
	begin(&syscall.SysProcAttr{Setsid: true}, "/bin/sh", "-c", "(setsid sleep 1000 &) ; (setsid setsid sleep 1000 &)")
	begin(nil, exe, zooName, "vfork")
	for _, kind := range []string{"tracer", "zombies", "leader ended", "nested"} {
		var attr *syscall.SysProcAttr
		if kind == "nested" {
			one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			attr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: one, GidMappings: one}
		}
		cmd := exec.Command(exe, zooName, kind)
		cmd.SysProcAttr, cmd.Stderr = attr, os.Stdout
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			fmt.Println(kind, err)
			return 1
		}
		if kind == "leader ended" {
			continue // it says nothing any more
		}
		line := make([]byte, 3)
		if _, err := io.ReadFull(out, line); err != nil || string(line) != "up\n" {
			rest, _ := io.ReadAll(out)
			fmt.Println(kind, err, string(line)+string(rest))
			return 1
		}
	}
	fmt.Println("made")
	return stay()
})

// Processes of every kind end with the container: stopped, traced, hung in vfork(2),
// zombies, of other sessions, without a first thread, and the PID 1 of a namespace
// that a job made, with a hundred mounts.
func TestCloseZoo(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for range 3 {
		var out safeBuffer
		up := make(chan struct{})
		var once sync.Once
		c, err := container.New(hostileSelf(t, zoo), container.WithUserNamespaceCreation(true), container.WithCapabilities("CAP_SETFCAP"), // to map root
			container.WithStderr(&out), container.WithStdout(io.MultiWriter(&out, onWrite(func() { once.Do(func() { close(up) }) }))))
		require.NoError(t, err)
		require.NoError(t, c.Start(timeout(t)))
		select {
		case <-up:
		case <-timeout(t).Done():
			require.FailNow(t, "the zoo is not there")
		}
		require.Equal(t, "made\n", out.String())
		require.NoError(t, c.Close())
	}
}

var nestGroups = register("nest groups", func([]string) int {
	err := joinErrors(os.Mkdir("/tmp/cg", 0o700), unix.Mount("none", "/tmp/cg", "cgroup2", 0, ""), os.Chdir("/tmp/cg"))
	if err != nil {
		fmt.Println("needs a cgroup2 mount:", err)
		return 1
	}
	for i := 0; i < 200 && err == nil; i++ {
		err = os.Mkdir(fmt.Sprint("wide", i), 0o700)
	}
	name := strings.Repeat("g", 200)
	for i := 0; i < 40 && err == nil; i++ {
		err = joinErrors(unix.Mkdir(name, 0o700), unix.Chdir(name))
	}
	if err == nil {
		cmd := exec.Command("/bin/sleep", "1000")
		err = cmd.Start()
		if err == nil {
			err = os.WriteFile("cgroup.procs", []byte(strconv.Itoa(cmd.Process.Pid)), 0)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("made")
	return stay()
})

// A job that may make control groups nests them deeper than a path is long; they go
// with the container, also where its host program dies.
func TestCloseNestedGroups(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	c, out := startNested(t)
	if out != "made\n" {
		require.NoError(t, c.Close())
		require.Contains(t, out, "needs ")
		t.Skip(out)
	}
	deep := 0
	require.NoError(t, filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, c.ID()) {
			deep = max(deep, strings.Count(path, "gggg/"))
		}
		return nil // others come and go, and this one's paths become too long
	}))
	require.Greater(t, deep, 10, "the groups are not there")
	require.NoError(t, c.Close())
}

func startNested(t *testing.T) (*container.Container, string) {
	t.Helper()
	var out safeBuffer
	up := make(chan struct{})
	var once sync.Once
	c, err := container.New(hostileSelf(t, nestGroups), container.WithIDMaps(hostIDs()), container.WithCapabilities(security.AllCapabilities()...),
		container.WithStdout(io.MultiWriter(&out, onWrite(func() { once.Do(func() { close(up) }) }))))
	require.NoError(t, err)
	require.NoError(t, c.Start(timeout(t)))
	select {
	case <-up:
	case <-timeout(t).Done():
		require.FailNow(t, "no groups")
	}
	return c, out.String()
}

const lockPipesName = "lock pipes"

// lockPipes leaves a process behind that is in the middle of a splice(2): the kernel
// holds the pipe's lock while it waits for the other side, and whoever reads, writes or
// closes that pipe waits for it, not to be interrupted.
var lockPipes = register(lockPipesName, func(args []string) int {
	if len(args) == 2 {
		runtime.LockOSThread()
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return 1
		}
		from, to := fds[0], 1
		if args[1] == "stdin" {
			from, to = 0, fds[0]
			for err == nil { // until it is full
				_, err = unix.SendmsgN(fds[0], make([]byte, 4096), nil, nil, unix.MSG_DONTWAIT)
			}
		}
		fmt.Fprintln(os.Stderr, unix.Gettid())
		for err = nil; err == nil; { // before Linux 6.5 a full socket takes some pages more
			_, err = unix.Splice(from, nil, to, nil, 1<<16, 0)
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", lockPipesName, "child", args[0])
	cmd.Stdin, cmd.Stdout, cmd.SysProcAttr = os.Stdin, os.Stdout, &syscall.SysProcAttr{Setsid: true}
	says, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	tid := 0
	if err == nil {
		_, err = fmt.Fscan(says, &tid)
	}
	call := fmt.Sprintf("%d ", unix.SYS_SPLICE)
	for err == nil {
		var text []byte
		if text, err = os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", cmd.Process.Pid, tid)); strings.HasPrefix(string(text), call) {
			return 5
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
})

// A process that a job left behind and that holds the lock of the job's pipes keeps
// back neither the job's Result nor other containers; and Close ends it.
func TestLockedPipes(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for _, name := range []string{"stdout", "stdin"} {
		t.Run(name, func(t *testing.T) {
			c := start(t, selfMount(t))
			in, feed := io.Pipe()
			go func() { _, _ = feed.Write(make([]byte, 1<<20)) }() // more than a pipe holds
			var out, says safeBuffer
			p, err := c.Exec(timeout(t), hostileJob(t, lockPipes, name), container.WithStdin(in), container.WithStdout(&out), container.WithStderr(&says))
			require.NoError(t, err)
			res, err := p.Wait(timeout(t))
			require.NoError(t, err)
			require.Equal(t, 5, res.ExitCode, "%v %s", res, says.String())
			require.Equal(t, "alive\n", output(t, sh("echo alive")))
			require.Equal(t, 3, execCode(t, c, sh("exit 3")))
			require.NoError(t, c.Close())
			require.NoError(t, feed.Close())
			require.NoError(t, in.Close())
		})
	}
}
