package wal

import (
	"encoding/binary"
	"unsafe"

	"github.com/holdfast-ha/holdfast/internal/invariant"
	"github.com/holdfast-ha/holdfast/internal/vfs"
)

// Record is one record of the log.
type Record struct {
	// Type is the caller's, 1 to MaxType. Replay gives TypeTruncate too.
	Type uint8
	// Index orders entries; 0 for a record that is none, such as a hard state.
	Index uint64
	// Term is stored beside the index and survives a damaged payload.
	Term uint64
	// Payload is opaque, 0 to Options.MaxPayload bytes.
	Payload []byte
}

// place says where and after what a batch is written.
type place struct {
	salt   uint64
	number uint64 // of the batch
	offset int64  // in the file, a multiple of blockBytes
	synced int64  // offset up to which the segment was durable
	prev   uint32 // checksum of the batch frame before, or of the segment header
}

// encoder turns records into the bytes of a batch. Its buffers are used again.
type encoder struct {
	data []byte // without tags
	out  []byte // with tags, and room to align them
}

// keepBytes is the largest buffer that an encoder keeps.
const keepBytes = 4 << 20

// encode returns the bytes of a batch, valid until the next call, and the
// checksum of its frame.
func (e *encoder) encode(records []Record, at place) ([]byte, uint32) {
	length := int64(0)
	for i := range records {
		length += recordSize(len(records[i].Payload))
	}
	size := batchSize(length)
	invariant.Check(len(records) > 0 && at.offset%blockBytes == 0 && at.synced <= at.offset,
		"batch of %d records at offset %d, synced up to %d", len(records), at.offset, at.synced)
	data := size / blockBytes * blockData
	e.data = reuse(e.data, data)
	e.out = reuse(e.out, size+vfs.DirectBytes)
	out := aligned(e.out)[:size]

	pos := int64(frameBytes)
	base := position(at.offset)
	for i := range records {
		r := &records[i]
		f := frame{
			length: uint32(len(r.Payload)), typ: r.Type, payloadCRC: checksum(r.Payload),
			salt: at.salt, index: r.Index, term: r.Term, synced: uint64(at.synced),
		}
		f.encode(e.data[pos:], base+uint64(pos))
		copy(e.data[pos+frameBytes:], r.Payload)
		pos += recordSize(len(r.Payload))
	}
	head := frame{
		length: uint32(length), typ: TypeBatch, payloadCRC: checksum(e.data[frameBytes:]),
		salt: at.salt, index: at.number, synced: uint64(at.synced),
		term: uint64(at.prev) | uint64(len(records))<<32,
	}
	crc := head.encode(e.data, base)
	stripe(out, e.data, tagOf(at.salt, at.number))
	return out, crc
}

// aligned returns b from the first place on that a direct write may begin at.
func aligned(b []byte) []byte {
	past := uintptr(unsafe.Pointer(unsafe.SliceData(b))) % vfs.DirectBytes
	return b[(vfs.DirectBytes-past)%vfs.DirectBytes:]
}

// reuse returns a zeroed slice of n bytes, b if it is large enough.
func reuse(b []byte, n int64) []byte {
	if int64(cap(b)) < n || cap(b) > keepBytes {
		return make([]byte, n)
	}
	b = b[:n]
	clear(b)
	return b
}

// stripe copies data into sectors and tags each.
func stripe(out, data []byte, tag uint32) {
	for len(data) > 0 {
		copy(out[:sectorData], data)
		binary.LittleEndian.PutUint32(out[sectorData:], tag)
		out, data = out[sectorBytes:], data[sectorData:]
	}
}

// unstripe returns the data of whole sectors.
func unstripe(b []byte) []byte {
	data := make([]byte, 0, len(b)/sectorBytes*sectorData)
	for ; len(b) > 0; b = b[sectorBytes:] {
		data = append(data, b[:sectorData]...)
	}
	return data
}

// sectorTag returns the tag of the sector at offset.
func sectorTag(b []byte, offset int64) uint32 {
	return binary.LittleEndian.Uint32(b[offset+sectorData:])
}
