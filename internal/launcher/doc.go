// Package launcher starts and drives the launcher: the host program's own
// binary, executed once more, which serves every container of the host program
// over a socket.
//
// [Acquire] returns the running one or starts it. [Launcher.Spawn] asks it for
// an init; from then on the host talks to that init over a socket of its own.
// One goroutine for the whole program waits for what they say; it is there while
// any init is.
package launcher
