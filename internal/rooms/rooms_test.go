package rooms

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/inlay-dev/inlay/"

// allowed says what of ours each package may import: ARCHITECTURE.md, section 3.
var allowed = map[string][]string{
	"container": {"namespace", "rootfs", "security", "cgroup", "internal/fault", "internal/launcher", "internal/launcher/boot", "internal/netdriver", "internal/plan", "internal/quota", "internal/rawproc"},
	// The census and Require start containers.
	"containertest":               {"cgroup", "container"},
	"container/attack":            {"container", "containertest", "namespace", "rootfs", "security"}, // tests alone
	"namespace":                   {"internal/plan"},
	"rootfs":                      {"internal/fault", "internal/plan"},
	"security":                    {"internal/plan"},
	"cgroup":                      {"internal/fault"},
	"internal/fault":              {},
	"internal/launcher":           {"internal/launcher/boot", "internal/plan", "internal/rawproc"},
	"internal/launcher/boot":      {"internal/rawproc"},
	"internal/netdriver":          {},
	"namespace/network":           {"container", "internal/fault", "internal/launcher", "internal/netdriver", "internal/rawproc"},
	"namespace/network/userstack": {"internal/netdriver", "namespace/network"}, // a module of its own
	"internal/plan":               {},
	"internal/quota":              {"internal/fault"},
	"internal/outside":            {}, // for tests alone
	"internal/rawproc":            {},
	"internal/rooms":              {},
	"bench/peer":                  {},
	"otel":                        {"container"}, // as prometheus, a module of its own
	"prometheus":                  {"container"},
	"bench":                       {"cgroup", "container", "internal/launcher", "namespace/network", "rootfs", "security"},
	"examples/doctor":             {"container"},
	"examples/agent":              {"container", "rootfs"},
	"examples/quickstart":         {"cgroup", "container", "namespace", "rootfs"},
	"examples/limits":             {"container", "rootfs", "cgroup"},
	"examples/sandboxed-exec":     {"container"},
	"examples/webserver":          {"container", "namespace/network", "rootfs"},
	"examples/run":                {"container", "namespace", "namespace/network", "rootfs", "security", "cgroup"},
	".":                           {},
}

func TestImports(t *testing.T) {
	root := "../.."
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "tools" || strings.HasPrefix(name, "aprog")) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		require.NoError(t, err)
		rel = filepath.ToSlash(rel)
		may, known := allowed[rel]
		require.True(t, known, "%s is not in the table", rel)
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, imp := range file.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			require.NoError(t, err)
			if ours, ok := strings.CutPrefix(p, module); ok {
				require.True(t, slices.Contains(may, ours), "%s imports %s", path, ours)
			}
			if rel == "internal/rawproc" || rel == "internal/launcher/boot" {
				require.Contains(t, []string{"os", "syscall", "unsafe", "errors", module + "internal/rawproc"}, p, "%s: what imports more runs late in the launcher", path)
			}
		}
		seen++
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, seen, 50)
}
