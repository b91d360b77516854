package main

// Section 5 of the protocol: who holds (A1-A7).

const (
	placementPkg = "./internal/placement"

	presenceFile = "internal/placement/presence.go"
	decideFile   = "internal/placement/decide.go"
	fenceFile    = "internal/placement/fence.go"
	switchFile   = "internal/placement/switchover.go"
	groupsFile   = "internal/node/groups.go"
)

var placementMutants = []mutant{
	{
		name: "a1-silent-holder-stays", rule: "A1", bug: "a holder that is silent for P is not lost",
		file:  presenceFile,
		edit:  edit{"	silent := t.passed(now, max(heardAt, last), promise)\n", "	silent := t.passed(now, max(heardAt, last), promise) && false\n"},
		catch: []catcher{test(placementPkg, "TestA1SilentTarget")},
	},
	{
		name: "a1-holder-that-let-go-stays", rule: "A1", bug: "a holder that says that it holds no more is not lost",
		file:  presenceFile,
		edit:  edit{"return verdict{lost: t.passed(now, last, promise), cause: CauseLeaseExpired}", "return verdict{}"},
		catch: []catcher{test(placementPkg, "TestA1NoLongerHolding")},
	},
	{
		name: "a1-ended-worker-present", rule: "A1", bug: "a holder whose incarnation is over counts as present",
		file:  presenceFile,
		edit:  edit{"if slices.Contains(p.ended, v.Incarnation) || p.incarnation", "if p.incarnation"},
		catch: []catcher{test(placementPkg, "TestA1AtOnce"), sim(200)},
	},
	{
		name: "a1-replaced-worker-present", rule: "A1", bug: "the beats of a new worker make the one that the Assign names present",
		file:  presenceFile,
		edit:  edit{" || p.incarnation != v.Incarnation && t.replaced(p, g) {", " {"},
		catch: []catcher{test(placementPkg, "TestA1NamedIncarnationOnly")},
	},
	{
		name: "a1-release-ignored", rule: "A1", bug: "a release does not make the group free at once",
		file:  presenceFile,
		edit:  edit{"r.incarnation == v.Incarnation && r.epoch >= v.Epoch {", "r.incarnation == v.Incarnation && r.epoch > v.Epoch {"},
		catch: []catcher{test(placementPkg, "TestA1AtOnce")},
	},
	{
		name: "a1-declined-target-stays", rule: "A1", bug: "a target that declined is waited for",
		file:  presenceFile,
		edit:  edit{"	if pg.declined == v.Epoch {", "	if false {"},
		catch: []catcher{test(placementPkg, "TestA1AtOnce")},
	},
	{
		name: "a1-target-that-never-holds-stays", rule: "A1", bug: "a target that applied its Assign and never holds is waited for without end",
		file:  presenceFile,
		edit:  edit{"	late := t.passed(now, start, promise+t.cfg.PreAcquireLimit)\n", "	late := t.passed(now, start, promise+t.cfg.PreAcquireLimit) && false\n"},
		catch: []catcher{test(placementPkg, "TestA1NeverHolding")},
	},
	{
		name: "a2-deaf-holder-stays", rule: "A2", bug: "a holder that no majority acknowledges does not release",
		file:  groupsFile,
		edit:  edit{"	return now-last > int64(w.timing.Promise)\n", "	return now-last > int64(w.timing.Promise) && false\n"},
		catch: []catcher{test(nodePkg, "TestA2DeafHolderReleases"), sim(200)},
	},
	{
		name: "a2-failed-target-tried-again", rule: "A2", bug: "a target that failed is tried again at once",
		file:  presenceFile,
		edit:  edit{"	h.until = now + int64(h.step)\n", "	h.until = now\n"},
		catch: []catcher{test(placementPkg, "TestA2HoldDown")},
	},
	{
		name: "a2-hold-down-does-not-grow", rule: "A2", bug: "a target that fails again and again is held down no longer than the first time",
		file:  presenceFile,
		edit:  edit{"	h.step = min(2*h.step, holdDownMax)\n", "	h.step = holdDownFirst\n"},
		catch: []catcher{test(placementPkg, "TestA2HoldDown")},
	},
	{
		name: "a3-holder-moved-at-once", rule: "A3", bug: "a holder that only the leader cannot hear is moved after P",
		file:  presenceFile,
		edit:  edit{"if t.majorityReports(now, g) && !t.passed(now, last, 2*promise) {", "if false {"},
		catch: []catcher{test(placementPkg, "TestA3OnlyTheLeaderCannotHear")},
	},
	{
		name: "a3-holder-never-moved", rule: "A3", bug: "a holder that the leader cannot hear stays for ever",
		file:  presenceFile,
		edit:  edit{"if t.majorityReports(now, g) && !t.passed(now, last, 2*promise) {", "if t.majorityReports(now, g) {"},
		catch: []catcher{test(placementPkg, "TestA3OnlyTheLeaderCannotHear")},
	},
	{
		name: "a3-holder-that-does-not-apply-stays", rule: "A3", bug: "a holder whose applied index stands still counts as healthy",
		file:  "internal/placement/peer.go",
		edit:  edit{"return p.behindSince != 0 && t.passed(now, p.behindSince, 2*t.cfg.Promise)", "return false"},
		catch: []catcher{test(placementPkg, "TestA3HolderThatDoesNotApply")},
	},
	{
		name: "a4-equal-moves", rule: "A4", bug: "the address moves to a member that is no healthier",
		file:  decideFile,
		edit:  edit{"case best.Health < health:", "case best.Health <= health:"},
		catch: []catcher{test(placementPkg, "TestA4EqualMeansStay")},
	},
	{
		name: "a4-sick-holder-stays", rule: "A4", bug: "a healthier member does not take over",
		file:  decideFile,
		edit:  edit{"case best.Health < health:", "case false:"},
		catch: []catcher{test(placementPkg, "TestA4EqualMeansStay")},
	},
	{
		name: "a4-holds-without-carrier", rule: "A4", bug: "a holder whose interface has no carrier goes on holding",
		file:  groupsFile,
		edit:  edit{"		case !info.Carrier:", "		case false:"},
		catch: []catcher{test(nodePkg, "TestA4HolderWithoutCarrierReleases")},
	},
	{
		name: "a4-holds-without-gate", rule: "A4", bug: "a holder whose gate came off an interface goes on holding",
		file:  groupsFile,
		edit:  edit{"	if w.gateLost != \"\" {\n		return \"gate not", "	if false {\n		return \"gate not"},
		catch: []catcher{test(nodePkg, "TestA4HolderWithoutGateReleases")},
	},
	{
		name: "a5-release-before-ready", rule: "A5", bug: "in a planned switchover the holder releases before the target is ready",
		file:  switchFile,
		edit:  edit{"		if t.isReady(g, s.target) {\n			s.stage", "		if true {\n			s.stage"},
		catch: []catcher{test(placementPkg, "TestA5PlannedSwitchover")},
	},
	{
		name: "a5-waits-without-end", rule: "A5", bug: "a target that is never ready keeps the switchover open",
		file:  switchFile,
		edit:  edit{"} else if t.passed(now, s.began, t.cfg.SwitchLimit) {", "} else if false {"},
		catch: []catcher{test(placementPkg, "TestA5NotReadyInTime")},
	},
	{
		name: "a5-hurried-release", rule: "A5", bug: "in a planned switchover the gate closes before the pre-release hooks have run",
		file:  tenureFile,
		edit:  edit{"	m.enter(yielding)\n	return []Step{{RunPreRelease, m.epoch}}\n", "	return append([]Step{{RunPreRelease, m.epoch}}, m.close(now)...)\n"},
		catch: []catcher{test(tenurePkg, "TestYieldRunsPreReleaseFirst")},
	},
	{
		name: "a5-orders-of-a-former-leader", rule: "A5", bug: "the order of a leader of an earlier term is carried out",
		file:  beatsFile,
		edit:  edit{"if !b.Flags.Has(transport.FlagLeaderClaim) || b.Term < w.raft.Status(now).Term {", "if !b.Flags.Has(transport.FlagLeaderClaim) {"},
		catch: []catcher{test(nodePkg, "TestA5OrdersOfAFormerLeader")},
	},
	{
		name: "a6-operators-fence-lifted", rule: "A6", bug: "a new leader proposes to lift a fence that an operator has set",
		file:  fenceFile,
		edit:  edit{"if !m.Fenced || m.FencedByOperator {", "if !m.Fenced {"},
		catch: []catcher{test(placementPkg, "TestA6OperatorsFenceStays")},
	},
	{
		name: "a6-operators-fence-lifted-by-the-log", rule: "A6", bug: "an automatic Unfence lifts a fence that an operator has set",
		file:  "storage/apply.go",
		edit:  edit{"if f.Operator && !u.Operator {", "if f.Operator && false {"},
		catch: []catcher{test("./storage", "TestFencesAndMaintenance")},
	},
	{
		name: "a6-fence-without-a-majority", rule: "A6", bug: "a leader that hears no majority fences others",
		file:  fenceFile,
		edit:  edit{"if t.cfg.FenceDelay <= 0 || !t.hearsMajority(now) {", "if t.cfg.FenceDelay <= 0 {"},
		catch: []catcher{test(placementPkg, "TestFenceNever")},
	},
	{
		name: "a6-granted-holder-fenced", rule: "A6", bug: "a holder that a majority still grants to is fenced",
		file:  fenceFile,
		edit:  edit{" && !t.isGranted(now, m.Node) && ", " && "},
		catch: []catcher{test(placementPkg, "TestFenceNeverAGrantedHolder")},
	},
	{
		name: "a6-half-heard-member-unfenced", rule: "A6", bug: "a fence is lifted from a member that does not hear the leader",
		file:  fenceFile,
		edit:  edit{"		if !t.hearsBothWays(now, m.Node) {\n			if p != nil", "		if p == nil {\n			if p != nil"},
		catch: []catcher{test(placementPkg, "TestA6FirstBatchOfANewLeader", "TestA6AfterCatchingUp")},
	},
	{
		name: "a7-new-leader-moves-the-holder", rule: "A7", bug: "a new leader that has not heard the holder yet takes it for lost",
		file:  presenceFile,
		edit:  edit{"	last := max(heardAt, g.since)\n", "	last := heardAt\n	if t.leadingSince == now {\n		return verdict{lost: true, cause: CauseLeaseExpired}\n	}\n"},
		catch: []catcher{test(placementPkg, "TestA7LeaderChangeMovesNothing")},
	},
	{
		name: "a7-preemption-unasked", rule: "A7", bug: "a member of higher priority takes over although preemption is off",
		file:  decideFile,
		edit:  edit{"if !t.cfg.Preempt || best.Health", "if best.Health"},
		catch: []catcher{test(placementPkg, "TestA7Preemption")},
	},
	{
		name: "a7-preemption-at-once", rule: "A7", bug: "preemption does not wait for its delay",
		file:  decideFile,
		edit:  edit{"return t.passed(now, g.betterSince, t.cfg.PreemptDelay)", "return true"},
		catch: []catcher{test(placementPkg, "TestA7Preemption")},
	},
}
