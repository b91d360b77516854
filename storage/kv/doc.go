// Package kv is the data part of the replicated state: buckets of keys with
// revisions, conditions, transactions, expiry, watches and once-only requests.
//
// The package is a pure state machine: no clock, no I/O of its own, no
// goroutine. What happens is decided by the committed batches alone, so that
// every node has the same Store at the same log index. One goroutine owns a
// Store; everything that others read is a View, which never changes.
package kv
