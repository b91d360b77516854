package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// jsonEvent is an event as JSON; its fields are part of the export format.
type jsonEvent struct {
	Seq    uint64  `json:"seq"`
	Index  uint64  `json:"index"`
	Term   uint64  `json:"term"`
	At     string  `json:"at"` // RFC 3339 in UTC, to the nanosecond
	Kind   string  `json:"kind"`
	Actor  string  `json:"actor,omitempty"`
	Node   string  `json:"node,omitempty"`
	Group  string  `json:"group,omitempty"`
	Epoch  uint64  `json:"epoch,omitempty"`
	Cause  string  `json:"cause,omitempty"`
	Detail string  `json:"detail,omitempty"`
	Hash   hexHash `json:"hash"`
}

// jsonPoint is a Point as JSON.
type jsonPoint struct {
	Seq  uint64  `json:"seq"`
	Hash hexHash `json:"hash"`
}

// MarshalJSON writes the point as it stands in an export.
func (p Point) MarshalJSON() ([]byte, error) { return line(p.json()) }

func (p Point) json() *jsonPoint { return &jsonPoint{Seq: p.Seq, Hash: p.Hash} }

func (j jsonPoint) point() Point { return Point{Seq: j.Seq, Hash: j.Hash} }

// The first and the last line of an export.
type (
	anchorLine struct {
		Anchor *jsonPoint `json:"anchor"`
	}
	headLine struct {
		Head *jsonPoint `json:"head"`
	}
)

// hexHash is written as 64 lower-case hex digits.
type hexHash [32]byte

func (h hexHash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

func (h *hexHash) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("hash of %d digits, want %d", len(b), hex.EncodedLen(len(h)))
	}
	if _, err := hex.Decode(h[:], b); err != nil {
		return fmt.Errorf("read hash: %w", err)
	}
	return nil
}

// MarshalJSON writes the event as it stands in an export.
func (e Event) MarshalJSON() ([]byte, error) { return line(e.json()) }

func (e Event) json() jsonEvent {
	return jsonEvent{
		Seq: e.Seq, Index: e.Index, Term: e.Term, At: time.Unix(0, e.At).UTC().Format(time.RFC3339Nano),
		Kind: e.Kind, Actor: e.Actor, Node: e.Node, Group: e.Group, Epoch: e.Epoch, Cause: e.Cause, Detail: e.Detail,
		Hash: e.Hash,
	}
}

// UnmarshalJSON reads what MarshalJSON writes.
func (e *Event) UnmarshalJSON(b []byte) error {
	var j jsonEvent
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("read audit event: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, j.At)
	if err != nil {
		return fmt.Errorf("read audit event: %w", err)
	}
	*e = Event{
		Seq: j.Seq, Index: j.Index, Term: j.Term, At: at.UnixNano(),
		Kind: j.Kind, Actor: j.Actor, Node: j.Node, Group: j.Group, Epoch: j.Epoch, Cause: j.Cause, Detail: j.Detail,
		Hash: j.Hash,
	}
	return nil
}

// line returns v as one line of JSON without its end. Characters that matter
// to HTML stay as they are: the export is for people and for jq.
func line(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
