package node

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/internal/tenure"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/vip"
)

// Each test here fails when one rule of the protocol is taken out of package
// node; see test/mutants.

// judged asks the worker's voter for an epoch of the group, as another node
// under the newest configuration.
func judged(w *worker, now int64, config uint64) lease.RefusalReason {
	_, refusal := w.voter.Request(now, lease.Request{Node: 77, Incarnation: 1, Group: 9, Epoch: 1 << 40, Config: config, Sequence: 1})
	if refusal == nil {
		return 0
	}
	return refusal.Reason
}

// Covers G2: the wait after a start is the longest promise that may still
// stand; ours is on disk before the first grant, and does not cut a longer one
// short.
func TestG2WaitAfterStart(t *testing.T) {
	const configured = 500 * time.Millisecond
	for _, c := range []struct{ stored, wait, after time.Duration }{
		{0, configured, configured},
		{100 * time.Millisecond, configured, configured},
		{configured, configured, configured},
		{2 * time.Second, 2 * time.Second, 2 * time.Second},
	} {
		w := quiet()
		data, err := storage.OpenData(vfs.NewMem(), "/data")
		if err != nil {
			t.Fatal(err)
		}
		if c.stored != 0 {
			if err := data.StorePromise(c.stored); err != nil {
				t.Fatal(err)
			}
		}
		w.data, w.timing.Promise = data, configured
		const now = int64(time.Hour)
		if w.voter, err = w.startVoter(now); err != nil {
			t.Fatal(err)
		}
		if got := judged(w, now+int64(c.wait)-1, 1); got != lease.NotYet {
			t.Errorf("stored %v: before the wait is over: %v", c.stored, got)
		}
		if got := judged(w, now+int64(c.wait), 1); got != 0 {
			t.Errorf("stored %v: after the wait: %v", c.stored, got)
		}
		if stored, err := data.StoredPromise(); err != nil || stored != c.after {
			t.Errorf("stored %v: on disk is %v, %v, want %v", c.stored, stored, err, c.after)
		}
	}
}

// Covers G3: a holder that nobody refuses learns from beats that it is over.
func TestG3HigherEpochInABeat(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	applied := h.group().applied
	h.w.showEpochs(r.now(), &transport.Beat{Groups: []transport.GroupReport{{Group: rigGroup, Epoch: applied}}})
	if h.state() != tenure.Holding {
		t.Fatal("released for its own epoch")
	}
	h.w.showEpochs(r.now(), &transport.Beat{Groups: []transport.GroupReport{{Group: rigGroup, Epoch: applied + 1}}})
	if h.state() == tenure.Holding || h.gate.open() {
		t.Fatal("holds on, though a higher epoch was applied elsewhere")
	}
}

// Covers G3: epochs count as seen, however the state that names them came.
func TestG3EpochsOfASnapshotAreSeen(t *testing.T) {
	r := startedRig(t)
	w := r.host("w1").w
	epoch := w.state.Assignment(rigGroup).Epoch
	w.voter = lease.NewVoter(0, w.timing.Promise, w.timing.Promise)
	w.adoptAssignments(r.now())
	if got := w.voter.Highest(rigGroup); got != epoch || epoch == 0 {
		t.Fatalf("highest epoch seen is %d, the state has %d", got, epoch)
	}
}

// Covers G3, G4: a voter that does not know yet what its log holds grants
// nothing, for it may have granted by it.
func TestG3NoGrantBeforeTheLogIsApplied(t *testing.T) {
	r := startedRig(t)
	l := r.leader()
	r.isolate(l.name)
	for range 3 { // entries that nobody else gets
		if err := l.w.proposeCommand(r.now(), storage.Checkpoint{}); err != nil {
			t.Fatal(err)
		}
	}
	r.run(20 * time.Millisecond)
	l.kill()
	l.start()
	r.run(2 * time.Second) // past G2
	if s := l.w.raft.Status(r.now()); l.w.appliedIndex() >= s.LastIndex {
		t.Fatalf("applied %d of %d", l.w.appliedIndex(), s.LastIndex)
	}
	if got := judged(l.w, r.now(), 1<<40); got != lease.Abstaining {
		t.Fatalf("a voter that lacks entries of its own log: %v", got)
	}
	r.isolate()
	r.run(2 * time.Second)
	if got := judged(l.w, r.now(), 1<<40); got != 0 {
		t.Fatalf("a voter that has caught up: %v", got)
	}
}

// Covers G4: which address is in which group is part of what a holder counts in.
func TestG4GroupsCountAsConfiguration(t *testing.T) {
	r := startedRig(t)
	w := r.host("w1").w
	r.run(time.Second)
	before := w.configIndex()
	if got := judged(w, r.now(), before); got != 0 {
		t.Fatalf("before the change: %v", got)
	}
	groups := w.state.Groups()
	groups = append(groups, storage.Group{Name: "mail", VIPs: []storage.VIP{{Prefix: netip.MustParsePrefix("10.0.0.101/24"), Scope: storage.ScopeVIP}}})
	r.propose(storage.SetGroups{Groups: groups})
	if after := w.configIndex(); after <= before {
		t.Fatalf("configuration %d after %d", after, before)
	}
	if got := judged(w, r.now(), before); got != lease.OldConfig {
		t.Fatalf("a request that counts in the groups of before: %v", got)
	}
}

// Covers G4: a configuration that only a snapshot holds is not told of before
// the log follows it on disk.
func TestG4UnstoredConfigurationIsNotReported(t *testing.T) {
	r := startedRig(t)
	w := r.host("w1").w
	w.unstored, w.storedConfig = 1, 0
	if got := w.newBeat(r.now()).Config; got != 0 {
		t.Fatalf("reports configuration %d", got)
	}
}

// Covers G6: a node under a raft id that is not the committed one grants
// nothing.
func TestG6StrangerDoesNotGrant(t *testing.T) {
	r := startedRig(t)
	w := r.host("w1").w
	if got := judged(w, r.now(), 1<<40); got != 0 {
		t.Fatalf("a voter: %v", got)
	}
	w.rid++
	w.votingChanged()
	if got := judged(w, r.now(), 1<<40); got != lease.Abstaining {
		t.Fatalf("a stranger: %v", got)
	}
}

// Covers G7: an epoch belongs to the incarnation that its Assign names, not to
// the worker that follows on the same node.
func TestG7OnlyTheNamedIncarnation(t *testing.T) {
	r := startedRig(t)
	w := r.standby().w
	g := w.groupByID(rigGroup)
	w.assigned(r.now(), g.applied+1, storage.Assign{Group: rigGroup, Node: w.rid, Incarnation: w.inc - 1, Prev: g.applied})
	if g.tenure.Active() {
		t.Fatal("takes an epoch that names the worker before")
	}
	h := r.holder()
	g = h.group()
	g.tenure, g.applied = tenure.Machine{}, 0
	h.w.inc++ // as if the state had come from the worker before, as a snapshot
	h.w.adoptAssignments(r.now())
	if g.tenure.Active() {
		t.Fatal("takes an epoch of a snapshot that names the worker before")
	}
}

// Covers G8: the clock that promises count from is read after the datagrams
// were taken.
func TestG8ClockIsReadAfterTheNews(t *testing.T) {
	r := startedRig(t)
	w := r.host("w1").w
	r.clock.Advance(20 * time.Millisecond)
	taken := int64(0)
	w.post(func(now int64) { taken = now })
	w.drain()
	if taken < r.now() {
		t.Fatalf("taken at %d, arrived at %d", taken, r.now())
	}
}

// A virtual machine that was set back in memory is told by others what it has
// sent before.
func TestRolledBackWorkerEnds(t *testing.T) {
	r := startedRig(t)
	w := r.holder().w
	seen := func(sequence uint64) *transport.Beat {
		return &transport.Beat{Seen: []transport.Seen{{Node: w.rid, Incarnation: w.inc, Sequence: sequence}}}
	}
	w.checkRollback(seen(w.sequence))
	if w.exit != nil {
		t.Fatal("ends for a beat that it has sent")
	}
	w.checkRollback(seen(w.sequence + 1))
	if !errors.Is(w.exitError(), errRolledBack) {
		t.Fatalf("goes on: %v", w.exitError())
	}
}

// Covers G5: what could not be closed is not said to be closed.
func TestG5NoNoteAfterAFailedClose(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	h.mesh.notes = nil
	h.gate.fails = errors.New("map is gone")
	h.w.release(r.now(), h.group(), "test", "")
	r.clock.Advance(2 * tenure.NoteDelay)
	h.w.carryOut(r.now(), h.group(), h.group().tenure.Tick(r.now()))
	if len(h.mesh.notes) != 0 {
		t.Fatal("a release was sent, and the gate is open")
	}
	r.run(time.Second)
	if h.w != nil || h.err == nil || len(h.mesh.notes) != 0 {
		t.Fatalf("the worker goes on, or sent %d notes: %v", len(h.mesh.notes), h.err)
	}
}

// Covers G5: nothing is asked for before the guard could end it.
func TestG5NothingIsAskedBeforeTheTestament(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	asks := func() (n int) {
		h.mesh.frames = nil
		h.w.sendBeats(r.now())
		for _, raw := range h.mesh.frames {
			b, err := transport.DecodeBeat(raw[clusterSize:])
			if err != nil {
				t.Fatal(err)
			}
			n += len(b.Requests)
		}
		return n
	}
	if asks() == 0 {
		t.Fatal("a holder asks for nothing")
	}
	h.w.testified = false
	deadline := h.gate.deadline
	if n := asks(); n != 0 || h.gate.deadline != deadline {
		t.Fatalf("asks %d times, and the guard could not speak for this worker", n)
	}
}

// Covers G5: a worker without its guard lets go; the notes say only what is so.
func TestGuardGoneReleasesAll(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	h.mesh.notes = nil
	close(h.link.events)
	h.turn(true)
	if h.w != nil || !errors.Is(h.err, errGuardGone) {
		t.Fatalf("goes on: %v", h.err)
	}
	var kinds []lease.NoteKind
	for _, n := range h.mesh.notes {
		note, err := lease.ParseNote(n.raw)
		if err != nil {
			t.Fatal(err)
		}
		if n.gateOpen {
			t.Errorf("note %v left with the gate open", note.Kind)
		}
		kinds = append(kinds, note.Kind)
	}
	if !slices.Equal(kinds, []lease.NoteKind{lease.Release, lease.Over}) || h.gate.open() {
		t.Fatalf("notes %v, gate open %v", kinds, h.gate.open())
	}
}

// Covers E7: what has come is taken before any timer is judged.
func TestE7NewsBeforeTimers(t *testing.T) {
	r := startedRig(t)
	w1 := r.host("w1")
	l := r.leader()
	lostAt := w1.w.raft.Status(r.now()).LostAt
	r.lost = func(_, to string) bool { return to == "w1" }
	for r.now() < lostAt-int64(10*time.Millisecond) {
		r.run(time.Millisecond)
		lostAt = w1.w.raft.Status(r.now()).LostAt
	}
	// The next turn comes late: the leader's beat waits in the inbox then.
	r.clock.Advance(time.Duration(lostAt-r.now()) + time.Millisecond)
	l.w.sequence++ // as in sendBeats
	b := l.w.newBeat(r.now())
	w1.w.post(func(now int64) { w1.w.receiveBeat(now, l.name, b) })
	w1.w.step()
	if s := w1.w.raft.Status(r.now()); s.Leader != l.w.rid {
		t.Fatalf("the leader was given up, though its beat was there: %+v", s)
	}
}

// Covers A2: a holder that no majority acknowledges lets go by itself.
func TestA2DeafHolderReleases(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	h.mesh.notes = nil
	r.lost = func(_, to string) bool { return to == h.name }
	r.run(h.w.timing.Promise + 300*time.Millisecond)
	if h.state() == tenure.Holding || len(h.mesh.notes) == 0 {
		t.Fatalf("holds on deaf: %v, %d notes", h.state(), len(h.mesh.notes))
	}
}

// Covers A4: what makes holding impossible ends it at once.
func TestA4HolderWithoutCarrierReleases(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	h.info.Carrier = false
	h.stepped.VIP(vip.LinkDown{Interface: h.info})
	h.turn(true)
	if h.state() == tenure.Holding || h.gate.open() {
		t.Fatal("holds on without carrier")
	}
}

// Covers A4: an interface without its gate could not be closed.
func TestA4HolderWithoutGateReleases(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	h.stepped.Guard(guard.Event{Kind: guard.GateState, OK: false, Text: "eth0"})
	h.turn(true)
	if h.state() == tenure.Holding || h.gate.open() {
		t.Fatal("holds on without its gate")
	}
}

// Covers A5: only the leader of the present term gives orders.
func TestA5OrdersOfAFormerLeader(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	order := func(term uint64, flags transport.BeatFlags) {
		h.w.takeOrders(r.now(), &transport.Beat{
			Flags: flags, Term: term,
			Orders: []transport.Order{{To: h.w.rid, Group: rigGroup, Epoch: h.group().applied, Kind: transport.OrderRelease}},
		})
	}
	term := h.w.raft.Status(r.now()).Term
	order(term-1, transport.FlagLeaderClaim)
	order(term, 0)
	h.work()
	r.run(10 * time.Millisecond)
	if h.state() != tenure.Holding || !h.gate.open() {
		t.Fatal("released for the order of a former leader")
	}
	order(term, transport.FlagLeaderClaim)
	r.run(10 * time.Millisecond)
	if h.gate.open() {
		t.Fatal("the leader's order was not carried out")
	}
}

// Section 4: an answer is never answered itself.
func TestAnswersAreNotAnswered(t *testing.T) {
	r := startedRig(t)
	h, w1 := r.holder(), r.host("w1")
	sent := func(flags transport.BeatFlags) int {
		before := w1.mesh.beats
		h.w.sequence++ // as in sendBeats
		b := h.w.newBeat(r.now())
		b.Flags |= flags
		b.Requests = []transport.Request{{Group: rigGroup, Epoch: h.group().applied, Config: h.w.configIndex()}}
		if flags.Has(transport.FlagAnswer) {
			b.Requests = nil
		}
		w1.w.receiveBeat(r.now(), h.name, b)
		return w1.mesh.beats - before
	}
	if n := sent(0); n != 1 {
		t.Fatalf("a request was answered %d times", n)
	}
	if n := sent(transport.FlagAnswer); n != 0 {
		t.Fatalf("an answer was answered %d times", n)
	}
}

// A claim of the address by another member is announced against, and changes
// nothing else here: the kernel has closed the gate already.
func TestConflictIsAnnouncedAgainst(t *testing.T) {
	r := startedRig(t)
	h := r.holder()
	h.stepped.Gate(netfence.Event{Kind: netfence.Conflict, Group: rigGroup, Node: r.standby().w.rid, WasOpen: true})
	r.run(100 * time.Millisecond)
	if h.state() != tenure.Holding {
		t.Fatalf("state is %v", h.state())
	}
}
