package kv

import "fmt"

// Recount compares all counters, sums and indexes of the store with what they
// are when made anew from the keys. An error means that memory is damaged or
// that this package has an error. It takes about as long as Decode.
func (s *Store) Recount() error {
	if err := s.View().Recount(); err != nil {
		return err
	}
	expiring := 0
	for _, b := range s.buckets {
		var err error
		b.tree.Scan(func(key string, rec record) bool {
			if at := rec.expires(); at != 0 {
				expiring++
				if _, ok := s.due.Get(due{at, b, key}); !ok {
					err = fmt.Errorf("recount: key %q of bucket %s is not in the index of expiries", key, b.name)
				}
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	if n := s.due.Len(); n != expiring {
		return fmt.Errorf("recount: %d keys in the index of expiries, want %d", n, expiring)
	}
	n := s.ids.list.len()
	if s.ids.index.used != n {
		return fmt.Errorf("recount: %d request ids in the index, want %d", s.ids.index.used, n)
	}
	for i := range n {
		if o, ok := s.ids.find(s.ids.list.at(i).id); !ok || o != s.ids.list.at(i) {
			return fmt.Errorf("recount: request id %d of %d is not in the index", i, n)
		}
	}
	return nil
}

// Recount compares the counters and sums of the view with what they are when
// made anew. It may run on any goroutine.
func (v *View) Recount() error {
	var bytes int64
	keys := 0
	for i := range v.buckets {
		b := &v.buckets[i]
		n, err := b.recount()
		if err != nil {
			return fmt.Errorf("recount: bucket %s: %w", b.name, err)
		}
		keys += n
		bytes += b.bytes
	}
	if keys != v.keys || bytes != v.bytes {
		return fmt.Errorf("recount: %d keys of %d bytes, counted %d of %d", keys, bytes, v.keys, v.bytes)
	}
	var ids uint64
	for i := range v.ids.list.len() {
		ids += v.ids.list.at(i).hash()
	}
	if ids != v.ids.sum {
		return fmt.Errorf("recount: sum of request ids is %x, kept was %x", ids, v.ids.sum)
	}
	var events uint64
	bytes = 0
	for i := range v.history.events.len() {
		e := v.history.events.at(i)
		events += eventHash(e.kind, e.bucket, e.rec.hash())
		bytes += e.cost()
	}
	if events != v.history.sum || bytes != v.history.bytes {
		return fmt.Errorf("recount: sum of %d bytes of events is %x, kept was %d, %x", bytes, events, v.history.bytes, v.history.sum)
	}
	return nil
}

func (b *bucketView) recount() (int, error) {
	var total uint64
	var bytes int64
	n := 0
	var err error
	b.tree.Scan(func(key string, rec record) bool {
		if key != rec.key() {
			err = fmt.Errorf("key %q stands at %q", rec.key(), key)
			return false
		}
		total += rec.hash()
		bytes += rec.cost()
		n++
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case n != b.tree.Len():
		return 0, fmt.Errorf("%d keys, counted %d", n, b.tree.Len())
	case bytes != b.bytes:
		return 0, fmt.Errorf("%d bytes, counted %d", bytes, b.bytes)
	case total != b.sum:
		return 0, fmt.Errorf("sum is %x, kept was %x", total, b.sum)
	}
	return n, nil
}
