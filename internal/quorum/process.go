package quorum

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/storage"
)

// Message is a raft message to another node, to be sent with this node's
// incarnation. It may be lost; then call Unreachable.
type Message struct {
	To   uint64 // raft id
	Data []byte
}

// Entry is a committed entry to apply.
type Entry struct {
	Index, Term uint64
	Data        []byte // command, or the context of a configuration change; may be empty
	// Conf is the configuration that counts from this entry on, nil unless
	// the entry changes it. Apply it with storage.State.ApplyConf, then call
	// SetMembers.
	Conf *storage.Conf
}

// Output is what a turn leaves to do, before the Driver is called again and in
// this order: replace the state if Restored is set, apply every entry of
// Committed, send every message and bring every snapshot on its way.
type Output struct {
	Restored  *Restored // Committed goes on behind its index
	Committed []Entry
	Messages  []Message
	Snapshots []SnapshotOut
	Reads     []Read // answers; their index may not be applied yet
	// Changed: leader, term or this node's role is another than in the last
	// Output that said so.
	Changed bool
}

// Process hands out what is to be done, and gives to the log what is to be
// stored: messages that depend on a write wait for it. An error is final: the
// log failed, and the owner closes its gate and exits.
func (d *Driver) Process(now int64) (Output, error) {
	d.at(now)
	if d.failed != nil {
		return Output{}, d.failed
	}
	began := d.lead(now)
	var out Output
	for d.hasRoom() && d.rn.HasReady() {
		rd := d.rn.Ready()
		d.answered(rd.ReadStates, &out)
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				d.save(now, m, &out)
			case raft.LocalApplyThread:
				if err := d.apply(now, m, &out); err != nil {
					d.failed = err
					return Output{}, err
				}
			default:
				if began {
					joinFirst(m, rd.Entries)
				}
				d.send(now, m)
			}
		}
		began = false
	}
	d.keepConf(now)
	d.tellHeld(now)
	out.Messages = d.frames()
	out.Snapshots, d.shipping = d.shipping, nil
	if v := d.view(); v.role != d.reported.role || v.term != d.reported.term || v.lead != d.reported.lead {
		d.reported = v
		out.Changed = true
	}
	return out, nil
}

// hasRoom reports whether the log may be given more: with a full queue it would
// block the owner's loop.
func (d *Driver) hasRoom() bool { return len(d.writes) < maxWrites && d.writing < maxWriting }

// lead calls OnLead once for each leadership, before the first entry of it
// leaves (E5). It reports whether this is that moment.
func (d *Driver) lead(now int64) bool {
	if !d.began {
		return false
	}
	d.began = false
	if err := d.propose(now, d.cfg.OnLead(now)); err != nil {
		d.log.Warn("first proposals of a new leader refused", "err", err)
	}
	return true
}

// joinFirst puts the entries a new leader proposed into the append that
// carries its empty entry (E5). raft has already built that message, and would
// send the rest only after its answer, a round trip and a sync later. A
// follower cannot tell the two apart, and its answer names the last index.
func joinFirst(m *raftpb.Message, stored []*raftpb.Entry) {
	if m.GetType() != raftpb.MsgApp || len(m.GetEntries()) == 0 || len(stored) == 0 {
		return
	}
	last := m.GetEntries()[len(m.GetEntries())-1].GetIndex()
	for _, e := range stored {
		if e.GetIndex() == last+1 {
			m.Entries = append(m.Entries[:len(m.Entries):len(m.Entries)], e)
			last++
		}
	}
}

// save gives a change to the log. What must wait for it waits in writes.
func (d *Driver) save(now int64, m *raftpb.Message, out *Output) {
	snap := m.GetSnapshot()
	if snap != nil {
		d.restore(snap, out)
	}
	var hs *raftpb.HardState
	if m.Term != nil {
		hs = &raftpb.HardState{Term: new(m.GetTerm()), Vote: new(m.GetVote()), Commit: new(m.GetCommit())}
	}
	d.tail.store(m.GetEntries())
	sync := snap != nil || len(m.GetEntries()) > 0 || hs != nil && (hs.GetTerm() != d.stored.term || hs.GetVote() != d.stored.vote)
	if !sync {
		// Only the commit index moved, or nothing: a commit index that is lost
		// is learned again, so nobody waits for a disk because of it.
		if hs != nil {
			d.cfg.Log.KeepCommit(hs.GetCommit())
		}
		if n := len(d.writes); n > 0 {
			d.writes[n-1].responses = append(d.writes[n-1].responses, m.GetResponses()...)
			return
		}
		d.respond(now, m.GetResponses())
		return
	}
	if hs != nil {
		d.stored = view{term: hs.GetTerm(), vote: hs.GetVote()}
	}
	d.write(now, hs, m.GetEntries(), m.GetResponses())
}

func (d *Driver) write(now int64, hs *raftpb.HardState, entries []*raftpb.Entry, responses []*raftpb.Message) {
	d.token++
	token := d.token
	w := write{token: token, since: now, responses: responses}
	for _, e := range entries {
		w.bytes += len(e.GetData())
	}
	d.writing += w.bytes
	d.writes = append(d.writes, w)
	// The channel has room for every write that may be under way.
	d.cfg.Log.Save(hs, entries, func(err error) { d.done <- Completion{token: token, err: err} })
}

// keepConf makes durable that a change of the configuration is committed. After
// a start without that, the node would count in the old configuration until it
// learns it again, and ask for votes of nodes that may be gone for good.
func (d *Driver) keepConf(now int64) {
	if !d.confNew || !d.hasRoom() {
		return
	}
	d.confNew = false
	commit := d.rn.BasicStatus().GetCommit()
	d.write(now, &raftpb.HardState{Term: new(d.stored.term), Vote: new(d.stored.vote), Commit: new(commit)}, nil, nil)
}

// Persisted takes the end of a write: what depended on it may now leave. The
// next Process returns it. An error is final.
func (d *Driver) Persisted(now int64, c Completion) error {
	d.at(now)
	if c.err != nil {
		d.failed = fmt.Errorf("store raft log: %w", c.err)
		return d.failed
	}
	invariant.Check(len(d.writes) > 0 && d.writes[0].token == c.token, "write %d ended, %d under way", c.token, len(d.writes))
	w := d.writes[0]
	d.writes = d.writes[1:]
	d.writing -= w.bytes
	d.respond(now, w.responses)
	return nil
}

// respond delivers messages whose condition is met: to raft itself or out.
func (d *Driver) respond(now int64, responses []*raftpb.Message) {
	for _, m := range responses {
		if m.GetTo() != d.cfg.ID {
			d.send(now, m)
			continue
		}
		if err := d.rn.Step(m); err != nil {
			d.log.Debug("raft took no message of its own", "type", m.GetType().String(), "err", err)
		}
		d.observe(now, 0, 0)
	}
}

// apply hands out committed entries. raft is told at once that they are
// applied, because the owner applies them before it calls again.
func (d *Driver) apply(now int64, m *raftpb.Message, out *Output) error {
	for _, e := range m.GetEntries() {
		d.tail.hand(e)
		entry := Entry{Index: e.GetIndex(), Term: e.GetTerm(), Data: e.GetData()}
		if e.GetType() != raftpb.EntryNormal {
			cc, err := decodeConf(e)
			if err != nil {
				return fmt.Errorf("read configuration change %d: %w", e.GetIndex(), err)
			}
			conf := d.changed(d.rn.ApplyConfChange(cc), cc.AsV2().GetChanges())
			d.confNew = d.confNew || e.GetIndex() > d.known
			entry.Conf, entry.Data = &conf, cc.AsV2().GetContext()
		}
		out.Committed = append(out.Committed, entry)
	}
	d.respond(now, m.GetResponses())
	return nil
}

// Next returns when Tick must be called at the latest, given that nothing
// happens before.
func (d *Driver) Next(now int64) int64 {
	if len(d.outbox) > 0 || len(d.shipping) > 0 || d.began || (d.hasRoom() && (d.confNew || d.rn.HasReady())) {
		return now
	}
	next := d.epoch + (d.slot+1)*int64(d.cfg.Beat)
	if v := d.view(); !d.abstains() && !d.full && !d.stuck(now) {
		next = min(next, d.el.next(now, v))
	}
	if d.transfer.to != 0 {
		next = min(next, d.transfer.since+int64(d.cfg.Promise/2))
	}
	for _, n := range d.held {
		next = min(next, n.at+int64(noticeLimit))
	}
	return max(next, now)
}
