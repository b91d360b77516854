package control

import (
	"context"
	"net"
	"sync"
)

// listener bounds the connections that are open at once and learns at accept
// who is calling.
type listener struct {
	unix   *net.UnixListener
	slots  chan struct{} // one element a connection
	closed chan struct{}
	once   sync.Once
}

func newListener(l *net.UnixListener, most int) *listener {
	return &listener{unix: l, slots: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept waits for a free slot, then for a caller.
func (l *listener) Accept() (*connection, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.unix.AcceptUnix()
	if err != nil {
		<-l.slots
		return nil, err
	}
	caller, err := peerOf(conn)
	return &connection{Conn: conn, peer: connected{caller: caller, err: err}, slots: l.slots}, nil
}

// Close ends Accept.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.unix.Close()
}

// Addr is that of the socket.
func (l *listener) Addr() net.Addr { return l.unix.Addr() }

// connection gives its slot back when it is closed.
type connection struct {
	net.Conn
	peer  connected
	ahead []byte // read already; one goroutine reads at a time
	slots chan struct{}
	once  sync.Once
}

// Read returns what was read ahead first.
func (c *connection) Read(p []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	c.ahead = nil
	return c.Conn.Read(p)
}

func (c *connection) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.slots })
	return err
}

// withCaller makes the caller known to the requests of a connection.
func withCaller(ctx context.Context, conn net.Conn) context.Context {
	c, ok := conn.(*connection)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, c.peer)
}
