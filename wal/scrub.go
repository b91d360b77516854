package wal

import (
	"errors"
	"io/fs"
	"slices"
)

// Scrub reads the sealed segments again, as they are on disk, while the log is
// in use, and returns how many and how many bytes. pace, unless nil, is called
// before each piece is read, may wait, and ends the scrub with its error.
// Damage is a *CorruptError; nothing is changed, and the log works on: the
// caller decides. The segment in use is left to the next Open.
func (l *Log) Scrub(pace func(bytes int) error) (segments int, bytes int64, err error) {
	l.mu.Lock()
	list := l.meter.list
	l.mu.Unlock()
	for i := range list[:len(list)-1] {
		s := survey{
			fsys: l.opts.FS, dir: l.opts.Dir, reload: true, pace: pace,
			only: &header{cluster: l.opts.Cluster, node: l.opts.Node},
		}
		err := s.checkSealed(&list[i], &list[i+1])
		if err != nil && !l.holds(list[i].head.sequence) {
			continue // released meanwhile: the file is gone or is used anew
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = s.damaged(list[i].name, 0, "segment is missing")
		}
		if err != nil {
			return segments, bytes, err
		}
		segments++
		bytes += int64(list[i].head.size)
	}
	return segments, bytes, nil
}

// holds tells whether a segment is part of the log.
func (l *Log) holds(sequence uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.meter.list, func(s segment) bool { return s.head.sequence == sequence })
}

// checkSealed reads a segment that is complete; next is the one behind it.
func (s *survey) checkSealed(seg, next *segment) error {
	sc, _, err := s.load(seg.head.sequence)
	if err != nil {
		return err
	}
	if sc.head != seg.head {
		return s.damaged(seg.name, 0, "header is not the one that was written")
	}
	for {
		b, end := sc.next()
		if end != nil {
			return s.damaged(seg.name, sc.offset, "%s, but the segment was sealed", end.why)
		}
		seal := b.seal()
		if seal == nil {
			continue
		}
		_, crc := next.head.encode()
		if seal.Index != next.head.sequence || seal.Term != next.head.salt || sealCRC(seal) != crc {
			return s.damaged(seg.name, b.offset, "the seal does not name %s", next.name)
		}
		if uint64(b.offset) != next.head.prevEnd {
			return s.damaged(seg.name, b.offset, "sealed here, %s says at %d", next.name, next.head.prevEnd)
		}
		return nil
	}
}
