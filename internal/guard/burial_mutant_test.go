package guard

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Each test here fails when one rule of the protocol is taken out of this
// package; see test/mutants.

// stubborn is a gate that cannot be closed from some moment on, and that knows
// when it was closed last.
type stubborn struct {
	*recorder
	stuck    atomic.Bool
	closedAt atomic.Int64
}

func (s *stubborn) CloseAll() error {
	if s.stuck.Load() {
		return errors.New("map is gone")
	}
	s.closedAt.Store(time.Now().UnixNano())
	return s.recorder.CloseAll()
}

// guarded runs a guard with such a gate, and returns when its worker is ready.
func guarded(t *testing.T, change func(*Options)) (*harness, *stubborn) {
	t.Helper()
	t.Setenv(behaviourEnv, "beat")
	h := &harness{recorder: &recorder{}, dir: t.TempDir(), ended: make(chan error, 1), ready: make(chan struct{}, 1)}
	gate := &stubborn{recorder: h.recorder}
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{
		RuntimeDir: h.dir, Command: []string{"/proc/self/exe"},
		Gate: gate, RemoveAddresses: h.remove, SendNotes: h.notes, DataDirFree: h.free,
		OnReady: func() { h.ready <- struct{}{} }, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	go func() { h.ended <- Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-h.ended:
		case <-time.After(30 * time.Second):
			t.Error("guard did not stop")
		}
	})
	return h, gate
}

// killWorker ends the worker as a crash does, and waits until it was buried.
func (h *harness) killWorker(t *testing.T) {
	t.Helper()
	h.waitReady(t)
	pid := h.workerPID(t)
	h.clear()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	h.wait(t, "the burial", func() bool { return h.has("addresses") })
	h.wait(t, "the next worker", func() bool { return h.has("number") })
}

// Covers G5: of a gate that could not be closed, nobody says that it is.
func TestG5NoNoteWhenTheGateStaysOpen(t *testing.T) {
	h, gate := guarded(t, nil)
	h.waitReady(t)
	h.ready <- struct{}{}
	gate.stuck.Store(true)
	h.killWorker(t)
	for _, e := range h.all() {
		if strings.HasPrefix(e, "note") {
			t.Fatalf("did %v, and the gate is open", h.all())
		}
	}
	gate.stuck.Store(false)
}

// Covers G5: frames that passed the gate before it closed have left when the
// note does.
func TestG5NoteWaitsForTheFrames(t *testing.T) {
	var gate *stubborn
	least := atomic.Int64{}
	least.Store(int64(time.Hour))
	h, _ := guarded(t, func(o *Options) {
		send := o.SendNotes
		o.SendNotes = func(targets []netip.AddrPort, notes [][]byte) error {
			since := time.Now().UnixNano() - gate.closedAt.Load()
			least.Store(min(least.Load(), since))
			return send(targets, notes)
		}
		gate = o.Gate.(*stubborn)
	})
	h.killWorker(t)
	if since := time.Duration(least.Load()); since < NoteDelay || since == time.Hour {
		t.Fatalf("the first note left %v after the close, want %v at least", since, NoteDelay)
	}
}

// Covers G7: no worker starts beside a process that holds the data directory.
func TestG7WorkerWaitsForTheDataDirectory(t *testing.T) {
	var free atomic.Bool
	h, _ := guarded(t, func(o *Options) {
		o.DataDirFree = func() error {
			if !free.Load() {
				return errors.New("in use")
			}
			return nil
		}
	})
	h.wait(t, "the take-over", func() bool { return h.has("addresses") })
	time.Sleep(200 * time.Millisecond)
	if _, err := os.Stat(filepath.Join(h.dir, workerPidFile)); err == nil {
		t.Fatal("a worker was started while the data directory is in use")
	}
	free.Store(true)
	h.waitReady(t)
}

// Covers G7: the worker of a guard that is gone is ended before another starts.
func TestG7LeftoverIsKilled(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // as start does
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	file := filepath.Join(t.TempDir(), workerPidFile)
	if err := writePid(file, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := endLeftover(file); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Fatal("the worker left over lives")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("its pid file is still there")
	}
}
