package quorum

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/storage"
)

// The election rules E1-E4 of the protocol as a machine of its own: it knows
// time only as an argument, raft only as a view, and decides two things, that
// the leader is lost and that this node may campaign.

// role is raft's state of this node.
type role uint8

const (
	follower role = iota
	preCandidate
	candidate
	leader
)

// view is what the election rules need to know about raft.
type view struct {
	role role
	term uint64
	vote uint64
	lead uint64 // 0 = none known
}

// never is later than every instant.
const never int64 = math.MaxInt64

// rankStep is the least delay between two ranks, overStep that after an over,
// when there is nothing to wait for but a lost datagram (E4).
const (
	rankStep = 30 * time.Millisecond
	overStep = 10 * time.Millisecond
	// witnessWait is how many promises a witness waits before it campaigns.
	witnessWait = 3
	// maxEnded bounds the incarnations remembered as over for one node.
	maxEnded = 32
)

// shownSeq is the newest sequence of one voter that the leader's beats have
// named, and when they first named it.
type shownSeq struct {
	incarnation, sequence uint64
	at                    int64
}

// claim is the leader this node knows, by raft or by a beat that claims.
type claim struct {
	node, incarnation, term uint64
	at                      int64 // last claim, or when it became known
	shown                   map[uint64]shownSeq
	over                    int64 // when its incarnation was declared over, never if not
}

// election is the state of the rules. It belongs to the Driver's goroutine.
type election struct {
	self          uint64
	beat, promise time.Duration
	rtt, fsync    time.Duration // p99, measured by others
	random        func(n int64) int64

	order []storage.Member // voters, best first, witnesses last (E4)
	conf  storage.Conf
	ended map[uint64][]uint64 // incarnations that are over, by node

	leader   claim
	campaign int64 // when Campaign was called last
	guard    int64 // E3: not before this instant
	urgent   bool  // E4: somebody with an older log asked for a pre-vote
	last     view  // raft as seen before
}

func newElection(now int64, self uint64, beat, promise time.Duration, random func(int64) int64) *election {
	return &election{
		self: self, beat: beat, promise: promise, random: random,
		ended: map[uint64][]uint64{}, campaign: math.MinInt64 / 2, guard: math.MinInt64 / 2,
		leader: claim{at: now, over: never},
	}
}

// setMembers takes the voters' names, priorities and roles, and puts them in
// the order of E4.
func (e *election) setMembers(conf storage.Conf, members []storage.Member) {
	e.conf = conf
	e.order = e.order[:0]
	for _, m := range members {
		if conf.Voter(m.RaftID) {
			e.order = append(e.order, m)
		}
	}
	slices.SortFunc(e.order, func(a, b storage.Member) int {
		if n := cmp.Compare(a.Role, b.Role); n != 0 {
			return n
		}
		if n := cmp.Compare(b.Priority, a.Priority); n != 0 {
			return n
		}
		return cmp.Compare(a.Name, b.Name)
	})
}

// beatInfo takes a beat of another node. Only a claim of the current term, or
// of a newer one that raft has not reached yet, says anything about the leader.
func (e *election) beatInfo(now int64, b BeatInfo, term uint64) {
	if !b.LeaderClaim || b.Term < term || e.isOver(b.Node, b.Incarnation) {
		return
	}
	if b.Term > e.leader.term || e.leader.node == 0 {
		e.newLeader(now, b.Node, b.Incarnation, b.Term)
	}
	if b.Node != e.leader.node || b.Term != e.leader.term {
		return
	}
	e.leader.at = now
	e.leader.incarnation = b.Incarnation
	for _, s := range b.Seen {
		old := e.leader.shown[s.Node]
		if s.Incarnation != old.incarnation || s.Sequence > old.sequence {
			e.leader.shown[s.Node] = shownSeq{incarnation: s.Incarnation, sequence: s.Sequence, at: now}
		}
	}
}

// newLeader begins to watch a leader of a newer term; every timer starts anew.
func (e *election) newLeader(now int64, node, incarnation, term uint64) {
	e.leader = claim{node: node, incarnation: incarnation, term: term, at: now, shown: map[uint64]shownSeq{}, over: never}
	for _, voters := range [][]uint64{e.conf.Voters, e.conf.Outgoing} {
		for _, id := range voters {
			e.leader.shown[id] = shownSeq{at: now}
		}
	}
	e.urgent = false
	// The election that the guard protected has an outcome.
	e.guard = math.MinInt64 / 2
	if e.isOver(node, incarnation) {
		e.leader.over = now
	}
}

// observe compares raft with what it was and moves the timers that depend on
// it. Call it after everything that may change raft. incarnation is that of the
// node whose message was stepped, 0 if none.
func (e *election) observe(now int64, v view, from, incarnation uint64) {
	old := e.last
	e.last = v
	if v.term > old.term || (v.vote != old.vote && v.vote != 0) {
		e.holdBack(now)
	}
	switch {
	case old.role == leader && v.role != leader:
		// A leader that steps down has been its own leader until now.
		e.leader.at = now
		for id, s := range e.leader.shown {
			s.at = now
			e.leader.shown[id] = s
		}
	case v.lead != 0 && (v.term > e.leader.term || v.lead != e.leader.node && v.term == e.leader.term):
		inc := uint64(0)
		if v.lead == from {
			inc = incarnation
		}
		e.newLeader(now, v.lead, inc, v.term)
	}
	if e.leader.incarnation == 0 && from == e.leader.node && e.leader.node != 0 {
		e.leader.incarnation = incarnation
	}
	if v.lead != 0 && !e.lost(now) {
		e.urgent = false
	}
}

// holdBack sets the wait of E3: a candidate, and everybody who cast a vote or
// saw a higher term, leaves the candidate the time for votes to be stored and
// to travel. Campaign as candidate would throw the votes away.
func (e *election) holdBack(now int64) {
	wait := max(4*e.beat, 2*(e.fsync+e.rtt))
	e.guard = now + int64(wait) + e.random(int64(e.promise/4)+1)
}

// over takes the end of an incarnation. It reports whether it was the leader's.
func (e *election) overNote(now int64, node, incarnation uint64) bool {
	if !e.isOver(node, incarnation) {
		list := append(e.ended[node], incarnation)
		if len(list) > maxEnded {
			list = slices.Clone(list[len(list)-maxEnded:])
		}
		e.ended[node] = list
	}
	if node == e.leader.node && (incarnation == e.leader.incarnation || e.leader.incarnation == 0) {
		e.leader.over = min(e.leader.over, now)
		return true
	}
	return false
}

// isOver reports whether an incarnation was declared over (E2).
func (e *election) isOver(node, incarnation uint64) bool {
	return slices.Contains(e.ended[node], incarnation)
}

// stalled restarts the miss timers (E7): silence during a stall is our own.
func (e *election) stalled(now int64) {
	e.leader.at = max(e.leader.at, now)
	for id, s := range e.leader.shown {
		s.at = max(s.at, now)
		e.leader.shown[id] = s
	}
}

// lostAt returns when the leader counts or will count as lost (E1), if nothing
// more arrives.
func (e *election) lostAt() int64 {
	alive := min(e.leader.at, e.evidenceAt())
	return min(alive+int64(e.promise), e.leader.over)
}

// lost reports whether the leader counts as lost (E1).
func (e *election) lost(now int64) bool { return now >= e.lostAt() }

// evidenceAt returns when the leader's beats last showed that it hears a
// majority: the newest instant such that it and the voters whose sequence
// advanced since then are a majority of each half of the configuration.
func (e *election) evidenceAt() int64 {
	if e.leader.node == 0 {
		return e.leader.at
	}
	return min(e.evidenceOf(e.conf.Voters), e.evidenceOf(e.conf.Outgoing))
}

func (e *election) evidenceOf(voters []uint64) int64 {
	if len(voters) == 0 {
		return never
	}
	at := make([]int64, 0, len(voters))
	for _, id := range voters {
		if id == e.leader.node {
			at = append(at, never) // it hears itself
			continue
		}
		s, ok := e.leader.shown[id]
		if !ok {
			// A voter that joined under this leader: it counts from the
			// leader's own time until its first sequence is shown.
			s.at = e.leader.at
			e.leader.shown[id] = s
		}
		at = append(at, s.at)
	}
	slices.Sort(at)
	return at[len(at)-(len(at)/2+1)]
}

// dueAt returns when this node's turn to campaign comes (E4).
func (e *election) dueAt() int64 {
	lost := e.lostAt()
	step := max(rankStep, e.beat)
	if e.leader.over <= lost {
		step = overStep
	}
	rank, ok := e.rank()
	switch {
	case !ok:
		return never
	case rank < 0:
		return add(lost, witnessWait*int64(e.promise)+int64(-1-rank)*int64(step))
	}
	return add(lost, int64(rank)*int64(step))
}

// rank returns this node's place: 0, 1, ... among the gateways, -1, -2, ...
// among the witnesses; false if it is not a voter. The lost leader is left out;
// if that is this node itself, having stepped down, it comes after the others.
func (e *election) rank() (int, bool) {
	gateways, witnesses := 0, 0
	place, role, found := 0, storage.Role(0), false
	for _, m := range e.order {
		if m.RaftID == e.self {
			role, found = m.Role, true
			place = gateways
			if m.Role == storage.Witness {
				place = witnesses
			}
			continue
		}
		if m.RaftID == e.leader.node {
			continue
		}
		if m.Role == storage.Witness {
			witnesses++
		} else {
			gateways++
		}
	}
	if e.self == e.leader.node {
		place = gateways
		if role == storage.Witness {
			place = witnesses
		}
	}
	if role == storage.Witness {
		place = -1 - place
	}
	return place, found
}

func add(at, d int64) int64 {
	if at > never-d {
		return never
	}
	return at + d
}

// campaignAt returns from when on Campaign may be called if raft stays as it
// is (E3, E4); never if something else must happen first.
func (e *election) campaignAt(v view) int64 {
	again := e.campaign + int64(max(e.beat, 2*e.rtt))
	due := e.dueAt()
	if e.urgent {
		due = math.MinInt64 // a newer log goes first, whatever its rank
	}
	switch v.role {
	case follower:
		if v.lead != 0 {
			return never
		}
		return max(due, again, e.guard)
	case preCandidate:
		return max(due, again, e.guard)
	case candidate:
		return max(due, again, e.guard)
	}
	return never
}

// mayCampaign reports whether Campaign may be called now.
func (e *election) mayCampaign(now int64, v view) bool {
	return (e.lost(now) || e.urgent) && now >= e.campaignAt(v)
}

// campaigned notes a call of Campaign.
func (e *election) campaigned(now int64) { e.campaign = now }

// next returns when the rules may have something new to say.
func (e *election) next(now int64, v view) int64 {
	if v.role == leader {
		return never
	}
	lost := e.lostAt()
	if now < lost && !e.urgent {
		return lost
	}
	return max(e.campaignAt(v), now)
}
