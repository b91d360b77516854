package e2e

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// A panic ends a Go program with the exit code of a wrong usage; SIGQUIT does
// the same from outside. The guard must bury the worker and start another.
//
// Covers S1, C5, G5
func TestWorkerThatPanicsIsFollowed(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{})
	holder := w.holder(t)
	guard, err := w.GuardPID(holder)
	check(t, err)
	worker, err := w.WorkerPID(holder)
	check(t, err)
	p := w.watch(t)
	check(t, syscall.Kill(worker, syscall.SIGQUIT))
	p.owner(w.other(holder))
	eventually(t, func() error {
		pid, err := w.WorkerPID(holder)
		if err == nil && pid == worker {
			err = fmt.Errorf("worker %d is still there", pid)
		}
		return err
	})
	w.ready(t)
	if pid, err := w.GuardPID(holder); err != nil || pid != guard {
		t.Errorf("guard %d became %d, %v", guard, pid, err)
	}
	p.safeWithin(moved)
}

// The only gateway that is left declines once, and is asked again when it can.
//
// Covers A1, A2
func TestOnlyGatewayMayDeclineOnce(t *testing.T) {
	w := launch(t, pair, lab.ClusterOptions{PreAcquireHook: true})
	holder := w.holder(t)
	next := w.other(holder)
	p := w.watch(t)
	fail := broken(t)(w.FailPreAcquire(next))
	kill := broken(t)(w.Kill(holder))
	w.seen(t, next, func(r *report) error {
		if len(r.Groups) != 1 || r.Groups[0].State != "declined" {
			return fmt.Errorf("has not declined: %+v", r.Groups)
		}
		return nil
	})
	check(t, fail.Undo())
	p.owner(w.holder(t, next))
	w.mend(t, kill)
	p.safe()
}
