//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// groupFiles are the files of that name in the groups that a program made.
func groupFiles(pid int, name string) (texts []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir // gone meanwhile, or not ours to read
		}
		if d.Name() == name && strings.Contains(path, fmt.Sprintf("/inlay-%d-", pid)) {
			if text, err := os.ReadFile(path); err == nil {
				texts = append(texts, strings.TrimSpace(string(text)))
			}
		}
		return nil
	})
	return texts
}

// Every flag of a limit that this host can keep reaches the kernel, in its units.
func TestLimitFlags(t *testing.T) {
	needContainers(t)
	top := containertest.Groups(t)
	if top == nil {
		t.Skip("needs cgroups that it may make")
	}
	disk, err := os.MkdirTemp("/var/tmp", "inlay-run-") //nolint:usetesting // TMPDIR may be in memory
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(disk)) }()
	type want struct{ files, says []string } // on v2 or v1
	var flags []string
	var all []want
	for _, f := range []struct {
		controller string
		flags      []string
		want       []want
	}{
		{"memory", []string{"-m", "64m", "--memory-swap", "80m"}, []want{
			{[]string{"memory.max", "memory.limit_in_bytes"}, []string{"67108864"}},
			{[]string{"memory.swap.max", "memory.memsw.limit_in_bytes"}, []string{"16777216", "83886080"}},
		}},
		{"cpu", []string{"--cpus", "1.5", "--cpu-shares", "512"}, []want{
			{[]string{"cpu.max", "cpu.cfs_quota_us"}, []string{"150000 100000", "150000"}},
			{[]string{"cpu.weight", "cpu.shares"}, []string{"50", "512"}},
		}},
		{"cpuset", []string{"--cpuset-cpus", "0"}, []want{{[]string{"cpuset.cpus"}, []string{"0"}}}},
		{"pids", []string{"--pids-limit", "50"}, []want{{[]string{"pids.max"}, []string{"50"}}}},
		{"io", []string{"--device-read-bps", disk + ":1m", "--device-write-bps", disk + ":2m", "--device-read-iops", disk + ":30", "--device-write-iops", disk + ":40"}, []want{
			{[]string{"io.max", "blkio.throttle.read_bps_device"}, []string{"rbps=1048576 wbps=2097152 riops=30 wiops=40", " 1048576"}},
			{[]string{"io.max", "blkio.throttle.write_bps_device"}, []string{"wbps=2097152", " 2097152"}},
			{[]string{"io.max", "blkio.throttle.read_iops_device"}, []string{"riops=30", " 30"}},
			{[]string{"io.max", "blkio.throttle.write_iops_device"}, []string{"wiops=40", " 40"}},
		}},
	} {
		if top.Has(f.controller) {
			flags, all = append(flags, f.flags...), append(all, f.want...)
		}
	}
	cmd := command(t, append(flags, "--", "sh", "-c", "echo ready; cat")...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	for _, w := range all {
		found := []string{}
		met := false
		for _, file := range w.files {
			texts := groupFiles(cmd.Process.Pid, file)
			found = append(found, texts...)
			for _, text := range texts {
				for _, s := range w.says {
					met = met || text == s || strings.ContainsAny(s, "= ") && strings.Contains(text, s)
				}
			}
		}
		require.True(t, met, "%v says %q, not %q", w.files, found, w.says)
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
}

// What ends a job by a limit is said, and its figures are in the result.
func TestLimitsInTheResult(t *testing.T) {
	needContainers(t)
	top := containertest.Groups(t)
	result := func(t *testing.T, code int, args ...string) (o outcome, res container.Result) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "result.json")
		o = do(t, append([]string{"--result", file}, args...)...)
		require.Equal(t, code, o.code, "%+v", o)
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &res))
		return o, res
	}
	t.Run("output", func(t *testing.T) {
		o, res := result(t, 137, "--output-limit", "1k", "--", "head", "-c", "1000000", "/dev/zero")
		require.Equal(t, container.OutputLimit, res.Status)
		require.EqualValues(t, 1024, res.StdoutBytes)
		require.Len(t, o.stdout, 1024)
		require.Contains(t, o.stderr, "inlay: output limit")
	})
	if top == nil {
		t.Skip("needs cgroups that it may make")
	}
	t.Run("processor time", func(t *testing.T) {
		o, res := result(t, 137, "--cpu-time-limit", "100ms", "--", "sh", "-c", "while :; do :; done")
		require.Equal(t, container.CPUTimeLimit, res.Status)
		require.GreaterOrEqual(t, res.CPUTime(), 100*time.Millisecond)
		require.Positive(t, res.UserTime)
		require.Contains(t, o.stderr, "inlay: cpu time limit")
	})
	t.Run("memory", func(t *testing.T) {
		if !top.Has("memory") {
			t.Skip("needs cgroups of memory that it may make")
		}
		o, res := result(t, 137, "--memory", "32m", "--", "sh", "-c", "x=$(head -c 64000000 /dev/zero | tr '\\0' x)")
		require.Equal(t, container.MemoryLimit, res.Status)
		require.Equal(t, syscall.SIGKILL, res.Signal)
		require.Contains(t, o.stderr, "inlay: memory limit")
		_, res = result(t, 0, "--memory", "64m", "--", "sh", "-c", "head -c 20000000 /dev/zero >/tmp/x")
		if res.MemorySource != "largest sample" && res.MemorySource != "ru_maxrss" { // v2 before Linux 5.19
			require.Contains(t, []string{"memory.peak", "memory.max_usage_in_bytes"}, res.MemorySource)
			require.Greater(t, res.MemoryPeak, int64(20_000_000))
		}
		require.Positive(t, res.MemoryPeak)
		require.Positive(t, res.MinorFaults)
		require.Positive(t, res.VoluntarySwitches)
	})
}

// A line of figures is written over and over on a terminal, and once elsewhere.
func TestStatsLine(t *testing.T) {
	needContainers(t)
	if containertest.Groups(t) == nil {
		t.Skip("needs cgroups that it may make")
	}
	o := do(t, "--stats", "--", "sh", "-c", "head -c 3000000 /dev/zero >/tmp/x; exit 4")
	require.Equal(t, 4, o.code, "%+v", o)
	require.Regexp(t, `^cpu [0-9.]+m?s.*\n$`, o.stderr)
	require.NotContains(t, o.stderr, "\x1b")
	require.Equal(t, 1, strings.Count(o.stderr, "\n"))

	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	defer terminal.Close() //nolint:errcheck // nothing is buffered
	require.NoError(t, unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	job, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	cmd := command(t, "--stats", "--", "sh", "-c", "sleep 1.3")
	cmd.Stderr = job
	require.NoError(t, cmd.Start())
	require.NoError(t, job.Close())
	var shown bytes.Buffer
	_, err = io.Copy(&shown, terminal)
	if !errors.Is(err, unix.EIO) { // how a terminal says that nobody has it open any more
		require.NoError(t, err)
	}
	require.NoError(t, cmd.Wait())
	parts := strings.Split(shown.String(), "\r\x1b[K")
	require.GreaterOrEqual(t, len(parts), 4, "at the beginning, twice after half a second each, and at the end: %q", shown.String())
	require.Empty(t, parts[0])
	for i, p := range parts[1:] {
		if i == len(parts)-2 {
			require.Regexp(t, `^cpu .*\r\n$`, p)
			break
		}
		if p != "" { // what wipes the last line
			require.Regexp(t, `^cpu [0-9.]+(m|µ)?s[^\n]*$`, p)
		}
	}
	if containertest.Groups(t).Has("memory") {
		require.Contains(t, shown.String(), "  memory ")
		// The topmost group of all has less than a container's.
		c, err := container.New()
		require.NoError(t, err)
		require.NoError(t, c.Start(t.Context()))
		stats, err := c.Stats(t.Context())
		require.NoError(t, errors.Join(err, c.Close()))
		require.Equal(t, stats.Memory.Peak >= 0, strings.Contains(shown.String(), "  peak "), "v2 counts it since Linux 5.19")
	}
	if containertest.Groups(t).Has("pids") {
		require.Regexp(t, "  processes [12]", shown.String()) // a shell may become its only command
	}
}
