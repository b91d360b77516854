// Package placement decides who should hold each group of VIPs.
//
// A [Tracker] runs on every node. It is fed with what beats report
// ([Tracker.Observe]), with notes, with applied assignments and memberships;
// the leader asks it what to do ([Tracker.Decide]) and carries the answer out:
// it proposes the Assign, Fence and Unfence entries and sends the orders of a
// planned switchover. Followers keep the tracker warm so that a new leader
// decides in its first batch (E5).
//
// Nothing here is needed for safety: whatever is decided, the grants of
// package lease keep two gates from being open at once. The rules are A1 to
// A7 of the protocol page and are quoted by id. The package is pure: the
// caller passes the time (nanoseconds of its own CLOCK_BOOTTIME) and owns the
// tracker from one goroutine. The same calls give the same answers in the
// same order.
package placement
