package storage

import (
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Result tells what one entry did. Ignored is empty when it took effect, else
// the reason, the same on every node.
type Result struct {
	// Command is zero for an empty entry. The requests of a Batch are void
	// after the next Apply.
	Command Command
	Ignored string
	// Data has an answer for each request of a Batch.
	Data []kv.Result
	// Expired is how many keys an Expire removed.
	Expired int
}

// Apply takes the next committed entry. Entries come in order without gaps. An
// error means that this binary cannot follow the log (it wraps
// ErrUnknownCommand) or that the entry is damaged: the node must stop.
func (s *State) Apply(index, term uint64, data []byte) (Result, error) {
	s.advance(index, term)
	if len(data) == 0 {
		return Result{}, nil // a new leader's first entry
	}
	if kind, ok := KindOf(data); ok && kind.Data() && s.kv == nil {
		return Result{}, nil // a copy of the control part alone
	}
	c, err := decodeCommand(data, &s.batches)
	if err != nil {
		return Result{}, fmt.Errorf("apply entry %d: %w", index, err)
	}
	if kind := c.Op.kind(); kind == KindPutMember || kind == KindRemoveMember {
		names := s.names()
		r := s.do(index, c)
		if r.Ignored == "" {
			s.recordMember(index, c, names)
		}
		return r, nil
	}
	return s.do(index, c), nil
}

// ApplyConf takes a committed configuration change: the configuration that
// now counts, and the context the proposer gave, which is empty or a command.
func (s *State) ApplyConf(index, term uint64, conf Conf, context []byte) (Result, error) {
	s.advance(index, term)
	was, names := s.conf, s.names()
	s.conf = conf
	s.configIndex = index
	var c Command
	var r Result
	if len(context) > 0 {
		var err error
		if c, err = DecodeCommand(context); err != nil {
			return Result{}, fmt.Errorf("apply configuration %d: %w", index, err)
		}
		r = s.do(index, c)
	}
	s.recordConf(index, c, was, names)
	return r, nil
}

func (s *State) advance(index, term uint64) {
	invariant.Check(index == s.applied+1 && term >= s.term,
		"apply index %d term %d after index %d term %d", index, term, s.applied, s.term)
	s.applied, s.term = index, term
}

func (s *State) do(index uint64, c Command) Result {
	r := Result{Command: c}
	switch op := c.Op.(type) {
	case Batch:
		r.Data = s.kv.Apply(op.Batch)
		return r
	case Expire:
		r.Expired = s.kv.Expire(op.Clock)
		return r
	}
	r.Ignored = s.control(index, c)
	if r.Ignored == "" {
		s.record(index, c)
	}
	return r
}

// control changes the control part; it returns why it did not.
func (s *State) control(index uint64, c Command) string {
	switch op := c.Op.(type) {
	case Assign:
		return s.assign(index, c.At, op)
	case Fence:
		return s.fence(index, c.At, op)
	case Unfence:
		return s.unfence(op)
	case Maintenance:
		return s.maintain(index, c, op)
	case SetGroups:
		return s.setGroups(index, op)
	case PutMember:
		return s.putMember(op.Member)
	case RemoveMember:
		return s.removeMember(op.RaftID)
	case Record, Checkpoint, Leave:
		return ""
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

func (s *State) maintain(index uint64, c Command, m Maintenance) string {
	if _, ok := s.MemberByID(m.Node); !ok {
		return "no such member"
	}
	if _, ok := s.maintained[m.Node]; ok == m.On {
		return "nothing to change"
	}
	if m.On {
		s.maintained[m.Node] = Maintained{Actor: c.Actor, Index: index, At: c.At}
	} else {
		delete(s.maintained, m.Node)
	}
	return ""
}

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

// setGroups keeps the ID of every name that stays. An address may not go from
// one living group to another in one step: the old holder might not have
// applied the step when the new one opens its gate (F1a).
func (s *State) setGroups(index uint64, c SetGroups) string {
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
	s.groups, s.nextGroup, s.groupsIndex = groups, next, index
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
