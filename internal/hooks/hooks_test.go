package hooks

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// script writes a shell script that appends what it is told to a file.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, r *Runner, e Event) error {
	t.Helper()
	done := make(chan error, 1)
	if queued, err := r.Run(e, func(err error) { done <- err }); !queued {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("hook never ended")
		return nil
	}
}

func TestHooksRunInOrderWithTheirEvent(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	slow := script(t, `sleep 0.2; echo slow $HOLDFAST_PHASE $HOLDFAST_GROUP $HOLDFAST_EPOCH $HOLDFAST_SEQUENCE $HOLDFAST_NODE "$HOLDFAST_VIPS" $HOLDFAST_CAUSE >>`+out)
	quick := script(t, "echo quick $HOLDFAST_PHASE $HOLDFAST_SEQUENCE >>"+out)
	r := New(quiet(), []Hook{
		{PreAcquire, []string{slow}, time.Minute},
		{Released, []string{quick}, time.Minute},
	})
	defer r.Close(time.Minute)
	r.Run(Event{Phase: PreAcquire, Group: "g", Epoch: 7, Node: "gw1", Cause: "boot", VIPs: []string{"a", "b"}}, nil)
	if err := run(t, r, Event{Phase: Released}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if want := "slow pre-acquire g 7 1 gw1 a b boot\nquick released 2\n"; string(got) != want {
		t.Fatalf("hooks wrote %q, want %q", got, want)
	}
}

func TestNoHookIsASuccessAtOnce(t *testing.T) {
	r := New(quiet(), nil)
	defer r.Close(0)
	queued, err := r.Run(Event{Phase: Acquired}, func(error) { t.Error("done was called") })
	if queued || err != nil {
		t.Fatalf("got %v, %v, want neither", queued, err)
	}
}

func TestFailingAndHangingHooks(t *testing.T) {
	r := New(quiet(), []Hook{
		{PreAcquire, []string{script(t, "echo why >&2; exit 3")}, time.Minute},
		{PreRelease, []string{script(t, "sleep 600 & sleep 600")}, 50 * time.Millisecond},
		{Acquired, []string{"/does/not/exist"}, time.Minute},
	})
	defer r.Close(time.Minute)
	if err := run(t, r, Event{Phase: PreAcquire}); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("got %v, want exit status 3", err)
	}
	if err := run(t, r, Event{Phase: PreRelease}); err == nil || !strings.Contains(err.Error(), "did not end within 50ms") {
		t.Fatalf("got %v, want the time limit", err)
	}
	if err := run(t, r, Event{Phase: Acquired}); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v, want not exist", err)
	}
}

func TestCloseKillsWhatRunsAndRefusesMore(t *testing.T) {
	r := New(quiet(), []Hook{{Acquired, []string{"/bin/sleep", "600"}, time.Hour}})
	ended := make(chan error, 1)
	r.Run(Event{Phase: Acquired}, func(err error) { ended <- err })
	r.Close(20 * time.Millisecond)
	if err := <-ended; err == nil {
		t.Fatal("a killed hook counted as done")
	}
	if err := run(t, r, Event{Phase: Acquired}); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want ErrClosed", err)
	}
	r.Close(0) // twice is fine
}

func TestQueueIsBounded(t *testing.T) {
	r := New(quiet(), []Hook{{Acquired, []string{"/bin/sleep", "600"}, time.Hour}})
	defer r.Close(0)
	full := 0
	for range 2 * maxQueue {
		if _, err := r.Run(Event{Phase: Acquired}, nil); errors.Is(err, ErrQueueFull) {
			full++
		}
	}
	if full < maxQueue-1 {
		t.Fatalf("%d of %d events refused", full, 2*maxQueue)
	}
}

func TestOnlyTheTailOfTheOutputIsKept(t *testing.T) {
	var o tail
	o.Write([]byte(strings.Repeat("a", 3*maxOutput)))
	o.Write([]byte("end"))
	if got := o.String(); len(got) != maxOutput || !strings.HasSuffix(got, "aend") {
		t.Fatalf("kept %d bytes ending in %q", len(got), got[max(0, len(got)-8):])
	}
}
