package lease

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func testKey(seed byte) (ed25519.PublicKey, ed25519.PrivateKey) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	return key.Public().(ed25519.PublicKey), key
}

func testNotes() []Note {
	cluster := [16]byte{1, 2, 3, 15: 16}
	return []Note{
		{Kind: Over, Cluster: cluster, Node: 7, Incarnation: 70},
		{Kind: Release, Cluster: cluster, Node: 7, Incarnation: 70, Group: 3, Epoch: 12},
		{Kind: Release, Node: ^uint64(0), Incarnation: ^uint64(0), Group: ^uint16(0), Epoch: ^uint64(0)},
	}
}

// Covers G5: notes are signed by the node they speak of.
func TestG5NoteRoundTrip(t *testing.T) {
	pub, key := testKey(1)
	other, _ := testKey(2)
	for _, n := range testNotes() {
		b := n.Sign(key)
		got, err := ParseNote(b[:])
		if err != nil || got != n {
			t.Fatalf("parsed %+v, %v; want %+v", got, err, n)
		}
		if err := VerifyNote(b[:], pub); err != nil {
			t.Errorf("%+v: %v", n, err)
		}
		if err := VerifyNote(b[:], other); !errors.Is(err, ErrNoteSignature) {
			t.Errorf("another node's key: %v", err)
		}
		if err := VerifyNote(b[:], pub[:8]); !errors.Is(err, ErrNoteSignature) {
			t.Errorf("a short key: %v", err)
		}
		for i := range b {
			bad := b
			bad[i] ^= 1
			if VerifyNote(bad[:], pub) == nil {
				t.Errorf("%+v verifies with byte %d changed", n, i)
			}
		}
	}
}

func TestG5NoteRefusals(t *testing.T) {
	_, key := testKey(1)
	over := testNotes()[0].Sign(key)
	release := testNotes()[1].Sign(key)
	change := func(b [NoteSize]byte, at int, v byte) []byte { b[at] = v; return b[:] }
	zero := func(b [NoteSize]byte, from, to int) []byte { clear(b[from:to]); return b[:] }
	for name, b := range map[string][]byte{
		"empty":                  nil,
		"short":                  over[:NoteSize-1],
		"long":                   append(over[:], 0),
		"magic":                  change(over, 3, '2'),
		"kind 0":                 change(over, 4, 0),
		"kind 3":                 change(over, 4, 3),
		"reserved":               change(over, 5, 1),
		"over with group":        change(over, 7, 1),
		"over with epoch":        change(over, 47, 1),
		"release of epoch 0":     zero(release, 40, 48),
		"no node":                zero(over, 24, 32),
		"no incarnation":         zero(over, 32, 40),
		"release to over (kind)": change(release, 4, byte(Over)),
	} {
		if n, err := ParseNote(b); !errors.Is(err, ErrNote) {
			t.Errorf("%s: parsed %+v, %v", name, n, err)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a note of epoch 0 was signed")
		}
	}()
	Note{Kind: Release, Node: 1, Incarnation: 1}.Sign(key)
}

func TestNoteSizeIsFixed(t *testing.T) {
	if NoteSize != 112 {
		t.Fatalf("a note has %d bytes; the wire format says 112", NoteSize)
	}
}

func FuzzParseNote(f *testing.F) {
	pub, key := testKey(1)
	for _, n := range testNotes() {
		b := n.Sign(key)
		f.Add(b[:]) // every kind, smallest and largest fields
	}
	f.Add([]byte(noteMagic)) // magic only
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseNote(b)
		if err != nil {
			if VerifyNote(b, pub) == nil {
				t.Fatal("verifies but does not parse")
			}
			return
		}
		if again := n.Sign(key); !bytes.Equal(again[:noteFields], b[:noteFields]) {
			t.Fatalf("%+v has two encodings", n)
		}
	})
}

func TestNoteEncodingIsOneToOne(t *testing.T) {
	_, key := testKey(1)
	rapid.Check(t, func(t *rapid.T) {
		n := Note{
			Kind: Release, Node: rapid.Uint64Min(1).Draw(t, "node"),
			Incarnation: rapid.Uint64Min(1).Draw(t, "incarnation"),
			Group:       rapid.Uint16().Draw(t, "group"), Epoch: rapid.Uint64Min(1).Draw(t, "epoch"),
		}
		b := n.Sign(key)
		if got, err := ParseNote(b[:]); err != nil || got != n {
			t.Fatalf("parsed %+v, %v; want %+v", got, err, n)
		}
	})
}
