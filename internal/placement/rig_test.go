package placement

import (
	"slices"
	"testing"
	"time"
)

const (
	ms           = time.Millisecond
	gw1, gw2, w1 = 1, 2, 3
	promise      = 500 * ms
	beat         = 50 * ms
	preAcquire   = 5 * time.Second
	switchLimit  = 10 * time.Second
)

func testConfig() Config {
	return Config{Promise: promise, Beat: beat, PreAcquireLimit: preAcquire, SwitchLimit: switchLimit,
		FenceDelay: 10 * time.Second, PreemptDelay: 30 * time.Second}
}

// rig is a tracker on one node with the beats of all members beside it.
type rig struct {
	t       testing.TB
	tr      *Tracker
	now     int64
	self    uint64
	members []Member
	beats   map[uint64]*Report // what each node's next beat says
	mute    map[uint64]bool    // not heard by us
	view    GroupView
	commit  uint64
}

// newRig is gw1 leading gw1, gw2 and the witness w1; all are heard, nothing
// was ever assigned.
func newRig(t testing.TB) *rig {
	r := &rig{
		t: t, self: gw1, now: int64(time.Hour), beats: map[uint64]*Report{}, mute: map[uint64]bool{},
		members: []Member{
			{Name: "gw1", Node: gw1, Gateway: true, Priority: 100, Voter: true},
			{Name: "gw2", Node: gw2, Gateway: true, Priority: 100, Voter: true},
			{Name: "w1", Node: w1, Voter: true},
		},
	}
	r.tr = NewTracker(r.self, testConfig(), r.now)
	r.tr.SetMembers(r.members)
	for _, m := range r.members {
		r.beats[m.Node] = &Report{Node: m.Node, Incarnation: m.Node * 10, HearsUs: true, Applied: 100,
			Groups: []GroupReport{{}}}
	}
	r.commit = 100
	r.beat()
	r.tr.Leading(r.now, true)
	return r
}

// beat lets every node that is not mute report once.
func (r *rig) beat() {
	for _, m := range r.members {
		b := r.beats[m.Node]
		b.Sequence++
		if !r.mute[m.Node] {
			r.tr.Observe(r.now, *b)
		}
	}
}

func (r *rig) decide() []Action {
	return r.tr.Decide(r.now, []GroupView{r.view}, r.commit)
}

// run lets d go by in beats and returns all actions, those of the last beat
// at now.
func (r *rig) run(d time.Duration) (all []Action) {
	for end := r.now + int64(d); r.now < end; {
		r.now = min(r.now+int64(beat), end)
		r.beat()
		all = append(all, r.decide()...)
	}
	return all
}

// say changes what a node's beats say of the group.
func (r *rig) say(node uint64, s State, epoch uint64) {
	r.beats[node].Groups = []GroupReport{{Epoch: max(epoch, r.view.Epoch), State: s, StateEpoch: epoch}}
}

// assigned makes an assignment effective, applied on all nodes.
func (r *rig) assigned(node, epoch uint64) {
	prev := r.view.Epoch
	r.view = GroupView{Epoch: epoch, Node: node, Incarnation: r.beats[node].Incarnation}
	r.tr.Applied(r.now, Assignment{Epoch: epoch, Node: node, Incarnation: r.view.Incarnation, Prev: prev})
	for id := range r.beats {
		r.say(id, Idle, 0)
	}
}

// holds makes node the holder of epoch, seen by the tracker.
func (r *rig) holds(node, epoch uint64) *rig {
	r.assigned(node, epoch)
	r.say(node, Holding, epoch)
	r.beat()
	r.want(nil, r.decide())
	return r
}

func (r *rig) member(node uint64, change func(*Member)) {
	i := slices.IndexFunc(r.members, func(m Member) bool { return m.Node == node })
	change(&r.members[i])
	r.tr.SetMembers(r.members)
}

// want compares actions.
func (r *rig) want(want, got []Action) {
	r.t.Helper()
	if !slices.Equal(want, got) {
		r.t.Fatalf("at %v:\n got %+v\nwant %+v", time.Duration(r.now)-time.Hour, got, want)
	}
}

// wantAssign demands exactly one Assign.
func (r *rig) wantAssign(got []Action, node uint64, cause Cause) {
	r.t.Helper()
	r.want([]Action{{Kind: Assign, Node: node, Incarnation: r.beats[node].Incarnation, Prev: r.view.Epoch,
		From: r.view.Node, Cause: cause}}, got)
}

// quiet lets d go by and demands that nothing is to be done.
func (r *rig) quiet(d time.Duration) {
	r.t.Helper()
	r.want(nil, r.run(d))
}
