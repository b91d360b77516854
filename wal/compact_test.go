package wal

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// What outlives a release is there wherever in a segment the release came, also
// when its segment is full, and the next release takes it away.
func TestCompactKeepsRecords(t *testing.T) {
	for n := uint64(1); n <= 14; n++ { // six to a segment
		d := newDisk(t)
		l := mustCreate(t, d.opts)
		d.fill(l, 1, n, 100)
		keep := []Record{{Type: 9, Payload: fmt.Appendf(nil, "of %d", n)}, {Type: 10}}
		drop := l.Compact(n, keep)
		d.fill(l, n+1, n+8, 100)
		if err := drop(); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		l, rec, got := mustOpen(t, d.opts)
		i := 0
		for ; i < len(got) && got[i].Type != 9; i++ {
			if got[i].Index > n {
				break
			}
		}
		if i >= len(got)-1 || string(got[i].Payload) != fmt.Sprintf("of %d", n) || got[i+1].Type != 10 {
			t.Fatalf("release of %d: what was to be kept is gone: %d records", n, len(got))
		}
		if i > 6 || rec.LastIndex != n+8 {
			t.Fatalf("release of %d: %d records before it, %+v", n, i, rec)
		}
		if err := l.Compact(n+8, keep[1:])(); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		l, _, got = mustOpen(t, d.opts)
		if len(got) > 8 || got[len(got)-1].Type != 10 {
			t.Fatalf("second release: %d records are left", len(got))
		}
		mustClose(t, l)
	}
}

// Nothing of a log that was closed is touched by a release that comes late; the
// next Open finishes it.
func TestCompactAfterClose(t *testing.T) {
	d := newDisk(t)
	l := mustCreate(t, d.opts)
	d.fill(l, 1, 20, 100)
	drop := l.Compact(20, nil)
	mustClose(t, l)
	before := d.snapshot()
	if err := drop(); err != nil || d.snapshot() != before {
		t.Fatalf("files changed after Close: %v", err)
	}
	l, rec, got := mustOpen(t, d.opts)
	if rec.Segments != 1 || len(got) == 0 {
		t.Fatalf("%+v", rec)
	}
	mustClose(t, l)
	if names, _ := d.mem.ReadDir(d.opts.Dir); len(names) != 1 {
		t.Fatalf("left over: %v", names)
	}
	if err := l.Compact(20, nil)(); !errors.Is(err, ErrClosed) {
		t.Fatalf("release of a closed log: %v", err)
	}
	big := mustReopen(t, d.opts)
	if err := big.Compact(1, []Record{{Type: 1, Payload: make([]byte, 1<<20)}})(); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("too large: %v", err)
	}
	mustClose(t, big)
}

func mustReopen(t *testing.T, opts Options) *Log {
	t.Helper()
	l, _, _ := mustOpen(t, opts)
	return l
}

// Covers F2: a scrub of a log in use reads every sealed byte.
func TestScrub(t *testing.T) {
	d := newDisk(t)
	l := mustCreate(t, d.opts)
	if n, _, err := l.Scrub(nil); n != 0 || err != nil {
		t.Fatalf("%d segments, %v", n, err)
	}
	d.fill(l, 1, 20, 100) // three sealed
	asked := int64(0)
	pace := func(n int) error { asked += int64(n); return nil }
	n, bytes, err := l.Scrub(pace)
	if n != 3 || bytes != 3*minSegmentBytes || asked != bytes || err != nil {
		t.Fatalf("%d segments, %d bytes of %d, %v", n, bytes, asked, err)
	}
	head := int64(headerBytes)
	for _, row := range []struct{ sequence, offset int64 }{
		{1, 0}, {1, 5}, {2, 100}, {3, 4095}, // header
		{1, head}, {1, head + 60}, {2, head + 511}, {2, head + 4096 + 3}, {3, head + 5*4096 + 200}, // batches
		{1, head + 6*4096}, {2, head + 6*4096 + 48}, {3, head + 6*4096 + 509}, // seal
	} {
		d.flip(uint64(row.sequence), row.offset)
		_, _, err := l.Scrub(nil)
		var damage *CorruptError
		if !errors.As(err, &damage) || damage.Segment != d.path(uint64(row.sequence)) {
			t.Errorf("flip at %d of segment %d: %v", row.offset, row.sequence, err)
		}
		d.flip(uint64(row.sequence), row.offset)
	}
	stop := errors.New("stop")
	if _, _, err := l.Scrub(func(int) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a scrub goes on: %v", err)
	}
	d.remove(2)
	if _, _, err := l.Scrub(nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a segment is missing: %v", err)
	}
	if err := appendWait(l, entry(21, 10)); err != nil {
		t.Errorf("a scrub stops the log: %v", err)
	}
	mustClose(t, l)
}

// Segments that are released and used anew while they are read are no damage.
func TestScrubBesideRelease(t *testing.T) {
	d := newDisk(t)
	l := mustCreate(t, d.opts)
	d.fill(l, 1, 20, 100)
	for _, after := range []int{0, 1, 2} {
		calls := 0
		_, _, err := l.Scrub(func(int) error {
			if calls == after {
				last := l.Stats().LastIndex
				if err := l.Release(last); err != nil {
					return err
				}
				d.fill(l, last+1, last+20, 100) // into the files that were released
			}
			calls++
			return nil
		})
		if err != nil {
			t.Fatalf("release after %d pieces: %v", after, err)
		}
	}
	mustClose(t, l)
}

// Scrubs, appends and releases at once.
func TestScrubConcurrently(t *testing.T) {
	l := mustCreate(t, testOptions(vfs.NewMem()))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, _, err := l.Scrub(nil); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := uint64(1); i <= 300; i++ {
		if err := appendWait(l, entry(i, 3000)); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			drop := l.Compact(i-10, []Record{{Type: 2}})
			wg.Go(func() {
				if err := drop(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	close(stop)
	wg.Wait()
	mustClose(t, l)
}

// Covers F3: what the medium has lost is damage; another error is not.
func TestUnreadableSegment(t *testing.T) {
	for _, row := range []struct {
		err     error
		corrupt bool
	}{{syscall.EIO, true}, {vfs.ErrInjected, false}} {
		d := newDisk(t)
		d.build(20, 100)
		opts := d.opts
		opts.FS = vfs.Inject(d.mem, vfs.Nth(0, row.err, func(op vfs.Op) bool {
			return op.Kind == vfs.OpRead && op.Path == d.path(2)
		}))
		_, rec, err := Open(opts, nil)
		if !errors.Is(err, row.err) && !row.corrupt || errors.Is(err, ErrCorrupt) != row.corrupt {
			t.Errorf("%v: %v", row.err, err)
		}
		if row.corrupt && (rec.Verdict != Corrupt || rec.Segment != d.path(2)) {
			t.Errorf("%+v", rec)
		}
	}
}
