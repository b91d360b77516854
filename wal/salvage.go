package wal

import (
	"errors"
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Origin is whose log a directory holds, by the newest header that is right.
type Origin struct {
	Cluster [16]byte
	Node    uint64
}

// Salvage reads what can still be read of a log, of whatever cluster and node,
// and writes nothing. Where Open stops at damage it goes on behind it: visit
// gets each record of callers (TypeTruncate too) in the order in which they were
// written, with the number of its run. Within a run nothing is missing; between
// two runs anything may be. The Recovery is that of Verify, whose damage is in
// it and no error of Salvage. Errors: ErrNoLog, those of visit, those of the
// disk but for sectors that cannot be read.
func Salvage(fsys vfs.FS, dir string, visit func(run int, r Record) error) (Origin, Recovery, error) {
	s := survey{fsys: fsys, dir: dir}
	sequences, err := s.list()
	if err != nil {
		return Origin{}, Recovery{}, err
	}
	v := salvage{survey: &s, visit: visit}
	for _, sequence := range sequences {
		if err := v.segment(sequence); err != nil {
			return Origin{}, Recovery{}, fmt.Errorf("salvage log: %w", err)
		}
	}
	recovery, err := Verify(fsys, dir)
	if errors.Is(err, ErrCorrupt) {
		err = nil
	}
	return v.origin, recovery, err
}

// salvage is where a Salvage has come to.
type salvage struct {
	survey *survey
	visit  func(run int, r Record) error
	origin Origin
	run    int
	begun  bool // the run has records
	before link // where the segment before ended
}

// link is what the header of a segment says of the end of the one before.
type link struct {
	salt, end, first uint64
	crc              uint32
}

// gap ends a run: something is missing here.
func (v *salvage) gap() {
	if v.begun {
		v.run++
	}
	v.begun, v.before = false, link{}
}

func (v *salvage) segment(sequence uint64) error {
	sc, _, err := v.survey.load(sequence)
	if errors.Is(err, ErrCorrupt) {
		v.gap()
		return nil
	}
	if err != nil {
		return err
	}
	h := &sc.head
	v.origin = Origin{Cluster: h.cluster, Node: h.node}
	if h.prevSalt == 0 || v.before != (link{salt: h.prevSalt, end: h.prevEnd, first: h.first, crc: h.prevCRC}) {
		v.gap()
	}
	for {
		b, end := sc.next()
		if end != nil {
			next, more := sc, false
			if end.verdict != Clean {
				next, more = sc.resync()
			}
			if !more {
				// Whatever is here, the next header knows whether it was part
				// of the log: at most the seal.
				v.before = link{salt: h.salt, end: uint64(sc.offset), first: sc.number + 1, crc: sc.prev}
				return nil
			}
			v.gap()
			sc = next
			continue
		}
		if b.seal() != nil {
			v.before = link{salt: h.salt, end: uint64(sc.lastOffset), first: sc.number, crc: sc.lastPrev}
			return nil
		}
		for _, r := range b.records {
			if r.Type > MaxType && r.Type != TypeTruncate {
				continue
			}
			v.begun = true
			if err := v.visit(v.run, r); err != nil {
				return err
			}
		}
	}
}
