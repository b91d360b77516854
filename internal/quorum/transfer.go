package quorum

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/holdfast-ha/holdfast/storage"
)

// transfer is a move of leadership that is under way.
type transfer struct {
	to    uint64 // 0 = none
	since int64
}

// Errors of Transfer (E6). All mean: not now.
var (
	ErrAssignPending = errors.New("an Assign is not yet applied")
	ErrBehind        = errors.New("target does not have the whole log")
	ErrSilent        = errors.New("target does not answer within a beat")
	ErrNoVoter       = errors.New("target is not another voter")
)

// Transfer moves the leadership to another voter, under the conditions of E6.
// It is aborted by itself after P/2; until then proposals are refused.
func (d *Driver) Transfer(now int64, to uint64) error {
	d.at(now)
	if err := d.mayTransfer(now, to); err != nil {
		return fmt.Errorf("transfer leadership to node %x: %w", to, err)
	}
	d.transfer = transfer{to: to, since: now}
	d.rn.TransferLeader(to)
	return nil
}

// mayTransfer checks E6.
func (d *Driver) mayTransfer(now int64, to uint64) error {
	switch {
	case d.view().role != leader:
		return ErrNotLeader
	case d.transfer.to != 0 || d.stuck(now):
		return ErrBusy
	case to == d.cfg.ID || !slices.Contains(d.conf.Voters, to):
		return ErrNoVoter
	case d.tail.assignPending():
		return ErrAssignPending
	}
	if last, _ := d.tail.last(); d.match(to) != last {
		return ErrBehind
	}
	// Heartbeats leave once a beat, so an answer is at most a beat and its own
	// time on the way old.
	p := d.peer(to)
	if p.answered == 0 || now-p.answered > 2*int64(d.cfg.Beat) || p.took > d.cfg.Beat {
		return ErrSilent
	}
	return nil
}

// match returns the last index a node is known to have stored.
func (d *Driver) match(id uint64) uint64 {
	var match uint64
	d.rn.WithProgress(func(node uint64, _ raft.ProgressType, pr tracker.Progress) {
		if node == id {
			match = pr.Match
		}
	})
	return match
}

// watchTransfer aborts a transfer after P/2, by a transfer to this node itself
// (E6), and lets a witness that leads hand over (E4).
func (d *Driver) watchTransfer(now int64) {
	if d.transfer.to != 0 && now-d.transfer.since >= int64(d.cfg.Promise/2) {
		d.log.Info("transfer of leadership aborted", "to", d.transfer.to)
		d.rn.TransferLeader(d.cfg.ID)
		d.transfer = transfer{}
		// A witness tries again no sooner than one promise later.
		d.led = now
		return
	}
	rank, ok := d.el.rank()
	if !ok || rank >= 0 || d.view().role != leader || now-d.led < int64(d.cfg.Promise) {
		return
	}
	for _, m := range d.el.order {
		if m.Role == storage.Gateway && d.Transfer(now, m.RaftID) == nil {
			d.log.Info("witness hands leadership over", "to", m.Name)
			return
		}
	}
}
