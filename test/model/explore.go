package main

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"
)

// bounds is a part of all that can happen, small enough to be gone through
// whole. Within it messages may be lost, late, doubled and reordered without
// bounds, and everything may happen at any tick.
type bounds struct {
	name       string
	voters     int
	contenders int        // hosts 1 to contenders may be named; without chain the others are only voters
	assigns    int        // entries of the log, each naming a worker: all sequences that name two hosts
	beats      int        // of each worker
	releases   int        // of all
	deaths     int        // of workers, of all hosts
	ticks      int64      // of true time; a promise is 4 to 5, a lease 2 to 3, epsilon and a close 1
	late       bool       // acknowledgements take their time too, else they arrive at once
	chain      [][]uint64 // configurations of the voters after the first
	rates      [][]int64  // clock rates of the hosts, in thousandths, one search each
}

func (b *bounds) hosts() int {
	n := b.voters
	for _, c := range b.chain {
		n = max(n, int(slices.Max(c)))
	}
	return n
}

// search goes through the states of one bounds and one set of rates, depth
// first.
type search struct {
	b      *bounds
	rates  []int64
	log    []entry // of Assigns, one after the other
	broken rule
	limit  int
	seen   set
	path   []action
	buf    []byte
	parts  [maxHosts][]byte

	steps    uint64
	windows  uint64 // states in which a gate is open
	depth    int
	found    findings
	foundAt  [invariants]path
	overflow bool
}

// path is how a state was reached.
type path struct {
	log     []entry
	actions []action
}

var errStates = errors.New("too many states")

// run returns when all states were seen, two gates were open, or there are too
// many states.
func (x *search) run() error {
	x.seen = newSet()
	for _, x.log = range x.b.logs() {
		x.visit(newState(x.b, x.rates, x.log, x.broken, nil))
		if x.found[oneGate] != "" {
			break
		}
	}
	if x.overflow {
		return fmt.Errorf("%w: more than %d within %s", errStates, x.limit, x.b.name)
	}
	return nil
}

func (x *search) visit(s *state) {
	x.buf = s.key(x.buf[:0], x.b, &x.parts)
	if !x.seen.add(x.buf) {
		return
	}
	if x.seen.n > x.limit {
		x.overflow = true
		return
	}
	x.depth = max(x.depth, len(x.path))
	for _, h := range s.hosts {
		if h.openTill > s.now {
			x.windows++
			break
		}
	}
	x.actions(s, func(a *action) {
		if x.overflow || x.found[oneGate] != "" {
			return
		}
		x.steps++
		x.path = append(x.path, *a)
		c := s.do(x.b, a)
		for i, text := range c.found {
			if text != "" && x.found[i] == "" {
				x.found[i], x.foundAt[i] = text, path{x.log, slices.Clone(x.path)}
			}
		}
		if c.found[oneGate] == "" {
			x.visit(c)
		}
		x.path = x.path[:len(x.path)-1]
	})
}

// actions calls do with all that can happen in s.
func (x *search) actions(s *state, do func(*action)) {
	for i, h := range s.hosts {
		x.hostActions(s, i, h, do)
	}
	if s.changes < len(x.b.chain) && s.mayReconfigure() {
		do(&action{kind: reshapes})
	}
	if s.now < s.end {
		do(&action{kind: passes})
	}
}

func (x *search) hostActions(s *state, i int, h *host, do func(*action)) {
	b := x.b
	for j := range s.messages {
		if m := &s.messages[j]; m.at <= s.now && s.matters(m, i) {
			do(&action{kind: gets, host: i, msg: *m})
		}
	}
	if b.chain != nil && s.nextConfig(h) != 0 {
		do(&action{kind: conforms, host: i})
	}
	if s.deaths < b.deaths {
		do(&action{kind: dying, host: i, how: powerLoss})
		if i < b.contenders {
			do(&action{kind: dying, host: i, how: guarded})
			do(&action{kind: dying, host: i, how: bothDie})
		}
	}
	if i >= b.contenders {
		return
	}
	_, asking := h.holder.Holding(0)
	if int(h.seq) < b.beats {
		if s.nextOwn(h) != 0 {
			do(&action{kind: takes, host: i})
		}
		if asking && h.beatAt != s.now {
			do(&action{kind: asks, host: i})
		}
	}
	if asking && s.releases < b.releases {
		do(&action{kind: yields, host: i})
	}
}

// matters is false for a message that certainly changes nothing at a host.
func (s *state) matters(m *event, host int) bool {
	h := s.hosts[host]
	switch m.kind {
	case granted:
		return int(m.host) == host
	case asked:
		// The own voter has it; and what a voter has granted it grants no more
		// than once.
		p := &h.promised
		return m.incarnation != h.inc &&
			(s.broken != none || p.incarnation != m.incarnation || p.epoch != m.epoch || p.sequence < m.sequence)
	}
	return true
}

// story tells what a path does.
func (x *search) story(p path) string {
	var out strings.Builder
	var s *state
	s = newState(x.b, x.rates, p.log, x.broken, func(format string, args ...any) {
		if s != nil { // what happens before is no news
			fmt.Fprintf(&out, "%6v ", time.Duration(s.now-5*tick))
			fmt.Fprintf(&out, format+"\n", args...)
		}
	})
	for i := range p.actions {
		s = s.do(x.b, &p.actions[i])
	}
	return out.String()
}

// set holds 128-bit hashes of keys. Two states of 100 million share one with a
// probability below 1e-22.
type set struct {
	seeds [2]maphash.Seed
	slots [][2]uint64 // a power of two; zero = free
	n     int
}

func newSet() set {
	return set{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, slots: make([][2]uint64, 1<<12)}
}

func (s *set) add(key []byte) bool {
	k := [2]uint64{maphash.Bytes(s.seeds[0], key), maphash.Bytes(s.seeds[1], key) | 1}
	if !s.place(k) {
		return false
	}
	s.n++
	if 4*s.n > 3*len(s.slots) {
		old := s.slots
		s.slots = make([][2]uint64, 2*len(old))
		for _, k := range old {
			if k[1] != 0 {
				s.place(k)
			}
		}
	}
	return true
}

func (s *set) place(k [2]uint64) bool {
	mask := uint64(len(s.slots) - 1)
	for i := k[0] & mask; ; i = (i + 1) & mask {
		switch s.slots[i] {
		case k:
			return false
		case [2]uint64{}:
			s.slots[i] = k
			return true
		}
	}
}

// result is what the search of one bounds came to.
type result struct {
	states, steps, windows uint64
	searches, depth        int
	took                   time.Duration
	found                  findings
	story                  [invariants]string
}

// explore searches b under all its rates, procs at a time.
func explore(b *bounds, broken rule, procs, limit int) (result, error) {
	var sum result
	var mu sync.Mutex
	var first error
	began := time.Now()
	queue := make(chan []int64)
	var wg sync.WaitGroup
	for range procs {
		wg.Go(func() {
			for rates := range queue {
				x := &search{b: b, rates: rates, broken: broken, limit: limit / procs}
				err := x.run()
				mu.Lock()
				sum.add(x)
				if first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	for _, rates := range b.rates {
		mu.Lock()
		stop := first != nil || sum.found[oneGate] != ""
		mu.Unlock()
		if stop {
			break
		}
		queue <- rates
	}
	close(queue)
	wg.Wait()
	sum.took = time.Since(began)
	return sum, first
}

func (r *result) add(x *search) {
	r.searches++
	r.states += uint64(x.seen.n)
	r.steps += x.steps
	r.windows += x.windows
	r.depth = max(r.depth, x.depth)
	for i, text := range x.found {
		if text != "" && r.found[i] == "" {
			r.found[i], r.story[i] = text, x.story(x.foundAt[i])
		}
	}
}
