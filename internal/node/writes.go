package node

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/kv"
)

// Writes to the buckets. Any member takes them; the leader puts what has come
// since its last turn into one entry of the log, and answers when that entry
// was committed and applied: a majority has then fsynced it.

// Limits of the writes that wait on one node.
const (
	maxWrites     = 8192
	maxWriteBytes = 64 << 20
	// Entries with data that are not yet applied. While they are under way the
	// next one grows, which is what makes many writers fast.
	maxFlight = 4
	// batchBytes is from where on a batch takes no further request.
	batchBytes = 512 << 10
	writeLimit = 10 * time.Second
)

// write is one request that waits for its answer. done is called once, in the
// loop.
type write struct {
	req   kv.Request
	size  int
	began int64
	until int64
	done  func(now int64, res kv.Result, err *control.Error)
}

// flight is an entry of ours that is not yet applied.
type flight struct {
	term   uint64
	writes []write
}

// writes are those of this node that wait: for the next entry, for the commit
// of theirs, or for the leader's answer.
type writes struct {
	pending []write
	bytes   int // of all that wait
	count   int
	flight  map[uint64]flight // by log index
	away    map[uint64]write  // at the leader, by id
	awayTo  string            // whom the leader was then
	lastID  uint64            // begins anywhere: an answer to the worker before must match nothing
	answers []answered        // applied, to be given out once readers can see them
}

type answered struct {
	w   write
	res kv.Result
}

func newWrites(lastID uint64) *writes {
	return &writes{flight: map[uint64]flight{}, away: map[uint64]write{}, lastID: lastID}
}

func (q *writes) finish(now int64, w write, res kv.Result, err *control.Error) {
	q.count--
	q.bytes -= w.size
	w.done(now, res, err)
}

var (
	errOverloaded = &control.Error{Code: control.NoQuorum, Message: "too many writes wait on this node", Hint: "try again"}
	errNoLeader   = &control.Error{Code: control.NoQuorum, Message: "no leader is known at the moment", Hint: "holdfast status"}
	errNoMajority = &control.Error{Code: control.NoQuorum, Message: "the leader does not hear a majority: nothing was written", Hint: "holdfast status"}
	errDiskFull   = &control.Error{Code: control.DiskFull, Message: "the disk of the leader is full: nothing was written", Hint: "make room in its data directory; reads go on"}
	errNoMember   = &control.Error{Code: control.Forbidden, Message: "who asks is no member of the cluster", Hint: "holdfast member list"}
	errUnknown    = &control.Error{Code: control.Timeout, Message: "the leader was lost before it answered: the outcome is unknown", Hint: "try again with the same Holdfast-Request-Id"}
)

// takeWrite takes a request from the control socket or from another member.
func (w *worker) takeWrite(now int64, req kv.Request, done func(int64, kv.Result, *control.Error)) {
	q := w.writes
	size := req.Size()
	switch {
	case w.raft == nil:
		done(now, kv.Result{}, w.notFounded())
		return
	case q.count >= maxWrites || q.bytes+size > maxWriteBytes:
		done(now, kv.Result{}, errOverloaded)
		return
	}
	q.count++
	q.bytes += size
	q.pending = append(q.pending, write{req: req, size: size, began: now, until: now + int64(writeLimit), done: done})
}

// writesTurn proposes what has come, or sends it to the leader.
func (w *worker) writesTurn(now int64) {
	q := w.writes
	if q.awayTo != "" && w.leaderName(now) != q.awayTo {
		w.loseAway(now)
	}
	if len(q.pending) == 0 {
		return
	}
	if w.leads(now) {
		w.proposeWrites(now)
		return
	}
	w.forwardWrites(now)
}

func (w *worker) leaderName(now int64) string {
	s := w.raft.Status(now)
	if s.Leader == 0 || s.Lost {
		return ""
	}
	return w.nameOf(s.Leader)
}

// proposeWrites makes entries of what waits.
func (w *worker) proposeWrites(now int64) {
	q := w.writes
	if w.disk.full {
		q.refuse(now, errDiskFull)
		return
	}
	if !w.hearsMajority(now) {
		// What is not proposed has not happened; what is might still be
		// committed much later.
		q.refuse(now, errNoMajority)
		return
	}
	for len(q.pending) > 0 && len(q.flight) < maxFlight {
		n, bytes := 0, 0
		batch := kv.Batch{Clock: w.committedClock(now), MaxBytes: w.cfg.State.MaxBytes}
		for n < len(q.pending) && n < kv.MaxBatchRequests && (n == 0 || bytes+q.pending[n].size <= batchBytes) {
			batch.Requests = append(batch.Requests, q.pending[n].req)
			bytes += q.pending[n].size
			n++
		}
		taken := q.pending[:n:n]
		q.pending = q.pending[n:]
		if err := w.proposeCommand(now, storage.Batch{Batch: &batch}); err != nil {
			for _, one := range taken {
				q.finish(now, one, kv.Result{}, &control.Error{Code: control.NoQuorum, Message: fmt.Sprintf("not proposed: %v", err), Hint: "try again"})
			}
			continue
		}
		s := w.raft.Status(now) // the proposal is its last entry
		if old, ok := q.flight[s.LastIndex]; ok {
			q.lose(now, old, errReplaced)
		}
		q.flight[s.LastIndex] = flight{term: s.LastTerm, writes: taken}
	}
	if len(q.pending) == 0 {
		q.pending = nil
	}
}

// hearsMajority tells whether beats of a majority of the voters came within a
// promise.
func (w *worker) hearsMajority(now int64) bool {
	return w.majority(func(p *peer) bool { return p.heard(now, w.timing.Promise) })
}

// refuse answers everything that waits to be proposed.
func (q *writes) refuse(now int64, err *control.Error) {
	for _, one := range q.pending {
		q.finish(now, one, kv.Result{}, err)
	}
	q.pending = nil
}

func (q *writes) lose(now int64, f flight, err *control.Error) {
	for _, one := range f.writes {
		q.finish(now, one, kv.Result{}, err)
	}
}

// writesApplied is told of every applied entry of data. The answers wait until
// readers of this node can see what was written.
func (w *worker) writesApplied(now int64, index, term uint64, results []kv.Result) {
	q := w.writes
	f, ok := q.flight[index]
	if !ok {
		return
	}
	if f.term != term {
		return // writesOvertaken answers
	}
	delete(q.flight, index)
	if len(results) != len(f.writes) {
		w.fail(fmt.Errorf("entry %d: %d answers to %d requests", index, len(results), len(f.writes)))
		return
	}
	for i, one := range f.writes {
		q.answers = append(q.answers, answered{one, results[i]})
	}
	if len(f.writes) > 0 {
		w.metrics.ObserveCommit(time.Duration(now - f.writes[0].began))
	}
}

// writesOvertaken is told of every applied entry, of whatever kind: an entry of
// ours whose index another has taken was not committed.
func (q *writes) writesOvertaken(now int64, index, term uint64) {
	if f, ok := q.flight[index]; ok && f.term != term {
		delete(q.flight, index)
		q.lose(now, f, errLeadershipMoved)
	}
}

// answerWrites gives out the answers of this turn.
func (w *worker) answerWrites(now int64) {
	q := w.writes
	answers := q.answers
	q.answers = nil
	for _, a := range answers {
		q.finish(now, a.w, a.res, nil)
	}
	w.flushReplies()
}

// expireWrites gives up on what got no answer in time.
func (w *worker) expireWrites(now int64) {
	q := w.writes
	kept := q.pending[:0]
	for _, one := range q.pending {
		if now > one.until {
			q.finish(now, one, kv.Result{}, errNoLeader)
		} else {
			kept = append(kept, one)
		}
	}
	q.pending = kept
	for _, id := range slices.Sorted(maps.Keys(q.away)) {
		if one := q.away[id]; now > one.until {
			delete(q.away, id)
			q.finish(now, one, kv.Result{}, errUnknown)
		}
	}
	for _, index := range slices.Sorted(maps.Keys(q.flight)) {
		if f := q.flight[index]; len(f.writes) > 0 && now > f.writes[0].until {
			delete(q.flight, index)
			q.lose(now, f, errUnknown)
		}
	}
}

// loseAway answers what a leader has that is none any more, or cannot be
// reached: whether it was committed nobody here can tell.
func (w *worker) loseAway(now int64) {
	q := w.writes
	q.awayTo = ""
	for _, id := range slices.Sorted(maps.Keys(q.away)) {
		one := q.away[id]
		delete(q.away, id)
		q.finish(now, one, kv.Result{}, errUnknown)
	}
}

// A frame of writes for the leader is a row of {id, request}; one of answers a
// row of {id, 1, length, error as JSON} or {id, 0, result}. Both end with the frame.

// frameBytes is from where on a frame takes nothing further.
const frameBytes = 256 << 10

// forwardWrites sends what waits to the leader.
func (w *worker) forwardWrites(now int64) {
	q := w.writes
	leader := w.leaderName(now)
	if leader == "" || leader == w.selfName {
		q.refuse(now, errNoLeader)
		return
	}
	for len(q.pending) > 0 {
		frame, n := make([]byte, 0, 4096), 0
		first := q.lastID + 1
		for n < len(q.pending) && (n == 0 || len(frame)+q.pending[n].size <= frameBytes) {
			q.lastID++
			frame = binary.BigEndian.AppendUint64(frame, q.lastID)
			frame = kv.AppendRequest(frame, &q.pending[n].req)
			n++
		}
		taken := q.pending[:n:n]
		q.pending = q.pending[n:]
		if err := w.send(leader, kindWrites, frame); err != nil {
			for _, one := range taken {
				q.finish(now, one, kv.Result{}, &control.Error{Code: control.NoQuorum, Message: fmt.Sprintf("leader %s cannot be asked: %v", leader, err), Hint: "try again"})
			}
			continue
		}
		q.awayTo = leader
		for i, one := range taken {
			q.away[first+uint64(i)] = one
		}
	}
	q.pending = nil
}

// takeWrites takes a frame of writes from another member.
func (w *worker) takeWrites(now int64, from string, frame []byte) {
	for len(frame) > 0 {
		if len(frame) < 8 {
			w.limited.Warn("writes refused", "member", from, "error", "cut short")
			return
		}
		id := binary.BigEndian.Uint64(frame)
		req, rest, err := kv.DecodeRequest(frame[8:])
		if err == nil {
			err = req.Validate()
		}
		if err != nil {
			w.limited.Warn("writes refused", "member", from, "error", err)
			return
		}
		frame = rest
		reply := func(_ int64, res kv.Result, err *control.Error) { w.replyWrite(from, id, res, err) }
		switch {
		case w.raft != nil && !w.leads(now):
			reply(now, kv.Result{}, errNoLeader)
		case w.raft != nil && !w.committed(from):
			reply(now, kv.Result{}, errNoMember)
		default:
			w.takeWrite(now, req, reply)
		}
	}
}

// replyWrite adds an answer to the frame for a member.
func (w *worker) replyWrite(to string, id uint64, res kv.Result, err *control.Error) {
	frame := binary.BigEndian.AppendUint64(w.replies[to], id)
	if err != nil {
		text, e := json.Marshal(err)
		if e != nil {
			text = []byte(`{"code":"internal"}`)
		}
		frame = append(frame, 1)
		frame = binary.BigEndian.AppendUint32(frame, uint32(len(text)))
		frame = append(frame, text...)
	} else {
		frame = append(frame, 0)
		frame = kv.AppendResult(frame, &res)
	}
	if len(frame) >= frameBytes {
		w.sendReplies(to, frame)
		frame = nil
	}
	w.replies[to] = frame
}

func (w *worker) flushReplies() {
	for to, frame := range w.replies {
		if len(frame) > 0 {
			w.sendReplies(to, frame)
		}
		delete(w.replies, to)
	}
}

func (w *worker) sendReplies(to string, frame []byte) {
	if err := w.send(to, kindWritten, frame); err != nil {
		w.limited.Warn("answers to writes not sent", "member", to, "error", err)
	}
}

// takeWritten takes the leader's answers.
func (w *worker) takeWritten(now int64, from string, frame []byte) {
	for len(frame) > 0 {
		id, res, failure, rest, err := decodeWritten(frame)
		if err != nil {
			w.limited.Warn("answers refused", "member", from, "error", err)
			return
		}
		frame = rest
		if one, ok := w.writes.away[id]; ok && from == w.writes.awayTo {
			delete(w.writes.away, id)
			w.writes.finish(now, one, res, failure)
		}
	}
}

func decodeWritten(b []byte) (id uint64, res kv.Result, failure *control.Error, rest []byte, err error) {
	const head = 8 + 1
	if len(b) < head {
		return 0, res, nil, nil, errors.New("answer is cut short")
	}
	id = binary.BigEndian.Uint64(b)
	if b[8] == 0 {
		res, rest, err = kv.DecodeResult(b[head:])
		return id, res, nil, rest, err
	}
	if len(b) < head+4 {
		return 0, res, nil, nil, errors.New("answer is cut short")
	}
	n := binary.BigEndian.Uint32(b[head:])
	if uint64(n) > uint64(len(b)-head-4) {
		return 0, res, nil, nil, errors.New("answer is cut short")
	}
	failure = &control.Error{}
	if err := json.Unmarshal(b[head+4:head+4+int(n)], failure); err != nil {
		return 0, res, nil, nil, fmt.Errorf("read error: %w", err)
	}
	return id, res, failure, b[head+4+int(n):], nil
}

// committedClock is the clock that times to live count by: that of the state,
// which moves while somebody leads, by the leader's boottime. A wall clock
// that jumps therefore ends no session.
func (w *worker) committedClock(now int64) int64 {
	return max(w.clockBase+(now-w.clockAt), w.state.Buckets().Clock())
}

// startClock begins to lead the committed clock.
func (w *worker) startClock(now int64) {
	w.clockBase, w.clockAt = w.state.Buckets().Clock(), now
	if w.clockBase == 0 {
		w.clockBase = w.host.Wall().UnixNano()
	}
}

const (
	// expireEvery is the distance of looks for keys whose time is over.
	expireEvery = 250 * time.Millisecond
	// clockEvery is how often the clock is committed while any key has a time:
	// what a leader has counted since is lost with it.
	clockEvery = 5 * time.Second
)

// expireTurn proposes the removal of keys whose time is over: by an entry of
// the log, so that all nodes remove the same.
func (w *worker) expireTurn(now int64) {
	if now < w.nextExpire || w.disk.full {
		return
	}
	w.nextExpire = now + int64(expireEvery)
	clock, buckets := w.committedClock(now), w.state.Buckets()
	late := clock-buckets.Clock() >= int64(clockEvery) && buckets.Expirable(math.MaxInt64, 1)
	if !late && !buckets.Expirable(clock, 1) {
		return
	}
	if err := w.proposeCommand(now, storage.Expire{Clock: clock}); err != nil {
		w.limited.Warn("expiry not proposed", "error", err)
	}
}
