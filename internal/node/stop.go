package node

import (
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/internal/tenure"
)

// A planned stop: hand over what is held (A5), let the leadership go (E6), and
// exit. Each step has a limit, after which the stop goes on without it.
const (
	handoverLimit = 6 * time.Second
	leadLimit     = time.Second
)

// stopState is how far a planned stop has come.
type stopState struct {
	began     int64
	asked     bool
	done      bool // the leader answered
	released  int64
	transfers bool
}

// stop begins a planned stop.
func (w *worker) stop(now int64, why string) {
	if w.stopping {
		return
	}
	w.stopping, w.stopped = true, stopState{began: now}
	w.log.Info("stopping", "reason", why)
	if err := w.link.Stopping(); err != nil {
		w.log.Warn("guard not told", "error", err)
	}
	w.beatNow = true
}

// stopTurn carries a planned stop on.
func (w *worker) stopTurn(now int64) {
	if !w.stopping || w.exit != nil {
		return
	}
	s := &w.stopped
	if w.raft == nil {
		w.exitWith(nil)
		return
	}
	if w.holdsAny() {
		switch {
		case !s.asked:
			s.asked = true
			w.askHandover(now)
		case s.done || now-s.began > int64(handoverLimit):
			w.releaseAll(now, "stopping")
		}
		return
	}
	if s.released == 0 {
		s.released = now
	}
	waited := time.Duration(now - s.released)
	if w.namedAnywhere() && waited < leadLimit && w.leads(now) {
		return // as leader, assign what we released to somebody first
	}
	if w.leads(now) && waited < 2*leadLimit {
		if !s.transfers {
			s.transfers = w.transferAway(now)
		}
		if s.transfers {
			return
		}
	}
	w.exitWith(nil)
}

// holdsAny tells whether this node has anything to let go of.
func (w *worker) holdsAny() bool {
	for _, g := range w.groups {
		if g.tenure.Active() {
			return true
		}
	}
	return false
}

// namedAnywhere tells whether the committed state still names this worker.
func (w *worker) namedAnywhere() bool {
	for _, g := range w.groups {
		if a := w.state.Assignment(g.id); a.Node == w.rid && a.Incarnation == w.inc {
			return true
		}
	}
	return false
}

// transferAway hands the leadership to the best member heard.
func (w *worker) transferAway(now int64) bool {
	for _, m := range w.placementMembers() {
		p := w.peerByID(m.Node)
		if p == nil || !m.Voter || !m.Gateway || !p.heard(now, w.timing.Promise) {
			continue
		}
		if err := w.raft.Transfer(now, m.Node); err == nil {
			return true
		}
	}
	return false
}

// askHandover asks the leader to move everything that this node holds.
func (w *worker) askHandover(now int64) {
	var names []string
	for _, g := range w.groups {
		if state, _ := g.tenure.State(); state == tenure.Holding {
			names = append(names, g.name)
		}
	}
	left := len(names)
	if left == 0 {
		w.stopped.done = true
		return
	}
	for _, name := range names {
		w.ask(now, opFailover, "", failoverAsk{Group: name, From: w.cfg.Node.Name}, func(_ int64, r reply) {
			if r.Error != nil {
				w.log.Warn("planned handover refused, releasing", "group", name, "error", r.Error.Message)
			}
			if left--; left == 0 {
				w.stopped.done = true
				w.beatNow = true
			}
		})
	}
}

func (w *worker) exitWith(err error) {
	if w.exit == nil {
		w.exit = &err
	}
}

// finish is the last act of the loop. After an error nothing is tidied: the
// guard closes the gate and removes the addresses, whatever state this process
// is in.
func (w *worker) finish(err error) error {
	if err == nil {
		w.releaseAll(w.clk.Boottime(), "exit")
		w.sayOver()
	}
	return err
}

// sayOver ends this incarnation in its own name (G5): every gate was closed and
// read back, and the loop that could open one has ended. With
// it the others need not wait for the silence of a leader that is gone.
func (w *worker) sayOver() {
	if w.raft == nil || w.exitError() != nil {
		return
	}
	w.host.Sleep(tenure.NoteDelay) // counted from the last close, whichever it was
	over := w.overNote()
	w.mesh.SendNote(over[:])
}

// overNote is the note that ends everything of this incarnation.
func (w *worker) overNote() [lease.NoteSize]byte {
	return lease.Note{Kind: lease.Over, Cluster: w.notes.cluster, Node: w.rid, Incarnation: w.inc}.Sign(w.key)
}
