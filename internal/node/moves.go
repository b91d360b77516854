package node

import (
	"time"

	"github.com/holdfast-ha/holdfast/storage"
)

// moves measures, on this node's own clock, how long each move of a group
// took: from the last sign that the old holder held to the first sign that the
// new one does. Another node may measure a little more or less.
type moves struct {
	groups map[uint16]*move
	took   map[uint64]time.Duration // by epoch
}

type move struct {
	lastHeld int64
	epoch    uint64
	node     uint64
	done     bool
}

// maxTook bounds the measured moves that are remembered.
const maxTook = 128

func newMoves() *moves {
	return &moves{groups: map[uint16]*move{}, took: map[uint64]time.Duration{}}
}

// assigned is told of every Assign that was applied here.
func (m *moves) assigned(now int64, a storage.Assign, epoch uint64) {
	g := m.groups[a.Group]
	if g == nil {
		g = &move{lastHeld: now}
		m.groups[a.Group] = g
	}
	g.epoch, g.node, g.done = epoch, a.Node, false
}

// held is told whenever a node reports that it holds an epoch; it tells
// whether that is the end of a move.
func (m *moves) held(now int64, group uint16, node, epoch uint64) bool {
	g := m.groups[group]
	if g == nil || epoch > g.epoch {
		return false
	}
	first := epoch == g.epoch && node == g.node && !g.done
	if first {
		g.done = true
		if len(m.took) >= maxTook {
			clear(m.took)
		}
		m.took[epoch] = time.Duration(now - g.lastHeld)
	}
	present := epoch == g.epoch && node == g.node
	former := epoch < g.epoch && !g.done
	if present || former {
		g.lastHeld = max(g.lastHeld, now)
	}
	return first
}

// released is told of a note that ends an epoch: a nearer sign than the last
// report of the holder.
func (m *moves) released(now int64, group uint16, epoch uint64) {
	if g := m.groups[group]; g != nil && (epoch == g.epoch || epoch < g.epoch && !g.done) {
		g.lastHeld = max(g.lastHeld, now)
	}
}
