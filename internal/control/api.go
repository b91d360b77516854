package control

import (
	"context"
	"time"

	"github.com/holdfast-ha/holdfast/internal/status"
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
}

// Time limits of requests. A switchover may wait for pre-acquire hooks.
const (
	readLimit     = 5 * time.Second
	writeLimit    = 15 * time.Second
	failoverLimit = 60 * time.Second
)
