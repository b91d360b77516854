package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/membership"
	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/internal/tenure"
	"github.com/holdfast-ha/holdfast/storage"
)

// reportEvery is the longest age of a reading while the loop turns.
const reportEvery = 100 * time.Millisecond

// publish makes a new reading when the last one has become old.
func (w *worker) publish(now int64) {
	if now < w.nextReport {
		return
	}
	w.nextReport = now + int64(reportEvery)
	w.expireAsks(now)
	w.expireWrites(now)
	w.expireReads(now)
	r := w.reading1(now).Normal()
	w.report.Store(&r)
	if w.raft != nil {
		w.measure(now)
		if !w.saidReady && r.Quorum.OK && r.Quorum.CaughtUp {
			w.saidReady = true
			if err := w.link.Ready(); err != nil {
				w.log.Warn("guard not told of being ready", "error", err)
			}
		}
	}
}

// reading returns the newest report, from any goroutine.
func (w *worker) reading() (status.Report, time.Time) {
	r := w.report.Load()
	if r == nil {
		return status.Report{}.Normal(), time.Time{}
	}
	return *r, r.AsOf
}

func (w *worker) reading1(now int64) status.Report {
	r := status.Report{
		AsOf: w.host.Wall(), Version: w.version, Cluster: w.cfg.Cluster, Node: w.selfName,
		Role: w.role(), StartedAt: w.started,
		Timing: status.Timing{
			Profile: w.cfg.Timing.Profile, BeatMs: millis(w.timing.Beat), PromiseMs: millis(w.timing.Promise),
			EpsilonMs: millis(w.timing.Epsilon), LeaseMs: millis(w.timing.Lease), MarginMs: millis(w.timing.Margin()),
		},
		Identity: status.Identity{RaftID: hex64(w.rid), Incarnation: hex64(w.inc)},
		Refused:  w.refusedNow, Stalls: w.stalls,
		Lease: status.Lease{LengthMs: w.timing.Lease.Milliseconds()},
		Gate:  status.Gate{Attached: w.gate != nil && w.gateLost == "", Mode: w.gateMode},
	}
	w.reportMembers(now, &r)
	if w.raft != nil {
		w.reportRaft(now, &r)
		w.reportGroups(now, &r)
	} else {
		r.Quorum.Voters = len(w.cfg.Members)
		r.Quorum.Reachable = 1 + w.connectedPeers()
		for _, v := range w.cfg.VIPs {
			r.VIPs = append(r.VIPs, status.VIP{Address: v.Address.String(), Interface: v.Interface, Group: v.Group, Gate: "closed"})
		}
	}
	r.Gate.Dropped = w.dropped(now)
	for _, f := range w.waitsFor {
		r.WaitingFor = append(r.WaitingFor, f.name)
	}
	slices.Sort(r.WaitingFor)
	r.Conditions = w.conditions(now, &r)
	return r
}

// countersEvery is how old the gate's counters in a reading may be: each costs
// a system call.
const countersEvery = 500 * time.Millisecond

// dropped reads the gate's counters, now and then.
func (w *worker) dropped(now int64) map[string]uint64 {
	if w.gate == nil || now < w.nextCounters {
		return w.droppedNow
	}
	w.nextCounters = now + int64(countersEvery)
	counters, err := w.gate.Counters()
	if err != nil {
		w.limited.Warn("gate counters not read", "error", err)
		return w.droppedNow
	}
	w.droppedNow = counters
	return counters
}

// stateHash is the hash of the state at the applied index.
func (w *worker) stateHash(applied uint64) string {
	if w.hashOf != applied {
		sum := w.state.Hash()
		w.hashOf, w.hashText = applied, hex.EncodeToString(sum[:8])
	}
	return w.hashText
}

func (w *worker) connectedPeers() int {
	n := 0
	for _, p := range w.peers {
		if p.connected {
			n++
		}
	}
	return n
}

func (w *worker) role() status.Role {
	switch {
	case w.raft == nil, w.stranger != "", w.learns():
		return status.RoleJoining
	case w.abstains():
		return status.RoleAbstain
	case w.fenced:
		return status.RoleFenced
	}
	for _, g := range w.groups {
		if s, _ := g.tenure.State(); s == tenure.Holding {
			return status.RoleHolder
		}
	}
	if _, on := w.state.Maintained(w.rid); on {
		return status.RoleMaintenance
	}
	if w.self.Role == config.Witness {
		return status.RoleWitness
	}
	return status.RoleStandby
}

func (w *worker) reportMembers(now int64, r *status.Report) {
	for _, m := range w.cfg.Members {
		out := status.Member{Name: m.Name, Role: string(m.Role), Self: m.Name == w.selfName, LastBeatMs: -1}
		id := w.rid
		if p, ok := w.peers[m.Name]; ok {
			id = p.raftID
			out.Reachable = p.heard(now, w.timing.Promise) || (w.raft == nil && p.connected)
			if p.heardAt != 0 {
				out.LastBeatMs = p.silent(now).Milliseconds()
			}
			out.RTTMs = float64(w.mesh.RTT(m.Name).Microseconds()) / 1000
			out.Version = p.hello.Binary
			if p.beat != nil {
				out.Applied = p.beat.Applied
				out.Healthy = out.Reachable && (p.beat.Health != cannotHold || m.Role == config.Witness)
			}
		} else {
			out.Reachable, out.LastBeatMs, out.Version = true, 0, w.version
			out.Healthy = m.Role == config.Witness || w.raft == nil || w.health() != cannotHold
			if w.state != nil {
				out.Applied, _ = w.state.Applied()
			}
		}
		out.State = "absent"
		if w.state != nil {
			conf, _ := w.state.Conf()
			if c, ok := w.state.MemberByName(m.Name); ok {
				out.RaftID, out.State = hex64(c.RaftID), placeOf(conf, c.RaftID)
			}
			_, out.Fenced = w.state.Fenced(id)
			_, out.Maintenance = w.state.Maintained(id)
			out.Voter = slices.Contains(conf.Voters, id)
		}
		r.Members = append(r.Members, out)
	}
}

func (w *worker) reportRaft(now int64, r *status.Report) {
	s := w.raft.Status(now)
	applied, _ := w.state.Applied()
	r.Leader, r.Term = w.nameOf(s.Leader), s.Term
	if s.Lost {
		r.Leader = ""
	}
	stats := w.raftLog.Stats()
	r.State = status.State{Applied: applied, Commit: s.Commit, Hash: w.stateHash(applied), MaxBytes: w.cfg.State.MaxBytes}
	if meta, ok := w.snaps.Newest(); ok {
		r.State.Snapshot = meta.Index
	}
	if p := w.view.Load(); p != nil {
		r.State.Bytes, r.State.Keys, r.State.Revision = p.view.Bytes(), p.view.Keys(), p.view.Rev()
	}
	if scrub := w.disk.scrub; !scrub.IsZero() {
		r.State.Scrubbed = scrub.UTC().Format(time.RFC3339)
	}
	r.State.Audit, _ = w.state.Trail().Head()
	r.WAL = status.WAL{
		Bytes: stats.Bytes, Segments: stats.Segments, Verdict: strings.ToLower(w.recovery.Verdict.String()),
		FsyncP99Ms: millis(w.fsyncs.p99()), Blocked: w.disk.why, Slow: w.disk.slow,
	}
	r.Membership = w.reportMembership()
	for _, p := range s.Peers {
		for i := range r.Members {
			if m := &r.Members[i]; m.Name == w.nameOf(p.Node) {
				m.Match = p.Match
			}
		}
	}
	conf, _ := w.state.Conf()
	r.Quorum.Voters = len(conf.Voters)
	for _, m := range r.Members {
		if m.Voter && m.Reachable {
			r.Quorum.Reachable++
		}
	}
	r.Quorum.OK = r.Leader != "" && 2*r.Quorum.Reachable > r.Quorum.Voters
	r.Quorum.CaughtUp = r.Quorum.OK && applied >= s.Commit && applied > storage.FirstIndex
	r.Identity.Founded = true
	cluster := w.state.Cluster()
	r.Identity.ClusterID = hex.EncodeToString(cluster[:])
	for _, e := range w.state.Trail().Last(storage.EventAssign, storage.MaxHistory) {
		r.Failovers = append(r.Failovers, status.Failover{
			At: time.Unix(0, e.At), Group: e.Group, From: storage.AssignedFrom(e), To: e.Node,
			Cause: status.Cause(e.Cause), Epoch: e.Epoch, TookMs: w.moves.took[e.Epoch].Milliseconds(),
		})
	}
}

// reportMembership compares the file with the cluster.
func (w *worker) reportMembership() status.Membership {
	m := status.Membership{
		Differences: membership.Differences(fileMembers(w.cfg), w.committedMembers()), Waiting: w.members.waiting,
	}
	for _, p := range w.shipping.sender.Progress() {
		m.Filling = append(m.Filling, status.Filling{Member: w.nameOf(p.Peer), Index: p.Index, Bytes: p.Sent, Size: p.Size})
	}
	if p, ok := w.shipping.receiver.Progress(); ok {
		m.Filling = append(m.Filling, status.Filling{Member: w.nameOf(p.Peer), From: true, Index: p.Index, Bytes: p.Sent, Size: p.Size})
	}
	return m
}

// learns tells whether this node is a learner: on its way to be a voter.
func (w *worker) learns() bool {
	if w.state == nil {
		return false
	}
	conf, _ := w.state.Conf()
	return conf.Contains(w.rid) && !conf.Voter(w.rid)
}

func (w *worker) groupName(id uint16) string {
	if g := w.groupByID(id); g != nil {
		return g.name
	}
	return strconv.Itoa(int(id))
}

func (w *worker) reportGroups(now int64, r *status.Report) {
	for i, g := range w.groups {
		state, _ := g.tenure.State()
		assignment := w.state.Assignment(g.id)
		out := status.Group{
			Name: g.name, Epoch: assignment.Epoch, State: state.String(), Holder: w.presentHolder(now, g),
			Lease: w.leaseOf(now, g),
		}
		r.Groups = append(r.Groups, out)
		if i == 0 {
			r.Holder, r.Epoch, r.Lease = out.Holder, out.Epoch, out.Lease
		}
		for _, v := range g.vips {
			gate := "closed"
			if out.Lease.Held {
				gate = "open"
			}
			r.VIPs = append(r.VIPs, status.VIP{
				Address: v.Address.String(), Interface: v.Interface, Group: g.name, Gate: gate, Present: w.present[v.Address.Addr()],
			})
		}
	}
}

// presentHolder names who says that it holds the group, as far as is known
// here and now; "" when nobody does.
func (w *worker) presentHolder(now int64, g *group) string {
	a := w.state.Assignment(g.id)
	if a.Node == w.rid {
		if state, _ := g.tenure.State(); state == tenure.Holding {
			return w.selfName
		}
		return ""
	}
	p := w.peerByID(a.Node)
	if p == nil || p.beat == nil || p.incarnation != a.Incarnation || !p.heard(now, w.timing.Promise) {
		return ""
	}
	for _, rep := range p.beat.Groups {
		if rep.Group == g.id && tenure.State(rep.State) == tenure.Holding && rep.StateEpoch == a.Epoch {
			return p.member.Name
		}
	}
	return ""
}

// leaseOf reads the gate itself: what the kernel lets pass, not what this
// process believes.
func (w *worker) leaseOf(now int64, g *group) status.Lease {
	l := status.Lease{LengthMs: w.timing.Lease.Milliseconds()}
	if w.gate == nil {
		return l
	}
	v, err := w.gate.Read(g.id)
	if err != nil {
		w.limited.Warn("gate not read", "error", err)
		return l
	}
	if v.Open && v.Deadline > now {
		l.Held, l.RemainingMs = true, time.Duration(v.Deadline-now).Milliseconds()
	}
	return l
}

// conditions say in words what is not as it should be.
func (w *worker) conditions(now int64, r *status.Report) []status.Condition {
	var out []status.Condition
	add := func(code, hint, format string, args ...any) {
		out = append(out, status.Condition{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	for _, f := range w.waitsFor {
		add("waiting_for_member", "start it, and compare the [[member]] and [[vip]] tables of both files", "founding waits for %s: %s", f.name, f.why)
	}
	if w.stranger != "" {
		if w.stageNow() == storage.Used {
			add("not_a_member", "holdfast member list", "the configuration that this node knows does not list it: it was removed, or has yet to learn that it was added; it neither votes nor holds")
		} else {
			add("joining", "", "this node's data directory is new: it neither votes nor holds until the leader has filled it")
		}
	}
	out = append(out, w.recoveryConditions()...)
	if w.raft == nil {
		return out
	}
	s := w.raft.Status(now)
	if !r.Quorum.OK {
		add("no_quorum", "start the members that are not reachable, or repair the links to them",
			"no quorum: %d of %d voters reachable, leader %q; no address can be held", r.Quorum.Reachable, r.Quorum.Voters, r.Leader)
	}
	for _, g := range w.groups {
		if g.fault != "" && w.self.Role != config.Witness {
			add("cannot_hold", "", "group %s cannot be held here: %s", g.name, g.fault)
		}
		if w.presentHolder(now, g) == "" {
			add("no_holder", "", "nobody holds group %s", g.name)
		}
		if n := w.tracker.Notice(g.id); n != "" && s.Role == "leader" {
			add("placement", "", "group %s: %s", g.name, n)
		}
	}
	if w.fenced {
		add("fenced", "holdfast unfence "+w.selfName, "this node is fenced: the others drop what it sends")
	}
	if s.Stuck {
		add("storage_stuck", "", "the log cannot be written: a write waits for the disk")
	}
	if w.disk.full {
		add("disk_full", "make room in "+w.cfg.Node.DataDir, "the disk of the log is full: writes are refused, the address is kept: %s", w.disk.why)
	}
	if w.disk.slow {
		add("disk_slow", "", "syncs of the log take longer than %v: the node ranks below the others", w.cfg.State.SlowFsync)
	}
	for _, d := range r.Membership.Differences {
		add("members_differ", "", "%s", d)
	}
	if r.Membership.Waiting != "" {
		add("members_change", "", "change of members: %s", r.Membership.Waiting)
	}
	if w.stopping {
		add("stopping", "", "this node is stopping")
	}
	for _, p := range w.peers {
		if p.cloned(now) {
			add("cloned_member", "stop one of the two", "%s runs twice under one raft id: a cloned disk", p.member.Name)
		}
		if p.helloed && p.raftID != 0 && p.hello.RaftID != p.raftID {
			add("member_not_a_voter", "", "%s has a new data directory and does not vote until it is filled", p.member.Name)
		}
	}
	if !groupsEqual(committedGroups(w.cfg), w.state.Groups()) {
		add("configuration_differs", "holdfast reload", "the [[vip]] tables of this node's file differ from what the cluster has committed, which is followed")
	}
	for _, l := range w.cfg.Warnings() {
		add("configuration_warning", "", "%s", l)
	}
	return out
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func hex64(v uint64) string { return fmt.Sprintf("%016x", v) }

// statusPort is the running status server and how to end it.
type statusPort struct {
	listen string
	server *status.Server
	cancel context.CancelFunc
}

// openStatus serves the read-only HTTP port; "" is off.
func (w *worker) openStatus(listen string) error {
	if listen == "" {
		return nil
	}
	server, err := status.Listen(status.Options{Listen: listen, Source: w.reading, Metrics: w.metrics, Logger: w.log})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(w.stopCtx)
	w.statusOn = &statusPort{listen, server, cancel}
	w.jobs.Go(func() {
		if err := server.Run(ctx); err != nil {
			w.log.Error("status port ends", "error", err)
		}
	})
	return nil
}

// reopenStatus moves the port; the old one stays when the new one cannot be
// had.
func (w *worker) reopenStatus(listen string) error {
	old := w.statusOn
	w.statusOn = nil
	if err := w.openStatus(listen); err != nil {
		w.statusOn = old
		return err
	}
	if old != nil {
		old.cancel()
	}
	return nil
}
