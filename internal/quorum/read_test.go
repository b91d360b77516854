package quorum

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// confirmed asks and waits for the answer.
func (n *node) confirmed(limit time.Duration) bool {
	had := n.answers
	n.ask()
	return n.s.runUntil(limit, func() bool { return n.answers > had })
}

// Any member's read is confirmed, in a round trip, and misses nothing.
func TestAnyMemberReads(t *testing.T) {
	s := plainCluster(t, 70, "gw1", "gw2", "w1")
	s.settle()
	gw3 := s.join("gw3")
	s.check(s.change(raftpb.ConfChangeAddLearnerNode, gw3))
	s.run(3 * testBeat)
	for _, n := range s.nodes {
		s.fill(1)
		start := s.now
		if !n.confirmed(testBeat) || s.now-start > 3*ms {
			t.Fatalf("%s waits %s for its answer", n.name, time.Duration(s.now-start))
		}
	}
}

// A leader that a majority does not hear confirms nothing, even while it still
// believes that it leads; a follower that lost its leader says so.
func TestDeposedLeaderConfirmsNoRead(t *testing.T) {
	s := plainCluster(t, 71, "gw1", "gw2", "w1")
	l := s.settle()
	s.isolate(l, true)
	s.run(testP)
	if !l.d.Leads() {
		t.Fatal("scene not set")
	}
	if l.confirmed(2 * testP) {
		t.Fatal("a lone leader confirmed a read")
	}
	n := s.leader()
	if n == nil || n == l || !n.confirmed(testBeat) {
		t.Fatalf("no new leader reads: %s", s.picture())
	}
	s.run(2 * testP) // it steps down by itself
	if err := l.d.ReadIndex(s.now, 99); !errors.Is(err, ErrNoLeader) {
		t.Fatalf("read without a leader: %v", err)
	}
}

// A new leader answers only once it knows what is committed; what was asked
// before is answered then.
func TestNewLeaderReadsAfterItsFirstEntry(t *testing.T) {
	s := plainCluster(t, 72, "gw1", "gw2", "w1")
	l := s.settle()
	s.fsync = 30 * ms
	l.kill()
	n, _ := s.elected(l, time.Second)
	if n.confirmed(20 * time.Millisecond) {
		t.Fatal("answer before the first entry of the term is committed")
	}
	if !s.runUntil(time.Second, func() bool { return n.answers == 1 }) {
		t.Fatal("question was lost")
	}
}

// An only voter knows what is committed only after its first entry, too; and
// after a start it still knows that the others were removed.
func TestOnlyVoterReads(t *testing.T) {
	s := plainCluster(t, 73, "gw1", "gw2", "w1")
	l := s.settle()
	for _, name := range []string{"gw2", "w1"} {
		s.check(s.change(raftpb.ConfChangeRemoveNode, s.node(name)))
		s.run(3 * testBeat)
	}
	if !l.confirmed(testBeat) {
		t.Fatal("an only voter does not read")
	}
	s.fsync = 30 * ms
	l.crash()
	s.node("gw2").crash()
	s.node("w1").crash()
	l.start()
	if !s.runUntil(3*time.Second, func() bool { return l.d.Leads() }) {
		t.Fatalf("an only voter does not elect itself: %s", s.picture())
	}
	if err := l.d.ReadIndex(s.now, 99); !errors.Is(err, ErrBusy) {
		t.Fatalf("read before the first entry: %v", err)
	}
	s.run(100 * time.Millisecond)
	if !l.confirmed(testBeat) {
		t.Fatal("an only voter does not read")
	}
}

// A question to a node that does not lead is dropped, not passed on under
// another's name; answers to an earlier run of a node are not taken.
func TestQuestionsGoToTheLeaderOnly(t *testing.T) {
	s := plainCluster(t, 74, "gw1", "gw2", "w1")
	l := s.settle()
	gw2, w1 := s.node("gw2"), s.node("w1")
	ask := func(to *node) {
		m := &raftpb.Message{
			Type: raftpb.MsgReadIndex.Enum(), From: new(gw2.member.RaftID), To: new(to.member.RaftID),
			Entries: []*raftpb.Entry{{Data: make([]byte, 16)}},
		}
		s.check(to.d.Step(s.now, gw2.member.RaftID, gw2.inc, encodeFrame(m)))
		to.turn()
	}
	passed, answered := 0, 0
	s.onRaft = func(_, _ *node, m *raftpb.Message) {
		switch m.GetType() {
		case raftpb.MsgReadIndex:
			passed++
		case raftpb.MsgReadIndexResp:
			answered++
		}
	}
	ask(w1)
	ask(l) // gw2 would fail on an answer that it did not ask for
	s.run(testBeat)
	if passed != 0 || answered != 1 {
		t.Fatalf("%d questions passed on, %d answered", passed, answered)
	}
	for n := range maxReads + 10 {
		if ok := l.d.takesRead(); ok != (n < maxReads) {
			t.Fatalf("question %d taken: %v", n, ok)
		}
	}
	if err := l.d.ReadIndex(s.now, 7); !errors.Is(err, ErrBusy) {
		t.Fatalf("read of a leader with too many: %v", err)
	}
}

// Frames of reads are checked before raft sees them: it would fail on an empty
// question.
func TestReadFramesAreChecked(t *testing.T) {
	for name, m := range map[string]*raftpb.Message{
		"no entry":    {Type: raftpb.MsgReadIndex.Enum()},
		"two entries": {Type: raftpb.MsgReadIndex.Enum(), Entries: []*raftpb.Entry{{}, {}}},
		"with a term": {Type: raftpb.MsgReadIndex.Enum(), Term: new(uint64(3)), Entries: []*raftpb.Entry{{}}},
		"too much":    {Type: raftpb.MsgReadIndex.Enum(), Entries: []*raftpb.Entry{{Data: make([]byte, maxContext+1)}}},
		"no answer":   {Type: raftpb.MsgReadIndexResp.Enum(), Term: new(uint64(3))},
		"no term":     {Type: raftpb.MsgReadIndexResp.Enum(), Entries: []*raftpb.Entry{{}}},
	} {
		m.From, m.To = new(uint64(1)), new(uint64(2))
		if _, err := decodeFrame(2, 1, encodeFrame(m)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
