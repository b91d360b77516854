package audit

import (
	"bytes"
	"strings"
	"testing"
)

func FuzzDecodeRecord(f *testing.F) {
	f.Add(NewTrail(0).record(Event{}))                                     // the shortest
	f.Add(NewTrail(0).record(sample(1)))                                   // every field filled
	f.Add(NewTrail(0).record(Event{Detail: strings.Repeat("d", 2000)}))    // longest text
	f.Add(NewTrail(0).record(sample(1))[:60])                              // cut
	f.Add(strings.Replace(NewTrail(0).record(sample(1)), "gw", "\xff", 1)) // no UTF-8
	f.Fuzz(func(t *testing.T, record string) {
		e, err := decodeRecord(record)
		if err != nil {
			return
		}
		if e != e.fit() {
			t.Fatalf("%v is decoded but does not fit", e)
		}
		if again := string(append(appendRecord(nil, e), e.Hash[:]...)); again != record {
			t.Fatalf("%q encodes as %q", record, again)
		}
	})
}

// record returns the record of e as the next one of t.
func (t *Trail) record(e Event) string {
	t.Append(e)
	return t.records[len(t.records)-1]
}

func FuzzDecode(f *testing.F) {
	for _, trail := range []*Trail{
		NewTrail(0),       // empty
		filled(3, 0),      // whole
		filled(100, 1024), // with an anchor
		filled(3, 1),      // one record over the limit
	} {
		var b bytes.Buffer
		if err := trail.Encode(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()-1])
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		trail, err := Decode(bytes.NewReader(stream))
		if err != nil {
			return
		}
		if err := trail.Verify(); err != nil {
			t.Fatalf("decoded but %v", err)
		}
		if again := encoded(t, trail); !bytes.Equal(again, stream) {
			t.Fatalf("%q encodes as %q", stream, again)
		}
		trail.Append(sample(1))
		if err := trail.Verify(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzVerifyExport(f *testing.F) {
	for _, trail := range []*Trail{
		NewTrail(0),       // anchor and head only
		filled(3, 0),      // whole
		filled(100, 1024), // with an anchor
	} {
		for _, from := range []uint64{0, 2} {
			var b bytes.Buffer
			if err := trail.Export(&b, from); err != nil {
				f.Fatal(err)
			}
			f.Add(b.String())
			f.Add(b.String()[:b.Len()/2]) // cut
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := VerifyExport(strings.NewReader(text))
		if err != nil {
			return
		}
		// Whatever is accepted is what a trail with these records writes.
		trail := &Trail{max: maxTrailBytes, seq: s.Anchor.Seq, head: s.Anchor.Hash, anchor: s.Anchor.Hash}
		lines := strings.Split(text, "\n")
		for _, l := range lines[1 : len(lines)-2] {
			var e Event
			if err := e.UnmarshalJSON([]byte(l)); err != nil {
				t.Fatal(err)
			}
			trail.push(string(append(appendRecord(nil, e), e.Hash[:]...)))
		}
		if again := exported(t, trail, 0); again != text {
			t.Fatalf("%q is accepted, written as %q", text, again)
		}
		if err := trail.Verify(); err != nil {
			t.Fatal(err)
		}
	})
}
