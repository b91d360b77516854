package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

// smallDisks gives every member a disk of its own with room for what a test
// writes.
func smallDisks() map[string]int64 {
	return map[string]int64{"gw1": 256 << 20, "gw2": 256 << 20, "w1": 256 << 20}
}

// noSnapshots lets the log grow.
var noSnapshots = lab.Table{"snapshot_bytes": "1GiB"}

// leads makes a gateway lead that is not the holder when apart is true, and
// returns it.
func (w *world) leads(t *testing.T, apart bool) string {
	t.Helper()
	leader := ""
	eventually(t, func() error {
		if leader = w.Leader(); !strings.HasPrefix(leader, "gw") {
			return fmt.Errorf("leader %q", leader)
		}
		return nil
	})
	holder := leader
	if apart {
		holder = w.other(leader)
	}
	w.failover(t, holder)
	if again := w.Leader(); again != leader {
		t.Fatalf("leader %q became %q", leader, again)
	}
	return leader
}

// fill fills a disk until the fault is undone or the test ends.
func (w *world) fill(t *testing.T, node string) *lab.Fault {
	t.Helper()
	f := broken(t)(w.FillDisk(node, 0))
	t.Cleanup(func() { check(t, f.Undo()) })
	return f
}

// exhaust writes through a client until writes have been refused for want of
// room for some seconds on end: what is kept in reserve may be used up first.
func (w *world) exhaust(t *testing.T, l *kvload.Ledger, c *kvload.Conn) {
	t.Helper()
	var since time.Time
	for deadline := time.Now().Add(settle); time.Now().Before(deadline); {
		err := l.Put(within(t, settle), c)
		switch {
		case err == nil:
			since = time.Time{}
		case kvload.Code(err) != "disk_full":
			t.Fatalf("write to a disk that fills up: %v", err)
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > 3*time.Second:
			return
		default:
			time.Sleep(20 * time.Millisecond)
		}
	}
	t.Fatalf("writes go on for ever: %s", l)
}

// Covers C4, S8, S10
func TestFullDiskRefusesWritesAndLosesNothing(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Disks: smallDisks(), Config: state(noSnapshots)})
	l := &kvload.Ledger{Bucket: "receipts", Prefix: "r/", Size: big}

	t.Run("disk of a follower: the others go on", func(t *testing.T) {
		leader := w.leads(t, false)
		follower := w.other(leader)
		p, epoch := w.watch(t), w.epoch(t, leader)
		full := w.fill(t, follower)
		var writers sync.WaitGroup
		for range 6 { // 45 MiB, faster than anybody looks: more than the prepared segments and the reserve
			c := w.conn(t, false, leader)
			writers.Go(func() {
				for range 30 {
					if err := l.Put(context.Background(), c); err != nil {
						t.Errorf("write while a follower's disk is full: %v", err)
					}
				}
			})
		}
		writers.Wait()
		w.seen(t, follower, func(r *report) error {
			if r.WAL.Blocked == "" {
				return fmt.Errorf("does not say that its disk is full")
			}
			return r.has("disk_full")
		})
		if s, err := w.StatusOf(leader); err != nil || s.WAL.Blocked != "" {
			t.Errorf("the leader says that its own disk is full: %+v, %v", s.WAL, err)
		}
		check(t, full.Undo())
		w.seen(t, follower, func(r *report) error {
			if r.WAL.Blocked != "" {
				return fmt.Errorf("still blocked: %s", r.WAL.Blocked)
			}
			return nil // everywhere waits until it has all
		})
		w.everywhere(t, l)
		p.untouched()
		if e := w.epoch(t, leader); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})

	t.Run("disk of the leader and holder", func(t *testing.T) {
		leader := w.leads(t, false)
		other := w.other(leader)
		p, epoch := w.watch(t), w.epoch(t, leader)
		full := w.fill(t, leader)
		w.exhaust(t, l, w.conn(t, false, other))
		w.seen(t, leader, func(r *report) error { return r.has("disk_full") })

		// Reads of all kinds, and what changes little, still work.
		for _, n := range w.Names() {
			check(t, l.Verify(within(t, settle), w.conn(t, false, n), false, false))
		}
		out := w.cli(t, leader, 4, "kv", "put", "sessions", "k", "v")
		wantText(t, out.Stderr, "full", "hint: ")
		if h := w.Holder(); h != leader {
			t.Errorf("%q holds, %s did", h, leader)
		}
		always(t, 2*time.Second, func() error {
			if _, err := w.conn(t, false, other).Get(within(t, settle), "receipts", "r/0000001", false); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			return nil
		})
		check(t, full.Undo())
		c := w.conn(t, false, other)
		eventually(t, func() error { return l.Put(within(t, settle), c) })
		w.seen(t, leader, func(r *report) error {
			if r.WAL.Blocked != "" || r.has("disk_full") == nil {
				return fmt.Errorf("still says that its disk is full")
			}
			return nil
		})
		w.everywhere(t, l)
		p.untouched()
		if e := w.epoch(t, leader); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
		w.audited(t, "w1", 0, "disk", leader, "full")
	})

	t.Run("full while all are killed", func(t *testing.T) {
		leader := w.leads(t, false)
		full := w.fill(t, leader)
		w.exhaust(t, l, w.conn(t, false, leader))
		p := w.listen(t)
		f := broken(t)(w.Kill())
		w.mend(t, f)
		p.owner(w.holder(t))
		check(t, full.Undo())
		c := w.conn(t, true)
		eventually(t, func() error { return l.Put(within(t, settle), c) })
		w.everywhere(t, l)
		p.safe()
	})
}

// Covers C4, S8, E8
func TestSlowDiskMovesTheAddress(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{
		Disks: smallDisks(), Config: state(lab.Table{"snapshot_bytes": "1GiB", "slow_fsync": "100ms"}),
	})
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "t/", Size: 100}
	holder := w.holder(t)
	next := w.other(holder)
	p := w.watch(t)
	stop := w.writing(t, l, 5*time.Millisecond, w.conn(t, true), w.conn(t, true))
	slow := broken(t)(w.SlowDisk(holder, 250*time.Millisecond, 20*time.Millisecond))
	w.holder(t, next)
	p.owner(next)
	w.seen(t, holder, func(r *report) error {
		if !r.WAL.Slow {
			return fmt.Errorf("does not say that its disk is slow: %+v", r.WAL)
		}
		return r.has("disk_slow")
	})
	from := l.Acked()
	eventually(t, func() error { // a majority has fast disks
		if l.Acked() < from+200 {
			return fmt.Errorf("writes do not go on: %s", l)
		}
		return nil
	})
	check(t, slow.Undo())
	stop()
	p.safeWithin(moved)
	w.ready(t)
	w.everywhere(t, l)
	w.audited(t, "w1", 0, "disk", holder, "slow")
}

// A disk that does not answer at all is worse than a dead node, since its
// kernel lives on.
//
// Covers C4, S8, E8
func TestHungDiskOfTheHolderMovesTheAddress(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Disks: smallDisks()})
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "t/", Size: 100}
	holder := w.leads(t, false)
	next := w.other(holder)
	p := w.watch(t)
	stop := w.writing(t, l, 5*time.Millisecond, w.conn(t, true), w.conn(t, true, next))
	hung := broken(t)(w.HangDisk(holder))
	w.holder(t, next)
	p.owner(next)
	from := l.Acked()
	eventually(t, func() error {
		if l.Acked() < from+100 {
			return fmt.Errorf("writes do not go on: %s", l)
		}
		return nil
	})
	check(t, hung.Undo())
	stop()
	w.ready(t)
	p.safe()
	w.everywhere(t, l)
}
