package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// Client is safe for concurrent use.
type Client struct {
	pool   pool
	once   bool // NoRetry
	absent bool // FailUnreachable
	prefix string
	serial atomic.Uint64
}

// Option changes a Client.
type Option func(*Client)

// NoRetry makes every call try once; a write may then end with an unknown
// outcome (Timeout) although ctx has time left.
func NoRetry() Option { return func(c *Client) { c.once = true } }

// FailUnreachable makes a call end at once when no daemon answers on the
// socket; otherwise it waits for one. A watch that has begun waits all the
// same.
func FailUnreachable() Option { return func(c *Client) { c.absent = true } }

// MaxIdle is how many connections are kept while nobody needs them; 256 if not
// given. As many are open as calls run at once. The daemon has 1024 for all.
func MaxIdle(n int) Option { return func(c *Client) { c.pool.max = n } }

// New makes a client of the daemon whose control socket is at path. It connects
// when it is used.
func New(path string, options ...Option) *Client {
	random := make([]byte, 10)
	_, _ = rand.Read(random) // never fails
	c := &Client{pool: pool{path: path, max: 256}, prefix: hex.EncodeToString(random) + "-"}
	for _, o := range options {
		o(c)
	}
	return c
}

// lasts tells whether a failure is not tried again.
func (c *Client) lasts(e *Error) bool {
	return !e.transient() || c.once || c.absent && e.Code == Unreachable
}

// Close closes idle connections. Calls that run go on.
func (c *Client) Close() { c.pool.close() }

// requestID makes an id that nobody else makes.
func (c *Client) requestID() string {
	return c.prefix + strconv.FormatUint(c.serial.Add(1), 36)
}

// writing is what options of a write set.
type writing struct {
	id      string
	headers []header
}

// WriteOption changes a write.
type WriteOption func(*writing)

// IfRev makes a write happen only when the key has this revision, which is not
// 0; otherwise it fails with PreconditionFailed.
func IfRev(rev uint64) WriteOption {
	return func(w *writing) {
		w.headers = append(w.headers, header{"If-Match", `"` + strconv.FormatUint(rev, 10) + `"`})
	}
}

// IfExists makes a write happen only when the key is there.
func IfExists() WriteOption {
	return func(w *writing) { w.headers = append(w.headers, header{"If-Match", "*"}) }
}

// IfAbsent makes a put happen only when the key is not there.
func IfAbsent() WriteOption {
	return func(w *writing) { w.headers = append(w.headers, header{"If-None-Match", "*"}) }
}

// TTL makes the key of a put expire after d, which is positive, unless it is
// put again before. It is measured by the cluster's clock, which stands while
// there is no quorum; a key may stay for a moment longer.
func TTL(d time.Duration) WriteOption {
	return func(w *writing) { w.headers = append(w.headers, header{"Holdfast-TTL", d.String()}) }
}

// RequestID gives a write its id, at most 64 printable ASCII characters
// without spaces. A write with an id that the cluster has seen within ten
// minutes is not done again: it gets the answer of the first one.
func RequestID(id string) WriteOption { return func(w *writing) { w.id = id } }

func (c *Client) write(ctx context.Context, r *request, options []WriteOption) (*answer, error) {
	var w writing
	for _, o := range options {
		o(&w)
	}
	if w.id == "" {
		w.id = c.requestID()
	}
	r.headers = append(w.headers, header{"Holdfast-Request-Id", w.id})
	r.write = true
	return c.do(ctx, r)
}

// Put sets a key, at most 1 KiB, to a value, at most 1 MiB, and returns the
// revision of the change.
func (c *Client) Put(ctx context.Context, bucket, key string, value []byte, options ...WriteOption) (rev uint64, err error) {
	a, err := c.write(ctx, &request{method: "PUT", path: keyPath(bucket, key), body: value}, options)
	if err != nil {
		return 0, err
	}
	return a.revision()
}

// Delete removes a key and returns the revision of the change. A key that is
// not there is an error of code NotFound.
func (c *Client) Delete(ctx context.Context, bucket, key string, options ...WriteOption) (rev uint64, err error) {
	a, err := c.write(ctx, &request{method: "DELETE", path: keyPath(bucket, key)}, options)
	if err != nil {
		return 0, err
	}
	return a.revision()
}

// ReadOption changes a read.
type ReadOption func(*reading)

type reading struct{ local bool }

// Local reads what the node of the socket has, at once and without quorum: it
// may be old.
func Local() ReadOption { return func(r *reading) { r.local = true } }

func isLocal(options []ReadOption) bool {
	var r reading
	for _, o := range options {
		o(&r)
	}
	return r.local
}

// Item is a key with its value.
type Item struct {
	Key     string
	Value   []byte
	Rev     uint64    // of its last change
	Expires time.Time // by the cluster's clock; zero is never
}

// Get returns a key; one that is not there is an error of code NotFound.
func (c *Client) Get(ctx context.Context, bucket, key string, options ...ReadOption) (Item, error) {
	r := &request{method: "GET", path: keyPath(bucket, key)}
	if isLocal(options) {
		r.path += "?consistency=local"
	}
	a, err := c.do(ctx, r)
	if err != nil {
		return Item{}, err
	}
	item := Item{Key: key, Value: a.body}
	if item.Rev, err = a.etag(); err != nil {
		return Item{}, err
	}
	if text := a.header.Get("Holdfast-Expires"); text != "" {
		if item.Expires, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return Item{}, odd("time of expiry %q", text)
		}
	}
	return item, nil
}

// ListOptions select the keys of a list.
type ListOptions struct {
	Prefix string // that the keys begin with
	After  string // begin behind this key: Page.Next of the page before
	Limit  int    // keys in a page, 1 to 10000; 0 is 1000
	Local  bool   // see Local
}

// Page is a part of a list.
type Page struct {
	Keys []KeyInfo `json:"keys"`
	Next string    `json:"next"` // ListOptions.After of the next page, "" at the end
	// Rev is the revision of the whole store that was read: a watch from Rev+1
	// sees every later change.
	Rev   uint64    `json:"rev"`
	Clock time.Time `json:"clock"` // the cluster's clock, which Expires is measured by
}

// KeyInfo is a key without its value.
type KeyInfo struct {
	Key     string    `json:"key"`
	Rev     uint64    `json:"rev"`
	Size    int       `json:"size"` // bytes of the value
	Expires time.Time `json:"expires"`
}

// List returns the keys of a bucket in the order of their bytes.
func (c *Client) List(ctx context.Context, bucket string, o ListOptions) (Page, error) {
	query := url.Values{}
	for name, v := range map[string]string{"prefix": o.Prefix, "after": o.After} {
		if v != "" {
			query.Set(name, v)
		}
	}
	if o.Limit != 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Local {
		query.Set("consistency", "local")
	}
	return ask[Page](ctx, c, &request{method: "GET", path: withQuery("/v1/kv/"+url.PathEscape(bucket), query)})
}

// Status is a part of the report of the node that is asked.
type Status struct {
	AsOf    time.Time `json:"as_of"`
	Cluster string    `json:"cluster"`
	Node    string    `json:"node"`
	Role    string    `json:"role"`
	Holder  string    `json:"holder"` // "" is nobody
	Leader  string    `json:"leader"` // "" is nobody that this node knows
	Term    uint64    `json:"term"`
	Epoch   uint64    `json:"epoch"`
	Quorum  struct {
		OK        bool `json:"ok"`
		Voters    int  `json:"voters"`
		Reachable int  `json:"reachable"`
	} `json:"quorum"`
	State struct {
		Applied  uint64 `json:"applied"`
		Commit   uint64 `json:"commit"`
		Snapshot uint64 `json:"snapshot"`
		Bytes    int64  `json:"bytes"`
		Hash     string `json:"hash"`
	} `json:"state"`
	Raw json.RawMessage `json:"-"` // all of the report
}

// Status asks for the report of the node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	raw, err := ask[json.RawMessage](ctx, c, &request{method: "GET", path: "/v1/status"})
	if err != nil {
		return Status{}, err
	}
	s := Status{Raw: raw}
	if err := json.Unmarshal(raw, &s); err != nil {
		return Status{}, odd("report: %v", err)
	}
	return s, nil
}

// ask is a call whose answer is JSON.
func ask[T any](ctx context.Context, c *Client, r *request) (T, error) {
	var out T
	a, err := c.do(ctx, r)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return out, odd("answer: %v", err)
	}
	return out, nil
}

func keyPath(bucket, key string) string {
	return "/v1/kv/" + url.PathEscape(bucket) + "/" + url.PathEscape(key)
}

func withQuery(path string, query url.Values) string {
	if len(query) == 0 {
		return path
	}
	return path + "?" + query.Encode()
}
