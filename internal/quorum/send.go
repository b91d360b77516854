package quorum

import (
	"time"

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
				d.tell(m)
				return
			}
			break
		}
	}
	if d.holdNotice(now, m) {
		return
	}
	d.tell(m)
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

// noticeLimit is how long the bare news that entries of data are committed may
// wait for the next append to the same node, which carries it too. Nobody but
// readers of that node waits for it, and it costs as much as an append.
const noticeLimit = 2 * time.Millisecond

// notice is such a message that waits.
type notice struct {
	m  *raftpb.Message
	at int64
}

// holdNotice takes a message that says nothing but how far the log is
// committed, if what it says is of data alone: an Assign is told at once.
func (d *Driver) holdNotice(now int64, m *raftpb.Message) bool {
	if m.GetType() != raftpb.MsgApp || len(m.GetEntries()) > 0 || m.GetIndex() < m.GetCommit() {
		return false
	}
	if p := d.peer(m.GetTo()); m.GetCommit() <= p.told || p.told < d.tail.lastControl {
		return false
	}
	n := notice{m: m, at: now}
	if old, ok := d.held[m.GetTo()]; ok {
		n.at = old.at // it waits no longer because there is more to tell
	}
	d.held[m.GetTo()] = n
	return true
}

// tell notes that an append leaves: it says what a notice that waits says, or
// more.
func (d *Driver) tell(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgApp {
		return
	}
	delete(d.held, m.GetTo())
	p := d.peer(m.GetTo())
	p.told = max(p.told, min(m.GetCommit(), m.GetIndex()+uint64(len(m.GetEntries()))))
}

// tellHeld sends the notices that have waited long enough.
func (d *Driver) tellHeld(now int64) {
	for to, n := range d.held {
		if d.view().role != leader || n.m.GetTerm() != d.view().term {
			delete(d.held, to)
			continue
		}
		if now-n.at < int64(noticeLimit) {
			continue
		}
		d.tell(n.m)
		d.outbox = append(d.outbox, outgoing{m: n.m})
	}
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
