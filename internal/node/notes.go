package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/lease"
)

// notebook keeps the notes that this node knows, to be repeated in its beats
// for 2 P and embedded in the Assign that follows (G5). A note is remembered
// for longer than it is repeated, or members would teach it to each other for
// ever.
type notebook struct {
	cluster [16]byte
	repeat  int64 // ns, 2 P
	entries []noteEntry
}

type noteEntry struct {
	raw     [lease.NoteSize]byte
	note    lease.Note
	learned int64
}

// remember is how many times longer than it is repeated a note is known.
const remember = 16

// maxNotes bounds the notes kept; the oldest goes first.
const maxNotes = 64

var (
	errOtherCluster = errors.New("note of another cluster")
	errUnknownNode  = errors.New("note of an unknown node")
)

// add takes a note off the wire. key finds the pinned key of a raft id, nil
// when there is none. fresh tells whether it was not known yet; only a fresh
// note has its signature checked.
func (n *notebook) add(now int64, raw []byte, key func(uint64) ed25519.PublicKey) (note lease.Note, fresh bool, err error) {
	n.drop(now)
	if len(raw) == lease.NoteSize && slices.ContainsFunc(n.entries, func(e noteEntry) bool { return e.raw == [lease.NoteSize]byte(raw) }) {
		return lease.Note{}, false, nil
	}
	note, err = lease.ParseNote(raw)
	if err != nil {
		return lease.Note{}, false, err
	}
	if note.Cluster != n.cluster {
		return lease.Note{}, false, fmt.Errorf("%w: %x", errOtherCluster, note.Cluster)
	}
	pub := key(note.Node)
	if pub == nil {
		return lease.Note{}, false, fmt.Errorf("%w: %x", errUnknownNode, note.Node)
	}
	if err := lease.VerifyNote(raw, pub); err != nil {
		return lease.Note{}, false, err
	}
	n.put(now, [lease.NoteSize]byte(raw), note)
	return note, true, nil
}

// put keeps a note that needs no check: one of our own.
func (n *notebook) put(now int64, raw [lease.NoteSize]byte, note lease.Note) {
	if len(n.entries) >= maxNotes {
		n.entries = slices.Delete(n.entries, 0, 1)
	}
	n.entries = append(n.entries, noteEntry{raw, note, now})
}

func (n *notebook) drop(now int64) {
	n.entries = slices.DeleteFunc(n.entries, func(e noteEntry) bool { return now > e.learned+remember*n.repeat })
}

// newest returns up to limit notes to repeat, the latest first.
func (n *notebook) newest(now int64, limit int) [][]byte {
	n.drop(now)
	var out [][]byte
	for i := len(n.entries) - 1; i >= 0 && len(out) < limit && now <= n.entries[i].learned+n.repeat; i-- {
		out = append(out, n.entries[i].raw[:])
	}
	return out
}

// about returns the notes that end what a node held of a group, for the
// Assign that follows.
func (n *notebook) about(now int64, node, incarnation uint64, group uint16, epoch uint64) [][]byte {
	n.drop(now)
	var out [][]byte
	for _, e := range n.entries {
		over := e.note.Kind == lease.Over && e.note.Incarnation == incarnation
		release := e.note.Kind == lease.Release && e.note.Group == group && e.note.Epoch == epoch
		if e.note.Node == node && (over || release) {
			out = append(out, e.raw[:])
		}
	}
	return out
}
