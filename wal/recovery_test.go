package wal

import (
	"encoding/binary"
	"errors"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// disk gives the tests of recovery a log of known shape and the means to damage
// its files. Batches are of one record, of one block unless said otherwise.
type disk struct {
	t    testing.TB
	mem  *vfs.Mem
	opts Options
	// salts of the segments by sequence, and the offset and number of the
	// batch of each index.
	batches map[uint64]at
}

type at struct {
	sequence, number uint64
	offset, bytes    int64
}

func newDisk(t testing.TB) *disk {
	mem := vfs.NewMem()
	return &disk{t: t, mem: mem, opts: testOptions(mem), batches: map[uint64]at{}}
}

// fill appends entries up to index, each a batch of its own.
func (d *disk) fill(l *Log, from, to uint64, size int) {
	d.t.Helper()
	for i := from; i <= to; i++ {
		if err := appendWait(l, entry(i, size)); err != nil {
			d.t.Fatal(err)
		}
		bytes := batchSize(recordSize(size))
		d.batches[i] = at{l.w.head.sequence, l.w.number - 1, l.w.offset - bytes, bytes}
	}
}

// build makes a log with entries 1 to n, of which a 32 KiB segment holds six of
// one block.
func (d *disk) build(n uint64, size int) {
	l := mustCreate(d.t, d.opts)
	d.fill(l, 1, n, size)
	mustClose(d.t, l)
}

func (d *disk) path(sequence uint64) string { return path.Join(d.opts.Dir, segmentName(sequence)) }

func (d *disk) read(sequence uint64) []byte {
	d.t.Helper()
	b, err := vfs.ReadFile(d.mem, d.path(sequence), maxSegmentBytes)
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

func (d *disk) write(sequence uint64, offset int64, b []byte) {
	d.t.Helper()
	f, err := d.mem.OpenFile(d.path(sequence), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = f.WriteAt(b, offset)
	if err := errors.Join(err, f.Sync(), f.Close(), d.mem.SyncDir(d.opts.Dir)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) flip(sequence uint64, offset int64) {
	d.write(sequence, offset, []byte{d.read(sequence)[offset] ^ 0x10})
}

// stale overwrites sectors of a batch with what a recycled file has there.
func (d *disk) stale(index uint64, sectors ...int64) {
	b := d.batches[index]
	for _, s := range sectors {
		junk := make([]byte, sectorBytes)
		for i := range junk {
			junk[i] = byte(i*31 + int(s))
		}
		d.write(b.sequence, b.offset+s*sectorBytes, junk)
	}
}

func (d *disk) remove(sequence uint64) {
	d.t.Helper()
	if err := errors.Join(d.mem.Remove(d.path(sequence)), d.mem.SyncDir(d.opts.Dir)); err != nil {
		d.t.Fatal(err)
	}
}

// inBatch flips a byte in the data of a batch, at a position without tags.
func (d *disk) inBatch(index uint64, data int64) {
	b := d.batches[index]
	d.flip(b.sequence, b.offset+data/sectorData*sectorBytes+data%sectorData)
}

// tag flips a byte in the tag of a sector of a batch.
func (d *disk) tag(index uint64, sector int64) {
	b := d.batches[index]
	d.flip(b.sequence, b.offset+sector*sectorBytes+sectorData)
}

// reheader writes the header of a segment anew, with another field.
func (d *disk) reheader(sequence uint64, change func(*header)) {
	h, _, err := decodeHeader(d.read(sequence)[:headerBytes])
	if err != nil {
		d.t.Fatal(err)
	}
	change(&h)
	block, _ := h.encode()
	d.write(sequence, 0, block)
}

// rebatch writes a batch anew at the place of an index, with other contents.
func (d *disk) rebatch(index uint64, records []Record, change func(*place)) {
	b := d.batches[index]
	buf := d.read(b.sequence)
	h, _, err := decodeHeader(buf[:headerBytes])
	if err != nil {
		d.t.Fatal(err)
	}
	old, _, _ := decodeFrame(buf[b.offset:], position(b.offset))
	p := place{salt: h.salt, number: b.number, offset: b.offset, synced: b.offset, prev: uint32(old.term)}
	change(&p)
	var e encoder
	out, _ := e.encode(records, p)
	d.write(b.sequence, b.offset, out)
}

// cutTail leaves the log as if the batches from index on had never been.
func (d *disk) cutTail(index uint64) {
	b := d.batches[index]
	d.write(b.sequence, b.offset, make([]byte, int64(minSegmentBytes)-b.offset))
}

// unseal leaves the log of 20 as a crash does between the publishing of segment
// 4 and the seal of segment 3.
func (d *disk) unseal() {
	d.cutTail(19)
	d.write(3, 7*4096, make([]byte, 4096))
}

// Covers F3: each row damages a log of 20 entries in four segments in one way;
// the verdict and the last index that may be used are exact.
func TestRecovery(t *testing.T) {
	const payload = 100 // one block
	rows := []struct {
		name    string
		corrupt func(d *disk)
		size    int // of payloads, default one block
		verdict Verdict
		last    uint64
		why     string // part of it
	}{
		{name: "nothing", corrupt: func(*disk) {}, verdict: Clean, last: 20},
		{name: "last batch never begun", corrupt: func(d *disk) { d.cutTail(20) }, verdict: Clean, last: 19},
		{name: "stale data of a recycled file after the end", verdict: Clean, last: 19,
			corrupt: func(d *disk) { d.stale(20, 0, 1, 2, 3, 4, 5, 6, 7) }},

		{name: "last batch lacks its first sector", corrupt: func(d *disk) { d.stale(20, 0) },
			verdict: TornTail, last: 19, why: "first sector"},
		{name: "last batch lacks a middle sector", corrupt: func(d *disk) { d.stale(20, 4) },
			verdict: TornTail, last: 19, why: "never written"},
		{name: "last batch lacks its last sector", corrupt: func(d *disk) { d.stale(20, 7) },
			verdict: TornTail, last: 19},
		{name: "last batch has its last sector only", corrupt: func(d *disk) { d.stale(20, 0, 1, 2, 3, 4, 5, 6) },
			verdict: TornTail, last: 19},
		{name: "last batch lacks a sector that is zero", verdict: TornTail, last: 19, corrupt: func(d *disk) {
			b := d.batches[20]
			d.write(b.sequence, b.offset+3*sectorBytes, make([]byte, sectorBytes))
		}},
		{name: "large last batch lacks a block", size: 9000, verdict: TornTail, last: 19,
			corrupt: func(d *disk) { d.stale(20, 8, 9, 10, 11, 12, 13, 14, 15) }},
		{name: "large last batch lacks its first block", size: 9000, verdict: TornTail, last: 19,
			corrupt: func(d *disk) { d.stale(20, 0, 1, 2, 3, 4, 5, 6, 7) }},
		{name: "tag of the last batch damaged", corrupt: func(d *disk) { d.tag(20, 5) },
			verdict: TornTail, last: 19},
		{name: "last batch lacks a sector and its frame is damaged", verdict: TornTail, last: 19,
			corrupt: func(d *disk) { d.stale(20, 6); d.inBatch(20, 4) }},
		{name: "last batch lacks its last sector and its frame is damaged", verdict: TornTail, last: 19,
			corrupt: func(d *disk) { d.stale(20, 7); d.inBatch(20, 4) }},
		{name: "only batch of a segment torn", verdict: TornTail, last: 18,
			corrupt: func(d *disk) { d.cutTail(20); d.stale(19, 2) }},

		{name: "last batch: frame damaged", corrupt: func(d *disk) { d.inBatch(20, 4) },
			verdict: Corrupt, last: 19, why: "frame of batch"},
		{name: "last batch: record frame damaged", corrupt: func(d *disk) { d.inBatch(20, 50) },
			verdict: Corrupt, last: 19, why: "checksum"},
		{name: "last batch: payload damaged", corrupt: func(d *disk) { d.inBatch(20, 120) },
			verdict: Corrupt, last: 19, why: "checksum"},
		{name: "last batch: padding damaged", corrupt: func(d *disk) { d.inBatch(20, 4000) },
			verdict: Corrupt, last: 19, why: "checksum"},
		{name: "large last batch: frame damaged", size: 9000, corrupt: func(d *disk) { d.inBatch(20, 17) },
			verdict: Corrupt, last: 19},

		{name: "earlier batch lacks a sector", corrupt: func(d *disk) { d.stale(19, 3) },
			verdict: Corrupt, last: 18, why: "after it was durable"},
		{name: "earlier batch gone", corrupt: func(d *disk) { d.stale(19, 0, 1, 2, 3, 4, 5, 6, 7) },
			verdict: Corrupt, last: 18, why: "is gone"},
		{name: "earlier batch zero", verdict: Corrupt, last: 18, why: "is gone", corrupt: func(d *disk) {
			d.write(d.batches[19].sequence, d.batches[19].offset, make([]byte, blockBytes))
		}},
		{name: "earlier batch gone and head of the last too", verdict: Corrupt, last: 18, size: 5000,
			why: "is gone", corrupt: func(d *disk) {
				d.stale(19, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
				d.inBatch(20, 4) // but the frame of its record is right
			}},
		{name: "earlier batch gone and all frames after it damaged", verdict: Corrupt, last: 17, why: "is gone, but the sector",
			corrupt: func(d *disk) {
				d.cutTail(19)
				d.stale(18, 0, 1, 2, 3, 4, 5, 6, 7)
				d.flip(3, 7*4096+4)  // seal: frame of the batch
				d.flip(3, 7*4096+52) // and of its record
				d.remove(4)
			}},
		{name: "earlier batch: payload damaged", corrupt: func(d *disk) { d.inBatch(19, 120) },
			verdict: Corrupt, last: 18},
		{name: "earlier batch: frame damaged", corrupt: func(d *disk) { d.inBatch(19, 1) },
			verdict: Corrupt, last: 18},
		{name: "earlier segment: tag damaged", corrupt: func(d *disk) { d.tag(3, 1) },
			verdict: Corrupt, last: 2},
		{name: "earlier segment: last batch lacks a sector", corrupt: func(d *disk) { d.stale(6, 1) },
			verdict: Corrupt, last: 5},
		{name: "earlier segment: seal lacks a sector", verdict: Corrupt, last: 18, why: "in use",
			corrupt: func(d *disk) { d.write(3, 7*4096+512, make([]byte, 512)) }},
		{name: "earlier segment: seal gone", verdict: Corrupt, last: 18, why: "in use",
			corrupt: func(d *disk) { d.write(3, 7*4096, make([]byte, 4096)) }},
		{name: "earlier segment: two seals gone", verdict: Corrupt, last: 6, why: "segments follow",
			corrupt: func(d *disk) {
				d.write(1, 7*4096, make([]byte, 4096))
				d.write(2, 7*4096, make([]byte, 4096))
			}},

		{name: "oldest segment missing", corrupt: func(d *disk) { d.remove(1) },
			verdict: Corrupt, why: "missing"},
		{name: "middle segment missing", corrupt: func(d *disk) { d.remove(2) },
			verdict: Corrupt, why: "missing"},
		{name: "newest segment missing", corrupt: func(d *disk) { d.remove(4) },
			verdict: Corrupt, last: 18, why: "missing"},
		{name: "segment swapped for another", verdict: Corrupt, last: 6, why: "names as next", corrupt: func(d *disk) {
			d.reheader(2, func(h *header) { h.salt++ })
		}},
		{name: "segment under a wrong name", verdict: Corrupt, last: 6, why: "sequence", corrupt: func(d *disk) {
			d.write(2, 0, d.read(3))
		}},
		{name: "file cut short", verdict: Corrupt, last: 12, why: "header says", corrupt: func(d *disk) {
			f, err := d.mem.OpenFile(d.path(3), os.O_RDWR, 0)
			if err := errors.Join(err, f.Truncate(minSegmentBytes+blockBytes), f.Sync(), f.Close()); err != nil {
				d.t.Fatal(err)
			}
		}},
		{name: "file empty", verdict: Corrupt, why: "0 bytes", corrupt: func(d *disk) {
			f, err := d.mem.OpenFile(d.path(4), os.O_RDWR|os.O_TRUNC, 0)
			if err := errors.Join(err, f.Close()); err != nil {
				d.t.Fatal(err)
			}
		}},
		{name: "an old batch in place of a newer one", verdict: Corrupt, last: 18, corrupt: func(d *disk) {
			old := d.batches[18] // of another segment; this one gets its tag, too
			d.rebatch(19, []Record{entry(18, payload)}, func(p *place) { p.number = old.number })
		}, why: "is gone"},
		{name: "batch with a wrong predecessor", verdict: Corrupt, last: 19, why: "follows checksum",
			corrupt: func(d *disk) { d.rebatch(20, []Record{entry(20, payload)}, func(p *place) { p.prev++ }) }},
		{name: "unused segment after a batch that is gone", verdict: Corrupt, last: 17, why: "follows a segment that ends at",
			corrupt: func(d *disk) {
				d.cutTail(19)
				d.write(3, 7*4096, make([]byte, 4096)) // seal
				d.write(3, 6*4096, make([]byte, 4096)) // entry 18
			}},
		{name: "unused segment after another index", verdict: Corrupt, last: 18, why: "begins after index",
			corrupt: func(d *disk) { d.unseal(); d.reheader(4, func(h *header) { h.base++ }) }},
		{name: "unused segment with another batch", verdict: Corrupt, last: 18, why: "begins with batch",
			corrupt: func(d *disk) { d.unseal(); d.reheader(4, func(h *header) { h.first++ }) }},
		{name: "crash before the seal", verdict: Clean, last: 18, corrupt: func(d *disk) { d.unseal() }},
		{name: "crash in the seal", verdict: TornTail, last: 18, corrupt: func(d *disk) {
			d.cutTail(19)
			d.write(3, 7*4096+1024, make([]byte, 512))
		}},
		{name: "crash after the seal", verdict: Clean, last: 18, corrupt: func(d *disk) { d.cutTail(19) }},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDisk(t)
			size := row.size
			if size == 0 {
				size = payload
			}
			d.build(20, size)
			row.corrupt(d)
			before := d.snapshot()
			v, verr := Verify(d.mem, d.opts.Dir)
			if row.verdict == Corrupt {
				d.checkCorrupt(before, row.last, row.why)
			} else {
				d.checkGoesOn(row.verdict, row.last, row.why, size)
			}
			if v.Verdict != row.verdict || (verr != nil) != (row.verdict == Corrupt) {
				t.Errorf("verify says %v, %v", v.Verdict, verr)
			}
		})
	}
}

// snapshot returns the names and contents of all files.
func (d *disk) snapshot() string {
	d.t.Helper()
	var b strings.Builder
	names, err := d.mem.ReadDir(d.opts.Dir)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, name := range names {
		data, err := vfs.ReadFile(d.mem, path.Join(d.opts.Dir, name), maxSegmentBytes)
		if err != nil {
			d.t.Fatal(err)
		}
		b.WriteString(name)
		b.Write(binary.LittleEndian.AppendUint32(nil, checksum(data)))
	}
	return b.String()
}

// checkCorrupt opens a damaged log: a typed error, a prefix, and no change.
func (d *disk) checkCorrupt(before string, last uint64, why string) {
	d.t.Helper()
	var records []Record
	l, rec, err := Open(d.opts, collect(&records))
	var damage *CorruptError
	if l != nil || !errors.Is(err, ErrCorrupt) || !errors.As(err, &damage) {
		d.t.Fatalf("open: %v, want corrupt", err)
	}
	if !strings.Contains(damage.Why, why) {
		d.t.Errorf("why is %q, want %q", damage.Why, why)
	}
	if rec.Verdict != Corrupt || rec.LastIndex != last || rec.Segment != damage.Segment || rec.Offset != damage.Offset {
		d.t.Errorf("recovery %+v, want last index %d", rec, last)
	}
	if uint64(len(records)) != last {
		d.t.Errorf("%d records before the damage, want %d", len(records), last)
	}
	if d.snapshot() != before {
		d.t.Error("opening a damaged log changed it")
	}
}

// checkGoesOn opens a log twice: the verdict is given once, and appending works.
func (d *disk) checkGoesOn(verdict Verdict, last uint64, why string, size int) {
	d.t.Helper()
	l, rec, got := mustOpen(d.t, d.opts)
	if rec.Verdict != verdict || rec.LastIndex != last || uint64(len(got)) != last {
		d.t.Fatalf("recovery %+v of %d records, want %v and last index %d", rec, len(got), verdict, last)
	}
	if !strings.Contains(rec.Why, why) || (rec.TornBytes > 0) != (verdict == TornTail) {
		d.t.Errorf("why is %q, want %q; torn %d", rec.Why, why, rec.TornBytes)
	}
	// The repair is durable before anything else is: the next batch gets the
	// tag of the one that was cut.
	if v, err := Verify(d.mem.CrashClone(vfs.CrashOptions{}), d.opts.Dir); v.Verdict != Clean {
		d.t.Errorf("power cut after the repair: %+v, %v", v, err)
	}
	d.fill(l, last+1, last+20, size)
	mustClose(d.t, l)
	l, rec, got = mustOpen(d.t, d.opts)
	mustClose(d.t, l)
	var want []Record
	for i := uint64(1); i <= last+20; i++ {
		want = append(want, entry(i, size))
	}
	if err := equalRecords(got, want); err != nil || rec.Verdict != Clean {
		d.t.Fatalf("after going on: %v, %+v", err, rec)
	}
}

// Covers F3: the same torn shapes in a recycled segment, whose rest is full of
// batches of an older life with an older salt.
func TestRecoveryOfRecycledSegment(t *testing.T) {
	d := newDisk(t)
	l := mustCreate(t, d.opts)
	index, inSegment := uint64(0), 0
	recycled := func() bool {
		buf := d.read(l.w.head.sequence)
		return inSegment >= 3 && strings.Trim(string(buf[l.w.offset:]), "\x00") != ""
	}
	for ; !recycled(); index++ {
		if index == 500 {
			t.Fatal("no segment was recycled")
		}
		before := l.w.head.sequence
		d.fill(l, index+1, index+1, 100)
		if inSegment++; l.w.head.sequence != before {
			inSegment = 1
			if err := l.Release(index); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustClose(t, l)
	if v, err := Verify(d.mem, d.opts.Dir); v.Verdict != Clean || v.LastIndex != index {
		t.Fatalf("undamaged: %+v, %v", v, err)
	}
	for at := index - 2; at <= index; at++ {
		for sector := range int64(8) {
			c := *d
			c.mem = d.mem.CrashClone(vfs.CrashOptions{})
			c.stale(at, sector)
			v, err := Verify(c.mem, c.opts.Dir)
			want := TornTail
			if at < index {
				want = Corrupt
			}
			if v.Verdict != want || v.LastIndex != at-1 {
				t.Errorf("index %d of %d, sector %d: %v last %d, %v", at, index, sector, v.Verdict, v.LastIndex, err)
			}
		}
	}
}

// Covers F3: two torn tails in a row at one place. The second batch has the tag
// of the first, so sectors that the first left would pass for those it lacks.
func TestTornAgain(t *testing.T) {
	d := newDisk(t)
	d.build(3, 9000) // three blocks
	b := d.batches[3]
	buf := d.read(b.sequence)
	head, _, _ := decodeHeader(buf[:headerBytes])
	old, _, _ := decodeFrame(buf[b.offset:], position(b.offset))
	d.stale(3, 0)
	l, rec, _ := mustOpen(t, d.opts)
	mustClose(t, l)
	if rec.Verdict != TornTail {
		t.Fatalf("%+v", rec)
	}
	var e encoder
	out, _ := e.encode([]Record{entry(4, 9000)}, place{
		salt: head.salt, number: b.number, offset: b.offset, synced: b.offset, prev: uint32(old.term),
	})
	d.write(b.sequence, b.offset, out[:blockBytes+sectorBytes])
	if v, err := Verify(d.mem, d.opts.Dir); v.Verdict != TornTail || v.LastIndex != 2 {
		t.Errorf("%+v, %v", v, err)
	}
}

// Covers F3: before an unused segment only the seal can be torn, which is one
// block; more was durable when the segment was made.
func TestTornBeforeUnusedSegment(t *testing.T) {
	for _, row := range []struct {
		sectors int64
		want    Verdict
	}{{7, TornTail}, {9, Corrupt}} {
		d := newDisk(t)
		l := mustCreate(t, d.opts)
		d.fill(l, 1, 2, 100)
		d.fill(l, 3, 3, 20000) // does not fit: a segment of its own
		mustClose(t, l)
		seal := d.batches[2].offset + blockBytes
		d.cutTail(3)
		number := d.batches[2].number + 1
		out := make([]byte, row.sectors*sectorBytes)
		stripe(out, make([]byte, row.sectors*sectorData), tagOf(l.w.segments[0].head.salt, number))
		d.write(1, seal, make([]byte, blockBytes))
		d.write(1, seal, out)
		d.stale1(1, seal)
		if v, err := Verify(d.mem, d.opts.Dir); v.Verdict != row.want || v.LastIndex != 2 {
			t.Errorf("%d sectors: %+v, %v", row.sectors, v, err)
		}
	}
}

// stale1 makes one sector one that was never written.
func (d *disk) stale1(sequence uint64, offset int64) {
	d.write(sequence, offset, make([]byte, sectorBytes))
}

// Before anything is read, it is synced: no decision rests on bytes that are not
// on disk yet, and Reload shows what is.
func TestOpenSyncsBeforeReading(t *testing.T) {
	d := newDisk(t)
	d.build(20, 100)
	reloaded := map[string]bool{}
	synced, reads := false, 0
	opts := d.opts
	opts.FS = vfs.Inject(d.mem, func(op vfs.Op) error {
		switch op.Kind {
		case vfs.OpSyncDir:
			synced = true
		case vfs.OpReload:
			reloaded[op.Path] = true
		case vfs.OpRead:
			if reads++; !synced || !reloaded[op.Path] {
				t.Errorf("%v before a sync", op)
			}
		}
		return nil
	})
	s := survey{fsys: opts.FS, dir: opts.Dir, reload: true}
	if err := s.run(); err != nil || reads < 4 {
		t.Errorf("%d reads, %v", reads, err)
	}
	for _, kind := range []vfs.Kind{vfs.OpSyncDir, vfs.OpReload, vfs.OpRead, vfs.OpReadDir, vfs.OpOpen} {
		opts.FS = vfs.Inject(d.mem, vfs.Nth(0, vfs.ErrInjected, func(op vfs.Op) bool { return op.Kind == kind }))
		if _, _, err := Open(opts, nil); !errors.Is(err, vfs.ErrInjected) || errors.Is(err, ErrCorrupt) {
			t.Errorf("open with an error at %v: %v", kind, err)
		}
	}
}
