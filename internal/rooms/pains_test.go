package rooms

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests that CONTRIBUTING.md names for what bites users are there.
func TestPains(t *testing.T) {
	text, err := os.ReadFile("../../CONTRIBUTING.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "<!-- pains -->")
	require.True(t, found)
	table, _, found = strings.Cut(table, "<!-- /pains -->")
	require.True(t, found)
	there := map[string]bool{}
	require.NoError(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(source), -1) {
			there[m[1]] = true
		}
		return err
	}))
	lines := strings.Split(strings.TrimSpace(table), "\n")[2:]
	for _, l := range lines {
		names := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(l, -1)
		require.NotEmpty(t, names, l)
		for _, n := range names {
			require.True(t, there[n[1]], "%s: no %s", l, n[1])
		}
	}
	require.Greater(t, len(lines), 30)
}
