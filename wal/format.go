package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// All numbers are little-endian; every checksum is CRC-32C (Castagnoli). The
// constants below are the format: changing one makes another version.
//
//	segment   | header 4096 | batch | batch | ... | seal | stale or zero |
//	batch     | sector | sector | ...  a multiple of 8 sectors
//	sector    | data 508 | tag 4 |
//	data of a batch, tags left out:
//	          | batch frame 48 | frame 48 | payload, padded to 8 | frame ... | zero |
const (
	version = 1

	headerBytes = 4096 // of a segment
	blockBytes  = 4096 // what a batch is padded to
	sectorBytes = 512
	tagBytes    = 4
	sectorData  = sectorBytes - tagBytes
	blockData   = blockBytes / sectorBytes * sectorData // 4064, a multiple of 8
	frameBytes  = 48
	alignBytes  = 8 // of frames within the data of a batch

	// sealBytes is kept free at the end of each segment for its seal.
	sealBytes = blockBytes

	minSegmentBytes = 32 << 10
	maxSegmentBytes = 256 << 20

	segmentSuffix = ".wal"
	tempSuffix    = ".tmp"
)

// Types of record that belong to the log. Types of callers end at MaxType.
const (
	// MaxType is the highest type that a caller may use; the lowest is 1.
	MaxType uint8 = 0xEF
	// TypeTruncate voids the records before it whose index is Index or above.
	// Replay gives it to the caller, who applies it.
	TypeTruncate uint8 = 0xFF
	// TypeBatch heads a batch: Index is its number. Only Inspect shows it.
	TypeBatch uint8 = 0xFE
	// TypeSeal ends a segment: Index is the sequence of the next one, Term its
	// salt, the payload the checksum of its header. Only Inspect shows it.
	TypeSeal uint8 = 0xFD
	// TypeRelease says that segments below sequence Index are no longer part
	// of the log. Only Inspect shows it.
	TypeRelease uint8 = 0xFC
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// addWord is the checksum of what has crc, followed by a number in its eight
// bytes. crc32.Update does the same for a slice, which it moves to the heap:
// that costs more than the sum, and there is one for each sector and record.
func addWord(crc uint32, number uint64) uint32 {
	crc = ^crc
	for range 8 {
		crc = castagnoli[byte(crc)^byte(number)] ^ crc>>8
		number >>= 8
	}
	return ^crc
}

// header is the first block of a segment.
//
//	 0 magic "HFWALSEG"   40 sequence      80 salt of the previous segment
//	 8 version u16        48 base index    88 end of its batches, seal left out
//	10 zero               56 oldest        96 checksum of its last batch frame
//	12 header bytes u32   64 salt         100 zero
//	16 cluster [16]byte   72 file bytes   104 number of the first batch
//	32 node                               112 zero up to 4092, checksum u32
type header struct {
	cluster  [16]byte
	node     uint64
	sequence uint64 // 1, 2, 3 ...; also the file name
	base     uint64 // last index in the log when the segment began
	oldest   uint64 // lowest sequence that was part of the log then
	salt     uint64 // random, not zero
	size     uint64 // of the file, bytes
	// Of the previous segment, all zero in the first one ever.
	prevSalt uint64
	prevEnd  uint64
	prevCRC  uint32
	// Number of the first batch: that of the seal before, plus one.
	first uint64
}

const magic = "HFWALSEG"

// encode returns the block and its checksum.
func (h *header) encode() ([]byte, uint32) {
	b := make([]byte, headerBytes)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint16(b[8:], version)
	le.PutUint32(b[12:], headerBytes)
	copy(b[16:32], h.cluster[:])
	le.PutUint64(b[32:], h.node)
	le.PutUint64(b[40:], h.sequence)
	le.PutUint64(b[48:], h.base)
	le.PutUint64(b[56:], h.oldest)
	le.PutUint64(b[64:], h.salt)
	le.PutUint64(b[72:], h.size)
	le.PutUint64(b[80:], h.prevSalt)
	le.PutUint64(b[88:], h.prevEnd)
	le.PutUint32(b[96:], h.prevCRC)
	le.PutUint64(b[104:], h.first)
	crc := checksum(b[:headerBytes-4])
	le.PutUint32(b[headerBytes-4:], crc)
	return b, crc
}

// decodeHeader reads a block of headerBytes. The error says what is wrong.
func decodeHeader(b []byte) (header, uint32, error) {
	var h header
	if len(b) != headerBytes {
		return h, 0, fmt.Errorf("header of %d bytes", len(b))
	}
	le := binary.LittleEndian
	crc := le.Uint32(b[headerBytes-4:])
	if got := checksum(b[:headerBytes-4]); got != crc {
		return h, 0, fmt.Errorf("header checksum %08x, computed %08x", crc, got)
	}
	if string(b[:8]) != magic {
		return h, 0, fmt.Errorf("magic %q", b[:8])
	}
	if v := le.Uint16(b[8:]); v != version {
		return h, 0, fmt.Errorf("format version %d, this program knows %d", v, version)
	}
	copy(h.cluster[:], b[16:32])
	h.node = le.Uint64(b[32:])
	h.sequence = le.Uint64(b[40:])
	h.base = le.Uint64(b[48:])
	h.oldest = le.Uint64(b[56:])
	h.salt = le.Uint64(b[64:])
	h.size = le.Uint64(b[72:])
	h.prevSalt = le.Uint64(b[80:])
	h.prevEnd = le.Uint64(b[88:])
	h.prevCRC = le.Uint32(b[96:])
	h.first = le.Uint64(b[104:])
	return h, crc, h.check(b)
}

// check refuses a header that no writer makes, its checksum being right.
func (h *header) check(b []byte) error {
	want, _ := h.encode()
	switch {
	case string(want) != string(b):
		return errors.New("reserved bytes of the header are not zero")
	case h.size < minSegmentBytes || h.size > maxSegmentBytes || h.size%blockBytes != 0:
		return fmt.Errorf("header says %d file bytes", h.size)
	case h.sequence == 0 || h.oldest == 0 || h.oldest > h.sequence:
		return fmt.Errorf("header says sequence %d, oldest %d", h.sequence, h.oldest)
	case h.salt == 0 || h.first == 0:
		return fmt.Errorf("header says salt %d, first batch %d", h.salt, h.first)
	}
	return nil
}

// frame heads a batch or a record. The checksum covers the frame and its
// position, so a frame copied elsewhere (by a payload that holds a log) is none.
//
//	0 checksum u32    8 type u8   16 salt     40 synced: bytes of this segment
//	4 length u32      9 zero      24 index       that were durable before this
//	                 12 payload   32 term        frame was written
//	                    checksum
//
// In the frame of a batch, length counts the data bytes of its records, the
// payload checksum covers the rest of the batch with its padding, index is the
// number of the batch, and term holds the checksum of the batch frame before
// (low half; of the segment header for the first) and the number of records
// (high half).
type frame struct {
	length     uint32
	typ        uint8
	payloadCRC uint32
	salt       uint64
	index      uint64
	term       uint64
	synced     uint64
}

const frameSaltOffset = 16 // where evidence looks for the salt

// encode writes the frame at position (see position) and returns its checksum.
func (f *frame) encode(b []byte, position uint64) uint32 {
	le := binary.LittleEndian
	b = b[:frameBytes]
	le.PutUint32(b[4:], f.length)
	le.PutUint32(b[8:], uint32(f.typ))
	le.PutUint32(b[12:], f.payloadCRC)
	le.PutUint64(b[16:], f.salt)
	le.PutUint64(b[24:], f.index)
	le.PutUint64(b[32:], f.term)
	le.PutUint64(b[40:], f.synced)
	crc := frameChecksum(b, position)
	le.PutUint32(b, crc)
	return crc
}

// decodeFrame returns the frame at the start of b and its checksum, and false
// when that is wrong.
func decodeFrame(b []byte, position uint64) (frame, uint32, bool) {
	if len(b) < frameBytes {
		return frame{}, 0, false
	}
	le := binary.LittleEndian
	crc := le.Uint32(b)
	if crc != frameChecksum(b[:frameBytes], position) {
		return frame{}, crc, false
	}
	return frame{
		length:     le.Uint32(b[4:]),
		typ:        b[8],
		payloadCRC: le.Uint32(b[12:]),
		salt:       le.Uint64(b[16:]),
		index:      le.Uint64(b[24:]),
		term:       le.Uint64(b[32:]),
		synced:     le.Uint64(b[40:]),
	}, crc, b[9]|b[10]|b[11] == 0
}

func frameChecksum(b []byte, position uint64) uint32 {
	return addWord(checksum(b[4:frameBytes]), position)
}

// position counts the data bytes of a segment, tags left out, up to the block at
// a file offset.
func position(offset int64) uint64 {
	return uint64((offset - headerBytes) / blockBytes * blockData)
}

// tagOf is the tag of a batch in a segment (PROTOCOL F3). Two batches of one
// segment never share a tag: numbers that differ in their low 32 bits only have
// different checksums. Zero is left to sectors never written.
func tagOf(salt, number uint64) uint32 {
	return max(addWord(addWord(0, salt), number), 1)
}

// recordSize is the number of data bytes that a record takes.
func recordSize(payload int) int64 {
	return frameBytes + (int64(payload)+alignBytes-1)/alignBytes*alignBytes
}

// batchSize is the number of file bytes of a batch with so many data bytes of
// records.
func batchSize(records int64) int64 {
	blocks := (frameBytes + records + blockData - 1) / blockData
	return blocks * blockBytes
}

// maxPayloadFor is the largest payload that fits a segment of its own.
func maxPayloadFor(segmentBytes int64) int64 {
	data := (segmentBytes - headerBytes - sealBytes) / blockBytes * blockData
	return data - 2*frameBytes
}

func segmentName(sequence uint64) string {
	return fmt.Sprintf("%016x%s", sequence, segmentSuffix)
}

// parseSegmentName returns false for a file that is no segment.
func parseSegmentName(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	sequence, err := strconv.ParseUint(hex, 16, 64)
	return sequence, err == nil && sequence > 0 && segmentName(sequence) == name
}
