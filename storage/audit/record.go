package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of the texts of an event, in bytes. Longer ones are cut.
const (
	MaxKind   = 32
	MaxActor  = 128
	MaxNode   = 128
	MaxGroup  = 128
	MaxCause  = 64
	MaxDetail = 1024
)

// A record is an event as it is hashed, stored and sent:
//
//	 0      1     9       17     25   33      41
//	+------+-----+-------+------+----+-------+------+-------+------+-------+-------+--------+------+
//	| ver  | seq | index | term | at | epoch | kind | actor | node | group | cause | detail | hash |
//	+------+-----+-------+------+----+-------+------+-------+------+-------+-------+--------+------+
//
// Integers are big-endian. A text is its length and its bytes, valid UTF-8; the
// length has 16 bits before detail and 8 bits elsewhere. hash is the SHA-256 of
// the hash in the record before (zeros before the first) and of all that
// stands before it here. One event has exactly one record.
const (
	recordVersion = 1
	recordFixed   = 1 + 5*8 // bytes before the first text
	recordTexts   = 5 + 2   // bytes of lengths
	minRecord     = recordFixed + recordTexts + sha256.Size
	maxRecord     = minRecord + MaxKind + MaxActor + MaxNode + MaxGroup + MaxCause + MaxDetail
)

var errShort = errors.New("ends too early")

// fit returns e with its texts cut to their limits and made valid UTF-8, as
// JSON could not carry others unchanged.
func (e Event) fit() Event {
	for _, f := range e.texts() {
		*f.text = cut(*f.text, f.limit)
	}
	return e
}

type text struct {
	name  string
	text  *string
	limit int
}

// texts lists the texts in the order of the record.
func (e *Event) texts() [6]text {
	return [6]text{
		{"kind", &e.Kind, MaxKind},
		{"actor", &e.Actor, MaxActor},
		{"node", &e.Node, MaxNode},
		{"group", &e.Group, MaxGroup},
		{"cause", &e.Cause, MaxCause},
		{"detail", &e.Detail, MaxDetail},
	}
}

// cut returns s with what is no UTF-8 replaced, and of that the longest
// beginning of whole characters within limit bytes.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// appendRecord appends the record of e without its hash. The texts of e are
// within their limits.
func appendRecord(b []byte, e Event) []byte {
	b = append(b, recordVersion)
	for _, v := range []uint64{e.Seq, e.Index, e.Term, uint64(e.At), e.Epoch} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	for _, f := range e.texts() {
		if f.limit > 255 {
			b = binary.BigEndian.AppendUint16(b, uint16(len(*f.text)))
		} else {
			b = append(b, uint8(len(*f.text)))
		}
		b = append(b, *f.text...)
	}
	return b
}

// chain returns the hash of a record without hash that follows prev.
func chain(prev [32]byte, record []byte) [32]byte {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(record)
	return [32]byte(h.Sum(nil))
}

// hashOf returns the hash in a record, which has at least minRecord bytes.
func hashOf(record string) [32]byte {
	return [32]byte([]byte(record[len(record)-sha256.Size:]))
}

// follows reports whether the hash of a record is right behind prev.
func follows(prev [32]byte, record string) bool {
	return chain(prev, []byte(record[:len(record)-sha256.Size])) == hashOf(record)
}

// seqOf returns the number in a record, which has at least minRecord bytes.
func seqOf(record string) uint64 { return number(record[1:]) }

// recordKind returns the kind of a valid record.
func recordKind(record string) string {
	n := int(record[recordFixed])
	return record[recordFixed+1 : recordFixed+1+n]
}

func number(s string) uint64 { return binary.BigEndian.Uint64([]byte(s[:8])) }

// decodeRecord parses a record. It does not check the hash, for which the one
// before is needed.
func decodeRecord(record string) (Event, error) {
	var e Event
	if len(record) < minRecord {
		return e, fmt.Errorf("read audit record: %w", errShort)
	}
	if record[0] != recordVersion {
		return e, fmt.Errorf("read audit record: version %d, want %d", record[0], recordVersion)
	}
	e.Seq, e.Index, e.Term = number(record[1:]), number(record[9:]), number(record[17:])
	e.At, e.Epoch = int64(number(record[25:])), number(record[33:])
	e.Hash = hashOf(record)
	rest := record[recordFixed : len(record)-sha256.Size]
	for _, f := range e.texts() {
		var err error
		if *f.text, rest, err = takeText(rest, f.limit); err != nil {
			return Event{}, fmt.Errorf("read audit record: %s: %w", f.name, err)
		}
	}
	if rest != "" {
		return Event{}, fmt.Errorf("read audit record: %d bytes left over", len(rest))
	}
	return e, nil
}

func takeText(b string, limit int) (text, rest string, err error) {
	size := 1
	if limit > 255 {
		size = 2
	}
	if len(b) < size {
		return "", "", errShort
	}
	n := 0
	for _, c := range []byte(b[:size]) {
		n = n<<8 | int(c)
	}
	b = b[size:]
	switch {
	case n > limit:
		return "", "", fmt.Errorf("%d bytes, at most %d allowed", n, limit)
	case n > len(b):
		return "", "", errShort
	case !utf8.ValidString(b[:n]):
		return "", "", errors.New("no valid UTF-8")
	}
	return b[:n], b[n:], nil
}
