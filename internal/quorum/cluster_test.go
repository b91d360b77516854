package quorum

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/storage"
)

// elected waits for a leader other than old and returns how long it took.
func (s *sim) elected(old *node, limit time.Duration) (*node, time.Duration) {
	s.t.Helper()
	start := s.now
	found := func() bool {
		l := s.leader()
		return l != nil && l != old
	}
	if !s.runUntil(limit, found) {
		s.t.Fatalf("no new leader within %s: %s", limit, s.picture())
	}
	return s.leader(), time.Duration(s.now - start)
}

func TestFirstElectionTakesPromiseAndFewMilliseconds(t *testing.T) {
	s := cluster(t, 1, "gw1", "gw2", "w1")
	l, took := s.elected(nil, 2*time.Second)
	if took < testP || took > testP+15*time.Millisecond {
		t.Fatalf("first election took %s, want about %s", took, testP)
	}
	s.settle()
	if l.name != "gw1" || l.led != 1 || l.d.view().term != 2 {
		t.Fatalf("leader %s, OnLead called %d times: %s", l.name, l.led, s.picture())
	}
}

// Covers E1, E2, E4: a silent leader is replaced after P by the best that is
// left, in one election.
func TestSilentLeaderIsReplacedAfterPromise(t *testing.T) {
	for seed := range uint64(20) {
		s := cluster(t, seed, "gw1", "gw2", "gw3", "gw4", "w1")
		l := s.settle()
		term := l.d.view().term
		l.crash()
		n, took := s.elected(l, 5*time.Second)
		if n.name != "gw2" || took < testP-testBeat || took > testP+15*time.Millisecond || n.d.view().term != term+1 {
			t.Fatalf("seed %d: %s leads term %d after %s", seed, n.name, n.d.view().term, took)
		}
	}
}

// Covers E1, E2, E4: an over is worth P.
func TestOverElectsAtOnce(t *testing.T) {
	for seed := range uint64(20) {
		s := cluster(t, seed, "gw1", "gw2", "w1")
		l := s.settle()
		l.kill()
		if _, took := s.elected(l, 5*time.Second); took > 10*time.Millisecond {
			t.Fatalf("seed %d: took %s", seed, took)
		}
	}
}

// Covers E2: the pre-vote overtakes the over on its way to the other voter.
func TestOverBehindPreVoteCostsNothing(t *testing.T) {
	s := cluster(t, 5, "gw1", "gw2", "w1")
	l := s.settle()
	s.links[[2]*node{l, s.node("w1")}].delay = 6 * ms
	l.kill()
	if _, took := s.elected(l, 5*time.Second); took > 20*time.Millisecond {
		t.Fatalf("took %s", took)
	}
}

// Covers E4: after an over a rank is 10 ms.
func TestOverSecondRankWaitsTenMilliseconds(t *testing.T) {
	s := cluster(t, 6, "gw1", "gw2", "gw3", "gw4", "w1")
	l := s.settle()
	s.node("gw2").crash()
	s.run(testBeat)
	l.kill()
	n, took := s.elected(l, 5*time.Second)
	if n.name != "gw3" || took < 10*time.Millisecond || took > 20*time.Millisecond {
		t.Fatalf("%s after %s", n.name, took)
	}
}

// Covers E4: after silence a rank is max(30 ms, one beat).
func TestSilenceSecondRankWaitsOneBeat(t *testing.T) {
	s := cluster(t, 7, "gw1", "gw2", "gw3", "gw4", "w1")
	l := s.settle()
	s.node("gw2").crash()
	s.run(testBeat)
	l.crash()
	n, took := s.elected(l, 5*time.Second)
	if n.name != "gw3" || took < testP || took > testP+testBeat+20*time.Millisecond {
		t.Fatalf("%s after %s", n.name, took)
	}
}

// Covers E4: a witness campaigns last, after 3 P, and leads when it must.
func TestWitnessCampaignsAfterThreePromises(t *testing.T) {
	for seed := range uint64(10) {
		s := cluster(t, seed, "gw1", "w1", "w2")
		l := s.settle()
		l.kill()
		n, took := s.elected(l, 10*time.Second)
		if n.name != "w1" || took < 3*testP || took > 3*testP+20*time.Millisecond {
			t.Fatalf("seed %d: %s after %s", seed, n.name, took)
		}
	}
}

// Covers E1, E2: a leader that is heard and hears nobody.
func TestDeafLeaderIsReplaced(t *testing.T) {
	for seed := range uint64(20) {
		s := cluster(t, seed, "gw1", "gw2", "w1")
		l := s.settle()
		s.deafen(l)
		n, took := s.elected(l, 5*time.Second)
		if n.name != "gw2" || took > testP+2*testBeat+20*time.Millisecond {
			t.Fatalf("seed %d: %s after %s", seed, n.name, took)
		}
	}
}

// Covers E1: a leader whose beats stop and whose raft frames go on is lost: no
// raft frame is a beat.
func TestLeaderWithoutBeatsIsReplaced(t *testing.T) {
	s := cluster(t, 9, "gw1", "gw2", "w1")
	l := s.settle()
	for _, n := range s.nodes {
		s.links[[2]*node{l, n}].cutBeats = true
	}
	if n, took := s.elected(l, 5*time.Second); n.name != "gw2" || took > testP+20*time.Millisecond {
		t.Fatalf("%s after %s", n.name, took)
	}
}

// Covers E1: the over of another incarnation, or of a node that does not lead,
// changes nothing; nor does the loss of one follower.
func TestOverOfOthersDeposesNobody(t *testing.T) {
	s := cluster(t, 10, "gw1", "gw2", "w1")
	l := s.settle()
	term := l.d.view().term
	for _, n := range s.nodes {
		n.d.Over(s.now, l.member.RaftID, l.inc+2)
		n.d.Over(s.now, s.node("gw2").member.RaftID, 77)
		n.turn()
	}
	s.node("w1").crash()
	s.run(20 * testP)
	if s.leader() != l || l.d.view().term != term {
		t.Fatalf("leader moved: %s", s.picture())
	}
}

// Covers E2: frames of an incarnation that is over are dropped.
func TestFramesOfEndedIncarnationAreDropped(t *testing.T) {
	s := cluster(t, 11, "gw1", "gw2", "w1")
	l := s.settle()
	w := s.node("w1")
	w.d.Over(s.now, l.member.RaftID, l.inc)
	if w.d.view().lead != 0 {
		t.Fatal("leader still known after its over")
	}
	dropped := w.d.dropped
	s.run(2 * testBeat) // the others have not heard: the leader goes on
	if w.d.view().lead == l.member.RaftID || w.d.dropped == dropped {
		t.Fatalf("frames of the ended incarnation taken: %s", s.picture())
	}
}

// Covers E4: the voter with the newer log campaigns at once, though it is the
// witness, commits the Assign, and hands leadership over later (E6).
func TestWitnessWithNewestLogLeadsFirst(t *testing.T) {
	for seed := range uint64(10) {
		s := cluster(t, seed, "gw1", "gw2", "w1")
		l := s.settle()
		gw2, w1 := s.node("gw2"), s.node("w1")
		toGW2 := s.links[[2]*node{l, gw2}]
		toGW2.cutRaft = true
		for range 3 {
			s.check(s.propose())
			s.run(10 * time.Millisecond)
		}
		l.crash()
		n, took := s.elected(l, 5*time.Second)
		if n != w1 || took > testP+25*time.Millisecond {
			t.Fatalf("seed %d: %s after %s", seed, n.name, took)
		}
		s.run(20 * time.Millisecond)
		if a := w1.st.Assignment(0); a.Node == 0 || a.Epoch <= 4 || w1.led != 1 {
			t.Fatalf("seed %d: Assign not committed by the witness: %+v", seed, a)
		}
		if n, took = s.elected(w1, 5*time.Second); n != gw2 || took > testP+100*time.Millisecond {
			t.Fatalf("seed %d: handed over to %s after %s", seed, n.name, took)
		}
	}
}

// Covers E3: with a round trip of two beats and slow disks, votes still count
// and one election is enough.
func TestSlowVotesAreNotThrownAway(t *testing.T) {
	for seed := range uint64(20) {
		s := cluster(t, seed, "gw1", "gw2", "gw3", "gw4", "w1")
		s.eachLink(func(l *link) { l.delay = 45 * ms })
		s.fsync = 60 * ms
		for _, n := range s.nodes {
			n.d.SetLatency(100*time.Millisecond, 60*time.Millisecond)
		}
		l := s.settle()
		term := l.d.view().term
		l.crash()
		n, took := s.elected(l, 10*time.Second)
		if n.d.view().term != term+1 || took > testP+500*time.Millisecond {
			t.Fatalf("seed %d: %s leads term %d after %s, was %d", seed, n.name, n.d.view().term, took, term)
		}
	}
}

// Covers E3: a pre-candidate repeats at most once a beat.
func TestPreCandidateRepeatsOnceABeat(t *testing.T) {
	s := cluster(t, 12, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	asked := 0
	s.onRaft = func(from, to *node, m *raftpb.Message) {
		if from == gw2 && to == l && m.GetType() == raftpb.MsgPreVote {
			asked++
		}
	}
	s.isolate(gw2, true)
	s.run(testP + 20*testBeat)
	if asked < 15 || asked > 22 || gw2.d.view().term != l.d.view().term {
		t.Fatalf("%d pre-votes in 20 beats: %s", asked, s.picture())
	}
	s.isolate(gw2, false)
	s.run(2 * testP)
	if s.leader() != l || gw2.d.view().lead != l.member.RaftID {
		t.Fatalf("return of a lone pre-candidate moved the leader: %s", s.picture())
	}
}

// Covers E5: the first append of a new leader carries its empty entry and its
// Assign.
func TestAssignTravelsWithTheFirstEntry(t *testing.T) {
	s := cluster(t, 13, "gw1", "gw2", "w1")
	l := s.settle()
	l.kill()
	var first *raftpb.Message
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		if from != l && m.GetType() == raftpb.MsgApp && first == nil {
			first = m
		}
	}
	n, _ := s.elected(l, time.Second)
	start := s.now
	s.runUntil(time.Second, func() bool { return n.st.Assignment(0).Node == n.member.RaftID })
	if len(first.GetEntries()) != 2 || len(first.GetEntries()[0].GetData()) != 0 || len(first.GetEntries()[1].GetData()) == 0 {
		t.Fatalf("first append holds %d entries", len(first.GetEntries()))
	}
	if took := time.Duration(s.now - start); took > 5*time.Millisecond {
		t.Fatalf("Assign applied %s after the election, want one round trip and one sync", took)
	}
}

// Covers E5: a new leader decides from its log up to the last index: the
// Assign of its predecessor that it does not know to be committed.
func TestNewLeaderSeesAssignsNotYetApplied(t *testing.T) {
	s := cluster(t, 14, "gw1", "gw2", "w1")
	l := s.settle()
	cur := l.st.Assignment(0)
	b, err := storage.Command{Op: storage.Assign{Group: 0, Node: l.member.RaftID, Incarnation: l.inc, Prev: cur.Epoch}}.Encode()
	s.check(err)
	s.check(l.d.Propose(s.now, b))
	l.turn()
	s.run(time.Millisecond) // on its way, not answered
	l.crash()
	n, _ := s.elected(l, 2*time.Second)
	s.run(20 * time.Millisecond)
	a := n.st.Assignment(0)
	if a.Node != n.member.RaftID || a.Prev == cur.Epoch || a.Prev == 0 {
		t.Fatalf("assignment %+v, want one that follows the Assign behind epoch %d", a, cur.Epoch)
	}
}

// Covers E6.
func TestTransferOnlyToOneWhoIsReady(t *testing.T) {
	s := cluster(t, 15, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	want := func(to uint64, target error) {
		t.Helper()
		if err := l.d.Transfer(s.now, to); !errors.Is(err, target) {
			t.Fatalf("transfer: %v, want %v", err, target)
		}
	}
	want(l.member.RaftID, ErrNoVoter)
	want(12345, ErrNoVoter)
	if err := gw2.d.Transfer(s.now, l.member.RaftID); !errors.Is(err, ErrNotLeader) {
		t.Fatal(err)
	}
	b, err := storage.Command{Op: storage.Assign{Node: gw2.member.RaftID, Incarnation: gw2.inc, Prev: l.st.Assignment(0).Epoch}}.Encode()
	s.check(err)
	s.check(l.d.Propose(s.now, b))
	l.turn()
	want(gw2.member.RaftID, ErrAssignPending)
	s.run(3 * testBeat)

	s.links[[2]*node{l, gw2}].cutRaft = true
	s.check(s.propose())
	want(gw2.member.RaftID, ErrBehind)
	s.links[[2]*node{l, gw2}].cutRaft = false
	s.run(4 * testBeat)

	s.links[[2]*node{gw2, l}].cutRaft = true
	s.run(3 * testBeat)
	want(gw2.member.RaftID, ErrSilent)
	s.links[[2]*node{gw2, l}].cutRaft = false
	s.run(4 * testBeat)

	s.check(l.d.Transfer(s.now, gw2.member.RaftID))
	l.turn()
	if n, took := s.elected(l, time.Second); n != gw2 || took > 10*time.Millisecond {
		t.Fatalf("%s after %s", n.name, took)
	}
	s.settle()
}

// Covers E6: a transfer that does not happen is aborted after P/2, by a
// transfer to self: until then raft refuses proposals.
func TestTransferIsAborted(t *testing.T) {
	s := cluster(t, 16, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	s.links[[2]*node{l, gw2}].cutRaft = true
	s.check(l.d.Transfer(s.now, gw2.member.RaftID))
	l.turn()
	s.run(testP/2 - testBeat)
	if err := s.propose(); !errors.Is(err, ErrBusy) {
		t.Fatalf("proposal during a transfer: %v", err)
	}
	s.run(2 * testBeat)
	if err := s.propose(); err != nil {
		t.Fatalf("proposal after the abort: %v", err)
	}
}

// Covers E7: a node that stood still hears what waited for it, and does not
// take its own silence for the leader's.
func TestStallRestartsTheTimers(t *testing.T) {
	s := cluster(t, 17, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	asked := 0
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		if from == gw2 && isVote(m) {
			asked++
		}
	}
	gw2.frozen = true
	s.run(4 * testP)
	gw2.held = nil // and what waited was lost
	gw2.frozen = false
	s.after(gw2, 0, gw2.turn)
	s.after(gw2, int64(testBeat)/2, gw2.sendBeat)
	s.run(4 * testP)
	if asked != 0 || s.leader() != l {
		t.Fatalf("%d votes asked for after a stall: %s", asked, s.picture())
	}
}

// Covers E7: ticks that pile up reach raft once.
func TestBurstOfTicksIsOneTick(t *testing.T) {
	s := cluster(t, 18, "gw1", "gw2", "w1")
	l := s.settle()
	beats := 0
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		if from == l && m.GetType() == raftpb.MsgHeartbeat {
			beats++
		}
	}
	later := s.now + 100*int64(testBeat)
	for _, n := range s.nodes {
		for range 100 {
			n.d.Tick(later)
		}
		if v := n.d.view(); n != l && (v.role != follower || v.lead != l.member.RaftID) {
			t.Fatalf("%s after a burst: %s", n.name, s.picture())
		}
	}
	s.now = later
	l.turn()
	if beats != 2 {
		t.Fatalf("%d heartbeats for one interval and two peers", beats)
	}
}

// Covers E8: a leader that cannot store lets others elect.
func TestStuckLeaderStopsClaiming(t *testing.T) {
	s := cluster(t, 19, "gw1", "gw2", "w1")
	l := s.settle()
	l.log.stuck = true
	s.check(s.propose())
	s.run(900 * time.Millisecond)
	if !l.d.ClaimsLeadership(s.now) || s.leader() != l {
		t.Fatalf("gave up too early: %s", s.picture())
	}
	s.run(150 * time.Millisecond)
	if l.d.ClaimsLeadership(s.now) {
		t.Fatal("still claims with a write that is stuck for a second")
	}
	heartbeats := 0
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		if from == l && m.GetType() == raftpb.MsgHeartbeat {
			heartbeats++
		}
	}
	if err := s.propose(); !errors.Is(err, ErrBusy) {
		t.Fatalf("proposal to a stuck leader: %v", err)
	}
	n, took := s.elected(l, 2*time.Second)
	if n.name != "gw2" || took > testP+testBeat || heartbeats != 0 {
		t.Fatalf("%s after %s, %d heartbeats of the stuck leader", n.name, took, heartbeats)
	}
}

// Covers E8: a follower that cannot store does not campaign either, and waits
// without spinning.
func TestStuckFollowerDoesNotCampaign(t *testing.T) {
	s := cluster(t, 23, "gw1", "gw2", "gw3", "gw4", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	gw2.log.stuck = true
	s.check(s.propose())
	s.run(1100 * time.Millisecond)
	l.crash()
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		if from == gw2 && isVote(m) {
			t.Fatal("a node that cannot store asks for votes")
		}
	}
	if n, took := s.elected(l, 5*time.Second); n.name != "gw3" || took > testP+2*testBeat {
		t.Fatalf("%s after %s", n.name, took)
	}
	if next := gw2.d.Next(s.now); next <= s.now {
		t.Fatal("spins while it waits for its disk")
	}
}

// Covers G6: an abstaining node neither votes nor campaigns, and still stores.
func TestAbstainingNodeDoesNotVote(t *testing.T) {
	s := cluster(t, 20, "gw1", "gw2", "w1")
	l := s.settle()
	w1 := s.node("w1")
	w1.d.SetAbstain(true)
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		switch m.GetType() {
		case raftpb.MsgVote, raftpb.MsgPreVote, raftpb.MsgVoteResp, raftpb.MsgPreVoteResp:
			if from == w1 {
				t.Fatalf("abstaining node sent %s", m.GetType())
			}
		}
	}
	s.check(s.propose())
	s.run(testBeat)
	if w1.d.tail.handed != l.d.tail.handed {
		t.Fatalf("abstaining node does not store: %s", s.picture())
	}
	l.kill()
	s.run(20 * testP)
	if n := s.leader(); n != nil {
		t.Fatalf("%s leads with the vote of an abstaining node", n.name)
	}
	s.onRaft = nil
	w1.d.SetAbstain(false)
	s.settle()
}

// A restart keeps term, vote and log; the restarted leader follows.
func TestRestartKeepsHardState(t *testing.T) {
	s := cluster(t, 21, "gw1", "gw2", "w1")
	l := s.settle()
	for range 5 {
		s.check(s.propose())
		s.run(10 * time.Millisecond)
	}
	for _, n := range s.nodes {
		v, last := n.d.view(), n.d.Status(s.now).LastIndex
		n.crash()
		n.start()
		w := n.d.view()
		if w.term != v.term || w.vote != v.vote || w.role != follower || w.lead != 0 || n.d.Status(s.now).LastIndex != last {
			t.Fatalf("%s: %+v last %d came back as %+v last %d", n.name, v, last, w, n.d.Status(s.now).LastIndex)
		}
	}
	_ = l
	s.settle()
}

// All nodes lose power at once, and elect by themselves.
func TestSiteWidePowerCut(t *testing.T) {
	s := cluster(t, 22, "gw1", "gw2", "w1")
	s.settle()
	s.check(s.propose())
	s.run(10 * time.Millisecond)
	known := len(s.committed)
	for _, n := range s.nodes {
		n.crash()
	}
	for _, n := range s.nodes {
		n.start()
	}
	l := s.settle()
	if int(l.d.tail.handed) < known+1 {
		t.Fatalf("applied %d, %d were committed", l.d.tail.handed, known+1)
	}
}
