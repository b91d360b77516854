package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Many appenders, a releaser and a reader of statistics at once: callbacks come
// in the order of the appends of each, all are durable, and nothing races.
func TestConcurrent(t *testing.T) {
	const writers, each = 8, 60
	opts := testOptions(vfs.OS)
	opts.Dir = t.TempDir()
	opts.SegmentBytes = 256 << 10
	var synced, bytes atomic.Int64
	opts.OnSync = func(n, records int, took time.Duration) {
		synced.Add(int64(records))
		bytes.Add(int64(n))
	}
	l := mustCreate(t, opts)
	var wg sync.WaitGroup
	for w := range uint64(writers) {
		wg.Go(func() {
			acks := make(chan uint64, each)
			for i := range uint64(each) {
				r := entry(w<<32|i+1, int(i*13))
				r.Type = uint8(w + 1)
				l.Append([]Record{r}, func(err error) {
					if err != nil {
						t.Errorf("append: %v", err)
					}
					acks <- i
				})
			}
			for i := range uint64(each) {
				if got := <-acks; got != i {
					t.Errorf("writer %d: callback %d came as number %d", w, got, i)
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if err := l.Release(0); err != nil {
				t.Errorf("release: %v", err)
			}
			_ = l.Stats()
		}
	})
	wg.Wait()
	s := l.Stats()
	mustClose(t, l)
	if synced.Load() != writers*each || s.Records != writers*each || uint64(bytes.Load()) != s.BatchBytes {
		t.Errorf("%d records synced, %+v", synced.Load(), s)
	}
	if s.Batches >= writers*each {
		t.Errorf("%d batches for %d records: nothing was grouped", s.Batches, s.Records)
	}
	next := map[uint8]uint64{}
	l, _, err := Open(opts, func(r Record) error {
		next[r.Type]++
		if want := uint64(r.Type-1)<<32 | next[r.Type]; r.Index != want {
			return fmt.Errorf("index %x, want %x", r.Index, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if len(next) != writers || next[1] != each {
		t.Errorf("replayed %v", next)
	}
}

// Close while appends are queued: each callback comes once, with nil or
// ErrClosed, and nil means durable.
func TestCloseWhileAppending(t *testing.T) {
	mem := vfs.NewMem()
	l := mustCreate(t, testOptions(mem))
	var acked, refused atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range uint64(100) {
				l.Append([]Record{entry(i+1, 10)}, func(err error) {
					switch {
					case err == nil:
						acked.Add(1)
					case errors.Is(err, ErrClosed):
						refused.Add(1)
					default:
						t.Errorf("append: %v", err)
					}
				})
			}
		})
	}
	mustClose(t, l)
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := l.Release(1); !errors.Is(err, ErrClosed) {
		t.Errorf("release after close: %v", err)
	}
	if acked.Load()+refused.Load() != 400 {
		t.Fatalf("%d + %d callbacks", acked.Load(), refused.Load())
	}
	_, _, got := mustOpenClosed(t, testOptions(mem))
	if int64(len(got)) != acked.Load() {
		t.Errorf("%d records, %d acknowledged", len(got), acked.Load())
	}
}

// mustOpenClosed is mustOpen for looking only.
func mustOpenClosed(t testing.TB, opts Options) (*Log, Recovery, []Record) {
	t.Helper()
	l, rec, got := mustOpen(t, opts)
	mustClose(t, l)
	return l, rec, got
}

// The queue has a limit: with the disk stuck, which Stats show (E8), appends wait
// and do not pile up.
func TestQueueIsBounded(t *testing.T) {
	stuck := make(chan struct{})
	var armed atomic.Bool
	fsys := vfs.Inject(vfs.NewMem(), func(op vfs.Op) error {
		if armed.Load() && op.Kind == vfs.OpSync {
			<-stuck
		}
		return nil
	})
	opts := testOptions(fsys)
	opts.SegmentBytes = 4 << 20
	l := mustCreate(t, opts)
	if err := appendWait(l, entry(1, 1)); err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	const calls = 2*maxQueueRequests + 10
	var queued, done atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint64(calls) {
			l.Append([]Record{entry(i+2, 1)}, func(error) { done.Add(1) })
			queued.Add(1)
		}
	})
	for s := l.Stats(); s.Queued < maxQueueRequests || s.Busy == 0; s = l.Stats() {
		time.Sleep(time.Millisecond) // polls a condition, is no synchronisation
	}
	if n := queued.Load(); n > 2*maxQueueRequests || done.Load() != 0 {
		t.Errorf("%d appends passed a stuck disk, %d done", n, done.Load())
	}
	close(stuck)
	wg.Wait()
	mustClose(t, l)
	if done.Load() != calls {
		t.Errorf("%d callbacks of %d", done.Load(), calls)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			opts := testOptions(vfs.OS)
			opts.Dir = filepath.Join(b.TempDir(), "wal")
			opts.SegmentBytes = DefaultSegmentBytes
			l := mustCreate(b, opts)
			var left atomic.Int64
			left.Store(int64(b.N))
			payload := make([]byte, 512)
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for i := left.Add(-1); i >= 0; i = left.Add(-1) {
						if err := appendWait(l, Record{Type: 1, Index: uint64(i + 1), Payload: payload}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			s := l.Stats()
			b.ReportMetric(float64(s.SyncP50.Microseconds()), "p50-µs")
			b.ReportMetric(float64(s.SyncP99.Microseconds()), "p99-µs")
			b.ReportMetric(float64(s.Records)/float64(s.Batches), "records/sync")
			mustClose(b, l)
		})
	}
}

// BenchmarkBareFile is what the disk gives: 4 KiB into a zero-filled file, and
// fdatasync.
func BenchmarkBareFile(b *testing.B) {
	f, err := createFilled(vfs.OS, filepath.Join(b.TempDir(), "bare"), DefaultSegmentBytes, nil)
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, blockBytes)
	offset := int64(0)
	b.ResetTimer()
	for range b.N {
		if _, err := f.WriteAt(block, offset); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		offset = (offset + blockBytes) % DefaultSegmentBytes
	}
	b.StopTimer()
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkVerify reads a log of 256 MiB, as Open does, from the page cache.
func BenchmarkVerify(b *testing.B) {
	opts := testOptions(vfs.OS)
	opts.Dir = filepath.Join(b.TempDir(), "wal")
	opts.SegmentBytes = DefaultSegmentBytes
	l := mustCreate(b, opts)
	const records, size = 16 * 16 * 4, 256 << 10
	for i := range uint64(records) {
		if err := appendWait(l, entry(i+1, size)); err != nil {
			b.Fatal(err)
		}
	}
	mustClose(b, l)
	b.SetBytes(records * size)
	for b.Loop() {
		if _, err := Verify(vfs.OS, opts.Dir); err != nil {
			b.Fatal(err)
		}
	}
}
