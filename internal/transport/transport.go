package transport

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/netip"
	"time"
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
	MaxControlPayload = 1 << 20
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

// PeerEvent says that the control connection to a peer came up or went down.
// Beats are independent of it: they may arrive before Up and after Down.
type PeerEvent struct {
	Peer  string
	Up    bool
	Hello Hello // the peer's, of the connection that came up or ended
	Err   error // why it ended; nil when Up
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

const (
	maxDatagram  = 1400
	beatOverhead = 20 + 16
)

// Transport is one node's connections and sockets.
type Transport struct{ cfg Config }

// New checks the configuration and binds the sockets; nothing is sent or
// accepted before Run.
func New(cfg Config) (*Transport, error) { return &Transport{cfg: cfg}, errors.New("not built yet") }

// Run serves until ctx ends or Close is called, and returns after all its
// goroutines have ended. It may be called once.
func (t *Transport) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Close stops Run, waits for it, and closes the sockets. It may be called
// more than once.
func (t *Transport) Close() error { return nil }

// SetMembers replaces the member list while running. Connections and beat
// sessions of members whose key stays are kept, also when their addresses
// change. The own entry must not change (ErrOwnEntry).
func (t *Transport) SetMembers(members []Member) error { return nil }

// Send queues one message. It never blocks; the payload must not be changed
// afterwards. Errors: ErrUnknownPeer, ErrNotConnected, ErrQueueFull,
// ErrTooLarge, ErrBadKind. A nil error promises nothing about arrival.
func (t *Transport) Send(peer string, ch Channel, kind uint8, payload []byte) error {
	return ErrNotConnected
}

// SendBeat seals payload once for each path to peer and sends it without ever
// blocking. It returns how many datagrams the kernel took; failures are
// counted in Stats. 0 also means that there is no session yet.
func (t *Transport) SendBeat(peer string, payload []byte) int { return 0 }

// SendNote sends a raw note to every other member on every path and returns
// how many datagrams the kernel took.
func (t *Transport) SendNote(note []byte) int { return 0 }

// RTT returns the smoothed round trip of the control connection, 0 when never
// measured. RTTMax is the worst of about the last hundred.
func (t *Transport) RTT(peer string) time.Duration { return 0 }

// RTTMax returns the longest round trip of about the last hundred pings, a
// stand-in for p99; 0 when never measured.
func (t *Transport) RTTMax(peer string) time.Duration { return 0 }

// Connected says whether the control connection is up.
func (t *Transport) Connected(peer string) bool { return false }

// LastHello returns the peer's newest accepted hello, also after its
// connection ended.
func (t *Transport) LastHello(peer string) (Hello, bool) { return Hello{}, false }
