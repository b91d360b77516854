package placement

import (
	"errors"
	"fmt"
)

// Reasons why a switchover is refused; nothing has moved.
var (
	ErrNotLeading    = errors.New("this node does not lead")
	ErrUnknown       = errors.New("no such group or member")
	ErrNotEligible   = errors.New("not eligible to hold")
	ErrAlreadyHolder = errors.New("holds the group already")
	ErrBusy          = errors.New("group is being moved")
)

// SwitchStage is how far a planned switchover has come (A5).
type SwitchStage uint8

// The stages in order; one of the last two is final.
const (
	SwitchPending  SwitchStage = 1 + iota // the target prepares
	SwitchReady                           // the target is ready, the holder was asked to release
	SwitchReleased                        // the holder released, the target is being assigned
	SwitchDone                            // the target holds
	SwitchFailed                          // see the reason
)

// String returns the name used in status.
func (s SwitchStage) String() string {
	names := [...]string{"", "pending", "ready", "released", "done", "failed"}
	if s > 0 && int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("stage(%d)", uint8(s))
}

// SwitchStatus describes the last planned switchover of a group.
type SwitchStatus struct {
	Stage    SwitchStage
	Reason   string // when failed
	Cause    Cause
	From     uint64 // the holder at the start
	Target   uint64
	Epoch    uint64 // of the holder at the start
	NewEpoch uint64 // of the target, 0 = not assigned
	Began    int64
	Ended    int64 // 0 = active
}

// switchover is one planned move. It is for one epoch: when the holder is
// lost in between, A1 decides and the switchover only follows.
type switchover struct {
	stage       SwitchStage
	reason      string
	cause       Cause
	from        uint64
	target      uint64
	incarnation uint64 // of the target
	epoch       uint64
	newEpoch    uint64
	began       int64
	readyAt     int64
	ended       int64
	orderedAt   int64 // when an order was given last
	ordered     bool
}

func (s *switchover) active() bool { return s != nil && s.ended == 0 }

func (s *switchover) end(now int64, stage SwitchStage, reason string) {
	s.stage, s.reason, s.ended = stage, reason, now
}

// Switch begins a planned switchover of a group to a member, or with target 0
// to the best other one. Progress is driven by Decide. The error wraps one of
// the errors above.
func (t *Tracker) Switch(now int64, group uint16, target uint64) error {
	g := t.groups[group]
	switch {
	case !t.leading:
		return fmt.Errorf("switch group %d: %w", group, ErrNotLeading)
	case g == nil:
		return fmt.Errorf("switch group %d: %w", group, ErrUnknown)
	case g.sw.active():
		return fmt.Errorf("switch group %d: %w: a switchover is under way", group, ErrBusy)
	case target != 0 && target == g.view.Node:
		return fmt.Errorf("switch group %d: member %x %w", group, target, ErrAlreadyHolder)
	case !t.holds(now, g):
		return fmt.Errorf("switch group %d: %w: nobody holds it at present", group, ErrBusy)
	}
	if target == 0 {
		others := t.candidates(now, g, g.view.Node, nil)
		if len(others) == 0 {
			return fmt.Errorf("switch group %d: every other member is %w", group, ErrNotEligible)
		}
		t.begin(now, g, others[0], CauseOperator)
		return nil
	}
	m, ok := t.member(target)
	if !ok {
		return fmt.Errorf("switch group %d to member %x: %w", group, target, ErrUnknown)
	}
	if why := t.whyNot(now, g, m, false); why != "" {
		return fmt.Errorf("switch group %d: %s is %w: it %s", group, m.Name, ErrNotEligible, why)
	}
	t.begin(now, g, Candidate{Member: m, Incarnation: t.peers[target].incarnation}, CauseOperator)
	return nil
}

// SwitchStatus returns the last planned switchover of a group, false when
// there was none on this node.
func (t *Tracker) SwitchStatus(group uint16) (SwitchStatus, bool) {
	g := t.groups[group]
	if g == nil || g.sw == nil {
		return SwitchStatus{}, false
	}
	s := g.sw
	return SwitchStatus{
		Stage: s.stage, Reason: s.reason, Cause: s.cause, From: s.from, Target: s.target,
		Epoch: s.epoch, NewEpoch: s.newEpoch, Began: s.began, Ended: s.ended,
	}, true
}

// holds tells whether the holder of g reports the gate open in its last beat.
func (t *Tracker) holds(now int64, g *groupState) bool {
	p := t.peers[g.view.Node]
	if g.view.Pending || p == nil || p.incarnation != g.view.Incarnation || t.presence(now, g).lost {
		return false
	}
	pg := p.group(g.id)
	return pg.state == Holding && pg.stateEpoch == g.view.Epoch
}

func (t *Tracker) begin(now int64, g *groupState, target Candidate, cause Cause) {
	g.sw = &switchover{
		stage: SwitchPending, cause: cause, began: now,
		from: g.view.Node, epoch: g.view.Epoch,
		target: target.Node, incarnation: target.Incarnation,
	}
}

// isReady tells whether the member reports ready to follow g's present epoch.
func (t *Tracker) isReady(g *groupState, node uint64) bool {
	pg := t.peers[node].group(g.id)
	return pg.state == Ready && pg.stateEpoch == g.view.Epoch
}

// driveSwitch moves an active switchover on while the holder is present (A5).
func (t *Tracker) driveSwitch(now int64, g *groupState) []Action {
	s := g.sw
	if s.newEpoch != 0 {
		return nil // assigned; the target's beats complete it
	}
	m, ok := t.member(s.target)
	switch {
	case !ok:
		return t.abort(now, g, "the target is no member any more", false)
	case t.peers[s.target] == nil || t.peers[s.target].incarnation != s.incarnation:
		return t.abort(now, g, "the target's worker was replaced", false)
	}
	if why := t.whyNot(now, g, m, false); why != "" {
		return t.abort(now, g, m.Name+" "+why, t.peers[s.target].declines(g.view))
	}
	if s.stage == SwitchPending {
		if t.isReady(g, s.target) {
			s.stage, s.readyAt, s.ordered = SwitchReady, now, false
		} else if t.passed(now, s.began, t.cfg.SwitchLimit) {
			return t.abort(now, g, fmt.Sprintf("%s was not ready within %v", m.Name, t.cfg.SwitchLimit), true)
		}
	} else if t.passed(now, s.readyAt, t.cfg.SwitchLimit) {
		return t.abort(now, g, fmt.Sprintf("the holder did not release within %v", t.cfg.SwitchLimit), false)
	}
	return t.order(now, g)
}

// order gives the order of the present stage, at most once a beat.
func (t *Tracker) order(now int64, g *groupState) []Action {
	s := g.sw
	if s.ordered && now-s.orderedAt < int64(t.cfg.Beat) {
		return nil
	}
	s.ordered, s.orderedAt = true, now
	if s.stage == SwitchPending {
		return []Action{{Kind: Prepare, Group: g.id, Node: s.target, Incarnation: s.incarnation,
			Epoch: s.epoch, Cause: s.cause}}
	}
	return []Action{{Kind: AskRelease, Group: g.id, Node: g.view.Node, Incarnation: g.view.Incarnation,
		Epoch: s.epoch}}
}

// abort ends a switchover before anything moved. An unasked one is not tried
// again at once, and a target at fault is held down then (A2): an operator may
// repeat a command when he likes.
func (t *Tracker) abort(now int64, g *groupState, reason string, fault bool) []Action {
	s := g.sw
	s.end(now, SwitchFailed, reason)
	g.autoAfter = now + int64(holdDownFirst)
	if fault && s.cause != CauseOperator {
		g.fail(now, s.target)
	}
	return []Action{{Kind: Cancel, Group: g.id, Node: s.target, Epoch: s.epoch}}
}

// followSwitch lets an active switchover follow a change of the assignment.
func (g *groupState) followSwitch(now int64, next GroupView) {
	s := g.sw
	switch {
	case !s.active():
	case next.Epoch == s.epoch || next.Epoch == s.newEpoch && s.newEpoch != 0:
		// The Assign is still under way: a leader that lost its office falls
		// back to what is applied until it sees it committed.
	case s.newEpoch != 0:
		s.end(now, SwitchFailed, "the target was lost before it held")
	case next.Node == s.target:
		s.stage, s.newEpoch = SwitchReleased, next.Epoch
	default:
		s.end(now, SwitchFailed, "the holder was lost and the group went elsewhere")
	}
}
