package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/placement"
	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/storage"
)

// Any member takes any request. What only the leader can do is put to it as an
// ask over the control connection, and answered by a reply.

// Operations that are asked of the leader.
const (
	opFailover    = "failover"
	opMaintenance = "maintenance"
	opFence       = "fence"
	opUnfence     = "unfence"
	opGroups      = "groups"
	opMember      = "member"
	opRecord      = "record"
)

// failoverAsk moves one group. From, when set, must still hold it.
type failoverAsk struct {
	To    string `json:"to,omitempty"`
	Group string `json:"group,omitempty"`
	From  string `json:"from,omitempty"`
}

type maintenanceAsk struct {
	Node string `json:"node"`
	On   bool   `json:"on"`
}

type nodeAsk struct {
	Node string `json:"node"`
}

// ask travels to the leader. Actor is who asked on the member that sends it,
// "" for the member itself.
type ask struct {
	ID    uint64          `json:"id"`
	Op    string          `json:"op"`
	Actor string          `json:"actor,omitempty"`
	From  string          `json:"-"` // member that sent it
	Body  json.RawMessage `json:"body"`
}

// reply travels back.
type reply struct {
	ID    uint64          `json:"id"`
	Body  json.RawMessage `json:"body,omitempty"`
	Error *control.Error  `json:"error,omitempty"`
}

// askLimit is how long an answer may take; a switchover waits for hooks.
const askLimit = 55 * time.Second

// maxAsks bounds the asks that wait, on either side.
const maxAsks = 256

// waiting is an ask of ours without answer.
type waiting struct {
	until int64
	to    string // "" = this node is the leader
	done  func(now int64, r reply)
}

// ask puts an operation to the leader; done is called once, in the loop.
func (w *worker) ask(now int64, op, actor string, body any, done func(int64, reply)) {
	raw, err := json.Marshal(body)
	if err != nil {
		done(now, reply{Error: &control.Error{Code: control.Internal, Message: err.Error()}})
		return
	}
	if w.raft == nil {
		done(now, reply{Error: w.notFounded()})
		return
	}
	if w.leads(now) {
		w.execute(now, ask{Op: op, Actor: actor, From: w.selfName, Body: raw}, done)
		return
	}
	p := w.peerByID(w.raft.Status(now).Leader)
	if p == nil || len(w.asks) >= maxAsks {
		done(now, reply{Error: &control.Error{
			Code: control.NoQuorum, Message: "no leader is known at the moment", Hint: "holdfast status",
		}})
		return
	}
	w.askID++
	out, err := json.Marshal(ask{ID: w.askID, Op: op, Actor: actor, Body: raw})
	if err == nil {
		err = w.send(p.member.Name, kindAsk, out)
	}
	if err != nil {
		done(now, reply{Error: &control.Error{
			Code: control.NoQuorum, Message: fmt.Sprintf("leader %s cannot be asked: %v", p.member.Name, err), Hint: "holdfast status",
		}})
		return
	}
	w.asks[w.askID] = waiting{until: now + int64(askLimit), to: p.member.Name, done: done}
}

func (w *worker) notFounded() *control.Error {
	return &control.Error{Code: control.NoQuorum, Message: "the cluster is not founded yet", Hint: "holdfast status shows for whom it waits"}
}

// takeReply answers what waited for it.
func (w *worker) takeReply(now int64, from string, raw []byte) {
	var r reply
	if err := json.Unmarshal(raw, &r); err != nil {
		w.limited.Warn("reply refused", "member", from, "error", err)
		return
	}
	if a, ok := w.asks[r.ID]; ok && a.to == from {
		delete(w.asks, r.ID)
		a.done(now, r)
	}
}

// takeAsk executes what another member asks of us as leader.
func (w *worker) takeAsk(now int64, from string, raw []byte) {
	var a ask
	if err := json.Unmarshal(raw, &a); err != nil {
		w.limited.Warn("ask refused", "member", from, "error", err)
		return
	}
	respond := func(_ int64, r reply) {
		r.ID = a.ID
		out, err := json.Marshal(r)
		if err == nil {
			err = w.send(from, kindReply, out)
		}
		if err != nil {
			w.limited.Warn("reply not sent", "member", from, "error", err)
		}
	}
	if w.raft == nil || !w.leads(now) {
		respond(now, reply{Error: &control.Error{Code: control.NoQuorum, Message: "asked a member that does not lead any more", Hint: "try again"}})
		return
	}
	if !w.committed(from) {
		respond(now, reply{Error: errNoMember})
		return
	}
	a.Actor, a.From = clip(a.Actor, storage.MaxActor), from
	w.execute(now, a, respond)
}

// expireAsks gives up on answers that did not come: the outcome is unknown.
func (w *worker) expireAsks(now int64) {
	for _, id := range slices.Sorted(maps.Keys(w.asks)) {
		if a := w.asks[id]; now > a.until {
			delete(w.asks, id)
			a.done(now, reply{Error: &control.Error{Code: control.Timeout, Message: "the leader did not answer: the outcome is unknown", Hint: "holdfast status"}})
		}
	}
	for _, index := range slices.Sorted(maps.Keys(w.proposals)) {
		if p := w.proposals[index]; now > p.until {
			delete(w.proposals, index)
			p.done(now, reply{Error: &control.Error{Code: control.Timeout, Message: "not committed in time: the outcome is unknown", Hint: "holdfast status"}})
		}
	}
}

// execute does an operation as leader.
func (w *worker) execute(now int64, q ask, done func(int64, reply)) {
	refuse := func(code control.Code, hint, format string, args ...any) {
		done(now, reply{Error: &control.Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}})
	}
	read := func(into any) bool {
		if err := json.Unmarshal(q.Body, into); err != nil {
			refuse(control.Invalid, "", "read request: %v", err)
			return false
		}
		return true
	}
	switch q.Op {
	case opFailover:
		var a failoverAsk
		if read(&a) {
			w.beginSwitch(now, q.Actor, a, done)
		}
	case opMaintenance:
		var a maintenanceAsk
		if read(&a) {
			w.proposeFor(now, q.Actor, a.Node, done, func(id uint64) storage.Op { return storage.Maintenance{Node: id, On: a.On} })
		}
	case opFence, opUnfence:
		var a nodeAsk
		if !read(&a) {
			return
		}
		w.proposeFor(now, q.Actor, a.Node, done, func(id uint64) storage.Op {
			if q.Op == opFence {
				return storage.Fence{Node: id, Operator: true}
			}
			return storage.Unfence{Node: id, Operator: true}
		})
	case opGroups:
		var groups []storage.Group
		if !read(&groups) {
			return
		}
		if len(w.regroups) >= maxAsks {
			refuse(control.NoQuorum, "try again", "too many changes of groups wait")
			return
		}
		w.regroups = append(w.regroups, regroup{groups: groups, actor: q.Actor, until: now + int64(proposalLimit), done: done})
	case opMember:
		var a memberAsk
		if read(&a) {
			w.changeMember(now, q.Actor, a, done)
		}
	case opRecord:
		var r storage.Record
		if !read(&r) {
			return
		}
		if !w.mayRecord(q.From, r) {
			refuse(control.Forbidden, "", "event %q of %s is not for %s to record", r.Kind, r.Node, q.From)
			return
		}
		w.propose(now, q.Actor, r, func(now int64, index uint64, _ string) { w.respondIndex(now, r.Node, index, "", done) }, done)
	default:
		refuse(control.Invalid, "the members run different versions", "operation %q is not known to the leader", q.Op)
	}
}

// proposalLimit is how long a command may take to be committed.
const proposalLimit = 10 * time.Second

// proposal is a command of ours that waits to be applied.
type proposal struct {
	began int64
	until int64
	term  uint64
	apply func(now int64, index uint64, ignored string)
	done  func(int64, reply)
}

// propose proposes op and calls applied once it was.
func (w *worker) propose(now int64, actor string, op storage.Op, applied func(int64, uint64, string), done func(int64, reply)) {
	data, err := storage.Command{At: w.host.Wall().UnixNano(), Actor: actor, Op: op}.Encode()
	if err != nil {
		done(now, reply{Error: &control.Error{Code: control.Invalid, Message: err.Error()}})
		return
	}
	if len(w.proposals) >= maxAsks {
		done(now, reply{Error: &control.Error{Code: control.NoQuorum, Message: "too many commands wait", Hint: "try again"}})
		return
	}
	if err := w.raft.Propose(now, data); err != nil {
		done(now, reply{Error: &control.Error{Code: control.NoQuorum, Message: fmt.Sprintf("not proposed: %v", err), Hint: "holdfast status"}})
		return
	}
	s := w.raft.Status(now) // the proposal is its last entry
	if old, ok := w.proposals[s.LastIndex]; ok {
		old.done(now, reply{Error: errReplaced})
	}
	w.proposals[s.LastIndex] = proposal{began: now, until: now + int64(proposalLimit), term: s.LastTerm, apply: applied, done: done}
}

var errLeadershipMoved = &control.Error{
	Code: control.NoQuorum, Message: "the leadership moved before this was committed: it did not happen", Hint: "try again",
}

// errReplaced: our entry is not in our log any more, but may stand in that of
// another member, and be committed by it once it leads.
var errReplaced = &control.Error{
	Code: control.Timeout, Message: "the leadership moved before this was committed: the outcome is unknown", Hint: "holdfast status",
}

// regroup is a change of the groups that waits until the one before has
// settled.
type regroup struct {
	groups []storage.Group
	actor  string
	until  int64
	done   func(int64, reply)
}

// settleTurn proposes changes of groups, each only P after a majority has
// applied the one before (G4): an address that left a group must have left its
// holder's gate before another group may open for it.
func (w *worker) settleTurn(now int64) {
	if w.groupsSettled == 0 && w.appliedByMajority() {
		w.groupsSettled = now
	}
	s := w.raft.Status(now)
	if s.LastIndex != w.appliedIndex() {
		return // a change may stand in the log
	}
	settled := w.groupsSettled != 0 && now-w.groupsSettled >= int64(w.timing.Promise)
	for len(w.regroups) > 0 {
		r := w.regroups[0]
		late := now > r.until
		if !settled && !late {
			return
		}
		w.regroups = w.regroups[1:]
		if late {
			r.done(now, reply{Error: &control.Error{
				Code: control.NoQuorum, Message: "the change of groups before this one has not reached a majority", Hint: "try again",
			}})
			continue
		}
		settled = false
		w.propose(now, r.actor, storage.SetGroups{Groups: r.groups}, func(now int64, index uint64, ignored string) {
			if ignored != "" {
				r.done(now, reply{Error: &control.Error{
					Code: control.PreconditionFailed, Message: "groups not changed: " + ignored, Hint: "the configuration in force is kept",
				}})
				return
			}
			w.respondIndex(now, "", index, "", r.done)
		}, r.done)
	}
}

// appliedByMajority tells whether a majority of the voters reports the last
// change of the groups as applied.
func (w *worker) appliedByMajority() bool {
	return w.majority(func(p *peer) bool { return p.beat != nil && p.beat.Config >= w.state.GroupsIndex() })
}

// majority tells whether this node, if it votes, and the voters for whom holds
// is true are a majority.
func (w *worker) majority(holds func(*peer) bool) bool {
	conf, _ := w.state.Conf()
	n := 0
	for _, id := range conf.Voters {
		if p := w.peerByID(id); id == w.rid || p != nil && holds(p) {
			n++
		}
	}
	return 2*n > len(conf.Voters)
}

// answered is told of every applied entry.
func (w *worker) answered(now int64, index, term uint64, ignored string) {
	w.writes.writesOvertaken(now, index, term)
	p, ok := w.proposals[index]
	if !ok {
		return
	}
	delete(w.proposals, index)
	if p.term != term {
		p.done(now, reply{Error: errLeadershipMoved})
		return
	}
	w.metrics.ObserveCommit(time.Duration(now - p.began))
	p.apply(now, index, ignored)
}

// proposeFor proposes a command about one named member.
func (w *worker) proposeFor(now int64, actor, name string, done func(int64, reply), op func(uint64) storage.Op) {
	m, ok := w.state.MemberByName(name)
	if !ok {
		done(now, reply{Error: &control.Error{Code: control.NotFound, Message: fmt.Sprintf("no member is called %q", name), Hint: "holdfast status"}})
		return
	}
	w.propose(now, actor, op(m.RaftID), func(now int64, index uint64, ignored string) {
		w.respondIndex(now, name, index, ignored, done)
	}, done)
}

func (w *worker) respondIndex(now int64, name string, index uint64, ignored string, done func(int64, reply)) {
	if ignored != "" {
		w.log.Info("command without effect", "index", index, "reason", ignored)
		index = 0 // it was so already
	}
	raw, err := json.Marshal(control.NodeResult{Node: name, Index: index})
	if err != nil {
		done(now, reply{Error: &control.Error{Code: control.Internal, Message: err.Error()}})
		return
	}
	done(now, reply{Body: raw})
}

// switching is a planned switchover that somebody waits for.
type switching struct {
	group uint16
	actor string
	began int64
	until int64
	done  func(int64, reply)
}

// beginSwitch begins a planned switchover (A5).
func (w *worker) beginSwitch(now int64, actor string, a failoverAsk, done func(int64, reply)) {
	refuse := func(code control.Code, hint, format string, args ...any) {
		done(now, reply{Error: &control.Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}})
	}
	if a.Group == "" && len(w.groups) == 1 {
		a.Group = w.groups[0].name
	}
	g, ok := w.groupByName(a.Group)
	if !ok {
		refuse(control.NotFound, "holdfast failover --group NAME", "no group is called %q; there are: %s", a.Group, w.groupNames())
		return
	}
	var target uint64
	if a.To != "" {
		m, ok := w.state.MemberByName(a.To)
		if !ok {
			refuse(control.NotFound, "holdfast status", "no member is called %q", a.To)
			return
		}
		target = m.RaftID
	}
	if a.From != "" && w.nameOf(w.state.Assignment(g.id).Node) != a.From {
		refuse(control.PreconditionFailed, "", "%s does not hold group %s", a.From, g.name)
		return
	}
	err := w.tracker.Switch(now, g.id, target)
	w.placementNews = true
	if err != nil && !(a.From != "" && errors.Is(err, placement.ErrBusy)) {
		refuse(control.PreconditionFailed, "holdfast status shows who is eligible", "%v", err)
		return
	}
	if len(w.switches) >= maxAsks {
		refuse(control.PreconditionFailed, "", "too many switchovers wait")
		return
	}
	if actor != "" {
		w.recordEventOf(actor, storage.Record{Kind: "operator", Node: w.selfName, Group: g.name, Cause: "failover", Detail: "to " + cmp.Or(a.To, "the best")})
	}
	w.switches = append(w.switches, switching{group: g.id, actor: actor, began: now, until: now + int64(askLimit), done: done})
}

// switchTurn answers who waits for a switchover that has ended.
func (w *worker) switchTurn(now int64) {
	var left []switching
	for _, s := range w.switches {
		st, ok := w.tracker.SwitchStatus(s.group)
		switch {
		case ok && st.Stage == placement.SwitchFailed:
			w.recordEventOf(s.actor, storage.Record{Kind: "operator", Node: w.selfName, Group: w.groupName(s.group), Cause: "failover-failed", Detail: st.Reason})
			s.done(now, reply{Error: &control.Error{Code: control.PreconditionFailed, Message: st.Reason, Hint: "holdfast status"}})
		case ok && st.Stage == placement.SwitchDone:
			s.done(now, w.switchResult(s.group, st))
		case now > s.until:
			s.done(now, reply{Error: &control.Error{Code: control.Timeout, Message: "the switchover takes too long: the outcome is unknown", Hint: "holdfast status"}})
		default:
			left = append(left, s)
		}
	}
	w.switches = left
}

func (w *worker) switchResult(group uint16, st placement.SwitchStatus) reply {
	raw, err := json.Marshal(control.FailoverResult{
		Group: w.groupName(group), From: w.nameOf(st.From), Holder: w.nameOf(st.Target), Epoch: st.NewEpoch,
		GapMs: float64(w.moves.took[st.NewEpoch].Microseconds()) / 1000,
	})
	if err != nil {
		return reply{Error: &control.Error{Code: control.Internal, Message: err.Error()}}
	}
	return reply{Body: raw}
}

// backend answers the control socket. Its methods run on the server's
// goroutines and put everything to the loop.
type backend struct{ w *worker }

var _ control.Backend = backend{}

// Status returns the newest reading.
func (b backend) Status(context.Context) (status.Report, error) {
	r, _ := b.w.reading()
	return r, nil
}

// call puts an operation to the leader, by way of the loop, and waits.
func call[Out any](ctx context.Context, w *worker, op string, body any) (Out, error) {
	var out Out
	who := actor(ctx, w.selfName)
	raw, err := await(ctx, w, errBusy, errAskLost, func(now int64, answer func(json.RawMessage, *control.Error)) {
		w.ask(now, op, who, body, func(_ int64, r reply) { answer(r.Body, r.Error) })
	})
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("read answer: %w", err)
	}
	return out, nil
}

var errAskLost = &control.Error{Code: control.Timeout, Message: "this node is stopping: the outcome is unknown", Hint: "holdfast status"}

// Failover begins a planned switchover and waits for its end.
func (b backend) Failover(ctx context.Context, r control.FailoverRequest) (control.FailoverResult, error) {
	return call[control.FailoverResult](ctx, b.w, opFailover, failoverAsk{To: r.To, Group: r.Group})
}

// Maintenance marks a node, this one when none is named.
func (b backend) Maintenance(ctx context.Context, r control.MaintenanceRequest) (control.NodeResult, error) {
	if r.Node == "" {
		r.Node = b.w.selfName
	}
	return call[control.NodeResult](ctx, b.w, opMaintenance, maintenanceAsk{Node: r.Node, On: r.On})
}

// Fence shuts a node out until it is unfenced by hand (A6).
func (b backend) Fence(ctx context.Context, r control.NodeRequest) (control.NodeResult, error) {
	return call[control.NodeResult](ctx, b.w, opFence, nodeAsk(r))
}

// Unfence lifts a fence.
func (b backend) Unfence(ctx context.Context, r control.NodeRequest) (control.NodeResult, error) {
	return call[control.NodeResult](ctx, b.w, opUnfence, nodeAsk(r))
}

// actor names who asks, for the audit trail: the caller as the kernel knows
// it, and the member whose socket it used.
func actor(ctx context.Context, node string) string {
	if c, ok := control.CallerOf(ctx); ok {
		return c.String() + " on " + node
	}
	return ""
}
