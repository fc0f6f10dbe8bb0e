package security

import (
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// strictCalls is what programs in C, C++, Go, Rust, Java, Python and JavaScript need
// for files, memory, threads, children, time and talking to each other.
const strictCalls = `
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek
open openat openat2 creat close close_range dup dup2 dup3 fcntl flock
stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2
getdents getdents64 getcwd chdir fchdir umask
mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat readlink readlinkat
unlink unlinkat rename renameat renameat2
chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat
truncate ftruncate fallocate fadvise64 readahead fsync fdatasync sync_file_range syncfs
getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr
removexattr lremovexattr fremovexattr
sendfile copy_file_range splice tee vmsplice pipe pipe2
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch memfd_create

brk mmap munmap mprotect mremap madvise msync mincore mlock mlock2 munlock mlockall munlockall
pkey_alloc pkey_free pkey_mprotect membarrier map_shadow_stack mseal cachestat

fork vfork execve execveat exit exit_group wait4 waitid
getpid getppid gettid getpgid getpgrp setpgid getsid setsid
kill tkill tgkill pidfd_open pidfd_send_signal
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend
rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack pause restart_syscall
futex futex_waitv futex_wait futex_wake futex_requeue set_tid_address set_robust_list get_robust_list
rseq getcpu arch_prctl prctl uretprobe uprobe
sched_yield sched_getaffinity sched_setaffinity sched_getscheduler sched_setscheduler
sched_getparam sched_setparam sched_getattr sched_setattr
sched_get_priority_max sched_get_priority_min sched_rr_get_interval
getpriority setpriority ioprio_get ioprio_set
getrlimit setrlimit prlimit64 getrusage times sysinfo uname getrandom
capget capset getuid geteuid getgid getegid getresuid getresgid getgroups
setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid
landlock_create_ruleset landlock_add_rule landlock_restrict_self

clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
alarm getitimer setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete

bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown
sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg
`

const (
	low                = 0xffffffff // what the kernel takes of an int argument
	afUnix             = 1
	tiocsti, tioclinux = 0x5412, 0x541c
)

var noFamily = uint(97) // EAFNOSUPPORT

// is compares an argument that the kernel takes 32 bits of.
func is(index uint, value uint64) []specs.LinuxSeccompArg {
	return []specs.LinuxSeccompArg{{Index: index, Value: low, ValueTwo: value, Op: specs.OpMaskedEqual}}
}

// refusedFirst is what no profile of ours allows.
var refusedFirst = []specs.LinuxSyscall{
	// They put words into the mouth of whoever has the terminal.
	{Names: []string{"ioctl"}, Action: specs.ActErrno, Args: is(1, tiocsti)},
	{Names: []string{"ioctl"}, Action: specs.ActErrno, Args: is(1, tioclinux)},
}

// Strict is a profile for programs of strangers that compute, as a judge runs them:
// files, memory, threads and children, and sockets of AF_UNIX alone. No network, no
// namespaces or mounts, no keyrings, no tracing, none of bpf, perf, io_uring,
// userfaultfd, SysV IPC and message queues. What it leaves out is answered EPERM,
// other sockets EAFNOSUPPORT, clone3(2) and what is newer ENOSYS.
func Strict() *Seccomp { return strict() }

var strict = sync.OnceValue(func() *Seccomp {
	const (
		newNamespaces   = 0x7e020000
		noRandomization = 0x0040000 // what debuggers and some language systems ask for
	)
	answer := uint(enosys)
	p := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Syscalls: append(slices.Clone(refusedFirst), []specs.LinuxSyscall{
			{Names: strings.Fields(strictCalls), Action: specs.ActAllow},
			{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: newNamespaces, Op: specs.OpMaskedEqual}}},
			// Its flags are behind a pointer.
			{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &answer},
			{Names: []string{"socket", "socketpair"}, Action: specs.ActAllow, Args: is(0, afUnix)},
			{Names: []string{"socket", "socketpair"}, Action: specs.ActErrno, ErrnoRet: &noFamily},
			{Names: []string{"ioctl"}, Action: specs.ActAllow},
			{Names: []string{"personality"}, Action: specs.ActAllow, Args: is(0, 0)},
			{Names: []string{"personality"}, Action: specs.ActAllow, Args: is(0, low)},
			{Names: []string{"personality"}, Action: specs.ActAllow, Args: is(0, noRandomization)},
		}...),
	}
	s, err := NewSeccomp(p)
	if err != nil {
		panic("inlay: bug: " + err.Error())
	}
	s.name = "strict"
	return s
})
