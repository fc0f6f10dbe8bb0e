package cgroup

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// faults are what Validate reports.
func faults(l *Limits) (out []string) {
	l.Validate(func(field string, value any, err error) {
		out = append(out, fmt.Sprintf("%s %v: %v", field, value, err))
	})
	return out
}

// OCI resources are refused or read; what was read, and is valid, is the same after a
// way to OCI and back, but for what OCI has no place for. Limits of JSON may be
// anything: nothing panics, and the files that valid ones are written to have one line each.
func FuzzOCI(f *testing.F) {
	for _, text := range []string{
		`{}`, `null`, `{"memory": {"limit": 1048576, "swap": 2097152, "reservation": 5}}`, `{"memory": {"limit": 9223372036854775807, "swap": 9223372036854775807}}`,
		`{"memory": {"swap": 5}}`, `{"memory": {"kernel": 5}}`, `{"memory": {"limit": -1, "swap": -1, "kernel": -1}}`,
		`{"cpu": {"quota": 50000, "period": 100000, "shares": 512, "cpus": "0-2,7", "mems": "0", "burst": 1}}`, `{"cpu": {"quota": 1, "period": 18446744073709552616}}`,
		`{"cpu": {"quota": 100, "period": 1000, "burst": 18446744073709551615}}`, `{"cpu": {"idle": 1, "shares": 2}}`, `{"cpu": {"shares": 18446744073709551615}}`,
		`{"pids": {"limit": 0}}`, `{"pids": {"limit": 7}}`, `{"hugepageLimits": [{"pageSize": "2MB", "limit": 18446744073709551615}, {"pageSize": "", "limit": 0}]}`,
		`{"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}, {"major": 8, "minor": -1, "rate": 7}]}}`,
		`{"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}], "leafWeight": 5}}`,
		`{"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}, {"allow": true, "type": "c c", "access": ""}]}`,
		`{"devices": [{"allow": true, "type": "b", "major": 4294967296, "access": "r"}]}`, `{"devices": [{"allow": false, "type": "c", "major": 1}]}`,
		`{"rdma": {"a": {"hcaHandles": 3}, "b": {"hcaObjects": 4}}}`, `{"rdma": {"a": {"hcaHandles": 3}}, "unified": {"misc.max": "x 1"}}`, `{"network": {}}`, `{"unified": {"a/b": "1", "memory.high": "5\n"}}`,
	} {
		f.Add([]byte(text))
	}
	for _, text := range []string{
		`{"memory": 1, "swap": 5, "cpus": 0.5, "cpu_period_ns": 1500000, "cpu_burst_ns": 999, "cpu_weight": 3, "pids": 5, "io": [{"device": "8:0", "read_bps": 4611686018427387904, "write_bps": 4611686018427387904, "read_iops": 4611686018427387904, "write_iops": 4611686018427387904}]}`,
		`{"device_rules": ["x", "c 1:3", "c 4294967295:* rw", "c 4294967296:0 r", "a *:* m"], "io": [{"device": "8:0/x", "read_bps": 1}, {"device": "+8:-0", "read_iops": 1}], "io_weight": 5}`,
		`{"cpus": 1e308, "cpu_set": "0-,", "memory_set": "3-1", "hugetlb": {"x": -1, "1GB": 1}, "cpu_idle": true}`, `{"cpus": 0.01, "cpu_period_ns": 1000000, "swap": 0}`,
		`{"cpus": 0.01, "cpu_period_ns": 100001000}`, `{"cpus": 0.5, "cpu_period_ns": 1002000}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r specs.LinuxResources
		if json.Unmarshal(text, &r) == nil {
			if l, err := FromOCI(&r); err == nil {
				check(t, l)
			}
		}
		var l Limits
		if json.Unmarshal(text, &l) == nil {
			check(t, l)
		}
	})
}

func check(t *testing.T, l Limits) {
	t.Helper()
	oci := l.OCI()
	wrong := faults(&l)
	cleared := l.clone()
	for _, name := range l.Fields() {
		cleared.Clear(name)
	}
	require.Empty(t, cleared.Fields())
	if wrong != nil {
		return
	}
	for _, v2 := range []bool{true, false} {
		for _, s := range l.settings(v2) {
			require.NotEmpty(t, s.file)
			require.False(t, strings.ContainsAny(s.file, "/\x00\n"), "%+v", s)
			if s.field != "Unified" && s.field != "IO" { // whose words are the caller's, and the host's
				require.False(t, strings.ContainsAny(s.value+s.otherValue, "\x00\n"), "%+v", s)
			}
			if s.file == "cpu.max" {
				var quota, period float64
				_, err := fmt.Sscan(s.value, &quota, &period)
				require.NoError(t, err)
				require.InDelta(t, *l.CPUs, quota/period, 0.001, "what is written is another limit")
			}
		}
		if cleared.OOMGroup = false; cleared.CPUPeriod == nil {
			require.Empty(t, cleared.settings(v2))
		}
	}
	back, err := FromOCI(oci)
	require.NoError(t, err)
	require.Empty(t, faults(&back), "%+v", oci)
	require.Equal(t, l.Memory, back.Memory)
	require.Equal(t, l.MemorySoft, back.MemorySoft)
	require.Equal(t, l.Pids, back.Pids)
	require.Equal(t, l.CPUSet, back.CPUSet)
	require.Equal(t, l.MemorySet, back.MemorySet)
	require.Equal(t, l.CPUIdle, back.CPUIdle)
	require.Equal(t, l.CPUWeight, back.CPUWeight)
	require.Len(t, back.DeviceRules, len(l.DeviceRules))
	require.Len(t, back.Hugetlb, len(l.Hugetlb))
	for size, n := range l.Hugetlb {
		require.Equal(t, n, back.Hugetlb[size])
	}
	require.Len(t, back.Unified, len(l.Unified))
	if l.Memory != nil && l.Swap != nil && *l.Swap <= math.MaxInt64-*l.Memory {
		require.Equal(t, l.Swap, back.Swap)
	}
	if l.CPUs != nil {
		require.NotNil(t, back.CPUs, "a limit is lost")
		require.InDelta(t, *l.CPUs, *back.CPUs, 0.001)
	}
	again, err := FromOCI(back.OCI())
	require.NoError(t, err)
	require.Equal(t, back, again)
}
