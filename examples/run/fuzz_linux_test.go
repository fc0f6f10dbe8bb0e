package main

import (
	"flag"
	"io"
	"math"
	"math/big"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
)

// Whatever somebody writes behind a flag is refused, or asks for what it says: by New
// with an OptionError, where the form is right and the request is not.
func FuzzFlags(f *testing.F) {
	for _, v := range []string{
		"", "64m", "0", "-1", "1G", "9223372036854775807", "4611686018427387904k", "92233720368547758", "184467440737095517", "1024", "+5b", "5\u212a", "kk", "/a:/b", "/a:/b:ro", "a:b:rw", ":/b", "/a:/b:ro:rw", "/t:size=64k", "/t:SIZE=", "/t:",
		"1000", "1000:5", "1:2:3", "4294967296", ":", "nofile=5", "nofile=5:-1", "nofile=-2", "=1:2", "nofile=1:2:3", "0-2,7", "1.5", "NaN", "1e3", "/dev/sda:1m", "8:0:5", ":5", "2s", "-1h", "\xff",
	} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		n, err := size(v)
		if err == nil {
			digits := strings.TrimRight(strings.ToLower(v), "bkmg")
			want, ok := new(big.Int).SetString(digits, 10)
			require.True(t, ok)
			unit := map[string]int64{"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[strings.ToLower(v)[len(digits):]]
			require.Equal(t, want.Mul(want, big.NewInt(unit)).String(), strconv.FormatInt(n, 10))
			require.GreaterOrEqual(t, n, int64(0))
		}
		if s := asked(t, volume, v); s != nil {
			require.Len(t, s.Mounts, 1)
			part := strings.Split(v, ":")
			require.True(t, filepath.IsAbs(s.Mounts[0].Source))
			require.Equal(t, part[1], s.Mounts[0].Target)
			require.Equal(t, len(part) == 3 && part[2] == "ro", s.Mounts[0].ReadOnly)
		}
		if s := asked(t, tmpfs, v); s != nil {
			require.True(t, strings.HasPrefix(v, s.Mounts[0].Target))
			require.Positive(t, s.Mounts[0].Size)
		}
		if s := asked(t, ulimit, v); s != nil {
			require.LessOrEqual(t, s.Job.Rlimits[0].Soft, s.Job.Rlimits[0].Hard)
			require.True(t, strings.HasPrefix(v, s.Job.Rlimits[0].Name+"="))
		}
		fuzzLimits(t, v)
	})
}

// asked is the request that a flag makes; nil where it is refused.
func asked(t *testing.T, read func(string) (container.Option, error), v string) *container.Spec {
	t.Helper()
	opt, err := read(v)
	if err != nil {
		require.NotEmpty(t, err.Error())
		return nil
	}
	return made(t, opt)
}

func made(t *testing.T, opts ...container.Option) *container.Spec {
	t.Helper()
	c, err := container.New(append(opts, container.WithCommand("x"))...)
	if err != nil {
		var option *container.OptionError
		require.ErrorAs(t, err, &option)
		return nil
	}
	s := c.Spec()
	return &s
}

// fuzzLimits gives the text to each flag of limits.
func fuzzLimits(t *testing.T, v string) {
	t.Helper()
	for _, name := range []string{
		"memory", "memory-swap", "cpus", "cpu-shares", "cpuset-cpus", "pids-limit", "device-read-bps", "device-write-iops", "cpu-time-limit", "output-limit",
	} {
		var opts []container.Option
		set := flag.NewFlagSet("run", flag.ContinueOnError)
		set.SetOutput(io.Discard)
		limits := limitFlags(set, func(names, usage string, option func(string) (container.Option, error)) {
			set.Func(names, usage, func(v string) error {
				o, err := option(v)
				opts = append(opts, o)
				return err
			})
		})
		args := []string{"--" + name + "=" + v}
		if name == "memory-swap" {
			args = append(args, "--memory=1m")
		}
		if set.Parse(args) != nil {
			continue
		}
		more, err := limits()
		if err != nil {
			continue
		}
		s := made(t, append(opts, more...)...)
		if s == nil {
			continue
		}
		l := s.Job.Limits
		switch name {
		case "memory":
			n, err := size(v)
			require.True(t, v == "" || err == nil && n == *l.Memory)
		case "memory-swap":
			if n, err := size(v); err == nil {
				require.Equal(t, n, *l.Memory+*l.Swap)
			} else {
				require.True(t, v == "" && l.Swap == nil || v == "-1" && *l.Swap == math.MaxInt64-*l.Memory)
			}
		case "cpus":
			n, err := strconv.ParseFloat(v, 64)
			require.NoError(t, err)
			require.InDelta(t, n, *l.CPUs, 0)
		case "cpu-shares":
			n, err := strconv.ParseUint(v, 10, 64)
			require.NoError(t, err)
			want := min(10000, max(1, (float64(n)*100+512)/1024))
			require.InDelta(t, want, float64(*l.CPUWeight), 1)
		case "pids-limit":
			n, err := strconv.ParseInt(v, 10, 64)
			require.NoError(t, err)
			require.True(t, n == *l.Pids || n == -1)
		case "device-read-bps", "device-write-iops":
			i := strings.LastIndexByte(v, ':')
			require.Equal(t, v[:i], l.IO[0].Device)
			n, err := size(v[i+1:])
			require.NoError(t, err)
			require.Equal(t, n, l.IO[0].ReadBPS+l.IO[0].WriteIOPS)
		}
	}
}
