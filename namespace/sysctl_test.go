package namespace_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/namespace"
)

func TestSysctlKind(t *testing.T) {
	for name, want := range map[string]namespace.Kind{
		"net.ipv4.ip_forward": namespace.Network, "net.x": namespace.Network, "kernel.shmmax": namespace.IPC, "kernel.sem": namespace.IPC,
		"fs.mqueue.msg_max": namespace.IPC, "user.max_net_namespaces": namespace.User,
	} {
		kind, err := namespace.SysctlKind(name)
		require.NoError(t, err, name)
		require.Equal(t, want, kind, name)
	}
	for _, name := range []string{
		"", "net", "net.", ".net", "net..x", "net/x", "net.ipv4.conf.a/b", "net.a b", "net.a\n", "kernel.core_pattern", "kernel.hostname", "kernel.domainname",
		"kernel.shm", "vm.swappiness", "fs.file-max", "fs.mqueue", "user.max_user_namespaces", "user.x", "kernel.modprobe",
	} {
		_, err := namespace.SysctlKind(name)
		require.Error(t, err, name)
	}
}
