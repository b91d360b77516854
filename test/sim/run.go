package sim

import (
	"fmt"
	"strings"
	"time"
)

// Result is what a run has come to.
type Result struct {
	Seed        uint64
	Profile     string
	Members     int
	Simulated   time.Duration
	Events      uint64
	Turns       uint64
	Faults      map[string]int
	Operations  int
	Unknown     int
	Moves       int
	Switchovers int
	MaxGap      time.Duration
	CalmGap     time.Duration // longest time without holder while nothing was wrong
	Frozen      int
	FrozenMax   time.Duration
	Entries     uint64
	Hashes      uint64
	Insists     int
	Undecided   int           // keys for which no verdict was found in time
	Gap         time.Duration // of a row
	Failure     *Violation
	Plan        []Fault
	Trace       []string
}

// calm knows since when nothing is wrong.
type calm struct {
	since int64
}

// calmBound is how long a cluster that nothing happens to may be without leader
// and holder (I12): a worker that is started anew after up to 5 s, its wait of
// a promise, an election, a target that is held down for 10 s.
func (w *world) calmBound() int64 {
	return int64(16*time.Second) + 12*int64(w.timing.Promise)
}

// holderBound is how long a group may be without holder in calm (I12): a worker
// that is started anew after up to 5 s, its wait, an election, a takeover.
func (w *world) holderBound() int64 { return int64(6*time.Second) + 6*int64(w.timing.Promise) }

// checkCalmGap checks that a group that nobody holds is not so for too long.
func (w *world) checkCalmGap(group uint16) {
	since := w.check.away[group]
	if since == 0 || w.active > 0 {
		return
	}
	if d := w.now - max(since, w.calm.since); d > w.holderBound() {
		w.violate("I12", "group %d without holder for %v in calm, at most %v\n%s", group, time.Duration(d), time.Duration(w.holderBound()), w.picture())
	}
}

// ends is called when a fault ends the calm.
func (c *calm) ends(w *world) {
	for group := range w.vips {
		w.checkCalmGap(uint16(group))
	}
	if w.healed != 0 || w.now-c.since < w.calmBound() {
		return
	}
	w.mustHold("in calm since " + stamp(c.since))
}

// mustHold is I12.
func (w *world) mustHold(when string) {
	for group := range w.vips {
		if n := w.check.holders(uint16(group)); n != 1 {
			w.violate("I12", "group %d has %d holders %s\n%s", group, n, when, w.picture())
		}
	}
	if w.leader() == nil {
		w.violate("I12", "no leader %s\n%s", when, w.picture())
	}
}

// picture describes the hosts.
func (w *world) picture() string {
	var b strings.Builder
	for _, h := range w.hosts {
		fmt.Fprintf(&b, "  %s powered %v guard %v workers %d", h.name, h.powered, h.guard != nil, h.workers)
		if h.alive() {
			l := h.proc.node.Look()
			fmt.Fprintf(&b, " term %d leader %x leads %v voter %v commit %d applied %d last %d id %x holding %v catching up %v",
				l.Term, l.Leader, l.Leads, l.Voter, l.Commit, l.Applied, l.Last, l.RaftID, l.Holding, l.CatchingUp)
			s := h.proc.node.State()
			if s != nil {
				for g := range w.vips {
					a := s.Assignment(uint16(g))
					fmt.Fprintf(&b, " assign %d: epoch %d to %x/%x", g, a.Epoch, a.Node, a.Incarnation>>48)
				}
				conf, _ := s.Conf()
				fmt.Fprintf(&b, " voters %x learners %x fenced %x", conf.Voters, conf.Learners, s.FencedNodes())
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Run lives through one seed.
func Run(opt Options) (Result, error) {
	strict := opt.ownRow()
	w, err := build(opt)
	if err != nil {
		return Result{}, err
	}
	defer replaceRandom(&w.dice)()
	w.dice.current = stream(w.seed, "nobody")
	w.result = Result{Seed: w.seed, Profile: w.opt.Profile, Members: len(w.hosts), Faults: map[string]int{}}
	for _, h := range w.hosts {
		w.at(span(h.sched, 0, 400*time.Millisecond), h.powerOn)
	}
	w.calm.since = 0
	limit := int64(w.scaled(quietStart+faultTime)) + int64(2*time.Minute)
	switch {
	case w.opt.Row != "":
		w.row = &rowRun{w: w, name: w.opt.Row}
		w.row.start()
	default:
		w.plan = opt.Plan
		if w.plan == nil {
			w.plan = w.draw()
		}
		w.clients.start(int64(w.scaled(quietStart)) / 2)
		w.schedule()
		w.at(int64(w.scaled(quietStart+faultTime)), w.heal)
	}
	w.loop(limit)
	if w.failure == nil && !w.done {
		w.violate("I12", "not at rest %v after the last fault\n%s", time.Duration(w.now-w.healed), w.picture())
	}
	if w.failure == nil && w.opt.Row == "" {
		w.clients.linearizable()
	}
	if strict && w.failure == nil {
		w.row.judge()
	}
	return w.report(), nil
}

// heal ends what the plan has left: all hosts run again.
func (w *world) heal() {
	w.note("HEAL")
	w.healed = w.now
	for _, h := range w.hosts {
		h.keepDown = false
		h.disk.mem.SetCapacity(0)
		h.powerOn()
		if h.guard == nil {
			h.startGuard()
		}
	}
	if w.active == 0 {
		w.calm.since = w.now
	}
	w.at(w.now+int64(w.timing.Promise), w.settle)
}

// settle looks whether the cluster has come to rest, until it must have (I12).
func (w *world) settle() {
	if w.active == 0 && w.now-w.calm.since > 2*int64(w.timing.Promise) && w.atRest() {
		if !w.clients.stopped {
			w.clients.stopped = true
			w.at(w.now+int64(100*time.Millisecond), w.settle)
			return
		}
		if w.clients.idle() && w.equal() {
			w.finish()
			return
		}
	}
	if w.now-max(w.calm.since, w.healed) > w.calmBound() {
		if w.active != 0 {
			w.violate("I12", "an operator's request is not carried out %v after the last fault\n%s", time.Duration(w.now-w.healed), w.picture())
			return
		}
		w.mustHold("at the end, in calm since " + stamp(w.calm.since))
		if w.failure == nil {
			w.violate("I12", "not at rest in calm since %s: clients idle %v, equal %v\n%s", stamp(w.calm.since), w.clients.idle(), w.equal(), w.picture())
		}
		return
	}
	w.at(w.now+int64(50*time.Millisecond), w.settle)
}

// atRest tells whether every group has one holder and every worker a leader.
func (w *world) atRest() bool {
	for group := range w.vips {
		if w.check.holders(uint16(group)) != 1 {
			return false
		}
	}
	if w.leader() == nil {
		return false
	}
	for _, h := range w.hosts {
		if !h.alive() {
			return false
		}
		if l := h.proc.node.Look(); !l.Founded || l.CatchingUp || l.Leader == 0 || !l.Voter {
			return false
		}
	}
	return true
}

// equal tells whether all workers have applied the same.
func (w *world) equal() bool {
	index := uint64(0)
	for _, h := range w.hosts {
		if !h.alive() {
			return false
		}
		l := h.proc.node.Look()
		if l.Applied != l.Last || index != 0 && l.Applied != index {
			return false
		}
		index = l.Applied
	}
	return true
}

// finish makes the last checks: I6, I11, and every key read everywhere (I2).
func (w *world) finish() {
	w.done = true
	now := w.now + 1
	for _, h := range w.hosts {
		l := h.proc.node.Look()
		w.check.hash(h.proc, w.check.book(l.Cluster), l.Applied)
		w.check.trail(h.proc)
		view := h.proc.node.Local()
		for i := range keyCount {
			for _, suffix := range []string{"", "b"} {
				key := fmt.Sprintf("k%d%s", i, suffix)
				item, ok := view.Get(bucket, key)
				w.clients.history = append(w.clients.history, operation{client: clientCount + h.i, call: now, back: now + 1,
					request: request{kind: "get", key: key}, answer: answer{value: string(item.Value), rev: item.Rev, done: ok}})
			}
		}
		now += 2
	}
}

func (w *world) report() Result {
	r := w.result
	r.Simulated, r.Events, r.Turns, r.Failure = time.Duration(w.now), w.events, w.turns, w.failure
	r.Operations = len(w.clients.history)
	for _, o := range w.clients.history {
		if o.unknown {
			r.Unknown++
		}
	}
	for group := range w.vips {
		r.Moves += w.check.moves[uint16(group)]
		for _, g := range w.check.gaps[uint16(group)] {
			r.MaxGap = max(r.MaxGap, time.Duration(g.to-g.from))
		}
	}
	r.Frozen, r.FrozenMax = w.check.frozenDoubles, time.Duration(w.check.frozenLongest)
	r.Entries, r.Hashes = w.check.entriesChecked, w.check.hashesChecked
	r.Plan = w.plan
	if w.failure != nil {
		r.Trace = w.trace.last(80)
	}
	return r
}
