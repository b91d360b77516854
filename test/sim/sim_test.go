package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The same seed gives the same life, to the last line of its trace.
func TestSameSeedSameLife(t *testing.T) {
	life := func(seed uint64) string {
		var b strings.Builder
		r, err := Run(Options{Seed: seed, Log: func(s string) { b.WriteString(s); b.WriteByte('\n') }})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s%d events, %d turns", b.String(), r.Events, r.Turns)
	}
	for seed := uint64(1); seed <= 6; seed++ {
		one, two := life(seed), life(seed)
		if one != two {
			a, b := strings.Split(one, "\n"), strings.Split(two, "\n")
			for i := range min(len(a), len(b)) {
				if a[i] != b[i] {
					t.Fatalf("seed %d, line %d:\n%s\n%s", seed, i, a[i], b[i])
				}
			}
			t.Fatalf("seed %d: %d and %d lines", seed, len(a), len(b))
		}
	}
}

// Seeds with the usual faults break no promise (I1 to I13).
func TestSeeds(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 10
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		r, err := Run(Options{Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		if r.Failure != nil {
			t.Fatal(r.Describe(Options{}))
		}
		if seed%rowEvery != rowEvery-1 && (r.Operations == 0 || r.Entries == 0 || r.Hashes == 0) {
			t.Fatalf("seed %d compared nothing: %+v", seed, r)
		}
	}
}

// regressions are seeds that have found something, by what they found. A seed
// is another life when what the product does by chance changes, so they say less
// the older they are.
var regressions = map[string]uint64{
	"a failed log ends the worker though nothing waits for it":            151,
	"a follower is sent on from where it is after an answer of index 0":   1126,
	"a removal under way is not an addition that was done":                5143,
	"a clock that changes its rate within a turn does not go back":        169,
	"a grant made in a turn in which the worker is killed was not made":   1745,
	"a machine is not frozen in a turn that has begun":                    7123,
	"the vote of a candidate counts when it is stored, and leaves before": 1874,
}

func TestRegressions(t *testing.T) {
	for name, seed := range regressions {
		t.Run(name, func(t *testing.T) {
			r, err := Run(Options{Seed: seed})
			if err != nil {
				t.Fatal(err)
			}
			if r.Failure != nil {
				t.Fatal(r.Describe(Options{}))
			}
		})
	}
}

// With clocks that are worse than rho two gates do open at once, and the
// simulator sees it.
func TestBeyondRhoFindsADouble(t *testing.T) {
	for seed := uint64(1); seed <= 400; seed++ {
		r, err := Run(Options{Seed: seed, Mode: beyond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Failure != nil && r.Failure.What == "I1" {
			t.Logf("double at seed %d: %v", seed, r.Failure)
			return
		}
	}
	t.Fatal("no double in 400 seeds with clocks beyond rho")
}

// A plan is cut down to the faults that the failure needs.
func TestShrink(t *testing.T) {
	opt := Options{Seed: 30, Mode: beyond}
	var failed Result
	for ; opt.Seed < 430; opt.Seed++ {
		r, err := Run(opt)
		if err != nil {
			t.Fatal(err)
		}
		if r.Failure != nil && r.Failure.What == "I1" && len(r.Plan) > 4 {
			failed = r
			break
		}
	}
	if failed.Failure == nil {
		t.Fatal("nothing to shrink")
	}
	small, runs, err := Shrink(opt, failed)
	if err != nil {
		t.Fatal(err)
	}
	if small.Failure == nil || small.Failure.What != "I1" || len(small.Plan) >= len(failed.Plan) {
		t.Fatalf("%d faults of %d, %v", len(small.Plan), len(failed.Plan), small.Failure)
	}
	opt.Plan = small.Plan
	again, err := Run(opt)
	if err != nil || again.Failure == nil || again.Failure.Error() != small.Failure.Error() {
		t.Fatalf("the small plan fails with %v, and again with %v (%v)", small.Failure, again.Failure, err)
	}
	t.Logf("%d faults of %d after %d runs", len(small.Plan), len(failed.Plan), runs)
}

// Each row of the table of times, a few seeds of it.
func TestRows(t *testing.T) {
	for _, row := range Rows {
		for i, profile := range []string{"default", "fast"} {
			t.Run(row+" "+profile, func(t *testing.T) {
				late := 0
				for seed := uint64(1); seed <= 4; seed++ {
					r, err := Run(Options{Seed: seed, Row: row, Profile: profile})
					if err != nil {
						t.Fatal(err)
					}
					if r.Failure != nil {
						t.Fatal(r.Describe(Options{Row: row, Profile: profile}))
					}
					if r.Gap > limits[row][i] {
						late++
					}
					if r.Gap > limits[row][i]+2*time.Second {
						t.Fatalf("seed %d: gap %v", seed, r.Gap)
					}
				}
				if late > 1 {
					t.Fatalf("%d of 4 gaps longer than %v", late, limits[row][i])
				}
			})
		}
	}
}
