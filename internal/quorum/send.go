package quorum

import (
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// outgoing is a message that leaves at the end of Process.
type outgoing struct {
	m     *raftpb.Message
	bytes int  // of data in its entries
	own   bool // the array of its entries is not raft's
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
			if last.join(m, bytes) {
				return
			}
			break
		}
	}
	d.outbox = append(d.outbox, outgoing{m: m, bytes: bytes})
}

// join puts a message into the one before it, if the two have the meaning of
// one. raft writes an append for each proposal and an answer for each append,
// and neither side can tell: an answer names the last index, and that answers
// all before it. bytes is the data of m.
func (o *outgoing) join(m *raftpb.Message, bytes int) bool {
	if o.m.GetType() != m.GetType() || o.m.GetTerm() != m.GetTerm() {
		return false
	}
	switch m.GetType() {
	case raftpb.MsgApp:
		have := o.m.GetEntries()
		if m.GetIndex() != o.m.GetIndex()+uint64(len(have)) || len(m.GetEntries()) > 0 && o.bytes+bytes > maxBytesApp {
			return false
		}
		if !o.own && len(m.GetEntries()) > 0 {
			have = have[:len(have):len(have)]
			o.own = true
		}
		o.m.Entries = append(have, m.GetEntries()...)
		o.m.Commit = new(max(o.m.GetCommit(), m.GetCommit()))
		o.bytes += bytes
		return true
	case raftpb.MsgAppResp:
		if o.m.GetReject() || m.GetReject() {
			return false
		}
		o.m.Index = new(max(o.m.GetIndex(), m.GetIndex()))
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
