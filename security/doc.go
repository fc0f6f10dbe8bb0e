// Package security is the vocabulary of what a job may do: capabilities, seccomp
// profiles, resource limits by setrlimit(2), and the filter that every job has
// which shares its id with init. Package container takes its values as options, and
// they compile to steps of the exec plan.
//
// See capabilities(7), prlimit(2) and seccomp(2).
package security
