package sim

import (
	"math/rand/v2"
	"testing"
)

// The clock never goes back, stands still while frozen, and when is its inverse.
func TestClock(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		c := newBootClock(r.Int64N(1e9), 1e12, r.Int64N(200_001)-100_000)
		at := c.pieces[0].at
		for range 6 {
			at += r.Int64N(1e9)
			if r.IntN(2) == 0 {
				d := r.Int64N(1e9)
				local := c.local(at)
				if c.freeze(at, at+d) && (c.local(at+d) != local || c.thaw(at+d/2) != at+d && d > 1) {
					t.Fatalf("frozen from %d for %d: reads %d then, %d at the end, thaws at %d", at, d, local, c.local(at+d), c.thaw(at+d/2))
				}
				at += d
			} else {
				c.setRate(at, r.Int64N(200_001)-100_000)
			}
		}
		for range 300 {
			at := c.pieces[0].at + r.Int64N(8e9)
			local := c.local(at)
			if w := c.when(local); w > at || c.local(w) < local {
				t.Fatalf("reads %d at %d, but when says %d, where it reads %d", local, at, w, c.local(w))
			}
			if c.local(at+1) < local {
				t.Fatalf("goes back at %d", at)
			}
		}
	}
}

func TestAgendaOrder(t *testing.T) {
	var a agenda
	r := rand.New(rand.NewPCG(3, 4))
	type done struct {
		at int64
		n  int
	}
	var got []done
	for n := range 5000 {
		at := r.Int64N(500)
		a.add(at, func() { got = append(got, done{at, n}) })
	}
	for {
		e, ok := a.next()
		if !ok {
			break
		}
		e.do()
	}
	if len(got) != 5000 {
		t.Fatalf("%d events of 5000", len(got))
	}
	for i := 1; i < len(got); i++ {
		if got[i].at < got[i-1].at || got[i].at == got[i-1].at && got[i].n < got[i-1].n {
			t.Fatalf("event %+v before %+v", got[i-1], got[i])
		}
	}
}
