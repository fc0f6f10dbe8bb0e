//go:build linux

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/containertest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "work" {
		os.Exit(work(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func TestTable(t *testing.T) {
	containertest.Require(t, containertest.Containers)
	containertest.Census(t)
	var out strings.Builder
	require.NoError(t, show(t.Context(), &out))
	t.Log("\n" + out.String())
	table := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, table, 13)
	top := containertest.Groups(t)
	groups := top != nil
	kept := func(controller string) bool { return groups && top.Has(controller) }
	for row, want := range map[string]struct {
		verdict string
		kept    bool
	}{
		"memory, allocated": {"memory_limit", kept("memory")}, "memory, page cache": {"exited 0", kept("memory")},
		"processes": {"the limit of processes was met", kept("pids")}, "processors": {"exited 0", kept("cpu")},
		"disk, written directly": {"exited ", kept("io")}, "wall time": {"time_limit", true}, "processor time": {"cpu_time_limit", groups},
		"processors by number": {"on 0 ", kept("cpuset")}, "memory file system": {"1048576 bytes, then: no space left on device", true}, "stack": {"signaled", true},
		"idleness": {"idle_limit", groups}, "output": {"output_limit", true},
	} {
		i := -1
		for n, l := range table {
			if strings.HasPrefix(l, row+"  ") {
				i = n
			}
		}
		require.Positive(t, i, row)
		// A scope that systemd makes for a user may lack what the group above it has.
		if !want.kept || row == "processors by number" && strings.Contains(table[i], "the controller cpuset is not in") {
			want.verdict = "not kept here: "
		}
		require.Contains(t, table[i], want.verdict)
	}
}
