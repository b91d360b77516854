package main

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

// tick is the step of true time in the exhaustive search. Its times are chosen
// so that clocks at both edges of rho read whole units of a tenth of a tick,
// and so that there is no margin: a lease on the slowest clock and epsilon are
// four ticks, and so is a promise on the fastest.
const tick = int64(100 * time.Millisecond)

var tickTiming = timing{
	Timing:    lease.Timing{Beat: 50 * time.Millisecond, Promise: 440 * time.Millisecond, Epsilon: 100 * time.Millisecond, Lease: 270 * time.Millisecond},
	noteDelay: tick,
	closeTail: tick,
	config:    4 * tick,
}

// state is a world in the exhaustive search. States share what they have in
// common: a host is copied before it changes.
//
// What can only make less happen is left out, so that the search goes further:
// all Assigns are committed from the beginning, and a worker applies those that
// name it whenever it likes; voters learn of an epoch by requests only; a
// worker that died is replaced at once, and a gate that was left open stays
// open.
type state struct {
	world
	// messages were sent and may arrive from their time on, at any later time,
	// any number of times or never: loss, delay, reordering and duplication
	// without bounds.
	messages []event
	end      int64 // true time
	releases int   // made so far, as the others
	deaths   int
	changes  int
}

// newState is a cluster that has been up for longer than a promise, without a
// holder, and a log of Assigns.
func newState(b *bounds, rates []int64, log []entry, broken rule, trace func(string, ...any)) *state {
	s := &state{}
	s.t, s.broken, s.lapses, s.trace, s.log = tickTiming, broken, 1, trace, log
	if broken == noteFirst {
		s.t.closeTail = 2 * tick
	}
	for v := range b.voters {
		s.first = append(s.first, uint64(v+1))
	}
	for i := range b.hosts() {
		h := &host{id: uint64(i + 1), rate: rates[i], base: int64(i+1) * 1e12, beatAt: -1}
		s.hosts = append(s.hosts, h)
	}
	for _, h := range s.hosts {
		s.start(h)
	}
	s.now = 5 * tick
	s.end = s.now + b.ticks*tick
	return s
}

// action is one step from a state to the next.
type action struct {
	kind step
	host int
	how  death
	msg  event
}

type step uint8

const (
	passes   step = iota // a tick of true time
	takes                // the host applies the next Assign that names it, and asks
	asks                 // the host asks again
	yields               // the host closes and releases
	dying                // the worker of the host dies, and the next one starts
	gets                 // a message arrives at the host
	reshapes             // the next configuration is committed
	conforms             // the host applies the next configuration
)

// do returns the state after an action. s stays as it was.
func (s *state) do(b *bounds, a *action) *state {
	c := *s
	c.hosts = slices.Clone(s.hosts)
	switch a.kind {
	case passes:
		c.now += tick
		c.say("-- tick --")
	case takes:
		h := c.change(a.host, true, true)
		epoch := c.nextOwn(h)
		h.applied = int(epoch)
		h.ballot.applied(epoch, h.id, h.inc)
		if c.begin(h, epoch) {
			c.ask(h)
		}
	case asks:
		c.ask(c.change(a.host, true, true))
	case yields:
		c.releases++
		c.putNote(c.release(c.change(a.host, false, true)))
	case dying:
		c.deaths++
		h := c.change(a.host, false, false)
		c.putNote(c.kill(h, a.how))
		open := h.openTill
		c.start(h)
		h.openTill = open
		c.dropAcks()
	case gets:
		c.get(b, a)
	case reshapes:
		c.reconfigure(b.chain[c.changes])
		c.changes++
	case conforms:
		h := c.change(a.host, true, true)
		c.configure(h, c.nextConfig(h))
	}
	return &c
}

// ask sends a beat, which the own voter takes at once.
func (s *state) ask(h *host) {
	r, ok := s.beat(h)
	if !ok {
		return
	}
	s.put(event{kind: asked, from: r.Node, incarnation: r.Incarnation, epoch: r.Epoch, sequence: r.Sequence, config: r.Config})
	if ack, no := s.receive(h, r); no == nil {
		s.acked(h, h.id, ack)
	}
}

// nextOwn is the next epoch that names the worker of h, 0 when there is none.
func (s *state) nextOwn(h *host) uint64 {
	for i := h.applied; i < len(s.log); i++ {
		if s.log[i].voters == nil && s.log[i].incarnation == h.inc {
			return uint64(i) + 1
		}
	}
	return 0
}

// nextConfig is the next configuration that the worker of h may apply, or 0.
func (s *state) nextConfig(h *host) uint64 {
	for i := int(h.known); i < len(s.log); i++ {
		if s.log[i].voters != nil {
			return uint64(i) + 1
		}
	}
	return 0
}

// change copies a host, and the parts of it that are going to change.
func (s *state) change(i int, voter, holder bool) *host {
	h := *s.hosts[i]
	if voter {
		h.ballot = h.ballot.clone()
	}
	if holder {
		h.holder = h.holder.Clone()
	}
	s.hosts[i] = &h
	return &h
}

func (s *state) get(b *bounds, a *action) {
	m := &a.msg
	switch m.kind {
	case asked:
		h := s.change(a.host, true, false)
		ack, no := s.receive(h, lease.Request{Node: m.from, Incarnation: m.incarnation, Epoch: m.epoch, Config: m.config, Sequence: m.sequence})
		if no != nil {
			return // a refusal can only end what may end at any time
		}
		if b.late {
			s.put(event{kind: granted, host: uint8(m.from - 1), from: h.id, incarnation: ack.Incarnation, epoch: ack.Epoch, sequence: ack.Sequence})
			s.dropAcks()
			return
		}
		if i := int(m.from - 1); s.hosts[i].inc == m.incarnation {
			s.acked(s.change(i, false, true), h.id, ack)
		}
	case granted:
		s.acked(s.change(a.host, false, true), m.from, lease.Ack{Epoch: m.epoch, Incarnation: m.incarnation, Sequence: m.sequence})
	case noted:
		s.note(s.change(a.host, true, false), lease.Note{Kind: m.note, Node: m.from, Incarnation: m.incarnation, Epoch: m.epoch})
	}
}

func (s *state) putNote(n lease.Note, at int64, ok bool) {
	if ok {
		s.put(event{kind: noted, at: at, note: n.Kind, from: n.Node, incarnation: n.Incarnation, epoch: n.Epoch})
	}
}

func compareMessages(a, b event) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.host, b.host), cmp.Compare(a.from, b.from),
		cmp.Compare(a.incarnation, b.incarnation), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.sequence, b.sequence),
		cmp.Compare(a.config, b.config), cmp.Compare(a.note, b.note))
}

// put adds a message. One that was sent again is there from the first time.
func (s *state) put(m event) {
	i, found := slices.BinarySearchFunc(s.messages, m, compareMessages)
	if found {
		return
	}
	s.messages = slices.Insert(slices.Clip(s.messages), i, m)
}

// dropAcks forgets acknowledgements that nobody will count: of a worker that
// is gone, or of an epoch that its worker has left behind.
func (s *state) dropAcks() {
	gone := func(m event) bool {
		if m.kind != granted {
			return false
		}
		h := s.hosts[m.host]
		if h.inc != m.incarnation {
			return true
		}
		epoch, ok := h.holder.Holding(0)
		return !ok || m.epoch < epoch
	}
	if slices.ContainsFunc(s.messages, gone) {
		s.messages = slices.DeleteFunc(slices.Clone(s.messages), gone)
	}
}

const maxHosts = 8

// key appends what all that can follow depends on. Voters that never ask and
// are alike may trade places.
func (s *state) key(k []byte, b *bounds, parts *[maxHosts][]byte) []byte {
	horizon := int64(s.t.Lease)
	switch s.broken {
	case none, oldConfig, noConfigWait, forgetsConfig:
	default:
		horizon = 1 << 40 // what can open something is not known
	}
	var order [maxHosts]int
	n := len(s.hosts)
	for i, h := range s.hosts {
		order[i] = i
		parts[i] = s.voterKey(parts[i][:0], h, b)
	}
	pure := order[b.contenders:n]
	if b.chain == nil {
		slices.SortFunc(pure, func(i, j int) int { return bytes.Compare(parts[i], parts[j]) })
	}
	var name [maxHosts]uint64
	for place, i := range order[:n] {
		name[i] = uint64(place) + 1
	}
	renamed := func(voter uint64) uint64 { return name[voter-1] }
	k = appendNumbers(k, uint64((s.end-s.now)/tick), uint64(s.releases), uint64(s.deaths), uint64(s.changes))
	for _, i := range order[:n] {
		k = appendNumbers(k, uint64(len(parts[i])))
		k = append(k, parts[i]...)
	}
	for _, h := range s.hosts[:b.contenders] {
		k = h.holder.AppendKey(k, h.clock(s.now), horizon, renamed)
	}
	return s.restKey(k, renamed)
}

// voterKey is what there is of a host but its holder.
func (s *state) voterKey(k []byte, h *host, b *bounds) []byte {
	asks := int(h.id) <= b.contenders
	p := &h.promised
	k = appendNumbers(k, p.node, p.incarnation, p.epoch, p.sequence,
		left(p.until, s.now), left(h.openTill, s.now), h.config, h.known, uint64(h.applied), h.seq)
	if asks {
		k = appendNumbers(k, h.inc, oneIf(h.beatAt == s.now))
	}
	return h.ballot.appendKey(k, h.clock(s.now))
}

func (s *state) restKey(k []byte, renamed func(uint64) uint64) []byte {
	k = appendNumbers(k, uint64(len(s.log)))
	for _, e := range s.log {
		k = appendNumbers(k, e.node, e.incarnation, uint64(len(e.voters)))
	}
	if s.settledAt >= 0 {
		k = appendNumbers(k, 1+left(s.settledAt+s.t.config, s.now))
	} else {
		k = appendNumbers(k, 0)
	}
	messages := s.messages
	if slices.ContainsFunc(messages, func(m event) bool { return m.kind == granted }) {
		messages = slices.Clone(messages)
		for i := range messages {
			if m := &messages[i]; m.kind == granted {
				m.from = renamed(m.from)
			}
		}
		slices.SortFunc(messages, compareMessages)
	}
	for i := range messages {
		m := &messages[i]
		k = appendNumbers(k, uint64(m.kind), uint64(m.host), m.from, m.incarnation, m.epoch, m.sequence, m.config, uint64(m.note), left(m.at, s.now))
	}
	return k
}

func left(at, now int64) uint64 { return uint64(max(0, at-now)) }

func oneIf(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}
