// Package audit is the trail of control events: who moved a group where and
// when, who was fenced, which node joined, what was damaged.
//
// Each event carries the hash of the one before, so nobody can change, remove
// or reorder one without changing the hash of every event after it. The trail
// is part of the replicated state: events are appended when a committed entry
// is applied, with what the entry says and nothing else, so every node holds
// the same chain. The package knows no clock, no file and no goroutine.
//
// The hash has no key. Whoever can rewrite the trail can rewrite the chain
// behind it too; what proves that nobody did is a head that was kept elsewhere:
// on the other nodes, in a backup, in an earlier export.
package audit

import (
	"slices"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// DefaultMaxBytes is how much a trail keeps when nothing else is said.
const DefaultMaxBytes = 8 << 20

// Event is one record of the trail. Append fills Seq and Hash; the limits of
// the texts are MaxKind and its neighbours.
type Event struct {
	Seq    uint64   // counts from 1, without a gap
	Index  uint64   // of the log entry that made it
	Term   uint64   // of that entry
	At     int64    // wall time of the proposer in ns since 1970, for people
	Kind   string   // what happened: assign, fence, recovery, ...
	Actor  string   // who asked; "" for the cluster itself
	Node   string   // the node that it concerns, by name; "" for none
	Group  string   // the VIP group that it concerns; "" for none
	Epoch  uint64   // of the group, 0 for none
	Cause  string   // why, in a word or two
	Detail string   // what else there is to know
	Hash   [32]byte // SHA-256 of the hash before and of all of the above
}

// Trail is the events that are kept. It is not safe for concurrent use; a
// Clone is a trail of its own that another goroutine may read.
type Trail struct {
	max     int      // bytes that may be kept, see Bytes
	bytes   int      // sum of len(records[i])
	seq     uint64   // of the newest event, 0 for none yet
	head    [32]byte // hash of the newest event, zero for none yet
	anchor  [32]byte // hash of the event before records[0], zero for none
	records []string // encoded events with their hash, without a gap, newest last
}

// NewTrail returns an empty trail that keeps up to maxBytes of encoded events;
// 0 means DefaultMaxBytes. maxBytes decides which events are dropped and so
// must be the same on all nodes. The newest event is kept whatever its size.
func NewTrail(maxBytes int) *Trail {
	invariant.Check(maxBytes >= 0 && maxBytes <= maxTrailBytes,
		"audit: trail of %d bytes, want 0 to %d", maxBytes, maxTrailBytes)
	if maxBytes == 0 {
		maxBytes = DefaultMaxBytes
	}
	return &Trail{max: maxBytes}
}

// Append adds an event, drops the oldest ones over the size, and returns the
// event as it stands in the trail: with Seq and Hash, its texts cut to their
// limits and made valid UTF-8.
func (t *Trail) Append(e Event) Event {
	e = e.fit()
	e.Seq = t.seq + 1
	record := appendRecord(nil, e)
	e.Hash = chain(t.head, record)
	record = append(record, e.Hash[:]...)
	invariant.Check(len(record) <= maxRecord, "audit: record of %d bytes, at most %d expected", len(record), maxRecord)
	t.push(string(record))
	t.shrink()
	return e
}

// push adds an encoded event that is known to follow the newest one.
func (t *Trail) push(record string) {
	t.records = append(t.records, record)
	t.bytes += len(record)
	t.seq++
	t.head = hashOf(record)
}

// shrink drops the oldest events over the size. The array behind records is
// never written below its length, because clones read it; append moves to a
// new one from time to time, and with it go the events that were dropped.
func (t *Trail) shrink() {
	for t.bytes > t.max && len(t.records) > 1 {
		t.bytes -= len(t.records[0])
		t.anchor = hashOf(t.records[0])
		t.records = t.records[1:]
	}
}

// Head returns number and hash of the newest event, both zero when there has
// been none.
func (t *Trail) Head() (seq uint64, hash [32]byte) { return t.seq, t.head }

// First returns the number of the oldest event that is kept; one more than
// that of the newest when none is.
func (t *Trail) First() uint64 { return t.seq - uint64(len(t.records)) + 1 }

// Bytes returns how much is kept: the events as they are encoded.
func (t *Trail) Bytes() int { return t.bytes }

// MaxBytes returns the size over which the oldest events are dropped.
func (t *Trail) MaxBytes() int { return t.max }

// Clone returns a trail that shares the events of t but none of its changes.
// It costs the same whatever the size. The clone may be used by another
// goroutine while t goes on.
func (t *Trail) Clone() *Trail {
	c := *t
	// No spare capacity: an append to the clone must not write where t appends.
	c.records = slices.Clip(t.records)
	return &c
}

// Events returns up to limit events, oldest first, from number from on or from
// the oldest one that is kept. A limit of 0 or less means all.
func (t *Trail) Events(from uint64, limit int) []Event {
	records := t.since(from)
	if limit > 0 {
		records = records[:min(limit, len(records))]
	}
	events := make([]Event, 0, len(records))
	for _, r := range records {
		events = append(events, t.event(r))
	}
	return events
}

// since returns the records from number from on.
func (t *Trail) since(from uint64) []string {
	first := t.First()
	if from <= first {
		return t.records
	}
	return t.records[min(from-first, uint64(len(t.records))):]
}

// Last returns the newest n events of a kind, oldest first; kind "" means any.
func (t *Trail) Last(kind string, n int) []Event {
	var events []Event
	for i := len(t.records) - 1; i >= 0 && len(events) < n; i-- {
		if kind == "" || recordKind(t.records[i]) == kind {
			events = append(events, t.event(t.records[i]))
		}
	}
	slices.Reverse(events)
	return events
}

// event decodes a record of the trail, each of which was encoded or checked
// here.
func (t *Trail) event(record string) Event {
	e, err := decodeRecord(record)
	invariant.Check(err == nil, "audit: record of %d bytes in the trail that ends at %d: %v", len(record), t.seq, err)
	return e
}
