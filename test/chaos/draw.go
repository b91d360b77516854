package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// plan is one fault that was drawn: what, to whom, from when, for how long.
type plan struct {
	kind kind
	// target is a part in the cluster ("holder", "leader" …), found when the
	// fault is caused; spare stands in when nobody plays that part.
	target, spare string
	// other is the second member of a fault between two.
	other string
	after time.Duration // from the start of the round
	hold  time.Duration
}

func (p plan) String() string {
	return fmt.Sprintf("%s(%s) %v for %v", p.kind.name, p.target, p.after.Round(time.Millisecond), p.hold.Round(time.Millisecond))
}

var (
	members = []string{"gw1", "gw2", "w1"}
	// The holder is the one that matters, so it is drawn most often.
	targets = []string{"holder", "holder", "holder", "leader", "spare", "w1", "any"}
)

// draw draws the faults of a round: one, or sometimes two that overlap. It
// depends on the seed and the number of the round alone.
func draw(o options, n int) []plan {
	r := rand.New(rand.NewPCG(o.seed, uint64(n)))
	plans := []plan{drawOne(r, o.only)}
	if r.IntN(10) < 3 {
		second := drawOne(r, o.only)
		second.after = time.Duration(r.Int64N(int64(plans[0].hold) + 1))
		if plans[0].kind.stopsProcess && second.kind.waitsForProcess {
			second.kind = kindNamed("kill-worker") // a hung daemon does not stop in order
		}
		plans = append(plans, second)
	}
	return plans
}

func drawOne(r *rand.Rand, only string) plan {
	p := plan{kind: kinds[r.IntN(len(kinds))]}
	if only != "" {
		p.kind = kindNamed(only)
	}
	p.target, p.spare, p.other = targets[r.IntN(len(targets))], members[r.IntN(3)], members[r.IntN(3)]
	// From far below to far above the promise: 10 ms to 3 s, each size of
	// time as likely as the others.
	steps := []time.Duration{10, 30, 100, 300, 1000, 3000}
	i := r.IntN(len(steps) - 1)
	from, to := steps[i]*time.Millisecond, steps[i+1]*time.Millisecond
	p.hold = from + time.Duration(r.Int64N(int64(to-from)))
	return p
}

// resolve names the member that plays a part at the moment.
func (w *world) resolve(p plan) string {
	c := w.env.Cluster
	name := ""
	switch p.target {
	case "holder":
		name = c.Holder()
	case "leader":
		name = c.Leader()
	case "spare":
		switch c.Holder() {
		case "gw1":
			name = "gw2"
		case "gw2":
			name = "gw1"
		}
	case "w1":
		name = "w1"
	}
	if name == "" {
		return p.spare
	}
	return name
}
