package main

// Section 6 of the protocol and G4: founding, changes of the membership, loss of
// data.

const (
	memberPkg  = "./internal/membership"
	storagePkg = "./storage"

	plannerFile  = "internal/membership/planner.go"
	repairFile   = "internal/membership/repair.go"
	requestFile  = "internal/membership/request.go"
	identityFile = "storage/identity.go"
	foundingFile = "internal/node/founding.go"
)

var memberMutants = []mutant{
	{
		name: "g4-change-without-overlap", rule: "G4", bug: "the next change of members is proposed before P has passed since the last was applied by a majority",
		file:  plannerFile,
		edit:  edit{"	if end := p.settled + p.promise; now < end {", "	if end := p.settled; now < end {"},
		catch: []catcher{test(memberPkg, "TestWaitBetweenChanges")},
	},
	{
		name: "g4-change-nobody-applied", rule: "G4", bug: "the next change of members is proposed before a majority has applied the last",
		file:  plannerFile,
		edit:  edit{"	if lacking := in.lacking(in.Voters); len(lacking) > 0 {", "	if lacking := in.lacking(in.Voters); false {"},
		catch: []catcher{test(memberPkg, "TestWaitBetweenChanges")},
	},
	{
		name: "g4-old-voters-not-asked", rule: "G4", bug: "the next change of members does not wait for the voters of before the last",
		file:  plannerFile,
		edit:  edit{"	if lacking := in.lacking(p.before); len(lacking) > 0 && p.settled == 0 {", "	if lacking := in.lacking(p.before); false {"},
		catch: []catcher{test(memberPkg, "TestWaitBetweenChanges")},
	},
	{
		name: "g4-new-leader-trusts-the-old", rule: "G4", bug: "a new leader counts the wait of G4 from what the one before was told",
		file:  plannerFile,
		edit:  edit{"func (p *Planner) Lead() { p.majority, p.settled = 0, 0 }", "func (p *Planner) Lead() {}"},
		catch: []catcher{test(memberPkg, "TestWaitBetweenChanges")},
	},
	{
		name: "g4-two-changes-at-once", rule: "G4", bug: "a change of members is proposed while another is in the log",
		file:  "internal/quorum/conf.go",
		edit:  edit{"case d.confPending():", "case false:"},
		catch: []catcher{test(quorumPkg, "TestOneChangeAtATime")},
	},
	{
		name: "g4-learner-promoted-early", rule: "G4", bug: "a learner becomes a voter that may not grant yet",
		file:  repairFile,
		edit:  edit{"	return pl.p.ready[id] + pl.p.promise\n", "	return pl.p.ready[id]\n"},
		catch: []catcher{test(memberPkg, "TestNewDataIsReplacedByItself")},
	},
	{
		name: "f1-founds-from-different-files", rule: "F1", bug: "a cluster is founded by members whose files differ",
		file:  foundingFile,
		edit:  edit{"case p.hello.Members != mine:", "case p.hello.Members != mine && false:"},
		catch: []catcher{test(nodePkg, "TestF1FoundingNeedsEqualFiles")},
	},
	{
		name: "f1-founds-over-a-used-member", rule: "F1", bug: "members that lost their disks found a new cluster with one that has the data of the old",
		file:  foundingFile,
		edit:  edit{"		case !p.hello.Empty || w.raft != nil && p.beat != nil &&", "		case false && w.raft != nil && p.beat != nil &&"},
		catch: []catcher{test(nodePkg, "TestF1NobodyFoundsOverAUsedMember")},
	},
	{
		name: "f1-founds-without-all", rule: "F1", bug: "a cluster is founded with a member that is not connected any more",
		file:  foundingFile,
		edit:  edit{"		case !p.helloed || !p.connected:", "		case !p.helloed:"},
		catch: []catcher{test(nodePkg, "TestF1FoundingNeedsEverybody")},
	},
	{
		name: "f1-order-of-the-file-counts", rule: "F1", bug: "two files that list the same in another order make two configurations",
		file:  "storage/config.go",
		edit:  edit{"	slices.SortFunc(c.Groups, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })\n", ""},
		catch: []catcher{test(storagePkg, "TestFirstConfigIsCanonical")},
	},
	{
		name: "f1a-beats-of-another-cluster", rule: "F1a", bug: "beats of another cluster id are taken",
		file:  "internal/node/mesh.go",
		edit:  edit{"		if cluster == i.w.notes.cluster {\n", "		if cluster == i.w.notes.cluster || len(cluster) > 0 {\n"},
		catch: []catcher{test(nodePkg, "TestF1aOtherClustersAreNobody")},
	},
	{
		name: "f1a-raft-of-another-cluster", rule: "F1a", bug: "raft frames of another cluster id are taken",
		file:  "internal/node/mesh.go",
		edit:  edit{" || [clusterSize]byte(frame) != w.notes.cluster {", " {"},
		catch: []catcher{test(nodePkg, "TestF1aOtherClustersAreNobody")},
	},
	{
		name: "f1a-connection-of-another-cluster", rule: "F1a", bug: "a member of another cluster id is let in",
		file:  "internal/transport/hello.go",
		edit:  edit{"case h.ClusterID != theirs.ClusterID && ", "case false && "},
		catch: []catcher{test("./internal/transport", "TestHelloRefusals")},
	},
	{
		name: "f1a-address-changes-its-group", rule: "F1a", bug: "an address goes from one living group to another in one step",
		file:  "storage/apply.go",
		edit:  edit{"ok && was != g.Name {", "ok && false && was != g.Name {"},
		catch: []catcher{test(storagePkg, "TestSetGroups")},
	},
	{
		name: "f1a-log-of-another-cluster", rule: "F1a", bug: "the log of another cluster or node is opened",
		file:  "wal/survey.go",
		edit:  edit{"	case s.only != nil && (head.cluster", "	case false && (head.cluster"},
		catch: []catcher{test("./wal", "TestOpenOfAnother")},
	},
	{
		name: "f2-identity-drawn-over-a-log", rule: "F2", bug: "a node whose raft id is lost goes on with its log under a new one",
		file:  identityFile,
		edit:  edit{"	case errors.Is(err, fs.ErrNotExist) && (hasLog || first != nil):", "	case errors.Is(err, fs.ErrNotExist) && false:"},
		catch: []catcher{test(storagePkg, "TestDamageIsRefusedAndSetAside")},
	},
	{
		name: "f2-lost-log-is-an-empty-one", rule: "F2", bug: "a node whose log is gone votes again under its old raft id",
		file:  identityFile,
		edit:  edit{"	if first != nil && !hasLog && !founding {\n		return d.damage(\"there is a first configuration and no log\", nil)\n	}\n", "	d.founding = d.founding || first != nil && !hasLog\n"},
		catch: []catcher{test(storagePkg, "TestDamageIsRefusedAndSetAside")},
	},
	{
		name: "f2-raft-id-survives-damage", rule: "F2", bug: "a node that set its damaged log aside comes back under its old raft id",
		file:  identityFile,
		edit:  edit{"var dataFiles = []string{fileRaftID, dirLog,", "var dataFiles = []string{dirLog,"},
		catch: []catcher{test(storagePkg, "TestDamageIsRefusedAndSetAside"), sim(200)},
	},
	{
		name: "f2-raft-id-set-aside-last", rule: "F2", bug: "a power cut while data are set aside leaves the old raft id with no log",
		file:  identityFile,
		edit:  edit{"var dataFiles = []string{fileRaftID, dirLog, dirSnapshots, fileFirst, fileFounding}", "var dataFiles = []string{dirLog, dirSnapshots, fileFirst, fileFounding, fileRaftID}"},
		catch: []catcher{test(storagePkg, "TestSetAsideCutShort")},
	},
	{
		name: "f2-replaced-while-alive", rule: "F2", bug: "a member is replaced while its old raft id is still heard",
		file:  repairFile,
		edit:  edit{"	case in.alive(m.RaftID):\n		pl.wait(0, \"%s has new data, but its old", "	case false:\n		pl.wait(0, \"%s has new data, but its old"},
		catch: []catcher{test(memberPkg, "TestOldIDMustBeDead")},
	},
	{
		name: "f2-promoted-before-it-is-filled", rule: "F2", bug: "a new node becomes a voter before it has caught up",
		file:  repairFile,
		edit:  edit{"case !known || match+CaughtUp < in.Commit:", "case !known:"},
		catch: []catcher{test(memberPkg, "TestNewDataIsReplacedByItself")},
	},
	{
		name: "f2-removal-breaks-the-majority", rule: "F2", bug: "a member is removed although those that are left and heard are no majority",
		file:  requestFile,
		edit:  edit{"	case restAlive < majority(rest):", "	case false:"},
		catch: []catcher{test(memberPkg, "TestNeverBelowAWorkingMajority")},
	},
	{
		name: "f2-cut-log-keeps-its-votes", rule: "F2", bug: "a member of the old raft id keeps an operator's fence only if its disk survives",
		file:  "storage/apply.go",
		edit:  edit{"	if f, ok := s.fenced[id]; ok && by != 0 && f.Operator {\n		s.fenced[by] = f\n	}\n", ""},
		catch: []catcher{test(storagePkg, "TestMembersAndConfigurations")},
	},
	{
		name: "f4-founds-over-set-aside-data", rule: "F4", bug: "members that all lost their data found an empty cluster",
		file:  foundingFile,
		edit:  edit{"	if w.hadData {\n		// F4", "	if false {\n		// F4"},
		catch: []catcher{test(nodePkg, "TestSetAsideDataIsNotForgotten")},
	},
	{
		name: "f4-founds-with-set-aside-data", rule: "F4", bug: "members whose disks are new found an empty cluster with one that has set the last data aside",
		file:  foundingFile,
		edit:  edit{"		case lostData(p.hello):", "		case lostData(p.hello) && false:"},
		catch: []catcher{test(nodePkg, "TestF4OneSetAsideDataFoundsNothing")},
	},
	{
		name: "f4-epochs-come-again", rule: "F4", bug: "a recovered cluster gives epochs that the old one may have given",
		file:  "storage/recover.go",
		edit:  edit{"Index: c.Last + Leap, Term", "Index: c.Last + 1, Term"},
		catch: []catcher{test(storagePkg, "TestRecover")},
	},
	{
		name: "f4-recovery-keeps-assignments", rule: "F4", bug: "a recovered cluster takes over who held what",
		file:  "storage/recover.go",
		edit:  edit{"s.assigned, s.history = map[uint16]Assignment{}, nil", "s.history = nil"},
		catch: []catcher{test(storagePkg, "TestRecover")},
	},
}
