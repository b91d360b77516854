package node

import (
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/membership"
	"github.com/holdfast-ha/holdfast/storage"
)

// Members: package membership says which change of the configuration comes
// next (G4, F2); here it is given what the leader knows, and its answer is
// proposed.

type memberAsk struct {
	Op   string `json:"op"`
	Name string `json:"name"`
}

// memberWait is an operator's request that is not carried out yet.
type memberWait struct {
	request membership.Request
	actor   string
	began   int64
	done    func(int64, reply)
}

// memberships is what this node keeps of changes of members.
type memberships struct {
	planner *membership.Planner
	wants   []memberWait
	next    int64  // when to decide again
	waiting string // what the next change waits for, for status
}

// memberEvery is the distance of decisions; nothing about members is urgent.
const memberEvery = 50 * time.Millisecond

// maxMemberAsks bounds the requests that wait.
const maxMemberAsks = 16

// confChanged tells the planner of a configuration that was applied.
func (w *worker) confChanged() {
	conf, index := w.state.Conf()
	w.members.planner.Configured(index, conf.Voters)
	w.members.next = 0
}

func memberOf(m storage.Member) membership.Member {
	return membership.Member{Name: m.Name, PublicKey: m.PublicKey, RaftID: m.RaftID, Gateway: m.Role == storage.Gateway, Priority: m.Priority}
}

func memberRecord(m membership.Member) storage.Member {
	role := storage.Witness
	if m.Gateway {
		role = storage.Gateway
	}
	return storage.Member{Name: m.Name, PublicKey: m.PublicKey, RaftID: m.RaftID, Role: role, Priority: m.Priority}
}

func fileMembers(c *config.Config) []membership.Member {
	var out []membership.Member
	for _, m := range c.Members {
		out = append(out, membership.Member{Name: m.Name, PublicKey: m.PublicKey, Gateway: m.Role == config.Gateway, Priority: int32(m.Priority)})
	}
	return out
}

func (w *worker) committedMembers() []membership.Member {
	var out []membership.Member
	for _, m := range w.state.Members() {
		out = append(out, memberOf(m))
	}
	return out
}

// committed tells whether a member of the file is one of the cluster.
func (w *worker) committed(name string) bool {
	_, ok := w.state.MemberByName(name)
	return ok
}

// membershipInput is what the leader knows.
func (w *worker) membershipInput(now int64) membership.Input {
	conf, index := w.state.Conf()
	s := w.raft.Status(now)
	in := membership.Input{
		Self: w.rid, Members: w.committedMembers(),
		Voters: conf.Voters, Learners: conf.Learners, Outgoing: conf.Outgoing, ConfigIndex: index,
		Reported: map[uint64]uint64{w.rid: index}, Alive: map[uint64]bool{}, Seen: map[string]membership.Seen{}, Holds: map[uint64]string{},
		Commit: s.Commit, Pending: s.ConfPending,
		Match: func(id uint64) (uint64, bool) {
			for _, p := range s.Peers {
				if p.Node == id {
					return p.Match, true
				}
			}
			return 0, false
		},
	}
	for name, p := range w.peers {
		if p.beat != nil && p.raftID != 0 {
			// A beat names the later of two indices (G4); what is at least
			// the configuration's has it.
			in.Reported[p.beat.RaftID] = p.beat.Config
			in.Alive[p.raftID] = p.beat.RaftID == p.raftID && p.heard(now, w.timing.Promise)
		}
		if p.helloed && !p.strange(w.notes.cluster) {
			in.Seen[name] = membership.Seen{
				Connected: p.connected, RaftID: p.hello.RaftID, PublicKey: p.member.PublicKey, Since: p.since,
				OldSilent: time.Duration(now - max(p.heardAt, w.ledSince)),
			}
		}
	}
	for _, g := range w.groups {
		if a := w.state.Assignment(g.id); a.Node != 0 {
			in.Holds[a.Node] = g.name
		}
	}
	for _, m := range w.members.wants {
		in.Want = append(in.Want, m.request)
	}
	return in
}

// membersTurn is the leader's part: one change at a time.
func (w *worker) membersTurn(now int64) {
	ms := &w.members
	if now < ms.next {
		return
	}
	ms.next = now + int64(memberEvery)
	d := ms.planner.Decide(now, w.membershipInput(now))
	ms.waiting = d.Wait
	w.answerMembers(now, d.Answers)
	switch {
	case d.Handover:
		w.transferAway(now)
	case d.Change.Kind != 0:
		w.proposeChange(now, d.Change)
	}
}

func (w *worker) proposeChange(now int64, c membership.Change) {
	command := storage.Command{At: w.host.Wall().UnixNano(), Actor: w.memberActor(c)}
	kind := raftpb.ConfChangeRemoveNode
	switch c.Kind {
	case membership.AddLearner:
		kind = raftpb.ConfChangeAddLearnerNode
		command.Op = storage.PutMember{Member: memberRecord(c.Member), Cause: c.Cause}
	case membership.Promote:
		kind = raftpb.ConfChangeAddNode
		m, _ := w.state.MemberByID(c.ID)
		command.Op = storage.PutMember{Member: m, Cause: c.Cause}
	case membership.Drop:
		command.Op = storage.Leave{RaftID: c.ID, Cause: c.Cause}
		if c.Forget {
			command.Op = storage.RemoveMember{RaftID: c.ID, Cause: c.Cause}
		}
	case membership.Forget:
		command.Op = storage.RemoveMember{RaftID: c.ID, Cause: c.Cause}
	}
	var context []byte
	if command.Op != nil {
		var err error
		if context, err = command.Encode(); err != nil {
			w.limited.Warn("change of members not encoded", "error", err)
			return
		}
	}
	w.log.Warn("changing members", "change", c.Kind.String(), "raft_id", hex64(c.ID), "reason", c.Reason)
	var err error
	if c.Kind == membership.Forget {
		err = w.raft.Propose(now, context)
	} else {
		err = w.raft.ProposeConf(now, kind, c.ID, context)
	}
	if err != nil {
		w.limited.Warn("change of members not proposed", "error", err)
	}
}

// memberActor names who asked for a change.
func (w *worker) memberActor(c membership.Change) string {
	for _, m := range w.members.wants {
		if m.request.Name == c.Member.Name || m.request.Old == c.ID && c.ID != 0 {
			return m.actor
		}
	}
	return ""
}

// answerMembers ends the requests that are done or refused.
func (w *worker) answerMembers(now int64, answers []membership.Answer) {
	var left []memberWait
	for i, m := range w.members.wants {
		a := answers[i]
		switch {
		case a.Outcome == membership.Done:
			w.memberDone(now, m, "done")
		case a.Outcome == membership.Refused:
			m.done(now, reply{Error: &control.Error{Code: control.PreconditionFailed, Message: a.Text, Hint: a.Hint}})
		case now-m.began > int64(askLimit-time.Second):
			m.done(now, reply{Error: &control.Error{Code: control.Timeout, Message: "not done yet, and given up: " + a.Text, Hint: "holdfast member list"}})
		default:
			left = append(left, m)
		}
	}
	w.members.wants = left
}

func (w *worker) memberDone(now int64, m memberWait, state string) {
	_, index := w.state.Conf()
	raw, err := json.Marshal(control.MemberResult{Op: m.request.Op.String(), Name: m.request.Name, State: state, Index: index})
	if err != nil {
		m.done(now, reply{Error: &control.Error{Code: control.Internal, Message: err.Error()}})
		return
	}
	m.done(now, reply{Body: raw})
}

// changeMember takes an operator's request, as leader.
func (w *worker) changeMember(now int64, actor string, a memberAsk, done func(int64, reply)) {
	refuse := func(code control.Code, hint, message string) {
		done(now, reply{Error: &control.Error{Code: code, Message: message, Hint: hint}})
	}
	op, ok := membership.ParseOp(a.Op)
	switch {
	case !ok:
		refuse(control.Invalid, "add, remove or replace", fmt.Sprintf("unknown operation %q", a.Op))
		return
	case len(w.members.wants) >= maxMemberAsks:
		refuse(control.NoQuorum, "try again", "too many changes of members wait")
		return
	}
	r := membership.Request{Op: op, Name: a.Name}
	for _, m := range fileMembers(w.cfg) {
		if m.Name == a.Name {
			r.File = m
		}
	}
	r, err := membership.Check(w.membershipInput(now), r)
	if err != nil {
		code, hint := control.PreconditionFailed, ""
		if no, ok := err.(*membership.Refusal); ok {
			hint = no.Hint
			if no.NotFound {
				code = control.NotFound
			}
		}
		refuse(code, hint, err.Error())
		return
	}
	w.recordEventOf(actor, storage.Record{Kind: "operator", Node: w.selfName, Cause: "member " + a.Op, Detail: a.Name})
	w.members.wants = append(w.members.wants, memberWait{request: r, actor: actor, began: now, done: done})
	w.members.next = 0
}

// loseMemberAsk answers who waits at a node that does not lead any more.
func (w *worker) loseMemberAsk(now int64) {
	for _, m := range w.members.wants {
		m.done(now, reply{Error: &control.Error{Code: control.NoQuorum, Message: "the leadership moved before this was done", Hint: "holdfast member list, then try again"}})
	}
	w.members.wants, w.members.waiting = nil, ""
}

// memberList is what this node knows of the members, for the control socket.
func (w *worker) memberList(now int64) control.MemberList {
	var list control.MemberList
	if w.raft == nil {
		return list
	}
	conf, _ := w.state.Conf()
	s := w.raft.Status(now)
	inFile := map[string]bool{}
	for _, m := range w.cfg.Members {
		inFile[m.Name] = true
	}
	for _, m := range w.state.Members() {
		out := control.MemberInfo{Name: m.Name, Role: m.Role.String(), RaftID: hex64(m.RaftID), State: placeOf(conf, m.RaftID), InFile: inFile[m.Name]}
		if p := w.peers[m.Name]; p != nil {
			out.Connected = p.connected
		} else {
			out.Connected = m.Name == w.selfName
		}
		if m.RaftID == w.rid {
			out.Match = s.LastIndex
		}
		for _, p := range s.Peers {
			if p.Node == m.RaftID {
				out.Match = p.Match
			}
		}
		delete(inFile, m.Name)
		list.Members = append(list.Members, out)
	}
	for _, m := range w.cfg.Members {
		if inFile[m.Name] {
			p := w.peers[m.Name]
			list.Members = append(list.Members, control.MemberInfo{Name: m.Name, Role: string(m.Role), State: "absent", InFile: true, Connected: p != nil && p.connected})
		}
	}
	list.Differences = membership.Differences(fileMembers(w.cfg), w.committedMembers())
	list.Waiting = w.members.waiting
	return list
}

// placeOf names the place of a node in a configuration.
func placeOf(conf storage.Conf, id uint64) string {
	switch {
	case conf.Voter(id):
		return "voter"
	case conf.Contains(id):
		return "learner"
	}
	return "absent"
}
