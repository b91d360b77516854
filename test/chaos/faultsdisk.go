package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/test/kvload"
	"github.com/holdfast-ha/holdfast/test/lab"
)

// diskSize is the disk of each member, in bytes: room for some logs that were
// set aside, and soon full.
const diskSize = 512 << 20

func diskKinds() []kind {
	return []kind{
		{name: "disk-full", cause: fillDisk, traits: traits{disk: true}},
		{name: "disk-slow", cause: slowDisk, traits: traits{disk: true}},
		{name: "disk-hangs", cause: onNode((*lab.Cluster).HangDisk), traits: traits{disk: true, freezes: true}},
		{name: "wipe", cause: wipe, traits: traits{kills: true, disk: true, loses: true}},
		{name: "rot", cause: rot, traits: traits{kills: true, disk: true, loses: true}},
	}
}

// fillDisk takes the room of a disk, while clients write more than is kept in
// reserve.
func fillDisk(ctx context.Context, w *world, node string, _ plan) (func() error, error) {
	f, err := w.cluster.FillDisk(node, 0)
	if err != nil {
		return undo(f, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	conn := kvload.Dial(w.sockets()...)
	go func() {
		defer close(done)
		defer conn.Close()
		value := strings.Repeat("full ", 50<<10)
		for i := 0; ctx.Err() == nil; i++ {
			// Refused or not: what counts is what others are told.
			_, _ = conn.Put(ctx, "receipts", fmt.Sprintf("full/%d", i%4), value, kvload.Cond{}, 0)
		}
	}()
	return func() error {
		cancel()
		<-done
		return f.Undo()
	}, nil
}

func slowDisk(_ context.Context, w *world, node string, p plan) (func() error, error) {
	r := p.rand()
	stall := between(r, 3*time.Millisecond, 30*time.Millisecond, 300*time.Millisecond, time.Second)
	return undo(w.cluster.SlowDisk(node, stall, between(r, time.Millisecond, 10*time.Millisecond, 100*time.Millisecond)))
}

// wipe gives a member an empty disk.
func wipe(_ context.Context, w *world, node string, _ plan) (func() error, error) {
	f, err := w.cluster.Kill(node)
	if err != nil {
		return undo(f, err)
	}
	w.renewed[node] = true
	_, err = w.cluster.WipeData(node)
	return f.Undo, err
}

// rot flips a bit of what a member has stored and that is needed: of a record
// in the middle of its log, of its snapshot, or of its raft id.
func rot(ctx context.Context, w *world, node string, p plan) (func() error, error) {
	f, err := w.cluster.Kill(node)
	if err != nil {
		return undo(f, err)
	}
	file, offset, err := w.rotten(ctx, node, p)
	if err != nil {
		return f.Undo, err
	}
	if _, err := w.cluster.Flip(node, file, offset); err != nil {
		return f.Undo, err
	}
	w.renewed[node] = true
	w.rots[node]++
	return f.Undo, nil
}

// rotten chooses a byte.
func (w *world) rotten(ctx context.Context, node string, p plan) (file string, offset int64, err error) {
	r := p.rand()
	data := w.cluster.DataDir(node)
	snapshots, err := w.cluster.DataFiles(node, "HFSNAPSH")
	if err != nil {
		return "", 0, err
	}
	switch n := r.IntN(4); {
	case n == 0:
		return filepath.Join(data, "raft-id"), 10, nil
	case n == 1 && len(snapshots) > 0:
		return snapshots[len(snapshots)-1], 4096 + r.Int64N(100), nil
	}
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	out, err := w.cluster.RunCLI(ctx, node, "wal", "inspect", "--json", filepath.Join(data, "wal"))
	if err != nil {
		return "", 0, err
	}
	type record struct {
		Segment string
		Offset  int64
		Length  int64
	}
	var all []record
	for line := range strings.Lines(out.Stdout) {
		var rec record
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			return "", 0, fmt.Errorf("parse %q: %w", line, err)
		}
		if rec.Length > 8 {
			all = append(all, rec)
		}
	}
	if len(all) < 8 {
		return "", 0, fmt.Errorf("the log of %s has %d records: %s", node, len(all), out.Stderr)
	}
	// Later records prove that this one was stored.
	hit := all[r.IntN(len(all)/2)]
	if !filepath.IsAbs(hit.Segment) {
		hit.Segment = filepath.Join(data, "wal", hit.Segment)
	}
	return hit.Segment, hit.Offset + hit.Length/2 + 4, nil
}
