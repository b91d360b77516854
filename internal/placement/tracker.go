package placement

import (
	"cmp"
	"slices"
	"time"
)

// maxPeers bounds the nodes that are followed before the membership names
// them.
const maxPeers = 64

// Tracker follows all members and groups.
type Tracker struct {
	self    uint64
	cfg     Config
	members []Member // by name
	peers   map[uint64]*peer
	groups  map[uint16]*groupState

	// base is the start or the last stall: silence is never counted from
	// before it (E7).
	base         int64
	leading      bool
	leadingSince int64
	// memberSince is when the leader first found a member among the others: a
	// new one was not silent before.
	memberSince map[uint64]int64
	firstBatch  bool // leading, and Decide was not asked yet (A6)
}

// groupState is what is known of one group.
type groupState struct {
	id      uint16
	applied Assignment // the last one applied here
	// view is the effective assignment: the applied one, or on the leader the
	// pending one that Decide was shown.
	view        GroupView
	since       int64 // when view.Epoch was first seen here
	committedAt int64 // when it was first seen not pending; 0 = it is
	lostAt      int64 // when it was first found lost, 0 = it is not

	holdDown   map[uint64]*holdDown // by node (A2)
	faultEpoch uint64               // the last epoch that was counted there

	better      uint64 // who would preempt, and since when (A7)
	betterSince int64
	autoAfter   int64 // no unasked switchover before

	sw     *switchover // the last one, active or not
	notice string
}

// NewTracker makes the tracker of node self. Silence counts from now on.
func NewTracker(self uint64, cfg Config, now int64) *Tracker {
	return &Tracker{
		self:  self,
		cfg:   cfg,
		base:  now,
		peers: make(map[uint64]*peer),

		memberSince: make(map[uint64]int64),
		groups:      make(map[uint16]*groupState),
	}
}

// SetConfig replaces times and choices.
func (t *Tracker) SetConfig(cfg Config) { t.cfg = cfg }

// SetMembers replaces the membership. What was known of nodes outside it is
// forgotten.
func (t *Tracker) SetMembers(members []Member) {
	t.members = slices.Clone(members)
	slices.SortFunc(t.members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Node, b.Node))
	})
	for node := range t.peers {
		if _, ok := t.member(node); !ok {
			delete(t.peers, node)
		}
	}
	for node := range t.memberSince {
		if _, ok := t.member(node); !ok {
			delete(t.memberSince, node)
		}
	}
}

// Leading tells whether this node leads. Only a leader gets actions, and it
// counts silence before a fence from here at the earliest.
func (t *Tracker) Leading(now int64, leading bool) {
	if leading == t.leading {
		return
	}
	t.leading, t.leadingSince, t.firstBatch = leading, now, leading
	for _, p := range t.peers {
		p.behindSince, p.catchUpTo, p.fenceAsked = 0, 0, 0 // all from a term that is over
	}
	for _, g := range t.groups {
		g.better = 0
		if leading {
			continue
		}
		if g.sw.active() && g.sw.newEpoch == 0 {
			g.sw.end(now, SwitchFailed, "leadership moved to another member")
		}
		if g.view.Pending { // it may never be committed
			t.setView(now, g, g.appliedView())
		}
	}
}

// Stalled restarts all miss timers (E7): this node did not run, or has only
// now drained its sockets.
func (t *Tracker) Stalled(now int64) { t.base = max(t.base, now) }

// Applied takes an effective Assign that was applied here.
func (t *Tracker) Applied(now int64, a Assignment) {
	g := t.group(a.Group)
	if a.Epoch <= g.applied.Epoch {
		return
	}
	g.applied = a
	if t.leading && g.view.Pending && g.view.Epoch > a.Epoch {
		return // Decide was shown a later one
	}
	t.setView(now, g, g.appliedView())
}

func (g *groupState) appliedView() GroupView {
	a := g.applied
	return GroupView{Group: g.id, Epoch: a.Epoch, Node: a.Node, Incarnation: a.Incarnation}
}

// setView makes v the effective assignment of g.
func (t *Tracker) setView(now int64, g *groupState, v GroupView) {
	if v.Epoch != g.view.Epoch {
		t.countFault(now, g)
		g.followSwitch(now, v)
		g.since, g.committedAt, g.lostAt, g.better = now, 0, 0, 0
	}
	if !v.Pending && g.committedAt == 0 {
		g.committedAt = now
	}
	g.view = v
}

func (t *Tracker) group(id uint16) *groupState {
	g := t.groups[id]
	if g == nil {
		g = newGroup(id)
		t.groups[id] = g
	}
	return g
}

func newGroup(id uint16) *groupState {
	return &groupState{id: id, view: GroupView{Group: id}, holdDown: make(map[uint64]*holdDown)}
}

func (t *Tracker) member(node uint64) (Member, bool) {
	i := slices.IndexFunc(t.members, func(m Member) bool { return m.Node == node })
	if i < 0 {
		return Member{}, false
	}
	return t.members[i], true
}

// passed tells whether d has gone by since at, counting from the last stall
// at the earliest (E7).
func (t *Tracker) passed(now, at int64, d time.Duration) bool {
	return now-max(at, t.base) >= int64(d)
}
