package wal

import (
	crand "crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// life drives a stepped log at random, through power cuts between and within
// steps. Everything that it sees goes into sum.
type life struct {
	rng  *rand.Rand
	mem  *vfs.Mem
	log  *Log
	h    history
	next uint64 // index
	now  time.Time
	drop []func() error // of releases, to be called
	sum  hash.Hash

	cutIn    int      // operations of the disk until the power is cut, 0 for never
	left     *vfs.Mem // what that left, nil before
	leftPast past
	notified int
}

// seedRandom makes the salts of segments the same in each run of a test.
func seedRandom(t testing.TB, seed uint64) {
	old := crand.Reader
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	crand.Reader = rand.NewChaCha8(key)
	t.Cleanup(func() { crand.Reader = old })
}

func (y *life) options() Options {
	opts := testOptions(vfs.Inject(y.mem, func(op vfs.Op) error {
		fmt.Fprintln(y.sum, op)
		if y.cutIn > 0 && op.Kind.Changes() {
			if y.cutIn--; y.cutIn == 0 {
				y.left, y.leftPast = y.mem.CrashClone(y.crash()), y.h.now()
			}
		}
		return nil
	}))
	opts.Stepped = true
	opts.Now = func() time.Time { y.now = y.now.Add(7 * time.Microsecond); return y.now }
	opts.Notify = func() { y.notified++ }
	opts.OnSync = func(bytes, records int, took time.Duration) { fmt.Fprintln(y.sum, bytes, records, took) }
	return opts
}

func (y *life) crash() vfs.CrashOptions {
	return vfs.CrashOptions{Rand: y.rng, Sectors: 0.5, Names: 0.5}
}

// run lives for so many steps and returns the sum of all.
func (y *life) run(steps int) error {
	l, err := Create(y.options())
	if err != nil {
		return err
	}
	y.log = l
	for i := range steps {
		if err := y.act(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		if y.left != nil {
			if err := y.reopen(y.left, y.leftPast); err != nil {
				return fmt.Errorf("power cut in step %d: %w", i, err)
			}
		}
	}
	if err := y.log.Close(); err != nil {
		return err
	}
	return y.sumFiles()
}

func (y *life) act() error {
	switch n := y.rng.IntN(100); {
	case n < 45:
		y.append()
	case n < 52:
		if first := y.h.released + 1; y.next > first+1 {
			y.next = first + 1 + y.rng.Uint64N(y.next-first-1)
			y.do(step{record: Record{Index: y.next}, truncate: true})
		}
	case n < 80:
		y.now = y.now.Add(time.Duration(y.rng.Int64N(int64(time.Second))))
		worked := y.log.Step()
		fmt.Fprintln(y.sum, worked, y.log.Pending(), y.log.Stats())
	case n < 84 && y.next > 3:
		upto := y.rng.Uint64N(y.next - 1)
		y.h.release(upto)
		y.drop = append(y.drop, y.log.Compact(upto, []Record{{Type: 9, Payload: []byte("kept")}}))
	case n < 92 && len(y.drop) > 0:
		drop := y.drop[0]
		y.drop = y.drop[1:]
		return drop()
	case n < 95:
		y.cutIn = 1 + y.rng.IntN(40)
	case n < 97:
		left := y.mem.CrashClone(y.crash())
		return y.reopen(left, y.h.now())
	case n < 98:
		y.mem.Exit() // killed: what is queued is gone
		return y.reopen(y.mem, y.h.now())
	case n < 99:
		if err := y.log.Close(); err != nil {
			return err
		}
		return y.reopen(y.mem, y.h.now())
	}
	return nil
}

func (y *life) append() {
	for range 1 + y.rng.IntN(3) {
		y.do(step{record: entry(y.next, []int{0, 10, 300, 3000, 9000}[y.rng.IntN(5)])})
		y.next++
	}
}

func (y *life) do(s step) {
	y.h.issue(s)
	ack := func(err error) {
		fmt.Fprintln(y.sum, s.record.Index, s.truncate, err)
		if err == nil {
			y.h.ack()
		}
	}
	if s.truncate {
		y.log.Truncate(s.record.Index, ack)
	} else {
		y.log.Append([]Record{s.record}, ack)
	}
}

// reopen goes on with what a disk holds.
func (y *life) reopen(mem *vfs.Mem, p past) error {
	y.mem, y.left, y.cutIn, y.drop = mem, nil, 0, nil
	if err := y.sumFiles(); err != nil {
		return err
	}
	var records []Record
	l, rec, err := Open(y.options(), func(r Record) error {
		if r.Type == 9 {
			return nil
		}
		return collect(&records)(r)
	})
	if err != nil {
		return err
	}
	later := y.h.now()
	if err := p.check(&later, records); err != nil {
		return err
	}
	fmt.Fprintln(y.sum, rec)
	y.log = l
	y.next = max(rec.LastIndex, y.h.released) + 1
	// What was read is the past from here on.
	y.h.past = past{released: y.h.released}
	for _, r := range records {
		y.h.issue(step{record: r})
		y.h.ack()
	}
	return nil
}

func (y *life) sumFiles() error {
	for _, name := range y.mem.Names() {
		b, err := vfs.ReadFile(y.mem, name, 1<<20)
		if err != nil {
			return err
		}
		fmt.Fprintln(y.sum, name, len(b))
		_, _ = y.sum.Write(b)
	}
	return nil
}

func runLife(t *testing.T, seed uint64, steps int) []byte {
	t.Helper()
	seedRandom(t, seed)
	y := &life{
		rng: rand.New(rand.NewPCG(seed, 5)), mem: vfs.NewMem(), next: 1, now: time.Unix(1000, 0), sum: sha256.New(),
	}
	if err := y.run(steps); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	return y.sum.Sum(nil)
}

// A stepped log does the same, down to the order of its disk operations and each
// byte of its files, in each run of one seed; and in all of them it keeps what
// it acknowledged through power cuts (F3).
func TestSteppedRunsAreTheSame(t *testing.T) {
	sums := map[string]uint64{}
	for seed := range uint64(20) {
		a, b := runLife(t, seed, 300), runLife(t, seed, 300)
		if !slices.Equal(a, b) {
			t.Errorf("seed %d: two runs differ", seed)
		}
		sums[string(a)] = seed
	}
	if len(sums) != 20 {
		t.Errorf("%d different runs of 20 seeds", len(sums))
	}
}

// The same calls give the same log, stepped or not.
func TestSteppedIsAsWithGoroutines(t *testing.T) {
	for seed := range uint64(10) {
		var logs [2][]Record
		var answers [2][]string
		for i, stepped := range []bool{false, true} {
			rng := rand.New(rand.NewPCG(seed, 6))
			opts := testOptions(vfs.NewMem())
			opts.Stepped = stepped
			l := mustCreate(t, opts)
			next := uint64(1)
			for range 200 {
				answer := func(err error) { answers[i] = append(answers[i], fmt.Sprint(err)) }
				switch n := rng.IntN(20); {
				case n < 14:
					size := []int{0, 10, 300, 3000, 9000, 1 << 20}[rng.IntN(6)]
					l.Append([]Record{entry(next, size), {Type: 2, Payload: []byte("state")}}, answer)
					if size < 1<<20 { // the largest is refused
						next++
					}
				case n < 16 && next > 4:
					next -= 1 + rng.Uint64N(3)
					l.Truncate(next, answer)
				case n < 18 && next > 10:
					if err := l.Release(next - 10); err != nil {
						t.Fatal(err)
					}
				case n == 18:
					mustClose(t, l)
					l, _, _ = mustOpen(t, opts)
				case stepped:
					l.Step()
				}
			}
			mustClose(t, l)
			var rec Recovery
			l, rec, logs[i] = mustOpen(t, opts)
			if rec.Verdict != Clean || rec.LastIndex != next-1 {
				t.Fatalf("seed %d, stepped %v: %+v, want last index %d", seed, stepped, rec, next-1)
			}
			mustClose(t, l)
		}
		if !slices.Equal(answers[0], answers[1]) {
			t.Errorf("seed %d: answers differ", seed)
		}
		// Which segments a release can drop depends on how full the batches
		// are, so the older end may differ.
		n := min(len(logs[0]), len(logs[1]))
		if err := equalRecords(logs[0][len(logs[0])-n:], logs[1][len(logs[1])-n:]); err != nil || n == 0 {
			t.Errorf("seed %d: %d records, %v", seed, n, err)
		}
	}
}

// A stepped log has no goroutine, tells when it has work, does it in Step alone,
// and its clock says how long the disk was stuck (E8).
func TestStep(t *testing.T) {
	before := runtime.NumGoroutine()
	now := time.Unix(0, 0)
	notified, took := 0, time.Duration(0)
	opts := testOptions(vfs.NewMem())
	opts.Stepped, opts.Now, opts.Notify = true, func() time.Time { return now }, func() { notified++ }
	opts.OnSync = func(_, _ int, d time.Duration) { took = d }
	l := mustCreate(t, opts)
	if _, ready, _ := l.Space(); notified != 1 || ready || !l.Pending() {
		t.Fatalf("new: notified %d times, next segment is ready: %v, pending %v", notified, ready, l.Pending())
	}
	if _, ready, _ := l.Space(); !l.Step() || ready {
		t.Fatal("the first step makes the next segment")
	}
	if _, ready, _ := l.Space(); !ready || l.Step() || l.Pending() {
		t.Fatal("there is no work")
	}
	done := 0
	l.Append([]Record{entry(1, 10)}, func(err error) {
		if done++; err != nil {
			t.Error(err)
		}
	})
	now = now.Add(3 * time.Second)
	if s := l.Stats(); done != 0 || notified != 2 || s.Queued != 1 || s.Busy != 3*time.Second {
		t.Fatalf("queued: %d done, notified %d times, %+v", done, notified, s)
	}
	if !l.Step() || done != 1 || took != 3*time.Second || l.Stats().Busy != 0 {
		t.Fatalf("after a step: %d done, took %v, %+v", done, took, l.Stats())
	}
	drop := l.Compact(0, []Record{{Type: 2}})
	l.Append([]Record{entry(2, 10)}, func(error) { done++ })
	if err := drop(); err != nil || done != 2 {
		t.Fatalf("release: %v, %d done", err, done)
	}
	// A queue that is full is served rather than waited for.
	for i := range uint64(maxQueueRequests + 1) {
		l.Append([]Record{entry(i+3, 0)}, func(error) { done++ })
	}
	if done != 2+maxQueueRequests || l.Stats().Queued != 1 {
		t.Fatalf("%d done, %d queued", done, l.Stats().Queued)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
	mustClose(t, l)
	mustClose(t, l)
	if done != 3+maxQueueRequests || l.Step() || l.Pending() {
		t.Fatalf("closed: %d done", done)
	}
	var late error
	l.Append([]Record{entry(9999, 0)}, func(err error) { late = err })
	if !errors.Is(late, ErrClosed) {
		t.Errorf("append after close: %v", late)
	}
	l, rec, _ := mustOpen(t, opts)
	mustClose(t, l)
	if rec.LastIndex != maxQueueRequests+3 {
		t.Errorf("%+v", rec)
	}
}

// A disk that is full is tried again by a step a second later, and by none
// before; a segment that is needed meanwhile ends the log.
func TestSteppedFullDisk(t *testing.T) {
	for _, needed := range []bool{false, true} {
		mem := vfs.NewMem()
		now := time.Unix(0, 0)
		opts := testOptions(mem)
		opts.Stepped, opts.Now = true, func() time.Time { return now }
		l := mustCreate(t, opts)
		mem.SetCapacity(mem.Used() + minSegmentBytes - 1)
		if !l.Step() || !errors.Is(l.Stats().Blocked, syscall.ENOSPC) || mem.Used() != minSegmentBytes {
			t.Fatalf("full disk: %+v, %d bytes used", l.Stats(), mem.Used())
		}
		now = now.Add(time.Second - 1)
		if l.Step() || l.Pending() {
			t.Error("tried again too early")
		}
		if needed {
			for i := uint64(1); l.Err() == nil; i++ {
				l.Append([]Record{entry(i, 3000)}, func(error) {})
				l.Step()
			}
			if !errors.Is(l.Err(), syscall.ENOSPC) || !errors.Is(l.Close(), syscall.ENOSPC) {
				t.Errorf("no room: %v", l.Err())
			}
			continue
		}
		now = now.Add(1)
		if !l.Pending() || !l.Step() || l.Stats().Blocked == nil {
			t.Errorf("still full: %+v", l.Stats())
		}
		mem.SetCapacity(0)
		now = now.Add(time.Second)
		if !l.Step() || l.Stats().Blocked != nil {
			t.Errorf("room again: %+v", l.Stats())
		}
		mustClose(t, l)
	}
}
