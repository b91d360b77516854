package audit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func sample(n int) Event {
	return Event{
		Index: uint64(100 + n), Term: 3, At: 1_772_600_767_089_000_000 + int64(n), Kind: "assign",
		Actor: "uid 0 (root), pid 812", Node: fmt.Sprintf("gw%d", n%3+1), Group: "default", Epoch: uint64(100 + n),
		Cause: "switchover", Detail: "from gw2, epoch 99",
	}
}

// filled returns a trail of n events that keeps maxBytes.
func filled(n, maxBytes int) *Trail {
	t := NewTrail(maxBytes)
	for i := range n {
		t.Append(sample(i))
	}
	return t
}

func encoded(t *testing.T, trail *Trail) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := trail.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The bytes that are hashed are a format: what was anchored elsewhere must
// still match in later versions. Covers S15.
func TestHashOfAKnownEvent(t *testing.T) {
	e := Event{Index: 0x0102, Term: 3, At: -1, Kind: "fence", Actor: "root", Node: "gw1", Group: "", Epoch: 9, Cause: "operator", Detail: "é"}
	want := []byte("\x01" + // version
		"\x00\x00\x00\x00\x00\x00\x00\x01" + // seq
		"\x00\x00\x00\x00\x00\x00\x01\x02" + // index
		"\x00\x00\x00\x00\x00\x00\x00\x03" + // term
		"\xff\xff\xff\xff\xff\xff\xff\xff" + // at
		"\x00\x00\x00\x00\x00\x00\x00\x09" + // epoch
		"\x05fence" + "\x04root" + "\x03gw1" + "\x00" + "\x08operator" + "\x00\x02\xc3\xa9")
	first := sha256.Sum256(append(make([]byte, 32), want...))
	trail := NewTrail(0)
	if got := trail.Append(e); got.Hash != first || got.Seq != 1 {
		t.Fatalf("first event is %d %x, want 1 %x", got.Seq, got.Hash, first)
	}
	want[8] = 2
	second := sha256.Sum256(append(first[:], want...))
	if got := trail.Append(e); got.Hash != second || got.Seq != 2 {
		t.Fatalf("second event is %d %x, want 2 %x", got.Seq, got.Hash, second)
	}
	if seq, head := trail.Head(); seq != 2 || head != second {
		t.Fatalf("head is %d %x, want 2 %x", seq, head, second)
	}
}

func TestEventsComeBackAsAppended(t *testing.T) {
	trail := NewTrail(0)
	var want []Event
	for i := range 20 {
		e := sample(i)
		if i%4 == 0 {
			e.Kind = "fence"
		}
		want = append(want, trail.Append(e))
	}
	equal := func(what string, got, want []Event) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	equal("all", trail.Events(0, 0), want)
	equal("from 5, two", trail.Events(5, 2), want[4:6])
	equal("from the newest", trail.Events(20, 9), want[19:])
	equal("from behind the newest", trail.Events(21, 9), nil)
	equal("from far behind", trail.Events(1<<63, 9), nil)
	equal("last of any kind", trail.Last("", 2), want[18:])
	equal("last fences", trail.Last("fence", 2), []Event{want[12], want[16]})
	equal("more fences than there are", trail.Last("fence", 100), []Event{want[0], want[4], want[8], want[12], want[16]})
	equal("last of no kind", trail.Last("fenc", 1), nil)
	equal("none", trail.Last("", 0), nil)
}

func TestEmptyTrail(t *testing.T) {
	trail := NewTrail(0)
	if seq, head := trail.Head(); seq != 0 || head != [32]byte{} {
		t.Errorf("head is %d %x", seq, head)
	}
	if trail.First() != 1 || trail.Bytes() != 0 || trail.MaxBytes() != DefaultMaxBytes || len(trail.Events(0, 0)) != 0 {
		t.Errorf("first %d, %d bytes of %d", trail.First(), trail.Bytes(), trail.MaxBytes())
	}
	if err := trail.Verify(); err != nil {
		t.Error(err)
	}
	if _, err := Decode(bytes.NewReader(encoded(t, trail))); err != nil {
		t.Error(err)
	}
}

// Texts that are too long or no UTF-8 do not stop a committed command from
// being recorded; they are cut, on all nodes alike.
func TestLongAndInvalidTextsAreCut(t *testing.T) {
	long := strings.Repeat("é", 2000)
	got := NewTrail(0).Append(Event{Kind: long, Actor: "x" + long, Node: long, Group: long, Cause: long, Detail: "x" + long})
	for name, f := range map[string]struct {
		got  string
		want int
	}{
		"kind": {got.Kind, 32}, "actor": {got.Actor, 127}, "node": {got.Node, 128},
		"group": {got.Group, 128}, "cause": {got.Cause, 64}, "detail": {got.Detail, 1023},
	} {
		if len(f.got) != f.want || !utf8.ValidString(f.got) {
			t.Errorf("%s has %d bytes, valid %v; want %d", name, len(f.got), utf8.ValidString(f.got), f.want)
		}
	}
	trail := NewTrail(0)
	if got := trail.Append(Event{Kind: "a\xffb", Detail: strings.Repeat("\xff", 5000)}); got.Kind != "a\uFFFDb" || !utf8.ValidString(got.Detail) {
		t.Errorf("invalid bytes become %q", got.Kind)
	}
	if got := trail.Append(Event{Kind: strings.Repeat("k", 31) + "\xff\xfe"}); len(got.Kind) > MaxKind || !utf8.ValidString(got.Kind) {
		t.Errorf("kind is %q", got.Kind)
	}
	for _, e := range trail.Events(0, 0) {
		if e != e.fit() {
			t.Errorf("%v does not fit after Append", e)
		}
	}
	if err := trail.Verify(); err != nil {
		t.Error(err)
	}
}

// Covers S15: retention drops the oldest and keeps the chain verifiable.
func TestRetentionKeepsTheChain(t *testing.T) {
	const limit = 4096
	small, big := filled(500, limit), filled(500, 0)
	if small.Bytes() > limit || small.Bytes() < limit-maxRecord {
		t.Errorf("%d bytes kept of %d", small.Bytes(), limit)
	}
	seqSmall, headSmall := small.Head()
	seqBig, headBig := big.Head()
	if seqSmall != seqBig || headSmall != headBig {
		t.Errorf("head depends on what was dropped: %d %x, %d %x", seqSmall, headSmall, seqBig, headBig)
	}
	first := small.First()
	if first < 400 || first > 500 {
		t.Errorf("first is %d", first)
	}
	if got, want := small.Events(0, 0), big.Events(first, 0); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	if small.anchor != big.Events(first-1, 1)[0].Hash {
		t.Errorf("anchor is not the hash of the newest event that was dropped")
	}
	if err := small.Verify(); err != nil {
		t.Error(err)
	}
}

func TestNewestEventIsKeptWhateverItsSize(t *testing.T) {
	trail := filled(3, 1)
	if trail.First() != 3 || len(trail.Events(0, 0)) != 1 {
		t.Fatalf("keeps from %d on", trail.First())
	}
	again, err := Decode(bytes.NewReader(encoded(t, trail)))
	if err != nil {
		t.Fatal(err)
	}
	again.Append(sample(3))
	trail.Append(sample(3))
	if a, b := encoded(t, trail), encoded(t, again); !bytes.Equal(a, b) {
		t.Error("the decoded trail goes another way")
	}
}

// A clone is read by other goroutines while the trail goes on; run with -race.
func TestCloneDoesNotChange(t *testing.T) {
	trail := filled(100, 8192)
	var wg sync.WaitGroup
	for range 4 {
		clone := trail.Clone()
		want := encoded(t, clone)
		wg.Go(func() {
			for range 20 {
				var b bytes.Buffer
				if err := errors.Join(clone.Encode(&b), clone.Verify(), clone.Export(io.Discard, 0)); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(b.Bytes(), want) {
					t.Error("clone has changed")
				}
			}
		})
		for i := range 50 {
			trail.Append(sample(i))
		}
	}
	wg.Wait()
}

func TestCloneGoesItsOwnWay(t *testing.T) {
	trail := filled(10, 0)
	clone := trail.Clone()
	clone.Append(Event{Kind: "clone"})
	trail.Append(Event{Kind: "trail"})
	if a, b := trail.Last("", 1)[0].Kind, clone.Last("", 1)[0].Kind; a != "trail" || b != "clone" {
		t.Errorf("newest events are %s and %s", a, b)
	}
	if err := errors.Join(trail.Verify(), clone.Verify()); err != nil {
		t.Error(err)
	}
}

func TestEncodeDecode(t *testing.T) {
	for _, trail := range []*Trail{filled(1, 0), filled(300, 0), filled(300, 4096)} {
		b := encoded(t, trail)
		again, err := Decode(iotest.OneByteReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encoded(t, again), b) || again.Bytes() != trail.Bytes() || again.First() != trail.First() {
			t.Errorf("trail of %d bytes is another one after decoding", trail.Bytes())
		}
	}
}

// Every byte of a stream counts, and every length: none may be changed or
// missing without an error.
func TestDecodeFindsEveryChange(t *testing.T) {
	trail := filled(12, 1024)
	good := encoded(t, trail)
	const sizes = len(streamMagic) // where max bytes stands
	for i := range good {
		if i >= sizes && i < sizes+8 {
			continue // another limit is another trail, not damage; the state hash covers its effect
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if _, err := Decode(bytes.NewReader(bad)); err == nil {
			t.Errorf("byte %d changed: no error", i)
		}
	}
	for i := range good {
		if _, err := Decode(bytes.NewReader(good[:i])); err == nil {
			t.Errorf("cut at %d: no error", i)
		}
	}
	if _, err := Decode(bytes.NewReader(append(bytes.Clone(good), 0))); err == nil {
		t.Error("a byte too many: no error")
	}
}

func TestDecodeNamesTheRecord(t *testing.T) {
	trail := filled(12, 0)
	good := encoded(t, trail)
	bad := bytes.Clone(good)
	copy(bad[bytes.LastIndex(bad, []byte("epoch 99")):], "epoch 98")
	var tampered *TamperError
	if _, err := Decode(bytes.NewReader(bad)); !errors.As(err, &tampered) || tampered.Seq != 12 || !strings.Contains(err.Error(), "record 12") {
		t.Errorf("got %v, want record 12 named", err)
	}
}

func TestDecodeReportsReadErrors(t *testing.T) {
	broken := errors.New("disk gone")
	good := encoded(t, filled(3, 0))
	for _, n := range []int{0, 10, len(good) - 1, len(good)} {
		r := io.MultiReader(bytes.NewReader(good[:n]), iotest.ErrReader(broken))
		if _, err := Decode(r); !errors.Is(err, broken) {
			t.Errorf("read error after %d bytes: got %v", n, err)
		}
	}
	if _, err := Decode(bytes.NewReader(good[:50])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short stream: got %v", err)
	}
}

// A limit that no trail has must not be allocated for.
func TestDecodeRefusesNonsense(t *testing.T) {
	good := encoded(t, filled(3, 0))
	with := func(at int, v string) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	for name, b := range map[string][]byte{
		"no limit":                  with(8, "\x00\x00\x00\x00\x00\x00\x00\x00"),
		"a limit over all limits":   with(8, "\x7f\xff\xff\xff\xff\xff\xff\xff"),
		"more kept than allowed":    with(8, "\x00\x00\x00\x00\x00\x00\x00\x01"),
		"records without the first": with(16, "\x00\x00\x00\x00\x00\x00\x00\x09"),
		"four thousand million":     with(56, "\xff\xff\xff\xff"),
		"no record":                 with(56, "\x00\x00\x00\x00"),
	} {
		if _, err := Decode(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestVerifyFindsEveryChange(t *testing.T) {
	good := filled(10, 0)
	tamper := map[string]struct {
		seq uint64
		do  func(*Trail)
	}{
		"a byte of record 4": {4, func(c *Trail) { c.records[3] = strings.Replace(c.records[3], "gw1", "gw9", 1) }},
		"4 and 5 swapped":    {4, func(c *Trail) { c.records[3], c.records[4] = c.records[4], c.records[3] }},
		"4 twice":            {5, func(c *Trail) { c.records[4] = c.records[3] }},
		"a short record":     {4, func(c *Trail) { c.records[3] = c.records[3][:20] }},
		"anchor":             {1, func(c *Trail) { c.anchor[0]++ }},
		"head":               {10, func(c *Trail) { c.head[0]++ }},
		"bytes":              {10, func(c *Trail) { c.bytes++ }},
	}
	for name, test := range tamper {
		bad := good.Clone()
		bad.records = append([]string(nil), bad.records...)
		test.do(bad)
		var tampered *TamperError
		if err := bad.Verify(); !errors.As(err, &tampered) || tampered.Seq != test.seq {
			t.Errorf("%s: got %v, want record %d named", name, err, test.seq)
		}
	}
	if err := good.Verify(); err != nil {
		t.Error(err)
	}
}

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return w.left, io.ErrShortWrite
	}
	w.left -= len(p)
	return len(p), nil
}

func TestWriteErrorsAreReturned(t *testing.T) {
	trail := filled(2000, 0) // more than the buffer
	for _, n := range []int{0, 65 << 10} {
		if err := trail.Encode(&limitedWriter{n}); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("encode: got %v", err)
		}
		if err := trail.Export(&limitedWriter{n}, 0); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("export: got %v", err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	trail := NewTrail(0)
	e := sample(1)
	b.ReportAllocs()
	for b.Loop() {
		trail.Append(e)
	}
}

func BenchmarkClone(b *testing.B) {
	trail := filled(50_000, 0)
	b.ReportAllocs()
	for b.Loop() {
		trail.Clone()
	}
}

func BenchmarkDecode(b *testing.B) {
	var buf bytes.Buffer
	if err := filled(50_000, 0).Encode(&buf); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(buf.Len()))
	for b.Loop() {
		if _, err := Decode(bytes.NewReader(buf.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}
