package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

const (
	ms = int64(time.Millisecond)

	// maxEvents ends a run: holes need few steps, and many short runs try more
	// beginnings than a few long ones.
	maxEvents = 120
	// maxTrue ends a run in which little happens: long enough for a datagram
	// of the longest delay to arrive in the middle of something else.
	maxTrue = 40 * int64(time.Second)
	// longest is the delay of the latest datagram.
	longest = 8 * int64(time.Second)
)

// random is the driver that draws everything. One seed is one run.
type random struct {
	world
	pcg    *rand.PCG
	rng    *rand.Rand
	events queue
	habits habits
	state  []condition // of each host
	pool   []host
	count  int
	ever   uint64 // bit i: host i is or was a voter
}

// habits are drawn for a run and hold for all of it: runs that differ much
// from each other find more than runs that all do a little of everything.
type habits struct {
	contenders int
	loss, dup  int   // percent
	late       int   // percent of datagrams that take up to slow
	noteLate   int   // the same of notes
	slow       int64 // ns
	again      int   // percent: the group goes where it was
	beat       int64 // local ns, the longest time between two beats
	idle       int64 // ns, the longest time between two deeds of the enemy
	stubborn   int   // percent: applies another's Assign and goes on
	deeds      [deeds]int
	total      int
	members    bool
	reshape    bool // two changes of the voters while one holder lags behind
}

// condition of a host, beside what the protocol knows.
type condition struct {
	hungTill, inCut, outCut int64
	lag                     int64 // ns, the longest time until it applies an entry
	stubborn                bool
	named                   bool // when it starts
	beating                 bool
}

// What the enemy does.
const (
	assigns = iota
	releases
	dies
	losesPower
	losesGuard
	hangs
	goesDeaf
	goesMute
	reconfigures
	comesBack // releases, and is named again at once
	reborn    // dies under its guard, starts at once and is named again
	deeds
)

// newRandom makes a driver that is used for many runs, one after the other.
func newRandom(broken rule) *random {
	profile, _ := lease.Profile("default")
	r := &random{pcg: rand.NewPCG(0, 0)}
	r.rng = rand.New(r.pcg)
	r.t = timing{Timing: profile, noteDelay: ms, closeTail: ms, config: int64(profile.Promise) * 10 / 11}
	if broken == noteFirst {
		r.t.closeTail = 50 * ms
	}
	r.broken, r.lapses = broken, 1000
	return r
}

// run runs one seed with 3 or 5 voters, until two gates are open or its time is
// up, and tells whether anything failed.
func (r *random) run(seed uint64, voters int) bool {
	r.pcg.Seed(seed, uint64(voters))
	r.now, r.count, r.windows, r.moves, r.last, r.settledAt = 0, 0, 0, 0, 0, 0
	r.found, r.failed = findings{}, false
	r.log = r.log[:0]
	r.events.clear()
	r.draw(voters)
	limit := maxEvents
	if r.habits.members {
		limit *= 2 // two changes and what comes between them
	}
	for r.found[oneGate] == "" && r.count < limit {
		e, ok := r.events.pop()
		if !ok || e.at > maxTrue {
			break
		}
		r.count++
		r.now = e.at
		r.do(&e)
	}
	return r.failed
}

// draw makes the hosts and habits of a run.
func (r *random) draw(voters int) {
	h := &r.habits
	size := voters
	h.members = r.broken.aboutMembers() || r.rng.IntN(4) == 0
	if h.members {
		size += 2
	}
	r.first = r.first[:0]
	r.ever = 0
	for v := range voters {
		r.first = append(r.first, uint64(v+1))
		r.ever |= 1 << (v + 1)
	}
	h.contenders = 2 + r.rng.IntN(2)
	h.loss, h.dup, h.late = r.of(0, 0, 10, 40), r.of(0, 10, 40), r.of(0, 10, 30, 60)
	h.noteLate, h.again = r.of(0, 10, 80), r.of(0, 0, 60)
	h.slow = []int64{20 * ms, 400 * ms, 2000 * ms, longest}[r.rng.IntN(4)]
	h.beat = []int64{70 * ms, 150 * ms, 300 * ms}[r.rng.IntN(3)]
	h.idle = []int64{30 * ms, 100 * ms, 300 * ms, 800 * ms}[r.rng.IntN(4)]
	h.stubborn = r.of(0, 50, 100)
	h.total = 0
	for d := range h.deeds {
		switch d {
		case assigns:
			h.deeds[d] = 6
		case releases:
			h.deeds[d] = r.of(0, 2, 6)
		case comesBack:
			h.deeds[d] = r.of(0, 1, 8)
		case reconfigures:
			h.deeds[d] = 0
			if h.members {
				h.deeds[d], h.deeds[assigns] = 8, r.of(1, 3, 6)
				h.total += h.deeds[assigns] - 6
			}
		default:
			h.deeds[d] = r.of(0, 0, 1, 3)
		}
		h.total += h.deeds[d]
	}
	if h.reshape = h.members && r.rng.IntN(2) == 0; h.reshape {
		h.idle, h.stubborn = 100*ms, 100
	}
	if len(r.pool) < size {
		r.pool = make([]host, size)
		r.state = make([]condition, size)
	}
	r.hosts = r.hosts[:0]
	for i := range size {
		n := &r.pool[i]
		*n = host{id: uint64(i + 1), rate: 900 + 200*r.rng.Int64N(2), base: r.rng.Int64N(1e12), beatAt: -1}
		if r.rng.IntN(8) == 0 {
			n.rate = 900 + r.rng.Int64N(201)
		}
		r.state[i] = condition{stubborn: r.rng.IntN(100) < h.stubborn, lag: 10 * ms}
		if r.chance(10) || h.members && r.chance(30) {
			r.state[i].lag = []int64{300 * ms, 1000 * ms, 4000 * ms}[r.rng.IntN(3)]
		}
		r.hosts = append(r.hosts, n)
	}
	for i := range r.hosts {
		r.start(r.hosts[i])
	}
	r.now = int64(r.t.Promise) * 10 / 9 // the first wait of G2 is over everywhere
	r.after(0, event{kind: enemy})
	if h.reshape {
		r.assign(r.hosts[0])
		r.apply(r.hosts[0])
		r.beatSoon(r.hosts[0], &r.state[0], 1)
		r.state[0].lag = longest
	}
}

func (r *random) of(n ...int) int         { return n[r.rng.IntN(len(n))] }
func (r *random) chance(percent int) bool { return percent > 0 && r.rng.IntN(100) < percent }

func (r *random) after(d int64, e event) {
	e.at = r.now + d
	r.events.push(e)
}

// do is one event.
func (r *random) do(e *event) {
	switch e.kind {
	case enemy:
		r.deed()
		r.after(r.rng.Int64N(r.habits.idle), event{kind: enemy})
		return
	case begins:
		if h := r.hosts[e.host]; h.inc == 0 {
			r.start(h)
			if c := &r.state[e.host]; c.named {
				c.named = false
				r.assign(h)
				r.logGrew()
			}
			if len(r.log) > 0 {
				lag := r.state[e.host].lag
				if r.chance(20) {
					lag = 4000 * ms // a long log
				}
				r.after(r.rng.Int64N(lag), event{kind: applies, host: e.host})
			}
		}
		return
	}
	h, c := r.hosts[e.host], &r.state[e.host]
	if h.inc == 0 || e.worker != 0 && e.worker != h.inc {
		return
	}
	if r.now < c.hungTill { // waits in the socket; read, and timed, later
		e.at = c.hungTill
		r.events.push(*e)
		return
	}
	switch e.kind {
	case beats:
		r.beats(h, c)
	case applies:
		r.applyAll(h, c)
	case asked:
		r.asked(h, e)
	case granted:
		r.acked(h, e.from, lease.Ack{Epoch: e.epoch, Incarnation: e.incarnation, Sequence: e.sequence})
	case refused:
		if h.holder.Refused(e.from, lease.Refusal{Epoch: e.epoch, Highest: e.sequence}) && !c.stubborn {
			r.letGo(h)
		}
	case noted:
		r.note(h, lease.Note{Kind: e.note, Node: e.from, Incarnation: e.incarnation, Epoch: e.epoch})
	}
}

// send carries something between two hosts: late, out of order, twice or not
// at all.
func (r *random) send(from, to *host, e event) {
	e.host = uint8(to.id - 1)
	copies := 1
	if r.chance(r.habits.dup) {
		copies = 2
	}
	f, t := &r.state[from.id-1], &r.state[to.id-1]
	for ; copies > 0; copies-- {
		if r.now < f.outCut || r.now < t.inCut || r.chance(r.habits.loss) {
			continue
		}
		delay := r.rng.Int64N(2 * ms)
		if r.chance(r.habits.late) {
			delay = r.rng.Int64N(r.habits.slow)
		}
		r.after(delay, e)
	}
}

func (r *random) beats(h *host, c *condition) {
	c.beating = false
	q, ok := r.beat(h)
	if !ok {
		return // beats without requests move nothing here
	}
	e := event{kind: asked, from: h.id, incarnation: q.Incarnation, epoch: q.Epoch, sequence: q.Sequence, config: q.Config}
	for _, to := range r.hosts {
		if to != h && r.ever&(1<<to.id) != 0 {
			r.send(h, to, e)
		}
	}
	if ack, no := r.receive(h, q); no == nil {
		r.acked(h, h.id, ack)
	}
	r.beatSoon(h, c, 5*ms+r.rng.Int64N(r.habits.beat))
}

func (r *random) beatSoon(h *host, c *condition, local int64) {
	if c.beating {
		return
	}
	c.beating = true
	r.after(local*1000/h.rate, event{kind: beats, host: uint8(h.id - 1), worker: h.inc})
}

func (r *random) asked(h *host, e *event) {
	ack, no := r.receive(h, lease.Request{
		Node: e.from, Incarnation: e.incarnation, Epoch: e.epoch, Config: e.config, Sequence: e.sequence,
	})
	to := r.hosts[e.from-1]
	if no != nil {
		if no.Highest > no.Epoch { // all others change nothing (G8)
			r.send(h, to, event{kind: refused, from: h.id, worker: e.incarnation, epoch: no.Epoch, sequence: no.Highest})
		}
		return
	}
	r.send(h, to, event{kind: granted, from: h.id, incarnation: ack.Incarnation, epoch: ack.Epoch, sequence: ack.Sequence})
}

// applyAll lets h apply what the log holds: it begins what names it, and
// releases when the group went elsewhere, unless it is stubborn.
func (r *random) applyAll(h *host, c *condition) {
	for h.applied < len(r.log) {
		switch before := r.log[h.applied]; {
		case r.apply(h):
			if !c.beating {
				r.beatSoon(h, c, 1)
			}
		case before.voters == nil && before.incarnation != h.inc && !c.stubborn:
			r.letGo(h)
		}
	}
}

func (r *random) letGo(h *host) {
	if n, at, ok := r.release(h); ok {
		r.spread(h, n, at)
	}
}

// spread sends a note to everybody, and sometimes again: everyone repeats what
// he knows.
func (r *random) spread(h *host, n lease.Note, at int64) {
	e := event{kind: noted, from: n.Node, note: n.Kind, incarnation: n.Incarnation, epoch: n.Epoch}
	for _, to := range r.hosts {
		times := 1
		if r.rng.IntN(3) == 0 {
			times = 2
		}
		for ; times > 0; times-- {
			e.host = uint8(to.id - 1)
			delay := r.rng.Int64N(2 * ms)
			if r.chance(r.habits.noteLate) || times == 2 {
				delay = r.rng.Int64N(r.habits.slow)
			}
			if !r.chance(r.habits.loss) {
				r.after(at-r.now+delay, e)
			}
		}
	}
}

// deed is the worst thing that comes to the enemy's mind.
func (r *random) deed() {
	d, k := 0, r.rng.IntN(r.habits.total)
	for k >= r.habits.deeds[d] {
		k -= r.habits.deeds[d]
		d++
	}
	i := r.rng.IntN(len(r.hosts))
	if d == assigns || d == releases || d >= comesBack {
		i = r.contender(i)
		if r.chance(r.habits.again) && r.last != 0 {
			i = int(r.last - 1)
		}
	}
	h, c := r.hosts[i], &r.state[i]
	while := r.rng.Int64N(1000 * ms)
	if d == reconfigures {
		r.changeMembers()
		return
	}
	if h.inc == 0 {
		return
	}
	switch d {
	case assigns:
		if r.habits.reshape && r.newestConfig() == 0 {
			return
		}
		r.assign(h)
		r.logGrew()
	case releases:
		if r.now >= c.hungTill {
			r.letGo(h)
		}
	case dies:
		r.dies(h, guarded, while/4)
	case comesBack:
		if r.now >= c.hungTill {
			r.letGo(h)
			r.assign(h)
			r.logGrew()
		}
	case reborn:
		r.dies(h, guarded, r.t.noteDelay)
		c.named = true
	case losesPower:
		r.dies(h, powerLoss, while/4)
	case losesGuard:
		r.dies(h, bothDie, while/4)
	case hangs:
		c.hungTill = r.now + while
	case goesDeaf:
		c.inCut = r.now + while
	case goesMute:
		c.outCut = r.now + while
	}
}

// contender keeps the group among a few hosts; with changing members any of
// them may be among those, the last too.
func (r *random) contender(i int) int {
	i %= r.habits.contenders
	if r.habits.members && i > 0 {
		i = len(r.hosts) - i
	}
	return i
}

func (r *random) dies(h *host, how death, while int64) {
	if n, at, ok := r.kill(h, how); ok {
		r.spread(h, n, at)
	}
	c := &r.state[h.id-1]
	c.beating, c.hungTill = false, 0
	r.after(2*r.t.noteDelay+while, event{kind: begins, host: uint8(h.id - 1)})
}

// logGrew lets everybody apply, each when he gets to it.
func (r *random) logGrew() {
	for i, h := range r.hosts {
		if h.inc == 0 {
			continue // it will when it starts
		}
		r.after(r.rng.Int64N(r.state[i].lag), event{kind: applies, host: uint8(i)})
	}
}

// changeMembers adds one voter or removes one.
func (r *random) changeMembers() {
	if !r.mayReconfigure() {
		return
	}
	old := r.voters()
	with := make([]uint64, 0, len(old)+1)
	victim := r.hosts[r.rng.IntN(len(r.hosts))].id
	found := false
	for _, v := range old {
		if v == victim {
			found = true
			continue
		}
		with = append(with, v)
	}
	if !found {
		with = append(with, victim)
		r.ever |= 1 << victim
	}
	if len(with) < 3 {
		return
	}
	r.reconfigure(with)
	r.logGrew()
}

// replay runs one seed and returns its story.
func (r *random) replay(seed uint64, voters int, tell func(string)) bool {
	r.trace = func(format string, args ...any) {
		tell(fmt.Sprintf("%12v ", time.Duration(r.now)) + fmt.Sprintf(format, args...))
	}
	defer func() { r.trace = nil }()
	return r.run(seed, voters)
}
