package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Covers C4: the socket under callers that are slow, wrong, many or gone.

// slowdesk answers updates when it is let, and says how their waits ended.
type slowdesk struct {
	quick
	asked chan kv.Request
	let   chan struct{}
	ended chan error
}

func newSlowdesk() *slowdesk {
	return &slowdesk{asked: make(chan kv.Request, 16), let: make(chan struct{}), ended: make(chan error, 16)}
}

func (d *slowdesk) Update(ctx context.Context, r kv.Request) (kv.Result, error) {
	if r.Then[0].Key == "panic" {
		panic("a broken invariant")
	}
	if r.Then[0].Key == "fast" {
		return d.quick.Update(ctx, r)
	}
	d.asked <- r
	select {
	case <-d.let:
		return d.quick.Update(ctx, r)
	case <-ctx.Done():
		d.ended <- ctx.Err()
		return kv.Result{}, ctx.Err()
	}
}

type rawConn struct {
	t testing.TB
	*net.UnixConn
	r *bufio.Reader
}

func dialRaw(t testing.TB, path string) *rawConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &rawConn{t, conn, bufio.NewReader(conn)}
}

func (c *rawConn) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// status reads an answer.
func (c *rawConn) status(method string) (int, string, bool) {
	c.t.Helper()
	answer, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer.StatusCode, string(body), answer.Close
}

// ends waits for the end of the connection.
func (c *rawConn) ends() {
	c.t.Helper()
	if text, err := io.ReadAll(c.r); err != nil || len(text) > 0 {
		c.t.Errorf("connection goes on: %q, %v", text, err)
	}
}

func putText(key, body string) string {
	return fmt.Sprintf("PUT /v1/kv/sessions/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", key, len(body), body)
}

// The answer to what is malformed does not depend on what was asked before on
// the connection.
func TestMalformedRequests(t *testing.T) {
	path := start(t, newSlowdesk())
	put := func(headers string) string {
		return "PUT /v1/kv/sessions/fast HTTP/1.1\r\n" + headers + "\r\n\r\n"
	}
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"no HTTP":             {"hello\r\n\r\n", 400},
		"no version":          {"GET /v1/kv/sessions\r\n\r\n", 400},
		"HTTP/2":              {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		"HTTP/3.7":            {"GET /v1/kv/sessions HTTP/3.7\r\nHost: x\r\n\r\n", 505},
		"no host":             {put("A: b"), 400},
		"two hosts":           {put("Host: x\r\nHost: y"), 400},
		"a bad host":          {put("Host: x y"), 400},
		"different lengths":   {put("Host: x\r\nContent-Length: 1\r\nContent-Length: 2"), 400},
		"length below zero":   {put("Host: x\r\nContent-Length: -1"), 400},
		"no number of length": {put("Host: x\r\nContent-Length: 0x1"), 400},
		"unknown encoding":    {put("Host: x\r\nTransfer-Encoding: gzip"), 501},
		"broken chunks":       {put("Host: x\r\nTransfer-Encoding: chunked") + "zz\r\n", 400},
		"space before colon":  {put("Host: x\r\nA : b"), 400},
		"NUL in a header":     {put("Host: x\r\nA: \x00"), 400},
		"a broken escape":     {"GET /v1/kv/sessions/%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"a control character": {"GET /v1/kv/sessions/\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"a long header":       {put("Host: x\r\nA: " + strings.Repeat("a", 2*headerBytesMax)), 431},
		"many headers":        {put("Host: x" + strings.Repeat("\r\nA: b", headerBytesMax/4)), 431},
		"a long path":         {"GET /v1/kv/sessions/" + strings.Repeat("k", 2*headerBytesMax) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
	} {
		for _, before := range []int{0, 1} {
			conn := dialRaw(t, path)
			for range before {
				conn.send(putText("fast", "v"))
				if code, body, _ := conn.status("PUT"); code != 200 {
					t.Fatalf("%d %s", code, body)
				}
			}
			_, _ = io.WriteString(conn, c.text) // the server may have had enough before the end
			answer, err := http.ReadResponse(conn.r, nil)
			if err != nil || answer.StatusCode != c.want {
				t.Errorf("%s after %d: %+v, %v, want %d", name, before, answer, err, c.want)
			}
		}
	}
}

// What is unusual and right is answered too, and the connection stays.
func TestUnusualRequests(t *testing.T) {
	path := start(t, newSlowdesk())
	const put = "PUT /v1/kv/sessions/fast HTTP/1.1\r\nHost: x\r\n"
	largest := strings.Repeat("v", kv.MaxValue)
	conn := dialRaw(t, path)
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"a short one":   {putText("fast", "v"), 200},
		"the largest":   {putText("fast", largest), 200},
		"too large":     {putText("fast", largest+"v"), 413},
		"lines with LF": {"PUT /v1/kv/sessions/fast HTTP/1.1\nHost: x\n\n", 200},
		"chunks":        {put + "Transfer-Encoding: chunked\r\n\r\n1\r\nv\r\n0\r\n\r\n", 200},
		"lengths":       {put + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nv", 200},
		"a long head":   {put + "A: " + strings.Repeat("a", headBytesMax) + "\r\n\r\n", 200},
		"not UTF-8":     {put + "A: \xff\r\n\r\n", 200},
		"keep-alive":    {put + "Connection: keep-alive\r\n\r\n", 200},
	} {
		for _, on := range []*rawConn{dialRaw(t, path), conn} {
			on.send(c.text)
			if code, body, closes := on.status("PUT"); code != c.want || closes {
				t.Errorf("%s: %d %.200q, closes %v", name, code, body, closes)
			}
		}
	}
	conn = dialRaw(t, path)
	conn.send(put + "Expect: 100-continue\r\nContent-Length: 1\r\n\r\n")
	if code, _, _ := conn.status("PUT"); code != 100 {
		t.Errorf("leave to send: %d", code)
	}
	conn.send("v")
	if code, body, _ := conn.status("PUT"); code != 200 {
		t.Errorf("after leave to send: %d %s", code, body)
	}
	conn.send(put + "Connection: close\r\n\r\n")
	if code, _, closes := conn.status("PUT"); code != 200 || !closes {
		t.Errorf("connection: close: %d, %v", code, closes)
	}
	conn.ends()
	conn = dialRaw(t, path)
	conn.send("GET /v1/txn HTTP/1.0\r\n\r\n")
	if code, _, closes := conn.status("GET"); code != 405 || !closes {
		t.Errorf("HTTP/1.0: %d, %v", code, closes)
	}
	conn.ends()
}

// Requests that come together are answered in order, wherever the reads cut
// them, and on both sides of the change to net/http.
func TestPipelining(t *testing.T) {
	path := start(t, newSlowdesk())
	for _, piece := range []int{1 << 20, 8192, 1000, 333} {
		conn := dialRaw(t, path)
		var text strings.Builder
		const rounds = 200
		for i := range rounds {
			text.WriteString(putText("fast", strings.Repeat("v", i*37%3000)))
			text.WriteString("HEAD /v1/kv/none HTTP/1.1\r\nHost: x\r\n\r\n")
			text.WriteString("POST /v1/txn HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
			if i == rounds/2 {
				text.WriteString("GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n")
			}
		}
		go func() {
			for rest := text.String(); rest != ""; {
				n := min(piece, len(rest))
				if _, err := io.WriteString(conn, rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
		}()
		want := func(method string, status int) {
			t.Helper()
			if code, body, closes := conn.status(method); code != status || closes {
				t.Fatalf("pieces of %d: %s: %d %s, closes %v", piece, method, code, body, closes)
			}
		}
		for i := range rounds {
			want("PUT", 200)
			want("HEAD", 404)
			want("POST", 400)
			if i == rounds/2 {
				want("GET", 404)
			}
		}
	}
}

// A caller that goes away while it waits ends the wait; one that has sent more
// has not gone away.
func TestCallerGoingAwayEndsTheWait(t *testing.T) {
	d := newSlowdesk()
	path := start(t, d)
	stays, goes, half := dialRaw(t, path), dialRaw(t, path), dialRaw(t, path)
	stays.send(putText("k", "v"))
	<-d.asked
	stays.send(putText("fast", "v")) // not read yet
	goes.send(putText("k", "v"))
	<-d.asked
	_ = goes.Close()
	if err := <-d.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("gone: %v", err)
	}
	half.send(putText("k", "v"))
	<-d.asked
	_ = half.CloseWrite()
	if err := <-d.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("half gone: %v", err)
	}
	if code, body, closes := half.status("PUT"); code != 504 || !closes {
		t.Errorf("half gone: %d %s, %v", code, body, closes)
	}
	time.Sleep(2 * goneEvery)
	close(d.let)
	for range 2 {
		if code, body, _ := stays.status("PUT"); code != 200 {
			t.Errorf("who stays: %d %s", code, body)
		}
	}
}

// Slow callers hold nobody up, and are given up after their time.
func TestSlowCallers(t *testing.T) {
	t.Parallel()
	path := start(t, newSlowdesk())
	const each = 100
	var slow []*rawConn
	for _, text := range []string{"", "P", "PUT /v1/kv/sessions/fast HTTP/1.1\r\nHost: x\r\nA: ", strings.TrimSuffix(putText("fast", "value"), "e")} {
		for range each {
			conn := dialRaw(t, path)
			conn.send(text)
			slow = append(slow, conn)
		}
	}
	begin := time.Now()
	conn := dialRaw(t, path)
	for range 100 {
		conn.send(putText("fast", "v"))
		if code, _, _ := conn.status("PUT"); code != 200 {
			t.Fatal(code)
		}
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("100 puts beside slow callers took %v", took)
	}
	for _, unfinished := range slow[each : 3*each] {
		if text, err := io.ReadAll(unfinished.r); err != nil || len(text) > 0 && !strings.HasPrefix(string(text), "HTTP/1.1 400") {
			t.Errorf("head that does not end: %q, %v", text, err)
		}
	}
	if took := time.Since(begin); took < readHeaderTimeout-time.Second || took > readHeaderTimeout+3*time.Second {
		t.Errorf("heads that do not end were given up after %v", took)
	}
	for _, unfinished := range slow[3*each:] {
		if code, body, closes := unfinished.status("PUT"); code != 400 || !closes {
			t.Errorf("body that does not end: %d %s, %v", code, body, closes)
		}
		unfinished.ends()
	}
	if took := time.Since(begin); took < readTimeout-time.Second || took > readTimeout+3*time.Second {
		t.Errorf("bodies that do not end were given up after %v", took)
	}
	slow[0].send(putText("fast", "v")) // nothing was begun
	if code, _, _ := slow[0].status("PUT"); code != 200 {
		t.Error(code)
	}
}

// A body that is cut off is not written.
func TestCutBody(t *testing.T) {
	d := newSlowdesk()
	conn := dialRaw(t, start(t, d))
	conn.send(strings.TrimSuffix(putText("k", "value"), "e"))
	_ = conn.CloseWrite()
	if code, body, closes := conn.status("PUT"); code != 400 || !closes || len(d.asked) > 0 {
		t.Errorf("%d %s, %v, asked %d", code, body, closes, len(d.asked))
	}
}

// A request that takes too long ends, and its connection with the answer.
func TestTooLongARequest(t *testing.T) {
	var s *short
	server, conn := servePair(t, func(w http.ResponseWriter, r *http.Request) {
		s.wait.until.Store(1)
		<-r.Context().Done()
		fail(w, asError(r.Context().Err()))
	})
	s = server
	go s.serve()
	conn.send(putText("k", "v"))
	if code, body, closes := conn.status("PUT"); code != 504 || !closes {
		t.Errorf("%d %s, %v", code, body, closes)
	}
}

// The deadline of a request is its own: short for reads, and no request
// begins with that of the one before.
func TestDeadlines(t *testing.T) {
	var limits []time.Duration
	s, conn := servePair(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 0 {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		at, _ := r.Context().Deadline()
		ctx, cancel := bounded(r.Context(), updateLimit)
		defer cancel()
		inner, _ := ctx.Deadline()
		if !inner.Equal(at) || ctx.Err() != nil {
			limits = nil
		}
		limits = append(limits, time.Until(at).Round(time.Second))
		reply(w, 200, nil)
	})
	go s.serve()
	for _, text := range []string{putText("k", "v"), "GET /v1/kv/sessions/k HTTP/1.1\r\nHost: x\r\n\r\n", putText("k", "v")} {
		conn.send(text)
		conn.status("PUT")
	}
	// A body that comes slowly does not take from the time of its request.
	conn.send(strings.TrimSuffix(putText("k", "value"), "e"))
	time.Sleep(1600 * time.Millisecond)
	conn.send("e")
	conn.status("PUT")
	if until := s.wait.until.Load(); until != 0 {
		t.Errorf("a deadline of %d is left", until)
	}
	if want := []time.Duration{updateLimit, viewLimit, updateLimit, updateLimit}; fmt.Sprint(limits) != fmt.Sprint(want) {
		t.Errorf("limits %v, want %v", limits, want)
	}
	plain, cancel := bounded(t.Context(), time.Minute)
	defer cancel()
	if at, ok := plain.Deadline(); !ok || time.Until(at) > time.Minute {
		t.Errorf("plain context: %v, %v", at, ok)
	}
}

// servePair makes a server of one connection, which is not served yet.
func servePair(t *testing.T, handler http.HandlerFunc) (*short, *rawConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	conn := dialRaw(t, path)
	accepted, err := newListener(l, 1).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	s, err := newShort(accepted, handler, slog.New(slog.DiscardHandler), &atomic.Bool{})
	if err != nil {
		t.Fatal(err)
	}
	return s, conn
}

func TestStrangersAreForbiddenShortRequests(t *testing.T) {
	var asked []Caller
	may := func(c Caller) bool {
		asked = append(asked, c)
		return false
	}
	s, conn := servePair(t, newAPI(quick{}, slog.New(slog.DiscardHandler), may, t.Context()).ServeHTTP)
	go s.serve()
	for range 2 {
		conn.send(putText("k", strings.Repeat("v", 1<<20)))
		if code, body, closes := conn.status("PUT"); code != 403 || closes {
			t.Errorf("%d %s, %v", code, body, closes)
		}
	}
	if len(asked) != 2 || asked[0].PID == 0 || asked[0].PID != asked[1].PID {
		t.Errorf("asked about %v", asked)
	}
}

// A handler that panics ends its connection and no other.
func TestPanic(t *testing.T) {
	path := start(t, newSlowdesk())
	conn, other := dialRaw(t, path), dialRaw(t, path)
	conn.send(putText("panic", "v"))
	conn.ends()
	other.send(putText("fast", "v"))
	if code, _, _ := other.status("PUT"); code != 200 {
		t.Error(code)
	}
}

// At the end idle connections are closed at once, answers under way are given
// while there is time, and who waits longer hears nothing.
func TestEndOfServer(t *testing.T) {
	for _, finishes := range []bool{true, false} {
		d := newSlowdesk()
		path := filepath.Join(t.TempDir(), "control.sock")
		s, err := Listen(Options{Path: path, Backend: d, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		fresh, idle, busy := dialRaw(t, path), dialRaw(t, path), dialRaw(t, path)
		idle.send(putText("fast", "v"))
		idle.status("PUT")
		busy.send(putText("k", "v"))
		<-d.asked
		begin := time.Now()
		cancel()
		fresh.ends()
		idle.ends()
		if took := time.Since(begin); took > closeTimeout/2 {
			t.Errorf("idle connections were closed after %v", took)
		}
		if finishes {
			d.let <- struct{}{}
			if code, _, closes := busy.status("PUT"); code != 200 || !closes {
				t.Errorf("answer under way: %d, %v", code, closes)
			}
		} else if err := <-d.ended; !errors.Is(err, context.Canceled) {
			t.Errorf("answer that takes too long: %v", err)
		}
		busy.ends()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if took := time.Since(begin); took > closeTimeout+time.Second {
			t.Errorf("the end took %v", took)
		}
	}
}
