package node

import (
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/transport"
)

// peer is what this node knows of another member from what it hears.
type peer struct {
	member config.Member
	// raftID is the committed one, or before the founding the one its hello
	// named; 0 while neither is known.
	raftID    uint64
	hello     transport.Hello
	helloed   bool // hello is of a connection that is up, or was
	connected bool
	// foreign: the last try to connect was refused, for another cluster id.
	foreign bool
	since   int64 // boottime since when it shows the raft id of hello

	incarnation uint64
	sequence    uint64
	heardAt     int64 // boottime of the last beat that advanced; 0 = never
	beat        *transport.Beat
	macs        [][6]byte
	// former are incarnations that sent beats before the present one. A beat
	// of one of them that is newer than its last means that the raft id is
	// alive twice (a cloned disk).
	former     map[uint64]uint64
	cloneUntil int64
	over       map[uint64]bool
}

// id is the raft id under which the member speaks: that of its live
// connection, which may be ahead of what was applied here, else the committed
// one.
func (p *peer) id() uint64 {
	if p.connected && p.hello.RaftID != 0 {
		return p.hello.RaftID
	}
	return p.raftID
}

// strange tells whether the member belongs to another cluster than own, such as
// one that has missed a recovery (F4). A connection of before may still stand.
func (p *peer) strange(own [16]byte) bool {
	none := [16]byte{}
	return p.foreign || p.helloed && p.hello.ClusterID != none && own != none && p.hello.ClusterID != own
}

// maxFormer bounds the incarnations remembered of one peer.
const maxFormer = 8

// verdict is what to make of a beat.
type verdict uint8

const (
	beatNew     verdict = iota
	beatOld             // seen before, or overtaken
	beatOver            // of an incarnation that is over
	beatRebirth         // first of a new incarnation
	beatClone           // the raft id is alive twice
)

// take records a beat that arrived at now and tells what it is. A clone counts
// as one for memory after each sign of it: a delayed datagram of a worker that
// is gone must not shut a node out for ever.
func (p *peer) take(now int64, b *transport.Beat, memory time.Duration) verdict {
	if p.over[b.Incarnation] {
		return beatOver
	}
	v := beatNew
	switch {
	case b.Incarnation == p.incarnation:
		if b.Sequence <= p.sequence {
			return beatOld
		}
	default:
		last, known := p.former[b.Incarnation]
		if known && b.Sequence <= last {
			return beatOld
		}
		v = beatRebirth
		if known {
			v = beatClone
			p.cloneUntil = now + int64(memory)
		}
		p.remember()
		p.incarnation = b.Incarnation
	}
	p.sequence, p.heardAt, p.beat = b.Sequence, now, b
	return v
}

func (p *peer) remember() {
	if p.incarnation == 0 {
		return
	}
	if p.former == nil || len(p.former) >= maxFormer {
		p.former = map[uint64]uint64{}
	}
	p.former[p.incarnation] = p.sequence
}

// end records that an incarnation is over; one of two clones being over ends
// the alarm.
func (p *peer) end(incarnation uint64) {
	if p.over == nil || len(p.over) >= 4*maxFormer {
		p.over = map[uint64]bool{}
	}
	p.over[incarnation] = true
	delete(p.former, incarnation)
	p.cloneUntil = 0
}

func (p *peer) cloned(now int64) bool { return now < p.cloneUntil }

// silent returns how long no beat has come.
func (p *peer) silent(now int64) time.Duration { return time.Duration(now - p.heardAt) }

// heard tells whether a beat of it came within d.
func (p *peer) heard(now int64, d time.Duration) bool { return p.heardAt != 0 && p.silent(now) <= d }
