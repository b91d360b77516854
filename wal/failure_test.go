package wal

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// One error at each operation, of each kind: nothing is acknowledged after it,
// the error stays, and what was acknowledged before it survives a power cut.
func TestErrorAtEveryOperation(t *testing.T) {
	errs := map[string]error{
		"error":       vfs.ErrInjected,
		"short write": &vfs.ShortWrite{N: 700, Err: vfs.ErrInjected},
	}
	for name, injected := range errs {
		t.Run(name, func(t *testing.T) {
			hit := 0
			for n := int64(0); ; n++ {
				fired, err := failAt(n, injected)
				if err != nil {
					t.Fatalf("error at operation %d: %v", n, err)
				}
				if !fired {
					break
				}
				hit++
			}
			t.Logf("%d operations failed", hit)
			if hit < 100 {
				t.Errorf("only %d operations were failed", hit)
			}
		})
	}
}

// failAt runs the script with one error and returns whether it came.
func failAt(n int64, injected error) (fired bool, err error) {
	mem := vfs.NewMem()
	h := &history{}
	var mu sync.Mutex
	seen := int64(0)
	fsys := vfs.Inject(mem, func(op vfs.Op) error {
		if !op.Kind.Changes() && op.Kind != vfs.OpOpen || op.Kind == vfs.OpReload {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen == n+1 {
			fired = true
			return injected
		}
		return nil
	})
	l, err := Create(testOptions(fsys))
	if err != nil {
		if !errors.Is(err, vfs.ErrInjected) {
			return true, err
		}
		return fired, nil
	}
	serr := script(l, h)
	acked := h.now().acked
	if serr != nil {
		for range 3 {
			again := appendWait(l, entry(1000, 1))
			if again == nil || !errors.Is(again, vfs.ErrInjected) {
				return true, fmt.Errorf("append after the failure: %w", again)
			}
		}
		if err := l.Release(1 << 40); err == nil {
			return true, errors.New("release after the failure")
		}
		<-l.Failed()
	}
	cerr := l.Close()
	if serr != nil && cerr == nil {
		return true, errors.New("close hides the failure")
	}
	mu.Lock()
	defer mu.Unlock()
	if fired && serr == nil && cerr == nil {
		// Only what is done for later or in passing may fail unseen, when the
		// script ends before it matters.
		if len(h.steps) != acked {
			return true, fmt.Errorf("%d steps of %d acknowledged", acked, len(h.steps))
		}
	}
	mem.Crash(vfs.CrashOptions{})
	now := h.now()
	if _, err := checkCut(mem, &now, &now); err != nil {
		return true, err
	}
	return fired, nil
}

func TestNoAckAfterFailedSync(t *testing.T) {
	mem := vfs.NewMem()
	var mu sync.Mutex
	broken := false
	l := mustCreate(t, testOptions(vfs.Inject(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if broken && op.Kind == vfs.OpSync && !strings.Contains(op.Path, "/next-") {
			broken = false // a second sync would say that all is well
			return syscall.EIO
		}
		return nil
	})))
	if err := appendWait(l, entry(1, 10)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	broken = true
	mu.Unlock()
	const calls = 50
	got := make(chan error, calls)
	for i := range calls {
		l.Append([]Record{entry(uint64(i+2), 10)}, func(err error) { got <- err })
	}
	for range calls {
		if err := <-got; !errors.Is(err, syscall.EIO) {
			t.Fatalf("callback after a failed sync got %v", err)
		}
	}
	if err := l.Err(); !errors.Is(err, syscall.EIO) {
		t.Errorf("final error %v", err)
	}
	if err := l.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("close says %v", err)
	}
	if err := appendWait(l, entry(100, 1)); !errors.Is(err, syscall.EIO) {
		t.Errorf("append after close says %v", err)
	}
}

// A full disk is seen when the next segment is prepared, while there is room to
// write; it is final only when the room is used up.
func TestFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	var mu sync.Mutex
	full := true
	l := mustCreate(t, testOptions(vfs.Inject(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if full && op.Kind == vfs.OpWrite && len(op.Path) > 10 && op.Path[:15] == testDir+"/next-" {
			return syscall.ENOSPC
		}
		return nil
	})))
	for l.Stats().Blocked == nil {
		time.Sleep(time.Millisecond) // polls for the preparer, is no synchronisation
	}
	index := uint64(0)
	for l.Stats().Room >= blockBytes {
		index++
		if err := appendWait(l, entry(index, 10)); err != nil {
			t.Fatalf("append with room left: %v", err)
		}
	}
	if s := l.Stats(); !errors.Is(s.Blocked, syscall.ENOSPC) || s.Err != nil {
		t.Fatalf("full disk is not seen: %+v", s)
	}
	if err := appendWait(l, entry(index+1, 10)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append without room: %v", err)
	}
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("close: %v", err)
	}
	mu.Lock()
	full = false
	mu.Unlock()
	opts := testOptions(mem)
	l, rec, _ := mustOpen(t, opts)
	defer mustClose(t, l)
	if rec.LastIndex != index || rec.Verdict != Clean {
		t.Fatalf("after a full disk: %+v, want last index %d", rec, index)
	}
	if err := appendWait(l, entry(index+1, 10)); err != nil {
		t.Fatal(err)
	}
}

// A disk that is full for a while is tried again.
func TestFullDiskIsTriedAgain(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll(testDir, 0o700); err != nil {
		t.Fatal(err)
	}
	fsys := vfs.Inject(mem, vfs.Nth(0, syscall.ENOSPC, func(op vfs.Op) bool { return op.Kind == vfs.OpWrite }))
	p := newPreparer(fsys, testDir, minSegmentBytes, func(err error) error {
		t.Errorf("a full disk is not final: %v", err)
		return err
	})
	p.retry = 1
	go p.run()
	defer p.close()
	for {
		if next := <-p.ready; next.err == nil {
			if err := next.file.Close(); err != nil {
				t.Error(err)
			}
			return
		} else if !errors.Is(next.err, syscall.ENOSPC) {
			t.Fatal(next.err)
		}
	}
}
