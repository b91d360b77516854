package guard

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Link is the worker's end of the connection to its guard. Its events arrive
// on Events, which is closed when the guard is gone: the worker must then
// release and exit.
type Link struct {
	conn   *conn
	pulse  *pulse
	events chan Event
}

// Event is what the guard asks of the worker or tells it.
type Event struct {
	Kind EventKind
	// OK of GateState: the programs are attached wherever they must be.
	OK bool
	// Text is a reason for people.
	Text string
}

// EventKind tells the events apart.
type EventKind uint8

const (
	// Acknowledged: the guard has stored the testament (G5); requests may
	// start.
	Acknowledged EventKind = iota + 1
	// Stop: hand over, then exit 0.
	Stop
	// Reload: read the configuration again.
	Reload
	// GateState: see Event.OK.
	GateState
)

// LinkFD is the descriptor at which a worker finds its end of the connection,
// pulseFD that of the shared memory of its heartbeat. The files of the gate
// follow from GateFD on.
const (
	LinkFD  = 3
	pulseFD = 4
	GateFD  = 5
)

// NewLink takes over the inherited descriptors of a worker. It starts one
// goroutine, which ends when the guard does or Close is called.
func NewLink() (*Link, error) {
	unix.CloseOnExec(LinkFD)
	if err := unix.SetNonblock(LinkFD, true); err != nil {
		return nil, fmt.Errorf("take over guard connection: %w", err)
	}
	p, err := mapPulse(pulseFD)
	if err != nil {
		return nil, err
	}
	if err := unix.Close(pulseFD); err != nil {
		return nil, fmt.Errorf("close pulse: %w", err)
	}
	l := &Link{conn: &conn{file: os.NewFile(LinkFD, "guard")}, pulse: p, events: make(chan Event, 16)}
	go l.read()
	return l, nil
}

// Events is closed when the guard's end of the connection is.
func (l *Link) Events() <-chan Event { return l.events }

func (l *Link) read() {
	defer close(l.events)
	buf := make([]byte, maxPacket)
	for {
		m, err := l.conn.receive(buf)
		if err != nil {
			return
		}
		switch m.Kind {
		case kindAck:
			l.events <- Event{Kind: Acknowledged}
		case kindStop:
			l.events <- Event{Kind: Stop, Text: m.Text}
		case kindReload:
			l.events <- Event{Kind: Reload}
		case kindGate:
			l.events <- Event{Kind: GateState, OK: m.OK, Text: m.Text}
		}
	}
}

// Beat tells the guard that the loop turns. It is to be called from that very
// loop, at least five times a hang limit. It costs one store.
func (l *Link) Beat() { l.pulse.beat() }

// Testify hands the testament to the guard; Acknowledged follows on Events.
func (l *Link) Testify(t Testament) error {
	if err := l.conn.send(message{Kind: kindTestify, Testament: &t}); err != nil {
		return fmt.Errorf("hand over testament: %w", err)
	}
	return nil
}

// Ready tells the guard that the worker serves.
func (l *Link) Ready() error { return l.conn.send(message{Kind: kindReady}) }

// Stopping tells the guard that the exit that follows is on purpose.
func (l *Link) Stopping() error { return l.conn.send(message{Kind: kindStopping}) }

// Close ends the connection. Beat must not be called any more.
func (l *Link) Close() error { return errors.Join(l.conn.close(), l.pulse.close()) }

// HangLimit returns the default time without a beat after which a worker
// counts as hung: half a promise, at least 100 ms (default profile 250 ms,
// fast 100 ms).
func HangLimit(promise time.Duration) time.Duration { return max(promise/2, 100*time.Millisecond) }
