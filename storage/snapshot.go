package storage

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/wal"
)

// SnapshotMeta says what a snapshot is of, and which file it is. It travels as
// the data of raft's snapshot message.
type SnapshotMeta struct {
	Cluster     [16]byte
	Index, Term uint64   // of the last entry in it
	Conf        Conf     // raft's configuration there
	Hash        [32]byte // of the state
	Size        int64    // of the file, bytes
	Sum         [32]byte // SHA-256 of the file without its last 32 bytes, which hold it
}

const (
	metaMagic = "HFM2"
	// maxSnapshot is the largest snapshot file that is taken, in bytes.
	maxSnapshot = 64 << 30
)

// Encode returns the bytes that DecodeSnapshotMeta reads.
func (m SnapshotMeta) Encode() []byte {
	e := &encoder{b: []byte(metaMagic)}
	m.encodeState(e)
	e.u64(uint64(m.Size))
	e.raw(m.Sum[:])
	return e.b
}

// encodeState writes what is known before the file is.
func (m SnapshotMeta) encodeState(e *encoder) {
	e.raw(m.Cluster[:])
	e.u64(m.Index)
	e.u64(m.Term)
	e.raw(m.Hash[:])
	for _, ids := range [][]uint64{m.Conf.Voters, m.Conf.Learners, m.Conf.Outgoing} {
		e.count(len(ids))
		for _, id := range ids {
			e.u64(id)
		}
	}
}

func (m *SnapshotMeta) decodeState(d *decoder) {
	copy(m.Cluster[:], d.take(len(m.Cluster)))
	m.Index, m.Term = d.u64(), d.u64()
	copy(m.Hash[:], d.take(len(m.Hash)))
	for _, ids := range []*[]uint64{&m.Conf.Voters, &m.Conf.Learners, &m.Conf.Outgoing} {
		for range d.count(2*MaxMembers, "nodes") {
			*ids = append(*ids, d.u64())
		}
	}
	if d.err == nil && (m.Index <= FirstIndex || m.Term < FirstTerm) {
		d.fail(fmt.Errorf("index %d, term %d", m.Index, m.Term))
	}
}

// DecodeSnapshotMeta reads what Encode wrote. It checks ranges: a file of the
// size that it names may be made.
func DecodeSnapshotMeta(b []byte) (SnapshotMeta, error) {
	if !bytes.HasPrefix(b, []byte(metaMagic)) {
		return SnapshotMeta{}, errors.New("read snapshot description: unknown format")
	}
	d := &decoder{b: b[len(metaMagic):]}
	var m SnapshotMeta
	m.decodeState(d)
	size := d.u64()
	copy(m.Sum[:], d.take(len(m.Sum)))
	if d.err == nil && (size < minSnapshot || size > maxSnapshot) {
		d.fail(fmt.Errorf("file of %d bytes, %d to %d allowed", size, minSnapshot, int64(maxSnapshot)))
	}
	if err := d.end(); err != nil {
		return SnapshotMeta{}, fmt.Errorf("read snapshot description: %w", err)
	}
	m.Size = int64(size)
	return m, nil
}

// Raft returns the snapshot as raft knows it. A configuration that is joint
// comes back without what raft would do with it by itself.
func (m SnapshotMeta) Raft() *raftpb.Snapshot {
	return &raftpb.Snapshot{
		Data: m.Encode(),
		Metadata: &raftpb.SnapshotMetadata{
			Index: new(m.Index), Term: new(m.Term),
			ConfState: &raftpb.ConfState{
				Voters: m.Conf.Voters, Learners: m.Conf.Learners, VotersOutgoing: m.Conf.Outgoing,
			},
		},
	}
}

// sameState tells whether both are of one state, in whatever file.
func (m *SnapshotMeta) sameState(o *SnapshotMeta) bool {
	var a, b encoder
	m.encodeState(&a)
	o.encodeState(&b)
	return bytes.Equal(a.b, b.b)
}

// SnapshotError says where a snapshot file is damaged. It wraps wal.ErrCorrupt:
// what follows from it is the same (F2).
type SnapshotError struct {
	File   string // path
	Offset int64  // of the piece that is damaged, bytes from the start
	Why    string
}

// Error says where and what.
func (e *SnapshotError) Error() string {
	return fmt.Sprintf("snapshot is damaged: %s at offset %d: %s", e.File, e.Offset, e.Why)
}

// Unwrap returns wal.ErrCorrupt.
func (e *SnapshotError) Unwrap() error { return wal.ErrCorrupt }
