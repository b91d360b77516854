package node

import (
	"context"
	"encoding/json"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/guard"
	"github.com/holdfast-ha/holdfast/internal/lease"
	"github.com/holdfast-ha/holdfast/internal/tenure"
	"github.com/holdfast-ha/holdfast/netfence"
	"github.com/holdfast-ha/holdfast/storage"
	"github.com/holdfast-ha/holdfast/storage/audit"
	"github.com/holdfast-ha/holdfast/storage/kv"
	"github.com/holdfast-ha/holdfast/vip"
	"github.com/holdfast-ha/holdfast/wal"
)

// Stepped is a worker without goroutines, for a simulator: it does something
// only when one of its methods is called, all from one goroutine. What arrives
// by the methods other than Turn and Disk is taken by the next Turn.
type Stepped struct{ w *worker }

// Step opens a worker on a host that is simulated. An error is what Run would
// have returned; the worker has ended then.
func Step(o Options, h Host) (*Stepped, error) {
	w := newWorker(context.Background(), o)
	if err := w.open(h); err != nil {
		return nil, w.end(err)
	}
	return &Stepped{w}, nil
}

// Turn drains the inbox, does one turn of the loop and returns the reading of
// the clock at which it wants the next one. ended: it has done its last turn,
// and err is what Run would have returned.
func (s *Stepped) Turn() (next int64, ended bool, err error) {
	w := s.w
	select {
	case e, ok := <-w.link.Events():
		if !ok {
			return 0, true, s.finish(w.guardGone())
		}
		w.guardEvent(w.clk.Boottime(), e)
	default:
	}
	if w.exit == nil {
		if w.lastTurn == 0 {
			w.lastTurn = w.clk.Boottime()
		}
		pause := w.step()
		next = w.clk.Boottime() + int64(pause)
	}
	if w.exit != nil {
		return 0, true, s.finish(w.finish(*w.exit))
	}
	return next, false, nil
}

func (s *Stepped) finish(err error) error {
	close(s.w.ended)
	return s.w.end(repairable(err))
}

// Busy tells whether a turn has something to take.
func (s *Stepped) Busy() bool {
	durable, failed := s.w.diskNews()
	select {
	case <-failed:
		return true
	default:
	}
	return len(s.w.inbox) > 0 || len(durable) > 0 || len(s.w.link.Events()) > 0
}

// Disk lets the log write what it was given, and tells whether that was
// anything.
func (s *Stepped) Disk() bool { return s.w.raftLog != nil && s.w.raftLog.Step() }

// Stop begins a planned stop.
func (s *Stepped) Stop() { s.w.post(func(now int64) { s.w.stop(now, "asked to stop") }) }

// Guard, VIP and Gate bring news of the host.
func (s *Stepped) Guard(e guard.Event) { s.w.post(func(now int64) { s.w.guardEvent(now, e) }) }

// VIP brings a change of an address or a link.
func (s *Stepped) VIP(e vip.Event) { s.w.post(func(now int64) { s.w.vipEvent(now, e) }) }

// Gate brings a claim of an address that the gate has seen.
func (s *Stepped) Gate(e netfence.Event) { s.w.post(func(now int64) { s.w.gateEvent(now, e) }) }

// Write executes a request as the control socket would. done is called within a
// later Turn.
func (s *Stepped) Write(req kv.Request, done func(kv.Result, *control.Error)) {
	s.w.post(func(now int64) {
		s.w.takeWrite(now, req, func(_ int64, res kv.Result, err *control.Error) { done(res, err) })
	})
}

// Read asks for a view that is linearizable.
func (s *Stepped) Read(done func(*kv.View, *control.Error)) {
	s.w.post(func(now int64) { s.w.takeRead(now, done) })
}

// Local returns what is applied here, nil before the founding.
func (s *Stepped) Local() *kv.View {
	if p := s.w.view.Load(); p != nil {
		return p.view
	}
	return nil
}

// Ask puts an operation to the leader, under the name and with the body that
// members use among themselves.
func (s *Stepped) Ask(op string, body any, done func(json.RawMessage, *control.Error)) {
	s.w.post(func(now int64) {
		s.w.ask(now, op, "simulator", body, func(_ int64, r reply) { done(r.Body, r.Error) })
	})
}

// Look is what a checker may know of a worker.
type Look struct {
	Founded             bool
	RaftID, Incarnation uint64
	Cluster             [16]byte
	Term, Leader        uint64
	Leads, Voter        bool
	Commit, Applied     uint64
	Last, LastTerm      uint64
	Config              uint64
	Grants              []lease.Standing
	Holding             map[uint16]uint64 // epoch by group
	Recovery            wal.Verdict
	CatchingUp          bool
}

// Look returns the present picture.
func (s *Stepped) Look() Look {
	w := s.w
	l := Look{RaftID: w.rid, Incarnation: w.inc}
	if w.raft == nil {
		return l
	}
	now := w.clk.Boottime()
	r := w.raft.Status(now)
	l.Founded, l.Cluster = true, w.notes.cluster
	l.Term, l.Leader, l.Leads, l.Voter = r.Term, r.Leader, w.raft.Leads(), !w.abstains()
	l.Commit, l.Applied, l.Last, l.LastTerm = r.Commit, w.appliedIndex(), r.LastIndex, r.LastTerm
	l.Config, l.Grants, l.Recovery, l.CatchingUp = w.configIndex(), w.voter.Standing(now), w.recovery.Verdict, w.catchingUp()
	l.Holding = map[uint16]uint64{}
	for _, g := range w.groups {
		if state, epoch := g.tenure.State(); state == tenure.Holding {
			l.Holding[g.id] = epoch
		}
	}
	return l
}

// Entries returns entries of the log with lo <= index < hi, as far as it still
// has them.
func (s *Stepped) Entries(lo, hi uint64) []*raftpb.Entry {
	if s.w.raftLog == nil {
		return nil
	}
	first, err := s.w.raftLog.FirstIndex()
	if err != nil || max(lo, first) >= hi {
		return nil
	}
	out, err := s.w.raftLog.Entries(max(lo, first), hi, 1<<62)
	if err != nil {
		panic(fmt.Sprintf("entries %d to %d: %v", lo, hi, err))
	}
	return out
}

// State returns the state machine, to be read only; nil before the founding.
func (s *Stepped) State() *storage.State { return s.w.state }

// Trail returns the audit trail, to be read only.
func (s *Stepped) Trail() *audit.Trail {
	if s.w.state == nil {
		return nil
	}
	return s.w.state.Trail()
}

func (w *worker) logOptions() storage.LogOptions {
	o := storage.LogOptions{Logger: w.log, OnSync: w.synced}
	if s := w.host.Steps; s != nil {
		o.Stepped, o.Now, o.Notify, o.SegmentBytes = true, s.Now, s.LogWork, s.SegmentBytes
	}
	return o
}

func (w *worker) reserveBytes() int64 {
	if s := w.host.Steps; s != nil && s.ReserveBytes != 0 {
		return s.ReserveBytes
	}
	return reserveBytes
}

func (w *worker) dataOptions() storage.Options {
	o := storage.Options{FS: w.host.FS, Dir: w.cfg.Node.DataDir}
	if s := w.host.Steps; s != nil {
		o.Now, o.Sleep = s.Now, s.Pause
	}
	return o
}
