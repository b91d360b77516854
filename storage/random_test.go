package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Covers F2, F3: random lives of a data directory, with snapshots, releases
// that are late or never come, installs and power cuts at any time; after each
// it holds what it may hold, and nothing is ever damaged.
func TestRandomLives(t *testing.T) {
	base := rand.Uint64()
	lives := uint64(25)
	if testing.Short() {
		lives = 10
	}
	for i := range lives {
		if err := randomLife(t, base+i); err != nil {
			t.Fatalf("seed %d: %v", base+i, err)
		}
	}
}

func randomLife(t *testing.T, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 3))
	disk := vfs.NewMem()
	y, err := begin(t, disk, disk)
	if err != nil {
		return err
	}
	var late []func() error
	trail := ""
	for range 60 {
		last, _ := y.l.LastIndex()
		hs, _, _ := y.l.InitialState()
		snap, _ := y.l.Snapshot()
		follows := snap.GetMetadata().GetIndex()
		var what string
		switch n := rng.IntN(20); {
		case n < 7: // entries; a tail that nobody else has goes first
			to := hs.GetCommit() + 1 + rng.Uint64N(12)
			what = fmt.Sprintf("grow to %d", to)
			err = y.regrow(hs.GetCommit(), to)
		case n < 9:
			e := entry(last+1, max(hs.GetTerm(), lastTerm(y.l)), strings.Repeat("x", rng.IntN(4000)))
			what = fmt.Sprintf("never %d", last+1)
			err = y.save(nil, e)
		case n < 13 && hs.GetCommit() > follows:
			at := follows + 1 + rng.Uint64N(hs.GetCommit()-follows)
			what = fmt.Sprintf("snapshot at %d", at)
			meta, werr := y.d.Snapshots().Write(context.Background(), truthState(t, at).Freeze())
			if err = werr; err == nil {
				late = append(late, y.l.Compact(meta))
			}
		case n < 14:
			at := hs.GetCommit() + 1 + rng.Uint64N(30)
			what = fmt.Sprintf("install %d", at)
			meta, file := remote(t, at)
			err = y.take(meta, file)
		case n < 17:
			what = fmt.Sprintf("%d releases", len(late))
			for _, release := range late {
				err = errors.Join(err, release())
			}
			late = nil
		default:
			what = "power cut"
			o := crashKinds(rng)[[]string{"all lost", "all kept", "half", "torn"}[rng.IntN(4)]]
			err = y.cutPower(disk, o)
			late = nil
		}
		trail += what + "\n"
		if err != nil {
			return fmt.Errorf("%w, after\n%s", err, trail)
		}
	}
	return errors.Join(y.l.Close(), y.d.Close())
}

func lastTerm(l *Log) uint64 {
	last, _ := l.LastIndex()
	term, _ := l.Term(last)
	return term
}

func truthState(t testing.TB, index uint64) *State {
	return applyTruth(t, NewState(firstConfig()), index)
}

// regrow puts the committed entries behind index from, in place of any others.
func (y *diary) regrow(from, to uint64) error {
	if err := y.save(y.hard(to, from), truthEntries(y.t, from+1, to)...); err != nil {
		return err
	}
	return y.save(y.hard(to, to))
}

// cutPower opens what is left after a power cut and goes on with it.
func (y *diary) cutPower(disk *vfs.Mem, o vfs.CrashOptions) error {
	possible := y.possible()
	disk.Crash(o)
	_ = y.l.Close() // its disk is gone
	_ = y.d.Close()
	var err error
	if y.d, err = OpenData(disk, "/data"); err != nil {
		return err
	}
	l, state, _, err := y.d.OpenLog(crashLog)
	if err != nil {
		return err
	}
	y.l = l
	for _, c := range possible {
		if err = c.equals(y.t, l, state); err != nil {
			continue
		}
		// The commit index that it happens to know is committed all the same.
		hs, _, _ := l.InitialState()
		next := c.clone()
		next.committed = max(next.committed, hs.GetCommit())
		y.mu.Lock()
		y.steps, y.acked = []*content{next}, 0
		y.mu.Unlock()
		return nil
	}
	return err
}
