package node

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/vip"
)

// One goroutine, the loop, owns everything that decides: grants, windows,
// tenures, raft, the gate map. All others only bring it work through a bounded
// inbox. A turn reads the clock once it runs, takes what has come, sends what
// is due, and sleeps until the next instant that anything waits for.

// inboxSize bounds the work that waits for the loop. Beats and raft messages
// that find it full are lost, as they may be on a network.
const inboxSize = 4096

// work is done by the loop, with the time at which it got to it.
type work func(now int64)

// post hands work to the loop and tells whether there was room.
func (w *worker) post(f work) bool {
	select {
	case w.inbox <- f:
		return true
	default:
		w.lost.Add(1)
		return false
	}
}

// mustPost waits for room: for answers that are not sent again. It gives up
// when the loop has ended.
func (w *worker) mustPost(f work) {
	select {
	case w.inbox <- f:
	case <-w.ended:
	}
}

// loop runs until the worker is to exit and returns why, nil for a planned
// stop.
func (w *worker) loop(ctx context.Context) error {
	defer close(w.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	events := w.link.Events()
	w.lastTurn = w.clk.Boottime()
	for w.exit == nil {
		durable, failed := w.diskNews()
		select {
		case f := <-w.inbox:
			w.drained = append(w.drained, f)
		case c := <-durable:
			w.drained = append(w.drained, w.persisted(c))
		case <-failed: // taken by drain
		case e, ok := <-events:
			if !ok {
				return w.guardGone()
			}
			w.guardEvent(w.clk.Boottime(), e)
		case <-ctx.Done():
			w.stop(w.clk.Boottime(), "asked to stop")
			ctx = context.WithoutCancel(ctx)
		case <-timer.C:
		}
		timer.Reset(w.step())
	}
	return w.finish(*w.exit)
}

// guardGone: nobody would close for us any more (DESIGN 2).
func (w *worker) guardGone() error {
	w.releaseAll(w.clk.Boottime(), "guard gone")
	w.sayOver()
	return w.finish(errGuardGone)
}

// step takes what has come, does one turn, and returns how long the loop may
// sleep.
func (w *worker) step() time.Duration {
	w.drain()
	w.turn(w.clk.Boottime())
	return w.nextWake(w.clk.Boottime())
}

// diskNews are the channels on which the log says that a write has ended, or
// that it has failed; nil before the founding.
func (w *worker) diskNews() (durable <-chan quorum.Completion, failed <-chan struct{}) {
	if w.raft == nil {
		return nil, nil
	}
	return w.raft.Durable(), w.raftLog.Failed()
}

func (w *worker) persisted(c quorum.Completion) work {
	return func(now int64) {
		if err := w.raft.Persisted(now, c); err != nil {
			w.fail(err)
		}
	}
}

func (w *worker) logFailed(int64) { w.fail(fmt.Errorf("log: %w", w.raftLog.Err())) }

// drain takes all the work that has come, so that timers are judged after the
// news and not before (E7), but no more than one inbox of it. The clock is read
// after the last of it was taken: later than anything in it arrived (G8).
func (w *worker) drain() {
	for n := min(len(w.inbox), inboxSize); n > 0; n-- {
		w.drained = append(w.drained, <-w.inbox)
	}
	durable, failed := w.diskNews()
	for n := len(durable); n > 0; n-- {
		w.drained = append(w.drained, w.persisted(<-durable))
	}
	select {
	case <-failed:
		w.drained = append(w.drained, w.logFailed)
	default:
	}
	now := w.clk.Boottime()
	for i, f := range w.drained {
		if w.exit != nil {
			break // whoever must end does nothing more, and answers nobody
		}
		f(now)
		w.drained[i] = nil
	}
	if w.exit == nil {
		w.takePeerEvents(now)
	}
	clear(w.drained)
	w.drained = w.drained[:0]
}

// turn does what is due at now.
func (w *worker) turn(now int64) {
	if stall := time.Duration(now - w.lastTurn); stall > 2*w.timing.Beat {
		w.stalled(now, stall)
	}
	w.lastTurn = now
	w.link.Beat()
	w.found(now)
	if w.raft != nil {
		w.raftParts(now)
	}
	if w.exit != nil {
		return
	}
	if w.raft != nil && !w.testified && now >= w.nextTestify {
		w.testify()
	}
	w.shortenPromise(now)
	w.stopTurn(now)
	w.publish(now)
}

// raftParts is the turn of everything that exists from the founding on. Each
// part may find that the worker must end, and then nothing more is done.
func (w *worker) raftParts(now int64) {
	for _, part := range []func(int64){w.raftTurn, w.lead, w.dataTurn, w.raftTurn, w.groupsTurn} {
		part(now)
		if w.exit != nil {
			return
		}
	}
	if now >= w.nextBeat || w.beatNow {
		w.sendBeats(now)
	}
}

// dataTurn is what the buckets and their disk need.
func (w *worker) dataTurn(now int64) {
	w.writesTurn(now)
	w.readsTurn(now)
	w.diskTurn(now)
	w.snapshotTurn(now)
	w.shipTurn(now)
	w.eventsTurn(now)
}

// shortenPromise stores a promise that is shorter than the one of the run
// before, once the wait for that one is over (G2).
func (w *worker) shortenPromise(now int64) {
	if w.shortenAt == 0 || now < w.shortenAt {
		return
	}
	w.shortenAt = 0
	// Beside the loop: a slow disk is no hang, and the longer promise on disk
	// is the safe one meanwhile.
	w.background(func() {
		if err := w.data.StorePromise(w.timing.Promise); err != nil {
			w.mustPost(func(int64) { w.fail(err) })
		}
	})
}

// stalled is E7: after a stall nobody is judged by what was missed. What was
// sent to us meanwhile is still in the sockets; it is read before any timer
// that starts now can run out.
func (w *worker) stalled(now int64, d time.Duration) {
	w.log.Warn("loop stalled", "for", d)
	w.stalls++
	if w.raft != nil {
		w.raft.Stalled(now)
		w.tracker.Stalled(now)
		w.placementNews = true
	}
	for _, g := range w.groups {
		g.heldSince = max(g.heldSince, now)
		if g.schedule != nil {
			g.schedule.Trigger(now, vip.Resumed)
		}
	}
}

// nextWake is how long the loop may sleep.
func (w *worker) nextWake(now int64) time.Duration {
	next := now + int64(w.hangLimit/5) // so often the guard wants to know that the loop turns
	earlier := func(t int64) {
		if t != 0 && t < next {
			next = t
		}
	}
	if w.raft != nil {
		earlier(w.nextBeat)
		earlier(w.raft.Next(now))
		for _, g := range w.groups {
			earlier(g.next(now))
		}
	}
	return time.Duration(max(next-now, 0))
}

// guardEvent takes what the guard says.
func (w *worker) guardEvent(now int64, e guard.Event) {
	switch e.Kind {
	case guard.Acknowledged:
		w.testified = true
	case guard.Stop:
		w.stop(now, "asked to stop")
	case guard.Reload:
		w.reloadByGuard()
	case guard.GateState:
		if e.OK != (w.gateLost == "") {
			cause := "attached"
			if !e.OK {
				cause = "lost"
			}
			w.recordEvent(storage.Record{Kind: "gate", Node: w.selfName, Cause: cause, Detail: e.Text})
		}
		w.gateLost = ""
		w.ungated.Store(!e.OK)
		if !e.OK {
			w.gateLost = e.Text
			w.log.Error("gate not attached on every interface", "error", e.Text)
		}
	}
}

// fail makes the loop end with err. The guard closes the gate and tells the
// others; trying to go on could lose or double something.
func (w *worker) fail(err error) {
	if w.exit != nil {
		return
	}
	w.log.Error("worker ends", "error", err)
	w.exit = &err
	for _, g := range w.groups {
		if w.gate != nil && g.tenure.Active() {
			// Whether this succeeds or not, the guard closes all and tells.
			if err := w.gate.CloseGroup(g.id); err != nil {
				w.log.Error("gate not closed", "group", g.name, "error", err)
			}
		}
	}
}
