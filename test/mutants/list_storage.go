package main

// Storage: log, snapshots and small files (I6, I7).

const (
	storageLogFile = "storage/log.go"
	replayFile     = "storage/replay.go"
	snapsFile      = "storage/snapshots.go"
	snapWriteFile  = "storage/snapwrite.go"
	compactFile    = "storage/compact.go"
)

var storageMutants = []mutant{
	{
		name: "store-done-before-durable", rule: "I7", bug: "raft is told that a change is stored before it is",
		file:  storageLogFile,
		edit:  edit{"	l.wal.Append(recs, done)\n", "	l.wal.Append(recs, nil)\n	done(nil)\n"},
		catch: []catcher{test(storagePkg, "TestCrashAtEveryOperation", "TestLogKeepsWhatWasSaved"), sim(200)},
	},
	{
		name: "store-vote-not-written", rule: "I7", bug: "a vote in the term of before is not written",
		file:  storageLogFile,
		edit:  edit{"|| l.hard.GetVote() != l.written.GetVote() ||", "||"},
		catch: []catcher{test(storagePkg, "TestVoteAloneIsStored")},
	},
	{
		name: "store-commit-before-entries", rule: "I7", bug: "a commit index stands in the log before the entries that it covers",
		file:  storageLogFile,
		edit:  edit{"		recs = append(recs, l.hardRecord())\n", "		recs = append([]wal.Record{l.hardRecord()}, recs...)\n"},
		catch: []catcher{test(storagePkg, "TestCommitStandsBehindItsEntries")},
	},
	{
		name: "store-cut-not-written", rule: "I4", bug: "entries that another leader has replaced come back after a start",
		file:  storageLogFile,
		edit:  edit{"		l.wal.Truncate(from, func(error) {}) // a later done tells: errors stick\n", ""},
		catch: []catcher{test(storagePkg, "TestLogKeepsWhatWasSaved")},
	},
	{
		name: "store-committed-entry-cut", rule: "I7", bug: "a log in which a committed entry was cut is opened",
		file:  replayFile,
		edit:  edit{"	if r.Index <= l.hard.GetCommit() {", "	if false {"},
		catch: []catcher{test(storagePkg, "TestCommittedEntryWrittenAnew")},
	},
	{
		name: "store-commit-beyond-the-log", rule: "I7", bug: "a log that lacks committed entries is opened",
		file:  replayFile,
		edit:  edit{"	if c := l.hard.GetCommit(); c > l.last {", "	if c := l.hard.GetCommit(); false {"},
		catch: []catcher{test(storagePkg, "TestReplayRefusesNonsense")},
	},
	{
		name: "store-raft-id-not-kept", rule: "F2", bug: "a raft id is used that is not on disk",
		file:  identityFile,
		edit:  edit{"	if err := d.fs.WriteFile(d.path(fileRaftID), formatLine(fileRaftID, d.id), 0o600); err != nil {\n		return fmt.Errorf(\"store raft id: %w\", err)\n	}\n", ""},
		catch: []catcher{test(storagePkg, "TestIdentityIsDrawnOnce")},
	},
	{
		name: "store-unreadable-promise-is-none", rule: "G2", bug: "a promise that cannot be read counts as never given",
		file:  identityFile,
		edit:  edit{"		return maxPromise, nil\n", "		return 0, nil\n"},
		catch: []catcher{test(storagePkg, "TestPromiseIsStored")},
	},
	{
		name: "store-founding-mark-not-removed-durably", rule: "F2", bug: "after a power cut the mark of the founding may be back, and a lost log would pass for a new one",
		file:  storageLogFile,
		edit:  edit{"	if err := d.fs.SyncDir(d.dir); err != nil {\n		return nil, fmt.Errorf(\"end founding: %w (close: %w)\", err, w.Close())\n	}\n", ""},
		catch: []catcher{test(storagePkg, "TestFoundingMarkIsGoneForGood")},
	},
	{
		name: "snapshot-without-hash", rule: "I6", bug: "the state in a snapshot is not compared with the hash of its header",
		file:  snapsFile,
		edit:  edit{"Index: index, Term: term, Conf: conf, Hash: s.Hash()})", "Index: index, Term: term, Conf: conf, Hash: m.Hash})"},
		catch: []catcher{test(storagePkg, "TestSnapshotOfNonsense")},
	},
	{
		name: "snapshot-of-another-state", rule: "I6", bug: "the log follows a snapshot of another hash than it names",
		file:  snapsFile,
		edit:  edit{"meta.Term != term || meta.Hash != hash || ", "meta.Term != term || "},
		catch: []catcher{test(storagePkg, "TestSnapshotOfAnotherHistory")},
	},
	{
		name: "snapshot-block-sum-ignored", rule: "I6", bug: "a damaged block of a snapshot is read",
		file:  "storage/snapfile.go",
		edit:  edit{"blockSum(c.header, c.good, c.buf); got != want {", "blockSum(c.header, c.good, c.buf); got != want && false {"},
		catch: []catcher{test(storagePkg, "TestSnapshotFlips", "TestSnapshotFileFindsDamage")},
	},
	{
		name: "snapshot-not-read-back", rule: "I6", bug: "a snapshot is published without a look at what the disk has of it",
		file:  snapWriteFile,
		edit:  edit{"		err = verify(ctx, tmp, file, meta)\n", "		err = ctx.Err()\n"},
		catch: []catcher{test(storagePkg, "TestSnapshotIsReadBack")},
	},
	{
		name: "snapshot-not-synced", rule: "I7", bug: "a snapshot is published before it is on disk",
		file:  snapWriteFile,
		edit:  edit{"	if err := p.file.Sync(); err != nil {\n		return err\n	}\n", ""},
		also:  []edit{{"	if err := file.Reload(); err != nil {\n		return err\n	}\n", ""}},
		catch: []catcher{test(storagePkg, "TestCrashAtEveryOperation")},
	},
	{
		name: "snapshot-old-one-dropped-early", rule: "I7", bug: "the snapshot that the log follows on disk is removed before the log follows the next",
		file:  compactFile,
		edit:  edit{"		if err := drop(); err != nil {\n			return fmt.Errorf(\"release log: %w\", err)\n		}\n		return l.snaps.durable(index)\n", "		if err := l.snaps.durable(index); err != nil {\n			return err\n		}\n		if err := drop(); err != nil {\n			return fmt.Errorf(\"release log: %w\", err)\n		}\n		return nil\n"},
		catch: []catcher{test(storagePkg, "TestCrashAtEveryOperation")},
	},
	{
		name: "snapshot-received-unchecked", rule: "I6", bug: "a snapshot that was received is not compared with the one announced",
		file:  "storage/snapreceive.go",
		edit:  edit{"	if !got.sameState(&r.meta) || got.Size != r.meta.Size || got.Sum != r.meta.Sum {", "	if !got.sameState(&got) {"},
		catch: []catcher{test(storagePkg, "TestReceiveRefusesDamage")},
	},
	{
		name: "snapshot-loses-the-vote", rule: "I7", bug: "the release of the log takes the vote of the present term with it",
		file:  compactFile,
		edit:  edit{"		hardTerm: l.hard.GetTerm(), hardVote: l.hard.GetVote(), commit:", "		hardTerm: l.hard.GetTerm(), commit:"},
		catch: []catcher{test(storagePkg, "TestCompact", "TestRandomLives")},
	},
	{
		name: "snapshot-vote-kept-in-a-new-term", rule: "I4", bug: "a vote of an older term stands in the term that a snapshot brings",
		file:  compactFile,
		edit:  edit{"		t, vote = term, 0\n", "		t = term\n"},
		catch: []catcher{test(storagePkg, "TestCrashAtEveryOperation")},
	},
	{
		name: "epoch-reused", rule: "1", bug: "two Assigns that were decided from the same epoch both count",
		file:  "storage/apply.go",
		edit:  edit{"cur != a.Prev {", "cur > a.Prev+1<<40 {"},
		catch: []catcher{test(storagePkg, "TestAssignNeedsThePresentEpoch")},
	},
	{
		name: "group-number-reused", rule: "F1a", bug: "a new group gets the number of one that was removed, with its grants and epochs",
		file:  "storage/apply.go",
		edit:  edit{"			groups[i].ID = next\n			next++\n", "			groups[i].ID = uint16(i)\n			next++\n"},
		catch: []catcher{test(storagePkg, "TestSetGroups")},
	},
	{
		name: "unknown-command-skipped", rule: "I6", bug: "a node goes on over an entry that it does not understand",
		file:  "storage/apply.go",
		edit:  edit{"		return Result{}, fmt.Errorf(\"apply entry %d: %w\", index, err)\n", "		return Result{Ignored: fmt.Sprintf(\"apply entry %d: %v\", index, err)}, nil\n"},
		catch: []catcher{test(storagePkg, "TestUnknownCommandStopsTheNode")},
	},
	{
		name: "audit-chain-not-checked", rule: "I11", bug: "an event of the audit trail that was changed passes",
		file:  "storage/audit/stream.go",
		edit:  edit{"	if !follows(prev, record) {", "	if false {"},
		catch: []catcher{test("./storage/audit", "TestVerifyFindsEveryChange")},
	},
	{
		name: "audit-chain-not-linked", rule: "I11", bug: "the hash of an event does not cover the one before",
		file:  "storage/audit/trail.go",
		edit:  edit{"	e.Hash = chain(t.head, record)\n", "	e.Hash = chain([32]byte{}, record)\n"},
		catch: []catcher{test("./storage/audit", "TestTrailModel")},
	},
}
