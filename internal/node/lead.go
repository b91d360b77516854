package node

import (
	"slices"

	"github.com/holdfast-ha/holdfast/internal/placement"
	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/storage"
)

// beatInfo is what elections need of a beat.
func beatInfo(b *transport.Beat) quorum.BeatInfo {
	info := quorum.BeatInfo{
		Node: b.RaftID, Incarnation: b.Incarnation, Term: b.Term,
		LeaderClaim: b.Flags.Has(transport.FlagLeaderClaim),
	}
	for _, s := range b.Seen {
		info.Seen = append(info.Seen, quorum.SeenEntry{Node: s.Node, Incarnation: s.Incarnation, Sequence: s.Sequence})
	}
	return info
}

// placementReport is what placement needs of a beat.
func (w *worker) placementReport(b *transport.Beat) placement.Report {
	r := placement.Report{
		Node: b.RaftID, Incarnation: b.Incarnation, Sequence: b.Sequence, Applied: b.Applied, Health: b.Health,
	}
	for _, s := range b.Seen {
		// Heard within the last ten beats that we sent: it hears us.
		if s.Node == w.rid && s.Incarnation == w.inc && s.Sequence+w.sequenceSlack() >= w.sequence {
			r.HearsUs = true
		}
	}
	for _, g := range b.Groups {
		r.Groups = append(r.Groups, placement.GroupReport{
			Group: g.Group, Epoch: g.Epoch, State: placement.State(g.State), StateEpoch: g.StateEpoch,
		})
	}
	for _, a := range b.Acks {
		r.Grants = append(r.Grants, placement.Grant{Group: a.Group, To: a.To, Epoch: a.Epoch, Sequence: a.Sequence})
	}
	return r
}

// sequenceSlack is how many of our sequences a promise may span: a beat and an
// answer to each peer in every beat.
func (w *worker) sequenceSlack() uint64 {
	return uint64(w.timing.Promise/w.timing.Beat) * uint64(1+len(w.peers))
}

// observeSelf lets placement see this node as it sees the others.
func (w *worker) observeSelf(now int64, b *transport.Beat) {
	r := w.placementReport(b)
	r.HearsUs = true
	w.tracker.Observe(now, r)
	w.placementNews = true
	w.followMoves(now, b)
}

// views are the assignments in force: applied, overlaid by what stands in the
// log up to its last index (E5).
func (w *worker) views(now int64) []placement.GroupView {
	logged := w.state
	if s := w.raft.Status(now); s.LastIndex > s.Handed {
		logged = w.raft.Overlay(w.state)
	}
	var out []placement.GroupView
	for _, g := range w.groups {
		a := logged.Assignment(g.id)
		out = append(out, placement.GroupView{
			Group: g.id, Epoch: a.Epoch, Node: a.Node, Incarnation: a.Incarnation,
			Pending: a.Epoch != w.state.Assignment(g.id).Epoch,
		})
	}
	return out
}

// leads tells whether this node is the raft leader.
func (w *worker) leads(int64) bool { return w.raft.Leads() }

// lead does what only the leader does: it asks placement and carries out the
// answer.
func (w *worker) lead(now int64) {
	w.tracker.Leading(now, w.leads(now))
	w.orders = nil
	if !w.leads(now) {
		w.groupsSettled = 0
		for _, r := range w.regroups {
			r.done(now, reply{Error: errLeadershipMoved})
		}
		w.regroups = nil
		w.comparing = nil
		w.loseMemberAsk(now)
		return
	}
	w.place(now)
	w.switchTurn(now)
	w.settleTurn(now)
	w.membersTurn(now)
	w.expireTurn(now)
	w.checkpointTurn(now)
}

// placeEvery is how often placement is asked when it has heard nothing new, in
// parts of a beat: writes make the loop turn thousands of times a second.
const placeEvery = 5

// place asks placement and proposes what it answers.
func (w *worker) place(now int64) {
	if !w.placementNews && now < w.nextPlace {
		return
	}
	w.placementNews, w.nextPlace = false, now+int64(w.timing.Beat)/placeEvery
	for _, cmd := range w.decide(now) {
		data, err := cmd.Encode()
		if err == nil {
			err = w.raft.Propose(now, data)
		}
		if err != nil {
			w.limited.Warn("proposal not taken", "error", err)
		}
	}
}

// proposeCommand proposes what the leader does by itself; nobody waits for it
// by its index, but for writes, which look it up.
func (w *worker) proposeCommand(now int64, op storage.Op) error {
	data, err := storage.Command{At: w.host.Wall().UnixNano(), Op: op}.Encode()
	if err != nil {
		return err
	}
	return w.raft.Propose(now, data)
}

// decide turns placement's actions into commands, and into orders for the next
// beat. A new leader calls it from within the turn that makes it one (E5).
func (w *worker) decide(now int64) []storage.Command {
	var out []storage.Command
	at := w.host.Wall().UnixNano()
	for _, a := range w.tracker.Decide(now, w.views(now), w.raft.Status(now).Commit) {
		w.log.Info("placement", "action", a.Kind.String(), "node", w.nameOf(a.Node), "group", a.Group, "epoch", a.Epoch, "cause", a.Cause)
		switch a.Kind {
		case placement.Assign:
			out = append(out, storage.Command{At: at, Actor: w.switchActor(a), Op: storage.Assign{
				Group: a.Group, Node: a.Node, Incarnation: a.Incarnation, Prev: a.Prev, Cause: string(a.Cause), From: a.From,
				Notes: w.notes.about(now, a.From, w.incarnationOf(a), a.Group, a.Prev),
			}})
		case placement.Fence:
			out = append(out, storage.Command{At: at, Op: storage.Fence{Node: a.Node}})
		case placement.Unfence:
			out = append(out, storage.Command{At: at, Op: storage.Unfence{Node: a.Node}})
		case placement.Prepare:
			w.giveOrder(now, transport.Order{To: a.Node, Group: a.Group, Epoch: a.Epoch, Kind: transport.OrderPrepare})
		case placement.AskRelease:
			w.giveOrder(now, transport.Order{To: a.Node, Group: a.Group, Epoch: a.Epoch, Kind: transport.OrderRelease})
		case placement.Cancel:
			w.giveOrder(now, transport.Order{To: a.Node, Group: a.Group, Epoch: a.Epoch, Kind: transport.OrderCancel})
		}
	}
	return out
}

// switchActor names who asked for the switchover that an Assign ends.
func (w *worker) switchActor(a placement.Action) string {
	for _, s := range w.switches {
		if s.group == a.Group && a.Cause == placement.CauseOperator {
			return s.actor
		}
	}
	return ""
}

// incarnationOf is the worker that an Assign replaces.
func (w *worker) incarnationOf(a placement.Action) uint64 {
	for _, v := range w.state.History() {
		if v.Group == a.Group && v.Epoch == a.Prev {
			return v.Incarnation
		}
	}
	return 0
}

// giveOrder puts an order into the beat that goes out at once, or carries it
// out when it is for this node. Placement repeats orders until they are
// followed.
func (w *worker) giveOrder(now int64, o transport.Order) {
	if o.To == w.rid {
		w.order(now, o)
		return
	}
	w.orders = append(w.orders, o)
	w.beatNow = true
}

// placementMembers is the committed membership in placement's words.
func (w *worker) placementMembers() []placement.Member {
	conf, _ := w.state.Conf()
	var out []placement.Member
	for _, m := range w.state.Members() {
		fence, fenced := w.state.Fenced(m.RaftID)
		_, maintained := w.state.Maintained(m.RaftID)
		out = append(out, placement.Member{
			Name: m.Name, Node: m.RaftID, Gateway: m.Role == storage.Gateway, Priority: int(m.Priority),
			Maintenance: maintained, Fenced: fenced, FencedByOperator: fence.Operator, Voter: slices.Contains(conf.Voters, m.RaftID),
		})
	}
	return out
}
