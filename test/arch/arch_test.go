// Package arch holds the rules of the code base that a compiler does not
// check: which package may import which, and who may touch what.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast-ha/holdfast/"

// mayImport lists for each package which of ours it may import. A package that
// is missing here is missing in docs/architecture.md too.
var mayImport = map[string][]string{
	"bpf":                          {},
	"netfence":                     {"bpf", "internal/clock", "internal/invariant"},
	"vip":                          {"internal/clock"},
	"wal":                          {"internal/vfs", "internal/invariant"},
	"storage/kv":                   {"internal/invariant"},
	"storage":                      {"wal", "internal/vfs", "internal/invariant", "storage/kv", "storage/audit"},
	"storage/audit":                {"internal/invariant"},
	"internal/clock":               {},
	"internal/invariant":           {},
	"internal/vfs":                 {},
	"internal/lease":               {},
	"internal/placement":           {},
	"internal/tenure":              {"internal/invariant"},
	"internal/hooks":               {},
	"internal/quorum":              {"storage", "internal/invariant"},
	"internal/ship":                {"internal/invariant"},
	"internal/membership":          {"internal/invariant"},
	"internal/transport":           {"internal/clock", "internal/invariant"},
	"internal/guard":               {"internal/clock"},
	"internal/config":              {"internal/lease"},
	"internal/status":              {},
	"internal/control":             {"internal/status", "storage/kv", "storage/audit"},
	"client":                       {},                                                                     // public: what it imports, its users import too
	"internal/control/controltest": {"internal/control", "internal/status", "storage/kv", "storage/audit"}, // for tests
	// The one place where siblings meet, and what starts it.
	"internal/node": {"*"},
	"cmd/holdfast":  {"*"},
	// The lab measures from outside: a fault of the product must not be able
	// to hide in the instrument.
	"test/lab": {"internal/clock"},
}

type listed struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, known := mayImport[name]
		if !known {
			if strings.HasPrefix(name, "test/") {
				continue // programs and tests on top of the lab
			}
			t.Errorf("%s: no rule says what it may import", name)
			continue
		}
		for _, i := range p.Imports {
			ours, ok := strings.CutPrefix(i, module)
			if ok && !slices.Contains(allowed, "*") && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s", name, ours)
			}
		}
	}
}

// The pure packages decide; they neither act nor look.
func TestPurePackagesDoNoIO(t *testing.T) {
	pure := []string{"internal/lease", "internal/placement", "internal/tenure", "internal/ship", "internal/membership"}
	banned := []string{"os", "net", "io", "syscall", "log", "log/slog", "math/rand", "math/rand/v2", "golang.org/x/sys/unix", "sync"}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if !slices.Contains(pure, name) {
			continue
		}
		for _, i := range p.Imports {
			if slices.Contains(banned, i) {
				t.Errorf("%s imports %s", name, i)
			}
		}
	}
}

// sources calls f for each Go file of the product, without tests and without
// generated code.
func sources(t *testing.T, f func(path string, set *token.FileSet, file *ast.File)) {
	t.Helper()
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || rel == "test" || rel == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "_bpfel.go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		f(rel, set, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// calls reports every use of pkg.name in a file.
func calls(file *ast.File, pkg, name string, found func(ast.Node)) {
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != name {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == pkg {
			found(n)
		}
		return true
	})
}

// A renamed file is there after a power cut only if its directory was synced.
func TestOnlyVFSRenames(t *testing.T) {
	sources(t, func(path string, set *token.FileSet, file *ast.File) {
		if strings.HasPrefix(path, "internal/vfs/") {
			return
		}
		calls(file, "os", "Rename", func(n ast.Node) { t.Errorf("%s: os.Rename", set.Position(n.Pos())) })
	})
}

// Leases are counted in the boot clock: wall time must not decide anything.
func TestPurePackagesReadNoClock(t *testing.T) {
	sources(t, func(path string, set *token.FileSet, file *ast.File) {
		for _, dir := range []string{"internal/lease/", "internal/placement/", "internal/tenure/", "internal/quorum/", "internal/ship/", "internal/membership/"} {
			if strings.HasPrefix(path, dir) {
				for _, name := range []string{"Now", "Since", "After", "Sleep", "NewTimer", "NewTicker"} {
					calls(file, "time", name, func(n ast.Node) { t.Errorf("%s: time.%s", set.Position(n.Pos()), name) })
				}
			}
		}
	})
}

// A logger is given, never taken from the air.
func TestNoGlobalLogger(t *testing.T) {
	sources(t, func(path string, set *token.FileSet, file *ast.File) {
		for _, name := range []string{"Default", "SetDefault", "Info", "Warn", "Error", "Debug"} {
			calls(file, "slog", name, func(n ast.Node) { t.Errorf("%s: slog.%s", set.Position(n.Pos()), name) })
		}
	})
}

// Files near 600 lines by concept; one that grows beyond 700 wants to be two.
func TestFilesStaySmall(t *testing.T) {
	sources(t, func(path string, set *token.FileSet, file *ast.File) {
		if lines := set.File(file.Pos()).LineCount(); lines > 700 {
			t.Errorf("%s has %d lines", path, lines)
		}
	})
}
