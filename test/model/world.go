package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

// world is a cluster on true time, in nanoseconds from 0. What happens when is
// the business of a driver: the random one or the exhaustive one.
type world struct {
	now    int64
	t      timing
	broken rule
	lapses uint64  // of each voter under a broken rule
	hosts  []*host // host i has the id i+1
	log    []entry
	first  []uint64 // voters before any entry
	// settledAt is when a majority of the newest configuration's voters had
	// applied it, -1 while they have not (G4).
	settledAt int64
	found     findings
	failed    bool // found is not empty
	windows   int  // opened, to see that something happened
	moves     int  // of them on another host than the last
	last      uint64
	trace     func(format string, args ...any) // nil = none
}

// timing is a lease.Timing in true and local nanoseconds, and what a close
// leaves behind.
type timing struct {
	lease.Timing
	noteDelay int64 // true, between the close and its note (G5)
	closeTail int64 // true, how long frames still leave after a close
	config    int64 // true, the shortest wait between two configurations: P on a fast clock
}

// entry is a committed command: an Assign, or a configuration when it has
// voters. Its index is its place in the log, from 1.
type entry struct {
	node, incarnation uint64
	voters            []uint64
}

// host is a machine: a kernel gate, which outlives workers, and a worker.
type host struct {
	id   uint64
	rate int64 // thousandths: the clock reads base + true * rate / 1000
	base int64

	// openTill is the true time from which no frame leaves any more, those
	// that are queued below the gate included.
	openTill int64
	promised promise
	starts   uint64
	config   uint64 // index of the newest configuration applied; survives restarts

	inc     uint64 // of the worker that runs, 0 = none
	ballot  ballot
	holder  *lease.Holder
	seq     uint64
	beatAt  int64
	applied int    // entries
	known   uint64 // index of the configuration that this worker knows
}

// promise is what a host's voters have promised last, whichever worker it was
// that did: kept by the checker, not by the product (I5).
type promise struct {
	node, incarnation, epoch, sequence uint64
	until                              int64 // true time
}

// invariant is what must hold at every instant.
type invariant uint8

const (
	// oneGate is I1: never are two gates open at the same true instant.
	oneGate invariant = iota
	// onePromise is I5: a host is bound to one worker at a time.
	onePromise
	// honestAck is G8: an acknowledgement names a request that was granted.
	honestAck
	invariants
)

func (i invariant) String() string { return [...]string{"I1", "I5", "G8"}[i] }

// findings holds what was found against each invariant, "" = nothing.
type findings [invariants]string

func (w *world) voters() []uint64 {
	for i := len(w.log) - 1; i >= 0; i-- {
		if w.log[i].voters != nil {
			return w.log[i].voters
		}
	}
	return w.first
}

// votersAt is the configuration with the given index.
func (w *world) votersAt(index uint64) []uint64 {
	if index == 0 {
		return w.first
	}
	return w.log[index-1].voters
}

func (w *world) newestConfig() uint64 {
	for i := len(w.log) - 1; i >= 0; i-- {
		if w.log[i].voters != nil {
			return uint64(i) + 1
		}
	}
	return 0
}

func (h *host) clock(now int64) int64 { return h.base + now*h.rate/1000 }

// trueTime is the first instant at which h's clock reads local.
func (h *host) trueTime(local int64) int64 {
	return ((local-h.base)*1000 + h.rate - 1) / h.rate
}

func (w *world) say(format string, args ...any) {
	if w.trace != nil {
		w.trace(format, args...)
	}
}

// start begins a worker under a new guard: what a worker before may have left
// in the gate is closed, and no grant is remembered (G2).
func (w *world) start(h *host) {
	h.openTill = min(h.openTill, w.now+w.t.closeTail)
	h.starts++
	h.inc = h.id<<32 | h.starts
	h.seq, h.applied, h.beatAt = 0, 0, -1
	h.ballot = newBallot(h.clock(w.now), w.t.Promise, w.broken, w.lapses)
	h.holder = lease.NewHolder(h.id, h.inc, w.t.Timing)
	config := h.config
	if w.broken == forgetsConfig {
		config = 0
	}
	h.known = config
	voters := w.votersAt(config)
	h.holder.SetVoters(config, voters)
	h.ballot.configured(config, slices.Contains(voters, h.id))
	w.say("host %d starts incarnation %x", h.id, h.inc)
}

// assign commits an Assign that names the worker of h. Placement is the worst
// enemy: it needs no reason.
func (w *world) assign(h *host) {
	w.log = append(w.log[:len(w.log):len(w.log)], entry{node: h.id, incarnation: h.inc})
	w.say("epoch %d names host %d", len(w.log), h.id)
}

// mayReconfigure is G4: the last change has been applied by a majority of its
// voters, a promise ago.
func (w *world) mayReconfigure() bool {
	return w.broken == noConfigWait || w.settledAt >= 0 && w.now >= w.settledAt+w.t.config
}

func (w *world) reconfigure(voters []uint64) {
	w.log = append(w.log[:len(w.log):len(w.log)], entry{voters: voters})
	w.settledAt = -1
	w.say("index %d makes the voters %v", len(w.log), voters)
}

// apply lets the worker of h apply the next entry, and tells whether it began
// an epoch.
func (w *world) apply(h *host) (began bool) {
	index := uint64(h.applied) + 1
	e := w.log[h.applied]
	h.applied++
	if e.voters != nil {
		if index > h.known { // else since the start
			w.configure(h, index)
		}
		return false
	}
	h.ballot.applied(index, e.node, e.incarnation)
	return e.node == h.id && e.incarnation == h.inc && w.begin(h, index)
}

// configure lets h apply the configuration with the given index (G4).
func (w *world) configure(h *host, index uint64) {
	voters := w.votersAt(index)
	h.known, h.config = index, max(h.config, index)
	h.ballot.configured(index, slices.Contains(voters, h.id))
	h.holder.SetVoters(index, voters)
	w.settle()
	w.say("host %d applies the voters of %d", h.id, index)
}

func (w *world) begin(h *host, epoch uint64) bool {
	err := h.holder.Begin(0, epoch)
	w.say("host %d applies epoch %d and begins, %v", h.id, epoch, err)
	return err == nil
}

// settle notes when a majority has applied the newest configuration.
func (w *world) settle() {
	if w.settledAt >= 0 {
		return
	}
	newest, n := w.newestConfig(), 0
	voters := w.votersAt(newest)
	for _, v := range voters {
		if w.hosts[v-1].config >= newest {
			n++
		}
	}
	if n > len(voters)/2 {
		w.settledAt = w.now
	}
}

// beat returns the request that the next beat of h carries, if it asks.
func (w *world) beat(h *host) (lease.Request, bool) {
	h.seq++
	h.beatAt = w.now
	read := h.clock(w.now)
	if w.broken == sentLate {
		read += int64(w.t.Promise) / stale
	}
	rs := h.holder.Request(read, h.seq)
	if len(rs) == 0 {
		return lease.Request{}, false
	}
	w.say("host %d asks for epoch %d with sequence %d", h.id, rs[0].Epoch, h.seq)
	return rs[0], true
}

// receive puts a request to the voter of h and checks what it promises.
func (w *world) receive(h *host, r lease.Request) (lease.Ack, *lease.Refusal) {
	ack, refused := h.ballot.request(h.clock(w.now), int64(w.t.Promise), r)
	if refused == nil {
		w.promised(h, r, ack)
	}
	if w.trace != nil {
		if refused != nil {
			w.say("host %d refuses host %d epoch %d sequence %d: %v", h.id, r.Node, r.Epoch, r.Sequence, refused.Reason)
		} else {
			w.say("host %d grants host %d epoch %d sequence %d", h.id, r.Node, ack.Epoch, ack.Sequence)
		}
	}
	return ack, refused
}

// promised checks I5 and G8: a host's promises to different workers do not
// overlap on true time, over restarts too, and an acknowledgement is never of
// a request that did not move the promise.
func (w *world) promised(h *host, r lease.Request, a lease.Ack) {
	p := &h.promised
	same := p.node == r.Node && p.incarnation == a.Incarnation
	if same && p.epoch == a.Epoch && a.Sequence <= p.sequence {
		return // an old one again; it promises no more
	}
	switch {
	case a.Sequence != r.Sequence:
		w.fail(honestAck, "host %d acknowledges sequence %d, which it never granted, of host %d", h.id, a.Sequence, r.Node)
	case !same && w.now < p.until:
		w.fail(onePromise, "host %d promises to host %d (%x) while it is bound to host %d (%x) for %v more",
			h.id, r.Node, r.Incarnation, p.node, p.incarnation, time.Duration(p.until-w.now))
	}
	until := h.trueTime(h.clock(w.now) + int64(w.t.Promise))
	if same {
		until = max(until, p.until)
	}
	*p = promise{r.Node, a.Incarnation, a.Epoch, a.Sequence, until}
}

// note tells the voter of h what has ended.
func (w *world) note(h *host, n lease.Note) {
	p := &h.promised
	if p.node == n.Node && p.incarnation == n.Incarnation && (n.Kind == lease.Over || p.epoch == n.Epoch) {
		p.until = 0
	}
	h.ballot.note(h.clock(w.now), n)
	w.say("host %d hears: %v of host %d, epoch %d", h.id, n.Kind, n.Node, n.Epoch)
}

// acked counts an acknowledgement and opens the gate.
func (w *world) acked(h *host, from uint64, a lease.Ack) {
	win, advanced := h.holder.Ack(from, a)
	if !advanced {
		return
	}
	now := h.clock(w.now)
	switch w.broken {
	case leaseIsPromise:
		win.Deadline = win.Sent + int64(w.t.Promise)
	case fromReceipt:
		win.Deadline = now + int64(w.t.Lease)
	}
	if win.Deadline <= now {
		return // the kernel opens nothing for it
	}
	w.open(h, h.trueTime(win.Deadline)+int64(w.t.Epsilon))
}

// open lets the gate of h pass frames until the given true time, and checks I1.
func (w *world) open(h *host, till int64) {
	for _, other := range w.hosts {
		if other != h && other.openTill > w.now {
			w.fail(oneGate, "host %d opens while host %d is open for %v more", h.id, other.id, time.Duration(other.openTill-w.now))
		}
	}
	h.openTill = max(h.openTill, till)
	w.windows++
	if w.last != h.id {
		w.last = h.id
		w.moves++
	}
	w.say("host %d is open till %v", h.id, time.Duration(h.openTill))
}

// release closes the gate of h and lets go of its epoch; the note may leave at
// the true time that is returned.
func (w *world) release(h *host) (n lease.Note, at int64, ok bool) {
	epoch, ok := h.holder.Holding(0)
	if !ok {
		return lease.Note{}, 0, false
	}
	if w.broken != resumed {
		h.holder.Release(0)
	}
	w.say("host %d releases epoch %d", h.id, epoch)
	at = w.closeGate(h)
	return lease.Note{Kind: lease.Release, Node: h.id, Incarnation: h.inc, Epoch: epoch}, at, true
}

// closeGate returns from when on a note may speak of it (G5).
func (w *world) closeGate(h *host) int64 {
	h.openTill = min(h.openTill, w.now+w.t.closeTail)
	if w.broken == noteFirst {
		return w.now // closing takes its time, and the note does not wait
	}
	return w.now + w.t.noteDelay
}

// death is a way for a worker to end.
type death uint8

const (
	guarded   death = iota // the guard closes the gate and says over
	powerLoss              // the host is gone, and its gate with it
	bothDie                // guard and worker: the gate stays as it is, nobody speaks
)

// kill ends the worker of h; there is a note when the guard lives.
func (w *world) kill(h *host, how death) (n lease.Note, at int64, ok bool) {
	dead := h.inc
	h.inc, h.holder, h.ballot = 0, nil, ballot{}
	h.seq, h.applied, h.beatAt = 0, 0, -1
	w.say("host %d: the worker dies (%s)", h.id, [...]string{"its guard speaks for it", "power lost", "its guard too"}[how])
	switch how {
	case powerLoss:
		h.openTill = min(h.openTill, w.now)
	case guarded:
		at = w.closeGate(h)
		return lease.Note{Kind: lease.Over, Node: h.id, Incarnation: dead}, at, true
	}
	return lease.Note{}, 0, false
}

// fail keeps the first finding of each invariant.
func (w *world) fail(i invariant, format string, args ...any) {
	if w.found[i] != "" {
		return
	}
	w.found[i] = fmt.Sprintf("at %v ", time.Duration(w.now)) + fmt.Sprintf(format, args...)
	w.failed = true
	w.say("%v: %s", i, w.found[i])
}

func appendNumbers(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}
