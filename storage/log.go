package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	recordEntry   uint8 = 1 // Index, Term; payload: entry type, data
	recordHard    uint8 = 2 // Index 0; payload: term, vote, commit
	recordCompact uint8 = 3 // Index 0; payload: see base.encode
	recordInstall uint8 = 4 // Index of the snapshot; payload: the same
)

const hardBytes = 24

// LogOptions are what the owner of a Log decides.
type LogOptions struct {
	Logger       *slog.Logger
	SegmentBytes int64                                            // 0 = the wal's default
	OnSync       func(bytes int, records int, took time.Duration) // from the writer goroutine; may be nil
	// Stepped makes a log that works when Step is called, on no goroutine of its
	// own; Now and Notify are as in wal.Options, and may be nil.
	Stepped bool
	Now     func() time.Time
	Notify  func()
}

// Log is raft's log on disk with all its entries in memory; it implements
// raft.Storage. One goroutine owns it; only the done functions given to Save
// run on another, the wal's writer.
//
// Invariants: entries[i] has index base + 1 + i, terms never fall; base <= the
// index of snap <= last. Entries up to that of snap are there only for members
// that are a little behind.
type Log struct {
	wal      *wal.Log
	snaps    *Snapshots
	snap     *raftpb.Snapshot // the state that the log follows: the first configuration, then snapshots
	base     uint64           // index before the first entry
	baseTerm uint64           // its term
	entries  []*raftpb.Entry
	hard     raftpb.HardState // newest, perhaps not yet written
	written  raftpb.HardState // newest given to the wal
	last     uint64           // index of the newest entry
	live     int64            // bytes of the entries behind snap
}

var _ raft.Storage = (*Log)(nil)

// OpenLog creates or reads the log and returns it with the state that it
// follows: that of the first configuration or of a snapshot. Entries behind
// that are applied by the caller. Recovery says what the wal found (F3). An
// error that wraps wal.ErrCorrupt or a *DamageError means that the directory
// must be set aside (SetAside): log or snapshot are damaged, missing or
// another's.
func (d *Data) OpenLog(o LogOptions) (*Log, *State, wal.Recovery, error) {
	invariant.Check(d.first != nil, "log of %s opened before its founding", d.dir)
	first := *d.first
	d.snaps.setCluster(first.ID())
	l := &Log{snaps: d.snaps, snap: first.Snapshot(), base: FirstIndex, baseTerm: FirstTerm, last: FirstIndex}
	l.setHard(FirstTerm, 0, FirstIndex)
	opts := wal.Options{
		FS: d.fs, Dir: d.path(dirLog), Cluster: first.ID(), Node: d.id,
		SegmentBytes: o.SegmentBytes, Logger: o.Logger, OnSync: o.OnSync,
		Stepped: o.Stepped, Now: o.Now, Notify: o.Notify,
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
		d.opened.Store(w)
		return l, NewState(first), wal.Recovery{Verdict: wal.Clean}, nil
	}
	p := &replayer{log: l}
	w, rec, err := wal.Open(opts, p.replay)
	if errors.Is(err, wal.ErrNoLog) || errors.Is(err, wal.ErrForeign) {
		return nil, nil, rec, d.damage("the log does not belong to the first configuration", err)
	}
	if err != nil {
		return nil, nil, rec, fmt.Errorf("open log: %w", err)
	}
	l.wal = w
	state, err := d.follow(p, rec.FirstIndex)
	if err != nil {
		return nil, nil, rec, errors.Join(fmt.Errorf("open log: %w", err), w.Close())
	}
	proto.Merge(&l.written, &l.hard)
	d.opened.Store(w)
	return l, state, rec, nil
}

// follow checks that what was replayed is whole, and returns the state that it
// follows. The log was released up to index first.
func (d *Data) follow(p *replayer, first uint64) (*State, error) {
	l := p.log
	if err := p.end(first); err != nil {
		return nil, err
	}
	if p.follows.index == 0 {
		return NewState(*d.first), d.snaps.begin(SnapshotMeta{})
	}
	state, meta, err := d.snaps.load(p.follows.index, p.follows.term, p.follows.hash)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, d.damage(fmt.Sprintf("the log follows a snapshot at index %d, which is missing", p.follows.index), err)
	case errors.Is(err, wal.ErrCorrupt):
		return nil, d.damage("the snapshot cannot be read", err)
	case err != nil:
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	l.snap = meta.Raft()
	l.measure()
	return state, d.snaps.begin(meta)
}

// createLog starts the log of a founding, over anything a power cut left of an
// earlier try.
func (d *Data) createLog(opts wal.Options) (*wal.Log, error) {
	if err := d.removeLog(); err != nil {
		return nil, fmt.Errorf("clear an unfinished log: %w", err)
	}
	if err := d.snaps.begin(SnapshotMeta{}); err != nil {
		return nil, err
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
	l.live += entryBytes(e)
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
	n := from - l.base - 1
	for _, e := range l.entries[n:] {
		l.live -= entryBytes(e)
	}
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

// Space returns how much room the log has, whether the next segment is there,
// and why not (wal.Log.Space).
func (l *Log) Space() (room int64, ready bool, blocked error) { return l.wal.Space() }

// Step does the work of a stepped log, the done functions of Save included, and
// tells whether there was any (wal.Log.Step).
func (l *Log) Step() bool { return l.wal.Step() }

// Pending tells whether Step has work to do.
func (l *Log) Pending() bool { return l.wal.Pending() }

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
	if lo <= l.base {
		return nil, raft.ErrCompacted
	}
	if lo > hi || hi > l.last+1 {
		return nil, raft.ErrUnavailable
	}
	out := l.entries[lo-l.base-1 : hi-l.base-1]
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
	if i < l.base {
		return 0, raft.ErrCompacted
	}
	if i > l.last {
		return 0, raft.ErrUnavailable
	}
	return l.termAt(i), nil
}

func (l *Log) termAt(i uint64) uint64 {
	if i == l.base {
		return l.baseTerm
	}
	return l.entries[i-l.base-1].GetTerm()
}

// LastIndex implements raft.Storage.
func (l *Log) LastIndex() (uint64, error) { return l.last, nil }

// FirstIndex implements raft.Storage.
func (l *Log) FirstIndex() (uint64, error) { return l.base + 1, nil }

// Snapshot implements raft.Storage.
func (l *Log) Snapshot() (*raftpb.Snapshot, error) {
	return proto.Clone(l.snap).(*raftpb.Snapshot), nil
}
