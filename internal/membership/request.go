package membership

import (
	"fmt"
	"slices"
)

// Check accepts a request or says why it makes no sense; the error is a
// *Refusal. What is accepted goes into Input.Want until its Answer is Done or
// Refused.
func Check(in Input, r Request) (Request, error) {
	m, known := in.byName(r.Name)
	switch {
	case r.Op == Add && !known && len(in.Members) >= MaxMembers:
		return r, &Refusal{Message: fmt.Sprintf("there are %d members, and no more are possible", len(in.Members))}
	case r.Op == Add && r.File.Name != r.Name, r.Op == Replace && r.File.Name != r.Name:
		return r, &Refusal{NotFound: true, Message: r.Name + " is not in the leader's configuration file",
			Hint: "add it to the file of every member, then: holdfast reload"}
	case r.Op != Add && !known:
		return r, &Refusal{NotFound: true, Message: r.Name + " is not a member", Hint: "holdfast member list"}
	}
	for _, other := range in.Members {
		if r.Op != Remove && other.Name != r.Name && other.PublicKey == r.File.PublicKey {
			return r, &Refusal{Message: fmt.Sprintf("%s has the key of %s", r.Name, other.Name),
				Hint: "holdfast keygen makes a key for each member"}
		}
	}
	if known {
		r.Old = m.RaftID
	}
	if r.Op == Replace && !in.voter(m.RaftID) {
		r.Old = 0 // under way: asked again, maybe of another leader
	}
	if r.Op == Remove {
		if no := in.mayRemove(m); no != nil {
			return r, no
		}
	}
	return r, nil
}

// mayRemove says what stands against an operator's remove.
func (in *Input) mayRemove(m Member) *Refusal {
	if !in.inConf(m.RaftID) {
		return nil
	}
	if group, ok := in.Holds[m.RaftID]; ok {
		return &Refusal{Message: fmt.Sprintf("%s holds group %s", m.Name, group), Hint: "holdfast failover, then again"}
	}
	if !in.voter(m.RaftID) {
		return nil
	}
	rest := slices.DeleteFunc(slices.Clone(in.Voters), func(id uint64) bool { return id == m.RaftID })
	if len(rest) < MinVoters {
		return &Refusal{Message: fmt.Sprintf("%d voters would be left, and at least %d are needed", len(rest), MinVoters),
			Hint: "add the member that takes its place first: holdfast member add NAME"}
	}
	gateways := 0
	for _, id := range rest {
		if other, ok := in.byID(id); ok && other.Gateway {
			gateways++
		}
	}
	if gateways == 0 {
		return &Refusal{Message: m.Name + " is the last gateway", Hint: "add another first: holdfast member add NAME"}
	}
	if why := in.dropBreaks(m.RaftID); why != "" {
		return &Refusal{Message: why, Hint: "holdfast status shows who is missing"}
	}
	return nil
}

// dropBreaks says what keeps id from being removed: without it those that are
// heard must be a majority of the rest, and they must be one now to commit it.
func (in *Input) dropBreaks(id uint64) string {
	if !in.voter(id) {
		return ""
	}
	alive, rest, restAlive := 0, 0, 0
	for _, v := range in.Voters {
		if in.alive(v) {
			alive++
		}
		if v == id {
			continue
		}
		rest++
		if in.keepsUp(v) {
			restAlive++
		}
	}
	switch {
	case rest == 0:
		return "it is the only voter"
	case alive < majority(len(in.Voters)):
		return fmt.Sprintf("only %d of %d voters are heard", alive, len(in.Voters))
	case restAlive < majority(rest):
		return fmt.Sprintf("without it only %d of %d voters would be there and up to date", restAlive, rest)
	}
	return ""
}

// keepsUp tells whether a voter can carry the commits of a smaller quorum: one
// that is being filled itself would hold them up.
func (in *Input) keepsUp(id uint64) bool {
	if !in.alive(id) {
		return false
	}
	if id == in.Self {
		return true
	}
	match, known := in.Match(id)
	return known && match+keepUp >= in.Commit
}

// keepUp is how many entries a voter may lack under load and still count as up
// to date.
const keepUp = 16 << 10

// requests goes on with what operators asked for.
func (pl *plan) requests() {
	for i := range pl.d.Answers {
		a := &pl.d.Answers[i]
		switch a.Op {
		case Add:
			pl.add(a)
		case Remove:
			pl.remove(a)
		case Replace:
			pl.replace(a)
		default:
			a.refuse(&Refusal{Message: "unknown operation " + a.Op.String()})
		}
	}
}

func (a *Answer) refuse(r *Refusal) { a.Outcome, a.Text, a.Hint = Refused, r.Message, r.Hint }

// work says what a request waits for.
func (pl *plan) work(a *Answer, format string, args ...any) {
	a.Text = fmt.Sprintf(format, args...)
	pl.wait(0, "%s %s: %s", a.Op, a.Name, a.Text)
}

func (pl *plan) add(a *Answer) {
	in := pl.in
	if m, ok := in.byName(a.Name); ok {
		switch {
		case in.voter(m.RaftID):
			a.Outcome, a.Text = Done, "it is a voter"
		case in.learner(m.RaftID):
			pl.work(a, "it is a learner until it has caught up")
		default:
			pl.work(a, "it is to be added again") // fill does it
		}
		return
	}
	seen := in.Seen[a.Name]
	if !seen.Connected || seen.RaftID == 0 {
		pl.work(a, "waiting for it to connect")
		return
	}
	to, why := in.successor(a.File, seen)
	if why != "" {
		pl.work(a, "%s", why)
		return
	}
	if pl.filling() {
		pl.work(a, "waiting for another member to be filled first")
		return
	}
	pl.work(a, "it is being added")
	pl.propose(Change{Kind: AddLearner, ID: to.RaftID, Member: to, Cause: "operator", Reason: "add " + a.Name + " as a learner"})
}

// filling tells whether a learner is on its way, or about to be added.
func (pl *plan) filling() bool {
	return pl.d.Change.Kind == AddLearner || slices.ContainsFunc(pl.in.Learners, pl.in.alive)
}

func (pl *plan) remove(a *Answer) {
	in := pl.in
	m, ok := in.byID(a.Old)
	switch {
	case !ok && !in.inConf(a.Old):
		a.Outcome, a.Text = Done, "it is no member any more"
		return
	case !ok || in.Pending:
		pl.work(a, "a change is being committed") // or repairs is to remove an orphan
		return
	}
	if no := in.mayRemove(m); no != nil {
		a.refuse(no)
		return
	}
	if a.Old == in.Self {
		pl.handover(a)
		return
	}
	pl.work(a, "it is being removed")
	if !in.inConf(m.RaftID) {
		pl.propose(Change{Kind: Forget, ID: m.RaftID, Member: m, Cause: "operator", Reason: "forget " + m.Name})
		return
	}
	pl.propose(Change{Kind: Drop, ID: m.RaftID, Member: m, Forget: true, Cause: "operator", Reason: "remove " + m.Name})
}

// handover lets another leader do what concerns this one.
func (pl *plan) handover(a *Answer) {
	pl.work(a, "it leads: another has to take over first")
	if pl.d.Change.Kind == 0 {
		pl.d.Handover = true
	}
}

// replace goes on with the replacement of a machine; the steps are those of a
// member that lost its data, under the key that the file has now.
func (pl *plan) replace(a *Answer) {
	in := pl.in
	m, ok := in.byName(a.Name)
	seen := in.Seen[a.Name]
	switch {
	case !ok:
		a.refuse(&Refusal{Message: a.Name + " is not a member any more", Hint: "holdfast member add " + a.Name})
	case m.RaftID != a.Old && in.voter(m.RaftID):
		a.Outcome, a.Text = Done, "it is a voter under a new raft id"
	case m.RaftID != a.Old:
		pl.work(a, "it is a learner until it has caught up")
	case a.Old == in.Self:
		pl.handover(a)
	case !seen.Connected || seen.RaftID == a.Old:
		a.Hint = "stop " + a.Name + " and start its successor, or start it with an empty data directory"
		pl.work(a, "waiting for it to connect under a new raft id")
	default:
		pl.work(a, "its old raft id is being replaced") // lost and fill do it
	}
}
