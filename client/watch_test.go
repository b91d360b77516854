package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/client"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/control/controltest"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

func next(t *testing.T, w *client.Watcher) string {
	t.Helper()
	e, err := w.Next()
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return fmt.Sprintf("%s %s %d %s", e.Type, e.Key, e.Rev, e.Value)
}

func want(t *testing.T, w *client.Watcher, events ...string) {
	t.Helper()
	for _, e := range events {
		if got := next(t, w); got != e {
			t.Fatalf("event %q, want %q", got, e)
		}
	}
}

func TestWatch(t *testing.T) {
	n := controltest.New()
	c := start(t, n)
	ctx := limit(t, 20*time.Second)
	put := func(bucket, key, value string, o ...client.WriteOption) {
		t.Helper()
		if _, err := c.Put(ctx, bucket, key, []byte(value), o...); err != nil {
			t.Fatal(err)
		}
	}
	put("sessions", "before", "0")
	now, err := c.Watch(ctx, "sessions", client.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if now.Rev() != 1 {
		t.Errorf("begins at %d", now.Rev())
	}
	all, err := c.Watch(ctx, "sessions", client.WatchOptions{From: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	some, err := c.Watch(ctx, "sessions", client.WatchOptions{Prefix: "a/"})
	if err != nil {
		t.Fatal(err)
	}
	defer some.Close()
	put("sessions", "a/1", "1")
	put("tasks", "a/1", "elsewhere")
	put("sessions", "b", "", client.TTL(time.Second))
	if _, err := c.Delete(ctx, "sessions", "a/1"); err != nil {
		t.Fatal(err)
	}
	if n.Expire(time.Minute) != 1 {
		t.Fatal("nothing expired")
	}
	want(t, now, "put a/1 2 1", "put b 4 ", "delete a/1 5 ", "expire b 6 ")
	want(t, all, "put before 1 0", "put a/1 2 1", "put b 4 ")
	want(t, some, "put a/1 2 1", "delete a/1 5 ")
}

// A watch goes on where it was when its connection breaks, also in the middle
// of a revision, and when the daemon restarts.
func TestWatchResumesWithoutGapOrRepeat(t *testing.T) {
	n := controltest.New()
	path, stop := serve(t, n)
	c := client.New(path)
	defer c.Close()
	impatient := client.New(path, client.FailUnreachable()) // which concerns its beginning
	ctx := limit(t, 60*time.Second)
	w, err := impatient.Watch(ctx, "tasks", client.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const rounds, ops = 20, 7
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range rounds {
			var then []client.Op
			for j := range ops {
				then = append(then, client.PutOp("tasks", fmt.Sprintf("%02d-%d", i, j), nil))
			}
			if _, err := c.Txn(ctx, client.Txn{Then: then}); err != nil {
				t.Errorf("txn %d: %v", i, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	for i := range rounds {
		for j := range ops {
			if (i*ops+j)%9 == 4 {
				stop()
				if i%4 == 0 {
					time.Sleep(30 * time.Millisecond) // it finds nobody
				}
				stop = controltest.Serve(t, path, n)
			}
			if got, want := next(t, w), fmt.Sprintf("put %02d-%d %d ", i, j, i+1); got != want {
				t.Fatalf("event %q, want %q", got, want)
			}
		}
	}
	wg.Wait()
}

func TestWatchCompacted(t *testing.T) {
	n := controltest.New()
	c := start(t, n)
	ctx := limit(t, 60*time.Second)
	for i := range kv.MaxHistoryEvents/64 + 4 {
		var r kv.Request
		for j := range 64 {
			r.Then = append(r.Then, kv.Op{Kind: kv.OpPut, Bucket: "tasks", Key: fmt.Sprint(j)})
		}
		if _, err := n.Update(ctx, r); err != nil {
			t.Fatal(i, err)
		}
	}
	_, err := c.Watch(ctx, "tasks", client.WatchOptions{From: 1})
	wantCode(t, "watch from 1", err, client.Compacted)
	page, err := c.List(ctx, "tasks", client.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(ctx, "tasks", client.WatchOptions{From: page.Rev + 1})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := c.Put(ctx, "tasks", "new", nil); err != nil {
		t.Fatal(err)
	}
	want(t, w, fmt.Sprintf("put new %d ", page.Rev+1))
}

func TestWatchEnds(t *testing.T) {
	n := controltest.New()
	c := start(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := c.Watch(ctx, "tasks", client.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	for range 2 {
		if _, err := w.Next(); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	}
	if w, err = c.Watch(t.Context(), "tasks", client.WatchOptions{}); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, w.Close)
	if _, err := w.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("closed: %v", err)
	}
	_, err = c.Watch(t.Context(), "nothere", client.WatchOptions{})
	wantCode(t, "no bucket", err, client.NotFound)
	n.Reading = func(local bool) error {
		if local {
			return nil
		}
		return &control.Error{Code: control.NoQuorum, Message: "no quorum"}
	}
	_, err = c.Watch(limit(t, 100*time.Millisecond), "tasks", client.WatchOptions{})
	wantCode(t, "from now without quorum", err, client.NoQuorum)
	w, err = c.Watch(t.Context(), "tasks", client.WatchOptions{Local: true})
	if err != nil {
		t.Fatalf("local: %v", err)
	}
	w.Close()
}
