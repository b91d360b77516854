package main

import (
	"fmt"
	"testing"
	"time"
)

// A failure is worth nothing when its faults cannot be drawn again.
func TestSameSeedSameFaults(t *testing.T) {
	o := options{seed: 7}
	seen := map[string]bool{}
	two := 0
	for n := range 2000 {
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
		}
		if len(plans) == 2 && plans[0].kind.stopsProcess && plans[1].kind.waitsForProcess {
			t.Errorf("round %d: %v would wait for what is stopped", n, plans)
		}
	}
	if len(seen) != len(kinds) {
		t.Errorf("%d of %d kinds were drawn", len(seen), len(kinds))
	}
	if two < 400 || two > 800 {
		t.Errorf("%d of 2000 rounds had two faults", two)
	}
	if fmt.Sprint(draw(o, 1)) == fmt.Sprint(draw(options{seed: 8}, 1)) {
		t.Error("the seed changes nothing")
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
