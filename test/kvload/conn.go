package kvload

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Refused is an answer by which a request was not and will not be executed.
type Refused struct {
	Code    string // of the contract; "unreachable" for a socket that nobody serves
	Message string
}

func (e *Refused) Error() string { return e.Code + ": " + e.Message }

// ErrUnknown is wrapped by errors after which a request may have been
// executed, or may be later.
var ErrUnknown = errors.New("outcome unknown")

// Code returns the code of a refusal, "" for other errors.
func Code(err error) string {
	var r *Refused
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

const (
	unreachable  = "unreachable"
	removed      = "forbidden"     // the member is none any more
	attemptLimit = 4 * time.Second // of one request
	answerLimit  = 64 << 20        // bytes
	firstPause   = 5 * time.Millisecond
	longestPause = 200 * time.Millisecond
)

// Conn is a client of the cluster through one or more members. Its methods may
// be called from any goroutine.
type Conn struct {
	// Retry repeats a request whose outcome is unknown, or that found no
	// quorum, nobody at all or one who is no member any more, under the same
	// request id, at the next member, until the context ends.
	Retry bool

	sockets []string
	http    []*http.Client
	at      atomic.Uint32
	id      string
	serial  atomic.Uint64
}

// Dial makes a client of the members with these control sockets. It connects
// with the first request.
func Dial(sockets ...string) *Conn {
	c := &Conn{sockets: sockets, id: rand.Text()}
	for _, s := range sockets {
		c.http = append(c.http, &http.Client{Transport: &http.Transport{
			MaxIdleConnsPerHost: 64,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", s)
			},
		}})
	}
	return c
}

// Retrying returns a client of the same members with Retry.
func (c *Conn) Retrying() *Conn {
	return &Conn{Retry: true, sockets: c.sockets, http: c.http, id: rand.Text()}
}

// Close gives the idle connections up.
func (c *Conn) Close() {
	for _, h := range c.http {
		h.CloseIdleConnections()
	}
}

// reply is a whole answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request, again and again with Retry. A write gets a request id.
func (c *Conn) do(ctx context.Context, method, path string, header map[string]string, body []byte, write bool) (reply, error) {
	id := ""
	if write {
		id = fmt.Sprintf("%s-%d", c.id, c.serial.Add(1))
	}
	unknown := false
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		n := c.at.Load()
		r, err := c.attempt(ctx, int(n)%len(c.http), method, path, header, body, id)
		unknown = unknown || errors.Is(err, ErrUnknown)
		again := errors.Is(err, ErrUnknown) || Code(err) == "no_quorum" || Code(err) == unreachable || Code(err) == removed
		if again {
			c.at.CompareAndSwap(n, n+1)
		}
		if unknown && Code(err) == "disk_full" {
			return r, openStill(err)
		}
		if !again || !c.Retry {
			return r, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			if unknown && !errors.Is(err, ErrUnknown) {
				err = openStill(err)
			}
			return r, err
		}
	}
}

// openStill is the error of a request whose earlier try got no answer and
// whose last was not even looked at: the earlier may still be executed.
func openStill(last error) error {
	return fmt.Errorf("%w: an earlier try got no answer, the last: %s", ErrUnknown, last.Error())
}

func (c *Conn) attempt(ctx context.Context, n int, method, path string, header map[string]string, body []byte, id string) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, bytes.NewReader(body))
	if err != nil {
		return reply{}, fmt.Errorf("make request: %w", err)
	}
	// Nobody but Retry repeats a request: the transport would, otherwise.
	req.GetBody = nil
	for k, v := range header {
		req.Header.Set(k, v)
	}
	if id != "" {
		req.Header.Set("Holdfast-Request-Id", id)
	}
	resp, err := c.http[n].Do(req)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return reply{}, &Refused{Code: unreachable, Message: err.Error()}
	}
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return reply{}, fmt.Errorf("%w: read answer: %w", ErrUnknown, err)
	}
	r := reply{resp.StatusCode, resp.Header, raw}
	if r.status < 300 {
		return r, nil
	}
	var failure struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(raw, &failure); err != nil || failure.Error.Code == "" {
		return r, fmt.Errorf("%w: HTTP %d with %q", ErrUnknown, r.status, raw)
	}
	if failure.Error.Code == "timeout" || failure.Error.Code == "internal" {
		return r, fmt.Errorf("%w: %s: %s", ErrUnknown, failure.Error.Code, failure.Error.Message)
	}
	return r, &Refused{Code: failure.Error.Code, Message: failure.Error.Message}
}

// Item is a key as a get finds it.
type Item struct {
	Found bool
	Value string
	Rev   uint64 // of its last change
}

// Cond is a condition on the key of a write: Rev > 0 its revision, Absent that
// it is not there; the zero Cond is none.
type Cond struct {
	Rev    uint64
	Absent bool
}

func (c Cond) header(h map[string]string) map[string]string {
	if c.Rev > 0 {
		h["If-Match"] = strconv.Quote(strconv.FormatUint(c.Rev, 10))
	}
	if c.Absent {
		h["If-None-Match"] = "*"
	}
	return h
}

func keyPath(bucket, key string) string {
	return "/v1/kv/" + url.PathEscape(bucket) + "/" + url.PathEscape(key)
}

// Get reads a key; with local as it is on the member that is asked.
func (c *Conn) Get(ctx context.Context, bucket, key string, local bool) (Item, error) {
	path := keyPath(bucket, key)
	if local {
		path += "?consistency=local"
	}
	r, err := c.do(ctx, http.MethodGet, path, nil, nil, false)
	if Code(err) == "not_found" {
		return Item{}, nil
	}
	if err != nil {
		return Item{}, err
	}
	rev, err := strconv.ParseUint(strings.Trim(r.header.Get("ETag"), `"`), 10, 64)
	if err != nil {
		return Item{}, fmt.Errorf("get %s/%s: no revision in the answer: %w", bucket, key, err)
	}
	return Item{Found: true, Value: string(r.body), Rev: rev}, nil
}

// Put writes a key; ttl 0 is for ever. It returns the new revision.
func (c *Conn) Put(ctx context.Context, bucket, key, value string, cond Cond, ttl time.Duration) (uint64, error) {
	header := cond.header(map[string]string{})
	if ttl > 0 {
		header["Holdfast-TTL"] = ttl.String()
	}
	r, err := c.do(ctx, http.MethodPut, keyPath(bucket, key), header, []byte(value), true)
	if err != nil {
		return 0, err
	}
	return r.rev()
}

// Delete removes a key. It returns false where there was none.
func (c *Conn) Delete(ctx context.Context, bucket, key string, cond Cond) (bool, error) {
	_, err := c.do(ctx, http.MethodDelete, keyPath(bucket, key), cond.header(map[string]string{}), nil, true)
	if Code(err) == "not_found" {
		return false, nil
	}
	return err == nil, err
}

func (r reply) rev() (uint64, error) {
	var body struct{ Rev uint64 }
	if err := json.Unmarshal(r.body, &body); err != nil {
		return 0, fmt.Errorf("parse answer %q: %w", r.body, err)
	}
	if body.Rev == 0 {
		return 0, fmt.Errorf("no revision in the answer %q", r.body)
	}
	return body.Rev, nil
}

// Listed is a key of a list.
type Listed struct {
	Key     string `json:"key"`
	Rev     uint64 `json:"rev"`
	Size    int    `json:"size"`
	Expires any    `json:"expires"`
}

// List returns all keys of a bucket that begin with prefix.
func (c *Conn) List(ctx context.Context, bucket, prefix string, local bool) ([]Listed, error) {
	var all []Listed
	q := url.Values{"prefix": {prefix}, "limit": {"5000"}}
	if local {
		q.Set("consistency", "local")
	}
	for {
		r, err := c.do(ctx, http.MethodGet, "/v1/kv/"+url.PathEscape(bucket)+"?"+q.Encode(), nil, nil, false)
		if err != nil {
			return nil, err
		}
		var page struct {
			Keys []Listed `json:"keys"`
			Next string   `json:"next"`
		}
		if err := json.Unmarshal(r.body, &page); err != nil {
			return nil, fmt.Errorf("parse list: %w", err)
		}
		all = append(all, page.Keys...)
		if page.Next == "" {
			return all, nil
		}
		q.Set("after", page.Next)
	}
}

// TxnCond and TxnOp are parts of a transaction, as the socket takes them.
type TxnCond struct {
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
	Rev    uint64 `json:"rev,omitempty"`
	Exists bool   `json:"exists,omitempty"`
	Absent bool   `json:"absent,omitempty"`
}

// TxnOp is a put (with Text), a delete or a get.
type TxnOp struct {
	Op     string `json:"op"`
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
	Text   string `json:"text,omitempty"`
	TTL    string `json:"ttl,omitempty"`
}

// Txn is a transaction.
type Txn struct {
	If   []TxnCond `json:"if,omitempty"`
	Then []TxnOp   `json:"then,omitempty"`
	Else []TxnOp   `json:"else,omitempty"`
}

// TxnResult is its answer.
type TxnResult struct {
	Succeeded bool   `json:"succeeded"`
	Rev       uint64 `json:"rev"`
	Results   []struct {
		Found bool   `json:"found"`
		Rev   uint64 `json:"rev"`
		Value []byte `json:"value"`
	} `json:"results"`
}

// Txn executes a transaction.
func (c *Conn) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	body, err := json.Marshal(t)
	if err != nil {
		return TxnResult{}, fmt.Errorf("encode transaction: %w", err)
	}
	write := false
	for _, op := range append(append([]TxnOp(nil), t.Then...), t.Else...) {
		write = write || op.Op != "get"
	}
	r, err := c.do(ctx, http.MethodPost, "/v1/txn", map[string]string{"Content-Type": "application/json"}, body, write)
	if err != nil {
		return TxnResult{}, err
	}
	var result TxnResult
	if err := json.Unmarshal(r.body, &result); err != nil {
		return TxnResult{}, fmt.Errorf("parse answer of the transaction: %w: %q", err, r.body)
	}
	return result, nil
}
