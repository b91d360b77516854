package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/status"
)

// desk is a backend that writes down what it was asked.
type desk struct {
	Backend // what it does not do itself
	mu      sync.Mutex
	asked   []string
	err     error
	block   chan struct{} // when set, Failover waits for it or for its context
}

func (d *desk) note(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, fmt.Sprintf(format, args...))
	return d.err
}

func (d *desk) last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.asked) == 0 {
		return ""
	}
	return d.asked[len(d.asked)-1]
}

func (d *desk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *desk) Status(ctx context.Context) (status.Report, error) {
	caller, ok := CallerOf(ctx)
	return status.Report{Node: "gw1", Cluster: "c"}, d.note("status %v %d", ok, caller.UID)
}

func (d *desk) Failover(ctx context.Context, r FailoverRequest) (FailoverResult, error) {
	err := d.note("failover %+v", r)
	if d.block != nil {
		select {
		case <-d.block:
		case <-ctx.Done():
			return FailoverResult{}, fmt.Errorf("wait for target: %w", ctx.Err())
		}
	}
	return FailoverResult{Group: "default", From: "gw1", Holder: "gw2", GapMs: 1.8, Epoch: 17}, err
}

func (d *desk) Maintenance(_ context.Context, r MaintenanceRequest) (NodeResult, error) {
	return NodeResult{Node: r.Node, Index: 5}, d.note("maintenance %+v", r)
}

func (d *desk) Fence(_ context.Context, r NodeRequest) (NodeResult, error) {
	return NodeResult{Node: r.Node, Index: 6}, d.note("fence %+v", r)
}

func (d *desk) Unfence(_ context.Context, r NodeRequest) (NodeResult, error) {
	return NodeResult{Node: r.Node, Index: 7}, d.note("unfence %+v", r)
}

func (d *desk) Reload(context.Context) (ReloadResult, error) {
	return ReloadResult{Changes: []Change{{Key: "log.level", Old: "info", New: "debug", Live: true}}}, d.note("reload")
}

// start runs a server on a socket in a new directory until the test ends.
func start(t testing.TB, backend Backend) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	startAt(t, path, backend)
	return path
}

func startAt(t testing.TB, path string, backend Backend) {
	t.Helper()
	s, err := Listen(Options{Path: path, Backend: backend, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket left behind: %v", err)
		}
	})
}

func TestEveryCall(t *testing.T) {
	d := &desk{}
	c := NewClient(start(t, d))
	defer c.Close()
	ctx := t.Context()
	if r, err := c.Status(ctx); err != nil || r.Node != "gw1" || r.Members == nil {
		t.Errorf("status %+v, %v", r, err)
	}
	if want := fmt.Sprintf("status true %d", os.Geteuid()); d.last() != want {
		t.Errorf("backend was asked %q, want %q", d.last(), want)
	}
	if r, err := c.Failover(ctx, FailoverRequest{To: "gw2", Group: "g"}); err != nil || r.Holder != "gw2" || r.GapMs != 1.8 || r.Epoch != 17 {
		t.Errorf("failover %+v, %v", r, err)
	}
	if d.last() != "failover {To:gw2 Group:g}" {
		t.Errorf("asked %q", d.last())
	}
	if r, err := c.Maintenance(ctx, MaintenanceRequest{Node: "gw2", On: true}); err != nil || r != (NodeResult{"gw2", 5}) || d.last() != "maintenance {Node:gw2 On:true}" {
		t.Errorf("maintenance %+v, %v, asked %q", r, err, d.last())
	}
	if r, err := c.Fence(ctx, NodeRequest{"gw2"}); err != nil || r.Index != 6 || d.last() != "fence {Node:gw2}" {
		t.Errorf("fence %+v, %v, asked %q", r, err, d.last())
	}
	if r, err := c.Unfence(ctx, NodeRequest{"gw2"}); err != nil || r.Index != 7 || d.last() != "unfence {Node:gw2}" {
		t.Errorf("unfence %+v, %v, asked %q", r, err, d.last())
	}
	if r, err := c.Reload(ctx); err != nil || len(r.Changes) != 1 || d.last() != "reload" {
		t.Errorf("reload %+v, %v, asked %q", r, err, d.last())
	}
}

// Every code has its status, and comes back from the client as it was given.
func TestErrors(t *testing.T) {
	d := &desk{}
	path := start(t, d)
	c := NewClient(path)
	defer c.Close()
	for code, want := range map[Code]int{
		NoQuorum: 503, PreconditionFailed: 412, NotFound: 404, TooLarge: 413, QuotaExceeded: 507,
		DiskFull: 507, Invalid: 400, Forbidden: 403, Timeout: 504, Internal: 500,
	} {
		given := &Error{Code: code, Message: "it is " + string(code), Hint: "do this"}
		d.fail(fmt.Errorf("wrapped: %w", given))
		_, err := c.Fence(t.Context(), NodeRequest{"gw2"})
		var got *Error
		if !errors.As(err, &got) || *got != *given {
			t.Errorf("%s: got %v", code, err)
		}
		if status, _ := raw(t, path, http.MethodPost, "/v1/fence", `{"node":"gw2"}`); status != want {
			t.Errorf("%s: status %d, want %d", code, status, want)
		}
	}
	d.fail(errors.New("disk on fire"))
	var got *Error
	if _, err := c.Status(t.Context()); !errors.As(err, &got) || got.Code != Internal || got.Message != "disk on fire" {
		t.Errorf("plain error: %v", err)
	}
	d.fail(fmt.Errorf("propose: %w", context.DeadlineExceeded))
	if _, err := c.Reload(t.Context()); !errors.As(err, &got) || got.Code != Timeout {
		t.Errorf("late: %v", err)
	}
}

// raw sends a request without the client and returns status and body.
func raw(t *testing.T, path, verb, url, body string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	request, err := http.NewRequestWithContext(t.Context(), verb, "http://x"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestBadRequests(t *testing.T) {
	d := &desk{}
	path := start(t, d)
	for _, c := range []struct {
		name, verb, url, body string
		status                int
		code                  Code
	}{
		{"unknown path", "GET", "/v1/nothing", "", 404, NotFound},
		{"wrong method", "GET", "/v1/failover", "", 405, Invalid},
		{"wrong method on status", "POST", "/v1/status", "", 405, Invalid},
		{"not JSON", "POST", "/v1/failover", "to=gw2", 400, Invalid},
		{"unknown field", "POST", "/v1/failover", `{"target":"gw2"}`, 400, Invalid},
		{"wrong type", "POST", "/v1/maintenance", `{"on":"yes"}`, 400, Invalid},
		{"two values", "POST", "/v1/failover", `{} {}`, 400, Invalid},
		{"no node", "POST", "/v1/fence", `{}`, 400, Invalid},
		{"no node to unfence", "POST", "/v1/unfence", "", 400, Invalid},
		{"too large", "POST", "/v1/failover", `{"to":"` + strings.Repeat("a", bodyBytesMax) + `"}`, 413, TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := raw(t, path, c.verb, c.url, c.body)
			var e struct {
				Error map[string]string `json:"error"`
			}
			if err := json.Unmarshal([]byte(body), &e); err != nil {
				t.Fatalf("%v in %q", err, body)
			}
			if status != c.status || e.Error["code"] != string(c.code) || e.Error["message"] == "" {
				t.Errorf("%d %s", status, body)
			}
			if _, ok := e.Error["hint"]; !ok {
				t.Errorf("no hint in %s", body)
			}
		})
	}
	if d.last() != "" {
		t.Errorf("the backend was asked %q", d.last())
	}
	if status, _ := raw(t, path, "POST", "/v1/failover", ""); status != 200 {
		t.Errorf("an empty body is an empty request: %d", status)
	}
}

func TestCallerGoingAwayEndsTheRequest(t *testing.T) {
	d := &desk{block: make(chan struct{})}
	c := NewClient(start(t, d))
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Failover(ctx, FailoverRequest{})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	leaveStale(t, stale)
	for name, c := range map[string]struct {
		path string
		want error
	}{"absent": {filepath.Join(dir, "absent"), syscall.ENOENT}, "stale": {stale, syscall.ECONNREFUSED}} {
		var e *UnreachableError
		_, err := NewClient(c.path).Status(t.Context())
		if !errors.As(err, &e) || e.Path != c.path || !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := NewClient(c.path).Reload(t.Context()); !errors.As(err, &e) {
			t.Errorf("%s: reload: %v", name, err)
		}
	}
}

// A daemon that dies in the middle of a change leaves its outcome unknown.
func TestBrokenConnectionIsAnUnknownOutcome(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			_, _ = conn.Read(buf)
			_ = conn.Close()
		}
	}()
	c := NewClient(path)
	var e *Error
	if _, err := c.Failover(t.Context(), FailoverRequest{}); !errors.As(err, &e) || e.Code != Timeout {
		t.Errorf("failover: %v", err)
	}
	if _, err := c.Status(t.Context()); !errors.As(err, &e) || e.Code != Internal {
		t.Errorf("status: %v", err)
	}
	_ = l.Close()
	<-done
}

// leaveStale makes the socket file of a process that died.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSocketFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "control.sock")
	leaveStale(t, path)
	startAt(t, path, &desk{}) // replaces what a dead process left
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	o := Options{Path: path, Backend: &desk{}, Logger: slog.New(slog.DiscardHandler)}
	if _, err := Listen(o); !errors.Is(err, ErrInUse) {
		t.Errorf("live socket: %v", err)
	}
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("the live server was disturbed: %v", err)
	}
	o.Path = filepath.Join(dir, "file")
	if err := os.WriteFile(o.Path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("file: %v", err)
	}
	if text, _ := os.ReadFile(o.Path); string(text) != "precious" {
		t.Error("a file was removed")
	}
	o.Path = filepath.Join(dir, strings.Repeat("x", 120))
	if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("long path: %v", err)
	}
}

// A server that ends leaves the socket of its successor alone.
func TestCloseLeavesASuccessorAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	old, err := Listen(Options{Path: path, Backend: &desk{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	startAt(t, path, &desk{})
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("successor: %v", err)
	}
}

func TestConnectionsGiveTheirSlotsBack(t *testing.T) {
	path := start(t, &desk{})
	for range 2 * connectionsMax {
		if code, _ := raw(t, path, "GET", "/v1/status", ""); code != 200 {
			t.Fatalf("status %d", code)
		}
	}
}
