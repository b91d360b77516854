package kvload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Mix says what the clients of a history do.
type Mix struct {
	// Conns has one client for each worker.
	Conns []*Conn
	// Bucket of all keys, and what their names begin with. A history begins
	// with keys that nobody has written: one that follows another in the same
	// bucket needs another prefix, since requests of the earlier one whose
	// outcome is unknown may still be executed.
	Bucket, Prefix string
	// After is a revision that every write must exceed, such as the last of an
	// earlier history; 0 for none.
	After uint64
	// Keys and Accounts are how many keys there are of each kind: single
	// requests go to keys, transactions move money between accounts.
	Keys, Accounts int
	// Pause between two requests of a worker, on average.
	Pause time.Duration
	// Limit of one request; 5 s when 0.
	Limit time.Duration
	// Seed of the choices.
	Seed uint64
}

const money = 100 // on each account at first

// worker is one client of a mix.
type worker struct {
	*Mix
	id     int
	conn   *Conn
	rand   *rand.Rand
	base   time.Time
	serial int
	known  map[string]uint64 // revisions that it was told
	events []event
	told   map[string]int
	err    error // an answer that the contract does not have
}

// Run opens the accounts and keeps the clients busy until ctx ends. The error
// is an answer that makes no sense, not a refusal: those are part of the
// history.
func (m *Mix) Run(ctx context.Context) (*History, error) {
	if m.Limit == 0 {
		m.Limit = 5 * time.Second
	}
	base := time.Now()
	opening, err := m.open(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("open accounts: %w", err)
	}
	h := &History{events: opening, total: m.Accounts * money, after: m.After, Told: map[string]int{}}
	workers := make([]*worker, len(m.Conns))
	var wg sync.WaitGroup
	for i, c := range m.Conns {
		w := &worker{
			Mix: m, id: i + 1, conn: c, base: base, known: map[string]uint64{}, told: map[string]int{},
			rand: rand.New(rand.NewPCG(m.Seed, uint64(i))),
		}
		workers[i] = w
		wg.Go(func() { w.run(ctx) })
	}
	wg.Wait()
	for _, w := range workers {
		h.events = append(h.events, w.events...)
		for what, n := range w.told {
			h.Told[what] += n
		}
		err = errors.Join(err, w.err)
	}
	return h, err
}

// open puts money on the accounts, before the clients begin.
func (m *Mix) open(ctx context.Context, base time.Time) ([]event, error) {
	var events []event
	c := m.Conns[0].Retrying()
	for i := range m.Accounts {
		s := step{Kind: stepCreate, Key: m.account(i), Value: fmt.Sprintf("%d opening", money)}
		call := int64(time.Since(base))
		rev, err := c.Put(ctx, m.Bucket, s.Key, s.Value, Cond{Absent: true}, 0)
		if err != nil {
			return nil, err
		}
		events = append(events, event{call: call, back: int64(time.Since(base)), steps: []step{s}, outs: []outcome{{Done: true, Rev: rev}}})
	}
	return events, nil
}

func (m *Mix) account(i int) string { return fmt.Sprintf("%saccount/%d", m.Prefix, i) }

func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil && w.err == nil {
		// A request under way is not cut off at the end: its outcome counts.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.Limit)
		w.turn(limited)
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(float64(w.Pause) * w.rand.ExpFloat64())):
		}
	}
}

// turn makes one request.
func (w *worker) turn(ctx context.Context) {
	key := fmt.Sprintf("%skey %d/%d", w.Prefix, w.rand.IntN(w.Keys), w.Keys)
	w.serial++
	value := fmt.Sprintf("w%d.%d", w.id, w.serial)
	switch n := w.rand.IntN(100); {
	case n < 30:
		w.get(ctx, key)
	case n < 50:
		w.put(ctx, step{Kind: stepPut, Key: key, Value: value}, Cond{})
	case n < 60:
		w.put(ctx, step{Kind: stepCreate, Key: key, Value: value}, Cond{Absent: true})
	case n < 75:
		if rev := w.known[key]; rev != 0 {
			w.put(ctx, step{Kind: stepSwap, Key: key, Value: value, If: rev}, Cond{Rev: rev})
		} else {
			w.get(ctx, key)
		}
	case n < 82:
		w.remove(ctx, key)
	case n < 92:
		w.move(ctx, value)
	default:
		w.sum(ctx)
	}
}

// note writes a request down. A read of which nothing is known says nothing
// and is left out, and so is a request that was refused.
func (w *worker) note(what string, e event, err error) {
	e.client = w.id
	code := Code(err)
	unknown := errors.Is(err, ErrUnknown)
	switch {
	case err == nil:
		w.told[what+" done"]++
	case unknown:
		w.told[what+" unknown"]++
		e.back = never
	case code == "precondition_failed":
		w.told[what+" not met"]++
	case code == "no_quorum" || code == unreachable || code == removed || code == "disk_full":
		w.told[what+" refused"]++
		return
	default:
		w.err = fmt.Errorf("%s of client %d: %w", what, w.id, err)
		return
	}
	for i, s := range e.steps {
		if unknown {
			e.outs[i] = outcome{Unknown: true}
		}
		if s.Kind == stepGet && unknown {
			return
		}
		w.learn(s, e.outs[i])
	}
	w.events = append(w.events, e)
}

func (w *worker) learn(s step, o outcome) {
	if o.Done && o.Rev != 0 && s.Kind != stepDelete {
		w.known[s.Key] = o.Rev
	} else {
		delete(w.known, s.Key)
	}
}

func (w *worker) now() int64 { return int64(time.Since(w.base)) }

func (w *worker) get(ctx context.Context, key string) {
	e := event{call: w.now(), steps: []step{{Kind: stepGet, Key: key}}}
	item, err := w.conn.Get(ctx, w.Bucket, key, false)
	e.back, e.outs = w.now(), []outcome{{Done: item.Found, Value: item.Value, Rev: item.Rev}}
	w.note("get", e, err)
}

func (w *worker) put(ctx context.Context, s step, cond Cond) {
	e := event{call: w.now(), steps: []step{s}}
	rev, err := w.conn.Put(ctx, w.Bucket, s.Key, s.Value, cond, 0)
	e.back, e.outs = w.now(), []outcome{{Done: err == nil, Rev: rev}}
	w.note(s.Kind.String(), e, err)
}

func (w *worker) remove(ctx context.Context, key string) {
	e := event{call: w.now(), steps: []step{{Kind: stepDelete, Key: key}}}
	found, err := w.conn.Delete(ctx, w.Bucket, key, Cond{})
	e.back, e.outs = w.now(), []outcome{{Done: found}}
	w.note("delete", e, err)
}

// move moves one unit between two accounts that it has read before. A move
// whose conditions were not met leaves no trace in the history: one of the two
// had changed, and which is not told.
func (w *worker) move(ctx context.Context, value string) {
	from := w.rand.IntN(w.Accounts)
	to := (from + 1 + w.rand.IntN(w.Accounts-1)) % w.Accounts
	read, err := w.accounts(ctx, "read", from, to)
	if err != nil {
		return
	}
	t := Txn{}
	e := event{call: w.now()}
	for i, change := range []int{-1, 1} {
		key, item := w.account([]int{from, to}[i]), read[i]
		s := step{Kind: stepSwap, Key: key, If: item.Rev, Value: fmt.Sprintf("%d %s", balance(item.Value)+change, value)}
		e.steps = append(e.steps, s)
		t.If = append(t.If, TxnCond{Bucket: w.Bucket, Key: key, Rev: item.Rev})
		t.Then = append(t.Then, TxnOp{Op: "put", Bucket: w.Bucket, Key: key, Text: s.Value})
	}
	r, err := w.conn.Txn(ctx, t)
	e.back = w.now()
	if err == nil && !r.Succeeded {
		w.told["move not met"]++
		return
	}
	for range e.steps {
		e.outs = append(e.outs, outcome{Done: true, Rev: r.Rev})
	}
	w.note("move", e, err)
}

// balance is the first word of an account's value.
func balance(value string) int {
	word, _, _ := strings.Cut(value, " ")
	n, err := strconv.Atoi(word)
	if err != nil {
		return -1 << 30 // the sum then shows it
	}
	return n
}

// sum reads all accounts at once.
func (w *worker) sum(ctx context.Context) {
	all := make([]int, w.Accounts)
	for i := range all {
		all[i] = i
	}
	_, _ = w.accounts(ctx, "sum", all...) // what there is to say stands in the history
}

// accounts reads accounts in one transaction and writes that down.
func (w *worker) accounts(ctx context.Context, what string, which ...int) ([]Item, error) {
	t := Txn{}
	e := event{call: w.now(), total: len(which) == w.Accounts}
	for _, i := range which {
		t.Then = append(t.Then, TxnOp{Op: "get", Bucket: w.Bucket, Key: w.account(i)})
		e.steps = append(e.steps, step{Kind: stepGet, Key: w.account(i)})
	}
	r, err := w.conn.Txn(ctx, t)
	e.back = w.now()
	if err == nil && (!r.Succeeded || len(r.Results) != len(which)) {
		err = fmt.Errorf("a transaction of %d gets answered %+v", len(which), r)
	}
	items := make([]Item, len(which))
	e.outs = make([]outcome, len(which))
	if err == nil {
		for i, x := range r.Results {
			items[i] = Item{Found: x.Found, Value: string(x.Value), Rev: x.Rev}
			e.outs[i] = outcome{Done: x.Found, Value: string(x.Value), Rev: x.Rev}
			e.sum += balance(string(x.Value))
		}
	}
	w.note(what, e, err)
	return items, err
}

// Final reads every key of the history through a client, locally, and adds
// the readings to it as if one client had made them after everything else.
func (m *Mix) Final(ctx context.Context, h *History, c *Conn) error {
	keys := map[string]bool{}
	last := int64(0)
	for _, e := range h.events {
		last = max(last, e.call)
		if e.back != never {
			last = max(last, e.back)
		}
		for _, s := range e.steps {
			keys[s.Key] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		item, err := c.Get(ctx, m.Bucket, key, true)
		if err != nil {
			return fmt.Errorf("read %s at the end: %w", key, err)
		}
		last++
		h.events = append(h.events, event{
			client: len(m.Conns) + 1, call: last, back: last,
			steps: []step{{Kind: stepGet, Key: key}},
			outs:  []outcome{{Done: item.Found, Value: item.Value, Rev: item.Rev}},
		})
	}
	return nil
}
