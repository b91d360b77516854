package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of connections with short requests.
const (
	goneEvery = 100 * time.Millisecond // looks whether a caller that waits is still there
	// deadlineSlack is by how much a limit of a connection may be exceeded:
	// setting deadlines anew for every request costs more than parsing it.
	deadlineSlack = 5 * time.Second
	keepBytesMax  = 64 << 10 // of an answer's buffer, between requests
	answerLimit   = failoverLimit + readTimeout
)

// short serves the short requests of one connection, one after the other, in
// one goroutine: what they share is used again for the next. The handler is
// that of net/http's requests too.
type short struct {
	conn    *connection
	raw     syscall.RawConn
	handler http.Handler
	log     *slog.Logger
	closing *atomic.Bool // the server is to stop

	busy   atomic.Bool // a request is being read or handled
	wait   wait
	cancel context.CancelFunc // ends wait
	look   *time.Timer        // calls lookAfter while watched
	// watched is true while look is set; it stays so from request to request.
	watched atomic.Bool

	buf        []byte // what was read
	start, end int    // of what is not used yet, in buf
	armed      time.Time
	head       head
	base       *http.Request // with wait, copied for every request
	request    *http.Request
	body       shortBody
	answer     shortAnswer
}

func newShort(conn *connection, handler http.Handler, log *slog.Logger, closing *atomic.Bool) (*short, error) {
	unixConn, ok := conn.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &short{
		conn: conn, raw: raw, handler: handler, log: log, closing: closing, request: new(http.Request),
		buf: make([]byte, headBytesMax), head: head{header: http.Header{}}, answer: shortAnswer{header: http.Header{}},
	}
	s.wait.Context, s.cancel = context.WithCancel(withCaller(context.Background(), conn))
	base := &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RemoteAddr: conn.RemoteAddr().String()}
	s.base = base.WithContext(&s.wait)
	s.body.s = s
	s.watched.Store(true)
	s.look = time.AfterFunc(goneEvery, s.lookAfter)
	return s, nil
}

// serve answers requests until the connection ends or one comes that is not
// short: then it returns what was read of that and what follows.
func (s *short) serve() (ahead []byte, hand bool) {
	defer func() {
		if p := recover(); p != nil { // as net/http does
			s.log.Error("control socket: panic", "panic", p, "stack", string(debug.Stack()))
			ahead, hand = nil, false
		}
		s.wait.until.Store(0)
		s.cancel()
	}()
	for {
		size, err := s.fill()
		if err != nil {
			return nil, false
		}
		unread := s.buf[s.start:s.end]
		if size == 0 || !s.head.parse(string(unread[:size])) {
			return unread, true
		}
		s.start += size
		if !s.do() {
			return nil, false
		}
	}
}

// fill returns the size of the head that what was read begins with; 0 when
// there is none after one more read.
func (s *short) fill() (int, error) {
	if err := s.arm(); err != nil {
		return 0, err
	}
	if size := s.headSize(); size > 0 {
		return size, nil
	}
	s.end = copy(s.buf, s.buf[s.start:s.end])
	s.start = 0
	if s.end == len(s.buf) {
		return 0, nil
	}
	s.busy.Store(false)
	if s.closing.Load() { // after arm: who closes sets the deadline again
		return 0, net.ErrClosed
	}
	n, err := s.conn.Read(s.buf[s.end:])
	s.busy.Store(true)
	s.end += n
	if err != nil && (s.end == 0 || !errors.Is(err, io.EOF)) {
		return 0, err
	}
	return s.headSize(), nil
}

func (s *short) headSize() int {
	if i := bytes.Index(s.buf[s.start:s.end], []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// arm bounds how long the next request may take to come, and its answer to be
// taken.
func (s *short) arm() error {
	now := time.Now()
	if now.Sub(s.armed) < deadlineSlack {
		return nil
	}
	s.armed = now
	return errors.Join(
		s.conn.SetReadDeadline(now.Add(idleTimeout+deadlineSlack)),
		s.conn.SetWriteDeadline(now.Add(answerLimit+idleTimeout+2*deadlineSlack)))
}

// do handles the request of s.head and tells whether there may be another.
func (s *short) do() bool {
	r, h := s.request, &s.head
	*r = *s.base
	r.Method, r.URL, r.RequestURI, r.Host = h.method, &h.url, h.target, h.host
	r.Header, r.ContentLength, r.Body = h.header, h.length, http.NoBody
	s.body.left, s.body.timed = h.length, false
	if h.length > 0 {
		r.Body = &s.body
	}
	s.answer.reset()
	s.watch()
	s.handler.ServeHTTP(&s.answer, r)
	s.wait.until.Store(0)
	if s.body.left > 0 { // the caller may hear nothing before it has sent all
		_, _ = io.Copy(io.Discard, &s.body)
	}
	again := s.body.left == 0 && s.wait.Err() == nil && !s.closing.Load()
	head, body := s.answer.encode(h.method, again)
	_, err := s.conn.Write(head)
	if err == nil && len(body) > 0 {
		_, err = s.conn.Write(body)
	}
	return err == nil && again
}

// wait is the context of the requests of a connection. It ends when the caller
// goes away or a request takes longer than it may, and the connection with it.
// A context with a timer for each request would cost more than parsing it.
type wait struct {
	context.Context
	until atomic.Int64 // deadline of the request that is being handled, ns since started; 0 is none
}

// started is what until counts from.
var started = time.Now()

// Deadline is that of the request; it is called while there is one.
func (w *wait) Deadline() (time.Time, bool) { return started.Add(time.Duration(w.until.Load())), true }

// bounded is context.WithTimeout for a context that may have a good deadline
// already.
func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if at, ok := ctx.Deadline(); ok && time.Until(at) <= limit {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// watch begins the time of a request.
func (s *short) watch() {
	limit := updateLimit
	if s.head.method == http.MethodGet || s.head.method == http.MethodHead {
		limit = viewLimit
	}
	s.wait.until.Store(int64(time.Since(started) + limit))
	if !s.watched.Swap(true) {
		s.look.Reset(goneEvery)
	}
}

// lookAfter ends what a caller waits for when it has gone away, or waits for
// too long.
func (s *short) lookAfter() {
	until := s.wait.until.Load()
	if until == 0 {
		s.watched.Store(false)
		if s.wait.until.Load() == 0 || s.watched.Swap(true) {
			return // with the next request, which may be setting it now
		}
	} else if int64(time.Since(started)) > until || gone(s.raw) {
		s.cancel()
		return
	}
	s.look.Reset(goneEvery)
}

// gone tells whether the other side has closed the connection, without reading
// what it may have sent.
func gone(raw syscall.RawConn) bool {
	var n int
	var err error
	if e := raw.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}); e != nil {
		return true
	}
	if err != nil {
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	}
	return n == 0
}

// shortBody reads the body of a request.
type shortBody struct {
	s     *short
	left  int64
	timed bool // the read deadline is that of this body
}

// Read takes what came with the head first.
func (b *shortBody) Read(p []byte) (n int, err error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	s := b.s
	p = p[:min(int64(len(p)), b.left)]
	if s.start < s.end {
		n = copy(p, s.buf[s.start:s.end])
		s.start += n
	} else {
		if !b.timed {
			b.timed, s.armed = true, time.Time{}
			if err := s.conn.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
				return 0, err
			}
		}
		n, err = s.conn.Read(p)
	}
	b.left -= int64(n)
	if b.timed && b.left == 0 && s.wait.until.Load() != 0 {
		s.watch() // the time that a body may take is apart
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close does nothing: what is left is read after the handler.
func (b *shortBody) Close() error { return nil }

// shortAnswer is an answer, which is sent when it is whole.
type shortAnswer struct {
	header http.Header
	status int
	body   []byte
	out    []byte
	names  []string
	second int64  // of date
	date   []byte // the header, with its end of line
}

func (a *shortAnswer) reset() {
	clear(a.header)
	a.status = 0
	if cap(a.body) > keepBytesMax {
		a.body = nil
	}
	a.body = a.body[:0]
}

func (a *shortAnswer) Header() http.Header { return a.header }

func (a *shortAnswer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *shortAnswer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.body = append(a.body, b...)
	return len(b), nil
}

// encode returns the bytes to be sent: small bodies with the head, large ones
// apart. The order of the headers is that of net/http.
func (a *shortAnswer) encode(method string, again bool) (head, body []byte) {
	a.WriteHeader(http.StatusOK)
	if !again {
		a.header["Connection"] = []string{"close"}
	}
	b := append(a.out[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(a.status)...)
	if _, ok := a.header["Content-Length"]; !ok {
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(a.body)), 10)
	}
	b = append(b, "\r\n"...)
	a.names = a.names[:0]
	for name := range a.header {
		a.names = append(a.names, name)
	}
	slices.Sort(a.names)
	for _, name := range a.names {
		for _, value := range a.header[name] {
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, value...)
			b = append(b, "\r\n"...)
		}
	}
	if now := time.Now(); now.Unix() != a.second || a.date == nil {
		a.second = now.Unix()
		a.date = append(now.UTC().AppendFormat(append(a.date[:0], "Date: "...), http.TimeFormat), "\r\n\r\n"...)
	}
	b = append(b, a.date...)
	switch {
	case method == http.MethodHead:
	case len(a.body) <= keepBytesMax/2:
		b = append(b, a.body...)
	default:
		body = a.body
	}
	a.out = b
	return b, body
}
