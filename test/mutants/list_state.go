package main

// The buckets: what clients are told is true (I2, I3, I6).

const (
	kvPkg = "./storage/kv"

	writesFile = "internal/node/writes.go"
	readsFile  = "internal/node/reads.go"
)

var stateMutants = []mutant{
	{
		name: "ttl-by-local-clock", rule: "I6", bug: "keys expire by the wall clock of the node that applies, not by the committed clock",
		file:  "storage/kv/apply.go",
		edit:  edit{"	s.advance(b.Clock)\n", "	s.advance(time.Now().UnixNano())\n"},
		also:  []edit{{"	\"math\"\n", "	\"math\"\n	\"time\"\n"}},
		catch: []catcher{test(kvPkg, "TestExpiry", "TestModel"), sim(200)},
	},
	{
		name: "ttl-by-leaders-wall-clock", rule: "I6", bug: "the committed clock follows the wall clock of the leader, so a jump of it ends sessions",
		file:  writesFile,
		edit:  edit{"	return max(w.clockBase+(now-w.clockAt), w.state.Buckets().Clock())\n", "	return max(time.Now().UnixNano(), w.state.Buckets().Clock())\n"},
		catch: []catcher{test(nodePkg, "TestCommittedClockIgnoresTheWall")},
	},
	{
		name: "ttl-clock-goes-back", rule: "I6", bug: "the committed clock of a new leader may be earlier than that of the last",
		file:  "storage/kv/store.go",
		edit:  edit{"	s.clock = max(s.clock, clock)\n", "	s.clock = clock\n"},
		catch: []catcher{test(kvPkg, "TestExpiry")},
	},
	{
		name: "request-id-forgotten-after-a-snapshot", rule: "I2", bug: "a request that is repeated after a snapshot is executed twice",
		file:  "storage/kv/snapshot.go",
		edit:  edit{"	e.u32(uint32(v.ids.list.len()))\n	for i := range v.ids.list.len() {", "	e.u32(0)\n	for i := range 0 {"},
		also:  []edit{{"	if got := d.s.Hash(); got != want {", "	if got := d.s.Hash(); false {"}},
		catch: []catcher{test(kvPkg, "TestModel"), test(storagePkg, "TestSnapshotIsWrittenAndRead")},
	},
	{
		name: "request-id-not-remembered", rule: "I2", bug: "a request that is repeated is executed twice",
		file:  "storage/kv/apply.go",
		edit:  edit{"	if res.Code == OK || res.Code == NotMet {\n", "	if false {\n"},
		catch: []catcher{test(kvPkg, "TestOnce"), sim(200)},
	},
	{
		name: "request-id-of-another-request", rule: "I2", bug: "another request under an id that was used is answered with the first one's outcome",
		file:  "storage/kv/ids.go",
		edit:  edit{"	if o.content != content {", "	if false {"},
		catch: []catcher{test(kvPkg, "TestOnce")},
	},
	{
		name: "refused-request-leaves-traces", rule: "I2", bug: "the operations of a transaction that was refused stay",
		file:  "storage/kv/apply.go",
		edit:  edit{"	s.rollback()\n", "	s.commit(rev)\n"},
		catch: []catcher{test(kvPkg, "TestQuota")},
	},
	{
		name: "cas-compares-existence-only", rule: "I2", bug: "a compare-and-set accepts any revision of the key",
		file:  "storage/kv/apply.go",
		edit:  edit{"		return rev, rev == c.Rev\n", "		return rev, rev > 0\n"},
		catch: []catcher{test(kvPkg, "TestModel"), sim(200)},
	},
	{
		name: "watch-gap", rule: "watch", bug: "a watch that begins before the history does is not told so, and misses changes",
		file:  "storage/kv/history.go",
		edit:  edit{"	if from <= h.compacted && h.compacted > 0 {", "	if false {"},
		catch: []catcher{test(kvPkg, "TestHistoryIsBounded")},
	},
	{
		name: "watch-gap-after-a-snapshot", rule: "watch", bug: "a node that came up from a snapshot does not know where its history begins",
		file:  "storage/kv/snapshot.go",
		edit:  edit{"	s.history.compacted = d.u64()\n", "	d.u64()\n"},
		also:  []edit{{"	if got := d.s.Hash(); got != want {", "	if got := d.s.Hash(); false {"}},
		catch: []catcher{test(kvPkg, "TestHistoryIsBounded")},
	},
	{
		name: "watch-splits-a-revision", rule: "watch", bug: "a page of events ends within a revision, and the rest of it is missed",
		file:  "storage/kv/history.go",
		edit:  edit{"			if len(out) >= limit {\n				return out, rev, nil\n			}\n			last = rev\n		}\n", "			last = rev\n		}\n		if len(out) >= limit {\n			return out, e.rec.rev() + 1, nil\n		}\n"},
		catch: []catcher{test(kvPkg, "TestEventsArePagedByRevision")},
	},
	{
		name: "hash-without-ids", rule: "I6", bug: "two nodes that remember other request ids have the same hash",
		file:  "storage/kv/view.go",
		edit:  edit{"v.history.sum, v.ids.sum,\n", "v.history.sum, 0,\n"},
		catch: []catcher{test(kvPkg, "TestHashSeesEverything")},
	},
	{
		name: "view-changes", rule: "I3", bug: "a reader sees half of what is applied while it reads",
		file:  "storage/kv/view.go",
		edit:  edit{"			b.view = b.tree.IsoCopy()\n", "			b.view = &b.tree\n"},
		catch: []catcher{test(kvPkg, "TestViewsAreImmutable")},
	},
	{
		name: "read-before-applied", rule: "I3", bug: "a linearizable read is answered before its index is applied",
		file:  readsFile,
		edit:  edit{"		if index > applied {\n			continue\n		}\n", "		_ = applied\n"},
		catch: []catcher{test(nodePkg, "TestReadWaitsUntilItsIndexIsApplied"), sim(200)},
	},
	{
		name: "read-answers-an-older-question", rule: "I3", bug: "readers are given the answer to a question that was asked before they came",
		file:  readsFile,
		edit:  edit{"		if a.Token != q.token || q.token == 0 {", "		if q.token == 0 {"},
		catch: []catcher{test(nodePkg, "TestReadIgnoresAnswersOfBefore")},
	},
	{
		name: "write-answered-when-proposed", rule: "I2", bug: "a client is told that its write is done before a majority has it",
		file:  writesFile,
		edit:  edit{"		q.flight[s.LastIndex] = flight{term: s.LastTerm, writes: taken}\n", "		for _, one := range taken {\n			q.finish(now, one, kv.Result{Code: kv.OK, Ops: make([]kv.OpResult, len(one.req.Then))}, nil)\n		}\n"},
		catch: []catcher{test(nodePkg, "TestWriteIsAnsweredWhenApplied"), sim(200)},
	},
	{
		name: "write-of-a-lost-leadership-confirmed", rule: "I2", bug: "a write is confirmed by the entry of another leader at the same index",
		file:  writesFile,
		edit:  edit{"	if f.term != term {\n		return // writesOvertaken answers\n	}\n", ""},
		catch: []catcher{test(nodePkg, "TestWriteOfALostLeadershipIsUnknown")},
	},
	{
		name: "answer-before-the-view", rule: "I3", bug: "a client that was told that its write is done does not find it in a local read",
		file:  "internal/node/apply.go",
		edit:  edit{"	if w.dataChanged {\n		w.dataChanged = false\n		w.publishView()\n	}\n	w.answerWrites(now)\n", "	w.answerWrites(now)\n	if w.dataChanged {\n		w.dataChanged = false\n		w.publishView()\n	}\n"},
		catch: []catcher{test(nodePkg, "TestWriteIsAnsweredWhenApplied")},
	},
}
