package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func exported(t *testing.T, trail *Trail, from uint64) string {
	t.Helper()
	var b bytes.Buffer
	if err := trail.Export(&b, from); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestExportIsLinesOfJSON(t *testing.T) {
	trail := NewTrail(0)
	trail.Append(Event{
		Index: 7, Term: 2, At: 1_772_600_767_089_000_000, Kind: "maintenance", Actor: "uid 0 (root)", Node: "gw1",
		Cause: "on", Detail: `<a> & "b"`,
	})
	trail.Append(Event{Index: 9, Term: 2, At: 0, Kind: "assign", Node: "gw2", Group: "default", Epoch: 9})
	lines := strings.SplitAfter(exported(t, trail, 0), "\n")
	first, second := trail.Events(1, 1)[0].Hash, trail.Events(2, 1)[0].Hash
	want := []string{
		`{"anchor":{"seq":0,"hash":"` + strings.Repeat("0", 64) + `"}}`,
		`{"seq":1,"index":7,"term":2,"at":"2026-03-04T05:06:07.089Z","kind":"maintenance","actor":"uid 0 (root)","node":"gw1","cause":"on","detail":"<a> & \"b\"","hash":"` + fmt.Sprintf("%x", first) + `"}`,
		`{"seq":2,"index":9,"term":2,"at":"1970-01-01T00:00:00Z","kind":"assign","node":"gw2","group":"default","epoch":9,"hash":"` + fmt.Sprintf("%x", second) + `"}`,
		`{"head":{"seq":2,"hash":"` + fmt.Sprintf("%x", second) + `"}}`,
		``,
	}
	for i := range want[:4] {
		want[i] += "\n"
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, ""), strings.Join(want, ""))
	}
}

func TestEventJSON(t *testing.T) {
	for _, at := range []int64{0, -1, 1, 1_772_600_767_089_000_000, 1<<63 - 1, -1 << 63} {
		e := sample(3)
		e.At = at
		e = NewTrail(0).Append(e)
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var again Event
		if err := json.Unmarshal(text, &again); err != nil || again != e {
			t.Errorf("at %d: got %v, %v from %s", at, again, err, text)
		}
	}
	for _, bad := range []string{`{}`, `{"at":"yesterday"}`, `{"at":"2026-03-04T05:06:07Z","hash":"12"}`, `{"at":"2026-03-04T05:06:07Z","hash":"` + strings.Repeat("g", 64) + `"}`, `[]`} {
		var e Event
		if err := json.Unmarshal([]byte(bad), &e); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestVerifyExport(t *testing.T) {
	all, kept := filled(200, 0), filled(200, 4096)
	hash := func(seq uint64) Point {
		if seq == 0 {
			return Point{}
		}
		return Point{Seq: seq, Hash: all.Events(seq, 1)[0].Hash}
	}
	for _, test := range []struct {
		name   string
		trail  *Trail
		from   uint64
		anchor uint64
	}{
		{"all", all, 0, 0},
		{"all, said otherwise", all, 1, 0},
		{"a part", all, 150, 149},
		{"the newest", all, 200, 199},
		{"none", all, 201, 200},
		{"far behind", all, 1 << 63, 200},
		{"what is kept", kept, 0, kept.First() - 1},
		{"part of what is kept", kept, 190, 189},
	} {
		want := Summary{Anchor: hash(test.anchor), Head: hash(200), Records: int(200 - test.anchor)}
		got, err := VerifyExport(iotest.HalfReader(strings.NewReader(exported(t, test.trail, test.from))))
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", test.name, got, err, want)
		}
	}
	if got, err := VerifyExport(strings.NewReader(exported(t, NewTrail(0), 0))); err != nil || got != (Summary{}) {
		t.Errorf("empty trail: got %v, %v", got, err)
	}
}

func TestReadExportGivesEvents(t *testing.T) {
	trail := filled(10, 0)
	text := exported(t, trail, 4)
	var got []Event
	collect := func(e Event) error { got = append(got, e); return nil }
	if _, err := ReadExport(strings.NewReader(text), collect); err != nil || !slices.Equal(got, trail.Events(4, 0)) {
		t.Errorf("got %v, %v", got, err)
	}
	got = nil
	bad := strings.Replace(text, `"epoch":106`, `"epoch":107`, 1)
	if _, err := ReadExport(strings.NewReader(bad), collect); err == nil || !slices.Equal(got, trail.Events(4, 3)) {
		t.Errorf("of a changed export: got %v, %v; want what stands before the change", got, err)
	}
	full := errors.New("disk full")
	if _, err := ReadExport(strings.NewReader(text), func(Event) error { return full }); err != full {
		t.Errorf("got %v, want the error of the caller", err)
	}
}

// Covers S15: a record that was changed, removed, moved or repeated is found
// and named.
func TestVerifyExportNamesTheRecord(t *testing.T) {
	good := strings.SplitAfter(strings.TrimSuffix(exported(t, filled(10, 0), 0), "\n"), "\n")
	good[len(good)-1] += "\n"
	replace := func(n int, old, with string) func([]string) []string {
		return func(l []string) []string {
			if !strings.Contains(l[n], old) {
				t.Fatalf("line %d has no %s: %s", n+1, old, l[n])
			}
			l[n] = strings.Replace(l[n], old, with, 1)
			return l
		}
	}
	for _, test := range []struct {
		name string
		do   func(lines []string) []string // lines[n] is record n, line n+1
		seq  uint64
		line int
		what string
	}{
		{"node", replace(4, `"node":"gw1"`, `"node":"gw2"`), 4, 5, "content and hash"},
		{"actor", replace(4, "root", "toor"), 4, 5, "content and hash"},
		{"time", replace(4, "05:06:07", "05:06:08"), 4, 5, "content and hash"},
		{"epoch taken out", replace(4, `"epoch":103,`, ``), 4, 5, "content and hash"},
		{"hash", replace(4, `"hash":"`, `"hash":"00`), 4, 5, "no record"},
		{"number", replace(4, `"seq":4`, `"seq":40`), 4, 5, "its number was changed to 40"},
		{"number, backwards", replace(4, `"seq":4`, `"seq":2`), 4, 5, "its number was changed to 2"},
		{"a blank", replace(4, `"node":`, `"node": `), 4, 5, "not as it was written"},
		{"another field", replace(4, `"node":`, `"nude":`), 4, 5, "content and hash"},
		{"a field twice", replace(4, `"node":"gw1"`, `"node":"gw2","node":"gw1"`), 4, 5, "not as it was written"},
		{"an upper-case name", replace(4, `"node"`, `"Node"`), 4, 5, "not as it was written"},
		{"an unknown field", replace(4, `"node"`, `"more":1,"node"`), 4, 5, "not as it was written"},
		{"time written otherwise", replace(4, `Z","kind"`, `+00:00","kind"`), 4, 5, "not as it was written"},
		{"no JSON", replace(4, `{`, `[`), 4, 5, "no record"},
		{"empty line", func(l []string) []string { l[4] = "\n"; return l }, 4, 5, "no record"},
		{"line without an end", func(l []string) []string { l[4] = strings.TrimSuffix(l[4], "\n"); return l }, 4, 5, "no record"},
		{"endless line", func(l []string) []string { l[4] = strings.Repeat("x", 1<<20) + "\n"; return l }, 4, 5, "does not end"},
		{"removed", func(l []string) []string { return slices.Delete(l, 4, 5) }, 4, 5, "missing: record 5 stands"},
		{"two removed", func(l []string) []string { return slices.Delete(l, 4, 6) }, 4, 5, "missing: record 6 stands"},
		{"newest removed", func(l []string) []string { return slices.Delete(l, 10, 11) }, 10, 11, "missing: the head is record 10"},
		{"first removed", func(l []string) []string { return slices.Delete(l, 1, 2) }, 1, 2, "missing: record 2 stands"},
		{"swapped", func(l []string) []string { l[4], l[5] = l[5], l[4]; return l }, 4, 5, "out of order: record 5 stands in its place, it follows on line 6"},
		{"moved to the end", func(l []string) []string { return append(append(l[:4:4], l[5:11]...), l[4], l[11]) }, 4, 5, "out of order"},
		{"repeated", func(l []string) []string { return slices.Insert(l, 5, l[4]) }, 5, 6, "record 4 is repeated"},
		{"an older one again", func(l []string) []string { return slices.Insert(l, 5, l[2]) }, 5, 6, "record 2 stands in its place"},
		{"head hash", replace(11, `"hash":"`, `"hash":"f`), 11, 12, "no record"},
		{"head number", replace(11, `"seq":10`, `"seq":9`), 10, 12, "the head is record 9"},
		{"head of another", func(l []string) []string {
			_, l[11], _ = strings.Cut(exported(t, filled(11, 0), 12), "\n")
			return l
		}, 11, 12, "missing"},
		{"head with a blank", replace(11, `"seq":`, `"seq": `), 10, 12, "the head is not the one"},
		{"no head", func(l []string) []string { return l[:11] }, 11, 12, "cut off"},
		{"cut in a record", func(l []string) []string { return append(l[:6:6], l[6][:30]) }, 6, 7, "does not end"},
		{"head without an end", func(l []string) []string { l[11] = strings.TrimSuffix(l[11], "\n"); return l }, 11, 12, "does not end"},
		{"something behind the head", func(l []string) []string { return append(l, "\n") }, 11, 13, "behind the head"},
		{"a record behind the head", func(l []string) []string { return append(l, l[4]) }, 11, 13, "behind the head"},
		{"half a line behind the head", func(l []string) []string { return append(l, "x") }, 11, 13, "behind the head"},
		{"nothing", func([]string) []string { return nil }, 1, 1, "empty"},
		{"no anchor", func(l []string) []string { return l[1:] }, 1, 1, "no anchor"},
		{"anchor moved", replace(0, `"seq":0`, `"seq":3`), 4, 2, "stands in its place"},
		{"hash before the first", replace(0, `"hash":"0`, `"hash":"1`), 1, 1, "nothing stands before"},
		{"anchor with a blank", replace(0, `:`, `: `), 1, 1, "no anchor"},
	} {
		bad := strings.Join(test.do(slices.Clone(good)), "")
		_, err := VerifyExport(strings.NewReader(bad))
		var tampered *TamperError
		if !errors.As(err, &tampered) {
			t.Errorf("%s: got %v", test.name, err)
			continue
		}
		if tampered.Seq != test.seq || tampered.Line != test.line || !strings.Contains(tampered.What, test.what) {
			t.Errorf("%s: got %v; want record %d, line %d, %q", test.name, err, test.seq, test.line, test.what)
		}
	}
}

// Every bit of an export counts. The record that is named is the one on the
// line of the change, except for what damage of a line end or of the anchor
// means.
func TestVerifyExportFindsEveryChange(t *testing.T) {
	trail := filled(6, 0)
	for _, from := range []uint64{0, 3} {
		good := exported(t, trail, from)
		anchor := max(from, 1) - 1
		for i := range len(good) {
			for _, bit := range []byte{1, 0x20} {
				bad := []byte(good)
				bad[i] ^= bit
				_, err := VerifyExport(bytes.NewReader(bad))
				var tampered *TamperError
				if !errors.As(err, &tampered) {
					t.Fatalf("from %d: byte %d changed: got %v", from, i, err)
				}
				line := uint64(strings.Count(good[:i], "\n"))
				if want := anchor + line; line > 0 && line < uint64(strings.Count(good, "\n"))-1 && tampered.Seq != want {
					t.Errorf("from %d: byte %d of record %d changed: got %v", from, i, want, err)
				}
			}
		}
		for i := range len(good) {
			if _, err := VerifyExport(strings.NewReader(good[:i])); err == nil {
				t.Errorf("from %d: cut at %d: no error", from, i)
			}
		}
	}
}

// What a rewritten chain cannot hide is that its head is another one.
func TestRewrittenChainHasAnotherHead(t *testing.T) {
	honest, forged := filled(10, 0), NewTrail(0)
	for _, e := range honest.Events(0, 0) {
		if e.Seq == 4 {
			e.Actor = "somebody else"
		}
		forged.Append(e)
	}
	a, err := VerifyExport(strings.NewReader(exported(t, honest, 0)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := VerifyExport(strings.NewReader(exported(t, forged, 0)))
	if err != nil {
		t.Fatal(err)
	}
	if a.Head.Seq != b.Head.Seq || a.Head.Hash == b.Head.Hash {
		t.Errorf("heads are %v and %v", a.Head, b.Head)
	}
}

func TestVerifyExportReportsReadErrors(t *testing.T) {
	broken := errors.New("connection lost")
	good := exported(t, filled(5, 0), 0)
	for i := range len(good) + 1 {
		_, err := VerifyExport(io.MultiReader(strings.NewReader(good[:i]), iotest.ErrReader(broken)))
		var tampered *TamperError
		if !errors.Is(err, broken) || errors.As(err, &tampered) {
			t.Fatalf("after %d bytes: got %v", i, err)
		}
	}
	gap := strings.Replace(good, `"seq":2,`, `"seq":9,`, 1)
	gap = strings.Replace(gap, `"node":"gw2"`, `"node":"gw3"`, 1)
	if _, err := VerifyExport(io.MultiReader(strings.NewReader(gap[:len(gap)-100]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("while looking for a missing record: got %v", err)
	}
}
