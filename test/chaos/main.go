// Command chaos breaks clusters again and again, in ways drawn from a seed,
// while clients work on them and a probe watches from outside.
//
// After each round, once everything is mended, auditors look: that no two
// hosts ever acted as owner of the floating address (a rogue host that claims
// it is told by the port that it hangs on), that the answers which clients got
// have an order that explains them, that every acknowledged write is on every
// member and no refused one on any, that all states are the same, that the
// audit trail is whole and has only grown, that damage was found where it was
// done and nowhere else, and that no process, descriptor, goroutine, address,
// pinned program or file was left behind. It ends with 1 when they find
// something, or when a cluster was not whole again in time.
//
// The same seed draws the same faults for the same round: `-seed S -first R
// -rounds 1` repeats round R, on a cluster of the same shape. What the machine
// does in the meantime is not repeated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
	"github.com/holdfast-ha/holdfast/test/page"
)

type options struct {
	binary    string
	profile   string
	gateways  int
	witnesses int
	minutes   float64
	rounds    int
	first     int
	age       int
	seed      uint64
	failures  int
	level     string
	only      string
	report    string
	gap       time.Duration
}

func main() {
	o := defaults()
	flag.StringVar(&o.binary, "binary", "bin/holdfast", "the program to break")
	flag.StringVar(&o.profile, "profile", "", "timing profile: default, fast or wan; drawn for each cluster when empty")
	flag.IntVar(&o.gateways, "gateways", 0, "gateways of each cluster, at least 2; drawn when 0")
	flag.IntVar(&o.witnesses, "witnesses", 1, "witnesses of each cluster, at least 1, when -gateways is given")
	flag.Float64Var(&o.minutes, "minutes", 10, "how long to go on, when no number of rounds is given")
	flag.IntVar(&o.rounds, "rounds", 0, "how many rounds; 0 = as many as the minutes allow")
	flag.IntVar(&o.first, "first", 1, "number of the first round")
	flag.IntVar(&o.age, "age", o.age, "how many rounds a cluster lives for")
	flag.Uint64Var(&o.seed, "seed", 0, "seed of the faults; 0 draws one")
	flag.IntVar(&o.failures, "failures", 1, "stop after so many failed rounds")
	flag.StringVar(&o.level, "log", o.level, "log level of the members")
	flag.StringVar(&o.only, "only", "", "draw this kind of fault only")
	flag.StringVar(&o.report, "report", "", "put the result as a part of Markdown into this file")
	flag.DurationVar(&o.gap, "gap", 0, "count a round with a longer gap as failed, to keep its logs; 0 = never")
	flag.Parse()
	path, err := filepath.Abs(o.binary)
	if err == nil {
		_, err = os.Stat(path)
	}
	switch {
	case err != nil:
		fatal(1, fmt.Errorf("find the program: %w", err), "make build")
	case flag.NArg() > 0 || o.rounds < 0 || o.first < 1 || o.failures < 1 || o.minutes <= 0 || o.age < 1:
		fatal(2, errors.New("an option is out of range"), "go run ./test/chaos -h")
	case o.gateways != 0 && (o.gateways < 2 || o.witnesses < 1 || (o.gateways+o.witnesses)%2 == 0):
		fatal(2, errors.New("a cluster has two gateways and a witness at least, and an odd number of members"), "-gateways 2 -witnesses 1")
	case o.only != "" && !known(o.only):
		fatal(2, fmt.Errorf("no fault is called %q", o.only), "-only "+kinds[0].name)
	}
	o.binary = path
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32())
	}
	// The lab ends and cleans up by itself on SIGINT and SIGTERM.
	sum, err := run(context.Background(), o)
	fmt.Print(sum)
	if errors.Is(err, lab.ErrNotRoot) {
		fatal(1, err, "sudo make chaos")
	}
	if o.report != "" {
		err = errors.Join(err, page.Put(o.report, "chaos", sum.markdown()))
	}
	if err != nil {
		fatal(1, err, sum.again())
	}
}

func defaults() options {
	return options{age: 20, failures: 1, first: 1, minutes: 10, level: "debug", witnesses: 1}
}

func fatal(code int, err error, hint string) {
	fmt.Fprintf(os.Stderr, "chaos: %v\nhint: %s\n", err, hint)
	os.Exit(code)
}

// run runs rounds until there are enough, of them or of failures.
func run(ctx context.Context, o options) (*summary, error) {
	sum := newSummary(o)
	end := time.Now().Add(time.Duration(o.minutes * float64(time.Minute)))
	var w *world
	for n := o.first; ; n++ {
		last := o.rounds > 0 && n >= o.first+o.rounds || o.rounds == 0 && time.Now().After(end)
		if w != nil && (last || o.era(n) != o.era(n-1)) {
			sum.leave(w, w.retire(ctx))
			w = nil
		}
		if last || sum.failed() >= o.failures {
			break
		}
		if w == nil {
			var err error
			if w, err = newWorld(ctx, o, n); err != nil {
				return sum, err
			}
			sum.enter(w)
		}
		r := w.round(ctx, n, draw(o, n))
		if o.gap > 0 && r.gap > o.gap {
			r.err = errors.Join(r.err, fmt.Errorf("gap %v is longer than %v", r.gap, o.gap))
		}
		fmt.Printf("seed %d %s\n", o.seed, r)
		sum.add(r)
		if r.failed() {
			fmt.Print(r.details())
			sum.leave(w, errGone)
			w = nil
		}
	}
	if n := sum.failed(); n > 0 {
		return sum, fmt.Errorf("%d failures in %d rounds", n, len(sum.rounds))
	}
	return sum, nil
}
