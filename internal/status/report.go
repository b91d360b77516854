// Package status is what a node says about itself: the report, the read-only
// HTTP port that serves it, and the metrics.
package status

import (
	"slices"
	"time"
)

// Fresh is the longest age at which a reading is served as fresh.
const Fresh = time.Second

// Role is what a node is at the moment.
type Role string

// Roles of a node.
const (
	RoleHolder      Role = "holder"
	RoleStandby     Role = "standby"
	RoleWitness     Role = "witness"
	RoleJoining     Role = "joining"
	RoleAbstain     Role = "abstain"
	RoleMaintenance Role = "maintenance"
	RoleFenced      Role = "fenced"
)

// Cause is why a group moved.
type Cause string

// Causes of a failover.
const (
	CauseLeaseExpired Cause = "lease_expired"
	CauseWorkerDied   Cause = "worker_died"
	CauseWorkerHung   Cause = "worker_hung"
	CauseReleased     Cause = "released"
	CauseUnhealthy    Cause = "unhealthy"
	CauseOperator     Cause = "operator"
	CausePreempted    Cause = "preempted"
	CauseBoot         Cause = "boot"
)

// Causes lists every cause, for metrics that begin at zero.
func Causes() []Cause {
	return []Cause{CauseLeaseExpired, CauseWorkerDied, CauseWorkerHung, CauseReleased,
		CauseUnhealthy, CauseOperator, CausePreempted, CauseBoot}
}

// Report is everything that a node says about itself. The names of its JSON
// are a promise to people's scripts: fields are added, none is renamed.
//
// Holder, Epoch and Lease are those of the first group; Groups has all.
type Report struct {
	AsOf    time.Time `json:"as_of"` // when the reading was made
	Stale   bool      `json:"stale"` // older than one second: nothing below may be taken for the present
	Version string    `json:"version"`
	Cluster string    `json:"cluster"`
	Node    string    `json:"node"`
	Role    Role      `json:"role"`
	Holder  string    `json:"holder"` // "" = nobody that this node knows of
	Leader  string    `json:"leader"` // "" = none known
	Term    uint64    `json:"term"`
	Epoch   uint64    `json:"epoch"`
	Lease   Lease     `json:"lease"`
	Groups  []Group   `json:"groups"`
	Quorum  Quorum    `json:"quorum"`

	// Conditions say in words what is not as it should be and what to do.
	Conditions []Condition `json:"conditions"`
	// WaitingFor names the members that founding or a quorum waits for.
	WaitingFor []string `json:"waiting_for"`

	Members    []Member   `json:"members"` // the others and this node, in the order of the file
	Membership Membership `json:"membership"`
	VIPs       []VIP      `json:"vips"`
	Gate       Gate       `json:"gate"`
	State      State      `json:"state"`
	WAL        WAL        `json:"wal"`
	Failovers  []Failover `json:"failovers"` // newest last
	// Refused counts what this node did not take from others since it started,
	// by reason: datagrams, connections, and requests for grants.
	Refused map[string]uint64 `json:"refused"`
	// Stalls counts how often the loop did not turn for more than two beats.
	Stalls    uint64    `json:"stalls"`
	Timing    Timing    `json:"timing"`
	Identity  Identity  `json:"identity"`
	StartedAt time.Time `json:"started_at"` // of the worker
}

// Lease is this node's right to answer. RemainingMs is 0 when it is not held.
type Lease struct {
	Held        bool  `json:"held"`
	RemainingMs int64 `json:"remaining_ms"`
	LengthMs    int64 `json:"length_ms"`
}

// Group is one VIP group. State is this node's own: idle, preparing, ready,
// holding or declined.
type Group struct {
	Name   string `json:"name"`
	Holder string `json:"holder"`
	Epoch  uint64 `json:"epoch"`
	State  string `json:"state"`
	Lease  Lease  `json:"lease"`
}

// Quorum is the majority as this node sees it, itself counted.
type Quorum struct {
	OK        bool `json:"ok"`
	Voters    int  `json:"voters"`
	Reachable int  `json:"reachable"`
	CaughtUp  bool `json:"caught_up"` // has applied what was committed
}

// Condition is one thing that a person should know. Code is stable, Message
// says what is, Hint the command to run or the thing to do ("" = none).
type Condition struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Member is one member as this node sees it.
type Member struct {
	Name        string  `json:"name"`
	Role        string  `json:"role"` // gateway or witness
	Self        bool    `json:"self"`
	Reachable   bool    `json:"reachable"`
	LastBeatMs  int64   `json:"last_beat_ms"` // age of the last beat; -1 = none yet, 0 for this node
	RTTMs       float64 `json:"rtt_ms"`       // 0 = not measured
	Match       uint64  `json:"match"`        // highest log index known to be stored there
	Applied     uint64  `json:"applied"`
	Fenced      bool    `json:"fenced"`
	Maintenance bool    `json:"maintenance"`
	Healthy     bool    `json:"healthy"`
	Voter       bool    `json:"voter"`
	State       string  `json:"state"`   // voter, learner, or absent: not in raft's configuration
	RaftID      string  `json:"raft_id"` // committed, hexadecimal; "" = none
	Version     string  `json:"version,omitempty"`
}

// VIP is one floating address on this node.
type VIP struct {
	Address   string `json:"address"` // with prefix length
	Interface string `json:"interface"`
	Group     string `json:"group"`
	Present   bool   `json:"present"`
	Gate      string `json:"gate"` // open or closed
}

// GateNone is the mode of a witness, which needs no gate.
const GateNone = "none"

// Gate is the kernel gate. Dropped counts packets by reason since it was
// attached.
type Gate struct {
	Attached bool              `json:"attached"`
	Mode     string            `json:"mode"` // tcx, clsact, or none on a witness
	Dropped  map[string]uint64 `json:"dropped"`
}

// State is the replicated state; indices are of the log.
type State struct {
	Applied  uint64 `json:"applied"`
	Commit   uint64 `json:"commit"`
	Snapshot uint64 `json:"snapshot"` // index of the newest snapshot, 0 = none
	Bytes    int64  `json:"bytes"`    // of keys and values, as the quota counts them
	MaxBytes int64  `json:"max_bytes"`
	Keys     int    `json:"keys"`
	Revision uint64 `json:"revision"` // of the last change of a key
	Hash     string `json:"hash"`     // first 8 bytes, of the state at applied
	// Audit is the head of the audit trail: number of the last event.
	Audit uint64 `json:"audit"`
	// Scrubbed is when log and snapshot were last read whole without finding
	// damage (RFC 3339); "" = not since the start.
	Scrubbed string `json:"scrubbed"`
}

// WAL is the log on disk. Verdict is that of the last recovery: clean,
// torn_tail or corrupt.
type WAL struct {
	Bytes      int64   `json:"bytes"`
	Segments   int     `json:"segments"`
	Verdict    string  `json:"verdict"`
	FsyncP99Ms float64 `json:"fsync_p99_ms"`
	// Blocked says why writes are refused (a full disk), "" = they are not.
	Blocked string `json:"blocked"`
	Slow    bool   `json:"slow"` // syncs take longer than the limit
}

// Membership compares the file of this node with the cluster.
type Membership struct {
	// Differences say what differs and what to do about it.
	Differences []string `json:"differences"`
	// Waiting says what the next change of members waits for, as the leader
	// knows it; "" = nothing.
	Waiting string `json:"waiting"`
	// Filling is a snapshot on its way to this node or from it.
	Filling []Filling `json:"filling"`
}

// Filling is one snapshot on its way.
type Filling struct {
	Member string `json:"member"`
	From   bool   `json:"from"` // it comes from the member, else it goes there
	Index  uint64 `json:"index"`
	Bytes  int64  `json:"bytes"` // that have arrived
	Size   int64  `json:"size"`
}

// Failover is one move of a group.
type Failover struct {
	At     time.Time `json:"at"`
	Group  string    `json:"group"`
	From   string    `json:"from"` // "" = nobody held it
	To     string    `json:"to"`
	Cause  Cause     `json:"cause"`
	Epoch  uint64    `json:"epoch"`
	TookMs int64     `json:"took_ms"`
}

// Timing is the profile in force and how much safety it leaves: by how much
// L/(1-rho)+eps stays below P/(1+rho).
type Timing struct {
	Profile   string  `json:"profile"` // "" = by hand
	BeatMs    float64 `json:"beat_ms"`
	PromiseMs float64 `json:"promise_ms"`
	EpsilonMs float64 `json:"epsilon_ms"`
	LeaseMs   float64 `json:"lease_ms"`
	MarginMs  float64 `json:"margin_ms"`
}

// Identity is who this is in the protocol. Numbers of 64 bits are texts in
// hexadecimal, since JSON readers lose the low digits of large numbers.
type Identity struct {
	Founded     bool   `json:"founded"`
	ClusterID   string `json:"cluster_id"`
	RaftID      string `json:"raft_id"`
	Incarnation string `json:"incarnation"`
}

// aged is the report as it has to be read when it is that old: every lease has
// less left, and one that has run out is not held. A lease is never served
// longer than the gate would be open.
func (r Report) aged(age time.Duration) Report {
	ms := (age + time.Millisecond - 1).Milliseconds() // round up: never claim more than is left
	r.Lease = r.Lease.aged(ms)
	r.Groups = slices.Clone(r.Groups)
	for i := range r.Groups {
		r.Groups[i].Lease = r.Groups[i].Lease.aged(ms)
	}
	r.Stale = age > Fresh
	if r.Stale {
		r.Lease = Lease{LengthMs: r.Lease.LengthMs}
		for i := range r.Groups {
			r.Groups[i].Lease = Lease{LengthMs: r.Groups[i].Lease.LengthMs}
		}
	}
	if r.Role == RoleHolder && !r.holds("") {
		r.Role = RoleStandby
	}
	return r
}

func (l Lease) aged(ms int64) Lease {
	l.RemainingMs = max(0, l.RemainingMs-ms)
	l.Held = l.Held && l.RemainingMs > 0
	return l
}

// holds tells whether this node has a valid lease of the group; "" means of
// any group.
func (r Report) holds(group string) bool {
	if group == "" {
		return r.Lease.Held || slices.ContainsFunc(r.Groups, func(g Group) bool { return g.Lease.Held })
	}
	return slices.ContainsFunc(r.Groups, func(g Group) bool { return g.Name == group && g.Lease.Held })
}

// Normal replaces nil lists and maps by empty ones: readers get [] and {}.
func (r Report) Normal() Report {
	list(&r.Groups)
	list(&r.Conditions)
	list(&r.WaitingFor)
	list(&r.Members)
	list(&r.VIPs)
	list(&r.Failovers)
	list(&r.Membership.Differences)
	list(&r.Membership.Filling)
	if r.Gate.Dropped == nil {
		r.Gate.Dropped = map[string]uint64{}
	}
	if r.Refused == nil {
		r.Refused = map[string]uint64{}
	}
	return r
}

func list[T any](s *[]T) {
	if *s == nil {
		*s = []T{}
	}
}
