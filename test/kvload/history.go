package kvload

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// event is one request and what came of it.
type event struct {
	client     int
	call, back int64 // ns since the beginning; back is never for an unknown one
	steps      []step
	outs       []outcome
	sum        int  // of all accounts, when all were read at once
	total      bool // sum is valid
}

const never = math.MaxInt64

// History is what clients were told, in the order of nothing.
type History struct {
	events []event
	total  int    // of the accounts at first
	after  uint64 // below every revision of a write
	// Told counts requests by what came of them: "get done", "put unknown".
	Told map[string]int
}

// Len returns the number of requests.
func (h *History) Len() int { return len(h.events) }

// Last returns the highest revision that a client was told.
func (h *History) Last() uint64 {
	last := uint64(0)
	for _, e := range h.events {
		for _, o := range e.outs {
			last = max(last, o.Rev)
		}
	}
	return last
}

// String says how many requests came to what.
func (h *History) String() string {
	var parts []string
	for what, n := range h.Told {
		parts = append(parts, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%d requests: %s", len(h.events), strings.Join(parts, ", "))
}

// Check judges the history. limit bounds the search for an order of the
// requests; a search that takes longer proves nothing, and that is an error.
func (h *History) Check(limit time.Duration) error {
	return errors.Join(h.checkSums(), h.checkRevisions(), h.checkKeys(limit))
}

// checkKeys checks that the requests of each key can be put in an order.
func (h *History) checkKeys(limit time.Duration) error {
	keys := map[string][]porcupine.Operation{}
	for _, e := range h.events {
		for i, s := range e.steps {
			keys[s.Key] = append(keys[s.Key], porcupine.Operation{
				ClientId: e.client, Input: s, Call: e.call, Output: e.outs[i], Return: e.back,
			})
		}
	}
	deadline := time.Now().Add(limit)
	single := model.ToModel()
	var all error
	for key, ops := range keys {
		left := max(time.Until(deadline), time.Second) // 0 would mean no limit
		result, info := porcupine.CheckOperationsVerbose(single, ops, left)
		switch result {
		case porcupine.Illegal:
			all = errors.Join(all, fmt.Errorf("key %s: no order of its %d requests explains the answers; %s", key, len(ops), stuck(info, ops)))
		case porcupine.Unknown:
			all = errors.Join(all, fmt.Errorf("key %s: no verdict on %d requests in %v", key, len(ops), limit))
		}
	}
	return all
}

// stuck describes the requests around the point up to which an order exists.
func stuck(info porcupine.LinearizationInfo, ops []porcupine.Operation) string {
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, seq := range partition {
			if len(seq) > len(longest) {
				longest = seq
			}
		}
	}
	in := map[string]bool{}
	name := func(op porcupine.Operation) string {
		return fmt.Sprintf("client %d %d..%d µs %s", op.ClientId, op.Call/1e3, op.Return/1e3, describe(op.Input.(step), op.Output.(outcome)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the first %d can be ordered, the last of them:", len(longest))
	for i, op := range longest {
		in[name(op)] = true
		if i >= len(longest)-6 {
			fmt.Fprintf(&b, "\n  %s", name(op))
		}
	}
	b.WriteString("\nthese cannot follow:")
	rest := slices.DeleteFunc(slices.Clone(ops), func(op porcupine.Operation) bool { return in[name(op)] })
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return int(a.Call/1e3 - b.Call/1e3) })
	for i, op := range rest {
		if i == 6 {
			break
		}
		fmt.Fprintf(&b, "\n  %s", name(op))
	}
	return b.String()
}

// checkRevisions checks that a write which began after another had ended has
// the higher revision, across all keys, that no two share one, and that all are
// above those of earlier histories.
func (h *History) checkRevisions() error {
	type write struct {
		rev        uint64
		call, back int64
		what       string
	}
	var writes []write
	for _, e := range h.events {
		for i, s := range e.steps {
			o := e.outs[i]
			if s.Kind == stepGet || o.Unknown || !o.Done || o.Rev == 0 {
				continue
			}
			writes = append(writes, write{o.Rev, e.call, e.back, fmt.Sprintf("client %d %s", e.client, describe(s, o))})
			break // the steps of a transaction share one revision
		}
	}
	slices.SortFunc(writes, func(a, b write) int {
		if a.rev < b.rev {
			return -1
		}
		return 1
	})
	if len(writes) > 0 && writes[0].rev <= h.after {
		return fmt.Errorf("%s, and revision %d was known before any of these began", writes[0].what, h.after)
	}
	// From high revisions to low ones: nothing may have ended before the call.
	first := write{back: never}
	for i := len(writes) - 1; i >= 0; i-- {
		w := writes[i]
		if i > 0 && writes[i-1].rev == w.rev {
			return fmt.Errorf("one revision of two writes: %s, and %s", writes[i-1].what, w.what)
		}
		if first.back < w.call {
			return fmt.Errorf("%s ended at %d µs, before %s began at %d µs, and has the higher revision", first.what, first.back/1e3, w.what, w.call/1e3)
		}
		if w.back < first.back {
			first = w
		}
	}
	return nil
}

func (h *History) checkSums() error {
	var all error
	for _, e := range h.events {
		if e.total && e.sum != h.total {
			all = errors.Join(all, fmt.Errorf("client %d at %d..%d µs read accounts that sum up to %d, want %d", e.client, e.call/1e3, e.back/1e3, e.sum, h.total))
		}
	}
	return all
}

// Cut takes back what came after Len was n: reads that turned out to say
// nothing.
func (h *History) Cut(n int) {
	if h != nil {
		h.events = h.events[:n]
	}
}
