package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// tally is what many random runs did and found.
type tally struct {
	runs, windows, moves, events uint64
	trueTime                     int64 // ns
	failed                       [invariants]uint64
	// first is the lowest seed that opened two gates (of all runs that were
	// made), or that broke anything when none did.
	first [invariants]uint64
	text  [invariants]string
}

var (
	errBroken    = errors.New("an invariant is broken")
	errUnnoticed = errors.New("a rule is taken out and nothing is broken")
)

// many makes runs with seeds from first on, on procs goroutines. With enough
// above 0 it ends when so many runs have opened two gates.
func many(first, runs uint64, voters, procs int, broken rule, enough uint64) tally {
	var next, doubles atomic.Uint64
	parts := make([]tally, procs)
	var wg sync.WaitGroup
	for p := range parts {
		wg.Go(func() {
			r := newRandom(broken)
			for {
				n := next.Add(1) - 1
				if n >= runs || enough > 0 && doubles.Load() >= enough {
					return
				}
				r.run(first+n, voters)
				parts[p].add(r, first+n)
				if r.found[oneGate] != "" {
					doubles.Add(1)
				}
			}
		})
	}
	wg.Wait()
	var sum tally
	for i := range parts {
		sum.merge(&parts[i])
	}
	return sum
}

func (t *tally) add(r *random, seed uint64) {
	t.runs++
	t.windows += uint64(r.windows)
	t.moves += uint64(r.moves)
	t.events += uint64(r.count)
	t.trueTime += r.now
	for i, text := range r.found {
		if text != "" {
			t.note(i, seed, text)
			t.failed[i]++
		}
	}
}

func (t *tally) note(i int, seed uint64, text string) {
	if t.text[i] == "" || seed < t.first[i] {
		t.first[i], t.text[i] = seed, text
	}
}

func (t *tally) merge(o *tally) {
	t.runs += o.runs
	t.windows += o.windows
	t.moves += o.moves
	t.events += o.events
	t.trueTime += o.trueTime
	for i := range t.failed {
		t.failed[i] += o.failed[i]
		if o.text[i] != "" {
			t.note(i, o.first[i], o.text[i])
		}
	}
}

func (t *tally) broken() bool { return t.failed != [invariants]uint64{} }

// randomRuns is the program without -exhaustive.
func randomRuns(o options) error {
	if o.runs == 1 {
		return tellOne(o)
	}
	began := time.Now()
	enough := uint64(0)
	if o.rule != none {
		enough = 1
	}
	t := many(o.seed, o.runs, o.voters, o.procs, o.rule, enough)
	took := time.Since(began)
	fmt.Printf("%d voters, rule taken out: %v\n", o.voters, o.rule)
	fmt.Printf("%d runs in %v (%.0f a second), %.1f hours of true time, %d events, %d windows, %d moves\n",
		t.runs, took.Round(time.Millisecond), float64(t.runs)/took.Seconds(), time.Duration(t.trueTime).Hours(), t.events, t.windows, t.moves)
	for i, text := range t.text {
		if text != "" {
			fmt.Printf("%v broken in %d runs; seed %d: %s\n", invariant(i), t.failed[i], t.first[i], text)
			fmt.Printf("  go run ./test/model -runs 1 -seed %d -voters %d -break %v\n", t.first[i], o.voters, o.rule)
		}
	}
	switch {
	case o.rule == none && t.broken():
		return errBroken
	case o.rule != none && t.failed[oneGate] == 0:
		return fmt.Errorf("%w: no two gates in %d runs", errUnnoticed, t.runs)
	}
	return nil
}

// tellOne prints the story of one run.
func tellOne(o options) error {
	var story strings.Builder
	r := newRandom(o.rule)
	failed := r.replay(o.seed, o.voters, func(line string) { fmt.Fprintln(&story, line) })
	if _, err := os.Stdout.WriteString(story.String()); err != nil {
		return fmt.Errorf("print the story: %w", err)
	}
	if failed {
		return errBroken
	}
	return nil
}
