package kv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// sample returns a store with a little of everything.
func sample(tb testing.TB) *Store {
	tb.Helper()
	s := New()
	apply(tb, s, int64(time.Hour), 0,
		withID("first", put("sessions", "a", "one"), putTTL("tasks", "t", "two", time.Minute)),
		one(put("sessions", "ü/b", ""), put("gone", "k", "x")),
		withID("second", del("gone", "k")),
		Request{ID: "third", If: []Cond{{Bucket: "tasks", Key: "t"}}, Then: []Op{del("tasks", "t")}, Else: []Op{get("tasks", "t"), put("sessions", "a", "three")}},
		one(putTTL("receipts", "r", "", time.Second)),
	)
	s.Expire(int64(time.Hour + time.Second))
	return s
}

func stream(tb testing.TB, s *Store) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := s.View().Encode(&b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// A change of this hash means that nodes of two versions differ: it needs a new
// version of the format.
func TestHashIsFixed(t *testing.T) {
	s := sample(t)
	const want = "b4262c936dd6800a3ade8a5a4c84710f46664f0cffbe4399a58046692c21daf8"
	if got := fmt.Sprintf("%x", s.Hash()); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	const wantStream = "9d628ec4da22b0f04b62f9b2a7350f700015f7ba76ae45f99ee785fa9d0a350b"
	if got := fmt.Sprintf("%x", shaOf(stream(t, s))); got != wantStream {
		t.Errorf("SHA-256 of the stream %s, want %s", got, wantStream)
	}
}

// Each part of the state must be in the hash.
func TestHashSeesEverything(t *testing.T) {
	seen := map[[32]byte]string{}
	for name, change := range map[string]func(s *Store){
		"nothing":         func(*Store) {},
		"a value":         func(s *Store) { apply(t, s, 0, 0, one(put("sessions", "a", "four"))) },
		"another value":   func(s *Store) { apply(t, s, 0, 0, one(put("sessions", "a", "five"))) },
		"another bucket":  func(s *Store) { apply(t, s, 0, 0, one(put("sessionz", "a", "five"))) },
		"another key":     func(s *Store) { apply(t, s, 0, 0, one(put("sessions", "b", "five"))) },
		"an expiry":       func(s *Store) { apply(t, s, 0, 0, one(putTTL("sessions", "a", "five", 1))) },
		"the clock":       func(s *Store) { s.advance(s.clock + 1) },
		"a request id":    func(s *Store) { apply(t, s, 0, 0, withID("x", put("sessions", "a", "five"))) },
		"a request id 2":  func(s *Store) { apply(t, s, 0, 0, withID("y", put("sessions", "a", "five"))) },
		"a read by id":    func(s *Store) { apply(t, s, 0, 0, withID("x", get("sessions", "a"))) },
		"there and back":  func(s *Store) { apply(t, s, 0, 0, one(put("new", "k", ""), del("new", "k"))) },
		"there and back2": func(s *Store) { apply(t, s, 0, 0, one(put("new", "k", "x"), del("new", "k"))) },
	} {
		s := sample(t)
		change(s)
		if other, ok := seen[s.Hash()]; ok {
			t.Errorf("same hash after %q and %q", name, other)
		}
		seen[s.Hash()] = name
		again(t, s)
	}
}

// Covers F2 (damage is seen): each byte of the stream changed, and the stream
// cut at each place.
func TestDecodeRefusesDamage(t *testing.T) {
	whole := stream(t, sample(t))
	for i := range whole {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(whole)
			b[i] ^= bit
			if _, err := Decode(bytes.NewReader(b)); err == nil {
				t.Errorf("byte %d of %d changed by %#x: no error", i, len(whole), bit)
			}
		}
		if _, err := Decode(bytes.NewReader(whole[:i])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d of %d bytes: %v", i, len(whole), err)
		}
	}
	if _, err := Decode(bytes.NewReader(append(bytes.Clone(whole), 0))); err == nil {
		t.Error("a byte more: no error")
	}
	broken := errors.New("broken")
	if _, err := Decode(io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("error at the end: %v", err)
	}
	if _, err := Decode(iotest.OneByteReader(bytes.NewReader(whole))); err != nil {
		t.Errorf("read in pieces: %v", err)
	}
}

// A length that lies must not make Decode allocate.
func TestDecodeAllocatesWhatItReads(t *testing.T) {
	head := streamMagic + strings.Repeat("\x00", 7) + "\x01" + strings.Repeat("\x00", 16) + "\x00\x01" + "\x01b" + strings.Repeat("\x7f", 8)
	for _, in := range []string{head, head + "\x00\x10\x00\x00", head + "\xff\xff\xff\xff"} {
		var err error
		n := testing.AllocsPerRun(1, func() { _, err = Decode(strings.NewReader(in)) })
		if err == nil || n > 100 {
			t.Errorf("%d bytes: %v after %v allocations", len(in), err, n)
		}
	}
}

type failAfter struct{ n int }

func (f *failAfter) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errors.New("no room")
	}
	return len(p), nil
}

func TestEncodeTellsErrors(t *testing.T) {
	s := New()
	for i := range 1000 {
		apply(t, s, 0, 0, withID(fmt.Sprint(i), put("b", fmt.Sprint(i), strings.Repeat("x", 300))))
	}
	size := len(stream(t, s))
	for n := 0; n < size; n += size / 7 {
		if err := s.View().Encode(&failAfter{n}); err == nil || !strings.Contains(err.Error(), "no room") {
			t.Errorf("disk full after %d of %d bytes: %v", n, size, err)
		}
	}
}

// A view never changes, whatever is written at the same time. Meant for -race.
func TestViewsAreImmutable(t *testing.T) {
	s := New()
	type frozen struct {
		v    *View
		hash [32]byte
		size int
	}
	views := make(chan frozen, 4)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for f := range views {
				var b bytes.Buffer
				if err := f.v.Encode(&b); err != nil {
					t.Errorf("Encode: %v", err)
				}
				c, err := Decode(&b)
				if err != nil || c.Hash() != f.hash || f.v.Hash() != f.hash {
					t.Errorf("view of revision %d changed: %v", f.v.Rev(), err)
				}
				if err := f.v.Recount(); err != nil {
					t.Errorf("view of revision %d: %v", f.v.Rev(), err)
				}
				n := 0
				for after := ""; ; {
					page, next := f.v.List("b", "", after, 100)
					n += len(page)
					if after = next; next == "" {
						break
					}
				}
				if n != f.size {
					t.Errorf("view of revision %d has %d keys, had %d", f.v.Rev(), n, f.size)
				}
				if _, _, err := f.v.Events("b", "", f.v.Oldest(), 100); err != nil {
					t.Errorf("view of revision %d: %v", f.v.Rev(), err)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 120 {
		b := &Batch{Clock: int64(round) * int64(10*time.Second)}
		for range 60 {
			key := fmt.Sprintf("%04d", rng.IntN(3000))
			o := putTTL("b", key, fmt.Sprintf("%0*d", rng.IntN(300), round), time.Duration(rng.IntN(3))*time.Minute)
			if rng.IntN(3) == 0 {
				o = del("b", key)
			}
			b.Requests = append(b.Requests, withID(fmt.Sprint(rng.Uint64()), o))
		}
		s.Apply(b)
		s.Expire(b.Clock)
		v := s.View()
		size := 0
		if st := v.Buckets(); len(st) > 0 {
			size = st[0].Keys
		}
		views <- frozen{v, s.Hash(), size}
	}
	close(views)
	wg.Wait()
	if err := s.Recount(); err != nil {
		t.Fatal(err)
	}
}

// A view costs nothing when nothing was applied.
func TestViewIsKept(t *testing.T) {
	s := sample(t)
	v := s.View()
	if s.View() != v {
		t.Fatal("a second view of the same state")
	}
	apply(t, s, 0, 0, one(put("b", "k", "")))
	if s.View() == v {
		t.Fatal("an old view after a write")
	}
}

// Recount must see what it is there for.
func TestRecountSeesDamage(t *testing.T) {
	for name, damage := range map[string]func(s *Store){
		"bytes of all":      func(s *Store) { s.bytes++ },
		"keys":              func(s *Store) { s.keys-- },
		"bytes of a bucket": func(s *Store) { s.buckets[0].bytes++; s.bytes++ },
		"sum of a bucket":   func(s *Store) { s.buckets[0].sum[3]++ },
		"a value": func(s *Store) {
			b := s.byName["sessions"]
			rec, _ := b.tree.Get("a")
			b.tree.Set("a", rec[:len(rec)-1]+"!")
		},
		"a key":             func(s *Store) { b := s.byName["sessions"]; rec, _ := b.tree.Get("a"); b.tree.Set("b", rec) },
		"an expiry missing": func(s *Store) { s.due.DeleteAt(0) },
		"an expiry more":    func(s *Store) { s.due.Set(due{1, s.buckets[0], "x"}) },
		"sum of ids":        func(s *Store) { s.ids.sum[0]++ },
		"index of ids":      func(s *Store) { clear(s.ids.where) },
		"history":           func(s *Store) { s.history.sum[1]++ },
		"bytes of history":  func(s *Store) { s.history.bytes++ },
	} {
		s := sample(t)
		if err := s.Recount(); err != nil {
			t.Fatal(err)
		}
		s.view = nil
		for _, b := range s.buckets {
			b.view = nil
		}
		damage(s)
		if s.Recount() == nil {
			t.Errorf("%s: not seen", name)
		}
	}
}

// The limit of memory: 2.2 times keys and values of 256 bytes.
func TestMemoryPerKey(t *testing.T) {
	const n = 100_000
	before := heap()
	s := filled(t, n)
	used := float64(heap() - before)
	if live := float64(n * (len(benchKey(0)) + benchValue)); used > 2.2*live {
		t.Errorf("%.2f times the live data", used/live)
	}
	runtime.KeepAlive(s)
}
