package containertest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Golden compares text with the file at path, and rewrites the file instead if
// update is set.
func Golden(t testing.TB, path, text string, update bool) {
	t.Helper()
	if update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run go test with -update to write it)", err)
	}
	if string(want) == text {
		return
	}
	a, b := strings.Split(string(want), "\n"), strings.Split(text, "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			line := func(l []string) string {
				if i < len(l) {
					return l[i]
				}
				return "<end>"
			}
			t.Fatalf("%s differs in line %d:\n have %s\n want %s", path, i+1, line(b), line(a))
		}
	}
}
