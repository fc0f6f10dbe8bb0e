// Attacks on the mount table and on the root.
#include "attack.h"
#include <linux/mount.h>
#include <sys/statfs.h>

// <sys/mount.h> and <linux/mount.h> cannot both be included everywhere.
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);

// own_mounts makes a mount table of one's own where that is allowed, so that a host's does
// not change when the attack succeeds; else what is mounted is mounted in the container.
static void own_mounts(void) {
	if (unshare(CLONE_NEWNS)) {
		refused("unshare");
		if (errno != EPERM && errno != ENOSYS)
			all_refused();
		return;
	}
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		refused("mount MS_PRIVATE");
}

static void mount_and_look(const char *type, const char *name) {
	char path[64];
	own_mounts();
	if (mount(type, "/tmp", type, 0, NULL)) {
		refused("mount");
		all_refused();
	}
	snprintf(path, sizeof path, "/tmp/%s", name);
	if (access(path, F_OK))
		held(path);
	escaped("mounted %s", type);
}

static void mount_tmpfs(char **arg) {
	own_mounts();
	if (mount("attack", "/tmp", "tmpfs", 0, NULL)) {
		refused("mount");
		all_refused();
	}
	if (open("/tmp/attack", O_CREAT | O_EXCL | O_WRONLY, 0600) < 0)
		held("open");
	escaped("mounted a tmpfs");
}

// A new /proc has no masks.
static void mount_proc(char **arg) { mount_and_look("proc", "sys/kernel"); }
static void mount_sysfs(char **arg) { mount_and_look("sysfs", "kernel"); }
static void mount_cgroup(char **arg) { mount_and_look("cgroup2", "cgroup.controllers"); }

static int made(const char *type) {
	int fs = syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	if (fs < 0)
		held("fsopen");
	if (syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		held("fsconfig");
	int fd = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	if (fd < 0)
		held("fsmount");
	return fd;
}

static void fsopen_tmpfs(char **arg) {
	int fd = made("tmpfs");
	if (openat(fd, "attack", O_CREAT | O_EXCL | O_WRONLY, 0600) < 0)
		held("openat");
	escaped("a tmpfs that is mounted nowhere");
}

static void fsopen_proc(char **arg) {
	int fd = made("proc");
	if (openat(fd, "sys/kernel/core_pattern", O_RDONLY) < 0)
		held("openat");
	escaped("a /proc without masks");
}

// next_mount reads mountinfo's places one by one that begin with a text.
static int next_mount(FILE *f, const char *prefix, char place[256]) {
	char line[4096];
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "%*s %*s %*s %*s %255s", place) == 1 && !strncmp(place, prefix, strlen(prefix)))
			return 1;
	return 0;
}

// A copy of /proc without what is mounted in it shows what the masks cover.
static void open_tree_masked(char **arg) {
	char place[256];
	struct stat covered, bare;
	int copy = syscall(SYS_open_tree, AT_FDCWD, "/proc", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (copy < 0)
		held("open_tree");
	FILE *f = fopen("/proc/self/mountinfo", "r");
	if (!f)
		held("mountinfo");
	while (next_mount(f, "/proc/", place))
		if (!stat(place, &covered) && !fstatat(copy, place + 6, &bare, 0) && (covered.st_dev != bare.st_dev || covered.st_ino != bare.st_ino))
			escaped("%s without its mask", place);
	contained("no place in the copy differs");
}

static void unmount_masks(char **arg) {
	char place[256];
	FILE *f = fopen("/proc/self/mountinfo", "r");
	if (!f)
		held("mountinfo");
	own_mounts();
	while (next_mount(f, "/proc/", place)) {
		if (!umount2(place, 2 /* MNT_DETACH */))
			escaped("took off the mask of %s", place);
		refused(place);
	}
	all_refused();
}

// writes tells whether a folder takes a new file, and removes that.
static int writes(const char *dir) {
	char path[256];
	snprintf(path, sizeof path, "%s/inlay-attack", dir);
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0) {
		refused("open for writing");
		return 0;
	}
	close(fd);
	return !unlink(path);
}

// read_only makes the stand-in of a container's read-only mount, where one is named.
static void read_only(const char *dir) {
	own_mounts();
	if (!dir)
		return;
	if (mount(dir, dir, NULL, MS_BIND, NULL) || mount(NULL, dir, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL))
		held("a read-only mount");
	if (writes(dir))
		contained("%s is no read-only mount", dir);
}

static void remount(char **arg) {
	read_only(arg[1]);
	for (char **p = (char *[]){arg[0], "/", "/etc", "/run/attack", NULL}; *p; p++) {
		if (mount(NULL, *p, NULL, MS_REMOUNT | MS_BIND, NULL))
			refused("mount MS_REMOUNT");
		else if (writes(*p))
			escaped("wrote to %s", *p);
	}
	all_refused();
}

static void set_attributes(char **arg) {
	struct mount_attr attr = {.attr_clr = MOUNT_ATTR_RDONLY};
	read_only(arg[1]);
	for (char **p = (char *[]){arg[0], "/", "/etc", NULL}; *p; p++) {
		if (syscall(SYS_mount_setattr, AT_FDCWD, *p, 0, &attr, sizeof attr))
			refused("mount_setattr");
		else if (writes(*p))
			escaped("wrote to %s", *p);
	}
	all_refused();
}

// Something of one's own over /usr: set-user-ID programs would read it.
static void cover(char **arg) {
	own_mounts();
	if (mount("/tmp", "/usr", NULL, MS_BIND, NULL))
		refused("mount MS_BIND");
	int fd = syscall(SYS_open_tree, AT_FDCWD, "/tmp", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (fd < 0)
		refused("open_tree");
	else if (syscall(SYS_move_mount, fd, "", AT_FDCWD, "/usr", MOVE_MOUNT_F_EMPTY_PATH))
		refused("move_mount");
	if (access("/usr/bin", F_OK))
		escaped("/usr is covered");
	all_refused();
}

static void pivot(char **arg) {
	own_mounts();
	if (mount("attack", "/tmp", "tmpfs", 0, NULL)) {
		refused("mount");
		all_refused();
	}
	if (chdir("/tmp") || syscall(SYS_pivot_root, ".", "."))
		held("pivot_root");
	escaped("another root");
}

// A folder that is open outside of the new root leads to where ".." goes on.
static void chroot_escape(char **arg) {
	char dir[256];
	int fd = scratch(NULL, dir);
	close(fd);
	unlink(dir);
	if (mkdir(dir, 0700))
		held("mkdir");
	int outside = open("/", O_RDONLY | O_DIRECTORY);
	int failed = chroot(dir), why = errno;
	rmdir(dir);
	errno = why;
	if (failed)
		held("chroot");
	if (fchdir(outside))
		held("fchdir");
	for (int i = 0; i < 64; i++)
		if (chdir(".."))
			held("chdir");
	if (chroot("."))
		held("chroot .");
	fd = open(arg[0], O_RDONLY);
	if (fd < 0)
		held("open");
	if (!holds_secret(fd, arg[1]))
		contained("another file");
	escaped("read %s from a root below it", arg[0]);
}

const struct attack mount_attacks[] = {
	{"mount-tmpfs", mount_tmpfs},
	{"mount-proc", mount_proc},
	{"mount-sysfs", mount_sysfs},
	{"mount-cgroup", mount_cgroup},
	{"fsopen-tmpfs", fsopen_tmpfs},
	{"fsopen-proc", fsopen_proc},
	{"open-tree-masked", open_tree_masked},
	{"unmount-masks", unmount_masks},
	{"remount", remount},
	{"mount-setattr", set_attributes},
	{"mount-cover", cover},
	{"pivot-root", pivot},
	{"chroot-escape", chroot_escape},
	{NULL},
};
