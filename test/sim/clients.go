package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Clients write and read keys of the buckets at the workers, each one request
// after the other. A request without answer is repeated under its id at another
// worker. Every value is written once, so a value names the write that made it.

const (
	clientCount = 3
	keyCount    = 8
	bucket      = "tasks"
	tries       = 6
)

// request is what a client asks of one key, or of two at once.
type request struct {
	kind   string // get, put, swap, delete, both
	key    string
	key2   string // of both
	value  string
	expect string // of swap: the value that must be there, "" for none
	rev    uint64 // of expect
}

// answer is what the client was told.
type answer struct {
	value string // of a get, "" for no such key
	rev   uint64
	done  bool // the condition held; the key was there
}

type operation struct {
	client     int
	call, back int64
	request    request
	answer     answer
	unknown    bool
}

type clients struct {
	w       *world
	list    []*client
	history []operation
	revs    map[string]uint64 // of values that were seen
	stopped bool
	told    map[string]int
}

type client struct {
	c       *clients
	i       int
	rnd     *rand.Rand
	serial  int
	known   map[string]answer // newest of each key that it has seen
	busy    bool
	attempt int
	asked   int // attempts of the present request
}

func newClients(w *world) *clients {
	c := &clients{w: w, revs: map[string]uint64{}, told: map[string]int{}}
	for i := range clientCount {
		c.list = append(c.list, &client{c: c, i: i, rnd: stream(w.seed, fmt.Sprintf("client %d", i)), known: map[string]answer{}})
	}
	return c
}

func (c *clients) start(at int64) {
	for _, cl := range c.list {
		c.w.at(at+span(cl.rnd, 0, 200*time.Millisecond), cl.next)
	}
}

func (cl *client) pause() {
	w := cl.c.w
	w.at(w.now+span(cl.rnd, 10*time.Millisecond, time.Duration(float64(400*time.Millisecond)*w.scale)), cl.next)
}

// next draws the next request.
func (cl *client) next() {
	if cl.c.stopped {
		return
	}
	cl.serial++
	q := request{key: fmt.Sprintf("k%d", cl.rnd.IntN(keyCount)), value: fmt.Sprintf("c%d-%d", cl.i, cl.serial)}
	switch x := cl.rnd.IntN(10); {
	case x < 3:
		q.kind, q.value = "get", ""
	case x < 6:
		q.kind = "put"
	case x < 8:
		q.kind = "swap"
		k := cl.known[q.key]
		q.expect, q.rev = k.value, k.rev
	case x < 9:
		q.kind, q.value = "delete", ""
	default:
		q.kind = "both"
		q.key2 = q.key + "b"
	}
	cl.busy = true
	cl.asked = 0
	cl.send(q, cl.c.w.now, false)
}

// send asks one worker; unknown tells whether an earlier try may have been
// executed.
func (cl *client) send(q request, call int64, unknown bool) {
	w := cl.c.w
	cl.attempt++
	cl.asked++
	mine, id := cl.attempt, fmt.Sprintf("c%d-%d", cl.i, cl.serial)
	again := func(unknown bool) {
		if mine != cl.attempt {
			return
		}
		cl.attempt++
		if cl.asked >= tries || cl.c.stopped {
			cl.finish(q, call, answer{}, unknown, !unknown)
			return
		}
		w.at(w.now+span(cl.rnd, 5*time.Millisecond, 150*time.Millisecond), func() { cl.send(q, call, unknown) })
	}
	p := w.hosts[cl.rnd.IntN(len(w.hosts))].proc
	if p == nil || p.dead || p.ending || p.node == nil {
		again(unknown)
		return
	}
	w.at(w.now+int64(float64(time.Second)*w.scale), func() { again(true) })
	got := func(a answer, err *control.Error) {
		// Told within a turn: the client hears of it when that turn is done.
		p.effect(func() {
			switch {
			case mine != cl.attempt:
			case err != nil:
				cl.c.told[q.kind+" "+string(err.Code)]++
				again(unknown || err.Code == control.Timeout || err.Code == control.Internal)
			default:
				cl.attempt++
				cl.finish(q, call, a, false, false)
			}
		})
	}
	p.deliver(func() {
		if q.kind == "get" {
			p.node.Read(func(v *kv.View, err *control.Error) {
				if err != nil {
					got(answer{}, err)
					return
				}
				item, ok := v.Get(bucket, q.key)
				got(answer{value: string(item.Value), rev: item.Rev, done: ok}, nil)
			})
			return
		}
		p.node.Write(q.kv(id), func(r kv.Result, err *control.Error) {
			if err == nil && r.Code != kv.OK && r.Code != kv.NotMet {
				w.violate("I3", "client %d: %s %s answered %v", cl.i, q.kind, q.key, r.Code)
			}
			a := answer{done: r.Code == kv.OK, rev: r.Rev}
			if q.kind == "delete" && len(r.Ops) > 0 {
				a.done = r.Ops[0].Found
			}
			got(a, err)
		})
	})
}

func (q request) kv(id string) kv.Request {
	put := func(key string) kv.Op {
		return kv.Op{Kind: kv.OpPut, Bucket: bucket, Key: key, Value: []byte(q.value)}
	}
	switch q.kind {
	case "put":
		return kv.Request{ID: id, Then: []kv.Op{put(q.key)}}
	case "swap":
		return kv.Request{ID: id, If: []kv.Cond{{Bucket: bucket, Key: q.key, Rev: q.rev}}, Then: []kv.Op{put(q.key)}}
	case "delete":
		return kv.Request{ID: id, Then: []kv.Op{{Kind: kv.OpDelete, Bucket: bucket, Key: q.key}}}
	}
	return kv.Request{ID: id, Then: []kv.Op{put(q.key), put(q.key2)}}
}

// finish puts a request into the history: refused ones never happened.
func (cl *client) finish(q request, call int64, a answer, unknown, refused bool) {
	c := cl.c
	cl.busy = false
	what := q.kind + " done"
	switch {
	case refused || unknown && q.kind == "get":
		what = q.kind + " refused"
	default:
		o := operation{client: cl.i, call: call, back: c.w.now, request: q, answer: a, unknown: unknown}
		if unknown {
			o.back = math.MaxInt64
			what = q.kind + " unknown"
			delete(cl.known, q.key)
		}
		c.history = append(c.history, o)
		c.learn(cl, q, a, unknown)
	}
	c.told[what]++
	cl.pause()
}

// learn keeps what a get has shown, and checks that a value has one revision.
func (c *clients) learn(cl *client, q request, a answer, unknown bool) {
	switch {
	case unknown:
		return
	case q.kind == "get" && !a.done:
		delete(cl.known, q.key)
		return
	case q.kind == "get":
	case (q.kind == "put" || q.kind == "swap") && a.done:
		a.value = q.value
	default:
		delete(cl.known, q.key)
		return
	}
	name := q.key + " " + a.value
	if rev, ok := c.revs[name]; ok && rev != a.rev {
		c.w.violate("I3", "client %d: value %s of %s has revision %d, and had %d", cl.i, a.value, q.key, a.rev, rev)
	}
	c.revs[name] = a.rev
	cl.known[q.key] = a
}

func (c *clients) idle() bool {
	for _, cl := range c.list {
		if cl.busy {
			return false
		}
	}
	return true
}

// model is one key; its state is the value, "" for no key.
var model = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		v, o := state.(string), input.(operation)
		q, a := o.request, o.answer
		switch q.kind {
		case "get":
			return a.done == (v != "") && a.value == v, v
		case "put", "both":
			return o.unknown || a.done, q.value
		case "swap":
			met := v == q.expect
			if !o.unknown && a.done != met {
				return false, v
			}
			if met {
				return true, q.value
			}
			return true, v
		}
		return o.unknown || a.done == (v != ""), ""
	},
}

// linearizable is I2 and I3: the requests of each key can be put in an order
// that explains every answer.
func (c *clients) linearizable() {
	keys := map[string][]porcupine.Operation{}
	for _, o := range c.history {
		op := porcupine.Operation{ClientId: o.client, Input: o, Call: o.call, Return: o.back}
		keys[o.request.key] = append(keys[o.request.key], op)
		if o.request.key2 != "" {
			keys[o.request.key2] = append(keys[o.request.key2], op)
		}
	}
	for key, ops := range keys {
		switch porcupine.CheckOperationsTimeout(model, ops, 20*time.Second) {
		case porcupine.Illegal:
			c.w.violate("I3", "key %s: no order of its %d requests explains the answers%s", key, len(ops), describe(ops))
		case porcupine.Unknown:
			c.w.result.Undecided++
		}
	}
}

func describe(ops []porcupine.Operation) string {
	text := ""
	for _, op := range ops {
		o := op.Input.(operation)
		back := "never"
		if o.back != math.MaxInt64 {
			back = stamp(o.back)
		}
		text += fmt.Sprintf("\n  client %d %s..%s %s %s expect %q: %q rev %d done %v unknown %v", o.client, stamp(o.call), back,
			o.request.kind, o.request.value, o.request.expect, o.answer.value, o.answer.rev, o.answer.done, o.unknown)
	}
	return text
}
