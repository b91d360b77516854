package quorum

import (
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// outgoing is a message that leaves at the end of Process, with the bytes of
// data in its entries.
type outgoing struct {
	m     *raftpb.Message
	bytes int
}

// send puts a message into the outbox.
func (d *Driver) send(now int64, m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		if d.stuck(now) {
			return // E8
		}
		if p := d.peer(m.GetTo()); p.asked == 0 {
			p.asked = now
		}
	case raftpb.MsgSnap:
		d.ship(m)
		return
	case raftpb.MsgReadIndexResp:
		d.readDone()
	}
	bytes := 0
	for _, e := range m.GetEntries() {
		bytes += len(e.GetData())
	}
	// The last message to the same node may take this one in.
	for i := len(d.outbox) - 1; i >= 0; i-- {
		if last := &d.outbox[i]; last.m.GetTo() == m.GetTo() {
			if join(last.m, m, last.bytes+bytes) {
				last.bytes += bytes
				return
			}
			break
		}
	}
	d.outbox = append(d.outbox, outgoing{m: m, bytes: bytes})
}

// join makes one message of two that follow each other, if they have the
// meaning of one. raft writes an append for each proposal and an answer for
// each append, and a follower cannot tell: its answer names the last index, and
// that answers all before it.
func join(a, b *raftpb.Message, bytes int) bool {
	if a.GetType() != b.GetType() || a.GetTerm() != b.GetTerm() {
		return false
	}
	switch a.GetType() {
	case raftpb.MsgApp:
		if b.GetIndex() != a.GetIndex()+uint64(len(a.GetEntries())) || len(b.GetEntries()) > 0 && bytes > maxBytesApp {
			return false
		}
		// raft owns what lies behind the entries of a.
		a.Entries = append(a.Entries[:len(a.Entries):len(a.Entries)], b.GetEntries()...)
		a.Commit = new(max(a.GetCommit(), b.GetCommit()))
		return true
	case raftpb.MsgAppResp:
		if a.GetReject() || b.GetReject() {
			return false
		}
		a.Index = new(max(a.GetIndex(), b.GetIndex()))
		return true
	}
	return false
}

// ship asks the owner to bring a snapshot to a node.
func (d *Driver) ship(m *raftpb.Message) {
	d.shipping = append(d.shipping, SnapshotOut{
		To: m.GetTo(), Index: m.GetSnapshot().GetMetadata().GetIndex(), Message: encodeFrame(m),
	})
}

// frames empties the outbox.
func (d *Driver) frames() []Message {
	if len(d.outbox) == 0 {
		return nil
	}
	out := make([]Message, len(d.outbox))
	for i, o := range d.outbox {
		out[i] = Message{To: o.m.GetTo(), Data: encodeFrame(o.m)}
	}
	clear(d.outbox)
	d.outbox = d.outbox[:0]
	return out
}

func encodeFrame(m *raftpb.Message) []byte {
	data, err := proto.Marshal(m)
	invariant.Check(err == nil && len(data) <= MaxFrame, "message %s of %d bytes: %v", m.GetType(), len(data), err)
	return data
}
