package storage

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// Each test here fails when one check or one write is taken out of this
// package; see test/mutants.

// Covers I7: a vote that changes nothing else is written too.
func TestVoteAloneIsStored(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	save(t, l, hard(2, 0, 1))
	save(t, l, hard(2, 7, 1))
	if err := errors.Join(l.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	disk.Crash(vfs.CrashOptions{})
	d = open(t, disk)
	l, _ = mustOpenLog(t, d)
	if got := describe(t, l); got != "term 2 vote 7 commit 1:" {
		t.Fatal(got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// Covers I7: a Save of more than a batch may be cut short within; a commit
// index never stands before what it covers.
func TestCommitStandsBehindItsEntries(t *testing.T) {
	const last = 700 // more than two batches
	boom := errors.New("power cut")
	for n := int64(1); ; n++ {
		disk := vfs.NewMem()
		d, l := founded(t, disk)
		if err := errors.Join(l.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		d = open(t, vfs.Inject(disk, vfs.Nth(n, boom, func(o vfs.Op) bool {
			return o.Kind.Changes() && filepath.Base(filepath.Dir(o.Path)) == dirLog
		})))
		var err error
		if l, _, _, err = d.OpenLog(smallLog); err == nil {
			var entries []*raftpb.Entry
			for i := uint64(2); i <= last; i++ {
				entries = append(entries, entry(i, 2, "x"))
			}
			done := make(chan error, 1)
			l.Save(hard(2, 1, last), entries, func(err error) { done <- err })
			err = errors.Join(<-done, l.Close())
		}
		if err == nil {
			if n < 4 {
				t.Fatalf("saved in %d steps", n)
			}
			return
		}
		disk.Crash(vfs.CrashOptions{Rand: rand.New(rand.NewPCG(uint64(n), 1)), Sectors: 0.5})
		d = open(t, disk)
		l, _, _, err = d.OpenLog(smallLog)
		if err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		if err := errors.Join(l.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Covers I7: a log in which a committed entry was cut and written anew is
// damage.
func TestCommittedEntryWrittenAnew(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	save(t, l, hard(2, 1, 3), entry(2, 2, "a"), entry(3, 2, "b"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	first, _ := d.First()
	w, _, err := wal.Open(wal.Options{FS: disk, Dir: "/data/wal", Cluster: first.ID(), Node: d.RaftID(), SegmentBytes: 64 << 10}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Truncate(3, func(error) {})
	w.Append([]wal.Record{{Type: recordEntry, Index: 3, Term: 3, Payload: []byte{0, 'c'}}}, func(error) {})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := d.OpenLog(smallLog); !errors.Is(err, wal.ErrCorrupt) {
		t.Fatalf("opened: %v", err)
	}
}

// Covers I6: the snapshot beside a log is the one that the log names, not
// another of the same index.
func TestSnapshotOfAnotherHistory(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	fillLog(t, l, 30)
	meta := snapshotAt(t, d, l, 20)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	other := applyTruth(t, NewState(firstConfig()), 19)
	e := truthEntry(t, 20)
	if _, err := other.Apply(20, e.GetTerm(), truthEntry(t, 21).GetData()); err != nil {
		t.Fatal(err)
	}
	elsewhere := newSnapshots(vfs.NewMem(), "/elsewhere")
	elsewhere.setCluster(meta.Cluster)
	if _, err := elsewhere.Write(t.Context(), other.Freeze()); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteFile(d.Snapshots().name(20), mustRead(t, elsewhere, 20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := d.OpenLog(smallLog); !errors.Is(err, wal.ErrCorrupt) {
		t.Fatalf("opened: %v", err)
	}
}
