package storage

import (
	"errors"
	"fmt"
)

// Every committed entry that is not empty holds one command:
//
//	 0      1      2                10
//	+------+------+----------------+---------------- - -
//	| ver  | kind | wall time (ns) | fields of the kind
//	+------+------+----------------+---------------- - -
//
// Integers are big-endian, strings and byte strings carry a 16-bit length.
// One command has exactly one encoding, so nodes can compare entries by hash.
const commandVersion = 1

// Limits of a command. They bound what a decoder allocates.
const (
	MaxCause   = 64  // bytes of Assign.Cause
	MaxActor   = 128 // bytes of Maintenance.Actor
	MaxNotes   = 16  // notes in one Assign
	MaxNote    = 256 // bytes of one note
	MaxCommand = 1 << 20
)

// ErrUnknownCommand marks an entry written by a newer version: going on
// without it would let this node's state drift from the others'.
var ErrUnknownCommand = errors.New("unknown command")

// Kind is the number of an operation in the log. Numbers are never reused.
type Kind uint8

// The kinds. 0 is invalid; 32 and up are kept for the data buckets.
const (
	KindAssign       Kind = 1
	KindFence        Kind = 2
	KindUnfence      Kind = 3
	KindMaintenance  Kind = 4
	KindSetGroups    Kind = 5
	KindPutMember    Kind = 6
	KindRemoveMember Kind = 7
)

// Op is the content of a command: one of the types below.
type Op interface {
	kind() Kind
	encode(*encoder)
	validate() error
}

// Command is what one log entry asks for. At is wall time in nanoseconds
// since 1970, for people to read; no decision uses it.
type Command struct {
	At int64
	Op Op
}

// Assign gives Group to one incarnation of one node; the index of its entry
// is the epoch. It counts only while Prev is the group's epoch (section 1 of
// the protocol).
type Assign struct {
	Group       uint16
	Node        uint64 // raft id of the new holder
	Incarnation uint64 // the incarnation that may hold
	Prev        uint64 // epoch this replaces, 0 for the first
	Cause       string // short, for history: "over", "silent", "switchover"
	From        uint64 // raft id of the previous holder, 0 if none
	Notes       [][]byte
}

// Fence shuts a node out. An operator's fence is lifted only by an operator
// (A6).
type Fence struct {
	Node     uint64
	Operator bool
}

// Unfence lifts a fence; without Operator only one that no operator set.
type Unfence struct {
	Node     uint64
	Operator bool
}

// Maintenance marks a node as one that should not hold, or ends that.
type Maintenance struct {
	Node  uint64
	On    bool
	Actor string // who asked
}

// SetGroups replaces the groups. Groups keep their ID by name; the IDs in the
// command are ignored.
type SetGroups struct {
	Groups []Group
}

// PutMember adds a member or changes it. A name that is known keeps its place
// and gets the new raft id (F2). It travels as the context of a raft
// configuration change, or alone when only name, role or priority change.
type PutMember struct {
	Member Member
}

// RemoveMember forgets the member with this raft id. It travels as the
// context of a raft configuration change.
type RemoveMember struct {
	RaftID uint64
}

func (Assign) kind() Kind       { return KindAssign }
func (Fence) kind() Kind        { return KindFence }
func (Unfence) kind() Kind      { return KindUnfence }
func (Maintenance) kind() Kind  { return KindMaintenance }
func (SetGroups) kind() Kind    { return KindSetGroups }
func (PutMember) kind() Kind    { return KindPutMember }
func (RemoveMember) kind() Kind { return KindRemoveMember }

// Encode returns the entry data of a command, or why it is not valid.
func (c Command) Encode() ([]byte, error) {
	if c.Op == nil {
		return nil, errors.New("encode command: nothing asked")
	}
	if err := c.Op.validate(); err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	e := &encoder{}
	e.u8(commandVersion)
	e.u8(uint8(c.Op.kind()))
	e.u64(uint64(c.At))
	c.Op.encode(e)
	if len(e.b) > MaxCommand {
		return nil, fmt.Errorf("encode command: %d bytes, at most %d allowed", len(e.b), MaxCommand)
	}
	return e.b, nil
}

// DecodeCommand parses entry data. The error wraps ErrUnknownCommand when a
// newer version must have written it.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) > MaxCommand {
		return Command{}, fmt.Errorf("read command: %d bytes, at most %d allowed", len(b), MaxCommand)
	}
	d := &decoder{b: b}
	if v := d.u8(); d.err == nil && v != commandVersion {
		return Command{}, fmt.Errorf("read command: version %d: %w", v, ErrUnknownCommand)
	}
	kind := Kind(d.u8())
	c := Command{At: int64(d.u64())}
	op, err := decodeOp(d, kind)
	if err != nil {
		return Command{}, err
	}
	if err := d.end(); err != nil {
		return Command{}, fmt.Errorf("read command %d: %w", kind, err)
	}
	if err := op.validate(); err != nil {
		return Command{}, fmt.Errorf("read command %d: %w", kind, err)
	}
	c.Op = op
	return c, nil
}

func decodeOp(d *decoder, kind Kind) (Op, error) {
	switch kind {
	case KindAssign:
		a := Assign{Group: d.u16(), Node: d.u64(), Incarnation: d.u64(), Prev: d.u64(), From: d.u64(), Cause: d.str(MaxCause, "cause")}
		for range d.count(MaxNotes, "notes") {
			a.Notes = append(a.Notes, d.bytes(MaxNote, "note"))
		}
		return a, nil
	case KindFence:
		return Fence{Node: d.u64(), Operator: d.bool()}, nil
	case KindUnfence:
		return Unfence{Node: d.u64(), Operator: d.bool()}, nil
	case KindMaintenance:
		return Maintenance{Node: d.u64(), On: d.bool(), Actor: d.str(MaxActor, "actor")}, nil
	case KindSetGroups:
		return SetGroups{Groups: decodeGroups(d)}, nil
	case KindPutMember:
		return PutMember{Member: decodeMember(d)}, nil
	case KindRemoveMember:
		return RemoveMember{RaftID: d.u64()}, nil
	}
	if d.err != nil {
		return nil, fmt.Errorf("read command: %w", d.err)
	}
	return nil, fmt.Errorf("read command: kind %d: %w", kind, ErrUnknownCommand)
}

func (a Assign) encode(e *encoder) {
	e.u16(a.Group)
	e.u64(a.Node)
	e.u64(a.Incarnation)
	e.u64(a.Prev)
	e.u64(a.From)
	e.str(a.Cause)
	e.count(len(a.Notes))
	for _, n := range a.Notes {
		e.bytes(n)
	}
}

func (a Assign) validate() error {
	if !ValidRaftID(a.Node) || a.Incarnation == 0 {
		return fmt.Errorf("assign group %d to node %x incarnation %x: neither may be zero", a.Group, a.Node, a.Incarnation)
	}
	if len(a.Cause) > MaxCause || len(a.Notes) > MaxNotes {
		return fmt.Errorf("assign group %d: cause of %d bytes or %d notes is too much", a.Group, len(a.Cause), len(a.Notes))
	}
	for _, n := range a.Notes {
		if len(n) > MaxNote {
			return fmt.Errorf("assign group %d: note of %d bytes, at most %d allowed", a.Group, len(n), MaxNote)
		}
	}
	return nil
}

func (f Fence) encode(e *encoder) {
	e.u64(f.Node)
	e.bool(f.Operator)
}

func (f Fence) validate() error { return validNode("fence", f.Node) }

func (u Unfence) encode(e *encoder) {
	e.u64(u.Node)
	e.bool(u.Operator)
}

func (u Unfence) validate() error { return validNode("unfence", u.Node) }

func (m Maintenance) encode(e *encoder) {
	e.u64(m.Node)
	e.bool(m.On)
	e.str(m.Actor)
}

func (m Maintenance) validate() error {
	if len(m.Actor) > MaxActor {
		return fmt.Errorf("maintenance: actor of %d bytes, at most %d allowed", len(m.Actor), MaxActor)
	}
	return validNode("maintenance", m.Node)
}

func (s SetGroups) encode(e *encoder) {
	e.count(len(s.Groups))
	for _, g := range s.Groups {
		encodeGroup(e, g)
	}
}

func (s SetGroups) validate() error      { return ValidateGroups(s.Groups) }
func (p PutMember) encode(e *encoder)    { encodeMember(e, p.Member) }
func (p PutMember) validate() error      { return p.Member.Validate() }
func (r RemoveMember) encode(e *encoder) { e.u64(r.RaftID) }
func (r RemoveMember) validate() error   { return validNode("remove member", r.RaftID) }

func validNode(what string, id uint64) error {
	if !ValidRaftID(id) {
		return fmt.Errorf("%s: node %x is reserved", what, id)
	}
	return nil
}

// KindOf returns the kind of an encoded command without decoding it; false for
// an empty entry or an unknown version.
func KindOf(data []byte) (Kind, bool) {
	if len(data) < 2 || data[0] != commandVersion {
		return 0, false
	}
	return Kind(data[1]), true
}
