package container_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
)

// A job that is the host's root owns the devices, which are the host's own: their modes
// do not change, neither at their names nor at those that one of them covers, and they
// are written to all the same.
func TestEscapeDevicesOfHostRoot(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	containertest.Require(t, containertest.Root)
	one := []namespace.IDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	for name, opts := range map[string][]container.Option{
		"no user namespace":   {container.WithHostNamespace(namespace.User)},
		"with capabilities":   {container.WithHostNamespace(namespace.User), container.WithCapabilities("fowner", "chown", "dac_override")},
		"a map of root's ids": {container.WithIDMaps(one, one)},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			// The mode that they have anyway: nothing changes where it is let.
			res, err := container.Run(timeout(t), append(opts, container.WithStdout(&out), container.WithStderr(&out), sh(`
				for f in null zero full random urandom tty; do chmod 666 /dev/$f && echo "chmod $f"; chown 0:0 /dev/$f && echo "chown $f"; done
				[ -c /proc/keys ] && chmod 666 /proc/keys && echo "chmod of what covers"
				echo written >/dev/null && echo fine`))...)
			require.NoError(t, err)
			require.True(t, res.Success(), "%v: %s", res, out.String())
			require.NotRegexp(t, `(?m)^ch(mod|own) `, out.String())
			require.Regexp(t, `(?m)^fine$`, out.String())
			require.Contains(t, out.String(), "Read-only file system")
		})
	}
}
