package kv

import (
	"bufio"
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
	const want = "fe4d818580b9b632346ecdd58c9c4680b87688d33b28d5f814777a80e1c7f238"
	if got := fmt.Sprintf("%x", s.Hash()); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	const wantStream = "c8ba3f89085ad1e4c51e766ecc51074591102287a69ba85bdb7838f972892874"
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

// Bytes that no store could have written, apart from the hash.
func TestDecodeRefusesNonsense(t *testing.T) {
	rec := func(create, rev uint64, expires int64, key, value string) record {
		return newRecord(create, rev, expires, key, []byte(value))
	}
	good := rec(1, 2, 3, "k", "v")
	type ev struct {
		kind   EventType
		bucket string
		rec    record
	}
	type parts struct {
		rev, clock, compacted uint64
		buckets               []string
		records               []record // of each bucket
		ids                   []outcome
		events                []ev
	}
	build := func(p parts) []byte {
		var b bytes.Buffer
		e := &streamWriter{w: bufio.NewWriter(&b)}
		e.text(streamMagic)
		e.u64(p.rev)
		e.u64(p.clock)
		e.u64(p.compacted)
		e.u16(uint16(len(p.buckets)))
		for _, name := range p.buckets {
			e.name(name)
			e.u64(uint64(len(p.records)))
			for _, r := range p.records {
				e.record(r)
			}
		}
		e.u32(uint32(len(p.ids)))
		for _, o := range p.ids {
			e.raw(o.append(nil))
		}
		e.u32(uint32(len(p.events)))
		for _, x := range p.events {
			e.u8(uint8(x.kind))
			e.name(x.bucket)
			e.record(x.rec)
		}
		_ = e.w.Flush()
		return b.Bytes()
	}
	id := outcome{id: idHash{1}, rev: 1, at: 4, code: OK}
	two := func(change func(o *outcome)) []outcome {
		o := id
		o.id[0] = 2
		change(&o)
		return []outcome{id, o}
	}
	long := make([]ev, MaxHistoryEvents+1)
	for i := range long {
		long[i] = ev{EventDelete, "b", rec(uint64(i+1), uint64(i+1), 0, "k", "")}
	}
	for _, c := range []struct {
		want string // part of the error, "" for none
		p    parts
	}{
		{"", parts{rev: 2, clock: 4, buckets: []string{"a", "b"}, records: []record{good}, ids: two(func(*outcome) {}), events: []ev{{EventPut, "b", good}}}},
		{"clock -", parts{clock: 1 << 63}},
		{"history after 3", parts{rev: 2, compacted: 3}},
		{"revision 18446744073709551615", parts{rev: 1<<64 - 1}},
		{"257 buckets", parts{buckets: make([]string, 257)}},
		{"bucket name of 64", parts{buckets: []string{strings.Repeat("b", 64)}}},
		{"bucket \"B\"", parts{rev: 2, buckets: []string{"B"}, records: []record{good}}},
		{"bucket a after b", parts{rev: 2, buckets: []string{"b", "a"}, records: []record{good}}},
		{"bucket b after b", parts{rev: 2, buckets: []string{"b", "b"}, records: []record{good}}},
		{"bucket b is empty", parts{rev: 2, buckets: []string{"b"}}},
		{`key "k" after "k"`, parts{rev: 2, buckets: []string{"b"}, records: []record{good, good}}},
		{`key "j" after "k"`, parts{rev: 2, buckets: []string{"b"}, records: []record{good, rec(1, 1, 0, "j", "")}}},
		{"record ends", parts{rev: 2, buckets: []string{"b"}, records: []record{good[:10]}}},
		{"record ends", parts{rev: 2, buckets: []string{"b"}, records: []record{good[:26]}}},
		{"record of 104", parts{rev: 2, buckets: []string{"b"}, records: []record{rec(1, 1, 0, strings.Repeat("k", MaxKey), strings.Repeat("v", MaxValue+1))}}},
		{"value of 1048577", parts{rev: 2, buckets: []string{"b"}, records: []record{rec(1, 1, 0, "k", strings.Repeat("v", MaxValue+1))}}},
		{"bytes of the key", parts{rev: 2, buckets: []string{"b"}, records: []record{rec(1, 1, 0, strings.Repeat("k", MaxKey+1), "")}}},
		{"key is empty", parts{rev: 2, buckets: []string{"b"}, records: []record{rec(1, 1, 0, "", "v")}}},
		{"created at revision 0", parts{rev: 2, buckets: []string{"b"}, records: []record{rec(0, 1, 0, "k", "v")}}},
		{"created at revision 2, changed at 1", parts{rev: 2, buckets: []string{"b"}, records: []record{rec(2, 1, 0, "k", "v")}}},
		{"changed at 3 of 2", parts{rev: 2, buckets: []string{"b"}, records: []record{rec(2, 3, 0, "k", "v")}}},
		{"expires at -1", parts{rev: 2, buckets: []string{"b"}, records: []record{rec(1, 1, -1, "k", "v")}}},
		{"stands twice", parts{rev: 2, clock: 4, ids: []outcome{id, id}}},
		{"at 3 ns after 4", parts{rev: 2, clock: 4, ids: two(func(o *outcome) { o.at = 3 })}},
		{"at 5 ns", parts{rev: 2, clock: 4, ids: two(func(o *outcome) { o.at = 5 })}},
		{"revision 3", parts{rev: 2, clock: 4, ids: two(func(o *outcome) { o.rev = 3 })}},
		{"quota", parts{rev: 2, clock: 4, ids: two(func(o *outcome) { o.code = Quota })}},
		{"131073 request ids", parts{rev: 2, clock: 4, ids: make([]outcome, MaxIDs+1)}},
		{"unknown event 4", parts{rev: 2, events: []ev{{4, "b", good}}}},
		{"unknown event 0", parts{rev: 2, events: []ev{{0, "b", good}}}},
		{"delete of key", parts{rev: 2, events: []ev{{EventDelete, "b", rec(2, 2, 0, "k", "v")}}}},
		{"expire of key", parts{rev: 2, events: []ev{{EventExpire, "b", rec(1, 2, 0, "k", "")}}}},
		{"delete of key", parts{rev: 2, events: []ev{{EventDelete, "b", rec(2, 2, 1, "k", "")}}}},
		{"event of revision 2, want 3", parts{rev: 3, compacted: 2, events: []ev{{EventPut, "b", good}}}},
		{"event of revision 1, want 2", parts{rev: 3, events: []ev{{EventPut, "b", good}, {EventPut, "b", rec(1, 1, 0, "k", "")}}}},
		{"16385 events", parts{rev: 1 << 20, events: long}},
		{"ends too early", parts{}},
	} {
		in := build(c.p)
		if c.want == "ends too early" {
			in = in[:3]
			c.want = "unexpected EOF"
		}
		d := &streamReader{r: bufio.NewReader(bytes.NewReader(in)), s: New()}
		d.content()
		if c.want == "" && d.err != nil || c.want != "" && (d.err == nil || !strings.Contains(d.err.Error(), c.want)) {
			t.Errorf("%v, want %q", d.err, c.want)
		}
	}
}

// A value that is both current and in the history is in memory once, in a store
// that was read too.
func TestHistorySharesValues(t *testing.T) {
	s := New()
	apply(t, s, 0, 0, one(put("b", "k", "value")), one(put("b", "k", "other")))
	for name, v := range map[string]*View{"written": s.View(), "read": again(t, s).View()} {
		it, _ := v.Get("b", "k")
		ev, _, err := v.Events("b", "", 2, 1)
		if err != nil || len(ev) != 1 || &ev[0].Value[0] != &it.Value[0] {
			t.Errorf("%s: two copies of a value (%v)", name, err)
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
	for round := range 50 {
		b := &Batch{Clock: int64(round) * int64(10*time.Second)}
		for range 120 {
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
		"sum of a bucket":   func(s *Store) { s.buckets[0].sum++ },
		"a value": func(s *Store) {
			b := s.byName["sessions"]
			rec, _ := b.tree.Get("a")
			b.tree.Set("a", rec[:len(rec)-1]+"!")
		},
		"a key":             func(s *Store) { b := s.byName["sessions"]; rec, _ := b.tree.Get("a"); b.tree.Set("b", rec) },
		"an expiry missing": func(s *Store) { s.due.DeleteAt(0) },
		"an expiry more":    func(s *Store) { s.due.Set(due{1, s.buckets[0], "x"}) },
		"sum of ids":        func(s *Store) { s.ids.sum++ },
		"index of ids":      func(s *Store) { clear(s.ids.index.slots) },
		"history":           func(s *Store) { s.history.sum++ },
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
