package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// maintenance asks a member to mark a node and returns the index of the entry;
// 0 when the node was marked so already or the request was not confirmed.
func (w *world) maintenance(ctx context.Context, through, node string, on bool) (uint64, error) {
	body := fmt.Sprintf(`{"node":%q,"on":%v}`, node, on)
	code, raw, err := w.Call(ctx, through, http.MethodPost, "/v1/maintenance", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	if code != http.StatusOK {
		return 0, fmt.Errorf("HTTP %d: %s", code, raw)
	}
	var result struct{ Index uint64 }
	return result.Index, json.Unmarshal(raw, &result)
}

// Covers C5, S4, S6, E4, E5
func TestWitnessWithTheNewestLogLeadsAndHandsOver(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	w.failover(t, "gw1")
	p := w.watch(t)
	cut := broken(t)(w.lab.Cut("gw2"))
	w.seen(t, "gw1", func(r *report) error {
		if r.reachable("gw2") || !r.Quorum.OK {
			return fmt.Errorf("gw2 is not gone")
		}
		return nil
	})
	var last uint64
	for i := range 6 { // entries that only gw1 and the witness store
		index, err := w.maintenance(within(t, settle), "gw1", "w1", i%2 == 0)
		check(t, err)
		last = max(last, index)
	}
	w.seen(t, "w1", func(r *report) error {
		if r.State.Applied < last {
			return fmt.Errorf("applied %d of %d", r.State.Applied, last)
		}
		return nil
	})
	kill := broken(t)(w.PowerCut("gw1"))
	check(t, cut.Undo())
	// Only the witness can be elected: gw2 lacks committed entries.
	w.holder(t, "gw2")
	p.owner("gw2")
	w.seen(t, "gw2", func(r *report) error {
		if r.Leader != "gw2" {
			return fmt.Errorf("leadership was not handed over")
		}
		if r.State.Applied <= last {
			return fmt.Errorf("applied %d, acknowledged was %d", r.State.Applied, last)
		}
		return nil
	})
	if len(lines(w.log(t, "w1"), "became leader")) == 0 {
		t.Error("the witness never led")
	}
	w.mend(t, kill)
	p.safe()
}

// Covers S4, S6, S8, F1, F3
func TestPowerCutOfAllInTheMiddleOfFounding(t *testing.T) {
	w := prepare(t, pair, lab.ClusterOptions{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 8 {
		after := time.Duration(random.IntN(400)) * time.Millisecond
		if round == 0 {
			after = 0
		}
		p := w.listen(t)
		w.start(t)
		time.Sleep(after) // the fault's instant
		f := broken(t)(w.PowerCut())
		check(t, f.Undo())
		check(t, w.WaitReady(within(t, settle)))
		p.owner(w.holder(t))
		if r := p.safe(); t.Failed() {
			t.Fatalf("power cut %v after the start: %v", after, r)
		}
		t.Logf("power cut %v after the start: founded", after)
		// A new machine for the next round.
		_, err := w.PowerCut()
		check(t, err)
		for _, n := range w.Names() {
			entries, err := os.ReadDir(w.DataDir(n))
			check(t, err)
			for _, e := range entries {
				check(t, os.RemoveAll(filepath.Join(w.DataDir(n), e.Name())))
			}
			f := broken(t)(w.lab.LinkDown(n + "/*")) // its undo waits for the carrier
			check(t, f.Undo())
		}
	}
}

// Covers S4, S6, S8, S11, F3
func TestPowerCutOfAllUnderLoadKeepsWhatWasAcknowledged(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	p := w.watch(t)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var last uint64 // acknowledged index
		var on bool
		var load sync.WaitGroup
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				index, err := w.maintenance(ctx, "gw2", "w1", i%2 == 0)
				if err != nil {
					continue
				}
				mu.Lock()
				if index > last {
					last, on = index, i%2 == 0
				}
				mu.Unlock()
			}
		})
		time.Sleep(700 * time.Millisecond) // of load
		f := broken(t)(w.PowerCut())
		cancel()
		load.Wait()
		if last == 0 {
			t.Fatal("nothing was acknowledged before the power cut")
		}
		w.mend(t, f)
		hashes := map[string]bool{}
		for _, n := range w.Names() {
			w.seen(t, n, func(r *report) error {
				if r.State.Applied <= last {
					return fmt.Errorf("applied %d, acknowledged was %d", r.State.Applied, last)
				}
				if r.WAL.Verdict != "clean" && r.WAL.Verdict != "torn_tail" {
					return fmt.Errorf("verdict %q", r.WAL.Verdict)
				}
				return nil
			})
		}
		eventually(t, func() error { // nothing is written now: the same state everywhere
			clear(hashes)
			for _, n := range w.Names() {
				r, err := w.status(n)
				if err != nil {
					return err
				}
				hashes[fmt.Sprint(r.State.Applied, r.State.Hash)] = true
			}
			if len(hashes) != 1 {
				return fmt.Errorf("states differ: %v", hashes)
			}
			return nil
		})
		r, err := w.status("gw1")
		check(t, err)
		t.Logf("acknowledged up to %d (maintenance %v), applied %d", last, on, r.State.Applied)
	}
	p.safe()
}

// Covers C1, S6, F1, F2, G6
func TestFoundingWaitsForEveryMemberAndANewDataDirectoryDoesNotVote(t *testing.T) {
	w := prepare(t, pair, lab.ClusterOptions{})
	p := w.listen(t)
	w.start(t, "gw1", "w1")
	for _, n := range []string{"gw1", "w1"} {
		w.seen(t, n, func(r *report) error {
			if r.Role != "joining" || r.Identity.Founded || len(r.WaitingFor) != 1 || r.WaitingFor[0] != "gw2" {
				return fmt.Errorf("waits for %v", r.WaitingFor)
			}
			return r.has("waiting_for_member", "gw2")
		})
	}
	wantText(t, w.cli(t, "gw1", 0, "status").Stdout, "gw2")
	w.cli(t, "gw1", 4, "failover", "--to", "gw1")
	if code, body := w.get(t, "gw1", "/healthz"); code != 200 {
		t.Errorf("/healthz %d %s", code, body)
	}
	if code, body := w.get(t, "gw1", "/readyz"); code != 503 || !strings.Contains(body, "gw2") {
		t.Errorf("/readyz %d %s", code, body)
	}
	if r := p.safe(); r.Answered != 0 {
		t.Errorf("somebody answered before the founding: %+v", r.Owners)
	}
	w.start(t, "gw2")
	w.ready(t)

	t.Run("emptied data directory", func(t *testing.T) {
		w.failover(t, "gw1")
		id := w.raftID(t, "gw2")
		w.stop(t, "gw2")
		broken(t)(w.WipeData("gw2"))
		f := broken(t)(w.PowerCut("gw1"))
		// Its vote would make a majority with the witness; it has none.
		p := w.listen(t)
		w.start(t, "gw2")
		w.seen(t, "gw2", func(r *report) error {
			if r.Role != "joining" || r.Lease.Held {
				return fmt.Errorf("role %q", r.Role)
			}
			return nil
		})
		w.seen(t, "w1", func(r *report) error {
			if err := r.has("member_not_a_voter", "gw2"); err != nil {
				return err
			}
			return r.has("no_quorum")
		})
		always(t, 4*promise, func() error {
			if h := w.Holders(); len(h) != 0 {
				return fmt.Errorf("held by %v without a majority", h)
			}
			return nil
		})
		// Those that have their data take it in again (F2).
		check(t, f.Undo())
		w.rejoined(t, "gw2", id)
		w.ready(t)
		p.owner(w.holder(t))
		p.safe()
	})
}
