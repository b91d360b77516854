package transport

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// Causes of a refused hello, to be used with errors.Is on a RefusedError.
var (
	ErrVersionMismatch   = errors.New("protocol version differs")
	ErrClusterMismatch   = errors.New("cluster name differs")
	ErrProfileMismatch   = errors.New("timing profile differs")
	ErrClusterIDMismatch = errors.New("cluster id differs")
	ErrHelloRefused      = errors.New("hello refused") // by CheckHello
)

// refusalCodes gives each cause its number in a refusal frame, from 1.
var refusalCodes = [...]error{ErrVersionMismatch, ErrClusterMismatch, ErrProfileMismatch, ErrClusterIDMismatch, ErrHelloRefused}

// maxText bounds every string of a hello or refusal, in bytes.
const maxText = 255

// RefusedError says that two members do not go together. Both sides get one,
// each with both values from its own point of view.
type RefusedError struct {
	Peer   string
	Remote bool   // the peer refused us, else we refused it
	Ours   string // our value
	Theirs string // the peer's value
	Err    error  // one of the causes above
	Reason string // CheckHello's text; empty for the other causes
}

func (e *RefusedError) Error() string {
	who := "refused " + e.Peer
	if e.Remote {
		who = "refused by " + e.Peer
	}
	if e.Reason != "" {
		return fmt.Sprintf("%s: %s", who, e.Reason)
	}
	return fmt.Sprintf("%s: %v: ours is %s, theirs is %s", who, e.Err, e.Ours, e.Theirs)
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// Hello frame: version u16, channel u8, cluster name, cluster id 16 bytes,
// profile, raft id u64, incarnation u64, members 32 bytes, flags u8 (1
// founded, 2 empty), binary; each text with its length as one byte. Only
// version and channel are common to all versions.
func (h Hello) encode(ch Channel) ([]byte, error) {
	for _, s := range [...]string{h.ClusterName, h.Profile, h.Binary} {
		if len(s) > maxText {
			return nil, fmt.Errorf("encode hello: text of %d bytes, limit %d", len(s), maxText)
		}
	}
	raw := append(binary.BigEndian.AppendUint16(nil, h.Version), byte(ch))
	raw = append(appendText(raw, h.ClusterName), h.ClusterID[:]...)
	raw = appendText(raw, h.Profile)
	raw = binary.BigEndian.AppendUint64(raw, h.RaftID)
	raw = binary.BigEndian.AppendUint64(raw, h.Incarnation)
	raw = append(raw, h.Members[:]...)
	var flags byte
	if h.Founded {
		flags |= 1
	}
	if h.Empty {
		flags |= 2
	}
	return appendText(append(raw, flags), h.Binary), nil
}

// decodeHello reads a hello. Of another version it reads only what all
// versions have in common.
func decodeHello(raw []byte) (Hello, Channel, error) {
	d := decoder{rest: raw}
	h := Hello{Version: d.u16()}
	ch := Channel(d.u8())
	if !d.bad && h.Version != ProtocolVersion {
		return h, ch, nil
	}
	h.ClusterName = d.text()
	h.ClusterID = [16]byte(d.bytes(16))
	h.Profile = d.text()
	h.RaftID, h.Incarnation = d.u64(), d.u64()
	h.Members = [32]byte(d.bytes(32))
	flags := d.u8()
	h.Founded, h.Empty = flags&1 != 0, flags&2 != 0
	h.Binary = d.text()
	if d.bad || len(d.rest) > 0 || flags > 3 {
		return Hello{}, 0, fmt.Errorf("%w: hello of %d bytes", errFrame, len(raw))
	}
	return h, ch, nil
}

func appendText(raw []byte, s string) []byte {
	return append(append(raw, byte(len(s))), s...)
}

func (d *decoder) text() string { return string(d.bytes(int(d.u8()))) }

// compare returns the first thing in which two hellos do not go together.
func (h Hello) compare(theirs Hello, peer string) *RefusedError {
	refuse := func(cause error, a, b string) *RefusedError {
		return &RefusedError{Peer: peer, Ours: a, Theirs: b, Err: cause}
	}
	switch {
	case h.Version != theirs.Version:
		return refuse(ErrVersionMismatch, strconv.Itoa(int(h.Version)), strconv.Itoa(int(theirs.Version)))
	case h.ClusterName != theirs.ClusterName:
		return refuse(ErrClusterMismatch, strconv.Quote(h.ClusterName), strconv.Quote(theirs.ClusterName))
	case h.Profile != theirs.Profile:
		return refuse(ErrProfileMismatch, h.Profile, theirs.Profile)
	case h.ClusterID != theirs.ClusterID && h.ClusterID != [16]byte{} && theirs.ClusterID != [16]byte{}:
		return refuse(ErrClusterIDMismatch, hex.EncodeToString(h.ClusterID[:]), hex.EncodeToString(theirs.ClusterID[:]))
	}
	return nil
}

// Refusal frame: code u8 (1 + index in refusalCodes), then our value, their
// value and reason as texts, all from the point of view of who refuses.
func (e *RefusedError) encode() []byte {
	code := byte(0)
	for i, cause := range refusalCodes {
		if errors.Is(e.Err, cause) {
			code = byte(i + 1)
		}
	}
	raw := []byte{code}
	for _, s := range [...]string{e.Ours, e.Theirs, e.Reason} {
		raw = appendText(raw, s[:min(len(s), maxText)])
	}
	return raw
}

// decodeRefusal reads a refusal and turns it to our point of view.
func decodeRefusal(raw []byte, peer string) error {
	d := decoder{rest: raw}
	code := int(d.u8())
	e := &RefusedError{Peer: peer, Remote: true, Theirs: d.text(), Ours: d.text(), Reason: d.text()}
	if d.bad || len(d.rest) > 0 || code < 1 || code > len(refusalCodes) {
		return fmt.Errorf("%w: refusal of %d bytes", errFrame, len(raw))
	}
	e.Err = refusalCodes[code-1]
	return e
}
