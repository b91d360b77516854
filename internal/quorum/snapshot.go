package quorum

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/storage"
)

// SnapshotOut asks the owner to bring the state of the log's snapshot to
// another node, with Message, which that node gives to StepSnapshot. However it
// ends, SnapshotDone must be called: until then the node gets no entries.
type SnapshotOut struct {
	To      uint64 // raft id
	Index   uint64 // of the snapshot
	Message []byte // raft message; the data of its snapshot is that of the log's
}

// Restored says that a snapshot is in force: the state machine must be replaced
// by the state that was received with it, and then SetMembers be called.
type Restored struct {
	Index, Term uint64
	Conf        storage.Conf
	// Release gives back what the old log holds on the disk; call it once,
	// from any goroutine.
	Release func() error
}

// SnapshotDone tells how a SnapshotOut has ended: ok if the node has the state
// and was told of it. If not, raft asks for a snapshot again when the node
// answers.
func (d *Driver) SnapshotDone(now int64, to uint64, ok bool) {
	d.at(now)
	status := raft.SnapshotFailure
	if ok {
		status = raft.SnapshotFinish
	}
	d.rn.ReportSnapshot(to, status)
}

// StepSnapshot takes the message of a snapshot whose state this node has
// received and stored. If raft takes it, an Output says Restored, the next one
// unless the disk is far behind, and the log is replaced; if not, because the
// log has come as far meanwhile or for another reason, nothing happens and the
// state may be dropped. ErrFrame: the message is none of a snapshot.
func (d *Driver) StepSnapshot(now int64, from, incarnation uint64, data []byte) error {
	d.at(now)
	m, err := decodeFrame(d.cfg.ID, from, data)
	if err == nil {
		err = checkSnapshot(m)
	}
	if err != nil {
		d.dropped++
		return fmt.Errorf("take snapshot of node %x: %w", from, err)
	}
	incarnation = d.current(m, incarnation)
	if d.full || d.view().role == leader || !d.listens(m, incarnation) {
		d.dropped++
		return nil
	}
	d.pose(m.GetSnapshot().GetMetadata())
	d.step(now, m, incarnation)
	d.elect(now)
	return nil
}

// checkSnapshot refuses what raft would not survive.
func checkSnapshot(m *raftpb.Message) error {
	meta := m.GetSnapshot().GetMetadata()
	cs := meta.GetConfState()
	switch {
	case m.GetType() != raftpb.MsgSnap:
		return fmt.Errorf("%w: type %s", ErrFrame, m.GetType())
	case meta.GetIndex() == 0 || meta.GetTerm() == 0 || meta.GetTerm() > m.GetTerm():
		return fmt.Errorf("%w: snapshot at index %d term %d in term %d", ErrFrame, meta.GetIndex(), meta.GetTerm(), m.GetTerm())
	case len(cs.GetVoters()) == 0 || len(cs.GetVoters())+len(cs.GetLearners()) > 2*storage.MaxMembers || len(cs.GetVotersOutgoing()) > storage.MaxMembers:
		return fmt.Errorf("%w: snapshot of %d voters, %d learners and %d outgoing",
			ErrFrame, len(cs.GetVoters()), len(cs.GetLearners()), len(cs.GetVotersOutgoing()))
	}
	seen := map[uint64]bool{}
	for _, id := range append(append([]uint64(nil), cs.GetVoters()...), cs.GetLearners()...) {
		if !storage.ValidRaftID(id) || seen[id] {
			return fmt.Errorf("%w: snapshot lists node %x", ErrFrame, id)
		}
		seen[id] = true
	}
	return nil
}

// current puts a snapshot of a leader of the past under the name of the present
// one, and returns its incarnation. What a snapshot holds is committed, so it is
// part of every later leader's log; raft alone would throw away what may have
// taken a minute to bring here.
func (d *Driver) current(m *raftpb.Message, incarnation uint64) uint64 {
	v := d.view()
	if v.lead == 0 || v.lead == d.cfg.ID || m.GetTerm() >= v.term {
		return incarnation
	}
	m.From, m.Term = new(v.lead), new(v.term)
	if v.lead == d.el.leader.node {
		return d.el.leader.incarnation
	}
	return 0
}

// pose makes this node a learner in a snapshot that does not know it yet. raft
// refuses a snapshot without its own node, so a new one would have to wait for
// the next that is written. The entry that adds it follows behind the snapshot;
// until then the node counts for raft alone as a member.
func (d *Driver) pose(meta *raftpb.SnapshotMetadata) {
	if storage.ConfOf(meta.GetConfState()).Contains(d.cfg.ID) {
		return
	}
	meta.ConfState.Learners = append(meta.ConfState.Learners, d.cfg.ID)
	d.posing = meta.GetIndex()
}

// restore gives a snapshot that raft has taken to the log and to the owner.
func (d *Driver) restore(snap *raftpb.Snapshot, out *Output) {
	meta := snap.GetMetadata()
	invariant.Check(len(out.Committed) == 0 && meta.GetIndex() > d.tail.handed,
		"snapshot at index %d behind %d entries, handed out up to %d", meta.GetIndex(), len(out.Committed), d.tail.handed)
	d.posed = d.posing == meta.GetIndex()
	conf := d.confOf(meta.GetConfState())
	if d.posed {
		snap = proto.Clone(snap).(*raftpb.Snapshot)
		snap.Metadata.ConfState.Learners = conf.Learners
	}
	release := d.cfg.Log.Install(snap)
	d.tail.restore(meta.GetIndex(), meta.GetTerm())
	d.setConf(conf)
	out.Restored = &Restored{Index: meta.GetIndex(), Term: meta.GetTerm(), Conf: conf, Release: release}
	d.log.Info("snapshot taken over", "index", meta.GetIndex(), "term", meta.GetTerm(), "from", d.view().lead)
}
