// Package lease holds the arithmetic that keeps one owner of a group of VIPs.
//
// A [Voter] promises: for the promise time P after it received a request it
// grants the group to nobody else. A [Holder] counts: its gate may be open for
// the lease time L after it sent a request that a majority of voters has
// acknowledged. [Timing] keeps L short enough that the promise outlasts the
// lease by any two clocks whose rates are within rho of true time. A [Note] is
// the signed word of a node that something of its own has ended, so that
// nobody has to wait for a promise to run out.
//
// The rules are G1 to G8 of the protocol page and are quoted by id. The
// package is pure: the caller passes the time (nanoseconds of its own
// CLOCK_BOOTTIME, never compared between nodes), moves the bytes and owns the
// values from one goroutine.
package lease
