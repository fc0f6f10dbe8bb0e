// Attacks that want the host's files.
#include "attack.h"
#include <sys/fanotify.h>
#include <sys/sysmacros.h>

static void read_canary(char **arg) {
	int fd = open(arg[0], O_RDONLY);
	if (fd < 0)
		held("open");
	if (!holds_secret(fd, arg[1]))
		contained("another file");
	escaped("read %s", arg[0]);
}

// Any file of a disk is opened by its number, once any folder of that disk is in sight:
// number 2 is the root of ext4 and its kin.
static void shocker(char **arg) {
	struct {
		struct file_handle h;
		uint32_t ino, gen;
	} root = {{8, 1 /* FILEID_INO32_GEN */}, 2, 0};
	char *slash = strdup(arg[0]);
	*strrchr(slash, '/') = 0;
	for (char **p = (char *[]){slash, "/usr", "/etc", "/run/attack", "/", NULL}; *p; p++) {
		int mount = open(*p, O_RDONLY | O_CLOEXEC);
		if (mount < 0)
			continue;
		int dir = open_by_handle_at(mount, &root.h, O_RDONLY | O_DIRECTORY);
		if (dir < 0) {
			refused(*p);
			continue;
		}
		int fd = openat(dir, arg[0] + 1, O_RDONLY);
		if (fd >= 0 && holds_secret(fd, arg[1]))
			escaped("opened the root of a disk by its number, and %s below it", arg[0]);
		refused("openat");
	}
	all_refused();
}

static int node(const char *dir, mode_t mode, dev_t dev) {
	char path[256];
	int fd = scratch(dir, path);
	close(fd);
	unlink(path);
	if (mknod(path, mode, dev))
		held("mknod");
	fd = open(path, O_RDONLY | O_NONBLOCK);
	int why = errno;
	unlink(path);
	errno = why;
	if (fd < 0)
		held("open of the node");
	return fd;
}

static void disk(char **arg) {
	unsigned major, minor;
	char block[4096];
	if (sscanf(arg[0], "%u:%u", &major, &minor) != 2)
		contained("no numbers: %s", arg[0]);
	int fd = node(arg[1], S_IFBLK | 0600, makedev(major, minor));
	if (read(fd, block, sizeof block) != sizeof block)
		held("read");
	escaped("read the disk %s", arg[0]);
}

static void kernel_messages(char **arg) {
	char text[8192];
	int fd = node(arg[0], S_IFCHR | 0600, makedev(1, 11));
	if (read(fd, text, sizeof text) <= 0)
		held("read");
	escaped("read the kernel's log by a node of its own");
}

// Every file that anybody on the machine opens on this disk.
static void watch_disk(char **arg) {
	struct fanotify_event_metadata event;
	int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		held("fanotify_init");
	if (fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, AT_FDCWD, "/usr"))
		held("fanotify_mark");
	close(open("/usr/bin", O_RDONLY));
	// A folder is no file to it: any file of /usr.
	close(open("/proc/self/exe", O_RDONLY));
	escaped("a file system is watched as a whole%s", read(fd, &event, sizeof event) > 0 ? ", and files are opened" : "");
}

// A descriptor or a working folder that a runtime forgot to close leads outside.
static void leaked(char **arg) {
	char path[512], up[] = "../../../../../../../../../../../../../../../..";
	if (arg[2] && (open(arg[2], O_RDONLY) < 0 || chdir(arg[2]))) // the stand-in of one
		held(arg[2]);
	for (int i = -1; i < 4096; i++) {
		if (i < 0)
			snprintf(path, sizeof path, "/proc/self/cwd/%s%s", up, arg[0]);
		else
			snprintf(path, sizeof path, "/proc/self/fd/%d/%s%s", i, up, arg[0]);
		int fd = open(path, O_RDONLY);
		if (fd >= 0 && holds_secret(fd, arg[1]))
			escaped("read %s by %s", arg[0], path);
		if (fd >= 0)
			close(fd);
	}
	contained("no descriptor leads to %s", arg[0]);
}

// Descriptors beyond the first three are none of the job's.
static void descriptors(char **arg) {
	struct stat st;
	if (arg[0] && open(arg[0], O_PATH) < 0) // the stand-in of a leak
		held(arg[0]);
	for (int i = 3; i < 65536; i++)
		if (!fstat(i, &st))
			escaped("descriptor %d is open: mode %o, inode %llu", i, st.st_mode, (unsigned long long)st.st_ino);
	contained("none is open");
}

// The program that runs here is a file of the host's: its mode and its bytes.
static void own_program(char **arg) {
	struct stat before, after;
	const char *path = arg[0];
	if (stat(path, &before))
		held("stat");
	for (int *f = (int[]){O_WRONLY, O_RDWR, -1}; *f >= 0; f++) {
		if (open(path, *f) >= 0)
			escaped("opened %s for writing", path);
		refused("open for writing");
	}
	if (chmod(path, before.st_mode ^ S_IXOTH))
		refused("chmod");
	if (unlink(path))
		refused("unlink");
	if (stat(path, &after) || after.st_mode != before.st_mode)
		escaped("%s is another than before", path);
	all_refused();
}

const struct attack file_attacks[] = {
	{"read-canary", read_canary},
	{"shocker", shocker},
	{"mknod-disk", disk},
	{"mknod-kmsg", kernel_messages},
	{"fanotify", watch_disk},
	{"leaked-descriptors", leaked},
	{"open-descriptors", descriptors},
	{"own-program", own_program},
	{NULL},
};
