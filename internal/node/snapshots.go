package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/placement"
	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/storage"
)

// Snapshots: the state is frozen in the loop, which costs nothing, and written
// beside it; then the log is released up to it.

// snapshotPause is how long a snapshot that found no room waits for another
// try.
const snapshotPause = 5 * time.Second

// snapshotTurn begins a snapshot when enough log has been written since the
// last: the configured amount, or half the size of the state if that is more,
// so that writing snapshots never costs more than twice what writing the log
// does.
func (w *worker) snapshotTurn(now int64) {
	if w.snapshotting || now < w.nextSnapshot || w.stopping {
		return
	}
	due := max(w.cfg.State.SnapshotBytes, w.stateBytes()/2)
	if len(w.shipping.files) > 0 {
		// The log behind the snapshot that is on its way is needed by whoever
		// gets it: else it would need the next one, too.
		due *= 4
	}
	if w.raftLog.LiveBytes() < due || w.appliedIndex() <= w.snapshotIndex() {
		return
	}
	w.snapshotting = true
	frozen := w.state.Freeze()
	w.host.Go(func() {
		meta, err := w.snaps.Write(w.stopCtx, frozen)
		w.mustPost(func(now int64) { w.snapshotDone(now, meta, err) })
	})
}

func (w *worker) stateBytes() int64 {
	if p := w.view.Load(); p != nil {
		return p.view.Bytes()
	}
	return 0
}

func (w *worker) snapshotIndex() uint64 {
	if meta, ok := w.snaps.Newest(); ok {
		return meta.Index
	}
	return storage.FirstIndex
}

// snapshotDone lets the log go that a snapshot has made superfluous.
func (w *worker) snapshotDone(now int64, meta storage.SnapshotMeta, err error) {
	w.snapshotting = false
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled):
		return
	case noRoom(err):
		w.nextSnapshot = now + int64(snapshotPause)
		w.limited.Warn("snapshot not written: no room", "error", err)
		return
	default:
		// Any other error of the disk is final: what it says of the next
		// write cannot be trusted.
		w.fail(fmt.Errorf("write snapshot: %w", err))
		return
	}
	w.log.Info("snapshot written", "index", meta.Index, "bytes", meta.Size)
	w.releaseLog(w.raftLog.Compact(meta))
}

// releaseLog drops what the log does not need any more, beside the loop: it
// waits for the writer.
func (w *worker) releaseLog(release func() error) {
	w.host.Go(func() {
		if err := release(); err != nil {
			w.mustPost(func(int64) { w.fail(fmt.Errorf("release log: %w", err)) })
		}
	})
}

// restored replaces the state by one that the leader has sent (its file was
// checked and published before raft was told of it).
func (w *worker) restored(now int64, r quorum.Restored) {
	// Until the log says on disk that it follows the snapshot, a start would
	// come back without it: others must not count on what it holds (G4).
	if w.unstored == 0 {
		w.storedConfig = w.configIndex()
	}
	w.unstored++
	w.releaseLog(func() error {
		if err := r.Release(); err != nil {
			return err
		}
		w.mustPost(func(int64) { w.unstored--; w.beatNow = true })
		return nil
	})
	state := w.received
	w.received = nil
	if state == nil {
		w.fail(fmt.Errorf("snapshot at index %d is in force without its state", r.Index))
		return
	}
	if index, term := state.Applied(); index != r.Index || term != r.Term {
		w.fail(fmt.Errorf("state received is at index %d term %d, snapshot at %d term %d", index, term, r.Index, r.Term))
		return
	}
	w.log.Info("state replaced by the leader's snapshot", "index", r.Index, "term", r.Term)
	w.recordEvent(storage.Record{Kind: "recovery", Node: w.selfName, Cause: "snapshot-received", Detail: fmt.Sprintf("index %d term %d", r.Index, r.Term)})
	w.state = state
	for index, f := range w.writes.flight {
		if index <= r.Index {
			delete(w.writes.flight, index)
			w.writes.lose(now, f, errUnknown)
		}
	}
	w.members.planner.Forget()
	w.membershipChanged()
	w.groupsChanged(now)
	w.adoptAssignments(now)
	w.fencesChanged()
	w.dataChanged = true
}

// adoptAssignments acts on the assignments of a state that came as a whole, as
// if each had been applied here: above all, the voter must know their epochs
// (G3).
func (w *worker) adoptAssignments(now int64) {
	for _, g := range w.state.Groups() {
		a := w.state.Assignment(g.ID)
		if a.Epoch == 0 {
			continue
		}
		w.voter.Applied(g.ID, a.Epoch, a.Node, a.Incarnation)
		w.tracker.Applied(now, placement.Assignment{
			Group: g.ID, Epoch: a.Epoch, Node: a.Node, Incarnation: a.Incarnation, Prev: a.Prev,
		})
		own := w.groupByID(g.ID)
		if own == nil || own.applied >= a.Epoch {
			continue
		}
		own.applied = a.Epoch
		mine := a.Node == w.rid && a.Incarnation == w.inc // G7
		if mine {
			own.cause = a.Cause
		}
		w.carryOut(now, own, own.tenure.Assigned(now, a.Epoch, mine))
	}
	w.beatNow, w.placementNews = true, true
}
