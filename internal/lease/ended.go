package lease

import "slices"

// Limits of what a voter remembers of incarnations that are over: enough for
// every datagram that can still be under way, bounded against a node that
// restarts without end.
const (
	maxEndedNodes   = 64
	maxEndedPerNode = 16
)

// endedIncarnations remembers which incarnations are over. One node's
// restarts never push out what is known of another.
type endedIncarnations struct {
	nodes []endedNode // at most maxEndedNodes, oldest first
}

type endedNode struct {
	node         uint64
	incarnations []uint64 // at most maxEndedPerNode, oldest first
}

func (e *endedIncarnations) has(node, incarnation uint64) bool {
	i := e.find(node)
	return i >= 0 && slices.Contains(e.nodes[i].incarnations, incarnation)
}

func (e *endedIncarnations) add(node, incarnation uint64) {
	if e.has(node, incarnation) {
		return
	}
	i := e.find(node)
	if i < 0 {
		if len(e.nodes) == maxEndedNodes {
			e.nodes = slices.Delete(e.nodes, 0, 1)
		}
		e.nodes = append(e.nodes, endedNode{node: node})
		i = len(e.nodes) - 1
	}
	n := &e.nodes[i]
	if len(n.incarnations) == maxEndedPerNode {
		n.incarnations = slices.Delete(n.incarnations, 0, 1)
	}
	n.incarnations = append(n.incarnations, incarnation)
}

func (e *endedIncarnations) find(node uint64) int {
	return slices.IndexFunc(e.nodes, func(n endedNode) bool { return n.node == node })
}
