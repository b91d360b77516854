package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// system is a cluster under load. Its methods may be called by many at once.
type system interface {
	// put returns when the cluster has acknowledged the write.
	put(ctx context.Context, key string, value []byte) error
	// putAll writes several keys as one transaction.
	putAll(ctx context.Context, keys []string, value []byte) error
	close() error
}

// systems opens each kind of system at its address; conns is how many
// connections the clients share where that is the caller's to say.
var systems = map[string]func(target string, conns int) (system, error){
	"etcd":     openEtcdCluster,
	"holdfast": openHoldfastCluster,
}

type loadOptions struct {
	system, target string
	clients, conns int
	value          int // bytes
	warmup, length time.Duration
	prefix         string
}

// loadResult is what clients saw that put distinct keys, each the next one when
// the last is acknowledged.
type loadResult struct {
	figures
	Clients int `json:"clients"`
	Failed  int `json:"failed"`
	// Error is the first of those that failed.
	Error string `json:"error,omitempty"`
	// CPU is what the clients themselves took, in microseconds for each put.
	CPU float64 `json:"client_cpu_us"`
	// Gap is the longest time in which nothing was acknowledged.
	Gap float64 `json:"gap_ms"`
}

// timeout of one put: a cluster that changes its leader takes longer than a
// usual put, and that is to be seen as what it is.
const putTimeout = 30 * time.Second

func load(o loadOptions) (loadResult, error) {
	open, ok := systems[o.system]
	if !ok {
		return loadResult{}, fmt.Errorf("no such system: %s", o.system)
	}
	s, err := open(o.target, o.conns)
	if err != nil {
		return loadResult{}, err
	}
	r := loadResult{Clients: o.clients}
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		took    []time.Duration
		lastAck atomic.Int64
		gap     atomic.Int64
	)
	from := time.Now().Add(o.warmup)
	until := from.Add(o.length)
	var cpu0 float64
	warm := make(chan struct{})
	time.AfterFunc(o.warmup, func() {
		defer close(warm)
		cpu0 = cpuSeconds()
		lastAck.Store(int64(o.warmup))
	})
	began := time.Now()
	for c := range o.clients {
		wg.Go(func() {
			own, failed, first := putUntil(s, o, c, from, until, func(now time.Time) {
				at := int64(now.Sub(began))
				if before := lastAck.Swap(at); before > 0 && at-before > gap.Load() {
					gap.Store(at - before)
				}
			})
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			r.Failed += failed
			if r.Error == "" && first != nil {
				r.Error = first.Error()
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(from)
	<-warm
	cpu := cpuSeconds() - cpu0
	r.figures = summarize(took, elapsed)
	if r.Count > 0 {
		r.CPU = cpu * 1e6 / float64(r.Count)
	}
	r.Gap = float64(gap.Load()) / 1e6
	return r, s.close()
}

// putUntil is one client: it puts one key after the other and returns the times of those that it
// began after from.
func putUntil(s system, o loadOptions, n int, from, until time.Time, acked func(time.Time)) (took []time.Duration, failed int, first error) {
	value := payload(o.value, uint64(n))
	for i := 0; ; i++ {
		began := time.Now()
		if began.After(until) {
			return took, failed, first
		}
		binary.LittleEndian.PutUint64(value, uint64(i))
		ctx, cancel := context.WithTimeout(context.Background(), putTimeout)
		err := s.put(ctx, fmt.Sprintf("%s-%04d-%08d", o.prefix, n, i), value)
		cancel()
		now := time.Now()
		switch {
		case err != nil:
			failed++
			if first == nil {
				first = err
			}
			time.Sleep(time.Millisecond)
		case began.After(from):
			acked(now)
			took = append(took, now.Sub(began))
		}
	}
}

// cpuSeconds is what this process took so far.
func cpuSeconds() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

type preloadOptions struct {
	system, target string
	keys, value    int
	each, workers  int // keys in a transaction, transactions at once
	prefix         string
}

// preloadResult says how long it took to write many keys.
type preloadResult struct {
	Keys    int     `json:"keys"`
	Bytes   int64   `json:"bytes"` // of keys and values
	Seconds float64 `json:"seconds"`
}

func preload(o preloadOptions) (preloadResult, error) {
	open, ok := systems[o.system]
	if !ok {
		return preloadResult{}, fmt.Errorf("no such system: %s", o.system)
	}
	s, err := open(o.target, o.workers)
	if err != nil {
		return preloadResult{}, err
	}
	var (
		next  atomic.Int64
		bytes atomic.Int64
		wg    sync.WaitGroup
		mu    sync.Mutex
	)
	began := time.Now()
	for w := range o.workers {
		wg.Go(func() {
			value := payload(o.value, uint64(w))
			for {
				from := int(next.Add(int64(o.each))) - o.each
				if from >= o.keys {
					return
				}
				var keys []string
				for i := from; i < min(from+o.each, o.keys); i++ {
					keys = append(keys, fmt.Sprintf("%s-%010d", o.prefix, i))
					bytes.Add(int64(len(keys[len(keys)-1]) + o.value))
				}
				ctx, cancel := context.WithTimeout(context.Background(), putTimeout)
				perr := s.putAll(ctx, keys, value)
				cancel()
				if perr != nil {
					mu.Lock()
					defer mu.Unlock()
					err = perr
					return
				}
			}
		})
	}
	wg.Wait()
	r := preloadResult{Keys: o.keys, Bytes: bytes.Load(), Seconds: time.Since(began).Seconds()}
	if err != nil {
		return r, fmt.Errorf("preload: %w", err)
	}
	return r, s.close()
}
