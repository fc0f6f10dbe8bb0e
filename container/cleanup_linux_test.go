package container_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

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
