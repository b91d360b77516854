package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/transport"
)

// network is the LAN: a directed link between any two hosts, and on them the
// connections of each pair.
type network struct {
	w     *world
	links [][]*link // from, to
	pairs []*pair
}

// link is one direction between two hosts.
type link struct {
	from, to *host
	rnd      *rand.Rand
	cuts     int   // faults that cut it
	cutSince int64 // true time, while cut
	lo, hi   int64 // usual delay, ns
	// Faults, each counted so that they may overlap.
	loss, dup, reorder []float64
	slow               []int64
	outliers           bool // rare delays of up to 8 s, for datagrams
}

const (
	longestDelay = 8 * time.Second
	// socketRoom is how many datagrams wait in the sockets of a process that
	// does not read.
	socketRoom = 256
	idleLimit  = time.Second
)

func newNetwork(w *world) *network {
	n := &network{w: w}
	lo, hi := int64(40*time.Microsecond), int64(400*time.Microsecond)
	if w.opt.Profile == "wan" {
		lo, hi = int64(4*time.Millisecond), int64(30*time.Millisecond)
	}
	for i, a := range w.hosts {
		n.links = append(n.links, make([]*link, len(w.hosts)))
		for j, b := range w.hosts {
			if i == j {
				continue
			}
			l := &link{from: a, to: b, rnd: stream(w.seed, "link "+a.name+" "+b.name), lo: lo, hi: hi}
			l.hi += l.rnd.Int64N(hi)
			n.links[i][j] = l
			if i < j {
				n.pairs = append(n.pairs, &pair{n: n, a: a, b: b, rnd: stream(w.seed, "pair "+a.name+" "+b.name)})
			}
		}
	}
	return n
}

func (n *network) link(from, to *host) *link { return n.links[from.i][to.i] }

func (n *network) pair(a, b *host) *pair {
	for _, p := range n.pairs {
		if p.a == a && p.b == b || p.a == b && p.b == a {
			return p
		}
	}
	return nil
}

func most(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	return slices.Max(list)
}

// passes tells whether a frame that leaves now gets through, and how long it
// takes.
func (l *link) passes() (delay int64, ok bool) {
	if l.cut() || chance(l.rnd, most(l.loss)) {
		return 0, false
	}
	return l.delay(), true
}

func (l *link) cut() bool {
	return l.cuts > 0 || !l.from.powered || l.from.kernel != nil && !l.from.kernel.carrier || l.to.kernel != nil && !l.to.kernel.carrier
}

func (l *link) delay() int64 {
	d := l.lo + l.rnd.Int64N(l.hi-l.lo)
	if l.rnd.Uint32()>>25 == 0 { // one in 128
		d += l.rnd.Int64N(int64(2 * time.Millisecond))
	}
	for _, s := range l.slow {
		d += s/2 + l.rnd.Int64N(s)
	}
	if chance(l.rnd, most(l.reorder)) {
		d += l.rnd.Int64N(int64(50 * time.Millisecond))
	}
	if l.outliers && l.rnd.Uint32()>>20 == 0 { // one in 4,096
		d += l.rnd.Int64N(int64(longestDelay))
	}
	return d
}

// datagram sends one at true time sent: arrive is called on the other host for
// each copy that gets there.
func (n *network) datagram(from, to *host, sent int64, arrive func()) {
	if sent > n.w.now+int64(time.Millisecond) { // what the net is like then counts
		n.w.at(sent, func() { n.datagram(from, to, sent, arrive) })
		return
	}
	l := n.link(from, to)
	copies := 1
	if chance(l.rnd, most(l.dup)) {
		copies++
	}
	for range copies {
		if d, ok := l.passes(); ok {
			n.w.at(sent+d, func() { n.arrived(to, arrive) })
		}
	}
}

// arrived is a frame at the interface of a host.
func (n *network) arrived(h *host, do func()) {
	if !h.powered || h.kernel == nil || !h.kernel.carrier {
		return
	}
	if thaw := h.clk.thaw(n.w.now); thaw > n.w.now {
		// What comes to a frozen machine waits in its queue, as far as that goes.
		if chance(h.sched, 0.7) {
			h.at(thaw+h.sched.Int64N(int64(3*time.Millisecond)), do)
		}
		return
	}
	do()
}

// receive hands a datagram to the worker of a host, or to its sockets while it
// is stopped.
func (p *process) receive(do func()) {
	if p.dead || p.ending || p.node == nil {
		return
	}
	if p.stopUntil <= p.w.now {
		p.deliver(do)
		return
	}
	if p.held >= socketRoom {
		return
	}
	p.held++
	// The loop may get to its timers before the sockets are read.
	p.at(p.stopUntil+p.sched.Int64N(int64(500*time.Microsecond)), func() {
		p.held--
		p.deliver(do)
	})
}

// note sends a note from a host, guard or worker.
func (n *network) note(from, to *host, sent int64, raw []byte) {
	n.datagram(from, to, sent, func() {
		p := to.proc
		if p == nil || p.mesh == nil {
			return
		}
		p.receive(func() { p.mesh.takeNote(from, raw) })
	})
}

// claim is an announcement of a group's addresses to everybody.
func (n *network) claim(from *host, mac [6]byte, group uint16) {
	for _, to := range n.w.hosts {
		if to == from || !to.gateway {
			continue
		}
		n.datagram(from, to, n.w.now, func() { to.gate.claim(group, mac) })
	}
}

// setCut cuts a link, or ends one cut of it.
func (n *network) setCut(from, to *host, on bool) {
	l := n.link(from, to)
	if on {
		l.cuts++
	} else {
		l.cuts--
	}
	n.changed(l)
}

// changed is called when a link may have been cut or mended.
func (n *network) changed(l *link) {
	cut := l.cut()
	p := n.pair(l.from, l.to)
	switch {
	case cut && l.cutSince == 0:
		l.cutSince = max(n.w.now, 1)
		p.starve(l)
	case !cut && l.cutSince != 0:
		l.cutSince = 0
		p.mended()
	}
}

// carrierChanged looks at all links of a host.
func (n *network) carrierChanged(h *host) {
	for _, other := range n.w.hosts {
		if other != h {
			n.changed(n.link(h, other))
			n.changed(n.link(other, h))
		}
	}
}

// died: the kernel closes the connections of a process that has ended.
func (n *network) died(p *process) {
	for _, q := range n.pairs {
		if q.a == p.h || q.b == p.h {
			q.died(p, true)
		}
	}
}

// vanished: the power went, so nobody says anything.
func (n *network) vanished(p *process) {
	for _, q := range n.pairs {
		if q.a == p.h || q.b == p.h {
			q.died(p, false)
		}
	}
}

// pair is two hosts and the connections between their workers.
type pair struct {
	n       *network
	a, b    *host
	rnd     *rand.Rand
	conn    *conn
	dialing bool
	pause   time.Duration
}

// conn is the two connections, control and bulk, of two workers. They come and
// go together.
type conn struct {
	p      *pair
	ends   [2]*process // of a and b
	up     [2]bool     // that the end was told of
	broken bool
	out    [2][2]*way // by end that sends, and channel
}

// way is one direction of one connection: what was sent arrives in order, or
// not at all when the connection breaks.
type way struct {
	c       *conn
	side    int
	ch      transport.Channel
	l       *link
	queue   []message
	bytes   int
	last    int64 // arrival of the last message
	pumping bool
}

type message struct {
	at      int64
	kind    uint8
	payload []byte
}

func (p *pair) hostOf(side int) *host {
	if side == 0 {
		return p.a
	}
	return p.b
}

// able tells whether a handshake could succeed now.
func (p *pair) able() bool {
	for side := range 2 {
		q := p.hostOf(side).proc
		if q == nil || q.dead || q.ending || q.mesh == nil || q.mesh.closed || q.stopUntil > p.n.w.now {
			return false
		}
		if p.hostOf(side).clk.thaw(p.n.w.now) > p.n.w.now || !q.mesh.members[p.hostOf(1-side).name] {
			return false
		}
	}
	return !p.n.link(p.a, p.b).cut() && !p.n.link(p.b, p.a).cut()
}

// dial plans the next try to connect, unless one is planned.
func (p *pair) dial(in int64) {
	if p.dialing {
		return
	}
	p.dialing = true
	p.n.w.at(p.n.w.now+in, func() {
		p.dialing = false
		if p.conn != nil && !p.conn.broken && p.conn.ends == [2]*process{p.a.proc, p.b.proc} {
			return
		}
		if !p.able() {
			p.retry()
			return
		}
		p.dialing = true
		rtt := p.n.link(p.a, p.b).delay() + p.n.link(p.b, p.a).delay()
		p.n.w.at(p.n.w.now+2*rtt+span(p.rnd, time.Millisecond, 6*time.Millisecond), func() {
			p.dialing = false
			if p.able() && !chance(p.rnd, most(p.n.link(p.a, p.b).loss)) && !chance(p.rnd, most(p.n.link(p.b, p.a).loss)) {
				p.connect(rtt)
				return
			}
			p.retry()
		})
	})
}

// retry as transport does: 20 ms, doubling to 500 ms.
func (p *pair) retry() {
	p.pause = min(max(2*p.pause, 20*time.Millisecond), 500*time.Millisecond)
	p.dial(int64(p.pause) - p.rnd.Int64N(int64(p.pause)/4))
}

// connect exchanges the hellos.
func (p *pair) connect(rtt int64) {
	ends := [2]*process{p.a.proc, p.b.proc}
	var hellos [2]transport.Hello
	for side, q := range ends {
		q.run(func() { hellos[side] = q.mesh.cfg.Hello() })
	}
	if p.n.w.failure != nil {
		return
	}
	if old := p.conn; old != nil {
		old.breakUp(transport.ErrReplaced, 0)
		p.conn = nil
	}
	if cause := mismatch(hellos[0], hellos[1]); cause != nil {
		for side, q := range ends {
			e := transport.PeerEvent{Peer: p.hostOf(1 - side).name, Hello: hellos[1-side],
				Err: &transport.RefusedError{Peer: p.hostOf(1 - side).name, Err: cause}}
			q.deliver(func() { q.mesh.cfg.Handler.OnPeer(e) })
		}
		p.dial(span(p.rnd, time.Second, 3*time.Second))
		return
	}
	p.pause = 0
	c := &conn{p: p, ends: ends}
	p.conn = c
	for side, q := range ends {
		l := p.n.link(p.hostOf(side), p.hostOf(1-side))
		c.out[side] = [2]*way{{c: c, side: side, ch: transport.Control, l: l}, {c: c, side: side, ch: transport.Bulk, l: l}}
		other := p.hostOf(1 - side).name
		// One side is there half a round trip before the other.
		p.n.w.at(p.n.w.now+int64(side)*rtt/2, func() {
			if c.broken || q.dead {
				return
			}
			c.up[side] = true
			q.mesh.connected(other, ends[1-side], hellos[1-side], time.Duration(rtt))
			q.deliver(func() {
				q.mesh.cfg.Handler.OnPeer(transport.PeerEvent{Peer: other, Up: true, Hello: hellos[1-side]})
			})
		})
	}
}

// mismatch is why two members do not go together.
func mismatch(a, b transport.Hello) error {
	none := [16]byte{}
	switch {
	case a.ClusterName != b.ClusterName:
		return transport.ErrClusterMismatch
	case a.Profile != b.Profile:
		return transport.ErrProfileMismatch
	case a.ClusterID != b.ClusterID && a.ClusterID != none && b.ClusterID != none:
		return transport.ErrClusterIDMismatch
	}
	return nil
}

// breakUp ends a connection; each end that was told of it is told so after a
// while, and what was under way is lost.
func (c *conn) breakUp(why error, in int64) {
	if c.broken {
		return
	}
	c.broken = true
	for side, q := range c.ends {
		if !c.up[side] {
			continue
		}
		c.up[side] = false
		q.at(c.p.n.w.now+in, func() {
			if q.node == nil || q.mesh == nil || q.mesh.closed {
				return
			}
			q.deliver(func() {
				q.mesh.cfg.Handler.OnPeer(transport.PeerEvent{Peer: c.p.hostOf(1 - side).name, Err: why})
			})
		})
	}
	c.p.dial(in + span(c.p.rnd, 20*time.Millisecond, 200*time.Millisecond))
}

// died: one end is no more. Said so or not, the other learns it: by the end of
// the connection, or by the silence.
func (p *pair) died(q *process, told bool) {
	c := p.conn
	if c == nil || c.broken || c.ends[0] != q && c.ends[1] != q {
		p.dial(span(p.rnd, 20*time.Millisecond, 200*time.Millisecond))
		return
	}
	if told && !p.n.link(p.a, p.b).cut() && !p.n.link(p.b, p.a).cut() {
		c.breakUp(errEnded, p.n.link(p.a, p.b).delay())
		return
	}
	p.n.w.at(p.n.w.now+span(p.rnd, idleLimit, idleLimit+300*time.Millisecond), func() { c.breakUp(transport.ErrIdle, 0) })
}

// starve ends the connection when a link stays cut for the idle limit.
func (p *pair) starve(l *link) {
	c, since := p.conn, l.cutSince
	if c == nil || c.broken {
		return
	}
	p.n.w.at(p.n.w.now+span(p.rnd, idleLimit, idleLimit+300*time.Millisecond), func() {
		if l.cutSince == since {
			c.breakUp(transport.ErrIdle, 0)
		}
	})
}

// mended lets what is stuck go on, as retransmission does.
func (p *pair) mended() {
	p.n.w.at(p.n.w.now+span(p.rnd, time.Millisecond, 200*time.Millisecond), func() {
		if c := p.conn; c != nil && !c.broken {
			for _, ways := range c.out {
				ways[0].pump()
				ways[1].pump()
			}
		}
	})
}

// send queues a message that leaves at true time sent.
func (y *way) send(sent int64, kind uint8, payload []byte) error {
	frames, bytes := 1024, 16<<20
	if y.ch == transport.Bulk {
		frames = 64
	}
	if len(y.queue) >= frames || y.bytes+len(payload) > bytes {
		return transport.ErrQueueFull
	}
	d := y.l.delay() + int64(len(payload))*8 // 1 Gbit/s
	for range 5 {
		if !chance(y.l.rnd, most(y.l.loss)) {
			break
		}
		d += int64(200 * time.Millisecond) // it is sent again
	}
	y.last = max(sent+d, y.last+1)
	y.queue = append(y.queue, message{y.last, kind, payload})
	y.bytes += len(payload)
	y.plan()
	return nil
}

func (y *way) plan() {
	if y.pumping || len(y.queue) == 0 {
		return
	}
	y.pumping = true
	y.c.p.n.w.at(y.queue[0].at, func() {
		y.pumping = false
		y.pump()
	})
}

// pump delivers what has arrived, unless the link is cut or the receiver does
// not read.
func (y *way) pump() {
	w := y.c.p.n.w
	to := y.c.ends[1-y.side]
	for len(y.queue) > 0 && !y.c.broken && !to.dead && y.queue[0].at <= w.now {
		if y.l.cut() {
			return // mended goes on
		}
		if wait := max(to.stopUntil, to.h.clk.thaw(w.now)); wait > w.now {
			if !y.pumping {
				y.pumping = true
				w.at(wait+to.sched.Int64N(int64(time.Millisecond)), func() {
					y.pumping = false
					y.pump()
				})
			}
			return
		}
		m := y.queue[0]
		y.queue = y.queue[1:]
		y.bytes -= len(m.payload)
		if !y.c.up[1-y.side] { // it will be in a moment
			y.queue = append([]message{m}, y.queue...)
			y.bytes += len(m.payload)
			if !y.pumping {
				y.pumping = true
				w.at(w.now+int64(time.Millisecond), func() {
					y.pumping = false
					y.pump()
				})
			}
			return
		}
		name := y.c.p.hostOf(y.side).name
		to.deliver(func() { to.mesh.cfg.Handler.OnMessage(name, y.ch, m.kind, m.payload) })
	}
	if !y.c.broken && !to.dead {
		y.plan()
	}
}
