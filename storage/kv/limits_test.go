package kv

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	many := func(n int) []Op { return slicesRepeat(put("b", "k", ""), n) }
	big := func(n, size int) (ops []Op) {
		for range n {
			ops = append(ops, Op{Kind: OpPut, Bucket: "b", Key: "k", Value: make([]byte, size)})
		}
		return ops
	}
	const ok, invalid, large = "", "invalid", "large"
	for _, c := range []struct {
		name string
		r    Request
		want string
	}{
		{"put", one(put("b", "k", "v")), ok},
		{"condition alone", Request{If: []Cond{{Bucket: "b", Key: "k"}}}, ok},
		{"nothing", Request{}, invalid},
		{"else alone", Request{Else: many(1)}, ok},
		{"longest id", Request{ID: strings.Repeat("~", 64), Then: many(1)}, ok},
		{"id too long", Request{ID: strings.Repeat("x", 65), Then: many(1)}, large},
		{"id with a space", Request{ID: "a b", Then: many(1)}, invalid},
		{"id not ASCII", Request{ID: "ü", Then: many(1)}, invalid},
		{"longest bucket", one(put(strings.Repeat("b", 63), "k", "")), ok},
		{"bucket too long", one(put(strings.Repeat("b", 64), "k", "")), large},
		{"bucket without name", one(get("", "k")), invalid},
		{"bucket with upper case", one(get("B", "k")), invalid},
		{"bucket begins with a dot", one(get(".b", "k")), invalid},
		{"bucket with a slash", one(get("a/b", "k")), invalid},
		{"bucket of all that is allowed", one(get("0a._-", "k")), ok},
		{"longest key", one(del("b", strings.Repeat("k", 1024))), ok},
		{"key too long", one(del("b", strings.Repeat("k", 1025))), large},
		{"empty key", one(del("b", "")), invalid},
		{"key with NUL", one(del("b", "a\x00")), invalid},
		{"key not UTF-8", one(del("b", "\xff")), invalid},
		{"key with slashes, dots, line ends", one(del("b", "../a\n/ü")), ok},
		{"largest value", one(big(1, 1<<20)...), ok},
		{"value too large", one(big(1, 1<<20+1)...), large},
		{"most operations", Request{If: make128("b"), Then: many(128), Else: many(128)}, ok},
		{"too many operations", one(many(129)...), large},
		{"too many operations of else", Request{Else: many(129)}, large},
		{"too many conditions", Request{If: append(make128("b"), Cond{Bucket: "b", Key: "k"})}, large},
		{"request too large", one(big(4, 1<<20)...), large},
		{"largest request", one(append(big(3, 1<<20), big(1, 1<<20-4*18-4)...)...), ok},
		{"one byte larger", one(append(big(3, 1<<20), big(1, 1<<20-4*18-3)...)...), large},
		{"longest ttl", one(putTTL("b", "k", "", MaxTTL)), ok},
		{"ttl too long", one(putTTL("b", "k", "", MaxTTL+1)), invalid},
		{"negative ttl", one(putTTL("b", "k", "", -1)), invalid},
		{"get with a value", one(Op{Kind: OpGet, Bucket: "b", Key: "k", Value: []byte("v")}), invalid},
		{"delete with a ttl", one(Op{Kind: OpDelete, Bucket: "b", Key: "k", TTL: 1}), invalid},
		{"unknown operation", one(Op{Kind: 4, Bucket: "b", Key: "k"}), invalid},
		{"no operation", one(Op{Bucket: "b", Key: "k"}), invalid},
		{"condition with revision and existence", Request{If: []Cond{{Bucket: "b", Key: "k", Rev: 1, Exists: true}}}, invalid},
		{"condition without bucket", Request{If: []Cond{{Key: "k"}}}, invalid},
	} {
		err := c.r.Validate()
		got := ok
		var re *RequestError
		if errors.As(err, &re) {
			got = invalid
			if re.TooLarge {
				got = large
			}
		} else if err != nil {
			t.Errorf("%s: error is a %T", c.name, err)
		}
		if got != c.want {
			t.Errorf("%s: %q (%v), want %q", c.name, got, err, c.want)
		}
		enc := AppendRequest(nil, &c.r)
		if c.want == ok && c.r.Size() != len(enc) {
			t.Errorf("%s: Size is %d, the encoding has %d bytes", c.name, c.r.Size(), len(enc))
		}
		read, rest, err := DecodeRequest(enc)
		if c.want == ok && (err != nil || len(rest) != 0) {
			t.Errorf("%s: DecodeRequest: %v, %d bytes left", c.name, err, len(rest))
		}
		if err == nil && read.Validate() != nil {
			t.Errorf("%s: DecodeRequest returned a request that is not valid: %v", c.name, read.Validate())
		}
	}
}

func slicesRepeat(o Op, n int) (ops []Op) {
	for range n {
		ops = append(ops, o)
	}
	return ops
}

func make128(bucket string) []Cond {
	c := make([]Cond, MaxTxnOps)
	for i := range c {
		c[i] = Cond{Bucket: bucket, Key: "k"}
	}
	return c
}

// An invalid request in the log would stop every node.
func TestEncodeRefusesInvalid(t *testing.T) {
	for _, b := range []*Batch{
		{Requests: []Request{{}}},
		{Requests: []Request{one(put("B", "k", ""))}},
		{Clock: -1}, {MaxBytes: -1},
		{Requests: make([]Request, MaxBatchRequests+1)},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("batch %+v was encoded", b)
				}
			}()
			b.Encode()
		}()
	}
}

// Covers S8 (quota): the last byte counts, deletes and shrinking always pass,
// and a refused request changes nothing.
func TestQuota(t *testing.T) {
	s := New()
	const quota = 3 * (64 + 1 + 5)
	for _, c := range []struct {
		name  string
		r     Request
		quota int64
		want  Code
		bytes int64
	}{
		{"two keys", one(put("b", "1", "12345"), put("b", "2", "12345")), quota, OK, 140},
		{"one byte too many", one(put("b", "3", "123456")), quota, Quota, 140},
		{"to the last byte", one(put("b", "3", "12345")), quota, OK, 210},
		{"a new bucket", one(put("c", "1", "")), quota, Quota, 210},
		{"the second of two does not fit", one(put("b", "1", ""), put("b", "4", "")), quota, Quota, 210},
		{"room is made in the same request", one(put("b", "4", "12345"), del("b", "1")), quota, OK, 210},
		{"same size", one(put("b", "4", "54321")), quota, OK, 210},
		{"smaller than before, over a new quota", one(put("b", "4", "1234")), 100, OK, 209},
		{"same size, over a new quota", one(put("b", "4", "4321")), 100, OK, 209},
		{"larger, over a new quota", one(put("b", "4", "54321")), 100, Quota, 209},
		{"delete, over a new quota", one(del("b", "2")), 100, OK, 139},
		{"get", one(get("b", "3")), 1, OK, 139},
		{"else is counted", Request{If: []Cond{{Bucket: "b", Key: "none", Exists: true}}, Else: []Op{put("b", "5", "")}}, 150, Quota, 139},
	} {
		before, rev := s.Hash(), s.Rev()
		res := apply(t, s, 0, c.quota, c.r)[0]
		if res.Code != c.want || s.View().Bytes() != c.bytes {
			t.Fatalf("%s: %v with %d bytes, want %v with %d", c.name, res.Code, s.View().Bytes(), c.want, c.bytes)
		}
		if c.want == Quota && (s.Hash() != before || s.Rev() != rev || res.Rev != rev || len(res.Ops) != 0 || res.Conflict != 0) {
			t.Fatalf("%s: refused, but something changed: %+v", c.name, res)
		}
		if err := s.Recount(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
}

func TestDefaultQuota(t *testing.T) {
	s := New()
	s.bytes = DefaultMaxBytes - 65
	if res := s.Apply(&Batch{Requests: []Request{one(put("b", "k", "v"))}}); res[0].Code != Quota {
		t.Fatalf("one byte over the default quota: %v", res[0].Code)
	}
	if res := s.Apply(&Batch{Requests: []Request{one(put("b", "k", ""))}}); res[0].Code != OK {
		t.Fatalf("to the last byte of the default quota: %v", res[0].Code)
	}
}

func TestTooManyBuckets(t *testing.T) {
	s := New()
	name := func(i int) string { return fmt.Sprintf("bucket-%03d", i) }
	for i := range MaxBuckets {
		apply(t, s, 0, 0, one(put(name(i), "k", "")))
	}
	before := s.Hash()
	if res := apply(t, s, 0, 0, one(put(name(0), "other", ""), put("more", "k", "")))[0]; res.Code != TooManyBuckets || s.Hash() != before {
		t.Fatalf("bucket %d: %v, changed: %v", MaxBuckets+1, res.Code, s.Hash() != before)
	}
	again(t, s)
	// A bucket without keys is none.
	if res := apply(t, s, 0, 0, one(put("more", "k", ""), del(name(7), "k")))[0]; res.Code != OK {
		t.Fatalf("one bucket for another: %v", res.Code)
	}
	if n := len(again(t, s).View().Buckets()); n != MaxBuckets {
		t.Fatalf("%d buckets, want %d", n, MaxBuckets)
	}
}

func TestAnswerTooLarge(t *testing.T) {
	s := New()
	apply(t, s, 0, 0, one(Op{Kind: OpPut, Bucket: "b", Key: "k", Value: make([]byte, MaxValue)}))
	four := []Op{get("b", "k"), get("b", "k"), get("b", "k"), get("b", "k")}
	if res := apply(t, s, 0, 0, one(four...))[0]; res.Code != OK || len(res.Ops) != 4 {
		t.Fatalf("4 MiB of answers: %v with %d", res.Code, len(res.Ops))
	}
	before := s.Hash()
	r := Request{ID: "x", Then: append([]Op{put("b", "other", "1"), get("b", "other")}, four...)}
	if res := apply(t, s, 0, 0, r)[0]; res.Code != TooLarge || len(res.Ops) != 0 || s.Hash() != before {
		t.Fatalf("more than 4 MiB of answers: %v with %d, changed: %v", res.Code, len(res.Ops), s.Hash() != before)
	}
}

// What was read must not be changed by what is written later, and the memory of
// an entry is free after Apply.
func TestNothingShared(t *testing.T) {
	s := New()
	apply(t, s, 0, 0, one(put("b", "k", "first")))
	got := apply(t, s, 0, 0, one(get("b", "k")))[0].Ops[0].Value
	it, _ := s.View().Get("b", "k")
	apply(t, s, 0, 0, one(put("b", "k", "other")))
	if string(got) != "first" || string(it.Value) != "first" || it.Key != "k" {
		t.Fatalf("read %q and %q, want first", got, it.Value)
	}
	ev, _, err := s.View().Events("", "", 1, 10)
	if err != nil || len(ev) != 2 || string(ev[0].Value) != "first" || string(ev[1].Value) != "other" || ev[0].Bucket != "b" {
		t.Fatalf("events: %+v, %v", ev, err)
	}
}

func TestTTLNearTheEnd(t *testing.T) {
	s := New()
	apply(t, s, 1<<63-2, 0, one(putTTL("b", "k", "", time.Hour)))
	if it, _ := s.View().Get("b", "k"); it.Expires != 1<<63-1 {
		t.Fatalf("expires at %d, want the last moment", it.Expires)
	}
}
