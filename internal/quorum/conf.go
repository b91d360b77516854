package quorum

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/storage"
)

// ProposeConf proposes one change of raft's configuration: ConfChangeAddNode
// (also of a learner: a promotion), ConfChangeAddLearnerNode or
// ConfChangeRemoveNode; context is the encoded command that goes with it
// (storage.PutMember, storage.RemoveMember). G4: the caller leaves P between
// two changes. Errors: ErrNotLeader; ErrBusy also while an earlier change is
// not applied. A leader that removes itself steps down when it applies that:
// transfer first.
func (d *Driver) ProposeConf(now int64, kind raftpb.ConfChangeType, node uint64, context []byte) error {
	d.at(now)
	v := d.view()
	if v.role != leader {
		return fmt.Errorf("propose configuration: %w (leader is %x)", ErrNotLeader, v.lead)
	}
	if err := d.mayChange(now, kind, node); err != nil {
		return fmt.Errorf("propose configuration: %w", err)
	}
	cc := &raftpb.ConfChangeV2{
		Changes: []*raftpb.ConfChangeSingle{{Type: kind.Enum(), NodeId: new(node)}},
		Context: context,
	}
	_, data, err := raftpb.MarshalConfChange(cc)
	if err != nil {
		return fmt.Errorf("propose configuration: %w", err)
	}
	if err := d.rn.ProposeConfChange(cc); err != nil {
		return fmt.Errorf("propose configuration: %w: %w", ErrBusy, err)
	}
	d.tail.proposed(v.term, raftpb.EntryConfChangeV2, data)
	d.confAt, _ = d.tail.last()
	return nil
}

// mayChange refuses what raft would turn into an empty entry, or would not
// survive when it is applied.
func (d *Driver) mayChange(now int64, kind raftpb.ConfChangeType, node uint64) error {
	switch {
	case !storage.ValidRaftID(node):
		return fmt.Errorf("node %x is reserved", node)
	case kind != raftpb.ConfChangeAddNode && kind != raftpb.ConfChangeAddLearnerNode && kind != raftpb.ConfChangeRemoveNode:
		return fmt.Errorf("change %s is not known", kind)
	case kind != raftpb.ConfChangeAddNode && len(d.conf.Voters) == 1 && d.conf.Voters[0] == node:
		return fmt.Errorf("node %x is the only voter", node)
	case d.confPending():
		return fmt.Errorf("%w: a change up to index %d is not applied", ErrBusy, d.confAt)
	case len(d.conf.Outgoing) > 0:
		return fmt.Errorf("%w: the configuration is joint", ErrBusy)
	case d.stuck(now):
		return fmt.Errorf("%w: a write has waited since %d", ErrBusy, d.writes[0].since)
	}
	return nil
}

// confPending reports whether the leader's log may hold a configuration change
// that is not applied. A new leader does not look and assumes the worst, as
// raft does.
func (d *Driver) confPending() bool { return d.confAt > d.tail.handed }

// changed takes raft's configuration after a change was applied.
func (d *Driver) changed(cs *raftpb.ConfState, changes []*raftpb.ConfChangeSingle) storage.Conf {
	if slices.ContainsFunc(changes, func(c *raftpb.ConfChangeSingle) bool { return c.GetNodeId() == d.cfg.ID }) {
		d.posed = false
	}
	conf := d.confOf(cs)
	d.setConf(conf)
	return conf
}

// confOf is raft's configuration as the others know it (see pose).
func (d *Driver) confOf(cs *raftpb.ConfState) storage.Conf {
	conf := storage.ConfOf(cs)
	if d.posed {
		conf.Learners = slices.DeleteFunc(conf.Learners, func(id uint64) bool { return id == d.cfg.ID })
	}
	return conf
}

// confContext returns the command that goes with a configuration change.
func confContext(e *raftpb.Entry) []byte {
	cc, err := decodeConf(e)
	if err != nil {
		return nil
	}
	return cc.AsV2().GetContext()
}

func decodeConf(e *raftpb.Entry) (raftpb.ConfChangeI, error) {
	if e.GetType() == raftpb.EntryConfChange {
		cc := &raftpb.ConfChange{}
		return cc, proto.Unmarshal(e.GetData(), cc)
	}
	cc := &raftpb.ConfChangeV2{}
	return cc, proto.Unmarshal(e.GetData(), cc)
}
