package vfs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// renames are the ways to rename that only this package may use: it alone syncs
// the directory afterwards.
var renames = map[string][]string{
	"os":                            {"Rename"},
	"syscall":                       {"Rename", "Renameat"},
	"golang.org/x/sys/unix":         {"Rename", "Renameat", "Renameat2"},
	"github.com/google/renameio":    {"*"},
	"github.com/google/renameio/v2": {"*"},
}

// exempt are files that rename what no power cut can leave behind anyway.
var exempt = map[string]string{
	"netfence/pins.go": "pins are in bpffs, which is kernel memory",
}

// No program code outside of internal/vfs renames a file that must survive.
func TestOnlyVFSRenames(t *testing.T) {
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatalf("module root: %v", err)
	}
	files := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		if d.IsDir() && (rel == filepath.Join("internal", "vfs") || rel != "." && strings.HasPrefix(d.Name(), ".") ||
			d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files++
		if exempt[filepath.ToSlash(rel)] != "" {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, found := range findRenames(t, rel, src) {
			t.Errorf("%s: use vfs.FS.Publish or WriteFile, which sync the directory", found)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 5 {
		t.Errorf("only %d files were looked at", files)
	}
}

func findRenames(t *testing.T, name string, src []byte) []string {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		t.Logf("not parsed: %v", err) // the compiler will say so
		return nil
	}
	var found []string
	banned := map[string][]string{} // by the name that the file imports it as
	for _, imp := range file.Imports {
		p, _ := strconv.Unquote(imp.Path.Value)
		names, ok := renames[p]
		if !ok {
			continue
		}
		if names[0] == "*" {
			found = append(found, name+" imports "+p)
			continue
		}
		local := filepath.Base(p)
		if imp.Name != nil {
			local = imp.Name.Name
		}
		banned[local] = names
	}
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok {
			for _, b := range banned[x.Name] {
				if sel.Sel.Name == b {
					found = append(found, fset.Position(n.Pos()).String()+": "+x.Name+"."+b)
				}
			}
		}
		return true
	})
	return found
}

func TestFindRenames(t *testing.T) {
	src := `package x
import ("os"; u "golang.org/x/sys/unix"; "github.com/google/renameio/v2")
func f() { _ = os.Rename("a", "b"); _ = u.Renameat2; _ = renameio.WriteFile; _ = os.Remove }`
	if got := findRenames(t, "x.go", []byte(src)); len(got) != 3 {
		t.Errorf("found %v", got)
	}
}
