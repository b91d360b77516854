package placement

import (
	"testing"
	"time"
)

var (
	fenceGw2   = []Action{{Kind: Fence, Node: gw2}}
	unfenceGw2 = []Action{{Kind: Unfence, Node: gw2}}
)

func TestFenceAfterSilence(t *testing.T) {
	r := newRig(t).holds(gw1, 101)
	r.mute[gw2] = true
	r.quiet(10*time.Second - ms)
	r.want(fenceGw2, r.run(ms))
	r.want(nil, r.run(promise-ms))
	r.want(fenceGw2, r.run(ms)) // the proposal was dropped
	r.member(gw2, func(m *Member) { m.Fenced = true })
	r.quiet(time.Minute)
}

func TestFenceDelayCountsFrom(t *testing.T) {
	t.Run("leadership", func(t *testing.T) {
		r := newRig(t).holds(gw1, 101)
		r.mute[gw2] = true
		r.tr.Leading(r.now, false)
		r.run(time.Minute)
		r.tr.Leading(r.now, true)
		r.quiet(10*time.Second - ms)
		r.want(fenceGw2, r.run(ms))
	})
	// F2: a member that lost its data speaks under a new id from its first
	// beat on, not from the beginning of our leadership.
	t.Run("joining under a new id", func(t *testing.T) {
		const again = 1002
		r := newRig(t).holds(gw1, 101)
		r.quiet(time.Minute)
		r.beats[again] = &Report{Node: again}
		r.mute[again] = true
		r.member(gw2, func(m *Member) { m.Node = again })
		r.quiet(10 * time.Second) // from the first decision with it on
		r.want([]Action{{Kind: Fence, Node: again}}, r.run(100*ms))
	})
	t.Run("a stall", func(t *testing.T) {
		r := newRig(t).holds(gw1, 101)
		r.mute[gw2] = true
		r.quiet(9 * time.Second)
		r.tr.Stalled(r.now)
		r.quiet(10*time.Second - ms)
		r.want(fenceGw2, r.run(ms))
	})
}

func TestFenceNever(t *testing.T) {
	for name, do := range map[string]func(r *rig){
		"by hand only": func(r *rig) {
			cfg := testConfig()
			cfg.FenceDelay = 0
			r.tr.SetConfig(cfg)
			r.mute[gw2] = true
		},
		"the witness":        func(r *rig) { r.mute[w1] = true },
		"without a majority": func(r *rig) { r.mute[gw2], r.mute[w1] = true, true },
		"a majority is deaf": func(r *rig) { r.mute[gw2] = true; r.beats[w1].HearsUs = false },
		"a follower does":    func(r *rig) { r.tr.Leading(r.now, false); r.mute[gw2] = true },
		"fenced by an operator": func(r *rig) {
			r.member(gw2, func(m *Member) { m.Fenced, m.FencedByOperator = true, true })
			r.mute[gw2] = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t).holds(gw1, 101)
			do(r)
			r.quiet(time.Minute)
		})
	}
}

func TestFenceNeverSelf(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.mute[gw1] = true // its own reports do not reach the tracker
	r.quiet(time.Minute)
}

// A holder that a majority still grants to is not cut off, although we cannot
// hear it and nobody can take over.
func TestFenceNeverAGrantedHolder(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.beats[gw1].Health = HealthCannotHold
	r.mute[gw2] = true
	r.want(nil, r.runGranting(time.Minute, 101, true))
	r.want(fenceGw2, r.runGranting(promise, 101, false))
}

func TestA6FirstBatchOfANewLeader(t *testing.T) {
	r := newRig(t)
	r.tr.Leading(r.now, false)
	r.holds(gw2, 101)
	r.commit = 200 // nobody has caught up
	for _, n := range []uint64{gw1, gw2, w1} {
		r.member(n, func(m *Member) { m.Fenced = true })
	}
	r.beats[w1].HearsUs = false // heard one way only
	r.run(beat)
	r.tr.Note(r.now, gw2, 20, true, 0, 0)
	r.tr.Leading(r.now, true)
	got := r.decide()
	r.want([]Action{{Kind: Unfence, Node: gw1}}, got[:1])
	r.wantAssign(got[1:], gw1, CauseWorkerDied) // in the same batch, after it

	r = newRig(t)
	r.tr.Leading(r.now, false)
	r.holds(gw1, 101)
	r.commit = 200 // gw2 has not caught up
	r.member(gw2, func(m *Member) { m.Fenced = true })
	r.tr.Leading(r.now, true)
	r.beat()
	r.want(unfenceGw2, r.decide())
}

func TestA6AfterCatchingUp(t *testing.T) {
	r := newRig(t).holds(gw1, 101)
	r.mute[gw2] = true
	r.quiet(promise)
	r.member(gw2, func(m *Member) { m.Fenced = true })
	r.quiet(time.Second)
	r.mute[gw2] = false
	r.commit, r.beats[gw1].Applied = 200, 200
	r.quiet(beat)
	r.commit, r.beats[gw1].Applied = 300, 300 // went on since it came back
	r.beats[gw2].Applied = 199
	r.quiet(beat)
	r.beats[gw2].Applied = 200
	r.want(unfenceGw2, r.run(beat))
	r.member(gw2, func(m *Member) { m.Fenced = false })
	r.quiet(time.Second)
}

func TestA6OperatorsFenceStays(t *testing.T) {
	r := newRig(t)
	r.tr.Leading(r.now, false)
	r.holds(gw1, 101)
	r.member(gw2, func(m *Member) { m.Fenced, m.FencedByOperator = true, true })
	r.tr.Leading(r.now, true)
	r.quiet(time.Minute)
}
