package kvload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Ledger writes keys, each once, and remembers what it was told of each. Its
// methods may be called from any goroutine.
type Ledger struct {
	// Bucket and Prefix of its keys. No other writer may use the prefix.
	Bucket, Prefix string
	// Size of a value, bytes; at least a few dozen.
	Size int
	// Limit of one write; 5 s when 0.
	Limit time.Duration

	serial atomic.Int64
	acked  atomic.Int64
	gate   sync.RWMutex // held for writing while nothing may be written

	mu      sync.Mutex
	done    map[string]uint64 // acknowledged, with their revision
	unknown map[string]bool
	refused map[string]string // with the code
}

func (l *Ledger) limit() time.Duration {
	if l.Limit == 0 {
		return 5 * time.Second
	}
	return l.Limit
}

// value is what a key holds. No two keys have the same.
func (l *Ledger) value(key string) string {
	v := []byte(key + " ")
	for len(v) < l.Size {
		v = append(v, byte('a'+len(v)%26))
	}
	return string(v)
}

// Write writes with each client, one key after the other with a pause in
// between, until ctx ends.
func (l *Ledger) Write(ctx context.Context, pause time.Duration, conns ...*Conn) {
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			for ctx.Err() == nil {
				if l.Put(context.WithoutCancel(ctx), c) != nil {
					pauseFor(ctx, 20*time.Millisecond) // what is refused is refused at once
				}
				pauseFor(ctx, pause)
			}
		})
	}
	wg.Wait()
}

func pauseFor(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Hold keeps writers from beginning a write, waits for those under way, and
// returns the function that lets them go on.
func (l *Ledger) Hold() (release func()) {
	l.gate.Lock()
	return l.gate.Unlock
}

// Put writes one key more and returns what the client was told.
func (l *Ledger) Put(ctx context.Context, c *Conn) error {
	l.gate.RLock()
	defer l.gate.RUnlock()
	ctx, cancel := context.WithTimeout(ctx, l.limit())
	defer cancel()
	key := fmt.Sprintf("%s%07d", l.Prefix, l.serial.Add(1))
	rev, err := c.Put(ctx, l.Bucket, key, l.value(key), Cond{Absent: true}, 0)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done, l.unknown, l.refused = map[string]uint64{}, map[string]bool{}, map[string]string{}
	}
	switch code := Code(err); {
	case err == nil:
		l.done[key] = rev
		l.acked.Add(1)
	case code != "":
		l.refused[key] = code
	default:
		l.unknown[key] = true
	}
	return err
}

// Acked returns how many writes were acknowledged.
func (l *Ledger) Acked() int { return int(l.acked.Load()) }

// Last returns the highest revision that a writer was told.
func (l *Ledger) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := uint64(0)
	for _, rev := range l.done {
		last = max(last, rev)
	}
	return last
}

// Codes returns how many writes were refused, by code.
func (l *Ledger) Codes() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	codes := map[string]int{}
	for _, code := range l.refused {
		codes[code]++
	}
	return codes
}

// String says what became of the writes.
func (l *Ledger) String() string {
	codes := l.Codes()
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d acknowledged, %d unknown, refused %v", len(l.done), len(l.unknown), codes)
}

// Verify compares what a client finds with what the writers were told; local
// asks for what the member itself has. With values it reads every value too,
// not only revisions and lengths.
func (l *Ledger) Verify(ctx context.Context, c *Conn, local, values bool) error {
	listed, err := c.List(ctx, l.Bucket, l.Prefix, local)
	if err != nil {
		return fmt.Errorf("list %s: %w", l.Bucket, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var all faults
	found := map[string]bool{}
	for _, k := range listed {
		if found[k.Key] {
			all.add("%s is listed twice", k.Key)
		}
		found[k.Key] = true
		rev, acked := l.done[k.Key]
		code, refused := l.refused[k.Key]
		switch {
		case acked && rev != k.Rev:
			all.add("%s has revision %d, acknowledged was %d", k.Key, k.Rev, rev)
		case refused:
			all.add("%s is there, and was refused with %s", k.Key, code)
		case !acked && !l.unknown[k.Key]:
			all.add("%s is there, and was never written", k.Key)
		case k.Size != len(l.value(k.Key)):
			all.add("%s has %d bytes, written were %d", k.Key, k.Size, len(l.value(k.Key)))
		}
	}
	for key, rev := range l.done {
		if !found[key] {
			all.add("%s is lost: acknowledged with revision %d", key, rev)
		} else if values {
			item, err := c.Get(ctx, l.Bucket, key, local)
			if err != nil {
				return fmt.Errorf("read %s: %w", key, err)
			}
			if !item.Found || item.Value != l.value(key) || item.Rev != rev {
				all.add("%s reads as %+v, acknowledged was revision %d", key, item, rev)
			}
		}
	}
	return all.err()
}

// faults keeps the first of many faults and counts the others.
type faults struct {
	list []error
	more int
}

func (f *faults) add(format string, args ...any) {
	if len(f.list) < 10 {
		f.list = append(f.list, fmt.Errorf(format, args...))
		return
	}
	f.more++
}

func (f *faults) err() error {
	if f.more > 0 {
		f.list = append(f.list, fmt.Errorf("and %d more", f.more))
	}
	return errors.Join(f.list...)
}
