// What base.c and floor.c share: the protocol by which the benchmark has them
// launch one program at a time, interleaved with others.
//
//	base  PROGRAM [ARGS...]
//	floor PROGRAM [ARGS...]
//
// For each byte on stdin, one launch and one line on stdout: the nanoseconds
// from before the launch to after the last wait (CLOCK_MONOTONIC), or "error
// STEP NUMBER": an errno, but for STEP "status" the exit code of the program
// (128+n if signal n ended it). At the end of stdin they exit with 0.
//
// The program reads /dev/null and writes both outputs to stderr.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS_IN = 3, ROUNDS_OUT = 4 };

// The step that failed and its errno. Volatile, since children that share this
// memory write it as well.
static volatile struct {
	const char *step;
	int number;
} failure;

static char *const environment[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LANG=C.UTF-8", "TERM=dumb", NULL,
};

static void die(const char *what) {
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

// A status other than 0 is an error: a program that could not run must not look
// like a fast one.
static int judge(int status) {
	if (!status)
		return 0;
	failure.step = "status";
	failure.number = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	return -1;
}

static int failed(const char *step) {
	failure.step = step;
	failure.number = errno;
	return -1;
}

// Moves the protocol to ROUNDS_IN and ROUNDS_OUT, so that 0 to 2 already are
// what a program gets, and resets what exec would hand down.
static void settle(void) {
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int in = fcntl(0, F_DUPFD_CLOEXEC, 10), out = fcntl(1, F_DUPFD_CLOEXEC, 10);
	if (null < 0 || in < 0 || out < 0 || dup2(null, 0) < 0 || dup2(2, 1) < 0)
		die("stdin, stdout and stderr must be open");
	if (dup3(in, ROUNDS_IN, O_CLOEXEC) < 0 || dup3(out, ROUNDS_OUT, O_CLOEXEC) < 0)
		die("dup3");
	syscall(SYS_close_range, ROUNDS_OUT + 1, ~0U, 0);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
}

// Answers until stdin ends. launch returns 0, or -1 with failure filled in.
static int serve(int (*launch)(char **argv), char **argv) {
	char line[128], byte;
	while (read(ROUNDS_IN, &byte, 1) == 1) {
		struct timespec from, to;
		failure.number = 0;
		clock_gettime(CLOCK_MONOTONIC, &from);
		int failed = launch(argv);
		clock_gettime(CLOCK_MONOTONIC, &to);
		long long ns = (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec;
		int n = failed ? snprintf(line, sizeof line, "error %s %d\n", failure.step, failure.number)
			       : snprintf(line, sizeof line, "%lld\n", ns);
		if (write(ROUNDS_OUT, line, n) != n)
			return 1;
	}
	return 0;
}
