// Attacks on processes outside, on init, and on the machine's processors and memory.
#include "attack.h"
#include <linux/ioprio.h>
#include <linux/kcmp.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>

typedef ssize_t (*reader)(pid_t pid, unsigned long from, void *to, size_t size);

static int memory; // /proc/PID/mem, of by_file

static ssize_t by_file(pid_t pid, unsigned long from, void *to, size_t size) { return pread(memory, to, size, from); }

static ssize_t by_call(pid_t pid, unsigned long from, void *to, size_t size) {
	struct iovec local = {to, size}, remote = {(void *)from, size};
	return process_vm_readv(pid, &local, 1, &remote, 1, 0);
}

static ssize_t by_trace(pid_t pid, unsigned long from, void *to, size_t size) {
	for (size_t i = 0; i < size; i += sizeof(long)) {
		errno = 0;
		long word = ptrace(PTRACE_PEEKDATA, pid, from + i, 0);
		if (errno)
			return -1;
		memcpy((char *)to + i, &word, sizeof word);
	}
	return size;
}

// search looks for the secret where a process has its environment.
static void search(pid_t pid, const char *secret, reader read_memory, const char *how) {
	char path[64], line[512];
	static char page[4096];
	unsigned long from = 0, to = 0;
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (strstr(line, "[stack]"))
			sscanf(line, "%lx-%lx", &from, &to);
	if (!to) { // its map is not shown: any address tells whether it can be reached
		from = (unsigned long)page;
		to = from + sizeof page;
	}
	for (unsigned long at = to - sizeof page; at >= from; at -= sizeof page) {
		errno = 0;
		if (read_memory(pid, at, page, sizeof page) != sizeof page) {
			if (errno == EFAULT || errno == EIO)
				escaped("%s reaches the memory of process %d", how, pid);
			held(how);
		}
		if (memmem(page, sizeof page, secret, strlen(secret)))
			escaped("%s reads the environment of process %d", how, pid);
	}
	contained("%s: no secret in process %d", how, pid);
}

static void trace(char **arg) {
	pid_t pid = victim(arg[0]);
	int status;
	if (ptrace(PTRACE_SEIZE, pid, 0, 0))
		held("PTRACE_SEIZE");
	if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) || waitpid(pid, &status, __WALL) != pid)
		held("PTRACE_INTERRUPT");
	search(pid, arg[1], by_trace, "ptrace");
}

static void read_by_call(char **arg) { search(victim(arg[0]), arg[1], by_call, "process_vm_readv"); }

static void read_by_file(char **arg) {
	char path[64];
	pid_t pid = victim(arg[0]);
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	memory = open(path, O_RDWR);
	if (memory < 0)
		held(path);
	search(pid, arg[1], by_file, path);
}

static void take_descriptor(char **arg) {
	pid_t pid = victim(arg[0]);
	int fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		held("pidfd_open");
	for (int i = 0; i < 64; i++) {
		if (syscall(SYS_pidfd_getfd, fd, i, 0) >= 0)
			escaped("took descriptor %d of process %d", i, pid);
		if (errno != EBADF)
			held("pidfd_getfd");
	}
	contained("it has no descriptor");
}

static void compare(char **arg) {
	pid_t pid = victim(arg[0]);
	long r = syscall(SYS_kcmp, getpid(), pid, KCMP_VM, 0, 0);
	if (r < 0)
		held("kcmp");
	escaped("kcmp compares with process %d: %ld", pid, r);
}

static void move_memory(char **arg) {
	pid_t pid = victim(arg[0]);
	void *page = (void *)((uintptr_t)arg & -4096);
	int status = 0;
	if (!syscall(SYS_move_pages, pid, 1UL, &page, NULL, &status, 0))
		escaped("move_pages tells of process %d: %d", pid, status);
	refused("move_pages");
	unsigned long nodes = 1;
	if (syscall(SYS_migrate_pages, pid, 8UL, &nodes, &nodes) >= 0)
		escaped("migrate_pages moves the memory of process %d", pid);
	refused("migrate_pages");
	all_refused();
}

static void robust_list(char **arg) {
	pid_t pid = victim(arg[0]);
	void *head = NULL;
	size_t size = 0;
	if (syscall(SYS_get_robust_list, pid, &head, &size))
		held("get_robust_list");
	escaped("process %d has its locks at %p", pid, head);
}

static void change_limits(char **arg) {
	pid_t pid = victim(arg[0]);
	struct rlimit now;
	if (prlimit(pid, RLIMIT_NOFILE, NULL, &now))
		held("prlimit");
	if (prlimit(pid, RLIMIT_NOFILE, &now, NULL)) // to what it is
		held("prlimit, setting");
	escaped("set a limit of process %d", pid);
}

static void change_priority(char **arg) {
	pid_t pid = victim(arg[0]);
	errno = 0;
	int now = getpriority(PRIO_PROCESS, pid);
	if (errno)
		held("getpriority");
	if (setpriority(PRIO_PROCESS, pid, now))
		held("setpriority");
	escaped("set the priority of process %d", pid);
}

static void change_processors(char **arg) {
	pid_t pid = victim(arg[0]);
	cpu_set_t now;
	if (sched_getaffinity(pid, sizeof now, &now))
		held("sched_getaffinity");
	if (sched_setaffinity(pid, sizeof now, &now))
		held("sched_setaffinity");
	escaped("set the processors of process %d", pid);
}

// SIGURG is thrown away by who does not wait for it.
static void by_kill(char **arg) {
	pid_t pid = victim(arg[0]);
	if (kill(pid, SIGURG))
		held("kill");
	escaped("sent a signal to process %d", pid);
}

static void by_tgkill(char **arg) {
	pid_t pid = victim(arg[0]);
	if (syscall(SYS_tgkill, pid, pid, SIGURG)) {
		refused("tgkill");
		if (syscall(SYS_tkill, pid, SIGURG)) {
			refused("tkill");
			all_refused();
		}
	}
	escaped("sent a signal to thread %d", pid);
}

static void by_sigqueue(char **arg) {
	pid_t pid = victim(arg[0]);
	siginfo_t info = {.si_signo = SIGURG, .si_code = SI_QUEUE};
	if (syscall(SYS_rt_sigqueueinfo, pid, SIGURG, &info)) {
		refused("rt_sigqueueinfo");
		if (syscall(SYS_rt_tgsigqueueinfo, pid, pid, SIGURG, &info)) {
			refused("rt_tgsigqueueinfo");
			all_refused();
		}
	}
	escaped("sent a signal to process %d", pid);
}

static void by_pidfd(char **arg) {
	pid_t pid = victim(arg[0]);
	int fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		held("pidfd_open");
	if (syscall(SYS_pidfd_send_signal, fd, SIGURG, NULL, 0))
		held("pidfd_send_signal");
	escaped("sent a signal to process %d", pid);
}

// The owner of a pipe's or a socket's signals may be anybody who can be signalled.
static void by_owner(char **arg) {
	pid_t pid = victim(arg[0]);
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		held("socketpair");
	if (fcntl(pair[0], F_SETOWN, pid))
		held("F_SETOWN");
	if (fcntl(pair[0], F_GETOWN) != pid)
		contained("F_GETOWN: another");
	escaped("process %d gets the signals of a socket", pid);
}

// The program of init: whoever opens it waits until nobody runs it, and writes.
static void program_of(char **arg) {
	char path[64];
	pid_t pid = victim(arg[0]);
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		held(path);
	escaped("opened %s", path);
}

static void folders_of(char **arg) {
	char path[320];
	pid_t pid = victim(arg[0]);
	for (char **n = (char *[]){"cwd", "root", "fd/0", "fd/1", "fd/2", "fd/3", "fd/4", NULL}; *n; n++) {
		snprintf(path, sizeof path, "/proc/%d/%s", pid, *n);
		if (open(path, O_PATH | O_CLOEXEC) >= 0)
			escaped("opened %s", path);
		refused(*n);
	}
	all_refused();
}

static void environment_of(char **arg) {
	char path[64], text[4096];
	pid_t pid = victim(arg[0]);
	snprintf(path, sizeof path, "/proc/%d/environ", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		held(path);
	ssize_t n = read(fd, text, sizeof text);
	if (n < 0)
		held("read");
	if (!memmem(text, n, arg[1], strlen(arg[1])) && !(n && pid == 1))
		contained("%zd bytes, no secret", n);
	escaped("read %s", path);
}

static void realtime(char **arg) {
	struct sched_param one = {1};
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} deadline = {48, 6 /* SCHED_DEADLINE */, 0, 0, 0, 1000000, 10000000, 10000000};
	for (int *p = (int[]){SCHED_FIFO, SCHED_RR, 0}; *p; p++) {
		if (!sched_setscheduler(0, *p, &one) && sched_getscheduler(0) == *p)
			escaped("runs ahead of all ordinary processes");
		refused("sched_setscheduler");
	}
	if (!syscall(SYS_sched_setattr, 0, &deadline, 0))
		escaped("runs to a deadline");
	refused("sched_setattr");
	all_refused();
}

static void priority(char **arg) {
	int before = getpriority(PRIO_PROCESS, 0);
	for (int to = -20; to < before; to++)
		if (!setpriority(PRIO_PROCESS, 0, to) && getpriority(PRIO_PROCESS, 0) < before)
			escaped("from priority %d to %d", before, getpriority(PRIO_PROCESS, 0));
	held("setpriority");
}

static void io_priority(char **arg) {
	int realtime = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 0);
	if (syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, realtime))
		held("ioprio_set");
	if (syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) != realtime)
		contained("another class");
	escaped("reads and writes ahead of all others");
}

static void lock_memory(char **arg) {
	struct rlimit limit;
	size_t size = 64 << 20; // where there is no limit, so much is beyond what jobs get
	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		held("getrlimit");
	if (limit.rlim_max < size)
		size = limit.rlim_max + (1 << 20);
	setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){limit.rlim_max, limit.rlim_max});
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		held("mmap");
	if (!mlock(at, size))
		escaped("locked %zu bytes, the limit is %llu", size, (unsigned long long)limit.rlim_max);
	refused("mlock");
	if (mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0) != MAP_FAILED)
		escaped("mapped %zu locked bytes, the limit is %llu", size, (unsigned long long)limit.rlim_max);
	refused("mmap MAP_LOCKED");
	all_refused();
}

static void raise_limits(char **arg) {
	for (int r = 0; r < RLIM_NLIMITS; r++) {
		struct rlimit before, after;
		if (getrlimit(r, &before) || before.rlim_max == RLIM_INFINITY)
			continue;
		after = (struct rlimit){before.rlim_cur, before.rlim_max + 1};
		if (setrlimit(r, &after))
			continue;
		if (getrlimit(r, &after) || after.rlim_max <= before.rlim_max)
			continue;
		escaped("limit %d was %llu at most and is %llu", r, (unsigned long long)before.rlim_max, (unsigned long long)after.rlim_max);
	}
	held("setrlimit");
}

const struct attack process_attacks[] = {
	{"ptrace-victim", trace},
	{"ptrace-init", trace},
	{"process-vm-readv", read_by_call},
	{"process-vm-readv-init", read_by_call},
	{"mem-init", read_by_file},
	{"pidfd-getfd", take_descriptor},
	{"pidfd-getfd-init", take_descriptor},
	{"kcmp", compare},
	{"kcmp-init", compare},
	{"move-pages", move_memory},
	{"robust-list", robust_list},
	{"prlimit-victim", change_limits},
	{"prlimit-init", change_limits},
	{"priority-victim", change_priority},
	{"affinity-victim", change_processors},
	{"affinity-init", change_processors},
	{"kill", by_kill},
	{"tgkill", by_tgkill},
	{"sigqueue", by_sigqueue},
	{"pidfd-signal", by_pidfd},
	{"signal-owner", by_owner},
	{"init-exe", program_of},
	{"init-folders", folders_of},
	{"init-environ", environment_of},
	{"realtime", realtime},
	{"priority", priority},
	{"io-priority", io_priority},
	{"mlock", lock_memory},
	{"rlimits", raise_limits},
	{NULL},
};
