package transport

import (
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newRand(seed int) *mrand.Rand { return mrand.New(mrand.NewPCG(uint64(seed), 7)) }

func TestReconnectAfterKill(t *testing.T) {
	a, b, r := linked(t)
	for i := range 5 {
		if r.kill() == 0 {
			t.Fatal("nothing to kill")
		}
		for n, other := range map[*node]string{a: "b", b: "a"} {
			eventually(t, "connected again", func() bool {
				s := n.peerStats(other)
				return s.Connected && s.BulkConnected && s.Connects >= uint64(i+2)
			})
		}
		exchange(t, a, b, 1)
		exchange(t, b, a, 1)
		a.forget()
		b.forget()
	}
	for _, n := range []*node{a, b} {
		up := false
		for _, e := range n.allEvents() {
			if e.Up == up {
				t.Fatalf("%s: two events Up=%v in a row", n.name, up)
			}
			if up = e.Up; !e.Up && e.Err == nil {
				t.Error("an end without a reason")
			}
		}
	}
}

func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages, r.beats = nil, nil
}

// A path that swallows everything is noticed and dialled anew; beats go on
// meanwhile under their old keys.
func TestSilentPathIsNoticed(t *testing.T) {
	p := newPlan(t, "a", "b")
	p.change = func(_ string, cfg *Config) {
		cfg.IdleLimit = 600 * time.Millisecond
		cfg.HandshakeTimeout = time.Second // a dial into the silence ends by it
	}
	direct := p.entry("b", "b").Addresses[0]
	r := newRelay(t, direct)
	p.entry("a", "b").Addresses = []netip.AddrPort{r.addr}
	nodes := p.startAll(t)
	meshed(t, nodes)
	a, b := nodes["a"], nodes["b"]
	r.setSilent(true)
	eventually(t, "both notice", func() bool { return !a.Connected("b") && !b.Connected("a") })
	if n := a.SendBeat("b", []byte("still here")); n != 1 {
		t.Errorf("beat on %d paths", n)
	}
	if n := b.SendBeat("a", []byte("me too")); n != 1 {
		t.Errorf("beat on %d paths", n)
	}
	for _, n := range nodes {
		eventually(t, "beats pass without a connection", func() bool { return len(n.allBeats()) == 1 })
	}
	// Who notices first closes, and the other may see that instead.
	idle := 0
	for _, n := range nodes {
		events := n.allEvents()
		if last := events[len(events)-1]; errors.Is(last.Err, ErrIdle) {
			idle++
		}
	}
	if idle == 0 {
		t.Errorf("nobody gave silence as the reason: %+v %+v", a.allEvents(), b.allEvents())
	}
	r.setSilent(false)
	meshed(t, nodes)
}

// A dial that began while the path was dead is lost: its first packets are
// gone, and TCP is in no hurry. The first beat begins a new one.
func TestSignOfLifeEndsHangingDial(t *testing.T) {
	p := newPlan(t, "a", "b")
	p.change = func(_ string, cfg *Config) {
		cfg.IdleLimit = 600 * time.Millisecond
		cfg.HandshakeTimeout = 10 * patience // nothing else may end the dial
	}
	r := newRelay(t, p.entry("b", "b").Addresses[0])
	p.entry("a", "b").Addresses = []netip.AddrPort{r.addr}
	nodes := p.startAll(t)
	meshed(t, nodes)
	a, b := nodes["a"], nodes["b"]
	before := r.connections()
	r.setSilent(true)
	eventually(t, "both notice, and a new dial hangs", func() bool {
		return !a.Connected("b") && !b.Connected("a") && r.connections() > before
	})
	r.setSilent(false)
	eventually(t, "a beat brings the connection back", func() bool {
		b.SendBeat("a", []byte("here again"))
		return a.Connected("b") && b.Connected("a")
	})
}

func TestTwoPathsOneDead(t *testing.T) {
	p := newPlan(t, "a", "b")
	b1, b2 := testAddr(), testAddr()
	p.everywhere("a", testAddr(), testAddr())
	p.everywhere("b", b1, b2)
	r := newRelay(t, b1)
	p.entry("a", "b").Addresses = []netip.AddrPort{r.addr, b2}
	p.change = func(_ string, cfg *Config) { cfg.IdleLimit = 600 * time.Millisecond }
	nodes := p.startAll(t)
	meshed(t, nodes)
	a, b := nodes["a"], nodes["b"]
	r.setHold(func([]byte) bool { return true })
	r.setSilent(true)
	for i := range 20 {
		if n := a.SendBeat("b", number(i)); n != 2 {
			t.Fatalf("sent on %d paths", n)
		}
	}
	eventually(t, "all beats come by the second path", func() bool {
		return b.countBeats(func(s beatSeen) bool { return s.path == 1 }) == 20
	})
	eventually(t, "the connections move to the second path", func() bool {
		s := a.peerStats("b")
		return s.Connected && s.Address == b2
	})
	meshed(t, nodes)
	var reached *PathStats
	eventually(t, "stats tell the paths apart", func() bool {
		s := b.peerStats("a")
		reached = &s.Paths[1]
		return s.Paths[1].In >= 20
	})
	if reached.LastReceivedNs == 0 {
		t.Errorf("%+v", reached)
	}
}

// No beat is lost over session changes, in either direction, while
// connections die at random moments.
func TestSessionReplacementLosesNoBeat(t *testing.T) {
	a, b, r := linked(t)
	rng := newRand(1)
	arrived := map[*node]map[string]bool{a: {}, b: {}}
	count := 0
	for deadline := time.Now().Add(patience); a.peerStats("b").Connects < 8; count++ {
		if time.Now().After(deadline) {
			t.Fatal("connections do not come back")
		}
		payload := number(count)
		if a.SendBeat("b", payload) != 1 || b.SendBeat("a", payload) != 1 {
			t.Fatal("no session to send under")
		}
		if rng.IntN(40) == 0 {
			r.kill()
		}
		// Not more on their way than the kernel's buffers hold.
		for _, n := range []*node{a, b} {
			eventually(t, fmt.Sprintf("%d beats at %s", count-19, n.name), func() bool { return len(n.allBeats()) >= count-19 })
		}
	}
	for _, n := range []*node{a, b} {
		eventually(t, "all beats at "+n.name, func() bool { return len(n.allBeats()) >= count })
	}
	for n, got := range arrived {
		for _, s := range n.allBeats() {
			if got[s.payload] {
				t.Errorf("%s got %x twice", n.name, s.payload)
			}
			got[s.payload] = true
		}
		if len(got) != count {
			t.Errorf("%s got %d of %d beats", n.name, len(got), count)
		}
	}
	if n := a.sessionCount() + b.sessionCount(); n > 2*maxSessions {
		t.Errorf("%d sessions are kept", n)
	}
}

// A restarted peer is known again at once, and its old beats are not.
func TestPeerRestart(t *testing.T) {
	for _, who := range []string{"a", "b"} {
		t.Run(who, func(t *testing.T) {
			p := newPlan(t, "a", "b")
			nodes := p.startAll(t)
			meshed(t, nodes)
			stays := map[string]string{"a": "b", "b": "a"}[who]
			if err := nodes[who].Close(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "its end is noticed", func() bool { return !nodes[stays].Connected(who) })
			h := p.hellos[who]
			h.Incarnation = 4711
			p.hellos[who] = h
			nodes[who] = p.start(t, who)
			meshed(t, nodes)
			if h, ok := nodes[stays].LastHello(who); !ok || h.Incarnation != 4711 {
				t.Errorf("hello %+v", h)
			}
			exchange(t, nodes[who], nodes[stays], 1)
			exchange(t, nodes[stays], nodes[who], 1)
		})
	}
}

// A second control connection takes over from the first, in order.
func TestNewerConnectionReplacesOlder(t *testing.T) {
	p := newPlan(t, "a", "b")
	b := p.start(t, "b")
	hello := p.hellos["a"]
	hello.Version = ProtocolVersion
	for i := range 3 {
		hello.Incarnation = uint64(1000 + i)
		conn, err := p.rawTLS(t, "a", b.own[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := sendHello(conn, hello, Control); err != nil {
			t.Fatal(err)
		}
		if kind, _, err := newFrameReader(conn).next(); kind != kindHello || err != nil {
			t.Fatalf("kind %d, %v", kind, err)
		}
		if err := writeFrame(conn, kindReady, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the newest is up", func() bool {
			h, _ := b.LastHello("a")
			return h.Incarnation == hello.Incarnation && b.Connected("a")
		})
	}
	events := b.allEvents()
	if len(events) != 5 {
		t.Fatalf("%d events: %+v", len(events), events)
	}
	for i, e := range events {
		if e.Up != (i%2 == 0) || (!e.Up && !errors.Is(e.Err, ErrReplaced)) || e.Hello.Incarnation != uint64(1000+i/2) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
}

// Bulk without control of the same run is sent away.
func TestBulkNeedsControl(t *testing.T) {
	p := newPlan(t, "a", "b")
	b := p.start(t, "b")
	conn, err := p.rawTLS(t, "a", b.own[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	hello := p.hellos["a"]
	hello.Version = ProtocolVersion
	if err := sendHello(conn, hello, Bulk); err != nil {
		t.Fatal(err)
	}
	if kind, _, err := newFrameReader(conn).next(); kind != kindHello || err != nil {
		t.Fatalf("kind %d, %v", kind, err)
	}
	if err := writeFrame(conn, kindReady, nil); err != nil {
		t.Fatal(err)
	}
	if !refusedTLS(conn, nil) {
		t.Error("stayed open")
	}
	if b.peerStats("a").BulkConnected {
		t.Error("bulk is up without control")
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	want := []time.Duration{20, 40, 80, 160, 320, 500, 500}
	for i, w := range want {
		if d := b.pause(false); d > w*time.Millisecond || d < w*time.Millisecond*3/4 {
			t.Errorf("pause %d: %v, want %v or up to a quarter less", i, d, w*time.Millisecond)
		}
	}
	for _, w := range []time.Duration{1, 2, 4, 5, 5} {
		if d := b.pause(true); d > w*time.Second || d < w*time.Second*3/4 {
			t.Errorf("after a refusal: %v, want %v", d, w*time.Second)
		}
	}
	if d := b.pause(false); d > retryFirst {
		t.Errorf("another failure begins anew: %v", d)
	}
}

func TestPairOfAddresses(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	own := func(as ...netip.Addr) (out []netip.AddrPort) {
		for _, a := range as {
			out = append(out, netip.AddrPortFrom(a, 1))
		}
		return out
	}
	cases := []struct {
		own  []netip.AddrPort
		to   netip.Addr
		j    int
		want int
	}{
		{own(v4, v4), v4, 1, 1}, // the same index
		{own(v4), v4, 1, 0},     // fewer here
		{own(v4, v6), v4, 1, 0}, // other family at that index
		{own(v6, v4), v6, 5, 0},
		{own(v4), v6, 0, -1}, // no such family
	}
	for _, c := range cases {
		if got := pair(c.own, c.to, c.j); got != c.want {
			t.Errorf("pair(%v, %v, %d) = %d, want %d", c.own, c.to, c.j, got, c.want)
		}
	}
}

func TestSendErrorsByCause(t *testing.T) {
	var c sendErrors
	for _, err := range []error{unix.EPERM, unix.EACCES, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN,
		unix.EAGAIN, unix.ENOBUFS, unix.EADDRNOTAVAIL, unix.EINVAL, errNoFamily, unix.EMSGSIZE} {
		c.count(err)
	}
	if got, want := c.snapshot(), (SendErrors{Denied: 2, Unreachable: 4, Full: 2, Address: 3, Other: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// sessionsOf builds sessions without connections, for the bookkeeping alone.
func sessionsOf(p *peer, ids ...uint64) []*session {
	var out []*session
	for _, id := range ids {
		out = append(out, &session{id: id, peer: p})
	}
	return out
}

func TestSessionBookkeeping(t *testing.T) {
	plan := newPlan(t, "a", "b")
	p := plan.start(t, "a").roster.Load().byName["b"]
	ss := &sessions{byID: map[uint64]*session{}, of: map[*peer][]*session{}}
	s := sessionsOf(p, 1, 2, 3, 4, 5, 6, 7)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect := func(now int64, ids ...uint64) {
		t.Helper()
		for id := uint64(1); id <= 7; id++ {
			want := false
			for _, i := range ids {
				want = want || i == id
			}
			if got := ss.find(id, now) != nil; got != want {
				t.Errorf("session %d found: %v, want %v", id, got, want)
			}
		}
	}
	must(ss.add(s[0]))
	if err := ss.add(s[0]); err == nil {
		t.Error("one id twice")
	}
	ss.confirm(s[0])
	for _, pending := range s[1:5] { // greetings that broke off
		must(ss.add(pending))
	}
	expect(0, 1, 3, 4, 5) // the one in use stays, the oldest of the others goes
	ss.agree(s[4], 10)
	expect(10+oldSessionNs, 1, 3, 4, 5)
	expect(11+oldSessionNs, 5) // both sides have moved on
	ss.confirm(s[0])           // a late datagram of the old one
	expect(10, 1, 3, 4, 5)
	ss.confirm(s[4])
	expect(0, 5)
	ss.confirm(s[0]) // evicted: changes nothing
	expect(0, 5)
	must(ss.add(s[5]))
	ss.drop(p)
	expect(0)
	p.cancel(ErrRemoved)
	if err := ss.add(s[6]); !errors.Is(err, ErrRemoved) {
		t.Errorf("session of a removed peer: %v", err)
	}
}

func BenchmarkBeat(b *testing.B) {
	beat := fullBeat()
	raw, err := beat.Encode()
	if err != nil {
		b.Fatal(err)
	}
	p := newPlan(b, "a", "b")
	nodes := p.startAll(b)
	meshed(b, nodes)
	b.Run("seal and send", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			nodes["a"].SendBeat("b", raw)
		}
	})
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		s, scratch := nodes["a"].roster.Load().byName["b"].beatTo.Load(), new(sealScratch)
		for b.Loop() {
			s.seal(scratch, raw)
		}
	})
	b.Run("receive", func(b *testing.B) { // after recvmsg, handler included
		b.ReportAllocs()
		s, scratch, open := nodes["a"].roster.Load().byName["b"].beatTo.Load(), new(sealScratch), new(openScratch)
		to := nodes["b"].Transport
		from := nodes["a"].own[0]
		for b.Loop() {
			to.datagram(to.sockets[0], open, s.seal(scratch, raw), from, 1)
		}
	})
}
