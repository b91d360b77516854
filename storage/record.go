package storage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/storage/audit"
)

// The kinds of events in the audit trail that the state writes by itself.
// Others come from Record commands.
const (
	EventAssign      = "assign"
	EventFence       = "fence"
	EventUnfence     = "unfence"
	EventMaintenance = "maintenance"
	EventGroups      = "groups"
	EventJoin        = "member-add"
	EventPromote     = "member-promote"
	EventReplace     = "member-replace"
	EventLeave       = "member-remove"
	EventMember      = "member-change"
)

// record puts an effective command into the audit trail. It is part of apply,
// so that every node has the same chain.
func (s *State) record(index uint64, c Command) {
	if s.trail == nil {
		return
	}
	e := audit.Event{Index: index, Term: s.term, At: c.At, Actor: c.Actor}
	switch op := c.Op.(type) {
	case Assign:
		e.Kind, e.Node, e.Group, e.Epoch, e.Cause = EventAssign, s.nameOf(op.Node), s.groupName(op.Group), index, op.Cause
		if op.From != 0 {
			e.Detail = fmt.Sprintf(assignDetail, s.nameOf(op.From), op.Prev)
		}
	case Fence:
		e.Kind, e.Node, e.Cause = EventFence, s.nameOf(op.Node), causeOf(op.Operator)
	case Unfence:
		e.Kind, e.Node, e.Cause = EventUnfence, s.nameOf(op.Node), causeOf(op.Operator)
	case Maintenance:
		e.Kind, e.Node, e.Cause = EventMaintenance, s.nameOf(op.Node), "off"
		if op.On {
			e.Cause = "on"
		}
	case SetGroups:
		e.Kind, e.Detail = EventGroups, describeGroups(op.Groups)
	case Record:
		e.Kind, e.Node, e.Group, e.Epoch, e.Cause, e.Detail = op.Kind, op.Node, op.Group, op.Epoch, op.Cause, op.Detail
	case Checkpoint, PutMember, RemoveMember, Leave:
		return // a change of members is told by recordConf
	}
	s.trail.Append(e)
}

// assignDetail is the detail of an assign event: previous holder and epoch.
// Names have no spaces.
const assignDetail = "from %s epoch %d"

// AssignedFrom reads the previous holder out of an assign event, "" for none.
func AssignedFrom(e audit.Event) string {
	var name string
	var epoch uint64
	if n, _ := fmt.Sscanf(e.Detail, assignDetail, &name, &epoch); n < 1 {
		return ""
	}
	return name
}

func causeOf(operator bool) string {
	if operator {
		return "operator"
	}
	return "automatic"
}

func describeGroups(groups []Group) string {
	var parts []string
	for _, g := range groups {
		var vips []string
		for _, v := range g.VIPs {
			vips = append(vips, v.Prefix.String())
		}
		parts = append(parts, g.Name+": "+strings.Join(vips, " "))
	}
	text := strings.Join(parts, "; ")
	return text[:min(len(text), MaxDetail)]
}

// recordConf puts a change of raft's configuration into the audit trail: one
// event for each node whose place has changed. names are those before it.
func (s *State) recordConf(index uint64, c Command, was Conf, names map[uint64]string) {
	if s.trail == nil {
		return
	}
	cause := ""
	switch op := c.Op.(type) {
	case PutMember:
		cause = op.Cause
	case RemoveMember:
		cause = op.Cause
	case Leave:
		cause = op.Cause
	}
	ids := slices.Concat(was.Voters, was.Learners, s.conf.Voters, s.conf.Learners)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		kind := placeChange(was, s.conf, id)
		if kind == "" {
			continue
		}
		name := cmp.Or(s.names()[id], names[id], fmt.Sprintf("%x", id))
		detail := fmt.Sprintf("raft id %x", id)
		if kind == EventJoin {
			for old, n := range names {
				if n == name && old != id {
					kind, detail = EventReplace, fmt.Sprintf("raft id %x, was %x", id, old)
				}
			}
		}
		s.trail.Append(audit.Event{
			Index: index, Term: s.term, At: c.At, Actor: c.Actor, Kind: kind, Node: name, Cause: cause, Detail: detail,
		})
	}
}

// recordMember puts a change of a member's record into the audit trail that
// raft's configuration has no part in.
func (s *State) recordMember(index uint64, c Command, names map[uint64]string) {
	if s.trail == nil {
		return
	}
	e := audit.Event{Index: index, Term: s.term, At: c.At, Actor: c.Actor}
	switch op := c.Op.(type) {
	case PutMember:
		e.Kind, e.Node, e.Cause = EventMember, op.Member.Name, op.Cause
		e.Detail = fmt.Sprintf("raft id %x, %s, priority %d", op.Member.RaftID, op.Member.Role, op.Member.Priority)
	case RemoveMember:
		e.Kind, e.Node, e.Cause = EventLeave, cmp.Or(names[op.RaftID], fmt.Sprintf("%x", op.RaftID)), op.Cause
		e.Detail = fmt.Sprintf("raft id %x", op.RaftID)
	}
	s.trail.Append(e)
}

// placeChange names what a change of configuration means for a node, "" for
// nothing.
func placeChange(was, now Conf, id uint64) string {
	switch {
	case !now.Contains(id) && was.Contains(id):
		return EventLeave
	case slices.Contains(now.Voters, id) && slices.Contains(was.Learners, id):
		return EventPromote
	case now.Contains(id) && !was.Contains(id):
		return EventJoin
	}
	return ""
}

// names maps raft ids to the names of the members.
func (s *State) names() map[uint64]string {
	names := make(map[uint64]string, len(s.members))
	for _, m := range s.members {
		names[m.RaftID] = m.Name
	}
	return names
}

func (s *State) nameOf(id uint64) string {
	if m, ok := s.MemberByID(id); ok {
		return m.Name
	}
	return fmt.Sprintf("%x", id)
}

func (s *State) groupName(id uint16) string {
	if g, ok := s.Group(id); ok {
		return g.Name
	}
	return fmt.Sprintf("%d", id)
}
