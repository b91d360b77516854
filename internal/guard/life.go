package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
	"golang.org/x/sys/unix"
)

// life is one worker from start to burial.
type life struct {
	g         *guard
	cmd       *exec.Cmd
	conn      *conn
	testament *Testament
	pulse     *pulse
	since     int64 // boottime before which silence does not count
	stopBy    int64
	exited    chan error
	messages  chan message
	gate      chan error // what a look at the gate found; at most one is under way
	looking   bool
}

var errHung = errors.New("worker hung")

// life starts a worker, watches it, and buries it. The error says why it
// ended.
func (g *guard) life(ctx context.Context) error {
	l, err := g.start()
	if err != nil {
		return err
	}
	err = l.watch(ctx)
	return errors.Join(err, l.bury())
}

// start forks a worker under a new incarnation. The one before was reaped by
// bury, or by takeOver (G7).
func (g *guard) start() (*life, error) {
	if err := g.waitDataDir(); err != nil {
		return nil, err
	}
	inc, err := draw()
	if err != nil {
		return nil, err
	}
	if err := g.Gate.SetIncarnation(inc); err != nil {
		return nil, fmt.Errorf("set gate number: %w", err)
	}
	files, err := g.Gate.GateFiles()
	if err != nil {
		return nil, fmt.Errorf("hand over gate: %w", err)
	}
	defer closeFiles(files)
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	heart, heartFile, err := newPulse()
	if err != nil {
		ours.close()
		return nil, err
	}
	defer heartFile.Close()
	args := append(append([]string(nil), g.Command[1:]...),
		"--incarnation", strconv.FormatUint(inc, 10), "--gate-files", strconv.Itoa(len(files)))
	cmd := exec.Command(g.Command[0], args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = append([]*os.File{theirs, heartFile}, files...) // LinkFD, pulseFD, GateFD
	// A group of its own: a Ctrl-C is for the guard, which asks it to stop.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		closeLife(ours, heart)
		return nil, fmt.Errorf("start worker: %w", err)
	}
	l := &life{
		g: g, cmd: cmd, conn: ours, pulse: heart, since: clock.Boottime(),
		exited: make(chan error, 1), messages: make(chan message, 64), gate: make(chan error, 1),
	}
	if err := writePid(filepath.Join(g.RuntimeDir, workerPidFile), cmd.Process.Pid); err != nil {
		g.log.Warn("worker pid not written", "error", err)
	}
	go func() { l.exited <- cmd.Wait() }()
	go l.read()
	g.log.Info("worker started", "pid", cmd.Process.Pid, "incarnation", inc)
	return l, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // the worker has its own copies
	}
}

func closeLife(c *conn, p *pulse) {
	_ = c.close()
	_ = p.close()
}

// waitDataDir waits until no process holds the data directory (G7).
func (g *guard) waitDataDir() error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := g.DataDirFree()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// read ends when the worker's end closes; bury closes ours, so it always ends.
func (l *life) read() {
	defer close(l.messages)
	buf := make([]byte, maxPacket)
	for {
		m, err := l.conn.receive(buf)
		if err != nil {
			return
		}
		l.messages <- m
	}
}

// watch returns when the worker has exited, hangs, or took too long to stop.
func (l *life) watch(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	verify := time.NewTicker(time.Second)
	defer verify.Stop()
	wake := clock.Boottime() // when the timer is to fire
	done := ctx.Done()
	messages := l.messages
	for {
		select {
		case err := <-l.exited:
			l.exited <- err // for bury
			return exitReason(err)
		case m, ok := <-messages:
			if !ok {
				messages = nil // its exit follows
				continue
			}
			l.handle(m)
		case <-done:
			done = nil
			l.stopBy = clock.Boottime() + int64(l.g.StopLimit)
			if err := l.conn.send(message{Kind: kindStop, Text: "stop"}); err != nil {
				return fmt.Errorf("ask worker to stop: %w", err)
			}
		case <-l.g.Reload:
			if err := l.conn.send(message{Kind: kindReload}); err != nil {
				l.g.log.Warn("reload not passed on", "error", err)
			}
		case <-verify.C:
			l.lookAtGate()
		case err := <-l.gate:
			l.gateSeen(err)
		case <-timer.C:
			now := clock.Boottime()
			// A guard that was itself late judges nobody: both may have been
			// stopped together.
			if now-wake > int64(LateLimit) {
				l.since = now
			}
			if err := l.overdue(now); err != nil {
				return err
			}
			wake = l.nextCheck(now)
			timer.Reset(time.Duration(wake - now))
		}
	}
}

// LateLimit is how late the guard's own timer may fire before the guard counts
// as late itself.
const LateLimit = 40 * time.Millisecond

// limit is the longest time without a beat at this stage of the worker's life.
func (l *life) limit() time.Duration {
	if l.pulse.last() != 0 && l.testament != nil {
		return l.testament.HangLimit
	}
	return l.g.StartLimit
}

// lastBeat is the instant from which the present silence counts.
func (l *life) lastBeat() int64 { return max(l.pulse.last(), l.since) }

// MaxCheck is the longest pause between two looks at the worker.
const MaxCheck = 250 * time.Millisecond

// nextCheck is the first instant at which the worker could be overdue.
func (l *life) nextCheck(now int64) int64 {
	next := min(l.lastBeat()+int64(l.limit())+1, now+int64(MaxCheck))
	if l.stopBy != 0 {
		next = min(next, l.stopBy+1)
	}
	return max(next, now+int64(time.Millisecond))
}

func (l *life) overdue(now int64) error {
	limit := l.limit()
	if silent := time.Duration(now - l.lastBeat()); silent > limit {
		return fmt.Errorf("%w: silent for %v, limit %v", errHung, silent, limit)
	}
	if l.stopBy != 0 && now > l.stopBy {
		return fmt.Errorf("worker did not stop within %v", l.g.StopLimit)
	}
	return nil
}

func (l *life) handle(m message) {
	switch m.Kind {
	case kindTestify:
		if m.Testament == nil {
			return
		}
		if err := rememberAddresses(l.g.RuntimeDir, m.Testament.Addresses); err != nil {
			l.g.log.Error("testament not stored", "error", err)
			return // without an acknowledgement the worker asks for nothing
		}
		l.testament = m.Testament
		if err := l.conn.send(message{Kind: kindAck}); err != nil {
			l.g.log.Warn("testament not acknowledged", "error", err)
		}
		if !l.g.gateOK {
			l.tellGate("gate not attached on every interface")
		}
	case kindReady:
		if !l.g.notified && l.g.OnReady != nil {
			l.g.notified = true
			l.g.OnReady()
		}
	case kindStopping:
		l.g.log.Info("worker stops on purpose")
	}
}

// lookAtGate looks beside the watch over the worker, which must not wait for a
// kernel that is busy with the network configuration. What came off is attached
// again at once.
func (l *life) lookAtGate() {
	if l.looking {
		return
	}
	l.looking = true
	g := l.g
	g.checks.Go(func() {
		err := g.Gate.Verify()
		if err != nil {
			g.log.Error("gate not attached on every interface, attaching again", "error", err)
			if err := g.Gate.AttachAll(); err != nil {
				g.log.Error("gate not attached again", "error", err)
			}
		}
		l.gate <- err
	})
}

// gateSeen tells the worker: while an interface is without its programs, the
// gate cannot close (A4: it releases at once).
func (l *life) gateSeen(err error) {
	l.looking = false
	was := l.g.gateOK
	l.g.gateOK = err == nil
	switch {
	case err != nil:
		l.tellGate(err.Error())
	case !was:
		l.g.log.Info("gate attached again on every interface")
		l.tellGate("")
	}
}

func (l *life) tellGate(text string) {
	if err := l.conn.send(message{Kind: kindGate, OK: text == "", Text: text}); err != nil {
		l.g.log.Warn("worker not told of the gate", "error", err)
	}
}

// bury ends the worker and all that it started, closes the gate, tells the
// others and removes the addresses, in the order of G5: SIGKILL, close, read
// back, notes, addresses. The notes go out before the worker is reaped: the
// number that its writes are compared with has changed, so none can open.
func (l *life) bury() error {
	g := l.g
	group := -l.cmd.Process.Pid
	if err := unix.Kill(group, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		g.log.Warn("worker group not killed", "error", err)
	}
	// A gate that cannot be closed by map is left to its deadline, and then
	// no note may speak of it as closed.
	closed := g.Gate.CloseAll()
	if closed != nil {
		g.log.Error("gate not closed by hand, its deadline closes it", "error", closed)
	} else {
		time.Sleep(NoteDelay)
		l.sendNote()
	}
	removed := g.clearAddresses()
	if removed != nil {
		g.log.Error("addresses not removed", "error", removed)
	}
	if closed == nil {
		for _, pause := range NoteRepeats {
			time.Sleep(pause)
			l.sendNote()
		}
	}
	<-l.exited // reaped (G7)
	closeLife(l.conn, l.pulse)
	for range l.messages { //nolint:revive // drained until its reader ends
	}
	if err := os.Remove(filepath.Join(g.RuntimeDir, workerPidFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		g.log.Warn("worker pid file not removed", "error", err)
	}
	return errors.Join(closed, removed)
}

// sendNote sends the `over` note to everyone. A worker that left no testament
// never asked for a grant (G5), so there is nothing to end.
func (l *life) sendNote() {
	if l.testament == nil {
		return
	}
	if err := l.g.SendNotes(l.testament.Targets, [][]byte{l.testament.Over}); err != nil {
		l.g.log.Warn("death note not sent to everyone", "error", err)
	}
}

// exitReason turns how a worker ended into an error; a WorkerError ends the
// guard as well.
func exitReason(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err == nil {
			return errors.New("worker exited")
		}
		return fmt.Errorf("wait for worker: %w", err)
	}
	switch code := exit.ExitCode(); code {
	case ExitConfig, ExitIntegrity:
		return &WorkerError{Code: code}
	default:
		return fmt.Errorf("worker died: %w", exit)
	}
}
