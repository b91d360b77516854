package node

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

func notebookOf(t *testing.T) (*notebook, ed25519.PrivateKey, func(uint64) ed25519.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &notebook{cluster: [16]byte{1}, repeat: int64(time.Second)}
	return n, key, func(id uint64) ed25519.PublicKey {
		if id == 7 {
			return pub
		}
		return nil
	}
}

func over(inc uint64) lease.Note {
	return lease.Note{Kind: lease.Over, Cluster: [16]byte{1}, Node: 7, Incarnation: inc}
}

// Covers G5: a note counts only when the node it speaks of has signed it.
func TestNotebookChecksNotes(t *testing.T) {
	n, key, keyOf := notebookOf(t)
	raw := over(1).Sign(key)
	if _, fresh, err := n.add(0, raw[:], keyOf); err != nil || !fresh {
		t.Fatalf("own note: fresh %v, %v", fresh, err)
	}
	if _, fresh, err := n.add(0, raw[:], keyOf); err != nil || fresh {
		t.Fatalf("known note: fresh %v, %v", fresh, err)
	}
	forged := over(2).Sign(key)
	forged[len(forged)-1] ^= 1
	if _, _, err := n.add(0, forged[:], keyOf); !errors.Is(err, lease.ErrNoteSignature) {
		t.Fatalf("forged note: %v", err)
	}
	other := over(2)
	other.Cluster = [16]byte{2}
	raw = other.Sign(key)
	if _, _, err := n.add(0, raw[:], keyOf); !errors.Is(err, errOtherCluster) {
		t.Fatalf("note of another cluster: %v", err)
	}
	unknown := over(2)
	unknown.Node = 8
	raw = unknown.Sign(key)
	if _, _, err := n.add(0, raw[:], keyOf); !errors.Is(err, errUnknownNode) {
		t.Fatalf("note of an unknown node: %v", err)
	}
	if _, _, err := n.add(0, []byte("HFN1"), keyOf); !errors.Is(err, lease.ErrNote) {
		t.Fatalf("a piece of a note: %v", err)
	}
}

// Covers G5: notes are repeated for 2 P, and known for longer: members that
// repeat to each other what they have just forgotten would never end.
func TestNotebookForgetsLaterThanItRepeats(t *testing.T) {
	n, key, keyOf := notebookOf(t)
	raw := over(1).Sign(key)
	if _, _, err := n.add(0, raw[:], keyOf); err != nil {
		t.Fatal(err)
	}
	if got := n.newest(n.repeat, 8); len(got) != 1 {
		t.Fatalf("repeats %d notes", len(got))
	}
	later := n.repeat + 1
	if got := n.newest(later, 8); len(got) != 0 {
		t.Fatalf("repeats %d notes after 2 P", len(got))
	}
	if _, fresh, err := n.add(later, raw[:], keyOf); err != nil || fresh {
		t.Fatalf("a note that is repeated no more is new again: %v, %v", fresh, err)
	}
}

func TestNotebookFindsWhatEndsAnEpoch(t *testing.T) {
	n, key, keyOf := notebookOf(t)
	release := lease.Note{Kind: lease.Release, Cluster: [16]byte{1}, Node: 7, Incarnation: 1, Group: 3, Epoch: 9}
	for _, note := range []lease.Note{over(1), over(2), release} {
		raw := note.Sign(key)
		if _, _, err := n.add(0, raw[:], keyOf); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		node  uint64
		group uint16
		epoch uint64
		want  int
	}{{7, 3, 9, 2}, {7, 3, 8, 1}, {7, 2, 9, 1}, {8, 3, 9, 0}} {
		if got := n.about(0, tc.node, 1, tc.group, tc.epoch); len(got) != tc.want {
			t.Errorf("node %d group %d epoch %d: %d notes, want %d", tc.node, tc.group, tc.epoch, len(got), tc.want)
		}
	}
}

func TestNotebookIsBounded(t *testing.T) {
	n, key, _ := notebookOf(t)
	for i := range uint64(10 * maxNotes) {
		n.put(0, over(i+1).Sign(key), over(i+1))
	}
	if len(n.entries) != maxNotes || n.entries[maxNotes-1].note.Incarnation != 10*maxNotes {
		t.Fatalf("keeps %d notes", len(n.entries))
	}
}
