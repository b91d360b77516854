package kv

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the store as one would write it with no thought of cost: a map that
// is copied for each request.
type model struct {
	rev    uint64
	clock  int64
	items  map[[2]string]Item
	events []Event
	done   map[string]modelDone
}

type modelDone struct {
	content string
	at      int64
	res     Result
	ops     []Op
}

func (m *model) advance(clock int64) {
	m.clock = max(m.clock, clock)
	maps.DeleteFunc(m.done, func(_ string, d modelDone) bool { return m.clock-d.at >= int64(IDLifetime) })
}

func (m *model) bytes(items map[[2]string]Item) (n int64) {
	for _, it := range items {
		n += int64(len(it.Key) + len(it.Value) + 64)
	}
	return n
}

func (m *model) apply(r Request, quota int64) Result {
	content := string(AppendRequest(nil, &Request{If: r.If, Then: r.Then, Else: r.Else}))
	if d, ok := m.done[r.ID]; ok && r.ID != "" {
		if d.content != content {
			return Result{Code: IDReused, Rev: m.rev}
		}
		res := d.res
		res.Replayed = true
		res.Ops = slices.Clone(res.Ops)
		for i, o := range d.ops {
			if o.Kind == OpGet {
				res.Ops[i].Rev, res.Ops[i].Value = 0, nil
			}
		}
		return res
	}
	res, ops := Result{Code: OK}, r.Then
	for _, c := range r.If {
		it := m.items[[2]string{c.Bucket, c.Key}]
		if c.Rev > 0 && it.Rev != c.Rev || c.Exists && it.Rev == 0 || c.Rev == 0 && !c.Exists && it.Rev != 0 {
			res, ops = Result{Code: NotMet, Conflict: it.Rev}, r.Else
			break
		}
	}
	items := maps.Clone(m.items)
	var events []Event
	for _, o := range ops {
		at := [2]string{o.Bucket, o.Key}
		old, found := items[at]
		switch o.Kind {
		case OpPut:
			it := Item{Key: o.Key, Value: bytes.Clone(o.Value), Create: m.rev + 1, Rev: m.rev + 1}
			if found {
				it.Create = old.Create
			}
			if o.TTL > 0 {
				it.Expires = m.clock + int64(o.TTL)
			}
			items[at] = it
			res.Ops = append(res.Ops, OpResult{Found: found, Rev: m.rev + 1})
			events = append(events, Event{m.rev + 1, EventPut, o.Bucket, o.Key, it.Value, it.Create, it.Expires})
		case OpDelete:
			a := OpResult{Found: found}
			if found {
				a.Rev = m.rev + 1
				events = append(events, Event{Rev: m.rev + 1, Type: EventDelete, Bucket: o.Bucket, Key: o.Key})
			}
			delete(items, at)
			res.Ops = append(res.Ops, a)
		case OpGet:
			res.Ops = append(res.Ops, OpResult{Found: found, Rev: old.Rev, Value: old.Value})
		}
	}
	if n := m.bytes(items); n > quota && n > m.bytes(m.items) {
		return Result{Code: Quota, Rev: m.rev}
	}
	if len(events) > 0 {
		m.rev++
	}
	res.Rev = m.rev
	m.items, m.events = items, append(m.events, events...)
	if r.ID != "" {
		m.done[r.ID] = modelDone{content, m.clock, res, ops}
	}
	return res
}

func (m *model) expire(clock int64) int {
	m.advance(clock)
	var dead [][2]string
	for at, it := range m.items {
		if it.Expires != 0 && it.Expires <= m.clock {
			dead = append(dead, at)
		}
	}
	slices.SortFunc(dead, func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(m.items[a].Expires, m.items[b].Expires), strings.Compare(a[0], b[0]), strings.Compare(a[1], b[1]))
	})
	for _, at := range dead {
		delete(m.items, at)
		m.events = append(m.events, Event{Rev: m.rev + 1, Type: EventExpire, Bucket: at[0], Key: at[1]})
	}
	if len(dead) > 0 {
		m.rev++
	}
	return len(dead)
}

func (m *model) list(bucket, prefix string) (items []Item) {
	for at, it := range m.items {
		if at[0] == bucket && strings.HasPrefix(at[1], prefix) {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Key, b.Key) })
	return items
}

var (
	genBucket = rapid.SampledFrom([]string{"sessions", "tasks", "b.x_1-y"})
	genKey    = rapid.SampledFrom([]string{"a", "a/b", "a/c", "ab", "b", "ü/%00", "z"})
	genOp     = rapid.Custom(func(t *rapid.T) Op {
		o := Op{Kind: rapid.SampledFrom([]OpKind{OpPut, OpPut, OpDelete, OpGet}).Draw(t, "kind"), Bucket: genBucket.Draw(t, "bucket"), Key: genKey.Draw(t, "key")}
		if o.Kind == OpPut {
			o.Value = []byte(rapid.StringN(0, 40, 60).Draw(t, "value"))
			o.TTL = time.Duration(rapid.IntRange(0, 5).Draw(t, "ttl")) * time.Minute
		}
		return o
	})
	genCond = rapid.Custom(func(t *rapid.T) Cond {
		c := Cond{Bucket: genBucket.Draw(t, "bucket"), Key: genKey.Draw(t, "key")}
		switch rapid.IntRange(0, 2).Draw(t, "cond") {
		case 1:
			c.Exists = true
		case 2:
			c.Rev = uint64(rapid.IntRange(1, 30).Draw(t, "rev"))
		}
		return c
	})
	genRequest = rapid.Custom(func(t *rapid.T) Request {
		r := Request{
			If:   rapid.SliceOfN(genCond, 0, 2).Draw(t, "if"),
			Then: rapid.SliceOfN(genOp, 1, 4).Draw(t, "then"),
			Else: rapid.SliceOfN(genOp, 0, 3).Draw(t, "else"),
		}
		if rapid.Bool().Draw(t, "has id") {
			r.ID = fmt.Sprintf("id-%d", rapid.IntRange(0, 15).Draw(t, "id"))
		}
		return r
	})
)

func sameResult(a, b Result) string {
	if a.Code != b.Code || a.Rev != b.Rev || a.Conflict != b.Conflict || a.Replayed != b.Replayed || len(a.Ops) != len(b.Ops) {
		return fmt.Sprintf("%+v, want %+v", a, b)
	}
	for i := range a.Ops {
		x, y := a.Ops[i], b.Ops[i]
		if x.Found != y.Found || x.Rev != y.Rev || !bytes.Equal(x.Value, y.Value) {
			return fmt.Sprintf("operation %d: %+v, want %+v", i, x, y)
		}
	}
	return ""
}

func sameItems(a, b []Item) bool {
	return slices.EqualFunc(a, b, func(x, y Item) bool {
		return x.Key == y.Key && x.Create == y.Create && x.Rev == y.Rev && x.Expires == y.Expires && bytes.Equal(x.Value, y.Value)
	})
}

func sameEvents(a, b []Event) bool {
	return slices.EqualFunc(a, b, func(x, y Event) bool {
		return x.Rev == y.Rev && x.Type == y.Type && x.Bucket == y.Bucket && x.Key == y.Key && bytes.Equal(x.Value, y.Value) &&
			x.Create == y.Create && x.Expires == y.Expires
	})
}

// Covers C4, S8: the store against the model, beside a second store that never
// goes through a snapshot and gets the same batches cut in other places.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{items: map[[2]string]Item{}, done: map[string]modelDone{}}
		s, twin := New(), New()
		var seen []Request
		quota := int64(rapid.SampledFrom([]int{200, 600, 1 << 20}).Draw(t, "quota"))
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				clock := m.clock + int64(rapid.IntRange(-1, 300).Draw(t, "seconds"))*int64(time.Second)
				rs := rapid.SliceOfN(genRequest, 0, 4).Draw(t, "requests")
				if len(seen) > 0 && rapid.Bool().Draw(t, "repeat") {
					rs = append(rs, rapid.SampledFrom(seen).Draw(t, "seen"))
				}
				seen = append(seen, rs...)
				b := &Batch{Clock: max(clock, 0), MaxBytes: quota, Requests: rs}
				read, err := DecodeBatch(b.Encode())
				if err != nil {
					t.Fatalf("DecodeBatch: %v", err)
				}
				res := s.Apply(read)
				m.advance(b.Clock)
				for i, r := range rs {
					if diff := sameResult(res[i], m.apply(r, quota)); diff != "" {
						t.Fatalf("request %d, %+v: %s", i, r, diff)
					}
				}
				if len(rs) == 0 {
					twin.Apply(b)
				}
				for i := range rs {
					twin.Apply(&Batch{Clock: b.Clock, MaxBytes: quota, Requests: rs[i : i+1]})
				}
			},
			"expire": func(t *rapid.T) {
				clock := m.clock + int64(rapid.IntRange(-1, 200).Draw(t, "seconds"))*int64(time.Second)
				due := s.Expirable(clock, 1)
				n := s.Expire(clock)
				twin.Expire(clock)
				if want := m.expire(clock); n != want || due != (want > 0) {
					t.Fatalf("Expire: %d keys, due before: %v, want %d", n, due, want)
				}
			},
			"snapshot": func(t *rapid.T) {
				var b bytes.Buffer
				v := s.View()
				if err := v.Encode(&b); err != nil {
					t.Fatalf("Encode: %v", err)
				}
				stream := bytes.Clone(b.Bytes())
				next, err := Decode(&b)
				if err != nil {
					t.Fatalf("Decode: %v", err)
				}
				b.Reset()
				if err := next.View().Encode(&b); err != nil || !bytes.Equal(b.Bytes(), stream) {
					t.Fatalf("stream of the decoded store differs (%v)", err)
				}
				s = next
			},
			"": func(t *rapid.T) {
				compare(t, m, s)
				if s.Hash() != twin.Hash() {
					t.Fatalf("hash %x, the other store's %x", s.Hash(), twin.Hash())
				}
				if err := s.Recount(); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

func compare(t *rapid.T, m *model, s *Store) {
	v := s.View()
	if v.Rev() != m.rev || v.Clock() != m.clock || v.Keys() != len(m.items) || v.Bytes() != m.bytes(m.items) {
		t.Fatalf("revision %d, clock %d, %d keys of %d bytes; want %d, %d, %d of %d",
			v.Rev(), v.Clock(), v.Keys(), v.Bytes(), m.rev, m.clock, len(m.items), m.bytes(m.items))
	}
	for _, bucket := range []string{"sessions", "tasks", "b.x_1-y", "none"} {
		for _, prefix := range []string{"", "a", "a/", "zz"} {
			want := m.list(bucket, prefix)
			limit := rapid.IntRange(1, 4).Draw(t, "limit")
			var got []Item
			for after := ""; ; {
				page, next := v.List(bucket, prefix, after, limit)
				got = append(got, page...)
				if next == "" {
					break
				}
				if len(page) != limit {
					t.Fatalf("page of %d keys with more to come, want %d", len(page), limit)
				}
				after = next
			}
			if !sameItems(got, want) {
				t.Fatalf("bucket %s, prefix %q: %+v, want %+v", bucket, prefix, got, want)
			}
		}
		for _, key := range []string{"a", "ab", "z", "none"} {
			it, ok := v.Get(bucket, key)
			want, there := m.items[[2]string{bucket, key}]
			if ok != there || ok && !sameItems([]Item{it}, []Item{want}) {
				t.Fatalf("get %s/%s: %+v %v, want %+v %v", bucket, key, it, ok, want, there)
			}
		}
	}
	from := uint64(rapid.IntRange(0, int(m.rev)+2).Draw(t, "from"))
	bucket, prefix := rapid.SampledFrom([]string{"", "tasks"}).Draw(t, "bucket"), rapid.SampledFrom([]string{"", "a"}).Draw(t, "prefix")
	var got, want []Event
	for next := from; next <= m.rev; {
		page, n, err := v.Events(bucket, prefix, next, rapid.IntRange(1, 3).Draw(t, "events"))
		if err != nil || n <= next && len(page) > 0 {
			t.Fatalf("Events from %d: next %d, %v", next, n, err)
		}
		got, next = append(got, page...), n
	}
	for _, e := range m.events {
		if e.Rev >= from && (bucket == "" || e.Bucket == bucket) && strings.HasPrefix(e.Key, prefix) {
			want = append(want, e)
		}
	}
	if !sameEvents(got, want) {
		t.Fatalf("events from %d: %+v, want %+v", from, got, want)
	}
}
