package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// audit looks at everything that must be true of a cluster that is whole. The
// clients have stopped; the writers of the ledger are held meanwhile.
func (w *world) audit(ctx context.Context, x *history) error {
	defer w.load.ledger.Hold()()
	last := w.load.ledger.Last()
	if x.h != nil {
		last = max(last, x.h.Last())
	}
	mark := 0
	if x.h != nil {
		mark = x.h.Len()
	}
	for began := time.Now(); ; {
		if err := w.sameState(ctx, last); err != nil {
			return err
		}
		before := w.workers()
		through := w.shape.members()[int(w.load.last)%len(w.shape.members())]
		err := errors.Join(
			w.load.judge(ctx, x),
			w.load.verify(ctx, w.load.ledger, through),
			w.auditTrails(ctx, through),
			w.leaks(ctx),
		)
		if err == nil || time.Since(began) > healLimit || before != "" && before == w.workers() {
			return err
		}
		// A worker has ended meanwhile, as its guard makes it on a machine that
		// is too busy. What the next one has by itself is what it knows to be
		// committed, and that comes again from the leader.
		x.h.Cut(mark)
		if err := w.settle(ctx); err != nil {
			return err
		}
	}
}

// workers names the worker of each member, "" when one does not answer.
func (w *world) workers() string {
	all := ""
	for _, node := range w.cluster.Names() {
		s, err := w.cluster.StatusOf(node)
		if err != nil {
			return ""
		}
		all += node + " " + s.Identity.Incarnation + "\n"
	}
	return all
}

// sameState waits until all members have applied the same entry, that of a
// revision or a later one, and compares the hashes of their states. Nobody
// writes meanwhile.
func (w *world) sameState(ctx context.Context, revision uint64) error {
	began := time.Now()
	for {
		why, err := w.compareStates(began, revision)
		if why == "" || err != nil {
			return err
		}
		if time.Since(began) > healLimit {
			return fmt.Errorf("the members have not applied the same entry in %v: %s", healLimit, why)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// compareStates says why the states cannot be compared yet, "" when they are
// the same; the error is that they differ. A status may be a little old, and a
// follower does not know of the last entries before it is told that they are
// committed: so it counts only when it was made since, and has all that any
// client knows of.
func (w *world) compareStates(since time.Time, revision uint64) (why string, err error) {
	var first *lab.Status
	for _, node := range w.cluster.Names() {
		s, err := w.cluster.StatusOf(node)
		switch {
		case err != nil:
			return err.Error(), nil
		case s.AsOf.Before(since) || s.State.Revision < revision || s.State.Applied != s.State.Commit:
			return fmt.Sprintf("%s has applied %d of %d, revision %d of %d", node, s.State.Applied, s.State.Commit, s.State.Revision, revision), nil
		case first == nil:
			first = s
		case s.State.Applied != first.State.Applied:
			return fmt.Sprintf("%s has applied %d, %s %d", node, s.State.Applied, first.Node, first.State.Applied), nil
		case s.State.Hash != first.State.Hash || s.State.Hash == "":
			return "", fmt.Errorf("the states at entry %d differ: %s has %q, %s has %q", s.State.Applied, node, s.State.Hash, first.Node, first.State.Hash)
		}
	}
	return "", nil
}

// trailHead is a part of what `holdfast audit verify --json` prints.
type trailHead struct {
	Verdict string
	Records int
	Head    struct {
		Seq  uint64
		Hash string
	}
}

// auditTrails verifies the audit trail on each member, compares their heads,
// and finds the head of an earlier export in the trail of now.
func (w *world) auditTrails(ctx context.Context, through string) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	heads := map[uint64]string{} // hash by number
	for _, node := range w.cluster.Names() {
		out, err := w.ask(ctx, node, "--json", "audit", "verify")
		if err != nil {
			return err
		}
		var h trailHead
		if err := json.Unmarshal([]byte(out.Stdout), &h); out.Code != 0 || err != nil || h.Verdict != "whole" {
			return fmt.Errorf("audit trail of %s: exit code %d: %s%s", node, out.Code, out.Stdout, out.Stderr)
		}
		if other, known := heads[h.Head.Seq]; known && other != h.Head.Hash {
			return fmt.Errorf("audit trail of %s: record %d has the hash %s, elsewhere %s", node, h.Head.Seq, h.Head.Hash, other)
		}
		heads[h.Head.Seq] = h.Head.Hash
	}
	if w.trail != "" {
		out, err := w.ask(ctx, through, "audit", "verify", w.trail, "--live")
		if err != nil {
			return err
		}
		if out.Code != 0 {
			return fmt.Errorf("audit trail of %s does not go on where it was: %s%s", through, out.Stdout, out.Stderr)
		}
	}
	file := filepath.Join(w.lab.Dir, "trail")
	out, err := w.ask(ctx, through, "audit", "export", "-o", file)
	if err != nil {
		return err
	}
	if out.Code != 0 {
		return fmt.Errorf("export audit trail of %s: %s", through, out.Stderr)
	}
	w.trail = file
	return nil
}

// damaged is the exit code of a command that found a broken chain.
const damaged = 5

// ask runs a command on a member, again while it fails for another reason than
// damage: on a busy machine a worker may be slow enough for its guard to start
// another, also in the middle of an answer.
func (w *world) ask(ctx context.Context, node string, args ...string) (lab.Output, error) {
	for {
		out, err := w.cluster.RunCLI(ctx, node, args...)
		if err != nil || out.Code == 0 || out.Code == damaged {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}
