package rooms

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who has no network links nothing of it.
func TestNetworkIsLinkedOnRequest(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("needs the go command: %v", err)
	}
	deps := func(pkg string) string {
		cmd := exec.Command("go", "list", "-deps", pkg)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOOS=linux")
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	for _, lib := range []string{"vishvananda/netlink", "google/nftables"} {
		require.NotContains(t, deps("./container"), lib)
		require.Contains(t, deps("./namespace/network"), lib)
	}
	require.NotContains(t, deps("./container"), "namespace/network")
}
