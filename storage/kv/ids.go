package kv

import (
	"encoding/binary"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Request ids are remembered for IDLifetime of the committed clock, and at
// most MaxIDs of them.
const (
	IDLifetime = 10 * time.Minute
	MaxIDs     = 131072

	idChunk = 1024
	// maxScratch bounds the memory that is kept for the next request.
	maxScratch = 64 << 10
	// maxForget bounds the ids that one batch forgets, so that a quiet time
	// after a busy one does not make it slow. It is above MaxBatchRequests:
	// forgetting keeps up with remembering.
	maxForget = 4 * MaxBatchRequests
)

// outcome is what is kept of a request with an id. It holds no strings, so the
// garbage collector need not look at them.
type outcome struct {
	id       idHash
	content  uint64    // hash of the request without its id
	rev      uint64    // Result.Rev
	conflict uint64    // Result.Conflict
	at       int64     // committed clock, ns
	found    [2]uint64 // OpResult.Found, a bit each
	code     Code      // OK or NotMet
}

// idHash stands for an id. Two ids of strangers meet in it with a probability
// of 2^-128; it does not keep a client from making two of its own that do.
type idHash [2]uint64

const outcomeSize = 16 + 8 + 8 + 8 + 8 + 16 + 1

func (o *outcome) append(b []byte) []byte {
	for _, v := range [...]uint64{o.id[0], o.id[1], o.content, o.rev, o.conflict, uint64(o.at), o.found[0], o.found[1]} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, uint8(o.code))
}

func decodeOutcome(b []byte) (o outcome) {
	d := &reader{b: b}
	o.id = idHash{d.u64(), d.u64()}
	o.content, o.rev, o.conflict, o.at = d.u64(), d.u64(), d.u64(), int64(d.u64())
	o.found, o.code = [2]uint64{d.u64(), d.u64()}, Code(d.u8())
	return o
}

func (o *outcome) hash() uint64 {
	var b [outcomeSize]byte
	return xxhash.Sum64(o.append(b[:0]))
}

// idLog is the remembered ids in the order of their requests. A copy never
// changes.
type idLog struct {
	list fifo[outcome]
	sum  uint64 // of the hashes of the outcomes, modulo 2^64
}

func newIDLog() idLog { return idLog{list: fifo[outcome]{size: idChunk}} }

// ids finds outcomes by id.
type ids struct {
	idLog
	index idIndex
	first uint32 // position of the oldest: its number among all ever, modulo ringSize
}

func newIDs() ids { return ids{idLog: newIDLog()} }

func (l *ids) find(id idHash) (*outcome, bool) {
	for at := l.index.begin(id); ; at++ {
		pos, ok := l.index.next(id, &at)
		if !ok {
			return nil, false
		}
		if o := l.list.at(int((pos - l.first) % ringSize)); o.id == id {
			return o, true
		}
	}
}

// push keeps an outcome whose id is not there.
func (l *ids) push(o outcome) {
	if l.list.len() == MaxIDs {
		l.pop()
	}
	l.index.insert(o.id, (l.first+uint32(l.list.len()))%ringSize)
	l.sum += o.hash()
	l.list.push(o)
}

func (l *ids) pop() {
	o := l.list.at(0)
	l.index.remove(o.id, l.first)
	l.sum -= o.hash()
	l.list.pop()
	l.first = (l.first + 1) % ringSize
}

// forget drops what is too old at the clock.
func (l *ids) forget(clock int64) {
	for n := 0; n < maxForget && l.list.len() > 0 && clock-l.list.at(0).at >= int64(IDLifetime); n++ {
		l.pop()
	}
}

// hashIDs puts the hashes of the ids of a batch into hashed. Then it looks at
// the table for all of them, and for those that may be forgotten for them, in a
// short loop: a processor waits for all that memory at the same time there, and
// not for each slot in turn.
func (s *Store) hashIDs(b *Batch) {
	s.hashed = s.hashed[:0]
	n := 0
	for i := range b.Requests {
		var id idHash
		if r := &b.Requests[i]; r.ID != "" {
			k := append(append(s.scratch[:0], 'i'), r.ID...)
			id = idHash{xxhash.Sum64(k[1:]), xxhash.Sum64(k)}
			s.scratch = k
			n++
		}
		s.hashed = append(s.hashed, id)
	}
	if n == 0 || s.ids.list.len() == 0 {
		return
	}
	touched := s.touched
	for _, id := range s.hashed {
		touched += s.ids.index.touch(id)
	}
	for i := range min(n, s.ids.list.len()) {
		touched += s.ids.index.touch(s.ids.list.at(i).id)
	}
	s.touched = touched
}

// hashContent returns the hash of a request without its id. As that of the id
// it is part of the state: the same on all nodes and in all versions.
func (s *Store) hashContent(r *Request) uint64 {
	b := appendBody(s.scratch[:0], r)
	if cap(b) <= maxScratch {
		s.scratch = b
	}
	return xxhash.Sum64(b)
}

// remember keeps the outcome of a request.
func (s *Store) remember(id idHash, content uint64, res *Result) {
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
