package container_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/security"
)

const refusedHere = "refused here"

// A process of the host's under a filter of its own, which ends it.
var _ = register(refusedHere, func([]string) int {
	runtime.LockOSThread()
	const load, equal, answer, kill, allow = 0x20, 0x15, 0x06, 0x80000000, 0x7fff0000
	program := []unix.SockFilter{{Code: load}, {Code: equal, Jf: 1, K: unix.SYS_MKDIRAT}, {Code: answer, K: kill}, {Code: answer, K: allow}}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 1
	}
	if err := errnoOf(unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(ptr(&prog)))); err != nil {
		return 1
	}
	_ = unix.Mkdir("/nowhere/new", 0o755) // the end
	return 1
})

// kernelTells whether this kernel's log names refused calls, to this user: that of a
// process that is in no container.
var kernelTells = sync.OnceValue(func() bool {
	log, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(log) //nolint:errcheck // only read from
	buf := make([]byte, 8192)
	for range 2 { // the kernel writes ten records in five seconds: once more after those
		cmd := exec.Command("/proc/self/exe", refusedHere)
		cmd.Env = append(os.Environ(), jobEnv)
		var e *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &e) {
			return false
		}
		for begun := time.Now(); time.Since(begun) < 6*time.Second; {
			n, err := unix.Read(log, buf)
			switch {
			case err == nil && strings.Contains(string(buf[:n]), fmt.Sprintf(" pid=%d ", cmd.Process.Pid)) && strings.Contains(string(buf[:n]), "type=1326"):
				return true
			case errors.Is(err, unix.EAGAIN):
				if _, err := unix.Poll([]unix.PollFd{{Fd: int32(log), Events: unix.POLLIN}}, 100); err != nil && !errors.Is(err, unix.EINTR) {
					return false
				}
			}
		}
	}
	return false
})

const refusedCalls = "refused calls"

var _ = register(refusedCalls, func(args []string) int {
	switch args[0] {
	case "mkdir":
		_ = unix.Mkdir("/tmp/new", 0o755)
	case "by another thread":
		done := make(chan struct{})
		go func() {
			_ = unix.Mkdir("/tmp/new", 0o755) // the end
			close(done)
		}()
		<-done
	case "x32":
		_, _, _ = unix.RawSyscall(1<<30|unix.SYS_GETPID, 0, 0, 0)
	}
	return 0
})

// The call that a filter ended a job for stands in the Result where the kernel
// tells it, and nothing where it does not.
func TestRefusedCallIsNamed(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	profile, err := security.ParseSeccomp([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}`))
	require.NoError(t, err)
	for _, tt := range []struct{ how, name string }{
		{"mkdir", "mkdirat"}, {"by another thread", "mkdirat"}, {"x32", "x32:39"}, {"itself", ""},
	} {
		t.Run(tt.how, func(t *testing.T) {
			if tt.how == "x32" && runtime.GOARCH != "amd64" {
				t.Skip("needs another machine: x32 is amd64's")
			}
			want := tt.name
			if !kernelTells() {
				t.Log("the kernel's log tells this user nothing: no names")
				want = ""
			}
			asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
				t.Helper()
				job := selfJob(t, refusedCalls, tt.how)
				if tt.how == "itself" {
					job = sh("kill -SYS $$")
				}
				res := run(job, container.WithSeccomp(profile))
				// The kernel writes ten records in five seconds: then it waits.
				for begun := time.Now(); want != "" && res.Syscall == "" && time.Since(begun) < 30*time.Second; {
					<-time.After(500 * time.Millisecond) // how often it is tried, no more
					res = run(job, container.WithSeccomp(profile))
				}
				require.Equal(t, container.SyscallRefused, res.Status, "%v", res)
				require.Equal(t, want, res.Syscall)
				if want != "" {
					require.Contains(t, res.String(), want)
				}
				text, err := json.Marshal(res)
				require.NoError(t, err)
				var back container.Result
				require.NoError(t, json.Unmarshal(text, &back))
				require.Equal(t, want, back.Syscall)
			})
		})
	}
}
