package container_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// preparing is a host program that is alone in its group, as in a container or a
// service with Delegate=yes.
var preparing = register("prepare", func([]string) int {
	if _, err := io.ReadAll(os.Stdin); err != nil { // until it is in its group
		return 1
	}
	fail := func(err error) int {
		fmt.Println("failed:", err)
		return 1
	}
	own := func() string {
		text, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return err.Error()
		}
		return strings.TrimPrefix(strings.TrimSpace(string(text)), "0::")
	}
	fmt.Println(own())
	restore, err := cgroup.Prepare()
	if err != nil {
		return fail(err)
	}
	fmt.Println(own())
	if err := restore(); err != nil {
		return fail(err)
	}
	fmt.Println(own())
	for range 2 { // the second does nothing
		if _, err := cgroup.Prepare(); err != nil {
			return fail(err)
		}
	}
	c, err := container.New(container.WithCommand("sleep", "1000"), container.WithMemoryLimit(32<<20))
	if err == nil {
		err = c.Start(context.Background())
	}
	if err != nil {
		return fail(err)
	}
	found, err := filepath.Glob("/sys/fs/cgroup" + filepath.Dir(own()) + "/inlay-*/" + c.ID() + "/memory.max")
	if err != nil || len(found) != 1 {
		return fail(fmt.Errorf("%v %w", found, err))
	}
	limit, err := os.ReadFile(found[0])
	if err != nil {
		return fail(err)
	}
	fmt.Print(string(limit))
	if err := c.Close(); err != nil {
		return fail(err)
	}
	return 0
})

func TestPrepare(t *testing.T) {
	needGroups(t, "memory")
	if !isV2() {
		t.Skip("needs cgroup v2: on v1 a group with processes may have groups")
	}
	top := ownTop(t)
	g, err := top.Create("inlay-prepare", cgroup.Limits{})
	require.NoError(t, err)
	defer func() {
		require.NoError(t, g.Kill(timeout(t)))
		require.NoError(t, g.Delete(timeout(t)))
	}()
	exe, err := os.Executable()
	require.NoError(t, err)
	jobUsed[preparing] = true
	cmd := exec.Command(exe, preparing)
	cmd.Env = append(os.Environ(), jobEnv)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // gone already, unless the test failed
	require.NoError(t, g.Add(cmd.Process.Pid))
	require.NoError(t, in.Close())
	var said []string
	for s := bufio.NewScanner(out); s.Scan(); {
		said = append(said, s.Text())
	}
	require.NoError(t, cmd.Wait(), "%v", said)
	own := strings.TrimPrefix(g.Paths()[0], "/sys/fs/cgroup")
	require.Equal(t, []string{own, own + "/inlay-host", own, "33554432"}, said)
}

// readOnly is a host program that sees its control groups but may not write to
// them, as in docker.
var readOnly = register("read only", func([]string) int {
	fail := func(err error) int {
		fmt.Println("failed:", err)
		return 1
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fail(err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter("/sys/fs/cgroup"))
	if err != nil {
		return fail(err)
	}
	for _, m := range mounts {
		if err := unix.Mount("", m.Mountpoint, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fail(err)
		}
	}
	res, err := container.Run(context.Background(), container.WithCommand("/bin/true"))
	if err != nil {
		return fail(err)
	}
	fmt.Println(res.Success(), slices.Contains(droppedOptions(res.Dropped), "WithResources"))
	_, err = container.Run(context.Background(), container.WithCommand("/bin/true"), container.WithMemoryLimit(32<<20))
	var refused *container.LimitError
	if !errors.As(err, &refused) {
		return fail(err)
	}
	fmt.Println(refused.Option, strings.Contains(refused.Remedy, "read-only"))
	res, err = container.Run(context.Background(), container.WithCommand("/bin/sh", "-c", "sleep 1000"), container.Optional(container.WithMemoryLimit(32<<20)), container.WithTimeLimit(50*time.Millisecond))
	if err != nil {
		return fail(err)
	}
	fmt.Println(res.Status, slices.Contains(droppedOptions(res.Dropped), "WithMemoryLimit"))
	return 0
})

// Where control groups are read-only a container runs without, and says so; a
// limit that needs them is refused with the way out.
func TestReadOnlyCgroups(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory")
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts are remounted")
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	jobUsed[readOnly] = true
	cmd := exec.Command(exe, readOnly)
	cmd.Env = append(os.Environ(), jobEnv)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "true true\nWithMemoryLimit true\ntime_limit true\n", string(out))
}
