package storage

import (
	"errors"
	"fmt"

	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Every committed entry that is not empty holds one command:
//
//	 0      1      2                10      12
//	+------+------+----------------+-------+-------+---------------- - -
//	| ver  | kind | wall time (ns) | bytes | actor | fields of the kind
//	+------+------+----------------+-------+-------+---------------- - -
//
// Integers are big-endian, strings and byte strings carry a 16-bit length.
// One command has exactly one encoding, so nodes can compare entries by hash.
const commandVersion = 2

// Limits of a command. They bound what a decoder allocates.
const (
	MaxCause   = 64  // bytes of a cause
	MaxActor   = 128 // bytes of Command.Actor
	MaxDetail  = 1024
	MaxNotes   = 16      // notes in one Assign
	MaxNote    = 256     // bytes of one note
	MaxCommand = 1 << 20 // of all but a Batch
	// MaxBatch bounds a command that carries data: one transaction of the
	// largest size, or many small ones.
	MaxBatch = kv.MaxTxnBytes + 1<<20
)

// ErrUnknownCommand marks an entry written by a newer version: going on
// without it would let this node's state drift from the others'.
var ErrUnknownCommand = errors.New("unknown command")

// Kind is the number of an operation in the log. Numbers are never reused.
type Kind uint8

// The kinds. 0 is invalid; 32 and up concern the data in the buckets alone.
const (
	KindAssign       Kind = 1
	KindFence        Kind = 2
	KindUnfence      Kind = 3
	KindMaintenance  Kind = 4
	KindSetGroups    Kind = 5
	KindPutMember    Kind = 6
	KindRemoveMember Kind = 7
	KindRecord       Kind = 8
	KindCheckpoint   Kind = 9
	KindLeave        Kind = 10
	KindBatch        Kind = 32
	KindExpire       Kind = 33
)

// Data reports whether a kind changes nothing but the buckets.
func (k Kind) Data() bool { return k >= KindBatch }

// Op is the content of a command: one of the types below.
type Op interface {
	kind() Kind
	encode(*encoder)
	validate() error
}

// Command is what one log entry asks for. At is wall time in nanoseconds
// since 1970 and Actor who asked, "" for the cluster itself; both are for
// people to read, and no decision uses them.
type Command struct {
	At    int64
	Actor string
	Op    Op
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
	Node uint64
	On   bool
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
	Cause  string // short, for the audit trail
}

// RemoveMember forgets the member with this raft id. It travels as the
// context of a raft configuration change.
type RemoveMember struct {
	RaftID uint64
	Cause  string // short, for the audit trail
}

// Leave takes a node out of raft's configuration whose member stays known: its
// data is lost, and it comes back under another raft id (F2). It travels as
// the context of a configuration change and changes nothing by itself.
type Leave struct {
	RaftID uint64
	Cause  string // short, for the audit trail
}

// Record puts an event into the audit trail that no other command tells.
type Record struct {
	Kind, Node, Group string
	Epoch             uint64
	Cause, Detail     string
}

// Checkpoint asks every node for the hash of its state at this entry.
type Checkpoint struct{}

// Batch is a number of requests to the buckets, executed in order.
type Batch struct {
	*kv.Batch
}

// Expire removes the keys whose time is over on the committed clock, which it
// moves to Clock (ns).
type Expire struct {
	Clock int64
}

func (Assign) kind() Kind       { return KindAssign }
func (Fence) kind() Kind        { return KindFence }
func (Unfence) kind() Kind      { return KindUnfence }
func (Maintenance) kind() Kind  { return KindMaintenance }
func (SetGroups) kind() Kind    { return KindSetGroups }
func (PutMember) kind() Kind    { return KindPutMember }
func (RemoveMember) kind() Kind { return KindRemoveMember }
func (Record) kind() Kind       { return KindRecord }
func (Checkpoint) kind() Kind   { return KindCheckpoint }
func (Leave) kind() Kind        { return KindLeave }
func (Batch) kind() Kind        { return KindBatch }
func (Expire) kind() Kind       { return KindExpire }

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
	if len(c.Actor) > MaxActor {
		return nil, fmt.Errorf("encode command: actor of %d bytes, at most %d allowed", len(c.Actor), MaxActor)
	}
	e.str(c.Actor)
	c.Op.encode(e)
	if limit := maxCommand(c.Op.kind()); len(e.b) > limit {
		return nil, fmt.Errorf("encode command: %d bytes, at most %d allowed", len(e.b), limit)
	}
	return e.b, nil
}

func maxCommand(k Kind) int {
	if k == KindBatch {
		return MaxBatch
	}
	return MaxCommand
}

// DecodeCommand parses entry data. The error wraps ErrUnknownCommand when a
// newer version must have written it.
func DecodeCommand(b []byte) (Command, error) { return decodeCommand(b, new(kv.Decoder)) }

func decodeCommand(b []byte, batches *kv.Decoder) (Command, error) {
	if kind, ok := KindOf(b); ok && len(b) > maxCommand(kind) {
		return Command{}, fmt.Errorf("read command: %d bytes, at most %d allowed", len(b), maxCommand(kind))
	}
	d := &decoder{b: b}
	if v := d.u8(); d.err == nil && v != commandVersion {
		return Command{}, fmt.Errorf("read command: version %d: %w", v, ErrUnknownCommand)
	}
	kind := Kind(d.u8())
	c := Command{At: int64(d.u64()), Actor: d.str(MaxActor, "actor")}
	op, err := decodeOp(d, kind, batches)
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

func decodeOp(d *decoder, kind Kind, batches *kv.Decoder) (Op, error) {
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
		return Maintenance{Node: d.u64(), On: d.bool()}, nil
	case KindSetGroups:
		return SetGroups{Groups: decodeGroups(d)}, nil
	case KindPutMember:
		return PutMember{Member: decodeMember(d), Cause: d.str(MaxCause, "cause")}, nil
	case KindRemoveMember:
		return RemoveMember{RaftID: d.u64(), Cause: d.str(MaxCause, "cause")}, nil
	case KindRecord:
		return decodeRecord(d), nil
	case KindCheckpoint:
		return Checkpoint{}, nil
	case KindLeave:
		return Leave{RaftID: d.u64(), Cause: d.str(MaxCause, "cause")}, nil
	case KindBatch:
		return decodeBatch(d, batches)
	case KindExpire:
		return Expire{Clock: int64(d.u64())}, nil
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
}

func (m Maintenance) validate() error { return validNode("maintenance", m.Node) }

func (s SetGroups) encode(e *encoder) {
	e.count(len(s.Groups))
	for _, g := range s.Groups {
		encodeGroup(e, g)
	}
}

func (s SetGroups) validate() error { return ValidateGroups(s.Groups) }

func (p PutMember) encode(e *encoder) {
	encodeMember(e, p.Member)
	e.str(p.Cause)
}

func (p PutMember) validate() error {
	return errors.Join(p.Member.Validate(), shorter("cause", p.Cause, MaxCause))
}

func (r RemoveMember) encode(e *encoder) {
	e.u64(r.RaftID)
	e.str(r.Cause)
}

func (r RemoveMember) validate() error {
	return errors.Join(validNode("remove member", r.RaftID), shorter("cause", r.Cause, MaxCause))
}

func (l Leave) encode(e *encoder) {
	e.u64(l.RaftID)
	e.str(l.Cause)
}

func (l Leave) validate() error {
	return errors.Join(validNode("leave", l.RaftID), shorter("cause", l.Cause, MaxCause))
}

func (r Record) encode(e *encoder) {
	e.str(r.Kind)
	e.str(r.Node)
	e.str(r.Group)
	e.u64(r.Epoch)
	e.str(r.Cause)
	e.str(r.Detail)
}

func decodeRecord(d *decoder) Record {
	return Record{
		Kind: d.str(MaxName, "event kind"), Node: d.str(MaxName, "node"), Group: d.str(MaxName, "group"),
		Epoch: d.u64(), Cause: d.str(MaxCause, "cause"), Detail: d.str(MaxDetail, "detail"),
	}
}

func (r Record) validate() error {
	if r.Kind == "" {
		return errors.New("record: no kind of event")
	}
	return errors.Join(shorter("event kind", r.Kind, MaxName), shorter("node", r.Node, MaxName), shorter("group", r.Group, MaxName),
		shorter("cause", r.Cause, MaxCause), shorter("detail", r.Detail, MaxDetail))
}

func shorter(what, v string, limit int) error {
	if len(v) > limit {
		return fmt.Errorf("%s of %d bytes, at most %d allowed", what, len(v), limit)
	}
	return nil
}

func (Checkpoint) encode(*encoder) {}
func (Checkpoint) validate() error { return nil }
func (b Batch) encode(e *encoder)  { e.b = b.Append(e.b) }
func (b Batch) validate() error    { return nil } // each request was checked where it came in
func (x Expire) encode(e *encoder) { e.u64(uint64(x.Clock)) }
func (x Expire) validate() error   { return nil }

func decodeBatch(d *decoder, batches *kv.Decoder) (Op, error) {
	if d.err != nil {
		return nil, fmt.Errorf("read command: %w", d.err)
	}
	b, err := batches.Decode(d.take(len(d.b)))
	if err != nil {
		return nil, fmt.Errorf("read command: %w", err)
	}
	return Batch{b}, nil
}

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
