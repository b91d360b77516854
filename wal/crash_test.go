package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// history is a past that grows.
type history struct {
	mu sync.Mutex
	past
}

// past is what was asked of a log and what it acknowledged.
type past struct {
	steps    []step
	acked    int    // steps acknowledged, in order
	released uint64 // records up to it may be gone
}

type step struct {
	record   Record
	truncate bool
}

func (h *history) issue(s step) {
	h.mu.Lock()
	h.steps = append(h.steps, s)
	h.mu.Unlock()
}

func (h *history) ack() {
	h.mu.Lock()
	h.acked++
	h.mu.Unlock()
}

func (h *history) release(upto uint64) {
	h.mu.Lock()
	h.released = max(h.released, upto)
	h.mu.Unlock()
}

// now returns a copy: acknowledged steps before it are durable already.
func (h *history) now() past {
	h.mu.Lock()
	defer h.mu.Unlock()
	return past{steps: h.steps[:len(h.steps):len(h.steps)], acked: h.acked, released: h.released}
}

// state returns the records after the first n steps, without those up to upto.
func (h *past) state(n int, upto uint64) []Record {
	var records []Record
	for _, s := range h.steps[:n] {
		if s.truncate {
			records = cut(records, s.record.Index)
		} else {
			records = append(records, s.record)
		}
	}
	for len(records) > 0 && records[0].Index <= upto {
		records = records[1:]
	}
	return records
}

// check returns an error unless the records are the state after some number of
// steps, no fewer than were acknowledged. later is the history when the records
// were read: a copy of the disk may hold steps issued since h was taken.
func (h *past) check(later *past, records []Record) error {
	for len(records) > 0 && records[0].Index <= later.released {
		records = records[1:]
	}
	var last error
	for n := h.acked; n <= len(later.steps); n++ {
		if last = equalRecords(records, later.state(n, later.released)); last == nil {
			return nil
		}
	}
	return fmt.Errorf("%d steps acknowledged of %d, released %d: no prefix matches: %w",
		h.acked, len(later.steps), later.released, last)
}

// script runs a fixed history of appends of all sizes, truncations and releases
// over several segments. It stops at the first error.
func script(l *Log, h *history) error {
	next := uint64(1)
	do := func(s step) error {
		h.issue(s)
		done := make(chan error, 1)
		ack := func(err error) {
			if err == nil {
				h.ack()
			}
			done <- err
		}
		if s.truncate {
			l.Truncate(s.record.Index, ack)
		} else {
			l.Append([]Record{s.record}, ack)
		}
		return <-done
	}
	for i := range 36 {
		if err := do(step{record: entry(next, []int{10, 3000, 6000, 0}[i%4])}); err != nil {
			return err
		}
		next++
		if i%7 == 5 {
			next -= 2
			if err := do(step{record: Record{Index: next}, truncate: true}); err != nil {
				return err
			}
		}
		if i%9 == 8 {
			h.release(next - 4)
			if err := l.Release(next - 4); err != nil {
				return err
			}
		}
	}
	return nil
}

// The power is cut before each operation that changes the disk, and what was not
// synced is lost, kept, kept in part, or torn inside sectors. Whatever is left,
// the log opens, holds all that was acknowledged and nothing that was never
// appended, and goes on.
func TestCrashAtEveryOperation(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	var rngMu sync.Mutex
	mem := vfs.NewMem()
	h := &history{}
	type cutState struct {
		op   vfs.Op
		mem  *vfs.Mem
		h    past
		kind string
	}
	var cuts []cutState
	fsys := vfs.Inject(mem, func(op vfs.Op) error {
		if !op.Kind.Changes() || op.Kind == vfs.OpReload {
			return nil
		}
		rngMu.Lock()
		defer rngMu.Unlock()
		before := h.now() // ahead of the copy, which can only hold more
		for kind, o := range crashKinds(rng) {
			cuts = append(cuts, cutState{op, mem.CrashClone(o), before, kind})
		}
		return nil
	})
	l, err := Create(testOptions(fsys))
	if err != nil {
		t.Fatal(err)
	}
	if err := script(l, h); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	later := h.now()
	verdicts := map[Verdict]int{}
	for i, c := range cuts {
		rec, err := checkCut(c.mem, &c.h, &later)
		if err != nil {
			t.Fatalf("cut %d before %v, %s: %v", i, c.op, c.kind, err)
		}
		verdicts[rec]++
	}
	t.Logf("%d cuts: %v", len(cuts), verdicts)
	if verdicts[TornTail] < 20 || verdicts[Clean] < 20 {
		t.Error("the cuts do not reach both verdicts")
	}
}

func crashKinds(rng *rand.Rand) map[string]vfs.CrashOptions {
	return map[string]vfs.CrashOptions{
		"all lost": {},
		"all kept": {Rand: rng, Sectors: 1, Names: 1},
		"half":     {Rand: rng, Sectors: 0.5, Names: 0.5},
		"most":     {Rand: rng, Sectors: 0.9, Names: 0.9},
		"torn":     {Rand: rng, Sectors: 0.8, Names: 0.5, Tear: 0.3},
	}
}

// checkCut opens what a power cut left, checks it, appends, and opens again.
func checkCut(mem *vfs.Mem, h, later *past) (Verdict, error) {
	opts := testOptions(mem)
	var records []Record
	l, rec, err := Open(opts, collect(&records))
	if errors.Is(err, ErrNoLog) && h.acked == 0 {
		if l, err = Create(opts); err != nil {
			return 0, fmt.Errorf("create after a crash in create: %w", err)
		}
		return Clean, l.Close()
	}
	if err != nil {
		return 0, err
	}
	if err := h.check(later, records); err != nil {
		return 0, errors.Join(err, l.Close())
	}
	more := entry(rec.LastIndex+1, 50)
	if err := errors.Join(appendWait(l, more), l.Close()); err != nil {
		return 0, err
	}
	var again []Record
	l, _, err = Open(opts, collect(&again))
	if err != nil {
		return 0, fmt.Errorf("open after going on: %w", err)
	}
	return rec.Verdict, errors.Join(equalRecords(again, append(records, more)), l.Close())
}

// The power is cut again at each operation of a recovery from a torn tail, from
// an unused segment, and with files left below the released mark.
func TestCrashDuringRecovery(t *testing.T) {
	for name, prepare := range map[string]func(d *disk){
		"torn":          func(d *disk) { d.stale(20, 3) },
		"torn in seal":  func(d *disk) { d.cutTail(19); d.write(3, 7*4096+1024, make([]byte, 512)) },
		"no seal":       func(d *disk) { d.cutTail(19); d.write(3, 7*4096, make([]byte, 4096)) },
		"large torn":    func(d *disk) { d.stale(20, 1, 5) },
		"left-over tmp": func(d *disk) { d.leave("next-0.tmp"); d.leave("spare-9.tmp") },
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			d := newDisk(t)
			d.build(20, 100)
			prepare(d)
			v, err := Verify(d.mem, d.opts.Dir)
			if err != nil {
				t.Fatal(err)
			}
			ops := countOps(t, d.mem.CrashClone(vfs.CrashOptions{}), d.opts)
			for n := range ops {
				for kind, o := range crashKinds(rng) {
					mem := d.mem.CrashClone(vfs.CrashOptions{})
					opts := d.opts
					opts.FS = vfs.Inject(mem, vfs.Nth(n, vfs.ErrInjected, changes))
					if l, _, err := Open(opts, nil); err == nil {
						_ = l.Close() // the error was one of preparing the next segment
					}
					mem.Crash(o)
					var records []Record
					opts.FS = mem
					l, rec, err := Open(opts, collect(&records))
					if err != nil || rec.LastIndex != v.LastIndex || uint64(len(records)) != v.LastIndex {
						t.Fatalf("operation %d, %s: %+v, %v", n, kind, rec, err)
					}
					mustClose(t, l)
				}
			}
		})
	}
}

func changes(op vfs.Op) bool { return op.Kind.Changes() }

// leave makes a file that a crash may have left.
func (d *disk) leave(name string) {
	d.t.Helper()
	f, err := d.mem.OpenFile(d.opts.Dir+"/"+name, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		_, err = f.WriteAt([]byte("left"), 0)
	}
	if err := errors.Join(err, f.Sync(), f.Close(), d.mem.SyncDir(d.opts.Dir)); err != nil {
		d.t.Fatal(err)
	}
}

// countOps returns how many changing operations an Open with a Close makes.
func countOps(t *testing.T, mem *vfs.Mem, opts Options) int64 {
	t.Helper()
	var mu sync.Mutex
	n := int64(0)
	opts.FS = vfs.Inject(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if changes(op) {
			n++
		}
		return nil
	})
	l, _, err := Open(opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	return n
}
