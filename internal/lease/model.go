package lease

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
)

// What follows is for checkers that walk through all states of voters and
// holders: copies, and keys that are equal exactly when two values behave the
// same from now on.

// Clone returns an independent copy.
func (v *Voter) Clone() *Voter {
	c := *v
	c.cloned = maps.Clone(v.cloned)
	c.groups = make(map[uint16]*voterGroup, len(v.groups))
	for id, g := range v.groups {
		copied := *g
		copied.released = slices.Clone(g.released)
		c.groups[id] = &copied
	}
	c.ended.nodes = slices.Clone(v.ended.nodes)
	for i, n := range c.ended.nodes {
		c.ended.nodes[i].incarnations = slices.Clone(n.incarnations)
	}
	return &c
}

// Clone returns an independent copy.
func (h *Holder) Clone() *Holder {
	c := *h
	c.last = maps.Clone(h.last)
	c.halves = slices.Clone(h.halves) // a half is replaced, never changed
	c.sent.beats = slices.Clone(h.sent.beats)
	c.groups = make(map[uint16]*held, len(h.groups))
	for id, g := range h.groups {
		copied := *g
		copied.newest = maps.Clone(g.newest)
		c.groups[id] = &copied
	}
	return &c
}

// AppendKey appends what the voter's answers at and after now depend on. Times
// count from now, and those that have passed are all the same.
func (v *Voter) AppendKey(b []byte, now int64) []byte {
	b = appendNumbers(b, left(v.openAt, now), uint64(v.promiseNs), v.config, flag(v.abstains), uint64(len(v.groups)))
	var few [8]uint16
	for _, id := range sortedKeys(few[:0], v.groups) {
		g := v.groups[id]
		b = appendNumbers(b, uint64(id), g.seen, g.grant.sequence, left(g.grant.until, now), uint64(len(g.released)))
		for _, h := range [...]holderID{g.assigned, g.granted, g.grant.holderID} {
			b = appendNumbers(b, h.epoch, h.node, h.incarnation)
		}
		for _, h := range g.released {
			b = appendNumbers(b, h.epoch, h.node, h.incarnation)
		}
	}
	b = appendNumbers(b, uint64(len(v.ended.nodes)))
	for _, n := range v.ended.nodes {
		b = appendNumbers(b, n.node, uint64(len(n.incarnations)))
		b = appendNumbers(b, n.incarnations...)
	}
	b = appendNumbers(b, uint64(len(v.cloned)))
	return appendNumbers(b, sortedKeys(nil, v.cloned)...)
}

// AppendKey appends what the windows that open at and after now depend on.
// Beats sent horizon (ns) ago or earlier are left out: horizon is at least the
// lease, so that counting them opens nothing. Voters go by the names that name
// gives them, which are above 0: those that are alike may trade places.
func (h *Holder) AppendKey(b []byte, now, horizon int64, name func(voter uint64) uint64) []byte {
	b = appendNumbers(b, h.self, h.incarnation, h.config, h.sent.lastSeq, uint64(len(h.halves)), uint64(len(h.last)))
	for _, half := range h.halves {
		b = appendNumbers(b, uint64(len(half)))
		var few [8]uint64
		names := few[:0]
		for _, v := range half {
			names = append(names, name(v))
		}
		slices.Sort(names)
		b = appendNumbers(b, names...)
	}
	for _, s := range h.sent.beats {
		if now-s.at < horizon {
			b = appendNumbers(b, s.seq, uint64(now-s.at))
		}
	}
	b = append(b, 0) // no sequence is 0
	var few [8]uint16
	for _, id := range sortedKeys(few[:0], h.last) {
		b = appendNumbers(b, uint64(id), h.last[id].epoch, flag(h.last[id].released))
		g := h.groups[id] // only what was begun is asked for
		if g == nil {
			continue
		}
		b = appendNumbers(b, g.first, left(g.window.Deadline, now))
		var few [8][2]uint64
		acked := few[:0]
		for voter, at := range g.newest {
			if now-at < horizon {
				acked = append(acked, [2]uint64{name(voter), uint64(now - at)})
			}
		}
		slices.SortFunc(acked, func(x, y [2]uint64) int { return cmp.Compare(x[0], y[0]) })
		for _, a := range acked {
			b = appendNumbers(b, a[0], a[1])
		}
		b = append(b, 0)
	}
	return b
}

// sortedKeys appends the keys of m to buf, which saves an allocation.
func sortedKeys[K cmp.Ordered, V any](buf []K, m map[K]V) []K {
	for k := range m {
		buf = append(buf, k)
	}
	slices.Sort(buf)
	return buf
}

func left(at, now int64) uint64 { return uint64(max(0, at-now)) }

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

// appendNumbers writes small numbers, which most are, in one byte.
func appendNumbers(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}
