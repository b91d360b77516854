package lab

import (
	"cmp"
	"slices"
	"time"
)

// runLimit bounds the runs that are kept for one owner. A steady owner is one
// run; only losses of longer than the merge window add more.
const runLimit = 1 << 16

// run is a stretch of time in which one owner was active: frames no more than
// the merge window apart. Times are boot time, ns.
type run struct {
	Start, End int64
	Frames     int64
}

// sender is one source of frames: a MAC on a port.
type sender struct {
	MAC  [6]byte
	Port int // interface index, 0 on the client's side
}

// activity records who was active when. It takes times from its caller and is
// pure. Frames may come slightly out of order.
type activity struct {
	merge     int64 // ns
	runs      map[sender][]run
	last      sender
	lastAt    int64
	changes   []change
	changed   int64 // all changes, also those beyond the limit of the list
	frames    int64
	truncated bool
}

// change is the moment when another sender than before was seen.
type change struct {
	At       int64
	From, To sender
}

const changeLimit = 4096

func newActivity(merge time.Duration) *activity {
	return &activity{merge: int64(merge), runs: map[sender][]run{}}
}

// add records a frame. It reports whether the sender is another than before.
func (a *activity) add(s sender, at int64) bool {
	a.frames++
	moved := s != a.last
	if moved {
		if a.frames > 1 {
			a.changed++
			if len(a.changes) < changeLimit {
				a.changes = append(a.changes, change{At: at, From: a.last, To: s})
			}
		}
		a.last = s
	}
	a.lastAt = max(a.lastAt, at)
	rs := a.runs[s]
	if n := len(rs); n > 0 && at-rs[n-1].End <= a.merge {
		r := &rs[n-1]
		r.Start, r.End = min(r.Start, at), max(r.End, at)
		r.Frames++
		return moved
	}
	if len(rs) >= runLimit {
		a.truncated = true
		return moved
	}
	a.runs[s] = append(rs, run{Start: at, End: at, Frames: 1})
	return moved
}

// overlap is a stretch of time in which two senders were both active.
type overlap struct {
	Start, End int64
	A, B       sender
}

const overlapLimit = 4096

// overlaps finds all overlaps of two senders that different reports true for,
// in order of time. The list is cut at overlapLimit.
func (a *activity) overlaps(different func(a, b sender) bool) (list []overlap, total int64) {
	senders := make([]sender, 0, len(a.runs))
	for s := range a.runs {
		senders = append(senders, s)
	}
	slices.SortFunc(senders, func(x, y sender) int {
		return cmp.Or(cmp.Compare(x.Port, y.Port), slices.Compare(x.MAC[:], y.MAC[:]))
	})
	for i, x := range senders {
		for _, y := range senders[i+1:] {
			if !different(x, y) {
				continue
			}
			eachOverlap(a.runs[x], a.runs[y], func(start, end int64) {
				total++
				if len(list) < overlapLimit {
					list = append(list, overlap{Start: start, End: end, A: x, B: y})
				}
			})
		}
	}
	slices.SortStableFunc(list, func(x, y overlap) int { return cmp.Compare(x.Start, y.Start) })
	return list, total
}

// eachOverlap calls found for every pair of runs that share an instant. Both
// lists are in order of time and disjoint in themselves.
func eachOverlap(xs, ys []run, found func(start, end int64)) {
	for i, j := 0, 0; i < len(xs) && j < len(ys); {
		start, end := max(xs[i].Start, ys[j].Start), min(xs[i].End, ys[j].End)
		if start <= end {
			found(start, end)
		}
		if xs[i].End < ys[j].End {
			i++
		} else {
			j++
		}
	}
}

// silence measures the time without an answer. It takes times from its caller
// and is pure.
type silence struct {
	threshold int64
	from      int64 // last answer, or the beginning
	longest   Gap
	gaps      []Gap
	dropped   int64 // gaps beyond the limit of the list
}

const gapLimit = 65536

func newSilence(begin int64, threshold time.Duration) *silence {
	return &silence{threshold: int64(threshold), from: begin}
}

// answer ends the silence at a boot time, ns.
func (s *silence) answer(at int64) {
	if at <= s.from {
		return
	}
	g := Gap{Start: s.from, End: at}
	s.from = at
	if g.Duration() > s.longest.Duration() {
		s.longest = g
	}
	if g.End-g.Start <= s.threshold {
		return
	}
	if len(s.gaps) >= gapLimit {
		s.dropped++
		return
	}
	s.gaps = append(s.gaps, g)
}
