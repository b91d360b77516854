package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// Covers C7, S2, S6, S13, S16, A5
func TestStatusPortAndCommandLine(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})

	t.Run("status port", func(t *testing.T) {
		holder := w.holder(t)
		for _, n := range w.Names() {
			want := http.StatusServiceUnavailable
			if n == holder {
				want = http.StatusOK
			}
			if code, body := w.get(t, n, "/holder"); code != want {
				t.Errorf("%s: /holder %d %s, want %d", n, code, body, want)
			}
			for _, path := range []string{"/healthz", "/readyz", "/"} {
				if code, body := w.get(t, n, path); code != 200 {
					t.Errorf("%s: %s %d %s", n, path, code, body)
				}
			}
			code, body := w.get(t, n, "/status")
			var r report
			if err := json.Unmarshal([]byte(body), &r); code != 200 || err != nil {
				t.Fatalf("%s: /status %d %v %s", n, code, err, body)
			}
			r.Status = &lab.Status{}
			check(t, json.Unmarshal([]byte(body), r.Status))
			if r.Node != n || r.Holder != holder || r.Stale || r.Quorum.Voters != 3 || len(r.Members) != 3 || time.Since(r.AsOf) > 5*time.Second {
				t.Errorf("%s: /status %s", n, body)
			}
			if code, _ := w.get(t, n, "/nothing"); code != 404 {
				t.Errorf("%s: /nothing %d", n, code)
			}
		}
		_, body := w.get(t, holder, "/metrics")
		for _, name := range []string{
			`lease_held{group="default"} 1`, `lease_remaining_seconds `, `failovers_total{cause="boot"} `,
			`gate_dropped_total{reason="`, `member_reachable{member="w1"} 1`, `wal_fsync_seconds_bucket{`,
			`commit_seconds_bucket{`, `state_bytes `, `safety_margin_seconds `,
		} {
			if !strings.Contains(body, "\nholdfast_"+name) {
				t.Errorf("/metrics has no holdfast_%s", name)
			}
		}
		if _, body := w.get(t, w.other(holder), "/metrics"); !strings.Contains(body, `holdfast_lease_held{group="default"} 0`) {
			t.Error("the standby's metrics do not say that it has no lease")
		}
	})

	t.Run("status of the command line", func(t *testing.T) {
		holder := w.holder(t)
		for _, n := range w.Names() {
			text := w.cli(t, n, 0, "status").Stdout
			wantText(t, text, "gw1", "gw2", "w1", "witness", lab.VIP4.String(), "default")
			var r lab.Status
			out := w.cli(t, n, 0, "status", "--json")
			if err := json.Unmarshal([]byte(out.Stdout), &r); err != nil || r.Holder != holder || r.Node != n {
				t.Errorf("%s: status --json: %v, holder %q", n, err, r.Holder)
			}
			if out := w.cli(t, n, 0, "status", "-q"); out.Stdout != "" {
				t.Errorf("status -q prints %q", out.Stdout)
			}
		}
	})

	t.Run("failover", func(t *testing.T) {
		holder := w.holder(t)
		next := w.other(holder)
		p, epoch := w.watch(t), w.epoch(t, holder)
		for _, target := range []string{"w1", "nobody"} {
			out := w.cli(t, next, 4, "failover", "--to", target)
			wantText(t, out.Stderr, target, "hint: ")
		}
		w.cli(t, next, 2, "failover", "--too", next)
		if e := w.epoch(t, holder); e != epoch {
			t.Errorf("a refused failover moved epoch %d to %d", epoch, e)
		}
		// Any member takes it, the witness too.
		out := w.cli(t, "w1", 0, "failover", "--to", next)
		gap := regexp.MustCompile(`gap (\d+\.\d) ms`).FindStringSubmatch(out.Stdout)
		if gap == nil || gap[1] == "0.0" || !strings.Contains(out.Stdout, "from "+holder+" to "+next) {
			t.Errorf("failover prints %q", out.Stdout)
		}
		p.owner(next)
		// To the best one, as JSON.
		out = w.cli(t, holder, 0, "failover", "--json")
		var result struct {
			Holder string  `json:"holder"`
			GapMs  float64 `json:"gap_ms"`
			Epoch  uint64  `json:"epoch"`
		}
		if err := json.Unmarshal([]byte(out.Stdout), &result); err != nil || result.Holder != holder || result.GapMs <= 0 || result.Epoch <= epoch {
			t.Errorf("failover --json: %v %s", err, out.Stdout)
		}
		p.owner(holder)
		if r := p.safeWithin(undisturbed); r.ChangeCount != 2 {
			t.Errorf("moves: %+v", r.Changes)
		}
		w.seen(t, "w1", func(r *report) error {
			if last := r.Failovers[len(r.Failovers)-1]; last.Cause != "operator" || last.From != next || last.To != holder {
				return fmt.Errorf("history: %+v", last)
			}
			return nil
		})
	})

	t.Run("maintenance moves the address off and keeps it off", func(t *testing.T) {
		holder := w.holder(t)
		next := w.other(holder)
		p := w.watch(t)
		wantText(t, w.cli(t, "w1", 0, "maintenance", "on", holder).Stdout, holder)
		w.holder(t, next)
		p.owner(next)
		w.seen(t, holder, func(r *report) error {
			if r.Role != "maintenance" {
				return fmt.Errorf("role %q", r.Role)
			}
			return nil
		})
		wantText(t, w.cli(t, holder, 4, "failover", "--to", holder).Stderr, "maintenance", "hint: ")
		// Even when nobody else is left.
		f := broken(t)(w.Kill(next))
		w.seen(t, holder, func(r *report) error { return r.has("no_holder") })
		always(t, 4*promise, func() error {
			if h := w.Holders(); len(h) != 0 {
				return fmt.Errorf("held by %v", h)
			}
			return nil
		})
		w.cli(t, holder, 0, "maintenance", "off") // this node
		p.owner(w.holder(t, holder))
		w.mend(t, f)
		p.safe()
	})

	t.Run("no daemon", func(t *testing.T) {
		w.stop(t, "w1")
		out := w.cli(t, "w1", 3, "status")
		wantText(t, out.Stderr, "hint: ")
		w.cli(t, "w1", 3, "failover")
		w.cli(t, "w1", 2, "statos")
		w.cli(t, "w1", 0, "version")
		w.start(t, "w1")
		w.ready(t)
	})
}
