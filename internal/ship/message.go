package ship

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Messages begin with their type; integers are big endian, byte strings carry
// a length of 32 bits. Each message has one encoding.
//
//	offer  1 | cluster 16 | term 8 | index 8 | sum 32 | size 8 | try 4 | meta | message
//	want   2 | index 8 | sum 32 | offset 8 | try 4 | flags 1
//	data   3 | index 8 | sum 32 | offset 8 | bytes
//	refuse 4 | index 8 | sum 32 | reason 1 | text
const (
	typeOffer  = 1
	typeWant   = 2
	typeData   = 3
	typeRefuse = 4
)

// Limits of the parts of messages in bytes. They bound what a decoder accepts.
const (
	MaxMeta    = 64 << 10
	MaxRaft    = 64 << 10 // Offer.Message
	MaxText    = 255
	MaxMessage = ChunkSize + 1<<10 // the largest frame: Data, or less
)

// ErrMessage means that bytes are not a message of this package.
var ErrMessage = errors.New("not a snapshot message")

// File names one snapshot file: equal names mean equal bytes.
type File struct {
	Index uint64   // last log index that it covers, at least 1
	Sum   [32]byte // SHA-256
}

// Offer announces a file. Term is that of the raft message: of two leaders the
// one of the higher term is believed.
type Offer struct {
	Cluster [16]byte
	Term    uint64
	File
	Size    int64  // of the file in bytes, at least 1
	Try     uint32 // number of this offer within the transfer, from 1
	Meta    []byte // what the receiver needs to open a file for it, up to MaxMeta
	Message []byte // raft's MsgSnap, up to MaxRaft
}

// Want says what the receiver has and that it wants what follows.
type Want struct {
	File
	Offset int64  // everything before is written
	Try    uint32 // of the newest Offer that has arrived, 0 for none
	// Resume: nothing beyond Offset that was sent before the Offer of that Try
	// will come; or, without a Try, a piece at Offset is missing.
	Resume bool
	// Done: the file is verified and published. Offset is its size, or 0 when
	// the receiver did not need it.
	Done bool
}

// Data is a piece of the file, 1 to ChunkSize bytes.
type Data struct {
	File
	Offset int64
	Bytes  []byte
}

// Reason says why a receiver does not take a file.
type Reason uint8

// The reasons.
const (
	OtherCluster Reason = 1 // the file belongs to another cluster
	Stale        Reason = 2 // the receiver is taking one of a newer leader
	Damaged      Reason = 3 // what arrived is not what was announced
	Storage      Reason = 4 // the receiver cannot store it
)

// String returns the reason in words for logs.
func (r Reason) String() string {
	switch r {
	case OtherCluster:
		return "of another cluster"
	case Stale:
		return "of a leader that is past"
	case Damaged:
		return "damaged"
	case Storage:
		return "cannot be stored"
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// Refuse ends a transfer.
type Refuse struct {
	File
	Reason Reason
	Text   string // for logs, up to MaxText bytes
}

// Message is an Offer, Want, Data or Refuse.
type Message interface {
	encode() []byte
	check() error
}

var (
	_ Message = Offer{}
	_ Message = Want{}
	_ Message = Data{}
	_ Message = Refuse{}
)

const (
	flagResume = 1
	flagDone   = 2
)

func appendFile(b []byte, f File) []byte {
	return append(binary.BigEndian.AppendUint64(b, f.Index), f.Sum[:]...)
}

func appendBytes(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

func (o Offer) encode() []byte {
	b := make([]byte, 0, 128+len(o.Meta)+len(o.Message))
	b = append(append(b, typeOffer), o.Cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, o.Term)
	b = appendFile(b, o.File)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Size))
	b = binary.BigEndian.AppendUint32(b, o.Try)
	return appendBytes(appendBytes(b, o.Meta), o.Message)
}

func (w Want) encode() []byte {
	b := appendFile(append(make([]byte, 0, 64), typeWant), w.File)
	b = binary.BigEndian.AppendUint64(b, uint64(w.Offset))
	b = binary.BigEndian.AppendUint32(b, w.Try)
	var flags byte
	if w.Resume {
		flags |= flagResume
	}
	if w.Done {
		flags |= flagDone
	}
	return append(b, flags)
}

func (d Data) encode() []byte {
	b := appendFile(append(make([]byte, 0, 64+len(d.Bytes)), typeData), d.File)
	b = binary.BigEndian.AppendUint64(b, uint64(d.Offset))
	return appendBytes(b, d.Bytes)
}

func (r Refuse) encode() []byte {
	b := appendFile(append(make([]byte, 0, 64+len(r.Text)), typeRefuse), r.File)
	return appendBytes(append(b, byte(r.Reason)), []byte(r.Text))
}

func (f File) check() error {
	if f.Index == 0 {
		return fmt.Errorf("%w: file of index 0", ErrMessage)
	}
	return nil
}

func (o Offer) check() error {
	switch {
	case o.Size < 1:
		return fmt.Errorf("%w: offer of %d bytes", ErrMessage, o.Size)
	case o.Term == 0 || o.Try == 0:
		return fmt.Errorf("%w: offer %d of term %d", ErrMessage, o.Try, o.Term)
	case len(o.Meta) > MaxMeta || len(o.Message) > MaxRaft:
		return fmt.Errorf("%w: offer with %d and %d bytes", ErrMessage, len(o.Meta), len(o.Message))
	}
	return o.File.check()
}

func (w Want) check() error {
	if w.Offset < 0 {
		return fmt.Errorf("%w: want at %d", ErrMessage, w.Offset)
	}
	return w.File.check()
}

func (d Data) check() error {
	if d.Offset < 0 || d.Offset > math.MaxInt64-ChunkSize || len(d.Bytes) == 0 || len(d.Bytes) > ChunkSize {
		return fmt.Errorf("%w: %d bytes of data at %d", ErrMessage, len(d.Bytes), d.Offset)
	}
	return d.File.check()
}

func (r Refuse) check() error {
	if r.Reason < OtherCluster || r.Reason > Storage || len(r.Text) > MaxText {
		return fmt.Errorf("%w: refusal %d with %d bytes", ErrMessage, r.Reason, len(r.Text))
	}
	return r.File.check()
}

// Encode returns the bytes of a message. One that Decode would refuse panics:
// it could only come from a broken caller.
func Encode(m Message) []byte {
	if err := m.check(); err != nil {
		panic(fmt.Sprintf("ship: encode: %v", err))
	}
	return m.encode()
}

// Decode reads exactly one message. Its byte strings are parts of raw, which
// must not be changed afterwards. Errors wrap ErrMessage.
func Decode(raw []byte) (Message, error) {
	if len(raw) == 0 || len(raw) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes", ErrMessage, len(raw))
	}
	d := &decoder{b: raw[1:]}
	var m Message
	switch raw[0] {
	case typeOffer:
		m = Offer{Cluster: [16]byte(d.take(16)), Term: d.u64(), File: d.file(), Size: int64(d.u64()), Try: d.u32(),
			Meta: d.bytes(MaxMeta), Message: d.bytes(MaxRaft)}
	case typeWant:
		w := Want{File: d.file(), Offset: int64(d.u64()), Try: d.u32()}
		flags := d.take(1)[0]
		w.Resume, w.Done = flags&flagResume != 0, flags&flagDone != 0
		d.bad = d.bad || flags&^(flagResume|flagDone) != 0
		m = w
	case typeData:
		m = Data{File: d.file(), Offset: int64(d.u64()), Bytes: d.bytes(ChunkSize)}
	case typeRefuse:
		m = Refuse{File: d.file(), Reason: Reason(d.take(1)[0]), Text: string(d.bytes(MaxText))}
	default:
		return nil, fmt.Errorf("%w: type %d", ErrMessage, raw[0])
	}
	if d.bad || len(d.b) > 0 {
		return nil, fmt.Errorf("%w: type %d cut short, over a limit, or %d bytes left over", ErrMessage, raw[0], len(d.b))
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// decoder reads fields; after the first that is not there all are zero.
type decoder struct {
	b   []byte
	bad bool
}

var zeros [64]byte // what take gives when there is nothing; longer than any fixed field

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return zeros[:min(n, len(zeros))]
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

func (d *decoder) file() File { return File{Index: d.u64(), Sum: [32]byte(d.take(32))} }

// bytes checks the length before it takes anything; nothing is nil.
func (d *decoder) bytes(limit int) []byte {
	n := d.u32()
	if uint64(n) > uint64(limit) {
		d.bad = true
	}
	if d.bad || n == 0 {
		return nil
	}
	return d.take(int(n))
}
