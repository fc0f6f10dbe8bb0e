package container_test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// Under systemd, groups are made in a scope of this program's own, which systemd
// leaves alone; it is there as long as the launcher, and nothing of it longer.
func TestScopeOfSystemd(t *testing.T) {
	if os.Getenv("INLAY_VM_SYSTEMD") == "" {
		t.Skip("needs a VM with systemd")
	}
	containertest.Census(t)
	before, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	cmd, out := hostProgram(t)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "up\n", line)

	name := "inlay-" + strconv.Itoa(cmd.Process.Pid)
	scope := ""
	err = filepath.WalkDir("/sys/fs/cgroup", func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && e.Name() == name+".scope" {
			scope = p
		}
		return err
	})
	require.NoError(t, err)
	require.NotEmpty(t, scope)
	leaf, err := os.ReadFile(scope + "/inlay-host/cgroup.procs")
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(leaf), "\n"), "the launcher")
	made, err := filepath.Glob(scope + "/" + name + "-0/*/1")
	require.NoError(t, err)
	require.Len(t, made, 3, "a group for each container's main job")

	after, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "host programs stay where they are")

	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool {
		_, err := os.Stat(scope)
		return errors.Is(err, fs.ErrNotExist)
	}, 20*time.Second, 10*time.Millisecond)

	report, err := container.Probe(timeout(t), container.WithMemoryLimit(64<<20), container.WithPidsLimit(10), container.WithCPULimit(0.5))
	require.NoError(t, err)
	require.True(t, report.OK(), "%s", report)
}
