package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Pauses after an accept that failed for want of something.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// front takes connections, serves their short requests itself and hands a
// connection to net/http with the first request that is another. To net/http
// it is a listener.
type front struct {
	listener *listener
	handler  http.Handler
	log      *slog.Logger
	handed   chan net.Conn
	closed   chan struct{} // net/http takes no more
	once     sync.Once
	closing  atomic.Bool

	mu     sync.Mutex
	shorts map[*short]struct{}
	served sync.WaitGroup // of shorts; added to with mu, never after closing
}

var _ net.Listener = (*front)(nil)

func newFront(l *listener, handler http.Handler, log *slog.Logger) *front {
	return &front{listener: l, handler: handler, log: log, handed: make(chan net.Conn), closed: make(chan struct{}), shorts: map[*short]struct{}{}}
}

// Accept returns the next connection that is for net/http.
func (f *front) Accept() (net.Conn, error) {
	select {
	case conn := <-f.handed:
		return conn, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (f *front) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

// Addr is that of the socket.
func (f *front) Addr() net.Addr { return f.listener.Addr() }

// run takes connections until the listener is closed.
func (f *front) run() error {
	pause := acceptPauseMin
	for {
		conn, err := f.listener.Accept()
		switch {
		case err == nil:
			pause = acceptPauseMin
			f.take(conn)
		case f.closing.Load() || errors.Is(err, net.ErrClosed):
			return nil
		case lacking(err):
			f.log.Warn("control socket: accept failed, will be tried again", "error", err, "pause", pause)
			time.Sleep(pause)
			pause = min(2*pause, acceptPauseMax)
		default:
			return err
		}
	}
}

// lacking tells whether a failed accept may be repeated.
func lacking(err error) bool {
	for _, errno := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// take serves a connection.
func (f *front) take(conn *connection) {
	s, err := newShort(conn, f.handler, f.log, &f.closing)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || f.closing.Load() {
		_ = conn.Close() // nothing was read or written
		return
	}
	f.shorts[s] = struct{}{}
	f.served.Go(func() {
		ahead, hand := s.serve()
		f.mu.Lock()
		delete(f.shorts, s)
		f.mu.Unlock()
		if !hand || !f.hand(conn, ahead) {
			_ = conn.Close() // all that was to be sent was, or nobody reads it
		}
	})
}

// hand gives a connection to net/http.
func (f *front) hand(conn *connection, ahead []byte) bool {
	if conn.SetDeadline(time.Time{}) != nil {
		return false
	}
	conn.ahead = ahead
	select {
	case f.handed <- conn:
		return true
	case <-f.closed:
		return false
	}
}

// shutdown takes no more connections, lets answers finish until ctx ends and
// closes what is open then.
func (f *front) shutdown(ctx context.Context) {
	f.mu.Lock()
	f.closing.Store(true)
	for s := range f.shorts {
		if !s.busy.Load() {
			_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // it ends by itself where that fails
		}
	}
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		f.served.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.shorts {
		s.cancel()
		_ = s.conn.Close() // its answer comes too late
	}
}
