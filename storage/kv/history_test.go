package kv

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
)

func revs(ev []Event) (r []uint64) {
	for _, e := range ev {
		r = append(r, e.Rev)
	}
	return r
}

// Covers S10: a watcher that asks on with next sees each change once, and a
// page never ends within a revision.
func TestEventsArePagedByRevision(t *testing.T) {
	s := New()
	apply(t, s, 1, 0,
		one(put("b", "x1", ""), put("b", "y", ""), put("b", "x2", "")), // 1
		one(put("c", "x", "")), // 2
		one(del("b", "x1")),    // 3
		one(putTTL("b", "x3", "", time.Second), putTTL("b", "x4", "", time.Second)), // 4
	)
	s.Expire(1 + int64(time.Second)) // 5
	for _, c := range []struct {
		bucket, prefix string
		from           uint64
		limit          int
		want           []uint64
		next           uint64
	}{
		{"b", "x", 0, 1, []uint64{1, 1}, 2},
		{"b", "x", 2, 1, []uint64{3}, 4},
		{"b", "x", 2, 2, []uint64{3, 4, 4}, 5},
		{"b", "x", 5, 1, []uint64{5, 5}, 6},
		{"b", "x", 6, 1, nil, 6},
		{"b", "x", 9, 1, nil, 9}, // this member is behind
		{"b", "y", 1, 100, []uint64{1}, 6},
		{"", "", 1, 100, []uint64{1, 1, 1, 2, 3, 4, 4, 5, 5}, 6},
		{"c", "", 1, 0, []uint64{2}, 3}, // a limit of 0 is 1
		{"none", "", 1, 5, nil, 6},
	} {
		ev, next, err := s.View().Events(c.bucket, c.prefix, c.from, c.limit)
		if err != nil || !slices.Equal(revs(ev), c.want) || next != c.next {
			t.Errorf("%s/%s* from %d, limit %d: %v, next %d, %v; want %v, next %d", c.bucket, c.prefix, c.from, c.limit, revs(ev), next, err, c.want, c.next)
		}
	}
	ev, _, _ := s.View().Events("b", "x3", 1, 10)
	if len(ev) != 2 || ev[0].Type != EventPut || ev[0].Expires != 1+int64(time.Second) || ev[1].Type != EventExpire || ev[1].Key != "x3" || ev[1].Value != nil {
		t.Errorf("put and expiry: %+v", ev)
	}
}

// Covers S10: the end of the history is told, never skipped.
func TestHistoryIsBounded(t *testing.T) {
	for _, c := range []struct {
		name  string
		value int
		want  int // events that stay of 2 * MaxHistoryEvents
	}{
		{"by number", 0, MaxHistoryEvents},
		{"by bytes", 1 << 10, MaxHistoryBytes / (1<<10 + 64 + 8)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := New()
			const total = 2 * MaxHistoryEvents
			value := make([]byte, c.value)
			var old *View
			for i := 0; i < total; {
				b := &Batch{}
				for range MaxBatchRequests {
					b.Requests = append(b.Requests, one(Op{Kind: OpPut, Bucket: "b", Key: fmt.Sprintf("%08d", i%100), Value: value}))
					i++
				}
				s.Apply(b)
				if old == nil {
					old = s.View()
				}
			}
			s = again(t, s)
			v := s.View()
			if n := v.history.events.len(); n != c.want {
				t.Fatalf("%d events, want %d", n, c.want)
			}
			oldest := uint64(total-c.want) + 1
			if v.Oldest() != oldest {
				t.Fatalf("history begins at %d, want %d", v.Oldest(), oldest)
			}
			ev, next, err := v.Events("b", "", oldest, 1<<20)
			if err != nil || len(ev) != c.want || ev[0].Rev != oldest || next != total+1 {
				t.Fatalf("from %d: %d events, next %d, %v", oldest, len(ev), next, err)
			}
			for _, from := range []uint64{0, 1, oldest - 1} {
				var ce *CompactedError
				if _, _, err := v.Events("b", "", from, 1); !errors.Is(err, ErrCompacted) || !errors.As(err, &ce) || ce.Oldest != oldest || ce.From != from {
					t.Errorf("from %d: %v, want compacted up to %d", from, err, oldest)
				}
			}
			if ev, _, err := old.Events("b", "", 1, 1<<20); err != nil || len(ev) != MaxBatchRequests || ev[0].Rev != 1 {
				t.Errorf("an older view has %d events, %v", len(ev), err)
			}
		})
	}
}

// The newest revision stays whole, even when it alone is over the limit.
func TestHugeRevisionStaysInHistory(t *testing.T) {
	s := New()
	apply(t, s, 0, 0, one(put("b", "k", "")))
	huge := func(n int) Request {
		var ops []Op
		for i := range MaxTxnOps {
			ops = append(ops, Op{Kind: OpPut, Bucket: "b", Key: fmt.Sprintf("%03d", i), Value: make([]byte, n)})
		}
		return one(ops...)
	}
	apply(t, s, 0, 0, huge(32738)) // 64 bytes for each event bring it over 4 MiB
	s = again(t, s)
	if n := s.View().history.bytes; n <= MaxHistoryBytes {
		t.Fatalf("history of %d bytes: the test wants more than %d", n, MaxHistoryBytes)
	}
	if ev, next, err := s.View().Events("", "", 2, 1); err != nil || len(ev) != MaxTxnOps || next != 3 {
		t.Fatalf("%d events, next %d, %v; want %d", len(ev), next, err, MaxTxnOps)
	}
	apply(t, s, 0, 0, one(put("b", "k", "")))
	if o := again(t, s).View().Oldest(); o != 3 {
		t.Fatalf("history begins at %d, want 3", o)
	}
}

// Values that are neither current nor in the history must be free, however
// large they are and however small the events before them were.
func TestHistoryFreesValues(t *testing.T) {
	s := New()
	for i := range 2 * historyChunk {
		apply(t, s, 0, 0, one(put("b", fmt.Sprint(i), "")))
	}
	before := heap()
	for range 100 {
		s.Apply(&Batch{Requests: []Request{one(Op{Kind: OpPut, Bucket: "b", Key: "k", Value: make([]byte, MaxValue)})}})
	}
	if n := int64(heap()) - int64(before); n > 8<<20 {
		t.Fatalf("100 writes of 1 MiB to one key hold %d MiB", n>>20)
	}
	runtime.KeepAlive(s)
}
