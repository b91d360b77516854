package storage

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// stepped is a data directory that one goroutine drives at random, through
// power cuts. Everything that it sees goes into sum.
type stepped struct {
	t     *testing.T
	rng   *rand.Rand
	mem   *vfs.Mem
	d     *Data
	l     *Log
	now   time.Time
	late  []func() error // releases
	acked uint64         // index
	slept int
	sum   hash.Hash

	cutIn     int      // operations of the disk until the power is cut, 0 for never
	left      *vfs.Mem // what that left
	leftAcked uint64
}

func (y *stepped) open() (*State, error) {
	now := func() time.Time { y.now = y.now.Add(11 * time.Microsecond); return y.now }
	fsys := vfs.Inject(y.mem, func(op vfs.Op) error {
		fmt.Fprintln(y.sum, op)
		if y.cutIn > 0 && op.Kind.Changes() {
			if y.cutIn--; y.cutIn == 0 {
				y.left, y.leftAcked = y.mem.CrashClone(y.crash()), y.acked
			}
		}
		return nil
	})
	var err error
	y.d, err = OpenDataWith(Options{FS: fsys, Dir: "/data", Now: now, Sleep: func(_ context.Context, d time.Duration) error {
		y.slept++
		y.now = y.now.Add(d)
		return nil
	}})
	if err != nil {
		return nil, err
	}
	if err := y.d.PublishFirst(firstConfig(), Empty); err != nil {
		return nil, err
	}
	l, state, rec, err := y.d.OpenLog(LogOptions{
		SegmentBytes: crashLog.SegmentBytes, Stepped: true, Now: now, Notify: func() { fmt.Fprintln(y.sum, "work") },
		OnSync: func(bytes, records int, took time.Duration) { fmt.Fprintln(y.sum, bytes, records, took) },
	})
	fmt.Fprintln(y.sum, rec, err)
	y.l = l
	return state, err
}

func (y *stepped) crash() vfs.CrashOptions {
	return vfs.CrashOptions{Rand: y.rng, Sectors: 0.5, Names: 0.5}
}

// reopen goes on with what a disk holds, which must be the truth as far as it
// was acknowledged or further.
func (y *stepped) reopen(mem *vfs.Mem, acked uint64) error {
	y.mem, y.left, y.cutIn, y.late = mem, nil, 0, nil
	y.sumFiles()
	state, err := y.open()
	if err != nil {
		return err
	}
	at, _ := state.Applied()
	last, _ := y.l.LastIndex()
	if last < acked {
		return fmt.Errorf("log ends at %d, %d was acknowledged", last, acked)
	}
	y.acked = last
	checkTruth(y.t, y.l, state, at, last)
	return nil
}

func (y *stepped) sumFiles() {
	for _, name := range y.mem.Names() {
		b, err := vfs.ReadFile(y.mem, name, 1<<20)
		fmt.Fprintln(y.sum, name, len(b), err)
		_, _ = y.sum.Write(b)
	}
}

func (y *stepped) act() error {
	last, _ := y.l.LastIndex()
	hs, _, _ := y.l.InitialState()
	snap, _ := y.l.Snapshot()
	follows, commit := snap.GetMetadata().GetIndex(), hs.GetCommit()
	switch n := y.rng.IntN(40); {
	case n < 14:
		to := last + 1 + y.rng.Uint64N(5)
		y.l.Save(hard(truthTerm(to), 1, to), truthEntries(y.t, last+1, to), func(err error) {
			fmt.Fprintln(y.sum, "saved", to, err)
			if err == nil {
				y.acked = to
			}
		})
	case n < 24:
		fmt.Fprintln(y.sum, y.l.Step(), y.l.Pending(), y.l.Stats())
	case n < 27 && commit > follows:
		at := follows + 1 + y.rng.Uint64N(commit-follows)
		meta, err := y.d.Snapshots().Write(y.t.Context(), truthState(y.t, at).Freeze())
		if err != nil {
			return err
		}
		y.late = append(y.late, y.l.Compact(meta))
	case n < 28:
		meta, file := remote(y.t, commit+1+y.rng.Uint64N(9))
		r, err := y.d.Snapshots().Receive(meta)
		if err == nil {
			if err = r.Write(r.Offset(), file[r.Offset():]); err == nil {
				_, err = r.Finish(y.t.Context())
			}
		}
		if err != nil {
			return err
		}
		y.late = append(y.late, y.l.Install(meta.Raft()))
	case n < 32 && len(y.late) > 0:
		release := y.late[0]
		y.late = y.late[1:]
		return release()
	case n < 33:
		report, err := y.d.Scrub(y.t.Context(), 1<<20)
		fmt.Fprintln(y.sum, report)
		return err
	case n < 34:
		return y.d.StorePromise(time.Duration(1 + y.rng.IntN(1000)))
	case n < 35:
		if y.d.ReserveHeld() {
			return y.d.ReleaseReserve()
		}
		return y.d.Reserve(20 << 10)
	case n < 37:
		y.cutIn = 1 + y.rng.IntN(40)
	case n < 38:
		return y.reopen(y.mem.CrashClone(y.crash()), y.acked)
	case n < 39:
		y.mem.Exit()
		return y.reopen(y.mem, y.acked)
	}
	return nil
}

// runStepped returns the sum of a life, and how often the pacing slept.
func runStepped(t *testing.T, seed uint64) ([]byte, int) {
	t.Helper()
	old := crand.Reader
	defer func() { crand.Reader = old }()
	crand.Reader = rand.NewChaCha8([32]byte{byte(seed)})
	y := &stepped{
		t: t, rng: rand.New(rand.NewPCG(seed, 5)), mem: vfs.NewMem(), now: time.Unix(1000, 0), acked: FirstIndex, sum: sha256.New(),
	}
	if _, err := y.open(); err != nil {
		t.Fatal(err)
	}
	for i := range 150 {
		err := y.act()
		if err == nil && y.left != nil {
			err = y.reopen(y.left, y.leftAcked)
		}
		if err != nil {
			t.Fatalf("seed %d step %d: %v", seed, i, err)
		}
	}
	if err := y.l.Close(); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	y.sumFiles()
	return y.sum.Sum(nil), y.slept
}

// A data directory whose log is stepped does the same, down to the order of its
// disk operations and each byte of its files, in each run of one seed, and never
// sleeps; in all of them it keeps what it acknowledged (F2, F3).
func TestSteppedRunsAreTheSame(t *testing.T) {
	slept := 0
	sums := map[string]bool{}
	seeds := uint64(8)
	for seed := range seeds {
		a, n := runStepped(t, seed)
		b, _ := runStepped(t, seed)
		if !bytes.Equal(a, b) {
			t.Errorf("seed %d: two runs differ", seed)
		}
		sums[string(a)] = true
		slept += n
	}
	if len(sums) != int(seeds) || slept == 0 {
		t.Errorf("%d different runs of %d seeds, %d pauses", len(sums), seeds, slept)
	}
}
