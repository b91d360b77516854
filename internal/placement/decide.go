package placement

import (
	"cmp"
	"slices"
)

// Decide returns what the leader is to do now; nil on any other node. groups
// is the effective assignment of every group, commit the leader's commit
// index. It is called after each turn in which something arrived, and at
// least once a beat.
func (t *Tracker) Decide(now int64, groups []GroupView, commit uint64) []Action {
	if !t.leading {
		return nil
	}
	views := slices.Clone(groups)
	slices.SortFunc(views, func(a, b GroupView) int { return cmp.Compare(a.Group, b.Group) })
	for _, v := range views {
		t.setView(now, t.group(v.Group), v)
	}
	t.compareCommit(now, commit)
	actions, lifted := t.unfences(now, commit)
	actions = append(actions, t.fences(now)...)
	for _, v := range views {
		actions = append(actions, t.decideGroup(now, t.group(v.Group), lifted)...)
	}
	t.firstBatch = false
	return actions
}

// Notice says what Decide left undone in a group and why, for status; empty
// when all is as it should be.
func (t *Tracker) Notice(group uint16) string {
	if g := t.groups[group]; g != nil {
		return g.notice
	}
	return ""
}

// compareCommit notes since when a node's applied index stands still below
// the commit index (A3).
func (t *Tracker) compareCommit(now int64, commit uint64) {
	for _, p := range t.peers {
		switch {
		case p.applied >= commit:
			p.behindSince = 0
		case p.behindSince == 0:
			p.behindSince = now
		}
	}
}

func (t *Tracker) decideGroup(now int64, g *groupState, lifted []uint64) []Action {
	g.notice = ""
	v := t.presence(now, g)
	if v.lost {
		t.countFault(now, g)
		if g.lostAt == 0 {
			g.lostAt = now
		}
		return t.reassign(now, g, v, lifted)
	}
	g.lostAt = 0
	if v.unwanted {
		if others := t.candidates(now, g, g.view.Node, lifted); len(others) > 0 {
			return []Action{g.assign(others[0], v.cause)}
		}
		g.notice = "the holder should be replaced, but no other member is eligible"
	}
	if g.view.Pending {
		return nil
	}
	if g.sw.active() {
		return t.driveSwitch(now, g)
	}
	if !t.holds(now, g) {
		return nil
	}
	if !t.beginUnasked(now, g) {
		return nil
	}
	return t.driveSwitch(now, g)
}

// reassign picks the next holder of a group that was lost (A1).
func (t *Tracker) reassign(now int64, g *groupState, v verdict, lifted []uint64) []Action {
	next, ok := t.next(now, g, lifted)
	if !ok {
		g.notice = "nobody holds the group and no member is eligible"
		return nil
	}
	s := g.sw
	if s.active() && s.newEpoch == 0 && v.cause == CauseReleased && s.stage == SwitchReady && next.Node == s.target {
		v.cause, s.stage = s.cause, SwitchReleased
	} else if s.active() && s.stage == SwitchReleased && next.Node == s.target {
		v.cause = s.cause // proposed before, not in the log yet
	}
	return []Action{g.assign(next, v.cause)}
}

// next is the member that takes a lost group over: one that is ready for it,
// else the best; the worker that just gave it up only if there is no other,
// and then not before P has passed, so that it is not asked in a tight loop.
func (t *Tracker) next(now int64, g *groupState, lifted []uint64) (Candidate, bool) {
	all := t.candidates(now, g, 0, lifted)
	givenUp := func(c Candidate) bool {
		return c.Node == g.view.Node && c.Incarnation == g.view.Incarnation
	}
	for _, c := range all {
		if t.isReady(g, c.Node) && !givenUp(c) {
			return c, true
		}
	}
	for _, c := range all {
		if !givenUp(c) {
			return c, true
		}
	}
	if len(all) > 0 && t.passed(now, g.lostAt, t.cfg.Promise) {
		return all[0], true
	}
	return Candidate{}, false
}

func (g *groupState) assign(to Candidate, cause Cause) Action {
	return Action{
		Kind: Assign, Group: g.id, Node: to.Node, Incarnation: to.Incarnation,
		Prev: g.view.Epoch, From: g.view.Node, Cause: cause,
	}
}

// beginUnasked begins a switchover that nobody asked for: away from a holder
// in maintenance, to a healthier member (A4), or to one of higher priority
// where that is configured (A7).
func (t *Tracker) beginUnasked(now int64, g *groupState) bool {
	holder, _ := t.member(g.view.Node)
	others := t.candidates(now, g, holder.Node, nil)
	leave := holder.Maintenance || !holder.Gateway || !holder.Voter
	if leave && len(others) == 0 {
		g.notice = "the holder is in maintenance, but no other member is eligible"
		if !holder.Maintenance {
			g.notice = "the holder is no voting gateway, but no other member is eligible"
		}
	}
	if len(others) == 0 || now < g.autoAfter {
		g.better = 0
		return false
	}
	best, health := others[0], t.peers[holder.Node].health
	switch {
	case leave:
		t.begin(now, g, best, CauseOperator)
	case best.Health < health: // equal means stay
		t.begin(now, g, best, CauseUnhealthy)
	case t.preempts(now, g, best, holder, health):
		t.begin(now, g, best, CausePreempted)
	default:
		return false
	}
	return true
}

// preempts tells whether the best other member has been the better one for
// the delay, without a gap (A7). A name alone moves nothing.
func (t *Tracker) preempts(now int64, g *groupState, best Candidate, holder Member, health uint8) bool {
	if !t.cfg.Preempt || best.Health > health || best.Priority <= holder.Priority {
		g.better = 0
		return false
	}
	if g.better != best.Node {
		g.better, g.betterSince = best.Node, now
	}
	return t.passed(now, g.betterSince, t.cfg.PreemptDelay)
}
