package audit

import (
	"errors"
	"fmt"
	"io"
)

const changed = "content and hash do not belong together"

// TamperError names the record at which a chain is broken: all before it are
// as they were appended.
type TamperError struct {
	Seq  uint64 // of the record
	Line int    // of the export, counted from 1; 0 outside of one
	What string // what is wrong with it
}

func (e *TamperError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("audit record %d: %s", e.Seq, e.What)
	}
	return fmt.Sprintf("audit record %d (line %d): %s", e.Seq, e.Line, e.What)
}

// Point is a place in the chain.
type Point struct {
	Seq  uint64
	Hash [32]byte
}

// Summary is what a whole export holds.
type Summary struct {
	Anchor  Point // the event before the first in the export; zero when that is number 1
	Head    Point // the newest event
	Records int
}

// Export writes the events from number from on, or from the oldest that is
// kept.
func (t *Trail) Export(w io.Writer, from uint64) error {
	return errors.ErrUnsupported
}

// VerifyExport checks an export.
func VerifyExport(r io.Reader) (Summary, error) {
	return Summary{}, errors.ErrUnsupported
}
