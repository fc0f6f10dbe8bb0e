// What all attacks use to try something and to say how it ended.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct attack {
	const char *name;
	void (*run)(char **arg);
};

// One table for each file, up to an entry without a name.
extern const struct attack kernel_attacks[], namespace_attacks[], mount_attacks[], process_attacks[], privilege_attacks[], network_attacks[], file_attacks[];

#define countof(list) (sizeof(list) / sizeof *(list))
#define ending __attribute__((noreturn, format(printf, 1, 2)))

ending void escaped(const char *format, ...);
ending void contained(const char *format, ...);

// held says which call was refused, by errno, and that this is the end.
__attribute__((noreturn)) void held(const char *call);

// refused notes it and goes on: for an attack that tries several ways.
void refused(const char *call);

// all_refused ends such an attack with all that it noted.
__attribute__((noreturn)) void all_refused(void);

// holds_secret tells whether a file, a socket or a pipe begins with the text.
int holds_secret(int fd, const char *secret);

// victim is the process of that number, if that is not this one by chance.
pid_t victim(const char *arg);

// scratch makes a file of 0700 in the first of these folders that is writable and that
// is there; the first may be NULL. It is unlinked by name where unlinked is set.
int scratch(const char *dir, char path[256]);

// copy_self fills such a file with this program.
void copy_self(int fd);

// tell writes a whole short text to a file and returns whether it could.
int tell(const char *path, const char *text);

// exits runs f in a child and returns the child's exit code, or -1 for another end.
int exits(int (*f)(void *), void *data);

// is_root is what the attack set-user-id executes.
__attribute__((noreturn)) void is_root(void);

// new_user_namespace makes one with these others, in which the caller is root.
int new_user_namespace(int others);
