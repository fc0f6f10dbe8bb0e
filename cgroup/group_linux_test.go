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
	"github.com/inlay-dev/inlay/internal/fault"
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
	require.Eventually(t, f, time.Minute, time.Millisecond, what)
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
	before := g.CPUTime()
	s, err := g.Stats()
	require.NoError(t, err)
	after := g.CPUTime() // the last of a process that is gone may be counted late
	user := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	require.Greater(t, s.CPU.Total, user/2)
	require.InDelta(t, float64(s.CPU.Total), float64(s.CPU.User+s.CPU.System), float64(2*time.Millisecond))
	require.LessOrEqual(t, before, s.CPU.Total)
	require.LessOrEqual(t, s.CPU.Total, after)
	require.Less(t, after-before, s.CPU.Total/10)
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

// fileOf is what a group's file says, in whichever hierarchy it is; "" if in none.
func fileOf(t *testing.T, g *cgroup.Group, names ...string) string {
	t.Helper()
	for _, p := range g.Paths() {
		for _, name := range names {
			text, err := os.ReadFile(filepath.Join(p, name))
			if err == nil {
				return strings.TrimSpace(string(text))
			}
			require.ErrorIs(t, err, os.ErrNotExist)
		}
	}
	return ""
}

// Every limit reaches the kernel, which says it back; one that this kernel or this
// host does not have is refused by name, and leaves nothing.
func TestEveryLimitIsKeptOrRefused(t *testing.T) {
	top := nearest(t)
	memory, soft, swap, pids := int64(64<<20), int64(32<<20), int64(8<<20), int64(7)
	cpus, period, burst, weight, one := 0.5, 50*time.Millisecond, 10*time.Millisecond, uint64(300), "0"
	dir := t.TempDir()
	for _, tt := range []struct {
		field string
		l     cgroup.Limits
		files []string // v2's and v1's
		want  []string // one of them is what the file says
	}{
		{"Memory", cgroup.Limits{Memory: &memory}, []string{"memory.max", "memory.limit_in_bytes"}, []string{"67108864"}},
		{"MemorySoft", cgroup.Limits{MemorySoft: &soft}, []string{"memory.low", "memory.soft_limit_in_bytes"}, []string{"33554432"}},
		{"Swap", cgroup.Limits{Memory: &memory, Swap: &swap}, []string{"memory.swap.max", "memory.memsw.limit_in_bytes"}, []string{"8388608", "75497472"}},
		{"Hugetlb", cgroup.Limits{Hugetlb: map[string]int64{"2MB": 4 << 20}}, []string{"hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"}, []string{"4194304"}},
		{"CPUs", cgroup.Limits{CPUs: &cpus, CPUPeriod: &period}, []string{"cpu.max", "cpu.cfs_quota_us"}, []string{"25000 50000", "25000"}},
		{"CPUBurst", cgroup.Limits{CPUs: &cpus, CPUBurst: &burst}, []string{"cpu.max.burst", "cpu.cfs_burst_us"}, []string{"10000"}},
		{"CPUWeight", cgroup.Limits{CPUWeight: &weight}, []string{"cpu.weight", "cpu.shares"}, []string{"300", "3072"}},
		{"CPUIdle", cgroup.Limits{CPUIdle: true}, []string{"cpu.idle"}, []string{"1"}},
		{"CPUSet", cgroup.Limits{CPUSet: &one}, []string{"cpuset.cpus"}, []string{"0"}},
		{"MemorySet", cgroup.Limits{MemorySet: &one}, []string{"cpuset.mems"}, []string{"0"}},
		{"Pids", cgroup.Limits{Pids: &pids}, []string{"pids.max"}, []string{"7"}},
		{"IOWeight", cgroup.Limits{IOWeight: &weight}, []string{"io.weight", "io.bfq.weight", "blkio.bfq.weight", "blkio.weight"}, []string{"default 300", "300"}},
		{"Unified", cgroup.Limits{Unified: map[string]string{"cgroup.max.depth": "3"}}, []string{"cgroup.max.depth"}, []string{"3"}},
		{"Unified", cgroup.Limits{Unified: map[string]string{"memory.high": "48M\n"}}, []string{"memory.high"}, []string{"50331648"}},
		{"Unified", cgroup.Limits{Unified: map[string]string{"no.such": "1"}}, nil, nil},
		{"IO", cgroup.Limits{IO: []cgroup.IOLimit{{Device: dir, WriteBPS: 1 << 20, ReadIOPS: 5}}}, []string{"io.max", "blkio.throttle.write_bps_device"}, nil},
	} {
		t.Run(fmt.Sprintf("%s %v", tt.field, tt.files), func(t *testing.T) {
			g, err := top.Create(name(t), tt.l)
			if err != nil {
				for _, p := range top.Paths() {
					require.NoDirExists(t, filepath.Join(p, name(t)))
				}
				var refused *cgroup.LimitError
				if errors.As(err, &refused) {
					require.Equal(t, tt.field, refused.Field)
					require.NotEmpty(t, refused.Reason)
					t.Logf("refused: %v", err)
					return
				}
				require.ErrorContains(t, err, "lies on no disk")
				return
			}
			defer func() { require.NoError(t, g.Delete(bounded(t))) }()
			require.NotEmpty(t, tt.files, "it does not exist")
			got := fileOf(t, g, tt.files...)
			if tt.field == "IO" {
				require.Regexp(t, `^[0-9]+:[0-9]+ (.*wbps=1048576 riops=5|1048576)`, got)
				return
			}
			require.Contains(t, tt.want, got)
		})
	}
}

// A group that is there is opened by its path, and does what one that was made
// does; its own limits can be changed.
func TestOpenAnExistingGroup(t *testing.T) {
	pids := int64(16)
	made := group(t, cgroup.Limits{Pids: &pids})
	mount := "/sys/fs/cgroup"
	at := ""
	for _, p := range made.Paths() {
		if _, err := os.Stat(filepath.Join(p, "pids.max")); err == nil {
			at = p
		}
	}
	own := strings.TrimPrefix(strings.TrimPrefix(at, mount), "/pids")
	g, err := cgroup.Open(own)
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Close()) }()
	require.Contains(t, g.Paths(), at)
	require.True(t, g.Has("pids"))
	cmd := run(t, made, "exec sleep 100")
	list, err := g.Processes()
	require.NoError(t, err)
	require.Equal(t, []int{cmd.Process.Pid}, list)
	eventually(t, "it has entered v1's as well", func() bool {
		s, err := g.Stats()
		require.NoError(t, err)
		return s.Pids.Now == 1
	})
	less := int64(9)
	require.NoError(t, g.Update(bounded(t), cgroup.Limits{Pids: &less}))
	require.Equal(t, "9", fileOf(t, made, "pids.max"))
	require.NoError(t, g.Kill(bounded(t)))
	require.Error(t, cmd.Wait())
	below, err := g.Create("below", cgroup.Limits{Pids: &less})
	require.NoError(t, err)
	require.DirExists(t, filepath.Join(at, "below"))
	require.NoError(t, below.Delete(bounded(t)))

	_, err = cgroup.Open("/there/is/none")
	require.ErrorIs(t, err, unix.ENOENT)
	_, err = cgroup.Open("relative")
	require.ErrorIs(t, err, unix.EINVAL)
}

// The end of the last process is waited for, and a group whose process has not
// ended yet is removed once it has.
func TestWaitEmptyAndDelete(t *testing.T) {
	g := group(t, cgroup.Limits{})
	cmd := run(t, g, "sleep 100 & exec sleep 100")
	eventually(t, "a shell and its child", func() bool {
		list, err := g.Processes()
		require.NoError(t, err)
		return len(list) == 2
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, g.WaitEmpty(ctx), context.DeadlineExceeded, "two are in it")
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, g.Delete(ctx), unix.EBUSY)
	for _, p := range g.Paths() {
		if _, err := os.Stat(p); err != nil {
			continue // of v1: where there was no process in it
		}
		require.FileExists(t, filepath.Join(p, "cgroup.procs"))
	}
	empty, deleted := make(chan error, 1), make(chan error, 1)
	go func() { empty <- g.WaitEmpty(bounded(t)) }()
	go func() { deleted <- g.Delete(bounded(t)) }()
	list, err := g.Processes()
	require.NoError(t, err)
	require.Len(t, list, 2)
	for _, pid := range list {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	require.ErrorContains(t, cmd.Wait(), "killed")
	require.NoError(t, <-empty)
	require.NoError(t, <-deleted)
}

// Without cgroup.kill (Linux before 5.14, v1 alone) a bomb is frozen, signalled and
// thawed until nothing is left; one that was frozen before as well.
func TestKillByFreezing(t *testing.T) {
	planned := func(op, path string) error {
		if op == "write" && strings.HasSuffix(path, "/cgroup.kill") {
			return unix.ENOENT
		}
		return nil
	}
	for _, state := range []string{"running", "frozen"} {
		t.Run(state, func(t *testing.T) {
			pids := int64(64)
			g := group(t, cgroup.Limits{Pids: &pids})
			// Each shell makes two more; whoever finds no room ends, and makes some.
			cmd := run(t, g, `f() { f & f & }; { f; } 2>/dev/null & exec sleep 100`)
			eventually(t, "the bomb is at its limit", func() bool {
				s, err := g.Stats()
				require.NoError(t, err)
				return s.Pids.LimitHits > 0
			})
			if state == "frozen" {
				require.NoError(t, g.Freeze(bounded(t)))
			}
			fault.Hook.Store(&planned)
			err := g.Kill(bounded(t))
			fault.Hook.Store(nil)
			require.NoError(t, err)
			some, err := g.Populated()
			require.NoError(t, err)
			require.False(t, some)
			require.ErrorContains(t, cmd.Wait(), "killed")
		})
	}
}

// What lies in the page cache is taken back for a lower limit.
func TestUpdateTakesBack(t *testing.T) {
	memory, swap := int64(128<<20), int64(8<<20)
	g := group(t, cgroup.Limits{Memory: &memory, Swap: &swap})
	dir, err := os.MkdirTemp("/var/tmp", "inlay-test-") //nolint:usetesting // TMPDIR may be in memory
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(dir)) }()
	cmd := run(t, g, "head -c 50000000 /dev/zero >"+dir+"/f && sync "+dir+"/f; echo >"+dir+"/ready; exec sleep 100")
	eventually(t, "it is written", func() bool {
		_, err := os.Stat(dir + "/ready")
		return err == nil
	})
	now, _ := g.MemoryNow()
	require.Greater(t, now, int64(40<<20))
	low := int64(16 << 20)
	require.NoError(t, g.Update(bounded(t), cgroup.Limits{Memory: &low}))
	now, anon := g.MemoryNow()
	require.LessOrEqual(t, now, low)
	require.LessOrEqual(t, anon, now)
	require.NoError(t, syscall.Kill(cmd.Process.Pid, 0), "the process lives")
	require.Equal(t, "16777216", fileOf(t, g, "memory.max", "memory.limit_in_bytes"))
	if high := fileOf(t, g, "memory.high"); high != "" {
		require.Equal(t, "max", high, "what took it back is as before")
	}
	// What may be swapped stays: v1 has it in the sum.
	if got := fileOf(t, g, "memory.swap.max", "memory.memsw.limit_in_bytes"); got != "" {
		require.Contains(t, []string{"8388608", "25165824"}, got)
		more := int64(24 << 20)
		require.NoError(t, g.Update(bounded(t), cgroup.Limits{Swap: &more}))
		require.Contains(t, []string{"25165824", "41943040"}, fileOf(t, g, "memory.swap.max", "memory.memsw.limit_in_bytes"))
		require.Equal(t, "16777216", fileOf(t, g, "memory.max", "memory.limit_in_bytes"))
	}
}

// Swap alone cannot be limited on v1, and is not left out there.
func TestSwapAlone(t *testing.T) {
	top := nearest(t)
	if !top.Has("memory") {
		t.Skip("needs cgroups of memory that it may make")
	}
	swap := int64(8 << 20)
	g, err := top.Create(name(t), cgroup.Limits{Swap: &swap})
	if cgroup.Detect() == cgroup.V2 {
		require.NoError(t, err)
		require.Equal(t, "8388608", fileOf(t, g, "memory.swap.max"))
		require.NoError(t, g.Delete(bounded(t)))
		return
	}
	var refused *cgroup.LimitError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "Swap", refused.Field)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

// The kernel's figures of what a process is known to hold.
func TestStatsOfMemory(t *testing.T) {
	g := group(t, cgroup.Limits{})
	if !nearest(t).Has("memory") {
		t.Skip("needs cgroups of memory that it may make")
	}
	s, err := g.Stats()
	require.NoError(t, err)
	require.Zero(t, max(0, s.Memory.Anon)+max(0, s.Memory.File)+max(0, s.Memory.Shmem))
	dir := t.TempDir()
	disk, err := os.MkdirTemp("/var/tmp", "inlay-test-") //nolint:usetesting // TMPDIR may be in memory
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(disk)) }()
	shm, err := os.CreateTemp("/dev/shm", "inlay-test-")
	if err != nil {
		t.Skipf("needs a memory file system on /dev/shm: %v", err)
	}
	require.NoError(t, shm.Close())
	defer func() { require.NoError(t, os.Remove(shm.Name())) }()
	const anon, shared, file = 6_000_000, 10_000_000, 15_000_000
	run(t, g, fmt.Sprintf("head -c %d /dev/zero >%s; head -c %d /dev/zero >%s/f; x=$(head -c %d /dev/zero | tr '\\0' x); echo >%s/ready; sleep 100; echo $x >/dev/null",
		shared, shm.Name(), file, disk, anon, dir))
	eventually(t, "it holds all", func() bool {
		_, err := os.Stat(dir + "/ready")
		return err == nil
	})
	s, err = g.Stats()
	require.NoError(t, err)
	m := s.Memory
	require.Greater(t, m.Anon, int64(anon))
	require.Less(t, m.Anon, int64(3*anon))
	require.GreaterOrEqual(t, m.Shmem, int64(shared))
	require.Less(t, m.Shmem, int64(2*shared))
	require.GreaterOrEqual(t, m.File, m.Shmem+file, "files in memory are in both")
	require.GreaterOrEqual(t, m.Now, m.Anon+m.File)
	require.Greater(t, m.Faults, int64(100), "how many pages come with one is the machine's")
	require.GreaterOrEqual(t, m.MajorFaults, int64(0))
	require.Zero(t, m.OOMKills)
	require.Positive(t, m.Kernel)
	if m.Peak != cgroup.Absent {
		require.GreaterOrEqual(t, m.Peak, m.Now)
		require.Contains(t, []string{"memory.peak", "memory.max_usage_in_bytes"}, m.Source)
	} else {
		require.Empty(t, m.Source)
	}
	now, held := g.MemoryNow()
	require.InDelta(t, m.Now, now, 1<<20)
	require.InDelta(t, m.Anon+m.Shmem, held, 1<<20)
	// Where the kernel does not tell of pressure, it is no zero.
	require.Equal(t, fileOf(t, g, "cpu.pressure") != "", s.CPU.Pressure != cgroup.Absent)
	require.Equal(t, fileOf(t, g, "memory.pressure") != "", m.Pressure != cgroup.Absent)
	f := g.Final()
	require.EqualValues(t, cgroup.Absent, f.Memory.Anon)
	require.EqualValues(t, cgroup.Absent, f.CPU.Pressure)
	require.GreaterOrEqual(t, f.CPU.Total, s.CPU.Total)
}
