// Command bench measures how long the floating address is without an answer,
// for every row of the table of times, in both profiles, and the same faults
// on keepalived where it is installed: same machine, same kind of lab, same
// probe, same run. It writes a page of Markdown. A missed goal stands in the
// page; only two owners at once make it end with 1.
//
// A second part measures durable state, see state.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
	"github.com/holdfast-ha/holdfast/test/scenario"
)

type options struct {
	binary string
	part   string // all, failover, state or wal
	quick  bool   // of the state part
	n      int
	peers  int
	out    string
	idle   time.Duration
}

// profiles are those that the table of times has goals for.
var profiles = []string{"default", "fast"}

// page is all that was measured.
type page struct {
	options options
	began   time.Time
	machine machine
	binary  binary
	rows    map[string][]*series // by profile
	ready   map[string]*readiness
	idle    []usage
	rivals  map[string][]*series // by profile beside which they stand
	noRival string               // why there are none
	gate    []gateCost
	noGate  string
	noise   []time.Duration // longest pause of the probe, one for each round
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/holdfast", "the program to measure")
	flag.IntVar(&o.n, "n", 20, "rounds of each scenario in each profile")
	flag.IntVar(&o.peers, "peers", 3, "rounds of each fault on keepalived, at most n; 0 = none")
	flag.StringVar(&o.out, "out", "docs/benchmarks.md", "the page to write; empty = print it only")
	flag.StringVar(&o.part, "part", "all", "failover, state, wal (printed only), or all but the last")
	flag.BoolVar(&o.quick, "quick", false, "little of the state part, to see that it works")
	flag.DurationVar(&o.idle, "idle", 20*time.Second, "how long the use of an idle cluster is measured")
	flag.Parse()
	path, err := filepath.Abs(o.binary)
	if err == nil {
		_, err = os.Stat(path)
	}
	switch {
	case err != nil:
		fatal(1, fmt.Errorf("find the program: %w", err), "make build")
	case flag.NArg() > 0 || o.n < 1 || o.peers < 0 || o.idle <= 0 || !slices.Contains([]string{"all", "failover", "state", "wal"}, o.part):
		fatal(2, errors.New("an option is out of range"), "go run ./test/bench -h")
	}
	o.binary, o.peers = path, min(o.peers, o.n)
	// The lab ends and cleans up by itself on SIGINT and SIGTERM.
	text, doubles, err := o.run(context.Background())
	if errors.Is(err, lab.ErrNotRoot) {
		fatal(1, err, "sudo make bench")
	}
	if err != nil {
		fatal(1, err, "make demo shows whether the cluster works at all")
	}
	if o.out != "" && o.part != "wal" {
		if err := os.WriteFile(o.out, []byte(text), 0o644); err != nil {
			fatal(1, fmt.Errorf("write the page: %w", err), "-out FILE names another place")
		}
	}
	fmt.Print(text)
	if doubles > 0 {
		fatal(1, fmt.Errorf("two hosts acted as owner %d times", doubles), "make chaos finds out when")
	}
}

// run measures the parts that are asked for and returns the page.
func (o options) run(ctx context.Context) (text string, doubles int64, err error) {
	if o.part == "all" || o.part == "failover" {
		p, err := measure(ctx, o)
		if err != nil {
			return "", 0, err
		}
		text, doubles = p.markdown(), p.doubles()
	} else if o.out != "" && o.part == "state" {
		if text, err = otherPart(o.out, false); err != nil {
			return "", 0, err
		}
	}
	second := ""
	if o.part == "failover" {
		if second, err = otherPart(o.out, true); err != nil {
			return "", 0, err
		}
	} else {
		name := "full"
		if o.quick {
			name = "quick"
		}
		s, err := measureState(ctx, o.binary, name, o.part)
		if err != nil {
			return "", 0, err
		}
		second = s.markdown()
	}
	return join(text, second), doubles, nil
}

func fatal(code int, err error, hint string) {
	fmt.Fprintf(os.Stderr, "bench: %v\nhint: %s\n", err, hint)
	os.Exit(code)
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func measure(ctx context.Context, o options) (*page, error) {
	p := &page{
		options: o, began: time.Now(), machine: readMachine(),
		rows: map[string][]*series{}, ready: map[string]*readiness{}, rivals: map[string][]*series{},
	}
	var err error
	if p.binary, err = readBinary(ctx, o.binary); err != nil {
		return nil, err
	}
	say("cost of the gate")
	if p.gate, err = measureGate(ctx); err != nil {
		p.noGate = err.Error()
		say("  not measured: %v", err)
	}
	for _, profile := range profiles {
		if err := p.measureProfile(ctx, profile); err != nil {
			return nil, err
		}
	}
	if err := p.measureRivals(ctx); err != nil {
		p.noRival = err.Error()
		say("keepalived not measured: %v", err)
	}
	return p, nil
}

// measureProfile runs every scenario n times. Scenarios take turns, so that a
// bad minute of the machine does not fall on one of them alone.
func (p *page) measureProfile(ctx context.Context, profile string) error {
	list := scenario.All()
	for _, s := range list {
		p.rows[profile] = append(p.rows[profile], &series{id: s.ID, title: s.Title, row: s.Row, goal: s.Goals.Of(profile)})
	}
	start := func() (scenario.Env, error) {
		env, ready, err := scenario.Start(ctx, scenario.Options{Binary: p.options.binary, Profile: profile})
		if err == nil && p.ready[profile] == nil {
			p.ready[profile] = &readiness{founding: ready}
		}
		return env, err
	}
	say("%s profile", profile)
	env, err := start()
	if err != nil {
		return err
	}
	defer func() { closeLab(env) }()
	if err := p.measureAtRest(ctx, env, profile); err != nil {
		return err
	}
	for n := range p.options.n {
		say("  round %d of %d", n+1, p.options.n)
		for i, s := range list {
			r, err := s.Run(ctx, env)
			p.rows[profile][i].take(r, err)
			if r.Report != nil {
				p.noise = append(p.noise, r.Noise)
			}
			if err == nil && r.Doubles == 0 {
				continue
			}
			say("    %s: doubles %d, error %v", s.Title, r.Doubles, err)
			closeLab(env) // nothing that follows may suffer from it
			if env, err = start(); err != nil {
				return err
			}
		}
	}
	return nil
}

func closeLab(env scenario.Env) {
	if env.Cluster == nil {
		return
	}
	if err := env.Cluster.Lab().Close(); err != nil {
		say("close lab: %v", err)
	}
}
