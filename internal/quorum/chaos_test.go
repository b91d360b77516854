package quorum

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// disturb does one random thing to the cluster.
func (s *sim) disturb(pick, which int) {
	n := s.nodes[which%len(s.nodes)]
	m := s.nodes[(which+1)%len(s.nodes)]
	up := 0
	for _, x := range s.nodes {
		if x.up && !x.frozen {
			up++
		}
	}
	switch pick {
	case 0:
		if n.up {
			n.crash()
		}
	case 1:
		if n.up {
			n.kill()
		}
	case 2, 3:
		if !n.up {
			n.start()
		}
	case 4:
		s.isolate(n, true)
	case 5:
		s.isolate(n, false)
	case 6:
		s.links[[2]*node{n, m}].cut = true
	case 7:
		s.deafen(n)
	case 8:
		s.eachLink(func(l *link) { l.loss, l.jitter = 150, 40*ms })
	case 9:
		s.eachLink(func(l *link) { *l = link{delay: 200_000, jitter: 100_000} })
	case 10:
		if n.up && !n.frozen {
			n.frozen = true
			s.after(nil, s.rng.Int64N(2*int64(testP)), func() {
				if n.frozen && n.up {
					n.thaw()
				}
			})
		}
	case 11:
		s.fsync = s.rng.Int64N(80 * ms)
	case 12:
		if l := s.leader(); l != nil && !l.frozen {
			_ = l.d.Transfer(s.now, n.member.RaftID)
			l.turn()
		}
	}
}

// converge heals everything and checks that the cluster comes back with all
// that was ever committed.
func (s *sim) converge() {
	s.eachLink(func(l *link) { *l = link{delay: 200_000, jitter: 100_000} })
	s.fsync = 2 * ms
	for _, n := range s.nodes {
		if n.up && n.frozen {
			n.thaw()
		}
		if !n.up {
			n.start()
		}
		n.d.SetStoring(true)
	}
	l := s.settle()
	for _, n := range s.members(l) {
		if int(n.d.tail.handed) != len(s.committed)+1 {
			s.t.Fatalf("%s applied up to %d, %d were committed", n.name, n.d.tail.handed, len(s.committed)+1)
		}
		if n.st.Hash() != l.st.Hash() {
			s.t.Fatalf("%s and %s differ", n.name, l.name)
		}
	}
	// Liveness: the healthy cluster keeps its leader.
	term := l.d.view().term
	s.run(4 * testP)
	if !s.runUntil(testP, func() bool { return s.leader() != nil }) || (l.member.Role == 1 && s.leader().d.view().term != term) {
		s.t.Fatalf("healthy cluster changed its leader: %s", s.picture())
	}
}

// Safety under random faults: one leader a term, one log, nothing committed is
// lost, equal states; and the cluster always comes back.
func TestRandomFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([][]string{
			{"gw1", "gw2", "w1"}, {"gw1", "w1", "w2"}, {"gw1", "gw2", "gw3", "gw4", "w1"},
		}).Draw(t, "names")
		s := newSim(t, rapid.Uint64().Draw(t, "seed"), names...)
		defer s.close()
		for range rapid.IntRange(5, 25).Draw(t, "steps") {
			s.disturb(rapid.IntRange(0, 12).Draw(t, "what"), rapid.IntRange(0, len(names)-1).Draw(t, "node"))
			s.run(time.Duration(rapid.Int64Range(1, 900).Draw(t, "ms")) * time.Millisecond)
			_ = s.propose()
		}
		s.converge()
	})
}

// The leader of a lossy network with jitter stays the leader.
func TestLossAndJitterDeposeNobody(t *testing.T) {
	for seed := range uint64(5) {
		s := cluster(t, seed, "gw1", "gw2", "w1")
		l := s.settle()
		term := l.d.view().term
		s.eachLink(func(l *link) { l.loss, l.jitter = 100, 20*ms })
		for range 20 {
			s.run(time.Second / 2)
			_ = s.propose()
		}
		if s.leader() != l || l.d.view().term != term {
			t.Fatalf("seed %d: leader moved in 10 s of 10%% loss: %s", seed, s.picture())
		}
	}
}

// Plumbing of configuration changes: a fourth node joins as learner, is made a
// voter, and one is removed.
func TestConfigurationChanges(t *testing.T) {
	s := cluster(t, 40, "gw1", "gw2", "w1")
	l := s.settle()
	w1 := s.node("w1").member.RaftID
	step := func(kind raftpb.ConfChangeType, id uint64, want string) {
		t.Helper()
		s.check(l.d.ProposeConf(s.now, kind, id, nil))
		l.turn()
		s.run(3 * testBeat)
		conf, index := l.st.Conf()
		if got := fmt.Sprint(len(conf.Voters), len(conf.Learners)); got != want || index != uint64(len(s.committed)+1) {
			t.Fatalf("%v at %d, want %s", conf, index, want)
		}
	}
	step(raftpb.ConfChangeAddLearnerNode, 4242, "3 1")
	step(raftpb.ConfChangeAddNode, 4242, "4 0")
	step(raftpb.ConfChangeRemoveNode, 4242, "3 0")
	step(raftpb.ConfChangeAddLearnerNode, w1, "2 1")
	w := s.node("w1").d
	if st := w.Status(s.now); st.Voter || !st.Abstain {
		t.Fatalf("a learner votes: %+v", st)
	}
	l.kill()
	s.run(10 * testP)
	if n := s.leader(); n != nil {
		t.Fatalf("%s leads with a learner's vote", n.name)
	}
}

// reform does one random thing to the logs, the members or the room on a disk.
func (s *sim) reform(pick, which int) {
	n := s.nodes[which%len(s.nodes)]
	l := s.leader()
	switch pick {
	case 0:
		if n.up && !n.frozen {
			n.compact(s.rng.Uint64N(5))
		}
	case 1:
		s.compactAll()
	case 2:
		if n.up && !n.frozen { // what is left of its log is what was not released
			n.crash()
			n.start()
		}
	case 3:
		if len(s.nodes) < 7 {
			s.join(fmt.Sprintf("gw%d", len(s.nodes)+10))
		}
	case 4, 5, 6:
		if l != nil && !l.frozen {
			s.reconfigure(l, n)
		}
	case 7:
		if n.up && !n.frozen {
			n.d.SetStoring(s.rng.IntN(2) == 0)
		}
	case 8:
		if n.up && !n.frozen {
			n.ask()
		}
	}
}

// reconfigure lets the leader move a node one step on its way in or out. A
// removed node does not come back under its raft id (F2).
func (s *sim) reconfigure(l, n *node) {
	conf, _ := l.st.Conf()
	id := n.member.RaftID
	kind := raftpb.ConfChangeAddLearnerNode
	switch {
	case n.gone:
		return
	case slices.Contains(conf.Learners, id):
		kind = raftpb.ConfChangeAddNode
	case slices.Contains(conf.Voters, id):
		if len(conf.Voters) <= 3 {
			return
		}
		kind = raftpb.ConfChangeRemoveNode
		n.gone = true
	}
	_ = s.change(kind, n)
}

// ask asks for a read and notes what it must not miss.
func (n *node) ask() {
	n.token++
	n.asked = append(n.asked, question{token: n.token, least: uint64(len(n.s.committed)) + 1})
	if n.d.ReadIndex(n.s.now, n.token) == nil {
		n.turn()
	}
}

// Safety under random faults while logs are compacted, members come and go,
// disks are full and reads are asked: one leader a term, one log, equal states,
// no read misses what was applied anywhere before it was asked; and the cluster
// always comes back.
func TestRandomFaultsAndChanges(t *testing.T) {
	snapshots, filled, reads := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([][]string{
			{"gw1", "gw2", "w1"}, {"gw1", "gw2", "gw3", "gw4", "w1"},
		}).Draw(t, "names")
		s := found(t, rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 3).Draw(t, "disk") > 0, names)
		defer s.close()
		s.value = rapid.SampledFrom([]int{0, 100, 30 << 10}).Draw(t, "value")
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			node := rapid.IntRange(0, 6).Draw(t, "node")
			if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
				s.disturb(rapid.IntRange(0, 12).Draw(t, "what"), node)
			} else {
				s.reform(rapid.IntRange(0, 8).Draw(t, "change"), node)
			}
			s.run(time.Duration(rapid.Int64Range(1, 500).Draw(t, "ms")) * time.Millisecond)
			for range rapid.IntRange(0, 5).Draw(t, "entries") {
				_ = s.propose()
			}
		}
		s.converge()
		for _, n := range s.nodes {
			snapshots += n.restored
			if n.mem == nil {
				filled += n.restored
			}
			reads += n.answers
		}
	})
	t.Logf("%d snapshots, %d of them of real files, %d reads", snapshots, filled, reads)
	if snapshots == 0 || reads == 0 {
		t.Fatal("the test tests nothing")
	}
}
