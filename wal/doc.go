// Package wal is a segmented log of opaque records that survives power cuts and
// says so when it does not.
//
// Append queues records; one goroutine writes what is queued as one batch, syncs
// it once and calls the callbacks. What was acknowledged is on disk. The first
// error of a write, sync, rename or directory sync is the last thing the log
// does: every later call returns it, since a second sync after a failed one
// reports success for data that is gone. The process must exit and read again.
//
// Open reads everything and gives one of three verdicts (PROTOCOL F3):
//
//   - Clean: the log ends at a batch.
//   - TornTail: the last batch was never completely written, so it was never
//     acknowledged; it is cut and the log goes on.
//   - Corrupt: something that was on disk is damaged or missing. Open returns a
//     *CorruptError, replays nothing more and changes nothing.
//
// The callers' contract: one Log per directory at a time (the owner of the data
// directory holds its lock); entries that replay gives are checked for gaps by
// the caller, who alone knows which types are entries; whatever of a released
// segment is still needed is appended again before Release.
//
// The bytes are described in docs/wal-format.md and in format.go.
package wal
