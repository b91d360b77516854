package transport

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// buckets are token buckets by source address, of bounded number. Members'
// addresses have buckets of their own that strangers cannot use up.
type buckets struct {
	rate, burst float64 // tokens a second, and at most

	mu        sync.Mutex
	members   map[netip.Addr]*bucket
	strangers map[netip.Addr]*bucket // at most maxStrangers
	all       bucket                 // shared by all strangers, ten times the rate
	sweptNs   int64
}

type bucket struct {
	tokens float64
	atNs   int64
}

const maxStrangers = 256

func newBuckets(rate, burst float64) *buckets {
	return &buckets{rate: rate, burst: burst, members: map[netip.Addr]*bucket{},
		strangers: map[netip.Addr]*bucket{}, all: bucket{tokens: 10 * burst}}
}

// setMembers names the addresses that strangers must not crowd out.
func (b *buckets) setMembers(addrs map[netip.Addr]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fresh := make(map[netip.Addr]*bucket, len(addrs))
	for a := range addrs {
		if fresh[a] = b.members[a]; fresh[a] == nil {
			fresh[a] = &bucket{tokens: b.burst}
		}
	}
	b.members = fresh
}

// take takes one token of source at now (CLOCK_BOOTTIME in ns).
func (b *buckets) take(source netip.Addr, now int64) bool {
	source = source.Unmap()
	b.mu.Lock()
	defer b.mu.Unlock()
	if own := b.members[source]; own != nil {
		return own.take(now, b.rate, b.burst)
	}
	if !b.all.take(now, 10*b.rate, 10*b.burst) {
		return false
	}
	one := b.strangers[source]
	if one == nil {
		if len(b.strangers) >= maxStrangers {
			b.sweep(now)
		}
		if len(b.strangers) >= maxStrangers {
			return true // the shared bucket alone limits who finds no place
		}
		one = &bucket{tokens: b.burst, atNs: now}
		b.strangers[source] = one
	}
	return one.take(now, b.rate, b.burst)
}

// sweep forgets sources whose bucket is full again, at most once a second.
func (b *buckets) sweep(now int64) {
	if now-b.sweptNs < int64(time.Second) {
		return
	}
	b.sweptNs = now
	for source, one := range b.strangers {
		if one.tokens+float64(now-one.atNs)/1e9*b.rate >= b.burst {
			delete(b.strangers, source)
		}
	}
}

func (b *bucket) take(now int64, rate, burst float64) bool {
	b.tokens = min(burst, b.tokens+float64(now-b.atNs)/1e9*rate)
	b.atNs = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

const (
	recentNotes   = 256
	recentNotesNs = int64(2e9)
	// noteRate bounds what checking signatures may cost: about 50 us each.
	noteRate, noteBurst = 200, 200
)

// noteFilter passes a note once in 2 s, and not more notes of one source than
// its rate.
type noteFilter struct {
	seed maphash.Seed // of this process, so that nobody can aim at a collision
	*buckets

	mu   sync.Mutex
	at   map[uint64]int64 // hash to time first passed, of what order holds
	ring [recentNotes]uint64
	next int
}

func newNoteFilter() *noteFilter {
	return &noteFilter{seed: maphash.MakeSeed(), buckets: newBuckets(noteRate, noteBurst), at: map[uint64]int64{}}
}

type noteVerdict int

const (
	notePass noteVerdict = iota
	noteDuplicate
	noteLimited
)

// check looks for duplicates first, so that honest repetition costs no token;
// only what has passed is remembered, so that a flood cannot push it out.
func (f *noteFilter) check(raw []byte, from netip.Addr, now int64) noteVerdict {
	hash := maphash.Bytes(f.seed, raw)
	f.mu.Lock()
	defer f.mu.Unlock()
	first, known := f.at[hash]
	if known && now-first < recentNotesNs {
		return noteDuplicate
	}
	if !f.take(from, now) {
		return noteLimited
	}
	if !known {
		if len(f.at) == recentNotes {
			delete(f.at, f.ring[f.next])
		}
		f.ring[f.next] = hash
		f.next = (f.next + 1) % recentNotes
	}
	f.at[hash] = now
	return notePass
}

const (
	quietNs   = int64(60e9)
	maxQuiet  = 512
	overQuiet = "other"
)

// quietLog lets one line a minute pass for each cause and source, and says
// how many it kept back.
type quietLog struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[quietKey]*quietEntry // at most maxQuiet, and one for each cause
}

type quietKey struct{ cause, source string }

type quietEntry struct {
	atNs       int64
	suppressed uint64
}

func newQuietLog(log *slog.Logger) *quietLog {
	return &quietLog{log: log, last: map[quietKey]*quietEntry{}}
}

// line logs msg unless the same cause and source were logged within the last
// minute before now.
func (q *quietLog) line(now int64, level slog.Level, cause, source, msg string, args ...any) {
	suppressed, ok := q.due(now, quietKey{cause, source})
	if !ok {
		return
	}
	args = append(args, "cause", cause, "source", source)
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	q.log.Log(context.Background(), level, msg, args...)
}

func (q *quietLog) due(now int64, key quietKey) (suppressed uint64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	entry := q.last[key]
	if entry == nil && len(q.last) >= maxQuiet {
		for k, e := range q.last {
			if now-e.atNs >= quietNs {
				delete(q.last, k)
			}
		}
		if len(q.last) >= maxQuiet {
			key.source = overQuiet // causes are few, sources are not
			entry = q.last[key]
		}
	}
	if entry == nil {
		q.last[key] = &quietEntry{atNs: now}
		return 0, true
	}
	if now-entry.atNs < quietNs {
		entry.suppressed++
		return 0, false
	}
	suppressed = entry.suppressed
	*entry = quietEntry{atNs: now}
	return suppressed, true
}
