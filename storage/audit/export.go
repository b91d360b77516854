package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxLine bounds a line of an export: every byte of the texts escaped as
// \u0000, and what stands between them.
const maxLine = 6*maxRecord + 1024

// changed is what is wrong with a record, for more than one place.
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

// Point is a place in the chain: an event by its number and its hash.
type Point struct {
	Seq  uint64
	Hash [32]byte
}

// Summary is what an export without damage holds.
type Summary struct {
	Anchor  Point // the event before the first one here; zero when that is number 1
	Head    Point // the newest event
	Records int   // events between the two, Head included
}

// Export writes the events from number from on, or from the oldest that is
// kept, as lines of JSON: first the anchor, the event before them, then the
// events, then the head. VerifyExport reads it.
func (t *Trail) Export(w io.Writer, from uint64) error {
	b := bufio.NewWriterSize(w, 64<<10)
	records := t.since(from)
	anchor := Point{Seq: t.seq - uint64(len(records)), Hash: t.anchor}
	if skipped := len(t.records) - len(records); skipped > 0 {
		anchor.Hash = hashOf(t.records[skipped-1])
	}
	if err := writeLine(b, anchorLine{anchor.json()}); err != nil {
		return err
	}
	for _, r := range records {
		if err := writeLine(b, t.event(r).json()); err != nil {
			return err
		}
	}
	if err := writeLine(b, headLine{Point{Seq: t.seq, Hash: t.head}.json()}); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write audit trail: %w", err)
	}
	return nil
}

func writeLine(b *bufio.Writer, v any) error {
	text, err := line(v)
	if err == nil {
		_, err = b.Write(append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write audit trail: %w", err)
	}
	return nil
}

// VerifyExport reads an export to its end and checks every byte of it: the
// chain from the anchor to the head, and that each line is exactly the one
// that Export writes for its event. The error wraps a *TamperError when it is
// not; it is another one when r fails.
//
// That an export is whole does not say that it is the right one: compare the
// head with one from elsewhere.
func VerifyExport(r io.Reader) (Summary, error) { return ReadExport(r, nil) }

// ReadExport does what VerifyExport does and calls each with every event as
// soon as it and all before it have proved to be whole. An error of each ends
// the reading and is returned as it is.
func ReadExport(r io.Reader, each func(Event) error) (Summary, error) {
	c := &checker{in: bufio.NewReaderSize(r, maxLine), each: each}
	if err := c.run(); err != nil {
		return Summary{}, err
	}
	return Summary{Anchor: c.anchor, Head: c.at, Records: int(c.at.Seq - c.anchor.Seq)}, nil
}

// checker walks an export.
type checker struct {
	in     *bufio.Reader
	line   int    // that was read last, counted from 1
	anchor Point  // from the first line
	at     Point  // last event that is in order
	last   []byte // its line
	each   func(Event) error
}

func (c *checker) run() error {
	text, err := c.next()
	if err != nil {
		return c.readError(err, "the export is empty")
	}
	if err := c.readAnchor(text); err != nil {
		return err
	}
	for {
		text, err := c.next()
		if err != nil {
			return c.readError(err, "cut off: no head follows")
		}
		var h headLine
		if bytes.HasPrefix(text, []byte(`{"head":`)) && json.Unmarshal(text, &h) == nil && h.Head != nil {
			return c.readHead(text, h.Head.point())
		}
		if err := c.readEvent(text); err != nil {
			return err
		}
	}
}

// next returns the next line without its end. It stays valid until the call
// after. The error is io.EOF when nothing is left and errCut for a line that
// does not end or is too long.
func (c *checker) next() ([]byte, error) {
	c.line++
	text, err := c.in.ReadSlice('\n')
	switch {
	case err == nil:
		return text[:len(text)-1], nil
	case errors.Is(err, bufio.ErrBufferFull), errors.Is(err, io.EOF) && len(text) > 0:
		return nil, errCut
	}
	return nil, err
}

var errCut = errors.New("line does not end")

// readError turns the end of the export into what it means for the next
// record.
func (c *checker) readError(err error, atEOF string) error {
	switch {
	case errors.Is(err, io.EOF):
		return c.tampered(atEOF)
	case errors.Is(err, errCut):
		return c.tampered(fmt.Sprintf("the line does not end within %d bytes", maxLine))
	}
	return fmt.Errorf("read audit export: %w", err)
}

// tampered names the record that should have come.
func (c *checker) tampered(what string) error {
	return &TamperError{Seq: c.at.Seq + 1, Line: c.line, What: what}
}

func (c *checker) readAnchor(text []byte) error {
	var a anchorLine
	if json.Unmarshal(text, &a) != nil || a.Anchor == nil || !same(text, a) {
		return c.tampered("the first line is no anchor as it was written")
	}
	c.anchor = a.Anchor.point()
	c.at = c.anchor
	if c.anchor.Seq == 0 && c.anchor.Hash != [32]byte{} {
		return c.tampered("the anchor has a hash though nothing stands before it")
	}
	return nil
}

func (c *checker) readHead(text []byte, head Point) error {
	switch {
	case head.Seq > c.at.Seq:
		return c.tampered(fmt.Sprintf("missing: the head is record %d", head.Seq))
	case head.Seq < c.at.Seq:
		return &TamperError{Seq: c.at.Seq, Line: c.line, What: fmt.Sprintf("the head is record %d, before it", head.Seq)}
	case head.Hash != c.at.Hash, !same(text, headLine{head.json()}):
		return &TamperError{Seq: c.at.Seq, Line: c.line, What: "the head is not the one of this record"}
	}
	switch _, err := c.next(); {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil, errors.Is(err, errCut):
		return c.tampered("something stands behind the head")
	default:
		return fmt.Errorf("read audit export: %w", err)
	}
}

func (c *checker) readEvent(text []byte) error {
	var e Event
	if err := json.Unmarshal(text, &e); err != nil {
		return c.tampered("no record: " + err.Error())
	}
	if e.Seq != c.at.Seq+1 {
		return c.misplaced(e, text)
	}
	if e != e.fit() || e.hash(c.at.Hash) != e.Hash {
		return c.tampered(changed)
	}
	if !same(text, e.json()) {
		return c.tampered("the line is not as it was written, though it says the same")
	}
	c.at = Point{Seq: e.Seq, Hash: e.Hash}
	c.last = append(c.last[:0], text...)
	if c.each != nil {
		return c.each(e)
	}
	return nil
}

// misplaced says what an event means that is not the next one.
func (c *checker) misplaced(e Event, text []byte) error {
	want := c.at.Seq + 1
	renumbered := e
	renumbered.Seq = want
	if renumbered == renumbered.fit() && renumbered.hash(c.at.Hash) == e.Hash {
		return c.tampered(fmt.Sprintf("its number was changed to %d", e.Seq))
	}
	if e.Seq < want {
		what := fmt.Sprintf("record %d stands in its place", e.Seq)
		if bytes.Equal(text, c.last) {
			what = fmt.Sprintf("record %d is repeated in its place", e.Seq)
		}
		return c.tampered(what)
	}
	at := c.line
	later, err := c.find(want)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("missing: record %d stands in its place", e.Seq)
	if later > 0 {
		what = fmt.Sprintf("out of order: record %d stands in its place, it follows on line %d", e.Seq, later)
	}
	return &TamperError{Seq: want, Line: at, What: what}
}

// find returns the line of a record in the rest of the export, 0 for none.
func (c *checker) find(seq uint64) (line int, err error) {
	for {
		text, err := c.next()
		if errors.Is(err, io.EOF) || errors.Is(err, errCut) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read audit export: %w", err)
		}
		var e struct {
			Seq uint64 `json:"seq"`
		}
		if json.Unmarshal(text, &e) == nil && e.Seq == seq {
			return c.line, nil
		}
	}
}

// hash returns the hash of e behind prev. The texts of e fit.
func (e Event) hash(prev [32]byte) [32]byte { return chain(prev, appendRecord(nil, e)) }

// same reports whether text is v as it is written, byte for byte: JSON has
// many ways to say one thing, and a change that says the same is a change too.
func same(text []byte, v any) bool {
	want, err := line(v)
	return err == nil && bytes.Equal(text, want)
}
