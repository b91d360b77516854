package main

import (
	"slices"
	"strings"
	"testing"
)

// Every state within the small bounds: no two gates open, no voter bound to
// two. Covers G1 to G8.
func TestExhaustive(t *testing.T) {
	for i := range small {
		b := &small[i]
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && b.name != "reborn" && b.name != "late" {
				t.Skip("takes seconds")
			}
			r, err := explore(b, none, 1, 4_000_000)
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range r.found {
				if text != "" {
					t.Errorf("%v: %s\n%s", invariant(i), text, r.story[i])
				}
			}
			// A search in which nobody holds proves nothing.
			if r.windows < r.states/20 || r.states < 1000 {
				t.Errorf("a gate is open in %d of %d states", r.windows, r.states)
			}
			t.Logf("%d states, %d steps, open in %d", r.states, r.steps, r.windows)
		})
	}
}

// Each rule that is taken out opens two gates within the bounds.
func TestExhaustiveNotices(t *testing.T) {
	within := map[rule]string{
		leaseIsPromise: "renew", fromReceipt: "renew", noG1: "renew", noG2: "death", noteFirst: "release",
		noIncarnation: "reborn", resumed: "again", olderEpoch: "again", refusedCounts: "renew", cachedNow: "renew",
		sentLate: "renew", noConfigWait: "members",
	}
	for broken, name := range within {
		t.Run(broken.String(), func(t *testing.T) {
			t.Parallel()
			if testing.Short() {
				t.Skip("takes seconds")
			}
			b := &small[slices.IndexFunc(small, func(b bounds) bool { return b.name == name })]
			r, err := explore(b, broken, 1, 4_000_000)
			if err != nil {
				t.Fatal(err)
			}
			if r.found[oneGate] == "" || !strings.Contains(r.story[oneGate], r.found[oneGate]) {
				t.Fatalf("not noticed in %d states: %q", r.states, r.found)
			}
			t.Logf("%d states, %s", r.states, r.found[oneGate])
		})
	}
}

// Voters that are alike may trade places in a key, and nothing else.
func TestKeys(t *testing.T) {
	b := &bounds{voters: 5, contenders: 2, assigns: 2, beats: 2, ticks: 5}
	log := b.logs()[0]
	begin := newState(b, worst[0], log, none, nil).do(b, &action{kind: takes, host: int(log[0].node) - 1})
	asked := begin.messages[0]
	key := func(s *state) string { return string(s.key(nil, b, new([maxHosts][]byte))) }
	at := func(hosts ...int) string {
		s := begin
		for _, h := range hosts {
			s = s.do(b, &action{kind: gets, host: h, msg: asked})
		}
		return key(s)
	}
	if at(2) != at(3) || at(2, 4) != at(4, 3) {
		t.Error("two voters that only vote are told apart")
	}
	if at(2) == at(1) || at(2) == at(2, 3) || at() == at(2) {
		t.Error("states that differ have one key")
	}
	if key(begin) == key(begin.do(b, &action{kind: passes})) {
		t.Error("time is not in the key")
	}
}
