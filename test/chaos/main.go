// Command chaos breaks a cluster again and again, in ways drawn from a seed,
// and watches from outside. It ends with 1 when two hosts ever acted as owner
// of the floating address, when the cluster was not whole again within 30 s
// after everything was mended, or when a process was left behind.
//
// The same seed draws the same faults for the same round: `-seed S -first R
// -rounds 1` repeats round R. What the machine does in the meantime is not
// repeated.
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
	"github.com/holdfast-ha/holdfast/test/scenario"
)

type options struct {
	binary   string
	profile  string
	minutes  float64
	rounds   int
	first    int
	seed     uint64
	failures int
	level    string
	only     string
	gap      time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/holdfast", "the program to break")
	flag.StringVar(&o.profile, "profile", "fast", "timing profile: default, fast or wan")
	flag.Float64Var(&o.minutes, "minutes", 10, "how long to go on, when no number of rounds is given")
	flag.IntVar(&o.rounds, "rounds", 0, "how many rounds; 0 = as many as the minutes allow")
	flag.IntVar(&o.first, "first", 1, "number of the first round")
	flag.Uint64Var(&o.seed, "seed", 0, "seed of the faults; 0 draws one")
	flag.IntVar(&o.failures, "failures", 1, "stop after so many failed rounds")
	flag.StringVar(&o.level, "log", "debug", "log level of the members")
	flag.StringVar(&o.only, "only", "", "draw this kind of fault only")
	flag.DurationVar(&o.gap, "gap", 0, "count a round with a longer gap as failed, to keep its logs; 0 = never")
	flag.Parse()
	path, err := filepath.Abs(o.binary)
	if err == nil {
		_, err = os.Stat(path)
	}
	switch {
	case err != nil:
		fatal(1, fmt.Errorf("find the program: %w", err), "make build")
	case flag.NArg() > 0 || o.rounds < 0 || o.first < 1 || o.failures < 1 || o.minutes <= 0:
		fatal(2, errors.New("an option is out of range"), "go run ./test/chaos -h")
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
	if err != nil {
		fatal(1, err, fmt.Sprintf("go run ./test/chaos -profile %s -seed %d -first %d -rounds 1", o.profile, o.seed, sum.last))
	}
}

func fatal(code int, err error, hint string) {
	fmt.Fprintf(os.Stderr, "chaos: %v\nhint: %s\n", err, hint)
	os.Exit(code)
}

// run runs rounds until there are enough, of them or of failures.
func run(ctx context.Context, o options) (*summary, error) {
	sum := newSummary(o.seed)
	end := time.Now().Add(time.Duration(o.minutes * float64(time.Minute)))
	var w *world
	defer func() {
		if w != nil {
			w.close()
		}
	}()
	for n := o.first; ; n++ {
		if o.rounds > 0 && n >= o.first+o.rounds || o.rounds == 0 && time.Now().After(end) {
			break
		}
		if w == nil {
			var err error
			if w, err = newWorld(ctx, o); err != nil {
				return sum, err
			}
		}
		r := w.round(ctx, n, draw(o, n))
		if o.gap > 0 && r.gap > o.gap {
			r.err = errors.Join(r.err, fmt.Errorf("gap %v is longer than %v", r.gap, o.gap))
		}
		fmt.Printf("seed %d %s\n", o.seed, r)
		sum.add(r)
		if !r.failed() {
			continue
		}
		w.env.Cluster.Lab().Keep()
		fmt.Printf("%s\nfiles are kept in %s; the ends of the logs:\n%s", r.details(), w.env.Cluster.Lab().Dir, w.env.Cluster.Lab().Logs(80))
		w.close()
		w = nil
		if sum.failures >= o.failures {
			break
		}
	}
	if sum.failures > 0 {
		return sum, fmt.Errorf("%d of %d rounds failed", sum.failures, sum.rounds)
	}
	return sum, nil
}

// world is the cluster that is broken, and the probe that watches it.
type world struct {
	env   scenario.Env
	probe *lab.Probe
}

func newWorld(ctx context.Context, o options) (*world, error) {
	env, _, err := scenario.Start(ctx, scenario.Options{Binary: o.binary, Profile: o.profile, LogLevel: o.level})
	if err != nil {
		return nil, err
	}
	w := &world{env: env}
	if w.probe, err = watch(env.Cluster); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func watch(c *lab.Cluster) (*lab.Probe, error) {
	return c.Lab().StartProbe(lab.ProbeOptions{GapOver: 2 * time.Millisecond})
}

func (w *world) close() {
	if err := w.env.Cluster.Lab().Close(); err != nil {
		fmt.Fprintf(os.Stderr, "chaos: close lab: %v\n", err)
	}
}
