package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

// memberList is what `holdfast member list --json` prints.
type memberList struct {
	Members []struct {
		Name, Role, State string
		RaftID            string `json:"raft_id"`
		InFile            bool   `json:"in_file"`
		Connected         bool
	}
	Differences []string
	Waiting     string
}

func (w *world) members(t *testing.T, node string) memberList {
	t.Helper()
	var l memberList
	check(t, json.Unmarshal([]byte(w.cli(t, node, 0, "member", "list", "--json").Stdout), &l))
	return l
}

// voters waits until those named say that just they vote.
func (w *world) voters(t *testing.T, names ...string) {
	t.Helper()
	slices.Sort(names)
	eventually(t, func() error {
		for _, n := range names {
			var got []string
			for _, m := range w.members(t, n).Members {
				if m.State == "voter" {
					got = append(got, m.Name)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, names) {
				return fmt.Errorf("%s says that %v vote, want %v", n, got, names)
			}
		}
		return nil
	})
}

// Members join, leave and are replaced while the address is held and writes go
// on.
//
// Covers C4, S4, G4, F2
func TestMembersChangeWhileTheAddressIsHeld(t *testing.T) {
	w := launch(t, lab.Options{Gateways: 4, Witnesses: 1}, lab.ClusterOptions{
		Found: []string{"gw1", "gw2", "w1"}, Config: state(lab.Table{"snapshot_bytes": "256KiB"}),
	})
	holder := w.holder(t)
	p, epoch := w.watch(t), w.epoch(t, holder)
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "t/", Size: 500, Limit: 5 * time.Second}
	stop := w.writing(t, l, 5*time.Millisecond, w.conn(t, true), w.conn(t, true, holder))
	eventually(t, func() error { // enough for a snapshot
		if l.Acked() < 800 {
			return fmt.Errorf("%s", l)
		}
		return nil
	})

	t.Run("refused", func(t *testing.T) {
		wantText(t, w.cli(t, "gw1", 4, "member", "add", "gw9").Stderr, "gw9", "hint: ")
		wantText(t, w.cli(t, "gw1", 4, "member", "remove", "gw9").Stderr, "gw9", "hint: ")
		wantText(t, w.cli(t, "w1", 4, "member", "remove", w.other(holder)).Stderr, "hint: ") // two would be left
		wantText(t, w.cli(t, "w1", 4, "member", "remove", holder).Stderr, holder, "hint: ")
		w.cli(t, "gw1", 2, "member", "add")
		w.voters(t, "gw1", "gw2", "w1")
	})

	t.Run("add", func(t *testing.T) {
		check(t, w.Admit("gw3"))
		check(t, w.Admit("gw4"))
		check(t, w.WriteConfigs()) // every file names all five
		check(t, w.Reload(within(t, settle)))
		for _, n := range []string{"gw1", "gw2", "w1"} {
			list := w.members(t, n)
			if text := strings.Join(list.Differences, "; "); !strings.Contains(text, "gw3") || !strings.Contains(text, "member add") {
				t.Errorf("%s does not say that its file names more members: %+v", n, list)
			}
		}
		w.start(t, "gw3", "gw4")
		w.cli(t, "w1", 0, "member", "add", "gw3")
		w.cli(t, "gw3", 0, "member", "add", "gw4") // the new one takes requests too
		w.voters(t, "gw1", "gw2", "gw3", "gw4", "w1")
		for _, n := range w.Names() {
			if list := w.members(t, n); len(list.Differences) != 0 {
				t.Errorf("%s: %+v", n, list)
			}
		}
		w.ready(t)
		w.settled(t)
	})

	t.Run("the larger cluster stands the loss of two", func(t *testing.T) {
		f := broken(t)(w.Kill("gw3", "w1"))
		from := l.Acked()
		eventually(t, func() error {
			if l.Acked() < from+100 {
				return fmt.Errorf("writes do not go on: %s", l)
			}
			return nil
		})
		w.mend(t, f)
		if e := w.epoch(t, holder); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})

	t.Run("replace", func(t *testing.T) {
		id := w.raftID(t, "gw4")
		w.stop(t, "gw4")
		check(t, w.Reinstall("gw4")) // another machine: new key, no data
		check(t, w.WriteConfigs())
		check(t, w.Reload(within(t, settle)))
		w.start(t, "gw4")
		w.cli(t, "gw1", 0, "member", "replace", "gw4")
		w.rejoined(t, "gw4", id)
		w.ready(t)
	})

	t.Run("remove", func(t *testing.T) {
		// Also the leader can go, as long as it does not hold.
		for _, n := range []string{"gw4", "gw3"} {
			w.cli(t, "gw1", 0, "member", "remove", n)
			w.stop(t, n)
			check(t, w.Expel(n))
		}
		check(t, w.WriteConfigs())
		check(t, w.Reload(within(t, settle)))
		w.voters(t, "gw1", "gw2", "w1")
		w.ready(t)
		for _, n := range w.Names() {
			if list := w.members(t, n); len(list.Members) != 3 || len(list.Differences) != 0 {
				t.Errorf("%s: %+v", n, list)
			}
		}
	})

	stop()
	p.untouched()
	if e := w.epoch(t, holder); e != epoch {
		t.Errorf("epoch %d became %d", epoch, e)
	}
	w.everywhere(t, l)
	last := uint64(0)
	for _, want := range []struct{ kind, node string }{
		{"member-add", "gw3"}, {"member-promote", "gw3"}, {"member-add", "gw4"}, {"member-promote", "gw4"},
		{"member-remove", "gw4"}, {"member-remove", "gw3"},
	} {
		last = max(last, w.audited(t, "w1", last, want.kind, want.node, "").Seq)
	}
}

// A member that is removed while it leads hands the leadership over, and one
// that was removed for good takes no part any more.
//
// Covers S4, G4, G6
func TestRemovedLeaderTakesNoPart(t *testing.T) {
	w := launch(t, lab.Options{Gateways: 4, Witnesses: 1}, lab.ClusterOptions{})
	leader := w.leads(t, true)
	holder := w.holder(t)
	rest := w.others(leader)
	p, epoch := w.watch(t), w.epoch(t, holder)
	eventually(t, func() error { // the leadership moves in between: asked again, as the hint says
		out, err := w.RunCLI(within(t, settle), "w1", "member", "remove", leader)
		if err == nil && out.Code != 0 {
			err = fmt.Errorf("exit code %d: %s", out.Code, out.Stderr)
		}
		return err
	})
	w.voters(t, rest...)
	w.seen(t, holder, func(r *report) error {
		if r.Leader == "" || r.Leader == leader {
			return fmt.Errorf("leader %q was removed", r.Leader)
		}
		return nil
	})
	p.untouched()
	if e := w.epoch(t, holder); e != epoch {
		t.Errorf("epoch %d became %d", epoch, e)
	}
	// Of four voters two are no majority, and the removed node is none at all.
	p = w.watch(t)
	f := broken(t)(w.Kill(holder, "w1"))
	time.Sleep(2 * promise)
	always(t, 3*time.Second, func() error {
		if h := w.Holders(); len(h) != 0 {
			return fmt.Errorf("held by %v, without a quorum", h)
		}
		return nil
	})
	check(t, w.Start("w1"))
	next := w.holder(t, w.others(holder, leader, "w1")...)
	p.owner(next)
	check(t, f.Undo())
	p.safe()
}
