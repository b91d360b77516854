package storage

import (
	"context"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// SnapshotMeta says what a snapshot is of, and which file it is. It travels as
// the data of raft's snapshot message.
type SnapshotMeta struct {
	Cluster     [16]byte
	Index, Term uint64 // of the last entry in it
	Conf        Conf   // raft's configuration there
	Hash        [32]byte
	Size        int64    // of the file, bytes
	Sum         [32]byte // SHA-256 of the file without its last 32 bytes, which hold it
}

func (m SnapshotMeta) Encode() []byte { panic("not yet") }

func DecodeSnapshotMeta(b []byte) (SnapshotMeta, error) { panic("not yet") }

func (m SnapshotMeta) Raft() *raftpb.Snapshot { panic("not yet") }

// Snapshots are the snapshot files of a data directory, for any goroutine.
type Snapshots struct{}

func (d *Data) Snapshots() *Snapshots { return &Snapshots{} }

func (s *Snapshots) Newest() (SnapshotMeta, bool) { return SnapshotMeta{}, false }

func (s *Snapshots) Write(ctx context.Context, f *Frozen) (SnapshotMeta, error) { panic("not yet") }

func (s *Snapshots) Open(index uint64) (*SnapshotFile, error) { panic("not yet") }

func (s *Snapshots) Receive(meta SnapshotMeta) (*Receiver, error) { panic("not yet") }

type SnapshotFile struct{}

func (f *SnapshotFile) ReadAt(p []byte, off int64) (int, error) { panic("not yet") }
func (f *SnapshotFile) Size() int64                             { panic("not yet") }
func (f *SnapshotFile) Meta() SnapshotMeta                      { panic("not yet") }
func (f *SnapshotFile) Close() error                            { panic("not yet") }

type Receiver struct{}

func (r *Receiver) Offset() int64                              { panic("not yet") }
func (r *Receiver) Write(offset int64, b []byte) error         { panic("not yet") }
func (r *Receiver) Finish(ctx context.Context) (*State, error) { panic("not yet") }
func (r *Receiver) Close() error                               { panic("not yet") }

func (l *Log) Compact(meta SnapshotMeta) (release func() error) {
	return func() error { return nil }
}
func (l *Log) Install(snap *raftpb.Snapshot) (release func() error) {
	meta := snap.GetMetadata()
	l.snap = proto.Clone(snap).(*raftpb.Snapshot)
	l.entries, l.last = nil, meta.GetIndex()
	return func() error { return nil }
}
func (l *Log) LiveBytes() int64 { return 0 }

type ScrubReport struct {
	Segments, Snapshots int
	Bytes               int64
}

func (d *Data) Scrub(ctx context.Context, bytesPerSecond int64) (ScrubReport, error) {
	return ScrubReport{}, nil
}
func (d *Data) Reserve(bytes int64) error { return nil }
func (d *Data) ReleaseReserve() error     { return nil }
func (d *Data) ReserveHeld() bool         { return true }
