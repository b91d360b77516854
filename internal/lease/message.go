package lease

import "fmt"

// Request asks a voter for a grant. Every beat of a holder carries one for
// each group that it holds or acquires.
type Request struct {
	Node        uint64 // raft id of the asking node
	Incarnation uint64
	Group       uint16
	Epoch       uint64 // an epoch that the asking node has applied
	Config      uint64 // log index of the configuration that it counts in (G4)
	Sequence    uint64 // of the beat, rising within an incarnation
}

// Ack is a voter's grant (G8): Sequence is that of the request which last
// moved the end of the grant, never that of a later one that did not.
type Ack struct {
	Group       uint16
	Epoch       uint64
	Incarnation uint64 // of the holder
	Sequence    uint64
}

// Refusal answers a request that was not granted. It never changes what was
// granted before.
type Refusal struct {
	Group   uint16
	Epoch   uint64 // that was asked for
	Highest uint64 // highest epoch of the group that the voter has seen (G3)
	Reason  RefusalReason
}

// RefusalReason says which rule refused. The numbers are part of the wire
// format.
type RefusalReason uint8

// The reasons, with the rule behind each.
const (
	GrantedElsewhere RefusalReason = 1 + iota // G1: unexpired grant to another holder
	NotYet                                    // G2: the voter started less than a promise ago
	OldEpoch                                  // G3: a higher epoch was seen
	Released                                  // G3: that epoch was released
	Ended                                     // G3: that incarnation is over
	OldConfig                                 // G4: the voter has applied a later configuration
	Abstaining                                // G6: the voter is none, or abstains
	WrongHolder                               // the epoch was given to another node or incarnation
	Cloned                                    // the raft id has two live incarnations
)

var refusalNames = [...]string{
	GrantedElsewhere: "granted_elsewhere",
	NotYet:           "not_yet",
	OldEpoch:         "old_epoch",
	Released:         "released",
	Ended:            "over",
	OldConfig:        "old_config",
	Abstaining:       "abstain",
	WrongHolder:      "wrong_holder",
	Cloned:           "cloned",
}

// String returns the name used in status, logs and metrics.
func (r RefusalReason) String() string {
	if int(r) < len(refusalNames) && refusalNames[r] != "" {
		return refusalNames[r]
	}
	return fmt.Sprintf("refusal(%d)", uint8(r))
}
