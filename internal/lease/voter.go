package lease

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Voter keeps the grants of one voter in memory, for as long as its worker
// lives. After a restart the wait of G2 stands in for what it has forgotten.
//
// Times passed in may step back a little (two sockets read by two
// goroutines): that only makes a grant shorter and a wait longer.
type Voter struct {
	openAt    int64 // G2: nothing is granted before
	promiseNs int64
	abstains  bool
	config    uint64 // log index of the configuration that was applied last
	groups    map[uint16]*voterGroup
	ended     endedIncarnations
	cloned    map[uint64]bool
}

// voterGroup is what a voter knows of one group.
type voterGroup struct {
	// seen is the highest epoch that was applied or requested. Requests raise
	// it before they are judged, so it is never below a granted epoch and
	// covers both "seen" and "granted" of G3.
	seen     uint64
	assigned holderID // by the Assign applied last
	granted  holderID // the highest epoch granted ever, and to whom
	grant    grant
	released []holderID // at most maxReleased, oldest first
}

// holderID is an epoch and the one incarnation that may hold it.
type holderID struct{ epoch, node, incarnation uint64 }

// grant is the promise given last; the zero grant promises nothing.
type grant struct {
	holderID
	sequence uint64 // of the request that last moved until (G8)
	until    int64  // only rises while the grant names the same holder
}

// maxReleased bounds the released epochs remembered in a group. A released
// epoch that falls out is still below the epochs seen since.
const maxReleased = 32

// NewVoter starts a voter at start that grants nothing before start+wait
// (G2: wait is the longer of the promise stored on disk and promise). It
// panics when wait is shorter than promise, or promise is not positive.
func NewVoter(start int64, wait, promise time.Duration) *Voter {
	if promise <= 0 || wait < promise {
		panic(fmt.Sprintf("lease: voter starts with wait %v, promise %v", wait, promise))
	}
	return &Voter{
		openAt:    start + int64(wait),
		promiseNs: int64(promise),
		groups:    make(map[uint16]*voterGroup),
		cloned:    make(map[uint64]bool),
	}
}

// Request judges one authenticated request that was received at now. Exactly
// one of grant and refusal is the answer: the refusal is nil when granted.
//
// A request that is older than, or the same as, the one granted last
// (reordered, duplicated) moves nothing and is answered by the standing
// acknowledgement.
func (v *Voter) Request(now int64, r Request) (Ack, *Refusal) {
	g := v.group(r.Group)
	g.seen = max(g.seen, r.Epoch)
	if reason := v.judge(now, g, r); reason != 0 {
		return Ack{}, &Refusal{Group: r.Group, Epoch: r.Epoch, Highest: g.seen, Reason: reason}
	}
	id := holderID{r.Epoch, r.Node, r.Incarnation}
	if g.grant.holderID == id && r.Sequence <= g.grant.sequence {
		return g.grant.ack(r.Group), nil
	}
	until := now + v.promiseNs
	if g.grant.sameWorker(id) {
		until = max(until, g.grant.until) // a shorter promise never cuts an older one
	}
	g.granted = id
	g.grant = grant{holderID: id, sequence: r.Sequence, until: until}
	return g.grant.ack(r.Group), nil
}

// judge returns the reason to refuse r, or 0.
func (v *Voter) judge(now int64, g *voterGroup, r Request) RefusalReason {
	id := holderID{r.Epoch, r.Node, r.Incarnation}
	switch {
	case v.abstains:
		return Abstaining // G6
	case now < v.openAt:
		return NotYet // G2
	case v.cloned[r.Node]:
		return Cloned
	case v.ended.has(r.Node, r.Incarnation):
		return Ended // G3
	case g.hasReleased(id):
		return Released // G3
	case r.Epoch < g.seen || r.Epoch == 0:
		return OldEpoch // G3
	case g.assigned.names(r.Epoch) && g.assigned != id, g.granted.names(r.Epoch) && g.granted != id:
		return WrongHolder // an epoch belongs to one incarnation
	case r.Config < v.config:
		return OldConfig // G4
	case now < g.grant.until && !g.grant.sameWorker(id):
		return GrantedElsewhere // G1
	}
	return 0
}

// Applied reports that an effective Assign was applied here: the epoch counts
// as seen, and from now on only the named incarnation is granted it. What was
// granted before stands until it expires or a note ends it.
func (v *Voter) Applied(group uint16, epoch, node, incarnation uint64) {
	g := v.group(group)
	g.seen = max(g.seen, epoch)
	if epoch > g.assigned.epoch {
		g.assigned = holderID{epoch, node, incarnation}
	}
}

// AppliedConfig reports the log index of a configuration that was applied
// here; requests that count in an older one are refused (G4).
func (v *Voter) AppliedConfig(index uint64) { v.config = max(v.config, index) }

// SetVoting says whether this node is a voter of the committed configuration
// under its present raft id and does not abstain (G6). A new Voter votes.
// Promises already given stand.
func (v *Voter) SetVoting(voting bool) { v.abstains = !voting }

// SetPromise changes the promise of later grants. The caller has stored it on
// disk before (G2), and shortens it only after holders count by the shorter
// lease. It panics when d is not positive.
func (v *Voter) SetPromise(d time.Duration) {
	if d <= 0 {
		panic(fmt.Sprintf("lease: promise set to %v", d))
	}
	v.promiseNs = int64(d)
}

// SetCloned says whether node is known to have two live incarnations; such a
// node is granted nothing. The caller clears it when one of them is over, and
// counts no acknowledgement of that node meanwhile.
func (v *Voter) SetCloned(node uint64, cloned bool) {
	if !cloned {
		delete(v.cloned, node)
		return
	}
	v.cloned[node] = true
}

// Note takes a note whose signature and cluster the caller has checked (G5):
// the grant that it names ends at once, and what it names is remembered. The
// time is not needed: a note is as good late as early.
func (v *Voter) Note(_ int64, n Note) {
	switch n.Kind {
	case Over:
		v.ended.add(n.Node, n.Incarnation)
		for _, g := range v.groups {
			if g.grant.node == n.Node && g.grant.incarnation == n.Incarnation {
				g.grant = grant{}
			}
		}
	case Release:
		id := holderID{n.Epoch, n.Node, n.Incarnation}
		g := v.group(n.Group)
		g.release(id)
		if g.grant.holderID == id {
			g.grant = grant{}
		}
	default:
		panic(fmt.Sprintf("lease: note of kind %d", n.Kind))
	}
}

// Standing is a grant that has not expired.
type Standing struct {
	Group       uint16
	Node        uint64 // to whom
	Incarnation uint64
	Epoch       uint64
	Sequence    uint64
	Until       int64 // CLOCK_BOOTTIME of this voter, nanoseconds
}

// Ack is the acknowledgement that beats may repeat while the grant stands.
func (s Standing) Ack() Ack {
	return Ack{Group: s.Group, Epoch: s.Epoch, Incarnation: s.Incarnation, Sequence: s.Sequence}
}

// Standing lists the unexpired grants, by group.
func (v *Voter) Standing(now int64) []Standing {
	var out []Standing
	for id, g := range v.groups {
		if now < g.grant.until {
			out = append(out, Standing{
				Group: id, Node: g.grant.node, Incarnation: g.grant.incarnation,
				Epoch: g.grant.epoch, Sequence: g.grant.sequence, Until: g.grant.until,
			})
		}
	}
	slices.SortFunc(out, func(a, b Standing) int { return cmp.Compare(a.Group, b.Group) })
	return out
}

// Highest is the highest epoch of the group that was seen here, 0 when none.
func (v *Voter) Highest(group uint16) uint64 {
	if g := v.groups[group]; g != nil {
		return g.seen
	}
	return 0
}

func (v *Voter) group(id uint16) *voterGroup {
	g := v.groups[id]
	if g == nil {
		g = &voterGroup{}
		v.groups[id] = g
	}
	return g
}

func (id holderID) names(epoch uint64) bool { return id.epoch != 0 && id.epoch == epoch }

// sameWorker tells whether both name one worker. Another incarnation of the
// same node is another holder (G1): the old worker may still hold.
func (g grant) sameWorker(id holderID) bool {
	return g.node == id.node && g.incarnation == id.incarnation
}

func (g grant) ack(group uint16) Ack {
	return Ack{Group: group, Epoch: g.epoch, Incarnation: g.incarnation, Sequence: g.sequence}
}

// hasReleased tells whether the incarnation released this epoch or a higher
// one: a worker never goes back to an epoch.
func (g *voterGroup) hasReleased(id holderID) bool {
	for _, r := range g.released {
		if r.node == id.node && r.incarnation == id.incarnation && id.epoch <= r.epoch {
			return true
		}
	}
	return false
}

func (g *voterGroup) release(id holderID) {
	for i, r := range g.released {
		if r.node == id.node && r.incarnation == id.incarnation {
			g.released[i].epoch = max(r.epoch, id.epoch)
			return
		}
	}
	if len(g.released) == maxReleased {
		g.released = slices.Delete(g.released, 0, 1)
	}
	g.released = append(g.released, id)
}
