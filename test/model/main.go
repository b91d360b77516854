// Command model checks the rules of one owner, G1 to G8, by themselves: the
// product's own voters and holders of internal/lease, in a world of true time
// where clocks run wrong by up to rho, datagrams are lost, late, doubled and
// reordered, workers, guards and hosts die, and placement assigns the group to
// anybody at any moment.
//
//	go run ./test/model -runs 1000000 -voters 3     random runs; one seed is one run
//	go run ./test/model -exhaustive large            every state within stated bounds
//	go run ./test/model -runs 1000000 -break no-g1  a rule taken out: until two gates are open
//	go run ./test/model -seed 17 -runs 1 -voters 3   the story of one run
//
// It ends with 1 when an invariant is broken that should hold, or none is
// where a rule was taken out.
//
// Outside the model are what internal/lease does not decide: the kernel's gate,
// the signatures of notes, a virtual machine whose clocks were frozen, and a
// raft id that is alive twice.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

type options struct {
	runs       uint64
	seed       uint64
	voters     int
	procs      int
	rule       rule
	exhaustive string
	states     int
}

func main() {
	debug.SetGCPercent(400) // a run leaves little behind
	var o options
	broken := flag.String("break", "none", "the rule to take out, or list")
	flag.Uint64Var(&o.runs, "runs", 1_000_000, "how many random runs")
	flag.Uint64Var(&o.seed, "seed", 0, "seed of the first run; with -runs 1 its story is printed")
	flag.IntVar(&o.voters, "voters", 3, "3 or 5")
	flag.IntVar(&o.procs, "procs", runtime.NumCPU(), "runs at a time")
	flag.StringVar(&o.exhaustive, "exhaustive", "", "go through every state within the bounds of this name instead: "+boundNames())
	flag.IntVar(&o.states, "states", 100_000_000, "give up beyond so many states; each takes some 60 bytes at the worst")
	flag.Parse()
	if *broken == "list" {
		for _, n := range ruleNames {
			fmt.Printf("%-18s %s\n", n.name, n.text)
		}
		return
	}
	var err error
	if o.rule, err = ruleNamed(*broken); err != nil {
		fatal(2, err, "-break list")
	}
	if _, err = boundsNamed(o.exhaustive); o.exhaustive != "" && err != nil {
		fatal(2, err, "one of "+boundNames())
	}
	if o.voters != 3 && o.voters != 5 || o.procs < 1 || o.states < 1 || flag.NArg() > 0 {
		fatal(2, errors.New("an option is out of range"), "go run ./test/model -h")
	}
	if o.exhaustive != "" {
		err = exhaust(o)
	} else {
		err = randomRuns(o)
	}
	if err != nil {
		fatal(1, err, "")
	}
}

func fatal(code int, err error, hint string) {
	fmt.Fprintf(os.Stderr, "model: %v\n", err)
	if hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
	}
	os.Exit(code)
}
