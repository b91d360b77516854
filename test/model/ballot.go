package main

import (
	"math"
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

// ballot is one worker's lease.Voter behind a harness that can take a rule
// out: it lies to the voter about epochs, incarnations, configurations or the
// time, or keeps several voters where there should be one.
type ballot struct {
	broken rule
	lapses uint64 // how often it forgets what it forgets; bounds an exhaustive search
	v      *lease.Voter
	apart  []apart // no-g1: a voter for each that asks
	overs  []over  // no-incarnation: how often each node's work was over
	named  []alias // resumed, older-epoch: epochs that the voter is told
	next   uint64  // older-epoch: the highest of them
}

type apart struct {
	node, incarnation uint64
	v                 *lease.Voter
}

// over counts the workers of a node; after a note the next one is another.
type over struct {
	node, times uint64
	ended       bool
}

type alias struct{ node, incarnation, epoch, told uint64 }

// stale is by how much times are wrong under cached-now and sent-late, as a
// part of the promise.
const stale = 2

// newBallot starts a voter at its local time now with a promise (G2).
func newBallot(now int64, promise time.Duration, broken rule, lapses uint64) ballot {
	wait := now
	if broken == noG2 {
		wait -= int64(promise)
	}
	return ballot{broken: broken, lapses: lapses, v: lease.NewVoter(wait, promise, promise)}
}

// request puts a request that was received at local time now.
func (b *ballot) request(now int64, promise int64, r lease.Request) (lease.Ack, *lease.Refusal) {
	switch b.broken {
	case none:
		return b.v.Request(now, r)
	case oldConfig:
		r.Config = math.MaxUint64
		return b.v.Request(now, r)
	case cachedNow:
		return b.v.Request(now-now%(promise/stale), r) // read once in a while
	case noG1:
		return b.voterFor(r.Node, r.Incarnation).Request(now, r)
	case noIncarnation:
		told := r
		if o := &b.overs[b.overOf(r.Node)]; o.ended && o.times < b.lapses {
			o.times, o.ended = o.times+1, false
		}
		told.Incarnation = b.generation(r.Node)
		ack, refused := b.v.Request(now, told)
		if refused == nil {
			ack.Incarnation = r.Incarnation
		}
		return ack, refused
	case resumed, olderEpoch:
		return b.requestRenamed(now, r)
	case refusedCounts:
		return b.requestCounted(now, r)
	}
	return b.v.Request(now, r)
}

// requestRenamed gives the epoch another number, so that the voter does not
// see that it was released, or is old.
func (b *ballot) requestRenamed(now int64, r lease.Request) (lease.Ack, *lease.Refusal) {
	told := r
	told.Epoch = b.told(r)
	ack, refused := b.v.Request(now, told)
	if refused != nil {
		shown := *refused
		shown.Epoch, shown.Highest = r.Epoch, r.Epoch // what is higher is not known any more
		return lease.Ack{}, &shown
	}
	ack.Epoch = r.Epoch
	return ack, nil
}

func (b *ballot) requestCounted(now int64, r lease.Request) (lease.Ack, *lease.Refusal) {
	ack, refused := b.v.Request(now, r)
	if refused == nil {
		return ack, nil
	}
	for _, s := range b.v.Standing(now) {
		if s.Node == r.Node && s.Incarnation == r.Incarnation && s.Epoch == r.Epoch {
			return lease.Ack{Group: r.Group, Epoch: r.Epoch, Incarnation: r.Incarnation, Sequence: r.Sequence}, nil
		}
	}
	return ack, refused
}

// note tells the voter what has ended.
func (b *ballot) note(now int64, n lease.Note) {
	switch {
	case b.broken == noG1:
		b.v.Note(now, n)
		for _, a := range b.apart {
			a.v.Note(now, n)
		}
	case b.broken == noIncarnation && n.Kind == lease.Over:
		n.Incarnation = b.generation(n.Node)
		b.v.Note(now, n)
		b.overs[b.overOf(n.Node)].ended = true
	case b.broken == noIncarnation:
		n.Incarnation = b.generation(n.Node)
		b.v.Note(now, n)
	case (b.broken == resumed || b.broken == olderEpoch) && n.Kind == lease.Release:
		b.noteRenamed(now, n)
	default:
		b.v.Note(now, n)
	}
}

func (b *ballot) noteRenamed(now int64, n lease.Note) {
	for i, a := range b.named {
		if a.node != n.Node || a.incarnation != n.Incarnation || a.epoch != n.Epoch {
			continue
		}
		told := n
		told.Epoch = a.told
		b.v.Note(now, told)
		if b.broken == resumed && a.told&0xffff < b.lapses {
			b.named[i].told++ // as if it had never been heard of
		}
	}
}

func (b *ballot) applied(epoch, node, incarnation uint64) {
	switch b.broken {
	case resumed, olderEpoch, noIncarnation: // the voter knows other numbers
	case noG1:
		for _, a := range b.apart {
			a.v.Applied(0, epoch, node, incarnation)
		}
		b.v.Applied(0, epoch, node, incarnation)
	default:
		b.v.Applied(0, epoch, node, incarnation)
	}
}

func (b *ballot) configured(index uint64, voting bool) {
	b.v.AppliedConfig(index)
	b.v.SetVoting(voting)
	for _, a := range b.apart {
		a.v.AppliedConfig(index)
		a.v.SetVoting(voting)
	}
}

func (b *ballot) voterFor(node, incarnation uint64) *lease.Voter {
	for _, a := range b.apart {
		if a.node == node && a.incarnation == incarnation {
			return a.v
		}
	}
	v := b.v.Clone()
	b.apart = append(b.apart, apart{node, incarnation, v})
	return v
}

// generation stands in for the incarnation of whatever runs on the node.
func (b *ballot) generation(node uint64) uint64 { return 1 + b.overs[b.overOf(node)].times }

func (b *ballot) overOf(node uint64) int {
	for i, o := range b.overs {
		if o.node == node {
			return i
		}
	}
	b.overs = append(b.overs, over{node: node})
	return len(b.overs) - 1
}

// told is the number under which the voter gets to know an epoch: under
// resumed one that counts its releases, under older-epoch always the highest.
func (b *ballot) told(r lease.Request) uint64 {
	for i := len(b.named) - 1; i >= 0; i-- {
		a := b.named[i]
		if a.node == r.Node && a.incarnation == r.Incarnation && a.epoch == r.Epoch {
			return a.told
		}
		if b.broken == olderEpoch && b.next < 3*b.lapses {
			break // another was asked for since
		}
	}
	told := r.Epoch << 16
	if b.broken == olderEpoch {
		b.next++
		told = b.next
	}
	b.named = append(b.named, alias{r.Node, r.Incarnation, r.Epoch, told})
	return told
}

func (b *ballot) clone() ballot {
	c := *b
	c.v = b.v.Clone()
	if b.broken == none {
		return c
	}
	c.apart = append([]apart(nil), b.apart...)
	for i, a := range c.apart {
		c.apart[i].v = a.v.Clone()
	}
	c.overs = append([]over(nil), b.overs...)
	c.named = append([]alias(nil), b.named...)
	return c
}

func (b *ballot) appendKey(k []byte, now int64) []byte {
	k = b.v.AppendKey(k, now)
	if b.broken == none {
		return k
	}
	k = appendNumbers(k, b.next, uint64(len(b.apart)), uint64(len(b.overs)), uint64(len(b.named)))
	for _, a := range b.apart {
		k = a.v.AppendKey(appendNumbers(k, a.node, a.incarnation), now)
	}
	for _, o := range b.overs {
		k = appendNumbers(k, o.node, o.times, oneIf(o.ended))
	}
	for _, a := range b.named {
		k = appendNumbers(k, a.node, a.incarnation, a.epoch, a.told)
	}
	return k
}
