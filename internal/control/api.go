package control

import (
	"context"
	"time"

	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/storage/audit"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// FailoverRequest asks for a planned switchover. To "" lets the cluster
// choose; Group "" means the only group, and is refused when there are more.
type FailoverRequest struct {
	To    string `json:"to,omitempty"`
	Group string `json:"group,omitempty"`
}

// FailoverResult says who holds now and how long nobody did, measured by the
// nodes themselves.
type FailoverResult struct {
	Group  string  `json:"group"`
	From   string  `json:"from"`
	Holder string  `json:"holder"`
	GapMs  float64 `json:"gap_ms"`
	Epoch  uint64  `json:"epoch"`
}

// MaintenanceRequest makes a node not eligible to hold, or eligible again.
// Node "" is the node that is asked.
type MaintenanceRequest struct {
	Node string `json:"node,omitempty"`
	On   bool   `json:"on"`
}

// NodeRequest names the node to fence or to unfence.
type NodeRequest struct {
	Node string `json:"node"`
}

// NodeResult says which node was changed, and at which log index; 0 when it
// already was so.
type NodeResult struct {
	Node  string `json:"node"`
	Index uint64 `json:"index"`
}

// ReloadResult lists what was applied. When something cannot be changed while
// running, nothing is, and the answer is an Error instead.
type ReloadResult struct {
	Changes []Change `json:"changes"`
}

// Change is one difference between two configurations.
type Change struct {
	Key  string `json:"key"`
	Old  string `json:"old"`
	New  string `json:"new"`
	Live bool   `json:"live"`
	Why  string `json:"why,omitempty"`
}

// MemberRequest asks for a change of the members. Op is add, remove or
// replace; Name is a member of the leader's configuration file, or for remove
// one of the cluster.
type MemberRequest struct {
	Op   string `json:"op"`
	Name string `json:"name"`
}

// MemberResult says that a change of the members is done. State is what became
// of it, Index the log index of the configuration that is in force.
type MemberResult struct {
	Op    string `json:"op"`
	Name  string `json:"name"`
	State string `json:"state"`
	Index uint64 `json:"index"`
}

// MemberInfo is a member as the node that is asked knows it.
type MemberInfo struct {
	Name      string `json:"name"`
	Role      string `json:"role"`    // gateway or witness
	RaftID    string `json:"raft_id"` // hexadecimal, "" when it is not a member yet
	State     string `json:"state"`   // voter, learner or absent: its place in the configuration
	InFile    bool   `json:"in_file"` // the configuration file of the node that is asked names it
	Connected bool   `json:"connected"`
	Match     uint64 `json:"match"` // last log index that it is known to have; 0 where the leader is another
}

// MemberList is the committed members, and those that only the file names.
type MemberList struct {
	Members []MemberInfo `json:"members"`
	// Differences between the file and the committed members, a sentence each.
	Differences []string `json:"differences"`
	Waiting     string   `json:"waiting,omitempty"` // what the next change waits for
}

// normal has no null where a list belongs.
func (l MemberList) normal() MemberList {
	if l.Members == nil {
		l.Members = []MemberInfo{}
	}
	if l.Differences == nil {
		l.Differences = []string{}
	}
	return l
}

// Backend does what the socket is asked for. Its methods are called from many
// goroutines; ctx ends with the time limit of the request or when the caller
// goes away, and knows the caller (CallerOf). Errors are *Error where the
// caller can do something about them.
type Backend interface {
	Status(ctx context.Context) (status.Report, error)
	Failover(ctx context.Context, r FailoverRequest) (FailoverResult, error)
	Maintenance(ctx context.Context, r MaintenanceRequest) (NodeResult, error)
	Fence(ctx context.Context, r NodeRequest) (NodeResult, error)
	Unfence(ctx context.Context, r NodeRequest) (NodeResult, error)
	Reload(ctx context.Context) (ReloadResult, error)
	Data
	// Audit returns the trail as this node has it; nobody changes it any more.
	Audit(ctx context.Context) (*audit.Trail, error)
	Members(ctx context.Context) (MemberList, error)
	// ChangeMember waits until the change is done.
	ChangeMember(ctx context.Context, r MemberRequest) (MemberResult, error)
}

// Data is the part of a Backend that serves the buckets.
type Data interface {
	// Update executes a valid request once a majority has it on disk. Codes of
	// the result that mean "nothing changed" are no errors. With an error of
	// code Timeout, or when ctx ended, it may still be executed later.
	Update(ctx context.Context, r kv.Request) (kv.Result, error)
	// View returns the buckets with everything in them that was committed when
	// it was called, or, with local, as they are on this node, at once.
	View(ctx context.Context, local bool) (*kv.View, error)
	// NextView waits for a revision of this node greater than after.
	NextView(ctx context.Context, after uint64) (*kv.View, error)
	// Buckets names the buckets that exist: those of the configuration and
	// those that always do. Nobody changes the slice any more.
	Buckets() []string
}

// Time limits of requests. A switchover may wait for pre-acquire hooks, a new
// member may wait until it has caught up.
const (
	readLimit     = 5 * time.Second
	writeLimit    = 15 * time.Second
	failoverLimit = 60 * time.Second
	memberLimit   = 60 * time.Second
)
