package kv

import (
	"fmt"
	"testing"
	"time"
)

func withID(id string, ops ...Op) Request { return Request{ID: id, Then: ops} }

// Covers S8: a repeated request happens once and gets the first answer, also
// from a node that was filled by a snapshot.
func TestOnce(t *testing.T) {
	s := New()
	cas := Request{ID: "cas", If: []Cond{{Bucket: "b", Key: "k", Rev: 99}}, Then: []Op{put("b", "k", "never")}, Else: []Op{del("b", "k"), del("b", "k"), get("b", "k"), put("b", "n", "")}}
	mixed := withID("mixed", put("b", "k", "1"), get("b", "k"), put("b", "k", "2"))
	first := apply(t, s, 5, 0, mixed, cas)
	apply(t, s, 6, 0, one(put("b", "k", "later")))
	for range 2 {
		s = again(t, s)
		hash, rev := s.Hash(), s.Rev()
		res := apply(t, s, 6, 0, cas, mixed)
		if r := res[1]; !r.Replayed || r.Code != OK || r.Rev != 1 || len(r.Ops) != 3 || r.Ops[0].Rev != 1 || r.Ops[0].Found || !r.Ops[2].Found || !r.Ops[1].Found || r.Ops[1].Value != nil {
			t.Errorf("replay %+v of %+v", r, first[0])
		}
		if r := res[0]; !r.Replayed || r.Code != NotMet || r.Conflict != 1 || r.Rev != 2 || len(r.Ops) != 4 ||
			!r.Ops[0].Found || r.Ops[0].Rev != 2 || r.Ops[1].Found || r.Ops[1].Rev != 0 || r.Ops[3].Found || r.Ops[3].Rev != 2 {
			t.Errorf("replay %+v of %+v", r, first[1])
		}
		if s.Hash() != hash || s.Rev() != rev {
			t.Error("a replay changed the store")
		}
	}
	for i, r := range []Request{withID("mixed", put("b", "k", "1")), withID("cas", mixed.Then...)} {
		if res := apply(t, s, 6, 0, r)[0]; res.Code != IDReused || res.Rev != 3 || res.Replayed {
			t.Errorf("other content %d: %+v, want id reused at revision 3", i, res)
		}
	}
}

func TestOnceWithinABatch(t *testing.T) {
	s := New()
	r := withID("x", put("b", "k", ""))
	res := apply(t, s, 0, 0, r, r)
	if res[0].Replayed || !res[1].Replayed || s.Rev() != 1 {
		t.Fatalf("%+v at revision %d, want the second replayed", res, s.Rev())
	}
}

// A refused request did nothing, so the same id may try again.
func TestRefusedIsNotRemembered(t *testing.T) {
	s := New()
	r := withID("x", put("b", "k", "value"))
	if res := apply(t, s, 0, 10, r)[0]; res.Code != Quota {
		t.Fatalf("%v, want quota", res.Code)
	}
	if res := apply(t, s, 0, 100, r)[0]; res.Code != OK || res.Replayed {
		t.Fatalf("with room: %+v", res)
	}
}

func TestIDsAreForgotten(t *testing.T) {
	s := New()
	r := withID("x", put("b", "k", ""))
	start := int64(time.Hour)
	apply(t, s, start, 0, r)
	if res := apply(t, s, start+int64(IDLifetime)-1, 0, r)[0]; !res.Replayed {
		t.Fatal("forgotten too early")
	}
	if res := apply(t, s, start+int64(IDLifetime), 0, r)[0]; res.Replayed || res.Rev != 2 {
		t.Fatalf("remembered too long: %+v", res)
	}
	// An expiry moves the clock too.
	s.Expire(start + 3*int64(IDLifetime))
	if n := s.ids.list.len(); n != 0 {
		t.Fatalf("%d ids, want none", n)
	}
	again(t, s)
}

func TestAtMostMaxIDs(t *testing.T) {
	s := New()
	name := func(i int) string { return fmt.Sprintf("id-%d", i) }
	const extra = 1500 // more than a chunk
	for i := 0; i < MaxIDs+extra; {
		b := &Batch{Clock: int64(i)}
		for ; len(b.Requests) < MaxBatchRequests && i < MaxIDs+extra; i++ {
			b.Requests = append(b.Requests, withID(name(i), put("b", "k", "")))
		}
		s.Apply(b)
	}
	if n := s.ids.list.len(); n != MaxIDs || s.ids.index.used != MaxIDs {
		t.Fatalf("%d ids, %d in the index, want %d", n, s.ids.index.used, MaxIDs)
	}
	s = again(t, s)
	clock := s.Clock()
	for _, c := range []struct {
		i    int
		want bool
	}{{extra, true}, {MaxIDs + extra - 1, true}, {MaxIDs, true}, {extra - 1, false}} {
		if res := apply(t, s, clock, 0, withID(name(c.i), put("b", "k", "")))[0]; res.Replayed != c.want {
			t.Errorf("id %d: replayed %v, want %v", c.i, res.Replayed, c.want)
		}
	}
	// Forgetting so many at once would make one batch slow.
	clock += int64(IDLifetime)
	before := s.ids.list.len()
	apply(t, s, clock, 0)
	if n := before - s.ids.list.len(); n != maxForget {
		t.Fatalf("%d ids forgotten by one batch, want %d", n, maxForget)
	}
	for range MaxIDs/maxForget + 1 {
		apply(t, s, clock, 0)
	}
	if n := s.ids.list.len(); n != 0 {
		t.Fatalf("%d ids left, want none", n)
	}
}
