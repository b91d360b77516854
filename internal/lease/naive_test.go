package lease

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naiveVoter is the rules said again without any thought of speed or memory:
// it keeps all that ever happened and searches it for each answer.
type naiveVoter struct {
	openAt, promise int64
	abstains        bool
	config          uint64
	requests        []Request // authenticated, granted or not
	assigned        []Standing
	notes           []Note
	granted         []Standing // all ever given
	promises        []Standing // those that no note ended; Until is the end
	cloned          []uint64
}

func (n *naiveVoter) request(now int64, r Request) (Ack, RefusalReason) {
	n.requests = append(n.requests, r)
	reasons := []struct {
		reason RefusalReason
		hit    bool
	}{
		{Abstaining, n.abstains},
		{NotYet, now < n.openAt},
		{Cloned, slices.Contains(n.cloned, r.Node)},
		{Ended, slices.ContainsFunc(n.notes, func(x Note) bool {
			return x.Kind == Over && x.Node == r.Node && x.Incarnation == r.Incarnation
		})},
		{Released, slices.ContainsFunc(n.notes, func(x Note) bool {
			return x.Kind == Release && x.Node == r.Node && x.Incarnation == r.Incarnation &&
				x.Group == r.Group && x.Epoch >= r.Epoch
		})},
		{OldEpoch, r.Epoch < n.highest(r.Group) || r.Epoch == 0},
		{WrongHolder, n.belongsToAnother(r)},
		{OldConfig, r.Config < n.config},
		{GrantedElsewhere, slices.ContainsFunc(n.promises, func(p Standing) bool {
			return p.Group == r.Group && now < p.Until && (p.Node != r.Node || p.Incarnation != r.Incarnation)
		})},
	}
	for _, x := range reasons {
		if x.hit {
			return Ack{}, x.reason
		}
	}
	seq := uint64(0)
	for _, s := range n.granted {
		if s.Group == r.Group && s.Epoch == r.Epoch {
			seq = max(seq, s.Sequence)
		}
	}
	// The worker may have gone on to a higher epoch: its older promises are
	// for that one now, and end with it.
	for i, p := range n.promises {
		if p.Group == r.Group && p.Node == r.Node && p.Incarnation == r.Incarnation {
			n.promises[i].Epoch = r.Epoch
		}
	}
	if seq == 0 || r.Sequence > seq {
		seq = r.Sequence
		s := Standing{Group: r.Group, Node: r.Node, Incarnation: r.Incarnation,
			Epoch: r.Epoch, Sequence: r.Sequence, Until: now + n.promise}
		n.granted, n.promises = append(n.granted, s), append(n.promises, s)
	}
	return Ack{Group: r.Group, Epoch: r.Epoch, Incarnation: r.Incarnation, Sequence: seq}, 0
}

func (n *naiveVoter) highest(group uint16) (e uint64) {
	for _, r := range n.requests {
		if r.Group == group {
			e = max(e, r.Epoch)
		}
	}
	for _, a := range n.assigned {
		if a.Group == group {
			e = max(e, a.Epoch)
		}
	}
	return e
}

func (n *naiveVoter) belongsToAnother(r Request) bool {
	other := func(s Standing) bool {
		return s.Group == r.Group && s.Epoch == r.Epoch && (s.Node != r.Node || s.Incarnation != r.Incarnation)
	}
	return slices.ContainsFunc(n.assigned, other) || slices.ContainsFunc(n.granted, other)
}

func (n *naiveVoter) note(x Note) {
	n.notes = append(n.notes, x)
	n.promises = slices.DeleteFunc(n.promises, func(p Standing) bool {
		return p.Node == x.Node && p.Incarnation == x.Incarnation &&
			(x.Kind == Over || p.Group == x.Group && p.Epoch == x.Epoch)
	})
}

// The voter answers like the naive one, whatever comes in whatever order.
func TestVoterAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.SampledFrom([]int64{0, int64(promise), int64(promise)}).Draw(t, "now")
		v := NewVoter(0, promise, promise)
		n := &naiveVoter{openAt: int64(promise), promise: int64(promise)}
		node := rapid.Uint64Range(1, 3)
		group := rapid.Uint16Range(0, 1)
		// Near the highest one: most of the others are refused anyway.
		epoch := func(t *rapid.T, g uint16) uint64 {
			back := rapid.SampledFrom([]int64{0, 0, 0, 0, -1, 1, 2}).Draw(t, "back")
			return uint64(max(0, int64(n.highest(g))-back))
		}
		// An epoch belongs to one worker; sometimes it is asked for by another.
		worker := func(e uint64) (uint64, uint64) {
			if rapid.IntRange(0, 9).Draw(t, "stray") == 0 {
				return node.Draw(t, "node"), rapid.Uint64Range(1, 2).Draw(t, "incarnation")
			}
			return e%3 + 1, e%2 + 1
		}
		request := func(t *rapid.T) {
			g := group.Draw(t, "group")
			e := epoch(t, g)
			id, inc := worker(e)
			r := Request{Node: id, Incarnation: inc, Group: g, Epoch: e,
				Config: rapid.SampledFrom([]uint64{5, 5, 5, 5, 4}).Draw(t, "config"), Sequence: rapid.Uint64Range(1, 12).Draw(t, "seq")}
			ack, refused := v.Request(now, r)
			wantAck, reason := n.request(now, r)
			if (refused == nil) != (reason == 0) || refused != nil && refused.Reason != reason || ack != wantAck {
				t.Fatalf("at %d %+v: got %+v %+v, naive %+v %v", now, r, ack, refused, wantAck, reason)
			}
			if refused != nil && refused.Highest != n.highest(r.Group) {
				t.Fatalf("%+v names %d as highest, naive %d", r, refused.Highest, n.highest(r.Group))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"request": request, "request again": request, "and again": request, // most of what happens
			"wait": func(t *rapid.T) { now += rapid.Int64Range(0, int64(promise)/2).Draw(t, "wait") },
			"note": func(t *rapid.T) {
				g := group.Draw(t, "group")
				e := max(1, epoch(t, g))
				id, inc := worker(e)
				x := Note{Kind: Release, Node: id, Incarnation: inc, Group: g, Epoch: e}
				if rapid.IntRange(0, 5).Draw(t, "over") == 0 {
					x.Kind, x.Group, x.Epoch = Over, 0, 0
				}
				v.Note(now, x)
				n.note(x)
			},
			"applied": func(t *rapid.T) {
				// Assigns are applied in the order of the log, without gaps
				// only where a snapshot stands for them.
				g := group.Draw(t, "group")
				e := rapid.Uint64Range(v.group(g).assigned.epoch+1, v.group(g).assigned.epoch+2).Draw(t, "epoch")
				id, inc := worker(e)
				v.Applied(g, e, id, inc)
				n.assigned = append(n.assigned, Standing{Group: g, Epoch: e, Node: id, Incarnation: inc})
			},
			"settings": func(t *rapid.T) {
				n.abstains = rapid.IntRange(0, 9).Draw(t, "abstain") == 0
				v.SetVoting(!n.abstains)
				n.config = max(n.config, rapid.Uint64Range(0, 5).Draw(t, "config"))
				v.AppliedConfig(n.config)
				id, cloned := node.Draw(t, "node"), rapid.IntRange(0, 9).Draw(t, "cloned") == 0
				v.SetCloned(id, cloned)
				n.cloned = slices.DeleteFunc(n.cloned, func(c uint64) bool { return c == id })
				if cloned {
					n.cloned = append(n.cloned, id)
				}
			},
			"": func(t *rapid.T) { checkOneGrant(t, v, now) },
		})
	})
}

// checkOneGrant asserts what G1 is for: one standing grant in a group, and
// that of the highest epoch ever granted.
func checkOneGrant(t *rapid.T, v *Voter, now int64) {
	for i, s := range v.Standing(now) {
		if i > 0 && v.Standing(now)[i-1].Group == s.Group {
			t.Fatalf("two grants stand in group %d", s.Group)
		}
		if g := v.groups[s.Group]; s.Epoch != g.granted.epoch || s.Epoch > g.seen {
			t.Fatalf("epoch %d stands, granted %d, seen %d", s.Epoch, g.granted.epoch, g.seen)
		}
	}
}

// naiveDeadline says G8 and G4 again: the latest time T such that in every
// half more than half of the voters have acknowledged a request sent at T or
// later, plus L.
func naiveDeadline(acks map[uint64][]int64, halves [][]uint64, leaseNs int64) (int64, bool) {
	best, found := int64(0), false
	for _, sent := range acks {
		for _, at := range sent {
			enough := true
			for _, half := range halves {
				n := 0
				for _, voter := range half {
					if slices.ContainsFunc(acks[voter], func(s int64) bool { return s >= at }) {
						n++
					}
				}
				enough = enough && 2*n > len(half)
			}
			if enough && (!found || at > best) {
				best, found = at, true
			}
		}
	}
	return best + leaseNs, found
}

func TestHolderAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := NewHolder(1, incA, defaultTiming)
		half := rapid.SliceOfNDistinct(rapid.Uint64Range(1, 7), 1, 7, rapid.ID[uint64])
		halves := [][]uint64{half.Draw(t, "voters")}
		h.SetVoters(1, halves...)
		if err := h.Begin(0, 5); err != nil {
			t.Fatal(err)
		}
		sent, acks := map[uint64]int64{}, map[uint64][]int64{}
		now, seq, config, deadline := int64(0), uint64(0), uint64(1), int64(-1)
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				now += rapid.Int64Range(0, int64(100*ms)).Draw(t, "wait")
				seq += rapid.Uint64Range(1, 3).Draw(t, "step")
				h.Request(now, seq)
				sent[seq] = now
			},
			"acks": func(t *rapid.T) {
				for range rapid.IntRange(1, 5).Draw(t, "acks") {
					from := rapid.Uint64Range(1, 8).Draw(t, "from")
					s := rapid.Uint64Range(seq-min(seq, 6), seq+1).Draw(t, "seq")
					h.Ack(from, ackOf(5, s))
					member := slices.ContainsFunc(halves, func(x []uint64) bool { return slices.Contains(x, from) })
					if at, ok := sent[s]; ok && member {
						acks[from] = append(acks[from], at)
					}
				}
			},
			"voters": func(t *rapid.T) {
				halves = [][]uint64{half.Draw(t, "voters")}
				if rapid.Bool().Draw(t, "joint") {
					halves = append(halves, half.Draw(t, "more voters"))
				}
				config++
				h.SetVoters(config, halves...)
				for voter := range acks { // one that left has to begin anew
					if !slices.ContainsFunc(halves, func(x []uint64) bool { return slices.Contains(x, voter) }) {
						delete(acks, voter)
					}
				}
			},
			"": func(t *rapid.T) {
				want, found := naiveDeadline(acks, halves, h.leaseNs)
				if found {
					deadline = max(deadline, want)
				}
				w, ok := h.Window(0)
				if ok != (deadline >= 0) || ok && w.Deadline != deadline {
					t.Fatalf("window %+v %v, naive deadline %d", w, ok, deadline)
				}
				since := h.AckedByMajoritySince(0)
				if found && since != want-h.leaseNs || !found && since != 0 {
					t.Fatalf("acknowledged since %d, naive %d %v", since, want-h.leaseNs, found)
				}
			},
		})
	})
}
