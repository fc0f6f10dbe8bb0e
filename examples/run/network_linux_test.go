package main

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/containertest"
)

// The flags of the network, with a new network namespace in the host's place.
func TestNetwork(t *testing.T) {
	containertest.Require(t, containertest.Root, containertest.Containers)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"names", []string{"--network", "bridge", "--dns", "10.0.0.53", "--add-host", "db:10.0.0.7", "--", "sh", "-c", "cat /etc/resolv.conf; tail -n 1 /etc/hosts"}, "nameserver 10.0.0.53\n10.0.0.7\tdb\n"},
		{"a bridge by itself", []string{"--dns", "10.0.0.53", "--", "sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"}, "lo\neth0\n"},
		{"a rate", []string{"--network", "bridge", "--bandwidth", "20mbit", "--egress", "1gbit", "--", "echo", "started"}, "started\n"},
		{"a port", []string{"-p", "192.0.2.1:80:80", "--", "true"}, ""},
		{"the last one counts", []string{"--network", "bridge", "--network", "none", "--", "sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"}, "lo\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := command(t, tt.args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			out, err := cmd.CombinedOutput()
			if tt.name == "a port" { // the new host has no such address
				require.Error(t, err)
				require.Contains(t, string(out), "cannot assign requested address")
				return
			}
			require.NoError(t, err, "%s", out)
			require.Equal(t, tt.want, string(out))
		})
	}
}
