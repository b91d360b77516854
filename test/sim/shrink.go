package sim

import (
	"fmt"
	"io"
	"strings"
)

// One runs a seed and prints what came of it.
func One(out io.Writer, opt Options, shrink, quiet bool) error {
	if !quiet && !shrink {
		opt.Log = func(s string) { fmt.Fprintln(out, s) }
	}
	r, err := Run(opt)
	if err != nil {
		return err
	}
	if shrink && r.Failure != nil {
		small, runs, err := Shrink(opt, r)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%d faults of %d, after %d runs\n", len(small.Plan), len(r.Plan), runs)
		r = small
	}
	if r.Failure != nil {
		fmt.Fprint(out, r.Describe(opt))
		return fmt.Errorf("seed %d fails: %v", opt.Seed, r.Failure.What)
	}
	fmt.Fprintf(out, "seed %d: no violation in %v, %d turns, %d faults, %d operations, %d moves, longest gap %v\n",
		opt.Seed, r.Simulated, r.Turns, len(r.Plan), r.Operations, r.Moves, r.MaxGap)
	return nil
}

// Describe tells of a failure, and how to see it again.
func (r Result) Describe(opt Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%v\n", r.Failure)
	fmt.Fprintf(&b, "commit %s, seed %d, profile %s, %d members\nplan:\n", Commit(), r.Seed, r.Profile, r.Members)
	for _, f := range r.Plan {
		fmt.Fprintf(&b, "  %v\n", f)
	}
	lines := r.Trace
	fmt.Fprintf(&b, "last lines:\n%s\n", strings.Join(lines[max(0, len(lines)-60):], "\n"))
	fmt.Fprintf(&b, "again: %s\n", Replay(opt, r.Seed))
	return b.String()
}

// Replay is the command that runs a seed again.
func Replay(opt Options, seed uint64) string {
	s := fmt.Sprintf("go run ./test/sim/cmd -seed %d -commit %s", seed, Commit())
	if opt.Mode != "" {
		s += " -mode " + opt.Mode
	}
	if opt.Profile != "" {
		s += " -profile " + opt.Profile
	}
	if opt.Members != 0 {
		s += fmt.Sprintf(" -members %d", opt.Members)
	}
	if opt.Row != "" {
		s += " -row " + opt.Row
	}
	return s
}

// Shrink cuts faults from the plan of a failing run, by halves and then one by
// one, as long as the same promise is broken.
func Shrink(opt Options, failed Result) (small Result, runs int, err error) {
	opt.Log = nil
	small = failed
	try := func(plan []Fault) bool {
		runs++
		opt.Plan = plan
		if len(plan) == 0 {
			opt.Plan = []Fault{} // none, not that of the seed
		}
		r, e := Run(opt)
		if e != nil {
			err = e
			return false
		}
		if r.Failure == nil || r.Failure.What != failed.Failure.What {
			return false
		}
		small = r
		return true
	}
	for size := (len(small.Plan) + 1) / 2; size >= 1 && err == nil; {
		cut := false
		for from := 0; from < len(small.Plan); {
			plan := append([]Fault(nil), small.Plan[:from]...)
			plan = append(plan, small.Plan[min(from+size, len(small.Plan)):]...)
			if try(plan) {
				cut = true
				continue
			}
			from += size
		}
		if size == 1 && !cut {
			break
		}
		if size > 1 {
			size = (size + 1) / 2
		}
	}
	return small, runs, err
}
