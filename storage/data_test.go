package storage

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

var smallLog = LogOptions{SegmentBytes: 64 << 10}

func open(t *testing.T, fsys vfs.FS) *Data {
	t.Helper()
	d, err := OpenData(fsys, "/data")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// founded returns a directory with a log that holds nothing.
func founded(t *testing.T, fsys vfs.FS) (*Data, *Log) {
	t.Helper()
	d := open(t, fsys)
	if err := d.PublishFirst(firstConfig(), Empty); err != nil {
		t.Fatal(err)
	}
	l, _, _, err := d.OpenLog(smallLog)
	if err != nil {
		t.Fatal(err)
	}
	return d, l
}

func entry(index, term uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Index: new(index), Term: new(term), Data: []byte(data)}
}

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}

func save(t *testing.T, l *Log, hs *raftpb.HardState, entries ...*raftpb.Entry) {
	t.Helper()
	done := make(chan error, 1)
	l.Save(hs, entries, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// describe renders the whole log.
func describe(t *testing.T, l *Log) string {
	t.Helper()
	hs, _, err := l.InitialState()
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("term %d vote %d commit %d:", hs.GetTerm(), hs.GetVote(), hs.GetCommit())
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if last < first {
		return out
	}
	entries, err := l.Entries(first, last+1, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out += fmt.Sprintf(" %d/%d=%s", e.GetIndex(), e.GetTerm(), e.GetData())
	}
	return out
}

func TestIdentityIsDrawnOnce(t *testing.T) {
	disk := vfs.NewMem()
	d := open(t, disk)
	id := d.RaftID()
	if !ValidRaftID(id) {
		t.Fatalf("raft id %x", id)
	}
	if _, err := OpenData(disk, "/data"); !errors.Is(err, ErrInUse) {
		t.Fatalf("second worker: %v", err)
	}
	disk.Crash(vfs.CrashOptions{})
	if d = open(t, disk); d.RaftID() != id {
		t.Fatal("raft id lost in a power cut")
	}
	if _, ok := d.First(); ok {
		t.Fatal("a new directory is founded")
	}
	if other := open(t, vfs.NewMem()); other.RaftID() == id {
		t.Fatal("two directories, one raft id")
	}
}

// Covers G2: the promise outlives a crash, and an unreadable one means the
// longest wait.
func TestPromiseIsStored(t *testing.T) {
	disk := vfs.NewMem()
	d := open(t, disk)
	if p, err := d.StoredPromise(); err != nil || p != 0 {
		t.Fatalf("%s, %v", p, err)
	}
	if err := d.StorePromise(2 * time.Second); err != nil {
		t.Fatal(err)
	}
	disk.Crash(vfs.CrashOptions{})
	d = open(t, disk)
	if p, err := d.StoredPromise(); err != nil || p != 2*time.Second {
		t.Fatalf("%s, %v", p, err)
	}
	if err := disk.WriteFile("/data/promise", []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := d.StoredPromise(); err != nil || p != maxPromise {
		t.Fatalf("%s, %v", p, err)
	}
	if d.StorePromise(0) == nil || d.StorePromise(time.Hour) == nil {
		t.Fatal("impossible promise stored")
	}
}

// Covers F1: empty, founded, used; a founding may be repeated only while the
// log holds nothing.
func TestStages(t *testing.T) {
	disk := vfs.NewMem()
	d, l := founded(t, disk)
	if l.Stage() != Founded {
		t.Fatalf("stage %s", l.Stage())
	}
	again := firstConfig()
	again.Members[0].RaftID = 42
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.PublishFirst(again, Founded); err != nil {
		t.Fatal(err)
	}
	l, _, _, err := d.OpenLog(smallLog)
	if err != nil {
		t.Fatal(err)
	}
	save(t, l, hard(2, 1, 1), entry(2, 2, "a"))
	if l.Stage() != Used {
		t.Fatalf("stage %s", l.Stage())
	}
	if err := d.PublishFirst(firstConfig(), Used); err == nil {
		t.Fatal("founded over a log in use")
	}
	if err := d.PublishFirst(again, Used); err != nil {
		t.Fatalf("the same founding again: %v", err)
	}
}

// Files that contradict each other are damage with a hint; after SetAside the
// node is a new one (F2) and still bound by its promise.
func TestDamageIsRefusedAndSetAside(t *testing.T) {
	remove := func(name string) func(*testing.T, *vfs.Mem) {
		return func(t *testing.T, m *vfs.Mem) {
			if names, err := m.ReadDir("/data/" + name); err == nil {
				for _, n := range names {
					if err := m.Remove(filepath.Join("/data", name, n)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := m.Remove("/data/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	garble := func(name string) func(*testing.T, *vfs.Mem) {
		return func(t *testing.T, m *vfs.Mem) {
			b, err := vfs.ReadFile(m, "/data/"+name, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := m.WriteFile("/data/"+name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, hurt := range map[string]func(*testing.T, *vfs.Mem){
		"no raft id": remove(fileRaftID), "no first": remove(fileFirst), "no log": remove(dirLog),
		"bad raft id": garble(fileRaftID), "bad first": garble(fileFirst),
	} {
		t.Run(name, func(t *testing.T) {
			disk := vfs.NewMem()
			d, l := founded(t, disk)
			id := d.RaftID()
			save(t, l, hard(2, 1, 1), entry(2, 2, "a"))
			if err := errors.Join(d.StorePromise(time.Second), l.Close(), d.Close()); err != nil {
				t.Fatal(err)
			}
			hurt(t, disk)
			_, err := OpenData(disk, "/data")
			var damage *DamageError
			if !errors.As(err, &damage) || !strings.Contains(err.Error(), "set the raft files aside") {
				t.Fatalf("opened: %v", err)
			}
			moved, err := SetAside(disk, "/data", "1")
			if err != nil || len(moved) < 2 {
				t.Fatalf("%v, %v", moved, err)
			}
			d = open(t, disk)
			if p, _ := d.StoredPromise(); d.RaftID() == id || p != time.Second {
				t.Fatalf("raft id %x promise %s", d.RaftID(), p)
			}
		})
	}
}

// A power cut at any step of first start and founding, with any part of what
// was not synced on disk, leaves a directory that opens and goes on.
func TestFoundingSurvivesPowerCuts(t *testing.T) {
	boom := errors.New("power cut")
	for n := int64(1); ; n++ {
		for seed := range uint64(4) {
			disk := vfs.NewMem()
			cut := vfs.Inject(disk, vfs.Nth(n, boom, func(o vfs.Op) bool { return o.Kind.Changes() }))
			id, err := found(cut)
			if err == nil {
				if n < 10 {
					t.Fatalf("founding took %d steps", n)
				}
				return
			}
			disk.Crash(vfs.CrashOptions{Rand: rand.New(rand.NewPCG(seed, uint64(n))), Sectors: 0.5, Names: 0.5})
			again, err := found(disk)
			if err != nil {
				t.Fatalf("step %d seed %d: %v", n, seed, err)
			}
			if id != 0 && id != again {
				t.Fatalf("step %d seed %d: raft id %x became %x", n, seed, id, again)
			}
		}
	}
}

// found does what a worker does on its first start, and on the next ones.
func found(fsys vfs.FS) (id uint64, err error) {
	d, err := OpenData(fsys, "/data")
	if err != nil {
		return 0, err
	}
	id = d.RaftID()
	if err := d.PublishFirst(firstConfig(), Founded); err != nil {
		return id, err
	}
	l, _, _, err := d.OpenLog(smallLog)
	if err != nil {
		return id, err
	}
	done := make(chan error, 1)
	last, _ := l.LastIndex()
	l.Save(hard(2, 1, last), []*raftpb.Entry{entry(last+1, 2, "a")}, func(err error) { done <- err })
	err = <-done
	return id, errors.Join(err, l.Close())
}

func TestLogKeepsWhatWasSaved(t *testing.T) {
	disk := vfs.NewMem()
	_, l := founded(t, disk)
	if got := describe(t, l); got != "term 1 vote 0 commit 1:" {
		t.Fatal(got)
	}
	save(t, l, hard(2, 7, 1), entry(2, 2, "a"), entry(3, 2, "b"), entry(4, 2, "c"))
	save(t, l, hard(3, 0, 2), entry(3, 3, "B")) // conflict: 3 and 4 go
	save(t, l, nil, entry(4, 3, "C"), &raftpb.Entry{Index: new(uint64(5)), Term: new(uint64(3)), Type: raftpb.EntryConfChangeV2.Enum(), Data: []byte("conf")})
	l.KeepCommit(5)
	save(t, l, hard(4, 9, 5))
	want := "term 4 vote 9 commit 5: 2/2=a 3/3=B 4/3=C 5/3=conf"
	if got := describe(t, l); got != want {
		t.Fatal(got)
	}
	disk.Crash(vfs.CrashOptions{})
	_ = l.Close()
	d := open(t, disk)
	l, _, rec, err := d.OpenLog(smallLog)
	if err != nil || rec.Verdict != wal.Clean {
		t.Fatalf("%+v, %v", rec, err)
	}
	if got := describe(t, l); got != want {
		t.Fatalf("after a crash: %s", got)
	}
	if e, _ := l.Entries(5, 6, 0); e[0].GetType() != raftpb.EntryConfChangeV2 {
		t.Fatal("type of an entry lost")
	}
	// What was saved last is on disk after Close, even a lone commit index.
	save(t, l, nil, entry(6, 4, "d"))
	l.KeepCommit(6)
	if err := errors.Join(l.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if l, _, _, err = open(t, disk).OpenLog(smallLog); err != nil {
		t.Fatal(err)
	}
	if got := describe(t, l); !strings.HasPrefix(got, "term 4 vote 9 commit 6:") {
		t.Fatal(got)
	}
}

func TestLogAnswersRaft(t *testing.T) {
	_, l := founded(t, vfs.NewMem())
	save(t, l, nil, entry(2, 1, "aaaa"), entry(3, 1, "bbbb"), entry(4, 2, "cccc"))
	if _, err := l.Entries(1, 3, 100); !errors.Is(err, raft.ErrCompacted) {
		t.Fatal(err)
	}
	if _, err := l.Entries(2, 6, 100); !errors.Is(err, raft.ErrUnavailable) {
		t.Fatal(err)
	}
	if e, err := l.Entries(2, 5, 0); err != nil || len(e) != 1 {
		t.Fatalf("%d entries for size 0, want one: %v", len(e), err)
	}
	if e, err := l.Entries(2, 5, 25); err != nil || len(e) != 2 {
		t.Fatalf("%d entries for 25 bytes: %v", len(e), err)
	}
	for index, want := range map[uint64]uint64{1: 1, 3: 1, 4: 2} {
		if term, err := l.Term(index); err != nil || term != want {
			t.Fatalf("term of %d is %d, %v", index, term, err)
		}
	}
	if _, err := l.Term(0); !errors.Is(err, raft.ErrCompacted) {
		t.Fatal(err)
	}
	if _, err := l.Term(5); !errors.Is(err, raft.ErrUnavailable) {
		t.Fatal(err)
	}
	snap, err := l.Snapshot()
	if err != nil || snap.GetMetadata().GetIndex() != 1 || len(snap.GetMetadata().GetConfState().GetVoters()) != 3 {
		t.Fatalf("%v, %v", snap, err)
	}
	// A slice given out does not change when its entries are replaced.
	held, _ := l.Entries(3, 5, math.MaxUint64)
	save(t, l, hard(3, 0, 2), entry(3, 3, "X"), entry(4, 3, "Y"))
	if string(held[0].GetData()) != "bbbb" || string(held[1].GetData()) != "cccc" {
		t.Fatal("entries changed under raft")
	}
}

// Covers F3: bytes that are right and make no sense are corruption, not a
// guess.
func TestReplayRefusesNonsense(t *testing.T) {
	e := func(index, term uint64) wal.Record {
		return wal.Record{Type: recordEntry, Index: index, Term: term, Payload: []byte{0, 'x'}}
	}
	h := func(term, commit byte) wal.Record {
		p := make([]byte, hardBytes)
		p[7], p[23] = term, commit
		return wal.Record{Type: recordHard, Payload: p}
	}
	cut := func(index uint64) wal.Record { return wal.Record{Type: wal.TypeTruncate, Index: index} }
	for name, recs := range map[string][]wal.Record{
		"gap":                      {e(2, 1), e(4, 1)},
		"entry again":              {e(2, 1), e(2, 1)},
		"term falls":               {e(2, 3), e(3, 2)},
		"no type":                  {{Type: recordEntry, Index: 2, Term: 1}},
		"unknown entry":            {{Type: recordEntry, Index: 2, Term: 1, Payload: []byte{9}}},
		"unknown record":           {{Type: 77}},
		"hard state too short":     {{Type: recordHard, Payload: []byte{1}}},
		"term of hard state":       {h(3, 1), h(2, 1)},
		"commit falls":             {e(2, 1), h(2, 2), h(2, 1)},
		"cut of what is committed": {e(2, 1), h(2, 2), cut(2)},
		"cut behind the end":       {cut(4)},
		"commit behind the end":    {e(2, 1), h(2, 3)},
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
			for _, r := range recs {
				if r.Type == wal.TypeTruncate {
					w.Truncate(r.Index, func(error) {})
					continue
				}
				w.Append([]wal.Record{r}, func(error) {})
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := d.OpenLog(smallLog); !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("opened: %v", err)
			}
		})
	}
}

// An error of the disk is final and told to every later Save.
func TestDiskErrorIsFinal(t *testing.T) {
	boom := errors.New("boom")
	var armed atomic.Bool
	disk := vfs.Inject(vfs.NewMem(), func(o vfs.Op) error {
		if armed.Load() && o.Kind == vfs.OpSync {
			return boom
		}
		return nil
	})
	_, l := founded(t, disk)
	armed.Store(true)
	for i := range uint64(2) {
		done := make(chan error, 1)
		l.Save(nil, []*raftpb.Entry{entry(2+i, 1, "a")}, func(err error) { done <- err })
		if err := <-done; err == nil {
			t.Fatal("saved on a disk that fails")
		}
	}
	<-l.Failed()
	if !errors.Is(l.Err(), boom) {
		t.Fatal(l.Err())
	}
}
