package node

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/kv"
	"github.com/holdfast-ha/holdfast/wal"
)

// quiet is a worker before its founding that logs nothing.
func quiet() *worker {
	log := slog.New(slog.DiscardHandler)
	return &worker{
		cfg: &config.Config{}, log: log, limited: newLimitedLogger(log), selfName: "gw1",
		peers: map[string]*peer{}, replies: map[string][]byte{}, writes: newWrites(rand.Uint64()),
	}
}

// waitsFor puts a write into the books of w and returns where its answer goes.
func (q *writes) waitsFor(put func(write)) *[]*control.Error {
	var got []*control.Error
	q.count++
	put(write{done: func(_ int64, _ kv.Result, err *control.Error) { got = append(got, err) }})
	return &got
}

// An answer that a leader owes to a worker that died must not be taken for the
// answer to a write of the worker after it.
func TestAnswersToTheWorkerBeforeMatchNothing(t *testing.T) {
	before, w, leader := newWrites(rand.Uint64()), quiet(), quiet()
	got := w.writes.waitsFor(func(one write) { w.writes.away[w.writes.lastID+1] = one })
	w.writes.awayTo = "gw2"
	leader.replyWrite("gw1", before.lastID+1, kv.Result{Code: kv.OK, Rev: 7}, nil)
	w.takeWritten(0, "gw2", leader.replies["gw1"])
	if len(*got) != 0 {
		t.Fatal("a write got the answer to another")
	}
}

// A write whose index another entry has taken is answered at once, whatever
// that entry is; one whose entry was applied is not.
func TestOvertakenWrites(t *testing.T) {
	w := quiet()
	q := w.writes
	lost := q.waitsFor(func(one write) { q.flight[10] = flight{term: 3, writes: []write{one}} })
	kept := q.waitsFor(func(one write) { q.flight[11] = flight{term: 4, writes: []write{one}} })
	w.answered(0, 10, 4, "")
	w.answered(0, 11, 4, "")
	if len(*lost) != 1 || (*lost)[0] != errLeadershipMoved {
		t.Fatalf("overtaken write was answered %v", *lost)
	}
	if len(*kept) != 0 || len(q.flight) != 1 || q.count != 1 {
		t.Fatalf("answered %v, %d under way, %d counted", *kept, len(q.flight), q.count)
	}
}

func TestVerdictBeforeFounding(t *testing.T) {
	w := quiet()
	w.takeRejoin(0, "gw2", make([]byte, hashMessage))
	if w.exit != nil {
		t.Fatal("a node without a log took a verdict on its state")
	}
}

func TestRefusedEventHoldsUpNoOther(t *testing.T) {
	w := quiet()
	w.recordEvent(storage.Record{Kind: "worker", Node: "gw2"})
	w.recordEvent(storage.Record{Kind: "disk", Node: "gw1"})
	w.eventAnswered(0, reply{Error: errNoLeader})
	if len(w.events) != 2 {
		t.Fatal("an event was dropped that can be recorded later")
	}
	w.eventAnswered(0, reply{Error: &control.Error{Code: control.Forbidden}})
	if len(w.events) != 1 || w.events[0].record.Kind != "disk" {
		t.Fatalf("events that wait: %+v", w.events)
	}
}

// Covers F2: damage that is found while the node runs ends a worker that is
// started again.
func TestDamageWhileRunningIsRepairable(t *testing.T) {
	for _, err := range []error{wal.ErrCorrupt, fmt.Errorf("scrub: %w", &storage.DamageError{What: "raft id"})} {
		if !damaged(err) || repairable(err) == nil || damaged(repairable(err)) {
			t.Errorf("%v becomes %v", err, repairable(err))
		}
	}
	if err := repairable(errGuardGone); err != errGuardGone {
		t.Errorf("another error becomes %v", err)
	}
	if err := repairable(nil); err != nil {
		t.Error(err)
	}
}

// Covers F4: nodes that all lost their data do not found a cluster by
// themselves.
func TestSetAsideDataIsNotForgotten(t *testing.T) {
	w := quiet()
	dir := t.TempDir()
	for i, name := range []string{"wal" + storage.AsideMark + "1", "raft-id" + storage.AsideMark + "1", "wal" + storage.AsideMark + "2", "promise"} {
		if n, err := evidence(vfs.OS, dir); err != nil || n != (i+1)/2 {
			t.Fatalf("%d sets before %s, %v", n, name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.hadData = true
	w.found(0)
	if len(w.waitsFor) != 1 || w.waitsFor[0].name != "gw1" {
		t.Fatalf("founding waits for %v", w.waitsFor)
	}
}

// Covers F2: members that were set up apart do not draw a new node to and fro.
func TestNewNodeFollowsMostMembers(t *testing.T) {
	w := quiet()
	old, present := [16]byte{1}, [16]byte{2}
	show := func(name string, id [16]byte, empty bool) {
		p := &peer{connected: true}
		p.hello.ClusterID, p.hello.Empty = id, empty
		w.peers[name] = p
	}
	show("gw2", old, false)
	show("gw3", present, false)
	show("w1", present, true)
	if w.mostAreOf(old) || w.mostAreOf(present) {
		t.Fatal("one of three is most")
	}
	show("w1", present, false)
	if w.mostAreOf(old) || !w.mostAreOf(present) {
		t.Fatal("two of three are not most")
	}
}

// Covers G4: a configuration that only a snapshot holds is not told of before
// the log follows it on disk.
func TestReportedConfigIsStored(t *testing.T) {
	w := quiet()
	w.state = storage.NewState(storage.FirstConfig{})
	if got := w.reportedConfig(); got != storage.FirstIndex {
		t.Fatalf("reports configuration %d", got)
	}
	w.unstored, w.storedConfig = 1, 0
	if got := w.reportedConfig(); got != 0 {
		t.Fatalf("reports configuration %d, which is not stored", got)
	}
}
