package ship

import (
	"math"

	"github.com/holdfast-ha/holdfast/internal/invariant"
)

// Receiver takes snapshot files, one at a time.
type Receiver struct {
	cluster [16]byte
	have    uint64

	// The last file that was finished, and for which leader.
	done     File
	doneTerm uint64

	cur  *taking // what is being taken, nil for nothing
	then *taking // what replaces it as soon as the disk is free

	// busy is what the owner has been asked to do and has not reported.
	busy ActionKind
}

// taking is one file on its way here.
//
// Invariant: 0 <= written <= arrived <= Size, and arrived - written <= Window.
type taking struct {
	from, incarnation uint64
	offer             Offer
	open              bool
	written           int64 // stored, and acknowledged
	arrived           int64 // stored or in queue
	queue             [][]byte
	complained        int64 // offset of the last complaint, -1 for none
	heard             int64 // last frame of the sender
	asked             bool  // an offer came while the disk was busy
}

// NewReceiver returns a Receiver of a node of the cluster; zero for a node
// that belongs to none yet and takes any. Files up to index have are not
// needed.
func NewReceiver(cluster [16]byte, have uint64) *Receiver {
	return &Receiver{cluster: cluster, have: have}
}

// Belong says which cluster the node belongs to.
func (r *Receiver) Belong(cluster [16]byte) { r.cluster = cluster }

// Have says up to which index the node has applied the log.
func (r *Receiver) Have(index uint64) { r.have = max(r.have, index) }

// Forget says that the state which was finished last was not used: an offer of
// it is taken as any other.
func (r *Receiver) Forget() { r.done, r.doneTerm = File{}, 0 }

// Offer takes an offer of the node from, in its incarnation.
func (r *Receiver) Offer(now int64, from, incarnation uint64, o Offer) []Action {
	switch newest := r.newest(); {
	case r.cluster != [16]byte{} && o.Cluster != r.cluster:
		return refuse(from, o.File, OtherCluster, "")
	case o.Index <= r.have || o.File == r.done && o.Term == r.doneTerm:
		return []Action{send(from, Want{File: o.File, Try: o.Try, Done: true})}
	case newest == nil:
	case newest.offer.Term > o.Term:
		return refuse(from, o.File, Stale, "")
	case newest.offer.File == o.File:
		return r.again(now, newest, from, incarnation, o)
	case newest.offer.Term == o.Term && newest.offer.Index > o.Index:
		return nil // overtaken by a newer one of the same leader
	}
	r.then = &taking{from: from, incarnation: incarnation, offer: clone(o), complained: -1, heard: now}
	return r.work(nil)
}

// newest returns what was offered last and is wanted.
func (r *Receiver) newest() *taking {
	if r.then == nil && r.busy != Close {
		return r.cur
	}
	return r.then
}

// again answers an offer of the file that is being taken, maybe by another
// leader than before.
func (r *Receiver) again(now int64, t *taking, from, incarnation uint64, o Offer) []Action {
	t.from, t.incarnation, t.offer, t.heard = from, incarnation, clone(o), now
	if t != r.cur || !t.open {
		return nil // Open answers
	}
	if r.busy != 0 || len(t.queue) > 0 {
		// Not waiting for anything: say only that we live. What is lost shows
		// when the queue is empty.
		t.asked = true
		return []Action{send(from, Want{File: o.File, Offset: t.written})}
	}
	return []Action{t.want(true)}
}

// clone copies what outlives the frame.
func clone(o Offer) Offer {
	o.Meta = append([]byte(nil), o.Meta...)
	o.Message = append([]byte(nil), o.Message...)
	return o
}

func send(to uint64, m Message) Action { return Action{Kind: Send, Peer: to, Frame: Encode(m)} }

func refuse(to uint64, f File, why Reason, text string) []Action {
	return []Action{send(to, Refuse{File: f, Reason: why, Text: text[:min(len(text), MaxText)]})}
}

func (t *taking) want(resume bool) Action {
	return send(t.from, Want{File: t.offer.File, Offset: t.written, Try: t.offer.Try, Resume: resume})
}

// Data takes a piece of the node from.
func (r *Receiver) Data(now int64, from uint64, d Data) []Action {
	t := r.cur
	if t == nil || r.then != nil || !t.open || from != t.from || d.File != t.offer.File {
		return nil
	}
	t.heard = now
	end := d.Offset + int64(len(d.Bytes))
	switch {
	case end > t.offer.Size || end > t.written+2*Window:
		return nil // nothing that an honest sender sends
	case end <= t.arrived:
		return nil // repeated
	case d.Offset > t.arrived:
		return r.missing(t)
	case end > t.written+Window:
		return nil // not acknowledged: it comes again
	}
	t.queue = append(t.queue, d.Bytes[t.arrived-d.Offset:])
	t.arrived = end
	return r.work(nil)
}

// missing complains of a gap, once for each place: what is on its way behind
// the gap would only repeat it.
func (r *Receiver) missing(t *taking) []Action {
	if t.complained == t.arrived || t.arrived != t.written {
		return nil // said, or to be seen when the queue is written
	}
	t.complained = t.arrived
	return []Action{send(t.from, Want{File: t.offer.File, Offset: t.written, Resume: true})}
}

// Result is the outcome of Open, Write, Finish or Close.
type Result struct {
	Offset int64 // Open: how much is there already
	Err    error
	// Damaged: what the peer announced or sent is wrong, not the disk. It may
	// show at Open, Write or Finish; the sender hears of it, and nothing else
	// follows.
	Damaged bool
}

// Done takes the outcome of the action that was under way.
func (r *Receiver) Done(now int64, res Result) []Action {
	was, t := r.busy, r.cur
	invariant.Check(was != 0, "snapshot: an outcome of nothing, offset %d: %v", res.Offset, res.Err)
	r.busy = 0
	if was == Close { // an error of it is the owner's to judge
		r.cur = nil
		return r.work(nil)
	}
	t.heard = now
	switch {
	case res.Err != nil:
		return r.failed(was, res)
	case was == Open:
		invariant.Check(res.Offset >= 0 && res.Offset <= t.offer.Size, "snapshot: %d bytes there of %d", res.Offset, t.offer.Size)
		t.open, t.written, t.arrived = true, res.Offset, res.Offset
		return r.work([]Action{t.want(true)})
	case was == Write:
		t.written += int64(len(t.queue[0]))
		t.queue = t.queue[1:]
		return r.work(r.wrote(t))
	}
	// Finish: published.
	r.cur = nil
	r.done, r.doneTerm = t.offer.File, t.offer.Term
	acts := []Action{
		{Kind: Deliver, Peer: t.from, Incarnation: t.incarnation, Offer: t.offer},
		send(t.from, Want{File: t.offer.File, Offset: t.offer.Size, Try: t.offer.Try, Done: true}),
	}
	return r.work(acts)
}

// wrote acknowledges; an offer that came while the disk was busy asks whether
// anything is missing, and that shows now.
func (r *Receiver) wrote(t *taking) []Action {
	resume := t.asked && len(t.queue) == 0
	if resume {
		t.asked = false
	}
	if resume {
		return []Action{t.want(true)}
	}
	return []Action{send(t.from, Want{File: t.offer.File, Offset: t.written})}
}

// failed refuses a file that cannot be stored or is not what it should be.
func (r *Receiver) failed(was ActionKind, res Result) []Action {
	t := r.cur
	why := Storage
	if res.Damaged {
		why = Damaged
	}
	acts := refuse(t.from, t.offer.File, why, res.Err.Error())
	if was == Write {
		return r.close(acts, res.Err.Error())
	}
	r.cur = nil
	return r.work(acts)
}

// close asks for the file to be closed.
func (r *Receiver) close(acts []Action, reason string) []Action {
	t := r.cur
	t.open, t.queue = false, nil
	r.busy = Close
	return append(acts, Action{Kind: Close, Peer: t.from, Reason: reason})
}

// work gives the disk its next task.
func (r *Receiver) work(acts []Action) []Action {
	if r.busy != 0 {
		return acts
	}
	if r.then != nil && r.cur != nil && r.cur.open {
		return r.close(acts, "a newer snapshot is offered")
	}
	if t := r.then; t != nil {
		r.then = nil
		if t.offer.Index <= r.have {
			r.cur = nil
			return append(acts, send(t.from, Want{File: t.offer.File, Try: t.offer.Try, Done: true}))
		}
		r.cur, r.busy = t, Open
		return append(acts, Action{Kind: Open, Peer: r.cur.from, Offer: r.cur.offer})
	}
	t := r.cur
	switch {
	case t == nil || !t.open:
		return acts
	case len(t.queue) > 0:
		r.busy = Write
		return append(acts, Action{Kind: Write, Peer: t.from, Offset: t.written, Bytes: t.queue[0]})
	case t.written == t.offer.Size:
		r.busy = Finish
		return append(acts, Action{Kind: Finish, Peer: t.from, Offer: t.offer})
	}
	return acts
}

// Tick gives up a file whose sender has been silent for a minute; what has
// arrived stays on disk. Call it at Next.
func (r *Receiver) Tick(now int64) []Action {
	if now < r.Next() {
		return nil
	}
	return r.close(nil, "the sender is silent")
}

// Next returns when Tick has something to do; math.MaxInt64 for never.
func (r *Receiver) Next() int64 {
	if r.cur == nil || !r.cur.open || r.busy != 0 {
		return math.MaxInt64
	}
	return r.cur.heard + patience
}

// Progress returns how far the file is that is being taken; false for none.
func (r *Receiver) Progress() (Progress, bool) {
	if r.cur == nil {
		return Progress{}, false
	}
	return Progress{Peer: r.cur.from, Index: r.cur.offer.Index, Sent: r.cur.written, Size: r.cur.offer.Size}, true
}
