package quorum

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// PeerStatus is what the leader knows of one node's log.
type PeerStatus struct {
	Node     uint64
	Match    uint64 // last index it is known to have stored
	Learner  bool
	State    string // probe, replicate, snapshot
	Snapshot uint64 // index of the snapshot it is to receive, 0 if none
	Answered int64  // when it answered last, 0 never
}

// Status is a picture of the Driver, for status pages and for decisions that
// need no more than that.
type Status struct {
	Term, Leader        uint64 // leader 0: none known
	Role                string // follower, pre-candidate, candidate, leader
	LeaderIncarnation   uint64 // 0 if not known
	Lost                bool   // E1
	LostAt              int64  // when the leader was or would be lost
	LastIndex, LastTerm uint64
	Commit, Handed      uint64 // handed out for applying
	Voter, Abstain      bool
	Storing             bool // SetStoring
	Stuck               bool // E8
	Writes              int  // under way
	TransferTo          uint64
	ConfPending         bool         // the leader's log may hold a configuration change that is not applied
	Dropped             uint64       // frames not taken
	Peers               []PeerStatus // of the leader
}

// Match returns the last index that a node is known to have stored; false if
// this node does not lead or the other is not in the configuration.
func (s Status) Match(id uint64) (match uint64, ok bool) {
	for _, p := range s.Peers {
		if p.Node == id {
			return p.Match, true
		}
	}
	return 0, false
}

// Leads reports whether this node is raft's leader, for less than Status costs.
func (d *Driver) Leads() bool { return d.view().role == leader }

// Status returns the present picture.
func (d *Driver) Status(now int64) Status {
	v := d.view()
	s := Status{
		Term: v.term, Leader: v.lead, Role: v.role.String(),
		Lost: v.role != leader && d.el.lost(now), LostAt: d.el.lostAt(),
		Commit: d.rn.BasicStatus().GetCommit(), Handed: d.tail.handed,
		Voter: d.voter, Abstain: d.abstains(), Stuck: d.stuck(now), Writes: len(d.writes),
		TransferTo: d.transfer.to, Dropped: d.dropped,
		Storing: !d.full, ConfPending: v.role == leader && d.confPending(),
	}
	s.LastIndex, s.LastTerm = d.tail.last()
	if v.lead != 0 && v.lead == d.el.leader.node {
		s.LeaderIncarnation = d.el.leader.incarnation
	}
	if v.role == leader {
		d.rn.WithProgress(func(node uint64, typ raft.ProgressType, pr tracker.Progress) {
			p := PeerStatus{
				Node: node, Match: pr.Match, Learner: typ == raft.ProgressTypeLearner,
				State: progressState(pr.State), Snapshot: pr.PendingSnapshot,
			}
			if k := d.peers[node]; k != nil {
				p.Answered = k.answered
			}
			s.Peers = append(s.Peers, p)
		})
	}
	return s
}

// String returns raft's word for the role.
func (r role) String() string {
	return [...]string{"follower", "pre-candidate", "candidate", "leader"}[r]
}

func progressState(s tracker.StateType) string {
	switch s {
	case tracker.StateReplicate:
		return "replicate"
	case tracker.StateSnapshot:
		return "snapshot"
	}
	return "probe"
}
