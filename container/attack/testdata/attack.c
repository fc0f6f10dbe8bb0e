// Attacks on a container, one function each: attack NAME [ARG...] runs one and
// prints ESCAPED or CONTAINED with the reason; attack -l lists them.
#include "attack.h"

static void say(const char *what, const char *format, va_list args) {
	printf("%s: ", what);
	vprintf(format, args);
	printf("\n");
	fflush(stdout);
	_exit(0);
}

void escaped(const char *format, ...) {
	va_list args;
	va_start(args, format);
	say("ESCAPED", format, args);
	abort();
}

void contained(const char *format, ...) {
	va_list args;
	va_start(args, format);
	say("CONTAINED", format, args);
	abort();
}

void held(const char *call) { contained("%s: %s", call, strerror(errno)); }

static char noted[1024];

void refused(const char *call) {
	size_t n = strlen(noted);
	snprintf(noted + n, sizeof noted - n, "%s%s: %s", n ? ", " : "", call, strerror(errno));
}

void all_refused(void) { contained("%s", *noted ? noted : "nothing to try"); }

int holds_secret(int fd, const char *secret) {
	char text[512] = "";
	ssize_t n = read(fd, text, sizeof text - 1);
	return n > 0 && *secret && !strncmp(text, secret, strlen(secret));
}

pid_t victim(const char *arg) {
	pid_t pid = atoi(arg);
	if (pid <= 0)
		contained("no pid: %s", arg);
	if (pid == getpid())
		contained("process %d is this one", pid);
	return pid;
}

int scratch(const char *dir, char path[256]) {
	const char *dirs[] = {dir, "/tmp", "/dev/shm", "/run", "/var/tmp"};
	for (size_t i = 0; i < countof(dirs); i++) {
		if (!dirs[i])
			continue;
		snprintf(path, 256, "%s/attack-XXXXXX", dirs[i]);
		int fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
	held("mkstemp");
}

void copy_self(int fd) {
	char block[65536];
	ssize_t n;
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (self < 0)
		held("open /proc/self/exe");
	while ((n = read(self, block, sizeof block)) > 0)
		if (write(fd, block, n) != n)
			held("write a copy of this program");
	close(self);
}

int tell(const char *path, const char *text) {
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	int ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	int saved = errno;
	close(fd);
	errno = saved;
	return ok;
}

int exits(int (*f)(void *), void *data) {
	int status;
	pid_t pid = fork();
	if (pid < 0)
		held("fork");
	if (!pid)
		_exit(f(data));
	if (waitpid(pid, &status, 0) < 0)
		held("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int new_user_namespace(int others) {
	char map[64];
	int uid = geteuid(), gid = getegid();
	if (unshare(CLONE_NEWUSER | others))
		return -1;
	snprintf(map, sizeof map, "0 %d 1", uid);
	if (!tell("/proc/self/setgroups", "deny") || !tell("/proc/self/uid_map", map))
		return -1;
	snprintf(map, sizeof map, "0 %d 1", gid);
	return tell("/proc/self/gid_map", map) ? 0 : -1;
}

int main(int argc, char **argv) {
	const struct attack *tables[] = {file_attacks, kernel_attacks, namespace_attacks, mount_attacks, process_attacks, privilege_attacks, network_attacks};
	int listing = argc == 2 && !strcmp(argv[1], "-l");
	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "is-root"))
		is_root();
	for (size_t i = 0; i < countof(tables); i++) {
		for (const struct attack *a = tables[i]; a->name; a++) {
			if (listing) {
				puts(a->name);
			} else if (!strcmp(argv[1], a->name)) {
				a->run(argv + 2);
				return 3; // an attack that says nothing is broken
			}
		}
	}
	return listing ? 0 : 2;
}
