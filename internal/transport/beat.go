package transport

import "errors"

// MaxBeatSize is the most bytes that an encoded Beat takes.
const MaxBeatSize = 1200

// Limits of the lists of a Beat. All lists full do not fit MaxBeatSize
// together: a sender watches Size and leaves notes for the next beat.
const (
	MaxBeatGroups   = 32
	MaxBeatRequests = 32
	MaxBeatAcks     = 32
	MaxBeatRefusals = 32
	MaxBeatSeen     = 16
	MaxBeatMACs     = 16
	MaxBeatNotes    = 8
	MaxBeatOrders   = 32
	MaxBeatNoteSize = 255
)

// BeatFlags are the bits of Beat.Flags.
type BeatFlags uint8

// The flags of a beat.
const (
	FlagAnswer      BeatFlags = 1 << iota // acknowledgements only, never answered itself
	FlagLeaderClaim                       // sender is raft leader of Term and can store (E1, E8)
	FlagAbstain                           // sender neither grants nor votes (G6)
	FlagMaintenance                       // sender is not eligible to hold
	FlagStopping                          // sender is about to end
	FlagCloned                            // sender sees its raft id with two live incarnations

	knownFlags = FlagCloned<<1 - 1
)

// Has says whether all bits of mask are set.
func (f BeatFlags) Has(mask BeatFlags) bool { return f&mask == mask }

// GroupState is what a node says about itself and a group (section 4).
type GroupState uint8

// The states of a group on one node.
const (
	StateIdle GroupState = iota
	StatePreparing
	StateReady
	StateHolding
	StateDeclined

	stateEnd
)

func (s GroupState) String() string {
	names := [...]string{"idle", "preparing", "ready", "holding", "declined"}
	if int(s) >= len(names) {
		return "invalid"
	}
	return names[s]
}

// OrderKind is what the leader asks of a member in a planned switchover (A5).
type OrderKind uint8

// The kinds of orders; 0 is none.
const (
	OrderPrepare OrderKind = iota + 1
	OrderRelease
	OrderCancel

	orderEnd
)

// GroupReport is the sender's view of one group.
type GroupReport struct {
	Group      uint16
	Epoch      uint64 // epoch applied here
	State      GroupState
	StateEpoch uint64 // epoch that State speaks of; 0 when idle
}

// Request asks for a grant (G4, G8). Its sequence is the beat's.
type Request struct {
	Group  uint16
	Epoch  uint64
	Config uint64 // index of the configuration that the requester counts in
}

// Ack acknowledges the request of node To that last moved the grant (G8).
type Ack struct {
	To          uint64 // raft id
	Group       uint16
	Epoch       uint64
	Incarnation uint64
	Sequence    uint64
}

// Refusal answers a request of node To that was not granted (G3).
type Refusal struct {
	To      uint64 // raft id
	Group   uint16
	Epoch   uint64 // that was asked for
	Highest uint64 // highest epoch seen
	Reason  uint8  // lease.RefusalReason
}

// Seen is the newest sequence that the sender has had from a peer.
type Seen struct {
	Node        uint64 // raft id
	Incarnation uint64
	Sequence    uint64
}

// Order is a volatile order of the leader (A5).
type Order struct {
	To    uint64 // raft id
	Group uint16
	Epoch uint64
	Kind  OrderKind
}

// Beat is what every node tells every other each beat (PROTOCOL.md section 4).
type Beat struct {
	Flags       BeatFlags
	Health      uint8  // health rank, 0 is best
	Incarnation uint64 // of the sender's worker
	Sequence    uint64 // strictly increasing within an incarnation
	RaftID      uint64
	Term        uint64
	Config      uint64 // index of the configuration applied
	Applied     uint64
	Commit      uint64
	Groups      []GroupReport
	Requests    []Request // none in an answer
	Acks        []Ack
	Refusals    []Refusal
	Seen        []Seen
	MACs        [][6]byte // of the interfaces that carry VIPs
	Notes       [][]byte  // release notes known, opaque here
	Orders      []Order
}

// Errors of the beat codec.
var (
	ErrBeatTooLarge  = errors.New("beat too large")
	ErrBeatMalformed = errors.New("beat malformed")
)
