package kv

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"unsafe"
)

// record is a key with its value in one immutable piece of memory, so that a
// key costs one allocation that the garbage collector need not look into:
//
//	uint64 revision of creation, uint64 revision of the last change,
//	uint64 expiry (ns of the committed clock, 0 never), uint16 n, n bytes key,
//	value to the end
//
// Snapshots hold the same bytes.
type record string

const recordHeader = 8 + 8 + 8 + 2

// keyOverhead is what a key counts against the quota besides its bytes.
const keyOverhead = 64

func appendRecord(b []byte, create, rev uint64, expires int64, key string, value []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, create)
	b = binary.BigEndian.AppendUint64(b, rev)
	b = binary.BigEndian.AppendUint64(b, uint64(expires))
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	b = append(b, key...)
	return append(b, value...)
}

func (r record) u64(at int) uint64 { return binary.BigEndian.Uint64(r.bytes()[at:]) }
func (r record) create() uint64    { return r.u64(0) }
func (r record) rev() uint64       { return r.u64(8) }
func (r record) expires() int64    { return int64(r.u64(16)) }
func (r record) keyEnd() int       { return recordHeader + int(r[24])<<8 + int(r[25]) }
func (r record) key() string       { return string(r[recordHeader:r.keyEnd()]) }
func (r record) value() []byte     { return r[r.keyEnd():].bytes() }

// cost is what the key counts against the quota, in bytes.
func (r record) cost() int64 { return int64(len(r) - recordHeader + keyOverhead) }

// bytes returns the memory of r itself: whoever gets it must not change it. A
// copy of each value that is read would cost more than the read.
func (r record) bytes() []byte {
	return unsafe.Slice(unsafe.StringData(string(r)), len(r))
}

// check tells whether a record that was read could be one of a store at
// revision max.
func (r record) check(max uint64) error {
	if len(r) <= recordHeader || len(r) < r.keyEnd() {
		return errors.New("record ends too early")
	}
	if err := ValidKey(r.key()); err != nil {
		return err
	}
	if n := len(r) - r.keyEnd(); n > MaxValue {
		return fmt.Errorf("value of %d bytes, at most %d allowed", n, MaxValue)
	}
	if r.create() == 0 || r.create() > r.rev() || r.rev() > max {
		return fmt.Errorf("key %q created at revision %d, changed at %d of %d", r.key(), r.create(), r.rev(), max)
	}
	if r.expires() < 0 {
		return fmt.Errorf("key %q expires at %d", r.key(), r.expires())
	}
	return nil
}

// scratch builds records and hashes in memory that is used again.
type scratch struct {
	b     []byte
	start int // of the record
}

// begin starts a record of a bucket. The kind and the bucket are hashed with
// it, but not kept in it.
func (s *scratch) begin(kind EventType, bucket string) {
	s.b = append(s.b[:0], uint8(kind), uint8(len(bucket)))
	s.b = append(s.b, bucket...)
	s.start = len(s.b)
}

// put builds a record and its hash.
func (s *scratch) put(kind EventType, bucket string, create, rev uint64, expires int64, key string, value []byte) (record, [32]byte) {
	s.begin(kind, bucket)
	s.b = appendRecord(s.b, create, rev, expires, key, value)
	return s.end()
}

// end returns what was built since begin. The builder allocates exactly once
// and only what is needed.
func (s *scratch) end() (record, [32]byte) {
	var text strings.Builder
	text.Grow(len(s.b) - s.start)
	text.Write(s.b[s.start:])
	return record(text.String()), sha256.Sum256(s.b)
}

// hash returns the hash that put returned for the record.
func (s *scratch) hash(kind EventType, bucket string, r record) [32]byte {
	s.begin(kind, bucket)
	s.b = append(s.b, r...)
	return sha256.Sum256(s.b)
}

// sum is a sum of hashes modulo 2^256, least significant word first: a hash of
// a set that is cheap to keep up as elements come and go.
type sum [4]uint64

func (s *sum) add(h [32]byte) {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], binary.LittleEndian.Uint64(h[8*i:]), carry)
	}
}

func (s *sum) sub(h [32]byte) {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], binary.LittleEndian.Uint64(h[8*i:]), borrow)
	}
}

func (s *sum) append(b []byte) []byte {
	for _, w := range s {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}
