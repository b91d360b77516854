// Command cmd runs the simulator: one seed with its whole trace, or many of
// them on all cores.
//
//	go run ./test/sim/cmd -seed 17            one seed, every line of its trace
//	go run ./test/sim/cmd -seed 17 -shrink    the fewest faults that still fail
//	go run ./test/sim/cmd -seeds 2000         seeds 1 to 2000, counts at the end
//	go run ./test/sim/cmd -rows               the table of times, 200 seeds a row
//	go run ./test/sim/cmd -mode beyond        clock rates that no promise covers
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"

	"github.com/holdfast-ha/holdfast/test/sim"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("sim", flag.ContinueOnError)
	var o sim.Batch
	seed := f.Uint64("seed", 0, "run this seed alone and print its trace")
	shrink := f.Bool("shrink", false, "with -seed: cut the plan down to the faults that the failure needs")
	quiet := f.Bool("quiet", false, "with -seed: print only what came of it")
	rows := f.Bool("rows", false, "measure the rows of the table of times")
	profile := f.String("cpuprofile", "", "write a CPU profile to this file")
	f.IntVar(&o.Seeds, "seeds", 1000, "how many seeds")
	f.Uint64Var(&o.First, "first", 1, "the first seed")
	f.IntVar(&o.Procs, "procs", runtime.NumCPU(), "processes at a time")
	f.StringVar(&o.Options.Mode, "mode", "", "beyond: clock rates beyond rho")
	f.StringVar(&o.Options.Profile, "profile", "", "default, fast or wan; the seed chooses when empty")
	f.IntVar(&o.Options.Members, "members", 0, "3 or 5; the seed chooses when 0")
	f.IntVar(&o.Keep, "keep", 1, "go on after this many failing seeds less one")
	f.StringVar(&o.Options.Row, "row", "", "one row of the table of times")
	commit := f.String("commit", "", "that the seed failed at; a warning is printed when this is another")
	child := f.Bool("child", false, "be a child process: one JSON line for each seed")
	mutant := f.Bool("mutant", false, "end with 1 at the first failing seed and print only that")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *profile != "" {
		out, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	switch {
	case *child:
		return o.Child(os.Stdout)
	case *seed != 0:
		o.Options.Seed = *seed
		sim.CheckCommit(os.Stderr, *commit)
		return sim.One(os.Stdout, o.Options, *shrink, *quiet)
	case *rows:
		return o.Rows(os.Stdout)
	}
	o.Brief = *mutant
	return o.Run(os.Stdout)
}
