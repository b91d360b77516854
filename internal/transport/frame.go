package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Frame kinds of the transport itself, above those of callers.
const (
	kindHello   uint8 = 250
	kindReady   uint8 = 251
	kindRefusal uint8 = 252
	kindPing    uint8 = 253
	kindPong    uint8 = 254
)

const (
	frameHeader = 5
	// maxGreeting bounds a frame until the hello is accepted.
	maxGreeting = 4 << 10
	// writeChunk is how much is written under one write deadline, and how
	// much the writer gathers before it writes.
	writeChunk = 64 << 10
)

var errFrame = errors.New("frame malformed")

// maxPayload is the limit of a channel; 0 when there is no such channel.
func (ch Channel) maxPayload() int {
	switch ch {
	case Control:
		return MaxControlPayload
	case Bulk:
		return MaxBulkPayload
	}
	return 0
}

func (ch Channel) String() string {
	switch ch {
	case Control:
		return "control"
	case Bulk:
		return "bulk"
	}
	return fmt.Sprintf("channel(%d)", uint8(ch))
}

func appendFrameHeader(buf []byte, kind uint8, length int) []byte {
	return append(binary.BigEndian.AppendUint32(buf, uint32(length)), kind)
}

// frameReader reads frames whose length is checked before anything is
// allocated for them.
type frameReader struct {
	src   *idleReader
	br    *bufio.Reader
	limit int
}

func newFrameReader(conn net.Conn) *frameReader {
	src := &idleReader{conn: conn}
	return &frameReader{src: src, br: bufio.NewReaderSize(src, 16<<10), limit: maxGreeting}
}

func (r *frameReader) next() (kind uint8, payload []byte, err error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r.br, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read frame: %w", err)
	}
	length := binary.BigEndian.Uint32(head[:4])
	if uint64(length) > uint64(r.limit) {
		return 0, nil, fmt.Errorf("%w: %d bytes of kind %d, limit %d", errFrame, length, head[4], r.limit)
	}
	payload = make([]byte, length)
	if _, err := io.ReadFull(r.br, payload); err != nil {
		return 0, nil, fmt.Errorf("read frame of %d bytes: %w", length, err)
	}
	return head[4], payload, nil
}

// idleReader gives up when nothing at all arrives for the idle limit; 0 leaves
// deadlines to the caller.
type idleReader struct {
	conn net.Conn
	idle time.Duration
}

// Read waits twice for half the limit. After a stall of this process the first
// deadline has passed although data is there, and only a second look sees it
// (E7: sockets are drained before anything counts as missing).
func (r *idleReader) Read(p []byte) (int, error) {
	if r.idle == 0 {
		return r.conn.Read(p)
	}
	for range 2 {
		if err := r.conn.SetReadDeadline(time.Now().Add(r.idle / 2)); err != nil {
			return 0, err
		}
		n, err := r.conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	return 0, ErrIdle
}
