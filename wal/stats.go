package wal

import (
	"slices"
	"time"
)

// Stats is what a log says of itself.
type Stats struct {
	// Verdict of the recovery that opened it.
	Verdict Verdict
	// Segments and their bytes on disk.
	Segments int
	Bytes    int64
	// Room is the bytes that can be written before another file must be made:
	// the rest of the segment in use and the prepared one. Blocked says why
	// there is no prepared one (a full disk), nil for no reason: the caller
	// should refuse new entries then, while there is room to end in order.
	Room    int64
	Blocked error
	// LastIndex is the last index in the log, see Recovery.
	LastIndex uint64
	// Batches, their Records and bytes since the log was opened.
	Batches, Records, BatchBytes uint64
	// Queued requests, and for how long the writer has been at work on those
	// that it took: how long the disk has been stuck (E8). 0 when idle. Of a
	// stepped log it counts from when the first of them was queued: the time of
	// its disk is what passes before Step is called.
	Queued int
	Busy   time.Duration
	// Times of write and sync of the last 1024 batches.
	SyncP50, SyncP99, SyncMax time.Duration
	// Err is the final error.
	Err error
}

// meterSamples is how many batches the percentiles cover.
const meterSamples = 1024

// meter is the part of Log that Stats reads; Log.mu guards it.
type meter struct {
	bytes     int64 // of list
	room      int64
	lastIndex uint64
	batches   uint64
	records   uint64
	written   uint64
	took      []time.Duration // a ring, the next at batches % meterSamples
	list      []segment       // oldest first, the last in use; never changed
	oldest    uint64          // sequence of the first of list
}

// note counts a batch.
func (l *Log) note(bytes, records int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &l.meter
	if len(m.took) < meterSamples {
		m.took = append(m.took, took)
	} else {
		m.took[m.batches%meterSamples] = took
	}
	m.batches++
	m.records += uint64(records)
	m.written += uint64(bytes)
}

// publishStats shows the state of the writer to Stats.
func (w *writer) publishStats() {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.meter.oldest != w.segments[0].head.sequence || len(l.meter.list) != len(w.segments) {
		l.meter.list = slices.Clone(w.segments)
		l.meter.oldest, l.meter.bytes = w.segments[0].head.sequence, 0
		for i := range w.segments {
			l.meter.bytes += int64(w.segments[i].head.size)
		}
	}
	l.meter.room = int64(w.head.size) - w.offset - sealBytes
	l.meter.lastIndex = w.last
}

// Space is Room and Blocked of Stats for little, and whether a prepared segment
// is there: without one, what goes beyond room ends the log on a full disk.
func (l *Log) Space() (room int64, ready bool, blocked error) {
	ready, blocked = l.prep.state()
	l.mu.Lock()
	room = l.meter.room
	l.mu.Unlock()
	if ready {
		room += l.prep.size - headerBytes - sealBytes
	}
	return room, ready, blocked
}

// Stats returns the present numbers.
func (l *Log) Stats() Stats {
	ready, blocked := l.prep.state()
	l.mu.Lock()
	m := l.meter
	took := slices.Clone(m.took)
	s := Stats{
		Verdict: l.recovery.Verdict, Segments: len(m.list), Bytes: m.bytes, Room: m.room, Blocked: blocked,
		LastIndex: m.lastIndex, Batches: m.batches, Records: m.records, BatchBytes: m.written,
		Queued: len(l.queue), Err: l.err,
	}
	if !l.busy.IsZero() {
		s.Busy = l.opts.Now().Sub(l.busy)
	}
	l.mu.Unlock()
	if ready {
		s.Room += l.prep.size - headerBytes - sealBytes
	}
	if len(took) > 0 {
		slices.Sort(took)
		s.SyncP50 = took[len(took)/2]
		s.SyncP99 = took[len(took)*99/100]
		s.SyncMax = took[len(took)-1]
	}
	return s
}
