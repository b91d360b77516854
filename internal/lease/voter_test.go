package lease

import (
	"fmt"
	"testing"
	"time"
)

const (
	nodeA, nodeB, nodeC = 1, 2, 3
	incA, incB          = 11, 22
	promise             = 500 * ms
)

// at is a time in milliseconds on the clock of the test.
func at(millis int64) int64 { return millis * int64(ms) }

// openVoter is a voter whose wait of G2 is over at 0.
func openVoter() *Voter { return NewVoter(at(-500), promise, promise) }

func reqA(epoch, seq uint64) Request {
	return Request{Node: nodeA, Incarnation: incA, Epoch: epoch, Sequence: seq}
}

func reqB(epoch, seq uint64) Request {
	return Request{Node: nodeB, Incarnation: incB, Epoch: epoch, Sequence: seq}
}

// wantAck asks and demands a grant whose acknowledgement carries seq.
func wantAck(t *testing.T, v *Voter, now int64, r Request, seq uint64) {
	t.Helper()
	a, refused := v.Request(now, r)
	want := Ack{Group: r.Group, Epoch: r.Epoch, Incarnation: r.Incarnation, Sequence: seq}
	if refused != nil || a != want {
		t.Fatalf("at %d %+v: got %+v, %+v; want %+v", now, r, a, refused, want)
	}
}

func wantRefusal(t *testing.T, v *Voter, now int64, r Request, reason RefusalReason, highest uint64) {
	t.Helper()
	a, refused := v.Request(now, r)
	want := Refusal{Group: r.Group, Epoch: r.Epoch, Highest: highest, Reason: reason}
	if refused == nil || *refused != want || a != (Ack{}) {
		t.Fatalf("at %d %+v: got %+v, %+v; want %+v", now, r, a, refused, want)
	}
}

func overOf(node, incarnation uint64) Note {
	return Note{Kind: Over, Node: node, Incarnation: incarnation}
}

func releaseOf(node, incarnation, epoch uint64) Note {
	return Note{Kind: Release, Node: node, Incarnation: incarnation, Epoch: epoch}
}

func TestG1OneUnexpiredGrant(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 1), 1)
	wantRefusal(t, v, at(499), reqB(6, 1), GrantedElsewhere, 6)
	wantAck(t, v, at(500), reqB(6, 2), 2) // P after receipt, not before
	wantRefusal(t, v, at(501), reqA(7, 9), GrantedElsewhere, 7)
}

func TestG1RenewalExtends(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 1), 1)
	wantAck(t, v, at(300), reqA(5, 2), 2)
	wantRefusal(t, v, at(799), reqB(6, 1), GrantedElsewhere, 6)
	wantAck(t, v, at(800), reqB(6, 2), 2)
}

func TestG1NewIncarnationIsAnotherHolder(t *testing.T) {
	v := openVoter()
	again := Request{Node: nodeA, Incarnation: 12, Epoch: 6, Sequence: 1}
	wantAck(t, v, at(0), reqA(5, 1), 1)
	wantRefusal(t, v, at(499), again, GrantedElsewhere, 6)
	v.Note(at(499), overOf(nodeA, incA))
	wantAck(t, v, at(499), again, 1)
}

func TestG1GroupsAreApart(t *testing.T) {
	v := openVoter()
	other := reqB(6, 1)
	other.Group = 1
	wantAck(t, v, at(0), reqA(5, 1), 1)
	wantAck(t, v, at(0), other, 1)
	if got := v.Highest(0); got != 5 {
		t.Fatalf("group 0 has seen %d, want 5", got)
	}
}

func TestG1SameWorkerNextEpoch(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 1), 1)
	wantAck(t, v, at(100), reqA(6, 2), 2)
	wantRefusal(t, v, at(599), reqB(7, 1), GrantedElsewhere, 7)
}

func TestG2NothingAfterStart(t *testing.T) {
	v := NewVoter(at(1000), 2*promise, promise)
	wantRefusal(t, v, at(1000), reqA(5, 1), NotYet, 5)
	wantRefusal(t, v, at(1999), reqA(5, 2), NotYet, 5)
	wantAck(t, v, at(2000), reqA(5, 3), 3)
}

func TestG2WaitCoversPromise(t *testing.T) {
	for _, tc := range []struct{ wait, promise time.Duration }{{499 * ms, promise}, {0, 0}, {0, promise}, {promise, -1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("wait %v with promise %v was accepted", tc.wait, tc.promise)
				}
			}()
			NewVoter(0, tc.wait, tc.promise)
		}()
	}
}

func TestG2ShorterPromiseKeepsOldOnes(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 1), 1)
	v.SetPromise(120 * ms)
	wantAck(t, v, at(10), reqA(5, 2), 2)
	wantRefusal(t, v, at(499), reqB(6, 1), GrantedElsewhere, 6)
	wantAck(t, v, at(500), reqB(6, 2), 2)
	wantAck(t, v, at(620), reqA(7, 3), 3) // P is 120 ms now
}

func TestG3LowerThanSeen(t *testing.T) {
	t.Run("applied", func(t *testing.T) {
		v := openVoter()
		v.Applied(0, 8, nodeB, incB)
		wantRefusal(t, v, at(0), reqA(5, 1), OldEpoch, 8)
	})
	t.Run("requested", func(t *testing.T) {
		v := openVoter()
		wantAck(t, v, at(0), reqA(5, 1), 1)
		wantRefusal(t, v, at(1), reqB(8, 1), GrantedElsewhere, 8)
		// Shown a higher epoch, although nobody was granted it.
		wantRefusal(t, v, at(2), reqA(5, 2), OldEpoch, 8)
	})
	t.Run("granted", func(t *testing.T) {
		v := openVoter()
		wantAck(t, v, at(0), reqA(8, 1), 1)
		wantRefusal(t, v, at(1), reqA(5, 2), OldEpoch, 8) // not turned back
		wantRefusal(t, v, at(9999), reqB(7, 1), OldEpoch, 8)
	})
	t.Run("refused while waiting", func(t *testing.T) {
		v := NewVoter(0, promise, promise)
		wantRefusal(t, v, at(0), reqB(8, 1), NotYet, 8)
		wantRefusal(t, v, at(501), reqA(5, 1), OldEpoch, 8)
	})
	t.Run("epoch 0", func(t *testing.T) {
		wantRefusal(t, openVoter(), at(0), reqA(0, 1), OldEpoch, 0)
	})
}

func TestG3ReleasedEpoch(t *testing.T) {
	v := openVoter()
	v.Note(at(0), releaseOf(nodeA, incA, 5))
	wantRefusal(t, v, at(0), reqA(5, 1), Released, 5)
	wantRefusal(t, v, at(0), reqA(4, 2), Released, 5)
	wantAck(t, v, at(0), reqA(6, 3), 3)
	// Another worker's epoch is not touched by it.
	v = openVoter()
	v.Note(at(0), releaseOf(nodeB, incB, 5))
	wantAck(t, v, at(0), reqA(5, 1), 1)
}

func TestG3EndedIncarnation(t *testing.T) {
	v := openVoter()
	v.Note(at(0), overOf(nodeA, incA))
	wantRefusal(t, v, at(0), reqA(5, 1), Ended, 5)
	wantAck(t, v, at(0), Request{Node: nodeA, Incarnation: 12, Epoch: 6, Sequence: 1}, 1)
	wantAck(t, v, at(500), Request{Node: nodeB, Incarnation: incA, Epoch: 7, Sequence: 1}, 1)
}

func TestG3WrongHolder(t *testing.T) {
	v := openVoter()
	v.Applied(0, 5, nodeB, incB)
	wantRefusal(t, v, at(0), reqA(5, 1), WrongHolder, 5)
	wantRefusal(t, v, at(0), Request{Node: nodeB, Incarnation: 23, Epoch: 5, Sequence: 1}, WrongHolder, 5)
	wantAck(t, v, at(0), reqB(5, 1), 1)
	// Not applied here yet: requests name applied epochs only.
	wantAck(t, v, at(600), reqA(6, 1), 1)
	// An epoch granted once belongs to that worker, applied or not.
	wantRefusal(t, v, at(1200), reqB(6, 2), WrongHolder, 6)
}

func TestG4OldConfiguration(t *testing.T) {
	v := openVoter()
	v.AppliedConfig(10)
	v.AppliedConfig(9)
	r := reqA(5, 1)
	r.Config = 9
	wantRefusal(t, v, at(0), r, OldConfig, 5)
	r.Config = 10
	wantAck(t, v, at(0), r, 1)
	r.Config, r.Sequence = 11, 2 // the voter lags behind
	wantAck(t, v, at(0), r, 2)
}

func TestG5NoteClearsWhatItNames(t *testing.T) {
	for _, tc := range []struct {
		name    string
		note    Note
		cleared bool
	}{
		{"release", releaseOf(nodeA, incA, 5), true},
		{"release of another epoch", releaseOf(nodeA, incA, 4), false},
		{"release of a later epoch", releaseOf(nodeA, incA, 6), false},
		{"release of another incarnation", releaseOf(nodeA, 12, 5), false},
		{"release of another node", releaseOf(nodeB, incA, 5), false},
		{"release of another group", Note{Kind: Release, Node: nodeA, Incarnation: incA, Group: 1, Epoch: 5}, false},
		{"over", overOf(nodeA, incA), true},
		{"over of another incarnation", overOf(nodeA, 12), false},
		{"over of another node", overOf(nodeB, incA), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := openVoter()
			wantAck(t, v, at(0), reqA(5, 1), 1)
			v.Note(at(1), tc.note)
			r := Request{Node: nodeC, Incarnation: 33, Epoch: 7, Sequence: 1}
			if tc.cleared {
				wantAck(t, v, at(1), r, 1)
			} else {
				wantRefusal(t, v, at(1), r, GrantedElsewhere, 7)
			}
		})
	}
}

// A request of before the note, delivered after it, must not bring the grant
// back: it would make everybody wait for nothing.
func TestG5LateRequestAfterNote(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 1), 1)
	v.Note(at(1), releaseOf(nodeA, incA, 5))
	wantRefusal(t, v, at(2), reqA(5, 2), Released, 5)
	wantAck(t, v, at(3), reqB(6, 1), 1)
}

func TestG6NoVoterNoGrant(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 1), 1)
	v.SetVoting(false)
	wantRefusal(t, v, at(1), reqA(5, 2), Abstaining, 5)
	v.SetVoting(true)
	// The promise outlives the vote.
	wantRefusal(t, v, at(499), reqB(6, 1), GrantedElsewhere, 6)
}

func TestClonedNodeGetsNoGrant(t *testing.T) {
	v := openVoter()
	v.SetCloned(nodeA, true)
	wantRefusal(t, v, at(0), reqA(5, 1), Cloned, 5)
	v.SetCloned(nodeA, false)
	wantAck(t, v, at(0), reqA(5, 2), 2)
}

func TestG8AckCarriesWhatMovedUntil(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 7), 7)
	wantAck(t, v, at(100), reqA(5, 9), 9)
	// Reordered and duplicated datagrams move nothing.
	wantAck(t, v, at(200), reqA(5, 8), 9)
	wantAck(t, v, at(300), reqA(5, 9), 9)
	st := v.Standing(at(300))
	if len(st) != 1 || st[0].Until != at(600) || st[0].Sequence != 9 {
		t.Fatalf("standing %+v, want until 600 ms with sequence 9", st)
	}
	if got, want := st[0].Ack(), (Ack{Epoch: 5, Incarnation: incA, Sequence: 9}); got != want {
		t.Fatalf("repeated %+v, want %+v", got, want)
	}
}

func TestG8RefusalAdvancesNothing(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(0), reqA(5, 1), 1)
	wantRefusal(t, v, at(100), reqB(6, 1), GrantedElsewhere, 6)
	wantRefusal(t, v, at(200), reqA(5, 2), OldEpoch, 6)
	if st := v.Standing(at(200)); len(st) != 1 || st[0].Until != at(500) || st[0].Sequence != 1 {
		t.Fatalf("standing %+v, want what stood before the refusals", st)
	}
	if st := v.Standing(at(500)); len(st) != 0 {
		t.Fatalf("an expired grant stands: %+v", st)
	}
}

func TestG8ReadingsMayStepBack(t *testing.T) {
	v := openVoter()
	wantAck(t, v, at(100), reqA(5, 1), 1)
	wantAck(t, v, at(90), reqA(5, 2), 2) // read on another socket, handled later
	if st := v.Standing(at(100)); st[0].Until != at(600) {
		t.Fatalf("until went back to %d", st[0].Until)
	}
}

func TestStandingIsSorted(t *testing.T) {
	v := openVoter()
	for g := range uint16(20) {
		r := reqA(5, uint64(g)+1)
		r.Group = 19 - g
		wantAck(t, v, at(0), r, r.Sequence)
	}
	for i, s := range v.Standing(at(0)) {
		if int(s.Group) != i || s.Node != nodeA || s.Incarnation != incA || s.Epoch != 5 {
			t.Fatalf("standing %d is %+v", i, s)
		}
	}
}

// What a voter remembers is bounded, and a flood of one node's restarts does
// not push out what is known of another.
func TestVoterMemoryIsBounded(t *testing.T) {
	v := openVoter()
	v.Note(at(0), overOf(nodeB, incB))
	for i := range uint64(10_000) {
		v.Note(at(0), overOf(nodeA, 1000+i))
		v.Note(at(0), releaseOf(nodeA, 1000+i, 1+i))
	}
	wantRefusal(t, v, at(0), reqB(20_000, 1), Ended, 20_000)
	if n := len(v.ended.nodes); n != 2 {
		t.Errorf("%d nodes remembered, want 2", n)
	}
	if n := len(v.ended.nodes[1].incarnations); n != maxEndedPerNode {
		t.Errorf("%d incarnations remembered, want %d", n, maxEndedPerNode)
	}
	if n := len(v.groups[0].released); n != maxReleased {
		t.Errorf("%d releases remembered, want %d", n, maxReleased)
	}
	for i := range uint64(1000) {
		v.Note(at(0), overOf(100+i, 1))
	}
	if n := len(v.ended.nodes); n != maxEndedNodes {
		t.Errorf("%d nodes remembered, want %d", n, maxEndedNodes)
	}
}

func TestRefusalReasonNames(t *testing.T) {
	seen := map[string]bool{}
	for r := GrantedElsewhere; r <= Cloned; r++ {
		name := r.String()
		if seen[name] || name == fmt.Sprintf("refusal(%d)", uint8(r)) {
			t.Errorf("reason %d has the name %q", r, name)
		}
		seen[name] = true
	}
	if RefusalReason(0).String() != "refusal(0)" || RefusalReason(99).String() != "refusal(99)" {
		t.Error("unknown reasons have names")
	}
}
