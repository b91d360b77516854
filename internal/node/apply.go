package node

import (
	"fmt"
	"net/netip"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/placement"
	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
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
			if p := w.peerByID(m.To); p != nil {
				w.sendRaft(p, m.Data)
			}
		}
		for _, e := range out.Committed {
			w.apply(now, e)
		}
		if len(out.Messages) == 0 && len(out.Committed) == 0 {
			return
		}
	}
}

// apply changes the state by one committed entry and tells all who depend on
// it.
func (w *worker) apply(now int64, e quorum.Entry) {
	var result storage.Result
	var err error
	if e.Conf != nil {
		result, err = w.state.ApplyConf(e.Index, e.Term, *e.Conf, e.Data)
		w.membershipChanged(now)
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
	switch op := result.Command.Op.(type) {
	case storage.Assign:
		w.assigned(now, e.Index, op)
	case storage.Fence, storage.Unfence:
		w.log.Warn("fences changed", "index", e.Index, "command", fmt.Sprintf("%+v", op))
		w.fencesChanged(now)
		w.tracker.SetMembers(w.placementMembers())
	case storage.Maintenance:
		w.tracker.SetMembers(w.placementMembers())
	case storage.SetGroups:
		w.groupsChanged(now)
	}
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
func (w *worker) membershipChanged(int64) {
	conf, index := w.state.Conf()
	w.voter.AppliedConfig(index)
	w.voter.SetVoting(conf.Voter(w.rid))
	if len(conf.Outgoing) > 0 {
		w.holder.SetVoters(index, conf.Voters, conf.Outgoing)
	} else {
		w.holder.SetVoters(index, conf.Voters)
	}
	for _, m := range w.state.Members() {
		if p, ok := w.peers[m.Name]; ok {
			p.raftID = m.RaftID
		}
	}
	w.raft.SetMembers(w.state.Members())
	w.tracker.SetMembers(w.placementMembers())
}

// setForwarding makes the interfaces of scope "forwarding" those of the map.
func (w *worker) setForwarding(want map[int]uint16) error {
	for index := range w.forwarding {
		if _, ok := want[index]; !ok {
			if err := w.gate.ClearForwarding(index); err != nil {
				return err
			}
		}
	}
	for index, id := range want {
		if err := w.gate.SetForwarding(index, id); err != nil {
			return err
		}
	}
	w.forwarding = want
	return nil
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

// groupsChanged makes the groups of this node those of the committed state,
// with the interfaces of this node's file. A group that is held keeps its
// tenure; addresses that left it are removed, new ones are added.
func (w *worker) groupsChanged(now int64) {
	var next []*group
	for _, cg := range w.state.Groups() {
		g := w.groupByID(cg.ID)
		if g == nil {
			g = &group{id: cg.ID, name: cg.Name, applied: w.state.Assignment(cg.ID).Epoch}
		}
		next = append(next, g)
	}
	for _, g := range w.groups {
		if _, ok := w.state.Group(g.id); !ok {
			w.carryOut(now, g, g.tenure.Release(now))
			if g.tenure.Active() {
				w.leaving = append(w.leaving, g)
			}
		}
	}
	w.groups = next
	w.placeVIPs(now)
}

// placeVIPs gives the kernel gate the addresses first, then sets and clears
// them: an address is in the gate's table whenever it is on an interface.
func (w *worker) placeVIPs(now int64) {
	var table []netfence.VIP
	forward := map[int]uint16{}
	before := map[*group][]config.VIP{}
	for _, g := range w.groups {
		before[g] = g.vips
		g.vips = nil
		committed, _ := w.state.Group(g.id)
		for _, v := range committed.VIPs {
			scope := config.ScopeVIP
			if v.Scope == storage.ScopeForwarding {
				scope = config.ScopeForwarding
			}
			iface := w.interfaceFor(v.Prefix)
			g.vips = append(g.vips, config.VIP{Address: v.Prefix, Interface: iface, Group: g.name, Scope: scope})
			table = append(table, netfence.VIP{Addr: v.Prefix.Addr(), Group: g.id})
			if info, err := w.ifaces.get(iface); scope == config.ScopeForwarding && err == nil {
				forward[info.Index] = g.id
			}
		}
	}
	for _, g := range w.leaving {
		for _, v := range g.vips {
			table = append(table, netfence.VIP{Addr: v.Address.Addr(), Group: g.id})
		}
	}
	if w.self.Role == config.Witness {
		return // it has neither VIP interface nor gate to keep
	}
	removed := map[netip.Prefix]string{}
	for g, old := range before {
		for _, v := range old {
			if !hasVIP(g.vips, v) {
				removed[v.Address] = v.Interface
			}
		}
	}
	for prefix, iface := range removed {
		w.clearAddress(prefix, iface)
	}
	if err := w.gate.SetVIPs(table); err != nil {
		w.fail(fmt.Errorf("set gate addresses: %w", err))
		return
	}
	if err := w.setForwarding(forward); err != nil {
		w.fail(fmt.Errorf("set gate forwarding: %w", err))
		return
	}
	for _, g := range w.groups {
		if g.tenure.WantsAddress() {
			w.setAddresses(g, func(int64, error) {
				if g.schedule != nil {
					w.announce(g)
				}
			})
		}
	}
	w.macsChanged()
	w.testify()
	_ = now
}

func hasVIP(list []config.VIP, v config.VIP) bool {
	for _, o := range list {
		if o.Address == v.Address && o.Interface == v.Interface {
			return true
		}
	}
	return false
}

// interfaceFor is this node's own choice of interface for a committed address;
// "" when its file does not list it.
func (w *worker) interfaceFor(p netip.Prefix) string {
	for _, v := range w.cfg.VIPs {
		if v.Address == p {
			return v.Interface
		}
	}
	// Committed by a member whose file was changed before ours: its network
	// tells where it belongs.
	for _, v := range w.cfg.VIPs {
		if v.Address.Masked() == p.Masked() {
			return v.Interface
		}
	}
	return ""
}

// fencesChanged drops what fenced members send, except on the peer port and
// for resolving their peer addresses (DESIGN 4).
func (w *worker) fencesChanged(int64) {
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
		b := netfence.Blocked{Node: id, MACs: w.macsOf(p)}
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
	if err := w.gate.Block(blocked); err != nil {
		w.fail(fmt.Errorf("block fenced members: %w", err))
	}
}
