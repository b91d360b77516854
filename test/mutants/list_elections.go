package main

// Section 3 of the protocol: who campaigns, who is followed, and what a leader
// says first (E1-E8).

const (
	quorumPkg = "./internal/quorum"

	electionFile = "internal/quorum/election.go"
	driverFile   = "internal/quorum/driver.go"
	processFile  = "internal/quorum/process.go"
)

var electionMutants = []mutant{
	{
		name: "e1-silent-leader-not-lost", rule: "E1", bug: "a leader that is silent for P is not lost",
		file:  electionFile,
		edit:  edit{"return min(alive+int64(e.promise), e.leader.over)", "_ = alive\n	return e.leader.over"},
		catch: []catcher{test(quorumPkg, "TestSilentLeaderIsReplacedAfterPromise"), sim(200)},
	},
	{
		name: "e1-deaf-leader-not-lost", rule: "E1", bug: "a leader that sends but hears nobody keeps its followers",
		file:  electionFile,
		edit:  edit{"alive := min(e.leader.at, e.evidenceAt())", "alive := e.leader.at"},
		catch: []catcher{test(quorumPkg, "TestDeafLeaderIsReplaced")},
	},
	{
		name: "e1-over-ignored", rule: "E1", bug: "the note over the leader's incarnation does not depose it at once",
		file:  electionFile,
		edit:  edit{"		e.leader.over = min(e.leader.over, now)\n", ""},
		catch: []catcher{test(quorumPkg, "TestOverElectsAtOnce"), sim(200)},
	},
	{
		name: "e1-any-over-deposes", rule: "E1", bug: "the note over an earlier incarnation of the leader's node deposes the leader",
		file:  electionFile,
		edit:  edit{"if node == e.leader.node && (incarnation == e.leader.incarnation || e.leader.incarnation == 0) {", "if node == e.leader.node {"},
		catch: []catcher{test(quorumPkg, "TestOverOfOthersDeposesNobody", "TestLostNeedsClaimsAndEvidence")},
	},
	{
		name: "e2-lost-leader-not-forgotten", rule: "E2", bug: "a voter whose leader is lost still knows it when it is asked for a vote, and raft ignores the request",
		file:  driverFile,
		edit:  edit{"	if d.el.lost(now) {\n		d.forgetLeader()\n		return\n	}\n	if m.GetType()", "	if m.GetType()"},
		catch: []catcher{test(quorumPkg, "TestLeaderIsForgottenBeforeAVote")},
	},
	{
		name: "e2-frames-of-an-ended-leader", rule: "E2", bug: "raft frames of an incarnation that is over are taken",
		file:  driverFile,
		edit:  edit{"	if d.el.isOver(from, incarnation) {\n		return false // E2\n	}\n", ""},
		catch: []catcher{test(quorumPkg, "TestFramesOfEndedIncarnationAreDropped")},
	},
	{
		name: "e3-campaign-as-candidate", rule: "E3", bug: "a candidate campaigns again before its votes can have been stored and counted",
		file:  electionFile,
		edit:  edit{"	case candidate:\n		return max(due, again, e.guard)", "	case candidate:\n		return again"},
		catch: []catcher{test(quorumPkg, "TestCampaignGuards", "TestSlowVotesAreNotThrownAway")},
	},
	{
		name: "e3-no-wait-after-a-vote", rule: "E3", bug: "who has just cast a vote campaigns against the candidate it voted for",
		file:  electionFile,
		edit:  edit{"	e.guard = now + int64(wait) + e.random(int64(e.promise/4)+1)\n", "	_ = wait\n"},
		catch: []catcher{test(quorumPkg, "TestCampaignGuards")},
	},
	{
		name: "e3-campaign-against-a-known-leader", rule: "E3", bug: "a follower that knows a leader campaigns",
		file:  electionFile,
		edit:  edit{"		if v.lead != 0 {\n			return never\n		}\n", ""},
		catch: []catcher{test(quorumPkg, "TestCampaignGuards")},
	},
	{
		name: "e3-fallback-breaks-the-wait", rule: "E3", bug: "raft's own election timeout campaigns while E3 holds the node back",
		file:  driverFile,
		edit:  edit{"if d.abstains() || d.full || now < d.el.guard || ", "if d.abstains() || d.full || "},
		catch: []catcher{test(quorumPkg, "TestFallbackKeepsTheWait")},
	},
	{
		name: "e4-ranks-do-not-wait", rule: "E4", bug: "all voters campaign at the same time and split the votes",
		file:  electionFile,
		edit:  edit{"	return add(lost, int64(rank)*int64(step))\n", "	return lost\n"},
		catch: []catcher{test(quorumPkg, "TestSilenceSecondRankWaitsOneBeat")},
	},
	{
		name: "e4-witness-does-not-wait", rule: "E4", bug: "a witness campaigns along with the gateways",
		file:  electionFile,
		edit:  edit{"witnessWait*int64(e.promise)+", "0*int64(e.promise)+"},
		catch: []catcher{test(quorumPkg, "TestWitnessCampaignsAfterThreePromises")},
	},
	{
		name: "e4-lost-leader-keeps-its-rank", rule: "E4", bug: "the turn of the lost leader is waited for",
		file:  electionFile,
		edit:  edit{"		if m.RaftID == e.leader.node {\n			continue\n		}\n", ""},
		catch: []catcher{test(quorumPkg, "TestRanks")},
	},
	{
		name: "e4-newest-log-waits", rule: "E4", bug: "a voter that must reject all others for their older log waits for its turn",
		file:  driverFile,
		edit:  edit{"		d.el.urgent = true // E4: our log is newer, so we go first\n", ""},
		catch: []catcher{test(quorumPkg, "TestWitnessWithNewestLogLeadsFirst")},
	},
	{
		name: "e5-assign-after-the-first-batch", rule: "E5", bug: "the Assign of a new leader waits until its first entry was stored",
		file:  processFile,
		edit:  edit{"joinFirst(m, rd.Entries)", "joinFirst(m, nil)"},
		catch: []catcher{test(quorumPkg, "TestAssignTravelsWithTheFirstEntry")},
	},
	{
		name: "e5-decides-from-what-is-applied", rule: "E5", bug: "a new leader does not see an Assign in its log that is not applied yet",
		file:  "internal/quorum/tail.go",
		edit:  edit{"	if d.tail.control == 0 {\n		return st\n", "	if true {\n		return st\n"},
		catch: []catcher{test(quorumPkg, "TestNewLeaderSeesAssignsNotYetApplied")},
	},
	{
		name: "e6-transfer-with-a-pending-assign", rule: "E6", bug: "leadership moves while an Assign is not applied",
		file:  "internal/quorum/transfer.go",
		edit:  edit{"case d.tail.assignPending():", "case false:"},
		catch: []catcher{test(quorumPkg, "TestTransferOnlyToOneWhoIsReady")},
	},
	{
		name: "e6-transfer-to-one-behind", rule: "E6", bug: "leadership moves to a node that lacks entries",
		file:  "internal/quorum/transfer.go",
		edit:  edit{"d.match(to) != last {", "d.match(to) > last {"},
		catch: []catcher{test(quorumPkg, "TestTransferOnlyToOneWhoIsReady")},
	},
	{
		name: "e6-transfer-never-aborted", rule: "E6", bug: "a transfer that does not end refuses writes for ever",
		file:  "internal/quorum/transfer.go",
		edit:  edit{"now-d.transfer.since >= int64(d.cfg.Promise/2)", "false"},
		catch: []catcher{test(quorumPkg, "TestTransferEnds")},
	},
	{
		name: "e7-burst-of-ticks", rule: "E7", bug: "the ticks missed in a pause are made up for at once",
		file:  driverFile,
		edit:  edit{"		d.slot = slot\n		d.raftTick(now)\n", "		for ; d.slot < slot; d.slot++ {\n			d.raftTick(now)\n		}\n"},
		catch: []catcher{test(quorumPkg, "TestBurstOfTicksIsOneTick")},
	},
	{
		name: "e7-silence-of-a-stall-counts", rule: "E7", bug: "a node that was paused takes its own silence for the leader's",
		file: electionFile,
		edit: edit{
			"	e.leader.at = max(e.leader.at, now)\n	for id, s := range e.leader.shown {\n		s.at = max(s.at, now)\n",
			"	for id, s := range e.leader.shown {\n",
		},
		catch: []catcher{test(quorumPkg, "TestStallRestartsTheTimers")},
	},
	{
		name: "e7-placement-counts-a-stall", rule: "E7", bug: "a leader that was paused takes the holder for lost",
		file:  "internal/placement/tracker.go",
		edit:  edit{"func (t *Tracker) Stalled(now int64) { t.base = max(t.base, now) }", "func (t *Tracker) Stalled(now int64) {}"},
		catch: []catcher{test("./internal/placement", "TestE7StallRestartsTheTimers")},
	},
	{
		name: "e7-timers-before-the-news", rule: "E7", bug: "timers are judged before what has come in meanwhile is read",
		file:  "internal/node/loop.go",
		edit:  edit{"	w.drain()\n	w.turn(w.clk.Boottime())\n", "	w.turn(w.clk.Boottime())\n	w.drain()\n"},
		catch: []catcher{test(nodePkg, "TestE7NewsBeforeTimers")},
	},
	{
		name: "e8-stuck-leader-claims", rule: "E8", bug: "a leader that cannot store goes on claiming leadership",
		file:  driverFile,
		edit:  edit{"return d.failed == nil && d.view().role == leader && !d.stuck(now)", "return d.failed == nil && d.view().role == leader"},
		catch: []catcher{test(quorumPkg, "TestStuckLeaderStopsClaiming")},
	},
	{
		name: "e8-stuck-leader-heartbeats", rule: "E8", bug: "a leader that cannot store goes on sending raft heartbeats",
		file:  "internal/quorum/send.go",
		edit:  edit{"		if d.stuck(now) {\n			return // E8\n		}\n", ""},
		catch: []catcher{test(quorumPkg, "TestStuckLeaderStopsClaiming")},
	},
	{
		name: "e8-stuck-follower-campaigns", rule: "E8", bug: "a node that cannot store makes others vote for it",
		file:  driverFile,
		edit:  edit{"d.el.mayCampaign(now, d.view()) && !d.stuck(now) {", "d.el.mayCampaign(now, d.view()) {"},
		catch: []catcher{test(quorumPkg, "TestStuckFollowerDoesNotCampaign")},
	},
	{
		name: "g6-abstaining-node-votes", rule: "G6", bug: "a node that abstains, or is no member, votes",
		file:  driverFile,
		edit:  edit{"	if isVote(m) && !d.votes() || ", "	if "},
		catch: []catcher{test(quorumPkg, "TestAbstainingNodeDoesNotVote")},
	},
	{
		name: "g6-abstaining-node-campaigns", rule: "G6", bug: "a node that abstains, or is no voter, campaigns",
		file:  driverFile,
		edit:  edit{"	if !d.abstains() && !d.full && d.el.mayCampaign", "	if !d.full && d.el.mayCampaign"},
		catch: []catcher{test(quorumPkg, "TestAbstainingNodeDoesNotVote")},
	},
	{
		name: "raft-answers-before-it-stores", rule: "I7", bug: "votes and acknowledgements leave before what they promise is on disk",
		file:  processFile,
		edit:  edit{"	w := write{token: token, since: now, responses: responses}\n", "	w := write{token: token, since: now}\n	defer d.respond(now, responses)\n"},
		catch: []catcher{test(quorumPkg, "TestSiteWidePowerCut", "TestRandomFaults"), sim(200)},
	},
	{
		name: "raft-failed-write-answered", rule: "I8", bug: "votes and acknowledgements leave although the write that they promise has failed",
		file:  processFile,
		edit:  edit{"	if c.err != nil {\n		d.failed = fmt.Errorf(\"store raft log: %w\", c.err)\n		return d.failed\n	}\n", ""},
		catch: []catcher{test(quorumPkg, "TestFailedWriteAnswersNothing"), sim(200)},
	},
	{
		name: "raft-applies-before-commit", rule: "I4", bug: "entries are applied as soon as they are in the log",
		file: processFile,
		edit: edit{
			"	for _, e := range m.GetEntries() {\n		d.tail.hand(e)\n",
			"	for _, e := range append(m.GetEntries()[:len(m.GetEntries()):len(m.GetEntries())], d.tail.entries[min(len(m.GetEntries()), len(d.tail.entries)):]...) {\n		if e.GetIndex() <= d.tail.handed {\n			continue\n		}\n		d.tail.hand(e)\n",
		},
		catch: []catcher{test(quorumPkg, "TestRandomFaults"), sim(200)},
	},
	{
		name: "raft-read-without-majority", rule: "I3", bug: "a leader answers reads without asking a majority, also when it has been replaced",
		file:  driverFile,
		edit:  edit{"		DisableProposalForwarding: true, StepDownOnRemoval: true,\n", "		DisableProposalForwarding: true, StepDownOnRemoval: true, ReadOnlyOption: raft.ReadOnlyLeaseBased,\n"},
		catch: []catcher{test(quorumPkg, "TestDeposedLeaderConfirmsNoRead"), sim(200)},
	},
	{
		name: "raft-hard-state-lost", rule: "I7", bug: "a vote that changed is not given to the log",
		file:  processFile,
		edit:  edit{"hs.GetTerm() != d.stored.term || hs.GetVote() != d.stored.vote)", "hs.GetTerm() != d.stored.term)"},
		catch: []catcher{test(quorumPkg, "TestVoteInAKnownTermIsStored")},
	},
}
