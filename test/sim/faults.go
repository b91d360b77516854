package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/transport"
)

// schedule puts the plan on the agenda.
func (w *world) schedule() {
	for _, f := range w.plan {
		w.at(int64(f.At), func() { w.apply(f) })
	}
}

// apply lets a fault happen, and plans its end.
func (w *world) apply(f Fault) {
	w.begin()
	w.strikes++
	w.result.Faults[f.Kind]++
	h := w.resolve(f.Host)
	w.note("FAULT %v (%s)", f, h.name)
	r := stream(w.seed, fmt.Sprintf("fault %d", f.ID))
	hold := int64(f.Hold)
	end := w.faultsOf(f, h, r)
	w.at(w.now+hold, func() {
		if end != nil {
			end()
		}
		w.end()
	})
}

func (w *world) begin() {
	if w.active == 0 {
		w.calm.ends(w)
	}
	w.active++
}

func (w *world) end() {
	w.active--
	if w.active == 0 {
		w.calm.since = w.now
	}
}

// faultsOf does what the kind says and returns what ends it.
func (w *world) faultsOf(f Fault, h *host, r *rand.Rand) (end func()) {
	hold := int64(f.Hold)
	switch f.Kind {
	case "worker-crash":
		h.killWorker()
	case "guard-crash":
		h.killGuard(hold)
	case "both-crash":
		h.killWorker()
		h.killGuard(hold)
	case "power":
		h.powerOff()
		return h.powerOn
	case "site-power":
		return w.sitePower(r)
	case "pause-worker", "pause-guard", "pause-both":
		h.pause(f.Kind != "pause-guard", f.Kind != "pause-worker", hold, r)
	case "freeze":
		h.freezeSoon(hold, r)
	case "cut", "cut-both", "isolate", "deaf", "mute":
		return w.partition(f.Kind, h, w.resolve(f.Other))
	case "loss", "dup", "reorder", "delay", "outliers":
		return w.storm(f, h, r)
	case "reset":
		for _, p := range w.net.pairs {
			if c := p.conn; c != nil && (p.a == h || p.b == h) && chance(r, 0.7) {
				c.breakUp(transport.ErrIdle, 0)
			}
		}
	case "slow-disk", "hang-disk", "sync-error", "write-error", "full", "cut-write", "kill-write":
		return h.diskFault(f, r)
	case "rot", "rot-stopped", "wipe", "member":
		return w.spoil(f, h, r)
	case "rate":
		change := func() {
			h.ppm = drawRate(h, w.opt.Mode)
			h.clk.setRate(w.now, h.ppm)
			h.gate.lookAll(endedByDeadline)
		}
		switch {
		case !h.powered:
		case h.proc == nil:
			change()
		default:
			h.proc.between(change) // what it has read of the clock stays
		}
	default:
		return w.operate(f, h, r)
	}
	return nil
}

func (h *host) killWorker() {
	p := h.proc
	if p == nil || p.dead || !h.powered {
		return
	}
	p.kill()
	if h.guard != nil && h.guard.child == p {
		h.guard.exited(errKilled)
	}
}

var errKilled = fmt.Errorf("killed by the plan")

func (h *host) killGuard(hold int64) {
	if h.guard == nil || !h.powered {
		return
	}
	h.guard.kill()
	h.at(h.w.now+min(hold, int64(time.Second))+int64(20*time.Millisecond), h.startGuard)
}

// pause stops processes; that of a worker may fall into the middle of a turn.
func (h *host) pause(worker, guard bool, d int64, r *rand.Rand) {
	if guard && h.guard != nil {
		h.guard.stopUntil = h.w.now + d
	}
	p := h.proc
	if !worker || !h.alive() {
		return
	}
	if chance(r, 0.5) {
		p.tear, p.tearVM, p.tearAt = d, false, 1+r.IntN(12)
		return
	}
	p.between(func() {
		p.stopUntil = h.w.now + d
		h.w.at(p.stopUntil, func() { p.stopUntil = 0 })
	})
}

// freezeSoon stops the machine, perhaps in the middle of a turn.
func (h *host) freezeSoon(d int64, r *rand.Rand) {
	if !h.powered {
		return
	}
	if h.alive() && chance(r, 0.5) {
		h.proc.tear, h.proc.tearVM, h.proc.tearAt = d, true, 1+r.IntN(12)
		return
	}
	if h.proc == nil {
		h.freeze(h.w.now, d)
		return
	}
	h.proc.between(func() { h.freeze(h.w.now, d) })
}

// between does something between two turns of the loop: now, or when the turn
// that has begun is over.
func (p *process) between(do func()) {
	if p.busy <= p.w.now || p.dead {
		do()
		return
	}
	p.w.at(p.busy, func() {
		if p.h.powered {
			p.between(do)
		}
	})
}

func (w *world) sitePower(r *rand.Rand) (end func()) {
	for _, h := range w.hosts {
		w.at(w.now+r.Int64N(int64(20*time.Millisecond)), h.powerOff)
	}
	return func() {
		for _, h := range w.hosts {
			w.at(w.now+r.Int64N(int64(2*time.Second)), h.powerOn)
		}
	}
}

// partition cuts links.
func (w *world) partition(kind string, h, other *host) (end func()) {
	var cut []*link
	for _, o := range w.hosts {
		if o == h {
			continue
		}
		if one := kind == "cut" || kind == "cut-both"; one && o != other && other != h {
			continue
		}
		if kind != "mute" && kind != "cut" {
			cut = append(cut, w.net.link(o, h))
		}
		if kind != "deaf" {
			cut = append(cut, w.net.link(h, o))
		}
	}
	for _, l := range cut {
		w.net.setCut(l.from, l.to, true)
	}
	return func() {
		for _, l := range cut {
			w.net.setCut(l.from, l.to, false)
		}
	}
}

// storm makes links of a host, or all of them, bad.
func (w *world) storm(f Fault, h *host, r *rand.Rand) (end func()) {
	all := chance(r, 0.4)
	var links []*link
	for _, row := range w.net.links {
		for _, l := range row {
			if l != nil && (all || l.from == h || l.to == h) {
				links = append(links, l)
			}
		}
	}
	slow := span(r, time.Millisecond, max(4*w.timing.Promise/5, 2*time.Millisecond))
	set := func(l *link, on bool) {
		list := map[string]*[]float64{"loss": &l.loss, "dup": &l.dup, "reorder": &l.reorder}[f.Kind]
		switch {
		case f.Kind == "outliers":
			l.outliers = on
		case f.Kind == "delay" && on:
			l.slow = append(l.slow, slow)
		case f.Kind == "delay":
			l.slow = l.slow[1:]
		case on:
			*list = append(*list, f.P)
		default:
			*list = remove(*list, f.P)
		}
	}
	for _, l := range links {
		set(l, true)
	}
	return func() {
		for _, l := range links {
			set(l, false)
		}
	}
}

func remove(list []float64, p float64) []float64 {
	for i, x := range list {
		if x == p {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// diskFault is a fault of a host's disk that takes no confirmed data away.
func (h *host) diskFault(f Fault, r *rand.Rand) (end func()) {
	d := h.disk
	switch f.Kind {
	case "slow-disk":
		d.slow++
		d.slowBy = span(r, 20*time.Millisecond, time.Second)
		return func() { d.slow-- }
	case "hang-disk":
		d.hangUntil = max(d.hangUntil, h.w.now+int64(f.Hold))
	case "sync-error":
		d.failSync = true
		return func() { d.failSync = false }
	case "write-error":
		d.failWrite = true
		return func() { d.failWrite = false }
	case "full":
		d.mem.SetCapacity(d.mem.Used() + r.Int64N(256<<10))
		return func() { d.mem.SetCapacity(0) }
	case "cut-write", "kill-write":
		d.trapOps = r.IntN(8)
		d.trap = h.killWorker
		if f.Kind == "cut-write" {
			d.trap = h.powerOff
			return func() {
				d.trap = nil
				h.powerOn()
			}
		}
		return func() { d.trap = nil }
	}
	return nil
}

// spoil takes data of one host away.
func (w *world) spoil(f Fault, h *host, r *rand.Rand) (end func()) {
	switch f.Kind {
	case "rot":
		h.rot(r)
		return nil
	case "member":
		w.ask(nil, "member", map[string]any{"op": "remove", "name": h.name}, nil)
		return func() {
			w.insist("member", map[string]any{"op": "add", "name": h.name}, w.staysMember(h))
		}
	}
	h.powerOff()
	w.check.hosts[h.i].damaged = true
	if f.Kind == "wipe" {
		h.disk.wipe()
	} else {
		h.rot(r)
	}
	return h.powerOn
}

// rot changes a byte of a file of the host's data.
func (h *host) rot(r *rand.Rand) {
	var names []string
	for _, n := range h.disk.mem.Names() {
		if strings.HasPrefix(n, DataDir) && !strings.HasSuffix(n, "reserve") {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return
	}
	name := names[r.IntN(len(names))]
	info, err := h.disk.mem.Stat(name)
	if err != nil || info.Size == 0 {
		return
	}
	offset := r.Int64N(info.Size)
	if err := h.disk.mem.Flip(name, offset, byte(1<<r.IntN(8))); err == nil {
		h.w.check.hosts[h.i].damaged = true
		h.w.note("%s rot in %s at %d of %d", h.name, name, offset, info.Size)
	}
}

// operate is what operators, networks and neighbours do.
func (w *world) operate(f Fault, h *host, r *rand.Rand) (end func()) {
	switch f.Kind {
	case "switchover":
		w.switchover(r)
	case "maintenance":
		w.ask(nil, "maintenance", map[string]any{"node": h.name, "on": true}, nil)
		return func() { w.insist("maintenance", map[string]any{"node": h.name, "on": false}, nil) }
	case "fence":
		w.ask(nil, "fence", map[string]any{"node": h.name}, nil)
		return func() { w.insist("unfence", map[string]any{"node": h.name}, nil) }
	case "restart", "stop-leader":
		if f.Kind == "stop-leader" {
			if l := w.leader(); l != nil {
				h = l
			}
		}
		h.keepDown = true
		if h.guard != nil {
			h.guard.askStop()
		}
		return func() {
			h.keepDown = false
			if h.guard == nil {
				h.startGuard()
			} else if h.guard.stopping {
				w.at(w.now+int64(time.Second), h.startGuard)
			}
		}
	case "carrier":
		if !h.powered {
			return nil
		}
		k := h.kernel
		k.setCarrier(false)
		h.lookAtCarrier()
		return func() {
			k.setCarrier(true)
			h.lookAtCarrier()
		}
	case "address":
		if h.powered {
			for _, a := range w.vips {
				h.kernel.remove(a)
			}
		}
	case "claim":
		for range 1 + r.IntN(3) {
			for _, to := range w.hosts {
				if to.gateway && to.powered {
					w.net.arrived(to, func() { to.gate.claim(0, [6]byte{2, 9, 9, 9, 9, 9}) })
				}
			}
		}
	default:
		panic("fault of unknown kind " + f.Kind)
	}
	return nil
}

func (h *host) lookAtCarrier() { h.w.net.carrierChanged(h) }

// ask puts an operator's request to a worker, any one unless it is named.
func (w *world) ask(at *host, op string, body any, done func(json.RawMessage, *control.Error)) bool {
	if at == nil {
		r := stream(w.seed, fmt.Sprintf("ask %d", w.events))
		at = w.hosts[r.IntN(len(w.hosts))]
	}
	if !at.alive() || at.proc.stopUntil > w.now {
		return false
	}
	p := at.proc
	p.deliver(func() {
		p.node.Ask(op, body, func(raw json.RawMessage, err *control.Error) {
			p.effect(func() {
				if done != nil {
					done(raw, err)
				}
			})
		})
	})
	return true
}

// insist asks until somebody says that it was done, and so it is.
func (w *world) insist(op string, body any, so func() bool) {
	w.result.Insists++
	w.active++
	done := false
	var try func()
	try = func() {
		if done {
			return
		}
		w.ask(nil, op, body, func(_ json.RawMessage, err *control.Error) {
			if err != nil {
				w.note("operator %s %v: %v", op, body, err)
			}
			if ok := err == nil && so == nil || so != nil && so(); ok && !done {
				done = true
				w.end()
			}
		})
		w.at(w.now+int64(300*time.Millisecond), try)
	}
	try()
}

// staysMember returns a function that is true when a host was found to be a
// member so often in a row that no earlier removal can still be on its way.
func (w *world) staysMember(h *host) func() bool {
	since := int64(0)
	return func() bool {
		switch {
		case !w.isMember(h):
			since = 0
		case since == 0:
			since = w.now
		}
		return since != 0 && w.now-since > int64(w.scaled(3*time.Second))
	}
}

// isMember tells whether a host votes in the committed configuration, as the
// leader has it, and no change of that is under way.
func (w *world) isMember(h *host) bool {
	l := w.leader()
	if l == nil {
		return false
	}
	s := l.proc.node.State()
	m, ok := s.MemberByName(h.name)
	conf, _ := s.Conf()
	return ok && conf.Voter(m.RaftID) && len(conf.Outgoing) == 0
}

// switchover asks for a planned move of a group (I13).
func (w *world) switchover(r *rand.Rand) {
	group := uint16(r.IntN(len(w.vips)))
	var to *host
	for _, h := range w.hosts {
		if h.gateway && h != w.holder(group) && (to == nil || chance(r, 0.5)) {
			to = h
		}
	}
	if to == nil {
		return
	}
	quiet := w.active == 1 && w.now-w.calm.since > 4*int64(w.timing.Promise)
	began, strikes := w.now, w.strikes
	w.ask(nil, "failover", map[string]any{"to": to.name, "group": fmt.Sprintf("g%d", group+1)}, func(_ json.RawMessage, err *control.Error) {
		if err != nil {
			w.note("switchover refused: %v", err)
			return
		}
		w.result.Switchovers++
		w.note("switchover of group %d to %s done", group, to.name)
		limit := w.switchLimit()
		for _, g := range w.check.gaps[group] {
			if quiet && w.active <= 1 && w.strikes == strikes && g.from >= began && g.to-g.from > limit {
				w.violate("I13", "planned switchover of group %d from %s to %s left %v without holder, more than %v", group, g.was.name, g.is.name,
					time.Duration(g.to-g.from), time.Duration(limit))
			}
		}
	})
}

// switchLimit is the longest gap of a planned switchover while nothing else is
// wrong: a round trip and a commit, with what a slow turn adds.
func (w *world) switchLimit() int64 {
	if w.opt.Profile == "wan" {
		return int64(600 * time.Millisecond)
	}
	return int64(150*time.Millisecond) + int64(w.timing.Beat)
}
