package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// apart makes two gateways holder and leader: the address moves, the
// leadership stays.
func (w *world) apart(t *testing.T) (holder, leader string) {
	t.Helper()
	eventually(t, func() error {
		if leader = w.Leader(); leader == "" || leader == "w1" {
			return fmt.Errorf("leader %q", leader)
		}
		return nil
	})
	holder = w.other(leader)
	w.failover(t, holder)
	if l := w.Leader(); l != leader {
		t.Fatalf("a planned switchover moved the leadership from %s to %q", leader, l)
	}
	return holder, leader
}

// Covers C5, S6, A1, A2, A3, A7, E1, E2
func TestOneWayPartitions(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})

	moves := func(name string, cause func(holder string) (*lab.Fault, error)) {
		t.Run(name+", the address moves", func(t *testing.T) {
			holder := w.holder(t)
			p := w.watch(t)
			f := broken(t)(cause(holder))
			next := w.holder(t, w.other(holder))
			p.owner(next)
			w.mend(t, f)
			if r := p.safeWithin(moved); r.ChangeCount != 1 {
				t.Errorf("%d moves: %+v", r.ChangeCount, r.Changes)
			}
		})
	}
	moves("holder is deaf", w.lab.Deafen)
	moves("holder is mute", w.lab.Mute)
	moves("holder is cut off", w.lab.Cut)
	moves("holder has no carrier", w.lab.LinkDown)

	t.Run("leader that is not the holder is deaf, the address stays", func(t *testing.T) {
		holder, leader := w.apart(t)
		p, epoch := w.watch(t), w.epoch(t, holder)
		f := broken(t)(w.lab.Deafen(leader))
		w.seen(t, holder, func(r *report) error {
			if r.Leader == "" || r.Leader == leader {
				return fmt.Errorf("no new leader")
			}
			return nil
		})
		w.mend(t, f)
		p.untouched()
		if e := w.epoch(t, holder); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})

	t.Run("only the leader cannot hear the holder, left alone and then moved", func(t *testing.T) {
		holder, leader := w.apart(t)
		p := w.watch(t)
		f := broken(t)(w.lab.DropBetween(holder, leader))
		next := w.holder(t, w.others(holder)...)
		p.owner(next)
		w.mend(t, f)
		r := p.safeWithin(moved)
		if len(r.Changes) == 0 {
			t.Fatal("it did not move")
		}
		// The fault names the time before it was made.
		if early := time.Duration(r.Changes[0].At - f.At); early < 2*promise-100*time.Millisecond {
			t.Errorf("moved %v after the fault, should be left alone for %v", early, 2*promise)
		}
	})
}

// Covers C5, S6, G1, G3, E1, E2, A3
func TestOneWayPartitionsBetweenEachPair(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	for _, from := range w.Names() {
		for _, to := range w.others(from) {
			t.Run(from+" is not heard by "+to, func(t *testing.T) {
				p := w.watch(t)
				f := broken(t)(w.lab.DropBetween(from, to))
				time.Sleep(5 * promise) // the fault's time, not a wait for anything
				p.owner(w.holder(t))
				w.mend(t, f)
				p.safeWithin(moved)
			})
		}
	}
}

// Covers C5, S6, E3, E7, A1
func TestFlappingLinkOfTheHolder(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	p := w.watch(t)
	victim := w.holder(t)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		f := broken(t)(w.lab.LinkDown(victim))
		time.Sleep(time.Duration(300+random.IntN(400)) * time.Millisecond)
		check(t, f.Undo())
		time.Sleep(time.Duration(300+random.IntN(400)) * time.Millisecond)
	}
	w.ready(t)
	p.owner(w.holder(t))
	p.safeWithin(moved)
}
