package quorum

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/storage"
)

// Covers G4: while a change of the configuration is not applied, another is
// refused, also by a new leader that does not know what its log holds.
func TestOneChangeAtATime(t *testing.T) {
	s := plainCluster(t, 60, "gw1", "gw2", "w1")
	l := s.settle()
	gw3 := s.join("gw3")
	s.check(s.change(raftpb.ConfChangeAddLearnerNode, gw3))
	if err := s.change(raftpb.ConfChangeAddNode, gw3); !errors.Is(err, ErrBusy) || !l.d.Status(s.now).ConfPending {
		t.Fatalf("second change: %v", err)
	}
	s.run(3 * testBeat)
	if l.d.Status(s.now).ConfPending {
		t.Fatal("the change is applied and still pending")
	}
	s.check(s.change(raftpb.ConfChangeAddNode, gw3))
	s.run(3 * testBeat)

	early := error(nil)
	s.check(s.propose())
	s.run(time.Millisecond) // stored by the others, not known to be committed
	l.kill()
	for _, n := range s.nodes {
		n.d.cfg.OnLead = func(int64) [][]byte {
			early = n.d.ProposeConf(s.now, raftpb.ConfChangeRemoveNode, l.member.RaftID, nil)
			return nil
		}
	}
	s.elected(l, time.Second)
	if !errors.Is(early, ErrBusy) {
		t.Fatalf("change in the moment of election: %v", early)
	}
	s.run(testBeat)
	s.check(s.change(raftpb.ConfChangeRemoveNode, l))
	s.run(testBeat)
	conf, _ := s.leader().st.Conf()
	if len(conf.Voters) != 3 || conf.Contains(l.member.RaftID) {
		t.Fatalf("%+v", conf)
	}
}

// What raft would not survive is refused before it is proposed.
func TestImpossibleChangesAreRefused(t *testing.T) {
	s := plainCluster(t, 61, "gw1", "gw2", "w1")
	l := s.settle()
	for _, c := range []struct {
		kind raftpb.ConfChangeType
		node uint64
	}{
		{raftpb.ConfChangeAddNode, 0},
		{raftpb.ConfChangeAddNode, 1<<64 - 1},
		{raftpb.ConfChangeUpdateNode, 7},
	} {
		if err := l.d.ProposeConf(s.now, c.kind, c.node, nil); err == nil {
			t.Errorf("%s of %x accepted", c.kind, c.node)
		}
	}
	if err := s.node("gw2").d.ProposeConf(s.now, raftpb.ConfChangeAddNode, 7, nil); !errors.Is(err, ErrNotLeader) {
		t.Errorf("change proposed by a follower: %v", err)
	}
	for _, name := range []string{"gw2", "w1"} {
		s.check(s.change(raftpb.ConfChangeRemoveNode, s.node(name)))
		s.run(3 * testBeat)
	}
	for _, kind := range []raftpb.ConfChangeType{raftpb.ConfChangeRemoveNode, raftpb.ConfChangeAddLearnerNode} {
		if err := s.change(kind, l); err == nil {
			t.Errorf("%s of the only voter accepted", kind)
		}
	}
	s.fill(3) // alone, but a cluster
}

// A learner stores and follows, and never campaigns; the leader shows how far
// it is.
func TestLearnerListens(t *testing.T) {
	s := plainCluster(t, 62, "gw1", "gw2", "w1")
	l := s.settle()
	gw3 := s.join("gw3")
	s.check(s.change(raftpb.ConfChangeAddLearnerNode, gw3))
	s.fill(5)
	s.catchUp(gw3)
	s.run(2 * testBeat)
	st := l.d.Status(s.now)
	match, ok := st.Match(gw3.member.RaftID)
	if !ok || match != st.LastIndex {
		t.Fatalf("leader knows match %d (%v) of %d", match, ok, st.LastIndex)
	}
	if _, ok := st.Match(99); ok {
		t.Fatal("match of a node that is none")
	}
	if _, ok := gw3.d.Status(s.now).Match(gw3.member.RaftID); ok {
		t.Fatal("a follower claims to know matches")
	}
	for _, p := range st.Peers {
		if p.Learner != (p.Node == gw3.member.RaftID) || p.State != "replicate" {
			t.Fatalf("%+v", p)
		}
	}
	if err := l.d.Transfer(s.now, gw3.member.RaftID); !errors.Is(err, ErrNoVoter) {
		t.Fatalf("transfer to a learner: %v", err)
	}
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		if from == gw3 && isVote(m) {
			t.Fatal("a learner asks for votes")
		}
	}
	l.crash()
	s.node("gw2").crash()
	s.run(20 * testP)
	if n := s.leader(); n != nil {
		t.Fatalf("%s leads", n.name)
	}
	if gw3.d.view().lead != 0 {
		t.Fatal("a learner still names the lost leader")
	}
}

// A promotion is committed and the leader is lost before the new voter hears of
// it: its vote is needed, and it gives it, because who asks for it has applied
// the promotion. Without it, losing one of four would stop the cluster.
func TestPromotedLearnerVotesBeforeItKnows(t *testing.T) {
	s := plainCluster(t, 63, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	gw3 := s.join("gw3")
	s.check(s.change(raftpb.ConfChangeAddLearnerNode, gw3))
	s.run(5 * testBeat)
	s.links[[2]*node{l, gw3}].cutRaft = true
	s.check(s.change(raftpb.ConfChangeAddNode, gw3))
	knows := func(n *node) bool { conf, _ := n.st.Conf(); return conf.Voter(gw3.member.RaftID) }
	if !s.runUntil(time.Second, func() bool { return knows(gw2) && knows(s.node("w1")) }) || knows(gw3) {
		t.Fatalf("scene not set: %s", s.picture())
	}
	l.crash()
	n, took := s.elected(l, 3*time.Second)
	if n != gw2 || took > testP+100*time.Millisecond {
		t.Fatalf("%s after %s", n.name, took)
	}
	s.run(testBeat)
	if !knows(gw3) {
		t.Fatal("promotion did not reach the new voter")
	}
	// An order to abstain is stronger (G6).
	gw3.d.SetAbstain(true)
	if gw3.d.votes() {
		t.Fatal("votes though it abstains")
	}
}

// Covers G6: a removed node neither votes nor campaigns, and is not listened to.
func TestRemovedNodeIsOut(t *testing.T) {
	s := plainCluster(t, 64, "gw1", "gw2", "gw3", "gw4", "w1")
	s.settle()
	gw4 := s.node("gw4")
	s.check(s.change(raftpb.ConfChangeRemoveNode, gw4))
	s.run(10 * testP)
	l := s.leader()
	if l == nil || l.name != "gw1" {
		t.Fatalf("leader moved: %s", s.picture())
	}
	if conf, _ := gw4.st.Conf(); !conf.Contains(gw4.member.RaftID) {
		if gw4.d.votes() || !gw4.d.abstains() {
			t.Fatal("a node that knows of its removal votes")
		}
	}
	if _, ok := l.d.peers[gw4.member.RaftID]; ok {
		t.Fatal("leader keeps a node that was removed")
	}
}

// A leader that removes itself steps down, and the others elect.
func TestLeaderRemovesItself(t *testing.T) {
	s := plainCluster(t, 65, "gw1", "gw2", "gw3", "gw4", "w1")
	l := s.settle()
	s.check(s.change(raftpb.ConfChangeRemoveNode, l))
	n, _ := s.elected(l, 3*time.Second)
	s.fill(3)
	conf, _ := n.st.Conf()
	if n.name != "gw2" || conf.Contains(l.member.RaftID) || l.d.view().role == leader || l.d.ClaimsLeadership(s.now) {
		t.Fatalf("%s leads %+v", n.name, conf)
	}
}

// A node with a full disk drops what it would have to store, keeps its vote,
// does not campaign, and catches up when there is room.
func TestFullDiskLagsAndLosesNothing(t *testing.T) {
	s := plainCluster(t, 66, "gw1", "gw2", "gw3", "gw4", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	gw2.d.SetStoring(false)
	bytes := 0
	s.onRaft = func(from, to *node, m *raftpb.Message) {
		if from == gw2 && isVote(m) {
			t.Fatal("asks for votes with a full disk")
		}
		if to == gw2 && len(m.GetEntries()) > 0 {
			bytes++
		}
	}
	at := gw2.d.tail.handed
	s.fill(20)
	s.run(4 * testP)
	last, _ := gw2.d.tail.last()
	if gw2.d.tail.handed != at || last != at || gw2.d.Status(s.now).Storing {
		t.Fatalf("stored %d, applied %d of %d with a full disk", last, gw2.d.tail.handed, at)
	}
	if s.leader() != l || gw2.d.view().lead != l.member.RaftID {
		t.Fatalf("a full disk cost the leader: %s", s.picture())
	}
	if bytes > 25 {
		t.Fatalf("%d appends with entries to a node that drops them", bytes)
	}
	l.crash()
	if n, took := s.elected(l, 3*time.Second); n.name != "gw3" || took > testP+testBeat+20*time.Millisecond {
		t.Fatalf("%s after %s", n.name, took)
	}
	if next := gw2.d.Next(s.now); next <= s.now {
		t.Fatal("spins")
	}
	// Its vote counts: of five, one is down and one is full.
	s.node("gw4").crash()
	gw3 := s.node("gw3")
	gw3.kill()
	s.node("gw4").start()
	if n, _ := s.elected(gw3, 6*time.Second); n == gw2 {
		t.Fatal("the full node leads")
	}
	gw2.d.SetStoring(true)
	s.catchUp(gw2)
	s.fill(2)
	s.catchUp(gw2)
}

// A node takes no more of what others send than it was said to have room for.
func TestRoomOfTheDiskIsNotOverrun(t *testing.T) {
	s := plainCluster(t, 69, "gw1", "gw2", "w1")
	s.settle()
	gw2 := s.node("gw2")
	from, _ := gw2.d.tail.last()
	const room = 100 << 10
	gw2.d.SetRoom(room)
	s.fill(40)
	s.run(2 * testP)
	last, _ := gw2.d.tail.last()
	bytes := 0
	for _, e := range gw2.d.tail.entries {
		bytes += len(e.GetData())
	}
	if last == from || last > from+room/(8<<10)+20 || bytes > room || gw2.d.Status(s.now).Storing {
		t.Fatalf("stored up to %d from %d, %d bytes in a tail", last, from, bytes)
	}
	gw2.d.SetStoring(true)
	s.catchUp(gw2)
}

// With a full disk snapshots are dropped too.
func TestFullDiskTakesNoSnapshot(t *testing.T) {
	s := plainCluster(t, 67, "gw1", "gw2", "w1")
	s.settle()
	gw2 := s.node("gw2")
	s.isolate(gw2, true)
	s.fill(10)
	s.compactAll()
	gw2.d.SetStoring(false)
	s.isolate(gw2, false)
	s.run(4 * testP)
	if gw2.restored != 0 {
		t.Fatal("took a snapshot with a full disk")
	}
	gw2.d.SetStoring(true)
	s.catchUp(gw2)
}

// Overlay costs nothing while the log holds only data, and shows what a command
// that is not yet applied will do.
func TestOverlayIsCheapForData(t *testing.T) {
	s := plainCluster(t, 68, "gw1", "gw2", "w1")
	l := s.settle()
	s.isolate(l, true) // nothing is committed from here on
	put := func(op storage.Op) {
		b, err := storage.Command{Op: op}.Encode()
		s.check(err)
		s.check(l.d.Propose(s.now, b))
		l.turn()
	}
	put(storage.Expire{Clock: 5})
	put(storage.Record{Kind: "drill"})
	put(storage.Checkpoint{})
	if n := len(l.d.tail.entries); n != 3 || l.d.Overlay(l.st) != l.st {
		t.Fatalf("a copy of the state for %d entries that change nothing of it", n)
	}
	put(storage.Maintenance{Node: l.member.RaftID, On: true})
	over := l.d.Overlay(l.st)
	if _, on := over.Maintained(l.member.RaftID); !on || over == l.st {
		t.Fatal("maintenance not seen")
	}
	if _, on := l.st.Maintained(l.member.RaftID); on {
		t.Fatal("overlay changed the state")
	}
}

// The count of control entries follows every way in which a tail changes.
func TestTailCountsControlEntries(t *testing.T) {
	control, err := storage.Command{Op: storage.Fence{Node: 7}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	data, err := storage.Command{Op: storage.Expire{}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	entry := func(index, term uint64, data []byte) *raftpb.Entry {
		return &raftpb.Entry{Index: new(index), Term: new(term), Type: raftpb.EntryNormal.Enum(), Data: data}
	}
	conf := entry(3, 1, nil)
	conf.Type = raftpb.EntryConfChangeV2.Enum()
	unknown := entry(4, 1, []byte{77, 77, 77})
	tl := tail{handed: 1, handedTerm: 1}
	want := func(n int) {
		t.Helper()
		if count := fmt.Sprint(tl.control, len(tl.entries)); count != fmt.Sprint(n, len(tl.entries)) {
			t.Fatalf("counts %d of %d, want %d", tl.control, len(tl.entries), n)
		}
	}
	tl.store([]*raftpb.Entry{entry(2, 1, control), conf, unknown, entry(5, 1, data), entry(6, 1, nil)})
	want(3)
	tl.hand(entry(2, 1, control))
	want(2)
	tl.store([]*raftpb.Entry{entry(4, 2, data)})
	want(1)
	if last, term := tl.last(); last != 4 || term != 2 {
		t.Fatalf("ends at %d term %d", last, term)
	}
	tl.proposed(2, raftpb.EntryNormal, control)
	want(2)
	tl.store([]*raftpb.Entry{entry(5, 2, control)})
	want(2)
	tl.hand(conf)
	tl.hand(entry(4, 2, data))
	want(1)
	tl.restore(9, 2)
	want(0)
}
