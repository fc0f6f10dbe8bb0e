package boot

import (
	"os"
	"syscall"

	"github.com/inlay-dev/inlay/internal/rawproc"
)

func init() {
	if len(os.Args) != 3 || os.Args[0] != Name {
		return
	}
	// Somebody else's program of that name has no such descriptor.
	if kind, err := syscall.GetsockoptInt(rawproc.ControlFD, syscall.SOL_SOCKET, syscall.SO_TYPE); err != nil || kind != syscall.SOCK_SEQPACKET {
		return
	}
	syscall.Umask(0)
	if err := syscall.Chdir("/"); err != nil {
		os.Exit(1)
	}
	// A service that is kept from the kernel's choice in want of memory does not
	// keep its jobs from it.
	const score = "/proc/self/oom_score_adj"
	if text, err := os.ReadFile(score); err == nil && text[0] == '-' {
		if err := os.WriteFile(score, []byte("0"), 0); err != nil {
			os.Exit(1)
		}
	}
	if _, err := rawproc.Launch(os.Args[1] == ArgUser, os.Args[2] == ArgWhole); err != nil {
		// One word: the errno. The host reads it as the answer.
		code := 1
		if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // Launch returns it bare, and errors may not be imported here
			code = int(errno)
		}
		os.Exit(code)
	}
	// The fork serves; a plain exit, since exit handlers (coverage) would write.
	_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0) // does not return
}
