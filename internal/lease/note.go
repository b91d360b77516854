package lease

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
)

// NoteKind says what a note ends.
type NoteKind uint8

const (
	// Over ends everything of one incarnation.
	Over NoteKind = 1
	// Release ends one epoch of one group.
	Release NoteKind = 2
)

// String returns "over", "release" or the number.
func (k NoteKind) String() string {
	switch k {
	case Over:
		return "over"
	case Release:
		return "release"
	}
	return fmt.Sprintf("note(%d)", uint8(k))
}

// Note is the word of a node about itself: what it names has ended, the gate
// was closed and read back before the note left (G5).
type Note struct {
	Kind        NoteKind
	Cluster     [16]byte
	Node        uint64 // raft id of the signer
	Incarnation uint64
	Group       uint16 // Release only, else 0
	Epoch       uint64 // Release only, else 0
}

// A note on the wire, big endian. Part of the wire format, never changed:
//
//	0     4      5   6       8         24     32            40      48          112
//	+-----+------+---+-------+---------+------+-------------+-------+-----------+
//	|HFN1 | kind | 0 | group | cluster | node | incarnation | epoch | signature |
//	+-----+------+---+-------+---------+------+-------------+-------+-----------+
//
// The Ed25519 signature covers noteContext and the 48 bytes before it.
const (
	noteMagic   = "HFN1"
	noteContext = "holdfast note v1\x00"
	noteFields  = 48

	// NoteSize is the length of every note in bytes.
	NoteSize = noteFields + ed25519.SignatureSize
)

var (
	// ErrNote means that bytes are not a well-formed note.
	ErrNote = errors.New("not a note")
	// ErrNoteSignature means that a note was not signed by the given key.
	ErrNoteSignature = errors.New("note signature does not match")
)

// Sign encodes and signs n. The key is that of the node named in n. A note
// that [ParseNote] would refuse panics: it could only come from a broken
// caller.
func (n Note) Sign(key ed25519.PrivateKey) [NoteSize]byte {
	if err := n.check(); err != nil {
		panic(fmt.Sprintf("lease: sign %+v: %v", n, err))
	}
	var b [NoteSize]byte
	copy(b[0:4], noteMagic)
	b[4] = byte(n.Kind)
	binary.BigEndian.PutUint16(b[6:8], n.Group)
	copy(b[8:24], n.Cluster[:])
	binary.BigEndian.PutUint64(b[24:32], n.Node)
	binary.BigEndian.PutUint64(b[32:40], n.Incarnation)
	binary.BigEndian.PutUint64(b[40:48], n.Epoch)
	copy(b[noteFields:], ed25519.Sign(key, signedBytes(b[:noteFields])))
	return b
}

// ParseNote decodes exactly [NoteSize] bytes without checking the signature.
// There is one encoding of each note. Errors wrap [ErrNote].
func ParseNote(b []byte) (Note, error) {
	if len(b) != NoteSize {
		return Note{}, fmt.Errorf("%w: %d bytes instead of %d", ErrNote, len(b), NoteSize)
	}
	if string(b[0:4]) != noteMagic {
		return Note{}, fmt.Errorf("%w: magic %x", ErrNote, b[0:4])
	}
	if b[5] != 0 {
		return Note{}, fmt.Errorf("%w: reserved byte %d", ErrNote, b[5])
	}
	n := Note{
		Kind:        NoteKind(b[4]),
		Cluster:     [16]byte(b[8:24]),
		Node:        binary.BigEndian.Uint64(b[24:32]),
		Incarnation: binary.BigEndian.Uint64(b[32:40]),
		Group:       binary.BigEndian.Uint16(b[6:8]),
		Epoch:       binary.BigEndian.Uint64(b[40:48]),
	}
	if err := n.check(); err != nil {
		return Note{}, err
	}
	return n, nil
}

// VerifyNote checks form and signature of an encoded note. The caller gives
// the pinned key of the member that the note names. Errors wrap [ErrNote] or
// [ErrNoteSignature].
func VerifyNote(b []byte, pub ed25519.PublicKey) error {
	if _, err := ParseNote(b); err != nil {
		return err
	}
	if len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: key of %d bytes", ErrNoteSignature, len(pub))
	}
	if !ed25519.Verify(pub, signedBytes(b[:noteFields]), b[noteFields:]) {
		return ErrNoteSignature
	}
	return nil
}

func (n Note) check() error {
	switch {
	case n.Node == 0 || n.Incarnation == 0:
		return fmt.Errorf("%w: node %d, incarnation %d", ErrNote, n.Node, n.Incarnation)
	case n.Kind == Over && (n.Group != 0 || n.Epoch != 0):
		return fmt.Errorf("%w: over names group %d, epoch %d", ErrNote, n.Group, n.Epoch)
	case n.Kind == Release && n.Epoch == 0:
		return fmt.Errorf("%w: release of epoch 0", ErrNote)
	case n.Kind != Over && n.Kind != Release:
		return fmt.Errorf("%w: kind %d", ErrNote, n.Kind)
	}
	return nil
}

// signedBytes prefixes the fields with a context, so that a signature made
// for something else with the same key is never a note.
func signedBytes(fields []byte) []byte {
	return append([]byte(noteContext), fields...)
}
