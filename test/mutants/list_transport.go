package main

// What may come off the wire.

const transportPkg = "./internal/transport"

var transportMutants = []mutant{
	{
		name: "replay-window-off", rule: "section 4", bug: "a beat that was recorded is taken again",
		file:  "internal/transport/session.go",
		edit:  edit{"	return payload, true, s.window.accept(counter)\n", "	s.window.accept(counter)\n	return payload, true, true\n"},
		catch: []catcher{test(transportPkg, "TestReplayedDatagramsAreDropped")},
	},
	{
		name: "replay-window-moved-by-forgery", rule: "section 4", bug: "a forged counter moves the window, and honest beats are dropped",
		file: "internal/transport/session.go",
		edit: edit{
			"	payload, err := s.recv.Open(nil, scratch.nonce[:], sealed, scratch.aad)\n",
			"	s.mu.Lock()\n	s.window.newest = max(s.window.newest, counter)\n	s.mu.Unlock()\n	payload, err := s.recv.Open(nil, scratch.nonce[:], sealed, scratch.aad)\n",
		},
		catch: []catcher{test(transportPkg, "TestTamperedDatagramsAreDropped")},
	},
	{
		name: "old-beat-taken", rule: "section 4", bug: "a beat that was overtaken by a later one is taken, with what it says",
		file:  "internal/node/peers.go",
		edit:  edit{"		if b.Sequence <= p.sequence {\n			return beatOld\n		}\n", ""},
		catch: []catcher{test(nodePkg, "TestPeerTakesEachBeatOnce")},
	},
	{
		name: "beat-of-an-ended-worker", rule: "G5", bug: "a beat of an incarnation that is over is taken",
		file:  "internal/node/peers.go",
		edit:  edit{"	if p.over[b.Incarnation] {\n		return beatOver\n	}\n", ""},
		catch: []catcher{test(nodePkg, "TestPeerSeesClones")},
	},
	{
		name: "answer-asks", rule: "section 4", bug: "an answer is answered, without end",
		file:  beatsFile,
		edit:  edit{"	if len(b.Requests) > 0 && !b.Flags.Has(transport.FlagAnswer) {", "	if len(b.Requests) > 0 || b.Flags.Has(transport.FlagAnswer) {"},
		catch: []catcher{test(nodePkg, "TestAnswersAreNotAnswered")},
	},
	{
		name: "note-flood-not-limited", rule: "G5", bug: "a flood of forged notes keeps the node busy with signatures",
		file:  "internal/transport/datagram.go",
		edit:  edit{"	case noteLimited:\n		t.notesLimited.Add(1)\n", "	case noteLimited:\n		t.notesLimited.Add(1)\n		t.cfg.Handler.OnNote(bytes.Clone(raw), from)\n"},
		catch: []catcher{test(transportPkg, "TestNoteFloodIsLimited")},
	},
	{
		name: "frame-length-not-bounded", rule: "section 4", bug: "memory is taken for as many bytes as a frame says",
		file:  "internal/transport/frame.go",
		edit:  edit{"	if uint64(length) > uint64(r.limit) {", "	if false {"},
		catch: []catcher{test(transportPkg, "TestFramesBeyondLimits")},
	},
}
