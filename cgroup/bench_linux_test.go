package cgroup_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/cgroup"
)

// What a launch does with groups, without the launch: create with limits of
// memory, processors and processes, open what is entered by, read the figures,
// delete.
func BenchmarkGroup(b *testing.B) {
	top, err := cgroup.Nearest()
	if err != nil {
		b.Skipf("needs cgroups that it may make: %v", err)
	}
	defer top.Close() //nolint:errcheck // descriptors of folders
	base, err := top.Create("inlay-bench", cgroup.Limits{})
	require.NoError(b, err)
	defer func() { require.NoError(b, base.Delete(context.Background())) }()
	memory, pids, cpus := int64(64<<20), int64(16), 0.5
	l := cgroup.Limits{Memory: &memory, Pids: &pids, CPUs: &cpus, OOMGroup: true}
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g, err := base.Create("1", l)
			if err != nil {
				b.Fatal(err)
			}
			e, err := g.Enter()
			if err != nil {
				b.Fatal(err)
			}
			e.Close()
			if err := g.Delete(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
	g, err := base.Create("2", l)
	require.NoError(b, err)
	b.Run("enter", func(b *testing.B) {
		for b.Loop() {
			e, err := g.Enter()
			if err != nil {
				b.Fatal(err)
			}
			e.Close()
		}
	})
	b.Run("stats", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := g.Stats(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kills", func(b *testing.B) {
		for b.Loop() {
			g.OOMKills()
		}
	})
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			h, err := g.Create("x", cgroup.Limits{})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := h.Delete(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	require.NoError(b, g.Delete(context.Background()))
}
