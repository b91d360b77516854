// Package scenario has every row of the table of times as something that can
// be run: the fault, what it does to the floating address as a client sees it,
// and the way back to a whole cluster, so that scenarios follow one another on
// one cluster.
//
// The demo runs each once, the benchmark many times. The goals are those of
// the table; they are for an otherwise idle machine. Wide is for tests that
// share theirs with others.
package scenario
