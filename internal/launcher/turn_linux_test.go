package launcher_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/internal/rawproc"
)

// program builds a host program in a module of its own inside this one, with
// packages whose init tells that it ran.
func program(t *testing.T, files map[string]string) string {
	t.Helper()
	if !rawproc.Supported {
		t.Skip("needs amd64 or arm64")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("needs the go command: %v", err)
	}
	// Sorted ahead of boot, and below this folder: internal packages may be imported, and the module's own
	// go.sum serves.
	dir, err := os.MkdirTemp(".", "aprog") //nolint:usetesting // t.TempDir is outside this module
	if err != nil {
		t.Skipf("needs a writable source tree: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		text = strings.ReplaceAll(text, "HERE", "github.com/inlay-dev/inlay/internal/launcher/"+filepath.Base(dir))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	exe := filepath.Join(t.TempDir(), "prog")
	out, err := exec.Command("go", "build", "-o", exe, "./"+dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return exe
}

const mainText = `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/inlay-dev/inlay/container"
	%s
)

func main() {
	for range 3 {
		res, err := container.Run(context.Background(), container.WithCommand("true"))
		fmt.Println(res != nil && res.Success(), err)
		if err != nil {
			os.Exit(1)
		}
	}
}
`

// telling is a package whose init leaves a line in a file.
func telling(name, imports string) string {
	return "package " + name + `

import (
	` + imports + `
	"os"
)

func init() {
	f, err := os.OpenFile("/tmp/inlay-turn-` + "RUN" + `", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		_, _ = f.WriteString("` + name + ` " + os.Args[0] + "\n")
		_ = f.Close()
	}
}
`
}

// Packages that need more than os do not run in the launcher; one that needs no
// more and sorts earlier runs at most once.
func TestInitOrder(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	set := func(text string) string { return strings.ReplaceAll(text, "/tmp/inlay-turn-RUN", log) }
	exe := program(t, map[string]string{
		"main.go":       strings.Replace(mainText, "%s", "_ \"HERE/aheavy\"\n\t_ \"HERE/alight\"", 1),
		"aheavy/pkg.go": set(telling("aheavy", "_ \"net/http\"\n\t_ \"crypto/tls\"")),
		"alight/pkg.go": set(telling("alight", "")),
	})
	out, err := exec.Command(exe).CombinedOutput()
	if err != nil && strings.Contains(string(out), "operation not permitted") {
		t.Skipf("needs containers: %s", out)
	}
	require.NoError(t, err, "%s", out)
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	heavy, light := 0, 0
	for _, l := range strings.Split(string(text), "\n") {
		name, arg0, _ := strings.Cut(l, " ")
		if arg0 == "inlay-launcher" {
			switch name {
			case "aheavy":
				heavy++
			case "alight":
				light++
			}
		}
	}
	require.Zero(t, heavy, "%s", text)
	require.LessOrEqual(t, light, 1, "%s", text)
	require.Contains(t, string(text), "aheavy "+exe, "the host program itself runs it")
}

// A package that keeps the launcher from its turn is told of within a second or
// so, with the cure.
func TestNoTurn(t *testing.T) {
	for name, body := range map[string]string{
		"exits": `os.Exit(0)`,
		"fails": `os.Exit(7)`,
		"waits": `select {}`,
		"reads": `_, _ = os.Stdin.Read(make([]byte, 1)); r, _, _ := os.Pipe(); _, _ = r.Read(make([]byte, 1))`,
	} {
		t.Run(name, func(t *testing.T) {
			exe := program(t, map[string]string{
				"main.go":    strings.Replace(mainText, "%s", "_ \"HERE/ahead\"", 1),
				"ahead/a.go": "package ahead\n\nimport \"os\"\n\nfunc init() {\n\tif os.Args[0] == \"inlay-launcher\" {\n\t\t" + body + "\n\t}\n}\n",
			})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, exe).CombinedOutput()
			require.Error(t, err)
			require.NoError(t, ctx.Err())
			require.Contains(t, string(out), "the launcher did not begin")
			require.Contains(t, string(out), `when os.Args[0] is "inlay-launcher"`)
		})
	}
}

// A program that never starts a container gets nothing from the import: no
// goroutine, no descriptor.
func TestImportCostsNothing(t *testing.T) {
	exe := program(t, map[string]string{"main.go": `package main

import (
	"fmt"
	"os"
	"runtime"

	_ "github.com/inlay-dev/inlay/container"
)

func main() {
	fds, err := os.ReadDir("/proc/self/fd")
	fmt.Println(runtime.NumGoroutine(), len(fds), err)
}
`})
	out, err := exec.Command(exe).CombinedOutput()
	require.NoError(t, err)
	fields := strings.Fields(string(out))
	require.Equal(t, "1", fields[0])
	// 0 to 2, the listing's own, and what the runtime opens to read the cgroup's
	// CPU limit.
	plain := program(t, map[string]string{"main.go": `package main

import (
	"fmt"
	"os"
)

func main() {
	fds, err := os.ReadDir("/proc/self/fd")
	fmt.Println(len(fds), err)
}
`})
	want, err := exec.Command(plain).CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, strings.Fields(string(want))[0], fields[1])
}
