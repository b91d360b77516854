package wal

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// inspect returns one line for each item that is not good, and counts the rest.
func (d *disk) inspect() (good int, bad []string, rec Recovery, err error) {
	rec, err = Inspect(d.mem, d.opts.Dir, func(i Item) error {
		if i.State == ItemGood {
			good++
			return nil
		}
		bad = append(bad, fmt.Sprintf("%s type %d index %d length %d", i.State, i.Type, i.Index, i.Length))
		return nil
	})
	return good, bad, rec, err
}

func TestInspect(t *testing.T) {
	const records = 20 + 3 // entries and seals
	for _, row := range []struct {
		name    string
		corrupt func(d *disk)
		good    int
		bad     []string
		verdict Verdict
	}{
		{"nothing", func(*disk) {}, records, nil, Clean},
		{"torn tail", func(d *disk) { d.stale(20, 2) }, records - 1, []string{
			"torn type 254 index 0 length 0", "in a bad batch type 1 index 20 length 100"}, TornTail},
		{"payload in the middle", func(d *disk) { d.inBatch(10, 120) }, records - 1, []string{
			"damaged type 254 index 0 length 0", "damaged payload type 1 index 10 length 100"}, Corrupt},
		{"record frame in the middle", func(d *disk) { d.inBatch(10, 50) }, records - 1, []string{
			"damaged type 254 index 0 length 0"}, Corrupt},
		{"two batches", func(d *disk) { d.inBatch(8, 50); d.inBatch(10, 120) }, records - 2, []string{
			"damaged type 254 index 0 length 0", "damaged type 254 index 0 length 0",
			"damaged payload type 1 index 10 length 100"}, Corrupt},
		{"header of a segment", func(d *disk) { d.flip(2, 9) }, records - 7, []string{
			"damaged type 254 index 0 length 0"}, Corrupt},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newDisk(t)
			d.build(20, 100)
			row.corrupt(d)
			before := d.snapshot()
			good, bad, rec, err := d.inspect()
			if good != row.good || strings.Join(bad, "\n") != strings.Join(row.bad, "\n") {
				t.Errorf("%d good, want %d; bad:\n%s", good, row.good, strings.Join(bad, "\n"))
			}
			if rec.Verdict != row.verdict || errors.Is(err, ErrCorrupt) != (row.verdict == Corrupt) {
				t.Errorf("%+v, %v", rec, err)
			}
			if d.snapshot() != before {
				t.Error("inspecting changed the log")
			}
		})
	}
}

func TestInspectStops(t *testing.T) {
	d := newDisk(t)
	d.build(3, 10)
	stop := errors.New("stop")
	if _, err := Inspect(d.mem, d.opts.Dir, func(Item) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("inspect: %v", err)
	}
	if _, err := Inspect(d.mem, "/none", func(Item) error { return nil }); !errors.Is(err, ErrNoLog) {
		t.Errorf("inspect of nothing: %v", err)
	}
	if _, err := Verify(d.mem, "/none"); !errors.Is(err, ErrNoLog) {
		t.Errorf("verify of nothing: %v", err)
	}
}

// Inspect and Verify never write, whatever they meet.
func TestInspectWritesNothing(t *testing.T) {
	d := newDisk(t)
	d.build(20, 100)
	d.stale(20, 1)
	d.leave("next-1.tmp")
	fsys := vfs.Inject(d.mem, func(op vfs.Op) error {
		if op.Kind.Changes() {
			t.Errorf("inspect does %v", op)
		}
		return nil
	})
	if rec, err := Inspect(fsys, d.opts.Dir, func(Item) error { return nil }); err != nil || rec.Verdict != TornTail {
		t.Errorf("%+v, %v", rec, err)
	}
}
