package kv

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// View is a store as it was when the view was made. It never changes and any
// goroutine may use it. Bytes that it returns must not be changed.
type View struct {
	rev     uint64
	clock   int64
	bytes   int64
	keys    int
	buckets []bucketView // by name
	ids     idLog
	history history
}

type bucketView struct {
	name  string
	tree  *btree.Map[string, record]
	bytes int64
	sum   uint64
}

// Item is a key as a View has it.
type Item struct {
	Key         string
	Value       []byte // must not be changed
	Create, Rev uint64 // revisions of its creation and of its last change
	Expires     int64  // ns of the committed clock, 0 never
}

// BucketStat tells the size of a bucket. A bucket exists while it has keys.
type BucketStat struct {
	Name  string
	Keys  int
	Bytes int64 // that count against the quota
}

// View returns the state as it is now. It costs O(buckets), whatever they
// hold, and nothing when nothing was applied since the last one.
func (s *Store) View() *View {
	if s.view != nil {
		return s.view
	}
	v := &View{
		rev: s.rev, clock: s.clock, bytes: s.bytes, keys: s.keys,
		buckets: make([]bucketView, len(s.buckets)), ids: s.ids.idLog, history: s.history,
	}
	for i, b := range s.buckets {
		if b.view == nil {
			b.view = b.tree.IsoCopy()
		}
		v.buckets[i] = bucketView{b.name, b.view, b.bytes, b.sum}
	}
	s.view = v
	return v
}

// Rev returns the revision: of the last change.
func (v *View) Rev() uint64 { return v.rev }

// Clock returns the committed clock in ns.
func (v *View) Clock() int64 { return v.clock }

// Bytes returns what counts against the quota: len(key) + len(value) + 64 over
// all keys.
func (v *View) Bytes() int64 { return v.bytes }

// Keys returns the number of keys in all buckets.
func (v *View) Keys() int { return v.keys }

// Oldest returns the first revision that Events can begin at.
func (v *View) Oldest() uint64 { return v.history.compacted + 1 }

// Buckets returns the buckets that have keys, sorted by name.
func (v *View) Buckets() []BucketStat {
	stats := make([]BucketStat, len(v.buckets))
	for i, b := range v.buckets {
		stats[i] = BucketStat{b.name, b.tree.Len(), b.bytes}
	}
	return stats
}

func (v *View) tree(bucket string) *btree.Map[string, record] {
	i, ok := slices.BinarySearchFunc(v.buckets, bucket, func(b bucketView, name string) int {
		return strings.Compare(b.name, name)
	})
	if !ok {
		return nil
	}
	return v.buckets[i].tree
}

// Get returns a key. A key whose time is over stays until a committed Expire
// removes it.
func (v *View) Get(bucket, key string) (Item, bool) {
	t := v.tree(bucket)
	if t == nil {
		return Item{}, false
	}
	rec, ok := t.Get(key)
	if !ok {
		return Item{}, false
	}
	return rec.item(), true
}

func (r record) item() Item {
	return Item{Key: r.key(), Value: r.value(), Create: r.create(), Rev: r.rev(), Expires: r.expires()}
}

// List returns the keys of a bucket that begin with prefix and come behind
// after ("" for the beginning), in the order of their bytes and at most limit.
// next is the after of the following call, "" at the end.
func (v *View) List(bucket, prefix, after string, limit int) (items []Item, next string) {
	t := v.tree(bucket)
	if t == nil || limit <= 0 {
		return nil, ""
	}
	t.Ascend(max(prefix, after), func(key string, rec record) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		if key == after {
			return true
		}
		if len(items) == limit {
			next = items[limit-1].Key
			return false
		}
		items = append(items, rec.item())
		return true
	})
	return items, next
}

// Events returns the changes of a bucket ("" for all) to keys that begin with
// prefix, of revision from and later, oldest first. It stops after limit events
// (at least 1), but never within a revision, so there may be some more. next is
// from for the following call, never less than from.
//
// The error is a *CompactedError, which is ErrCompacted, when the history
// begins later than from. From the future there is nothing, and no error: this
// member may be behind the one that the caller asked before.
func (v *View) Events(bucket, prefix string, from uint64, limit int) (ev []Event, next uint64, err error) {
	ev, next, err = v.history.read(bucket, prefix, from, max(limit, 1))
	if err == nil && next == 0 {
		next = max(from, v.rev+1)
	}
	return ev, next, err
}

const hashDomain = "holdfast kv 2"

// Hash returns the hash of the store; see View.Hash.
func (s *Store) Hash() [32]byte { return s.View().Hash() }

// Hash covers everything that a later answer depends on: the buckets, the
// revision, the clock, the remembered ids and the history. It is equal on all
// nodes at one index of the log. It costs O(buckets): each part has a sum that
// is kept up with every change.
func (v *View) Hash() [32]byte {
	b := make([]byte, 0, 256+128*len(v.buckets))
	b = append(b, hashDomain...)
	for _, n := range [...]uint64{
		v.rev, uint64(v.clock), uint64(v.ids.list.len()),
		v.history.compacted, uint64(v.history.events.len()), uint64(v.history.bytes), v.history.sum, v.ids.sum,
	} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(v.buckets)))
	for i := range v.buckets {
		k := &v.buckets[i]
		b = append(b, uint8(len(k.name)))
		b = append(b, k.name...)
		b = binary.BigEndian.AppendUint64(b, uint64(k.tree.Len()))
		b = binary.BigEndian.AppendUint64(b, uint64(k.bytes))
		b = binary.BigEndian.AppendUint64(b, k.sum)
	}
	return sha256.Sum256(b)
}

// each calls f for all records of a bucket in order.
func (b *bucketView) each(f func(record) bool) {
	b.tree.Scan(func(_ string, rec record) bool { return f(rec) })
}
