package container_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

var upJob = register("up", func([]string) int {
	var top unix.Stat_t
	if err := unix.Stat("/", &top); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, path := range []string{"/..", "/dev/..", "/run/..", "/proc/../../..", "/dev/../run/../.."} {
		var up unix.Stat_t
		if err := unix.Stat(path, &up); err != nil || up.Dev != top.Dev || up.Ino != top.Ino {
			fmt.Println(path, "is not /:", err)
			return 1
		}
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	roots := 0
	for line := range strings.Lines(string(text)) {
		if strings.Fields(line)[4] == "/" {
			roots++
		}
	}
	fmt.Println("roots", roots)
	return 0
})

// The old root is nowhere any more: ".." ends at the container's own, whatever lay on
// the old one while the new one was made.
func TestEscapeOldRoot(t *testing.T) {
	containertest.Census(t)
	needOverlay(t)
	usr := container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()))
	upper := t.TempDir()
	require.NoError(t, os.Chmod(upper, 0o700))
	staged := func(at string) rootfs.Mount { return rootfs.Workspace(workFolder(t), at, rootfs.Staged()) }
	for name, opt := range map[string]container.Option{
		"host":                  nil,
		"host, one staged":      container.WithMounts(staged("/work")),
		"host, two staged":      container.WithMounts(staged("/work"), staged("/more")),
		"overlay":               container.Options(container.WithRoot(rootfs.Overlay(baseRoot(t))), usr),
		"overlay and staged":    container.Options(container.WithRoot(rootfs.Overlay(baseRoot(t))), usr, container.WithMounts(staged("/tmp"))),
		"overlay, upper folder": container.Options(container.WithRoot(rootfs.Overlay(baseRoot(t), rootfs.Upper(upper))), usr),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, "roots 1\n", output(t, opt, self(t, upJob)))
		})
	}
}
