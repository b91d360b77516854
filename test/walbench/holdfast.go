package main

import (
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// holdfastLog is the product's own log.
type holdfastLog struct{ log *wal.Log }

func holdfastOptions(dir string) wal.Options {
	return wal.Options{FS: vfs.OS, Dir: dir, Cluster: [16]byte{1}, Node: 1}
}

func openHoldfast(dir string) (log, error) {
	l, err := wal.Create(holdfastOptions(dir))
	if err != nil {
		return nil, err
	}
	return &holdfastLog{l}, nil
}

func (h *holdfastLog) append(entries []entry) error {
	records := make([]wal.Record, len(entries))
	for i := range entries {
		records[i] = wal.Record{Type: 1, Index: entries[i].index, Term: entries[i].term, Payload: entries[i].data}
	}
	done := make(chan error, 1)
	h.log.Append(records, func(err error) { done <- err })
	return <-done
}

func (h *holdfastLog) shared() bool { return true }
func (h *holdfastLog) close() error { return h.log.Close() }

func replayHoldfast(dir string, visit func([]byte)) error {
	l, _, err := wal.Open(holdfastOptions(dir), func(r wal.Record) error {
		visit(r.Payload)
		return nil
	})
	if err != nil {
		return err
	}
	return l.Close()
}
