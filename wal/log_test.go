package wal

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

const testDir = "/data/wal"

func testOptions(fsys vfs.FS) Options {
	return Options{FS: fsys, Dir: testDir, Cluster: [16]byte{1, 2, 3}, Node: 7, SegmentBytes: minSegmentBytes}
}

func mustCreate(t testing.TB, opts Options) *Log {
	t.Helper()
	l, err := Create(opts)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return l
}

// mustOpen opens a log and returns the records that it holds after truncations.
func mustOpen(t testing.TB, opts Options) (*Log, Recovery, []Record) {
	t.Helper()
	var records []Record
	l, rec, err := Open(opts, collect(&records))
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return l, rec, records
}

// collect applies what replay says to records, as a caller does.
func collect(records *[]Record) func(Record) error {
	return func(r Record) error {
		if r.Type == TypeTruncate {
			*records = cut(*records, r.Index)
		} else {
			*records = append(*records, r)
		}
		return nil
	}
}

// cut drops the records whose index is from or above.
func cut(records []Record, from uint64) []Record {
	return slices.DeleteFunc(slices.Clone(records), func(r Record) bool { return r.Index >= from })
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// appendWait appends and waits for the callback.
func appendWait(l *Log, records ...Record) error {
	done := make(chan error, 1)
	l.Append(records, func(err error) { done <- err })
	return <-done
}

func truncateWait(l *Log, from uint64) error {
	done := make(chan error, 1)
	l.Truncate(from, func(err error) { done <- err })
	return <-done
}

// entry returns a record whose payload can be told from every other.
func entry(index uint64, size int) Record {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(uint64(i)*7 + index)
	}
	return Record{Type: 1, Index: index, Term: index/10 + 1, Payload: p}
}

func equalRecords(a, b []Record) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d records, want %d", len(a), len(b))
	}
	for i := range a {
		x, y := a[i], b[i]
		if x.Type != y.Type || x.Index != y.Index || x.Term != y.Term || string(x.Payload) != string(y.Payload) {
			return fmt.Errorf("record %d is %d/%d/%d of %d bytes, want %d/%d/%d of %d", i,
				x.Type, x.Index, x.Term, len(x.Payload), y.Type, y.Index, y.Term, len(y.Payload))
		}
	}
	return nil
}

func TestAppendAndOpen(t *testing.T) {
	for name, opts := range map[string]Options{
		"memory": testOptions(vfs.NewMem()),
		"disk":   func() Options { o := testOptions(vfs.OS); o.Dir = t.TempDir() + "/a/wal"; return o }(),
	} {
		t.Run(name, func(t *testing.T) {
			l := mustCreate(t, opts)
			var want []Record
			for i := uint64(1); i <= 60; i++ { // several segments
				r := entry(i, int(i*37%5000))
				want = append(want, r)
				if err := appendWait(l, r); err != nil {
					t.Fatal(err)
				}
			}
			if err := truncateWait(l, 41); err != nil {
				t.Fatal(err)
			}
			want = append(want[:40], entry(41, 3))
			if err := appendWait(l, want[40]); err != nil {
				t.Fatal(err)
			}
			if s := l.Stats(); s.LastIndex != 41 || s.Segments < 3 || s.Records != 62 || s.SyncP99 <= 0 {
				t.Errorf("stats %+v", s)
			}
			mustClose(t, l)
			l, rec, got := mustOpen(t, opts)
			mustClose(t, l)
			if err := equalRecords(got, want); err != nil {
				t.Fatal(err)
			}
			if rec.Verdict != Clean || rec.LastIndex != 41 || rec.Records != 62 {
				t.Errorf("recovery %+v", rec)
			}
			if _, err := Create(opts); !errors.Is(err, ErrExists) {
				t.Errorf("create over a log: %v", err)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no file system":        func(o *Options) { o.FS = nil },
		"no directory":          func(o *Options) { o.Dir = "" },
		"no node":               func(o *Options) { o.Node = 0 },
		"segment too small":     func(o *Options) { o.SegmentBytes = 16 << 10 },
		"segment too large":     func(o *Options) { o.SegmentBytes = 512 << 20 },
		"segment not of blocks": func(o *Options) { o.SegmentBytes++ },
		"payload negative":      func(o *Options) { o.MaxPayload = -1 },
		"payload above segment": func(o *Options) { o.MaxPayload = int(maxPayloadFor(o.SegmentBytes)) + 1 },
	} {
		opts := testOptions(vfs.NewMem())
		change(&opts)
		if _, err := Create(opts); err == nil {
			t.Errorf("%s: create accepts it", name)
		}
		if _, _, err := Open(opts, nil); err == nil || errors.Is(err, ErrNoLog) {
			t.Errorf("%s: open says %v", name, err)
		}
	}
}

func TestOpenOfAnother(t *testing.T) {
	mem := vfs.NewMem()
	if _, _, err := Open(testOptions(mem), nil); !errors.Is(err, ErrNoLog) {
		t.Errorf("open of nothing: %v", err)
	}
	if ok, err := Exists(mem, testDir); ok || err != nil {
		t.Errorf("exists: %v, %v", ok, err)
	}
	mustClose(t, mustCreate(t, testOptions(mem)))
	if ok, err := Exists(mem, testDir); !ok || err != nil {
		t.Errorf("exists: %v, %v", ok, err)
	}
	opts := testOptions(mem)
	opts.Node++
	if _, _, err := Open(opts, nil); !errors.Is(err, ErrForeign) || errors.Is(err, ErrCorrupt) {
		t.Errorf("open as another node: %v", err)
	}
	opts = testOptions(mem)
	opts.Cluster[15]++
	if _, _, err := Open(opts, nil); !errors.Is(err, ErrForeign) {
		t.Errorf("open as another cluster: %v", err)
	}
}

func TestReplayError(t *testing.T) {
	d := newDisk(t)
	d.build(9, 10)
	stop := errors.New("gap")
	_, rec, err := Open(d.opts, func(r Record) error {
		if r.Index == 8 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || errors.Is(err, ErrCorrupt) || rec.Verdict == Corrupt {
		t.Errorf("open: %+v, %v", rec, err)
	}
}

// A record of the largest size has a batch, and a segment, of its own; one byte
// more is refused, and the log goes on.
func TestLargestPayload(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	l := mustCreate(t, opts)
	largest := int(maxPayloadFor(opts.SegmentBytes))
	want := []Record{entry(1, 10), entry(2, largest), entry(3, largest), entry(4, 0)}
	if err := appendWait(l, want...); err != nil {
		t.Fatal(err)
	}
	if err := appendWait(l, entry(5, 1), entry(6, largest+1)); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("one byte too many: %v", err)
	}
	if err := appendWait(l); err != nil { // no record: an ack in order
		t.Fatal(err)
	}
	want = append(want, entry(5, 10))
	if err := appendWait(l, want[4]); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	_, rec, got := mustOpenClosed(t, opts)
	if err := equalRecords(got, want); err != nil || rec.Segments != 4 {
		t.Fatalf("%v, %+v", err, rec)
	}
}

func TestTypesOfTheLogAreRefused(t *testing.T) {
	l := mustCreate(t, testOptions(vfs.NewMem()))
	defer mustClose(t, l)
	for _, typ := range []uint8{0, MaxType + 1, TypeRelease, TypeSeal, TypeBatch, TypeTruncate} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("type %d is accepted", typ)
				}
			}()
			l.Append([]Record{{Type: typ}}, nil)
		}()
	}
	l.Append([]Record{{Type: MaxType}}, nil) // nobody waits
}

// Many records in one Append are split into batches, acknowledged once.
func TestManyRecords(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.SegmentBytes = 4 << 20
	l := mustCreate(t, opts)
	var want []Record
	for i := range uint64(3*maxBatchRecords + 1) {
		want = append(want, entry(i+1, 5000))
	}
	if err := appendWait(l, want...); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s.Batches < 4 || s.Records != uint64(len(want)) {
		t.Errorf("%+v", s)
	}
	mustClose(t, l)
	_, _, got := mustOpenClosed(t, opts)
	if err := equalRecords(got, want); err != nil {
		t.Fatal(err)
	}
}

func TestRelease(t *testing.T) {
	d := newDisk(t)
	l := mustCreate(t, d.opts)
	d.fill(l, 1, 20, 100) // six to a segment
	for _, row := range []struct {
		upto  uint64
		first uint64 // index that the log then begins with
	}{{0, 1}, {5, 1}, {6, 7}, {6, 7}, {17, 13}, {1 << 60, 19}} {
		if err := l.Release(row.upto); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		var rec Recovery
		var got []Record
		l, rec, got = mustOpen(t, d.opts)
		if got[0].Index != row.first || rec.FirstIndex != row.first-1 || rec.LastIndex != 20 {
			t.Errorf("release %d: begins with %d, %+v", row.upto, got[0].Index, rec)
		}
	}
	// A truncation keeps no segment, a hard state of index 0 neither.
	if err := truncateWait(l, 20); err != nil {
		t.Fatal(err)
	}
	d.fill(l, 20, 30, 100)
	if err := l.Release(30); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s.Segments != 1 || s.LastIndex != 30 || s.Bytes != minSegmentBytes {
		t.Errorf("%+v", s)
	}
	mustClose(t, l)
}

// Segments of another length, of an earlier configuration, are read and go on.
func TestSegmentLengthChanges(t *testing.T) {
	d := newDisk(t)
	d.build(8, 100)
	d.opts.SegmentBytes = 64 << 10
	l, _, _ := mustOpen(t, d.opts)
	large := Record{Type: 1, Index: 9, Payload: make([]byte, 50<<10)}
	if err := appendWait(l, large); err != nil { // no room in the old one
		t.Fatal(err)
	}
	if err := l.Release(8); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	_, rec, got := mustOpenClosed(t, d.opts)
	if rec.LastIndex != 9 || len(got) != 1 || rec.Segments != 1 {
		t.Errorf("%+v, %d records", rec, len(got))
	}
}
