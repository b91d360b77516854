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
	if err := w.sameState(ctx); err != nil {
		return err
	}
	through := w.shape.members()[int(w.load.last)%len(w.shape.members())]
	return errors.Join(
		w.load.judge(ctx, x),
		w.load.verify(ctx, w.load.ledger, through),
		w.auditTrails(ctx, through),
		w.leaks(ctx),
	)
}

// sameState waits until all members have applied the same entry and compares
// the hashes of their states.
func (w *world) sameState(ctx context.Context) error {
	deadline := time.Now().Add(healLimit)
	for {
		same, err := w.compareStates()
		if same || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the members have not applied the same entry in %v", healLimit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// compareStates reports whether all members have applied the same entry; the
// error is that their states then differ.
func (w *world) compareStates() (same bool, err error) {
	var first *lab.Status
	for _, node := range w.cluster.Names() {
		s, err := w.cluster.StatusOf(node)
		switch {
		case err != nil:
			return false, nil // asked again
		case s.State.Applied != s.State.Commit || first != nil && s.State.Applied != first.State.Applied:
			return false, nil
		case first == nil:
			first = s
		case s.State.Hash != first.State.Hash || s.State.Hash == "":
			return false, fmt.Errorf("the states at entry %d differ: %s has %q, %s has %q", s.State.Applied, node, s.State.Hash, first.Node, first.State.Hash)
		}
	}
	return true, nil
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

// unreachable is the exit code of a command that found no daemon.
const unreachable = 3

// ask runs a command on a member, again while nobody is there: on a busy
// machine a worker may be slow enough for its guard to start another.
func (w *world) ask(ctx context.Context, node string, args ...string) (lab.Output, error) {
	for {
		out, err := w.cluster.RunCLI(ctx, node, args...)
		if err != nil || out.Code != unreachable {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}
