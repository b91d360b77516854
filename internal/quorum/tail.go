package quorum

import (
	"fmt"
	"math"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/storage"
)

// tail is the log behind the last entry that was handed out for applying, up
// to the last index, including what raft has not yet given to be stored. A new
// leader decides from it (E5).
//
// Invariant: entries follow handed without gaps.
type tail struct {
	handed, handedTerm uint64
	entries            []*raftpb.Entry
}

func loadTail(log Log) (tail, error) {
	first, err := log.FirstIndex()
	if err != nil {
		return tail{}, fmt.Errorf("read log: %w", err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return tail{}, fmt.Errorf("read log: %w", err)
	}
	t := tail{handed: first - 1}
	if t.handedTerm, err = log.Term(first - 1); err != nil {
		return tail{}, fmt.Errorf("read log: %w", err)
	}
	if last >= first {
		if t.entries, err = log.Entries(first, last+1, math.MaxUint64); err != nil {
			return tail{}, fmt.Errorf("read log: %w", err)
		}
	}
	return t, nil
}

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
	index, _ := t.last()
	invariant.Check(from > t.handed && from <= index+1, "entries from %d behind %d..%d", from, t.handed, index)
	n := from - t.handed - 1
	t.entries = append(t.entries[:n:n], entries...)
}

// lead notes the empty entry with which raft begins a leadership; store will
// bring the same.
func (t *tail) lead(term uint64) { t.proposed(term, raftpb.EntryNormal, nil) }

// proposed notes an entry that raft has appended for this leader.
func (t *tail) proposed(term uint64, typ raftpb.EntryType, data []byte) {
	index, _ := t.last()
	t.entries = append(t.entries, &raftpb.Entry{Index: new(index + 1), Term: new(term), Type: typ.Enum(), Data: data})
}

// hand drops an entry that is handed out.
func (t *tail) hand(e *raftpb.Entry) {
	invariant.Check(len(t.entries) > 0 && e.GetIndex() == t.handed+1 && e.GetTerm() == t.entries[0].GetTerm(),
		"entry %d term %d handed out after %d, of %d in the tail", e.GetIndex(), e.GetTerm(), t.handed, len(t.entries))
	t.handed, t.handedTerm = e.GetIndex(), e.GetTerm()
	t.entries = t.entries[1:]
}

// assignPending reports whether an Assign stands in the tail (E6).
func (t *tail) assignPending() bool {
	for _, e := range t.entries {
		if kind, ok := storage.KindOf(e.GetData()); ok && e.GetType() == raftpb.EntryNormal && kind == storage.KindAssign {
			return true
		}
	}
	return false
}

// Overlay returns what st will be if the whole log up to its last index is
// committed (E5). st must have applied every entry that Process has handed
// out; it is not changed. Decide Assigns from the overlay: its epochs are the
// ones that Prev must name.
func (d *Driver) Overlay(st *storage.State) *storage.State {
	next := st.CloneControl()
	applied, _ := next.Applied()
	invariant.Check(applied == d.tail.handed, "overlay over index %d, handed out up to %d", applied, d.tail.handed)
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

// confContext returns the command that goes with a configuration change.
func confContext(e *raftpb.Entry) []byte {
	cc, err := decodeConf(e)
	if err != nil {
		return nil
	}
	return cc.AsV2().GetContext()
}

func decodeConf(e *raftpb.Entry) (raftpb.ConfChangeI, error) {
	if e.GetType() == raftpb.EntryConfChange {
		cc := &raftpb.ConfChange{}
		return cc, proto.Unmarshal(e.GetData(), cc)
	}
	cc := &raftpb.ConfChangeV2{}
	return cc, proto.Unmarshal(e.GetData(), cc)
}
