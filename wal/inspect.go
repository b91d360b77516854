package wal

import (
	"errors"
	"fmt"
	"path"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// ItemState says whether an Item is what was written.
type ItemState uint8

// The states of an Item.
const (
	ItemGood ItemState = iota + 1
	// ItemDamagedPayload is a record of a damaged batch whose frame is right,
	// so its type, index and term can be trusted, but not its payload.
	ItemDamagedPayload
	// ItemSuspect is a record of a damaged or torn batch that is right itself.
	ItemSuspect
	// ItemDamaged is a batch that cannot be read.
	ItemDamaged
	// ItemTorn is a batch that was never completely written.
	ItemTorn
)

func (s ItemState) String() string {
	switch s {
	case ItemGood:
		return "good"
	case ItemDamagedPayload:
		return "damaged payload"
	case ItemSuspect:
		return "in a bad batch"
	case ItemDamaged:
		return "damaged"
	case ItemTorn:
		return "torn"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Item is one record, or one batch that is damaged or torn (Type is TypeBatch).
type Item struct {
	Segment string // path
	Offset  int64  // of the batch in the file, bytes
	Batch   uint64 // number of the batch; 0 where it cannot be told
	Type    uint8
	Index   uint64
	Term    uint64
	Length  int // of the payload, bytes
	State   ItemState
	Why     string // what is wrong, "" when good
}

// Verify reads a log as Open does, of whatever cluster and node, and writes and
// syncs nothing. A damaged log is a *CorruptError, and its Recovery is filled.
func Verify(fsys vfs.FS, dir string) (Recovery, error) {
	s := survey{fsys: fsys, dir: dir}
	err := s.run()
	return s.Recovery, err
}

// Inspect shows every record that is on disk, past damage too, and then returns
// what Verify says. It writes nothing. Segments that a crash left behind, which
// are no part of the log, are shown as well. An error of visit ends it.
func Inspect(fsys vfs.FS, dir string, visit func(Item) error) (Recovery, error) {
	s := survey{fsys: fsys, dir: dir}
	sequences, err := s.list()
	if err != nil {
		return Recovery{}, err
	}
	for _, sequence := range sequences {
		if err := s.inspect(sequence, visit); err != nil {
			return Recovery{}, err
		}
	}
	return Verify(fsys, dir)
}

func (s *survey) inspect(sequence uint64, visit func(Item) error) error {
	name := path.Join(s.dir, segmentName(sequence))
	sc, _, err := s.load(sequence)
	var damage *CorruptError
	if errors.As(err, &damage) {
		return visit(Item{Segment: name, Offset: damage.Offset, Type: TypeBatch, State: ItemDamaged, Why: damage.Why})
	}
	if err != nil {
		return err
	}
	for {
		b, end := sc.next()
		if end == nil {
			if err := visitBatch(name, b, visit); err != nil {
				return err
			}
			continue
		}
		if end.verdict == Clean {
			return nil
		}
		item := Item{Segment: name, Offset: sc.offset, Batch: sc.number, Type: TypeBatch, State: ItemDamaged, Why: end.why}
		if end.verdict == TornTail {
			item.State = ItemTorn
		}
		if err := visit(item); err != nil {
			return err
		}
		next, ok := sc.resync()
		limit := int64(len(sc.buf))
		if ok {
			limit = next.offset
		}
		if err := visitRemains(name, sc, limit, visit); err != nil {
			return err
		}
		if !ok {
			return nil
		}
		sc = next
	}
}

func visitBatch(name string, b *batch, visit func(Item) error) error {
	for i := range b.records {
		r := &b.records[i]
		err := visit(Item{
			Segment: name, Offset: b.offset, Batch: b.number, Type: r.Type,
			Index: r.Index, Term: r.Term, Length: len(r.Payload), State: ItemGood,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// visitRemains shows the records between a bad batch and limit whose frames are
// right: index and term survive a damaged payload, and say what to fetch again.
func visitRemains(name string, sc *scanner, limit int64, visit func(Item) error) error {
	data := unstripe(sc.buf[sc.offset:limit])
	base := position(sc.offset)
	for pos := int64(0); pos+frameBytes <= int64(len(data)); pos += alignBytes {
		f, _, ok := decodeFrame(data[pos:], base+uint64(pos))
		if !ok || f.salt != sc.head.salt || f.typ == TypeBatch || f.typ == 0 {
			continue
		}
		item := Item{
			Segment: name, Offset: sc.offset + pos/blockData*blockBytes, Type: f.typ,
			Index: f.index, Term: f.term, Length: int(f.length), State: ItemSuspect, Why: "in a bad batch",
		}
		from, to := pos+frameBytes, pos+frameBytes+int64(f.length)
		if to > int64(len(data)) || checksum(data[from:to]) != f.payloadCRC {
			item.State, item.Why = ItemDamagedPayload, "payload checksum"
		}
		if err := visit(item); err != nil {
			return err
		}
	}
	return nil
}

// resync returns a scanner at the next batch frame behind a bad batch.
func (s *scanner) resync() (*scanner, bool) {
	for at := s.offset + blockBytes; at+blockBytes <= int64(len(s.buf)); at += blockBytes {
		f, _, ok := decodeFrame(s.buf[at:], position(at))
		if ok && f.typ == TypeBatch && f.salt == s.head.salt && f.index > s.number {
			next := newScanner(s.buf, s.head, uint32(f.term))
			next.offset, next.number = at, f.index
			return next, true
		}
	}
	return nil, false
}
