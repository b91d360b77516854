// Package quorum drives raft: it feeds one raft node with messages, beats and
// time, decides when to campaign, and hands out what to send, store and apply.
//
// raft elects and replicates; it never decides who holds an address. The
// election rules E1-E8 of the protocol live here because raft alone would wait
// for its randomized timeout, and would refuse votes while a leader that it
// still knows has been lost.
//
// A Driver has no goroutine, no clock and no socket. One goroutine owns it and
// passes the time. The only thing that comes from elsewhere is the end of a
// write to the log, as a value in the channel Durable.
//
// The order of a turn of the owner's loop: take what has happened (Persisted,
// Over, Beat, Step, StepSnapshot, Propose, ReadIndex), Tick, Process, take over
// a restored state, apply every committed entry, send every message, sleep
// until Next.
//
// Snapshots travel outside of the Driver: it says to whom one must go, and the
// receiver passes the message that went with it to StepSnapshot once it has the
// whole state.
package quorum

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/storage"
)

// Limits of raft and of the Driver.
const (
	maxWrites      = 512      // writes that wait for the disk
	maxWriting     = 32 << 20 // bytes of them, half of what the wal queues
	maxBytesApp    = 512 << 10
	maxBytesApply  = 8 << 20
	maxInflight    = 256      // messages on their way to one node
	maxFlying      = 32 << 20 // bytes of them
	maxUncommitted = 64 << 20
	maxReads       = 4096 // reads a leader has not yet answered
	// stuckFloor is the least time after which a write counts as stuck (E8).
	stuckFloor = time.Second
)

// Log is what a Driver needs of storage.Log.
type Log interface {
	raft.Storage
	// Save makes a change durable and calls done, from any goroutine, in the
	// order of the calls.
	Save(hs *raftpb.HardState, entries []*raftpb.Entry, done func(error))
	// KeepCommit remembers a commit index for the next Save.
	KeepCommit(commit uint64)
	// Install replaces the log by a snapshot whose state is stored already: it
	// goes on behind the snapshot. The next Save makes that durable. release
	// gives back what the old log holds on the disk.
	Install(snap *raftpb.Snapshot) (release func() error)
}

// Config is what a Driver is made of. Every field but Logger is needed.
type Config struct {
	ID          uint64 // raft id of this node
	Incarnation uint64 // of this worker
	Log         Log
	Members     []storage.Member // committed members: names, priorities and roles
	Beat        time.Duration    // also raft's tick
	Promise     time.Duration    // P
	Lease       time.Duration    // L
	// OnLead is called when this node has become leader, before its first
	// entry leaves; the commands it returns go into the same batch (E5). It
	// decides from Overlay.
	OnLead func(now int64) [][]byte
	// Random returns a number in [0, n), n > 0.
	Random func(n int64) int64
	Logger *slog.Logger
}

func (c Config) validate() error {
	switch {
	case !storage.ValidRaftID(c.ID) || c.Incarnation == 0:
		return fmt.Errorf("node %x incarnation %x: not an identity", c.ID, c.Incarnation)
	case c.Log == nil || c.OnLead == nil || c.Random == nil:
		return errors.New("log, OnLead and Random are needed")
	case c.Beat <= 0 || c.Promise < 2*c.Beat || c.Lease <= 0:
		return fmt.Errorf("beat %s, promise %s, lease %s: want promise of at least two beats", c.Beat, c.Promise, c.Lease)
	}
	return nil
}

// Errors of Propose, ProposeConf, ReadIndex and Transfer.
var (
	// ErrNotLeader: only the leader proposes; Status names it.
	ErrNotLeader = errors.New("not the leader")
	// ErrNoLeader: no leader is known.
	ErrNoLeader = errors.New("no leader is known")
	// ErrBusy: too much is uncommitted or asked, a write is stuck, a transfer
	// runs, or a change of configuration is not yet applied.
	ErrBusy = errors.New("refused for now")
)

// BeatInfo is what the election rules need of a beat.
type BeatInfo struct {
	Node, Incarnation uint64
	Term              uint64
	LeaderClaim       bool
	Seen              []SeenEntry // newest sequence its sender has seen of each node
}

// SeenEntry is one node's newest beat as another has seen it.
type SeenEntry struct {
	Node, Incarnation, Sequence uint64
}

// Completion says that a write to the log has ended.
type Completion struct {
	token uint64
	err   error
}

// write is one call of Log.Save that has not ended, and what depends on it.
type write struct {
	token     uint64
	since     int64
	bytes     int
	responses []*raftpb.Message
}

// early is a pre-vote that came before the news that its sender already had.
type early struct {
	m           *raftpb.Message
	incarnation uint64
	at          int64
}

// peer is what the leader knows of a node's answers (E6).
type peer struct {
	asked    int64 // oldest heartbeat without an answer, 0 if none
	answered int64 // last answer
	took     time.Duration
	told     uint64 // commit index that appends have carried to it
}

// Driver drives one raft node. See the package comment for the rules of use.
type Driver struct {
	cfg  Config
	log  *slog.Logger
	rn   *raft.RawNode
	el   *election
	conf storage.Conf

	members map[uint64]storage.Member
	voter   bool   // in the applied configuration
	abstain bool   // G6, said by the owner
	full    bool   // no room to store entries, said by the owner
	room    int64  // bytes that others may send yet, said by the owner
	posing  uint64 // index of the snapshot that named this node only to raft
	posed   bool   // it was taken, and the node's own change is not yet applied

	turn  int64 // last call
	epoch int64 // start, tick intervals count from here
	slot  int64 // last interval that had its tick (E7)

	done   chan Completion
	token  uint64
	writes []write
	// writing is the sum of bytes in writes.
	writing int
	stored  view   // term and vote as given to the log
	known   uint64 // committed at the start
	confNew bool   // a change was applied, and that it is committed is not yet written
	failed  error

	outbox   []outgoing
	shipping []SnapshotOut
	tail     tail
	began    bool   // became leader, OnLead not yet called
	led      int64  // since when this node leads
	opened   uint64 // index of the first entry of its leadership
	confAt   uint64 // newest index at which its log may hold a configuration change
	reading  int    // reads of its leadership without an answer

	early    map[uint64]early
	peers    map[uint64]*peer
	held     map[uint64]notice
	transfer transfer
	reported view
	dropped  uint64
}

// New returns a Driver over an opened log. Process then hands out every entry
// that was committed before, from the one behind the log's snapshot on, in
// order.
func New(now int64, cfg Config) (*Driver, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	hs, cs, err := cfg.Log.InitialState()
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	t, err := loadTail(cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		// The log may begin before its snapshot, for the sake of followers
		// that are behind; the state is the snapshot's.
		ID: cfg.ID, Storage: cfg.Log, Applied: t.handed, AsyncStorageWrites: true,
		// E: PreVote, CheckQuorum, tick = beat; raft's own timeout is only a
		// fallback.
		PreVote: true, CheckQuorum: true,
		HeartbeatTick: 1, ElectionTick: int(2 * cfg.Promise / cfg.Beat),
		MaxSizePerMsg: maxBytesApp, MaxCommittedSizePerReady: maxBytesApply,
		MaxUncommittedEntriesSize: maxUncommitted, MaxInflightMsgs: maxInflight, MaxInflightBytes: maxFlying,
		DisableProposalForwarding: true, StepDownOnRemoval: true,
		Logger: raftLogger{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	d := &Driver{
		cfg: cfg, log: cfg.Logger, rn: rn,
		el:   newElection(now, cfg.ID, cfg.Beat, cfg.Promise, cfg.Random),
		turn: now, epoch: now,
		done:   make(chan Completion, maxWrites),
		stored: view{term: hs.GetTerm(), vote: hs.GetVote()}, known: hs.GetCommit(),
		early: map[uint64]early{}, peers: map[uint64]*peer{}, held: map[uint64]notice{}, room: math.MaxInt64,
		members: map[uint64]storage.Member{}, tail: t,
	}
	d.setConf(storage.ConfOf(cs))
	d.SetMembers(cfg.Members)
	d.el.last = d.view()
	d.reported = d.view()
	return d, nil
}

// Durable carries the ends of writes. The owner receives from it and passes
// each value to Persisted. It never blocks the log.
func (d *Driver) Durable() <-chan Completion { return d.done }

// SetMembers takes the committed members after they changed: their priorities
// and roles order the elections (E4), and only their raft ids are listened to.
func (d *Driver) SetMembers(members []storage.Member) {
	clear(d.members)
	for _, m := range members {
		d.members[m.RaftID] = m
	}
	d.el.setMembers(d.conf, members)
}

func (d *Driver) setConf(conf storage.Conf) {
	d.conf = conf
	d.voter = conf.Voter(d.cfg.ID)
	members := make([]storage.Member, 0, len(d.members))
	for _, m := range d.members {
		members = append(members, m)
	}
	d.el.setMembers(conf, members)
	maps.DeleteFunc(d.peers, func(id uint64, _ *peer) bool { return !conf.Contains(id) })
}

// SetAbstain makes the node neither vote nor campaign (G6), or ends that. It
// still stores and acknowledges entries. A node that is no voter under its
// raft id abstains by itself.
func (d *Driver) SetAbstain(on bool) { d.abstain = on }

func (d *Driver) abstains() bool { return d.abstain || !d.voter }

// votes reports whether the node answers who asks for its vote. A learner does:
// only a node that has applied a committed configuration in which this one
// votes asks it, and it may need that vote to pass on the very news.
func (d *Driver) votes() bool { return !d.abstain && d.conf.Contains(d.cfg.ID) }

// SetStoring tells whether there is room to store what others send. Without it
// the node drops entries and snapshots as if they were lost on the way, so that
// it stays behind and nothing is lost, and it does not campaign. It still
// votes, answers heartbeats, and stores what it proposes itself.
func (d *Driver) SetStoring(on bool) { d.full, d.room = !on, math.MaxInt64 }

// SetRoom is SetStoring for as many bytes as the log has room for; once others
// have sent that much, the node stores no more until it is called again.
func (d *Driver) SetRoom(bytes int64) {
	d.room = bytes - int64(d.writing)
	d.full = d.room <= 0
}

// fits takes the room that an append needs on disk, generously counted, and
// tells whether there was that much.
func (d *Driver) fits(m *raftpb.Message) bool {
	if d.room == math.MaxInt64 || len(m.GetEntries()) == 0 {
		return true
	}
	need := int64(8 << 10)
	for _, e := range m.GetEntries() {
		need += int64(len(e.GetData())+len(e.GetData())/16) + 128
	}
	d.room -= need
	d.full = d.full || d.room < 0
	return !d.full
}

// SetLatency takes the measured p99 of a round trip to the other voters and of
// a sync of the log. They lengthen waits, never shorten them (E3).
func (d *Driver) SetLatency(rtt, fsync time.Duration) { d.el.rtt, d.el.fsync = rtt, fsync }

// Stalled restarts the miss timers (E7): after a start, a resume, or more than
// two beats between two turns of the owner's loop, once its sockets are
// drained. Every method notices a gap between calls by itself.
func (d *Driver) Stalled(now int64) {
	d.turn = now
	d.el.stalled(now)
}

// at notes the time of a call and applies E7 to a gap.
func (d *Driver) at(now int64) {
	if now-d.turn > 2*int64(d.cfg.Beat) {
		d.el.stalled(now)
	}
	d.turn = max(d.turn, now)
}

// Tick lets time act. Call it every turn; raft gets at most one tick for each
// interval of a beat, and the intervals that were missed are dropped (E7).
func (d *Driver) Tick(now int64) {
	d.at(now)
	if slot := (now - d.epoch) / int64(d.cfg.Beat); slot > d.slot {
		d.slot = slot
		d.raftTick(now)
	}
	d.watchTransfer(now)
	d.elect(now)
}

// raftTick passes a tick to raft. raft's own campaign is a fallback for a fault
// in our rules; it must not break them: not while E3 holds it back, not before
// a witness's turn, never while abstaining.
func (d *Driver) raftTick(now int64) {
	v := d.view()
	if v.role != leader {
		rank, _ := d.el.rank()
		if d.abstains() || d.full || now < d.el.guard || (rank < 0 && now < d.el.dueAt()) {
			return
		}
	}
	d.rn.Tick()
	d.observe(now, 0, 0)
}

// Step takes a raft message from a peer. Messages of an incarnation that is
// over (E2) and of nodes that are not members are dropped without error.
// ErrFrame: the peer speaks something else.
func (d *Driver) Step(now int64, from, incarnation uint64, data []byte) error {
	d.at(now)
	m, err := decodeFrame(d.cfg.ID, from, data)
	if err == nil && m.GetType() == raftpb.MsgSnap {
		err = fmt.Errorf("%w: a snapshot without its state", ErrFrame)
	}
	if err != nil {
		d.dropped++
		return fmt.Errorf("take message of node %x: %w", from, err)
	}
	if !d.listens(m, incarnation) || !d.takes(m) {
		d.dropped++
		return nil
	}
	d.note(now, m)
	d.step(now, m, incarnation)
	d.elect(now)
	return nil
}

// listens reports whether a message counts at all.
func (d *Driver) listens(m *raftpb.Message, incarnation uint64) bool {
	from := m.GetFrom()
	if d.el.isOver(from, incarnation) {
		return false // E2
	}
	if isVote(m) && !d.votes() || m.GetType() == raftpb.MsgTimeoutNow && d.abstains() {
		return false // G6
	}
	// A leader may be known to all but us: we apply its joining from what it
	// sends. Nobody else may be unknown.
	_, member := d.members[from]
	return member || d.conf.Contains(from) || fromLeader(m)
}

// takes reports whether this node does now what a message asks for.
func (d *Driver) takes(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgTimeoutNow:
		// Empty appends too: the leader goes on with them alone once the
		// window is full, and would send entries again after an answer.
		return !d.full && d.fits(m)
	case raftpb.MsgReadIndex:
		return d.takesRead()
	case raftpb.MsgAppResp:
		return !d.emptyAnswer(m)
	}
	return true
}

// emptyAnswer tells the answer that raft gives to a message of an older term: it
// names nothing that is stored, and is meant to end the leadership of that term
// alone. A leader of the present one that has no other answer yet would begin at
// index 1, before any log, and ask for a snapshot that may never have been
// written.
func (d *Driver) emptyAnswer(m *raftpb.Message) bool {
	v := d.view()
	return v.role == leader && m.GetTerm() <= v.term && m.GetIndex() == 0 && !m.GetReject()
}

// step gives one message to raft under the rules E2 and E4.
func (d *Driver) step(now int64, m *raftpb.Message, incarnation uint64) {
	if isVote(m) {
		d.beforeVote(now, m, incarnation)
	}
	older := m.GetType() == raftpb.MsgPreVote && d.view().lead == 0 && d.tail.newerThan(m.GetLogTerm(), m.GetIndex())
	if err := d.rn.Step(m); err != nil {
		d.log.Debug("raft took no message", "from", m.GetFrom(), "type", m.GetType().String(), "err", err)
	}
	d.observe(now, m.GetFrom(), incarnation)
	if older && d.view().lead == 0 {
		d.el.urgent = true // E4: our log is newer, so we go first
	}
}

// beforeVote forgets a lost leader (E2), which its late heartbeats may have
// brought back. While the leader is not lost, raft will ignore the request; a
// pre-vote is kept for a moment, since the news that its sender acts on may
// reach us just behind it.
func (d *Driver) beforeVote(now int64, m *raftpb.Message, incarnation uint64) {
	if d.el.lost(now) {
		d.forgetLeader()
		return
	}
	if m.GetType() == raftpb.MsgPreVote {
		d.early[m.GetFrom()] = early{m: m, incarnation: incarnation, at: now}
	}
}

// forgetLeader makes raft forget the leader it knows (E2).
func (d *Driver) forgetLeader() {
	if v := d.view(); v.role == follower && v.lead != 0 {
		_ = d.rn.ForgetLeader() // fails only with lease-based reads
	}
}

// note keeps what E6 asks about a peer's answers.
func (d *Driver) note(now int64, m *raftpb.Message) {
	if t := m.GetType(); t != raftpb.MsgAppResp && t != raftpb.MsgHeartbeatResp {
		return
	}
	p := d.peer(m.GetFrom())
	p.answered = now
	if m.GetType() == raftpb.MsgHeartbeatResp && p.asked != 0 {
		p.took = time.Duration(now - p.asked)
		p.asked = 0
	}
}

func (d *Driver) peer(id uint64) *peer {
	p := d.peers[id]
	if p == nil {
		p = &peer{}
		d.peers[id] = p
	}
	return p
}

// Beat takes a beat of another node (E1).
func (d *Driver) Beat(now int64, b BeatInfo) {
	d.at(now)
	d.el.beatInfo(now, b, d.view().term)
	d.elect(now)
}

// Over takes a verified note that an incarnation has ended. If it was the
// leader's, the leader is lost at once (E1), and nothing it still sends is
// taken (E2). A release is no over and deposes nobody.
func (d *Driver) Over(now int64, node, incarnation uint64) {
	d.at(now)
	if node == d.cfg.ID {
		return
	}
	if d.el.overNote(now, node, incarnation) {
		d.log.Info("leader is over", "node", node, "incarnation", incarnation)
	}
	d.elect(now)
}

// Unreachable tells raft that a message to a node was not sent.
func (d *Driver) Unreachable(to uint64) { d.rn.ReportUnreachable(to) }

// elect acts on the election rules.
func (d *Driver) elect(now int64) {
	v := d.view()
	if v.role == leader || d.failed != nil {
		return
	}
	if d.el.lost(now) {
		d.forgetLeader() // E2
		d.stepEarly(now)
	}
	// A node that cannot store must not make others vote for it (E8).
	if !d.abstains() && !d.full && d.el.mayCampaign(now, d.view()) && !d.stuck(now) {
		d.el.campaigned(now)
		if err := d.rn.Campaign(); err != nil {
			d.log.Warn("campaign refused by raft", "err", err)
		}
		d.observe(now, 0, 0)
	}
}

// stepEarly takes the pre-votes that came just before the leader was lost. An
// older one is repeated by its sender.
func (d *Driver) stepEarly(now int64) {
	for _, id := range slices.Sorted(maps.Keys(d.early)) {
		e := d.early[id]
		delete(d.early, id)
		if now-e.at <= int64(max(d.cfg.Beat, 2*d.el.rtt)) && d.listens(e.m, e.incarnation) {
			d.step(now, e.m, e.incarnation)
		}
	}
}

// view reads raft's state.
func (d *Driver) view() view {
	s := d.rn.BasicStatus()
	v := view{term: s.GetTerm(), vote: s.GetVote(), lead: s.Lead}
	switch s.RaftState {
	case raft.StateLeader:
		v.role = leader
	case raft.StateCandidate:
		v.role = candidate
	case raft.StatePreCandidate:
		v.role = preCandidate
	}
	return v
}

// observe follows raft after anything that may have changed it.
func (d *Driver) observe(now int64, from, incarnation uint64) {
	v := d.view()
	was := d.el.last
	if v == was {
		return
	}
	if v.role == leader && (was.role != leader || was.term != v.term) {
		d.began = true
		d.led = now
		d.confAt, _ = d.tail.last()
		d.opened = d.confAt + 1
		d.reading = 0
		d.tail.lead(v.term)
		clear(d.peers)
	}
	if v.role != leader {
		d.began = false
		d.transfer = transfer{}
	}
	if v.lead == d.cfg.ID {
		from, incarnation = d.cfg.ID, d.cfg.Incarnation
	}
	d.el.observe(now, v, from, incarnation)
}

// Propose appends commands to the log, all or none, in their order. Errors:
// ErrNotLeader, ErrBusy. Success does not mean that they will be committed.
func (d *Driver) Propose(now int64, commands ...[]byte) error {
	d.at(now)
	return d.propose(now, commands)
}

func (d *Driver) propose(now int64, commands [][]byte) error {
	v := d.view()
	if v.role != leader {
		return fmt.Errorf("propose: %w (leader is %x)", ErrNotLeader, v.lead)
	}
	if d.stuck(now) {
		return fmt.Errorf("propose: %w: a write has waited since %d", ErrBusy, d.writes[0].since)
	}
	if len(commands) == 0 {
		return nil
	}
	// One message of raft for all of them: an append for each would go to
	// each follower.
	m := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(d.cfg.ID), Entries: make([]*raftpb.Entry, len(commands))}
	for i, data := range commands {
		if len(data) == 0 || len(data) > storage.MaxEntry {
			invariant.Check(false, "proposal of %d bytes, want 1 to %d", len(data), storage.MaxEntry)
		}
		m.Entries[i] = &raftpb.Entry{Data: data}
	}
	if err := d.rn.Step(m); err != nil {
		return fmt.Errorf("propose: %w: %w", ErrBusy, err)
	}
	for _, data := range commands {
		d.tail.proposed(v.term, raftpb.EntryNormal, data)
	}
	return nil
}

// stuck reports whether the oldest write has waited too long (E8).
func (d *Driver) stuck(now int64) bool {
	return len(d.writes) > 0 && now-d.writes[0].since >= int64(max(d.cfg.Lease, stuckFloor))
}

// ClaimsLeadership is the leader claim for this node's beats: it leads and can
// store (E8).
func (d *Driver) ClaimsLeadership(now int64) bool {
	return d.failed == nil && d.view().role == leader && !d.stuck(now)
}
