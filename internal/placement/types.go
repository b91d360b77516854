package placement

import (
	"fmt"
	"time"
)

// Member is a member of the committed configuration.
type Member struct {
	Name             string
	Node             uint64 // raft id
	Gateway          bool   // else a witness, which never holds
	Priority         int    // higher first
	Maintenance      bool   // not eligible to hold
	Fenced           bool   // by the leader or by an operator
	FencedByOperator bool   // lifted by an operator only (A6)
	Voter            bool   // else a learner
}

// HealthCannotHold is the health of a node that cannot hold at all. It
// releases by itself (A4). 0 is the best health.
const HealthCannotHold uint8 = 255

// State is what a node's beat says of one group.
type State uint8

// The states of section 4, numbered as on the wire.
const (
	Idle      State = iota
	Preparing       // for a planned takeover from the holder of StateEpoch
	Ready           // to take over from the holder of StateEpoch
	Holding         // gate open under StateEpoch
	Declined        // cannot hold StateEpoch
)

// String returns the name used in beats and status.
func (s State) String() string {
	names := [...]string{"idle", "preparing", "ready", "holding", "declined"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Report is what one beat says, as far as placement needs it.
type Report struct {
	Node, Incarnation uint64
	Sequence          uint64 // rises within an incarnation
	Applied           uint64 // log index
	Health            uint8  // 0 best, HealthCannotHold worst
	HearsUs           bool   // the node has recently received our beats
	Groups            []GroupReport
	Grants            []Grant // that the node's voter has standing
}

// GroupReport is the part of a [Report] about one group.
type GroupReport struct {
	Group      uint16
	Epoch      uint64 // that the node has applied
	State      State
	StateEpoch uint64
}

// Grant is a standing grant that a voter reports (A3).
type Grant struct {
	Group    uint16
	To       uint64 // raft id of the holder
	Epoch    uint64
	Sequence uint64 // of the request that last extended it
}

// Config holds the times and choices of placement.
type Config struct {
	Promise         time.Duration // P; silence for so long means lost
	Beat            time.Duration // orders are repeated at most once a beat
	PreAcquireLimit time.Duration // longest run of the pre-acquire hooks
	FenceDelay      time.Duration // silence before a gateway is fenced; 0 = by hand only
	Preempt         bool          // a higher priority takes over from a healthy holder (A7)
	PreemptDelay    time.Duration // for so long it must have been the better one
	SwitchLimit     time.Duration // for a target to become ready, and for a holder to let go (A5)
}

// Assignment is an effective Assign that was applied.
type Assignment struct {
	Group       uint16
	Epoch       uint64 // log index of the Assign
	Node        uint64
	Incarnation uint64
	Prev        uint64 // the epoch that it replaced
}

// GroupView is the assignment that Decide starts from: the applied one, or
// the last one in the leader's log that is not applied yet (E5).
type GroupView struct {
	Group             uint16
	Epoch             uint64 // 0 = never assigned
	Node, Incarnation uint64
	Pending           bool // in the log, not applied
}

// Cause says why a group moved, in the words of the contract.
type Cause string

// The causes that placement can tell. A hang looks like a death from outside:
// the guard's note does not say which.
const (
	CauseLeaseExpired Cause = "lease_expired" // silence
	CauseWorkerDied   Cause = "worker_died"   // its incarnation is over
	CauseReleased     Cause = "released"      // the holder let go by itself
	CauseUnhealthy    Cause = "unhealthy"     // another is healthier, or it could not take over
	CauseOperator     Cause = "operator"      // asked for, maintenance, fence, removal
	CausePreempted    Cause = "preempted"     // a higher priority, where configured
	CauseBoot         Cause = "boot"          // never assigned before
)

// ActionKind says what the leader is to do.
type ActionKind uint8

// The kinds, in the order in which Decide returns them.
const (
	Unfence    ActionKind = 1 + iota // propose Unfence{Node}
	Fence                            // propose Fence{Node}
	Assign                           // propose Assign{Group, Node, Incarnation, Prev}
	Cancel                           // tell Node to stop preparing for Group
	Prepare                          // tell Node to prepare to take over Epoch of Group
	AskRelease                       // ask Node to release Epoch of Group
)

// String returns the name of the kind for logs.
func (k ActionKind) String() string {
	names := [...]string{"", "unfence", "fence", "assign", "cancel", "prepare", "ask_release"}
	if k > 0 && int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("action(%d)", uint8(k))
}

// Action is one thing for the leader to do. Orders (Prepare, AskRelease,
// Cancel) may be lost and are repeated; proposals are repeated until the view
// shows them.
type Action struct {
	Kind        ActionKind
	Node        uint64 // whom it concerns: new holder, target, holder, fenced member
	Group       uint16 // not for Fence and Unfence
	Incarnation uint64 // of Node: Assign, Prepare, AskRelease
	Epoch       uint64 // present epoch: Prepare, AskRelease, Cancel
	Prev        uint64 // Assign: the epoch that it replaces
	From        uint64 // Assign: the node of Prev, 0 at boot
	Cause       Cause  // Assign, Prepare
}
