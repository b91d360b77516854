package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutant is one known bug, as the smallest change of one file that brings it
// back.
type mutant struct {
	name string // unique
	rule string // of the protocol, or what it is about
	bug  string // what it re-introduces
	file string // within the tree
	edit        // of the file
	also []edit // more of them, of the same file
	// catch are tried in this order.
	catch []catcher
}

// edit replaces old, which must stand in the file exactly once.
type edit struct{ old, new string }

// catcher is what must fail on a mutant: tests, or the simulator.
type catcher struct {
	pkg   string   // of tests, as go test takes it
	tests []string // their names; none means all of the package
	seeds int      // of the simulator, when pkg is empty
}

func test(pkg string, names ...string) catcher { return catcher{pkg: pkg, tests: names} }

// sim runs up to so many seeds of the simulator.
func sim(seeds int) catcher { return catcher{seeds: seeds} }

func (c catcher) isSim() bool { return c.pkg == "" }

func (c catcher) String() string {
	switch {
	case c.isSim():
		return "sim"
	case len(c.tests) == 0:
		return c.pkg
	}
	return strings.TrimPrefix(c.pkg, "./") + " " + strings.Join(c.tests, ", ")
}

// pattern is the tests as a regular expression for -test.run.
func (c catcher) pattern() string {
	if len(c.tests) == 0 {
		return "."
	}
	return "^(" + strings.Join(c.tests, "|") + ")$"
}

// all is the list of mutants, by concept.
func all() []mutant {
	return slices.Concat(grantMutants, noteMutants, gateMutants, electionMutants, placementMutants,
		memberMutants, walMutants, storageMutants, stateMutants, transportMutants)
}

// errAnchor means that a mutant no longer fits the source.
var errAnchor = errors.New("the text to replace does not stand in the file exactly once")

func (m mutant) edits() []edit { return append([]edit{m.edit}, m.also...) }

// apply returns the source with the bug in it.
func (m mutant) apply(source []byte) ([]byte, error) {
	for _, e := range m.edits() {
		if e.old == "" || e.old == e.new {
			return nil, fmt.Errorf("%s: replaces %q by %q", m.name, e.old, e.new)
		}
		if n := bytes.Count(source, []byte(e.old)); n != 1 {
			return nil, fmt.Errorf("%w: %s has it %d times: %q", errAnchor, m.file, n, e.old)
		}
		source = bytes.Replace(source, []byte(e.old), []byte(e.new), 1)
	}
	return source, nil
}

// check refuses a list that cannot work in the tree at root.
func check(root string, list []mutant) error {
	var errs []error
	seen := map[string]bool{}
	for _, m := range list {
		if seen[m.name] || m.name == "" || m.rule == "" || m.bug == "" || len(m.catch) == 0 {
			errs = append(errs, fmt.Errorf("mutant %q: named twice, or without rule, bug or catcher", m.name))
		}
		seen[m.name] = true
		source, err := os.ReadFile(filepath.Join(root, m.file))
		if err == nil {
			_, err = m.apply(source)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("mutant %s: %w", m.name, err))
		}
		for _, c := range m.catch {
			if err := c.check(root); err != nil {
				errs = append(errs, fmt.Errorf("mutant %s: %w", m.name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// check refuses a catcher that would run nothing: go test passes without tests.
func (c catcher) check(root string) error {
	if c.isSim() {
		if c.seeds < 1 {
			return errors.New("catcher without tests and without seeds")
		}
		return nil
	}
	files, err := filepath.Glob(filepath.Join(root, c.pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("catcher %s: no test files (%w)", c.pkg, err)
	}
	var source []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("catcher %s: %w", c.pkg, err)
		}
		source = append(source, b...)
	}
	for _, name := range c.tests {
		if !bytes.Contains(source, []byte("\nfunc "+name+"(")) {
			return fmt.Errorf("catcher %s: there is no %s", c.pkg, name)
		}
	}
	return nil
}
