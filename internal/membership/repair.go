package membership

import (
	"fmt"
	"maps"
	"slices"
)

// repairs finds what has to be done without an operator: finish what was
// begun, then replace what lost its data, one member at a time.
func (pl *plan) repairs() {
	in := pl.in
	pl.orphans()
	busy := pl.promotions()
	for _, m := range in.Members {
		if !in.inConf(m.RaftID) && m.RaftID != in.Self {
			busy = pl.fill(m) || busy
		}
	}
	for _, m := range in.Members {
		if m.RaftID == in.Self || !in.inConf(m.RaftID) || in.Seen[m.Name].RaftID == m.RaftID {
			continue
		}
		pl.lost(m, busy)
	}
}

// orphans are ids that no member has: left by nobody that is known.
func (pl *plan) orphans() {
	for _, id := range slices.Concat(pl.in.Learners, pl.in.Voters) {
		if _, ok := pl.in.byID(id); ok || id == pl.in.Self {
			continue
		}
		if why := pl.in.dropBreaks(id); why != "" {
			pl.wait(0, "node %x belongs to no member, but %s", id, why)
			continue
		}
		pl.propose(Change{Kind: Drop, ID: id, Cause: "orphan", Reason: "remove a node that belongs to no member"})
	}
}

// promotions makes voters of learners that have caught up. It tells whether a
// learner is on its way: then nobody else is begun with.
func (pl *plan) promotions() (busy bool) {
	in := pl.in
	maps.DeleteFunc(pl.p.ready, func(id uint64, _ int64) bool { return !in.learner(id) || !in.alive(id) })
	for _, m := range in.Members {
		if !in.learner(m.RaftID) || in.Seen[m.Name].RaftID != m.RaftID || in.leaving(m.RaftID) {
			continue
		}
		if !in.alive(m.RaftID) {
			pl.wait(0, "%s has joined and is not heard", m.Name)
			continue
		}
		busy = true
		match, known := in.Match(m.RaftID)
		switch {
		case !known || match+CaughtUp < in.Commit:
			pl.wait(0, "%s is being filled: index %d of %d", m.Name, match, in.Commit)
		case in.Reported[m.RaftID] < in.ConfigIndex:
			delete(pl.p.ready, m.RaftID)
			pl.wait(0, "%s has yet to apply that it joined", m.Name)
		case pl.now < pl.grants(m.RaftID):
			pl.wait(pl.grants(m.RaftID), "%s may not grant yet", m.Name)
		default:
			pl.propose(Change{Kind: Promote, ID: m.RaftID, Member: m, Cause: pl.cause(m), Reason: m.Name + " has caught up: make it a voter"})
		}
	}
	return busy
}

// grants is from when a learner may grant, were it a voter: P after its start
// (G2), which was before it reported anything. Where every voter counts, as
// after a recovery, its promotion would else end the lease of the holder.
func (pl *plan) grants(id uint64) int64 {
	if pl.p.ready[id] == 0 {
		pl.p.ready[id] = pl.now
	}
	return pl.p.ready[id] + pl.p.promise
}

// cause says whether an operator asked for what is done to a member.
func (pl *plan) cause(m Member) string {
	for _, r := range pl.in.Want {
		if r.Name == m.Name {
			return "operator"
		}
	}
	return "new_data"
}

// fill adds a member as a learner whose old id has been removed. It tells
// whether the member is there to be filled.
func (pl *plan) fill(m Member) bool {
	in := pl.in
	if in.leaving(m.RaftID) {
		return false
	}
	seen := in.Seen[m.Name]
	if !seen.Connected || seen.RaftID == 0 {
		pl.wait(0, "%s is out of the configuration until it is back", m.Name)
		return false
	}
	to, why := in.successor(m, seen)
	if why != "" {
		pl.wait(0, "%s", why)
		return false
	}
	pl.propose(Change{Kind: AddLearner, ID: to.RaftID, Member: to, Cause: pl.cause(m), Reason: "add " + m.Name + " as a learner"})
	return true
}

// leaving tells whether an operator wants a node gone.
func (in *Input) leaving(id uint64) bool {
	return slices.ContainsFunc(in.Want, func(r Request) bool { return r.Op == Remove && r.Old == id })
}

// successor returns the record under which a member goes on, if what its
// connection shows may take its place; else why not.
func (in *Input) successor(m Member, seen Seen) (to Member, why string) {
	for _, other := range in.Members {
		if other.Name != m.Name && other.RaftID == seen.RaftID {
			return Member{}, fmt.Sprintf("%s shows the raft id of %s: is its disk a copy?", m.Name, other.Name)
		}
	}
	if seen.RaftID == in.Self || seen.RaftID != m.RaftID && in.inConf(seen.RaftID) {
		return Member{}, m.Name + " shows a raft id that is in use: is its disk a copy?"
	}
	to = m
	for _, r := range in.Want {
		if r.Op == Replace && r.Name == m.Name {
			to = r.File
		}
	}
	if seen.PublicKey != to.PublicKey {
		return Member{}, fmt.Sprintf("%s shows another key than the committed one: holdfast member replace %s", m.Name, m.Name)
	}
	to.RaftID = seen.RaftID
	return to, ""
}

// lost replaces a member whose connection shows another raft id than the
// committed one (F2): its old id is dead when it has been silent for P.
func (pl *plan) lost(m Member, busy bool) {
	in := pl.in
	seen := in.Seen[m.Name]
	if !seen.Connected || seen.RaftID == 0 || in.leaving(m.RaftID) {
		return // only away, or not for long
	}
	if _, why := in.successor(m, seen); why != "" {
		pl.wait(0, "%s", why)
		return
	}
	// The old id may be alive on a copy of the disk, and a node that changes
	// its id again and again is not worth a change each time.
	ready := max(seen.Since, pl.now-int64(seen.OldSilent)) + pl.p.promise
	switch {
	case pl.now < ready:
		pl.wait(ready, "%s has new data: waiting until the old has been silent for long enough", m.Name)
		return
	case in.alive(m.RaftID):
		pl.wait(0, "%s has new data, but its old raft id is heard too: is its disk a copy?", m.Name)
		return
	case busy:
		pl.wait(0, "%s has new data: waiting for another member to be filled first", m.Name)
		return
	}
	if why := in.dropBreaks(m.RaftID); why != "" {
		pl.wait(0, "%s has new data, but %s", m.Name, why)
		return
	}
	pl.propose(Change{Kind: Drop, ID: m.RaftID, Member: m, Cause: pl.cause(m), Reason: m.Name + " has new data: remove its old raft id"})
}
