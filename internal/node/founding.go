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
	} else if w.hadData {
		h.Founded = true // once: see lostData
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
		w.waitsFor = nil
		return // F2: a new node of an old cluster founds nothing
	}
	if w.hadData {
		// F4: members that all lost their data must not begin with nothing as
		// if there had never been any. One that has it still takes this one in.
		w.waitsFor = []waitFor{{w.selfName, lostDataWhy}}
		return
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
		case lostData(p.hello):
			waiting = append(waiting, waitFor{m.Name, lostDataWhy})
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
	w.log.Info("first configuration taken", "cluster", fmt.Sprintf("%x", first.ID()), "reason", why)
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
var errRefound = errors.New("the first configuration is another now: the cluster was founded anew, or recovered")

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

// takeFirst takes a first configuration from a member. One that names our own
// raft id is a founding that we have missed the end of; it counts, because then
// we have said that id ourselves, and no vote or grant of ours under another
// one exists. Any other is of a cluster that we are new in: we take it as what
// its log begins with, and wait to be made a learner (F2).
func (w *worker) takeFirst(now int64, name string, raw []byte) {
	first, err := storage.DecodeFirst(raw)
	if err != nil {
		w.limited.Warn("first configuration refused", "member", name, "error", err)
		return
	}
	if slices.ContainsFunc(first.Members, func(m storage.Member) bool { return m.Name == w.selfName && m.RaftID == w.rid }) {
		if w.raft == nil {
			w.takeFounding(now, name, first)
		}
		return
	}
	if p := w.peers[name]; p == nil || !p.connected || p.hello.Empty || w.stageNow() == storage.Used || p.hello.ClusterID != first.ID() {
		return // nobody's cluster yet; it is founded when all are there
	}
	have, ok := w.data.First()
	if ok && have.ID() == first.ID() {
		w.setStranger(name)
		return
	}
	// F4: a recovery of the cluster that this node waits for is what became of
	// it; the way back is never open.
	recovered := ok && first.Parent == have.ID()
	if w.raft != nil && !recovered && !w.mostAreOf(first.ID()) {
		w.limited.Warn("first configuration refused: this node waits to join another cluster, and most members do not belong to this one", "member", name)
		return
	}
	w.setStranger(name)
	w.adopt(now, first, name+" has it: this node is new in its cluster")
}

// mostAreOf tells whether most of the others show that they belong to a
// cluster. Members that were set up apart must not draw a new node to and fro.
func (w *worker) mostAreOf(cluster [16]byte) bool {
	n := 0
	for _, p := range w.peers {
		if p.connected && !p.hello.Empty && p.hello.ClusterID == cluster {
			n++
		}
	}
	return 2*n > len(w.peers)
}

// takeFounding ends a founding that the others have ended already.
func (w *worker) takeFounding(now int64, name string, first storage.FirstConfig) {
	if p := w.peers[name]; w.hadData && (p == nil || p.hello.Empty) {
		return // F4, as in found
	}
	mine := firstConfig(w.cfg)
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
}

// setStranger is F2: this node's raft id is not, or not yet, in the
// configuration, because its data directory is new. It neither votes nor
// grants, and asks nobody to found anything.
func (w *worker) setStranger(by string) {
	if w.stranger == "" {
		w.log.Warn("joining: the cluster does not know this node's raft id; its data directory is new",
			"told_by", by, "raft_id", hex64(w.rid))
	}
	if w.stranger == "" {
		w.recordEvent(storage.Record{Kind: "recovery", Node: w.selfName, Cause: "joining", Detail: "raft id " + hex64(w.rid) + ", told by " + by})
	}
	w.stranger = by
}
