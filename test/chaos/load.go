package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
)

const (
	requestLimit = 4 * time.Second
	readLimit    = 10 * time.Second // of all reads of one audit on one member
	judgeLimit   = 20 * time.Second // of the search for an order of a round's requests
	ledgerKeys   = 3000             // then the next ledger begins
)

// load is what clients do to the cluster all the time. A history is kept for
// each round, on keys of its own, so that it can be judged at once; the
// ledgers go on, so that what was acknowledged in one round is looked for in
// all later ones.
type load struct {
	world   *world
	seed    uint64
	conns   []*kvload.Conn // of histories
	writers []*kvload.Conn // of the ledger
	local   map[string]*kvload.Conn
	past    []*kvload.Ledger
	ledger  *kvload.Ledger
	stop    func()
	last    uint64 // revision that was known at the end of the last round
	closed  bool
}

// newLoad begins to write the first ledger.
func newLoad(w *world, o options, n int) (*load, error) {
	l := &load{world: w, seed: o.seed ^ uint64(n)<<32, local: map[string]*kvload.Conn{}}
	for _, node := range w.shape.members() {
		// A worker may be slow enough on a busy machine for its guard to end it.
		l.local[node] = kvload.Dial(w.cluster.Socket(node))
		l.local[node].Retry = true
		// One asks once, at one member: outcomes stay unknown. The other asks
		// again with the same request id, also at the others.
		again := kvload.Dial(w.sockets(node)...)
		again.Retry = true
		l.conns = append(l.conns, kvload.Dial(w.cluster.Socket(node)), again)
		l.writers = append(l.writers, kvload.Dial(w.cluster.Socket(node)))
	}
	everywhere := kvload.Dial(w.sockets()...)
	everywhere.Retry = true
	l.writers = append(l.writers, everywhere)
	l.next()
	return l, nil
}

// next begins the next ledger.
func (l *load) next() {
	if l.ledger != nil {
		l.past = append(l.past, l.ledger)
	}
	ledger := &kvload.Ledger{Bucket: "tasks", Prefix: fmt.Sprintf("ledger/%d/", len(l.past)), Size: 200, Limit: requestLimit}
	l.ledger = ledger
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ledger.Write(ctx, 25*time.Millisecond, l.writers...)
	}()
	l.stop = func() {
		cancel()
		<-done
	}
}

func (l *load) close() {
	if l.closed {
		return
	}
	l.closed = true
	l.stop()
	for _, list := range [][]*kvload.Conn{l.conns, l.writers} {
		for _, c := range list {
			c.Close()
		}
	}
	for _, c := range l.local {
		c.Close()
	}
}

// history is what clients do during a round.
type history struct {
	mix  *kvload.Mix
	h    *kvload.History
	err  error
	stop func() // ends it, and waits for requests under way
}

// begin lets the clients of a round begin. The accounts are opened before it
// returns or fails: the cluster is whole.
func (l *load) begin(n int) *history {
	x := &history{mix: &kvload.Mix{
		Conns: l.conns, Bucket: "sessions", Prefix: fmt.Sprintf("round %d/", n), After: l.last,
		Keys: 10, Accounts: 4, Pause: 15 * time.Millisecond, Limit: requestLimit, Seed: l.seed + uint64(n),
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.h, x.err = x.mix.Run(ctx)
	}()
	x.stop = func() {
		cancel()
		<-done
	}
	return x
}

// judge reads everything that the round wrote from each member by itself,
// while nobody writes, and judges the history.
func (l *load) judge(ctx context.Context, x *history) error {
	if x.h == nil && errors.Is(x.err, context.Canceled) {
		return nil // the round was over before they had begun
	}
	if x.h == nil || x.err != nil {
		return fmt.Errorf("clients: %w", x.err)
	}
	for _, node := range l.world.shape.members() {
		limited, cancel := context.WithTimeout(ctx, readLimit)
		err := x.mix.Final(limited, x.h, l.local[node])
		cancel()
		if err != nil {
			return fmt.Errorf("read %s: %w", node, err)
		}
	}
	if err := x.h.Check(judgeLimit); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	l.last = x.h.Last()
	return nil
}

// verify compares the ledger with what each member has by itself, and one of
// them also with what it answers for the cluster.
func (l *load) verify(ctx context.Context, ledger *kvload.Ledger, through string) error {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	var all error
	for _, node := range l.world.shape.members() {
		if err := ledger.Verify(ctx, l.local[node], true, false); err != nil {
			all = errors.Join(all, fmt.Errorf("ledger on %s: %w", node, err))
		}
	}
	if err := ledger.Verify(ctx, l.local[through], false, false); err != nil {
		all = errors.Join(all, fmt.Errorf("ledger through %s: %w", through, err))
	}
	return all
}

// turnOver begins another ledger when this one is long enough: it is read as a
// whole after each round.
func (l *load) turnOver() {
	if l.ledger.Acked() < ledgerKeys {
		return
	}
	l.stop()
	l.next()
}

// verifyAll compares all ledgers with what each member has, values included.
// Nobody writes any more, and all members have applied everything.
func (l *load) verifyAll(ctx context.Context) error {
	var all error
	for i, ledger := range append(l.past, l.ledger) {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		for j, node := range l.world.shape.members() {
			// The states are equal: the values of one member are those of all.
			if err := ledger.Verify(limited, l.local[node], true, j == i%len(l.local)); err != nil {
				all = errors.Join(all, fmt.Errorf("ledger %d on %s: %w", i, node, err))
			}
		}
		cancel()
	}
	return all
}

// acked is how many writes of ledgers were acknowledged, and of how many
// nobody knows.
func (l *load) acked() (n int) {
	for _, ledger := range append(l.past, l.ledger) {
		n += ledger.Acked()
	}
	return n
}
