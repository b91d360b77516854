// Package membership decides which change of raft's configuration comes next.
//
// The leader asks a [Planner] what to do: it fills nodes that lost their data
// (F2), promotes learners that have caught up, and carries out what operators
// ask for. Changes are single steps: one voter more or one less, so that each
// majority of the one configuration meets each of the next. Between two
// changes lies the wait of G4.
//
// A node that lost its data, or whose damaged log was set aside, comes back
// under a new raft id. The old id is then dead for good, and the steps are:
// remove the old id (a dead voter counts against the quorum as much as its
// removal does), add the new one as a learner, promote it when it has caught
// up. A removed voter keeps its record, name and key, until the new id takes
// its place; only an operator's remove forgets the record.
//
// The package is pure: the caller passes the time (nanoseconds of its own
// CLOCK_BOOTTIME, above 0) and owns the Planner from one goroutine.
package membership
