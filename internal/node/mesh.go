package node

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/internal/transport"
)

// Kinds of messages on the control connection.
const (
	kindRaft  uint8 = 1 // cluster, incarnation, raft message
	kindFirst uint8 = 2 // first configuration
	kindAsk   uint8 = 3 // operation for the leader, JSON
	kindReply uint8 = 4 // its answer, JSON

	kindWrites  uint8 = 5 // requests to the buckets, for the leader
	kindWritten uint8 = 6 // their answers
	kindHash    uint8 = 7 // hash of the state at a checkpoint, for the leader
	kindRejoin  uint8 = 8 // its verdict on a state that differs
	kindShip    uint8 = 9 // a snapshot on its way; pieces of it on the bulk connection
)

// clusterSize is the length of a cluster id, which stands before every beat.
const clusterSize = 16

// raftHeader is the cluster id and the incarnation of the sender: raft frames
// of another cluster or of an incarnation that is over are dropped (F1a, E2).
const raftHeader = clusterSize + 8

// pingInterval is the distance of the pings that measure round trips; beats
// tell much sooner when a member is gone.
const pingInterval = 300 * time.Millisecond

func meshMembers(c *config.Config) []transport.Member {
	members := make([]transport.Member, 0, len(c.Members))
	for _, m := range c.Members {
		members = append(members, transport.Member{Name: m.Name, PublicKey: m.PublicKey[:], Addresses: m.Addresses})
	}
	return members
}

func (w *worker) openMesh() error {
	var err error
	w.mesh, err = w.host.Mesh(transport.Config{
		Self: w.selfName, Key: w.key, Members: meshMembers(w.cfg), Hello: w.hello, Handler: inlet{w},
		NoteSize: lease.NoteSize, Logger: w.log, PingInterval: pingInterval,
	})
	return err
}

// inlet passes what arrives on to the loop; it runs on transport's goroutines.
type inlet struct{ w *worker }

var _ transport.Handler = inlet{}

func (i inlet) OnMessage(name string, _ transport.Channel, kind uint8, payload []byte) {
	i.w.post(func(now int64) { i.w.message(now, name, kind, payload) })
}

func (i inlet) OnBeat(name string, _ int, payload []byte, _ int64) {
	if len(payload) < clusterSize {
		i.w.limited.Warn("beat refused", "member", name, "bytes", len(payload))
		return
	}
	cluster := [clusterSize]byte(payload)
	b, err := transport.DecodeBeat(payload[clusterSize:])
	if err != nil {
		i.w.limited.Warn("beat refused", "member", name, "error", err)
		return
	}
	// The loop reads the clock again when it gets to the beat: later than
	// recvmsg returned, so a promise counted from there is never too short (G8).
	i.w.post(func(now int64) {
		if cluster == i.w.notes.cluster {
			i.w.receiveBeat(now, name, b)
		}
	})
}

func (i inlet) OnNote(raw []byte, _ netip.AddrPort) {
	i.w.post(func(now int64) { i.w.receiveNote(now, raw) })
}

// OnPeer must not wait: the loop itself waits for transport when the members
// change. What finds the inbox full is taken in the next turn, and nothing that
// comes later goes before it.
func (i inlet) OnPeer(e transport.PeerEvent) {
	w := i.w
	w.eventMu.Lock()
	defer w.eventMu.Unlock()
	if len(w.peerEvents) > 0 || !w.post(func(now int64) { w.peerEvent(now, e) }) {
		w.peerEvents = append(w.peerEvents, e)
	}
}

// takePeerEvents takes those that found the inbox full.
func (w *worker) takePeerEvents(now int64) {
	w.eventMu.Lock()
	events := w.peerEvents
	w.peerEvents = nil
	w.eventMu.Unlock()
	for _, e := range events {
		w.peerEvent(now, e)
	}
}

// peerEvent takes the start or end of a control connection.
func (w *worker) peerEvent(now int64, e transport.PeerEvent) {
	p, ok := w.peers[e.Peer]
	if !ok {
		return
	}
	was := p.connected
	p.connected = e.Up
	p.foreign = !e.Up && errors.Is(e.Err, transport.ErrClusterIDMismatch)
	if !e.Up {
		if was { // else it was refused, which transport says, and not too often
			w.log.Info("control connection down", "member", e.Peer, "error", e.Err)
		}
		return
	}
	w.log.Info("control connection up", "member", e.Peer, "version", e.Hello.Binary)
	if p.hello.RaftID != e.Hello.RaftID || !p.helloed {
		p.since = now
	}
	p.hello, p.helloed = e.Hello, true
	if w.raft == nil {
		return
	}
	w.shipActs(now, w.shipping.sender.Connected(now, p.id()))
	w.members.next = 0
	w.beatNow = true // the first beats end the silence of a peer that was away
	if p.raftID != 0 && e.Hello.RaftID != p.raftID {
		w.log.Warn("member has a new data directory: it does not vote until it is filled (F2)", "member", e.Peer)
	}
	w.giveFirst(e.Peer)
}

func (w *worker) message(now int64, name string, kind uint8, payload []byte) {
	switch kind {
	case kindRaft:
		w.takeRaft(now, name, payload)
	case kindFirst:
		w.takeFirst(now, name, payload)
	case kindAsk:
		w.takeAsk(now, name, payload)
	case kindReply:
		w.takeReply(now, name, payload)
	case kindWrites:
		w.takeWrites(now, name, payload)
	case kindWritten:
		w.takeWritten(now, name, payload)
	case kindHash:
		w.takeHash(name, payload)
	case kindRejoin:
		w.takeRejoin(now, name, payload)
	case kindShip:
		w.takeShip(now, name, payload)
	default:
		w.limited.Warn("message of unknown kind", "member", name, "kind", kind)
	}
}

func (w *worker) send(name string, kind uint8, payload []byte) error {
	return w.mesh.Send(name, transport.Control, kind, payload)
}

func (w *worker) sendRaft(p *peer, data []byte) {
	frame := make([]byte, 0, raftHeader+len(data))
	frame = append(frame, w.notes.cluster[:]...)
	frame = binary.BigEndian.AppendUint64(frame, w.inc)
	frame = append(frame, data...)
	if err := w.send(p.member.Name, kindRaft, frame); err != nil {
		w.raft.Unreachable(p.id())
	}
}

func (w *worker) takeRaft(now int64, name string, frame []byte) {
	p := w.peers[name]
	if w.raft == nil || p == nil || p.id() == 0 || len(frame) < raftHeader || [clusterSize]byte(frame) != w.notes.cluster {
		return
	}
	incarnation := binary.BigEndian.Uint64(frame[clusterSize:])
	if err := w.raft.Step(now, p.id(), incarnation, frame[raftHeader:]); err != nil {
		w.limited.Warn("raft message refused", "member", name, "error", err)
	}
}
