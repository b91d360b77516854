package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Limits of a watch.
const (
	lineMax = 4 << 20
	// silenceMax is three times the distance of signs of life.
	silenceMax = 15 * time.Second
)

// Event is a change of a key.
type Event struct {
	Type    string    `json:"type"` // put, delete or expire
	Key     string    `json:"key"`
	Rev     uint64    `json:"rev"`     // changes of one transaction share it
	Value   []byte    `json:"value"`   // of a put
	Created uint64    `json:"created"` // of a put: revision at which the key came to be
	Expires time.Time `json:"expires"` // of a put, by the cluster's clock; zero is never
}

// WatchOptions select what a watch sees.
type WatchOptions struct {
	Prefix string // that the keys begin with
	From   uint64 // first revision: Page.Rev + 1 of a list; 0 is from now on
	Local  bool   // "now" is what the node of the socket has, which may be old
}

// Watcher is a watch. One goroutine at a time calls Next.
type Watcher struct {
	c              *Client
	ctx            context.Context
	cancel         context.CancelFunc
	bucket, prefix string
	local          bool
	failed         error

	// next is the first revision of which not everything was received; current
	// is the last one of which something was, and given how many of its events
	// the caller has got. A watch that is resumed begins with next, passed
	// counts what it repeats.
	next, current uint64
	given, passed int

	begun  bool
	stream *stream
	pause  backoff
}

// stream is a connection that a watch is read from.
type stream struct {
	conn    *conn
	lines   *bufio.Scanner
	release func() bool
}

// Watch sees the changes of a bucket. It returns when the watch is established:
// with From 0, everything that is written after that is seen. Failures that
// pass, such as failovers and restarts, do not end it: it goes on where it was,
// without gap or repetition. It ends with ctx, with Close, or when it was away
// for longer than the history lasts (code Compacted: list the bucket again).
func (c *Client) Watch(ctx context.Context, bucket string, o WatchOptions) (*Watcher, error) {
	w := &Watcher{c: c, bucket: bucket, prefix: o.Prefix, next: o.From, local: o.Local}
	w.ctx, w.cancel = context.WithCancel(ctx)
	if err := w.connect(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Close ends the watch, and a Next that waits.
func (w *Watcher) Close() { w.cancel() }

// Rev is the revision up to which the watch is complete: a new one from Rev+1
// goes on where this one is, once its events were taken. Not for use while Next
// runs.
func (w *Watcher) Rev() uint64 { return w.next - 1 }

// Next waits for the next change. After an error it returns the same again.
func (w *Watcher) Next() (Event, error) {
	for w.failed == nil {
		if w.stream == nil {
			if err := w.connect(); err != nil {
				return Event{}, w.fail(err)
			}
		}
		line, err := w.read()
		if err != nil {
			w.drop()
			if final := final(err); final != nil || w.c.once {
				return Event{}, w.fail(err)
			}
			if !w.pause.wait(w.ctx) {
				break
			}
			continue
		}
		w.pause = 0
		if w.take(line) {
			return line.Event, nil
		}
	}
	if w.failed == nil {
		w.failed = ended(w.ctx, nil)
	}
	return Event{}, w.failed
}

func (w *Watcher) fail(err error) error {
	w.drop()
	w.cancel()
	w.failed = err
	return err
}

// final returns the error if trying again makes no sense.
func final(err error) *Error {
	var e *Error
	if errors.As(err, &e) && !e.transient() {
		return e
	}
	return nil
}

// line is one line of a watch.
type line struct {
	Event
	Error *Error `json:"error"`
}

// take notes what was received and tells whether it is an event for the caller.
func (w *Watcher) take(l line) bool {
	if l.Type == "progress" {
		w.next = max(w.next, l.Rev+1)
		return false
	}
	if l.Rev < w.next {
		return false
	}
	if l.Rev > w.current {
		w.next, w.current, w.given, w.passed = l.Rev, l.Rev, 0, 0
	}
	w.passed++
	if w.passed <= w.given {
		return false
	}
	w.given++
	return true
}

// read reads one line; its errors are *Error.
func (w *Watcher) read() (line, error) {
	var l line
	if err := w.stream.conn.SetReadDeadline(time.Now().Add(silenceMax)); err != nil {
		return l, broken(err)
	}
	if w.ctx.Err() != nil { // the deadline may have replaced the one of its end
		return l, ended(w.ctx, nil)
	}
	if !w.stream.lines.Scan() {
		err := w.stream.lines.Err()
		if err == nil {
			err = errors.New("it ended the watch")
		}
		if w.ctx.Err() != nil {
			return l, ended(w.ctx, nil)
		}
		return l, broken(err)
	}
	if err := json.Unmarshal(w.stream.lines.Bytes(), &l); err != nil {
		return l, odd("event: %v", err)
	}
	if l.Error != nil {
		return l, l.Error
	}
	return l, nil
}

func (w *Watcher) drop() {
	if w.stream == nil {
		return
	}
	w.stream.release()
	_ = w.stream.conn.Close() // nothing is expected of it any more
	w.stream = nil
}

// connect begins the watch, or goes on with it, and waits for its first line.
func (w *Watcher) connect() error {
	var last *Error
	for {
		if w.ctx.Err() != nil {
			return ended(w.ctx, last)
		}
		e := w.open()
		if e == nil {
			l, err := w.read()
			if err == nil {
				w.take(l) // always progress: where it begins
				w.begun = true
				return nil
			}
			w.drop()
			if !errors.As(err, &e) {
				e = broken(err)
			}
		}
		waits := w.begun && e.Code == Unreachable && !w.c.once
		if last = e; w.c.lasts(e) && !waits {
			return e
		}
		if !w.pause.wait(w.ctx) {
			return ended(w.ctx, last)
		}
	}
}

func (w *Watcher) open() *Error {
	query := url.Values{}
	if w.prefix != "" {
		query.Set("prefix", w.prefix)
	}
	if w.next > 0 {
		query.Set("from", strconv.FormatUint(w.next, 10))
	}
	if w.local {
		query.Set("consistency", "local")
	}
	cn, unreached := w.c.pool.get(w.ctx, true)
	if unreached != nil {
		return unreached
	}
	release, err := cn.guard(w.ctx, tryTimeout)
	if err != nil {
		_ = cn.Close() // the error is told
		return broken(err)
	}
	s := &stream{conn: cn, release: release}
	if e := s.begin(withQuery("/v1/watch/"+url.PathEscape(w.bucket), query)); e != nil {
		release()
		_ = cn.Close() // the error is told
		return e
	}
	w.stream, w.passed = s, 0
	return nil
}

// begin sends the request and reads the head of the answer.
func (s *stream) begin(path string) *Error {
	if err := s.conn.send(&request{method: "GET", path: path}); err != nil {
		return broken(err)
	}
	response, err := http.ReadResponse(s.conn.r, nil)
	if err != nil {
		return broken(err)
	}
	s.lines = bufio.NewScanner(response.Body)
	s.lines.Buffer(make([]byte, 0, 4096), lineMax)
	if response.StatusCode == http.StatusOK {
		return nil
	}
	a := &answer{status: response.StatusCode}
	for s.lines.Scan() {
		a.body = append(a.body, s.lines.Bytes()...)
	}
	return a.failure()
}
