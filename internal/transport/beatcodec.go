package transport

import (
	"encoding/binary"
	"fmt"
)

// beatFormat is the first byte of an encoded beat. 0 is never a beat.
const beatFormat = 1

// Encoded beat: format u8, flags u8, health u8, incarnation u64, raft id u64,
// then uvarints sequence, term, config, applied, commit, then the lists in
// the order of the struct, each with its length as one byte. Random ids are
// u64 big endian, growing numbers minimal uvarints, groups u16.

// Encode returns the beat's bytes, at most MaxBeatSize. It refuses lists over
// their limits and a total over MaxBeatSize with ErrBeatTooLarge, and values
// that DecodeBeat would refuse with ErrBeatMalformed.
func (b *Beat) Encode() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	raw := b.append(make([]byte, 0, 512))
	if len(raw) > MaxBeatSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrBeatTooLarge, len(raw), MaxBeatSize)
	}
	return raw, nil
}

// Size returns the encoded size in bytes, also when it is over MaxBeatSize.
func (b *Beat) Size() int { return len(b.append(make([]byte, 0, 512))) }

// check holds for what may be sent and, with the same code, for what arrived.
func (b *Beat) check() error {
	lists := [...]struct {
		name       string
		len, limit int
	}{
		{"groups", len(b.Groups), MaxBeatGroups}, {"requests", len(b.Requests), MaxBeatRequests},
		{"acks", len(b.Acks), MaxBeatAcks}, {"refusals", len(b.Refusals), MaxBeatRefusals},
		{"seen", len(b.Seen), MaxBeatSeen}, {"macs", len(b.MACs), MaxBeatMACs},
		{"notes", len(b.Notes), MaxBeatNotes}, {"orders", len(b.Orders), MaxBeatOrders},
	}
	for _, l := range lists {
		if l.len > l.limit {
			return fmt.Errorf("%w: %d %s, limit %d", ErrBeatTooLarge, l.len, l.name, l.limit)
		}
	}
	if b.Flags&^knownFlags != 0 {
		return fmt.Errorf("%w: unknown flags %#x", ErrBeatMalformed, uint8(b.Flags&^knownFlags))
	}
	if b.Flags.Has(FlagAnswer) && len(b.Requests) > 0 {
		return fmt.Errorf("%w: answer with %d requests", ErrBeatMalformed, len(b.Requests))
	}
	for _, g := range b.Groups {
		if g.State >= stateEnd {
			return fmt.Errorf("%w: group %d in state %d", ErrBeatMalformed, g.Group, g.State)
		}
	}
	for _, n := range b.Notes {
		if len(n) == 0 || len(n) > MaxBeatNoteSize {
			return fmt.Errorf("%w: note of %d bytes", ErrBeatMalformed, len(n))
		}
	}
	for _, o := range b.Orders {
		if o.Kind == 0 || o.Kind >= orderEnd {
			return fmt.Errorf("%w: order of kind %d", ErrBeatMalformed, o.Kind)
		}
	}
	return nil
}

func (b *Beat) append(raw []byte) []byte {
	u16, u64, uv := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint64, binary.AppendUvarint
	raw = append(raw, beatFormat, byte(b.Flags), b.Health)
	raw = u64(u64(raw, b.Incarnation), b.RaftID)
	raw = uv(uv(uv(uv(uv(raw, b.Sequence), b.Term), b.Config), b.Applied), b.Commit)
	raw = append(raw, byte(len(b.Groups)))
	for _, g := range b.Groups {
		raw = uv(append(uv(u16(raw, g.Group), g.Epoch), byte(g.State)), g.StateEpoch)
	}
	raw = append(raw, byte(len(b.Requests)))
	for _, r := range b.Requests {
		raw = uv(uv(u16(raw, r.Group), r.Epoch), r.Config)
	}
	raw = append(raw, byte(len(b.Acks)))
	for _, a := range b.Acks {
		raw = uv(u64(uv(u16(u64(raw, a.To), a.Group), a.Epoch), a.Incarnation), a.Sequence)
	}
	raw = append(raw, byte(len(b.Refusals)))
	for _, r := range b.Refusals {
		raw = append(uv(uv(u16(u64(raw, r.To), r.Group), r.Epoch), r.Highest), r.Reason)
	}
	raw = append(raw, byte(len(b.Seen)))
	for _, s := range b.Seen {
		raw = uv(u64(u64(raw, s.Node), s.Incarnation), s.Sequence)
	}
	raw = append(raw, byte(len(b.MACs)))
	for _, m := range b.MACs {
		raw = append(raw, m[:]...)
	}
	raw = append(raw, byte(len(b.Notes)))
	for _, n := range b.Notes {
		raw = append(append(raw, byte(len(n))), n...)
	}
	raw = append(raw, byte(len(b.Orders)))
	for _, o := range b.Orders {
		raw = append(uv(u16(u64(raw, o.To), o.Group), o.Epoch), byte(o.Kind))
	}
	return raw
}

// DecodeBeat reads exactly one beat. It allocates no more than the limits of
// the lists and refuses trailing bytes, unknown flags and encodings that
// Encode does not produce, so that every beat has one encoding.
func DecodeBeat(raw []byte) (*Beat, error) {
	if len(raw) > MaxBeatSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrBeatTooLarge, len(raw), MaxBeatSize)
	}
	d := decoder{rest: raw}
	if format := d.u8(); format != beatFormat {
		return nil, fmt.Errorf("%w: format %d", ErrBeatMalformed, format)
	}
	b := &Beat{Flags: BeatFlags(d.u8()), Health: d.u8(), Incarnation: d.u64(), RaftID: d.u64(),
		Sequence: d.uvarint(), Term: d.uvarint(), Config: d.uvarint(), Applied: d.uvarint(), Commit: d.uvarint()}
	b.Groups = list(&d, MaxBeatGroups, func() GroupReport {
		return GroupReport{Group: d.u16(), Epoch: d.uvarint(), State: GroupState(d.u8()), StateEpoch: d.uvarint()}
	})
	b.Requests = list(&d, MaxBeatRequests, func() Request {
		return Request{Group: d.u16(), Epoch: d.uvarint(), Config: d.uvarint()}
	})
	b.Acks = list(&d, MaxBeatAcks, func() Ack {
		return Ack{To: d.u64(), Group: d.u16(), Epoch: d.uvarint(), Incarnation: d.u64(), Sequence: d.uvarint()}
	})
	b.Refusals = list(&d, MaxBeatRefusals, func() Refusal {
		return Refusal{To: d.u64(), Group: d.u16(), Epoch: d.uvarint(), Highest: d.uvarint(), Reason: d.u8()}
	})
	b.Seen = list(&d, MaxBeatSeen, func() Seen {
		return Seen{Node: d.u64(), Incarnation: d.u64(), Sequence: d.uvarint()}
	})
	b.MACs = list(&d, MaxBeatMACs, func() [6]byte { return [6]byte(d.bytes(6)) })
	b.Notes = list(&d, MaxBeatNotes, func() []byte { return append([]byte(nil), d.bytes(int(d.u8()))...) })
	b.Orders = list(&d, MaxBeatOrders, func() Order {
		return Order{To: d.u64(), Group: d.u16(), Epoch: d.uvarint(), Kind: OrderKind(d.u8())}
	})
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: cut short, %d bytes left over, or a number not in its shortest form", ErrBeatMalformed, len(d.rest))
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	return b, nil
}

// list reads a length byte and that many entries. A length over the limit
// allocates nothing; entries that are not there stop the loop.
func list[T any](d *decoder, limit int, read func() T) []T {
	n := int(d.u8())
	if n > limit {
		d.bad = true
	}
	if n == 0 || d.bad {
		return nil
	}
	out := make([]T, 0, n)
	for range n {
		v := read()
		if d.bad {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// decoder reads from the front of rest; after the first short read all reads
// give zeros and bad stays set.
type decoder struct {
	rest []byte
	bad  bool
}

var zeros [MaxBeatNoteSize]byte

func (d *decoder) bytes(n int) []byte {
	if d.bad || len(d.rest) < n {
		d.bad = true
		return zeros[:n] // n is a constant or one byte, never above len(zeros)
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) u8() byte    { return d.bytes(1)[0] }
func (d *decoder) u16() uint16 { return binary.BigEndian.Uint16(d.bytes(2)) }
func (d *decoder) u64() uint64 { return binary.BigEndian.Uint64(d.bytes(8)) }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	// A last byte of zero only pads: a second encoding of the same number.
	if d.bad || n <= 0 || (n > 1 && d.rest[n-1] == 0) {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}
