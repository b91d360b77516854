package ship

import (
	"math"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// Sender sends snapshot files, at most one at a time to each peer.
type Sender struct {
	cluster   [16]byte
	transfers map[uint64]*transfer // by peer
	pauses    map[uint64]int64     // by peer: before the next failure is reported
	last      uint64               // number of the newest transfer
}

// transfer is one file on its way to one peer.
//
// Invariant: 0 <= acked <= next <= Size. What a read brings counts only while
// next is where it reads.
type transfer struct {
	id, peer uint64
	offer    Offer
	acked    int64 // the receiver has written everything before
	next     int64 // the next byte to send; all before was sent or is lost
	offered  int64 // next when the newest offer left
	began    bool  // the receiver has said where to begin
	reading  int   // bytes of the read that is under way, 0 for none
	readAt   int64 // where it reads

	asked    int64 // last offer, or word of the receiver after it
	heard    int64 // last word of the receiver
	progress int64 // last time that it got further
	complete int64 // since when all is written and it verifies; 0 = not yet

	// A transfer that failed is only waiting to be reported.
	failed   bool
	reportAt int64
	reason   string
}

// NewSender returns a Sender of a node of the cluster.
func NewSender(cluster [16]byte) *Sender {
	return &Sender{cluster: cluster, transfers: map[uint64]*transfer{}, pauses: map[uint64]int64{}}
}

// Start begins to send a file to peer and replaces what was on its way there.
// Of the offer, Term, File, Size, Meta and Message count. The owner keeps the
// file open under the number returned until Release names it; every transfer
// ends with one Release, and with one Report unless it was replaced or
// cancelled.
func (s *Sender) Start(now int64, peer uint64, offer Offer) (uint64, []Action) {
	offer.Cluster, offer.Try = s.cluster, 1
	err := offer.check()
	invariant.Check(err == nil, "start snapshot of index %d to node %x: %v", offer.Index, peer, err)
	acts := s.Cancel(peer)
	s.last++
	t := &transfer{id: s.last, peer: peer, offer: offer, progress: now}
	t.offer.Try = 0
	s.transfers[peer] = t
	return t.id, append(acts, t.propose(now))
}

// Cancel ends the transfer to peer without a report: it is no member any more.
func (s *Sender) Cancel(peer uint64) []Action {
	t := s.transfers[peer]
	if t == nil {
		return nil
	}
	delete(s.transfers, peer)
	if t.failed {
		return nil // released when it failed
	}
	return []Action{{Kind: Release, Peer: peer, Transfer: t.id}}
}

// CancelAll ends all transfers without a report: this node leads no more.
func (s *Sender) CancelAll() []Action {
	var acts []Action
	for _, peer := range s.peers() {
		acts = append(acts, s.Cancel(peer)...)
	}
	clear(s.pauses)
	return acts
}

// Connected says that a bulk connection to peer is up again: what was under
// way is lost, and there is no need to wait until that is noticed.
func (s *Sender) Connected(now int64, peer uint64) []Action {
	t := s.transfers[peer]
	if t == nil || t.failed {
		return nil
	}
	return []Action{t.propose(now)}
}

// peers returns whom something is on its way to, in a fixed order.
func (s *Sender) peers() []uint64 {
	peers := make([]uint64, 0, len(s.transfers))
	for peer := range s.transfers {
		peers = append(peers, peer)
	}
	slices.Sort(peers)
	return peers
}

// propose makes the offer, or makes it again.
func (t *transfer) propose(now int64) Action {
	t.offer.Try++
	t.asked = now
	t.offered = t.next
	return Action{Kind: Send, Peer: t.peer, Frame: Encode(t.offer)}
}

// Want takes what a receiver has said.
func (s *Sender) Want(now int64, peer uint64, w Want) []Action {
	t := s.transfers[peer]
	if t == nil || t.failed || w.File != t.offer.File || w.Offset > t.offer.Size || w.Try > t.offer.Try {
		return nil
	}
	t.heard, t.asked = now, now
	if w.Done {
		return s.done(t)
	}
	if w.Offset > t.acked || !t.began {
		t.progress = now
	}
	switch {
	case !t.began || w.Resume && t.lost(w):
		t.began = true
		t.acked, t.next = w.Offset, w.Offset
		t.offered = w.Offset
	default:
		t.acked = max(t.acked, w.Offset)
		t.next = max(t.next, t.acked)
	}
	if t.acked == t.offer.Size && t.complete == 0 {
		t.complete = now
	}
	return t.pump(nil)
}

// lost tells whether bytes that were sent will not arrive. Frames do not
// overtake each other: what was sent before an offer that the receiver has
// seen is there or is lost; what was sent after it may still come.
func (t *transfer) lost(w Want) bool {
	switch w.Try {
	case 0:
		return w.Offset < t.next // a piece is missing there
	case t.offer.Try:
		return w.Offset < t.offered
	}
	return false // the answer to a newer offer is to come
}

// pump asks for what the window has room for.
func (t *transfer) pump(acts []Action) []Action {
	room := min(t.acked+Window, t.offer.Size) - t.next
	if !t.began || t.reading > 0 || room < min(ChunkSize, t.offer.Size-t.next) || room <= 0 {
		return acts
	}
	t.reading, t.readAt = int(min(room, readSize)), t.next
	return append(acts, Action{Kind: Read, Peer: t.peer, Transfer: t.id, Offset: t.next, Length: t.reading})
}

// ReadDone takes the outcome of a Read: the bytes, all of them, or an error.
func (s *Sender) ReadDone(now int64, id uint64, b []byte, err error) []Action {
	var t *transfer
	for _, other := range s.transfers {
		if other.id == id && !other.failed {
			t = other
		}
	}
	if t == nil {
		return nil // ended meanwhile
	}
	want := t.reading
	t.reading = 0
	switch {
	case err != nil:
		return s.fail(now, t, "read the file: "+err.Error())
	case len(b) != want:
		return s.fail(now, t, "read the file: it is shorter than it was")
	case t.next != t.readAt:
		return t.pump(nil)
	}
	var acts []Action
	for len(b) > 0 {
		n := min(len(b), ChunkSize)
		acts = append(acts, Action{Kind: Send, Peer: t.peer, Frame: Encode(Data{File: t.offer.File, Offset: t.next, Bytes: b[:n]})})
		t.next += int64(n)
		b = b[n:]
	}
	invariant.Check(t.next <= t.offer.Size, "snapshot of %d bytes sent up to %d", t.offer.Size, t.next)
	return t.pump(acts)
}

// Refuse takes a refusal.
func (s *Sender) Refuse(now int64, peer uint64, r Refuse) []Action {
	t := s.transfers[peer]
	if t == nil || t.failed || r.File != t.offer.File {
		return nil
	}
	reason := "refused: " + r.Reason.String()
	if r.Text != "" {
		reason += ": " + r.Text
	}
	return s.fail(now, t, reason)
}

// done ends a transfer well.
func (s *Sender) done(t *transfer) []Action {
	delete(s.transfers, t.peer)
	delete(s.pauses, t.peer)
	return []Action{
		{Kind: Release, Peer: t.peer, Transfer: t.id},
		{Kind: Report, Peer: t.peer, Transfer: t.id, OK: true},
	}
}

// fail ends a transfer badly; raft hears of it after a pause.
func (s *Sender) fail(now int64, t *transfer, reason string) []Action {
	pause := min(max(pauseFirst, s.pauses[t.peer]), pauseMax)
	s.pauses[t.peer] = min(2*pause, pauseMax)
	t.failed, t.reason, t.reportAt = true, reason, now+pause
	return []Action{{Kind: Release, Peer: t.peer, Transfer: t.id}}
}

// Tick lets time act. Call it at Next.
func (s *Sender) Tick(now int64) []Action {
	var acts []Action
	for _, peer := range s.peers() {
		t := s.transfers[peer]
		switch {
		case t.failed && now >= t.reportAt:
			delete(s.transfers, peer)
			acts = append(acts, Action{Kind: Report, Peer: peer, Transfer: t.id, Reason: t.reason})
		case t.failed:
		case now >= t.givesUp():
			acts = append(acts, s.fail(now, t, "no progress")...)
		case now >= t.asked+silence:
			acts = append(acts, t.propose(now))
		}
	}
	return acts
}

func (t *transfer) givesUp() int64 {
	if t.complete != 0 {
		// It verifies and decodes: as long as it answers, it works.
		return min(t.complete+finishLimit, t.heard+patience)
	}
	return t.progress + patience
}

// Next returns when Tick has something to do; math.MaxInt64 for never.
func (s *Sender) Next() int64 {
	next := int64(math.MaxInt64)
	for _, t := range s.transfers {
		if t.failed {
			next = min(next, t.reportAt)
		} else {
			next = min(next, t.givesUp(), t.asked+silence)
		}
	}
	return next
}

// Progress is how far a transfer is, for the status.
type Progress struct {
	Peer        uint64
	Index       uint64
	Sent, Size  int64 // acknowledged and all, in bytes
	Failed      bool  // waiting to be offered again
	Explanation string
}

// Progress returns the transfers under way, by peer.
func (s *Sender) Progress() []Progress {
	var all []Progress
	for _, peer := range s.peers() {
		t := s.transfers[peer]
		all = append(all, Progress{Peer: peer, Index: t.offer.Index, Sent: t.acked, Size: t.offer.Size, Failed: t.failed, Explanation: t.reason})
	}
	return all
}
