package sim

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/wal"
)

// serviceRestart is how soon the host's service manager starts a guard that has
// ended.
const serviceRestart = time.Second

// guardProc is the model of one guard process: rules G5 and G7, in the order
// and with the times of internal/guard.
type guardProc struct {
	h         *host
	rnd       *rand.Rand
	dead      bool
	stopUntil int64
	stopping  bool // it was asked to stop, and will not start another worker

	child     *process
	testament *guard.Testament
	since     int64 // local: silence before does not count
	wakeAt    int64 // local: when the present check was to be
	stopBy    int64 // local, 0 = not asked to stop
	startedAt int64 // local
	backoff   time.Duration
	burying   bool
}

// at lets the guard do something: not when it is dead by then, and later when
// it is stopped.
func (g *guardProc) at(t int64, do func()) {
	g.h.at(t, func() {
		switch {
		case g.dead:
		case g.stopUntil > g.h.w.now:
			g.at(g.stopUntil, do)
		default:
			do()
		}
	})
}

// in is at after a time that the guard needs.
func (g *guardProc) in(lo, hi time.Duration, do func()) { g.at(g.h.w.now+span(g.rnd, lo, hi), do) }

func (g *guardProc) local() int64 { return g.h.clk.local(g.h.w.now) }

func (g *guardProc) draw() uint64 { return g.rnd.Uint64() | 1 }

// startGuard starts a guard on a host that has none, as its service manager does.
func (h *host) startGuard() {
	if h.guard != nil || !h.powered {
		return
	}
	h.guards++
	g := &guardProc{h: h, rnd: h.guardRnd}
	h.guard = g
	h.w.note("%s guard starts", h.name)
	g.in(5*time.Millisecond, 60*time.Millisecond, g.takeOver)
}

// takeOver is what a new guard begins with: the number, the values, the worker
// that is left over, the values again, the addresses (PROTOCOL section 2).
func (g *guardProc) takeOver() {
	h := g.h
	h.gate.setNumber(g.draw())
	g.in(10*time.Microsecond, 300*time.Microsecond, func() {
		h.gate.closeAll()
		g.in(10*time.Microsecond, time.Millisecond, func() {
			if h.proc != nil {
				h.proc.kill()
				h.proc = nil
			}
			g.in(10*time.Microsecond, 5*time.Millisecond, func() {
				h.gate.closeAll()
				h.kernel.clear()
				g.start()
			})
		})
	})
}

// start forks a worker under a new incarnation (G7: the one before is gone).
func (g *guardProc) start() {
	if g.stopping {
		g.end()
		return
	}
	h := g.h
	number := g.draw()
	h.gate.setNumber(number)
	g.testament, g.burying, g.stopBy = nil, false, 0
	g.startedAt = g.local()
	g.since = g.startedAt
	p := h.newProcess(number)
	g.child, h.proc = p, p
	g.in(3*time.Millisecond, 40*time.Millisecond, func() { p.at(h.w.now, p.open) })
	g.check(p)
}

// check looks whether the worker hangs, at the instants at which it could.
func (g *guardProc) check(p *process) {
	now := g.local()
	limit := int64(guard.DefaultStartLimit)
	last := p.lastPulse(g.h.w.now)
	if last != 0 && g.testament != nil {
		limit = int64(g.testament.HangLimit)
	}
	last = max(last, g.since)
	next := min(last+limit+1, now+int64(guard.MaxCheck))
	if g.stopBy != 0 {
		next = min(next, g.stopBy+1)
	}
	g.wakeAt = max(next, now+int64(time.Millisecond))
	g.at(g.h.clk.when(g.wakeAt)+g.rnd.Int64N(100_000), func() { g.checked(p) })
}

func (g *guardProc) checked(p *process) {
	if g.child != p || g.burying {
		return
	}
	now := g.local()
	if now-g.wakeAt > int64(guard.LateLimit) {
		g.since = now // late itself: it judges nobody
	}
	limit := int64(guard.DefaultStartLimit)
	pulse := p.lastPulse(g.h.w.now)
	if pulse != 0 && g.testament != nil {
		limit = int64(g.testament.HangLimit)
	}
	switch {
	case now-max(pulse, g.since) > limit:
		g.h.w.note("%s guard: worker hung", g.h.name)
		g.bury()
	case g.stopBy != 0 && now > g.stopBy:
		g.bury()
	default:
		g.check(p)
	}
}

// testified stores the testament and acknowledges it.
func (g *guardProc) testified(p *process, t guard.Testament) {
	if g.child != p || g.burying {
		return
	}
	g.testament = &t
	g.in(10*time.Microsecond, time.Millisecond, func() {
		if !p.dead {
			p.deliver(func() { p.node.Guard(guard.Event{Kind: guard.Acknowledged}) })
		}
	})
}

// exited: the worker is gone, which its parent is told at once.
func (g *guardProc) exited(err error) {
	var damage *storage.DamageError
	if errors.Is(err, wal.ErrCorrupt) || errors.As(err, &damage) {
		g.stopping = true
		g.h.w.check.integrity(g.h, err)
	}
	g.in(20*time.Microsecond, 2*time.Millisecond, func() {
		if !g.burying {
			g.bury()
		}
	})
}

// bury is SIGKILL, close, read back, notes, addresses, in this order (G5).
func (g *guardProc) bury() {
	g.burying = true
	p := g.child
	if p != nil {
		p.kill()
	}
	g.in(5*time.Microsecond, 200*time.Microsecond, func() {
		g.h.gate.closeAll()
		g.in(guard.NoteDelay, guard.NoteDelay+300*time.Microsecond, func() {
			g.sendNote()
			g.in(100*time.Microsecond, time.Millisecond, func() {
				g.h.kernel.clear()
				g.repeat(0)
			})
		})
	})
}

func (g *guardProc) repeat(n int) {
	if n < len(guard.NoteRepeats) {
		g.in(guard.NoteRepeats[n], guard.NoteRepeats[n]+time.Millisecond, func() {
			g.sendNote()
			g.repeat(n + 1)
		})
		return
	}
	g.child, g.h.proc = nil, nil // reaped
	if g.stopping {
		g.end()
		return
	}
	if g.local()-g.startedAt > int64(guard.BackoffReset) {
		g.backoff = 0
	}
	g.backoff = min(max(2*g.backoff, guard.BackoffFirst), guard.BackoffMost)
	g.at(g.h.clk.when(g.local()+int64(g.backoff)), g.start)
}

// sendNote sends the `over` note to everyone.
func (g *guardProc) sendNote() {
	if g.testament == nil {
		return
	}
	note := append([]byte(nil), g.testament.Over...)
	g.h.w.check.noteLeaves(g.h, note)
	for _, to := range g.testament.Targets {
		if other := g.h.w.hostAt(to); other != nil {
			g.h.w.net.note(g.h, other, g.h.w.now, note)
		}
	}
}

// askStop is SIGTERM: the worker hands over and exits, then the guard ends.
func (g *guardProc) askStop() {
	if g.stopping {
		return
	}
	g.stopping = true
	if g.child == nil || g.burying {
		return
	}
	p := g.child
	g.stopBy = g.local() + int64(guard.DefaultStopLimit)
	p.deliver(func() { p.node.Guard(guard.Event{Kind: guard.Stop, Text: "stop"}) })
}

// end is the planned end of the guard; when the plan wants it no more, the
// service manager starts another.
func (g *guardProc) end() {
	g.dead = true
	g.h.guard = nil
	g.h.w.note("%s guard ends", g.h.name)
	if !g.h.keepDown {
		g.h.at(g.h.w.now+int64(serviceRestart), g.h.startGuard)
	}
}

// kill is the death of the guard alone: the programs stay attached and the
// worker sees the link close.
func (g *guardProc) kill() {
	g.dead = true
	g.h.guard = nil
	if p := g.child; p != nil && !p.dead && p.link != nil {
		p.link.guardGone()
	}
}

// noteOf reads a note; ok is false for what is none.
func noteOf(raw []byte) (lease.Note, bool) {
	n, err := lease.ParseNote(raw)
	return n, err == nil
}
