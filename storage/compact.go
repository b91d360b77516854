package storage

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/wal"
)

// What stays in memory before a snapshot, for members that are a little behind:
// sending them entries costs less than sending a snapshot.
const (
	keepEntries = 1024
	keepBytes   = 4 << 20
)

// base is the record that says which snapshot the log follows.
type base struct {
	index, term        uint64 // of the last entry in the snapshot
	hash               [32]byte
	hardTerm, hardVote uint64 // hard state, so that no release can take it away
	commit             uint64
}

const baseBytes = 5*8 + 32

func (b *base) encode() []byte {
	e := &encoder{b: make([]byte, 0, baseBytes)}
	e.u64(b.index)
	e.u64(b.term)
	e.raw(b.hash[:])
	e.u64(b.hardTerm)
	e.u64(b.hardVote)
	e.u64(b.commit)
	return e.b
}

func decodeBase(b []byte) (base, error) {
	d := &decoder{b: b}
	out := base{index: d.u64(), term: d.u64()}
	copy(out.hash[:], d.take(len(out.hash)))
	out.hardTerm, out.hardVote, out.commit = d.u64(), d.u64(), d.u64()
	if err := d.end(); err != nil {
		return base{}, err
	}
	if out.index <= FirstIndex || out.term < FirstTerm || out.hardTerm < out.term || out.commit < out.index {
		return base{}, fmt.Errorf("index %d term %d with hard state term %d commit %d", out.index, out.term, out.hardTerm, out.commit)
	}
	return out, nil
}

// record puts the hard state of the log beside the snapshot.
func (l *Log) record(typ uint8, meta *SnapshotMeta) wal.Record {
	b := base{
		index: meta.Index, term: meta.Term, hash: meta.Hash,
		hardTerm: l.hard.GetTerm(), hardVote: l.hard.GetVote(), commit: l.hard.GetCommit(),
	}
	l.written.Term, l.written.Vote, l.written.Commit = l.hard.Term, l.hard.Vote, l.hard.Commit
	r := wal.Record{Type: typ, Term: meta.Term, Payload: b.encode()}
	if typ == recordInstall {
		r.Index = meta.Index
	}
	return r
}

// Compact makes the log follow a snapshot that Snapshots.Write has made, and
// forgets the entries in it but for the last few. release waits until the log
// says so on disk, and then removes what is no longer needed: segments and older
// snapshots; it runs on any goroutine, once, and what it leaves the next start
// removes. An error of it is final for the disk. When the log follows a newer
// snapshot already, only what is left over is removed.
func (l *Log) Compact(meta SnapshotMeta) (release func() error) {
	follows := l.snap.GetMetadata().GetIndex()
	if meta.Index <= follows {
		return l.snaps.dropOld
	}
	invariant.Check(meta.Index <= l.last && meta.Index <= l.hard.GetCommit() && l.termAt(meta.Index) == meta.Term,
		"log of %d..%d, commit %d, follows snapshot %d of term %d", l.base+1, l.last, l.hard.GetCommit(), meta.Index, meta.Term)
	l.snap = meta.Raft()
	l.forget(meta.Index)
	l.measure()
	return l.follow(recordCompact, &meta)
}

// Install replaces the log by a snapshot that was received and published
// (Receiver.Finish). It is durable before the done of the next Save is called.
// release is as that of Compact.
func (l *Log) Install(snap *raftpb.Snapshot) (release func() error) {
	index, term := snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm()
	meta, err := DecodeSnapshotMeta(snap.GetData())
	invariant.Check(err == nil, "install snapshot %d: %v", index, err)
	invariant.Check(meta.Index == index && meta.Term == term, "install snapshot %d of term %d as %d of term %d", meta.Index, meta.Term, index, term)
	invariant.Check(index > l.hard.GetCommit(), "snapshot %d installed over commit %d", index, l.hard.GetCommit())
	l.snap = proto.Clone(snap).(*raftpb.Snapshot)
	l.restart(index, term)
	l.raiseHard(index, term)
	return l.follow(recordInstall, &meta)
}

// follow writes which snapshot the log follows from here on.
func (l *Log) follow(typ uint8, meta *SnapshotMeta) (release func() error) {
	invariant.Check(l.snaps.published(meta), "log follows snapshot %d, which is not published", meta.Index)
	l.snaps.adopt(meta.Index)
	return l.releaseTo(meta.Index, l.wal.Compact(meta.Index, []wal.Record{l.record(typ, meta)}))
}

func (l *Log) releaseTo(index uint64, drop func() error) func() error {
	return func() error {
		if err := drop(); err != nil {
			return fmt.Errorf("release log: %w", err)
		}
		return l.snaps.durable(index)
	}
}

// restart makes the log empty behind an index.
func (l *Log) restart(index, term uint64) {
	l.base, l.baseTerm, l.last, l.entries, l.live = index, term, index, nil, 0
}

// raiseHard makes the hard state cover a snapshot. A node that has not voted in
// the term of a committed entry may still do so.
func (l *Log) raiseHard(index, term uint64) {
	t, vote := l.hard.GetTerm(), l.hard.GetVote()
	if t < term {
		t, vote = term, 0
	}
	l.setHard(t, vote, max(index, l.hard.GetCommit()))
}

// forget drops the entries in a snapshot, but for those that are kept.
func (l *Log) forget(snapshot uint64) {
	n := int(snapshot - l.base) // entries in it
	from, size := n, int64(0)
	for from > 0 && n-from < keepEntries {
		if size += entryBytes(l.entries[from-1]); size > keepBytes {
			break
		}
		from--
	}
	if from == 0 {
		return
	}
	l.base, l.baseTerm = l.entries[from-1].GetIndex(), l.entries[from-1].GetTerm()
	l.entries = slices.Clone(l.entries[from:])
}

// measure counts the bytes behind the snapshot anew.
func (l *Log) measure() {
	l.live = 0
	for _, e := range l.entries[l.snap.GetMetadata().GetIndex()-l.base:] {
		l.live += entryBytes(e)
	}
}

// entryBytes is about what an entry takes in memory and on disk.
func entryBytes(e *raftpb.Entry) int64 { return int64(len(e.GetData())) + 64 }

// LiveBytes returns the bytes of the entries behind the snapshot: what a start
// has to apply again, and what the next snapshot would save.
func (l *Log) LiveBytes() int64 { return l.live }
