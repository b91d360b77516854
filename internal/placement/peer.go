package placement

import "slices"

// maxPast bounds the incarnations remembered of one node.
const maxPast = 16

// peer is what is known of one node. All but the two lists and the notes is
// of its present incarnation.
type peer struct {
	incarnation, sequence uint64 // 0 = never heard
	heardAt               int64  // when sequence last advanced
	health                uint8
	hearsUs               bool
	applied               uint64
	groups                map[uint16]*peerGroup
	grants                map[uint16]*peerGrant

	ended    []uint64 // incarnations that are over
	past     []uint64 // incarnations that another one replaced
	released map[uint16]releasedEpoch

	behindSince int64  // since when the leader's commit is above applied, which did not move (A3)
	catchUpTo   uint64 // applied index at which an automatic fence is lifted (A6)
	fenceAsked  int64  // when Fence or Unfence was proposed last, 0 = never
}

type peerGroup struct {
	state      State
	stateEpoch uint64
	applied    uint64 // epoch that the node has applied
	appliedAt  int64  // when that was first reported
	declined   uint64 // highest epoch that it declined
	held       uint64 // highest epoch that it reported to hold
	heldFrom   int64
	heldAt     int64 // when it last reported that
}

type peerGrant struct {
	Grant
	at int64 // when it last advanced
}

type releasedEpoch struct{ incarnation, epoch uint64 }

// Observe takes what a beat reports, the own reports included. Beats that do
// not advance the sequence of their incarnation say nothing new and are
// ignored, as are those of an incarnation that is over or was replaced.
func (t *Tracker) Observe(now int64, r Report) {
	if r.Node == 0 || r.Incarnation == 0 {
		return
	}
	p := t.peer(r.Node)
	if p == nil || !t.turn(now, p, r) {
		return
	}
	p.sequence, p.heardAt, p.health, p.hearsUs = r.Sequence, now, r.Health, r.HearsUs
	if r.Applied > p.applied {
		p.applied, p.behindSince = r.Applied, 0
	}
	p.observeGroups(now, r.Groups)
	p.observeGrants(now, r.Grants)
	for id, pg := range p.groups {
		if g := t.groups[id]; g != nil {
			g.observeHolder(now, r.Node, pg)
		}
	}
}

// turn tells whether r is news, and begins a new incarnation.
func (t *Tracker) turn(now int64, p *peer, r Report) bool {
	if slices.Contains(p.ended, r.Incarnation) {
		return false
	}
	if r.Incarnation == p.incarnation {
		return r.Sequence > p.sequence
	}
	if p.incarnation != 0 {
		// A late beat of a replaced worker, unless the present one is gone.
		live := !slices.Contains(p.ended, p.incarnation) && !t.passed(now, p.heardAt, t.cfg.Promise)
		if live && slices.Contains(p.past, r.Incarnation) {
			return false
		}
		p.past = remember(p.past, p.incarnation)
	}
	p.past = slices.DeleteFunc(p.past, func(i uint64) bool { return i == r.Incarnation })
	p.incarnation, p.applied, p.behindSince, p.catchUpTo = r.Incarnation, 0, 0, 0
	clear(p.groups)
	clear(p.grants)
	return true
}

func (p *peer) observeGroups(now int64, reports []GroupReport) {
	for _, pg := range p.groups {
		pg.state, pg.stateEpoch = Idle, 0 // unless reported again below
	}
	for _, r := range reports {
		pg := p.groups[r.Group]
		if pg == nil {
			pg = &peerGroup{}
			p.groups[r.Group] = pg
		}
		pg.state, pg.stateEpoch = r.State, r.StateEpoch
		if r.Epoch != pg.applied {
			pg.applied, pg.appliedAt = r.Epoch, now
		}
		switch r.State {
		case Declined:
			pg.declined = max(pg.declined, r.StateEpoch)
		case Holding:
			if r.StateEpoch > pg.held { // a worker never goes back to an epoch (G7)
				pg.held, pg.heldFrom = r.StateEpoch, now
			}
			if r.StateEpoch == pg.held {
				pg.heldAt = now
			}
		}
	}
}

func (p *peer) observeGrants(now int64, grants []Grant) {
	for _, r := range grants {
		old := p.grants[r.Group]
		if old != nil && old.To == r.To && old.Epoch == r.Epoch && r.Sequence <= old.Sequence {
			continue
		}
		p.grants[r.Group] = &peerGrant{Grant: r, at: now}
	}
}

// Note takes a verified note: over ends everything of an incarnation, else it
// is a release of one epoch of a group by that incarnation (G5).
func (t *Tracker) Note(_ int64, node, incarnation uint64, over bool, group uint16, epoch uint64) {
	if node == 0 || incarnation == 0 {
		return
	}
	p := t.peer(node)
	if p == nil {
		return
	}
	if over {
		if !slices.Contains(p.ended, incarnation) {
			p.ended = remember(p.ended, incarnation)
		}
		return
	}
	if epoch > p.released[group].epoch {
		p.released[group] = releasedEpoch{incarnation, epoch}
	}
}

// peer returns the peer of a node, nil when there are too many strangers.
func (t *Tracker) peer(node uint64) *peer {
	p := t.peers[node]
	_, isMember := t.member(node)
	if p == nil && (isMember || len(t.peers) < maxPeers) {
		p = &peer{
			groups:   make(map[uint16]*peerGroup),
			grants:   make(map[uint16]*peerGrant),
			released: make(map[uint16]releasedEpoch),
		}
		t.peers[node] = p
	}
	return p
}

// heard tells whether the present incarnation of the node was heard within P
// and is not over.
func (t *Tracker) heard(now int64, node uint64) (*peer, bool) {
	p := t.peers[node]
	if p == nil || p.incarnation == 0 || slices.Contains(p.ended, p.incarnation) {
		return p, false
	}
	return p, now-p.heardAt < int64(t.cfg.Promise)
}

// hearsBothWays tells whether the node is heard and hears us.
func (t *Tracker) hearsBothWays(now int64, node uint64) bool {
	p, heard := t.heard(now, node)
	return node == t.self || heard && p.hearsUs
}

// stuck tells whether the node's applied index has not moved for 2 P while
// the leader's commit has (A3).
func (t *Tracker) stuck(now int64, p *peer) bool {
	return p.behindSince != 0 && t.passed(now, p.behindSince, 2*t.cfg.Promise)
}

// group returns what the present incarnation reported of a group.
func (p *peer) group(id uint16) peerGroup {
	if p != nil && p.groups[id] != nil {
		return *p.groups[id]
	}
	return peerGroup{}
}

// declines tells whether the node declines to follow the holder of v.
func (p *peer) declines(v GroupView) bool {
	pg := p.group(v.Group)
	return pg.state == Declined && pg.stateEpoch == v.Epoch
}

// remember appends to a list of at most maxPast, dropping the oldest.
func remember(list []uint64, v uint64) []uint64 {
	if len(list) == maxPast {
		list = slices.Delete(list, 0, 1)
	}
	return append(list, v)
}
