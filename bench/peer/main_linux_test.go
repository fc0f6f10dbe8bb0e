package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMakerNeedsEveryController(t *testing.T) {
	_, err := maker([]string{root + "/memory/a", root + "/cpu,cpuacct/b"})
	require.ErrorContains(t, err, "pids: no folder below")
	_, err = maker([]string{root + "/memory/a", root + "/cpu,cpuacct/b", root + "/pids/c"})
	require.NoError(t, err)
}
