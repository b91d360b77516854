package main

import "fmt"

// rule is a rule of the protocol that can be taken out, to see that the
// checkers notice. It is taken out around the product's code, never in it.
type rule uint8

const (
	none rule = iota
	leaseIsPromise
	fromReceipt
	noG1
	noG2
	noteFirst
	noIncarnation
	resumed
	olderEpoch
	refusedCounts
	cachedNow
	sentLate
	oldConfig
	noConfigWait
	forgetsConfig
	rules
)

// What each broken rule is called, and what it does instead.
var ruleNames = [rules]struct{ name, text string }{
	none:           {"none", "all rules stand"},
	leaseIsPromise: {"lease-is-promise", "a lease as long as a promise (inequality of section 2)"},
	fromReceipt:    {"from-receipt", "the deadline counts from the receipt of an acknowledgement (G8)"},
	noG1:           {"no-g1", "a voter grants beside an unexpired grant (G1)"},
	noG2:           {"no-g2", "a voter grants as soon as it has started (G2)"},
	noteFirst:      {"note-first", "the note leaves before the gate is closed (G5)"},
	noIncarnation:  {"no-incarnation", "grants and notes go by the node, whichever incarnation (G5, G7)"},
	resumed:        {"resumed", "a released epoch is asked for and granted again (G3, G7)"},
	olderEpoch:     {"older-epoch", "a grant is turned back to an older epoch (G3)"},
	refusedCounts:  {"refused-counts", "a refused request is acknowledged by its sequence (G8)"},
	cachedNow:      {"cached-now", "a voter's clock was read before the datagram arrived (G8)"},
	sentLate:       {"sent-late", "a holder's clock is read after the datagram was sealed (G8)"},
	oldConfig:      {"old-config", "a voter grants what counts in an older configuration (G4)"},
	noConfigWait:   {"no-config-wait", "the next change of the voters does not wait (G4)"},
	forgetsConfig:  {"forgets-config", "a voter that starts grants before it knows its configuration (G4)"},
}

func (r rule) String() string { return ruleNames[r].name }

// ruleNamed finds a rule to break.
func ruleNamed(name string) (rule, error) {
	for r, n := range ruleNames {
		if n.name == name {
			return rule(r), nil
		}
	}
	return none, fmt.Errorf("no rule is called %q", name)
}

// aboutMembers tells whether the rule is about changes of the voters.
func (r rule) aboutMembers() bool {
	return r == oldConfig || r == noConfigWait || r == forgetsConfig
}
