//go:build linux

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/containertest"
)

// Five attacks, five verdicts.
func TestVerdicts(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	var out bytes.Buffer
	require.NoError(t, show(&out))
	t.Log("\n" + out.String())
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 5)
	top := containertest.Groups(t)
	memory := "time limit" // as long as nothing else stops it
	if top != nil && top.Has("memory") {
		memory = "memory limit"
	}
	for i, want := range []string{"exit status 1", memory, "time limit", "time limit", "output limit"} {
		require.Contains(t, lines[i], hostile[i].name)
		require.Contains(t, lines[i], want)
	}
}
