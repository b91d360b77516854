package node

import (
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/internal/placement"
	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/internal/tenure"
	"github.com/holdfast-ha/holdfast/internal/transport"
)

// Healths as ranks in beats: 0 is best, cannotHold means that the node could
// not hold an address even if nobody else could (A4).
const (
	healthy    uint8 = 0
	impaired   uint8 = 1 // some group cannot be held here
	slowDisk   uint8 = 100
	cannotHold uint8 = 255
)

// sendBeats sends one beat to everybody (section 4). The time that counts for
// grants is read before anything is sealed (G8), and our own voter is asked
// like any other.
func (w *worker) sendBeats(now int64) {
	w.beatNow = false
	w.nextBeat = now + int64(w.timing.Beat)
	sent := w.clk.Boottime()
	w.sequence++
	b := w.newBeat(sent)
	if w.mayAsk() {
		for _, r := range w.holder.Request(sent, w.sequence) {
			b.Requests = append(b.Requests, transport.Request{Group: r.Group, Epoch: r.Epoch, Config: r.Config})
			w.askSelf(sent, r)
		}
	}
	b.Orders = w.orders
	w.fillAcks(sent, b)
	w.fillNotes(sent, b)
	if raw := w.encodeBeat(b); raw != nil {
		for name := range w.peers {
			w.mesh.SendBeat(name, raw)
		}
	}
	w.observeSelf(sent, b)
}

// mayAsk is G5: the guard must be able to speak for us first. A node that is
// no voter may still hold; it only never counts itself.
func (w *worker) mayAsk() bool { return w.testified && w.exit == nil }

// askSelf puts a request to our own voter, and counts its answer as anybody's.
func (w *worker) askSelf(now int64, r lease.Request) {
	ack, refusal := w.voter.Request(now, r)
	if refusal != nil {
		w.refused(now, w.rid, *refusal)
		return
	}
	w.acked(now, w.rid, ack)
}

// answer replies to a beat with requests at once: acknowledgements only.
func (w *worker) answer(now int64, name string, refusals []transport.Refusal) {
	w.sequence++
	b := w.newBeat(now)
	b.Flags |= transport.FlagAnswer
	b.Refusals = refusals
	w.fillAcks(now, b)
	w.fillNotes(now, b)
	if raw := w.encodeBeat(b); raw != nil {
		w.mesh.SendBeat(name, raw)
	}
}

// encodeBeat puts the cluster id before the beat: one of another cluster is
// nobody's business here (F1a).
func (w *worker) encodeBeat(b *transport.Beat) []byte {
	raw, err := b.Encode()
	if err != nil {
		w.fail(fmt.Errorf("encode beat: %w", err))
		return nil
	}
	return append(w.notes.cluster[:len(w.notes.cluster):len(w.notes.cluster)], raw...)
}

func (w *worker) newBeat(now int64) *transport.Beat {
	raft := w.raft.Status(now)
	b := &transport.Beat{
		Incarnation: w.inc, Sequence: w.sequence, RaftID: w.rid,
		Term: raft.Term, Config: w.reportedConfig(), Applied: w.appliedIndex(), Commit: raft.Commit,
		Health: w.health(), MACs: w.macs,
	}
	if w.raft.ClaimsLeadership(now) {
		b.Flags |= transport.FlagLeaderClaim
	}
	if w.abstains() {
		b.Flags |= transport.FlagAbstain
	}
	if w.stopping {
		b.Flags |= transport.FlagStopping
	}
	for _, g := range w.groups {
		state, epoch := g.tenure.State()
		b.Groups = append(b.Groups, transport.GroupReport{
			Group: g.id, Epoch: g.applied, State: transport.GroupState(state), StateEpoch: epoch,
		})
	}
	for _, p := range w.peers {
		if p.incarnation != 0 {
			b.Seen = append(b.Seen, transport.Seen{Node: p.raftID, Incarnation: p.incarnation, Sequence: p.sequence})
		}
		if p.cloned(now) {
			b.Flags |= transport.FlagCloned
		}
	}
	return b
}

// fillAcks repeats the standing grants (G8).
func (w *worker) fillAcks(now int64, b *transport.Beat) {
	for _, s := range w.voter.Standing(now) {
		b.Acks = append(b.Acks, transport.Ack{
			To: s.Node, Group: s.Group, Epoch: s.Epoch, Incarnation: s.Incarnation, Sequence: s.Sequence,
		})
	}
}

// fillNotes repeats the notes known, as many as fit (G5).
func (w *worker) fillNotes(now int64, b *transport.Beat) {
	room := (transport.MaxBeatSize - b.Size()) / (lease.NoteSize + 2)
	b.Notes = w.notes.newest(now, max(0, min(room, transport.MaxBeatNotes)))
}

// health is this node's rank (A4).
func (w *worker) health() uint8 {
	faults := 0
	for _, g := range w.groups {
		if w.faultOf(g) != "" {
			faults++
		}
	}
	if faults == len(w.groups) && faults > 0 || w.gate != nil && !w.testified {
		return cannotHold
	}
	if w.self.Role == config.Witness || w.stopping && !w.holdsAny() {
		return cannotHold // what is held yet is handed over, not taken away
	}
	if w.disk.slow {
		return slowDisk
	}
	if faults > 0 {
		return impaired
	}
	return healthy
}

// receiveBeat takes an authenticated beat of the named member.
func (w *worker) receiveBeat(now int64, name string, b *transport.Beat) {
	p, ok := w.peers[name]
	if !ok || w.raft == nil || b.RaftID != p.raftID {
		return
	}
	w.checkRollback(b)
	if w.exit != nil {
		return
	}
	switch p.take(now, b, 2*w.timing.Promise) {
	case beatOld, beatOver:
		return
	case beatClone:
		w.log.Error("one raft id is alive twice: a cloned disk?", "member", name, "incarnation", b.Incarnation)
	case beatRebirth:
		w.log.Info("member speaks", "member", name, "incarnation", b.Incarnation)
	}
	w.voter.SetCloned(p.raftID, p.cloned(now))
	for _, raw := range b.Notes {
		w.receiveNote(now, raw)
	}
	if w.exit != nil {
		return
	}
	w.learnMACs(p, b.MACs)
	w.raft.Beat(now, beatInfo(b))
	w.tracker.Observe(now, w.placementReport(b))
	w.placementNews = true
	w.showEpochs(now, b)
	w.followMoves(now, b)
	w.takeOrders(now, b)
	if !p.cloned(now) {
		for _, a := range b.Acks {
			if a.To == w.rid {
				w.acked(now, p.raftID, lease.Ack{Group: a.Group, Epoch: a.Epoch, Incarnation: a.Incarnation, Sequence: a.Sequence})
			}
		}
	}
	for _, r := range b.Refusals {
		if r.To == w.rid {
			w.refused(now, p.raftID, lease.Refusal{Group: r.Group, Epoch: r.Epoch, Highest: r.Highest, Reason: lease.RefusalReason(r.Reason)})
		}
	}
	if len(b.Requests) > 0 && !b.Flags.Has(transport.FlagAnswer) {
		w.answer(now, name, w.judge(now, b))
	}
}

// judge puts the requests of a beat to our voter. now was read after recvmsg
// returned the datagram (G8).
func (w *worker) judge(now int64, b *transport.Beat) []transport.Refusal {
	var refusals []transport.Refusal
	for _, r := range b.Requests {
		_, refusal := w.voter.Request(now, lease.Request{
			Node: b.RaftID, Incarnation: b.Incarnation, Group: r.Group, Epoch: r.Epoch, Config: r.Config, Sequence: b.Sequence,
		})
		if refusal != nil {
			refusals = append(refusals, transport.Refusal{
				To: b.RaftID, Group: r.Group, Epoch: r.Epoch, Highest: refusal.Highest, Reason: uint8(refusal.Reason),
			})
		}
	}
	return refusals
}

// acked counts an acknowledgement and moves the gate.
func (w *worker) acked(now int64, from uint64, a lease.Ack) {
	win, advanced := w.holder.Ack(from, a)
	g := w.groupByID(a.Group)
	if !advanced || g == nil || win.Deadline <= now {
		return
	}
	if state, _ := g.tenure.State(); state != tenure.Holding && g.fault != "" {
		return
	}
	w.carryOut(now, g, g.tenure.Granted(a.Epoch))
}

// refused: a holder shown a higher epoch closes and releases at once (G3).
func (w *worker) refused(now int64, from uint64, r lease.Refusal) {
	w.refusals[r.Reason]++
	// An epoch that was applied here has let go of the older one already, and
	// may name this very worker.
	if g := w.groupByID(r.Group); g != nil && r.Highest > g.applied && w.holder.Refused(from, r) {
		w.log.Warn("releasing: a higher epoch exists", "group", g.name, "epoch", r.Epoch, "higher", r.Highest)
		w.release(now, g, "higher-epoch", fmt.Sprintf("epoch %d was shown", r.Highest))
	}
}

// showEpochs: the epochs that others have applied are as good as a refusal
// (G3), and come even when nobody asks.
func (w *worker) showEpochs(now int64, b *transport.Beat) {
	for _, r := range b.Groups {
		g := w.groupByID(r.Group)
		if g == nil {
			continue
		}
		if held, ok := w.holder.Holding(g.id); ok && r.Epoch > held && r.Epoch > g.applied {
			w.log.Warn("releasing: a higher epoch was applied elsewhere", "group", g.name, "epoch", held, "higher", r.Epoch)
			w.release(now, g, "higher-epoch", fmt.Sprintf("epoch %d was applied elsewhere", r.Epoch))
		}
	}
}

// checkRollback: a virtual machine set back in memory has sent less than others
// have seen of it. It must not go on.
func (w *worker) checkRollback(b *transport.Beat) {
	for _, s := range b.Seen {
		if s.Node == w.rid && s.Incarnation == w.inc && s.Sequence > w.sequence {
			w.fail(fmt.Errorf("%w: a member has seen our beat %d, the last we sent is %d", errRolledBack, s.Sequence, w.sequence))
		}
	}
}

// receiveNote takes a note, from a beat or from a datagram of its own.
func (w *worker) receiveNote(now int64, raw []byte) {
	if w.raft == nil {
		return
	}
	note, fresh, err := w.notes.add(now, raw, w.keyOf)
	if err != nil {
		w.limited.Warn("note refused", "error", err)
		return
	}
	if !fresh {
		return
	}
	w.log.Info("note", "kind", note.Kind.String(), "node", w.nameOf(note.Node), "incarnation", note.Incarnation, "group", note.Group, "epoch", note.Epoch)
	w.learn(now, note)
}

// learn lets everything that counts on what a note ends know of it.
func (w *worker) learn(now int64, n lease.Note) {
	w.voter.Note(now, n)
	if n.Kind == lease.Release {
		w.moves.released(now, n.Group, n.Epoch)
	}
	over := n.Kind == lease.Over
	w.tracker.Note(now, n.Node, n.Incarnation, over, n.Group, n.Epoch)
	w.placementNews = true
	if !over {
		return
	}
	if n.Node == w.rid && n.Incarnation == w.inc {
		w.fail(errDeclaredOver)
		return
	}
	if p := w.peerByID(n.Node); p != nil {
		w.recordEnd(now, p)
		p.end(n.Incarnation)
		w.voter.SetCloned(n.Node, false)
	}
	w.raft.Over(now, n.Node, n.Incarnation)
}

// takeOrders carries out what the leader of the present term asks for (A5).
func (w *worker) takeOrders(now int64, b *transport.Beat) {
	if !b.Flags.Has(transport.FlagLeaderClaim) || b.Term < w.raft.Status(now).Term {
		return
	}
	for _, o := range b.Orders {
		if o.To == w.rid {
			w.order(now, o)
		}
	}
}

func (w *worker) order(now int64, o transport.Order) {
	g := w.groupByID(o.Group)
	if g == nil || o.Epoch != g.applied {
		return // of the past, or of what was not applied here yet
	}
	switch o.Kind {
	case transport.OrderPrepare:
		if g.fault == "" && !w.stopping {
			g.cause = string(placement.CauseOperator)
			w.carryOut(now, g, g.tenure.Prepare(o.Epoch))
		}
	case transport.OrderRelease:
		if _, epoch := g.tenure.State(); epoch == o.Epoch {
			g.why, g.whyDetail = "switchover", ""
			w.carryOut(now, g, g.tenure.Yield(now))
		}
	case transport.OrderCancel:
		w.carryOut(now, g, g.tenure.Cancel())
	}
}

// followMoves measures moves by what holders report.
func (w *worker) followMoves(now int64, b *transport.Beat) {
	for _, r := range b.Groups {
		if r.State == transport.StateHolding && w.moves.held(now, r.Group, b.RaftID, r.StateEpoch) {
			w.moved(r.Group, r.StateEpoch)
		}
	}
}

// moved is told of the end of each move.
func (w *worker) moved(group uint16, epoch uint64) {
	cause := w.state.Assignment(group).Cause
	w.metrics.ObserveFailover(status.Cause(cause))
	w.log.Info("moved", "group", w.groupName(group), "epoch", epoch, "cause", cause, "took", w.moves.took[epoch])
}
