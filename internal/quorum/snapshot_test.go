package quorum

import (
	"errors"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// fill lets the leader append so many entries, one after the other.
func (s *sim) fill(entries int) {
	s.t.Helper()
	for range entries {
		s.check(s.propose())
		s.run(5 * time.Millisecond)
	}
}

// catchUp waits until a node has applied what the leader has.
func (s *sim) catchUp(n *node) {
	s.t.Helper()
	ok := s.runUntil(5*time.Second, func() bool {
		l := s.leader()
		return l != nil && n.up && n.d.tail.handed == l.d.tail.handed
	})
	if !ok {
		s.t.Fatalf("%s does not catch up: %s", n.name, s.picture())
	}
}

// compactAll cuts every log at what is applied.
func (s *sim) compactAll() {
	for _, n := range s.nodes {
		if n.up && !n.frozen {
			n.compact(0)
		}
	}
	s.run(20 * time.Millisecond)
}

// A node that was away while the logs were cut is filled by a snapshot, goes on
// from it, and starts over from it.
func TestNodeBehindTheLogGetsSnapshot(t *testing.T) {
	s := plainCluster(t, 50, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	s.isolate(gw2, true)
	s.fill(30)
	s.compactAll()
	s.fill(3)
	s.isolate(gw2, false)
	s.catchUp(gw2)
	if gw2.restored != 1 || s.leader() != l {
		t.Fatalf("restored %d times: %s", gw2.restored, s.picture())
	}
	for _, p := range l.d.Status(s.now).Peers {
		if p.Node == gw2.member.RaftID && (p.State != "replicate" || p.Snapshot != 0) {
			t.Fatalf("leader still thinks of a snapshot: %+v", p)
		}
	}
	gw2.crash()
	gw2.start()
	if first := gw2.mem.base + 1; first <= 30 || gw2.d.tail.handed < 30 {
		t.Fatalf("starts over with a log from %d on, applied %d", first, gw2.d.tail.handed)
	}
	s.fill(2)
	s.catchUp(gw2)
	if gw2.restored != 1 {
		t.Fatalf("a node that was gone for a moment needed %d snapshots", gw2.restored)
	}
}

// A log that begins before its snapshot serves a follower that is a little
// behind, and its own state starts at the snapshot all the same.
func TestEntriesBeforeTheSnapshotAreKept(t *testing.T) {
	s := plainCluster(t, 51, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	s.isolate(gw2, true)
	s.fill(10)
	l.compact(20)
	s.run(20 * time.Millisecond)
	s.isolate(gw2, false)
	s.catchUp(gw2)
	if gw2.restored != 0 {
		t.Fatal("a snapshot was sent to a follower that the log could serve")
	}
	l.crash()
	l.start()
	if l.d.tail.handed != l.mem.snap.GetMetadata().GetIndex() || l.mem.base >= l.d.tail.handed {
		t.Fatalf("starts at %d, snapshot at %d, log from %d", l.d.tail.handed, l.mem.snap.GetMetadata().GetIndex(), l.mem.base+1)
	}
	s.settle()
}

// A snapshot of what the log has already changes nothing.
func TestStaleSnapshotIsNotTaken(t *testing.T) {
	s := plainCluster(t, 52, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	s.fill(5)
	snap := s.snapshotOf(l.st)
	for _, end := range []uint64{0, 3} {
		s.fill(int(end))
		msg := snapMessage(l, gw2, snap)
		before := gw2.d.Status(s.now)
		s.check(gw2.d.StepSnapshot(s.now, l.member.RaftID, l.inc, msg))
		gw2.turn() // would fail: there is no state
		if after := gw2.d.Status(s.now); after.LastIndex != before.LastIndex || after.Commit != before.Commit {
			t.Fatalf("log was %+v, is %+v", before, after)
		}
	}
	s.fill(1)
	s.settle()
}

func snapMessage(from, to *node, snap *raftpb.Snapshot) []byte {
	return encodeFrame(&raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(from.member.RaftID), To: new(to.member.RaftID),
		Term: new(from.d.view().term), Snapshot: snap,
	})
}

// What comes as a snapshot and is none, or could not be taken, is refused
// before raft sees it; and a snapshot does not come as a plain frame.
func TestSnapshotMessageIsChecked(t *testing.T) {
	s := plainCluster(t, 53, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	good := func() *raftpb.Message {
		m := &raftpb.Message{}
		s.check(proto.Unmarshal(snapMessage(l, gw2, s.snapshotOf(l.st)), m))
		return m
	}
	for name, harm := range map[string]func(*raftpb.Message){
		"another type":         func(m *raftpb.Message) { m.Type = raftpb.MsgApp.Enum() },
		"another sender":       func(m *raftpb.Message) { m.From = new(uint64(5)) },
		"no snapshot":          func(m *raftpb.Message) { m.Snapshot = nil },
		"index 0":              func(m *raftpb.Message) { m.Snapshot.Metadata.Index = new(uint64(0)) },
		"term 0":               func(m *raftpb.Message) { m.Snapshot.Metadata.Term = new(uint64(0)) },
		"term of the future":   func(m *raftpb.Message) { m.Snapshot.Metadata.Term = new(m.GetTerm() + 1) },
		"no voters":            func(m *raftpb.Message) { m.Snapshot.Metadata.ConfState.Voters = nil },
		"node twice":           func(m *raftpb.Message) { m.Snapshot.Metadata.ConfState.Learners = []uint64{l.member.RaftID} },
		"reserved node":        func(m *raftpb.Message) { m.Snapshot.Metadata.ConfState.Voters[0] = 0 },
		"too many nodes":       func(m *raftpb.Message) { m.Snapshot.Metadata.ConfState.Learners = make([]uint64, 1000) },
		"too many going nodes": func(m *raftpb.Message) { m.Snapshot.Metadata.ConfState.VotersOutgoing = make([]uint64, 1000) },
	} {
		m := good()
		harm(m)
		if err := gw2.d.StepSnapshot(s.now, l.member.RaftID, l.inc, encodeFrame(m)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := gw2.d.StepSnapshot(s.now, l.member.RaftID, l.inc, []byte{255}); !errors.Is(err, ErrFrame) {
		t.Errorf("garbage: %v", err)
	}
	if err := gw2.d.Step(s.now, l.member.RaftID, l.inc, encodeFrame(good())); !errors.Is(err, ErrFrame) {
		t.Errorf("snapshot as a plain frame: %v", err)
	}
	s.settle()
}

// Covers F2, G4: a new node is filled by a snapshot from before its joining,
// though other changes stand between the two, and has the state of all others
// at every index; also when it starts over in between.
func TestSnapshotFromBeforeJoining(t *testing.T) {
	for _, restart := range []bool{false, true} {
		s := plainCluster(t, 54, "gw1", "gw2", "gw3", "gw4", "w1")
		s.settle()
		s.fill(10)
		s.compactAll()
		s.fill(1)
		s.check(s.change(raftpb.ConfChangeRemoveNode, s.node("gw4")))
		s.run(3 * testBeat)
		s.node("gw4").crash()
		gw5 := s.join("gw5")
		s.check(s.change(raftpb.ConfChangeAddLearnerNode, gw5))
		if !s.runUntil(2*time.Second, func() bool { return gw5.restored > 0 }) {
			t.Fatalf("no snapshot came: %s", s.picture())
		}
		if conf, _ := gw5.st.Conf(); conf.Contains(gw5.member.RaftID) || gw5.d.conf.Contains(gw5.member.RaftID) {
			t.Fatalf("the snapshot is not from before the joining: %+v", conf)
		}
		if restart {
			s.run(10 * time.Millisecond)
			gw5.crash()
			gw5.start()
		}
		s.catchUp(gw5) // every state on the way is compared
		conf, _ := gw5.st.Conf()
		if !slices.Contains(conf.Learners, gw5.member.RaftID) || conf.Contains(s.node("gw4").member.RaftID) {
			t.Fatalf("restart %v: %+v", restart, conf)
		}
		s.check(s.change(raftpb.ConfChangeAddNode, gw5))
		s.run(3 * testBeat)
		if st := gw5.d.Status(s.now); !st.Voter || st.Abstain || gw5.restored != 1 {
			t.Fatalf("restart %v: restored %d times, %+v", restart, gw5.restored, st)
		}
	}
}

// What a snapshot of a former leader holds is committed, so it counts under the
// next one, whatever became of the one that sent it.
func TestSnapshotOfFormerLeaderCounts(t *testing.T) {
	s := plainCluster(t, 55, "gw1", "gw2", "gw3", "gw4", "w1")
	l := s.settle()
	gw4 := s.node("gw4")
	s.isolate(gw4, true)
	s.fill(10)
	snap := s.snapshotOf(l.st)
	msg := snapMessage(l, gw4, snap)
	s.compactAll()
	l.kill()
	s.runUntil(5*time.Second, func() bool { return s.leader() != nil && len(s.leader().d.tail.entries) == 0 })
	next := s.leader()
	gw4.d.Over(s.now, l.member.RaftID, l.inc) // the note came too
	s.links[[2]*node{next, gw4}].cut, s.links[[2]*node{gw4, next}].cut = false, false
	s.onRaft = func(_, to *node, m *raftpb.Message) {
		if to == gw4 && m.GetType() == raftpb.MsgSnap {
			t.Fatal("the new leader sends a snapshot of its own")
		}
	}
	if !s.runUntil(time.Second, func() bool { return gw4.d.view().lead == next.member.RaftID }) {
		t.Fatal("new leader not heard")
	}
	gw4.received = s.state(snap)
	s.check(gw4.d.StepSnapshot(s.now, l.member.RaftID, l.inc, msg))
	gw4.turn()
	if gw4.restored != 1 {
		t.Fatalf("snapshot not taken: %s", s.picture())
	}
	s.onRaft = nil
	s.catchUp(gw4)
}

// A failed snapshot is sent again.
func TestFailedSnapshotIsSentAgain(t *testing.T) {
	s := plainCluster(t, 56, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	s.isolate(gw2, true)
	s.fill(10)
	s.compactAll()
	s.isolate(gw2, false)
	sent := 0
	s.onRaft = func(from, to *node, m *raftpb.Message) {
		if m.GetType() == raftpb.MsgSnap {
			sent++
			s.links[[2]*node{from, to}].loss = 1000 // the first is lost
			s.after(nil, ms, func() { s.links[[2]*node{from, to}].loss = 0 })
			if sent > 1 {
				s.links[[2]*node{from, to}].loss = 0
			}
		}
	}
	s.catchUp(gw2)
	if sent < 2 || gw2.restored != 1 || s.leader() != l {
		t.Fatalf("%d sent, %d restored: %s", sent, gw2.restored, s.picture())
	}
}

// A crash between the taking of a snapshot and its log leaves the node where it
// was, and it is filled again.
func TestCrashBeforeSnapshotIsDurable(t *testing.T) {
	s := plainCluster(t, 57, "gw1", "gw2", "w1")
	s.settle()
	gw2 := s.node("gw2")
	s.isolate(gw2, true)
	s.fill(10)
	s.compactAll()
	s.isolate(gw2, false)
	answered := false
	s.onRaft = func(from, _ *node, m *raftpb.Message) {
		if from == gw2 && m.GetType() == raftpb.MsgAppResp && m.GetIndex() > 10 && !m.GetReject() {
			answered = true
		}
	}
	gw2.log.stuck = true
	s.runUntil(2*time.Second, func() bool { return gw2.restored == 1 })
	s.run(10 * testBeat)
	if answered {
		t.Fatal("a snapshot was acknowledged before its log was durable")
	}
	gw2.crash()
	gw2.start()
	if gw2.d.tail.handed > 10 {
		t.Fatalf("applied %d from a log that was never written", gw2.d.tail.handed)
	}
	s.catchUp(gw2)
	s.run(3 * testBeat)
	if gw2.restored != 2 || !answered {
		t.Fatalf("restored %d times, answered: %v", gw2.restored, answered)
	}
}

// A snapshot that every voter but one has cut its log behind does not stop
// writes while it is under way.
func TestWritesGoOnDuringSnapshot(t *testing.T) {
	s := plainCluster(t, 58, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	s.isolate(gw2, true)
	s.fill(10)
	s.compactAll()
	s.isolate(gw2, false)
	s.links[[2]*node{l, gw2}].delay = 150 * ms // bulk takes its time
	before := l.d.tail.handed
	s.fill(40) // 200 ms
	if got := l.d.tail.handed - before; got < 39 {
		t.Fatalf("%d of 40 writes while a snapshot was under way", got)
	}
	s.links[[2]*node{l, gw2}].delay = ms
	s.catchUp(gw2)
}

// The same with real logs and snapshot files: logs opened anew hold only what
// was not released, and a node that was away is filled from the file.
func TestRealSnapshotFillsNode(t *testing.T) {
	s := cluster(t, 59, "gw1", "gw2", "w1")
	s.value = 30 << 10 // a segment has 64 KiB
	l := s.settle()
	gw2 := s.node("gw2")
	for round := 1; round <= 3; round++ {
		s.isolate(gw2, true)
		s.fill(10)
		s.compactAll()
		for _, n := range []*node{l, s.node("w1")} {
			n.crash()
			n.start()
		}
		if !s.runUntil(5*time.Second, func() bool { return s.leader() != nil && s.leader() != gw2 }) {
			t.Fatalf("no leader: %s", s.picture())
		}
		s.fill(2)
		s.isolate(gw2, false)
		s.settle()
		if gw2.restored != round {
			t.Fatalf("round %d: restored %d times", round, gw2.restored)
		}
		gw2.crash()
		gw2.start()
		if gw2.d.tail.handed < 10 {
			t.Fatalf("starts over at %d", gw2.d.tail.handed)
		}
		s.settle()
		gw2.compact(0) // and its own snapshots follow the one it received
		s.fill(3)
		l = s.settle()
	}
}

// raft answers a message of an older term with an acknowledgement of index 0.
// To a leader that has no other answer yet it must not mean that the other node
// has nothing: the log begins behind the founding, for which there is no
// snapshot to send.
func TestAnswerToAnOlderTermAsksForNothing(t *testing.T) {
	s := plainCluster(t, 53, "gw1", "gw2", "w1")
	w := s.node("w1")
	s.isolate(w, true)
	l, _ := s.elected(nil, 5*time.Second)
	s.fill(3)
	late := &raftpb.Message{
		Type: raftpb.MsgAppResp.Enum(), From: new(w.member.RaftID), To: new(l.member.RaftID),
		Term: new(l.d.view().term), Index: new(uint64(0)),
	}
	s.check(l.d.Step(s.now, w.member.RaftID, w.inc, frame(t, late)))
	out, err := l.d.Process(s.now)
	s.check(err)
	if len(out.Snapshots) != 0 {
		t.Fatalf("a snapshot at index %d is to be sent", out.Snapshots[0].Index)
	}
	s.isolate(w, false)
	s.catchUp(w)
	if w.restored != 0 {
		t.Fatalf("caught up by %d snapshots: %s", w.restored, s.picture())
	}
}
