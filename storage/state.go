package storage

import (
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/storage/audit"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// MaxHistory is how many failovers the state remembers.
const MaxHistory = 64

// Assignment is who should hold a group. The zero value is a group that
// nobody was ever assigned.
type Assignment struct {
	Epoch       uint64 // log index of the Assign
	Node        uint64 // raft id
	Incarnation uint64
	Prev        uint64 // epoch before this one
	From        uint64 // raft id of the holder before, 0 if none
	Cause       string
	At          int64 // wall time in ns, for people
}

// Failover is one change of an assignment, kept for history.
type Failover struct {
	Group uint16
	Assignment
}

// Fenced says that a node is shut out.
type Fenced struct {
	Operator bool   // set by a person; only a person lifts it (A6)
	Index    uint64 // log index of the Fence
	At       int64  // wall time in ns
}

// Maintained says that a node should not hold.
type Maintained struct {
	Actor string
	Index uint64
	At    int64
}

// Conf is raft's configuration as the state machine knows it; all lists are
// sorted raft ids. Outgoing is not empty only in a joint configuration.
type Conf struct {
	Voters, Learners, Outgoing []uint64
}

// ConfOf copies what matters here out of raft's form.
func ConfOf(cs *raftpb.ConfState) Conf {
	sorted := func(ids []uint64) []uint64 { return slices.Sorted(slices.Values(ids)) }
	return Conf{Voters: sorted(cs.GetVoters()), Learners: sorted(cs.GetLearners()), Outgoing: sorted(cs.GetVotersOutgoing())}
}

// Voter reports whether id votes in this configuration.
func (c Conf) Voter(id uint64) bool {
	return slices.Contains(c.Voters, id) || slices.Contains(c.Outgoing, id)
}

// Contains reports whether id is in this configuration in any way.
func (c Conf) Contains(id uint64) bool { return c.Voter(id) || slices.Contains(c.Learners, id) }

// State is what the committed log adds up to, the same on every node at the
// same index. One goroutine owns it; Clone gives others a copy.
type State struct {
	cluster     [16]byte
	name        string
	profile     Profile
	members     []Member // sorted by name
	groups      []Group  // sorted by ID
	nextGroup   uint16   // ID of the next new group; IDs are never used twice
	groupsIndex uint64   // index of the last change of the groups, 0 before any
	conf        Conf
	configIndex uint64 // index of the last applied configuration change
	assigned    map[uint16]Assignment
	fenced      map[uint64]Fenced
	maintained  map[uint64]Maintained
	history     []Failover // oldest first, at most MaxHistory
	applied     uint64
	term        uint64 // term of the entry at applied

	// Both are nil in the copies that CloneControl makes.
	kv      *kv.Store
	batches kv.Decoder // memory that is used again
	trail   *audit.Trail
}

// NewState returns the state at index 1: the first configuration.
func NewState(c FirstConfig) *State {
	c = c.Canonical()
	return &State{
		cluster: c.ID(), name: c.Cluster, profile: c.Profile,
		members: c.Members, groups: c.Groups, nextGroup: uint16(len(c.Groups)),
		conf: ConfOf(c.ConfState()), configIndex: FirstIndex,
		assigned:   map[uint16]Assignment{},
		fenced:     map[uint64]Fenced{},
		maintained: map[uint64]Maintained{},
		applied:    FirstIndex, term: FirstTerm,
		kv: kv.New(), trail: audit.NewTrail(audit.DefaultMaxBytes),
	}
}

// Cluster returns the cluster id.
func (s *State) Cluster() [16]byte { return s.cluster }

// Name returns the cluster's name.
func (s *State) Name() string { return s.name }

// Profile returns the committed timing.
func (s *State) Profile() Profile { return s.profile }

// Applied returns index and term of the last applied entry.
func (s *State) Applied() (index, term uint64) { return s.applied, s.term }

// Conf returns raft's configuration and the index it was applied at (G4).
// The lists must not be changed.
func (s *State) Conf() (conf Conf, index uint64) { return s.conf, s.configIndex }

// Members returns a copy of the members, sorted by name.
func (s *State) Members() []Member { return slices.Clone(s.members) }

// MemberByID finds a member by its committed raft id.
func (s *State) MemberByID(id uint64) (Member, bool) {
	i := slices.IndexFunc(s.members, func(m Member) bool { return m.RaftID == id })
	if i < 0 {
		return Member{}, false
	}
	return s.members[i], true
}

// MemberByName finds a member by its name.
func (s *State) MemberByName(name string) (Member, bool) {
	i := slices.IndexFunc(s.members, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return Member{}, false
	}
	return s.members[i], true
}

// Groups returns a copy of the groups, sorted by ID.
func (s *State) Groups() []Group { return cloneGroups(s.groups) }

// GroupsIndex returns the index of the entry that changed the groups last, 0
// while they are those of the founding (G4).
func (s *State) GroupsIndex() uint64 { return s.groupsIndex }

// Group finds a group by ID. Its addresses must not be changed.
func (s *State) Group(id uint16) (Group, bool) {
	i := slices.IndexFunc(s.groups, func(g Group) bool { return g.ID == id })
	if i < 0 {
		return Group{}, false
	}
	return s.groups[i], true
}

// Assignment returns who should hold a group; the zero value means nobody yet.
func (s *State) Assignment(group uint16) Assignment { return s.assigned[group] }

// Fenced tells whether and how a node is fenced.
func (s *State) Fenced(node uint64) (Fenced, bool) {
	f, ok := s.fenced[node]
	return f, ok
}

// FencedNodes returns the fenced raft ids, sorted.
func (s *State) FencedNodes() []uint64 { return slices.Sorted(maps.Keys(s.fenced)) }

// Maintained tells whether a node is in maintenance.
func (s *State) Maintained(node uint64) (Maintained, bool) {
	m, ok := s.maintained[node]
	return m, ok
}

// History returns the last failovers, oldest first.
func (s *State) History() []Failover { return slices.Clone(s.history) }

// CloneControl returns a copy without the buckets and the audit trail, for
// trying out what entries will do. Neither changes with the other.
func (s *State) CloneControl() *State {
	c := *s
	c.batches = kv.Decoder{}
	c.kv, c.trail = nil, nil
	c.members = slices.Clone(s.members)
	c.groups = cloneGroups(s.groups)
	c.assigned = maps.Clone(s.assigned)
	c.fenced = maps.Clone(s.fenced)
	c.maintained = maps.Clone(s.maintained)
	c.history = slices.Clone(s.history)
	return &c
}

// Buckets returns the data; the owner of the state owns it too.
func (s *State) Buckets() *kv.Store { return s.kv }

// Trail returns the audit trail; the owner of the state owns it too.
func (s *State) Trail() *audit.Trail { return s.trail }
