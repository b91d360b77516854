// Package hooks runs the commands that an operator ties to the phases of
// holding an address.
//
// All hooks of a node run in one queue, one after the other, in the order of
// the events that caused them: two of them never run at once or out of order.
// Each has a time limit, after which its whole process group is killed.
package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Phase says when a hook runs.
type Phase string

// The phases, in the order of a tenure.
const (
	PreAcquire Phase = "pre-acquire"
	Acquired   Phase = "acquired"
	PreRelease Phase = "pre-release"
	Released   Phase = "released"
	Unhealthy  Phase = "unhealthy"
	Fenced     Phase = "fenced"
)

// Hook is one configured command.
type Hook struct {
	Phase   Phase
	Command []string
	// Timeout is the time after which the command is killed and has failed.
	Timeout time.Duration
}

// Event is what a hook is told, by environment variables HOLDFAST_PHASE,
// HOLDFAST_GROUP, HOLDFAST_EPOCH, HOLDFAST_SEQUENCE, HOLDFAST_NODE,
// HOLDFAST_VIPS (separated by blanks) and HOLDFAST_CAUSE.
type Event struct {
	Phase Phase
	Group string
	Epoch uint64
	Node  string
	Cause string
	VIPs  []string
}

// maxQueue bounds the events that wait.
const maxQueue = 256

// maxOutput bounds what is kept of a hook's output for the log, in bytes.
const maxOutput = 4 << 10

var (
	// ErrQueueFull means that hooks take longer than events come.
	ErrQueueFull = errors.New("hook queue is full")
	// ErrClosed means that the runner has ended.
	ErrClosed = errors.New("hook runner is closed")
)

type job struct {
	event Event
	seq   uint64
	hooks []Hook
	done  func(error)
}

// Runner owns the queue and its goroutine.
type Runner struct {
	log    *slog.Logger
	mu     sync.Mutex // guards hooks, seq, closed and sends on jobs
	hooks  []Hook
	seq    uint64
	closed bool
	jobs   chan job
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New starts a runner of the given hooks. Close ends it.
func New(log *slog.Logger, hooks []Hook) *Runner {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Runner{log: log, hooks: hooks, jobs: make(chan job, maxQueue), ctx: ctx, cancel: cancel}
	r.wg.Go(r.loop)
	return r
}

// SetHooks replaces the hooks for events that come from now on.
func (r *Runner) SetHooks(hooks []Hook) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hooks = hooks
}

// Run queues the hooks of the event. When they are queued, done is called from
// the runner's goroutine with the first error once all of them ran; it may be
// nil. Otherwise done is not called: err says why (ErrQueueFull, ErrClosed),
// or is nil because no hook is configured for the phase.
func (r *Runner) Run(e Event, done func(error)) (queued bool, err error) {
	if done == nil {
		done = func(error) {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	var hooks []Hook
	for _, h := range r.hooks {
		if h.Phase == e.Phase {
			hooks = append(hooks, h)
		}
	}
	if len(hooks) == 0 {
		return false, nil
	}
	if r.closed {
		return false, ErrClosed
	}
	select {
	case r.jobs <- job{e, r.seq, hooks, done}:
		return true, nil
	default:
		return false, ErrQueueFull
	}
}

// Close waits up to limit for queued hooks, then kills what still runs.
func (r *Runner) Close(limit time.Duration) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	close(r.jobs)
	r.mu.Unlock()
	timer := time.AfterFunc(limit, r.cancel)
	r.wg.Wait()
	timer.Stop()
	r.cancel()
}

func (r *Runner) loop() {
	for j := range r.jobs {
		var first error
		for _, h := range j.hooks {
			if err := r.runOne(h, j); err != nil && first == nil {
				first = err
			}
		}
		j.done(first)
	}
}

func (r *Runner) runOne(h Hook, j job) error {
	ctx, cancel := context.WithTimeout(r.ctx, h.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Env = append(os.Environ(),
		"HOLDFAST_PHASE="+string(j.event.Phase),
		"HOLDFAST_GROUP="+j.event.Group,
		"HOLDFAST_EPOCH="+strconv.FormatUint(j.event.Epoch, 10),
		"HOLDFAST_SEQUENCE="+strconv.FormatUint(j.seq, 10),
		"HOLDFAST_NODE="+j.event.Node,
		"HOLDFAST_CAUSE="+j.event.Cause,
		"HOLDFAST_VIPS="+strings.Join(j.event.VIPs, " "),
	)
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 100 * time.Millisecond // a daemon left behind may hold the output open
	start := time.Now()
	err := cmd.Start()
	if err == nil {
		// The daemon runs above everybody else; what it starts must not.
		_ = syscall.Setpriority(syscall.PRIO_PGRP, cmd.Process.Pid, 0)
		err = cmd.Wait()
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("did not end within %v", h.Timeout)
	} else if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	attrs := []any{
		"phase", j.event.Phase, "group", j.event.Group, "epoch", j.event.Epoch, "sequence", j.seq,
		"command", h.Command[0], "took", time.Since(start), "output", out.String(),
	}
	if err != nil {
		r.log.Error("hook failed", append(attrs, "error", err)...)
		return fmt.Errorf("run %s hook %s: %w", j.event.Phase, h.Command[0], err)
	}
	r.log.Info("hook done", attrs...)
	return nil
}

// tail keeps the last maxOutput bytes that were written to it.
type tail struct{ buf bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if n > maxOutput {
		p = p[n-maxOutput:]
	}
	if over := t.buf.Len() + len(p) - maxOutput; over > 0 {
		t.buf.Next(over)
	}
	t.buf.Write(p)
	return n, nil
}

func (t *tail) String() string { return strings.TrimSpace(t.buf.String()) }
