package quorum

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// ask puts a request for a vote of a member to n, with a log that ends there.
func (s *sim) ask(t *testing.T, n, from *node, term, index, logTerm uint64) {
	t.Helper()
	m := &raftpb.Message{
		Type: raftpb.MsgVote.Enum(), From: new(from.member.RaftID), To: new(n.member.RaftID),
		Term: new(term), Index: new(index), LogTerm: new(logTerm),
	}
	s.check(n.d.Step(s.now, from.member.RaftID, 1, frame(t, m)))
	n.turn()
}

// Covers I7: a vote is on disk before it leaves, also one in a term that was
// there already.
func TestVoteInAKnownTermIsStored(t *testing.T) {
	s, gw2, l := lone(t)
	s.runUntil(10*testP, func() bool { return gw2.d.el.lost(s.now) })
	term := gw2.d.view().term + 10
	s.ask(t, gw2, s.node("w1"), term, 1, 1) // refused for its old log
	s.run(20 * time.Millisecond)
	if v := gw2.d.view(); v.term != term || v.vote != 0 {
		t.Fatalf("term %d vote %x", v.term, v.vote)
	}
	left := false
	s.onRaft = func(from, to *node, m *raftpb.Message) {
		left = left || from == gw2 && to == l && m.GetType() == raftpb.MsgVoteResp && !m.GetReject() && m.GetTerm() == term
	}
	last, lastTerm := gw2.d.tail.last()
	s.ask(t, gw2, l, term, last, lastTerm)
	if !s.runUntil(50*time.Millisecond, func() bool { return left }) {
		t.Fatal("no vote was given")
	}
	gw2.crash()
	gw2.start()
	if v := gw2.d.view(); v.term != term || v.vote != l.member.RaftID {
		t.Fatalf("after a power cut: term %d vote %x, the vote that left was for %x", v.term, v.vote, l.member.RaftID)
	}
}

// Covers E3: raft's own timeout is a fallback that does not cut the wait short.
func TestFallbackKeepsTheWait(t *testing.T) {
	s, gw2, _ := lone(t)
	s.runUntil(10*testP, func() bool { return gw2.d.el.lost(s.now) })
	gw2.d.SetLatency(5*time.Second, 0)
	term := gw2.d.view().term + 10
	s.ask(t, gw2, s.node("w1"), term, 1, 1)
	guard := gw2.d.el.guard
	if guard < s.now+int64(9*time.Second) {
		t.Fatalf("held back for %v", time.Duration(guard-s.now))
	}
	asked := int64(0)
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		if from == gw2 && (m.GetType() == raftpb.MsgPreVote || m.GetType() == raftpb.MsgVote) && asked == 0 {
			asked = s.now
		}
	}
	s.run(15 * time.Second)
	if asked < guard {
		t.Fatalf("campaigned %v before the wait was over", time.Duration(guard-asked))
	}
}

// Covers E2: a vote, too, may be the first thing that a node hears after it has
// lost its leader, the pre-vote before it having been lost.
func TestLeaderIsForgottenBeforeAVote(t *testing.T) {
	s, gw2, l := lone(t)
	s.runUntil(10*testP, func() bool { return s.now+int64(testBeat) > gw2.d.el.lostAt() })
	if gw2.d.view().lead != l.member.RaftID {
		t.Fatalf("leader forgotten early: %s", s.picture())
	}
	s.now = gw2.d.el.lostAt()
	term := gw2.d.view().term + 1
	last, lastTerm := gw2.d.tail.last()
	s.ask(t, gw2, s.node("w1"), term, last, lastTerm)
	if v := gw2.d.view(); v.term != term || v.vote != s.node("w1").member.RaftID {
		t.Fatalf("term %d vote %x: the request was ignored though the leader is lost", v.term, v.vote)
	}
}

// Covers E6: a transfer ends after P/2, whatever became of it.
func TestTransferEnds(t *testing.T) {
	s := cluster(t, 16, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	s.links[[2]*node{l, gw2}].cutRaft = true
	s.check(l.d.Transfer(s.now, gw2.member.RaftID))
	began := s.now
	for _, c := range []struct {
		after time.Duration
		want  uint64
	}{{testP/2 - 1, gw2.member.RaftID}, {testP / 2, 0}} {
		l.d.Tick(began + int64(c.after))
		if got := l.d.Status(began + int64(c.after)).TransferTo; got != c.want {
			t.Fatalf("after %v the transfer goes to %x, want %x", c.after, got, c.want)
		}
	}
}

// Covers I8: what depends on a write that failed never leaves, and the failure
// is final.
func TestFailedWriteAnswersNothing(t *testing.T) {
	s, gw2, l := lone(t)
	s.runUntil(10*testP, func() bool { return gw2.d.el.lost(s.now) })
	last, lastTerm := gw2.d.tail.last()
	m := &raftpb.Message{
		Type: raftpb.MsgVote.Enum(), From: new(l.member.RaftID), To: new(gw2.member.RaftID),
		Term: new(gw2.d.view().term + 10), Index: new(last), LogTerm: new(lastTerm),
	}
	s.check(gw2.d.Step(s.now, l.member.RaftID, 1, frame(t, m)))
	if out, err := gw2.d.Process(s.now); err != nil || len(out.Messages) != 0 || len(gw2.d.writes) == 0 {
		t.Fatalf("%d messages before the vote is stored, %d writes, %v", len(out.Messages), len(gw2.d.writes), err)
	}
	broken := errors.New("I/O error")
	if err := gw2.d.Persisted(s.now, Completion{token: gw2.d.writes[0].token, err: broken}); !errors.Is(err, broken) {
		t.Errorf("a write that failed: %v", err)
	}
	if out, err := gw2.d.Process(s.now); !errors.Is(err, broken) || len(out.Messages) != 0 {
		t.Errorf("%d messages after the failure, %v", len(out.Messages), err)
	}
}
