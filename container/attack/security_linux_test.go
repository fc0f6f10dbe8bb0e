package attack

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table of known ways out names attacks and tests that are there, and every hole
// that an attack is named after has its line.
func TestKnownWaysOut(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "<!-- ways -->")
	require.True(t, found)
	table, _, found = strings.Cut(table, "<!-- /ways -->")
	require.True(t, found)
	var sources strings.Builder
	for _, pattern := range []string{"*_test.go", "../*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			sources.Write(text)
		}
	}
	known := map[string]bool{}
	for _, a := range attacks {
		known[a.name] = true
		for _, cve := range regexp.MustCompile(`CVE-\d+-\d+`).FindAllString(a.class, -1) {
			require.Contains(t, table, cve, a.name)
		}
	}
	lines := 0
	for _, line := range strings.Split(strings.TrimSpace(table), "\n")[2:] {
		names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line, -1)
		require.NotEmpty(t, names, line)
		for _, n := range names {
			if strings.HasPrefix(n[1], "Test") {
				require.Contains(t, sources.String(), "func "+n[1]+"(", line)
			} else {
				require.True(t, known[n[1]], "no attack %s", n[1])
			}
		}
		lines++
	}
	require.Greater(t, lines, 10)
}
