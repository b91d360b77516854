package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/client"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/control/controltest"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Covers C4, S8: the public client against a real control socket with real
// buckets behind it.

func serve(t testing.TB, n *controltest.Node) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "control.sock")
	return path, controltest.Serve(t, path, n)
}

func start(t testing.TB, n *controltest.Node, options ...client.Option) *client.Client {
	t.Helper()
	path, _ := serve(t, n)
	c := client.New(path, options...)
	t.Cleanup(c.Close)
	return c
}

func limit(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantCode(t *testing.T, what string, err error, want client.Code) {
	t.Helper()
	if client.CodeOf(err) != want {
		t.Errorf("%s: %v (%s), want %s", what, err, client.CodeOf(err), want)
	}
}

func TestPutGetDelete(t *testing.T) {
	c := start(t, controltest.New())
	ctx := limit(t, 10*time.Second)
	rev, err := c.Put(ctx, "sessions", "alice", []byte("one"))
	if err != nil || rev != 1 {
		t.Fatalf("put: %d, %v", rev, err)
	}
	item, err := c.Get(ctx, "sessions", "alice")
	if err != nil || string(item.Value) != "one" || item.Rev != 1 || item.Key != "alice" || !item.Expires.IsZero() {
		t.Errorf("get: %+v, %v", item, err)
	}
	if _, err := c.Put(ctx, "sessions", "alice", nil, client.IfAbsent()); !errors.Is(err, &client.Error{Code: client.PreconditionFailed}) {
		t.Errorf("put if absent: %v", err)
	}
	if rev, err = c.Put(ctx, "sessions", "alice", []byte("two"), client.IfRev(1)); err != nil || rev != 2 {
		t.Errorf("put if rev 1: %d, %v", rev, err)
	}
	_, err = c.Put(ctx, "sessions", "alice", nil, client.IfRev(1))
	wantCode(t, "put if rev 1 again", err, client.PreconditionFailed)
	if _, err := c.Put(ctx, "sessions", "bob", nil, client.TTL(time.Hour)); err != nil {
		t.Errorf("put with time to live: %v", err)
	}
	item, err = c.Get(ctx, "sessions", "bob", client.Local())
	if want := controltest.Clock.Add(time.Hour); err != nil || !item.Expires.Equal(want) || len(item.Value) != 0 {
		t.Errorf("get: %+v, %v, want expiry %v", item, err, want)
	}
	if rev, err := c.Delete(ctx, "sessions", "alice", client.IfExists()); err != nil || rev != 4 {
		t.Errorf("delete: %d, %v", rev, err)
	}
	_, err = c.Delete(ctx, "sessions", "alice")
	wantCode(t, "delete again", err, client.NotFound)
	_, err = c.Get(ctx, "sessions", "alice")
	wantCode(t, "get deleted", err, client.NotFound)
	_, err = c.Get(ctx, "nothere", "alice")
	wantCode(t, "get of no bucket", err, client.NotFound)
	_, err = c.Put(ctx, "sessions", "big", make([]byte, kv.MaxValue+1))
	wantCode(t, "large value", err, client.TooLarge)
	_, err = c.Put(ctx, "sessions", "huge", make([]byte, 9<<20))
	wantCode(t, "huge value", err, client.TooLarge)
	_, err = c.Put(ctx, "sessions", "x", nil, client.RequestID("a\r\nEvil: 1"))
	wantCode(t, "line break in a header", err, client.Invalid)
}

func TestKeysOfAllKinds(t *testing.T) {
	c := start(t, controltest.New())
	ctx := limit(t, 10*time.Second)
	keys := []string{"a/b", "..", ".", "a//b", "/", "a%2Fb", "100 %", "käse", "日本", "a?b#c", "a+b", "a&b=c", `"quoted"`, "tab\tand\nline", strings.Repeat("ü", 512)}
	for _, key := range keys {
		if _, err := c.Put(ctx, "sessions", key, []byte("of "+key)); err != nil {
			t.Errorf("put %q: %v", key, err)
			continue
		}
		if item, err := c.Get(ctx, "sessions", key); err != nil || string(item.Value) != "of "+key {
			t.Errorf("get %q: %q, %v", key, item.Value, err)
		}
	}
	var listed []string
	for after := ""; ; {
		page, err := c.List(ctx, "sessions", client.ListOptions{After: after, Limit: 4})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Keys {
			listed = append(listed, k.Key)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	slices.Sort(keys)
	if !slices.Equal(listed, keys) {
		t.Errorf("list: %q, want %q", listed, keys)
	}
	for _, key := range keys {
		if _, err := c.Delete(ctx, "sessions", key); err != nil {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	for _, key := range []string{"", "a\x00b", "\xff", strings.Repeat("a", kv.MaxKey+1)} {
		if _, err := c.Put(ctx, "sessions", key, nil); client.CodeOf(err) != client.Invalid && client.CodeOf(err) != client.TooLarge {
			t.Errorf("put %.20q: %v", key, err)
		}
	}
}

func TestTxn(t *testing.T) {
	c := start(t, controltest.New())
	ctx := limit(t, 10*time.Second)
	take := client.Txn{
		If:   []client.Cond{client.Absent("tasks", "job/1")},
		Then: []client.Op{client.PutOp("tasks", "job/1", []byte{0, 255}), client.PutOp("receipts", "r", nil), client.GetOp("tasks", "job/1")},
		Else: []client.Op{client.GetOp("tasks", "job/1"), client.DeleteOp("tasks", "none")},
	}
	res, err := c.Txn(ctx, take)
	if err != nil || !res.Succeeded || res.Rev != 1 || len(res.Results) != 3 || !bytes.Equal(res.Results[2].Value, []byte{0, 255}) || res.Results[0].Rev != 1 {
		t.Fatalf("first: %+v, %v", res, err)
	}
	res, err = c.Txn(ctx, take)
	if err != nil || res.Succeeded || res.Conflict != 1 || len(res.Results) != 2 || !res.Results[0].Found || res.Results[1].Found {
		t.Errorf("second: %+v, %v", res, err)
	}
	res, err = c.Txn(ctx, client.Txn{If: []client.Cond{client.RevIs("tasks", "job/1", 1), client.Exists("receipts", "r"), client.RevIs("receipts", "q", 0)}, Then: []client.Op{client.DeleteOp("tasks", "job/1")}}, client.RequestID("once"))
	if err != nil || !res.Succeeded || res.Replayed || !res.Results[0].Found {
		t.Errorf("third: %+v, %v", res, err)
	}
	res, err = c.Txn(ctx, client.Txn{If: []client.Cond{client.RevIs("tasks", "job/1", 1), client.Exists("receipts", "r"), client.RevIs("receipts", "q", 0)}, Then: []client.Op{client.DeleteOp("tasks", "job/1")}}, client.RequestID("once"))
	if err != nil || !res.Succeeded || !res.Replayed || !res.Results[0].Found || res.Rev != 2 {
		t.Errorf("third again: %+v, %v", res, err)
	}
	_, err = c.Txn(ctx, client.Txn{Then: []client.Op{client.PutOp("tasks", "x", nil)}}, client.RequestID("once"))
	wantCode(t, "id of another", err, client.Invalid)
	_, err = c.Txn(ctx, client.Txn{If: []client.Cond{{Bucket: "tasks", Key: "x"}}})
	wantCode(t, "condition without condition", err, client.Invalid)
	_, err = c.Txn(ctx, client.Txn{})
	wantCode(t, "nothing", err, client.Invalid)
}

// A write whose answer is lost, because the leader went away or the connection
// broke, is sent again with its id and happens once.
func TestWritesHappenOnce(t *testing.T) {
	n := controltest.New()
	var tries atomic.Int32
	var mu sync.Mutex
	ids := map[string]int{}
	n.After = func(r kv.Request) error {
		mu.Lock()
		ids[r.ID]++
		mu.Unlock()
		switch tries.Add(1) % 3 {
		case 1:
			return &control.Error{Code: control.Timeout, Message: "leader lost"}
		case 2:
			return &control.Error{Code: control.NoQuorum, Message: "no leader"}
		}
		return nil
	}
	c := start(t, n)
	ctx := limit(t, 20*time.Second)
	for i := range 5 {
		// The condition is true for the first try only.
		rev, err := c.Put(ctx, "tasks", fmt.Sprint(i), []byte("x"), client.IfAbsent())
		if err != nil || rev != uint64(i+1) {
			t.Fatalf("put %d: revision %d, %v", i, rev, err)
		}
	}
	if len(ids) != 5 {
		t.Errorf("%d ids: %v", len(ids), ids)
	}
}

func TestUnknownOutcomeIsTold(t *testing.T) {
	n := controltest.New()
	var tries atomic.Int32
	n.Before = func(kv.Request) error {
		if tries.Add(1) == 1 {
			return &control.Error{Code: control.Timeout, Message: "leader lost"}
		}
		return &control.Error{Code: control.NoQuorum, Message: "no leader", Hint: "wait"}
	}
	c := start(t, n)
	_, err := c.Put(limit(t, 200*time.Millisecond), "tasks", "k", nil)
	wantCode(t, "put", err, client.Timeout)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("put: %v", err)
	}
	if tries.Load() < 3 {
		t.Errorf("%d tries", tries.Load())
	}
	// Never in doubt: refused each time.
	_, err = c.Put(limit(t, 100*time.Millisecond), "tasks", "k", nil)
	wantCode(t, "put that was always refused", err, client.NoQuorum)
	// A full disk says nothing about the try before it.
	tries.Store(0)
	n.Before = func(kv.Request) error {
		if tries.Add(1) == 1 {
			return &control.Error{Code: control.Timeout, Message: "leader lost"}
		}
		return &control.Error{Code: control.DiskFull, Message: "disk full"}
	}
	_, err = c.Put(limit(t, 5*time.Second), "tasks", "k", nil)
	wantCode(t, "put after which the disk was full", err, client.Timeout)
	_, err = c.Put(limit(t, 5*time.Second), "tasks", "k", nil)
	wantCode(t, "put on a full disk", err, client.DiskFull)
}

func TestNoRetry(t *testing.T) {
	n := controltest.New()
	var tries atomic.Int32
	n.Before = func(kv.Request) error {
		tries.Add(1)
		return &control.Error{Code: control.NoQuorum, Message: "no leader", Hint: "wait"}
	}
	path, stop := serve(t, n)
	c := client.New(path, client.NoRetry())
	defer c.Close()
	_, err := c.Put(t.Context(), "tasks", "k", nil)
	var e *client.Error
	if !errors.As(err, &e) || e.Code != client.NoQuorum || e.Hint != "wait" || tries.Load() != 1 {
		t.Errorf("put: %v, %d tries", err, tries.Load())
	}
	stop()
	_, err = c.Put(t.Context(), "tasks", "k", nil)
	wantCode(t, "put without daemon", err, client.Unreachable)
}

// Calls go on over a restart of the daemon, also those whose connection was
// idle then.
func TestDaemonRestarts(t *testing.T) {
	n := controltest.New()
	path, stop := serve(t, n)
	c := client.New(path)
	defer c.Close()
	ctx := limit(t, 20*time.Second)
	if _, err := c.Put(ctx, "tasks", "a", nil); err != nil {
		t.Fatal(err)
	}
	stop()
	_, err := c.Get(limit(t, 100*time.Millisecond), "tasks", "a")
	wantCode(t, "get without daemon", err, client.Unreachable)
	done := make(chan error, 1)
	go func() {
		_, err := c.Put(ctx, "tasks", "b", nil)
		done <- err
	}()
	time.Sleep(50 * time.Millisecond)
	stop = controltest.Serve(t, path, n)
	if err := <-done; err != nil {
		t.Errorf("put over a restart: %v", err)
	}
	stop()
	controltest.Serve(t, path, n)
	if _, err := client.New(path, client.NoRetry()).Get(ctx, "tasks", "b"); err != nil {
		t.Errorf("get: %v", err)
	}
	if _, err := c.Get(ctx, "tasks", "b"); err != nil {
		t.Errorf("get on a connection that was closed meanwhile: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	c := start(t, controltest.New(), client.MaxIdle(8))
	ctx := limit(t, 30*time.Second)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for j := range 20 {
				key := fmt.Sprintf("%d-%d", i, j)
				if _, err := c.Put(ctx, "tasks", key, []byte(key)); err != nil {
					t.Errorf("put: %v", err)
				}
				if item, err := c.Get(ctx, "tasks", key); err != nil || string(item.Value) != key {
					t.Errorf("get %s: %q, %v", key, item.Value, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCancel(t *testing.T) {
	n := controltest.New()
	entered := make(chan struct{})
	n.Before = func(kv.Request) error {
		close(entered)
		time.Sleep(200 * time.Millisecond)
		return nil
	}
	c := start(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	began := time.Now()
	_, err := c.Put(ctx, "tasks", "k", nil)
	if !errors.Is(err, context.Canceled) || client.CodeOf(err) != client.Timeout {
		t.Errorf("put: %v", err)
	}
	if d := time.Since(began); d > 150*time.Millisecond {
		t.Errorf("took %v", d)
	}
}

func TestStatus(t *testing.T) {
	c := start(t, controltest.New())
	s, err := c.Status(limit(t, 5*time.Second))
	if err != nil || s.Node != "gw1" || s.Leader != "gw1" || s.Cluster != "site-a" || !bytes.Contains(s.Raw, []byte(`"vips"`)) {
		t.Errorf("%+v, %v", s, err)
	}
}
