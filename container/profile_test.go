package container

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A profile prints what it stands for, and leaves behind what it prints.
func TestProfilesGolden(t *testing.T) {
	var b strings.Builder
	for _, p := range []Option{ProfileJudge(), ProfileJob(), ProfileAgent(), ProfileService()} {
		c, err := New(WithID("x"), WithCommand("true"), p)
		require.NoError(t, err)
		s := c.Spec()
		if s.Job.Seccomp != nil {
			require.Contains(t, p.String(), "WithSeccomp("+s.Job.Seccomp.String()+")")
			s.Job.Seccomp = nil // its text is long, and in a test of its own
		}
		text, err := json.MarshalIndent(s, "", "  ")
		require.NoError(t, err)
		fmt.Fprintf(&b, "%s\n%s\n\n", strings.ReplaceAll(p.String(), ", With", ",\n    With"), text)
	}
	const path = "testdata/profiles.golden"
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "go test -update writes it")
	require.Equal(t, string(want), b.String())
}

// What comes after a profile wins over it, and what it has not stays.
func TestProfileIsOverridden(t *testing.T) {
	c, err := New(WithCommand("true"), ProfileAgent(), WithMemoryLimit(5*MiB))
	require.NoError(t, err)
	j := c.Spec().Job
	require.Equal(t, 5*MiB, *j.Limits.Memory)
	require.EqualValues(t, 256, *j.Limits.Pids)
	// With Optional every part of it is.
	c, err = New(WithCommand("true"), Optional(ProfileAgent()))
	require.NoError(t, err)
	require.Equal(t, []string{"WithMemoryLimit", "WithCPULimit", "WithPidsLimit", "WithTimeLimit", "WithOutputLimit"}, c.Spec().Job.Optional)
}
