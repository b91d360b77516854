package sim

import (
	"hash/maphash"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/internal/node"
	"github.com/holdfast-ha/holdfast/storage/audit"
	"github.com/holdfast-ha/holdfast/wal"
)

// seen is how far the checks have looked at one worker, and what they saw in its
// turn before.
type seen struct {
	at        int64
	voter     bool
	applies   map[uint16]uint64 // epoch applied, by group
	granted   map[uint16]lease.Standing
	shut      map[uint16]int64 // since when it holds a group behind a closed gate
	applied   uint64
	cluster   [16]byte
	auditedTo uint64
}

// book is what one cluster has agreed on.
type book struct {
	entries map[uint64]entryMark
	hashes  map[uint64][32]byte
	audit   map[uint64][32]byte
	highest uint64
}

type entryMark struct{ term, hash uint64 }

type termKey struct {
	cluster [16]byte
	term    uint64
}

type voteKey struct {
	cluster  [16]byte
	id, term uint64
}

// confirmed is what a worker has told others to be on its disk.
type confirmed struct {
	id, term, index uint64
}

var markSeed = maphash.MakeSeed()

func (c *checks) book(cluster [16]byte) *book {
	b := c.books[cluster]
	if b == nil {
		b = &book{entries: map[uint64]entryMark{}, hashes: map[uint64][32]byte{}, audit: map[uint64][32]byte{}}
		c.books[cluster] = b
	}
	return b
}

// turned looks at a worker after each of its turns.
func (c *checks) turned(p *process) {
	l := p.node.Look()
	if !l.Founded {
		return
	}
	s := c.seen[p]
	if s == nil {
		s = &seen{cluster: l.Cluster, applies: map[uint16]uint64{}, granted: map[uint16]lease.Standing{}, shut: map[uint16]int64{}}
		c.seen[p] = s
	}
	c.grants(p, s, l)
	c.holding(p, s, l)
	s.at, s.voter = c.w.now, l.Voter
	st := c.hosts[p.h.i]
	st.raftID, st.cluster, st.founded = l.RaftID, l.Cluster, true
	if l.Leads {
		c.leader(p, l)
	}
	c.promises(p, l.Grants)
	if l.Applied != s.applied {
		c.applied(p, s, l)
	}
}

// grants is G3 and G6: no grant of a voter goes back to a lower epoch, none is
// given for one below what it had applied before, and none by who has no vote.
func (c *checks) grants(p *process, s *seen, l node.Look) {
	for _, g := range l.Grants {
		old, known := s.granted[g.Group]
		moved := !known || g.Until != old.Until
		switch {
		case known && g.Epoch < old.Epoch:
			c.w.violate("G3", "%s grants epoch %d of group %d after epoch %d", p.h.name, g.Epoch, g.Group, old.Epoch)
		case moved && g.Epoch < s.applies[g.Group]:
			c.w.violate("G3", "%s grants epoch %d of group %d, and has applied epoch %d", p.h.name, g.Epoch, g.Group, s.applies[g.Group])
		case moved && s.at != 0 && !s.voter && !l.Voter:
			c.w.violate("G6", "%s grants epoch %d of group %d and is no voter", p.h.name, g.Epoch, g.Group)
		}
		s.granted[g.Group] = g
	}
	for group := range c.w.vips {
		s.applies[uint16(group)] = p.node.State().Assignment(uint16(group)).Epoch
	}
}

// holding is G7, what a worker holds is its own and was never released, and A2,
// it does not go on behind a gate that nobody lets it open.
func (c *checks) holding(p *process, s *seen, l node.Look) {
	for group, epoch := range l.Holding {
		if a := p.node.State().Assignment(group); a.Epoch == epoch && (a.Node != l.RaftID || a.Incarnation != p.incarnation) {
			c.w.violate("G7", "%s holds epoch %d of group %d, which names %x/%x", p, epoch, group, a.Node, a.Incarnation>>48)
		}
		note := lease.Note{Kind: lease.Release, Cluster: l.Cluster, Node: l.RaftID, Incarnation: p.incarnation, Group: group, Epoch: epoch}
		if at, released := c.ends[note]; released {
			c.w.violate("G7", "%s holds epoch %d of group %d, which it released at %s", p, epoch, group, stamp(at))
		}
		if c.w.now-s.at > 2*int64(c.w.timing.Beat) || p.h.gate.value(group).open != nil {
			s.shut[group] = c.w.now // it holds, or has stalled, which restarts its timers
		} else if limit := 2*int64(c.w.timing.Promise) + 2*int64(c.w.timing.Beat); s.shut[group] != 0 && c.w.now-s.shut[group] > limit {
			c.w.violate("A2", "%s holds group %d behind a closed gate for %v", p, group, time.Duration(c.w.now-s.shut[group]))
		}
	}
	for group := range s.shut {
		if _, ok := l.Holding[group]; !ok {
			delete(s.shut, group)
		}
	}
}

// leader is I4: one leader a term.
func (c *checks) leader(p *process, l node.Look) {
	key := termKey{l.Cluster, l.Term}
	other, known := c.terms[key]
	if !known {
		c.terms[key] = l.RaftID
		c.w.note("%s leads term %d", p.h.name, l.Term)
		return
	}
	if other != l.RaftID {
		c.w.violate("I4", "%s (%x) leads term %d, which %x has led", p.h.name, l.RaftID, l.Term, other)
	}
}

// hashEvery is at which applied indexes the hash of the state is compared.
const hashEvery = 8

// applied is I4 and I6: the same entry at each index, the same state behind it.
func (c *checks) applied(p *process, s *seen, l node.Look) {
	b := c.book(l.Cluster)
	if l.Applied < s.applied {
		c.w.violate("I4", "%s has applied %d after %d", p.h.name, l.Applied, s.applied)
	}
	for _, e := range p.node.Entries(s.applied+1, l.Applied+1) {
		c.entriesChecked++
		mark := entryMark{e.GetTerm(), maphash.Bytes(markSeed, e.GetData()) ^ uint64(e.GetType())}
		if known, ok := b.entries[e.GetIndex()]; ok && known != mark {
			c.w.violate("I4", "%s applies another entry at %d: term %d, first seen with term %d", p.h.name, e.GetIndex(), e.GetTerm(), known.term)
		}
		b.entries[e.GetIndex()] = mark
	}
	s.applied = l.Applied
	b.highest = max(b.highest, l.Applied)
	_, known := b.hashes[l.Applied]
	if known || l.Applied%hashEvery == 0 {
		c.hash(p, b, l.Applied)
	}
}

func (c *checks) hash(p *process, b *book, index uint64) {
	c.hashesChecked++
	h := p.node.State().Hash()
	known, ok := b.hashes[index]
	if ok && known != h {
		c.w.violate("I6", "%s has another state at %d than was seen before", p.h.name, index)
	}
	b.hashes[index] = h
}

// trail is I11: the chain of the audit trail is the same everywhere and only
// grows.
func (c *checks) trail(p *process) {
	t := p.node.Trail()
	if t == nil {
		return
	}
	l := p.node.Look()
	b := c.book(l.Cluster)
	s := c.seen[p]
	if s == nil {
		return
	}
	var events []audit.Event = t.Events(s.auditedTo+1, 0)
	for _, e := range events {
		if known, ok := b.audit[e.Seq]; ok && known != e.Hash {
			c.w.violate("I11", "%s has another event %d in its audit trail than was seen before: %+v", p.h.name, e.Seq, e)
		}
		b.audit[e.Seq] = e.Hash
		s.auditedTo = e.Seq
	}
}

// raftHeader stands before a raft message on the control connection: cluster id
// and incarnation (internal/node/mesh.go).
const (
	kindRaft   = 1
	raftHeader = 24
)

// frameLeaves looks at what a worker sends to another: one vote a term (I4),
// what it confirms (I7), and nothing after its log has failed (I8).
func (c *checks) frameLeaves(p *process, at int64, kind uint8, payload []byte) {
	if kind != kindRaft || len(payload) < raftHeader+2 || payload[raftHeader] != 0x08 {
		return
	}
	typ := raftpb.MessageType(payload[raftHeader+1])
	if typ != raftpb.MsgVoteResp && typ != raftpb.MsgAppResp {
		return // a MsgVote leaves before the vote of its sender counts, which is when it is stored
	}
	var m raftpb.Message
	if err := proto.Unmarshal(payload[raftHeader:], &m); err != nil {
		c.w.violate("I4", "%s sends a raft frame that cannot be read: %v", p.h.name, err)
		return
	}
	if m.GetReject() {
		return
	}
	cluster := [16]byte(payload)
	if p.failedAt != 0 && at > p.failedAt+failGrace {
		c.w.violate("I8", "%s sends %v of term %d index %d, %v after its log failed", p.h.name, typ, m.GetTerm(), m.GetIndex(), time.Duration(at-p.failedAt))
	}
	switch typ {
	case raftpb.MsgVoteResp:
		c.vote(p, voteKey{cluster, m.GetFrom(), m.GetTerm()}, m.GetTo())
		c.confirm(p, m.GetFrom(), m.GetTerm(), 0)
	case raftpb.MsgAppResp:
		c.confirm(p, m.GetFrom(), m.GetTerm(), m.GetIndex())
	}
}

// failGrace is how long after a failure of the log something that does not
// depend on it may still leave.
const failGrace = int64(2 * time.Millisecond)

func (c *checks) vote(p *process, key voteKey, to uint64) {
	if known, ok := c.votes[key]; ok && known != to {
		c.w.violate("I4", "%s (%x) votes for %x in term %d, and has voted for %x", p.h.name, key.id, to, key.term, known)
	}
	c.votes[key] = to
}

func (c *checks) confirm(p *process, id, term, index uint64) {
	s := c.said[p.h.i]
	if s == nil || s.id != id || term > s.term {
		s = &confirmed{id: id, term: term}
		c.said[p.h.i] = s
	}
	if term == s.term {
		s.index = max(s.index, index)
	}
}

// started looks at a worker that has just opened its data: I7.
func (c *checks) started(p *process) {
	l := p.node.Look()
	st := c.hosts[p.h.i]
	if l.Founded && l.Recovery == wal.Corrupt && !st.damaged {
		c.w.violate("I7", "%s finds its log corrupt, and nothing has damaged it", p.h.name)
	}
	if st.founded && !st.damaged && l.RaftID != st.raftID {
		c.w.violate("I7", "%s starts with raft id %x, had %x, and nothing has damaged its data", p.h.name, l.RaftID, st.raftID)
	}
	s := c.said[p.h.i]
	if l.Founded && s != nil && s.id == l.RaftID && !st.damaged {
		if l.Term < s.term || l.Term == s.term && l.Last < s.index {
			c.w.violate("I7", "%s starts with term %d last %d, and has confirmed term %d index %d", p.h.name, l.Term, l.Last, s.term, s.index)
		}
	}
	if l.RaftID != st.raftID {
		st.damaged = false
	}
	st.raftID = l.RaftID
	c.w.note("%s worker starts, verdict %v last %d term %d", p, l.Recovery, l.Last, l.Term)
}

// integrity: a worker has refused to start, or would again.
func (c *checks) integrity(h *host, err error) {
	if st := c.hosts[h.i]; !st.damaged {
		c.w.violate("I7", "%s: integrity check failed, and nothing has damaged it: %v", h.name, err)
	}
}

// wrote is told after each write of a log.
func (c *checks) wrote(p *process) {
	if p.failedAt == 0 {
		return
	}
	at := p.failedAt
	// I8: it ends, and its gate is closed, as soon as it can: when the turn is
	// over that was under way.
	p.at(max(c.w.now, p.busy)+int64(300*time.Millisecond), func() {
		if p.failedAt == at && !p.dead && !p.ending && p.stopUntil == 0 && p.h.clk.frozenSince(c.w.now) < 0 {
			c.w.violate("I8", "%s still runs %v after its log failed", p.h.name, time.Duration(c.w.now-at))
		}
	})
}

func (c *checks) processEnded(p *process) { delete(c.seen, p) }
