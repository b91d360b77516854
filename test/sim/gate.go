package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/netfence"
)

// gate is the kernel's gate of one host: values that outlive workers and
// guards, and a rule that opens and closes by itself as the host's clock goes.
type gate struct {
	h       *host
	number  uint64 // the guard's
	groups  map[uint16]*gateValue
	members map[[6]byte]uint64
	told    map[toldKey]int64 // local time of the last event of a kind
}

type toldKey struct {
	kind  netfence.EventKind
	group uint16
}

// gateValue is the value of one group, and what the checker knows of it.
type gateValue struct {
	deadline, sent, conflict int64 // local
	incarnation              uint64
	open                     *opening // nil while closed
	alarm                    int64    // true time of the next look at the deadline
}

func newGate(h *host) *gate {
	return &gate{h: h, groups: map[uint16]*gateValue{}, told: map[toldKey]int64{}}
}

func (g *gate) value(group uint16) *gateValue {
	v := g.groups[group]
	if v == nil {
		v = &gateValue{}
		g.groups[group] = v
	}
	return v
}

// rule is the kernel's: I9 holds because nothing else passes.
func (g *gate) rule(v *gateValue, local int64) bool {
	return g.number != 0 && v.incarnation == g.number && v.sent > v.conflict && local < v.deadline
}

// write sets a group's value, as a worker does.
func (g *gate) write(group uint16, deadline, sent int64, incarnation uint64) {
	v := g.value(group)
	v.deadline, v.sent, v.incarnation = deadline, sent, incarnation
	g.look(group, v, closedByHand)
}

// zero closes a group, as a worker does.
func (g *gate) zero(group uint16) {
	v := g.value(group)
	v.deadline, v.sent, v.incarnation = 0, 0, 0
	g.look(group, v, closedByHand)
}

// setNumber changes the guard's number.
func (g *gate) setNumber(n uint64) {
	g.number = n
	g.lookAll(closedByHand)
}

// closeAll is the guard's close: number and values to zero.
func (g *gate) closeAll() {
	g.number = 0
	for _, v := range g.groups {
		v.deadline, v.sent, v.incarnation = 0, 0, 0
	}
	g.lookAll(closedByHand)
}

func (g *gate) lookAll(why ending) {
	for _, id := range g.ids() {
		g.look(id, g.groups[id], why)
	}
}

// ids in order, since the order of a map would make two runs of a seed differ.
func (g *gate) ids() []uint16 {
	var ids []uint16
	for id := uint16(0); len(ids) < len(g.groups); id++ {
		if g.groups[id] != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// look compares the rule with what the checker was told last, and tells it of a
// change. A frozen host lets nothing through.
func (g *gate) look(group uint16, v *gateValue, why ending) {
	w := g.h.w
	clk := g.h.clk
	local := clk.local(w.now)
	open := g.h.powered && g.rule(v, local)
	frozen := clk.thaw(w.now) > w.now
	late := v.sent <= clk.frozenSince(w.now) // by a request from before a freeze
	if v.open != nil && (!open || frozen || v.open.frozen != late) {
		if frozen {
			why = endedByFreeze
		}
		w.check.closed(v.open, why)
		v.open = nil
	}
	if open && !frozen && v.open == nil {
		v.open = w.check.opened(g.h, group, late)
	}
	if open && !frozen {
		g.setAlarm(group, v)
	}
}

// setAlarm looks again when the deadline has passed.
func (g *gate) setAlarm(group uint16, v *gateValue) {
	t := g.h.clk.when(v.deadline)
	if v.alarm != 0 && v.alarm <= t && v.alarm > g.h.w.now {
		return
	}
	v.alarm = t
	g.h.at(t, func() {
		if v.alarm != t {
			return
		}
		v.alarm = 0
		g.look(group, v, endedByDeadline)
	})
}

// claim is an announcement of a group's address that the host hears from
// another MAC.
func (g *gate) claim(group uint16, mac [6]byte) {
	v := g.value(group)
	node, member := g.members[mac]
	kind := netfence.Foreign
	local := g.h.clk.local(g.h.w.now)
	was := g.rule(v, local)
	if member {
		kind = netfence.Conflict
		v.conflict = local
		g.look(group, v, endedByConflict)
	}
	key := toldKey{kind, group}
	last, known := g.told[key]
	if known && local-last < int64(100*time.Millisecond) {
		return
	}
	g.told[key] = local
	e := netfence.Event{Kind: kind, Group: group, MAC: mac, Node: node, Ifindex: ifIndex, Time: local, WasOpen: was}
	if p := g.h.proc; p != nil {
		p.deliver(func() { p.node.Gate(e) })
	}
}

// procGate is the gate as one worker sees it. What it writes becomes true at
// the instant that the worker has reached by then, and not at all when the
// worker is dead by that instant.
type procGate struct {
	p    *process
	g    *gate
	last map[uint16][2]int64
}

func (g *procGate) Incarnation() uint64 { return g.p.incarnation }

func (g *procGate) SetVIPs([]netfence.VIP) error { return nil }

func (g *procGate) SetForwarding(int, uint16) error { return nil }

func (g *procGate) ClearForwarding(int) error { return nil }

func (g *procGate) SetMembers(m map[[6]byte]uint64) error {
	g.g.members = m
	return nil
}

func (g *procGate) Block([]netfence.Blocked) error { return nil }

// Open has the preconditions of netfence.Gate.Open.
func (g *procGate) Open(group uint16, deadline, sent int64) error {
	now := g.p.h.clk.local(g.p.cursor)
	last := g.last[group]
	if sent <= 0 || sent > now || deadline < last[0] || sent < last[1] {
		panic(fmt.Sprintf("gate of group %d moved from deadline %d sent %d to deadline %d sent %d, now %d", group, last[0], last[1], deadline, sent, now))
	}
	if g.g.number != g.p.incarnation {
		return fmt.Errorf("open gate: %w", netfence.ErrClosedByGuard)
	}
	g.last[group] = [2]int64{deadline, sent}
	g.p.effect(func() { g.g.write(group, deadline, sent, g.p.incarnation) })
	return nil
}

func (g *procGate) CloseGroup(group uint16) error {
	g.p.effect(func() { g.g.zero(group) })
	return nil
}

func (g *procGate) Read(group uint16) (netfence.Value, error) {
	v := g.g.value(group)
	return netfence.Value{
		Deadline: v.deadline, Incarnation: v.incarnation, Sent: v.sent, Conflict: v.conflict,
		Open: g.g.rule(v, g.p.h.clk.local(g.p.cursor)),
	}, nil
}

func (g *procGate) Counters() (map[string]uint64, error) { return nil, nil }

// Events is for workers with goroutines; here the host tells (gate.claim).
func (g *procGate) Events(context.Context, func(netfence.Event)) error { return nil }

func (g *procGate) Close() error { return nil }
