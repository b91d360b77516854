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
