package kvload

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// load runs a short mix against a fake and returns what Check says.
func load(t *testing.T, f *fake, retry bool) (*History, error) {
	t.Helper()
	socket := f.serve(t)
	f.spare = 40 // the accounts are opened in peace
	m := &Mix{Bucket: "sessions", Keys: 6, Accounts: 4, Pause: time.Millisecond, Limit: time.Second, Seed: 1}
	for range 8 {
		c := Dial(socket)
		c.Retry = retry
		t.Cleanup(c.Close)
		m.Conns = append(m.Conns, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { // requests and not time: a busy machine must not make it a lesser test
		for f.count() < 1200 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	h, err := m.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // late writes
	f.mu.Lock()
	f.Refuse = 0 // the last reading finds a whole cluster
	f.mu.Unlock()
	if err := m.Final(t.Context(), h, m.Conns[0]); err != nil {
		t.Fatal(err)
	}
	t.Log(h)
	return h, h.Check(20 * time.Second)
}

func TestHistoriesOfASoundStorePass(t *testing.T) {
	for name, c := range map[string]struct {
		fake  *fake
		retry bool
		told  string
	}{
		"all answers arrive":          {&fake{}, false, "move done"},
		"answers and requests lost":   {&fake{Drop: 5, Refuse: 5}, false, "unknown"},
		"lost ones executed later":    {&fake{Drop: 5, Late: true}, false, "unknown"},
		"everything asked again":      {&fake{Drop: 20, Refuse: 10}, true, "swap done"},
		"asked again, executed later": {&fake{Drop: 20, Late: true}, true, "create done"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := load(t, c.fake, c.retry)
			if err != nil {
				t.Error(err)
			}
			if !strings.Contains(h.String(), c.told) {
				t.Errorf("no %q in %s", c.told, h)
			}
		})
	}
}

// A judge that finds nothing wrong is worth nothing: each fault must be found.
func TestFaultsOfAStoreAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		fake  *fake
		retry bool
		want  string
	}{
		"stale reads":               {&fake{Stale: true}, false, "no order"},
		"acknowledged writes lost":  {&fake{Forget: true}, false, "no order"},
		"repeated request executed": {&fake{Twice: true, Drop: 30}, true, "no order"},
		"revisions go back":         {&fake{BackRevs: true}, false, "revision"},
		"half a transaction":        {&fake{HalfMoves: true}, false, "sum up to"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.fake, c.retry)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %v, want %q", err, c.want)
			}
		})
	}
}

func TestLedgerFindsWhatIsLostAndWhatIsNot(t *testing.T) {
	f := &fake{Drop: 5, Refuse: 5}
	socket := f.serve(t)
	l := &Ledger{Bucket: "tasks", Prefix: "a/", Size: 100}
	one, two := Dial(socket), Dial(filepath.Join(t.TempDir(), "nobody"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		for l.Acked() < 200 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	l.Write(ctx, time.Millisecond, one, one, two)
	f.Drop, f.Refuse = 0, 0
	t.Log(l)
	if codes := l.Codes(); l.Acked() < 50 || codes["no_quorum"] == 0 || codes[unreachable] == 0 {
		t.Fatalf("too little happened: %s", l)
	}
	if err := l.Verify(t.Context(), one, true, true); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		change func(item Item) Item
		want   string
	}{
		"lost":           {func(Item) Item { return Item{} }, "lost"},
		"other revision": {func(i Item) Item { i.Rev++; return i }, "revision"},
		"other length":   {func(i Item) Item { i.Value += "x"; return i }, "bytes"},
		"other value":    {func(i Item) Item { i.Value = strings.Repeat("x", len(i.Value)); return i }, "reads as"},
	} {
		t.Run(name, func(t *testing.T) {
			key := ""
			for k := range l.done {
				key = "tasks/" + k
				break
			}
			whole := f.keys[key]
			if changed := c.change(whole); changed.Found {
				f.keys[key] = changed
			} else {
				delete(f.keys, key)
			}
			if err := l.Verify(t.Context(), one, false, true); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %v, want %q", err, c.want)
			}
			f.keys[key] = whole
		})
	}
	f.keys["tasks/a/stranger"] = Item{Found: true, Rev: 1}
	for k := range l.refused {
		f.keys["tasks/"+k] = Item{Found: true, Rev: 1}
		break
	}
	err := l.Verify(t.Context(), one, true, false)
	if err == nil || !strings.Contains(err.Error(), "never written") || !strings.Contains(err.Error(), "was refused") {
		t.Errorf("found %v", err)
	}
}

func TestWhatErrorsMean(t *testing.T) {
	f := &fake{Refuse: 100}
	c := Dial(f.serve(t), filepath.Join(t.TempDir(), "nobody"))
	if _, err := c.Put(t.Context(), "b", "k", "v", Cond{}, 0); Code(err) != "no_quorum" || errors.Is(err, ErrUnknown) {
		t.Errorf("refusal: %v", err)
	}
	if _, err := c.Put(t.Context(), "b", "k", "v", Cond{}, 0); Code(err) != unreachable || errors.Is(err, ErrUnknown) {
		t.Errorf("socket of nobody, which is next: %v", err)
	}
	g := &fake{Drop: 100}
	c = Dial(g.serve(t))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c.Retry = true
	if _, err := c.Put(ctx, "b", "k", "v", Cond{}, 0); Code(err) != "" || !errors.Is(err, ErrUnknown) {
		t.Errorf("no answer at all: %v", err)
	}
	if g.rev != 10 {
		t.Errorf("revision %d: one request was executed more than once", g.rev)
	}
	// Refused at last, but an earlier try had no answer.
	h := &fake{Drop: 100}
	c = Dial(h.serve(t), filepath.Join(t.TempDir(), "nobody"))
	c.Retry = true
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	for range 5 {
		if _, err := c.Put(ctx, "b", "k", "v", Cond{}, 0); !errors.Is(err, ErrUnknown) && ctx.Err() == nil {
			t.Errorf("lost, then refused: %v", err)
		}
	}
}

func TestKeysWithSlashesReachTheStoreAsTheyAre(t *testing.T) {
	f := &fake{}
	c := Dial(f.serve(t))
	for _, key := range []string{"a/b", "..", "a b%2F", "é/ü", "?x=1#y"} {
		if _, err := c.Put(t.Context(), "b", key, key, Cond{}, time.Minute); err != nil {
			t.Fatal(err)
		}
		if item, err := c.Get(t.Context(), "b", key, true); err != nil || item.Value != key {
			t.Errorf("%q: %+v, %v", key, item, err)
		}
		if _, ok := f.keys["b/"+key]; !ok {
			t.Errorf("%q is stored under another name: %v", key, f.keys)
		}
	}
}

// Histories that follow each other in one bucket are judged each by itself,
// and by what was known when they began.
func TestHistoriesFollowEachOther(t *testing.T) {
	f := &fake{Drop: 10, Late: true}
	conn := Dial(f.serve(t))
	conn.Retry = true
	t.Cleanup(conn.Close)
	after := uint64(0)
	for _, prefix := range []string{"one/", "two/"} {
		m := &Mix{Bucket: "sessions", Prefix: prefix, Keys: 4, Accounts: 3, Pause: time.Millisecond, After: after, Conns: []*Conn{conn, conn, conn}}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		go func() {
			for from := f.count(); f.count() < from+200 && ctx.Err() == nil; {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		h, err := m.Run(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Check(20 * time.Second); err != nil {
			t.Errorf("%s: %v", prefix, err)
		}
		if h.Last() <= after {
			t.Errorf("%s ends with revision %d, it began after %d", prefix, h.Last(), after)
		}
		after = h.Last()
		h.after = after
		if err := h.Check(20 * time.Second); err == nil || !strings.Contains(err.Error(), "known before") {
			t.Errorf("%s: revisions that were known before are found fine: %v", prefix, err)
		}
	}
}
