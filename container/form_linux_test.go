package container_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/containertest"
)

// The launcher and its inits have the program's own segments and the raw code's
// memory, and nothing of what the Go runtime, a C library or the race detector had:
// in any build.
func TestStressForm(t *testing.T) {
	containertest.Census(t)
	c := start(t)
	launcher, err := strconv.Atoi(statusField(fmt.Sprintf("/proc/%d/status", c.PID()), "PPid"))
	require.NoError(t, err)
	for _, pid := range []int{launcher, c.PID()} {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		require.NoError(t, err)
		require.Empty(t, cmdline, "the stack is gone, and with it the arguments")
		tables, err := strconv.Atoi(strings.TrimSuffix(statusField(fmt.Sprintf("/proc/%d/status", pid), "VmPTE"), " kB"))
		require.NoError(t, err)
		require.Less(t, tables, 64, "page tables of process %d, KiB", pid)
	}
	exe, err := os.Readlink("/proc/self/exe")
	require.NoError(t, err)
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", launcher))
	require.NoError(t, err)
	anonymous := 0
	for _, l := range lines(string(maps)) {
		f := strings.Fields(l)
		switch {
		case len(f) >= 6 && f[5] == "[vsyscall]": // no mapping, but a page that all processes have
		case len(f) >= 6 && f[4] != "0":
			require.Equal(t, exe, strings.Join(f[5:], " "), "%s", maps)
		default:
			anonymous++
			require.Len(t, f, 5, "%s", maps)
		}
	}
	require.LessOrEqual(t, anonymous, 4, "the program's zeros, the raw code's memory, plans that are kept:\n%s", maps)
	require.NoError(t, c.Close())
}
