package transport

import (
	"net/netip"
	"time"
)

// Stats is a snapshot of the counters since start.
type Stats struct {
	Peers []PeerStats // sorted by name

	Refused          uint64 // connections closed at accept, over a cap
	HandshakesFailed uint64 // TLS or hello not completed
	Malformed        uint64 // datagrams of no known form or over 1,400 bytes
	UnknownSession   uint64 // beat datagrams under no session of ours
	NotesIn          uint64 // notes handed to the handler
	NotesDuplicate   uint64
	NotesLimited     uint64 // over the rate of their source or of all
	NotesSize        uint64 // wrong size
}

// PeerStats is one peer's part of Stats.
type PeerStats struct {
	Peer          string
	Connected     bool // control connection up
	BulkConnected bool
	Address       netip.AddrPort // remote end of the control connection
	RTT           time.Duration
	RTTMax        time.Duration
	Connects      uint64 // control connections that came up
	Refusals      uint64 // hellos refused, by either side
	LastError     string // why connecting failed last; empty once connected

	DatagramsIn    uint64 // authenticated and new
	DatagramsOut   uint64 // taken by the kernel
	ReplayDrops    uint64 // authentic but seen before or older than the window
	AuthFailures   uint64 // tag wrong
	NoSession      uint64 // SendBeat without session
	SendErrors     SendErrors
	QueueFull      uint64
	LastReceivedNs int64 // CLOCK_BOOTTIME of the newest authenticated datagram
	Paths          []PathStats
}

// PathStats is one path of a peer. Out and Errors speak of the peer's address
// of this index, In and LastReceivedNs of what came to the own address of it.
type PathStats struct {
	Address        netip.AddrPort // the peer's; zero when it has fewer than we
	In             uint64
	LastReceivedNs int64
	Out            uint64
	Errors         uint64
}

// SendErrors counts datagrams that the kernel did not take, by cause.
type SendErrors struct {
	Denied      uint64 // EPERM, EACCES: a packet filter
	Unreachable uint64 // no route, network or link down
	Full        uint64 // EAGAIN, ENOBUFS: queue full
	Address     uint64 // own address not there, or no own socket of that family
	Other       uint64
}

// Stats returns the counters.
func (t *Transport) Stats() Stats {
	s := Stats{Refused: t.refusedConns.Load(), HandshakesFailed: t.handshakesFailed.Load(), Malformed: t.malformed.Load(),
		UnknownSession: t.unknownSession.Load(), NotesIn: t.notesIn.Load(), NotesDuplicate: t.notesDuplicate.Load(),
		NotesLimited: t.notesLimited.Load(), NotesSize: t.notesSize.Load()}
	for _, p := range t.roster.Load().list {
		s.Peers = append(s.Peers, p.stats())
	}
	return s
}

func (p *peer) stats() PeerStats {
	s := PeerStats{Peer: p.name, BulkConnected: p.bulk.Load() != nil,
		Connects: p.connects.Load(), Refusals: p.refusals.Load(),
		DatagramsIn: p.datagramsIn.Load(), DatagramsOut: p.datagramsOut.Load(), ReplayDrops: p.replays.Load(),
		AuthFailures: p.authFailures.Load(), NoSession: p.noSession.Load(), SendErrors: p.sendErrors.snapshot(),
		QueueFull: p.queueFull.Load(), LastReceivedNs: p.lastReceived.Load()}
	s.RTT, s.RTTMax = p.rtt.values()
	if c := p.control.Load(); c != nil {
		s.Connected, s.Address = true, c.remote
	}
	if text := p.lastError.Load(); text != nil {
		s.LastError = *text
	}
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	s.Paths = make([]PathStats, max(len(p.paths), len(p.arrivals)))
	for i, pa := range p.paths {
		s.Paths[i] = PathStats{Address: pa.addr, Out: pa.out, Errors: pa.errors}
	}
	for i := range p.arrivals {
		s.Paths[i].In, s.Paths[i].LastReceivedNs = p.arrivals[i].in.Load(), p.arrivals[i].last.Load()
	}
	return s
}
