package sim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// Batch is many seeds, run by child processes.
type Batch struct {
	Options Options
	Seeds   int
	First   uint64
	Procs   int
	// Keep is how many failing seeds are printed before it stops.
	Keep int
	// Brief prints no counts.
	Brief bool
}

// Child runs seeds First, First + Procs and so on, and writes each result as a
// line of JSON.
func (b *Batch) Child(out io.Writer) error {
	w := json.NewEncoder(out)
	for i := 0; i < b.Seeds; i += b.Procs {
		opt := b.Options
		opt.Seed = b.First + uint64(i)
		r, err := Run(opt)
		if err != nil {
			return err
		}
		if r.Failure == nil {
			r.Plan, r.Trace = nil, nil
		}
		if err := w.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// each runs all seeds and calls got, one at a time, for each result; it stops
// when got returns false.
func (b *Batch) each(got func(Result) bool) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	procs := max(1, min(b.Procs, b.Seeds))
	var mu sync.Mutex
	var wg sync.WaitGroup
	var all error
	stopped := false
	children := make([]*exec.Cmd, procs)
	for i := range procs {
		o := b.Options
		c := exec.Command(self, "-child", "-seeds", fmt.Sprint(b.Seeds-i), "-first", fmt.Sprint(b.First+uint64(i)), "-procs", fmt.Sprint(procs),
			"-mode", o.Mode, "-profile", o.Profile, "-members", fmt.Sprint(o.Members), "-row", o.Row)
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			return err
		}
		if err := c.Start(); err != nil {
			return fmt.Errorf("start child: %w", err)
		}
		children[i] = c
		wg.Go(func() {
			in := json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
			for {
				var r Result
				err := in.Decode(&r)
				mu.Lock()
				switch {
				case stopped || errors.Is(err, io.EOF):
				case err != nil:
					all = errors.Join(all, err)
				case !got(r):
					stopped = true
					for _, c := range children {
						if c != nil {
							_ = c.Process.Kill() // it may have ended
						}
					}
				}
				done := stopped || err != nil
				mu.Unlock()
				if done {
					break
				}
			}
			err := c.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !stopped {
				all = errors.Join(all, err)
			}
		})
	}
	wg.Wait()
	return all
}

// totals are the sums over many runs.
type totals struct {
	seeds, failed                                   int
	simulated                                       time.Duration
	faults                                          map[string]int
	operations, unknown, moves, switches, undecided int
	turns, events, entries, hashes                  uint64
	maxGap, calmGap                                 time.Duration
	calmSeed                                        uint64
	frozen                                          int
	frozenMax                                       time.Duration
}

func (t *totals) add(r Result) {
	t.seeds++
	t.simulated += r.Simulated
	for k, n := range r.Faults {
		t.faults[k] += n
	}
	t.operations += r.Operations
	t.unknown += r.Unknown
	t.moves += r.Moves
	t.switches += r.Switchovers
	t.undecided += r.Undecided
	t.turns += r.Turns
	t.events += r.Events
	t.entries += r.Entries
	t.hashes += r.Hashes
	t.maxGap = max(t.maxGap, r.MaxGap)
	if r.CalmGap > t.calmGap {
		t.calmGap, t.calmSeed = r.CalmGap, r.Seed
	}
	t.frozen += r.Frozen
	t.frozenMax = max(t.frozenMax, r.FrozenMax)
	if r.Failure != nil {
		t.failed++
	}
}

func (t *totals) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seeds %d, failed %d, simulated %.1f h, turns %d, events %d\n", t.seeds, t.failed, t.simulated.Hours(), t.turns, t.events)
	fmt.Fprintf(&b, "operations %d (outcome unknown %d, keys undecided %d), entries compared %d, states compared %d\n", t.operations, t.unknown, t.undecided, t.entries, t.hashes)
	fmt.Fprintf(&b, "moves %d, planned switchovers %d, longest time without holder %v, of it while nothing was wrong %v (seed %d)\n",
		t.moves, t.switches, t.maxGap.Round(time.Millisecond), t.calmGap.Round(time.Millisecond), t.calmSeed)
	fmt.Fprintf(&b, "doubles after a frozen machine %d, longest %v\nfaults:", t.frozen, t.frozenMax.Round(time.Microsecond))
	names := make([]string, 0, len(t.faults))
	sum := 0
	for k, n := range t.faults {
		names = append(names, k)
		sum += n
	}
	slices.Sort(names)
	for _, k := range names {
		fmt.Fprintf(&b, " %s %d", k, t.faults[k])
	}
	fmt.Fprintf(&b, "; in all %d\n", sum)
	return b.String()
}

// Run runs all seeds, prints failures and counts.
func (b *Batch) Run(out io.Writer) error {
	began := time.Now()
	t := &totals{faults: map[string]int{}}
	var failed []string
	err := b.each(func(r Result) bool {
		t.add(r)
		if r.Failure == nil {
			return true
		}
		failed = append(failed, fmt.Sprintf("%d (%s)", r.Seed, r.Failure.What))
		if t.failed <= b.Keep {
			fmt.Fprint(out, r.Describe(b.Options))
		}
		return t.failed < b.Keep
	})
	if !b.Brief {
		fmt.Fprintf(out, "%swall time %v, %.1f seeds/s\n", t, time.Since(began).Round(time.Second), float64(t.seeds)/time.Since(began).Seconds())
	}
	if len(failed) > 0 {
		return errors.Join(err, fmt.Errorf("violations in %d of %d seeds: %s", len(failed), t.seeds, strings.Join(failed, ", ")))
	}
	return err
}
