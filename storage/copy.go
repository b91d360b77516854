package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// ErrNoCopy means that there are no data to read.
var ErrNoCopy = errors.New("no data here")

// Copy is what can be read of one set of data files, damaged or whole (F4).
type Copy struct {
	Label   string   // of the set that was set aside, "" for the one in use
	RaftID  uint64   // 0 when it cannot be told
	Cluster [16]byte // zero when it cannot be told
	// State is all that can be read: the newest snapshot that is right and every
	// entry behind it up to the first that is missing, also those that nobody
	// has proved to be committed. nil when nothing can be used.
	State    *State
	Snapshot uint64 // index of the snapshot in it, 0 for none
	// Last and LastTerm are of the newest entry in State.
	Last, LastTerm uint64
	// Commit is how far this copy knows entries to be committed. Above Last,
	// what is between was committed and cannot be read here.
	Commit uint64
	// Term is the highest that this copy has seen.
	Term uint64
	// Beyond is the highest index of an entry that is on disk behind a gap and so
	// of no use, 0 for none.
	Beyond uint64
	// Verdict is that of the log, 0 when there is none.
	Verdict wal.Verdict
	Damage  []string // what is wrong, in words
}

// LockData keeps workers and other commands off a data directory until it is
// closed, and ends a recovery that was cut short there. Errors: ErrInUse,
// fs.ErrNotExist.
func LockData(fsys vfs.FS, dir string) (*DataLock, error) {
	lock, err := fsys.Lock(filepath.Join(dir, fileLock))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("data directory %s: %w", dir, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := finishRecovery(fsys, dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &DataLock{fs: fsys, dir: dir, close: lock.Close}, nil
}

// DataLock is a data directory that no worker uses. It belongs to one goroutine.
type DataLock struct {
	fs    vfs.FS
	dir   string
	close func() error
}

// Close gives the directory back.
func (l *DataLock) Close() error { return l.close() }

// SetAside is the function of that name.
func (l *DataLock) SetAside(label string) ([]string, error) {
	moved, err := setAside(l.fs, l.dir, label)
	if err != nil {
		return moved, fmt.Errorf("set aside: %w", err)
	}
	return moved, nil
}

// Labels lists the sets of files in a data directory that were set aside,
// sorted.
func Labels(fsys vfs.FS, dir string) ([]string, error) {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list data directory: %w", err)
	}
	labels := map[string]bool{}
	for _, name := range names {
		if base, label, ok := strings.Cut(name, AsideMark); ok && slices.Contains(dataFiles, base) && label != "" {
			labels[label] = true
		}
	}
	return slices.Sorted(maps.Keys(labels)), nil
}

// Labels lists the sets that were set aside, sorted.
func (l *DataLock) Labels() ([]string, error) { return Labels(l.fs, l.dir) }

// Read reads one set of files, "" for the one in use, and writes nothing. What
// is damaged is told in the Copy and is no error. Errors: ErrNoCopy;
// ErrUnknownCommand of a log of a newer version; those of the disk.
func (l *DataLock) Read(ctx context.Context, label string) (*Copy, error) {
	suffix := ""
	if label != "" {
		suffix = AsideMark + label
	}
	r := &copyReader{ctx: ctx, d: newData(l.fs, l.dir, suffix), c: &Copy{Label: label}}
	for _, step := range []func() error{r.exists, r.identity, r.snapshot, r.log, r.apply} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("read data%s in %s: %w", suffix, l.dir, err)
		}
	}
	return r.c, nil
}

// copyReader reads a Copy, a part at a time.
type copyReader struct {
	ctx     context.Context
	d       *Data
	c       *Copy
	first   *FirstConfig
	entries []*raftpb.Entry // to be applied to the state of snapshot or first
}

func (r *copyReader) exists() error {
	for _, name := range dataFiles {
		if ok, err := vfs.Exists(r.d.fs, r.d.path(name)); err != nil || ok && name != fileRaftID {
			return err
		}
	}
	return ErrNoCopy // a raft id alone is of a node that never was in a cluster
}

func (r *copyReader) note(format string, args ...any) {
	r.c.Damage = append(r.c.Damage, fmt.Sprintf(format, args...))
}

// noted takes damage as told; other errors stay.
func (r *copyReader) noted(err error) error {
	var damage *DamageError
	if !errors.As(err, &damage) {
		return err
	}
	why := damage.What
	if damage.Err != nil {
		why += ": " + damage.Err.Error()
	}
	r.note("%s", why)
	return nil
}

func (r *copyReader) identity() error {
	id, err := r.d.readID()
	if errors.Is(err, fs.ErrNotExist) {
		r.note("there is no raft id")
		err = nil
	}
	if err = r.noted(err); err != nil {
		return err
	}
	r.c.RaftID = id
	if r.first, err = r.d.readFirst(); err != nil {
		return r.noted(err)
	}
	if r.first == nil {
		r.note("there is no first configuration")
		return nil
	}
	r.c.Cluster = r.first.ID()
	return nil
}

// snapshot finds the newest that is right. Each holds nothing but what was
// committed, whether or not the log has come to say that it follows it.
func (r *copyReader) snapshot() error {
	names, err := r.d.fs.ReadDir(r.d.snaps.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range slices.Backward(names) { // indices sort as they count
		if _, ok := parseSnapshotName(name); !ok {
			continue
		}
		state, meta, err := r.readSnapshot(filepath.Join(r.d.snaps.dir, name))
		switch {
		case errors.Is(err, wal.ErrCorrupt):
			r.note("%v", err)
			continue
		case err != nil:
			return err
		case r.c.Cluster != [16]byte{} && r.c.Cluster != meta.Cluster:
			r.note("snapshot %s is of cluster %x", name, meta.Cluster)
			continue
		}
		r.c.Cluster, r.c.State, r.c.Snapshot = meta.Cluster, state, meta.Index
		r.c.Commit, r.c.Term = meta.Index, meta.Term
		return nil
	}
	if r.first != nil {
		r.c.State, r.c.Commit, r.c.Term = NewState(*r.first), FirstIndex, FirstTerm
	}
	return nil
}

func (r *copyReader) readSnapshot(name string) (*State, SnapshotMeta, error) {
	file, err := r.d.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, SnapshotMeta{}, err
	}
	state, meta, err := decodeSnapshot(r.ctx, name, file)
	return state, meta, errors.Join(err, file.Close())
}

// log reads what it holds behind the snapshot.
func (r *copyReader) log() error {
	p := &pieces{base: FirstIndex, baseTerm: FirstTerm}
	if r.c.State != nil {
		p.base, p.baseTerm = r.c.State.Applied()
	}
	origin, recovery, err := wal.Salvage(r.d.fs, r.d.path(dirLog), func(run int, rec wal.Record) error {
		p.take(run, rec)
		return r.ctx.Err()
	})
	if errors.Is(err, wal.ErrNoLog) || errors.Is(err, fs.ErrNotExist) {
		if founding, e := vfs.Exists(r.d.fs, r.d.path(fileFounding)); e != nil || founding {
			return e // it was not yet made
		}
		r.note("there is no log")
		return nil
	}
	if err != nil {
		return err
	}
	r.c.Verdict = recovery.Verdict
	if recovery.Verdict == wal.Corrupt {
		r.note("log is corrupt: %s at offset %d: %s", recovery.Segment, recovery.Offset, recovery.Why)
	}
	switch {
	case origin.Cluster == [16]byte{}: // no segment can be read
		return nil
	case r.c.Cluster != [16]byte{} && origin.Cluster != r.c.Cluster:
		r.note("the log is of cluster %x", origin.Cluster)
		return nil
	case r.c.RaftID != 0 && origin.Node != r.c.RaftID:
		r.note("the log is of node %x", origin.Node)
	}
	r.c.Cluster, r.c.RaftID = origin.Cluster, origin.Node
	r.entries = p.best()
	r.c.Commit, r.c.Term = max(r.c.Commit, p.commit), max(r.c.Term, p.term)
	if last := p.base + uint64(len(r.entries)); p.highest > last {
		r.c.Beyond = p.highest
	}
	return nil
}

// apply makes the state what the entries add up to.
func (r *copyReader) apply() error {
	s := r.c.State
	if s == nil {
		r.note("neither a snapshot nor the first configuration can be read: nothing can be used")
		return nil
	}
	for _, e := range r.entries {
		if err := s.replayEntry(e); err != nil {
			return err
		}
	}
	r.entries = nil
	r.c.Last, r.c.LastTerm = s.Applied()
	r.c.Term = max(r.c.Term, r.c.LastTerm)
	if r.c.Commit > r.c.Last {
		r.note("entries %d to %d were committed and cannot be read here", r.c.Last+1, r.c.Commit)
	}
	return r.ctx.Err()
}

// replayEntry applies an entry of whatever type, as the driver would.
func (s *State) replayEntry(e *raftpb.Entry) error {
	if e.GetType() == raftpb.EntryNormal {
		_, err := s.Apply(e.GetIndex(), e.GetTerm(), e.GetData())
		return err
	}
	var change raftpb.ConfChangeI = &raftpb.ConfChangeV2{}
	if e.GetType() == raftpb.EntryConfChange {
		change = &raftpb.ConfChange{}
	}
	if err := proto.Unmarshal(e.GetData(), change.(proto.Message)); err != nil {
		return fmt.Errorf("read configuration change %d: %w", e.GetIndex(), err)
	}
	cc := change.AsV2()
	_, err := s.ApplyConf(e.GetIndex(), e.GetTerm(), s.conf.after(cc.GetChanges()), cc.GetContext())
	return err
}

// after is the configuration after a change of a single step, the only ones that
// are proposed.
func (c Conf) after(changes []*raftpb.ConfChangeSingle) Conf {
	voters, learners := slices.Clone(c.Voters), slices.Clone(c.Learners)
	for _, change := range changes {
		id := change.GetNodeId()
		is := func(other uint64) bool { return other == id }
		voters, learners = slices.DeleteFunc(voters, is), slices.DeleteFunc(learners, is)
		switch change.GetType() {
		case raftpb.ConfChangeAddNode:
			voters = append(voters, id)
		case raftpb.ConfChangeAddLearnerNode:
			learners = append(learners, id)
		case raftpb.ConfChangeRemoveNode, raftpb.ConfChangeUpdateNode:
		}
	}
	slices.Sort(voters)
	slices.Sort(learners)
	return Conf{Voters: voters, Learners: learners}
}

// pieces puts together what is left of a log. It is pure.
//
// A piece is entries that followed one another with nothing missing. Damage ends
// one, and so does a snapshot that was received, which replaced what was before.
// Behind damage an earlier entry may have been cut by a record that is lost, so a
// piece counts only if it goes on from the base itself, which is committed; of
// those the last one written counts, because it replaced the others.
type pieces struct {
	base, baseTerm uint64 // index and term of the state that entries go on from
	run            int
	now            piece
	good           []*raftpb.Entry // of the last piece that goes on from base
	commit, term   uint64          // highest that any record tells
	highest        uint64          // index of an entry
}

// piece is entries from index from on; those up to base are not kept.
type piece struct {
	from, last uint64 // 0 before the first entry
	lastTerm   uint64
	entries    []*raftpb.Entry
	broken     bool // something in it contradicts itself
	astray     bool // its entry at base, or behind it, is not one that base has before it
}

func (p *pieces) take(run int, r wal.Record) {
	if run != p.run {
		p.next()
		p.run = run
	}
	switch r.Type {
	case recordEntry:
		p.entry(r)
	case recordHard:
		if len(r.Payload) == hardBytes {
			p.hard(binary.BigEndian.Uint64(r.Payload), binary.BigEndian.Uint64(r.Payload[16:]))
		}
	case recordCompact, recordInstall:
		b, err := decodeBase(r.Payload)
		if err != nil {
			return
		}
		p.hard(b.hardTerm, b.commit)
		if r.Type == recordInstall {
			p.next()
			p.now = piece{from: b.index + 1, last: b.index, lastTerm: b.term}
		}
	case wal.TypeTruncate:
		p.cut(r.Index)
	}
}

func (p *pieces) hard(term, commit uint64) {
	p.term, p.commit = max(p.term, term), max(p.commit, commit)
}

// next ends the piece.
func (p *pieces) next() {
	n := &p.now
	if n.from != 0 && n.from <= p.base+1 && n.last > p.base && !n.astray {
		p.good = n.entries
	}
	p.now = piece{}
}

func (p *pieces) best() []*raftpb.Entry {
	p.next()
	return p.good
}

func (p *pieces) entry(r wal.Record) {
	n := &p.now
	p.highest, p.term = max(p.highest, r.Index), max(p.term, r.Term)
	if n.from == 0 {
		n.from, n.last, n.lastTerm = r.Index, r.Index-1, 0
	}
	typ := raftpb.EntryType(0)
	if len(r.Payload) > 0 {
		typ = raftpb.EntryType(r.Payload[0])
	}
	if n.broken || r.Index != n.last+1 || r.Term < n.lastTerm || len(r.Payload) == 0 || typ > raftpb.EntryConfChangeV2 {
		n.broken = true // what came before stays
		return
	}
	switch r.Index {
	case p.base:
		n.astray = r.Term != p.baseTerm
	case p.base + 1:
		n.astray = n.astray || r.Term < p.baseTerm
	}
	n.last, n.lastTerm = r.Index, r.Term
	if r.Index <= p.base {
		return
	}
	e := &raftpb.Entry{Type: typ.Enum(), Index: new(r.Index), Term: new(r.Term)}
	if len(r.Payload) > 1 {
		e.Data = slices.Clone(r.Payload[1:])
	}
	n.entries = append(n.entries, e)
}

// cut drops entries from index on.
func (p *pieces) cut(index uint64) {
	n := &p.now
	switch {
	case n.from == 0 || index > n.last:
	case index <= n.from:
		p.now = piece{}
	case index <= p.base+1:
		n.astray = n.astray && index > p.base
		n.last, n.lastTerm, n.entries = index-1, 0, nil
	default:
		n.entries = n.entries[:index-max(n.from, p.base+1)]
		n.last = index - 1
		n.lastTerm = 0
		if len(n.entries) > 0 {
			n.lastTerm = n.entries[len(n.entries)-1].GetTerm()
		}
	}
}
