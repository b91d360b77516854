package node

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/storage"
)

// joined is a worker that knows gw1 (itself), gw2 and w1 under the raft ids 1
// to 3, all voters.
func joined() *worker {
	w := quiet()
	first := storage.FirstConfig{Cluster: "site-a"}
	for i, name := range []string{"gw1", "gw2", "w1"} {
		first.Members = append(first.Members, storage.Member{Name: name, RaftID: uint64(i + 1), Role: storage.Gateway})
		if name != w.selfName {
			w.peers[name] = &peer{connected: true, helloed: true, raftID: uint64(i + 1), hello: transport.Hello{RaftID: uint64(i + 1)}}
		}
	}
	w.rid, w.state = 1, storage.NewState(first)
	w.notes.cluster = first.ID()
	return w
}

// Covers F4: only data that are known to be gone count, never members that are
// away.
func TestMissingMajority(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(w *worker)
		names  []string
		lost   bool
	}{
		"all there":          {func(*worker) {}, nil, false},
		"one has new data":   {func(w *worker) { w.peers["gw2"].hello.RaftID = 9 }, []string{"gw2"}, false},
		"one, and one away":  {func(w *worker) { w.peers["gw2"].hello.RaftID = 9; w.peers["w1"].connected = false }, []string{"gw2"}, false},
		"two have":           {func(w *worker) { w.peers["gw2"].hello.RaftID = 9; w.peers["w1"].hello.RaftID = 8 }, []string{"gw2", "w1"}, true},
		"this one and other": {func(w *worker) { w.rid = 7; w.peers["w1"].hello.RaftID = 8 }, []string{"gw1", "w1"}, true},
		"of another cluster": {func(w *worker) {
			for _, p := range w.peers {
				p.hello.RaftID, p.hello.ClusterID = 9, [16]byte{1}
			}
		}, nil, false},
	} {
		w := joined()
		tc.change(w)
		if names, lost := w.missing(); !slices.Equal(names, tc.names) || lost != tc.lost {
			t.Errorf("%s: %v, %v", name, names, lost)
		}
	}
}

func TestRecoveryConditions(t *testing.T) {
	codes := func(w *worker) (all []string) {
		for _, c := range w.recoveryConditions() {
			if c == (status.Condition{}) || c.Hint == "" {
				t.Errorf("condition %+v", c)
			}
			all = append(all, c.Code)
		}
		return all
	}
	w := joined()
	if c := codes(w); len(c) != 0 {
		t.Errorf("healthy: %v", c)
	}
	w.hadData, w.evidence = true, []string{"then"}
	if c := w.recoveryConditions(); len(c) != 1 || c[0].Code != "data_set_aside" || !strings.Contains(c[0].Message, "then") {
		t.Errorf("set aside, and no cluster is there: %+v", c)
	}
	w.stranger = "gw2"
	if c := codes(w); len(c) != 0 {
		t.Errorf("joining: %v", c)
	}
}

// Covers F4: a node whose data were set aside says so to the others, and they
// found nothing without it.
func TestHelloOfLostData(t *testing.T) {
	w := quiet()
	w.updateHello()
	if h := w.hello(); !h.Empty || h.Founded || lostData(h) {
		t.Errorf("new node: %+v", h)
	}
	w.hadData = true
	w.updateHello()
	if h := w.hello(); !lostData(h) || h.ClusterID != [16]byte{} {
		t.Errorf("lost data: %+v", h)
	}
}

// Covers F1a, F4: what is left of an old cluster is no candidate for a new one.
func TestStrangePeer(t *testing.T) {
	own, other := [16]byte{1}, [16]byte{2}
	for name, tc := range map[string]struct {
		p    peer
		own  [16]byte
		want bool
	}{
		"never heard":            {peer{}, own, false},
		"refused":                {peer{foreign: true}, own, true},
		"empty":                  {peer{helloed: true}, own, false},
		"of this cluster":        {peer{helloed: true, hello: transport.Hello{ClusterID: own}}, own, false},
		"of another":             {peer{helloed: true, hello: transport.Hello{ClusterID: other}}, own, true},
		"before this one joined": {peer{helloed: true, hello: transport.Hello{ClusterID: other}}, [16]byte{}, false},
	} {
		if got := tc.p.strange(tc.own); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
