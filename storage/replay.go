package storage

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/wal"
)

// replayer builds a Log from its records. The checks are about meaning: the wal
// has already proved that the bytes are those that were written.
//
// A release takes away the oldest records, whole segments of them, once a later
// record says that a snapshot holds what they did. So what is seen may begin
// anywhere, and speak of snapshots that are gone, until that record comes.
type replayer struct {
	log     *Log
	follows base // the newest snapshot named so far; index 0 for none
	begun   bool // entries are there, or a snapshot was received
	// floating: the entry before the first one is not there and no snapshot so
	// far holds it; base is the index before the first entry, baseTerm 0.
	floating bool
	needs    uint64 // the log must follow a snapshot of this index or above
	headless bool   // something before the first record seen must have been released
}

func (p *replayer) replay(r wal.Record) error {
	switch r.Type {
	case recordEntry:
		return p.entry(r)
	case recordHard:
		return p.hard(r)
	case recordCompact, recordInstall:
		return p.base(r)
	case wal.TypeTruncate:
		return p.truncate(r)
	}
	return fmt.Errorf("record type %d: %w", r.Type, wal.ErrCorrupt)
}

// end checks what can be told only at the end; first is the last index of what
// was released.
func (p *replayer) end(first uint64) error {
	l := p.log
	if p.follows.index < p.needs || first > 0 && p.follows.index == 0 {
		return fmt.Errorf("the log up to index %d was released, the snapshot named is %d: %w", max(first, p.needs), p.follows.index, wal.ErrCorrupt)
	}
	if p.headless && first == 0 {
		return fmt.Errorf("the log was never released and does not begin at %d: %w", FirstIndex+1, wal.ErrCorrupt)
	}
	if c := l.hard.GetCommit(); c > l.last {
		return fmt.Errorf("commit %d behind the last entry %d: %w", c, l.last, wal.ErrCorrupt)
	}
	return nil
}

func (p *replayer) truncate(r wal.Record) error {
	l := p.log
	if r.Index <= l.hard.GetCommit() {
		return fmt.Errorf("cut at %d, commit is %d: %w", r.Index, l.hard.GetCommit(), wal.ErrCorrupt)
	}
	switch {
	case !p.begun:
		p.headless = true // what it voids was released
	case p.floating && r.Index <= l.base+1:
		// So was part of it; the entries begin anew.
		p.floating, p.begun = false, false
		l.restart(FirstIndex, FirstTerm)
	case r.Index > l.last+1:
		return fmt.Errorf("cut at %d outside of %d..%d: %w", r.Index, l.base+1, l.last+1, wal.ErrCorrupt)
	default:
		l.cut(r.Index)
	}
	return nil
}

func (p *replayer) entry(r wal.Record) error {
	l := p.log
	if !p.begun {
		p.begun = true
		if r.Index > l.last+1 {
			p.floating, p.headless, p.needs = true, true, r.Index-1
			l.restart(r.Index-1, 0)
		}
	}
	if r.Index != l.last+1 || r.Term < l.termAt(l.last) {
		return fmt.Errorf("entry %d term %d follows entry %d term %d: %w", r.Index, r.Term, l.last, l.termAt(l.last), wal.ErrCorrupt)
	}
	if len(r.Payload) == 0 {
		return fmt.Errorf("entry %d has no type: %w", r.Index, wal.ErrCorrupt)
	}
	typ := raftpb.EntryType(r.Payload[0])
	if typ > raftpb.EntryConfChangeV2 {
		return fmt.Errorf("entry %d is of type %d: %w", r.Index, typ, wal.ErrCorrupt)
	}
	e := &raftpb.Entry{Type: typ.Enum(), Index: new(r.Index), Term: new(r.Term)}
	if len(r.Payload) > 1 {
		e.Data = r.Payload[1:] // ours, see wal.Open; what is shared goes with its neighbours
	}
	l.entries = append(l.entries, e)
	l.last = r.Index
	l.live += entryBytes(e)
	return nil
}

func (p *replayer) hard(r wal.Record) error {
	if len(r.Payload) != hardBytes {
		return fmt.Errorf("hard state of %d bytes: %w", len(r.Payload), wal.ErrCorrupt)
	}
	term := binary.BigEndian.Uint64(r.Payload)
	vote := binary.BigEndian.Uint64(r.Payload[8:])
	commit := binary.BigEndian.Uint64(r.Payload[16:])
	return p.setHard(term, vote, commit)
}

func (p *replayer) setHard(term, vote, commit uint64) error {
	l := p.log
	if term < l.hard.GetTerm() || commit < l.hard.GetCommit() {
		return fmt.Errorf("hard state term %d commit %d after term %d commit %d: %w",
			term, commit, l.hard.GetTerm(), l.hard.GetCommit(), wal.ErrCorrupt)
	}
	l.setHard(term, vote, commit)
	return nil
}

// base takes the record of a snapshot. One that was written here is part of the
// log so far; one that was received replaces it.
func (p *replayer) base(r wal.Record) error {
	b, err := decodeBase(r.Payload)
	if err != nil {
		return fmt.Errorf("record of a snapshot: %w: %w", err, wal.ErrCorrupt)
	}
	if b.index <= p.follows.index || r.Type == recordInstall && r.Index != b.index {
		return fmt.Errorf("snapshot %d in a record of %d, after snapshot %d: %w", b.index, r.Index, p.follows.index, wal.ErrCorrupt)
	}
	if err := p.setHard(b.hardTerm, b.hardVote, b.commit); err != nil {
		return err
	}
	p.follows = b
	l := p.log
	switch {
	case r.Type == recordInstall:
		p.begun, p.floating = true, false
		l.restart(b.index, b.term)
		return nil
	case !p.begun:
		p.headless = true
		l.restart(b.index, b.term)
		return nil
	case p.floating && b.index < l.base:
		return nil // entries between it and those here were released for a later one
	case p.floating && b.index == l.base:
		l.baseTerm = b.term
	case b.index <= l.base || b.index > l.last || l.termAt(b.index) != b.term:
		return fmt.Errorf("snapshot %d of term %d in a log of %d..%d: %w", b.index, b.term, l.base+1, l.last, wal.ErrCorrupt)
	}
	if l.baseTerm == 0 {
		// The term before the first entry is not known, that entry's own is.
		l.base, l.baseTerm = l.entries[0].GetIndex(), l.entries[0].GetTerm()
		l.entries = l.entries[1:]
	}
	p.floating = false
	l.forget(b.index)
	return nil
}
