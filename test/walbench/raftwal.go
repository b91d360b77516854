package main

import (
	"errors"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// raftLog is hashicorp/raft-wal.
type raftLog struct{ wal *wal.WAL }

func openRaft(dir string) (*wal.WAL, error) {
	return wal.Open(dir, wal.WithLogger(hclog.NewNullLogger()))
}

func openRaftWAL(dir string) (log, error) {
	w, err := openRaft(dir)
	if err != nil {
		return nil, err
	}
	return &raftLog{w}, nil
}

func (r *raftLog) append(entries []entry) error {
	batch := make([]raft.Log, len(entries))
	list := make([]*raft.Log, len(entries))
	for i := range entries {
		batch[i] = raft.Log{Index: entries[i].index, Term: entries[i].term, Type: raft.LogCommand, Data: entries[i].data}
		list[i] = &batch[i]
	}
	return r.wal.StoreLogs(list)
}

func (r *raftLog) shared() bool { return false }
func (r *raftLog) close() error { return r.wal.Close() }

func replayRaftWAL(dir string, visit func([]byte)) error {
	w, err := openRaft(dir)
	if err != nil {
		return err
	}
	first, err := w.FirstIndex()
	if err != nil {
		return errors.Join(err, w.Close())
	}
	last, err := w.LastIndex()
	for i := first; i <= last && err == nil; i++ {
		var l raft.Log
		if err = w.GetLog(i, &l); err == nil {
			visit(l.Data)
		}
	}
	return errors.Join(err, w.Close())
}
