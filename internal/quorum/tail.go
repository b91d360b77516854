package quorum

import (
	"fmt"
	"math"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/storage"
)

// tail is the log behind the last entry that was handed out for applying, up
// to the last index, including what raft has not yet given to be stored. A new
// leader decides from it (E5).
//
// Invariants: entries follow handed without gaps; control counts those of them
// that are not plain.
type tail struct {
	handed, handedTerm uint64
	entries            []*raftpb.Entry
	control            int
	lastControl        uint64 // newest index that ever held one
}

// loadTail returns the log behind its snapshot. The log may begin before that.
func loadTail(log Log) (tail, error) {
	snap, err := log.Snapshot()
	if err != nil {
		return tail{}, fmt.Errorf("read log: %w", err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return tail{}, fmt.Errorf("read log: %w", err)
	}
	t := tail{}
	t.restore(snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm())
	if last > t.handed {
		entries, err := log.Entries(t.handed+1, last+1, math.MaxUint64)
		if err != nil {
			return tail{}, fmt.Errorf("read log: %w", err)
		}
		t.store(entries)
	}
	return t, nil
}

// restore begins anew behind a snapshot.
func (t *tail) restore(index, term uint64) { *t = tail{handed: index, handedTerm: term} }

// last returns index and term of the last entry.
func (t *tail) last() (index, term uint64) {
	if n := len(t.entries); n > 0 {
		return t.entries[n-1].GetIndex(), t.entries[n-1].GetTerm()
	}
	return t.handed, t.handedTerm
}

// newerThan reports whether this log is more up to date than one that ends at
// index and term, in raft's order.
func (t *tail) newerThan(term, index uint64) bool {
	i, tm := t.last()
	return tm > term || tm == term && i > index
}

// store takes entries that raft wants stored; they replace what stood at their
// indexes and behind.
func (t *tail) store(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	from := entries[0].GetIndex()
	if index, _ := t.last(); from <= t.handed || from > index+1 {
		invariant.Check(false, "entries from %d behind %d..%d", from, t.handed, index)
	}
	keep := from - t.handed - 1
	if t.control > 0 {
		for _, e := range t.entries[keep:] {
			t.count(e, -1)
		}
	}
	if n := int(keep) + len(entries); n < len(t.entries) {
		clear(t.entries[n:])
	}
	t.entries = append(t.entries[:keep], entries...)
	for _, e := range entries {
		t.count(e, 1)
	}
}

// count adds n to control for an entry that is not plain.
func (t *tail) count(e *raftpb.Entry, n int) {
	if !plain(e) {
		t.control += n
		t.lastControl = max(t.lastControl, e.GetIndex())
	}
}

// plain reports whether an entry leaves the control part of the state as it is.
func plain(e *raftpb.Entry) bool {
	if e.GetType() != raftpb.EntryNormal {
		return false
	}
	if len(e.GetData()) == 0 {
		return true
	}
	kind, ok := storage.KindOf(e.GetData())
	return ok && (kind.Data() || kind == storage.KindRecord || kind == storage.KindCheckpoint)
}

// lead notes the empty entry with which raft begins a leadership; store will
// bring the same.
func (t *tail) lead(term uint64) { t.proposed(term, raftpb.EntryNormal, nil) }

// proposed notes an entry that raft has appended for this leader.
func (t *tail) proposed(term uint64, typ raftpb.EntryType, data []byte) {
	index, _ := t.last()
	e := &raftpb.Entry{Index: new(index + 1), Term: new(term), Type: typ.Enum(), Data: data}
	t.entries = append(t.entries, e)
	t.count(e, 1)
}

// hand drops an entry that is handed out.
func (t *tail) hand(e *raftpb.Entry) {
	if len(t.entries) == 0 || e.GetIndex() != t.handed+1 || e.GetTerm() != t.entries[0].GetTerm() {
		invariant.Check(false, "entry %d term %d handed out after %d, of %d in the tail",
			e.GetIndex(), e.GetTerm(), t.handed, len(t.entries))
	}
	t.handed, t.handedTerm = e.GetIndex(), e.GetTerm()
	t.count(t.entries[0], -1)
	t.entries[0] = nil
	t.entries = t.entries[1:]
}

// assignPending reports whether an Assign stands in the tail (E6).
func (t *tail) assignPending() bool {
	if t.control == 0 {
		return false
	}
	for _, e := range t.entries {
		if kind, ok := storage.KindOf(e.GetData()); ok && e.GetType() == raftpb.EntryNormal && kind == storage.KindAssign {
			return true
		}
	}
	return false
}

// Overlay returns what the control part of st will be if the whole log up to
// its last index is committed (E5): st itself if the log holds nothing that
// would change it, else a copy without buckets and audit trail. It must not be
// changed. st must have applied every entry that Process has handed out. Decide
// Assigns from the overlay: its epochs are the ones that Prev must name.
func (d *Driver) Overlay(st *storage.State) *storage.State {
	applied, _ := st.Applied()
	invariant.Check(applied == d.tail.handed, "overlay over index %d, handed out up to %d", applied, d.tail.handed)
	if d.tail.control == 0 {
		return st
	}
	next := st.CloneControl()
	for _, e := range d.tail.entries {
		var err error
		if e.GetType() == raftpb.EntryNormal {
			_, err = next.Apply(e.GetIndex(), e.GetTerm(), e.GetData())
		} else {
			// The voters change when it is applied; what goes with the
			// change counts for the decision.
			conf, _ := next.Conf()
			_, err = next.ApplyConf(e.GetIndex(), e.GetTerm(), conf, confContext(e))
		}
		if err != nil {
			// Its commit will stop this node; until then it decides nothing.
			d.log.Warn("log holds an entry that cannot be applied", "index", e.GetIndex(), "err", err)
		}
	}
	return next
}
