package attack

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// onProc are attacks by what the kernel shows as files, and on that.
var onProc = []attack{
	{name: attackGo("host-processes", findProcesses), class: "pid namespace", args: []string{"{secret}"}, proof: bare},
	{name: attackGo("write-proc-sys", writeKernelFiles), class: "masks", proof: bare},
	{name: attackGo("kernel-settings", openSettings), class: "masks", proof: bareRoot},
	{name: attackGo("cgroup-files", openGroups), class: "cgroup namespace", proof: bareRoot},
	{name: attackGo("cgroup-paths", readGroupPaths), class: "cgroup namespace", proof: opened, opens: hostGroups},
	{name: attackGo("sysfs-files", readSysfs), class: "mount namespace", proof: bare},
	{name: attackGo("masked-content", readMasked), class: "masks", proof: bare},
	{name: attackGo("masks-by-detours", readMaskedByDetours), class: "masks", proof: bare},
	{name: attackGo("masks-mounted-again", mountProcAgain), class: "masks", proof: bare},
	{name: attackGo("masks-taken-off", unmask), class: "masks", proof: opened, open: []container.Option{container.WithCapabilities("CAP_SYS_ADMIN")}},
	{name: attackGo("masks-replaced", replaceNodes), class: "CVE-2025-31133", proof: opened, opens: writableNodes},
	{name: attackGo("console-replaced", replaceTerminals), class: "CVE-2025-52565", proof: opened, opens: writableNodes},
	{name: attackGo("proc-is-proc", fakeProc), class: "CVE-2025-52881", proof: opened, open: []container.Option{container.WithMounts(rootfs.Tmpfs("/proc/sys"))}},
	{name: attackGo("ipc-names", readIPCNames), class: "ipc namespace", args: []string{"{shmkey}", "{queue}"}, proof: bare},
	{name: attackGo("hostname", readHostname), class: "uts namespace", args: []string{"{hostname}"}, proof: bare},
}

// Processes that are not the container's, by their arguments and environments.
func findProcesses(args []string) (string, error) {
	return anyOf(pids(), func(pid int) (string, error) {
		if pid == os.Getpid() {
			return "", errOther // the secret is among its arguments
		}
		dir := fmt.Sprintf("/proc/%d/", pid)
		if detail, err := secretIn(dir+"environ", args[0]); err == nil {
			return detail, nil
		}
		text, err := os.ReadFile(dir + "cmdline")
		if err != nil {
			return "", err
		}
		if bytes.Contains(text, []byte("read nothing")) {
			return "its arguments are " + strings.ReplaceAll(string(text), "\x00", " "), nil
		}
		return "", errOther
	})
}

// checkedLater tells whether a file of /proc/PID may be opened for writing by
// everybody: the kernel asks when something is written. What is then written here
// would do no harm.
func checkedLater(path string) bool {
	return strings.Contains(path, "/attr/") || strings.HasSuffix(path, "/timerslack_ns")
}

// Each file of /proc and /sys, opened for writing. A process's own are its to
// write to; /proc/pressure takes questions, which are answered to the asker alone.
func writeKernelFiles([]string) (string, error) {
	own := fmt.Sprintf("/proc/%d/", os.Getpid())
	try := func(path string, folder bool) (string, error) {
		if folder || strings.HasPrefix(path, own) || strings.HasPrefix(path, "/proc/pressure/") {
			return "", errOther
		}
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer closing(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return "", err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			return "", errOther // a mask
		}
		if checkedLater(path) {
			_, err := unix.Write(fd, []byte("50000")) // nanoseconds, as they are; and no label
			return "written", err
		}
		return "opened for writing", nil
	}
	detail, errProc := below("/proc", try)
	if errProc == nil {
		return detail, nil
	}
	detail, errSys := below("/sys", try)
	if errSys == nil {
		return detail, nil
	}
	return "", fmt.Errorf("%w; %w", errProc, errSys)
}

// The settings by which root of a container became root of the host before.
func openSettings([]string) (string, error) {
	return anyOf([]string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/panic", "/proc/sys/kernel/poweroff_cmd", "/proc/sys/kernel/ns_last_pid",
		"/proc/sys/kernel/randomize_va_space", "/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/kernel/yama/ptrace_scope", "/proc/sys/kernel/usermodehelper/bset", "/proc/sys/kernel/keys/maxkeys",
		"/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max", "/proc/sys/kernel/shmmax", "/proc/sys/kernel/sem",
		"/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches", "/proc/sys/vm/panic_on_oom", "/proc/sys/fs/suid_dumpable", "/proc/sys/fs/file-max", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/protected_symlinks",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces", "/proc/sysrq-trigger", "/proc/sys/debug/exception-trace", "/proc/irq/default_smp_affinity", "/proc/mtrr", "/proc/kcore",
		"/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/sys/module/kernel/parameters/panic", "/sys/kernel/debug/tracing/trace", "/sys/kernel/security/lsm",
	}, func(path string) (string, error) {
		if unix.Access(path, unix.F_OK) == nil {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err == nil && st.Rdev == unix.Mkdev(1, 3) {
				return "", errOther
			}
		}
		if err := opens(path, unix.O_WRONLY); err != nil {
			return "", err
		}
		return "opened for writing", nil
	})
}

// The files of control groups, wherever a file system of theirs is, and by one of
// the job's own.
func openGroups([]string) (string, error) {
	dirs := []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/cgroup"}
	for _, m := range mountLines() {
		if strings.HasPrefix(m.kind, "cgroup") {
			dirs = append(dirs, m.at)
		}
	}
	files := []string{"release_agent", "notify_on_release", "cgroup.procs", "tasks", "memory.limit_in_bytes", "memory.max", "pids.max", "devices.allow", "cgroup.kill", "cgroup.freeze", "cgroup.subtree_control"}
	open := func(dir string) (string, error) {
		return anyOf(files, func(name string) (string, error) {
			return "opened for writing", opens(filepath.Join(dir, name), unix.O_WRONLY)
		})
	}
	detail, errThere := anyOf(dirs, open)
	if errThere == nil {
		return detail, nil
	}
	detail, errNew := inTemp(func(dir string) (string, error) {
		return anyOf([][2]string{{"cgroup2", ""}, {"cgroup", "pids"}, {"cgroup", "memory"}, {"cgroup", "none,name=attack"}}, func(m [2]string) (string, error) {
			if err := unix.Mount("none", dir, m[0], 0, m[1]); err != nil {
				return "", err
			}
			detail, err := open(dir)
			return detail, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
		})
	})
	if errNew == nil {
		return detail, nil
	}
	return "", fmt.Errorf("%w; mounted: %w", errThere, errNew)
}

// Where in the host's hierarchies its groups are.
func readGroupPaths([]string) (string, error) {
	return anyOf(processes(), func(p string) (string, error) {
		text, err := os.ReadFile(p + "/cgroup")
		if err != nil {
			return "", err
		}
		for _, l := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			f := strings.SplitN(l, ":", 3)
			// Above the namespace's root there are only dots: that of init's own group.
			if len(f) == 3 && slices.ContainsFunc(strings.Split(f[2], "/"), func(n string) bool { return n != "" && n != ".." && n != ".init" }) {
				return f[2], nil
			}
		}
		return "", errOther
	})
}

func hostGroups(t *testing.T, _ *world) []container.Option {
	t.Helper()
	host := container.WithHostNamespace(namespace.Cgroup)
	var out bytes.Buffer
	res, err := container.Run(t.Context(), host, container.WithCommand("cat", "/proc/self/cgroup"), container.WithStdout(&out))
	require.NoError(t, err)
	if !strings.Contains(out.String(), "inlay-") {
		t.Skipf("needs cgroups that this user may make: %v", res.Dropped)
	}
	return []container.Option{host}
}

// The kernel's other tree.
func readSysfs([]string) (string, error) {
	dirs := []string{"/sys/kernel", "/sys/firmware", "/sys/class", "/sys/devices", "/sys/fs", "/sys/module", "/sys/block"}
	detail, err := anyOf(dirs, func(dir string) (string, error) {
		entries, err := os.ReadDir(dir)
		if err == nil && len(entries) == 0 {
			err = errEmpty
		}
		return fmt.Sprint(len(entries), " names"), err
	})
	if err == nil {
		return detail, nil
	}
	return inTemp(func(dir string) (string, error) {
		return anyOf([]string{"sysfs", "debugfs", "tracefs", "securityfs", "devtmpfs", "configfs", "efivarfs", "bpf"}, func(kind string) (string, error) {
			if err := unix.Mount("none", dir, kind, 0, ""); err != nil {
				return "", err
			}
			return "mounted", unix.Unmount(dir, unix.MNT_DETACH)
		})
	})
}

// maskedNames are what OCI masks in /proc.
var maskedNames = []string{"interrupts", "keys", "timer_list", "kcore", "sched_debug", "latency_stats", "timer_stats", "acpi", "asound", "scsi"}

// content tells whether a file or folder has some.
func content(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer closing(fd)
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EISDIR) {
		n, err = unix.ReadDirent(fd, buf)
		if err == nil {
			_, _, names := unix.ParseDirent(buf[:n], -1, nil)
			n = len(names) // less . and ..
		}
	}
	if err == nil && n == 0 {
		err = errEmpty
	}
	return "it has content", err
}

func readMasked([]string) (string, error) {
	paths := []string{"/sys/firmware", "/sys/devices/virtual/powercap", "/proc/self/task/../../kmsg", "/proc/kmsg", "/proc/kpageflags", "/proc/vmallocinfo", "/proc/slabinfo"}
	for _, n := range maskedNames {
		paths = append(paths, "/proc/"+n)
	}
	return anyOf(paths, content)
}

// The same names by other ways, which a mask that depends on a path would miss.
func readMaskedByDetours([]string) (string, error) {
	var paths []string
	for _, n := range maskedNames {
		for _, dir := range []string{"/proc/self/task/../../", "/proc/thread-self/../../../", "/proc/1/../", "/proc/self/root/proc/", "/proc/self/cwd/proc/", "/proc/sys/../", "/proc/./", "//proc//", "/dev/fd/../../", "/proc/net/../../"} {
			paths = append(paths, dir+n)
		}
	}
	return anyOf(paths, content)
}

// A /proc of its own, without masks: in namespaces of its own, where it may make
// such.
func mountProcAgain(args []string) (string, error) {
	if len(args) > 0 {
		return mountedAgain()
	}
	flags := []uintptr{
		syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, syscall.CLONE_NEWNS,
	}
	return anyOf(flags, func(flags uintptr) (string, error) {
		cmd := exec.Command("/proc/self/exe", "masks-mounted-again", "inside")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		if flags&syscall.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", err
		}
		v, err := said(string(out))
		if err == nil && !v.escaped {
			err = errors.New(v.detail)
		}
		return v.detail, err
	})
}

func mountedAgain() (string, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("private: %w", err)
	}
	return inTemp(func(dir string) (string, error) {
		look := func(at string) (string, error) {
			return anyOf(maskedNames, func(n string) (string, error) { return content(filepath.Join(at, n)) })
		}
		mounted := func(err error) (string, error) {
			if err != nil {
				return "", err
			}
			detail, err := look(dir)
			return detail, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
		}
		return anyOf([]string{"proc", "proc, subset", "bind", "open_tree"}, func(how string) (string, error) {
			switch how {
			case "proc":
				return mounted(unix.Mount("proc", dir, "proc", 0, ""))
			case "proc, subset":
				return mounted(unix.Mount("proc", dir, "proc", 0, "subset=pid"))
			case "bind":
				return mounted(unix.Mount("/proc", dir, "", unix.MS_BIND, ""))
			}
			fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err != nil {
				return "", err
			}
			defer closing(fd)
			return look("/proc/self/fd/" + strconv.Itoa(fd))
		})
	})
}

// The masks, and what is read-only, in the container's own mount namespace.
func unmask([]string) (string, error) {
	var over []string
	for _, m := range mountLines() {
		if strings.HasPrefix(m.at, "/proc/") || strings.HasPrefix(m.at, "/etc/") {
			over = append(over, m.at)
		}
	}
	detail, errOff := anyOf(over, func(at string) (string, error) {
		return "taken off", unix.Unmount(at, unix.MNT_DETACH)
	})
	if errOff == nil {
		return detail, nil
	}
	detail, errWritable := anyOf([]string{"/proc/sys", "/proc/irq", "/proc", "/usr", "/etc", "/dev", "/"}, func(at string) (string, error) {
		if err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
			if e := unix.Mount("", at, "", unix.MS_REMOUNT, ""); e != nil {
				return "", err
			}
		}
		return "mounted again, writable", nil
	})
	if errWritable == nil {
		return detail, nil
	}
	return "", fmt.Errorf("%w; %w", errOff, errWritable)
}

// replaced puts a link in place of a name, in each way, and looks whether it is
// there.
func replaced(path string) (string, error) {
	return inTemp(func(dir string) (string, error) {
		link := filepath.Join(dir, "link")
		if err := os.Symlink("/proc/sys/kernel/core_pattern", link); err != nil {
			return "", err
		}
		return anyWay(
			way{"unlink", func() error { return unix.Unlink(path) }},
			way{"rename from", func() error { return unix.Rename(path, path+"-old") }},
			way{"rename to", func() error { return unix.Rename(link, path) }},
			way{"exchange", func() error {
				return unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
			}},
			way{"symlink", func() error { return unix.Symlink("/proc/sys/kernel/core_pattern", path) }},
			way{"bind", func() error { return unix.Mount(link, path, "", unix.MS_BIND, "") }},
		)
	})
}

// What masks are made of: whoever replaces it has the next mask lead elsewhere.
// And each mask is what it is to be: the kernel's null device, or nothing.
func replaceNodes([]string) (string, error) {
	if detail, err := anyOf(maskedNames, func(n string) (string, error) {
		var st unix.Stat_t
		if err := unix.Lstat("/proc/"+n, &st); err != nil {
			return "", err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
			if st.Rdev == unix.Mkdev(1, 3) {
				return "", errEmpty
			}
		case unix.S_IFDIR:
			if _, err := content("/proc/" + n); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("mode %o, device %#x", st.Mode, st.Rdev), nil
	}); err == nil {
		return detail, nil
	}
	return anyOf([]string{"/dev/null", "/dev/zero", "/proc/interrupts", "/proc/keys", "/proc/timer_list", "/proc/acpi"}, func(path string) (string, error) {
		// The mode that it has: nothing changes where it gets through.
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && (unix.Chmod(path, st.Mode&0o7777) == nil || unix.Lchown(path, int(st.Uid), int(st.Gid)) == nil) {
			return "changed its mode", nil
		}
		return replaced(path)
	})
}

// Where a terminal would be mounted.
func replaceTerminals([]string) (string, error) {
	return anyOf([]string{"/dev/console", "/dev/ptmx", "/dev/pts/ptmx", "/dev/pts/0", "/dev/tty", "/dev/stdin", "/dev/fd"}, replaced)
}

// writableNodes has a folder that everybody may write to for /dev.
func writableNodes(t *testing.T, _ *world) []container.Option {
	t.Helper()
	dir := open777(t)
	for _, n := range []string{"null", "console"} {
		f := filepath.Join(dir, n)
		require.NoError(t, os.WriteFile(f, nil, 0o600))
	}
	return []container.Option{container.WithMounts(rootfs.Bind(dir, "/dev"))}
}

// A /proc, or a part of it, that the kernel did not make takes what programs write
// to it, labels among that.
func fakeProc([]string) (string, error) {
	runtime.LockOSThread()
	return anyOf([]string{"/proc", "/proc/self", "/proc/self/attr", "/proc/thread-self/attr", "/proc/self/attr/exec", "/proc/self/fd", "/proc/sys", "/proc/sys/kernel", "/proc/self/task", "/proc/net"}, func(path string) (string, error) {
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err != nil {
			return "", err
		}
		if fs.Type == unix.PROC_SUPER_MAGIC {
			return "", errors.New("the kernel's")
		}
		return fmt.Sprintf("a file system of type %#x", fs.Type), nil
	})
}

// The names of what the host's processes share.
func readIPCNames(args []string) (string, error) {
	return anyOf([]string{"/proc/sysvipc/shm", "/dev/mqueue"}, func(path string) (string, error) {
		if entries, err := os.ReadDir(path); err == nil {
			for _, e := range entries {
				if e.Name() == args[1] {
					return "the queue's name", nil
				}
			}
			return "", errOther
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if !slices.Contains(strings.Fields(string(text)), args[0]) {
			return "", errOther
		}
		return "the segment's key", nil
	})
}

func readHostname(args []string) (string, error) {
	return anyOf([]string{"/proc/sys/kernel/hostname", "/etc/hostname"}, func(path string) (string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return "", err
		}
		if strings.TrimSpace(string(text)) != args[0] && unix.ByteSliceToString(u.Nodename[:]) != args[0] {
			return "", errOther
		}
		return "the host's name", nil
	})
}
