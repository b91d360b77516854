package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/transport"
)

var errEnded = errors.New("connection closed by the peer")

// mesh is the transport of one worker.
type mesh struct {
	p       *process
	cfg     transport.Config
	names   []string // of the other members, sorted
	members map[string]bool
	closed  bool
	peers   map[string]*meshPeer
	notes   map[string]int64 // local time at which a note passed, as in transport
}

type meshPeer struct {
	session *process // the worker at the other end for which there are beat keys
	hello   transport.Hello
	rtt     time.Duration
	heard   int64 // local
}

// join makes the mesh of a worker that has just started.
func (n *network) join(p *process, c transport.Config) *mesh {
	m := &mesh{p: p, cfg: c, peers: map[string]*meshPeer{}, notes: map[string]int64{}}
	m.setMembers(c.Members)
	p.mesh = m
	for _, q := range n.pairs {
		if q.a == p.h || q.b == p.h {
			q.pause = 0
			q.dial(span(q.rnd, 2*time.Millisecond, 40*time.Millisecond))
		}
	}
	return m
}

func (m *mesh) setMembers(list []transport.Member) {
	m.names, m.members = nil, map[string]bool{}
	for _, o := range list {
		if o.Name == m.cfg.Self {
			continue
		}
		m.names = append(m.names, o.Name)
		m.members[o.Name] = true
		if m.peers[o.Name] == nil {
			m.peers[o.Name] = &meshPeer{}
		}
	}
	slices.Sort(m.names)
}

func (m *mesh) connected(name string, other *process, h transport.Hello, rtt time.Duration) {
	p := m.peers[name]
	if p == nil {
		return
	}
	p.session, p.hello = other, h
	p.rtt = max(rtt, p.rtt/2)
}

// conn is the connection to a member, if this side knows of one.
func (m *mesh) conn(name string) (c *conn, side int) {
	h := m.p.w.hostNamed(name)
	if h == nil {
		return nil, 0
	}
	pair := m.p.w.net.pair(m.p.h, h)
	if pair.b == m.p.h {
		side = 1
	}
	if c := pair.conn; c != nil && c.up[side] && c.ends[side] == m.p {
		return c, side
	}
	return nil, 0
}

// Send implements node.Mesh.
func (m *mesh) Send(peer string, ch transport.Channel, kind uint8, payload []byte) error {
	if m.closed {
		return transport.ErrClosed
	}
	if !m.members[peer] {
		return transport.ErrUnknownPeer
	}
	limit := transport.MaxControlPayload
	if ch == transport.Bulk {
		limit = transport.MaxBulkPayload
	}
	if len(payload) > limit {
		return transport.ErrTooLarge
	}
	c, side := m.conn(peer)
	if c == nil {
		return transport.ErrNotConnected
	}
	m.p.w.check.frameLeaves(m.p, m.p.cursor, kind, payload)
	y := c.out[side][ch-transport.Control]
	sent := m.p.cursor
	if sent <= m.p.w.now+int64(time.Millisecond) {
		return y.send(sent, kind, payload)
	}
	m.p.effect(func() {
		if !c.broken {
			// Nobody is told of a queue that is full at that instant.
			_ = y.send(sent, kind, payload)
		}
	})
	return nil
}

// SendBeat implements node.Mesh.
func (m *mesh) SendBeat(peer string, payload []byte) int {
	p := m.peers[peer]
	if m.closed || p == nil || !m.members[peer] || p.session == nil {
		return 0
	}
	from, to, session, sent := m.p, p.session.h, p.session, m.p.cursor
	for range m.p.w.opt.Paths {
		m.p.w.net.datagram(from.h, to, sent, func() {
			if from.dead && from.diedAt < sent || to.proc != session {
				return
			}
			session.receive(func() { session.mesh.takeBeat(from.h.name, payload) })
		})
	}
	return m.p.w.opt.Paths
}

func (m *mesh) takeBeat(from string, payload []byte) {
	p := m.peers[from]
	if m.closed || p == nil || !m.members[from] {
		return
	}
	local := m.p.h.clk.local(m.p.w.now)
	if local-p.heard > int64(500*time.Millisecond) {
		if c, _ := m.conn(from); c == nil { // a sign of life ends the wait for the next dial
			m.p.w.net.pair(m.p.h, m.p.w.hostNamed(from)).pause = 0
		}
	}
	p.heard = local
	m.cfg.Handler.OnBeat(from, 0, slices.Clone(payload), local)
}

// SendNote implements node.Mesh.
func (m *mesh) SendNote(note []byte) int {
	if m.closed {
		return 0
	}
	raw := slices.Clone(note)
	sent, p := m.p.cursor, m.p
	p.effect(func() { p.w.check.noteLeaves(p.h, raw) })
	for _, name := range m.names {
		if to := p.w.hostNamed(name); to != nil {
			p.effect(func() { p.w.net.note(p.h, to, sent, raw) })
		}
	}
	return len(m.names)
}

// takeNote passes a note once in 2 s, as transport does.
func (m *mesh) takeNote(from *host, raw []byte) {
	if m.closed {
		return
	}
	local := m.p.h.clk.local(m.p.w.now)
	if first, known := m.notes[string(raw)]; known && local-first < int64(2*time.Second) {
		return
	}
	m.notes[string(raw)] = local
	m.cfg.Handler.OnNote(slices.Clone(raw), from.addr)
}

// SetMembers implements node.Mesh.
func (m *mesh) SetMembers(list []transport.Member) error {
	before := m.members
	m.setMembers(list)
	for _, h := range m.p.w.hosts {
		if h == m.p.h || before[h.name] == m.members[h.name] {
			continue
		}
		pair := m.p.w.net.pair(m.p.h, h)
		if m.members[h.name] {
			pair.dial(span(pair.rnd, time.Millisecond, 20*time.Millisecond))
		} else if c := pair.conn; c != nil {
			m.p.effect(func() { c.breakUp(transport.ErrRemoved, 0) })
		}
	}
	return nil
}

// RTT implements node.Mesh.
func (m *mesh) RTT(peer string) time.Duration {
	if p := m.peers[peer]; p != nil {
		return p.rtt
	}
	return 0
}

// RTTMax implements node.Mesh.
func (m *mesh) RTTMax(peer string) time.Duration { return 2 * m.RTT(peer) }

// Stats implements node.Mesh.
func (m *mesh) Stats() transport.Stats {
	var s transport.Stats
	for _, name := range m.names {
		p := m.peers[name]
		c, _ := m.conn(name)
		s.Peers = append(s.Peers, transport.PeerStats{Peer: name, Connected: c != nil, BulkConnected: c != nil, RTT: p.rtt, RTTMax: 2 * p.rtt, LastReceivedNs: p.heard})
	}
	return s
}

// Close implements node.Mesh.
func (m *mesh) Close() error {
	m.closed = true
	return nil
}
