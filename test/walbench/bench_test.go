package main

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// Every log gives back what was appended by one writer and by many, in order
// and whole, before anything is said about how fast that was.
func TestContendersKeepWhatTheyAcknowledge(t *testing.T) {
	for _, c := range contenders[2:] {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := c.open(dir)
			if err != nil {
				t.Fatal(err)
			}
			r := &runner{contender: c, log: l, next: 1, data: payload(256, 1)}
			one, _, err1 := r.appendOne(50 * time.Millisecond)
			many, _, err2 := r.appendMany(16, 50*time.Millisecond)
			if err := errors.Join(err1, err2, l.close()); err != nil {
				t.Fatal(err)
			}
			if uint64(len(one)+len(many)) != r.next-1 || len(one) == 0 || len(many) < 16 {
				t.Fatalf("%d and %d appends, %d indices", len(one), len(many), r.next-1)
			}
			if c.name == "hashicorp/raft-wal 0.4.0" {
				return // it cannot be opened twice in one process, see compareReplays
			}
			n := 0
			if err := c.replay(dir, func(b []byte) {
				n++
				if !bytes.Equal(b, r.data) {
					t.Fatal("other bytes came back")
				}
			}); err != nil || n != len(one)+len(many) {
				t.Errorf("%d entries came back of %d: %v", n, len(one)+len(many), err)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	var took []time.Duration
	for i := 1000; i >= 1; i-- {
		took = append(took, time.Duration(i)*time.Microsecond)
	}
	f := summarize(took, 2*time.Second)
	if f.Count != 1000 || f.Rate != 500 || f.P50 != 500 || f.P99 != 990 || f.P999 != 999 || f.Max != 1000 {
		t.Errorf("%+v", f)
	}
	if f := summarize(nil, time.Second); f != (figures{}) {
		t.Errorf("of nothing: %+v", f)
	}
	if median([]float64{3, 1, 2}) != 2 || median([]float64{4, 1, 2, 3}) != 2.5 || median(nil) != 0 {
		t.Error("median")
	}
}

// slowSystem acknowledges after a while and fails now and then.
type slowSystem struct {
	mu   sync.Mutex
	keys map[string]bool
}

func (s *slowSystem) put(_ context.Context, key string, _ []byte) error {
	time.Sleep(2 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[key] {
		return errors.New("a key came twice")
	}
	s.keys[key] = true
	if len(s.keys) == 20 {
		return errors.New("the twentieth")
	}
	return nil
}

func (s *slowSystem) putAll(ctx context.Context, keys []string, value []byte) error {
	var all error
	for _, k := range keys {
		all = errors.Join(all, s.put(ctx, k, value))
	}
	return all
}

func (s *slowSystem) close() error { return nil }

func TestLoadCountsWhatWasAcknowledged(t *testing.T) {
	sys := &slowSystem{keys: map[string]bool{}}
	systems["slow"] = func(string, int) (system, error) { return sys, nil }
	defer delete(systems, "slow")
	r, err := load(loadOptions{system: "slow", clients: 4, value: 64, warmup: 50 * time.Millisecond, length: 200 * time.Millisecond, prefix: "k"})
	if err != nil || r.Failed != 1 || r.Error != "the twentieth" || r.Count == 0 || r.Count >= len(sys.keys) {
		t.Errorf("%+v, %d keys, %v", r, len(sys.keys), err)
	}
	if r.P50 < 2000 || r.Rate > 2000 {
		t.Errorf("4 clients of 2 ms each: %+v", r.figures)
	}
	p, err := preload(preloadOptions{system: "slow", keys: 10, value: 5, each: 4, workers: 2, prefix: "p"})
	if err != nil || p.Keys != 10 || p.Bytes != 10*(12+5) {
		t.Errorf("%+v, %v", p, err)
	}
}
