package storage

import (
	"errors"
	"math"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// fill saves the committed entries up to an index, a few at a time.
func fillLog(t *testing.T, l *Log, to uint64) {
	t.Helper()
	last, _ := l.LastIndex()
	for last < to {
		next := min(last+3, to)
		save(t, l, hard(truthTerm(next), 1, next), truthEntries(t, last+1, next)...)
		last = next
	}
}

// snapshotAt writes a snapshot at an index and makes the log follow it.
func snapshotAt(t *testing.T, d *Data, l *Log, index uint64) SnapshotMeta {
	t.Helper()
	meta, err := d.Snapshots().Write(t.Context(), applyTruth(t, NewState(firstConfig()), index).Freeze())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Compact(meta)(); err != nil {
		t.Fatal(err)
	}
	return meta
}

// receive publishes the snapshot of another member here.
func receive(t *testing.T, d *Data, index uint64) (SnapshotMeta, *State) {
	t.Helper()
	meta, b := remote(t, index)
	r := mustReceive(t, d.Snapshots(), meta)
	send(t, r, b, len(b))
	state, err := r.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return meta, state
}

func mustOpenLog(t *testing.T, d *Data) (*Log, *State) {
	t.Helper()
	l, state, _, err := d.OpenLog(smallLog)
	if err != nil {
		t.Fatal(err)
	}
	return l, state
}

// checkTruth compares a log and the state it follows with what is committed.
func checkTruth(t *testing.T, l *Log, state *State, snapshot, last uint64) {
	t.Helper()
	index, term := state.Applied()
	if index != snapshot || term != truthOrFirst(snapshot) {
		t.Fatalf("state at %d of term %d, want %d", index, term, snapshot)
	}
	if want := applyTruth(t, NewState(firstConfig()), snapshot).Hash(); state.Hash() != want {
		t.Fatalf("state at %d has hash %x, want %x", snapshot, state.Hash(), want)
	}
	if got, _ := l.LastIndex(); got != last {
		t.Fatalf("log ends at %d, want %d", got, last)
	}
	snap, _ := l.Snapshot()
	if got := snap.GetMetadata().GetIndex(); got != snapshot {
		t.Fatalf("log follows %d, want %d", got, snapshot)
	}
	if last == snapshot {
		return
	}
	entries, err := l.Entries(snapshot+1, last+1, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		want := truthEntry(t, snapshot+1+uint64(i))
		if e.GetIndex() != want.GetIndex() || e.GetTerm() != want.GetTerm() || string(e.GetData()) != string(want.GetData()) {
			t.Fatalf("entry %d of term %d is not the one that was committed", e.GetIndex(), e.GetTerm())
		}
	}
}

func truthOrFirst(index uint64) uint64 {
	if index == FirstIndex {
		return FirstTerm
	}
	return truthTerm(index)
}

func TestCompact(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	fillLog(t, l, 150)
	before := l.LiveBytes()
	segments := l.Stats().Segments
	meta := snapshotAt(t, d, l, 120)
	if l.LiveBytes() >= before/2 || l.LiveBytes() == 0 {
		t.Fatalf("%d bytes behind the snapshot, %d before", l.LiveBytes(), before)
	}
	if got := l.Stats().Segments; got >= segments || got > 3 {
		t.Fatalf("%d segments of %d are left", got, segments)
	}
	checkTruth(t, l, applyTruth(t, NewState(firstConfig()), 120), 120, 150)
	// A few entries before it stay for members that are a little behind.
	if first, _ := l.FirstIndex(); first != 2 {
		t.Fatalf("first index %d", first)
	}
	if newest, _ := d.Snapshots().Newest(); newest.Index != 120 {
		t.Fatalf("newest %+v", newest)
	}
	old, err := d.Snapshots().Open(120)
	if err != nil {
		t.Fatal(err)
	}
	// The next one replaces it; who reads the old one goes on reading.
	snapshotAt(t, d, l, 150)
	if _, err := old.ReadAt(make([]byte, meta.Size), 0); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if names, _ := disk.ReadDir("/data/snap"); len(names) != 1 || l.LiveBytes() != 0 {
		t.Fatalf("%v, %d bytes behind the snapshot", names, l.LiveBytes())
	}
	fillLog(t, l, 155)
	if err := errors.Join(l.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	d = open(t, disk)
	l, state := mustOpenLog(t, d)
	checkTruth(t, l, state, 150, 155)
	if l.Stage() != Used || l.LiveBytes() == 0 {
		t.Fatal(l.Stage(), l.LiveBytes())
	}
	fillLog(t, l, 160)
	snapshotAt(t, d, l, 160)
}

// A member that is a little behind gets entries, but memory stays bounded.
func TestCompactKeepsAFew(t *testing.T) {
	d, l := founded(t, vfs.NewMem())
	fillLog(t, l, 100)
	small := func(from, to uint64) (out []*raftpb.Entry) {
		for i := from; i <= to; i++ {
			out = append(out, entry(i, 50, ""))
		}
		return out
	}
	state := applyTruth(t, NewState(firstConfig()), 100)
	save(t, l, hard(50, 1, 2000), small(101, 2000)...)
	for i := uint64(101); i <= 1900; i++ {
		if _, err := state.Apply(i, 50, nil); err != nil {
			t.Fatal(err)
		}
	}
	meta, err := d.Snapshots().Write(t.Context(), state.Freeze())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Compact(meta)(); err != nil {
		t.Fatal(err)
	}
	first, _ := l.FirstIndex()
	if first != 1900-keepEntries+1 {
		t.Fatalf("first index %d", first)
	}
	if term, err := l.Term(first - 1); err != nil || term != 50 {
		t.Fatalf("term before the first entry %d, %v", term, err)
	}
	if _, err := l.Term(first - 2); !errors.Is(err, raft.ErrCompacted) {
		t.Fatal(err)
	}
	if _, err := l.Entries(first-1, first+1, 1000); !errors.Is(err, raft.ErrCompacted) {
		t.Fatal(err)
	}
	if e, err := l.Entries(first, 2001, math.MaxUint64); err != nil || len(e) != 2001-int(first) {
		t.Fatalf("%d entries, %v", len(e), err)
	}
	// Not more bytes than the bound, either.
	big := []*raftpb.Entry{entry(2001, 50, strings.Repeat("x", 30_000))}
	for i := uint64(2002); i <= 2200; i++ {
		big = append(big, entry(i, 50, strings.Repeat("y", 30_000)))
	}
	save(t, l, hard(50, 1, 2200), big...)
	for i := uint64(1901); i <= 2200; i++ {
		state.advance(i, 50)
	}
	if meta, err = d.Snapshots().Write(t.Context(), state.Freeze()); err != nil {
		t.Fatal(err)
	}
	if err := l.Compact(meta)(); err != nil {
		t.Fatal(err)
	}
	first, _ = l.FirstIndex()
	if kept := (2200 - first + 1) * 30_064; kept > keepBytes || kept < keepBytes*9/10 {
		t.Fatalf("first index %d", first)
	}
}

func TestInstall(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	fillLog(t, l, 30)
	snapshotAt(t, d, l, 20)
	// A tail that nobody else has.
	save(t, l, nil, entry(31, truthTerm(30), "never"), entry(32, truthTerm(30), "never"))
	meta, state := receive(t, d, 100)
	if newest, _ := d.Snapshots().Newest(); newest.Index != 20 {
		t.Fatal("a snapshot counts before the log follows it")
	}
	release := l.Install(meta.Raft())
	save(t, l, hard(truthTerm(100), 0, 100))
	checkTruth(t, l, state, 100, 100)
	if newest, _ := d.Snapshots().Newest(); newest.Index != 100 || l.LiveBytes() != 0 {
		t.Fatal(newest, l.LiveBytes())
	}
	if term, err := l.Term(100); err != nil || term != truthTerm(100) {
		t.Fatal(term, err)
	}
	fillLog(t, l, 110)
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if names, _ := disk.ReadDir("/data/snap"); len(names) != 1 {
		t.Fatalf("left over: %v", names)
	}
	// A snapshot begun before the install is of no use, and goes.
	if late, err := d.Snapshots().Write(t.Context(), applyTruth(t, NewState(firstConfig()), 30).Freeze()); err != nil || late.Index != 100 {
		t.Fatal(late, err)
	} else if err := l.Compact(late)(); err != nil {
		t.Fatal(err)
	}
	disk.Crash(vfs.CrashOptions{})
	_ = l.Close()
	d = open(t, disk)
	l, state = mustOpenLog(t, d)
	checkTruth(t, l, state, 100, 110)
	snapshotAt(t, d, l, 110)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, state = mustOpenLog(t, d)
	if index, _ := state.Applied(); index != 110 {
		t.Fatalf("state at %d", index)
	}
}

// An install while the log has not heard of the leader's term: the hard state
// covers the snapshot even if the power goes before the next Save.
func TestInstallAlone(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	meta, _ := receive(t, d, 100)
	if err := l.Install(meta.Raft())(); err != nil {
		t.Fatal(err)
	}
	disk.Crash(vfs.CrashOptions{})
	_ = l.Close()
	l, state := mustOpenLog(t, open(t, disk))
	checkTruth(t, l, state, 100, 100)
	if got := describe(t, l); got != "term 11 vote 0 commit 100:" {
		t.Fatal(got)
	}
}

// A snapshot that was received and never installed leads nowhere.
func TestReceivedAloneDoesNotCount(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	fillLog(t, l, 10)
	receive(t, d, 100)
	if err := errors.Join(l.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	d = open(t, disk)
	l, state := mustOpenLog(t, d)
	checkTruth(t, l, state, 1, 10)
	if names, _ := disk.ReadDir("/data/snap"); len(names) != 0 {
		t.Fatalf("left over: %v", names)
	}
	// It may come again, even while the log has come as far itself.
	fillLog(t, l, 120)
	snapshotAt(t, d, l, 110)
	if _, state := receive(t, d, 100); state.Hash() != applyTruth(t, NewState(firstConfig()), 100).Hash() {
		t.Fatal("another state")
	}
	if names, _ := disk.ReadDir("/data/snap"); len(names) != 1 {
		t.Fatalf("left over: %v", names)
	}
}

// Covers F2: a log whose snapshot is missing, damaged or another's is damage,
// and set aside with all its files.
func TestDamagedSnapshotIsNotGuessed(t *testing.T) {
	for name, hurt := range map[string]func(t *testing.T, m *vfs.Mem, file string){
		"missing": func(t *testing.T, m *vfs.Mem, file string) {
			if err := m.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
		"header": func(t *testing.T, m *vfs.Mem, file string) { flipFile(t, m, file, 0) },
		"data":   func(t *testing.T, m *vfs.Mem, file string) { flipFile(t, m, file, snapHeader+1000) },
		"sum": func(t *testing.T, m *vfs.Mem, file string) {
			info, _ := m.Stat(file)
			flipFile(t, m, file, info.Size-1)
		},
		"empty": func(t *testing.T, m *vfs.Mem, file string) { overwrite(t, m, file, nil) },
		"older": func(t *testing.T, m *vfs.Mem, file string) { _, b := remote(t, 50); overwrite(t, m, file, b) },
		"no dir": func(t *testing.T, m *vfs.Mem, file string) {
			if err := errors.Join(m.Remove(file), m.Remove("/data/snap")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk := vfs.NewMem()
			d, l := founded(t, disk)
			id := d.RaftID()
			fillLog(t, l, 70)
			snapshotAt(t, d, l, 60)
			if err := errors.Join(l.Close(), d.Close()); err != nil {
				t.Fatal(err)
			}
			hurt(t, disk, d.Snapshots().name(60))
			d = open(t, disk)
			_, _, _, err := d.OpenLog(smallLog)
			var damage *DamageError
			if !errors.As(err, &damage) || name != "missing" && name != "no dir" && !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("opened: %v", err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			moved, err := SetAside(disk, "/data", "1")
			if err != nil || len(moved) < 3 {
				t.Fatalf("%v, %v", moved, err)
			}
			if ok, _ := vfs.Exists(disk, "/data/snap"); ok {
				t.Fatal("snapshots stay")
			}
			d = open(t, disk)
			if _, ok := d.First(); ok || d.RaftID() == id {
				t.Fatal("not a new node")
			}
		})
	}
}

func overwrite(t *testing.T, m *vfs.Mem, name string, b []byte) {
	t.Helper()
	if err := m.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A directory that kept only its snapshots is damaged, not new.
func TestSnapshotsAloneAreDamage(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	fillLog(t, l, 70)
	snapshotAt(t, d, l, 60)
	if err := errors.Join(l.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fileFirst, dirLog} {
		if err := disk.Publish("/data/"+name, "/data/"+name+"-gone"); err != nil {
			t.Fatal(err)
		}
	}
	var damage *DamageError
	if _, err := OpenData(disk, "/data"); !errors.As(err, &damage) {
		t.Fatalf("opened: %v", err)
	}
}

// Covers F3: records about snapshots that make no sense are corruption.
func TestReplayRefusesNonsenseOfSnapshots(t *testing.T) {
	e := func(index, term uint64) wal.Record {
		return wal.Record{Type: recordEntry, Index: index, Term: term, Payload: []byte{0}}
	}
	b := func(typ uint8, index, term, commit uint64) wal.Record {
		r := wal.Record{Type: typ, Payload: (&base{index: index, term: term, hardTerm: term, commit: commit}).encode()}
		if typ == recordInstall {
			r.Index = index
		}
		return r
	}
	for name, recs := range map[string][]wal.Record{
		"too short":        {e(2, 1), {Type: recordCompact, Payload: make([]byte, baseBytes-1)}},
		"index 1":          {e(2, 1), b(recordCompact, 1, 1, 1)},
		"commit before":    {e(2, 1), e(3, 1), b(recordCompact, 3, 1, 2)},
		"behind the log":   {e(2, 1), b(recordCompact, 3, 1, 3)},
		"other term":       {e(2, 1), e(3, 1), b(recordCompact, 3, 2, 3)},
		"twice":            {e(2, 1), e(3, 1), b(recordCompact, 2, 1, 2), b(recordCompact, 2, 1, 2)},
		"backwards":        {e(2, 1), e(3, 1), b(recordCompact, 3, 1, 3), b(recordCompact, 2, 1, 3)},
		"install of other": {e(2, 1), {Type: recordInstall, Index: 5, Payload: b(recordInstall, 6, 1, 6).Payload}},
		"no entries":       {b(recordCompact, 6, 1, 6)},
		"not released":     {e(5, 1), e(6, 1), b(recordCompact, 6, 1, 6)},
		"gap behind":       {e(2, 1), e(3, 1), b(recordInstall, 6, 1, 6), e(8, 1)},
		"term behind":      {e(2, 1), e(3, 1), b(recordInstall, 6, 3, 6), e(7, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			disk := vfs.NewMem()
			d, l := founded(t, disk)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			first, _ := d.First()
			w, _, err := wal.Open(wal.Options{FS: disk, Dir: "/data/wal", Cluster: first.ID(), Node: d.RaftID(), SegmentBytes: 64 << 10}, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.Append(recs, func(error) {})
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			_, _, _, err = d.OpenLog(smallLog)
			if !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("opened: %v", err)
			}
			var damage *DamageError
			if errors.As(err, &damage) {
				t.Fatalf("the snapshot was looked for first: %v", err)
			}
		})
	}
}
