package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func dialTCP(t testing.TB, to netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestWrongKey(t *testing.T) {
	stranger, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for viewer, other := range map[string]string{"a": "b", "b": "a"} {
		t.Run(viewer+" lists another key", func(t *testing.T) {
			p := newPlan(t, "a", "b")
			p.entry(viewer, other).PublicKey = stranger
			nodes := p.startAll(t)
			eventually(t, "dialer says so", func() bool { return nodes["a"].logs.count("key") > 0 })
			eventually(t, "many attempts", func() bool { return nodes["b"].Stats().HandshakesFailed >= 4 })
			if viewer == "b" && nodes["b"].logs.count(EncodePublicKey(p.keys["a"].Public().(ed25519.PublicKey))) != 1 {
				t.Error("listener does not name the key once")
			}
			for n, o := range map[string]string{"a": "b", "b": "a"} {
				if len(nodes[n].allEvents()) != 0 || nodes[n].SendBeat(o, nil) != 0 {
					t.Errorf("%s has something to do with %s", n, o)
				}
			}
		})
	}
}

// rawTLS speaks TLS with the key of one member of the plan.
func (p *plan) rawTLS(t testing.TB, as string, to netip.AddrPort, change func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	cert, err := certificate(p.keys[as])
	if err != nil {
		t.Fatal(err)
	}
	cfg := baseTLS(cert, nil)
	if change != nil {
		change(cfg)
	}
	conn := tls.Client(dialTCP(t, to), cfg)
	t.Cleanup(func() { _ = conn.NetConn().Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn, conn.Handshake()
}

// refusedTLS holds when the server ends the connection without a word of ours.
func refusedTLS(conn *tls.Conn, err error) bool {
	if err != nil {
		return true
	}
	n, err := conn.Read(make([]byte, 1))
	return n == 0 && err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func TestTLSIsExact(t *testing.T) {
	p := newPlan(t, "a", "b", "c")
	b := p.start(t, "b")
	cache := tls.NewLRUClientSessionCache(4)
	refused := map[string]struct {
		as     string
		change func(*tls.Config)
	}{
		"TLS 1.2":        {"a", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		"no certificate": {"a", func(c *tls.Config) { c.Certificates = nil }},
		"no ALPN":        {"a", func(c *tls.Config) { c.NextProtos = nil }},
		"other ALPN":     {"a", func(c *tls.Config) { c.NextProtos = []string{"h2"} }},
		"own key":        {"b", nil},
		"higher name":    {"c", nil}, // b has to dial c
	}
	for name, c := range refused {
		if conn, err := p.rawTLS(t, c.as, b.own[0], c.change); !refusedTLS(conn, err) {
			t.Errorf("%s was accepted", name)
		}
	}
	for range 2 {
		conn, err := p.rawTLS(t, "a", b.own[0], func(c *tls.Config) { c.ClientSessionCache, c.ServerName = cache, "x" })
		if err != nil {
			t.Fatal(err)
		}
		if conn.ConnectionState().DidResume {
			t.Error("session was resumed")
		}
		hello := p.hellos["a"]
		hello.Version = ProtocolVersion
		if err := sendHello(conn, hello, Control); err != nil {
			t.Fatal(err)
		}
		if kind, _, err := newFrameReader(conn).next(); kind != kindHello || err != nil {
			t.Errorf("hello was answered by kind %d, %v", kind, err)
		}
	}
	if len(b.allEvents()) != 0 {
		t.Errorf("events without ready: %+v", b.allEvents())
	}
}

// A member's key does not make frames welcome that break the limits.
func TestFramesBeyondLimits(t *testing.T) {
	greeted := func(t *testing.T, p *plan, b *node, ch Channel) *tls.Conn {
		conn, err := p.rawTLS(t, "a", b.own[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		hello := p.hellos["a"]
		hello.Version = ProtocolVersion
		if err := sendHello(conn, hello, ch); err != nil {
			t.Fatal(err)
		}
		if kind, _, err := newFrameReader(conn).next(); kind != kindHello || err != nil {
			t.Fatalf("hello was answered by kind %d, %v", kind, err)
		}
		if err := writeFrame(conn, kindReady, nil); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	head := func(kind uint8, length int) []byte { return appendFrameHeader(nil, kind, length) }
	hello, _ := Hello{Version: ProtocolVersion}.encode(Channel(9))
	cases := map[string]struct {
		ready bool
		raw   []byte
	}{
		"long hello":             {false, head(kindHello, maxGreeting+1)},
		"endless hello":          {false, head(kindHello, 1<<32-1)},
		"short hello":            {false, append(head(kindHello, 3), 0, 1, 1)},
		"message before hello":   {false, append(head(1, 1), 0)},
		"hello for no channel":   {false, append(head(kindHello, len(hello)), hello...)},
		"control over its limit": {true, head(1, MaxControlPayload+1)},
		"control of 4 GiB":       {true, head(1, 1<<32-1)},
		"second hello":           {true, append(head(kindHello, len(hello)), hello...)},
		"kind zero":              {true, head(0, 0)},
		"reserved kind":          {true, head(MaxKind+1, 0)},
		"ping of the wrong size": {true, append(head(kindPing, 7), make([]byte, 7)...)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPlan(t, "a", "b")
			b := p.start(t, "b")
			var conn *tls.Conn
			var err error
			if c.ready {
				conn = greeted(t, p, b, Control)
				eventually(t, "a is up", func() bool { return b.Connected("a") })
			} else if conn, err = p.rawTLS(t, "a", b.own[0], nil); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := conn.Write(c.raw); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("connection stayed open")
			}
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 2<<20 {
				t.Errorf("allocated %d bytes", grown)
			}
			eventually(t, "a is down", func() bool { return !b.Connected("a") })
			if len(b.allMessages()) != 0 {
				t.Error("a message came through")
			}
		})
	}
}

// scan comes 400 times, each from another address, with a port scan, random
// bytes, a slow hello or half of one, and returns what is still open.
func scan(t *testing.T, to netip.AddrPort, junk []byte) (held []net.Conn) {
	t.Helper()
	clientHello := []byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc} // a record of 16 KiB that never ends
	for i := range 400 {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(testAddr().Addr(), 0))}
		conn, err := d.Dial("tcp", to.String())
		if errors.Is(err, syscall.ECONNRESET) { // dropped before Dial had looked
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		switch i % 4 {
		case 0:
			_ = conn.Close()
			continue
		case 1:
			_, _ = conn.Write(junk[:1+i*100])
		case 2:
			_, _ = conn.Write(clientHello[:1+i%8])
		case 3:
			_, _ = conn.Write(append(clientHello, junk[:8<<10]...))
		}
		held = append(held, conn)
	}
	return held
}

// Port scans, random bytes, slow and silent strangers, junk datagrams: all are
// dropped, memory stays, few lines are logged, and members get in meanwhile.
func TestStrangers(t *testing.T) {
	p := newPlan(t, "a", "b")
	p.change = func(name string, cfg *Config) { cfg.HandshakeTimeout = 2 * time.Second }
	b := p.start(t, "b")
	to := b.own[0]
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	junk := make([]byte, 64<<10)
	_, _ = rand.Read(junk)
	held := scan(t, to, junk)
	if n := b.pendingCount(); n > maxPendingStrangers {
		t.Errorf("%d strangers are being waited for, limit %d", n, maxPendingStrangers)
	}
	udp, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	for i := range 2000 {
		datagram := junk[i : i+1+i%1500]
		if i%3 == 0 { // of the right form, of a session that is not
			datagram = append([]byte(beatMagic), junk[i:i+100]...)
		}
		_, _ = udp.Write(datagram)
	}

	a := p.start(t, "a") // a member's address has its own places
	meshed(t, map[string]*node{"a": a, "b": b})

	for _, conn := range held { // slow ones are cut off by the deadline
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a stranger's connection stayed open")
		}
		_ = conn.Close()
	}
	eventually(t, "no place is taken", func() bool { return b.pendingCount() == 0 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	s := b.Stats()
	if s.Refused == 0 || s.HandshakesFailed == 0 || s.Malformed == 0 || s.UnknownSession == 0 {
		t.Errorf("not counted: %+v", s)
	}
	if lines := strings.Count(b.logs.String(), "\n"); lines > maxQuiet+100 {
		t.Errorf("%d lines logged", lines)
	}
	if len(b.allBeats())+len(b.allNotes()) != 0 {
		t.Error("junk reached the handler")
	}
}

// One source logs once a minute for each cause, however often it comes.
func TestStrangerIsLoggedOnce(t *testing.T) {
	p := newPlan(t, "a", "b")
	b := p.start(t, "b")
	for range 20 {
		conn := dialTCP(t, b.own[0])
		_, _ = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	eventually(t, "20 failures", func() bool { return b.Stats().HandshakesFailed == 20 })
	if n := b.logs.count("connection dropped"); n != 1 {
		t.Errorf("%d lines:\n%s", n, b.logs)
	}
}

// linked starts a and b with a relay on b's only address; beats of a pass it.
func linked(t testing.TB) (a, b *node, r *relay) {
	t.Helper()
	p := newPlan(t, "a", "b")
	r = newRelay(t, p.entry("b", "b").Addresses[0])
	p.entry("a", "b").Addresses = []netip.AddrPort{r.addr}
	nodes := p.startAll(t)
	meshed(t, nodes)
	return nodes["a"], nodes["b"], r
}

func number(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

func TestReplayedDatagramsAreDropped(t *testing.T) {
	a, b, r := linked(t)
	const count = 300
	for i := range count {
		a.SendBeat("b", number(i))
		eventually(t, "beat arrives", func() bool { return len(b.allBeats()) == i+1 })
	}
	tape := r.tape()
	for range 2 {
		for _, datagram := range tape {
			before := b.peerStats("a").ReplayDrops
			r.inject(datagram)
			eventually(t, "replay is counted", func() bool { return b.peerStats("a").ReplayDrops == before+1 })
		}
	}
	if n := len(b.allBeats()); n != count {
		t.Errorf("%d beats for %d sent", n, count)
	}
	if n := b.logs.count("replayed beat"); n != 1 {
		t.Errorf("logged %d times", n)
	}

	// A datagram of an ended session is nobody's (a restart replaces keys).
	r.kill()
	first := a.peerStats("b").Connects
	eventually(t, "a new session is in use", func() bool {
		a.SendBeat("b", number(count))
		return a.peerStats("b").Connects > first && b.sessionCount() == 1
	})
	before := b.Stats().UnknownSession
	r.inject(tape[0])
	eventually(t, "old datagram is unknown", func() bool { return b.Stats().UnknownSession > before })
}

func (n *node) sessionCount() int {
	n.sessions.mu.RLock()
	defer n.sessions.mu.RUnlock()
	return len(n.sessions.byID)
}

// Covers F2.2 of the security notes: every bit of a datagram is authentic.
func TestTamperedDatagramsAreDropped(t *testing.T) {
	a, b, r := linked(t)
	r.setHold(func([]byte) bool { return true })
	a.SendBeat("b", []byte("hold e"))
	eventually(t, "a datagram is held", func() bool { return len(r.tape()) == 1 })
	good := r.tape()[0]
	sent := uint64(0)
	for i := range good {
		for bit := range 8 {
			bad := append([]byte(nil), good...)
			bad[i] ^= 1 << bit
			r.inject(bad)
			sent++
		}
		eventually(t, "the drops of a byte are counted", func() bool { // and no receive buffer overflows
			s := b.Stats()
			return b.peerStats("a").AuthFailures+s.UnknownSession+s.Malformed == sent
		})
	}
	for n := range len(good) {
		r.inject(good[:n])
	}
	r.inject(append(append([]byte(nil), good...), 0))
	if len(b.allBeats()) != 0 {
		t.Fatal("a tampered datagram was taken")
	}
	r.inject(good) // forged counters have not moved the window
	eventually(t, "the true one is taken", func() bool { return len(b.allBeats()) == 1 })
	if n := b.logs.count("forged beat"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// A datagram of a's to b is none of b's to a: each direction has its own key.
func TestReflectedDatagramIsDropped(t *testing.T) {
	a, b, r := linked(t)
	a.SendBeat("b", []byte("x"))
	eventually(t, "beat arrives", func() bool { return len(b.allBeats()) == 1 })
	_, _ = r.udp.WriteToUDPAddrPort(r.tape()[0], a.own[0])
	eventually(t, "reflection is a failure", func() bool { return a.peerStats("b").AuthFailures == 1 })
	if len(a.allBeats()) != 0 {
		t.Error("reflected beat was taken")
	}
}

func TestReorderInsideAndOutsideTheWindow(t *testing.T) {
	a, b, r := linked(t)
	held := 0
	r.setHold(func([]byte) bool { held++; return held <= 2 }) // counters 0 and 1
	// b's counters run on to windowSize, then one further.
	target := 0
	send := func(upto int) {
		for ; target < upto; target++ {
			a.SendBeat("b", number(target))
			if target%64 == 63 || target == upto-1 { // never more than the buffers hold
				want := max(target+1-2, 0)
				eventually(t, "beats arrive", func() bool { return b.peerStats("a").DatagramsIn >= uint64(want) })
			}
		}
	}
	send(windowSize + 2) // newest counter is windowSize+1
	tape := r.tape()
	r.inject(tape[1]) // exactly windowSize behind: still inside
	eventually(t, "old beat inside the window", func() bool { return len(b.allBeats()) == windowSize+1 })
	r.inject(tape[0]) // one further
	eventually(t, "old beat outside the window", func() bool { return b.peerStats("a").ReplayDrops == 1 })
	if n := len(b.allBeats()); n != windowSize+1 {
		t.Errorf("%d beats", n)
	}
}

// Counters against a map that remembers everything.
func TestWindowAgainstAMap(t *testing.T) {
	for seed := range 20 {
		var w window
		rng := newRand(seed)
		seen := map[uint64]bool{}
		newest := uint64(0)
		for range 20000 {
			c := newest + 40
			c -= min(c, uint64(rng.IntN(windowSize+200)))
			if rng.IntN(500) == 0 {
				c = newest + uint64(rng.IntN(3*windowSize)) // a jump
			}
			want := !seen[c] && (c >= newest || newest-c <= windowSize)
			if got := w.accept(c); got != want {
				t.Fatalf("seed %d: accept(%d) with newest %d = %v, want %v", seed, c, newest, got, want)
			}
			if want {
				seen[c], newest = true, max(newest, c)
			}
		}
	}
}
