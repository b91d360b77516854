package transport

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// Limits of a send queue. Frames bound bookkeeping, bytes bound memory; one
// message of the largest size always fits an empty queue.
const (
	controlQueueFrames, controlQueueBytes = 1024, 16 << 20
	bulkQueueFrames, bulkQueueBytes       = 64, 16 << 20
)

type frame struct {
	kind    uint8
	payload []byte
}

// conn is one authenticated connection whose hellos were accepted.
type conn struct {
	peer    *peer
	channel Channel
	tls     *tls.Conn
	frames  *frameReader
	hello   Hello // the peer's
	session *session
	remote  netip.AddrPort
	idle    time.Duration // also the write deadline
	ping    time.Duration

	queue      chan frame
	queueBytes atomic.Int64
	maxBytes   int64
	pongs      chan uint64 // pings to answer; more than fit are not answered

	closeOnce sync.Once
	closed    chan struct{}
	err       error         // why closed; read after closed
	readDone  chan struct{} // no more OnMessage from this connection
}

func newConn(p *peer, ch Channel, tc *tls.Conn, frames *frameReader, theirs Hello, s *session) *conn {
	c := &conn{peer: p, channel: ch, tls: tc, frames: frames, hello: theirs, session: s,
		remote: addrPort(tc.RemoteAddr()), idle: p.t.cfg.IdleLimit, ping: p.t.cfg.PingInterval,
		queue: make(chan frame, controlQueueFrames), maxBytes: controlQueueBytes, pongs: make(chan uint64, 4),
		closed: make(chan struct{}), readDone: make(chan struct{})}
	if ch == Bulk {
		c.queue, c.maxBytes = make(chan frame, bulkQueueFrames), bulkQueueBytes
		c.idle *= bulkPatience
		c.ping = c.idle / 5
	}
	frames.limit = ch.maxPayload()
	frames.src.idle = c.idle
	return c
}

// bulkPatience is how much longer bulk may be silent: it does not hold up
// elections, and its frames take long on slow lines.
const bulkPatience = 10

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// close ends the connection for the first reason given. It closes the TCP
// connection itself, because a TLS goodbye could block on a dead path.
func (c *conn) close(err error) {
	c.closeOnce.Do(func() {
		c.err = err
		close(c.closed)
		_ = c.tls.NetConn().Close() // the first reason is the one that counts
	})
}

// send queues a frame without blocking.
func (c *conn) send(f frame) error {
	size := int64(len(f.payload)) + frameHeader
	if c.queueBytes.Add(size) > c.maxBytes {
		c.queueBytes.Add(-size)
		return ErrQueueFull
	}
	select {
	case c.queue <- f:
		return nil
	default:
		c.queueBytes.Add(-size)
		return ErrQueueFull
	}
}

// read hands messages on until the connection ends.
func (c *conn) read() {
	defer close(c.readDone)
	agreed := c.session == nil
	for {
		kind, payload, err := c.frames.next()
		if err != nil {
			c.close(err)
			return
		}
		if !agreed {
			// The other side writes only after it has begun to send beats
			// under this session.
			c.peer.t.sessions.agree(c.session, clock.Boottime())
			agreed = true
		}
		if kind >= 1 && kind <= MaxKind {
			select {
			case <-c.closed: // replaced: what is still buffered is of the past
				return
			default:
			}
			c.peer.t.cfg.Handler.OnMessage(c.peer.name, c.channel, kind, payload)
			continue
		}
		if err := c.readOwn(kind, payload); err != nil {
			c.close(err)
			return
		}
	}
}

// readOwn handles the transport's own kinds.
func (c *conn) readOwn(kind uint8, payload []byte) error {
	if (kind != kindPing && kind != kindPong) || len(payload) != 8 {
		return fmt.Errorf("%w: kind %d with %d bytes after the hello", errFrame, kind, len(payload))
	}
	stamp := binary.BigEndian.Uint64(payload)
	if kind == kindPing {
		select {
		case c.pongs <- stamp:
		default: // the writer is stuck; the peer's idle limit decides
		}
		return nil
	}
	rtt := time.Duration(clock.Boottime() - int64(stamp))
	if c.channel == Control && rtt > 0 && rtt <= c.idle {
		c.peer.rtt.add(rtt)
	}
	return nil
}

// write sends what is queued until the connection is closed. Frames that wait
// together leave in one write.
func (c *conn) write() {
	ticker := time.NewTicker(c.ping)
	defer ticker.Stop()
	w := &batchWriter{conn: c.tls, patience: c.idle, buf: make([]byte, 0, writeChunk)}
	w.stamp(kindPing)
	for {
		if len(c.queue) == 0 || len(w.buf) >= writeChunk/2 {
			w.flush()
		}
		if w.err != nil {
			c.close(fmt.Errorf("write %s connection: %w", c.channel, w.err))
			return
		}
		select {
		case <-c.closed:
			return
		case f := <-c.queue:
			w.frame(f.kind, f.payload)
			c.queueBytes.Add(-int64(len(f.payload)) - frameHeader)
		case stamp := <-c.pongs:
			w.frame(kindPong, binary.BigEndian.AppendUint64(nil, stamp))
			w.flush() // a pong that waits for others would lie about the path
		case <-ticker.C:
			w.stamp(kindPing)
			w.flush()
		}
	}
}

// batchWriter gathers small frames; its first error is final.
type batchWriter struct {
	conn     net.Conn
	patience time.Duration // for each chunk
	buf      []byte
	err      error
}

func (w *batchWriter) stamp(kind uint8) {
	w.frame(kind, binary.BigEndian.AppendUint64(nil, uint64(clock.Boottime())))
}

func (w *batchWriter) frame(kind uint8, payload []byte) {
	w.buf = appendFrameHeader(w.buf, kind, len(payload))
	if len(w.buf)+len(payload) <= writeChunk {
		w.buf = append(w.buf, payload...)
		return
	}
	w.flush()
	for len(payload) > 0 {
		n := min(len(payload), writeChunk)
		w.chunk(payload[:n])
		payload = payload[n:]
	}
}

func (w *batchWriter) flush() {
	w.chunk(w.buf)
	w.buf = w.buf[:0]
}

func (w *batchWriter) chunk(b []byte) {
	if w.err != nil || len(b) == 0 {
		return
	}
	if w.err = w.conn.SetWriteDeadline(time.Now().Add(w.patience)); w.err != nil {
		return
	}
	_, w.err = w.conn.Write(b)
}

// errNoControl sends a bulk connection away until its control connection is
// there: together they belong to one run of the peer.
var errNoControl = errors.New("bulk connection without control connection of the same incarnation")
