package kv

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Request ids are remembered for IDLifetime of the committed clock, and at
// most MaxIDs of them.
const (
	IDLifetime = 10 * time.Minute
	MaxIDs     = 131072

	idChunk = 1024
	// maxForget bounds the ids that one batch forgets, so that a quiet time
	// after a busy one does not make it slow. It is above MaxBatchRequests:
	// forgetting keeps up with remembering.
	maxForget = 4 * MaxBatchRequests
)

// outcome is what is kept of a request with an id. It holds no strings, so the
// garbage collector need not look at them.
type outcome struct {
	id       [16]byte  // of SHA-256 of the id
	content  uint64    // of SHA-256 of the request
	rev      uint64    // Result.Rev
	conflict uint64    // Result.Conflict
	at       int64     // committed clock, ns
	found    [2]uint64 // OpResult.Found, a bit each
	code     Code      // OK or NotMet
}

const outcomeSize = 16 + 8 + 8 + 8 + 8 + 16 + 1

func (o *outcome) append(b []byte) []byte {
	b = append(b, o.id[:]...)
	for _, v := range [...]uint64{o.content, o.rev, o.conflict, uint64(o.at), o.found[0], o.found[1]} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, uint8(o.code))
}

func decodeOutcome(b []byte) (o outcome) {
	d := &reader{b: b}
	copy(o.id[:], d.take(16))
	o.content, o.rev, o.conflict, o.at = d.u64(), d.u64(), d.u64(), int64(d.u64())
	o.found, o.code = [2]uint64{d.u64(), d.u64()}, Code(d.u8())
	return o
}

func (o *outcome) hash() [32]byte {
	var b [outcomeSize]byte
	return sha256.Sum256(o.append(b[:0]))
}

// idLog is the remembered ids in the order of their requests. A copy never
// changes.
type idLog struct {
	list fifo[outcome]
	sum  sum
}

func newIDLog() idLog { return idLog{list: fifo[outcome]{size: idChunk}} }

// ids finds outcomes by id.
type ids struct {
	idLog
	where map[[16]byte]uint32 // position in all outcomes ever, modulo 2^32
	first uint32              // position of the oldest
}

func newIDs() ids { return ids{idLog: newIDLog(), where: map[[16]byte]uint32{}} }

func (l *ids) find(id [16]byte) (*outcome, bool) {
	at, ok := l.where[id]
	if !ok {
		return nil, false
	}
	return l.list.at(int(at - l.first)), true
}

func (l *ids) push(o outcome) {
	if l.list.len() == MaxIDs {
		l.pop()
	}
	l.where[o.id] = l.first + uint32(l.list.len())
	l.sum.add(o.hash())
	l.list.push(o)
}

func (l *ids) pop() {
	o := l.list.at(0)
	delete(l.where, o.id)
	l.sum.sub(o.hash())
	l.list.pop()
	l.first++
}

// forget drops what is too old at the clock.
func (l *ids) forget(clock int64) {
	for n := 0; n < maxForget && l.list.len() > 0 && clock-l.list.at(0).at >= int64(IDLifetime); n++ {
		l.pop()
	}
}

// identify returns the hashes of a request's id and of its content.
func (s *scratch) identify(r *Request) (id [16]byte, content uint64) {
	s.b = append(s.b[:0], r.ID...)
	h := sha256.Sum256(s.b)
	copy(id[:], h[:])
	s.b = appendBody(s.b[:0], r)
	h = sha256.Sum256(s.b)
	return id, binary.BigEndian.Uint64(h[:])
}

// remember keeps the outcome of a request.
func (s *Store) remember(id [16]byte, content uint64, res *Result) {
	o := outcome{id: id, content: content, rev: res.Rev, conflict: res.Conflict, at: s.clock, code: res.Code}
	for i := range res.Ops {
		if res.Ops[i].Found {
			o.found[i/64] |= 1 << (i % 64)
		}
	}
	s.ids.push(o)
}

// replay answers a request that is known.
func (o *outcome) replay(r *Request, content, rev uint64) Result {
	if o.content != content {
		return Result{Code: IDReused, Rev: rev}
	}
	res := Result{Code: o.code, Rev: o.rev, Conflict: o.conflict, Replayed: true}
	ops := r.Then
	if o.code == NotMet {
		ops = r.Else
	}
	if len(ops) == 0 {
		return res
	}
	res.Ops = make([]OpResult, len(ops))
	for i := range ops {
		found := o.found[i/64]>>(i%64)&1 == 1
		res.Ops[i].Found = found
		if ops[i].Kind == OpPut || ops[i].Kind == OpDelete && found {
			res.Ops[i].Rev = o.rev
		}
	}
	return res
}
