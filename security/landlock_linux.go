package security

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// LandlockABI returns the version of Landlock's ABI that the kernel has. The error
// tells why there is none: a kernel that lacks it or did not enable it at its start
// (lsm= on its command line), or an outer container that refuses the call. It is
// asked once.
func LandlockABI() (int, error) { return landlockABI() }

var landlockABI = sync.OnceValues(func() (int, error) {
	const versionFlag = 1
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, versionFlag)
	if errno != 0 {
		return 0, fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	return int(n), nil
})
