// Package node wires a node together: it is the one place where the parts
// meet. What they decide is theirs; here it is only passed on, in one
// direction. Flow 1: beat -> lease -> deadline in the gate -> announcement.
// Flow 2: propose -> log -> peers -> apply.
package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/internal/clock"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/hooks"
	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/internal/membership"
	"github.com/holdfast-ha/holdfast/internal/placement"
	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/vip"
	"github.com/holdfast-ha/holdfast/wal"
)

// worker is the state of the loop, and belongs to it; what other goroutines
// touch says so.
type worker struct {
	cfg      *config.Config
	source   string
	version  string
	log      *slog.Logger
	limited  *limitedLogger
	level    *slog.LevelVar
	clk      clock.Source
	timing   lease.Timing
	self     config.Member
	selfName string // also read by other goroutines, never changed
	key      ed25519.PrivateKey
	rid, inc uint64
	started  time.Time
	// stopCtx ends with the worker: every goroutine's life is bounded by it.
	stopCtx context.Context

	host   Host
	link   Link
	gate   Gate // nil on a witness, which never holds
	vips   VIPs // nil on a witness
	mesh   Mesh
	hooks  Hooks
	data   *storage.Data
	peers  map[string]*peer
	ifaces *interfaces

	// From the founding on.
	raftLog  *storage.Log
	recovery wal.Recovery
	state    *storage.State
	raft     *quorum.Driver
	voter    *lease.Voter
	holder   *lease.Holder
	tracker  *placement.Tracker
	notes    notebook

	replayTo      uint64 // last index that was committed before this start, 0 once applied
	grantFrom     uint64 // last index at this start; no grants before it is applied, 0 once it is
	groupsSettled int64  // since when a majority has applied it, as the leader sees it

	groups       []*group
	leaving      []*group
	forwarding   map[int]uint16
	addressFault map[uint16]addressFault
	addresses    Queue // of what sets and removes
	present      map[netip.Addr]bool
	// committedVIPs and their groups; gated has those in the gate's table,
	// which are more while removals run.
	committedVIPs, gated map[netip.Addr]uint16
	retiring             map[netip.Addr]uint64 // the latest removal of each address on its way out
	retirement           uint64
	gateLost             string
	fenced               bool
	macs                 [][6]byte
	moves                *moves
	orders               []transport.Order
	refusals             map[lease.RefusalReason]uint64

	waitsFor  []waitFor
	stranger  string
	evidence  []string // labels of data that were set aside here
	hadData   bool     // what this node had of a cluster was set aside, now or before
	saidUsed  bool
	saidReady bool
	gateMode  string

	sequence                uint64
	nextBeat                int64
	nextReport, nextLatency int64
	shortenAt               int64 // when a shorter promise may be stored (G2), 0 = not
	beatNow                 bool
	hangLimit               time.Duration
	testified               bool
	nextTestify             int64 // when to ask again for an acknowledgement
	lastTurn                int64
	stalls                  uint64

	// The buckets, and what keeps their copies equal (flow 2).
	snaps          *storage.Snapshots
	shipping       *shipping
	placementNews  bool // placement has heard something since it was asked
	nextPlace      int64
	members        memberships
	ledSince       int64
	received       *storage.State // of a snapshot that raft has not yet taken
	receivedAt     int64
	unstored       int    // snapshots in force that the log on disk does not follow yet
	storedConfig   uint64 // configuration that was applied before them
	snapshotting   bool
	nextSnapshot   int64
	writes         *writes
	reads          *reads
	replies        map[string][]byte // answers to writes of others, by member
	dataChanged    bool              // since the last view
	clockBase      int64             // committed clock at clockAt
	clockAt        int64
	nextExpire     int64
	disk           disk
	events         []event
	eventAsked     bool
	nextEvent      int64
	comparing      *comparison
	earlyHashes    map[string]earlyHash
	checkpointed   uint64
	nextCheckpoint int64
	setAsideAtEnd  string
	keptWrong      error // the data that was to be set aside could not be

	asks      map[uint64]waiting
	askID     uint64
	proposals map[uint64]proposal
	switches  []switching
	regroups  []regroup

	stopping bool
	stopped  stopState
	cancel   context.CancelFunc // of stopCtx
	exit     *error             // set once: why the loop ends

	drained []work // taken from the inbox, of this turn

	// Shared with other goroutines.
	inbox      chan work
	ended      chan struct{}
	lost       atomic.Uint64 // work that found the inbox full
	ungated    atomic.Bool   // some interface is without its gate
	jobs       sync.WaitGroup
	slots      chan struct{} // bounds background work
	eventMu    sync.Mutex
	peerEvents []transport.PeerEvent
	helloMu    sync.Mutex
	helloNow   transport.Hello
	report     atomic.Pointer[status.Report]
	view       atomic.Pointer[published]
	buckets    atomic.Pointer[[]string]
	metrics    *status.Metrics
	fsyncs     latencies
	// refusedNow and droppedNow are made anew now and then and never changed
	// afterwards: reports that other goroutines read share them.
	refusedNow, droppedNow map[string]uint64
	nextCounters           int64
	hashOf                 uint64 // applied index of hashText
	hashText               string
	statusOn               *statusPort
}

// maxBackground bounds the short jobs that run beside the loop.
const maxBackground = 32

func newWorker(ctx context.Context, o Options) *worker {
	w := &worker{
		cfg: o.Config, source: o.Source, version: o.Version, log: o.Logger, level: o.Level,
		limited: newLimitedLogger(o.Logger), timing: o.Config.Timing.Timing,
		self: o.Config.Self(), selfName: o.Config.Node.Name, inc: o.Incarnation, gateMode: o.GateMode,
		hangLimit:    guard.HangLimit(o.Config.Timing.Promise),
		peers:        map[string]*peer{},
		forwarding:   map[int]uint16{},
		addressFault: map[uint16]addressFault{},
		present:      map[netip.Addr]bool{},
		gated:        map[netip.Addr]uint16{},
		retiring:     map[netip.Addr]uint64{},
		refusals:     map[lease.RefusalReason]uint64{},
		moves:        newMoves(),
		asks:         map[uint64]waiting{},
		proposals:    map[uint64]proposal{},
		reads:        newReads(),
		replies:      map[string][]byte{},
		earlyHashes:  map[string]earlyHash{},
		inbox:        make(chan work, inboxSize),
		ended:        make(chan struct{}),
		slots:        make(chan struct{}, maxBackground),
		metrics:      status.NewMetrics(o.Version),
	}
	for _, m := range o.Config.Members {
		if m.Name != w.selfName {
			w.peers[m.Name] = &peer{member: m}
		}
	}
	w.stopCtx, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.bucketsChanged()
	return w
}

// open opens everything that the loop needs, in the order in which it depends
// on each other.
func (w *worker) open(h Host) error {
	w.take(h)
	if w.gate != nil && w.gate.Incarnation() != w.inc {
		return fmt.Errorf("the guard's number is %d, this worker's %d: it was replaced already", w.gate.Incarnation(), w.inc)
	}
	w.ifaces = newInterfaces(w.readInterface)
	w.addresses = h.Queue(maxAddressJobs)
	w.readLastWords()
	if err := w.openData(w.clk.Boottime()); err != nil {
		return err
	}
	w.updateHello()
	if err := w.openMesh(); err != nil {
		return err
	}
	w.publish(w.clk.Boottime())
	return nil
}

// take makes the host this worker's.
func (w *worker) take(h Host) {
	w.host = h
	w.clk, w.key, w.link, w.gate, w.vips, w.hooks = h.Clock, h.Key, h.Link, h.Gate, h.VIPs, h.Hooks
	w.started = h.Wall()
	w.askID = h.Random.Uint64() // as of writes
	w.writes = newWrites(h.Random.Uint64())
	if w.gate == nil {
		w.gateMode = status.GateNone
	}
}

func (w *worker) readInterface(name string) (vip.Interface, error) {
	if w.vips == nil {
		return vip.Interface{}, errNoInterfaceListed
	}
	return w.vips.Interface(name)
}

// startRaft opens the log behind the first configuration and everything that
// counts members. It is called at the start, or at the founding.
func (w *worker) startRaft(now int64) error {
	var err error
	if w.raftLog, w.state, w.recovery, err = w.data.OpenLog(w.logOptions()); err != nil {
		return err
	}
	verdict := strings.ToLower(w.recovery.Verdict.String())
	if w.recovery.Verdict != wal.Clean {
		w.log.Warn("log recovered", "verdict", verdict, "recovery", fmt.Sprintf("%+v", w.recovery))
	}
	if w.raftLog.Stage() == storage.Used {
		w.recordEvent(storage.Record{Kind: "recovery", Node: w.selfName, Cause: verdict,
			Detail: fmt.Sprintf("worker started: %d segments, last index %d, %d bytes cut", w.recovery.Segments, w.recovery.LastIndex, w.recovery.TornBytes)})
	}
	w.notes = notebook{cluster: w.state.Cluster(), repeat: 2 * int64(w.timing.Promise)}
	if w.voter, err = w.startVoter(now); err != nil {
		return err
	}
	w.holder = lease.NewHolder(w.rid, w.inc, w.timing)
	w.tracker = placement.NewTracker(w.rid, w.placementConfig(), now)
	w.raft, err = quorum.New(now, quorum.Config{
		ID: w.rid, Incarnation: w.inc, Log: w.raftLog, Members: w.state.Members(),
		Beat: w.timing.Beat, Promise: w.timing.Promise, Lease: w.timing.Lease,
		OnLead: w.onLead, Random: w.host.Random.Int64N, Logger: w.log,
	})
	if err != nil {
		return err
	}
	s := w.raft.Status(now)
	if s.Commit > w.appliedIndex() {
		w.replayTo = s.Commit
	}
	w.grantFrom = s.LastIndex
	w.members = memberships{planner: membership.New(w.timing.Promise)}
	w.shipping = newShipping(w.state.Cluster(), w.appliedIndex())
	w.disk.scrubbedAt = now
	w.membershipChanged()
	w.groupsChanged(now)
	w.adoptAssignments(now)
	w.publishView()
	return w.exitError()
}

// startVoter is G2: the wait after a start is the longer of the promise that
// was stored and the one configured, and ours is stored before the first
// grant. A shorter one replaces a longer one only after the wait.
func (w *worker) startVoter(now int64) (*lease.Voter, error) {
	stored, err := w.data.StoredPromise()
	if err != nil {
		return nil, err
	}
	wait := max(stored, w.timing.Promise)
	if w.timing.Promise >= stored {
		if err := w.data.StorePromise(w.timing.Promise); err != nil {
			return nil, err
		}
	} else {
		w.shortenAt = now + int64(wait)
	}
	return lease.NewVoter(now, wait, w.timing.Promise), nil
}

// onLead is called when this node has just become leader: what placement
// decides goes into the same batch as the first entry (E5).
func (w *worker) onLead(now int64) [][]byte {
	w.tracker.Leading(now, true)
	w.startClock(now)
	w.ledSince = now
	w.members.planner.Lead()
	var out [][]byte
	for _, c := range w.decide(now) {
		data, err := c.Encode()
		if err != nil {
			w.fail(err)
			return nil
		}
		out = append(out, data)
	}
	return out
}

func (w *worker) exitError() error {
	if w.exit != nil {
		return *w.exit
	}
	return nil
}

func (w *worker) placementConfig() placement.Config {
	limit := time.Second
	for _, h := range w.cfg.Hooks {
		if h.Phase == config.PreAcquire {
			limit += h.Timeout
		}
	}
	return placement.Config{
		Promise: w.timing.Promise, Beat: w.timing.Beat, PreAcquireLimit: limit,
		FenceDelay: w.cfg.Placement.FenceDelay, Preempt: w.cfg.Placement.Preempt, PreemptDelay: w.cfg.Placement.PreemptDelay,
		SwitchLimit: limit + 5*time.Second,
	}
}

func hooksOf(c *config.Config) []hooks.Hook {
	var out []hooks.Hook
	for _, h := range c.Hooks {
		out = append(out, hooks.Hook{Phase: hooks.Phase(h.Phase), Command: h.Command, Timeout: h.Timeout})
	}
	return out
}

// testify hands the guard what it needs to speak for this worker after its
// death (G5). Requests wait for its acknowledgement.
func (w *worker) testify() {
	over := w.overNote()
	t := guard.Testament{Over: over[:], HangLimit: w.hangLimit}
	for _, p := range w.peers {
		t.Targets = append(t.Targets, p.member.Addresses...)
	}
	for _, g := range w.groups {
		for _, v := range g.vips {
			if v.Interface != "" {
				t.Addresses = append(t.Addresses, guard.Address{Prefix: v.Address, Interface: v.Interface})
			}
		}
	}
	w.nextTestify = w.clk.Boottime() + int64(time.Second)
	if err := w.link.Testify(t); err != nil && !errors.Is(err, guard.ErrBusy) {
		w.fail(err)
	}
}

// gateEvent: somebody else claims one of our addresses.
func (w *worker) gateEvent(now int64, e netfence.Event) {
	g := w.groupByID(e.Group)
	if g == nil {
		return
	}
	claims := "a stranger"
	if e.Kind == netfence.Conflict {
		claims = w.nameOf(e.Node)
	}
	w.limited.Warn("address claimed by another MAC", "group", g.name, "by", claims, "mac", fmt.Sprintf("%x", e.MAC), "gate_was_open", e.WasOpen)
	if g.schedule != nil {
		g.schedule.Trigger(now, vip.ForeignClaim)
	}
}

// background runs a short job beside the loop; the worker waits for it at its
// end. When too much runs already the job is left out: what is left out comes
// again, or was asked for by somebody who sees that it did not happen.
func (w *worker) background(f func()) {
	select {
	case w.slots <- struct{}{}:
		w.host.Go(func() {
			defer func() { <-w.slots }()
			f()
		})
	default:
		w.limited.Warn("too many jobs run beside the loop, one is left out")
	}
}

// close ends what was opened, in reverse.
func (w *worker) close() {
	if w.hooks != nil {
		wait := 2 * time.Second
		if w.exitError() != nil {
			wait = 0 // the guard waits for this exit
		}
		w.hooks.Close(wait)
	}
	w.cancel()
	if w.addresses != nil {
		w.addresses.Close()
	}
	var errs []error
	if w.mesh != nil {
		errs = append(errs, w.mesh.Close())
	}
	w.jobs.Wait()
	errs = append(errs, w.closeShipping())
	if w.raftLog != nil {
		errs = append(errs, w.raftLog.Close())
	}
	if w.vips != nil {
		errs = append(errs, w.vips.Close())
	}
	if w.gate != nil {
		errs = append(errs, w.gate.Close())
	}
	if w.data != nil {
		errs = append(errs, w.data.Close())
	}
	if err := errors.Join(errs...); err != nil {
		w.log.Warn("closing", "error", err)
	}
	if w.setAsideAtEnd != "" {
		if err := w.setAside("diverged", w.setAsideAtEnd); err != nil {
			w.log.Error("data not set aside", "error", err)
			w.keptWrong = &storage.DamageError{
				Dir: w.cfg.Node.DataDir, What: w.setAsideAtEnd, Hint: "replace the disk or remove old evidence, then start again", Err: err,
			}
		}
	}
	w.saveLastWords()
}

func (w *worker) keyOf(node uint64) ed25519.PublicKey {
	if m, ok := w.state.MemberByID(node); ok {
		return m.PublicKey[:]
	}
	return nil
}

func (w *worker) nameOf(node uint64) string {
	if w.state != nil && node != 0 {
		if m, ok := w.state.MemberByID(node); ok {
			return m.Name
		}
		return fmt.Sprintf("%x", node)
	}
	return ""
}

func (w *worker) peerByID(node uint64) *peer {
	if node == 0 {
		return nil
	}
	for _, p := range w.peers {
		if p.raftID == node {
			return p
		}
	}
	for _, p := range w.peers {
		if p.id() == node {
			return p // replaced, and not yet applied here
		}
	}
	return nil
}
