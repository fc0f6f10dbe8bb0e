// The floor: a container like inlay's default one, on raw system calls, in one
// process that never was a Go program, with nothing made ahead. It is what a
// launch must cost a program that does these steps one after the other; less is
// possible only by doing them beforehand. See rounds.h for how it is driven.
//
//	cc -O2 -static -o floor floor.c
//
// With -g FOLDER, once for each hierarchy, init and the job are born in a control
// group with limits of memory, processors and processes, which is made for them and
// deleted. (A container has init elsewhere; for a floor one group is enough.)
//
// With -f the job has a seccomp filter, a list like libseccomp's (filter.h).
//
// Left out: reports while the job runs. It needs root and
// Linux 5.12, and takes the ids from 524288 on, whoever else uses them.
//
// A PROGRAM outside /usr is found at /run/job: the folder that holds it is bound
// there, read-only. That folder must be open to everybody (mode o+x), because the
// job's ids own nothing on the host.
//
// Init shares this process's memory (CLONE_VM on a stack of its own): 7 to 8 in a
// hundred faster here than a fork, whose page tables must be copied and taken
// down. A container would rather pay that: this floor is a measure, not a model.
// CLONE_VFORK is impossible, since init waits until the parent has written the
// maps; a plain vfork is what the job gets.
#include "rounds.h"

#include "groups.h"

#include "filter.h"

#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define HIDDEN (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
#define PROC_ATTRS (HIDDEN | MOUNT_ATTR_NOEXEC)
#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

enum {
	INIT_ID = 65535, // not the job's, so that no job can signal init or limit it
	// Descriptors of the mounts that the parent copies for init, in this order.
	TREE_USR = ROUNDS_OUT + 1,
	TREE_ETC,
	TREE_DEVICES,
	TREE_JOB = TREE_DEVICES + 6,
	AT_TREE = 0x8000, // AT_RECURSIVE, which old headers lack
	UMOUNT_DETACH = 2,
	LINUX_MAX_CAP = 63,
};

static const char id_map[] = "0 524288 65536\n";

static unsigned mapped; // init waits on it: the id maps are written
static char stack[64 << 10] __attribute__((aligned(64)));

// As rootfs.EtcDenied.
static const char *const etc_denied[] = {
	"shadow", "shadow-", "gshadow", "gshadow-", "passwd-", "group-", "subuid", "subuid-", "subgid", "subgid-",
	"sudoers", "sudoers.d", "sudo.conf", "doas.conf", "security/opasswd",
	"ssh", "ssl/private", "pki/tls/private", "pki/private", "letsencrypt", "krb5.keytab", "keys",
	"cron.d", "cron.daily", "cron.hourly", "cron.monthly", "cron.weekly", "crontab", "anacrontab",
	"docker", "containers", "containerd", "kubernetes", "rancher", "cni", "wireguard", "openvpn", "ipsec.d",
	"ipsec.secrets", "strongswan", "ppp", "NetworkManager", "netplan", "wpa_supplicant", "machine-id", "fstab",
	"crypttab", "cryptsetup-initramfs", "exports", "samba", "mysql", "postgresql", "redis", "cloud", "aws", "azure",
	"google-cloud", "boto.cfg", "vault.d", "consul.d", "nomad.d", "apt/auth.conf", "apt/auth.conf.d", "credstore",
	"credstore.encrypted", "polkit-1", "audit", "libvirt", "pam.d",
};
static const char *const proc_masked[] = {
	"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi",
};
static const char *const proc_readonly[] = {"bus", "fs", "irq", "sys", "sysrq-trigger"};
static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
static const char *const beside_usr[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};

// What the host has of them.
struct name {
	const char *path;
	int folder;
};
static struct name etc_hidden[COUNT(etc_denied)], proc_hidden[COUNT(proc_masked)], proc_fixed[COUNT(proc_readonly)];
static int etc_hiddens, proc_hiddens, proc_fixeds;

static struct {
	const char *name, *text;
	int wanted; // the host has one
} etc_own[] = {
	{"passwd", "root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", 0},
	{"group", "root:x:0:\nnogroup:x:65534:\n", 0},
	{"hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tfloor\n", 0},
	{"hostname", "floor\n", 0},
	{"nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n"
			  "protocols: files\nservices: files\n", 0},
	{"resolv.conf", "# no network\n", 0},
};
static char links[COUNT(beside_usr)][256]; // where /bin and its like lead; empty: not there

// The job: its path inside, the folder to bind for it (NULL: it is in /usr) and
// its limits, which nobody can raise above this process's own.
static char job_path[4096], *job_folder;
static struct {
	int which;
	struct rlimit limit;
} limits[] = {{RLIMIT_CORE, {1, 1}}, {RLIMIT_NOFILE, {1024, 65536}}, {RLIMIT_NPROC, {1024, 1024}}};

// ---- Init and the job. A step that fails ends them; the parent reports it. ----

static void fail(const char *step) {
	failed(step);
	_exit(127);
}

static int ok(const char *step, long result) {
	if (result < 0)
		fail(step);
	return (int)result;
}

static void put(int dir, const char *name, const char *text, int mode) {
	int fd = ok("file", openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
	if (*text)
		ok("write", write(fd, text, strlen(text)));
	close(fd);
}

static void attach(const char *step, int mount, const char *at) {
	ok(step, syscall(SYS_move_mount, mount, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH));
}

static void set(const char *step, int mount, unsigned flags, unsigned long long attrs) {
	struct mount_attr a = {.attr_set = attrs};
	ok(step, syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH | flags, &a, sizeof a));
}

static int copy(const char *step, const char *path) {
	return ok(step, syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
}

// A new file system with up to three options, "" for none, attached nowhere yet.
static int make(const char *type, const char *options[][2], unsigned attrs) {
	int fs = ok(type, syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
	for (; options && (*options)[0]; options++)
		ok("fsconfig", syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, (*options)[0], (*options)[1], 0));
	ok("superblock", syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	int mount = ok("fsmount", syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attrs));
	close(fs);
	return mount;
}

static int memory(const char *size, const char *inodes, const char *mode, unsigned attrs) {
	const char *options[][2] = {{"size", size}, {"nr_inodes", inodes}, {"mode", mode}, {NULL, NULL}};
	return make("tmpfs", options, attrs);
}

// The root, a sized memory file system with all that is ever written to it. It
// becomes / before anything else is mounted: from then on every name is resolved
// inside, whatever links the host has in /etc.
static void make_root(void) {
	int root = memory("4194304", "4096", "0755", HIDDEN);
	static const char *const folders[] = {"usr", "etc", "proc", "dev", "tmp", "run", "run/none", "run/etc", "var"};
	for (int i = 0; i < COUNT(folders); i++)
		ok("mkdir", mkdirat(root, folders[i], 0755));
	ok("symlink", symlinkat("/tmp", root, "var/tmp"));
	ok("symlink", symlinkat("/run", root, "var/run"));
	for (int i = 0; i < COUNT(beside_usr); i++)
		if (*links[i])
			ok("symlink", symlinkat(links[i], root, beside_usr[i]));
	for (int i = 0; i < COUNT(etc_own); i++) {
		char at[64];
		snprintf(at, sizeof at, "run/etc/%s", etc_own[i].name);
		put(root, at, etc_own[i].text, 0644);
	}
	put(root, "run/etc/.denied", "", 0);
	// Now, not at the end: what is bound from here later is a copy of this mount
	// and read-only like it.
	set("readonly", root, 0, MOUNT_ATTR_RDONLY);

	// While the host's /proc is still there: in a user namespace the kernel gives a
	// new one only where an old one can be seen whole.
	int proc = make("proc", NULL, PROC_ATTRS);

	attach("root", root, "/");
	ok("fchdir", fchdir(root));
	ok("pivot_root", syscall(SYS_pivot_root, ".", "."));
	ok("umount2", syscall(SYS_umount2, ".", UMOUNT_DETACH));
	ok("chdir", chdir("/"));
	attach("proc", proc, "proc");
}

static void cover(const char *step, const char *source, const char *dir, const char *name) {
	char at[300];
	snprintf(at, sizeof at, "%s/%s", dir, name);
	int tree = copy(step, source);
	attach(step, tree, at);
	close(tree);
}

// /etc: the host's, with what is denied covered and our own files on top. A mount
// covers a link, not what the link leads to (no MOVE_MOUNT_T_SYMLINKS).
static void make_etc(void) {
	attach("etc", TREE_ETC, "etc");
	for (int i = 0; i < etc_hiddens; i++)
		cover("denied", etc_hidden[i].folder ? "run/none" : "run/etc/.denied", "etc", etc_hidden[i].path);
	for (int i = 0; i < COUNT(etc_own); i++) {
		char own[64];
		snprintf(own, sizeof own, "run/etc/%s", etc_own[i].name);
		if (etc_own[i].wanted)
			cover("own", own, "etc", etc_own[i].name);
	}
}

// /dev: binds of six of the host's nodes, since nobody may make nodes in a user
// namespace.
static void make_dev(void) {
	int dev = memory("65536", "64", "0755", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	for (int i = 0; i < COUNT(devices); i++)
		put(dev, devices[i], "", 0666);
	static const char *const to[][2] = {
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
	};
	for (int i = 0; i < COUNT(to); i++)
		ok("symlink", symlinkat(to[i][0], dev, to[i][1]));
	ok("mkdir", mkdirat(dev, "pts", 0755));
	ok("mkdir", mkdirat(dev, "shm", 0755));
	ok("mkdir", mkdirat(dev, "mqueue", 0755));
	set("readonly", dev, 0, MOUNT_ATTR_RDONLY);
	attach("dev", dev, "dev");
	for (int i = 0; i < COUNT(devices); i++) {
		char at[32];
		snprintf(at, sizeof at, "dev/%s", devices[i]);
		attach("device", TREE_DEVICES + i, at);
	}
	// Each is a new instance: devpts since 4.7, mqueue by its IPC namespace.
	const char *modes[][2] = {{"ptmxmode", "0666"}, {"mode", "0620"}, {NULL, NULL}};
	attach("pts", make("devpts", modes, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), "dev/pts");
	attach("mqueue", make("mqueue", NULL, PROC_ATTRS), "dev/mqueue");
	attach("shm", memory("67108864", "16384", "1777", PROC_ATTRS), "dev/shm");
}

// OCI's masks over /proc.
static void mask_proc(void) {
	for (int i = 0; i < proc_hiddens; i++)
		cover("mask", proc_hidden[i].folder ? "run/none" : "dev/null", "proc", proc_hidden[i].path);
	for (int i = 0; i < proc_fixeds; i++) {
		char at[64];
		snprintf(at, sizeof at, "proc/%s", proc_fixed[i].path);
		int tree = copy("proc", at);
		set("proc", tree, 0, MOUNT_ATTR_RDONLY | PROC_ATTRS);
		attach("proc", tree, at);
		close(tree);
	}
}

// What the job does to itself between vfork and exec.
static void become(char **argv) {
	ok("setsid", setsid());
	// A session keyring of its own: the one handed down may hold the host's keys.
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EDQUOT)
		fail("keyctl");
	umask(022);
	for (int i = 0; i < COUNT(limits); i++)
		ok("prlimit", syscall(SYS_prlimit64, 0, limits[i].which, &limits[i].limit, NULL));
	ok("unshare", syscall(SYS_unshare, CLONE_NEWCGROUP));
	for (int cap = 0; cap <= LINUX_MAX_CAP && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
		; // EINVAL after the last one that the kernel has
	ok("setgroups", syscall(SYS_setgroups, 0, NULL));
	ok("setresgid", syscall(SYS_setresgid, 0, 0, 0));
	ok("setresuid", syscall(SYS_setresuid, 0, 0, 0));
	ok("ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
	ok("capset", syscall(SYS_capset, &header, none));
	ok("no_new_privs", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	unsigned long long signals = 0;
	ok("sigprocmask", syscall(SYS_rt_sigprocmask, SIG_SETMASK, &signals, NULL, sizeof signals));
	ok("close_range", syscall(SYS_close_range, 3, ~0U, 0));
	if (filter.len)
		ok("seccomp", filter_attach());
	execve(job_path, argv, environment);
	fail("execve");
}

static int init(void *argv) {
	if (group_enter())
		_exit(127);
	// Until the ids are mapped init has all capabilities but no id, so this much can
	// be done while the parent writes the maps.
	ok("pdeathsig", prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
	ok("sethostname", sethostname("floor", 5));
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int sock = ok("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	ok("lo", ioctl(sock, SIOCSIFFLAGS, &lo));
	close(sock);
	ok("private", syscall(SYS_mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	umask(0);
	const struct timespec patience = {5, 0}; // for a parent killed before the death signal was set
	while (!__atomic_load_n(&mapped, __ATOMIC_ACQUIRE))
		if (syscall(SYS_futex, &mapped, FUTEX_WAIT, 0, &patience, NULL, 0) < 0 && errno == ETIMEDOUT)
			fail("maps");

	// Until here init still is the host's root, whatever its maps say. No capability
	// is lost: that happens on leaving the namespace's own id 0, which it never had.
	ok("setgroups", syscall(SYS_setgroups, 0, NULL));
	ok("setresgid", syscall(SYS_setresgid, INIT_ID, INIT_ID, INIT_ID));
	ok("setresuid", syscall(SYS_setresuid, INIT_ID, INIT_ID, INIT_ID));
	// What it makes belongs to root inside.
	syscall(SYS_setfsgid, 0);
	syscall(SYS_setfsuid, 0);

	make_root();
	attach("usr", TREE_USR, "usr");
	make_etc();
	make_dev();
	mask_proc();
	attach("tmp", memory("268435456", "65536", "1777", HIDDEN), "tmp");
	// Over what the covers were taken from, which nobody can name any more.
	int run = memory("16777216", "8192", "0755", HIDDEN);
	if (job_folder)
		ok("mkdir", mkdirat(run, "job", 0755));
	attach("run", run, "run");
	if (job_folder)
		attach("job", TREE_JOB, "run/job");

	// No descriptor of the host's mounts may outlive this (CVE-2019-5736,
	// CVE-2024-21626), and the change of ids has cleared the death signal.
	ok("close_range", syscall(SYS_close_range, 3, ~0U, 0));
	ok("pdeathsig", prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
	ok("dumpable", prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); // of the shared memory, so the parent as well

	pid_t job = vfork();
	if (job == 0)
		become(argv);
	ok("vfork", job);
	int status;
	pid_t gone;
	while ((gone = wait4(-1, &status, 0, NULL)) != job)
		ok("wait4", gone);
	// The kernel kills what else is left when PID 1 goes.
	_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

// ---- The parent. ----

// A detached copy of a mount, at the number that init expects.
static int tree(int number, const char *path, int recursive, unsigned long long attrs) {
	unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_TREE : 0);
	if (syscall(SYS_open_tree, AT_FDCWD, path, flags) != number)
		return failed("open_tree");
	struct mount_attr a = {.attr_set = attrs};
	if (attrs && syscall(SYS_mount_setattr, number, "", AT_EMPTY_PATH | AT_TREE, &a, sizeof a) < 0)
		return failed("mount_setattr");
	return 0;
}

// Here and not in init, which is nobody to the host: folders with mode 0700 would
// be closed to it.
static int open_trees(void) {
	if (tree(TREE_USR, "/usr", 1, HIDDEN | MOUNT_ATTR_RDONLY) || tree(TREE_ETC, "/etc", 1, HIDDEN | MOUNT_ATTR_RDONLY))
		return -1;
	for (int i = 0; i < COUNT(devices); i++) {
		char path[32];
		snprintf(path, sizeof path, "/dev/%s", devices[i]);
		if (tree(TREE_DEVICES + i, path, 0, 0))
			return -1;
	}
	return job_folder ? tree(TREE_JOB, job_folder, 1, HIDDEN | MOUNT_ATTR_RDONLY) : 0;
}

static int write_map(pid_t pid, const char *file) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, id_map, sizeof id_map - 1) < 0)
		return failed(file);
	close(fd);
	return 0;
}

static int run(char **argv) {
	if (open_trees() || group_make())
		return -1;
	int pidfd = -1;
	// No CLONE_CLEAR_SIGHAND: settle has left nothing to clear.
	const int flags = CLONE_VM | CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUSER;
	__atomic_store_n(&mapped, 0, __ATOMIC_RELAXED);
	pid_t pid = group_clone(flags, &pidfd, stack, sizeof stack, init, argv);
	if (pid < 0)
		return failed("clone");
	int bad = write_map(pid, "uid_map") || write_map(pid, "gid_map");
	if (bad)
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	__atomic_store_n(&mapped, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &mapped, FUTEX_WAKE, 1, NULL, NULL, 0);
	siginfo_t info;
	if (syscall(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED, NULL) < 0)
		return failed("waitid");
	if (bad || failure.number)
		return -1;
	if (info.si_code == CLD_EXITED)
		return judge(info.si_status << 8);
	return judge(info.si_status);
}

static int launch(char **argv) {
	int result = run(argv);
	if (place_count && group_delete())
		result = -1;
	syscall(SYS_close_range, TREE_USR, 99, 0);
	return result;
}

// ---- What is looked up once, before the first round. ----

static int present(const char *dir, const char *name, int *folder) {
	char path[300];
	struct stat st;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	if (lstat(path, &st) < 0)
		return 0;
	*folder = S_ISDIR(st.st_mode);
	return 1;
}

static int look(const char *dir, const char *const *names, int n, struct name *found) {
	int count = 0;
	for (int i = 0; i < n; i++) {
		int folder;
		if (present(dir, names[i], &folder))
			found[count++] = (struct name){names[i], folder};
	}
	return count;
}

static void look_around(const char *program) {
	etc_hiddens = look("/etc", etc_denied, COUNT(etc_denied), etc_hidden);
	proc_hiddens = look("/proc", proc_masked, COUNT(proc_masked), proc_hidden);
	proc_fixeds = look("/proc", proc_readonly, COUNT(proc_readonly), proc_fixed);
	int folder;
	for (int i = 0; i < COUNT(etc_own); i++)
		etc_own[i].wanted = present("/etc", etc_own[i].name, &folder);
	for (int i = 0; i < COUNT(beside_usr); i++) {
		char path[32];
		snprintf(path, sizeof path, "/%s", beside_usr[i]);
		if (readlink(path, links[i], sizeof links[i] - 1) < 0 && errno != ENOENT)
			die("a folder beside /usr that is no link into it"); // an old layout, which this floor does not know
	}
	for (int i = 0; i < COUNT(limits); i++) {
		struct rlimit own;
		getrlimit(limits[i].which, &own);
		if (limits[i].limit.rlim_max > own.rlim_max)
			limits[i].limit.rlim_max = own.rlim_max;
		if (limits[i].limit.rlim_cur > limits[i].limit.rlim_max)
			limits[i].limit.rlim_cur = limits[i].limit.rlim_max;
	}
	char real[4096];
	if (!realpath(program, real))
		die(program);
	if (!strncmp(real, "/usr/", 5)) {
		strcpy(job_path, real);
		return;
	}
	char *slash = strrchr(real, '/');
	snprintf(job_path, sizeof job_path, "/run/job%s", slash);
	*slash = 0;
	job_folder = strdup(*real ? real : "/");
	struct stat st;
	if (stat(job_folder, &st) < 0 || !(st.st_mode & S_IXOTH)) {
		fprintf(stderr, "floor: %s: the job's ids must be allowed into it, see chmod o+x\n", job_folder);
		exit(1);
	}
}

int main(int argc, char **argv) {
	if (argc < 2) {
		fprintf(stderr, "usage: floor [-f] [-g FOLDER]... PROGRAM [ARGS...]\n");
		return 2;
	}
	settle();
	if (argc > 2 && !strcmp(argv[1], "-f")) {
		filter_make();
		argc--, argv++;
	}
	for (; argc > 3 && !strcmp(argv[1], "-g"); argc -= 2, argv += 2)
		groups_add(argv[2]);
	// The mounts' descriptors have fixed numbers, from the first on.
	for (int n = 0; n < place_count; n++) {
		int high = fcntl(places[n].base, F_DUPFD_CLOEXEC, 100);
		if (high < 0)
			die("dup");
		close(places[n].base);
		places[n].base = high;
	}
	look_around(argv[1]);
	return serve(launch, argv + 1);
}
