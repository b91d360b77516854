package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/storage"
)

// The disk: full, slow, or rotten.

// disk is what the loop knows of it.
type disk struct {
	full    bool
	ready   bool // the log had its next segment once since the start
	why     string
	slow    bool
	next    int64
	retryAt int64
	// When the last scrub ended well, zero = never; one is under way; since
	// when none is.
	scrub      time.Time
	scrubbing  bool
	scrubbedAt int64
	// reserved: the reserve file is there. A disk that was full counts as full
	// until it is there again, else clients would use up what is for votes.
	reserved atomic.Bool
}

const (
	diskEvery = 250 * time.Millisecond
	// reserveBytes is what a full disk still has for the log: room for votes,
	// placement and the release of older log.
	reserveBytes = 16 << 20
	reserveRetry = 2 * time.Second
	// storeRoom is how much room the log must have for this node to take what
	// the leader sends.
	storeRoom = 1 << 20
	// The disk is slow when so many syncs within so long took longer than the
	// limit: one hiccup moves no address.
	slowSyncs  = 3
	slowWithin = 30 * time.Second
	// scrubRate bounds what a scrub reads, in bytes a second.
	scrubRate = 32 << 20
)

// diskTurn looks at the log's room and speed.
func (w *worker) diskTurn(now int64) {
	d := &w.disk
	w.storeTurn()
	if now < d.next {
		return
	}
	d.next = now + int64(diskEvery)
	w.scrubTurn(now)
	stats := w.raftLog.Stats()
	if stats.Blocked != nil && !noRoom(stats.Blocked) {
		return // the log has failed, and ends the worker
	}
	full := stats.Blocked != nil || d.full && !d.reserved.Load()
	if full != d.full {
		d.full = full
		w.diskFullChanged(now, stats.Blocked)
	}
	if stats.Blocked == nil && !d.reserved.Load() && now > d.retryAt {
		d.retryAt = now + int64(reserveRetry)
		// Beside the loop: a disk may take its time.
		w.background(func() {
			if err := w.data.Reserve(w.reserveBytes()); err != nil {
				w.limited.Warn("no room for the reserve file", "error", err)
				return
			}
			d.reserved.Store(true)
		})
	}
	slow := stats.Busy > 2*w.cfg.State.SlowFsync || w.fsyncs.longer(now-int64(slowWithin), w.cfg.State.SlowFsync) >= slowSyncs
	if slow != d.slow {
		d.slow = slow
		cause := "fast again"
		if slow {
			cause = "slow"
		}
		w.log.Warn("disk: "+cause, "fsync_p99", w.fsyncs.p99(), "limit", w.cfg.State.SlowFsync)
		w.recordEvent(storage.Record{Kind: "disk", Node: w.selfName, Cause: cause,
			Detail: fmt.Sprintf("p99 of fsync %v, limit %v", w.fsyncs.p99().Round(time.Microsecond), w.cfg.State.SlowFsync)})
		w.beatNow = true
	}
}

// storeTurn bounds what the log takes of others to the room that it has: beyond
// that a full disk would end it. How much there is must be known anew each turn,
// and is not known at all before the next segment was made for the first time.
func (w *worker) storeTurn() {
	room, ready, blocked := w.raftLog.Space()
	if s := w.host.Steps; s != nil && w.raftLog.Pending() {
		s.LogWork() // such as another try after a full disk
	}
	w.disk.ready = w.disk.ready || ready
	if blocked != nil && !w.disk.full {
		w.disk.next = 0 // at once: what is refused must not be proposed
	}
	if w.disk.ready && blocked == nil {
		w.raft.SetStoring(true)
		return
	}
	w.raft.SetRoom(room - storeRoom)
}

func (w *worker) diskFullChanged(now int64, blocked error) {
	if blocked == nil {
		w.log.Info("disk: room again, writes are taken")
		w.disk.why = ""
		w.recordEvent(storage.Record{Kind: "disk", Node: w.selfName, Cause: "room again"})
		return
	}
	w.disk.why = blocked.Error()
	w.log.Error("disk full: writes are refused, reads and the address stay", "error", blocked)
	w.recordEvent(storage.Record{Kind: "disk", Node: w.selfName, Cause: "full", Detail: w.disk.why})
	w.writes.refuse(now, errDiskFull)
	w.disk.reserved.Store(false)
	w.host.Go(func() {
		if err := w.data.ReleaseReserve(); err != nil {
			w.mustPost(func(int64) { w.fail(fmt.Errorf("release reserve: %w", err)) })
		}
		w.disk.reserved.Store(false) // a Reserve may have ended in between
	})
}

// noRoom tells whether an error of the disk goes away with more room.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// scrubTurn reads log and snapshot again and again, slowly. Damage ends the
// worker: the next start finds it too and takes the path of F2.
func (w *worker) scrubTurn(now int64) {
	d, every := &w.disk, int64(w.cfg.State.ScrubEvery)
	if every == 0 || d.scrubbing || now-d.scrubbedAt < every {
		return
	}
	d.scrubbing = true
	w.host.Go(func() {
		report, err := w.data.Scrub(w.stopCtx, scrubRate)
		w.mustPost(func(now int64) {
			d.scrubbing, d.scrubbedAt = false, now
			switch {
			case errors.Is(err, context.Canceled):
			case err != nil:
				w.fail(fmt.Errorf("scrub: %w", err))
			default:
				d.scrub = w.host.Wall()
				w.log.Debug("log and snapshot read again", "report", fmt.Sprintf("%+v", report))
			}
		})
	})
}
