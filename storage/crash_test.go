package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/wal"
)

// content is what a data directory holds, apart from what it may forget: the
// entries before it is free to drop once a snapshot has them.
type content struct {
	term, vote uint64
	entries    map[uint64]*raftpb.Entry // by index
	last       uint64
	committed  uint64 // known to be: no recovery may end before it
}

func (c *content) clone() *content {
	d := *c
	d.entries = make(map[uint64]*raftpb.Entry, len(c.entries))
	for i, e := range c.entries {
		d.entries[i] = e
	}
	return &d
}

// diary is a data directory in use, and what may be found in it after a power
// cut: steps[acked] and everything after it.
type diary struct {
	t  testing.TB
	fs vfs.FS
	d  *Data
	l  *Log

	mu    sync.Mutex
	steps []*content // steps[0] is what was there at the start
	acked int
}

// possible returns what a power cut now may leave.
func (y *diary) possible() []*content {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.steps[y.acked:len(y.steps):len(y.steps)]
}

func (y *diary) issue(change func(c *content)) {
	y.mu.Lock()
	defer y.mu.Unlock()
	next := y.steps[len(y.steps)-1].clone()
	change(next)
	y.steps = append(y.steps, next)
}

func (y *diary) ack() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.acked = len(y.steps) - 1
}

// save writes and waits. A crash may leave the cut without what follows it.
func (y *diary) save(hs *raftpb.HardState, entries ...*raftpb.Entry) error {
	if last, _ := y.l.LastIndex(); len(entries) > 0 && entries[0].GetIndex() <= last {
		y.issue(func(c *content) { c.cut(entries[0].GetIndex()) })
	}
	y.issue(func(c *content) {
		for _, e := range entries {
			c.entries[e.GetIndex()], c.last = e, e.GetIndex()
		}
		if hs != nil {
			c.term, c.vote, c.committed = hs.GetTerm(), hs.GetVote(), max(c.committed, hs.GetCommit())
		}
	})
	done := make(chan error, 1)
	y.l.Save(hs, entries, func(err error) { done <- err })
	err := <-done
	if err == nil {
		y.ack()
	}
	return err
}

func (c *content) cut(from uint64) {
	for i := from; i <= c.last; i++ {
		delete(c.entries, i)
	}
	c.last = from - 1
}

// grow saves committed entries up to an index.
func (y *diary) grow(to uint64) error {
	for last, _ := y.l.LastIndex(); last < to; {
		next := min(last+3, to)
		if err := y.save(y.hard(next, last), truthEntries(y.t, last+1, next)...); err != nil {
			return err
		}
		last = next
	}
	return y.save(y.hard(to, to))
}

// hard is the hard state of a node that has the entry at an index.
func (y *diary) hard(index, commit uint64) *raftpb.HardState {
	hs, _, _ := y.l.InitialState()
	if truthTerm(index) > hs.GetTerm() {
		return hard(truthTerm(index), 1, commit)
	}
	return hard(hs.GetTerm(), hs.GetVote(), commit)
}

func (y *diary) snapshot(index uint64) error {
	meta, err := y.d.Snapshots().Write(context.Background(), applyTruth(y.t, NewState(firstConfig()), index).Freeze())
	if err != nil {
		return err
	}
	return y.l.Compact(meta)()
}

// take receives a snapshot in two goes, and installs it.
func (y *diary) take(meta SnapshotMeta, b []byte) error {
	for _, to := range []int{len(b) * 2 / 3, len(b)} {
		r, err := y.d.Snapshots().Receive(meta)
		if err != nil {
			return err
		}
		for at := int(r.Offset()); at < to; {
			n := min(to-at, 64<<10)
			if err := r.Write(int64(at), b[at:at+n]); err != nil {
				return errors.Join(err, r.Close())
			}
			at += n
		}
		if to < len(b) {
			if err := r.Close(); err != nil {
				return err
			}
			continue
		}
		if _, err := r.Finish(context.Background()); err != nil {
			return err
		}
	}
	y.issue(func(c *content) { // with the hard state that raft has so far
		c.cut(2)
		c.last = meta.Index
		c.committed = meta.Index
		if c.term < meta.Term {
			c.term, c.vote = meta.Term, 0
		}
	})
	release := y.l.Install(meta.Raft())
	if err := y.save(hard(truthTerm(meta.Index)+1, 2, meta.Index)); err != nil {
		return err
	}
	return release()
}

// story uses a data directory in every way: appends over several segments, cuts
// of a tail, snapshots, releases, a snapshot received and installed, and more
// of it behind that.
func (y *diary) story(meta SnapshotMeta, file []byte) error {
	never := func(index uint64) *raftpb.Entry {
		return entry(index, truthTerm(index-1), "never committed "+strings.Repeat("x", int(index)))
	}
	for _, step := range []func() error{
		func() error { return y.grow(25) },
		func() error { return y.save(nil, never(26), never(27)) },
		func() error { return y.save(y.hard(30, 25), truthEntries(y.t, 26, 30)...) },
		func() error { return y.snapshot(22) },
		func() error { return y.grow(60) },
		func() error { return y.snapshot(60) },
		func() error { return y.save(nil, never(61), never(62), never(63)) },
		func() error { return y.take(meta, file) },
		func() error { return y.grow(meta.Index + 9) },
		func() error { return y.snapshot(meta.Index + 5) },
		func() error { return y.grow(meta.Index + 30) },
		func() error { return y.snapshot(meta.Index + 30) },
		func() error { y.l.KeepCommit(meta.Index + 30); return nil },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// check opens what a power cut left, compares it with what is possible, goes on
// with it, and opens it again.
func check(t testing.TB, fsys vfs.FS, possible []*content) (wal.Verdict, error) {
	d, err := OpenData(fsys, "/data")
	if err != nil {
		return 0, err
	}
	l, state, rec, err := d.OpenLog(crashLog)
	if err != nil {
		return 0, errors.Join(err, d.Close())
	}
	var last error
	found := false
	for _, c := range possible {
		if last = c.equals(t, l, state); last == nil {
			found = true
			break
		}
	}
	if !found {
		return 0, errors.Join(fmt.Errorf("none of %d possible: %w", len(possible), last), l.Close(), d.Close())
	}
	index, _ := l.LastIndex()
	hs, _, _ := l.InitialState()
	term, _ := l.Term(index)
	term = max(hs.GetTerm(), term) + 1
	done := make(chan error, 1)
	l.Save(hard(term, 3, hs.GetCommit()), []*raftpb.Entry{entry(index+1, term, "more")}, func(err error) { done <- err })
	if err := errors.Join(<-done, l.Close()); err != nil {
		return 0, errors.Join(err, d.Close())
	}
	again, _, _, err := d.OpenLog(crashLog)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("open after going on: %w", err), d.Close())
	}
	if got, _ := again.LastIndex(); got != index+1 {
		err = fmt.Errorf("after going on the log ends at %d, want %d", got, index+1)
	}
	return rec.Verdict, errors.Join(err, again.Close(), d.Close())
}

var crashLog = LogOptions{SegmentBytes: 32 << 10}

// hashes of the committed states, by index.
var truthHashes sync.Map

func truthHash(t testing.TB, index uint64) [32]byte {
	if h, ok := truthHashes.Load(index); ok {
		return h.([32]byte)
	}
	h := applyTruth(t, NewState(firstConfig()), index).Hash()
	truthHashes.Store(index, h)
	return h
}

// equals compares what was recovered with c.
func (c *content) equals(t testing.TB, l *Log, state *State) error {
	hs, _, _ := l.InitialState()
	last, _ := l.LastIndex()
	snapshot, _ := state.Applied()
	switch {
	case last != c.last:
		return fmt.Errorf("log ends at %d, want %d", last, c.last)
	case hs.GetTerm() != c.term || hs.GetVote() != c.vote:
		return fmt.Errorf("term %d vote %d, want term %d vote %d", hs.GetTerm(), hs.GetVote(), c.term, c.vote)
	case hs.GetCommit() < c.committed || hs.GetCommit() > last || hs.GetCommit() < snapshot:
		return fmt.Errorf("commit %d, want %d or more", hs.GetCommit(), c.committed)
	case state.Hash() != truthHash(t, snapshot):
		return fmt.Errorf("the state at %d is another", snapshot)
	}
	if last == snapshot {
		return nil
	}
	entries, err := l.Entries(snapshot+1, last+1, math.MaxUint64)
	if err != nil {
		return err
	}
	for _, e := range entries {
		want := c.entries[e.GetIndex()]
		if want == nil || e.GetTerm() != want.GetTerm() || string(e.GetData()) != string(want.GetData()) {
			return fmt.Errorf("entry %d of term %d is not what was saved", e.GetIndex(), e.GetTerm())
		}
	}
	return nil
}

// begin founds a directory on disk and opens it on fsys.
func begin(t testing.TB, disk *vfs.Mem, fsys vfs.FS) (*diary, error) {
	t.Helper()
	d, err := OpenData(fsys, "/data")
	if err != nil {
		return nil, err
	}
	if err := d.PublishFirst(firstConfig(), Empty); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	l, _, _, err := d.OpenLog(crashLog)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	start := &content{term: FirstTerm, entries: map[uint64]*raftpb.Entry{}, last: FirstIndex, committed: FirstIndex}
	return &diary{t: t, fs: fsys, d: d, l: l, steps: []*content{start}}, nil
}

func crashKinds(rng *rand.Rand) map[string]vfs.CrashOptions {
	return map[string]vfs.CrashOptions{
		"all lost": {},
		"all kept": {Rand: rng, Sectors: 1, Names: 1},
		"half":     {Rand: rng, Sectors: 0.5, Names: 0.5},
		"torn":     {Rand: rng, Sectors: 0.8, Names: 0.5, Tear: 0.3},
	}
}

// Covers C4, F2, F3: the power is cut before each operation that changes the
// disk, of append, rotate, truncate, snapshot, release, receive and install, and
// what was not synced is lost, kept, kept in part, or torn inside sectors.
// Whatever is left, the directory opens, holds all that was acknowledged and
// nothing that never was, and goes on.
func TestCrashAtEveryOperation(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	meta, file := remote(t, 120)
	disk := vfs.NewMem()
	var mu sync.Mutex
	var y *diary
	armed := false
	cuts, kinds, verdicts := 0, map[vfs.Kind]int{}, map[wal.Verdict]int{}
	fsys := vfs.Inject(disk, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if !armed || !op.Kind.Changes() || op.Kind == vfs.OpReload || t.Failed() {
			return nil
		}
		kinds[op.Kind]++
		for kind, o := range crashKinds(rng) {
			// Steps are acknowledged one by one: what is asked for before the
			// copy covers all that can be in it.
			possible := y.possible()
			v, err := check(t, disk.CrashClone(o), possible)
			if err != nil {
				t.Errorf("cut %d before %v, %s: %v", cuts, op, kind, err)
				return nil
			}
			verdicts[v]++
			cuts++
		}
		return nil
	})
	y, err := begin(t, disk, fsys)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	armed = true
	mu.Unlock()
	if err := y.story(meta, file); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(y.l.Close(), y.d.Close()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d cuts: %v, %v", cuts, kinds, verdicts)
	if verdicts[wal.TornTail] < 20 || verdicts[wal.Clean] < 20 || kinds[vfs.OpRemove] == 0 || kinds[vfs.OpRename] < 10 {
		t.Error("the cuts do not reach everything")
	}
	if _, err := check(t, disk, y.possible()); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// Covers F2, F3: one error at each operation of the story. Nothing is
// acknowledged after it came to the log, and a start after a power cut finds
// all that was.
func TestErrorAtEveryOperation(t *testing.T) {
	meta, file := remote(t, 120)
	count := int64(0)
	for n := int64(0); ; n++ {
		fired, err := storyWithError(t, n, meta, file)
		if err != nil {
			t.Fatalf("error at operation %d: %v", n, err)
		}
		if !fired {
			break
		}
		count++
	}
	t.Logf("%d operations", count)
	if count < 200 {
		t.Error("too few")
	}
}

func storyWithError(t *testing.T, n int64, meta SnapshotMeta, file []byte) (fired bool, err error) {
	disk := vfs.NewMem()
	var mu sync.Mutex
	seen := int64(0)
	var at vfs.Op
	fsys := vfs.Inject(disk, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen == n+1 {
			fired, at = true, op
			return vfs.ErrInjected
		}
		return nil
	})
	y, err := begin(t, disk, fsys)
	if err != nil {
		if !errors.Is(err, vfs.ErrInjected) || isDamage(err) {
			return true, fmt.Errorf("%v: founding says %w", at, err)
		}
		return true, nil // founding has a test of its own
	}
	serr := y.story(meta, file)
	if serr != nil && (!errors.Is(serr, vfs.ErrInjected) || isDamage(serr)) {
		return true, fmt.Errorf("%v: %w", at, serr)
	}
	failed := y.l.Err()
	if failed != nil {
		last, _ := y.l.LastIndex()
		done := make(chan error, 1)
		y.l.Save(nil, []*raftpb.Entry{entry(last+1, 1<<20, "late")}, func(err error) { done <- err })
		if err := <-done; !errors.Is(err, vfs.ErrInjected) {
			return true, fmt.Errorf("%v: acknowledged after the failure: %w", at, err)
		}
	}
	cerr := y.l.Close()
	if failed != nil && cerr == nil {
		return true, fmt.Errorf("%v: close hides the failure", at)
	}
	mu.Lock()
	defer mu.Unlock()
	if fired && serr == nil && cerr == nil && at.Kind.Changes() && !passing(at) {
		return true, fmt.Errorf("%v: nobody heard of the error", at)
	}
	disk.Crash(vfs.CrashOptions{})
	if _, err := check(t, disk, y.possible()); err != nil {
		return true, fmt.Errorf("%v: %w", at, err)
	}
	return fired, nil
}

// passing tells whether an operation only prepares a segment, or clears one that
// was, when the story ends before it matters.
func passing(op vfs.Op) bool {
	return strings.Contains(op.Path, "/next-") || strings.Contains(op.Path, "/spare-")
}

func isDamage(err error) bool {
	var damage *DamageError
	return errors.Is(err, wal.ErrCorrupt) || errors.As(err, &damage)
}

// Covers F3: an error at each operation of a start, and then a power cut: the
// next start finds everything, and an error is never taken for damage.
func TestErrorDuringStart(t *testing.T) {
	meta, file := remote(t, 120)
	disk := vfs.NewMem()
	y, err := begin(t, disk, disk)
	if err == nil {
		err = y.story(meta, file)
	}
	if err == nil {
		err = y.grow(160)
	}
	if err == nil {
		err = errors.Join(y.l.Close(), y.d.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	// What a crash may leave behind, to be cleared by the start.
	for _, name := range []string{"snap/00000000000000ff.snap", "snap/0000000000000100.tmp", "wal/next-7.tmp"} {
		overwrite(t, disk, "/data/"+name, []byte("left"))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for n := int64(0); ; n++ {
		for kind, o := range crashKinds(rng) {
			mem := disk.CrashClone(vfs.CrashOptions{})
			var fired sync.Map
			fsys := vfs.Inject(mem, vfs.Nth(n, vfs.ErrInjected, func(op vfs.Op) bool { fired.Store(1, op); return true }))
			err := start(fsys)
			if err != nil && isDamage(err) {
				t.Fatalf("operation %d: taken for damage: %v", n, err)
			}
			if err == nil && kind == "all lost" && n > 400 {
				t.Fatal("the start does not end")
			}
			mem.Crash(o)
			if _, err := check(t, mem, y.possible()); err != nil {
				op, _ := fired.Load(1)
				t.Fatalf("operation %d (%v), %s: %v", n, op, kind, err)
			}
			if err == nil && n > 30 {
				return // past the last operation that the start waits for
			}
		}
	}
}

func start(fsys vfs.FS) error {
	d, err := OpenData(fsys, "/data")
	if err != nil {
		return err
	}
	l, _, _, err := d.OpenLog(crashLog)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	return errors.Join(l.Close(), d.Close())
}
