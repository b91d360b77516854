package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/node"
)

// process is one worker from its start to its end.
type process struct {
	h           *host
	w           *world
	incarnation uint64
	node        *node.Stepped
	mesh        *mesh
	link        *procLink
	sched       *rand.Rand // how long its steps take

	// cursor is the true time of the instant that its code has reached. Within
	// a turn it moves a little with every reading of the clock, so that any two
	// neighbouring readings and effects can be torn apart.
	cursor   int64
	busy     int64 // until when the present turn of the loop lasts
	turnAt   int64 // of the next turn, 0 = none planned
	inTurn   bool
	turnFrom int64  // when the last one began
	tear     int64  // a pause that falls into the next turn
	tearVM   bool   // that the whole machine makes
	tearAt   int    // after so many readings of the clock
	began    uint64 // turns

	stopUntil int64 // SIGSTOP until then
	held      int   // datagrams that wait in its sockets
	dead      bool
	diedAt    int64
	ending    bool // has done its last turn
	pulse     [2]pulse

	diskPlanned bool
	diskLate    int64 // how much longer the write under way takes than the simulator lets it
	failedAt    int64 // true time of an injected error of the log, 0 = none
}

// pulse is one heartbeat: the instant, and what the clock read.
type pulse struct{ at, local int64 }

// at lets the process do something at a true time: not when it is dead by then,
// and later when it is stopped.
func (p *process) at(t int64, do func()) {
	p.h.at(t, func() {
		switch {
		case p.dead:
		case p.stopUntil > p.w.now:
			p.at(p.stopUntil, do)
		default:
			do()
		}
	})
}

// effect is something that the code under way does to the world: it happens at
// the instant that the code has reached, unless the process is dead by then.
func (p *process) effect(do func()) {
	t := p.cursor
	if t <= p.w.now {
		do()
		return
	}
	p.w.at(t, func() {
		if !p.dead {
			do()
		}
	})
}

// run enters the worker's code at the present instant.
func (p *process) run(do func()) {
	w := p.w
	p.cursor = w.now
	w.dice.current = p.h.product
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		var t trapped
		if err, ok := r.(error); ok && errors.As(err, &t) {
			t.then()
			return
		}
		w.violate("panic", "%s: %v\n%s", p.h.name, r, debug.Stack())
	}()
	do()
}

// tick moves the cursor as far as code between two readings of the clock takes,
// which is rarely long, and returns the reading.
func (p *process) tick() int64 {
	r := p.sched
	p.cursor += 500 + r.Int64N(12_000)
	if r.Uint32()>>19 == 0 { // one in 8,192
		p.cursor += r.Int64N(3 * int64(p.w.timing.Beat))
	}
	if p.tear > 0 && p.inTurn {
		if p.tearAt--; p.tearAt <= 0 {
			p.torn()
		}
	}
	p.cursor = p.h.clk.thaw(p.cursor)
	return p.h.clk.local(p.cursor)
}

// torn stops process or machine in the middle of a turn.
func (p *process) torn() {
	d := p.tear
	p.tear = 0
	if p.tearVM {
		p.h.freeze(p.cursor, d)
		return
	}
	p.cursor += d
}

// Boottime implements clock.Source.
func (p *process) Boottime() int64 { return p.tick() }

func (p *process) wall() time.Time {
	return epoch0.Add(time.Duration(p.cursor) + p.h.wallOff)
}

func (p *process) sleep(d time.Duration) { p.cursor += int64(d) }

// wake plans a turn at t, unless an earlier one is planned.
func (p *process) wake(t int64) {
	if p.dead || p.ending {
		return
	}
	t = max(t, p.busy, p.w.now)
	if p.turnAt != 0 && p.turnAt <= t {
		return
	}
	p.turnAt = t
	p.at(t, func() {
		if p.turnAt != t || p.ending {
			return
		}
		p.turnAt = 0
		if p.busy > p.w.now { // it was planned by what came within that turn
			p.wake(p.busy)
			return
		}
		p.turn()
	})
}

// soon plans a turn for what has just come.
func (p *process) soon() { p.wake(p.w.now + 2000 + p.sched.Int64N(40_000)) }

// deliver hands something to the worker from outside of its loop.
func (p *process) deliver(do func()) {
	p.at(p.w.now, func() {
		if p.ending || p.node == nil {
			return
		}
		p.run(do)
		p.soon()
	})
}

func (p *process) turn() {
	var next int64
	var ended bool
	var err error
	p.inTurn, p.turnFrom = true, p.w.now
	p.began++
	p.run(func() { next, ended, err = p.node.Turn() })
	p.inTurn = false
	p.busy = p.cursor
	if p.dead || p.w.failure != nil {
		return
	}
	p.w.turns++
	if ended {
		p.ending = true
		p.effect(func() { p.exit(err) })
		return
	}
	at := max(p.h.clk.when(next), p.busy) + p.sched.Int64N(60_000)
	if p.node.Busy() {
		at = p.busy + 1000 + p.sched.Int64N(20_000)
	}
	p.wake(at)
	p.effect(func() { // not when it is killed within the turn
		if p.node != nil {
			p.w.check.turned(p)
		}
	})
}

// exit is the end of the process by itself.
func (p *process) exit(err error) {
	if p.dead {
		return
	}
	p.w.note("%s worker ends: %v", p.h.name, err)
	p.kill()
	if g := p.h.guard; g != nil && g.child == p {
		g.exited(err)
	}
}

// kill ends the process at once.
func (p *process) kill() {
	if p.dead {
		return
	}
	p.dead, p.diedAt = true, p.w.now
	p.h.disk.mem.Exit()
	p.w.net.died(p)
	p.w.check.processEnded(p)
	p.node = nil
}

// job runs something beside the loop.
func (p *process) job(delay int64, do func()) {
	p.at(max(p.cursor, p.w.now)+delay, func() {
		p.run(do)
		p.soon()
	})
}

// Go implements node.Host.
func (p *process) goJob(do func()) { p.job(span(p.sched, 10*time.Microsecond, 2*time.Millisecond), do) }

// jobRow is a row of jobs that are done one after the other.
type jobRow struct {
	p       *process
	limit   int
	jobs    []func()
	running bool
}

func (p *process) newRow(limit int) node.Queue { return &jobRow{p: p, limit: limit} }

// Submit implements node.Queue.
func (q *jobRow) Submit(job func()) bool {
	if len(q.jobs) >= q.limit {
		return false
	}
	q.jobs = append(q.jobs, job)
	q.next()
	return true
}

// Close implements node.Queue: what waits ends with the process.
func (q *jobRow) Close() {}

func (q *jobRow) next() {
	if q.running || len(q.jobs) == 0 {
		return
	}
	q.running = true
	q.p.job(span(q.p.sched, 50*time.Microsecond, 2*time.Millisecond), func() {
		job := q.jobs[0]
		q.jobs = q.jobs[1:]
		q.running = false
		job()
		q.next()
	})
}

// logWork plans the write of what the log was given.
func (p *process) logWork() {
	if p.diskPlanned || p.dead {
		return
	}
	p.diskPlanned = true
	t := max(p.cursor, p.w.now)
	late := p.h.disk.latency(t)
	p.at(t+late, func() {
		p.diskPlanned = false
		if p.node == nil || p.ending {
			return
		}
		p.diskLate = late
		p.run(func() { p.node.Disk() })
		p.diskLate = 0
		if p.dead {
			return
		}
		p.w.check.wrote(p)
		p.soon()
	})
}

// stepsNow is the clock by which the worker measures how long its disk takes.
func (p *process) stepsNow() time.Time {
	return time.Unix(0, p.h.clk.local(p.cursor)-p.diskLate)
}

// procLink is the worker's end of the connection to its guard.
type procLink struct {
	p      *process
	events chan guard.Event
	closed bool
}

func (l *procLink) Events() <-chan guard.Event { return l.events }

func (l *procLink) Beat() {
	p := l.p
	local := p.h.clk.local(p.cursor)
	if p.pulse[1].at <= p.w.now {
		p.pulse[0] = p.pulse[1]
	}
	p.pulse[1] = pulse{p.cursor, local}
}

func (l *procLink) Testify(t guard.Testament) error {
	p := l.p
	p.effect(func() {
		if g := p.h.guard; g != nil && g.child == p {
			g.at(p.w.now+span(p.sched, 20*time.Microsecond, time.Millisecond), func() { g.testified(p, t) })
		}
	})
	return nil
}

func (l *procLink) Ready() error { return nil }

func (l *procLink) Stopping() error { return nil }

func (l *procLink) Close() error { return nil }

// guardGone closes the link: the guard's end of it is gone.
func (l *procLink) guardGone() {
	if l.closed || l.p.dead {
		return
	}
	l.closed = true
	close(l.events)
	l.p.at(l.p.w.now, func() { l.p.soon() })
}

// lastPulse is the last beat of the loop before true time t, local, 0 for none.
func (p *process) lastPulse(t int64) int64 {
	if p.pulse[1].at <= t {
		return p.pulse[1].local
	}
	return p.pulse[0].local
}

// trapped is how a crash in the middle of an operation of the disk unwinds.
type trapped struct{ then func() }

func (trapped) Error() string { return "the simulator ends this process" }

func (p *process) String() string { return fmt.Sprintf("%s/%x", p.h.name, p.incarnation>>48) }
