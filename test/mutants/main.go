// Command mutants is the mutation gate: a list of known bugs, each a small
// change of one source file, put one by one into a copy of the tree. Each must
// be caught by a test or by the simulator within its budget, or the gate fails.
//
//	go run ./test/mutants [-only TEXT] [-list] [-procs 2] [-out FILE]
//
// A gate that only counts failures would count a test that always fails. So the
// catchers run on the clean copy first, and must pass there; and a mutant that
// does not compile, whose place in the source is gone, or on which a catcher
// runs out of time is not caught but broken, and fails the gate too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/test/page"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

type options struct {
	root  string // of the tree
	only  string
	list  bool
	procs int
	out   string
	all   bool
	whole bool
	seeds int
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("mutants", flag.ContinueOnError)
	f.StringVar(&o.root, "root", ".", "root of the source tree")
	f.StringVar(&o.only, "only", "", "take only mutants whose name or rule contains one of these, comma-separated")
	f.BoolVar(&o.list, "list", false, "list the mutants and run nothing")
	f.IntVar(&o.procs, "procs", min(2, runtime.NumCPU()), "how many mutants at a time, each in a copy of the tree of its own")
	f.StringVar(&o.out, "out", "", "write the table to this file; between its marks if it has any")
	f.BoolVar(&o.all, "all", false, "run every catcher of a mutant, not only up to the first that catches it")
	f.BoolVar(&o.whole, "whole", false, "run all tests of each package that is named, to find which of them catch a mutant")
	f.IntVar(&o.seeds, "seeds", 0, "run the simulator for at most so many seeds; 0 = as the list says")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.procs < 1 {
		return o, fmt.Errorf("arguments %q, procs %d: see -help", f.Args(), o.procs)
	}
	return o, nil
}

var errGate = errors.New("the gate fails")

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	chosen := choose(all(), o.only)
	if len(chosen) == 0 {
		return fmt.Errorf("no mutant is called %q", o.only)
	}
	if o.list {
		for _, m := range chosen {
			fmt.Fprintf(stdout, "%-32s %-6s %s\n", m.name, m.rule, m.bug)
		}
		return nil
	}
	began := time.Now()
	g := &gate{options: o, say: func(format string, args ...any) { fmt.Fprintf(stdout, format+"\n", args...) }}
	results, err := g.run(ctx, chosen)
	if err != nil {
		return err
	}
	table := markdown(results, o.all)
	fmt.Fprintf(stdout, "\n%s\n", table)
	if o.out != "" {
		if err := page.Put(o.out, part, table); err != nil {
			return err
		}
	}
	bad := failures(results)
	fmt.Fprintf(stdout, "%d mutants, %d caught, %d not, in %v\n", len(results), len(results)-len(bad), len(bad), time.Since(began).Round(time.Second))
	for _, r := range bad {
		fmt.Fprintf(stdout, "NOT CAUGHT %s: %s\n", r.mutant.name, r.why())
	}
	if len(bad) > 0 {
		return errGate
	}
	return nil
}

// choose returns the mutants that the user asked for.
func choose(from []mutant, only string) []mutant {
	if only == "" {
		return from
	}
	var out []mutant
	for _, m := range from {
		for _, part := range strings.Split(only, ",") {
			if strings.Contains(m.name, part) || m.rule == part {
				out = append(out, m)
				break
			}
		}
	}
	return out
}
