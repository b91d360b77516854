package quorum

import (
	"container/heap"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// The cluster of these tests runs in one goroutine in virtual time: real
// drivers, real logs over a disk that forgets what was not synced (or for tests
// with snapshots a simpler log with the same habits, see disk_test.go), and a
// network drawn from a seed.

const (
	ms       = int64(time.Millisecond)
	testBeat = 50 * time.Millisecond
	testP    = 500 * time.Millisecond
	testL    = 391 * time.Millisecond
)

// tb is what a test and a rapid check have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

type event struct {
	at   int64
	seq  int
	node *node // nil: always run
	life int
	run  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// link is the network from one node to another.
type link struct {
	cut      bool  // nothing passes
	cutRaft  bool  // only raft frames are lost
	cutBeats bool  // only beats are lost
	loss     int   // per mille
	delay    int64 // least, ns
	jitter   int64 // ns
}

type sim struct {
	t     tb
	now   int64
	seq   int
	queue events
	rng   *rand.Rand
	nodes []*node
	links map[[2]*node]*link
	fsync int64

	first     storage.FirstConfig
	plain     bool              // logs are memDisks
	value     int               // bytes that a proposal puts into a bucket
	leaders   map[uint64]string // term -> leader
	committed []commit          // committed[i] has index i+2
	hashes    map[uint64][32]byte
	onRaft    func(from, to *node, m *raftpb.Message) // sees every frame sent
}

type commit struct {
	term uint64
	sum  [32]byte
}

type node struct {
	s      *sim
	name   string
	member storage.Member
	fs     *vfs.Mem
	data   *storage.Data
	mem    *memDisk // instead of fs, if the sim is plain
	log    *slowLog
	d      *Driver
	st     *storage.State
	inc    uint64
	up     bool
	life   int
	frozen bool
	held   []func() // what arrived while frozen
	seqNo  uint64
	seen   map[uint64]SeenEntry
	wake   int64
	led    int // times OnLead was called
	lastUp int64
	mute   bool // never claims leadership

	received *storage.State // came with a snapshot, not yet in force
	restored int            // snapshots that came into force
	gone     bool           // was removed
	token    uint64
	asked    []question
	answers  int
}

// question is a read that was asked.
type question struct {
	token, least uint64
}

func testMember(name string, id uint64, role storage.Role, priority int32) storage.Member {
	return storage.Member{Name: name, PublicKey: sha256.Sum256([]byte(name)), RaftID: id, Role: role, Priority: priority}
}

// newSim founds a cluster: names beginning with w are witnesses, the others
// gateways in the order of preference given.
func newSim(t tb, seed uint64, names ...string) *sim { return found(t, seed, false, names) }

func found(t tb, seed uint64, plain bool, names []string) *sim {
	s := &sim{
		t: t, now: 1e12, rng: rand.New(rand.NewPCG(seed, 17)), links: map[[2]*node]*link{}, fsync: 2 * ms, plain: plain,
		leaders: map[uint64]string{}, hashes: map[uint64][32]byte{},
	}
	s.first = storage.FirstConfig{
		Cluster: "test",
		Groups: []storage.Group{{Name: "default", VIPs: []storage.VIP{
			{Prefix: netip.MustParsePrefix("10.77.0.100/24"), Scope: storage.ScopeVIP}}}},
		Profile: storage.Profile{Beat: testBeat, Promise: testP, Epsilon: 20 * time.Millisecond},
	}
	for _, name := range names {
		s.first.Members = append(s.first.Members, s.add(name).member)
	}
	for _, n := range s.nodes {
		n.found()
		n.start()
	}
	return s
}

// add makes a host with an empty disk, and the network to it.
func (s *sim) add(name string) *node {
	n := &node{s: s, name: name, fs: vfs.NewMem()}
	id := s.rng.Uint64()>>1 | 1
	if !s.plain {
		data, err := storage.OpenData(n.fs, "/data")
		s.check(err)
		id = data.RaftID()
		s.check(data.Close())
	}
	role := storage.Gateway
	if name[0] == 'w' {
		role = storage.Witness
	}
	n.member = testMember(name, id, role, int32(100-10*len(s.nodes)))
	s.nodes = append(s.nodes, n)
	for _, m := range s.nodes {
		s.links[[2]*node{n, m}] = &link{delay: 200_000, jitter: 100_000}
		s.links[[2]*node{m, n}] = &link{delay: 200_000, jitter: 100_000}
	}
	return n
}

// found puts the first configuration on a node's disk.
func (n *node) found() {
	if n.s.plain {
		n.mem = newMemDisk(n.s.first.Snapshot())
		return
	}
	data, err := storage.OpenData(n.fs, "/data")
	n.s.check(err)
	n.s.check(data.PublishFirst(n.s.first, storage.Empty))
	n.s.check(data.Close())
}

func (s *sim) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("at %d: %v", s.now, err)
	}
}

func (s *sim) after(n *node, d int64, run func()) {
	s.seq++
	e := event{at: s.now + d, seq: s.seq, node: n, run: run}
	if n != nil {
		e.life = n.life
	}
	heap.Push(&s.queue, e)
}

// run lets virtual time pass.
func (s *sim) run(d time.Duration) { s.runUntil(d, func() bool { return false }) }

// runUntil lets virtual time pass until a condition holds, at most d; it
// reports whether it came to hold.
func (s *sim) runUntil(d time.Duration, done func() bool) bool {
	end := s.now + int64(d)
	for len(s.queue) > 0 && s.queue[0].at <= end {
		if done() {
			return true
		}
		e := heap.Pop(&s.queue).(event)
		s.now = max(s.now, e.at)
		if e.node != nil && (!e.node.up || e.node.life != e.life) {
			continue
		}
		if e.node != nil && e.node.frozen {
			e.node.held = append(e.node.held, e.run)
			continue
		}
		e.run()
	}
	if done() {
		return true
	}
	s.now = end
	return false
}

func (s *sim) node(name string) *node {
	for _, n := range s.nodes {
		if n.name == name {
			return n
		}
	}
	s.t.Fatalf("no node %s", name)
	return nil
}

// leader returns the leader of the highest term that claims to lead, nil if
// there is none.
func (s *sim) leader() *node {
	var best *node
	for _, n := range s.nodes {
		if n.up && n.d.view().role == leader && (best == nil || n.d.view().term > best.d.view().term) {
			best = n
		}
	}
	return best
}

// settle waits for a leader that everybody knows and returns it.
func (s *sim) settle() *node {
	s.t.Helper()
	ok := s.runUntil(20*time.Second, func() bool {
		l := s.leader()
		if l == nil {
			return false
		}
		for _, n := range s.members(l) {
			if n.up && (n.d.view().lead != l.member.RaftID || n.d.tail.handed != l.d.tail.handed || len(l.d.tail.entries) > 0) {
				return false
			}
		}
		return true
	})
	if !ok {
		s.t.Fatalf("no leader that all know within 20 s: %s", s.picture())
	}
	l := s.leader()
	s.run(3 * testBeat)
	if s.leader() != l {
		return s.settle() // a witness has handed over just then
	}
	return l
}

// members returns the nodes of a node's configuration.
func (s *sim) members(of *node) []*node {
	conf, _ := of.st.Conf()
	var out []*node
	for _, n := range s.nodes {
		if conf.Contains(n.member.RaftID) {
			out = append(out, n)
		}
	}
	return out
}

func (s *sim) picture() string {
	out := ""
	for _, n := range s.nodes {
		if n.up {
			v := n.d.view()
			out += fmt.Sprintf("%s %s term %d lead %x handed %d tail %d lost %v; ", n.name, v.role, v.term, v.lead, n.d.tail.handed, len(n.d.tail.entries), n.d.el.lost(s.now))
		} else {
			out += n.name + " down; "
		}
	}
	return out
}

// isolate cuts both directions between a node and all others.
func (s *sim) isolate(n *node, cut bool) {
	for _, m := range s.nodes {
		if m != n {
			s.links[[2]*node{n, m}].cut = cut
			s.links[[2]*node{m, n}].cut = cut
		}
	}
}

// deafen loses what others send to a node.
func (s *sim) deafen(n *node) {
	for _, m := range s.nodes {
		if m != n {
			s.links[[2]*node{m, n}].cut = true
		}
	}
}

func (s *sim) eachLink(f func(*link)) {
	for _, l := range s.links {
		f(l)
	}
}

// transmit decides the fate of a datagram or frame; false if it is lost.
func (s *sim) transmit(from, to *node, lost func(*link) bool, run func()) bool {
	l := s.links[[2]*node{from, to}]
	if !to.up || l.cut || lost(l) || (l.loss > 0 && s.rng.IntN(1000) < l.loss) {
		return false
	}
	d := l.delay
	if l.jitter > 0 {
		d += s.rng.Int64N(l.jitter)
	}
	s.after(to, d, run)
	return true
}

// open opens what is on a node's disk.
func (n *node) open() disk {
	if n.s.plain {
		n.st = n.s.state(n.mem.snap)
		return n.mem
	}
	data, err := storage.OpenData(n.fs, "/data")
	n.s.check(err)
	log, st, _, err := data.OpenLog(storage.LogOptions{SegmentBytes: 64 << 10})
	n.s.check(err)
	n.data, n.st = data, st
	return log
}

func (n *node) start() {
	s := n.s
	n.log = &slowLog{disk: n.open(), n: n}
	n.life++
	n.up, n.frozen, n.held = true, false, nil
	n.inc = s.rng.Uint64() | 1
	n.seqNo, n.seen, n.wake = 0, map[uint64]SeenEntry{}, 0
	n.lastUp = s.now
	n.received, n.asked = nil, nil
	var err error
	n.d, err = New(s.now, Config{
		ID: n.member.RaftID, Incarnation: n.inc, Log: n.log, Members: n.st.Members(),
		Beat: testBeat, Promise: testP, Lease: testL,
		OnLead: n.onLead, Random: s.rng.Int64N,
	})
	s.check(err)
	s.after(n, 0, n.turn)
	s.after(n, s.rng.Int64N(int64(testBeat)), n.sendBeat)
}

// onLead assigns the group to this node, or to the first gateway, as a new
// leader with nobody holding would.
func (n *node) onLead(int64) [][]byte {
	n.led++
	over := n.d.Overlay(n.st)
	target := n
	if n.member.Role == storage.Witness {
		target = n.s.nodes[0]
	}
	cur := over.Assignment(0)
	b, err := storage.Command{Op: storage.Assign{
		Group: 0, Node: target.member.RaftID, Incarnation: target.inc, Prev: cur.Epoch, From: cur.Node, Cause: "test",
	}}.Encode()
	n.s.check(err)
	return [][]byte{b}
}

func (n *node) sendBeat() {
	n.s.after(n, int64(testBeat), n.sendBeat)
	n.seqNo++
	b := BeatInfo{
		Node: n.member.RaftID, Incarnation: n.inc, Term: n.d.view().term,
		LeaderClaim: n.d.ClaimsLeadership(n.s.now) && !n.mute,
	}
	for _, m := range n.s.nodes {
		if e, ok := n.seen[m.member.RaftID]; ok {
			b.Seen = append(b.Seen, e)
		}
	}
	mine := SeenEntry{Node: n.member.RaftID, Incarnation: n.inc, Sequence: n.seqNo}
	for _, m := range n.s.nodes {
		if m == n {
			continue
		}
		n.s.transmit(n, m, func(l *link) bool { return l.cutBeats }, func() {
			m.seen[mine.Node] = mine
			m.d.Beat(m.s.now, b)
			m.turn()
		})
	}
}

// turn is what the owner's loop does after anything happened.
func (n *node) turn() {
	s := n.s
	n.d.Tick(s.now)
	out, err := n.d.Process(s.now)
	s.check(err)
	n.restore(out.Restored)
	for _, e := range out.Committed {
		n.apply(e)
	}
	if v := n.d.view(); v.role == leader {
		if was, ok := s.leaders[v.term]; ok && was != n.name {
			s.t.Fatalf("election safety: %s and %s lead term %d", was, n.name, v.term)
		}
		s.leaders[v.term] = n.name
	}
	for _, m := range out.Messages {
		n.sendRaft(m)
	}
	for _, m := range out.Snapshots {
		n.ship(m)
	}
	for _, r := range out.Reads {
		n.answered(r)
	}
	next := n.d.Next(s.now)
	if next <= n.wake && n.wake > s.now && next > s.now {
		next = max(next, s.now)
	}
	if n.wake <= s.now || next < n.wake {
		n.wake = next
		s.after(n, max(next-s.now, 0), func() {
			if n.wake <= s.now {
				n.turn()
			}
		})
	}
}

func (n *node) sendRaft(m Message) {
	s := n.s
	for _, to := range s.nodes {
		if to.member.RaftID != m.To {
			continue
		}
		if s.onRaft != nil {
			msg := &raftpb.Message{}
			s.check(proto.Unmarshal(m.Data, msg))
			s.onRaft(n, to, msg)
		}
		inc := n.inc
		sent := s.transmit(n, to, func(l *link) bool { return l.cutRaft }, func() {
			s.check(to.d.Step(s.now, n.member.RaftID, inc, m.Data))
			to.turn()
		})
		if !sent && s.rng.IntN(2) == 0 {
			n.d.Unreachable(m.To) // some losses are noticed
		}
	}
}

// answered checks the answer to a read: everything that any node had applied
// when it was asked is before its index.
func (n *node) answered(r Read) {
	for _, q := range n.asked {
		if q.token == r.Token {
			n.answers++
			if r.Index < q.least {
				n.s.t.Fatalf("%s reads at %d, %d was applied when it asked", n.name, r.Index, q.least)
			}
			return
		}
	}
	n.s.t.Fatalf("%s has an answer to question %d, which it did not ask", n.name, r.Token)
}

// apply checks that what this node applies is what every other applied.
func (n *node) apply(e Entry) {
	s := n.s
	sum := sha256.Sum256(e.Data)
	i := int(e.Index) - 2
	switch {
	case i < len(s.committed):
		if s.committed[i] != (commit{e.Term, sum}) {
			s.t.Fatalf("log matching: %s applies another entry %d (term %d)", n.name, e.Index, e.Term)
		}
	case i == len(s.committed):
		s.committed = append(s.committed, commit{e.Term, sum})
	default:
		s.t.Fatalf("%s applies entry %d, %d known", n.name, e.Index, len(s.committed))
	}
	var err error
	if e.Conf != nil {
		_, err = n.st.ApplyConf(e.Index, e.Term, *e.Conf, e.Data)
	} else {
		_, err = n.st.Apply(e.Index, e.Term, e.Data)
	}
	s.check(err)
	if e.Conf != nil {
		n.d.SetMembers(n.st.Members())
	}
	n.compare()
}

// compare checks that a node's state is what every other had at its index.
func (n *node) compare() {
	index, _ := n.st.Applied()
	h := n.st.Hash()
	if old, ok := n.s.hashes[index]; ok && old != h {
		n.s.t.Fatalf("state of %s at %d differs", n.name, index)
	}
	n.s.hashes[index] = h
}

// crash cuts the power of a node.
func (n *node) crash() {
	n.up = false
	n.life++
	n.log.queue = nil
	if n.mem != nil {
		n.mem.kept = 0
	}
	n.fs.Crash(vfs.CrashOptions{Rand: n.s.rng, Sectors: 0.5, Names: 0.5})
	_ = n.log.disk.Close() // ends the writer's goroutine; its disk is gone
}

// kill ends a node as its guard sees it: a crash, and an over to everybody.
func (n *node) kill() {
	inc := n.inc
	n.crash()
	for _, m := range n.s.nodes {
		if m != n {
			n.s.transmit(n, m, func(*link) bool { return false }, func() {
				m.d.Over(m.s.now, n.member.RaftID, inc)
				m.turn()
			})
		}
	}
}

// thaw ends a freeze: what arrived meanwhile is taken first (E7).
func (n *node) thaw() {
	n.frozen = false
	held := n.held
	n.held = nil
	for _, run := range held {
		run()
	}
}

func (s *sim) close() {
	for _, n := range s.nodes {
		if n.up {
			_ = n.log.disk.Close()
		}
	}
}

// propose lets the leader append something harmless.
func (s *sim) propose() error {
	l := s.leader()
	if l == nil {
		return errors.New("no leader")
	}
	var op storage.Op = storage.Maintenance{Node: l.member.RaftID, On: s.rng.IntN(2) == 0}
	if s.value > 0 {
		op = storage.Batch{Batch: &kv.Batch{Clock: s.now, MaxBytes: 1 << 30, Requests: []kv.Request{{Then: []kv.Op{
			{Kind: kv.OpPut, Bucket: "test", Key: fmt.Sprint(s.rng.IntN(10)), Value: make([]byte, s.value)},
		}}}}}
	}
	b, err := storage.Command{At: s.now, Actor: "test", Op: op}.Encode()
	s.check(err)
	if err := l.d.Propose(s.now, b); err != nil {
		return err
	}
	l.turn()
	return nil
}

// change lets the leader change the configuration.
func (s *sim) change(kind raftpb.ConfChangeType, n *node) error {
	l := s.leader()
	if l == nil {
		return errors.New("no leader")
	}
	var op storage.Op = storage.PutMember{Member: n.member}
	if kind == raftpb.ConfChangeRemoveNode {
		op = storage.RemoveMember{RaftID: n.member.RaftID}
	}
	b, err := storage.Command{At: s.now, Op: op}.Encode()
	s.check(err)
	if err := l.d.ProposeConf(s.now, kind, n.member.RaftID, b); err != nil {
		return err
	}
	l.turn()
	return nil
}

// join makes a new host with the first configuration on its disk and starts it.
func (s *sim) join(name string) *node {
	n := s.add(name)
	n.found()
	n.start()
	return n
}

// plainCluster has logs that can be compacted.
func plainCluster(t *testing.T, seed uint64, names ...string) *sim {
	t.Helper()
	s := found(t, seed, true, names)
	t.Cleanup(s.close)
	return s
}

func cluster(t *testing.T, seed uint64, names ...string) *sim {
	t.Helper()
	s := newSim(t, seed, names...)
	t.Cleanup(s.close)
	return s
}
