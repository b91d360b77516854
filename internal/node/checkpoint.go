package node

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/storage"
)

// The states of all nodes at one index are equal. Every half minute in which
// something was written the leader commits a checkpoint; each node tells it
// the hash of its state at that entry, and whoever is in the minority sets its
// data aside and is filled anew (F2).

const (
	checkpointEvery = 30 * time.Second
	checkpointLimit = 10 * time.Second
)

// comparison is what the leader knows of a checkpoint.
type comparison struct {
	index  uint64
	until  int64
	hashes map[string][32]byte // by member name
}

// hashMessage is {index, hash}.
const hashMessage = 8 + 32

// checkpointTurn is the leader's part.
func (w *worker) checkpointTurn(now int64) {
	if c := w.comparing; c != nil && (len(c.hashes) > len(w.peers) || now > c.until) {
		w.comparing = nil
		w.compare(now, c)
	}
	if now < w.nextCheckpoint || w.comparing != nil || w.disk.full || w.appliedIndex() <= w.checkpointed {
		return
	}
	w.nextCheckpoint = now + int64(checkpointEvery)
	if err := w.proposeCommand(now, storage.Checkpoint{}); err != nil {
		w.limited.Warn("checkpoint not proposed", "error", err)
	}
}

// checkpoint is the application of one.
func (w *worker) checkpoint(now int64, index uint64) {
	w.checkpointed = index
	if w.catchingUp() {
		return
	}
	hash := w.state.Hash()
	if w.leads(now) {
		w.comparing = &comparison{index: index, until: now + int64(checkpointLimit), hashes: map[string][32]byte{w.selfName: hash}}
		for name, early := range w.earlyHashes {
			if early.index == index {
				w.comparing.hashes[name] = early.hash
			}
		}
		clear(w.earlyHashes)
		return
	}
	if leader := w.leaderName(now); leader != "" && leader != w.selfName {
		msg := binary.BigEndian.AppendUint64(nil, index)
		if err := w.send(leader, kindHash, append(msg, hash[:]...)); err != nil {
			w.limited.Warn("hash of the state not sent", "leader", leader, "error", err)
		}
	}
}

// earlyHash is of a follower that applied a checkpoint before the leader.
type earlyHash struct {
	index uint64
	hash  [32]byte
}

// takeHash takes a follower's hash.
func (w *worker) takeHash(name string, msg []byte) {
	if len(msg) != hashMessage || w.peers[name] == nil {
		w.limited.Warn("hash refused", "member", name, "bytes", len(msg))
		return
	}
	index, hash := binary.BigEndian.Uint64(msg), [32]byte(msg[8:])
	if c := w.comparing; c != nil && c.index == index {
		c.hashes[name] = hash
		return
	}
	w.earlyHashes[name] = earlyHash{index, hash}
}

// compare judges a checkpoint: only a majority of the voters can say what the
// state is.
func (w *worker) compare(now int64, c *comparison) {
	conf, _ := w.state.Conf()
	votes := map[[32]byte]int{}
	for name, hash := range c.hashes {
		if m, ok := w.state.MemberByName(name); ok && conf.Voter(m.RaftID) {
			votes[hash]++
		}
	}
	if len(votes) < 2 && len(c.hashes) == 0 {
		return
	}
	for right, n := range votes {
		if 2*n <= len(conf.Voters) {
			continue
		}
		// One at a time: whoever is told gives up its data, and the next
		// checkpoint finds the others.
		for _, name := range slices.Sorted(maps.Keys(c.hashes)) {
			if hash := c.hashes[name]; hash != right {
				w.diverged(now, name, c.index, hash, right)
				break
			}
		}
		return
	}
	if len(votes) > 1 {
		w.log.Error("the states of the members differ, and no majority agrees", "index", c.index, "hashes", len(votes))
		w.recordEvent(storage.Record{Kind: "hash-mismatch", Node: w.selfName, Cause: "no majority",
			Detail: fmt.Sprintf("index %d: %d different states", c.index, len(votes))})
	}
}

func (w *worker) diverged(now int64, name string, index uint64, hash, right [32]byte) {
	detail := fmt.Sprintf("index %d: hash %s, the majority has %s", index, hex.EncodeToString(hash[:8]), hex.EncodeToString(right[:8]))
	w.log.Error("the state of a member differs from the majority's", "member", name, "detail", detail)
	w.recordEvent(storage.Record{Kind: "hash-mismatch", Node: name, Cause: "minority", Detail: detail})
	if name == w.selfName {
		w.rejoin(index)
		return
	}
	msg := binary.BigEndian.AppendUint64(nil, index)
	if err := w.send(name, kindRejoin, append(msg, right[:]...)); err != nil {
		w.log.Error("member not told that its state differs", "member", name, "error", err)
	}
}

// takeRejoin takes the leader's verdict on this node's state.
func (w *worker) takeRejoin(now int64, from string, msg []byte) {
	if len(msg) != hashMessage || w.raft == nil || from != w.leaderName(now) {
		w.limited.Warn("verdict refused", "member", from)
		return
	}
	w.rejoin(binary.BigEndian.Uint64(msg))
}

func (w *worker) rejoin(index uint64) {
	w.setAsideAtEnd = fmt.Sprintf("the state at index %d differed from the majority's", index)
	w.fail(errSetAside)
}
