package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

// recovery runs holdfast recover on a node.
func (w *world) recovery(t *testing.T, node string, code int, args ...string) lab.Output {
	t.Helper()
	return w.cli(t, node, code, append([]string{"-c", w.ConfigFile(node), "recover"}, args...)...)
}

// Two of three members lose their data at once: nothing is guessed, status says
// what is missing, and an operator founds a new cluster from the copy that is
// left. The others come back as new nodes, with all the data.
//
// Covers C4, S9, S10, F1a, F2, F4, G2
func TestRecoverFromTheLossOfAMajority(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "t/", Size: 500, Limit: 2 * time.Second}
	stop := w.writing(t, l, 5*time.Millisecond, w.conn(t, true))
	time.Sleep(time.Second)
	stop()
	w.settled(t)
	w.cli(t, "gw1", 0, "maintenance", "on", "w1") // of the machine, whatever its raft id
	w.settled(t)
	p := w.watch(t)
	rotten := w.holder(t)
	left, gone := w.other(rotten), "w1"
	old, err := w.status(left)
	check(t, err)

	w.stop(t, w.Names()...)
	broken(t)(w.Flip(rotten, filepath.Join(w.DataDir(rotten), "wal", "0000000000000001.wal"), 4096+200))
	broken(t)(w.WipeData(gone))
	w.start(t)
	w.seen(t, left, func(r *report) error { return r.has("majority_lost", "2 of 3", rotten, gone) })
	for _, n := range []string{rotten, gone} {
		w.seen(t, n, func(r *report) error {
			if r.Role != "joining" {
				return fmt.Errorf("it does not wait")
			}
			return r.has("majority_lost", "2 of 3")
		})
	}
	always(t, 3*promise, func() error {
		if h := w.Holders(); len(h) > 0 {
			return fmt.Errorf("%v hold", h)
		}
		return nil
	})

	wantText(t, w.recovery(t, left, 4, "found", "--yes").Stderr, "hint: stop the daemon")
	w.stop(t, left, rotten)
	var seen struct {
		Copies []struct {
			Label, Verdict string
			ClusterID      string `json:"cluster_id"`
			LastIndex      uint64 `json:"last_index"`
			Usable         bool
		}
	}
	check(t, json.Unmarshal([]byte(w.recovery(t, rotten, 0, "inspect", "--json").Stdout), &seen))
	if len(seen.Copies) != 2 || seen.Copies[1].Verdict != "corrupt" || seen.Copies[0].LastIndex != 1 {
		t.Errorf("copies of %s: %+v", rotten, seen)
	}
	check(t, json.Unmarshal([]byte(w.recovery(t, left, 0, "inspect", "--json").Stdout), &seen))
	if c := seen.Copies[0]; c.Verdict != "clean" || !c.Usable || c.LastIndex < old.State.Applied || c.ClusterID != old.Identity.ClusterID {
		t.Errorf("copy of %s: %+v, want index %d or more", left, c, old.State.Applied)
	}
	plan := w.recovery(t, left, 2, "found")
	wantText(t, plan.Stdout, "would found a new cluster on "+left, "may be lost", "every other member must be stopped")
	wantText(t, w.recovery(t, left, 0, "found", "--yes").Stdout, "founded on "+left, "may be lost", "recover rejoin")
	wantText(t, w.recovery(t, rotten, 0, "rejoin", "--yes").Stdout, "joins the cluster as a new node")

	w.start(t, left, rotten) // gone waits all the while, and follows by itself
	began := time.Now()
	for _, n := range w.Names() {
		w.seen(t, n, func(r *report) error {
			if r.Quorum.Voters != 3 || r.Identity.ClusterID == old.Identity.ClusterID || r.Role == "joining" {
				return fmt.Errorf("not yet a voter of the new cluster")
			}
			return nil
		})
	}
	w.ready(t)
	t.Logf("three voters and a holder %v after the start", time.Since(began).Round(10*time.Millisecond))
	w.everywhere(t, l)
	now, err := w.status(left)
	check(t, err)
	if now.Epoch <= old.Epoch+1<<32 || now.Identity.RaftID == old.Identity.RaftID {
		t.Errorf("epoch %d after %d, raft id %s after %s", now.Epoch, old.Epoch, now.Identity.RaftID, old.Identity.RaftID)
	}
	for _, m := range now.Members {
		if m.Maintenance != (m.Name == "w1") {
			t.Errorf("maintenance of %s is %v", m.Name, m.Maintenance)
		}
	}
	for _, n := range w.Names() {
		wantText(t, w.cli(t, n, 0, "audit", "verify").Stdout, "whole")
		list := w.cli(t, n, 0, "audit", "list", "--kind", "recovery").Stdout
		found := lines(list, left+": recovered", "may be lost", old.Identity.ClusterID, "uid 0")
		if len(found) != 1 {
			t.Errorf("%d recoveries on %s:\n%s", len(found), n, list)
		}
	}
	// What was before is in the same chain.
	wantText(t, w.cli(t, "w1", 0, "audit", "list").Stdout, fmt.Sprintf("epoch %d", old.Epoch))
	kept, err := w.Evidence(left)
	check(t, err)
	w.kept(t, left, kept, 0, "wal.aside-")
	w.failover(t, rotten) // every member can hold, and it works as ever
	w.ready(t)
	if r := p.safe(); r.Longest.Duration() < time.Second {
		t.Errorf("nobody was there for %v only", r.Longest.Duration())
	}
}
