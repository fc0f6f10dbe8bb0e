// The base that launches are compared with: vfork, exec and wait, the least that
// a kernel takes to run a program. See rounds.h for how it is driven.
//
//	cc -O2 -static -o base base.c
#include "rounds.h"

static int launch(char **argv) {
	pid_t pid = vfork();
	if (pid == 0) {
		execve(argv[0], argv, environment);
		failed("execve"); // in the parent's memory
		_exit(127);
	}
	int status;
	if (pid < 0)
		return failed("vfork");
	if (waitpid(pid, &status, 0) != pid)
		return failed("waitpid");
	return failure.number ? -1 : judge(status);
}

int main(int argc, char **argv) {
	if (argc < 2) {
		fprintf(stderr, "usage: base PROGRAM [ARGS...]\n");
		return 2;
	}
	settle();
	return serve(launch, argv + 1);
}
