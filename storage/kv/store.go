package kv

import (
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// Store is the buckets at one index of the log. One goroutine owns it.
type Store struct {
	// rev counts the requests that changed something, and the expiries.
	rev   uint64
	clock int64 // committed, ns; never goes back
	bytes int64 // sum of record.cost
	keys  int

	buckets []*bucket // by name; each has a key
	byName  map[string]*bucket
	due     *btree.BTreeG[due]
	ids     ids
	history history

	view    *View  // of this very state, nil when there is none yet
	scratch []byte // memory that is used again
	hashed  []idHash
	touched uint64 // of no meaning
	undo    []undo
	pending []event
}

// bucket is a copy-on-write tree of records.
type bucket struct {
	name  string
	tree  btree.Map[string, record] // key, which lies within the record
	bytes int64
	sum   uint64                     // of the hashes of the records, modulo 2^64
	view  *btree.Map[string, record] // copy of tree, nil when it has changed since
}

// degree sets the size of a tree's nodes, 15 to 31 keys: the first write after
// a view copies the nodes on its way, and smaller nodes take more memory.
const degree = 16

func newBucket(name string) *bucket {
	return &bucket{name: name, tree: *btree.NewMap[string, record](degree)}
}

// due is a key that expires. Its key lies within the record.
type due struct {
	at     int64
	bucket *bucket
	key    string
}

func dueLess(a, b due) bool {
	if a.at != b.at {
		return a.at < b.at
	}
	if a.bucket != b.bucket {
		return a.bucket.name < b.bucket.name
	}
	return a.key < b.key
}

// undo is how a key was before the request that is being executed.
type undo struct {
	bucket, key string
	rec         record // "" for absent
}

// New returns the store before the first entry: empty, at revision 0 and clock
// 0.
func New() *Store {
	return &Store{
		byName:  map[string]*bucket{},
		due:     btree.NewBTreeGOptions(dueLess, btree.Options{NoLocks: true}),
		ids:     newIDs(),
		history: newHistory(),
	}
}

// Clock returns the committed clock in ns. It only moves forward.
func (s *Store) Clock() int64 { return s.clock }

// Rev returns the revision.
func (s *Store) Rev() uint64 { return s.rev }

func (s *Store) advance(clock int64) {
	s.view = nil
	s.clock = max(s.clock, clock)
	s.ids.forget(s.clock)
}

// find returns the record of a key, "" when absent.
func (s *Store) find(bucket, key string) record {
	b := s.byName[bucket]
	if b == nil {
		return ""
	}
	rec, _ := b.tree.Get(key)
	return rec
}

// ensure returns the bucket, a new one when there is none. The caller puts a
// key into it.
func (s *Store) ensure(name string) *bucket {
	if b := s.byName[name]; b != nil {
		return b
	}
	// The name may be part of a whole log entry, which must not stay in memory.
	b := newBucket(strings.Clone(name))
	i, _ := slices.BinarySearchFunc(s.buckets, name, byName)
	s.buckets = slices.Insert(s.buckets, i, b)
	s.byName[b.name] = b
	return b
}

func byName(b *bucket, name string) int { return strings.Compare(b.name, name) }

// swap puts a record in its place and returns the one that was there, "" for
// none. It is the one search that a put costs; replaced follows.
func (b *bucket) swap(rec record) (old record) {
	old, _ = b.tree.Set(rec.key(), rec)
	b.view = nil
	return old
}

// replaced counts the record, whose hash is given, in the place of old.
func (s *Store) replaced(b *bucket, old, rec record, hash uint64) {
	if old != "" {
		s.count(b, old, -1)
		b.sum -= old.hash()
	}
	s.count(b, rec, 1)
	b.sum += hash
}

// remove takes a record away, and its bucket when it was the last.
func (s *Store) remove(b *bucket, old record) {
	if _, ok := b.tree.Delete(old.key()); !ok {
		invariant.Check(false, "key %q of bucket %s is gone", old.key(), b.name)
	}
	b.view = nil
	s.count(b, old, -1)
	b.sum -= old.hash()
	if b.tree.Len() == 0 {
		i, _ := slices.BinarySearchFunc(s.buckets, b.name, byName)
		s.buckets = slices.Delete(s.buckets, i, i+1)
		delete(s.byName, b.name)
	}
}

// count keeps the counters and the index of expiries up: sign is 1 for a
// record that comes, -1 for one that goes.
func (s *Store) count(b *bucket, rec record, sign int64) {
	b.bytes += sign * rec.cost()
	s.bytes += sign * rec.cost()
	s.keys += int(sign)
	at := rec.expires()
	if at == 0 {
		return
	}
	d := due{at, b, rec.key()}
	if sign > 0 {
		s.due.Set(d)
	} else if _, ok := s.due.Delete(d); !ok {
		invariant.Check(false, "key %q of bucket %s: no expiry at %d ns", rec.key(), b.name, at)
	}
}
