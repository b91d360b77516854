package placement

import (
	"slices"
	"time"
)

// A node that fails to take a group over is not tried again for a while (A2).
const (
	holdDownFirst = 10 * time.Second
	holdDownMax   = 5 * time.Minute
	// holdDownForget is how long it must have held for its failures to be
	// forgotten.
	holdDownForget = time.Minute
)

type holdDown struct {
	until int64
	step  time.Duration
}

// verdict is what is to be thought of the present holder.
type verdict struct {
	lost  bool
	cause Cause // when lost or unwanted
	// unwanted: it holds, and is to be replaced at once if somebody else is
	// eligible.
	unwanted bool
	// fault: it was heard all the time and never held: a failing target (A2).
	fault bool
}

// presence judges the holder of g's view (A1, A3).
func (t *Tracker) presence(now int64, g *groupState) verdict {
	v := g.view
	if v.Epoch == 0 {
		return verdict{lost: true, cause: CauseBoot}
	}
	m, isMember := t.member(v.Node)
	if !isMember {
		return verdict{lost: len(t.members) > 0, cause: CauseOperator}
	}
	p := t.peers[v.Node]
	pg := peerGroup{}
	if p != nil {
		// A worker that stops in order releases first and is over next: it
		// counts as released, whichever note came first.
		if r := p.released[v.Group]; r.incarnation == v.Incarnation && r.epoch >= v.Epoch {
			own := p.incarnation == v.Incarnation
			return verdict{lost: true, cause: CauseReleased,
				fault: own && p.group(v.Group).applied == v.Epoch && p.group(v.Group).held != v.Epoch}
		}
		if slices.Contains(p.ended, v.Incarnation) || p.incarnation != v.Incarnation && t.replaced(p, g) {
			return verdict{lost: true, cause: CauseWorkerDied}
		}
		if p.incarnation == v.Incarnation {
			pg = p.group(v.Group)
		}
	}
	if pg.declined == v.Epoch { // once declined, it never holds that epoch
		return verdict{lost: true, cause: CauseUnhealthy, fault: true}
	}
	if out := t.timers(now, g, p, pg); out.lost {
		return out
	}
	switch {
	case m.FencedByOperator:
		return verdict{unwanted: true, cause: CauseOperator}
	case p != nil && p.incarnation == v.Incarnation && t.stuck(now, p):
		return verdict{unwanted: true, cause: CauseUnhealthy}
	}
	return verdict{}
}

// replaced tells whether the incarnation that p reports came after the one
// that g's view names: the named one was heard before it, or it was heard
// after the assignment was known here.
func (t *Tracker) replaced(p *peer, g *groupState) bool {
	return p.incarnation != 0 && (slices.Contains(p.past, g.view.Incarnation) || p.heardAt > g.since)
}

// timers judges by what has not been reported for too long. P counts from the
// last advance of what was reported, not from the end of a grant (A1).
func (t *Tracker) timers(now int64, g *groupState, p *peer, pg peerGroup) verdict {
	v, promise := g.view, t.cfg.Promise
	heardAt := t.base
	if p != nil && p.incarnation == v.Incarnation {
		heardAt = p.heardAt
	}
	everHeld := pg.held == v.Epoch
	last := max(heardAt, g.since)
	if everHeld {
		last = pg.heldAt
	}
	silent := t.passed(now, max(heardAt, last), promise)
	switch {
	case silent:
		// Only we cannot hear it: left alone for 2 P, then moved (A3).
		if t.majorityReports(now, g) && !t.passed(now, last, 2*promise) {
			return verdict{}
		}
		return verdict{lost: true, cause: CauseLeaseExpired}
	case everHeld:
		// Heard, but no longer holding by its own word.
		return verdict{lost: t.passed(now, last, promise), cause: CauseLeaseExpired}
	case g.committedAt == 0:
		return verdict{} // cannot have been applied anywhere yet
	}
	// Heard and never holding: P and the pre-acquire limit after it was
	// applied there. A node that does not get to apply it has 2 P for that.
	start := g.committedAt + 2*int64(promise)
	if pg.applied >= v.Epoch {
		start = max(pg.appliedAt, g.since)
	}
	late := t.passed(now, start, promise+t.cfg.PreAcquireLimit)
	return verdict{lost: late, cause: CauseUnhealthy, fault: late}
}

// majorityReports tells whether voters that make a majority with the holder
// itself report grants to it that advanced within P (A3).
func (t *Tracker) majorityReports(now int64, g *groupState) bool {
	voters, granting := 0, 0
	for _, m := range t.members {
		if !m.Voter {
			continue
		}
		voters++
		if m.Node == g.view.Node {
			granting++ // nobody but itself could tell us
			continue
		}
		p, heard := t.heard(now, m.Node)
		if !heard || p.grants[g.id] == nil {
			continue
		}
		grant := p.grants[g.id]
		if grant.To == g.view.Node && grant.Epoch == g.view.Epoch && now-grant.at < int64(t.cfg.Promise) {
			granting++
		}
	}
	return granting >= voters/2+1
}

// countFault holds the target of g's view down if it failed, once for each
// epoch (A2).
func (t *Tracker) countFault(now int64, g *groupState) {
	if g.view.Epoch == 0 || g.faultEpoch == g.view.Epoch || !t.presence(now, g).fault {
		return
	}
	g.faultEpoch = g.view.Epoch
	g.fail(now, g.view.Node)
}

// fail holds a node down for 10 s, doubling to 5 min (A2).
func (g *groupState) fail(now int64, node uint64) {
	h := g.holdDown[node]
	if h == nil {
		h = &holdDown{step: holdDownFirst / 2}
		g.holdDown[node] = h
	}
	h.step = min(2*h.step, holdDownMax)
	h.until = now + int64(h.step)
}

// observeHolder forgets the failures of a node that has held for a while, and
// completes a switchover whose target holds.
func (g *groupState) observeHolder(now int64, node uint64, pg *peerGroup) {
	if pg.state != Holding || pg.stateEpoch != pg.held {
		return
	}
	if now-pg.heldFrom >= int64(holdDownForget) {
		delete(g.holdDown, node)
	}
	if g.sw.active() && g.sw.newEpoch != 0 && g.sw.newEpoch == pg.held && g.sw.target == node {
		g.sw.end(now, SwitchDone, "")
	}
}
