package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// Twenty failovers of all kinds, and what operators do between them, are in a
// trail that every member has, and that shows when a byte of it is changed.
//
// Covers C4, S15, S16
func TestAuditTrailOfTwentyFailovers(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	p := w.watch(t)
	for i := range 20 {
		holder := w.holder(t)
		next := w.other(holder)
		switch i % 5 {
		case 0:
			w.mend(t, broken(t)(w.Kill(holder)))
		case 1:
			broken(t)(w.KillWorker(holder))
			w.ready(t)
		default:
			w.failover(t, next)
		}
	}
	w.cli(t, "w1", 0, "maintenance", "on", "gw1")
	w.cli(t, "gw2", 0, "maintenance", "off", "gw1")
	w.cli(t, "gw2", 0, "fence", "w1")
	w.cli(t, "gw2", 0, "unfence", "w1")
	w.ready(t)
	w.settled(t)
	p.safe()

	t.Run("every member has the same whole trail", func(t *testing.T) {
		first := ""
		for _, n := range w.Names() {
			out := w.cli(t, n, 0, "audit", "verify")
			wantText(t, out.Stdout, "whole")
			text := w.cli(t, n, 0, "audit", "export").Stdout
			if first == "" {
				first = text
			}
			if text != first {
				t.Errorf("%s exports another trail", n)
			}
		}
	})

	t.Run("who did it", func(t *testing.T) {
		events := w.trail(t, "gw2", "maintenance", "fence", "unfence")
		var said []string
		for _, e := range events {
			said = append(said, strings.TrimSpace(e.Kind+" "+e.Node+" "+e.Cause))
			if !strings.Contains(e.Actor, "uid") && !strings.Contains(e.Actor, "root") {
				t.Errorf("actor %q of %+v", e.Actor, e)
			}
		}
		want := "maintenance gw1 on; maintenance gw1 off; fence w1 operator; unfence w1 operator"
		if got := strings.Join(said, "; "); got != want {
			t.Errorf("events %q, want %q", got, want)
		}
	})

	t.Run("the history of status agrees with it", func(t *testing.T) {
		assigns := map[uint64]auditEvent{}
		for _, e := range w.trail(t, "w1", "assign") {
			assigns[e.Epoch] = e
		}
		if len(assigns) < 20 {
			t.Errorf("%d assignments for 20 failovers", len(assigns))
		}
		for _, n := range w.Names() {
			s, err := w.StatusOf(n)
			check(t, err)
			var r struct {
				Failovers []struct {
					From, To, Cause, Group string
					Epoch                  uint64
				}
			}
			check(t, json.Unmarshal(s.Raw, &r))
			if len(r.Failovers) < 10 {
				t.Errorf("%s remembers %d failovers", n, len(r.Failovers))
			}
			for _, f := range r.Failovers {
				e, ok := assigns[f.Epoch]
				if !ok || e.Node != f.To || e.Cause != f.Cause || e.Group != f.Group || f.From != "" && !strings.Contains(e.Detail, "from "+f.From) {
					t.Errorf("%s says %+v, the trail %+v", n, f, e)
				}
			}
		}
	})

	t.Run("one byte changed is found and named", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "trail")
		w.cli(t, "w1", 0, "audit", "export", "-o", file)
		wantText(t, w.cli(t, "gw1", 0, "audit", "verify", file).Stdout, "whole")
		whole, err := os.ReadFile(file)
		check(t, err)
		lines := bytes.SplitAfter(whole, []byte("\n"))
		victim := len(lines) / 2
		var e auditEvent
		check(t, json.Unmarshal(lines[victim], &e))
		changes := map[string]func() []byte{
			"cause": func() []byte { return bytes.Replace(whole, lines[victim], swap(lines[victim], `"kind":"`), 1) },
			"time":  func() []byte { return bytes.Replace(whole, lines[victim], swap(lines[victim], `"at":"20`), 1) },
			"hash":  func() []byte { return bytes.Replace(whole, lines[victim], swap(lines[victim], `"hash":"`), 1) },
			"left out": func() []byte {
				return bytes.Replace(whole, lines[victim], nil, 1)
			},
		}
		for name, change := range changes {
			check(t, os.WriteFile(file, change(), 0o600))
			out := w.cli(t, "gw1", 5, "audit", "verify", file)
			if !strings.Contains(out.Stderr, fmt.Sprint(e.Seq)) {
				t.Errorf("%s of record %d: %s", name, e.Seq, out.Stderr)
			}
			wantText(t, out.Stderr, "hint: ")
		}
		check(t, os.WriteFile(file, whole[:len(whole)-len(lines[len(lines)-2])], 0o600))
		w.cli(t, "gw1", 5, "audit", "verify", file)
	})

	t.Run("over the socket", func(t *testing.T) {
		all := w.trail(t, "gw1")
		from := all[len(all)-3].Seq
		code, raw, err := w.Call(within(t, settle), "gw1", http.MethodGet, fmt.Sprintf("/v1/audit?from=%d", from), nil)
		check(t, err)
		if n := bytes.Count(raw, []byte("\n")); code != 200 || n != 3+2 {
			t.Errorf("HTTP %d, %d lines, want 3 records between an anchor and a head: %s", code, n, raw)
		}
	})
}

// swap changes the byte after a mark.
func swap(line []byte, mark string) []byte {
	out := bytes.Clone(line)
	i := bytes.Index(out, []byte(mark)) + len(mark)
	if out[i]++; out[i] == '9'+1 || out[i] == 'f'+1 {
		out[i] = '0'
	}
	return out
}
