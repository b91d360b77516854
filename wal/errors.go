package wal

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt means that bytes which were durable are damaged or missing.
	// The directory must be set aside as evidence, never be written again.
	ErrCorrupt = errors.New("log is corrupt")
	// ErrNoLog means that the directory holds no segment.
	ErrNoLog = errors.New("no log in directory")
	// ErrExists means that Create found a log.
	ErrExists = errors.New("directory holds a log")
	// ErrForeign means that the log is of another cluster or node.
	ErrForeign = errors.New("log of another cluster or node")
	// ErrClosed means that the log was closed.
	ErrClosed = errors.New("log is closed")
	// ErrTooLarge means a payload above Options.MaxPayload. Nothing was
	// written, and the log goes on.
	ErrTooLarge = errors.New("record is larger than the limit")
)

// CorruptError says where a log is damaged. It wraps ErrCorrupt.
type CorruptError struct {
	Segment string // path of the segment file
	Offset  int64  // bytes from the start of that file
	Why     string // what is wrong there
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %s at offset %d: %s", ErrCorrupt, e.Segment, e.Offset, e.Why)
}

// Unwrap returns ErrCorrupt.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// Verdict is what recovery finds (PROTOCOL F3).
type Verdict uint8

// The verdicts. The zero value is none.
const (
	Clean Verdict = iota + 1
	TornTail
	Corrupt
)

func (v Verdict) String() string {
	switch v {
	case Clean:
		return "CLEAN"
	case TornTail:
		return "TORN_TAIL"
	case Corrupt:
		return "CORRUPT"
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}
