package sim

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Fault is one thing that happens to a cluster. A plan is a list of them, drawn
// from the seed before the run; ID stays with a fault when others are cut from
// the plan, so that it draws the same.
type Fault struct {
	ID    int
	At    time.Duration
	Kind  string
	Host  string // a name, or @holder, @standby, @leader, @follower at that time
	Other string // the other end of a link
	Hold  time.Duration
	P     float64 // of storms
}

func (f Fault) String() string {
	s := fmt.Sprintf("%d: %v %s", f.ID, f.At.Round(time.Microsecond), f.Kind)
	if f.Host != "" {
		s += " " + f.Host
	}
	if f.Other != "" {
		s += " -> " + f.Other
	}
	if f.Hold > 0 {
		s += " for " + f.Hold.Round(time.Microsecond).String()
	}
	if f.P > 0 {
		s += fmt.Sprintf(" p %.2f", f.P)
	}
	return s
}

// kinds are the kinds of faults with their weights.
var kinds = []struct {
	name   string
	weight int
}{
	{"worker-crash", 8}, {"guard-crash", 4}, {"both-crash", 3}, {"power", 8}, {"site-power", 1},
	{"pause-worker", 7}, {"pause-guard", 2}, {"pause-both", 4}, {"freeze", 5},
	{"cut", 6}, {"cut-both", 6}, {"isolate", 5}, {"deaf", 4}, {"mute", 4},
	{"loss", 4}, {"dup", 3}, {"reorder", 3}, {"delay", 3}, {"outliers", 2}, {"reset", 3},
	{"slow-disk", 3}, {"hang-disk", 3}, {"sync-error", 3}, {"write-error", 2}, {"full", 2}, {"cut-write", 4}, {"kill-write", 3},
	{"rot", 2}, {"rot-stopped", 2}, {"wipe", 2}, {"member", 1},
	{"switchover", 8}, {"maintenance", 3}, {"fence", 2}, {"restart", 5}, {"stop-leader", 2},
	{"carrier", 4}, {"address", 3}, {"claim", 2}, {"rate", 3},
}

// spoils tells whether a fault of this kind takes data away: only one host of a
// cluster suffers such, else nothing would be promised (F4).
func spoils(kind string) bool {
	switch kind {
	case "rot", "rot-stopped", "wipe", "member":
		return true
	}
	return false
}

// Times of a run; those behind scale depend on the profile.
const (
	quietStart  = 4 * time.Second  // scaled: founding, first holder
	faultTime   = 18 * time.Second // scaled
	longestHold = 6 * time.Second  // scaled
)

func (w *world) scaled(d time.Duration) time.Duration { return time.Duration(float64(d) * w.scale) }

// draw makes the plan of the seed.
func (w *world) draw() []Fault {
	r := stream(w.seed, "plan")
	victim := w.hosts[r.IntN(len(w.hosts))].name
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	// A seed has a taste: some kinds are left out, so that what remains meets
	// itself more often.
	out := map[string]bool{}
	if chance(r, 0.5) {
		for _, k := range kinds {
			out[k.name] = chance(r, 0.6)
		}
		out["worker-crash"] = false
	}
	var plan []Fault
	at := w.scaled(quietStart)
	end := at + w.scaled(faultTime)
	for len(plan) < 60 {
		at += w.pause(r)
		if at >= end {
			break
		}
		f := Fault{ID: len(plan) + 1, At: at, Kind: pick(r, total)}
		for out[f.Kind] {
			f.Kind = pick(r, total)
		}
		f.Host = w.victim(r)
		if spoils(f.Kind) {
			f.Host = victim
		}
		f.Other = w.hosts[r.IntN(len(w.hosts))].name
		f.Hold = min(w.hold(r), end-at)
		f.P = []float64{0.02, 0.1, 0.3, 0.6}[r.IntN(4)]
		plan = append(plan, f)
	}
	return plan
}

// pause is the time to the next fault: often much shorter than what the cluster
// needs to get over the last, sometimes long enough.
func (w *world) pause(r *rand.Rand) time.Duration {
	switch x := r.Float64(); {
	case x < 0.35:
		return time.Duration(span(r, 0, w.timing.Promise))
	case x < 0.8:
		return time.Duration(span(r, 0, 4*w.timing.Promise))
	}
	return w.scaled(time.Duration(span(r, 2*time.Second, 5*time.Second)))
}

// hold is how long a fault lasts: from less than a beat to many promises.
func (w *world) hold(r *rand.Rand) time.Duration {
	switch x := r.Float64(); {
	case x < 0.3:
		return time.Duration(span(r, w.timing.Beat/2, w.timing.Promise))
	case x < 0.75:
		return time.Duration(span(r, w.timing.Promise/2, 4*w.timing.Promise))
	}
	return w.scaled(time.Duration(span(r, time.Second, longestHold)))
}

func pick(r *rand.Rand, total int) string {
	n := r.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k.name
		}
	}
	panic("no kind")
}

func (w *world) victim(r *rand.Rand) string {
	switch x := r.Float64(); {
	case x < 0.35:
		return "@holder"
	case x < 0.55:
		return "@leader"
	case x < 0.65:
		return "@standby"
	}
	return w.hosts[r.IntN(len(w.hosts))].name
}

// resolve finds the host that a fault speaks of, at the time of the fault.
func (w *world) resolve(name string) *host {
	if h := w.byName[name]; h != nil {
		return h
	}
	holder, leader := w.holder(0), w.leader()
	switch name {
	case "@holder":
		if holder != nil {
			return holder
		}
	case "@leader":
		if leader != nil {
			return leader
		}
	case "@standby":
		for _, h := range w.hosts {
			if h.gateway && h != holder {
				return h
			}
		}
	case "@follower":
		for _, h := range w.hosts {
			if h != leader && h != holder {
				return h
			}
		}
	}
	return w.hosts[0]
}

// holder is who holds a group, nil for nobody.
func (w *world) holder(group uint16) *host {
	if list := w.check.open[group]; len(list) > 0 {
		return list[len(list)-1].h
	}
	return nil
}

// leader is the worker that leads the highest term.
func (w *world) leader() *host {
	var best *host
	term := uint64(0)
	for _, h := range w.hosts {
		if !h.alive() {
			continue
		}
		if l := h.proc.node.Look(); l.Leads && l.Term >= term {
			best, term = h, l.Term
		}
	}
	return best
}

// alive tells whether a worker runs on the host.
func (h *host) alive() bool {
	return h.powered && h.proc != nil && !h.proc.dead && !h.proc.ending && h.proc.node != nil
}
