package kv

import (
	"math"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// MaxExpire bounds the keys that one Expire removes, so that it does not hold up
// the loop for long (about 3 us a key). After that many there may be more: the
// proposer asks Expirable again.
const MaxExpire = 4096

// Apply executes the requests of a committed batch in order and returns an
// answer for each. It depends on nothing but the store and the batch. Values
// are copied: the batch's memory may be used again. The committed clock becomes
// b.Clock unless it is later already.
func (s *Store) Apply(b *Batch) []Result {
	s.advance(b.Clock)
	quota := b.MaxBytes
	if quota == 0 {
		quota = DefaultMaxBytes
	}
	n := 0
	for i := range b.Requests {
		n += max(len(b.Requests[i].Then), len(b.Requests[i].Else))
	}
	answers := make([]OpResult, n) // of all requests: one allocation
	results := make([]Result, len(b.Requests))
	s.hashIDs(b)
	for i := range b.Requests {
		r := &b.Requests[i]
		n := max(len(r.Then), len(r.Else))
		results[i] = s.once(r, s.hashed[i], quota, answers[:n:n])
		answers = answers[n:]
	}
	return results
}

// once executes a request unless its id, whose hash is given, is known. A
// request that was refused has changed nothing, so it is not remembered and may
// be tried again.
func (s *Store) once(r *Request, id idHash, quota int64, answers []OpResult) Result {
	if r.ID == "" {
		return s.do(r, quota, answers)
	}
	content := s.hashContent(r)
	if o, ok := s.ids.find(id); ok {
		return o.replay(r, content, s.rev)
	}
	res := s.do(r, quota, answers)
	if res.Code == OK || res.Code == NotMet {
		s.remember(id, content, &res)
	}
	return res
}

func (s *Store) do(r *Request, quota int64, answers []OpResult) Result {
	res := Result{Code: OK}
	ops := r.Then
	for i := range r.If {
		if at, ok := s.holds(&r.If[i]); !ok {
			res.Code, res.Conflict, ops = NotMet, at, r.Else
			break
		}
	}
	bytes, read := s.bytes, 0
	rev := s.rev + 1
	for i := range ops {
		answers[i] = s.op(&ops[i], rev)
		if ops[i].Kind == OpGet {
			read += len(answers[i].Value)
		}
	}
	switch {
	case len(s.buckets) > MaxBuckets:
		res = Result{Code: TooManyBuckets}
	case s.bytes > quota && s.bytes > bytes:
		res = Result{Code: Quota}
	case read > MaxTxnBytes:
		res = Result{Code: TooLarge}
	default:
		res.Ops = answers[:len(ops):len(ops)]
		s.commit(rev)
	}
	s.rollback()
	res.Rev = s.rev
	return res
}

// holds returns the revision of the key, 0 when absent, and whether the
// condition is true.
func (s *Store) holds(c *Cond) (rev uint64, ok bool) {
	if rec := s.find(c.Bucket, c.Key); rec != "" {
		rev = rec.rev()
	}
	switch {
	case c.Rev > 0:
		return rev, rev == c.Rev
	case c.Exists:
		return rev, rev > 0
	}
	return rev, rev == 0
}

// op executes one operation; commit or rollback follows the last of a request.
func (s *Store) op(o *Op, rev uint64) OpResult {
	if o.Kind == OpPut {
		old := s.put(o, rev)
		s.undo = append(s.undo, undo{o.Bucket, o.Key, old})
		return OpResult{Found: old != "", Rev: rev}
	}
	old := s.find(o.Bucket, o.Key)
	if o.Kind == OpDelete {
		if old == "" {
			return OpResult{}
		}
		s.undo = append(s.undo, undo{o.Bucket, o.Key, old})
		s.drop(EventDelete, s.byName[o.Bucket], old, rev)
		return OpResult{Found: true, Rev: rev}
	}
	if old == "" {
		return OpResult{}
	}
	return OpResult{Found: true, Rev: old.rev(), Value: old.value()}
}

// put returns the record that was there.
func (s *Store) put(o *Op, rev uint64) (old record) {
	var expires int64
	if o.TTL > 0 {
		expires = int64(o.TTL)
		if s.clock > math.MaxInt64-expires {
			expires = math.MaxInt64
		} else {
			expires += s.clock
		}
	}
	b := s.ensure(o.Bucket)
	rec := newRecord(rev, rev, expires, o.Key, o.Value)
	if old = b.swap(rec); old != "" {
		rec.setCreate(old.create())
	}
	hash := rec.hash()
	s.replaced(b, old, rec, hash)
	s.pending = append(s.pending, event{EventPut, b.name, rec, eventHash(EventPut, b.name, hash)})
	return old
}

func (s *Store) drop(kind EventType, b *bucket, old record, rev uint64) {
	s.remove(b, old)
	rec := newRecord(rev, rev, 0, old.key(), nil)
	s.pending = append(s.pending, event{kind, b.name, rec, eventHash(kind, b.name, rec.hash())})
}

// commit makes the operations since the last one a revision, if they changed
// anything.
func (s *Store) commit(rev uint64) {
	if len(s.pending) > 0 {
		s.rev = rev
		for _, e := range s.pending {
			s.history.push(e)
		}
		s.history.trim()
		clear(s.pending)
		s.pending = s.pending[:0]
	}
	clear(s.undo)
	s.undo = s.undo[:0]
}

// rollback undoes the operations since the last commit, newest first.
func (s *Store) rollback() {
	for i := len(s.undo) - 1; i >= 0; i-- {
		u := &s.undo[i]
		now := s.find(u.bucket, u.key)
		if u.rec != "" {
			b := s.ensure(u.bucket)
			if was := b.swap(u.rec); len(was) != len(now) { // the arguments of Check would cost an allocation
				invariant.Check(false, "key %q of bucket %s: record of %d bytes undone, %d expected", u.key, b.name, len(was), len(now))
			}
			s.replaced(b, now, u.rec, u.rec.hash())
		} else {
			s.remove(s.byName[u.bucket], now)
		}
	}
	clear(s.undo)
	clear(s.pending)
	s.undo, s.pending = s.undo[:0], s.pending[:0]
}

// Expirable tells whether at least limit keys (at least one) have reached
// their expiry at the clock in ns or at the committed clock.
func (s *Store) Expirable(clock int64, limit int) bool {
	clock = max(clock, s.clock)
	n := 0
	s.due.Scan(func(d due) bool {
		if d.at > clock {
			return false
		}
		n++
		return n < limit
	})
	return n >= max(limit, 1)
}

// Expire moves the committed clock to clock (ns), unless it is later already,
// and removes the keys whose expiry it has reached, in the order of expiry,
// bucket and key, at most MaxExpire. It returns how many; they are one
// revision.
func (s *Store) Expire(clock int64) int {
	s.advance(clock)
	n := 0
	for ; n < MaxExpire; n++ {
		d, ok := s.due.Min()
		if !ok || d.at > s.clock {
			break
		}
		rec, _ := d.bucket.tree.Get(d.key)
		s.drop(EventExpire, d.bucket, rec, s.rev+1)
	}
	s.commit(s.rev + 1)
	return n
}
