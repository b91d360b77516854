package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Limits of connections.
const (
	dialTimeout   = 5 * time.Second
	tryTimeout    = 15 * time.Second // the daemon gives up before that
	idleTimeout   = 30 * time.Second // the daemon's is 60 s
	answerMax     = 64 << 20         // bytes
	bodyMax       = 8 << 20          // the daemon takes no more
	mergeMax      = 64 << 10         // bodies that are sent together with the header
	keepBufferMax = 128 << 10
)

// The client speaks HTTP/1.1 itself instead of using http.Transport, whose two
// goroutines for each connection cost more than the request.

type header struct{ name, value string }

type request struct {
	method, path string
	headers      []header
	body         []byte
	write        bool
	open         bool // a try of this write may have happened, or may yet
}

// answer is a whole answer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// conn is a connection. One call at a time uses it.
type conn struct {
	net.Conn
	r     *bufio.Reader
	buf   []byte
	since time.Time // when it became idle
	old   bool      // was used before: the daemon may have closed it
}

// pool keeps idle connections, the newest last.
type pool struct {
	path string
	max  int

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

// get returns an idle connection, or with fresh a new one.
func (p *pool) get(ctx context.Context, fresh bool) (*conn, *Error) {
	var found *conn
	p.mu.Lock()
	if n := len(p.idle); n > 0 && !fresh {
		found = p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
	}
	p.mu.Unlock()
	if found != nil {
		if time.Since(found.since) < idleTimeout {
			return found, nil
		}
		_ = found.Close() // nothing was asked on it
	}
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "unix", p.path)
	if err != nil {
		return nil, dialError(p.path, err)
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 4096)}, nil
}

func dialError(path string, err error) *Error {
	var op *net.OpError
	cause := err
	if errors.As(err, &op) {
		cause = op.Err
	}
	e := &Error{Code: Unreachable, Message: fmt.Sprintf("reach daemon on %s: %v", path, cause), Hint: "is it running? systemctl status holdfast", cause: err}
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		e.Code, e.Hint = Forbidden, "run it as root, or as a member of the socket's group"
	}
	return e
}

// put takes a connection back.
func (p *pool) put(c *conn) {
	c.old, c.since = true, time.Now()
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < p.max
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		_ = c.Close() // its answer was read
	}
}

func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		_ = c.Close() // nothing was asked on it
	}
}

// past ends reads and writes at once when it is made a deadline.
var past = time.Unix(1, 0)

// guard makes the end of ctx, or of d if that is earlier, end what c does.
// release must be called; it tells whether c can be used further.
func (c *conn) guard(ctx context.Context, d time.Duration) (release func() bool, err error) {
	at := time.Now().Add(d)
	if end, ok := ctx.Deadline(); ok && end.Before(at) {
		at = end
	}
	if err := c.SetDeadline(at); err != nil {
		return nil, err
	}
	if ctx.Done() == nil {
		return func() bool { return true }, nil
	}
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(past) }), nil
}

// send writes a request.
func (c *conn) send(r *request) error {
	b := append(c.buf[:0], r.method...)
	b = append(b, ' ')
	b = append(b, r.path...)
	b = append(b, " HTTP/1.1\r\nHost: holdfast\r\n"...)
	for _, h := range r.headers {
		b = append(b, h.name...)
		b = append(b, ": "...)
		b = append(b, h.value...)
		b = append(b, "\r\n"...)
	}
	if r.method == "PUT" || r.method == "POST" || len(r.body) > 0 {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(r.body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	merged := len(r.body) <= mergeMax
	if merged {
		b = append(b, r.body...)
	}
	if cap(b) <= keepBufferMax {
		c.buf = b
	}
	if _, err := c.Write(b); err != nil || merged {
		return err
	}
	_, err := c.Write(r.body)
	return err
}

// check refuses what would break the framing of HTTP.
func (r *request) check() error {
	for _, h := range r.headers {
		if strings.ContainsAny(h.value, "\r\n\x00") {
			return &Error{Code: Invalid, Message: fmt.Sprintf("%s: line break in %q", h.name, h.value)}
		}
	}
	if len(r.body) > bodyMax {
		return &Error{Code: TooLarge, Message: fmt.Sprintf("body of %d bytes, at most %d are possible", len(r.body), bodyMax)}
	}
	return nil
}

// receive reads a whole answer; again tells whether c may be used again.
func (c *conn) receive() (a *answer, again bool, err error) {
	response, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, false, err
	}
	a = &answer{status: response.StatusCode, header: response.Header}
	switch n := response.ContentLength; {
	case n > answerMax:
		return nil, false, fmt.Errorf("answer of %d bytes", n)
	case n >= 0:
		a.body = make([]byte, n)
		_, err = io.ReadFull(response.Body, a.body)
	default:
		if a.body, err = io.ReadAll(io.LimitReader(response.Body, answerMax)); len(a.body) == answerMax {
			err = errors.New("answer without end")
		}
	}
	return a, err == nil && !response.Close, err
}
