package placement

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestA4WhyNot(t *testing.T) {
	for name, do := range map[string]func(r *rig){
		"witness":            func(r *rig) { r.member(gw2, func(m *Member) { m.Gateway = false }) },
		"learner":            func(r *rig) { r.member(gw2, func(m *Member) { m.Voter = false }) },
		"maintenance":        func(r *rig) { r.member(gw2, func(m *Member) { m.Maintenance = true }) },
		"fenced":             func(r *rig) { r.commit = 101; r.member(gw2, func(m *Member) { m.Fenced = true }) },
		"operator's fence":   func(r *rig) { r.member(gw2, func(m *Member) { m.FencedByOperator = true }) },
		"over":               func(r *rig) { r.tr.Note(r.now, gw2, 20, true, 0, 0) },
		"silent":             func(r *rig) { r.mute[gw2] = true; r.quiet(promise) },
		"deaf to us":         func(r *rig) { r.beats[gw2].HearsUs = false; r.beat() },
		"cannot hold":        func(r *rig) { r.beats[gw2].Health = HealthCannotHold; r.beat() },
		"does not apply":     func(r *rig) { r.commit = 101; r.beats[gw1].Applied = 101; r.quiet(beat + 2*promise) },
		"declined to follow": func(r *rig) { r.say(gw2, Declined, 101); r.beat() },
		"held down":          func(r *rig) { r.tr.groups[0].fail(r.now, gw2) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t).holds(gw1, 101)
			if c := r.tr.Eligible(r.now, 0); len(c) != 3 || c[1].Node != gw2 || c[1].WhyNot != "" {
				t.Fatalf("before: %+v", c)
			}
			do(r)
			c := r.tr.Eligible(r.now, 0)
			if i := slices.IndexFunc(c, func(c Candidate) bool { return c.Node == gw2 }); c[i].WhyNot == "" {
				t.Fatalf("still eligible: %+v", c)
			}
			// It is not chosen either, although nobody else is left.
			r.tr.Note(r.now, gw1, 10, true, 0, 0)
			for _, a := range r.decide() {
				if a.Kind == Assign {
					t.Fatalf("chosen: %+v", a)
				}
			}
		})
	}
	r := newRig(t)
	r.tr.SetMembers(append(r.members, Member{Name: "gw3", Node: 4, Gateway: true, Voter: true}))
	if c := r.tr.Eligible(r.now, 0); c[2].Name != "gw3" || c[2].WhyNot != "was not heard yet" {
		t.Fatalf("never heard: %+v", c)
	}
	if len(r.tr.groups) != 0 {
		t.Fatal("asking made state")
	}
}

func TestA4HealthThenPriorityThenName(t *testing.T) {
	r := newRig(t)
	r.beats[gw1].Health = 1
	r.beat()
	r.wantAssign(r.decide(), gw2, CauseBoot)
	r.member(gw1, func(m *Member) { m.Priority = 200 })
	r.wantAssign(r.decide(), gw2, CauseBoot) // health before priority
	r.beats[gw1].Health = 0
	r.beat()
	r.wantAssign(r.decide(), gw1, CauseBoot)
	r.member(gw1, func(m *Member) { m.Priority = 100; m.Name = "gw9" })
	r.wantAssign(r.decide(), gw2, CauseBoot)
}

func TestA4EqualMeansStay(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.beats[gw1].Health, r.beats[gw2].Health = 7, 7
	r.quiet(10 * time.Second)
	r.beats[gw1].Health = 6 // healthier
	r.want([]Action{{Kind: Prepare, Node: gw1, Incarnation: 10, Epoch: 101, Cause: CauseUnhealthy}}, r.run(beat))
}

func TestA4OnlyACandidateThatCanHold(t *testing.T) {
	r := newRig(t).holds(gw2, 101)
	r.beats[gw2].Health = 200
	r.beats[gw1].Health = HealthCannotHold
	r.quiet(10 * time.Second) // the sick one is better than none
}

// naiveBest says A4's rank again: nobody else beats it.
func naiveBest(all []Candidate) (uint64, bool) {
	for _, c := range all {
		beaten := slices.ContainsFunc(all, func(o Candidate) bool {
			switch {
			case o.Health != c.Health:
				return o.Health < c.Health
			case o.Priority != c.Priority:
				return o.Priority > c.Priority
			}
			return o.Name < c.Name
		})
		if !beaten {
			return c.Node, true
		}
	}
	return 0, false
}

// naiveEligible says eligibility again, from the inputs themselves.
func naiveEligible(members []Member, reports map[uint64]Report, heardAt map[uint64]int64, over map[uint64]bool,
	self uint64, now int64) (out []Candidate) {
	for _, m := range members {
		r, ok := reports[m.Node]
		if !ok || !m.Gateway || !m.Voter || m.Maintenance || m.Fenced || m.FencedByOperator {
			continue
		}
		if now-heardAt[m.Node] >= int64(promise) || over[r.Incarnation] || r.Health == 255 {
			continue
		}
		if r.HearsUs || m.Node == self {
			out = append(out, Candidate{Member: m, Health: r.Health})
		}
	}
	return out
}

func TestCandidateAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const self = 1
		size := rapid.IntRange(1, 6).Draw(t, "members")
		often := func(name string) bool { return rapid.IntRange(0, 9).Draw(t, name) > 0 }
		var members []Member
		for i := range size {
			m := Member{Name: string(rune('a' + (i*5)%7)), Node: uint64(i + 1), Gateway: often("gateway"),
				Priority: rapid.IntRange(1, 3).Draw(t, "priority"), Voter: often("voter"),
				Maintenance: !often("no maintenance"), FencedByOperator: !often("no fence")}
			m.Fenced = m.FencedByOperator
			members = append(members, m)
		}
		start := int64(time.Hour)
		tr := NewTracker(self, testConfig(), start)
		tr.SetMembers(members)
		tr.Leading(start, true)
		reports, heardAt, over := map[uint64]Report{}, map[uint64]int64{}, map[uint64]bool{}
		now := start
		for range rapid.IntRange(1, 12).Draw(t, "beats") {
			now += rapid.Int64Range(0, int64(promise)/3).Draw(t, "wait")
			node := rapid.Uint64Range(1, uint64(size)).Draw(t, "node")
			r := Report{Node: node, Incarnation: node * 10, Sequence: reports[node].Sequence + 1,
				HearsUs: often("hears us"), Health: rapid.SampledFrom([]uint8{0, 0, 1, 254, 255}).Draw(t, "health")}
			if !over[r.Incarnation] {
				reports[node], heardAt[node] = r, now
			}
			tr.Observe(now, r)
			if !often("lives") {
				over[r.Incarnation] = true
				tr.Note(now, node, r.Incarnation, true, 0, 0)
			}
		}
		var got uint64
		for _, a := range tr.Decide(now, []GroupView{{}}, 0) {
			if a.Kind == Assign {
				got = a.Node
			}
		}
		all := naiveEligible(members, reports, heardAt, over, self, now)
		if want, _ := naiveBest(all); got != want {
			t.Fatalf("assigned to %d, naive %d of %+v", got, want, all)
		}
	})
}
