// Package inlay is the map of the module: containers inside a Go program. It
// holds no code.
//
// Begin with package container. Its Run starts a program in a container of its
// own, waits for it and says how it ended and why; the options of the other
// packages' words open one door each:
//
//   - container: options, a container's life, jobs, results and errors
//   - rootfs: what a container's / is, what is mounted in it
//   - namespace: the kinds of namespaces, maps of ids, hostnames
//   - security: capabilities, seccomp profiles, limits of setrlimit(2)
//   - cgroup: limits by control groups, and which hierarchy the host has
//   - containertest: for tests of programs that use containers
//
// What is asked for goes one way: options leave a Spec, a Spec is compiled to a
// plan of system calls, and the plan is run by the launcher, by init and by the
// job before its execve(2), in code that neither allocates nor schedules.
// Explain prints the plan.
//
// Imports point downwards only: container, then the packages of words, then
// internal/plan (steps as data), internal/launcher (the process that containers
// come from) and internal/rawproc (the code that runs steps after a fork).
//
// examples/run is a command line with Docker's flags. README.md is the way in,
// SECURITY.md says what holds and what is not promised.
package inlay
