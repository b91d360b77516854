package main

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

func binary(t *testing.T) string {
	t.Helper()
	path, err := lab.Binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Two minutes of other faults each time. The seed of a failure is printed.
//
// Covers C3, C4, C5, S6, S8, S10
func TestTwoMinutesOfChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two minutes")
	}
	lab.NeedRoot(t)
	o := defaults()
	// Shorter lives: more clusters, of more shapes.
	o.binary, o.seed, o.minutes, o.age = binary(t), uint64(rand.Uint32()), 2, 8
	sum, err := run(t.Context(), o)
	t.Log(sum)
	if err != nil {
		t.Fatalf("%v; again: %s", err, sum.again())
	}
	if len(sum.rounds) < 10 || sum.acked < 500 || sum.requests["put done"] < 500 {
		t.Error("too little was done for the result to say much")
	}
}

// Auditors that find nothing wrong are worth nothing: each thing that they
// look for must be found.
func TestAuditorsFindWhatIsWrong(t *testing.T) {
	lab.NeedRoot(t)
	ctx := t.Context()
	o := defaults()
	o.binary, o.seed, o.gateways, o.profile = binary(t), 1, 2, "default"
	w, err := newWorld(ctx, o, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.patience = time.Second
	// audit is what a round does after its faults.
	n := 0
	audit := func(t *testing.T, during func()) error {
		t.Helper()
		n++
		x := w.load.begin(n)
		time.Sleep(calm)
		during()
		time.Sleep(calm)
		x.stop()
		return w.audit(ctx, x)
	}
	if err := audit(t, func() {}); err != nil {
		t.Fatalf("before anything was done: %v", err)
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T) (undo func())
		want string
	}{
		{"a process", func(t *testing.T) func() {
			p, err := w.lab.Start("w1", exec.Command("sleep", "60"))
			must(t, err)
			return func() {
				must(t, p.Signal(os.Kill))
				<-p.Done()
			}
		}, "3 processes"},
		{"an address", func(t *testing.T) func() {
			must(t, w.lab.AddAddress("w1", "eth0", netip.PrefixFrom(lab.VIP6.Addr(), 128)))
			return func() { _ = w.lab.DelAddress("w1", "eth0", netip.PrefixFrom(lab.VIP6.Addr(), 128)) }
		}, "has " + lab.VIP6.Addr().String()},
		{"a qdisc", func(t *testing.T) func() {
			tc(t, w, "w1", "add")
			return func() { tc(t, w, "w1", "del") }
		}, "clsact"},
		{"a pin", func(t *testing.T) func() {
			file := filepath.Join(w.cluster.RuntimeDir("gw1"), "bpf", "left")
			must(t, os.Mkdir(file, 0o700))
			must(t, os.Symlink("nowhere", filepath.Join(file, "pin"))) // a bpffs takes nothing else by hand
			return func() { must(t, os.RemoveAll(file)) }
		}, "pin left"},
		{"evidence of damage", func(t *testing.T) func() {
			dir := filepath.Join(w.cluster.DataDir("w1"), "wal.aside-1")
			must(t, os.Mkdir(dir, 0o700))
			return func() { must(t, os.Remove(dir)) }
		}, "set aside"},
		{"files", func(t *testing.T) func() {
			var all []string
			for range filesLimit {
				f, err := os.CreateTemp(w.cluster.DataDir("w1"), "left-*.tmp")
				must(t, err)
				must(t, f.Close())
				all = append(all, f.Name())
			}
			return func() {
				for _, name := range all {
					must(t, os.Remove(name))
				}
			}
		}, "files"},
		{"a growing process", func(t *testing.T) func() {
			for p, u := range w.grown {
				u.files -= 2 * growth
				w.grown[p] = u
			}
			return func() { clear(w.grown) }
		}, "grows"},
		{"a write that is lost", func(t *testing.T) func() {
			l, conn := w.load.ledger, w.load.local["w1"]
			keys, err := conn.List(ctx, l.Bucket, l.Prefix, false)
			must(t, err)
			_, err = conn.Delete(ctx, l.Bucket, keys[len(keys)/2].Key, kvload.Cond{})
			must(t, err)
			return func() { // the next ledger is true again
				w.load.stop()
				w.load.next()
				w.load.past = nil
			}
		}, "is lost"},
		{"an audit trail that was another one", func(t *testing.T) func() {
			raw, err := os.ReadFile(w.trail)
			must(t, err)
			changed := strings.Replace(string(raw), `"at":"20`, `"at":"19`, 1)
			must(t, os.WriteFile(w.trail, []byte(changed), 0o600))
			return func() { must(t, os.WriteFile(w.trail, raw, 0o600)) }
		}, "does not go on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			undo := c.do(t)
			err := audit(t, func() {})
			undo()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %v, want %q", err, c.want)
			}
			if err := audit(t, func() {}); err != nil {
				t.Fatalf("afterwards: %v", err)
			}
		})
	}
	t.Run("damage that nobody did, and that nobody found", func(t *testing.T) {
		ids, err := w.identities()
		must(t, err)
		if err := w.identityFault(ids); err != nil {
			t.Error(err)
		}
		w.renewed["gw1"] = true
		if err := w.identityFault(ids); err == nil {
			t.Error("a member that was damaged kept its raft id")
		}
		clear(w.renewed)
		ids["gw1"] = "other"
		if err := w.identityFault(ids); err == nil {
			t.Error("a member that was not damaged changed its raft id")
		}
	})
	t.Run("two who answer", func(t *testing.T) {
		// Nobody says that this one is a stranger.
		f, err := w.lab.Steal("c1", w.shape.vip)
		must(t, err)
		time.Sleep(calm)
		must(t, f.Undo())
		report, err := w.probe.Stop()
		must(t, err)
		if report.DoubleCount == 0 {
			t.Error("the probe saw no double")
		}
	})
	if err := w.retire(ctx); err != nil {
		t.Errorf("at the end: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tc(t *testing.T, w *world, node, what string) {
	t.Helper()
	out, err := w.lab.Run(context.Background(), node, "tc", "qdisc", what, "dev", "eth0", "clsact")
	must(t, err)
	if out.Code != 0 {
		t.Fatal(out.Stderr)
	}
}
