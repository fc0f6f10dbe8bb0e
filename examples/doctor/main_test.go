//go:build linux

package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/containertest"
)

// The test binary is the program, where the variable says so.
func TestMain(m *testing.M) {
	if os.Getenv("INLAY_DOCTOR") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Where containers start it says so, and exits with 0.
func TestDoctor(t *testing.T) {
	containertest.Require(t, containertest.Containers)
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "INLAY_DOCTOR=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "a container was started and closed")
}
