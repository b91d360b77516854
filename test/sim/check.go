package sim

import (
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

// ending is why a gate let nothing through any more.
type ending uint8

const (
	closedByHand ending = iota + 1
	endedByDeadline
	endedByConflict
	endedByFreeze
	endedByPower
)

func (e ending) String() string {
	return [...]string{"?", "by hand", "by its deadline", "by a conflict", "by a freeze", "by loss of power"}[e]
}

// opening is a time in which a host's gate let a group's traffic through.
type opening struct {
	h        *host
	group    uint16
	from, to int64 // true; to is 0 while it is open
	why      ending
	frozen   bool   // by a request from before the machine was frozen
	by       uint64 // incarnation of the worker that opened it
}

// handMargin is how long frames that passed before a close by hand are still on
// their way (G5: the note waits for a millisecond, on a clock that may be fast).
const handMargin = int64(900 * time.Microsecond)

// checks watch the whole run on true time. A violation ends it.
type checks struct {
	w     *world
	open  map[uint16][]*opening       // those that are open
	last  map[uint16]map[int]*opening // the last that ended, by host
	away  map[uint16]int64            // since when nobody holds the group, 0 = somebody does
	moves map[uint16]int              // changes of the holder
	held  map[uint16]*host            // who held it last
	gaps  map[uint16][]gap            // ends of times without holder
	seen  map[*process]*seen          // what was checked of a worker
	books map[[16]byte]*book          // by cluster
	terms map[termKey]uint64          // leader of a term
	votes map[voteKey]uint64          // vote of a raft id in a term
	said  map[int]*confirmed          // by host
	vows  map[vowKey]*vow             // promises of voters (I5)
	overs map[incarnationKey]int64    // notes that exist, with the true time of the first
	ends  map[lease.Note]int64
	hosts map[int]*hostState

	frozenDoubles  int
	frozenLongest  int64
	entriesChecked uint64
	hashesChecked  uint64
}

// gap is a time in which nobody held a group.
type gap struct {
	group    uint16
	from, to int64
	was, is  *host
}

type hostState struct {
	raftID  uint64
	cluster [16]byte
	founded bool
	damaged bool // a fault has damaged or taken its data since it started last
}

type incarnationKey struct{ node, incarnation uint64 }

func newChecks(w *world) *checks {
	c := &checks{
		w: w, open: map[uint16][]*opening{}, last: map[uint16]map[int]*opening{}, away: map[uint16]int64{}, moves: map[uint16]int{},
		held: map[uint16]*host{}, gaps: map[uint16][]gap{}, seen: map[*process]*seen{}, books: map[[16]byte]*book{},
		terms: map[termKey]uint64{}, votes: map[voteKey]uint64{}, said: map[int]*confirmed{}, vows: map[vowKey]*vow{},
		overs: map[incarnationKey]int64{}, ends: map[lease.Note]int64{}, hosts: map[int]*hostState{},
	}
	for _, h := range w.hosts {
		c.hosts[h.i] = &hostState{}
	}
	return c
}

// opened is told of every gate that begins to let a group through: I1.
func (c *checks) opened(h *host, group uint16, frozen bool) *opening {
	w := c.w
	o := &opening{h: h, group: group, from: w.now, frozen: frozen, by: h.gate.value(group).incarnation}
	for _, other := range c.open[group] {
		if !frozen && !other.frozen {
			w.violate("I1", "group %d: %s opens while %s is open since %s", group, h.name, other.h.name, stamp(other.from))
		}
	}
	for _, e := range c.last[group] {
		if w.opt.Mode == beyond {
			break // what is queued counts for nothing there
		}
		margin := int64(0)
		switch e.why {
		case closedByHand:
			margin = handMargin
		case endedByDeadline:
			margin = int64(w.timing.Epsilon)
			if c.noteEnds(e) {
				margin = handMargin // G5: it left a millisecond after the close at the earliest
			}
		}
		if e.h != h && !frozen && !e.frozen && w.now < e.to+margin {
			w.violate("I1", "group %d: %s opens %v after %s was closed %v, less than %v", group, h.name,
				time.Duration(w.now-e.to), e.h.name, e.why, time.Duration(margin))
		}
	}
	c.open[group] = append(c.open[group], o)
	if since := c.away[group]; since != 0 || c.held[group] == nil {
		if c.held[group] != nil {
			c.gaps[group] = append(c.gaps[group], gap{group, since, w.now, c.held[group], h})
			if w.active == 0 {
				w.result.CalmGap = max(w.result.CalmGap, time.Duration(w.now-max(since, w.calm.since)))
				w.checkCalmGap(group)
			}
		}
		c.away[group] = 0
	}
	if c.held[group] != h {
		w.note("%s opens group %d (frozen %v)", h.name, group, frozen)
		if c.held[group] != nil {
			c.moves[group]++
		}
		c.held[group] = h
	}
	return o
}

// noteEnds tells whether a note ends what a gate was open for.
func (c *checks) noteEnds(o *opening) bool {
	for key := range c.overs {
		if key.incarnation == o.by {
			return true
		}
	}
	for n := range c.ends {
		if n.Incarnation == o.by && n.Group == o.group {
			return true
		}
	}
	return false
}

// closed is told of every gate that lets nothing through any more.
func (c *checks) closed(o *opening, why ending) {
	w := c.w
	o.to, o.why = w.now, why
	list := c.open[o.group]
	rest := list[:0]
	for _, p := range list {
		if p == o {
			continue
		}
		rest = append(rest, p)
		if o.frozen || p.frozen { // PROTOCOL 7
			length := w.now - max(o.from, p.from)
			c.frozenDoubles++
			c.frozenLongest = max(c.frozenLongest, length)
			if longest := int64(w.timing.Lease) * 10 / 9; length > longest {
				w.violate("I1", "group %d: %s and %s both open for %v after a freeze, more than a lease", o.group, o.h.name, p.h.name, time.Duration(length))
			}
		}
	}
	c.open[o.group] = rest
	if c.last[o.group] == nil {
		c.last[o.group] = map[int]*opening{}
	}
	c.last[o.group][o.h.i] = o
	if len(rest) == 0 {
		c.away[o.group] = max(w.now, 1)
	}
	if why != closedByHand || o.h.gate.groups[o.group].deadline == 0 {
		w.note("%s closes group %d %v", o.h.name, o.group, why)
	}
}

// noteLeaves is told of every note that leaves a host: G5, the gate was closed
// for a millisecond.
func (c *checks) noteLeaves(h *host, raw []byte) {
	n, ok := noteOf(raw)
	if !ok {
		c.w.violate("G5", "%s sends %x, which is no note", h.name, raw)
		return
	}
	now := c.w.now
	first := false
	if n.Kind == lease.Over {
		key := incarnationKey{n.Node, n.Incarnation}
		if _, known := c.overs[key]; !known {
			c.overs[key], first = now, true
		}
	} else if _, known := c.ends[n]; !known {
		c.ends[n], first = now, true
	}
	if !first || !h.gateway || c.w.opt.Mode == beyond {
		return
	}
	c.w.note("%s note %v %x group %d epoch %d", h.name, n.Kind, n.Incarnation>>48, n.Group, n.Epoch)
	for id, v := range h.gate.groups {
		if n.Kind == lease.Release && id != n.Group || v.incarnation != n.Incarnation {
			continue
		}
		if v.open != nil {
			c.w.violate("G5", "%s sends note %v of group %d epoch %d while its gate is open", h.name, n.Kind, id, n.Epoch)
		}
	}
	for _, last := range c.last {
		for _, o := range last {
			if o.h == h && (n.Kind == lease.Over || o.group == n.Group) && o.why == closedByHand && now-o.to < handMargin {
				c.w.violate("G5", "%s sends note %v of group %d %v after its gate was closed", h.name, n.Kind, o.group, time.Duration(now-o.to))
			}
		}
	}
}

// holders counts the hosts whose gate is open for a group.
func (c *checks) holders(group uint16) int { return len(c.open[group]) }

// vow is the newest promise of one voter for one group (I5).
type vow struct {
	to    incarnationKey
	epoch uint64
	until int64 // local, of boot
	boot  int
	at    int64 // true time of the request that moved it last
}

type vowKey struct {
	host  int
	group uint16
}

// promises checks that a voter promises a group to one worker at a time, over
// restarts too: a promise ends with its time or with a note.
func (c *checks) promises(p *process, grants []lease.Standing) {
	h := p.h
	for _, g := range grants {
		key := vowKey{h.i, g.Group}
		to := incarnationKey{g.Node, g.Incarnation}
		v := c.vows[key]
		if v != nil && v.to == to {
			if g.Until > v.until || v.boot != h.boot {
				v.until, v.boot, v.at, v.epoch = g.Until, h.boot, p.turnFrom, g.Epoch
			}
			continue
		}
		if v != nil {
			c.superseded(h, v, g, h.clk.local(c.w.now))
		}
		c.vows[key] = &vow{to: to, epoch: g.Epoch, until: g.Until, boot: h.boot, at: p.turnFrom}
	}
}

func (c *checks) superseded(h *host, v *vow, g lease.Standing, local int64) {
	if c.w.opt.Mode == beyond {
		return // there a promise is worth nothing
	}
	if _, over := c.overs[v.to]; over {
		return
	}
	for n := range c.ends {
		if n.Node == v.to.node && n.Incarnation == v.to.incarnation && n.Group == g.Group && n.Epoch >= v.epoch {
			return
		}
	}
	// The holder counts on a promise for P on the fastest clock that is allowed.
	least := v.at + int64(c.w.timing.Promise)*10/11 - int64(time.Millisecond)
	if c.w.now < least || v.boot == h.boot && local < v.until {
		c.w.violate("I5", "%s grants group %d epoch %d to %x/%x, %v after its promise of epoch %d to %x/%x, which no note has ended",
			h.name, g.Group, g.Epoch, g.Node>>48, g.Incarnation>>48, time.Duration(c.w.now-v.at), v.epoch, v.to.node>>48, v.to.incarnation>>48)
	}
}

// stamp writes a true time.
func stamp(t int64) string { return fmt.Sprintf("%.6f s", float64(t)/1e9) }
