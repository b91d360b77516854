package kv

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Covers S8 (expiry): the committed clock decides, and nothing but a committed
// Expire removes.
func TestExpiry(t *testing.T) {
	s := New()
	const sec = int64(time.Second)
	apply(t, s, 100*sec, 0, one(putTTL("b", "k", "v", 10*time.Second), put("b", "stays", "")))
	if it, ok := s.View().Get("b", "k"); !ok || it.Expires != 110*sec {
		t.Fatalf("expires at %d, want %d", it.Expires, 110*sec)
	}
	// Time passes, but nobody says so.
	apply(t, s, 200*sec, 0, one(put("b", "other", "")))
	if _, ok := s.View().Get("b", "k"); !ok {
		t.Fatal("gone without an expiry")
	}
	if !s.Expirable(0, 1) || s.Expirable(0, 2) {
		t.Fatal("Expirable: one key is due at the committed clock, not two")
	}
	if n := s.Expire(0); n != 1 || s.Clock() != 200*sec || s.Rev() != 3 {
		t.Fatalf("%d keys, clock %d, revision %d; want 1, %d, 3", n, s.Clock(), s.Rev(), 200*sec)
	}
	if _, ok := s.View().Get("b", "k"); ok {
		t.Fatal("there after its expiry")
	}
	if n := s.Expire(900 * sec); n != 0 || s.Rev() != 3 || s.Clock() != 900*sec {
		t.Fatalf("nothing to expire: %d keys, revision %d, clock %d", n, s.Rev(), s.Clock())
	}
}

func TestExpiryAtTheNanosecond(t *testing.T) {
	s := New()
	apply(t, s, 5, 0, one(putTTL("b", "k", "", 10)))
	if s.Expirable(14, 1) || s.Expire(14) != 0 {
		t.Fatal("due one nanosecond too early")
	}
	if !s.Expirable(15, 1) || s.Expire(15) != 1 {
		t.Fatal("not due at its time")
	}
}

func TestWriteMovesExpiry(t *testing.T) {
	s := New()
	apply(t, s, 0, 0, one(putTTL("b", "longer", "", 10), putTTL("b", "never", "", 10), putTTL("b", "gone", "", 10)))
	apply(t, s, 5, 0, one(putTTL("b", "longer", "", 10), put("b", "never", ""), del("b", "gone")))
	if s.Expire(14) != 0 {
		t.Fatal("expired by the old time")
	}
	s = again(t, s)
	if s.Expire(15) != 1 {
		t.Fatal("the new time does not count")
	}
	if _, ok := s.View().Get("b", "never"); !ok || s.due.Len() != 0 {
		t.Fatalf("never: there %v, %d keys due", ok, s.due.Len())
	}
	// Undone writes leave the expiry as it was.
	apply(t, s, 20, 0, one(putTTL("b", "k", "", 10)))
	if res := apply(t, s, 20, 1, one(putTTL("b", "k", "larger", 50)))[0]; res.Code != Quota {
		t.Fatal(res.Code)
	}
	if s.Expire(30) != 1 || s.Recount() != nil {
		t.Fatal("a refused write moved the expiry")
	}
}

// All keys of one call are one revision, in the order of time, bucket, key.
func TestExpiryOrder(t *testing.T) {
	s := New()
	apply(t, s, 0, 0, one(putTTL("c", "a", "", 5), putTTL("b", "z", "", 5), putTTL("b", "a", "", 5), putTTL("z", "first", "", 4), putTTL("b", "later", "", 6)))
	s = again(t, s)
	if n := s.Expire(5); n != 4 {
		t.Fatalf("%d keys, want 4", n)
	}
	ev, _, err := s.View().Events("", "", 2, 1)
	var got []string
	for _, e := range ev {
		got = append(got, fmt.Sprintf("%d %v %s/%s", e.Rev, e.Type, e.Bucket, e.Key))
	}
	if want := []string{"2 expire z/first", "2 expire b/a", "2 expire b/z", "2 expire c/a"}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("%q, %v; want %q", got, err, want)
	}
}

func TestExpiryIsBounded(t *testing.T) {
	s := New()
	const total = 2*MaxExpire + 5
	for i := 0; i < total; {
		b := &Batch{}
		for ; len(b.Requests) < MaxBatchRequests && i < total; i++ {
			b.Requests = append(b.Requests, one(putTTL("b", fmt.Sprint(i), "", 1)))
		}
		s.Apply(b)
	}
	for _, want := range []int{MaxExpire, MaxExpire, 5, 0} {
		if more := s.Expirable(1, want); more != (want > 0) {
			t.Fatalf("Expirable(%d): %v", want, more)
		}
		if n := s.Expire(1); n != want {
			t.Fatalf("%d keys, want %d", n, want)
		}
		again(t, s)
	}
}
