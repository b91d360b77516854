package kv

import (
	"bytes"
	"testing"
	"time"
)

func one(ops ...Op) Request { return Request{Then: ops} }

func put(bucket, key, value string) Op {
	return Op{Kind: OpPut, Bucket: bucket, Key: key, Value: []byte(value)}
}

func putTTL(bucket, key, value string, ttl time.Duration) Op {
	o := put(bucket, key, value)
	o.TTL = ttl
	return o
}

func del(bucket, key string) Op { return Op{Kind: OpDelete, Bucket: bucket, Key: key} }
func get(bucket, key string) Op { return Op{Kind: OpGet, Bucket: bucket, Key: key} }

// apply sends a batch through its encoding, as the log does, and overwrites the
// entry's memory afterwards.
func apply(t testing.TB, s *Store, clock, quota int64, rs ...Request) []Result {
	t.Helper()
	entry := (&Batch{Clock: clock, MaxBytes: quota, Requests: rs}).Encode()
	b, err := DecodeBatch(entry)
	if err != nil {
		t.Fatalf("DecodeBatch of an encoded batch: %v", err)
	}
	res := s.Apply(b)
	for i := range entry {
		entry[i] = 0xee
	}
	return res
}

// again sends a store through its stream.
func again(t testing.TB, s *Store) *Store {
	t.Helper()
	var b bytes.Buffer
	if err := s.View().Encode(&b); err != nil {
		t.Fatalf("Encode: %v", err)
	}
	c, err := Decode(&b)
	if err != nil {
		t.Fatalf("Decode of an encoded store: %v", err)
	}
	if c.Hash() != s.Hash() {
		t.Fatalf("hash after decoding is %x, was %x", c.Hash(), s.Hash())
	}
	if err := c.Recount(); err != nil {
		t.Fatalf("decoded store: %v", err)
	}
	return c
}

func TestPutGetDelete(t *testing.T) {
	s := New()
	res := apply(t, s, 1, 0, one(put("tasks", "a", "1")), one(put("tasks", "a", "22"), put("sessions", "b", "")),
		one(get("tasks", "a")), one(del("tasks", "nothing")), one(del("tasks", "a")))
	wantRev := []uint64{1, 2, 2, 2, 3}
	for i, r := range res {
		if r.Code != OK || r.Rev != wantRev[i] {
			t.Errorf("request %d: %v at revision %d, want ok at %d", i, r.Code, r.Rev, wantRev[i])
		}
	}
	if g := res[2].Ops[0]; !g.Found || g.Rev != 2 || string(g.Value) != "22" {
		t.Errorf("get: %+v, want value 22 of revision 2", g)
	}
	if res[0].Ops[0].Found || !res[1].Ops[0].Found || res[3].Ops[0].Found || !res[4].Ops[0].Found {
		t.Errorf("found: %v %v %v %v, want false true false true", res[0].Ops[0].Found, res[1].Ops[0].Found, res[3].Ops[0].Found, res[4].Ops[0].Found)
	}
	v := again(t, s).View()
	if _, ok := v.Get("tasks", "a"); ok {
		t.Error("a deleted key is there")
	}
	it, ok := v.Get("sessions", "b")
	if !ok || it.Rev != 2 || it.Create != 2 || len(it.Value) != 0 || it.Key != "b" {
		t.Errorf("sessions/b: %+v %v", it, ok)
	}
	if b := v.Buckets(); len(b) != 1 || b[0] != (BucketStat{"sessions", 1, 65}) {
		t.Errorf("buckets: %+v, want sessions alone", b)
	}
}
