package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// inside runs a test with a default container's main job and with a job of Exec:
// run returns what the job wrote.
func inside(t *testing.T, f func(t *testing.T, run func(job ...container.JobOption) string), opts ...container.Option) {
	t.Helper()
	containertest.Census(t)
	t.Run("main job", func(t *testing.T) {
		f(t, func(job ...container.JobOption) string {
			t.Helper()
			return output(t, append(append(asOptions(job), selfMount(t)), opts...)...)
		})
	})
	t.Run("Exec", func(t *testing.T) {
		c := start(t, append(opts, selfMount(t))...)
		f(t, func(job ...container.JobOption) string {
			t.Helper()
			return execOutput(t, c, job...)
		})
	})
}

// execOutput runs a job to its end and returns what it wrote; it must succeed.
func execOutput(t *testing.T, c *container.Container, job ...container.JobOption) string {
	t.Helper()
	var out bytes.Buffer
	p, err := c.Exec(timeout(t), append(job, container.WithStdout(&out), container.WithStderr(&out))...)
	require.NoError(t, err)
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, res.Err(), "%s", out.String())
	return out.String()
}

// cat shows files of /proc as a program has them that changes nothing of its own.
func cat(names ...string) container.JobOption { return container.WithCommand("/usr/bin/cat", names...) }

// try prints what each path meets.
func tryEach(paths []string, f func(path string) error) {
	for _, p := range paths {
		fmt.Printf("%s: %s\n", p, answer(f(p)))
	}
}

// answers reads what tryEach printed.
func answers(t *testing.T, text string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, l := range lines(text) {
		i := strings.LastIndex(l, ": ")
		require.Positive(t, i, "%q", text)
		out[l[:i]] = l[i+2:]
	}
	return out
}

func TestIsolationNamespaces(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
			own, err := os.Readlink("/proc/self/ns/" + kind)
			require.NoError(t, err)
			got := strings.TrimSpace(run(container.WithCommand("readlink", "/proc/self/ns/"+kind)))
			require.Regexp(t, `^`+kind+`:\[\d+\]$`, got)
			require.NotEqual(t, own, got)
		}
	})
}

func TestIsolationCredentials(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		status := run(cat("/proc/self/status"))
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			require.Equal(t, "0000000000000000", field(status, set), set)
		}
		require.Equal(t, "1", field(status, "NoNewPrivs"))
		require.Equal(t, "0\t0\t0\t0", field(status, "Uid"))
		require.Equal(t, "0\t0\t0\t0", field(status, "Gid"))
		require.Equal(t, "0022", field(status, "Umask"))
		for _, set := range []string{"SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"} {
			require.Equal(t, "0000000000000000", field(status, set), set)
		}
		if os.Geteuid() == 0 || !singleID(t) {
			require.Empty(t, field(status, "Groups"))
		}
		if os.Geteuid() == 0 { // else the file shows the launcher's ids
			first := strings.Fields(run(cat("/proc/self/uid_map")))
			require.NotEqual(t, "0", first[1], "root inside is the host's")
		}
	})
}

func TestIsolationSession(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		stat := run(cat("/proc/self/stat"))
		f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		pid, _, _ := strings.Cut(stat, " ")
		require.Equal(t, pid, f[2], "process group")
		require.Equal(t, pid, f[3], "session")
		require.Equal(t, "0", f[4], "terminal")
		host, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		require.NoError(t, err)
		nice, err := strconv.Atoi(f[16])
		require.NoError(t, err)
		require.GreaterOrEqual(t, nice, 20-host)
		require.Equal(t, "0", f[38], "scheduling policy")
		score := func(text string) int {
			n, err := strconv.Atoi(strings.TrimSpace(text))
			require.NoError(t, err)
			return n
		}
		own, err := os.ReadFile("/proc/self/oom_score_adj")
		require.NoError(t, err)
		require.GreaterOrEqual(t, score(run(cat("/proc/self/oom_score_adj"))), score(string(own)))
	})
}

func TestIsolationEnvironment(t *testing.T) {
	t.Setenv("INLAY_SECRET", "host")
	t.Setenv("LD_LIBRARY_PATH", "/nosuch")
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		got := strings.Split(strings.TrimSuffix(run(cat("/proc/self/environ")), "\x00"), "\x00")
		slices.Sort(got)
		require.Equal(t, []string{"HOME=/tmp", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb"}, got)
	})
}

func TestIsolationDescriptors(t *testing.T) {
	// Files that this program has open without O_CLOEXEC are not the job's.
	fd, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer unix.Close(fd) //nolint:errcheck // only open
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		got := lines(run(hostileJob(t, listFiles)))
		require.Len(t, got, 4)
		for i, want := range []string{`^0 /dev/null$`, `^1 pipe:`, `^2 pipe:`, `^end$`} {
			require.Regexp(t, want, got[i])
		}
	})
}

func TestIsolationLimits(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		limits := map[string][]string{}
		for _, l := range lines(run(cat("/proc/self/limits")))[1:] {
			limits[strings.TrimSpace(l[:26])] = strings.Fields(l[26:])
		}
		require.Equal(t, []string{"1", "1"}, limits["Max core file size"][:2])
		require.Equal(t, "1024", limits["Max open files"][0])
		var own unix.Rlimit
		require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &own))
		require.Equal(t, strconv.FormatUint(min(65536, own.Max), 10), limits["Max open files"][1])
		for name, most := range map[string]uint64{
			"Max file size": 64 << 30, "Max locked memory": 8 << 20, "Max msgqueue size": 819200, "Max pending signals": 4096,
			"Max nice priority": 0, "Max realtime priority": 0,
		} {
			for _, text := range limits[name][:2] {
				n, err := strconv.ParseUint(text, 10, 64)
				require.NoError(t, err, "%s: %s", name, text)
				require.LessOrEqual(t, n, most, name)
			}
		}
		if !groupsOf(t, "pids") && countsProcesses(t) {
			require.Equal(t, []string{"1024", "1024"}, limits["Max processes"][:2])
		}
	})
}

// countsProcesses tells that a default container has a limit of processes; where
// it has not, Dropped says so.
func countsProcesses(t *testing.T) bool {
	t.Helper()
	c := start(t)
	return len(onlyOption(c.Dropped(), "WithRlimit")) == 0
}

func TestIsolationHostname(t *testing.T) {
	containertest.Census(t)
	c := start(t, container.WithID("isolated-1"))
	require.Equal(t, "isolated-1\n", execOutput(t, c, cat("/proc/sys/kernel/hostname")))
	c = start(t)
	require.Equal(t, c.ID()+"\n", execOutput(t, c, cat("/proc/sys/kernel/hostname")))
	host, err := os.Hostname()
	require.NoError(t, err)
	require.NotEqual(t, host, c.ID())
}

func TestIsolationCgroup(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		for _, l := range lines(run(cat("/proc/self/cgroup"))) {
			require.True(t, strings.HasSuffix(l, ":/"), "%s", l)
		}
	})
}

var networkJob = register("network", func(args []string) int {
	links, err := net.Interfaces()
	if err != nil {
		fmt.Println(err)
		return 98
	}
	for _, l := range links {
		fmt.Println("link", l.Name, l.Flags&net.FlagUp != 0)
	}
	// As a server and its client in one job.
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return 98
	}
	go func() {
		if c, err := lis.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	c, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		fmt.Println(err)
		return 98
	}
	buf := make([]byte, 5)
	_, err = c.Read(buf)
	fmt.Println("loopback", string(buf), err)
	for _, to := range args {
		kind, address, _ := strings.Cut(to, "/")
		_, err := net.Dial(kind, address)
		fmt.Println("dial", kind, answer(err))
	}
	_, err = net.Dial("udp", "192.0.2.1:53")
	fmt.Println("route", answer(err))
	return 0
})

// Only lo is there, it is up, and nothing of the host answers: neither on its
// loopback nor on an abstract socket.
func TestIsolationNetwork(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer tcp.Close() //nolint:errcheck // only listened
	abstract := fmt.Sprintf("@inlay-test-%d", os.Getpid())
	lis, err := net.Listen("unix", abstract)
	require.NoError(t, err)
	defer lis.Close() //nolint:errcheck // only listened
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		got := lines(run(hostileJob(t, networkJob, "tcp/"+tcp.Addr().String(), "unix/"+abstract)))
		require.Equal(t, []string{"link lo true", "loopback hello <nil>", "dial tcp ECONNREFUSED", "dial unix ECONNREFUSED", "route ENETUNREACH"}, got)
	})
}

var (
	masked   = []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap", "/sys"}
	readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward"}
)

// content says what there is to read at a path.
func content(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EISDIR) {
		if n, err = unix.ReadDirent(fd, buf); err == nil {
			_, n, _ = unix.ParseDirent(buf[:n], -1, nil) // "." and ".." are left out
		}
	}
	switch {
	case err != nil:
		return err
	case n > 0:
		return errors.New("content")
	}
	return errors.New("empty")
}

// chmodAsIs changes nothing, but is refused by the mount before by the mode.
func chmodAsIs(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	return unix.Chmod(path, st.Mode&0o7777)
}

var procJob = register("proc", func(args []string) int {
	f := map[string]func(string) error{"content": content, "chmod": chmodAsIs, "mkdir": func(p string) error { return unix.Mkdir(p, 0o755) }, "append": func(p string) error {
		fd, err := unix.Open(p, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}, "list": func(p string) error {
		entries, err := os.ReadDir(p)
		for _, e := range entries {
			fmt.Printf("%s: there\n", e.Name())
		}
		return err
	}}[args[0]]
	tryEach(args[1:], f)
	return 0
})

func existing(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		_, err := os.Lstat(p)
		return err != nil
	})
}

// OCI's masked paths tell nothing, its read-only ones are.
func TestIsolationProc(t *testing.T) {
	require.NotEmpty(t, existing(masked))
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		for path, met := range answers(t, run(hostileJob(t, procJob, append([]string{"content"}, masked...)...))) {
			require.Contains(t, []string{"empty", "ENOENT", "EACCES", "EPERM"}, met, path)
			if os.Geteuid() == 0 {
				require.NotContains(t, []string{"EACCES", "EPERM"}, met, "%s is not masked, only forbidden", path)
			}
		}
		for path, met := range answers(t, run(hostileJob(t, procJob, append([]string{"chmod"}, existing(readonly)...)...))) {
			require.Equal(t, "EROFS", met, path)
		}
	})
}

// What is given read-only meets EROFS, whatever its mode.
func TestIsolationReadOnly(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		for path, met := range answers(t, run(hostileJob(t, procJob, "mkdir", "/new", "/usr/new", "/usr/bin/new", "/etc/new", "/dev/new", "/var/new"))) {
			require.Equal(t, "EROFS", met, path)
		}
		for path, met := range answers(t, run(hostileJob(t, procJob, "append", "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/nsswitch.conf"))) {
			require.Equal(t, "EROFS", met, path) // they belong to the job's root
		}
		for path, met := range answers(t, run(hostileJob(t, procJob, "chmod", "/", "/usr", "/usr/bin/env", "/etc", "/etc/passwd", "/dev", "/var", "/run/test"))) {
			require.Equal(t, "EROFS", met, path)
		}
	})
}

// /dev has what is documented and nothing more.
func TestIsolationDev(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		got := answers(t, run(hostileJob(t, procJob, "list", "/dev")))
		for _, n := range []string{"null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue", "/dev"} {
			require.Contains(t, got, n)
			delete(got, n)
		}
		require.Empty(t, got)
		require.Equal(t, "no\n", run(sh("mknod /tmp/null c 1 3 2>/dev/null || echo no")))
		require.Equal(t, "10\n", run(sh("head -c 10 /dev/urandom | wc -c; : >/dev/null")))
	})
}

var fillJob = register("fill", func(args []string) int {
	dir := args[0]
	var most int64
	fd, err := unix.Open(dir+"/size", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		fmt.Println(err)
		return 98
	}
	// fallocate(2) takes all or nothing: the last page is looked for.
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return 99
	}
	for _, n := range []int64{size, size + 4096} {
		err := unix.Fallocate(fd, 0, 0, n)
		fmt.Println("size", n, answer(err))
		if err == nil {
			most = n
		}
	}
	_ = unix.Close(fd)
	_ = unix.Unlink(dir + "/size")
	files := 0
	for ; ; files++ {
		fd, err := unix.Open(fmt.Sprintf("%s/%d", dir, files), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
		if err != nil {
			fmt.Println("files", files, answer(err))
			break
		}
		_ = unix.Close(fd)
	}
	if most != size {
		return 1
	}
	return 0
})

// The memory file systems are writable, and full at their documented size.
func TestIsolationMemoryFileSystems(t *testing.T) {
	containertest.Census(t)
	for _, tt := range []struct {
		dir         string
		size, files int64
		own         int64 // what is there already
	}{
		{"/tmp", rootfs.DefaultTmpfsSize, rootfs.DefaultTmpfsInodes, 1},
		{"/run", rootfs.DefaultTmpfsSize / 16, 8192, 2},
		{"/dev/shm", 64 << 20, 16384, 1},
	} {
		t.Run(tt.dir, func(t *testing.T) {
			got := lines(output(t, hostileSelf(t, fillJob, tt.dir, strconv.FormatInt(tt.size, 10))))
			require.Equal(t, []string{
				fmt.Sprintf("size %d done", tt.size), fmt.Sprintf("size %d ENOSPC", tt.size+4096), fmt.Sprintf("files %d ENOSPC", tt.files-tt.own),
			}, got)
		})
	}
}

var keyringJob = register("keyring", func(args []string) int {
	id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	fmt.Println("session", id, answer(err))
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, unix.KEY_SPEC_SESSION_KEYRING, nil, 0)
	fmt.Println("bytes", n, answer(err))
	_, err = unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", "inlay-test", 0)
	fmt.Println("search", answer(err))
	if len(args) > 0 {
		key, err := strconv.Atoi(args[0])
		if err != nil {
			return 99
		}
		_, err = unix.KeyctlBuffer(unix.KEYCTL_READ, key, make([]byte, 100), 100)
		fmt.Println("read", answer(err))
	}
	return 0
})

// Of the host's mounts the job has those that were meant for it, none of them
// spreads, and the host's root is none of them.
func TestIsolationMounts(t *testing.T) {
	top := []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store", "/etc"}
	own := []string{"/", "/proc", "/dev", "/tmp", "/run", "/dev/pts", "/dev/shm", "/dev/mqueue"}
	node := []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		seen := map[string]int{}
		for _, l := range lines(run(cat("/proc/self/mountinfo"))) {
			f := strings.Fields(l)
			root, at, opts := f[3], f[4], strings.Split(f[5], ",")
			require.Equal(t, "-", f[6], "it spreads: %s", l)
			kind := f[7]
			seen[at]++
			below := slices.ContainsFunc(top, func(d string) bool { return at == d || strings.HasPrefix(at, d+"/") })
			switch {
			case slices.Contains(own, at):
				require.Equal(t, "/", root, l)
				require.Contains(t, []string{"tmpfs", "proc", "devpts", "mqueue"}, kind, l)
				require.Contains(t, opts, "nosuid", l)
			case slices.Contains(node, at):
				require.Equal(t, filepath.Base(at), filepath.Base(root), l)
			case strings.HasPrefix(at, "/proc/"):
				require.True(t, slices.Contains(masked, at) || slices.Contains(readonly, at), l)
			case below || at == "/run/test":
				// The mount, or its whole file system: covers in /etc are binds of the root's.
				require.Contains(t, append(opts, strings.Split(f[len(f)-1], ",")...), "ro", l)
				require.Contains(t, opts, "nosuid", l)
				require.Contains(t, opts, "nodev", l)
			default:
				require.Fail(t, "a mount that nobody asked for", l)
			}
		}
		for at, n := range seen {
			require.Equal(t, 1, n, "mounts on %s", at)
		}
		require.Empty(t, masksLeftOver(t, run))
		// The root is the top: nothing above it, and nothing of the host's in it.
		require.Equal(t, "same\n", run(sh("[ / -ef /.. ] && [ / -ef /../../.. ] && echo same")))
		for _, n := range []string{"/home", "/root", "/boot", "/sys", "/mnt", "/media", "/opt", "/srv", "/old_root", "/var/lib", "/var/log"} {
			require.Equal(t, "ENOENT", answers(t, run(hostileJob(t, procJob, "content", n)))[n], n)
		}
	})
}

// masksLeftOver are names that stand in /run for masks of /etc: what covers them
// must not be seen.
func masksLeftOver(t *testing.T, run func(...container.JobOption) string) map[string]string {
	t.Helper()
	got := answers(t, run(hostileJob(t, procJob, "list", "/run")))
	delete(got, "/run")
	delete(got, "test")
	return got
}

const unmaskName = "unmask"

var unmaskJob = register(unmaskName, func(args []string) int {
	if args[0] == "nested" {
		cmd := exec.Command("/proc/self/exe", append([]string{unmaskName, "here"}, args[1:]...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, AmbientCaps: everyCapability()}
		if err := cmd.Run(); err != nil {
			fmt.Println("nested:", err)
			return 97
		}
		return 0
	}
	runtime.LockOSThread()
	for _, d := range []string{"/tmp/p", "/tmp/q"} {
		if err := unix.Mkdir(d, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Println(err)
			return 98
		}
	}
	show := func(what string, err error) { fmt.Printf("%s: %s\n", what, answer(err)) }
	for _, p := range args[1:] {
		show("umount "+p, unix.Unmount(p, unix.MNT_DETACH))
	}
	for _, p := range []string{"/", "/usr", "/etc", "/dev", "/proc/sys", "/run/test"} {
		show("remount "+p, unix.Mount("", p, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	}
	show("umount /", unix.Unmount("/", unix.MNT_DETACH))
	show("proc", unix.Mount("proc", "/tmp/p", "proc", 0, ""))
	show("sysfs", unix.Mount("sysfs", "/tmp/p", "sysfs", 0, ""))
	show("bind /proc", unix.Mount("/proc", "/tmp/q", "", unix.MS_BIND, ""))
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	show("open_tree /proc", err)
	if err == nil {
		_ = unix.Close(fd)
	}
	return 0
})

// A job that makes a user namespace of its own has all capabilities in it, and
// can neither take masks away nor make anything writable.
func TestIsolationHoldsInNestedNamespaces(t *testing.T) {
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		var targets []string
		for _, l := range lines(run(cat("/proc/self/mountinfo"))) {
			if at := strings.Fields(l)[4]; at != "/" {
				targets = append(targets, at)
			}
		}
		got := answers(t, run(hostileJob(t, unmaskJob, append([]string{"nested"}, targets...)...)))
		for what, met := range got {
			want := "EPERM"
			if strings.HasPrefix(what, "umount ") || what == "bind /proc" || what == "open_tree /proc" {
				want = "EINVAL"
			}
			if what == "remount /dev" {
				want = "EINVAL" // a folder of the root's
			}
			require.Equal(t, want, met, what)
		}
		require.Greater(t, len(got), 20)
	}, container.WithUserNamespaceCreation(true))
}

var escapeRoot = register("escape root", func([]string) int {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return 98
	}
	var root, now unix.Stat_t
	same := func(what string) {
		for range 50 {
			_ = unix.Chdir("..")
		}
		_ = unix.Chroot(".")
		if err := unix.Stat("/", &now); err != nil {
			fmt.Println(what, err)
			return
		}
		fmt.Println(what, now.Dev == root.Dev && now.Ino == root.Ino)
	}
	if err := unix.Stat("/", &root); err != nil {
		return 98
	}
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 98
	}
	if err := errors.Join(unix.Mkdir("/tmp/jail", 0o755), unix.Chroot("/tmp/jail"), unix.Fchdir(fd)); err != nil {
		fmt.Println(err)
		return 98
	}
	same("chroot")
	fmt.Println("umount", answer(unix.Unmount("/", unix.MNT_DETACH)))
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Println(err)
		return 98
	}
	fmt.Println("setns", answer(unix.Setns(ns, unix.CLONE_NEWNS)))
	same("after setns")
	return 0
})

// With all capabilities a job gets out of a chroot of its own making, to the
// container's root and no further.
func TestIsolationOldRoot(t *testing.T) {
	containertest.Census(t)
	got := output(t, hostileSelf(t, escapeRoot), container.WithCapabilities("CAP_SYS_CHROOT", "CAP_SYS_ADMIN"))
	require.Equal(t, "chroot true\numount EINVAL\nsetns done\nafter setns true\n", got)
}

var bomb = register("bomb", func([]string) int {
	// As many processes as it may have, and then it waits.
	n := 0
	for ; n < 5000; n++ {
		if _, err := syscall.ForkExec("/usr/bin/sleep", []string{"sleep", "1000"}, nil); err != nil {
			fmt.Println("stopped", answer(err))
			break
		}
	}
	status, err := os.ReadFile("/proc/loadavg")
	fmt.Println("processes", n, string(status), err)
	select {}
})

// A fork bomb stops at 1,024 processes and threads, its neighbours go on, and
// Close is quick.
func TestIsolationForkBomb(t *testing.T) {
	containertest.Census(t)
	if !countsProcesses(t) {
		t.Skip("needs Linux 5.14: before, the limit of processes counts the host user's")
	}
	for name, job := range map[string]container.JobOption{
		"wide": hostileJob(t, bomb),
		"deep": sh("f() { f | f & }; f; while :; do f; done 2>&1"),
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			hit := make(chan struct{})
			c, err := container.New(selfMount(t))
			require.NoError(t, err)
			defer c.Close() //nolint:errcheck // closed below
			require.NoError(t, c.Start(timeout(t)))
			full := false
			p, err := c.Exec(timeout(t), job, container.WithStdout(writerFunc(func(b []byte) {
				out.Write(b)
				text := out.String()
				if !full && (strings.Contains(text, "annot fork") || strings.Contains(text, "fork: ") || strings.Contains(text, "processes ")) {
					full = true
					close(hit)
				}
			})), container.WithStderr(nil))
			require.NoError(t, err)
			select {
			case <-hit:
			case <-p.Done():
			case <-timeout(t).Done():
				require.FailNow(t, "no limit was met")
			}
			if name == "wide" { // the deep one's processes come and go while they are counted
				paused := c.Pause(timeout(t)) == nil // so that nobody is counted twice, here and as an orphan
				require.Equal(t, groupsOf(t, "pids"), paused)
				require.LessOrEqual(t, countBelow(c.PID()), 1025)
				if paused {
					require.NoError(t, c.Resume(timeout(t)))
				}
			}
			require.Equal(t, "alive\n", output(t, sh("echo alive")))
			begun := time.Now()
			require.NoError(t, c.Close())
			require.Less(t, time.Since(begun), 5*time.Second)
			if name == "wide" {
				require.Contains(t, out.String(), "stopped EAGAIN")
				var n int
				_, err := fmt.Sscanf(out.String()[strings.Index(out.String(), "processes"):], "processes %d", &n)
				require.NoError(t, err)
				require.Greater(t, n, 900)
				require.Less(t, n, 1024)
			}
		})
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

// countBelow is how many processes there are below one, itself among them.
func countBelow(pid int) int {
	n := 1
	for _, c := range childrenOf(pid) {
		n += countBelow(c)
	}
	return n
}

const etcHostName = "etc host"

var etcHost = register(etcHostName, func(args []string) int {
	// A host program that sees an /etc with every denied name in it.
	fail := func(what string, err error) int {
		fmt.Println(what, err)
		return 98
	}
	if args[0] == "set" {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fail("unshare", err)
		}
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("tmpfs", "/etc", "tmpfs", 0, "mode=755")); err != nil {
			return fail("mount", err)
		}
		unix.Umask(0)
		// All threads are to see it.
		return fail("exec", unix.Exec("/proc/self/exe", append([]string{os.Args[0], etcHostName}, args[1:]...), os.Environ()))
	}
	exe, err := os.Executable()
	if err != nil {
		return fail("executable", err)
	}
	mount := container.WithMounts(rootfs.Bind(exe, "/run/test", rootfs.ReadOnly()))
	look := func(c *container.Container, names ...string) error {
		p, err := c.Exec(context.Background(), container.WithCommand("/run/test", append([]string{procJob, "content"}, names...)...), container.WithEnv(jobEnv, noLinger), container.WithStdout(os.Stdout), container.WithStderr(os.Stdout))
		if err != nil {
			return err
		}
		res, err := p.Wait(context.Background())
		if err == nil {
			err = res.Err()
		}
		return err
	}
	begin := func() (*container.Container, error) {
		c, err := container.New(mount)
		if err != nil {
			return nil, err
		}
		return c, c.Start(context.Background())
	}
	secret := func(name string) error { return os.WriteFile(name, []byte("secret\n"), 0o644) }
	for _, n := range []string{"passwd", "group", "hosts", "hostname", "nsswitch.conf", "resolv.conf", "plain"} {
		if err := secret("/etc/" + n); err != nil {
			return fail("write", err)
		}
	}
	var paths []string
	switch args[0] {
	case "appears":
		c, err := begin()
		if err != nil {
			return fail("start", err)
		}
		// As useradd(8) and vipw(8) do it: a new file takes the old one's place.
		for _, n := range []string{"machine-id", "passwd"} {
			if err := errors.Join(secret("/etc/.new"), os.Rename("/etc/.new", "/etc/"+n)); err != nil {
				return fail("rename", err)
			}
		}
		if err := c.Close(); err != nil {
			return fail("close", err)
		}
		if c, err = begin(); err != nil {
			return fail("start", err)
		}
		fmt.Println("== content")
		if err := look(c, "/etc/machine-id", "/etc/plain"); err != nil {
			return fail("look", err)
		}
		fmt.Println("== passwd")
		p, err := c.Exec(context.Background(), cat("/etc/passwd"), container.WithStdout(os.Stdout))
		if err != nil {
			return fail("cat", err)
		}
		if _, err := p.Wait(context.Background()); err != nil {
			return fail("cat", err)
		}
		if err := c.Close(); err != nil {
			return fail("close", err)
		}
		return 0
	}
	for i, n := range rootfs.EtcDenied() {
		at := "/etc/" + n
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return fail("mkdir", err)
		}
		var err error
		switch how := args[0]; {
		case how == "files" || n == "subuid" || n == "subgid": // those two the library reads
			err = secret(at)
		case how == "folders":
			err = errors.Join(os.Mkdir(at, 0o755), secret(at+"/file"))
			paths = append(paths, at+"/file")
		case how == "links":
			// To a file beside, to a folder beside, into nothing, out of /etc.
			to := fmt.Sprintf("/etc/real%d", i)
			switch i % 4 {
			case 0:
				err = secret(to)
			case 1:
				err = errors.Join(os.Mkdir(to, 0o755), secret(to+"/file"))
				paths = append(paths, at+"/file")
			case 2:
				to = "/run/inlay-nosuch"
			case 3:
				to = "/usr/bin/env"
			}
			err = errors.Join(err, os.Symlink(to, at))
		}
		if err != nil {
			return fail("make "+n, err)
		}
		paths = append(paths, at)
	}
	c, err := begin()
	if err != nil {
		return fail("start", err)
	}
	fmt.Println("== content")
	if err := look(c, append(paths, "/etc/plain")...); err != nil {
		return fail("look", err)
	}
	if err := c.Close(); err != nil {
		return fail("close", err)
	}
	return 0
})

// Nothing of what is denied of the host's /etc has content inside, whatever it
// is there, and when it appears between two containers. What becomes of it while
// a container runs is in the documentation of rootfs.Host.
func TestIsolationEtcDenied(t *testing.T) {
	containertest.Census(t)
	t.Run("this host's", func(t *testing.T) {
		var names []string
		for _, n := range rootfs.EtcDenied() {
			names = append(names, "/etc/"+n)
		}
		for path, met := range answers(t, output(t, hostileSelf(t, procJob, append([]string{"content"}, names...)...))) {
			require.NotEqual(t, "content", met, path)
		}
	})
	for _, how := range []string{"files", "folders", "links", "appears"} {
		t.Run(how, func(t *testing.T) {
			containertest.Require(t, containertest.Root)
			text := runHost(t, etcHost, "set", how)
			got := answers(t, section(t, text, "content"))
			require.Equal(t, "content", got["/etc/plain"], "it is not this /etc")
			delete(got, "/etc/plain")
			require.NotEmpty(t, got)
			for path, met := range got {
				assert.Contains(t, []string{"empty", "ENOENT", "EACCES", "ENOTDIR"}, met, path)
			}
			if how == "appears" {
				assert.NotContains(t, section(t, text, "passwd"), "secret")
			}
		})
	}
}

// A crash in a container starts no handler of the host's core_pattern, which runs
// as root in the host's namespaces; outside it does.
func TestIsolationCoreHandler(t *testing.T) {
	containertest.Census(t)
	if os.Getenv("INLAY_VM") == "" {
		t.Skip("needs a VM: the pattern is the whole machine's")
	}
	containertest.Require(t, containertest.Root)
	const pattern = "/proc/sys/kernel/core_pattern"
	before, err := os.ReadFile(pattern)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.WriteFile(pattern, before, 0o644)) })
	touch, err := exec.LookPath("touch")
	require.NoError(t, err)
	mark := filepath.Join(t.TempDir(), "handled")
	require.NoError(t, os.WriteFile(pattern, []byte("|"+touch+" "+mark), 0o644))
	const line = "kill -SEGV $$"
	for _, opts := range [][]container.Option{{}, {container.WithUser(1000, 1000)}, {container.WithSeccomp(security.Unconfined()), container.WithCapabilities(security.AllCapabilities()...)}} {
		res, err := container.Run(timeout(t), append(opts, sh(line))...)
		require.NoError(t, err)
		require.Equal(t, unix.SIGSEGV, res.Signal, "%v", res)
		require.False(t, res.CoreDumped)
		require.NoFileExists(t, mark)
	}
	// A limit of 0 does not keep a handler from being started, core(5).
	res, err := container.Run(timeout(t), sh(line), container.WithRlimit("core", 0, 0))
	require.NoError(t, err)
	require.Equal(t, unix.SIGSEGV, res.Signal)
	require.FileExists(t, mark)
}
