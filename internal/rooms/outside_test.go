package rooms

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A program of somebody else needs nothing but the module: no generated file, no
// cgo, no call in its main. The README's own program is taken.
func TestModuleFromOutside(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("needs the go command: %v", err)
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	_, text, ok := strings.Cut(string(readme), "```go\n")
	require.True(t, ok, "the README has a program")
	text, _, _ = strings.Cut(text, "```")
	if !strings.Contains(text, "package main") {
		text = "package main\n\nimport (\n\t\"context\"\n\t\"fmt\"\n\t\"os\"\n\t\"time\"\n\n\t\"github.com/inlay-dev/inlay/container\"\n)\n\n" + text
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	own := strings.Replace(string(mod), "module github.com/inlay-dev/inlay", "module outside", 1) +
		"\nrequire github.com/inlay-dev/inlay v0.0.0\n\nreplace github.com/inlay-dev/inlay => " + root + "\n"
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	for name, data := range map[string]string{"main.go": text, "go.mod": own, "go.sum": string(sum)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644))
	}
	cmd := exec.Command("go", "build", "-o", "prog", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	if runtime.GOOS != "linux" {
		return
	}
	for _, p := range []string{"libc", "ld-linux"} {
		exe, err := os.ReadFile(filepath.Join(dir, "prog"))
		require.NoError(t, err)
		require.NotContains(t, string(exe[:4096]), p, "it is linked statically")
	}
	out, err = exec.Command(filepath.Join(dir, "prog")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "42") {
		require.Contains(t, string(out), "inlay:", "where no container can be made it says so")
		t.Skipf("needs containers: %s", out)
	}
}
