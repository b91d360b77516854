package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// shape is what a cluster consists of.
type shape struct {
	gateways, witnesses int
	profile             string
	// vip is the address that the probe watches and thieves claim. The cluster
	// has the other one too.
	vip netip.Prefix
}

func (s shape) String() string {
	return fmt.Sprintf("%d gateways, %d witnesses, profile %s, %v watched", s.gateways, s.witnesses, s.profile, s.vip.Addr())
}

func (s shape) members() (names []string) {
	for i := range s.gateways {
		names = append(names, fmt.Sprintf("gw%d", i+1))
	}
	for i := range s.witnesses {
		names = append(names, fmt.Sprintf("w%d", i+1))
	}
	return names
}

// era is the number of the cluster on which a round runs: each lives for so
// many rounds, for a leak shows only where something grows old.
func (o options) era(n int) int { return (n - 1) / o.age }

// shapeOf draws the shape of the cluster of a round. The usual one is drawn
// most often.
func shapeOf(o options, n int) shape {
	// An even number of voters is refused.
	r := rand.New(rand.NewPCG(o.seed, 1<<63|uint64(o.era(n))))
	all := []shape{{gateways: 2, witnesses: 1}, {gateways: 2, witnesses: 1}, {gateways: 3, witnesses: 2}, {gateways: 4, witnesses: 1}}
	s := all[r.IntN(len(all))]
	s.profile = []string{"fast", "fast", "default", "default", "wan"}[r.IntN(5)]
	s.vip = []netip.Prefix{lab.VIP4, lab.VIP4, lab.VIP6}[r.IntN(3)]
	if o.profile != "" {
		s.profile = o.profile
	}
	if o.gateways != 0 {
		s.gateways, s.witnesses = o.gateways, o.witnesses
	}
	return s
}

// plan is one fault that was drawn: what, to whom, from when, for how long.
type plan struct {
	kind kind
	// target is a part in the cluster ("holder", "leader" …), found when the
	// fault is caused; spare stands in when nobody plays that part.
	target, spare string
	// other is the second member of a fault between two.
	other string
	// dice is for what else the fault has to draw.
	dice  uint64
	after time.Duration // from the start of the round
	hold  time.Duration
}

func (p plan) rand() *rand.Rand { return rand.New(rand.NewPCG(p.dice, 0)) }

func (p plan) String() string {
	return fmt.Sprintf("%s(%s) %v for %v", p.kind.name, p.target, p.after.Round(time.Millisecond), p.hold.Round(time.Millisecond))
}

// The holder is the one that matters, so it is drawn most often.
var targets = []string{"holder", "holder", "holder", "leader", "spare", "witness", "any"}

// draw draws the faults of a round: one, or sometimes two that overlap. It
// depends on the options and the number of the round alone.
func draw(o options, n int) []plan {
	s := shapeOf(o, n)
	r := rand.New(rand.NewPCG(o.seed, uint64(n)))
	plans := []plan{drawOne(r, s, o.only)}
	if r.IntN(10) < 3 {
		second := drawOne(r, s, o.only)
		second.after = time.Duration(r.Int64N(int64(plans[0].hold) + 1))
		if clash(plans[0].kind, second.kind) {
			second.kind = kindNamed("cut") // goes with everything
		}
		plans = append(plans, second)
	}
	return plans
}

func drawOne(r *rand.Rand, s shape, only string) plan {
	members := s.members()
	p := plan{kind: kindNamed(drawable(len(members))[r.IntN(len(drawable(len(members))))])}
	if only != "" {
		p.kind = kindNamed(only)
	}
	p.target, p.spare, p.other = targets[r.IntN(len(targets))], members[r.IntN(len(members))], members[r.IntN(len(members))]
	p.dice = r.Uint64()
	// From far below to far above the promise: 10 ms to 3 s, each size of
	// time as likely as the others.
	p.hold = between(r, 10*time.Millisecond, 30*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond, time.Second, 3*time.Second)
	return p
}

// drawable has the name of each kind that a cluster of so many members can
// have, as often as it is to be drawn.
func drawable(members int) (names []string) {
	for _, k := range kinds {
		if members >= k.members {
			names = append(names, slices.Repeat([]string{k.name}, 1+k.often)...)
		}
	}
	return names
}

// between draws a duration between two neighbouring steps, each pair of which
// is as likely as the others.
func between(r *rand.Rand, steps ...time.Duration) time.Duration {
	i := r.IntN(len(steps) - 1)
	return steps[i] + time.Duration(r.Int64N(int64(steps[i+1]-steps[i])))
}

// resolve names the member that plays a part at the moment.
func (w *world) resolve(p plan) string {
	name := ""
	switch p.target {
	case "holder":
		name = w.cluster.Holder()
	case "leader":
		name = w.cluster.Leader()
	case "spare":
		if holder := w.cluster.Holder(); holder != "" {
			name = w.gatewayBeside(holder, p)
		}
	case "witness":
		name = "w1"
	}
	if name == "" {
		return p.spare
	}
	return name
}

// gatewayBeside names a gateway that is not node.
func (w *world) gatewayBeside(node string, p plan) string {
	var others []string
	for i := range w.shape.gateways {
		if name := fmt.Sprintf("gw%d", i+1); name != node {
			others = append(others, name)
		}
	}
	return others[p.rand().IntN(len(others))]
}

// memberBeside names a member that is not node, the other of the plan where
// that is one.
func (w *world) memberBeside(node string, p plan) string {
	members := w.shape.members()
	if p.other != node {
		return p.other
	}
	return members[(slices.Index(members, node)+1)%len(members)]
}
