// Attacks by calls that concern the whole kernel, and on the filter of system calls.
#include "attack.h"
#include <elf.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/kexec.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <sys/klog.h>
#include <sys/ptrace.h>
#include <sys/quota.h>
#include <sys/reboot.h>
#include <sys/swap.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/user.h>
#ifdef __x86_64__
#include <sys/io.h>
#endif

static void bpf(char **arg) {
	uint32_t key = 0;
	uint64_t in = 0x5ec2e7, out = 0;
	union bpf_attr make = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
	int map = syscall(SYS_bpf, BPF_MAP_CREATE, &make, sizeof make);
	if (map < 0)
		held("bpf BPF_MAP_CREATE");
	union bpf_attr set = {.map_fd = map, .key = (uintptr_t)&key, .value = (uintptr_t)&in};
	union bpf_attr get = {.map_fd = map, .key = (uintptr_t)&key, .value = (uintptr_t)&out};
	if (syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &set, sizeof set) || syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &get, sizeof get) || in != out)
		held("bpf of an element");
	escaped("a BPF map holds what was put in");
}

static void bpf_program(char **arg) {
	int pair[2];
	struct bpf_insn zero[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0}, {.code = BPF_JMP | BPF_EXIT}};
	union bpf_attr load = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (uintptr_t)zero, .insn_cnt = countof(zero), .license = (uintptr_t) "GPL"};
	int prog = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
	if (prog < 0)
		held("bpf BPF_PROG_LOAD");
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) || setsockopt(pair[0], SOL_SOCKET, SO_ATTACH_BPF, &prog, sizeof prog))
		held("SO_ATTACH_BPF");
	escaped("the kernel runs a BPF program");
}

static void count_events(uint64_t config, int pid, int cpu, const char *what) {
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = config, .exclude_kernel = pid == 0, .exclude_hv = 1};
	uint64_t count = 0;
	int fd = syscall(SYS_perf_event_open, &attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		held("perf_event_open");
	for (volatile int i = 0; i < 10000000; i++)
		;
	if (read(fd, &count, sizeof count) != sizeof count || !count)
		held("read of the count");
	escaped("perf counts %s: %llu", what, (unsigned long long)count);
}

static void perf(char **arg) { count_events(PERF_COUNT_SW_TASK_CLOCK, 0, -1, "this process"); }

static void perf_cpu(char **arg) { count_events(PERF_COUNT_SW_CPU_CLOCK, -1, 0, "the whole processor"); }

static void userfaultfd(char **arg) {
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0 && errno == EINVAL) // before Linux 5.11 there is no such mode
		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		refused("userfaultfd");
		int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		if (dev < 0) {
			refused("open /dev/userfaultfd");
			all_refused();
		}
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		if (fd < 0)
			held("USERFAULTFD_IOC_NEW");
	}
	long size = sysconf(_SC_PAGESIZE);
	char *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *from = malloc(size);
	memset(from, 'x', size);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register watch = {.range = {(uintptr_t)page, size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	struct uffdio_copy fill = {.dst = (uintptr_t)page, .src = (uintptr_t)from, .len = size};
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &watch) || ioctl(fd, UFFDIO_COPY, &fill) || page[size - 1] != 'x')
		held("userfaultfd's ioctl");
	escaped("page faults are handled by this process");
}

// --- io_uring ----------------------------------------------------------------------
static struct {
	int fd;
	char *rings;
	struct io_uring_sqe *entries;
	struct io_uring_params p;
} ring;

static void ring_open(void) {
	ring.fd = syscall(SYS_io_uring_setup, 4, &ring.p);
	if (ring.fd < 0)
		held("io_uring_setup");
	size_t size = ring.p.sq_off.array + ring.p.sq_entries * sizeof(uint32_t), completions = ring.p.cq_off.cqes + ring.p.cq_entries * sizeof(struct io_uring_cqe);
	if (completions > size)
		size = completions;
	ring.rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	ring.entries = mmap(NULL, ring.p.sq_entries * sizeof *ring.entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES);
	if (ring.rings == MAP_FAILED || ring.entries == MAP_FAILED)
		held("mmap of io_uring");
}

// ring_do has the kernel do one thing and returns its result, which is -errno.
static int ring_do(struct io_uring_sqe *e) {
	unsigned *tail = (void *)(ring.rings + ring.p.sq_off.tail), *mask = (void *)(ring.rings + ring.p.sq_off.ring_mask), *array = (void *)(ring.rings + ring.p.sq_off.array);
	unsigned *head = (void *)(ring.rings + ring.p.cq_off.head), *cmask = (void *)(ring.rings + ring.p.cq_off.ring_mask);
	struct io_uring_cqe *done = (void *)(ring.rings + ring.p.cq_off.cqes);
	ring.entries[0] = *e;
	array[*tail & *mask] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		held("io_uring_enter");
	int res = done[*head & *cmask].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	if (res < 0)
		errno = -res;
	return res;
}

static void io_uring(char **arg) {
	ring_open();
	struct io_uring_sqe nop = {.opcode = IORING_OP_NOP};
	if (ring_do(&nop) < 0)
		held("IORING_OP_NOP");
	escaped("io_uring does what it is asked for");
}

// A filter of system calls sees nothing of what a ring does.
static void io_uring_open(char **arg) {
	char text[256] = "";
	ring_open();
	struct io_uring_sqe open = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)arg[0]};
	int fd = ring_do(&open);
	if (fd < 0)
		held("IORING_OP_OPENAT");
	struct io_uring_sqe read = {.opcode = IORING_OP_READ, .fd = fd, .addr = (uintptr_t)text, .len = sizeof text - 1};
	if (ring_do(&read) < 0)
		held("IORING_OP_READ");
	if (strcmp(text, arg[1]))
		contained("another file");
	escaped("read %s by io_uring", arg[0]);
}

static void io_uring_connect(char **arg) {
	char text[256] = "";
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arg[0])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	ring_open();
	struct io_uring_sqe make = {.opcode = 45 /* IORING_OP_SOCKET */, .fd = AF_INET, .off = SOCK_STREAM};
	int fd = ring_do(&make);
	if (fd < 0) {
		refused("IORING_OP_SOCKET"); // Linux 5.19
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0)
			held("socket");
	}
	struct io_uring_sqe connect = {.opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uintptr_t)&to, .off = sizeof to};
	if (ring_do(&connect) < 0)
		held("IORING_OP_CONNECT");
	struct io_uring_sqe receive = {.opcode = IORING_OP_RECV, .fd = fd, .addr = (uintptr_t)text, .len = sizeof text - 1};
	if (ring_do(&receive) < 0)
		held("IORING_OP_RECV");
	if (strcmp(text, arg[1]))
		contained("somebody else answers");
	escaped("connected to the host's port by io_uring");
}

// --- the machine -------------------------------------------------------------------
static void kexec_load(char **arg) {
	static char code[4096];
	struct kexec_segment one = {.buf = code, .bufsz = sizeof code, .mem = (void *)0x1000000, .memsz = sizeof code};
	if (syscall(SYS_kexec_load, 0x1000000UL, 1UL, &one, KEXEC_ARCH_DEFAULT))
		held("kexec_load");
	syscall(SYS_kexec_load, 0UL, 0UL, NULL, KEXEC_ARCH_DEFAULT);
	escaped("loaded the next kernel");
}

static void kexec_file_load(char **arg) {
	int fd = open("/proc/self/exe", O_RDONLY);
	if (!syscall(SYS_kexec_file_load, fd, -1, 1UL, "", 4UL /* KEXEC_FILE_NO_INITRAMFS */) || errno == ENOEXEC)
		escaped("the kernel takes a file as the next kernel, and looks at it");
	held("kexec_file_load");
}

static void init_module(char **arg) {
	static char image[4096] = "\177ELF";
	if (!syscall(SYS_init_module, image, sizeof image, "") || errno == ENOEXEC)
		escaped("the kernel takes memory as a module, and looks at it");
	held("init_module");
}

static void finit_module(char **arg) {
	int fd = open("/proc/self/exe", O_RDONLY);
	if (!syscall(SYS_finit_module, fd, "", 0) || errno == ENOEXEC)
		escaped("the kernel takes a file as a module, and looks at it");
	held("finit_module");
}

static void delete_module(char **arg) {
	if (!syscall(SYS_delete_module, "inlay_attack", O_NONBLOCK) || errno == ENOENT)
		escaped("the kernel looks for the module to remove");
	held("delete_module");
}

static void quotactl_sync(char **arg) {
	if (quotactl(QCMD(Q_SYNC, USRQUOTA), NULL, 0, NULL))
		held("quotactl Q_SYNC");
	escaped("wrote the quotas of all file systems");
}

static void swap(char **arg) {
	static char block[1 << 20];
	char path[256], text[4096] = "";
	int fd = scratch(arg[0], path), list;
	memcpy(block + 1024, &(uint32_t[3]){1, sizeof block / 4096 - 1, 0}, 12);
	memcpy(block + 4096 - 10, "SWAPSPACE2", 10);
	if (write(fd, block, sizeof block) != sizeof block || fsync(fd))
		held("write");
	int failed = swapon(path, 0), why = errno;
	if (!failed) {
		list = open("/proc/swaps", O_RDONLY);
		read(list, text, sizeof text - 1);
		failed = swapoff(path) || !strstr(text, path);
		why = errno;
	}
	unlink(path);
	errno = why;
	if (failed)
		held("swapon");
	escaped("the machine swapped to %s", path);
}

static int nothing(void *data) { return 0; }

static void account(char **arg) {
	char path[256];
	struct stat st;
	int fd = scratch(arg[0], path);
	int failed = acct(path), why = errno;
	if (!failed) {
		exits(nothing, NULL);
		failed = acct(NULL) || fstat(fd, &st) || !st.st_size;
	}
	unlink(path);
	errno = why;
	if (failed)
		held("acct");
	escaped("the machine's processes are written down in %s", path);
}

// The clocks are set to what they show: all that these need is a kernel that lets them.
static void set_time_of_day(char **arg) {
	struct timeval now;
	if (gettimeofday(&now, NULL) || settimeofday(&now, NULL))
		held("settimeofday");
	escaped("set the machine's clock");
}

static void set_clock(char **arg) {
	struct timespec now;
	if (clock_gettime(CLOCK_REALTIME, &now) || clock_settime(CLOCK_REALTIME, &now))
		held("clock_settime");
	escaped("set the machine's clock");
}

static void adjust_clock(char **arg) {
	struct timex t = {0};
	if (adjtimex(&t) < 0)
		held("adjtimex");
	t.modes = ADJ_TICK;
	if (adjtimex(&t) < 0) {
		refused("adjtimex ADJ_TICK");
		if (clock_adjtime(CLOCK_REALTIME, &t) < 0) {
			refused("clock_adjtime");
			all_refused();
		}
	}
	escaped("set the speed of the machine's clock");
}

static void reboot_key(char **arg) {
	if (reboot(RB_DISABLE_CAD))
		held("reboot");
	reboot(RB_ENABLE_CAD);
	escaped("set what Ctrl-Alt-Del does");
}

static void kernel_log(char **arg) {
	static char text[1 << 16];
	if (klogctl(3, text, sizeof text) > 0)
		escaped("syslog(2) reads the kernel's log");
	refused("syslog");
	for (char **p = (char *[]){"/dev/kmsg", "/proc/kmsg", NULL}; *p; p++) {
		int fd = open(*p, O_RDONLY | O_NONBLOCK);
		if (fd >= 0 && read(fd, text, sizeof text) > 0)
			escaped("%s reads the kernel's log", *p);
		refused(*p);
	}
	all_refused();
}

static void host_name(char **arg) {
	char old[256], now[256] = "";
	if (gethostname(old, sizeof old))
		held("gethostname");
	if (sethostname("inlay-attack", 12))
		held("sethostname");
	gethostname(now, sizeof now);
	sethostname(old, strlen(old));
	if (strcmp(now, "inlay-attack"))
		contained("the name is %s", now);
	escaped("set the host's name");
}

static void ports_all(char **arg) {
#ifdef __x86_64__
	if (iopl(3))
		held("iopl");
	inb(0x80); // the port of power-on codes, which nobody minds
	escaped("the machine's ports can be read");
#else
	contained("only amd64 has ports");
#endif
}

static void ports_one(char **arg) {
#ifdef __x86_64__
	if (ioperm(0x80, 1, 1))
		held("ioperm");
	inb(0x80);
	escaped("a port of the machine can be read");
#else
	contained("only amd64 has ports");
#endif
}

static void sysfs_call(char **arg) {
#ifdef SYS_sysfs
	long n = syscall(SYS_sysfs, 3);
	if (n <= 0)
		held("sysfs");
	escaped("sysfs(2) tells of %ld file systems", n);
#else
	contained("sysfs(2) is not of this architecture");
#endif
}

// --- keys --------------------------------------------------------------------------
// A key in the user's keyring is seen by all processes of that user, whichever
// container they are in.
static void key_user(char **arg) {
	char text[16] = "";
	long key = syscall(SYS_add_key, "user", "inlay-attack", "payload", 7UL, KEY_SPEC_USER_KEYRING);
	if (key < 0)
		held("add_key");
	long n = syscall(SYS_keyctl, KEYCTL_READ, key, text, sizeof text);
	int why = errno;
	syscall(SYS_keyctl, KEYCTL_UNLINK, key, KEY_SPEC_USER_KEYRING);
	errno = why;
	if (n != 7 || memcmp(text, "payload", 7))
		held("keyctl KEYCTL_READ");
	escaped("the user's keyring keeps a key");
}

static void key_session(char **arg) {
	char text[256] = "";
	long ring = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
	if (ring < 0)
		held("KEYCTL_GET_KEYRING_ID");
	if (syscall(SYS_keyctl, KEYCTL_DESCRIBE, ring, text, sizeof text) < 0)
		held("KEYCTL_DESCRIBE");
	escaped("the session's keyring is %s", text);
}

static void key_request(char **arg) {
	long key = syscall(SYS_add_key, "user", "inlay-attack-request", "payload", 7UL, KEY_SPEC_PROCESS_KEYRING);
	if (key < 0)
		refused("add_key");
	long found = syscall(SYS_request_key, "user", "inlay-attack-request", NULL, 0);
	if (found < 0 && errno != ENOKEY) {
		refused("request_key");
		all_refused();
	}
	escaped("the kernel looked for a key");
}

static void key_persistent(char **arg) {
	long ring = syscall(SYS_keyctl, KEYCTL_GET_PERSISTENT, -1, KEY_SPEC_PROCESS_KEYRING);
	if (ring < 0)
		held("KEYCTL_GET_PERSISTENT");
	escaped("got the user's persistent keyring");
}

// --- around the filter -------------------------------------------------------------
#ifdef __x86_64__
static void no_entry(int sig) { contained("int 0x80: signal %d: there is no entry for 32-bit calls", sig); }

static long int80(long nr, long a, long b, long c) {
	long result;
	signal(SIGSEGV, no_entry);
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	if (result < 0 && result > -4096) {
		errno = -result;
		return -1;
	}
	return result;
}
#endif

// The numbers are i386's: a filter that looks at the number alone takes them for others.
static void int80_socket(char **arg) {
#ifdef __x86_64__
	if (int80(359, AF_VSOCK, SOCK_STREAM, 0) >= 0)
		escaped("a socket of AF_VSOCK by the entry for 32-bit calls");
	refused("int 0x80, socket");
	long *args = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (args == MAP_FAILED)
		held("mmap");
	memcpy(args, &(uint32_t[3]){AF_VSOCK, SOCK_STREAM, 0}, 12);
	if (int80(102, 1, (long)args, 0) >= 0)
		escaped("a socket of AF_VSOCK by socketcall(2)");
	refused("int 0x80, socketcall");
	all_refused();
#else
	contained("only amd64 has this entry");
#endif
}

static void int80_unshare(char **arg) {
#ifdef __x86_64__
	if (int80(310, CLONE_NEWUSER, 0, 0))
		held("int 0x80, unshare");
	escaped("a user namespace by the entry for 32-bit calls");
#else
	contained("only amd64 has this entry");
#endif
}

static void int80_keyctl(char **arg) {
#ifdef __x86_64__
	if (int80(288, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1) < 0)
		held("int 0x80, keyctl");
	escaped("a keyring by the entry for 32-bit calls");
#else
	contained("only amd64 has this entry");
#endif
}

static void x32_unshare(char **arg) {
#ifdef __x86_64__
	if (syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER))
		held("x32's unshare");
	escaped("a user namespace by x32's number");
#else
	contained("only amd64 has x32");
#endif
}

// The kernel takes an int of these arguments, a filter sees 64 bits.
static void socket_high_bits(char **arg) {
	for (int *f = (int[]){AF_VSOCK, AF_ALG, 0}; *f; f++)
		for (int high = 32; high < 64; high += 31) {
			if (syscall(SYS_socket, 1UL << high | *f, (long)(*f == AF_ALG ? SOCK_SEQPACKET : SOCK_STREAM), 0L) >= 0)
				escaped("a socket of family %d, by 1<<%d|%d", *f, high, *f);
			refused("socket");
		}
	all_refused();
}

static void clone_high_bits(char **arg) {
	long pid = syscall(SYS_clone, 1UL << 40 | CLONE_NEWUSER | SIGCHLD, 0UL, 0UL, 0UL, 0UL);
	if (pid < 0)
		held("clone");
	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	escaped("a user namespace, by more flags than there are");
}

// push_back has a terminal believe that its user typed a letter.
static void push_back(unsigned long command) {
	char letter = 0;
	for (char **p = (char *[]){"/dev/tty", "/dev/console", "/dev/stdin", "/dev/stdout", "/dev/stderr", NULL}; *p; p++) {
		int fd = open(*p, O_RDWR | O_NOCTTY | O_NONBLOCK);
		if (fd >= 0 && isatty(fd) && !syscall(SYS_ioctl, fd, command, "x"))
			escaped("typed into %s", *p);
		if (fd >= 0)
			close(fd);
	}
	// Else a terminal of one's own: the command is what is to be refused.
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0 || grantpt(master) || unlockpt(master))
		held("a pseudo terminal");
	if (setsid() < 0 && fork()) // a leader of a group cannot
		_exit(wait(NULL) < 0);
	setsid();
	int fd = open(ptsname(master), O_RDWR);
	if (fd < 0 || ioctl(fd, TIOCSCTTY, 0))
		held("a terminal of one's own");
	if (syscall(SYS_ioctl, fd, command, "x"))
		held("ioctl TIOCSTI");
	syscall(SYS_ioctl, fd, command, "\n");
	if (read(fd, &letter, 1) != 1 || letter != 'x')
		held("read of the terminal");
	escaped("typed into the controlling terminal");
}

static void tiocsti(char **arg) { push_back(TIOCSTI); }

static void tiocsti_high_bits(char **arg) { push_back(1UL << 32 | TIOCSTI); }

static void tioclinux(char **arg) {
	for (char **p = (char *[]){"/dev/tty1", "/dev/tty0", "/dev/tty", "/dev/console", "/dev/stdin", NULL}; *p; p++) {
		char command = 6; // TIOCL_GETSHIFTSTATE, which changes nothing
		int fd = open(*p, O_RDONLY | O_NOCTTY | O_NONBLOCK);
		if (fd >= 0 && !ioctl(fd, TIOCLINUX, &command))
			escaped("%s takes the commands of the console", *p);
		refused(*p);
	}
	all_refused();
}

static int hang_up(void *data) {
	setsid();
	return vhangup() ? errno : 0;
}

static void vhangup_session(char **arg) {
	errno = exits(hang_up, NULL);
	if (errno)
		held("vhangup");
	escaped("hung up a terminal");
}

static int filter_getppid(void) {
	struct sock_filter code[] = {
		{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0},
		{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_getppid},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
	};
	struct sock_fprog program = {countof(code), code};
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

// A tracer may suspend a filter, if it has none itself (PTRACE_O_SUSPEND_SECCOMP).
static void suspend_seccomp(char **arg) {
	int status;
	pid_t pid = fork();
	if (!pid) {
		if (ptrace(PTRACE_TRACEME) || filter_getppid() || raise(SIGSTOP))
			_exit(2);
		_exit(syscall(SYS_getppid) < 0);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		contained("a process cannot be traced");
	if (ptrace(PTRACE_SETOPTIONS, pid, 0, 1 << 21 /* PTRACE_O_SUSPEND_SECCOMP */)) {
		refused("PTRACE_O_SUSPEND_SECCOMP");
		kill(pid, SIGKILL);
		all_refused();
	}
	ptrace(PTRACE_CONT, pid, 0, 0);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status))
		contained("the filter holds: status %#x", status);
	escaped("suspended a filter");
}

// Before Linux 4.8 the filter was asked first, and the tracer could change the call after
// that.
static void rewritten_call(char **arg) {
#ifdef __x86_64__
	struct user_regs_struct regs;
	int status;
	pid_t pid = fork();
	if (!pid) {
		if (ptrace(PTRACE_TRACEME) || raise(SIGSTOP))
			_exit(2);
		syscall(SYS_getppid, CLONE_NEWUSER);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		contained("a process cannot be traced");
	do {
		if (ptrace(PTRACE_SYSCALL, pid, 0, 0) || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, pid, 0, &regs))
			held("PTRACE_SYSCALL");
	} while (regs.orig_rax != SYS_getppid);
	regs.orig_rax = SYS_unshare;
	regs.rdi = CLONE_NEWUSER;
	if (ptrace(PTRACE_SETREGS, pid, 0, &regs))
		held("PTRACE_SETREGS");
	if (ptrace(PTRACE_SYSCALL, pid, 0, 0) || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, pid, 0, &regs))
		contained("the process that called is gone: status %#x", status);
	kill(pid, SIGKILL);
	errno = -(long)regs.rax;
	if (regs.rax)
		held("unshare, by the tracer");
	escaped("a tracer made another call of it");
#else
	contained("written for amd64 alone");
#endif
}

// A filter cannot be taken off, nor a more lenient one put in its place.
static void lenient_filter(char **arg) {
	struct sock_filter allow = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
	struct sock_fprog program = {1, &allow};
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program))
		refused("seccomp");
	if (prctl(PR_SET_SECCOMP, 0, 0) && errno != EINVAL)
		refused("PR_SET_SECCOMP");
	if (unshare(CLONE_NEWUSER)) {
		refused("unshare");
		all_refused();
	}
	escaped("a user namespace after a lenient filter");
}

const struct attack kernel_attacks[] = {
	{"bpf", bpf},
	{"bpf-program", bpf_program},
	{"perf-event", perf},
	{"perf-event-cpu", perf_cpu},
	{"userfaultfd", userfaultfd},
	{"io-uring", io_uring},
	{"io-uring-open", io_uring_open},
	{"io-uring-connect", io_uring_connect},
	{"kexec-load", kexec_load},
	{"kexec-file-load", kexec_file_load},
	{"init-module", init_module},
	{"finit-module", finit_module},
	{"delete-module", delete_module},
	{"quotactl", quotactl_sync},
	{"swapon", swap},
	{"acct", account},
	{"settimeofday", set_time_of_day},
	{"clock-settime", set_clock},
	{"adjtimex", adjust_clock},
	{"reboot", reboot_key},
	{"syslog", kernel_log},
	{"sethostname", host_name},
	{"iopl", ports_all},
	{"ioperm", ports_one},
	{"sysfs", sysfs_call},
	{"key-user", key_user},
	{"key-session", key_session},
	{"key-request", key_request},
	{"key-persistent", key_persistent},
	{"int80-socket", int80_socket},
	{"int80-unshare", int80_unshare},
	{"int80-keyctl", int80_keyctl},
	{"x32-unshare", x32_unshare},
	{"socket-high-bits", socket_high_bits},
	{"clone-high-bits", clone_high_bits},
	{"tiocsti", tiocsti},
	{"tiocsti-high-bits", tiocsti_high_bits},
	{"tioclinux", tioclinux},
	{"vhangup", vhangup_session},
	{"suspend-seccomp", suspend_seccomp},
	{"rewritten-call", rewritten_call},
	{"lenient-filter", lenient_filter},
	{NULL},
};
