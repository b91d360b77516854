package lease

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"
)

// This file is a model of a whole cluster with true time: clocks that run
// wrong by up to rho, datagrams that are lost, late, doubled and reordered,
// workers and hosts that die, workers that hang, and a placement that assigns
// the group to anybody at any moment. The voters and holders are the real
// ones. One seed is one run.
//
// Safety must not rest on placement, so the model's placement is its worst
// enemy; nor on the order of anything but G5's close, read back, 1 ms, note.

// fault is a rule taken out of the model, to see that the model would notice.
type fault string

const (
	noFault          fault = "none"
	leaseIsPromise   fault = "L = P"
	countFromReceipt fault = "counting from receipt"
	noG1             fault = "no G1"
	noG2             fault = "no G2"
	noteBeforeClose  fault = "note before close"
	noIncarnation    fault = "no incarnation check"
	resumeReleased   fault = "resuming a released epoch"
	olderEpoch       fault = "a grant turned back to an older epoch"
	anyEpochsAck     fault = "counting another epoch's acknowledgements"
)

const (
	modelLength = 30 * time.Second
	noteDelay   = int64(time.Millisecond) // G5: behind the close
)

// entry is an Assign in the model's log; its epoch is its position + 1.
type entry struct{ node, incarnation uint64 }

// modelNode is a host: a kernel gate that outlives workers, and a worker.
type modelNode struct {
	id       uint64
	rate     int64 // clock reads offset + true * rate / 1000
	offset   int64
	openTill int64 // true time after which no frame leaves, queue included

	worker   int // counts restarts; 0 while down
	inc      uint64
	voter    *Voter
	holder   *Holder
	seq      uint64
	applied  int
	hungTill int64
	inCut    int64 // no datagram comes in until then
	outCut   int64
	stubborn bool  // does not close when it applies another's Assign
	kept     *held // what resumeReleased goes back to
}

type model struct {
	rng     *rand.Rand
	fault   fault
	now     int64
	events  events
	order   int
	nodes   []*modelNode
	voters  []uint64
	log     []entry
	incs    uint64
	restart int
	opened  int // windows given, to see that something happened
	moved   int // of them by another node than the last
	last    uint64
	broken  string
}

type event struct {
	at    int64
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(e[i].at, e[j].at), cmp.Compare(e[i].order, e[j].order)) < 0
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// runModel runs one seed and returns the model when it ended or broke.
func runModel(seed uint64, f fault) *model {
	m := &model{rng: rand.New(rand.NewPCG(seed, 1)), fault: f}
	size := uint64(3)
	if seed%4 == 3 {
		size = 5
	}
	for id := range size {
		m.voters = append(m.voters, id+1)
	}
	for id := range size {
		n := &modelNode{id: id + 1, rate: m.pick(900, 1000, 1100, 900+m.rng.Int64N(201)), offset: m.rng.Int64N(1e12)}
		m.nodes = append(m.nodes, n)
		m.start(n)
	}
	m.after(0, m.enemy)
	for m.broken == "" && len(m.events) > 0 && m.now < int64(modelLength) {
		e := heap.Pop(&m.events).(event)
		m.now = e.at
		e.do()
	}
	return m
}

func (m *model) after(d int64, do func()) {
	m.order++
	heap.Push(&m.events, event{m.now + d, m.order, do})
}

func (m *model) pick(of ...int64) int64 { return of[m.rng.IntN(len(of))] }
func (m *model) chance(percent int) bool {
	return m.rng.IntN(100) < percent
}

func (m *model) clock(n *modelNode) int64 { return n.offset + m.now*n.rate/1000 }

// trueTime is the first instant at which n's clock reads local.
func trueTime(n *modelNode, local int64) int64 {
	return ((local-n.offset)*1000 + n.rate - 1) / n.rate
}

// start begins a worker: new incarnation, no memory of grants (G2).
func (m *model) start(n *modelNode) {
	m.incs++
	m.restart++
	n.worker, n.inc, n.seq, n.applied, n.hungTill, n.kept = m.restart, m.incs, 0, 0, 0, nil
	n.stubborn = m.chance(30)
	n.voter = NewVoter(m.clock(n), promise, promise)
	if m.fault == noG2 {
		n.voter.openAt = 0
	}
	n.holder = NewHolder(n.id, n.inc, defaultTiming)
	if m.fault == leaseIsPromise {
		n.holder.leaseNs = int64(promise)
	}
	n.holder.SetVoters(1, m.voters)
	m.beat(n, n.worker)
}

// beat is one turn of a worker's loop.
func (m *model) beat(n *modelNode, worker int) {
	if n.worker != worker {
		return
	}
	if m.now < n.hungTill {
		m.after(n.hungTill-m.now, func() { m.beat(n, worker) })
		return
	}
	if m.chance(80) { // else it lags behind the log
		m.apply(n)
	}
	n.seq++
	for _, r := range n.holder.Request(m.clock(n), n.seq) {
		for _, to := range m.nodes {
			m.send(n, to, func() { m.request(n, to, r) })
		}
	}
	m.after(int64(defaultTiming.Beat)*1000/n.rate, func() { m.beat(n, worker) })
}

// apply lets n apply what the log holds: it begins what names it, and
// releases when the group went elsewhere, unless it is stubborn.
func (m *model) apply(n *modelNode) {
	for ; n.applied < len(m.log); n.applied++ {
		epoch, e := uint64(n.applied)+1, m.log[n.applied]
		n.voter.Applied(0, epoch, e.node, e.incarnation)
		if e.node == n.id && e.incarnation == n.inc {
			if n.holder.Begin(0, epoch) == nil && m.fault == anyEpochsAck {
				n.holder.groups[0].first = 0
			}
		} else if !n.stubborn {
			m.release(n)
		}
	}
}

// send carries something between two workers, or within one host: late, out
// of order, twice or not at all. The receiver takes it when its worker runs.
func (m *model) send(from, to *modelNode, take func()) {
	if from == to {
		take()
		return
	}
	for copies := 1; copies > 0; copies-- {
		if m.chance(10) || m.now < from.outCut {
			continue
		}
		if m.chance(5) {
			copies++
		}
		delay := m.rng.Int64N(int64(2 * ms))
		if m.chance(10) {
			delay = m.rng.Int64N(int64(400 * ms))
		}
		m.after(delay, func() { m.deliver(to, take) })
	}
}

func (m *model) deliver(to *modelNode, take func()) {
	switch {
	case to.worker == 0 || m.now < to.inCut:
	case m.now < to.hungTill: // waits in the socket; read, and timed, later
		m.after(to.hungTill-m.now, func() { m.deliver(to, take) })
	default:
		take()
	}
}

func (m *model) request(from, to *modelNode, r Request) {
	g := to.voter.group(0)
	switch m.fault {
	case noIncarnation: // the node counts, whoever runs on it
		if g.grant.node == r.Node && g.grant.incarnation != r.Incarnation {
			g.grant = grant{}
		}
	case noG1:
		if !g.grant.sameWorker(holderID{r.Epoch, r.Node, r.Incarnation}) {
			g.grant = grant{}
		}
	case olderEpoch:
		g.seen, g.granted, g.assigned, g.released = 0, holderID{}, holderID{}, nil
	case resumeReleased:
		g.released = nil
	}
	ack, refused := to.voter.Request(m.clock(to), r)
	m.send(to, from, func() {
		if refused != nil {
			if from.holder.Refused(to.id, *refused) {
				m.release(from)
			}
			return
		}
		m.ack(from, to.id, ack)
	})
}

func (m *model) ack(n *modelNode, from uint64, a Ack) {
	if g := n.holder.groups[0]; g != nil && m.fault == anyEpochsAck {
		a.Epoch = g.epoch
	}
	w, advanced := n.holder.Ack(from, a)
	if !advanced {
		return
	}
	if m.fault == countFromReceipt {
		w.Deadline = m.clock(n) + int64(lease)
	}
	if w.Deadline <= m.clock(n) {
		return // the kernel opens nothing for it
	}
	m.open(n, trueTime(n, w.Deadline)+int64(defaultTiming.Epsilon))
}

// open lets n's gate pass frames until the given true time, and looks for
// another gate that passes them now.
func (m *model) open(n *modelNode, till int64) {
	for _, other := range m.nodes {
		if other != n && other.openTill > m.now {
			m.broken = fmt.Sprintf("at %v node %d opens while node %d is open for %v more",
				time.Duration(m.now), n.id, other.id, time.Duration(other.openTill-m.now))
		}
	}
	n.openTill = max(n.openTill, till)
	m.opened++
	if m.last != n.id {
		m.last = n.id
		m.moved++
	}
}

// release closes the gate, and tells everybody a millisecond later.
func (m *model) release(n *modelNode) {
	if n.holder.groups[0] != nil {
		n.kept = n.holder.groups[0]
	}
	epoch, ok := n.holder.Release(0)
	if !ok {
		return
	}
	m.close(n, Note{Kind: Release, Node: n.id, Incarnation: n.inc, Epoch: epoch})
	if m.fault == resumeReleased && m.chance(50) {
		worker, kept := n.worker, n.kept
		m.after(m.rng.Int64N(int64(20*ms)), func() {
			if n.worker == worker && n.holder.groups[0] == nil {
				n.holder.groups[0] = kept
			}
		})
	}
}

// close writes zero into the gate: what is behind it leaves within 1 ms, and
// the note after that.
func (m *model) close(n *modelNode, x Note) {
	tail, delay := noteDelay, noteDelay
	if m.fault == noteBeforeClose {
		tail, delay = m.rng.Int64N(int64(50*ms)), 0
	}
	n.openTill = min(n.openTill, m.now+tail)
	for range 3 { // everybody repeats what he knows for 2 P
		m.after(delay, func() {
			for _, to := range m.nodes {
				m.send(n, to, func() { m.take(to, x) })
			}
		})
		delay += m.rng.Int64N(int64(promise))
	}
}

func (m *model) take(to *modelNode, x Note) {
	if m.fault == noIncarnation {
		if g := to.voter.groups[0]; g != nil && g.grant.node == x.Node && x.Kind == Over {
			g.grant = grant{}
		}
	}
	to.voter.Note(m.clock(to), x)
}

// enemy does the worst thing that comes to its mind, again and again.
func (m *model) enemy() {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	while := m.rng.Int64N(int64(time.Second))
	switch k := m.rng.IntN(100); {
	case k < 45: // the group goes to anybody that runs
		if n.worker != 0 {
			m.log = append(m.log, entry{n.id, n.inc})
		}
	case k < 55:
		if n.worker != 0 && m.now >= n.hungTill {
			m.release(n)
		}
	case k < 63: // the worker dies, the guard speaks for it
		m.kill(n, true, while/4)
	case k < 70: // the host dies: nobody speaks
		m.kill(n, false, while)
	case k < 80:
		n.hungTill = m.now + while
	case k < 90:
		n.outCut = m.now + while
	default:
		n.inCut = m.now + while
	}
	m.after(m.rng.Int64N(int64(250*ms)), m.enemy)
}

// kill ends the worker of n and starts another one a while later.
func (m *model) kill(n *modelNode, note bool, while int64) {
	if n.worker == 0 {
		return
	}
	dead := n.inc
	n.worker = 0
	if note {
		m.close(n, Note{Kind: Over, Node: n.id, Incarnation: dead})
	} else {
		n.openTill = min(n.openTill, m.now)
	}
	m.after(2*noteDelay+while, func() { m.start(n) })
}
