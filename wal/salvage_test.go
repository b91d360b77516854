package wal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// salvage returns the indices that can be read, a word for each run.
func (d *disk) salvage() (string, Recovery, error) {
	var runs []string
	var indices []uint64
	at := 0
	flush := func() {
		if len(indices) > 0 {
			runs = append(runs, fmt.Sprintf("%d-%d", indices[0], indices[len(indices)-1]))
		}
		if len(indices) > 1 && indices[len(indices)-1]-indices[0] != uint64(len(indices)-1) {
			d.t.Errorf("run has gaps: %v", indices)
		}
		indices = nil
	}
	origin, rec, err := Salvage(d.mem, d.opts.Dir, func(run int, r Record) error {
		if run != at {
			flush()
			at = run
		}
		indices = append(indices, r.Index)
		return nil
	})
	flush()
	if err == nil && (origin.Cluster != d.opts.Cluster || origin.Node != d.opts.Node) {
		d.t.Errorf("origin %+v", origin)
	}
	return strings.Join(runs, " "), rec, err
}

// Covers F4: what is right is read on both sides of damage, and a gap is told
// from none.
func TestSalvage(t *testing.T) {
	for _, row := range []struct {
		name    string
		corrupt func(d *disk)
		runs    string
		verdict Verdict
	}{
		{"nothing", func(*disk) {}, "1-20", Clean},
		{"torn tail", func(d *disk) { d.stale(20, 2) }, "1-19", TornTail},
		{"payload in the middle", func(d *disk) { d.inBatch(10, 120) }, "1-9 11-20", Corrupt},
		{"frame in the middle", func(d *disk) { d.inBatch(10, 1) }, "1-9 11-20", Corrupt},
		{"two batches", func(d *disk) { d.inBatch(8, 50); d.inBatch(10, 120) }, "1-7 9-9 11-20", Corrupt},
		{"two in a row", func(d *disk) { d.stale(8, 0, 1); d.inBatch(9, 120) }, "1-7 10-20", Corrupt},
		{"header of a segment", func(d *disk) { d.flip(2, 9) }, "1-6 13-20", Corrupt},
		{"oldest segment gone", func(d *disk) { d.remove(1) }, "7-20", Corrupt},
		{"middle segment gone", func(d *disk) { d.remove(2) }, "1-6 13-20", Corrupt},
		{"newest segment gone", func(d *disk) { d.remove(4) }, "1-18", Corrupt},
		{"last batch of a segment", func(d *disk) { d.inBatch(6, 120) }, "1-5 7-20", Corrupt},
		{"seal of a segment", func(d *disk) { d.flip(2, 7*4096+4) }, "1-20", Corrupt},
		{"seal gone", func(d *disk) { d.write(2, 7*4096, make([]byte, 4096)) }, "1-20", Corrupt},
		{"seal and what is before it gone", func(d *disk) { d.write(2, 6*4096, make([]byte, 8192)) }, "1-11 13-20", Corrupt},
		{"segment swapped for another", func(d *disk) { d.reheader(2, func(h *header) { h.prevCRC++ }) }, "1-6 8-20", Corrupt},
		{"crash before the seal", func(d *disk) { d.unseal() }, "1-18", Clean},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newDisk(t)
			d.build(20, 100)
			row.corrupt(d)
			before := d.snapshot()
			runs, rec, err := d.salvage()
			if err != nil || runs != row.runs || rec.Verdict != row.verdict {
				t.Errorf("runs %q, want %q; verdict %v, want %v; %v", runs, row.runs, rec.Verdict, row.verdict, err)
			}
			if d.snapshot() != before {
				t.Error("the log was changed")
			}
		})
	}
}

func TestSalvageReportsErrors(t *testing.T) {
	d := newDisk(t)
	if _, _, err := d.salvage(); !errors.Is(err, ErrNoLog) {
		t.Errorf("no log: %v", err)
	}
	d.build(20, 100)
	stop := errors.New("enough")
	if _, _, err := Salvage(d.mem, d.opts.Dir, func(int, Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of visit: %v", err)
	}
	fail := vfs.Inject(d.mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpRead {
			return errors.New("broken")
		}
		return nil
	})
	if _, _, err := Salvage(fail, d.opts.Dir, func(int, Record) error { return nil }); err == nil {
		t.Error("error of the disk is not told")
	}
}

// Salvage must take whatever a disk gives.
func FuzzSalvage(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint16(0))                       // untouched
	f.Add([]byte{1, 2, 3}, uint16(4096), uint16(1))             // first batch
	f.Add(slices.Repeat([]byte{0}, 4096), uint16(0), uint16(2)) // header gone
	f.Fuzz(func(t *testing.T, junk []byte, offset, sequence uint16) {
		d := newDisk(t)
		d.build(12, 100)
		if len(junk) > 0 {
			d.write(1+uint64(sequence)%2, int64(offset)%minSegmentBytes, junk[:min(len(junk), minSegmentBytes-int(offset)%minSegmentBytes)])
		}
		last, at := uint64(0), -1
		if _, _, err := Salvage(d.mem, d.opts.Dir, func(run int, r Record) error {
			if run < at || run == at && r.Index != last+1 {
				t.Errorf("run %d index %d after run %d index %d", run, r.Index, at, last)
			}
			last, at = r.Index, run
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
