package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
)

// cause breaks something of a member and returns how to mend it, also beside
// an error.
type cause func(ctx context.Context, w *world, node string, p plan) (mend func() error, err error)

// kind is one way to break something.
type kind struct {
	name  string
	cause cause
	// often is how many times more than once it is drawn, members how many of
	// them a cluster needs for it.
	often, members int
	traits
}

// traits say which kinds must not meet: one would wait for what the other
// keeps from happening.
type traits struct {
	stops   bool // a process stands still for a while
	orderly bool // waits until a process has ended by itself
	kills   bool // waits until a process that was killed is gone
	freezes bool // keeps a process from ending at all
	disk    bool // writes to a member's disk
	loses   bool // what a member has stored: of one at a time
}

// clash tells whether two kinds must not meet in a round.
func clash(a, b kind) bool {
	for range 2 {
		switch {
		case a.stops && b.orderly,
			a.freezes && (b.stops || b.orderly || b.kills),
			a.disk && b.disk,
			a.loses && b.loses:
			return true
		}
		a, b = b, a
	}
	return false
}

var kinds = slices.Concat(processKinds(), commandKinds(), networkKinds(), diskKinds())

func known(name string) bool {
	return slices.ContainsFunc(kinds, func(k kind) bool { return k.name == name })
}

func kindNamed(name string) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })]
}

func onNode(f func(*lab.Cluster, string) (*lab.Fault, error)) cause {
	return func(_ context.Context, w *world, node string, _ plan) (func() error, error) {
		return undo(f(w.cluster, node))
	}
}

func undo(f *lab.Fault, err error) (func() error, error) {
	if f == nil {
		return nothing, err
	}
	return f.Undo, err
}

func nothing() error { return nil }

func processKinds() []kind {
	return []kind{
		{name: "kill-worker", cause: onNode((*lab.Cluster).KillWorker), often: 1, traits: traits{kills: true}},
		{name: "kill-guard", cause: onNode((*lab.Cluster).KillGuard), often: 1, traits: traits{kills: true}},
		{name: "kill-both", cause: onNode(func(c *lab.Cluster, n string) (*lab.Fault, error) { return c.Kill(n) }), often: 1, traits: traits{kills: true}},
		{name: "hang-worker", cause: onNode((*lab.Cluster).HangWorker), often: 1, traits: traits{stops: true}},
		{name: "hang-guard", cause: onNode((*lab.Cluster).HangGuard), traits: traits{stops: true}},
		{name: "hang-both", cause: onNode((*lab.Cluster).Hang), often: 1, traits: traits{stops: true}},
		{name: "drop-notes+kill-worker", cause: silentDeath, often: 1, traits: traits{kills: true}},
		{name: "restart", cause: onNode(func(c *lab.Cluster, n string) (*lab.Fault, error) { return c.Restart(n) }), traits: traits{orderly: true, kills: true}},
		{name: "power-cut", cause: onNode(func(c *lab.Cluster, n string) (*lab.Fault, error) { return c.PowerCut(n) }), often: 1, traits: traits{kills: true}},
		{name: "power-cut-all", cause: onNode(func(c *lab.Cluster, _ string) (*lab.Fault, error) { return c.PowerCut() }), traits: traits{kills: true}},
		{name: "delete-vip", cause: onNode((*lab.Cluster).DeleteVIP)},
	}
}

// silentDeath kills a worker whose death nobody is told of.
func silentDeath(_ context.Context, w *world, node string, _ plan) (func() error, error) {
	notes, err := w.lab.DropNotes(node + "/*")
	if err != nil {
		return nothing, err
	}
	_, err = w.cluster.KillWorker(node)
	return notes.Undo, err
}

func commandKinds() []kind {
	return []kind{
		{name: "failover", cause: failover, often: 1},
		{name: "maintenance", cause: mark("maintenance on", "maintenance off")},
		{name: "fence", cause: mark("fence", "unfence")},
		{name: "member-remove", cause: removeMember, often: 1, members: 5, traits: traits{kills: true, orderly: true, disk: true, loses: true}},
	}
}

// errRefused is a command that the cluster did not carry out: no fault of it while
// it is broken.
var errRefused = errors.New("refused")

// commandLimit bounds what a command may take on one member.
const commandLimit = 3 * time.Second

// command gives a command through one member after the other until one carries
// it out.
func (w *world) command(ctx context.Context, limit time.Duration, args ...string) error {
	err := errRefused
	for _, node := range w.cluster.Names() {
		if !w.cluster.Running(node) {
			continue
		}
		if err = w.commandAt(ctx, node, limit, args...); err == nil {
			return nil
		}
	}
	return err
}

func (w *world) commandAt(ctx context.Context, node string, limit time.Duration, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := w.cluster.RunCLI(ctx, node, args...)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if out.Code != 0 {
		return fmt.Errorf("%w (%d): %s", errRefused, out.Code, strings.Join(strings.Fields(out.Stderr), " "))
	}
	return nil
}

// insist repeats a command until it is carried out.
func (w *world) insist(ctx context.Context, limit time.Duration, args ...string) error {
	deadline := time.Now().Add(healLimit)
	for {
		err := w.command(ctx, limit, args...)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func failover(ctx context.Context, w *world, _ string, _ plan) (func() error, error) {
	return nothing, w.command(ctx, commandLimit, "failover")
}

// mark sets a mark on a member and takes it off. It may stay at that: at the
// end of the fault another one may leave nobody to ask. settle then insists,
// also when nobody knows whether the command that set it was carried out.
func mark(on, off string) cause {
	return func(ctx context.Context, w *world, node string, _ plan) (func() error, error) {
		err := w.command(ctx, commandLimit, append(strings.Fields(on), node)...)
		w.marks = append(w.marks, append(strings.Fields(off), node))
		return func() error {
			_ = w.command(ctx, commandLimit, append(strings.Fields(off), node)...) // settle insists
			return nil
		}, err
	}
}

// removeMember takes a member out of the cluster, as an operator does, and its
// machine with it. settle takes a new machine of that name in.
func removeMember(ctx context.Context, w *world, node string, p plan) (func() error, error) {
	via := w.memberBeside(node, p)
	err := w.commandAt(ctx, via, 2*commandLimit, "member", "remove", node)
	if err == nil {
		_, err = w.cluster.Kill(node)
	}
	w.expelled[node] = w.expelled[node] || err == nil
	return nothing, err
}

// doubt is how long a command whose outcome nobody knows may still be carried
// out, and its outcome take to be told by a status.
const doubt = time.Second

// readmit takes a member in again that was removed. One about which nobody
// knows, and that is found to be a member, only starts.
func (w *world) readmit(ctx context.Context, node string, sure bool) error {
	if !sure {
		time.Sleep(doubt)
		state, err := w.waitState(node)
		if err != nil {
			return fmt.Errorf("find out whether %s was removed: %w", node, err)
		}
		if state == "voter" || state == "learner" {
			return w.cluster.Start(node)
		}
	}
	if _, err := w.cluster.Kill(node); err != nil {
		return err
	}
	if _, err := w.cluster.WipeData(node); err != nil {
		return err
	}
	if err := w.cluster.Start(node); err != nil {
		return err
	}
	w.renewed[node] = true
	return w.insist(ctx, repairLimit, "member", "add", node)
}

func (w *world) waitState(node string) (string, error) {
	deadline := time.Now().Add(healLimit)
	for {
		state, err := w.stateOf(node)
		if err == nil || time.Now().After(deadline) {
			return state, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// stateOf is the place of a member in the configuration, as two others at
// least say together: one alone may be behind.
func (w *world) stateOf(node string) (string, error) {
	var said []string
	for _, n := range w.cluster.Names() {
		if n == node || !w.cluster.Running(n) {
			continue
		}
		s, err := w.cluster.StatusOf(n)
		if err != nil || !s.Quorum.OK || s.State.Applied != s.State.Commit {
			continue
		}
		i := slices.IndexFunc(s.Members, func(m lab.Member) bool { return m.Name == node })
		if i < 0 {
			said = append(said, "absent")
		} else {
			said = append(said, s.Members[i].State)
		}
	}
	slices.Sort(said)
	if len(said) < 2 || said[0] != said[len(said)-1] {
		return "", fmt.Errorf("the others say %v of it", said)
	}
	return said[0], nil
}
