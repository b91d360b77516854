package transport

import (
	"context"
	"crypto/ed25519"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// silenceNs without a beat makes the next one a sign that the peer is back,
// which ends waiting for the next dial.
const silenceNs = int64(500e6)

// peer is all that is known of one other member.
type peer struct {
	t      *Transport
	name   string
	key    ed25519.PublicKey
	weDial bool // our name is the lower one

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // dial loops and served connections

	// installMu makes installs, ends and their events one sequence; Send and
	// SendBeat never take it. ctx ends only under it.
	installMu sync.Mutex
	control   atomic.Pointer[conn]
	bulk      atomic.Pointer[conn]
	hello     atomic.Pointer[Hello]
	wakeDial  chan struct{} // control: a sign of life while waiting
	wakeBulk  chan struct{} // control is up

	beatTo atomic.Pointer[session] // what SendBeat seals under

	sendMu  sync.Mutex // paths, their sockaddrs, scratch
	paths   []*path
	scratch sealScratch

	rtt       rttMeter
	lastError atomic.Pointer[string]

	connects, refusals, datagramsIn, datagramsOut atomic.Uint64
	replays, authFailures, noSession, queueFull   atomic.Uint64
	sendErrors                                    sendErrors
	lastReceived                                  atomic.Int64
	arrivals                                      []arrival // by own address, fixed length
}

// path is one address of a peer and the own socket that speaks to it.
type path struct {
	addr        netip.AddrPort
	to          unix.Sockaddr
	socket      *udpSocket // nil when no own address has its family
	local       int        // index of the own address, -1 for none
	out, errors uint64     // under sendMu
}

type arrival struct {
	in   atomic.Uint64
	last atomic.Int64
}

func newPeer(t *Transport, m Member) *peer {
	p := &peer{t: t, name: m.Name, key: m.PublicKey, weDial: t.cfg.Self < m.Name,
		wakeDial: make(chan struct{}, 1), wakeBulk: make(chan struct{}, 1), arrivals: make([]arrival, len(t.own))}
	p.ctx, p.cancel = context.WithCancelCause(t.ctx)
	p.setAddresses(m.Addresses)
	return p
}

// setAddresses replaces the paths; those that stay keep their counters.
func (p *peer) setAddresses(addrs []netip.AddrPort) {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	old := map[netip.AddrPort]*path{}
	for _, pa := range p.paths {
		old[pa.addr] = pa
	}
	p.paths = nil
	for j, a := range addrs {
		pa := &path{addr: a, to: sockaddr(a), local: pair(p.t.own, a.Addr(), j)}
		if pa.local >= 0 {
			pa.socket = p.t.sockets[pa.local]
		}
		if o := old[a]; o != nil {
			pa.out, pa.errors = o.out, o.errors
		}
		p.paths = append(p.paths, pa)
	}
}

// start runs the dial loops, if dialling is ours.
func (p *peer) start() {
	if p.weDial {
		p.wg.Go(func() { p.dialLoop(Control) })
		p.wg.Go(func() { p.dialLoop(Bulk) })
	}
}

// stop ends everything of the peer and waits for it.
func (p *peer) stop(why error) {
	p.installMu.Lock()
	p.cancel(why)
	p.installMu.Unlock()
	p.wg.Wait()
	p.beatTo.Store(nil)
	p.t.sessions.drop(p)
}

func (p *peer) slot(ch Channel) *atomic.Pointer[conn] {
	if ch == Bulk {
		return &p.bulk
	}
	return &p.control
}

// serve installs a connection and works it until it ends.
func (p *peer) serve(c *conn) error {
	if err := p.install(c); err != nil {
		c.close(err)
		return err
	}
	defer p.wg.Done()
	stop := context.AfterFunc(p.ctx, func() { c.close(context.Cause(p.ctx)) })
	defer stop()
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	c.read()
	<-written
	p.uninstall(c)
	return c.err
}

// install makes c the peer's connection of its channel; an older one has
// handed on its last message before.
func (p *peer) install(c *conn) error {
	p.installMu.Lock()
	defer p.installMu.Unlock()
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	if c.channel == Bulk {
		ctl := p.control.Load()
		if ctl == nil || !ctl.hello.sameRun(c.hello) {
			return errNoControl
		}
	} else if bulk := p.bulk.Load(); bulk != nil && !bulk.hello.sameRun(c.hello) {
		p.end(bulk, ErrReplaced)
	}
	if old := p.slot(c.channel).Load(); old != nil {
		p.end(old, ErrReplaced)
	}
	p.wg.Add(1)
	p.slot(c.channel).Store(c)
	if c.channel == Bulk {
		return nil
	}
	// The other side can open under this session since before it told us so.
	p.beatTo.Store(c.session)
	if !p.weDial {
		p.t.sessions.agree(c.session, clock.Boottime())
	}
	p.hello.Store(&c.hello)
	p.connects.Add(1)
	p.lastError.Store(nil)
	p.t.log.Info("peer connected", "peer", p.name, "remote", c.remote, "binary", c.hello.Binary)
	p.t.cfg.Handler.OnPeer(PeerEvent{Peer: p.name, Up: true, Hello: c.hello})
	select {
	case p.wakeBulk <- struct{}{}:
	default:
	}
	return nil
}

// sameRun says whether two hellos are of one run of the same worker.
func (h Hello) sameRun(other Hello) bool {
	return h.RaftID == other.RaftID && h.Incarnation == other.Incarnation
}

// end closes an installed connection, waits for its last message and reports
// its end. The caller holds installMu.
func (p *peer) end(c *conn, why error) {
	c.close(why)
	<-c.readDone
	if !p.slot(c.channel).CompareAndSwap(c, nil) || c.channel == Bulk {
		return
	}
	p.t.log.Info("peer disconnected", "peer", p.name, "remote", c.remote, "err", c.err)
	p.t.cfg.Handler.OnPeer(PeerEvent{Peer: p.name, Hello: c.hello, Err: c.err})
}

func (p *peer) uninstall(c *conn) {
	p.installMu.Lock()
	defer p.installMu.Unlock()
	if p.slot(c.channel).Load() == c {
		p.end(c, c.err)
	}
}

// refused reports a refusal. An established connection is no concern of it.
func (p *peer) refused(theirs Hello, err *RefusedError) {
	p.refusals.Add(1)
	text := err.Error()
	p.lastError.Store(&text)
	p.t.quiet.line(clock.Boottime(), levelWarn, "refused", p.name+": "+text, "peer refused", "peer", p.name, "err", err)
	p.installMu.Lock()
	defer p.installMu.Unlock()
	if p.ctx.Err() == nil && p.control.Load() == nil {
		p.t.cfg.Handler.OnPeer(PeerEvent{Peer: p.name, Hello: theirs, Err: err})
	}
}

// sendBeat seals for and sends on every path.
func (p *peer) sendBeat(payload []byte) int {
	s := p.beatTo.Load()
	if s == nil {
		p.noSession.Add(1)
		return 0
	}
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	sent := 0
	for _, pa := range p.paths {
		// Each path has its own counter: the copies are different datagrams,
		// and the receiver learns which paths are alive.
		if p.sendOn(pa, s.seal(&p.scratch, payload)) {
			sent++
		}
	}
	return sent
}

func (p *peer) sendNote(note []byte) int {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	sent := 0
	for _, pa := range p.paths {
		if p.sendOn(pa, note) {
			sent++
		}
	}
	return sent
}

func (p *peer) sendOn(pa *path, datagram []byte) bool {
	err := errNoFamily
	if pa.socket != nil {
		err = pa.socket.send(pa.to, datagram)
	}
	if err != nil {
		pa.errors++
		p.sendErrors.count(err)
		return false
	}
	pa.out++
	p.datagramsOut.Add(1)
	return true
}

// heard notes an authenticated datagram.
func (p *peer) heard(own int, now int64) {
	p.datagramsIn.Add(1)
	p.arrivals[own].in.Add(1)
	p.arrivals[own].last.Store(now)
	before := p.lastReceived.Swap(now)
	if now-before > silenceNs && p.control.Load() == nil {
		select {
		case p.wakeDial <- struct{}{}:
		default:
		}
	}
}

const rttSamples = 128

// rttMeter smooths round trips (RFC 6298: an eighth of each new one) and keeps
// the worst of the last 128.
type rttMeter struct {
	mu      sync.Mutex
	smooth  time.Duration
	samples [rttSamples]time.Duration
	next    int
}

func (m *rttMeter) add(rtt time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.smooth == 0 {
		m.smooth = rtt
	}
	m.smooth += (rtt - m.smooth) / 8
	m.samples[m.next] = rtt
	m.next = (m.next + 1) % rttSamples
}

func (m *rttMeter) values() (smooth, worst time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.samples {
		worst = max(worst, s)
	}
	return m.smooth, worst
}
