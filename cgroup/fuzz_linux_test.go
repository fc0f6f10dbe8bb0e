package cgroup

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3"
	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
)

// Whatever the kernel's files hold: a figure is a number that is not negative, or
// Absent, and what is taken for a group is a clean path. Whatever rules and lists are:
// they are refused, or mean to the kernel what they say.
func FuzzFiles(f *testing.F) {
	for _, text := range []string{
		"", "max\n", "18446744073709551615\n", "9223372036854771712", "usage_usec 7\nuser_usec 99999999999999999999\n", "anon 1\nfile 2\nanon_thp 3\nanon 9\n", "anon -5\nanon\t6\nanon",
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=9223372036854775807\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2\n", "total=", "total=x total=5",
		"8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=max rios=1\n7:0 \n", "8:0 rbytes=9223372036854775807 wbytes=9223372036854775807\n", "8:0 Read 4096\n8:0 Write 0\n8:0 Sync 9\nTotal 12\n8:16 Write 5\n",
		"35 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n36 24 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\x002:memory:/\n0::/x.service/y.scope/z\n",
		"35 24 0:30 /a/b /m rw - cgroup2 cgroup2 rw\x000::/..\n", "35 24 0:30 /docker/abc /m ro - cgroup cgroup rw,memory\x002:memory:/../x\n", "36 24 0:31 \\057\\012 /\\040 rw - cgroup2 x rw\x000::a/../../b.service",
		"c 1:3 rwm", "b *:4294967295 m", "a 4294967296:1 r", "0-2,7", "0-8191,3", "2-1", "00", "/a/b.scope/c", "/a/../b",
	} {
		f.Add(text)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		b := []byte(text)
		// One number.
		n := parse(b)
		if digits := text[:len(text)-len(strings.TrimLeft(text, "0123456789"))]; digits == "" {
			require.EqualValues(t, Absent, n)
		} else if want, err := strconv.ParseInt(digits, 10, 64); err == nil {
			require.Equal(t, want, n)
		} else {
			require.Positive(t, n)
		}
		require.GreaterOrEqual(t, micro(n), micro(Absent))
		require.GreaterOrEqual(t, parsePressure(b), micro(Absent))
		// A list of fields: the first line that begins with the name counts.
		for _, name := range []string{"anon", "usage_usec", "max", "8:0"} {
			want := int64(Absent)
			for line := range strings.SplitSeq(text, "\n") {
				if value, ok := strings.CutPrefix(line, name+" "); ok {
					want = parse([]byte(value))
					break
				}
			}
			require.Equal(t, want, field(b, name), name)
		}
		// Disks.
		var list []IOStats
		for line := range strings.Lines(text) {
			list = addIO1(list, []byte(line), len(line)%2 == 0)
		}
		for _, d := range append(list, parseIO2(b)...) {
			require.NotEmpty(t, d.Device)
			require.GreaterOrEqual(t, min(d.ReadBytes, d.WriteBytes, d.Reads, d.Writes), int64(Absent))
			require.Positive(t, max(d.ReadBytes, d.WriteBytes, d.Reads, d.Writes))
		}

		fuzzHierarchies(t, filepath.Join(dir, "cgroup"), text)
		if unit := unitOf(text); unit != "" {
			require.True(t, strings.HasPrefix(text, unit) || strings.HasPrefix(path.Clean(text), path.Clean(unit)), unit)
			require.Contains(t, []string{".service", ".scope"}, path.Ext(unit))
		}
		if ValidatePath(text) == nil {
			require.Equal(t, text, path.Join("/", text))
		}
		if ValidateCPUSet(text) == nil {
			require.Empty(t, strings.Trim(text, "0123456789-,"))
			for part := range strings.SplitSeq(text, ",") {
				low, high, ranged := strings.Cut(part, "-")
				a, err := strconv.Atoi(low)
				require.NoError(t, err)
				if ranged {
					b, err := strconv.Atoi(high)
					require.NoError(t, err)
					require.LessOrEqual(t, a, b)
				}
			}
		}
		fuzzDeviceRule(t, text)
	})
}

// fuzzHierarchies takes the text up to its first NUL for mountinfo, and the rest for
// /proc/self/cgroup.
func fuzzHierarchies(t *testing.T, file, text string) {
	t.Helper()
	mountText, ownText, _ := strings.Cut(text, "\x00")
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(mountText), mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return
	}
	require.NoError(t, os.WriteFile(file, []byte(ownText), 0o600))
	own, unified, err := cgroups.ParseCgroupFileUnified(file)
	if err != nil {
		return
	}
	list := findHierarchies(mounts, own, unified)
	for i, h := range list {
		require.True(t, path.IsAbs(h.own) && path.Clean(h.own) == h.own, "%q", h.own)
		require.Equal(t, h.unified, len(h.controllers) == 0)
		for _, o := range list[:i] {
			require.False(t, o.unified == h.unified && slices.Equal(o.controllers, h.controllers), "twice")
		}
	}
}

// fuzzDeviceRule compares the program for a rule with the rule.
func fuzzDeviceRule(t *testing.T, rule string) {
	t.Helper()
	prog, err := deviceProgram([]string{rule})
	if ValidateDeviceRule(rule) != nil {
		require.Error(t, err)
		return
	}
	require.NoError(t, err, "what Validate takes, Start can keep")
	words := strings.Fields(rule)
	major, minor, _ := strings.Cut(words[1], ":")
	half := func(text string) (n uint32, fits func(uint32) bool) {
		if text == "*" {
			return 77, func(uint32) bool { return true }
		}
		v, err := strconv.ParseUint(text, 10, 32)
		require.NoError(t, err)
		return uint32(v), func(n uint32) bool { return n == uint32(v) }
	}
	a, fitsMajor := half(major)
	b, fitsMinor := half(minor)
	for kind, letter := range map[uint32]string{bpfDevTypeBlock: "b", bpfDevTypeChar: "c"} {
		for access := range uint32(8) {
			asked := ""
			for i, l := range []string{"m", "r", "w"} {
				if access&(1<<i) != 0 {
					asked += l
				}
			}
			for _, at := range [][2]uint32{{a, b}, {a + 1, b}, {a, b + 1}} {
				want := (words[0] == "a" || words[0] == letter) && fitsMajor(at[0]) && fitsMinor(at[1]) && strings.Trim(asked, words[2]) == ""
				require.Equal(t, want, runDeviceProgram(t, prog, kind, access, at[0], at[1]), "%s %v for %q", letter, at, asked)
			}
		}
	}
}
