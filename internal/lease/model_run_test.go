package lease

import (
	"testing"

	"pgregory.net/rapid"
)

// Never are two gates open at the same true instant: a fixed set of seeds.
// Covers G1-G8 together.
func TestModelOneGate(t *testing.T) {
	seeds := uint64(400)
	if testing.Short() {
		seeds = 100
	}
	opened, moved := 0, 0
	for seed := range seeds {
		m := runModel(seed, noFault)
		if m.broken != "" {
			t.Fatalf("seed %d: %s", seed, m.broken)
		}
		opened += m.opened
		moved += m.moved
	}
	// A model in which nothing happens proves nothing.
	if opened < int(seeds)*20 || moved < int(seeds)*3 {
		t.Fatalf("%d windows and %d moves in %d seeds: the model stands still", opened, moved, seeds)
	}
	t.Logf("%d seeds, %d windows, %d moves", seeds, opened, moved)
}

// The same with seeds that differ from run to run.
func TestModelOneGateAnySeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if m := runModel(rapid.Uint64().Draw(t, "seed"), noFault); m.broken != "" {
			t.Fatal(m.broken)
		}
	})
}

// Each rule that is taken out opens two gates within the seeds: the model
// would notice.
func TestModelCatches(t *testing.T) {
	const seeds = 3000
	for _, f := range []fault{
		leaseIsPromise, countFromReceipt, noG1, noG2, noteBeforeClose,
		noIncarnation, resumeReleased, olderEpoch, anyEpochsAck,
	} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				if m := runModel(seed, f); m.broken != "" {
					t.Logf("seed %d: %s", seed, m.broken)
					return
				}
			}
			t.Fatalf("not noticed in %d seeds", seeds)
		})
	}
}
