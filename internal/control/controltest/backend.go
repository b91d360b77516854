// Package controltest has a backend for tests of what speaks to the control
// socket: one node without a cluster, with real buckets and a real trail.
package controltest

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/storage/audit"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Node is a control.Backend. The fields are set before it is used.
type Node struct {
	MaxBytes int64 // quota; 0 is the default
	Report   status.Report
	// Before and After, if set, are called around each update; an error of
	// theirs is the answer. After an error of After the update has happened.
	Before, After func(kv.Request) error
	// Reading, if set, is called before each read.
	Reading func(local bool) error

	mu      sync.Mutex
	store   *kv.Store
	trail   *audit.Trail
	view    *kv.View
	next    chan struct{} // closed when there is a newer view
	buckets []string
	members control.MemberList
}

var _ control.Backend = (*Node)(nil)

// New makes a node with the buckets that always exist.
func New() *Node {
	n := &Node{
		store: kv.New(), trail: audit.NewTrail(audit.DefaultMaxBytes), next: make(chan struct{}),
		buckets: []string{"receipts", "sessions", "tasks"},
		Report:  status.Report{Node: "gw1", Cluster: "site-a", Role: status.RoleHolder, Holder: "gw1", Leader: "gw1"},
		members: control.MemberList{Members: []control.MemberInfo{
			{Name: "gw1", Role: "gateway", RaftID: "8a61f00c3d2b9e47", State: "voter", InFile: true, Connected: true, Match: 88},
			{Name: "gw2", Role: "gateway", RaftID: "1c09a7d45e6f8b32", State: "voter", InFile: true, Connected: true, Match: 88},
			{Name: "w1", Role: "witness", RaftID: "f2b3c4d5e6071829", State: "voter", InFile: true, Connected: true, Match: 88},
			{Name: "gw3", Role: "gateway", State: "absent", InFile: true, Connected: true},
		}, Differences: []string{"gw3 is in the file and not a member: holdfast member add gw3"}},
	}
	n.view = n.store.View()
	return n
}

// Clock is what a new node's committed clock begins at, for tests that compare
// texts.
var Clock = time.Date(2026, 11, 24, 14, 0, 0, 0, time.UTC)

// Update executes a request at once.
func (n *Node) Update(ctx context.Context, r kv.Request) (kv.Result, error) {
	if n.Before != nil {
		if err := n.Before(r); err != nil {
			return kv.Result{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return kv.Result{}, err
	}
	n.mu.Lock()
	res := n.store.Apply(&kv.Batch{Clock: max(Clock.UnixNano(), n.store.Clock()), MaxBytes: n.MaxBytes, Requests: []kv.Request{r}})[0]
	n.publish()
	n.mu.Unlock()
	if n.After != nil {
		if err := n.After(r); err != nil {
			return kv.Result{}, err
		}
	}
	return res, nil
}

// Expire removes what is due after d more of the committed clock.
func (n *Node) Expire(d time.Duration) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	removed := n.store.Expire(n.store.Clock() + int64(d))
	n.publish()
	return removed
}

func (n *Node) publish() {
	n.view = n.store.View()
	close(n.next)
	n.next = make(chan struct{})
}

// View returns the newest view.
func (n *Node) View(_ context.Context, local bool) (*kv.View, error) {
	if n.Reading != nil {
		if err := n.Reading(local); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.view, nil
}

// NextView waits for a revision after the given one.
func (n *Node) NextView(ctx context.Context, after uint64) (*kv.View, error) {
	for {
		n.mu.Lock()
		v, next := n.view, n.next
		n.mu.Unlock()
		if v.Rev() > after {
			return v, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Buckets names the buckets.
func (n *Node) Buckets() []string { return n.buckets }

// Log appends to the trail.
func (n *Node) Log(e audit.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.trail.Append(e)
}

// Audit returns the trail.
func (n *Node) Audit(context.Context) (*audit.Trail, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.trail.Clone(), nil
}

// Members lists the members.
func (n *Node) Members(context.Context) (control.MemberList, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.members, nil
}

// ChangeMember adds a member that only the file names, or removes one.
func (n *Node) ChangeMember(_ context.Context, r control.MemberRequest) (control.MemberResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := slices.Clone(n.members.Members)
	i := slices.IndexFunc(list, func(m control.MemberInfo) bool { return m.Name == r.Name })
	if i < 0 {
		return control.MemberResult{}, &control.Error{Code: control.NotFound, Message: r.Name + " is not a member", Hint: "holdfast member list"}
	}
	switch r.Op {
	case "add":
		list[i].State, list[i].RaftID, list[i].Match = "voter", "77d0a1b2c3e4f506", 88
		n.members.Differences = nil
	case "remove":
		list = slices.Delete(list, i, i+1)
	}
	n.members.Members = list
	return control.MemberResult{Op: r.Op, Name: r.Name, State: "done", Index: 90}, nil
}

// Status returns the prepared report.
func (n *Node) Status(context.Context) (status.Report, error) { return n.Report, nil }

// Failover says that it was done.
func (n *Node) Failover(_ context.Context, r control.FailoverRequest) (control.FailoverResult, error) {
	return control.FailoverResult{Group: "default", From: "gw1", Holder: r.To, GapMs: 1.8, Epoch: 13}, nil
}

// Maintenance says that it was done.
func (n *Node) Maintenance(_ context.Context, r control.MaintenanceRequest) (control.NodeResult, error) {
	return control.NodeResult{Node: r.Node, Index: 14}, nil
}

// Fence says that it was done.
func (n *Node) Fence(_ context.Context, r control.NodeRequest) (control.NodeResult, error) {
	return control.NodeResult{Node: r.Node, Index: 15}, nil
}

// Unfence says that it was done.
func (n *Node) Unfence(_ context.Context, r control.NodeRequest) (control.NodeResult, error) {
	return control.NodeResult{Node: r.Node, Index: 16}, nil
}

// Reload says that it was done.
func (n *Node) Reload(context.Context) (control.ReloadResult, error) {
	return control.ReloadResult{Changes: []control.Change{{Key: "log.level", Old: "info", New: "debug", Live: true}}}, nil
}

// Serve answers on a socket at path until stop is called, or the test ends.
func Serve(t testing.TB, path string, b control.Backend) (stop func()) {
	t.Helper()
	s, err := control.Listen(control.Options{Path: path, Backend: b, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
