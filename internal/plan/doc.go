// Package plan describes what will be done in a process that cannot run Go:
// a flat list of system calls, complete before the fork.
//
// A [Builder] has one method for each system call, with the arguments in the
// order of its man page. What it builds is a [Plan]: pure data, the same for
// the same input on any host and any operating system, so that whole plans can
// be compared with golden files on a Mac. [Plan.Encode] lays it out for the
// interpreter in internal/rawproc; [Plan.Explain] prints it for people, in
// strace's manner.
//
// A plan has no branches. Every choice (new mount API or old, which masks) is
// made while it is built. What a step returns can be kept in a register and
// used by later steps, also by those of later plans of the same container:
// init is a copy of the launcher's memory, so it sees the registers that the
// prepare plan filled.
package plan
