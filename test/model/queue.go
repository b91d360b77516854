package main

import "github.com/holdfast-ha/holdfast/internal/lease"

// event is something that happens to a host at a true time.
type event struct {
	at          int64
	order       uint32 // among those at the same time
	kind        kind
	host        uint8 // index
	note        lease.NoteKind
	from        uint64 // raft id
	worker      uint64 // for this incarnation only, 0 = whichever runs
	incarnation uint64
	epoch       uint64
	sequence    uint64 // the highest epoch, in a refusal
	config      uint64
}

type kind uint8

const (
	enemy kind = iota
	begins
	beats
	applies
	asked
	granted
	refused
	noted
)

// queue is a heap of events, by time and order of arrival.
type queue struct {
	events []event
	order  uint32
}

func (q *queue) clear() { q.events, q.order = q.events[:0], 0 }

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.order < o.order
}

func (q *queue) push(e event) {
	q.order++
	e.order = q.order
	q.events = append(q.events, e)
	i := len(q.events) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(&q.events[up]) {
			break
		}
		q.events[i] = q.events[up]
		i = up
	}
	q.events[i] = e
}

func (q *queue) pop() (event, bool) {
	if len(q.events) == 0 {
		return event{}, false
	}
	top := q.events[0]
	n := len(q.events) - 1
	last := q.events[n]
	q.events = q.events[:n]
	for i := 0; n > 0; {
		down := 2*i + 1
		if down+1 < n && q.events[down+1].before(&q.events[down]) {
			down++
		}
		if down >= n || !q.events[down].before(&last) {
			q.events[i] = last
			break
		}
		q.events[i] = q.events[down]
		i = down
	}
	return top, true
}
