package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

// damaged is one way to damage a node, and what must be left of it.
type damaged struct {
	name string
	// sealed and snapshot say what the node must have before.
	sealed, snapshot bool
	// harm damages the files of a node that is stopped.
	harm func(t *testing.T, w *world, node, segment, snapshot string)
	// evidence is part of a name that was set aside, "" for none.
	evidence string
}

var damages = []damaged{
	{name: "segment", sealed: true, evidence: "wal.aside-", harm: func(t *testing.T, w *world, node, segment, _ string) {
		dir := filepath.Join(w.DataDir(node), "wal")
		wantText(t, w.cli(t, node, 0, "wal", "verify", dir).Stdout, "clean")
		w.rotSegment(t, node, segment)
		wantText(t, w.cli(t, node, 5, "wal", "verify", dir).Stderr, "hint: ", filepath.Base(segment))
		w.cli(t, node, 5, "wal", "inspect", dir)
	}},
	{name: "snapshot", snapshot: true, evidence: "snap", harm: func(t *testing.T, w *world, node, _, snapshot string) {
		broken(t)(w.Flip(node, snapshot, 4096+100))
	}},
	{name: "raft id", evidence: "raft-id.aside-", harm: func(t *testing.T, w *world, node, _, _ string) {
		broken(t)(w.Flip(node, filepath.Join(w.DataDir(node), "raft-id"), 10))
	}},
	{name: "everything gone", harm: func(t *testing.T, w *world, node, _, _ string) {
		broken(t)(w.WipeData(node))
	}},
}

// Damage on any one node is found, set aside and repaired by itself: the node
// comes back as a new one.
//
// Covers C4, S8, S10, G4, F2, F3
func TestDamagedNodeIsRepairedByItself(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: state(lab.Table{"snapshot_bytes": "24MiB"})})
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "t/", Size: 500, Limit: 2 * time.Second}
	stop := w.writing(t, l, 20*time.Millisecond, w.conn(t, true), w.conn(t, false, "gw1"))

	for _, d := range damages {
		t.Run("standby, "+d.name, func(t *testing.T) {
			holder := w.holder(t)
			victim := w.other(holder)
			d.repair(t, w, victim, func() {
				p, epoch := w.watch(t), w.epoch(t, holder)
				t.Cleanup(func() {
					p.untouched()
					if e := w.epoch(t, holder); e != epoch {
						t.Errorf("epoch %d became %d", epoch, e)
					}
				})
			})
		})
	}
	t.Run("witness, everything gone", func(t *testing.T) {
		p := w.watch(t)
		damages[3].repair(t, w, "w1", func() {})
		p.untouched()
	})
	t.Run("holder, segment", func(t *testing.T) {
		p := w.watch(t)
		victim := w.holder(t)
		damages[0].repair(t, w, victim, func() {})
		p.safeWithin(moved)
	})
	stop()
	w.everywhere(t, l)
	wantText(t, w.cli(t, "w1", 0, "audit", "verify").Stdout, "whole")
}

// repair stops a node, damages it and starts it again; before is called when
// all that needs writing has been written.
func (d damaged) repair(t *testing.T, w *world, victim string, before func()) {
	t.Helper()
	segment, snapshot := "", ""
	if d.sealed {
		segment = w.sealed(t, victim)
	}
	if d.snapshot {
		snapshot = w.snapshot(t, victim)
	}
	through := w.others(victim)[0]
	before()
	kept, err := w.Evidence(victim)
	check(t, err)
	last, id := w.lastAudit(t, through), w.raftID(t, victim)
	w.stop(t, victim)
	d.harm(t, w, victim, segment, snapshot)
	w.start(t, victim)
	w.rejoined(t, victim, id)
	now, err := w.Evidence(victim)
	check(t, err)
	if d.evidence == "" {
		if len(now) > len(kept) {
			t.Errorf("set aside %v where there was nothing", now)
		}
	} else {
		w.kept(t, victim, now, len(kept), d.evidence)
		e := w.audited(t, through, last, "recovery", victim, "damage")
		wantText(t, e.Detail, "aside")
	}
	w.audited(t, through, last, "member-promote", victim, "")
	w.ready(t)
}

// kept checks that there is more evidence than before, with such a name.
func (w *world) kept(t *testing.T, node string, evidence []string, before int, word string) {
	t.Helper()
	for _, name := range evidence {
		if len(evidence) > before && strings.Contains(name, word) {
			return
		}
	}
	t.Errorf("%s has set aside %v, nothing with %q", node, evidence, word)
}

// A segment that rots under a running node is found by the scrub.
//
// Covers C4, S8, S10, F2
func TestRotUnderRunningNodesIsFound(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: state(lab.Table{"snapshot_bytes": "1GiB", "scrub_every": "2s"})})
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "t/", Size: 500, Limit: 2 * time.Second}
	stop := w.writing(t, l, 20*time.Millisecond, w.conn(t, true))
	rot := func(t *testing.T, victim string) {
		t.Helper()
		segment := w.sealed(t, victim)
		through := w.others(victim)[0]
		last, id := w.lastAudit(t, through), w.raftID(t, victim)
		w.rotSegment(t, victim, segment)
		w.rejoined(t, victim, id)
		now, err := w.Evidence(victim)
		check(t, err)
		w.kept(t, victim, now, 0, "wal.aside-")
		w.audited(t, through, last, "recovery", victim, "damage")
		w.ready(t)
	}
	t.Run("standby", func(t *testing.T) {
		holder := w.holder(t)
		p, epoch := w.watch(t), w.epoch(t, holder)
		rot(t, w.other(holder))
		p.untouched()
		if e := w.epoch(t, holder); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})
	t.Run("holder", func(t *testing.T) {
		holder := w.holder(t)
		p := w.watch(t)
		rot(t, holder)
		if h := w.holder(t); h != w.other(holder) {
			t.Errorf("%s holds: the damaged node goes on", h)
		}
		p.safeWithin(moved)
	})
	stop()
	w.everywhere(t, l)
	for _, n := range w.Names() {
		w.seen(t, n, func(r *report) error {
			if !strings.Contains(string(r.Raw), `"scrubbed":"20`) {
				return fmt.Errorf("does not say when log and snapshot were last read whole")
			}
			return nil
		})
	}
}
