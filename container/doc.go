// Package container runs programs in containers of their own, from inside a Go
// program.
//
// [Run] starts a program, waits for it and returns a [Result] that says how it
// ended and why. [New] and its methods do the same step by step, and let further
// programs run in the container by [Container.Exec]. Every wish is an [Option];
// with none but a command, the program gets new namespaces of every kind, a
// read-only view of the host's /usr, no network, no capability, and nothing of
// the host program's files, environment or descriptors.
//
// [Command] does the same in the manner of os/exec: a program that runs others by
// exec.Command runs them in containers once it calls container.Command.
//
// An error means that inlay could not do what was asked. What the program itself
// did, however badly it ended, is a Result (and for a [Cmd] alone an [*ExitError]
// as well). A Container owns all that it made;
// Close gives everything back and may be called at any time, so defer it.
//
// The host program's own binary is executed once more, at the first start, as
// the launcher that all containers come from; nothing has to be called in main.
// The launcher takes over in a package's init, as early as Go allows: ahead of
// packages that import net, crypto or anything heavy. A package that imports no
// more than os, and whose path sorts earlier, has its init run once more in that
// process. It must not wait, exit or write there; os.Args[0] is "inlay-launcher".
//
// The launcher stays until the program ends. Once a program has started two
// containers with the same namespaces, the launcher also keeps one init ready for
// the next, for ten seconds after the last was asked for.
package container
