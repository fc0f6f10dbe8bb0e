// Package rootfs is the vocabulary of a container's files: what its root is,
// what is mounted in it, which files are written before the job starts. It does
// nothing by itself: package container takes its values as options, and they
// compile to steps of the plans.
//
// Every mount is made in the container's own mount namespace, so nothing of it
// is ever to be undone on the host. Paths inside a root are resolved by
// openat2(2) with RESOLVE_IN_ROOT: a link in a root leads to a place in that
// root.
package rootfs
