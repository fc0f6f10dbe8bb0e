package cgroup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
)

// nearest is where this host lets the test make groups.
func nearest(t *testing.T) *cgroup.Group {
	t.Helper()
	g, err := cgroup.Nearest()
	if err != nil {
		t.Skipf("needs cgroups that it may make: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	return g
}

func name(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("inlay-test-%d-%s", os.Getpid(), strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// group makes a group for the test, which is gone after it.
func group(t *testing.T, l cgroup.Limits) *cgroup.Group {
	t.Helper()
	top := nearest(t)
	g, err := top.Create(name(t), l)
	var missing *cgroup.LimitError
	if errors.As(err, &missing) {
		t.Skipf("needs cgroup limits that this host has not: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, g.Kill(bounded(t)))
		paths := g.Paths()
		require.NoError(t, g.Delete(bounded(t)))
		for _, p := range paths {
			require.NoDirExists(t, p)
		}
	})
	return g
}

// run starts a shell in the group by what Enter gives.
func run(t *testing.T, g *cgroup.Group, script string) *exec.Cmd {
	t.Helper()
	e, err := g.Enter()
	require.NoError(t, err)
	defer e.Close()
	cmd := exec.Command("/bin/sh", "-c", script)
	enter := ""
	for i, fd := range e.Tasks {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		require.NoError(t, err)
		f := os.NewFile(uintptr(dup), "tasks")
		defer f.Close() //nolint:errcheck // tasks
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		enter += fmt.Sprintf("echo 0 >&%d && ", 3+i)
	}
	cmd.Args[2] = enter + script
	if e.Dir >= 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: e.Dir}
	}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 10*time.Second, time.Millisecond, what)
}

func TestGroupLife(t *testing.T) {
	memory, pids, cpus := int64(64<<20), int64(16), 0.5
	g := group(t, cgroup.Limits{Memory: &memory, Pids: &pids, CPUs: &cpus})
	for _, f := range []struct{ v1, v2, want string }{
		{"memory.limit_in_bytes", "memory.max", "67108864"},
		{"pids.max", "pids.max", "16"},
		{"cpu.cfs_quota_us", "cpu.max", "50000"},
	} {
		found := false
		for _, p := range g.Paths() {
			for _, file := range []string{f.v1, f.v2} {
				if text, err := os.ReadFile(filepath.Join(p, file)); err == nil {
					require.Equal(t, f.want, strings.Fields(string(text))[0], file)
					found = true
				}
			}
		}
		require.True(t, found, f.v2)
	}
	some, err := g.Populated()
	require.NoError(t, err)
	require.False(t, some)

	cmd := run(t, g, "sleep 100 & sleep 100; true")
	eventually(t, "two sleeps and a shell", func() bool {
		list, err := g.Processes()
		require.NoError(t, err)
		return len(list) == 3
	})
	ctx := bounded(t)
	require.NoError(t, g.Freeze(ctx))
	frozen, err := g.Frozen()
	require.NoError(t, err)
	require.True(t, frozen)
	require.NoError(t, g.Thaw(ctx))
	require.NoError(t, g.Freeze(ctx))
	require.NoError(t, g.Kill(ctx), "a frozen group is killed")
	require.ErrorContains(t, cmd.Wait(), "killed")
	require.NoError(t, g.WaitEmpty(ctx))
}

func TestGroupIsNewOrRefused(t *testing.T) {
	g := group(t, cgroup.Limits{})
	_, err := nearest(t).Create(name(t), cgroup.Limits{})
	require.ErrorIs(t, err, unix.EEXIST)
	require.ErrorContains(t, err, "another container has this ID")
	require.NotEmpty(t, g.Paths())

	for _, bad := range []string{"", ".", "..", "a/b", "a\nb", strings.Repeat("x", 300)} {
		_, err := nearest(t).Create(bad, cgroup.Limits{})
		require.ErrorIs(t, err, unix.EINVAL, bad)
	}
}

// A limit that the kernel does not take leaves no folder in any hierarchy.
func TestFailedGroupLeavesNothing(t *testing.T) {
	top := nearest(t)
	cpus := "8000" // no such processor
	_, err := top.Create(name(t), cgroup.Limits{CPUSet: &cpus})
	require.Error(t, err)
	for _, p := range top.Paths() {
		require.NoDirExists(t, filepath.Join(p, name(t)))
	}
	_, err = top.Create(name(t), cgroup.Limits{IO: []cgroup.IOLimit{{Device: "/proc", ReadBPS: 1}}})
	if !errors.Is(err, errors.ErrUnsupported) { // a host without the controller says that
		require.ErrorContains(t, err, "lies on no disk")
	}
}

func TestGroupsNest(t *testing.T) {
	memory := int64(32 << 20)
	outer := group(t, cgroup.Limits{})
	inner, err := outer.Create("jobs", cgroup.Limits{Memory: &memory})
	require.NoError(t, err)
	leaf, err := inner.Create("1", cgroup.Limits{})
	require.NoError(t, err)
	cmd := run(t, leaf, "exec sleep 100")
	eventually(t, "it is seen from above", func() bool {
		list, err := outer.Processes()
		require.NoError(t, err)
		return len(list) == 1
	})
	require.NoError(t, outer.Kill(bounded(t)))
	require.Error(t, cmd.Wait())
	require.NoError(t, outer.Delete(bounded(t)))
	for _, p := range inner.Paths() {
		require.NoDirExists(t, p)
	}
}

func TestStatsOfWork(t *testing.T) {
	g := group(t, cgroup.Limits{})
	cmd := run(t, g, "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; (:); (:)")
	require.NoError(t, cmd.Wait())
	s, err := g.Stats()
	require.NoError(t, err)
	user := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	require.Greater(t, s.CPU.Total, user/2)
	require.InDelta(t, float64(s.CPU.Total), float64(s.CPU.User+s.CPU.System), float64(2*time.Millisecond))
	require.Equal(t, s.CPU.Total, g.CPUTime())
	require.Positive(t, s.Memory.Now+s.Memory.Peak+1)
	require.EqualValues(t, 0, s.Memory.OOMKills)
	require.EqualValues(t, 0, s.Pids.Now)
	kills, _ := g.OOMKills()
	require.Zero(t, kills)
}

func TestUpdateLowersMemoryOrFails(t *testing.T) {
	memory := int64(256 << 20)
	g := group(t, cgroup.Limits{Memory: &memory})
	// 64 MiB of shared memory cannot be taken back where there is no swap.
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	cmd := run(t, g, "x=$(dd if=/dev/zero bs=1048576 count=48 2>/dev/null | tr '\\0' x); echo ready >"+dir+"/ready; sleep 100; echo $x >/dev/null")
	eventually(t, "the shell holds it", func() bool {
		_, err := os.Stat(dir + "/ready")
		return err == nil
	})
	low := int64(8 << 20)
	err := g.Update(bounded(t), cgroup.Limits{Memory: &low})
	require.ErrorIs(t, err, unix.EBUSY)
	require.NoError(t, syscall.Kill(cmd.Process.Pid, 0), "the process lives")
	half := int64(128 << 20)
	require.NoError(t, g.Update(bounded(t), cgroup.Limits{Memory: &half}))
	require.NoError(t, g.Update(bounded(t), cgroup.Limits{Memory: &memory}))
}

// Groups made at once below one that has no folder in that hierarchy yet: each can
// be entered, which on v1 a set of processors without any refuses.
func TestGroupsAtOnceBelowAFreshOne(t *testing.T) {
	top := nearest(t)
	if !top.Has("cpuset") {
		t.Skip("needs cgroups of cpuset that it may make")
	}
	for i := range 30 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			base := group(t, cgroup.Limits{})
			cpus := "0"
			made := make([]*cgroup.Group, 4)
			var all sync.WaitGroup
			for n := range made {
				all.Go(func() {
					g, err := base.Create(strconv.Itoa(n), cgroup.Limits{CPUSet: &cpus})
					assert.NoError(t, err)
					made[n] = g
				})
			}
			all.Wait()
			for _, g := range made {
				require.NotNil(t, g)
				require.NoError(t, run(t, g, "exit 0").Wait())
			}
		})
	}
}

// Whatever the umask of the host program, it can use its own groups.
func TestGroupsUnderAnyUmask(t *testing.T) {
	old := unix.Umask(0o777)
	defer unix.Umask(old)
	pids := int64(16)
	g := group(t, cgroup.Limits{Pids: &pids})
	below, err := g.Create("below", cgroup.Limits{})
	require.NoError(t, err)
	for _, p := range append(g.Paths(), below.Paths()...) {
		info, err := os.Stat(p)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o755), info.Mode().Perm(), p)
	}
}

// A call makes its result and little else: what watches many groups calls it often.
func TestStatsAllocatesLittle(t *testing.T) {
	pids := int64(16)
	g := group(t, cgroup.Limits{Pids: &pids})
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := g.Stats(); err != nil {
			t.Error(err)
		}
	})
	require.LessOrEqual(t, allocs, 12.0, "the result, its list of disks, and their names")
}
