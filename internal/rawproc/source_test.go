package rawproc

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every function of the raw code carries both pragmas: the race detector and
// the pointer checks call into a runtime that is not there.
func TestPragmas(t *testing.T) {
	files, err := filepath.Glob("*_linux.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	checked := 0
	for _, name := range files {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		require.NoError(t, err)
		for _, imp := range file.Imports {
			require.Contains(t, []string{`"syscall"`, `"unsafe"`}, imp.Path.Value, name)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil || f.Name.Name == "Launch" || f.Name.Name == "Enter" {
				continue // assembly; and what runs before the fork
			}
			checked++
			for _, pragma := range []string{"//go:norace", "//go:nocheckptr"} {
				found := false
				if f.Doc != nil {
					for _, c := range f.Doc.List {
						found = found || c.Text == pragma
					}
				}
				require.True(t, found, "%s: %s lacks %s", name, f.Name.Name, pragma)
			}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt, *ast.DeferStmt, *ast.SelectStmt, *ast.FuncLit:
					t.Errorf("%s: %s has %T", name, f.Name.Name, n)
				case *ast.CallExpr:
					if id, ok := n.Fun.(*ast.Ident); ok && strings.Contains(" make new append panic print println copy ", " "+id.Name+" ") {
						t.Errorf("%s: %s calls %s", name, f.Name.Name, id.Name)
					}
				}
				return true
			})
		}
	}
	require.Greater(t, checked, 30)
}
