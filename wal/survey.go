package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Recovery is what was found when a log was read.
type Recovery struct {
	Verdict Verdict
	// Segments of the log, and the records in them that belong to callers,
	// truncations included.
	Segments, Records int
	// FirstIndex is the last index before the oldest segment began, and
	// LastIndex the last one in the log: the index of the last record that has
	// one, less what truncations void. 0 for none.
	FirstIndex, LastIndex uint64
	// Segment and Offset are where the log ends, or where it is damaged.
	Segment string
	Offset  int64
	// TornBytes is the length of what a torn tail had written, and Why says
	// what is wrong with it.
	TornBytes int64
	Why       string
}

// segment is one file of the log.
type segment struct {
	name     string
	head     header
	maxIndex uint64 // highest index of a record in it
}

// survey reads a log from its first segment to its end and changes nothing.
type survey struct {
	fsys vfs.FS
	dir  string
	// reload syncs each file before it is read, so that no decision rests on
	// bytes that a power cut could still take (they may be there since a
	// process died between its write and its sync).
	reload bool
	// stepped reads each segment when it is asked for, on no other goroutine.
	stepped bool
	// pace, unless nil, is asked before so many bytes are read.
	pace func(bytes int) error
	// only, unless nil, must match each header.
	only *header
	// visit gets each record of callers, in order.
	visit func(Record) error

	Recovery
	segments []segment
	spare    [][]byte // memory of segments that are done with
	oldest   uint64   // lowest sequence that is part of the log
	stale    []string // segments below it and temporary files, left by a crash
	drop     string   // an unused segment after the last, "" for none
	tail     *scanner // at the end of the last segment; nil when corrupt
	tailHead uint32   // checksum of the header of the last segment
}

// damaged returns the CorruptError of a place in a segment.
func (s *survey) damaged(name string, offset int64, format string, args ...any) error {
	return &CorruptError{Segment: path.Join(s.dir, name), Offset: offset, Why: fmt.Sprintf(format, args...)}
}

// run reads the log. Its error is a *CorruptError, ErrNoLog, ErrForeign, one of
// visit or one of the disk; Recovery is filled as far as it came.
func (s *survey) run() error {
	err := s.read()
	var damage *CorruptError
	if errors.As(err, &damage) {
		s.Verdict, s.Segment, s.Offset, s.Why = Corrupt, damage.Segment, damage.Offset, damage.Why
		s.tail = nil
	}
	return err
}

func (s *survey) read() error {
	if s.reload {
		if err := s.fsys.SyncDir(s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sync log directory: %w", err)
		}
	}
	sequences, err := s.list()
	if err != nil {
		return err
	}
	last := sequences[len(sequences)-1]
	damaged := false
	if s.oldest, damaged, err = s.findOldest(last); err != nil {
		return err
	}
	if damaged {
		s.oldest = max(s.oldest, runStart(sequences))
	}
	for len(sequences) > 0 && sequences[0] < s.oldest {
		s.stale = append(s.stale, segmentName(sequences[0]))
		sequences = sequences[1:]
	}
	next := s.oldest
	for _, sequence := range sequences {
		if sequence != next {
			return s.damaged(segmentName(next), 0, "segment is missing, %s is there", segmentName(sequence))
		}
		next++
	}
	if len(sequences) == 0 {
		return s.damaged(segmentName(s.oldest), 0, "segment is missing, the log begins with it")
	}
	return s.readAll(sequences)
}

// list returns the sequences in the directory, at least one, and notes the
// temporary files.
func (s *survey) list() ([]uint64, error) {
	names, err := s.fsys.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoLog, err)
	}
	if err != nil {
		return nil, fmt.Errorf("list log directory: %w", err)
	}
	var sequences []uint64
	for _, name := range names {
		if sequence, ok := parseSegmentName(name); ok {
			sequences = append(sequences, sequence)
		} else if strings.HasSuffix(name, tempSuffix) {
			s.stale = append(s.stale, name)
		}
	}
	if len(sequences) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoLog, s.dir)
	}
	slices.Sort(sequences)
	return sequences, nil
}

// findOldest returns the lowest sequence that is part of the log. The header of
// the last segment knows what was released before it began; the rest is in it.
// When the last segment is damaged, the answer may be too low.
func (s *survey) findOldest(last uint64) (oldest uint64, damaged bool, err error) {
	sc, _, err := s.load(last)
	if err != nil {
		return 0, false, err
	}
	oldest = sc.head.oldest
	for {
		b, end := sc.next()
		if end != nil {
			return oldest, end.verdict == Corrupt, nil
		}
		for i := range b.records {
			if b.records[i].Type == TypeRelease {
				oldest = max(oldest, b.records[i].Index)
			}
		}
		if oldest > last {
			return 0, false, s.damaged(segmentName(last), b.offset,
				"releases segments below %d, itself included", oldest)
		}
	}
}

// runStart returns the lowest sequence from which none is missing up to the
// last. A log that is damaged in its last segment is read from there, so that
// what is reported is the damage and not a gap that a lost release mark leaves.
func runStart(sequences []uint64) uint64 {
	i := len(sequences) - 1
	for i > 0 && sequences[i-1] == sequences[i]-1 {
		i--
	}
	return sequences[i]
}

// load reads a segment into memory and checks its header.
func (s *survey) load(sequence uint64) (*scanner, uint32, error) {
	return s.loadInto(sequence, nil)
}

// loadInto uses the memory of buf when it is enough.
func (s *survey) loadInto(sequence uint64, buf []byte) (*scanner, uint32, error) {
	name := segmentName(sequence)
	buf, err := s.readSegment(name, buf)
	if err != nil {
		return nil, 0, err
	}
	head, crc, err := decodeHeader(buf[:headerBytes])
	switch {
	case err != nil:
		return nil, 0, s.damaged(name, 0, "%v", err)
	case head.sequence != sequence:
		return nil, 0, s.damaged(name, 0, "header says sequence %d", head.sequence)
	case head.size != uint64(len(buf)):
		return nil, 0, s.damaged(name, int64(len(buf)), "file has %d bytes, header says %d", len(buf), head.size)
	case s.only != nil && (head.cluster != s.only.cluster || head.node != s.only.node):
		return nil, 0, fmt.Errorf("%w: %s is of cluster %x node %016x, want cluster %x node %016x", ErrForeign,
			path.Join(s.dir, name), head.cluster, head.node, s.only.cluster, s.only.node)
	}
	return newScanner(buf, head, crc), crc, nil
}

// loaded is what load returns.
type loaded struct {
	sc  *scanner
	crc uint32
	err error
}

// ahead loads a segment while the one before is checked and replayed, so that a
// start takes the longer of both times and not their sum. The result waits.
func (s *survey) ahead(sequence uint64) func() loaded {
	var buf []byte
	if n := len(s.spare); n > 0 {
		buf, s.spare = s.spare[n-1], s.spare[:n-1]
	}
	done := make(chan loaded, 1)
	load := func() {
		sc, crc, err := s.loadInto(sequence, buf)
		done <- loaded{sc, crc, err}
	}
	if s.stepped {
		load()
	} else {
		go load()
	}
	return sync.OnceValue(func() loaded { return <-done })
}

// readBytes is how much of a segment is read at once.
const readBytes = 1 << 20

// readSegment returns a whole segment file; its length is within the limits.
func (s *survey) readSegment(name string, buf []byte) ([]byte, error) {
	f, err := s.fsys.OpenFile(path.Join(s.dir, name), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	buf, err = s.readOpen(f, name, buf)
	return buf, errors.Join(err, f.Close())
}

func (s *survey) readOpen(f vfs.File, name string, buf []byte) ([]byte, error) {
	if s.reload {
		if err := f.Reload(); err != nil {
			return nil, fmt.Errorf("sync segment: %w", err)
		}
	}
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("size segment: %w", err)
	}
	if size < minSegmentBytes || size > maxSegmentBytes || size%blockBytes != 0 {
		return nil, s.damaged(name, size, "file has %d bytes", size)
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	for from := int64(0); from < size; from += readBytes {
		part := buf[from:min(from+readBytes, size)]
		if s.pace != nil {
			if err := s.pace(len(part)); err != nil {
				return nil, err
			}
		}
		_, err := io.ReadFull(io.NewSectionReader(f, from, int64(len(part))), part)
		if vfs.Unreadable(err) {
			return nil, s.damaged(name, from, "cannot be read: %v", err)
		}
		if err != nil {
			return nil, fmt.Errorf("read segment %s: %w", name, err)
		}
	}
	return buf, nil
}

// readAll reads the segments, which follow one another, and checks the chain.
func (s *survey) readAll(sequences []uint64) error {
	var before *chain
	next := s.ahead(sequences[0])
	// The one that is being read is waited for: nothing touches the files after
	// the return.
	defer func() { _ = next() }()
	for i, sequence := range sequences {
		l := next()
		sc, crc := l.sc, l.crc
		if l.err != nil {
			return l.err
		}
		if i == 0 {
			s.FirstIndex, s.LastIndex = sc.head.base, sc.head.base
			if s.only == nil {
				s.only = &sc.head
			}
		}
		if i+1 < len(sequences) {
			next = s.ahead(sequences[i+1])
		}
		if err := s.checkChain(before, sc, crc); err != nil {
			return err
		}
		s.segments = append(s.segments, segment{name: segmentName(sequence), head: sc.head})
		s.tailHead = crc
		end, sealed, err := s.readSegmentRecords(sc)
		if err != nil {
			return err
		}
		isLast := i == len(sequences)-1
		switch {
		case sealed != nil && isLast:
			return s.damaged(segmentName(sealed.Index), 0, "segment is missing, the one before names it as next")
		case sealed != nil:
			before = &chain{sc: sc, seal: sealed}
			s.spare = append(s.spare, sc.buf)
			continue
		case end.verdict == Corrupt:
			return s.damaged(segmentName(sequence), sc.offset, "%s", end.why)
		case !isLast:
			if err := s.checkUnused(sc, end, sequences[i+1:], next); err != nil {
				return err
			}
		}
		s.finish(sc, end)
		return nil
	}
	return nil // not reached: the last segment ends above
}

// finish notes where the log ends.
func (s *survey) finish(sc *scanner, end *ending) {
	s.Verdict, s.TornBytes = end.verdict, end.torn
	if end.verdict != Clean {
		s.Why = end.why
	}
	s.Segment, s.Offset = path.Join(s.dir, segmentName(sc.head.sequence)), sc.offset
	s.tail = sc
}

// chain is what a sealed segment says of the next one.
type chain struct {
	sc   *scanner
	seal *Record
}

// checkChain checks that a segment is the one that followed the one before.
func (s *survey) checkChain(before *chain, sc *scanner, crc uint32) error {
	if before == nil {
		return nil
	}
	name := segmentName(sc.head.sequence)
	seal := before.seal
	if seal.Index != sc.head.sequence || seal.Term != sc.head.salt || sealCRC(seal) != crc {
		return s.damaged(name, 0, "not the segment that the one before names as next")
	}
	return s.checkLink(before.sc, before.sc.lastOffset, before.sc.lastPrev, before.sc.number, sc)
}

// checkLink checks what the header of next says of the segment before it: where
// its batches end, the checksum there, and the numbers.
func (s *survey) checkLink(sc *scanner, end int64, crc uint32, first uint64, next *scanner) error {
	h := &next.head
	name := segmentName(h.sequence)
	switch {
	case h.prevSalt != sc.head.salt || h.prevEnd != uint64(end) || h.prevCRC != crc:
		return s.damaged(name, 0, "follows a segment that ends at %d with %08x, the one before ends at %d with %08x",
			h.prevEnd, h.prevCRC, end, crc)
	case h.first != first:
		return s.damaged(name, 0, "begins with batch %d, want %d", h.first, first)
	case h.base != s.LastIndex:
		return s.damaged(name, 0, "begins after index %d, the log has %d", h.base, s.LastIndex)
	}
	return nil
}

// checkUnused decides on a segment that has no seal though others follow it.
// That is right only after a crash between the publishing of the next segment
// and the sync of the seal: then there is one more segment, never written to,
// which proves that everything up to its prevEnd was durable, and what is torn
// is at most the seal.
func (s *survey) checkUnused(sc *scanner, end *ending, later []uint64, load func() loaded) error {
	name := segmentName(sc.head.sequence)
	if len(later) > 1 {
		return s.damaged(name, sc.offset, "%s, but %d segments follow", end.why, len(later))
	}
	l := load()
	if l.err != nil {
		return l.err
	}
	next := l.sc
	if !next.untouched() {
		return s.damaged(name, sc.offset, "%s, but the next segment was in use", end.why)
	}
	if end.torn > sealBytes {
		return s.damaged(name, sc.offset, "%s, but the next segment was made after it was durable", end.why)
	}
	if err := s.checkLink(sc, sc.offset, sc.prev, sc.number+1, next); err != nil {
		// The damage is here: the next segment was made for more than is left.
		return s.damaged(name, sc.offset, "%s, but %v", end.why, err)
	}
	s.drop = segmentName(later[0])
	return nil
}

// readSegmentRecords visits the records of a segment up to its end or its seal.
func (s *survey) readSegmentRecords(sc *scanner) (*ending, *Record, error) {
	seg := &s.segments[len(s.segments)-1]
	s.Segments = len(s.segments)
	for {
		b, end := sc.next()
		if end != nil {
			return end, nil, nil
		}
		if seal := b.seal(); seal != nil {
			return nil, seal, nil
		}
		for i := range b.records {
			r := &b.records[i]
			if r.Type > MaxType && r.Type != TypeTruncate {
				continue
			}
			s.Records++
			s.LastIndex = nextIndex(s.LastIndex, r)
			seg.maxIndex = max(seg.maxIndex, entryIndex(r))
			if s.visit == nil {
				continue
			}
			if err := s.visit(*r); err != nil {
				return nil, nil, fmt.Errorf("replay record of index %d in %s: %w", r.Index, seg.name, err)
			}
		}
	}
}

// entryIndex is the index that keeps a segment from being released: a
// truncation concerns only records before it.
func entryIndex(r *Record) uint64 {
	if r.Type > MaxType {
		return 0
	}
	return r.Index
}

// nextIndex is the last index of a log after a record.
func nextIndex(last uint64, r *Record) uint64 {
	switch {
	case r.Type == TypeTruncate:
		return min(last, max(r.Index, 1)-1)
	case r.Type > MaxType || r.Index == 0:
		return last
	}
	return r.Index
}
