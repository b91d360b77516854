package kv

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Limits of the history for watches. The newest revision is kept whole, even
// when it alone is over them.
const (
	MaxHistoryEvents = 16384
	MaxHistoryBytes  = 4 << 20 // keys, values and 64 bytes for each event

	historyChunk = 512
	// maxShed bounds the bytes of dropped events that their chunk still holds.
	maxShed = 512 << 10
)

// EventType says what happened to a key. Numbers are part of the snapshot's
// format.
type EventType uint8

// The types. 0 is invalid.
const (
	EventPut    EventType = 1
	EventDelete EventType = 2
	EventExpire EventType = 3
)

func (t EventType) String() string {
	switch t {
	case EventPut:
		return "put"
	case EventDelete:
		return "delete"
	case EventExpire:
		return "expire"
	}
	return fmt.Sprintf("event %d", uint8(t))
}

// Event is the change of one key.
type Event struct {
	Rev         uint64 // all changes of one request share it
	Type        EventType
	Bucket, Key string
	// Of a put. Value must not be changed.
	Value   []byte
	Create  uint64
	Expires int64 // ns of the committed clock, 0 never
}

// ErrCompacted means that the history begins later than asked; such errors are
// a *CompactedError.
var ErrCompacted = errors.New("revision is no longer in the history")

// CompactedError tells where the history begins. A watcher lists the bucket
// anew and watches from the revision after the list's.
type CompactedError struct {
	From   uint64 // asked
	Oldest uint64 // the first that can be asked
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("revision %d is no longer in the history, which begins at %d", e.From, e.Oldest)
}

// Is makes errors.Is(err, ErrCompacted) true.
func (e *CompactedError) Is(target error) bool { return target == ErrCompacted }

// event is an Event as the history keeps it; a put shares the memory of its
// record with the bucket. A removed key has a record with no value and with
// the revision of the removal in both places.
type event struct {
	kind   EventType
	bucket string
	rec    record
	hash   uint64 // eventHash
}

func (e *event) cost() int64 { return e.rec.cost() }

func (e *event) public() Event {
	p := Event{Rev: e.rec.rev(), Type: e.kind, Bucket: e.bucket, Key: e.rec.key()}
	if e.kind == EventPut {
		p.Value, p.Create, p.Expires = e.rec.value(), e.rec.create(), e.rec.expires()
	}
	return p
}

// eventHash returns the hash of an event from that of its record.
func eventHash(kind EventType, bucket string, record uint64) uint64 {
	return mix(record ^ mix(xxhash.Sum64String(bucket)+uint64(kind)))
}

// history is the last events in order. A copy never changes.
type history struct {
	events    fifo[event]
	bytes     int64
	sum       uint64 // of the hashes of the events, modulo 2^64
	compacted uint64 // highest revision that was dropped
	shed      int64  // bytes of dropped events in the first chunk
}

func newHistory() history { return history{events: fifo[event]{size: historyChunk}} }

func (h *history) push(e event) {
	h.events.push(e)
	h.bytes += e.cost()
	h.sum += e.hash
}

// trim drops whole revisions until the limits are kept. Called after the last
// event of a revision.
func (h *history) trim() {
	for h.over() {
		rev := h.events.at(0).rec.rev()
		if rev == h.events.at(h.events.len()-1).rec.rev() {
			return
		}
		for h.events.at(0).rec.rev() == rev {
			e := h.events.at(0)
			h.bytes -= e.cost()
			h.sum -= e.hash
			h.shed += e.cost()
			if h.events.pop() {
				h.shed = 0
			}
		}
		h.compacted = rev
	}
	if h.shed > maxShed {
		h.events.shed()
		h.shed = 0
	}
}

func (h *history) over() bool {
	return h.events.len() > MaxHistoryEvents || h.bytes > MaxHistoryBytes
}

// read returns the events of the bucket, "" for all, whose keys begin with
// prefix, from revision from on, and the revision that was not looked at; it
// ends with the first revision that brings them to limit.
func (h *history) read(bucket, prefix string, from uint64, limit int) (out []Event, next uint64, err error) {
	if from <= h.compacted && h.compacted > 0 {
		return nil, 0, &CompactedError{From: from, Oldest: h.compacted + 1}
	}
	n := h.events.len()
	i := sort.Search(n, func(i int) bool { return h.events.at(i).rec.rev() >= from })
	for last := uint64(0); i < n; i++ {
		e := h.events.at(i)
		if rev := e.rec.rev(); rev != last {
			if len(out) >= limit {
				return out, rev, nil
			}
			last = rev
		}
		if (bucket == "" || e.bucket == bucket) && strings.HasPrefix(e.rec.key(), prefix) {
			out = append(out, e.public())
		}
	}
	return out, 0, nil
}
