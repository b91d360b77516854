package main

// Section 2 of the protocol: what a voter grants (G1-G4, G6) and what a holder
// counts (G7, G8).

const (
	leasePkg = "./internal/lease"
	nodePkg  = "./internal/node"

	voterFile  = "internal/lease/voter.go"
	holderFile = "internal/lease/holder.go"
	applyFile  = "internal/node/apply.go"
	beatsFile  = "internal/node/beats.go"
)

var grantMutants = []mutant{
	{
		name: "g1-granted-elsewhere", rule: "G1", bug: "a voter grants although its grant to another holder has not expired",
		file:  voterFile,
		edit:  edit{"case now < g.grant.until && !g.grant.sameWorker(id):", "case false:"},
		catch: []catcher{test(leasePkg, "TestG1OneUnexpiredGrant"), sim(200)},
	},
	{
		name: "g1-new-worker-is-old-holder", rule: "G1", bug: "another incarnation of the same node counts as the same holder",
		file:  voterFile,
		edit:  edit{"return g.node == id.node && g.incarnation == id.incarnation", "return g.node == id.node"},
		catch: []catcher{test(leasePkg, "TestG1NewIncarnationIsAnotherHolder")},
	},
	{
		name: "g1-shorter-promise-cuts-older", rule: "G1", bug: "a renewal under a shorter promise ends an older, longer one early",
		file:  voterFile,
		edit:  edit{"until = max(until, g.grant.until)", "_ = until"},
		catch: []catcher{test(leasePkg, "TestG2ShorterPromiseKeepsOldOnes")},
	},
	{
		name: "g2-restart-hole", rule: "G2", bug: "a voter that has just started grants at once, though it may have granted before",
		file:  voterFile,
		edit:  edit{"case now < v.openAt:", "case false:"},
		catch: []catcher{test(leasePkg, "TestG2NothingAfterStart"), sim(200)},
	},
	{
		name: "g2-stored-promise-ignored", rule: "G2", bug: "the wait after a start is the promise configured now, not the longer one given before",
		file:  "internal/node/worker.go",
		edit:  edit{"wait := max(stored, w.timing.Promise)", "wait := w.timing.Promise"},
		catch: []catcher{test(nodePkg, "TestG2WaitAfterStart")},
	},
	{
		name: "g2-promise-replaced-at-start", rule: "G2", bug: "a shorter promise replaces the stored one before the wait for that is over",
		file:  "internal/node/worker.go",
		edit:  edit{"if w.timing.Promise >= stored {", "if true {"},
		catch: []catcher{test(nodePkg, "TestG2WaitAfterStart")},
	},
	{
		name: "g2-promise-not-stored", rule: "G2", bug: "the promise is not on disk before the first grant",
		file:  "internal/node/worker.go",
		edit:  edit{"if w.timing.Promise >= stored {", "if false {"},
		catch: []catcher{test(nodePkg, "TestG2WaitAfterStart")},
	},
	{
		name: "g3-old-epoch-granted", rule: "G3", bug: "a voter grants an epoch lower than one it has seen",
		file:  voterFile,
		edit:  edit{"case r.Epoch < g.seen || r.Epoch == 0:", "case r.Epoch == 0:"},
		catch: []catcher{test(leasePkg, "TestG3LowerThanSeen")},
	},
	{
		name: "g3-grant-turned-back", rule: "G3", bug: "only applied epochs count as seen, so a grant can turn back to an epoch older than the one granted last",
		file:  voterFile,
		edit:  edit{"	g.seen = max(g.seen, r.Epoch)\n	if reason", "	if reason"},
		catch: []catcher{test(leasePkg, "TestG3LowerThanSeen")},
	},
	{
		name: "g3-released-epoch-granted", rule: "G3", bug: "a voter grants an epoch that its holder has released",
		file:  voterFile,
		edit:  edit{"case g.hasReleased(id):", "case false:"},
		catch: []catcher{test(leasePkg, "TestG3ReleasedEpoch")},
	},
	{
		name: "g3-ended-incarnation-granted", rule: "G3", bug: "a voter grants to an incarnation that is over",
		file:  voterFile,
		edit:  edit{"case v.ended.has(r.Node, r.Incarnation):", "case false:"},
		catch: []catcher{test(leasePkg, "TestG3EndedIncarnation")},
	},
	{
		name: "g3-wrong-holder-granted", rule: "G3", bug: "an epoch is granted to another worker than the Assign names",
		file:  voterFile,
		edit:  edit{"case g.assigned.names(r.Epoch) && g.assigned != id, g.granted.names(r.Epoch) && g.granted != id:", "case false:"},
		catch: []catcher{test(leasePkg, "TestG3WrongHolder")},
	},
	{
		name: "g3-holder-ignores-higher-epoch", rule: "G3", bug: "a holder that is shown a higher epoch goes on holding",
		file:  holderFile,
		edit:  edit{"return g != nil && r.Highest > g.epoch", "return g != nil && r.Highest < g.epoch"},
		catch: []catcher{test(leasePkg, "TestG3HigherEpochShown")},
	},
	{
		name: "g3-epochs-of-beats-ignored", rule: "G3", bug: "a holder that nobody refuses does not learn of a higher epoch from beats",
		file:  beatsFile,
		edit:  edit{"ok && r.Epoch > held && r.Epoch > g.applied", "ok && false && r.Epoch > held && r.Epoch > g.applied"},
		catch: []catcher{test(nodePkg, "TestG3HigherEpochInABeat")},
	},
	{
		name: "g3-snapshot-epochs-forgotten", rule: "G3", bug: "the epochs of a state that came as a snapshot do not count as seen",
		file:  "internal/node/snapshots.go",
		edit:  edit{"		w.voter.Applied(g.ID, a.Epoch, a.Node, a.Incarnation)\n", ""},
		catch: []catcher{test(nodePkg, "TestG3EpochsOfASnapshotAreSeen")},
	},
	{
		name: "g4-old-configuration-granted", rule: "G4", bug: "a voter grants to a holder that counts in a configuration that is no more",
		file:  voterFile,
		edit:  edit{"case r.Config < v.config:", "case false:"},
		catch: []catcher{test(leasePkg, "TestG4OldConfiguration")},
	},
	{
		name: "g4-one-half-counts", rule: "G4", bug: "a holder counts the majority of one half of a joint configuration",
		file:  holderFile,
		edit:  edit{"	for _, half := range h.halves {\n		acked :=", "	for _, half := range h.halves[:1] {\n		acked :="},
		catch: []catcher{test(leasePkg, "TestG4MajorityOfEveryHalf")},
	},
	{
		name: "g4-groups-are-no-configuration", rule: "G4", bug: "a change of the groups does not count as a configuration that a request must have applied",
		file:  applyFile,
		edit:  edit{"	index = max(index, w.state.GroupsIndex())\n	w.voter.AppliedConfig", "	w.voter.AppliedConfig"},
		catch: []catcher{test(nodePkg, "TestG4GroupsCountAsConfiguration")},
	},
	{
		name: "g4-unstored-configuration-reported", rule: "G4", bug: "a node reports a configuration from a snapshot that its log does not follow on disk yet",
		file:  applyFile,
		edit:  edit{"if w.unstored > 0 {", "if false {"},
		catch: []catcher{test(nodePkg, "TestG4UnstoredConfigurationIsNotReported")},
	},
	{
		name: "g6-abstaining-voter-grants", rule: "G6", bug: "a node that is no voter, or abstains, grants",
		file:  voterFile,
		edit:  edit{"case v.abstains:", "case false:"},
		catch: []catcher{test(leasePkg, "TestG6NoVoterNoGrant"), sim(200)},
	},
	{
		name: "g6-grants-before-it-knows-its-log", rule: "G6", bug: "a voter grants before it has applied again what its log held when it started",
		file:  applyFile,
		edit:  edit{"w.voter.SetVoting(conf.Voter(w.rid) && w.grantFrom == 0)", "w.voter.SetVoting(conf.Voter(w.rid))"},
		catch: []catcher{test(nodePkg, "TestG3NoGrantBeforeTheLogIsApplied")},
	},
	{
		name: "g6-no-voter-grants", rule: "G6", bug: "a node whose raft id is not in the configuration grants",
		file:  applyFile,
		edit:  edit{"w.voter.SetVoting(conf.Voter(w.rid) && w.grantFrom == 0)", "w.voter.SetVoting(len(conf.Voters) > 0 && w.grantFrom == 0)"},
		catch: []catcher{test(nodePkg, "TestG6StrangerDoesNotGrant"), sim(200)},
	},
	{
		name: "g7-released-epoch-resumed", rule: "G7", bug: "a worker asks again for an epoch that it has released",
		file:  holderFile,
		edit:  edit{"	if epoch == last.epoch && last.released {", "	if false {"},
		also:  []edit{{"	if epoch <= last.epoch {", "	if epoch < last.epoch {"}},
		catch: []catcher{test(leasePkg, "TestG7ReleasedEpochNeverBeginsAgain")},
	},
	{
		name: "g7-epoch-of-another-worker", rule: "G7", bug: "a worker takes an epoch that names an earlier incarnation of its node",
		file:  applyFile,
		edit:  edit{"mine := a.Node == w.rid && a.Incarnation == w.inc", "mine := a.Node == w.rid"},
		catch: []catcher{test(nodePkg, "TestG7OnlyTheNamedIncarnation")},
	},
	{
		name: "g7-epoch-of-another-worker-in-a-snapshot", rule: "G7", bug: "a worker takes an epoch of an earlier incarnation out of a snapshot or its own old log",
		file:  "internal/node/snapshots.go",
		edit:  edit{"mine := a.Node == w.rid && a.Incarnation == w.inc", "mine := a.Node == w.rid"},
		catch: []catcher{test(nodePkg, "TestG7OnlyTheNamedIncarnation")},
	},
	{
		name: "g8-counts-from-receipt", rule: "G8", bug: "the gate's deadline counts from when the acknowledgement came, not from when its request was sent",
		file:  holderFile,
		edit:  edit{"sent, ok := h.sent.at(a.Sequence)", "sent, ok := h.sent.at(max(a.Sequence, h.sent.lastSeq))"},
		catch: []catcher{test(leasePkg, "TestG8DeadlineCountsFromSend"), sim(200)},
	},
	{
		name: "g8-ack-of-another-epoch", rule: "G8", bug: "an acknowledgement of another epoch counts",
		file:  holderFile,
		edit:  edit{"a.Epoch != g.epoch || a.Incarnation", "a.Incarnation"},
		catch: []catcher{test(leasePkg, "TestG8IgnoredAcks")},
	},
	{
		name: "g8-ack-of-another-worker", rule: "G8", bug: "an acknowledgement for an earlier incarnation counts",
		file:  holderFile,
		edit:  edit{"a.Incarnation != h.incarnation || ", ""},
		catch: []catcher{test(leasePkg, "TestG8IgnoredAcks")},
	},
	{
		name: "g8-ack-from-before-the-epoch", rule: "G8", bug: "an acknowledgement of a request that was sent before the epoch began counts",
		file:  holderFile,
		edit:  edit{"a.Sequence < g.first || ", ""},
		catch: []catcher{test(leasePkg, "TestG8IgnoredAcks")},
	},
	{
		name: "g8-less-than-a-majority", rule: "G8", bug: "half of the voters open the gate",
		file:  holderFile,
		edit:  edit{"k := len(half)/2 + 1", "k := max(1, len(half)/2)"},
		catch: []catcher{test(leasePkg, "TestG8MajorityBySize"), sim(200)},
	},
	{
		name: "g8-newest-instead-of-kth", rule: "G8", bug: "the deadline counts from the newest acknowledged request, not from the one that a majority has acknowledged",
		file:  holderFile,
		edit:  edit{"kth := acked[len(acked)-k]", "kth := acked[len(acked)-1]"},
		catch: []catcher{test(leasePkg, "TestG8DeadlineCountsFromSend", "TestHolderAgainstNaive"), sim(200)},
	},
	{
		name: "g8-refused-request-acknowledged", rule: "G8", bug: "a refused request is acknowledged by the sequence of a later beat",
		file: voterFile,
		edit: edit{
			"	if reason := v.judge(now, g, r); reason != 0 {\n",
			"	if reason := v.judge(now, g, r); reason != 0 {\n		if g.grant.sameWorker(holderID{node: r.Node, incarnation: r.Incarnation}) {\n			g.grant.sequence = max(g.grant.sequence, r.Sequence)\n		}\n",
		},
		catch: []catcher{test(leasePkg, "TestG8RefusalAdvancesNothing")},
	},
	{
		name: "g8-old-request-moves-until", rule: "G8", bug: "a request that comes late or twice moves the grant, under its older sequence",
		file:  voterFile,
		edit:  edit{"if g.grant.holderID == id && r.Sequence <= g.grant.sequence {", "if false {"},
		catch: []catcher{test(leasePkg, "TestG8AckCarriesWhatMovedUntil")},
	},
	{
		name: "g8-promise-from-the-last-turn", rule: "G8", bug: "a voter counts its promise from a clock read before the datagram came",
		file:  "internal/node/loop.go",
		edit:  edit{"	now := w.clk.Boottime()\n	for i, f := range w.drained {", "	now := w.lastTurn\n	for i, f := range w.drained {"},
		catch: []catcher{test(nodePkg, "TestG8ClockIsReadAfterTheNews")},
	},
	{
		name: "lease-without-rho", rule: "L", bug: "lease and promise ignore that clocks run at different rates",
		file:  "internal/lease/timing.go",
		edit:  edit{"	rhoNum = 1\n", "	rhoNum = 0\n"},
		catch: []catcher{test(leasePkg, "TestTimingProfiles")},
	},
	{
		name: "clone-is-granted", rule: "clone", bug: "a raft id that is alive twice gets grants",
		file:  voterFile,
		edit:  edit{"case v.cloned[r.Node]:", "case false:"},
		catch: []catcher{test(leasePkg, "TestClonedNodeGetsNoGrant")},
	},
	{
		name: "clone-not-seen", rule: "clone", bug: "two workers that take turns under one raft id are not noticed",
		file:  "internal/node/peers.go",
		edit:  edit{"			p.cloneUntil = now + int64(memory)\n", ""},
		catch: []catcher{test(nodePkg, "TestPeerSeesClones")},
	},
	{
		name: "rollback-not-seen", rule: "rollback", bug: "a worker of a virtual machine set back in memory goes on",
		file:  beatsFile,
		edit:  edit{"s.Incarnation == w.inc && s.Sequence > w.sequence", "s.Incarnation == w.inc && false"},
		catch: []catcher{test(nodePkg, "TestRolledBackWorkerEnds")},
	},
}
