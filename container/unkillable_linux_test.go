package container_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/rootfs"
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
