package container_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// A device that a job holds open can be opened again by it, unless the rules
// leave it out.
func TestDeviceRules(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	_, err := container.Run(timeout(t), container.WithDeviceRules("c 10:200 rwm"), sh("true"))
	var refused *container.LimitError
	if errors.As(err, &refused) {
		require.Equal(t, "WithDeviceRules", refused.Option)
		require.NotEmpty(t, refused.Reason)
		require.NotEmpty(t, refused.Remedy)
		res, err := container.Run(timeout(t), container.Optional(container.WithDeviceRules("c 10:200 rwm")), sh("true"))
		require.NoError(t, err)
		require.True(t, res.Success())
		require.Contains(t, droppedOptions(res.Dropped), "WithDeviceRules")
		if os.Geteuid() == 0 {
			needGroups(t, "devices") // or else it is a fault
			t.Fatal(err)
		}
		return
	}
	require.NoError(t, err)
	device := "/dev/fuse"
	if os.Geteuid() == 0 {
		_, dir := data(t)
		device = filepath.Join(dir, "fuse")
		require.NoError(t, unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))))
		require.NoError(t, os.Chmod(device, 0o666)) // of any user
	}
	fuse, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs a device to open: %v", err)
	}
	defer fuse.Close() //nolint:errcheck // nothing was written
	again := sh("exec 4<>/proc/self/fd/3 && exec 5</dev/zero && exec 6</dev/urandom")
	given := container.WithExtraFiles(fuse)
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		var out bytes.Buffer
		res := run(again, given, container.WithStderr(&out))
		require.True(t, res.Success(), "%v %s", res, out.String())
		res = run(again, given, container.WithDeviceRules("c 10:200 rwm", "b 8:* r"), container.WithStderr(&out))
		require.False(t, res.Success(), "%v", res)
		require.Contains(t, out.String(), "not permitted")
		res = run(again, given, container.WithDeviceRules("c 10:229 rw"), container.WithStderr(&out))
		require.True(t, res.Success(), "%v %s", res, out.String())
		res = run(again, given, container.WithDeviceRules("c 10:229 r"), container.WithStderr(&out))
		require.False(t, res.Success(), "%v", res)
	})
}

func droppedOptions(list []container.Dropped) (out []string) {
	for _, d := range list {
		out = append(out, d.Option)
	}
	return out
}

func TestStackLimit(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	asJob(t, nil, func(t *testing.T, run func(...container.JobOption) *container.Result) {
		t.Helper()
		var out bytes.Buffer
		res := run(sh("ulimit -s; ulimit -H -s"), container.WithStackLimit(1<<20), container.WithStdout(&out))
		require.True(t, res.Success(), "%v", res)
		require.Equal(t, "1024\n1024\n", out.String())
		// A shell function that calls itself without end runs out of it.
		res = run(sh("f() { f; }; f"), container.WithStackLimit(256<<10), container.WithTimeLimit(20*time.Second))
		require.Equal(t, container.Signaled, res.Status, "%v", res)
		require.Equal(t, syscall.SIGSEGV, res.Signal)
	})
	// A quarter of it is for arguments.
	_, err := container.Run(timeout(t), container.WithStackLimit(512<<10), sh("true "+strings.Repeat("x", 100<<10), strings.Repeat("y", 100<<10)))
	require.ErrorIs(t, err, unix.E2BIG)
}

// What a limit does not let begin is an error that names it.
func TestTooLittleToBegin(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory", "pids")
	c := start(t, sh("sleep 1000"), container.WithPidsLimit(1))
	p, err := c.Exec(timeout(t), sh("/bin/true; /bin/true"))
	var refused *container.LimitError
	if isV2() {
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "WithPidsLimit", refused.Option)
		require.ErrorIs(t, err, unix.EAGAIN)
	} else {
		// Who joins a group of v1 is let in; what it forks is not.
		require.NoError(t, err)
		res, err := p.Wait(timeout(t))
		require.NoError(t, err)
		require.NotZero(t, res.ExitCode)
	}
	require.NoError(t, c.Close())

	long := []string{"-c", "true"}
	for range 18 {
		long = append(long, strings.Repeat("x", 100<<10))
	}
	asMany := container.WithCommand("/bin/sh", long...)
	c = start(t)
	short := func(res *container.Result, err error) {
		t.Helper()
		if err == nil && !isV2() { // it began, and went no further
			require.Equal(t, container.MemoryLimit, res.Status)
			return
		}
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "WithMemoryLimit", refused.Option)
	}
	p, err = c.Exec(timeout(t), asMany, container.WithMemoryLimit(1<<20))
	if err != nil {
		short(nil, err)
	} else {
		short(p.Wait(timeout(t)))
	}
	short(container.Run(timeout(t), asMany, container.WithMemoryLimit(1<<20)))
	p, err = c.Exec(timeout(t), sh("true"))
	require.NoError(t, err, "the container is as it was")
	_, err = p.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// The parent of a container's groups is the caller's to choose.
func TestCgroupParent(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "pids")
	top := ownTop(t)
	pids := int64(20)
	parent, err := top.Create("inlay-parent", cgroup.Limits{Pids: &pids})
	require.NoError(t, err)
	defer func() { require.NoError(t, parent.Delete(timeout(t))) }()
	// The path may be another in each hierarchy of v1; that of one is enough here.
	i := slices.IndexFunc(parent.Paths(), func(p string) bool {
		_, err := os.Stat(p + "/pids.max")
		return err == nil
	})
	folder := parent.Paths()[i]
	own := strings.TrimPrefix(strings.TrimPrefix(folder, "/sys/fs/cgroup"), "/pids")

	c := start(t, sh("sleep 1000"), container.WithCgroupParent(own))
	found, err := filepath.Glob(folder + "/inlay-*/" + c.ID() + "/1/cgroup.procs")
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, c.Close())
	// What the parent has no room for, nothing of it has.
	var out lockedBuffer
	c = start(t, selfMount(t), container.WithCgroupParent(own), consuming(t, "fork bomb", "100"), container.WithStdout(&out))
	require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "\n") }, 20*time.Second, time.Millisecond)
	started, err := strconv.Atoi(strings.TrimSpace(out.String()))
	require.NoError(t, err)
	require.Less(t, started, 20)
	require.NoError(t, c.Close())

	var refused *container.LimitError
	_, err = container.Run(timeout(t), container.WithCgroupParent("/there/is/no/such/group"), sh("true"))
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "WithCgroupParent", refused.Option)
	res, err := container.Run(timeout(t), container.Optional(container.WithCgroupParent("/there/is/no/such/group")), sh("true"))
	require.NoError(t, err)
	require.True(t, res.Success())
	require.Contains(t, droppedOptions(res.Dropped), "WithCgroupParent")
	// Its place in the parent goes with the launcher.
	require.NoError(t, unix.Kill(launcherPID(t), unix.SIGKILL))
	require.Eventually(t, func() bool {
		_, err := container.Run(timeout(t), sh("true"))
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

func isV2() bool { return cgroup.Detect() == cgroup.V2 }
