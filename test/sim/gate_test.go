package sim

import (
	"testing"
	"time"
)

// bench is a world of hosts without workers.
func bench(t *testing.T) *world {
	t.Helper()
	w, err := build(Options{Seed: 1, Profile: "default", Members: 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range w.hosts {
		h.keepDown = true
		h.ppm = 0
		h.powerOn()
	}
	w.result.Faults = map[string]int{}
	return w
}

// pass carries the world on for a while.
func (w *world) pass(d time.Duration) {
	end := w.now + int64(d)
	w.loop(end)
}

func (h *host) open(d time.Duration) {
	now := h.clk.local(h.w.now)
	h.gate.write(0, now+int64(d), now, h.gate.number)
}

func want(t *testing.T, w *world, what string) {
	t.Helper()
	switch {
	case what == "" && w.failure != nil:
		t.Fatalf("violation %v", w.failure)
	case what != "" && (w.failure == nil || w.failure.What != what):
		t.Fatalf("violation %v, want %s", w.failure, what)
	}
}

// I1: the check sees a double, and the margins behind an end.
func TestI1Overlap(t *testing.T) {
	const lease = 300 * time.Millisecond
	for _, tc := range []struct {
		name string
		end  func(w *world, a *host)
		wait time.Duration
		what string
	}{
		{"open", func(*world, *host) {}, 0, "I1"},
		{"deadline passed just now", func(w *world, _ *host) { w.pass(lease) }, 10 * time.Millisecond, "I1"},
		{"deadline passed an epsilon ago", func(w *world, _ *host) { w.pass(lease) }, 21 * time.Millisecond, ""},
		{"closed just now", func(_ *world, a *host) { a.gate.zero(0) }, 500 * time.Microsecond, "I1"},
		{"closed a millisecond ago", func(_ *world, a *host) { a.gate.zero(0) }, time.Millisecond, ""},
		{"number changed", func(_ *world, a *host) { a.gate.setNumber(9) }, time.Millisecond, ""},
		{"power lost", func(_ *world, a *host) { a.powerOff() }, 0, ""},
		{"still open when the other closes late", func(w *world, _ *host) { w.pass(lease / 2) }, 0, "I1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := bench(t)
			a, b := w.hosts[0], w.hosts[1]
			a.gate.setNumber(7)
			b.gate.setNumber(8)
			a.open(lease)
			if w.check.holders(0) != 1 {
				t.Fatal("gate not open")
			}
			tc.end(w, a)
			w.pass(tc.wait)
			b.open(lease)
			want(t, w, tc.what)
		})
	}
}

// A conflict closes the gate, and only a request from after it opens it again
// (PROTOCOL 2); a stranger's claim does nothing.
func TestGateConflict(t *testing.T) {
	w := bench(t)
	a := w.hosts[0]
	a.gate.setNumber(7)
	a.gate.members = map[[6]byte]uint64{w.hosts[1].mac: 2}
	a.open(time.Second)
	old := a.clk.local(w.now)
	w.pass(time.Millisecond)
	a.gate.claim(0, [6]byte{9})
	if w.check.holders(0) != 1 {
		t.Fatal("a stranger has closed the gate")
	}
	a.gate.claim(0, w.hosts[1].mac)
	if w.check.holders(0) != 0 {
		t.Fatal("a member's claim has not closed the gate")
	}
	a.gate.write(0, old+int64(2*time.Second), old, 7)
	if w.check.holders(0) != 0 {
		t.Fatal("a request from before the claim has opened the gate")
	}
	w.pass(time.Millisecond)
	a.open(time.Second)
	if w.check.holders(0) != 1 {
		t.Fatal("a later request has not opened the gate")
	}
	want(t, w, "")
}

// A frozen machine answers nothing; what its gate lets through afterwards is
// counted apart, and no longer than a lease.
func TestFrozenDouble(t *testing.T) {
	for _, tc := range []struct {
		left time.Duration // of the lease, when it is frozen
		what string
	}{{100 * time.Millisecond, ""}, {time.Second, "I1"}} {
		w := bench(t)
		a, b := w.hosts[0], w.hosts[1]
		a.gate.setNumber(7)
		b.gate.setNumber(8)
		a.open(tc.left)
		w.pass(time.Millisecond)
		a.freeze(w.now, int64(3*time.Second))
		w.pass(time.Second)
		if w.check.holders(0) != 0 {
			t.Fatal("a frozen machine counts as open")
		}
		b.open(10 * time.Second)
		w.pass(8 * time.Second)
		want(t, w, tc.what)
		if w.check.frozenDoubles != 1 {
			t.Fatalf("%d doubles after a freeze, want 1", w.check.frozenDoubles)
		}
	}
}

// A cut in one direction stops what goes that way and nothing else, and a
// partition of more than the idle limit ends connections.
func TestCut(t *testing.T) {
	w := bench(t)
	a, b := w.hosts[0], w.hosts[1]
	there, back := 0, 0
	w.net.setCut(a, b, true)
	w.net.datagram(a, b, w.now, func() { there++ })
	w.net.datagram(b, a, w.now, func() { back++ })
	w.pass(time.Second)
	if there != 0 || back != 1 {
		t.Fatalf("%d datagrams through the cut, %d the other way", there, back)
	}
	w.net.setCut(a, b, false)
	w.net.datagram(a, b, w.now, func() { there++ })
	w.pass(time.Second)
	if there != 1 {
		t.Fatal("the cut has not ended")
	}
}
