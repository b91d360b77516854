package kv

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"reflect"
	"testing"
)

func shaOf(b []byte) [32]byte { return sha256.Sum256(b) }

func FuzzDecodeRequest(f *testing.F) {
	add := func(r Request) { f.Add(AppendRequest(nil, &r)) }
	add(one(put("b", "k", "value")))
	add(Request{ID: "x", If: []Cond{{Bucket: "b", Key: "k", Rev: 7}, {Bucket: "b", Key: "k", Exists: true}}, Then: []Op{del("b", "k")}, Else: []Op{get("b", "k")}})
	add(one(putTTL("b", "ü/%00", "", MaxTTL)))
	f.Add([]byte{})                                                                     // ends at once
	f.Add([]byte("\x00\x00\x80"))                                                       // more operations than allowed
	f.Add([]byte("\x00\x00\x01\x01\x01b\xff\xffkey"))                                   // key longer than allowed
	f.Add([]byte("\x00\x00\x01\x01\x01b\x00\x01k\xff\xff\xff\xff\xff\xff\xff\xff"))     // negative ttl
	f.Add([]byte("\x00\x01\x01b\x00\x01k\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00")) // flag of 2
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := DecodeRequest(b)
		if err != nil {
			return
		}
		used := b[:len(b)-len(rest)]
		if again := AppendRequest(nil, &r); !bytes.Equal(again, used) || r.Size() != len(used) {
			t.Fatalf("%x is read as %+v and written as %x (Size %d)", used, r, again, r.Size())
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("a request that is not valid: %v", err)
		}
	})
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add((&Batch{}).Encode())
	f.Add((&Batch{Clock: 1, MaxBytes: 2, Requests: []Request{one(put("b", "k", "v")), withID("x", get("b", "k"), del("b", "k"))}}).Encode())
	f.Add([]byte{2})                                                                              // another version
	f.Add(append([]byte{1}, bytes.Repeat([]byte{0xff}, 18)...))                                   // negative clock, too many requests
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00")) // 1024 requests that are not there
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeBatch(b)
		if err != nil {
			return
		}
		if again := r.Encode(); !bytes.Equal(again, b) {
			t.Fatalf("%x is read as %+v and written as %x", b, r, again)
		}
		s, twin := New(), New()
		res := s.Apply(r)
		twin.Apply(r)
		if len(res) != len(r.Requests) || s.Hash() != twin.Hash() {
			t.Fatalf("%d answers to %d requests, hashes %x and %x", len(res), len(r.Requests), s.Hash(), twin.Hash())
		}
		if err := s.Recount(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeResult(f *testing.F) {
	f.Add(AppendResult(nil, &Result{Code: OK, Rev: 3, Ops: []OpResult{{Found: true, Rev: 2, Value: []byte("v")}, {}}}))
	f.Add(AppendResult(nil, &Result{Code: NotMet, Rev: 3, Conflict: 2, Replayed: true}))
	f.Add([]byte{0, 0})                                                  // no such code
	f.Add(append(append([]byte{1, 0}, make([]byte, 16)...), 0x81))       // more answers than allowed
	f.Add(append(append([]byte{1, 0}, make([]byte, 16)...), 0x80, 0, 0)) // 128 answers that are not there
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := DecodeResult(b)
		if err != nil {
			return
		}
		if again := AppendResult(nil, &r); !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Fatalf("%x is read as %+v and written as %x", b, r, again)
		}
	})
}

// The hash at the end is left out, or no change would get past it.
func FuzzDecodeStore(f *testing.F) {
	cut := func(s *Store) []byte { b := stream(f, s); return b[:len(b)-32] }
	f.Add(cut(New()))
	f.Add(cut(sample(f)))
	s := New()
	apply(f, s, 0, 0, one(put("b", "k", "v")))
	f.Add(cut(s))                                           // one bucket, one key, one event
	f.Add(append([]byte(streamMagic), make([]byte, 24)...)) // no buckets
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		d := &streamReader{r: bufio.NewReader(r), s: New()}
		if d.content(); d.err != nil {
			return
		}
		used := b[:len(b)-r.Len()-d.r.Buffered()]
		out := stream(t, d.s)
		if !bytes.Equal(out[:len(out)-32], used) {
			t.Fatalf("%x is written as %x", used, out[:len(out)-32])
		}
		if err := d.s.Recount(); err != nil {
			t.Fatal(err)
		}
		if c, err := Decode(bytes.NewReader(out)); err != nil || c.Hash() != d.s.Hash() {
			t.Fatalf("read again: %v", err)
		}
	})
}

// A batch that was read into the memory of another one has nothing left of it.
func TestDecoderForgets(t *testing.T) {
	var k Decoder
	full := Request{ID: "x", If: []Cond{{Bucket: "b", Key: "k", Rev: 7}}, Then: []Op{putTTL("b", "k", "v", 5), put("b", "l", "w")}, Else: []Op{put("b", "k", "u")}}
	for _, b := range []*Batch{
		{Clock: 7, MaxBytes: 9, Requests: []Request{full, full, full}},
		{Requests: []Request{one(get("c", "k")), one(del("c", "k"))}},
		{},
		{Clock: 8, Requests: []Request{one(get("c", "k")), full, one(get("c", "k")), full, full}},
		{MaxBytes: 3, Requests: []Request{one(del("c", "k"))}},
	} {
		got, err := k.Decode(b.Encode())
		if err != nil {
			t.Fatal(err)
		}
		want, err := DecodeBatch(b.Encode())
		if err != nil || !reflect.DeepEqual(got, want) || !bytes.Equal(got.Encode(), b.Encode()) {
			t.Errorf("%+v, want %+v (%v)", got, want, err)
		}
	}
}
