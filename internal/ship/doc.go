// Package ship moves a snapshot file to a peer that is too far behind for the
// log, and goes on where it stopped after a broken connection or a restart.
//
// A [Sender] belongs to the leader, a [Receiver] to every node; one goroutine
// owns each. Both are pure: the caller passes the time (nanoseconds of its own
// CLOCK_BOOTTIME), hands in what arrived and what its reads and writes brought,
// and carries out the [Action] values that come back. Nothing here touches a
// socket or a file.
//
//	sender                                receiver
//	  Start  -- Offer{file, raft message} -->   Open: how much is on disk?
//	  Read   <-- Want{offset, resume} ---
//	         -- Data{offset, bytes} ---->       Write, one at a time
//	         <-- Want{offset} -----------       what is written is acknowledged
//	         ...                                Finish: verify, decode, publish
//	  Report <-- Want{size, done} -------       Deliver the raft message
//
// At most [Window] bytes are on their way. Frames between two nodes arrive in
// the order in which they were sent or, when a connection breaks, not at all.
// After a second without an answer the sender offers again, and the receiver
// says from where to go on; after a minute without progress the sender gives
// up and reports that to raft, which then asks again.
//
// What arrives is believed only as far as the file's checksum goes: Finish
// verifies the whole of it before anything is used.
package ship

import "time"

// Limits of a transfer.
const (
	// ChunkSize is the most bytes of one Data frame.
	ChunkSize = 256 << 10
	// Window is how many bytes may be sent and not acknowledged, and so what a
	// receiver keeps in memory.
	Window = 8 * ChunkSize
	// readSize is how much one Read asks for: half a window, so that reading
	// the next half overlaps with sending.
	readSize = Window / 2

	// silence without a word of the receiver: it is asked again.
	silence = int64(time.Second)
	// patience without progress: given up.
	patience = int64(60 * time.Second)
	// finishLimit bounds how long a receiver may verify and decode.
	finishLimit = int64(10 * time.Minute)
	// A transfer that failed is reported after a pause, doubled each time, as
	// raft would offer the same again at once.
	pauseFirst = int64(time.Second)
	pauseMax   = int64(30 * time.Second)
)

// ActionKind says what the owner is to do.
type ActionKind uint8

// What a Sender and a Receiver ask for.
const (
	// Send sends Frame to Peer on the bulk channel. A frame that cannot be
	// sent is lost; nothing need be done about it.
	Send ActionKind = 1 + iota

	// Read reads Length bytes at Offset of the file of Transfer and hands them
	// to Sender.ReadDone. At most one of a transfer is under way.
	Read
	// Release closes the file of Transfer. A read may still be under way; its
	// outcome is of no interest any more.
	Release
	// Report tells raft whether Peer got the snapshot (OK). Reason is for logs.
	Report

	// Open opens the file that Offer describes, closing any other first, and
	// hands the length of what is already there to Receiver.Done. Of Open,
	// Write, Finish and Close one at most is under way.
	Open
	// Write appends Bytes at Offset. When it fails, Close follows.
	Write
	// Finish verifies, decodes and publishes the file. Whatever the outcome,
	// it is not open afterwards; when the content is wrong it must be deleted.
	Finish
	// Close closes the file and keeps it for later, unless its content was
	// found wrong. Its outcome must be handed in, its error changes nothing.
	Close
	// Deliver gives Offer.Message, raft's MsgSnap, to raft as a message of
	// Peer under Incarnation: the file was published.
	Deliver
)

// String returns the name of the kind for logs.
func (k ActionKind) String() string {
	names := [...]string{"none", "send", "read", "release", "report", "open", "write", "finish", "close", "deliver"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Action is one thing for the owner to do, in the order given.
type Action struct {
	Kind ActionKind
	// Peer is the raft id of the node that it concerns.
	Peer uint64
	// Transfer is the number that Sender.Start returned: Read, Release.
	Transfer uint64
	Frame    []byte // Send
	Offset   int64  // Read, Write
	Length   int    // Read
	Bytes    []byte // Write: valid until Receiver.Done
	// Offer is what the file was announced with: Open, Deliver.
	Offer Offer
	// Incarnation is the sender's: Deliver.
	Incarnation uint64
	OK          bool   // Report
	Reason      string // Report, Close
}
