package storage

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/invariant"
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
	conf        Conf
	configIndex uint64 // index of the last applied configuration change
	assigned    map[uint16]Assignment
	fenced      map[uint64]Fenced
	maintained  map[uint64]Maintained
	history     []Failover // oldest first, at most MaxHistory
	applied     uint64
	term        uint64 // term of the entry at applied
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
	}
}

// Result tells what one entry did. Ignored is empty when it took effect, else
// the reason, the same on every node.
type Result struct {
	Command Command // zero for an empty entry
	Ignored string
}

// Apply takes the next committed entry. Entries come in order without gaps. An
// error means that this binary cannot follow the log (it wraps
// ErrUnknownCommand) or that the entry is damaged: the node must stop.
func (s *State) Apply(index, term uint64, data []byte) (Result, error) {
	s.advance(index, term)
	if len(data) == 0 {
		return Result{}, nil // a new leader's first entry
	}
	c, err := DecodeCommand(data)
	if err != nil {
		return Result{}, fmt.Errorf("apply entry %d: %w", index, err)
	}
	return Result{Command: c, Ignored: s.do(index, c)}, nil
}

// ApplyConf takes a committed configuration change: the configuration that
// now counts, and the context the proposer gave, which is empty or a command.
func (s *State) ApplyConf(index, term uint64, conf Conf, context []byte) (Result, error) {
	s.advance(index, term)
	s.conf = conf
	s.configIndex = index
	if len(context) == 0 {
		return Result{}, nil
	}
	c, err := DecodeCommand(context)
	if err != nil {
		return Result{}, fmt.Errorf("apply configuration %d: %w", index, err)
	}
	return Result{Command: c, Ignored: s.do(index, c)}, nil
}

func (s *State) advance(index, term uint64) {
	invariant.Check(index == s.applied+1 && term >= s.term,
		"apply index %d term %d after index %d term %d", index, term, s.applied, s.term)
	s.applied, s.term = index, term
}

func (s *State) do(index uint64, c Command) string {
	switch op := c.Op.(type) {
	case Assign:
		return s.assign(index, c.At, op)
	case Fence:
		return s.fence(index, c.At, op)
	case Unfence:
		return s.unfence(op)
	case Maintenance:
		return s.maintain(index, c.At, op)
	case SetGroups:
		return s.setGroups(op)
	case PutMember:
		return s.putMember(op.Member)
	case RemoveMember:
		return s.removeMember(op.RaftID)
	}
	panic(fmt.Sprintf("storage: no apply for command %T", c.Op))
}

func (s *State) assign(index uint64, at int64, a Assign) string {
	if _, ok := s.Group(a.Group); !ok {
		return "no such group"
	}
	if m, ok := s.MemberByID(a.Node); !ok || m.Role != Gateway {
		return "not a gateway of this cluster"
	}
	// Section 1 of the protocol: two Assigns decided from the same epoch
	// must not both count.
	if cur := s.assigned[a.Group].Epoch; cur != a.Prev {
		return fmt.Sprintf("epoch is %d, not %d", cur, a.Prev)
	}
	next := Assignment{Epoch: index, Node: a.Node, Incarnation: a.Incarnation, Prev: a.Prev, From: a.From, Cause: a.Cause, At: at}
	s.assigned[a.Group] = next
	s.history = append(s.history, Failover{Group: a.Group, Assignment: next})
	if over := len(s.history) - MaxHistory; over > 0 {
		s.history = slices.Clone(s.history[over:])
	}
	return ""
}

func (s *State) fence(index uint64, at int64, f Fence) string {
	if _, ok := s.MemberByID(f.Node); !ok {
		return "no such member"
	}
	old, ok := s.fenced[f.Node]
	if ok && (old.Operator || !f.Operator) {
		return "fenced already"
	}
	s.fenced[f.Node] = Fenced{Operator: f.Operator, Index: index, At: at}
	return ""
}

func (s *State) unfence(u Unfence) string {
	f, ok := s.fenced[u.Node]
	if !ok {
		return "not fenced"
	}
	if f.Operator && !u.Operator {
		return "fenced by an operator" // A6
	}
	delete(s.fenced, u.Node)
	return ""
}

func (s *State) maintain(index uint64, at int64, m Maintenance) string {
	if _, ok := s.MemberByID(m.Node); !ok {
		return "no such member"
	}
	if _, ok := s.maintained[m.Node]; ok == m.On {
		return "nothing to change"
	}
	if m.On {
		s.maintained[m.Node] = Maintained{Actor: m.Actor, Index: index, At: at}
	} else {
		delete(s.maintained, m.Node)
	}
	return ""
}

// setGroups keeps the ID of every name that stays. An address may not go from
// one living group to another in one step: the old holder might not have
// applied the step when the new one opens its gate (F1a).
// Limits of the committed groups: what a beat and a gate have room for. Files
// of members are added up, so each of them may be within its own limits.
const (
	MaxCommittedGroups = 16
	MaxCommittedVIPs   = 256
	// MaxGroupID is above all group ids; a gate keeps numbers from here on.
	MaxGroupID = 1000
)

func overLimits(groups []Group) string {
	vips := 0
	for _, g := range groups {
		vips += len(g.VIPs)
	}
	if len(groups) > MaxCommittedGroups || vips > MaxCommittedVIPs {
		return fmt.Sprintf("%d groups with %d addresses, at most %d and %d", len(groups), vips, MaxCommittedGroups, MaxCommittedVIPs)
	}
	return ""
}

func (s *State) setGroups(c SetGroups) string {
	owner := map[string]string{} // address -> group name now
	known := map[string]Group{}
	for _, g := range s.groups {
		known[g.Name] = g
		for _, v := range g.VIPs {
			owner[v.Prefix.Addr().String()] = g.Name
		}
	}
	next := s.nextGroup
	groups := cloneGroups(c.Groups)
	if why := overLimits(groups); why != "" {
		return why
	}
	for i, g := range groups {
		for _, v := range g.VIPs {
			if was, ok := owner[v.Prefix.Addr().String()]; ok && was != g.Name {
				return fmt.Sprintf("address %s is in group %s: remove it there first", v.Prefix.Addr(), was)
			}
		}
		if old, ok := known[g.Name]; ok {
			groups[i].ID = old.ID
		} else {
			if next >= MaxGroupID {
				return "group numbers are used up"
			}
			groups[i].ID = next
			next++
		}
		sortVIPs(groups[i].VIPs)
	}
	slices.SortFunc(groups, func(a, b Group) int { return int(a.ID) - int(b.ID) })
	s.groups, s.nextGroup = groups, next
	maps.DeleteFunc(s.assigned, func(id uint16, _ Assignment) bool {
		_, ok := s.Group(id)
		return !ok
	})
	return ""
}

func (s *State) putMember(m Member) string {
	for _, old := range s.members {
		if old.Name != m.Name && (old.RaftID == m.RaftID || old.PublicKey == m.PublicKey) {
			return fmt.Sprintf("raft id or key belongs to %s", old.Name)
		}
	}
	i, found := slices.BinarySearchFunc(s.members, m.Name, func(a Member, name string) int {
		switch {
		case a.Name < name:
			return -1
		case a.Name > name:
			return 1
		}
		return 0
	})
	switch {
	case found:
		s.forget(s.members[i].RaftID, m.RaftID)
		s.members[i] = m
	case len(s.members) == MaxMembers:
		return "too many members"
	default:
		s.members = slices.Insert(s.members, i, m)
	}
	return ""
}

func (s *State) removeMember(id uint64) string {
	for i, m := range s.members {
		if m.RaftID == id {
			s.members = slices.Delete(s.members, i, i+1)
			s.forget(id, 0)
			return ""
		}
	}
	return "no such member"
}

// forget moves the marks of a raft id to the one that replaces it under the
// same name (F2): an operator's fence means the machine, not its disk.
func (s *State) forget(id, by uint64) {
	if id == by {
		return
	}
	if f, ok := s.fenced[id]; ok && by != 0 && f.Operator {
		s.fenced[by] = f
	}
	if m, ok := s.maintained[id]; ok && by != 0 {
		s.maintained[by] = m
	}
	delete(s.fenced, id)
	delete(s.maintained, id)
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

// Clone returns a copy that shares nothing that either may change.
func (s *State) Clone() *State {
	c := *s
	c.members = slices.Clone(s.members)
	c.groups = cloneGroups(s.groups)
	c.assigned = maps.Clone(s.assigned)
	c.fenced = maps.Clone(s.fenced)
	c.maintained = maps.Clone(s.maintained)
	c.history = slices.Clone(s.history)
	return &c
}

// Hash covers the whole state at its index; it is equal on all nodes.
func (s *State) Hash() [32]byte { return sha256.Sum256(s.encode()) }

// encode writes every field in one fixed order; maps are sorted by key.
func (s *State) encode() []byte {
	e := &encoder{b: []byte("HFS1")}
	e.raw(s.cluster[:])
	e.u64(s.applied)
	e.u64(s.term)
	e.str(s.name)
	encodeProfile(e, s.profile)
	e.count(len(s.members))
	for _, m := range s.members {
		encodeMember(e, m)
	}
	e.count(len(s.groups))
	for _, g := range s.groups {
		encodeGroup(e, g)
	}
	e.u16(s.nextGroup)
	e.u64(s.configIndex)
	for _, ids := range [][]uint64{s.conf.Voters, s.conf.Learners, s.conf.Outgoing} {
		e.count(len(ids))
		for _, id := range ids {
			e.u64(id)
		}
	}
	e.count(len(s.assigned))
	for _, g := range slices.Sorted(maps.Keys(s.assigned)) {
		encodeAssignment(e, g, s.assigned[g])
	}
	e.count(len(s.fenced))
	for _, id := range slices.Sorted(maps.Keys(s.fenced)) {
		f := s.fenced[id]
		e.u64(id)
		e.bool(f.Operator)
		e.u64(f.Index)
		e.u64(uint64(f.At))
	}
	e.count(len(s.maintained))
	for _, id := range slices.Sorted(maps.Keys(s.maintained)) {
		m := s.maintained[id]
		e.u64(id)
		e.str(m.Actor)
		e.u64(m.Index)
		e.u64(uint64(m.At))
	}
	e.count(len(s.history))
	for _, f := range s.history {
		encodeAssignment(e, f.Group, f.Assignment)
	}
	return e.b
}

func encodeAssignment(e *encoder, group uint16, a Assignment) {
	e.u16(group)
	e.u64(a.Epoch)
	e.u64(a.Node)
	e.u64(a.Incarnation)
	e.u64(a.Prev)
	e.u64(a.From)
	e.str(a.Cause)
	e.u64(uint64(a.At))
}
