package main

import (
	"fmt"
	"slices"
	"strings"
)

// Clock rates at the edges of rho, in thousandths.
const slow, fast = 900, 1100

// rates are those of two contenders, which may trade places, and of the rest.
func rates(hosts int) (out [][]int64) {
	for _, c := range [][2]int64{{slow, slow}, {slow, fast}, {fast, fast}} {
		for _, rest := range []int64{slow, fast} {
			r := []int64{c[0], c[1]}
			for len(r) < hosts {
				r = append(r, rest)
			}
			out = append(out, r)
		}
	}
	return out
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

var small = []bounds{
	{name: "small-3", voters: 3, contenders: 2, assigns: 2, beats: 2, releases: 1, deaths: 1, ticks: 5, rates: rates(3)},
}

var large = []bounds{}

func boundNames() string { return "small, large, or one of " + strings.Join(names_(), ", ") }

func names_() (out []string) {
	for _, b := range slices.Concat(small, large) {
		out = append(out, b.name)
	}
	return out
}

func exhaust(o options) error {
	var list []bounds
	switch o.exhaustive {
	case "small":
		list = small
	case "large":
		list = large
	default:
		for _, b := range slices.Concat(small, large) {
			if b.name == o.exhaustive {
				list = append(list, b)
			}
		}
	}
	for i := range list {
		r, err := explore(&list[i], o.rule, o.procs, o.states)
		fmt.Printf("%s: %d states, %d steps, open in %d, depth %d, %v\n", list[i].name, r.states, r.steps, r.windows, r.depth, r.took)
		for i, s := range r.story {
			if s != "" {
				fmt.Println(invariant(i), r.found[i])
				fmt.Println(s)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
