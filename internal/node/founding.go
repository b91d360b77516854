package node

import (
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/storage"
)

// Founding (F1): a cluster begins when every listed voter is reached, all list
// the same members, addresses and profile, and none has a log of its own. The
// first configuration is then the same bytes on all, made from names, keys and
// raft ids. Until then nobody votes, grants or holds anything.

// firstConfig is what a file says, without raft ids.
func firstConfig(c *config.Config) storage.FirstConfig {
	first := storage.FirstConfig{
		Cluster: c.Cluster,
		Profile: storage.Profile{Beat: c.Timing.Beat, Promise: c.Timing.Promise, Epsilon: c.Timing.Epsilon},
		Groups:  committedGroups(c),
	}
	for _, m := range c.Members {
		role := storage.Gateway
		if m.Role == config.Witness {
			role = storage.Witness
		}
		first.Members = append(first.Members, storage.Member{
			Name: m.Name, PublicKey: m.PublicKey, Role: role, Priority: int32(m.Priority),
		})
	}
	return first
}

// committedGroups is the mapping of addresses to groups, which all members
// share; the interface is each node's own.
func committedGroups(c *config.Config) []storage.Group {
	names := c.Groups()
	slices.Sort(names) // ids do not depend on the order of a file
	var groups []storage.Group
	for i, name := range names {
		g := storage.Group{ID: uint16(i), Name: name}
		for _, v := range c.VIPs {
			if v.Group != name {
				continue
			}
			scope := storage.ScopeVIP
			if v.Scope == config.ScopeForwarding {
				scope = storage.ScopeForwarding
			}
			g.VIPs = append(g.VIPs, storage.VIP{Prefix: v.Address, Scope: scope})
		}
		groups = append(groups, g)
	}
	return groups
}

// membersDigest tells whether two files list the same.
func membersDigest(c *config.Config) [32]byte { return firstConfig(c).Digest() }

// stageNow is the stage of this node's data directory.
func (w *worker) stageNow() storage.Stage {
	if w.raft == nil {
		return storage.Empty
	}
	return w.raftLog.Stage()
}

// hello is what this node says on a new connection. A node whose log holds
// nothing but a first configuration counts as empty (F1).
func (w *worker) hello() transport.Hello {
	w.helloMu.Lock()
	defer w.helloMu.Unlock()
	return w.helloNow
}

func (w *worker) updateHello() {
	h := transport.Hello{
		ClusterName: w.cfg.Cluster, Profile: profileText(w.cfg), RaftID: w.rid, Incarnation: w.inc,
		Members: membersDigest(w.cfg), Binary: w.version, Empty: w.stageNow() != storage.Used,
	}
	if !h.Empty {
		h.Founded, h.ClusterID = true, w.notes.cluster
	}
	w.helloMu.Lock()
	w.helloNow = h
	w.helloMu.Unlock()
}

func profileText(c *config.Config) string {
	return fmt.Sprintf("%v/%v/%v", c.Timing.Beat, c.Timing.Promise, c.Timing.Epsilon)
}

// found founds the cluster, or founds it again, once nothing stands in the way.
func (w *worker) found(now int64) {
	if w.stageNow() == storage.Used {
		w.waitsFor = nil
		if !w.saidUsed {
			w.saidUsed = true
			w.updateHello()
		}
		return
	}
	if w.stranger != "" {
		return // F2: a new node of an old cluster founds nothing
	}
	first, waiting := w.agree()
	w.waitsFor = waiting
	if len(waiting) > 0 {
		return
	}
	if have, ok := w.data.First(); ok && have.ID() == first.ID() {
		return
	}
	if w.raft != nil && w.appliedIndex() > storage.FirstIndex {
		return
	}
	w.adopt(now, first, "every member was reached and lists the same")
}

// agree returns the first configuration that all members would write now, or
// for whom and why it has to wait.
func (w *worker) agree() (storage.FirstConfig, []waitFor) {
	first := firstConfig(w.cfg)
	mine := membersDigest(w.cfg)
	var waiting []waitFor
	for i := range first.Members {
		m := &first.Members[i]
		if m.Name == w.cfg.Node.Name {
			m.RaftID = w.rid
			continue
		}
		p := w.peers[m.Name]
		switch {
		case !p.helloed || !p.connected:
			waiting = append(waiting, waitFor{m.Name, "not reached"})
		case p.hello.Members != mine:
			waiting = append(waiting, waitFor{m.Name, "its configuration lists other members, addresses or priorities"})
		case !p.hello.Empty || w.raft != nil && p.beat != nil &&
			(p.beat.Applied > storage.FirstIndex || p.beat.Flags.Has(transport.FlagLeaderClaim)):
			waiting = append(waiting, waitFor{m.Name, "it belongs to a cluster already"})
		default:
			m.RaftID = p.hello.RaftID
		}
	}
	return first, waiting
}

// waitFor names a member that the founding waits for.
type waitFor struct{ name, why string }

// adopt makes first the configuration that this node's log begins with.
func (w *worker) adopt(now int64, first storage.FirstConfig, why string) {
	if err := first.Validate(); err != nil {
		w.limited.Warn("founding refused", "error", err)
		return
	}
	if w.raft != nil {
		// Founded before, with other raft ids, and never used since.
		w.fail(errRefound)
	}
	if err := w.data.PublishFirst(first, w.stageNow()); err != nil {
		w.fail(fmt.Errorf("found cluster: %w", err))
		return
	}
	if w.exit != nil {
		return
	}
	w.log.Info("cluster founded", "cluster", fmt.Sprintf("%x", first.ID()), "reason", why)
	if err := w.startRaft(now); err != nil {
		w.fail(err)
		return
	}
	for name := range w.peers {
		w.giveFirst(name)
	}
}

// errRefound ends the worker so that the next one begins with the new first
// configuration; the log that is dropped holds no vote.
var errRefound = errors.New("the cluster is founded anew because a member has a new data directory")

// giveFirst sends the first configuration to a member that may lack it: one
// that lost power between the founding of the others and its own.
func (w *worker) giveFirst(name string) {
	p := w.peers[name]
	first, ok := w.data.First()
	if !ok || !p.connected || !p.hello.Empty {
		return
	}
	w.send(name, kindFirst, first.Encode())
}

// takeFirst takes a first configuration from a member. It counts only when it
// names our own raft id: then we have said so ourselves, and no vote or grant
// of ours under another one exists.
func (w *worker) takeFirst(now int64, name string, raw []byte) {
	if w.raft != nil {
		return
	}
	first, err := storage.DecodeFirst(raw)
	if err != nil {
		w.limited.Warn("first configuration refused", "member", name, "error", err)
		return
	}
	mine := firstConfig(w.cfg)
	for _, m := range first.Members {
		if m.Name != w.cfg.Node.Name {
			continue
		}
		if m.RaftID != w.rid {
			w.setStranger(name, m.RaftID)
			return
		}
		for i := range mine.Members {
			if j := slices.IndexFunc(first.Members, func(f storage.Member) bool { return f.Name == mine.Members[i].Name }); j >= 0 {
				mine.Members[i].RaftID = first.Members[j].RaftID
			}
		}
		if mine.Validate() != nil || mine.ID() != first.ID() {
			w.limited.Warn("first configuration refused: it differs from this node's file", "member", name)
			return
		}
		w.adopt(now, first, name+" has founded it with this node")
		return
	}
	w.limited.Warn("first configuration refused: it does not list this node", "member", name)
}

// setStranger is F2: the cluster knows this node under another raft id, so its
// data directory is new or another one. It neither votes nor grants.
func (w *worker) setStranger(by string, known uint64) {
	if w.stranger == "" {
		w.log.Error("abstaining: the cluster knows this node under another raft id; its data directory is new or was replaced",
			"told_by", by, "known", fmt.Sprintf("%x", known), "own", fmt.Sprintf("%x", w.rid))
	}
	w.stranger = by
}
