package lease

import (
	"errors"
	"fmt"
	"slices"
)

// maxSent bounds how many beats are remembered as sent. A lease spans some ten
// beats; an acknowledgement of an older request could not open anything.
const maxSent = 1024

var (
	// ErrEpochUsed means that an epoch is not above all that this worker has
	// begun in the group.
	ErrEpochUsed = errors.New("epoch is not higher than the last one begun")
	// ErrEpochReleased means that this worker has released that epoch (G7).
	ErrEpochReleased = errors.New("epoch was released")
)

// Holder counts acknowledgements for one worker and derives until when its
// gates may be open. Its own voter's acknowledgement counts under the same
// rules as any other, with the own raft id as from.
type Holder struct {
	self, incarnation uint64
	leaseNs           int64
	config            uint64 // log index that requests name (G4)
	halves            [][]uint64
	sent              sentRing
	groups            map[uint16]*held
	last              map[uint16]used
}

// used is the highest epoch begun in a group, for G7.
type used struct {
	epoch    uint64
	released bool
}

// held is the count for one epoch of one group.
type held struct {
	epoch uint64
	// first is the lowest sequence that counts: requests sent before this
	// epoch began, or before the lease grew, never do.
	first  uint64
	newest map[uint64]int64 // voter -> sent time of its newest acknowledged request
	window Window           // Deadline only rises
	opened bool             // window was ever given
}

// Window says until when a gate may be open. Both times are the holder's
// CLOCK_BOOTTIME in nanoseconds; Deadline = Sent + L at the time of counting.
type Window struct {
	Deadline int64 // the gate is closed at and after this instant
	Sent     int64 // when the youngest request was sent that a majority has acknowledged
}

// NewHolder makes the count of one worker. It asks for nothing before
// [Holder.Begin] and opens nothing before [Holder.SetVoters]. A timing that
// fails [Timing.Check] panics.
func NewHolder(self, incarnation uint64, t Timing) *Holder {
	h := &Holder{
		self:        self,
		incarnation: incarnation,
		groups:      make(map[uint16]*held),
		last:        make(map[uint16]used),
	}
	h.leaseNs = checkedLease(t)
	return h
}

// SetTiming changes L for later counts; windows already given stand. The
// caller shortens L before voters shorten their promise, and lengthens it only
// after a majority has stored the longer promise: then counting starts anew,
// because the requests acknowledged so far bought the shorter one.
func (h *Holder) SetTiming(t Timing) {
	leaseNs := checkedLease(t)
	if leaseNs > h.leaseNs {
		for _, g := range h.groups {
			g.first = h.sent.lastSeq + 1
			clear(g.newest)
		}
	}
	h.leaseNs = leaseNs
}

// SetVoters sets the configuration that requests name and whose majorities
// count. With more than one half (a joint configuration, or the overlap of
// G4) a majority of every half is needed. An empty half, or a config below
// the present one, panics.
func (h *Holder) SetVoters(config uint64, halves ...[]uint64) {
	if config < h.config || len(halves) == 0 {
		panic(fmt.Sprintf("lease: configuration %d with %d halves after %d", config, len(halves), h.config))
	}
	h.config = config
	h.halves = h.halves[:0]
	for _, half := range halves {
		voters := slices.Clone(half)
		slices.Sort(voters)
		voters = slices.Compact(voters) // a voter named twice is one vote
		if len(voters) == 0 {
			panic(fmt.Sprintf("lease: configuration %d has a half without voters", config))
		}
		h.halves = append(h.halves, voters)
	}
	for _, g := range h.groups {
		for voter := range g.newest {
			if !h.isVoter(voter) {
				delete(g.newest, voter)
			}
		}
		h.count(g)
	}
}

// Begin starts to ask for an applied Assign that names this incarnation. It
// refuses an epoch that this worker has released (G7, [ErrEpochReleased]) and
// one not above all epochs begun before ([ErrEpochUsed]). A lower epoch that
// is still asked for ends here: the gate may stay open until its window
// closes, because voters grant both to the same worker.
func (h *Holder) Begin(group uint16, epoch uint64) error {
	last := h.last[group]
	if epoch == last.epoch && last.released {
		return fmt.Errorf("begin epoch %d of group %d: %w", epoch, group, ErrEpochReleased)
	}
	if epoch <= last.epoch {
		return fmt.Errorf("begin epoch %d of group %d after %d: %w", epoch, group, last.epoch, ErrEpochUsed)
	}
	h.last[group] = used{epoch: epoch}
	h.groups[group] = &held{epoch: epoch, first: h.sent.lastSeq + 1, newest: make(map[uint64]int64)}
	return nil
}

// Request returns the requests for the beat with the given sequence, one for
// each group that is asked for, by group. now is read before the datagram is
// sealed (G8). A sequence that is not above the last one panics: an
// acknowledgement could then count for a request sent later.
func (h *Holder) Request(now int64, seq uint64) []Request {
	h.sent.add(seq, now)
	if len(h.groups) == 0 {
		return nil
	}
	out := make([]Request, 0, len(h.groups))
	for group, g := range h.groups {
		out = append(out, Request{
			Node: h.self, Incarnation: h.incarnation, Group: group,
			Epoch: g.epoch, Config: h.config, Sequence: seq,
		})
	}
	slices.SortFunc(out, func(a, b Request) int { return int(a.Group) - int(b.Group) })
	return out
}

// Ack counts an authenticated acknowledgement of the voter with raft id from.
// It returns the window and whether its deadline moved. Ignored are: another
// epoch or incarnation than the one asked for (G8), an unknown sequence, and
// nodes that are no voters.
func (h *Holder) Ack(from uint64, a Ack) (w Window, advanced bool) {
	g := h.groups[a.Group]
	if g == nil {
		return Window{}, false
	}
	if a.Epoch != g.epoch || a.Incarnation != h.incarnation || a.Sequence < g.first || !h.isVoter(from) {
		return g.window, false
	}
	sent, ok := h.sent.at(a.Sequence)
	if !ok {
		return g.window, false
	}
	if newest, ok := g.newest[from]; ok && sent <= newest {
		return g.window, false
	}
	g.newest[from] = sent
	return g.window, h.count(g)
}

// Refused takes an authenticated refusal and tells whether it shows a higher
// epoch than the one asked for: then the caller closes the gate and releases
// at once (G3). Any other refusal changes nothing (G8).
func (h *Holder) Refused(_ uint64, r Refusal) (higher bool) {
	g := h.groups[r.Group]
	return g != nil && r.Highest > g.epoch
}

// Window returns the window of the epoch that is asked for; false when no
// majority has acknowledged it yet. The deadline may have passed.
func (h *Holder) Window(group uint16) (Window, bool) {
	g := h.groups[group]
	if g == nil || !g.opened {
		return Window{}, false
	}
	return g.window, true
}

// AckedByMajoritySince is when the youngest request was sent that a majority
// of every present half has acknowledged, 0 when there is none: a holder for
// whom that is P ago is deaf and releases (A2).
func (h *Holder) AckedByMajoritySince(group uint16) int64 {
	g := h.groups[group]
	if g == nil {
		return 0
	}
	sent, ok := h.majoritySent(g)
	if !ok {
		return 0
	}
	return sent
}

// Release stops asking and returns the epoch that ends, for the note; that
// epoch can never begin again (G7). The gate was closed and read back before.
func (h *Holder) Release(group uint16) (epoch uint64, ok bool) {
	g := h.groups[group]
	if g == nil {
		return 0, false
	}
	delete(h.groups, group)
	h.last[group] = used{epoch: g.epoch, released: true}
	return g.epoch, true
}

// Holding returns the epoch that is asked for in the group.
func (h *Holder) Holding(group uint16) (epoch uint64, ok bool) {
	g := h.groups[group]
	if g == nil {
		return 0, false
	}
	return g.epoch, true
}

// count moves the window of g forward if a majority allows it.
func (h *Holder) count(g *held) (advanced bool) {
	sent, ok := h.majoritySent(g)
	if !ok {
		return false
	}
	deadline := sent + h.leaseNs
	if g.opened && deadline <= g.window.Deadline {
		return false
	}
	g.window, g.opened = Window{Deadline: deadline, Sent: sent}, true
	return true
}

// majoritySent is the newest sent time that a majority of every half has
// reached: in a half of n voters the (n/2+1)-th newest, and the oldest of
// those over the halves (G8, G4).
func (h *Holder) majoritySent(g *held) (sent int64, ok bool) {
	for _, half := range h.halves {
		acked := make([]int64, 0, len(half))
		for _, voter := range half {
			if s, ok := g.newest[voter]; ok {
				acked = append(acked, s)
			}
		}
		k := len(half)/2 + 1
		if len(acked) < k {
			return 0, false
		}
		slices.Sort(acked)
		kth := acked[len(acked)-k]
		if !ok || kth < sent {
			sent, ok = kth, true
		}
	}
	return sent, ok
}

func (h *Holder) isVoter(id uint64) bool {
	return slices.ContainsFunc(h.halves, func(half []uint64) bool {
		_, found := slices.BinarySearch(half, id)
		return found
	})
}

func checkedLease(t Timing) int64 {
	if err := t.Check(); err != nil {
		panic(fmt.Sprintf("lease: holder with %+v: %v", t, err))
	}
	return int64(t.Lease)
}

// sentRing remembers when the last maxSent beats were sent. Sequences rise but
// may skip.
type sentRing struct {
	lastSeq uint64
	beats   []sentBeat // ascending; the last maxSent count
}

type sentBeat struct {
	seq uint64
	at  int64
}

func (s *sentRing) add(seq uint64, now int64) {
	if seq <= s.lastSeq {
		panic(fmt.Sprintf("lease: sequence %d sent after %d", seq, s.lastSeq))
	}
	s.lastSeq = seq
	if len(s.beats) == 2*maxSent { // moved rarely, so that adding stays cheap
		s.beats = s.beats[:copy(s.beats, s.beats[maxSent:])]
	}
	s.beats = append(s.beats, sentBeat{seq, now})
}

func (s *sentRing) at(seq uint64) (int64, bool) {
	beats := s.beats[max(0, len(s.beats)-maxSent):]
	i, ok := slices.BinarySearchFunc(beats, seq, func(b sentBeat, seq uint64) int {
		switch {
		case b.seq < seq:
			return -1
		case b.seq > seq:
			return 1
		}
		return 0
	})
	if !ok {
		return 0, false
	}
	return beats[i].at, true
}
