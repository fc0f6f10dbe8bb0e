// What a control group costs on raw system calls: made, with limits of memory,
// processors and processes, entered by a child that is born in it, and deleted.
// See rounds.h for how it is driven, and groups.h for what it does.
//
//	cc -O2 -static -o group group.c
//
//	group - FOLDER...        no child
//	group PROGRAM FOLDER...  with one
#include "rounds.h"

#include "groups.h"

static char stack[16 << 10] __attribute__((aligned(64)));

static int child(void *program) {
	char *argv[] = {program, NULL};
	if (!group_enter()) {
		execve(argv[0], argv, environment);
		failed("execve");
	}
	_exit(127);
}

static int launch(char **argv) {
	if (group_make())
		return -1;
	int status = 0;
	if (argv[0][0] != '-') {
		pid_t pid = group_clone(CLONE_VM | CLONE_VFORK, NULL, stack, sizeof stack, child, argv[0]);
		if (pid < 0)
			return failed("clone3");
		if (waitpid(pid, &status, 0) != pid)
			return failed("waitpid");
	}
	if (group_delete() || failure.number)
		return -1;
	return judge(status);
}

int main(int argc, char **argv) {
	if (argc < 3) {
		fprintf(stderr, "usage: group PROGRAM|- FOLDER...\n");
		return 2;
	}
	settle();
	for (int i = 2; i < argc; i++)
		groups_add(argv[i]);
	return serve(launch, argv + 1);
}
