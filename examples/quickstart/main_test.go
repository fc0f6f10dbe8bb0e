//go:build linux

package main

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/containertest"
)

// Each namespace is another than this program's, and each limit that this host keeps
// bites; what it does not keep is named.
func TestQuickstart(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	var out bytes.Buffer
	require.NoError(t, show(t.Context(), &out))
	t.Log("\n" + out.String())
	parts := strings.Split("\n"+out.String(), "\n$ ")[1:]
	require.Len(t, parts, len(lines))
	first := strings.Split(parts[0], "\n")[1:]
	for i, name := range []string{"uts", "pid", "mnt", "user", "net", "ipc"} {
		require.Regexp(t, "^"+name+`:\[\d+\]$`, first[i])
		own, err := os.Readlink("/proc/self/ns/" + name)
		require.NoError(t, err)
		require.NotEqual(t, own, first[i])
	}
	require.Equal(t, []string{"box", "0", "process 2"}, first[6:9])

	figure := func(part, unit string) time.Duration {
		m := regexp.MustCompile(`=> .* ([0-9.]+m?s) ` + unit).FindStringSubmatch(part)
		require.NotNil(t, m, "%s", part)
		d, err := time.ParseDuration(m[1])
		require.NoError(t, err)
		return d
	}
	top := containertest.Groups(t)
	for i, limit := range []struct {
		controller, option string
		bites              func(part string)
	}{
		{"memory", "WithMemoryLimit", func(part string) { require.Contains(t, part, "=> memory limit") }},
		{"cpu", "WithCPULimit", func(part string) {
			require.Contains(t, part, "=> time limit")
			require.Less(t, figure(part, "cpu"), figure(part, "wall")*6/10)
		}},
		{"pids", "WithPidsLimit", func(part string) { require.Contains(t, part, "the limit of processes was met") }},
		{"io", "WithIOLimit", func(part string) {
			if !strings.Contains(part, "=> exit status 0") {
				require.Contains(t, part, "nvalid", "%s: a file system that does not write directly", strconv.Quote(part))
				return
			}
			require.Greater(t, figure(part, "wall"), 500*time.Millisecond)
		}},
	} {
		part := parts[i+1]
		if strings.Contains(part, "{"+limit.option+" ") { // of Dropped
			// A folder may lie on no disk, and a scope of systemd's may lack what is above it.
			require.True(t, top == nil || !top.Has(limit.controller) || limit.controller == "io", "%s", part)
			continue
		}
		limit.bites(part)
	}
}
