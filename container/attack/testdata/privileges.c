// Attacks that want ids and capabilities.
#include "attack.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/xattr.h>

enum { capabilities = 41 };

static struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

static int effective(void) {
	struct __user_cap_data_struct has[2];
	if (syscall(SYS_capget, &header, has))
		held("capget");
	return has[0].effective || has[1].effective;
}

static void take_capabilities(char **arg) {
	if (effective())
		escaped("it has capabilities");
	for (int c = 0; c < capabilities; c++) {
		struct __user_cap_data_struct want[2] = {0};
		want[c / 32].effective = want[c / 32].permitted = want[c / 32].inheritable = 1U << c % 32;
		if (!syscall(SYS_capset, &header, want) && effective())
			escaped("took capability %d", c);
	}
	held("capset");
}

static void ambient(char **arg) {
	struct __user_cap_data_struct has[2];
	if (syscall(SYS_capget, &header, has))
		held("capget");
	for (int i = 0; i < 2; i++)
		has[i].inheritable = has[i].permitted;
	if (syscall(SYS_capset, &header, has))
		refused("capset");
	for (int c = 0; c < capabilities; c++)
		if (!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, c, 0, 0) == 1)
			escaped("capability %d outlives execve", c);
	refused("PR_CAP_AMBIENT_RAISE");
	all_refused();
}

// What is in the bounding set can be got by a program with file capabilities.
static void bounding(char **arg) {
	for (int c = 0; c < capabilities; c++)
		if (prctl(PR_CAPBSET_READ, c, 0, 0, 0) == 1)
			escaped("capability %d is in the bounding set", c);
	contained("the bounding set is empty");
}

static void securebits(char **arg) {
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
		held("PR_SET_SECUREBITS");
	if (prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) != SECBIT_NO_SETUID_FIXUP)
		contained("other bits");
	escaped("capabilities outlive a change of ids");
}

static const unsigned others[] = {0, 1, 33, 1000, 1001, 65533, 65534, 65535, 65536, 100000, 524288};

static void other_user(char **arg) {
	unsigned before = getuid(), r, e, s;
	for (size_t i = 0; i < countof(others); i++) {
		if (others[i] == before)
			continue;
		if (!setresuid(-1, others[i], -1) || !setreuid(-1, others[i]) || !setuid(others[i])) {
			getresuid(&r, &e, &s);
			if (r != before || e != before || s != before)
				escaped("user %u became %u", before, e);
		}
	}
	held("setresuid");
}

static void other_group(char **arg) {
	unsigned before = getgid(), r, e, s;
	for (size_t i = 0; i < countof(others); i++) {
		if (others[i] == before)
			continue;
		if (!setresgid(-1, others[i], -1) || !setregid(-1, others[i]) || !setgid(others[i])) {
			getresgid(&r, &e, &s);
			if (r != before || e != before || s != before)
				escaped("group %u became %u", before, e);
		}
	}
	held("setresgid");
}

static void other_groups(char **arg) {
	gid_t now[64];
	for (size_t i = 0; i < countof(others); i++)
		if (!setgroups(1, &others[i]) && getgroups(countof(now), now) == 1 && now[0] == others[i])
			escaped("is in group %u", others[i]);
	held("setgroups");
}

static void file_user(char **arg) {
	for (size_t i = 0; i < countof(others); i++) {
		unsigned before = setfsuid(-1);
		if (others[i] == before)
			continue;
		setfsuid(others[i]);
		if ((unsigned)setfsuid(-1) == others[i])
			escaped("opens files as user %u", others[i]);
	}
	contained("setfsuid: still the same");
}

static void give_away(char **arg) {
	char path[256];
	struct stat st;
	int fd = scratch(arg[0], path);
	unlink(path);
	for (size_t i = 0; i < countof(others); i++)
		if (others[i] != geteuid() && !fchown(fd, others[i], -1) && !fstat(fd, &st) && st.st_uid == others[i])
			escaped("made a file of user %u", others[i]);
	held("fchown");
}

static void file_capabilities(char **arg) {
	char path[256];
	struct vfs_cap_data want = {.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, .data[0].permitted = 1 << CAP_NET_RAW};
	int fd = scratch(arg[0], path);
	unlink(path);
	if (fsetxattr(fd, "security.capability", &want, sizeof want, 0))
		held("fsetxattr");
	escaped("made a program with capabilities");
}

// A program of root's that is set-user-ID, run by somebody else.
static void set_user_id(char **arg) {
	char path[256];
	int status;
	int fd = scratch(arg[0], path);
	copy_self(fd);
	if (geteuid() && fchown(fd, 0, 0)) {
		int why = errno;
		unlink(path);
		errno = why;
		held("fchown");
	}
	int chmoded = fchmod(fd, 04755);
	close(fd);
	fd = open(path, O_PATH); // by which another user runs it in a folder that is root's alone
	unlink(path);
	if (chmoded || fd < 0)
		held("fchmod");
	pid_t pid = fork();
	if (!pid) {
		if (!geteuid() && setresuid(1000, 1000, 1000))
			held("setresuid");
		syscall(SYS_execveat, fd, "", (char *[]){"attack", "is-root", NULL}, (char *[]){NULL}, AT_EMPTY_PATH);
		held("execveat");
	}
	waitpid(pid, &status, 0);
	_exit(0); // the child has said it
}

// One of those that the host has: what its end leaves in /proc is who it was.
static void set_user_id_of_host(char **arg) {
	char path[64], line[256];
	int tried = 0;
	unsigned real, effective = getuid();
	for (char **p = (char *[]){"/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/newgrp", "/usr/bin/chsh", "/usr/bin/newuidmap", NULL}; *p; p++) {
		struct stat st;
		siginfo_t info;
		if (stat(*p, &st) || !(st.st_mode & S_ISUID))
			continue;
		pid_t pid = fork();
		if (!pid) {
			int null = open("/dev/null", O_RDWR);
			dup2(null, 0);
			dup2(null, 1);
			dup2(null, 2);
			execl(*p, *p, "--help", NULL);
			_exit(127);
		}
		if (waitid(P_PID, pid, &info, WEXITED | WNOWAIT))
			held("waitid");
		snprintf(path, sizeof path, "/proc/%d/status", pid);
		FILE *f = fopen(path, "r");
		if (!f)
			escaped("%s is another user's: its /proc is hidden", *p);
		while (fgets(line, sizeof line, f))
			sscanf(line, "Uid: %u %u", &real, &effective);
		waitpid(pid, NULL, 0);
		if (effective != getuid())
			escaped("%s ran as user %u", *p, effective);
		tried++;
	}
	contained("%d set-user-ID programs of the host's ran as user %u", tried, getuid());
}

void is_root(void) {
	if (geteuid() || !getuid())
		contained("runs as user %u", geteuid());
	escaped("user %u runs a program as root", getuid());
}

static void program_memory(char **arg) {
	unsigned long begin = 0, end = 0;
	char line[4096] = "";
	int fd = open("/proc/self/stat", O_RDONLY);
	if (fd < 0 || read(fd, line, sizeof line - 1) < 0)
		held("/proc/self/stat");
	char *at = strrchr(line, ')');
	for (int field = 2; at && field < 49; field++) {
		at = strchr(at + 1, ' ');
		if (at && field == 47)
			begin = strtoul(at, NULL, 10);
	}
	if (!begin)
		contained("no address of the arguments");
	if (prctl(PR_SET_MM, PR_SET_MM_ARG_END, begin + 1, 0, 0))
		held("PR_SET_MM");
	close(fd);
	fd = open("/proc/self/cmdline", O_RDONLY);
	end = read(fd, line, sizeof line);
	escaped("its arguments are %lu bytes in /proc", end);
}

const struct attack privilege_attacks[] = {
	{"capset", take_capabilities},
	{"ambient", ambient},
	{"bounding-set", bounding},
	{"securebits", securebits},
	{"setresuid", other_user},
	{"setresgid", other_group},
	{"setgroups", other_groups},
	{"setfsuid", file_user},
	{"chown", give_away},
	{"file-capabilities", file_capabilities},
	{"set-user-id", set_user_id},
	{"set-user-id-host", set_user_id_of_host},
	{"set-mm", program_memory},
	{NULL},
};
