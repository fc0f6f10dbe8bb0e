// A job whose figures are known beforehand, for the accuracy of what is reported.
//
//	cc -O2 -static -o job job.c
//
//	job nothing
//	job wait         until stdin ends
//	job sleep        until it is killed
//	job burn MS      of its own processor time; prints the nanoseconds that it had
//	job touch MIB    of anonymous memory
//	job getppid N    calls; prints the nanoseconds that they took
//	job compute N    rounds of work without calls; prints the same
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long used(void) {
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int print(long long n) {
	char text[32];
	int len = snprintf(text, sizeof text, "%lld\n", n);
	return write(1, text, len) != len;
}

int main(int argc, char **argv) {
	const char *what = argc > 1 ? argv[1] : "";
	long n = argc > 2 ? atol(argv[2]) : 0;
	if (!strcmp(what, "nothing"))
		return 0;
	if (!strcmp(what, "wait")) {
		char b;
		return read(0, &b, 1) != 0;
	}
	if (!strcmp(what, "sleep"))
		for (;;)
			pause();
	if (!strcmp(what, "burn")) {
		long long t;
		while ((t = used()) < n * 1000000)
			;
		return print(t);
	}
	if (!strcmp(what, "touch")) {
		size_t size = (size_t)n << 20;
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return 1;
		for (size_t i = 0; i < size; i += 4096)
			((volatile char *)p)[i] = 1;
		return 0;
	}
	// By the process's own clock: whatever else the machine does.
	long long begun = used();
	if (!strcmp(what, "getppid")) {
		for (long i = 0; i < n; i++)
			syscall(SYS_getppid);
		return print(used() - begun);
	}
	if (!strcmp(what, "compute")) {
		volatile unsigned long x = 1;
		for (long i = 0; i < n; i++)
			x = x * 6364136223846793005UL + 1442695040888963407UL;
		return print(used() - begun);
	}
	return 2;
}
