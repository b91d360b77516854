package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// Covers C5, S6, A1, A2, A5
func TestTargetWhosePreAcquireHookFails(t *testing.T) {
	w := launch(t, lab.Options{Gateways: 3}, lab.ClusterOptions{PreAcquireHook: true})
	w.failover(t, "gw1")

	t.Run("planned switchover is refused, nothing moves", func(t *testing.T) {
		p, epoch := w.watch(t), w.epoch(t, "gw1")
		f := broken(t)(w.FailPreAcquire("gw2"))
		out := w.cli(t, "gw3", 4, "failover", "--to", "gw2")
		wantText(t, out.Stderr, "gw2", "hint: ")
		check(t, f.Undo())
		p.untouched()
		if e := w.epoch(t, "gw1"); e != epoch {
			t.Errorf("epoch %d became %d", epoch, e)
		}
	})

	t.Run("the third gateway gets it", func(t *testing.T) {
		p := w.watch(t)
		fail := broken(t)(w.FailPreAcquire("gw2"))
		kill := broken(t)(w.Kill("gw1"))
		w.holder(t, "gw3")
		p.owner("gw3")
		w.mend(t, kill, fail)
		p.safeWithin(moved)
	})

	t.Run("nobody holds when all fail, and status says so", func(t *testing.T) {
		holder := w.holder(t)
		var faults []*lab.Fault
		for _, n := range w.others(holder) {
			faults = append(faults, broken(t)(w.FailPreAcquire(n)))
		}
		p := w.watch(t)
		kill := broken(t)(w.Kill(holder))
		for _, n := range w.others(holder) {
			w.seen(t, n, func(r *report) error {
				if r.Holder != "" || !r.Quorum.OK {
					return fmt.Errorf("not in quorum without a holder")
				}
				return r.has("no_holder", "default")
			})
			wantText(t, w.cli(t, n, 0, "status").Stdout, "nobody holds")
		}
		// The leader says why.
		eventually(t, func() error {
			leader := w.Leader()
			r, err := w.status(leader)
			if err != nil {
				return err
			}
			return r.has("placement", "no member is eligible")
		})
		for _, f := range faults {
			check(t, f.Undo())
		}
		// Held down at first (A2), then it is tried again.
		p.owner(w.holder(t))
		w.mend(t, kill)
		p.safe()
	})
}

// hookLine is what the recording hook was told.
type hookLine struct{ phase, group, node, cause, vips string }

// Covers S6, A5
func TestHooksRunInOrderWithTheirEnvironment(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "record")
	check(t, os.WriteFile(script, []byte("#!/bin/sh\n"+
		`printf '%s|%s|%s|%s|%s|%s|%s\n' "$HOLDFAST_SEQUENCE" "$HOLDFAST_EPOCH" "$HOLDFAST_PHASE" "$HOLDFAST_GROUP" "$HOLDFAST_NODE" "$HOLDFAST_CAUSE" "$HOLDFAST_VIPS" >>"`+
		dir+`/$HOLDFAST_NODE"`+"\n"), 0o700))
	w := launch(t, pair, lab.ClusterOptions{Config: func(n *lab.Node, cfg lab.Table) {
		if n.Role != lab.Gateway {
			return
		}
		var hooks []lab.Table
		for _, phase := range []string{"pre-acquire", "acquired", "pre-release", "released"} {
			hooks = append(hooks, lab.Table{"phase": phase, "command": []string{script}, "timeout": "5s"})
		}
		cfg["hook"] = hooks
	}})
	from := w.holder(t)
	to := w.other(from)
	p := w.watch(t)
	w.failover(t, to)
	p.owner(to)
	p.safeWithin(moved)

	recorded := func(node string) (got []hookLine) {
		raw, err := os.ReadFile(filepath.Join(dir, node))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		last := ""
		for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
			f := strings.Split(line, "|")
			if len(f) != 7 {
				continue
			}
			if last != "" && len(f[0]) == len(last) && f[0] <= last {
				t.Errorf("sequence %s after %s", f[0], last)
			}
			if f[1] == "" || f[1] == "0" {
				t.Errorf("epoch %q in %q", f[1], line)
			}
			last = f[0]
			got = append(got, hookLine{f[2], f[3], f[4], f[5], f[6]})
		}
		return got
	}
	wait := func(node string, want ...string) {
		t.Helper()
		eventually(t, func() error {
			var phases []string
			for _, h := range recorded(node) {
				phases = append(phases, h.phase)
			}
			if !slices.Equal(phases, want) {
				return fmt.Errorf("hooks of %s: %v, want %v", node, phases, want)
			}
			return nil
		})
	}
	wait(from, "pre-acquire", "acquired", "pre-release", "released")
	wait(to, "pre-acquire", "acquired")
	if h, want := recorded(to)[1], (hookLine{"acquired", "default", to, "operator", lab.VIP4.String()}); h != want {
		t.Errorf("%+v, want %+v", h, want)
	}
	if h := recorded(from)[0]; h.cause != "boot" {
		t.Errorf("first cause %q, want boot", h.cause)
	}
}
