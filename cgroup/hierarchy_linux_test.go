package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Shapes of hosts: what is mounted, and where this process is.
func TestHierarchiesOfHosts(t *testing.T) {
	for _, tt := range []struct {
		name, mounts, own string
		want              []hierarchy
	}{
		{
			"v2", "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate",
			"0::/user.slice/user-1000.slice/session-3.scope\n",
			[]hierarchy{{unified: true, mount: "/sys/fs/cgroup", own: "/user.slice/user-1000.slice/session-3.scope"}},
		},
		{
			"v1", "35 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n36 24 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"37 24 0:32 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n38 24 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
			"4:blkio:/b\n3:cpu,cpuacct:/judge\n2:memory:/judge/m\n1:name=systemd:/\n",
			[]hierarchy{
				{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/judge/m"},
				{controllers: []string{"cpu", "cpuacct"}, mount: "/sys/fs/cgroup/cpu,cpuacct", own: "/judge"},
				{controllers: []string{"io"}, mount: "/sys/fs/cgroup/blkio", own: "/b"},
			},
		},
		{
			"hybrid", "35 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n36 24 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
			"2:memory:/\n0::/x.service\n",
			[]hierarchy{
				{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/"},
				{unified: true, mount: "/sys/fs/cgroup/unified", own: "/x.service"},
			},
		},
		{
			// Docker on v1 shows the container's own part, under the host's path.
			"part of v1", "35 24 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory", "2:memory:/docker/abc/judge\n",
			[]hierarchy{{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/judge"}},
		},
		{
			// A cgroup namespace shows paths that lead out of the mount.
			"outside", "35 24 0:30 / /sys/fs/cgroup ro - cgroup2 cgroup rw", "0::/../../x\n",
			[]hierarchy{{unified: true, mount: "/sys/fs/cgroup", own: "/"}},
		},
		{
			"mounted twice", "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n36 24 0:30 / /mnt/cgroup rw - cgroup2 cgroup2 rw", "0::/\n",
			[]hierarchy{{unified: true, mount: "/sys/fs/cgroup", own: "/"}},
		},
		{"none", "24 1 0:5 / / rw - ext4 /dev/sda1 rw", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(tt.mounts+"\n"), mountinfo.FSTypeFilter("cgroup", "cgroup2"))
			require.NoError(t, err)
			own, unified, err := cgroups.ParseCgroupFromReaderUnified(strings.NewReader(tt.own))
			require.NoError(t, err)
			require.Equal(t, tt.want, findHierarchies(mounts, own, unified))
		})
	}
}

// folders makes a tree of files that looks like a hierarchy of v2.
func folders(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		at := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		require.NoError(t, os.WriteFile(at, []byte(text), 0o644))
	}
	return root
}

func v2Group(dir, procs, kind string) map[string]string {
	m := map[string]string{dir + "/cgroup.procs": procs, dir + "/cgroup.subtree_control": "", dir + "/cgroup.controllers": "cpu memory\n"}
	if kind != "" {
		m[dir+"/cgroup.type"] = kind + "\n"
	}
	return m
}

func TestNearestOnV2(t *testing.T) {
	files := map[string]string{}
	for _, m := range []map[string]string{
		v2Group("", "1\n", ""), v2Group("/a", "", "domain"), v2Group("/a/busy", "17\n", "domain"), v2Group("/a/busy/leaf", "18\n", "domain"),
		v2Group("/t", "", "threaded"),
	} {
		for k, v := range m {
			files[k] = v
		}
	}
	root := folders(t, files)
	for own, want := range map[string]string{"/a/busy/leaf": "/a", "/a/busy": "/a", "/a": "/a", "/t": "/", "/": "/"} {
		require.Equal(t, want, hierarchy{unified: true, mount: root, own: own}.nearest(), own)
	}
	require.ErrorIs(t, holds(root+"/a/busy"), unix.EBUSY)
	require.ErrorIs(t, holds(root+"/t"), unix.EOPNOTSUPP)
	require.ErrorIs(t, holds(root+"/nowhere"), unix.ENOENT)
}

// A controller that was not delegated is named, with what to do; so is a hierarchy
// that is not there, and none at all.
func TestMissingControllers(t *testing.T) {
	files := v2Group("/user", "", "domain")
	root := folders(t, files)
	top, err := openTop([]hierarchy{{unified: true, mount: root, own: "/user"}}, func(h hierarchy) string { return h.own })
	require.NoError(t, err)
	defer top.Close() //nolint:errcheck // a descriptor
	memory, pids, cpus := int64(MinMemory), int64(5), "0"
	missing := top.Missing(&Limits{Memory: &memory, Pids: &pids, CPUSet: &cpus, Hugetlb: map[string]int64{"2MB": 0}})
	var fields []string
	for _, m := range missing {
		fields = append(fields, m.Field)
		require.ErrorIs(t, m, errors.ErrUnsupported)
		require.Contains(t, m.Error(), "cgroup.controllers")
		require.Contains(t, m.Error(), "Delegate=")
	}
	require.Equal(t, []string{"CPUSet", "Pids", "Hugetlb"}, fields)
	require.True(t, top.Has("memory") && !top.Has("pids"))

	_, err = openTop([]hierarchy{{unified: true, mount: root, own: "/user"}}, func(hierarchy) string { return "" })
	require.ErrorIs(t, err, unix.EACCES)
	require.ErrorContains(t, err, "Delegate=yes")
	_, err = openTop(nil, nil)
	require.ErrorIs(t, err, errNone)

	v1, err := openTop([]hierarchy{{controllers: []string{"memory"}, mount: root, own: "/user"}}, func(h hierarchy) string { return h.own })
	require.NoError(t, err)
	defer v1.Close() //nolint:errcheck // a descriptor
	missing = v1.Missing(&Limits{Pids: &pids, Unified: map[string]string{"misc.max": "x 1"}})
	require.Len(t, missing, 2)
	require.Contains(t, missing[0].Error(), "has no controller pids")
	require.Contains(t, missing[1].Error(), "cgroup v2, which is not mounted")
}

// What is written where, for all fields at once, on each kind of hierarchy.
func TestSettings(t *testing.T) {
	memory, soft, swapped := int64(64<<20), int64(32<<20), int64(1<<20)
	cpus, weight, set, mems, pids, io := 1.5, uint64(300), "0-1", "0", int64(7), uint64(2000)
	l := Limits{
		Memory: &memory, MemorySoft: &soft, Swap: &swapped, OOMGroup: true, Hugetlb: map[string]int64{"2MB": 4 << 20}, CPUs: &cpus,
		CPUWeight: &weight, CPUSet: &set, MemorySet: &mems, Pids: &pids, IOWeight: &io,
		IO:      []IOLimit{{Device: "8:0", ReadBPS: 1, WriteBPS: 2, ReadIOPS: 3, WriteIOPS: 4}, {Device: "8:16", WriteIOPS: 5}},
		Unified: map[string]string{"misc.max": "x 1"},
	}
	text := func(v2 bool) (out []string) {
		for _, s := range l.settings(v2) {
			out = append(out, s.file+" "+s.value)
		}
		return out
	}
	require.Equal(t, []string{
		"memory.max 67108864", "memory.low 33554432", "memory.swap.max 1048576", "memory.oom.group 1", "cpu.max 150000 100000", "cpu.weight 300",
		"cpuset.mems 0", "cpuset.cpus 0-1", "pids.max 7", "io.max 8:0 rbps=1 wbps=2 riops=3 wiops=4", "io.max 8:16 wiops=5", "io.weight default 2000",
		"hugetlb.2MB.max 4194304", "misc.max x 1",
	}, text(true))
	require.Equal(t, []string{
		"memory.limit_in_bytes 67108864", "memory.soft_limit_in_bytes 33554432", "memory.memsw.limit_in_bytes 68157440", "cpu.cfs_quota_us 150000",
		"cpu.shares 3072", "cpuset.mems 0", "cpuset.cpus 0-1", "pids.max 7", "blkio.throttle.read_bps_device 8:0 1", "blkio.throttle.write_bps_device 8:0 2",
		"blkio.throttle.read_iops_device 8:0 3", "blkio.throttle.write_iops_device 8:0 4", "blkio.throttle.write_iops_device 8:16 5", "blkio.bfq.weight 1000",
		"hugetlb.2MB.limit_in_bytes 4194304",
	}, text(false))
	half, period, burst := 0.5, 50*time.Millisecond, 10*time.Millisecond
	l = Limits{CPUs: &half, CPUPeriod: &period, CPUBurst: &burst, CPUIdle: true, Memory: &memory}
	require.Equal(t, []string{"memory.max 67108864", "memory.swap.max 0", "cpu.max 25000 50000", "cpu.max.burst 10000", "cpu.idle 1"}, text(true))
	require.Equal(t, []string{"cpu.cfs_period_us 50000", "cpu.cfs_quota_us 25000", "cpu.cfs_burst_us 10000", "cpu.idle 1"}, slices.DeleteFunc(text(false), func(s string) bool {
		return strings.HasPrefix(s, "memory.") // what there is of swap is the machine's
	}))
	least := 0.01
	require.Equal(t, "1000 100000", (&Limits{CPUs: &least}).settings(true)[0].value, "the kernel's least")
}

func TestOCIRoundTrip(t *testing.T) {
	memory, soft, swapped := int64(64<<20), int64(32<<20), int64(1<<20)
	cpus, weight, set, mems, pids, io := 1.5, uint64(300), "0-1", "0", int64(7), uint64(500)
	l := Limits{
		Memory: &memory, MemorySoft: &soft, Swap: &swapped, Hugetlb: map[string]int64{"2MB": 4 << 20}, CPUs: &cpus, CPUWeight: &weight,
		CPUSet: &set, MemorySet: &mems, Pids: &pids, IOWeight: &io, DeviceRules: []string{"c 10:200 rw", "b *:* m"},
		IO: []IOLimit{{Device: "8:0", ReadBPS: 1, WriteBPS: 2, ReadIOPS: 3, WriteIOPS: 4}}, Unified: map[string]string{"misc.max": "x 1"},
	}
	back, err := FromOCI(l.OCI())
	require.NoError(t, err)
	require.Equal(t, l, back)
	// What only one of the two has, and what only together makes sense.
	cpus, period, burst := 0.5, 50*time.Millisecond, 10*time.Millisecond
	for _, l := range []Limits{
		{CPUs: &cpus, CPUPeriod: &period, CPUBurst: &burst}, {CPUIdle: true}, {Hugetlb: map[string]int64{"2MB": 0, "1GB": 1 << 30}},
	} {
		r := l.OCI()
		slices.SortFunc(r.HugepageLimits, func(a, b specs.LinuxHugepageLimit) int { return strings.Compare(a.Pagesize, b.Pagesize) })
		back, err := FromOCI(r)
		require.NoError(t, err)
		require.Equal(t, l, back)
	}
	empty, err := FromOCI(nil)
	require.NoError(t, err)
	require.Equal(t, Limits{}, empty)
	require.Equal(t, uint64(1024), sharesOf(100), "the default of one is that of the other")
	for w := uint64(1); w <= 10000; w++ {
		require.InDelta(t, w, weightOf(sharesOf(w)), 1)
	}
}

// What a configuration says in words that Limits does not have is translated, or
// an error: never left out.
func TestFromOCI(t *testing.T) {
	n, small, none, handles, objects, weight, on := int64(64<<20), int64(1), int64(-1), uint32(2), uint32(2000), uint16(500), true
	many, zero := uint64(1), int64(0)
	l, err := FromOCI(&specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: &n, Swap: &none},
		Pids:    &specs.LinuxPids{Limit: &zero},
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Access: "r"}, {Allow: true, Type: "c", Major: &n, Minor: &none, Access: "rw"}},
		Unified: map[string]string{"misc.max": "sev 1"},
		Rdma:    map[string]specs.LinuxRdma{"mlx5_1": {HcaObjects: &objects}, "mlx4_0": {HcaHandles: &handles, HcaObjects: &objects}},
	})
	require.NoError(t, err)
	swapped := math.MaxInt64 - n
	require.Equal(t, Limits{
		Memory: &n, Swap: &swapped, DeviceRules: []string{"a *:* r", "c 67108864:* rw"},
		Unified: map[string]string{"misc.max": "sev 1", "rdma.max": "mlx4_0 hca_handle=2 hca_object=2000\nmlx5_1 hca_object=2000"},
	}, l)
	require.Equal(t, none, *l.OCI().Memory.Swap)
	var lines []string
	for _, s := range l.settings(true) {
		if s.field == "Unified" {
			require.Equal(t, strings.Split(s.file, ".")[0], s.controller)
			lines = append(lines, s.file+" "+s.value)
		}
	}
	require.Equal(t, []string{"misc.max sev 1", "rdma.max mlx4_0 hca_handle=2 hca_object=2000", "rdma.max mlx5_1 hca_object=2000"}, lines, "a line for each device is written by itself")

	for what, r := range map[string]*specs.LinuxResources{
		"the sum of memory and swap": {Memory: &specs.LinuxMemory{Limit: &n, Swap: &small}},
		"without or below":           {Memory: &specs.LinuxMemory{Swap: &n}},
		"memory.kernel":              {Memory: &specs.LinuxMemory{KernelTCP: &n}},
		"swappiness":                 {Memory: &specs.LinuxMemory{Swappiness: &many}},
		"disableOOMKiller":           {Memory: &specs.LinuxMemory{DisableOOMKiller: &on}},
		"realtime":                   {CPU: &specs.LinuxCPU{RealtimePeriod: &many}},
		"leafWeight":                 {BlockIO: &specs.LinuxBlockIO{LeafWeight: &weight}},
		"weightDevice":               {BlockIO: &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{}}}},
		"network":                    {Network: &specs.LinuxNetwork{}},
		"denies c devices":           {Devices: []specs.LinuxDeviceCgroup{{Type: "c", Access: "r"}}},
		"both rdma and unified":      {Unified: map[string]string{"rdma.max": "x"}, Rdma: map[string]specs.LinuxRdma{"y": {}}},
	} {
		_, err := FromOCI(r)
		require.ErrorContains(t, err, what)
	}
}

// runDeviceProgram interprets the seven instructions that a program about devices has.
func runDeviceProgram(t *testing.T, prog []instruction, kind, access, major, minor uint32) bool {
	t.Helper()
	ctx := []uint32{access<<16 | kind, major, minor}
	var r [11]uint64
	for pc := 0; ; pc++ {
		i := prog[pc]
		switch i.op {
		case opLoadWord:
			r[i.dst] = uint64(ctx[i.off/4])
		case opMove:
			r[i.dst] = r[i.src]
		case opMoveImm:
			r[i.dst] = uint64(int64(i.imm))
		case opAndImm:
			r[i.dst] &= uint64(int64(i.imm))
		case opShiftImm:
			r[i.dst] >>= uint(i.imm)
		case opJumpNotImm:
			if uint32(r[i.dst]) != uint32(i.imm) {
				pc += int(i.off)
			}
		case opExit:
			return r[0] == 1
		default:
			t.Fatalf("instruction %#x", i.op)
		}
	}
}

// The program that v2 asks about devices.
func TestDeviceProgram(t *testing.T) {
	prog, err := deviceProgram([]string{"c 1:3 rw", "c 136:* rwm", "b *:* m", "a 10:4294967295 r"})
	require.NoError(t, err)
	allows := func(kind, access, major, minor uint32) bool {
		return runDeviceProgram(t, prog, kind, access, major, minor)
	}
	const block, char, mknod, read, write = 1, 2, 1, 2, 4
	require.True(t, allows(char, read|write, 1, 3))
	require.True(t, allows(char, read, 1, 3))
	require.False(t, allows(char, mknod, 1, 3))
	require.False(t, allows(block, read, 1, 3))
	require.False(t, allows(char, read, 1, 5))
	require.True(t, allows(char, read|write|mknod, 136, 77))
	require.True(t, allows(block, mknod, 8, 0))
	require.False(t, allows(block, mknod|read, 8, 0))
	require.True(t, allows(block, read, 10, 4294967295))
	require.False(t, allows(block, write, 10, 4294967295))
	_, err = deviceProgram([]string{"c 99999999999:1 r"})
	require.Error(t, err)
}

func TestStatsTexts(t *testing.T) {
	require.Equal(t, []IOStats{{Device: "8:0", ReadBytes: 1, WriteBytes: 2, Reads: 3, Writes: 4}},
		parseIO2([]byte("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=0 wbytes=0 rios=0 wios=0\n7:0 \n")))
	var list []IOStats
	for _, l := range []string{"8:0 Read 4096\n", "8:0 Write 0\n", "8:0 Sync 9\n", "Total 12\n", "8:16 Write 5\n"} {
		list = addIO1(list, []byte(l), true)
	}
	require.Equal(t, []IOStats{{Device: "8:0", ReadBytes: 4096}, {Device: "8:16", WriteBytes: 5}}, list)
	require.EqualValues(t, Absent, field([]byte("oom 1\n"), "oom_kill"))
	require.EqualValues(t, 7, field([]byte("oom 1\noom_kill 7"), "oom_kill"))
	require.EqualValues(t, Absent, parse([]byte("max\n")))
	require.EqualValues(t, Absent, parse(nil))
}

// A device is named by its number, by its file, or by any path on its file system;
// a partition counts as its disk.
func TestDeviceNames(t *testing.T) {
	all, err := filepath.Glob("/sys/class/block/*")
	require.NoError(t, err)
	disks := map[string]string{} // by the number of the disk or partition
	for _, at := range all {
		text, err := os.ReadFile(at + "/dev")
		require.NoError(t, err)
		number := strings.TrimSpace(string(text))
		disk := number
		if _, err := os.Stat(at + "/partition"); err == nil {
			real, err := filepath.EvalSymlinks(at)
			require.NoError(t, err)
			text, err := os.ReadFile(filepath.Dir(real) + "/dev")
			require.NoError(t, err)
			disk = strings.TrimSpace(string(text))
		}
		disks[number] = disk
		got, err := deviceOf(number)
		require.NoError(t, err)
		require.Equal(t, disk, got)
		file := "/dev/" + strings.ReplaceAll(filepath.Base(at), "!", "/")
		if _, err := os.Stat(file); err == nil {
			got, err := deviceOf(file)
			require.NoError(t, err)
			require.Equal(t, disk, got, file)
		}
	}
	for _, dir := range []string{"/", "/usr", "/var/tmp", "/proc/self/cwd"} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(dir, &st))
		if unix.Major(st.Dev) == 0 {
			continue // in memory, or a file system whose numbers are its own
		}
		got, err := deviceOf(dir)
		require.NoError(t, err)
		require.Equal(t, disks[fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))], got, dir)
	}
	for _, none := range []string{"/proc", "/dev/null", "999:999"} {
		_, err := deviceOf(none)
		require.ErrorIs(t, err, unix.ENODEV, none)
	}
	_, err = deviceOf("/no/such/path")
	require.ErrorIs(t, err, unix.ENOENT)
}

// A group that nobody can remove is said so, and what is none of ours is refused.
func TestRemoveLeftoverRefuses(t *testing.T) {
	require.ErrorIs(t, RemoveLeftover(t.Context(), "/sys/fs/cgroup/system.slice", "inlay-"), unix.EPERM)
	dir := t.TempDir() + "/inlay-1-0"
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.ErrorContains(t, RemoveLeftover(t.Context(), dir, "inlay-"), "it is no control group")
	require.DirExists(t, dir)
	require.NoError(t, RemoveLeftover(t.Context(), dir+"/inlay-2", "inlay-"), "gone already")
}
