// What group.c and floor.c share: a control group for each launch, with limits of
// memory, processors and processes, which the child is born in.
//
// Its parents are folders, one for each hierarchy, and may hold groups. Of
// cgroup v2 the child is cloned into the group; of v1 it writes "0" to tasks.
#include <linux/sched.h>
#include <sys/stat.h>

enum { PLACES = 16 };

static struct place {
	int base, fd; // the parent; what a child enters by
	int v2;
} places[PLACES];
static int place_count;

static const char group_name[] = "c";

static const struct {
	const char *file, *text;
} group_limits[] = {
	{"memory.max", "67108864"},     {"memory.limit_in_bytes", "67108864"},
	{"cpu.max", "50000 100000"},    {"cpu.cfs_quota_us", "50000"},
	{"pids.max", "64"},
};

// Whether a hierarchy has that file, looked up once.
static unsigned char group_has[PLACES][sizeof group_limits / sizeof *group_limits];

static void groups_add(const char *dir) {
	struct place *p = &places[place_count];
	if (place_count == PLACES || (p->base = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
		die(dir);
	p->v2 = !faccessat(p->base, "cgroup.controllers", F_OK, 0);
	for (unsigned i = 0; i < sizeof group_limits / sizeof *group_limits; i++)
		group_has[place_count][i] = !faccessat(p->base, group_limits[i].file, F_OK, 0);
	place_count++;
}

static int group_make(void) {
	for (int n = 0; n < place_count; n++) {
		struct place *p = &places[n];
		char path[64];
		if (mkdirat(p->base, group_name, 0755) < 0)
			return failed("mkdir");
		for (unsigned i = 0; i < sizeof group_limits / sizeof *group_limits; i++) {
			if (!group_has[n][i])
				continue;
			snprintf(path, sizeof path, "%s/%s", group_name, group_limits[i].file);
			int fd = openat(p->base, path, O_WRONLY | O_CLOEXEC);
			if (fd < 0 || write(fd, group_limits[i].text, strlen(group_limits[i].text)) < 0)
				return failed(group_limits[i].file);
			close(fd);
		}
		snprintf(path, sizeof path, p->v2 ? "%s" : "%s/tasks", group_name);
		p->fd = openat(p->base, path, p->v2 ? O_PATH | O_DIRECTORY | O_CLOEXEC : O_WRONLY | O_CLOEXEC);
		if (p->fd < 0)
			return failed("open");
	}
	return 0;
}

// In the child.
static int group_enter(void) {
	for (int n = 0; n < place_count; n++)
		if (!places[n].v2 && write(places[n].fd, "0", 1) < 0)
			return failed("tasks");
	return 0;
}

// The kernel may still hold on to a process that has been waited for.
static int group_delete(void) {
	for (int n = 0; n < place_count; n++) {
		close(places[n].fd);
		while (unlinkat(places[n].base, group_name, AT_REMOVEDIR) < 0)
			if (errno != EBUSY)
				return failed("rmdir");
	}
	return 0;
}

// A clone(2) into the group; the child calls body, which does not return.
static long group_clone(unsigned long long flags, int *pidfd, char *stack, size_t size, int (*body)(void *), void *arg) {
	static struct clone_args birth; // static: its child has another stack
	birth = (struct clone_args){
		.flags = flags, .pidfd = (unsigned long)pidfd, .exit_signal = SIGCHLD,
		.stack = (unsigned long)stack, .stack_size = size,
	};
	for (int n = 0; n < place_count; n++)
		if (places[n].v2) {
			birth.flags |= 1ULL << 33; // CLONE_INTO_CGROUP
			birth.cgroup = places[n].fd;
		}
#if defined(__x86_64__)
	long result = SYS_clone3;
	register int (*then)(void *) __asm__("r12") = body;
	register void *with __asm__("r13") = arg;
	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %%r13, %%rdi\n\tcall *%%r12\n\thlt\n1:"
			 : "+a"(result) : "D"(&birth), "S"(sizeof birth), "r"(then), "r"(with) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long result __asm__("x0") = (long)&birth;
	register long args_size __asm__("x1") = sizeof birth;
	register long number __asm__("x8") = SYS_clone3;
	register int (*then)(void *) __asm__("x19") = body;
	register void *with __asm__("x20") = arg;
	__asm__ volatile("svc #0\n\tcbnz x0, 1f\n\tmov x29, xzr\n\tmov x0, x20\n\tblr x19\n\tbrk #0\n1:"
			 : "+r"(result) : "r"(args_size), "r"(number), "r"(then), "r"(with) : "memory", "x30");
#else
#error "clone3(2) is written for amd64 and arm64"
#endif
	if (result < 0) {
		errno = (int)-result;
		return -1;
	}
	return result;
}
