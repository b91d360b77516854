package main

// The write-ahead log: what is acknowledged is on disk (F3, I7, I8).

const (
	walPkg = "./wal"

	writerFile  = "wal/writer.go"
	scanFile    = "wal/scan.go"
	surveyFile  = "wal/survey.go"
	walLogFile  = "wal/log.go"
	segmentFile = "wal/segment.go"
)

var walMutants = []mutant{
	{
		name: "wal-acknowledged-before-fsync", rule: "I7", bug: "a batch is acknowledged when it is written, not when it is synced",
		file:  writerFile,
		edit:  edit{"	if err := w.file.WriteSync(out, w.offset); err != nil {", "	if _, err := w.file.WriteAt(out, w.offset); err != nil {"},
		catch: []catcher{test(walPkg, "TestCrashAtEveryOperation"), sim(200)},
	},
	{
		name: "wal-fsync-error-ignored", rule: "I8", bug: "a batch whose sync failed is acknowledged",
		file:  writerFile,
		edit:  edit{"		return 0, fmt.Errorf(\"write batch: %w\", err)\n", "		_ = fmt.Errorf(\"write batch: %w\", err)\n"},
		catch: []catcher{test(walPkg, "TestNoAckAfterFailedSync"), sim(200)},
	},
	{
		name: "wal-goes-on-after-an-error", rule: "I8", bug: "after a failed sync the log tries again on the same pages",
		file:  writerFile,
		edit:  edit{"	err := w.log.Err()\n	if err == nil && len(p.records) > 0 {", "	var err error\n	if err == nil && len(p.records) > 0 {"},
		catch: []catcher{test(walPkg, "TestErrorAtEveryOperation")},
	},
	{
		name: "wal-directory-not-synced", rule: "I7", bug: "the names of released segments may come back after a power cut",
		file:  writerFile,
		edit:  edit{"	if err := l.opts.FS.SyncDir(l.opts.Dir); err != nil {\n		return l.fail(fmt.Errorf(\"sync log directory: %w\", err))\n	}\n	return nil\n", "	return nil\n"},
		catch: []catcher{test(walPkg, "TestReleaseIsDurable")},
	},
	{
		name: "wal-names-not-synced", rule: "I7", bug: "a file that was published under its name may be gone after a power cut: its directory was not synced",
		file:  "internal/vfs/os.go",
		edit:  edit{"	return o.SyncDir(filepath.Dir(final))\n", "	return nil\n"},
		catch: []catcher{test("./internal/vfs", "TestNamesAreSynced")},
	},
	{
		name: "wal-parents-not-synced", rule: "I7", bug: "a directory that was made may be gone after a power cut",
		file:  "internal/vfs/os.go",
		edit:  edit{"	return fsys.SyncDir(parent)\n", "	return nil\n"},
		catch: []catcher{test("./internal/vfs", "TestMemCrash")},
	},
	{
		name: "wal-file-not-synced", rule: "I7", bug: "a small file is published before its contents are on disk",
		file:  "internal/vfs/os.go",
		edit:  edit{"	if err := f.control(unix.Fdatasync); err != nil {", "	if err := f.control(func(int) error { return nil }); err != nil {"},
		catch: []catcher{test("./internal/vfs", "TestFilesAreSynced")},
	},
	{
		name: "wal-header-not-synced", rule: "I7", bug: "a segment gets its name before its header is on disk",
		file:  segmentFile,
		edit:  edit{"	if err := f.Sync(); err != nil {\n		return 0, fmt.Errorf(\"sync segment header: %w\", err)\n	}\n", ""},
		catch: []catcher{test(walPkg, "TestCrashAtEveryOperation")},
	},
	{
		name: "wal-read-before-sync", rule: "F3", bug: "recovery decides on bytes that a power cut could still take",
		file:  surveyFile,
		edit:  edit{"		if err := f.Reload(); err != nil {\n			return nil, fmt.Errorf(\"sync segment: %w\", err)\n		}\n", ""},
		catch: []catcher{test(walPkg, "TestOpenSyncsBeforeReading")},
	},
	{
		name: "wal-no-salt", rule: "F3", bug: "what an earlier life of a recycled file has written passes for the log",
		file:  "wal/format.go",
		edit:  edit{"	return max(addWord(addWord(0, salt), number), 1)\n", "	return max(addWord(0, number), 1)\n"},
		catch: []catcher{test(walPkg, "TestBatchOfAnotherSaltIsNone")},
	},
	{
		name: "wal-length-not-bounded", rule: "F3", bug: "the length of a batch is trusted beyond the end of the file",
		file:  scanFile,
		edit:  edit{"	case s.offset+batchSize(int64(f.length)) > int64(len(s.buf)):", "	case false:"},
		catch: []catcher{test(walPkg, "TestLengthPastTheSegment")},
	},
	{
		name: "wal-payload-length-not-bounded", rule: "F3", bug: "the length of a record is trusted beyond its batch",
		file:  scanFile,
		edit:  edit{"		if next > end {\n", "		if false {\n"},
		catch: []catcher{test(walPkg, "FuzzSegment")},
	},
	{
		name: "wal-index-of-a-torn-record", rule: "F3", bug: "the last index counts the records of a batch that was never completely written",
		file: scanFile,
		edit: edit{
			"			return nil, s.torn(size, fmt.Sprintf(\"sector at %d of batch %d was never written\", at, s.number))\n",
			"			break\n",
		},
		also: []edit{
			{"	if got := checksum(data[frameBytes:]); got != head.payloadCRC {\n		return nil, fmt.Sprintf(\"checksum %08x, computed %08x\", head.payloadCRC, got)\n	}\n", ""},
			{"		if checksum(payload) != f.payloadCRC {\n			return nil, fmt.Sprintf(\"payload checksum at %d of the data\", pos)\n		}\n", ""},
		},
		catch: []catcher{test(walPkg, "TestRecovery")},
	},
	{
		name: "wal-torn-is-corrupt", rule: "F3", bug: "a batch cut short by a power cut counts as damage, and the node loses its vote",
		file:  scanFile,
		edit:  edit{"	return &ending{verdict: TornTail, why: why, torn: size}\n", "	return corrupt(\"%s\", why)\n"},
		catch: []catcher{test(walPkg, "TestRecovery"), sim(200)},
	},
	{
		name: "wal-damage-is-torn", rule: "F3", bug: "acknowledged records that were damaged are cut off as if they had never been written",
		file:  scanFile,
		edit:  edit{"func (s *scanner) torn(size int64, why string) *ending {\n	if proof := s.proof(); proof != \"\" {", "func (s *scanner) torn(size int64, why string) *ending {\n	if proof := s.proof(); false {"},
		catch: []catcher{test(walPkg, "TestFlipEveryBatchByte")},
	},
	{
		name: "wal-checksum-ignored", rule: "F3", bug: "a damaged payload is replayed",
		file:  scanFile,
		edit:  edit{"	if got := checksum(data[frameBytes:]); got != head.payloadCRC {", "	if got := checksum(data[frameBytes:]); false {"},
		also:  []edit{{"		if checksum(payload) != f.payloadCRC {", "		if false {"}},
		catch: []catcher{test(walPkg, "TestFlipEveryBatchByte")},
	},
	{
		name: "wal-torn-tail-not-cut", rule: "F3", bug: "a torn tail stays on disk, and what is written behind it is taken for its rest",
		file:  walLogFile,
		edit:  edit{"	if s.Verdict != TornTail {\n		return f, nil\n	}\n", "	if true {\n		return f, nil\n	}\n"},
		catch: []catcher{test(walPkg, "TestTornAgain", "TestRecovery")},
	},
	{
		name: "wal-missing-segment-not-seen", rule: "F3", bug: "a segment that is missing in the middle is not noticed",
		file:  surveyFile,
		edit:  edit{"		if sequence != next {\n", "		if false {\n"},
		catch: []catcher{test(walPkg, "TestRecovery")},
	},
	{
		name: "wal-lost-last-segment-not-seen", rule: "F3", bug: "the loss of the last segment passes for the end of the log",
		file:  surveyFile,
		edit:  edit{"		case sealed != nil && isLast:\n			return s.damaged(segmentName(sealed.Index), 0, \"segment is missing, the one before names it as next\")\n", "		case sealed != nil && isLast:\n			s.finish(sc, &ending{verdict: Clean})\n			return nil\n"},
		catch: []catcher{test(walPkg, "TestRecovery")},
	},
	{
		name: "wal-seal-before-the-next", rule: "F3", bug: "a segment is sealed before the name of the next is durable, so a power cut looks like damage",
		file: writerFile,
		edit: edit{
			"	crc, err := publishSegment(w.fsys, w.dir, next.file, next.name, &head)\n	if err == nil {\n		_, err = w.writeBatch([]Record{sealRecord(&head, crc)})\n	}\n",
			"	_, crc := head.encode()\n	_, err := w.writeBatch([]Record{sealRecord(&head, crc)})\n	if err == nil {\n		_, err = publishSegment(w.fsys, w.dir, next.file, next.name, &head)\n	}\n",
		},
		catch: []catcher{test(walPkg, "TestCrashAtEveryOperation")},
	},
	{
		name: "wal-released-before-the-mark", rule: "F3", bug: "segments go before the record that says so is durable",
		file: writerFile,
		edit: edit{
			"	if err := w.write(records, r.bytes+recordSize(0)); err != nil {\n		return err\n	}\n	if n == 0 {\n		return nil\n	}\n",
			"	if err := w.log.drop(w.segments[:n]); err != nil {\n		return err\n	}\n	if err := w.write(records, r.bytes+recordSize(0)); err != nil {\n		return err\n	}\n	if n == 0 {\n		return nil\n	}\n",
		},
		also:  []edit{{"	r.release.dropped = w.segments[:n]\n", ""}},
		catch: []catcher{test(walPkg, "TestCrashAtEveryOperation", "TestRelease")},
	},
	{
		name: "wal-release-of-what-is-needed", rule: "I7", bug: "a segment is released that holds an entry above the index",
		file:  writerFile,
		edit:  edit{"w.segments[n].maxIndex <= r.release.upto {", "w.segments[n].head.base <= r.release.upto {"},
		catch: []catcher{test(walPkg, "TestRelease")},
	},
	{
		name: "wal-chain-not-checked", rule: "F3", bug: "a batch that does not follow the one before is taken",
		file:  scanFile,
		edit:  edit{"	case prev != s.prev:", "	case false:"},
		catch: []catcher{test(walPkg, "TestRecovery")},
	},
}
