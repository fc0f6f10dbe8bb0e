package container_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// A parameter is the container's own, set before its first job, and the host's stays.
func TestSysctl(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	read := func(name string) string {
		text, err := os.ReadFile("/proc/sys/" + name)
		require.NoError(t, err)
		return string(text)
	}
	names := []string{"net/ipv4/ip_unprivileged_port_start", "kernel/shmmax", "kernel/domainname", "user/max_pid_namespaces"}
	var before []string
	for _, n := range names {
		before = append(before, read(n))
	}
	inside(t, func(t *testing.T, run func(...container.JobOption) string) {
		t.Helper()
		require.Equal(t, []string{"7", "dom", "5"}, lines(run(cat("/proc/sys/"+names[0], "/proc/sys/"+names[2], "/proc/sys/"+names[3]))))
		// It holds: a job without capabilities may listen from port 7 on.
		require.Contains(t, run(sh("echo 8 2>/dev/null >/proc/sys/net/ipv4/ip_unprivileged_port_start || echo no")), "no")
	}, container.WithSysctl("net.ipv4.ip_unprivileged_port_start", "7"), container.WithDomainname("dom"), container.WithSysctl("user.max_pid_namespaces", "5"))
	for i, n := range names {
		require.Equal(t, before[i], read(n), n)
	}
	// Since Linux 6.1 the owner of the user namespace may set those of IPC.
	var out strings.Builder
	res, err := container.Run(timeout(t), container.WithSysctl("kernel.shmmax", "65536"), cat("/proc/sys/kernel/shmmax"), container.WithStdout(&out))
	if err == nil {
		require.NoError(t, res.Err())
		require.Equal(t, "65536\n", out.String())
	} else {
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		require.Contains(t, e.Path, "kernel/shmmax")
		t.Logf("not on this kernel: %v", err)
	}
}

// What the kernel does not have, or does not take, fails the start and says so.
func TestSysctlRefused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for _, tt := range []struct {
		name, value string
		errno       error
	}{
		{"net.ipv4.no_such_thing", "1", unix.ENOENT}, {"net.ipv4.ip_unprivileged_port_start", "many", unix.EINVAL}, {"net.ipv4", "1", unix.EISDIR},
	} {
		_, err := container.Run(timeout(t), sh("true"), container.WithSysctl(tt.name, tt.value))
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		require.Equal(t, container.PhaseChild, e.Phase)
		require.ErrorIs(t, err, tt.errno, tt.name)
		require.Contains(t, e.Path, strings.ReplaceAll(tt.name, ".", "/"))
		require.NotEmpty(t, e.Remedy)
	}
}
