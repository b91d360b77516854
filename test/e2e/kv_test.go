package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/client"
	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

// Covers C4, S8, S11
func TestKeysExpireOnEveryMemberAtOneRevision(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	c := w.client(t, "w1")
	ctx := within(t, settle)
	var watch []*client.Watcher
	for _, n := range w.Names() {
		x, err := w.client(t, n).Watch(within(t, time.Minute), "sessions", client.WatchOptions{Prefix: "ttl/"})
		check(t, err)
		watch = append(watch, x)
	}
	began := time.Now()
	_, err := c.Put(ctx, "sessions", "ttl/short", []byte("1"), client.TTL(2*time.Second))
	check(t, err)
	_, err = c.Put(ctx, "sessions", "ttl/long", []byte("1"), client.TTL(time.Hour))
	check(t, err)
	_, err = c.Put(ctx, "sessions", "ttl/renewed", []byte("1"), client.TTL(2*time.Second))
	check(t, err)
	_, err = c.Put(ctx, "sessions", "ttl/renewed", []byte("2"), client.TTL(time.Hour))
	check(t, err)
	item, err := c.Get(ctx, "sessions", "ttl/short")
	check(t, err)
	if left := time.Until(item.Expires); left <= 0 || left > 3*time.Second {
		t.Errorf("expires in %v", left)
	}
	// A failover in between neither saves a key nor takes it early.
	f := broken(t)(w.Kill(w.holder(t)))
	w.mend(t, f)
	revs := map[uint64]bool{}
	for i, x := range watch {
		var seen []string
		for {
			e, err := x.Next()
			check(t, err)
			seen = append(seen, e.Type+" "+e.Key)
			if e.Type == "expire" {
				revs[e.Rev] = true
				break
			}
		}
		want := "put ttl/short, put ttl/long, put ttl/renewed, put ttl/renewed, expire ttl/short"
		if got := strings.Join(seen, ", "); got != want {
			t.Errorf("watch at %s saw %s, want %s", w.Names()[i], got, want)
		}
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("expired after %v", took)
	}
	if len(revs) != 1 {
		t.Errorf("expired at revisions %v", revs)
	}
	for _, n := range w.Names() {
		_, err := w.client(t, n).Get(ctx, "sessions", "ttl/short")
		if client.CodeOf(err) != client.NotFound {
			t.Errorf("%s: expired key: %v", n, err)
		}
		for _, key := range []string{"ttl/long", "ttl/renewed"} {
			if _, err := w.client(t, n).Get(ctx, "sessions", key); err != nil {
				t.Errorf("%s: %s: %v", n, key, err)
			}
		}
	}
	w.settled(t)
}

// Each watcher, at whatever member, sees each change once and in order, while
// the members that it watches at die and come back.
//
// Covers C4, S8, S11
func TestWatchHasNoGapAndNoRepeatOverFailovers(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: state(lab.Table{"snapshot_bytes": "128KiB"})})
	ctx := within(t, 2*time.Minute)
	const last = "watch/last"
	seen := make([][]client.Event, len(w.Names()))
	var watchers sync.WaitGroup
	for i, n := range w.Names() {
		x, err := w.client(t, n).Watch(ctx, "tasks", client.WatchOptions{Prefix: "watch/"})
		check(t, err)
		watchers.Go(func() {
			for {
				e, err := x.Next()
				if err != nil {
					t.Errorf("watch at %s: %v", n, err)
					return
				}
				if e.Key == last {
					return
				}
				seen[i] = append(seen[i], e)
			}
		})
	}
	l := &kvload.Ledger{Bucket: "tasks", Prefix: "watch/", Size: 100, Limit: 10 * time.Second}
	stop := w.writing(t, l, 4*time.Millisecond, w.conn(t, true), w.conn(t, true), w.conn(t, false, "w1"))
	more := func() {
		from := l.Acked()
		eventually(t, func() error {
			if l.Acked() < from+80 {
				return fmt.Errorf("%s", l)
			}
			return nil
		})
	}
	for range 2 {
		more()
		w.mend(t, broken(t)(w.Kill(w.holder(t))))
		more()
		w.failover(t, w.other(w.holder(t)))
		more()
		w.mend(t, broken(t)(w.KillWorker("w1")))
		more()
		w.mend(t, broken(t)(w.Kill()))
	}
	more()
	stop()
	_, err := w.client(t, "w1").Put(ctx, "tasks", last, nil)
	check(t, err)
	watchers.Wait()
	w.settled(t)
	listed, err := w.conn(t, true).List(ctx, "tasks", "watch/", false)
	check(t, err)
	for i, n := range w.Names() {
		at := map[string]uint64{}
		prev := uint64(0)
		for _, e := range seen[i] {
			if e.Rev <= prev {
				t.Fatalf("%s: revision %d after %d", n, e.Rev, prev)
			}
			if at[e.Key] != 0 {
				t.Fatalf("%s: %s twice", n, e.Key)
			}
			prev, at[e.Key] = e.Rev, e.Rev
		}
		for _, k := range listed {
			if k.Key != last && at[k.Key] != k.Rev {
				t.Errorf("%s: %s is there with revision %d and was seen with %d", n, k.Key, k.Rev, at[k.Key])
				break
			}
		}
		if len(seen[i]) != len(listed)-1 {
			t.Errorf("%s: %d changes seen, %d keys are there", n, len(seen[i]), len(listed)-1)
		}
	}
	t.Log(l)

	// Too old is said, not passed over.
	x, err := w.client(t, "w1").Watch(ctx, "tasks", client.WatchOptions{From: 1})
	if err == nil {
		_, err = x.Next()
	}
	if err != nil && client.CodeOf(err) != client.Compacted {
		t.Errorf("watch from the beginning: %v", err)
	}
}

// The product's client gets through failovers by itself, and does each write
// once.
//
// Covers C4, S8
func TestClientWritesOnceThroughFailovers(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	ctx := within(t, time.Minute)
	const writers = 6
	var wg sync.WaitGroup
	done := make(chan struct{})
	counts := make([]int, writers)
	for i := range writers {
		c := w.client(t, w.Names()[i%len(w.Names())])
		wg.Go(func() { // each counts up in a key of its own, and in one that all share
			own := fmt.Sprintf("count/%d", i)
			rev := uint64(0)
			for {
				select {
				case <-done:
					return
				default:
				}
				option := client.IfAbsent()
				if rev != 0 {
					option = client.IfRev(rev)
				}
				next, err := c.Put(ctx, "receipts", own, fmt.Append(nil, counts[i]+1), option)
				if err != nil {
					// Whatever happened to the tries before, it may not be this.
					t.Errorf("count %d of writer %d: %v", counts[i]+1, i, err)
					return
				}
				rev = next
				counts[i]++
				time.Sleep(3 * time.Millisecond)
			}
		})
	}
	for range 3 {
		time.Sleep(300 * time.Millisecond)
		w.mend(t, broken(t)(w.Kill(w.holder(t))))
		time.Sleep(300 * time.Millisecond)
		w.mend(t, broken(t)(w.KillWorker(w.holder(t))))
	}
	close(done)
	wg.Wait()
	for i, n := range counts {
		item, err := w.client(t, "w1").Get(ctx, "receipts", fmt.Sprintf("count/%d", i))
		check(t, err)
		if string(item.Value) != fmt.Sprint(n) || n < 50 {
			t.Errorf("writer %d counted to %d, there is %q", i, n, item.Value)
		}
	}
	w.settled(t)
}

// Covers C4, C7, S8
func TestKeysOnTheCommandLine(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{Config: state(lab.Table{"max_bytes": "1MiB"})})
	text := func(node string, code int, args ...string) string {
		t.Helper()
		out := w.cli(t, node, code, append([]string{"kv"}, args...)...)
		if code != 0 {
			wantText(t, out.Stderr, "hint: ")
			return out.Stderr
		}
		return out.Stdout
	}
	var written struct{ Rev uint64 }
	check(t, json.Unmarshal([]byte(text("gw1", 0, "put", "--json", "sessions", "a/b", "one")), &written))
	if got := text("w1", 0, "get", "sessions", "a/b"); strings.TrimSuffix(got, "\n") != "one" {
		t.Errorf("get: %q", got)
	}
	text("gw2", 4, "put", "sessions", "a/b", "two", "--if-absent")
	text("gw2", 4, "put", "sessions", "a/b", "two", "--if-rev", fmt.Sprint(written.Rev+1))
	text("gw2", 0, "put", "sessions", "a/b", "two", "--if-rev", fmt.Sprint(written.Rev))
	if got := text("gw1", 0, "get", "sessions", "a/b", "--json"); !json.Valid([]byte(got)) {
		t.Errorf("get --json: %q", got)
	}
	text("w1", 0, "put", "sessions", "short", "x", "--ttl", "1h")
	wantText(t, text("gw1", 0, "list", "sessions"), "a/b", "short")
	text("gw1", 0, "del", "sessions", "a/b")
	text("gw1", 4, "get", "sessions", "a/b")
	text("gw1", 4, "del", "sessions", "a/b")
	wantText(t, text("gw1", 4, "get", "nothing", "a"), "nothing")
	text("gw1", 2, "put", "sessions")
	text("gw1", 2, "get", "sessions", "a", "--if-rev", "x")
	big := strings.Repeat("x", 100<<10)
	var full error
	for i := range 12 {
		out, err := w.RunCLI(within(t, settle), "gw1", "kv", "put", "receipts", fmt.Sprint(i), big)
		check(t, err)
		if out.Code != 0 {
			full = fmt.Errorf("exit code %d: %s", out.Code, out.Stderr)
		}
	}
	if full == nil || !strings.Contains(full.Error(), "quota") && !strings.Contains(full.Error(), "max_bytes") {
		t.Errorf("1.2 MB in a store of 1 MiB: %v", full)
	}
	w.settled(t)

	// Without a quorum only local reads work.
	holder := w.holder(t)
	f := broken(t)(w.Kill(w.others(holder)...))
	w.seen(t, holder, func(r *report) error { return r.has("no_quorum") })
	text(holder, 4, "put", "sessions", "b", "x")
	text(holder, 4, "get", "sessions", "short")
	if got := text(holder, 0, "get", "sessions", "short", "--local"); strings.TrimSuffix(got, "\n") != "x" {
		t.Errorf("get --local: %q", got)
	}
	w.mend(t, f)
	if _, err := w.client(t, holder).Get(within(t, settle), "sessions", "b"); client.CodeOf(err) != client.NotFound {
		t.Errorf("the refused write: %v", err)
	}
	w.stop(t, "w1")
	text("w1", 3, "get", "sessions", "short")
	if _, err := w.client(t, "w1").Get(canceled(), "sessions", "short"); err == nil || !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
