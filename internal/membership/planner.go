package membership

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Planner remembers what the wait of G4 needs. Every node keeps one warm
// (Configured), so that a new leader knows the voters before its own.
type Planner struct {
	promise int64

	index  uint64   // of the newest configuration
	voters []uint64 // its voters, sorted; nil when forgotten
	before []uint64 // voters of the one before, nil when unknown

	// ready is since when each learner has reported that it knows that it joined.
	ready map[uint64]int64

	majority int64 // since when a majority of voters has reported it, 0 = not yet
	settled  int64 // since when one of before has too, 0 = not yet
}

// oldPatience is how many promises a majority of the old voters is waited for
// after one of the new voters has reported.
const oldPatience = 10

// New returns a Planner; promise is P of the committed profile.
func New(promise time.Duration) *Planner {
	return &Planner{promise: int64(promise), ready: map[uint64]int64{}}
}

// Configured takes a configuration that was applied: the one the node starts
// with, then each. Outgoing voters count as voters before.
func (p *Planner) Configured(index uint64, voters []uint64) {
	if index <= p.index {
		return
	}
	p.before = p.voters
	p.index, p.voters = index, slices.Sorted(slices.Values(voters))
	p.majority, p.settled = 0, 0
}

// Forget drops what is known of voters: this node's state is replaced by a
// snapshot, and the configurations that lie between are unknown. Call it before
// Configured of the new state.
func (p *Planner) Forget() { p.before, p.voters = nil, nil }

// Lead says that this node begins to lead: what others have reported to the
// leaders before is proven anew, and the wait of G4 begins with that.
func (p *Planner) Lead() { p.majority, p.settled = 0, 0 }

// wait applies G4: the text says what the next change waits for, "" when it
// may be proposed. until is when time alone may change that.
//
// A majority of the new voters is proof enough: it shares a voter with each
// majority of the old ones, and that voter, having applied the change, refuses
// the requests of the old configuration; P later no grant of before stands.
// The majority of the old voters is a second proof of the same, which is asked
// for but not for ever: old voters may be gone for good, and a repair must not
// wait for them.
func (p *Planner) wait(now int64, in *Input) (text string, until int64) {
	p.Configured(in.ConfigIndex, in.Voters)
	if lacking := in.lacking(in.Voters); len(lacking) > 0 {
		p.majority, p.settled = 0, 0
		return "a majority of the voters has yet to apply the last change: " + strings.Join(lacking, ", "), 0
	}
	if p.majority == 0 {
		p.majority = now
	}
	if lacking := in.lacking(p.before); len(lacking) > 0 && p.settled == 0 {
		if end := p.majority + oldPatience*p.promise; now < end {
			return "a majority of the voters before the last change has yet to apply it: " + strings.Join(lacking, ", "), end
		}
	}
	if p.settled == 0 {
		p.settled = now
	}
	if end := p.settled + p.promise; now < end {
		return "the last change is too recent", end
	}
	return "", 0
}

// lacking names the voters that have not reported the configuration, when
// those that have are no majority.
func (in *Input) lacking(voters []uint64) []string {
	var names []string
	for _, id := range voters {
		if id != in.Self && in.Reported[id] < in.ConfigIndex {
			names = append(names, in.name(id))
		}
	}
	if len(voters)-len(names) >= majority(len(voters)) {
		return nil
	}
	return names
}

// Decide says which change comes next. Call it when something of the input has
// changed, and at Until; it only leads anywhere on the leader.
func (p *Planner) Decide(now int64, in Input) Decision {
	pl := &plan{p: p, in: &in, now: now}
	pl.d.Answers = make([]Answer, len(in.Want))
	for i, r := range in.Want {
		pl.d.Answers[i] = Answer{Request: r}
	}
	pl.repairs()
	pl.requests()
	pl.gate()
	return pl.d
}

// plan is one decision in the making: the first step that somebody wants and
// nothing stands against becomes the change.
type plan struct {
	p   *Planner
	in  *Input
	now int64
	d   Decision
}

// propose makes c the change unless there is one already.
func (pl *plan) propose(c Change) {
	if pl.d.Change.Kind == 0 {
		pl.d.Change = c
	}
}

// wait notes the first thing that is waited for, and the earliest time.
func (pl *plan) wait(until int64, format string, args ...any) {
	if pl.d.Wait == "" {
		pl.d.Wait = fmt.Sprintf(format, args...)
	}
	pl.again(until)
}

func (pl *plan) again(until int64) {
	if until > 0 && (pl.d.Until == 0 || until < pl.d.Until) {
		pl.d.Until = until
	}
}

// gate holds a change back while the last one is not settled everywhere (G4).
func (pl *plan) gate() {
	text, until := pl.p.wait(pl.now, pl.in)
	if pl.d.Change.Kind == 0 && !pl.d.Handover {
		return
	}
	switch {
	case pl.in.Pending:
		text, until = "a change is being committed", 0
	case len(pl.in.Outgoing) > 0:
		text, until = "a joint configuration is in force", 0
	}
	if text == "" {
		return
	}
	pl.d.Wait = text + pl.next()
	pl.d.Until = until
	pl.d.Change, pl.d.Handover = Change{}, false
}

func (pl *plan) next() string {
	if pl.d.Change.Kind == 0 {
		return ""
	}
	return "; then: " + pl.d.Change.Reason
}
