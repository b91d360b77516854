package ship

import (
	"bytes"
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// world is two or more nodes with links, disks and a clock of their own.
// Everything that happens later is an event; a run is given by its seed.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	now    int64
	events events
	seq    int
	nodes  map[uint64]*node

	// Links. Frames of one direction never overtake each other.
	latency   time.Duration
	bandwidth int64 // bytes a second, 0 for no limit
	drop      float64
	repeat    float64
	down      bool
	freeAt    map[[2]uint64]int64

	// Disks.
	diskTime time.Duration
	sentData int64 // bytes of Data frames that were sent
}

type node struct {
	id       uint64
	run      int // counts restarts: what an earlier run waits for is lost
	sender   *Sender
	receiver *Receiver

	source map[uint64]*source // open files by transfer
	opened map[uint64]int     // Start minus Release

	disk      map[File][]byte // partial and whole files
	published map[File]bool
	open      *File
	ops       int // of the receiver under way

	delivered []Action
	reports   []Action
	refuse    error // of the next write
}

type source struct {
	data []byte
	fail error
}

type event struct {
	at  int64
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

var theCluster = [16]byte{1, 2, 3}

func newWorld(t *testing.T, seed uint64, ids ...uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: 1e9, nodes: map[uint64]*node{},
		latency: time.Millisecond, freeAt: map[[2]uint64]int64{}, diskTime: time.Millisecond}
	for _, id := range ids {
		w.nodes[id] = &node{id: id, sender: NewSender(theCluster), receiver: NewReceiver(theCluster, 1),
			source: map[uint64]*source{}, opened: map[uint64]int{}, disk: map[File][]byte{}, published: map[File]bool{}}
	}
	return w
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.events, event{w.now + int64(d), w.seq, do})
}

// offerOf describes data as a file at an index, offered in a term.
func offerOf(term, index uint64, data []byte) Offer {
	return Offer{Term: term, File: File{Index: index, Sum: sha256.Sum256(data)}, Size: int64(len(data)),
		Meta: []byte("meta"), Message: fmt.Appendf(nil, "MsgSnap %d of term %d", index, term)}
}

func (w *world) start(from, to uint64, o Offer, s *source) uint64 {
	n := w.nodes[from]
	id, acts := n.sender.Start(w.now, to, o)
	n.source[id] = s
	n.opened[id]++
	w.carryOut(n, acts)
	return id
}

// carryOut is what the owner does with actions.
func (w *world) carryOut(n *node, acts []Action) {
	for _, a := range acts {
		switch a.Kind {
		case Send:
			w.transmit(n.id, a.Peer, a.Frame)
		case Read:
			w.read(n, a)
		case Release:
			n.opened[a.Transfer]--
			if n.opened[a.Transfer] != 0 {
				w.t.Errorf("transfer %d released %d times", a.Transfer, 1-n.opened[a.Transfer])
			}
			delete(n.source, a.Transfer)
		case Report:
			n.reports = append(n.reports, a)
		case Open, Write, Finish, Close:
			w.store(n, a)
		case Deliver:
			if !n.published[a.Offer.File] {
				w.t.Errorf("delivered before it was published: %+v", a.Offer.File)
			}
			n.delivered = append(n.delivered, a)
		default:
			w.t.Fatalf("action %d", a.Kind)
		}
	}
}

func (w *world) some(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(2*d) + 1))
}

func (w *world) read(n *node, a Action) {
	src, run := n.source[a.Transfer], n.run
	if src == nil {
		w.t.Errorf("read of transfer %d, which is not open", a.Transfer)
		return
	}
	w.after(w.some(w.diskTime), func() {
		if n.run != run {
			return
		}
		b, err := []byte(nil), src.fail
		if err == nil {
			end := min(a.Offset+int64(a.Length), int64(len(src.data)))
			b = bytes.Clone(src.data[min(a.Offset, end):end])
		}
		w.carryOut(n, n.sender.ReadDone(w.now, a.Transfer, b, err))
	})
}

// store carries out a task of the receiver's disk; a restart in the middle
// leaves it done or not done.
func (w *world) store(n *node, a Action) {
	run := n.run
	if n.ops++; n.ops != 1 {
		w.t.Errorf("%s while %d tasks are under way", a.Kind, n.ops-1)
	}
	w.after(w.some(w.diskTime), func() {
		if n.run != run && w.rng.IntN(2) == 0 {
			return
		}
		res := w.disk(n, a)
		if n.run != run {
			return
		}
		n.ops--
		w.carryOut(n, n.receiver.Done(w.now, res))
	})
}

func (w *world) disk(n *node, a Action) Result {
	switch a.Kind {
	case Open:
		f := a.Offer.File
		n.open = &f
		for other := range n.disk {
			if other != f && !n.published[other] {
				delete(n.disk, other) // one partial file at a time
			}
		}
		return Result{Offset: int64(len(n.disk[f]))}
	case Write:
		if err := n.refuse; err != nil {
			n.refuse = nil
			return Result{Err: err}
		}
		have := n.disk[*n.open]
		if int64(len(have)) != a.Offset {
			w.t.Errorf("write at %d of a file of %d bytes", a.Offset, len(have))
		}
		n.disk[*n.open] = append(have, a.Bytes...)
	case Finish:
		f := *n.open
		n.open = nil
		if sha256.Sum256(n.disk[f]) != f.Sum {
			delete(n.disk, f)
			return Result{Err: errors.New("checksum differs"), Damaged: true}
		}
		n.published[f] = true
	case Close:
		n.open = nil
	}
	return Result{}
}

func (w *world) transmit(from, to uint64, frame []byte) {
	if _, err := Decode(frame); err != nil || len(frame) > MaxMessage {
		w.t.Fatalf("sent a frame of %d bytes that cannot be read: %v", len(frame), err)
	}
	if frame[0] == typeData {
		w.sentData += int64(len(frame))
	}
	if w.down || w.rng.Float64() < w.drop {
		return
	}
	times := 1
	if w.rng.Float64() < w.repeat {
		times = 2
	}
	link := [2]uint64{from, to}
	for range times {
		at := max(w.now, w.freeAt[link])
		if w.bandwidth > 0 {
			at += int64(len(frame)) * int64(time.Second) / w.bandwidth
		}
		w.freeAt[link] = at
		w.after(time.Duration(at-w.now)+w.latency, func() { w.arrive(from, to, bytes.Clone(frame)) })
	}
}

func (w *world) arrive(from, to uint64, frame []byte) {
	m, err := Decode(frame)
	if err != nil {
		w.t.Fatal(err)
	}
	n := w.nodes[to]
	switch m := m.(type) {
	case Offer:
		w.carryOut(n, n.receiver.Offer(w.now, from, 10*from, m))
	case Data:
		w.carryOut(n, n.receiver.Data(w.now, from, m))
	case Want:
		w.carryOut(n, n.sender.Want(w.now, from, m))
	case Refuse:
		w.carryOut(n, n.sender.Refuse(w.now, from, m))
	}
}

// restart loses what a node has in memory.
func (w *world) restart(id uint64) {
	n := w.nodes[id]
	n.run++
	n.ops, n.open = 0, nil
	n.sender, n.receiver = NewSender(theCluster), NewReceiver(theCluster, 1)
	clear(n.source)
	clear(n.opened)
}

// run lets time pass until done, or for d; it tells whether done came true.
func (w *world) run(d time.Duration, done func() bool) bool {
	end := w.now + int64(d)
	for !done() {
		next := int64(math.MaxInt64)
		if len(w.events) > 0 {
			next = w.events[0].at
		}
		for _, n := range w.nodes {
			next = min(next, max(w.now, n.sender.Next()), max(w.now, n.receiver.Next()))
		}
		if next > end {
			w.now = end
			return done()
		}
		w.now = max(w.now, next)
		for len(w.events) > 0 && w.events[0].at <= w.now {
			heap.Pop(&w.events).(event).do()
		}
		for _, id := range []uint64{1, 2, 3} {
			if n := w.nodes[id]; n != nil {
				w.carryOut(n, n.sender.Tick(w.now))
				w.carryOut(n, n.receiver.Tick(w.now))
			}
		}
	}
	return true
}

func (w *world) never() func() bool { return func() bool { return false } }

func someBytes(n int) []byte {
	b := make([]byte, n)
	for at := 0; at < n; at += 1 << 12 { // a number in each page: pieces in another order are another file
		binary.BigEndian.AppendUint64(b[at:at:n], uint64(at)+1)
	}
	return b
}
