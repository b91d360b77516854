package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-ha/holdfast/test/lab"
)

const hangup = syscall.SIGHUP

func netipAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// Covers C4, S8, S10, F3
func TestDamagedLogIsNotUsed(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	holder := w.holder(t)
	victim := w.other(holder)
	for range 5 { // something to damage
		w.cli(t, holder, 0, "maintenance", "on", "w1")
		w.cli(t, holder, 0, "maintenance", "off", "w1")
	}
	w.ready(t)
	p, epoch := w.watch(t), w.epoch(t, holder)
	w.stop(t, victim)
	dir := filepath.Join(w.DataDir(victim), "wal")

	wantText(t, w.cli(t, victim, 0, "wal", "verify", dir).Stdout, "clean")
	out := w.cli(t, victim, 0, "wal", "inspect", "--json", dir)
	type record struct {
		Segment string
		Offset  int64
		Length  int
		Index   uint64
		State   string
	}
	var records []record
	for _, line := range strings.Split(strings.TrimSpace(out.Stdout), "\n") {
		var r record
		check(t, json.Unmarshal([]byte(line), &r))
		if r.Length > 8 {
			records = append(records, r)
		}
	}
	if len(records) < 5 {
		t.Fatalf("%d records: %s", len(records), out.Stdout)
	}
	hit := records[len(records)/2] // long acknowledged: later ones are there
	file := hit.Segment
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	raw, err := os.ReadFile(file)
	check(t, err)
	// The payload may span the tags of sectors; any of its first bytes will do.
	whole := append([]byte(nil), raw...)
	raw[hit.Offset+int64(hit.Length)/2+4] ^= 0x10
	check(t, os.WriteFile(file, raw, 0o600))

	wantText(t, w.cli(t, victim, 5, "wal", "verify", dir).Stderr, "hint: ")
	w.cli(t, victim, 5, "wal", "inspect", dir)

	w.start(t, victim)
	if err := w.Proc(victim).Wait(within(t, settle)); w.Running(victim) {
		t.Fatalf("it runs with a damaged log: %v", err)
	}
	if code := w.Proc(victim).ExitCode(); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	log := w.log(t, victim)
	wantText(t, log, "integrity", "hint: ", filepath.Base(file))
	if n := len(lines(log, "worker started")); n > 2 {
		t.Errorf("the worker was started %d times", n)
	}
	for _, n := range w.others(victim) {
		w.seen(t, n, func(r *report) error {
			if !r.Quorum.OK || r.Holder != holder {
				return fmt.Errorf("does not go on")
			}
			return nil
		})
	}
	if left, err := os.ReadFile(file); err != nil || string(left) != string(raw) {
		t.Errorf("the evidence was changed: %v", err)
	}
	check(t, os.WriteFile(file, whole, 0o600))
	wantText(t, w.cli(t, victim, 0, "wal", "verify", dir).Stdout, "clean")
	w.start(t, victim)
	w.ready(t)
	p.untouched()
	if e := w.epoch(t, holder); e != epoch {
		t.Errorf("epoch %d became %d", epoch, e)
	}
}
