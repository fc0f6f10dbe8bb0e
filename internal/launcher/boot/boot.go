// Package boot is the launcher's first and last Go code.
//
// Its init looks at os.Args[0] once. In the launcher it never returns: it forks
// the raw loop of internal/rawproc and exits. It imports os, syscall and rawproc
// alone, so that it runs as early as Go allows: ahead of every package that
// needs net, crypto or anything else heavy. Packages that need no more than os
// and whose path sorts earlier run first, once for each launcher.
package boot

// Name is the launcher's os.Args[0].
const Name = "inlay-launcher"

// The launcher's os.Args[1].
const (
	ArgRoot = "root" // the launcher keeps the host's user namespace
	ArgUser = "user" // it makes one of its own
)

// The launcher's os.Args[2].
const (
	ArgSmall = "small" // it unmaps what the Go runtime had
	ArgWhole = "whole" // it keeps that, for the bench to compare with
)
