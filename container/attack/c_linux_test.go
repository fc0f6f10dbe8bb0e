package attack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/security"
)

// Options of proofs: capabilities with all system calls.
func withCapabilities(names ...string) []container.Option {
	return []container.Option{container.WithCapabilities(names...), container.WithSeccomp(security.Unconfined())}
}

// What a kernel or this user must have for an attack to succeed anywhere. Each asks for
// the feature itself, in a form that changes nothing.

// answers tells whether a system call, with arguments that it refuses, is there at all.
func answers(name string, nr uintptr, args ...uintptr) func() error {
	return func() error {
		var a [5]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], 0); errno == unix.ENOSYS {
			return fmt.Errorf("%s: %w", name, errno)
		}
		return nil
	}
}

// onAMD64 is for what other processors do not have.
func onAMD64(more ...func() error) func() error {
	return func() error {
		if runtime.GOARCH != "amd64" {
			return errors.New("amd64")
		}
		return all(more...)()
	}
}

func all(list ...func() error) func() error {
	return func() error {
		var errs []error
		for _, f := range list {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
}

func socketFamily(family, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		if errors.Is(err, unix.EPERM) {
			return nil // it is there, for whoever has the capability
		}
		if err != nil {
			return fmt.Errorf("sockets of family %d: %w", family, err)
		}
		closing(fd)
		return nil
	}
}

func file(name string) func() error {
	return func() error {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
}

// setting reads a number of the kernel's that may be no greater than most; without the
// file nothing is restricted.
func setting(name string, most int) func() error {
	return func() error {
		text, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return err
		}
		if n > most && (os.Geteuid() != 0 || name == "kernel/io_uring_disabled") {
			return fmt.Errorf("%s is %d", name, n)
		}
		return nil
	}
}

// capability is one that even root may be without.
func capability(name string, bit int) func() error {
	return func() error {
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var d [2]unix.CapUserData
		if err := unix.Capget(&h, &d[0]); err != nil {
			return err
		}
		if d[bit/32].Effective&(1<<(bit%32)) == 0 {
			return fmt.Errorf("%s", name)
		}
		return nil
	}
}

// onDisk: what tests make lies on a disk, and on one whose root is number 2.
func onDisk() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &fs); err != nil {
		return err
	}
	var dir, root unix.Stat_t
	if err := errors.Join(unix.Stat(os.TempDir(), &dir), unix.Stat("/", &root)); err != nil {
		return err
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC || dir.Dev != root.Dev {
		return fmt.Errorf("%s on the root's ext4", os.TempDir())
	}
	return nil
}

// notEmulated: a task's event has the kernel patch its scheduler while that runs, which
// QEMU's emulation of processors does not always survive.
func notEmulated() error {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(text), "QEMU TCG") {
		return errors.New("a processor that is not emulated")
	}
	return nil
}

// notRoot: for what only another user gains by.
func notRoot() error {
	if os.Geteuid() == 0 {
		return errors.New("an ordinary user: root has what it gains")
	}
	return file("/usr/bin/su")()
}

var (
	ioUring = all(answers("io_uring_setup", unix.SYS_IO_URING_SETUP), setting("kernel/io_uring_disabled", 0))
	keys    = answers("keyctl", unix.SYS_KEYCTL, ^uintptr(0))
	traces  = setting("kernel/yama/ptrace_scope", 0)
	vsocks  = socketFamily(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	loadsIt = file("/proc/modules")
	kexecs  = file("/sys/kernel/kexec_loaded")
	x32     = func() error {
		if _, _, errno := unix.RawSyscall(0x40000000|39, 0, 0, 0); errno != 0 { // getpid
			return fmt.Errorf("x32: %w", errno)
		}
		return nil
	}
)

const (
	sysIOPL, sysIOPERM, sysSysfs = 172, 173, 139 // of amd64
	capSysResource               = 24
	nfnetlink                    = 12
)

// secret is what most attacks look for.
const secret = "{secret}"

// attacksInC are those of testdata/*.c.
var attacksInC = []attack{
	// files.c
	{name: "read-canary", class: "the host's files", c: true, args: []string{"{canary}", secret}, proof: bare},
	{name: "shocker", class: "open_by_handle_at, the shocker escape", c: true, args: []string{"{canary}", secret}, proof: bareRoot, needs: onDisk},
	{name: "mknod-disk", class: "device nodes: the disk", c: true, args: []string{"{dev}"}, proofArgs: []string{"{dev}", "{dir}"}, proof: bareVM, needs: onDisk},
	{name: "mknod-kmsg", class: "device nodes: the kernel's log", c: true, proofArgs: []string{"{dir}"}, proof: bareRoot},
	{name: "fanotify", class: "kernel doors: fanotify", c: true, proof: bareRoot},
	{name: "leaked-descriptors", class: "CVE-2024-21626, CVE-2016-9962", c: true, args: []string{"{canary}", secret}, proofArgs: []string{"{canary}", secret, "{dir}"}, proof: bare},
	{name: "open-descriptors", class: "CVE-2024-21626", c: true, proofArgs: []string{"/"}, proof: bare},
	{name: "own-program", class: "CVE-2019-5736", c: true, args: []string{shownC}, proofArgs: []string{"{canary}"}, proof: bare},

	// kernel.c
	{name: "bpf", class: "kernel doors: bpf", c: true, proof: bareRoot},
	{name: "bpf-program", class: "kernel doors: bpf; CVE-2020-8835, CVE-2021-3490", c: true, proof: bareRoot},
	{name: "perf-event", class: "kernel doors: perf; CVE-2013-2094", c: true, proof: bare, needs: all(setting("kernel/perf_event_paranoid", 2), notEmulated)},
	{name: "perf-event-cpu", class: "kernel doors: perf", c: true, proof: bareRoot},
	{name: "userfaultfd", class: "kernel doors: userfaultfd, which widens races", c: true, proof: bare, needs: answers("userfaultfd", unix.SYS_USERFAULTFD, ^uintptr(0))},
	{name: "io-uring", class: "kernel doors: io_uring; CVE-2022-29582, CVE-2023-2598", c: true, proof: bare, needs: ioUring},
	{name: "io-uring-open", class: "io_uring around a filter of system calls", c: true, args: []string{"{canary}", secret}, proof: bare, needs: ioUring},
	{name: "io-uring-connect", class: "io_uring around a filter of system calls", c: true, args: []string{"{port}", secret}, proof: bare, needs: ioUring},
	{name: "kexec-load", class: "kernel doors: kexec", c: true, proof: bareVM, needs: onAMD64(kexecs)},
	{name: "kexec-file-load", class: "kernel doors: kexec", c: true, proof: bareVM, needs: kexecs},
	{name: "init-module", class: "kernel doors: modules", c: true, proof: bareVM, needs: loadsIt},
	{name: "finit-module", class: "kernel doors: modules", c: true, proof: bareVM, needs: loadsIt},
	{name: "delete-module", class: "kernel doors: modules", c: true, proof: bareVM, needs: loadsIt},
	{name: "quotactl", class: "kernel doors: quotas", c: true, proof: bare, needs: answers("quotactl", unix.SYS_QUOTACTL, ^uintptr(0))},
	{name: "swapon", class: "the machine: swap", c: true, args: []string{"{dir}"}, proof: bareVM, needs: onDisk},
	{name: "acct", class: "the machine: accounting", c: true, args: []string{"{dir}"}, proof: bareVM, needs: onDisk},
	{name: "settimeofday", class: "the machine: clocks", c: true, proof: bareVM},
	{name: "clock-settime", class: "the machine: clocks", c: true, proof: bareVM},
	{name: "adjtimex", class: "the machine: clocks", c: true, proof: bareVM},
	{name: "reboot", class: "the machine: its end", c: true, proof: bareVM},
	{name: "syslog", class: "the machine: its log, which has addresses of the kernel", c: true, proof: bareRoot},
	{name: "sethostname", class: "the machine: its name", c: true, proof: bareVM},
	{name: "iopl", class: "the machine: ports", c: true, proof: bareRoot, needs: onAMD64(answers("iopl", sysIOPL, 4))},
	{name: "ioperm", class: "the machine: ports", c: true, proof: bareRoot, needs: onAMD64(answers("ioperm", sysIOPERM, ^uintptr(0)))},
	{name: "sysfs", class: "kernel doors: calls of old", c: true, proof: bare, needs: onAMD64(answers("sysfs", sysSysfs, 99))},
	{name: "key-user", class: "keyrings; CVE-2016-0728", c: true, proof: bare, needs: keys},
	{name: "key-session", class: "keyrings", c: true, proof: bare, needs: keys},
	{name: "key-request", class: "keyrings: an upcall as the host's root", c: true, proof: bare, needs: keys},
	{name: "key-persistent", class: "keyrings", c: true, proof: bare, needs: file("/proc/sys/kernel/keys/persistent_keyring_expiry")},
	{name: "int80-socket", class: "around a filter of system calls: i386", c: true, proof: bare, killed: true, needs: onAMD64(vsocks)},
	{name: "int80-unshare", class: "around a filter of system calls: i386", c: true, proof: bare, killed: true, needs: onAMD64()},
	{name: "int80-keyctl", class: "around a filter of system calls: i386", c: true, proof: bare, killed: true, needs: onAMD64(keys)},
	{name: "x32-unshare", class: "around a filter of system calls: x32", c: true, proof: bare, killed: true, needs: onAMD64(x32)},
	{name: "socket-high-bits", class: "around a filter of system calls: arguments of 64 bits", c: true, proof: bare, needs: vsocks},
	{name: "clone-high-bits", class: "around a filter of system calls: arguments of 64 bits", c: true, proof: bare},
	{name: "tiocsti", class: "CVE-2016-2568, CVE-2017-5226: TIOCSTI", c: true, proof: bare, needs: legacyTIOCSTI},
	{name: "tiocsti-high-bits", class: "CVE-2019-10063: TIOCSTI by 64 bits", c: true, proof: bare, needs: legacyTIOCSTI},
	{name: "tioclinux", class: "CVE-2023-28100: TIOCLINUX", c: true, proof: bareRoot, needs: file("/dev/tty1")},
	{name: "vhangup", class: "terminals", c: true, proof: bareRoot},
	{name: "suspend-seccomp", class: "around a filter of system calls: PTRACE_O_SUSPEND_SECCOMP", c: true, proof: bareRoot},
	{name: "rewritten-call", class: "around a filter of system calls: a tracer, before Linux 4.8", c: true, proof: bare, needs: onAMD64(traces)},
	{name: "lenient-filter", class: "around a filter of system calls: another", c: true, proof: bare},

	// namespaces.c
	{name: "unshare-user", class: "namespaces", c: true, proof: bare},
	{name: "unshare-mount", class: "namespaces", c: true, proof: bareRoot},
	{name: "unshare-pid", class: "namespaces", c: true, proof: bareRoot},
	{name: "unshare-net", class: "namespaces", c: true, proof: bareRoot},
	{name: "unshare-ipc", class: "namespaces", c: true, proof: bareRoot},
	{name: "unshare-uts", class: "namespaces", c: true, proof: bareRoot},
	{name: "unshare-cgroup", class: "namespaces", c: true, proof: bareRoot},
	{name: "unshare-time", class: "namespaces", c: true, proof: bareRoot, needs: file("/proc/self/ns/time")},
	{name: "clone-user", class: "namespaces", c: true, proof: bare},
	{name: "clone3-user", class: "namespaces, with the flags out of a filter's sight", c: true, proof: bare},
	{name: "nested-mount", class: "user namespaces: mounts", c: true, proof: bare},
	{name: "nested-fsopen", class: "CVE-2022-0185", c: true, proof: bare},
	{name: "nested-overlay", class: "CVE-2021-3493, CVE-2023-0386", c: true, proof: bare, needs: fileSystem("overlay")},
	{name: "nested-nftables", class: "CVE-2022-32250, CVE-2023-32233, CVE-2024-1086", c: true, proof: bare, needs: socketFamily(unix.AF_NETLINK, unix.SOCK_RAW, nfnetlink)},
	{name: "nested-packet", class: "CVE-2016-8655, CVE-2017-7308, CVE-2020-14386", c: true, proof: bare},
	{name: "nftables", class: "the network's rules", c: true, proof: opened, open: withCapabilities("CAP_NET_ADMIN"), needs: socketFamily(unix.AF_NETLINK, unix.SOCK_RAW, nfnetlink)},
	{name: "setns-victim", class: "namespaces of others", c: true, args: []string{"{pid}"}, proof: bareRoot},
	{name: "setns-init", class: "namespaces of others", c: true, args: []string{"1"}, proofArgs: []string{"{pid}"}, proof: bareRoot},
	{name: "release-agent", class: "CVE-2022-0492", c: true, proof: bareVM},

	// mounts.c
	{name: "mount-tmpfs", class: "mounts", c: true, proof: opened, open: withCapabilities("CAP_SYS_ADMIN")},
	{name: "mount-proc", class: "mounts: /proc without masks", c: true, proof: bareRoot},
	{name: "mount-sysfs", class: "mounts: /sys", c: true, proof: bareRoot},
	{name: "mount-cgroup", class: "mounts: control groups", c: true, proof: bareRoot},
	{name: "fsopen-tmpfs", class: "mounts", c: true, proof: opened, open: withCapabilities("CAP_SYS_ADMIN")},
	{name: "fsopen-proc", class: "mounts: /proc without masks", c: true, proof: bareRoot},
	{name: "open-tree-masked", class: "mounts: masks", c: true, proof: opened, open: withCapabilities("CAP_SYS_ADMIN")},
	{name: "unmount-masks", class: "mounts: masks", c: true, proof: opened, open: withCapabilities("CAP_SYS_ADMIN")},
	{name: "remount", class: "mounts: read-only", c: true, args: []string{"/usr"}, proofArgs: []string{"{dir}", "{dir}"}, proof: bareRoot},
	{name: "mount-setattr", class: "mounts: read-only", c: true, args: []string{"/usr"}, proofArgs: []string{"{dir}", "{dir}"}, proof: bareRoot},
	{name: "mount-cover", class: "mounts: over programs", c: true, proof: opened, open: withCapabilities("CAP_SYS_ADMIN")},
	{name: "pivot-root", class: "mounts: another root", c: true, proof: opened, open: withCapabilities("CAP_SYS_ADMIN")},
	{name: "chroot-escape", class: "chroot(2)", c: true, args: []string{"{canary}", secret}, proof: bareRoot},

	// processes.c
	{name: "ptrace-victim", class: "processes: tracing", c: true, args: []string{"{pid}", secret}, proof: bare, needs: traces},
	{name: "ptrace-init", class: "CVE-2016-9962", c: true, args: []string{"1", secret}, proofArgs: []string{"{pid}", secret}, proof: bare, needs: traces},
	{name: "process-vm-readv", class: "processes: memory", c: true, args: []string{"{pid}", secret}, proof: bare, needs: traces},
	{name: "process-vm-readv-init", class: "processes: memory of init", c: true, args: []string{"1", secret}, proofArgs: []string{"{pid}", secret}, proof: bare, needs: traces},
	{name: "mem-init", class: "processes: memory of init", c: true, args: []string{"1", secret}, proofArgs: []string{"{pid}", secret}, proof: bare, needs: traces},
	{name: "pidfd-getfd", class: "processes: descriptors", c: true, args: []string{"{pid}"}, proof: bare, needs: traces},
	{name: "pidfd-getfd-init", class: "processes: descriptors of init", c: true, args: []string{"1"}, proofArgs: []string{"{pid}"}, proof: bare, needs: traces},
	{name: "kcmp", class: "processes: kcmp", c: true, args: []string{"{pid}"}, proof: bare, needs: answers("kcmp", unix.SYS_KCMP, 0, 0, ^uintptr(0))},
	{name: "kcmp-init", class: "processes: kcmp", c: true, args: []string{"1"}, proofArgs: []string{"{pid}"}, proof: bare, needs: answers("kcmp", unix.SYS_KCMP, 0, 0, ^uintptr(0))},
	{name: "move-pages", class: "processes: memory", c: true, args: []string{"{pid}"}, proof: bare, needs: answers("move_pages", unix.SYS_MOVE_PAGES, 0, 0, 0, 0, 0)},
	{name: "robust-list", class: "processes: memory", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "prlimit-victim", class: "processes: limits", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "prlimit-init", class: "processes: limits of init", c: true, args: []string{"1"}, proofArgs: []string{"{pid}"}, proof: bare},
	{name: "priority-victim", class: "processes: priority", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "affinity-victim", class: "processes: processors", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "affinity-init", class: "processes: processors of init", c: true, args: []string{"1"}, proofArgs: []string{"{pid}"}, proof: bare},
	{name: "kill", class: "processes: signals", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "tgkill", class: "processes: signals", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "sigqueue", class: "processes: signals", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "pidfd-signal", class: "processes: signals", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "signal-owner", class: "processes: signals", c: true, args: []string{"{pid}"}, proof: bare},
	{name: "init-exe", class: "CVE-2019-5736", c: true, args: []string{"1"}, proofArgs: []string{"{pid}"}, proof: bare},
	{name: "init-folders", class: "CVE-2024-21626, CVE-2016-9962", c: true, args: []string{"1"}, proofArgs: []string{"{pid}"}, proof: bare},
	{name: "init-environ", class: "the host program's environment", c: true, args: []string{"1", secret}, proofArgs: []string{"{pid}", secret}, proof: bare},
	{name: "realtime", class: "the machine: processors", c: true, proof: bareRoot},
	{name: "priority", class: "the machine: processors", c: true, proof: bareRoot},
	{name: "io-priority", class: "the machine: disks", c: true, proof: bareRoot},
	{name: "mlock", class: "limits", c: true, proof: bareRoot},
	{name: "rlimits", class: "limits", c: true, proof: bareRoot, needs: capability("CAP_SYS_RESOURCE", capSysResource)},

	// privileges.c
	{name: "capset", class: "capabilities", c: true, proof: bareRoot},
	{name: "ambient", class: "CVE-2022-24769: capabilities", c: true, proof: bareRoot},
	{name: "bounding-set", class: "capabilities", c: true, proof: bare},
	{name: "securebits", class: "capabilities", c: true, proof: bareRoot},
	{name: "setresuid", class: "ids", c: true, proof: bareRoot},
	{name: "setresgid", class: "ids", c: true, proof: bareRoot},
	{name: "setgroups", class: "CVE-2022-2995: groups", c: true, proof: bareRoot},
	{name: "setfsuid", class: "ids", c: true, proof: bareRoot},
	{name: "chown", class: "ids", c: true, proofArgs: []string{"{dir}"}, proof: bareRoot},
	{name: "file-capabilities", class: "capabilities of files", c: true, proofArgs: []string{"{dir}"}, proof: bareRoot},
	{name: "set-user-id", class: "set-user-ID programs", c: true, proofArgs: []string{"{dir}"}, proof: bareRoot},
	{name: "set-user-id-host", class: "set-user-ID programs; CVE-2021-4034", c: true, proof: bare, needs: notRoot},
	{name: "set-mm", class: "kernel doors: PR_SET_MM", c: true, proof: bareRoot, needs: capability("CAP_SYS_RESOURCE", capSysResource)},

	// network.c
	{name: "vsock", class: "sockets that no namespace holds", c: true, proof: bare, needs: vsocks},
	{name: "alg", class: "sockets that no namespace holds", c: true, proof: bare, needs: socketFamily(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
	{name: "packet", class: "raw sockets", c: true, proof: opened, open: []container.Option{container.WithCapabilities("CAP_NET_RAW")}},
	{name: "xdp", class: "raw sockets", c: true, proof: opened, open: withCapabilities("CAP_NET_RAW"), needs: file("/proc/sys/net/core/bpf_jit_enable")},
	{name: "socket-modules", class: "the machine: modules that it loads for whoever asks; CVE-2010-3904, CVE-2021-43267", c: true, proof: bareVM, needs: loadsIt, once: true},
	{name: "af-key", class: "raw sockets; CVE-2022-1353", c: true, proof: opened, open: withCapabilities("CAP_NET_ADMIN"), needs: socketFamily(unix.AF_KEY, unix.SOCK_RAW, 2)},
	{name: "raw", class: "raw sockets", c: true, proof: opened, open: []container.Option{container.WithCapabilities("CAP_NET_RAW")}},
	{name: "audit", class: "the machine: audit", c: true, proof: bareRoot, needs: socketFamily(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT)},
	{name: "sock-diag", class: "the host's network", c: true, args: []string{"{port}"}, proof: bare},
	{name: "set-address", class: "the network's addresses", c: true, proof: opened, open: []container.Option{container.WithCapabilities("CAP_NET_ADMIN")}},
	{name: "tcp", class: "the host's network", c: true, args: []string{"{port}", secret}, proof: bare},
	{name: "abstract", class: "CVE-2020-15257", c: true, args: []string{"{abstract}", secret}, proof: bare},
	{name: "named-socket", class: "sockets of the host's", c: true, args: []string{"{socket}", secret}, proof: bare},
	{name: "mqueue", class: "System V and POSIX", c: true, args: []string{"{queue}", secret}, proof: bare},
	{name: "shm-id", class: "System V and POSIX", c: true, args: []string{"{shm}", secret}, proof: bare},
	{name: "shm-key", class: "System V and POSIX", c: true, args: []string{"{shmkey}", secret}, proof: bare},
}

// legacyTIOCSTI: from Linux 6.2 on the command may be off for all but root.
func legacyTIOCSTI() error {
	text, err := os.ReadFile("/proc/sys/dev/tty/legacy_tiocsti")
	if err == nil && strings.TrimSpace(string(text)) == "0" && os.Geteuid() != 0 {
		return errors.New("dev.tty.legacy_tiocsti: it is 0")
	}
	return nil
}

// fileSystem is one that the kernel has.
func fileSystem(name string) func() error {
	return func() error {
		text, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			return err
		}
		if !strings.Contains(string(text), "\t"+name+"\n") {
			return fmt.Errorf("file system %s", name)
		}
		return nil
	}
}
