// Package guard is the parent process of the worker.
//
// It owns what must outlive a worker: the kernel gate, the worker's life, and
// the note that speaks for the worker after its death. It can only close the
// gate, never open it. Rules G5 and G7 of the protocol are kept here.
package guard

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Gate is the kernel gate as the guard needs it; netfence.Fence implements it.
type Gate interface {
	// SetIncarnation sets the number that every gate value is compared with;
	// 0 closes all.
	SetIncarnation(uint64) error
	// CloseAll sets the number and every value to 0 and reads both back.
	CloseAll() error
	// GateFiles makes the map descriptors that a worker inherits; the guard
	// closes its own copies.
	GateFiles() ([]*os.File, error)
	// Verify tells whether the programs are attached wherever they must be.
	Verify() error
	// AttachAll attaches what is not attached.
	AttachAll() error
}

// Options say what to run and with what.
type Options struct {
	// RuntimeDir holds guard.pid, worker.pid and the addresses that workers
	// may have set. The caller holds its lock (LockRuntime).
	RuntimeDir string
	// Command starts a worker; "--incarnation N --gate-files N" is added.
	Command []string
	// Addresses are removed from the host at start and after each worker, as
	// are those of the worker's testament.
	Addresses []Address
	// Gate is the kernel gate, loaded and closed.
	Gate Gate
	// RemoveAddresses takes addresses off this host; an address that is not
	// there is a success.
	RemoveAddresses func([]Address) error
	// SendNotes sends each note to each target once, over UDP.
	SendNotes func(targets []netip.AddrPort, notes [][]byte) error
	// DataDirFree returns nil once no process holds the data directory.
	DataDirFree func() error
	// StopLimit is the longest time that a planned stop may take; 0 =
	// DefaultStopLimit.
	StopLimit time.Duration
	// StartLimit is the longest time from the start of a worker to its first
	// beat; 0 = DefaultStartLimit.
	StartLimit time.Duration
	// Reload delivers requests to read the configuration again (SIGHUP).
	Reload <-chan struct{}
	// OnReady is called when a worker serves for the first time.
	OnReady func()
	// Logger is never nil.
	Logger *slog.Logger
}

// Exit codes of a worker that tell the guard not to start another one. They
// are none that Go itself ends a process with: a panic exits with 2.
const (
	// ExitConfig: the configuration cannot be used.
	ExitConfig = 82
	// ExitIntegrity: the data directory failed an integrity check.
	ExitIntegrity = 85
)

// WorkerError says that a worker ended in a way that a restart cannot mend.
type WorkerError struct {
	// Code is ExitConfig or ExitIntegrity.
	Code int
}

func (e *WorkerError) Error() string {
	if e.Code == ExitIntegrity {
		return "worker refused to start: the data directory failed an integrity check"
	}
	return "worker refused to start: the configuration cannot be used"
}

// NoteDelay lets frames that passed the gate before it closed leave the
// interface (G5).
const NoteDelay = time.Millisecond

// NoteRepeats are the pauses before each repetition of a death note: a lost
// datagram would cost the others a whole promise.
var NoteRepeats = [...]time.Duration{2 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond}

// Limits of a worker's life, unless Options say otherwise.
const (
	DefaultStopLimit  = 15 * time.Second
	DefaultStartLimit = time.Minute
)

// A worker that ended is followed by another after a pause: BackoffFirst, twice
// as long each time up to BackoffMost, and from BackoffFirst again after one
// that has lived for BackoffReset.
const (
	BackoffFirst = 100 * time.Millisecond
	BackoffMost  = 5 * time.Second
	BackoffReset = 30 * time.Second
)

type guard struct {
	Options
	log      *slog.Logger
	checks   sync.WaitGroup // looks at the gate, beside the life of a worker
	backoff  time.Duration
	gateOK   bool
	notified bool
}

// Run guards workers until ctx ends, which asks the last one to hand over and
// exit. It returns nil after a planned stop, and then no address and no worker
// is left; the gate stays attached and closed.
func Run(ctx context.Context, o Options) error {
	if o.StopLimit == 0 {
		o.StopLimit = DefaultStopLimit
	}
	if o.StartLimit == 0 {
		o.StartLimit = DefaultStartLimit
	}
	g := &guard{Options: o, log: o.Logger, gateOK: true}
	if err := raisePriority(); err != nil {
		o.Logger.Warn("running at normal priority", "error", err)
	}
	if err := g.takeOver(); err != nil {
		return err
	}
	defer os.Remove(filepath.Join(o.RuntimeDir, pidFile))
	defer g.checks.Wait()
	for {
		started := time.Now()
		err := g.life(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var fatal *WorkerError
		if errors.As(err, &fatal) {
			return err
		}
		if time.Since(started) > BackoffReset {
			g.backoff = 0
		}
		g.backoff = min(max(2*g.backoff, BackoffFirst), BackoffMost)
		g.log.Warn("worker ended, starting another", "reason", err, "in", g.backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(g.backoff):
		}
	}
}

const (
	pidFile       = "guard.pid"
	workerPidFile = "worker.pid"
)

// ErrRunning means that another guard owns the runtime directory.
var ErrRunning = errors.New("another holdfast runs with this runtime directory")

// LockRuntime makes the caller the only guard of a runtime directory, before it
// touches anything that another one may be using: loading a gate closes it.
// The lock ends with the file or the process. ErrRunning: there is another.
func LockRuntime(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "guard.lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open guard lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrRunning, dir)
		}
		return nil, fmt.Errorf("lock runtime directory: %w", err)
	}
	return f, nil
}

// takeOver brings the host into the state in which no worker lives, no gate
// value opens anything and no floating address is set, whatever a guard before
// this one left behind. The order is the one of section 2 of the protocol: the
// number first, so that a worker left over writes in vain.
func (g *guard) takeOver() error {
	if err := os.WriteFile(filepath.Join(g.RuntimeDir, pidFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return fmt.Errorf("write guard pid: %w", err)
	}
	number, err := draw()
	if err != nil {
		return err
	}
	if err := g.Gate.SetIncarnation(number); err != nil {
		return fmt.Errorf("raise gate number: %w", err)
	}
	if err := g.Gate.CloseAll(); err != nil {
		return fmt.Errorf("close gate: %w", err)
	}
	if err := endLeftover(filepath.Join(g.RuntimeDir, workerPidFile)); err != nil {
		return fmt.Errorf("end worker left over: %w", err)
	}
	if err := g.Gate.CloseAll(); err != nil {
		return fmt.Errorf("close gate again: %w", err)
	}
	return g.clearAddresses()
}

// clearAddresses takes off this host whatever a worker may have set.
func (g *guard) clearAddresses() error {
	known, err := KnownAddresses(g.RuntimeDir)
	if err != nil {
		return err
	}
	if err := g.RemoveAddresses(append(known, g.Addresses...)); err != nil {
		return fmt.Errorf("remove addresses: %w", err)
	}
	return nil
}

// draw returns a random incarnation, never 0.
func draw() (uint64, error) {
	var b [8]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("draw incarnation: %w", err)
		}
		if n := binary.LittleEndian.Uint64(b[:]); n != 0 {
			return n, nil
		}
	}
}
