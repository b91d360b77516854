package audit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func drawEvent(t *rapid.T) Event {
	text := rapid.OneOf(
		rapid.StringN(0, 40, 200),
		rapid.SampledFrom([]string{"", "assign", "fence", "\x00", "\u2028<&>", "\xc3", strings.Repeat("\xff", 100) + strings.Repeat("aé", 60), strings.Repeat("é", 700)}),
	)
	return Event{
		Index: rapid.Uint64().Draw(t, "index"), Term: rapid.Uint64().Draw(t, "term"), At: rapid.Int64().Draw(t, "at"),
		Kind: text.Draw(t, "kind"), Actor: text.Draw(t, "actor"), Node: text.Draw(t, "node"), Group: text.Draw(t, "group"),
		Epoch: rapid.Uint64().Draw(t, "epoch"), Cause: text.Draw(t, "cause"), Detail: text.Draw(t, "detail"),
	}
}

// model is a trail that forgets nothing and counts its size anew each time.
type model struct {
	max    int
	events []Event // all that were ever appended
}

func (m *model) append(e Event) {
	for _, f := range e.texts() {
		s := []rune(strings.ToValidUTF8(*f.text, "\uFFFD"))
		for len(string(s)) > f.limit {
			s = s[:len(s)-1]
		}
		*f.text = string(s)
	}
	e.Seq = uint64(len(m.events) + 1)
	e.Hash = [32]byte{}
	if len(m.events) > 0 {
		e.Hash = m.events[len(m.events)-1].Hash
	}
	e.Hash = sha256.Sum256(append(e.Hash[:], appendRecord(nil, e)...))
	m.events = append(m.events, e)
}

// kept returns the newest events that fit, one at least.
func (m *model) kept() []Event {
	size := 0
	for i := len(m.events) - 1; i >= 0; i-- {
		size += len(appendRecord(nil, m.events[i])) + sha256.Size
		if size > m.max && i < len(m.events)-1 {
			return m.events[i+1:]
		}
	}
	return m.events
}

func sameEvents(t *rapid.T, got, want []Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("event %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

// Covers S15: retention, order and chain against a dumb second implementation,
// through encoding and cloning at any point.
func TestTrailModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{max: rapid.IntRange(1, 4000).Draw(t, "max")}
		trail := NewTrail(m.max)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				m.append(drawEvent(t))
				got := trail.Append(m.events[len(m.events)-1])
				sameEvents(t, []Event{got}, m.events[len(m.events)-1:])
			},
			"append several": func(t *rapid.T) {
				for range rapid.IntRange(2, 30).Draw(t, "n") {
					e := Event{Kind: rapid.SampledFrom([]string{"assign", "fence"}).Draw(t, "kind"), Index: uint64(len(m.events))}
					m.append(e)
					trail.Append(e)
				}
			},
			"encode": func(t *rapid.T) {
				var b bytes.Buffer
				if err := trail.Encode(&b); err != nil {
					t.Fatal(err)
				}
				var err error
				if trail, err = Decode(&b); err != nil {
					t.Fatal(err)
				}
			},
			"clone": func(*rapid.T) { trail = trail.Clone() },
			"read": func(t *rapid.T) {
				from := rapid.Uint64Range(0, uint64(len(m.events)+2)).Draw(t, "from")
				limit := rapid.IntRange(1, 20).Draw(t, "limit")
				var want []Event
				for _, e := range m.kept() {
					if e.Seq >= from && len(want) < limit {
						want = append(want, e)
					}
				}
				sameEvents(t, trail.Events(from, limit), want)
				want = nil
				for _, e := range m.kept() {
					if e.Kind == "fence" {
						want = append(want, e)
					}
				}
				sameEvents(t, trail.Last("fence", limit), want[max(0, len(want)-limit):])
			},
			"": func(t *rapid.T) {
				sameEvents(t, trail.Events(0, 0), m.kept())
				if trail.First() != uint64(len(m.events)-len(m.kept())+1) {
					t.Fatalf("first is %d", trail.First())
				}
				if err := trail.Verify(); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

// Two nodes, one of which was filled by a snapshot at any point and so never
// saw what came before, end with the same bytes.
func TestSameEventsSameTrail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 3000).Draw(t, "max")
		events := rapid.SliceOfN(rapid.Custom(drawEvent), 1, 40).Draw(t, "events")
		at := rapid.IntRange(0, len(events)-1).Draw(t, "snapshot at")
		a, b := NewTrail(limit), (*Trail)(nil)
		for i, e := range events {
			if i == at {
				var snapshot bytes.Buffer
				if err := a.Encode(&snapshot); err != nil {
					t.Fatal(err)
				}
				var err error
				if b, err = Decode(&snapshot); err != nil {
					t.Fatal(err)
				}
			}
			a.Append(e)
			if b != nil {
				b.Append(e)
			}
		}
		var ab, bb bytes.Buffer
		if err := errors.Join(a.Encode(&ab), b.Encode(&bb)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ab.Bytes(), bb.Bytes()) {
			t.Fatal("trails differ")
		}
	})
}

// Covers S15: an export verifies from any record on, and no edit of it does.
func TestExportVerifies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trail := NewTrail(rapid.IntRange(1, 4000).Draw(t, "max"))
		for _, e := range rapid.SliceOfN(rapid.Custom(drawEvent), 0, 20).Draw(t, "events") {
			trail.Append(e)
		}
		seq, head := trail.Head()
		from := rapid.Uint64Range(0, seq+2).Draw(t, "from")
		var b bytes.Buffer
		if err := trail.Export(&b, from); err != nil {
			t.Fatal(err)
		}
		kept := trail.Events(from, 0)
		s, err := VerifyExport(bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.Bytes())
		}
		if s.Head != (Point{Seq: seq, Hash: head}) || s.Records != len(kept) || s.Anchor.Seq != seq-uint64(len(kept)) {
			t.Fatalf("summary %+v of %d records", s, len(kept))
		}
		bad := edit(t, b.Bytes())
		if bytes.Equal(bad, b.Bytes()) {
			return
		}
		var tampered *TamperError
		if _, err := VerifyExport(bytes.NewReader(bad)); !errors.As(err, &tampered) {
			t.Fatalf("got %v for\n%s\nfrom\n%s", err, bad, b.Bytes())
		}
	})
}

// edit changes an export by one step that does not compute hashes anew.
func edit(t *rapid.T, b []byte) []byte {
	lines := bytes.SplitAfter(b, []byte("\n"))
	lines = lines[:len(lines)-1]
	line := rapid.IntRange(0, len(lines)-1)
	i, j := line.Draw(t, "line"), line.Draw(t, "other line")
	at := rapid.IntRange(0, len(b)-1).Draw(t, "byte")
	switch rapid.SampledFrom([]string{"flip", "delete byte", "insert byte", "cut", "delete", "swap", "copy", "move"}).Draw(t, "edit") {
	case "flip":
		b = bytes.Clone(b)
		b[at] ^= rapid.ByteRange(1, 255).Draw(t, "bits")
		return b
	case "delete byte":
		return append(bytes.Clone(b[:at]), b[at+1:]...)
	case "insert byte":
		return append(append(bytes.Clone(b[:at]), rapid.Byte().Draw(t, "inserted")), b[at:]...)
	case "cut":
		return b[:at]
	case "delete":
		lines = append(lines[:i:i], lines[i+1:]...)
	case "swap":
		lines[i], lines[j] = lines[j], lines[i]
	case "copy":
		lines = append(lines[:i:i], append([][]byte{lines[j]}, lines[i:]...)...)
	case "move":
		moved := lines[j]
		lines = append(lines[:j:j], lines[j+1:]...)
		i = min(i, len(lines))
		lines = append(lines[:i:i], append([][]byte{moved}, lines[i:]...)...)
	}
	return bytes.Join(lines, nil)
}
