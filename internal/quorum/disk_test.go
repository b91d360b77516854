package quorum

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/storage"
)

// disk is a log that does everything at once; slowLog puts time in front of it.
type disk interface {
	Log
	Close() error
}

var _ disk = (*storage.Log)(nil)

// op is a call to the disk that waits for those before it, and if it is a write
// for the disk too.
type op struct {
	run   func()
	write bool
}

// slowLog gives writes to the disk only when virtual time says that it is done,
// so that a crash loses what was not yet synced.
type slowLog struct {
	disk
	n       *node
	queue   []op
	install *raftpb.Snapshot // goes before the next write
	stuck   bool
}

func (l *slowLog) Save(hs *raftpb.HardState, entries []*raftpb.Entry, done func(error)) {
	snap := l.install
	l.install = nil
	l.queue = append(l.queue, op{write: true, run: func() {
		release := func() error { return nil }
		if snap != nil {
			release = l.disk.Install(snap)
		}
		end := make(chan error, 1)
		l.disk.Save(hs, entries, func(err error) { end <- err })
		done(<-end)
		l.n.s.check(release())
		c := <-l.n.d.Durable()
		if err := l.n.d.Persisted(l.n.s.now, c); err != nil {
			l.n.s.t.Fatalf("node %s: %v", l.n.name, err)
		}
	}})
	l.n.s.after(l.n, l.n.s.fsync, l.run)
}

// Install is kept back like a write; the Save that follows it carries it out.
func (l *slowLog) Install(snap *raftpb.Snapshot) func() error {
	l.install = snap
	return func() error { return nil }
}

// run ends the oldest write.
func (l *slowLog) run() {
	if l.stuck || len(l.queue) == 0 {
		return
	}
	first := l.queue[0]
	l.queue = l.queue[1:]
	first.run()
	for len(l.queue) > 0 && !l.queue[0].write {
		next := l.queue[0]
		l.queue = l.queue[1:]
		next.run()
	}
	l.n.turn()
}

// behind runs what is no write behind the writes that are under way.
func (l *slowLog) behind(run func()) {
	if len(l.queue) == 0 {
		run()
		return
	}
	l.queue = append(l.queue, op{run: run})
}

func (l *slowLog) KeepCommit(commit uint64) {
	l.behind(func() { l.disk.KeepCommit(commit) })
}

// memDisk is a log in memory whose every Save is durable at once. Its snapshot
// may lie behind its first entry, as that of storage.Log.
type memDisk struct {
	snap    *raftpb.Snapshot
	base    uint64 // index before the first entry
	term    uint64 // of base
	entries []*raftpb.Entry
	hard    raftpb.HardState
	kept    uint64 // commit index that the next Save writes
}

func newMemDisk(snap *raftpb.Snapshot) *memDisk {
	m := &memDisk{}
	m.Install(snap)
	return m
}

func (m *memDisk) Close() error { return nil }

func (m *memDisk) last() uint64 { return m.base + uint64(len(m.entries)) }

func (m *memDisk) Save(hs *raftpb.HardState, entries []*raftpb.Entry, done func(error)) {
	if !raft.IsEmptyHardState(hs) {
		m.hard = raftpb.HardState{Term: hs.Term, Vote: hs.Vote, Commit: hs.Commit}
	}
	m.hard.Commit = new(max(m.hard.GetCommit(), m.kept))
	if len(entries) > 0 {
		from := entries[0].GetIndex()
		if from <= m.snap.GetMetadata().GetIndex() || from > m.last()+1 {
			panic("entries outside of the log")
		}
		n := from - m.base - 1
		m.entries = append(m.entries[:n], entries...) // Entries gives out copies
	}
	done(nil)
}

func (m *memDisk) KeepCommit(commit uint64) { m.kept = commit }

func (m *memDisk) Install(snap *raftpb.Snapshot) func() error {
	m.snap = proto.Clone(snap).(*raftpb.Snapshot)
	m.base, m.term, m.entries = snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm(), nil
	m.hard.Term = new(max(m.hard.GetTerm(), m.term))
	m.hard.Commit = new(max(m.hard.GetCommit(), m.base))
	return func() error { return nil }
}

// compact makes snap the log's snapshot and keeps some entries before it.
func (m *memDisk) compact(snap *raftpb.Snapshot, keep uint64) {
	index := snap.GetMetadata().GetIndex()
	if index <= m.snap.GetMetadata().GetIndex() {
		return
	}
	base := max(m.base, index-min(keep, index))
	m.term = m.termAt(base)
	m.entries = slices.Clone(m.entries[base-m.base:])
	m.snap, m.base = proto.Clone(snap).(*raftpb.Snapshot), base
	m.hard.Commit = new(max(m.hard.GetCommit(), index))
}

func (m *memDisk) termAt(i uint64) uint64 {
	if i == m.base {
		return m.term
	}
	return m.entries[i-m.base-1].GetTerm()
}

func (m *memDisk) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return &raftpb.HardState{Term: m.hard.Term, Vote: m.hard.Vote, Commit: m.hard.Commit},
		proto.Clone(m.snap.GetMetadata().GetConfState()).(*raftpb.ConfState), nil
}

func (m *memDisk) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= m.base {
		return nil, raft.ErrCompacted
	}
	if hi > m.last()+1 {
		return nil, raft.ErrUnavailable
	}
	out, size := m.entries[lo-m.base-1:hi-m.base-1], uint64(0)
	for i, e := range out {
		if size += uint64(proto.Size(e)); i > 0 && size > maxSize {
			out = out[:i]
			break
		}
	}
	return slices.Clone(out), nil
}

func (m *memDisk) Term(i uint64) (uint64, error) {
	switch {
	case i < m.base:
		return 0, raft.ErrCompacted
	case i > m.last():
		return 0, raft.ErrUnavailable
	}
	return m.termAt(i), nil
}

func (m *memDisk) LastIndex() (uint64, error)  { return m.last(), nil }
func (m *memDisk) FirstIndex() (uint64, error) { return m.base + 1, nil }
func (m *memDisk) Snapshot() (*raftpb.Snapshot, error) {
	return proto.Clone(m.snap).(*raftpb.Snapshot), nil
}

// The data of a snapshot in these tests is the state itself, behind its index.

func (s *sim) snapshotOf(st *storage.State) *raftpb.Snapshot {
	f := st.Freeze()
	b := bytes.NewBuffer(binary.BigEndian.AppendUint64(nil, f.Index()))
	s.check(f.Encode(b))
	conf := f.Conf()
	return &raftpb.Snapshot{Data: b.Bytes(), Metadata: &raftpb.SnapshotMetadata{
		Index: new(f.Index()), Term: new(f.Term()),
		ConfState: &raftpb.ConfState{Voters: conf.Voters, Learners: conf.Learners, VotersOutgoing: conf.Outgoing},
	}}
}

func (s *sim) state(snap *raftpb.Snapshot) *storage.State {
	if snap.GetMetadata().GetIndex() == storage.FirstIndex {
		return storage.NewState(s.first)
	}
	b := snap.GetData()
	if binary.BigEndian.Uint64(b) != snap.GetMetadata().GetIndex() {
		s.t.Fatalf("snapshot at %d holds the state at %d", snap.GetMetadata().GetIndex(), binary.BigEndian.Uint64(b))
	}
	st, err := storage.DecodeState(bytes.NewReader(b[8:]))
	s.check(err)
	return st
}

// compact writes a snapshot of a node's state, which takes a while, and then
// cuts its log; a memDisk keeps so many entries before it.
func (n *node) compact(keep uint64) {
	if index, _ := n.st.Applied(); index == storage.FirstIndex {
		return
	}
	var follow func()
	if n.mem != nil {
		snap := n.s.snapshotOf(n.st)
		follow = func() { n.mem.compact(snap, keep) }
	} else {
		frozen := n.st.Freeze()
		follow = func() {
			meta, err := n.data.Snapshots().Write(context.Background(), frozen)
			n.s.check(err)
			n.s.check(n.log.disk.(*storage.Log).Compact(meta)())
		}
	}
	// A log that is being replaced has its turn first.
	n.s.after(n, n.s.fsync, func() { n.log.behind(follow) })
}

// shipLimit is when the sender of a snapshot gives up.
const shipLimit = 300 * ms

// ship brings a snapshot to another node, or fails to.
func (n *node) ship(out SnapshotOut) {
	s := n.s
	done := false
	finish := func(ok bool) {
		if !done {
			done = true
			n.d.SnapshotDone(s.now, out.To, ok)
			n.turn()
		}
	}
	s.after(n, shipLimit, func() { finish(false) })
	m := &raftpb.Message{}
	s.check(proto.Unmarshal(out.Message, m))
	if got := m.GetSnapshot().GetMetadata().GetIndex(); got != out.Index || m.GetTo() != out.To {
		s.t.Fatalf("snapshot %d for %x goes as %d for %x", out.Index, out.To, got, m.GetTo())
	}
	file := n.file(out.Index)
	inc := n.inc
	for _, to := range s.nodes {
		if to.member.RaftID != out.To {
			continue
		}
		if s.onRaft != nil {
			s.onRaft(n, to, m)
		}
		s.transmit(n, to, func(l *link) bool { return l.cutRaft }, func() {
			s.after(to, s.rng.Int64N(20*ms), func() {
				to.receive(m.GetSnapshot(), file)
				s.check(to.d.StepSnapshot(s.now, n.member.RaftID, inc, out.Message))
				to.turn()
				s.transmit(to, n, func(l *link) bool { return l.cutRaft }, func() { finish(true) })
			})
		})
	}
}

// file reads a snapshot to be sent.
func (n *node) file(index uint64) []byte {
	if n.mem != nil {
		return nil // it is in the message
	}
	f, err := n.data.Snapshots().Open(index)
	n.s.check(err)
	b := make([]byte, f.Size())
	_, err = f.ReadAt(b, 0)
	n.s.check(err)
	n.s.check(f.Close())
	return b
}

// receive takes what was sent.
func (n *node) receive(snap *raftpb.Snapshot, file []byte) {
	if n.mem != nil {
		n.received = n.s.state(snap)
		return
	}
	meta, err := storage.DecodeSnapshotMeta(snap.GetData())
	n.s.check(err)
	r, err := n.data.Snapshots().Receive(meta)
	n.s.check(err)
	at := r.Offset()
	n.s.check(r.Write(at, file[at:]))
	n.received, err = r.Finish(context.Background())
	n.s.check(err)
}

// restore puts a received state into force.
func (n *node) restore(r *Restored) {
	if r == nil {
		return
	}
	if n.received == nil {
		n.s.t.Fatalf("%s restores %d without a state", n.name, r.Index)
	}
	n.st, n.received = n.received, nil
	n.restored++
	index, term := n.st.Applied()
	conf, _ := n.st.Conf()
	if index != r.Index || term != r.Term || !slices.Equal(conf.Voters, r.Conf.Voters) || !slices.Equal(conf.Learners, r.Conf.Learners) {
		n.s.t.Fatalf("%s restores %+v with the state at %d term %d of %+v", n.name, r, index, term, conf)
	}
	if int(index)-2 >= len(n.s.committed) || n.s.committed[index-2].term != term {
		n.s.t.Fatalf("%s restores %d term %d, which was never committed", n.name, index, term)
	}
	n.d.SetMembers(n.st.Members())
	n.compare()
}
