package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/cespare/xxhash/v2"
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

// newRecord allocates exactly once and only what is needed.
func newRecord(create, rev uint64, expires int64, key string, value []byte) record {
	var head [recordHeader]byte
	binary.BigEndian.PutUint64(head[:], create)
	binary.BigEndian.PutUint64(head[8:], rev)
	binary.BigEndian.PutUint64(head[16:], uint64(expires))
	binary.BigEndian.PutUint16(head[24:], uint16(len(key)))
	var text strings.Builder
	text.Grow(recordHeader + len(key) + len(value))
	text.Write(head[:])
	text.WriteString(key)
	text.Write(value)
	return record(text.String())
}

// setCreate changes a record that newRecord has just made and nobody else has
// seen.
func (r record) setCreate(rev uint64) { binary.BigEndian.PutUint64(r.bytes(), rev) }

// hash is the same on all nodes and in all versions. It finds faults, not
// forgeries: whoever chooses keys and values decides what all nodes have.
func (r record) hash() uint64 { return xxhash.Sum64String(string(r)) }

// mix makes each bit of the result depend on all of v (the end of SplitMix64).
func mix(v uint64) uint64 {
	v ^= v >> 30
	v *= 0xbf58476d1ce4e5b9
	v ^= v >> 27
	v *= 0x94d049bb133111eb
	return v ^ v>>31
}
