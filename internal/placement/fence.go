package placement

// unfences lifts automatic fences (A6): in the first batch of a new leader for
// itself and every member that it hears both ways, later for a member that is
// heard both ways and has applied what was committed when it came back. An
// operator's fence is never lifted here. lifted are the members that count as
// unfenced in this batch, whose first entries end their fences.
func (t *Tracker) unfences(now int64, commit uint64) (actions []Action, lifted []uint64) {
	for _, m := range t.members {
		if !m.Fenced || m.FencedByOperator {
			continue
		}
		p := t.peers[m.Node]
		if !t.hearsBothWays(now, m.Node) {
			if p != nil {
				p.catchUpTo = 0
			}
			continue
		}
		if m.Node != t.self && !t.firstBatch {
			if p.catchUpTo == 0 {
				p.catchUpTo = commit
			}
			if p.applied < p.catchUpTo {
				continue
			}
		}
		if t.mayPropose(now, m.Node) {
			lifted = append(lifted, m.Node)
			actions = append(actions, Action{Kind: Unfence, Node: m.Node})
		}
	}
	return actions, lifted
}

// fences proposes a fence for every gateway that was silent for the fence
// delay, counted from the beginning of our leadership at the earliest, and from
// when it became a member. Never
// fenced are this node, a witness (it answers for no VIP), a holder that a
// majority still grants to, and anybody while we do not hear a majority: such
// an entry could be committed after the partition that hides the others.
func (t *Tracker) fences(now int64) (actions []Action) {
	if t.cfg.FenceDelay <= 0 || !t.hearsMajority(now) {
		return nil
	}
	for _, m := range t.members {
		if m.Node == t.self || !m.Gateway || m.Fenced {
			continue
		}
		since, known := t.memberSince[m.Node]
		if !known {
			since = now
			t.memberSince[m.Node] = now
		}
		heardAt := max(t.leadingSince, since)
		if p := t.peers[m.Node]; p != nil {
			heardAt = max(heardAt, p.heardAt)
		}
		if t.passed(now, heardAt, t.cfg.FenceDelay) && !t.isGranted(now, m.Node) && t.mayPropose(now, m.Node) {
			actions = append(actions, Action{Kind: Fence, Node: m.Node})
		}
	}
	return actions
}

// hearsMajority tells whether a majority of the voters, this node included,
// is heard both ways.
func (t *Tracker) hearsMajority(now int64) bool {
	voters, heard := 0, 0
	for _, m := range t.members {
		if !m.Voter {
			continue
		}
		voters++
		if t.hearsBothWays(now, m.Node) {
			heard++
		}
	}
	return heard >= voters/2+1
}

// isGranted tells whether the node holds a group by the word of a majority.
func (t *Tracker) isGranted(now int64, node uint64) bool {
	for _, g := range t.groups {
		if g.view.Node == node && t.majorityReports(now, g) {
			return true
		}
	}
	return false
}

// mayPropose keeps a fence or its end from being proposed in every turn until
// the first one is applied: at most once in P for a node.
func (t *Tracker) mayPropose(now int64, node uint64) bool {
	p := t.peer(node)
	if p == nil || p.fenceAsked != 0 && now-p.fenceAsked < int64(t.cfg.Promise) {
		return false
	}
	p.fenceAsked = now
	return true
}
