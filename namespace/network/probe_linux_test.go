package network_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// Probe tells of bridges what a start finds, and leaves nothing.
func TestProbe(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	find := func() *container.Finding {
		r, err := container.Probe(timeout(t))
		require.NoError(t, err)
		for i := range r.Findings {
			if r.Findings[i].Name == "bridges" {
				return &r.Findings[i]
			}
		}
		require.Fail(t, "no finding", "%v", r)
		return nil
	}
	f := find()
	require.True(t, f.Note)
	require.NotEmpty(t, f.Detail)
	if os.Geteuid() == 0 {
		before := state(t)
		f = find()
		require.True(t, f.OK, "%v", f)
		require.Empty(t, f.Remedy)
		asBefore(t, before)
		return
	}
	require.Equal(t, f.OK, f.Remedy == "", "%v", f)
}
