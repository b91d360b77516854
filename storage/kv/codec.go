package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// errShort is returned for bytes that end before the value they announce.
var errShort = errors.New("ends too early")

// reader takes big-endian fields from b. The first error sticks and every
// later read returns a zero value, so callers check once, at the end. Where
// text is set it holds the same bytes as the whole input, and strings are parts
// of it instead of copies.
type reader struct {
	b    []byte
	text string
	err  error
}

func (d *reader) fail(err error) {
	if d.err == nil {
		d.err, d.b = err, nil
	}
}

func (d *reader) take(n int) []byte {
	if n > len(d.b) {
		d.fail(errShort)
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *reader) str(n int) string {
	at := len(d.text) - len(d.b)
	v := d.take(n)
	if d.text == "" || v == nil {
		return string(v)
	}
	return d.text[at : at+n]
}

func (d *reader) u8() uint8 {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *reader) u16() uint16 {
	if v := d.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (d *reader) u32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *reader) u64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// nanos reads a time of the committed clock or a duration; both are never
// negative.
func (d *reader) nanos(what string) int64 {
	v := int64(d.u64())
	if v < 0 {
		d.fail(fmt.Errorf("%s is negative", what))
		return 0
	}
	return v
}

// bool accepts only 0 and 1, so that one value has one encoding.
func (d *reader) bool() bool {
	v := d.u8()
	if v > 1 {
		d.fail(fmt.Errorf("flag is %d, want 0 or 1", v))
	}
	return v == 1
}

// value reads a value with its length in 32 bits; nil when empty.
func (d *reader) value() []byte {
	n := d.u32()
	if n > MaxValue {
		d.fail(fmt.Errorf("value of %d bytes, at most %d allowed", n, MaxValue))
		return nil
	}
	if n == 0 {
		return nil
	}
	return d.take(int(n))
}

func (d *reader) name() (bucket, key string) {
	bucket = d.str(int(d.u8()))
	n := d.u16()
	if n > MaxKey {
		d.fail(fmt.Errorf("key of %d bytes, at most %d allowed", n, MaxKey))
		return "", ""
	}
	return bucket, d.str(int(n))
}

func appendName(b []byte, bucket, key string) []byte {
	b = append(b, uint8(len(bucket)))
	b = append(b, bucket...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	return append(b, key...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// A request, big-endian:
//
//	uint8 n, n bytes            id
//	uint8 n, n conditions       {name, uint64 revision, uint8 exists}
//	uint8 n, n operations       Then
//	uint8 n, n operations       Else
//	operation                   {uint8 kind, name} and of a put {uint64 ttl ns, uint32 n, n bytes}
//	name                        {uint8 n, bucket, uint16 n, key}

// Size returns the length of the encoding in bytes.
func (r *Request) Size() int {
	n := 4 + len(r.ID)
	for i := range r.If {
		n += 12 + len(r.If[i].Bucket) + len(r.If[i].Key)
	}
	for _, ops := range [2][]Op{r.Then, r.Else} {
		for i := range ops {
			n += 4 + len(ops[i].Bucket) + len(ops[i].Key)
			if ops[i].Kind == OpPut {
				n += 12 + len(ops[i].Value)
			}
		}
	}
	return n
}

// AppendRequest appends the encoding of a valid request, for forwarding it to
// another member.
func AppendRequest(b []byte, r *Request) []byte {
	b = append(b, uint8(len(r.ID)))
	b = append(b, r.ID...)
	return appendBody(b, r)
}

// appendBody appends all but the id.
func appendBody(b []byte, r *Request) []byte {
	b = append(b, uint8(len(r.If)))
	for i := range r.If {
		c := &r.If[i]
		b = appendName(b, c.Bucket, c.Key)
		b = binary.BigEndian.AppendUint64(b, c.Rev)
		b = appendBool(b, c.Exists)
	}
	for _, ops := range [2][]Op{r.Then, r.Else} {
		b = append(b, uint8(len(ops)))
		for i := range ops {
			o := &ops[i]
			b = appendName(append(b, uint8(o.Kind)), o.Bucket, o.Key)
			if o.Kind == OpPut {
				b = binary.BigEndian.AppendUint64(b, uint64(o.TTL))
				b = binary.BigEndian.AppendUint32(b, uint32(len(o.Value)))
				b = append(b, o.Value...)
			}
		}
	}
	return b
}

// DecodeRequest reads one request and returns the bytes behind it. The request
// is valid; its values are parts of b. An error means that the bytes are not
// what AppendRequest wrote.
func DecodeRequest(b []byte) (r Request, rest []byte, err error) {
	d := &reader{b: b}
	if r, err = decodeRequest(d, nil); err != nil {
		return Request{}, nil, fmt.Errorf("read request: %w", err)
	}
	return r, d.b, nil
}

// slab hands out short slices of operations from longer ones, so that a batch
// of small requests costs few allocations.
type slab struct {
	free []Op
	more int // operations that are likely still to come
}

func (s *slab) take(n int) []Op {
	if s == nil {
		return make([]Op, n)
	}
	if n > len(s.free) {
		s.free = make([]Op, max(n, min(s.more, MaxBatchRequests)))
	}
	v := s.free[:n:n]
	s.free = s.free[n:]
	s.more -= n
	return v
}

func decodeRequest(d *reader, s *slab) (Request, error) {
	n := d.u8()
	if n > MaxRequestID {
		d.fail(fmt.Errorf("id of %d bytes, at most %d allowed", n, MaxRequestID))
	}
	r := Request{ID: d.str(int(n))}
	n = d.u8()
	if n > MaxTxnOps {
		d.fail(fmt.Errorf("%d conditions, at most %d allowed", n, MaxTxnOps))
	} else if n > 0 {
		r.If = make([]Cond, n)
		for i := range r.If {
			c := &r.If[i]
			c.Bucket, c.Key = d.name()
			c.Rev, c.Exists = d.u64(), d.bool()
		}
	}
	r.Then, r.Else = d.ops(s), d.ops(s)
	if d.err != nil {
		return Request{}, d.err
	}
	return r, r.Validate()
}

func (d *reader) ops(s *slab) []Op {
	n := int(d.u8())
	if n > MaxTxnOps {
		d.fail(fmt.Errorf("%d operations, at most %d allowed", n, MaxTxnOps))
	}
	if n == 0 || d.err != nil {
		return nil
	}
	ops := s.take(n)
	for i := range ops {
		o := &ops[i]
		*o = Op{Kind: OpKind(d.u8())}
		o.Bucket, o.Key = d.name()
		if o.Kind == OpPut {
			o.TTL = time.Duration(d.nanos("ttl"))
			o.Value = d.value()
		}
	}
	return ops
}

// A batch: uint8 version, uint64 clock, uint64 MaxBytes, uint16 n, n requests.
const (
	batchVersion = 1
	batchHeader  = 1 + 8 + 8 + 2
)

// Size returns the length of the encoding in bytes.
func (b *Batch) Size() int {
	n := batchHeader
	for i := range b.Requests {
		n += b.Requests[i].Size()
	}
	return n
}

// Encode returns the encoding; see Append.
func (b *Batch) Encode() []byte { return b.Append(make([]byte, 0, b.Size())) }

// Append appends the encoding. Each request must have passed Validate: an
// invalid one in the log would stop every node, so it stops this one first.
func (b *Batch) Append(e []byte) []byte {
	invariant.Check(b.Clock >= 0 && b.MaxBytes >= 0 && len(b.Requests) <= MaxBatchRequests,
		"batch at %d ns of %d bytes with %d requests", b.Clock, b.MaxBytes, len(b.Requests))
	e = append(e, batchVersion)
	e = binary.BigEndian.AppendUint64(e, uint64(b.Clock))
	e = binary.BigEndian.AppendUint64(e, uint64(b.MaxBytes))
	e = binary.BigEndian.AppendUint16(e, uint16(len(b.Requests)))
	for i := range b.Requests {
		err := b.Requests[i].Validate()
		invariant.Check(err == nil, "request %d of %d: %v", i, len(b.Requests), err)
		e = AppendRequest(e, &b.Requests[i])
	}
	return e
}

// DecodeBatch reads what Encode wrote, and refuses anything else. Strings and
// values are parts of b, which must not be changed as long as they are used.
func DecodeBatch(b []byte) (*Batch, error) { return new(Decoder).Decode(b) }

// Decoder reads one batch after the other into the same memory.
type Decoder struct {
	batch Batch
	ops   []Op
}

// Decode is DecodeBatch, but the batch and its requests are void at the next
// call.
func (k *Decoder) Decode(b []byte) (*Batch, error) {
	d := &reader{b: b, text: unsafe.String(unsafe.SliceData(b), len(b))}
	if v := d.u8(); d.err == nil && v != batchVersion {
		return nil, fmt.Errorf("read batch: version %d, want %d", v, batchVersion)
	}
	r := &k.batch
	r.Clock, r.MaxBytes = d.nanos("clock"), d.nanos("quota")
	n := int(d.u16())
	if n > MaxBatchRequests {
		return nil, fmt.Errorf("read batch: %d requests, at most %d allowed", n, MaxBatchRequests)
	}
	if d.err == nil && n > len(d.b) {
		d.fail(errShort) // a request has more than one byte
	}
	if d.err != nil {
		return nil, fmt.Errorf("read batch: %w", d.err)
	}
	if r.Requests == nil || n > cap(r.Requests) {
		r.Requests, k.ops = make([]Request, n), make([]Op, n)
	}
	r.Requests = r.Requests[:n]
	s := &slab{free: k.ops, more: n}
	for i := range r.Requests {
		var err error
		if r.Requests[i], err = decodeRequest(d, s); err != nil {
			return nil, fmt.Errorf("read request %d of %d: %w", i, n, err)
		}
	}
	if len(d.b) != 0 {
		return nil, fmt.Errorf("read batch: %d bytes left over", len(d.b))
	}
	return r, nil
}

// A result: uint8 code, uint8 replayed, uint64 revision, uint64 conflict,
// uint8 n, n times {uint8 found, uint64 revision, uint32 n, n bytes}.

// AppendResult appends the encoding of a result, for the member that forwarded
// the request.
func AppendResult(b []byte, r *Result) []byte {
	b = appendBool(append(b, uint8(r.Code)), r.Replayed)
	b = binary.BigEndian.AppendUint64(b, r.Rev)
	b = binary.BigEndian.AppendUint64(b, r.Conflict)
	b = append(b, uint8(len(r.Ops)))
	for i := range r.Ops {
		o := &r.Ops[i]
		b = binary.BigEndian.AppendUint64(appendBool(b, o.Found), o.Rev)
		b = binary.BigEndian.AppendUint32(b, uint32(len(o.Value)))
		b = append(b, o.Value...)
	}
	return b
}

// DecodeResult reads one result and returns the bytes behind it. Values are
// parts of b.
func DecodeResult(b []byte) (r Result, rest []byte, err error) {
	d := &reader{b: b}
	r.Code, r.Replayed = Code(d.u8()), d.bool()
	if d.err == nil && (r.Code < OK || r.Code > TooLarge) {
		d.fail(fmt.Errorf("unknown %v", r.Code))
	}
	r.Rev, r.Conflict = d.u64(), d.u64()
	n := int(d.u8())
	if n > MaxTxnOps {
		d.fail(fmt.Errorf("%d answers, at most %d allowed", n, MaxTxnOps))
	}
	if n > 0 && d.err == nil {
		r.Ops = make([]OpResult, n)
	}
	total := 0
	for i := range r.Ops {
		r.Ops[i] = OpResult{Found: d.bool(), Rev: d.u64(), Value: d.value()}
		total += len(r.Ops[i].Value)
	}
	if total > MaxTxnBytes {
		d.fail(fmt.Errorf("values of %d bytes, at most %d allowed", total, MaxTxnBytes))
	}
	if d.err != nil {
		return Result{}, nil, fmt.Errorf("read result: %w", d.err)
	}
	return r, d.b, nil
}
