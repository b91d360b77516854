package main

import (
	"fmt"
	"testing"
	"time"
)

// A failure is worth nothing when its faults cannot be drawn again.
func TestSameSeedSameFaults(t *testing.T) {
	o := defaults()
	o.seed = 7
	seen := map[string]bool{}
	two := 0
	for n := 1; n <= 4000; n++ {
		plans := draw(o, n)
		if again := draw(o, n); fmt.Sprint(plans) != fmt.Sprint(again) {
			t.Fatalf("round %d: %v, then %v", n, plans, again)
		}
		two += len(plans) - 1
		for i, p := range plans {
			seen[p.kind.name] = true
			if p.hold < 10*time.Millisecond || p.hold > 3*time.Second || i == 1 && p.after > plans[0].hold {
				t.Errorf("round %d: %v: out of range", n, p)
			}
			if members := len(shapeOf(o, n).members()); members < p.kind.members {
				t.Errorf("round %d: %v with %d members", n, p, members)
			}
		}
		if len(plans) == 2 && clash(plans[0].kind, plans[1].kind) {
			t.Errorf("round %d: %v would wait for each other", n, plans)
		}
	}
	if len(seen) != len(kinds) {
		t.Errorf("%d of %d kinds were drawn", len(seen), len(kinds))
	}
	if two < 800 || two > 1600 {
		t.Errorf("%d of 4000 rounds had two faults", two)
	}
	other := o
	other.seed = 8
	if fmt.Sprint(draw(o, 1)) == fmt.Sprint(draw(other, 1)) {
		t.Error("the seed changes nothing")
	}
}

// A cluster keeps its shape for as long as it lives; over time there is one of
// each.
func TestShapesOfClusters(t *testing.T) {
	o := defaults()
	o.seed = 7
	seen := map[shape]bool{}
	for n := 1; n <= 20000; n++ {
		s := shapeOf(o, n)
		if n > 1 && o.era(n) == o.era(n-1) && s != shapeOf(o, n-1) {
			t.Fatalf("round %d changes the shape", n)
		}
		seen[s] = true
	}
	if len(seen) != 18 { // three sizes, three profiles, two addresses
		t.Errorf("shapes %v", seen)
	}
	o.profile, o.gateways, o.witnesses = "wan", 4, 1
	if s := shapeOf(o, 1); s.gateways != 4 || s.witnesses != 1 || s.profile != "wan" || fmt.Sprint(s.members()) != "[gw1 gw2 gw3 gw4 w1]" {
		t.Errorf("asked for 4 gateways, got %v: %v", s, s.members())
	}
}

// Some kinds must never be under way together: chaos itself would wait for
// ever.
func TestKindsThatClash(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"hang-both", "restart", true}, {"restart", "hang-both", true}, {"hang-worker", "member-remove", true},
		{"disk-hangs", "kill-worker", true}, {"disk-hangs", "hang-guard", true}, {"disk-hangs", "disk-full", true},
		{"wipe", "rot", true}, {"wipe", "member-remove", true},
		{"disk-hangs", "cut", false}, {"wipe", "power-cut-all", false}, {"hang-both", "kill-worker", false},
	} {
		if got := clash(kindNamed(c.a), kindNamed(c.b)); got != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
	for _, k := range kinds {
		if clash(k, kindNamed("cut")) {
			t.Errorf("%s clashes with what stands in for clashes", k.name)
		}
	}
}

func TestStepsAreTakenInOrderOfTime(t *testing.T) {
	plans := []plan{{after: 0, hold: 100}, {after: 40, hold: 20}}
	mends := make([]func() error, 2)
	for _, want := range []struct {
		index int
		at    time.Duration
	}{{0, 0}, {1, 40}, {1, 60}} {
		i, at := nextStep(plans, mends)
		if i != want.index || at != want.at {
			t.Fatalf("step of fault %d at %d, want %v", i, at, want)
		}
		if mends[i] != nil {
			plans[i].hold = time.Hour
		}
		mends[i] = nothing
	}
	if i, at := nextStep(plans, mends); i != 0 || at != 100 {
		t.Errorf("last step: fault %d at %d", i, at)
	}
}
