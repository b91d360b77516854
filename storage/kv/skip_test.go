package kv

import (
	"bytes"
	"errors"
	"testing"
)

// Covers F4, S10: after a skip no revision that was ever given comes again, a
// watch over the gap is told of it, and keys keep what they were.
func TestSkip(t *testing.T) {
	s := New()
	apply(t, s, 1, 0, one(put("b", "x", "old")), one(put("b", "y", "old")))
	was := s.View()
	s.Skip(1 << 36)
	if s.Rev() != 2+1<<36 {
		t.Fatalf("revision %d", s.Rev())
	}
	if v, ok := s.View().Get("b", "y"); !ok || v.Rev != 2 || string(v.Value) != "old" {
		t.Errorf("key %+v, %v", v, ok)
	}
	for _, from := range []uint64{1, 2, 3, 1000, s.Rev()} { // 3 and 1000 may have been seen elsewhere
		var compacted *CompactedError
		if _, _, err := s.View().Events("b", "", from, 10); !errors.As(err, &compacted) || compacted.Oldest != s.Rev()+1 {
			t.Errorf("watch from %d: %v", from, err)
		}
	}
	if ev, _, err := was.Events("b", "", 1, 10); err != nil || len(ev) != 2 {
		t.Errorf("the view of before: %v, %v", ev, err)
	}
	res := apply(t, s, 2, 0, one(put("b", "x", "new")))
	if len(res) != 1 || res[0].Rev != 3+1<<36 {
		t.Errorf("next write: %+v", res)
	}
	if ev, _, err := s.View().Events("b", "", 3+1<<36, 10); err != nil || len(ev) != 1 {
		t.Errorf("watch from now: %v, %v", ev, err)
	}
	if err := s.Recount(); err != nil {
		t.Error(err)
	}
	var b bytes.Buffer
	if err := s.View().Encode(&b); err != nil {
		t.Fatal(err)
	}
	if again, err := Decode(&b); err != nil || again.Hash() != s.Hash() {
		t.Errorf("decoded: %v", err)
	}
}
