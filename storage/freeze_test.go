package storage

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-ha/holdfast/storage/kv"
)

// grown returns a state with a little of everything in it.
func grown(t testing.TB, seed uint64, entries int) *State {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	st := NewState(firstConfig())
	for i := range entries {
		op := randomOp(rng, st)
		if i%2 == 0 {
			op = Batch{&kv.Batch{Clock: int64(i), MaxBytes: 1 << 20, Requests: []kv.Request{{
				ID:   "r" + string(rune('a'+i%26)),
				Then: []kv.Op{{Kind: kv.OpPut, Bucket: "tasks", Key: "k" + string(rune('a'+rng.IntN(26))), Value: make([]byte, rng.IntN(100))}},
			}}}}
		}
		if _, err := st.Apply(uint64(i+2), 1, mustEncode(t, op)); err != nil {
			t.Fatal(err)
		}
	}
	return st
}

// Covers S8: a state that is streamed to disk or to a peer comes back as it
// was, and goes on as the original does.
func TestStateStreamsRoundTrip(t *testing.T) {
	for _, entries := range []int{0, 1, 7, 200} {
		a := grown(t, uint64(entries), entries)
		frozen := a.Freeze()
		hash := a.Hash()
		if frozen.Hash() != hash {
			t.Fatal("frozen state has another hash")
		}
		// What happens after the freeze is not in it.
		index, term := a.Applied()
		later := mustEncode(t, Batch{&kv.Batch{Clock: 1 << 40, MaxBytes: 1 << 20, Requests: []kv.Request{{
			Then: []kv.Op{{Kind: kv.OpPut, Bucket: "tasks", Key: "later", Value: []byte("x")}},
		}}}})
		if _, err := a.Apply(index+1, term, later); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := frozen.Encode(&b); err != nil {
			t.Fatal(err)
		}
		got, err := DecodeState(bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatalf("%d entries: %v", entries, err)
		}
		if got.Hash() != hash {
			t.Fatal("decoded state has another hash")
		}
		if _, err := got.Apply(index+1, term, later); err != nil {
			t.Fatal(err)
		}
		if got.Hash() != a.Hash() {
			t.Fatal("decoded state goes on in another way")
		}
	}
}

// Covers S10: no byte of a stream can change unseen.
func TestStateStreamNoticesEveryFlip(t *testing.T) {
	st := grown(t, 3, 40)
	var b bytes.Buffer
	if err := st.Freeze().Encode(&b); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x20
		if got, err := DecodeState(bytes.NewReader(bad)); err == nil && got.Hash() != st.Hash() {
			t.Fatalf("byte %d of %d: another state was taken", i, len(whole))
		} else if err == nil {
			t.Fatalf("byte %d of %d: the flip was not noticed", i, len(whole))
		}
	}
	for n := range len(whole) {
		if _, err := DecodeState(bytes.NewReader(whole[:n])); err == nil {
			t.Fatalf("%d of %d bytes were taken for the whole", n, len(whole))
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	var b bytes.Buffer
	if err := grown(f, 1, 20).Freeze().Encode(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())             // a whole state
	f.Add([]byte(stateMagic))    // nothing behind the magic
	f.Add(b.Bytes()[:b.Len()/2]) // cut in the middle of a section
	f.Fuzz(func(t *testing.T, raw []byte) {
		st, err := DecodeState(bytes.NewReader(raw))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := st.Freeze().Encode(&again); err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeState(&again); err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
	})
}

// Covers C3: copies for a leader's decisions carry neither data nor trail.
func TestCloneControlIgnoresData(t *testing.T) {
	st := grown(t, 5, 10)
	c := st.CloneControl()
	index, term := c.Applied()
	data := mustEncode(t, Batch{&kv.Batch{MaxBytes: 1 << 20, Requests: []kv.Request{{Then: []kv.Op{{Kind: kv.OpPut, Bucket: "tasks", Key: "x"}}}}}})
	if _, err := c.Apply(index+1, term, data); err != nil {
		t.Fatal(err)
	}
	if applied, _ := c.Applied(); applied != index+1 || c.Buckets() != nil || c.Trail() != nil {
		t.Fatal("the copy is not of the control part alone")
	}
	if _, ok := st.Buckets().View().Get("tasks", "x"); ok {
		t.Fatal("the original changed")
	}
}
