package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// wants are what a test checks of a Copy.
type wants struct {
	snapshot, last, commit, beyond uint64
	verdict                        wal.Verdict
	damage                         string // part of all that is said; "" for nothing
}

func lockData(t testing.TB, fsys vfs.FS) *DataLock {
	t.Helper()
	l, err := LockData(fsys, "/data")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func readCopy(t testing.TB, fsys vfs.FS, label string) *Copy {
	t.Helper()
	l := lockData(t, fsys)
	c, err := l.Read(t.Context(), label)
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (want wants) check(t testing.TB, c *Copy) {
	t.Helper()
	got := wants{c.Snapshot, c.Last, c.Commit, c.Beyond, c.Verdict, want.damage}
	if got != want {
		t.Errorf("got %+v, want %+v; %q", got, want, c.Damage)
	}
	said := strings.Join(c.Damage, "\n")
	if !strings.Contains(said, want.damage) || want.damage == "" && said != "" {
		t.Errorf("says %q, want %q", said, want.damage)
	}
	if c.State == nil {
		if want.last != 0 {
			t.Error("nothing can be used")
		}
		return
	}
	if last, term := c.State.Applied(); last != want.last || c.LastTerm != term || c.State.Hash() != truthHash(t, last) {
		t.Errorf("the state at %d is another", last)
	}
}

// used is a directory with entries up to 60, committed up to 57, and a snapshot
// at 40. Batches are of three entries, and a segment has a few of them.
func used(t testing.TB) *vfs.Mem {
	t.Helper()
	disk := vfs.NewMem()
	y, err := begin(t, disk, disk)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return y.grow(39) },
		func() error {
			return y.save(nil, entry(40, truthTerm(39), "never committed"), entry(41, truthTerm(39), "never either"))
		},
		func() error { return y.save(nil, truthEntries(y.t, 40, 45)...) },
		func() error { return y.grow(48) },
		func() error { return y.snapshot(40) },
		func() error { return y.grow(57) },
		func() error { return y.save(nil, truthEntries(y.t, 58, 60)...) },
		y.l.Close, y.d.Close,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return disk
}

// damageEntry flips a byte in the payload of the newest record of an index.
func damageEntry(t testing.TB, disk *vfs.Mem, index uint64) {
	t.Helper()
	var at wal.Item
	if _, err := wal.Inspect(disk, "/data/wal", func(i wal.Item) error {
		if i.Type == recordEntry && i.Index == index {
			at = i
		}
		return nil
	}); err != nil || at.Segment == "" {
		t.Fatalf("entry %d: %v", index, err)
	}
	flipByte(t, disk, at.Segment, at.Offset+130) // behind the frames of batch and record
}

func flipByte(t testing.TB, disk vfs.FS, name string, offset int64) {
	t.Helper()
	f, err := disk.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, offset)
	b[0] ^= 0x10
	_, werr := f.WriteAt(b, offset)
	if err := errors.Join(err, werr, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func removeFile(t testing.TB, disk vfs.FS, name string) {
	t.Helper()
	if err := errors.Join(disk.Remove(name), disk.SyncDir("/data")); err != nil {
		t.Fatal(err)
	}
}

func oneOf(t testing.TB, disk vfs.FS, dir string, n int) string {
	t.Helper()
	names, err := disk.ReadDir(dir)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v, %v", dir, names, err)
	}
	if n < 0 {
		n += len(names)
	}
	return dir + "/" + names[n]
}

// Covers F4: all that can be read is, also past damage that the snapshot covers,
// and entries whose commit nobody has proved; what is missing is told.
func TestReadCopy(t *testing.T) {
	first := firstConfig().ID()
	for name, row := range map[string]struct {
		damage func(t testing.TB, disk *vfs.Mem)
		want   wants
	}{
		"whole": {func(testing.TB, *vfs.Mem) {}, wants{40, 60, 57, 0, wal.Clean, ""}},
		"entry before the snapshot": {func(t testing.TB, disk *vfs.Mem) { damageEntry(t, disk, 38) },
			wants{40, 60, 57, 0, wal.Corrupt, "log is corrupt"}},
		"entry at the snapshot": {func(t testing.TB, disk *vfs.Mem) { damageEntry(t, disk, 40) },
			wants{40, 40, 57, 60, wal.Corrupt, "entries 41 to 57 were committed and cannot be read here"}},
		"entry behind it": {func(t testing.TB, disk *vfs.Mem) { damageEntry(t, disk, 53) },
			wants{40, 51, 57, 60, wal.Corrupt, "entries 52 to 57"}},
		"last entry": {func(t testing.TB, disk *vfs.Mem) { damageEntry(t, disk, 60) },
			wants{40, 57, 57, 0, wal.Corrupt, "log is corrupt"}},
		"snapshot": {func(t testing.TB, disk *vfs.Mem) { flipByte(t, disk, oneOf(t, disk, "/data/snap", -1), 5000) },
			wants{0, 1, 57, 60, wal.Clean, "entries 2 to 57"}}, // what was released is nowhere else
		"all of the log": {func(t testing.TB, disk *vfs.Mem) {
			for range 20 {
				if names, err := disk.ReadDir("/data/wal"); err != nil || len(names) == 0 {
					break
				}
				removeFile(t, disk, oneOf(t, disk, "/data/wal", 0))
			}
		}, wants{40, 40, 40, 0, 0, "there is no log"}},
		"raft id":  {func(t testing.TB, disk *vfs.Mem) { removeFile(t, disk, "/data/raft-id") }, wants{40, 60, 57, 0, wal.Clean, "there is no raft id"}},
		"raft id ": {func(t testing.TB, disk *vfs.Mem) { flipByte(t, disk, "/data/raft-id", 22) }, wants{40, 60, 57, 0, wal.Clean, "raft id cannot be read"}},
		"first configuration": {func(t testing.TB, disk *vfs.Mem) { flipByte(t, disk, "/data/first-config", 9) },
			wants{40, 60, 57, 0, wal.Clean, "first configuration has a wrong checksum"}},
		"first configuration and snapshot": {func(t testing.TB, disk *vfs.Mem) {
			removeFile(t, disk, "/data/first-config")
			flipByte(t, disk, oneOf(t, disk, "/data/snap", -1), 5000)
		}, wants{0, 0, 57, 60, wal.Clean, "nothing can be used"}},
	} {
		t.Run(name, func(t *testing.T) {
			disk := used(t)
			row.damage(t, disk)
			c := readCopy(t, disk, "")
			row.want.check(t, c)
			if c.Cluster != first || c.RaftID == 0 && row.want.verdict != 0 {
				t.Errorf("cluster %x node %x", c.Cluster, c.RaftID)
			}
			// The evidence reads as the original did.
			if _, err := SetAside(disk, "/data", "x"); err != nil {
				t.Fatal(err)
			}
			l := lockData(t, disk)
			defer func() { _ = l.Close() }()
			if labels, err := l.Labels(); err != nil || !slices.Equal(labels, []string{"x"}) {
				t.Errorf("labels %v, %v", labels, err)
			}
			c, err := l.Read(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			row.want.check(t, c)
			if _, err := l.Read(t.Context(), ""); !errors.Is(err, ErrNoCopy) {
				t.Errorf("nothing is left: %v", err)
			}
		})
	}
}

func TestReadCopyOfAFounding(t *testing.T) {
	disk := vfs.NewMem()
	if _, err := LockData(disk, "/data"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	d := open(t, disk)
	if _, err := LockData(disk, "/data"); !errors.Is(err, ErrInUse) {
		t.Errorf("in use: %v", err)
	}
	if err := d.PublishFirst(firstConfig(), Empty); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	c := readCopy(t, disk, "")
	if c.Last != FirstIndex || len(c.Damage) != 0 || c.State == nil {
		t.Errorf("%+v", c)
	}
}

// Damage of which parts fit by their index and not by their history.
func TestPieces(t *testing.T) {
	e := func(index, term uint64) wal.Record {
		return wal.Record{Type: recordEntry, Index: index, Term: term, Payload: []byte{0, byte(index), byte(term)}}
	}
	cut := func(index uint64) wal.Record { return wal.Record{Type: wal.TypeTruncate, Index: index} }
	install := func(index, term uint64) wal.Record {
		b := base{index: index, term: term, hardTerm: term, commit: index}
		return wal.Record{Type: recordInstall, Index: index, Payload: b.encode()}
	}
	type records []wal.Record
	for name, row := range map[string]struct {
		runs []records
		want string
	}{
		"one run":                                    {[]records{{e(8, 1), e(9, 2), e(10, 2), e(11, 3)}}, "11/3"},
		"begins right behind the base":               {[]records{{e(11, 3), e(12, 3)}}, "11/3 12/3"},
		"begins too late":                            {[]records{{e(12, 3)}}, ""},
		"ends before the base":                       {[]records{{e(8, 1), e(9, 1)}}, ""},
		"behind damage it is not known what was cut": {[]records{{e(9, 2), e(10, 2), e(11, 2), e(12, 2)}, {e(13, 3)}}, "11/2 12/2"},
		"the later of two that reach the base":       {[]records{{e(9, 2), e(10, 2), e(11, 2), e(12, 2)}, {e(11, 3)}}, "11/3"},
		"cut behind the base":                        {[]records{{e(10, 2), e(11, 2), e(12, 2), cut(12), e(12, 3)}}, "11/2 12/3"},
		"cut at the base, which was another":         {[]records{{e(9, 1), e(10, 1), e(11, 1), cut(10), e(10, 2), e(11, 2)}}, "11/2"},
		"the base is another":                        {[]records{{e(9, 1), e(10, 1), e(11, 1)}}, ""},
		"cut of all":                                 {[]records{{e(9, 2), e(10, 2), cut(9), e(9, 2), e(10, 2), e(11, 2)}}, "11/2"},
		"cut of what was released":                   {[]records{{cut(5), e(11, 2)}}, "11/2"},
		"received before the base":                   {[]records{{e(2, 1), install(9, 2), e(10, 2), e(11, 2)}}, "11/2"},
		"received behind the base":                   {[]records{{e(10, 2), e(11, 2), install(20, 2), e(21, 2)}}, "11/2"},
		"received as the base":                       {[]records{{e(2, 1), install(10, 2), e(11, 2)}}, "11/2"},
		"index that does not follow":                 {[]records{{e(10, 2), e(11, 2), e(13, 2), e(14, 2)}}, "11/2"},
		"term that falls":                            {[]records{{e(11, 1), e(12, 2)}}, ""},
	} {
		p := &pieces{base: 10, baseTerm: 2}
		for run, list := range row.runs {
			for _, r := range list {
				p.take(run, r)
			}
		}
		var got []string
		for _, e := range p.best() {
			got = append(got, fmt.Sprintf("%d/%d", e.GetIndex(), e.GetTerm()))
		}
		if s := strings.Join(got, " "); s != row.want {
			t.Errorf("%s: %q, want %q", name, s, row.want)
		}
	}
}

// Changes of members are in the copy, too.
func TestReplayEntry(t *testing.T) {
	s := NewState(firstConfig())
	m := member("gw3", 9, Gateway)
	context, err := Command{At: 1, Op: PutMember{Member: m}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		kind raftpb.ConfChangeType
		id   uint64
		want string
	}{
		{raftpb.ConfChangeAddLearnerNode, 9, "{[1 2 3] [9] []}"},
		{raftpb.ConfChangeAddNode, 9, "{[1 2 3 9] [] []}"},
		{raftpb.ConfChangeRemoveNode, 2, "{[1 3 9] [] []}"},
	} {
		_, data, err := raftpb.MarshalConfChange(&raftpb.ConfChangeV2{
			Changes: []*raftpb.ConfChangeSingle{{Type: step.kind.Enum(), NodeId: new(step.id)}}, Context: context,
		})
		if err != nil {
			t.Fatal(err)
		}
		e := &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Index: new(uint64(i) + 2), Term: new(uint64(1)), Data: data}
		if err := s.replayEntry(e); err != nil {
			t.Fatal(err)
		}
		conf, index := s.Conf()
		conf.Learners, conf.Outgoing = append([]uint64{}, conf.Learners...), append([]uint64{}, conf.Outgoing...)
		if fmt.Sprint(conf) != step.want || index != uint64(i)+2 {
			t.Errorf("step %d: %v at %d, want %s", i, conf, index, step.want)
		}
	}
	if _, ok := s.MemberByName("gw3"); !ok {
		t.Error("the record of the new member is missing")
	}
}

var recoverOptions = RecoverOptions{Node: "gw2", Label: "then", Actor: "uid 7", At: 99, Lost: "may be lost: much", segmentBytes: 64 << 10}

// Covers F1a, F2, F4, G2, S9: a new cluster from a copy.
func TestRecover(t *testing.T) {
	disk := used(t)
	d := open(t, disk)
	oldID := d.RaftID()
	if err := errors.Join(d.StorePromise(123456789), d.Close()); err != nil {
		t.Fatal(err)
	}
	l := lockData(t, disk)
	c, err := l.Read(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	s := c.State
	s.fenced = map[uint64]Fenced{1: {Operator: true, Index: 5}, 2: {Index: 6}, 77: {Operator: true}}
	s.maintained = map[uint64]Maintained{3: {Actor: "a", Index: 7}}
	s.assigned[0] = Assignment{Epoch: 9, Node: 2, Incarnation: 1}
	rev, keys := s.kv.Rev(), s.kv.View().Keys()
	r, err := l.Recover(t.Context(), c, recoverOptions)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	old := firstConfig().ID()
	if r.Old != old || r.Cluster == old || r.RaftID == oldID || r.Index != 60+Leap || r.Term != c.Term+1 || len(r.Aside) != 4 {
		t.Fatalf("%+v", r)
	}
	disk.Crash(vfs.CrashOptions{})

	d = open(t, disk)
	first, _ := d.First()
	log, state, rec, err := d.OpenLog(smallLog)
	if err != nil {
		t.Fatal(err)
	}
	if d.RaftID() != r.RaftID || first.ID() != r.Cluster || first.Parent != old || rec.Verdict != wal.Clean || log.Stage() != Used {
		t.Errorf("node %x, cluster %x, %v, %v", d.RaftID(), first.ID(), rec.Verdict, log.Stage())
	}
	if p, err := d.StoredPromise(); err != nil || p != 123456789 {
		t.Errorf("promise %v, %v", p, err)
	}
	hs, cs, _ := log.InitialState()
	if last, _ := log.LastIndex(); last != r.Index || hs.GetTerm() != r.Term || hs.GetVote() != 0 || hs.GetCommit() != r.Index || !slices.Equal(cs.GetVoters(), []uint64{r.RaftID}) {
		t.Errorf("log ends at %d, %v, %v", last, hs, cs)
	}
	conf, confIndex := state.Conf()
	gw1, _ := state.MemberByName("gw1")
	gw2, _ := state.MemberByName("gw2")
	w1, _ := state.MemberByName("w1")
	ids := []uint64{gw1.RaftID, gw2.RaftID, w1.RaftID, 1, 2, 3}
	slices.Sort(ids)
	if len(conf.Voters) != 1 || conf.Voters[0] != gw2.RaftID || len(conf.Learners) != 0 || confIndex != r.Index || gw2.RaftID != r.RaftID || len(slices.Compact(ids)) != 6 {
		t.Errorf("conf %v, members %x %x %x", conf, gw1.RaftID, gw2.RaftID, w1.RaftID)
	}
	if f, ok := state.Fenced(gw1.RaftID); !ok || f.Index != 5 || len(state.FencedNodes()) != 1 {
		t.Errorf("fences %v: the operator's stays, no other", state.fenced)
	}
	if _, ok := state.Maintained(w1.RaftID); !ok || len(state.maintained) != 1 {
		t.Errorf("maintenance %v", state.maintained)
	}
	if state.Assignment(0) != (Assignment{}) || len(state.History()) != 0 || state.Cluster() != r.Cluster {
		t.Errorf("assigned %v, history %v", state.assigned, state.history)
	}
	if state.kv.Rev() != rev+Leap || r.Revision != rev+Leap || state.kv.View().Keys() != keys || state.kv.Recount() != nil {
		t.Errorf("revision %d, %d keys", state.kv.Rev(), state.kv.View().Keys())
	}
	ev := state.Trail().Last("", 1)[0]
	if ev.Kind != EventRecovery || ev.Cause != CauseRecovered || ev.Actor != "uid 7" || ev.Node != "gw2" || ev.At != 99 || ev.Index != r.Index ||
		!strings.Contains(ev.Detail, fmt.Sprintf("%x", old)) || !strings.Contains(ev.Detail, "index 60") || !strings.Contains(ev.Detail, recoverOptions.Lost) {
		t.Errorf("event %+v", ev)
	}
	var export bytes.Buffer
	if err := errors.Join(state.Trail().Verify(), state.Trail().Export(&export, 0)); err != nil {
		t.Error(err)
	}
	// It goes on, and the old copy is there as it was.
	save(t, log, hard(r.Term+1, r.RaftID, r.Index+1), entry(r.Index+1, r.Term+1, ""))
	if err := errors.Join(log.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if got := readCopy(t, disk, ""); got.Last != r.Index+1 || got.Cluster != r.Cluster || len(got.Damage) != 0 {
		t.Errorf("copy of the new: %+v", got)
	}
	wants{40, 60, 57, 0, wal.Clean, ""}.check(t, readCopy(t, disk, "then"))
}

func TestRecoverRefuses(t *testing.T) {
	disk := used(t)
	l := lockData(t, disk)
	read := func() *Copy {
		c, err := l.Read(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := diskText(t, disk)
	for name, change := range map[string]func(c *Copy, o *RecoverOptions){
		"nothing in this copy": func(c *Copy, _ *RecoverOptions) { c.State = nil },
		"gw9 is not a member":  func(_ *Copy, o *RecoverOptions) { o.Node = "gw9" },
		`label ""`:             func(_ *Copy, o *RecoverOptions) { o.Label = "" },
		`label "a/b"`:          func(_ *Copy, o *RecoverOptions) { o.Label = "a/b" },
	} {
		c, o := read(), recoverOptions
		change(c, &o)
		if _, err := l.Recover(t.Context(), c, o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
	if diskText(t, disk) != before {
		t.Error("something was changed")
	}
	o := recoverOptions
	if _, err := l.Recover(t.Context(), read(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Recover(t.Context(), read(), o); !errors.Is(err, fs.ErrExist) {
		t.Errorf("label that is in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// diskText is the names and contents of all files.
func diskText(t testing.TB, m *vfs.Mem) string {
	t.Helper()
	var b strings.Builder
	var walk func(dir string)
	walk = func(dir string) {
		names, err := m.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			info, err := m.Stat(dir + "/" + n)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&b, dir, n, info.Size)
			if info.Dir {
				walk(dir + "/" + n)
				continue
			}
			raw, err := vfs.ReadFile(m, dir+"/"+n, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(raw)
		}
	}
	walk("/data")
	return b.String()
}

// afterCut opens what a power cut left, and tells whether it is the new cluster.
func afterCut(t testing.TB, disk *vfs.Mem, oldID uint64) (recovered bool, err error) {
	d, err := OpenData(disk, "/data")
	if err != nil {
		return false, err
	}
	first, ok := d.First()
	if !ok {
		return false, errors.Join(errors.New("there is nothing"), d.Close())
	}
	log, state, _, err := d.OpenLog(crashLog)
	if err != nil {
		return false, errors.Join(err, d.Close())
	}
	last, _ := log.LastIndex()
	recovered = first.ID() != firstConfig().ID()
	switch {
	case !recovered && (last != 60 || d.RaftID() != oldID):
		err = fmt.Errorf("old cluster: node %x, log ends at %d", d.RaftID(), last)
	case recovered && (last != 60+Leap || d.RaftID() == oldID || state.Cluster() != first.ID() || len(state.kv.View().Buckets()) == 0):
		err = fmt.Errorf("new cluster: node %x, log ends at %d", d.RaftID(), last)
	}
	if err := errors.Join(err, log.Close(), d.Close()); err != nil {
		return false, err
	}
	if !recovered {
		return false, nil
	}
	// The old copy is evidence now, and whole.
	l, err := LockData(disk, "/data")
	if err != nil {
		return true, err
	}
	c, err := l.Read(t.Context(), recoverOptions.Label)
	if err == nil && (c.Last != 60 || c.RaftID != oldID || len(c.Damage) != 0) {
		err = fmt.Errorf("evidence %+v", c)
	}
	return true, errors.Join(err, l.Close())
}

// Covers C4, F4: the power is cut before each operation of a recovery that
// changes the disk; what is left is the old cluster or the new one, whole.
func TestCrashAtEveryOperationOfRecover(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	disk := used(t)
	d := open(t, disk)
	oldID := d.RaftID()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	cuts := map[bool]int{}
	var mu sync.Mutex // segments are prepared on another goroutine
	fsys := vfs.Inject(disk, func(op vfs.Op) error {
		if !op.Kind.Changes() || op.Kind == vfs.OpReload || t.Failed() {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		for kind, o := range crashKinds(rng) {
			recovered, err := afterCut(t, disk.CrashClone(o), oldID)
			if err != nil {
				t.Errorf("cut before %v, %s: %v", op, kind, err)
				return nil
			}
			cuts[recovered]++
		}
		return nil
	})
	l := lockData(t, fsys)
	c, err := l.Read(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Recover(t.Context(), c, recoverOptions); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if recovered, err := afterCut(t, disk, oldID); err != nil || !recovered {
		t.Errorf("after the end: %v, %v", recovered, err)
	}
	t.Logf("cuts %v", cuts)
	if cuts[false] < 40 || cuts[true] < 20 {
		t.Error("the cuts do not reach everything")
	}
}

// Covers F4: an error at each operation leaves the old cluster or the new one,
// and a second try ends it.
func TestErrorAtEveryOperationOfRecover(t *testing.T) {
	outcomes := map[bool]int{}
	for n := int64(0); ; n++ {
		disk := used(t)
		d := open(t, disk)
		oldID := d.RaftID()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		var fired atomic.Bool // segments are prepared on another goroutine
		fail := vfs.Nth(n, broken, func(op vfs.Op) bool { return op.Kind.Changes() })
		fsys := vfs.Inject(disk, func(op vfs.Op) error {
			err := fail(op)
			if err != nil {
				fired.Store(true)
			}
			return err
		})
		err := func() error {
			l, err := LockData(fsys, "/data")
			if err != nil {
				return err
			}
			c, err := l.Read(t.Context(), "")
			if err == nil {
				_, err = l.Recover(t.Context(), c, recoverOptions)
			}
			return errors.Join(err, l.Close())
		}()
		if !fired.Load() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		recovered, cutErr := afterCut(t, disk.CrashClone(vfs.CrashOptions{}), oldID)
		if cutErr != nil {
			t.Fatalf("error at operation %d (%v): %v", n, err, cutErr)
		}
		outcomes[recovered]++
		l := lockData(t, disk) // ends it when it was decided on
		if c, err := l.Read(t.Context(), ""); err != nil {
			t.Fatal(err)
		} else if c.Cluster == firstConfig().ID() {
			if _, err := l.Recover(t.Context(), c, recoverOptions); err != nil {
				t.Fatalf("second try after operation %d: %v", n, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if recovered, err := afterCut(t, disk, oldID); err != nil || !recovered {
			t.Fatalf("second try after operation %d: %v, %v", n, recovered, err)
		}
	}
	t.Logf("outcomes %v", outcomes)
	if outcomes[false] < 10 || outcomes[true] < 5 {
		t.Error("the errors do not reach everything")
	}
}

// A marker that says nothing stops everything: what is to be done is not
// guessed.
func TestUnreadableRecoveryMarker(t *testing.T) {
	disk := used(t)
	overwriteMarker := func(text string) error { return disk.WriteFile("/data/recovery", []byte(text), 0o600) }
	for _, text := range []string{"", "holdfast recovery 1 ", "something"} {
		if err := overwriteMarker(text); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenData(disk, "/data"); err == nil || !strings.Contains(err.Error(), "unfinished recovery") {
			t.Errorf("%q: %v", text, err)
		}
	}
	// Nothing staged: all is in its place already.
	if err := overwriteMarker("holdfast recovery 1 then\n"); err != nil {
		t.Fatal(err)
	}
	wants{40, 60, 57, 0, wal.Clean, ""}.check(t, readCopy(t, disk, ""))
}
