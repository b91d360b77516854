package quorum

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/storage"
)

const t0 = int64(1e12)

func machine(self uint64) *election {
	e := newElection(t0, self, testBeat, testP, func(int64) int64 { return 0 })
	conf := storage.Conf{Voters: []uint64{1, 2, 3}}
	e.setMembers(conf, []storage.Member{
		testMember("gw1", 1, storage.Gateway, 100),
		testMember("gw2", 2, storage.Gateway, 90),
		testMember("w1", 3, storage.Witness, 200),
	})
	return e
}

// claim feeds a beat of leader 1 that has seen the sequences given.
func (e *election) claimed(now int64, seen ...SeenEntry) {
	e.beatInfo(now, BeatInfo{Node: 1, Incarnation: 11, Term: 5, LeaderClaim: true, Seen: seen}, 5)
}

// Covers E1.
func TestLostNeedsClaimsAndEvidence(t *testing.T) {
	p, beat := int64(testP), int64(testBeat)
	me := func(seq uint64) SeenEntry { return SeenEntry{Node: 2, Incarnation: 22, Sequence: seq} }
	for _, c := range []struct {
		name string
		feed func(e *election)
		lost int64 // from t0
	}{
		{"no claim since the start", func(*election) {}, p},
		{"claims with evidence", func(e *election) {
			for i := range int64(20) {
				e.claimed(t0+i*beat, me(uint64(i+1)))
			}
		}, 19*beat + p},
		{"claims that show nothing new", func(e *election) {
			for i := range int64(20) {
				e.claimed(t0+i*beat, me(7))
			}
		}, p},
		{"claims of an older term", func(e *election) {
			e.claimed(t0, me(1))
			e.beatInfo(t0+3*beat, BeatInfo{Node: 1, Incarnation: 11, Term: 4, LeaderClaim: true}, 5)
		}, p},
		{"beats that claim nothing", func(e *election) {
			e.claimed(t0, me(1))
			e.beatInfo(t0+3*beat, BeatInfo{Node: 1, Incarnation: 11, Term: 5}, 5)
		}, p},
		{"a new incarnation of a voter is news", func(e *election) {
			e.claimed(t0, me(9))
			e.claimed(t0+beat, SeenEntry{Node: 2, Incarnation: 23, Sequence: 1})
		}, beat + p},
		{"over of its incarnation", func(e *election) {
			e.claimed(t0, me(1))
			e.overNote(t0+beat, 1, 11)
		}, beat},
		{"over of another incarnation", func(e *election) {
			e.claimed(t0, me(1))
			e.overNote(t0+beat, 1, 10)
		}, p},
		{"late beat after its over", func(e *election) {
			e.claimed(t0, me(1))
			e.overNote(t0+beat, 1, 11)
			e.claimed(t0+2*beat, me(2))
		}, beat},
		{"stall", func(e *election) {
			e.claimed(t0, me(1))
			e.stalled(t0 + 3*beat)
		}, 3*beat + p},
		{"stall after an over", func(e *election) {
			e.claimed(t0, me(1))
			e.overNote(t0+beat, 1, 11)
			e.stalled(t0 + 3*beat)
		}, beat},
		{"a leader of a newer term", func(e *election) {
			e.claimed(t0, me(1))
			e.overNote(t0+beat, 1, 11)
			e.observe(t0+2*beat, view{term: 6, lead: 3}, 3, 33)
		}, 2*beat + p},
	} {
		e := machine(2)
		c.feed(e)
		if got := e.lostAt() - t0; got != c.lost {
			t.Errorf("%s: lost after %s, want %s", c.name, time.Duration(got), time.Duration(c.lost))
		}
		if e.lost(t0+c.lost-1) || !e.lost(t0+c.lost) {
			t.Errorf("%s: lost and lostAt differ", c.name)
		}
	}
}

// Covers E1 in a joint configuration: evidence from a majority of each half.
func TestEvidenceCountsInBothHalves(t *testing.T) {
	e := newElection(t0, 2, testBeat, testP, func(int64) int64 { return 0 })
	e.setMembers(storage.Conf{Voters: []uint64{1, 2, 3}, Outgoing: []uint64{1, 4, 5}}, nil)
	for i := range int64(10) {
		e.claimed(t0+i*int64(testBeat), SeenEntry{Node: 2, Incarnation: 1, Sequence: uint64(i + 1)})
	}
	if got := e.lostAt() - t0; got != int64(testP) {
		t.Fatalf("lost after %s though nothing came from the outgoing half", time.Duration(got))
	}
}

// Covers E4.
func TestRanks(t *testing.T) {
	p := int64(testP)
	for _, c := range []struct {
		name   string
		self   uint64
		leader uint64
		over   bool
		due    int64 // after the loss
	}{
		{"best, nobody led", 1, 0, false, 0},
		{"second, nobody led", 2, 0, false, 50 * ms},
		{"second after the best is lost", 2, 1, false, 0},
		{"second after the witness is over", 2, 3, true, 10 * ms},
		{"witness, in spite of its priority", 3, 1, false, 3 * p},
		{"witness after an over", 3, 1, true, 3 * p},
		{"the lost leader itself comes after the others", 1, 1, false, 50 * ms},
	} {
		e := machine(c.self)
		lost := t0 + p
		if c.leader != 0 {
			e.newLeader(t0, c.leader, 9, 5)
		}
		if c.over {
			lost = t0 + 5*ms
			e.overNote(lost, c.leader, 9)
		}
		if got := e.dueAt() - lost; got != c.due {
			t.Errorf("%s: due %s after the loss, want %s", c.name, time.Duration(got), time.Duration(c.due))
		}
	}
	e := machine(9)
	if e.dueAt() != never {
		t.Error("a node that is no voter has a turn")
	}
}

// Covers E3: when Campaign may be called in each role.
func TestCampaignGuards(t *testing.T) {
	lost := t0 + int64(testP)
	at := func(v view, prepare func(*election)) int64 {
		e := machine(1)
		e.last = view{term: 5}
		prepare(e)
		return e.campaignAt(v)
	}
	nothing := func(*election) {}
	if got := at(view{role: follower, term: 5, lead: 2}, nothing); got != never {
		t.Errorf("follower with a leader may campaign at %d", got)
	}
	if got := at(view{role: leader, term: 5, lead: 1}, nothing); got != never {
		t.Errorf("leader may campaign at %d", got)
	}
	if got := at(view{role: follower, term: 5}, nothing); got != lost {
		t.Errorf("follower without leader may campaign %d ns after the loss", got-lost)
	}
	slow := func(e *election) { e.rtt = 40 * time.Millisecond; e.campaigned(lost) }
	if got := at(view{role: preCandidate, term: 5}, slow); got != lost+80*ms {
		t.Errorf("pre-candidate repeats after %s, want 2 RTT", time.Duration(got-lost))
	}
	quick := func(e *election) { e.campaigned(lost) }
	if got := at(view{role: preCandidate, term: 5}, quick); got != lost+int64(testBeat) {
		t.Errorf("pre-candidate repeats after %s, want a beat", time.Duration(got-lost))
	}
	for name, v := range map[string]view{
		"candidate":       {role: candidate, term: 6, vote: 1},
		"vote cast":       {role: follower, term: 5, vote: 2},
		"higher term":     {role: follower, term: 6},
		"both, candidate": {role: candidate, term: 7, vote: 1},
	} {
		if got := at(v, func(e *election) { e.observe(lost, v, 0, 0) }); got != lost+4*int64(testBeat) {
			t.Errorf("%s: next campaign after %s, want 4 beats", name, time.Duration(got-lost))
		}
		if got := at(v, func(e *election) { e.rtt, e.fsync = 90*time.Millisecond, 60*time.Millisecond; e.observe(lost, v, 0, 0) }); got != lost+300*ms {
			t.Errorf("%s: next campaign after %s, want 2 x (fsync + RTT)", name, time.Duration(got-lost))
		}
	}
	// The random part is at most P/4.
	e := machine(1)
	e.random = func(n int64) int64 { return n - 1 }
	e.holdBack(lost)
	if got := e.guard - lost; got != 4*int64(testBeat)+int64(testP)/4 {
		t.Errorf("longest wait %s", time.Duration(got))
	}
	// A known outcome ends the wait: the crash of a young leader is not
	// waited out.
	e.newLeader(lost, 2, 22, 6)
	if e.guard > lost {
		t.Error("guard stays after the election has an outcome")
	}
}

// lone returns a node of a cluster that knows its leader, by frames and beats,
// and hears nothing more: the other nodes are down.
func lone(t *testing.T) (*sim, *node, *node) {
	s := cluster(t, 30, "gw1", "gw2", "w1")
	l := s.settle()
	gw2 := s.node("gw2")
	s.node("w1").crash()
	l.crash()
	return s, gw2, l
}

func frame(t *testing.T, m *raftpb.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// preVote is a pre-vote of the witness with a log as good as n's.
func (s *sim) preVote(n *node) *raftpb.Message {
	last, term := n.d.tail.last()
	return &raftpb.Message{
		Type: raftpb.MsgPreVote.Enum(), From: new(s.node("w1").member.RaftID), To: new(n.member.RaftID),
		Term: new(n.d.view().term + 1), Index: new(last), LogTerm: new(term),
	}
}

// granted reports whether the output holds a granted pre-vote.
func granted(t *testing.T, out Output) bool {
	t.Helper()
	for _, m := range out.Messages {
		r := &raftpb.Message{}
		if err := proto.Unmarshal(m.Data, r); err != nil {
			t.Fatal(err)
		}
		if r.GetType() == raftpb.MsgPreVoteResp && !r.GetReject() {
			return true
		}
	}
	return false
}

// Covers E2: the leader is forgotten again before each pre-vote that is
// stepped while it stays lost; here the pre-vote is the first thing that
// happens after the loss.
func TestLeaderIsForgottenBeforeAVoteIsStepped(t *testing.T) {
	s, gw2, l := lone(t)
	s.runUntil(10*testP, func() bool { return s.now+int64(testBeat) > gw2.d.el.lostAt() })
	if gw2.d.view().lead != l.member.RaftID {
		t.Fatalf("leader forgotten early: %s", s.picture())
	}
	at := gw2.d.el.lostAt()
	w1 := s.node("w1")
	if err := gw2.d.Step(at, w1.member.RaftID, 1, frame(t, s.preVote(gw2))); err != nil {
		t.Fatal(err)
	}
	out, err := gw2.d.Process(at)
	if err != nil {
		t.Fatal(err)
	}
	if !granted(t, out) {
		t.Fatal("pre-vote refused though the leader is lost")
	}
}

// Covers E2, E1: a vote is refused while the leader lives, and a late
// heartbeat of a lost leader does not save it.
func TestLateHeartbeatDoesNotSaveALostLeader(t *testing.T) {
	s, gw2, l := lone(t)
	w1 := s.node("w1")
	step := func(from uint64, m *raftpb.Message) Output {
		t.Helper()
		if err := gw2.d.Step(s.now, from, 1, frame(t, m)); err != nil {
			t.Fatal(err)
		}
		out, err := gw2.d.Process(s.now)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if granted(t, step(w1.member.RaftID, s.preVote(gw2))) {
		t.Fatal("pre-vote granted while the leader is not lost")
	}
	s.runUntil(10*testP, func() bool { return gw2.d.el.lost(s.now) })
	heartbeat := &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(l.member.RaftID), To: new(gw2.member.RaftID), Term: new(gw2.d.view().term),
	}
	step(l.member.RaftID, heartbeat)
	if !granted(t, step(w1.member.RaftID, s.preVote(gw2))) {
		t.Fatal("pre-vote refused because of a late heartbeat of a lost leader")
	}
}

// Frames that no peer of ours sends are refused, and nothing panics.
func TestStepRefusesWhatIsNotAPeersMessage(t *testing.T) {
	s, gw2, l := lone(t)
	from := l.member.RaftID
	good := func() *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(from), To: new(gw2.member.RaftID), Term: new(uint64(2))}
	}
	for name, change := range map[string]func(*raftpb.Message){
		"proposal":     func(m *raftpb.Message) { m.Type = raftpb.MsgProp.Enum() },
		"local hup":    func(m *raftpb.Message) { m.Type = raftpb.MsgHup.Enum() },
		"storage":      func(m *raftpb.Message) { m.Type = raftpb.MsgStorageAppendResp.Enum() },
		"read index":   func(m *raftpb.Message) { m.Type = raftpb.MsgReadIndex.Enum() },
		"forget":       func(m *raftpb.Message) { m.Type = raftpb.MsgForgetLeader.Enum() },
		"other sender": func(m *raftpb.Message) { m.From = new(uint64(99)) },
		"other target": func(m *raftpb.Message) { m.To = new(uint64(99)) },
		"term zero":    func(m *raftpb.Message) { m.Term = nil },
		"responses":    func(m *raftpb.Message) { m.Responses = []*raftpb.Message{good()} },
	} {
		m := good()
		change(m)
		if err := gw2.d.Step(s.now, from, l.inc, frame(t, m)); err == nil {
			t.Errorf("%s taken", name)
		}
	}
	if err := gw2.d.Step(s.now, from, l.inc, []byte{0xff, 0xff}); err == nil {
		t.Error("garbage taken")
	}
	dropped := gw2.d.dropped
	vote := s.preVote(gw2)
	vote.From = new(uint64(4242))
	if err := gw2.d.Step(s.now, 4242, 1, frame(t, vote)); err != nil || gw2.d.dropped != dropped+1 {
		t.Errorf("vote of a stranger: %v, %d dropped", err, gw2.d.dropped-dropped)
	}
}
