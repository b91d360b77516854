package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// gate runs a list of mutants.
type gate struct {
	options
	machine
	say func(format string, args ...any)
}

// result is what became of a mutant.
type result struct {
	mutant   mutant
	err      error // it could not be put into the tree
	outcomes []outcome
}

// caught tells whether some catcher caught it, and none was broken by it.
func (r result) caught() bool {
	ok := false
	for _, o := range r.outcomes {
		switch o.kind {
		case caught:
			ok = true
		case broken:
			return false
		}
	}
	return ok && r.err == nil
}

// why says what stands against a mutant that was not caught.
func (r result) why() string {
	if r.err != nil {
		return r.err.Error()
	}
	text := ""
	for _, o := range r.outcomes {
		text += fmt.Sprintf("%v: %v; ", o.catcher, o.kind)
		if o.kind == broken || o.kind == late {
			text += o.text + "; "
		}
	}
	return text
}

func failures(results []result) []result {
	return slices.DeleteFunc(slices.Clone(results), result.caught)
}

// run proves the catchers on the clean tree, then gives each mutant to them.
func (g *gate) run(ctx context.Context, list []mutant) ([]result, error) {
	list = slices.Clone(list)
	for i := range list {
		list[i].catch = g.wanted(list[i].catch)
	}
	if err := check(g.root, list); err != nil {
		return nil, err
	}
	names, err := sourceFiles(ctx, g.root)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "holdfast-mutants-")
	if err != nil {
		return nil, fmt.Errorf("make a place for copies: %w", err)
	}
	defer os.RemoveAll(dir)
	var trees []*tree
	for i := range min(g.procs, len(list)) {
		t := &tree{root: filepath.Join(dir, fmt.Sprintf("tree%d", i))}
		if err := copyTree(g.root, t.root, names); err != nil {
			return nil, err
		}
		trees = append(trees, t)
	}
	if err := g.prove(ctx, trees, list); err != nil {
		return nil, err
	}
	results := make([]result, len(list))
	g.spread(trees, len(list), func(t *tree, i int) { results[i] = g.one(ctx, t, list[i]) })
	return results, ctx.Err()
}

// spread gives n jobs to the trees, one at a time each.
func (g *gate) spread(trees []*tree, n int, do func(t *tree, i int)) {
	jobs := make(chan int)
	var wg sync.WaitGroup
	for _, t := range trees {
		wg.Go(func() {
			for i := range jobs {
				do(t, i)
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
}

// prove runs all catchers on the clean tree, where they must pass: a test that
// fails anyway catches nothing. What is named several times runs once.
func (g *gate) prove(ctx context.Context, trees []*tree, list []mutant) error {
	union := union(list)
	errs := make([]error, len(union))
	var clean *tree
	g.spread(trees, len(union), func(t *tree, i int) {
		c := union[i]
		o := g.machine.run(ctx, t, c)
		word := "clean"
		if o.kind == notThere {
			word = "not there"
		} else if o.kind != missed {
			word = "FAILS"
			errs[i] = fmt.Errorf("catcher fails without a mutant: %v: %v %v: %s", c, o.kind, o.by, o.text)
		}
		if c.isSim() && o.kind == missed {
			clean = t // only one of union is the simulator
		}
		g.say("%-10s %6.1f s  %s", word, o.took.Seconds(), c.pkgName())
	})
	if clean != nil {
		g.clean = g.simBinary(clean)
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func (c catcher) pkgName() string {
	if c.isSim() {
		return fmt.Sprintf("sim, %d seeds", c.seeds)
	}
	return c.pkg
}

// proveSeeds is how many seeds the simulator is run for on the clean tree; the
// same seeds, and many more, are run by other means.
const proveSeeds = 50

// union is the catchers of all, the tests of a package together.
func union(list []mutant) []catcher {
	var out []catcher
	for _, m := range list {
		for _, c := range m.catch {
			i := slices.IndexFunc(out, func(o catcher) bool { return o.pkg == c.pkg })
			if i < 0 {
				out = append(out, catcher{pkg: c.pkg, tests: slices.Clone(c.tests), seeds: min(c.seeds, proveSeeds)})
				continue
			}
			out[i].seeds = min(max(out[i].seeds, c.seeds), proveSeeds)
			if len(c.tests) == 0 || len(out[i].tests) == 0 {
				out[i].tests = nil
				continue
			}
			for _, name := range c.tests {
				if !slices.Contains(out[i].tests, name) {
					out[i].tests = append(out[i].tests, name)
				}
			}
		}
	}
	return out
}

// wanted are the catchers as the flags want them.
func (g *gate) wanted(list []catcher) []catcher {
	list = slices.Clone(list)
	for i := range list {
		if g.whole {
			list[i].tests = nil
		}
		if g.seeds > 0 {
			list[i].seeds = min(list[i].seeds, g.seeds)
		}
	}
	return list
}

// one gives a mutant to its catchers.
func (g *gate) one(ctx context.Context, t *tree, m mutant) (r result) {
	r.mutant = m
	if ctx.Err() != nil {
		r.err = ctx.Err()
		return r
	}
	began := time.Now()
	defer func() {
		r.err = errors.Join(r.err, t.restore())
		word := "caught"
		if !r.caught() {
			word = "NOT CAUGHT"
		}
		g.say("%-10s %6.1f s  %-34s %s", word, time.Since(began).Seconds(), m.name, summary(r))
	}()
	if r.err = t.put(ctx, m); r.err != nil {
		return r
	}
	for _, c := range m.catch {
		o := g.machine.run(ctx, t, c)
		r.outcomes = append(r.outcomes, o)
		if o.kind == caught && !g.all {
			break
		}
	}
	return r
}
