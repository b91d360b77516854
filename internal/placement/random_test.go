package placement

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is a small cluster that carries out what its leader decides: nodes
// that hold, die, restart, fall silent, get ready or not. Two trackers are fed
// alike to see that the answers are the same.
type world struct {
	t       *rapid.T
	now     int64
	a, b    *Tracker
	members []Member
	nodes   map[uint64]*worldNode
	view    GroupView
	commit  uint64
	moved   int64 // when the assignment changed last
}

type worldNode struct {
	Report
	mute     bool
	slow     bool   // does not get to hold or to be ready
	released uint64 // highest epoch that it gave up
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: int64(time.Hour), nodes: map[uint64]*worldNode{}, commit: 100}
	for i, name := range []string{"gw1", "gw2", "gw3", "w1", "w2"} {
		id := uint64(i + 1)
		w.members = append(w.members, Member{Name: name, Node: id, Gateway: i < 3, Voter: true,
			Priority: rapid.IntRange(1, 2).Draw(t, "priority")})
		w.nodes[id] = &worldNode{Report: Report{Node: id, Incarnation: id * 100, HearsUs: true}}
	}
	cfg := testConfig()
	cfg.Preempt = rapid.Bool().Draw(t, "preempt")
	self := rapid.Uint64Range(1, 5).Draw(t, "self")
	w.a, w.b = NewTracker(self, cfg, w.now), NewTracker(self, cfg, w.now)
	w.both(func(tr *Tracker) { tr.SetMembers(w.members); tr.Leading(w.now, true) })
	return w
}

func (w *world) both(do func(*Tracker)) { do(w.a); do(w.b) }

func (w *world) note(n *worldNode, over bool, epoch uint64) {
	node, inc := n.Node, n.Incarnation
	w.both(func(tr *Tracker) { tr.Note(w.now, node, inc, over, 0, epoch) })
}

// turn lets a while go by, then is one beat of everybody and one decision.
func (w *world) turn(while time.Duration) {
	w.now += int64(while)
	for _, m := range w.members {
		n := w.nodes[m.Node]
		n.Sequence++
		n.Applied = w.commit
		st := n.state()
		declined := st.State == Declined && st.StateEpoch == w.view.Epoch
		if w.view.Node == n.Node && w.view.Incarnation == n.Incarnation && !n.slow && !declined && n.released < w.view.Epoch {
			n.Groups = []GroupReport{{Epoch: w.view.Epoch, State: Holding, StateEpoch: w.view.Epoch}}
		} else if st.State == Holding && st.StateEpoch != w.view.Epoch {
			n.Groups = []GroupReport{{Epoch: w.view.Epoch}} // the group went elsewhere
		}
		if n.mute && n.Node != w.a.self {
			continue
		}
		w.both(func(tr *Tracker) { tr.Observe(w.now, n.Report) })
	}
	w.decide()
}

func (w *world) release(n *worldNode) {
	n.released = n.state().StateEpoch
	n.Groups = nil
	w.note(n, false, n.released)
}

func (n *worldNode) state() GroupReport {
	if len(n.Groups) == 0 {
		return GroupReport{}
	}
	return n.Groups[0]
}

func (w *world) decide() {
	got := w.a.Decide(w.now, []GroupView{w.view}, w.commit)
	if again := w.b.Decide(w.now, []GroupView{w.view}, w.commit); !slices.Equal(got, again) {
		w.t.Fatalf("the same calls gave %+v and %+v", got, again)
	}
	assigns := 0
	for _, a := range got {
		if a.Kind == Assign {
			assigns++
		}
		w.carryOut(a)
	}
	if assigns > 1 {
		w.t.Fatalf("two assignments of one group: %+v", got)
	}
}

func (w *world) carryOut(a Action) {
	m, ok := w.a.member(a.Node)
	if !ok {
		w.t.Fatalf("about a stranger: %+v", a)
	}
	n := w.nodes[a.Node]
	switch a.Kind {
	case Assign:
		w.checkAssign(a, m, n)
		w.commit++
		w.view = GroupView{Epoch: w.commit, Node: a.Node, Incarnation: a.Incarnation}
		w.moved = w.now
		w.both(func(tr *Tracker) {
			tr.Applied(w.now, Assignment{Epoch: w.commit, Node: a.Node, Incarnation: a.Incarnation, Prev: a.Prev})
		})
	case Prepare, Cancel:
		if w.view.Node == a.Node {
			w.t.Fatalf("the holder was told to prepare: %+v", a)
		}
		if a.Kind == Prepare && !n.slow && n.Incarnation == a.Incarnation {
			n.Groups = []GroupReport{{Epoch: w.view.Epoch, State: Ready, StateEpoch: a.Epoch}}
		} else if a.Kind == Cancel {
			n.Groups = nil
		}
	case AskRelease:
		if a.Epoch != w.view.Epoch || a.Node != w.view.Node {
			w.t.Fatalf("asked the wrong one: %+v, view %+v", a, w.view)
		}
		if !n.slow && n.Incarnation == a.Incarnation && n.state().State == Holding {
			w.release(n)
		}
	case Fence, Unfence:
		if a.Kind == Fence && (a.Node == w.a.self || !m.Gateway || m.Fenced) || a.Kind == Unfence && !m.Fenced {
			w.t.Fatalf("%+v of %+v", a, m)
		}
		w.members[a.Node-1].Fenced = a.Kind == Fence
		w.both(func(tr *Tracker) { tr.SetMembers(w.members) })
	}
}

func (w *world) checkAssign(a Action, m Member, n *worldNode) {
	if a.Prev != w.view.Epoch || a.From != w.view.Node {
		w.t.Fatalf("%+v does not replace %+v", a, w.view)
	}
	if a.Incarnation == 0 || m.Maintenance || m.Fenced || !m.Gateway || n.Health == HealthCannotHold && !n.mute {
		w.t.Fatalf("%+v to %+v %+v", a, m, n.Report)
	}
}

// disturb is one thing that goes wrong, or right again.
func (w *world) disturb() {
	id := rapid.Uint64Range(1, 5).Draw(w.t, "node")
	n, m := w.nodes[id], &w.members[id-1]
	switch rapid.SampledFrom([]string{"mute", "heard", "die", "die silently", "health", "maintenance", "slow",
		"release", "decline", "switch", "stall", "leave office"}).Draw(w.t, "what") {
	case "mute":
		n.mute = true
	case "heard":
		n.mute = false
	case "die":
		w.note(n, true, 0)
		n.Incarnation, n.Sequence, n.Groups = n.Incarnation+1, 0, nil
	case "die silently":
		n.Incarnation, n.Sequence, n.Groups = n.Incarnation+1, 0, nil
	case "health":
		n.Health = rapid.SampledFrom([]uint8{0, 0, 3, HealthCannotHold}).Draw(w.t, "health")
	case "maintenance":
		m.Maintenance = !m.Maintenance
		w.both(func(tr *Tracker) { tr.SetMembers(w.members) })
	case "slow":
		n.slow = !n.slow
	case "release":
		if n.state().State == Holding {
			w.release(n)
		}
	case "decline":
		if w.view.Node == id && n.state().State == Idle {
			n.Groups = []GroupReport{{Epoch: w.view.Epoch, State: Declined, StateEpoch: w.view.Epoch}}
		}
	case "switch":
		w.both(func(tr *Tracker) { _ = tr.Switch(w.now, 0, id) })
	case "stall":
		w.now += int64(3 * time.Second)
		w.both(func(tr *Tracker) { tr.Stalled(w.now) })
	case "leave office":
		w.both(func(tr *Tracker) { tr.Leading(w.now, false); tr.Leading(w.now, true) })
	}
}

// held tells whether the assigned node says that it holds.
func (w *world) held() bool {
	n := w.nodes[w.view.Node]
	return n != nil && n.state() == GroupReport{Epoch: w.view.Epoch, State: Holding, StateEpoch: w.view.Epoch}
}

// heal makes everything right again.
func (w *world) heal() {
	for id, n := range w.nodes {
		n.mute, n.slow, n.Health = false, false, 0
		w.members[id-1].Maintenance = false
	}
	w.both(func(tr *Tracker) { tr.SetMembers(w.members) })
}

// Whatever happens, the answers are sound; and when it is over somebody
// holds, and goes on holding. Covers I12.
func TestRandomWorld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			w.disturb()
			for range rapid.IntRange(0, 30).Draw(t, "turns") {
				w.turn(beat)
			}
		}
		w.heal()
		// The longest wait is a hold-down of all three; a preemption comes
		// 30 s after that.
		settled := func() bool { return w.held() && w.now-w.moved > int64(40*time.Second) }
		for end := w.now + int64(holdDownMax+80*time.Second); w.now < end && !settled(); {
			w.turn(promise / 2)
		}
		if !settled() {
			t.Fatalf("nobody holds for long: view %+v, eligible %+v", w.view, w.a.Eligible(w.now, 0))
		}
		for _, m := range w.members {
			if m.Fenced {
				t.Fatalf("%s is still fenced", m.Name)
			}
		}
	})
}
