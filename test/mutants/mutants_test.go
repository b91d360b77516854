package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The list fits the source as it is: a change that moves the ground under a
// mutant must move the mutant along.
func TestListFitsTheTree(t *testing.T) {
	list := all()
	if err := check("../..", list); err != nil {
		t.Error(err)
	}
	if len(list) < 40 {
		t.Errorf("%d mutants", len(list))
	}
}

func TestApply(t *testing.T) {
	m := mutant{file: "a.go", edit: edit{"one", "two"}, also: []edit{{"three", "four"}}}
	if out, err := m.apply([]byte("one three")); err != nil || string(out) != "two four" {
		t.Errorf("%q, %v", out, err)
	}
	for _, source := range []string{"", "one one three", "one", "one three three"} {
		if _, err := m.apply([]byte(source)); !errors.Is(err, errAnchor) {
			t.Errorf("%q: %v", source, err)
		}
	}
	if _, err := (mutant{edit: edit{"x", "x"}}).apply([]byte("x")); err == nil {
		t.Error("a mutant that changes nothing is applied")
	}
}

// small is a module with one package, whose test sees one of two bugs.
var small = map[string]string{
	"go.mod": "module small\n\ngo 1.26\n",
	"p/p.go": "package p\n\nfunc Add(a, b int) int { return a + b }\n\nfunc Name() string { return \"p\" }\n\nfunc Wait() {}\n",
	"p/p_test.go": `package p

import "testing"

func TestAdd(t *testing.T) {
	Wait()
	if Add(2, 2) != 4 {
		t.Fatal("wrong")
	}
}

func TestBroken(t *testing.T) { t.Fatal("always") }
`,
}

func smallTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range small {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}} {
		if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	return dir
}

func smallMutant(name, old, new string) mutant {
	return mutant{name: name, rule: "small", bug: name, file: "p/p.go", edit: edit{old, new}, catch: []catcher{test("./p", "TestAdd")}}
}

func TestGateTellsWhatIsCaught(t *testing.T) {
	g := &gate{options: options{root: smallTree(t), procs: 2}, say: t.Logf}
	list := []mutant{
		smallMutant("wrong-sum", "a + b", "a - b"),
		smallMutant("nobody-looks", `return "p"`, `return "q"`),
		smallMutant("no-go", "a + b", "a +"),
		smallMutant("panics", "return a + b", `panic("no")`),
		smallMutant("exits", "a + b", "exit()"),
		smallMutant("only-sim", "a + b", "b - a"),
	}
	list[4].also = []edit{{"package p\n", "package p\n\nimport \"os\"\n\nfunc exit() int { os.Exit(3); return 0 }\n"}}
	list[5].catch = []catcher{sim(10)}
	results, err := g.run(context.Background(), list)
	if err != nil {
		t.Fatal(err)
	}
	want := []kind{caught, missed, broken, caught, broken, notThere}
	for i, r := range results {
		if len(r.outcomes) != 1 || r.outcomes[0].kind != want[i] || r.caught() != (want[i] == caught) {
			t.Errorf("%s: caught %v, want %v: %+v, %v", r.mutant.name, r.caught(), want[i], r.outcomes, r.err)
		}
	}
	if by := results[0].outcomes[0].by; len(by) != 1 || by[0] != "TestAdd" {
		t.Errorf("caught by %v", by)
	}
	if bad := failures(results); len(bad) != 4 {
		t.Errorf("%d failures", len(bad))
	}
	table := markdown(results, true)
	if !strings.Contains(table, "| wrong-sum | small | wrong-sum | p TestAdd |") || !strings.Contains(table, "| nobody-looks | small | nobody-looks | **not caught** | - |") {
		t.Error(table)
	}
	source, err := os.ReadFile(filepath.Join(g.root, "p/p.go"))
	if err != nil || string(source) != small["p/p.go"] {
		t.Errorf("the source was changed: %v\n%s", err, source)
	}
}

// A catcher that fails without the mutant would catch anything.
func TestCatcherMustPassWithoutTheMutant(t *testing.T) {
	g := &gate{options: options{root: smallTree(t), procs: 1}, say: t.Logf}
	m := smallMutant("wrong-sum", "a + b", "a - b")
	m.catch = []catcher{test("./p", "TestBroken")}
	if _, err := g.run(context.Background(), []mutant{m}); err == nil || !strings.Contains(err.Error(), "fails without a mutant") {
		t.Errorf("error is %v", err)
	}
	m.catch = []catcher{test("./p", "TestOfNobody")}
	if _, err := g.run(context.Background(), []mutant{m}); err == nil || !strings.Contains(err.Error(), "there is no TestOfNobody") {
		t.Errorf("error is %v", err)
	}
}

// A test that hangs says nothing about a bug.
func TestHangIsNoCatch(t *testing.T) {
	o := judge(test("./p", "TestAdd"), 0, []byte("panic: test timed out after 2m0s\n\n--- FAIL: TestAdd"), &exec.ExitError{})
	if o.kind != late {
		t.Errorf("outcome is %v", o.kind)
	}
	if o := judge(test("./p", "TestAdd"), 0, nil, context.DeadlineExceeded); o.kind != late {
		t.Errorf("outcome is %v", o.kind)
	}
}
