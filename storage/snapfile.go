package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// A snapshot file; numbers are big-endian, checksums CRC-32C. See
// docs/snapshot-format.md.
//
//	| header 4096 | block | block | ... | end 8 | SHA-256 of all before 32 |
//	header  magic "HFSNAPSH", version u16, zero u16, header bytes u32,
//	        cluster [16], index, term, state hash [32], voters, learners,
//	        outgoing (u16 count, ids), zero up to 4092, checksum u32
//	block   length u32, checksum u32, data: 64 KiB, in the last one less
//	end     a block of length 0
//
// The checksum of a block covers the checksum of the header, its offset in the
// file, its length and its data, so no block passes for another.
const (
	snapMagic   = "HFSNAPSH"
	snapVersion = 1
	snapHeader  = 4096
	snapBlock   = 64 << 10
	blockHead   = 8
	snapFooter  = sha256.Size
	minSnapshot = snapHeader + blockHead + snapFooter
)

func encodeSnapHeader(m *SnapshotMeta) []byte {
	e := &encoder{b: make([]byte, 0, snapHeader)}
	e.raw([]byte(snapMagic))
	e.u16(snapVersion)
	e.u16(0)
	e.u32(snapHeader)
	m.encodeState(e)
	b := e.b[:snapHeader] // three lists of 126 ids leave room
	binary.BigEndian.PutUint32(b[snapHeader-4:], crc32.Checksum(b[:snapHeader-4], castagnoli))
	return b
}

// decodeSnapHeader reads a header of snapHeader bytes; the error says what is
// wrong with it.
func decodeSnapHeader(b []byte) (SnapshotMeta, uint32, error) {
	crc := binary.BigEndian.Uint32(b[snapHeader-4:])
	if got := crc32.Checksum(b[:snapHeader-4], castagnoli); got != crc {
		return SnapshotMeta{}, 0, fmt.Errorf("header checksum %08x, computed %08x", crc, got)
	}
	d := &decoder{b: b}
	if magic := d.take(len(snapMagic)); string(magic) != snapMagic {
		return SnapshotMeta{}, 0, fmt.Errorf("magic %q", magic)
	}
	if v := d.u16(); v != snapVersion {
		return SnapshotMeta{}, 0, fmt.Errorf("format version %d, this program knows %d", v, snapVersion)
	}
	d.take(6)
	var m SnapshotMeta
	if m.decodeState(d); d.err != nil {
		return SnapshotMeta{}, 0, fmt.Errorf("header: %w", d.err)
	}
	if string(encodeSnapHeader(&m)) != string(b) {
		return SnapshotMeta{}, 0, errors.New("reserved bytes of the header are wrong")
	}
	return m, crc, nil
}

// blockSum is the checksum of a block at offset; b is its length and, behind
// the place of the checksum, its data.
func blockSum(header uint32, offset int64, b []byte) uint32 {
	var at [12]byte
	binary.BigEndian.PutUint32(at[:], header)
	binary.BigEndian.PutUint64(at[4:], uint64(offset))
	crc := crc32.Update(crc32.Checksum(at[:], castagnoli), castagnoli, b[:4])
	return crc32.Update(crc, castagnoli, b[blockHead:])
}

// snapWriter writes the file; what is written into it becomes the blocks. It
// is pure but for out.
type snapWriter struct {
	out    io.Writer
	header uint32 // checksum
	offset int64  // of the next block
	block  []byte
	sum    hash.Hash
}

func newSnapWriter(out io.Writer, m *SnapshotMeta) (*snapWriter, error) {
	w := &snapWriter{out: out, sum: sha256.New(), block: make([]byte, blockHead, blockHead+snapBlock)}
	b := encodeSnapHeader(m)
	w.header = binary.BigEndian.Uint32(b[snapHeader-4:])
	return w, w.put(b)
}

func (w *snapWriter) put(b []byte) error {
	w.sum.Write(b)
	w.offset += int64(len(b))
	_, err := w.out.Write(b)
	return err
}

// Write adds data.
func (w *snapWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(blockHead+snapBlock-len(w.block), len(p))
		w.block = append(w.block, p[:k]...)
		p = p[k:]
		if len(w.block) == blockHead+snapBlock {
			if err := w.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

func (w *snapWriter) flush() error {
	binary.BigEndian.PutUint32(w.block, uint32(len(w.block)-blockHead))
	binary.BigEndian.PutUint32(w.block[4:], blockSum(w.header, w.offset, w.block))
	err := w.put(w.block)
	w.block = w.block[:blockHead]
	return err
}

// end writes what ends the file, and returns its size and sum.
func (w *snapWriter) end() (int64, [32]byte, error) {
	if len(w.block) > blockHead {
		if err := w.flush(); err != nil {
			return 0, [32]byte{}, err
		}
	}
	if err := w.flush(); err != nil {
		return 0, [32]byte{}, err
	}
	sum := [32]byte(w.sum.Sum(nil))
	_, err := w.out.Write(sum[:])
	return w.offset + snapFooter, sum, err
}

// snapCheck is given the bytes of a snapshot file in order and finds what is
// wrong with them as soon as it can be known. It is pure.
//
// Invariant: good <= pos; every byte before good is part of a piece (header,
// block) that is right.
type snapCheck struct {
	name string
	data func([]byte) error // gets the data of each block; may be nil
	sum  hash.Hash          // nil to leave the sum out

	meta   SnapshotMeta // of the header; Size and Sum once done
	header uint32
	good   int64
	buf    []byte // the bytes from good on that are there
	need   int    // length of the piece at good, as far as it is known
	first  int    // what need was before any of the piece was there
	short  bool   // the last block was not full
	ended  bool   // the end was there
	done   bool   // the footer was there
	bad    error
}

func newSnapCheck(name string, data func([]byte) error) *snapCheck {
	return &snapCheck{name: name, data: data, sum: sha256.New(), need: snapHeader, first: snapHeader}
}

// pos is the number of bytes that were taken.
func (c *snapCheck) pos() int64 { return c.good + int64(len(c.buf)) }

func (c *snapCheck) damaged(format string, args ...any) error {
	return &SnapshotError{File: c.name, Offset: c.good, Why: fmt.Sprintf(format, args...)}
}

// Write takes the next bytes. Its first error stays.
func (c *snapCheck) Write(p []byte) (int, error) {
	n := len(p)
	for c.bad == nil && len(p) > 0 {
		if c.done {
			c.bad = c.damaged("bytes behind the end")
			break
		}
		k := min(c.need-len(c.buf), len(p))
		c.buf = append(c.buf, p[:k]...)
		p = p[k:]
		if len(c.buf) == c.need {
			c.bad = c.piece()
		}
	}
	return n - len(p), c.bad
}

// piece looks at a piece that is whole, or at the head of a block.
func (c *snapCheck) piece() error {
	switch {
	case c.good == 0:
		meta, crc, err := decodeSnapHeader(c.buf)
		if err != nil {
			return c.damaged("%v", err)
		}
		c.meta, c.header = meta, crc
		c.accept(blockHead)
		return nil
	case c.ended:
		if c.sum != nil {
			c.meta.Sum = [32]byte(c.sum.Sum(nil))
			if string(c.meta.Sum[:]) != string(c.buf) {
				return c.damaged("sum %x, computed %x", c.buf, c.meta.Sum)
			}
		}
		c.done = true
		c.sum = nil // the footer is not part of it
		c.accept(0)
		c.meta.Size = c.good
		return nil
	}
	length := binary.BigEndian.Uint32(c.buf)
	if length > snapBlock || c.short && length > 0 {
		return c.damaged("block of %d bytes", length)
	}
	if c.need = blockHead + int(length); len(c.buf) < c.need {
		return nil
	}
	if want, got := binary.BigEndian.Uint32(c.buf[4:]), blockSum(c.header, c.good, c.buf); got != want {
		return c.damaged("block checksum %08x, computed %08x", want, got)
	}
	if c.data != nil && length > 0 {
		if err := c.data(c.buf[blockHead:]); err != nil {
			return err
		}
	}
	c.short, c.ended = length < snapBlock, length == 0
	next := blockHead
	if c.ended {
		next = snapFooter
	}
	c.accept(next)
	return nil
}

// accept goes on to the next piece, of which need bytes come first.
func (c *snapCheck) accept(need int) {
	if c.sum != nil {
		c.sum.Write(c.buf)
	}
	c.good += int64(len(c.buf))
	c.buf, c.need, c.first = c.buf[:0], need, need
}

// rewind forgets what came after good, right or wrong.
func (c *snapCheck) rewind() {
	c.buf, c.need, c.bad = c.buf[:0], c.first, nil
}

// end tells whether the file was complete.
func (c *snapCheck) end() error {
	if c.bad == nil && !c.done {
		c.bad = c.damaged("file ends after %d bytes", c.pos())
	}
	return c.bad
}

// snapReader gives the data of a snapshot file, each block checked before any
// of it is given. After io.EOF the whole file was right.
type snapReader struct {
	file  io.ReaderAt
	check *snapCheck
	pace  func(bytes int) error // may be nil; its error ends the reading
	raw   []byte
	store []byte // checked
	data  []byte // rest of store, not yet given
	end   bool
	// failed is the error of the file, which a decoder may wrap or hide.
	failed error
}

func newSnapReader(name string, file io.ReaderAt, pace func(int) error) *snapReader {
	r := &snapReader{file: file, pace: pace, raw: make([]byte, 256<<10)}
	r.check = newSnapCheck(name, func(b []byte) error { r.store = append(r.store, b...); return nil })
	return r
}

// Read implements io.Reader.
func (r *snapReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.data) == 0 {
		if r.end {
			return 0, io.EOF
		}
		if r.failed == nil {
			r.failed = r.more()
		}
		if r.failed != nil {
			return 0, r.failed
		}
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

func (r *snapReader) more() error {
	if r.pace != nil {
		if err := r.pace(len(r.raw)); err != nil {
			return err
		}
	}
	r.store, r.data = r.store[:0], nil
	at := r.check.pos()
	n, err := r.file.ReadAt(r.raw, at)
	switch {
	case errors.Is(err, io.EOF):
		r.end = true
	case vfs.Unreadable(err):
		return r.check.damaged("cannot be read: %v", err)
	case err != nil:
		return fmt.Errorf("read snapshot %s: %w", r.check.name, err)
	}
	if _, err := r.check.Write(r.raw[:n]); err != nil {
		return err
	}
	r.data = r.store
	if r.end {
		return r.check.end()
	}
	return nil
}

// rest reads to the end, whatever the data, and returns what the file is of.
func (r *snapReader) rest() (SnapshotMeta, error) {
	for {
		if r.end {
			return r.check.meta, nil
		}
		if err := r.more(); err != nil {
			return SnapshotMeta{}, err
		}
	}
}
