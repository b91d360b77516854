package transport

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"runtime"
	"testing"
)

func fullBeat() *Beat {
	return &Beat{
		Flags: FlagLeaderClaim | FlagMaintenance, Health: 3, Incarnation: math.MaxUint64, Sequence: 300, RaftID: 7,
		Term: 4, Config: 5, Applied: 6, Commit: math.MaxUint64,
		Groups:   []GroupReport{{Group: 0, Epoch: 12, State: StateHolding, StateEpoch: 12}, {Group: 65535, Epoch: 1 << 40}},
		Requests: []Request{{Group: 1, Epoch: 12, Config: 5}},
		Acks:     []Ack{{To: 1, Group: 2, Epoch: 3, Incarnation: 4, Sequence: 5}},
		Refusals: []Refusal{{To: 1, Group: 2, Epoch: 3, Highest: 4, Reason: 5}},
		Seen:     []Seen{{Node: 1, Incarnation: 2, Sequence: 3}},
		MACs:     [][6]byte{{2, 0, 0, 0, 0, 1}},
		Notes:    [][]byte{bytes.Repeat([]byte{9}, 111)},
		Orders:   []Order{{To: 1, Group: 2, Epoch: 3, Kind: OrderRelease}},
	}
}

// Covers section 4: what is said arrives unchanged.
func TestBeatRoundTrip(t *testing.T) {
	answer := &Beat{Flags: FlagAnswer, Incarnation: 1, Sequence: 2, Acks: []Ack{{To: 3}}}
	for _, b := range []*Beat{{}, fullBeat(), answer} {
		raw, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) != b.Size() {
			t.Fatalf("Size says %d, encoded %d", b.Size(), len(raw))
		}
		got, err := DecodeBeat(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, b) {
			t.Fatalf("got %+v\nwant %+v", got, b)
		}
	}
}

func TestBeatRefusesWhatItMustNotSay(t *testing.T) {
	cases := map[string]struct {
		beat Beat
		want error
	}{
		"answer that asks":  {Beat{Flags: FlagAnswer, Requests: make([]Request, 1)}, ErrBeatMalformed},
		"unknown flag":      {Beat{Flags: 1 << 7}, ErrBeatMalformed},
		"unknown state":     {Beat{Groups: []GroupReport{{State: stateEnd}}}, ErrBeatMalformed},
		"order of no kind":  {Beat{Orders: make([]Order, 1)}, ErrBeatMalformed},
		"empty note":        {Beat{Notes: [][]byte{{}}}, ErrBeatMalformed},
		"long note":         {Beat{Notes: [][]byte{make([]byte, 256)}}, ErrBeatMalformed},
		"too many groups":   {Beat{Groups: make([]GroupReport, MaxBeatGroups+1)}, ErrBeatTooLarge},
		"too many requests": {Beat{Requests: make([]Request, MaxBeatRequests+1)}, ErrBeatTooLarge},
		"too many acks":     {Beat{Acks: make([]Ack, MaxBeatAcks+1)}, ErrBeatTooLarge},
		"too many refusals": {Beat{Refusals: make([]Refusal, MaxBeatRefusals+1)}, ErrBeatTooLarge},
		"too many seen":     {Beat{Seen: make([]Seen, MaxBeatSeen+1)}, ErrBeatTooLarge},
		"too many MACs":     {Beat{MACs: make([][6]byte, MaxBeatMACs+1)}, ErrBeatTooLarge},
		"too many notes":    {Beat{Notes: make([][]byte, MaxBeatNotes+1)}, ErrBeatTooLarge},
		"too many orders":   {Beat{Orders: make([]Order, MaxBeatOrders+1)}, ErrBeatTooLarge},
		"too many bytes": {Beat{Notes: slicesOf(8, make([]byte, 111)), Acks: make([]Ack, 32)},
			ErrBeatTooLarge},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := c.beat.Encode(); !errors.Is(err, c.want) {
				t.Errorf("Encode: got %v, want %v", err, c.want)
			}
			if raw := c.beat.append(nil); len(raw) <= MaxBeatSize {
				if _, err := DecodeBeat(raw); err == nil {
					t.Error("DecodeBeat took what Encode refuses")
				}
			}
		})
	}
}

func slicesOf(n int, v []byte) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func TestBeatRefusesDamage(t *testing.T) {
	raw, err := fullBeat().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(raw) {
		if _, err := DecodeBeat(raw[:n]); err == nil {
			t.Errorf("took the first %d of %d bytes", n, len(raw))
		}
	}
	if _, err := DecodeBeat(append(bytes.Clone(raw), 0)); err == nil {
		t.Error("took a trailing byte")
	}
	padded := (&Beat{}).append(nil) // sequence 0 as 0x80 0x00: not the shortest form
	padded = append(padded[:19:19], append([]byte{0x80, 0x00}, padded[20:]...)...)
	if _, err := DecodeBeat(padded); err == nil {
		t.Error("took a second encoding of the same number")
	}
}

// A length byte must not make the decoder allocate what is not there.
func TestBeatDecodeAllocatesLittle(t *testing.T) {
	raw := append((&Beat{}).append(nil)[:24:24], MaxBeatGroups)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		if _, err := DecodeBeat(raw); err == nil {
			t.Fatal("took a list that is not there")
		}
	}
	runtime.ReadMemStats(&after)
	if per := (after.TotalAlloc - before.TotalAlloc) / 1000; per > 4096 {
		t.Errorf("one refused beat allocates %d bytes", per)
	}
}

func FuzzBeat(f *testing.F) {
	empty, _ := (&Beat{}).Encode()
	f.Add(empty) // the smallest beat: all lists empty
	full, _ := fullBeat().Encode()
	f.Add(full)               // one entry in every list
	f.Add(full[:len(full)-1]) // cut inside the last list
	f.Add(append(bytes.Clone(full), 1))
	large, _ := (&Beat{Groups: make([]GroupReport, 32), Acks: make([]Ack, 32), Orders: make([]Order, 0)}).Encode()
	f.Add(large)                                               // lists at their limits
	f.Add(append(bytes.Clone(empty[:24]), 255))                // a list longer than its limit
	f.Add(bytes.Repeat([]byte{1, 0x80}, 40))                   // padded uvarints
	f.Add(append([]byte{1}, bytes.Repeat([]byte{255}, 60)...)) // overlong uvarints, unknown flags
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := DecodeBeat(raw)
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil {
			t.Fatalf("decoded but not encodable: %v", err)
		}
		if !bytes.Equal(raw, again) {
			t.Fatalf("two encodings of one beat:\n%x\n%x", raw, again)
		}
	})
}

func BenchmarkBeatCodec(b *testing.B) {
	beat := fullBeat()
	for b.Loop() {
		raw, err := beat.Encode()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeBeat(raw); err != nil {
			b.Fatal(err)
		}
	}
}
