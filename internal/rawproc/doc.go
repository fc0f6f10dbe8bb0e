// Package rawproc is what runs where Go cannot: in the launcher's loop, in a
// container's init and in a job before its execve.
//
// These processes are forks of a Go process with one thread and no scheduler,
// no collector and no signal handlers. From the clone on the code here may not
// allocate, lock, grow its stack, store a pointer outside the stack or call
// anything that does:
//
//   - it runs on a stack of its own with a zeroed g, so that no stack check
//     ever fails (the word it is compared with is 0);
//   - every function carries go:norace and go:nocheckptr, since the race and
//     pointer checkers call into the runtime (a test looks);
//   - addresses are uintptr, so that no write barrier is ever needed;
//   - no variable of a package is used: those that begin as zeros are zeros again in
//     the launcher, which has unmapped all of the runtime's memory.
//
// It imports syscall and unsafe alone: what imports it runs early in the
// launcher, ahead of heavy packages.
package rawproc
