package kv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// A store as a stream, big-endian:
//
//	"HFKV", uint8 version
//	uint64 revision, uint64 clock, uint64 compacted revision
//	uint16 n, n buckets    {uint8 n, name, uint64 n, n records by key}
//	uint32 n, n outcomes   of requests with ids, oldest first
//	uint32 n, n events     {uint8 type, uint8 n, bucket, record}, oldest first
//	record                 {uint32 n, n bytes}
//	32 bytes               hash of the store
//
// One state has one stream.
const (
	streamMagic = "HFKV\x02"
	maxRecord   = recordHeader + MaxKey + MaxValue
	streamBuf   = 64 << 10
)

// Encode writes the store as a stream, a piece at a time.
func (v *View) Encode(w io.Writer) error {
	e := &streamWriter{w: bufio.NewWriterSize(w, streamBuf)}
	e.text(streamMagic)
	e.u64(v.rev)
	e.u64(uint64(v.clock))
	e.u64(v.history.compacted)
	e.u16(uint16(len(v.buckets)))
	for i := range v.buckets {
		b := &v.buckets[i]
		e.name(b.name)
		e.u64(uint64(b.tree.Len()))
		b.each(func(rec record) bool { e.record(rec); return e.err == nil })
	}
	e.u32(uint32(v.ids.list.len()))
	for i := range v.ids.list.len() {
		e.small = v.ids.list.at(i).append(e.small[:0])
		e.raw(e.small)
	}
	e.u32(uint32(v.history.events.len()))
	for i := range v.history.events.len() {
		ev := v.history.events.at(i)
		e.u8(uint8(ev.kind))
		e.name(ev.bucket)
		e.record(ev.rec)
	}
	hash := v.Hash()
	e.raw(hash[:])
	if e.err == nil {
		e.err = e.w.Flush()
	}
	if e.err != nil {
		return fmt.Errorf("write buckets: %w", e.err)
	}
	return nil
}

// streamWriter writes fields; the first error sticks.
type streamWriter struct {
	w     *bufio.Writer
	small []byte
	err   error
}

func (e *streamWriter) raw(b []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(b)
	}
}

func (e *streamWriter) text(s string) {
	if e.err == nil {
		_, e.err = e.w.WriteString(s)
	}
}

func (e *streamWriter) u8(v uint8) {
	if e.err == nil {
		e.err = e.w.WriteByte(v)
	}
}

func (e *streamWriter) u16(v uint16) {
	e.small = binary.BigEndian.AppendUint16(e.small[:0], v)
	e.raw(e.small)
}

func (e *streamWriter) u32(v uint32) {
	e.small = binary.BigEndian.AppendUint32(e.small[:0], v)
	e.raw(e.small)
}

func (e *streamWriter) u64(v uint64) {
	e.small = binary.BigEndian.AppendUint64(e.small[:0], v)
	e.raw(e.small)
}

func (e *streamWriter) name(s string) {
	e.u8(uint8(len(s)))
	e.text(s)
}

func (e *streamWriter) record(r record) {
	e.u32(uint32(len(r)))
	e.text(string(r))
}

// Decode reads what Encode wrote, up to the end of r. All counters and sums are
// made anew and must give the hash that the stream ends with; bytes that no
// store could have written are refused. What is allocated is bounded by what
// was read. Decode reads ahead, so r must end where the store does.
func Decode(r io.Reader) (*Store, error) {
	d := &streamReader{r: bufio.NewReaderSize(r, streamBuf), s: New()}
	d.content()
	d.proof()
	if d.err != nil {
		return nil, fmt.Errorf("read buckets: %w", d.err)
	}
	return d.s, nil
}

// streamReader reads fields; the first error sticks and later reads return 0.
type streamReader struct {
	r     *bufio.Reader
	s     *Store
	small [outcomeSize]byte
	buf   []byte // of a record
	err   error
}

func (d *streamReader) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

// fill reads len(b) bytes, or zeros after an error.
func (d *streamReader) fill(b []byte) []byte {
	if d.err == nil {
		if _, err := io.ReadFull(d.r, b); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			d.err = err
		}
	}
	if d.err != nil {
		clear(b)
	}
	return b
}

func (d *streamReader) u8() uint8   { return d.fill(d.small[:1])[0] }
func (d *streamReader) u16() uint16 { return binary.BigEndian.Uint16(d.fill(d.small[:2])) }
func (d *streamReader) u32() uint32 { return binary.BigEndian.Uint32(d.fill(d.small[:4])) }
func (d *streamReader) u64() uint64 { return binary.BigEndian.Uint64(d.fill(d.small[:8])) }

func (d *streamReader) bucketName() string {
	n := d.u8()
	if n > MaxBucketName {
		d.fail("bucket name of %d bytes, at most %d allowed", n, MaxBucketName)
		return ""
	}
	name := string(d.fill(d.small[:n]))
	if d.err == nil {
		d.err = ValidBucket(name)
	}
	return name
}

func (d *streamReader) record() record {
	n := d.u32()
	if n > maxRecord {
		d.fail("record of %d bytes, at most %d allowed", n, maxRecord)
	}
	if d.err != nil {
		return ""
	}
	// Not into new memory at once: n is not proved yet.
	d.buf = slices.Grow(d.buf[:0], int(n))[:n]
	d.fill(d.buf)
	if d.err != nil {
		return ""
	}
	rec := record(d.buf)
	d.err = rec.check(d.s.rev)
	return rec
}

// content reads all but the hash.
func (d *streamReader) content() {
	if magic := d.fill(d.small[:len(streamMagic)]); d.err == nil && string(magic) != streamMagic {
		d.fail("begins with %q, want %q", magic, streamMagic)
	}
	s := d.s
	s.rev, s.clock = d.u64(), int64(d.u64())
	s.history.compacted = d.u64()
	if s.clock < 0 || s.history.compacted > s.rev || s.rev == math.MaxUint64 {
		d.fail("revision %d, clock %d ns, history after %d", s.rev, s.clock, s.history.compacted)
	}
	d.buckets()
	d.outcomes()
	d.events()
}

func (d *streamReader) buckets() {
	n := d.u16()
	if n > MaxBuckets {
		d.fail("%d buckets, at most %d allowed", n, MaxBuckets)
	}
	var dues []due
	for i := 0; i < int(n) && d.err == nil; i++ {
		name := d.bucketName()
		if i > 0 && d.err == nil && name <= d.s.buckets[i-1].name {
			d.fail("bucket %s after %s", name, d.s.buckets[i-1].name)
		}
		if d.err == nil {
			dues = d.bucket(name, dues)
		}
	}
	slices.SortFunc(dues, func(a, b due) int {
		switch {
		case dueLess(a, b):
			return -1
		case dueLess(b, a):
			return 1
		}
		return 0
	})
	for _, x := range dues {
		d.s.due.Load(x)
	}
}

func (d *streamReader) bucket(name string, dues []due) []due {
	s := d.s
	b := newBucket(name)
	s.buckets = append(s.buckets, b)
	s.byName[name] = b
	n := d.u64()
	if n == 0 {
		d.fail("bucket %s is empty", name)
	}
	last := ""
	for range n {
		rec := d.record()
		if d.err == nil && rec.key() <= last {
			d.fail("key %q after %q in bucket %s", rec.key(), last, name)
		}
		if d.err != nil {
			return dues
		}
		last = rec.key()
		b.tree.Load(last, rec)
		b.bytes += rec.cost()
		b.sum += rec.hash()
		s.keys++
		if at := rec.expires(); at != 0 {
			dues = append(dues, due{at, b, last})
		}
	}
	s.bytes += b.bytes
	return dues
}

func (d *streamReader) outcomes() {
	s := d.s
	n := d.u32()
	if n > MaxIDs {
		d.fail("%d request ids, at most %d allowed", n, MaxIDs)
	}
	last := int64(0)
	for i := 0; i < int(n) && d.err == nil; i++ {
		o := decodeOutcome(d.fill(d.small[:outcomeSize]))
		if d.err != nil {
			return
		}
		if _, ok := s.ids.find(o.id); ok {
			d.fail("request id %x stands twice", o.id)
			return
		}
		if o.at < last || o.at > s.clock || o.rev > s.rev || o.code != OK && o.code != NotMet {
			d.fail("request id %x at %d ns after %d, revision %d, %v", o.id, o.at, last, o.rev, o.code)
			return
		}
		last = o.at
		s.ids.push(o)
	}
}

func (d *streamReader) events() {
	s := d.s
	n := d.u32()
	last := s.history.compacted + 1
	for i := 0; i < int(n) && d.err == nil; i++ {
		kind := EventType(d.u8())
		if kind < EventPut || kind > EventExpire {
			d.fail("unknown %v", kind)
			return
		}
		name := d.bucketName()
		rec := d.record()
		if d.err != nil {
			return
		}
		if kind != EventPut && (rec.create() != rec.rev() || rec.expires() != 0 || len(rec.value()) != 0) {
			d.fail("%v of key %q has a value", kind, rec.key())
			return
		}
		if rec.rev() < last {
			d.fail("event of revision %d, want %d or later", rec.rev(), last)
			return
		}
		last = rec.rev()
		s.history.push(event{kind, d.shared(name), d.same(kind, name, rec), eventHash(kind, name, rec.hash())})
		// Only the last revision may be over the limits.
		if s.history.over() && s.history.events.at(0).rec.rev() != last {
			d.fail("%d events of %d bytes in the history", s.history.events.len(), s.history.bytes)
		}
	}
}

// shared returns the name with the memory that the bucket or the event before
// it has.
func (d *streamReader) shared(name string) string {
	if b := d.s.byName[name]; b != nil {
		return b.name
	}
	if h := &d.s.history.events; h.len() > 0 && h.at(h.len()-1).bucket == name {
		return h.at(h.len() - 1).bucket
	}
	return strings.Clone(name)
}

// same returns the record that the bucket has, if it is this one, as it was in
// the store that wrote the stream.
func (d *streamReader) same(kind EventType, bucket string, rec record) record {
	if kind == EventPut {
		if now := d.s.find(bucket, rec.key()); now == rec {
			return now
		}
	}
	return rec
}

func (d *streamReader) proof() {
	var want [32]byte
	d.fill(want[:])
	if d.err != nil {
		return
	}
	if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("bytes left over")
		}
		d.err = err
		return
	}
	if got := d.s.Hash(); got != want {
		d.fail("hash is %x, want %x", got, want)
	}
}
