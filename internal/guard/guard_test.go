package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/clock"
)

// The worker of these tests is this test binary, told by its environment what
// to do. Its guard is real, so are its process, its death and the connection.
const behaviourEnv = "HOLDFAST_TEST_WORKER"

func TestMain(m *testing.M) {
	if b := os.Getenv(behaviourEnv); b != "" {
		os.Exit(worker(b))
	}
	os.Exit(m.Run())
}

func worker(behaviour string) int {
	l, err := NewLink()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code, ok := strings.CutPrefix(behaviour, "exit-"); ok {
		n, _ := strconv.Atoi(code)
		return n
	}
	t := Testament{
		Over:      []byte("over"),
		Targets:   []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:7400")},
		Addresses: []Address{{netip.MustParsePrefix("10.77.0.100/24"), "eth0"}},
		HangLimit: 200 * time.Millisecond,
	}
	if err := l.Testify(t); err != nil {
		return 1
	}
	if e, ok := <-l.Events(); !ok || e.Kind != Acknowledged {
		return 1
	}
	l.Beat()
	l.Ready()
	beat := time.NewTicker(20 * time.Millisecond)
	for {
		select {
		case <-beat.C:
			if behaviour != "hang" {
				l.Beat()
			}
		case e, ok := <-l.Events():
			if !ok {
				os.WriteFile(os.Getenv("HOLDFAST_TEST_ORPHAN"), []byte("released"), 0o600)
				return 0
			}
			switch e.Kind {
			case Stop:
				l.Stopping()
				return 0
			case Reload:
				return 3
			case GateState:
				if !e.OK {
					return 4
				}
			}
		}
	}
}

// recorder is the order of what the guard did.
type recorder struct {
	mu     sync.Mutex
	events []string
	number uint64
	verify error
}

func (r *recorder) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

func (r *recorder) SetIncarnation(n uint64) error {
	r.add("number")
	if n == 0 || n == r.number {
		return errors.New("number not raised")
	}
	r.number = n
	return nil
}
func (r *recorder) CloseAll() error                { r.add("close"); return nil }
func (r *recorder) GateFiles() ([]*os.File, error) { return nil, nil }
func (r *recorder) AttachAll() error               { r.add("attach"); return nil }
func (r *recorder) Verify() error                  { r.mu.Lock(); defer r.mu.Unlock(); return r.verify }
func (r *recorder) has(want string) bool           { return slices.Contains(r.all(), want) }
func (r *recorder) all() []string                  { r.mu.Lock(); defer r.mu.Unlock(); return slices.Clone(r.events) }
func (r *recorder) clear()                         { r.mu.Lock(); defer r.mu.Unlock(); r.events = nil }
func (r *recorder) setVerify(err error)            { r.mu.Lock(); defer r.mu.Unlock(); r.verify = err }
func (r *recorder) free() error                    { return nil }
func (r *recorder) remove([]Address) error         { r.add("addresses"); return nil }

func (r *recorder) notes(targets []netip.AddrPort, notes [][]byte) error {
	r.add("note %s to %v", notes[0], targets[0])
	return nil
}

type harness struct {
	*recorder
	dir    string
	cancel context.CancelFunc
	ended  chan error
	reload chan struct{}
	ready  chan struct{}
}

func start(t *testing.T, behaviour string) *harness {
	t.Helper()
	t.Setenv(behaviourEnv, behaviour)
	h := &harness{recorder: &recorder{}, dir: t.TempDir(), ended: make(chan error, 1), reload: make(chan struct{}), ready: make(chan struct{}, 1)}
	lock, err := LockRuntime(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	o := Options{
		RuntimeDir: h.dir, Command: []string{"/proc/self/exe"},
		Gate: h, RemoveAddresses: h.remove, SendNotes: h.notes, DataDirFree: h.free,
		Reload: h.reload, OnReady: func() { h.ready <- struct{}{} },
		Logger: slog.New(slog.DiscardHandler),
	}
	go func() { h.ended <- Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-h.ended:
		case <-time.After(30 * time.Second):
			t.Error("guard did not stop")
		}
		lock.Close()
	})
	return h
}

func (h *harness) waitReady(t *testing.T) {
	t.Helper()
	select {
	case <-h.ready:
	case err := <-h.ended:
		h.ended <- err
		t.Fatalf("guard ended: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("worker never ready")
	}
}

func (h *harness) wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s; did %v", what, h.all())
		}
	}
}

func (h *harness) workerPID(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(h.dir, workerPidFile))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(raw), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

const note = "note over to 127.0.0.1:7400"

// wantBurial is the order of G5: close, then the note, then the addresses.
func wantBurial(t *testing.T, events []string) {
	t.Helper()
	if len(events) < 3 || !slices.Equal(events[:3], []string{"close", note, "addresses"}) {
		t.Fatalf("burial did %v, want close, note, addresses", events)
	}
}

// Covers G5, G7: a guard raises the number first, zeroes, ends a worker left
// over, zeroes again, and removes addresses before it starts a worker.
func TestTakeOverOrder(t *testing.T) {
	h := start(t, "good")
	h.waitReady(t)
	want := []string{"number", "close", "close", "addresses", "number"}
	if got := h.all(); !slices.Equal(got, want) {
		t.Fatalf("did %v, want %v", got, want)
	}
}

func TestKilledWorkerIsBuriedAndFollowed(t *testing.T) {
	h := start(t, "good")
	h.waitReady(t)
	pid := h.workerPID(t)
	h.clear()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.wait(t, "next worker", func() bool { return h.has("number") })
	wantBurial(t, h.all())
	h.wait(t, "other pid", func() bool {
		_, err := os.Stat(filepath.Join(h.dir, workerPidFile))
		return err == nil && h.workerPID(t) != pid
	})
}

func TestHungWorkerIsKilled(t *testing.T) {
	h := start(t, "hang")
	h.waitReady(t)
	pid := h.workerPID(t)
	h.clear()
	h.wait(t, "close", func() bool { return h.has("addresses") })
	wantBurial(t, h.all())
	// The notes go out before the worker is reaped, so it may be a zombie yet.
	h.wait(t, "worker reaped", func() bool { return unix.Kill(pid, 0) != nil })
}

func TestStoppedWorkerCountsAsHung(t *testing.T) {
	h := start(t, "good")
	h.waitReady(t)
	pid := h.workerPID(t)
	h.clear()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.wait(t, "burial", func() bool { return h.has("addresses") })
	wantBurial(t, h.all())
}

func TestPlannedStop(t *testing.T) {
	h := start(t, "good")
	h.waitReady(t)
	h.clear()
	h.cancel()
	err := <-h.ended
	h.ended <- nil
	if err != nil {
		t.Fatalf("planned stop returned %v", err)
	}
	wantBurial(t, h.all())
	for _, f := range []string{pidFile, workerPidFile} {
		if _, err := os.Stat(filepath.Join(h.dir, f)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s left behind: %v", f, err)
		}
	}
}

func TestFatalExitCodesEndTheGuard(t *testing.T) {
	for _, code := range []int{ExitConfig, ExitIntegrity} {
		h := start(t, fmt.Sprintf("exit-%d", code))
		err := <-h.ended
		h.ended <- nil
		var we *WorkerError
		if !errors.As(err, &we) || we.Code != code {
			t.Fatalf("guard returned %v, want worker error %d", err, code)
		}
		if h.has(note) {
			t.Fatal("a note was sent for a worker that left no testament")
		}
	}
}

// A panic exits with 2, which is also what a shell calls a wrong usage: the
// guard must start another worker, not give up.
func TestAPanicIsNoWrongConfiguration(t *testing.T) {
	h := start(t, "exit-2")
	h.wait(t, "second worker", func() bool {
		n := 0
		for _, e := range h.all() {
			if e == "number" {
				n++
			}
		}
		return n >= 3 // take-over, first, second
	})
}

func TestReloadAndGateStateReachTheWorker(t *testing.T) {
	h := start(t, "good")
	h.waitReady(t)
	h.clear()
	h.reload <- struct{}{}
	h.wait(t, "worker that exits on reload", func() bool { return h.has("addresses") })
	h.waitReadyAgain(t)
	h.clear()
	h.setVerify(errors.New("eth9: no program"))
	h.wait(t, "worker that exits on a lost gate", func() bool { return h.has("addresses") })
	if !h.has("attach") {
		t.Fatal("the gate was not attached again")
	}
	h.setVerify(nil)
}

func (h *harness) waitReadyAgain(t *testing.T) {
	t.Helper()
	h.wait(t, "next worker", func() bool { return h.has("number") })
}

func TestSecondGuardIsRefused(t *testing.T) {
	dir := t.TempDir()
	first, err := LockRuntime(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockRuntime(dir); !errors.Is(err, ErrRunning) {
		t.Fatalf("second guard got %v, want ErrRunning", err)
	}
	first.Close()
	again, err := LockRuntime(dir)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	again.Close()
}

// Covers G7: a worker whose guard is gone is ended before another starts, and
// a stranger with its pid is not.
func TestLeftoverWorkerIsEnded(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), workerPidFile)
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d 1\n", cmd.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := endLeftover(path); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Fatalf("a process with another start time was killed: %v", err)
	}
	if err := writePid(path, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	if err := endLeftover(path); err != nil {
		t.Fatal(err)
	}
	<-waited
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("pid file left: %v", err)
	}
	if err := endLeftover(path); err != nil {
		t.Fatalf("without a file: %v", err)
	}
	if err := os.WriteFile(path, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := endLeftover(path); err != nil {
		t.Fatalf("torn file: %v", err)
	}
}

// A worker whose guard dies sees the end of the connection: it must release
// and exit by itself.
func TestWorkerSeesTheDeathOfItsGuard(t *testing.T) {
	orphan := filepath.Join(t.TempDir(), "orphan")
	t.Setenv("HOLDFAST_TEST_ORPHAN", orphan)
	t.Setenv(behaviourEnv, "good")
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	heart, heartFile, err := newPulse()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.ExtraFiles = []*os.File{theirs, heartFile}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	buf := make([]byte, maxPacket)
	if m, err := ours.receive(buf); err != nil || m.Kind != kindTestify {
		t.Fatalf("got %+v, %v", m, err)
	}
	if err := ours.send(message{Kind: kindAck}); err != nil {
		t.Fatal(err)
	}
	if m, err := ours.receive(buf); err != nil || m.Kind != kindReady {
		t.Fatalf("got %+v, %v", m, err)
	}
	if last := heart.last(); last == 0 || last > clock.Boottime() {
		t.Fatalf("the last beat was at %d", last)
	}
	ours.close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(orphan); string(got) != "released" {
		t.Fatalf("worker wrote %q", got)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	c, f, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	defer f.Close()
	if err := c.send(message{Kind: kindGate, Text: strings.Repeat("x", maxPacket)}); err == nil {
		t.Fatal("an oversize message was sent")
	}
	var busy error
	for range 10_000 {
		if busy = c.send(message{Kind: kindReady}); busy != nil {
			break
		}
	}
	if !errors.Is(busy, ErrBusy) {
		t.Fatalf("a peer that does not read gave %v, want ErrBusy", busy)
	}
}

func TestHangLimit(t *testing.T) {
	for promise, want := range map[time.Duration]time.Duration{
		500 * time.Millisecond: 250 * time.Millisecond,
		120 * time.Millisecond: 100 * time.Millisecond,
		2 * time.Second:        time.Second,
	} {
		if got := HangLimit(promise); got != want {
			t.Errorf("promise %v: hang limit %v, want %v", promise, got, want)
		}
	}
}

// The addresses of a worker are known to the next guard, whatever its
// configuration says by then.
func TestAddressesAreRemembered(t *testing.T) {
	h := start(t, "good")
	h.waitReady(t)
	known, err := KnownAddresses(h.dir)
	if err != nil || len(known) != 1 || known[0].Interface != "eth0" {
		t.Fatalf("known after a testament: %v, %v", known, err)
	}
	path := filepath.Join(h.dir, addressFile)
	if err := rememberAddresses(h.dir, known); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil || strings.Count(string(raw), "eth0\n") != 1 {
		t.Fatalf("written twice: %q, %v", raw, err)
	}
	if err := os.WriteFile(path, append(raw, "10.0.0.1/24 et"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err = KnownAddresses(h.dir); err != nil || len(known) != 1 {
		t.Fatalf("with a line cut short: %v, %v", known, err)
	}
	if err := os.WriteFile(path, []byte("nonsense eth0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err = KnownAddresses(h.dir); err != nil || len(known) != 0 {
		t.Fatalf("nonsense was read as %v, %v", known, err)
	}
	if err := os.WriteFile(path, []byte("192.0.2.1/2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rememberAddresses(h.dir, []Address{{netip.MustParsePrefix("10.0.0.9/24"), "eth0"}}); err != nil {
		t.Fatal(err)
	}
	if known, err = KnownAddresses(h.dir); err != nil || len(known) != 1 {
		t.Fatalf("after a line that was cut short: %v, %v", known, err)
	}
	os.Remove(path)
}

// Covers G7: the burial of a worker ends only when it was reaped.
func TestBurialWaitsForTheReaping(t *testing.T) {
	r := &recorder{}
	cmd := exec.Command("/bin/sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	heart, heartFile, err := newPulse()
	if err != nil {
		t.Fatal(err)
	}
	heartFile.Close()
	l := &life{
		g:   &guard{Options: Options{RuntimeDir: t.TempDir(), Gate: r, RemoveAddresses: r.remove, SendNotes: r.notes}, log: slog.New(slog.DiscardHandler)},
		cmd: cmd, conn: ours, pulse: heart, exited: make(chan error, 1), messages: make(chan message),
	}
	go l.read()
	buried := make(chan error, 1)
	go func() { buried <- l.bury() }()
	for deadline := time.Now().Add(10 * time.Second); !r.has("addresses"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never buried")
		}
	}
	select {
	case <-buried:
		t.Fatal("burial ended before the worker was reaped")
	case <-time.After(300 * time.Millisecond): // longer than all that it does before
	}
	l.exited <- cmd.Wait()
	if err := <-buried; err != nil {
		t.Fatal(err)
	}
}
