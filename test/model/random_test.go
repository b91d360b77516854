package main

import (
	"runtime"
	"testing"
)

// Never are two gates open at the same true instant, and no voter is bound to
// two: G1 to G8 together, with seeds that do not change.
func TestRandomRuns(t *testing.T) {
	for _, voters := range []int{3, 5} {
		runs := uint64(100_000)
		if testing.Short() {
			runs = 5000
		}
		got := many(0, runs, voters, runtime.GOMAXPROCS(0), none, 0)
		if got.broken() {
			t.Fatalf("%d voters: broken in %v runs, seeds %v: %v", voters, got.failed, got.first, got.text)
		}
		// A model in which nothing happens proves nothing.
		if got.runs != runs || got.windows < 2*runs || got.moves < runs/2 {
			t.Fatalf("%d voters: %d windows and %d moves in %d runs: the model stands still", voters, got.windows, got.moves, got.runs)
		}
		t.Logf("%d voters: %d runs, %d windows, %d moves", voters, got.runs, got.windows, got.moves)
	}
}

// Each rule that is taken out opens two gates: the runs would notice. Those
// that need very many runs are left to the exhaustive search.
func TestRandomRunsNotice(t *testing.T) {
	const runs = 150_000
	for broken := none + 1; broken < rules; broken++ {
		t.Run(broken.String(), func(t *testing.T) {
			if testing.Short() || broken == oldConfig || broken == forgetsConfig {
				t.Skip("needs very many runs")
			}
			for _, voters := range []int{3, 5} {
				got := many(0, runs, voters, runtime.GOMAXPROCS(0), broken, 1)
				if got.failed[oneGate] == 0 {
					t.Fatalf("%d voters: not noticed in %d runs", voters, got.runs)
				}
				t.Logf("%d voters: %d runs; seed %d: %s", voters, got.runs, got.first[oneGate], got.text[oneGate])
			}
		})
	}
}

// The same seed is the same run.
func TestRandomRunsRepeat(t *testing.T) {
	story := func(r *random, seed uint64) (lines string) {
		r.replay(seed, 3, func(line string) { lines += line + "\n" })
		return lines
	}
	used := newRandom(none)
	for seed := range uint64(50) {
		if a, b := story(used, seed), story(newRandom(none), seed); a != b || a == "" {
			t.Fatalf("seed %d told two stories:\n%s\n%s", seed, a, b)
		}
	}
}

func BenchmarkRandom3(b *testing.B) { benchRandom(b, 3) }
func BenchmarkRandom5(b *testing.B) { benchRandom(b, 5) }

func benchRandom(b *testing.B, voters int) {
	r := newRandom(none)
	windows, moves := 0, 0
	for i := range b.N {
		if r.run(uint64(i), voters) {
			b.Fatalf("seed %d: %v", i, r.found)
		}
		windows += r.windows
		moves += r.moves
	}
	b.ReportMetric(float64(windows)/float64(b.N), "windows/run")
	b.ReportMetric(float64(moves)/float64(b.N), "moves/run")
}
