package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/control"
	"github.com/holdfast-ha/holdfast/internal/transport"
	"github.com/holdfast-ha/holdfast/internal/vfs"
	"github.com/holdfast-ha/holdfast/storage"
)

// Events of one node that belong into the audit trail: they are asked of the
// leader until it has committed them, once or, when an answer is lost, twice.
// What a worker that ends could not get committed, its successor does.

const (
	maxEvents  = 64
	eventRetry = time.Second
)

// event is one that waits, and who caused it ("" = the node itself).
type event struct {
	actor  string
	record storage.Record
}

// recordEvent puts an event of this node into the audit trail.
func (w *worker) recordEvent(r storage.Record) { w.recordEventOf("", r) }

// recordEventOf does so for what somebody has asked for.
func (w *worker) recordEventOf(actor string, r storage.Record) {
	if len(w.events) >= maxEvents {
		w.limited.Warn("too many events wait for the audit trail, one is left out", "kind", r.Kind, "detail", r.Detail)
		return
	}
	r.Detail = clip(r.Detail, storage.MaxDetail)
	r.Cause = clip(r.Cause, storage.MaxCause)
	w.events = append(w.events, event{actor, r})
}

// eventsTurn asks the leader to commit the oldest event that waits.
func (w *worker) eventsTurn(now int64) {
	if len(w.events) == 0 || w.eventAsked || now < w.nextEvent || w.catchingUp() {
		return
	}
	w.eventAsked = true
	w.ask(now, opRecord, w.events[0].actor, w.events[0].record, w.eventAnswered)
}

// eventAnswered takes the leader's answer. An event that it will never take
// must not keep all others waiting.
func (w *worker) eventAnswered(now int64, r reply) {
	w.eventAsked = false
	switch {
	case r.Error == nil:
	case r.Error.Code == control.Forbidden || r.Error.Code == control.Invalid:
		w.log.Warn("event left out of the audit trail", "event", fmt.Sprintf("%+v", w.events[0].record), "error", r.Error)
	default:
		w.nextEvent = now + int64(eventRetry)
		return
	}
	w.events = w.events[1:]
}

// ownKinds are the kinds of events that the state writes by itself: nobody may
// add one by hand.
var ownKinds = []string{
	storage.EventAssign, storage.EventFence, storage.EventUnfence, storage.EventMaintenance, storage.EventGroups,
	storage.EventJoin, storage.EventPromote, storage.EventReplace, storage.EventLeave, storage.EventMember,
}

// mayRecord tells whether a member may have an event recorded: of itself, and
// of a kind that no command tells.
func (w *worker) mayRecord(from string, r storage.Record) bool {
	return (r.Node == from || from == w.selfName) && !slices.Contains(ownKinds, r.Kind)
}

// recordEnd is the leader's record of another worker's end: the dead cannot
// tell.
func (w *worker) recordEnd(now int64, p *peer) {
	if !w.leads(now) || p.beat == nil {
		return
	}
	cause := "died"
	if p.beat.Flags.Has(transport.FlagStopping) {
		cause = "stopped"
	}
	w.recordEvent(storage.Record{Kind: "worker", Node: p.member.Name, Cause: cause, Detail: "incarnation " + hex64(p.incarnation)})
}

// lastWords is the file in the runtime directory in which a worker that ends
// with an error leaves its reason to the next one, which can have it
// committed.
const lastWords = "last-words"

const maxLastWords = 256 << 10

func (w *worker) saveLastWords() {
	var words []storage.Record
	if err := w.exitError(); err != nil {
		words = append(words, storage.Record{Kind: "worker", Node: w.selfName, Cause: "failed", Detail: clip(err.Error(), storage.MaxDetail)})
	}
	for _, e := range w.events {
		if e.actor == "" {
			words = append(words, e.record)
		}
	}
	if len(words) == 0 {
		return
	}
	text, err := json.Marshal(words)
	if err == nil {
		err = w.host.FS.WriteFile(filepath.Join(w.cfg.Node.RuntimeDir, lastWords), text, 0o600)
	}
	if err != nil {
		w.log.Warn("last words not kept", "error", err)
	}
}

// readLastWords takes over what the worker before could not get committed.
func (w *worker) readLastWords() {
	file := filepath.Join(w.cfg.Node.RuntimeDir, lastWords)
	text, err := vfs.ReadFile(w.host.FS, file, maxLastWords)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var words []storage.Record
	if err == nil {
		err = json.Unmarshal(text, &words)
	}
	if err = errors.Join(err, w.host.FS.Remove(file)); err != nil {
		w.log.Warn("last words of the worker before not read", "error", err)
	}
	for _, r := range words {
		w.recordEvent(r)
	}
}
