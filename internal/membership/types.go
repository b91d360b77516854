package membership

import (
	"fmt"
	"slices"
	"time"
)

// Limits of a cluster.
const (
	// MinVoters is what an operator's remove must leave: two voters can lose
	// neither.
	MinVoters = 3
	// MaxMembers bounds the committed members, as package storage does.
	MaxMembers = 63
	// CaughtUp is how many entries a learner may lack when it is promoted.
	CaughtUp = 64
)

// Member is a member of the committed configuration, or of the file.
type Member struct {
	Name      string
	PublicKey [32]byte // Ed25519
	RaftID    uint64   // 0 in a file
	Gateway   bool     // else a witness
	Priority  int32
}

// Seen is what the control connection of a member shows.
type Seen struct {
	Connected bool
	RaftID    uint64   // that its hello named
	PublicKey [32]byte // that it proved
	Since     int64    // connected under that raft id since
	// OldSilent is for how long no beat of the committed raft id has come; as
	// long as this node has listened when there never was one.
	OldSilent time.Duration
}

// Op is what an operator asks for.
type Op uint8

// The operations.
const (
	Add     Op = 1 + iota // a member of the file becomes one of the cluster
	Remove                // a member leaves, and its record is forgotten
	Replace               // another machine takes the place of a member
)

// String returns the word of the command line.
func (o Op) String() string {
	switch o {
	case Add:
		return "add"
	case Remove:
		return "remove"
	case Replace:
		return "replace"
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// ParseOp reads the word of the command line.
func ParseOp(s string) (Op, bool) {
	for _, o := range []Op{Add, Remove, Replace} {
		if s == o.String() {
			return o, true
		}
	}
	return 0, false
}

// Request is an operator's wish that was accepted by Check.
type Request struct {
	Op   Op
	Name string
	// File is the member as the leader's file has it: Add, Replace.
	File Member
	// Old is the committed raft id of the name when the request was accepted:
	// Remove, Replace; 0 for a replacement that was under way. Check fills it.
	Old uint64
}

// Input is what the leader knows.
type Input struct {
	Self    uint64 // raft id of this node, the leader
	Members []Member

	// The applied configuration; Outgoing only in a joint one.
	Voters, Learners, Outgoing []uint64
	ConfigIndex                uint64 // log index that it was applied at

	Reported map[uint64]uint64 // raft id -> index of the configuration that it has applied (beats)
	Alive    map[uint64]bool   // raft ids heard both ways within P
	Seen     map[string]Seen   // by name
	Holds    map[uint64]string // raft id -> a group that it is assigned
	// Match is how far a node's log is known to agree with the leader's.
	Match   func(id uint64) (uint64, bool)
	Commit  uint64
	Pending bool // a configuration change is in the log and not applied

	Want []Request // in the order in which they came
}

// Kind says what a Change does.
type Kind uint8

// The kinds of changes.
const (
	// AddLearner adds ID as a learner and commits Member as its record.
	AddLearner Kind = 1 + iota
	// Promote makes the learner ID a voter.
	Promote
	// Drop takes ID out of the configuration, and with Forget its record too.
	Drop
	// Forget removes the record of ID, which is in no configuration any more:
	// an entry of its own, no configuration change.
	Forget
)

// String returns the name of the kind for logs and status.
func (k Kind) String() string {
	names := [...]string{"none", "add_learner", "promote", "remove", "forget"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Change is one configuration change to propose.
type Change struct {
	Kind   Kind
	ID     uint64
	Member Member // the record: for AddLearner the one to commit
	Forget bool   // Drop: with the record
	Cause  string // for the audit trail: "operator", "new_data" or "orphan"
	Reason string // for logs
}

// Outcome is the state of a request.
type Outcome uint8

// The outcomes.
const (
	Working Outcome = iota
	Done
	Refused
)

// Answer is what became of a request so far.
type Answer struct {
	Request
	Outcome Outcome
	Text    string // what it waits for, or why it is refused
	Hint    string // what the operator can do about it
}

// Decision is what the leader is to do.
type Decision struct {
	Change Change // Kind 0: none
	// Handover: this node is to hand leadership to another, which then goes
	// on; a leader never removes or replaces itself.
	Handover bool
	// Wait says why nothing is done although something is to be done, for the
	// status; empty when all is as it should be.
	Wait string
	// Until is when to ask again though nothing else happened; 0 for never.
	Until   int64
	Answers []Answer // as Input.Want
}

// Refusal says why a request cannot be carried out.
type Refusal struct {
	Message, Hint string
	NotFound      bool // the name is unknown
}

func (r *Refusal) Error() string { return r.Message }

func majority(n int) int { return n/2 + 1 }

func (in *Input) byName(name string) (Member, bool) {
	return find(in.Members, func(m Member) bool { return m.Name == name })
}

func (in *Input) byID(id uint64) (Member, bool) {
	return find(in.Members, func(m Member) bool { return m.RaftID == id })
}

func find(members []Member, is func(Member) bool) (Member, bool) {
	if i := slices.IndexFunc(members, is); i >= 0 {
		return members[i], true
	}
	return Member{}, false
}

func (in *Input) voter(id uint64) bool {
	return slices.Contains(in.Voters, id) || slices.Contains(in.Outgoing, id)
}

func (in *Input) learner(id uint64) bool { return slices.Contains(in.Learners, id) }

func (in *Input) inConf(id uint64) bool { return in.voter(id) || in.learner(id) }

// alive tells whether a node is heard; the leader hears itself.
func (in *Input) alive(id uint64) bool { return id == in.Self || in.Alive[id] }

// name returns how a raft id is called in texts.
func (in *Input) name(id uint64) string {
	if m, ok := in.byID(id); ok {
		return m.Name
	}
	return fmt.Sprintf("node %x", id)
}
