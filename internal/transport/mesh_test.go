package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMeshes(t *testing.T) {
	cases := map[string]struct {
		names []string
		addrs func() []netip.AddrPort
	}{
		"pair":            {[]string{"a", "b"}, func() []netip.AddrPort { return []netip.AddrPort{testAddr()} }},
		"triple":          {[]string{"gw1", "gw2", "w1"}, func() []netip.AddrPort { return []netip.AddrPort{testAddr()} }},
		"pair on IPv6":    {[]string{"a", "b"}, func() []netip.AddrPort { return []netip.AddrPort{testAddr6()} }},
		"triple on three": {[]string{"a", "b", "c"}, func() []netip.AddrPort { return []netip.AddrPort{testAddr(), testAddr6(), testAddr()} }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPlan(t, c.names...)
			for _, n := range c.names {
				p.everywhere(n, c.addrs()...)
			}
			nodes := p.startAll(t)
			meshed(t, nodes)
			for from, n := range nodes {
				for to := range nodes {
					if from != to {
						exchange(t, n, nodes[to], len(p.members[from][0].Addresses))
					}
				}
			}
		})
	}
}

// exchange sends on both channels and all paths and waits for arrival.
func exchange(t *testing.T, from, to *node, paths int) {
	t.Helper()
	text := from.name + " to " + to.name
	for ch, kind := range map[Channel]uint8{Control: 1, Bulk: MaxKind} {
		if err := from.Send(to.name, ch, kind, []byte(text)); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("%s on %v", text, ch), func() bool {
			for _, m := range to.allMessages() {
				if m.peer == from.name && m.ch == ch && m.kind == kind && string(m.payload) == text {
					return true
				}
			}
			return false
		})
	}
	if n := from.SendBeat(to.name, []byte(text)); n != paths {
		t.Errorf("SendBeat took %d paths, want %d", n, paths)
	}
	for path := range paths {
		eventually(t, fmt.Sprintf("beat %s on path %d", text, path), func() bool {
			return to.countBeats(func(b beatSeen) bool { return b == beatSeen{from.name, path, text} }) == 1
		})
	}
	eventually(t, "round trip measured", func() bool { return from.RTT(to.name) > 0 && from.RTTMax(to.name) >= from.RTT(to.name)/2 })
	if h, ok := to.LastHello(from.name); !ok || h.Incarnation != from.cfg.Hello().Incarnation || h.Version != ProtocolVersion {
		t.Errorf("LastHello = %+v, %v", h, ok)
	}
}

// Messages of the largest size pass, in order, and one byte more does not.
func TestLargestMessages(t *testing.T) {
	p := newPlan(t, "a", "b")
	nodes := p.startAll(t)
	meshed(t, nodes)
	a, b := nodes["a"], nodes["b"]
	big := map[Channel][]byte{Control: make([]byte, MaxControlPayload), Bulk: make([]byte, MaxBulkPayload)}
	for ch, payload := range big {
		for i := range payload {
			payload[i] = byte(rand.Uint32())
		}
		for _, pair := range [][2]*node{{a, b}, {b, a}} {
			for kind := uint8(1); kind <= 3; kind++ {
				sendSoon(t, pair[0], pair[1].name, ch, kind, payload)
			}
			if err := pair[0].Send(pair[1].name, ch, 1, make([]byte, len(payload)+1)); !errors.Is(err, ErrTooLarge) {
				t.Errorf("one byte more on %v: %v", ch, err)
			}
		}
	}
	for _, n := range []*node{a, b} {
		eventually(t, "six large messages", func() bool { return len(n.allMessages()) == 6 })
		next := map[Channel]uint8{Control: 1, Bulk: 1}
		for _, m := range n.allMessages() {
			if m.kind != next[m.ch] || !bytes.Equal(m.payload, big[m.ch]) {
				t.Errorf("%s: kind %d with %d bytes on %v, want kind %d", n.name, m.kind, len(m.payload), m.ch, next[m.ch])
			}
			next[m.ch]++
		}
	}
}

// sendSoon sends as soon as the queue has room: three messages of the largest
// size are more than it holds.
func sendSoon(t *testing.T, from *node, to string, ch Channel, kind uint8, payload []byte) {
	t.Helper()
	eventually(t, "room in the queue", func() bool {
		err := from.Send(to, ch, kind, payload)
		if err != nil && !errors.Is(err, ErrQueueFull) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// Two messages of the largest size fit the queue of a channel whatever its
// writer does: one on its way, one behind it.
func TestQueueHoldsLargestMessages(t *testing.T) {
	for ch, limit := range map[Channel]int{Control: controlQueueBytes, Bulk: bulkQueueBytes} {
		if 2*(ch.maxPayload()+frameHeader) > limit {
			t.Errorf("%s: queue of %d bytes, messages of %d", ch, limit, ch.maxPayload())
		}
	}
}

func TestSendErrors(t *testing.T) {
	p := newPlan(t, "a", "b")
	a := p.start(t, "a")
	for want, err := range map[error]error{
		ErrUnknownPeer:  a.Send("z", Control, 1, nil),
		ErrNotConnected: a.Send("b", Control, 1, nil),
		ErrTooLarge:     a.Send("b", Channel(7), 1, nil),
	} {
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	for _, kind := range []uint8{0, MaxKind + 1, kindHello, kindPing, 255} {
		if err := a.Send("b", Control, kind, nil); !errors.Is(err, ErrBadKind) {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
	if n := a.SendBeat("b", nil) + a.SendBeat("z", nil); n != 0 || a.peerStats("b").NoSession != 1 {
		t.Errorf("beats without session: %d sent, %+v", n, a.peerStats("b"))
	}
	if a.RTT("z") != 0 || a.RTTMax("z") != 0 || a.Connected("z") {
		t.Error("a peer that is not there has values")
	}
}

// Covers F1a and the profile rule of DESIGN section 3: both sides name both
// values, once a minute, and stay apart.
func TestHelloRefusals(t *testing.T) {
	cases := map[string]struct {
		change func(h *Hello)
		cause  error
		values [2]string // of a, of b
	}{
		"version":    {func(h *Hello) { h.Version = 9 }, ErrVersionMismatch, [2]string{"1", "9"}},
		"cluster":    {func(h *Hello) { h.ClusterName = "other" }, ErrClusterMismatch, [2]string{`"test"`, `"other"`}},
		"profile":    {func(h *Hello) { h.Profile = "10ms/120ms/5ms" }, ErrProfileMismatch, [2]string{"50ms/500ms/20ms", "10ms/120ms/5ms"}},
		"cluster id": {func(h *Hello) { h.ClusterID = [16]byte{2} }, ErrClusterIDMismatch, [2]string{"01000000", "02000000"}},
	}
	for name, c := range cases {
		for _, odd := range []string{"a", "b"} { // the dialer or the listener is the odd one
			t.Run(name+" at "+odd, func(t *testing.T) {
				p := newPlan(t, "a", "b")
				ha, hb := p.hellos["a"], p.hellos["b"]
				ha.ClusterID, hb.ClusterID = [16]byte{1}, [16]byte{1}
				values := c.values
				if c.change(&hb); odd == "a" {
					c.change(&ha)
					hb = p.hellos["b"]
					hb.ClusterID = [16]byte{1}
					values = [2]string{values[1], values[0]}
				}
				p.hellos["a"], p.hellos["b"] = ha, hb
				nodes := p.startAll(t)
				for i, n := range []string{"a", "b"} {
					other := p.names[1-i]
					var refused *RefusedError
					eventually(t, n+" hears of the refusal", func() bool {
						for _, e := range nodes[n].allEvents() {
							if e.Up {
								t.Fatalf("%s came up", e.Peer)
							}
							if errors.As(e.Err, &refused) {
								return true
							}
						}
						return false
					})
					if !errors.Is(refused, c.cause) || !strings.HasPrefix(refused.Ours, values[i]) || !strings.HasPrefix(refused.Theirs, values[1-i]) {
						t.Errorf("%s: %v (ours %s, theirs %s)", n, refused, refused.Ours, refused.Theirs)
					}
					eventually(t, n+" was refused twice", func() bool { return nodes[n].peerStats(other).Refusals >= 2 })
					if lines := nodes[n].logs.count("peer refused"); lines != 1 {
						t.Errorf("%s logged %d lines", n, lines)
					}
					if nodes[n].Connected(other) || nodes[n].SendBeat(other, nil) != 0 {
						t.Errorf("%s speaks to %s all the same", n, other)
					}
				}
			})
		}
	}
}

func TestCheckHelloRefuses(t *testing.T) {
	for _, who := range []string{"a", "b"} {
		t.Run(who, func(t *testing.T) {
			p := newPlan(t, "a", "b")
			p.change = func(name string, cfg *Config) {
				if name == who {
					cfg.CheckHello = func(peer string, h Hello) error { return fmt.Errorf("raft id %d is not that of %s", h.RaftID, peer) }
				}
			}
			nodes := p.startAll(t)
			for _, n := range nodes {
				eventually(t, "both know the reason", func() bool { return n.logs.count("raft id") > 0 })
				for _, e := range n.allEvents() {
					if e.Up || !errors.Is(e.Err, ErrHelloRefused) {
						t.Errorf("event %+v", e)
					}
				}
			}
		})
	}
}

// A zero cluster id goes with any: a new node has none yet (F1a, F2).
func TestClusterIDZeroIsAccepted(t *testing.T) {
	p := newPlan(t, "a", "b")
	h := p.hellos["b"]
	h.ClusterID = [16]byte{5}
	p.hellos["b"] = h
	meshed(t, p.startAll(t))
}

func TestConfigRefusals(t *testing.T) {
	cases := map[string]func(c *Config){
		"no key":           func(c *Config) { c.Key = nil },
		"no hello":         func(c *Config) { c.Hello = nil },
		"note size":        func(c *Config) { c.NoteSize = 0 },
		"note too long":    func(c *Config) { c.NoteSize = maxDatagram + 1 },
		"idle limit":       func(c *Config) { c.IdleLimit = c.PingInterval },
		"self not listed":  func(c *Config) { c.Self = "z" },
		"other key":        func(c *Config) { c.Members[0].PublicKey = c.Members[1].PublicKey; c.Members = c.Members[:1] },
		"same name":        func(c *Config) { c.Members[1].Name = "a" },
		"same key":         func(c *Config) { c.Members[1].PublicKey = c.Members[0].PublicKey },
		"same address":     func(c *Config) { c.Members[1].Addresses = c.Members[0].Addresses },
		"no address":       func(c *Config) { c.Members[1].Addresses = nil },
		"wildcard":         func(c *Config) { c.Members[1].Addresses = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:1")} },
		"zone":             func(c *Config) { c.Members[1].Addresses = []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%lo]:1")} },
		"no port":          func(c *Config) { c.Members[1].Addresses = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")} },
		"small order key":  func(c *Config) { c.Members[1].PublicKey = make([]byte, 32) },
		"long name":        func(c *Config) { c.Members[1].Name = strings.Repeat("x", maxName+1) },
		"too many members": func(c *Config) { c.Members = make([]Member, maxMembers+1) },
		"address taken": func(c *Config) {
			c.Members[0].Addresses = []netip.AddrPort{c.Members[0].Addresses[0], busy}
		},
	}
	p := newPlan(t, "busy", "other")
	busy = p.entry("busy", "busy").Addresses[0]
	p.start(t, "busy")
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPlan(t, "a", "b")
			cfg := p.config("a", &logBuffer{})
			cfg.Handler = &recorder{}
			cfg.PingInterval = 100 * time.Millisecond
			change(&cfg)
			if tr, err := New(cfg); err == nil {
				_ = tr.Close()
				t.Error("accepted")
			}
		})
	}
}

var busy netip.AddrPort

// Addresses may appear after start: IP_FREEBIND binds what is not there.
func TestAddressNotThereYet(t *testing.T) {
	p := newPlan(t, "a", "b")
	p.everywhere("a", testAddr(), netip.MustParseAddrPort("198.51.100.7:7400"))
	p.everywhere("b", testAddr(), netip.MustParseAddrPort("[2001:db8::7]:7400"))
	nodes := p.startAll(t)
	meshed(t, nodes)
	if n := nodes["a"].SendBeat("b", []byte("x")); n != 1 {
		t.Errorf("SendBeat took %d paths, want the one that is there", n)
	}
	if e := nodes["a"].peerStats("b").SendErrors; e.Address != 1 { // no own IPv6 address
		t.Errorf("send errors %+v", e)
	}
}

func TestRunAndCloseOrders(t *testing.T) {
	build := func() *Transport {
		p := newPlan(t, "a", "b")
		cfg := p.config("a", &logBuffer{})
		cfg.Handler = &recorder{}
		tr, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	tr := build()
	if err := errors.Join(tr.Close(), tr.Close()); err != nil {
		t.Error(err)
	}
	if err := tr.Run(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
	if err := tr.SetMembers(tr.cfg.Members); !errors.Is(err, ErrClosed) {
		t.Errorf("SetMembers after Close: %v", err)
	}
	tr = build()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tr.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := tr.Run(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("second Run: %v", err)
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
}

func TestSetMembers(t *testing.T) {
	p := newPlan(t, "a", "b", "c")
	full := p.members["a"]
	for _, n := range p.names {
		p.members[n] = full
	}
	p.members["a"] = full[:2] // a does not know c yet
	nodes := p.startAll(t)
	a := nodes["a"]
	meshed(t, map[string]*node{"a": a, "b": nodes["b"]})
	session := a.roster.Load().byName["b"].beatTo.Load()

	if err := a.SetMembers(full); err != nil {
		t.Fatal(err)
	}
	meshed(t, nodes)
	if a.roster.Load().byName["b"].beatTo.Load() != session {
		t.Error("adding a member cost another's beat session")
	}

	second := netip.AddrPortFrom(testAddr().Addr(), 7401)
	changed := append([]Member(nil), full...)
	changed[1].Addresses = []netip.AddrPort{full[1].Addresses[0], second}
	if err := a.SetMembers(changed); err != nil {
		t.Fatal(err)
	}
	if n := a.SendBeat("b", nil); n != 2 || a.roster.Load().byName["b"].beatTo.Load() != session {
		t.Errorf("after a new address: %d paths", n)
	}

	own := append([]Member(nil), full...)
	own[0].Addresses = []netip.AddrPort{testAddr()}
	if err := a.SetMembers(own); !errors.Is(err, ErrOwnEntry) {
		t.Errorf("own address changed: %v", err)
	}
	if err := a.SetMembers(full[1:]); err == nil {
		t.Error("took a list without ourselves")
	}

	if err := a.SetMembers([]Member{full[0], full[2]}); err != nil {
		t.Fatal(err)
	}
	events := a.allEvents()
	if last := events[len(events)-1]; last.Peer != "b" || last.Up || !errors.Is(last.Err, ErrRemoved) {
		t.Errorf("last event %+v", last)
	}
	if err := a.Send("b", Control, 1, nil); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("send to a removed peer: %v", err)
	}
	before := a.Stats().UnknownSession
	nodes["b"].SendBeat("a", []byte("late"))
	eventually(t, "beat of a removed member is dropped", func() bool { return a.Stats().UnknownSession == before+1 })
}

func TestQueueFullAndBounded(t *testing.T) {
	p := newPlan(t, "a", "b")
	r := newRelay(t, p.entry("b", "b").Addresses[0])
	p.entry("a", "b").Addresses = []netip.AddrPort{r.addr}
	nodes := p.startAll(t)
	meshed(t, nodes)
	a := nodes["a"]
	c := a.roster.Load().byName["b"].bulk.Load()
	block := make(chan struct{})
	b := nodes["b"]
	b.recorder.mu.Lock() // b's reader stands still in its handler
	go func() { <-block; b.recorder.mu.Unlock() }()
	var err error
	sent := 0
	for err == nil && sent < 1000 {
		err = a.Send("b", Bulk, 1, make([]byte, 1<<20))
		sent++
	}
	close(block)
	if !errors.Is(err, ErrQueueFull) || a.peerStats("b").QueueFull != 1 {
		t.Fatalf("after %d messages: %v", sent, err)
	}
	if held := c.queueBytes.Load(); held > bulkQueueBytes {
		t.Errorf("queue holds %d bytes, limit %d", held, bulkQueueBytes)
	}
	eventually(t, "the queue drains", func() bool { return c.queueBytes.Load() == 0 })
	eventually(t, "all that was taken arrives", func() bool { return len(b.allMessages()) == sent-1 })
	if sent < bulkQueueBytes>>20 {
		t.Errorf("only %d messages were taken", sent)
	}
}

// No goroutine outlives Close, also with connections in every phase.
func TestNoGoroutineLeak(t *testing.T) {
	t.Run("nodes", func(t *testing.T) {
		p := newPlan(t, "a", "b", "c", "down")
		p.names = p.names[:3]
		nodes := p.startAll(t)
		meshed(t, nodes)
		for range 10 { // in the middle of TLS
			conn := dialTCP(t, nodes["c"].own[0])
			t.Cleanup(func() { _ = conn.Close() })
		}
		eventually(t, "strangers are being waited for", func() bool { return nodes["c"].pendingCount() > 0 })
	})
	eventually(t, "no goroutine of a transport is left", func() bool {
		buf := make([]byte, 4<<20)
		return !strings.Contains(string(buf[:runtime.Stack(buf, true)]), "transport.(*")
	})
}

func (n *node) pendingCount() int {
	n.pending.mu.Lock()
	defer n.pending.mu.Unlock()
	total := 0
	for _, c := range n.pending.sources {
		total += c
	}
	return total
}
