package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

// Concurrent clients put, get, swap, create, delete and move money between
// accounts while the cluster is broken again and again. What they were told
// must be explained by one order of their requests.
//
// Covers C4, S4, S8, S11
func TestHistoryOfConcurrentClientsIsLinearizable(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: state(lab.Table{"snapshot_bytes": "256KiB"})})
	p := w.watch(t)
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	m := &kvload.Mix{Bucket: "sessions", Keys: 12, Accounts: 5, Pause: 8 * time.Millisecond, Limit: 4 * time.Second, Seed: seed}
	for _, n := range w.Names() {
		// Tries once, at one member: outcomes stay unknown.
		m.Conns = append(m.Conns, w.conn(t, false, n), w.conn(t, false, n))
		// Tries again with the same request id, also at the others.
		m.Conns = append(m.Conns, w.conn(t, true, append([]string{n}, w.others(n)...)...), w.conn(t, true, n))
	}
	var h *kvload.History
	var err error
	stop := during(t, func(ctx context.Context) { h, err = m.Run(ctx) })
	for name, fault := range w.troubles(t) {
		t.Log(name)
		time.Sleep(time.Duration(200+rand.IntN(300)) * time.Millisecond)
		if f := fault(); f != nil {
			time.Sleep(time.Duration(rand.IntN(900)) * time.Millisecond)
			check(t, f.Undo())
		}
		w.ready(t)
	}
	time.Sleep(200 * time.Millisecond)
	stop()
	check(t, err)
	p.safe()
	w.settled(t)
	for _, n := range w.Names() {
		check(t, m.Final(within(t, settle), h, w.conn(t, false, n)))
	}
	t.Log(h)
	if h.Told["put done"] < 300 || h.Told["move done"] < 50 || h.Told["swap done"] < 50 {
		t.Error("too little was done for the history to say much")
	}
	began := time.Now()
	if err := h.Check(time.Minute); err != nil {
		t.Error(err)
	}
	t.Logf("history checked in %v", time.Since(began).Round(time.Millisecond))
}

// troubles are what breaks under load, each at the moment's holder or leader.
func (w *world) troubles(t *testing.T) func(func(string, func() *lab.Fault) bool) {
	leader := func() string {
		name := ""
		eventually(t, func() error {
			if name = w.Leader(); name == "" {
				return fmt.Errorf("no leader")
			}
			return nil
		})
		return name
	}
	must := broken(t)
	all := []struct {
		name string
		do   func() *lab.Fault
	}{
		{"worker of the holder killed", func() *lab.Fault { return must(w.KillWorker(w.holder(t))) }},
		{"holder killed", func() *lab.Fault { return must(w.Kill(w.holder(t))) }},
		{"planned switchover", func() *lab.Fault { w.failover(t, w.other(w.holder(t))); return nil }},
		{"leader loses its power", func() *lab.Fault { return must(w.PowerCut(leader())) }},
		{"worker of the leader hangs", func() *lab.Fault { return must(w.HangWorker(leader())) }},
		{"everything killed", func() *lab.Fault { return must(w.Kill()) }},
		{"leader cut off", func() *lab.Fault { return must(w.lab.Cut(leader())) }},
		{"worker of the leader killed", func() *lab.Fault { return must(w.KillWorker(leader())) }},
		{"leader cannot hear", func() *lab.Fault { return must(w.lab.Deafen(leader())) }},
		{"witness restarted", func() *lab.Fault { return must(w.Restart("w1")) }},
	}
	return func(yield func(string, func() *lab.Fault) bool) {
		for _, x := range all {
			if !yield(x.name, x.do) {
				return
			}
		}
	}
}

// The members are killed at any moment of writing, log and snapshots alike,
// all at once or one after the other. What was acknowledged is on every one of
// them afterwards, and what was refused is nowhere.
//
// Covers C4, S8, S10, F3
func TestNothingAcknowledgedIsLostWhenAllAreKilled(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: state(lab.Table{"snapshot_bytes": "128KiB"})})
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "t/", Size: 700, Limit: 2 * time.Second}
	conns := []*kvload.Conn{w.conn(t, true), w.conn(t, true)}
	for _, n := range w.Names() {
		conns = append(conns, w.conn(t, false, n), w.conn(t, false, n))
	}
	stop := w.writing(t, l, time.Millisecond, conns...)
	written := func(more int) { // some work in between, however slow the machine
		from := l.Acked()
		eventually(t, func() error {
			if l.Acked() < from+more {
				return fmt.Errorf("%d writes acknowledged, %d before", l.Acked(), from)
			}
			return nil
		})
	}
	for round := range 5 {
		written(100 + rand.IntN(300))
		f := broken(t)(w.Kill())
		w.mend(t, f)
		if round%2 == 0 {
			continue
		}
		for _, n := range w.Names() { // and each by itself, without a pause
			written(20 + rand.IntN(50))
			w.mend(t, broken(t)(w.Kill(n)))
		}
	}
	written(200)
	stop()
	if codes := l.Codes(); codes["internal"] != 0 || codes["invalid"] != 0 {
		t.Errorf("refusals %v", codes)
	}
	w.everywhere(t, l)
	for _, n := range w.Names() {
		r, err := w.status(n)
		check(t, err)
		if r.State.Snapshot == 0 {
			t.Errorf("%s never wrote a snapshot: the test has not seen one", n)
		}
		if kept, err := w.Evidence(n); err != nil || len(kept) != 0 {
			t.Errorf("%s has set aside %v, %v: a kill damages nothing", n, kept, err)
		}
	}
	for _, e := range w.trail(t, "w1", "recovery", "hash-mismatch") {
		if e.Cause != "clean" && e.Cause != "torn_tail" { // the verdicts of starts
			t.Errorf("kills led to %+v", e)
		}
	}
}

// A member that was away for so long that the log has gone on without it is
// filled with a snapshot, while writes go on.
//
// Covers C4, S4, S8
func TestMemberThatWasAwayForLongCatchesUp(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: state(lab.Table{"snapshot_bytes": "1MiB"})})
	holder := w.holder(t)
	away := w.other(holder)
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "t/", Size: 4096}
	c := w.conn(t, true, holder)
	for range 50 {
		check(t, l.Put(within(t, settle), c))
	}
	w.settled(t)
	p, epoch, id := w.watch(t), w.epoch(t, holder), w.raftID(t, away)
	w.stop(t, away)
	before, err := w.status(holder)
	check(t, err)
	stop := w.writing(t, l, time.Millisecond, w.conn(t, false, holder), w.conn(t, false, "w1"), w.conn(t, false, holder))
	turns := 0
	w.grow(t, "the others have no longer what it lacks", func() bool {
		turns++ // what they keep for slow followers is a few MiB
		for _, n := range w.others(away) {
			s, err := w.StatusOf(n)
			if err != nil || s.State.Snapshot <= before.State.Applied+32 {
				return false
			}
		}
		return turns > 80
	})
	for round := range 2 { // the second time it dies while it is filled
		w.start(t, away)
		if round == 0 {
			time.Sleep(time.Duration(150+rand.IntN(300)) * time.Millisecond)
			broken(t)(w.Kill(away))
		}
	}
	target, err := w.StatusOf(holder)
	check(t, err)
	w.seen(t, away, func(r *report) error {
		if r.State.Applied < target.State.Commit {
			return fmt.Errorf("applied %d of %d", r.State.Applied, target.State.Commit)
		}
		return nil
	})
	w.ready(t)
	if len(lines(w.log(t, away), "state replaced by the leader's snapshot")) == 0 {
		t.Error("it was not filled with a snapshot: the test has shown nothing")
	}
	from := l.Acked()
	eventually(t, func() error {
		if l.Acked() < from+100 {
			return fmt.Errorf("writes do not go on: %s", l)
		}
		return nil
	})
	stop()
	if codes := l.Codes(); len(codes) != 0 {
		t.Errorf("writes were refused meanwhile: %s", l)
	}
	w.everywhere(t, l)
	if again := w.raftID(t, away); again != id {
		t.Errorf("raft id %s became %s: nothing was damaged", id, again)
	}
	p.untouched()
	if e := w.epoch(t, holder); e != epoch {
		t.Errorf("epoch %d became %d", epoch, e)
	}
}
