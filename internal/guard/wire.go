package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Guard and worker talk over one SOCK_SEQPACKET pair. Every packet is one JSON
// message; the kernel keeps packet bounds and order, and the end of either
// process is seen by the other as the end of the stream.

// maxPacket bounds one message in bytes, addresses of 64 VIPs and 15 members
// included.
const maxPacket = 64 << 10

// kind tells the messages apart.
type kind string

const (
	kindTestify  kind = "testify"  // worker: testament for its death, asks for an acknowledgement
	kindReady    kind = "ready"    // worker: serving
	kindStopping kind = "stopping" // worker: about to exit on purpose
	kindAck      kind = "ack"      // guard: the testament is stored
	kindStop     kind = "stop"     // guard: hand over, then exit
	kindReload   kind = "reload"   // guard: read the configuration again
	kindGate     kind = "gate"     // guard: gate attached on every interface, or not
)

// message is the one shape on the wire.
type message struct {
	Kind      kind       `json:"k"`
	Testament *Testament `json:"t,omitempty"`
	OK        bool       `json:"ok,omitempty"`
	Text      string     `json:"s,omitempty"`
}

// Address is a floating address and the interface that carries it.
type Address struct {
	Prefix    netip.Prefix `json:"p"`
	Interface string       `json:"i"`
}

// Testament is what the guard does in the worker's name after its death (G5):
// the `over` note that the worker signed for its own incarnation, whom to send
// it to, and which addresses to take off.
type Testament struct {
	Over      []byte           `json:"over"`
	Targets   []netip.AddrPort `json:"targets"`
	Addresses []Address        `json:"addresses"`
	// HangLimit is the longest time without a beat before the worker counts
	// as hung.
	HangLimit time.Duration `json:"hang"`
}

// conn is one end of the pair.
type conn struct {
	file *os.File
	mu   sync.Mutex // serializes writers; SEQPACKET keeps packets whole anyway
}

// pair makes the two connected ends: the guard's as a conn, the worker's as a
// file to inherit.
func pair() (*conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make guard socket pair: %w", err)
	}
	return &conn{file: os.NewFile(uintptr(fds[0]), "guard")}, os.NewFile(uintptr(fds[1]), "worker"), nil
}

// ErrBusy means that the other process has not read what was sent before.
var ErrBusy = errors.New("guard: peer does not read its messages")

// send writes one message and never blocks for longer than it takes the
// runtime to see that the socket is full.
func (c *conn) send(m message) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode guard message: %w", err)
	}
	if len(raw) > maxPacket {
		return fmt.Errorf("guard message of %d bytes exceeds %d", len(raw), maxPacket)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	rc, err := c.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("send to peer: %w", err)
	}
	var serr error
	err = rc.Write(func(fd uintptr) bool {
		serr = unix.Send(int(fd), raw, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true // full is the caller's to know, not to wait for
	})
	if err == nil {
		err = serr
	}
	if errors.Is(err, unix.EAGAIN) {
		return ErrBusy
	}
	if err != nil {
		return fmt.Errorf("send to peer: %w", err)
	}
	return nil
}

// receive blocks for the next message. It returns io.EOF (wrapped by os) once
// the peer is gone.
func (c *conn) receive(buf []byte) (message, error) {
	n, err := c.file.Read(buf)
	if err != nil {
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		return message{}, fmt.Errorf("decode guard message: %w", err)
	}
	return m, nil
}

func (c *conn) close() error { return c.file.Close() }
