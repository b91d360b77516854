package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// ProtocolVersion is what this build speaks. Members of different versions
// refuse each other and say so.
const ProtocolVersion uint16 = 1

// Channel is one of the two connections that each pair of members shares.
type Channel uint8

// The channels. Control carries raft and small requests, Bulk what may be
// megabytes long and must not stand in front of them.
const (
	Control Channel = 1
	Bulk    Channel = 2
)

// Limits of a message's payload in bytes. They bound what one frame makes the
// receiver allocate; Send refuses more with ErrTooLarge.
const (
	// MaxControlPayload has room for a raft message with one entry of the
	// largest size, a transaction of 4 MiB and what is around it.
	MaxControlPayload = 6 << 20
	MaxBulkPayload    = 4 << 20
	// MaxBeatPayload is what fits a datagram of 1,400 bytes. An encoded Beat
	// (MaxBeatSize) is smaller.
	MaxBeatPayload = maxDatagram - beatOverhead
	// MaxKind is the highest kind that callers may use; 0 is none.
	MaxKind uint8 = 239
)

// Member is one entry of the member list.
type Member struct {
	Name      string
	PublicKey ed25519.PublicKey
	// Addresses are the member's paths, one or more, each a TCP and UDP
	// address of the same port. Neither wildcard nor zone is allowed.
	Addresses []netip.AddrPort
}

// Hello is what both sides tell each other on every new connection.
type Hello struct {
	Version     uint16   // 0 is filled with ProtocolVersion
	ClusterName string   // must be equal, at most 255 bytes
	ClusterID   [16]byte // must be equal when both are nonzero (F1a); zero before the founding
	Profile     string   // beat/promise/epsilon as "50ms/500ms/20ms", must be equal
	RaftID      uint64
	Incarnation uint64
	Members     [32]byte // digest of members and VIPs, for CheckHello
	Founded     bool
	Empty       bool
	Binary      string // version of the program, for status
}

// PeerEvent says that the control connection to a peer came up or went down,
// or, with a *RefusedError, that it was refused and never up. Beats are
// independent of it: they may arrive before Up and after Down.
type PeerEvent struct {
	Peer  string
	Up    bool
	Hello Hello // the peer's, as far as known
	Err   error // why it ended or was refused; nil when Up
}

// Handler gets everything that arrives. Its methods are called from transport
// goroutines, several at once for different peers and paths, and must not
// block nor call Close or SetMembers. Payloads belong to the handler.
type Handler interface {
	// OnMessage is called in order for one peer and channel. Nothing of an
	// older connection arrives after the OnPeer that reports a newer one.
	OnMessage(peer string, ch Channel, kind uint8, payload []byte)
	// OnBeat gets an authenticated datagram that was never seen before. path
	// is the index of the own address it came to; received is CLOCK_BOOTTIME
	// in ns, read after recvmsg returned (G8). A beat that was sent on two
	// paths arrives twice, once for each path.
	OnBeat(peer string, path int, payload []byte, received int64)
	// OnNote gets a datagram of the right size whose signature nobody has
	// checked yet, not more often than the limits allow.
	OnNote(raw []byte, from netip.AddrPort)
	// OnPeer is called in order for one peer.
	OnPeer(PeerEvent)
}

// Config describes one node's transport. All fields without a default are
// required.
type Config struct {
	Self    string             // own name, one of Members
	Key     ed25519.PrivateKey // must match Self's public key
	Members []Member           // all members, oneself included

	// Hello returns what to say; it is called once for each connection.
	Hello func() Hello
	// CheckHello may refuse a peer for reasons of the caller; its text is
	// told to the peer. nil accepts. It is called for both channels.
	CheckHello func(peer string, theirs Hello) error
	Handler    Handler
	NoteSize   int // exact size of a note in bytes (lease.NoteSize)
	Logger     *slog.Logger

	// HandshakeTimeout bounds connecting, TLS and hello together, on both
	// sides. Default 1 s.
	HandshakeTimeout time.Duration
	// PingInterval is the distance of pings on the control connection, which
	// measure RTT and keep it alive. Default 100 ms.
	PingInterval time.Duration
	// IdleLimit is the silence after which a control connection is given up
	// and dialled anew, on another path if need be. Beats do not depend on
	// it. Default 1 s, at least three pings. Bulk allows ten times as much.
	IdleLimit time.Duration
}

// Errors of Send and reasons in PeerEvent.Err.
var (
	ErrNotConnected = errors.New("peer not connected")
	ErrQueueFull    = errors.New("send queue full")
	ErrUnknownPeer  = errors.New("no such peer")
	ErrTooLarge     = errors.New("message too large")
	ErrBadKind      = errors.New("message kind reserved")
	ErrClosed       = errors.New("transport closed")
	ErrReplaced     = errors.New("replaced by a newer connection")
	ErrRemoved      = errors.New("peer removed from the member list")
	ErrIdle         = errors.New("peer silent for the idle limit")
	// ErrOwnEntry means that the own name, key or addresses cannot change
	// while running.
	ErrOwnEntry = errors.New("own member entry changed, restart needed")
)

const maxDatagram = 1400

// beatOverhead is header and tag.
const beatOverhead = beatHeader + 16

// Transport is one node's connections and sockets.
type Transport struct {
	cfg  Config
	log  *slog.Logger
	cert tls.Certificate
	own  []netip.AddrPort

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // listeners, sockets, connections being accepted
	done   chan struct{}  // closed when Run has ended

	mu      sync.Mutex // Run, Close and SetMembers
	started bool
	ended   bool

	listeners []net.Listener
	sockets   []*udpSocket // by index of the own address
	roster    atomic.Pointer[roster]
	sessions  sessions
	pending   pending
	accepts   *buckets
	notes     *noteFilter
	quiet     *quietLog

	refusedConns, handshakesFailed, malformed, unknownSession atomic.Uint64
	notesIn, notesDuplicate, notesLimited, notesSize          atomic.Uint64
}

// New checks the configuration and binds the sockets; nothing is sent or
// accepted before Run.
func New(cfg Config) (*Transport, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	self, err := checkMembers(cfg.Members, cfg.Self)
	if err != nil {
		return nil, err
	}
	if !self.PublicKey.Equal(cfg.Key.Public()) {
		return nil, fmt.Errorf("transport: %w: key file holds %s, the member list says %s", errOwnKey,
			EncodePublicKey(cfg.Key.Public().(ed25519.PublicKey)), EncodePublicKey(self.PublicKey))
	}
	t := &Transport{cfg: cfg, log: cfg.Logger, own: self.Addresses, done: make(chan struct{}),
		sessions: sessions{byID: map[uint64]*session{}, of: map[*peer][]*session{}},
		pending:  pending{sources: map[netip.Addr]int{}},
		accepts:  newBuckets(acceptRate, acceptBurst), notes: newNoteFilter(), quiet: newQuietLog(cfg.Logger)}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	if t.cert, err = certificate(cfg.Key); err != nil {
		return nil, err
	}
	for i, addr := range t.own {
		if err := t.bind(addr, i); err != nil {
			return nil, errors.Join(fmt.Errorf("transport: %w", err), t.Close())
		}
	}
	t.roster.Store(t.nextRoster(&roster{}, cfg.Members))
	return t, nil
}

func (t *Transport) bind(addr netip.AddrPort, index int) error {
	ln, err := openListener(addr)
	if err != nil {
		return err
	}
	t.listeners = append(t.listeners, ln)
	sock, err := openUDP(addr, index)
	if err != nil {
		return err
	}
	t.sockets = append(t.sockets, sock)
	return nil
}

// Run serves until ctx ends or Close is called, and returns after all its
// goroutines have ended. It may be called once.
func (t *Transport) Run(ctx context.Context) error {
	t.mu.Lock()
	if t.started || t.ended {
		t.mu.Unlock()
		return ErrClosed
	}
	t.started = true
	stop := context.AfterFunc(ctx, func() { t.cancel(ErrClosed) })
	for i := range t.own {
		t.wg.Go(func() { t.accept(t.listeners[i]) })
		t.wg.Go(func() { t.receive(t.sockets[i]) })
	}
	for _, p := range t.roster.Load().list {
		p.start()
	}
	t.mu.Unlock()

	<-t.ctx.Done()
	stop()
	t.mu.Lock() // no SetMembers starts anything from here on
	t.ended = true
	t.mu.Unlock()
	err := t.closeSockets()
	for _, p := range t.roster.Load().list {
		p.stop(ErrClosed)
	}
	t.wg.Wait()
	close(t.done)
	return err
}

// Close stops Run, waits for it, and closes the sockets. It may be called
// more than once.
func (t *Transport) Close() error {
	t.cancel(ErrClosed)
	t.mu.Lock()
	started, ended := t.started, t.ended
	t.ended = true
	t.mu.Unlock()
	if started {
		<-t.done
		return nil
	}
	if ended {
		return nil
	}
	return t.closeSockets()
}

func (t *Transport) closeSockets() error {
	var errs []error
	for _, ln := range t.listeners {
		errs = append(errs, ln.Close())
	}
	for _, s := range t.sockets {
		errs = append(errs, s.conn.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close sockets: %w", err)
	}
	return nil
}

// Send queues one message. It never blocks; the payload must not be changed
// afterwards. Errors: ErrUnknownPeer, ErrNotConnected, ErrQueueFull,
// ErrTooLarge, ErrBadKind. A nil error promises nothing about arrival.
func (t *Transport) Send(peer string, ch Channel, kind uint8, payload []byte) error {
	p := t.roster.Load().byName[peer]
	if p == nil {
		return fmt.Errorf("%w: %s", ErrUnknownPeer, peer)
	}
	if kind == 0 || kind > MaxKind {
		return fmt.Errorf("%w: %d", ErrBadKind, kind)
	}
	if limit := ch.maxPayload(); len(payload) > limit || limit == 0 {
		return fmt.Errorf("%w: %d bytes, limit %d on %v", ErrTooLarge, len(payload), limit, ch)
	}
	c := p.slot(ch).Load()
	if c == nil {
		return ErrNotConnected
	}
	err := c.send(frame{kind, payload})
	if err != nil {
		p.queueFull.Add(1)
	}
	return err
}

// SendBeat seals payload once for each path to peer and sends it without ever
// blocking. It returns how many datagrams the kernel took; failures are
// counted in Stats. 0 also means that there is no session yet. More than
// MaxBeatPayload bytes panic.
func (t *Transport) SendBeat(peer string, payload []byte) int {
	invariant.Check(len(payload) <= MaxBeatPayload, "beat of %d bytes, limit %d", len(payload), MaxBeatPayload)
	p := t.roster.Load().byName[peer]
	if p == nil {
		return 0
	}
	return p.sendBeat(payload)
}

// SendNote sends a raw note to every other member on every path and returns
// how many datagrams the kernel took.
func (t *Transport) SendNote(note []byte) int {
	sent := 0
	for _, p := range t.roster.Load().list {
		sent += p.sendNote(note)
	}
	return sent
}

// RTT returns the smoothed round trip of the control connection, 0 when never
// measured.
func (t *Transport) RTT(peer string) time.Duration {
	p := t.roster.Load().byName[peer]
	if p == nil {
		return 0
	}
	smooth, _ := p.rtt.values()
	return smooth
}

// RTTMax returns the longest round trip of about the last hundred pings, a
// stand-in for p99; 0 when never measured.
func (t *Transport) RTTMax(peer string) time.Duration {
	p := t.roster.Load().byName[peer]
	if p == nil {
		return 0
	}
	_, worst := p.rtt.values()
	return worst
}

// Connected says whether the control connection is up.
func (t *Transport) Connected(peer string) bool {
	p := t.roster.Load().byName[peer]
	return p != nil && p.control.Load() != nil
}

// LastHello returns the peer's newest accepted hello, also after its
// connection ended.
func (t *Transport) LastHello(peer string) (Hello, bool) {
	p := t.roster.Load().byName[peer]
	if p == nil {
		return Hello{}, false
	}
	h := p.hello.Load()
	if h == nil {
		return Hello{}, false
	}
	return *h, true
}
