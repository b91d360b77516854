package transport

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	testNoteSize = 111
	patience     = 20 * time.Second // of a condition; never waited for in full when all is well
)

var (
	hostBase = rand.Uint32()
	hostNext atomic.Uint32
	portNext atomic.Uint32
)

// testAddr returns an address of 127.0.0.0/8 of its own, so that tests in
// other processes do not meet it.
func testAddr() netip.AddrPort {
	n := hostBase + hostNext.Add(1)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(1 + n>>16%250), byte(n >> 8), byte(1 + n%250)}), 7400)
}

// testAddr6 returns ::1 with a port below the ephemeral ones.
func testAddr6() netip.AddrPort {
	return netip.AddrPortFrom(netip.IPv6Loopback(), uint16(10000+(hostBase+portNext.Add(1))%20000))
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond) // distance of polls, not a wait for anything
	}
}

type message struct {
	peer    string
	ch      Channel
	kind    uint8
	payload []byte
}

type beatSeen struct {
	peer    string
	path    int
	payload string
}

// recorder is a Handler that keeps everything.
type recorder struct {
	mu       sync.Mutex
	messages []message
	beats    []beatSeen
	notes    []string
	events   []PeerEvent
	onEvent  func(PeerEvent)
}

func (r *recorder) OnMessage(peer string, ch Channel, kind uint8, payload []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, message{peer, ch, kind, payload})
}

func (r *recorder) OnBeat(peer string, path int, payload []byte, received int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beats = append(r.beats, beatSeen{peer, path, string(payload)})
}

func (r *recorder) OnNote(raw []byte, _ netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, string(raw))
}

func (r *recorder) OnPeer(e PeerEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	if r.onEvent != nil {
		r.onEvent(e)
	}
}

func (r *recorder) allBeats() []beatSeen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.beats)
}

func (r *recorder) countBeats(match func(beatSeen) bool) int {
	n := 0
	for _, b := range r.allBeats() {
		if match(b) {
			n++
		}
	}
	return n
}

func (r *recorder) allMessages() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

func (r *recorder) allNotes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.notes)
}

func (r *recorder) allEvents() []PeerEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// logBuffer keeps log lines for tests to read.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) count(part string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.buf.String(), part)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// node is one running transport of a test.
type node struct {
	*Transport
	*recorder
	name string
	logs *logBuffer
	cfg  Config
}

// plan is what a test may change before the nodes start.
type plan struct {
	names   []string
	keys    map[string]ed25519.PrivateKey
	members map[string][]Member // the list as each node sees it
	hellos  map[string]Hello
	change  func(name string, cfg *Config)
}

func newPlan(t testing.TB, names ...string) *plan {
	t.Helper()
	p := &plan{names: names, keys: map[string]ed25519.PrivateKey{}, members: map[string][]Member{}, hellos: map[string]Hello{}}
	var list []Member
	for i, name := range names {
		pub, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		p.keys[name] = key
		list = append(list, Member{Name: name, PublicKey: pub, Addresses: []netip.AddrPort{testAddr()}})
		p.hellos[name] = Hello{ClusterName: "test", Profile: "50ms/500ms/20ms", RaftID: uint64(i + 1), Incarnation: uint64(100 + i), Binary: "test"}
	}
	for _, name := range names {
		p.members[name] = slices.Clone(list)
	}
	return p
}

// entry is viewer's entry for name, to be changed before start.
func (p *plan) entry(viewer, name string) *Member {
	for i := range p.members[viewer] {
		if p.members[viewer][i].Name == name {
			return &p.members[viewer][i]
		}
	}
	panic("no member " + name)
}

func (p *plan) everywhere(name string, addrs ...netip.AddrPort) {
	for _, viewer := range p.names {
		p.entry(viewer, name).Addresses = addrs
	}
}

func (p *plan) config(name string, logs io.Writer) Config {
	cfg := Config{Self: name, Key: p.keys[name], Members: p.members[name], NoteSize: testNoteSize,
		Hello: func() Hello { return p.hellos[name] }, Logger: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		// Generous, because other tests load the machine.
		HandshakeTimeout: 5 * time.Second, IdleLimit: 5 * time.Second}
	if p.change != nil {
		p.change(name, &cfg)
	}
	return cfg
}

func (p *plan) start(t testing.TB, name string) *node {
	t.Helper()
	n := &node{recorder: &recorder{}, name: name, logs: &logBuffer{}}
	n.cfg = p.config(name, n.logs)
	n.cfg.Handler = n.recorder
	tr, err := New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Transport = tr
	ran := make(chan error, 1)
	go func() { ran <- tr.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Errorf("close %s: %v", name, err)
		}
		if err := <-ran; err != nil && err != ErrClosed {
			t.Errorf("run %s: %v", name, err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, n.logs)
		}
	})
	return n
}

func (p *plan) startAll(t testing.TB) map[string]*node {
	t.Helper()
	nodes := map[string]*node{}
	for _, name := range p.names {
		nodes[name] = p.start(t, name)
	}
	return nodes
}

// meshed waits until all pairs have both connections and beat keys.
func meshed(t testing.TB, nodes map[string]*node) {
	t.Helper()
	for a, n := range nodes {
		for b := range nodes {
			if a != b {
				eventually(t, fmt.Sprintf("%s connected to %s", a, b), func() bool {
					s := n.peerStats(b)
					return s.Connected && s.BulkConnected && n.roster.Load().byName[b].beatTo.Load() != nil
				})
			}
		}
	}
}

func (n *node) peerStats(peer string) PeerStats {
	for _, s := range n.Stats().Peers {
		if s.Peer == peer {
			return s
		}
	}
	return PeerStats{}
}

// relay stands between two nodes on one address: it forwards TCP and one
// direction of UDP, and can record, hold back, kill and go silent.
type relay struct {
	addr   netip.AddrPort
	target netip.AddrPort
	ln     net.Listener
	udp    *net.UDPConn
	wg     sync.WaitGroup

	mu       sync.Mutex
	conns    []net.Conn
	recorded [][]byte
	hold     func(datagram []byte) bool // true: not forwarded
	silent   bool                       // TCP bytes go nowhere
	closed   bool
}

func newRelay(t testing.TB, target netip.AddrPort) *relay {
	t.Helper()
	r := &relay{addr: testAddr(), target: target}
	var err error
	if r.ln, err = net.Listen("tcp", r.addr.String()); err != nil {
		t.Fatal(err)
	}
	if r.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(r.addr)); err != nil {
		t.Fatal(err)
	}
	if err := r.udp.SetReadBuffer(receiveBuffer); err != nil {
		t.Fatal(err)
	}
	r.wg.Go(r.acceptTCP)
	r.wg.Go(r.forwardUDP)
	t.Cleanup(func() {
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		_, _ = r.ln.Close(), r.udp.Close()
		r.kill()
		r.wg.Wait()
	})
	return r
}

// connections counts those that it ever took.
func (r *relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns) / 2
}

func (r *relay) acceptTCP() {
	for {
		in, err := r.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.target.String())
		r.mu.Lock()
		if err != nil || r.closed {
			r.mu.Unlock()
			_ = in.Close()
			continue
		}
		r.conns = append(r.conns, in, out)
		r.mu.Unlock()
		r.wg.Go(func() { r.pipe(in, out) })
		r.wg.Go(func() { r.pipe(out, in) })
	}
}

func (r *relay) pipe(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		silent := r.silent
		r.mu.Unlock()
		if n > 0 && !silent {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *relay) forwardUDP() {
	buf := make([]byte, 2048)
	for {
		n, _, err := r.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		datagram := bytes.Clone(buf[:n])
		r.mu.Lock()
		r.recorded = append(r.recorded, datagram)
		hold := r.hold != nil && r.hold(datagram)
		r.mu.Unlock()
		if !hold {
			r.inject(datagram)
		}
	}
}

func (r *relay) inject(datagram []byte) {
	_, _ = r.udp.WriteToUDPAddrPort(datagram, r.target)
}

func (r *relay) kill() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.conns)
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
	return n
}

func (r *relay) setSilent(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = on
}

func (r *relay) setHold(hold func([]byte) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = hold
}

func (r *relay) tape() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.recorded)
}
