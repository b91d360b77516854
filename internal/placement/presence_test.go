package placement

import (
	"slices"
	"testing"
	"time"
)

func TestA1Boot(t *testing.T) {
	r := newRig(t)
	r.wantAssign(r.decide(), gw1, CauseBoot)
	if c := r.tr.Eligible(r.now, 0); c[0].Name != "gw1" || c[1].Name != "gw2" || c[2].WhyNot == "" {
		t.Fatalf("eligible %+v", c)
	}
}

func TestA1PresentHolderStays(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.quiet(10 * time.Second)
}

func TestA1SilenceCountsFromTheLastAdvance(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.quiet(time.Second)
	r.mute[gw2] = true
	last := *r.beats[gw2]
	r.quiet(promise - ms)
	r.tr.Observe(r.now, last) // repeated datagrams advance nothing
	r.wantAssign(r.run(ms), gw1, CauseLeaseExpired)
}

func TestA1OnlyTheNamedEpochCounts(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.say(gw2, Holding, 90) // it still says so, of another epoch
	r.quiet(promise - ms)
	r.wantAssign(r.run(ms), gw1, CauseLeaseExpired)
}

func TestA1NoLongerHolding(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.say(gw2, Idle, 0)
	r.quiet(promise - ms)
	r.wantAssign(r.run(ms), gw1, CauseLeaseExpired)
}

func TestA1NeverHolding(t *testing.T) {
	for _, tc := range []struct {
		name    string
		applied bool
		limit   time.Duration
	}{
		{"applied there", true, promise + preAcquire},
		{"never applied there", false, 3*promise + preAcquire},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.assigned(gw2, 101)
			if !tc.applied {
				r.beats[gw2].Groups = nil
			}
			r.beat()
			r.decide()
			r.quiet(tc.limit - ms)
			r.wantAssign(r.run(ms), gw1, CauseUnhealthy)
		})
	}
}

// A target that goes silent is not given the pre-acquire limit.
func TestA1SilentTarget(t *testing.T) {
	r := newRig(t)
	r.assigned(gw2, 101)
	r.beat()
	r.mute[gw2] = true
	r.quiet(promise - ms)
	r.wantAssign(r.run(ms), gw1, CauseLeaseExpired)
}

func TestA1AtOnce(t *testing.T) {
	for _, tc := range []struct {
		name  string
		do    func(r *rig)
		cause Cause
	}{
		{"over", func(r *rig) { r.tr.Note(r.now, gw2, 20, true, 0, 0) }, CauseWorkerDied},
		{"release", func(r *rig) { r.tr.Note(r.now, gw2, 20, false, 0, 101) }, CauseReleased},
		{"release and over", func(r *rig) {
			r.tr.Note(r.now, gw2, 20, true, 0, 0)
			r.tr.Note(r.now, gw2, 20, false, 0, 101)
		}, CauseReleased},
		{"declined", func(r *rig) { r.say(gw2, Declined, 101); r.beat() }, CauseUnhealthy},
		{"another incarnation", func(r *rig) { r.beats[gw2].Incarnation = 21; r.beat() }, CauseWorkerDied},
		{"no member any more", func(r *rig) {
			r.members = slices.Delete(r.members, 1, 2)
			r.tr.SetMembers(r.members)
		}, CauseOperator},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t).holds(gw2, 101)
			tc.do(r)
			r.wantAssign(r.decide(), gw1, tc.cause)
			r.wantAssign(r.decide(), gw1, tc.cause) // until the view shows it
			r.view = GroupView{Epoch: 102, Node: gw1, Incarnation: 10, Pending: true}
			r.want(nil, r.decide())
		})
	}
}

func TestA1NotesOfOthersMoveNothing(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.tr.Note(r.now, gw2, 19, true, 0, 0)       // the incarnation before
	r.tr.Note(r.now, gw2, 20, false, 0, 100)    // an earlier epoch
	r.tr.Note(r.now, gw2, 20, false, 1, 101)    // another group
	r.tr.Note(r.now, gw1, 20, true, 0, 0)       // another node
	r.tr.Note(r.now, gw1, 20, false, 0, 101)    // another node's release
	r.tr.Note(r.now, gw2, 0, true, 0, 0)        // nothing
	r.tr.Observe(r.now, Report{Node: gw2})      // nothing
	r.tr.Observe(r.now, Report{Incarnation: 1}) // nothing
	r.quiet(time.Second)
}

// What another incarnation said of an epoch does not count for the one named.
func TestA1NamedIncarnationOnly(t *testing.T) {
	r := newRig(t)
	r.say(gw2, Declined, 101)
	r.beat()
	r.now += int64(ms)
	r.view = GroupView{Epoch: 101, Node: gw2, Incarnation: 21} // seen by the leader before
	r.tr.Applied(r.now, Assignment{Epoch: 101, Node: gw2, Incarnation: 21})
	r.want(nil, r.decide())
	r.beat() // still the other one: the named incarnation is gone
	r.now += int64(ms)
	r.beat()
	r.wantAssign(r.decide(), gw1, CauseWorkerDied)
}

// A late beat of the worker before does not pass for a restart.
func TestA1LateBeatOfTheReplacedWorker(t *testing.T) {
	r := newRig(t)
	late := *r.beats[gw2]
	late.Sequence = 1 << 40
	r.beats[gw2].Incarnation = 21
	r.beat()
	r.holds(gw2, 101)
	r.tr.Observe(r.now, late)
	r.want(nil, r.decide())
	r.tr.Note(r.now, gw2, 20, true, 0, 0)
	r.tr.Observe(r.now, late)
	r.quiet(time.Second)
	// With a cloned disk the other worker may be the one that stays.
	r.mute[gw2] = true
	r.tr.Note(r.now, gw2, 21, true, 0, 0)
	r.wantAssign(r.decide(), gw1, CauseWorkerDied)
}

// A new leader has the assignment of the last one in its log only, and takes
// it over when its node is gone (E5).
func TestA1PendingAssignmentOfADeadNode(t *testing.T) {
	r := newRig(t)
	r.view = GroupView{Epoch: 102, Node: gw2, Incarnation: 20, Pending: true}
	r.want(nil, r.decide())
	r.tr.Note(r.now, gw2, 20, true, 0, 0)
	r.wantAssign(r.decide(), gw1, CauseWorkerDied)
}

func TestE5FirstBatchAssigns(t *testing.T) {
	r := newRig(t)
	r.tr.Leading(r.now, false)
	r.holds(gw2, 101)
	r.mute[gw2] = true
	r.want(nil, r.run(promise))
	r.tr.Leading(r.now, true)
	r.wantAssign(r.decide(), gw1, CauseLeaseExpired) // silence counted before it led
}

func TestE7StallRestartsTheTimers(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.now += int64(10 * time.Second)
	r.tr.Stalled(r.now)
	r.want(nil, r.decide())
	r.mute[gw2] = true
	r.quiet(promise - ms)
	r.wantAssign(r.run(ms), gw1, CauseLeaseExpired)
}

func TestA1NobodyEligible(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.beats[gw1].Health = HealthCannotHold
	r.mute[gw2] = true
	r.quiet(2 * time.Second)
	if r.tr.Notice(0) == "" {
		t.Fatal("status says nothing")
	}
	// The first that can gets it: the same node, with its next worker.
	r.mute[gw2] = false
	r.beats[gw2].Incarnation, r.beats[gw2].Sequence = 21, 0
	r.say(gw2, Idle, 0)
	r.beat()
	r.wantAssign(r.decide(), gw2, CauseWorkerDied)
}

// A holder that comes back in time, or before anybody could take over, goes
// on as if nothing had been.
func TestA1HolderComesBack(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.beats[gw1].Health = HealthCannotHold
	r.mute[gw2] = true
	r.quiet(2 * time.Second)
	r.mute[gw2] = false
	r.beats[gw1].Health = 0
	r.quiet(2 * time.Second)
}

// The worker that gave up is not asked again while there is another, and not
// before P when there is none.
func TestA1GivenUp(t *testing.T) {
	r := newRig(t).holds(gw1, 101)
	r.say(gw1, Idle, 0)
	r.tr.Note(r.now, gw1, 10, false, 0, 101)
	r.beat()
	r.wantAssign(r.decide(), gw2, CauseReleased) // although gw1 ranks first
	r.beats[gw2].Health = HealthCannotHold
	r.quiet(promise - ms)
	r.wantAssign(r.run(ms), gw1, CauseReleased)
}

func TestA2HoldDown(t *testing.T) {
	r := newRig(t).holds(gw1, 101)
	r.member(gw1, func(m *Member) { m.Maintenance = true })
	epoch := uint64(101)
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		epoch++
		r.assigned(gw2, epoch)
		r.say(gw2, Declined, epoch)
		r.beat()
		r.want(nil, r.decide()) // the only one failed
		r.say(gw2, Idle, 0)
		r.quiet(want*time.Second - ms)
		if c := r.tr.Eligible(r.now, 0); c[1].WhyNot == "" {
			t.Fatalf("eligible %+v", c)
		}
		r.wantAssign(r.run(ms), gw2, CauseUnhealthy)
	}
	// Held for a while: forgotten.
	r.holds(gw2, 200)
	r.quiet(time.Minute + beat)
	r.assigned(gw2, 201)
	r.say(gw2, Declined, 201)
	r.beat()
	r.decide()
	r.say(gw2, Idle, 0)
	r.quiet(10*time.Second - ms)
	r.wantAssign(r.run(ms), gw2, CauseUnhealthy)
}

func TestA2WhatCountsAsFailing(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(r *rig)
		down bool
	}{
		{"declined", func(r *rig) { r.say(gw2, Declined, 101); r.beat() }, true},
		{"released before it held", func(r *rig) { r.tr.Note(r.now, gw2, 20, false, 0, 101) }, true},
		{"never holding", func(r *rig) { r.run(promise + preAcquire) }, true},
		{"worker died", func(r *rig) { r.tr.Note(r.now, gw2, 20, true, 0, 0) }, false},
		{"silent", func(r *rig) { r.mute[gw2] = true; r.run(promise) }, false},
		{"released after it held", func(r *rig) {
			r.say(gw2, Holding, 101)
			r.beat()
			r.tr.Note(r.now, gw2, 20, false, 0, 101)
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.assigned(gw2, 101)
			r.beat()
			r.want(nil, r.decide())
			tc.do(r)
			r.decide()
			if _, down := r.tr.groups[0].holdDown[gw2]; down != tc.down {
				t.Fatalf("held down: %v, want %v", down, tc.down)
			}
		})
	}
}

// Followers count failures too, so that a new leader does not try again.
func TestA2FollowersCount(t *testing.T) {
	r := newRig(t)
	r.tr.Leading(r.now, false)
	r.assigned(gw2, 101)
	r.beat()
	r.say(gw2, Declined, 101)
	r.beat()
	r.assigned(gw1, 102)
	if c := r.tr.Eligible(r.now, 0); c[1].Name != "gw2" || c[1].WhyNot == "" {
		t.Fatalf("eligible %+v", c)
	}
}

func grantsTo(node, epoch, seq uint64) []Grant {
	return []Grant{{To: node, Epoch: epoch, Sequence: seq}}
}

// runGranting is run while w1 reports renewed grants to gw2.
func (r *rig) runGranting(d time.Duration, epoch uint64, advance bool) (all []Action) {
	for end := r.now + int64(d); r.now < end; {
		seq := uint64(1)
		if advance {
			seq = uint64(r.now)
		}
		r.beats[w1].Grants = grantsTo(gw2, epoch, seq)
		all = append(all, r.run(min(beat, time.Duration(end-r.now)))...)
	}
	return all
}

func TestA3OnlyTheLeaderCannotHear(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.runGranting(time.Second, 101, true)
	r.mute[gw2] = true
	r.want(nil, r.runGranting(2*promise-ms, 101, true))
	r.wantAssign(r.runGranting(ms, 101, true), gw1, CauseLeaseExpired)
}

func TestA3GrantsThatDoNotCount(t *testing.T) {
	for _, tc := range []struct {
		name    string
		epoch   uint64
		advance bool
	}{{"another epoch", 100, true}, {"not renewed", 101, false}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t).holds(gw2, 101)
			r.runGranting(time.Second, tc.epoch, tc.advance)
			r.mute[gw2] = true
			r.want(nil, r.runGranting(promise-ms, tc.epoch, tc.advance))
			r.wantAssign(r.runGranting(ms, tc.epoch, tc.advance), gw1, CauseLeaseExpired)
		})
	}
}

func TestA3HolderThatDoesNotApply(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.commit = 150
	r.beats[gw1].Applied, r.beats[w1].Applied = 150, 150
	r.run(ms)
	r.quiet(2*promise - ms)
	r.wantAssign(r.run(ms), gw1, CauseUnhealthy)
	// It moved, if only a little.
	r.beats[gw2].Applied = 101
	r.quiet(2 * promise)
	r.wantAssign(r.run(beat), gw1, CauseUnhealthy)
	// Nobody else can: it stays, and status says so.
	r.beats[gw1].Health = HealthCannotHold
	r.quiet(time.Second)
	if r.tr.Notice(0) == "" {
		t.Fatal("status says nothing")
	}
	// Neither did the commit: nothing to apply.
	r.commit = 101
	r.beats[gw1].Health = 0
	r.quiet(10 * time.Second)
}

func TestOperatorFenceReplacesTheHolder(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.member(gw2, func(m *Member) { m.Fenced, m.FencedByOperator = true, true })
	r.wantAssign(r.decide(), gw1, CauseOperator)
	r.beats[gw1].Health = HealthCannotHold
	r.quiet(time.Second)
}
