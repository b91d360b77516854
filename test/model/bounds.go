package main

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// Clock rates at the edges of rho, in thousandths.
const slow, fast = 900, 1100

// worst is a holder whose lease lasts longest among voters whose promises are
// shortest; the logs let either contender be that holder.
var worst = [][]int64{{slow, fast, fast, fast, fast}}

// edges are those of two contenders, which may trade places, and of the rest.
var edges = [][]int64{
	{slow, slow, slow, slow, slow}, {slow, fast, slow, slow, slow}, {fast, fast, slow, slow, slow},
	{slow, slow, fast, fast, fast}, {slow, fast, fast, fast, fast}, {fast, fast, fast, fast, fast},
}

// reshape replaces the second of three voters in two steps: the majorities of
// the first configuration and the last need not meet.
var reshape = [][]uint64{{1, 2, 3, 4}, {1, 3, 4}}

// small runs with every test, large takes minutes.
var small = []bounds{
	{name: "renew", voters: 3, contenders: 2, assigns: 2, beats: 2, ticks: 5, rates: worst},
	{name: "release", voters: 3, contenders: 2, assigns: 2, beats: 1, releases: 1, ticks: 5, rates: worst},
	{name: "again", voters: 3, contenders: 2, assigns: 3, beats: 2, releases: 1, ticks: 1, rates: worst},
	{name: "death", voters: 3, contenders: 2, assigns: 2, beats: 1, deaths: 1, ticks: 3, rates: worst},
	{name: "reborn", voters: 3, contenders: 2, assigns: 2, beats: 1, deaths: 1, ticks: 1, rates: worst},
	{name: "late", voters: 3, contenders: 2, assigns: 2, beats: 1, ticks: 5, late: true, rates: worst},
	{name: "five", voters: 5, contenders: 2, assigns: 2, beats: 1, ticks: 4, rates: worst},
	{name: "members", voters: 3, contenders: 2, assigns: 2, beats: 1, ticks: 1, chain: reshape, rates: worst},
}

var large = []bounds{
	{name: "renew-edges", voters: 3, contenders: 2, assigns: 2, beats: 2, releases: 1, ticks: 5, rates: edges},
	{name: "again-3", voters: 3, contenders: 2, assigns: 3, beats: 2, releases: 1, ticks: 3, rates: worst},
	{name: "members-wait", voters: 3, contenders: 2, assigns: 2, beats: 1, ticks: 5, chain: reshape, rates: worst},
	{name: "death-edges", voters: 3, contenders: 2, assigns: 2, beats: 1, deaths: 1, ticks: 4, rates: edges},
}

// logs are all sequences of Assigns within the bounds that name both hosts; of
// each host its workers in their order. What is never applied is as if it were
// not there, so shorter ones are among them.
func (b *bounds) logs() (out [][]entry) {
	var log []entry
	starts := make([]uint64, b.contenders)
	var extend func()
	extend = func() {
		if len(log) == b.assigns {
			if slices.ContainsFunc(log, func(e entry) bool { return e.node != log[0].node }) {
				out = append(out, slices.Clone(log))
			}
			return
		}
		for c := range starts {
			before := starts[c]
			for n := max(1, before); n <= 1+uint64(b.deaths); n++ {
				starts[c] = n
				log = append(log, entry{node: uint64(c + 1), incarnation: uint64(c+1)<<32 | n})
				extend()
				log = log[:len(log)-1]
			}
			starts[c] = before
		}
	}
	extend()
	return out
}

// boundsNamed are those of a list or of one name.
func boundsNamed(name string) ([]bounds, error) {
	switch name {
	case "small":
		return small, nil
	case "large":
		return large, nil
	}
	for _, b := range slices.Concat(small, large) {
		if b.name == name {
			return []bounds{b}, nil
		}
	}
	return nil, fmt.Errorf("no bounds are called %q", name)
}

func boundNames() string {
	names := []string{"small", "large"}
	for _, b := range slices.Concat(small, large) {
		names = append(names, b.name)
	}
	return strings.Join(names, ", ")
}

// String says how far the bounds reach.
func (b *bounds) String() string {
	s := fmt.Sprintf("%d voters, %d Assigns, %d beats each, %d ticks", b.voters, b.assigns, b.beats, b.ticks)
	for _, n := range []struct {
		n    int
		text string
	}{{b.releases, "releases"}, {b.deaths, "deaths of workers"}, {len(b.chain), "changes of the voters"}} {
		if n.n > 0 {
			s += fmt.Sprintf(", %d %s", n.n, n.text)
		}
	}
	if b.late {
		s += ", acknowledgements at any time"
	}
	return fmt.Sprintf("%s, %d sets of clock rates", s, len(b.rates))
}

// exhaust is the program with -exhaustive.
func exhaust(o options) error {
	list, err := boundsNamed(o.exhaustive)
	if err != nil {
		return err
	}
	debug.SetGCPercent(50) // most of the memory is the set of states, without pointers
	var states, steps uint64
	broken := false
	for i := range list {
		b := &list[i]
		r, err := explore(b, o.rule, o.procs, o.states)
		fmt.Printf("%s (%v), rule taken out: %v\n  %d states, %d steps, open in %d, at most %d steps deep, %v\n",
			b.name, b, o.rule, r.states, r.steps, r.windows, r.depth, r.took.Round(time.Millisecond))
		for i, story := range r.story {
			if story != "" {
				fmt.Printf("%v broken: %s\n%s", invariant(i), r.found[i], story)
				broken = true
			}
		}
		if err != nil {
			return err
		}
		states, steps = states+r.states, steps+r.steps
		if o.rule == none && broken {
			return errBroken
		}
	}
	fmt.Printf("in all %d states, %d steps\n", states, steps)
	if o.rule != none && !broken {
		return errUnnoticed
	}
	return nil
}
