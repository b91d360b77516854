package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A scanner walks the batches of one segment that is in memory. It is pure; it
// never trusts a length, and it decides what the end of the segment means.
type scanner struct {
	buf  []byte // the whole file
	head header

	offset int64  // of the next batch
	number uint64 // of the next batch
	prev   uint32 // checksum of the batch frame before
	// The state before the last batch, which a seal leaves out.
	lastOffset int64
	lastPrev   uint32
}

// newScanner begins at the first batch; crc is the checksum of the header.
func newScanner(buf []byte, head header, crc uint32) *scanner {
	return &scanner{
		buf: buf, head: head, offset: headerBytes, number: head.first, prev: crc,
		lastOffset: headerBytes, lastPrev: crc,
	}
}

// batch is one that is complete and whose checksums are right.
type batch struct {
	offset  int64
	number  uint64
	bytes   int64
	records []Record
}

// seal returns the seal record of a batch that is one, else nil.
func (b *batch) seal() *Record {
	if last := &b.records[len(b.records)-1]; last.Type == TypeSeal {
		return last
	}
	return nil
}

// ending says what follows the last good batch.
type ending struct {
	verdict Verdict
	why     string
	// torn is the number of bytes from the offset of the scanner to the end of
	// the last sector of the batch that was cut short.
	torn int64
}

func corrupt(format string, args ...any) *ending {
	return &ending{verdict: Corrupt, why: fmt.Sprintf(format, args...)}
}

// next returns the next good batch, or how the segment ends.
func (s *scanner) next() (*batch, *ending) {
	if s.offset+blockBytes > int64(len(s.buf)) {
		return nil, &ending{verdict: Clean, why: "segment is full"}
	}
	if !s.tagged(s.offset) {
		return nil, s.unheaded()
	}
	f, crc, ok := decodeFrame(s.buf[s.offset:], position(s.offset))
	if !ok {
		return nil, s.badHead()
	}
	if end := s.checkHead(f); end != nil {
		return nil, end
	}
	size := batchSize(int64(f.length))
	for at := s.offset; at < s.offset+size; at += sectorBytes {
		if !s.tagged(at) {
			return nil, s.torn(size, fmt.Sprintf("sector at %d of batch %d was never written", at, s.number))
		}
	}
	records, why := s.decode(f, size)
	if why != "" {
		return nil, corrupt("batch %d: %s", s.number, why)
	}
	b := &batch{offset: s.offset, number: s.number, bytes: size, records: records}
	s.lastOffset, s.lastPrev = s.offset, s.prev
	s.offset, s.number, s.prev = s.offset+size, s.number+1, crc
	return b, nil
}

// tagged tells whether the sector at offset was written by the next batch.
func (s *scanner) tagged(offset int64) bool {
	return sectorTag(s.buf, offset) == tagOf(s.head.salt, s.number)
}

// checkHead refuses a batch frame that is not the next one. Its checksum and
// the tag of its sector are right, so nothing here can be the end of a write.
func (s *scanner) checkHead(f frame) *ending {
	switch prev := uint32(f.term); {
	case f.typ != TypeBatch || f.salt != s.head.salt || f.index != s.number:
		return corrupt("frame of type %d, number %d where batch %d belongs", f.typ, f.index, s.number)
	case prev != s.prev:
		return corrupt("batch %d follows checksum %08x, the log has %08x", s.number, prev, s.prev)
	case int64(f.synced) > s.offset || int64(f.synced) < headerBytes:
		return corrupt("batch %d at %d was synced up to %d", s.number, s.offset, f.synced)
	case s.offset+batchSize(int64(f.length)) > int64(len(s.buf)):
		return corrupt("batch %d of %d bytes passes the end of the segment", s.number, f.length)
	}
	return nil
}

// decode returns the records of a batch whose sectors are all there, or what is
// wrong with them.
func (s *scanner) decode(head frame, size int64) ([]Record, string) {
	data := unstripe(s.buf[s.offset : s.offset+size])
	if got := checksum(data[frameBytes:]); got != head.payloadCRC {
		return nil, fmt.Sprintf("checksum %08x, computed %08x", head.payloadCRC, got)
	}
	count := head.term >> 32
	if count == 0 || count*frameBytes > uint64(head.length) {
		return nil, fmt.Sprintf("%d records in %d bytes", count, head.length)
	}
	records := make([]Record, 0, count)
	base := position(s.offset)
	pos, end := int64(frameBytes), frameBytes+int64(head.length)
	for ; count > 0; count-- {
		f, _, ok := decodeFrame(data[pos:end], base+uint64(pos))
		if !ok || f.salt != s.head.salt || f.synced != head.synced || f.typ == 0 || f.typ == TypeBatch {
			return nil, fmt.Sprintf("frame at %d of the data is damaged", pos)
		}
		next := pos + recordSize(int(f.length))
		if next > end {
			return nil, fmt.Sprintf("payload of %d bytes at %d of the data passes the batch", f.length, pos)
		}
		payload := data[pos+frameBytes : pos+frameBytes+int64(f.length) : pos+frameBytes+int64(f.length)]
		if checksum(payload) != f.payloadCRC {
			return nil, fmt.Sprintf("payload checksum at %d of the data", pos)
		}
		records = append(records, Record{Type: f.typ, Index: f.index, Term: f.term, Payload: payload})
		pos = next
	}
	if pos != end {
		return nil, fmt.Sprintf("%d bytes after the last record", end-pos)
	}
	return records, ""
}

// unheaded judges an end without the first sector of a batch: nothing at all,
// or a batch whose first sector did not make it.
func (s *scanner) unheaded() *ending {
	last := s.lastTagged()
	if last < 0 {
		if proof := s.proof(); proof != "" {
			return corrupt("batch %d is gone, but %s was written after it was durable", s.number, proof)
		}
		return &ending{verdict: Clean, why: "end of log"}
	}
	return s.torn(last+sectorBytes-s.offset,
		fmt.Sprintf("first sector of batch %d was never written", s.number))
}

// badHead judges a batch whose first sector was written whole, but whose frame
// is damaged, so that its length is not known. Sectors that form one run of
// whole blocks may be all of it: then it may have been acknowledged.
func (s *scanner) badHead() *ending {
	last := s.lastTagged()
	size := last + sectorBytes - s.offset
	if size%blockBytes == 0 {
		whole := true
		for at := s.offset; at < last; at += sectorBytes {
			whole = whole && s.tagged(at)
		}
		if whole {
			return corrupt("frame of batch %d is damaged", s.number)
		}
	}
	return s.torn(size, fmt.Sprintf("batch %d lacks a sector and its frame is damaged", s.number))
}

// torn is the verdict on a batch that lacks a sector, unless something proves
// that it was durable.
func (s *scanner) torn(size int64, why string) *ending {
	if proof := s.proof(); proof != "" {
		return corrupt("%s, but %s was written after it was durable", why, proof)
	}
	if last := s.lastTagged(); last >= 0 {
		size = min(size, last+sectorBytes-s.offset)
	}
	return &ending{verdict: TornTail, why: why, torn: size}
}

// lastTagged returns the offset of the last sector of the next batch, or -1.
func (s *scanner) lastTagged() int64 {
	tag := tagOf(s.head.salt, s.number)
	for at := int64(len(s.buf)) - sectorBytes; at >= s.offset; at -= sectorBytes {
		if sectorTag(s.buf, at) == tag {
			return at
		}
	}
	return -1
}

// proof names something that was written when the next batch was durable, "" if
// there is nothing.
func (s *scanner) proof() string {
	if at, ok := s.evidence(); ok {
		return fmt.Sprintf("the frame at data byte %d", at)
	}
	if at, ok := s.laterTag(); ok {
		return fmt.Sprintf("the sector at %d", at)
	}
	return ""
}

// laterTags is how many numbers after the next batch laterTag looks for. A batch
// is written after the sync of the one before, so one tag would do, were there
// not the stale tags of a recycled file: of its 4096 blocks of random tags, one
// passes for one of 16 numbers in 1 of 65000 recoveries.
const laterTags = 16

// laterTag looks for a sector of a later batch: its frames may be damaged, so
// that evidence sees nothing of it.
func (s *scanner) laterTag() (at int64, ok bool) {
	later := make(map[uint32]bool, laterTags)
	for n := uint64(1); n <= laterTags; n++ {
		later[tagOf(s.head.salt, s.number+n)] = true
	}
	for at := s.offset; at < int64(len(s.buf)); at += sectorBytes {
		if tag := sectorTag(s.buf, at); tag != 0 && later[tag] {
			return at, true
		}
	}
	return 0, false
}

// evidence looks for a frame of this segment that was written when the bytes at
// the offset of the scanner were durable already: its synced offset is beyond.
// Block order on disk proves nothing (a later block may be there without an
// earlier one); a promise that was written after a sync does.
func (s *scanner) evidence() (at int64, ok bool) {
	data := unstripe(s.buf[s.offset:])
	base := position(s.offset)
	var salt [8]byte
	binary.LittleEndian.PutUint64(salt[:], s.head.salt)
	for from := 0; ; {
		i := bytes.Index(data[from:], salt[:])
		if i < 0 {
			return 0, false
		}
		start := from + i - frameSaltOffset
		from += i + 1
		if start < 0 || start%alignBytes != 0 {
			continue
		}
		f, _, ok := decodeFrame(data[start:], base+uint64(start))
		if ok && f.salt == s.head.salt && f.synced > uint64(s.offset) {
			return int64(base) + int64(start), true
		}
	}
}

// untouched tells whether nothing was ever written after the header.
func (s *scanner) untouched() bool {
	return s.lastTagged() < 0 && s.proof() == ""
}
