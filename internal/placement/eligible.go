package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Candidate is a member as a possible holder of a group.
type Candidate struct {
	Member
	Incarnation uint64 // 0 = never heard
	Health      uint8
	WhyNot      string // empty = eligible
}

// Eligible lists all members for a group: first those that may hold it, best
// first (health, then priority, then name), then the others by name with the
// reason why not.
func (t *Tracker) Eligible(now int64, group uint16) []Candidate {
	g := t.groups[group]
	if g == nil {
		g = newGroup(group) // asking makes no state
	}
	return t.rank(now, g, nil)
}

// rank is Eligible with the fences lifted that this batch lifts.
func (t *Tracker) rank(now int64, g *groupState, lifted []uint64) []Candidate {
	out := make([]Candidate, 0, len(t.members))
	for _, m := range t.members {
		c := Candidate{Member: m, WhyNot: t.whyNot(now, g, m, slices.Contains(lifted, m.Node))}
		if p := t.peers[m.Node]; p != nil {
			c.Incarnation, c.Health = p.incarnation, p.health
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, compareCandidates)
	return out
}

// compareCandidates orders by A4's rank: equal health is decided by priority,
// equal priority by name, so that all nodes agree.
func compareCandidates(a, b Candidate) int {
	if eligible := a.WhyNot == ""; eligible != (b.WhyNot == "") {
		if eligible {
			return -1
		}
		return 1
	}
	if a.WhyNot != "" {
		return cmp.Compare(a.Name, b.Name)
	}
	return cmp.Or(
		cmp.Compare(a.Health, b.Health),
		cmp.Compare(b.Priority, a.Priority),
		cmp.Compare(a.Name, b.Name),
	)
}

// candidates lists the members that may hold g, best first, without one node.
func (t *Tracker) candidates(now int64, g *groupState, without uint64, lifted []uint64) []Candidate {
	return slices.DeleteFunc(t.rank(now, g, lifted), func(c Candidate) bool {
		return c.WhyNot != "" || c.Node == without
	})
}

// whyNot says why a member may not hold g, or nothing.
func (t *Tracker) whyNot(now int64, g *groupState, m Member, lifted bool) string {
	p, heard := t.heard(now, m.Node)
	switch {
	case !m.Gateway:
		return "is a witness"
	case !m.Voter:
		return "is not a voter yet"
	case m.Maintenance:
		return "is in maintenance"
	case m.FencedByOperator:
		return "is fenced by an operator"
	case m.Fenced && !lifted:
		return "is fenced"
	case p == nil || p.incarnation == 0:
		return "was not heard yet"
	case slices.Contains(p.ended, p.incarnation):
		return "has lost its worker"
	case !heard:
		return "is not heard"
	case !p.hearsUs && m.Node != t.self:
		return "does not hear this node"
	case p.health == HealthCannotHold:
		return "cannot hold in its present health"
	case t.stuck(now, p):
		return "does not apply the log"
	case p.declines(g.view):
		return "declined to take over"
	}
	if h := g.holdDown[m.Node]; h != nil && now < h.until {
		return fmt.Sprintf("failed to take over, held down for %v more",
			time.Duration(h.until-now).Round(time.Second))
	}
	return ""
}
