package security

import (
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The kernel takes a compiled profile, and answers as it says. The filter is one
// thread's, which ends with the test.
func TestSeccompInTheKernel(t *testing.T) {
	s, err := ParseSeccomp([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
		{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
		{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78, "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]},
		{"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 79, "args": [
			{"index": 1, "value": 4294967296, "op": "SCMP_CMP_GT"}, {"index": 2, "value": 0, "op": "SCMP_CMP_EQ"}]},
		{"names": ["dup3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 80, "args": [
			{"index": 2, "value": 524288, "valueTwo": 524288, "op": "SCMP_CMP_MASKED_EQ"}]}]}`))
	require.NoError(t, err)
	program, err := s.Compile(runtime.GOARCH)
	if err != nil {
		t.Skipf("needs an architecture of the table: %v", err)
	}
	type answers struct{ attach, getppid, vsock, inet, seekNear, seekFar, dupCloexec, dup unix.Errno }
	got := make(chan answers)
	go func() {
		runtime.LockOSThread() // and never unlocked
		var a answers
		_, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
		if errno == 0 {
			filter := unix.SockFprog{Len: uint16(len(program)), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
			_, _, errno = unix.RawSyscall(unix.SYS_SECCOMP, 1, 0, uintptr(unsafe.Pointer(&filter)))
		}
		a.attach = errno
		call := func(nr uintptr, args ...uintptr) unix.Errno {
			var all [3]uintptr
			copy(all[:], args)
			_, _, errno := unix.RawSyscall(nr, all[0], all[1], all[2])
			return errno
		}
		bad := ^uintptr(0) // no descriptor
		a.getppid = call(unix.SYS_GETPPID)
		a.vsock = call(unix.SYS_SOCKET, 40, 99, 0)
		a.inet = call(unix.SYS_SOCKET, 4000, 1, 0)
		a.seekNear = call(unix.SYS_LSEEK, bad, 1<<32, 0)
		a.seekFar = call(unix.SYS_LSEEK, bad, 1<<32+1, 0)
		a.dupCloexec = call(unix.SYS_DUP3, bad, bad-1, unix.O_CLOEXEC)
		a.dup = call(unix.SYS_DUP3, bad, bad-1, 0)
		got <- a
	}()
	require.Equal(t, answers{
		getppid: 77, vsock: 78, inet: unix.EAFNOSUPPORT, seekNear: unix.EBADF, seekFar: 79, dupCloexec: 80, dup: unix.EBADF,
	}, <-got)
}

// BenchmarkSeccompAttach attaches a profile to a thread of its own.
func BenchmarkSeccompAttach(b *testing.B) {
	all, err := DefaultSeccomp(nil)
	require.NoError(b, err)
	for _, s := range []*Seccomp{all, Strict()} {
		program, err := s.Compile(runtime.GOARCH)
		if err != nil {
			b.Skipf("needs an architecture of the table: %v", err)
		}
		b.Run(s.String(), func(b *testing.B) {
			var total time.Duration
			took := make(chan time.Duration)
			for range b.N {
				go func() {
					runtime.LockOSThread() // and never unlocked
					if _, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
						b.Error(errno)
					}
					filter := unix.SockFprog{Len: uint16(len(program)), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
					begun := time.Now()
					if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, 1, specAllow, uintptr(unsafe.Pointer(&filter))); errno != 0 {
						b.Error(errno)
					}
					took <- time.Since(begun)
				}()
				total += <-took
			}
			b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/attach")
			b.ReportMetric(float64(len(program)), "instructions")
		})
	}
}
