package node

import (
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/wal"
)

// Damage (F2, F3): a log, snapshot or identity that fails its checks is set
// aside as evidence, and the node comes back under a new raft id: a new node,
// that the leader fills and makes a voter again. It never guesses and never
// votes under the old id, so nothing that it forgot can hurt.

// maxEvidence is how many sets of damaged files are kept. A disk that damages
// more needs a person, and its evidence must not fill it.
const maxEvidence = 8

// errSetAside ends a worker whose data is whole by itself but not what the
// cluster has; the next start begins with an empty directory.
var errSetAside = errors.New("the data of this node was set aside")

func damaged(err error) bool {
	var damage *storage.DamageError
	return errors.Is(err, wal.ErrCorrupt) || errors.As(err, &damage)
}

// repairable makes damage that a running worker has met an error like any
// other: the next start finds it too and sets it aside, and must not be
// prevented.
func repairable(err error) error {
	if err != nil && damaged(err) {
		return errors.New("damage found: " + err.Error())
	}
	return err
}

// openData opens the data directory and the log in it. Damage is set aside
// once; what is damaged again right after is a disk to be replaced.
func (w *worker) openData(now int64) error {
	err := w.tryData(now)
	if err == nil || !damaged(err) {
		return err
	}
	w.log.Error("damage found", "error", err)
	if w.data != nil {
		if e := w.data.Close(); e != nil {
			return errors.Join(err, e)
		}
		w.data = nil
	}
	if e := w.setAside("damage", err.Error()); e != nil {
		return errors.Join(err, e)
	}
	return w.tryData(now)
}

func (w *worker) tryData(now int64) error {
	var err error
	if w.data, err = storage.OpenDataWith(w.dataOptions()); err != nil {
		return err
	}
	w.rid, w.snaps = w.data.RaftID(), w.data.Snapshots()
	if err := w.learnEvidence(); err != nil {
		return err
	}
	if _, founded := w.data.First(); !founded {
		return nil
	}
	return w.startRaft(now)
}

// setAside moves the raft files away and remembers what to tell the others.
func (w *worker) setAside(cause, why string) error {
	dir := w.cfg.Node.DataDir
	sets, err := evidence(w.host.FS, dir)
	if err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	if sets >= maxEvidence {
		return fmt.Errorf("set aside: %d sets of damaged files are kept already: replace the disk, or remove %s/*%s*", sets, dir, storage.AsideMark)
	}
	moved, err := storage.SetAside(w.host.FS, dir, w.host.Wall().UTC().Format("20060102T150405.000Z"))
	if err != nil {
		return err
	}
	w.log.Error("data set aside as evidence; this node rejoins as a new one (F2)", "files", moved, "why", why)
	w.recordEvent(storage.Record{Kind: "recovery", Node: w.selfName, Cause: cause,
		Detail: clip(why+"; kept: "+strings.Join(moved, " "), storage.MaxDetail)})
	return nil
}

// evidence counts the sets of files that were set aside in a directory.
func evidence(fsys vfs.FS, dir string) (int, error) {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("look for what was set aside: %w", err)
	}
	labels := map[string]bool{}
	for _, name := range names {
		if _, label, ok := strings.Cut(name, storage.AsideMark); ok {
			labels[label] = true
		}
	}
	return len(labels), nil
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return s
}
