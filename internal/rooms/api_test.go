package rooms

import (
	"bytes"
	"flag"
	"go/ast"
	"go/build"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files")

// What a user can name is written down: a change of it is seen in review, and no
// change of the code alone makes one.
func TestAPIGolden(t *testing.T) {
	for _, pkg := range []string{"container", "containertest", "namespace", "namespace/network", "rootfs", "cgroup", "security"} {
		t.Run(pkg, func(t *testing.T) {
			got := exported(t, filepath.Join("../..", pkg))
			golden := filepath.Join("testdata", strings.ReplaceAll(pkg, "/", "-")+".golden")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "go test -update writes it")
			require.Equal(t, string(want), got)
		})
	}
}

// exported is every exported declaration of a package for Linux, without bodies
// and comments, one after another in the order of their text.
func exported(t *testing.T, dir string) string {
	t.Helper()
	ctx := build.Default
	ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled = "linux", "amd64", false
	p, err := ctx.ImportDir(dir, 0)
	require.NoError(t, err)
	fset := token.NewFileSet()
	var out []string
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.FileExports(f)
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				d.Doc, d.Body = nil, nil
				if d.Recv != nil && !receiverIsExported(d) {
					continue
				}
			case *ast.GenDecl:
				if d.Tok == token.IMPORT || len(d.Specs) == 0 {
					continue
				}
				d.Doc = nil
			}
			var b bytes.Buffer
			require.NoError(t, printer.Fprint(&b, fset, d))
			out = append(out, b.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n\n") + "\n"
}

func receiverIsExported(d *ast.FuncDecl) bool {
	typ := d.Recv.List[0].Type
	if s, ok := typ.(*ast.StarExpr); ok {
		typ = s.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}
