package container_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/security"
)

// doors are system calls that open more of the kernel than a job needs, made so
// that without a filter they fail by their arguments, or do nothing.
var doors = map[string]func() (uintptr, uintptr, uintptr, uintptr){
	"unshare user": func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0 },
	"clone user": func() (uintptr, uintptr, uintptr, uintptr) {
		return unix.SYS_CLONE, unix.CLONE_NEWUSER | unix.CLONE_SIGHAND, 0, 0
	},
	"clone3":                     func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_CLONE3, 0, 0, 0 },
	"keyctl":                     func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_KEYCTL, 99999, 0, 0 },
	"add_key":                    func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_ADD_KEY, 0, 0, 0 },
	"bpf":                        func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_BPF, 99999, 0, 0 },
	"perf_event_open":            func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_PERF_EVENT_OPEN, 0, 0, 0 },
	"userfaultfd":                func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_USERFAULTFD, ^uintptr(0), 0, 0 },
	"io_uring_setup":             func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_IO_URING_SETUP, 0, 0, 0 },
	"kexec_load":                 func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_KEXEC_LOAD, 0, 0, 0 },
	"init_module":                func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_INIT_MODULE, 0, 0, 0 },
	"quotactl":                   func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_QUOTACTL, ^uintptr(0), 0, 0 },
	"swapon":                     func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SWAPON, 0, 0, 0 },
	"acct":                       func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_ACCT, 1, 0, 0 },
	"mount":                      func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_MOUNT, 0, 0, 0 },
	"open_by_handle":             func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(0), 0, 0 },
	"settimeofday":               func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SETTIMEOFDAY, 1, 1, 0 },
	"socket AF_VSOCK":            func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SOCKET, unix.AF_VSOCK, 9999, 0 },
	"socket AF_VSOCK, more bits": func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SOCKET, 1<<32 | unix.AF_VSOCK, 9999, 0 },
	"socket AF_ALG": func() (uintptr, uintptr, uintptr, uintptr) {
		return unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 9999
	},
	"socket AF_KEY":            func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SOCKET, unix.AF_KEY, 9999, 0 },
	"socket AF_AX25":           func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SOCKET, unix.AF_AX25, 9999, 0 },
	"socket AF_RDS":            func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SOCKET, unix.AF_RDS, 9999, 0 },
	"socket AF_XDP":            func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SOCKET, unix.AF_XDP, 9999, 0 },
	"socket AF_KEY, more bits": func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_SOCKET, 1<<32 | unix.AF_KEY, 9999, 0 },
	"protocol SCTP": func() (uintptr, uintptr, uintptr, uintptr) {
		return unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP
	},
	"protocol SCTP, more bits": func() (uintptr, uintptr, uintptr, uintptr) {
		return unix.SYS_SOCKET, 1<<32 | unix.AF_INET6, 1<<32 | unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 1<<32 | unix.IPPROTO_SCTP
	},
	"protocol of SOCK_DCCP": func() (uintptr, uintptr, uintptr, uintptr) {
		return unix.SYS_SOCKET, unix.AF_INET6, unix.SOCK_DCCP | unix.SOCK_NONBLOCK, 0
	},
	"protocol sock_diag": func() (uintptr, uintptr, uintptr, uintptr) {
		return unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG
	},
	"protocol of genl": func() (uintptr, uintptr, uintptr, uintptr) {
		return unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_GENERIC
	},
	"TIOCSTI, more bits": func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_IOCTL, 0, 1<<32 | unix.TIOCSTI, 0 },
	"TIOCLINUX":          func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_IOCTL, 0, unix.TIOCLINUX, 0 },
	"personality":        func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_PERSONALITY, 0x1234, 0, 0 },
	"of the future":      func() (uintptr, uintptr, uintptr, uintptr) { return 999, 0, 0, 0 },
	"nothing special":    func() (uintptr, uintptr, uintptr, uintptr) { return unix.SYS_GETPID, 0, 0, 0 },
}

var doorsJob = register("doors", func([]string) int {
	runtime.LockOSThread()
	got := map[string]string{}
	for name, f := range doors {
		nr, a, b, c := f()
		_, _, errno := unix.RawSyscall6(nr, a, b, c, 0, 0, 0)
		got[name] = unix.ErrnoName(errno)
	}
	text, err := json.Marshal(got)
	if err != nil {
		return 1
	}
	fmt.Println(string(text))
	return 0
})

// The default profile closes them, for the main job and for Exec.
func TestDefaultSeccomp(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	closed := map[string]string{"clone3": "ENOSYS", "of the future": "ENOSYS", "nothing special": ""}
	for name := range doors {
		if strings.HasPrefix(name, "socket ") {
			closed[name] = "EAFNOSUPPORT"
		}
		if strings.HasPrefix(name, "protocol ") {
			closed[name] = "EPROTONOSUPPORT"
		}
	}
	ask := func(t *testing.T, c *container.Container, opts ...container.JobOption) map[string]string {
		t.Helper()
		var out strings.Builder
		p, err := c.Exec(timeout(t), append(opts, selfJob(t, doorsJob), container.WithStdout(&out))...)
		require.NoError(t, err)
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.NoError(t, res.Err())
		got := map[string]string{}
		require.NoError(t, json.Unmarshal([]byte(out.String()), &got), out.String())
		return got
	}
	c := start(t, selfMount(t))
	for name, errno := range ask(t, c) {
		want, ok := closed[name]
		if !ok {
			want = "EPERM"
		}
		require.Equal(t, want, errno, name)
	}
	// Without it most are the kernel's to refuse, by their arguments.
	open := ask(t, c, container.WithSeccomp(security.Unconfined()))
	for _, name := range []string{"clone3", "keyctl", "socket AF_VSOCK", "io_uring_setup", "userfaultfd", "clone user"} {
		require.NotContains(t, []string{"EPERM", "ENOSYS"}, open[name], name)
	}
	for name, errno := range ask(t, c, container.WithSeccomp(security.Strict())) {
		want, ok := closed[name]
		switch {
		case strings.HasPrefix(name, "protocol "):
			want = "EAFNOSUPPORT" // whatever it is of
		case !ok:
			want = "EPERM"
		}
		require.Equal(t, want, errno, name)
	}
	require.NoError(t, c.Close())

	// Exec has the container's profile, if it has none of its own.
	strict, err := security.ParseSeccomp([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["quotactl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]}`))
	require.NoError(t, err)
	c = start(t, selfMount(t), container.WithSeccomp(strict))
	require.Equal(t, "EIO", ask(t, c)["quotactl"])
	require.NotEqual(t, "EIO", ask(t, c, container.WithSeccomp(security.Unconfined()))["quotactl"])
	require.NoError(t, c.Close())
}

// A profile that kills ends the job with SIGSYS; one that the job cannot begin
// under says so; what no kernel could do is a fault of the request.
func TestSeccompProfiles(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	parse := func(text string) *security.Seccomp {
		s, err := security.ParseSeccomp([]byte(text))
		require.NoError(t, err)
		return s
	}
	kill := parse(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}`)
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		res := run(sh("mkdir /tmp/a; exit $?"), container.WithSeccomp(kill))
		require.Equal(t, 128+int(unix.SIGSYS), res.ShellCode(), "%v: the shell tells of its child", res)
		res = run(container.WithCommand("mkdir", "/tmp/a"), container.WithSeccomp(kill))
		require.Equal(t, container.SyscallRefused, res.Status, "%v", res)
		require.Equal(t, unix.SIGSYS, res.Signal)
	})
	_, err := container.Run(timeout(t), sh("true"), container.WithSeccomp(parse(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`)))
	var e *container.StartError
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, unix.Errno(95))
	_, err = container.New(sh("true"), container.WithSeccomp(parse(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}`)))
	require.ErrorContains(t, err, "nobody to answer")
	_, err = container.New(sh("true"), container.WithSeccomp(parse(`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}`)))
	require.ErrorContains(t, err, "not among them")
}

// What programs use has to be left over: ordinary sockets, and by capability raw ones and
// all of netlink.
var socketsJob = register("sockets", func([]string) int {
	got := map[string]string{}
	for name, s := range usedSockets {
		fd, err := unix.Socket(s[0], s[1]|unix.SOCK_CLOEXEC, s[2])
		if err == nil {
			err = unix.Close(fd)
		}
		got[name] = fmt.Sprint(err)
	}
	text, err := json.Marshal(got)
	if err != nil {
		return 1
	}
	fmt.Println(string(text))
	return 0
})

var usedSockets = map[string][3]int{
	"unix": {unix.AF_UNIX, unix.SOCK_SEQPACKET, 0}, "tcp": {unix.AF_INET, unix.SOCK_STREAM, 0}, "tcp by name": {unix.AF_INET6, unix.SOCK_STREAM | unix.SOCK_NONBLOCK, unix.IPPROTO_TCP},
	"udp": {unix.AF_INET6, unix.SOCK_DGRAM, 0}, "udp by name": {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, "routes": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
	"events": {unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_KOBJECT_UEVENT}, "raw": {unix.AF_INET, unix.SOCK_RAW, 89}, "raw6": {unix.AF_INET6, unix.SOCK_RAW, 89},
	"generic": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC},
}

func TestDefaultSeccompSockets(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for name, tt := range map[string]struct {
		opts   []container.Option
		closed map[string]string
	}{
		"no capability": {nil, map[string]string{"raw": "operation not permitted", "raw6": "operation not permitted", "generic": "protocol not supported"}},
		"CAP_NET_RAW":   {[]container.Option{container.WithCapabilities("CAP_NET_RAW")}, map[string]string{"generic": "protocol not supported"}},
		"CAP_NET_ADMIN": {[]container.Option{container.WithCapabilities("CAP_NET_ADMIN")}, map[string]string{"raw": "operation not permitted", "raw6": "operation not permitted"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			res, err := container.Run(timeout(t), append(tt.opts, selfMount(t), selfJob(t, socketsJob), container.WithStdout(&out))...)
			require.NoError(t, err)
			require.NoError(t, res.Err())
			got := map[string]string{}
			require.NoError(t, json.Unmarshal([]byte(out.String()), &got), out.String())
			for s := range usedSockets {
				want := tt.closed[s]
				if want == "" {
					want = "<nil>"
				}
				require.Equal(t, want, got[s], s)
			}
		})
	}
}
