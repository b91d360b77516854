package node

import (
	"context"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/quorum"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Reads of the buckets. A local read takes the newest view at once. A
// linearizable one first learns from the leader, who asks a majority, up to
// where everything may have been committed when it came, and waits until that
// is applied here (ReadIndex).

const (
	maxReads = 8192
	// readLimit is less than clients wait, so that they are told why.
	readLimit = 2 * time.Second
)

// published is the newest view of the buckets; next is closed when there is a
// newer one.
type published struct {
	view *kv.View
	next chan struct{}
}

// publishView lets readers see what was applied.
func (w *worker) publishView() {
	old := w.view.Swap(&published{view: w.state.Buckets().View(), next: make(chan struct{})})
	if old != nil {
		close(old.next)
	}
}

// read is a reader that waits.
type read struct {
	until int64
	done  func(view *kv.View, err *control.Error)
}

// reads are the readers that wait: for the next question, for the answer to
// one that is under way, or for entries to be applied.
type reads struct {
	pending []read
	asked   []read
	token   uint64 // of the question under way, 0 = none
	last    uint64 // token
	askedAt int64
	ready   map[uint64][]read // by the index that must be applied
	count   int
}

func newReads() *reads { return &reads{ready: map[uint64][]read{}} }

func (q *reads) finish(r read, view *kv.View, err *control.Error) {
	q.count--
	r.done(view, err)
}

func (w *worker) takeRead(now int64, done func(*kv.View, *control.Error)) {
	q := w.reads
	switch {
	case w.raft == nil:
		done(nil, w.notFounded())
	case q.count >= maxReads:
		done(nil, &control.Error{Code: control.NoQuorum, Message: "too many reads wait on this node", Hint: "try again"})
	default:
		q.count++
		q.pending = append(q.pending, read{until: now + int64(readLimit), done: done})
	}
}

// readsTurn asks for all that wait at once. A question that got no answer is
// asked anew under another token: an answer to the old one may be older than
// readers that came later.
func (w *worker) readsTurn(now int64) {
	q := w.reads
	if q.token != 0 && now-q.askedAt > int64(max(3*w.timing.Beat, 100*time.Millisecond)) {
		q.pending = append(q.asked, q.pending...)
		q.asked, q.token = nil, 0
	}
	if q.token != 0 || len(q.pending) == 0 {
		return
	}
	q.last++
	if err := w.raft.ReadIndex(now, q.last); err != nil {
		return // no leader: asked again in a later turn, until the limit
	}
	q.asked, q.pending = q.pending, nil
	q.token, q.askedAt = q.last, now
}

// readsConfirmed takes raft's answers.
func (w *worker) readsConfirmed(answers []quorum.Read) {
	q := w.reads
	for _, a := range answers {
		if a.Token != q.token || q.token == 0 {
			continue
		}
		q.ready[a.Index] = append(q.ready[a.Index], q.asked...)
		q.asked, q.token = nil, 0
	}
}

// answerReads gives the view to readers whose index is applied.
func (w *worker) answerReads() {
	q := w.reads
	if len(q.ready) == 0 {
		return
	}
	applied := w.appliedIndex()
	for index, list := range q.ready {
		if index > applied {
			continue
		}
		delete(q.ready, index)
		for _, r := range list {
			q.finish(r, w.view.Load().view, nil)
		}
	}
}

var errReadLate = &control.Error{
	Code: control.NoQuorum, Message: "no majority confirmed the read in time", Hint: "holdfast status; --local reads what this node has",
}

// expireReads gives up on readers that have waited too long.
func (w *worker) expireReads(now int64) {
	q := w.reads
	late := func(list []read) []read {
		kept := list[:0]
		for _, r := range list {
			if now > r.until {
				q.finish(r, nil, errReadLate)
			} else {
				kept = append(kept, r)
			}
		}
		return kept
	}
	q.pending, q.asked = late(q.pending), late(q.asked)
	for index, list := range q.ready {
		if list = late(list); len(list) == 0 {
			delete(q.ready, index)
		} else {
			q.ready[index] = list
		}
	}
}

// View returns the buckets: as committed when it was asked, or with local as
// applied on this node.
func (b backend) View(ctx context.Context, local bool) (*kv.View, error) {
	w := b.w
	if local {
		if p := w.view.Load(); p != nil {
			return p.view, nil
		}
		return nil, w.notFounded()
	}
	return await(ctx, w, errOverloaded, errStopping, w.takeRead)
}

// NextView waits for a revision after the given one.
func (b backend) NextView(ctx context.Context, after uint64) (*kv.View, error) {
	w := b.w
	for {
		p := w.view.Load()
		if p == nil {
			return nil, w.notFounded()
		}
		if p.view.Rev() > after {
			return p.view, nil
		}
		select {
		case <-p.next:
		case <-w.ended:
			return nil, errStopping
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Update executes a request; the answer comes when a majority has it on disk.
func (b backend) Update(ctx context.Context, req kv.Request) (kv.Result, error) {
	return await(ctx, b.w, errOverloaded, errUnknownStopping, func(now int64, answer func(kv.Result, *control.Error)) {
		b.w.takeWrite(now, req, func(_ int64, res kv.Result, err *control.Error) { answer(res, err) })
	})
}

var errUnknownStopping = &control.Error{Code: control.Timeout, Message: "this node is stopping: the outcome is unknown", Hint: "try again with the same Holdfast-Request-Id"}

// bucketsChanged takes the names of the buckets from the file.
func (w *worker) bucketsChanged() {
	names := make([]string, 0, len(w.cfg.Buckets))
	for _, b := range w.cfg.Buckets {
		names = append(names, b.Name)
	}
	w.buckets.Store(&names)
}

// Buckets names the buckets that this node's file lists, and those that always
// exist.
func (b backend) Buckets() []string { return *b.w.buckets.Load() }
