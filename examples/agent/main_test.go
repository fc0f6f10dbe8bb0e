//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/containertest"
)

// folder is a project, on a file system that holds for all.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700))
	for name, text := range map[string]string{"kept": "as it was\n", "edited": "1\n", "doomed": "bye\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// files are what is in the folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	out := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		out[e.Name()] = string(text)
	}
	return out
}

const script = "cat kept; echo 2 >>edited; rm doomed; echo new >made\n"

// What a script changes is shown, and is in the folder if it is committed and the
// script succeeded.
func TestAgent(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	before := map[string]string{"kept": "as it was\n", "edited": "1\n", "doomed": "bye\n"}
	after := map[string]string{"kept": "as it was\n", "edited": "1\n2\n", "made": "new\n"}
	for _, tt := range []struct {
		name, script string
		commit       bool
		said         string
		want         map[string]string
	}{
		{"shown", script, false, "=> exit status 0", before},
		{"committed", script, true, "=> exit status 0", after},
		{"failed", script + "exit 3\n", true, "=> exit status 3", before},
		{"endless", script + "yes\n", true, "=> output limit", before},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t)
			var out bytes.Buffer
			err := run(t.Context(), dir, strings.NewReader(tt.script), tt.commit, &out)
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skipf("needs Linux 6.6, or a file system that can be mapped: %v", err)
			}
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(out.String(), "as it was\n"), "%s", out.String())
			_, end, ok := strings.Cut(out.String(), tt.said)
			require.True(t, ok, "%s", out.String())
			_, changes, _ := strings.Cut(end, "\n")
			require.Equal(t, "D /work/doomed\nC /work/edited\nA /work/made\n", changes)
			require.Equal(t, tt.want, files(t, dir))
		})
	}
}
