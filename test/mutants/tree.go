package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tree is a copy of the source tree that one mutant at a time is put into.
type tree struct {
	root string
	// saved are the files that the present mutant has changed, as they were.
	saved map[string][]byte
}

// sourceFiles are the files that belong to the tree, in their present state.
func sourceFiles(ctx context.Context, root string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "git", "-C", root, "ls-files", "-z")
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list source files: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00"), nil
}

// copyTree copies the named files from one directory to another. A file that is
// gone from the working copy is left out.
func copyTree(from, to string, names []string) error {
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("copy tree: %w", err)
		}
		if !info.Mode().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return fmt.Errorf("copy tree: %w", err)
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("copy tree: %w", err)
		}
		if err := os.WriteFile(target, b, info.Mode().Perm()); err != nil {
			return fmt.Errorf("copy tree: %w", err)
		}
	}
	return nil
}

// generated are the files that are made from the kernel's side of the gate.
var generated = []string{"bpf/gate_bpfel.go", "bpf/gate_bpfel.o"}

// put changes the tree into that of a mutant; restore takes it back, also after
// an error.
func (t *tree) put(ctx context.Context, m mutant) error {
	source, err := t.save(m.file)
	if err != nil {
		return err
	}
	source, err = m.apply(source)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.root, m.file), source, 0o644); err != nil {
		return fmt.Errorf("put mutant: %w", err)
	}
	if !strings.HasPrefix(m.file, "bpf/") {
		return nil
	}
	for _, name := range generated {
		if _, err := t.save(name); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "go", "generate", "./bpf")
	cmd.Dir = t.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %w\n%s", errCompile, err, tail(out))
	}
	now, err := os.ReadFile(filepath.Join(t.root, generated[1]))
	if err == nil && bytes.Equal(now, t.saved[generated[1]]) {
		err = fmt.Errorf("%w: the object is the same as without it", errCompile)
	}
	return err
}

func (t *tree) save(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(t.root, name))
	if err != nil {
		return nil, fmt.Errorf("put mutant: %w", err)
	}
	if t.saved == nil {
		t.saved = map[string][]byte{}
	}
	t.saved[name] = b
	return b, nil
}

func (t *tree) restore() error {
	for name, b := range t.saved {
		if err := os.WriteFile(filepath.Join(t.root, name), b, 0o644); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
	}
	t.saved = nil
	return nil
}
