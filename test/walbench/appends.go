package main

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// How the logs are compared: each is open for the whole comparison and gets a
// short slice of time in turn, so that a slow minute of the disk falls on all.
type appendOptions struct {
	dir    string
	bytes  int // of an entry
	rounds int
	slice  time.Duration
	many   int // writers at once in the second half
}

// appendResult is one log's.
type appendResult struct {
	Name   string  `json:"name"`
	Single figures `json:"single"` // one writer
	Many   figures `json:"many"`   // several at once
	// SingleRatio is the median over the rounds of the time of one append
	// divided by that of the first contender in the same round.
	SingleRatio float64 `json:"single_ratio"`
	// Gain is the median over the rounds of the rate of many writers divided by
	// that of one writer.
	Gain float64 `json:"gain"`
}

// runner is a log in its comparison.
type runner struct {
	contender
	log          log
	next         uint64
	data         []byte
	single, many []time.Duration
	rates        [2][]float64 // by round: of one, of many
	elapsed      [2]time.Duration
}

func compareAppends(o appendOptions) ([]appendResult, error) {
	var runners []*runner
	defer func() {
		for _, r := range runners {
			_ = r.log.close()
		}
	}()
	for i, c := range contenders {
		dir, err := subdir(o.dir, fmt.Sprintf("append-%d", i))
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		l, err := c.open(dir)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", c.name, err)
		}
		runners = append(runners, &runner{contender: c, log: l, next: 1, data: payload(o.bytes, uint64(i))})
	}
	for round := -1; round < o.rounds; round++ { // the first warms up
		for _, r := range runners {
			if err := r.round(o, round >= 0); err != nil {
				return nil, fmt.Errorf("append to %s: %w", r.name, err)
			}
		}
	}
	var results []appendResult
	for _, r := range runners {
		results = append(results, r.result(runners[0]))
	}
	return results, nil
}

func (r *runner) result(base *runner) appendResult {
	var ratios, gains []float64
	for i := range r.rates[0] {
		ratios = append(ratios, base.rates[0][i]/r.rates[0][i])
		gains = append(gains, r.rates[1][i]/r.rates[0][i])
	}
	return appendResult{
		Name: r.name, Single: summarize(r.single, r.elapsed[0]), Many: summarize(r.many, r.elapsed[1]),
		SingleRatio: median(ratios), Gain: median(gains),
	}
}

func (r *runner) round(o appendOptions, counted bool) error {
	one, tookOne, err := r.appendOne(o.slice)
	if err != nil {
		return err
	}
	many, tookMany, err := r.appendMany(o.many, o.slice)
	if err != nil || !counted {
		return err
	}
	r.single, r.many = append(r.single, one...), append(r.many, many...)
	r.elapsed[0] += tookOne
	r.elapsed[1] += tookMany
	r.rates[0] = append(r.rates[0], float64(len(one))/tookOne.Seconds())
	r.rates[1] = append(r.rates[1], float64(len(many))/tookMany.Seconds())
	return nil
}

// appendOne appends one entry after the other for a time.
func (r *runner) appendOne(d time.Duration) (took []time.Duration, elapsed time.Duration, err error) {
	began := time.Now()
	for last := began; last.Sub(began) < d; r.next++ {
		if err := r.log.append([]entry{{r.next, 1, r.data}}); err != nil {
			return nil, 0, err
		}
		now := time.Now()
		took = append(took, now.Sub(last))
		last = now
	}
	return took, time.Since(began), nil
}

// appendMany has n writers, each of which waits for its own entry. A log that
// takes only one caller gets what all logs' users put in front of it: one
// goroutine that appends together what has come meanwhile.
func (r *runner) appendMany(n int, d time.Duration) (took []time.Duration, elapsed time.Duration, err error) {
	send, stop := r.door()
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		index atomic.Uint64
	)
	index.Store(r.next)
	began := time.Now()
	for range n {
		wg.Go(func() {
			var own []time.Duration
			var failed error
			for last := began; last.Sub(began) < d && failed == nil; {
				failed = send(entry{index.Add(1) - 1, 1, r.data})
				now := time.Now()
				own = append(own, now.Sub(last))
				last = now
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			if failed != nil {
				err = failed
			}
		})
	}
	wg.Wait()
	elapsed = time.Since(began)
	r.next = index.Load()
	stop()
	return took, elapsed, err
}

// door returns what a writer calls to append its entry, and what ends it.
func (r *runner) door() (send func(entry) error, stop func()) {
	if r.log.shared() {
		return func(e entry) error { return r.log.append([]entry{e}) }, func() {}
	}
	g := &group{log: r.log, calls: make(chan call, maxGroup), next: r.next}
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.run()
	}()
	return g.send, func() { close(g.calls); <-done }
}

// maxGroup is the most entries of one sync, the product's own limit.
const maxGroup = 256

type call struct {
	entry entry
	done  chan error
}

// group makes one append of what several writers want.
type group struct {
	log   log
	calls chan call
	next  uint64 // index
}

func (g *group) send(e entry) error {
	c := call{e, make(chan error, 1)}
	g.calls <- c
	return <-c.done
}

func (g *group) run() {
	var entries []entry
	var waiting []chan error
	add := func(c call) {
		c.entry.index = g.next // in the order of the log, which must have no gap
		g.next++
		entries, waiting = append(entries, c.entry), append(waiting, c.done)
	}
	for first := range g.calls {
		entries, waiting = entries[:0], waiting[:0]
		add(first)
	more:
		for len(entries) < maxGroup {
			select {
			case c, ok := <-g.calls:
				if !ok {
					break more
				}
				add(c)
			default:
				break more
			}
		}
		err := g.log.append(entries)
		for _, done := range waiting {
			done <- err
		}
	}
}
