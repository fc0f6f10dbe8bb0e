package network

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// heirName is os.Args[0] of the process that the launcher becomes after a host program
// that is gone: what that left on the host's network takes Go, netlink and nftables to
// remove. Its arguments are the state directory and the host program's process id.
const heirName = "inlay-heir"

// heirTime is how long it may take.
const heirTime = 30 * time.Second

func init() {
	if len(os.Args) != 3 || os.Args[0] != heirName {
		return
	}
	if inherit(os.Args[1], os.Args[2]) != nil {
		os.Exit(1) // nobody hears why: Prune tells, when it is tried again
	}
	os.Exit(0)
}

// Heir is netdriver.Driver's.
func (driver) Heir(stateDir string) (args []string, file string, err error) {
	err = onHost(func() error {
		file, err = lockPath(stateDir)
		return err
	})
	return []string{heirName, stateDir, strconv.Itoa(os.Getpid())}, file, err
}

// inherit prunes when the host program is gone.
func inherit(stateDir, host string) error {
	if err := showName(); err != nil {
		return err
	}
	pid, err := strconv.Atoi(host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), heirTime)
	defer cancel()
	if err := awaitParent(ctx, pid); err != nil {
		return err
	}
	_, kept := driver{}.Prune(ctx, stateDir)
	for _, e := range kept {
		err = errors.Join(err, e)
	}
	return err
}

// awaitParent waits until the parent, if that is still its number, is gone: the launcher
// heard of its end by a socket, and the kernel closes a killed program's descriptors one
// after the other, those with the locks among them.
func awaitParent(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd) //nolint:errcheck // only watched
	if os.Getppid() != pid {
		return nil // the number is another's by now
	}
	end, _ := ctx.Deadline()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(end).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return context.DeadlineExceeded
		default:
			return nil
		}
	}
}
