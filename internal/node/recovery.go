package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/internal/status"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/storage"
)

// Damage on a majority at once (F4): nothing is guessed. A node whose data were
// set aside joins a cluster that is there, and founds none: what was set aside
// may be all that is left. Status says what is missing; an operator decides with
// holdfast recover.

const recoverHint = "holdfast recover inspect on every member shows who has the most; docs/operations.md, Recover from the loss of a majority"

// learnEvidence looks for data that were set aside here.
func (w *worker) learnEvidence() (err error) {
	w.evidence, err = storage.Labels(w.host.FS, w.cfg.Node.DataDir)
	w.hadData = len(w.evidence) > 0
	return err
}

// lostData tells whether a hello is of a member that is empty because its data
// were set aside.
func lostData(h transport.Hello) bool { return h.Empty && h.Founded }

const lostDataWhy = "its data were set aside, and founding anew would lose them"

// missing are the voters whose data are gone, by what their connections show;
// lost tells whether the others are no majority.
func (w *worker) missing() (names []string, lost bool) {
	conf, _ := w.state.Conf()
	for _, id := range conf.Voters {
		m, ok := w.state.MemberByID(id)
		if !ok {
			continue
		}
		if m.Name == w.selfName && id != w.rid {
			names = append(names, m.Name)
		}
		if p := w.peers[m.Name]; p != nil && p.connected && p.hello.RaftID != id && !p.strange(w.notes.cluster) {
			names = append(names, m.Name)
		}
	}
	return names, 2*(len(conf.Voters)-len(names)) <= len(conf.Voters)
}

// recoveryConditions say what only an operator can mend.
func (w *worker) recoveryConditions() (out []status.Condition) {
	if w.hadData && w.stranger == "" && w.stageNow() != storage.Used {
		out = append(out, status.Condition{Code: "data_set_aside", Hint: recoverHint,
			Message: fmt.Sprintf("this node's data were set aside (%s): it joins a cluster that is there, and founds none", strings.Join(w.evidence, ", "))})
	}
	if w.raft == nil {
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(w.peers)) {
		if w.peers[name].strange(w.notes.cluster) {
			out = append(out, status.Condition{Code: "other_cluster",
				Hint:    "if this node belongs to the cluster that goes on, then on " + name + ": holdfast recover rejoin; else here",
				Message: name + " has data of another cluster: the two refuse each other"})
		}
	}
	if names, lost := w.missing(); lost {
		conf, _ := w.state.Conf()
		out = append(out, status.Condition{Code: "majority_lost", Hint: recoverHint,
			Message: fmt.Sprintf("%d of %d voters have lost their data (%s): no majority can come back", len(names), len(conf.Voters), strings.Join(names, ", "))})
	}
	return out
}
