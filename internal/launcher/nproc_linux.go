package launcher

import (
	"os"
	"sync"
)

// countsProcesses looks for what came with the change: since Linux 5.14 the
// kernel counts RLIMIT_NPROC, RLIMIT_MSGQUEUE, RLIMIT_SIGPENDING and
// RLIMIT_MEMLOCK in struct ucounts (commit 21d1c5e386bc). There is no file for
// them; the sysctl folder of the ucounts has had max_fanotify_groups since 5.13.
// A kernel of 5.13 exactly would be taken for one that counts; its only harm is
// an EAGAIN that comes early.
var countsProcesses = sync.OnceValue(func() bool {
	_, err := os.Stat("/proc/sys/user/max_fanotify_groups")
	return err == nil
})
