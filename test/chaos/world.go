package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/test/lab"
	"github.com/holdfast-ha/holdfast/test/scenario"
)

// world is the cluster that is broken, the clients that work on it, and the
// probe that watches it. One goroutine runs the rounds and owns it.
type world struct {
	shape   shape
	lab     *lab.Lab
	cluster *lab.Cluster
	env     scenario.Env
	probe   *lab.Probe
	load    *load
	// patience is how long what ends may take to be gone.
	patience time.Duration

	// What the faults of a round have left to do.
	marks    [][]string      // commands that take marks off
	expelled map[string]bool // members that were removed, or (false) that may be
	renewed  map[string]bool // members that lost what they had stored

	rots    map[string]int    // of each member so far: it may set so much aside
	raftIDs map[string]string // of each member, as of the last audit
	before  *footprint        // what the cluster has when nothing is wrong
	grown   map[process]usage // the least that each process was seen with
	trail   string            // file with an earlier export of the audit trail
	relayed lab.RelayCount
}

// newWorld builds a lab and starts a cluster in it.
func newWorld(ctx context.Context, o options, n int) (*world, error) {
	s := shapeOf(o, n)
	w := &world{
		shape: s, patience: serveLimit, expelled: map[string]bool{}, renewed: map[string]bool{}, rots: map[string]int{}, raftIDs: map[string]string{}, grown: map[process]usage{},
	}
	var err error
	if w.lab, err = lab.New(lab.Options{Gateways: s.gateways, Witnesses: s.witnesses, Clients: 2}); err != nil {
		return nil, err
	}
	disks := map[string]int64{}
	for _, name := range s.members() {
		disks[name] = diskSize
	}
	// Each snapshot, scrub, automatic fence and slow disk is to come within a
	// round or a few.
	w.cluster, err = w.lab.NewCluster(lab.ClusterOptions{
		Binary: o.binary, Profile: s.profile, Disks: disks, VIPs: []lab.VIP{{Prefix: lab.VIP4}, {Prefix: lab.VIP6}},
		Config: func(_ *lab.Node, cfg lab.Table) {
			cfg["log"] = lab.Table{"level": o.level, "format": "text"}
			cfg["state"] = lab.Table{"snapshot_bytes": "256KiB", "scrub_every": "3s", "slow_fsync": "200ms"}
			cfg["placement"] = lab.Table{"fence_delay": fenceDelays[s.profile]}
		},
	})
	if err == nil {
		err = w.start(ctx, o, n)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build a cluster of %v: %w", s, err), w.lab.Close())
	}
	return w, nil
}

// fenceDelays are the shortest that the profiles allow, about.
var fenceDelays = map[string]string{"fast": "1s", "default": "1200ms", "wan": "4500ms"}

func (w *world) start(ctx context.Context, o options, n int) error {
	w.env = scenario.Env{Cluster: w.cluster}
	err := w.cluster.Start()
	if err == nil {
		err = w.env.WaitWholeWithin(ctx, healLimit)
	}
	if err != nil {
		w.lab.Keep()
		return fmt.Errorf("start (files kept in %s): %w\n%s", w.lab.Dir, err, w.lab.LastLogs(30))
	}
	if w.load, err = newLoad(w, o, n); err != nil {
		return err
	}
	err = w.soon(func() (err error) {
		if w.before, err = w.look(ctx); err == nil {
			w.raftIDs, err = w.identities()
		}
		return err
	})
	if err != nil {
		return err
	}
	w.probe, err = w.watch()
	return err
}

// soon repeats a look at the cluster until nothing is wrong, for a short time.
func (w *world) soon(look func() error) error {
	deadline := time.Now().Add(w.patience)
	for {
		err := look()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) watch() (*lab.Probe, error) {
	return w.lab.StartProbe(lab.ProbeOptions{Target: w.shape.vip.Addr(), GapOver: 2 * time.Millisecond, Strangers: []string{rogue}})
}

// sockets are the control sockets of all members, in a fixed order.
func (w *world) sockets(first ...string) []string {
	var all []string
	for _, n := range slices.Concat(first, w.shape.members()) {
		if s := w.cluster.Socket(n); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// retire looks at everything that was ever acknowledged in this world, stops
// the members in order and looks for what they left on their hosts.
func (w *world) retire(ctx context.Context) error {
	w.load.stop()
	if err := w.sameState(ctx, w.load.ledger.Last()); err != nil {
		return err
	}
	if err := w.load.verifyAll(ctx); err != nil {
		return fmt.Errorf("at the end of a cluster: %w", err)
	}
	w.load.close()
	if err := w.cluster.Stop(); err != nil {
		return err
	}
	return w.leftBehind()
}

func (w *world) close() {
	w.load.close()
	if err := w.lab.Close(); err != nil {
		fmt.Fprintf(os.Stderr, "chaos: close lab: %v\n", err)
	}
}

// settle starts what is dead, takes off what marks are left, and waits until
// the cluster is whole and the client hears its holder.
func (w *world) settle(ctx context.Context) error {
	for _, node := range w.cluster.Names() {
		if _, out := w.expelled[node]; out {
			continue // how it starts is to be found out
		}
		if err := w.cluster.Start(node); err != nil {
			return err
		}
	}
	for _, node := range slices.Sorted(maps.Keys(w.expelled)) {
		if err := w.readmit(ctx, node, w.expelled[node]); err != nil {
			return err
		}
	}
	clear(w.expelled)
	for _, args := range w.marks {
		if err := w.insist(ctx, commandLimit, args...); err != nil {
			return err
		}
	}
	w.marks = nil
	limit := healLimit
	if len(w.renewed) > 0 {
		limit = repairLimit
	}
	if err := w.whole(ctx, limit); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, serveLimit)
	defer cancel()
	_, err := w.probe.WaitOwner(limited, w.cluster.Holder())
	return err
}

// whole waits until the cluster says that it is whole, every member votes and
// has room on its disk, and each that lost what it had stored is back as a new
// one.
func (w *world) whole(ctx context.Context, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		if err := w.env.WaitWholeWithin(ctx, time.Until(deadline)); err != nil {
			return err
		}
		ids, err := w.identities()
		if err == nil {
			err = w.identityFault(ids)
		}
		if err == nil {
			err = w.blocked()
		}
		if err == nil {
			for node := range w.renewed {
				w.raftIDs[node] = ids[node]
			}
			clear(w.renewed)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w after %v: %w", scenario.ErrNotWhole, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// blocked says which member has not seen yet that there is room on its disk.
func (w *world) blocked() error {
	for _, node := range w.cluster.Names() {
		s, err := w.cluster.StatusOf(node)
		if err != nil {
			return err
		}
		if s.WAL.Blocked != "" {
			return fmt.Errorf("%s writes nothing: %s", node, s.WAL.Blocked)
		}
	}
	return nil
}

// identityFault says which member is another one than it should be: one that
// lost nothing keeps its raft id (no damage was found where none was done),
// one that lost something has a new one (all damage was found).
func (w *world) identityFault(ids map[string]string) error {
	for _, node := range slices.Sorted(maps.Keys(ids)) {
		switch was := w.raftIDs[node]; {
		case w.renewed[node] && ids[node] == was:
			return fmt.Errorf("%s was damaged and still is raft id %s", node, was)
		case !w.renewed[node] && ids[node] != was:
			return fmt.Errorf("%s was not damaged, and is no longer raft id %s but %s", node, was, ids[node])
		}
	}
	return nil
}

// identities are the raft ids of all members, as every one of them says.
func (w *world) identities() (map[string]string, error) {
	ids := map[string]string{}
	for _, node := range w.cluster.Names() {
		s, err := w.cluster.StatusOf(node)
		if err != nil {
			return nil, err
		}
		for _, m := range s.Members {
			switch id, known := ids[m.Name]; {
			case m.State != "voter":
				return nil, fmt.Errorf("%s says that %s is %s", node, m.Name, m.State)
			case known && id != m.RaftID:
				return nil, fmt.Errorf("%s is raft id %s and, says %s, %s", m.Name, id, node, m.RaftID)
			}
			ids[m.Name] = m.RaftID
		}
	}
	if len(ids) != len(w.cluster.Names()) {
		return nil, fmt.Errorf("members are %v", ids)
	}
	return ids, nil
}
