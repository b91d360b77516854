package node

import (
	"fmt"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/placement"
	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// raftTurn lets raft do what is due, sends what it says, and applies what it
// committed.
func (w *worker) raftTurn(now int64) {
	w.raft.Tick(now)
	for range 16 { // each round may make more work; the rest waits for the next turn
		out, err := w.raft.Process(now)
		if err != nil {
			w.fail(err)
			return
		}
		for _, m := range out.Messages {
			if p := w.peerByID(m.To); p != nil && p.id() == m.To {
				w.sendRaft(p, m.Data)
			} else {
				w.raft.Unreachable(m.To)
			}
		}
		w.shipSnapshots(now, out.Snapshots)
		if out.Restored != nil {
			w.restored(now, *out.Restored)
		}
		for _, e := range out.Committed {
			if w.exit != nil {
				return // nothing is built, and nobody answered, on a state that lacks something
			}
			w.apply(now, e)
			w.link.Beat() // a long log is no hang
		}
		if w.exit != nil {
			return
		}
		w.settle(now, out.Reads)
		if w.replayTo != 0 && !w.catchingUp() {
			w.caughtUp(now)
		}
		w.mayGrant(now)
		if w.exit != nil || len(out.Messages) == 0 && len(out.Committed) == 0 {
			return
		}
	}
}

// settle lets readers see what was applied, and answers those who waited for
// it: first the view, then the answers, so that whoever was told that a write
// is done finds it.
func (w *worker) settle(now int64, confirmed []quorum.Read) {
	if w.dataChanged {
		w.dataChanged = false
		w.publishView()
	}
	w.answerWrites(now)
	w.readsConfirmed(confirmed)
	w.answerReads()
}

// apply changes the state by one committed entry and tells all who depend on
// it.
func (w *worker) apply(now int64, e quorum.Entry) {
	var result storage.Result
	var err error
	if e.Conf != nil {
		result, err = w.state.ApplyConf(e.Index, e.Term, *e.Conf, e.Data)
		w.membershipChanged()
	} else {
		result, err = w.state.Apply(e.Index, e.Term, e.Data)
	}
	if err != nil {
		w.fail(fmt.Errorf("apply: %w", err))
		return
	}
	defer w.answered(now, e.Index, e.Term, result.Ignored)
	if result.Ignored != "" {
		w.log.Info("entry without effect", "index", e.Index, "reason", result.Ignored)
		return
	}
	if kind, ok := storage.KindOf(e.Data); !ok || !kind.Data() {
		w.placementNews = true
	}
	switch op := result.Command.Op.(type) {
	case storage.Batch:
		w.dataChanged = true
		w.writesApplied(now, e.Index, e.Term, result.Data)
	case storage.Expire:
		w.dataChanged = w.dataChanged || result.Expired > 0
		if result.Expired >= kv.MaxExpire {
			w.nextExpire = 0 // more are due
		}
	case storage.Checkpoint:
		w.checkpoint(now, e.Index)
	case storage.Assign:
		w.assigned(now, e.Index, op)
	case storage.Fence, storage.Unfence:
		w.log.Warn("fences changed", "index", e.Index, "command", fmt.Sprintf("%+v", op))
		w.fencesChanged()
		w.tracker.SetMembers(w.placementMembers())
	case storage.Maintenance, storage.RemoveMember:
		w.tracker.SetMembers(w.placementMembers())
	case storage.SetGroups:
		// Which address is in which group is part of what a request counts
		// in (G4): from here on nobody is granted who has not applied it.
		w.groupsSettled = 0
		w.countersChanged()
		w.groupsChanged(now)
	}
}

// votingChanged is G6, and more: a voter that has not yet applied again what it
// had in its log when it started knows less than it has said of itself, and
// grants nothing (G3, G4).
func (w *worker) votingChanged() {
	conf, _ := w.state.Conf()
	w.voter.SetVoting(conf.Voter(w.rid) && w.grantFrom == 0)
}

// mayGrant ends the wait of votingChanged. A log that was cut has an outcome
// for all that it lost.
func (w *worker) mayGrant(now int64) {
	if w.grantFrom != 0 && w.appliedIndex() >= min(w.grantFrom, w.raft.Status(now).LastIndex) {
		w.grantFrom = 0
		w.votingChanged()
	}
}

// catchingUp tells whether entries are applied that were committed before this
// start: their effects on this host are of the past.
func (w *worker) catchingUp() bool { return w.appliedIndex() < w.replayTo }

// caughtUp makes the effects of the replayed log those of its end.
func (w *worker) caughtUp(now int64) {
	w.replayTo = 0
	w.checkStranger()
	w.groupsChanged(now)
	w.fencesChanged()
}

// assigned is the application of an effective Assign: its index is the epoch.
func (w *worker) assigned(now int64, epoch uint64, a storage.Assign) {
	w.log.Info("assigned", "group", a.Group, "epoch", epoch, "node", w.nameOf(a.Node), "from", w.nameOf(a.From), "cause", a.Cause)
	for _, raw := range a.Notes {
		w.receiveNote(now, raw) // G5: the Assign embeds the notes that it rests on
	}
	w.voter.Applied(a.Group, epoch, a.Node, a.Incarnation)
	w.tracker.Applied(now, placement.Assignment{
		Group: a.Group, Epoch: epoch, Node: a.Node, Incarnation: a.Incarnation, Prev: a.Prev,
	})
	g := w.groupByID(a.Group)
	if g == nil {
		return
	}
	g.applied = epoch
	mine := a.Node == w.rid && a.Incarnation == w.inc // G7
	if mine {
		g.cause = a.Cause
	}
	w.moves.assigned(now, a, epoch)
	w.carryOut(now, g, g.tenure.Assigned(now, epoch, mine))
	w.beatNow = true
}

// membershipChanged brings everybody who counts members up to date.
func (w *worker) membershipChanged() {
	w.votingChanged()
	w.countersChanged()
	for _, m := range w.state.Members() {
		if p, ok := w.peers[m.Name]; ok {
			p.raftID = m.RaftID
		}
	}
	w.raft.SetMembers(w.state.Members())
	w.tracker.SetMembers(w.placementMembers())
	w.confChanged()
	w.checkStranger()
}

// checkStranger tells whether the configuration knows this node; what a log
// that is being replayed says of it is of the past.
func (w *worker) checkStranger() {
	conf, _ := w.state.Conf()
	switch {
	case w.catchingUp():
	case conf.Contains(w.rid):
		if w.stranger != "" {
			w.log.Info("this node is in the configuration", "voter", conf.Voter(w.rid))
		}
		w.stranger = ""
	case w.stranger == "":
		w.setStranger("its own log")
	}
}

// countersChanged tells voter and holder in which configuration they count
// (G4): that of the members, or that of the groups if it is later.
func (w *worker) countersChanged() {
	conf, index := w.state.Conf()
	index = max(index, w.state.GroupsIndex())
	w.voter.AppliedConfig(index)
	if len(conf.Outgoing) > 0 {
		w.holder.SetVoters(index, conf.Voters, conf.Outgoing)
	} else {
		w.holder.SetVoters(index, conf.Voters)
	}
}

// configIndex is the index of the configuration that was applied (G4).
func (w *worker) configIndex() uint64 {
	_, index := w.state.Conf()
	return max(index, w.state.GroupsIndex())
}

// reportedConfig is the index that beats name: of what was applied, and would
// be again after a start.
func (w *worker) reportedConfig() uint64 {
	if w.unstored > 0 {
		return w.storedConfig
	}
	return w.configIndex()
}

func (w *worker) appliedIndex() uint64 {
	if w.state == nil {
		return 0
	}
	index, _ := w.state.Applied()
	return index
}

// abstains is G6.
func (w *worker) abstains() bool {
	conf, _ := w.state.Conf()
	return !conf.Voter(w.rid)
}

// fencesChanged drops what fenced members send, except on the peer port and
// for resolving their peer addresses (DESIGN 4).
func (w *worker) fencesChanged() {
	if w.catchingUp() {
		return
	}
	was := w.fenced
	_, w.fenced = w.state.Fenced(w.rid)
	if w.fenced && !was {
		w.log.Error("this node was fenced: the others drop what it sends")
		for _, g := range w.groups {
			w.noteHook(g, hooks.Fenced, g.applied)
		}
	}
	if w.self.Role == config.Witness {
		return
	}
	var blocked []netfence.Blocked
	for _, id := range w.state.FencedNodes() {
		p := w.peerByID(id)
		if p == nil {
			continue // this node itself, or a member of the past
		}
		b := netfence.Blocked{Node: id, MACs: slices.Clone(p.macs)}
		for _, a := range p.member.Addresses {
			b.Addrs = append(b.Addrs, a.Addr())
			b.Peer = append(b.Peer, a.Addr())
			b.Ports = append(b.Ports, a.Port())
		}
		for _, a := range w.self.Addresses {
			b.Ports = append(b.Ports, a.Port())
		}
		blocked = append(blocked, b)
	}
	w.block(blocked)
	if len(blocked) == 0 {
		return
	}
	// The neighbour table may know more MACs than beats told; it is read
	// beside the loop.
	w.addressJob(func() {
		for i := range blocked {
			near, err := w.vips.Neighbours(blocked[i].Peer)
			if err != nil {
				w.log.Warn("neighbour table not read", "error", err)
			}
			for _, macs := range near {
				for _, mac := range macs {
					if !slices.Contains(blocked[i].MACs, mac) && len(blocked[i].MACs) < maxMACs {
						blocked[i].MACs = append(blocked[i].MACs, mac)
					}
				}
			}
		}
		w.mustPost(func(int64) {
			if len(w.state.FencedNodes()) > 0 {
				w.block(blocked)
			}
		})
	})
}

// maxMACs bounds the MACs that are dropped of one fenced member.
const maxMACs = 4

// block hands the fenced members to the gate, as many MACs of each as it takes.
func (w *worker) block(list []netfence.Blocked) {
	for i := range list {
		list[i].MACs = list[i].MACs[:min(len(list[i].MACs), maxMACs)]
	}
	if err := w.gate.Block(list); err != nil {
		w.fail(fmt.Errorf("block fenced members: %w", err))
	}
}
