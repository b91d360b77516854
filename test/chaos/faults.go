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

// kind is one way to break something. cause breaks it and returns how to mend
// it, also beside an error.
type kind struct {
	name  string
	cause func(ctx context.Context, c *lab.Cluster, node string, p plan) (mend func() error, err error)
	// stopsProcess and waitsForProcess must not meet: one stops a process for
	// a while, the other waits for it meanwhile.
	stopsProcess, waitsForProcess bool
}

var kinds = allKinds()

func allKinds() []kind {
	onNode := func(f func(*lab.Cluster, string) (*lab.Fault, error)) func(context.Context, *lab.Cluster, string, plan) (func() error, error) {
		return func(_ context.Context, c *lab.Cluster, node string, _ plan) (func() error, error) {
			return undo(f(c, node))
		}
	}
	atPort := func(f func(*lab.Lab, string) (*lab.Fault, error)) func(context.Context, *lab.Cluster, string, plan) (func() error, error) {
		return onNode(func(c *lab.Cluster, node string) (*lab.Fault, error) { return f(c.Lab(), node+"/*") })
	}
	loss := func(l *lab.Lab, where string) (*lab.Fault, error) { return l.Lose(where, 20) }
	return []kind{
		{name: "link-down", cause: atPort((*lab.Lab).LinkDown)},
		{name: "cut", cause: atPort((*lab.Lab).Cut)},
		{name: "mute", cause: atPort((*lab.Lab).Mute)},
		{name: "deafen", cause: atPort((*lab.Lab).Deafen)},
		{name: "lose-20%", cause: atPort(loss)},
		{name: "pair-loss", cause: pairLoss},
		{name: "kill-worker", cause: onNode((*lab.Cluster).KillWorker)},
		{name: "kill-guard", cause: onNode((*lab.Cluster).KillGuard)},
		{name: "kill-both", cause: onNode(func(c *lab.Cluster, n string) (*lab.Fault, error) { return c.Kill(n) })},
		{name: "hang-worker", cause: onNode((*lab.Cluster).HangWorker), stopsProcess: true},
		{name: "hang-guard", cause: onNode((*lab.Cluster).HangGuard), stopsProcess: true},
		{name: "hang-both", cause: onNode((*lab.Cluster).Hang), stopsProcess: true},
		{name: "delete-vip", cause: onNode((*lab.Cluster).DeleteVIP)},
		{name: "drop-notes+kill-worker", cause: silentDeath},
		{name: "restart", cause: onNode(func(c *lab.Cluster, n string) (*lab.Fault, error) { return c.Restart(n) }), waitsForProcess: true},
		{name: "power-cut", cause: onNode(func(c *lab.Cluster, n string) (*lab.Fault, error) { return c.PowerCut(n) })},
		{name: "power-cut-all", cause: onNode(func(c *lab.Cluster, _ string) (*lab.Fault, error) { return c.PowerCut() })},
		{name: "failover", cause: failover},
		{name: "maintenance", cause: maintenance},
	}
}

func known(name string) bool {
	return slices.ContainsFunc(kinds, func(k kind) bool { return k.name == name })
}

func kindNamed(name string) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })]
}

func undo(f *lab.Fault, err error) (func() error, error) {
	if f == nil {
		return nothing, err
	}
	return f.Undo, err
}

func nothing() error { return nil }

// pairLoss cuts two members off from each other, in one direction or in both:
// every other member and the client go on to hear them.
func pairLoss(_ context.Context, c *lab.Cluster, node string, p plan) (func() error, error) {
	other := p.other
	if other == node {
		other = members[(slices.Index(members, node)+1)%len(members)]
	}
	there, err := c.Lab().DropBetween(node, other)
	if err != nil || p.hold%2 == 0 {
		return undo(there, err)
	}
	back, err := c.Lab().DropBetween(other, node)
	if err != nil {
		return there.Undo, err
	}
	return func() error { return errors.Join(there.Undo(), back.Undo()) }, nil
}

// silentDeath kills a worker whose death nobody is told of.
func silentDeath(_ context.Context, c *lab.Cluster, node string, _ plan) (func() error, error) {
	notes, err := c.Lab().DropNotes(node + "/*")
	if err != nil {
		return nothing, err
	}
	_, err = c.KillWorker(node)
	return notes.Undo, err
}

// errRefused is a command that the cluster did not carry out: no fault of it while
// it is broken.
var errRefused = errors.New("refused")

func command(ctx context.Context, c *lab.Cluster, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	err := errRefused
	for _, node := range c.Names() {
		if !c.Running(node) {
			continue
		}
		out, runErr := c.RunCLI(ctx, node, args...)
		if runErr != nil {
			return fmt.Errorf("%w: %w", errRefused, runErr)
		}
		if out.Code == 0 {
			return nil
		}
		first, _, _ := strings.Cut(out.Stderr, "\n")
		err = fmt.Errorf("%w (%d): %s", errRefused, out.Code, first)
	}
	return err
}

func failover(ctx context.Context, c *lab.Cluster, _ string, _ plan) (func() error, error) {
	return nothing, command(ctx, c, "failover")
}

// maintenance is ended by settle, for good: at the end of the fault itself the
// other one may leave nobody to ask.
func maintenance(ctx context.Context, c *lab.Cluster, node string, _ plan) (func() error, error) {
	off := func() error {
		_ = command(ctx, c, "maintenance", "off", node)
		return nil
	}
	return off, command(ctx, c, "maintenance", "on", node)
}

// endMaintenance ends it on every member, also when nobody knows whether the
// command that began it was carried out.
func endMaintenance(ctx context.Context, c *lab.Cluster) error {
	deadline := time.Now().Add(healLimit)
	for _, node := range c.Names() {
		for {
			err := command(ctx, c, "maintenance", "off", node)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("end maintenance of %s: %w", node, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}
