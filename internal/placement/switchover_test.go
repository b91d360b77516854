package placement

import (
	"errors"
	"testing"
	"time"
)

func (r *rig) wantStage(stage SwitchStage) SwitchStatus {
	r.t.Helper()
	s, ok := r.tr.SwitchStatus(0)
	if !ok || s.Stage != stage || (stage == SwitchFailed) != (s.Reason != "") {
		r.t.Fatalf("switchover is %v %+v, want %v", ok, s, stage)
	}
	return s
}

func (r *rig) switchTo(target uint64) {
	r.t.Helper()
	if err := r.tr.Switch(r.now, 0, target); err != nil {
		r.t.Fatal(err)
	}
}

var (
	prepareGw1 = []Action{{Kind: Prepare, Node: gw1, Incarnation: 10, Epoch: 101, Cause: CauseOperator}}
	askGw2     = []Action{{Kind: AskRelease, Node: gw2, Incarnation: 20, Epoch: 101}}
	cancelGw1  = []Action{{Kind: Cancel, Node: gw1, Epoch: 101}}
)

func TestA5PlannedSwitchover(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.switchTo(gw1)
	r.want(prepareGw1, r.decide())
	r.want(nil, r.decide()) // at most once a beat
	r.say(gw1, Preparing, 101)
	r.want(prepareGw1, r.run(beat))
	r.wantStage(SwitchPending)

	r.say(gw1, Ready, 101)
	r.beat()
	r.want(askGw2, r.decide()) // at once
	r.want(nil, r.decide())
	r.want(askGw2, r.run(beat)) // may have been lost
	r.wantStage(SwitchReady)

	r.say(gw2, Idle, 0)
	r.tr.Note(r.now, gw2, 20, false, 0, 101)
	r.wantAssign(r.decide(), gw1, CauseOperator)
	r.wantStage(SwitchReleased)
	r.wantAssign(r.run(beat), gw1, CauseOperator) // the proposal was dropped
	r.view = GroupView{Epoch: 102, Node: gw1, Incarnation: 10, Pending: true}
	r.want(nil, r.run(beat))
	r.assigned(gw1, 102)
	r.want(nil, r.run(beat))
	r.wantStage(SwitchReleased)
	r.say(gw1, Holding, 102)
	r.quiet(time.Second)
	if s := r.wantStage(SwitchDone); s.From != gw2 || s.Target != gw1 || s.Epoch != 101 || s.NewEpoch != 102 || s.Ended == 0 {
		t.Fatalf("status %+v", s)
	}
}

func TestA5Refusals(t *testing.T) {
	r := newRig(t)
	refused := func(target uint64, want error) {
		t.Helper()
		if err := r.tr.Switch(r.now, 0, target); !errors.Is(err, want) {
			t.Fatalf("switch to %d: got %v, want %v", target, err, want)
		}
	}
	refused(gw1, ErrUnknown) // no such group yet
	r.decide()
	refused(gw1, ErrBusy) // nobody holds it
	r.holds(gw2, 101)
	refused(9, ErrUnknown)
	refused(gw2, ErrAlreadyHolder)
	refused(w1, ErrNotEligible)
	r.beats[gw1].Health = HealthCannotHold
	r.beat()
	refused(gw1, ErrNotEligible)
	refused(0, ErrNotEligible)
	r.quiet(beat)
	r.beats[gw1].Health = 0
	r.beat()
	r.tr.Leading(r.now, false)
	refused(gw1, ErrNotLeading)
	r.tr.Leading(r.now, true)
	if _, ok := r.tr.SwitchStatus(0); ok {
		t.Fatal("a refused switchover has a status")
	}
	r.switchTo(0)
	refused(gw1, ErrBusy)
	r.want(prepareGw1, r.decide())
	r.view.Pending = true
	if r.tr.holds(r.now, r.tr.groups[0]) && r.decide() == nil && r.tr.holds(r.now, r.tr.groups[0]) {
		t.Fatal("a pending assignment counts as held")
	}
}

func TestA5NotReadyInTime(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.switchTo(gw1)
	r.say(gw1, Ready, 100) // for another epoch
	for _, a := range r.run(switchLimit - ms) {
		if a.Kind != Prepare {
			t.Fatalf("got %+v", a)
		}
	}
	r.want(cancelGw1, r.run(ms))
	r.wantStage(SwitchFailed)
	r.quiet(20 * time.Second) // nothing has moved
	if c := r.tr.Eligible(r.now, 0); c[0].Node != gw1 {
		t.Fatalf("an operator's target was held down: %+v", c)
	}
}

func TestA5HolderDoesNotRelease(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.switchTo(gw1)
	r.say(gw1, Ready, 101)
	r.beat()
	r.want(askGw2, r.decide())
	for _, a := range r.run(switchLimit - ms) {
		if a.Kind != AskRelease {
			t.Fatalf("got %+v", a)
		}
	}
	r.want(cancelGw1, r.run(ms))
	r.wantStage(SwitchFailed)
}

func TestA5TargetLost(t *testing.T) {
	for name, do := range map[string]func(r *rig){
		"silent":         func(r *rig) { r.mute[gw1] = true; r.run(promise - ms) },
		"over":           func(r *rig) { r.tr.Note(r.now, gw1, 10, true, 0, 0) },
		"restarted":      func(r *rig) { r.beats[gw1].Incarnation = 11; r.beat() },
		"declined":       func(r *rig) { r.say(gw1, Declined, 101); r.beat() },
		"cannot hold":    func(r *rig) { r.beats[gw1].Health = HealthCannotHold; r.beat() },
		"removed":        func(r *rig) { r.members = r.members[1:]; r.tr.SetMembers(r.members) },
		"in maintenance": func(r *rig) { r.member(gw1, func(m *Member) { m.Maintenance = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.self = w1
			r.tr.self = w1
			r.holds(gw2, 101)
			r.switchTo(gw1)
			r.say(gw1, Ready, 101)
			r.beat()
			r.want(askGw2, r.decide())
			do(r)
			r.now += int64(ms)
			r.want(cancelGw1, r.decide())
			r.wantStage(SwitchFailed)
			r.quiet(time.Second)
		})
	}
}

func TestA5HolderDeadInBetween(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ready bool
		to    uint64
		stage SwitchStage
	}{
		{"target ready", true, 4, SwitchReleased},
		{"target not ready", false, gw1, SwitchFailed}, // the best one
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.members = append(r.members, Member{Name: "gw3", Node: 4, Gateway: true, Priority: 1, Voter: true})
			r.tr.SetMembers(r.members)
			r.beats[4] = &Report{Node: 4, Incarnation: 40, HearsUs: true, Applied: 100}
			r.beat()
			r.holds(gw2, 101)
			r.switchTo(4)
			if tc.ready {
				r.say(4, Ready, 101)
			}
			r.beat()
			r.decide()
			r.tr.Note(r.now, gw2, 20, true, 0, 0)
			r.wantAssign(r.decide(), tc.to, CauseWorkerDied)
			r.assigned(tc.to, 102)
			r.beat()
			r.want(nil, r.decide())
			r.wantStage(tc.stage)
		})
	}
}

// A new leader does not know of the switchover, but sees who is ready.
func TestA5NewLeaderPrefersTheReadyOne(t *testing.T) {
	r := newRig(t)
	r.members = append(r.members, Member{Name: "gw3", Node: 4, Gateway: true, Priority: 1, Voter: true})
	r.tr.SetMembers(r.members)
	r.beats[4] = &Report{Node: 4, Incarnation: 40, HearsUs: true, Applied: 100}
	r.holds(gw2, 101)
	r.say(4, Ready, 101)
	r.beat()
	r.tr.Note(r.now, gw2, 20, false, 0, 101)
	r.wantAssign(r.decide(), 4, CauseReleased)
}

func TestA5LeadershipMoves(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.switchTo(gw1)
	r.want(prepareGw1, r.decide())
	r.tr.Leading(r.now, false)
	r.wantStage(SwitchFailed)
	r.want(nil, r.run(time.Second)) // only a leader acts

	// After the Assign was proposed the outcome is followed.
	r = newRig(t).holds(gw2, 101)
	r.switchTo(gw1)
	r.say(gw1, Ready, 101)
	r.beat()
	r.tr.Note(r.now, gw2, 20, false, 0, 101)
	r.want(askGw2, nonAssign(r))
	r.view = GroupView{Epoch: 102, Node: gw1, Incarnation: 10, Pending: true}
	r.want(nil, r.decide())
	r.tr.Leading(r.now, false)
	r.wantStage(SwitchReleased)
	r.assigned(gw1, 102)
	r.say(gw1, Holding, 102)
	r.beat()
	r.wantStage(SwitchDone)
}

// nonAssign decides once before the release note is known, and once after.
func nonAssign(r *rig) []Action {
	r.t.Helper()
	p := r.tr.peers[gw2]
	note := p.released[0]
	delete(p.released, 0)
	before := r.decide()
	p.released[0] = note
	r.wantAssign(r.decide(), gw1, CauseOperator)
	return before
}

func TestA5TargetFailsToHold(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.switchTo(gw1)
	r.say(gw1, Ready, 101)
	r.beat()
	r.decide()
	r.tr.Note(r.now, gw2, 20, false, 0, 101)
	r.wantAssign(r.decide(), gw1, CauseOperator)
	r.assigned(gw1, 102)
	r.say(gw1, Declined, 102)
	r.beat()
	r.wantAssign(r.decide(), gw2, CauseUnhealthy)
	r.holds(gw2, 103)
	r.wantStage(SwitchFailed)
}

func TestMaintenanceOfTheHolder(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.beats[gw1].Health = HealthCannotHold
	r.member(gw2, func(m *Member) { m.Maintenance = true })
	r.quiet(20 * time.Second) // nobody else: it keeps holding
	if r.tr.Notice(0) == "" {
		t.Fatal("status says nothing")
	}
	r.beats[gw1].Health = 9
	r.want(prepareGw1, r.run(beat))
}

// An unasked switchover whose target does not get ready is not tried again at
// once (A2).
func TestA2UnaskedTargetIsHeldDown(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.beats[gw2].Health = 5
	r.run(switchLimit)
	r.want(cancelGw1, r.run(beat))
	r.quiet(10*time.Second - beat)
	r.want([]Action{{Kind: Prepare, Node: gw1, Incarnation: 10, Epoch: 101, Cause: CauseUnhealthy}}, r.run(beat))
}

func TestA7LeaderChangeMovesNothing(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	for range 5 {
		r.tr.Leading(r.now, false)
		r.run(time.Second)
		r.tr.Leading(r.now, true)
		r.quiet(time.Second)
	}
}

func TestA7Preemption(t *testing.T) {
	preempt := []Action{{Kind: Prepare, Node: gw1, Incarnation: 10, Epoch: 101, Cause: CausePreempted}}
	newPreempting := func() *rig {
		r := newRig(t).holds(gw2, 101)
		r.member(gw1, func(m *Member) { m.Priority = 200 })
		cfg := testConfig()
		cfg.Preempt = true
		r.tr.SetConfig(cfg)
		return r
	}
	t.Run("off", func(t *testing.T) {
		r := newRig(t).holds(gw2, 101)
		r.member(gw1, func(m *Member) { m.Priority = 200 })
		r.quiet(time.Minute)
	})
	t.Run("delayed", func(t *testing.T) {
		r := newPreempting()
		r.quiet(beat)
		r.quiet(30*time.Second - ms)
		r.want(preempt, r.run(ms))
	})
	t.Run("not by name", func(t *testing.T) {
		r := newPreempting()
		r.member(gw1, func(m *Member) { m.Priority = 100 })
		r.quiet(time.Minute)
	})
	t.Run("not by a sicker one", func(t *testing.T) {
		r := newPreempting()
		r.beats[gw1].Health = 1
		r.quiet(time.Minute)
	})
	t.Run("the delay begins anew", func(t *testing.T) {
		r := newPreempting()
		r.quiet(20 * time.Second)
		r.beats[gw1].HearsUs = false
		r.quiet(beat)
		r.beats[gw1].HearsUs = r.tr.self == gw1
		r.tr.self = w1
		r.quiet(beat)
		r.beats[gw1].HearsUs = false
		r.quiet(beat)
		r.beats[gw1].HearsUs = true
		r.quiet(30 * time.Second)
		r.want(preempt, r.run(beat))
	})
}
