// Package tenure is the life of one VIP group on one node: from being named or
// told to prepare, over holding, to having let go.
//
// It is pure: no clock, no I/O, no goroutine. Events go in with the time at
// which they happened, effects come out in the order in which they must be
// carried out. The two orders that safety rests on are written here and
// nowhere else (DESIGN: "Anything that ends holding", "Acquiring"):
//
//	acquire: applied, pre-acquire hooks, address, grants, open gate, announce, acquired hooks
//	release: close gate and read back, 1 ms, release note, address, released hooks
package tenure

import (
	"time"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// State is what a node reports of a group in its beats.
type State uint8

const (
	// Idle: neither holding nor about to.
	Idle State = iota
	// Preparing: hooks run, the address is being set, or grants are asked for.
	Preparing
	// Ready: prepared to take over from the present epoch (A5).
	Ready
	// Holding: the gate was opened under the epoch.
	Holding
	// Declined: preparing failed.
	Declined
)

func (s State) String() string {
	return [...]string{"idle", "preparing", "ready", "holding", "declined"}[s]
}

// Effect is something that the caller must carry out, in the order given.
type Effect uint8

const (
	// RunPreAcquire runs the pre-acquire hooks; HooksDone follows.
	RunPreAcquire Effect = iota + 1
	// SetAddress adds the addresses, gate closed; AddressSet follows.
	SetAddress
	// BeginRequests asks for grants under Epoch (G7); Granted follows.
	BeginRequests
	// OpenGate writes the window that was granted.
	OpenGate
	// Announce starts the announcements of a new owner.
	Announce
	// RunAcquired runs the acquired hooks; nothing waits for them.
	RunAcquired
	// RunPreRelease runs the pre-release hooks; HooksDone follows.
	RunPreRelease
	// CloseGate zeroes the gate value and reads it back; it must have
	// succeeded before the next effect, or the process must end.
	CloseGate
	// SendRelease signs and sends the release note of Epoch (G5).
	SendRelease
	// ClearAddress removes the addresses and destroys sockets bound to them.
	ClearAddress
	// RunReleased runs the released hooks; nothing waits for them.
	RunReleased
)

func (e Effect) String() string {
	return [...]string{
		"none", "run-pre-acquire", "set-address", "begin-requests", "open-gate", "announce",
		"run-acquired", "run-pre-release", "close-gate", "send-release", "clear-address", "run-released",
	}[e]
}

// Step is an effect and the epoch that it belongs to. The epoch of
// RunPreAcquire and SetAddress on the way to Ready is the present one.
type Step struct {
	Effect Effect
	Epoch  uint64
}

// NoteDelay is how long frames that passed the gate before it closed may take
// to leave the interface before a note may speak of it as closed (G5).
const NoteDelay = time.Millisecond

// phase is the inner state; State is what others need to know of it.
type phase uint8

const (
	idle phase = iota
	hooks
	addressing
	ready
	requesting
	holding
	yielding // pre-release hooks run, gate still open
	closed   // gate closed, note due at noteAt
	declined
)

// Machine is the tenure of one group. The zero value is idle. It is not safe
// for concurrent use.
type Machine struct {
	phase phase
	// epoch is the one that the phase belongs to; 0 while preparing to be
	// ready for a takeover from present.
	epoch   uint64
	present uint64
	address bool // set, or about to be
	noteAt  int64
	// next is an epoch that named this node while it was letting go of another.
	next uint64
	// token tells the answer of an effect that is still wanted from a late one.
	token uint64
}

// State returns what beats report, and the epoch it refers to.
func (m *Machine) State() (State, uint64) {
	switch m.phase {
	case hooks, addressing, requesting:
		return Preparing, m.about()
	case ready:
		return Ready, m.present
	case holding, yielding:
		return Holding, m.epoch
	case declined:
		return Declined, m.about()
	default:
		return Idle, 0
	}
}

func (m *Machine) about() uint64 {
	if m.epoch != 0 {
		return m.epoch
	}
	return m.present
}

// Token names the effects that were returned last; an answer that carries
// another one is of the past and ignored.
func (m *Machine) Token() uint64 { return m.token }

// Active tells whether the machine has or wants anything.
func (m *Machine) Active() bool { return m.phase != idle && m.phase != declined }

// WantsAddress tells whether the addresses must be present on this host now.
func (m *Machine) WantsAddress() bool { return m.address && m.phase != addressing }

// Next returns when Tick has something to do, or 0.
func (m *Machine) Next() int64 {
	if m.phase == closed {
		return m.noteAt
	}
	return 0
}

func (m *Machine) enter(p phase) { m.phase = p; m.token++ }

// Assigned tells that the Assign of epoch was applied here. mine: it names
// this node under its present incarnation (G7).
func (m *Machine) Assigned(now int64, epoch uint64, mine bool) []Step {
	if epoch <= m.epoch || epoch <= m.next {
		return nil
	}
	if !mine {
		m.next = 0
		return m.letGo(now)
	}
	switch m.phase {
	case requesting, holding, yielding:
		// A holder shown a higher epoch closes and releases at once (G3), even
		// when it is the next owner itself.
		steps := m.letGo(now)
		m.next = epoch
		return steps
	case closed:
		m.next = epoch
		return nil
	case ready:
		m.epoch = epoch
		m.enter(requesting)
		return []Step{{BeginRequests, epoch}}
	case hooks, addressing:
		// What runs for a takeover serves this epoch just as well.
		m.epoch = epoch
		return nil
	}
	m.epoch, m.present = epoch, 0
	m.enter(hooks)
	return []Step{{RunPreAcquire, epoch}}
}

// Prepare is the leader's order to get ready for a takeover from the present
// epoch (A5).
func (m *Machine) Prepare(present uint64) []Step {
	if m.phase == declined && m.about() == present {
		return nil // it has been told
	}
	if m.phase != idle && m.phase != declined {
		return nil
	}
	m.epoch, m.present = 0, present
	m.enter(hooks)
	return []Step{{RunPreAcquire, present}}
}

// Cancel takes an order to prepare back. A preparation that an Assign has
// adopted goes on.
func (m *Machine) Cancel() []Step {
	if m.epoch != 0 {
		return nil
	}
	switch m.phase {
	case hooks, addressing, ready:
		return m.abandon(idle)
	case declined:
		m.enter(idle)
	}
	return nil
}

// abandon ends a preparation that never asked for a grant.
func (m *Machine) abandon(to phase) []Step {
	had := m.address
	m.address = false
	m.enter(to)
	if to == idle {
		m.present = 0
	}
	if !had {
		return []Step{{RunReleased, m.about()}}
	}
	return []Step{{ClearAddress, m.about()}, {RunReleased, m.about()}}
}

// HooksDone answers RunPreAcquire and RunPreRelease. A failed pre-acquire hook
// declines; a failed pre-release hook delays nothing further.
func (m *Machine) HooksDone(now int64, token uint64, err error) []Step {
	if token != m.token {
		return nil
	}
	switch m.phase {
	case hooks:
		if err != nil {
			return m.abandon(declined)
		}
		m.address = true
		m.enter(addressing)
		return []Step{{SetAddress, m.about()}}
	case yielding:
		return m.close(now)
	}
	return nil
}

// AddressSet answers SetAddress.
func (m *Machine) AddressSet(token uint64, err error) []Step {
	if token != m.token || m.phase != addressing {
		return nil
	}
	if err != nil {
		return m.abandon(declined)
	}
	if m.epoch == 0 {
		m.enter(ready)
		return nil
	}
	m.enter(requesting)
	return []Step{{BeginRequests, m.epoch}}
}

// Granted tells that a majority granted a window for epoch that reaches
// beyond now.
func (m *Machine) Granted(epoch uint64) []Step {
	if epoch != m.epoch {
		return nil
	}
	switch m.phase {
	case requesting:
		m.enter(holding)
		return []Step{{OpenGate, epoch}, {Announce, epoch}, {RunAcquired, epoch}}
	case holding, yielding:
		return []Step{{OpenGate, epoch}}
	}
	return nil
}

// Yield is a planned release (A5): pre-release hooks first, while the gate is
// still open, then as Release. Asked again, it does not hurry the hooks.
func (m *Machine) Yield(now int64) []Step {
	switch m.phase {
	case yielding:
		return nil
	case holding:
	default:
		return m.Release(now)
	}
	m.enter(yielding)
	return []Step{{RunPreRelease, m.epoch}}
}

// Release ends whatever there is, at once: lost, unhealthy, told so, or
// stopping.
func (m *Machine) Release(now int64) []Step {
	m.next = 0
	return m.letGo(now)
}

func (m *Machine) letGo(now int64) []Step {
	switch m.phase {
	case requesting, holding, yielding:
		return m.close(now)
	case hooks, addressing, ready:
		steps := m.abandon(idle)
		m.epoch = 0
		return steps
	case declined:
		m.enter(idle)
	}
	return nil
}

// close begins the release order. The note waits for NoteDelay (Tick).
func (m *Machine) close(now int64) []Step {
	invariant.Check(m.epoch != 0, "tenure closes without an epoch in phase %d", m.phase)
	m.enter(closed)
	m.noteAt = now + int64(NoteDelay)
	return []Step{{CloseGate, m.epoch}}
}

// Closed moves the time of the note: it counts from when the gate was read
// back as closed, not from when that was asked for.
func (m *Machine) Closed(now int64) {
	if m.phase == closed {
		m.noteAt = max(m.noteAt, now+int64(NoteDelay))
	}
}

// Tick carries on with a release whose note is due.
func (m *Machine) Tick(now int64) []Step {
	if m.phase != closed || now < m.noteAt {
		return nil
	}
	epoch, next := m.epoch, m.next
	m.address, m.epoch, m.present, m.next = false, 0, 0, 0
	m.enter(idle)
	steps := []Step{{SendRelease, epoch}, {ClearAddress, epoch}, {RunReleased, epoch}}
	if next != 0 {
		m.epoch = next
		m.enter(hooks)
		steps = append(steps, Step{RunPreAcquire, next})
	}
	return steps
}
