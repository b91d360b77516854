package main

// Notes and the end of holding (G5, G7): who may say that a gate is closed, and
// when.

const (
	tenurePkg = "./internal/tenure"
	guardPkg  = "./internal/guard"

	tenureFile = "internal/tenure/tenure.go"
	lifeFile   = "internal/guard/life.go"
	notesFile  = "internal/node/notes.go"
)

var noteMutants = []mutant{
	{
		name: "g5-note-before-close", rule: "G5", bug: "the worker sends its release before the gate is closed",
		file:  tenureFile,
		edit:  edit{"return []Step{{CloseGate, m.epoch}}", "return []Step{{SendRelease, m.epoch}, {CloseGate, m.epoch}}"},
		catch: []catcher{test(tenurePkg, "TestReleaseOrder")},
	},
	{
		name: "g5-note-without-delay", rule: "G5", bug: "the release leaves at once, while frames that passed the gate are still in the queue",
		file:  tenureFile,
		edit:  edit{"	m.noteAt = now + int64(NoteDelay)\n", "	m.noteAt = now\n"},
		catch: []catcher{test(tenurePkg, "TestReleaseOrder")},
	},
	{
		name: "g5-delay-from-the-order", rule: "G5", bug: "the delay counts from when the close was asked for, not from when it was read back",
		file:  tenureFile,
		edit:  edit{"m.noteAt = max(m.noteAt, now+int64(NoteDelay))", "m.noteAt = max(m.noteAt, now)"},
		catch: []catcher{test(tenurePkg, "TestReleaseOrder")},
	},
	{
		name: "g5-address-before-note", rule: "G5", bug: "the address goes before the release note",
		file:  tenureFile,
		edit:  edit{"steps := []Step{{SendRelease, epoch}, {ClearAddress, epoch}, {RunReleased, epoch}}", "steps := []Step{{ClearAddress, epoch}, {SendRelease, epoch}, {RunReleased, epoch}}"},
		catch: []catcher{test(tenurePkg, "TestReleaseOrder")},
	},
	{
		name: "g5-note-after-failed-close", rule: "G5", bug: "the worker sends its release although the gate could not be closed",
		file:  "internal/node/groups.go",
		edit:  edit{"	if w.exitError() != nil {\n		return // the gate could not be closed", "	if false {\n		return // the gate could not be closed"},
		catch: []catcher{test(nodePkg, "TestG5NoNoteAfterAFailedClose")},
	},
	{
		name: "g5-asks-before-testament", rule: "G5", bug: "a worker asks for grants before the guard can speak for it",
		file:  beatsFile,
		edit:  edit{"return w.testified && w.exit == nil", "return w.exit == nil"},
		catch: []catcher{test(nodePkg, "TestG5NothingIsAskedBeforeTheTestament")},
	},
	{
		name: "g5-guard-note-before-close", rule: "G5", bug: "the guard says that its worker is over before it has closed the gate",
		file:  lifeFile,
		edit:  edit{"	closed := g.Gate.CloseAll()\n", "	l.sendNote()\n	closed := g.Gate.CloseAll()\n"},
		catch: []catcher{test(guardPkg, "TestKilledWorkerIsBuriedAndFollowed")},
	},
	{
		name: "g5-guard-note-without-delay", rule: "G5", bug: "the guard's note leaves at once, while frames that passed the gate are still in the queue",
		file:  lifeFile,
		edit:  edit{"		time.Sleep(NoteDelay)\n		l.sendNote()\n", "		l.sendNote()\n"},
		catch: []catcher{test(guardPkg, "TestG5NoteWaitsForTheFrames")},
	},
	{
		name: "g5-guard-note-after-failed-close", rule: "G5", bug: "the guard says that its worker is over although the gate could not be closed",
		file:  lifeFile,
		edit:  edit{"	closed := g.Gate.CloseAll()\n", "	closed := g.Gate.CloseAll()\n	closed = nil\n"},
		catch: []catcher{test(guardPkg, "TestG5NoNoteWhenTheGateStaysOpen")},
	},
	{
		name: "g5-guard-address-before-close", rule: "G5", bug: "the guard removes the address before it closes the gate",
		file:  lifeFile,
		edit:  edit{"	closed := g.Gate.CloseAll()\n", "	_ = g.clearAddresses()\n	closed := g.Gate.CloseAll()\n"},
		catch: []catcher{test(guardPkg, "TestKilledWorkerIsBuriedAndFollowed")},
	},
	{
		name: "g5-note-of-another-cluster", rule: "G5", bug: "a note of a cluster that was founded anew counts",
		file:  notesFile,
		edit:  edit{"if note.Cluster != n.cluster {", "if false {"},
		catch: []catcher{test(nodePkg, "TestNotebookChecksNotes")},
	},
	{
		name: "g5-unsigned-note", rule: "G5", bug: "the signature of a note is not checked",
		file:  notesFile,
		edit:  edit{"if err := lease.VerifyNote(raw, pub); err != nil {", "if err := lease.VerifyNote(raw, pub); err != nil && len(raw) == 0 {"},
		catch: []catcher{test(nodePkg, "TestNotebookChecksNotes")},
	},
	{
		name: "g5-release-ends-a-later-epoch", rule: "G5", bug: "the release of one epoch ends the grant of another",
		file:  voterFile,
		edit:  edit{"		if g.grant.holderID == id {\n", "		if g.grant.node == n.Node {\n"},
		catch: []catcher{test(leasePkg, "TestG5NoteClearsWhatItNames")},
	},
	{
		name: "g5-over-ends-the-next-worker", rule: "G5", bug: "the note over one incarnation ends what its successor was granted",
		file:  voterFile,
		edit:  edit{"if g.grant.node == n.Node && g.grant.incarnation == n.Incarnation {", "if g.grant.node == n.Node {"},
		catch: []catcher{test(leasePkg, "TestG5NoteClearsWhatItNames")},
	},
	{
		name: "g5-note-not-repeated", rule: "G5", bug: "a note is not passed on, so a voter that lost the datagram waits for the whole promise",
		file:  notesFile,
		edit:  edit{"now <= n.entries[i].learned+n.repeat;", "now < n.entries[i].learned;"},
		catch: []catcher{test(nodePkg, "TestNotebookForgetsLaterThanItRepeats")},
	},
	{
		name: "g5-assign-without-notes", rule: "G5", bug: "an Assign does not carry the notes that it rests on",
		file:  "internal/node/notes.go",
		edit:  edit{"		if e.note.Node == node && (over || release) {", "		if e.note.Node == node && (over || release) && false {"},
		catch: []catcher{test(nodePkg, "TestNotebookFindsWhatEndsAnEpoch")},
	},
	{
		name: "g7-next-worker-before-reaping", rule: "G7", bug: "the guard starts the next worker before the last one was reaped",
		file:  lifeFile,
		edit:  edit{"	<-l.exited // reaped (G7)\n", ""},
		catch: []catcher{test(guardPkg, "TestBurialWaitsForTheReaping")},
	},
	{
		name: "g7-data-directory-in-use", rule: "G7", bug: "the guard starts a worker while another process holds the data directory",
		file:  lifeFile,
		edit:  edit{"		if err == nil || time.Now().After(deadline) {\n			return err\n", "		if err == nil || deadline.Before(time.Now().Add(time.Hour)) {\n			return nil\n"},
		catch: []catcher{test(guardPkg, "TestG7WorkerWaitsForTheDataDirectory")},
	},
	{
		name: "g7-leftover-worker-lives", rule: "G7", bug: "a new guard does not end the worker of the one before",
		file:  "internal/guard/leftover.go",
		edit:  edit{"	if err := unix.Kill(-pid, unix.SIGKILL);", "	if true {\n		return os.Remove(path)\n	}\n	if err := unix.Kill(-pid, unix.SIGKILL);"},
		catch: []catcher{test(guardPkg, "TestG7LeftoverIsKilled")},
	},
	{
		name: "guard-number-not-raised-first", rule: "G7", bug: "a new guard ends the worker left over before it raises the number, so that one can open the gate in between",
		file: "internal/guard/guard.go",
		edit: edit{
			"	if err := g.Gate.SetIncarnation(number); err != nil {\n		return fmt.Errorf(\"raise gate number: %w\", err)\n	}\n	if err := g.Gate.CloseAll(); err != nil {\n		return fmt.Errorf(\"close gate: %w\", err)\n	}\n",
			"	if err := g.Gate.CloseAll(); err != nil {\n		return fmt.Errorf(\"close gate: %w\", err)\n	}\n	if err := g.Gate.SetIncarnation(number); err != nil {\n		return fmt.Errorf(\"raise gate number: %w\", err)\n	}\n",
		},
		catch: []catcher{test(guardPkg, "TestTakeOverOrder")},
	},
	{
		name: "guard-hang-not-seen", rule: "G5", bug: "a worker that hangs is not ended",
		file:  lifeFile,
		edit:  edit{"silent := time.Duration(now - l.lastBeat()); silent > limit", "silent := time.Duration(now - l.lastBeat()); silent > limit+time.Hour"},
		catch: []catcher{test(guardPkg, "TestHungWorkerIsKilled")},
	},
	{
		name: "guard-gone-worker-stays", rule: "G5", bug: "a worker whose guard is gone goes on holding, with nobody to close for it",
		file:  "internal/node/loop.go",
		edit:  edit{"	w.releaseAll(w.clk.Boottime(), \"guard gone\")\n", ""},
		catch: []catcher{test(nodePkg, "TestGuardGoneReleasesAll"), sim(200)},
	},
}
