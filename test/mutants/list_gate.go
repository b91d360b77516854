package main

// The kernel's side of the gate.

const (
	fencePkg = "./netfence"
	gateC    = "bpf/gate.c"
)

var gateMutants = []mutant{
	{
		name: "gate-deadline-ignored", rule: "gate", bug: "the kernel lets frames pass after the deadline",
		file:  gateC,
		edit:  edit{"	return bpf_ktime_get_boot_ns() < v->deadline;\n", "	return v->deadline != 0;\n"},
		catch: []catcher{test(fencePkg, "TestPackets")},
	},
	{
		name: "gate-incarnation-ignored", rule: "gate", bug: "the kernel does not compare the deadline's incarnation with the guard's number",
		file:  gateC,
		edit:  edit{"	if (v->incarnation != number)\n		return 0;\n", ""},
		catch: []catcher{test(fencePkg, "TestPackets")},
	},
	{
		name: "gate-number-zero-opens", rule: "gate", bug: "a number of zero does not close every gate",
		file:  gateC,
		edit:  edit{"	if (number == 0)\n		return 0;\n", ""},
		catch: []catcher{test(fencePkg, "TestPackets")},
	},
	{
		name: "gate-conflict-ignored", rule: "gate", bug: "a grant asked for before a conflict was seen opens the gate again",
		file:  gateC,
		edit:  edit{"	if (v->sent <= c->last)\n		return 0;\n", ""},
		catch: []catcher{test(fencePkg, "TestMemberConflictCloses")},
	},
	{
		name: "gate-conflict-not-noted", rule: "gate", bug: "the announcement of another member does not close the gate",
		file:  gateC,
		edit:  edit{"		if (now > c->last)\n			c->last = now;\n", ""},
		catch: []catcher{test(fencePkg, "TestMemberConflictCloses")},
	},
	{
		name: "gate-stranger-closes", rule: "gate", bug: "the announcement of a stranger closes the gate: anybody on the LAN could",
		file:  gateC,
		edit:  edit{"	count(REASON_FOREIGN);\n", "	c->last = now;\n	count(REASON_FOREIGN);\n"},
		catch: []catcher{test(fencePkg, "TestStrangersCannotClose")},
	},
	{
		name: "gate-arp-answered-while-closed", rule: "gate", bug: "a standby answers for the address",
		file:  gateC,
		edit:  edit{"	if (dir == OUT && is_closed_vip(&sender))\n		return drop(REASON_ARP_OUT);\n", ""},
		catch: []catcher{test(fencePkg, "TestPackets")},
	},
	{
		name: "gate-close-keeps-the-value", rule: "gate", bug: "closing a group does not zero its value",
		file:  "netfence/gate.go",
		edit:  edit{"	g.t.zero(group)\n	return g.t.isZero(group)\n", "	return nil\n"},
		catch: []catcher{test(fencePkg, "TestOpenRules")},
	},
	{
		name: "gate-opened-by-a-replaced-worker", rule: "gate", bug: "a worker whose number was taken away is not told so, and goes on",
		file:  "netfence/gate.go",
		edit:  edit{"	if n != g.incarnation {\n", "	if false {\n"},
		catch: []catcher{test(fencePkg, "TestOpenRules")},
	},
	{
		name: "gate-close-all-keeps-the-number", rule: "gate", bug: "the guard closes the values but not the number, so a dying worker can open again",
		file:  "netfence/fence.go",
		edit:  edit{"	return errors.Join(f.t.setNumber(0), f.t.zeroAll())\n", "	return f.t.zeroAll()\n"},
		catch: []catcher{test(fencePkg, "TestGuardCloses")},
	},
}
