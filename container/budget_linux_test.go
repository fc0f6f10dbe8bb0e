package container_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/rootfs"
)

// A disk without project quotas gives no budget, and says so.
func TestBudgetRefused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	_, dir := data(t)
	bind := container.WithMounts(rootfs.Bind(dir, "/data", rootfs.Size(1<<20)))
	_, err := container.Run(timeout(t), bind, sh("true"))
	var refused *container.LimitError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "WithMounts", refused.Option)
	require.Contains(t, refused.Reason, dir)
	if hasQuotactlFD() {
		require.Contains(t, refused.Remedy, "prjquota")
	} else {
		require.Contains(t, refused.Remedy, "Linux 5.14")
	}
	report, err := container.Probe(timeout(t), bind, sh("true"))
	require.NoError(t, err)
	require.ErrorAs(t, report.Err(), &refused)

	var out strings.Builder
	res, err := container.Run(timeout(t), container.Optional(bind), sh("echo written >/data/f; cat /data/f"), container.WithStdout(&out))
	require.NoError(t, err)
	require.True(t, res.Success())
	require.Equal(t, "written\n", out.String())
	require.Contains(t, droppedOptions(res.Dropped), "WithMounts")
}

func hasQuotactlFD() bool {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, ^uintptr(0), 0, 0, 0, 0, 0)
	return errno != unix.ENOSYS
}

// quotaDisk mounts a disk that keeps project quotas.
func quotaDisk(t *testing.T) string {
	t.Helper()
	containertest.Require(t, containertest.Root)
	if !hasQuotactlFD() {
		t.Skip("needs Linux 5.14: quotactl_fd")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 64<<20))
	require.NoError(t, os.Mkdir(at, 0o700))
	for _, args := range [][]string{{"mke2fs", "-q", "-F", "-t", "ext4", "-O", "quota,project", image}, {"mount", "-t", "ext4", "-o", "loop,prjquota", image, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs project quotas: %s: %v: %s", args[0], err, out)
		}
	}
	t.Cleanup(func() {
		out, err := exec.Command("umount", at).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	require.NoError(t, os.Chmod(at, 0o755))
	return at
}

func TestBudget(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	disk := quotaDisk(t)
	folder := func(name string) string {
		dir := filepath.Join(disk, name)
		require.NoError(t, os.Mkdir(dir, 0o777))
		require.NoError(t, os.Chmod(dir, 0o777))
		return dir
	}
	fill := `dd if=/dev/zero of=/data/f bs=4096 count=1000 2>&1; wc -c </data/f; rm /data/f
i=0; while [ $i -lt 20 ] && true >/data/$i; do i=$((i + 1)); done 2>/dev/null; echo $i`

	dir := folder("a")
	before, err := os.Stat(dir)
	require.NoError(t, err)
	var out strings.Builder
	c := start(t, container.WithMounts(rootfs.Bind(dir, "/data", rootfs.Size(1<<20), rootfs.Inodes(10))))
	_, err = container.Run(timeout(t), container.WithMounts(rootfs.Bind(dir, "/data", rootfs.Size(1<<20))), sh("true"))
	require.ErrorIs(t, err, unix.EBUSY, "one budget for each folder")
	p, err := c.Exec(timeout(t), sh(fill), container.WithStdout(&out))
	require.NoError(t, err)
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	text := out.String()
	require.Contains(t, strings.ToLower(text), "quota exceeded")
	require.Contains(t, text, "\n1048576\n", "every byte of the budget")
	require.True(t, strings.HasSuffix(text, "\n10\n"), text)
	require.NoError(t, c.Close())
	after, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, before.Mode(), after.Mode())

	// Nothing of it is left: what is written now has no limit.
	require.NoError(t, os.RemoveAll(dir))
	dir = folder("a")
	out.Reset()
	res, err := container.Run(timeout(t), container.WithMounts(rootfs.Bind(dir, "/data")), sh(fill), container.WithStdout(&out))
	require.NoError(t, err)
	require.True(t, res.Success())
	require.True(t, strings.HasSuffix(out.String(), "\n4096000\n20\n"), out.String())

	// What was there before would not count.
	_, err = container.Run(timeout(t), container.WithMounts(rootfs.Bind(dir, "/data", rootfs.Size(1<<20))), sh("true"))
	var refused *container.LimitError
	require.ErrorAs(t, err, &refused)
	require.ErrorIs(t, err, unix.ENOTEMPTY)
	require.Contains(t, refused.Remedy, "chattr")
	// Unless all of it has a project: then it does, and the project's own limit is
	// there again at the end.
	if o, err := exec.Command("sh", "-c", "chattr -R -p 77 $0 && chattr +P $0", dir).CombinedOutput(); err != nil {
		t.Skipf("needs project quotas: chattr: %v: %s", err, o)
	}
	for range 2 {
		out.Reset()
		_, err = container.Run(timeout(t), container.WithMounts(rootfs.Bind(dir, "/data", rootfs.Inodes(22))), container.WithStdout(&out),
			sh("for i in a b c d e f; do true >/data/$i || break; done; ls /data | wc -l; rm -f /data/[a-z]"))
		require.NoError(t, err)
		require.Equal(t, "21\n", out.String(), "20 files, the folder, and one more")
	}
}

// A failure while it is set or taken off is told, and leaves no container.
func TestBudgetFaults(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	disk := quotaDisk(t)
	dir := filepath.Join(disk, "a")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Chmod(dir, 0o777))
	planned := errors.New("planned")
	for n := range 2 {
		calls := 0
		hook := func(op, _ string) error {
			if op != "quota" {
				return nil
			}
			calls++
			if calls == n+1 {
				return planned
			}
			return nil
		}
		fault.Hook.Store(&hook)
		_, err := container.Run(timeout(t), container.WithMounts(rootfs.Bind(dir, "/data", rootfs.Size(1<<20))), sh("true"))
		fault.Hook.Store(nil)
		require.ErrorIs(t, err, planned)
		_, err = container.Run(timeout(t), container.WithMounts(rootfs.Bind(dir, "/data", rootfs.Size(1<<20))), sh("true"))
		require.NoError(t, err, "after %d", n)
	}
}
