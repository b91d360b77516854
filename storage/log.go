package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/wal"
)

// MaxEntry is the largest data of one raft entry in bytes.
const MaxEntry = 8 << 20

// Types of the records in the log. 0 and 255 belong to the wal.
const (
	recordEntry uint8 = 1 // Index, Term; payload: entry type, data
	recordHard  uint8 = 2 // Index 0; payload: term, vote, commit
)

const hardBytes = 24

// LogOptions are what the owner of a Log decides.
type LogOptions struct {
	Logger       *slog.Logger
	SegmentBytes int64                                            // 0 = the wal's default
	OnSync       func(bytes int, records int, took time.Duration) // from the writer goroutine; may be nil
}

// Log is raft's log on disk with all its entries in memory; it implements
// raft.Storage. One goroutine owns it; only the done functions given to Save
// run on another, the wal's writer.
//
// Invariant: entries[i] has index snapshot index + 1 + i, terms never fall.
type Log struct {
	wal     *wal.Log
	snap    *raftpb.Snapshot // what the entries follow on; now always the first configuration
	entries []*raftpb.Entry
	hard    raftpb.HardState // newest, perhaps not yet written
	written raftpb.HardState // newest given to the wal
	last    uint64           // index of the newest entry
}

var _ raft.Storage = (*Log)(nil)

// OpenLog creates or reads the log that follows the first configuration.
// Recovery says what the wal found (F3); an error that wraps wal.ErrCorrupt
// means that the log must be set aside (SetAside), a *DamageError that it is
// missing or another's.
func (d *Data) OpenLog(o LogOptions) (*Log, *State, wal.Recovery, error) {
	invariant.Check(d.first != nil, "log of %s opened before its founding", d.dir)
	first := *d.first
	l := &Log{snap: first.Snapshot(), last: FirstIndex}
	l.setHard(FirstTerm, 0, FirstIndex)
	opts := wal.Options{
		FS: d.fs, Dir: d.path(dirLog), Cluster: first.ID(), Node: d.id,
		SegmentBytes: o.SegmentBytes, Logger: o.Logger, OnSync: o.OnSync,
	}
	if o.SegmentBytes == 0 {
		opts.MaxPayload = MaxEntry + 1
	}
	if d.founding {
		w, err := d.createLog(opts)
		if err != nil {
			return nil, nil, wal.Recovery{}, err
		}
		l.wal = w
		return l, d.NewState(), wal.Recovery{Verdict: wal.Clean}, nil
	}
	w, rec, err := wal.Open(opts, l.replay)
	if errors.Is(err, wal.ErrNoLog) || errors.Is(err, wal.ErrForeign) {
		return nil, nil, rec, d.damage("the log does not belong to the first configuration", err)
	}
	if err != nil {
		return nil, nil, rec, fmt.Errorf("open log: %w", err)
	}
	l.wal = w
	if c := l.hard.GetCommit(); c > l.last {
		return nil, nil, rec, fmt.Errorf("open log: commit %d behind the last entry %d: %w", c, l.last, errClose(w))
	}
	proto.Merge(&l.written, &l.hard)
	return l, d.NewState(), rec, nil
}

// errClose closes a log that turned out to be corrupt above the wal's own
// checks.
func errClose(w *wal.Log) error {
	if err := w.Close(); err != nil {
		return fmt.Errorf("%w (close: %w)", wal.ErrCorrupt, err)
	}
	return wal.ErrCorrupt
}

// createLog starts the log of a founding, over anything a power cut left of an
// earlier try.
func (d *Data) createLog(opts wal.Options) (*wal.Log, error) {
	if err := d.removeLog(); err != nil {
		return nil, fmt.Errorf("clear an unfinished log: %w", err)
	}
	w, err := wal.Create(opts)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	if err := d.fs.Remove(d.path(fileFounding)); err != nil {
		return nil, fmt.Errorf("end founding: %w (close: %w)", err, w.Close())
	}
	if err := d.fs.SyncDir(d.dir); err != nil {
		return nil, fmt.Errorf("end founding: %w (close: %w)", err, w.Close())
	}
	d.founding = false
	return w, nil
}

// replay takes one record of the wal. The checks are about meaning: the wal
// has already proved that the bytes are those that were written.
func (l *Log) replay(r wal.Record) error {
	switch r.Type {
	case recordEntry:
		return l.replayEntry(r)
	case recordHard:
		return l.replayHard(r)
	case wal.TypeTruncate:
		if r.Index <= l.hard.GetCommit() || r.Index > l.last+1 {
			return fmt.Errorf("cut at %d outside of %d..%d: %w", r.Index, l.hard.GetCommit()+1, l.last+1, wal.ErrCorrupt)
		}
		l.cut(r.Index)
		return nil
	}
	return fmt.Errorf("record type %d: %w", r.Type, wal.ErrCorrupt)
}

func (l *Log) replayEntry(r wal.Record) error {
	if r.Index <= l.snap.GetMetadata().GetIndex() {
		return nil // older than the snapshot, in a segment not yet released
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
		e.Data = slices.Clone(r.Payload[1:])
	}
	l.entries = append(l.entries, e)
	l.last = r.Index
	return nil
}

func (l *Log) replayHard(r wal.Record) error {
	if len(r.Payload) != hardBytes {
		return fmt.Errorf("hard state of %d bytes: %w", len(r.Payload), wal.ErrCorrupt)
	}
	term := binary.BigEndian.Uint64(r.Payload)
	vote := binary.BigEndian.Uint64(r.Payload[8:])
	commit := binary.BigEndian.Uint64(r.Payload[16:])
	if term < l.hard.GetTerm() || commit < l.hard.GetCommit() {
		return fmt.Errorf("hard state term %d commit %d after term %d commit %d: %w",
			term, commit, l.hard.GetTerm(), l.hard.GetCommit(), wal.ErrCorrupt)
	}
	l.setHard(term, vote, commit)
	return nil
}

func (l *Log) setHard(term, vote, commit uint64) {
	l.hard.Term, l.hard.Vote, l.hard.Commit = new(term), new(vote), new(commit)
}

// Save makes a change durable and calls done from the wal's writer goroutine
// once it is, in the order of the calls; the error it gives is final. An empty
// hs leaves the hard state as it is. A change of nothing but the commit index
// is kept and written with the next change: losing it costs nothing.
func (l *Log) Save(hs *raftpb.HardState, entries []*raftpb.Entry, done func(error)) {
	if !raft.IsEmptyHardState(hs) {
		invariant.Check(hs.GetTerm() >= l.hard.GetTerm() && hs.GetCommit() >= l.hard.GetCommit(),
			"hard state term %d commit %d after term %d commit %d", hs.GetTerm(), hs.GetCommit(), l.hard.GetTerm(), l.hard.GetCommit())
		l.setHard(hs.GetTerm(), hs.GetVote(), hs.GetCommit())
	}
	if len(entries) > 0 && entries[0].GetIndex() <= l.last {
		from := entries[0].GetIndex()
		invariant.Check(from > l.snap.GetMetadata().GetIndex(), "log cut at %d, before its snapshot %d", from, l.snap.GetMetadata().GetIndex())
		l.cut(from)
		l.wal.Truncate(from, func(error) {}) // a later done tells: errors stick
	}
	recs := make([]wal.Record, 0, len(entries)+1)
	for _, e := range entries {
		recs = append(recs, l.add(e))
	}
	// Entries before the hard state: a commit index never stands in the log
	// before the entries that it covers.
	if l.hard.GetTerm() != l.written.GetTerm() || l.hard.GetVote() != l.written.GetVote() || l.hard.GetCommit() != l.written.GetCommit() {
		recs = append(recs, l.hardRecord())
	}
	l.wal.Append(recs, done)
}

// KeepCommit remembers a commit index without writing it; the next Save does.
func (l *Log) KeepCommit(commit uint64) {
	invariant.Check(commit >= l.hard.GetCommit(), "commit %d after %d", commit, l.hard.GetCommit())
	l.hard.Commit = new(commit)
}

func (l *Log) add(e *raftpb.Entry) wal.Record {
	invariant.Check(e.GetIndex() == l.last+1 && e.GetTerm() >= l.termAt(l.last) && len(e.GetData()) <= MaxEntry,
		"entry %d term %d of %d bytes after entry %d term %d", e.GetIndex(), e.GetTerm(), len(e.GetData()), l.last, l.termAt(l.last))
	l.entries = append(l.entries, e)
	l.last = e.GetIndex()
	payload := append([]byte{byte(e.GetType())}, e.GetData()...)
	return wal.Record{Type: recordEntry, Index: e.GetIndex(), Term: e.GetTerm(), Payload: payload}
}

func (l *Log) hardRecord() wal.Record {
	b := make([]byte, 0, hardBytes)
	b = binary.BigEndian.AppendUint64(b, l.hard.GetTerm())
	b = binary.BigEndian.AppendUint64(b, l.hard.GetVote())
	b = binary.BigEndian.AppendUint64(b, l.hard.GetCommit())
	l.written.Term, l.written.Vote, l.written.Commit = l.hard.Term, l.hard.Vote, l.hard.Commit
	return wal.Record{Type: recordHard, Term: l.hard.GetTerm(), Payload: b}
}

// cut drops entries from index on. The slice is given a new array on the next
// append, because raft may still hold the old one.
func (l *Log) cut(from uint64) {
	n := from - l.snap.GetMetadata().GetIndex() - 1
	l.entries = l.entries[:n:n]
	l.last = from - 1
}

// Stage tells whether the log holds more than the first configuration.
func (l *Log) Stage() Stage {
	if l.last == FirstIndex {
		return Founded
	}
	return Used
}

// Stats returns the wal's figures.
func (l *Log) Stats() wal.Stats { return l.wal.Stats() }

// Failed is closed when the wal has failed, even if no Save waits for it; Err
// then says why. The owner closes its gate and exits.
func (l *Log) Failed() <-chan struct{} { return l.wal.Failed() }

// Err returns the wal's final error, nil while it works.
func (l *Log) Err() error { return l.wal.Err() }

// Close writes a commit index that was kept back, waits for the writer and
// closes the wal.
func (l *Log) Close() error {
	if l.hard.GetCommit() != l.written.GetCommit() {
		l.wal.Append([]wal.Record{l.hardRecord()}, func(error) {})
	}
	if err := l.wal.Close(); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// InitialState implements raft.Storage. The configuration is that of the
// snapshot, because every entry behind it is applied again after a start.
func (l *Log) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hs := &raftpb.HardState{}
	proto.Merge(hs, &l.hard)
	return hs, proto.Clone(l.snap.GetMetadata().GetConfState()).(*raftpb.ConfState), nil
}

// Entries implements raft.Storage.
func (l *Log) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	base := l.snap.GetMetadata().GetIndex()
	if lo <= base {
		return nil, raft.ErrCompacted
	}
	if lo > hi || hi > l.last+1 {
		return nil, raft.ErrUnavailable
	}
	out := l.entries[lo-base-1 : hi-base-1]
	size := uint64(0)
	for i, e := range out {
		size += uint64(proto.Size(e))
		if i > 0 && size > maxSize {
			out = out[:i]
			break
		}
	}
	return out[:len(out):len(out)], nil
}

// Term implements raft.Storage.
func (l *Log) Term(i uint64) (uint64, error) {
	if i < l.snap.GetMetadata().GetIndex() {
		return 0, raft.ErrCompacted
	}
	if i > l.last {
		return 0, raft.ErrUnavailable
	}
	return l.termAt(i), nil
}

func (l *Log) termAt(i uint64) uint64 {
	m := l.snap.GetMetadata()
	if i == m.GetIndex() {
		return m.GetTerm()
	}
	return l.entries[i-m.GetIndex()-1].GetTerm()
}

// LastIndex implements raft.Storage.
func (l *Log) LastIndex() (uint64, error) { return l.last, nil }

// FirstIndex implements raft.Storage.
func (l *Log) FirstIndex() (uint64, error) { return l.snap.GetMetadata().GetIndex() + 1, nil }

// Snapshot implements raft.Storage.
func (l *Log) Snapshot() (*raftpb.Snapshot, error) {
	return proto.Clone(l.snap).(*raftpb.Snapshot), nil
}

// NewState returns the state the entries apply to.
func (d *Data) NewState() *State { return NewState(*d.first) }
