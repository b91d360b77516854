package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// Covers C5, S6, A1
func TestThreeGatewaysWithoutWitnessMoveTheAddressTwice(t *testing.T) {
	w := launch(t, lab.Options{Gateways: 3}, lab.ClusterOptions{})
	p := w.watch(t)
	first := w.holder(t)
	f := broken(t)(w.Kill(first))
	second := w.holder(t, w.others(first)...)
	p.owner(second)
	w.mend(t, f)
	f = broken(t)(w.Kill(second))
	third := w.holder(t, w.others(second)...)
	p.owner(third)
	w.mend(t, f)
	r := p.safeWithin(moved)
	if r.ChangeCount != 2 {
		t.Errorf("%d moves, want 2: %+v", r.ChangeCount, r.Changes)
	}
}

// Covers C2, C5, S6, A1, A7, G1
func TestLossOfMembers(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})

	t.Run("witness lost, the address stays", func(t *testing.T) {
		p, holder := w.watch(t), w.holder(t)
		epoch := w.epoch(t, holder)
		f := broken(t)(w.PowerCut("w1"))
		w.seen(t, holder, func(r *report) error {
			if r.reachable("w1") || !r.Quorum.OK || r.Quorum.Reachable != 2 {
				return fmt.Errorf("w1 is not gone")
			}
			return nil
		})
		w.mend(t, f)
		w.seen(t, holder, func(r *report) error {
			if !r.reachable("w1") || r.Quorum.Reachable != 3 {
				return fmt.Errorf("w1 is not back")
			}
			return nil
		})
		p.untouched()
		if e := w.epoch(t, holder); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})

	t.Run("leader that is not the holder lost, the address stays", func(t *testing.T) {
		leader := ""
		eventually(t, func() error {
			if leader = w.Leader(); leader == "" {
				return fmt.Errorf("no leader")
			}
			return nil
		})
		if leader == "w1" { // it hands over by itself (E4), once there is somebody
			eventually(t, func() error {
				if leader = w.Leader(); leader == "" || leader == "w1" {
					return fmt.Errorf("leader %q", leader)
				}
				return nil
			})
		}
		holder := w.other(leader)
		w.failover(t, holder)
		if l := w.Leader(); l != leader {
			t.Fatalf("a planned switchover moved the leadership from %s to %q", leader, l)
		}
		p, epoch := w.watch(t), w.epoch(t, holder)
		f := broken(t)(w.PowerCut(leader))
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

	t.Run("both others lost, the address is gone within the lease", func(t *testing.T) {
		holder := w.holder(t)
		p := w.watch(t)
		f := broken(t)(w.Kill(w.others(holder)...))
		killed := lab.Now()
		w.seen(t, holder, func(r *report) error {
			if r.Role != "standby" || r.Lease.Held || r.Holder != "" || r.Quorum.OK || r.Quorum.Reachable != 1 || r.VIPs[0].Gate != "closed" {
				return fmt.Errorf("it does not say that it has lost all")
			}
			return r.has("no_quorum", "1 of 3")
		})
		time.Sleep(lease)
		r := p.safe()
		for _, o := range r.Owners {
			if late := time.Duration(o.Last - killed); late > lease+50*time.Millisecond {
				t.Errorf("%s answered %v after the others were dead, the lease is %v", o, late, lease)
			}
		}
		if code, body := w.get(t, holder, "/readyz"); code != 503 {
			t.Errorf("/readyz: %d %s", code, body)
		}
		if code, body := w.get(t, holder, "/holder"); code != 503 {
			t.Errorf("/holder: %d %s", code, body)
		}
		if code, body := w.get(t, holder, "/healthz"); code != 200 {
			t.Errorf("/healthz: %d %s", code, body)
		}
		out := w.cli(t, holder, 4, "failover")
		wantText(t, out.Stderr, "hint: ")
		wantText(t, w.cli(t, holder, 0, "status").Stdout, "no quorum")
		p = w.listen(t)
		w.mend(t, f)
		p.owner(w.holder(t))
		p.safe()
	})
}

// Covers C5, S1, S6, G5, G7, A1
func TestWorkerOfTheHolderDies(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	kill := func(t *testing.T) {
		holder := w.holder(t)
		p, epoch := w.watch(t), w.epoch(t, holder)
		pid, err := w.WorkerPID(holder)
		check(t, err)
		broken(t)(w.KillWorker(holder))
		w.seen(t, w.other(holder), func(r *report) error {
			if r.Epoch == epoch || r.Holder == "" {
				return fmt.Errorf("no new holder")
			}
			return nil
		})
		w.ready(t)
		r := p.safeWithin(moved)
		if again, err := w.WorkerPID(holder); err != nil || again == pid {
			t.Errorf("the guard of %s has started no other worker: %d, %v", holder, again, err)
		}
		if len(lines(w.log(t, holder), "worker ended, starting another")) == 0 {
			t.Error("the guard does not say that its worker died")
		}
		if r.ChangeCount > 1 {
			t.Errorf("%d moves: %+v", r.ChangeCount, r.Changes)
		}
	}
	t.Run("its guard tells the others", func(t *testing.T) {
		kill(t)
		w.seen(t, w.holder(t), func(r *report) error {
			if last := r.Failovers[len(r.Failovers)-1]; last.Cause != "worker_died" {
				return fmt.Errorf("cause %q: %+v", last.Cause, last)
			}
			return nil
		})
	})
	t.Run("every note is lost", func(t *testing.T) {
		var faults []*lab.Fault
		for _, n := range w.Names() {
			faults = append(faults, broken(t)(w.lab.DropNotes(n)))
		}
		kill(t)
		dropped := int64(0)
		for _, f := range faults {
			n, err := f.Dropped()
			check(t, err)
			dropped += n
		}
		if dropped == 0 {
			t.Error("no note was lost: the test has shown nothing")
		}
		w.mend(t, faults...)
	})
	for name, fault := range map[string]func(string) (*lab.Fault, error){
		"worker hangs":           w.HangWorker,
		"guard dies":             w.KillGuard,
		"guard and worker hang":  w.Hang,
		"guard and worker die":   func(n string) (*lab.Fault, error) { return w.Kill(n) },
		"power of the host dies": func(n string) (*lab.Fault, error) { return w.PowerCut(n) },
	} {
		t.Run(name, func(t *testing.T) {
			holder := w.holder(t)
			p := w.watch(t)
			f := broken(t)(fault(holder))
			w.holder(t, w.other(holder))
			p.owner(w.other(holder))
			w.mend(t, f)
			p.safeWithin(moved)
		})
	}
	t.Run("only the guard hangs, the address stays", func(t *testing.T) {
		holder := w.holder(t)
		p, epoch := w.watch(t), w.epoch(t, holder)
		f := broken(t)(w.HangGuard(holder))
		always(t, 4*promise, func() error {
			if h := w.Holder(); h != "" && h != holder {
				return fmt.Errorf("%s holds", h)
			}
			return nil
		})
		w.mend(t, f)
		p.untouched()
		if e := w.epoch(t, holder); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})
}

// Covers C2, C3, C5, S6
func TestBothAddressFamiliesAndBothWaysToAttach(t *testing.T) {
	for _, mode := range []string{"clsact", "tcx"} {
		t.Run(mode, func(t *testing.T) {
			w := launch(t, pair, lab.ClusterOptions{
				VIPs: []lab.VIP{{Prefix: lab.VIP4}, {Prefix: lab.VIP6}},
				Env:  []string{"HOLDFAST_ATTACH=" + mode},
			})
			holder := w.holder(t)
			s, err := w.status(holder)
			check(t, err)
			if s.Gate.Mode != mode || !s.Gate.Attached || len(s.VIPs) != 2 {
				t.Errorf("gate %+v, addresses %+v", s.Gate, s.VIPs)
			}
			four, six := w.watch(t), w.watch(t, lab.ProbeOptions{Target: lab.VIP6.Addr()})
			f := broken(t)(w.Kill(holder))
			next := w.holder(t, w.other(holder))
			four.owner(next)
			six.owner(next)
			w.mend(t, f)
			w.failover(t, holder)
			four.owner(holder)
			six.owner(holder)
			four.safeWithin(moved)
			six.safeWithin(moved)
		})
	}
}
