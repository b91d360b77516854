package main

import (
	"errors"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// etcdLog is etcd's, as its server uses it but for the hard state, which it
// would write with nearly every batch: that is left out in its favour.
type etcdLog struct{ wal *wal.WAL }

func openEtcd(dir string) (log, error) {
	w, err := wal.Create(zap.NewNop(), filepath.Join(dir, "wal"), []byte("walbench"))
	if err != nil {
		return nil, err
	}
	return &etcdLog{w}, nil
}

func (e *etcdLog) append(entries []entry) error {
	batch := make([]raftpb.Entry, len(entries))
	list := make([]*raftpb.Entry, len(entries))
	for i := range entries {
		batch[i].Index, batch[i].Term, batch[i].Data = &entries[i].index, &entries[i].term, entries[i].data
		list[i] = &batch[i]
	}
	return e.wal.Save(nil, list)
}

func (e *etcdLog) shared() bool { return false }
func (e *etcdLog) close() error { return e.wal.Close() }

func replayEtcd(dir string, visit func([]byte)) error {
	w, err := wal.Open(zap.NewNop(), filepath.Join(dir, "wal"), &walpb.Snapshot{})
	if err != nil {
		return err
	}
	_, _, entries, err := w.ReadAll()
	for _, e := range entries {
		visit(e.GetData())
	}
	return errors.Join(err, w.Close())
}
